/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The member and its store: entries that the log applies to it, snapshots, checkpoints, and the room on its disk.
 */
#include "meta/server_internal.h"

/* ---- the log ---- */

void server_formatted(struct meta_server *s)
{
    const struct genesis *g = fsm_genesis(s->fsm);

    if (g && !s->cluster_tag) {
        s->cluster_tag = map_cluster_tag(g->cluster.p);
        LOG_INFO("meta", "member of a cluster", "name=%.*s n=%u w=%u r=%u pgs=%u", (int)g->name.n, g->name.p, g->n, g->w,
                 g->r, g->pg_count);
    }
}

static void on_apply(void *arg, uint64_t index, uint64_t term, struct slice data, void *cookie)
{
    struct meta_server *s = arg;
    struct fsm_result res = {0};
    struct command cmd = {0};
    int r;

    if (s->failed)
        return;
    r = fsm_apply(s->fsm, index, term, data, &res);
    if (r < 0) {
        fsm_result_fini(&res);
        server_fail(s, r, r == -TC_E_DAMAGED ? "the store (kv) is damaged: found when an entry was applied"
                                             : "the store does not take an entry");
        return;
    }
    if (!s->cluster_tag) {
        server_formatted(s);
        s->genesis_new = true; /* into a checkpoint soon: a restart then knows at once whose directory it is */
    }
    members_applied(s, index, term, &res);
    if (s->lead) {
        wire_arena_reset(&s->arena);
        if (data.len && wire_decode(data, &command_schema, &s->arena, &cmd) < 0)
            cmd = (struct command){0};
        lead_effects(s, &res);
        mutation_applied(s, cookie, &res, (uint16_t)cmd.type, &cmd);
        server_turn(s);
    } else if (s->leads && term == s->leads_term) {
        lead_begin(s);
        server_turn(s);
    }
    fsm_result_fini(&res);
}

static void on_leader_changed(void *arg, uint64_t term, uint32_t leader, bool self)
{
    struct meta_server *s = arg;

    LOG_INFO("meta", self ? "leads" : "follows", "id=%u term=%llu leader=%u", s->cfg.id, (unsigned long long)term,
             leader);
    if (s->lead && (!self || term != s->lead->term))
        lead_end(s);
    s->leads = self;
    s->leads_term = term;
    if (leader && !self)
        server_announce(s); /* the new one does it itself, when it is ready */
    server_turn(s);
}

static void on_lost(void *arg, void *cookie, int err)
{
    (void)arg;
    (void)cookie; /* the operation goes, or went, with its lead */
    (void)err;
}

static struct kv_snapshot *on_snapshot_take(void *arg, struct kv **ret_kv, uint64_t *ret_index)
{
    struct meta_server *s = arg;

    *ret_kv = s->kv;
    *ret_index = fsm_applied(s->fsm);
    return kv_snapshot_new(s->kv);
}

int server_store_open(struct meta_server *s, const char *path)
{
    struct kv_options opt = {.cache_bytes = s->cfg.kv_cache_bytes};
    int r;

    if (s->cfg.kv_mem)
        r = kv_open_mem(env_vfs(s->env), path, &s->kv);
    else
        r = kv_open_rocks(path, &opt, &s->kv);
    if (r < 0) {
        s->kv = NULL;
        return r;
    }
    r = fsm_open(s->kv, &s->fsm);
    if (r < 0)
        s->fsm = NULL;
    else
        fsm_test_rules_off(s->fsm, s->cfg.fsm_rules_off);
    return r == -TC_E_IO ? -TC_E_DAMAGED : r; /* rows that cannot be read */
}

void server_store_close(struct meta_server *s)
{
    dump_drop(s);
    s->fsm = fsm_close(s->fsm);
    if (s->flush && s->flush->kv == s->kv)
        s->flush->orphan = true; /* closed when the job is done with it */
    else
        kv_close(s->kv);
    s->kv = NULL;
}

static void on_snapshot_installed(void *arg, const char *kv_path, uint64_t index, uint64_t term)
{
    struct meta_server *s = arg;
    int r;

    (void)term;
    lead_end(s);
    server_store_close(s);
    r = server_store_open(s, kv_path);
    if (r < 0) {
        server_fail(s, r, "the store that the leader sent does not open");
        return;
    }
    LOG_INFO("meta", "filled by the leader", "index=%llu", (unsigned long long)index);
    server_formatted(s);
    members_refresh(s);
}

