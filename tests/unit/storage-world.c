/* SPDX-License-Identifier: Apache-2.0 */
#include "storage-world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- the leader -------------------------------------------------------------------------------------------- */

static void leader_answer(struct fake_leader *f, uint64_t peer, const struct wire_header *in, int status,
                          const struct wire_schema *schema, const void *body)
{
    struct wire_header h = {.kind = WIRE_REPLY, .type = in->type, .id = in->id, .status = tc_error_to_wire(status),
                            .cluster = map_cluster_tag(f->cluster)};

    (void)env_send(f->port, peer, wire_encode_frame(&h, schema, body), NULL);
}

static void leader_map(struct fake_leader *f, struct map *m)
{
    m->epoch = f->epoch;
    m->n = 3;
    m->w = m->r = 2;
    m->pg_count = PGS;
    memcpy(m->cluster, f->cluster, 16);
    m->stores = tc_calloc(STORES, sizeof(*m->stores));
    for (int i = 1; i <= STORES; i++) {
        if (f->stores[i])
            m->stores[m->n_stores++] = (struct map_store){f->stores[i], (uint32_t)i, STORE_UP, tc_strdup(f->endpoints[i]),
                                                          tc_strdup("")};
    }
    m->dead = tc_calloc(4, sizeof(*m->dead));
    memcpy(m->dead, f->dead, sizeof f->dead);
    m->n_dead = f->n_dead;
    if (f->table) {
        m->pgs = tc_calloc(PGS, sizeof(*m->pgs));
        memcpy(m->pgs, f->pgs, sizeof f->pgs);
    }
}

static void on_register(struct fake_leader *f, uint64_t peer, const struct wire_header *h, const struct store_register_req *req)
{
    struct store_register_res res = {.start = req->start, .cluster = {f->cluster, 16}};

    ASSERT(req->node >= 1 && req->node <= STORES);
    if (f->stores[req->node] != req->store)
        f->epoch++;
    else
        res.rolled_back = req->start <= f->starts[req->node];
    f->stores[req->node] = req->store;
    f->starts[req->node] = req->start;
    snprintf(f->endpoints[req->node], sizeof f->endpoints[0], "%.*s", (int)req->endpoint.n, req->endpoint.p);
    res.map_epoch = f->epoch;
    leader_answer(f, peer, h, 0, &store_register_res_schema, &res);
}

static void on_beat(struct fake_leader *f, uint64_t peer, const struct wire_header *h, const struct store_beat_req *req)
{
    struct store_beat_res res = {.map_epoch = f->epoch, .time = UINT64_C(1800000000000000000) + env_now(f->env)};

    f->beats++;
    f->found = MAX(f->found, req->found); /* of all stores */
    res.unknown = true;
    for (int i = 1; i <= STORES; i++) {
        if (f->stores[i] != req->store)
            continue;
        res.unknown = false;
        f->gc_done[i] = req->gc_done;
        f->behind[i] = req->behind;
        f->flags[i] = req->flags;
        f->aside_of[i] = req->aside;
        f->aside_bytes_of[i] = req->aside_bytes;
        for (uint32_t k = 0; k < req->ready.n; k++)
            f->ready[i][req->ready.items[k].pg] = req->ready.items[k].epoch;
    }
    f->aside = f->aside_bytes = 0;
    for (int i = 1; i <= STORES; i++) {
        f->aside += f->aside_of[i];
        f->aside_bytes += f->aside_bytes_of[i];
    }
    res.gc.items = f->gc;
    res.gc.n = f->n_gc;
    leader_answer(f, peer, h, 0, &store_beat_res_schema, &res);
}

