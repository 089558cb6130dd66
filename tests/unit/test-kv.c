/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key-value stores: random batches, gets, scans, snapshots, flushes and reopenings run on each
 * implementation and on a sorted array, and every answer is compared. Then what a store says about
 * files that are damaged, too new, or in use.
 */
#include <check.h>
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/kv.h"
#include "common/log.h"
#include "unit/wire-gen.h"

enum { MODEL_MAX = 4096, KEY_MAX = 6, VALUE_MAX = 40 };

struct pair {
    uint8_t key[KEY_MAX], value[VALUE_MAX];
    size_t key_len, value_len;
};

struct model {
    struct pair pairs[MODEL_MAX];
    size_t n;
};

static struct slice key_of(const struct pair *p)
{
    return slice_of(p->key, p->key_len);
}

static size_t model_find(const struct model *m, struct slice key) /* first >= key */
{
    size_t i = 0;

    while (i < m->n && slice_cmp(key_of(&m->pairs[i]), key) < 0)
        i++;
    return i;
}

static void model_del_range(struct model *m, struct slice from, struct slice to)
{
    size_t a = model_find(m, from), b = model_find(m, to);

    if (a >= b)
        return;
    memmove(&m->pairs[a], &m->pairs[b], (m->n - b) * sizeof m->pairs[0]);
    m->n -= b - a;
}

static void model_del(struct model *m, struct slice key)
{
    size_t i = model_find(m, key);

    if (i == m->n || slice_cmp(key_of(&m->pairs[i]), key) != 0)
        return;
    memmove(&m->pairs[i], &m->pairs[i + 1], (m->n - i - 1) * sizeof m->pairs[0]);
    m->n--;
}

static void model_put(struct model *m, const struct pair *p)
{
    size_t i;

    model_del(m, key_of(p));
    i = model_find(m, key_of(p));
    ck_assert_uint_lt(m->n, MODEL_MAX);
    memmove(&m->pairs[i + 1], &m->pairs[i], (m->n - i) * sizeof m->pairs[0]);
    m->pairs[i] = *p;
    m->n++;
}

static void gen_pair(uint64_t *seed, struct pair *p)
{
    static const uint8_t letters[] = {0, 1, 'a', 'b', 'c', 0x7f, 0x80, 0xff};

    p->key_len = 1 + gen_random(seed) % KEY_MAX;
    for (size_t i = 0; i < p->key_len; i++)
        p->key[i] = letters[gen_random(seed) % ARRAY_SIZE(letters)];
    p->value_len = gen_random(seed) % VALUE_MAX;
    for (size_t i = 0; i < p->value_len; i++)
        p->value[i] = (uint8_t)gen_random(seed);
}

/* ---- one store under test -------------------------------------------------------------------- */

struct world {
    bool rocks;
    char dir[64];
    struct kv *kv;
    struct model now, flushed;
    struct kv_snapshot *snap;
    struct model snapped;
    uint64_t seed;
};

static int store_open(bool rocks, const char *path, struct kv **ret_kv)
{
    struct kv_options opt = {.cache_bytes = 1 << 20, .buffer_bytes = 1 << 20};

    return rocks ? kv_open_rocks(path, &opt, ret_kv) : kv_open_mem(vfs_posix(), path, ret_kv);
}

static int store_destroy(bool rocks, const char *path)
{
    return rocks ? kv_destroy_rocks(path) : kv_destroy_mem(vfs_posix(), path);
}

static void dir_make(char *dir, size_t size)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, size, "%s/test-kv.XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    ASSERT(mkdtemp(dir) != NULL);
}

static int dir_remove_name(void *arg, const char *name)
{
    char *full = tc_asprintf("%s/%s", (const char *)arg, name);

    ASSERT(unlink(full) == 0);
    free(full);
    return 0;
}

