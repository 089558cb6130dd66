/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripts for the Raft core: the situations of the Raft paper and those that PROTOCOL 1 names. Each
 * runs on the simulated network; where a trace tells more than assertions it is compared with
 * golden/raft-NAME.txt (TC_GOLDEN_UPDATE=1 writes it anew). Where a rule is to be shown, the script
 * runs again without it and must fail.
 */
#include <check.h>
#include <inttypes.h>
#include <string.h>

#include "common/error.h"
#include "raft-net.h"

static struct net *start(uint32_t n, uint64_t seed, uint32_t rules_off)
{
    struct net *net = net_new(n, seed, rules_off);

    for (uint32_t i = 0; i < n; i++)
        net_start(net, i);
    return net;
}

/* Node @i is to lead: nobody else starts an election meanwhile. */
static void elect(struct net *net, uint32_t i)
{
    for (uint32_t k = 0; k < net->n; k++)
        net->nodes[k].no_tick = k != i;
    for (int k = 0; k < 100 && net_leader(net) != (int)i; k++)
        net_run(net, 20);
    ck_assert_int_eq(net_leader(net), (int)i);
    for (uint32_t k = 0; k < net->n; k++) {
        net->nodes[k].no_tick = false;
        (void)net_event(net, k, RAFT_EV_FLUSH, 0, 0); /* its ticks begin again */
    }
}

static uint64_t commit_of(const struct net *net, uint32_t i)
{
    struct raft_status s;

    net_status(net, i, &s);
    return s.commit;
}

static uint64_t term_of(const struct net *net, uint32_t i)
{
    struct raft_status s;

    net_status(net, i, &s);
    return s.term;
}

static void settle(struct net *net)
{
    for (int k = 0; k < 100 && !net_converged(net) && !net->violation[0]; k++)
        net_run(net, 100);
    ck_assert_msg(!net->violation[0], "%s", net->violation);
    ck_assert(net_converged(net));
}

/* -- golden traces ---------------------------------------------------------------------------- */

static char *trace_text;
static size_t trace_size;

static void trace_begin(struct net *net)
{
    net->trace = open_memstream(&trace_text, &trace_size);
    ck_assert_ptr_nonnull(net->trace);
}

static void trace_end(struct net *net, const char *name)
{
    const char *dir = getenv("TC_GOLDEN_DIR");
    char path[512];
    char *old;
    FILE *f;
    size_t n;

    fclose(net->trace);
    net->trace = NULL;
    snprintf(path, sizeof path, "%s/raft-%s.txt", dir ? dir : "tests/golden", name);
    if (getenv("TC_GOLDEN_UPDATE")) {
        f = fopen(path, "w");
        ck_assert_ptr_nonnull(f);
        fwrite(trace_text, 1, trace_size, f);
        fclose(f);
    }
    f = fopen(path, "r");
    ck_assert_msg(f != NULL, "no %s", path);
    old = calloc(1, trace_size + 2);
    n = fread(old, 1, trace_size + 1, f);
    fclose(f);
    ck_assert_msg(n == trace_size && memcmp(old, trace_text, n) == 0,
                  "the trace differs from %s; it is now:\n%s", path, trace_text);
    free(old);
    free(trace_text);
    trace_text = NULL;
}

/* Three members elect one, replicate, lose the leader, elect another, take the old one back. */
START_TEST(golden_failover)
{
    struct net *net = net_new(3, 1, 0);
    int leader;

    trace_begin(net);
    for (uint32_t i = 0; i < 3; i++)
        net_start(net, i);
    net_run(net, 700);
    leader = net_leader(net);
    ck_assert_int_ge(leader, 0);
    ck_assert(net_lease(net, (uint32_t)leader));
    ck_assert_int_eq(net_propose(net, (uint32_t)leader, "one"), 0);
    ck_assert_int_eq(net_propose(net, (uint32_t)leader, "two"), 0);
    net_run(net, 60);
    ck_assert_uint_eq(commit_of(net, (uint32_t)leader), 4);
    net_crash(net, (uint32_t)leader);
    net_run(net, 800);
    ck_assert_int_ne(net_leader(net), leader);
    ck_assert_int_eq(net_propose(net, (uint32_t)net_leader(net), "three"), 0);
    net_run(net, 60);
    net_start(net, (uint32_t)leader);
    net_run(net, 300);
    settle(net);
    trace_end(net, "failover");
    net_free(net);
}
END_TEST

/* Raft figure 7: a leader brings logs of every kind of difference to its own. */
START_TEST(golden_figure7)
{
    static const uint64_t logs[7][12] = {
        {1, 1, 1, 4, 4, 5, 5, 6, 6, 6},       /* the leader of term 8 */
        {1, 1, 1, 4, 4, 5, 5, 6, 6},          /* (a) */
        {1, 1, 1, 4},                         /* (b) */
        {1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6},    /* (c) */
        {1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7}, /* (d) */
        {1, 1, 1, 4, 4, 4, 4},                /* (e) */
        {1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3},    /* (f) */
    };
    struct net *net = net_new(7, 7, 0);

    for (uint32_t i = 0; i < 7; i++) {
        uint32_t n = 0;

        while (n < 12 && logs[i][n] != 0)
            n++;
        net_preload(net, i, logs[i], n, 7);
    }
    trace_begin(net);
    for (uint32_t i = 0; i < 7; i++)
        net_start(net, i);
    elect(net, 0);
    net_run(net, 100);
    settle(net);
    trace_end(net, "figure7");
    for (uint32_t i = 0; i < 7; i++)
        for (uint64_t k = 0; k < 10; k++)
            ck_assert_uint_eq(raft_term_at(net->nodes[i].core, k + 2), logs[0][k]);
    net_free(net);
}
END_TEST

