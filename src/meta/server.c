/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The member: its start, its turns, its end (server.h). What comes in: server_dispatch.c; its store: server_store.c.
 */
#include "meta/server_internal.h"

#include <stdio.h>

#include "common/test_rules.h"
#include "common/vfs_tree.h"

/* ---- time, proposals ---- */

/*
 * This member's clock, but never behind the newest entry (a hybrid logical clock). Where that one is ahead, by a former
 * leader's clock, time does not stand still until this one has caught up: it runs at half its speed.
 */
uint64_t server_time(struct meta_server *s)
{
    uint64_t now = env_realtime(s->env), mono = env_now(s->env);

    if (s->cfg.rules_off & META_RULE_CLOCK)
        return now;
    if (s->time_told)
        now = MAX(now, s->time_told + (mono - s->time_told_at) / 2);
    if (s->fsm)
        now = MAX(now, fsm_clock(s->fsm) + 1);
    now = MAX(now, s->last_time + 1);
    s->time_told = now;
    s->time_told_at = mono;
    return now;
}

int server_propose(struct meta_server *s, uint32_t type, struct slice body, void *cookie)
{
    struct command cmd = {.type = type, .body = {body.data, (uint32_t)body.len}, .term = s->lead->term};
    struct buf *b;
    int r;

    cmd.time = server_time(s);
    if (type == MSG_SESSION_OPEN)
        cmd.expected = s->cfg.session_ttl_ms;
    b = wire_encode(&command_schema, &cmd);
    r = replica_propose(s->replica, slice_of(b->data, b->len), cookie, NULL);
    buf_unref(b);
    if (r == 0) {
        s->last_time = cmd.time;
        s->n.proposals++;
    }
    return r;
}

bool server_ready(struct meta_server *s)
{
    return s->lead && (replica_lease_valid(s->replica) || (s->cfg.rules_off & META_RULE_LEASE_READ));
}

void server_turn(struct meta_server *s)
{
    env_defer(s->env, &s->turn->task);
}

void server_fail(struct meta_server *s, int err, const char *what)
{
    if (s->failed)
        return;
    s->failed = true;
    /* A read that fails is no better than one that lies: the next start is without this store. */
    if (s->fsm && fsm_store_error(s->fsm) < 0)
        err = -TC_E_DAMAGED;
    if (err == -TC_E_DAMAGED && !replica_failed(s->replica) &&
        replica_mark_damaged(env_vfs(s->env), s->dir, REPLICA_DAMAGE_KV, what) < 0)
        err = -TC_E_IO; /* start it again: the same will be found */
    LOG_ERR("meta", "this member can go on no longer", "what=\"%s\" error=\"%s\"", what, tc_strerror(err));
    lead_end(s);
    if (s->cfg.failed)
        s->cfg.failed(s->cfg.arg, err, what);
}

/* ---- the loop ---- */

static void turn_run(struct meta_server *s)
{
    if (s->fsm && fsm_store_error(s->fsm) < 0)
        server_fail(s, -TC_E_DAMAGED, "the store (kv) is damaged: found when it was read");
    if (s->failed)
        return;
    if (s->lead_again) {
        s->lead_again = false;
        lead_end(s);
        if (s->leads)
            lead_begin(s);
    }
    if (s->held && (server_ready(s) || !replica_leads(s->replica)))
        server_held_release(s, false);
    if (s->lead)
        lead_turn(s);
}

static void on_turn(struct env_task *t)
{
    struct turn *turn = container_of(t, struct turn, task);

    if (turn->s)
        turn_run(turn->s);
    else
        free(turn);
}

static void on_tick(struct env_timer *t)
{
    struct meta_server *s = container_of(t, struct meta_server, tick);

    env_timer_set(s->env, t, env_now(s->env) + TICK_MS * NS_PER_MS);
    if (s->failed)
        return;
    if (s->lead)
        lead_tick(s);
    server_checkpoint_tick(s);
    check_tick(s);
    server_space_tick(s);
    turn_run(s);
}

/* ---- stop ---- */

