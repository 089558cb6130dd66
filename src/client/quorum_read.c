/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quorum reads (PROTOCOL 4.4, 4.9): data from one voter of C1, versions from another; per block the newest
 * of R votes wins.
 *
 *   PLACING ──► ASKING ──► (FETCHING) ──► (WRITING BACK) ──► done
 *
 * ASKING: some block has fewer than R votes; a third voter is asked when the hedge time has passed or an
 * answer is no vote. FETCHING: a block's newest version came without its data. WRITING BACK: the caller may
 * not return a version that is not known on W. A vote is per block: "unknown" (damaged there) is none.
 */
#include "client/quorum_internal.h"

#include <xxhash.h>

#include "common/log.h"
#include "common/test_rules.h"

#define ALONE_NS (300 * NS_PER_MS) /* a clean file's read waits so long for a second voter */

static void read_timer(struct env_timer *t);
static void read_done_task(struct env_task *t);

static struct qread_op *op_of(struct qop *op)
{
    return (struct qread_op *)op; /* first member */
}

static unsigned item_pos(const struct qread_op *o, const struct qitem *it)
{
    return (unsigned)(it - o->op.items);
}

void qread_fill(struct qread_op *o, const struct qitem *it, struct read_item *ret)
{
    const struct qread *r = o->r;

    *ret = (struct read_item){.pg = o->op.pg, .pg_epoch = o->op.pg_epoch, .ino = r->ino, .index = r->index,
                              .first = r->first, .count = r->count, .data = it->want_data};
}

static void free_vote(struct qread_op *o, unsigned i)
{
    if (o->votes[i] != o->result)
        free(o->votes[i]);
    o->votes[i] = NULL;
}

static void free_votes(struct qread_op *o)
{
    for (unsigned i = 0; i < QUORUM_ITEMS_MAX; i++)
        free_vote(o, i);
}

void qread_forget(struct qread_op *o, unsigned i)
{
    free_vote(o, i);
    o->payloads[i] = buf_unref(o->payloads[i]);
}

void qread_free(struct qread_op *o)
{
    if (!o->finished) {
        qop_fini(&o->op);
        env_defer_cancel(o->op.q->env, &o->done_task);
    }
    free_votes(o);
    free(o->result);
    for (unsigned i = 0; i < QUORUM_ITEMS_MAX; i++)
        buf_unref(o->payloads[i]);
    free(o);
}

void quorum_read_free(struct qread *r)
{
    struct qread_op *o = r->impl;

    if (!o)
        return;
    r->impl = NULL;
    r->blocks = NULL;
    if (o->repairs_pending == 0)
        qread_free(o);
    else
        o->abandoned = true;
}

static void read_report(struct qread_op *o, int status)
{
    o->done_status = status;
    env_defer(o->op.q->env, &o->done_task);
}

static void read_done_task(struct env_task *t)
{
    struct qread_op *o = container_of(t, struct qread_op, done_task);
    struct qread *r = o->r;

    qop_fini(&o->op);
    o->finished = true;
    free_votes(o);
    if (o->done_status < 0)
        r->blocks = NULL;
    r->done(r, o->done_status);
}

/* ---- choosing whom to ask ---- */

static bool asked(const struct qitem *it)
{
    return it->state == QITEM_QUEUED || it->state == QITEM_SENT;
}

/* The best voter not yet asked: not suspect first, then by turns so that load spreads. */
static struct qitem *next_voter(struct qread_op *o)
{
    uint64_t now = env_now(o->op.q->env);
    unsigned start = (unsigned)((o->r->ino + o->r->index) % (o->op.n_items ? o->op.n_items : 1));
    struct qitem *second = NULL;

    for (unsigned k = 0; k < o->op.n_items; k++) {
        struct qitem *it = &o->op.items[(start + k) % o->op.n_items];

        if (!(it->set & QSET_C1) || it->state != QITEM_IDLE || o->votes[item_pos(o, it)])
            continue;
        if (!qstore_suspect(quorum_store(o->op.q, it->store), now))
            return it;
        if (!second)
            second = it;
    }
    return second;
}

