/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What keeps the metadata: checkpoints by command, dumps of a consistent view while everything goes on, and
 * loading one into a new group (fsm_load.c).
 *
 * A dump is a view of the store, taken by the leader inside its lease and kept until it was read to its end or
 * nobody asked for DUMP_IDLE. Its pieces are read by a disk job that holds the lock; who drops the dump takes the
 * lock, so that the store is not closed under a reader.
 */
#include "meta/server_internal.h"

#include <pthread.h>

#include "meta/kv_dump.h"

#define DUMP_PIECE_BYTES (256u << 10)
#define DUMP_IDLE (20 * NS_PER_S)

/* ---- checkpoints ---- */

static void checkpoint_answer(struct meta_server *s, struct checkpoint_waiter *w, int status)
{
    struct checkpoint_res res = {.index = s->checkpoint_index, .micros = (env_now(s->env) - w->began) / 1000};

    server_reply(s, w->peer, w->id, MSG_CHECKPOINT, status, status ? NULL : &checkpoint_res_schema, status ? NULL : &res);
    free(w);
}

void checkpoint_request(struct meta_server *s, const struct request *q)
{
    struct checkpoint_waiter *w;

    if (!s->fsm || s->failed) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_NO_GENESIS, NULL, NULL);
        return;
    }
    w = tc_calloc(1, sizeof(*w));
    *w = (struct checkpoint_waiter){q->peer, q->id, fsm_applied(s->fsm), env_now(s->env), NULL};
    if (s->checkpoint_index >= w->index) {
        checkpoint_answer(s, w, 0);
        return;
    }
    LL_PREPEND(s->checkpoint_waiters, w);
    meta_server_checkpoint(s); /* one that runs already may have begun too early: checkpoint_done() begins another */
}

void checkpoint_done(struct meta_server *s, int status)
{
    struct checkpoint_waiter *w, *tmp;

    LL_FOREACH_SAFE (s->checkpoint_waiters, w, tmp) {
        if (status == 0 && w->index > s->checkpoint_index)
            continue;
        LL_DELETE(s->checkpoint_waiters, w);
        checkpoint_answer(s, w, status);
    }
    if (s->checkpoint_waiters)
        meta_server_checkpoint(s);
}

/* ---- dump ---- */

struct dump {
    struct env_job job;
    struct meta_server *s; /* NULL: dropped while the job runs; the job's end frees it */
    struct kv *kv;
    struct kv_snapshot *view; /* NULL: dropped */
    pthread_mutex_t lock;
    uint64_t id, index, term, used_at;
    bool busy;
    /* the piece being read */
    struct waiter waiter;
    struct buf *from, *next;
    struct buf *rows;
    uint64_t count;
    int status;
};

static void dump_free(struct dump *d)
{
    pthread_mutex_destroy(&d->lock);
    buf_unref(d->from);
    buf_unref(d->next);
    buf_unref(d->rows);
    free(d);
}

void dump_drop(struct meta_server *s)
{
    struct dump *d = s->dump;

    s->dump = NULL;
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    kv_snapshot_free(d->kv, d->view);
    d->view = NULL;
    d->s = NULL;
    pthread_mutex_unlock(&d->lock);
    if (!d->busy)
        dump_free(d);
}

static void dump_run(struct env_job *j)
{
    struct dump *d = container_of(j, struct dump, job);

    pthread_mutex_lock(&d->lock);
    d->status = d->view ? kv_dump_piece(d->kv, d->view, d->from, DUMP_PIECE_BYTES, &d->rows, &d->next, &d->count)
                        : -TC_E_CANCELLED;
    pthread_mutex_unlock(&d->lock);
}

static struct wire_bin bin_of(const struct buf *b)
{
    return b ? (struct wire_bin){b->data, b->len} : (struct wire_bin){0};
}

