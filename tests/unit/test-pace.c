/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies behind clients (pace.h), on a disk that is a formula: a client's request takes longer the more chunks are
 * copied at once.
 */
#include <check.h>

#include "storage/pace.h"

#define MS NS_PER_MS

static struct pace p;
static uint64_t now;

/* For @ms, a request every 2 ms, of @base_us and for each chunk copied at once above @free_chunks @more_us. Returns the
 * mean in us of the later half. */
static uint64_t serve(uint64_t ms, uint64_t base_us, uint64_t free_chunks, uint64_t more_us, bool copying)
{
    uint64_t sum = 0, n = 0;

    for (uint64_t i = 0; i < ms / 2; i++) {
        uint64_t window = pace_window(&p, now), above = 0, us;

        if (copying && window > free_chunks * PACE_ONE)
            above = (window - free_chunks * PACE_ONE) * more_us / PACE_ONE;
        us = base_us + above;
        now += 2 * MS;
        pace_client(&p, now);
        if (copying)
            pace_copied(&p, now);
        pace_served(&p, PACE_WRITE, now, us * 1000);
        if (i >= ms / 4) {
            sum += us;
            n++;
        }
    }
    return sum / n;
}

static void begin(void)
{
    pace_init(&p);
    now = 1000 * MS;
}

/* Nobody is served: at full speed, and again as soon as nobody is. */
START_TEST(alone)
{
    begin();
    ck_assert_uint_eq(pace_window(&p, now), PACE_MAX);
    serve(1000, 2000, 0, 0, false);
    serve(1000, 2000, 0, 50000, true);
    ck_assert_uint_eq(pace_window(&p, now), PACE_MIN);
    now += 300 * MS;
    ck_assert_uint_eq(pace_window(&p, now), PACE_MAX);
    ck_assert_uint_eq(pace_pause(&p, now, MS), 0);
}
END_TEST

/* Clients who do not feel it: at full speed, whatever their requests take by themselves. */
START_TEST(not_felt)
{
    begin();
    serve(2000, 40000, 0, 0, false);
    serve(2000, 41000, 0, 0, true);
    ck_assert_uint_eq(pace_window(&p, now), PACE_MAX);
}
END_TEST

/* The disk takes some copies unnoticed: about so many are made. */
START_TEST(behind)
{
    uint64_t us;

    begin();
    serve(2000, 2000, 0, 0, false);
    us = serve(5000, 2000, 4, 2000, true);
    ck_assert_uint_lt(us, 3 * 2000 + 3000);
    ck_assert_uint_ge(pace_window(&p, now), 2 * PACE_ONE);
    ck_assert_uint_lt(pace_window(&p, now), 12 * PACE_ONE);
    serve(3000, 2000, 16, 0, true); /* it was somebody else: all goes on */
    ck_assert_uint_eq(pace_window(&p, now), PACE_MAX);
}
END_TEST

/* A disk that is slow however little is copied: a quarter of the time remains for copies. */
START_TEST(never_nothing)
{
    begin();
    serve(2000, 2000, 0, 0, false);
    serve(2000, 100000, 0, 0, true);
    ck_assert_uint_eq(pace_window(&p, now), PACE_MIN);
    ck_assert_uint_eq(pace_pause(&p, now, 10 * MS), 30 * MS);
    ck_assert_uint_le(pace_pause(&p, now, 5000 * MS), 500 * MS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pace");
    TCase *tc = tcase_create("all");
    SRunner *r;

    tcase_add_test(tc, alone);
    tcase_add_test(tc, not_felt);
    tcase_add_test(tc, behind);
    tcase_add_test(tc, never_nothing);
    suite_add_tcase(suite, tc);
    r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    srunner_free(r);
    return 0;
}
