/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunk files: names, a bounded cache of open handles, and syncs.
 *
 * A file's sync and the sync of its directory run side by side; at most SYNC_JOBS_MAX files at once, and one
 * sync per directory at a time, which serves all that asked for it before it began. So many new files
 * share few syncs. Handles are opened inside jobs and adopted by the chunk afterwards.
 *
 * When pages cannot be written the kernel says so once per handle, to the sync that comes first, and the pages count as
 * clean. So a handle is synced by one at a time, and an error is one for all who had written before it came.
 */
#include "storage/chunk_impl.h"

#include <stdio.h>

int chunk_file_dir(const struct chunk_key *key)
{
    return (int)(key->pg % FILE_DIRS);
}

void chunk_file_path(const struct chunk_store *cs, const struct chunk_key *key, uint64_t file, char *to, size_t n)
{
    int len = snprintf(to, n, "%s/%04x-%llx-%x-%x.%llx", cs->file_dirs[chunk_file_dir(key)], (unsigned)key->pg,
                       (unsigned long long)key->ino, key->index, key->gen,
                       (unsigned long long)file);

    ASSERT(len > 0 && (size_t)len < n);
}

/* ---- handles ---------------------------------------------------------------------------------------- */

static void detach(struct chunk_store *cs, struct chunk_file *fh)
{
    if (!fh->chunk)
        return;
    fh->chunk->fh = NULL;
    fh->chunk = NULL;
    DL_DELETE(cs->files, fh);
    cs->n_files--;
    chunk_file_unref(cs, fh);
}

void chunk_file_unref(struct chunk_store *cs, struct chunk_file *fh)
{
    (void)cs;
    if (!fh)
        return;
    ASSERT(fh->refs > 0);
    if (--fh->refs)
        return;
    ASSERT(!fh->chunk);
    vfs_close(fh->f);
    free(fh);
}

struct chunk_file *chunk_file_ref(struct chunk *c)
{
    if (c->fh)
        c->fh->refs++;
    return c->fh;
}

struct chunk_file *chunk_file_adopt(struct chunk_store *cs, struct chunk *c, uint64_t file, struct vfs_file *f)
{
    struct chunk_file *fh = tc_calloc(1, sizeof(*fh));

    fh->f = f;
    fh->refs = 1;
    if (c->fh || c->file != file)
        return fh; /* for this job alone */
    fh->refs++;
    fh->chunk = c;
    c->fh = fh;
    DL_APPEND(cs->files, fh);
    cs->n_files++;
    while (cs->n_files > FILES_OPEN_MAX)
        detach(cs, cs->files);
    return fh;
}

void chunk_file_forget(struct chunk_store *cs, struct chunk *c)
{
    if (c->fh)
        detach(cs, c->fh);
}

void chunk_file_retire(struct chunk_store *cs, struct chunk *c)
{
    struct unlink_work *w;

    chunk_file_forget(cs, c);
    if (!c->file)
        return;
    w = tc_calloc(1, sizeof(*w));
    w->key = c->key;
    w->file = c->file;
    DL_APPEND(cs->unlinks, w);
    c->file = 0;
    c->file_durable = false;
}

void chunk_file_keep(struct chunk_store *cs, const struct chunk_key *key, uint64_t file)
{
    struct unlink_work *w, *next;

    DL_FOREACH_SAFE(cs->unlinks, w, next) {
        if (w->file == file && !memcmp(&w->key, key, sizeof(*key))) {
            DL_DELETE(cs->unlinks, w);
            free(w);
        }
    }
}

/* ---- jobs -------------------------------------------------------------------------------------------------- */

static enum watched watched_as(const struct chunk_store *cs, const struct env_queue *q)
{
    return q == &cs->syncs ? WATCH_SYNCS : q == &cs->disk ? WATCH_FILES : WATCH_NONE; /* a flush may take its time */
}

