/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots. Out: a view of the owner's store is written to snap-out by a disk job, once for all members
 * that want it; its pieces are read from there. One that a member refuses is read again before it is offered
 * again: if it is damaged here, another one is made. In: pieces go to snap-in; the last one is followed by a job
 * that checks the whole, loads it into a store of the next number, makes that durable, and then writes
 * the base that makes it count. Only then does the core, and after it the owner, hear of it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/test_rules.h"
#include "meta/kv_dump.h"
#include "meta/replica_int.h"

enum { SNAP_PIECE_BYTES = 512 << 10 };

static char *snap_path(const struct replica *r, const char *name)
{
    return tc_asprintf("%s/%s", r->dir, name);
}

void replica_snap_clean(struct replica *r)
{
    static const char *const names[] = {"snap-in", "snap-out"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char *path = snap_path(r, names[i]);
        int ignored = vfs_unlink(env_vfs(r->env), path); /* none there, or overwritten later */

        (void)ignored;
        free(path);
    }
}

/* -- out: making ------------------------------------------------------------------------------ */

/* Lives until its done(); the replica's pointer to it is cleared when it is called off. */
struct replica_snap_job {
    struct env_job job;
    struct replica *r;
    struct kv *kv;
    struct kv_snapshot *view;
    pthread_mutex_t lock;
    atomic_bool cancel;
    char *path;
    uint64_t size;
    int err;
};

static void export_run(struct env_job *j)
{
    struct replica_snap_job *s = container_of(j, struct replica_snap_job, job);
    struct vfs_file *f;

    if (atomic_load(&s->cancel)) {
        s->err = -TC_E_CANCELLED;
        return;
    }
    s->err = vfs_open(env_vfs(s->r->env), s->path, VFS_RDWR | VFS_CREATE | VFS_TRUNC, &f);
    if (s->err < 0)
        return;
    s->err = kv_dump_write(s->kv, s->view, f, &s->cancel, &s->lock, &s->size);
    vfs_close(f);
    if (s->err == 0 || s->err == -TC_E_CANCELLED) /* called off: the file may be another's already */
        return;
    /* On a disk that is full the log needs what it has taken. */
    if (vfs_unlink(env_vfs(s->r->env), s->path) < 0)
        LOG_WARN("raft", "a snapshot that was not made stays until the next one", "path=%s", s->path);
}

static void out_tell(struct replica *r)
{
    struct raft_event ev = {.type = RAFT_EV_SNAP_MADE, .snap_id = r->out.id, .index = r->out.index};

    if (r->out.state != SNAP_OUT_READY)
        ev.type = RAFT_EV_SNAP_FAILED;
    while (r->out.n_waiting > 0) {
        ev.peer = r->out.waiting[--r->out.n_waiting];
        replica_step(r, &ev);
    }
}

static void export_done(struct env_job *j)
{
    struct replica_snap_job *s = container_of(j, struct replica_snap_job, job);
    struct replica *r = s->r;
    bool mine = !r->closing && r->out.job == s;

    if (mine) {
        kv_snapshot_free(s->kv, s->view);
        r->out.job = NULL;
    }
    if (!replica_job_over(r) && mine) {
        r->out.state = s->err == 0 ? SNAP_OUT_READY : SNAP_OUT_NONE;
        r->out.size = s->size;
        if (s->err == 0)
            LOG_INFO("raft", "snapshot made", "index=%" PRIu64 " bytes=%" PRIu64, r->out.index,
                     s->size);
        else
            LOG_WARN("raft", "snapshot not made, retrying", "error=%s", tc_error_name(s->err));
        out_tell(r);
    }
    pthread_mutex_destroy(&s->lock);
    free(s->path);
    free(s);
}

void replica_snap_drop_out(struct replica *r)
{
    struct replica_snap_job *s = r->out.job;

    r->out.state = SNAP_OUT_NONE;
    r->out.verifying = 0;
    r->out.n_waiting = r->out.n_wants = 0;
    if (!s)
        return;
    r->out.job = NULL;
    atomic_store(&s->cancel, true);
    /* With the lock the export is between two batches, and the next one sees the mark. */
    pthread_mutex_lock(&s->lock);
    kv_snapshot_free(s->kv, s->view);
    pthread_mutex_unlock(&s->lock);
}