static void on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload TC_UNUSED)
{
    struct fake_leader *f = arg;
    struct wire_arena a = {0};
    struct wire_header h;
    struct slice body;
    union {
        struct store_register_req reg;
        struct store_beat_req beat;
        struct map_get_req get;
        struct ino_check_req check;
    } u;

    ASSERT(wire_check_frame(slice_of(head->data, head->len), &h, &body) == 0);
    switch (h.type) {
    case MSG_STORE_REGISTER:
        ASSERT(wire_decode(body, &store_register_req_schema, &a, &u) == 0);
        on_register(f, peer, &h, &u.reg);
        break;
    case MSG_STORE_BEAT:
        ASSERT(wire_decode(body, &store_beat_req_schema, &a, &u) == 0);
        on_beat(f, peer, &h, &u.beat);
        break;
    case MSG_MAP_GET: {
        struct map *m = map_new();
        struct cluster_map msg;

        ASSERT(wire_decode(body, &map_get_req_schema, &a, &u) == 0);
        leader_map(f, m);
        map_to_msg(m, &a, &msg);
        leader_answer(f, peer, &h, 0, &cluster_map_schema, &msg);
        map_free(m);
        break;
    }
    case MSG_INO_CHECK: {
        struct ino_check_res res = {.trims = {f->trims, f->n_trims}};
        uint8_t states[1024], held[1024];

        ASSERT(wire_decode(body, &ino_check_req_schema, &a, &u) == 0);
        for (uint32_t i = 0; i < u.check.inos.n; i++)
            states[i] = f->unsure ? 0 : u.check.inos.items[i] == f->dead_ino ? 2 : 1;
        memset(held, f->held, sizeof held);
        res.held = (struct wire_bin){held, u.check.inos.n};
        res.states = (struct wire_bin){states, u.check.inos.n};
        leader_answer(f, peer, &h, 0, &ino_check_res_schema, &res);
        break;
    }
    default:
        ASSERT(!"such a request to the leader");
    }
    wire_arena_fini(&a);
}

int fake_leader_open(struct fake_leader *f, struct env *env, const char *endpoint)
{
    f->env = env;
    for (int i = 0; i < 16; i++)
        f->cluster[i] = (uint8_t)(i + 1);
    f->epoch = MAX(f->epoch, 1);
    return env_listen(env, endpoint, on_msg, f, &f->port);
}

void fake_leader_close(struct fake_leader *f)
{
    env_port_close(f->port);
    f->port = NULL;
}

void fake_leader_place(struct fake_leader *f, const int *voters, const int *next)
{
    f->epoch++;
    f->table = true;
    for (int i = 0; i < PGS; i++) {
        struct map_pg pg = {.epoch = f->epoch};

        for (const int *v = voters; *v; v++)
            pg.voters[pg.n++] = f->stores[*v];
        for (const int *v = next; v && *v; v++)
            pg.next[pg.n_next++] = f->stores[*v];
        f->pgs[i] = pg;
    }
}

/* ---- the world ------------------------------------------------------------------------------------------------ */

static int open_mem(void *arg TC_UNUSED, struct env *env, const char *path, struct kv **ret_kv)
{
    return kv_open_mem(env_vfs(env), path, ret_kv);
}

static void on_fatal(void *arg, int err TC_UNUSED, const char *why TC_UNUSED)
{
    *(bool *)arg = true;
}

int world_try_start(struct world *w, int node)
{
    static const char *const metas[] = {"tcp://nobody:1", "tcp://m:1"};
    char ep[64];
    struct storage_config cfg = {.node = (uint32_t)node, .dir = "d", .listen = ep, .metas = metas, .n_metas = 2,
                                 .kv_open = open_mem, .journal = {.segment_bytes = 1 << 20}, .reserve_bytes = 1,
                                 .fatal = on_fatal, .fatal_arg = &w->fatal[node]};

    struct env *env = sim_node_boot(w->s[node]);

    snprintf(ep, sizeof ep, "tcp://s%d:1", node);
    w->fatal[node] = false;
    if (w->arm)
        w->arm(sim_node_disk(w->s[node]), w->arm_arg);
    return storage_server_open(env, &cfg, &w->server[node]);
}

void world_start(struct world *w, int node)
{
    ck_assert_int_eq(world_try_start(w, node), 0);
}

void world_kill(struct world *w, int node)
{
    sim_node_kill(w->s[node]);
    storage_server_close(w->server[node]);
    w->server[node] = NULL;
}

static bool all_registered(void *arg)
{
    struct world *w = arg;
    struct storage_status st;

    for (int i = 1; i <= STORES; i++) {
        if (!w->server[i])
            continue;
        storage_server_status(w->server[i], &st);
        if (!st.registered)
            return false;
    }
    return true;
}

static bool settled(void *arg)
{
    struct world *w = arg;
    struct storage_status st;

    for (int i = 1; i <= STORES; i++) {
        if (!w->server[i])
            continue;
        storage_server_status(w->server[i], &st);
        if (!st.registered || st.map_epoch != w->leader.epoch)
            return false;
    }
    return true;
}

