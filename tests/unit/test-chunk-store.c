/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunk store on a simulated disk: what was acknowledged is there after a crash at any point, no block
 * is torn, versions order what arrives in any order, damage is unknown and never zeros.
 *
 * Content is a function of chunk, block and version, so any block read back can be checked by itself.
 */
#include <check.h>
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "common/log.h"
#include "common/map.h"
#include "sim/sim.h"
#include "storage/chunk_store.h"

#define CHUNKS 6
#define OPS_MAX 8

struct model_block {
    uint64_t acked, issued; /* versions, as version_of() */
    uint64_t trimmed;       /* below this version nothing need be there */
};

struct life {
    struct sim *sim;
    struct sim_node *node;
    struct env *env;
    struct chunk_store *cs;
    struct model_block model[CHUNKS][BLOCKS_PER_CHUNK];
    uint64_t seq, epoch;
    uint32_t flying;
    bool fatal;
};

struct wop {
    struct chunk_write_op op;
    struct chunk_write items[4];
    struct life *l;
    uint8_t sums[4][BLOCKS_PER_CHUNK * 8];
    bool done;
};

static int open_mem(void *arg, struct env *env, const char *path, struct kv **ret_kv)
{
    (void)arg;
    return kv_open_mem(env_vfs(env), path, ret_kv);
}

static void on_fatal(void *arg, int err, const char *why)
{
    struct life *l = arg;

    (void)err;
    (void)why;
    l->fatal = true;
}

static uint32_t pgs = 3;

static struct chunk_key key_of(uint32_t c)
{
    struct map m = {.pg_count = pgs};

    return (struct chunk_key){.pg = map_pg_of(&m, 100 + c / 2, c % 2), .ino = 100 + c / 2, .index = c % 2};
}

static uint64_t version_of(uint64_t epoch, uint64_t seq)
{
    return epoch << 32 | seq;
}

static void fill(uint8_t *to, uint32_t c, uint32_t b, uint64_t seq)
{
    uint64_t x = seq * 1000003 + b * 257 + c;

    for (uint32_t i = 0; i < BLOCK_SIZE; i += 8) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        memcpy(to + i, &x, 8);
    }
    if (seq % 3 == 0) /* trailing zeros are not stored */
        memset(to + 1000, 0, BLOCK_SIZE - 1000);
}

static int start_store(struct life *l, uint64_t pending)
{
    struct chunk_store_options opt = {.dir = "store", .kv_open = open_mem, .fatal = on_fatal, .fatal_arg = l,
                                      .journal = {.segment_bytes = 512 << 10}, .reserve_bytes = 1,
                                      .pending_bytes = pending, .cache_bytes = 64 << 10};

    l->env = sim_node_boot(l->node);
    l->fatal = false;
    l->flying = 0;
    return chunk_store_open(l->env, &opt, &l->cs);
}

static void stop_store(struct life *l)
{
    sim_node_kill(l->node);
    chunk_store_close(l->cs);
    l->cs = NULL;
}

static struct life *life_new(uint64_t seed)
{
    struct life *l = calloc(1, sizeof *l);

    l->epoch = 1;
    l->sim = sim_new(seed);
    l->node = sim_node_new(l->sim, "s");
    return l;
}

static void life_free(struct life *l)
{
    if (l->cs)
        stop_store(l);
    sim_free(l->sim);
    free(l);
}

static void wop_done(struct chunk_write_op *op)
{
    struct wop *w = container_of(op, struct wop, op);
    struct life *l = w->l;

    for (uint32_t i = 0; i < op->n; i++) {
        struct chunk_write *it = &op->items[i];
        uint32_t c = (uint32_t)(it->key.ino - 100) * 2 + it->key.index;

        for (uint32_t b = it->first; it->status == 0 && b < it->first + it->count; b++)
            l->model[c][b].acked = MAX(l->model[c][b].acked, version_of(it->vepoch, it->vseq));
    }
    l->flying--;
    w->done = true;
}

static void wop_item(struct wop *w, uint32_t i, uint32_t c, uint32_t first, uint32_t count, uint64_t seq, bool zero)
{
    struct chunk_write *it = &w->items[i];

    *it = (struct chunk_write){.key = key_of(c), .first = first, .count = count, .vepoch = w->l->epoch, .vseq = seq,
                               .flags = zero ? WRITE_ZERO : 0, .pair = {w->l->epoch, seq, seq * 10, seq * 20}};
    for (uint32_t b = 0; b < count && first + b < ARRAY_SIZE(w->l->model[c]); b++) /* a bad range is tried too */
        w->l->model[c][first + b].issued = MAX(w->l->model[c][first + b].issued, version_of(w->l->epoch, seq));
}