static void dir_remove(char *dir)
{
    ASSERT(vfs_list(vfs_posix(), dir, dir_remove_name, dir) == 0);
    ASSERT(rmdir(dir) == 0);
}

static void compare_scan(struct world *w, const struct model *m, struct kv_snapshot *snap)
{
    struct pair from, to, seek;
    bool has_from = gen_random(&w->seed) % 2, has_to = gen_random(&w->seed) % 2;
    struct slice lo = {0}, hi = {0};
    struct kv_iter *it;
    size_t i = 0, end = m->n;

    gen_pair(&w->seed, &from);
    gen_pair(&w->seed, &to);
    gen_pair(&w->seed, &seek);
    if (has_from)
        lo = key_of(&from);
    if (has_to)
        hi = key_of(&to);
    if (has_from && has_to && slice_cmp(lo, hi) > 0)
        return;
    if (has_from)
        i = model_find(m, lo);
    if (has_to)
        end = model_find(m, hi);
    it = kv_iter_new(w->kv, snap, lo, hi);
    from.key[0] = to.key[0] = 0x55; /* bounds are not borrowed */
    if (gen_random(&w->seed) % 3 == 0) {
        kv_iter_seek(it, key_of(&seek));
        i = MAX(i, model_find(m, key_of(&seek)));
    }
    for (; i < end; i++) {
        const struct pair *p = &m->pairs[i];

        ck_assert(kv_iter_valid(it));
        ck_assert_int_eq(slice_cmp(kv_iter_key(it), key_of(p)), 0);
        ck_assert_int_eq(slice_cmp(kv_iter_value(it), slice_of(p->value, p->value_len)), 0);
        kv_iter_next(it);
    }
    ck_assert(!kv_iter_valid(it));
    ck_assert_int_eq(kv_iter_error(it), 0);
    kv_iter_free(it);
}

static void compare_get(struct world *w)
{
    struct pair p;
    struct kv_value v = {0};
    size_t i;
    int r;

    gen_pair(&w->seed, &p);
    if (w->now.n && gen_random(&w->seed) % 2)
        p = w->now.pairs[gen_random(&w->seed) % w->now.n];
    i = model_find(&w->now, key_of(&p));
    r = kv_get(w->kv, key_of(&p), &v);
    if (i == w->now.n || slice_cmp(key_of(&w->now.pairs[i]), key_of(&p)) != 0) {
        ck_assert_int_eq(r, -TC_E_NOENT);
        return;
    }
    ck_assert_int_eq(r, 0);
    ck_assert_int_eq(slice_cmp(slice_of(v.data, v.len), slice_of(w->now.pairs[i].value,
                                                                 w->now.pairs[i].value_len)), 0);
    kv_value_free(&v);
}

static void write_batch(struct world *w, struct kv_batch *b)
{
    size_t n = gen_random(&w->seed) % 20;

    for (size_t i = 0; i < n; i++) {
        struct pair p, q;
        uint64_t kind = gen_random(&w->seed) % 16;

        gen_pair(&w->seed, &p);
        gen_pair(&w->seed, &q);
        if (kind < 10) {
            kv_batch_put(b, key_of(&p), slice_of(p.value, p.value_len));
            model_put(&w->now, &p);
        } else if (kind < 15) {
            kv_batch_del(b, key_of(&p));
            model_del(&w->now, key_of(&p));
        } else {
            q = p; /* a short range */
            q.key[0]++;
            kv_batch_del_range(b, key_of(&p), key_of(&q));
            model_del_range(&w->now, key_of(&p), key_of(&q));
        }
    }
    ck_assert_uint_le(kv_batch_count(b), n);
    ck_assert_int_eq(kv_write(w->kv, b), 0);
    ck_assert_uint_eq(kv_batch_count(b), 0);
}

static void drop_snapshot(struct world *w)
{
    kv_snapshot_free(w->kv, w->snap);
    w->snap = NULL;
}

