/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery: a newcomer is filled from a quorum and says so; a voter that was away catches up; reconciliation
 * makes all voters equal or fails; what belongs to nobody any more goes.
 */
#include <stdio.h>

#include "common/log.h"
#include "storage-world.h"

static bool one_ready(struct world *w, int node)
{
    for (int i = 0; i < PGS; i++) {
        if (w->leader.ready[node][i] != w->leader.pgs[i].epoch)
            return false;
    }
    return true;
}

static bool ready4(void *arg)
{
    return one_ready(arg, 4);
}

static bool caught_up(void *arg)
{
    struct world *w = arg;
    struct storage_status st;

    for (int i = 1; i <= STORES; i++) {
        if (!w->server[i])
            continue;
        storage_server_status(w->server[i], &st);
        if (!st.registered || st.behind || st.map_epoch != w->leader.epoch)
            return false;
    }
    return true;
}

static void wait_for(struct world *w, bool (*fn)(void *arg))
{
    ck_assert(sim_run(w->sim, sim_now(w->sim) + 60 * NS_PER_S, fn, w));
}

static void write_at(struct world *w, const int *nodes, uint64_t ino, uint32_t index, uint32_t first, uint32_t count,
                     uint64_t epoch, uint64_t seq)
{
    for (; *nodes; nodes++)
        ck_assert_int_eq(world_write(w, *nodes, ino, index, first, count, epoch, seq, 0), 0);
}

/* Every write is on two of three only; the newcomer gets the newest of each, small and large, data and marks. */
START_TEST(newcomer)
{
    struct world *w = world_new(1, 4);
    struct storage_status st;

    for (uint64_t ino = 10; ino < 30; ino++)
        write_at(w, (int[]){1 + (int)ino % 3, 1 + (int)(ino + 1) % 3, 0}, ino, 0, 0, ino % 5 ? 3 : 256, 1, ino);
    write_at(w, (int[]){1, 2, 0}, 11, 0, 1, 1, 2, 1);
    write_at(w, (int[]){2, 3, 0}, 12, 0, 0, 2, 2, 2);
    ck_assert_int_eq(world_write(w, 1, 13, 0, 0, 1, 2, 3, WRITE_ZERO), 0);
    ck_assert_int_eq(world_write(w, 3, 13, 0, 0, 1, 2, 3, WRITE_ZERO), 0);
    w->leader.dead_ino = 29;
    world_kill(w, 3); /* a quorum is left */
    world_place(w, (int[]){1, 2, 3, 0}, (int[]){1, 2, 4, 0});
    ck_assert_int_eq(world_write(w, 4, 14, 0, 0, 1, 3, 1, 0), 0); /* newer than what will be copied */
    wait_for(w, ready4);
    world_place(w, (int[]){1, 2, 4, 0}, NULL);
    world_run(w, 1000);
    for (uint64_t ino = 10; ino < 29; ino++) {
        uint64_t want_epoch = ino == 11 || ino == 12 ? 2 : ino == 14 ? 3 : 1;

        if (ino == 13)
            continue;
        if (ino == 11)
            world_expect(w, 4, ino, 0, 1, 1, 2, 1);
        else
            world_expect(w, 4, ino, 0, 0, 1, want_epoch, ino == 12 ? 2 : ino == 14 ? 1 : ino);
        world_expect(w, 4, ino, 0, 2, 1, 1, ino);
        if (ino % 5 == 0)
            world_expect(w, 4, ino, 0, 2, 254, 1, ino);
    }
    world_expect(w, 4, 29, 0, 0, 3, 0, 0); /* its inode is gone: not copied */
    storage_server_status(w->server[4], &st);
    ck_assert_uint_eq(st.behind, 0);

    /* The store that left drops what it has when it comes back, if it is not wanted again for a while. */
    world_start(w, 3);
    wait_for(w, caught_up);
    world_run(w, 60000);
    storage_server_status(w->server[3], &st);
    ck_assert_uint_eq(st.chunks, 0);
    world_free(w);
}
END_TEST