/* Payload and sums of all items; then off it goes. */
static void wop_start(struct wop *w, uint32_t n)
{
    uint32_t blocks = 0, at = 0;

    for (uint32_t i = 0; i < n; i++)
        blocks += w->items[i].flags & WRITE_ZERO ? 0 : w->items[i].count;
    w->op = (struct chunk_write_op){.items = w->items, .n = n, .done = wop_done};
    w->op.payload = blocks ? buf_new(blocks * BLOCK_SIZE) : NULL;
    for (uint32_t i = 0; i < n; i++) {
        struct chunk_write *it = &w->items[i];
        uint32_t c = (uint32_t)(it->key.ino - 100) * 2 + it->key.index;

        if (it->flags & WRITE_ZERO)
            continue;
        it->data = w->op.payload->data + at;
        it->sums = w->sums[i];
        for (uint32_t b = 0; b < it->count; b++, at += BLOCK_SIZE) {
            uint64_t sum;

            fill(w->op.payload->data + at, c, it->first + b, it->vseq);
            sum = XXH3_64bits(w->op.payload->data + at, BLOCK_SIZE);
            memcpy(w->sums[i] + 8 * b, &sum, 8);
        }
    }
    if (w->op.payload)
        w->op.payload->len = blocks * BLOCK_SIZE;
    w->l->flying++;
    chunk_store_write(w->l->cs, &w->op);
}

static void wop_end(struct wop *w)
{
    buf_unref(w->op.payload);
    memset(&w->op, 0, sizeof w->op);
    w->done = false;
}

static bool wop_is_done(void *arg)
{
    return ((struct wop *)arg)->done;
}

/* One write, waited for. */
static int write_one(struct life *l, uint32_t c, uint32_t first, uint32_t count, uint64_t epoch, uint64_t seq,
                     uint32_t flags)
{
    struct wop *w = calloc(1, sizeof *w);
    int status;

    w->l = l;
    wop_item(w, 0, c, first, count, seq, flags & WRITE_ZERO);
    w->items[0].vepoch = w->items[0].pair.vepoch = epoch;
    w->items[0].flags |= flags;
    wop_start(w, 1);
    ck_assert(sim_run(l->sim, sim_now(l->sim) + 60 * NS_PER_S, wop_is_done, w));
    status = w->items[0].status;
    wop_end(w);
    free(w);
    return status;
}

struct rop {
    struct chunk_read_op op;
    struct chunk_read item;
    bool done;
};

static void rop_done(struct chunk_read_op *op)
{
    container_of(op, struct rop, op)->done = true;
}

static bool rop_is_done(void *arg)
{
    return ((struct rop *)arg)->done;
}

static void read_chunk(struct life *l, uint32_t c, struct rop *r)
{
    *r = (struct rop){.item = {.key = key_of(c), .first = 0, .count = BLOCKS_PER_CHUNK, .data = true}};
    r->op.items = &r->item;
    r->op.n = 1;
    r->op.done = rop_done;
    chunk_store_read(l->cs, &r->op);
    ck_assert(sim_run(l->sim, sim_now(l->sim) + 60 * NS_PER_S, rop_is_done, r));
    ck_assert_int_eq(r->item.status, 0);
}

/* Everything acknowledged is there or replaced by something newer that was issued, and nothing is torn. */
static void verify(struct life *l)
{
    uint8_t want[BLOCK_SIZE];
    uint64_t chunks = 0, blocks = 0;
    struct chunk_store_stats st;
    struct rop r;

    for (uint32_t c = 0; c < CHUNKS; c++) {
        const uint8_t *p;
        uint64_t highest = 0;
        bool any = false;

        read_chunk(l, c, &r);
        p = r.op.payload ? r.op.payload->data : NULL;
        for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++) {
            struct chunk_block *k = &r.item.blocks[b];
            struct model_block *m = &l->model[c][b];
            uint64_t has = version_of(k->vepoch, k->vseq);

            ck_assert_uint_ne(k->kind, RUN_UNKNOWN);
            ck_assert_msg((has >= m->acked || m->acked < m->trimmed) && has <= m->issued,
                          "chunk %u block %u: has %lx, acked %lx, issued %lx, trimmed %lx", c, b, has, m->acked, m->issued,
                          m->trimmed);
            m->acked = has; /* it was shown: it must stay */
            highest = MAX(highest, has);
            any = any || k->kind != RUN_NONE;
            blocks += k->kind == RUN_DATA;
            if (k->kind != RUN_DATA)
                continue;
            fill(want, c, b, k->vseq);
            ck_assert_mem_eq(p, want, BLOCK_SIZE);
            p += BLOCK_SIZE;
        }
        ck_assert_uint_ge(version_of(r.item.pair.vepoch, r.item.pair.vseq), highest);
        ck_assert_uint_eq(r.item.pair.size, r.item.pair.vseq * 10);
        chunks += any || r.item.pair.vepoch;
        chunk_read_op_fini(&r.op);
    }
    chunk_store_stats(l->cs, &st);
    ck_assert_uint_eq(st.chunks, chunks);
    ck_assert_uint_eq(st.blocks, blocks);
}

static void random_item(struct wop *w, uint32_t i)
{
    struct sim_rng *rng = sim_rng(w->l->sim);
    uint32_t c = (uint32_t)sim_below(rng, CHUNKS), first, count;

    switch (sim_below(rng, 4)) {
    case 0:
        first = (uint32_t)sim_below(rng, 16);
        count = 1;
        break;
    case 1:
        first = (uint32_t)sim_below(rng, BLOCKS_PER_CHUNK);
        count = 1 + (uint32_t)sim_below(rng, MIN(BLOCKS_PER_CHUNK - first, 8));
        break;
    case 2:
        first = (uint32_t)sim_below(rng, 8) * 32;
        count = 32;
        break;
    default:
        first = (uint32_t)sim_below(rng, 200);
        count = 1 + (uint32_t)sim_below(rng, BLOCKS_PER_CHUNK - first);
    }
    wop_item(w, i, c, first, count, ++w->l->seq, sim_below(rng, 8) == 0);
}