static void export_begin(struct replica *r)
{
    struct replica_snap_job *s = tc_calloc(1, sizeof *s);

    r->out.state = SNAP_OUT_NONE; /* whatever there was */
    r->out.verifying = 0;
    s->view = r->ops->snapshot_take(r->arg, &s->kv, &r->out.index);
    if (!s->view) {
        free(s);
        out_tell(r);
        return;
    }
    do
        r->out.id = env_random(r->env);
    while (r->out.id == 0);
    s->job.run = export_run;
    s->job.done = export_done;
    s->r = r;
    s->path = snap_path(r, "snap-out");
    pthread_mutex_init(&s->lock, NULL);
    atomic_init(&s->cancel, false);
    r->out.job = s;
    r->out.state = SNAP_OUT_EXPORTING;
    r->jobs++;
    env_job_submit(r->env, &r->queue, &s->job);
}

/* -- out: refused ----------------------------------------------------------------------------- */

struct verify_job {
    struct env_job job;
    struct replica *r;
    uint64_t id, size, peer;
    char *path;
    int err;
};

static void verify_run(struct env_job *j)
{
    struct verify_job *v = container_of(j, struct verify_job, job);
    struct vfs_file *f;

    v->err = vfs_open(env_vfs(v->r->env), v->path, VFS_RDONLY, &f);
    if (v->err < 0)
        return;
    v->err = kv_dump_check(f, v->size);
    vfs_close(f);
}

static void verify_done(struct env_job *j)
{
    struct verify_job *v = container_of(j, struct verify_job, job);
    struct replica *r = v->r;

    if (!replica_job_over(r) && !r->failed && r->out.verifying == v->id) {
        r->out.verifying = 0;
        if (v->err < 0) {
            LOG_WARN("raft", "the snapshot is damaged on disk, another one is made", "index=%" PRIu64 " error=%s",
                     r->out.index, tc_error_name(v->err));
            export_begin(r);
        } else {
            LOG_WARN("raft", "a member refuses a snapshot that is whole: its own log says why", "member=%" PRIu64
                     " index=%" PRIu64, v->peer, r->out.index);
            out_tell(r);
        }
    }
    free(v->path);
    free(v);
}

static void verify_begin(struct replica *r, uint64_t peer)
{
    struct verify_job *v = tc_calloc(1, sizeof *v);

    *v = (struct verify_job){.job = {.run = verify_run, .done = verify_done}, .r = r, .id = r->out.id,
                             .peer = peer, .size = r->out.size, .path = snap_path(r, "snap-out")};
    r->out.verifying = v->id;
    r->jobs++;
    env_job_submit(r->env, &r->queue, &v->job);
}

/* -- out: pieces ------------------------------------------------------------------------------ */

struct piece_job {
    struct env_job job;
    struct replica *r;
    struct raft_want want;
    uint64_t size;
    char *path;
    uint8_t *data;
    uint32_t len;
    int err;
};

static void piece_run(struct env_job *j)
{
    struct piece_job *p = container_of(j, struct piece_job, job);
    struct vfs_file *f;
    int64_t n;

    p->err = vfs_open(env_vfs(p->r->env), p->path, VFS_RDONLY, &f);
    if (p->err < 0)
        return;
    n = vfs_pread(f, p->data, p->len, p->want.offset);
    vfs_close(f);
    if (n != (int64_t)p->len)
        p->err = n < 0 ? (int)n : -TC_E_DAMAGED;
}

static void piece_done(struct env_job *j)
{
    struct piece_job *p = container_of(j, struct piece_job, job);
    struct replica *r = p->r;
    struct raft_event ev = {.type = RAFT_EV_SNAP_PIECE, .peer = p->want.peer,
                            .snap_id = p->want.snap_id, .offset = p->want.offset,
                            .data = p->data, .len = p->len};

    if (!replica_job_over(r)) {
        if (p->err < 0 && r->out.state == SNAP_OUT_READY && r->out.id == p->want.snap_id && !r->out.verifying)
            r->out.state = SNAP_OUT_NONE; /* another one may be readable */
        ev.last = p->want.offset + p->len == p->size;
        if (p->err < 0 || r->out.state != SNAP_OUT_READY || r->out.id != p->want.snap_id)
            ev.type = RAFT_EV_SNAP_FAILED;
        if (!r->failed)
            replica_step(r, &ev);
    }
    free(p->data);
    free(p->path);
    free(p);
}

static void piece_begin(struct replica *r, const struct raft_want *w)
{
    struct raft_event ev = {.type = RAFT_EV_SNAP_FAILED, .peer = w->peer};
    struct piece_job *p;

    if (r->out.state != SNAP_OUT_READY || r->out.id != w->snap_id || w->offset >= r->out.size) {
        replica_step(r, &ev);
        return;
    }
    p = tc_calloc(1, sizeof *p);
    p->job.run = piece_run;
    p->job.done = piece_done;
    p->r = r;
    p->want = *w;
    p->size = r->out.size;
    p->path = snap_path(r, "snap-out");
    p->len = (uint32_t)MIN(r->out.size - w->offset, (uint64_t)SNAP_PIECE_BYTES);
    p->data = tc_malloc(p->len);
    r->jobs++;
    env_job_submit(r->env, &r->queue, &p->job);
}

