/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading: local blocks over fetched ones, masked by size and horizon; read-ahead; single blocks for partial
 * writes; seeking for data and holes.
 *
 * A fetch is one quorum read of consecutive blocks of one chunk. It is shared by reference count: by the
 * read that waits for it, and by the inode's read-ahead, which keeps it until it is passed or anything
 * is written. A fetch is good as long as the lease under which it began has not ended (inode.breaks); one kept for
 * later is good only while no local data has changed since it began (inode.data_gen).
 */
#include "client/internal.h"

#include "common/log.h"
#include "common/test_rules.h"

#define RA_CHUNKS 4
#define RA_DEPTH 2
#define RA_BYTES_MAX (48u << 20)
#define READ_PARTS_MAX 8
#define ZEROS 65536u

static const uint8_t zeros[ZEROS];

struct fetch {
    struct qread q;
    struct inode *ino; /* pinned until done */
    struct fetch *prev, *next; /* c->fetches while running */
    unsigned refs;
    bool running;
    int status;
    uint64_t first; /* block of the file */
    uint64_t breaks, data_gen, epoch;
    struct waitq wq;
    bool single; /* for a partial write */
    bool horizon;
    bool known; /* versions of a chunk (known.c) */
    struct qblock *expect; /* q.expect */
};

struct readahead {
    struct fetch *slot[RA_CHUNKS];
    unsigned hand;
};

struct read_op {
    struct fetch *part[READ_PARTS_MAX];
    unsigned n;
    uint64_t breaks;
    uint64_t end; /* what was to be read when it was gathered: the file may have grown since */
    struct iovec *iov;
    int n_iov, cap_iov;
    size_t len;
    bool rewrote;      /* unclean blocks, once */
    struct buf *copy; /* of local bytes */
    uint64_t base;    /* block of the file that bit 0 below stands for */
    /* Blocks that were local when the fetches began. One that is not any more was flushed meanwhile: what was fetched
     * of it, or around it, may be older. */
    uint8_t local[READ_PARTS_MAX * BLOCKS_PER_CHUNK / 8];
};

/* ---- fetches ------------------------------------------------------------------------------------------------ */

static void fetch_unref(struct tc_client *c, struct fetch *f)
{
    if (--f->refs > 0)
        return;
    ASSERT(!f->running);
    c->ra_bytes -= (uint64_t)f->q.count * BLOCK_SIZE;
    quorum_read_free(&f->q);
    free(f->expect);
    free(f);
}

static void block_fetched(struct tc_client *c, struct fetch *f);

/* The engine is closed: its reads will not answer. */
void fetches_drop(struct tc_client *c)
{
    while (c->fetches) {
        struct fetch *f = c->fetches;

        DL_DELETE(c->fetches, f);
        f->running = false;
        f->q.impl = NULL;
        fetch_unref(c, f);
    }
}

static void fetch_done(struct qread *q, int status)
{
    struct fetch *f = container_of(q, struct fetch, q);
    struct inode *i = f->ino;
    struct tc_client *c = i->c;

    f->running = false;
    DL_DELETE(c->fetches, f);
    f->status = status;
    if (f->single)
        block_fetched(c, f);
    if (f->horizon) {
        bool good = status == 0 && i->x && i->x->epoch == f->epoch && f->data_gen == i->data_gen && f->breaks == i->breaks;

        horizon_fetched(c, i, f->first, f->q.count, status, good ? q->blocks : NULL);
        waitq_wake(&i->io_wq);
    }
    if (f->known)
        known_learn(c, i, q->index, q->count, status == 0 ? q->blocks : NULL, f->breaks, f->data_gen);
    waitq_wake(&f->wq);
    fetch_unref(c, f);
    inode_unpin(c, i);
}

/* Blocks [first, first+count) of one chunk; not sent yet. Returns: one reference; another is held while it runs. */
static struct fetch *fetch_new(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only)
{
    struct fetch *f = tc_calloc(1, sizeof(*f));
    bool unclean = i->attr.data_state >= DATA_UNCLEAN || (i->x && i->x->gave_up);