static bool frozen(void *arg)
{
    struct life *l = arg;

    return sim_node_crashed(l->node) || l->fatal;
}

struct removal {
    struct chunk_trim_op trim;
    struct chunk_drop_op drop;
    bool flying;
};

static void removal_trimmed(struct chunk_trim_op *op, int status)
{
    (void)status;
    container_of(op, struct removal, trim)->flying = false;
}

static void removal_dropped(struct chunk_drop_op *op, int status)
{
    (void)status;
    container_of(op, struct removal, drop)->flying = false;
}

/* A truncation, a removed inode, a chunk that is no longer this store's: what was there need not be there any more. */
static void random_removal(struct life *l, struct removal *rm)
{
    struct sim_rng *rng = sim_rng(l->sim);
    uint32_t ino = (uint32_t)sim_below(rng, CHUNKS / 2), c = (uint32_t)sim_below(rng, CHUNKS);
    uint64_t size = sim_below(rng, 3) ? 0 : sim_below(rng, 2 * CHUNK_SIZE);

    if (rm->flying)
        return;
    rm->flying = true;
    l->epoch++;
    if (sim_below(rng, 4)) {
        rm->trim = (struct chunk_trim_op){.ino = 100 + ino, .size = size, .epoch = l->epoch, .to = 2,
                                          .pg_count = 3, .done = removal_trimmed};
        for (uint64_t b = (size + BLOCK_SIZE - 1) / BLOCK_SIZE; b < 2 * BLOCKS_PER_CHUNK; b++)
            l->model[ino * 2 + b / BLOCKS_PER_CHUNK][b % BLOCKS_PER_CHUNK].trimmed = version_of(l->epoch, 0);
        if (chunk_store_trim(l->cs, &rm->trim) < 0)
            rm->flying = false;
        return;
    }
    rm->drop = (struct chunk_drop_op){.key = key_of(c), .done = removal_dropped};
    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++)
        l->model[c][b].trimmed = UINT64_MAX; /* writes under way may go with it */
    if (chunk_store_drop(l->cs, &rm->drop) < 0)
        rm->flying = false;
}

/* A life of random writes, several at once, that ends in a power loss somewhere. */
static void one_life(struct life *l, bool removals)
{
    struct wop *w = calloc(OPS_MAX, sizeof *w);
    struct removal *rm = calloc(1, sizeof *rm);
    struct sim_rng *rng = sim_rng(l->sim);

    sim_disk_crash_after(sim_node_disk(l->node), sim_below(rng, 300));
    for (int i = 0; i < 60 && !frozen(l); i++) {
        struct wop *v = &w[sim_below(rng, OPS_MAX)];
        uint32_t n = 1 + (uint32_t)sim_below(rng, 3);

        if (v->op.n && !v->done)
            continue;
        wop_end(v);
        v->l = l;
        for (uint32_t k = 0; k < n; k++)
            random_item(v, k);
        wop_start(v, n);
        if (removals && sim_below(rng, 6) == 0)
            random_removal(l, rm);
        if (sim_below(rng, 4) == 0)
            sim_run(l->sim, sim_now(l->sim) + sim_below(rng, 20) * NS_PER_MS, frozen, l);
        if (sim_below(rng, 10) == 0)
            chunk_store_checkpoint(l->cs);
    }
    sim_run(l->sim, sim_now(l->sim) + sim_below(rng, 5000) * NS_PER_MS, frozen, l);
    stop_store(l);
    for (int i = 0; i < OPS_MAX; i++)
        wop_end(&w[i]);
    free(w);
    free(rm);
    for (uint32_t c = 0; c < CHUNKS; c++) { /* a drop counts for its own life only */
        for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++) {
            if (l->model[c][b].trimmed == UINT64_MAX)
                l->model[c][b].acked = 0;
            l->model[c][b].trimmed = MIN(l->model[c][b].trimmed, version_of(l->epoch, 0));
        }
    }
    sim_disk_power_loss(sim_node_disk(l->node), (enum sim_loss)sim_below(rng, 3));
}

/* Random writes, random crashes, several lives on one disk: after each, everything acknowledged is there. */
START_TEST(crash_anywhere)
{
    const char *more = getenv("TC_SEEDS");
    uint64_t seeds = more ? strtoull(more, NULL, 10) : 12;

    pgs = 3;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct life *l = life_new(seed + (uint64_t)_i * 1000);

        for (int i = 0; i < 6; i++) {
            ck_assert_int_eq(start_store(l, 4 << 20), 0);
            verify(l);
            one_life(l, _i >= 4);
        }
        ck_assert_int_eq(start_store(l, 4 << 20), 0);
        verify(l);
        life_free(l);
    }
}
END_TEST

