/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The planner as its user sees it: a table of groups, stores with roles, and what it asks for until nothing is left.
 * Every copy "arrives" when the test says so.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "meta/placement.h"

#define PGS 256u
#define TIB (UINT64_C(1) << 40)

static struct placement_store s[8];
static uint32_t n_stores;
static struct map_pg pgs[PGS];
static uint8_t why[PGS];
static uint64_t former[PGS];
static uint32_t begun, called_off; /* moves asked for since the last reset */

static void stores(uint32_t n, const char *const *zones)
{
    n_stores = n;
    for (uint32_t i = 0; i < n; i++)
        s[i] = (struct placement_store){.store = 10 * (i + 1), .zone = zones ? zones[i] : NULL, .capacity = TIB,
                                        .alive = true};
}

static void table(uint32_t n)
{
    uint64_t voters[PGS * 3];

    ck_assert_int_eq(placement_compute(s, n, 3, PGS, voters), 0);
    memset(why, 0, sizeof why);
    memset(former, 0, sizeof former);
    for (uint32_t i = 0; i < PGS; i++) {
        pgs[i] = (struct map_pg){.epoch = 1, .n = 3};
        memcpy(pgs[i].voters, voters + 3 * i, 3 * sizeof(*voters));
    }
}

/* One call, and what it asks for done. The number of moves. */
static uint32_t plan(void)
{
    struct placement_task t = {.stores = s, .n_stores = n_stores, .n = 3, .quorum = 2, .pgs = pgs, .pg_count = PGS,
                               .why = why, .former = former, .moving_max = 32};
    struct placement_plan p;
    uint32_t n;

    placement_plan(&t, &p);
    for (uint32_t i = 0; i < p.n_moves; i++) {
        struct map_pg *pg = &pgs[p.moves[i].pg];

        ck_assert(p.moves[i].n_next == 0 || p.moves[i].n_next == 3);
        ck_assert(p.moves[i].n_next || pg->n_next);
        begun += p.moves[i].n_next > 0;
        called_off += p.moves[i].n_next == 0;
        pg->n_next = p.moves[i].n_next;
        memcpy(pg->next, p.moves[i].next, sizeof pg->next);
        why[p.moves[i].pg] = p.moves[i].reason;
        for (int a = 0; a < p.moves[i].n_next; a++) {
            for (int b = 0; b < a; b++)
                ck_assert_uint_ne(pg->next[a], pg->next[b]);
        }
    }
    n = p.n_moves;
    placement_plan_fini(&p);
    return n;
}

/* Copies arrive, at most @max. */
static void arrive(uint32_t max)
{
    for (uint32_t i = 0; i < PGS && max; i++) {
        if (!pgs[i].n_next)
            continue;
        for (int v = 0; v < 3; v++) {
            bool stays = false;

            for (int k = 0; k < 3; k++)
                stays = stays || pgs[i].next[k] == pgs[i].voters[v];
            if (!stays)
                former[i] = pgs[i].voters[v];
        }
        memcpy(pgs[i].voters, pgs[i].next, sizeof pgs[i].next);
        pgs[i].n_next = 0;
        max--;
    }
}

static uint32_t held(uint64_t store)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < PGS; i++) {
        for (int v = 0; v < 3; v++)
            n += pgs[i].voters[v] == store;
    }
    return n;
}

static uint32_t moving(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < PGS; i++)
        n += pgs[i].n_next > 0;
    return n;
}

static void settle(void)
{
    begun = called_off = 0;
    for (int round = 0; round < 200; round++) {
        if (plan() == 0 && moving() == 0)
            return;
        arrive(PGS);
    }
    ck_abort_msg("the planner comes to no end");
}

/* A table that is right asks for nothing. */
START_TEST(test_rest)
{
    stores(5, NULL);
    table(5);
    ck_assert_uint_eq(plan(), 0);
}
END_TEST