static void step(struct world *w, struct kv_batch **b)
{
    uint64_t kind = gen_random(&w->seed) % 100;

    if (kind < 50) {
        write_batch(w, *b);
    } else if (kind < 80) {
        for (int i = 0; i < 10; i++)
            compare_get(w);
    } else if (kind < 92) {
        compare_scan(w, &w->now, NULL);
        if (w->snap)
            compare_scan(w, &w->snapped, w->snap);
    } else if (kind < 95) {
        drop_snapshot(w);
        w->snap = kv_snapshot_new(w->kv);
        w->snapped = w->now;
    } else if (kind < 98) {
        ck_assert_int_eq(kv_flush(w->kv), 0);
        w->flushed = w->now;
    } else {
        drop_snapshot(w);
        kv_batch_free(*b);
        kv_close(w->kv);
        ck_assert_int_eq(store_open(w->rocks, w->dir, &w->kv), 0);
        *b = kv_batch_new(w->kv);
        w->now = w->flushed;
    }
}

static void run_world(bool rocks, uint64_t seed, int steps)
{
    struct world *w = tc_calloc(1, sizeof *w);
    struct kv_batch *b;
    struct kv_stats stats;

    w->rocks = rocks;
    w->seed = seed;
    dir_make(w->dir, sizeof w->dir);
    ck_assert_int_eq(store_open(rocks, w->dir, &w->kv), 0);
    b = kv_batch_new(w->kv);
    for (int i = 0; i < steps; i++)
        step(w, &b);
    kv_stats(w->kv, &stats);
    ck_assert_uint_gt(stats.memory, 0);
    drop_snapshot(w);
    kv_batch_free(b);
    kv_close(w->kv);
    ck_assert_int_eq(store_destroy(rocks, w->dir), 0);
    ck_assert_int_eq(store_open(rocks, w->dir, &w->kv), 0); /* empty again */
    w->now.n = 0;
    compare_scan(w, &w->now, NULL);
    kv_close(w->kv);
    ck_assert_int_eq(store_destroy(rocks, w->dir), 0);
    dir_remove(w->dir);
    free(w);
}

START_TEST(random_mem)
{
    run_world(false, 1 + (uint64_t)_i, 1000);
}
END_TEST

START_TEST(random_rocks)
{
    run_world(true, 1 + (uint64_t)_i, 600);
}
END_TEST

/* ---- rows that come and go ------------------------------------------------------------------- */

enum { QUEUE = 6000, QUEUE_LONG = 10 };

static struct slice queue_key(uint8_t key[8], unsigned i)
{
    memcpy(key, "q\0\0\0\0\0\0\0", 8);
    key[6] = (uint8_t)(i >> 8);
    key[7] = (uint8_t)i;
    return slice_of(key, 8);
}

/* A window that moves on, through checkpoints and restarts: what was removed once stays away, the rest is there. */
static void queue_run(bool rocks)
{
    struct kv_batch *b;
    char dir[64];
    uint8_t key[8];
    struct kv *kv;

    dir_make(dir, sizeof dir);
    ck_assert_int_eq(store_open(rocks, dir, &kv), 0);
    for (unsigned i = 0; i < QUEUE; i++) {
        b = kv_batch_new(kv);
        kv_batch_put(b, queue_key(key, i), slice_of("value", 5));
        if (i >= QUEUE_LONG)
            kv_batch_del_once(b, queue_key(key, i - QUEUE_LONG));
        ck_assert_int_eq(kv_write(kv, b), 0);
        kv_batch_free(b);
        if (i % 700 == 699)
            ck_assert_int_eq(kv_flush(kv), 0);
        if (i % 2100 == 2099) {
            kv_close(kv);
            ck_assert_int_eq(store_open(rocks, dir, &kv), 0);
        }
        if (i % 500 == 499) {
            struct kv_iter *it = kv_iter_new(kv, NULL, slice_of("q", 1), slice_of("r", 1));

            for (unsigned k = i + 1 - QUEUE_LONG; k <= i; k++, kv_iter_next(it))
                ck_assert(kv_iter_valid(it) && slice_cmp(kv_iter_key(it), queue_key(key, k)) == 0);
            ck_assert(!kv_iter_valid(it));
            kv_iter_free(it);
        }
    }
    kv_close(kv);
    dir_remove(dir);
}

