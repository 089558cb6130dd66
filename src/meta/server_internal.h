/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the metadata server share. For nobody else.
 *
 *   server.c            the member: port, dispatch, log entries, checkpoints
 *   server_lead.c       a term as leader: sessions, keepalives, recalls on their way, expiry
 *   server_mutations.c  requests that become log entries, until they are proposed
 *   server_applied.c    what became of them, and entries of the leader's own
 *   server_anywhere.c   the same without the leader lease, at any member
 *   server_reads.c      requests answered from the store
 *   server_backup.c     CHECKPOINT, DUMP, LOAD
 *   server_stores.c     stores: registration, beats, the PG table, transitions, gc
 *   server_recovery.c   unclean inodes (PROTOCOL 3.6)
 *   server_reap.c       orphans, and sessions to be forgotten
 *   server_members.c    the members' endpoints, META_CHANGE
 *   server_status.c     STATUS, FORMAT
 *
 * Everything that only a leader's memory holds is in struct lead, which lives from the moment this member's own
 * first entry of a term is applied to the moment it stops to lead.
 */
#pragma once

#include <uthash.h>
#include <utlist.h>

#include "common/aside.h"
#include "common/log.h"
#include "common/map.h"
#include "meta/fsm.h"
#include "meta/leases.h"
#include "meta/replica.h"
#include "meta/server.h"

#define TICK_MS 50
#define PEERS_MAX 4096       /* connections that a new leader announces itself to */
#define HELD_MAX 16384       /* requests that wait for this leader to become ready */
#define HELD_BYTES_MAX (32u << 20)
#define OPS_MAX 65536        /* operations in flight or queued, per leader */
#define OPS_RESERVED 4096    /* beside them, for what a recall needs: commits, and the leader's own */
#define OP_WAITERS 4         /* copies of one request that get an answer */
#define REAP_BATCH 256
#define RECALL_BATCH 512     /* items in one message */
#define MSG_STRUCT_MAX 1024  /* the largest struct of a request */
#define RECOVERIES_MAX 64    /* inodes being recovered at a time */
#define OPEN_TRIES 3         /* damage found one after the other: store, log, both */

struct waiter {
    uint64_t peer, id;
};

enum op_kind { OP_MUTATION, OP_READ, OP_INTERNAL };

/*
 * A request that has to wait: for a queue, a recall, a log entry. Owned by lead->ops from op_new() to
 * op_free(); answered at most once to each waiter.
 */
struct meta_op {
    struct lease_op lease; /* first */
    struct meta_server *s;
    enum op_kind kind;
    uint16_t type;
    uint64_t session;
    uint64_t key_session, seq; /* the key in lead->by_seq: (session, seq); SESSION_OPEN: (0, nonce); reads: READ_KEY */
    struct buf *frame;     /* the request; its strings borrow from it */
    struct slice body;
    void *msg;             /* decoded request */
    struct wire_arena arena; /* lists of msg */
    struct waiter waiters[OP_WAITERS];
    unsigned n_waiters;
    uint64_t started;
    bool proposed;    /* an entry is in the log */
    bool answered;    /* by another copy's entry: ends as soon as its waits are over */
    bool told;        /* S of others was recalled, holders of X told */
    uint64_t asked;   /* inode whose holder was asked for this request */
    uint64_t asked_x; /* that X's gcount */
    uint64_t inos[LEASE_OP_INOS]; /* what its names resolved to */
    unsigned n_inos;
    uint64_t resolved_at; /* the state as of this entry */
    uint64_t named[2];    /* UNLINK, RENAME: the inode behind each name, 0: none */
    /* OP_INTERNAL */
    void (*applied)(struct meta_server *s, struct meta_op *op, int status);
    void *arg;
    struct meta_op *prev, *next; /* lead->ops */
    UT_hash_handle hh;           /* lead->by_seq */
};

struct meta_session {
    struct lease_session lease; /* first; lease.id is the key */
    uint32_t incarnation;
    uint64_t peer; /* that spoke last for it */
    uint64_t heard_at;
    uint64_t progress; /* as its last keepalive said */
    bool expiring; /* proposed: no keepalive is answered any more */
    bool old;      /* lived before this term: may hold what we do not know */
    UT_hash_handle hh;
};