/* A new store gets its share and nothing else moves: as many moves as groups it has. */
/* Disks of less than a GiB and of petabytes alike: groups follow capacity, from the first table and by balance. */
START_TEST(test_capacity)
{
    static const uint32_t want[] = {PGS * 3 / 12, PGS * 3 / 6, PGS * 3 / 4, PGS * 3 / 3, PGS * 3 / 6};
    static const uint32_t parts[] = {1, 2, 3, 4, 2};

    for (unsigned shift = 26; shift <= 48; shift += 11) {
        stores(5, NULL);
        for (int i = 0; i < 5; i++)
            s[i].capacity = (uint64_t)parts[i] << shift;
        table(5);
        settle();
        for (int i = 0; i < 5; i++) {
            ck_assert_uint_le(held(s[i].store), want[i] + 4);
            ck_assert_uint_ge(held(s[i].store) + 4, want[i]);
        }
        for (int i = 0; i < 5; i++)
            s[i].capacity = (uint64_t)parts[4 - i] << shift;
        settle();
        for (int i = 0; i < 5; i++) {
            ck_assert_uint_le(held(s[i].store), want[4 - i] + 6);
            ck_assert_uint_ge(held(s[i].store) + 6, want[4 - i]);
        }
    }
}
END_TEST

START_TEST(test_add)
{
    stores(5, NULL);
    table(4);
    settle();
    ck_assert_uint_ge(held(50), 3 * PGS / 5 - 6);
    ck_assert_uint_le(held(50), 3 * PGS / 5 + 6);
    ck_assert_uint_eq(begun, held(50));
    stores(5, NULL);
    s[4].capacity = TIB / 2;
    table(4);
    settle();
    ck_assert_uint_le(held(50), 3 * PGS / 9 + 6);
    ck_assert_uint_ge(held(50), 3 * PGS / 9 - 6);
}
END_TEST

/* A drained store is emptied, a few groups at a time, each moved once; called off, what was under way ends. */
START_TEST(test_drain)
{
    uint32_t had;

    stores(5, NULL);
    table(5);
    had = held(30);
    s[2].role = PLACEMENT_OUT;
    ck_assert_uint_eq(plan(), 32);
    ck_assert_uint_eq(plan(), 0);
    s[2].role = PLACEMENT_LIVE;
    begun = called_off = 0;
    ck_assert_uint_eq(plan(), 32);
    ck_assert_uint_eq(called_off, 32);
    ck_assert_uint_eq(moving(), 0);
    s[2].role = PLACEMENT_OUT;
    settle();
    ck_assert_uint_eq(held(30), 0);
    ck_assert_uint_eq(begun, had);
}
END_TEST

/* A dead store's groups all move at once; when it is back in the middle the rest is called off, and balance brings back
 * only as many as it lacks, of those that it had. */
START_TEST(test_dead_and_back)
{
    uint32_t had;

    stores(5, NULL);
    table(5);
    had = held(20);
    s[1].alive = false;
    s[1].role = PLACEMENT_KEEP;
    ck_assert_uint_eq(plan(), 0);
    s[1].role = PLACEMENT_OUT;
    ck_assert_uint_eq(plan(), had);
    arrive(40);
    s[1].alive = true;
    s[1].role = PLACEMENT_LIVE;
    settle();
    ck_assert_uint_eq(called_off, had - 40);
    ck_assert_uint_le(begun, 40);
    ck_assert_uint_ge(held(20), had - 6);
    for (uint32_t i = 0; i < PGS; i++) {
        for (int v = 0; v < 3; v++)
            ck_assert(pgs[i].voters[v] != 20 || former[i] != 20 || why[i] != PLACEMENT_UNKNOWN);
    }
}
END_TEST

/* Two dead: groups that lost two of three wait for a quorum, those with two left are served; nothing is balanced. */
START_TEST(test_second_failure)
{
    stores(5, NULL);
    table(5);
    s[0].alive = false;
    s[0].role = PLACEMENT_OUT;
    plan();
    s[1].alive = false;
    s[1].role = PLACEMENT_OUT;
    plan(); /* spares of the first that are on the second are replaced at once */
    for (uint32_t i = 0; i < PGS; i++) {
        uint32_t lost = 0;

        for (int v = 0; v < 3; v++)
            lost += pgs[i].voters[v] <= 20;
        for (int v = 0; v < pgs[i].n_next && lost < 2; v++)
            ck_assert_uint_gt(pgs[i].next[v], 20);
        ck_assert(lost != 1 || pgs[i].n_next == 3);
    }
    arrive(PGS);
    s[1].alive = true;
    s[1].role = PLACEMENT_LIVE;
    settle();
    ck_assert_uint_eq(held(10), 0);
    ck_assert_uint_gt(held(20), 0);
}
END_TEST

