/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life of a replica, steps of its core, callbacks to its owner.
 *
 * The core is stepped from timers, messages, finished jobs and the flush task, never from inside another
 * step; the owner is called from the work task alone. A closed replica stays in memory until its last
 * job is over.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/test_rules.h"
#include "common/schema.h"
#include "meta/replica_int.h"

enum { APPLY_PER_TURN = 256, KEEP_BYTES_MAX = 32 << 20 };

/* -- steps ------------------------------------------------------------------------------------ */

static void replica_send(struct replica *r, const struct raft_msg *m)
{
    struct replica_peer_link *l = replica_link(r, m->to);
    struct buf *payload;
    struct buf *head;
    bool stranger;

    if (!l || !l->port)
        return;
    stranger = l->heard_at + NS_PER_S < env_now(r->env); /* perhaps it does not know where we are */
    head = raft_wire_encode(m, r->state.cluster, stranger ? replica_endpoint(r, r->id) : NULL, &payload);
    /* What is refused is lost, as on any network: Raft sends it again. */
    (void)env_send(l->port, 0, head, payload);
}

static void lose(struct replica *r, void *cookie)
{
    if (!cookie)
        return;
    if (r->n_lost == r->cap_lost) {
        r->cap_lost = r->cap_lost ? r->cap_lost * 2 : 64;
        r->lost = tc_realloc(r->lost, r->cap_lost * sizeof r->lost[0]);
    }
    r->lost[r->n_lost++] = cookie;
}

static void lose_all(struct replica *r)
{
    for (; r->prop_n > 0; r->prop_n--) {
        lose(r, r->proposals[r->prop_head].cookie);
        r->prop_head = (r->prop_head + 1) % r->prop_cap;
    }
}

static void replica_role(struct replica *r)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    if (r->leading != 0 && (s.role != RAFT_LEADER || s.term != r->leading))
        lose_all(r);
    r->leading = s.role == RAFT_LEADER ? s.term : 0;
    r->role_changed = true;
    replica_work(r);
}

static void obey(struct replica *r, const struct raft_update *up)
{
    if (up->flags & RAFT_SAVE_STATE)
        replica_save_state(r, up->state_seq, up->term, up->vote);
    if (up->flags & RAFT_SAVE_ENTRIES)
        replica_save_entries(r, up->save_seq, up->save_first, up->save_last);
    for (uint32_t i = 0; i < up->n_msgs; i++)
        replica_send(r, &up->msgs[i]);
    if (up->flags & RAFT_APPLY) {
        r->apply_to = up->apply_to;
        replica_work(r);
    }
    if (up->flags & RAFT_ROLE)
        replica_role(r);
    if (up->flags & RAFT_READS)
        replica_reads_told(r, up);
    if (up->flags & RAFT_CONFIG) {
        r->members_changed = true;
        replica_work(r);
    }
    for (uint32_t i = 0; i < up->n_wants; i++)
        replica_snap_want(r, &up->wants[i]);
    if (up->flags & RAFT_STORE_PIECE)
        replica_snap_store(r, up->piece);
    env_timer_set(r->env, &r->timer, up->deadline);
}

int replica_step_err(struct replica *r, struct raft_event *ev)
{
    struct raft_update up;
    int err;

    ASSERT(r->started && !r->closing);
    if (r->failed)
        return -TC_E_IO;
    ev->now = env_now(r->env);
    err = raft_step(r->core, ev, &up);
    obey(r, &up);
    return err;
}

void replica_step(struct replica *r, struct raft_event *ev)
{
    (void)replica_step_err(r, ev); /* of events that cannot fail */
}

void replica_fail(struct replica *r, int err, const char *what)
{
    if (r->failed || r->closing)
        return;
    LOG_ERR("raft", err == -TC_E_DAMAGED ? "files of this member cannot be used" : "disk of the log failed",
            "what=\"%s\" error=%s", what, tc_error_name(err));
    r->failed = true;
    r->fail_err = err;
    env_timer_cancel(r->env, &r->timer);
    lose_all(r);
    r->told_any = false;
    replica_work(r);
}