/* One voter's chunks are not enough to become complete: what the other two acknowledged may not be there. */
START_TEST(newcomer_waits)
{
    struct world *w = world_new(9, 4);

    write_at(w, (int[]){1, 2, 0}, 10, 0, 0, 3, 1, 1); /* the third voter has missed it */
    write_at(w, (int[]){1, 2, 3, 0}, 11, 0, 0, 3, 1, 2);
    world_place(w, (int[]){1, 2, 3, 0}, (int[]){1, 2, 4, 0});
    world_kill(w, 1);
    world_kill(w, 2);
    world_run(w, 10000);
    ck_assert(!one_ready(w, 4));
    world_start(w, 2);
    wait_for(w, ready4);
    world_expect(w, 4, 10, 0, 0, 3, 1, 1);
    world_free(w);
}
END_TEST

/* Two voters go on without the third; when it is back it fetches what differs, through a restart or a pause. */
START_TEST(voter_returns)
{
    struct world *w = world_new(2, 3);

    write_at(w, (int[]){1, 2, 3, 0}, 10, 0, 0, 256, 1, 1);
    write_at(w, (int[]){1, 2, 3, 0}, 11, 0, 0, 4, 1, 2);
    world_kill(w, 3);
    write_at(w, (int[]){1, 2, 0}, 10, 0, 100, 3, 1, 3);
    write_at(w, (int[]){1, 2, 0}, 12, 2, 0, 256, 1, 4);
    write_at(w, (int[]){1, 2, 0}, 13, 0, 7, 1, 1, 5);
    world_start(w, 3);
    wait_for(w, caught_up);
    world_expect(w, 3, 10, 0, 0, 100, 1, 1);
    world_expect(w, 3, 10, 0, 100, 3, 1, 3);
    world_expect(w, 3, 12, 2, 0, 256, 1, 4);
    world_expect(w, 3, 13, 0, 7, 1, 1, 5);
    world_expect(w, 3, 11, 0, 0, 4, 1, 2);

    sim_node_pause(w->s[3], true);
    write_at(w, (int[]){1, 2, 0}, 14, 0, 0, 20, 1, 6);
    world_run(w, 5000);
    sim_node_pause(w->s[3], false);
    world_run(w, 1000);
    wait_for(w, caught_up);
    world_expect(w, 3, 14, 0, 0, 20, 1, 6);
    world_free(w);
}
END_TEST

static bool ready3(void *arg)
{
    return one_ready(arg, 3);
}

/* PROTOCOL 6.5: a store that was away is no voter any more, and becomes one again, knowing that it was none or not (@away). What it alone had, a
 * write that was given up, does not come back with it; what was overwritten is as its peers have it; what was written
 * under the transition stays. */
static void rejoin(uint64_t seed, bool away)
{
    struct world *w = world_new(seed, 4);

    for (uint64_t ino = 10; ino < 20; ino++)
        write_at(w, (int[]){1, 2, 3, 0}, ino, 0, 0, 4, 1, ino);
    write_at(w, (int[]){3, 0}, 12, 0, 1, 1, 5, 9); /* on this one alone: never acknowledged */
    write_at(w, (int[]){3, 0}, 21, 0, 0, 4, 5, 9);
    world_kill(w, 3);
    world_place(w, (int[]){1, 2, 3, 0}, (int[]){1, 2, 4, 0});
    wait_for(w, ready4);
    world_place(w, (int[]){1, 2, 4, 0}, NULL);
    if (!away)
        world_start(w, 3);
    world_settle(w);
    write_at(w, (int[]){1, 2, 4, 0}, 13, 0, 2, 1, 2, 1);
    world_place(w, (int[]){1, 2, 4, 0}, (int[]){1, 2, 3, 0});
    if (away)
        world_start(w, 3);
    wait_for(w, ready3);
    write_at(w, (int[]){1, 2, 3, 4, 0}, 14, 0, 0, 1, 3, 1);
    world_kill(w, 3); /* it remembers that it is done with that */
    world_start(w, 3);
    wait_for(w, ready3);
    world_place(w, (int[]){1, 2, 3, 0}, NULL);
    for (uint64_t ino = 10; ino < 20; ino++)
        world_expect(w, 3, ino, 0, ino == 14, 1, 1, ino);
    world_expect(w, 3, 12, 0, 1, 1, 1, 12);
    world_expect(w, 3, 13, 0, 2, 1, 2, 1);
    world_expect(w, 3, 14, 0, 0, 1, 3, 1);
    world_expect(w, 3, 21, 0, 0, 4, 0, 0);
    world_free(w);
}

