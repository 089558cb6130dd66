/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal at work: appends gather in batches, one batch at a time is written and synced by a disk job.
 *
 *   append ──► batch (tail of the queue) ──► head: job writes, syncs ──► done() of each request, in order
 *
 * A batch lies in one segment. Appends add to the last batch until it flies, is large, or its segment is
 * full; the first batch of a segment ends the one before (end marker, synced first). While a batch waits for
 * its segment to be created, the queue waits. When space runs out before a sync, everything queued fails with
 * NOSPC and the end goes back to where that batch would have begun; remains of the failed write are zeroed
 * and synced before anything is put in their place, for a later record could else make them valid again.
 *
 * Invariants: durable <= end; positions of queued requests ascend; at most one write job and one background
 * job at a time; only the loop changes the segment table (under the lock: journal_read looks at it).
 */
#include <limits.h>
#include <string.h>

#include "common/journal_internal.h"
#include "common/test_rules.h"

enum {
    BATCH_BYTES_MAX = 8 << 20,   /* what one sync carries: bounds the wait of the next batch */
    QUEUED_BYTES_MAX = 64 << 20, /* beyond: BACKPRESSURE */
    QUEUED_REQS_MAX = 65536,
};

static uint64_t segment_of(const struct journal *j, uint64_t pos)
{
    return pos / j->segment_bytes;
}

/* ---- the disk job ------------------------------------------------------------------------------- */

static int batch_close_segment(struct batch *b)
{
    uint8_t raw[JOURNAL_FRAME_BYTES];
    int r;

    frame_encode(b->j->id, b->close_pos, b->synced, JOURNAL_LEN_END, NULL, 0, raw);
    r = vfs_pwrite(b->close_seg->file, raw, sizeof raw, b->close_pos % b->j->segment_bytes);
    if (r < 0)
        return r;
    r = vfs_sync(b->close_seg->file);
    if (r < 0)
        return r == -TC_E_NOSPC ? -TC_E_IO : r;
    b->closed = true;
    return 0;
}

static int batch_wipe(struct batch *b)
{
    uint64_t S = b->j->segment_bytes;
    struct segment *s = b->wipe_from / S == b->start / S ? b->seg : b->close_seg;
    int r;

    ASSERT(s && s->id == b->wipe_from / S);
    r = segment_zero(s->file, b->wipe_from % S, b->wipe_from % S + (b->wipe_to - b->wipe_from));
    if (r < 0)
        return r;
    r = vfs_sync(s->file);
    return r == -TC_E_NOSPC ? -TC_E_IO : r;
}

static int batch_write(struct batch *b)
{
    uint64_t off = b->start % b->j->segment_bytes;
    int r;

    for (uint32_t i = 0; i < b->n_records; i++) {
        struct batch_record *rec = &b->records[i];
        struct iovec *v = &b->iov[rec->iov_first];

        frame_encode(b->j->id, rec->pos, b->synced, rec->len, v + 1, rec->iov_n, rec->raw + JOURNAL_ALIGN);
        v->iov_base = rec->raw + JOURNAL_ALIGN - rec->pad;
    }
    for (uint32_t i = 0; i < b->n_iov;) {
        uint32_t n = MIN(b->n_iov - i, (uint32_t)IOV_MAX);

        r = vfs_pwritev(b->seg->file, b->iov + i, (int)n, off);
        if (r < 0)
            return r;
        for (uint32_t end = i + n; i < end; i++)
            off += b->iov[i].iov_len;
    }
    if (!TC_RULE(DURABLE_ACK))
        return 0;
    r = vfs_sync(b->seg->file);
    return r == -TC_E_NOSPC ? -TC_E_IO : r; /* what a failed sync left is unknown, whatever it calls itself */
}

static void batch_run(struct env_job *job)
{
    struct batch *b = container_of(job, struct batch, job);
    int r = 0;

    if (b->wipe_to)
        r = batch_wipe(b);
    if (!r) {
        b->wipe_to = 0;
        if (b->close_pos)
            r = batch_close_segment(b);
    }
    if (!r)
        r = batch_write(b);
    b->status = r;
}

/* ---- batches ------------------------------------------------------------------------------------ */

static struct batch *batch_new(struct journal *j, uint64_t start, uint64_t close_pos)
{
    struct batch *b = j->free_batches;

