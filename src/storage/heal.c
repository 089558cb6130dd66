/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One chunk brought up to date: look, fetch, write (the last two: heal_move.c).
 *
 *   LOOK ──► FETCH ──► WRITE ──► DONE      suspended in LOOK, FETCH, WRITE (answers of this store and of peers)
 *     └────────┴── error ┴──────────▲
 *
 * LOOK asks every source for versions, FETCH takes the newest of every block that some target lacks from one that has
 * it, WRITE brings it to the targets, as a repair: a target keeps what is newer. HEAL_LOCAL: a read quorum of C1 is
 * looked at, this store is the target (backfill, rejoin: PROTOCOL 6.3). HEAL_ALL: all voters of both sets are looked at
 * and are targets, and one that does not answer fails it (reconciliation: PROTOCOL 3.6 b).
 *
 * A block that a source cannot vouch for is not its vote. One without enough votes is left, and fails the chunk when all
 * others are done; a reconciliation at once. What is unknown here without its version takes another's only when no
 * writer's acknowledgement can be under way (heal.unsettled): this store may be one of the two that a write counts.
 */
#include <endian.h>

#include "common/log.h"
#include "common/test_rules.h"
#include "storage/heal_int.h"

#define TRIES_MAX 4
#define HURRY_NS (100 * NS_PER_MS) /* for the last, when a quorum has answered */

static bool pair_newer(const struct chunk_pair *a, const struct chunk_pair *b)
{
    return a->vepoch > b->vepoch || (a->vepoch == b->vepoch && a->vseq > b->vseq);
}

/* ---- the end ---------------------------------------------------------------------------------------------- */

static void forget_data(struct heal_work *w)
{
    for (uint32_t i = 0; i < w->n; i++) {
        struct party *p = &w->parties[i];

        p->payload = buf_unref(p->payload);
        p->outgoing = buf_unref(p->outgoing);
        free(p->reads);
        free(p->writes);
        p->reads = NULL;
        p->writes = NULL;
    }
    memset(w->data, 0, sizeof w->data);
}

static void work_free(struct heal_work *w)
{
    for (uint32_t i = 0; i < w->n; i++) {
        struct party *p = &w->parties[i];

        rpc_cancel(&p->call);
        if (p->self) {
            env_defer_cancel(w->s->env, &p->read.task);
            env_defer_cancel(w->s->env, &p->write.task);
        }
    }
    env_defer_cancel(w->s->env, &w->task);
    forget_data(w);
    free(w);
}

static void finish(struct heal_work *w, int status)
{
    struct heal *h = w->h;

    work_free(w);
    h->work = NULL;
    h->done(h, status);
}

/* A quorum can do without one that is hung. */
static void look_hurry(struct heal_work *w)
{
    uint32_t ok = 0;

    for (uint32_t i = 0; i < w->n; i++)
        ok += w->parties[i].source && !w->parties[i].asked && w->parties[i].status == 0;
    for (uint32_t i = 0; i < w->n && ok >= w->need; i++)
        rpc_hurry(&w->parties[i].call, HURRY_NS);
}

/* Sources that were heard suffice: those that were not are left alone. */
static bool look_enough(struct heal_work *w)
{
    uint32_t ok = 0;

    for (uint32_t i = 0; i < w->n; i++) {
        struct rpc_link *l = w->parties[i].self ? NULL : server_peer(w->s, w->parties[i].store);

        ok += w->parties[i].source && (w->parties[i].self || (l && !rpc_silent(l)));
    }
    return w->h->mode == HEAL_LOCAL && ok >= w->need;
}

/* A party has answered, or will not. */
void heal_party_done(struct party *p, int status)
{
    struct heal_work *w = p->w;

    p->asked = false;
    p->status = status;
    ASSERT(w->left > 0);
    if (--w->left == 0)
        env_defer(w->s->env, &w->task);
    else if (w->state == LOOK && w->h->mode == HEAL_LOCAL)
        look_hurry(w);
}

