/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only a leader's memory knows of leases (PROTOCOL section 3): who holds S and O on which inode, the
 * queues of requests per inode, the recalls under way, and the caching generations. X is in the state
 * machine (fsm.h); here it is only recalled. Pure: time comes as an argument, nothing is sent from here.
 *
 * An operation that may conflict is a lease_op. It names up to four inodes and enters all their queues at
 * once, so there is no order in which two could wait for each other. It moves
 *
 *   IDLE ──► QUEUED ──► RECALLING ──► PROPOSED ──► IDLE      (lease_op_finish from any state)
 *               ▲            │
 *               └── requeue ─┘   (names resolved to other inodes meanwhile)
 *
 * An operation leaves QUEUED when none ahead of it on any of its inodes is QUEUED or RECALLING, and none
 * PROPOSED is in its way (lease_mode). What is in RECALLING or PROPOSED marks its inodes as changing: answers
 * about them bear no counter and give no S.
 *
 * Recall numbers come from one counter of the leader's, (term << 32) + n, so they grow per (session, inode); an answer
 * bears the counter as of when it was read.
 */
#pragma once

#include <uthash.h>

#include "common/schema.h"

#define LEASE_OP_INOS 4
#define LEASE_REFS_MAX (2u << 20)

struct leases;
struct lease_op;
struct lease_recall;
struct lease_ref;
struct lease_inode;

/* A session as the leader's leases see it. Embedded in the server's own; id set by its owner. */
struct lease_session {
    uint64_t id;
    uint64_t gen_n;         /* generation (term of the leases, n) */
    uint64_t caching_until; /* now() up to which it may be caching, by the leader's count */
    bool asserted;          /* its complete list of this generation has come */
    struct lease_ref *refs;
    uint32_t n_refs;
    struct lease_recall *recalls; /* not acknowledged yet, oldest first */
    uint64_t list_gen;            /* generation that a paged list is coming in for */
    uint32_t list_page;
};

enum lease_op_state { LEASE_OP_IDLE, LEASE_OP_QUEUED, LEASE_OP_RECALLING, LEASE_OP_PROPOSED };

enum lease_mode {
    LEASE_MODE_CHANGE,    /* changes names, nlink, attributes: others like it may be proposed beside it */
    LEASE_MODE_EXCLUSIVE, /* takes X: nobody else's beside it */
    LEASE_MODE_READ,      /* takes S: after everything proposed */
};

struct lease_slot { /* an operation's place in the queue of one inode */
    struct lease_op *op;
    uint64_t ino;
    struct lease_inode *inode; /* while queued */
    uint8_t mode;
    struct lease_slot *prev, *next;
};

struct lease_op {
    uint64_t session;
    enum lease_op_state state;
    unsigned n;
    struct lease_slot slots[LEASE_OP_INOS]; /* ascending inodes once queued */
    unsigned waits;                         /* recalls not completed yet */
    bool on_ready;
    struct lease_op *prev, *next; /* ready list */
};

/* The queue and the recalls of the locks of an inode are those of an inode of their own. */
#define LEASE_LOCKS_OF(ino) ((ino) | UINT64_C(1) << 63)

/* Kinds of waiting beside enum recall_kind that nobody is told of. */
enum { LEASE_WAIT_RECOVERY = 100 };

struct lease_waiter {
    struct lease_op *op;
    struct lease_waiter *next;
};

struct lease_recall {
    uint64_t ino;
    struct lease_session *session; /* NULL: LEASE_WAIT_RECOVERY */
    uint32_t kind;
    uint64_t number;
    uint64_t gterm, gcount; /* the grant it names */
    bool of_x;              /* ends when the state machine says that X has ended (ASK: was committed) */
    bool orphan;            /* ATTR: the inode has no name any more */
    char *name;             /* ENTRY; owned */
    uint32_t name_len;
    uint64_t progress_at;
    uint64_t sent_at;     /* 0: not sent yet */
    uint64_t disowned_at; /* of X: the session said that it does not hold it */
    struct lease_waiter *waiters;
    struct lease_recall *prev, *next; /* session->recalls */
};

struct lease_ref {
    struct lease_inode *inode;
    struct lease_session *session;
    uint32_t kinds; /* LEASE_O, LEASE_S */
    uint64_t gterm, gcount;
    uint64_t gen_n;      /* generation it was granted or listed in */
    uint64_t request_id; /* that it answered last: a retry gets the same grant */
    bool listed;
    uint64_t orphan_at;   /* next to be asked whether it is needed (lease_ask_orphan); 0: not yet thought of */
    uint64_t orphan_wait; /* between askings */
    struct lease_ref *prev, *next;   /* inode->refs */
    struct lease_ref *sprev, *snext; /* session->refs */
};

struct leases *leases_new(uint64_t term);
/* Sessions have been ended. Operations in queues are not touched. Accepts NULL. */
struct leases *leases_free(struct leases *l);
uint32_t leases_refs(const struct leases *l);

/* ---- sessions ---- */

/* Generation 1. @fresh: opened in this term, so it holds nothing and needs no list. */
void lease_session_init(struct leases *l, struct lease_session *s, bool fresh);
/* Everything it held is gone, every recall of it completed. */
void lease_session_end(struct leases *l, struct lease_session *s);
/* Its S become O, generation n+1 begins: it has to send its list. Recalls of S complete. */
void lease_session_drop_s(struct leases *l, struct lease_session *s);
/*
 * A page of its list. Counts only for the current generation, in order of pages from 0. Returns true
 * when the list is complete: what was not on it and is older than the generation is dropped. An S on the first list
 * of a term is taken, or the generation ends: the session must not believe that it holds one.
 */
bool lease_session_list(struct leases *l, struct lease_session *s, const struct lease_list_req *req);

