/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripted cases about data: what is flushed when, what truncation leaves, what a dead writer leaves. noticed.py runs
 * them without the rules they are about.
 */
#include <string.h>

#include "common/schema.h"
#include "meta/fsm.h"
#include "sim/scene.h"

/* ---- flushes, 3.5, 4.5 ------------------------------------------------------------------------------ */

static void first_writer(struct actor *a)
{
    (void)make_file(a, LEN);
}

static void syncing_writer(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN) == 0 && a_fsync(a, s->f) == 0)
        s->replaced = true;
}

/* How much of the file is 'a's: n. */
static void counting_reader(struct actor *a)
{
    struct scene *s = a->arg;

    s->n = 0;
    s->status = read_file(a, LEN);
    for (size_t i = 0; s->status == 0 && i < a->len; i++)
        s->n += a->data[i] == 'a';
    s->done = a->len;
    s->ended = true;
}

/* Another's read sees what was written and not synced: the recall is acknowledged after the flush. */
START_TEST(written_is_seen)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], first_writer, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    actor_new(&s.c->clients[1], counting_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, LEN);
}
END_TEST

/* What was synced is there when the writer dies in the next moment. */
START_TEST(synced_survives)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], syncing_writer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 1000));
    client_kill(&s.c->clients[0]);
    actor_new(&s.c->clients[1], counting_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 20000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, LEN);
}
END_TEST

/* A changed block is another version: what was written last is what others read. */
static void second_writer(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];

    if (make_file(a, LEN) || a_fsync(a, s->f))
        return;
    memset(data, 'b', sizeof data);
    s->replaced = a_write(a, s->f, data, LEN, 0, false) == 0 && a_fsync(a, s->f) == 0;
}

START_TEST(written_twice)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], second_writer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 3000));
    actor_new(&s.c->clients[1], counting_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.done, LEN);
    ck_assert_uint_eq(s.n, 0);
}
END_TEST

/* Who does not know whether his session lives does not say that anything is safe: not until the leader has said so. */
static void late_syncer(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN))
        return;
    while (!s->done)
        actor_sleep(a, 20 * NS_PER_MS);
    s->status = a_fsync(a, s->f);
    s->ended = true;
}

START_TEST(synced_in_a_session)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    actor_new(&s.c->clients[0], late_syncer, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    scene_run(&s, 2500); /* what was written has left by itself */
    scene_cut(&s, 0, true, true, true);
    scene_run(&s, 3000);
    s.done = 1;
    scene_run(&s, 3000);
    ck_assert(!s.ended);
    scene_cut(&s, 0, true, true, false);
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, 0);
}
END_TEST

/* No block goes out with a size that whoever recovers it would not look for: the reach is committed first. */
static void far_writer(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN) || a_fsync(a, s->f))
        return;
    s->ended = true;
    s->holds[0] = (struct hold){MSG_COMMIT, WIRE_REQUEST, NULL, UINT64_MAX, 1000000};
    s->replaced = a_write(a, s->f, "x", 1, UINT64_C(100) << 20, false) == 0 && a_fsync(a, s->f) == 0;
}

START_TEST(within_reach)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    actor_new(&s.c->clients[0], far_writer, &s);
    ck_assert(scene_wait(&s, &s.ended, 3000));
    scene_run(&s, 3000);
    ck_assert(!s.replaced);
    s.holds[0].times = 0;
    ck_assert(scene_wait(&s, &s.replaced, 10000));
}
END_TEST

/* ---- clean files, 7 --------------------------------------------------------------------------------- */

/* One store of three has not seen the writes, and is all that is left: the file is not clean, so its answer is none. */
START_TEST(not_clean)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    store_kill(&s.c->stores[2]);
    actor_new(&s.c->clients[0], syncing_writer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 5000));
    store_kill(&s.c->stores[0]);
    store_kill(&s.c->stores[1]);
    store_boot(&s.c->stores[2]);
    actor_new(&s.c->clients[1], counting_reader, &s);
    scene_run(&s, 4000);
    ck_assert(!s.ended);
    store_boot(&s.c->stores[0]);
    ck_assert(scene_wait(&s, &s.ended, 20000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, LEN);
}
END_TEST

/* ---- truncation, 4.8, 5.1 --------------------------------------------------------------------------- */

