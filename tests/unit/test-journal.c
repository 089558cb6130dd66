/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal on the simulated disk: what was acknowledged is replayed, in order, after any crash at any
 * operation with any loss of what was not synced; what was cut never comes back; damage is told from a torn tail.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>

#include "common/journal.h"
#include "common/log.h"
#include "sim/sim.h"

enum { SEG = 64 << 10, HEADER = 4096, FRAME = 24, RECORDS_MAX = 4096, REC_MAX = 15000 };

/* A record's bytes follow from its tag; the tag is its first word. */
static uint32_t rec_len(uint64_t tag)
{
    uint64_t h = sim_mix(tag);

    return 8 + (uint32_t)(h % 8 == 0 ? (h >> 8) % REC_MAX : (h >> 8) % 300);
}

static void rec_fill(uint64_t tag, uint8_t *out)
{
    uint32_t len = rec_len(tag);
    struct sim_rng r = {tag};

    memcpy(out, &tag, 8);
    for (uint32_t i = 8; i < len; i++)
        out[i] = (uint8_t)sim_next(&r);
}

struct req {
    struct journal_req base;
    struct world *w;
    uint64_t tag;
    uint8_t *data;
};

struct world {
    struct sim *s;
    struct sim_node *n;
    struct journal *j;
    /* model: tags in the order of append; [0, acked) are durable, [acked, n) in flight */
    uint64_t tags[RECORDS_MAX];
    uint64_t pos[RECORDS_MAX];
    uint32_t n_tags, acked, failed;
    int last_status;
    struct req *reqs[RECORDS_MAX];
    /* replay */
    uint64_t seen[RECORDS_MAX], seen_pos[RECORDS_MAX];
    uint32_t n_seen;
    uint64_t damage;
    uint64_t next_tag;
};

static int on_replay(void *arg, uint64_t pos, struct slice rec)
{
    struct world *w = arg;
    uint8_t want[REC_MAX + 16];
    uint64_t tag;

    ck_assert_uint_ge(rec.len, 8);
    memcpy(&tag, rec.data, 8);
    rec_fill(tag, want);
    ck_assert_uint_eq(rec.len, rec_len(tag));
    ck_assert(memcmp(want, rec.data, rec.len) == 0);
    ck_assert_uint_lt(w->n_seen, RECORDS_MAX);
    w->seen_pos[w->n_seen] = pos;
    w->seen[w->n_seen++] = tag;
    return 0;
}

static int world_open(struct world *w)
{
    struct journal_options opt = {.segment_bytes = SEG, .spare_max = 2};
    struct env *env = sim_node_boot(w->n);

    w->n_seen = 0;
    w->damage = 0;
    w->failed = 0;
    return journal_open(env, "j", &opt, on_replay, w, &w->damage, &w->j);
}

static void world_kill(struct world *w)
{
    sim_node_kill(w->n);
    journal_close(w->j); /* jobs of the dead life never finish; then its memory stays behind */
    w->j = NULL;
    for (uint32_t i = 0; i < w->n_tags; i++) {
        if (w->reqs[i])
            free(w->reqs[i]->data);
        free(w->reqs[i]);
        w->reqs[i] = NULL;
    }
}

static void world_shut_after(struct world *w, uint64_t ns)
{
    sim_run_until(w->s, sim_now(w->s) + ns);
    journal_close(w->j);
    sim_run_until(w->s, sim_now(w->s) + NS_PER_S);
    w->j = NULL;
    sim_node_kill(w->n);
}

/* Let what runs finish, then close in peace. */
static void world_shut(struct world *w)
{
    world_shut_after(w, 60 * NS_PER_S);
}

/* Before a tail mark is written: as a crash soon after the last append leaves it. */
static void world_shut_soon(struct world *w)
{
    world_shut_after(w, 100 * NS_PER_MS);
}

static struct world *world_new(uint64_t seed)
{
    struct world *w = tc_calloc(1, sizeof *w);

    w->s = sim_new(seed);
    w->n = sim_node_new(w->s, "a");
    w->next_tag = seed << 20;
    return w;
}

