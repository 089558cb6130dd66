/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attributes and extended attributes.
 *
 * All of them may be changed locally by an X holder, so while another session holds X they are
 * refused here (LEASE_CONFLICT: the leader recalls first). Sizes change by the horizon
 * (PROTOCOL 5.1): no data moves.
 */
#include "common/test_rules.h"
#include "meta/fsm_int.h"

static void answer_attr(struct fsm *f, uint64_t session, const struct inode *in, bool granted)
{
    struct entry_res res = {.has_attr = true, .replica_time = f->now};

    attr_fill(f, session, in, &f->arena, &res.attr);
    if (granted) {
        res.has_grant = true;
        lease_to_grant(f, in, &res.grant);
    }
    effect_add(f, FSM_ATTR_CHANGED, in->ino, session);
    answer(f, &entry_res_schema, &res);
}

/* What every change of attributes needs. */
static int attr_begin(struct fsm *f, uint64_t ino, uint64_t session, struct inode **ret)
{
    struct inode *in = fsm_inode_get(f, ino);

    if (!in)
        return -TC_E_STALE;
    *ret = in;
    return lease_check(f, in, session);
}

/* ---- setattr --------------------------------------------------------------------------------- */

static int check_size(const struct inode *in, const struct setattr_req *req)
{
    if (S_ISDIR(in->mode))
        return -TC_E_ISDIR;
    if (!S_ISREG(in->mode))
        return -TC_E_INVAL;
    if (req->size > FSM_SIZE_MAX || req->size_max > FSM_SIZE_MAX)
        return -TC_E_FBIG;
    if (req->size < MAX(in->since, req->size_max) &&
        horizon_after(in, req->size) >= HORIZON_MAX - (TC_RULE(HORIZON_MAX16) ? 1 : 0))
        return -TC_E_LIMIT; /* the holder rewrites behind an older entry first */
    return 0;
}

static void set_size(struct fsm *f, struct inode *in, const struct setattr_req *req)
{
    uint64_t session = req->ctx.session;
    uint64_t blocks = (req->size + BLOCK_SIZE - 1) / BLOCK_SIZE;
    bool own = lease_own(f, in, session);

    in->since = MAX(MAX(in->since, in->size), req->size_max);
    in->bound = MAX(MAX(in->bound, in->since), req->size);
    in->size = req->size;
    if (own) {
        struct fsm_effect *e = effect_add(f, FSM_X_EPOCH, in->ino, session);

        in->lease.epoch = ++in->epoch;
        e->gterm = in->lease.gterm;
        e->gcount = in->lease.gcount;
        e->epoch = in->epoch;
    } else {
        lease_grant(f, in, session);
    }
    in->lease.reach = MAX(in->lease.reach, in->size);
    if (in->size < in->since && !(f->rules_off & FSM_RULE_HORIZON))
        horizon_add(f, in, in->size, in->epoch);
    in->since = MAX(in->since, in->size);
    if (blocks < in->blocks)
        inode_blocks_set(f, in, blocks);
    in->mtime = f->now;
}

static void set_times(struct fsm *f, struct inode *in, const struct setattr_req *req)
{
    if (req->mask & SET_ATIME)
        in->atime = req->atime;
    if (req->mask & SET_ATIME_NOW)
        in->atime = f->now;
    if (req->mask & SET_MTIME)
        in->mtime = req->mtime;
    if (req->mask & SET_MTIME_NOW)
        in->mtime = f->now;
    if (req->mask & (SET_MTIME | SET_MTIME_NOW)) {
        in->utimes_epoch = in->epoch;
        in->utimes_seq = req->vseq;
    }
}

static void kill_priv(struct inode *in)
{
    in->mode &= ~(uint32_t)S_ISUID;
    if (in->mode & S_IXGRP)
        in->mode &= ~(uint32_t)S_ISGID;
}

/* security.capability goes when a file is written or given away. */
static void kill_caps(struct fsm *f, struct inode *in)
{
    struct key k = key_xattr(in->ino, wire_str_of("security.capability"));
    struct kv_value v = {0};

    if (in->xattrs == 0 || row_get(f, k, &v) < 0)
        return;
    in->xattrs--;
    in->xattr_bytes -= (uint32_t)(strlen("security.capability") + v.len);
    row_del(f, k);
    kv_value_free(&v);
}

static void set_mode(struct fsm *f, struct inode *in, uint32_t mode)
{
    struct key k = key_xattr(in->ino, wire_str_of(ACL_ACCESS));
    struct kv_value v = {0};
    uint8_t *acl;

    in->mode = (in->mode & S_IFMT) | (mode & 07777);
    if (in->xattrs == 0 || row_get(f, k, &v) < 0)
        return;
    acl = tc_malloc(v.len);
    memcpy(acl, v.data, v.len);
    acl_chmod(acl, v.len, mode);
    row_put(f, k, acl, v.len);
    free(acl);
    kv_value_free(&v);
}

int op_setattr(struct fsm *f, const struct setattr_req *req)
{
    struct inode *in;
    bool give = req->mask & (SET_UID | SET_GID);
    int r;

    r = attr_begin(f, req->ino, req->ctx.session, &in);
    if (r == 0 && (req->mask & SET_SIZE))
        r = check_size(in, req);
    if (r == 0 && (req->mask & SET_MODE) && S_ISLNK(in->mode))
        r = -TC_E_OPNOTSUPP;
    if (r < 0)
        return r;
    if (req->mask & SET_SIZE)
        set_size(f, in, req);
    set_times(f, in, req);
    if (req->mask & SET_UID)
        in->uid = req->uid;
    if (req->mask & SET_GID)
        in->gid = req->gid;
    if ((give || (req->mask & SET_KILL_PRIV)) && !S_ISDIR(in->mode)) {
        kill_priv(in);
        kill_caps(f, in);
    }
    if (req->mask & SET_MODE)
        set_mode(f, in, req->mode);
    in->ctime = MAX(in->ctime, f->now);
    inode_touch(f, in);
    answer_attr(f, req->ctx.session, in, req->mask & SET_SIZE);
    return 0;
}