/* Shorter by a truncate and longer by another: n bytes of 'a' of done. */
static void shrinker(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN) || (s->status && a_fsync(a, s->f)) || a_truncate(a, s->ino, s->n) || a_truncate(a, s->ino, LEN))
        return;
    s->replaced = true;
}

static void shrink(bool synced, uint64_t size)
{
    struct scene s = {.status = synced, .n = size};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], shrinker, &s);
    ck_assert(scene_wait(&s, &s.replaced, 3000));
    actor_new(&s.c->clients[1], counting_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.done, LEN);
    ck_assert_uint_eq(s.n, size);
}

/* What was on the stores stays behind the horizon. */
START_TEST(behind_the_horizon)
{
    shrink(true, 4096);
    shrink(true, 100);
}
END_TEST

/* What was in memory is cut in the middle of a block. */
START_TEST(zeros_past_the_size)
{
    shrink(false, 5000);
    shrink(false, 100);
}
END_TEST

/* While a truncate is under way no block goes: it would bear the epoch that the truncate ends. */
static void cutter(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN) || a_fsync(a, s->f))
        return;
    s->holds[0] = (struct hold){MSG_SETATTR, WIRE_REPLY, a->cl->node, UINT64_MAX, 1000000};
    s->stale = true;
    s->ended = a_truncate(a, s->ino, 100) == 0;
}

static void writer_meanwhile(struct actor *a)
{
    struct scene *s = a->arg;

    s->replaced = a_write(a, s->f, "b", 1, 0, false) == 0 && a_fsync(a, s->f) == 0;
}

START_TEST(truncate_under_way)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    actor_new(&s.c->clients[0], cutter, &s);
    ck_assert(scene_wait(&s, &s.stale, 3000));
    scene_run(&s, 100);
    actor_new(&s.c->clients[0], writer_meanwhile, &s);
    scene_run(&s, 1500);
    ck_assert(!s.replaced && !s.ended);
    s.holds[0].times = 0;
    ck_assert(scene_wait(&s, &s.ended, 5000));
    ck_assert(scene_wait(&s, &s.replaced, 5000));
}
END_TEST

/* ---- a write that its writer did not finish, 3.6, 4.4 ----------------------------------------------- */

static void unlucky_writer(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];

    if (make_file(a, LEN) || a_fsync(a, s->f))
        return;
    s->replaced = true;
    actor_sleep(a, 200 * NS_PER_MS);
    memset(data, 'b', sizeof data);
    (void)a_write(a, s->f, data, LEN, 0, false);
    (void)a_fsync(a, s->f);
}

/*
 * It reaches one store of three, and the writer dies. Whoever reads it makes sure of it before: by writing what he shows
 * under his own epoch, or at least that version to W. Each of the two does here; without both another reads the old.
 */
static bool half_written(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    uint64_t first;

    if (!scene_start(s, 3, off))
        return true;
    actor_new(&s->c->clients[0], unlucky_writer, s);
    if (!scene_wait(s, &s->replaced, 1000))
        return true;
    scene_run(s, 100);
    for (unsigned i = 1; i < 3; i++)
        sim_net_cut(s->c->s, s->c->clients[0].node, s->c->stores[i].node, true);
    scene_run(s, 1500);
    client_kill(&s->c->clients[0]);
    store_kill(&s->c->stores[2]); /* nobody reconciles without it */
    actor_new(&s->c->clients[1], counting_reader, s);
    if (!scene_wait(s, &s->ended, 20000) || s->status)
        return true;
    first = s->n;
    store_kill(&s->c->stores[0]);
    store_boot(&s->c->stores[2]);
    client_kill(&s->c->clients[1]);
    scene_run(s, 1000);
    s->ended = false;
    actor_new(&s->c->clients[2], counting_reader, s);
    if (!scene_wait(s, &s->ended, 30000) || s->status)
        return true;
    return first != 0 || s->n != first;
}

START_TEST(unfinished)
{
    case_check(half_written, "MASK_UNCLEAN,WRITE_BACK", true);
}
END_TEST

/* ---- a sparse file whose writer is lost, 3.6 -------------------------------------------------------- */

#define FAR ((UINT64_C(1) << 51) + 3 * BLOCK_SIZE)

