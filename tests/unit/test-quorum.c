/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The quorum engine against model stores on the simulated network: a store here is a table of versioned
 * blocks that answers as PROTOCOL section 4 says, and can be silenced, made to lag, damaged or filled up.
 */
#include <check.h>
#include <stdio.h>

#include <xxhash.h>

#include "client/quorum.h"
#include "sim/sim.h"

#define STORES 4
#define BLOCKS 16 /* of chunk 0 of inode 7 */
#define INO 7
#define TAG 0x1122334455667788ull

struct model_block {
    uint8_t kind;
    uint64_t vepoch, vseq, sum;
    uint8_t data[BLOCK_SIZE];
};

struct model_store {
    struct sim_node *node;
    struct env *env;
    struct net_port *port;
    uint64_t id, pg_epoch;
    bool silent, full;
    unsigned writes, reads, repairs, refused;
    struct model_block blocks[BLOCKS];
    struct wire_arena arena;
};

struct world {
    struct sim *sim;
    struct model_store stores[STORES];
    struct sim_node *client;
    struct env *env;
    struct quorum *q;
    struct map *map;
    bool session;
    unsigned look_map;
};

/* ---- the model store ---- */

static void store_write(struct model_store *s, const struct write_item *it, const uint8_t *data, struct write_result *res)
{
    *res = (struct write_result){0};
    if (it->pg_epoch < s->pg_epoch) {
        res->status = tc_error_to_wire(-TC_E_STALE_EPOCH);
        return;
    }
    if (s->full) {
        res->status = tc_error_to_wire(-TC_E_NOSPC);
        return;
    }
    s->repairs += (it->flags & WRITE_REPAIR) != 0;
    for (uint32_t i = 0; i < it->count; i++) {
        struct model_block *b = &s->blocks[it->first + i];

        if (b->vepoch > it->vepoch && !(it->flags & WRITE_REPAIR)) {
            res->status = tc_error_to_wire(-TC_E_FENCED);
            return;
        }
        if (b->vepoch > it->vepoch || (b->vepoch == it->vepoch && b->vseq >= it->vseq))
            continue;
        res->new_blocks += b->kind == RUN_NONE;
        b->kind = (it->flags & WRITE_ZERO) ? RUN_ZERO : RUN_DATA;
        b->vepoch = it->vepoch;
        b->vseq = it->vseq;
        if (b->kind == RUN_DATA) {
            memcpy(&b->sum, it->sums.p + (size_t)8 * i, 8);
            memcpy(b->data, data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
            ck_assert(XXH3_64bits(b->data, BLOCK_SIZE) == b->sum);
        }
    }
}

static void store_read(struct model_store *s, const struct read_item *it, struct read_result *res, struct buf *payload)
{
    struct version_run *runs = wire_arena_alloc(&s->arena, it->count * sizeof(*runs));
    uint8_t *sums = wire_arena_alloc(&s->arena, it->count * 8 + 8);
    uint32_t n_sums = 0;

    *res = (struct read_result){0};
    if (it->pg_epoch < s->pg_epoch) {
        res->status = tc_error_to_wire(-TC_E_STALE_EPOCH);
        return;
    }
    for (uint32_t i = 0; i < it->count; i++) {
        const struct model_block *b = &s->blocks[it->first + i];

        runs[i] = (struct version_run){.count = 1, .kind = b->kind, .vepoch = b->vepoch, .vseq = b->vseq};
        if (b->kind != RUN_DATA)
            continue;
        memcpy(sums + (size_t)8 * n_sums++, &b->sum, 8);
        if (it->data) {
            memcpy(payload->data + payload->len, b->data, BLOCK_SIZE);
            payload->len += BLOCK_SIZE;
        }
    }
    res->runs.items = runs;
    res->runs.n = it->count;
    res->sums = (struct wire_bin){sums, n_sums * 8};
}

/* It is for another. */
static void refuse(struct model_store *s, uint64_t peer, struct wire_header reply)
{
    reply.status = tc_error_to_wire(-TC_E_WRONG_STORE);
    s->refused++;
    (void)env_send(s->port, peer, wire_encode_frame(&reply, NULL, NULL), NULL);
}

static void store_on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct model_store *s = arg;
    struct wire_header h, reply = {.kind = WIRE_REPLY};
    struct buf *out = NULL, *frame;
    struct slice body;

    ck_assert_int_eq(wire_check_frame(slice_of(head->data, head->len), &h, &body), 0);
    if (s->silent)
        return;
    wire_arena_reset(&s->arena);
    reply.type = h.type;
    reply.id = h.id;
    if (h.type == MSG_WRITE) {
        struct write_result results[64];
        struct write_res res = {.items = {results, 0}};
        struct write_req req;
        const uint8_t *data = payload ? payload->data : NULL;

        s->writes++;
        ck_assert_int_eq(wire_decode(body, &write_req_schema, &s->arena, &req), 0);
        ck_assert_uint_ne(req.store, 0);
        if (req.store != s->id) {
            refuse(s, peer, reply);
            return;
        }
        for (uint32_t i = 0; i < req.items.n; i++) {
            store_write(s, &req.items.items[i], data, &results[res.items.n++]);
            data = (req.items.items[i].flags & WRITE_ZERO) ? data : data + req.items.items[i].count * BLOCK_SIZE;
        }
        frame = wire_encode_frame(&reply, &write_res_schema, &res);
    } else {
        struct read_result results[64];
        struct read_res res = {.items = {results, 0}};
        struct read_req req;

        s->reads++;
        ck_assert_int_eq(wire_decode(body, &read_req_schema, &s->arena, &req), 0);
        ck_assert_uint_ne(req.store, 0);
        if (req.store != s->id) {
            refuse(s, peer, reply);
            return;
        }
        out = buf_new(4u << 20);
        for (uint32_t i = 0; i < req.items.n; i++)
            store_read(s, &req.items.items[i], &results[res.items.n++], out);
        if (out->len == 0)
            out = buf_unref(out);
        reply.payload_len = out ? out->len : 0;
        frame = wire_encode_frame(&reply, &read_res_schema, &res);
    }
    (void)env_send(s->port, peer, frame, out);
}