static void world_free(struct world *w)
{
    if (w->j)
        world_kill(w);
    for (uint32_t i = 0; i < RECORDS_MAX; i++)
        if (w->reqs[i]) {
            free(w->reqs[i]->data);
            free(w->reqs[i]);
        }
    sim_free(w->s);
    free(w);
}

static void on_done(struct journal_req *base, int status)
{
    struct req *r = container_of(base, struct req, base);
    struct world *w = r->w;

    w->last_status = status;
    if (status == 0) {
        ck_assert_uint_eq(w->failed, 0); /* nothing succeeds behind a failure of the same turn */
        ck_assert_uint_lt(w->acked, w->n_tags);
        ck_assert_uint_eq(w->tags[w->acked], r->tag); /* in append order */
        ck_assert_uint_ge(journal_durable(w->j), base->end);
        w->reqs[w->acked] = NULL;
        w->acked++;
    } else {
        w->failed++;
        for (uint32_t i = w->acked; i < w->n_tags; i++)
            if (w->tags[i] == r->tag)
                w->reqs[i] = NULL;
        if (w->acked + w->failed == w->n_tags) {
            w->n_tags = w->acked;
            w->failed = 0;
        }
    }
    free(r->data);
    free(r);
}

static int world_append(struct world *w)
{
    struct req *r = tc_calloc(1, sizeof *r);
    struct iovec iov[3];
    uint32_t len;
    int rc;

    r->w = w;
    r->tag = w->next_tag++;
    r->base.done = on_done;
    len = rec_len(r->tag);
    r->data = tc_malloc(len);
    rec_fill(r->tag, r->data);
    iov[0] = (struct iovec){r->data, 8};
    iov[1] = (struct iovec){r->data + 8, (len - 8) / 2};
    iov[2] = (struct iovec){r->data + 8 + (len - 8) / 2, len - 8 - (len - 8) / 2};
    rc = journal_append(w->j, iov, 3, &r->base);
    if (rc) {
        free(r->data);
        free(r);
        return rc;
    }
    ck_assert_uint_lt(w->n_tags, RECORDS_MAX);
    w->reqs[w->n_tags] = r;
    w->pos[w->n_tags] = r->base.pos;
    w->tags[w->n_tags++] = r->tag;
    return 0;
}

static void world_settle(struct world *w)
{
    sim_run_until(w->s, sim_now(w->s) + 10 * NS_PER_S);
}

static void append_n(struct world *w, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ck_assert_int_eq(world_append(w), 0);
    world_settle(w);
}

/*
 * After a reopen: what was seen is a run of the model's tags, at the same positions, that ends at or behind the
 * last acknowledged one. The model goes on from what was seen.
 */
static void world_check(struct world *w)
{
    uint32_t first = 0;

    if (w->n_seen)
        while (first < w->n_tags && w->tags[first] != w->seen[0])
            first++;
    else
        first = w->acked;
    ck_assert_msg(first + w->n_seen <= w->n_tags, "first %u seen %u of %u", first, w->n_seen, w->n_tags);
    for (uint32_t i = 0; i < w->n_seen; i++) {
        ck_assert_uint_eq(w->seen[i], w->tags[first + i]);
        ck_assert_uint_eq(w->seen_pos[i], w->pos[first + i]);
    }
    ck_assert_msg(first + w->n_seen >= w->acked, "lost: first %u seen %u acked %u", first, w->n_seen, w->acked);
    w->n_tags = w->acked = first + w->n_seen;
}

/* The next tag gives a record of @len bytes. */
static void want_len(struct world *w, uint32_t len)
{
    while (rec_len(w->next_tag) != len)
        w->next_tag++;
}

static void seg_name(char *out, uint64_t id)
{
    sprintf(out, "j/%016" PRIx64 ".seg", id);
}