static void stop_tick(struct env_timer *t)
{
    struct meta_server *s = container_of(t, struct meta_server, stop_timer);
    uint64_t now = env_now(s->env);

    if (!replica_leads(s->replica) && replica_leader(s->replica)) /* redirect for a moment what is under way */
        s->stop_deadline = MIN(s->stop_deadline, now + 50 * NS_PER_MS);
    if (now >= s->stop_deadline || s->failed) {
        s->stop_done(s->stop_arg);
        return;
    }
    env_timer_set(s->env, t, now + 5 * NS_PER_MS);
}

void meta_server_stop(struct meta_server *s, uint64_t timeout_ms, void (*done)(void *arg), void *arg)
{
    uint64_t now = env_now(s->env);

    s->stop_done = done;
    s->stop_arg = arg;
    s->stop_deadline = now + timeout_ms * NS_PER_MS;
    s->stop_timer.fn = stop_tick;
    if (!replica_leads(s->replica) || replica_transfer(s->replica, 0) < 0)
        s->stop_deadline = now; /* nothing to hand over, or nobody to take it */
    env_timer_set(s->env, &s->stop_timer, now);
}

bool meta_server_transfer(struct meta_server *s)
{
    return replica_leads(s->replica) && replica_transfer(s->replica, 0) == 0;
}

/* ---- start ---- */

static void config_copy(struct meta_server *s, const struct meta_server_config *cfg)
{
    struct meta_server_config *c = &s->cfg;
    struct meta_member *m = tc_calloc(cfg->n_members ? cfg->n_members : 1, sizeof(*m));

    *c = *cfg;
    c->rules_off |= (uint32_t)tc_test_value("TERCET_META_RULES_OFF", 0);
    for (unsigned i = 0; i < cfg->n_members; i++)
        m[i] = (struct meta_member){cfg->members[i].id, tc_strdup(cfg->members[i].endpoint)};
    s->members = m;
    s->n_members = cfg->n_members;
    s->dir = tc_strdup(cfg->dir);
    c->members = m;
    c->dir = s->dir;
    c->listen = NULL;
    c->cluster = NULL;
#define DEFAULT(field, value) c->field = c->field ? c->field : (value)
    DEFAULT(heartbeat_ms, 50);
    DEFAULT(election_min_ms, 300);
    DEFAULT(election_max_ms, 600);
    DEFAULT(session_ttl_ms, 10000);
    DEFAULT(session_idle_ms, 300000);
    DEFAULT(caching_ms, 2000);
    DEFAULT(recall_timeout_ms, 30000);
    DEFAULT(recall_resend_ms, 100);
    DEFAULT(store_suspect_ms, 1000);
    DEFAULT(store_down_ms, 1800);
    DEFAULT(checkpoint_ms, 30000);
    DEFAULT(checkpoint_bytes, UINT64_C(64) << 20);
    DEFAULT(sweep_ms, 1000);
#undef DEFAULT
}

static const char *own_endpoint(const struct meta_server *s, const struct meta_server_config *cfg)
{
    if (cfg->listen)
        return cfg->listen;
    for (unsigned i = 0; i < s->n_members; i++) {
        if (s->members[i].id == cfg->id)
            return s->members[i].endpoint;
    }
    return NULL;
}

static int open_dir(struct meta_server *s, char *why, size_t why_size)
{
    struct vfs *v = env_vfs(s->env);
    char *path;
    int r = vfs_make_dir(v, s->dir);

    if (r < 0) {
        snprintf(why, why_size, "cannot create the data directory %s: %s", s->dir, tc_strerror(r));
        return r;
    }
    /* Taken for an empty one it would be a lost disk. */
    if (vfs_has_name(v, s->dir, "identity.0") || vfs_has_name(v, s->dir, "identity.1")) {
        snprintf(why, why_size, "the data directory %s is that of a storage node: look what is in the wrong place", s->dir);
        return -TC_E_CONFIG;
    }
    path = tc_asprintf("%s/lock", s->dir);
    r = vfs_lock(v, path, &s->lock);
    free(path);
    if (r == -TC_E_LOCKED_DIR)
        snprintf(why, why_size, "the data directory %s is in use by another process", s->dir);
    else if (r < 0)
        snprintf(why, why_size, "cannot write to the data directory %s: %s", s->dir, tc_strerror(r));
    return r;
}

