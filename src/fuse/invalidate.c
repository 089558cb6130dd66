/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dropping what the kernel has cached, without ever waiting for ourselves (docs/FUSE.md 3.1).
 *
 * A notification waits in the kernel for pages locked under a READ or a partial WRITE that we have not
 * answered yet, and that may itself wait for the lease whose recall asked for the notification. So:
 *  - notifications run in env jobs, never on the loop;
 *  - they leave out the ranges of requests in flight: a page locked under one is not up to date, nobody can
 *    read it before it is read afresh;
 *  - a request that arrives meanwhile supersedes each piece it overlaps: the piece's thread may hang on it
 *    until it is answered, and new pieces do the rest of the range around it;
 *  - the range of a READ that was answered meanwhile is done once more before the end, as its pages may
 *    have been filled behind the notification.
 * done() runs when every piece that was not superseded has ended.
 */
#include "fuse/fuse_internal.h"

#include "common/log.h"

#define PAGE_MASK_LOW 4095ull
#define INVAL_PASSES_MAX 3
#define INVAL_AGAIN_MAX 16
#define INVAL_TRIES_MAX 300 /* of 1 ms: longer than any attribute is given out for */

struct range {
    uint64_t start, end;
};

struct inval {
    struct fuse_inode_io *io;
    struct inval_piece *pieces; /* running, not superseded */
    void (*done)(void *arg);
    void *done_arg;
    unsigned passes;
    unsigned n_again;
    struct range again[INVAL_AGAIN_MAX];
    struct env_task end_task;
    struct inval *prev, *next;
};

struct inval_piece {
    struct env_job job;
    struct tc_mount *m;
    struct inval *inval; /* NULL: superseded, or on its own (then done is set) */
    struct range range;
    uint64_t ino;
    int result;
    unsigned tries;
    struct env_timer again_timer;
    char *name; /* entry */
    void (*done)(void *arg);
    void *done_arg;
    struct inval_piece *prev, *next;
};

/* What goes on with the data of one inode; exists while something does. */
struct fuse_inode_io {
    uint64_t ino;
    struct tc_mount *m;
    struct fop *ops;
    struct fop *attrs; /* GETATTRs in flight, in order */
    uint64_t attr_seq;
    struct fop *waiting; /* direct writes whose answer waits for GETATTRs */
    struct inval *invals;
    bool busy; /* do not free */
    UT_hash_handle hh;
};

static struct fuse_inode_io *io_get(struct tc_mount *m, uint64_t ino)
{
    struct fuse_inode_io *io;

    HASH_FIND(hh, m->io, &ino, sizeof(ino), io);
    if (!io) {
        io = tc_calloc(1, sizeof(*io));
        io->ino = ino;
        io->m = m;
        HASH_ADD(hh, m->io, ino, sizeof(io->ino), io);
    }
    return io;
}

static void io_put(struct fuse_inode_io *io)
{
    if (io->busy || io->ops || io->invals || io->attrs)
        return;
    HASH_DEL(io->m->io, io);
    free(io);
}

static struct range range_of(const struct fop *op)
{
    uint64_t end = op->off + op->len;

    return (struct range){op->off & ~PAGE_MASK_LOW, (end + PAGE_MASK_LOW) & ~PAGE_MASK_LOW};
}

static void piece_run(struct env_job *j)
{
    struct inval_piece *p = container_of(j, struct inval_piece, job);
    fuse_ino_t nodeid = nodeid_of(p->m, p->ino);
    uint64_t len = p->range.end - p->range.start;

    if (p->name)
        p->result = fuse_lowlevel_notify_inval_entry(p->m->se, nodeid, p->name, strlen(p->name));
    else if (p->range.end == 0)
        p->result = fuse_lowlevel_notify_inval_inode(p->m->se, nodeid, -1, 0); /* attributes only */
    else
        p->result = fuse_lowlevel_notify_inval_inode(p->m->se, nodeid, (off_t)p->range.start,
                                                     p->range.end == UINT64_MAX ? 0 : (off_t)len);
}

