/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeking for data and holes: windows of chunks whose versions are fetched, and for data, once some windows were empty, the first
 * chunk there is (quorum_seek(), PROTOCOL 4.10), so that a hole costs no time for its length.
 *
 *   LOOK a window ──found──► done
 *     │ ▲  nothing: the next, twice as wide
 *     ▼ │
 *   SEEK the next chunk (data only, after wide windows that were empty; an error is no answer)
 *
 * What is here counts as what it is, also when it was here as the question was asked and has left for the stores meanwhile:
 * the answer may be from before it arrived. Of a file that is unclean a quorum says what it has, which may be less
 * than what reconciliation finds: nothing of that was acknowledged.
 */
#include "client/fetch.h"

#define WINDOW_MAX 32u  /* chunks */
#define SEEK_WIDTH 8u   /* windows from this width on are not looked at before it is known where there is something */
#define SEEK_AGAIN 256u /* chunks until the stores are asked again that could not say */

struct sought {
    struct qseek q;
    struct inode *ino; /* pinned until done */
    struct sought *prev, *next; /* c->soughts while running */
    unsigned refs;
    bool running;
    int status;
    struct waitq wq;
};

struct seek_op {
    struct fetch *part[WINDOW_MAX]; /* by chunk; NULL: nothing of it is in the stores */
    uint32_t n;                     /* chunks looked at; 0: nothing is under way but perhaps @sought */
    uint64_t first, end;            /* blocks of the window */
    uint32_t width;                 /* of the next window */
    struct sought *sought;
    uint64_t local_chunk;           /* the first of which something was here when it was asked for */
    uint64_t seek_from;             /* chunks: no seek before */
    uint64_t breaks;
    uint8_t local[WINDOW_MAX * BLOCKS_PER_CHUNK / 8]; /* blocks that were here when the fetches began */
};

/* ---- the next chunk ------------------------------------------------------------------------------------- */

static void sought_unref(struct sought *s)
{
    if (--s->refs > 0)
        return;
    ASSERT(!s->running);
    free(s);
}

static void sought_done(struct qseek *q, int status)
{
    struct sought *s = container_of(q, struct sought, q);
    struct inode *i = s->ino;
    struct tc_client *c = i->c;

    s->running = false;
    s->status = status;
    DL_DELETE(c->soughts, s);
    waitq_wake(&s->wq);
    sought_unref(s);
    inode_unpin(c, i);
}

static struct sought *sought_new(struct tc_client *c, struct inode *i, uint64_t from, uint64_t to)
{
    struct sought *s = tc_calloc(1, sizeof(*s));

    s->ino = i;
    s->refs = 2; /* the caller's, and its own while it runs */
    s->running = true;
    s->q = (struct qseek){.ino = i->ino, .from = (uint32_t)from, .to = (uint32_t)to, .barrier = i->barrier, .done = sought_done};
    inode_pin(i);
    DL_APPEND(c->soughts, s);
    quorum_seek(c->quorum, &s->q);
    return s;
}

void soughts_drop(struct tc_client *c)
{
    while (c->soughts) {
        struct sought *s = c->soughts;

        DL_DELETE(c->soughts, s);
        s->running = false;
        sought_unref(s);
    }
}

/* ---- what is here ---------------------------------------------------------------------------------------- */

/* The first block at or behind @block that is here; UINT64_MAX: none. */
static uint64_t local_next(const struct inode *i, uint64_t block)
{
    unsigned at = ext_index(i, block);
    uint64_t next = at < i->n_ext ? MAX(i->ext[at]->first, block) : UINT64_MAX;
    const struct flight *f;

    DL_FOREACH(i->flights, f)
    {
        if (f->first + f->w.count > block)
            next = MIN(next, MAX(f->first, block));
    }
    return next;
}

/* Blocks from here on are in no store. */
static uint64_t stored_end(const struct inode *i, uint64_t size)
{
    return (MIN(size, i->x ? i->x->data_end : size) + BLOCK_SIZE - 1) / BLOCK_SIZE;
}

