/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Advisory locks (PROTOCOL 9.2). The client always knows the locks that its own callers have; the question is who else does.
 *
 *   SHARED ──LOCK, and nobody else had any──► LOCAL        LOCAL: the session holds L, its locks are set here alone
 *      ▲                                        │          SHARED: every lock and unlock goes to the leader
 *      └── LOCK_END: recalled, or idle ─────────┘
 *
 * One request per inode is under way at a time, and whoever wants something of its locks meanwhile waits: so what the
 * leader has of ours is what we have. A lock that cannot be had is waited for by looking again: at once when a lock of our
 * own goes, else ever more seldom (LOCK_LOOK is no entry in the log; nor is a test, unless somebody else holds L).
 *
 * When the session expires all of them are lost, and a file through which one was set fails from then on (9.3).
 */
#include "client/internal.h"

#include "common/test_rules.h"

#define LOOK_NS (2 * NS_PER_MS)
#define LOOK_MAX_NS (64 * NS_PER_MS)
#define IDLE_NS (1 * NS_PER_S) /* L without a lock is given back */

struct lock_state { /* of an inode, which it pins; exists while it is not empty */
    struct inode *ino;
    struct lock_table own;
    bool local;    /* L is held */
    bool busy;     /* a request is under way */
    bool recalled; /* L is to end */
    struct waitq turn;    /* until what is under way is done */
    struct waitq blocked; /* until another lock may have gone */
    struct lock_item *sent; /* what a LOCK_END under way says */
    struct env_timer timer; /* SHARED: to look again; LOCAL: to give L back */
    uint64_t again;         /* between looks */
};

static void lock_tick(struct tc_call *call);
static void end_send(struct lock_state *st);

/* ---- the state of an inode ------------------------------------------------------------------------------------- */

static void on_timer(struct env_timer *t);

static struct lock_state *state_get(struct inode *i)
{
    struct lock_state *st = i->locks;

    if (st)
        return st;
    st = tc_calloc(1, sizeof(*st));
    st->ino = i;
    st->timer.fn = on_timer;
    i->locks = st;
    inode_pin(i);
    return st;
}

static void state_free(struct tc_client *c, struct lock_state *st)
{
    st->ino->locks = NULL;
    env_timer_cancel(c->env, &st->timer);
    locks_fini(&st->own);
    free(st->sent);
    free(st);
}

/* A step is done: the next one goes on, and what is not used is given back. */
static void state_changed(struct lock_state *st)
{
    struct inode *i = st->ino;
    struct tc_client *c = i->c;

    if (st->busy)
        return;
    if (st->recalled) {
        end_send(st);
        return;
    }
    if (st->turn.head) {
        waitq_wake(&st->turn);
        if (!env_timer_armed(&st->timer)) /* they may end without another step: cancelled, or their file has failed */
            env_timer_set(c->env, &st->timer, env_now(c->env) + IDLE_NS);
    } else if (st->local && st->own.n == 0) {
        env_timer_set(c->env, &st->timer, env_now(c->env) + IDLE_NS);
    } else if (!st->local && st->own.n == 0 && !st->blocked.head) {
        state_free(c, st);
        inode_unpin(c, i);
    }
}

static void on_timer(struct env_timer *t)
{
    struct lock_state *st = container_of(t, struct lock_state, timer);

    if (st->local && st->own.n == 0 && !st->busy && !st->turn.head) {
        end_send(st);
        return;
    }
    waitq_wake(&st->blocked);
    state_changed(st);
}

/* ---- L ends ------------------------------------------------------------------------------------------------------ */

static void end_done(struct rpc *r, int status TC_UNUSED, const void *res TC_UNUSED)
{
    struct lock_state *st = r->arg;

    /* Refused or fenced: the session is over, and its locks with it (locks_lost). */
    st->busy = st->recalled = st->local = false;
    waitq_wake(&st->blocked);
    state_changed(st);
}

static void end_send(struct lock_state *st)
{
    struct lock_item *items = tc_calloc(st->own.n + 1, sizeof(*items));
    struct lock_end_req req = {.ino = st->ino->ino, .locks = {items, st->own.n}};

    for (uint32_t k = 0; k < st->own.n; k++)
        items[k] = lock_to_item(&st->own.locks[k]);
    st->busy = true;
    free(st->sent);
    st->sent = items; /* borrowed by the request until it is done */
    RPC(st->ino->c, MSG_LOCK_END, RPC_MUTATION | RPC_URGENT, lock_end_req, &req, empty_msg, end_done, st);
}