void world_settle(struct world *w)
{
    ck_assert(sim_run(w->sim, sim_now(w->sim) + 10 * NS_PER_S, settled, w));
    map_free(w->map);
    w->map = map_new();
    leader_map(&w->leader, w->map);
}

void world_run(struct world *w, uint64_t ms)
{
    sim_run_until(w->sim, sim_now(w->sim) + ms * NS_PER_MS);
}

void world_place(struct world *w, const int *voters, const int *next)
{
    fake_leader_place(&w->leader, voters, next);
    world_settle(w);
}

struct world *world_new(uint64_t seed, int n)
{
    struct world *w = tc_calloc(1, sizeof(*w));
    char name[8];

    w->sim = sim_new(seed);
    w->m = sim_node_new(w->sim, "m");
    w->c = sim_node_new(w->sim, "c");
    ck_assert_int_eq(fake_leader_open(&w->leader, sim_node_boot(w->m), "tcp://m:1"), 0);
    w->cluster_tag = map_cluster_tag(w->leader.cluster);
    w->client_env = sim_node_boot(w->c);
    for (int i = 1; i <= STORES; i++) {
        char ep[64];

        snprintf(name, sizeof name, "s%d", i);
        w->s[i] = sim_node_new(w->sim, name);
        snprintf(ep, sizeof ep, "tcp://s%d:1", i);
        ck_assert_int_eq(rpc_link_open(w->client_env, ep, &w->cluster_tag, &w->link[i]), 0);
        if (i <= n)
            world_start(w, i);
    }
    ck_assert(sim_run(w->sim, 10 * NS_PER_S, all_registered, w));
    world_place(w, (int[]){1, 2, 3, 0}, NULL);
    return w;
}

void world_free(struct world *w)
{
    for (int i = 1; i <= STORES; i++) {
        if (w->server[i])
            world_kill(w, i);
        rpc_link_close(w->link[i]);
    }
    sim_node_kill(w->c);
    sim_node_kill(w->m);
    fake_leader_close(&w->leader);
    map_free(w->map);
    sim_free(w->sim);
    free(w);
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

struct ask {
    struct rpc_call call;
    struct answer *a;
    const struct wire_schema *schema;
};

static void ask_done(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct ask *ask = container_of(c, struct ask, call);
    struct answer *a = ask->a;

    a->status = reply->status;
    a->done = true;
    if (reply->status == 0 && ask->schema) {
        a->body = buf_copy(reply->body.data, (uint32_t)reply->body.len);
        a->payload = reply->payload ? buf_ref(reply->payload) : NULL;
        ck_assert_int_eq(wire_decode(slice_of(a->body->data, a->body->len), ask->schema, &a->arena, &a->u), 0);
    }
}

static bool is_done(void *arg)
{
    return ((struct answer *)arg)->done;
}

void world_ask(struct world *w, int node, uint16_t type, const void *body, struct buf *payload, struct answer *a)
{
    struct ask ask = {.call = {.done = ask_done}, .a = a};
    const struct wire_schema *schema;

    memset(a, 0, sizeof(*a));
    switch (type) {
    case MSG_WRITE:
        schema = &write_req_schema;
        ask.schema = &write_res_schema;
        break;
    case MSG_READ:
        schema = &read_req_schema;
        ask.schema = &read_res_schema;
        break;
    case MSG_MANIFEST:
        schema = &manifest_req_schema;
        ask.schema = &manifest_res_schema;
        break;
    case MSG_SIZE_QUERY:
        schema = &size_query_req_schema;
        ask.schema = &size_query_res_schema;
        break;
    case MSG_CHUNK_SEEK:
        schema = &chunk_seek_req_schema;
        ask.schema = &chunk_seek_res_schema;
        break;
    case MSG_SCRUB:
        schema = &scrub_req_schema;
        ask.schema = &status_res_schema;
        break;
    default:
        schema = &reconcile_req_schema;
    }
    rpc_call(w->link[node], &ask.call, type, schema, body, payload, 20 * NS_PER_S);
    ck_assert(sim_run(w->sim, sim_now(w->sim) + 30 * NS_PER_S, is_done, a));
}

void answer_free(struct answer *a)
{
    wire_arena_fini(&a->arena);
    buf_unref(a->body);
    buf_unref(a->payload);
}

void block_fill(uint8_t *to, uint64_t ino, uint32_t block, uint64_t epoch, uint64_t seq)
{
    uint64_t x = ino * 31 + block * 7 + epoch * 1000003 + seq;

    for (uint32_t i = 0; i < BLOCK_SIZE; i += 8) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        memcpy(to + i, &x, 8);
    }
}