static int open_damaged(struct meta_server *s, enum replica_damage_kind kind, const char *what)
{
    int r = replica_mark_damaged(env_vfs(s->env), s->dir, kind, what);

    return r < 0 ? r : -TC_E_DAMAGED;
}

static int open_replica(struct meta_server *s, char *why, size_t why_size)
{
    struct replica_peer peers[REPLICA_PEERS_MAX];
    struct replica_config rc = {
        .id = s->cfg.id,
        .peers = peers,
        .n_peers = s->n_members,
        .dir = s->dir,
        .kv_mem = s->cfg.kv_mem,
        .heartbeat_ms = s->cfg.heartbeat_ms,
        .election_min_ms = s->cfg.election_min_ms,
        .election_max_ms = s->cfg.election_max_ms,
        .rules_off = s->cfg.raft_rules_off,
        .keep_entries = s->cfg.keep_entries,
        .ops = &server_replica_ops,
        .arg = s,
    };
    int r;

    if (s->n_members > REPLICA_PEERS_MAX || s->n_members == 0) {
        snprintf(why, why_size, "%u metadata members are configured, between 1 and %u are possible", s->n_members,
                 (unsigned)REPLICA_PEERS_MAX);
        return -TC_E_CONFIG;
    }
    for (unsigned i = 0; i < s->n_members; i++)
        peers[i] = (struct replica_peer){s->members[i].id, s->members[i].endpoint};
    r = replica_open(s->env, &rc, why, why_size, &s->replica);
    if (r < 0) {
        s->replica = NULL;
        return r;
    }
    r = server_store_open(s, replica_kv_path(s->replica));
    if (r == -TC_E_DAMAGED)
        return open_damaged(s, REPLICA_DAMAGE_KV, "the store (kv) is damaged: it does not open");
    if (r < 0)
        snprintf(why, why_size, "the store in %s does not open: %s", replica_kv_path(s->replica), tc_strerror(r));
    return r;
}

/* Files that are each whole and do not belong together. */
static int check_files(struct meta_server *s)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    uint64_t cluster = replica_cluster(s->replica), term = replica_term_at(s->replica, fsm_applied(s->fsm));

    if (g && cluster && cluster != map_cluster_tag(g->cluster.p))
        return open_damaged(s, REPLICA_DAMAGE_FOREIGN, "term and vote are of one cluster, the store is of another");
    if (term && fsm_applied(s->fsm) && term != fsm_applied_term(s->fsm))
        return open_damaged(s, REPLICA_DAMAGE_ALL, "the log is not the one that the store was made from");
    return 0;
}

static int check_cluster(const struct meta_server *s, const char *name, char *why, size_t why_size)
{
    const struct genesis *g = fsm_genesis(s->fsm);

    if (!g)
        return 0;
    if (name && (g->name.n != strlen(name) || memcmp(g->name.p, name, g->name.n) != 0)) {
        snprintf(why, why_size, "the data directory %s belongs to cluster \"%.*s\", the configuration is of \"%s\"", s->dir,
                 (int)g->name.n, g->name.p, name);
        return -TC_E_WRONG_CLUSTER;
    }
    if (members_outside(s))
        LOG_WARN("meta", "removed from the group, or its addition has not arrived here yet: takes no part", "id=%u", s->cfg.id);
    return 0;
}

static int open_port(struct meta_server *s, const char *endpoint, char *why, size_t why_size)
{
    int r;

    if (!endpoint) {
        snprintf(why, why_size, "no metadata member has the id %u", s->cfg.id);
        return -TC_E_CONFIG;
    }
    r = env_listen(s->env, endpoint, server_on_msg, s, &s->port);
    if (r == -TC_E_ADDRINUSE)
        snprintf(why, why_size, "cannot listen on %s: the port is in use by another process", endpoint);
    else if (r < 0)
        snprintf(why, why_size, "cannot listen on %s: %s", endpoint, tc_strerror(r));
    if (r < 0)
        s->port = NULL;
    return r;
}

