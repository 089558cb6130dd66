/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a heal moves (heal.c decides it): FETCH reads the blocks that a party gives, WRITE brings those it lacks to each
 * target. Each ends with the task of the work when all who were asked have answered.
 */
#include <endian.h>

#include "storage/heal_int.h"

/* ---- fetching ---------------------------------------------------------------------------------------------------- */

/* Ranges of blocks that @p gives: first and count of each. */
static uint32_t ranges_of(const struct party *p, uint32_t *first, uint32_t *count)
{
    uint32_t n = 0;

    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++) {
        if (!p->gives[b])
            continue;
        if (n && first[n - 1] + count[n - 1] == b) {
            count[n - 1]++;
        } else {
            first[n] = b;
            count[n++] = 1;
        }
    }
    return n;
}

/* The data of one range came: it must be what was looked at. */
static bool take_range(struct heal_work *w, struct party *p, uint32_t first, uint32_t count,
                       const struct chunk_block *blocks, size_t *off)
{
    for (uint32_t i = 0; i < count; i++) {
        if (blocks[i].kind != RUN_DATA || version_cmp(&blocks[i], &w->newest[first + i]) ||
            blocks[i].sum != w->newest[first + i].sum || *off + BLOCK_SIZE > p->payload->len)
            return false;
        w->data[first + i] = p->payload->data + *off;
        *off += BLOCK_SIZE;
    }
    return true;
}

static void self_fetched(struct chunk_read_op *op)
{
    struct party *p = container_of(op, struct party, read);
    size_t off = 0;
    int status = 0;

    p->payload = op->payload ? buf_ref(op->payload) : buf_new(1);
    for (uint32_t i = 0; i < op->n && status == 0; i++) {
        status = p->reads[i].status;
        if (status == 0 && !take_range(p->w, p, p->reads[i].first, p->reads[i].count, p->reads[i].blocks, &off))
            status = -TC_E_AGAIN;
    }
    chunk_read_op_fini(op);
    heal_party_done(p, status);
}

static void peer_fetched(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct party *p = container_of(c, struct party, call);
    uint32_t first[BLOCKS_PER_CHUNK], count[BLOCKS_PER_CHUNK], n = ranges_of(p, first, count);
    struct chunk_block blocks[BLOCKS_PER_CHUNK];
    struct wire_arena a = {0};
    struct read_res res;
    size_t off = 0;
    int status = reply->status;

    if (status == 0)
        status = wire_decode(reply->body, &read_res_schema, &a, &res);
    if (status == 0 && (res.items.n != n || !reply->payload))
        status = -TC_E_AGAIN;
    if (status == 0)
        p->payload = buf_ref(reply->payload);
    for (uint32_t i = 0; i < n && status == 0; i++) {
        status = tc_error_from_wire(res.items.items[i].status);
        if (status == 0 && (!heal_result_blocks(&res.items.items[i], count[i], blocks) ||
                            !take_range(p->w, p, first[i], count[i], blocks, &off)))
            status = -TC_E_AGAIN;
    }
    wire_arena_fini(&a);
    heal_party_done(p, status);
}

static void fetch_one(struct party *p)
{
    struct heal_work *w = p->w;
    uint32_t first[BLOCKS_PER_CHUNK], count[BLOCKS_PER_CHUNK], n = ranges_of(p, first, count);
    struct rpc_link *l;

    w->left++;
    p->asked = true;
    if (p->self) {
        free(p->reads);
        p->reads = tc_calloc(n, sizeof(*p->reads));
        for (uint32_t i = 0; i < n; i++)
            p->reads[i] = (struct chunk_read){.key = w->h->key, .first = first[i], .count = count[i], .data = true};
        p->read = (struct chunk_read_op){.items = p->reads, .n = n, .done = self_fetched};
        chunk_store_read(w->s->cs, &p->read);
        return;
    }
    l = server_peer(w->s, p->store);
    if (!l) {
        heal_party_done(p, -TC_E_UNREACHABLE);
        return;
    }
    {
        struct read_item *items = tc_calloc(n, sizeof(*items));
        struct read_req req = {.barrier = w->barrier, .items = {items, n}, .store = p->store};

        for (uint32_t i = 0; i < n; i++)
            items[i] = heal_item_of(w, first[i], count[i], true);
        p->call.done = peer_fetched;
        rpc_call(l, &p->call, MSG_READ, &read_req_schema, &req, NULL, HEAL_CALL_NS);
        free(items);
    }
}

void heal_fetch(struct heal_work *w)
{
    w->state = FETCH;
    w->left = 1;
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->parties[i].gives_any)
            fetch_one(&w->parties[i]);
    }
    if (--w->left == 0)
        env_defer(w->s->env, &w->task);
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

struct out_run {
    uint32_t first, count;
    size_t off; /* in the payload */
};