/* ---- the world ---- */

static bool owner_session(void *arg, uint64_t *ret_session, uint32_t *ret_incarnation)
{
    struct world *w = arg;

    *ret_session = 1;
    *ret_incarnation = 1;
    return w->session;
}

static struct map *owner_map(void *arg)
{
    return ((struct world *)arg)->map;
}

static void owner_look_map(void *arg)
{
    ((struct world *)arg)->look_map++;
}

static void set_voters(struct world *w, uint64_t epoch, unsigned first, unsigned next)
{
    w->map->epoch = epoch;
    w->map->pgs[0] = (struct map_pg){.epoch = epoch, .n = 3};
    for (unsigned i = 0; i < 3; i++)
        w->map->pgs[0].voters[i] = w->stores[(first + i) % STORES].id;
    if (next) {
        w->map->pgs[0].n_next = 3;
        for (unsigned i = 0; i < 3; i++)
            w->map->pgs[0].next[i] = w->stores[(next + i) % STORES].id;
    }
}

static struct world *world_new(uint64_t seed)
{
    static const struct sim_net_options net = {.latency_ns = 50 * NS_PER_US};
    struct world *w = tc_calloc(1, sizeof(*w));
    struct quorum_owner owner = {owner_session, owner_map, owner_look_map, w};

    w->sim = sim_new(seed);
    sim_net_set(w->sim, &net);
    w->map = map_new();
    w->map->n = 3;
    w->map->w = w->map->r = 2;
    w->map->pg_count = 1;
    w->map->pgs = tc_calloc(1, sizeof(*w->map->pgs));
    w->map->stores = tc_calloc(STORES, sizeof(*w->map->stores));
    w->map->n_stores = STORES;
    for (unsigned i = 0; i < STORES; i++) {
        struct model_store *s = &w->stores[i];
        char *host = tc_asprintf("store%u", i);

        s->id = 100 + i;
        s->node = sim_node_new(w->sim, host);
        s->env = sim_node_boot(s->node);
        w->map->stores[i] = (struct map_store){.store = s->id, .endpoint = tc_asprintf("tcp://%s:1", host), .zone = tc_strdup("")};
        ck_assert_int_eq(env_listen(s->env, w->map->stores[i].endpoint, store_on_msg, s, &s->port), 0);
        free(host);
    }
    set_voters(w, 1, 0, 0);
    w->client = sim_node_new(w->sim, "client");
    w->env = sim_node_boot(w->client);
    w->session = true;
    ck_assert_int_eq(quorum_open(w->env, &owner, TAG, &w->q), 0);
    return w;
}