void replica_snap_want(struct replica *r, const struct raft_want *w)
{
    if (r->out.n_wants < ARRAY_SIZE(r->out.wants))
        r->out.wants[r->out.n_wants++] = *w;
    replica_work(r);
}

static void make_begin(struct replica *r, const struct raft_want *w)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    for (unsigned i = 0; i < r->out.n_waiting; i++)
        if (r->out.waiting[i] == w->peer)
            return;
    ASSERT(r->out.n_waiting < ARRAY_SIZE(r->out.waiting));
    r->out.waiting[r->out.n_waiting++] = w->peer;
    if (r->out.state == SNAP_OUT_EXPORTING || r->out.verifying)
        return;
    /* One that still meets the log serves another member, too. */
    if (r->out.state != SNAP_OUT_READY || r->out.index + 1 < s.first)
        export_begin(r);
    else if (w->refused == r->out.id && TC_RULE(SNAPSHOT_READ_AGAIN))
        verify_begin(r, w->peer);
    else
        out_tell(r);
}

void replica_snap_work(struct replica *r)
{
    struct raft_want wants[RAFT_MEMBERS_MAX];
    unsigned n = r->out.n_wants;

    memcpy(wants, r->out.wants, sizeof wants);
    r->out.n_wants = 0;
    for (unsigned i = 0; i < n && !r->failed; i++) {
        if (wants[i].snap_id == 0)
            make_begin(r, &wants[i]);
        else
            piece_begin(r, &wants[i]);
    }
}

/* -- in --------------------------------------------------------------------------------------- */

struct store_job {
    struct env_job job;
    struct replica *r;
    uint64_t snap_id, offset;
    bool last;
    char *path;
    uint8_t *data;
    uint32_t len;
    /* of the last piece */
    bool kv_mem;
    char *kv_path;
    int err;
};

static int import_kv(struct store_job *s, struct vfs_file *f)
{
    struct vfs *vfs = env_vfs(s->r->env);
    struct kv *kv = NULL;
    int err;

    replica_dir_remove(vfs, s->kv_path); /* what a crash left of an earlier one */
    err = s->kv_mem ? kv_open_mem(vfs, s->kv_path, &kv) : kv_open_rocks(s->kv_path, NULL, &kv);
    if (err < 0)
        return err;
    err = kv_dump_load(f, s->offset + s->len, !(s->r->raft_cfg.rules_off & RAFT_RULE_SNAPSHOT_SUM), kv);
    if (err == 0)
        err = kv_flush(kv);
    kv_close(kv);
    return err;
}

static void store_run(struct env_job *j)
{
    struct store_job *s = container_of(j, struct store_job, job);
    int flags = VFS_RDWR | VFS_CREATE | (s->offset == 0 ? VFS_TRUNC : 0);
    struct vfs_file *f;

    s->err = vfs_open(env_vfs(s->r->env), s->path, flags, &f);
    if (s->err < 0)
        return;
    if (s->len > 0)
        s->err = vfs_pwrite(f, s->data, s->len, s->offset);
    if (s->err == 0 && s->last)
        s->err = import_kv(s, f);
    vfs_close(f);
    if (s->err == 0)
        return;
    /* What is there of it would be in the way of the next, on a disk that is full. */
    if (vfs_unlink(env_vfs(s->r->env), s->path) < 0)
        LOG_WARN("raft", "a refused snapshot stays until the next one", "path=%s", s->path);
    if (s->last)
        replica_dir_remove(env_vfs(s->r->env), s->kv_path);
}

static void in_refuse(struct replica *r, int err)
{
    struct raft_event ev = {.type = RAFT_EV_SNAP_REFUSED, .snap_id = r->in.id};

    LOG_WARN("raft", "snapshot refused, retrying", "error=%s", tc_error_name(err));
    r->in.id = 0;
    r->in.refused = err;
    if (r->in.log)
        journal_close(TAKE(r->in.log));
    free(TAKE(r->in.kv_path));
    replica_step(r, &ev);
}

static void store_done(struct env_job *j)
{
    struct store_job *s = container_of(j, struct store_job, job);
    struct raft_event ev = {.type = RAFT_EV_SNAP_STORED, .snap_id = s->snap_id,
                            .offset = s->offset + s->len};
    struct replica *r = s->r;

    if (!replica_job_over(r) && !r->failed) {
        if (s->err < 0)
            in_refuse(r, s->err);
        else if (!s->last)
            replica_step(r, &ev);
        else if (r->base_busy)
            r->install_waits = true;
        else
            replica_snap_install(r);
    }
    free(s->path);
    free(s->kv_path);
    free(s->data);
    free(s);
}

