/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica's disk while it runs: entries into the journal, term and vote, the base, the first entry of all.
 * Opening is in replica_open.c.
 *
 * A journal record is a run of entries: magic u32, count u32, first index u64, then per entry term u64,
 * type u32, length u32 and its bytes, little-endian. An entry of another term than the one that earlier records
 * hold at its index replaces that and all behind it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "meta/replica_int.h"

enum { RECORD_BYTES_MAX = 1 << 20, RETRY_MS = 200 };

/* -- where entries are ------------------------------------------------------------------------ */

void replica_mark_push(struct replica *r, uint64_t first, uint64_t pos)
{
    while (r->n_marks > 0 && r->marks[r->n_marks - 1].first >= first)
        r->n_marks--;
    if (r->n_marks == r->cap_marks) {
        r->cap_marks = r->cap_marks ? r->cap_marks * 2 : 256;
        r->marks = tc_realloc(r->marks, r->cap_marks * sizeof r->marks[0]);
    }
    r->marks[r->n_marks++] = (struct replica_mark){first, pos};
}

/* Entries up to @index are not needed: let the journal go up to the record of the one behind. */
static void marks_trim(struct replica *r, uint64_t index)
{
    size_t lo = 0, hi = r->n_marks; /* the last mark with first <= index + 1 is before hi */

    if (r->rewriting)
        return; /* the mark is of a record that is not durable yet */
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (r->marks[mid].first <= index + 1)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (hi == 0)
        return;
    journal_trim(r->log, r->marks[hi - 1].pos);
    memmove(r->marks, r->marks + hi - 1, (r->n_marks - (hi - 1)) * sizeof r->marks[0]);
    r->n_marks -= hi - 1;
}

/* -- entries ---------------------------------------------------------------------------------- */

static struct buf *record_pack(const struct raft *core, uint64_t first, uint64_t last,
                               uint64_t *ret_next)
{
    uint32_t head[2] = {REPLICA_RECORD_MAGIC, 0};
    size_t size = REPLICA_RECORD_HEAD;
    uint64_t end = first;
    struct buf *b;

    do
        size += REPLICA_RECORD_ENTRY + raft_entry_at(core, end++)->len;
    while (end <= last && size + raft_entry_at(core, end)->len < RECORD_BYTES_MAX);
    b = buf_new((uint32_t)size);
    head[1] = (uint32_t)(end - first);
    memcpy(b->data, head, sizeof head);
    memcpy(b->data + 8, &first, 8);
    b->len = REPLICA_RECORD_HEAD;
    for (uint64_t i = first; i < end; i++) {
        const struct raft_entry *e = raft_entry_at(core, i);
        uint8_t *p = b->data + b->len;

        memcpy(p, &e->term, 8);
        memcpy(p + 8, &e->type, 4);
        memcpy(p + 12, &e->len, 4);
        if (e->len > 0)
            memcpy(p + REPLICA_RECORD_ENTRY, e->data, e->len);
        b->len += REPLICA_RECORD_ENTRY + e->len;
    }
    *ret_next = end;
    return b;
}

static uint64_t record_first(const struct buf *b)
{
    uint64_t first;

    memcpy(&first, b->data + 8, 8);
    return first;
}

static void format_written(struct replica *r, int status);
static void rewrite_done(struct replica *r);

static void save_free(struct replica_save *s)
{
    buf_unref(s->data);
    free(s);
}

static void save_wait(struct replica *r, struct replica_save *s)
{
    struct replica_save **at = &r->full_first;

    if (!*at)
        LOG_WARN("raft", "no room for the log, retrying", "dir=%s", r->dir);
    while (*at && (*at)->seq <= s->seq)
        at = &(*at)->next;
    s->next = *at;
    *at = s;
    env_timer_set(r->env, &r->retry_timer, env_now(r->env) + RETRY_MS * NS_PER_MS);
}

static void save_done(struct journal_req *req, int status)
{
    struct replica_save *s = container_of(req, struct replica_save, req);
    struct raft_event ev = {.type = RAFT_EV_PERSISTED, .seq = s->seq};
    struct replica *r = s->r;
    bool last = s->last, format = s->format, rewritten = s->rewritten;

    if (r->closing || r->failed) {
        save_free(s);
        return;
    }
    if (status == -TC_E_NOSPC && !format) {
        save_wait(r, s);
        return;
    }
    save_free(s);
    if (format)
        format_written(r, status);
    else if (status < 0)
        replica_fail(r, status, "log");
    else if (rewritten)
        rewrite_done(r);
    else if (last)
        replica_step(r, &ev);
}

static int save_append(struct replica *r, struct replica_save *s)
{
    struct iovec iov = {s->data->data, s->data->len};
    int err;

    s->req = (struct journal_req){.done = save_done};
    err = journal_append(r->log, &iov, 1, &s->req);
    if (err == 0)
        replica_mark_push(r, record_first(s->data), s->req.pos);
    return err;
}