START_TEST(queue_mem)
{
    queue_run(false);
}
END_TEST

START_TEST(queue_rocks)
{
    queue_run(true);
}
END_TEST

/* ---- errors ---------------------------------------------------------------------------------- */

static void change_byte(const char *dir, const char *name, uint64_t off)
{
    char *full = tc_asprintf("%s/%s", dir, name);
    struct vfs_file *f;
    uint8_t c;

    ck_assert_int_eq(vfs_open(vfs_posix(), full, VFS_RDWR, &f), 0);
    ck_assert_int_eq(vfs_pread(f, &c, 1, off), 1);
    c ^= 0x0f;
    ck_assert_int_eq(vfs_pwrite(f, &c, 1, off), 0);
    vfs_close(f);
    free(full);
}

/* As whoever wrote it would have: the last eight bytes are the checksum of the others. */
static void sum_anew(const char *dir, const char *name)
{
    char *full = tc_asprintf("%s/%s", dir, name);
    struct vfs_file *f;
    uint8_t data[4096];
    uint64_t sum;
    int64_t n;

    ck_assert_int_eq(vfs_open(vfs_posix(), full, VFS_RDWR, &f), 0);
    n = vfs_pread(f, data, sizeof data, 0);
    ck_assert(n > 8 && n < (int64_t)sizeof data);
    sum = htole64(XXH3_64bits(data, (size_t)n - 8));
    ck_assert_int_eq(vfs_pwrite(f, &sum, 8, (uint64_t)n - 8), 0);
    vfs_close(f);
    free(full);
}

static void put_one(struct kv *kv)
{
    struct kv_batch *b = kv_batch_new(kv);

    kv_batch_put(b, slice_of("key", 3), slice_of("value", 5));
    ck_assert_int_eq(kv_write(kv, b), 0);
    kv_batch_free(b);
}

START_TEST(mem_errors)
{
    char dir[64];
    struct kv *kv;

    dir_make(dir, sizeof dir);
    ck_assert_int_eq(store_open(false, dir, &kv), 0);
    put_one(kv);
    ck_assert_int_eq(kv_flush(kv), 0);
    kv_close(kv);
    for (uint64_t off = 0; off < 40; off++) {
        change_byte(dir, "kv", off);
        ck_assert_int_eq(store_open(false, dir, &kv), -TC_E_DAMAGED);
        change_byte(dir, "kv", off);
    }
    ck_assert_int_eq(store_open(false, dir, &kv), 0);
    kv_close(kv);
    change_byte(dir, "kv", 7);
    sum_anew(dir, "kv");
    ck_assert_int_eq(store_open(false, dir, &kv), -TC_E_VERSION);
    dir_remove(dir);
}
END_TEST