static void start_pass(struct inval *v, struct range r);

static void inval_end(struct env_task *t)
{
    struct inval *v = container_of(t, struct inval, end_task);
    struct fuse_inode_io *io = v->io;
    unsigned n = v->n_again;

    if (v->pieces)
        return;
    if (n > 0 && ++v->passes < INVAL_PASSES_MAX) {
        struct range again[INVAL_AGAIN_MAX];

        memcpy(again, v->again, sizeof(again));
        v->n_again = 0;
        for (unsigned i = 0; i < n; i++)
            start_pass(v, again[i]);
        if (v->pieces)
            return;
    }
    DL_DELETE(io->invals, v);
    v->done(v->done_arg);
    free(v);
    io_put(io);
}

/* In a turn of its own: READs that the client had finished before have been answered then, and are among
 * those to be done again. */
static void inval_check(struct inval *v)
{
    if (!v->pieces)
        env_defer(v->io->m->env, &v->end_task);
}

static void piece_again(struct env_timer *t)
{
    struct inval_piece *p = container_of(t, struct inval_piece, again_timer);

    env_job_submit(p->m->env, &p->m->notify_queue, &p->job);
}

/* ENOENT: the kernel does not know the inode. If it has references, either the answer that tells it of the inode is
 * still on its way, with attributes from before, or a FORGET is on its way to us (docs/FUSE.md). */
static bool piece_retry(struct inval_piece *p)
{
    if (p->name || p->result != -ENOENT || !p->inval || p->tries >= INVAL_TRIES_MAX ||
        !tc_referenced(p->m->client, p->ino))
        return false;
    p->tries++;
    p->again_timer.fn = piece_again;
    env_timer_set(p->m->env, &p->again_timer, env_now(p->m->env) + NS_PER_MS);
    return true;
}

static void piece_done(struct env_job *j)
{
    struct inval_piece *p = container_of(j, struct inval_piece, job);
    struct inval *v = p->inval;

    if (piece_retry(p))
        return;

    if (p->done)
        p->done(p->done_arg);
    if (v) {
        DL_DELETE(v->pieces, p);
        inval_check(v);
    }
    free(p->name);
    free(p);
}

static void start_piece(struct inval *v, struct range r)
{
    struct inval_piece *p = tc_calloc(1, sizeof(*p));

    p->m = v->io->m;
    p->ino = v->io->ino;
    p->inval = v;
    p->range = r;
    p->job.run = piece_run;
    p->job.done = piece_done;
    DL_APPEND(v->pieces, p);
    env_job_submit(p->m->env, &p->m->notify_queue, &p->job);
}

/* Pieces that cover @r without the ranges of requests in flight. */
static void start_pass(struct inval *v, struct range r)
{
    struct fop *op;

    DL_FOREACH2(v->io->ops, op, io_next)
    {
        struct range held = range_of(op);

        if (held.end <= r.start || held.start >= r.end)
            continue;
        if (held.start > r.start)
            start_pass(v, (struct range){r.start, held.start});
        if (held.end >= r.end)
            return;
        r.start = held.end;
    }
    if (r.start < r.end)
        start_piece(v, r);
}

void invalidate_inode(void *arg, uint64_t ino, uint64_t off, uint64_t len, void (*done)(void *done_arg),
                      void *done_arg)
{
    struct tc_mount *m = arg;
    struct inval *v = tc_calloc(1, sizeof(*v));
    uint64_t end = len > UINT64_MAX - off - PAGE_MASK_LOW ? UINT64_MAX : (off + len + PAGE_MASK_LOW) & ~PAGE_MASK_LOW;

    v->io = io_get(m, ino);
    v->end_task.fn = inval_end;
    v->done = done;
    v->done_arg = done_arg;
    DL_APPEND(v->io->invals, v);
    if (len == 0)
        start_piece(v, (struct range){0, 0});
    else
        start_pass(v, (struct range){off & ~PAGE_MASK_LOW, end});
    if (!v->pieces) /* all of it is under requests in flight: only the attributes are left */
        start_piece(v, (struct range){0, 0});
}

