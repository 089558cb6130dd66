/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merge rounds: what is only in the journal goes to its place, in the background.
 *
 *   FILES ──► UNLINKS ──► ROWS ──► FLUSH ──► (none)      suspended in: FILES, UNLINKS, FLUSH (jobs),
 *     └─────────┴──── error ──────────► (none, retried)               ROWS (turns of the loop)
 *
 * A round takes the chunks that are dirty when it begins, and the position up to which records are applied. FILES
 * writes pending blocks of chunks that have (or need) a file, and syncs them; UNLINKS removes files that are no
 * chunk's; ROWS puts packed data and index rows in the kv, in batches, the position with the last one. FLUSH makes
 * the kv durable and trims the journal; only when enough has gathered. Chunks that change meanwhile are dirty again,
 * for the next round.
 */
#include "storage/chunk_impl.h"

#include "common/log.h"

#define ROWS_PER_TURN 64
#define BYTES_PER_TURN (256u << 10)
#define MERGE_IDLE_NS (2 * NS_PER_S)
#define MERGE_RETRY_NS (1 * NS_PER_S)
#define QUIET_NS (1 * NS_PER_S)       /* a round on a timer waits for this much quiet: it would compete with writes ... */
#define UNQUIET_NS_MAX (20 * NS_PER_S) /* ... but not for ever */

enum merge_state { MERGE_FILES, MERGE_UNLINKS, MERGE_ROWS, MERGE_FLUSH };

struct merge_block {
    uint32_t block;
    uint64_t vepoch, vseq;
    struct buf *buf;
    const uint8_t *data;
};

struct merge_file {
    struct env_job job;
    struct sync_req sync;
    struct merge *m;
    struct chunk *chunk;
    struct chunk_file *fh;
    struct vfs_file *opened;
    uint64_t file;
    int status;
    uint32_t n;
    struct merge_block blocks[];
};

struct merge {
    struct chunk_store *cs;
    enum merge_state state;
    struct chunk **chunks;
    uint32_t n;
    uint32_t next;    /* FILES: to be started; ROWS: to be put */
    uint32_t jobs;
    uint32_t blocked; /* FILES: chunks that wait for direct writes */
    int status;
    uint64_t pos;
    struct env_task task;
    struct env_job job;
    struct unlink_work *unlinks; /* being removed */
};

static void merge_step(struct merge *m);

