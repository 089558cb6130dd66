/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names and attributes: each handler starts one client call, its callback replies. Permission checks are the
 * kernel's (default_permissions).
 */
#include "fuse/fuse_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

static void reply_status(void *arg, int status)
{
    struct fop *op = arg;

    fuse_reply_err(op->req, tc_error_to_errno(status));
    fop_end(op);
}

/* An entry with a reference counted by the kernel: given back if the reply does not arrive. @cacheable: its attributes. */
static void answer_entry(struct fop *op, int status, const struct tc_entry *e, bool cacheable)
{
    struct tc_mount *m = op->m;
    struct fuse_entry_param ep = {0};

    if (status == -TC_E_NOENT && e && e->ino == 0 && e->entry_until > env_now(m->env)) {
        ep.entry_timeout = mount_timeout(m, e->entry_until); /* a negative entry that may be cached */
        fuse_reply_entry(op->req, &ep);
    } else if (status < 0) {
        fuse_reply_err(op->req, walk_errno(op, status));
    } else {
        mount_entry(m, e, &ep);
        if (!cacheable)
            ep.attr_timeout = 0.0;
        if (fuse_reply_entry(op->req, &ep) != 0)
            tc_forget(m->client, e->ino, 1);
    }
    fop_end(op);
}

static void reply_entry(void *arg, int status, const struct tc_entry *e)
{
    answer_entry(arg, status, e, true);
}

/* Of an inode that the kernel may know: it takes the attributes of this answer whatever it was told meanwhile, so they
 * may not last. */
static void reply_link(void *arg, int status, const struct tc_entry *e)
{
    answer_entry(arg, status, e, false);
}

static void answer_attr(struct fop *op, int status, const struct tc_entry *e, bool cacheable)
{
    struct stat st;

    if (status < 0) {
        fuse_reply_err(op->req, walk_errno(op, status));
    } else {
        mount_attr(op->m, &e->attr, &st);
        fuse_reply_attr(op->req, &st, cacheable ? mount_timeout(op->m, e->attr_until) : 0.0);
    }
    fop_end(op);
}

static void reply_attr(void *arg, int status, const struct tc_entry *e)
{
    answer_attr(arg, status, e, true);
}

/* Here it does the same. */
static void reply_setattr(void *arg, int status, const struct tc_entry *e)
{
    answer_attr(arg, status, e, false);
}

static struct tc_cred cred_of(fuse_req_t req)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);

    return (struct tc_cred){.uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask};
}

static void reply_lookup(void *arg, int status, const struct tc_entry *e)
{
    struct fop *op = arg;
    int err = walk_step(op, status, e);

    if (err == 0) {
        reply_entry(op, status, e);
        return;
    }
    tc_forget(op->m->client, e->ino, 1);
    fuse_reply_err(op->req, err);
    fop_end(op);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fop *op;

    if (strlen(name) > NAME_MAX) { /* "not there" would be no lie, but is not what is said elsewhere */
        fuse_reply_err(req, ENAMETOOLONG);
        return;
    }
    op = fop_new(req, parent);
    walk_name(op, name);
    op->call = tc_lookup(op->m->client, op->ino, name, reply_lookup, op);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
    struct tc_mount *m = mount_of(req);

    tc_forget(m->client, ino_of(m, ino), n);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    struct tc_mount *m = mount_of(req);

    for (size_t i = 0; i < count; i++)
        tc_forget(m->client, ino_of(m, forgets[i].ino), forgets[i].nlookup);
    fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi TC_UNUSED)
{
    struct fop *op = fop_new(req, ino);

    op->kind = FOP_GETATTR;
    attr_begin(op);
    op->call = tc_getattr(op->m->client, op->ino, reply_attr, op);
}

