/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes: each item of an operation takes one of three ways.
 *
 *   nothing   what is here is as new already (a retry, a newer write of the same epoch), or it is refused
 *   journal   data and all in one record; shown to readers when the record is durable
 *   direct    many blocks that were never written: into the chunk's file, synced, then a record without data
 *
 * All journal items of one operation share a record. An operation is the caller's; it is done when its last
 * part is. What decides between two writes of one block is the order of their records, so the check before
 * the record is only a short cut, and is made again when the record is applied.
 */
#include "storage/chunk_impl.h"

#include <endian.h>
#include <xxhash.h>

#include "common/log.h"
#include "common/test_rules.h"

struct part { /* blocks of one item in one record */
    uint32_t item, first, count;
};

struct write_record {
    struct journal_req req;
    struct chunk_write_op *op;
    struct buf *data; /* what the parts' data lies in */
    uint8_t *head;
    struct iovec *iov;
    uint32_t n;
    struct part parts[];
};

struct direct {
    struct env_job job;
    struct journal_req req;
    struct sync_req sync;
    struct chunk_write_op *op;
    struct chunk_write *item;
    struct chunk_file *fh;
    struct vfs_file *opened;
    uint8_t *record;
    int status;
};

static uint64_t sum_at(const uint8_t *sums, uint32_t i)
{
    uint64_t v;

    memcpy(&v, sums + 8u * i, 8);
    return le64toh(v);
}

