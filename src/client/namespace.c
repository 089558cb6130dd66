/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names: lookup, getattr, make, link, unlink, rename, readlink, statfs.
 *
 * Reads are answered from what leases allow to be cached, else by the leader, whose answer then fills the
 * cache. Mutations are one request each; their answers, which bear the directory's change, update what is
 * cached of names here.
 */
#include "client/internal.h"

#include <sys/stat.h>

/* ---- lookup, getattr -------------------------------------------------------------------------------------------- */

static void getattr_send(struct tc_call *call, struct inode *i);

static void entry_call(struct tc_call *call, uint64_t ino)
{
    struct inode *i = inode_get(call->c, ino);

    if (call->ino2 != i) {
        ASSERT(!call->ino2);
        inode_pin(i);
        call->ino2 = i;
    }
}

/* Attributes and grants of an answer. */
static struct inode *take_entry(struct tc_client *c, struct rpc *r, const struct entry_res *e, bool own)
{
    struct inode *i;
    bool cacheable = false;

    if (!e->has_attr || e->attr.ino == 0)
        return NULL;
    i = inode_get(c, e->attr.ino);
    inode_pin(i);
    if (e->has_grant)
        cacheable = lease_take_grant(c, i, &e->grant, r, &e->attr);
    inode_take_attr(c, i, &e->attr, cacheable, own);
    i->pins--; /* the caller takes its own */
    return i;
}

static bool take_dir(struct tc_client *c, struct rpc *r, struct inode *d, const struct entry_res *e, bool own)
{
    bool cacheable = false;

    if (e->has_dir_grant && e->dir_grant.ino == d->ino)
        cacheable = lease_take_grant(c, d, &e->dir_grant, r, e->has_dir ? &e->dir : NULL);
    if (e->has_dir && e->dir.ino == d->ino)
        inode_take_attr(c, d, &e->dir, cacheable, own);
    return cacheable;
}

static void lookup_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;
    struct inode *d = call->ino, *i;
    const struct entry_res *e = res;
    uint64_t change;
    bool cacheable;

    call->busy = false;
    if (status != 0) {
        call_finish(call, status);
        return;
    }
    cacheable = take_dir(c, r, d, e, false);
    change = e->has_dir ? e->dir.change : e->change;
    cacheable = cacheable && change >= d->min_change;
    i = take_entry(c, r, e, false);
    if (cacheable && e->negative && change == d->made_change)
        dir_of(d)->complete = true; /* as we made it: empty. From here on its S tells of every name */
    if (cacheable && (i || e->negative))
        dir_put(c, d, call->name, strlen(call->name), i ? i->ino : 0, change);
    if (e->negative || !i) {
        call_finish(call, -TC_E_NOENT);
        return;
    }
    call_finish_entry(call, i);
}

static void lookup_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *d = call->ino, *i;
    struct lookup_req req = {.parent = d->ino, .name = wire_str_of(call->name), .want = LEASE_S, .want_dir = LEASE_S};
    uint64_t ino;

    c->stats.lookups++;
    if (dir_find(c, d, call->name, &ino)) {
        c->stats.lookup_hits++;
        if (!ino) {
            call_finish(call, -TC_E_NOENT);
            return;
        }
        i = inode_get(c, ino);
        if (i->attr_cached && lease_s_ok(c, i)) {
            call_finish_entry(call, i);
            return;
        }
    }
    call->busy = true;
    RPC(c, MSG_LOOKUP, RPC_READ, lookup_req, &req, entry_res, lookup_done, call);
}

struct tc_call *tc_lookup(struct tc_client *c, uint64_t parent, const char *name, tc_entry_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_ENTRY, lookup_tick, arg);

    call->fn.entry = fn;
    call->name = tc_strdup(name);
    call->counts = true;
    call_pin(call, inode_get(c, parent));
    return call_start(call);
}

static void getattr_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct inode *i = call->ino;
    const struct entry_res *e = res;

    call->busy = false;
    if (status == 0 && !e->has_attr)
        status = -TC_E_BAD_MESSAGE;
    if (status != 0) {
        call_finish(call, status);
        return;
    }
    (void)take_entry(call->c, r, e, false);
    if (outside_told(call->c, i) && (i->phase != RECALL_IDLE || i->breaks != call->off || !lease_s_ok(call->c, i)))
        getattr_tick(call);
    else
        call_finish_entry(call, i);
}

