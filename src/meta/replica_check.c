/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of the log are read as they are on disk, while the member runs: damage is then found while the others, and
 * this member's own memory, can still make it good.
 *
 *   small files (term and vote, base) ──► journal ──► done       each a job
 *
 * Whatever these files hold is in memory, too. So one that is damaged is written anew: of term and vote and of base the
 * file, of the journal all entries into new segments, and when they are durable the old segments go. A crash before that
 * finds the damage at the next start, as without a check. No other write of the small files runs beside their job.
 */
#include <inttypes.h>
#include <string.h>

#include "common/log.h"
#include "meta/replica_int.h"

struct check_job {
    struct env_job job;
    struct replica *r;
    struct replica_state state;
    struct replica_base base;
    struct journal *log;
    uint64_t from, damage_pos;
    unsigned bad; /* enum replica_check_bad */
    int err;
    void (*done)(void *arg, unsigned bad);
    void *arg;
};

/* ---- the small files ---- */

static void small_run(struct env_job *job)
{
    struct check_job *c = container_of(job, struct check_job, job);
    struct vfs *vfs = env_vfs(c->r->env);
    struct replica_state state;
    struct replica_base base;
    bool one_bad = false;
    int err = replica_state_check(vfs, c->r->dir, &state, &one_bad);

    if (err < 0 || one_bad || state.term != c->state.term || state.vote != c->state.vote) {
        c->bad |= REPLICA_BAD_STATE;
        c->state.seq++;
        c->err = replica_state_write(vfs, c->r->dir, &c->state);
    }
    err = replica_base_read(vfs, c->r->dir, &base);
    if (err == -TC_E_NOENT && c->base.index == 0)
        err = 0; /* not written yet */
    if (err < 0 && c->err == 0) {
        c->bad |= REPLICA_BAD_BASE;
        c->err = replica_base_write(vfs, c->r->dir, &c->base);
    }
}

static void finish(struct check_job *c)
{
    c->r->checking = false;
    c->done(c->arg, c->bad);
}

/* ---- the journal ---- */

static void journal_run(struct env_job *job)
{
    struct check_job *c = container_of(job, struct check_job, job);

    c->damage_pos = journal_check(c->log, c->from);
}

static void journal_done(struct env_job *job)
{
    struct check_job *c = container_of(job, struct check_job, job);
    struct replica *r = c->r;
    struct journal *replaced = TAKE(r->check_replaced);

    r->check_log = NULL;
    journal_close(replaced);
    if (!replica_job_over(r)) {
        if (c->damage_pos && !replaced && !r->failed) {
            c->bad |= REPLICA_BAD_LOG;
            LOG_ERR("raft", "a record of the log is damaged on disk: all entries are written anew", "dir=%s pos=%" PRIu64,
                    r->dir, c->damage_pos);
            replica_log_rewrite(r);
        }
        finish(c);
    }
    free(c);
}

static void small_done(struct env_job *job)
{
    struct check_job *c = container_of(job, struct check_job, job);
    struct replica *r = c->r;

    r->state_busy = r->base_busy = false;
    if (replica_job_over(r)) {
        free(c);
        return;
    }
    if (c->bad) {
        r->state.seq = MAX(r->state.seq, c->state.seq);
        LOG_ERR("raft", "a file of this member is damaged on disk, written anew", "dir=%s what=\"%s\" error=%s", r->dir,
                c->bad & REPLICA_BAD_STATE ? "term and vote" : "base", tc_error_name(c->err));
    }
    if (c->err < 0)
        replica_fail(r, c->err, "term and vote, or base");
    if (r->state_again && !r->failed)
        replica_save_state(r, r->state_seq, r->state.term, r->state.vote);
    if (r->install_waits && !r->failed)
        replica_snap_install(r);
    else
        replica_compact_next(r);
    if (r->failed || !r->log) {
        finish(c);
        free(c);
        return;
    }
    c->log = r->check_log = r->log;
    c->from = journal_begin(r->log);
    c->job = (struct env_job){.run = journal_run, .done = journal_done};
    r->jobs++;
    env_job_submit(r->env, &r->check_queue, &c->job);
}

void replica_journal_close(struct replica *r, struct journal *j)
{
    if (j && j == r->check_log)
        r->check_replaced = j;
    else
        journal_close(j);
}

bool replica_check(struct replica *r, void (*done)(void *arg, unsigned bad), void *arg)
{
    struct check_job *c;

    if (!r->started || r->failed || r->closing || r->checking || r->state_busy || r->base_busy || r->format.busy ||
        !replica_formatted(r))
        return false;
    c = tc_calloc(1, sizeof *c);
    *c = (struct check_job){.job = {.run = small_run, .done = small_done}, .r = r, .state = r->state, .base = r->base,
                            .done = done, .arg = arg};
    r->checking = r->state_busy = r->base_busy = true;
    r->jobs++;
    env_job_submit(r->env, &r->check_queue, &c->job);
    return true;
}