/* A store whose disk fails still answers: its groups move all at once, where those of a drained one take turns. */
START_TEST(test_failing_disk)
{
    for (int failing = 0; failing < 2; failing++) {
        struct placement_task t = {.stores = s, .n_stores = 5, .n = 3, .quorum = 2, .pgs = pgs, .pg_count = PGS,
                                   .moving_max = 32};
        struct placement_plan p;

        stores(5, NULL);
        table(5);
        s[0].role = PLACEMENT_OUT;
        s[0].failing = failing;
        placement_plan(&t, &p);
        ck_assert_uint_eq(p.n_moves, failing ? held(10) : 32);
        placement_plan_fini(&p);
    }
}
END_TEST

/* Groups with the fewest live copies first (n=3 and a quorum of one to have three classes): the next wait. */
START_TEST(test_endangered_first)
{
    struct placement_task t = {.stores = s, .n_stores = 7, .n = 3, .quorum = 1, .pgs = pgs, .pg_count = PGS,
                               .moving_max = 32};
    struct placement_plan p;

    stores(7, NULL);
    table(7);
    for (int i = 0; i < 2; i++) {
        s[i].alive = false;
        s[i].role = PLACEMENT_OUT;
    }
    placement_plan(&t, &p);
    ck_assert_uint_gt(p.n_moves, 0);
    ck_assert_uint_gt(p.waiting, 0);
    for (uint32_t i = 0; i < p.n_moves; i++) {
        uint32_t lost = 0;

        for (int v = 0; v < 3; v++)
            lost += pgs[p.moves[i].pg].voters[v] <= 20;
        ck_assert_uint_eq(lost, 2);
    }
    placement_plan_fini(&p);
}
END_TEST

/* Copies go to different zones whenever there are enough: with a spare, a drain, a new zone. */
START_TEST(test_zones)
{
    static const char *const zones[] = {"a", "a", "b", "b", "c", "c"};

    stores(6, zones);
    table(6);
    s[4].role = PLACEMENT_OUT;
    s[4].alive = false;
    settle();
    for (uint32_t i = 0; i < PGS; i++) {
        uint32_t seen = 0;

        for (int v = 0; v < 3; v++)
            seen |= 1u << ((pgs[i].voters[v] / 10 - 1) / 2);
        ck_assert_uint_eq(seen, 7);
    }
    stores(5, zones); /* zone c comes last: all groups have two copies in a or in b */
    table(4);
    settle();
    for (uint32_t i = 0; i < PGS; i++) {
        uint32_t seen = 0;

        for (int v = 0; v < 3; v++)
            seen |= 1u << ((pgs[i].voters[v] / 10 - 1) / 2);
        ck_assert_uint_eq(seen, 7);
    }
}
END_TEST

/* In maintenance, or with no spare: nothing moves. What cannot be is counted as stuck, and not tried for ever. */
START_TEST(test_nothing_to_do)
{
    stores(4, NULL);
    table(4);
    s[3].role = PLACEMENT_KEEP;
    s[3].alive = false;
    ck_assert_uint_eq(plan(), 0);
    stores(3, NULL);
    table(3);
    s[1].role = PLACEMENT_OUT;
    s[1].alive = false;
    ck_assert_uint_eq(plan(), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("placement");
    TCase *tc = tcase_create("plan");
    SRunner *r;

    tcase_add_test(tc, test_rest);
    tcase_add_test(tc, test_capacity);
    tcase_add_test(tc, test_add);
    tcase_add_test(tc, test_drain);
    tcase_add_test(tc, test_dead_and_back);
    tcase_add_test(tc, test_second_failure);
    tcase_add_test(tc, test_failing_disk);
    tcase_add_test(tc, test_endangered_first);
    tcase_add_test(tc, test_zones);
    tcase_add_test(tc, test_nothing_to_do);
    suite_add_tcase(suite, tc);
    r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    srunner_free(r);
    return 0;
}
