/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the replica, shared by its files:
 *
 *  replica.c       life, steps and updates, callbacks
 *  replica_reads.c reads without the lease
 *  replica_peers.c where the members are, and changes of them
 *  replica_status.c what others may know
 *  replica_open.c  the start: what the directory is, the log replayed
 *  replica_log.c   journal records, term and vote, base, format
 *  replica_snap.c  snapshots out and in
 *  replica_disk.c  the small files
 *  replica_recover.c  the only member left, offline
 *  replica_check.c files read again while it runs
 *  replica_aside.c damage: what becomes of a directory that cannot be used
 *  raft_wire.c     messages
 *  kv_dump.c       a store as a stream
 */
#pragma once

#include <pthread.h>

#include "common/journal.h"
#include "meta/raft_wire.h"
#include "meta/replica.h"
#include "meta/replica_disk.h"

struct replica_peer_link {
    uint32_t id;
    char *endpoint;
    struct net_port *port; /* NULL for this member */
    uint64_t heard_at;
};

struct replica_proposal {
    uint64_t index, term;
    void *cookie;
};

/* One batch of entries on its way to the disk. */
struct replica_save {
    struct journal_req req;
    struct replica *r;
    struct replica_save *next; /* of those that wait for room on the disk */
    struct buf *data;
    uint64_t seq;   /* of the core's save; */
    bool last;      /* this is its last part */
    bool format;    /* the first entry of all */
    bool rewritten; /* the last of entries written anew; the core does not hear of it */
};

struct replica_read_wait {
    uint64_t seq; /* of the core's; 0: not asked yet */
    void *cookie;
    bool over;
    int err;
};

struct replica_mark { /* where in the journal entries are: a record begins with this index */
    uint64_t first, pos;
};

enum replica_out_state { SNAP_OUT_NONE, SNAP_OUT_EXPORTING, SNAP_OUT_READY };

struct replica_snap_job;

struct replica {
    struct env *env;
    const struct replica_ops *ops;
    void *arg;
    uint32_t id;
    char *dir, *kv_path;
    bool kv_mem;
    uint32_t keep;
    struct raft_cfg raft_cfg; /* times, rules */
    struct replica_peer_link peers[REPLICA_PEERS_MAX];
    unsigned n_peers;

    struct raft *core;
    struct journal *log;
    struct replica_state state;
    struct replica_base base;
    const char *damage; /* damage_text, or NULL: the files were whole, or the member votes again */
    char damage_text[REPLICA_WHY_MAX];
    bool parted; /* said in the log */
    bool own_heard; /* a message of the own cluster came */
    struct {
        uint64_t tag, from, since, n;
    } foreign; /* a leader of another cluster speaks */
    bool started, closing, failed;
    int fail_err; /* why it failed */
    unsigned jobs;          /* under way: the last one frees a closed replica */
    struct env_queue queue; /* of all jobs here */
    struct env_timer timer, retry_timer;
    struct env_task flush_task, work_task;
    uint64_t wrong_cluster, wrong_cluster_at;
    struct raft_wire_scratch scratch;

    /* log */
    struct replica_save *full_first; /* the disk was full: these are tried again */
    struct replica_mark *marks;
    size_t n_marks, cap_marks;
    bool state_busy, state_again;
    bool install_waits; /* for the base's write under way */
    uint64_t state_seq; /* the core's, newest asked for */
    bool base_busy;
    uint64_t compact_to;
    uint64_t save_seq; /* the core's, newest asked for */
    bool rewriting;    /* entries are written anew: what holds them now stays until that is durable */
    struct env_queue check_queue;
    bool checking;
    struct journal *check_log, *check_replaced; /* being read by a job; to be closed when it is done with it */
    struct {
        bool busy;
        struct buf *entry;
        uint64_t cluster;
        void (*done)(void *arg, int err);
        void *arg;
    } format;

    /* applying */
    uint64_t applied, apply_to;
    struct replica_proposal *proposals; /* ring by age */
    size_t prop_head, prop_n, prop_cap;
    struct replica_read_wait *reads; /* oldest first */
    size_t n_reads, cap_reads;
    uint64_t read_seq;
    void **lost;
    size_t n_lost, cap_lost;
    uint64_t leading; /* term in which this member leads, 0: it does not */
    bool members_changed;
    uint64_t told_term, told_leader;
    bool told_self, told_any, role_changed;