/* Newer wins whatever the order; a lower epoch is fenced; a repeated write is acknowledged; a clash is told. */
START_TEST(versions)
{
    struct life *l = life_new(1);
    struct rop r;

    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 3, 2, 5, 10, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 3, 2, 5, 10, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 3, 1, 5, 9, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 3, 1, 4, 99, 0), -TC_E_FENCED);
    ck_assert_int_eq(write_one(l, 0, 4, 1, 4, 99, WRITE_REPAIR), 0);
    ck_assert_int_eq(write_one(l, 0, 3, 1, 5, 10, WRITE_ZERO), -TC_E_VERSION_CLASH);
    ck_assert_int_eq(write_one(l, 0, 5, 1, 6, 1, WRITE_ZERO), 0);
    ck_assert_int_eq(write_one(l, 0, 5, 1, 5, 50, 0), -TC_E_FENCED); /* a mark has a version, too */
    ck_assert_int_eq(write_one(l, 0, 250, 10, 6, 1, 0), -TC_E_INVAL);
    read_chunk(l, 0, &r);
    ck_assert_uint_eq(r.item.blocks[3].vseq, 10);
    ck_assert_uint_eq(r.item.blocks[4].vepoch, 5);
    ck_assert_uint_eq(r.item.blocks[5].kind, RUN_ZERO);
    ck_assert_uint_eq(r.item.blocks[6].kind, RUN_NONE);
    ck_assert_uint_eq(r.item.pair.vepoch, 6);
    ck_assert_uint_eq(r.op.payload->len, 2 * BLOCK_SIZE);
    chunk_read_op_fini(&r.op);
    life_free(l);
}
END_TEST

static int trim_status;
static bool trim_ended;

static void on_trim(struct chunk_trim_op *op, int status)
{
    (void)op;
    trim_status = status;
    trim_ended = true;
}

static bool trimmed(void *arg)
{
    (void)arg;
    return trim_ended;
}

static void trim(struct life *l, uint64_t ino, uint64_t size, uint64_t epoch, uint64_t gc)
{
    struct chunk_trim_op op = {.ino = ino, .size = size, .epoch = epoch, .to = 64, .gc_id = gc,
                               .pg_count = 1, .done = on_trim};

    trim_ended = false;
    ck_assert_int_eq(chunk_store_trim(l->cs, &op), 0);
    ck_assert(sim_run(l->sim, sim_now(l->sim) + NS_PER_S, trimmed, NULL));
    ck_assert_int_eq(trim_status, 0);
    sim_run_until(l->sim, sim_now(l->sim) + 10 * NS_PER_MS);
}

/* A trim removes lower epochs past the size, survives a restart, and space comes back. */
START_TEST(trims)
{
    struct life *l = life_new(2);
    struct chunk_store_stats st;
    struct rop r;

    pgs = 1;
    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 0, 256, 1, 1, 0), 0); /* ino 100, pg 0: as placed with one pg */
    ck_assert_int_eq(write_one(l, 0, 200, 1, 3, 1, 0), 0);
    trim(l, 100, 40 * BLOCK_SIZE, 3, 7);
    for (int life = 0; life < 3; life++) {
        read_chunk(l, 0, &r);
        ck_assert_uint_eq(r.item.blocks[39].kind, RUN_DATA);
        ck_assert_uint_eq(r.item.blocks[40].kind, RUN_NONE);
        ck_assert_uint_eq(r.item.blocks[200].kind, RUN_DATA);
        chunk_read_op_fini(&r.op);
        chunk_store_stats(l->cs, &st);
        ck_assert_uint_eq(st.blocks, 41);
        ck_assert_uint_eq(st.chunks, 1);
        ck_assert_uint_eq(chunk_store_gc_cursor(l->cs), 7);
        if (life == 1) {
            chunk_store_checkpoint(l->cs);
            sim_run_until(l->sim, sim_now(l->sim) + 10 * NS_PER_S);
        }
        stop_store(l);
        sim_disk_power_loss(sim_node_disk(l->node), SIM_LOSS_ALL);
        ck_assert_int_eq(start_store(l, 0), 0);
    }
    trim(l, 100, 0, UINT64_MAX, 8);
    ck_assert_int_eq(write_one(l, 0, 0, 256, 9, 1, 0), 0); /* the name may come again: its file is another */
    sim_run_until(l->sim, sim_now(l->sim) + 10 * NS_PER_S);
    stop_store(l);
    ck_assert_int_eq(start_store(l, 0), 0);
    read_chunk(l, 0, &r);
    ck_assert_uint_eq(r.item.n_data, 256);
    chunk_read_op_fini(&r.op);
    chunk_store_removed(l->cs, 100); /* now it is gone: a late write is refused, small or large, whatever it bears */
    trim(l, 100, 0, UINT64_MAX, 9);
    ck_assert_int_eq(write_one(l, 0, 0, 256, 10, 1, 0), -TC_E_FENCED);
    ck_assert_int_eq(write_one(l, 0, 3, 1, 11, 1, WRITE_REPAIR), -TC_E_FENCED);
    chunk_store_checkpoint(l->cs);
    sim_run_until(l->sim, sim_now(l->sim) + 10 * NS_PER_S);
    chunk_store_stats(l->cs, &st);
    ck_assert_uint_eq(st.chunks, 0);
    ck_assert_uint_eq(st.blocks, 0);
    life_free(l);
}
END_TEST