void locks_recalled(struct tc_client *c, uint64_t ino)
{
    struct lock_state *st = state_get(inode_get(c, ino));

    c->stats.recalls++;
    st->recalled = true;
    if (!st->busy)
        end_send(st);
}

void locks_lost(struct tc_client *c TC_UNUSED, struct inode *i)
{
    struct lock_state *st = i->locks;
    struct tc_file *f;

    if (!st)
        return;
    DL_FOREACH(i->files, f)
    {
        if (!f->n_lockers)
            continue;
        f->failed = true;
        f->error = f->error ? f->error : -TC_E_IO;
        f->n_lockers = 0;
    }
    st->own.n = 0;
    st->local = st->recalled = false;
    waitq_wake(&st->blocked);
    state_changed(st);
}

void locks_free(struct tc_client *c, struct inode *i)
{
    if (i->locks)
        state_free(c, i->locks);
}

/* ---- who locked through which file -------------------------------------------------------------------------------- */

static void locker_add(struct tc_file *f, const struct file_lock *l)
{
    for (unsigned k = 0; k < f->n_lockers; k++) {
        if (f->lockers[k].owner == l->owner && f->lockers[k].family == l->family)
            return;
    }
    f->lockers = tc_realloc(f->lockers, (f->n_lockers + 1) * sizeof(f->lockers[0]));
    f->lockers[f->n_lockers++] = (struct file_locker){l->owner, l->family};
}

/* Nothing is left of what the owner had on @i. */
static void locker_gone(struct inode *i, const struct file_lock *l)
{
    struct tc_file *f;

    DL_FOREACH(i->files, f)
    {
        for (unsigned k = 0; k < f->n_lockers; k++) {
            if (f->lockers[k].owner == l->owner && f->lockers[k].family == l->family)
                f->lockers[k--] = f->lockers[--f->n_lockers];
        }
    }
}

/* ---- a lock ---------------------------------------------------------------------------------------------------------- */

/* The owner has what @call asked for. */
static void lock_have(struct tc_call *call, struct lock_state *st)
{
    const struct file_lock *l = &call->lock;

    if (l->type != LOCK_UNLOCK)
        locker_add(call->file, l);
    else if (!locks_owned(&st->own, 0, l->owner, l->family))
        locker_gone(st->ino, l);
    if (l->type != LOCK_EXCLUSIVE)
        waitq_wake(&st->blocked);
}

static void lock_other(struct tc_call *call, const struct file_lock *other)
{
    if (!call->lock_test) {
        call_finish(call, -TC_E_AGAIN);
        return;
    }
    call->lock = *other;
    call->lock_found = true;
    call_finish(call, 0);
}

/* Nobody waits for it, and for no time it would be given up: the lock would stay. */
static void unlock_unasked(struct tc_client *c, struct tc_file *f, const struct file_lock *l)
{
    struct file_lock none = *l;

    none.type = LOCK_UNLOCK;
    tc_lock(c, f, &none, false, NULL, NULL)->deadline = UINT64_MAX;
}

/* @other is in the way of @call. */
static void lock_blocked(struct tc_call *call, struct lock_state *st, const struct file_lock *other)
{
    if (call->lock_test || !call->lock_wait) {
        lock_other(call, other);
        return;
    }
    call->deadline = UINT64_MAX; /* that is for servers that are away */
    call->lock_look = true;
    call_wait(call, &st->blocked);
    /* flock(2): what is converted is given up first. Two that both would have more wait for each other else. */
    if (call->lock.family == LOCK_FLOCK && locks_owned(&st->own, 0, call->lock.owner, LOCK_FLOCK))
        unlock_unasked(call->c, call->file, &call->lock);
}

static void lock_answer(struct tc_call *call, struct lock_state *st, const struct lock_res *res)
{
    if (res->has_other) {
        struct file_lock other = lock_of_item(&res->other, 0);

        if (call->answered) {
            call_finish(call, 0);
            return;
        }
        st->again = st->again ? MIN(2 * st->again, LOOK_MAX_NS) : LOOK_NS;
        env_timer_set(call->c->env, &st->timer, env_now(call->c->env) + st->again);
        lock_blocked(call, st, &other);
        return;
    }
    if (!call->lock_test) {
        int r = locks_set(&st->own, &call->lock);

        ASSERT(r == 0); /* the leader had room for them, and for those of others */
        st->local = res->local;
        st->again = 0;
        lock_have(call, st);
        /* The caller has gone meanwhile, or the file has failed while this waited to be sent: nobody would unlock it (9.3). */
        if ((call->answered || call->file->failed) && call->lock.type != LOCK_UNLOCK) {
            unlock_unasked(call->c, call->file, &call->lock);
            call_finish(call, -TC_E_IO);
            return;
        }
    }
    call_finish(call, call->file->failed && call->lock_test ? -TC_E_IO : 0);
}