static void world_free(struct world *w)
{
    quorum_close(w->q);
    for (unsigned i = 0; i < STORES; i++) {
        env_port_close(w->stores[i].port);
        wire_arena_fini(&w->stores[i].arena);
    }
    map_free(w->map);
    sim_free(w->sim);
    free(w);
}

struct op {
    struct qwrite w;
    struct qread r;
    uint64_t sums[BLOCKS];
    bool done, all_done, all;
    int status;
    uint64_t done_at;
    struct world *world;
};

static void op_wdone(struct qwrite *w, int status)
{
    struct op *o = container_of(w, struct op, w);

    ck_assert(!o->done);
    o->done = true;
    o->status = status;
    o->done_at = sim_now(o->world->sim);
}

static void op_all(struct qwrite *w, bool all)
{
    struct op *o = container_of(w, struct op, w);

    ck_assert(o->done && !o->all_done);
    o->all_done = true;
    o->all = all;
}

static void op_rdone(struct qread *r, int status)
{
    struct op *o = container_of(r, struct op, r);

    ck_assert(!o->done);
    o->done = true;
    o->status = status;
    o->done_at = sim_now(o->world->sim);
}

static struct op *op_write(struct world *w, uint32_t first, uint32_t count, uint64_t epoch, uint64_t seq, uint8_t fill)
{
    struct op *o = tc_calloc(1, sizeof(*o));
    struct buf *b = buf_new(count * BLOCK_SIZE);

    o->world = w;
    memset(b->data, fill, count * BLOCK_SIZE);
    b->len = count * BLOCK_SIZE;
    for (uint32_t i = 0; i < count; i++)
        o->sums[i] = XXH3_64bits(b->data, BLOCK_SIZE);
    o->w = (struct qwrite){.ino = INO, .first = first, .count = count, .vepoch = epoch, .vseq = seq, .size = 65536,
                           .mtime = 1, .data = b, .sums = o->sums, .deadline = UINT64_MAX, .done = op_wdone, .all_done = op_all};
    quorum_write(w->q, &o->w);
    ck_assert(!o->done);
    buf_unref(b);
    return o;
}

static struct op *op_read(struct world *w, uint32_t first, uint32_t count, bool write_back)
{
    struct op *o = tc_calloc(1, sizeof(*o));

    o->world = w;
    o->r = (struct qread){.ino = INO, .first = first, .count = count, .write_back = write_back, .deadline = UINT64_MAX, .done = op_rdone};
    quorum_read(w->q, &o->r);
    ck_assert(!o->done);
    return o;
}

static bool is_done(void *arg)
{
    return ((struct op *)arg)->done;
}

static bool is_all_done(void *arg)
{
    return ((struct op *)arg)->all_done;
}

static void finish(struct op *o, uint64_t within_ms)
{
    ck_assert_msg(sim_run(o->world->sim, sim_now(o->world->sim) + within_ms * NS_PER_MS, is_done, o), "operation hangs");
}

static void op_free(struct op *o)
{
    if (o->w.count && !o->all_done)
        ck_assert(sim_run(o->world->sim, sim_now(o->world->sim) + 60 * NS_PER_S, is_all_done, o));
    quorum_read_free(&o->r);
    free(o);
}

static void write_ok(struct world *w, uint32_t first, uint32_t count, uint64_t epoch, uint64_t seq, uint8_t fill)
{
    struct op *o = op_write(w, first, count, epoch, seq, fill);

    finish(o, 100);
    ck_assert_int_eq(o->status, 0);
    op_free(o);
}

static void settle(struct world *w, uint64_t ms)
{
    sim_run_until(w->sim, sim_now(w->sim) + ms * NS_PER_MS);
}

/* ---- tests ---- */

