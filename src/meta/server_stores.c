/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stores as the leader hears them: registration, beats, gc (PROTOCOL 6). Health is memory only; what counts is an
 * entry. Where their groups go: server_placement.c.
 */
#include "meta/server_internal.h"

#include "common/test_rules.h"

#define TIGHT_BYTES (UINT64_C(512) << 20) /* as much as mounts may hold that is not written yet, about */
#define GC_BATCH 256u

struct meta_store *store_find_health(struct meta_server *s, uint64_t id)
{
    struct meta_store *h;

    HASH_FIND(hh, s->stores, &id, sizeof(id), h);
    return h;
}

static struct meta_store *health_get(struct meta_server *s, uint64_t id)
{
    struct meta_store *h = store_find_health(s, id);

    if (h)
        return h;
    h = tc_calloc(1, sizeof(*h));
    h->id = id;
    h->s = s;
    HASH_ADD(hh, s->stores, id, sizeof(h->id), h);
    return h;
}

static void health_free(struct meta_server *s, struct meta_store *h)
{
    HASH_DEL(s->stores, h);
    env_port_close(h->port);
    free(h->endpoint);
    free(h->ready);
    free(h);
}

void stores_free(struct meta_server *s)
{
    struct meta_store *h, *tmp;

    HASH_ITER(hh, s->stores, h, tmp)
    {
        health_free(s, h);
    }
}

bool store_up(struct meta_server *s, uint64_t id)
{
    const struct meta_store *h = store_find_health(s, id);

    return h && h->heard_at && env_now(s->env) - h->heard_at < s->cfg.store_down_ms * NS_PER_MS;
}

/* ---- ports to stores ---- */

static void store_on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct meta_store *h = arg;
    struct wire_header hdr;
    struct slice body;

    (void)peer;
    (void)payload;
    if (wire_check_frame(slice_of(head->data, head->len), &hdr, &body) < 0 || hdr.kind != WIRE_REPLY)
        return;
    wire_arena_reset(&h->s->arena);
    if (h->s->lead)
        recovery_on_reply(h->s, h->id, &hdr, body);
}

struct net_port *store_port(struct meta_server *s, uint64_t id)
{
    const struct fsm_store *st = fsm_store(s->fsm, id);
    struct meta_store *h;

    if (!st || st->state == STORE_REPLACED) /* another listens there, and would refuse it */
        return NULL;
    h = health_get(s, id);
    if (h->port && strcmp(h->endpoint, st->endpoint) == 0)
        return h->port;
    env_port_close(h->port);
    free(h->endpoint);
    h->endpoint = tc_strdup(st->endpoint);
    if (env_connect(s->env, h->endpoint, store_on_msg, h, &h->port) < 0)
        h->port = NULL;
    return h->port;
}

/* ---- registration ---- */

/* It lives, or may: a new leader has not heard all. */
static bool may_live(struct meta_server *s, uint64_t store)
{
    return store_up(s, store) || env_now(s->env) - s->lead->began < s->cfg.store_down_ms * NS_PER_MS;
}

/* A store that lives already has this place: the newcomer is a mistake of configuration, or too early. So is the very
 * same store at another address while the first one lives: a copy of its directory, which lacks what was written since. */
static bool place_taken(struct meta_server *s, const struct store_register_req *req)
{
    const struct fsm_store *st = fsm_store(s->fsm, req->store);
    uint32_t n;

    if (st)
        return st->state != STORE_REPLACED && st->node == req->node && st->run && req->run && st->run != req->run &&
               (strlen(st->endpoint) != req->endpoint.n || memcmp(st->endpoint, req->endpoint.p, req->endpoint.n)) &&
               may_live(s, st->store);
    if (!req->empty)
        return false; /* removed, or replaced long ago: it is told */
    st = fsm_stores(s->fsm, &n);
    for (uint32_t i = 0; i < n; i++) {
        if (st[i].node != req->node || st[i].state == STORE_REPLACED)
            continue;
        if (may_live(s, st[i].store))
            return true;
    }
    return false;
}