/* ---- a window --------------------------------------------------------------------------------------------- */

static void drop(struct tc_call *call)
{
    struct seek_op *s = call->seek;

    for (uint32_t k = 0; k < s->n; k++) {
        if (s->part[k])
            fetch_unref(call->c, s->part[k]);
        s->part[k] = NULL;
    }
    s->n = 0;
    if (s->sought)
        sought_unref(TAKE(s->sought));
}

void seek_abandon(struct tc_call *call)
{
    if (call->seek)
        drop(call);
}

static void look(struct tc_call *call, uint64_t size)
{
    struct inode *i = call->ino;
    struct seek_op *s = call->seek;
    uint64_t blocks = (size + BLOCK_SIZE - 1) / BLOCK_SIZE, stored = stored_end(i, size), chunk;
    const uint8_t *p;

    s->first = call->off / BLOCK_SIZE;
    chunk = s->first / BLOCKS_PER_CHUNK;
    s->end = MIN((chunk + s->width) * BLOCKS_PER_CHUNK, blocks);
    memset(s->local, 0, sizeof(s->local));
    for (uint64_t b = local_next(i, s->first); b < s->end; b = local_next(i, b + 1)) {
        uint64_t bit = b - chunk * BLOCKS_PER_CHUNK;

        if (local_block(i, b, &p))
            s->local[bit / 8] |= (uint8_t)(1u << bit % 8);
    }
    for (uint64_t b = s->first; b < s->end; b = (b | (BLOCKS_PER_CHUNK - 1)) + 1) {
        uint64_t to = MIN((b | (BLOCKS_PER_CHUNK - 1)) + 1, MIN(s->end, stored));

        s->part[s->n++] = b < to ? fetch_start(call->c, i, b, (uint32_t)(to - b), true) : NULL;
    }
}

enum found { FOUND_DATA, FOUND_HOLE, FOUND_GONE };

static enum found what_is(const struct tc_call *call, uint64_t block)
{
    const struct inode *i = call->ino;
    const struct seek_op *s = call->seek;
    uint64_t chunk = s->first / BLOCKS_PER_CHUNK, bit = block - chunk * BLOCKS_PER_CHUNK;
    const struct fetch *f = s->part[block / BLOCKS_PER_CHUNK - chunk];
    const struct qblock *b = f ? fetched(f, block) : NULL;
    const uint8_t *p;

    if (local_block(i, block, &p))
        return p ? FOUND_DATA : FOUND_HOLE;
    if (s->local[bit / 8] & (1u << bit % 8))
        return FOUND_GONE; /* it left for the stores meanwhile */
    return b && b->kind == RUN_DATA && block_visible(i, b->vepoch, block * BLOCK_SIZE) > 0 ? FOUND_DATA : FOUND_HOLE;
}

/* Is what is sought in the window? Else call->off is behind it. */
static bool window_has(struct tc_call *call)
{
    struct seek_op *s = call->seek;

    for (uint64_t block = s->first; block < s->end; block++) {
        enum found found = what_is(call, block);

        if (found != FOUND_GONE && (found == FOUND_HOLE) != call->dir)
            continue;
        call->off = MAX(call->off, block * BLOCK_SIZE);
        return found != FOUND_GONE;
    }
    call->off = s->end * BLOCK_SIZE;
    call->len = 0; /* not past the end at the beginning */
    s->width = MIN(s->width * 2, WINDOW_MAX);
    return false;
}

/* ---- the call ------------------------------------------------------------------------------------------------ */

/* True: it waits for something that it has begun. */
static bool seek_waits(struct tc_call *call)
{
    struct seek_op *s = call->seek;

    if (s->sought && s->sought->running) {
        call_wait(call, &s->sought->wq);
        return true;
    }
    for (uint32_t k = 0; k < s->n; k++) {
        if (s->part[k] && s->part[k]->running) {
            call_wait(call, &s->part[k]->wq);
            return true;
        }
    }
    return false;
}