/* A write is on all three; a read returns it; a hole is none. */
START_TEST(round_trip)
{
    struct world *w = world_new(1);
    struct op *o = op_write(w, 2, 3, 5, 1, 'a');

    finish(o, 10);
    ck_assert(sim_run(w->sim, sim_now(w->sim) + NS_PER_S, is_all_done, o));
    ck_assert(o->status == 0 && o->all && o->w.new_blocks == 3);
    op_free(o);
    o = op_read(w, 0, 8, false);
    finish(o, 10);
    ck_assert_int_eq(o->status, 0);
    for (unsigned i = 0; i < 8; i++) {
        bool written = i >= 2 && i < 5;

        ck_assert_int_eq(o->r.blocks[i].kind, written ? RUN_DATA : RUN_NONE);
        ck_assert(!written || (o->r.blocks[i].data[17] == 'a' && o->r.blocks[i].vepoch == 5));
    }
    op_free(o);
    ck_assert_uint_eq(w->stores[0].reads + w->stores[1].reads + w->stores[2].reads, 2);
    world_free(w);
}
END_TEST

/* One voter silent: writes and reads go on, no read waits longer than a hedge. The third is given up. */
START_TEST(one_silent)
{
    struct world *w = world_new(2);

    for (unsigned quiet = 0; quiet < 3; quiet++) {
        uint64_t began;
        struct op *o;

        w->stores[quiet].silent = true;
        o = op_write(w, 0, 4, 5, 10 + quiet, (uint8_t)('a' + quiet));
        finish(o, 5);
        ck_assert_int_eq(o->status, 0);
        ck_assert(sim_run(w->sim, sim_now(w->sim) + 2 * NS_PER_S, is_all_done, o) && !o->all);
        op_free(o);
        began = sim_now(w->sim);
        o = op_read(w, 0, 4, false);
        finish(o, 200);
        ck_assert_int_eq(o->status, 0);
        ck_assert_int_eq(o->r.blocks[3].data[0], 'a' + (int)quiet);
        ck_assert_uint_lt(o->done_at - began, 200 * NS_PER_MS);
        op_free(o);
        w->stores[quiet].silent = false;
        settle(w, 6000);
    }
    world_free(w);
}
END_TEST

/* Two silent: nothing is done; one back: done, without any call of the caller's. */
START_TEST(no_quorum_waits)
{
    struct world *w = world_new(3);
    struct op *wr, *rd;

    w->stores[0].silent = w->stores[1].silent = true;
    wr = op_write(w, 0, 1, 5, 1, 'x');
    rd = op_read(w, 1, 1, false);
    settle(w, 20000);
    ck_assert(!wr->done && !rd->done);
    w->stores[1].silent = false;
    finish(wr, 10000);
    finish(rd, 10000);
    ck_assert(wr->status == 0 && rd->status == 0);
    op_free(wr);
    op_free(rd);
    world_free(w);
}
END_TEST

/* Of a clean file each of the three is enough when the other two are silent. */
START_TEST(clean_of_one)
{
    for (unsigned left = 0; left < 3; left++) {
        struct world *w = world_new(3);
        struct op *o;

        write_ok(w, 0, 4, 5, 1, 'c');
        settle(w, 1000);
        for (unsigned s = 0; s < STORES; s++)
            w->stores[s].silent = s != left;
        o = tc_calloc(1, sizeof(*o));
        o->world = w;
        o->r = (struct qread){.ino = INO, .count = 4, .clean = true, .deadline = UINT64_MAX, .done = op_rdone};
        quorum_read(w->q, &o->r);
        finish(o, 10000);
        ck_assert_int_eq(o->status, 0);
        ck_assert(o->r.blocks[0].data[7] == 'c' && o->r.blocks[3].data[0] == 'c');
        op_free(o);
        world_free(w);
    }
}
END_TEST

/* But not one that cannot read the block: it waits for another that can. */
START_TEST(clean_of_an_intact_one)
{
    struct world *w = world_new(3);
    struct op *o = tc_calloc(1, sizeof(*o));

    write_ok(w, 0, 1, 5, 1, 'c');
    settle(w, 1000);
    w->stores[0].blocks[0] = (struct model_block){.kind = RUN_UNKNOWN};
    w->stores[1].silent = w->stores[2].silent = true;
    o->world = w;
    o->r = (struct qread){.ino = INO, .count = 1, .clean = true, .deadline = UINT64_MAX, .done = op_rdone};
    quorum_read(w->q, &o->r);
    settle(w, 3000);
    ck_assert(!o->done);
    w->stores[2].silent = false;
    finish(o, 10000);
    ck_assert_int_eq(o->status, 0);
    ck_assert(o->r.blocks[0].data[7] == 'c');
    op_free(o);
    world_free(w);
}
END_TEST