struct lead {
    uint64_t term;
    uint64_t began;
    struct leases *leases;
    struct meta_session *sessions;
    struct meta_op *ops, *by_seq;
    unsigned n_ops;
    unsigned unasserted; /* old sessions whose list is still to come */
    bool grace;          /* until they have asserted, or their caching right has run out */
    bool settled;        /* every old session asserted or expired: reaping may begin */
    uint64_t reap_after;
    bool reaping;
    struct recovery *recoveries; /* server_recovery.c */
    unsigned n_recoveries;
    struct fsm_unclean_cursor sweep;
    uint64_t sweep_at;
    uint64_t unclean_seen, unclean_count;
    bool pg_update_inflight, gc_trim_inflight, table_inflight;
    uint64_t table_wait_since;
    /* server_placement.c */
    uint8_t *plan_why;     /* per group: enum placement_reason */
    uint64_t *plan_former; /* per group: store that left it last */
    uint64_t plan_at;      /* next run of the planner; 0: now */
    uint32_t plan_waiting, plan_stuck;
    bool plan_idle; /* nothing moves and nothing is to move */
    bool admin_inflight;
    uint64_t admin_peer, admin_id; /* who waits for it */
    uint64_t reap_inos[REAP_BATCH];
    struct cmd_reap reap_cmd;
    uint64_t reaped_at, forgot_at;
};

/* A store as the leader hears it. Lives as long as the server: health is known at once in the next term. */
struct meta_store {
    uint64_t id;
    uint64_t heard_at; /* 0: never in this process */
    uint64_t start;
    uint64_t capacity, free, used, chunks, behind, gc_done, map_epoch;
    uint64_t found, repaired, unrepaired, scrubbed; /* damage, as its beats say */
    uint32_t scrub_permille, aside;
    uint64_t aside_bytes;
    uint64_t quota; /* groups that are its share, as planned last */
    uint32_t flags;
    bool down, serving;
    uint64_t *ready;  /* per PG: epoch reported ready */
    uint32_t n_ready;
    struct net_port *port; /* to it */
    char *endpoint;        /* of port */
    struct meta_server *s;
    UT_hash_handle hh;
};

/* Tasks and jobs may outlive the server (meta_server_close); then s is NULL. They free themselves. */
struct turn {
    struct env_task task;
    struct meta_server *s;
};

struct flush_job {
    struct env_job job;
    struct meta_server *s;
    struct kv *kv;
    bool orphan; /* kv is the job's to close */
    bool check;  /* it is also read again (server_check.c) */
    uint64_t index;
    int status, check_status;
};

struct space_job {
    struct env_job job;
    struct meta_server *s;
    struct vfs *vfs;
    char *dir;
    uint64_t total, free;
};

struct checkpoint_waiter {
    uint64_t peer, id;
    uint64_t index;
    uint64_t began;
    struct checkpoint_waiter *next;
};

struct meta_peer {
    uint64_t peer;
    uint64_t heard_at;
    UT_hash_handle hh;
};

struct held {
    uint64_t peer;
    struct buf *head, *payload;
    uint64_t at;
    struct held *prev, *next;
};

struct meta_server {
    struct env *env;
    struct meta_server_config cfg;
    char *dir;
    struct meta_member *members; /* of the configuration */
    unsigned n_members;
    struct net_port *port;
    struct vfs_file *lock;
    struct replica *replica;
    struct kv *kv;
    struct fsm *fsm;
    bool failed;
    struct aside_keeper *kept;
    char *aside, aside_why[REPLICA_WHY_MAX]; /* where damaged files are kept; NULL: there are none */
    uint64_t cluster_tag;
    uint64_t started;

    /* role */
    bool leads; /* as told by the replica */
    uint64_t leads_term;
    struct lead *lead;
    uint64_t last_time; /* of a command */
    uint64_t time_told, time_told_at; /* what server_time() said last, and when (env_now) */

    struct wire_arena arena; /* of the message being handled */
    struct meta_peer *peers;
    struct held *held;
    unsigned n_held;
    size_t held_bytes;
    struct anywhere *anywhere; /* reads that wait for their index */
    unsigned n_anywhere;
    struct meta_store *stores;
    uint64_t stores_swept;
    uint64_t serial; /* of requests to stores */

    struct env_timer tick;
    struct turn *turn; /* ready operations, recalls to send */
    struct env_queue *jobs;

    /* checkpoint */
    struct flush_job *flush; /* running */
    uint64_t flush_at;
    uint64_t checkpoint_index;
    struct checkpoint_waiter *checkpoint_waiters;

    struct { /* server_check.c */
        bool running, store, store_bad; /* store: the next checkpoint is to read it */
        uint32_t found;                 /* damaged files */
        uint64_t due, ended;            /* env_now; server_time, 0: never */
    } check;

    /* backup: one dump, one load at a time */
    struct dump *dump;
    struct waiter load_waiter; /* id 0: nobody waits */
    bool lead_again;           /* the state machine is another: begin to lead anew */

