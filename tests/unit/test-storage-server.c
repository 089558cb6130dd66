/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The storage node: it registers, takes maps, refuses what is fenced or stale, waits for the map a request
 * names, serves after a restart without a leader, deletes what it is told to.
 */
#include <stdio.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/aside.h"
#include "common/log.h"
#include "common/os_env.h"
#include "storage-world.h"

static const int first_three[] = {1, 2, 3, 0};

/* Written, read back, killed with a power loss, there again: without a leader. */
START_TEST(write_restart_read)
{
    struct world *w = world_new(1, 3);

    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 256, 1, 1, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 10, 0, 5, 1, 1, 2, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 11, 0, 0, 2, 1, 3, 0), 0);
    world_expect(w, 1, 10, 0, 5, 1, 1, 2);
    sim_node_pause(w->m, true);
    for (int i = 0; i < 2; i++) {
        world_kill(w, 1);
        sim_disk_power_loss(sim_node_disk(w->s[1]), SIM_LOSS_ALL);
        world_start(w, 1);
        world_run(w, 5000);
        world_expect(w, 1, 10, 0, 0, 5, 1, 1);
        world_expect(w, 1, 10, 0, 5, 1, 1, 2);
        world_expect(w, 1, 10, 0, 6, 250, 1, 1);
        world_expect(w, 1, 11, 0, 0, 2, 1, 3);
        world_expect(w, 1, 12, 0, 0, 2, 0, 0);
        ck_assert_int_eq(world_write(w, 1, 11, 0, 0, 2, 1, 3, 0), 0);
    }
    world_free(w);
}
END_TEST

/* PROTOCOL 4.6: dead sessions, old and unknown epochs, barriers. */
START_TEST(admission)
{
    struct world *w = world_new(2, 4);
    uint64_t before;

    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 1, 1, 1, 0), 0);
    ck_assert_int_eq(world_write(w, 4, 10, 0, 0, 1, 1, 1, 0), -TC_E_NOT_VOTER);
    w->map->pgs[map_pg_of(w->map, 10, 0)].epoch--;
    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 1, 1, 2, 0), -TC_E_STALE_EPOCH);
    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 1, 1, 2, WRITE_REPAIR), -TC_E_STALE_EPOCH);
    w->map->pgs[map_pg_of(w->map, 10, 0)].epoch++;

    /* A barrier the leader knows: the store fetches it first. */
    fake_leader_place(&w->leader, first_three, NULL);
    map_free(w->map);
    w->map = map_new();
    world_settle(w); /* only takes the map for the client's side */
    w->leader.dead[0] = (struct dead_session){7, 1};
    w->leader.n_dead = 1;
    w->leader.epoch++;
    w->map->epoch++;
    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 1, 1, 3, 0), -TC_E_FENCED);
    world_expect(w, 1, 10, 0, 0, 1, 1, 1);

    /* One nobody has: the request is refused in bounded time. */
    w->leader.n_dead = 0;
    w->map->epoch += 5;
    before = sim_now(w->sim);
    ck_assert_int_eq(world_write(w, 2, 10, 0, 0, 1, 1, 3, 0), -TC_E_STALE_MAP);
    ck_assert_uint_le(sim_now(w->sim) - before, 4 * NS_PER_S);
    world_free(w);
}
END_TEST

/* Requests that waited for a map had it asked of one member after the other. When they are gone, the next map is asked of
 * whoever answers the beats: not for ever of the member whose turn it was. */
START_TEST(next_map_after_waiting)
{
    struct world *w = world_new(3, 4);

    for (uint64_t k = 0; k < 6; k++) {
        w->map->epoch += 5; /* a barrier nobody has */
        ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 1, 1, 1 + k, 0), -TC_E_STALE_MAP);
        world_run(w, 300 + 100 * k);
        world_place(w, first_three, NULL); /* all have it soon */
    }
    world_free(w);
}
END_TEST

static void count_line(void *arg, const char *line)
{
    *(unsigned *)arg += strstr(line, "asked for another store") != NULL;
}