static void on_timer(struct env_timer *t)
{
    struct replica *r = container_of(t, struct replica, timer);
    struct raft_event ev = {.type = RAFT_EV_TICK};

    replica_step(r, &ev);
}

static void on_flush(struct env_task *t)
{
    struct replica *r = container_of(t, struct replica, flush_task);
    struct raft_event ev = {.type = RAFT_EV_FLUSH};

    replica_reads_ask(r);
    replica_step(r, &ev);
}

static bool cluster_matches(struct replica *r, const struct wire_header *h,
                            const struct raft_msg *m)
{
    if (r->state.cluster != 0 && h->cluster != 0 && h->cluster != r->state.cluster) {
        if (r->wrong_cluster++ % 100 == 0)
            LOG_WARN("raft", "message of another cluster refused", "from=%" PRIu64 " n=%" PRIu64, m->from,
                     r->wrong_cluster);
        r->wrong_cluster_at = env_now(r->env);
        replica_foreign(r, m->from, h->cluster, m->type == RAFT_MSG_APPEND || m->type == RAFT_MSG_SNAPSHOT);
        return false;
    }
    if (h->cluster != 0)
        r->own_heard = true;
    /* A blank member learns its cluster from the leader that fills it. */
    if (r->state.cluster == 0 && h->cluster != 0 &&
        (m->type == RAFT_MSG_APPEND || m->type == RAFT_MSG_SNAPSHOT)) {
        r->state.cluster = h->cluster;
        replica_save_state(r, r->state_seq, r->state.term, r->state.vote);
    }
    return true;
}

void replica_recv(struct replica *r, const struct wire_header *h, struct slice body,
                  struct buf *payload)
{
    struct raft_msg m;
    struct raft_event ev = {.type = RAFT_EV_RECV, .recv = &m};
    struct replica_peer_link *l;

    if (!r->started || r->closing || r->failed || r->format.busy)
        return;
    if (raft_wire_decode(body, payload, &r->scratch, &m) < 0) {
        LOG_WARN("raft", "malformed message dropped", "bytes=%zu", body.len);
        return;
    }
    if (m.to != r->id || m.from == r->id || !cluster_matches(r, h, &m))
        return;
    l = replica_link(r, m.from);
    if (!l)
        l = replica_learn(r, m.from, r->scratch.endpoint);
    if (!l)
        return;
    l->heard_at = env_now(r->env);
    replica_step(r, &ev);
    if (raft_parted(r->core) && !r->parted)
        LOG_ERR("raft", "the leader lacks what was committed here: it is of members that were given up; nothing of it is taken",
                "leader=%" PRIu64, m.from);
    r->parted = raft_parted(r->core);
}

/* -- the owner is called ---------------------------------------------------------------------- */

void replica_work(struct replica *r)
{
    env_defer(r->env, &r->work_task);
}

static void *cookie_of(struct replica *r, uint64_t index, uint64_t term)
{
    while (r->prop_n > 0) {
        struct replica_proposal p = r->proposals[r->prop_head];

        if (p.index > index)
            return NULL;
        r->prop_head = (r->prop_head + 1) % r->prop_cap;
        r->prop_n--;
        if (p.index == index && p.term == term)
            return p.cookie;
        lose(r, p.cookie);
    }
    return NULL;
}

/* What the state machine sees of an entry. */
struct slice replica_entry_data(const struct raft_entry *e)
{
    struct raft_config c;
    int len = 0;

    if (e->type == RAFT_ENTRY_NOOP)
        return (struct slice){0};
    if (e->type == RAFT_ENTRY_CONFIG)
        len = raft_config_decode(e->data, e->len, &c);
    ASSERT(len >= 0);
    return slice_of(e->data + len, e->len - (uint32_t)len);
}