static void save_submit(struct replica *r, struct replica_save *s)
{
    int err = r->full_first ? -TC_E_BACKPRESSURE : save_append(r, s);

    if (err == -TC_E_BACKPRESSURE || err == -TC_E_NOSPC) {
        save_wait(r, s); /* in order: none overtakes another */
    } else if (err < 0) {
        save_free(s);
        replica_fail(r, err, "log");
    }
}

void replica_log_retry(struct env_timer *t)
{
    struct replica *r = container_of(t, struct replica, retry_timer);

    while (r->full_first) {
        struct replica_save *s = r->full_first;
        int err;

        r->full_first = s->next;
        s->next = NULL;
        err = save_append(r, s);
        if (err == -TC_E_BACKPRESSURE || err == -TC_E_NOSPC) {
            s->next = r->full_first;
            r->full_first = s;
            env_timer_set(r->env, t, env_now(r->env) + RETRY_MS * NS_PER_MS);
            return;
        }
        if (err < 0) {
            save_free(s);
            replica_fail(r, err, "log");
            return;
        }
    }
}

static void rewrite_done(struct replica *r)
{
    r->rewriting = false;
    marks_trim(r, r->base.index);
    LOG_INFO("raft", "the entries of the log were written anew", "dir=%s", r->dir);
}

/* They come behind any that are under way, and a replay passes over what it has already: so a crash between two of them
 * loses nothing. Of what the base covers, or is about to, a replay keeps nothing and cannot know it: that is left out. */
void replica_log_rewrite(struct replica *r)
{
    struct raft_status st;
    uint64_t at;

    raft_get_status(r->core, &st);
    at = MAX(st.first, MAX(r->base.index, r->base_busy ? r->compact_to : 0) + 1);
    if (r->rewriting || st.last < at)
        return;
    r->rewriting = true;
    journal_rotate(r->log);
    while (at <= st.last && !r->failed) {
        struct replica_save *s = tc_calloc(1, sizeof *s);

        s->r = r;
        s->seq = r->save_seq;
        s->data = record_pack(r->core, at, st.last, &at);
        s->rewritten = at > st.last;
        save_submit(r, s);
    }
}

void replica_save_entries(struct replica *r, uint64_t seq, uint64_t first, uint64_t last)
{
    r->save_seq = seq;
    while (first <= last && !r->failed) {
        struct replica_save *s = tc_calloc(1, sizeof *s);

        s->r = r;
        s->seq = seq;
        s->data = record_pack(r->core, first, last, &first);
        s->last = first > last;
        save_submit(r, s);
    }
}

/* -- term and vote ---------------------------------------------------------------------------- */

struct state_job {
    struct env_job job;
    struct replica *r;
    struct replica_state state;
    uint64_t seq; /* the core's */
    bool format;
    char *dir;
    int err;
};

static void state_run(struct env_job *j)
{
    struct state_job *s = container_of(j, struct state_job, job);

    s->err = replica_state_write(env_vfs(s->r->env), s->dir, &s->state);
}

static void format_state_written(struct replica *r, const struct state_job *s);
static void state_submit(struct replica *r, bool format);

static void state_done(struct env_job *j)
{
    struct state_job *s = container_of(j, struct state_job, job);
    struct raft_event ev = {.type = RAFT_EV_STATE_SAVED, .seq = s->seq};
    struct replica *r = s->r;

    r->state_busy = false;
    if (replica_job_over(r)) {
        /* closed */
    } else if (s->format) {
        format_state_written(r, s);
    } else if (s->err < 0) {
        replica_fail(r, s->err, "term and vote");
    } else {
        if (r->state_again)
            state_submit(r, false);
        replica_step(r, &ev);
    }
    free(s->dir);
    free(s);
}

static void state_submit(struct replica *r, bool format)
{
    struct state_job *s = tc_calloc(1, sizeof *s);

    r->state.seq++;
    s->job.run = state_run;
    s->job.done = state_done;
    s->r = r;
    s->state = r->state;
    s->seq = r->state_seq;
    s->format = format;
    s->dir = tc_strdup(r->dir);
    r->state_busy = true;
    r->state_again = false;
    r->jobs++;
    env_job_submit(r->env, &r->queue, &s->job);
}

void replica_save_state(struct replica *r, uint64_t seq, uint64_t term, uint64_t vote)
{
    r->state_seq = seq;
    r->state.term = term;
    r->state.vote = vote;
    if (r->state_busy)
        r->state_again = true;
    else
        state_submit(r, false);
}

/* -- the base --------------------------------------------------------------------------------- */

struct base_job {
    struct env_job job;
    struct replica *r;
    struct replica_base base;
    int err;
};

static void base_run(struct env_job *j)
{
    struct base_job *b = container_of(j, struct base_job, job);

    b->err = replica_base_write(env_vfs(b->r->env), b->r->dir, &b->base);
}

static void base_done(struct env_job *j)
{
    struct base_job *b = container_of(j, struct base_job, job);
    struct raft_event ev = {.type = RAFT_EV_COMPACT, .index = b->base.index};
    struct replica *r = b->r;

    r->base_busy = false;
    if (!replica_job_over(r)) {
        if (b->err == 0) {
            r->base = b->base;
            replica_step(r, &ev);
            marks_trim(r, r->base.index);
        } else {
            r->compact_to = r->base.index; /* the next checkpoint tries again */
            LOG_WARN("raft", "the log could not be cut, later again", "error=%s",
                     tc_error_name(b->err));
        }
        if (r->install_waits)
            replica_snap_install(r);
        else
            replica_compact_next(r);
    }
    free(b);
}