static void getattr_send(struct tc_call *call, struct inode *i)
{
    struct getattr_req req = {.ino = i->ino, .want = LEASE_S};

    call->busy = true;
    RPC(call->c, MSG_GETATTR, RPC_READ, getattr_req, &req, entry_res, getattr_done, call);
}

void getattr_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;

    c->stats.getattrs++;
    if (outside_told(c, i)) {
        if (i->phase != RECALL_IDLE) {
            call_wait(call, &i->wq);
            return;
        }
        if (lease_need_s(call, i))
            return;
        call->off = i->breaks;
    }
    if (i->attr_cached && lease_s_ok(c, i)) {
        c->stats.getattr_hits++;
        call_finish_entry(call, i);
        return;
    }
    if (i->ino == c->root && i->attr_known && c->state == SESSION_SUSPENDED) {
        call_finish_entry(call, i); /* an unmount asks for it */
        return;
    }
    getattr_send(call, i);
}

struct tc_call *tc_getattr(struct tc_client *c, uint64_t ino, tc_entry_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_ENTRY, getattr_tick, arg);

    call->fn.entry = fn;
    call_pin(call, inode_get(c, ino));
    return call_start(call);
}

/* ---- mutations ------------------------------------------------------------------------------------------------------- */

/* Grows with every recall of @d and every end of its lease. */
static uint64_t name_stamp(const struct inode *d)
{
    return d->recall_count + d->breaks;
}

/* A name of @d has changed by our own hand, in a request sent at @stamp. If a recall has come since, or the lease is
 * another, somebody else may have changed it later: then nothing is known of it. */
static void name_changed(struct tc_client *c, struct inode *d, const char *name, uint64_t ino, uint64_t change,
                         uint64_t stamp)
{
    if (name_stamp(d) != stamp) {
        dir_drop_pages(c, d);
        dir_drop_name(c, d, name);
        return;
    }
    if (ino)
        dir_drop_pages(c, d);
    else
        dir_remove_from_pages(d, name);
    if (d->dir)
        d->dir->mutations++;
    if (change)
        dir_put(c, d, name, strlen(name), ino, change);
    else
        dir_drop_name(c, d, name);
}

/* Given back unexecuted because a recall crossed it: again, with a new seq. */
static bool crossed(struct tc_call *call, int status)
{
    if (status != -TC_E_CROSSED || call->answered)
        return false;
    call_wake(call);
    return true;
}

static void make_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;
    struct inode *d = call->ino, *i;
    const struct entry_res *e = res;

    call->busy = false;
    if (crossed(call, status))
        return;
    if (status == 0 && (!e->has_attr || !e->attr.ino))
        status = -TC_E_BAD_MESSAGE;
    if (status != 0) {
        if (status == -TC_E_EXIST)
            dir_drop_name(c, d, call->name);
        call_finish(call, status);
        return;
    }
    (void)take_dir(c, r, d, e, true);
    i = take_entry(c, r, e, !e->existed);
    entry_call(call, i->ino);
    name_changed(c, d, call->name, i->ino, e->has_dir ? e->dir.change : 0, call->target_seq);
    if (S_ISDIR(i->attr.mode) && !e->existed)
        i->made_change = e->attr.change;
    call_finish_entry(call, i);
}

static void make_tick(struct tc_call *call)
{
    bool regular = S_ISREG(call->mode);
    struct make_req req = {.parent = call->ino->ino, .name = wire_str_of(call->name), .mode = call->mode,
                           .umask = call->cred.umask, .uid = call->cred.uid, .gid = call->cred.gid, .rdev = call->rdev,
                           .excl = call->excl, .want = regular ? LEASE_X : LEASE_S};

    if (call->name2)
        req.target = wire_str_of(call->name2);
    call->target_seq = name_stamp(call->ino);
    call->busy = true;
    RPC(call->c, MSG_MAKE, RPC_MUTATION, make_req, &req, entry_res, make_done, call);
}