void store_register(struct meta_server *s, const struct request *q)
{
    const struct store_register_req *req = q->msg;
    struct {
        uint64_t session, seq;
    } key = {UINT64_MAX, req->store};
    struct meta_op *op;

    HASH_FIND(hh, s->lead->by_seq, &key, sizeof(key), op);
    if (op) {
        op_join(op, q);
        return;
    }
    if (place_taken(s, req)) {
        LOG_WARN("meta", "a store wants the place of one that lives", "node=%u endpoint=%.*s", req->node,
                 (int)req->endpoint.n, req->endpoint.p);
        server_reply(s, q->peer, q->id, q->type, -TC_E_BUSY, NULL, NULL);
        return;
    }
    op = op_new(s, OP_MUTATION, q);
    if (!op)
        return; /* it asks again */
    op->key_session = key.session;
    op->seq = key.seq;
    HASH_ADD(hh, s->lead->by_seq, key_session, sizeof(key), op);
    mutation_start(op);
}

/* ---- beats ---- */

static void ready_take(struct meta_server *s, struct meta_store *h, const struct store_beat_req *req)
{
    uint32_t count = fsm_genesis(s->fsm)->pg_count;

    if (!h->ready) {
        h->ready = tc_calloc(count, sizeof(*h->ready));
        h->n_ready = count;
    }
    for (uint32_t i = 0; i < req->ready.n; i++) {
        if (req->ready.items[i].pg < h->n_ready)
            h->ready[req->ready.items[i].pg] = req->ready.items[i].epoch;
    }
}

static void served_applied(struct meta_server *s, struct meta_op *op, int status)
{
    (void)status;
    struct meta_store *h = store_find_health(s, (uint64_t)(uintptr_t)op->arg);

    if (h)
        h->serving = false;
}

/* The first beat of a start says that its number is durable there. */
static void store_served(struct meta_server *s, struct meta_store *h, const struct fsm_store *st)
{
    struct store_info info = {.store = st->store,
                              .node = st->node,
                              .endpoint = wire_str_of(st->endpoint),
                              .zone = wire_str_of(st->zone),
                              .start = st->start,
                              .state = STORE_UP};

    if (st->served || h->serving)
        return;
    if (internal_propose(s, CMD_STORE_STATE, &store_info_schema, &info, served_applied,
                         (void *)(uintptr_t)st->store) == 0)
        h->serving = true;
}

void store_beat(struct meta_server *s, const struct request *q)
{
    const struct store_beat_req *req = q->msg;
    const struct fsm_store *st = fsm_store(s->fsm, req->store);
    struct store_beat_res res = {.map_epoch = fsm_map_epoch(s->fsm), .time = server_time(s)};
    struct gc_item gc[GC_BATCH];
    struct meta_store *h;
    bool turned;

    if (!st || st->state == STORE_REPLACED || st->start != req->start) {
        res.unknown = true;
        server_reply(s, q->peer, q->id, q->type, 0, &store_beat_res_schema, &res);
        return;
    }
    h = health_get(s, req->store);
    if (!h->heard_at || env_now(s->env) - h->heard_at >= s->cfg.store_down_ms * NS_PER_MS) {
        LOG_INFO("meta", "a store is up", "node=%u endpoint=%s", st->node, st->endpoint);
        placement_soon(s);
    }
    h->heard_at = env_now(s->env);
    h->start = req->start;
    h->capacity = req->capacity;
    h->free = req->free;
    h->used = req->used;
    h->chunks = req->chunks;
    h->behind = req->behind;
    if (req->flags & ~h->flags & STORE_DISK_ERROR)
        LOG_WARN("meta", "the disk of a store fails", "node=%u endpoint=%s", st->node, st->endpoint);
    else if (h->flags & ~req->flags & STORE_DISK_ERROR)
        LOG_INFO("meta", "the disk of a store is well again", "node=%u endpoint=%s", st->node, st->endpoint);
    turned = (req->flags ^ h->flags) & STORE_DISK_ERROR;
    h->flags = req->flags;
    h->map_epoch = req->map_epoch;
    h->found = req->found;
    h->repaired = req->repaired;
    h->unrepaired = req->unrepaired;
    h->scrubbed = req->scrubbed;
    h->scrub_permille = req->scrub_permille;
    h->aside = req->aside;
    h->aside_bytes = req->aside_bytes;
    h->gc_done = req->gc_done;
    h->down = false;
    store_served(s, h, st);
    if (req->ready.n) {
        ready_take(s, h, req);
        placement_ready(s);
    }
    res.gc.items = gc;
    res.gc.n = fsm_gc(s->fsm, req->gc_done, gc, GC_BATCH);
    server_reply(s, q->peer, q->id, q->type, 0, &store_beat_res_schema, &res);
    if (turned) {
        placement_soon(s);
        placement_tick(s); /* its groups move, or what moves is called off, now */
    }
}

