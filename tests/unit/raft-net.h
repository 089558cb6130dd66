/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated network of Raft cores for tests: one thread, one seed. Messages are lost, doubled,
 * delayed and reordered as asked; disks lose what was not synced; clocks run at different rates;
 * nodes crash, stop, and lose their disks. After each event the safety properties are checked; the
 * first that fails is kept in violation[] (nothing is asserted here, so that a test can show that a
 * run without one of the rules fails).
 */
#pragma once

#include <stdio.h>

#include "raft/raft.h"

enum { NET_NODES_MAX = 7, NET_INDEX_MAX = 1 << 14 };

struct net_rec {
    struct raft_entry e; /* owns its data */
};

struct net_node {
    uint64_t id;
    struct raft *core; /* NULL: down */
    uint32_t life;     /* events of a former life are dropped */
    uint64_t paused_until;
    bool no_tick; /* scripts: it hears and answers, but never starts anything by itself */
    int64_t clock_offset;
    uint32_t clock_permille; /* rate, 1000 is true */
    uint64_t tick_at;
    uint64_t disk_at; /* the disk does one thing after the other */
    /* Durable. */
    uint64_t term, vote, incarnation;
    uint64_t base_index, base_term;
    struct raft_config base_config;
    uint64_t fsm_index, fsm_hash;
    struct net_rec *recs;
    size_t n_recs, cap_recs, n_synced;
    /* In memory. */
    uint64_t applied, hash;
    uint64_t snap_id, snap_index, snap_hash; /* made for others */
    uint32_t snap_life;
    uint64_t in_hash;                        /* being received */
    uint32_t in_len;
    /* For traces. */
    enum raft_role last_role;
    uint64_t last_term, last_commit;
    uint32_t last_learners;
    uint64_t seen_commit;
    uint64_t read_seq, read_commit[64]; /* by number of a read: what was committed anywhere when it began */
};

struct net_event;

struct net {
    uint64_t now; /* true time, ns */
    uint64_t rng;
    uint64_t seq;
    uint32_t n;
    struct net_node nodes[NET_NODES_MAX];
    struct net_event **heap;
    size_t n_heap, cap_heap;
    uint32_t rules_off;
    uint64_t log_bytes_max; /* 0: the default */
    bool cut[NET_NODES_MAX][NET_NODES_MAX]; /* from, to: nothing arrives */
    /* Chances in 1/1000, times in ns. */
    uint32_t loss, twice, late;
    uint64_t delay_min, delay_spread, late_max;
    uint64_t disk_min, disk_spread;
    uint32_t disk_slow; /* chance that a write takes up to disk_slow_max */
    uint64_t disk_slow_max;
    uint32_t crash_at_save; /* chance to crash and restart while term and vote are being saved */
    FILE *trace;
    uint64_t traced[NET_NODES_MAX][NET_NODES_MAX]; /* last match shown: equal ones are not */
    uint64_t hold_type_from; /* scripts: messages (type << 8 | from) are kept, see net_release() */
    struct raft_msg held;
    bool has_held;
    /* What all must agree on. */
    uint64_t commit;                      /* the highest that any node knew committed */
    uint64_t committed_term[NET_INDEX_MAX];
    uint64_t committed_in[NET_INDEX_MAX]; /* term in which that became known */
    uint64_t applied_hash[NET_INDEX_MAX]; /* of the state after that index; 0 unknown */
    uint64_t leader_of[1 << 12];          /* by term */
    uint64_t elections, snapshots, promotions, proposals, changes, reads, reads_failed;
    char violation[200];
};

/* @n nodes, all voters, formatted (entry 1 is the configuration), perfect network and disks. */
struct net *net_new(uint32_t n, uint64_t seed, uint32_t rules_off);
struct net *net_free(struct net *net);
uint64_t net_random(struct net *net, uint64_t bound);
/* Run for @ms of true time, or until a violation. */
void net_run(struct net *net, uint64_t ms);
void net_start(struct net *net, uint32_t i); /* after net_new, a crash or a wipe */
void net_crash(struct net *net, uint32_t i);
void net_wipe(struct net *net, uint32_t i); /* a crash that takes the disk; starts blank next time */
void net_pause(struct net *net, uint32_t i, uint64_t ms);
void net_isolate(struct net *net, uint32_t i, bool cut); /* both ways, from all */
void net_heal(struct net *net);
/* Replace the log of a node that is down: the terms of entries 2.. */
void net_preload(struct net *net, uint32_t i, const uint64_t *terms, uint32_t n, uint64_t term);
/* -1 if it refuses. */
int net_propose(struct net *net, uint32_t i, const char *text);
int net_event(struct net *net, uint32_t i, uint32_t type, uint64_t peer, uint64_t index);
/* Node @i is asked for a read: 0, and later counted in reads or reads_failed. One that is older than what was
 * committed anywhere when it began is a violation. */
int net_read(struct net *net, uint32_t i);
/* Node @i is told to make @peer what @role says (enum raft_member_role). */
int net_change(struct net *net, uint32_t i, uint64_t peer, uint32_t role);
/* Take a checkpoint and compact, keeping @keep entries. */
void net_compact(struct net *net, uint32_t i, uint64_t keep);
int net_leader(const struct net *net); /* the live leader of the highest term, or -1 */
bool net_lease(const struct net *net, uint32_t i);
void net_release(struct net *net); /* deliver the held message now */
void net_status(const struct net *net, uint32_t i, struct raft_status *s);
/* All up, one leader, everyone a voter and at the same applied index and hash. */
bool net_converged(const struct net *net);
/* One run with everything that can happen, drawn from @seed. True if no property failed. */
bool net_random_run(uint64_t seed, uint32_t rules_off, char *ret_violation, size_t size,
                    uint64_t counters[6]);