static bool ask_next(struct qread_op *o, bool data)
{
    struct qitem *it = next_voter(o);

    if (!it)
        return false;
    it->want_data = data && !o->r->versions_only;
    qitem_queue(it);
    return true;
}

static bool have_data(const struct qread_op *o)
{
    for (unsigned i = 0; i < o->op.n_items; i++) {
        if (o->votes[i] && o->op.items[i].want_data)
            return true;
    }
    return false;
}

static void set_hedge(struct qread_op *o)
{
    struct quorum *q = o->op.q;
    uint64_t wait = QUORUM_HEDGE_MIN;

    for (unsigned i = 0; i < o->op.n_items; i++) {
        struct qstore *s = asked(&o->op.items[i]) ? quorum_store(q, o->op.items[i].store) : NULL;

        if (s)
            wait = MAX(wait, s->hedge_estimate);
    }
    /* A read of many blocks takes longer to send than the p95 of small ones tells. */
    wait += (uint64_t)o->r->count * 20 * NS_PER_US;
    env_timer_set(q->env, &o->op.timer, MIN(env_now(q->env) + wait, o->r->deadline));
}

static void read_start(struct qread_op *o)
{
    unsigned need = TC_RULE(READ_QUORUM) ? o->op.q->owner.map(o->op.q->owner.arg)->r : 1;

    ASSERT(!o->r->expect || !(o->r->write_back || o->r->versions_only));
    if (o->r->expect)
        need = 1;
    for (unsigned i = 0; i < need; i++)
        (void)ask_next(o, i == 0); /* fewer voters than R: the timer asks again */
    set_hedge(o);
}

/* ---- one voter's answer ---- */

static bool runs_cover(const struct read_result *res, uint32_t count, uint32_t *ret_data_blocks)
{
    uint64_t total = 0, data = 0;

    for (uint32_t i = 0; i < res->runs.n; i++) {
        const struct version_run *run = &res->runs.items[i];

        if (run->kind > RUN_UNKNOWN || run->count == 0 || run->count > count)
            return false;
        total += run->count;
        data += run->kind == RUN_DATA ? run->count : 0;
    }
    *ret_data_blocks = (uint32_t)data;
    return total == count && res->sums.n == data * 8;
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v; /* little-endian hosts only: asserted at build in wire.c's platform check */
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "block sums are copied as they lie on the wire");

static void expand_runs(struct qread_op *o, const struct qitem *it, const struct read_result *res,
                        const uint8_t *data, struct qblock *v)
{
    const uint8_t *sums = res->sums.p;
    uint32_t b = 0;

    for (uint32_t i = 0; i < res->runs.n; i++) {
        const struct version_run *run = &res->runs.items[i];

        for (uint32_t k = 0; k < run->count; k++, b++) {
            v[b] = (struct qblock){.kind = (uint8_t)run->kind, .vepoch = run->vepoch, .vseq = run->vseq};
            if (run->kind == RUN_UNKNOWN && (!TC_RULE(UNKNOWN) || (o->r->clean && !TC_RULE(CLEAN_INTACT))))
                v[b] = (struct qblock){.kind = RUN_NONE};
            if (run->kind != RUN_DATA)
                continue;
            v[b].sum = get_u64(sums);
            sums += 8;
            if (!it->want_data)
                continue;
            v[b].data = data;
            data += BLOCK_SIZE;
            if (XXH3_64bits(v[b].data, BLOCK_SIZE) != v[b].sum) {
                LOG_ERR("quorum", "block from a store fails its checksum, asking another",
                        "ino=%llu chunk=%u block=%u store=%llx", (unsigned long long)o->r->ino, o->r->index,
                        o->r->first + b, (unsigned long long)it->store);
                v[b].kind = RUN_UNKNOWN;
                v[b].data = NULL;
            }
        }
    }
}