START_TEST(rejoins)
{
    rejoin(7, false);
    rejoin(8, true);
}
END_TEST

static int reconcile(struct world *w, int node, uint64_t ino, uint64_t from)
{
    struct reconcile_req req = {.barrier = w->map->epoch, .ino = ino, .from_epoch = from, .indexes = {(uint64_t[]){0, 1, 2}, 3}};
    struct answer a;
    int status;

    world_ask(w, node, MSG_RECONCILE, &req, NULL, &a);
    status = a.status;
    answer_free(&a);
    return status;
}

/* PROTOCOL 3.6 (b): the newest of every differing block to all, from whoever has it; older epochs are left alone. */
START_TEST(reconciles)
{
    struct world *w = world_new(3, 3);

    write_at(w, (int[]){1, 0}, 10, 0, 0, 2, 5, 1);
    write_at(w, (int[]){2, 0}, 10, 0, 1, 2, 5, 2);
    write_at(w, (int[]){3, 0}, 10, 0, 2, 200, 6, 3);
    write_at(w, (int[]){3, 0}, 10, 1, 0, 1, 4, 9);
    ck_assert_int_eq(world_write(w, 2, 10, 2, 4, 1, 7, 4, WRITE_ZERO), 0);
    world_kill(w, 3);
    ck_assert_int_eq(reconcile(w, 1, 10, 5), -TC_E_QUORUM_LOST);
    world_start(w, 3);
    wait_for(w, caught_up);
    ck_assert_int_eq(reconcile(w, 1, 10, 5), 0);
    for (int node = 1; node <= 3; node++) {
        world_expect(w, node, 10, 0, 0, 1, 5, 1);
        world_expect(w, node, 10, 0, 1, 1, 5, 2);
        world_expect(w, node, 10, 0, 2, 200, 6, 3);
    }
    world_expect(w, 1, 10, 1, 0, 1, 0, 0);
    ck_assert_int_eq(reconcile(w, 2, 10, 1), 0);
    world_expect(w, 1, 10, 1, 0, 1, 4, 9);
    for (int node = 1; node <= 3; node++) { /* the pair went with them */
        struct size_query_req req = {.barrier = w->map->epoch, .ino = 10, .chunks = 3, .epoch = 7};
        struct answer a;

        world_ask(w, node, MSG_SIZE_QUERY, &req, NULL, &a);
        ck_assert(a.status == 0 && a.u.size.found);
        ck_assert_uint_eq(a.u.size.size, 400);
        answer_free(&a);
    }
    world_free(w);
}
END_TEST

static int first_file(void *arg, const char *name)
{
    snprintf(arg, 200, "%s", name);
    return 1;
}

/* A block that rots on one disk is found by reading, told as unknown, and healed from the others. */
START_TEST(rot_heals)
{
    struct world *w = world_new(4, 3);
    char name[200] = "", path[300];

    write_at(w, (int[]){1, 2, 3, 0}, 10, 0, 0, 256, 1, 1);
    for (int i = 0; i < 16 && !name[0]; i++) {
        snprintf(path, sizeof path, "d/data/%02x", i);
        if (vfs_list(env_vfs(sim_node_env(w->s[1])), path, first_file, name) < 0)
            continue;
        if (name[0])
            snprintf(path, sizeof path, "d/data/%02x/%s", i, name);
    }
    ck_assert(name[0]);
    {
        struct sim_disk *d = sim_node_disk(w->s[1]);

        ck_assert(sim_disk_flip(d, path, 50 * 4096 + 5, 1));
    }
    {
        uint32_t pg = map_pg_of(w->map, 10, 0);
        struct read_item it = {.pg = pg, .pg_epoch = w->map->pgs[pg].epoch, .ino = 10, .count = 256, .data = true};
        struct read_req req = {.barrier = w->map->epoch, .items = {&it, 1}};
        struct answer a;

        world_ask(w, 1, MSG_READ, &req, NULL, &a);
        ck_assert_uint_eq(a.u.read.items.items[0].runs.n, 3);
        ck_assert_uint_eq(a.u.read.items.items[0].runs.items[1].kind, RUN_UNKNOWN);
        answer_free(&a);
    }
    ck_assert_int_eq(reconcile(w, 2, 10, 1), 0);
    world_expect(w, 1, 10, 0, 0, 256, 1, 1);
    world_free(w);
}
END_TEST