    if (b) {
        j->free_batches = b->next;
    } else {
        b = tc_calloc(1, sizeof *b);
        b->j = j;
    }
    b->start = b->end = start;
    b->close_pos = close_pos;
    b->closed = false;
    b->n_iov = b->n_records = 0;
    b->first = NULL;
    b->last = &b->first;
    b->next = NULL;
    *j->tail = b;
    j->tail = &b->next;
    return b;
}

static void batch_free(struct batch *b)
{
    free(b->iov);
    free(b->records);
    free(b);
}

static void batch_put(struct journal *j, struct batch *b)
{
    segment_unref(j, TAKE(b->seg));
    segment_unref(j, TAKE(b->close_seg));
    if (b->iov_cap > 4096) { /* a burst's memory is not kept */
        batch_free(b);
        return;
    }
    b->next = j->free_batches;
    j->free_batches = b;
}

static void batch_add(struct batch *b, uint64_t pos, uint32_t len, const struct iovec *iov, uint32_t n,
                      struct journal_req *r)
{
    struct batch_record *rec;

    if (b->n_iov + n + 1 > b->iov_cap) {
        b->iov_cap = MAX(2 * b->iov_cap, b->n_iov + n + 64);
        b->iov = tc_realloc(b->iov, b->iov_cap * sizeof *b->iov);
    }
    if (b->n_records == b->records_cap) {
        b->records_cap = b->records_cap ? 2 * b->records_cap : 32;
        b->records = tc_realloc(b->records, b->records_cap * sizeof *b->records);
    }
    rec = &b->records[b->n_records];
    *rec = (struct batch_record){.pos = pos, .len = len, .iov_first = b->n_iov, .iov_n = n};
    if (b->n_records)
        rec->pad = (uint32_t)(pos - (rec[-1].pos + JOURNAL_FRAME_BYTES + rec[-1].len));
    b->n_records++;
    b->iov[b->n_iov++] = (struct iovec){NULL, rec->pad + JOURNAL_FRAME_BYTES}; /* base: when it is written */
    if (n)
        memcpy(b->iov + b->n_iov, iov, n * sizeof *iov);
    b->n_iov += n;
    b->end = pos + JOURNAL_FRAME_BYTES + journal_align(len);
    r->next = NULL;
    *b->last = r;
    b->last = &r->next;
}

/* The batch that an append at @pos may still join, or NULL. */
static struct batch *batch_open(struct journal *j, uint64_t pos)
{
    struct batch *b;

    if (!j->head)
        return NULL;
    b = container_of(j->tail, struct batch, next);
    if ((j->flying && b == j->head) || b->end != pos || b->end - b->start >= BATCH_BYTES_MAX)
        return NULL;
    return b;
}

/* ---- completion --------------------------------------------------------------------------------- */

bool journal_gone(struct journal *j)
{
    if (!j->closing || j->entered || j->flying || j->bg.busy || j->marking || j->start_task.queued)
        return false;
    journal_free(j);
    return true;
}

/* Callbacks may append, trim and close. */
static void journal_finish(struct journal *j, struct journal_req *list, int status)
{
    j->entered++;
    while (list) {
        struct journal_req *r = list;

        list = r->next;
        r->next = NULL;
        r->done(r, status);
    }
    j->entered--;
}

/* Take the head batch off the queue; its requests go to the list's end. */
static struct batch *journal_pop(struct journal *j, struct journal_req ***list_end)
{
    struct batch *b = j->head;

    j->head = b->next;
    if (!j->head)
        j->tail = &j->head;
    j->queued_bytes -= b->end - b->start;
    j->queued_reqs -= b->n_records;
    if (b->first) {
        **list_end = b->first;
        *list_end = b->last;
    }
    b->first = NULL;
    return b;
}

/*
 * Fail everything queued. NOSPC: the journal goes on at the place where the head batch would have begun. A batch that is being
 * written belongs to its job: what failed beside it (a segment in the background) waits for batch_done.
 */
static void journal_fail(struct journal *j, int status)
{
    struct journal_req *list = NULL, **list_end = &list;
    struct batch *b = j->head;

    if (status != -TC_E_NOSPC) {
        j->failed = true;
        status = -TC_E_IO;
    } else if (b) {
        j->end = b->close_pos && !b->closed ? b->close_pos : b->start;
    }
    if (j->flying)
        return;
    while (j->head)
        batch_put(j, journal_pop(j, &list_end));
    journal_finish(j, list, status);
}

