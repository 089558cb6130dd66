/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the quorum engine: stores, requests, and the parts of operations that go to one replica.
 *
 * An operation (qop) has one qitem per voter. A queued item waits in its store's list until the end of
 * the loop turn; then what goes to one store leaves as one message (a qrequest), within that store's
 * window. A reply is matched by the request's id (slot and generation); an item that left its request
 * (operation over, or resent) is NULL there, and what the reply says of it is dropped.
 *
 * Item states:
 *
 *   IDLE ──► QUEUED ──► SENT ──► ACKED
 *     ▲         │         │
 *     └─────────┴─────────┴───► FAILED (status; may be queued again by its operation's timer)
 */
#pragma once

#include <uthash.h>
#include <utlist.h>

#include "client/quorum.h"

#define QUORUM_ITEMS_MAX (2 * PG_VOTERS_MAX)
/* One message: large enough to amortize it, small enough to keep a slow store's pipe short. */
#define QUORUM_MSG_ITEMS_MAX 256u
#define QUORUM_MSG_BYTES_MAX (4u << 20)
/* In flight to one store; beyond it items wait in the queue (their memory is the caller's budget). */
#define QUORUM_WINDOW_BYTES (32u << 20)
#define QUORUM_WINDOW_REQUESTS 128u
/* A request unanswered this long is sent again (lost message, restarted store), doubling up to the maximum. */
#define QUORUM_RESEND_MIN (1 * NS_PER_S)
#define QUORUM_RESEND_MAX (8 * NS_PER_S)
/* After W, how long the rest is waited for before all_done(false). */
#define QUORUM_LAGGARD_WAIT (500 * NS_PER_MS)
/* A store that left a request unanswered this long is asked last. */
#define QUORUM_SUSPECT_AFTER (100 * NS_PER_MS)
/* A store silent this long gets one message at a time, at this distance, until it answers. */
#define QUORUM_SILENT_AFTER (1 * NS_PER_S)
#define QUORUM_PROBE_EVERY (500 * NS_PER_MS)
/* What is unanswered this long is forgotten: its window is free again. */
#define QUORUM_FORGET_AFTER (4 * NS_PER_S)
#define QUORUM_HEDGE_MIN (2 * NS_PER_MS)
#define QUORUM_HEDGE_MAX (50 * NS_PER_MS)
#define QUORUM_RETRY_DELAY (20 * NS_PER_MS)
/* Background repairs of laggards at one time; further ones are left to the next read or to recovery. */
#define QUORUM_REPAIRS_MAX 64u

enum qitem_state { QITEM_IDLE, QITEM_QUEUED, QITEM_SENT, QITEM_ACKED, QITEM_FAILED };
enum qop_kind { QOP_WRITE, QOP_READ, QOP_SEEK };
enum qitem_set { QSET_C1 = 1, QSET_C2 = 2 };

struct qitem {
    struct qop *op;
    uint64_t store;
    enum qitem_state state;
    uint8_t set;      /* enum qitem_set bits */
    bool want_data;   /* reads */
    int status;       /* FAILED: why */
    uint64_t sent_at;
    struct qrequest *req;
    uint32_t req_pos;
    struct qitem *prev, *next; /* in the store's queue */
};

struct qop {
    struct quorum *q;
    enum qop_kind kind;
    uint32_t pg;
    uint64_t pg_epoch;
    struct qitem items[QUORUM_ITEMS_MAX];
    unsigned n_items;
    struct env_timer timer;
    struct qop *prev, *next; /* all operations of the engine */
    bool blocked;            /* waits for a session or a map */
    uint64_t resend_delay;
    uint64_t started;
};

struct qwrite_op {
    struct qop op;
    struct qwrite *w;
    bool repair;
    uint64_t pair_epoch, pair_seq;
    bool reported; /* done() ran */
    uint64_t reported_at;
    struct env_task done_task;
    int done_status;
    bool all;
};

struct qread_op {
    struct qop op;
    struct qread *r;
    struct qblock *votes[QUORUM_ITEMS_MAX]; /* per item: count blocks, as that replica answered */
    struct buf *payloads[QUORUM_ITEMS_MAX]; /* what votes[i] points into */
    struct qblock *result;
    bool finished;  /* result taken by r; freed by quorum_read_free */
    bool abandoned; /* the caller let go while blocks are written back: the last of those frees */
    unsigned repairs_pending;
    int repair_status;
    struct env_task done_task;
    int done_status;
};

struct qseek_op {
    struct quorum *q;
    struct qseek *s;
    struct qseek_op *prev, *next; /* q->seeks */
    uint64_t map_epoch;
    struct qseek_voter *voters;   /* by store */
    uint32_t n;
    uint32_t pg; /* those before have R votes */
    struct env_timer timer;
    struct env_task done_task;
    int status;
};

struct qstore {
    uint64_t id;
    char *endpoint;
    struct quorum *q;
    struct net_port *port;
    struct qitem *write_queue, *read_queue;
    struct qrequest *requests; /* in flight, oldest first */
    uint32_t n_requests;
    uint64_t bytes_in_flight;
    uint64_t hedge_estimate; /* running p95 of answers, ns */
    uint64_t last_sent;
    uint64_t silent_since; /* something is unanswered since then; 0: nothing is */
    bool other;            /* another store listens at its address: as if it were silent for long */
    UT_hash_handle hh;
};

struct qrequest {
    uint64_t id;
    struct qstore *store;
    enum qop_kind kind;
    uint64_t sent_at;
    uint64_t bytes;
    struct qseek_op *seek; /* QOP_SEEK; NULL: it no longer cares */
    uint32_t n;
    struct qrequest *prev, *next;
    UT_hash_handle hh;
    struct {
        struct qitem *it; /* NULL: its operation no longer cares */
        bool want_data;   /* as asked: the answer's payload is laid out by it */
    } items[];
};

struct quorum {
    struct env *env;
    struct quorum_owner owner;
    uint64_t cluster_tag;
    struct qstore *stores;
    struct qrequest *by_id;
    uint64_t next_id;
    struct qop *ops;
    struct qseek_op *seeks;
    struct env_task send_task;
    struct env_timer sweep_timer;
    struct wire_arena arena;
    unsigned n_repairs;
};

/* engine */
void qop_init(struct quorum *q, struct qop *op, enum qop_kind kind);
void qop_fini(struct qop *op);             /* leaves queues, requests and the engine's list */
bool qop_place(struct qop *op, uint64_t ino, uint32_t index); /* items from the map; false: no map yet (blocked) */
void qitem_queue(struct qitem *it);
void qitem_leave(struct qitem *it); /* queue or request: becomes IDLE */
struct qstore *quorum_store(struct quorum *q, uint64_t id);
bool qstore_suspect(const struct qstore *s, uint64_t now);
void quorum_stale_map(struct quorum *q);

/* Errors: those of the way there, BACKPRESSURE, UNREACHABLE. Else qseek_on_result() or qseek_on_fail() follows, or quorum_forget_seek(). */
TC_MUST_CHECK int quorum_ask_seek(struct qseek_op *o, uint64_t store, const struct chunk_seek_req *req);
void quorum_forget_seek(struct qseek_op *o);

/* seeks (quorum_seek.c) */
void qseek_on_result(struct qseek_op *o, uint64_t store, const struct chunk_seek_res *res);
void qseek_on_fail(struct qseek_op *o, uint64_t store);
void qseek_on_map(struct quorum *q);
void qseek_on_fenced(struct quorum *q);
void qseek_close(struct quorum *q); /* no callbacks */

/* writes */
void qwrite_fill(struct qwrite_op *o, struct write_item *ret);
void qwrite_on_result(struct qwrite_op *o, struct qitem *it, const struct write_result *res);
void qwrite_on_fail(struct qwrite_op *o, struct qitem *it, int status);
void qwrite_on_map(struct qwrite_op *o);
void qwrite_on_fenced(struct qwrite_op *o);
void qwrite_free(struct qwrite_op *o); /* no callback: the engine closes */
/* Write back blocks read: @known are stores that have this version already. Takes @data. */
void quorum_repair(struct quorum *q, const struct qread *r, uint32_t first, uint32_t count, struct buf *data,
                   const uint64_t *known, unsigned n_known, void (*done)(void *arg, int status), void *arg);

/* reads */
void qread_fill(struct qread_op *o, const struct qitem *it, struct read_item *ret);
/* @payload: the frame; @off: where this item's data begins. Returns bytes of payload used, or -BAD_MESSAGE. */
int64_t qread_on_result(struct qread_op *o, struct qitem *it, const struct read_result *res, struct buf *payload,
                        uint64_t off);
void qread_on_fail(struct qread_op *o, struct qitem *it, int status);
void qread_on_map(struct qread_op *o);
/* Item @i becomes another store's: what it answered goes. */
void qread_forget(struct qread_op *o, unsigned i);
void qread_on_fenced(struct qread_op *o);
void qread_free(struct qread_op *o);
void qread_tick(struct qread_op *o);