/* Under the lease, with nothing in hand: begin something. */
static void seek_begin(struct tc_call *call, uint64_t size)
{
    struct seek_op *s = call->seek;
    struct inode *i = call->ino;
    uint64_t block = call->off / BLOCK_SIZE, chunk = block / BLOCKS_PER_CHUNK, local = local_next(i, block);
    uint64_t stored = (stored_end(i, size) + BLOCKS_PER_CHUNK - 1) / BLOCKS_PER_CHUNK;

    s->local_chunk = local == UINT64_MAX ? local : local / BLOCKS_PER_CHUNK;
    if (!call->dir && chunk >= stored && s->local_chunk > chunk)
        call->off = MIN(s->local_chunk, (size + CHUNK_SIZE - 1) / CHUNK_SIZE) * CHUNK_SIZE;
    else if (!call->dir && s->width > SEEK_WIDTH && chunk >= s->seek_from && chunk < stored)
        s->sought = sought_new(call->c, i, chunk, stored);
    else
        look(call, size);
}

static void seek_take(struct tc_call *call, uint64_t size)
{
    struct seek_op *s = call->seek;
    uint64_t chunk = call->off / CHUNK_SIZE, next = chunk;

    if (s->sought->status == 0) {
        next = s->sought->q.next < s->sought->q.to ? s->sought->q.next : UINT64_MAX;
        next = MIN(MIN(next, s->local_chunk), (size + CHUNK_SIZE - 1) / CHUNK_SIZE);
        s->seek_from = next - chunk < WINDOW_MAX ? next + SEEK_AGAIN / 2 : next; /* one chunk behind another: looking is cheaper */
    } else {
        s->seek_from = chunk + SEEK_AGAIN;
    }
    if (next > chunk) {
        call->off = next * CHUNK_SIZE;
        s->width = 1;
    }
}

/* Have all parts of the window come? False: the call is finished, or waits. */
static bool window_whole(struct tc_call *call)
{
    struct seek_op *s = call->seek;

    for (uint32_t k = 0; k < s->n; k++) {
        int status = s->part[k] ? s->part[k]->status : 0;

        if (status == 0)
            continue;
        drop(call);
        if (status == -TC_E_FENCED) { /* the session is over: under a new one */
            call_leave(call);
            call_wait(call, &call->c->session_wq);
        } else {
            call_finish(call, status);
        }
        return false;
    }
    return true;
}

static void seek_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    struct seek_op *s = call->seek;

    for (;;) {
        uint64_t size;

        if (seek_waits(call))
            return;
        if (call->entered && !lease_unbroken(c, i, s->breaks)) {
            drop(call);
            call_leave(call);
        }
        if (!call->entered) {
            if (i->mapped > 0) { /* stored here before this */
                call_wait(call, &i->io_wq);
                return;
            }
            if (lease_need_s(call, i))
                return;
            reader_enter(call);
            s->breaks = i->breaks;
        }
        size = i->x ? i->x->size : i->attr.size;
        if (call->off >= size) {
            drop(call);
            call->off = size;
            call_finish(call, call->len || !call->dir ? -TC_E_NXIO : 0); /* a hole is at the end at last */
            return;
        }
        if (s->sought) {
            seek_take(call, size);
            drop(call);
        } else if (s->n == 0) {
            if (map_wait(call, i->barrier))
                return;
            seek_begin(call, size);
        } else {
            bool found;

            if (!window_whole(call))
                return;
            found = window_has(call);
            drop(call);
            if (found) {
                call->off = MIN(call->off, size);
                call_finish(call, 0);
                return;
            }
        }
    }
}

struct tc_call *tc_seek(struct tc_client *c, struct tc_file *f, uint64_t off, bool hole, tc_seek_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_SEEK, seek_tick, arg);

    call->fn.seek = fn;
    call->file = file_ref(f);
    call_pin(call, f->ino);
    call->off = off;
    call->len = 1; /* nothing looked at yet */
    call->dir = hole;
    call->seek = tc_calloc(1, sizeof(*call->seek));
    call->seek->width = 1;
    return call_start(call);
}