static void batch_done(struct env_job *job)
{
    struct batch *b = container_of(job, struct batch, job);
    struct journal *j = b->j;
    struct journal_req *list = NULL, **list_end = &list;

    ASSERT(j->flying && b == j->head);
    j->flying = false;
    if (journal_gone(j))
        return;
    if (b->status == 0) {
        pthread_mutex_lock(&j->lock);
        j->durable = b->end;
        pthread_mutex_unlock(&j->lock);
        j->wipe_from = j->wipe_to = 0;
        batch_put(j, journal_pop(j, &list_end));
        journal_finish(j, list, 0);
        if (j->failed) /* meanwhile, in the background */
            journal_fail(j, -TC_E_IO);
        journal_mark_later(j);
    } else {
        if (b->status == -TC_E_NOSPC && b->wipe_to == 0) { /* what is there now is to be wiped */
            bool in_old = b->close_pos && !b->closed;

            j->wipe_from = in_old ? b->close_pos : b->start;
            j->wipe_to = in_old ? b->close_pos + JOURNAL_FRAME_BYTES : b->end;
        }
        journal_fail(j, b->status);
    }
    if (journal_gone(j))
        return;
    journal_start(&j->start_task);
    journal_background(j);
}

/* Submit the head batch if nothing flies and its segment is there. Also the task of a turn's appends. */
void journal_start(struct env_task *t)
{
    struct journal *j = container_of(t, struct journal, start_task);
    struct batch *b = j->head;
    struct segment *s;

    if (journal_gone(j) || j->closing || j->flying || j->failed)
        return;
    if (!b) {
        if (!j->create_status)
            journal_background(j);
        return;
    }
    s = segment_find(j, segment_of(j, b->start));
    if (!s) {
        journal_background(j);
        return;
    }
    segment_ref(j, s);
    b->seg = s;
    if (b->close_pos || j->wipe_to) {
        uint64_t old = b->close_pos ? b->close_pos : j->wipe_from;

        b->close_seg = segment_find(j, segment_of(j, old));
        ASSERT(b->close_seg);
        segment_ref(j, b->close_seg);
    }
    b->synced = j->durable;
    b->wipe_from = j->wipe_from;
    b->wipe_to = j->wipe_to;
    b->job = (struct env_job){.run = batch_run, .done = batch_done};
    j->flying = true;
    env_job_submit(j->env, &j->write_queue, &b->job);
    journal_background(j);
}

/* ---- segments in the background ----------------------------------------------------------------- */

static void bg_run(struct env_job *job)
{
    struct journal_bg *bg = container_of(job, struct journal_bg, job);

    if (bg->kind == JOURNAL_BG_CREATE)
        bg->status = segment_create(bg->j, bg->id, bg->synced, TAKE(bg->seg), &bg->seg);
    else
        bg->status = segment_recycle(bg->j, bg->seg, bg->keep);
}

static void bg_done_create(struct journal *j)
{
    struct journal_bg *bg = &j->bg;

    j->create_status = bg->status;
    if (bg->status == 0)
        journal_add_segment(j, TAKE(bg->seg));
    else if (bg->status != -TC_E_NOSPC)
        journal_fail(j, bg->status);
    else if (j->head && !j->flying && !segment_find(j, segment_of(j, j->head->start)))
        journal_fail(j, -TC_E_NOSPC);
}

static void bg_done(struct env_job *job)
{
    struct journal_bg *bg = container_of(job, struct journal_bg, job);
    struct journal *j = bg->j;
    struct segment *s;

    bg->busy = false;
    if (bg->kind == JOURNAL_BG_CREATE) {
        bg_done_create(j);
    } else {
        s = TAKE(bg->seg);
        if (bg->status == 0 && bg->keep) {
            s->spare = true;
            s->next = j->spares;
            j->spares = s;
            j->n_spares++;
        } else if (bg->status == 0) {
            segment_unref(j, s);
        } else { /* stays what it is; tried again at the next start, for the file is still there */
            segment_unref(j, s);
            journal_fail(j, bg->status == -TC_E_NOSPC ? -TC_E_IO : bg->status);
        }
    }
    if (journal_gone(j))
        return;
    journal_start(&j->start_task);
    if (!j->create_status || j->head)
        journal_background(j);
}

