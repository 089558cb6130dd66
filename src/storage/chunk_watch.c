/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that hangs: what was asked of it does not come back, and no error comes either. It is to be known within 2 s.
 *
 * Two kinds of work are watched, each of pieces that take a moment: what becomes durable (appends to the journal, syncs), and
 * what reads or writes chunk files. It is not the age of single jobs that counts, for a busy disk has a long queue, and
 * one bad sector may take half a minute: what counts is that none of a kind ends.
 *
 * In doubt (DOUBT_NS without an end) the disk is asked for what is cheap, and not behind other jobs: one block of the file
 * `probe` is read past the page cache, another is written and synced. A probe that ends is something of its kind that
 * ended. The disk hangs when
 *  - neither kind ends for HANG_NS, or
 *  - one does not, though the other may: for ONE_NS, or twice as long as it lately took at least two times when it ended
 *    after all, up to ONE_MAX_NS. So a disk whose syncs begin to take 3 s may hang by mistake twice, and then is known to
 *    be like that, but a disk that hung once is not waited for; or
 *  - nothing but the probe ended for OWN_NS.
 * The moment anything ends this is judged anew: a needless alarm costs the moves of placement groups that were begun
 * meanwhile, and they are called off.
 *
 * Time counts between looks, each for no more than LOOK_MAX_NS: while the machine was suspended, or the process
 * stopped, no disk was waited for.
 */
#include "storage/chunk_impl.h"

#include "common/log.h"

#define LOOK_NS (250 * NS_PER_MS)
#define LOOK_MAX_NS (2 * LOOK_NS)
#define DOUBT_NS (400 * NS_PER_MS)
#define HANG_NS (1800 * NS_PER_MS)  /* of one kind ... */
#define OTHER_NS (1000 * NS_PER_MS) /* ... and of the other, which may have been asked for in doubt only */
#define ONE_NS (1950 * NS_PER_MS)
#define ONE_MAX_NS (5 * NS_PER_S)
#define OWN_NS (15 * NS_PER_S)
#define SLOW_FOR_NS (120 * NS_PER_S)
#define PROBE_BYTES (2 * DISK_ALIGN)

/* ---- the clock --------------------------------------------------------------------------------------------- */

static void look(struct chunk_store *cs)
{
    struct watch *w = &cs->watch;
    uint64_t now = env_now(cs->env);

    w->clock += MIN(now - w->last, (uint64_t)LOOK_MAX_NS);
    w->last = now;
}

/* ---- the verdict -------------------------------------------------------------------------------------------- */

/* So long has none of the kind ended, probes counted, though something was asked for. */
static uint64_t stuck(const struct watch *w, enum watched kind)
{
    const struct watch_kind *k = &w->kinds[kind];

    return k->asked || k->probing ? w->clock - k->ended_at : 0;
}

static uint64_t own_stuck(const struct watch *w, enum watched kind)
{
    const struct watch_kind *k = &w->kinds[kind];

    return k->asked ? w->clock - k->own_at : 0;
}

static uint64_t patience(const struct watch *w, enum watched kind)
{
    const struct watch_kind *k = &w->kinds[kind];
    uint64_t twice = UINT64_MAX;

    for (int i = 0; i < 2; i++)
        twice = MIN(twice, w->last - k->slow[i].at < SLOW_FOR_NS ? k->slow[i].ns : 0);
    return MAX((uint64_t)ONE_NS, MIN(2 * twice, (uint64_t)ONE_MAX_NS));
}

/* None ended for @ns, and now one did. */
static void was_slow(const struct watch *w, struct watch_kind *k, uint64_t ns)
{
    int least = 0;

    for (int i = 0; i < 2; i++) {
        if (w->last - k->slow[i].at >= SLOW_FOR_NS)
            k->slow[i].ns = 0;
        least = k->slow[i].ns < k->slow[least].ns ? i : least;
    }
    if (ns >= k->slow[least].ns) {
        k->slow[least].ns = ns;
        k->slow[least].at = w->last;
    }
}