static void work_apply(struct replica *r)
{
    struct raft_event ev = {.type = RAFT_EV_APPLIED};
    uint64_t to = MIN(r->apply_to, r->applied + APPLY_PER_TURN);

    if (r->applied >= to)
        return;
    while (r->applied < to && !r->closing && !r->failed && !r->in.installed) {
        const struct raft_entry *at = raft_entry_at(r->core, r->applied + 1);
        struct raft_entry e;

        ASSERT(at);
        e = *at; /* the callback may propose, which moves it; its data stays */
        r->ops->apply(r->arg, e.index, e.term, replica_entry_data(&e), cookie_of(r, e.index, e.term));
        r->applied = e.index;
    }
    if (r->closing || r->failed)
        return;
    ev.index = r->applied;
    replica_step(r, &ev);
    if (r->applied < r->apply_to)
        replica_work(r);
}

static void work_lost(struct replica *r)
{
    void **lost = r->lost;
    size_t n = r->n_lost;

    r->lost = NULL;
    r->n_lost = r->cap_lost = 0;
    for (size_t i = 0; i < n && !r->closing; i++)
        r->ops->lost(r->arg, lost[i], -TC_E_NOT_LEADER);
    free(lost);
}

static void work_role(struct replica *r)
{
    struct raft_status s;
    bool self;

    if (!r->role_changed)
        return;
    r->role_changed = false;
    raft_get_status(r->core, &s);
    self = s.role == RAFT_LEADER;
    if (r->told_any && r->told_term == s.term && r->told_leader == s.leader && r->told_self == self)
        return;
    r->told_any = true;
    r->told_term = s.term;
    r->told_leader = s.leader;
    r->told_self = self;
    if (s.leader != 0)
        LOG_INFO("raft", "leader", "term=%" PRIu64 " leader=%" PRIu64 " self=%d", s.term, s.leader,
                 self);
    r->ops->leader_changed(r->arg, s.term, (uint32_t)s.leader, self);
}

static void work_installed(struct replica *r)
{
    char *old = r->kv_path;

    if (!r->in.installed)
        return;
    r->in.installed = false;
    replica_snap_drop_out(r);
    lose_all(r);
    r->kv_path = TAKE(r->in.kv_path);
    r->applied = r->in.index;
    r->apply_to = MAX(r->apply_to, r->applied);
    LOG_INFO("raft", "snapshot installed", "index=%" PRIu64, r->in.index);
    r->ops->snapshot_installed(r->arg, r->kv_path, r->in.index, r->in.term);
    replica_dir_remove(env_vfs(r->env), old);
    free(old);
}

static void work_mended(struct replica *r)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    if (!s.voter || s.last == 0)
        return;
    LOG_INFO("raft", "this member is whole and votes again", "was=\"%s\"", r->damage);
    r->damage = NULL;
}

static void on_work(struct env_task *t)
{
    struct replica *r = container_of(t, struct replica, work_task);

    r->jobs++; /* a callback may close it */
    if (r->failed) {
        work_lost(r);
        if (!r->closing)
            r->ops->failed(r->arg, r->fail_err);
        (void)replica_job_over(r);
        return;
    }
    work_installed(r);
    if (!r->closing)
        work_lost(r);
    if (!r->closing)
        replica_members_work(r);
    if (!r->closing)
        work_role(r);
    if (!r->closing)
        work_apply(r);
    if (!r->closing && !r->failed)
        replica_snap_work(r);
    if (!r->closing && r->damage)
        work_mended(r);
    if (!r->closing && !r->failed)
        replica_reads_work(r);
    if (!r->closing && r->n_lost > 0)
        replica_work(r);
    (void)replica_job_over(r);
}

/* -- life ------------------------------------------------------------------------------------- */

static void replica_free(struct replica *r)
{
    for (unsigned i = 0; i < r->n_peers; i++)
        free(r->peers[i].endpoint);
    raft_free(r->core);
    buf_unref(r->format.entry);
    free(r->scratch.entries);
    free(r->marks);
    free(r->proposals);
    free(r->lost);
    free(r->reads);
    free(r->in.kv_path);
    free(r->kv_path);
    free(r->dir);
    free(r);
}

