/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Raft core: a pure state machine. raft_step() takes one event (a message, a tick, "entries up
 * to here are durable") with the time it happened, and says in a raft_update what the driver has to
 * do. It owns no thread, clock, socket or file, and knows nothing of what the entries mean. All
 * times are nanoseconds of one monotonic clock that counts suspend.
 *
 * What the driver owes the core:
 *  - It obeys the update in the order of its flags, before the next step. Everything an update
 *    points to is borrowed until the next raft_*() call that changes the core.
 *  - Term and vote named by RAFT_SAVE_STATE are made durable, then RAFT_EV_STATE_SAVED is given.
 *    The core itself holds its messages back until then.
 *  - Entries named by RAFT_SAVE_ENTRIES are appended to the log in order; an entry whose index is
 *    already there replaces it and all behind it. When durable: RAFT_EV_PERSISTED with the same
 *    sequence number (a later number covers the earlier ones).
 *  - Entries up to apply_to are applied in order, then RAFT_EV_APPLIED. Only entries that are
 *    durable on this member are offered, so a store is never ahead of its own log.
 *  - It ticks at update.deadline or earlier.
 *
 * A member is named by (id, incarnation). The incarnation is 0 for a member formatted with the
 * cluster and a fresh random number for one that lost its disk, its log or its term and vote. It
 * votes, and its acknowledgements count, only where the configuration names its incarnation: so a
 * member that forgot what it promised is no voter until the leader has committed it as a learner,
 * filled it, and promoted it. The leader does these three by itself.
 *
 * The log behind the base (what compaction dropped) is in memory; raft_log_bytes() says how much,
 * and the driver bounds it by checkpoints and compaction. When it does not come to that, a leader
 * refuses proposals and a follower takes no entries until it has; a follower that lags holds no more than half of
 * that back: then it gets a newer snapshot.
 */
#pragma once

#include "common/base.h"

enum {
    RAFT_MEMBERS_MAX = 9,      /* voters and learners of one group */
    RAFT_WINDOW_MAX = 128,     /* append messages in flight per follower */
    RAFT_BATCH_MAX = 4096,     /* entries in one append message */
    RAFT_OUT_MAX = 256,        /* messages of one step, or held while the term is saved */
    RAFT_READS_MAX = 256,      /* reads waiting for their index */
    RAFT_CONFIG_BYTES_MAX = 2 + RAFT_MEMBERS_MAX * 17,
};

enum raft_role { RAFT_FOLLOWER, RAFT_PRECANDIDATE, RAFT_CANDIDATE, RAFT_LEADER };

enum raft_entry_type {
    RAFT_ENTRY_NOOP = 1,   /* the first entry of a leader's term */
    RAFT_ENTRY_DATA = 2,   /* for the state machine */
    RAFT_ENTRY_CONFIG = 3, /* a configuration, then bytes for the state machine (genesis) or none */
};

struct raft_entry {
    uint64_t index;
    uint64_t term;
    const uint8_t *data;
    uint32_t len;
    uint32_t type; /* enum raft_entry_type */
};

enum raft_member_role {
    RAFT_REMOVED = 0,
    RAFT_VOTER = 1,
    RAFT_LEARNER = 2, /* was a voter and lost its disk: votes again by itself when it is filled */
    RAFT_STANDBY = 3, /* added by command: a learner until it is promoted by command */
};

struct raft_member {
    uint64_t id; /* never 0 */
    uint64_t incarnation;
    uint32_t role; /* any but RAFT_REMOVED */
};

struct raft_config {
    uint32_t n;
    struct raft_member members[RAFT_MEMBERS_MAX]; /* ascending id */
};

/* -- messages ------------------------------------------------------------------------------- */

enum raft_msg_type {
    RAFT_MSG_PREVOTE = 1,
    RAFT_MSG_PREVOTE_RES = 2,
    RAFT_MSG_VOTE = 3,
    RAFT_MSG_VOTE_RES = 4,
    RAFT_MSG_APPEND = 5, /* also the heartbeat, when without entries */
    RAFT_MSG_APPEND_RES = 6,
    RAFT_MSG_SNAPSHOT = 7,
    RAFT_MSG_SNAPSHOT_RES = 8,
    RAFT_MSG_TIMEOUT_NOW = 9,
    RAFT_MSG_READ = 10, /* from which index on may I answer reads? */
    RAFT_MSG_READ_RES = 11,
};

struct raft_msg {
    uint32_t type; /* enum raft_msg_type */
    uint64_t from, to;
    uint64_t term;        /* the sender's current term, in a pre-vote too */
    uint64_t incarnation; /* of the sender */
    union {
        struct {
            uint64_t term; /* the term asked for: term + 1 in a pre-vote */
            uint64_t last_index, last_term;
            bool transfer; /* the leader asked for this election: it holds no lease */
        } vote;
        struct {
            uint64_t term; /* the term that was asked for */
            bool granted;
        } vote_res;
        struct {
            uint64_t prev_index, prev_term;
            uint64_t commit;
            uint64_t sent_at; /* leader's clock; the answer echoes it: leases run from it */
            const struct raft_entry *entries;
            uint32_t n;
        } append;
        struct {
            uint64_t match;   /* durable here and known to be as in the leader's log */
            uint64_t sent_at; /* newest sent_at heard from this leader */
            uint64_t prev_index, hint_index, hint_term; /* of a rejection */
            bool reject;
        } append_res;
        struct {
            uint64_t id; /* random, one per snapshot made */
            uint64_t index, index_term;
            uint64_t offset, sent_at;
            const struct raft_config *config; /* as of index */
            const uint8_t *data;
            uint32_t len;
            bool last;
        } snapshot;
        struct {
            uint64_t id;
            uint64_t offset; /* everything below is stored; the next piece wanted */
            uint64_t sent_at;
            bool done;   /* installed, or not needed: match says up to where */
            bool failed; /* could not be stored or did not verify: start again */
            uint64_t match;
        } snapshot_res;
        struct {
            uint64_t last_index, last_term;
        } timeout_now;
        struct {
            uint64_t id; /* the asker's own */
            uint64_t index;
            bool failed;
        } read;
    };
};

/* -- events --------------------------------------------------------------------------------- */

enum raft_event_type {
    RAFT_EV_TICK,
    RAFT_EV_RECV,
    RAFT_EV_FLUSH,       /* end of a turn: send and save what was proposed */
    RAFT_EV_STATE_SAVED, /* seq of the RAFT_SAVE_STATE that is durable */
    RAFT_EV_PERSISTED,   /* seq of the RAFT_SAVE_ENTRIES that is durable */
    RAFT_EV_APPLIED,     /* index */
    RAFT_EV_TRANSFER,    /* hand leadership to peer, 0 for the best */
    RAFT_EV_CHANGE,      /* change one member: peer, incarnation, member_role, data (see below) */
    RAFT_EV_READ,        /* seq: may I answer a read from the applied state? See RAFT_READS */
    RAFT_EV_COMPACT,     /* drop the log up to index: the store holds it durably */
    /* leader: answers to raft_want */
    RAFT_EV_SNAP_MADE,   /* peer, snap_id, index: a snapshot as of index exists */
    RAFT_EV_SNAP_PIECE,  /* peer, snap_id, offset, data, len, last */
    RAFT_EV_SNAP_FAILED, /* peer: none can be made or read now */
    /* follower: answers to RAFT_STORE_PIECE */
    RAFT_EV_SNAP_STORED,    /* snap_id, offset: everything below it is stored */
    RAFT_EV_SNAP_INSTALLED, /* snap_id: the state machine is now that snapshot */
    RAFT_EV_SNAP_REFUSED,   /* snap_id: storing or verifying failed */
};

struct raft_event {
    uint32_t type; /* enum raft_event_type */
    uint64_t now;  /* the only clock the core ever sees, ns */
    const struct raft_msg *recv; /* borrowed for the call */
    uint64_t seq;
    uint64_t index;
    uint64_t peer;
    uint64_t incarnation;
    uint32_t member_role; /* enum raft_member_role */
    uint64_t snap_id, offset;
    const uint8_t *data; /* borrowed until the update has been obeyed */
    uint32_t len;
    bool last;
};

/* -- updates -------------------------------------------------------------------------------- */

enum { /* what changed; the driver obeys in this order */
    RAFT_SAVE_STATE = 1u << 0,   /* term, vote: durable; answered by RAFT_EV_STATE_SAVED */
    RAFT_SAVE_ENTRIES = 1u << 1, /* save_first..save_last; answered by RAFT_EV_PERSISTED */
    RAFT_SEND = 1u << 2,         /* msgs */
    RAFT_APPLY = 1u << 3,        /* apply up to apply_to; answered by RAFT_EV_APPLIED */
    RAFT_ROLE = 1u << 4,         /* role, term or leader changed: see raft_status() */
    RAFT_WANT = 1u << 5,         /* leader: wants[] of snapshot pieces */
    RAFT_STORE_PIECE = 1u << 6,  /* follower: piece; offset 0 begins anew */
    RAFT_CONFIG = 1u << 7,       /* the configuration changed: see raft_config_now() */
    RAFT_LOG_RESET = 1u << 8,    /* the whole log was replaced by a snapshot's position */
    RAFT_READS = 1u << 9,        /* reads: what became of those that were asked for */
};

/* A lagging follower needs a snapshot (snap_id 0: make one, or use a fresh one), or its piece. */
struct raft_want {
    uint64_t peer;
    uint64_t snap_id;
    uint64_t offset;
    uint64_t refused; /* the last one that this follower refused, or 0: perhaps it is damaged where it was made */
};

/* The applied state is now no older than the RAFT_EV_READ of that number was; or nobody can say (failed). */
struct raft_read {
    uint64_t seq;
    bool failed;
};

struct raft_update {
    uint32_t flags;
    uint64_t state_seq, term, vote;             /* SAVE_STATE */
    uint64_t save_seq, save_first, save_last;   /* SAVE_ENTRIES: read with raft_entry_at() */
    const struct raft_msg *msgs;                /* SEND */
    uint32_t n_msgs;
    uint64_t apply_to;                          /* APPLY */
    struct raft_want wants[RAFT_MEMBERS_MAX];   /* WANT */
    uint32_t n_wants;
    const struct raft_msg *piece;               /* STORE_PIECE: the SNAPSHOT message */
    const struct raft_read *reads;              /* READS */
    uint32_t n_reads;
    uint64_t deadline;                          /* always: tick no later */
};

/* -- the core ------------------------------------------------------------------------------- */

/* Test switches: a set bit turns one rule OFF. Zero everywhere but in tests that show its worth. */
enum raft_rule {
    RAFT_RULE_PREVOTE = 1u << 0,
    RAFT_RULE_QUIET_HEARD = 1u << 1, /* no vote within election_min of hearing a leader */
    RAFT_RULE_QUIET_START = 1u << 2, /* nor of the own start */
    RAFT_RULE_LEASE_FROM_SEND = 1u << 3,
    RAFT_RULE_LEASE_OWN_TERM = 1u << 4,
    RAFT_RULE_COMMIT_OWN_TERM = 1u << 5,
    RAFT_RULE_PERSIST_BEFORE_ACK = 1u << 6,
    RAFT_RULE_STATE_BEFORE_SEND = 1u << 7,
    RAFT_RULE_NO_LEASE_AFTER_TRANSFER = 1u << 8,
    RAFT_RULE_INCARNATION = 1u << 9,
    RAFT_RULE_VOTE_UP_TO_DATE = 1u << 10,
    RAFT_RULE_ANSWER_LOWER_TERM = 1u << 11,
    RAFT_RULE_LEADER_PERSISTED = 1u << 12, /* the leader counts itself only when durable */
    RAFT_RULE_READ_QUORUM = 1u << 13, /* a read without a lease asks a quorum first */
    RAFT_RULE_STALL = 1u << 14, /* a leader whose disk stalls hands over */
    RAFT_RULE_CHECK_QUORUM = 1u << 15, /* a leader that hears no quorum steps down */
    RAFT_RULE_LEARNERS = 1u << 16,     /* who learns only counts for nothing */
    RAFT_RULE_ONE_CHANGE = 1u << 17,   /* no change before the last, and an entry of the term, is committed */
    RAFT_RULE_SNAPSHOT_ID = 1u << 18,  /* pieces of two snapshots never mix */
    RAFT_RULE_STOOD_STILL = 1u << 19,  /* whose loop stood still waits again before it judges others */
    RAFT_RULE_TRANSFER_ENDS = 1u << 20, /* a transfer that fails ends with the leader stepping down */
    RAFT_RULE_SNAPSHOT_SUM = 1u << 21,  /* the driver's: a snapshot's checksum is looked at */
};

struct raft_cfg {
    uint64_t id;
    uint64_t now;
    uint64_t seed; /* of the election jitter */
    /* What was durable. */
    uint64_t term, vote, incarnation;
    uint64_t base_index, base_term;
    struct raft_config base_config; /* n is 0 for a member that knows of none */
    /* 0 takes the default. */
    uint64_t heartbeat;              /* 50 ms */
    uint64_t election_min;           /* 300 ms */
    uint64_t election_max;           /* 600 ms */
    uint64_t disk_stall;             /* 1200 ms: a leader whose disk is silent hands over */
    uint64_t append_bytes_max;       /* 256 KiB of data in one append */
    uint64_t window_bytes_max;       /* 4 MiB in flight per follower */
    uint64_t uncommitted_bytes_max;  /* 64 MiB; above, proposals are refused */
    uint64_t log_bytes_max;          /* 256 MiB of log in memory; above, nothing is added to it */
    uint32_t rules_off;              /* enum raft_rule, tests only */
};

struct raft;

/* Borrows @cfg for the call. Returns: caller frees with raft_free(). */
struct raft *raft_new(const struct raft_cfg *cfg);
struct raft *raft_free(struct raft *r);

/* Before the first step: the durable entries of the log in the order they were written (an entry
 * of another term replaces what is at its index and behind it), then raft_restore_done(). Copies @e.
 * Errors: -TC_E_BAD_MESSAGE for an entry that makes no sense. */
TC_MUST_CHECK int raft_restore_entry(struct raft *r, const struct raft_entry *e);
/* @applied is the state machine's durable position.
 * Errors: -TC_E_DAMAGED if entries are missing in between, or before @applied. */
TC_MUST_CHECK int raft_restore_done(struct raft *r, uint64_t applied);

/*
 * Errors, of those events that can fail: -TC_E_NOT_LEADER, -TC_E_BUSY (a configuration change or
 * transfer is under way, or no entry of this term is committed yet), -TC_E_INVAL. Messages never
 * fail: what makes no sense is ignored. RAFT_EV_READ: -TC_E_NOT_LEADER (nor is one known), -TC_E_BACKPRESSURE.
 *
 * RAFT_EV_CHANGE: member_role RAFT_STANDBY adds, RAFT_VOTER promotes, RAFT_REMOVED removes; data is
 * what the state machine sees of the entry. Refused beside the above with -TC_E_EXIST (a member, a
 * voter, already), -TC_E_NOENT (no member), -TC_E_LIMIT (too many), -TC_E_UNREACHABLE (does not
 * answer, or not from the disk that was added), -TC_E_AGAIN (too far behind to vote), -TC_E_INVAL
 * (the last voter), -TC_E_NO_QUORUM (the voters that answer now are no majority afterwards). A
 * leader that is removed leads until that is committed, hands over, and steps down.
 */
TC_MUST_CHECK int raft_step(struct raft *r, const struct raft_event *ev, struct raft_update *up);

/* Append an entry of the leader; nothing is sent or saved before the next step (RAFT_EV_FLUSH), so
 * that what is proposed in one turn travels together. Copies @data.
 * Errors: -TC_E_NOT_LEADER (also while handing over), -TC_E_BACKPRESSURE. */
TC_MUST_CHECK int raft_propose(struct raft *r, const void *data, uint32_t len, uint64_t *ret_index);

/* May this member answer reads from its applied state at @now, without asking anybody? */
bool raft_lease_valid(const struct raft *r, uint64_t now);
/* When the lease as it stands ends; 0 for none. */
uint64_t raft_lease_end(const struct raft *r);

/* The entry at @index, NULL if it is not in the log. Borrowed until the next step. */
const struct raft_entry *raft_entry_at(const struct raft *r, uint64_t index);
/* Term of @index: of an entry or of the base; 0 if unknown. */
uint64_t raft_term_at(const struct raft *r, uint64_t index);
size_t raft_log_bytes(const struct raft *r);

/* The configuration in force (the newest in the log), and the one as of @index. Borrowed. */
const struct raft_config *raft_config_now(const struct raft *r);
const struct raft_config *raft_config_at(const struct raft *r, uint64_t index);
const struct raft_member *raft_config_find(const struct raft_config *c, uint64_t id);
/* The form of a configuration at the head of a CONFIG entry. Returns the length. */
uint32_t raft_config_encode(const struct raft_config *c, uint8_t buf[RAFT_CONFIG_BYTES_MAX]);
/* Returns the length used, or -TC_E_BAD_MESSAGE. */
TC_MUST_CHECK int raft_config_decode(const uint8_t *data, size_t len, struct raft_config *ret);

enum raft_peer_state { RAFT_PEER_PROBE, RAFT_PEER_REPLICATE, RAFT_PEER_SNAPSHOT };

struct raft_peer_status {
    uint64_t id;
    uint32_t member_role;
    uint64_t incarnation;
    enum raft_peer_state state;  /* the rest: as a leader sees it */
    uint64_t match, next;
    uint64_t heard_at;           /* when it last answered, 0 for never in this term */
    uint64_t snapshot_offset;
    uint32_t snapshot_refusals;  /* in a row */
    bool self;
    bool blank; /* its disk is not the one that the configuration names */
};

struct raft_status {
    uint64_t id, incarnation, term, vote, leader;
    enum raft_role role;
    uint64_t first, last, persisted, commit, applied;
    bool voter;        /* this member is a voter of the configuration it knows */
    bool transferring; /* a leader that is handing over */
    bool installing;   /* a snapshot is being received */
    bool parted;       /* the leader's log lacks what is committed here: nothing of it is taken */
    uint64_t config_index;
    uint32_t n_peers;
    struct raft_peer_status peers[RAFT_MEMBERS_MAX];
};

/* raft_status.parted */
bool raft_parted(const struct raft *r);
void raft_get_status(const struct raft *r, struct raft_status *ret);

/* One line for traces, always terminated. Returns what snprintf would. */
int raft_msg_format(const struct raft_msg *m, char *buf, size_t size);
const char *raft_role_name(enum raft_role role);