/* From the directory to a member that runs. What is found damaged is set aside by the next try. */
static int open_log(struct meta_server *s, const char *cluster, char *why, size_t why_size)
{
    int r = -TC_E_DAMAGED;

    for (unsigned i = 0; i < OPEN_TRIES && r == -TC_E_DAMAGED; i++) {
        s->replica = replica_close(s->replica);
        if (s->kv)
            server_store_close(s);
        r = open_replica(s, why, why_size);
        if (!s->replica)
            return r; /* the only member there is */
        if (r == 0)
            r = check_cluster(s, cluster, why, why_size);
        if (r == 0)
            r = check_files(s);
        if (r == 0) {
            free(s->aside);
            s->aside = replica_aside_newest(env_vfs(s->env), s->dir, s->aside_why, sizeof s->aside_why);
            server_formatted(s);
            members_refresh(s);
            s->checkpoint_index = fsm_applied(s->fsm);
            r = replica_start(s->replica, fsm_applied(s->fsm));
            if (r < 0)
                snprintf(why, why_size, "log and store in %s do not fit together: %s", s->dir, tc_strerror(r));
        }
    }
    if (r == -TC_E_DAMAGED && !why[0])
        snprintf(why, why_size, "the data directory %s is damaged", s->dir);
    return r;
}

int meta_server_open(struct env *env, const struct meta_server_config *cfg, char *why, size_t why_size,
                     struct meta_server **ret_server)
{
    struct meta_server *s = tc_calloc(1, sizeof(*s));
    char none[1];
    int r;

    if (!why) {
        why = none;
        why_size = sizeof(none);
    }
    why[0] = 0;
    s->env = env;
    s->started = s->flush_at = env_now(env);
    config_copy(s, cfg);
    s->jobs = tc_calloc(1, sizeof(*s->jobs));
    env_queue_init(env, s->jobs, true);
    s->tick.fn = on_tick;
    s->turn = tc_calloc(1, sizeof(*s->turn));
    s->turn->task.fn = on_turn;
    s->turn->s = s;
    r = open_dir(s, why, why_size);
    if (r == 0)
        r = open_port(s, own_endpoint(s, cfg), why, why_size);
    if (r == 0)
        r = open_log(s, cfg->cluster, why, why_size);
    if (r < 0) {
        meta_server_close(s);
        return r;
    }
    s->kept = aside_keeper_new(env, s->dir, "aside");
    env_timer_set(env, &s->tick, s->started + TICK_MS * NS_PER_MS);
    *ret_server = s;
    return 0;
}

struct meta_server *meta_server_close(struct meta_server *s)
{
    struct meta_peer *p, *tmp;

    if (!s)
        return NULL;
    if (s->lead)
        lead_end(s);
    server_held_release(s, true);
    env_timer_cancel(s->env, &s->tick);
    env_timer_cancel(s->env, &s->stop_timer);
    s->replica = replica_close(s->replica);
    s->kept = aside_keeper_free(s->kept);
    anywhere_end(s);
    stores_free(s);
    env_port_close(s->port);
    server_store_close(s);
    backup_end(s);
    if (s->flush)
        s->flush->s = NULL;
    if (s->space)
        s->space->s = NULL;
    if (!s->flush && !s->space)
        free(s->jobs); /* else a job still belongs to it */
    s->turn->s = NULL;
    if (!s->turn->task.queued)
        free(s->turn);
    HASH_ITER(hh, s->peers, p, tmp)
    {
        HASH_DEL(s->peers, p);
        free(p);
    }
    vfs_close(s->lock);
    for (unsigned i = 0; i < s->n_members; i++)
        free((void *)(uintptr_t)s->members[i].endpoint);
    free(s->members);
    free(s->dir);
    free(s->aside);
    wire_arena_fini(&s->arena);
    free(s);
    return NULL;
}

/* ---- for tests ---- */

bool meta_server_leads(const struct meta_server *s)
{
    return s->lead && replica_lease_valid(s->replica);
}

struct fsm *meta_server_fsm(struct meta_server *s)
{
    return s->fsm && fsm_formatted(s->fsm) ? s->fsm : NULL;
}

void meta_server_group(const struct meta_server *s, struct replica_status *ret)
{
    replica_get_status(s->replica, ret);
}

uint64_t meta_server_applied(const struct meta_server *s)
{
    return s->fsm ? fsm_applied(s->fsm) : 0;
}