/* Raft figure 8 (c): an entry of an older term is on a majority. It is not committed by that count;
 * one of the leader's own term behind it commits both. */
static uint64_t figure8_commit(uint32_t rules_off, bool own_too)
{
    struct raft_cfg cfg = {.id = 1, .term = 3, .rules_off = rules_off, .now = NS_PER_S};
    struct raft *r;
    struct raft_update up;
    struct raft_config c = {.n = 3};
    uint8_t buf[RAFT_CONFIG_BYTES_MAX];
    struct raft_entry e = {.index = 1, .term = 1, .type = RAFT_ENTRY_CONFIG, .data = buf};
    struct raft_msg m = {.from = 2, .to = 1, .term = 3};
    struct raft_event ev = {.now = NS_PER_S, .recv = &m};
    struct raft_status s;

    for (uint32_t i = 0; i < 3; i++)
        c.members[i] = (struct raft_member){i + 1, 0, RAFT_VOTER};
    r = raft_new(&cfg);
    e.len = raft_config_encode(&c, buf);
    ck_assert_int_eq(raft_restore_entry(r, &e), 0);
    e = (struct raft_entry){.index = 2, .term = 2, .type = RAFT_ENTRY_DATA};
    ck_assert_int_eq(raft_restore_entry(r, &e), 0);
    ck_assert_int_eq(raft_restore_done(r, 1), 0);
    for (uint32_t k = 0; k < 40; k++) {
        ev.type = RAFT_EV_TICK;
        ev.now += 20 * NS_PER_MS;
        ck_assert_int_eq(raft_step(r, &ev, &up), 0);
        raft_get_status(r, &s);
        if (s.role == RAFT_PRECANDIDATE)
            break;
    }
    ck_assert_int_eq(s.role, RAFT_PRECANDIDATE);
    ev.type = RAFT_EV_RECV;
    m.type = RAFT_MSG_PREVOTE_RES;
    m.vote_res.term = 4;
    m.vote_res.granted = true;
    ck_assert_int_eq(raft_step(r, &ev, &up), 0);
    ck_assert(up.flags & RAFT_SAVE_STATE);
    ck_assert(!(up.flags & RAFT_SEND)); /* not before the vote is durable */
    ev.type = RAFT_EV_STATE_SAVED;
    ev.seq = up.state_seq;
    ck_assert_int_eq(raft_step(r, &ev, &up), 0);
    ck_assert(up.flags & RAFT_SEND);
    ev.type = RAFT_EV_RECV;
    m.type = RAFT_MSG_VOTE_RES;
    m.term = 4;
    ck_assert_int_eq(raft_step(r, &ev, &up), 0);
    ck_assert_uint_eq(up.save_first, 3); /* the leader's first entry */
    ev.type = RAFT_EV_PERSISTED;
    ev.seq = up.save_seq;
    ck_assert_int_eq(raft_step(r, &ev, &up), 0);
    ev.type = RAFT_EV_RECV;
    memset(&m.append_res, 0, sizeof m.append_res);
    m.type = RAFT_MSG_APPEND_RES;
    m.append_res.match = own_too ? 3 : 2;
    ck_assert_int_eq(raft_step(r, &ev, &up), 0);
    raft_get_status(r, &s);
    raft_free(r);
    return s.commit;
}

START_TEST(figure8)
{
    ck_assert_uint_eq(figure8_commit(0, false), 1);
    ck_assert_uint_eq(figure8_commit(0, true), 3);
    ck_assert_uint_eq(figure8_commit(RAFT_RULE_COMMIT_OWN_TERM, false), 2);
}
END_TEST

/* Figure 8 (c) to (d): what was on a majority but not committed may be overwritten, and is. */
START_TEST(golden_figure8)
{
    static const uint64_t logs[5][2] = {{2, 4}, {2}, {2}, {0}, {3}};
    struct net *net = net_new(5, 8, 0);

    for (uint32_t i = 0; i < 5; i++)
        net_preload(net, i, logs[i], logs[i][1] ? 2 : logs[i][0] ? 1 : 0, 4);
    trace_begin(net);
    for (uint32_t i = 1; i < 5; i++)
        net_start(net, i);
    elect(net, 4);
    net_run(net, 100);
    net_start(net, 0);
    net_run(net, 200);
    settle(net);
    trace_end(net, "figure8");
    for (uint32_t i = 0; i < 5; i++)
        ck_assert_uint_eq(raft_term_at(net->nodes[i].core, 2), 3);
    net_free(net);
}
END_TEST