/* Every done() begins with cs_job_done(). */
void cs_job(struct chunk_store *cs, struct env_queue *q, struct env_job *j)
{
    cs->busy++;
    watch_begin(cs, watched_as(cs, q));
    env_job_submit(cs->env, q, j);
}

void cs_job_done(struct chunk_store *cs, struct env_job *j)
{
    cs->busy--;
    watch_end(cs, watched_as(cs, j->queue));
}

int cs_append(struct chunk_store *cs, const struct iovec *iov, int n, struct journal_req *req)
{
    int r = journal_append(cs->journal, iov, n, req);

    if (r == 0) {
        cs->busy++;
        watch_begin(cs, WATCH_SYNCS);
    }
    return r;
}

void cs_append_done(struct chunk_store *cs)
{
    cs->busy--;
    watch_end(cs, WATCH_SYNCS);
}

/* ---- syncs ------------------------------------------------------------------------------------------------- */

static void sync_part_done(struct sync_req *r, int status)
{
    if (status < 0 && r->status == 0)
        r->status = status;
    ASSERT(r->left > 0);
    if (--r->left == 0)
        r->done(r);
}

static void dir_run(struct env_job *j)
{
    struct dir_sync *d = container_of(j, struct dir_sync, job);

    d->status = vfs_sync_dir(d->cs->vfs, d->cs->file_dirs[d - d->cs->dirs]);
}

static void dir_start(struct dir_sync *d);

static void dir_done(struct env_job *j)
{
    struct dir_sync *d = container_of(j, struct dir_sync, job);
    struct sync_req *r = d->served, *next;

    cs_job_done(d->cs, j);
    d->running = false;
    d->served = NULL;
    for (; r; r = next) {
        next = r->dir_next;
        sync_part_done(r, d->status);
    }
    if (d->waiting && !d->running)
        dir_start(d);
}

static void dir_start(struct dir_sync *d)
{
    d->running = true;
    d->served = d->waiting;
    d->waiting = NULL;
    d->job.run = dir_run;
    d->job.done = dir_done;
    cs_job(d->cs, &d->cs->syncs, &d->job);
}

static void file_run(struct env_job *j)
{
    struct sync_req *r = container_of(j, struct sync_req, job);

    r->file_status = vfs_sync(r->fh->f);
}

static void file_start_next(struct chunk_store *cs);

static void file_done(struct env_job *j)
{
    struct sync_req *r = container_of(j, struct sync_req, job);
    struct chunk_store *cs = r->cs;

    cs_job_done(cs, j);
    cs->sync_jobs--;
    r->fh->syncing = false;
    if (r->file_status < 0)
        r->fh->sync_errors++;
    else if (r->fh->sync_errors != r->errors_before)
        r->file_status = -TC_E_IO;
    file_start_next(cs);
    sync_part_done(r, r->file_status);
}

static void file_start_next(struct chunk_store *cs)
{
    struct sync_req *r, *next;

    DL_FOREACH_SAFE(cs->sync_queue, r, next) {
        if (cs->sync_jobs == SYNC_JOBS_MAX)
            return;
        if (r->fh->syncing)
            continue;
        DL_DELETE(cs->sync_queue, r);
        cs->sync_jobs++;
        r->fh->syncing = true;
        r->job.run = file_run;
        r->job.done = file_done;
        cs_job(cs, &cs->syncs, &r->job);
    }
}

void sync_begin(struct sync_req *r, const struct chunk_file *fh)
{
    r->errors_before = fh ? fh->sync_errors : 0;
}

void sync_submit(struct chunk_store *cs, struct sync_req *r)
{
    r->cs = cs;
    r->status = 0;
    r->left = 1;
    DL_APPEND(cs->sync_queue, r);
    if (r->dir >= 0) {
        struct dir_sync *d = &cs->dirs[r->dir];

        r->left++;
        r->dir_next = d->waiting;
        d->waiting = r;
        if (!d->running)
            dir_start(d);
    }
    file_start_next(cs);
}