static void take_pair(struct qread *r, const struct read_result *res)
{
    if (res->pair_epoch < r->pair_epoch || (res->pair_epoch == r->pair_epoch && res->pair_seq <= r->pair_seq))
        return;
    r->pair_epoch = res->pair_epoch;
    r->pair_seq = res->pair_seq;
    r->pair_size = res->size;
    r->pair_mtime = res->mtime;
}

int64_t qread_on_result(struct qread_op *o, struct qitem *it, const struct read_result *res, struct buf *payload,
                        uint64_t off)
{
    unsigned pos = item_pos(o, it);
    uint32_t data_blocks;
    uint64_t len;

    if (res->status != 0) {
        it->state = QITEM_FAILED;
        it->status = tc_error_from_wire(res->status);
        if (it->status == -TC_E_STALE_EPOCH || it->status == -TC_E_NOT_VOTER)
            quorum_stale_map(o->op.q);
        qread_on_fail(o, it, it->status);
        return 0;
    }
    if (!runs_cover(res, o->r->count, &data_blocks))
        return -TC_E_BAD_MESSAGE;
    len = it->want_data ? (uint64_t)data_blocks * BLOCK_SIZE : 0;
    if (len && (!payload || off + len > payload->len))
        return -TC_E_BAD_MESSAGE;
    free(o->votes[pos]); /* an earlier answer without data */
    o->votes[pos] = tc_calloc(o->r->count, sizeof(struct qblock));
    expand_runs(o, it, res, len ? payload->data + off : NULL, o->votes[pos]);
    buf_unref(o->payloads[pos]);
    o->payloads[pos] = len ? buf_ref(payload) : NULL;
    take_pair(o->r, res);
    it->state = QITEM_ACKED;
    if (!o->done_task.queued && o->repairs_pending == 0)
        qread_tick(o);
    return (int64_t)len;
}

void qread_on_fail(struct qread_op *o, struct qitem *it TC_UNUSED, int status)
{
    if (o->done_task.queued)
        return;
    if (status == -TC_E_FENCED) {
        read_report(o, status);
        return;
    }
    /* Ask another at once; when there is none, the timer tries all again. */
    if (!o->op.blocked && ask_next(o, !have_data(o)))
        return;
    env_timer_set(o->op.q->env, &o->op.timer,
                  MIN(o->r->deadline, env_now(o->op.q->env) + QUORUM_RETRY_DELAY));
}

/* ---- what the answers say together ---- */

static int version_cmp(const struct qblock *a, const struct qblock *b)
{
    if (a->vepoch != b->vepoch)
        return a->vepoch < b->vepoch ? -1 : 1;
    return a->vseq < b->vseq ? -1 : a->vseq > b->vseq;
}

enum verdict { READ_COMPLETE, READ_MORE_VOTES, READ_FETCHING, READ_CLASH };

/* Newest of the votes for block @b into o->result[b]; where its data is missing, *ret_from says who has it. */
static enum verdict judge_block(struct qread_op *o, uint32_t b, unsigned need, int *ret_from)
{
    struct qblock best = {.kind = RUN_NONE};
    unsigned votes = 0;
    int from = -1;

    for (unsigned i = 0; i < o->op.n_items; i++) {
        const struct qblock *v = o->votes[i] ? &o->votes[i][b] : NULL;
        int c;

        if (!v || v->kind == RUN_UNKNOWN || !(o->op.items[i].set & QSET_C1))
            continue;
        c = votes == 0 ? 1 : version_cmp(v, &best);
        votes++;
        if (c == 0 && v->kind != RUN_NONE && (v->kind != best.kind || v->sum != best.sum) && TC_RULE(CLASH))
            return READ_CLASH;
        if (c > 0 || (c == 0 && !best.data && v->data)) {
            best = *v;
            from = (int)i;
        }
    }
    if (votes < need)
        return READ_MORE_VOTES;
    o->result[b] = best;
    if (best.kind == RUN_DATA && !best.data && !o->r->versions_only) {
        *ret_from = from;
        return READ_FETCHING;
    }
    return READ_COMPLETE;
}