static int first_file(void *arg, const char *name)
{
    snprintf(arg, 200, "%s", name);
    return 1;
}

/* A flipped bit is unknown, not an answer; an older write does not take its place; the good copy heals it. */
START_TEST(damage)
{
    struct life *l = life_new(3);
    char name[200] = "", path[300];
    struct chunk_store_stats st;
    struct rop r;

    pgs = 1;
    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 0, 64, 1, 5, 0), 0);
    ck_assert_int_eq(vfs_list(env_vfs(l->env), "store/data/00", first_file, name), 1);
    snprintf(path, sizeof path, "store/data/00/%s", name);
    ck_assert(sim_disk_flip(sim_node_disk(l->node), path, 9 * BLOCK_SIZE + 17, 4));
    for (int life = 0; life < 2; life++) {
        read_chunk(l, 0, &r);
        ck_assert_uint_eq(r.item.blocks[8].kind, RUN_DATA);
        ck_assert_uint_eq(r.item.blocks[9].kind, RUN_UNKNOWN);
        ck_assert_uint_eq(r.item.n_data, 63);
        ck_assert_uint_eq(r.op.payload->len, 63 * BLOCK_SIZE);
        chunk_read_op_fini(&r.op);
        chunk_store_stats(l->cs, &st);
        ck_assert_uint_eq(st.corrupt, life ? 0 : 1);
        sim_run_until(l->sim, sim_now(l->sim) + 10 * NS_PER_S);
        chunk_store_checkpoint(l->cs);
        sim_run_until(l->sim, sim_now(l->sim) + 10 * NS_PER_S);
        stop_store(l);
        ck_assert_int_eq(start_store(l, 0), 0);
    }
    ck_assert_int_eq(write_one(l, 0, 9, 1, 1, 4, WRITE_REPAIR), 0);
    read_chunk(l, 0, &r);
    ck_assert_uint_eq(r.item.blocks[9].kind, RUN_UNKNOWN);
    chunk_read_op_fini(&r.op);
    ck_assert_int_eq(write_one(l, 0, 9, 1, 1, 5, WRITE_REPAIR), 0);
    read_chunk(l, 0, &r);
    ck_assert_uint_eq(r.item.n_data, 64);
    chunk_read_op_fini(&r.op);
    ck_assert(sim_disk_flip(sim_node_disk(l->node), path, 20 * BLOCK_SIZE + 17, 4)); /* and a lost file */
    life_free(l);
}
END_TEST

/* A full disk refuses writes before anything breaks, goes on serving, and takes writes again when there is room. */
START_TEST(full_disk)
{
    struct life *l = life_new(4);
    uint64_t seq = 0;
    int r = 0;

    sim_disk_set_limit(sim_node_disk(l->node), 16 << 20);
    ck_assert_int_eq(start_store(l, 1 << 20), 0);
    for (uint32_t i = 0; i < 400 && r == 0; i++) {
        uint64_t begin = sim_now(l->sim);

        ++seq;
        do { /* first it may be that something is still going */
            r = write_one(l, i % CHUNKS, (uint32_t)(i / CHUNKS * 16) % 256, 16, 1, seq, 0);
            if (r == -TC_E_BACKPRESSURE)
                sim_run_until(l->sim, sim_now(l->sim) + 100 * NS_PER_MS);
        } while (r == -TC_E_BACKPRESSURE);
        ck_assert(r == 0 || r == -TC_E_NOSPC);
        ck_assert(r == 0 || sim_now(l->sim) - begin > NS_PER_S);
    }
    sim_run_until(l->sim, sim_now(l->sim) + 5 * NS_PER_S);
    ck_assert(!l->fatal);
    verify(l);
    life_free(l);
}
END_TEST

/* Digests are the same wherever the bytes lie, pages follow one another, another placement group is not seen. */
START_TEST(manifests)
{
    struct life *l = life_new(5);
    struct chunk_digest a[8], b[8];
    uint32_t n = 8, m = 1;
    bool eof;

    pgs = 1;
    ck_assert_int_eq(start_store(l, 0), 0);
    for (uint32_t c = 0; c < CHUNKS; c++)
        ck_assert_int_eq(write_one(l, c, 0, c + 1, 1, c + 1, 0), 0);
    ck_assert_int_eq(chunk_store_manifest(l->cs, 0, NULL, a, &n, &eof), 0);
    ck_assert_uint_eq(n, 6);
    ck_assert(eof);
    ck_assert_uint_eq(a[0].blocks, 1);
    ck_assert_uint_eq(a[1].blocks, 2);
    n = 8;
    ck_assert_int_eq(chunk_store_manifest(l->cs, 1, NULL, b, &n, &eof), 0);
    ck_assert_uint_eq(n, 0);
    chunk_store_checkpoint(l->cs);
    sim_run_until(l->sim, sim_now(l->sim) + 5 * NS_PER_S);
    ck_assert_int_eq(chunk_store_manifest(l->cs, 0, NULL, b, &m, &eof), 0);
    ck_assert(!eof);
    ck_assert_mem_eq(&a[0], &b[0], sizeof a[0]);
    m = 8;
    ck_assert_int_eq(chunk_store_manifest(l->cs, 0, &b[0].key, b, &m, &eof), 0);
    ck_assert_uint_eq(m, 5);
    ck_assert(eof);
    ck_assert_uint_eq(a[1].digest, b[0].digest);
    life_free(l);
}
END_TEST