/* Records come back in order with their positions; reading one by one gives the same. */
START_TEST(append_and_replay)
{
    struct world *w = world_new(1);
    struct buf *b;
    uint64_t pos;

    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(journal_bytes(w->j), 0);
    append_n(w, 300);
    ck_assert_uint_eq(w->acked, 300);
    pos = journal_begin(w->j);
    for (uint32_t i = 0; i < 300; i++) {
        ck_assert_int_eq(journal_read(w->j, pos, &b, &pos), 0);
        ck_assert(memcmp(b->data, &w->tags[i], 8) == 0);
        buf_unref(b);
    }
    ck_assert_int_eq(journal_read(w->j, pos, &b, &pos), -TC_E_NOENT);
    ck_assert_uint_eq(pos, journal_end(w->j));
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 300);
    world_check(w);
    ck_assert_uint_eq(journal_end(w->j), pos);
    append_n(w, 3);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 303);
    world_shut(w);
    world_free(w);
}
END_TEST

/* What is appended in one turn is one write and one sync; limits are refused at once. */
START_TEST(group_commit)
{
    struct world *w = world_new(2);
    struct journal_req r = {.done = on_done};
    struct iovec iov = {w, SEG / 4 + 1};
    uint64_t ops;

    ck_assert_int_eq(world_open(w), 0);
    world_settle(w);
    ops = sim_disk_ops(sim_node_disk(w->n));
    append_n(w, 20);
    ck_assert_uint_eq(w->acked, 20);
    ck_assert_uint_eq(sim_disk_ops(sim_node_disk(w->n)) - ops, 2 + 1); /* and a tail mark, which is not synced */
    ck_assert_int_eq(journal_append(w->j, &iov, 1, &r), -TC_E_LIMIT);
    world_shut(w);
    world_free(w);
}
END_TEST

/* One life: append in bursts, trim now and then, until @until_ops or the crash. */
static void live(struct world *w, uint32_t bursts)
{
    struct sim_rng *rng = sim_rng(w->s);

    for (uint32_t b = 0; b < bursts && !sim_node_crashed(w->n); b++) {
        uint32_t n = 1 + (uint32_t)sim_below(rng, 12);

        for (uint32_t i = 0; i < n && w->n_tags < RECORDS_MAX - 1; i++)
            ck_assert_int_eq(world_append(w), 0);
        sim_run_until(w->s, sim_now(w->s) + sim_below(rng, 3 * NS_PER_MS));
        if (sim_below(rng, 4) == 0 && w->acked > 8)
            journal_trim(w->j, w->pos[w->acked - 1 - sim_below(rng, 8)]);
    }
}

/* A crash at every operation of the disk, with every kind of loss, then more lives on what is left. */
START_TEST(crash_everywhere)
{
    for (uint64_t k = 0; k < 160; k++) {
        struct world *w = world_new(1000 * (uint64_t)(_i + 1) + k);
        enum sim_loss how = (enum sim_loss)(k % 5 < 3 ? SIM_LOSS_RANDOM : k % 5 == 3 ? SIM_LOSS_ALL : SIM_LOSS_NONE);

        for (uint32_t lives = 0; lives < 4; lives++) {
            struct env *env;
            struct journal_options opt = {.segment_bytes = SEG, .spare_max = 2};
            int r;

            env = sim_node_boot(w->n);
            w->n_seen = 0;
            sim_disk_crash_after(sim_node_disk(w->n), lives ? sim_below(sim_rng(w->s), 200) : k);
            r = journal_open(env, "j", &opt, on_replay, w, &w->damage, &w->j);
            if (r == 0) {
                world_check(w);
                live(w, 40);
            } else {
                ck_assert_msg(sim_node_crashed(w->n), "seed %" PRIu64 " life %u: %s", k, lives, tc_strerror(r));
                w->j = NULL;
            }
            world_kill(w);
            if (sim_below(sim_rng(w->s), 4))
                sim_disk_power_loss(sim_node_disk(w->n), how);
        }
        ck_assert_int_eq(world_open(w), 0);
        world_check(w);
        append_n(w, 5);
        ck_assert_uint_eq(w->acked, w->n_tags);
        world_shut(w);
        world_free(w);
    }
}
END_TEST

/* Fill one segment in part: @n records each durable before the next is sent, so that marks advance. */
static struct world *world_with(uint64_t seed, uint32_t n)
{
    struct world *w = world_new(seed);

