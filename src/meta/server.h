/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member of the metadata group: the state machine (fsm.h) behind Raft (replica.h), and around them
 * what only a leader's memory holds: S and O leases and recalls, sessions' liveness, stores' health,
 * recovery of unclean inodes, the reaper, the planner of placement.
 *
 * One member is one struct meta_server on one env; all of it runs on the env's loop and never blocks
 * there. A process may hold several (the simulator does, each on its own env).
 *
 * The port answers every message type below 100 (schema.h) and the members' own from 100 to 129. Requests
 * that need the leader are answered NOT_LEADER with a LEADER_MSG as body by the others. FORMAT, STATUS and
 * WHO_LEADS are answered by any member, formatted or not.
 */
#pragma once

#include "common/env.h"
#include "common/kv.h"

struct meta_server;

struct meta_member {
    uint32_t id; /* 1.. */
    const char *endpoint; /* "tcp://host:port", as the others and the clients reach it */
};

struct meta_server_config {
    uint32_t id;
    const struct meta_member *members; /* all of the configuration, this one too; copied */
    unsigned n_members;
    const char *listen; /* NULL: own endpoint of members */
    const char *dir;    /* data directory; created if absent */
    const char *cluster; /* name in the configuration: a directory of another is refused; NULL: not checked */
    bool kv_mem;        /* kv_open_mem() on the env's vfs instead of RocksDB */
    uint64_t kv_cache_bytes;
    /* Times in ms; 0 takes the default in parentheses. */
    uint64_t heartbeat_ms;      /* 50 */
    uint64_t election_min_ms;   /* 300 */
    uint64_t election_max_ms;   /* 600 */
    uint64_t session_ttl_ms;    /* 10000: PROTOCOL 2.4 */
    uint64_t session_idle_ms;   /* 300000: silent for so long, a session is expired unasked */
    uint64_t caching_ms;        /* 2000: PROTOCOL 3.1 */
    uint64_t recall_timeout_ms; /* 30000: no acknowledgement and no progress */
    uint64_t recall_resend_ms;  /* 100 */
    uint64_t store_suspect_ms;  /* 1000 */
    uint64_t store_down_ms;     /* 1800: noticed within 2 s */
    uint64_t rebuild_after_ms;  /* 0: a store that is down so long more has its copies made elsewhere */
    uint64_t checkpoint_ms;     /* 30000 */
    uint64_t checkpoint_bytes;  /* 64 MiB of log */
    uint64_t check_interval_ns; /* its files are read again so often; 0: only by command */
    uint32_t keep_entries;      /* 10000: of the log, behind a checkpoint */
    uint64_t sweep_ms;          /* 1000: turns of the reaper, the sweeper and the planner */
    /* Test switches: a set bit turns one rule OFF (enum meta_rule). Zero in production. */
    uint32_t rules_off;
    uint32_t raft_rules_off; /* enum raft_rule (raft.h) */
    uint32_t fsm_rules_off;  /* enum fsm_rule (fsm.h) */
    /* The member can promise nothing more (a disk failed) and is to be closed. May be NULL. */
    void (*failed)(void *arg, int err, const char *what);
    void *arg;
};

enum meta_rule {
    META_RULE_RECALL = 1u << 0,        /* mutations and X grants wait for recalls */
    META_RULE_LEASE_READ = 1u << 1,    /* reads only inside the leader lease */
    META_RULE_GRACE = 1u << 2,         /* a new leader waits for re-assertions */
    META_RULE_ASK_HOLDER = 1u << 3,    /* attributes under another's X are asked from the holder */
    META_RULE_SIZE_RECOVERY = 1u << 4, /* operations wait for 3.6 (a) */
    META_RULE_REAP_REFS = 1u << 5,     /* open inodes are not reaped */
    META_RULE_CLOCK = 1u << 6,         /* times in the log never fall, whatever the leader's clock says */
};

/*
 * Start the member. Blocking (start-up only): opens the store and replays the log behind it. On error a
 * line for a human that names the cause is in @why (may be NULL). Errors: ADDRINUSE, LOCKED_DIR, WRONG_CLUSTER,
 * VERSION, DAMAGED, ACCES, IO, NOSPC, CONFIG.
 */
TC_MUST_CHECK int meta_server_open(struct env *env, const struct meta_server_config *cfg, char *why, size_t why_size,
                                   struct meta_server **ret_server);

/* Planned stop: hand leadership over if it has it, then @done (at most @timeout_ms later). Close follows. */
void meta_server_stop(struct meta_server *s, uint64_t timeout_ms, void (*done)(void *arg), void *arg);

/* Free at once, as a crash would leave it. Accepts NULL, returns NULL. */
struct meta_server *meta_server_close(struct meta_server *s);

/* For tests and the simulator. */
struct fsm;
bool meta_server_leads(const struct meta_server *s); /* inside its lease */
struct fsm *meta_server_fsm(struct meta_server *s);  /* NULL: not formatted */
uint64_t meta_server_applied(const struct meta_server *s);
struct replica_status;
void meta_server_group(const struct meta_server *s, struct replica_status *ret); /* replica.h */
/* The status document (MSG_STATUS) as JSON text. Returns: caller frees. */
char *meta_server_status_json(struct meta_server *s);
/* Hand leadership to another member, if this one leads; false: it does not, or cannot now. */
bool meta_server_transfer(struct meta_server *s);
/* Begin a checkpoint now. */
void meta_server_checkpoint(struct meta_server *s);