bool replica_job_over(struct replica *r)
{
    ASSERT(r->jobs > 0);
    r->jobs--;
    if (!r->closing)
        return false;
    if (r->jobs == 0)
        replica_free(r);
    return true;
}

struct replica *replica_close(struct replica *r)
{
    if (!r)
        return NULL;
    r->closing = true;
    env_timer_cancel(r->env, &r->timer);
    env_timer_cancel(r->env, &r->retry_timer);
    env_defer_cancel(r->env, &r->flush_task);
    env_defer_cancel(r->env, &r->work_task);
    for (unsigned i = 0; i < r->n_peers; i++)
        env_port_close(r->peers[i].port);
    replica_snap_drop_out(r);
    replica_log_close(r);
    if (r->jobs == 0)
        replica_free(r);
    return NULL;
}

void replica_core_new(struct replica *r)
{
    struct raft_cfg c = r->raft_cfg;

    c.id = r->id;
    c.now = env_now(r->env);
    c.seed = env_random(r->env);
    c.term = r->state.term;
    c.vote = r->state.vote;
    c.incarnation = r->state.incarnation;
    c.base_index = r->base.index;
    c.base_term = r->base.term;
    c.base_config = r->base.config;
    raft_free(r->core);
    r->core = raft_new(&c);
}

static int config_copy(struct replica *r, const struct replica_config *cfg)
{
    r->ops = cfg->ops;
    r->arg = cfg->arg;
    r->id = cfg->id;
    r->dir = tc_strdup(cfg->dir);
    r->kv_mem = cfg->kv_mem;
    r->keep = cfg->keep_entries ? cfg->keep_entries : (uint32_t)tc_test_value("TERCET_KEEP_ENTRIES", 10000);
    r->raft_cfg.heartbeat = cfg->heartbeat_ms * NS_PER_MS;
    r->raft_cfg.election_min = cfg->election_min_ms * NS_PER_MS;
    r->raft_cfg.election_max = cfg->election_max_ms * NS_PER_MS;
    r->raft_cfg.rules_off = cfg->rules_off | (uint32_t)tc_test_value("TERCET_RAFT_RULES_OFF", 0);
    if (cfg->id == 0 || cfg->n_peers > REPLICA_PEERS_MAX)
        return -TC_E_CONFIG;
    for (unsigned i = 0; i < cfg->n_peers; i++) {
        if (cfg->peers[i].id == 0 || replica_link(r, cfg->peers[i].id))
            return -TC_E_CONFIG;
        r->peers[i].id = cfg->peers[i].id;
        r->peers[i].endpoint = tc_strdup(cfg->peers[i].endpoint);
        r->n_peers++;
    }
    return 0;
}

int replica_open(struct env *env, const struct replica_config *cfg, char *why, size_t why_size,
                 struct replica **ret)
{
    struct replica *r = tc_calloc(1, sizeof *r);
    int err;

    r->env = env;
    r->timer.fn = on_timer;
    r->flush_task.fn = on_flush;
    r->work_task.fn = on_work;
    env_queue_init(env, &r->queue, false);
    env_queue_init(env, &r->check_queue, false);
    err = config_copy(r, cfg);
    if (err < 0)
        snprintf(why, why_size, "members of the group: ids must be above 0, different, at most %d",
                 REPLICA_PEERS_MAX);
    else
        err = replica_log_open(r, why, why_size);
    if (err < 0) {
        replica_close(r);
        return err;
    }
    r->kv_path = tc_asprintf("%s/kv-%" PRIu64, r->dir, r->base.kv_gen);
    *ret = r;
    return 0;
}

const char *replica_kv_path(const struct replica *r)
{
    return r->kv_path;
}