/* PROTOCOL 6.1: what is meant for another store is refused, whatever it is, and told once; what names nobody is answered. */
START_TEST(meant_for_another)
{
    static const uint16_t types[] = {MSG_WRITE, MSG_READ, MSG_MANIFEST, MSG_SIZE_QUERY, MSG_CHUNK_SEEK, MSG_RECONCILE, MSG_SCRUB};
    struct world *w = world_new(4, 3);
    uint64_t whom[] = {0, w->leader.stores[1], w->leader.stores[2], 1};
    unsigned told = 0;

    log_set_sink(count_line, &told);
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        for (unsigned k = 0; k < ARRAY_SIZE(whom); k++) {
            union store_request req = {0};
            struct answer a;

            if (types[i] == MSG_MANIFEST)
                req.manifest = (struct manifest_req){.pg_epoch = w->map->pgs[0].epoch, .max = 1};
            *request_store(types[i], &req) = whom[k];
            world_ask(w, 1, types[i], &req, NULL, &a);
            ck_assert_msg(a.status == (k < 2 ? 0 : -TC_E_WRONG_STORE), "%s: %s", msg_name(types[i]), tc_error_name(a.status));
            answer_free(&a);
        }
    ck_assert_uint_eq(told, 1);
    log_set_sink(NULL, NULL);
    world_free(w);
}
END_TEST

/* Deleted inodes and truncated tails go, the cursor is durable, other inodes stay. */
START_TEST(gc)
{
    struct world *w = world_new(3, 3);
    struct storage_status st;

    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 200, 1, 1, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 10, 3, 0, 3, 1, 2, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 11, 0, 0, 200, 1, 3, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 12, 0, 0, 1, 1, 4, 0), 0);
    w->leader.gc[0] = (struct gc_item){.id = 5, .ino = 10, .epoch = UINT64_MAX, .reach = 64 << 20};
    w->leader.gc[1] = (struct gc_item){.id = 6, .ino = 11, .size = 4096 * 10, .epoch = 2, .reach = 64 << 20};
    w->leader.n_gc = 2;
    world_run(w, 2000);
    ck_assert_uint_eq(w->leader.gc_done[1], 6);
    world_kill(w, 1);
    sim_disk_power_loss(sim_node_disk(w->s[1]), SIM_LOSS_ALL);
    world_start(w, 1);
    world_settle(w);
    world_expect(w, 1, 10, 0, 0, 200, 0, 0);
    world_expect(w, 1, 11, 0, 0, 10, 1, 3);
    world_expect(w, 1, 11, 0, 10, 200, 0, 0);
    world_expect(w, 1, 12, 0, 0, 1, 1, 4);
    storage_server_status(w->server[1], &st);
    ck_assert_uint_eq(st.chunks, 2);
    ck_assert_uint_eq(st.used, 11 * 4096);
    world_free(w);
}
END_TEST

/* A file of the greatest size with a few chunks goes at once, and one with many of them window by window. */
START_TEST(gc_sparse)
{
    struct world *w = world_new(3, 3);
    struct storage_status st;

    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 3, 1, 1, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 10, 2147483647, 0, 3, 1, 2, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 11, 5, 0, 3, 1, 3, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 11, 2000000000, 0, 3, 1, 4, 0), 0);
    for (uint32_t i = 0; i < 1500; i++)
        ck_assert_int_eq(world_write(w, 1, 12, 1000000 + i, 0, 1, 1, 5 + i, 0), 0);
    w->leader.gc[0] = (struct gc_item){.id = 5, .ino = 10, .epoch = UINT64_MAX, .reach = UINT64_C(1) << 52};
    w->leader.gc[1] = (struct gc_item){.id = 6, .ino = 11, .size = UINT64_C(1) << 40, .epoch = 2, .reach = UINT64_C(1) << 52};
    w->leader.gc[2] = (struct gc_item){.id = 7, .ino = 12, .epoch = UINT64_MAX, .reach = UINT64_C(1) << 52};
    w->leader.n_gc = 3;
    world_run(w, 2000);
    ck_assert_uint_eq(w->leader.gc_done[1], 7);
    world_kill(w, 1);
    sim_disk_power_loss(sim_node_disk(w->s[1]), SIM_LOSS_ALL);
    world_start(w, 1);
    world_settle(w);
    world_expect(w, 1, 11, 5, 0, 3, 1, 3); /* before the cut */
    storage_server_status(w->server[1], &st);
    ck_assert_uint_eq(st.chunks, 1);
    world_free(w);
}
END_TEST