void invalidate_entry(void *arg, uint64_t parent, const char *name, void (*done)(void *done_arg), void *done_arg)
{
    struct tc_mount *m = arg;
    struct inval_piece *p = tc_calloc(1, sizeof(*p));

    p->m = m;
    p->ino = parent;
    p->name = tc_strdup(name);
    p->done = done;
    p->done_arg = done_arg;
    p->job.run = piece_run;
    p->job.done = piece_done;
    env_job_submit(m->env, &m->entry_queue, &p->job);
}

static void supersede(struct inval *v, struct range held)
{
    struct inval_piece *p, *tmp, *old = NULL;

    DL_FOREACH_SAFE(v->pieces, p, tmp)
    {
        if (p->range.end > held.start && p->range.start < held.end) {
            DL_DELETE(v->pieces, p);
            p->inval = NULL; /* its thread may hang on; it frees itself */
            p->prev = NULL;
            p->next = old;
            old = p;
        }
    }
    while (old) {
        struct inval_piece *next = old->next;

        start_pass(v, old->range);
        old = next;
    }
}

void io_begin(struct fop *op)
{
    struct fuse_inode_io *io = io_get(op->m, op->ino);
    struct inval *v;

    DL_APPEND2(io->ops, op, io_prev, io_next);
    DL_FOREACH(io->invals, v)
    {
        supersede(v, range_of(op));
    }
    /* A superseded piece that was all there was leaves nothing to wait for. */
    DL_FOREACH(io->invals, v)
    {
        inval_check(v);
    }
}

/* ---- GETATTR beside direct writes ---- */

void attr_begin(struct fop *op)
{
    struct fuse_inode_io *io = io_get(op->m, op->ino);

    op->seq = ++io->attr_seq;
    DL_APPEND2(io->attrs, op, io_prev, io_next);
}

void attr_end(struct fop *op)
{
    struct fop *w, *tmp;
    struct fuse_inode_io *io;

    HASH_FIND(hh, op->m->io, &op->ino, sizeof(op->ino), io);
    ASSERT(io);
    DL_DELETE2(io->attrs, op, io_prev, io_next);
    io->busy = true; /* the answers below end requests of this inode */
    DL_FOREACH_SAFE2(io->waiting, w, tmp, wait_next)
    {
        if (io->attrs && io->attrs->seq <= w->seq)
            continue;
        DL_DELETE2(io->waiting, w, wait_prev, wait_next);
        w->answer(w);
    }
    io->busy = false;
    io_put(io);
}

bool attr_wait(struct fop *op, void (*answer)(struct fop *op))
{
    struct fuse_inode_io *io;

    HASH_FIND(hh, op->m->io, &op->ino, sizeof(op->ino), io);
    if (!io || !io->attrs)
        return false;
    op->seq = io->attr_seq;
    op->answer = answer;
    DL_APPEND2(io->waiting, op, wait_prev, wait_next);
    return true;
}

static void again(struct inval *v, struct range r)
{
    if (v->n_again < INVAL_AGAIN_MAX) {
        v->again[v->n_again++] = r;
        return;
    }
    /* Too many to name: one range over all. */
    for (unsigned i = 0; i < v->n_again; i++) {
        r.start = MIN(r.start, v->again[i].start);
        r.end = MAX(r.end, v->again[i].end);
    }
    v->again[0] = r;
    v->n_again = 1;
}

void io_end(struct fop *op)
{
    struct fuse_inode_io *io;
    struct inval *v;

    HASH_FIND(hh, op->m->io, &op->ino, sizeof(op->ino), io);
    ASSERT(io);
    DL_DELETE2(io->ops, op, io_prev, io_next);
    DL_FOREACH(io->invals, v)
    {
        again(v, range_of(op));
    }
    io_put(io);
}

void invalidate_free(struct tc_mount *m)
{
    struct fuse_inode_io *io, *tmp;

    HASH_ITER(hh, m->io, io, tmp)
    {
        HASH_DEL(m->io, io);
        free(io); /* pieces still in the kernel are freed with the process */
    }
}