/* Most reads: the first two answers say the same. Then the one with the data is the result. */
static bool unanimous(struct qread_op *o, unsigned need)
{
    const struct qblock *data = NULL, *other = NULL;
    unsigned votes = 0;

    for (unsigned i = 0; i < o->op.n_items; i++) {
        if (!o->votes[i] || !(o->op.items[i].set & QSET_C1))
            continue;
        votes++;
        if ((o->op.items[i].want_data || o->r->versions_only) && !data)
            data = o->votes[i];
        else
            other = o->votes[i];
    }
    if (votes != need || need > 2 || !data)
        return false;
    for (uint32_t b = 0; b < o->r->count; b++) {
        if (data[b].kind == RUN_UNKNOWN)
            return false;
        if (data[b].kind == RUN_DATA && !data[b].data && !o->r->versions_only)
            return false; /* asked for it only after this answer */
        if (other &&
            (version_cmp(&data[b], &other[b]) != 0 || data[b].kind != other[b].kind || data[b].sum != other[b].sum))
            return false;
    }
    memcpy(o->result, data, o->r->count * sizeof(*data));
    return true;
}

/* A voter whose data is of the versions that the caller knows to be the newest. */
static bool as_expected(struct qread_op *o)
{
    for (unsigned i = 0; i < o->op.n_items; i++) {
        const struct qblock *v = o->votes[i];
        uint32_t b = 0;

        if (!v || !(o->op.items[i].set & QSET_C1))
            continue;
        while (b < o->r->count && v[b].kind == o->r->expect[b].kind &&
               (version_cmp(&v[b], &o->r->expect[b]) == 0 || !TC_RULE(KNOWN_EXACT)) &&
               (v[b].kind != RUN_DATA || (v[b].data && (v[b].sum == o->r->expect[b].sum || !TC_RULE(KNOWN_EXACT)))))
            b++;
        if (b < o->r->count)
            continue;
        memcpy(o->result, v, o->r->count * sizeof(*v));
        return true;
    }
    return false;
}

/* How many must say which version is the newest. Of a clean file all voters have the same, so when nobody else answers any
 * one of them that can answer will do. */
static unsigned votes_needed(const struct qread_op *o)
{
    if (o->r->clean && env_now(o->op.q->env) >= o->op.started + ALONE_NS)
        return 1;
    return TC_RULE(READ_QUORUM) ? o->op.q->owner.map(o->op.q->owner.arg)->r : 1;
}

static enum verdict judge(struct qread_op *o)
{
    unsigned need = votes_needed(o);
    enum verdict verdict = READ_COMPLETE;

    if ((o->r->expect && as_expected(o)) || unanimous(o, need))
        return READ_COMPLETE;
    for (uint32_t b = 0; b < o->r->count; b++) {
        int from = -1;
        enum verdict v = judge_block(o, b, need, &from);

        if (v == READ_CLASH) {
            LOG_ERR("quorum", "two contents under one version", "ino=%llu chunk=%u block=%u",
                    (unsigned long long)o->r->ino, o->r->index, o->r->first + b);
            return v;
        }
        if (v == READ_FETCHING && verdict == READ_COMPLETE) {
            struct qitem *it = &o->op.items[from];

            verdict = READ_FETCHING;
            if (it->want_data) {
                verdict = READ_MORE_VOTES; /* it gave data that failed its checksum */
            } else if (!asked(it)) {
                it->want_data = true;
                it->state = QITEM_IDLE;
                qitem_queue(it);
            }
        }
        if (v == READ_MORE_VOTES)
            return v;
    }
    return verdict;
}

/* ---- laggards ---- */