/* PROTOCOL 3.6 (a): the newest size of the ended epoch, over all chunks here. */
START_TEST(sizes)
{
    struct world *w = world_new(4, 3);
    struct size_query_req req = {.barrier = w->map->epoch, .ino = 10, .chunks = 64, .epoch = 2};
    struct answer a;

    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 1, 1, 50, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 10, 9, 0, 1, 2, 8, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 10, 3, 0, 1, 2, 9, WRITE_ZERO), 0);
    ck_assert_int_eq(world_write(w, 1, 10, 3, 1, 1, 2, 7, 0), 0); /* was late: says nothing of the size */
    world_ask(w, 1, MSG_SIZE_QUERY, &req, NULL, &a);
    ck_assert_int_eq(a.status, 0);
    ck_assert(a.u.size.found);
    ck_assert_uint_eq(a.u.size.vseq, 9);
    ck_assert_uint_eq(a.u.size.size, 900);
    answer_free(&a);
    req.epoch = 3;
    world_ask(w, 1, MSG_SIZE_QUERY, &req, NULL, &a);
    ck_assert(!a.u.size.found);
    answer_free(&a);
    world_free(w);
}
END_TEST

static void seek(struct world *w, uint32_t from, uint32_t to, int64_t expected)
{
    struct chunk_seek_req req = {.barrier = w->map->epoch, .ino = 10, .from = from, .to = to};
    struct answer a;

    world_ask(w, 1, MSG_CHUNK_SEEK, &req, NULL, &a);
    ck_assert_int_eq(a.status, 0);
    ck_assert_int_eq(a.u.seek.found ? (int64_t)a.u.seek.index : -1, expected);
    answer_free(&a);
}

/* Of a file of petabytes, which could have more chunks than can be walked through: those that there are. */
START_TEST(sizes_of_sparse_files)
{
    struct world *w = world_new(4, 3);
    struct size_query_req req = {.barrier = w->map->epoch, .ino = 10, .chunks = UINT32_MAX, .epoch = 2};
    const uint32_t far = UINT32_MAX - 7;
    struct answer a;

    for (uint32_t i = 0; i < 700; i++) /* more than a turn's worth */
        ck_assert_int_eq(world_write(w, 1, 10, i * 3, 0, 1, 2, 10 + i, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 10, far, 0, 1, 2, 5000, 0), 0);
    ck_assert_int_eq(world_write(w, 1, 11, 7, 0, 1, 2, 9000, 0), 0); /* another's */
    world_ask(w, 1, MSG_SIZE_QUERY, &req, NULL, &a);
    ck_assert_int_eq(a.status, 0);
    ck_assert(a.u.size.found);
    ck_assert_uint_eq(a.u.size.vseq, 5000);
    answer_free(&a);
    req.chunks = far;
    world_ask(w, 1, MSG_SIZE_QUERY, &req, NULL, &a);
    ck_assert_uint_eq(a.u.size.vseq, 709);
    answer_free(&a);
    seek(w, 0, UINT32_MAX, 0);
    seek(w, 1, UINT32_MAX, 3);
    seek(w, 3, UINT32_MAX, 3);
    seek(w, 3 * 699 + 1, UINT32_MAX, far);
    seek(w, 3 * 699 + 1, far, -1);
    seek(w, UINT32_MAX, UINT32_MAX, -1);
    world_free(w);
}
END_TEST