/* ---- grants ---- */

/* Grant @kinds (S, O). @request_id tells a retry. NULL: too many references. The counter to answer with is
 * lease_counter(). Never call with S while lease_changing(). */
struct lease_ref *lease_give(struct leases *l, struct lease_session *s, uint64_t ino, uint32_t kinds,
                              uint64_t request_id);
/* X of this entry was granted: what the session held goes on as O under that id, until X ends. */
void lease_x_granted(struct leases *l, struct lease_session *s, uint64_t ino, uint64_t gterm, uint64_t gcount);
/* X (gterm, gcount) has ended; @keep (S, O or 0) remains under the id (gterm, new_gcount). Completes recalls of it. */
void lease_x_ended(struct leases *l, struct lease_session *s, uint64_t ino, uint64_t gterm, uint64_t gcount,
                   uint32_t keep, uint64_t new_gcount);
/* The session holds L of @ino no longer: recalls of it complete. */
void lease_locks_ended(struct leases *l, struct lease_session *s, uint64_t ino);
/* Release S or O: only the id named. */
void leases_release(struct leases *l, struct lease_session *s, const struct lease_item *item);
struct lease_ref *lease_find(struct leases *l, const struct lease_session *s, uint64_t ino);
bool lease_any_ref(struct leases *l, uint64_t ino);
/* The references of an inode, linked by next; NULL: none. */
struct lease_ref *lease_refs_of(struct leases *l, uint64_t ino);
/* A recall or a change of this inode is under way, other than @own's (may be NULL): no counter, no S. */
bool lease_changing(struct leases *l, uint64_t ino, const struct lease_op *own);
/* The counter that an answer read now bears. */
uint64_t lease_counter(const struct leases *l);
/* From the proposal of a reap to its end nothing is granted. */
void lease_set_reaping(struct leases *l, uint64_t ino, bool on);
bool lease_reaping(struct leases *l, uint64_t ino);

/* ---- operations ---- */

/* Add @ino to an IDLE operation's set (an inode named twice counts once, the stronger mode). */
void lease_op_add(struct lease_op *op, uint64_t ino, enum lease_mode mode);
/* IDLE -> QUEUED. */
void lease_op_enqueue(struct leases *l, struct lease_op *op);
/* May it leave its queues now? */
bool lease_op_admissible(const struct lease_op *op);
/* Is an operation PROPOSED ahead of it of which @clash says that it must have been applied before? */
bool lease_op_clashes(const struct lease_op *op, bool (*clash)(const struct lease_op *ahead, const struct lease_op *op));
/* QUEUED -> RECALLING. */
void lease_op_begin(struct lease_op *op);
/* What went past the queue (lease_op_bypass) since it left it may take what this one needs: it waits in RECALLING, and
 * is on the ready list when that has ended. */
bool lease_op_blocked(const struct lease_op *op);
/* RECALLING -> PROPOSED. */
void lease_op_proposed(struct leases *l, struct lease_op *op);
/* IDLE -> PROPOSED at the head of its queues: what must not wait behind a recall (PROTOCOL 3.4). */
void lease_op_bypass(struct leases *l, struct lease_op *op);
/* Out of all queues and waits, IDLE and empty. Whoever may go on is on the ready list. */
void lease_op_finish(struct leases *l, struct lease_op *op);
/* The next operation that may have to move (admissible, or its waits are over); NULL: none. */
struct lease_op *lease_ready_next(struct leases *l);

/* ---- recalls ---- */

/*
 * Recall S of @ino from everyone but @except, for @op. A session whose caching right has run out is not
 * waited for: it loses S and its generation. ENTRY bears @name (copied).
 */
void lease_recall_s(struct leases *l, struct lease_op *op, uint64_t ino, uint64_t except, uint32_t kind,
                    struct wire_str name, uint64_t now);
/* Tell the holder @s of X (gterm, gcount) for @op: ALL or DOWNGRADE (until X ends), ASK (until it has committed; one
 * not sent yet is shared), ATTR (until acknowledged). */
void lease_recall_x(struct leases *l, struct lease_op *op, uint64_t ino, struct lease_session *s, uint32_t kind,
                    uint64_t gterm, uint64_t gcount, uint64_t now);
/* @r is of an inode without a name. Ask its session, now and then, whether it needs it still: grants that it could not
 * use, and names that its kernel keeps, would hold the inode for as long as the session lives. */
void lease_ask_orphan(struct leases *l, struct lease_ref *r, uint64_t now);
/* Wait for the recovery of @ino (lease_recovered). True: it is the first, so recovery has to be begun. */
bool lease_wait_recovery(struct leases *l, struct lease_op *op, uint64_t ino);
void lease_recovered(struct leases *l, uint64_t ino);
bool lease_recovering(struct leases *l, uint64_t ino);
/*
 * An acknowledgement of recall item->recall. Returns the recall if it is one of X that this does not complete
 * (the session says that it does not hold X: the server ends it in the state machine); else NULL.
 */
struct lease_recall *leases_ack(struct leases *l, struct lease_session *s, const struct lease_item *item);
/* The session committed under its X of @ino: an ASK with number <= @number completes; others see progress. */
void lease_committed(struct leases *l, struct lease_session *s, uint64_t ino, uint64_t number, uint64_t now);
/* The session has written out data of inodes that are recalled from it. */
void lease_progress(struct lease_session *s, uint64_t now);
/* Recalls of S of sessions whose caching right has run out by @now are given up, as in lease_recall_s(). */
void lease_expire_caching(struct leases *l, struct lease_session *s, uint64_t now);
/* An operation waits for @op's inode? For tests. */
unsigned lease_queue_length(struct leases *l, uint64_t ino);