/* ---- looking -------------------------------------------------------------------------------------------------- */

static void self_looked(struct chunk_read_op *op)
{
    struct party *p = container_of(op, struct party, read);
    int status = p->reads[0].status;

    if (status == 0) {
        memcpy(p->blocks, p->reads[0].blocks, sizeof p->blocks);
        p->pair = p->reads[0].pair;
    }
    chunk_read_op_fini(op);
    heal_party_done(p, status);
}

/* Blocks and sums of a read result into @to; false: it does not make sense. */
bool heal_result_blocks(const struct read_result *r, uint32_t count, struct chunk_block *to)
{
    uint32_t at = 0, sums = 0;

    for (uint32_t i = 0; i < r->runs.n; i++) {
        const struct version_run *run = &r->runs.items[i];

        if (run->count > count - at || run->kind > RUN_UNKNOWN)
            return false;
        for (uint32_t k = 0; k < run->count; k++, at++) {
            to[at] = (struct chunk_block){run->vepoch, run->vseq, 0, (uint8_t)run->kind};
            if (run->kind != RUN_DATA)
                continue;
            if (sums + 8 > r->sums.n)
                return false;
            memcpy(&to[at].sum, r->sums.p + sums, 8);
            to[at].sum = le64toh(to[at].sum);
            sums += 8;
        }
    }
    return at == count;
}

static void peer_looked(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct party *p = container_of(c, struct party, call);
    struct wire_arena a = {0};
    struct read_res res;
    int status = reply->status;

    if (status == 0)
        status = wire_decode(reply->body, &read_res_schema, &a, &res);
    if (status == 0 && res.items.n != 1)
        status = -TC_E_BAD_MESSAGE;
    if (status == 0)
        status = tc_error_from_wire(res.items.items[0].status);
    if (status == 0 && !heal_result_blocks(&res.items.items[0], BLOCKS_PER_CHUNK, p->blocks))
        status = -TC_E_BAD_MESSAGE;
    if (status == 0) {
        const struct read_result *r = &res.items.items[0];

        p->pair = (struct chunk_pair){r->pair_epoch, r->pair_seq, r->size, r->mtime};
    }
    wire_arena_fini(&a);
    heal_party_done(p, status);
}

struct read_item heal_item_of(const struct heal_work *w, uint32_t first, uint32_t count, bool data)
{
    const struct chunk_key *k = &w->h->key;

    return (struct read_item){.pg = k->pg, .pg_epoch = w->pg_epoch, .ino = k->ino, .index = k->index, .gen = k->gen,
                              .first = first, .count = count, .data = data};
}

static void look_one(struct party *p, bool enough)
{
    struct heal_work *w = p->w;
    struct read_item it = heal_item_of(w, 0, BLOCKS_PER_CHUNK, false);
    struct read_req req = {.barrier = w->barrier, .items = {&it, 1}, .store = p->store};
    struct rpc_link *l;

    w->left++;
    p->asked = true;
    if (p->self) {
        p->reads = tc_calloc(1, sizeof(*p->reads));
        p->reads[0] = (struct chunk_read){.key = w->h->key, .count = BLOCKS_PER_CHUNK};
        p->read = (struct chunk_read_op){.items = p->reads, .n = 1, .done = self_looked};
        chunk_store_read(w->s->cs, &p->read);
        return;
    }
    l = server_peer(w->s, p->store);
    if (!l || (enough && rpc_silent(l))) {
        heal_party_done(p, -TC_E_UNREACHABLE);
        return;
    }
    p->call.done = peer_looked;
    rpc_call(l, &p->call, MSG_READ, &read_req_schema, &req, NULL, HEAL_CALL_NS);
}

static void look(struct heal_work *w)
{
    bool enough = look_enough(w);

    forget_data(w);
    w->state = LOOK;
    w->left = 1;
    for (uint32_t i = 0; i < w->n; i++) {
        w->parties[i].status = 0;
        w->parties[i].asked = true; /* nobody has answered yet */
    }
    for (uint32_t i = 0; i < w->n; i++)
        look_one(&w->parties[i], enough);
    if (--w->left == 0)
        env_defer(w->s->env, &w->task);
}

