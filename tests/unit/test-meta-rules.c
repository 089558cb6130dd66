/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short scripts for sentences of PROTOCOL 1.8, 2 and 3 about what a leader does: each fails when its rule is turned off
 * (docs/SIMULATION.md).
 */
#include "unit/meta-world.h"

#include <stdio.h>

#include "common/log.h"

static int status_of(struct client *c, uint64_t ino)
{
    struct getattr_req req = {.ino = ino};
    struct entry_res res;

    return ASK(c, MSG_GETATTR, getattr_req, req, entry_res, &res);
}

static void next_leader(void)
{
    member_kill((unsigned)leader());
    ck_assert(sim_run(s, in_ms(3000), has_leader, NULL));
}

/* From member @lead to the others everything takes @ms. */
static void lag(int lead, uint64_t ms)
{
    for (unsigned i = 0; i < MEMBERS; i++) {
        if ((int)i != lead)
            sim_net_lag(s, members[lead].node, members[i].node, ms * NS_PER_MS);
    }
}

/* 1.8: without its lease a leader answers no request that may be given a grant. */
START_TEST(grants_need_the_lease)
{
    struct lookup_req lookup = {.parent = INO_ROOT, .name = wire_str_of("f"), .want = LEASE_S};
    struct entry_res made = make(A, "f", 0), res;
    int lead = leader();

    lag(lead, 245); /* answers come when the lease is over: 240 ms */
    sim_run_until(s, in_ms(600));
    expect(B, post(B, MSG_LOOKUP, &lookup_req_schema, &lookup));
    sim_run_until(s, in_ms(1000));
    ck_assert(!B->answered);
    lag(lead, 0);
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 2000), 0);
    ck_assert_uint_eq(res.attr.ino, made.attr.ino);
    ck_assert(res.has_grant);
}
END_TEST

/* 2.2: who comes an hour late is still told what became of its requests. */
START_TEST(replies_stay)
{
    struct entry_res made = make(A, "f", LEASE_X), res;
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_X};
    uint64_t seq = A->seq;
    struct fate_req req = {.old_session = A->session, .seqs = {&seq, 1}};
    struct fate_res fate;

    A->silent = true;
    ck_assert_int_eq(ask_for(B, MSG_LEASE_GET_X, &lease_get_req_schema, &get, &entry_res_schema, &res, 15000), 0);
    sim_run_until(s, in_ms(150000));
    ck_assert_int_eq(ASK(B, MSG_FATE, fate_req, req, fate_res, &fate), 0);
    ck_assert_uint_eq(fate.items.n, 1);
    ck_assert(fate.items.items[0].known);
}
END_TEST

/* 2.4: who is silent for long is expired, also when nobody waits for it. */
START_TEST(silent_for_long)
{
    struct entry_res made = make(A, "f", 0);

    A->silent = true;
    sim_run_until(s, in_ms(280000));
    ck_assert_int_eq(status_of(A, made.attr.ino), 0);
    sim_run_until(s, in_ms(40000));
    ck_assert_int_eq(status_of(A, made.attr.ino), -TC_E_SESSION_EXPIRED);
}
END_TEST

/* 2.4: from the proposal of its expiry on a session is told nothing. */
START_TEST(silence_while_expiring)
{
    struct entry_res made = make(A, "f", LEASE_X);
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_X};
    struct getattr_req getattr = {.ino = made.attr.ino};
    uint64_t last = 0;
    int r = 0;

    A->silent = true;
    lag(leader(), 100);
    (void)post(B, MSG_LEASE_GET_X, &lease_get_req_schema, &get);
    for (int n = 0; n < 4000 && r != -TC_E_SESSION_EXPIRED; n++) {
        r = ask_for(A, MSG_GETATTR, &getattr_req_schema, &getattr, &entry_res_schema, NULL, 5);
        last = r == 0 ? sim_now(s) : last;
        sim_run_until(s, in_ms(5));
    }
    ck_assert_int_eq(r, -TC_E_SESSION_EXPIRED);
    ck_assert_uint_ne(last, 0);
    ck_assert_uint_gt(sim_now(s) - last, 60 * NS_PER_MS);
}
END_TEST

/* 3.1: a list that comes when the new leader has gone on without it asserts nothing: its generation is over. */
START_TEST(late_list)
{
    struct make_req req = {.parent = INO_ROOT, .name = wire_str_of("g"), .mode = S_IFDIR | 0755, .excl = true};
    struct lease_item s_of_root = {.ino = INO_ROOT, .gterm = 1, .gcount = UINT64_C(1) << 63 | 5, .kind = LEASE_S};
    struct lease_list_req late = {.last = true, .gen_n = 1, .items = {&s_of_root, 1}};
    struct entry_res res;

    next_leader();
    ck_assert_int_eq(list(B, NULL, 0), 0);
    ck_assert_int_eq(ASK(B, MSG_MAKE, make_req, req, entry_res, &res), 0);
    late.gen_term = fsm_applied_term(meta_server_fsm(members[leader()].server));
    ck_assert_int_eq(ASK(A, MSG_LEASE_LIST, lease_list_req, late, empty_msg, NULL), -TC_E_CROSSED);
}
END_TEST

