/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short scripts for sentences of PROTOCOL 1 that the longer ones of test-raft.c pass by: each fails when its rule is
 * turned off (docs/SIMULATION.md).
 */
#include <check.h>
#include <string.h>

#include "common/error.h"
#include "raft-net.h"

static struct net *led(uint32_t n, uint64_t seed, uint64_t log_bytes_max)
{
    struct net *net = net_new(n, seed, 0);

    net->log_bytes_max = log_bytes_max;
    for (uint32_t i = 0; i < n; i++) {
        net_start(net, i);
        net->nodes[i].no_tick = i != 0;
    }
    for (int k = 0; k < 100 && net_leader(net) != 0; k++)
        net_run(net, 20);
    ck_assert_int_eq(net_leader(net), 0);
    for (uint32_t i = 0; i < n; i++) {
        net->nodes[i].no_tick = false;
        (void)net_event(net, i, RAFT_EV_FLUSH, 0, 0);
    }
    net_run(net, 200);
    return net;
}

static void propose(struct net *net, unsigned n)
{
    for (unsigned k = 0; k < n; k++) {
        ck_assert_int_eq(net_propose(net, 0, "entry"), 0);
        if (k % 8 == 7)
            net_run(net, 2); /* each is a write of its own: no disk is to stall */
    }
}

/* 1.4: one that names another position of the log does nothing. */
START_TEST(timeout_now_elsewhere)
{
    struct net *net = led(3, 1, 0);
    struct raft_update up;
    struct raft_status s;

    net_status(net, 1, &s);
    for (int right = 0; right < 2; right++) {
        struct raft_msg m = {.type = RAFT_MSG_TIMEOUT_NOW, .from = 1, .to = 2, .term = s.term,
                             .timeout_now = {.last_index = s.last - 1 + (uint64_t)right, .last_term = s.term}};
        struct raft_event ev = {.type = RAFT_EV_RECV, .recv = &m, .now = net->now};
        struct raft_status after;

        ck_assert_int_eq(raft_step(net->nodes[1].core, &ev, &up), 0);
        net_status(net, 1, &after);
        ck_assert_int_eq(after.role == RAFT_CANDIDATE, right);
    }
    net_free(net);
}
END_TEST

/* 1.5: who lost its disk votes again when it has all that is committed, and not before. */
START_TEST(filled_before_it_votes)
{
    struct net *net = led(3, 2, 0);
    struct raft_status s;
    uint64_t was;

    net_status(net, 0, &s);
    was = s.peers[2].incarnation;
    propose(net, 1500);
    net_run(net, 500);
    net_wipe(net, 2);
    net_run(net, 300);
    net->delay_min = 60 * NS_PER_MS; /* filling it takes a while */
    net_start(net, 2);
    for (int k = 0; k < 3000; k++) {
        net_run(net, 1);
        net_status(net, 0, &s);
        if (s.peers[2].incarnation != was && s.peers[2].member_role == RAFT_VOTER)
            break;
    }
    ck_assert_uint_eq(s.peers[2].member_role, RAFT_VOTER);
    ck_assert_uint_ge(s.peers[2].match, 1500);
    net_free(net);
}
END_TEST

/* 1.6: a change counts before it is committed. */
START_TEST(counts_from_append)
{
    struct net *net = led(3, 3, 0);
    struct raft_status s;

    net_isolate(net, 0, true);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_REMOVED), 0);
    net_status(net, 0, &s);
    ck_assert_uint_eq(s.n_peers, 2);
    net_free(net);
}
END_TEST

/* 1.6: who is far behind is not promoted. */
START_TEST(promoted_when_nearly_caught_up)
{
    struct net *net = led(3, 4, 0);

    net_wipe(net, 2);
    net_run(net, 700);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_REMOVED), 0);
    net_run(net, 50);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_STANDBY), 0);
    net_start(net, 2);
    net_run(net, 700);
    net_isolate(net, 2, true);
    propose(net, 1100);
    net_run(net, 100);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_VOTER), -TC_E_AGAIN);
    net_isolate(net, 2, false);
    net_run(net, 8000);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_VOTER), 0);
    net_free(net);
}
END_TEST