static bool sums_match(const struct chunk_write *w)
{
    for (uint32_t i = 0; i < w->count; i++) {
        if (XXH3_64bits(w->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != sum_at(w->sums, i))
            return false;
    }
    return true;
}

/* ---- the end of an operation --------------------------------------------------------------------------- */

static void op_finish(struct chunk_write_op *op)
{
    struct chunk_store *cs = op->cs;

    for (uint32_t i = 0; i < op->n; i++) {
        if (op->items[i].chunk)
            chunk_put(cs, op->items[i].chunk);
        op->items[i].chunk = NULL;
    }
    cs->inflight_bytes -= op->bytes;
    op->done(op); /* op is the caller's again */
    merge_kick(cs);
    write_resume(cs);
}

static void op_task(struct env_task *t)
{
    op_finish(container_of(t, struct chunk_write_op, task));
}

static void part_done(struct chunk_write_op *op)
{
    ASSERT(op->left > 0);
    if (--op->left == 0)
        op_finish(op);
}

static void item_fail(struct chunk_write *w, int status)
{
    if (w->status == 0)
        w->status = status;
}

/* ---- checks ---------------------------------------------------------------------------------------------- */

/* 1: something of it is newer than what is here; 0: nothing is; or why it is refused. */
static int check_blocks(struct chunk_store *cs, struct chunk_write *w)
{
    struct chunk *c = w->chunk;
    int news = 0;

    for (uint32_t i = 0; i < w->count; i++) {
        struct block blk = chunk_block_get(c, w->first + i);

        if (blk.vepoch > w->vepoch && TC_RULE(NEWER_WINS)) {
            if (w->flags & WRITE_REPAIR)
                continue;
            if (!TC_RULE(HIGHER_EPOCH))
                continue;
            w->epoch = MAX(w->epoch, blk.vepoch);
            return -TC_E_FENCED;
        }
        if (blk.kind == RUN_UNKNOWN && !blk.vepoch && !w->proven)
            return -TC_E_UNKNOWN_BLOCK;
        if (blk.vepoch < w->vepoch || blk.vseq < w->vseq || !TC_RULE(NEWER_WINS)) {
            news = 1;
            continue;
        }
        if (blk.vseq > w->vseq && !TC_RULE(NEWER_SEQ_ACK))
            return -TC_E_FENCED;
        if (blk.vseq > w->vseq)
            continue;
        if (blk.kind == RUN_UNKNOWN) {
            news = 1; /* the good copy of what is damaged here */
            continue;
        }
        if (((blk.kind == RUN_ZERO) != !!(w->flags & WRITE_ZERO) ||
             (blk.kind == RUN_DATA && blk.sum != sum_at(w->sums, i))) &&
            TC_RULE(CLASH)) {
            LOG_ERR("storage", "two contents under one version", "ino=%llu index=%u block=%u version=%llu.%llu",
                    (unsigned long long)c->key.ino, c->key.index, w->first + i, (unsigned long long)w->vepoch,
                    (unsigned long long)w->vseq);
            return -TC_E_VERSION_CLASH;
        }
    }
    (void)cs;
    if (w->pair.vepoch > c->pair.vepoch || (w->pair.vepoch == c->pair.vepoch && w->pair.vseq > c->pair.vseq))
        news = 1;
    return news;
}

static bool all_fresh(const struct chunk_write *w)
{
    const struct chunk *c = w->chunk;

    for (uint32_t b = w->first; b < w->first + w->count; b++) {
        if (chunk_block_get(c, b).kind != RUN_NONE || chunk_block_get(c, b).place != PLACE_NONE)
            return false;
        if (c->direct_bits[b / 64] & UINT64_C(1) << (b % 64))
            return false;
    }
    return true;
}

static bool shape_ok(const struct chunk_write *w)
{
    if (!w->count || w->first >= BLOCKS_PER_CHUNK || w->count > BLOCKS_PER_CHUNK - w->first || !w->vepoch)
        return false;
    return (w->flags & WRITE_ZERO) ? !w->data : w->data && w->sums;
}

static bool all_filed(const struct chunk_write *w)
{
    for (uint32_t b = w->first; b < w->first + w->count; b++) {
        if (chunk_block_get(w->chunk, b).place != PLACE_FILE)
            return false;
    }
    return true;
}

static void classify(struct chunk_store *cs, struct chunk_write *w)
{
    uint64_t bytes = w->data ? (uint64_t)w->count * BLOCK_SIZE : 0;
    int r;

    w->route = ROUTE_NONE;
    w->chunk = NULL;
    w->new_blocks = w->freed_blocks = 0;
    w->epoch = 0;
    w->status = 0;
    if (cs->failed || !shape_ok(w)) {
        w->status = cs->failed ? -TC_E_IO : -TC_E_INVAL;
        return;
    }
    if (was_removed(cs, w->key.ino)) {
        w->status = -TC_E_FENCED;
        w->epoch = w->vepoch + 1;
        return;
    }
    r = chunk_get(cs, &w->key, true, &w->chunk);
    if (r == 0)
        r = check_blocks(cs, w);
    if (r <= 0) {
        w->status = r;
        return;
    }
    r = bytes ? cs_no_space(cs, bytes, all_filed(w)) : 0;
    if (r < 0) {
        w->status = r;
        return;
    }
    if (bytes && w->count >= DIRECT_BLOCKS && w->first + w->count > PACKED_BLOCKS && !w->chunk->merge_wait &&
        all_fresh(w)) {
        w->route = ROUTE_DIRECT;
        return;
    }
    if (bytes && !sums_match(w)) {
        w->status = -TC_E_CHUNK_CORRUPT;
        return;
    }
    w->route = ROUTE_JOURNAL;
}

/* ---- applying ------------------------------------------------------------------------------------------- */

static void apply(struct chunk_store *cs, struct chunk_write *w, const struct part *p, struct buf *buf,
                  const uint8_t *data, uint64_t file)
{
    struct rec_item it = {w->key, p->first, p->count, w->vepoch, w->vseq, w->pair, file,
                          w->flags & WRITE_ZERO, buf != NULL, NULL};

    if (w->sums)
        it.sums = w->sums + 8u * (p->first - w->first);
    for (uint32_t b = p->first; !(w->flags & WRITE_REPAIR) && b < p->first + p->count; b++) {
        uint64_t epoch = chunk_block_get(w->chunk, b).vepoch;

        if (epoch > w->vepoch) { /* it came in between */
            w->epoch = MAX(w->epoch, epoch);
            item_fail(w, -TC_E_FENCED);
        }
    }
    *(w->flags & WRITE_ZERO ? &w->freed_blocks : &w->new_blocks) += rec_apply(cs, w->chunk, &it, buf, data);
}

/* ---- through the journal -------------------------------------------------------------------------------- */

static void record_free(struct write_record *wr)
{
    buf_unref(wr->data);
    free(wr->head);
    free(wr->iov);
    free(wr);
}

static void record_done(struct journal_req *req, int status)
{
    struct write_record *wr = container_of(req, struct write_record, req);
    struct chunk_write_op *op = wr->op;
    struct chunk_store *cs = op->cs;

    cs_append_done(cs);
    for (uint32_t i = 0; i < wr->n; i++) {
        struct part *p = &wr->parts[i];
        struct chunk_write *w = &op->items[p->item];
        const uint8_t *data = wr->iov[1 + i].iov_base;

        if (status < 0)
            item_fail(w, status);
        else
            apply(cs, w, p, wr->iov[1 + i].iov_len ? wr->data : NULL, data, 0);
    }
    if (status == 0)
        cs_apply_pos(cs, req->end);
    else if (status != -TC_E_NOSPC)
        cs_fail(cs, status, "journal write failed");
    record_free(wr);
    part_done(op);
}

/* Pending data keeps its buffer alive: a few blocks of a large message get one of their own. */
static struct buf *data_for_record(struct chunk_write_op *op, struct write_record *wr, uint64_t bytes)
{
    struct buf *b;

    if (!bytes)
        return NULL;
    if (bytes * 2 >= op->payload->len)
        return buf_ref(op->payload);
    b = buf_new((uint32_t)bytes);
    for (uint32_t i = 0; i < wr->n; i++) {
        struct iovec *v = &wr->iov[1 + i];

        if (!v->iov_len)
            continue;
        memcpy(b->data + b->len, v->iov_base, v->iov_len);
        v->iov_base = b->data + b->len;
        b->len += (uint32_t)v->iov_len;
    }
    return b;
}

static void record_append(struct chunk_store *cs, struct chunk_write_op *op, const struct part *parts, uint32_t n)
{
    struct write_record *wr = tc_calloc(1, sizeof(*wr) + n * sizeof(*parts));
    uint64_t bytes = 0;
    size_t len = REC_HEAD;
    uint8_t *p;
    int r;

    memcpy(wr->parts, parts, n * sizeof(*parts));
    wr->n = n;
    wr->op = op;
    wr->iov = tc_calloc(n + 1, sizeof(*wr->iov));
    for (uint32_t i = 0; i < n; i++)
        len += REC_ITEM + (op->items[parts[i].item].data ? parts[i].count * 8u : 0);
    p = wr->head = tc_malloc(len);
    rec_put_head(p, REC_WRITE, (uint16_t)n);
    p += REC_HEAD;
    for (uint32_t i = 0; i < n; i++) {
        struct chunk_write *w = &op->items[parts[i].item];
        uint32_t skip = parts[i].first - w->first, count = parts[i].count;
        struct rec_item it = {w->key, parts[i].first, count, w->vepoch, w->vseq, w->pair, 0,
                              !w->data, w->data != NULL, NULL};

        rec_put_item(p, &it);
        p += REC_ITEM;
        if (!w->data)
            continue;
        memcpy(p, w->sums + 8u * skip, count * 8u);
        p += count * 8u;
        wr->iov[1 + i] = (struct iovec){(void *)(uintptr_t)(w->data + (size_t)skip * BLOCK_SIZE),
                                        (size_t)count * BLOCK_SIZE};
        bytes += (uint64_t)count * BLOCK_SIZE;
    }
    wr->iov[0] = (struct iovec){wr->head, len};
    wr->data = data_for_record(op, wr, bytes);
    wr->req.done = record_done;
    op->left++;
    r = cs_append(cs, wr->iov, (int)n + 1, &wr->req);
    if (r == 0)
        return;
    op->left--;
    for (uint32_t i = 0; i < n; i++)
        item_fail(&op->items[parts[i].item], r);
    if (r == -TC_E_IO)
        cs_fail(cs, r, "journal write failed");
    record_free(wr);
}

static uint32_t record_blocks_max(const struct chunk_store *cs)
{
    uint64_t segment = cs->opt.journal.segment_bytes ? cs->opt.journal.segment_bytes : 16u << 20;
    uint64_t bytes = MIN(segment / 4, (uint64_t)RECORD_BYTES_MAX);
    uint64_t blocks = bytes / (BLOCK_SIZE + REC_ITEM + 8 + 64);

    return blocks ? (uint32_t)blocks : 1;
}

static void start_journal(struct chunk_store *cs, struct chunk_write_op *op)
{
    uint32_t max = record_blocks_max(cs), n = 0, blocks = 0;
    struct part parts[64];

    for (uint32_t i = 0; i < op->n; i++) {
        struct chunk_write *w = &op->items[i];

        if (w->route != ROUTE_JOURNAL)
            continue;
        for (uint32_t at = 0; at < w->count;) {
            uint32_t count = w->data ? MIN(w->count - at, max - blocks) : w->count - at;

            parts[n++] = (struct part){i, w->first + at, count};
            at += count;
            blocks += w->data ? count : 1;
            if (n == ARRAY_SIZE(parts) || blocks >= max) {
                record_append(cs, op, parts, n);
                n = blocks = 0;
            }
        }
    }
    if (n)
        record_append(cs, op, parts, n);
}

/* ---- straight to the file -------------------------------------------------------------------------------- */

static void direct_mark(struct chunk_write *w, bool on)
{
    for (uint32_t b = w->first; b < w->first + w->count; b++) {
        uint64_t bit = UINT64_C(1) << (b % 64);

        w->chunk->direct_bits[b / 64] = on ? w->chunk->direct_bits[b / 64] | bit : w->chunk->direct_bits[b / 64] & ~bit;
    }
}

static void direct_finish(struct direct *d, int status)
{
    struct chunk_write_op *op = d->op;
    struct chunk_store *cs = op->cs;
    struct chunk *c = d->item->chunk;

    if (status < 0)
        item_fail(d->item, status);
    direct_mark(d->item, false);
    c->direct_n--;
    merge_unblock(cs, c);
    chunk_file_unref(cs, d->fh);
    free(d->record);
    free(d);
    part_done(op);
}

static void direct_on_journal(struct journal_req *req, int status)
{
    struct direct *d = container_of(req, struct direct, req);
    struct chunk_store *cs = d->op->cs;
    struct part p = {0, d->item->first, d->item->count};

    cs_append_done(cs);
    if (status == 0) {
        apply(cs, d->item, &p, NULL, NULL, d->item->file);
        cs_apply_pos(cs, req->end);
    } else if (status != -TC_E_NOSPC) {
        cs_fail(cs, status, "journal write failed");
    }
    direct_finish(d, status);
}

static void direct_on_sync(struct sync_req *r)
{
    struct direct *d = container_of(r, struct direct, sync);
    struct chunk_store *cs = d->op->cs;
    struct chunk_write *w = d->item;
    struct rec_item it = {w->key, w->first, w->count, w->vepoch, w->vseq, w->pair, w->file, false, false, NULL};
    struct iovec iov;
    int status = r->status;

    if (status < 0) {
        cs->disk_error = true;
        LOG_ERR("storage", "sync of a chunk file failed", "err=%s", tc_error_name(status));
        direct_finish(d, status);
        return;
    }
    if (was_removed(cs, w->key.ino)) { /* meanwhile: the record would come behind that of its trim */
        direct_finish(d, -TC_E_FENCED);
        return;
    }
    if (w->chunk->file == w->file)
        w->chunk->file_durable = true;
    iov.iov_len = REC_HEAD + REC_ITEM + w->count * 8u;
    iov.iov_base = d->record = tc_malloc(iov.iov_len);
    rec_put_head(d->record, REC_WRITE, 1);
    rec_put_item(d->record + REC_HEAD, &it);
    memcpy(d->record + REC_HEAD + REC_ITEM, w->sums, w->count * 8u);
    d->req.done = direct_on_journal;
    status = cs_append(cs, &iov, 1, &d->req);
    if (status == 0)
        return;
    if (status == -TC_E_IO)
        cs_fail(cs, status, "journal write failed");
    direct_finish(d, status);
}

static void direct_run(struct env_job *j)
{
    struct direct *d = container_of(j, struct direct, job);
    struct chunk_write *w = d->item;
    struct chunk_store *cs = d->op->cs;
    struct vfs_file *f = d->fh ? d->fh->f : NULL;
    char path[512];

    d->status = sums_match(w) ? 0 : -TC_E_CHUNK_CORRUPT;
    if (d->status == 0 && !f) {
        chunk_file_path(cs, &w->key, w->file, path, sizeof path);
        d->status = vfs_open(cs->vfs, path, VFS_RDWR | VFS_CREATE, &d->opened);
        f = d->opened;
    }
    if (d->status == 0)
        d->status = vfs_pwrite(f, w->data, (size_t)w->count * BLOCK_SIZE, (uint64_t)w->first * BLOCK_SIZE);
}

static void direct_done(struct env_job *j)
{
    struct direct *d = container_of(j, struct direct, job);
    struct chunk_write *w = d->item;
    struct chunk_store *cs = d->op->cs;

    cs_job_done(cs, j);
    if (d->opened)
        d->fh = chunk_file_adopt(cs, w->chunk, w->file, d->opened);
    if (d->status < 0) {
        cs->disk_error = cs->disk_error || d->status == -TC_E_IO;
        LOG_WARN("storage", "write of a chunk file failed", "err=%s", tc_error_name(d->status));
        direct_finish(d, d->status);
        return;
    }
    d->sync.fh = d->fh;
    d->sync.dir = w->chunk->file_durable && w->chunk->file == w->file ? -1 : chunk_file_dir(&w->key);
    d->sync.done = direct_on_sync;
    sync_submit(cs, &d->sync);
}

static void start_direct(struct chunk_store *cs, struct chunk_write_op *op, struct chunk_write *w)
{
    struct direct *d = tc_calloc(1, sizeof(*d));

    if (!w->chunk->file)
        w->chunk->file = ++cs->file_last;
    w->file = w->chunk->file;
    d->op = op;
    d->item = w;
    d->fh = chunk_file_ref(w->chunk);
    sync_begin(&d->sync, d->fh);
    d->job.run = direct_run;
    d->job.done = direct_done;
    w->chunk->direct_n++;
    direct_mark(w, true);
    op->left++;
    cs_job(cs, &cs->disk, &d->job);
}

/* ---- taking in ---------------------------------------------------------------------------------------------- */

static void start(struct chunk_store *cs, struct chunk_write_op *op)
{
    op->left = 1; /* until all parts are under way */
    cs->inflight_bytes += op->bytes;
    for (uint32_t i = 0; i < op->n; i++) {
        cs->writes++;
        classify(cs, &op->items[i]);
        if (op->items[i].route == ROUTE_DIRECT)
            start_direct(cs, op, &op->items[i]);
    }
    start_journal(cs, op);
    if (--op->left == 0)
        env_defer(cs->env, &op->task);
}

static bool fits(const struct chunk_store *cs, const struct chunk_write_op *op)
{
    uint64_t used = cs->pending_bytes + cs->inflight_bytes;

    return !used || used + op->bytes <= cs->opt.pending_bytes;
}

void write_resume(struct chunk_store *cs)
{
    while (cs->stalled && (fits(cs, cs->stalled) || cs->failed)) {
        struct chunk_write_op *op = cs->stalled;

        DL_DELETE(cs->stalled, op);
        cs->stalled_bytes -= op->bytes;
        start(cs, op);
    }
}

void chunk_store_write(struct chunk_store *cs, struct chunk_write_op *op)
{
    op->cs = cs;
    op->task = (struct env_task){.fn = op_task};
    op->bytes = op->payload ? op->payload->len : 0;
    cs->last_write = env_now(cs->env);
    if (!cs->stalled && fits(cs, op)) {
        start(cs, op);
        return;
    }
    if (cs->stalled_bytes + op->bytes <= cs->opt.pending_bytes) {
        DL_APPEND(cs->stalled, op);
        cs->stalled_bytes += op->bytes;
        merge_kick(cs);
        return;
    }
    for (uint32_t i = 0; i < op->n; i++) {
        op->items[i].status = -TC_E_BACKPRESSURE;
        op->items[i].chunk = NULL;
    }
    op->bytes = 0;
    env_defer(cs->env, &op->task);
}
