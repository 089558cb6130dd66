/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quorum writes (PROTOCOL 4.1 to 4.4): all voters at once, done at W durable acknowledgements of each set.
 *
 *   PLACING ──► WRITING ──► REPORTED ──► gone      PLACING: no map yet (op.blocked)
 *                  └── error ──┘                   WRITING: fewer than W acknowledged
 *                                                  REPORTED: done() ran; the rest is awaited for a while
 *
 * A write is never given up while fewer than W hold it, but for a fence, its deadline, or a quorum of full
 * disks: an item that failed or went unanswered is sent again, the same bytes under the same version.
 */
#include "client/quorum_internal.h"

#include "common/log.h"
#include "common/test_rules.h"

static void write_tick(struct env_timer *t);
static void write_done_task(struct env_task *t);
static void repair_free(struct qwrite *w);

static struct qwrite_op *op_of(struct qop *op)
{
    return (struct qwrite_op *)op; /* first member */
}

void qwrite_fill(struct qwrite_op *o, struct write_item *ret)
{
    const struct qwrite *w = o->w;

    *ret = (struct write_item){
        .pg = o->op.pg,
        .pg_epoch = o->op.pg_epoch,
        .ino = w->ino,
        .index = w->index,
        .first = w->first,
        .count = w->count,
        .vepoch = w->vepoch,
        .vseq = w->vseq,
        .size = w->size,
        .mtime = w->mtime,
        .flags = (w->zero ? WRITE_ZERO : 0) | (o->repair ? WRITE_REPAIR : 0),
        .pair_epoch = o->pair_epoch,
        .pair_seq = o->pair_seq,
    };
    if (!w->zero)
        ret->sums = (struct wire_bin){(const uint8_t *)w->sums, w->count * 8};
}

static void write_free(struct qwrite_op *o)
{
    qop_fini(&o->op);
    env_defer_cancel(o->op.q->env, &o->done_task);
    buf_unref(o->w->data);
    free(o);
}

void qwrite_free(struct qwrite_op *o)
{
    struct qwrite *w = o->w;
    bool ours = o->repair;

    write_free(o);
    if (ours)
        repair_free(w);
}

/* The last callback: all_done(), then the operation is gone. */
static void write_end(struct qwrite_op *o)
{
    struct qwrite *w = o->w;
    bool all = o->all;

    write_free(o);
    w->impl = NULL;
    w->all_done(w, all);
}

static void write_done_task(struct env_task *t)
{
    struct qwrite_op *o = container_of(t, struct qwrite_op, done_task);
    struct qwrite *w = o->w;
    bool end;

    end = o->all || o->done_status < 0;
    if (!o->reported) {
        o->reported = true;
        o->reported_at = env_now(o->op.q->env);
        if (!end)
            env_timer_set(o->op.q->env, &o->op.timer, o->reported_at + QUORUM_LAGGARD_WAIT);
        w->done(w, o->done_status); /* may not free: all_done() is still owed */
    }
    if (end)
        write_end(o);
}

static void write_report(struct qwrite_op *o, int status)
{
    if (o->done_task.queued)
        return;
    if (!o->reported)
        o->done_status = status;
    env_defer(o->op.q->env, &o->done_task);
}

static unsigned count_acks(const struct qwrite_op *o, uint8_t set)
{
    unsigned n = 0;

    for (unsigned i = 0; i < o->op.n_items; i++) {
        if (o->op.items[i].state == QITEM_ACKED && (o->op.items[i].set & set))
            n++;
    }
    return n;
}

static unsigned count_set(const struct qwrite_op *o, uint8_t set)
{
    unsigned n = 0;

    for (unsigned i = 0; i < o->op.n_items; i++)
        n += (o->op.items[i].set & set) != 0;
    return n;
}

static bool on_quorum(const struct qwrite_op *o)
{
    const struct map *m = o->op.q->owner.map(o->op.q->owner.arg);

    if (o->op.blocked || count_set(o, QSET_C1) == 0)
        return false;
    if (count_acks(o, QSET_C1) < (TC_RULE(WRITE_QUORUM) ? m->w : 1))
        return false;
    return count_set(o, QSET_C2) == 0 || !TC_RULE(NEXT_QUORUM) || count_acks(o, QSET_C2) >= m->w;
}