    ck_assert_int_eq(world_open(w), 0);
    for (uint32_t i = 0; i + 1 < n; i++)
        append_n(w, 1);
    ck_assert_int_eq(world_append(w), 0);
    world_shut_soon(w);
    ck_assert_uint_eq(w->acked, n);
    return w;
}

/* However the last record is torn, the rest is there, and what follows takes its place. */
START_TEST(torn_tail)
{
    struct world *w = world_with(50 + (uint64_t)_i, 12);
    uint64_t last = w->pos[11], off = last % SEG, end = off + FRAME + rec_len(w->tags[11]);
    struct sim_disk *d = sim_node_disk(w->n);
    uint8_t junk[SEG];
    char name[64];

    seg_name(name, last / SEG);
    memset(junk, _i == 1 ? 0 : 0xa5, sizeof junk);
    switch (_i) {
    case 0: /* only part of its frame */
        ck_assert(sim_disk_poke(d, name, off + 4, junk, end - off - 4));
        break;
    case 1: /* zeros over its tail */
    case 2: /* garbage over its tail */
        ck_assert(sim_disk_poke(d, name, end - 5, junk, 5));
        break;
    case 3: /* its frame is gone */
        ck_assert(sim_disk_poke(d, name, off, junk, FRAME));
        break;
    case 4: /* half a frame */
        ck_assert(sim_disk_poke(d, name, off + 12, junk, 12));
        break;
    case 5: /* garbage to the end of the file */
        ck_assert(sim_disk_poke(d, name, off, junk, SEG - off));
        break;
    }
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 11);
    w->acked = 11;
    world_check(w);
    ck_assert_uint_eq(journal_end(w->j), last);
    append_n(w, 4);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 15);
    world_check(w);
    world_shut(w);
    world_free(w);
}
END_TEST

/*
 * Three records of one size in one batch; the first is torn, so all are cut. A record of that size in the first's
 * place must not bring the second back.
 */
START_TEST(cut_never_returns)
{
    struct world *w = world_with(70, 3);
    uint8_t junk[4] = {1, 2, 3, 4};
    uint64_t at;
    char name[64];

    ck_assert_int_eq(world_open(w), 0);
    world_check(w);
    at = journal_end(w->j);
    for (int i = 0; i < 3; i++) {
        want_len(w, 100);
        ck_assert_int_eq(world_append(w), 0);
    }
    world_shut_soon(w);
    seg_name(name, at / SEG);
    ck_assert(sim_disk_poke(sim_node_disk(w->n), name, at % SEG + FRAME + 20, junk, 4));
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 3);
    w->acked = 3;
    world_check(w);
    want_len(w, 100);
    append_n(w, 1);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 4);
    world_check(w);
    world_shut(w);
    world_free(w);
}
END_TEST

/* When nothing was appended for a while, a bad last record is damage, not a torn tail; and a file that is cut short, always. */
START_TEST(damage_of_tail)
{
    struct world *w = world_with(60 + (uint64_t)_i, 12);
    uint64_t last = w->pos[11], off = last % SEG;
    struct sim_disk *d = sim_node_disk(w->n);
    uint64_t hash;
    char name[64];

    seg_name(name, last / SEG);
    if (_i < 2) {
        ck_assert_int_eq(world_open(w), 0);
        world_shut(w); /* the mark is written by whoever opens, too */
    }
    switch (_i) {
    case 0:
        ck_assert(sim_disk_flip(d, name, off + FRAME + 3, 4));
        break;
    case 1:
        ck_assert(sim_disk_flip(d, name, off + 9, 1));
        break;
    case 2:
        ck_assert(sim_disk_chop(d, name, off));
        break;
    case 3:
        ck_assert(sim_disk_chop(d, name, SEG - 1));
        break;
    }
    hash = sim_disk_hash(d);
    ck_assert_int_eq(world_open(w), -TC_E_DAMAGED);
    if (_i < 2)
        ck_assert_uint_eq(w->damage, last);
    ck_assert_uint_eq(sim_disk_hash(d), hash);
    sim_node_kill(w->n);
    world_free(w);
}
END_TEST