struct tc_call *tc_make(struct tc_client *c, uint64_t parent, const char *name, uint32_t mode, uint64_t rdev,
                        const char *target, const struct tc_cred *cred, bool excl, bool open, tc_entry_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_ENTRY, make_tick, arg);

    call->fn.entry = fn;
    call->name = tc_strdup(name);
    call->name2 = target ? tc_strdup(target) : NULL;
    call->mode = mode;
    call->rdev = rdev;
    call->cred = *cred;
    call->excl = excl;
    call->open = open;
    call->counts = true;
    call_pin(call, inode_get(c, parent));
    return call_start(call);
}

static void link_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;
    const struct entry_res *e = res;
    struct inode *i;

    call->busy = false;
    if (crossed(call, status))
        return;
    if (status != 0) {
        call_finish(call, status);
        return;
    }
    (void)take_dir(c, r, call->ino, e, true);
    i = take_entry(c, r, e, true);
    name_changed(c, call->ino, call->name, call->ino2->ino, e->has_dir ? e->dir.change : 0, call->target_seq);
    call_finish_entry(call, i ? i : call->ino2);
}

static void link_tick(struct tc_call *call)
{
    struct link_req req = {.ino = call->ino2->ino, .parent = call->ino->ino, .name = wire_str_of(call->name)};

    call->target_seq = name_stamp(call->ino);
    call->busy = true;
    RPC(call->c, MSG_LINK, RPC_MUTATION, link_req, &req, entry_res, link_done, call);
}

struct tc_call *tc_link(struct tc_client *c, uint64_t ino, uint64_t parent, const char *name, tc_entry_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_ENTRY, link_tick, arg);

    call->fn.entry = fn;
    call->name = tc_strdup(name);
    call->counts = true;
    call_pin(call, inode_get(c, parent));
    entry_call(call, ino);
    return call_start(call);
}

/* What lost a name by our own mutation. */
static void take_replaced(struct tc_client *c, const struct entry_res *e)
{
    struct inode *i;

    if (!e->has_replaced || !e->replaced.ino)
        return;
    i = inode_find(c, e->replaced.ino);
    if (i)
        inode_take_attr(c, i, &e->replaced, false, true);
}

static void unlink_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;
    const struct entry_res *e = res;

    call->busy = false;
    if (crossed(call, status))
        return;
    if (status == 0) {
        (void)take_dir(c, r, call->ino, e, true);
        name_changed(c, call->ino, call->name, 0, e->has_dir ? e->dir.change : 0, call->target_seq);
        take_replaced(c, e);
    } else if (status == -TC_E_NOENT) {
        dir_drop_name(c, call->ino, call->name);
    }
    call_finish(call, status);
}

static void unlink_tick(struct tc_call *call)
{
    struct unlink_req req = {.parent = call->ino->ino, .name = wire_str_of(call->name), .dir = call->dir};

    call->target_seq = name_stamp(call->ino);
    call->busy = true;
    RPC(call->c, MSG_UNLINK, RPC_MUTATION, unlink_req, &req, entry_res, unlink_done, call);
}

struct tc_call *tc_unlink(struct tc_client *c, uint64_t parent, const char *name, bool dir, tc_status_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATUS, unlink_tick, arg);

    call->fn.status = fn;
    call->name = tc_strdup(name);
    call->dir = dir;
    call_pin(call, inode_get(c, parent));
    return call_start(call);
}

static void rename_tick(struct tc_call *call);

/* The same, but for S that goes on under another leader. */
static uint64_t cover_stamp(const struct inode *d)
{
    return name_stamp(d) - d->kept;
}

/* The answer lets the kernel keep what it has under the new name, for the time it was given under the old one. Others
 * may have changed the new name already if our S there was not whole from the asking on. */
static bool rename_covered(const struct tc_call *call)
{
    const struct inode *from = call->ino, *to = call->ino2;

    if (!(to->held & LEASE_S) || to->phase != RECALL_IDLE || cover_stamp(to) != call->off)
        return false;
    return !(call->flags & 2) || ((from->held & LEASE_S) && from->phase == RECALL_IDLE && cover_stamp(from) == call->cookie);
}