    f->ino = i;
    f->first = first;
    f->refs = 2;
    f->running = true;
    f->breaks = i->breaks;
    f->data_gen = i->data_gen;
    f->epoch = i->x ? i->x->epoch : 0;
    f->q = (struct qread){.ino = i->ino,
                          .index = (uint32_t)(first / BLOCKS_PER_CHUNK),
                          .first = (uint32_t)(first % BLOCKS_PER_CHUNK),
                          .count = count,
                          .barrier = i->barrier,
                          .versions_only = versions_only,
                          .write_back = unclean,
                          .clean = !i->x && i->attr_cached && i->attr.data_state == DATA_CLEAN && lease_s_ok(c, i),
                          .deadline = UINT64_MAX,
                          .done = fetch_done};
    c->ra_bytes += (uint64_t)count * BLOCK_SIZE;
    c->stats.fetches++;
    inode_pin(i);
    DL_APPEND(c->fetches, f);
    return f;
}

static struct fetch *fetch_start(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only)
{
    struct fetch *f = fetch_new(c, i, first, count, versions_only);

    quorum_read(c->quorum, &f->q);
    return f;
}

/* The versions of all of a chunk, to be known. */
static void versions_fetch(struct tc_client *c, struct inode *i, uint64_t block)
{
    uint64_t first = block & ~(uint64_t)(BLOCKS_PER_CHUNK - 1), end = (i->attr.size + BLOCK_SIZE - 1) / BLOCK_SIZE;
    struct fetch *f = fetch_start(c, i, first, (uint32_t)MIN(end - first, BLOCKS_PER_CHUNK), true);

    f->known = true;
    fetch_unref(c, f); /* the running one remains */
}

/* For a read: of one voter alone, where the versions are known. */
static struct fetch *fetch_data(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count)
{
    struct fetch *f = fetch_new(c, i, first, count, false);
    const struct qblock *known;
    bool ask;

    known = known_find(c, i, first, count, &ask);
    if (known && !f->q.write_back) {
        f->expect = tc_malloc(count * sizeof(*known));
        memcpy(f->expect, known, count * sizeof(*known));
        f->q.expect = f->expect;
    }
    quorum_read(c->quorum, &f->q);
    if (ask)
        versions_fetch(c, i, first);
    return f;
}

size_t block_visible(const struct inode *i, uint64_t epoch, uint64_t start)
{
    uint64_t end = i->x ? i->x->size : i->attr.size;

    for (uint32_t h = 0; h < i->attr.horizons.n; h++) {
        if (epoch < i->attr.horizons.items[h].epoch && TC_RULE(HORIZON))
            end = MIN(end, i->attr.horizons.items[h].size);
    }
    if (end <= start)
        return 0;
    return MIN(end - start, BLOCK_SIZE);
}

static const struct qblock *fetched(const struct fetch *f, uint64_t block)
{
    if (block < f->first || block >= f->first + f->q.count)
        return NULL;
    return &f->q.blocks[block - f->first];
}

/* ---- read-ahead ------------------------------------------------------------------------------------------------ */

void readahead_drop(struct tc_client *c, struct inode *i)
{
    known_drop(c, i);
    if (!i->ra)
        return;
    for (unsigned s = 0; s < RA_CHUNKS; s++) {
        if (i->ra->slot[s])
            fetch_unref(c, i->ra->slot[s]);
    }
    free(i->ra);
    i->ra = NULL;
}

/* A kept fetch that covers [first, last], or NULL. */
static struct fetch *ra_find(struct tc_client *c, struct inode *i, uint64_t first, uint64_t last)
{
    if (!i->ra)
        return NULL;
    for (unsigned s = 0; s < RA_CHUNKS; s++) {
        struct fetch *f = i->ra->slot[s];

        if (!f)
            continue;
        if (f->breaks != i->breaks || f->data_gen != i->data_gen || (!f->running && f->status != 0)) {
            i->ra->slot[s] = NULL;
            fetch_unref(c, f);
        } else if (f->first <= first && last < f->first + f->q.count) {
            return f;
        }
    }
    return NULL;
}