    /* stop */
    void (*stop_done)(void *arg);
    void *stop_arg;
    struct env_timer stop_timer;
    uint64_t stop_deadline;

    struct { /* of the members, under way: id is 0 when nobody waits for it */
        uint64_t peer, id, index, term;
    } change;

    /* format */
    bool formatting, genesis_new;
    uint64_t data_total, data_free; /* of the data directory's disk, as measured last */
    struct space_job *space; /* running */
    uint64_t space_at;

    struct meta_counters {
        uint64_t requests, reads, mutations, replies, bad, held, recalls, recall_resends, expired, proposals, joins,
            kept;
    } n;
};

/* A request being looked at; op: once it has had to wait. */
struct request {
    uint64_t peer, id;
    uint16_t type;
    struct buf *frame;
    struct slice body;
    const void *msg;
    const struct req_ctx *ctx; /* NULL: the message has none */
    struct meta_op *op;
};

/* ---- server.c ---- */
uint64_t server_time(struct meta_server *s); /* leader time, ns: what a command would bear now */
bool server_ready(struct meta_server *s); /* leads, has its lease, and lead */
/* Propose a command; @cookie comes back with its entry. */
TC_MUST_CHECK int server_propose(struct meta_server *s, uint32_t type, struct slice body, void *cookie);
void server_turn(struct meta_server *s); /* run the end-of-turn task */
void server_fail(struct meta_server *s, int err, const char *what);

/* ---- server_dispatch.c ---- */
void server_reply(struct meta_server *s, uint64_t peer, uint64_t id, uint16_t type, int status,
                  const struct wire_schema *schema, const void *body);
void server_reply_body(struct meta_server *s, uint64_t peer, uint64_t id, uint16_t type, int status, struct slice body);
void server_reply_not_leader(struct meta_server *s, uint64_t peer, uint64_t id, uint16_t type);
void server_leader_msg(struct meta_server *s, struct leader_msg *m);
void server_announce(struct meta_server *s);
void server_on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload); /* of the port */
void server_dispatch(struct meta_server *s, uint64_t peer, struct buf *head, struct buf *payload);
void server_hold(struct meta_server *s, uint64_t peer, struct buf *head, struct buf *payload);
void server_held_release(struct meta_server *s, bool drop); /* those held are dispatched anew, or dropped */

/* ---- server_store.c ---- */
extern const struct replica_ops server_replica_ops;
TC_MUST_CHECK int server_store_open(struct meta_server *s, const char *path);
void server_formatted(struct meta_server *s); /* the genesis is there: this member is one of a cluster */
void server_store_close(struct meta_server *s);
void server_checkpoint_tick(struct meta_server *s);
void server_space_tick(struct meta_server *s);

/* ---- server_lead.c ---- */
void lead_begin(struct meta_server *s);
void lead_end(struct meta_server *s);
void lead_tick(struct meta_server *s);
void lead_turn(struct meta_server *s);
void lead_effects(struct meta_server *s, const struct fsm_result *res);
struct meta_session *lead_session(struct meta_server *s, uint64_t id);
/* The request comes from a live session; remembers the peer. Answers SESSION_x itself otherwise. */
struct meta_session *session_of(struct meta_server *s, const struct request *q);
/* Silent for so long that it may be expired by whoever is held up by it. */
/* A lock of that session is in the way of another one: if it is dead, that is to be known. */
void lock_refused(struct meta_server *s, uint64_t session);
bool session_silent(const struct meta_server *s, const struct meta_session *x);
void session_expire(struct meta_server *s, struct meta_session *x, const char *why);
void keepalive(struct meta_server *s, const struct request *q);
void leases_list(struct meta_server *s, const struct request *q);
void lease_release_msg(struct meta_server *s, const struct request *q);
void recall_ack(struct meta_server *s, const struct request *q);

/* ---- server_mutations.c ---- */
struct meta_op *op_new(struct meta_server *s, enum op_kind kind, const struct request *q); /* NULL: too many */
#define OP_KEY_SIZE (2 * sizeof(uint64_t))
void op_free(struct meta_op *op);
void op_reply(struct meta_op *op, int status, struct slice body);
void op_ready(struct meta_op *op); /* from the ready list */
void op_join(struct meta_op *op, const struct request *q);
void mutation(struct meta_server *s, const struct request *q);
void mutation_start(struct meta_op *op);
/*
 * What stands between the committed attributes of @ino and an answer to @session: ask the holder of X, or
 * await size recovery, for @op. True if it has to wait. kind: RECALL_ASK, DOWNGRADE, ALL.
 */
