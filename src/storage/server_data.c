/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients and peers ask of a store.
 *
 * Before anything is answered: the map is at least the barrier, the session is not dead, the PG's epoch is not
 * above the request's (PROTOCOL 4.6). It is checked again when the disk is done, because a newer map may have become
 * durable meanwhile: no request below an epoch completes under it.
 */
#include "storage/server_int.h"

#include <stdio.h>

#include "common/log.h"
#include "common/test_rules.h"

#define MANIFEST_MAX 4096

/* ---- admission ------------------------------------------------------------------------------------------- */

/* 0: go on. 1: answered, or waiting for a map. */
int request_admit(struct request *q, uint64_t session, uint32_t incarnation, uint64_t barrier)
{
    struct storage_server *s = q->s;
    uint64_t have = s->map ? s->map->epoch : 0;

    if ((have < barrier && TC_RULE(BARRIER)) || !have) {
        request_wait_map(q, MAX(barrier, 1));
        return 1;
    }
    if (!s->map->pgs) {
        request_reply(q, -TC_E_NO_MAP, NULL, NULL, NULL);
        return 1;
    }
    if (session && TC_RULE(FENCING) && map_session_dead(s->map, session, incarnation)) {
        request_reply(q, -TC_E_FENCED, NULL, NULL, NULL);
        return 1;
    }
    if (session) {
        q->begun = q->begun ? q->begun : env_now(s->env);
        pace_client(&s->pace, env_now(s->env));
    }
    return 0;
}

/* Is an item at this PG and epoch to be served now? *ret_wait: a newer map is needed to know. */
static int check_pg(struct storage_server *s, uint64_t pg, uint64_t epoch, bool write, bool peer, bool *ret_wait)
{
    const struct map_pg *p;

    if (pg >= s->map->pg_count)
        return -TC_E_INVAL;
    p = &s->map->pgs[pg];
    if (epoch < p->epoch && TC_RULE(PG_EPOCH))
        return -TC_E_STALE_EPOCH;
    if (epoch > p->epoch) {
        *ret_wait = true;
        return -TC_E_STALE_MAP;
    }
    /* Reads are of C1: a newcomer's answer is no vote. Peers know what they ask. */
    if (write || peer ? !map_is_voter(p, s->id.store) : !map_is_c1(p, s->id.store))
        return -TC_E_NOT_VOTER;
    return joined_not(s, pg) ? -TC_E_BUSY : 0; /* PROTOCOL 6.5 */
}

/* A client's request was done by the disk. */
static void served(struct request *q, enum pace_kind kind)
{
    uint64_t now = env_now(q->s->env);

    if (q->begun)
        pace_served(&q->s->pace, kind, now, now - q->begun);
}

static bool pg_moved(struct storage_server *s, uint64_t pg, uint64_t epoch)
{
    return s->map->pgs[pg].epoch > epoch && TC_RULE(PG_EPOCH);
}

static void *need(struct request *q, size_t n, size_t size)
{
    void *p = wire_arena_alloc(&q->arena, n * size + 1);

    if (p)
        memset(p, 0, n * size + 1);
    return p;
}

/* ---- WRITE ------------------------------------------------------------------------------------------------- */

static void write_done(struct chunk_write_op *op)
{
    struct request *q = container_of(op, struct request, op.write);
    struct storage_server *s = q->s;
    struct write_result *results = q->results;
    struct write_res res = {.map_epoch = s->map->epoch};

    if (q->u.write.session && TC_RULE(FENCING) && map_session_dead(s->map, q->u.write.session, q->u.write.incarnation)) {
        request_reply(q, -TC_E_FENCED, NULL, NULL, NULL);
        return;
    }
    served(q, PACE_WRITE);
    for (uint32_t i = 0; i < op->n; i++) {
        const struct write_item *it = &q->u.write.items.items[q->slots[i]];
        struct write_result *r = &results[q->slots[i]];

        r->status = tc_error_to_wire(op->items[i].status);
        r->new_blocks = op->items[i].new_blocks;
        r->freed_blocks = op->items[i].freed_blocks;
        r->epoch = op->items[i].epoch;
        if (op->items[i].status == 0 && pg_moved(s, it->pg, it->pg_epoch) &&
            (!(it->flags & WRITE_REPAIR) || TC_RULE(REPAIR_EPOCH))) {
            r->status = tc_error_to_wire(-TC_E_STALE_EPOCH);
            r->epoch = s->map->pgs[it->pg].epoch;
        }
    }
    res.items.items = results;
    res.items.n = q->u.write.items.n;
    request_reply(q, 0, &write_res_schema, &res, NULL);
}