/* The newest of two answers wins, its data is fetched, the laggard is mended in the background. */
START_TEST(laggard_is_mended)
{
    unsigned mended = 0;

    for (unsigned lag = 0; lag < 3; lag++) {
        struct world *w = world_new(4);
        struct op *o;

        write_ok(w, 0, 4, 5, 1, 'o');
        w->stores[lag].silent = true;
        write_ok(w, 1, 2, 6, 1, 'n');
        w->stores[lag].silent = false;
        settle(w, 6000);
        for (unsigned i = 0; i < 4; i++) { /* whichever two are asked */
            o = op_read(w, 0, 4, false);
            finish(o, 200);
            ck_assert_int_eq(o->status, 0);
            ck_assert(o->r.blocks[0].data[5] == 'o' && o->r.blocks[1].data[5] == 'n' && o->r.blocks[2].vepoch == 6);
            op_free(o);
            settle(w, 1000);
        }
        mended += w->stores[lag].blocks[1].vepoch == 6;
        world_free(w);
    }
    ck_assert_uint_gt(mended, 1); /* those that were asked */
}
END_TEST

/* Versions alone, of voters that differ: the newest, whichever two are asked and whoever answers last. */
START_TEST(versions_of_a_laggard)
{
    for (unsigned lag = 0; lag < 3; lag++) {
        struct world *w = world_new(4);

        write_ok(w, 0, 4, 6, 1, 'n');
        settle(w, 1000);
        w->stores[lag].blocks[1].vepoch = 5;
        for (unsigned i = 0; i < 4; i++) {
            struct op *o = tc_calloc(1, sizeof(*o));

            o->world = w;
            o->r = (struct qread){.ino = INO, .count = 4, .versions_only = true, .deadline = UINT64_MAX, .done = op_rdone};
            quorum_read(w->q, &o->r);
            finish(o, 200);
            ck_assert_int_eq(o->status, 0);
            ck_assert_uint_eq(o->r.blocks[1].vepoch, 6);
            op_free(o);
        }
        world_free(w);
    }
}
END_TEST

/* Where the newest versions are known one voter is asked, and believed only if it has them. */
START_TEST(expected_of_one)
{
    struct world *w = world_new(4);
    struct qblock expect[4];
    unsigned asked = 0;
    struct op *o;

    write_ok(w, 0, 4, 6, 1, 'n');
    settle(w, 1000);
    o = op_read(w, 0, 4, false);
    finish(o, 200);
    memcpy(expect, o->r.blocks, sizeof(expect));
    op_free(o);
    for (unsigned behind = 0; behind <= STORES; behind++) { /* nobody, then each voter in turn */
        for (unsigned s = 0; s < STORES; s++) {
            w->stores[s].reads = 0;
            w->stores[s].blocks[1].vepoch = s + 1 == behind ? 5 : 6;
        }
        o = tc_calloc(1, sizeof(*o));
        o->world = w;
        o->r = (struct qread){.ino = INO, .count = 4, .expect = expect, .deadline = UINT64_MAX, .done = op_rdone};
        quorum_read(w->q, &o->r);
        finish(o, 200);
        ck_assert_int_eq(o->status, 0);
        ck_assert_uint_eq(o->r.blocks[1].vepoch, 6);
        ck_assert(o->r.blocks[1].data[7] == 'n' && o->r.blocks[3].data[0] == 'n');
        op_free(o);
        if (behind == 0) {
            for (unsigned s = 0; s < STORES; s++)
                asked += w->stores[s].reads;
            ck_assert_uint_eq(asked, 1);
        }
        settle(w, 1000);
    }
    world_free(w);
}
END_TEST