    /* snapshots */
    struct {
        enum replica_out_state state;
        uint64_t id, index, size;
        struct replica_snap_job *job;
        uint64_t verifying; /* the id that is read again, because a member refused it; 0: none */
        uint64_t waiting[RAFT_MEMBERS_MAX]; /* peers */
        unsigned n_waiting;
        struct raft_want wants[RAFT_MEMBERS_MAX]; /* to be begun by the work task */
        unsigned n_wants;
    } out;
    struct {
        uint64_t id, index, term;
        struct raft_config config;
        bool fresh_log;   /* the log is replaced, too */
        bool installed;   /* the owner is to be told */
        int refused;      /* why the last one was not taken, 0: it was */
        uint64_t kv_gen, log_gen;
        char *kv_path;
        struct journal *log;
    } in;
};

/* replica.c */
void replica_step(struct replica *r, struct raft_event *ev);
int replica_step_err(struct replica *r, struct raft_event *ev);
struct slice replica_entry_data(const struct raft_entry *e);
void replica_fail(struct replica *r, int err, const char *what);
/* A job is over: true if the replica was closed meanwhile (and may be gone now). */
bool replica_job_over(struct replica *r);
void replica_work(struct replica *r); /* callbacks are due: next turn */
void replica_core_new(struct replica *r); /* of state and base as they are, without entries */

/* replica_peers.c */
struct replica_peer_link *replica_link(struct replica *r, uint64_t id);
TC_MUST_CHECK int replica_link_open(struct replica *r, struct replica_peer_link *l);
/* A member that this one does not know said where it is: known from now on. NULL: no room, or it did not. */
struct replica_peer_link *replica_learn(struct replica *r, uint64_t id, struct wire_str endpoint);
void replica_members_work(struct replica *r);

/* replica_reads.c */
void replica_reads_ask(struct replica *r); /* end of the turn: one question for all that came in it */
void replica_reads_told(struct replica *r, const struct raft_update *up);
void replica_reads_work(struct replica *r);

/* replica_open.c */
TC_MUST_CHECK int replica_log_open(struct replica *r, char *why, size_t why_size);

/* replica_log.c */
#define REPLICA_RECORD_MAGIC UINT32_C(0x454c4354) /* "TCLE" */
enum { REPLICA_RECORD_HEAD = 16, REPLICA_RECORD_ENTRY = 16 };
void replica_mark_push(struct replica *r, uint64_t first, uint64_t pos); /* the record at @pos begins with entry @first */
void replica_log_retry(struct env_timer *t);
void replica_log_close(struct replica *r);
void replica_saves_drop(struct replica *r); /* those that wait for room */
void replica_save_entries(struct replica *r, uint64_t seq, uint64_t first, uint64_t last);
void replica_save_state(struct replica *r, uint64_t seq, uint64_t term, uint64_t vote);
void replica_compact_next(struct replica *r);
void replica_log_rewrite(struct replica *r); /* all entries, into new segments; then the old ones go */

/* replica_check.c */
void replica_journal_close(struct replica *r, struct journal *j); /* once nobody reads it */

/* replica_aside.c: blocking, but for replica_foreign(). */
void replica_damaged(struct replica *r, const char *why); /* sets damage; copies */
bool replica_marked(struct replica *r, enum replica_damage_kind *ret_kind);
/* Start anew beside what is there, as a member that does not vote. */
TC_MUST_CHECK int replica_set_aside(struct replica *r);
TC_MUST_CHECK int replica_set_kv_aside(struct replica *r); /* the log goes back to its first entry */
TC_MUST_CHECK int replica_set_state_aside(struct replica *r);
void replica_foreign(struct replica *r, uint64_t from, uint64_t tag, bool leads);

/* replica_snap.c */
void replica_snap_install(struct replica *r); /* the base may be written now */
void replica_snap_want(struct replica *r, const struct raft_want *w);
void replica_snap_work(struct replica *r); /* begin what is wanted; from the work task */
void replica_snap_store(struct replica *r, const struct raft_msg *piece);
/* The owner's kv is about to be closed: nobody reads it after this returns. */
void replica_snap_drop_out(struct replica *r);
void replica_snap_clean(struct replica *r); /* files of transfers that a crash left */