static bool write_shape(const struct write_item *it, uint64_t payload_left)
{
    if (it->first >= BLOCKS_PER_CHUNK || !it->count || it->count > BLOCKS_PER_CHUNK - it->first || !it->vepoch)
        return false;
    if (it->flags & WRITE_ZERO)
        return true;
    return it->sums.n == it->count * 8u && (uint64_t)it->count * BLOCK_SIZE <= payload_left;
}

static void write_fill(struct chunk_write *w, const struct write_item *it, const uint8_t *data)
{
    *w = (struct chunk_write){
        .key = {it->pg, it->ino, it->index, it->gen},
        .first = it->first,
        .count = it->count,
        .vepoch = it->vepoch,
        .vseq = it->vseq,
        .flags = it->flags & (WRITE_ZERO | WRITE_REPAIR),
        .pair = {it->vepoch, it->vseq, it->size, it->mtime},
        .sums = (it->flags & WRITE_ZERO) ? NULL : it->sums.p,
        .data = data,
    };
    if (it->flags & WRITE_REPAIR) {
        w->pair.vepoch = it->pair_epoch;
        w->pair.vseq = it->pair_seq;
        if (!it->pair_epoch)
            w->pair = (struct chunk_pair){0};
    }
}

static void handle_write(struct request *q)
{
    struct storage_server *s = q->s;
    const struct write_req *req = &q->u.write;
    uint64_t left = q->payload ? q->payload->len : 0, at = 0;
    struct write_result *results;
    bool wait = false;
    uint32_t k = 0;

    if (request_admit(q, req->session, req->incarnation, req->barrier))
        return;
    if (req->items.n > ITEMS_MAX) {
        request_reply(q, -TC_E_LIMIT, NULL, NULL, NULL);
        return;
    }
    results = need(q, req->items.n, sizeof(*results));
    free(q->items);
    free(q->slots);
    q->items = tc_calloc(req->items.n + 1, sizeof(struct chunk_write));
    q->slots = tc_calloc(req->items.n + 1, sizeof(*q->slots));
    for (uint32_t i = 0; results && i < req->items.n; i++) {
        const struct write_item *it = &req->items.items[i];
        uint64_t bytes = (it->flags & WRITE_ZERO) ? 0 : (uint64_t)it->count * BLOCK_SIZE, epoch;
        int r;

        if (!write_shape(it, left)) {
            results = NULL;
            break;
        }
        epoch = it->pg_epoch;
        if ((it->flags & WRITE_REPAIR) && !TC_RULE(REPAIR_EPOCH) && it->pg < s->map->pg_count)
            epoch = MAX(epoch, s->map->pgs[it->pg].epoch);
        r = check_pg(s, it->pg, epoch, true, !req->session, &wait);
        if (r == 0 && it->pg != map_pg_of(s->map, it->ino, it->index))
            r = -TC_E_INVAL;
        results[i].status = tc_error_to_wire(r);
        if (r == -TC_E_STALE_EPOCH)
            results[i].epoch = s->map->pgs[it->pg].epoch;
        if (r == 0) {
            write_fill((struct chunk_write *)q->items + k, it, bytes ? q->payload->data + at : NULL);
            q->slots[k++] = i;
        }
        at += bytes;
        left -= bytes;
    }
    if (!results || left) {
        request_reply(q, -TC_E_BAD_MESSAGE, NULL, NULL, NULL);
        return;
    }
    if (wait && (!q->deadline || env_now(s->env) < q->deadline)) {
        request_wait_map(q, s->map->epoch + 1);
        return;
    }
    q->results = results;
    q->op.write = (struct chunk_write_op){.items = q->items, .n = k, .payload = q->payload, .done = write_done};
    chunk_store_write(s->cs, &q->op.write);
}

/* ---- READ ---------------------------------------------------------------------------------------------------- */

/* Runs and sums of one item; false: no memory in the arena. */
static bool read_fill(struct request *q, const struct chunk_read *rd, struct read_result *res)
{
    uint32_t runs = 0, sums = 0;
    struct version_run *run;
    uint8_t *sum;

    for (uint32_t i = 0; i < rd->count; i++) {
        const struct chunk_block *b = &rd->blocks[i], *a = i ? b - 1 : NULL;

        sums += b->kind == RUN_DATA;
        runs += !a || a->kind != b->kind || a->vepoch != b->vepoch || a->vseq != b->vseq;
    }
    run = need(q, runs, sizeof(*run));
    sum = need(q, sums, 8);
    if (!run || !sum)
        return false;
    res->runs.items = run;
    res->runs.n = runs;
    res->sums = (struct wire_bin){sum, sums * 8};
    run--;
    for (uint32_t i = 0; i < rd->count; i++) {
        const struct chunk_block *b = &rd->blocks[i], *a = i ? b - 1 : NULL;

        if (!a || a->kind != b->kind || a->vepoch != b->vepoch || a->vseq != b->vseq)
            *++run = (struct version_run){0, b->kind, b->vepoch, b->vseq};
        run->count++;
        for (unsigned k = 0; b->kind == RUN_DATA && k < 8; k++)
            *sum++ = (uint8_t)(b->sum >> (8 * k));
    }
    res->pair_epoch = rd->pair.vepoch;
    res->pair_seq = rd->pair.vseq;
    res->size = rd->pair.size;
    res->mtime = rd->pair.mtime;
    return true;
}