static void flip_chunk(struct world *w, int node, uint32_t block)
{
    char name[200] = "", path[300];

    for (int i = 0; i < 16 && !name[0]; i++) {
        snprintf(path, sizeof path, "d/data/%02x", i);
        if (vfs_list(env_vfs(sim_node_env(w->s[node])), path, first_file, name) < 0)
            continue;
        if (name[0])
            snprintf(path, sizeof path, "d/data/%02x/%s", i, name);
    }
    ck_assert(name[0]);
    ck_assert(sim_disk_flip(sim_node_disk(w->s[node]), path, block * 4096 + 5, 1));
}

static bool says(struct world *w, int node, uint32_t action, const char *what)
{
    struct scrub_req req = {.action = action};
    struct answer a;
    char text[2048];

    world_ask(w, node, MSG_SCRUB, &req, NULL, &a);
    ck_assert_int_eq(a.status, 0);
    snprintf(text, sizeof text, "%.*s", (int)a.u.status.json.n, a.u.status.json.p);
    answer_free(&a);
    return strstr(text, what) != NULL;
}

static void scrub_all(struct world *w, int node)
{
    (void)says(w, node, SCRUB_START, "");
    for (int i = 0; i < 100 && says(w, node, SCRUB_REPORT, "\"running\":true"); i++)
        world_run(w, 500);
    ck_assert(says(w, node, SCRUB_REPORT, "\"running\":false"));
    world_run(w, 2000);
}

/* A scrub finds what nobody reads, has it repaired, and removes what belongs to nobody: chunks of inodes that are gone and
 * what a truncate left behind, but nothing newer than that. */
START_TEST(scrubs)
{
    struct world *w = world_new(5, 3);

    write_at(w, (int[]){1, 2, 3, 0}, 10, 0, 0, 256, 1, 1);
    write_at(w, (int[]){1, 2, 3, 0}, 11, 0, 0, 3, 1, 2);
    write_at(w, (int[]){1, 2, 3, 0}, 12, 0, 0, 8, 1, 3);
    write_at(w, (int[]){1, 2, 3, 0}, 12, 0, 6, 1, 3, 1);
    flip_chunk(w, 1, 50);
    w->leader.dead_ino = 11;
    scrub_all(w, 1);
    ck_assert(says(w, 1, SCRUB_REPORT, "\"found\":1,\"repaired\":1,\"damaged\":0,\"unrepaired\":0"));
    world_expect(w, 1, 10, 0, 0, 256, 1, 1);
    world_expect(w, 1, 11, 0, 0, 3, 0, 0);
    world_expect(w, 2, 11, 0, 0, 3, 1, 2); /* another's, until its own scrub */
    ck_assert_uint_eq(w->leader.found, 1);

    w->leader.dead_ino = 10; /* so that 12 is the first to be asked for */
    scrub_all(w, 2);
    world_expect(w, 2, 10, 0, 0, 256, 0, 0);
    w->leader.dead_ino = 0;
    w->leader.trims[0] = (struct ino_trim){.at = 0, .size = 5 * 4096 - 1, .epoch = 2};
    w->leader.n_trims = 1;
    scrub_all(w, 2);
    world_expect(w, 2, 12, 0, 0, 5, 1, 3);
    world_expect(w, 2, 12, 0, 5, 1, 0, 0);
    world_expect(w, 2, 12, 0, 6, 1, 3, 1);
    world_expect(w, 2, 12, 0, 7, 1, 0, 0);

    world_run(w, 11000);
    world_kill(w, 1); /* the totals stay; a scrub that was cut short goes on */
    world_start(w, 1);
    wait_for(w, caught_up);
    ck_assert(says(w, 1, SCRUB_REPORT, "\"found\":1,\"repaired\":1"));
    world_free(w);
}
END_TEST