/* New chunks are in the lists at any moment of the round that first gives them their rows: whoever compares stores, fills
 * one, or looks for what a lost writer left must not be told that they are not there. */
START_TEST(listed_while_merged)
{
    struct life *l = life_new(5);
    struct chunk_digest d[8];
    struct chunk_store_stats st;
    bool eof;

    pgs = 1;
    ck_assert_int_eq(start_store(l, 0), 0);
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t n = 8, index[4], indexes = 4;

        for (uint32_t c = 0; c < CHUNKS && round == 0; c++)
            ck_assert_int_eq(write_one(l, c, 0, 20, 1, 1, 0), 0); /* into the journal, later a file */
        chunk_store_checkpoint(l->cs);
        sim_run_until(l->sim, sim_now(l->sim) + round * 100 * NS_PER_US);
        ck_assert_int_eq(chunk_store_manifest(l->cs, 0, NULL, d, &n, &eof), 0);
        ck_assert_uint_eq(n, CHUNKS);
        ck_assert_int_eq(chunk_store_indexes(l->cs, 0, 100, 0, 10, index, &indexes), 0);
        ck_assert_uint_eq(indexes, 2);
    }
    sim_run_until(l->sim, sim_now(l->sim) + 5 * NS_PER_S);
    chunk_store_stats(l->cs, &st);
    ck_assert_uint_eq(st.pending_bytes, 0);
    stop_store(l);
    ck_assert_int_eq(start_store(l, 0), 0);
    verify(l);
    life_free(l);
}
END_TEST

/* What a quorum knows nothing of is compared while its first write is under way: it is counted once all the same. */
START_TEST(compared_while_written)
{
    struct life *l = life_new(6);
    struct wop *w = calloc(1, sizeof *w);
    struct chunk_key key = key_of(0);
    struct chunk_store_stats st;
    bool absent[BLOCKS_PER_CHUNK];

    memset(absent, true, sizeof absent);
    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 1, 0, 1, 1, 1, 0), 0);
    w->l = l;
    wop_item(w, 0, 0, 0, 32, 1, false); /* direct: into a file, then the record */
    wop_start(w, 1);
    while (!w->done) {
        chunk_store_absent(l->cs, &key, absent);
        sim_run_until(l->sim, sim_now(l->sim) + NS_PER_US);
    }
    chunk_store_absent(l->cs, &key, absent);
    ck_assert_int_eq(w->items[0].status, 0);
    chunk_store_stats(l->cs, &st);
    ck_assert_uint_eq(st.chunks, 2);
    wop_end(w);
    free(w);
    life_free(l);
}
END_TEST

static bool file_exists(struct life *l, const char *path)
{
    struct vfs_file *f = NULL;
    int r = vfs_open(env_vfs(l->env), path, VFS_RDONLY, &f);

    vfs_close(f);
    return r == 0;
}

/* A file that no index entry names, left by a crash, is removed after a start; the others stay. */
START_TEST(orphans)
{
    struct life *l = life_new(6);
    struct vfs_file *f;
    struct rop r;

    pgs = 1;
    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 0, 256, 1, 1, 0), 0);
    ck_assert_int_eq(vfs_open(env_vfs(l->env), "store/data/00/0000-64-0-0.9", VFS_RDWR | VFS_CREATE, &f), 0);
    vfs_close(f);
    ck_assert_int_eq(vfs_open(env_vfs(l->env), "store/data/00/0000-77-0-0.3", VFS_RDWR | VFS_CREATE, &f), 0);
    vfs_close(f);
    stop_store(l);
    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert(file_exists(l, "store/data/00/0000-77-0-0.3"));
    sim_run_until(l->sim, sim_now(l->sim) + 20 * NS_PER_S);
    ck_assert(!file_exists(l, "store/data/00/0000-77-0-0.3"));
    ck_assert(!file_exists(l, "store/data/00/0000-64-0-0.9"));
    read_chunk(l, 0, &r);
    ck_assert_uint_eq(r.item.n_data, 256);
    chunk_read_op_fini(&r.op);
    life_free(l);
}
END_TEST

static int count_name(void *arg, const char *name TC_UNUSED)
{
    ++*(int *)arg;
    return 0;
}

static int files_of(struct life *l)
{
    int n = 0;

    ck_assert_int_eq(vfs_list(env_vfs(l->env), "store/data/00", count_name, &n), 0);
    return n;
}