static bool on_all(const struct qwrite_op *o)
{
    for (unsigned i = 0; i < o->op.n_items; i++) {
        if (o->op.items[i].set && o->op.items[i].state != QITEM_ACKED)
            return false;
    }
    return o->op.n_items > 0 && !o->op.blocked;
}

static void write_check(struct qwrite_op *o)
{
    if (on_all(o))
        o->all = true;
    if (o->all || (!o->reported && on_quorum(o)))
        write_report(o, 0);
}

/* A full disk is final only when the others cannot make a quorum. */
static bool no_space(const struct qwrite_op *o)
{
    const struct map *m = o->op.q->owner.map(o->op.q->owner.arg);
    unsigned full = 0;

    for (unsigned i = 0; i < o->op.n_items; i++) {
        const struct qitem *it = &o->op.items[i];

        full += (it->set & QSET_C1) && it->state == QITEM_FAILED && it->status == -TC_E_NOSPC;
    }
    return m && full > 0 && count_set(o, QSET_C1) - full < m->w;
}

static void write_retry_at(struct qwrite_op *o, uint64_t at)
{
    if (o->reported)
        return; /* the timer is the laggard's end */
    if (!env_timer_armed(&o->op.timer) || o->op.timer.at > at)
        env_timer_set(o->op.q->env, &o->op.timer, at);
}

void qwrite_on_fail(struct qwrite_op *o, struct qitem *it, int status)
{
    uint64_t now = env_now(o->op.q->env);

    switch (-status) {
    case TC_E_FENCED:
        write_report(o, status);
        return;
    case TC_E_STALE_EPOCH:
    case TC_E_NOT_VOTER:
        write_retry_at(o, now + QUORUM_RETRY_DELAY);
        return;
    case TC_E_VERSION_CLASH:
        LOG_ERR("quorum", "a store holds another content under this version",
                "ino=%llu chunk=%u store=%llx version=%llu.%llu", (unsigned long long)o->w->ino, o->w->index,
                (unsigned long long)it->store, (unsigned long long)o->w->vepoch, (unsigned long long)o->w->vseq);
        break;
    case TC_E_NOSPC:
        if (!o->reported && no_space(o)) {
            write_report(o, status);
            return;
        }
        break;
    default:
        break;
    }
    write_retry_at(o, now + QUORUM_RETRY_DELAY * 5);
}

void qwrite_on_result(struct qwrite_op *o, struct qitem *it, const struct write_result *res)
{
    if (res->status == 0) {
        it->state = QITEM_ACKED;
        o->w->new_blocks = MAX(o->w->new_blocks, res->new_blocks);
        o->w->freed_blocks = MAX(o->w->freed_blocks, res->freed_blocks);
        write_check(o);
        return;
    }
    it->state = QITEM_FAILED;
    it->status = tc_error_from_wire(res->status);
    if (it->status == -TC_E_STALE_EPOCH || it->status == -TC_E_NOT_VOTER)
        quorum_stale_map(o->op.q);
    qwrite_on_fail(o, it, it->status);
}

static void write_send(struct qwrite_op *o)
{
    for (unsigned i = 0; i < o->op.n_items; i++) {
        struct qitem *it = &o->op.items[i];

        if (it->set && (it->state == QITEM_IDLE || it->state == QITEM_FAILED))
            qitem_queue(it);
    }
    write_retry_at(o, env_now(o->op.q->env) + o->op.resend_delay);
}

static void write_tick(struct env_timer *t)
{
    struct qwrite_op *o = op_of(container_of(t, struct qop, timer));
    uint64_t now = env_now(o->op.q->env);
    bool waiting = false;

    if (o->reported) {
        if (!o->done_task.queued)
            write_end(o); /* the laggards' time is up */
        return;
    }
    if (now >= o->w->deadline) {
        write_report(o, -TC_E_DEADLINE);
        return;
    }
    for (unsigned i = 0; i < o->op.n_items; i++) {
        struct qitem *it = &o->op.items[i];

        if (it->state == QITEM_SENT && now >= it->sent_at + o->op.resend_delay)
            qitem_leave(it);
        else if (it->state == QITEM_SENT || it->state == QITEM_QUEUED)
            waiting = true;
    }
    if (!waiting)
        o->op.resend_delay = MIN(o->op.resend_delay * 2, QUORUM_RESEND_MAX);
    if (!o->op.blocked)
        write_send(o);
    if (o->w->deadline != UINT64_MAX)
        write_retry_at(o, o->w->deadline);
}