bool op_wait_x(struct meta_op *op, uint64_t ino, uint32_t kind);

/* ---- server_applied.c ---- */
/* An entry was applied; @op NULL if it is not of this leader's proposing. */
void mutation_applied(struct meta_server *s, struct meta_op *op, struct fsm_result *res, uint16_t type,
                      const struct command *cmd);
/* A command of the leader's own: @applied follows, unless the lead ends before. */
int internal_propose(struct meta_server *s, uint32_t type, const struct wire_schema *schema, const void *body,
                     void (*applied)(struct meta_server *s, struct meta_op *op, int status), void *arg);
/* End X of @ino, unclean: its holder says that it does not hold it. */
void release_unknown_x(struct meta_server *s, struct meta_session *x, uint64_t ino);

/* ---- server_reads.c ---- */
void read_request(struct meta_server *s, struct request *q);
void read_ready(struct meta_op *op);
/* Fill @g with a grant of @want to @x, or with the S that it has. The counter is of before the changes under way
 * other than @own's (may be NULL): 0 if there are any. False: nothing to send. */
bool grant_fill(struct meta_server *s, struct meta_session *x, uint64_t ino, uint32_t want, uint64_t request_id,
                const struct lease_op *own, struct grant *g);

/* ---- server_anywhere.c ---- */
/* A read that needs no lease was taken in; false: it is not one. */
bool anywhere_begin(struct meta_server *s, const struct request *q);
void anywhere_done(void *arg, void *cookie, int err);
void anywhere_end(struct meta_server *s);

/* ---- server_stores.c ---- */
void store_register(struct meta_server *s, const struct request *q);
void store_beat(struct meta_server *s, const struct request *q);
void stores_tick(struct meta_server *s);
void stores_free(struct meta_server *s);
struct meta_store *store_find_health(struct meta_server *s, uint64_t id); /* NULL: never heard here */
bool store_up(struct meta_server *s, uint64_t id);
/* The port to a store, opened when first needed; NULL: unknown or not possible. */
struct net_port *store_port(struct meta_server *s, uint64_t id);
/* Some store that lives has little room: what is written behind may meet a full disk. */
bool stores_tight(struct meta_server *s);
void store_capacity(struct meta_server *s, uint64_t *ret_total, uint64_t *ret_free, uint64_t *ret_used);

/* ---- server_placement.c ---- */
void placement_tick(struct meta_server *s);
void placement_soon(struct meta_server *s);  /* something changed: the planner runs with the next tick */
void placement_ready(struct meta_server *s); /* newcomers reported */
void placement_end(struct lead *l);
void node_admin(struct meta_server *s, const struct request *q);

/* ---- server_recovery.c ---- */
void recovery_size(struct meta_server *s, uint64_t ino); /* begin 3.6 (a), if it is not under way */
void recovery_turn(struct meta_server *s);
void recovery_tick(struct meta_server *s);
void recovery_end(struct meta_server *s); /* with the lead */
void recovery_on_reply(struct meta_server *s, uint64_t store, const struct wire_header *h, struct slice body);

/* ---- server_reap.c ---- */
void reap_tick(struct meta_server *s, uint64_t now);

/* ---- server_members.c ---- */
void members_refresh(struct meta_server *s); /* the state machine may know other members now */
void members_seen(void *arg, struct slice data);
void members_applied(struct meta_server *s, uint64_t index, uint64_t term, const struct fsm_result *res);
void members_change(struct meta_server *s, const struct request *q);
/* The state machine, as far as it has got here, does not know this member: it was removed, or its addition has not
 * arrived yet. It takes no part (the core sees to that) and hears whatever is sent to it. */
bool members_outside(const struct meta_server *s);

/* ---- server_check.c ---- */
void check_begin(struct meta_server *s);
void check_tick(struct meta_server *s);
void check_store_done(struct meta_server *s, int status);
void check_request(struct meta_server *s, const struct request *q);

/* ---- server_backup.c ---- */
void checkpoint_request(struct meta_server *s, const struct request *q);
void checkpoint_done(struct meta_server *s, int status); /* answers who waits for it */
void dump_request(struct meta_server *s, const struct request *q);
void dump_drop(struct meta_server *s); /* the store is closed after it */
void load_request(struct meta_server *s, const struct request *q);
void backup_end(struct meta_server *s);

/* ---- server_status.c ---- */
void status_request(struct meta_server *s, const struct request *q);
void format_request(struct meta_server *s, const struct request *q);
void who_leads(struct meta_server *s, const struct request *q);