/* -- elections -------------------------------------------------------------------------------- */

/* A member that was cut off comes back: nobody's term has risen, the leader stays. */
static bool returns_quietly(uint32_t rules_off)
{
    struct net *net = start(3, 11, rules_off);
    bool quiet;
    uint64_t term;

    elect(net, 0);
    net_run(net, 200);
    term = term_of(net, 0);
    net_isolate(net, 2, true);
    net_run(net, 3000);
    net_heal(net);
    net_run(net, 1000);
    ck_assert_msg(!net->violation[0], "%s", net->violation);
    quiet = net_leader(net) == 0 && term_of(net, 0) == term && term_of(net, 2) == term;
    net_free(net);
    return quiet;
}

START_TEST(prevote_does_not_disrupt)
{
    ck_assert(returns_quietly(0));
    ck_assert(!returns_quietly(RAFT_RULE_PREVOTE));
}
END_TEST

/* A member with a higher term, which cannot win, is answered by, and takes along, the leader. */
START_TEST(higher_term_comes_back)
{
    struct net *net = start(3, 12, 0);

    elect(net, 0);
    net_run(net, 200);
    net_crash(net, 2);
    net->nodes[2].term = 9; /* it had campaigned where nobody heard it */
    net->nodes[2].vote = 3;
    (void)net_propose(net, 0, "x");
    net_run(net, 100);
    net_start(net, 2);
    net_run(net, 2000);
    settle(net);
    ck_assert_uint_ge(term_of(net, 2), 9);
    net_free(net);
}
END_TEST

/* A leader that hears no quorum any more steps down by itself, and has no lease long before. */
START_TEST(check_quorum)
{
    struct net *net = start(3, 13, 0);
    struct raft_status s;

    elect(net, 0);
    net_run(net, 200);
    ck_assert(net_lease(net, 0));
    net_isolate(net, 0, true);
    net_run(net, 245);
    ck_assert(!net_lease(net, 0));
    net_run(net, 600);
    net_status(net, 0, &s);
    ck_assert_int_ne(s.role, RAFT_LEADER);
    net_heal(net);
    settle(net);
    net_free(net);
}
END_TEST

/* Who did not run for a while first listens. */
START_TEST(paused_loop)
{
    struct net *net = start(3, 14, 0);
    uint64_t term;

    elect(net, 0);
    net_run(net, 200);
    term = term_of(net, 0);
    for (int k = 0; k < 5; k++) {
        net_pause(net, 1, 1500);
        net_run(net, 2500);
    }
    ck_assert_int_eq(net_leader(net), 0);
    ck_assert_uint_eq(term_of(net, 0), term);
    net_free(net);
}
END_TEST

/* The leader's lease stands on voter 3, which restarts, forgets that it heard the leader, and is
 * asked by 2, which the leader does not reach. */
static bool lease_survives_restart(uint32_t rules_off)
{
    struct net *net = start(3, 15, rules_off);
    bool good;

    elect(net, 0);
    net_run(net, 200);
    net->cut[0][1] = net->cut[1][0] = true;
    net_run(net, 700); /* 2 asks, 3 refuses: it hears the leader */
    ck_assert_int_eq(net_leader(net), 0);
    net_crash(net, 2);
    net->cut[0][2] = net->cut[2][0] = true;
    net_start(net, 2);
    net_run(net, 1500);
    good = !net->violation[0];
    net_free(net);
    return good;
}

START_TEST(lease_and_restarting_voter)
{
    ck_assert(lease_survives_restart(0));
    ck_assert(!lease_survives_restart(RAFT_RULE_QUIET_START));
}
END_TEST

/* No lease before the term's first entry is applied: what the term before committed is unknown. */
START_TEST(lease_begins_with_own_entry)
{
    struct net *net = start(3, 16, 0);
    struct raft_status s;

    for (int k = 0; k < 4000 && net_leader(net) < 0; k++)
        net_run(net, 1);
    ck_assert_int_ge(net_leader(net), 0);
    for (int k = 0; k < 100; k++) {
        net_status(net, (uint32_t)net_leader(net), &s);
        ck_assert(!net_lease(net, (uint32_t)net_leader(net)) || s.applied >= 2);
        net_run(net, 1);
    }
    ck_assert(net_lease(net, (uint32_t)net_leader(net)));
    net_free(net);
}
END_TEST

/* -- transfer --------------------------------------------------------------------------------- */