/* ---- extended attributes --------------------------------------------------------------------- */

void xattr_set(struct fsm *f, struct inode *in, struct wire_str name, struct wire_bin value,
               bool had, size_t old_len)
{
    row_put(f, key_xattr(in->ino, name), value.p, value.n);
    if (had)
        in->xattr_bytes -= (uint32_t)old_len;
    else {
        in->xattrs++;
        in->xattr_bytes += name.n;
    }
    in->xattr_bytes += value.n;
    inode_dirty(f, in);
}

static void xattr_drop(struct fsm *f, struct inode *in, struct wire_str name, size_t old_len)
{
    row_del(f, key_xattr(in->ino, name));
    in->xattrs--;
    in->xattr_bytes -= (uint32_t)(name.n + old_len);
    inode_dirty(f, in);
}

static bool name_is(struct wire_str name, const char *s)
{
    return name.n == strlen(s) && !memcmp(name.p, s, name.n);
}

static int xattr_name_check(struct wire_str name)
{
    if (name.n > FSM_XATTR_NAME_MAX)
        return -TC_E_RANGE;
    return name.n == 0 || memchr(name.p, 0, name.n) ? -TC_E_INVAL : 0;
}

/* *ret_had and the length of the value there is. */
static int xattr_find(struct fsm *f, uint64_t ino, struct wire_str name, bool *ret_had,
                      size_t *ret_len)
{
    struct kv_value v = {0};
    int r = row_get(f, key_xattr(ino, name), &v);

    if (r < 0 && r != -TC_E_NOENT)
        return r;
    *ret_had = r == 0;
    *ret_len = r == 0 ? v.len : 0;
    kv_value_free(&v);
    return 0;
}

/* An ACL may be only what the mode says: *ret_drop then. */
static int xattr_acl(struct inode *in, const struct setxattr_req *req, uint32_t *mode,
                     bool *ret_drop)
{
    bool access = name_is(req->name, ACL_ACCESS);

    *mode = in->mode;
    *ret_drop = false;
    if (!access && !name_is(req->name, ACL_DEFAULT))
        return 0;
    if (S_ISLNK(in->mode))
        return -TC_E_OPNOTSUPP;
    if (!access && !S_ISDIR(in->mode))
        return -TC_E_ACCES;
    if (req->value.n <= 4) { /* an empty one removes */
        *ret_drop = true;
        return 0;
    }
    if (acl_check(req->value) < 0)
        return -TC_E_INVAL;
    if (access) {
        *mode = (in->mode & ~0777u) | acl_to_mode(req->value, ret_drop);
        if (req->kill_sgid)
            *mode &= ~(uint32_t)S_ISGID;
    }
    return 0;
}

enum { XATTR_FLAG_CREATE = 1, XATTR_FLAG_REPLACE = 2 };

int op_setxattr(struct fsm *f, const struct setxattr_req *req)
{
    struct inode *in;
    size_t old_len = 0;
    uint32_t mode = 0;
    bool had = false, drop = false;
    int r;

    r = xattr_name_check(req->name);
    if (r < 0)
        return r;
    if (req->value.n > FSM_XATTR_VALUE_MAX)
        return -TC_E_RANGE;
    r = attr_begin(f, req->ino, req->ctx.session, &in);
    if (r == 0)
        r = xattr_acl(in, req, &mode, &drop);
    if (r == 0)
        r = xattr_find(f, req->ino, req->name, &had, &old_len);
    if (r < 0)
        return r;
    if ((req->flags & XATTR_FLAG_CREATE) && had)
        return -TC_E_EXIST;
    if ((req->flags & XATTR_FLAG_REPLACE) && !had)
        return -TC_E_NODATA;
    if (!drop && in->xattr_bytes - (had ? old_len : 0) + (had ? 0 : req->name.n) + req->value.n >
                     FSM_XATTR_TOTAL_MAX)
        return -TC_E_NOSPC;
    in->mode = mode;
    if (!drop)
        xattr_set(f, in, req->name, req->value, had, old_len);
    else if (had)
        xattr_drop(f, in, req->name, old_len);
    in->ctime = MAX(in->ctime, f->now);
    inode_touch(f, in);
    answer_attr(f, req->ctx.session, in, false);
    return 0;
}

int op_removexattr(struct fsm *f, const struct removexattr_req *req)
{
    struct inode *in;
    size_t old_len = 0;
    bool had = false;
    int r;

    r = xattr_name_check(req->name);
    if (r == 0)
        r = attr_begin(f, req->ino, req->ctx.session, &in);
    if (r == 0)
        r = xattr_find(f, req->ino, req->name, &had, &old_len);
    if (r < 0)
        return r;
    if (!had)
        return -TC_E_NODATA;
    xattr_drop(f, in, req->name, old_len);
    in->ctime = MAX(in->ctime, f->now);
    inode_touch(f, in);
    answer_attr(f, req->ctx.session, in, false);
    return 0;
}