/* Have the rest of the chunk from @block fetched and kept. */
static void ra_start(struct tc_client *c, struct inode *i, uint64_t block)
{
    uint64_t size = i->x ? i->x->size : i->attr.size;
    uint64_t end = (block / BLOCKS_PER_CHUNK + 1) * BLOCKS_PER_CHUNK;
    struct fetch **slot;

    end = MIN(end, (size + BLOCK_SIZE - 1) / BLOCK_SIZE);
    if (block >= end || ra_find(c, i, block, end - 1) || c->ra_bytes > RA_BYTES_MAX)
        return;
    if (!i->ra)
        i->ra = tc_calloc(1, sizeof(*i->ra));
    slot = &i->ra->slot[i->ra->hand++ % RA_CHUNKS];
    if (*slot)
        fetch_unref(c, *slot);
    *slot = fetch_start(c, i, block, (uint32_t)(end - block), false);
}

static void ra_passed(struct tc_client *c, struct inode *i, uint64_t block)
{
    if (!i->ra)
        return;
    for (unsigned s = 0; s < RA_CHUNKS; s++) {
        struct fetch *f = i->ra->slot[s];

        if (f && f->first + f->q.count <= block) {
            i->ra->slot[s] = NULL;
            fetch_unref(c, f);
        }
    }
}

static void ra_plan(struct tc_client *c, struct tc_file *f, struct inode *i, uint64_t off, size_t len)
{
    uint64_t chunk = off / CHUNK_SIZE;

    if (off == f->next_read && (off > 0 || len >= 65536))
        f->seq_reads++;
    else
        f->seq_reads = 0;
    f->next_read = off + len;
    if (f->seq_reads == 0)
        return;
    if (f->seq_reads == 1 && off > 0)
        return;
    /* The rest of this chunk in one message, and when the stream goes on the next ones too. */
    ra_start(c, i, off / BLOCK_SIZE);
    for (unsigned d = 1; f->seq_reads > 1 && d <= RA_DEPTH; d++)
        ra_start(c, i, (chunk + d) * BLOCKS_PER_CHUNK);
}

/* ---- reads -------------------------------------------------------------------------------------------------------- */

struct read_op *read_op_free(struct read_op *r)
{
    if (!r)
        return NULL;
    ASSERT(r->n == 0);
    buf_unref(r->copy);
    free(r->iov);
    free(r);
    return NULL;
}

static void parts_drop(struct tc_client *c, struct read_op *r)
{
    for (unsigned n = 0; n < r->n; n++)
        fetch_unref(c, r->part[n]);
    r->n = 0;
    r->n_iov = 0;
    r->len = 0;
    r->copy = buf_unref(r->copy);
}

static void iov_add(struct read_op *r, const void *p, size_t len)
{
    struct iovec *last = r->n_iov ? &r->iov[r->n_iov - 1] : NULL;

    if (len == 0)
        return;
    r->len += len;
    if (last && (const uint8_t *)last->iov_base + last->iov_len == p) {
        last->iov_len += len;
        return;
    }
    if (r->n_iov == r->cap_iov) {
        r->cap_iov = r->cap_iov ? r->cap_iov * 2 : 8;
        r->iov = tc_realloc(r->iov, (size_t)r->cap_iov * sizeof(*r->iov));
    }
    r->iov[r->n_iov++] = (struct iovec){(void *)(uintptr_t)p, len};
}

static void iov_zero(struct read_op *r, size_t len)
{
    while (len > 0) {
        size_t n = MIN(len, ZEROS);

        iov_add(r, zeros, n);
        len -= n;
    }
}

/* Local bytes may change or go before the callback runs: copied. */
static void iov_copy(struct read_op *r, const uint8_t *p, size_t len, size_t cap)
{
    uint8_t *to;

    if (!r->copy)
        r->copy = buf_new((uint32_t)cap);
    ASSERT(r->copy->len + len <= r->copy->cap);
    to = r->copy->data + r->copy->len;
    memcpy(to, p, len);
    r->copy->len += (uint32_t)len;
    iov_add(r, to, len);
}

/*
 * Does this block need to be written under our epoch before anybody is told its content (PROTOCOL 3.6)? Any that is not
 * ours: also one whose newest version here is older than the mark, since the lost writer may have left a newer one on
 * a voter that we did not hear, which reconciliation would bring back after we have shown the older.
 */
bool block_unsettled(const struct inode *i, const struct qblock *b)
{
    return TC_RULE(MASK_UNCLEAN) && i->attr.data_state >= DATA_UNCLEAN && i->x && b->vepoch != i->x->epoch;
}