static void merge_task(struct env_task *t)
{
    merge_step(container_of(t, struct merge, task));
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static bool wants_file(const struct chunk *c)
{
    if (c->file)
        return true;
    for (uint32_t b = PACKED_BLOCKS; b < c->n; b++) {
        if (c->blocks[b].kind == RUN_DATA)
            return true;
    }
    return false;
}

static void file_finish(struct merge_file *mf, int status)
{
    struct merge *m = mf->m;
    struct chunk_store *cs = m->cs;
    struct chunk *c = mf->chunk;

    if (status < 0) {
        m->status = status;
        cs->disk_error = cs->disk_error || status == -TC_E_IO;
        LOG_WARN("storage", "merging a chunk failed, retrying", "err=%s", tc_error_name(status));
    } else if (c->file == mf->file) {
        c->file_durable = true;
    }
    for (uint32_t i = 0; i < mf->n; i++) {
        struct merge_block *mb = &mf->blocks[i];
        struct block *blk = mb->block < c->n ? &c->blocks[mb->block] : NULL;

        if (status == 0 && blk && blk->kind == RUN_DATA && blk->place == PLACE_JOURNAL && blk->vepoch == mb->vepoch &&
            blk->vseq == mb->vseq && c->file == mf->file) {
            blk->place = PLACE_FILE;
            chunk_pend_drop(cs, c, mb->block);
        }
        buf_unref(mb->buf);
    }
    chunk_file_unref(cs, mf->fh);
    free(mf);
    m->jobs--;
    write_resume(cs);
    merge_step(m);
}

static void file_on_sync(struct sync_req *r)
{
    file_finish(container_of(r, struct merge_file, sync), r->status);
}

/* Neighbours go out in one write. */
static int write_blocks(struct merge_file *mf, struct vfs_file *f)
{
    struct iovec iov[BLOCKS_PER_CHUNK];

    for (uint32_t i = 0, end; i < mf->n; i = end) {
        int r, k = 0;

        for (end = i; end < mf->n && mf->blocks[end].block == mf->blocks[i].block + (end - i); end++)
            iov[k++] = (struct iovec){(void *)(uintptr_t)mf->blocks[end].data, BLOCK_SIZE};
        r = vfs_pwritev(f, iov, k, (uint64_t)mf->blocks[i].block * BLOCK_SIZE);
        if (r < 0)
            return r;
    }
    return 0;
}

static void file_run(struct env_job *j)
{
    struct merge_file *mf = container_of(j, struct merge_file, job);
    struct vfs_file *f = mf->fh ? mf->fh->f : NULL;
    char path[512];

    if (!f) {
        chunk_file_path(mf->m->cs, &mf->chunk->key, mf->file, path, sizeof path);
        mf->status = vfs_open(mf->m->cs->vfs, path, VFS_RDWR | VFS_CREATE, &mf->opened);
        f = mf->opened;
    }
    if (mf->status == 0)
        mf->status = write_blocks(mf, f);
}

static void file_done(struct env_job *j)
{
    struct merge_file *mf = container_of(j, struct merge_file, job);
    struct chunk_store *cs = mf->m->cs;

    cs_job_done(cs, j);
    if (mf->opened)
        mf->fh = chunk_file_adopt(cs, mf->chunk, mf->file, mf->opened);
    if (mf->status < 0) {
        file_finish(mf, mf->status);
        return;
    }
    mf->sync.fh = mf->fh;
    mf->sync.dir = mf->chunk->file_durable && mf->chunk->file == mf->file ? -1 : chunk_file_dir(&mf->chunk->key);
    mf->sync.done = file_on_sync;
    sync_submit(cs, &mf->sync);
}

static void file_start(struct merge *m, struct chunk *c)
{
    struct merge_file *mf = tc_calloc(1, sizeof(*mf) + c->n_pend * sizeof(struct merge_block));
    struct chunk_store *cs = m->cs;

    if (!c->file)
        c->file = ++cs->file_last;
    mf->m = m;
    mf->chunk = c;
    mf->file = c->file;
    mf->fh = chunk_file_ref(c);
    sync_begin(&mf->sync, mf->fh);
    for (uint32_t b = 0; b < c->n; b++) {
        if (c->pend[b].buf)
            mf->blocks[mf->n++] = (struct merge_block){b, c->blocks[b].vepoch, c->blocks[b].vseq,
                                                       buf_ref(c->pend[b].buf), c->pend[b].data};
    }
    ASSERT(mf->n == c->n_pend);
    mf->job.run = file_run;
    mf->job.done = file_done;
    m->jobs++;
    cs_job(cs, &cs->disk, &mf->job);
}

/* Direct writes must not be overtaken on blocks they write: no merge while one is under way. */
void merge_unblock(struct chunk_store *cs, struct chunk *c)
{
    struct merge *m = cs->merge;

    if (!c->merge_wait || c->direct_n)
        return;
    c->merge_wait = false;
    ASSERT(m && m->blocked > 0);
    m->blocked--;
    if (c->n_pend && wants_file(c))
        file_start(m, c);
    else
        env_defer(cs->env, &m->task);
}

static bool files_step(struct merge *m)
{
    while (m->next < m->n && m->jobs < MERGE_JOBS_MAX && m->status == 0) {
        struct chunk *c = m->chunks[m->next++];

        if (!c->n_pend || !wants_file(c))
            continue;
        c->merge_filed = true;
        if (c->direct_n) {
            c->merge_wait = true;
            m->blocked++;
            continue;
        }
        file_start(m, c);
    }
    if (m->jobs || m->blocked)
        return false;
    return m->next == m->n || m->status < 0;
}

/* ---- unlinks ---------------------------------------------------------------------------------------------------- */

static void unlinks_run(struct env_job *j)
{
    struct merge *m = container_of(j, struct merge, job);
    struct unlink_work *w;
    char path[512];

    DL_FOREACH(m->unlinks, w) {
        int r;

        chunk_file_path(m->cs, &w->key, w->file, path, sizeof path);
        r = vfs_unlink(m->cs->vfs, path);
        if (r < 0 && r != -TC_E_NOENT)
            m->status = r;
    }
}

static void unlinks_done(struct env_job *j)
{
    struct merge *m = container_of(j, struct merge, job);
    struct unlink_work *w;

    cs_job_done(m->cs, j);
    m->jobs--;
    while ((w = m->unlinks)) {
        DL_DELETE(m->unlinks, w);
        free(w);
    }
    if (m->status < 0) { /* an orphan file wastes space, no more */
        LOG_WARN("storage", "removing a chunk file failed", "err=%s", tc_error_name(m->status));
        m->status = 0;
    }
    m->next = 0;
    m->state = MERGE_ROWS;
    merge_step(m);
}

static void unlinks_start(struct merge *m)
{
    struct chunk_store *cs = m->cs;

    m->state = MERGE_UNLINKS;
    m->unlinks = cs->unlinks;
    cs->unlinks = NULL;
    m->job.run = unlinks_run;
    m->job.done = unlinks_done;
    m->jobs++;
    cs_job(cs, &cs->disk, &m->job);
}

/* ---- rows ------------------------------------------------------------------------------------------------------------ */

/* Returns whether all rows are in. */
static int rows_step(struct merge *m)
{
    struct chunk_store *cs = m->cs;
    uint64_t bytes = 0;
    uint32_t rows = 0;
    bool last;
    int r;

    while (m->next < m->n && rows < ROWS_PER_TURN && bytes < BYTES_PER_TURN) {
        struct chunk *c = m->chunks[m->next++];

        bytes += c->file ? 512 : (uint64_t)c->n_pend * BLOCK_SIZE;
        /* What was packed when the round began must not be left out, even if the chunk got a file since. */
        chunk_row_put(cs, c, !c->merge_filed);
        c->merge_filed = false;
        rows++;
    }
    last = m->next == m->n;
    cs_meta_put(cs, last, m->pos);
    r = kv_write(cs->kv, cs->batch);
    return r < 0 ? r : last;
}

bool merge_rows_put(struct chunk_store *cs, uint64_t pg)
{
    struct merge *m = cs->merge;
    bool any = false;

    for (uint32_t i = m && m->state >= MERGE_ROWS ? m->next : 0; m && i < m->n; i++) {
        if (m->chunks[i]->key.pg != pg)
            continue;
        chunk_row_put(cs, m->chunks[i], false);
        any = true;
    }
    return any;
}

uint32_t merge_first_of(const struct chunk_store *cs, uint64_t ino, uint32_t from, uint32_t to)
{
    const struct merge *m = cs->merge;

    for (uint32_t i = m && m->state >= MERGE_ROWS ? m->next : 0; m && i < m->n; i++) {
        const struct chunk_key *k = &m->chunks[i]->key;

        if (k->ino == ino && k->index >= from)
            to = MIN(to, k->index);
    }
    return to;
}

/* ---- the round ------------------------------------------------------------------------------------------------------- */

static void merge_end(struct merge *m)
{
    struct chunk_store *cs = m->cs;
    int status = m->status;
    uint64_t delay = MERGE_IDLE_NS;

    cs->merge = NULL;
    cs->last_merge = env_now(cs->env);
    for (uint32_t i = 0; i < m->n; i++) {
        struct chunk *c = m->chunks[i];

        c->merge_filed = c->merge_wait = false;
        if (status < 0 || c->n_pend)
            chunk_mark_dirty(cs, c);
        chunk_put(cs, c);
    }
    free(m->chunks);
    free(m);
    if (status < 0)
        delay = MERGE_RETRY_NS;
    env_timer_set(cs->env, &cs->merge_timer, env_now(cs->env) + delay);
    chunk_evict(cs);
    write_resume(cs);
    if (status == 0)
        merge_kick(cs);
}

static void flush_run(struct env_job *j)
{
    struct merge *m = container_of(j, struct merge, job);

    m->status = kv_flush(m->cs->kv);
}

static void flush_done(struct env_job *j)
{
    struct merge *m = container_of(j, struct merge, job);
    struct chunk_store *cs = m->cs;

    cs_job_done(cs, j);
    m->jobs--;
    if (m->status == 0) {
        cs->flushed = m->pos;
        journal_trim(cs->journal, m->pos);
    } else {
        cs->disk_error = cs->disk_error || m->status == -TC_E_IO;
        LOG_ERR("storage", "checkpoint failed, retrying", "err=%s", tc_error_name(m->status));
    }
    merge_end(m);
}

static bool flush_due(const struct chunk_store *cs)
{
    uint64_t segment = cs->opt.journal.segment_bytes ? cs->opt.journal.segment_bytes : 16u << 20;

    return cs->checkpoint_wanted || journal_bytes(cs->journal) > 4 * segment;
}

static void rows_end(struct merge *m)
{
    struct chunk_store *cs = m->cs;

    if (!flush_due(cs)) {
        merge_end(m);
        return;
    }
    cs->checkpoint_wanted = false;
    m->state = MERGE_FLUSH;
    m->job.run = flush_run;
    m->job.done = flush_done;
    m->jobs++;
    cs_job(cs, &cs->maintenance, &m->job);
}

static void merge_step(struct merge *m)
{
    struct chunk_store *cs = m->cs;
    int r;

    switch (m->state) {
    case MERGE_FILES:
        if (!files_step(m))
            return;
        if (m->status < 0)
            merge_end(m);
        else
            unlinks_start(m);
        return;
    case MERGE_UNLINKS:
        return;
    case MERGE_ROWS:
        r = rows_step(m);
        write_resume(cs);
        if (r < 0) {
            cs_fail(cs, r, "index store failed");
            m->status = r;
            merge_end(m);
        } else if (r == 0) {
            env_defer(cs->env, &m->task);
        } else {
            rows_end(m);
        }
        return;
    case MERGE_FLUSH:
        return;
    }
}

static void merge_start(struct chunk_store *cs)
{
    struct merge *m = tc_calloc(1, sizeof(*m));

    m->cs = cs;
    m->state = MERGE_FILES;
    m->pos = cs->applied;
    m->chunks = cs->dirty;
    m->n = cs->n_dirty;
    m->task.fn = merge_task;
    cs->dirty = NULL;
    cs->n_dirty = cs->cap_dirty = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        m->chunks[i]->dirty = false;
        m->chunks[i]->refs++;
    }
    cs->merge = m;
    env_defer(cs->env, &m->task);
}