static void read_done(struct chunk_read_op *op)
{
    struct request *q = container_of(op, struct request, op.read);
    struct storage_server *s = q->s;
    struct read_result *results = q->results;
    struct read_res res = {.map_epoch = s->map->epoch};
    bool ok = true;

    for (uint32_t i = 0; i < op->n && ok; i++) {
        const struct read_item *it = &q->u.read.items.items[q->slots[i]];
        struct read_result *r = &results[q->slots[i]];

        if (pg_moved(s, it->pg, it->pg_epoch)) { /* all of it anew, under the new map */
            chunk_read_op_fini(op);
            request_dispatch(q);
            return;
        }
        r->status = tc_error_to_wire(op->items[i].status);
        ok = op->items[i].status < 0 || read_fill(q, &op->items[i], r);
    }
    if (op->payload)
        served(q, PACE_READ);
    res.items.items = results;
    res.items.n = q->u.read.items.n;
    {
        struct buf *payload = op->payload ? buf_ref(op->payload) : NULL;

        chunk_read_op_fini(op);
        if (ok)
            request_reply(q, 0, &read_res_schema, &res, payload);
        else
            request_reply(q, -TC_E_LIMIT, NULL, NULL, NULL);
        buf_unref(payload);
    }
}

static void handle_read(struct request *q)
{
    struct storage_server *s = q->s;
    const struct read_req *req = &q->u.read;
    struct read_result *results;
    uint64_t blocks = 0;
    bool wait = false;
    uint32_t k = 0;

    if (request_admit(q, req->session, req->incarnation, req->barrier))
        return;
    for (uint32_t i = 0; i < req->items.n; i++)
        blocks += req->items.items[i].data ? req->items.items[i].count : 0;
    if (s->read_blocks - q->read_blocks + blocks > READ_BLOCKS_TOTAL) {
        request_reply(q, -TC_E_BACKPRESSURE, NULL, NULL, NULL);
        return;
    }
    s->read_blocks += blocks - q->read_blocks;
    q->read_blocks = blocks;
    results = req->items.n <= ITEMS_MAX && blocks <= READ_BLOCKS_MAX ? need(q, req->items.n, sizeof(*results)) : NULL;
    if (!results) {
        request_reply(q, -TC_E_LIMIT, NULL, NULL, NULL);
        return;
    }
    free(q->items);
    free(q->slots);
    q->items = tc_calloc(req->items.n + 1, sizeof(struct chunk_read));
    q->slots = tc_calloc(req->items.n + 1, sizeof(*q->slots));
    for (uint32_t i = 0; i < req->items.n; i++) {
        const struct read_item *it = &req->items.items[i];
        int r = check_pg(s, it->pg, it->pg_epoch, false, !req->session, &wait);

        if (r == 0 && (it->first >= BLOCKS_PER_CHUNK || it->count > BLOCKS_PER_CHUNK - it->first ||
                       it->pg != map_pg_of(s->map, it->ino, it->index)))
            r = -TC_E_INVAL;
        results[i].status = tc_error_to_wire(r);
        if (r == -TC_E_STALE_EPOCH)
            results[i].pg_epoch = s->map->pgs[it->pg].epoch;
        if (r == 0) {
            ((struct chunk_read *)q->items)[k] = (struct chunk_read){
                .key = {it->pg, it->ino, it->index, it->gen}, .first = it->first, .count = it->count, .data = it->data};
            q->slots[k++] = i;
        }
    }
    if (wait && (!q->deadline || env_now(s->env) < q->deadline)) {
        request_wait_map(q, s->map->epoch + 1);
        return;
    }
    if (!req->session && blocks && !request_turn(q))
        return;
    q->results = results;
    q->op.read = (struct chunk_read_op){.items = q->items, .n = k, .done = read_done};
    chunk_store_read(s->cs, &q->op.read);
}