/* A directory of another cluster, or an old copy of one, is refused. */
START_TEST(wrong_directory)
{
    struct world *w = world_new(5, 3);

    world_kill(w, 1);
    w->leader.cluster[3] ^= 1;
    world_start(w, 1);
    world_run(w, 2000);
    ck_assert(w->fatal[1]);
    w->leader.cluster[3] ^= 1;
    world_kill(w, 2);
    w->leader.starts[2] += 5; /* so much newer was what registered last */
    world_start(w, 2);
    world_run(w, 2000);
    ck_assert(w->fatal[2]);
    world_free(w);
}
END_TEST

static int see_name(void *arg, const char *name)
{
    return strcmp(arg, name) == 0;
}

static bool has_name(struct world *w, const char *dir, const char *name)
{
    return vfs_list(sim_disk_vfs(sim_node_disk(w->s[1])), dir, see_name, (void *)(uintptr_t)name) == 1;
}

/* What a running store found damaged is put aside at the next start, behind a loss of power too. */
START_TEST(mark_through_power_loss)
{
    struct world *w = world_new(9, 3);

    world_kill(w, 1);
    w->leader.starts[1] += 5; /* an old copy: damaged, as much as can be */
    world_start(w, 1);
    world_run(w, 2000);
    ck_assert(w->fatal[1]);
    world_kill(w, 1);
    sim_disk_power_loss(sim_node_disk(w->s[1]), SIM_LOSS_ALL);
    world_start(w, 1);
    ck_assert(has_name(w, "d", "damaged-1"));
    world_free(w);
}
END_TEST

/* A damaged journal: all files go aside, and stay there through a loss of power at once; the store is another. Removed
 * when that is said, and only then. */
START_TEST(aside_through_power_loss)
{
    struct world *w = world_new(6, 3);
    struct sim_disk *d = sim_node_disk(w->s[1]);
    struct scrub_req req = {.action = SCRUB_CLEAN};
    struct storage_status st, now;
    struct answer a;

    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 256, 1, 1, 0), 0);
    storage_server_status(w->server[1], &st);
    world_kill(w, 1);
    sim_disk_power_loss(d, SIM_LOSS_ALL);
    sim_disk_reopen(d);
    ck_assert_int_eq(vfs_write_text(sim_disk_vfs(d), "d", "damaged", "0\n"), 0);
    ck_assert_int_eq(vfs_sync_dir(sim_disk_vfs(d), "d"), 0);
    for (int life = 0; life < 2; life++) {
        world_start(w, 1);
        ck_assert(has_name(w, "d/damaged-1", "journal") && has_name(w, "d/damaged-1", "identity.0"));
        ck_assert(!has_name(w, "d", "damaged") && !has_name(w, "d", "damaged-2"));
        storage_server_status(w->server[1], &now);
        ck_assert_uint_ne(now.store, st.store);
        world_kill(w, 1);
        sim_disk_power_loss(d, SIM_LOSS_ALL);
    }
    world_start(w, 1);
    world_run(w, 3000);
    ck_assert_uint_eq(w->leader.aside, 1);
    ck_assert_uint_ge(w->leader.aside_bytes, 1 << 20);
    world_ask(w, 1, MSG_SCRUB, &req, NULL, &a);
    ck_assert_int_eq(a.status, 0);
    answer_free(&a);
    world_run(w, 3000);
    ck_assert_uint_eq(w->leader.aside, 0);
    ck_assert(!has_name(w, "d", "damaged-1"));
    world_free(w);
}
END_TEST

/* ---- setting aside, interrupted everywhere ---- */

enum { CRASH_ALL_LOST, CRASH, CRASH_THEN_LOST, CRASH_RANDOM, ERROR_FIRST, ERRORS_THEN_LOST = ERROR_FIRST + SIM_DISK_OPS,
       WAYS = ERRORS_THEN_LOST + SIM_DISK_OPS };

struct interrupt {
    int way;
    uint64_t after;
};