/* How long until the disk hangs, if nothing ends? 0: it does. */
static uint64_t left(const struct watch *w)
{
    uint64_t a = stuck(w, WATCH_SYNCS), b = stuck(w, WATCH_FILES), all = UINT64_MAX;

    if (a && b) {
        uint64_t one = MAX(a, b), other = MIN(a, b);

        all = MAX(one < HANG_NS ? HANG_NS - one : 0, other < OTHER_NS ? OTHER_NS - other : 0);
    }
    for (int i = 0; i < WATCHED; i++) {
        uint64_t t = stuck(w, i), own = own_stuck(w, i), p = patience(w, i);

        if (t)
            all = MIN(all, t < p ? p - t : 0);
        if (own)
            all = MIN(all, own < OWN_NS ? OWN_NS - own : 0);
    }
    return all;
}

/* The other kind is not stuck, nor was it until just now. */
static bool alone_slow(const struct watch *w, const struct watch_kind *k)
{
    enum watched other = k == &w->kinds[WATCH_SYNCS] ? WATCH_FILES : WATCH_SYNCS;
    uint64_t at = w->kinds[other].long_at;

    return stuck(w, other) < OTHER_NS && (!at || w->clock - at >= OTHER_NS);
}

static void judge(struct chunk_store *cs)
{
    struct watch *w = &cs->watch;
    bool hangs = left(w) == 0;

    if (hangs == w->hangs)
        return;
    w->hangs = hangs;
    if (hangs)
        LOG_ERR("storage", "the disk hangs: what was asked of it does not end", "dir=%s syncs_ms=%llu reads_ms=%llu", cs->dir,
                (unsigned long long)(stuck(w, WATCH_SYNCS) / NS_PER_MS), (unsigned long long)(stuck(w, WATCH_FILES) / NS_PER_MS));
    else
        LOG_WARN("storage", "the disk hung, and goes on", "dir=%s", cs->dir);
    if (cs->opt.hangs)
        cs->opt.hangs(cs->opt.hangs_arg);
}

static void ended(struct chunk_store *cs, struct watch_kind *k, bool probe)
{
    struct watch *w = &cs->watch;
    uint64_t t;

    look(cs);
    t = w->clock - k->ended_at;
    if (t >= DOUBT_NS && alone_slow(w, k))
        was_slow(w, k, t);
    if (t >= OTHER_NS)
        k->long_at = w->clock;
    k->ended_at = w->clock;
    if (!probe)
        k->own_at = w->clock;
    if (w->hangs)
        judge(cs);
}

/* ---- probes ------------------------------------------------------------------------------------------------- */

static void sync_run(struct env_job *j)
{
    struct watch *w = container_of(j, struct watch, kinds[WATCH_SYNCS].job);

    if (vfs_pwrite(w->file, "probe", 5, DISK_ALIGN) == 0)
        (void)!vfs_sync(w->file); /* an error is an answer, too; whoever writes what matters meets it */
}

static void read_run(struct env_job *j)
{
    struct watch *w = container_of(j, struct watch, kinds[WATCH_FILES].job);

    vfs_uncache(w->direct); /* if the filesystem cannot read past the page cache */
    (void)!vfs_pread(w->direct, w->block, DISK_ALIGN, 0);
}

static void probe_done(struct chunk_store *cs, struct watch_kind *k)
{
    cs->busy--;
    k->probing = false;
    ended(cs, k, true);
}

static void sync_done(struct env_job *j)
{
    struct chunk_store *cs = container_of(j, struct chunk_store, watch.kinds[WATCH_SYNCS].job);

    probe_done(cs, &cs->watch.kinds[WATCH_SYNCS]);
}

static void read_done(struct env_job *j)
{
    struct chunk_store *cs = container_of(j, struct chunk_store, watch.kinds[WATCH_FILES].job);

    probe_done(cs, &cs->watch.kinds[WATCH_FILES]);
}