static void dump_done(struct env_job *j)
{
    struct dump *d = container_of(j, struct dump, job);
    struct meta_server *s = d->s;
    struct dump_res res = {.id = d->id, .index = d->index, .rows = bin_of(d->rows), .count = d->count,
                           .next = bin_of(d->next)};

    d->busy = false;
    if (!s) {
        dump_free(d);
        return;
    }
    server_reply(s, d->waiter.peer, d->waiter.id, MSG_DUMP, d->status, d->status ? NULL : &dump_res_schema,
                 d->status ? NULL : &res);
    d->rows = buf_unref(d->rows);
    d->from = buf_unref(d->from);
    if (d->status == 0 && !d->next)
        dump_drop(s); /* that was all */
    else
        d->next = buf_unref(d->next);
}

static void dump_begin(struct meta_server *s, const struct request *q)
{
    struct dump *d = s->dump;
    struct dump_res res = {0};
    struct buf *genesis;

    if (d && (d->busy || env_now(s->env) - d->used_at < DUMP_IDLE)) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_BUSY, NULL, NULL);
        return;
    }
    dump_drop(s);
    d = tc_calloc(1, sizeof(*d));
    pthread_mutex_init(&d->lock, NULL);
    d->s = s;
    d->kv = s->kv;
    d->view = kv_snapshot_new(s->kv);
    d->id = env_random(s->env) | 1;
    d->index = fsm_applied(s->fsm);
    d->term = fsm_applied_term(s->fsm);
    d->used_at = env_now(s->env);
    s->dump = d;
    genesis = wire_encode(&genesis_schema, fsm_genesis(s->fsm));
    res = (struct dump_res){.id = d->id, .index = d->index, .term = d->term, .time = fsm_clock(s->fsm),
                            .genesis = bin_of(genesis)};
    LOG_INFO("meta", "a dump begins", "index=%llu", (unsigned long long)d->index);
    server_reply(s, q->peer, q->id, q->type, 0, &dump_res_schema, &res);
    buf_unref(genesis);
}

void dump_request(struct meta_server *s, const struct request *q)
{
    const struct dump_req *req = q->msg;
    struct dump *d = s->dump;

    if (req->id == 0) {
        dump_begin(s, q);
        return;
    }
    if (!d || d->id != req->id) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_STALE, NULL, NULL);
        return;
    }
    if (d->busy)
        return; /* asked twice: the answer comes */
    d->used_at = env_now(s->env);
    d->busy = true;
    d->waiter = (struct waiter){q->peer, q->id};
    d->from = req->from.n ? buf_copy(req->from.p, req->from.n) : NULL;
    d->count = 0;
    d->job = (struct env_job){.run = dump_run, .done = dump_done};
    env_job_submit(s->env, s->jobs, &d->job);
}

/* ---- load ---- */

static void load_applied(struct meta_server *s, struct meta_op *op, int status)
{
    (void)op;
    if (s->load_waiter.id)
        server_reply(s, s->load_waiter.peer, s->load_waiter.id, MSG_LOAD, status, NULL, NULL);
    s->load_waiter.id = 0;
    if (status == 0 && !fsm_loading(s->fsm)) {
        LOG_INFO("meta", "a dump was loaded", "index=%llu", (unsigned long long)fsm_applied(s->fsm));
        s->lead_again = true;
        server_turn(s);
    }
}

void load_request(struct meta_server *s, const struct request *q)
{
    int r = internal_propose(s, CMD_LOAD, &load_req_schema, q->msg, load_applied, NULL);

    s->load_waiter = (struct waiter){q->peer, q->id};
    if (r < 0) {
        s->load_waiter.id = 0;
        server_reply(s, q->peer, q->id, q->type, r, NULL, NULL);
    }
}

void backup_end(struct meta_server *s)
{
    struct checkpoint_waiter *w, *tmp;

    LL_FOREACH_SAFE (s->checkpoint_waiters, w, tmp) {
        LL_DELETE(s->checkpoint_waiters, w);
        free(w);
    }
    dump_drop(s);
}