static void interrupt_arm(struct sim_disk *d, void *arg)
{
    const struct interrupt *f = arg;

    if (f->way < ERROR_FIRST)
        sim_disk_crash_after(d, f->after);
    else
        sim_disk_fail(d, (enum sim_disk_op)((f->way - ERROR_FIRST) % SIM_DISK_OPS), f->after, -TC_E_IO);
}

static int chop_segment(void *arg, const char *name)
{
    if (!strstr(name, ".seg"))
        return 0;
    snprintf(arg, 64, "d/journal/%s", name);
    return 1;
}

/* Damage that a running store found (it left the mark), or that the opening will find. */
static void make_damage(struct sim_disk *d, bool marked)
{
    struct vfs *v = sim_disk_vfs(d);
    char path[64];

    sim_disk_reopen(d);
    if (marked) {
        ck_assert_int_eq(vfs_write_text(v, "d", "damaged", "0\n"), 0);
        ck_assert_int_eq(vfs_sync_dir(v, "d"), 0);
        return;
    }
    ck_assert_int_eq(vfs_list(v, "d/journal", chop_segment, path), 1);
    ck_assert(sim_disk_chop(d, path, 4096));
}

/* As many as there may be, but for one. */
static void make_asides(struct world *w)
{
    char dir[32];

    for (int i = 6; i <= 8; i++) {
        snprintf(dir, sizeof dir, "d/damaged-%d", i);
        ck_assert_int_eq(vfs_make_dir(sim_disk_vfs(sim_node_disk(w->s[1])), dir), 0);
    }
}

static void lose(struct world *w, int way, bool again)
{
    struct sim_disk *d = sim_node_disk(w->s[1]);

    world_kill(w, 1);
    if (way == CRASH_RANDOM)
        sim_disk_power_loss(d, SIM_LOSS_RANDOM);
    else if (way == CRASH_ALL_LOST || way >= ERRORS_THEN_LOST || (way == CRASH_THEN_LOST && again))
        sim_disk_power_loss(d, SIM_LOSS_ALL);
}

struct text {
    char bytes[512];
    int64_t n;
};

static struct text text_of(struct sim_disk *d, const char *path)
{
    struct text t = {.n = -1};
    struct vfs_file *f = NULL;

    if (vfs_open(sim_disk_vfs(d), path, VFS_RDONLY, &f) == 0)
        t.n = vfs_pread(f, t.bytes, sizeof t.bytes, 0);
    vfs_close(f);
    return t;
}

static bool same_text(struct sim_disk *d, const char *path, const struct text *want, bool may_lack)
{
    struct text t = text_of(d, path);

    return (may_lack && t.n < 0) || (t.n == want->n && t.n > 0 && !memcmp(t.bytes, want->bytes, (size_t)t.n));
}

/* All in damaged-9, as it was. A name that moves between directories may be lost by the simulated disk, but by no real one. */
static void check_aside(struct world *w, int way, uint64_t after, uint64_t again, const struct text *ids)
{
    struct sim_disk *d = sim_node_disk(w->s[1]);
    bool there = has_name(w, "d/damaged-9", "journal") && has_name(w, "d/damaged-9", "data") && has_name(w, "d/damaged-9", "kv") &&
                 has_name(w, "d/damaged-9", "identity.0");

    ck_assert_msg(there || way == CRASH_RANDOM, "way %d, after %lu, %lu: not all of it is in one place", way, after, again);
    ck_assert_msg(same_text(d, "d/damaged-9/identity.0", &ids[0], way == CRASH_RANDOM) &&
                      same_text(d, "d/damaged-9/identity.1", &ids[1], way == CRASH_RANDOM), "way %d, after %lu, %lu: the new took the place of the old", way, after, again);
    ck_assert_msg(!has_name(w, "d", "damaged") && !has_name(w, "d", "damaged-10"), "way %d, after %lu, %lu: twice", way, after, again);
}