/* With write_back a version on one voter only is on W before the read returns. */
START_TEST(write_back_first)
{
    struct world *w = world_new(5);
    struct op *o;
    unsigned have = 0;

    write_ok(w, 0, 1, 5, 1, 'o');
    settle(w, 100);
    w->stores[1].silent = w->stores[2].silent = true;
    o = op_write(w, 0, 1, 6, 1, 'n'); /* reaches store 0 alone; its writer dies */
    settle(w, 300);
    ck_assert(!o->done);
    quorum_close(w->q);
    free(o);
    w->stores[1].silent = false; /* the read hears these two; what it returns is on both then */
    {
        struct quorum_owner owner = {owner_session, owner_map, owner_look_map, w};

        ck_assert_int_eq(quorum_open(w->env, &owner, TAG, &w->q), 0);
    }
    o = op_read(w, 0, 1, true);
    finish(o, 1000);
    ck_assert_int_eq(o->status, 0);
    for (unsigned i = 0; i < 3; i++)
        have += w->stores[i].blocks[0].vepoch == o->r.blocks[0].vepoch;
    ck_assert_uint_ge(have, 2);
    op_free(o);
    world_free(w);
}
END_TEST

/* What a store cannot read is no vote: not even with one that never had the block does it make a quorum for nothing there. */
START_TEST(unknown_is_no_vote)
{
    for (unsigned bad = 0; bad < 3; bad++) { /* any two are asked first, whichever these are */
        struct world *w = world_new(7);
        unsigned late = (bad + 1) % 3;
        struct op *o;

        write_ok(w, 0, 1, 5, 1, 'u');
        settle(w, 100);
        w->stores[late].blocks[0] = (struct model_block){0};
        w->stores[bad].blocks[0].kind = RUN_UNKNOWN;
        o = op_read(w, 0, 1, false);
        finish(o, 1000);
        ck_assert_int_eq(o->status, 0);
        ck_assert_uint_eq(o->r.blocks[0].kind, RUN_DATA);
        ck_assert_uint_eq(o->r.blocks[0].data[0], 'u');
        op_free(o);
        world_free(w);
    }
}
END_TEST

/* A damaged block fails its checksum at the reader: another voter's is returned. */
START_TEST(damage_is_not_returned)
{
    for (unsigned bad = 0; bad < 3; bad++) {
        struct world *w = world_new(6);
        struct op *o;

        write_ok(w, 0, 4, 5, 1, 'g');
        settle(w, 100);
        w->stores[bad].blocks[2].data[100] ^= 1;
        o = op_read(w, 0, 4, false);
        finish(o, 1000);
        ck_assert_int_eq(o->status, 0);
        ck_assert_int_eq(o->r.blocks[2].data[100], 'g');
        op_free(o);
        w->stores[bad].blocks[2].kind = RUN_UNKNOWN;
        o = op_read(w, 0, 4, false);
        finish(o, 1000);
        ck_assert_int_eq(o->r.blocks[2].data[100], 'g');
        op_free(o);
        world_free(w);
    }
}
END_TEST

/* A higher epoch fences the writer; a full store is survived, a quorum of full ones is ENOSPC. */
START_TEST(fenced_and_full)
{
    struct world *w = world_new(7);
    struct op *o;

    write_ok(w, 0, 1, 9, 1, 'n');
    settle(w, 100);
    o = op_write(w, 0, 1, 8, 50, 'o');
    finish(o, 100);
    ck_assert_int_eq(o->status, -TC_E_FENCED);
    op_free(o);
    w->stores[0].full = true;
    write_ok(w, 1, 1, 9, 2, 'f');
    w->stores[1].full = true;
    o = op_write(w, 2, 1, 9, 3, 'f');
    finish(o, 1000);
    ck_assert_int_eq(o->status, -TC_E_NOSPC);
    op_free(o);
    world_free(w);
}
END_TEST

/* Voters change under a write: it waits for the new map, is sent to the newcomer, needs W of both sets. */
START_TEST(map_changes)
{
    struct world *w = world_new(8);
    struct op *o;

    for (unsigned i = 0; i < STORES; i++)
        w->stores[i].pg_epoch = 2;
    o = op_write(w, 0, 1, 5, 1, 'm');
    settle(w, 500);
    ck_assert(!o->done && w->look_map > 0);
    w->stores[3].silent = true;
    set_voters(w, 2, 0, 1); /* {0,1,2} -> {1,2,3} */
    quorum_map_changed(w->q);
    finish(o, 1000); /* 1 and 2 are W of both */
    ck_assert_int_eq(o->status, 0);
    op_free(o);
    w->stores[2].silent = true;
    o = op_write(w, 0, 1, 5, 2, 'm');
    settle(w, 5000);
    ck_assert(!o->done); /* W of the old set, but only one of the new */
    w->stores[3].silent = false;
    finish(o, 10000);
    ck_assert_int_eq(o->status, 0);
    ck_assert_uint_eq(w->stores[3].blocks[0].vseq, 2);
    op_free(o);
    world_free(w);
}
END_TEST

