/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names: make, link, unlink, rename, and the end of inodes without any.
 *
 * Permissions and the sticky bit are the caller's kernel's. A directory's size is its number of
 * entries, its nlink 2 plus its subdirectories; parent of a directory is where its one name is. An
 * inode that lost its last name becomes an orphan and stays complete until REAP: only the leader
 * knows who still has it open.
 */
#include "common/test_rules.h"
#include "meta/fsm_int.h"

static void dir_changed(struct fsm *f, struct inode *dir)
{
    dir->mtime = dir->ctime = f->now;
    inode_touch(f, dir);
}

static void inode_ctime(struct fsm *f, struct inode *in)
{
    in->ctime = MAX(in->ctime, f->now);
    inode_touch(f, in);
}

/* One name less. */
static void inode_unlinked(struct fsm *f, struct inode *in)
{
    ASSERT(in->nlink > 0);
    in->nlink = S_ISDIR(in->mode) ? 0 : in->nlink - 1;
    inode_ctime(f, in);
    if (in->nlink == 0) {
        row_put(f, key_u64(TAB_ORPHAN, in->ino), "", 0);
        effect_add(f, FSM_ORPHANED, in->ino, 0);
    }
}

static void answer_names(struct fsm *f, uint64_t session, const struct inode *in,
                         const struct inode *dir, const struct inode *dir2,
                         const struct inode *replaced, struct entry_res *res)
{
    if (in) {
        res->has_attr = true;
        attr_fill(f, session, in, &f->arena, &res->attr);
    }
    if (dir) {
        res->has_dir = true;
        res->change = dir->change;
        attr_fill(f, session, dir, &f->arena, &res->dir);
    }
    if (dir2) {
        res->has_dir2 = true;
        attr_fill(f, session, dir2, &f->arena, &res->dir2);
    }
    if (replaced) {
        res->has_replaced = true;
        attr_fill(f, session, replaced, &f->arena, &res->replaced);
    }
    res->replica_time = f->now;
    answer(f, &entry_res_schema, res);
}

/* ---- make ------------------------------------------------------------------------------------ */

static int make_check(const struct make_req *req)
{
    switch (req->mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK:
        break;
    case S_IFLNK:
        if (req->target.n > FSM_SYMLINK_MAX)
            return -TC_E_NAMETOOLONG;
        if (req->target.n == 0 || memchr(req->target.p, 0, req->target.n))
            return -TC_E_INVAL;
        break;
    default:
        return -TC_E_INVAL;
    }
    return name_check(req->name);
}

/* Mode and ACLs of a new inode from the directory's default ACL; false if it has none. */
static bool make_inherit(struct fsm *f, const struct inode *dir, struct inode *in)
{
    struct wire_str name = wire_str_of(ACL_DEFAULT);
    struct kv_value v = {0};
    uint32_t mode = in->mode;
    uint8_t *acl;

    if (dir->xattrs == 0 || S_ISLNK(in->mode) || row_get(f, key_xattr(dir->ino, name), &v) < 0)
        return false;
    if (S_ISDIR(in->mode))
        xattr_set(f, in, name, (struct wire_bin){v.data, (uint32_t)v.len}, false, 0);
    acl = tc_malloc(v.len);
    memcpy(acl, v.data, v.len);
    if (acl_inherit(acl, v.len, &mode))
        xattr_set(f, in, wire_str_of(ACL_ACCESS), (struct wire_bin){acl, (uint32_t)v.len}, false,
                  0);
    in->mode = mode;
    free(acl);
    kv_value_free(&v);
    return true;
}

static struct inode *make_inode(struct fsm *f, const struct make_req *req, const struct inode *dir)
{
    struct inode *in;
    uint64_t ino = INO_ROOT + 1;

    while (!TC_RULE(IDS_ONCE) && ino < f->next_ino && fsm_inode_get(f, ino))
        ino++;
    in = inode_new(f, TC_RULE(IDS_ONCE) || ino == f->next_ino ? f->next_ino++ : ino);
    in->epoch = f->epoch_floor; /* 0, but after a dump was loaded */