/* ---- comparing ------------------------------------------------------------------------------------------------- */

/*
 * The newest of block @b among the sources; false: not enough of them can say. One that lost the bytes but knows the
 * version says at least that it was there; reconciliation, which all must be able to pass, does not count it.
 */
static bool compare_block(struct heal_work *w, uint32_t b)
{
    struct chunk_block *best = &w->newest[b];
    uint32_t votes = 0;

    *best = (struct chunk_block){0};
    for (uint32_t i = 0; i < w->n; i++) {
        struct party *p = &w->parties[i];
        const struct chunk_block *v = &p->blocks[b];
        int cmp = version_cmp(v, best);

        if (!p->source || p->status < 0 || (v->kind == RUN_UNKNOWN && (!v->vepoch || w->h->mode == HEAL_ALL)))
            continue;
        votes++;
        if (cmp > 0 || (cmp == 0 && best->kind == RUN_UNKNOWN))
            *best = *v;
    }
    return votes >= w->need && best->kind != RUN_UNKNOWN;
}

static struct party *holder_of(struct heal_work *w, uint32_t b)
{
    for (uint32_t i = 0; i < w->n; i++) { /* self comes first */
        struct party *p = &w->parties[i];

        if (p->status == 0 && p->blocks[b].kind == w->newest[b].kind && version_cmp(&p->blocks[b], &w->newest[b]) == 0 &&
            p->blocks[b].sum == w->newest[b].sum)
            return p;
    }
    return NULL;
}

static void lack(struct heal_work *w, struct party *t, uint32_t b)
{
    t->lacks[b] = t->lacks_any = true;
    if (w->newest[b].kind == RUN_DATA) {
        struct party *from = holder_of(w, b);

        ASSERT(from);
        from->gives[b] = from->gives_any = true;
    }
}

/* A target whose blocks are all there but not the pair gets it with any block. */
static void lack_pair(struct heal_work *w, struct party *t)
{
    int pick = -1;

    if (t->lacks_any || !pair_newer(&w->pair, &t->pair) || w->pair.vepoch < w->h->from_epoch)
        return;
    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++) {
        if (w->newest[b].kind == RUN_ZERO || (w->newest[b].kind == RUN_DATA && pick < 0))
            pick = (int)b;
    }
    if (pick >= 0)
        lack(w, t, (uint32_t)pick);
}

static int compare(struct heal_work *w)
{
    uint32_t answered = 0;

    memset(&w->pair, 0, sizeof w->pair);
    w->unsure = false;
    for (uint32_t i = 0; i < w->n; i++) {
        struct party *p = &w->parties[i];

        memset(p->lacks, 0, sizeof p->lacks);
        memset(p->gives, 0, sizeof p->gives);
        p->lacks_any = p->gives_any = false;
        if (!TC_RULE(RECONCILE_ALL))
            p->target = p->target && p->status == 0;
        else if (p->status < 0 && (p->target || w->h->mode == HEAL_ALL))
            return w->h->mode == HEAL_ALL ? -TC_E_QUORUM_LOST : p->status;
        answered += p->source && p->status == 0;
        if (p->source && p->status == 0 && pair_newer(&p->pair, &w->pair))
            w->pair = p->pair;
    }
    if (answered < w->need)
        return -TC_E_QUORUM_LOST;
    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++) {
        w->absent[b] = false;
        if (!compare_block(w, b)) {
            if (w->h->mode == HEAL_ALL)
                return -TC_E_UNKNOWN_BLOCK;
            w->unsure = true;
            w->newest[b] = (struct chunk_block){0};
            continue;
        }
        w->absent[b] = w->newest[b].kind == RUN_NONE && !w->h->unsettled;
        for (uint32_t i = 0; i < w->n && w->newest[b].vepoch; i++) {
            struct party *p = &w->parties[i];
            bool unknown = p->blocks[b].kind == RUN_UNKNOWN;

            if (unknown && p->self && w->h->unsettled && !p->blocks[b].vepoch)
                continue;
            if (p->target && w->newest[b].vepoch >= w->h->from_epoch &&
                (unknown || version_cmp(&p->blocks[b], &w->newest[b]) < 0))
                lack(w, p, b);
        }
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->parties[i].target)
            lack_pair(w, &w->parties[i]);
    }
    return 0;
}