/* A planned hand-over takes a few messages; a lost TimeoutNow ends the term, a late one does nothing. */
START_TEST(golden_transfer)
{
    struct net *net = start(3, 17, 0);
    uint64_t term, began;

    elect(net, 0);
    net_run(net, 200);
    trace_begin(net);
    began = net->now;
    ck_assert_int_eq(net_event(net, 0, RAFT_EV_TRANSFER, 2, 0), 0);
    ck_assert(!net_lease(net, 0));
    ck_assert_int_eq(net_propose(net, 0, "refused"), -1);
    while (net_leader(net) != 1 && net->now < began + NS_PER_S)
        net_run(net, 1);
    ck_assert_uint_lt(net->now - began, 10 * NS_PER_MS);
    net_run(net, 200);
    /* The other way the message is late. */
    net->hold_type_from = RAFT_MSG_TIMEOUT_NOW << 8 | 2;
    ck_assert_int_eq(net_event(net, 1, RAFT_EV_TRANSFER, 1, 0), 0);
    net_run(net, 100);
    ck_assert(net->has_held);
    ck_assert(!net_lease(net, 1));
    net_run(net, 2000);
    ck_assert_int_ge(net_leader(net), 0);
    term = term_of(net, (uint32_t)net_leader(net));
    net_release(net);
    net_run(net, 500);
    ck_assert_uint_eq(term_of(net, (uint32_t)net_leader(net)), term);
    settle(net);
    trace_end(net, "transfer");
    net_free(net);
}
END_TEST

/* A TimeoutNow that comes late in its own term still finds a leader without a lease. */
static bool late_timeout_now(uint32_t rules_off)
{
    struct net *net = start(3, 18, rules_off);
    bool good;

    elect(net, 0);
    net_run(net, 200);
    net->hold_type_from = RAFT_MSG_TIMEOUT_NOW << 8 | 1;
    ck_assert_int_eq(net_event(net, 0, RAFT_EV_TRANSFER, 2, 0), 0);
    net_run(net, 300);
    net->cut[1][0] = net->cut[2][0] = true; /* and then hears nobody */
    net_release(net);
    net_run(net, 200);
    good = !net->violation[0];
    net_free(net);
    return good;
}

START_TEST(no_lease_after_timeout_now)
{
    ck_assert(late_timeout_now(0));
    ck_assert(!late_timeout_now(RAFT_RULE_NO_LEASE_AFTER_TRANSFER));
}
END_TEST

/* A leader whose disk says nothing for long hands over; what is proposed then commits elsewhere. */
START_TEST(stalled_disk_hands_over)
{
    struct net *net = start(3, 19, 0);

    elect(net, 0);
    net_run(net, 200);
    net->nodes[0].disk_at = net->now + 20 * NS_PER_S;
    ck_assert_int_eq(net_propose(net, 0, "x"), 0);
    net_run(net, 100);
    ck_assert_uint_eq(commit_of(net, 0), 3); /* the followers' two suffice */
    net_run(net, 2000);
    ck_assert_int_gt(net_leader(net), 0);
    net_free(net);
}
END_TEST

/* -- membership, snapshots --------------------------------------------------------------------- */

/* A member lost its disk and the log's head is gone: demotion, snapshot, promotion. */
START_TEST(golden_lost_disk)
{
    struct net *net = start(3, 20, 0);
    struct raft_status s;

    elect(net, 0);
    net_run(net, 200);
    for (int k = 0; k < 6; k++)
        ck_assert_int_eq(net_propose(net, 0, "entry"), 0);
    net_run(net, 200);
    net_compact(net, 0, 1);
    net_wipe(net, 2);
    net_run(net, 300);
    trace_begin(net);
    net_start(net, 2);
    net_run(net, 1500);
    settle(net);
    trace_end(net, "lost-disk");
    net_status(net, 0, &s);
    ck_assert_uint_eq(s.peers[2].member_role, RAFT_VOTER);
    ck_assert_uint_eq(s.peers[2].incarnation, net->nodes[2].incarnation);
    ck_assert_uint_ge(net->snapshots, 1);
    /* It counts again: the other follower may go. */
    net_crash(net, 1);
    ck_assert_int_eq(net_propose(net, 0, "more"), 0);
    net_run(net, 100);
    net_status(net, 0, &s);
    ck_assert_uint_eq(s.commit, s.last);
    net_free(net);
}
END_TEST

/* What a blank member acknowledges commits nothing while it is no voter. */
static bool blank_counts(uint32_t rules_off)
{
    struct net *net = start(3, 21, rules_off);
    uint64_t commit;
    bool moved;

    elect(net, 0);
    net_run(net, 200);
    net_crash(net, 1);
    net_wipe(net, 2);
    commit = commit_of(net, 0);
    net_start(net, 2);
    net_run(net, 50);
    (void)net_propose(net, 0, "x");
    net_run(net, 300);
    moved = commit_of(net, 0) > commit;
    net_start(net, 1);
    net_run(net, 5000);
    if (rules_off == 0)
        settle(net);
    net_free(net);
    return moved;
}

START_TEST(blank_member_does_not_count)
{
    ck_assert(!blank_counts(0));
    ck_assert(blank_counts(RAFT_RULE_INCARNATION));
}
END_TEST

/* A follower that was away while the log was compacted gets a snapshot; its disk is its own, so it
 * stays a voter. */
START_TEST(golden_snapshot)
{
    struct net *net = start(3, 22, 0);

    elect(net, 0);
    net_run(net, 200);
    net_crash(net, 2);
    for (int k = 0; k < 10; k++) {
        ck_assert_int_eq(net_propose(net, 0, "entry"), 0);
        net_run(net, 20);
    }
    net_compact(net, 0, 0);
    trace_begin(net);
    net_start(net, 2);
    net_run(net, 500);
    settle(net);
    trace_end(net, "snapshot");
    ck_assert_uint_eq(net->snapshots, 1);
    net_free(net);
}
END_TEST

