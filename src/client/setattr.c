/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing attributes, truncating (PROTOCOL 5.1, 9.1), and extended attributes.
 *
 * Every explicit change is an entry at once. Under X, times set here are local from the moment of sending, so
 * that blocks sent meanwhile carry them. A truncate under X first awaits what is in flight and holds back
 * what is not; the answer's epoch is that of all later blocks. Without X it takes X in the same entry.
 */
#include "client/internal.h"

#include "common/test_rules.h"

enum setattr_stage { SETATTR_START, SETATTR_SENT };

static void truncate_take(struct tc_call *call, struct rpc *r, const struct entry_res *e)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    struct xlease *x = i->x;
    uint64_t epoch = e->has_grant && e->grant.epoch ? e->grant.epoch : e->attr.epoch;
    bool ours = x && x->epoch == call->target_epoch;

    if (!ours) {
        if (!e->has_grant || e->grant.kind != LEASE_X)
            return;
        clean_drop(c, i);
        readahead_drop(c, i);
        i->data_gen++;
        (void)lease_take_grant(c, i, &e->grant, r, &e->attr);
        return;
    }
    x->truncating = false;
    dirty_truncate(c, i, call->set.size);
    readahead_drop(c, i);
    if (epoch > x->epoch && TC_RULE(EPOCH_AFTER)) {
        x->epoch = epoch;
        x->seq = 0;
    }
    x->size_max = call->set.size < x->size_max ? call->set.size : MAX(x->size_max, call->set.size);
    x->size = x->committed_size = e->attr.size;
    x->size_acked = 0;
    x->new_blocks = MIN(x->new_blocks, (int64_t)((x->size + BLOCK_SIZE - 1) / BLOCK_SIZE) - (int64_t)e->attr.blocks);
    x->mtime = x->committed_mtime = e->attr.mtime;
    x->meta_dirty = false;
    x->reach = MAX(x->reach, MAX(e->attr.reach, e->has_grant ? e->grant.reach : 0));
    if (i->ask > ASK_WANTED)
        i->ask = ASK_WANTED;
    lease_x_used(c, i);
}

static void setattr_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    const struct entry_res *e = res;
    bool truncate = call->set.mask & SET_SIZE, cacheable = false;

    call->busy = false;
    if (truncate && i->getting == LEASE_X && !call->target_epoch)
        i->getting = 0;
    if (status == -TC_E_CROSSED && !call->answered) {
        if (truncate && i->x && i->x->epoch == call->target_epoch)
            i->x->truncating = false;
        call->stage = SETATTR_START;
        recall_progress(c, i);
        waitq_wake(&i->wq);
        call_wake(call);
        return;
    }
    if (status == -TC_E_LIMIT && truncate && !call->answered && (!i->x || i->attr.horizons.n >= HORIZON_MAX - 1)) {
        if (i->x && i->x->epoch == call->target_epoch)
            i->x->truncating = false;
        call->crowded = true; /* the horizon is full: X, and room, first */
        call->stage = SETATTR_START;
        if (i->x)
            (void)flush_pending(c, i);
        recall_progress(c, i);
        waitq_wake(&i->wq);
        waitq_wake(&i->io_wq);
        call_wake(call);
        return;
    }
    if (status == 0 && e->has_attr) {
        if (truncate)
            truncate_take(call, r, e);
        else if (e->has_grant)
            cacheable = lease_take_grant(c, i, &e->grant, r, &e->attr);
        if (i->x && (call->set.mask & (SET_MTIME | SET_MTIME_NOW))) {
            i->x->committed_mtime = e->attr.mtime;
            if (!i->x->meta_dirty || i->x->mtime == call->cookie)
                i->x->mtime = e->attr.mtime;
            i->x->meta_dirty = i->x->size != i->x->committed_size || i->x->mtime != i->x->committed_mtime;
        }
        inode_take_attr(c, i, &e->attr, cacheable, true);
    } else if (truncate && i->x && i->x->epoch == call->target_epoch) {
        i->x->truncating = false;
    }
    waitq_wake(&i->wq);
    waitq_wake(&i->io_wq);
    if (i->x)
        (void)flush_pending(c, i);
    recall_progress(c, i);
    if (status == 0)
        call_finish_entry(call, i);
    else
        call_finish(call, status);
}