static void lock_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct inode *i = call->ino;
    struct lock_state *st = i->locks;
    const struct lock_res *e = res;

    ASSERT(st && st->busy);
    st->busy = false;
    call->busy = false;
    if (status == 0 && call->lock_look && !e->has_other && (e->held || !call->lock_test) && !call->answered) {
        call->lock_look = false; /* it may be had, or somebody knows: an entry will tell */
        lock_tick(call);
        if (i->locks)
            state_changed(i->locks);
        return;
    }
    if (status == 0 && call->lock_look && call->answered)
        call_finish(call, 0);
    else if (status == 0)
        lock_answer(call, st, res);
    else if (status == -TC_E_FENCED && !call->answered)
        call_wake(call); /* once more in the next session, unless the file has failed */
    else
        call_finish(call, status == -TC_E_LIMIT ? -TC_E_NOLCK : status);
    state_changed(st);
}

static void lock_send(struct tc_call *call, struct lock_state *st)
{
    struct lock_req req = {.ino = st->ino->ino, .lock = lock_to_item(&call->lock), .test = call->lock_test};

    st->busy = true;
    call->busy = true;
    if (call->lock_look)
        RPC(call->c, MSG_LOCK_LOOK, RPC_READ, lock_req, &req, lock_res, lock_done, call);
    else
        RPC(call->c, MSG_LOCK, RPC_MUTATION, lock_req, &req, lock_res, lock_done, call);
}

static void lock_tick(struct tc_call *call)
{
    const struct file_lock *other, *l = &call->lock;
    struct lock_state *st;
    int r;

    st = call->ino->locks;
    if (call->file->failed && (call->lock_test || l->type != LOCK_UNLOCK || !st || !locks_owned(&st->own, 0, l->owner, l->family))) {
        call_finish(call, l->type == LOCK_UNLOCK && !call->lock_test ? 0 : -TC_E_IO);
        return;
    }
    if (session_revalidate(call))
        return;
    st = state_get(call->ino);
    if ((st->busy || st->recalled) && !(st->local && !TC_RULE(LOCKS_WAIT))) {
        call_wait(call, &st->turn);
        return;
    }
    other = locks_conflict(&st->own, l);
    if (other) {
        lock_blocked(call, st, other);
        return;
    }
    if (!st->local && (call->lock_test || l->type != LOCK_UNLOCK || locks_owned(&st->own, 0, l->owner, l->family))) {
        lock_send(call, st);
        return;
    }
    r = call->lock_test ? 0 : locks_set(&st->own, l);
    if (r == 0 && !call->lock_test)
        lock_have(call, st);
    call_finish(call, r == -TC_E_LIMIT ? -TC_E_NOLCK : r);
    state_changed(st);
}

static struct tc_call *lock_call(struct tc_client *c, struct tc_file *f, const struct file_lock *l, enum call_result result,
                                 void *arg)
{
    struct tc_call *call = call_new(c, result, lock_tick, arg);

    ASSERT(lock_valid(l));
    call->file = file_ref(f);
    call_pin(call, f->ino);
    call->lock = *l;
    call->lock.session = 0;
    return call;
}

struct tc_call *tc_lock(struct tc_client *c, struct tc_file *f, const struct file_lock *l, bool wait, tc_status_fn *fn,
                        void *arg)
{
    struct tc_call *call = lock_call(c, f, l, RESULT_STATUS, arg);

    call->fn.status = fn;
    call->lock_wait = wait;
    return call_start(call);
}

struct tc_call *tc_lock_test(struct tc_client *c, struct tc_file *f, const struct file_lock *l, tc_lock_fn *fn, void *arg)
{
    struct tc_call *call = lock_call(c, f, l, RESULT_LOCK, arg);

    call->fn.lock = fn;
    call->lock_test = call->lock_look = true;
    return call_start(call);
}

bool tc_lock_held(const struct tc_file *f, uint64_t owner, enum lock_family family)
{
    const struct lock_state *st = f->ino->locks;

    return st && (st->busy || st->turn.head || locks_owned(&st->own, 0, owner, family));
}

/* The last reference of the caller's is gone: so is whatever was locked through @f and not unlocked by a close before. */
void locks_release(struct tc_client *c, struct tc_file *f)
{
    while (f->n_lockers > 0) {
        struct file_locker by = f->lockers[--f->n_lockers];
        struct file_lock l = {.owner = by.owner, .end = LOCK_END, .family = by.family};

        unlock_unasked(c, f, &l);
    }
}