/* Kept are nanoseconds from 1970 to 2554: what lies outside becomes the nearest, as on other filesystems. */
static uint64_t to_ns(struct timespec ts)
{
    if (ts.tv_sec < 0)
        return 0;
    if ((uint64_t)ts.tv_sec >= UINT64_MAX / NS_PER_S)
        return UINT64_MAX / NS_PER_S * NS_PER_S;
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* FATTR_KILL_SUIDGID, which libfuse does not pass on. */
static bool raw_setattr_kill(const struct tc_mount *m)
{
    struct fuse_setattr_in in;

    if (!m->request || m->request->len < sizeof(struct fuse_in_header) + sizeof(in))
        return false;
    memcpy(&in, m->request->data + sizeof(struct fuse_in_header), sizeof(in));
    return in.valid & FATTR_KILL_SUIDGID;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
                       struct fuse_file_info *fi TC_UNUSED)
{
    static const struct {
        int fuse;
        uint32_t ours;
    } masks[] = {
        {FUSE_SET_ATTR_MODE, SET_MODE},   {FUSE_SET_ATTR_UID, SET_UID},
        {FUSE_SET_ATTR_GID, SET_GID},     {FUSE_SET_ATTR_SIZE, SET_SIZE},
        {FUSE_SET_ATTR_ATIME, SET_ATIME}, {FUSE_SET_ATTR_ATIME_NOW, SET_ATIME_NOW},
        {FUSE_SET_ATTR_MTIME, SET_MTIME}, {FUSE_SET_ATTR_MTIME_NOW, SET_MTIME_NOW},
    };
    struct fop *op = fop_new(req, ino);
    struct setattr_req set = {.ino = op->ino,
                              .mode = st->st_mode,
                              .uid = st->st_uid,
                              .gid = st->st_gid,
                              .size = (uint64_t)st->st_size,
                              .atime = to_ns(st->st_atim),
                              .mtime = to_ns(st->st_mtim)};

    for (size_t i = 0; i < ARRAY_SIZE(masks); i++)
        set.mask |= (to_set & masks[i].fuse) ? masks[i].ours : 0;
    if (set.mask & SET_ATIME_NOW)
        set.mask &= ~(uint32_t)SET_ATIME;
    if (set.mask & SET_MTIME_NOW)
        set.mask &= ~(uint32_t)SET_MTIME;
    if (raw_setattr_kill(op->m))
        set.mask |= SET_KILL_PRIV;
    if (set.mask == 0) /* only ctime: nothing of it is the caller's to set */
        op->call = tc_getattr(op->m->client, op->ino, reply_setattr, op);
    else
        op->call = tc_setattr(op->m->client, &set, reply_setattr, op);
}

static void reply_link_target(void *arg, int status, const void *data, size_t len)
{
    struct fop *op = arg;
    struct iovec iov = {(void *)(uintptr_t)data, len};

    if (status < 0)
        fuse_reply_err(op->req, tc_error_to_errno(status));
    else
        fuse_reply_iov(op->req, &iov, 1);
    fop_end(op);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct fop *op = fop_new(req, ino);

    op->call = tc_readlink(op->m->client, op->ino, reply_link_target, op);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev, const char *target)
{
    struct fop *op = fop_new(req, parent);
    struct tc_cred cred = cred_of(req);

    op->call = tc_make(op->m->client, op->ino, name, mode, rdev, target, &cred, true, false, reply_entry, op);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    make(req, parent, name, (mode & S_IFMT) ? mode : mode | S_IFREG, rdev, NULL);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make(req, parent, name, (mode & ~(mode_t)S_IFMT) | S_IFDIR, 0, NULL);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    make(req, parent, name, S_IFLNK | 0777, 0, target);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fop *op = fop_new(req, parent);

    op->call = tc_unlink(op->m->client, op->ino, name, false, reply_status, op);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fop *op = fop_new(req, parent);

    op->call = tc_unlink(op->m->client, op->ino, name, true, reply_status, op);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    struct fop *op;

    if (flags & ~3u) { /* RENAME_NOREPLACE 1, RENAME_EXCHANGE 2: as on the wire */
        fuse_reply_err(req, EINVAL);
        return;
    }
    op = fop_new(req, parent);
    walk_over(op);
    op->call = tc_rename(op->m->client, op->ino, name, ino_of(op->m, new_parent), new_name, flags, reply_status, op);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct fop *op = fop_new(req, ino);

    op->call = tc_link(op->m->client, op->ino, ino_of(op->m, parent), name, reply_link, op);
}

/* ---- directories: offsets are the client's cookies; "." and ".." come from it, too ---- */

struct dir_fill {
    struct fop *op;
    char *buf;
    size_t used;
};

static bool fill(struct dir_fill *d, const char *name, uint64_t ino, uint32_t mode, uint64_t next,
                 const struct tc_entry *e)
{
    struct fop *op = d->op;
    struct fuse_entry_param ep = {0};
    size_t need;

    if (!op->plus) {
        struct stat st = {.st_ino = ino, .st_mode = mode};

        need = fuse_add_direntry(op->req, d->buf + d->used, op->size - d->used, name, &st, (off_t)next);
    } else {
        if (e) {
            mount_entry(op->m, e, &ep);
        } else {
            ep.attr.st_ino = ino; /* node id 0: the kernel looks it up when it needs to */
            ep.attr.st_mode = mode;
        }
        need = fuse_add_direntry_plus(op->req, d->buf + d->used, op->size - d->used, name, &ep, (off_t)next);
    }
    if (need > op->size - d->used)
        return false;
    d->used += need;
    return true;
}

static void reply_dir(void *arg, int status, const struct tc_dirent *entries, unsigned n, bool eof TC_UNUSED)
{
    struct fop *op = arg;
    struct tc_mount *m = op->m;
    struct dir_fill d = {.op = op};
    char name[256];
    unsigned fitted = 0;
    bool room = true;

    if (status < 0) {
        fuse_reply_err(op->req, tc_error_to_errno(status));
        fop_end(op);
        return;
    }
    d.buf = tc_malloc(op->size);
    for (unsigned i = 0; i < n; i++) {
        const struct tc_dirent *de = &entries[i];

        if (room) {
            ASSERT(de->name.n < sizeof(name));
            memcpy(name, de->name.p, de->name.n);
            name[de->name.n] = 0;
            room = fill(&d, name, de->ino, de->mode, de->cookie, de->entry);
            fitted += room;
        }
        if (!room && de->entry && op->plus)
            tc_forget(m->client, de->ino, 1); /* counted, but it did not fit */
    }
    if (fuse_reply_buf(op->req, d.buf, d.used) != 0 && op->plus) {
        for (unsigned i = 0; i < fitted; i++) {
            if (entries[i].entry)
                tc_forget(m->client, entries[i].ino, 1); /* the reader is gone */
        }
    }
    free(d.buf);
    fop_end(op);
}

static void readdir_common(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
    struct fop *op = fop_new(req, ino);
    unsigned max = (unsigned)(MIN(size, FUSE_IO_MAX) / (plus ? 160 : 32)) + 1;

    op->size = MIN(size, FUSE_IO_MAX);
    op->off = (uint64_t)off;
    op->plus = plus;
    op->call = tc_readdir(op->m->client, op->ino, op->off, max, plus, reply_dir, op);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi TC_UNUSED)
{
    readdir_common(req, ino, size, off, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                           struct fuse_file_info *fi TC_UNUSED)
{
    readdir_common(req, ino, size, off, true);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct tc_mount *m = mount_of(req);

    tc_dir_open(m->client, ino_of(m, ino));
    fi->fh = 0;
    if (fuse_reply_open(req, fi) != 0) /* interrupted: there will be no releasedir */
        tc_dir_close(m->client, ino_of(m, ino));
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi TC_UNUSED)
{
    struct tc_mount *m = mount_of(req);

    tc_dir_close(m->client, ino_of(m, ino));
    fuse_reply_err(req, 0);
}

/* Names are durable when their operation returns (PROTOCOL 9.4). */
static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino TC_UNUSED, int datasync TC_UNUSED,
                        struct fuse_file_info *fi TC_UNUSED)
{
    fuse_reply_err(req, 0);
}

static void reply_statfs(void *arg, int status, const struct statfs_res *res)
{
    struct fop *op = arg;

    if (status < 0) {
        fuse_reply_err(op->req, tc_error_to_errno(status));
    } else {
        struct statvfs st = {.f_bsize = BLOCK_SIZE,
                             .f_frsize = BLOCK_SIZE,
                             .f_blocks = res->bytes_total / BLOCK_SIZE,
                             .f_bfree = res->bytes_free / BLOCK_SIZE,
                             .f_bavail = res->bytes_free / BLOCK_SIZE,
                             .f_files = res->inodes + (1ull << 40), /* no limit: a number df can show */
                             .f_ffree = 1ull << 40,
                             .f_favail = 1ull << 40,
                             .f_namemax = 255};

        fuse_reply_statfs(op->req, &st);
    }
    fop_end(op);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct fop *op = fop_new(req, ino);

    op->call = tc_statfs(op->m->client, reply_statfs, op);
}

/* ---- extended attributes ---- */

static void reply_xattr(void *arg, int status, const void *data, size_t len)
{
    struct fop *op = arg;

    if (status < 0)
        fuse_reply_err(op->req, tc_error_to_errno(status));
    else if (op->size == 0)
        fuse_reply_xattr(op->req, len);
    else if (len > op->size)
        fuse_reply_err(op->req, ERANGE);
    else
        fuse_reply_buf(op->req, data, len);
    fop_end(op);
}

/* `ls -l` asks it of every file, and no more of the mount once it is told that there are no such labels. */
static void reply_label(void *arg, int status, const void *data, size_t len)
{
    reply_xattr(arg, status == -TC_E_NODATA ? -TC_E_OPNOTSUPP : status, data, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct fop *op = fop_new(req, ino);

    op->size = size;
    op->call = tc_getxattr(op->m->client, op->ino, name, strcmp(name, "security.selinux") == 0 ? reply_label : reply_xattr,
                           op);
}

/* xattr(7): names of "trusted." are for root's eyes; others could not read what they list. */
static void reply_list(void *arg, int status, const void *data, size_t len)
{
    struct fop *op = arg;
    const char *names = data;
    char *shown;
    size_t n = 0;

    if (status < 0 || len == 0 || fuse_req_ctx(op->req)->uid == 0) {
        reply_xattr(arg, status, data, len);
        return;
    }
    shown = tc_malloc(len);
    for (size_t at = 0, size; at < len; at += size) {
        size = strnlen(names + at, len - at - 1) + 1;
        if (strncmp(names + at, "trusted.", 8) != 0) {
            memcpy(shown + n, names + at, size);
            n += size;
        }
    }
    reply_xattr(arg, status, shown, n);
    free(shown);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct fop *op = fop_new(req, ino);

    op->size = size;
    op->call = tc_listxattr(op->m->client, op->ino, reply_list, op);
}

static bool is_acl(const char *name)
{
    return strcmp(name, "system.posix_acl_access") == 0 || strcmp(name, "system.posix_acl_default") == 0;
}

/* The namespaces of xattr(7), the kernel has checked who may; others are no more known here than anywhere. */
static int xattr_name_errno(const char *name)
{
    static const char *const spaces[] = {"user.", "trusted.", "security."};

    for (size_t n = 0; n < ARRAY_SIZE(spaces); n++) {
        if (strncmp(name, spaces[n], strlen(spaces[n])) == 0)
            return name[strlen(spaces[n])] ? 0 : EINVAL;
    }
    return is_acl(name) ? 0 : EOPNOTSUPP;
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
    int err = xattr_name_errno(name);
    struct fop *op;

    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    op = fop_new(req, ino);
    op->call = tc_setxattr(op->m->client, op->ino, name, value, size, (uint32_t)flags, reply_status, op);
}

/* To remove an ACL that is not there is no error. */
static void reply_removed_acl(void *arg, int status)
{
    reply_status(arg, status == -TC_E_NODATA ? 0 : status);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct fop *op = fop_new(req, ino);

    op->call = tc_removexattr(op->m->client, op->ino, name, is_acl(name) ? reply_removed_acl : reply_status, op);
}

void names_set_ops(struct fuse_lowlevel_ops *ops)
{
    ops->lookup = op_lookup;
    ops->forget = op_forget;
    ops->forget_multi = op_forget_multi;
    ops->getattr = op_getattr;
    ops->setattr = op_setattr;
    ops->readlink = op_readlink;
    ops->mknod = op_mknod;
    ops->mkdir = op_mkdir;
    ops->symlink = op_symlink;
    ops->unlink = op_unlink;
    ops->rmdir = op_rmdir;
    ops->rename = op_rename;
    ops->link = op_link;
    ops->opendir = op_opendir;
    ops->readdir = op_readdir;
    ops->readdirplus = op_readdirplus;
    ops->releasedir = op_releasedir;
    ops->fsyncdir = op_fsyncdir;
    ops->statfs = op_statfs;
    ops->getxattr = op_getxattr;
    ops->listxattr = op_listxattr;
    ops->setxattr = op_setxattr;
    ops->removexattr = op_removexattr;
}