static void interrupted(struct world *w, bool marked, int way, uint64_t after, uint64_t again)
{
    struct sim_disk *d = sim_node_disk(w->s[1]);
    struct interrupt f = {way, after};
    struct text ids[2];
    int r;

    world_kill(w, 1);
    make_damage(d, marked);
    ids[0] = text_of(d, "d/identity.0");
    ids[1] = text_of(d, "d/identity.1");
    w->arm = interrupt_arm;
    w->arm_arg = &f;
    if (world_try_start(w, 1) == 0)
        world_run(w, 100);
    lose(w, way, false);
    if (again < UINT64_MAX) {
        f.after = again;
        if (world_try_start(w, 1) == 0)
            world_run(w, 100);
        lose(w, way, true);
    }
    w->arm = NULL;
    r = world_try_start(w, 1);
    ck_assert_msg(r == 0, "way %d, after %lu, %lu: %s", way, after, again, tc_error_name(r));
    check_aside(w, way, after, again, ids);
    world_run(w, 3000);
    ck_assert(!w->fatal[1]);
    ck_assert_int_eq(aside_remove(sim_disk_vfs(d), "d", "damaged", 99), 0);
    make_asides(w);
}

/* Whatever operation fails, or is the last before a crash, or before one of two: the next start opens, and all that was
 * there is in one place. */
START_TEST(aside_interrupted)
{
    bool marked = _i / WAYS;
    int way = _i % WAYS;
    struct world *w = world_new(7, 3);

    make_asides(w);
    for (uint64_t n = 0; n < (way < ERROR_FIRST ? 50 : 24); n++) {
        for (int k = 0; k < (way == CRASH_RANDOM ? 4 : 1); k++)
            interrupted(w, marked, way, n, UINT64_MAX);
    }
    for (uint64_t n = 4; n < 16 && way <= CRASH_THEN_LOST; n++) {
        for (uint64_t m = 0; m < 14; m++)
            interrupted(w, marked, way, n, m);
    }
    world_free(w);
}
END_TEST

/* The journal cannot be written: the store ends, and says so for ever, a power loss at that moment or not. */
START_TEST(failing_through_power_loss)
{
    struct world *w = world_new(8, 3);
    struct sim_disk *d = sim_node_disk(w->s[1]);

    ck_assert_int_eq(world_write(w, 1, 10, 0, 0, 8, 1, 1, 0), 0);
    ck_assert_uint_eq(w->leader.flags[1] & STORE_DISK_ERROR, 0);
    sim_disk_fail(d, SIM_DISK_WRITE, 0, -TC_E_IO);
    ck_assert_int_lt(world_write(w, 1, 10, 0, 0, 1, 1, 2, 0), 0);
    ck_assert(w->fatal[1]);
    world_run(w, 100);
    ck_assert_uint_ne(w->leader.flags[1] & STORE_DISK_ERROR, 0); /* its last word */
    world_kill(w, 1);
    sim_disk_power_loss(d, SIM_LOSS_ALL);
    world_start(w, 1);
    ck_assert_int_gt(text_of(d, "d/disk-error").n, 0); /* why, for the operator */
    w->leader.flags[1] = 0;
    world_run(w, 3000);
    ck_assert_uint_ne(w->leader.flags[1] & STORE_DISK_ERROR, 0);
    world_expect(w, 1, 10, 0, 0, 8, 1, 1); /* a source for others */
    world_free(w);
}
END_TEST

/* A write that nobody waits for. */
static void write_and_leave(struct world *w, struct rpc_call *call, uint64_t seq)
{
    uint32_t pg = map_pg_of(w->map, 10, 0);
    struct write_item it = {.pg = pg, .pg_epoch = w->map->pgs[pg].epoch, .ino = 10, .count = 1, .vepoch = 1, .vseq = seq,
                            .size = 100, .mtime = 1, .flags = WRITE_ZERO};
    struct write_req req = {.session = 7, .incarnation = 1, .barrier = w->map->epoch, .items = {&it, 1}};

    rpc_call(w->link[1], call, MSG_WRITE, &write_req_schema, &req, NULL, 60 * NS_PER_S);
}