static void far_and_near(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];

    memset(data, 'b', sizeof data);
    if (make_file(a, LEN) || a_fsync(a, s->f) || a_truncate(a, s->ino, FAR))
        return;
    s->replaced = true;
    actor_sleep(a, 200 * NS_PER_MS);
    (void)a_write(a, s->f, data, LEN, FAR, false);
    (void)a_fsync(a, s->f);
}

static void far_reader(struct actor *a)
{
    struct scene *s = a->arg;

    s->status = a_getattr(a, s->ino);
    s->n = a->size;
    s->ended = true;
}

static unsigned n_compared, n_sought;

static void see_recovery(void *arg TC_UNUSED, struct sim_node *from TC_UNUSED, struct buf *head, struct buf *payload TC_UNUSED)
{
    struct wire_header h;
    struct slice body;

    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0 || h.kind != WIRE_REQUEST)
        return;
    n_compared += h.type == MSG_RECONCILE;
    n_sought += h.type == MSG_CHUNK_SEEK;
}

/* Two petabytes of nothing between its two chunks are not walked through: its size is known and it is clean again at once. */
START_TEST(sparse_and_unclean)
{
    struct scene s = {0};
    struct attr attr = {.data_state = DATA_UNCLEAN};
    struct wire_arena arena = {0};

    ck_assert(scene_start(&s, 2, NULL));
    sim_net_set_tap(s.c->s, see_recovery, NULL);
    actor_new(&s.c->clients[0], far_and_near, &s);
    ck_assert(scene_wait(&s, &s.replaced, 3000));
    scene_run(&s, 100);
    for (unsigned i = 1; i < 3; i++)
        sim_net_cut(s.c->s, s.c->clients[0].node, s.c->stores[i].node, true);
    scene_run(&s, 1500);
    client_kill(&s.c->clients[0]);
    store_kill(&s.c->stores[2]); /* the one that has the write is among those that are asked for the size */
    actor_new(&s.c->clients[1], far_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, FAR + LEN);
    store_boot(&s.c->stores[2]);
    for (int n = 0; n < 200 && attr.data_state == DATA_UNCLEAN; n++) {
        scene_run(&s, 100);
        ck_assert_int_eq(fsm_getattr(meta_server_fsm(cluster_leader(s.c)->server), 0, s.ino, &arena, &attr), 0);
    }
    ck_assert_uint_ne(attr.data_state, DATA_UNCLEAN);
    ck_assert_uint_gt(n_compared, 1); /* the near window, the far one */
    ck_assert_uint_lt(n_compared, 20);
    ck_assert_uint_gt(n_sought, 0);
    wire_arena_fini(&arena);
}
END_TEST

/* ---- what is in a hole, 4.10 ------------------------------------------------------------------------ */

#define FARTHER (FAR + (UINT64_C(1) << 40))

static void hole_writer(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];

    memset(data, 'b', sizeof data);
    if (make_file(a, LEN) || a_write(a, s->f, data, LEN, FARTHER, false) || a_fsync(a, s->f))
        return;
    s->written = true;
    while (!s->stale)
        actor_sleep(a, 20 * NS_PER_MS);
    s->replaced = a_write(a, s->f, data, LEN, FAR, false) == 0 && a_fsync(a, s->f) == 0;
}

static void seeker(struct actor *a)
{
    struct scene *s = a->arg;
    struct tc_file *f;

    if ((s->status = a_open(a, s->ino, TC_OPEN_READ, &f)) == 0 && (s->status = a_seek(a, f, LEN, false)) == 0)
        s->n = a->off;
    s->done = s->status ? 0 : a_seek(a, f, FAR + LEN, true) == 0 && a->off == FAR + LEN && a_seek(a, f, FAR + LEN, false) == 0 ? a->off : 0;
    s->ended = true;
}

/*
 * A write in the middle of the hole reached two stores of three. Of those two one is down, or one is slow to answer: the third, which has
 * nothing there, does not make it a hole. Two petabytes are not walked through for that.
 */