/* PROTOCOL 6.5: between two maps that a client saw a newcomer may have left, come back and dropped what it had. */
START_TEST(missed_epoch)
{
    struct world *w = world_new(22);
    struct op *o;

    for (unsigned i = 0; i < STORES; i++)
        w->stores[i].pg_epoch = 2;
    set_voters(w, 2, 0, 1);
    quorum_map_changed(w->q);
    w->stores[1].silent = w->stores[2].silent = true;
    o = op_write(w, 0, 1, 5, 1, 'm'); /* 0 and 3 have it: one of each set too few */
    settle(w, 1000);
    ck_assert(!o->done);
    memset(w->stores[3].blocks, 0, sizeof w->stores[3].blocks);
    w->stores[3].silent = true;
    w->stores[1].silent = false;
    for (unsigned i = 0; i < STORES; i++)
        w->stores[i].pg_epoch = 4;
    set_voters(w, 4, 0, 1);
    quorum_map_changed(w->q);
    settle(w, 5000);
    ck_assert(!o->done); /* 0 and 1 are W of the old set; of the new there is only 1 */
    w->stores[3].silent = false;
    finish(o, 10000);
    ck_assert_int_eq(o->status, 0);
    ck_assert_uint_eq(w->stores[3].blocks[0].vseq, 1);
    op_free(o);
    world_free(w);
}
END_TEST

static void set_endpoint(struct world *w, unsigned i, unsigned at)
{
    free(w->map->stores[i].endpoint);
    w->map->stores[i].endpoint = tc_asprintf("tcp://store%u:1", at);
}

/* Another store listens where a voter was: it is no vote of that one's, and is not asked much. Where the voter really is, it
 * is asked at once. */
START_TEST(another_at_the_address)
{
    struct world *w = world_new(21);
    struct op *o, *p;

    write_ok(w, 0, 1, 5, 1, 'a');
    settle(w, 1000);
    set_endpoint(w, 0, 1); /* 1 takes the address of 0 */
    quorum_map_changed(w->q);
    write_ok(w, 0, 1, 5, 2, 'b'); /* 1 and 2 */
    ck_assert_uint_gt(w->look_map, 0);
    settle(w, 2000);
    w->stores[2].silent = true;
    w->stores[1].refused = 0;
    o = op_write(w, 0, 1, 5, 3, 'c');
    p = op_read(w, 0, 1, false);
    settle(w, 10000);
    ck_assert(!o->done && !p->done);
    ck_assert_uint_gt(w->stores[1].refused, 2);
    ck_assert_uint_lt(w->stores[1].refused, 100);
    set_endpoint(w, 0, 0);
    quorum_map_changed(w->q);
    finish(o, 100);
    finish(p, 100);
    ck_assert_int_eq(o->status, 0);
    ck_assert_int_eq(p->status, 0);
    ck_assert_uint_eq(w->stores[0].blocks[0].vseq, 3);
    op_free(o);
    op_free(p);
    world_free(w);
}
END_TEST

/* Without a session nothing is sent; with one again all goes on; fenced, all ends. */
START_TEST(session_rules)
{
    struct world *w = world_new(9);
    struct op *o, *p;

    w->session = false;
    o = op_write(w, 0, 1, 5, 1, 's');
    p = op_read(w, 0, 1, false);
    settle(w, 3000);
    ck_assert(!o->done && !p->done && w->stores[0].writes == 0);
    w->session = true;
    quorum_session_changed(w->q, false);
    finish(o, 3000);
    finish(p, 3000);
    ck_assert(o->status == 0 && p->status == 0);
    op_free(o);
    op_free(p);
    w->session = false;
    o = op_write(w, 0, 1, 5, 2, 's');
    settle(w, 100);
    quorum_session_changed(w->q, true);
    finish(o, 100);
    ck_assert_int_eq(o->status, -TC_E_FENCED);
    op_free(o);
    world_free(w);
}
END_TEST