struct slice replica_genesis(const struct replica *r)
{
    const struct raft_entry *e = raft_entry_at(r->core, 1);
    struct raft_status s;
    struct raft_config c;
    int len;

    raft_get_status(r->core, &s);
    if (s.last != 1 || !e || e->type != RAFT_ENTRY_CONFIG)
        return slice_of(NULL, 0);
    len = raft_config_decode(e->data, e->len, &c);
    return len < 0 ? slice_of(NULL, 0) : slice_of(e->data + len, e->len - (uint32_t)len);
}

bool replica_formatted(const struct replica *r)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    return s.last > 0;
}

/* -- requests --------------------------------------------------------------------------------- */

static void remember(struct replica *r, uint64_t index, void *cookie)
{
    struct replica_proposal *p;

    if (r->prop_n == r->prop_cap) {
        size_t cap = r->prop_cap ? r->prop_cap * 2 : 256;
        struct replica_proposal *bigger = tc_malloc(cap * sizeof *bigger);

        for (size_t i = 0; i < r->prop_n; i++)
            bigger[i] = r->proposals[(r->prop_head + i) % r->prop_cap];
        free(r->proposals);
        r->proposals = bigger;
        r->prop_cap = cap;
        r->prop_head = 0;
    }
    p = &r->proposals[(r->prop_head + r->prop_n++) % r->prop_cap];
    *p = (struct replica_proposal){index, raft_term_at(r->core, index), cookie};
}

int replica_propose(struct replica *r, struct slice data, void *cookie, uint64_t *ret_index)
{
    uint64_t index;
    int err;

    if (data.len > REPLICA_ENTRY_MAX)
        return -TC_E_LIMIT;
    if (!r->started || r->failed || r->closing)
        return -TC_E_NOT_LEADER;
    err = raft_propose(r->core, data.data, (uint32_t)data.len, &index);
    if (err < 0)
        return err;
    remember(r, index, cookie);
    env_defer(r->env, &r->flush_task);
    if (ret_index)
        *ret_index = index;
    return 0;
}

int replica_transfer(struct replica *r, uint32_t id)
{
    struct raft_event ev = {.type = RAFT_EV_TRANSFER, .peer = id};

    return r->started ? replica_step_err(r, &ev) : -TC_E_NOT_LEADER;
}

void replica_compact(struct replica *r, uint64_t index)
{
    uint64_t bytes = 0, keep = 0;

    index = MIN(index, r->applied);
    /* For members that are a little behind: some entries, and not too many bytes. */
    while (keep < r->keep && keep < index) {
        const struct raft_entry *e = raft_entry_at(r->core, index - keep);

        if (!e || bytes + e->len > KEEP_BYTES_MAX)
            break;
        bytes += e->len;
        keep++;
    }
    if (index <= keep || index - keep <= r->compact_to)
        return;
    r->compact_to = index - keep;
    replica_compact_next(r);
}

/* -- start ------------------------------------------------------------------------------------ */

/* Last, for it needs all of the above: from here on the core lives. */
int replica_start(struct replica *r, uint64_t applied)
{
    struct raft_event ev = {.type = RAFT_EV_FLUSH};
    int err = raft_restore_done(r->core, applied);

    ASSERT(!r->started);
    if (err == -TC_E_DAMAGED) {
        char why[REPLICA_WHY_MAX];
        int marked;

        snprintf(why, sizeof why, "log and store do not meet: the store is as of entry %" PRIu64, applied);
        marked = replica_mark_damaged(env_vfs(r->env), r->dir, REPLICA_DAMAGE_ALL, why);
        if (marked < 0)
            return marked;
    }
    if (err < 0)
        return err;
    for (unsigned i = 0; i < r->n_peers; i++) {
        err = replica_link_open(r, &r->peers[i]);
        if (err < 0)
            return err;
    }
    r->applied = r->apply_to = applied;
    r->compact_to = r->base.index;
    r->started = true;
    r->role_changed = true;
    replica_work(r);
    replica_step(r, &ev);
    return 0;
}
