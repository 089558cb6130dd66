/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunk store as a whole: opening (kv, then the journal behind it), closing, space, failure.
 */
#include "storage/chunk_impl.h"

#include <stdio.h>

#include "common/log.h"

#define CACHE_BYTES_DEFAULT (64u << 20)
#define PENDING_BYTES_DEFAULT (64u << 20)
#define RESERVE_MAX (256u << 20)
#define RESERVE_MIN (64u << 20) /* the journal grows, the kv flushes and compacts, and starting anew has room */
#define SPACE_EVERY_NS (500 * NS_PER_MS)
#define SPACE_SHORT_NS (50 * NS_PER_MS)     /* while writes wait for space */
#define SPACE_PATIENCE_NS (5 * NS_PER_S)    /* for what was removed to be gone: asked for, trimmed, merged, measured */
#define SPACE_ENOUGH (8u << 20)             /* above the reserve: writes do not wait any more */

/* ---- failure and position ------------------------------------------------------------------------------ */

static void fail_task(struct env_task *t)
{
    struct chunk_store *cs = container_of(t, struct chunk_store, fail_task);

    write_resume(cs);
    if (cs->opt.fatal)
        cs->opt.fatal(cs->opt.fatal_arg, cs->fail_err, cs->fail_why);
}

/* What was not acknowledged never will be: whoever owns the store ends it and opens it again. */
void cs_fail(struct chunk_store *cs, int err, const char *why)
{
    if (cs->failed)
        return;
    cs->failed = true;
    cs->fail_err = err;
    cs->fail_why = why;
    cs->disk_error = true;
    LOG_ERR("storage", "the store failed", "why=\"%s\" err=%s", why, tc_error_name(err));
    env_defer(cs->env, &cs->fail_task);
}

void cs_apply_pos(struct chunk_store *cs, uint64_t end)
{
    ASSERT(end > cs->applied);
    cs->applied = end;
}

/* ---- space --------------------------------------------------------------------------------------------------- */

static void space_soon(struct chunk_store *cs)
{
    if (env_timer_armed(&cs->space_timer)) /* else it is being measured */
        env_timer_set(cs->env, &cs->space_timer, env_now(cs->env) + SPACE_SHORT_NS);
}

/*
 * A write is journalled and merged: it may take its size twice for a while; the reserve covers the second time. A
 * @rewrite of blocks that have their place takes room in the journal only, and for a while: reading an unclean file
 * and mending one are such, and shall go on when the disk is full.
 *
 * What was removed is not gone at once: the leader reaps the inodes, this store trims their chunks and merges, and then
 * the disk is measured. A writer who removes as much as he writes must not see a full disk, so for a while it is only
 * BACKPRESSURE: he tries again.
 */
int cs_no_space(struct chunk_store *cs, uint64_t bytes, bool rewrite)
{
    uint64_t kept = rewrite ? cs->reserve / 2 : cs->reserve, now = env_now(cs->env);

    if (cs->space_free >= kept + cs->space_taken + bytes) {
        cs->space_taken += bytes;
        return 0;
    }
    if (!cs->short_since) {
        cs->short_since = now;
        space_soon(cs);
    }
    chunk_store_checkpoint(cs); /* the journal may hold what is merged, and give it back */
    return now - cs->short_since < SPACE_PATIENCE_NS ? -TC_E_BACKPRESSURE : -TC_E_NOSPC;
}

static void space_set(struct chunk_store *cs, uint64_t total, uint64_t avail)
{
    struct kv_stats kv;

    cs->space_total = total;
    cs->space_free = avail;
    cs->reserve = cs->opt.reserve_bytes;
    if (!cs->reserve)
        cs->reserve = MIN(total / 4, MIN(MAX(total / 20, (uint64_t)RESERVE_MIN), (uint64_t)RESERVE_MAX));
    kv_stats(cs->kv, &kv);
    cs->space_taken = cs->pending_bytes + kv.unflushed; /* will take its place yet */
    if (avail > cs->reserve + SPACE_ENOUGH)
        cs->short_since = 0;
}