/* Keep one segment ahead of the end; recycle what was trimmed. One thing at a time. */
void journal_background(struct journal *j)
{
    struct journal_bg *bg = &j->bg;
    uint64_t last = j->segs[j->n_segs - 1]->id;
    bool needed = j->head && segment_of(j, j->head->start) > last;
    bool create = last < segment_of(j, j->end) + 1 && (needed || !j->create_status);

    if (bg->busy || j->closing || j->failed || (!create && !j->recycle))
        return;
    if (j->recycle && (!create || !j->spares)) {
        bg->kind = JOURNAL_BG_RECYCLE;
        bg->seg = j->recycle;
        j->recycle = bg->seg->next;
        if (!j->recycle)
            j->recycle_tail = &j->recycle;
        pthread_mutex_lock(&j->lock);
        bg->keep = j->n_spares < j->spare_max && bg->seg->refs == 1; /* no reader has it */
        pthread_mutex_unlock(&j->lock);
    } else {
        bg->kind = JOURNAL_BG_CREATE;
        bg->id = last + 1;
        bg->synced = j->durable;
        bg->seg = j->spares;
        if (bg->seg) {
            j->spares = bg->seg->next;
            j->n_spares--;
        }
    }
    bg->j = j;
    bg->job = (struct env_job){.run = bg_run, .done = bg_done};
    bg->busy = true;
    env_job_submit(j->env, &j->bg_queue, &bg->job);
}

/* ---- calls -------------------------------------------------------------------------------------- */

int journal_append(struct journal *j, const struct iovec *iov, int n, struct journal_req *r)
{
    uint64_t len = 0, pos = j->end, close_pos = 0, need;
    struct batch *b;

    ASSERT(n >= 0 && r->done && !j->closing);
    for (int i = 0; i < n; i++)
        len += iov[i].iov_len;
    if (j->failed)
        return -TC_E_IO;
    if (len > j->segment_bytes / 4)
        return -TC_E_LIMIT;
    if (j->queued_bytes + len > QUEUED_BYTES_MAX || j->queued_reqs >= QUEUED_REQS_MAX)
        return -TC_E_BACKPRESSURE;
    need = JOURNAL_FRAME_BYTES + journal_align(len);
    if (pos % j->segment_bytes + need + JOURNAL_FRAME_BYTES > j->segment_bytes ||
        (j->rotate && pos % j->segment_bytes > JOURNAL_HEADER_BYTES)) {
        close_pos = pos;
        pos = (segment_of(j, pos) + 1) * j->segment_bytes + JOURNAL_HEADER_BYTES;
    }
    j->rotate = false;
    b = batch_open(j, pos);
    if (!b)
        b = batch_new(j, pos, close_pos);
    batch_add(b, pos, (uint32_t)len, iov, (uint32_t)n, r);
    r->pos = pos;
    r->end = j->end = pos + need;
    j->queued_bytes += need;
    j->queued_reqs++;
    if (!j->flying)
        env_defer(j->env, &j->start_task);
    return 0;
}

void journal_trim(struct journal *j, uint64_t pos)
{
    uint32_t n = 0;

    pos = MIN(pos, j->durable);
    pthread_mutex_lock(&j->lock);
    while (n + 1 < j->n_segs && (j->segs[n]->id + 1) * j->segment_bytes <= pos) {
        j->segs[n]->next = NULL;
        *j->recycle_tail = j->segs[n];
        j->recycle_tail = &j->segs[n]->next;
        n++;
    }
    j->n_segs -= n;
    memmove(j->segs, j->segs + n, j->n_segs * sizeof *j->segs);
    pthread_mutex_unlock(&j->lock);
    if (n)
        journal_background(j);
}

static int journal_read_at(struct journal *j, struct segment *s, uint64_t pos, struct buf **ret_buf,
                           struct frame *ret_frame)
{
    uint8_t raw[JOURNAL_FRAME_BYTES];
    uint64_t off = pos % j->segment_bytes;
    struct buf *buf;
    int64_t n;

