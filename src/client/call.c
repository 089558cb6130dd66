/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls: waiting, waking, finishing, deadlines and cancellation.
 *
 *   RUNNING ──call_wait──► WAITING ──wake──► (run queue) ──tick──► RUNNING
 *      │                      │
 *      └──call_finish─────────┴─────────► FINISHED ──done task──► callback, freed
 *
 * A call that is cancelled, or whose time is up, while requests of its own are under way (busy) is answered
 * early and lives on without its caller until they have ended; otherwise it ends at once.
 */
#include "client/internal.h"

static void run_calls(struct env_task *t);
static void finish_calls(struct env_task *t);
#define GAVE_UP_NS NS_PER_S /* servers that are back answer within this, and so does a clean file's one voter */

static void check_deadlines(struct env_timer *t);

void calls_init(struct tc_client *c)
{
    c->run_task.fn = run_calls;
    c->done_task.fn = finish_calls;
    c->call_timer.fn = check_deadlines;
}

struct tc_call *call_new(struct tc_client *c, enum call_result result, void (*tick)(struct tc_call *call), void *arg)
{
    struct tc_call *call = c->free_calls;

    if (call) {
        c->free_calls = call->next;
        memset(call, 0, sizeof(*call));
    } else {
        call = tc_calloc(1, sizeof(*call));
    }
    call->c = c;
    call->order = ++c->call_order;
    call->result = result;
    call->tick = tick;
    call->arg = arg;
    call->deadline = UINT64_MAX;
    if (c->wait_ns != UINT64_MAX) {
        uint64_t now = env_now(c->env);

        /* What a program does at once comes as several calls, one after the other: the first that waited in vain has
         * waited for all of them. */
        call->deadline = now + (c->gave_up_at && now < c->gave_up_at + c->wait_ns ? MIN(c->wait_ns, GAVE_UP_NS) : c->wait_ns);
        if (!env_timer_armed(&c->call_timer))
            env_timer_set(c->env, &c->call_timer, env_now(c->env) + 100 * NS_PER_MS);
    }
    DL_APPEND(c->calls, call);
    return call;
}

struct tc_call *call_start(struct tc_call *call)
{
    call->tick(call);
    return call;
}

void call_pin(struct tc_call *call, struct inode *i)
{
    ASSERT(!call->ino);
    inode_pin(i);
    call->ino = i;
}

static void call_unlink(struct tc_call *call)
{
    if (!call->waiting)
        return;
    DL_DELETE2(call->waiting->head, call, wprev, wnext);
    call->waiting = NULL;
}

void call_wait(struct tc_call *call, struct waitq *q)
{
    ASSERT(!call->waiting && !call->finished);
    call->waiting = q;
    DL_APPEND2(q->head, call, wprev, wnext);
}

/* The run queue is a wait queue like others, so that a call in it can be cancelled. */
void call_wake(struct tc_call *call)
{
    struct tc_client *c = call->c;

    if (call->finished)
        return;
    call_unlink(call);
    call_wait(call, &c->runq);
    env_defer(c->env, &c->run_task);
}

void waitq_wake(struct waitq *q)
{
    while (q->head)
        call_wake(q->head);
}

void waitq_fail(struct waitq *q, int status)
{
    while (q->head) {
        struct tc_call *call = q->head;

        call_unlink(call);
        call_finish(call, status);
    }
}

void waitq_tick(struct waitq *q)
{
    struct waitq now = *q;
    struct tc_call *call;

    q->head = NULL;
    DL_FOREACH2(now.head, call, wnext)
    call->waiting = &now;
    while (now.head) {
        call = now.head;
        call_unlink(call);
        call->tick(call);
    }
}

static void run_calls(struct env_task *t)
{
    struct tc_client *c = container_of(t, struct tc_client, run_task);
    struct waitq now = c->runq;
    struct tc_call *call;

    c->runq.head = NULL;
    DL_FOREACH2(now.head, call, wnext)
    call->waiting = &c->run_now;
    c->run_now = now;
    while (c->run_now.head) {
        call = c->run_now.head;
        call_unlink(call);
        call->tick(call);
    }
}

static void call_free(struct tc_call *call)
{
    struct tc_client *c = call->c;

    ASSERT(!call->waiting);
    DL_DELETE(c->calls, call);
    if (call->finished)
        DL_DELETE2(c->doneq.head, call, wprev, wnext);
    read_abandon(call);
    call->read = read_op_free(call->read);
    seek_abandon(call);
    free(call->seek);
    if (call->page)
        dirpage_unref(c, call->page);
    buf_unref(call->bytes);
    buf_unref(call->data);
    free(call->name);
    free(call->name2);
    if (call->file)
        file_unref(c, call->file);
    if (call->ino)
        inode_unpin(c, call->ino);
    if (call->ino2)
        inode_unpin(c, call->ino2);
    call->next = c->free_calls;
    c->free_calls = call;
}

/* What may be cached outside is decided as it goes out: a recall may have come since the call finished. */
static void answer_entry(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->counts ? inode_get(c, call->entry.ino) : inode_find(c, call->entry.ino);

    if (!i)
        return;
    if (call->counts)
        i->lookups++;
    outside_give_entry(c, i, &call->entry);
    if (call->name && call->ino)
        call->entry.entry_until = outside_give_name(c, call->ino, call->name, i->ino);
}