/* 3.1: whoever has not listed is granted no S: it could not be recalled in time. */
START_TEST(no_s_before_the_list)
{
    struct lease_get_req get = {.ino = make(A, "f", 0).attr.ino, .want = LEASE_S};
    struct entry_res res;

    next_leader();
    ck_assert_int_eq(ASK(A, MSG_LEASE_GET_READ, lease_get_req, get, entry_res, &res), 0);
    ck_assert(!res.has_grant || !(res.grant.kind & LEASE_S));
    ck_assert_int_eq(list(A, NULL, 0), 0);
    ck_assert_int_eq(ASK(A, MSG_LEASE_GET_READ, lease_get_req, get, entry_res, &res), 0);
    ck_assert(res.has_grant && res.grant.kind == LEASE_S);
}
END_TEST

/* 3.1: a removed file that somebody has open outlives the leader who knew of that. */
START_TEST(reaps_after_the_lists)
{
    struct entry_res made = make(A, "f", 0), res;
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_O};
    struct unlink_req unlink = {.parent = INO_ROOT, .name = wire_str_of("f")};
    struct lease_item item;
    struct lease_release_req release = {.items = {&item, 1}};

    ck_assert_int_eq(ASK(A, MSG_LEASE_GET_READ, lease_get_req, get, entry_res, &res), 0);
    item = (struct lease_item){.ino = made.attr.ino, .gterm = res.grant.gterm, .gcount = res.grant.gcount, .kind = LEASE_O};
    ck_assert_int_eq(ASK(B, MSG_UNLINK, unlink_req, unlink, entry_res, &res), 0);
    next_leader();
    ck_assert_int_eq(list(B, NULL, 0), 0);
    sim_run_until(s, in_ms(8000));
    ck_assert_int_eq(status_of(A, made.attr.ino), 0);
    ck_assert_int_eq(list(A, &item, 1), 0);
    sim_run_until(s, in_ms(8000));
    ck_assert_int_eq(status_of(A, made.attr.ino), 0);
    ck_assert_int_eq(ASK(A, MSG_LEASE_RELEASE, lease_release_req, release, empty_msg, NULL), 0);
    sim_run_until(s, in_ms(8000));
    ck_assert_int_lt(status_of(A, made.attr.ino), 0);
}
END_TEST

/* 3.2: while a name is being changed nothing of its directory may be cached. */
START_TEST(nothing_to_cache_between)
{
    struct lookup_req lookup = {.parent = INO_ROOT, .name = wire_str_of("g"), .want_dir = LEASE_S};
    struct make_req req = {.parent = INO_ROOT, .name = wire_str_of("g"), .mode = S_IFREG | 0644, .excl = true};
    struct entry_res res;
    struct recall_item r;

    ck_assert_int_eq(list(B, NULL, 0), 0);
    sim_run_until(s, in_ms(1000)); /* its caching right runs */
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &res), 0);
    ck_assert(res.has_dir_grant && res.dir_grant.recall);
    expect(A, post(A, MSG_MAKE, &make_req_schema, &req));
    r = next_recall(B);
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &res), 0);
    ck_assert(res.negative);
    ck_assert(!res.has_dir_grant || !res.dir_grant.recall);
    ck_assert_int_eq(ack(B, &r, LEASE_S), 0);
    ck_assert_int_eq(await_answer(A, &entry_res_schema, &res, 1000), 0);
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &res), 0);
    ck_assert(res.has_dir_grant && res.dir_grant.recall);
}
END_TEST

/* 3.4: a holder that commits piece by piece is not expired, however long it takes. */
START_TEST(commits_are_progress)
{
    struct entry_res made = make(A, "f", LEASE_X), res;
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_S};
    struct recall_item r;

    expect(B, post(B, MSG_LEASE_GET_READ, &lease_get_req_schema, &get));
    r = next_recall(A);
    for (uint64_t n = 1; n <= 5; n++) {
        sim_run_until(s, in_ms(9000));
        ck_assert_int_eq(commit(A, &made.grant, n * 4096, COMMIT_KEEP, 0, NULL), 0);
        expect(B, B->waits_for);
    }
    ck_assert_int_eq(commit(A, &made.grant, 30000, COMMIT_DOWNGRADE, r.recall, NULL), 0);
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 1000), 0);
    ck_assert_uint_eq(res.attr.size, 30000);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("meta-rules");
    TCase *c = tcase_create("meta-rules");
    SRunner *r;

    log_setup(LOG_LEVEL_ERR, 2);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, grants_need_the_lease);
    tcase_add_test(c, replies_stay);
    tcase_add_test(c, silent_for_long);
    tcase_add_test(c, silence_while_expiring);
    tcase_add_test(c, late_list);
    tcase_add_test(c, no_s_before_the_list);
    tcase_add_test(c, reaps_after_the_lists);
    tcase_add_test(c, nothing_to_cache_between);
    tcase_add_test(c, commits_are_progress);
    suite_add_tcase(suite, c);
    r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    srunner_free(r);
    return 0;
}