    in->mode = req->mode & (S_IFMT | 07777);
    in->uid = req->uid;
    in->gid = req->gid;
    if (dir->mode & S_ISGID) {
        in->gid = dir->gid;
        if (S_ISDIR(in->mode))
            in->mode |= S_ISGID;
    }
    if (S_ISLNK(in->mode)) {
        in->mode = S_IFLNK | 0777;
        in->size = req->target.n;
        row_put(f, key_u64(TAB_TARGET, in->ino), req->target.p, req->target.n);
    } else if (!make_inherit(f, dir, in)) {
        in->mode &= ~(req->umask & 0777);
    }
    if (S_ISCHR(in->mode) || S_ISBLK(in->mode))
        in->rdev = req->rdev;
    if (S_ISDIR(in->mode))
        in->parent = dir->ino;
    in->nlink = S_ISDIR(in->mode) ? 2 : 1;
    in->atime = in->mtime = in->ctime = in->btime = f->now;
    in->clean = true;
    in->change = f->index;
    f->n_inodes++;
    return in;
}

int op_make(struct fsm *f, const struct make_req *req)
{
    struct entry_res res = {0};
    struct inode *dir, *in;
    struct dslot slot;
    int r;

    r = make_check(req);
    if (r < 0)
        return r;
    r = dir_get(f, req->parent, &dir);
    if (r < 0)
        return r;
    r = dslot_find(f, dir->ino, req->name, &slot);
    if (r < 0)
        return r;
    if (slot.found) {
        if (req->excl || !S_ISREG(req->mode))
            return -TC_E_EXIST;
        in = fsm_inode_get(f, slot.ino);
        if (!in)
            return -TC_E_DAMAGED;
        res.existed = true;
        answer_names(f, req->ctx.session, in, dir, NULL, NULL, &res);
        return 0;
    }
    if (S_ISDIR(req->mode) && dir->nlink >= FSM_NLINK_MAX)
        return -TC_E_MLINK;
    in = make_inode(f, req, dir);
    dslot_put(f, dir->ino, slot.cookie, req->name, in->ino, in->mode);
    dir->size++;
    if (S_ISDIR(in->mode))
        dir->nlink++;
    dir_changed(f, dir);
    if (S_ISREG(in->mode) && (req->want & LEASE_X)) {
        lease_grant(f, in, req->ctx.session);
        res.has_grant = true;
        lease_to_grant(f, in, &res.grant);
    }
    answer_names(f, req->ctx.session, in, dir, NULL, NULL, &res);
    return 0;
}

/* ---- link, unlink ---------------------------------------------------------------------------- */

int op_link(struct fsm *f, const struct link_req *req)
{
    struct entry_res res = {0};
    struct inode *dir, *in;
    struct dslot slot;
    int r;

    r = name_check(req->name);
    if (r < 0)
        return r;
    r = dir_get(f, req->parent, &dir);
    if (r < 0)
        return r;
    in = fsm_inode_get(f, req->ino);
    if (!in)
        return -TC_E_STALE;
    if (S_ISDIR(in->mode))
        return -TC_E_PERM;
    r = dslot_find(f, dir->ino, req->name, &slot);
    if (r < 0)
        return r;
    if (slot.found)
        return -TC_E_EXIST;
    if (in->nlink == 0)
        return -TC_E_NOENT;
    if (in->nlink >= FSM_NLINK_MAX)
        return -TC_E_MLINK;
    dslot_put(f, dir->ino, slot.cookie, req->name, in->ino, in->mode);
    in->nlink++;
    inode_ctime(f, in);
    dir->size++;
    dir_changed(f, dir);
    answer_names(f, req->ctx.session, in, dir, NULL, NULL, &res);
    return 0;
}