static void call_answer(struct tc_call *call)
{
    int status = call->status;

    if (call->answered)
        return;
    call->answered = true;
    if (status == 0 && call->has_entry && call->entry.ino)
        answer_entry(call);
    switch (call->result) {
    case RESULT_STATUS:
        if (call->fn.status)
            call->fn.status(call->arg, status);
        break;
    case RESULT_ENTRY:
        if (call->fn.entry)
            call->fn.entry(call->arg, status, status == 0 && call->has_entry ? &call->entry : NULL);
        break;
    case RESULT_BYTES:
        call->fn.bytes(call->arg, status, call->bytes ? call->bytes->data : NULL, call->bytes ? call->bytes->len : 0);
        break;
    case RESULT_READ:
        if (status == 0)
            read_deliver(call);
        else
            call->fn.read(call->arg, status, NULL, 0, 0);
        break;
    case RESULT_WRITE:
        if (call->fn.write)
            call->fn.write(call->arg, status, status == 0 ? call->len : 0, call->off);
        break;
    case RESULT_STATFS:
        call->fn.statfs(call->arg, status, status == 0 ? &call->statfs : NULL);
        break;
    case RESULT_SEEK:
        call->fn.seek(call->arg, status, call->off);
        break;
    case RESULT_LOCK:
        call->fn.lock(call->arg, status, status == 0 && call->lock_found ? &call->lock : NULL);
        break;
    case RESULT_READDIR:
        if (status == 0)
            dirpage_deliver(call);
        else
            call->fn.readdir(call->arg, status, NULL, 0, false);
        break;
    }
}

static void finish_calls(struct env_task *t)
{
    struct tc_client *c = container_of(t, struct tc_client, done_task);
    unsigned n = 0;

    /* Those that callbacks add wait for the next turn. */
    for (struct tc_call *call = c->doneq.head; call; call = call->wnext)
        n++;
    while (n-- > 0 && c->doneq.head) {
        struct tc_call *call = c->doneq.head;

        call_answer(call);
        call_free(call);
    }
    if (c->doneq.head)
        env_defer(c->env, t);
}

void call_finish(struct tc_call *call, int status)
{
    struct tc_client *c = call->c;

    ASSERT(!call->finished && !call->waiting);
    call_leave(call);
    if (!call->answered)
        call->status = status;
    call->finished = true;
    DL_APPEND2(c->doneq.head, call, wprev, wnext);
    env_defer(c->env, &c->done_task);
}

void call_finish_entry(struct tc_call *call, struct inode *i)
{
    inode_entry(i, &call->entry);
    outside_tell(call->c, i, call->entry.attr.size);
    call->has_entry = true;
    call_finish(call, 0);
}

/* Nobody answers: what an unmount asks for is told as it was known last, so that it need not wait. */
void calls_suspended(struct tc_client *c)
{
    struct tc_call *call, *tmp;

    DL_FOREACH_SAFE(c->calls, call, tmp)
    {
        struct tc_call *herald;
        bool root;

        if (call->finished || call->answered || !call->busy) /* a finished one has no inode any more */
            continue;
        root = call->tick == getattr_tick && call->ino->ino == c->root && call->ino->attr_known;
        if (!root && call->tick != statfs_tick)
            continue;
        herald = call_new(c, call->result, call->tick, call->arg);
        herald->fn = call->fn;
        herald->statfs = c->statfs;
        call->answered = true;
        if (root)
            call_finish_entry(herald, call->ino);
        else
            call_finish(herald, 0);
    }
}

/* End @call for its caller now. */
static void call_give_up(struct tc_call *call, int status)
{
    struct tc_client *c = call->c;

    if (call->finished || call->answered)
        return;
    call->status = status;
    if (!call->busy) {
        call_unlink(call);
        call_finish(call, status);
        return;
    }
    /* What it has sent goes on; its end finds nobody to tell. */
    if (call->result != RESULT_STATUS || call->fn.status) {
        struct tc_call *herald = call_new(c, call->result, call->tick, call->arg);

        herald->fn = call->fn;
        herald->off = call->off;
        call_finish(herald, status);
    }
    call->answered = true;
}

void tc_client_cancel(struct tc_client *c TC_UNUSED, struct tc_call *call)
{
    call_give_up(call, -TC_E_CANCELLED);
}

static void check_deadlines(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, call_timer);
    uint64_t now = env_now(c->env);
    struct tc_call *call, *tmp;
    bool more = false;

    DL_FOREACH_SAFE(c->calls, call, tmp)
    {
        if (call->deadline == UINT64_MAX || call->finished || call->answered)
            continue;
        if (now >= call->deadline) {
            c->gave_up_at = now;
            call_give_up(call, -TC_E_DEADLINE);
        } else {
            more = true;
        }
    }
    if (more)
        env_timer_set(c->env, t, now + 100 * NS_PER_MS);
}

void calls_fini(struct tc_client *c)
{
    struct tc_call *call;

    while (c->calls) {
        call = c->calls;
        call_unlink(call);
        call->entered = false;
        call_free(call);
    }
    while ((call = c->free_calls)) {
        c->free_calls = call->next;
        free(call);
    }
    env_defer_cancel(c->env, &c->run_task);
    env_defer_cancel(c->env, &c->done_task);
    env_timer_cancel(c->env, &c->call_timer);
}