int world_write(struct world *w, int node, uint64_t ino, uint32_t index, uint32_t first, uint32_t count, uint64_t epoch,
                uint64_t seq, uint32_t flags)
{
    uint8_t sums[BLOCKS_PER_CHUNK * 8];
    struct buf *payload = buf_new(count * BLOCK_SIZE);
    uint32_t pg = map_pg_of(w->map, ino, index);
    struct write_item it = {.pg = pg, .pg_epoch = w->map->pgs[pg].epoch, .ino = ino, .index = index, .first = first,
                            .count = count, .vepoch = epoch, .vseq = seq, .size = seq * 100, .mtime = seq * 200,
                            .sums = {sums, count * 8}, .flags = flags};
    struct write_req req = {.session = 7, .incarnation = 1, .barrier = w->map->epoch, .items = {&it, 1}};
    struct answer a;
    int status;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t sum;

        block_fill(payload->data + i * BLOCK_SIZE, ino, first + i, epoch, seq);
        sum = XXH3_64bits(payload->data + i * BLOCK_SIZE, BLOCK_SIZE);
        memcpy(sums + 8 * i, &sum, 8);
    }
    payload->len = count * BLOCK_SIZE;
    if (flags & WRITE_ZERO)
        it.sums.n = 0;
    world_ask(w, node, MSG_WRITE, &req, flags & WRITE_ZERO ? NULL : payload, &a);
    buf_unref(payload);
    status = a.status;
    if (status == 0) {
        ck_assert_uint_eq(a.u.write.items.n, 1);
        status = tc_error_from_wire(a.u.write.items.items[0].status);
    }
    answer_free(&a);
    return status;
}

void world_expect(struct world *w, int node, uint64_t ino, uint32_t index, uint32_t first, uint32_t count, uint64_t epoch,
                  uint64_t seq)
{
    uint32_t pg = map_pg_of(w->map, ino, index), n = 0;
    struct read_item it = {.pg = pg, .pg_epoch = w->map->pgs[pg].epoch, .ino = ino, .index = index, .first = first,
                           .count = count, .data = true};
    struct read_req req = {.session = 0, .barrier = w->map->epoch, .items = {&it, 1}};
    uint8_t want[BLOCK_SIZE];
    struct answer a;

    world_ask(w, node, MSG_READ, &req, NULL, &a);
    ck_assert_msg(a.status == 0, "node %d: %s", node, tc_error_name(a.status));
    ck_assert_uint_eq(a.u.read.items.n, 1);
    ck_assert_uint_eq(a.u.read.items.items[0].status, 0);
    for (uint32_t i = 0; i < a.u.read.items.items[0].runs.n; i++) {
        const struct version_run *run = &a.u.read.items.items[0].runs.items[i];

        ck_assert_msg(run->kind == (epoch ? RUN_DATA : RUN_NONE) && run->vepoch == epoch && run->vseq == seq,
                      "node %d ino %lu block %u: kind %u version %lu.%lu, wanted %lu.%lu", node, ino, first + n, run->kind,
                      run->vepoch, run->vseq, epoch, seq);
        n += run->count;
    }
    ck_assert_uint_eq(n, count);
    if (epoch) {
        ck_assert_ptr_nonnull(a.payload);
        ck_assert_uint_eq(a.payload->len, count * BLOCK_SIZE);
    }
    for (uint32_t i = 0; epoch && i < count; i++) {
        block_fill(want, ino, first + i, epoch, seq);
        ck_assert_mem_eq(a.payload->data + i * BLOCK_SIZE, want, BLOCK_SIZE);
    }
    answer_free(&a);
}

void world_quiet(void *arg TC_UNUSED, const char *line)
{
    if (getenv("TC_VERBOSE"))
        fprintf(stderr, "%s\n", line);
}