/* Two of three copies of a block rot: each still knows the version, so the third may repair both. All three: an error, and
 * never an answer. */
START_TEST(rot_of_two)
{
    struct world *w = world_new(6, 3);

    write_at(w, (int[]){1, 2, 3, 0}, 10, 0, 0, 256, 1, 1);
    flip_chunk(w, 1, 7);
    flip_chunk(w, 2, 7);
    scrub_all(w, 1);
    scrub_all(w, 2);
    world_run(w, 10000);
    world_expect(w, 1, 10, 0, 0, 256, 1, 1);
    world_expect(w, 2, 10, 0, 0, 256, 1, 1);
    for (int node = 1; node <= 3; node++)
        flip_chunk(w, node, 9);
    w->leader.held = true;
    for (int node = 1; node <= 3; node++)
        scrub_all(w, node);
    for (int node = 1; node <= 3; node++)
        ck_assert(says(w, node, SCRUB_REPORT, "\"damaged\":1,\"unrepaired\":1"));
    world_expect(w, 1, 10, 0, 10, 200, 1, 1);
    world_free(w);
}
END_TEST

/* PROTOCOL 5.4: what the leader knows nothing of is kept, and copied. */
START_TEST(unknown_is_kept)
{
    struct world *w = world_new(11, 4);

    write_at(w, (int[]){1, 2, 3, 0}, 10, 0, 0, 3, 1, 1);
    w->leader.unsure = true;
    scrub_all(w, 1);
    world_expect(w, 1, 10, 0, 0, 3, 1, 1);
    world_place(w, (int[]){1, 2, 3, 0}, (int[]){1, 2, 4, 0});
    wait_for(w, ready4);
    world_expect(w, 4, 10, 0, 0, 3, 1, 1);
    world_free(w);
}
END_TEST

/* PROTOCOL 4.9: a block that was written here alone, and rots, waits while somebody holds X: what he counts as acknowledged must
 * not be replaced by what was there before. */
START_TEST(rot_waits_for_the_writer)
{
    struct world *w = world_new(12, 3);

    write_at(w, (int[]){1, 2, 3, 0}, 10, 0, 0, 256, 1, 1);
    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 256, 1, 2, 0), 0);
    world_run(w, 6000);
    flip_chunk(w, 1, 7);
    w->leader.held = true;
    scrub_all(w, 1);
    world_run(w, 20000);
    ck_assert(says(w, 1, SCRUB_REPORT, "\"damaged\":1,\"unrepaired\":1"));
    w->leader.held = false;
    world_run(w, 40000);
    ck_assert(says(w, 1, SCRUB_REPORT, "\"damaged\":0,\"unrepaired\":0"));
    world_expect(w, 1, 10, 0, 7, 1, 1, 1);
    world_free(w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage-recovery");
    TCase *t = tcase_create("all");
    SRunner *sr;
    int failed;

    log_set_sink(world_quiet, NULL);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, newcomer);
    tcase_add_test(t, newcomer_waits);
    tcase_add_test(t, voter_returns);
    tcase_add_test(t, rejoins);
    tcase_add_test(t, reconciles);
    tcase_add_test(t, rot_heals);
    tcase_add_test(t, scrubs);
    tcase_add_test(t, rot_of_two);
    tcase_add_test(t, unknown_is_kept);
    tcase_add_test(t, rot_waits_for_the_writer);
    suite_add_tcase(s, t);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed && !getenv("CK_TAP_LOG_FILE_NAME");
}