/* Consecutive blocks of one version and kind that @p lacks; their data and sums gathered. */
static uint32_t gather(struct heal_work *w, struct party *p, struct out_run *runs)
{
    uint32_t n = 0, blocks = 0;

    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++)
        blocks += p->lacks[b] && w->newest[b].kind == RUN_DATA;
    p->outgoing = blocks ? buf_new(blocks * BLOCK_SIZE) : NULL;
    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++) {
        const struct chunk_block *v = &w->newest[b];
        struct out_run *last = n ? &runs[n - 1] : NULL;
        uint64_t sum = htole64(v->sum);

        memcpy(p->sums + 8 * b, &sum, 8);
        if (!p->lacks[b])
            continue;
        if (last && last->first + last->count == b && w->newest[b - 1].kind == v->kind &&
            version_cmp(&w->newest[b - 1], v) == 0)
            last->count++;
        else
            runs[n++] = (struct out_run){b, 1, p->outgoing ? p->outgoing->len : 0};
        if (v->kind == RUN_DATA) {
            memcpy(p->outgoing->data + p->outgoing->len, w->data[b], BLOCK_SIZE);
            p->outgoing->len += BLOCK_SIZE;
        }
    }
    return n;
}

static void self_written(struct chunk_write_op *op)
{
    struct party *p = container_of(op, struct party, write);
    int status = 0;

    for (uint32_t i = 0; i < op->n; i++) {
        if (op->items[i].status < 0)
            status = op->items[i].status;
    }
    heal_party_done(p, status);
}

static void peer_written(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct party *p = container_of(c, struct party, call);
    struct wire_arena a = {0};
    struct write_res res;
    int status = reply->status;

    if (status == 0)
        status = wire_decode(reply->body, &write_res_schema, &a, &res);
    for (uint32_t i = 0; status == 0 && i < res.items.n; i++)
        status = tc_error_from_wire(res.items.items[i].status);
    wire_arena_fini(&a);
    heal_party_done(p, status);
}

static void write_self(struct party *p, const struct out_run *runs, uint32_t n)
{
    struct heal_work *w = p->w;

    p->writes = tc_calloc(n, sizeof(*p->writes));
    for (uint32_t i = 0; i < n; i++) {
        const struct chunk_block *v = &w->newest[runs[i].first];
        bool zero = v->kind == RUN_ZERO;

        p->writes[i] = (struct chunk_write){
            .key = w->h->key, .first = runs[i].first, .count = runs[i].count, .vepoch = v->vepoch, .vseq = v->vseq,
            .flags = WRITE_REPAIR | (zero ? WRITE_ZERO : 0), .proven = true, .pair = w->pair,
            .sums = zero ? NULL : p->sums + 8 * runs[i].first, .data = zero ? NULL : p->outgoing->data + runs[i].off};
    }
    p->write = (struct chunk_write_op){.items = p->writes, .n = n, .payload = p->outgoing, .done = self_written};
    chunk_store_write(w->s->cs, &p->write);
}

static void write_peer(struct party *p, const struct out_run *runs, uint32_t n)
{
    struct heal_work *w = p->w;
    struct rpc_link *l = server_peer(w->s, p->store);
    const struct chunk_key *k = &w->h->key;
    struct write_item *items;
    struct write_req req = {.barrier = w->barrier, .store = p->store};

    if (!l) {
        heal_party_done(p, -TC_E_UNREACHABLE);
        return;
    }
    items = tc_calloc(n, sizeof(*items));
    for (uint32_t i = 0; i < n; i++) {
        const struct chunk_block *v = &w->newest[runs[i].first];
        bool zero = v->kind == RUN_ZERO;

        items[i] = (struct write_item){
            .pg = k->pg, .pg_epoch = w->pg_epoch, .ino = k->ino, .index = k->index, .gen = k->gen, .first = runs[i].first,
            .count = runs[i].count, .vepoch = v->vepoch, .vseq = v->vseq, .size = w->pair.size, .mtime = w->pair.mtime,
            .sums = {p->sums + 8 * runs[i].first, zero ? 0 : runs[i].count * 8}, .flags = WRITE_REPAIR | (zero ? WRITE_ZERO : 0),
            .pair_epoch = w->pair.vepoch, .pair_seq = w->pair.vseq};
    }
    req.items.items = items;
    req.items.n = n;
    p->call.done = peer_written;
    rpc_call(l, &p->call, MSG_WRITE, &write_req_schema, &req, p->outgoing, HEAL_CALL_NS);
    free(items);
}

void heal_spread(struct heal_work *w)
{
    struct out_run runs[BLOCKS_PER_CHUNK];

    w->state = WRITE;
    w->left = 1;
    for (uint32_t i = 0; i < w->n; i++) {
        struct party *p = &w->parties[i];
        uint32_t n;

        if (!p->lacks_any)
            continue;
        n = gather(w, p, runs);
        w->left++;
        p->asked = true;
        if (p->self)
            write_self(p, runs, n);
        else
            write_peer(p, runs, n);
    }
    if (--w->left == 0)
        env_defer(w->s->env, &w->task);
}