/* ---- the steps ---------------------------------------------------------------------------------------------------------- */

/* Everything that was asked has answered. */
static void step(struct env_task *t)
{
    struct heal_work *w = container_of(t, struct heal_work, task);
    bool any = false;
    int r;

    switch (w->state) {
    case LOOK:
        r = w->status < 0 ? w->status : compare(w);
        for (uint32_t i = 0; r == 0 && i < w->n; i++)
            any = any || w->parties[i].lacks_any;
        if (r == 0 && map_is_voter(&w->s->map->pgs[w->h->key.pg], w->s->id.store))
            chunk_store_absent(w->s->cs, &w->h->key, w->absent);
        if (r < 0 || !any)
            finish(w, r < 0 || !w->unsure ? r : -TC_E_UNKNOWN_BLOCK);
        else
            heal_fetch(w);
        return;
    case FETCH:
        r = 0;
        for (uint32_t i = 0; i < w->n; i++) {
            if (w->parties[i].gives_any && w->parties[i].status < 0)
                r = w->parties[i].status;
        }
        if (r < 0 && ++w->tries < TRIES_MAX)
            look(w); /* it changed meanwhile, or a source went away */
        else if (r < 0)
            finish(w, r);
        else
            heal_spread(w);
        return;
    case WRITE:
        r = 0;
        for (uint32_t i = 0; i < w->n; i++) {
            if (w->parties[i].lacks_any && w->parties[i].status < 0)
                r = w->parties[i].status;
        }
        if (r == 0 && w->unsure)
            r = -TC_E_UNKNOWN_BLOCK;
        finish(w, r < 0 && w->h->mode == HEAL_ALL ? -TC_E_QUORUM_LOST : r);
        return;
    }
}

static void party_add(struct heal_work *w, uint64_t store, bool source)
{
    bool self = store == w->s->id.store;

    for (uint32_t i = 0; i < w->n; i++) {
        if (w->parties[i].store == store)
            return;
    }
    ASSERT(w->n < PARTIES_MAX);
    w->parties[w->n++] = (struct party){.w = w, .store = store, .self = self, .source = source,
                                        .target = w->h->mode == HEAL_ALL || self};
}

void heal_start(struct heal *h)
{
    struct storage_server *s = h->s;
    const struct map_pg *pg = &s->map->pgs[h->key.pg];
    struct heal_work *w = tc_calloc(1, sizeof(*w));

    ASSERT(h->key.pg < s->map->pg_count);
    w->h = h;
    w->s = s;
    w->pg_epoch = pg->epoch;
    w->barrier = s->map->epoch;
    w->need = TC_RULE(BACKFILL_QUORUM) ? MIN(s->map->r, (uint32_t)pg->n) : 1; /* so many must know each block */
    w->task.fn = step;
    h->work = w;
    if (h->mode == HEAL_ALL && joined_not(s, h->key.pg))
        w->status = -TC_E_QUORUM_LOST; /* what is here is no vote yet */
    if (map_is_voter(pg, s->id.store))
        party_add(w, s->id.store, h->mode == HEAL_ALL || map_is_c1(pg, s->id.store));
    for (unsigned i = 0; i < pg->n; i++)
        party_add(w, pg->voters[i], true);
    for (unsigned i = 0; i < pg->n_next && h->mode == HEAL_ALL; i++)
        party_add(w, pg->next[i], true);
    look(w);
}

void heal_cancel(struct heal *h)
{
    struct heal_work *w = h->work;

    if (!w)
        return;
    h->work = NULL;
    work_free(w);
}