void qwrite_on_map(struct qwrite_op *o)
{
    uint64_t before = o->op.pg_epoch;

    if (!qop_place(&o->op, o->w->ino, o->w->index))
        return;
    for (unsigned i = 0; i < o->op.n_items; i++) {
        struct qitem *it = &o->op.items[i];

        /* An acknowledgement of a store that stays a voter counts on: the block is on its disk. One that
         * left is asked nothing more and counts for nothing. What is queued is filled in when sent. */
        if (!it->set)
            qitem_leave(it);
        /* A newcomer may have left and come back between the maps, and dropped what it had (PROTOCOL 6.5). */
        else if (it->set == QSET_C2 && it->state == QITEM_ACKED && o->op.pg_epoch > before + 1 && TC_RULE(MISSED_EPOCH))
            it->state = QITEM_IDLE;
    }
    if (!o->reported && !o->done_task.queued)
        write_send(o);
    write_check(o);
}

void qwrite_on_fenced(struct qwrite_op *o)
{
    write_report(o, -TC_E_FENCED);
}

static struct qwrite_op *write_start(struct quorum *q, struct qwrite *w)
{
    struct qwrite_op *o = tc_calloc(1, sizeof(*o));

    ASSERT(w->count > 0 && w->first + w->count <= BLOCKS_PER_CHUNK);
    ASSERT(w->vepoch > 0 && (w->zero || (w->data && w->sums)));
    ASSERT(w->zero || w->data_off + (uint64_t)w->count * BLOCK_SIZE <= w->data->len);
    o->w = w;
    w->impl = o;
    w->new_blocks = w->freed_blocks = 0;
    if (w->data)
        buf_ref(w->data);
    o->op.timer.fn = write_tick;
    o->done_task.fn = write_done_task;
    qop_init(q, &o->op, QOP_WRITE);
    if (w->deadline != UINT64_MAX)
        write_retry_at(o, w->deadline);
    return o;
}

void quorum_write(struct quorum *q, struct qwrite *w)
{
    struct qwrite_op *o = write_start(q, w);

    if (qop_place(&o->op, w->ino, w->index))
        write_send(o);
}

/* ---- write-back of what was read (PROTOCOL 4.4) ---- */

struct repair {
    struct qwrite w;
    struct quorum *q;
    uint64_t sums[BLOCKS_PER_CHUNK];
    void (*done)(void *arg, int status);
    void *arg;
};

static void repair_done(struct qwrite *w, int status)
{
    struct repair *r = container_of(w, struct repair, w);

    if (r->done)
        r->done(r->arg, status);
    r->done = NULL;
}

static void repair_free(struct qwrite *w)
{
    struct repair *r = container_of(w, struct repair, w);

    ASSERT(r->q->n_repairs > 0);
    r->q->n_repairs--;
    buf_unref(w->data);
    free(r);
}

static void repair_all_done(struct qwrite *w, bool all TC_UNUSED)
{
    repair_free(w);
}

void quorum_repair(struct quorum *q, const struct qread *read, uint32_t first, uint32_t count, struct buf *data,
                   const uint64_t *known, unsigned n_known, void (*done)(void *arg, int status), void *arg)
{
    struct repair *r = tc_calloc(1, sizeof(*r));
    const struct qblock *b = &read->blocks[first - read->first];
    struct qwrite_op *o;

    r->q = q;
    r->done = done;
    r->arg = arg;
    r->w = (struct qwrite){.ino = read->ino, .index = read->index, .first = first, .count = count,
                           .vepoch = b->vepoch, .vseq = b->vseq, .size = read->pair_size,
                           .mtime = read->pair_mtime, .zero = b->kind == RUN_ZERO, .barrier = read->barrier,
                           .data = data, .sums = r->sums, .deadline = UINT64_MAX, .done = repair_done,
                           .all_done = repair_all_done};
    for (uint32_t i = 0; i < count; i++)
        r->sums[i] = b[i].sum;
    q->n_repairs++;
    o = write_start(q, &r->w);
    o->repair = true;
    o->pair_epoch = read->pair_epoch;
    o->pair_seq = read->pair_seq;
    if (!qop_place(&o->op, read->ino, read->index))
        return;
    for (unsigned i = 0; i < o->op.n_items; i++) {
        for (unsigned k = 0; k < n_known; k++) {
            if (o->op.items[i].store == known[k])
                o->op.items[i].state = QITEM_ACKED;
        }
    }
    write_send(o);
    write_check(o);
}