static void nobody_waits(struct rpc_call *c, const struct rpc_reply *reply)
{
    (void)c;
    (void)reply;
}

static bool says_disk_error(struct world *w)
{
    world_run(w, 1000);
    return w->leader.flags[1] & STORE_DISK_ERROR;
}

/* A disk that hangs without an error is told within 2 s, and again as soon as it goes on; one that stalls for a moment is
 * not, nor one that was not waited for while the machine slept. */
START_TEST(disk_hangs)
{
    struct world *w = world_new(10, 3);
    struct rpc_call call[3] = {{.done = nobody_waits}, {.done = nobody_waits}, {.done = nobody_waits}};

    sim_node_stall(w->s[1], 1500 * NS_PER_MS);
    write_and_leave(w, &call[0], 1);
    for (int i = 0; i < 5; i++)
        ck_assert(!says_disk_error(w));

    sim_node_stall(w->s[1], 1200 * NS_PER_MS);
    write_and_leave(w, &call[1], 2);
    world_run(w, 100);
    sim_node_pause(w->s[1], true);
    world_run(w, 60000);
    sim_node_pause(w->s[1], false);
    for (int i = 0; i < 10; i++)
        ck_assert(!says_disk_error(w));

    sim_node_stall(w->s[1], 20 * NS_PER_S);
    write_and_leave(w, &call[2], 3);
    world_run(w, 900);
    ck_assert(says_disk_error(w));
    world_run(w, 16000);
    ck_assert(says_disk_error(w));
    world_run(w, 200);
    ck_assert(!says_disk_error(w));
    ck_assert(!w->fatal[1]);
    world_free(w);
}
END_TEST

/* ---- over ZeroMQ and POSIX files -------------------------------------------------------------------------- */

struct real {
    struct env *env;
    struct fake_leader leader;
    struct storage_server *server;
    struct rpc_link *link;
    uint64_t tag;
    struct env_timer tick, guard;
    struct rpc_call call;
    struct buf *payload;
    uint8_t sums[64 * 8];
    int stage;
    struct map map;
};

static void real_guard(struct env_timer *t)
{
    os_env_stop(container_of(t, struct real, guard)->env, 1);
}

static void real_done(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct real *r = container_of(c, struct real, call);
    struct wire_arena a = {0};
    struct write_res wres;
    struct read_res rres;

    if (reply->status < 0)
        return; /* not serving yet: asked again by the tick */
    if (r->stage == 0) {
        ck_assert_int_eq(wire_decode(reply->body, &write_res_schema, &a, &wres), 0);
        if (wres.items.items[0].status == 0)
            r->stage = 1;
    } else {
        ck_assert_int_eq(wire_decode(reply->body, &read_res_schema, &a, &rres), 0);
        ck_assert_uint_eq(rres.items.items[0].status, 0);
        ck_assert_ptr_nonnull(reply->payload);
        ck_assert_uint_eq(reply->payload->len, r->payload->len);
        ck_assert_mem_eq(reply->payload->data, r->payload->data, r->payload->len);
        r->stage = 2;
    }
    wire_arena_fini(&a);
}

static void real_tick(struct env_timer *t)
{
    struct real *r = container_of(t, struct real, tick);
    struct write_item wi = {.ino = 10, .count = 64, .vepoch = 1, .vseq = 1, .sums = {r->sums, sizeof r->sums}};
    struct read_item ri = {.ino = 10, .count = 64, .data = true};
    struct write_req w = {.items = {&wi, 1}};
    struct read_req q = {.items = {&ri, 1}};

    env_timer_set(r->env, t, env_now(r->env) + 20 * NS_PER_MS);
    if (r->stage == 2 && storage_server_busy(r->server) == 0)
        os_env_stop(r->env, 0);
    if (r->leader.stores[1] && !r->leader.table)
        fake_leader_place(&r->leader, (int[]){1, 0}, NULL);
    if (r->stage == 2 || !r->leader.table || rpc_pending(&r->call))
        return;
    r->map.pg_count = PGS;
    wi.pg = ri.pg = map_pg_of(&r->map, 10, 0);
    wi.pg_epoch = ri.pg_epoch = w.barrier = q.barrier = r->leader.epoch;
    r->call.done = real_done;
    if (r->stage == 0)
        rpc_call(r->link, &r->call, MSG_WRITE, &write_req_schema, &w, r->payload, NS_PER_S);
    else
        rpc_call(r->link, &r->call, MSG_READ, &read_req_schema, &q, NULL, NS_PER_S);
}

