/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the metadata leader says is to be deleted: rows of files removed or cut, with the answers to heartbeats.
 *
 * Rows become trims of a window with few chunks each, some at a time; when all are in the journal, one more that removes nothing
 * moves the cursor. A failure leaves the cursor: the leader sends the rows again, and trims do no harm twice.
 */
#include "storage/server_int.h"

#define GC_BATCH_MAX 512
#define GC_AT_ONCE 256
#define GC_CHUNKS_AT_ONCE (8 * TRIM_CHUNKS_MAX) /* all of them may be applied in one turn: of sparse files, too */
#define GC_WIDE (16 * TRIM_CHUNKS_MAX)          /* from here on it is cheaper to seek those that there are */

struct gc_trim {
    struct chunk_trim_op op;
    struct storage_server *s;
};

struct gc_run {
    struct gc_item *items;
    uint32_t n, cur, left;
    uint64_t chunks; /* in the windows under way, as they weigh */
    uint64_t dense;  /* up to this chunk of the current item small windows are due */
    uint64_t next; /* chunk of the current item */
    uint32_t pg_count;
    bool last;
    int status;
};

static void gc_step(struct storage_server *s);

void server_gc_end(struct storage_server *s)
{
    if (s->gc)
        free(s->gc->items);
    free(s->gc);
    s->gc = NULL;
}

/* A wide window costs some thousand searches. */
static uint64_t gc_weight(const struct chunk_trim_op *op)
{
    uint64_t n = op->to - op->from;

    return n > TRIM_CHUNKS_MAX ? GC_CHUNKS_AT_ONCE / 2 : n;
}

static void gc_done(struct chunk_trim_op *op, int status)
{
    struct gc_trim *t = container_of(op, struct gc_trim, op);
    struct storage_server *s = t->s;

    s->gc->chunks -= gc_weight(op);
    free(t);
    if (status < 0)
        s->gc->status = status;
    s->gc->left--;
    gc_step(s);
}

static void gc_submit(struct storage_server *s, const struct chunk_trim_op *op)
{
    struct gc_trim *t = tc_calloc(1, sizeof(*t));
    int r;

    t->op = *op;
    t->op.done = gc_done;
    t->op.pg_count = s->gc->pg_count;
    t->s = s;
    s->gc->left++;
    s->gc->chunks += gc_weight(op);
    r = chunk_store_trim(s->cs, &t->op);
    if (r < 0) {
        s->gc->status = r;
        s->gc->left--;
        s->gc->chunks -= gc_weight(op);
        free(t);
    }
}

static uint64_t gc_chunks(const struct gc_item *it)
{
    uint64_t end = it->reach / CHUNK_SIZE + (it->reach % CHUNK_SIZE != 0);

    return MIN(end, (uint64_t)UINT32_MAX);
}

/*
 * The end of the window that begins at @from. A file may be petabytes long and have one chunk: so as much as has few
 * chunks goes at once, found by halving; where they are dense, window by window.
 */
static uint64_t gc_window(struct storage_server *s, const struct gc_item *it, uint64_t from)
{
    struct gc_run *g = s->gc;
    uint64_t span = gc_chunks(it) - from;

    if (from >= g->dense) {
        while (span > GC_WIDE && !chunk_store_few(s->cs, it->ino, from, from + span, g->pg_count))
            span /= 2;
        if (span > GC_WIDE)
            return from + span;
        g->dense = from + span;
    }
    return MIN(g->dense, from + TRIM_CHUNKS_MAX);
}

static void gc_step(struct storage_server *s)
{
    struct gc_run *g = s->gc;

    while (g->cur < g->n && g->left < GC_AT_ONCE && g->chunks < GC_CHUNKS_AT_ONCE && g->status == 0) {
        const struct gc_item *it = &g->items[g->cur];
        uint64_t from = MAX(g->next, it->size / CHUNK_SIZE), to = from < gc_chunks(it) ? gc_window(s, it, from) : gc_chunks(it);
        struct chunk_trim_op op = {.ino = it->ino, .size = it->size, .epoch = it->epoch, .from = from, .to = to};

        if (it->size == 0 && it->epoch == UINT64_MAX)
            chunk_store_removed(s->cs, it->ino);
        if (from < to)
            gc_submit(s, &op);
        g->next = to;
        if (to >= gc_chunks(it)) {
            g->cur++;
            g->next = g->dense = 0;
        }
    }
    if (g->left)
        return;
    if (g->status == 0 && !g->last) {
        struct chunk_trim_op op = {.gc_id = g->items[g->n - 1].id};

        g->last = true;
        gc_submit(s, &op);
        if (g->left)
            return;
    }
    server_gc_end(s);
}

void server_gc_take(struct storage_server *s, const struct store_beat_res *res)
{
    uint32_t n = MIN(res->gc.n, (uint32_t)GC_BATCH_MAX), k = 0;
    struct gc_run *g;

    if (s->gc || !n || !s->map || !s->map->pg_count)
        return;
    g = tc_calloc(1, sizeof(*g));
    g->items = tc_calloc(n, sizeof(*g->items));
    g->pg_count = s->map->pg_count;
    for (uint32_t i = 0; i < n; i++) {
        if (res->gc.items[i].id > chunk_store_gc_cursor(s->cs))
            g->items[k++] = res->gc.items[i];
    }
    g->n = k;
    s->gc = g;
    if (k)
        gc_step(s);
    else
        server_gc_end(s);
}