START_TEST(rocks_errors)
{
    char dir[64], *name;
    struct kv *kv, *second;

    dir_make(dir, sizeof dir);
    name = tc_asprintf("%s/FORMAT", dir);
    ck_assert_int_eq(store_open(true, dir, &kv), 0);
    kv_close(kv);
    ck_assert_int_eq(unlink(name), 0); /* what power may take of a store that holds nothing */
    ck_assert_int_eq(store_open(true, dir, &kv), 0);
    ck_assert_int_eq(access(name, F_OK), 0);
    ck_assert_int_eq(store_open(true, dir, &second), -TC_E_LOCKED_DIR);
    put_one(kv);
    ck_assert_int_eq(kv_flush(kv), 0);
    kv_close(kv);
    change_byte(dir, "FORMAT", 10);
    ck_assert_int_eq(store_open(true, dir, &kv), -TC_E_VERSION);
    change_byte(dir, "FORMAT", 10);
    change_byte(dir, "FORMAT", 0);
    ck_assert_int_eq(store_open(true, dir, &kv), -TC_E_DAMAGED);
    change_byte(dir, "FORMAT", 0);
    change_byte(dir, "CURRENT", 0);
    ck_assert_int_eq(store_open(true, dir, &kv), -TC_E_DAMAGED);
    change_byte(dir, "CURRENT", 0);
    ck_assert_int_eq(unlink(name), 0);
    ck_assert_int_eq(store_open(true, dir, &kv), -TC_E_DAMAGED);
    free(name);
    ck_assert_int_eq(kv_destroy_rocks(dir), 0);
    ck_assert_int_eq(store_open(true, dir, &kv), 0);
    kv_close(kv);
    ck_assert_int_eq(kv_destroy_rocks(dir), 0);
    dir_remove(dir);
}
END_TEST

static void no_log(void *arg TC_UNUSED, const char *line TC_UNUSED)
{
}

/* With --bench: many small rows, as the metadata server has them. */
static void bench(bool rocks, uint64_t rows)
{
    char dir[64];
    struct timespec t0, t1, t2, t3;
    struct kv_value v = {0};
    struct kv_batch *b;
    struct kv *kv;
    uint64_t seed = 1;

    dir_make(dir, sizeof dir);
    if ((rocks ? kv_open_rocks(dir, NULL, &kv) : kv_open_mem(vfs_posix(), dir, &kv)) < 0)
        abort();
    b = kv_batch_new(kv);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (uint64_t i = 0; i < rows; i++) {
        uint64_t key = __builtin_bswap64(i);
        uint8_t value[200] = {1};

        kv_batch_put(b, slice_of(&key, 8), slice_of(value, sizeof value));
        if (kv_write(kv, b) < 0)
            abort();
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    if (kv_flush(kv) < 0)
        abort();
    clock_gettime(CLOCK_MONOTONIC, &t2);
    for (uint64_t i = 0; i < rows; i++) {
        uint64_t key = __builtin_bswap64(gen_random(&seed) % rows);

        if (kv_get(kv, slice_of(&key, 8), &v) < 0)
            abort();
        kv_value_free(&v);
    }
    clock_gettime(CLOCK_MONOTONIC, &t3);
#define SECONDS(a, b) ((double)((b).tv_sec - (a).tv_sec) + (double)((b).tv_nsec - (a).tv_nsec) / 1e9)
    printf("%s: write %.2f us, flush %.2f s, get %.2f us\n", rocks ? "rocks" : "mem",
           SECONDS(t0, t1) * 1e6 / (double)rows, SECONDS(t1, t2),
           SECONDS(t2, t3) * 1e6 / (double)rows);
    kv_batch_free(b);
    kv_close(kv);
    (void)store_destroy(rocks, dir);
    dir_remove(dir);
}

int main(int argc, char **argv)
{
    Suite *s = suite_create("kv");
    TCase *tc = tcase_create("kv");
    SRunner *r;
    int failed;

    if (argc > 2 && strcmp(argv[1], "--bench") == 0) {
        bench(false, strtoull(argv[2], NULL, 10));
        bench(true, strtoull(argv[2], NULL, 10));
        return 0;
    }
    log_set_sink(no_log, NULL); /* errors are provoked here */
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, random_mem, 0, 8);
    tcase_add_loop_test(tc, random_rocks, 0, 4);
    tcase_add_test(tc, queue_mem);
    tcase_add_test(tc, queue_rocks);
    tcase_add_test(tc, mem_errors);
    tcase_add_test(tc, rocks_errors);
    suite_add_tcase(s, tc);
    r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* RocksDB's threads do not survive a fork */
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