static void real_life(struct real *r, const char *dir, const char *meta, const char *store)
{
    const char *const metas[] = {meta};
    struct storage_config cfg = {.node = 1, .dir = dir, .listen = store, .metas = metas, .n_metas = 1};

    ck_assert_int_eq(os_env_new(NULL, &r->env), 0);
    ck_assert_int_eq(fake_leader_open(&r->leader, r->env, meta), 0);
    ck_assert_int_eq(storage_server_open(r->env, &cfg, &r->server), 0);
    ck_assert_int_eq(rpc_link_open(r->env, store, &r->tag, &r->link), 0);
    r->guard.fn = real_guard;
    r->tick.fn = real_tick;
    env_timer_set(r->env, &r->guard, env_now(r->env) + 20 * NS_PER_S);
    env_timer_set(r->env, &r->tick, env_now(r->env));
    ck_assert_int_eq(os_env_run(r->env), 0);
    env_timer_cancel(r->env, &r->guard);
    env_timer_cancel(r->env, &r->tick);
    rpc_link_close(r->link);
    storage_server_close(r->server);
    fake_leader_close(&r->leader);
    os_env_free(r->env);
}

/* The same through sockets and on a real disk, RocksDB below: written, restarted, read. */
START_TEST(real_node)
{
    char dir[] = "/tmp/tc-storage-XXXXXX", data[64], meta[64], store[64], cmd[128];
    unsigned port = 16000 + (unsigned)getpid() % 1900 * 2; /* not where other tests and the kernel take theirs */
    struct real r = {0};

    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(data, sizeof data, "%s/s", dir);
    snprintf(meta, sizeof meta, "tcp://127.0.0.1:%u", port);
    snprintf(store, sizeof store, "tcp://127.0.0.1:%u", port + 1);
    r.payload = buf_new(64 * BLOCK_SIZE);
    r.payload->len = r.payload->cap;
    for (uint32_t i = 0; i < 64; i++) {
        uint64_t sum;

        block_fill(r.payload->data + i * BLOCK_SIZE, 10, i, 1, 1);
        sum = XXH3_64bits(r.payload->data + i * BLOCK_SIZE, BLOCK_SIZE);
        memcpy(r.sums + 8 * i, &sum, 8);
    }
    real_life(&r, data, meta, store);
    r.stage = 1;
    real_life(&r, data, meta, store);
    buf_unref(r.payload);
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    ck_assert_int_eq(system(cmd), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage-server");
    TCase *t = tcase_create("all");
    SRunner *sr;
    int failed;

    log_set_sink(world_quiet, NULL);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, write_restart_read);
    tcase_add_test(t, admission);
    tcase_add_test(t, next_map_after_waiting);
    tcase_add_test(t, meant_for_another);
    tcase_add_test(t, gc);
    tcase_add_test(t, gc_sparse);
    tcase_add_test(t, sizes);
    tcase_add_test(t, sizes_of_sparse_files);
    tcase_add_test(t, wrong_directory);
    tcase_add_test(t, aside_through_power_loss);
    tcase_add_test(t, mark_through_power_loss);
    tcase_add_test(t, failing_through_power_loss);
    tcase_add_loop_test(t, aside_interrupted, 0, 2 * WAYS);
    tcase_add_test(t, disk_hangs);
    tcase_add_test(t, real_node);
    suite_add_tcase(s, t);
    sr = srunner_create(s);
    srunner_set_fork_status(sr, CK_NOFORK);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed && !getenv("CK_TAP_LOG_FILE_NAME");
}
