/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of advisory locks (locks.h) against one that has an entry for every byte, owner and family.
 */
#include <check.h>

#include "common/error.h"
#include "common/locks.h"

#define OWNERS 3
#define BYTES 24
#define TO_END (BYTES - 1) /* stands for the end of the file */

static uint8_t model[2][OWNERS][BYTES]; /* enum lock_type */
static struct lock_table t;
static uint64_t rng;

static uint32_t draw(uint32_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

static struct file_lock lock_of(uint32_t owner, uint32_t family, uint32_t type, uint32_t from, uint32_t to)
{
    /* owners 0 and 1 are of one session, 2 has the number of 0 in another */
    return (struct file_lock){.session = owner / 2, .owner = owner % 2, .family = (uint8_t)family, .type = (uint8_t)type,
                              .start = from, .end = to == TO_END ? LOCK_END : to, .pid = owner};
}

static bool model_conflict(uint32_t owner, uint32_t family, uint32_t type, uint32_t from, uint32_t to)
{
    for (uint32_t o = 0; o < OWNERS; o++) {
        for (uint32_t b = from; b <= to && o != owner; b++) {
            if (model[family][o][b] == LOCK_EXCLUSIVE || (model[family][o][b] && type == LOCK_EXCLUSIVE))
                return true;
        }
    }
    return false;
}

/* Every byte of the table is as in the model, no range twice, none that touches its like. */
static void check_table(void)
{
    uint8_t seen[2][OWNERS][BYTES] = {0};

    for (uint32_t i = 0; i < t.n; i++) {
        const struct file_lock *l = &t.locks[i];
        uint32_t owner = (uint32_t)(2 * l->session + l->owner), to = l->end == LOCK_END ? TO_END : (uint32_t)l->end;

        for (uint32_t b = (uint32_t)l->start; b <= to; b++) {
            ck_assert_uint_eq(seen[l->family][owner][b], 0);
            seen[l->family][owner][b] = l->type;
        }
        for (uint32_t k = 0; k < t.n; k++) {
            const struct file_lock *m = &t.locks[k];
            bool same = m->session == l->session && m->owner == l->owner && m->family == l->family && m->type == l->type;

            ck_assert(!same || l->end == LOCK_END || l->end + 1 != m->start);
        }
    }
    ck_assert_mem_eq(seen, model, sizeof model);
}

START_TEST(as_by_bytes)
{
    rng = (uint64_t)_i + 1;
    memset(model, 0, sizeof model);
    for (int step = 0; step < 3000; step++) {
        uint32_t owner = draw(OWNERS), family = draw(4) == 0, type = draw(3), from = draw(BYTES), to = draw(BYTES);
        struct file_lock l;
        bool conflict;

        if (from > to || (draw(4) == 0 && from < TO_END)) {
            uint32_t was = from;

            from = MIN(from, to);
            to = MAX(was, to);
        }
        if (draw(400) == 0) {
            locks_drop_session(&t, 0);
            memset(model[0], 0, 2 * BYTES);
            memset(model[1], 0, 2 * BYTES);
            check_table();
        }
        l = lock_of(owner, family, type, from, to);
        ck_assert(lock_valid(&l));
        conflict = type != LOCK_UNLOCK && model_conflict(owner, family, type, from, to);
        ck_assert_int_eq(locks_conflict(&t, &l) != NULL, conflict);
        if (conflict)
            continue;
        ck_assert_int_eq(locks_set(&t, &l), 0);
        memset(&model[family][owner][from], (int)type, to - from + 1);
        check_table();
        for (uint32_t o = 0; o < OWNERS; o++) {
            bool any = false;

            for (uint32_t b = 0; b < BYTES; b++)
                any = any || model[family][o][b];
            ck_assert_int_eq(locks_owned(&t, o / 2, o % 2, family), any);
        }
    }
    locks_fini(&t);
}
END_TEST

/* A table has an end: what is there stays, and can be unlocked whatever the size. */
START_TEST(full)
{
    struct file_lock l = {.type = LOCK_EXCLUSIVE}, all = {.end = LOCK_END};
    uint32_t n = 0;
    int r;

    for (;; n++) {
        l.start = l.end = 2 * (uint64_t)n;
        r = locks_set(&t, &l);
        if (r < 0)
            break;
    }
    ck_assert_int_eq(r, -TC_E_LIMIT);
    ck_assert_uint_eq(t.n, n);
    ck_assert_uint_gt(n, LOCKS_MAX - 3);
    ck_assert_int_eq(locks_set(&t, &all), 0);
    ck_assert_uint_eq(t.n, 0);
    locks_fini(&t);
}
END_TEST

START_TEST(nonsense)
{
    struct file_lock l = {.start = 5, .end = 4};

    ck_assert(!lock_valid(&l));
    l = (struct file_lock){.end = 4, .type = 3};
    ck_assert(!lock_valid(&l));
    l = (struct file_lock){.end = 4, .family = 2};
    ck_assert(!lock_valid(&l));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("locks");
    TCase *tc = tcase_create("all");
    SRunner *r;

    tcase_add_loop_test(tc, as_by_bytes, 0, 4);
    tcase_add_test(tc, full);
    tcase_add_test(tc, nonsense);
    suite_add_tcase(suite, tc);
    r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    srunner_free(r);
    return 0;
}