static void seek_in_hole(struct scene *s, bool slow)
{
    const unsigned behind = 2;

    s->written = false;
    ck_assert(scene_start(s, 2, NULL));
    actor_new(&s->c->clients[0], hole_writer, s);
    for (int n = 0; n < 300 && !s->written; n++)
        scene_run(s, 10);
    sim_net_cut(s->c->s, s->c->clients[0].node, s->c->stores[behind].node, true);
    s->stale = true;
    ck_assert(scene_wait(s, &s->replaced, 5000));
    n_sought = 0;
    sim_net_set_tap(s->c->s, see_recovery, NULL);
    if (slow)
        for (unsigned i = 0; i < 2; i++)
            s->holds[i] = (struct hold){MSG_CHUNK_SEEK, WIRE_REQUEST, s->c->stores[i].node, 200 * NS_PER_MS, 1};
    else
        store_kill(&s->c->stores[0]);
    actor_new(&s->c->clients[1], seeker, s);
    ck_assert(scene_wait(s, &s->ended, 10000));
    ck_assert_int_eq(s->status, 0);
    ck_assert_uint_eq(s->n, FAR & ~(uint64_t)(BLOCK_SIZE - 1));
    ck_assert_uint_eq(s->done, FARTHER & ~(uint64_t)(BLOCK_SIZE - 1));
    ck_assert_uint_gt(n_sought, 0);
    ck_assert_uint_lt(n_sought, 20);
}

START_TEST(hole_beside_one_down)
{
    struct scene s = {0};

    seek_in_hole(&s, false);
}
END_TEST

START_TEST(hole_beside_one_slow)
{
    struct scene s = {0};

    seek_in_hole(&s, true);
}
END_TEST

/* ---- no room, 4.4 ----------------------------------------------------------------------------------- */

/*
 * Two of three stores have no room: the writer is told so, and the end of his X says that the inode is unclean. What the third has is
 * not shown until it is made sure of, and everybody sees the same then.
 */
static void writer_without_room(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];

    if (make_file(a, LEN) || a_fsync(a, s->f))
        return;
    s->replaced = true;
    while (!s->stale)
        actor_sleep(a, 10 * NS_PER_MS);
    memset(data, 'b', sizeof data);
    s->status = a_write(a, s->f, data, LEN, 0, false);
    s->status = s->status ? s->status : a_fsync(a, s->f);
    s->ended = true;
}

static unsigned n_unclean;

static void see_commit(void *arg, struct sim_node *from, struct buf *head, struct buf *payload)
{
    struct wire_arena arena = {0};
    struct commit_req req;
    struct wire_header h;
    struct slice body;

    (void)arg;
    (void)from;
    (void)payload;
    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) == 0 && h.type == MSG_COMMIT && h.kind == WIRE_REQUEST &&
        wire_decode(body, &commit_req_schema, &arena, &req) == 0)
        for (uint32_t i = 0; i < req.items.n; i++)
            n_unclean += req.items.items[i].action && req.items.items[i].data_state >= DATA_UNCLEAN;
    wire_arena_fini(&arena);
}

START_TEST(no_room)
{
    struct scene s = {.ttl_ms = 10000};
    uint64_t first;

    ck_assert(scene_start(&s, 3, NULL));
    sim_net_set_tap(s.c->s, see_commit, NULL);
    actor_new(&s.c->clients[0], writer_without_room, &s);
    ck_assert(scene_wait(&s, &s.replaced, 1000));
    for (unsigned i = 1; i < 3; i++)
        sim_disk_set_limit(sim_node_disk(s.c->stores[i].node), sim_disk_used(sim_node_disk(s.c->stores[i].node)) + BLOCK_SIZE);
    scene_run(&s, 3000); /* they measure now and then */
    s.stale = true;
    ck_assert(scene_wait(&s, &s.ended, 60000));
    ck_assert_int_eq(s.status, -TC_E_NOSPC);
    for (unsigned i = 1; i < 3; i++)
        sim_disk_set_limit(sim_node_disk(s.c->stores[i].node), 0);
    scene_run(&s, 6000);
    s.ended = false;
    actor_new(&s.c->clients[1], counting_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 30000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_gt(n_unclean, 0);
    first = s.n;
    client_kill(&s.c->clients[0]);
    store_kill(&s.c->stores[0]);
    s.ended = false;
    actor_new(&s.c->clients[2], counting_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 30000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, first);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {written_is_seen, synced_survives, written_twice, synced_in_a_session, within_reach, not_clean,
                                  behind_the_horizon, zeros_past_the_size, truncate_under_way, unfinished, sparse_and_unclean, hole_beside_one_down, hole_beside_one_slow,
                                  no_room};

    return cases_run("data", tests, ARRAY_SIZE(tests));
}