int op_unlink(struct fsm *f, const struct unlink_req *req)
{
    struct entry_res res = {0};
    struct inode *dir, *in;
    struct dslot slot;
    int r;

    r = name_check(req->name);
    if (r < 0)
        return r;
    r = dir_get(f, req->parent, &dir);
    if (r < 0)
        return r;
    r = dslot_find(f, dir->ino, req->name, &slot);
    if (r < 0)
        return r;
    if (!slot.found)
        return -TC_E_NOENT;
    in = fsm_inode_get(f, slot.ino);
    if (!in)
        return -TC_E_DAMAGED;
    if (req->dir && !S_ISDIR(in->mode))
        return -TC_E_NOTDIR;
    if (!req->dir && S_ISDIR(in->mode))
        return -TC_E_ISDIR;
    if (req->dir && in->size > 0)
        return -TC_E_NOTEMPTY;
    dslot_del(f, dir->ino, slot.cookie, 0);
    dir->size--;
    if (S_ISDIR(in->mode))
        dir->nlink--;
    dir_changed(f, dir);
    inode_unlinked(f, in);
    answer_names(f, req->ctx.session, NULL, dir, NULL, in, &res);
    return 0;
}

/* ---- rename ---------------------------------------------------------------------------------- */

enum { RENAME_FLAG_NOREPLACE = 1, RENAME_FLAG_EXCHANGE = 2 };

struct rename_op {
    const struct rename_req *req;
    struct inode *dir, *dir2; /* may be the same */
    struct dslot from, to;
    struct inode *in;
    struct inode *old; /* what the new name was, or NULL */
};

/* Is @ino the directory @dir, or above it? INVAL then. */
static int check_loop(struct fsm *f, uint64_t ino, const struct inode *dir)
{
    while (dir->ino != INO_ROOT) {
        if (dir->ino == ino)
            return -TC_E_INVAL;
        dir = fsm_inode_get(f, dir->parent);
        if (!dir)
            return -TC_E_DAMAGED;
    }
    return 0;
}

static int rename_check_replace(const struct rename_op *op)
{
    if (op->req->flags & RENAME_FLAG_NOREPLACE)
        return -TC_E_EXIST;
    if (S_ISDIR(op->in->mode) && !S_ISDIR(op->old->mode))
        return -TC_E_NOTDIR;
    if (!S_ISDIR(op->in->mode) && S_ISDIR(op->old->mode))
        return -TC_E_ISDIR;
    if (S_ISDIR(op->old->mode) && op->old->size > 0)
        return -TC_E_NOTEMPTY;
    return 0;
}

static int rename_find(struct fsm *f, struct rename_op *op)
{
    const struct rename_req *req = op->req;
    int r;

    if (req->flags > RENAME_FLAG_EXCHANGE)
        return -TC_E_INVAL;
    r = name_check(req->name);
    if (r == 0)
        r = name_check(req->new_name);
    if (r == 0)
        r = dir_get(f, req->parent, &op->dir);
    if (r == 0)
        r = dir_get(f, req->new_parent, &op->dir2);
    if (r == 0)
        r = dslot_find(f, req->parent, req->name, &op->from);
    if (r == 0)
        r = dslot_find(f, req->new_parent, req->new_name, &op->to);
    if (r < 0)
        return r;
    if (!op->from.found)
        return -TC_E_NOENT;
    op->in = fsm_inode_get(f, op->from.ino);
    op->old = op->to.found ? fsm_inode_get(f, op->to.ino) : NULL;
    if (!op->in || (op->to.found && !op->old))
        return -TC_E_DAMAGED;
    return 0;
}

static int rename_check(struct fsm *f, const struct rename_op *op)
{
    bool exchange = op->req->flags & RENAME_FLAG_EXCHANGE;
    int r = 0;

    if (exchange && !op->old)
        return -TC_E_NOENT;
    if (op->old && !exchange && op->old != op->in)
        r = rename_check_replace(op);
    else if (op->old && (op->req->flags & RENAME_FLAG_NOREPLACE))
        r = -TC_E_EXIST;
    /* A loop is told before what the target is, as local filesystems do. */
    if (op->dir != op->dir2 && S_ISDIR(op->in->mode) && check_loop(f, op->in->ino, op->dir2) < 0)
        return -TC_E_INVAL;
    if (r < 0)
        return r;
    if (exchange && op->dir != op->dir2 && S_ISDIR(op->old->mode))
        r = check_loop(f, op->old->ino, op->dir);
    if (r == 0 && op->dir != op->dir2 && S_ISDIR(op->in->mode) && op->dir2->nlink >= FSM_NLINK_MAX)
        r = -TC_E_MLINK;
    return r;
}