void block_rewrite(struct tc_client *c, struct inode *i, const struct qblock *b, uint64_t block)
{
    struct buf *copy = buf_new(BLOCK_SIZE);
    size_t n = b->kind == RUN_DATA ? block_visible(i, b->vepoch, block * BLOCK_SIZE) : 0;

    memset(copy->data, 0, BLOCK_SIZE);
    if (n)
        memcpy(copy->data, b->data, n);
    copy->len = BLOCK_SIZE;
    dirty_write(c, i, copy, 0, BLOCK_SIZE, block * BLOCK_SIZE);
    buf_unref(copy);
}

static bool was_local(const struct read_op *r, uint64_t block)
{
    return r->local[(block - r->base) / 8] & (1u << (block - r->base) % 8);
}

enum composed { COMPOSED, COMPOSE_REWRITTEN, COMPOSE_FETCH };

/* Build the answer. REWRITTEN: unclean blocks are being rewritten, look again when that is done. FETCH: a block went
 * from here to the stores while the others came. */
static enum composed compose(struct tc_call *call, size_t n)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    struct read_op *r = call->read;
    uint64_t off = call->off, end = call->off + n;
    bool again = false;

    while (off < end) {
        uint64_t block = off / BLOCK_SIZE;
        size_t at = off % BLOCK_SIZE, want = (size_t)MIN(end - off, BLOCK_SIZE - at);
        const struct qblock *b = NULL;
        const uint8_t *p = NULL;

        if (local_block(i, block, &p)) {
            if (p)
                iov_copy(r, p + at, want, n);
            else
                iov_zero(r, want);
            off += want;
            continue;
        }
        if (was_local(r, block))
            return COMPOSE_FETCH;
        for (unsigned k = 0; k < r->n && !b && block < r->end / BLOCK_SIZE + (end <= r->end); k++)
            b = fetched(r->part[k], block);
        /* Neither here nor fetched, or fetched when the file ended in it and was shorter. */
        if (!b && (!i->x || block * BLOCK_SIZE < i->x->data_end))
            return COMPOSE_FETCH;
        if (b && block_unsettled(i, b)) {
            block_rewrite(c, i, b, block);
            again = true;
        }
        if (b && b->kind == RUN_DATA) {
            size_t vis = block_visible(i, b->vepoch, block * BLOCK_SIZE);
            size_t show = vis > at ? MIN(vis - at, want) : 0;

            iov_add(r, b->data + at, show);
            iov_zero(r, want - show);
        } else {
            iov_zero(r, want);
        }
        off += want;
    }
    return again ? COMPOSE_REWRITTEN : COMPOSED;
}

/* Fetch what is not here. False: something was started. */
static bool gather(struct tc_call *call, size_t n)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    struct read_op *r = call->read;
    uint64_t block = call->off / BLOCK_SIZE, last = (call->off + n - 1) / BLOCK_SIZE;
    uint64_t data_end = i->x ? (i->x->data_end + BLOCK_SIZE - 1) / BLOCK_SIZE : UINT64_MAX;
    const uint8_t *p;

    r->base = block & ~(uint64_t)(BLOCKS_PER_CHUNK - 1);
    memset(r->local, 0, sizeof(r->local));
    while (block <= last && r->n < READ_PARTS_MAX) {
        uint64_t chunk_last = block | (BLOCKS_PER_CHUNK - 1), from = UINT64_MAX, to = 0;
        struct fetch *f;

        for (uint64_t b = block; b <= MIN(chunk_last, last); b++) {
            if (local_block(i, b, &p)) {
                r->local[(b - r->base) / 8] |= (uint8_t)(1u << (b - r->base) % 8);
                continue;
            }
            if (b >= data_end)
                continue;
            from = MIN(from, b);
            to = b;
        }
        block = chunk_last + 1;
        if (from == UINT64_MAX)
            continue;
        f = ra_find(c, i, from, to);
        if (f)
            f->refs++;
        else
            f = fetch_data(c, i, from, (uint32_t)(to - from + 1));
        r->part[r->n++] = f;
    }
    for (unsigned k = 0; k < r->n; k++) {
        if (r->part[k]->running)
            return false;
    }
    return true;
}