static uint32_t role_of(const struct net *net, uint32_t at, uint64_t id)
{
    struct raft_status s;

    net_status(net, at, &s);
    for (uint32_t i = 0; i < s.n_peers; i++)
        if (s.peers[i].id == id)
            return s.peers[i].member_role;
    return RAFT_REMOVED;
}

/* The log in memory has a limit: the leader refuses proposals, a follower takes no entries, and both go on when a
 * checkpoint let them drop some. */
START_TEST(log_is_bounded)
{
    struct net *net = net_new(3, 33, 0);
    uint64_t accepted = 0;

    net->log_bytes_max = 3000;
    for (uint32_t i = 0; i < 3; i++)
        net_start(net, i);
    elect(net, 0);
    net_run(net, 200);
    while (net_propose(net, 0, "an entry of some length") == 0 && accepted < 1000)
        accepted++;
    ck_assert_uint_gt(accepted, 10);
    ck_assert_uint_lt(accepted, 100);
    net_run(net, 200);
    for (int round = 0; round < 5; round++) {
        net_compact(net, 0, 0); /* the leader alone: the others are full */
        for (int k = 0; k < 30; k++)
            (void)net_propose(net, 0, "an entry of some length");
        net_run(net, 300);
        for (uint32_t i = 0; i < 3; i++)
            ck_assert_uint_lt(raft_log_bytes(net->nodes[i].core), 2 * 3000 + 1000);
    }
    ck_assert_int_eq(net_leader(net), 0);
    for (int round = 0; round < 20 && !net_converged(net); round++) {
        for (uint32_t i = 0; i < 3; i++)
            net_compact(net, i, 0);
        net_run(net, 300);
    }
    settle(net);
    for (uint32_t i = 0; i < 3; i++)
        net_compact(net, i, 0);
    ck_assert_int_eq(net_propose(net, 0, "there is room"), 0);
    settle(net);
    net_free(net);
}
END_TEST

/* The follower is cut off in the middle of a snapshot, for so long that the leader gives it up: what it has stored is not
 * sent again when the same snapshot is offered to it anew. */
START_TEST(golden_snapshot_resume)
{
    struct net *net = start(3, 34, 0);
    struct raft_status s;

    elect(net, 0);
    net_run(net, 200);
    net_crash(net, 2);
    for (int k = 0; k < 10; k++) {
        ck_assert_int_eq(net_propose(net, 0, "entry"), 0);
        net_run(net, 20);
    }
    net_compact(net, 0, 0);
    trace_begin(net);
    net_start(net, 2);
    do {
        net_run(net, 1);
        net_status(net, 0, &s);
    } while (s.peers[2].snapshot_offset < 8);
    net->cut[0][2] = net->cut[2][0] = net->cut[1][2] = net->cut[2][1] = true;
    net_run(net, 8000);
    net_heal(net);
    settle(net);
    trace_end(net, "snapshot-resume");
    ck_assert_uint_eq(net->snapshots, 1);
    net_free(net);
}
END_TEST

/* By command: one change at a time, learners first, and nothing that costs the majority. */
START_TEST(membership_is_checked)
{
    struct net *net = start(3, 23, 0);

    ck_assert_int_eq(net_change(net, 0, 3, RAFT_REMOVED), -TC_E_NOT_LEADER);
    elect(net, 0);
    net_run(net, 200);
    ck_assert_int_eq(net_change(net, 0, 4, RAFT_VOTER), -TC_E_NOENT);
    ck_assert_int_eq(net_change(net, 0, 4, RAFT_REMOVED), -TC_E_NOENT);
    ck_assert_int_eq(net_change(net, 0, 0, RAFT_STANDBY), -TC_E_INVAL);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_STANDBY), -TC_E_EXIST);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_VOTER), -TC_E_EXIST);
    net_crash(net, 2);
    net_run(net, 1000);
    ck_assert_int_eq(net_change(net, 0, 2, RAFT_REMOVED), -TC_E_NO_QUORUM); /* 1 of {1, 3} */
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_REMOVED), 0);
    ck_assert_int_eq(net_change(net, 0, 2, RAFT_REMOVED), -TC_E_BUSY);
    net_run(net, 100);
    ck_assert_int_eq(net_change(net, 0, 2, RAFT_REMOVED), 0);
    net_run(net, 100);
    ck_assert_int_eq(net_change(net, 0, 1, RAFT_REMOVED), -TC_E_INVAL); /* the last */
    net_start(net, 2);
    net_run(net, 2000);
    ck_assert_int_eq(net_leader(net), 0); /* and the removed ones disturb nobody */
    ck_assert_int_eq(role_of(net, 0, 3), RAFT_REMOVED);
    net_free(net);
}
END_TEST

/* A dead member is replaced: an empty one is added under another disk, learns without a vote until it is
 * promoted, and then one of the others may go. */