/* Wait until a truncate may be sent. True: the call waits. */
static bool truncate_ready(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;

    if (call->set.size > FILE_SIZE_MAX) {
        call_finish(call, -TC_E_FBIG);
        return true;
    }
    if (i->getting || i->phase != RECALL_IDLE || (i->x && (i->commit_inflight || i->commit_queued))) {
        call_wait(call, i->x && i->phase == RECALL_IDLE ? &i->io_wq : &i->wq);
        return true;
    }
    if (call->crowded && !i->x)
        return lease_need_x(call, i);
    if (i->x && (call->crowded || i->x->rw.entry) && horizon_make_room(call, i))
        return true;
    if (!i->x) {
        i->getting = LEASE_X; /* nobody else asks meanwhile */
        i->get_stamp = i->recall_count;
        call->target_epoch = 0;
        return false;
    }
    if (i->x->truncating || (i->n_flights && TC_RULE(TRUNCATE_AWAITS))) { /* another one, or blocks that must have landed */
        call_wait(call, &i->io_wq);
        return true;
    }
    i->x->truncating = true;
    i->x->truncating_since = env_now(c->env);
    call->target_epoch = i->x->epoch;
    call->set.size_max = MAX(i->x->size_max, i->x->size);
    return false;
}

/* ---- capabilities ------------------------------------------------------------------------------------------------- */

#define CAPABILITY "security.capability"

static void caps_end(struct tc_call *call)
{
    call->busy = false;
    call->caps_seen = true;
    if (call->answered)
        call_finish(call, 0);
    else
        call->tick(call);
}

static void caps_removed(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    const struct entry_res *e = res;

    if (status == 0 && e->has_attr) {
        inode_take_attr(call->c, call->ino, &e->attr, false, true);
        call->ino->caps_change = call->ino->attr.change;
    }
    caps_end(call);
}

static void caps_found(struct rpc *r, int status, const void *res TC_UNUSED)
{
    struct tc_call *call = r->arg;
    struct removexattr_req req = {.ino = call->ino->ino, .name = wire_str_of(CAPABILITY)};

    if (status == 0 && !call->answered) {
        RPC(call->c, MSG_REMOVEXATTR, RPC_MUTATION, removexattr_req, &req, entry_res, caps_removed, call);
        return;
    }
    if (status == -TC_E_NODATA)
        call->ino->caps_change = call->id2;
    caps_end(call);
}

/*
 * Whoever changes a file's bytes, its capabilities go. The kernel leaves that to us without a word (suid and sgid are
 * asked for), and of the attributes that there are only the number is known here: so they are looked for.
 */
bool caps_drop(struct tc_call *call)
{
    struct inode *i = call->ino;
    struct getxattr_req req = {.ino = i->ino, .name = wire_str_of(CAPABILITY)};

    if (call->caps_seen || i->attr.xattrs == 0 || i->caps_change == i->attr.change)
        return false;
    call->busy = true;
    call->id2 = i->attr.change;
    RPC(call->c, MSG_GETXATTR, RPC_READ, getxattr_req, &req, bytes_res, caps_found, call);
    return true;
}

/* ---- setattr ------------------------------------------------------------------------------------------------------ */

void setattr_tick(struct tc_call *call)
{
    struct inode *i = call->ino;
    struct setattr_req req;

    if (call->stage == SETATTR_SENT)
        return;
    if ((call->set.mask & (SET_SIZE | SET_KILL_PRIV)) == SET_SIZE && caps_drop(call))
        return;
    if ((call->set.mask & SET_SIZE) && truncate_ready(call))
        return;
    if (i->x) {
        call->set.vseq = i->x->seq;
        if (!(call->set.mask & SET_SIZE) && (i->commit_inflight || i->commit_queued)) {
            call_wait(call, &i->io_wq); /* it may bear older times */
            return;
        }
        if (call->set.mask & (SET_MTIME | SET_MTIME_NOW)) {
            if (call->set.mask & SET_MTIME_NOW)
                call->set.mtime = session_time(call->c);
            i->x->mtime = call->cookie = call->set.mtime;
        }
    }
    call->stage = SETATTR_SENT;
    call->busy = true;
    req = call->set;
    RPC(call->c, MSG_SETATTR, RPC_MUTATION, setattr_req, &req, entry_res, setattr_done, call);
}