static void probe(struct chunk_store *cs, struct watch_kind *k)
{
    struct watch *w = &cs->watch;

    if (!w->direct || k->probing || (k->probed_at && w->clock - k->probed_at < DOUBT_NS))
        return;
    if (!k->asked)
        k->ended_at = w->clock;
    k->probing = true;
    k->probed_at = w->clock;
    cs->busy++;
    env_job_submit(cs->env, &k->queue, &k->job);
}

/* ---- watching ----------------------------------------------------------------------------------------------- */

static void watch_fire(struct env_timer *t)
{
    struct chunk_store *cs = container_of(t, struct chunk_store, watch.timer);
    struct watch *w = &cs->watch;
    bool asked = false;
    uint64_t next = LOOK_NS;

    look(cs);
    judge(cs);
    for (int i = 0; i < WATCHED; i++) {
        struct watch_kind *k = &w->kinds[i];
        uint64_t own = own_stuck(w, i);

        asked = asked || k->asked || k->probing;
        if (own >= DOUBT_NS) {
            probe(cs, &w->kinds[WATCH_SYNCS]);
            probe(cs, &w->kinds[WATCH_FILES]);
        } else if (own) {
            next = MIN(next, DOUBT_NS - own);
        }
    }
    if (!w->hangs)
        next = MIN(next, left(w));
    if (asked)
        env_timer_set(cs->env, t, env_now(cs->env) + next);
}

void watch_open(struct chunk_store *cs)
{
    struct watch *w = &cs->watch;

    w->timer.fn = watch_fire;
    w->kinds[WATCH_SYNCS].job = (struct env_job){.run = sync_run, .done = sync_done};
    w->kinds[WATCH_FILES].job = (struct env_job){.run = read_run, .done = read_done};
    for (int i = 0; i < WATCHED; i++) {
        env_queue_init(cs->env, &w->kinds[i].queue, false);
        w->kinds[i].queue.apart = true;
    }
}

/* A disk that is full has none, and is watched all the same. */
void watch_files(struct chunk_store *cs)
{
    struct watch *w = &cs->watch;
    char *path = tc_asprintf("%s/data/probe", cs->dir);
    uint64_t size = 0;
    int r = vfs_open(cs->vfs, path, VFS_RDWR | VFS_CREATE, &w->file);

    w->block = tc_aligned(DISK_ALIGN, DISK_ALIGN);
    memset(w->block, 0, DISK_ALIGN);
    if (r == 0)
        r = vfs_size(w->file, &size);
    for (uint64_t at = 0; size < PROBE_BYTES && at < PROBE_BYTES && r == 0; at += DISK_ALIGN)
        r = vfs_pwrite(w->file, w->block, DISK_ALIGN, at);
    if (r == 0)
        r = vfs_open(cs->vfs, path, VFS_RDONLY | VFS_DIRECT, &w->direct);
    if (r < 0)
        LOG_WARN("storage", "no file to ask the disk by", "file=%s err=%s", path, tc_error_name(r));
    free(path);
}

void watch_close(struct chunk_store *cs)
{
    struct watch *w = &cs->watch;

    env_timer_cancel(cs->env, &w->timer);
    vfs_close(w->direct);
    vfs_close(w->file);
    free(w->block);
}

void watch_begin(struct chunk_store *cs, enum watched kind)
{
    struct watch *w = &cs->watch;
    struct watch_kind *k;

    if (kind == WATCH_NONE)
        return;
    k = &w->kinds[kind];
    look(cs);
    if (!k->asked && !k->probing)
        k->ended_at = w->clock;
    if (!k->asked++)
        k->own_at = w->clock;
    if (!env_timer_armed(&w->timer))
        env_timer_set(cs->env, &w->timer, w->last + LOOK_NS);
}

void watch_end(struct chunk_store *cs, enum watched kind)
{
    if (kind == WATCH_NONE)
        return;
    ASSERT(cs->watch.kinds[kind].asked > 0);
    cs->watch.kinds[kind].asked--;
    ended(cs, &cs->watch.kinds[kind], false);
}