/* 1.6: the removal is in nobody's log but its own: it asks for the vote that it needs, and does not do without. */
START_TEST(left_out_may_lead)
{
    struct net *net = led(2, 5, 0);

    net->cut[0][1] = true;
    ck_assert_int_eq(net_change(net, 0, 1, RAFT_REMOVED), 0);
    net_run(net, 20);
    net_crash(net, 0);
    net_run(net, 20);
    net_start(net, 0);
    net->cut[1][0] = true;
    net_run(net, 3000);
    ck_assert_int_eq(net_leader(net), -1);
    net_heal(net);
    net_run(net, 5000);
    ck_assert_int_eq(net_leader(net), 1); /* elected, it committed its removal, and handed over */
    ck_assert_int_eq(net_propose(net, 1, "alone"), 0);
    net_free(net);
}
END_TEST

/* 1.7: a snapshot under way keeps the log behind it, but not more of it than half of the limit. */
START_TEST(being_filled_holds_half)
{
    struct net *net = led(3, 6, 3000);
    struct raft_status s;
    uint64_t first;

    net_crash(net, 2);
    propose(net, 10);
    net_run(net, 100);
    net_compact(net, 0, 0);
    net_start(net, 2);
    do {
        net_run(net, 1);
        net_status(net, 0, &s);
    } while (s.peers[2].snapshot_offset == 0);
    net->cut[2][0] = true; /* it is slow */
    first = s.first;
    propose(net, 10);
    net_run(net, 100);
    net_compact(net, 0, 0);
    net_status(net, 0, &s);
    ck_assert_uint_eq(s.first, first);
    while (net_propose(net, 0, "entry") == 0)
        net_run(net, 5);
    net_compact(net, 0, 0);
    net_status(net, 0, &s);
    ck_assert_uint_gt(s.first, first);
    net_heal(net);
    for (int k = 0; k < 30 && !net_converged(net); k++) {
        net_run(net, 300);
        net_compact(net, 1, 0); /* it was full, too */
    }
    ck_assert(net_converged(net));
    net_free(net);
}
END_TEST

/* 1.8: who has just been elected does not know yet what is committed. */
START_TEST(read_waits_for_own_entry)
{
    struct net *net = led(3, 7, 0);
    uint64_t commit = net->commit;

    net->delay_min = 5 * NS_PER_MS;
    propose(net, 1);
    while (net->commit == commit)
        net_run(net, 1);
    net_crash(net, 0); /* nobody else has heard of it */
    for (uint32_t i = 0; i < 3; i++)
        net->nodes[i].no_tick = i != 1;
    while (net_leader(net) != 1)
        net_run(net, 1);
    net->disk_min = 100 * NS_PER_MS; /* its first entry is late */
    ck_assert_int_eq(net_read(net, 1), 0);
    net_run(net, 1000);
    ck_assert_msg(!net->violation[0], "%s", net->violation);
    ck_assert_uint_eq(net->reads, 1);
    net_free(net);
}
END_TEST

/* 1.8: a follower answers when it has applied what was committed as it asked. */
START_TEST(read_waits_until_applied)
{
    struct net *net = led(3, 8, 0);
    uint64_t commit = net->commit;

    propose(net, 1);
    while (net->commit == commit)
        net_run(net, 1);
    ck_assert_int_eq(net_read(net, 1), 0);
    net_run(net, 300);
    ck_assert_msg(!net->violation[0], "%s", net->violation);
    ck_assert_uint_eq(net->reads, 1);
    net_free(net);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("raft-rules");
    TCase *tc = tcase_create("rules");
    SRunner *sr;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, timeout_now_elsewhere);
    tcase_add_test(tc, filled_before_it_votes);
    tcase_add_test(tc, counts_from_append);
    tcase_add_test(tc, promoted_when_nearly_caught_up);
    tcase_add_test(tc, left_out_may_lead);
    tcase_add_test(tc, being_filled_holds_half);
    tcase_add_test(tc, read_waits_for_own_entry);
    tcase_add_test(tc, read_waits_until_applied);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    srunner_free(sr);
    return 0;
}
