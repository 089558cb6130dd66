/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the Raft core, shared by its files and by nothing else.
 *
 *  raft.c       events in, updates out, time
 *  log.c        the entries behind the base, what of them is durable
 *  config.c     configurations, from their append on
 *  election.c   votes (Raft 5.2, 5.4.1; pre-vote and check-quorum: Ongaro 9.6, 6.2)
 *  reads.c      reads without a lease
 *  replicate.c  the leader's side of append, commit, lease, transfer
 *  membership.c the leader changes the group
 *  follow.c     the follower's side of append
 *  snapshot.c   both sides of the snapshot transfer
 *  format.c     traces
 */
#pragma once

#include "common/error.h"
#include "raft/raft.h"

struct raft_log {
    uint64_t base_index, base_term; /* the entry before the first */
    struct raft_entry *entries;     /* base_index + 1 .. last are [head, head + n) */
    size_t head, n, cap;
    size_t bytes;
};

struct raft_save {
    uint64_t seq, last;
};

enum { RAFT_SAVES_MAX = 256 };

struct raft_config_at {
    uint64_t index;
    struct raft_config config;
};

struct raft_progress {
    uint64_t id;
    enum raft_peer_state state;
    uint64_t next, match;
    uint64_t incarnation; /* from its newest message; valid if heard_at */
    uint64_t heard_at;
    uint64_t echo;        /* newest sent_at it answered */
    uint64_t echo_at;     /* when that answer came (for a test switch only) */
    bool paused;          /* probe: one message is out */
    /* In flight, oldest first. */
    struct {
        uint64_t last;
        uint64_t bytes;
    } window[RAFT_WINDOW_MAX];
    uint32_t window_head, window_n;
    uint64_t window_bytes;
    /* Snapshot under way. */
    uint64_t snap_id, snap_index, snap_offset;
    uint64_t snap_refused; /* the id of the last one it refused, 0: none since one was begun */
    uint32_t snap_refusals; /* in a row: each is followed by twice the wait of the one before */
    uint64_t snap_retry_at;
    bool snap_wanted; /* the driver was asked for what comes next */
};

struct raft_pending_read {
    uint64_t id;
    uint64_t from;  /* who asked: this member, or a follower */
    uint64_t at;    /* when */
    uint64_t index; /* that has to be applied; 0: not known yet */
    bool confirmed;
};

struct raft {
    struct raft_cfg cfg;
    uint64_t rng;
    bool restore_gap; /* the newest restored record did not fit */
    uint64_t now;       /* of the step under way */
    uint64_t last_step; /* of the one before */
    uint32_t flags;     /* of the update under way */

    uint64_t term, vote;
    uint64_t incarnation;
    uint64_t state_seq, state_saved; /* newest asked for, newest durable */

    enum raft_role role;
    uint64_t leader; /* 0 for unknown */
    uint64_t heard;  /* when a leader was last heard of, or the own start */
    uint64_t election_deadline;
    bool transfer_vote; /* the election under way was asked for by the leader */
    uint64_t votes[RAFT_MEMBERS_MAX]; /* ids that granted */
    uint32_t n_votes;

    struct raft_log log;
    uint64_t saved;     /* entries up to here were handed to the driver */
    uint64_t persisted; /* and up to here they are durable */
    struct raft_save saves[RAFT_SAVES_MAX];
    uint32_t save_head, save_n;
    uint64_t save_seq;
    uint64_t save_since; /* when the oldest save under way began */
    uint64_t commit, applied, apply_asked;

    struct raft_config_at *configs; /* [0] is as of the base or before it */
    uint32_t n_configs, cap_configs;

    struct raft_pending_read reads[RAFT_READS_MAX];
    uint32_t n_reads;
    struct raft_read reads_out[2 * RAFT_READS_MAX]; /* of the update under way */
    uint32_t n_reads_out;
    uint64_t read_round; /* when the newest round for reads was sent */

    /* follower */
    bool parted;        /* the leader that spoke last has other entries where these here are committed */
    uint64_t verified;  /* up to here the log is as the leader's of this term */
    uint64_t acked;     /* newest match sent to it */
    uint64_t leader_sent_at;
    struct {
        uint64_t id, index, term, offset;
        struct raft_config config;
        bool busy;       /* the driver is storing a piece */
        bool installing; /* the last one */
    } snap;

    /* leader */
    struct raft_progress peers[RAFT_MEMBERS_MAX]; /* as the configuration, self included */
    uint32_t n_peers;
    uint64_t term_start;   /* index of this term's first entry */
    uint64_t heartbeat_at;
    uint64_t quorum_since; /* check-quorum is patient from here */
    uint64_t uncommitted_bytes;
    uint64_t change_sent_at; /* sent_at of answers that may ask for a change must be newer */
    bool transferring, lease_gone;
    uint64_t transfer_to, transfer_deadline;
    bool timeout_sent;