/* ---- gc ---- */

static void trim_applied(struct meta_server *s, struct meta_op *op, int status)
{
    (void)op;
    (void)status;
    s->lead->gc_trim_inflight = false;
}

static bool holds_groups(struct meta_server *s, uint64_t store)
{
    const struct map_pg *pg;

    for (uint32_t i = 0; (pg = fsm_pg(s->fsm, i)); i++) {
        if (map_is_voter(pg, store))
            return true;
    }
    return false;
}

/* Rows that every store has done go. A store that is away keeps them, but not one whose groups are all elsewhere: it
 * drops what it has when it comes back. */
static void gc_tick(struct meta_server *s)
{
    struct pg_ready cursors[256];
    struct cmd_gc_trim cmd = {.cursors = {cursors, 0}};
    const struct fsm_store *st;
    uint64_t first, last, upto = UINT64_MAX;
    uint32_t n;

    fsm_gc_range(s->fsm, &first, &last);
    if (first > last || s->lead->gc_trim_inflight || !fsm_has_table(s->fsm))
        return;
    st = fsm_stores(s->fsm, &n);
    for (uint32_t i = 0; i < n; i++) {
        const struct meta_store *h = store_find_health(s, st[i].store);
        uint64_t done = h && h->heard_at ? h->gc_done : st[i].gc_cursor;

        if (st[i].state == STORE_REPLACED || (!store_up(s, st[i].store) && !holds_groups(s, st[i].store)))
            continue;
        upto = TC_RULE(GC_ALL) || upto == UINT64_MAX ? MIN(upto, done) : MAX(upto, done);
        if (cmd.cursors.n < ARRAY_SIZE(cursors))
            cursors[cmd.cursors.n++] = (struct pg_ready){.pg = st[i].store, .epoch = done};
    }
    cmd.upto = MIN(upto, last);
    if (cmd.upto < first || upto == UINT64_MAX)
        return;
    if (internal_propose(s, CMD_GC_TRIM, &cmd_gc_trim_schema, &cmd, trim_applied, NULL) == 0)
        s->lead->gc_trim_inflight = true;
}

void stores_tick(struct meta_server *s)
{
    uint64_t now = env_now(s->env);
    struct meta_store *h, *tmp;

    HASH_ITER(hh, s->stores, h, tmp)
    {
        const struct fsm_store *st = fsm_store(s->fsm, h->id);

        if (!st || st->state == STORE_REPLACED) {
            health_free(s, h);
            continue;
        }
        if (h->heard_at && !h->down && now - h->heard_at >= s->cfg.store_down_ms * NS_PER_MS) {
            h->down = true;
            LOG_WARN("meta", "a store is down", "node=%u endpoint=%s", st->node, st->endpoint);
            placement_soon(s);
        }
    }
    placement_tick(s);
    if (now - s->stores_swept >= s->cfg.sweep_ms * NS_PER_MS) {
        s->stores_swept = now;
        gc_tick(s);
    }
}

bool stores_tight(struct meta_server *s)
{
    struct meta_store *h, *tmp;

    HASH_ITER(hh, s->stores, h, tmp)
    {
        if (store_up(s, h->id) && h->capacity && h->free < MAX(h->capacity / 20, MIN(TIGHT_BYTES, h->capacity / 4)))
            return true;
    }
    return false;
}

void store_capacity(struct meta_server *s, uint64_t *ret_total, uint64_t *ret_free, uint64_t *ret_used)
{
    struct meta_store *h, *tmp;

    *ret_total = *ret_free = *ret_used = 0;
    HASH_ITER(hh, s->stores, h, tmp)
    {
        *ret_total += h->capacity;
        *ret_free += h->free;
        *ret_used += h->used;
    }
}