START_TEST(golden_membership)
{
    struct net *net = start(3, 31, 0);

    elect(net, 0);
    net_run(net, 200);
    net_wipe(net, 2);
    net_run(net, 700);
    trace_begin(net);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_REMOVED), 0);
    net_run(net, 50);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_STANDBY), 0);
    net_run(net, 50);
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_VOTER), -TC_E_UNREACHABLE);
    net_start(net, 2);
    net_run(net, 1000);
    ck_assert_int_eq(role_of(net, 0, 3), RAFT_STANDBY); /* not by itself */
    ck_assert_int_eq(net_change(net, 0, 3, RAFT_VOTER), 0);
    net_run(net, 100);
    net_crash(net, 1);
    ck_assert_int_eq(net_propose(net, 0, "with the new one"), 0);
    net_run(net, 100);
    ck_assert_uint_eq(commit_of(net, 0), net->commit);
    net_start(net, 1);
    settle(net);
    trace_end(net, "membership");
    net_free(net);
}
END_TEST

static uint64_t incarnation_of(const struct net *net, uint32_t at, uint64_t id)
{
    struct raft_status s;

    net_status(net, at, &s);
    for (uint32_t i = 0; i < s.n_peers; i++)
        if (s.peers[i].id == id)
            return s.peers[i].incarnation;
    return 0;
}

/* Who is added to a leader that is alone, and has not heard yet that it is a member from this disk, is not made a voter: the
 * leader could never lead again without its vote, and it would give none. */
START_TEST(promoted_knows_itself)
{
    struct net *net = start(2, 33, 0);
    uint64_t was;

    elect(net, 0);
    net_run(net, 200);
    ck_assert_int_eq(net_change(net, 0, 2, RAFT_REMOVED), 0);
    net_run(net, 100);
    net_wipe(net, 1);
    ck_assert_int_eq(net_change(net, 0, 2, RAFT_STANDBY), 0);
    net_run(net, 100);
    was = incarnation_of(net, 0, 2);
    net->delay_min = 5 * NS_PER_MS;
    net_start(net, 1);
    for (int n = 0; n < 1000 && incarnation_of(net, 0, 2) == was; n++)
        net_run(net, 1);
    ck_assert_uint_ne(incarnation_of(net, 0, 2), was);
    net_run(net, 2);
    net_crash(net, 1); /* the entry that says so is committed by the leader alone, and on its way */
    ck_assert_int_eq(net_change(net, 0, 2, RAFT_VOTER), -TC_E_AGAIN);
    net_start(net, 1);
    net_run(net, 200);
    ck_assert_int_eq(net_change(net, 0, 2, RAFT_VOTER), 0);
    net_crash(net, 0); /* nobody else has the promotion */
    net_run(net, 100);
    net_start(net, 0);
    settle(net);
    net_free(net);
}
END_TEST

/* A leader that is removed leads until that is committed, hands over, and takes part no more. */
START_TEST(leader_is_removed)
{
    struct net *net = start(3, 32, 0);
    struct raft_status s;

    elect(net, 0);
    net_run(net, 200);
    ck_assert_int_eq(net_change(net, 0, 1, RAFT_REMOVED), 0);
    net_run(net, 100); /* no election timeout: it was handed over */
    ck_assert_int_gt(net_leader(net), 0);
    net_status(net, 0, &s);
    ck_assert_int_eq(s.role, RAFT_FOLLOWER);
    ck_assert(!s.voter);
    ck_assert(!net_lease(net, 0));
    ck_assert_int_eq(net_propose(net, (uint32_t)net_leader(net), "without it"), 0);
    net_run(net, 3000);
    ck_assert_uint_eq(net->elections, 2);
    ck_assert_int_eq(role_of(net, (uint32_t)net_leader(net), 1), RAFT_REMOVED);
    net_free(net);
}
END_TEST

/* A leader whose lease is gone asks a quorum; a follower asks the leader; one that was deposed without knowing
 * answers nothing. */
static void reads_script(struct net *net)
{
    net_run(net, 200);
    ck_assert_int_eq(net_propose(net, 0, "before"), 0);
    ck_assert_int_eq(net_read(net, 1), 0); /* the follower has not got it yet */
    net_run(net, 100);
    ck_assert_uint_eq(net->reads, 1);
    net->delay_min = 150 * NS_PER_MS; /* every answer comes later than a lease lasts */
    net_run(net, 450);
    ck_assert(!net_lease(net, 0));
    ck_assert_int_eq(net_read(net, 0), 0);
    net_run(net, 250);
    ck_assert_uint_eq(net->reads, 1);
    net_run(net, 250);
    ck_assert_uint_eq(net->reads, 2);
    net->delay_min = NS_PER_MS;
    net_run(net, 700);
    net_isolate(net, 0, true);
    net_run(net, 300);
    ck_assert_int_eq(net_read(net, 0), 0);
    while (net_leader(net) == 0)
        net_run(net, 10);
    ck_assert_int_eq(net_propose(net, (uint32_t)net_leader(net), "elsewhere"), 0);
    net_run(net, 1000);
    ck_assert_uint_eq(net->reads, 2);
    ck_assert_uint_eq(net->reads_failed, 1);
}