void replica_snap_store(struct replica *r, const struct raft_msg *m)
{
    struct store_job *s = tc_calloc(1, sizeof *s);

    s->job.run = store_run;
    s->job.done = store_done;
    s->r = r;
    s->snap_id = m->snapshot.id;
    s->offset = m->snapshot.offset;
    s->last = m->snapshot.last;
    s->path = snap_path(r, "snap-in");
    s->len = m->snapshot.len;
    s->data = tc_malloc(MAX(s->len, 1u));
    if (s->len > 0)
        memcpy(s->data, m->snapshot.data, s->len);
    if (m->snapshot.last) {
        r->in.kv_gen = r->base.kv_gen + 1;
        s->kv_mem = r->kv_mem;
        s->kv_path = tc_asprintf("%s/kv-%" PRIu64, r->dir, r->in.kv_gen);
        free(r->in.kv_path);
        r->in.kv_path = tc_strdup(s->kv_path);
    }
    r->in.id = m->snapshot.id;
    r->in.index = m->snapshot.index;
    r->in.term = m->snapshot.index_term;
    r->in.config = *m->snapshot.config;
    r->jobs++;
    env_job_submit(r->env, &r->queue, &s->job);
}

/* The store is there. Whether the log goes on or begins anew is as the core will decide it: the log does
 * not change while a snapshot is being installed. */
struct install_job {
    struct env_job job;
    struct replica *r;
    struct replica_base base;
    int err;
};

static void install_run(struct env_job *j)
{
    struct install_job *s = container_of(j, struct install_job, job);

    s->err = replica_base_write(env_vfs(s->r->env), s->r->dir, &s->base);
}

static void install_end(struct replica *r, const struct replica_base *base)
{
    struct raft_event ev = {.type = RAFT_EV_SNAP_INSTALLED, .snap_id = r->in.id};
    uint64_t old_gen = r->base.log_gen;

    r->base = *base;
    r->compact_to = MAX(r->compact_to, base->index);
    if (r->in.log) {
        char *old = tc_asprintf("%s/log-%" PRIu64, r->dir, old_gen);

        replica_saves_drop(r);
        replica_journal_close(r, r->log);
        r->log = TAKE(r->in.log);
        r->n_marks = 0;
        r->rewriting = false;
        replica_dir_remove(env_vfs(r->env), old);
        free(old);
    }
    r->in.id = 0;
    r->in.refused = 0;
    r->in.installed = true;
    replica_snap_clean(r);
    replica_step(r, &ev);
    replica_work(r);
}

static void install_done(struct env_job *j)
{
    struct install_job *s = container_of(j, struct install_job, job);
    struct replica *r = s->r;

    r->base_busy = false;
    if (!replica_job_over(r) && !r->failed) {
        if (s->err == -TC_E_NOSPC)
            in_refuse(r, s->err);
        else if (s->err < 0) /* which base is there is not known, so neither is which store may go */
            replica_fail(r, s->err, "base");
        else
            install_end(r, &s->base);
    }
    free(s);
}

static int no_record(void *arg, uint64_t pos, struct slice record)
{
    (void)arg;
    (void)pos;
    (void)record;
    return 0; /* of a try that a crash cut short: the log is empty until the base names it */
}

void replica_snap_install(struct replica *r)
{
    struct install_job *s;
    int err = 0;

    r->install_waits = false;
    r->in.fresh_log = raft_term_at(r->core, r->in.index) != r->in.term;
    r->in.log_gen = r->base.log_gen;
    if (r->in.fresh_log) {
        char *path;

        r->in.log_gen++;
        path = tc_asprintf("%s/log-%" PRIu64, r->dir, r->in.log_gen);
        replica_dir_remove(env_vfs(r->env), path);
        /* Blocking, for some milliseconds; nobody is served by this member now. */
        err = journal_open(r->env, path, NULL, no_record, NULL, NULL, &r->in.log);
        free(path);
    }
    if (err < 0) {
        in_refuse(r, err);
        return;
    }
    s = tc_calloc(1, sizeof *s);
    s->job.run = install_run;
    s->job.done = install_done;
    s->r = r;
    s->base = (struct replica_base){r->in.kv_gen, r->in.log_gen, r->in.index, r->in.term,
                                    r->in.config};
    r->base_busy = true;
    r->jobs++;
    env_job_submit(r->env, &r->queue, &s->job);
}