/* A bad record with a later mark behind it is damage, told with its position; nothing is changed by that. */
START_TEST(damage)
{
    struct world *w = world_with(80 + (uint64_t)_i, 12);
    struct sim_disk *d = sim_node_disk(w->n);
    uint32_t victim = (uint32_t)_i;
    uint64_t hash;
    char name[64];

    seg_name(name, w->pos[victim] / SEG);
    ck_assert(sim_disk_flip(d, name, w->pos[victim] % SEG + (uint64_t)(_i * 3), 0x10));
    hash = sim_disk_hash(d);
    ck_assert_int_eq(world_open(w), -TC_E_DAMAGED);
    ck_assert_uint_eq(w->damage, w->pos[victim]);
    ck_assert_uint_eq(sim_disk_hash(d), hash);
    sim_node_kill(w->n);
    world_free(w);
}
END_TEST

/* The end marker of a full segment, a header, a whole segment: damage too. A newer format is refused by name. */
START_TEST(damage_of_segments)
{
    struct world *w = world_new(90 + (uint64_t)_i);
    struct sim_disk *d = sim_node_disk(w->n);
    uint32_t last_of_first = 0;
    uint32_t version = 2;
    char name[64];

    ck_assert_int_eq(world_open(w), 0);
    while (journal_end(w->j) / SEG < 3)
        append_n(w, 1);
    append_n(w, 1);
    world_shut(w);
    while (w->pos[last_of_first + 1] / SEG == 1)
        last_of_first++;
    seg_name(name, 1);
    switch (_i) {
    case 0:
        ck_assert(sim_disk_flip(
            d, name, w->pos[last_of_first] % SEG + FRAME + ((rec_len(w->tags[last_of_first]) + 7) & ~7u) + 8, 1));
        ck_assert_int_eq(world_open(w), -TC_E_DAMAGED);
        ck_assert_uint_eq(w->damage / SEG, 1);
        break;
    case 1:
        seg_name(name, 2);
        ck_assert(sim_disk_flip(d, name, 30, 1));
        ck_assert_int_eq(world_open(w), -TC_E_DAMAGED);
        ck_assert_uint_eq(w->damage / SEG, 2);
        break;
    case 2:
        seg_name(name, 2);
        ck_assert_int_eq(vfs_unlink(sim_disk_vfs(d), name), -TC_E_IO); /* nobody lives there now */
        sim_node_boot(w->n);
        ck_assert_int_eq(vfs_unlink(sim_disk_vfs(d), name), 0);
        sim_node_kill(w->n);
        ck_assert_int_eq(world_open(w), -TC_E_DAMAGED);
        ck_assert_uint_eq(w->damage / SEG, 2);
        break;
    case 3:
        ck_assert(sim_disk_poke(d, name, 8, &version, 4));
        ck_assert_int_eq(world_open(w), -TC_E_VERSION);
        break;
    }
    sim_node_kill(w->n);
    world_free(w);
}
END_TEST

/* Trimming recycles files: their number stays bounded, and old records never show. */
START_TEST(trim_recycles)
{
    struct world *w = world_new(7);
    uint64_t used;

    ck_assert_int_eq(world_open(w), 0);
    while (journal_end(w->j) / SEG < 20) {
        append_n(w, 1);
        journal_trim(w->j, w->pos[w->acked - 1]);
    }
    world_settle(w);
    ck_assert_uint_ge(journal_begin(w->j) / SEG, 19);
    used = sim_disk_used(sim_node_disk(w->n));
    ck_assert_uint_le(used, 6 * SEG);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_gt(w->n_seen, 0);
    world_check(w);
    world_shut(w);
    world_free(w);
}
END_TEST

/* No space for the next segment: what is queued fails, and appends go on when there is space again. */
START_TEST(no_space)
{
    struct world *w = world_new(8);
    struct sim_disk *d = sim_node_disk(w->n);
    uint32_t acked;
    int r = 0;

    ck_assert_int_eq(world_open(w), 0);
    world_settle(w);
    sim_disk_set_limit(d, sim_disk_used(d) + 8192);
    for (int i = 0; i < 2000 && w->last_status == 0 && r == 0; i++) {
        r = world_append(w);
        if (i % 7 == 0)
            world_settle(w);
    }
    world_settle(w);
    ck_assert_int_eq(r, 0);
    ck_assert_int_eq(w->last_status, -TC_E_NOSPC);
    ck_assert_uint_eq(w->n_tags, w->acked);
    acked = w->acked;
    sim_disk_set_limit(d, 0);
    append_n(w, 50);
    ck_assert_uint_eq(w->acked, acked + 50);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    world_check(w);
    world_shut(w);
    world_free(w);
}
END_TEST