START_TEST(golden_reads)
{
    struct net *net = start(3, 41, 0);

    elect(net, 0);
    trace_begin(net);
    reads_script(net);
    ck_assert_msg(!net->violation[0], "%s", net->violation);
    trace_end(net, "reads");
    net_free(net);
}
END_TEST

/* Without the question to a quorum the deposed leader answers from a past state. */
START_TEST(reads_ask_a_quorum)
{
    struct net *net = start(3, 42, RAFT_RULE_READ_QUORUM);

    elect(net, 0);
    net_run(net, 200);
    net_isolate(net, 0, true);
    net_run(net, 290);
    for (int k = 0; k < 400 && !net->violation[0]; k++) {
        net_run(net, 2);
        if (net_leader(net) > 0)
            (void)net_propose(net, (uint32_t)net_leader(net), "elsewhere");
        (void)net_read(net, 0);
    }
    ck_assert_msg(net->violation[0], "nothing went wrong");
    net_free(net);
}
END_TEST

START_TEST(config_codec)
{
    struct raft_config c = {.n = 2, .members = {{1, 0, RAFT_VOTER}, {7, 99, RAFT_LEARNER}}};
    struct raft_config d;
    uint8_t buf[RAFT_CONFIG_BYTES_MAX + 3] = {0};
    uint32_t len = raft_config_encode(&c, buf);

    ck_assert_int_eq(raft_config_decode(buf, len + 3, &d), (int)len); /* the rest is the owner's */
    ck_assert_mem_eq(&c, &d, sizeof c);
    for (uint32_t i = 0; i < len; i++)
        ck_assert_int_lt(raft_config_decode(buf, i, &d), 0);
    buf[len - 1] = 9;
    ck_assert_int_lt(raft_config_decode(buf, len, &d), 0);
    buf[0] = 2;
    ck_assert_int_lt(raft_config_decode(buf, len, &d), 0);
}
END_TEST

/* -- the log ---------------------------------------------------------------------------------- */

static const struct {
    struct {
        uint64_t index, term;
    } recs[8];
    uint64_t base_index, base_term, applied;
    int result;
    uint64_t last, last_term;
} restores[] = {
    {{{1, 1}, {2, 1}, {3, 2}}, 0, 0, 0, 0, 3, 2},
    {{{1, 1}, {2, 3}, {3, 3}, {2, 2}}, 0, 0, 1, 0, 2, 2},           /* a tail replaced, by an older term */
    {{{1, 1}, {3, 1}}, 0, 0, 0, -TC_E_DAMAGED, 0, 0},               /* a gap */
    {{{1, 1}, {2, 1}}, 0, 0, 3, -TC_E_DAMAGED, 0, 0},               /* the store knows more */
    {{{1, 1}, {2, 1}, {3, 1}}, 2, 1, 2, 0, 3, 1},                   /* behind a base */
    {{{4, 1}, {5, 1}, {6, 1}, {4, 3}, {5, 3}}, 4, 3, 4, 0, 5, 3},   /* a tail that fits no more */
    {{{4, 1}, {5, 1}, {6, 1}, {4, 3}}, 4, 3, 4, 0, 4, 3},           /* and what replaced it is short */
    {{{1, 1}, {2, 1}, {3, 1}, {4, 1}, {1, 1}, {2, 1}}, 0, 0, 0, 0, 4, 1}, /* written anew, and a crash in the middle */
    {{{1, 1}, {2, 1}, {3, 1}, {1, 1}, {2, 2}}, 0, 0, 0, 0, 2, 2},   /* the same, then another */
    {{{0, 0}}, 9, 2, 9, 0, 9, 2},                                   /* only a base */
};

START_TEST(restore)
{
    struct raft_cfg cfg = {.id = 1, .term = 3, .base_index = restores[_i].base_index,
                           .base_term = restores[_i].base_term};
    struct raft *r = raft_new(&cfg);
    struct raft_status s;

    for (uint32_t k = 0; k < 8 && restores[_i].recs[k].index != 0; k++) {
        struct raft_entry e = {.index = restores[_i].recs[k].index,
                               .term = restores[_i].recs[k].term, .type = RAFT_ENTRY_DATA};

        ck_assert_int_eq(raft_restore_entry(r, &e), 0);
    }
    ck_assert_int_eq(raft_restore_done(r, restores[_i].applied), restores[_i].result);
    if (restores[_i].result == 0) {
        raft_get_status(r, &s);
        ck_assert_uint_eq(s.last, restores[_i].last);
        ck_assert_uint_eq(raft_term_at(r, s.last), restores[_i].last_term);
    }
    raft_free(r);
}
END_TEST

/* A leader of members that were given up comes back with another log: where entries are committed here nothing of it is taken,
 * nothing acknowledged, and it is known. */