static void on_failed(void *arg, int err)
{
    server_fail(arg, err, err == -TC_E_DAMAGED ? "its files cannot be used" : "the log cannot be written");
}

const struct replica_ops server_replica_ops = {
    .apply = on_apply,
    .leader_changed = on_leader_changed,
    .lost = on_lost,
    .snapshot_take = on_snapshot_take,
    .snapshot_installed = on_snapshot_installed,
    .members = members_seen,
    .read_done = anywhere_done,
    .failed = on_failed,
};

/* ---- checkpoints ---- */

static void flush_run(struct env_job *j)
{
    struct flush_job *f = container_of(j, struct flush_job, job);

    f->status = kv_flush(f->kv);
    if (f->check && f->status == 0)
        f->check_status = kv_check(f->kv);
    if (f->check_status == -TC_E_DAMAGED)
        f->check_status = kv_check(f->kv); /* twice: it was being written */
}

static void flush_done(struct env_job *j)
{
    struct flush_job *f = container_of(j, struct flush_job, job);
    struct meta_server *s = f->s;

    if (s)
        s->flush = NULL;
    if (f->orphan) {
        kv_close(f->kv);
    } else if (s && f->status == -TC_E_DAMAGED) {
        server_fail(s, f->status, "the store (kv) is damaged: found at a checkpoint");
    } else if (f->status < 0) {
        LOG_ERR("meta", "checkpoint failed, the log is kept", "error=\"%s\"", tc_strerror(f->status));
    } else if (s) {
        s->checkpoint_index = f->index;
        replica_compact(s->replica, f->index);
    }
    if (s && !f->orphan)
        checkpoint_done(s, f->status);
    if (s && f->check)
        check_store_done(s, f->orphan || f->status < 0 ? 0 : f->check_status);
    if (s && s->check.store)
        meta_server_checkpoint(s);
    free(f);
}

void meta_server_checkpoint(struct meta_server *s)
{
    struct flush_job *f;

    if (s->flush || !s->fsm || s->failed || (fsm_applied(s->fsm) == s->checkpoint_index && !s->check.store))
        return;
    f = tc_calloc(1, sizeof(*f));
    f->s = s;
    f->kv = s->kv;
    f->index = fsm_applied(s->fsm);
    f->check = s->check.store;
    s->check.store = false;
    f->job.run = flush_run;
    f->job.done = flush_done;
    s->flush = f;
    s->flush_at = env_now(s->env);
    env_job_submit(s->env, s->jobs, &f->job);
}

void server_checkpoint_tick(struct meta_server *s)
{
    uint64_t now = env_now(s->env);

    if (s->genesis_new && !s->flush) {
        s->genesis_new = false;
        meta_server_checkpoint(s);
    }
    if (now - s->flush_at >= s->cfg.checkpoint_ms * NS_PER_MS ||
        (replica_log_bytes(s->replica) >= s->cfg.checkpoint_bytes && now - s->flush_at >= 2 * NS_PER_S))
        meta_server_checkpoint(s);
}

/* ---- the disk's room, for status ---- */

static void space_run(struct env_job *j)
{
    struct space_job *p = container_of(j, struct space_job, job);

    if (vfs_space(p->vfs, p->dir, &p->total, &p->free) < 0)
        p->total = p->free = 0;
}

static void space_done(struct env_job *j)
{
    struct space_job *p = container_of(j, struct space_job, job);
    struct meta_server *s = p->s;

    if (s) {
        s->data_total = p->total;
        s->data_free = p->free;
        s->space = NULL;
    }
    free(p->dir);
    free(p);
}

void server_space_tick(struct meta_server *s)
{
    uint64_t now = env_now(s->env);
    struct space_job *p;

    if (s->space || (s->space_at && now - s->space_at < 5 * NS_PER_S))
        return;
    p = tc_calloc(1, sizeof(*p));
    p->s = s;
    p->vfs = env_vfs(s->env);
    p->dir = tc_strdup(s->dir);
    p->job.run = space_run;
    p->job.done = space_done;
    s->space = p;
    s->space_at = now;
    env_job_submit(s->env, s->jobs, &p->job);
}