static void file_not_durable_at(uint64_t delay, bool again)
{
    struct life *l = life_new(8);
    struct sim_disk *d = sim_node_disk(l->node);
    struct wop *w = calloc(1, sizeof *w);

    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 0, 1, 1, 1, 0), 0);
    sim_disk_slow(d, SIM_DISK_SYNC, 10 * NS_PER_MS);
    chunk_store_checkpoint(l->cs);
    sim_run_until(l->sim, sim_now(l->sim) + delay); /* the round is past its files */
    w->l = l;
    wop_item(w, 0, 0, 32, 32, 2, false);
    wop_start(w, 1);
    sim_disk_fail(d, SIM_DISK_SYNC_DIR, 1, -TC_E_IO); /* the first is the index's */
    sim_run_until(l->sim, sim_now(l->sim) + 100 * NS_PER_MS); /* the index is written */
    ck_assert_int_eq(w->items[0].status, -TC_E_IO);
    stop_store(l);
    sim_disk_slow(d, SIM_DISK_SYNC, 0);
    ck_assert_int_eq(start_store(l, 0), 0);
    if (again) {
        ck_assert_int_eq(write_one(l, 0, 64, 32, 1, 3, 0), 0);
        stop_store(l);
        sim_disk_power_loss(d, SIM_LOSS_ALL);
        ck_assert_int_eq(start_store(l, 0), 0);
    }
    sim_run_until(l->sim, sim_now(l->sim) + 20 * NS_PER_S);
    verify(l);
    ck_assert_int_eq(files_of(l), again);
    wop_end(w);
    free(w);
    life_free(l);
}

/* An index entry is stored while the chunk's first file is being made, whose name never becomes durable. In the next life the
 * file is not taken for one whose name is, and it does not stay if nothing is in it. */
START_TEST(file_not_durable)
{
    pgs = 1;
    for (uint64_t us = 2; us < 8; us++)
        file_not_durable_at(us * NS_PER_US, _i);
}
END_TEST

/* Totals that an older version left wrong are right when the rows were counted, whatever is written meanwhile, and stay so. */
START_TEST(recount)
{
    uint64_t mt[4] = {htole64(1), htole64(9), htole64(1000), htole64(7)};
    struct chunk_recount rc;
    struct life *l = life_new(9);
    struct chunk_store_stats st;
    struct kv_batch *b;
    struct kv *kv;

    pgs = 1;
    ck_assert_int_eq(start_store(l, 0), 0);
    for (uint32_t c = 0; c < 3; c++)
        ck_assert_int_eq(write_one(l, c, 0, 20, 1, 1, 0), 0);
    chunk_store_checkpoint(l->cs);
    sim_run_until(l->sim, sim_now(l->sim) + 5 * NS_PER_S);
    stop_store(l);
    l->env = sim_node_boot(l->node);
    ck_assert_int_eq(kv_open_mem(env_vfs(l->env), "store/kv", &kv), 0);
    b = kv_batch_new(kv);
    kv_batch_put(b, slice_of("mt", 2), slice_of(mt, sizeof mt));
    ck_assert_int_eq(kv_write(kv, b), 0);
    ck_assert_int_eq(kv_flush(kv), 0);
    kv_batch_free(b);
    kv_close(kv);
    sim_node_kill(l->node);
    ck_assert_int_eq(start_store(l, 0), 0);
    chunk_store_stats(l->cs, &st);
    ck_assert_uint_eq(st.chunks, 9);
    chunk_store_recount_begin(l->cs, &rc);
    ck_assert_int_eq(write_one(l, 3, 0, 20, 1, 1, 0), 0);
    chunk_store_checkpoint(l->cs);
    sim_run_until(l->sim, sim_now(l->sim) + 5 * NS_PER_S);
    ck_assert_int_eq(write_one(l, 0, 0, 30, 1, 2, 0), 0);
    chunk_store_recount_run(l->cs, &rc);
    chunk_store_recount_end(l->cs, &rc);
    verify(l); /* counts, too */
    chunk_store_checkpoint(l->cs);
    sim_run_until(l->sim, sim_now(l->sim) + 5 * NS_PER_S);
    stop_store(l);
    ck_assert_int_eq(start_store(l, 0), 0);
    verify(l);
    life_free(l);
}
END_TEST

/* A disk that fails a write or a sync: the write is refused, what was there stays, the next one goes through. */
START_TEST(disk_errors)
{
    struct life *l = life_new(7);
    int refused = 0;

    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 1, 0, 256, 1, 1, 0), 0);
    ck_assert_int_eq(write_one(l, 1, 3, 1, 1, 2, 0), 0);
    for (uint64_t i = 0; i < 6; i++) {
        struct sim_disk *d = sim_node_disk(l->node);
        int r;

        sim_disk_fail(d, i % 2 ? SIM_DISK_WRITE : SIM_DISK_SYNC, 0, -TC_E_IO);
        l->epoch = 1;
        r = write_one(l, 0, (uint32_t)i * 32, 32, 1, 10 + i, 0); /* straight to the file */
        refused += r < 0;
        ck_assert(r == 0 || r == -TC_E_IO);
        if (l->fatal) { /* it was the journal's: the store ends and starts again */
            stop_store(l);
            sim_disk_power_loss(d, SIM_LOSS_RANDOM);
            ck_assert_int_eq(start_store(l, 0), 0);
        }
        verify(l);
    }
    ck_assert_int_gt(refused, 0);
    sim_disk_fail(sim_node_disk(l->node), SIM_DISK_WRITE, 0, -TC_E_IO);
    (void)write_one(l, 1, 5, 1, 1, 50, 0);
    if (l->fatal) {
        ck_assert_int_eq(write_one(l, 1, 5, 1, 1, 51, 0), -TC_E_IO);
        stop_store(l);
        ck_assert_int_eq(start_store(l, 0), 0);
    }
    verify(l);
    life_free(l);
}
END_TEST