static bool lease_unbroken(struct tc_client *c, const struct inode *i, uint64_t breaks)
{
    if (i->breaks != breaks)
        return false;
    return i->x ? session_valid(c) : (i->held & LEASE_S) && session_caching(c);
}

enum read_stage { READ_START, READ_FETCHING };

static void read_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    struct read_op *r = call->read;
    enum composed composed;
    uint64_t size;
    size_t n;

    for (;;) {
        if (call->file && call->file->failed) {
            parts_drop(c, r);
            call_finish(call, -TC_E_IO);
            return;
        }
        if (call->stage == READ_FETCHING) {
            for (unsigned k = 0; k < r->n; k++) {
                if (r->part[k]->running) {
                    call_wait(call, &r->part[k]->wq);
                    return;
                }
            }
            if (!lease_unbroken(c, i, r->breaks)) {
                parts_drop(c, r);
                call_leave(call);
                call->stage = READ_START;
                continue;
            }
            for (unsigned k = 0; k < r->n; k++) {
                int status = r->part[k]->status;

                if (status == 0)
                    continue;
                parts_drop(c, r);
                if (status == -TC_E_FENCED) { /* the session is over: under a new one */
                    call_leave(call);
                    call->stage = READ_START;
                    call_wait(call, &c->session_wq);
                    return;
                }
                call_finish(call, status);
                return;
            }
        } else {
            bool unclean = i->attr_known && i->attr.data_state >= DATA_UNCLEAN;

            if (!call->entered) {
                if (unclean ? lease_need_x(call, i) : lease_need_s(call, i))
                    return;
                if (i->attr.data_state >= DATA_UNCLEAN && !i->x)
                    continue; /* as we learn just now */
                reader_enter(call);
                r->breaks = i->breaks;
            } else if (!lease_unbroken(c, i, r->breaks)) {
                call_leave(call);
                continue;
            }
        }
        size = i->x ? i->x->size : i->attr.size;
        if (i->x)
            lease_x_used(c, i);
        n = call->off >= size ? 0 : (size_t)MIN(call->len, size - call->off);
        if (n == 0) {
            parts_drop(c, r);
            outside_data(call);
            call_finish(call, 0);
            return;
        }
        if (call->stage == READ_START) {
            if (map_wait(call, i->barrier))
                return;
            if (call->file)
                ra_plan(c, call->file, i, call->off, n);
            call->stage = READ_FETCHING;
            r->end = call->off + n;
            if (!gather(call, n))
                continue;
        }
        composed = compose(call, n);
        if (composed == COMPOSE_FETCH) {
            parts_drop(c, r);
            call->stage = READ_START;
            continue;
        }
        if (composed == COMPOSE_REWRITTEN) {
            parts_drop(c, r);
            call->stage = READ_START;
            if (r->rewrote && i->write_error == -TC_E_NOSPC) { /* what cannot be made sure of is not shown */
                call_finish(call, i->write_error);
                return;
            }
            r->rewrote = true;
            i->write_error = 0;
            (void)flush_all(c, i);
            call_wait(call, &i->io_wq);
            return;
        }
        ra_passed(c, i, (call->off + n) / BLOCK_SIZE);
        outside_data(call);
        c->stats.reads++;
        c->stats.read_bytes += n;
        call_finish(call, 0);
        return;
    }
}

void read_deliver(struct tc_call *call)
{
    struct read_op *r = call->read;

    call->fn.read(call->arg, 0, r->iov, r->n_iov, r->len);
    parts_drop(call->c, r);
}

void read_abandon(struct tc_call *call)
{
    if (call->read)
        parts_drop(call->c, call->read);
}

struct tc_call *tc_read(struct tc_client *c, struct tc_file *f, uint64_t off, size_t len, tc_read_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_READ, read_tick, arg);

    call->fn.read = fn;
    call->file = file_ref(f);
    call_pin(call, f->ino);
    call->off = off;
    call->len = MIN(len, (size_t)(READ_PARTS_MAX - 1) * CHUNK_SIZE);
    call->read = tc_calloc(1, sizeof(*call->read));
    return call_start(call);
}