/* A directory's name moved from @from to @to. */
static void rename_parent(struct fsm *f, struct inode *in, struct inode *from, struct inode *to)
{
    if (!S_ISDIR(in->mode) || from == to)
        return;
    in->parent = to->ino;
    from->nlink--;
    to->nlink++;
    inode_touch(f, in);
}

int op_rename(struct fsm *f, const struct rename_req *req)
{
    struct rename_op op = {.req = req};
    struct entry_res res = {0};
    bool exchange = req->flags & RENAME_FLAG_EXCHANGE;
    int r;

    r = rename_find(f, &op);
    if (r == 0)
        r = rename_check(f, &op);
    if (r < 0)
        return r;
    if (op.old == op.in) { /* two names of one inode: nothing happens */
        answer_names(f, req->ctx.session, op.in, op.dir, op.dir != op.dir2 ? op.dir2 : NULL, NULL,
                     &res);
        return 0;
    }
    dslot_put(f, op.dir2->ino, op.to.cookie, req->new_name, op.in->ino, op.in->mode);
    if (exchange) {
        dslot_put(f, op.dir->ino, op.from.cookie, req->name, op.old->ino, op.old->mode);
        rename_parent(f, op.old, op.dir2, op.dir);
        inode_ctime(f, op.old);
    } else {
        dslot_del(f, op.dir->ino, op.from.cookie, op.dir == op.dir2 ? op.to.cookie : 0);
        op.dir->size--;
        if (!op.old)
            op.dir2->size++;
    }
    rename_parent(f, op.in, op.dir, op.dir2);
    inode_ctime(f, op.in);
    if (op.old && !exchange) {
        if (S_ISDIR(op.old->mode))
            op.dir2->nlink--;
        inode_unlinked(f, op.old);
    }
    dir_changed(f, op.dir);
    dir_changed(f, op.dir2);
    answer_names(f, req->ctx.session, op.in, op.dir, op.dir != op.dir2 ? op.dir2 : NULL, op.old,
                 &res);
    return 0;
}

/* ---- reap ------------------------------------------------------------------------------------ */

static void reap_rows(struct fsm *f, struct inode *in)
{
    struct row_bounds bounds;
    struct kv_iter *it;

    if (in->xattrs) {
        it = row_iter(f, &bounds, key_u64(TAB_XATTR, in->ino), key_u64(TAB_XATTR, in->ino + 1));
        for (; kv_iter_valid(it); kv_iter_next(it))
            kv_batch_del(f->batch, kv_iter_key(it));
        row_iter_end(f, it);
    }
    if (S_ISDIR(in->mode)) { /* marks of removed slots */
        it = row_iter(f, &bounds, key_u64(TAB_DENTRY, in->ino), key_u64(TAB_DENTRY, in->ino + 1));
        for (; kv_iter_valid(it); kv_iter_next(it))
            kv_batch_del(f->batch, kv_iter_key(it));
        row_iter_end(f, it);
    }
    if (S_ISLNK(in->mode))
        row_del(f, key_u64(TAB_TARGET, in->ino));
    if (in->unclean_from)
        row_del(f, key_u64(TAB_UNCLEAN, in->ino));
    row_del_once(f, key_u64(TAB_ORPHAN, in->ino));
}

int op_reap(struct fsm *f, const struct cmd_reap *cmd)
{
    for (uint32_t i = 0; i < cmd->inos.n; i++) {
        struct inode *in = fsm_inode_get(f, cmd->inos.items[i]);
        uint64_t reach;

        if (!in || in->nlink > 0 || (in->has_lease && !lease_dead(f, in)))
            continue;
        reach = inode_reach(in);
        if (in->has_lease)
            lease_end(f, in);
        if (S_ISREG(in->mode) && reach > 0)
            gc_add(f, in->ino, 0, UINT64_MAX, reach);
        reap_rows(f, in);
        locks_reap(f, in->ino);
        inode_blocks_set(f, in, 0);
        f->n_inodes--;
        inode_remove(f, in);
        effect_add(f, FSM_REAPED, in->ino, 0);
    }
    return 0;
}