    n = vfs_pread(s->file, raw, sizeof raw, off);
    if (n < 0)
        return (int)n;
    if (n < (int64_t)sizeof raw || !frame_decode(j->id, pos, raw, ret_frame))
        return -TC_E_DAMAGED;
    if (ret_frame->len == JOURNAL_LEN_END)
        return 0;
    if (ret_frame->len > j->segment_bytes / 4)
        return -TC_E_DAMAGED;
    buf = buf_new(ret_frame->len);
    n = vfs_pread(s->file, buf->data, ret_frame->len, off + sizeof raw);
    buf->len = ret_frame->len;
    if (n < (int64_t)ret_frame->len || !frame_data_ok(ret_frame, buf->data)) {
        buf_unref(buf);
        return n < 0 ? (int)n : -TC_E_DAMAGED;
    }
    *ret_buf = buf;
    return 0;
}

int journal_read(struct journal *j, uint64_t pos, struct buf **ret_buf, uint64_t *ret_next_pos)
{
    struct buf *buf = NULL;
    struct frame f;
    int r;

    for (;;) {
        struct segment *s;
        uint64_t id = segment_of(j, pos);
        bool gone;

        pthread_mutex_lock(&j->lock);
        s = pos < j->durable ? segment_find(j, id) : NULL;
        if (s)
            s->refs++;
        pthread_mutex_unlock(&j->lock);
        if (!s)
            return -TC_E_NOENT;
        r = journal_read_at(j, s, pos, &buf, &f);
        segment_unref(j, s);
        pthread_mutex_lock(&j->lock);
        gone = !segment_find(j, id); /* trimmed meanwhile: what was read may be another segment's */
        pthread_mutex_unlock(&j->lock);
        if (gone) {
            buf_unref(buf);
            return -TC_E_NOENT;
        }
        if (r < 0)
            return r;
        if (f.len != JOURNAL_LEN_END)
            break;
        pos = (id + 1) * j->segment_bytes + JOURNAL_HEADER_BYTES;
    }
    *ret_buf = buf;
    if (ret_next_pos)
        *ret_next_pos = pos + JOURNAL_FRAME_BYTES + journal_align(f.len);
    return 0;
}

static void uncache(struct journal *j, uint64_t id)
{
    struct segment *s;

    pthread_mutex_lock(&j->lock);
    s = segment_find(j, id);
    if (s)
        s->refs++;
    pthread_mutex_unlock(&j->lock);
    if (s) {
        vfs_uncache(s->file);
        segment_unref(j, s);
    }
}

uint64_t journal_check(struct journal *j, uint64_t from)
{
    uint64_t pos = from, seen = UINT64_MAX;
    struct buf *b = NULL;
    int r;

    do {
        if (segment_of(j, pos) != seen)
            uncache(j, seen = segment_of(j, pos));
        from = pos;
        r = journal_read(j, pos, &b, &pos);
        if (r == 0)
            b = buf_unref(b);
    } while (r == 0);
    return r == -TC_E_DAMAGED || r == -TC_E_IO ? from : 0;
}

void journal_rotate(struct journal *j)
{
    j->rotate = true;
}

uint64_t journal_begin(const struct journal *j)
{
    return j->segs[0]->id * j->segment_bytes + JOURNAL_HEADER_BYTES;
}

bool journal_is_new(const struct journal *j)
{
    return j->is_new;
}

bool journal_is_whole(const struct journal *j)
{
    return j->segs[0]->id == 1;
}

uint64_t journal_end(const struct journal *j)
{
    return j->end;
}

uint64_t journal_durable(const struct journal *j)
{
    return j->durable;
}

uint64_t journal_bytes(const struct journal *j)
{
    return j->end - journal_begin(j);
}

void journal_free(struct journal *j)
{
    struct segment *s;
    struct batch *b;

    for (uint32_t i = 0; i < j->n_segs; i++)
        segment_unref(j, j->segs[i]);
    while ((s = j->recycle)) {
        j->recycle = s->next;
        segment_unref(j, s);
    }
    while ((s = j->spares)) {
        j->spares = s->next;
        vfs_close(s->file);
        free(s);
    }
    while ((b = j->head)) {
        j->head = b->next;
        segment_unref(j, b->seg);
        segment_unref(j, b->close_seg);
        batch_free(b);
    }
    while ((b = j->free_batches)) {
        j->free_batches = b->next;
        batch_free(b);
    }
    pthread_mutex_destroy(&j->lock);
    free(j->segs);
    free(j->dir);
    free(j);
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    j->closing = true;
    env_defer_cancel(j->env, &j->start_task);
    env_timer_cancel(j->env, &j->mark_timer);
    (void)journal_gone(j); /* else the last job, task or callback under way frees it */
}