static void rename_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;
    struct inode *from = call->ino, *to = call->ino2;
    const struct entry_res *e = res;
    uint64_t change;
    bool unmoved;

    call->busy = false;
    if (crossed(call, status))
        return;
    if (status == 0) {
        (void)take_dir(c, r, from, e, true);
        if (e->has_dir2 && e->dir2.ino == to->ino)
            inode_take_attr(c, to, &e->dir2, false, true);
        (void)take_entry(c, r, e, true);
        take_replaced(c, e);
        change = e->has_dir ? e->dir.change : 0;
        /* Were both names of one inode, nothing happened: the old name may still be there. */
        unmoved = !e->has_attr || (!S_ISDIR(e->attr.mode) && e->attr.nlink > 1);
        /* What the new name is now, if the answer tells; the other name of an exchange is asked for again. */
        if ((call->flags & 2) || unmoved)
            dir_drop_name(c, from, call->name);
        else
            name_changed(c, from, call->name, 0, change, call->target_seq);
        if (e->has_attr && change)
            name_changed(c, to, call->name2, e->attr.ino, change, call->target_epoch);
        else
            dir_drop_name(c, to, call->name2);
        if ((call->flags & 2) || unmoved)
            dir_drop_pages(c, from);
        dir_drop_pages(c, to);
        outside_renamed(from, to);
        call->stage = 1;
        rename_tick(call);
        return;
    }
    call_finish(call, status);
}

static void rename_tick(struct tc_call *call)
{
    struct rename_req req = {.parent = call->ino->ino, .name = wire_str_of(call->name), .new_parent = call->ino2->ino,
                             .new_name = wire_str_of(call->name2), .flags = call->flags};

    if (call->stage == 1) {
        if (!rename_covered(call) && outside_wait_moved(call, call->ino))
            return;
        call_finish(call, 0);
        return;
    }
    call->target_seq = name_stamp(call->ino);
    call->target_epoch = name_stamp(call->ino2);
    call->off = cover_stamp(call->ino2);
    call->cookie = cover_stamp(call->ino);
    outside_renamed(call->ino, call->ino2); /* from now on, and should the leader change */
    call->busy = true;
    RPC(call->c, MSG_RENAME, RPC_MUTATION, rename_req, &req, entry_res, rename_done, call);
}

struct tc_call *tc_rename(struct tc_client *c, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
                          uint32_t flags, tc_status_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATUS, rename_tick, arg);

    call->fn.status = fn;
    call->name = tc_strdup(name);
    call->name2 = tc_strdup(new_name);
    call->flags = flags;
    call_pin(call, inode_get(c, parent));
    entry_call(call, new_parent);
    return call_start(call);
}

/* ---- the rest ---------------------------------------------------------------------------------------------------------- */

static void readlink_tick(struct tc_call *call)
{
    struct readlink_req req = {.ino = call->ino->ino};

    call->busy = true;
    RPC(call->c, MSG_READLINK, RPC_READ, readlink_req, &req, bytes_res, bytes_done, call);
}

struct tc_call *tc_readlink(struct tc_client *c, uint64_t ino, tc_bytes_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_BYTES, readlink_tick, arg);

    call->fn.bytes = fn;
    call_pin(call, inode_get(c, ino));
    return call_start(call);
}

static void statfs_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;

    call->busy = false;
    if (status == 0) {
        c->statfs = call->statfs = *(const struct statfs_res *)res;
        c->statfs_at = env_now(c->env);
    }
    call_finish(call, status);
}

void statfs_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct statfs_req req = {.has_ctx = true};

    /* Fresh enough; or nobody answers, and an unmount must not wait for that. */
    if (c->state == SESSION_SUSPENDED || (c->statfs_at && env_now(c->env) < c->statfs_at + NS_PER_S / 2)) {
        call->statfs = c->statfs;
        call_finish(call, 0);
        return;
    }
    call->busy = true;
    RPC(c, MSG_STATFS, RPC_READ, statfs_req, &req, statfs_res, statfs_done, call);
}

struct tc_call *tc_statfs(struct tc_client *c, tc_statfs_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATFS, statfs_tick, arg);

    call->fn.statfs = fn;
    return call_start(call);
}