static void back_written(void *arg, int status)
{
    struct qread_op *o = arg;

    ASSERT(o->repairs_pending > 0);
    if (status < 0)
        o->repair_status = status;
    if (--o->repairs_pending > 0)
        return;
    if (o->abandoned) {
        qread_free(o);
        return;
    }
    read_report(o, o->repair_status);
}

/* Does item @i's answer hold the result's version of block @b? */
static bool holds(const struct qread_op *o, unsigned i, uint32_t b)
{
    return o->votes[i] && o->votes[i][b].kind != RUN_UNKNOWN && version_cmp(&o->votes[i][b], &o->result[b]) == 0;
}

static uint32_t holders(const struct qread_op *o, uint32_t b)
{
    uint32_t mask = 0;

    for (unsigned i = 0; i < o->op.n_items; i++)
        mask |= holds(o, i, b) ? 1u << i : 0;
    return mask;
}

static uint32_t answered(const struct qread_op *o)
{
    uint32_t mask = 0;

    for (unsigned i = 0; i < o->op.n_items; i++)
        mask |= o->votes[i] ? 1u << i : 0;
    return mask;
}

static bool needs_repair(const struct qread_op *o, uint32_t b, unsigned w)
{
    uint32_t have = holders(o, b);

    if (o->result[b].kind == RUN_NONE || o->r->versions_only || !TC_RULE(WRITE_BACK))
        return false;
    if (o->r->write_back)
        return (unsigned)__builtin_popcount(have) < w;
    return have != answered(o) && TC_RULE(LAGGARD);
}

static void repair_run(struct qread_op *o, uint32_t b, uint32_t n)
{
    uint32_t have = holders(o, b);
    uint64_t known[QUORUM_ITEMS_MAX];
    struct buf *data = NULL;
    unsigned n_known = 0;

    for (unsigned i = 0; i < o->op.n_items; i++) {
        if (have & (1u << i))
            known[n_known++] = o->op.items[i].store;
    }
    if (o->result[b].kind == RUN_DATA) {
        data = buf_new(n * BLOCK_SIZE);
        for (uint32_t k = 0; k < n; k++)
            memcpy(data->data + (size_t)k * BLOCK_SIZE, o->result[b + k].data, BLOCK_SIZE);
        data->len = n * BLOCK_SIZE;
    }
    if (o->r->write_back)
        o->repairs_pending++;
    quorum_repair(o->op.q, o->r, o->r->first + b, n, data, known, n_known,
                  o->r->write_back ? back_written : NULL, o);
}

static void repair_laggards(struct qread_op *o)
{
    unsigned w = o->op.q->owner.map(o->op.q->owner.arg)->w;
    uint32_t b = 0;

    o->r->blocks = o->result;
    while (b < o->r->count) {
        uint32_t n = 1;

        if (!needs_repair(o, b, w) || (!o->r->write_back && o->op.q->n_repairs >= QUORUM_REPAIRS_MAX)) {
            b++;
            continue;
        }
        while (b + n < o->r->count && needs_repair(o, b + n, w) && o->result[b + n].kind == o->result[b].kind &&
               version_cmp(&o->result[b + n], &o->result[b]) == 0 && holders(o, b + n) == holders(o, b))
            n++;
        repair_run(o, b, n);
        b += n;
    }
}

/* ---- progress ---- */

void qread_tick(struct qread_op *o)
{
    switch (judge(o)) {
    case READ_COMPLETE:
        o->r->blocks = o->result;
        for (unsigned i = 0; i < o->op.n_items; i++)
            qitem_leave(&o->op.items[i]); /* a hedge still under way is of no interest */
        repair_laggards(o);
        if (o->repairs_pending == 0)
            read_report(o, 0);
        return;
    case READ_CLASH:
        read_report(o, -TC_E_VERSION_CLASH);
        return;
    case READ_FETCHING:
        return; /* set going by judge(); the timer watches */
    case READ_MORE_VOTES:
        for (unsigned i = 0; i < o->op.n_items; i++) {
            if (asked(&o->op.items[i]))
                return; /* enough are under way; the hedge timer adds one */
        }
        (void)ask_next(o, true); /* none left: the timer asks all again */
        return;
    }
}