struct tc_call *tc_setattr(struct tc_client *c, const struct setattr_req *set, tc_entry_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_ENTRY, setattr_tick, arg);

    call->fn.entry = fn;
    call->set = *set;
    call_pin(call, inode_get(c, set->ino));
    return call_start(call);
}

/* ---- extended attributes ------------------------------------------------------------------------------------------ */

void bytes_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    const struct bytes_res *b = res;

    call->busy = false;
    if (status == 0)
        call->bytes = buf_copy(b->value.p, b->value.n);
    call_finish(call, status);
}

static void getxattr_tick(struct tc_call *call)
{
    struct inode *i = call->ino;
    struct getxattr_req req = {.ino = i->ino, .name = wire_str_of(call->name)};

    if (i->attr_cached && i->attr.xattrs == 0 && lease_s_ok(call->c, i)) {
        call_finish(call, -TC_E_NODATA);
        return;
    }
    call->busy = true;
    RPC(call->c, MSG_GETXATTR, RPC_READ, getxattr_req, &req, bytes_res, bytes_done, call);
}

struct tc_call *tc_getxattr(struct tc_client *c, uint64_t ino, const char *name, tc_bytes_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_BYTES, getxattr_tick, arg);

    call->fn.bytes = fn;
    call->name = tc_strdup(name);
    call_pin(call, inode_get(c, ino));
    return call_start(call);
}

static void listxattr_tick(struct tc_call *call)
{
    struct inode *i = call->ino;
    struct listxattr_req req = {.ino = i->ino};

    if (i->attr_cached && i->attr.xattrs == 0 && lease_s_ok(call->c, i)) {
        call_finish(call, 0);
        return;
    }
    call->busy = true;
    RPC(call->c, MSG_LISTXATTR, RPC_READ, listxattr_req, &req, bytes_res, bytes_done, call);
}

struct tc_call *tc_listxattr(struct tc_client *c, uint64_t ino, tc_bytes_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_BYTES, listxattr_tick, arg);

    call->fn.bytes = fn;
    call_pin(call, inode_get(c, ino));
    return call_start(call);
}

static void changed_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    const struct entry_res *e = res;

    call->busy = false;
    if (status == -TC_E_CROSSED && !call->answered) {
        call_wake(call);
        return;
    }
    if (status == 0 && e->has_attr)
        inode_take_attr(call->c, call->ino, &e->attr, false, true);
    call_finish(call, status);
}

static void setxattr_tick(struct tc_call *call)
{
    struct setxattr_req req = {.ino = call->ino->ino, .name = wire_str_of(call->name), .flags = call->flags};

    req.value = (struct wire_bin){call->bytes->data, call->bytes->len};
    call->busy = true;
    RPC(call->c, MSG_SETXATTR, RPC_MUTATION, setxattr_req, &req, entry_res, changed_done, call);
}

struct tc_call *tc_setxattr(struct tc_client *c, uint64_t ino, const char *name, const void *value, size_t len, uint32_t flags,
                            tc_status_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATUS, setxattr_tick, arg);

    call->fn.status = fn;
    call->name = tc_strdup(name);
    call->bytes = buf_copy(value, (uint32_t)len);
    call->flags = flags;
    call_pin(call, inode_get(c, ino));
    return call_start(call);
}

static void removexattr_tick(struct tc_call *call)
{
    struct removexattr_req req = {.ino = call->ino->ino, .name = wire_str_of(call->name)};

    call->busy = true;
    RPC(call->c, MSG_REMOVEXATTR, RPC_MUTATION, removexattr_req, &req, entry_res, changed_done, call);
}

struct tc_call *tc_removexattr(struct tc_client *c, uint64_t ino, const char *name, tc_status_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATUS, removexattr_tick, arg);

    call->fn.status = fn;
    call->name = tc_strdup(name);
    call_pin(call, inode_get(c, ino));
    return call_start(call);
}
