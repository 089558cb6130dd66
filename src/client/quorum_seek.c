/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quorum seeks (PROTOCOL 4.10): every store that votes anywhere is asked for the first chunk it has of a range, all at once.
 *
 *   ASKING ──R voters of every group have said──► done
 *      ├──nobody left who might──► done, with an error
 *      ├──SEEK_WAIT_NS────────────► done, with an error
 *      └──another map─────────────► ASKING, anew
 *
 * A chunk that was written with acknowledgement is on W voters of its group, R of them said what they have, so one of those has it:
 * what lies before the least of all answers was never written. Groups move, so an answer is a vote only if its store and we
 * looked at the same map; ours is at least the grant's barrier. An error costs time and nothing else: the caller looks at the chunks.
 */
#include "client/quorum_internal.h"

#include "common/test_rules.h"

#define SEEK_WAIT_NS (300 * NS_PER_MS)

enum voter_state { VOTER_ASKED, VOTER_VOTED, VOTER_FAILED };

struct qseek_voter {
    uint64_t store;
    enum voter_state state;
};

static int voter_cmp(const void *a, const void *b)
{
    const struct qseek_voter *x = a, *y = b;

    return x->store < y->store ? -1 : x->store > y->store;
}

static struct qseek_voter *voter_of(const struct qseek_op *o, uint64_t store)
{
    struct qseek_voter key = {.store = store};

    return o->n ? bsearch(&key, o->voters, o->n, sizeof(key), voter_cmp) : NULL;
}

static void op_free(struct qseek_op *o)
{
    quorum_forget_seek(o);
    env_timer_cancel(o->q->env, &o->timer);
    env_defer_cancel(o->q->env, &o->done_task);
    DL_DELETE(o->q->seeks, o);
    free(o->voters);
    free(o);
}

static void done_task(struct env_task *t)
{
    struct qseek_op *o = container_of(t, struct qseek_op, done_task);
    struct qseek *s = o->s;
    int status = o->status;

    op_free(o);
    s->done(s, status);
}

static void report(struct qseek_op *o, int status)
{
    if (o->done_task.queued)
        return;
    o->status = status;
    env_defer(o->q->env, &o->done_task);
}

/* Have R voters of every group said what they have? */
static bool complete(struct qseek_op *o, const struct map *m)
{
    for (; o->pg < m->pg_count; o->pg++) {
        const struct map_pg *pg = &m->pgs[o->pg];
        unsigned votes = 0;

        for (unsigned i = 0; i < pg->n; i++) {
            const struct qseek_voter *v = voter_of(o, pg->voters[i]);

            votes += v && v->state == VOTER_VOTED;
        }
        if (votes < (TC_RULE(READ_QUORUM) ? m->r : 1))
            return false;
    }
    return true;
}

static void judge(struct qseek_op *o)
{
    const struct map *m = o->q->owner.map(o->q->owner.arg);

    if (o->done_task.queued || m->epoch != o->map_epoch)
        return;
    if (complete(o, m)) {
        report(o, 0);
        return;
    }
    for (uint32_t i = 0; i < o->n; i++) {
        if (o->voters[i].state == VOTER_ASKED)
            return;
    }
    report(o, -TC_E_UNREACHABLE);
}

void qseek_on_result(struct qseek_op *o, uint64_t store, const struct chunk_seek_res *res)
{
    struct qseek_voter *v = voter_of(o, store);

    if (!v)
        return;
    if (res->map_epoch > o->map_epoch) {
        quorum_stale_map(o->q); /* it is asked again under that one */
        return;
    }
    if (res->map_epoch != o->map_epoch) { /* it does not say: of an older version */
        qseek_on_fail(o, store);
        return;
    }
    v->state = VOTER_VOTED;
    if (res->found)
        o->s->next = MIN(o->s->next, MAX(res->index, o->s->from));
    judge(o);
}

void qseek_on_fail(struct qseek_op *o, uint64_t store)
{
    struct qseek_voter *v = voter_of(o, store);

    if (v)
        v->state = VOTER_FAILED;
    judge(o);
}

/* All stores of the map, in the order of their ids; those that vote nowhere leave. */
static void voters_take(struct qseek_op *o, const struct map *m)
{
    uint32_t n = 0;

    free(o->voters);
    o->voters = tc_calloc(m->n_stores + 1, sizeof(*o->voters));
    o->n = m->n_stores;
    for (uint32_t i = 0; i < m->n_stores; i++)
        o->voters[i] = (struct qseek_voter){m->stores[i].store, VOTER_FAILED};
    if (o->n)
        qsort(o->voters, o->n, sizeof(*o->voters), voter_cmp);
    for (uint32_t g = 0; g < m->pg_count; g++) {
        for (unsigned i = 0; i < m->pgs[g].n; i++) {
            struct qseek_voter *v = voter_of(o, m->pgs[g].voters[i]);

            if (v)
                v->state = VOTER_ASKED;
        }
    }
    for (uint32_t i = 0; i < o->n; i++) {
        if (o->voters[i].state == VOTER_ASKED)
            o->voters[n++] = o->voters[i];
    }
    o->n = n;
}

static void ask(struct qseek_op *o)
{
    const struct map *m = o->q->owner.map(o->q->owner.arg);
    struct chunk_seek_req req = {.ino = o->s->ino, .from = o->s->from, .to = o->s->to};

    quorum_forget_seek(o);
    if (!m || !m->pgs)
        return; /* there will be a map, or it is too late */
    o->map_epoch = m->epoch;
    o->pg = 0;
    o->s->next = o->s->to;
    voters_take(o, m);
    req.barrier = MAX(o->s->barrier, m->epoch);
    for (uint32_t i = 0; i < o->n; i++) {
        req.store = o->voters[i].store;
        if (quorum_ask_seek(o, req.store, &req) < 0)
            o->voters[i].state = VOTER_FAILED;
    }
    judge(o);
}

static void wait_over(struct env_timer *t)
{
    report(container_of(t, struct qseek_op, timer), -TC_E_DEADLINE);
}

void quorum_seek(struct quorum *q, struct qseek *s)
{
    struct qseek_op *o = tc_calloc(1, sizeof(*o));

    ASSERT(s->from < s->to);
    o->q = q;
    o->s = s;
    o->timer.fn = wait_over;
    o->done_task.fn = done_task;
    DL_APPEND(q->seeks, o);
    env_timer_set(q->env, &o->timer, env_now(q->env) + SEEK_WAIT_NS);
    ask(o);
}

void qseek_on_map(struct quorum *q)
{
    const struct map *m = q->owner.map(q->owner.arg);
    struct qseek_op *o;

    DL_FOREACH(q->seeks, o)
    {
        if (!o->done_task.queued && m && m->epoch != o->map_epoch)
            ask(o);
    }
}

void qseek_on_fenced(struct quorum *q)
{
    struct qseek_op *o;

    DL_FOREACH(q->seeks, o)
    {
        report(o, -TC_E_FENCED);
    }
}

void qseek_close(struct quorum *q)
{
    while (q->seeks)
        op_free(q->seeks);
}