START_TEST(given_up_leader)
{
    struct raft_cfg cfg = {.id = 1, .term = 3, .now = NS_PER_S};
    struct raft_config c = {.n = 3};
    uint8_t buf[RAFT_CONFIG_BYTES_MAX];
    struct raft_entry e = {.index = 1, .term = 1, .type = RAFT_ENTRY_CONFIG, .data = buf};
    struct raft_msg m = {.from = 2, .to = 1, .term = 5, .type = RAFT_MSG_APPEND};
    struct raft_event ev = {.type = RAFT_EV_RECV, .now = NS_PER_S, .recv = &m};
    struct raft_entry other = {.index = 2, .term = 5, .type = RAFT_ENTRY_DATA};
    struct raft *r = raft_new(&cfg);
    struct raft_update up;

    for (uint32_t i = 0; i < 3; i++)
        c.members[i] = (struct raft_member){i + 1, 0, RAFT_VOTER};
    e.len = raft_config_encode(&c, buf);
    ck_assert_int_eq(raft_restore_entry(r, &e), 0);
    for (uint64_t k = 2; k <= 4; k++) {
        e = (struct raft_entry){.index = k, .term = 3, .type = RAFT_ENTRY_DATA};
        ck_assert_int_eq(raft_restore_entry(r, &e), 0);
    }
    ck_assert_int_eq(raft_restore_done(r, 3), 0);
    m.append.prev_index = 2; /* a heartbeat behind something else */
    m.append.prev_term = 5;
    for (int k = 0; k < 2; k++) {
        ck_assert_int_eq(raft_step(r, &ev, &up), 0);
        if (up.flags & RAFT_SAVE_STATE) {
            struct raft_event saved = {.type = RAFT_EV_STATE_SAVED, .now = NS_PER_S, .seq = up.state_seq};

            ck_assert_int_eq(raft_step(r, &saved, &up), 0);
        }
        ck_assert(raft_parted(r));
        ck_assert(!(up.flags & RAFT_SEND));
        m.append.prev_index = 1; /* or something else where entries are committed */
        m.append.prev_term = 1;
        m.append.entries = &other;
        m.append.n = 1;
    }
    ck_assert_uint_eq(raft_term_at(r, 2), 3);
    m.append.n = 0; /* what is alike is no sign of anything */
    ck_assert_int_eq(raft_step(r, &ev, &up), 0);
    ck_assert(!raft_parted(r));
    raft_free(r);
}
END_TEST

/* Alone, a member leads after its quiet time, commits when its disk has it, and always has the lease. */
START_TEST(single_member)
{
    struct net *net = start(1, 24, 0);

    net_run(net, 250);
    ck_assert_int_lt(net_leader(net), 0);
    net_run(net, 600);
    ck_assert_int_eq(net_leader(net), 0);
    ck_assert(net_lease(net, 0));
    ck_assert_int_eq(net_propose(net, 0, "x"), 0);
    ck_assert_uint_eq(commit_of(net, 0), 2);
    net_run(net, 5);
    ck_assert_uint_eq(commit_of(net, 0), 3);
    net_free(net);
}
END_TEST

/* Proposals wait for nobody, are sent together, and are refused when too much is uncommitted. */
START_TEST(backpressure)
{
    struct net *net = start(3, 25, 0);
    static uint8_t data[1 << 20];
    uint64_t index;
    int err = 0;
    int n = 0;

    elect(net, 0);
    net_run(net, 200);
    net_isolate(net, 0, true);
    while (err == 0 && n < 100) {
        err = raft_propose(net->nodes[0].core, data, sizeof data, &index);
        n += err == 0;
    }
    ck_assert_int_eq(err, -TC_E_BACKPRESSURE);
    ck_assert_int_eq(n, 64);
    net_heal(net);
    net_run(net, 2000);
    settle(net);
    net_free(net);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("raft");
    TCase *tc = tcase_create("scripts");
    SRunner *sr;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, golden_failover);
    tcase_add_test(tc, golden_figure7);
    tcase_add_test(tc, figure8);
    tcase_add_test(tc, golden_figure8);
    tcase_add_test(tc, prevote_does_not_disrupt);
    tcase_add_test(tc, higher_term_comes_back);
    tcase_add_test(tc, check_quorum);
    tcase_add_test(tc, paused_loop);
    tcase_add_test(tc, lease_and_restarting_voter);
    tcase_add_test(tc, lease_begins_with_own_entry);
    tcase_add_test(tc, golden_transfer);
    tcase_add_test(tc, no_lease_after_timeout_now);
    tcase_add_test(tc, stalled_disk_hands_over);
    tcase_add_test(tc, golden_lost_disk);
    tcase_add_test(tc, blank_member_does_not_count);
    tcase_add_test(tc, golden_snapshot);
    tcase_add_test(tc, log_is_bounded);
    tcase_add_test(tc, golden_snapshot_resume);
    tcase_add_test(tc, membership_is_checked);
    tcase_add_test(tc, golden_membership);
    tcase_add_test(tc, promoted_knows_itself);
    tcase_add_test(tc, leader_is_removed);
    tcase_add_test(tc, golden_reads);
    tcase_add_test(tc, reads_ask_a_quorum);
    tcase_add_test(tc, config_codec);
    tcase_add_loop_test(tc, restore, 0, (int)ARRAY_SIZE(restores));
    tcase_add_test(tc, given_up_leader);
    tcase_add_test(tc, single_member);
    tcase_add_test(tc, backpressure);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    srunner_free(sr);
    return 0;
}
