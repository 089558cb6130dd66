/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading: local blocks over fetched ones (fetch.h), masked by size and horizon.
 */
#include "client/fetch.h"

#include "common/test_rules.h"

#define READ_PARTS_MAX 8
#define ZEROS 65536u

static const uint8_t zeros[ZEROS];

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
        f = readahead_find(c, i, from, to);
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

bool lease_unbroken(struct tc_client *c, const struct inode *i, uint64_t breaks)
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
                if (i->mapped > 0) { /* stored here before this read */
                    call_wait(call, &i->io_wq);
                    return;
                }
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
                readahead_plan(c, call->file, i, call->off, n);
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
        readahead_passed(c, i, (call->off + n) / BLOCK_SIZE);
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