/* ---- one block, for a partial write ---------------------------------------------------------------------------------- */

static void block_fetched(struct tc_client *c, struct fetch *f)
{
    struct inode *i = f->ino;

    i->fetching = false;
    if (f->status == 0 && i->x && i->x->epoch == f->epoch && f->data_gen == i->data_gen && f->breaks == i->breaks) {
        const struct qblock *b = &f->q.blocks[0];
        uint8_t bytes[BLOCK_SIZE] = {0};
        size_t n = b->kind == RUN_DATA ? block_visible(i, b->vepoch, f->first * BLOCK_SIZE) : 0;

        if (n)
            memcpy(bytes, b->data, n);
        dirty_add_clean(c, i, f->first, n ? bytes : NULL);
    } else if (f->status != 0) {
        LOG_WARN("client", "block for a partial write cannot be read", "ino=%lu error=%s", (unsigned long)i->ino,
                 tc_error_name(f->status));
        if (f->status != -TC_E_FENCED) {
            waitq_fail(&i->fetch_wq, f->status);
            return;
        }
    }
    waitq_wake(&i->fetch_wq);
}

void block_fetch(struct tc_call *call, struct inode *i, uint64_t block)
{
    struct fetch *f;

    call_wait(call, &i->fetch_wq);
    if (i->fetching)
        return;
    i->fetching = true;
    f = fetch_start(call->c, i, block, 1, false);
    f->single = true;
    fetch_unref(call->c, f); /* the running one remains */
}

void horizon_fetch(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only)
{
    struct fetch *f = fetch_start(c, i, first, count, versions_only);

    f->horizon = true;
    fetch_unref(c, f); /* the running one remains */
}

/* ---- data and holes ------------------------------------------------------------------------------------------------------ */

static bool is_data(struct tc_call *call, uint64_t block)
{
    struct inode *i = call->ino;
    const struct qblock *b;
    const uint8_t *p;

    if (local_block(i, block, &p))
        return p != NULL;
    b = call->read->n ? fetched(call->read->part[0], block) : NULL;
    return b && b->kind == RUN_DATA && block_visible(i, b->vepoch, block * BLOCK_SIZE) > 0;
}

/* One chunk at a time: its versions, then the first block of the kind asked for. */
static void seek_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    struct read_op *r = call->read;

    for (;;) {
        uint64_t size, end, block;

        if (r->n && r->part[0]->running) {
            call_wait(call, &r->part[0]->wq);
            return;
        }
        if (call->entered && !lease_unbroken(c, i, r->breaks)) {
            parts_drop(c, r);
            call_leave(call);
        }
        if (!call->entered) {
            if (lease_need_s(call, i))
                return;
            reader_enter(call);
            r->breaks = i->breaks;
        }
        size = i->x ? i->x->size : i->attr.size;
        if (call->off >= size) {
            parts_drop(c, r);
            call->off = size;
            call_finish(call, call->len || !call->dir ? -TC_E_NXIO : 0); /* a hole is at the end at last */
            return;
        }
        if (r->n == 0) {
            if (map_wait(call, i->barrier))
                return;
            block = call->off / BLOCK_SIZE;
            end = MIN((block | (BLOCKS_PER_CHUNK - 1)) + 1, (size + BLOCK_SIZE - 1) / BLOCK_SIZE);
            r->part[r->n++] = fetch_start(c, i, block, (uint32_t)(end - block), true);
            continue;
        }
        if (r->part[0]->status != 0) {
            int status = r->part[0]->status;

            parts_drop(c, r);
            call_finish(call, status);
            return;
        }
        end = r->part[0]->first + r->part[0]->q.count;
        for (block = call->off / BLOCK_SIZE; block < end; block++) {
            if (is_data(call, block) != call->dir) {
                call->off = MAX(call->off, block * BLOCK_SIZE);
                parts_drop(c, r);
                call_finish(call, 0);
                return;
            }
        }
        parts_drop(c, r);
        call->off = end * BLOCK_SIZE;
        call->len = 0; /* not past the end at the beginning */
        if (call->off >= size && call->dir) {
            call->off = size;
            call_finish(call, 0);
            return;
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
    call->read = tc_calloc(1, sizeof(*call->read));
    return call_start(call);
}