/* The kernel tells one sync of a file that pages of it were lost, and the next that all is well: whoever had written
 * before the one that failed is refused with it. */
START_TEST(sync_error_is_for_all)
{
    struct life *l = life_new(9);
    struct wop *w[3];

    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 0, 32, 1, 1, 0), 0); /* the file is open */
    sim_disk_fail(sim_node_disk(l->node), SIM_DISK_SYNC, 0, -TC_E_IO);
    for (uint32_t i = 0; i < ARRAY_SIZE(w); i++) {
        w[i] = calloc(1, sizeof *w[i]);
        w[i]->l = l;
        wop_item(w[i], 0, 0, 32 * (i + 1), 32, 2 + i, false);
        wop_start(w[i], 1);
    }
    for (uint32_t i = 0; i < ARRAY_SIZE(w); i++) {
        ck_assert(sim_run(l->sim, sim_now(l->sim) + 60 * NS_PER_S, wop_is_done, w[i]));
        ck_assert_int_eq(w[i]->items[0].status, -TC_E_IO);
        wop_end(w[i]);
        free(w[i]);
    }
    ck_assert(!l->fatal);
    ck_assert_int_eq(write_one(l, 0, 64, 64, 1, 9, 0), 0); /* written again it is on disk */
    verify(l);
    life_free(l);
}
END_TEST

/* Reads blocks that the disk does not give, then mends them as a repair does. Returns how many were unknown. */
static uint32_t lose_blocks(struct life *l, uint32_t first, uint32_t count)
{
    struct rop r = {.item = {.key = key_of(0), .first = first, .count = count, .data = true}};
    uint32_t unknown = 0;

    r.op.items = &r.item;
    r.op.n = 1;
    r.op.done = rop_done;
    sim_disk_break(sim_node_disk(l->node), SIM_DISK_READ, -TC_E_IO);
    chunk_store_read(l->cs, &r.op);
    ck_assert(sim_run(l->sim, sim_now(l->sim) + 60 * NS_PER_S, rop_is_done, &r));
    sim_disk_break(sim_node_disk(l->node), SIM_DISK_READ, 0);
    for (uint32_t i = 0; i < count; i++)
        unknown += r.item.blocks[i].kind == RUN_UNKNOWN;
    chunk_read_op_fini(&r.op);
    ck_assert_int_eq(write_one(l, 0, first, count, 1, 1, 0), 0);
    sim_run_until(l->sim, sim_now(l->sim) + 20 * NS_PER_S); /* merged: it lies in the file again */
    return unknown;
}

/* Some sectors that cannot be read are mended from the others and counted; many within an hour condemn the disk. */
START_TEST(bad_sectors)
{
    struct life *l = life_new(8);
    struct chunk_store_stats st;

    ck_assert_int_eq(start_store(l, 0), 0);
    ck_assert_int_eq(write_one(l, 0, 0, 256, 1, 1, 0), 0);
    for (int hour = 0; hour < 3; hour++) {
        ck_assert_uint_eq(lose_blocks(l, 16, 15), 15);
        sim_run_until(l->sim, sim_now(l->sim) + 3600 * NS_PER_S);
    }
    chunk_store_stats(l->cs, &st);
    ck_assert_uint_eq(st.unreadable, 45);
    ck_assert_uint_eq(st.repaired, 45);
    ck_assert(!st.disk_error);
    verify(l);
    ck_assert_uint_eq(lose_blocks(l, 0, 20), 20);
    chunk_store_stats(l->cs, &st);
    ck_assert(!st.disk_error);
    ck_assert_uint_eq(lose_blocks(l, 100, 1), 1);
    chunk_store_stats(l->cs, &st);
    ck_assert(st.disk_error);
    verify(l);
    life_free(l);
}
END_TEST

static void quiet(void *arg, const char *line)
{
    (void)arg;
    if (getenv("TC_VERBOSE"))
        fprintf(stderr, "%s\n", line);
}

int main(void)
{
    Suite *s = suite_create("chunk-store");
    TCase *t = tcase_create("all"), *names = tcase_create("names");
    SRunner *sr;
    int failed;

    log_set_sink(quiet, NULL);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, versions);
    tcase_add_test(t, trims);
    tcase_add_test(t, damage);
    tcase_add_test(t, full_disk);
    tcase_add_test(t, manifests);
    tcase_add_test(t, listed_while_merged);
    tcase_add_test(t, compared_while_written);
    tcase_add_test(t, orphans);
    tcase_add_loop_test(names, file_not_durable, 0, 2);
    tcase_add_test(t, disk_errors);
    tcase_add_test(t, sync_error_is_for_all);
    tcase_add_test(t, bad_sectors);
    tcase_add_loop_test(t, crash_anywhere, 0, 8); /* the later half with removals */
    tcase_add_test(names, recount);
    tcase_set_timeout(names, 60);
    suite_add_tcase(s, t);
    suite_add_tcase(s, names);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed && !getenv("CK_TAP_LOG_FILE_NAME");
}