static void space_run(struct env_job *j)
{
    struct chunk_store *cs = container_of(j, struct chunk_store, space_job);

    if (vfs_space(cs->vfs, cs->dir, &cs->space_new_total, &cs->space_new_free) < 0)
        cs->space_new_total = 0;
}

static void space_done(struct env_job *j)
{
    struct chunk_store *cs = container_of(j, struct chunk_store, space_job);

    cs_job_done(cs, j);
    if (cs->space_new_total)
        space_set(cs, cs->space_new_total, cs->space_new_free);
    env_timer_set(cs->env, &cs->space_timer, env_now(cs->env) + (cs->short_since ? SPACE_SHORT_NS : SPACE_EVERY_NS));
}

static void space_fire(struct env_timer *t)
{
    struct chunk_store *cs = container_of(t, struct chunk_store, space_timer);

    cs->space_job.run = space_run;
    cs->space_job.done = space_done;
    cs_job(cs, &cs->maintenance, &cs->space_job);
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

static int kv_open_default(void *arg, struct env *env, const char *path, struct kv **ret_kv)
{
    struct kv_options opt = {.cache_bytes = 32u << 20, .buffer_bytes = 32u << 20};

    (void)arg;
    (void)env;
    return kv_open_rocks(path, &opt, ret_kv);
}

static int make_dirs(struct chunk_store *cs)
{
    char *data = tc_asprintf("%s/data", cs->dir);
    int r = vfs_make_dir(cs->vfs, cs->dir);

    if (r == 0)
        r = vfs_mkdir(cs->vfs, data);
    for (int i = 0; i < FILE_DIRS && r == 0; i++) {
        cs->file_dirs[i] = tc_asprintf("%s/%02x", data, i);
        r = vfs_mkdir(cs->vfs, cs->file_dirs[i]);
    }
    if (r == 0)
        r = vfs_sync_dir(cs->vfs, data); /* the name of `data`: with those of kv and journal, made next beside it */
    free(data);
    return r;
}

static void init(struct chunk_store *cs, struct env *env, const struct chunk_store_options *opt)
{
    cs->env = env;
    cs->vfs = env_vfs(env);
    cs->opt = *opt;
    cs->opt.cache_bytes = opt->cache_bytes ? opt->cache_bytes : CACHE_BYTES_DEFAULT;
    cs->opt.pending_bytes = opt->pending_bytes ? opt->pending_bytes : PENDING_BYTES_DEFAULT;
    cs->dir = tc_strdup(opt->dir);
    cs->opt.dir = cs->dir;
    cs->kv_dir = tc_asprintf("%s/kv", cs->dir);
    cs->journal_dir = tc_asprintf("%s/journal", cs->dir);
    cs->fail_task.fn = fail_task;
    cs->merge_timer.fn = merge_timer_fire;
    cs->space_timer.fn = space_fire;
    watch_open(cs);
    for (int i = 0; i < FILE_DIRS; i++)
        cs->dirs[i].cs = cs;
    env_queue_init(env, &cs->disk, false);
    env_queue_init(env, &cs->syncs, false);
    env_queue_init(env, &cs->maintenance, true);
}

static int open_state(struct chunk_store *cs)
{
    uint64_t damage = 0, total, avail;
    int r = make_dirs(cs);

    if (r < 0)
        return r;
    r = (cs->opt.kv_open ? cs->opt.kv_open : kv_open_default)(cs->opt.kv_arg, cs->env, cs->kv_dir, &cs->kv);
    if (r == 0)
        r = vfs_space(cs->vfs, cs->dir, &total, &avail);
    if (r < 0)
        return r;
    space_set(cs, total, avail);
    cs->batch = kv_batch_new(cs->kv);
    r = cs_meta_load(cs, &cs->applied);
    if (r < 0)
        return r;
    watch_files(cs);
    cs->flushed = cs->applied;
    r = journal_open(cs->env, cs->journal_dir, &cs->opt.journal, rec_replay, cs, &damage, &cs->journal);
    if (r == -TC_E_DAMAGED)
        LOG_ERR("storage", "the journal is damaged", "pos=%llu", (unsigned long long)damage);
    if (r < 0)
        return r;
    if (journal_end(cs->journal) < cs->applied || (journal_begin(cs->journal) > cs->applied && cs->applied)) {
        LOG_ERR("storage", "the journal does not reach back to the index", "begin=%llu end=%llu index=%llu",
                (unsigned long long)journal_begin(cs->journal), (unsigned long long)journal_end(cs->journal),
                (unsigned long long)cs->applied);
        return -TC_E_DAMAGED;
    }
    if ((cs->opt.used && journal_is_new(cs->journal)) || (!cs->applied && !journal_is_whole(cs->journal))) {
        LOG_ERR("storage", "the journal or the index is missing", "begin=%llu index=%llu",
                (unsigned long long)journal_begin(cs->journal), (unsigned long long)cs->applied);
        return -TC_E_DAMAGED;
    }
    cs->applied = journal_end(cs->journal);
    cs->repaired = 0; /* a replay repairs nothing that was not repaired before */
    cs->file_last += FILE_NUMBERS_LOST; /* none of this life was used before */
    return 0;
}

int chunk_store_open(struct env *env, const struct chunk_store_options *opt, struct chunk_store **ret_store)
{
    struct chunk_store *cs = tc_calloc(1, sizeof(*cs));
    int r;

    init(cs, env, opt);
    r = open_state(cs);
    if (r < 0) {
        chunk_store_close(cs);
        return r;
    }
    env_timer_set(env, &cs->space_timer, env_now(env) + SPACE_EVERY_NS);
    sweep_open(cs);
    if (cs->n_dirty)
        env_timer_set(env, &cs->merge_timer, env_now(env));
    *ret_store = cs;
    return 0;
}

void chunk_store_close(struct chunk_store *cs)
{
    if (!cs)
        return;
    env_timer_cancel(cs->env, &cs->merge_timer);
    env_timer_cancel(cs->env, &cs->space_timer);
    env_defer_cancel(cs->env, &cs->fail_task);
    watch_close(cs);
    sweep_close(cs);
    merge_free(cs);
    journal_close(cs->journal);
    chunk_free_all(cs);
    if (cs->batch)
        kv_batch_free(cs->batch);
    kv_close(cs->kv);
    for (int i = 0; i < FILE_DIRS; i++)
        free(cs->file_dirs[i]);
    free(cs->dir);
    free(cs->kv_dir);
    free(cs->journal_dir);
    free(cs);
}

uint32_t chunk_store_busy(const struct chunk_store *cs)
{
    return cs->busy;
}

uint64_t chunk_store_gc_cursor(const struct chunk_store *cs)
{
    return cs->gc_cursor;
}

void chunk_store_stats(const struct chunk_store *cs, struct chunk_store_stats *st)
{
    uint64_t taken = cs->reserve + cs->space_taken;

    *st = (struct chunk_store_stats){
        .chunks = cs->n_chunks,
        .blocks = cs->n_blocks,
        .total = cs->space_total,
        .free = cs->space_free > taken ? cs->space_free - taken : 0,
        .pending_bytes = cs->pending_bytes,
        .cache_bytes = cs->cache_bytes,
        .corrupt = cs->corrupt,
        .repaired = cs->repaired,
        .writes = cs->writes,
        .reads = cs->reads,
        .unreadable = cs->unreadable,
        .disk_error = cs->disk_error || cs->watch.hangs,
    };
}

void chunk_store_checkpoint(struct chunk_store *cs)
{
    cs->checkpoint_wanted = true;
    merge_kick(cs);
}