    struct raft_msg out[RAFT_OUT_MAX];
    uint32_t n_out;
    bool out_taken; /* the last update handed them out */
    struct raft_config out_config; /* of a snapshot message */
    const struct raft_msg *piece;
    struct raft_want wants[RAFT_MEMBERS_MAX];
    uint32_t n_wants;
};

/* raft.c */
bool raft_rule(const struct raft *r, uint32_t rule);
uint64_t raft_random(struct raft *r, uint64_t bound);
/* A message to fill in; a scratch one if too many are held (the network may drop). */
struct raft_msg *raft_send(struct raft *r, uint64_t to, uint32_t type);
void raft_state_changed(struct raft *r);
void raft_save_start(struct raft *r);

/* log.c */
uint64_t log_last(const struct raft *r);
uint64_t log_last_term(const struct raft *r);
void log_append(struct raft *r, const struct raft_entry *e);
bool log_full(const struct raft *r);
/* Drop @index and all behind it, in the configuration list too. */
void log_truncate(struct raft *r, uint64_t index);
void log_compact(struct raft *r, uint64_t index);
void log_reset(struct raft *r, uint64_t index, uint64_t term);
/* The largest position at or below @index whose term is not above @term. */
uint64_t log_find_conflict(const struct raft *r, uint64_t index, uint64_t term);
void log_persisted(struct raft *r, uint64_t seq);

/* config.c */
void config_push(struct raft *r, uint64_t index, const struct raft_config *c);
void config_pop_from(struct raft *r, uint64_t index);
void config_compact(struct raft *r, uint64_t index);
/* Is this member, in this incarnation, known to the configuration; is it a voter there? */
bool config_knows_self(const struct raft *r);
bool config_self_votes(const struct raft *r);
bool config_may_lead(const struct raft *r); /* may ask for votes */
uint32_t config_voters(const struct raft_config *c);
uint32_t config_quorum(const struct raft *r);

/* election.c */
void election_reset(struct raft *r);
void election_start(struct raft *r, bool transfer);
void become_follower(struct raft *r, uint64_t term, uint64_t leader);
void election_saved(struct raft *r);
bool election_quiet(const struct raft *r);
void on_vote(struct raft *r, const struct raft_msg *m);
void on_vote_res(struct raft *r, const struct raft_msg *m);
void on_timeout_now(struct raft *r, const struct raft_msg *m);

/* replicate.c */
void become_leader(struct raft *r);
void leader_config_changed(struct raft *r);
struct raft_progress *progress_find(struct raft *r, uint64_t id);
/* Does what this peer says count as a voter's? */
bool progress_counts(const struct raft *r, const struct raft_progress *p);
void progress_probe(struct raft *r, struct raft_progress *p, uint64_t next);
bool progress_heard(struct raft *r, struct raft_progress *p, const struct raft_msg *m,
                    uint64_t sent_at);
void leader_commit(struct raft *r);
/* When the newest round that a quorum answered was sent; UINT64_MAX for a quorum of one. */
uint64_t leader_quorum_echo(const struct raft *r);
void leader_flush(struct raft *r);
void leader_tick(struct raft *r);
int leader_transfer(struct raft *r, uint64_t to);
void on_append_res(struct raft *r, const struct raft_msg *m);
/* The @k-th largest of @n values, 1 the largest; 0 if there are fewer. Sorts @v. */
uint64_t kth_largest(uint64_t *v, uint32_t n, uint32_t k);

/* membership.c */
int leader_change(struct raft *r, const struct raft_event *ev);
void leader_mend_members(struct raft *r);
/* The configuration without this leader is committed: it goes. */
void leader_leave(struct raft *r);

/* reads.c */
int read_begin(struct raft *r, uint64_t id);
void reads_check(struct raft *r);
void reads_fail(struct raft *r); /* the leader is another one, or none */
bool reads_want_round(const struct raft *r);
void on_read(struct raft *r, const struct raft_msg *m);
void on_read_res(struct raft *r, const struct raft_msg *m);

/* follow.c */
void on_append(struct raft *r, const struct raft_msg *m);
void follower_ack(struct raft *r, bool always);
void follower_heard(struct raft *r, const struct raft_msg *m, uint64_t sent_at);

/* snapshot.c */
void snapshot_begin(struct raft *r, struct raft_progress *p);
void snapshot_want(struct raft *r, struct raft_progress *p);
void snapshot_tick(struct raft *r, struct raft_progress *p);
void snapshot_made(struct raft *r, const struct raft_event *ev);
void snapshot_piece(struct raft *r, const struct raft_event *ev);
void snapshot_stored(struct raft *r, const struct raft_event *ev);
void snapshot_installed(struct raft *r, const struct raft_event *ev);
void snapshot_refused(struct raft *r, const struct raft_event *ev);
void on_snapshot(struct raft *r, const struct raft_msg *m);
void on_snapshot_res(struct raft *r, const struct raft_msg *m);