/* NOSPC from the write itself: that batch fails, the next takes its place, the failed one never returns. */
START_TEST(no_space_in_write)
{
    struct world *w = world_new(9);
    struct sim_disk *d = sim_node_disk(w->n);

    ck_assert_int_eq(world_open(w), 0);
    append_n(w, 5);
    sim_disk_fail(d, SIM_DISK_WRITE, 0, -TC_E_NOSPC);
    for (int i = 0; i < 3; i++) {
        want_len(w, 100);
        ck_assert_int_eq(world_append(w), 0);
    }
    world_settle(w);
    ck_assert_int_eq(w->last_status, -TC_E_NOSPC);
    ck_assert_uint_eq(w->acked, 5);
    want_len(w, 100);
    append_n(w, 1);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 6);
    world_check(w);
    append_n(w, 1);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_eq(w->n_seen, 7);
    world_check(w);
    world_shut(w);
    world_free(w);
}
END_TEST

/* The same, with the failed batch written back by the system meanwhile, and power lost while or after the next takes its
 * place: no record of the failed one comes behind the new one. */
START_TEST(no_space_then_power_loss)
{
    for (uint64_t k = 0; k < 200; k++) {
        struct world *w = world_new(100 + k);
        struct sim_disk *d = sim_node_disk(w->n);

        ck_assert_int_eq(world_open(w), 0);
        append_n(w, 5);
        sim_disk_fail(d, SIM_DISK_WRITE, 0, -TC_E_NOSPC);
        for (int i = 0; i < 4; i++) {
            want_len(w, 290);
            ck_assert_int_eq(world_append(w), 0);
        }
        world_settle(w);
        ck_assert_int_eq(w->last_status, -TC_E_NOSPC);
        ck_assert_uint_eq(w->n_tags, 5);
        sim_disk_power_loss(d, SIM_LOSS_NONE); /* what was written is on the platter */
        sim_disk_crash_after(d, 2 + k % 3);
        want_len(w, 290);
        append_n(w, 1);
        world_kill(w);
        sim_disk_power_loss(d, SIM_LOSS_RANDOM);
        ck_assert_int_eq(world_open(w), 0);
        world_check(w);
        world_free(w);
    }
}
END_TEST

static int has_segment(void *arg, const char *name)
{
    return strcmp(arg, name) == 0;
}

/* A process dies between the rename of a new segment and its sync; the next one writes to that segment, and power is lost. */
START_TEST(killed_then_power_loss)
{
    uint32_t met = 0;

    for (uint64_t k = 0; k < 20 * 40; k++) {
        struct world *w = world_new(1000 + k);
        struct sim_disk *d = sim_node_disk(w->n);
        struct journal_options opt = {.segment_bytes = SEG, .spare_max = 2};
        struct env *env = sim_node_boot(w->n);

        sim_disk_crash_after(d, k / 40);
        if (journal_open(env, "j", &opt, on_replay, w, &w->damage, &w->j) < 0)
            w->j = NULL;
        world_settle(w);
        world_kill(w); /* and no more: the page cache lives */
        sim_disk_reopen(d);
        if (vfs_list(sim_disk_vfs(d), "j", has_segment, (void *)(uintptr_t)"0000000000000002.seg") == 1) {
            met++;
            ck_assert_int_eq(world_open(w), 0);
            sim_disk_crash_after(d, k % 40);
            for (int i = 0; i < 8; i++) {
                want_len(w, 10000);
                ck_assert_int_eq(world_append(w), 0);
            }
            world_settle(w);
            world_kill(w);
            sim_disk_power_loss(d, SIM_LOSS_ALL);
            ck_assert_int_eq(world_open(w), 0);
            world_check(w);
        }
        world_free(w);
    }
    ck_assert_uint_ge(met, 12);
}
END_TEST