void replica_compact_next(struct replica *r)
{
    struct base_job *b;

    if (r->base_busy || r->compact_to <= r->base.index || r->failed)
        return;
    b = tc_calloc(1, sizeof *b);
    b->job.run = base_run;
    b->job.done = base_done;
    b->r = r;
    b->base = r->base;
    b->base.index = r->compact_to;
    b->base.term = raft_term_at(r->core, r->compact_to);
    b->base.config = *raft_config_at(r->core, r->compact_to);
    r->base_busy = true;
    r->jobs++;
    env_job_submit(r->env, &r->queue, &b->job);
}

/* -- format ----------------------------------------------------------------------------------- */

static void format_end(struct replica *r, int err)
{
    void (*done)(void *arg, int err) = r->format.done;

    r->format.busy = false;
    r->format.entry = buf_unref(r->format.entry);
    done(r->format.arg, err);
}

/* The entry is durable: a core that knows it takes the place of the one that knew nothing. */
static void format_written(struct replica *r, int status)
{
    struct raft_event ev = {.type = RAFT_EV_FLUSH};
    struct raft_entry e = {.index = 1, .term = 1, .type = RAFT_ENTRY_CONFIG};
    int err = status;

    if (err == 0) {
        e.data = r->format.entry->data;
        e.len = r->format.entry->len;
        replica_core_new(r);
        err = raft_restore_entry(r->core, &e);
        if (err == 0)
            err = raft_restore_done(r->core, 0);
        ASSERT(err == 0);
        r->state_seq = 0;
        r->role_changed = true;
        replica_work(r);
        replica_step(r, &ev);
    }
    format_end(r, err);
}

static void format_state_written(struct replica *r, const struct state_job *job)
{
    struct replica_save *s;
    struct buf *e = r->format.entry;
    uint32_t head[2] = {REPLICA_RECORD_MAGIC, 1}, type = RAFT_ENTRY_CONFIG;
    uint64_t one = 1;

    if (job->err < 0) {
        format_end(r, job->err);
        return;
    }
    s = tc_calloc(1, sizeof *s);
    s->r = r;
    s->format = true;
    s->data = buf_new(REPLICA_RECORD_HEAD + REPLICA_RECORD_ENTRY + e->len);
    memcpy(s->data->data, head, 8);
    memcpy(s->data->data + 8, &one, 8);
    memcpy(s->data->data + 16, &one, 8); /* its term */
    memcpy(s->data->data + 24, &type, 4);
    memcpy(s->data->data + 28, &e->len, 4);
    memcpy(s->data->data + 32, e->data, e->len);
    s->data->len = REPLICA_RECORD_HEAD + REPLICA_RECORD_ENTRY + e->len;
    save_submit(r, s);
}

void replica_format(struct replica *r, uint64_t cluster_tag, const uint32_t *members, unsigned n,
                    struct slice genesis, void (*done)(void *arg, int err), void *arg)
{
    struct raft_config c = {.n = n};
    uint8_t buf[RAFT_CONFIG_BYTES_MAX];
    struct raft_status s;
    uint32_t len;

    raft_get_status(r->core, &s);
    if (s.last > 0 || s.leader != 0 || s.installing || r->format.busy || r->state_busy) {
        done(arg, -TC_E_ALREADY_FORMATTED);
        return;
    }
    if (n == 0 || n > RAFT_MEMBERS_MAX || genesis.len > REPLICA_ENTRY_MAX || !r->started) {
        done(arg, -TC_E_INVAL);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        c.members[i] = (struct raft_member){members[i], 0, RAFT_VOTER};
        if (members[i] == 0 || (i > 0 && members[i] <= members[i - 1])) {
            done(arg, -TC_E_INVAL); /* ascending ids: the entry is the same everywhere */
            return;
        }
    }
    len = raft_config_encode(&c, buf);
    r->format.entry = buf_new(len + (uint32_t)genesis.len);
    memcpy(r->format.entry->data, buf, len);
    memcpy(r->format.entry->data + len, genesis.data, genesis.len);
    r->format.entry->len = len + (uint32_t)genesis.len;
    r->format.busy = true;
    r->format.done = done;
    r->format.arg = arg;
    r->state.cluster = cluster_tag;
    r->state.incarnation = 0;
    r->state.term = MAX(r->state.term, 1);
    r->state.vote = 0;
    state_submit(r, true);
}

/* -- the end ---------------------------------------------------------------------------------- */

void replica_saves_drop(struct replica *r)
{
    struct replica_save *s;

    while ((s = r->full_first)) {
        r->full_first = s->next;
        r->rewriting = r->rewriting && !s->rewritten;
        save_free(s);
    }
}

void replica_log_close(struct replica *r)
{
    replica_saves_drop(r);
    replica_journal_close(r, r->log);
    journal_close(r->in.log);
    r->log = r->in.log = NULL;
}
