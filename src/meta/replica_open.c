/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start of a replica: what its directory is (a member's, an empty one, one that lost something), its log replayed
 * into the core, or set aside if it cannot be used (replica_aside.c). Blocking, before anything else runs.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "meta/replica_int.h"

static int on_record(void *arg, uint64_t pos, struct slice record)
{
    struct replica *r = arg;
    const uint8_t *p = record.data;
    size_t at = REPLICA_RECORD_HEAD;
    uint32_t head[2];
    uint64_t first;

    if (record.len < REPLICA_RECORD_HEAD)
        return -TC_E_DAMAGED;
    memcpy(head, p, 8);
    memcpy(&first, p + 8, 8);
    if (head[0] != REPLICA_RECORD_MAGIC)
        return -TC_E_DAMAGED;
    for (uint32_t i = 0; i < head[1]; i++) {
        struct raft_entry e = {.index = first + i};

        if (record.len - at < REPLICA_RECORD_ENTRY)
            return -TC_E_DAMAGED;
        memcpy(&e.term, p + at, 8);
        memcpy(&e.type, p + at + 8, 4);
        memcpy(&e.len, p + at + 12, 4);
        at += REPLICA_RECORD_ENTRY;
        if (record.len - at < e.len)
            return -TC_E_DAMAGED;
        e.data = p + at;
        at += e.len;
        if (raft_restore_entry(r->core, &e) < 0)
            return -TC_E_DAMAGED;
    }
    if (!raft_entry_at(r->core, first + head[1])) /* else it was written anew, but not all: the older ones are needed yet */
        replica_mark_push(r, first, pos);
    return 0;
}

static int log_replay(struct replica *r)
{
    char *path = tc_asprintf("%s/log-%" PRIu64, r->dir, r->base.log_gen);
    uint64_t where = 0;
    int err;

    r->n_marks = 0;
    replica_core_new(r);
    err = journal_open(r->env, path, NULL, on_record, r, &where, &r->log);
    free(path);
    return err;
}

static uint64_t fresh_incarnation(struct replica *r)
{
    uint64_t v;

    do
        v = env_random(r->env);
    while (v == 0);
    return v;
}

static void say(char *why, size_t size, const char *what, const char *dir, int err)
{
    if (why)
        snprintf(why, size, "%s: %s: %s", dir, what, tc_strerror(err));
}

static int see_segment(void *arg, const char *name)
{
    size_t n = strlen(name);

    (void)arg;
    return n > 4 && strcmp(name + n - 4, ".seg") == 0;
}

/* A log that base names has a segment from its first moment on. */
static bool log_exists(struct replica *r)
{
    char *path = tc_asprintf("%s/log-%" PRIu64, r->dir, r->base.log_gen);
    struct vfs *vfs = env_vfs(r->env);
    bool exists = vfs_list(vfs, path, see_segment, NULL) == 1;

    free(path);
    return exists;
}

/* What the directory is: a member's, an empty one, or one that lost something. */
static int log_judge(struct replica *r, char *why, size_t why_size, bool *ret_aside,
                     bool *ret_stateless)
{
    struct vfs *vfs = env_vfs(r->env);
    int err_state = replica_state_read(vfs, r->dir, &r->state);
    int err_base = replica_base_read(vfs, r->dir, &r->base);
    bool here;

    if (err_state == -TC_E_VERSION || err_base == -TC_E_VERSION) {
        say(why, why_size, "written by a newer version", r->dir, -TC_E_VERSION);
        return -TC_E_VERSION;
    }
    if (err_state == 0 && r->state.id != r->id) {
        snprintf(why, why_size, "%s: belongs to member %" PRIu64 ", not to %u", r->dir, r->state.id,
                 r->id);
        return -TC_E_WRONG_CLUSTER;
    }
    if (err_state < 0 && err_state != -TC_E_NOENT && err_state != -TC_E_DAMAGED) {
        say(why, why_size, "cannot read term and vote", r->dir, err_state);
        return err_state;
    }
    if (err_base < 0 && err_base != -TC_E_NOENT && err_base != -TC_E_DAMAGED) {
        say(why, why_size, "cannot read the log's base", r->dir, err_base);
        return err_base;
    }
    if (err_base < 0)
        r->base = (struct replica_base){.kv_gen = 1, .log_gen = 1};
    here = log_exists(r);
    if (err_state == -TC_E_DAMAGED) { /* for a human: nothing reads them again */
        int err;

        replica_damaged(r, "term and vote (state-a, state-b) are damaged");
        err = replica_set_state_aside(r);
        if (err < 0)
            return err;
        r->damage = NULL; /* the log may be whole: judged by the caller */
    }
    if (err_base == -TC_E_DAMAGED)
        replica_damaged(r, "the record of the log's beginning (base) is damaged");
    else if (err_state == 0 && !here)
        replica_damaged(r, "the log is missing");
    *ret_aside = r->damage != NULL;
    if (err_state < 0)
        r->state = (struct replica_state){.id = r->id, .incarnation = fresh_incarnation(r)};
    *ret_stateless = err_state < 0;
    return 0;
}

/* Nobody could fill it: better a member that does not start than one that forgot everything. */
static int refuse_alone(struct replica *r, char *why, size_t why_size)
{
    if (r->n_peers > 1)
        return 0;
    snprintf(why, why_size,
             "%s: %s; there is no other member to fill this one from, nothing was changed. Bring back a copy of the "
             "directory, or restore a dump: tercet meta load",
             r->dir, r->damage);
    return -TC_E_DAMAGED;
}

/* Replay the log, or set aside what cannot be used. */
static int log_open(struct replica *r, bool aside, char *why, size_t why_size)
{
    enum replica_damage_kind kind = REPLICA_DAMAGE_ALL;
    bool marked = replica_marked(r, &kind), kv_only;
    int err = 0;

    kv_only = marked && kind == REPLICA_DAMAGE_KV && !aside && r->base.index == 0;
    aside = aside || (marked && !kv_only);
    if (!aside) {
        err = log_replay(r);
        if (err == -TC_E_DAMAGED) {
            replica_damaged(r, "the log is damaged");
            aside = true;
        } else if (err == 0 && kv_only) {
            err = replica_set_kv_aside(r);
            r->damage = NULL; /* all of it is in the log */
        }
    }
    if (aside) {
        err = refuse_alone(r, why, why_size);
        if (err < 0)
            return err;
        if (marked && kind == REPLICA_DAMAGE_FOREIGN)
            r->state = (struct replica_state){.seq = r->state.seq}; /* term and vote were of that cluster, too */
        err = replica_set_aside(r);
        if (err == 0)
            err = log_replay(r);
    }
    if (err < 0)
        say(why, why_size, "cannot open the log", r->dir, err);
    return err;
}

int replica_log_open(struct replica *r, char *why, size_t why_size)
{
    struct vfs *vfs = env_vfs(r->env);
    struct raft_status s;
    bool aside, stateless;
    int err;

    r->retry_timer.fn = replica_log_retry;
    err = vfs_make_dir(vfs, r->dir);
    if (err < 0) {
        say(why, why_size, "cannot create the directory", r->dir, err);
        return err;
    }
    err = log_judge(r, why, why_size, &aside, &stateless);
    if (err == 0)
        err = log_open(r, aside, why, why_size);
    if (err < 0)
        return err;
    raft_get_status(r->core, &s);
    if (stateless && s.last > 0) {
        replica_damaged(r, "term and vote (state-a, state-b) are missing or damaged");
        err = refuse_alone(r, why, why_size);
        if (err < 0)
            return err;
    }
    if (s.last == 0 && r->state.incarnation == 0) {
        /* A format that did not come to its end, or a log that was emptied: no voter either way. */
        r->state.incarnation = fresh_incarnation(r);
        replica_core_new(r);
    }
    if (r->damage)
        LOG_ERR("raft", "this member starts without a vote, to be filled by the others", "dir=%s why=\"%s\"", r->dir,
                r->damage);
    replica_dir_clean(vfs, r->dir, "log", r->base.log_gen);
    replica_dir_clean(vfs, r->dir, "kv", r->base.kv_gen);
    replica_snap_clean(r);
    return err;
}