static bool merge_due(const struct chunk_store *cs)
{
    if (!cs->n_dirty && !cs->unlinks && cs->applied == cs->flushed)
        return false;
    return cs->stalled || cs->pending_bytes > cs->opt.pending_bytes / 2 ||
           cs->n_dirty * (uint64_t)2048 > cs->opt.cache_bytes / 2 || cs->checkpoint_wanted || flush_due(cs);
}

void merge_kick(struct chunk_store *cs)
{
    if (cs->merge || cs->failed)
        return;
    if (merge_due(cs))
        merge_start(cs);
    else if (cs->n_dirty && !env_timer_armed(&cs->merge_timer))
        env_timer_set(cs->env, &cs->merge_timer, env_now(cs->env) + MERGE_IDLE_NS);
}

void merge_timer_fire(struct env_timer *t)
{
    struct chunk_store *cs = container_of(t, struct chunk_store, merge_timer);

    uint64_t now = env_now(cs->env);

    if (cs->merge || cs->failed || (!cs->n_dirty && !cs->unlinks))
        return;
    if (now < cs->last_write + QUIET_NS && now < cs->last_merge + UNQUIET_NS_MAX)
        env_timer_set(cs->env, t, now + QUIET_NS);
    else
        merge_start(cs);
}

void merge_free(struct chunk_store *cs)
{
    struct merge *m = cs->merge;
    struct unlink_work *w;

    while ((w = cs->unlinks)) {
        DL_DELETE(cs->unlinks, w);
        free(w);
    }
    if (!m)
        return;
    env_defer_cancel(cs->env, &m->task);
    while ((w = m->unlinks)) {
        DL_DELETE(m->unlinks, w);
        free(w);
    }
    free(m->chunks);
    free(m);
    cs->merge = NULL;
}