/* A failed sync or write ends the journal: all that is queued and all that comes gets IO. */
START_TEST(io_error_is_final)
{
    struct world *w = world_new(10);

    ck_assert_int_eq(world_open(w), 0);
    append_n(w, 5);
    sim_disk_fail(sim_node_disk(w->n), _i ? SIM_DISK_WRITE : SIM_DISK_SYNC, 0, -TC_E_IO);
    append_n(w, 3);
    ck_assert_int_eq(w->last_status, -TC_E_IO);
    ck_assert_uint_eq(w->acked, 5);
    ck_assert_int_eq(world_append(w), -TC_E_IO);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_ge(w->n_seen, 5);
    world_shut(w);
    world_free(w);
}
END_TEST

/* A segment made or recycled in the background fails while a batch is being written: that one ends as it ends, then all fail. */
START_TEST(io_error_in_background)
{
    struct world *w = world_new(20 + (uint64_t)_i);
    int r = 0;

    ck_assert_int_eq(world_open(w), 0);
    append_n(w, 5);
    sim_disk_fail(sim_node_disk(w->n), SIM_DISK_META, (uint64_t)_i, -TC_E_IO);
    for (int i = 0; i < 400 && r == 0; i++) {
        r = world_append(w);
        sim_run_until(w->s, sim_now(w->s) + 20000);
        if (i % 16 == 0)
            journal_trim(w->j, w->pos[w->acked - 1]);
    }
    ck_assert_int_eq(r, -TC_E_IO);
    world_settle(w);
    ck_assert_uint_eq(w->n_tags, w->acked);
    world_shut(w);
    ck_assert_int_eq(world_open(w), 0);
    ck_assert_uint_gt(w->n_seen, 0);
    world_shut(w);
    world_free(w);
}
END_TEST

static void quiet(void *arg, const char *line)
{
    (void)arg;
    (void)line;
}

static int count_name(void *arg, const char *name TC_UNUSED)
{
    ++*(unsigned *)arg;
    return 0;
}

/* Who opens a journal and finds that it is not good for him closes it in the same turn, and may put its files elsewhere: nothing
 * comes into the directory afterwards. */
START_TEST(closed_at_once)
{
    struct world *w = world_new(77);
    unsigned n = 0;

    ck_assert_int_eq(world_open(w), 0);
    journal_close(w->j);
    sim_run_until(w->s, sim_now(w->s) + NS_PER_S);
    ck_assert_int_eq(vfs_list(sim_disk_vfs(sim_node_disk(w->n)), "j", count_name, &n), 0);
    ck_assert_uint_eq(n, 1);
    w->j = NULL;
    sim_node_kill(w->n);
    ck_assert_int_eq(world_open(w), 0);
    append_n(w, 3);
    world_shut(w);
    world_free(w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("journal");
    TCase *tc = tcase_create("journal");
    SRunner *sr = srunner_create(s);

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, append_and_replay);
    tcase_add_test(tc, group_commit);
    tcase_add_test(tc, closed_at_once);
    tcase_add_loop_test(tc, crash_everywhere, 0, 3);
    tcase_add_loop_test(tc, torn_tail, 0, 6);
    tcase_add_loop_test(tc, damage_of_tail, 0, 4);
    tcase_add_test(tc, cut_never_returns);
    tcase_add_loop_test(tc, damage, 0, 11);
    tcase_add_loop_test(tc, damage_of_segments, 0, 4);
    tcase_add_test(tc, trim_recycles);
    tcase_add_test(tc, no_space);
    tcase_add_test(tc, no_space_in_write);
    tcase_add_test(tc, no_space_then_power_loss);
    tcase_add_test(tc, killed_then_power_loss);
    tcase_add_loop_test(tc, io_error_is_final, 0, 2);
    tcase_add_loop_test(tc, io_error_in_background, 0, 8);
    suite_add_tcase(s, tc);
    log_set_sink(quiet, NULL);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return getenv("CK_TAP_LOG_FILE_NAME") ? 0 : failed != 0;
}