static void read_timer(struct env_timer *t)
{
    struct qread_op *o = op_of(container_of(t, struct qop, timer));
    uint64_t now = env_now(o->op.q->env);

    if (o->done_task.queued || o->repairs_pending > 0)
        return;
    if (now >= o->r->deadline) {
        read_report(o, -TC_E_DEADLINE);
        return;
    }
    if (o->op.blocked) {
        env_timer_set(o->op.q->env, &o->op.timer, MIN(o->r->deadline, now + NS_PER_S));
        return;
    }
    if (o->r->clean && now >= o->op.started + ALONE_NS) {
        qread_tick(o);
        if (o->done_task.queued || o->repairs_pending > 0)
            return;
    }
    for (unsigned i = 0; i < o->op.n_items; i++) {
        struct qitem *it = &o->op.items[i];

        if (it->state == QITEM_SENT && now >= it->sent_at + QUORUM_RESEND_MIN)
            qitem_leave(it); /* lost, or the store was restarted */
        if (it->state == QITEM_FAILED)
            it->state = QITEM_IDLE;
    }
    if (!ask_next(o, !have_data(o))) {
        /* All have been asked. Those whose answer was no help are asked again: a damaged block may have been
         * mended, and fetched data may have been lost on the way. */
        for (unsigned i = 0; i < o->op.n_items; i++) {
            struct qitem *it = &o->op.items[i];

            if ((it->set & QSET_C1) && it->state == QITEM_ACKED && now > o->op.started + NS_PER_S)
                it->state = QITEM_IDLE;
            if ((it->set & QSET_C1) && it->state == QITEM_IDLE) {
                it->want_data = !o->r->versions_only;
                qitem_queue(it);
            }
        }
        env_timer_set(o->op.q->env, &o->op.timer, MIN(o->r->deadline, now + 10 * QUORUM_RETRY_DELAY));
        return;
    }
    set_hedge(o);
}

void qread_on_map(struct qread_op *o)
{
    if (o->done_task.queued || o->repairs_pending > 0)
        return;
    /* Voters may have changed: begin again, keeping answers of stores that still vote. */
    if (!qop_place(&o->op, o->r->ino, o->r->index))
        return;
    for (unsigned i = 0; i < o->op.n_items; i++) {
        struct qitem *it = &o->op.items[i];

        if (!(it->set & QSET_C1))
            qitem_leave(it);
        if (it->state == QITEM_FAILED)
            it->state = QITEM_IDLE;
    }
    qread_tick(o);
    if (!o->done_task.queued && o->repairs_pending == 0)
        set_hedge(o);
}

void qread_on_fenced(struct qread_op *o)
{
    if (!o->done_task.queued && o->repairs_pending == 0)
        read_report(o, -TC_E_FENCED);
}

void quorum_read(struct quorum *q, struct qread *r)
{
    struct qread_op *o = tc_calloc(1, sizeof(*o));

    ASSERT(r->count > 0 && r->first + r->count <= BLOCKS_PER_CHUNK);
    o->r = r;
    r->impl = o;
    r->blocks = NULL;
    r->pair_epoch = r->pair_seq = r->pair_size = r->pair_mtime = 0;
    o->result = tc_calloc(r->count, sizeof(struct qblock));
    o->op.timer.fn = read_timer;
    o->done_task.fn = read_done_task;
    qop_init(q, &o->op, QOP_READ);
    if (qop_place(&o->op, r->ino, r->index))
        read_start(o);
    else
        env_timer_set(q->env, &o->op.timer, MIN(r->deadline, env_now(q->env) + NS_PER_S));
}