/* ---- MANIFEST, SIZE_QUERY ----------------------------------------------------------------------------------- */

static void handle_manifest(struct request *q)
{
    struct storage_server *s = q->s;
    const struct manifest_req *req = &q->u.manifest;
    uint32_t n = MIN(req->max, (uint32_t)MANIFEST_MAX);
    struct chunk_key after = {req->pg, req->after_ino, req->after_index, req->after_gen};
    struct manifest_res res = {0};
    struct chunk_digest *d;
    struct manifest_item *items;
    bool wait = false;
    int r;

    if (request_admit(q, 0, 0, req->barrier))
        return;
    r = check_pg(s, req->pg, req->pg_epoch, false, true, &wait);
    if (wait && (!q->deadline || env_now(s->env) < q->deadline)) {
        request_wait_map(q, s->map->epoch + 1);
        return;
    }
    d = need(q, n, sizeof(*d));
    items = need(q, n, sizeof(*items));
    if (r == 0 && (!d || !items || !n))
        r = -TC_E_LIMIT;
    if (r == 0)
        r = chunk_store_manifest(s->cs, req->pg, req->resume ? &after : NULL, d, &n, &res.eof);
    if (r < 0) {
        request_reply(q, r, NULL, NULL, NULL);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        items[i] = (struct manifest_item){.ino = d[i].key.ino, .index = d[i].key.index, .gen = d[i].key.gen,
                                          .digest = d[i].damaged ? 0 : d[i].digest, .blocks = d[i].blocks};
    res.items.items = items;
    res.items.n = n;
    res.pg_epoch = s->map->pgs[req->pg].epoch;
    request_reply(q, 0, &manifest_res_schema, &res, NULL);
}

/* ---- MAP_GET, STORE_STATUS -------------------------------------------------------------------------------------- */

static void handle_map_get(struct request *q)
{
    struct storage_server *s = q->s;
    struct cluster_map same = {.epoch = q->u.map.have, .n = 1, .w = 1, .r = 1, .pg_count = 1};
    struct cluster_map msg;

    if (!s->map) {
        request_reply(q, -TC_E_NO_MAP, NULL, NULL, NULL);
        return;
    }
    if (q->u.map.have < s->map->epoch) {
        map_to_msg(s->map, &q->arena, &msg);
        request_reply(q, 0, &cluster_map_schema, &msg, NULL);
    } else {
        request_reply(q, 0, &cluster_map_schema, &same, NULL);
    }
}

static void handle_status(struct request *q)
{
    struct storage_server *s = q->s;
    struct chunk_store_stats st;
    struct status_res res;
    char *json;

    chunk_store_stats(s->cs, &st);
    json = tc_asprintf("{\"node\":%u,\"store\":\"%016llx\",\"start\":%llu,\"map_epoch\":%llu,\"registered\":%s,"
                       "\"chunks\":%llu,\"used\":%llu,\"total\":%llu,\"free\":%llu,\"pending\":%llu,\"behind\":%llu,"
                       "\"corrupt\":%llu,\"unreadable\":%llu,\"writes\":%llu,\"reads\":%llu,\"requests\":%u,\"disk_error\":%s}",
                       s->cfg.node, (unsigned long long)s->id.store, (unsigned long long)s->id.start,
                       (unsigned long long)(s->map ? s->map->epoch : 0), s->registered ? "true" : "false",
                       (unsigned long long)st.chunks, (unsigned long long)st.blocks * BLOCK_SIZE,
                       (unsigned long long)st.total, (unsigned long long)st.free, (unsigned long long)st.pending_bytes,
                       (unsigned long long)recovery_behind(s), (unsigned long long)st.corrupt, (unsigned long long)st.unreadable,
                       (unsigned long long)st.writes, (unsigned long long)st.reads, s->n_requests,
                       st.disk_error || s->failing ? "true" : "false");
    res.json = wire_str_of(json);
    request_reply(q, 0, &status_res_schema, &res, NULL);
    free(json);
}

void handle_data(struct request *q)
{
    switch (q->type) {
    case MSG_WRITE:
        handle_write(q);
        return;
    case MSG_READ:
        handle_read(q);
        return;
    case MSG_MANIFEST:
        handle_manifest(q);
        return;
    case MSG_SIZE_QUERY:
        handle_size_query(q);
        return;
    case MSG_CHUNK_SEEK:
        handle_chunk_seek(q);
        return;
    case MSG_RECONCILE:
        handle_reconcile(q);
        return;
    case MSG_MAP_GET:
        handle_map_get(q);
        return;
    case MSG_SCRUB:
        handle_scrub(q);
        return;
    default:
        handle_status(q);
        return;
    }
}