/* What is asked for in one turn goes to a store as one message. */
START_TEST(one_message_a_turn)
{
    struct world *w = world_new(10);
    struct op *o[12];

    for (unsigned i = 0; i < 12; i++)
        o[i] = op_write(w, i, 1, 5, i + 1, (uint8_t)i);
    for (unsigned i = 0; i < 12; i++)
        finish(o[i], 100);
    ck_assert_uint_eq(w->stores[0].writes, 1);
    for (unsigned i = 0; i < 12; i++)
        op_free(o[i]);
    for (unsigned i = 0; i < 12; i++)
        o[i] = op_read(w, i, 1, false);
    for (unsigned i = 0; i < 12; i++) {
        finish(o[i], 100);
        ck_assert_int_eq(o[i]->r.blocks[0].data[9], (int)i);
        op_free(o[i]);
    }
    ck_assert_uint_le(w->stores[0].reads + w->stores[1].reads + w->stores[2].reads, 3);
    world_free(w);
}
END_TEST

/* Random lossy networks: every operation ends, and a read returns the newest acknowledged write or later. */
START_TEST(lossy)
{
    static const struct sim_net_options net = {.latency_ns = 200 * NS_PER_US, .loss_ppm = 100000, .dup_ppm = 50000,
                                               .reorder_ppm = 100000, .reorder_ns = 5 * NS_PER_MS};
    struct world *w = world_new(1000 + (uint64_t)_i);

    sim_net_set(w->sim, &net);
    for (uint64_t seq = 1; seq <= 20; seq++) {
        struct op *o = op_write(w, (uint32_t)(seq % 3), 2, 5, seq, (uint8_t)seq), *r;

        finish(o, 60000);
        ck_assert_int_eq(o->status, 0);
        r = op_read(w, (uint32_t)(seq % 3), 2, false);
        finish(r, 60000);
        ck_assert(r->status == 0 && r->r.blocks[1].vseq == seq && r->r.blocks[1].data[0] == seq);
        op_free(r);
        op_free(o);
    }
    world_free(w);
}
END_TEST

/* What waits while its group moves on and on, over more stores than an operation has room for, is done by those it has in the end. */
START_TEST(outlives_many_maps)
{
    struct world *w = world_new(31);
    struct op *put, *get;

    for (unsigned i = 0; i < STORES; i++)
        w->stores[i].silent = true;
    put = op_write(w, 0, 1, 1, 1, 7);
    get = op_read(w, 1, 1, false);
    for (unsigned k = 0; k < 12; k++) {
        sim_run_until(w->sim, sim_now(w->sim) + 20 * NS_PER_MS);
        set_voters(w, 2 + k, 0, 0);
        for (unsigned i = 0; i < 3; i++)
            w->map->pgs[0].voters[i] = 1000 + 3 * k + i; /* somewhere that cannot be reached */
        quorum_map_changed(w->q);
        ck_assert(!put->done && !get->done);
    }
    for (unsigned i = 0; i < STORES; i++)
        w->stores[i].silent = false;
    set_voters(w, 20, 1, 0);
    quorum_map_changed(w->q);
    finish(put, 5000);
    finish(get, 5000);
    ck_assert_int_eq(put->status, 0);
    ck_assert_int_eq(get->status, 0);
    op_free(put);
    op_free(get);
    world_free(w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quorum");
    TCase *t = tcase_create("quorum");
    SRunner *r;
    int failed;

    tcase_add_test(t, round_trip);
    tcase_add_test(t, one_silent);
    tcase_add_test(t, no_quorum_waits);
    tcase_add_test(t, laggard_is_mended);
    tcase_add_test(t, versions_of_a_laggard);
    tcase_add_test(t, clean_of_one);
    tcase_add_test(t, clean_of_an_intact_one);
    tcase_add_test(t, expected_of_one);
    tcase_add_test(t, write_back_first);
    tcase_add_test(t, unknown_is_no_vote);
    tcase_add_test(t, damage_is_not_returned);
    tcase_add_test(t, fenced_and_full);
    tcase_add_test(t, map_changes);
    tcase_add_test(t, missed_epoch);
    tcase_add_test(t, another_at_the_address);
    tcase_add_test(t, session_rules);
    tcase_add_test(t, outlives_many_maps);
    tcase_add_test(t, one_message_a_turn);
    tcase_add_loop_test(t, lossy, 0, 20);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
