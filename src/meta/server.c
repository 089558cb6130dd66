/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The member: its port and dispatch, entries from the log, checkpoints, start and stop (server.h).
 *
 * Requests for the leader that arrive between its election and its first applied entry, or while its lease is
 * unsure, are held and dispatched when it is ready; they are redirected when it stops to lead.
 */
#include "meta/server_internal.h"

#include <stdio.h>

#include <xxhash.h>

#include "common/test_rules.h"

/* ---- replies ---- */

/* What was read from a damaged store is nobody's answer: this member ends in the next turn, another one leads. */
static bool store_whole(struct meta_server *s)
{
    if (!s->fsm || fsm_store_error(s->fsm) == 0 || s->failed)
        return true;
    server_turn(s);
    return false;
}

void server_reply(struct meta_server *s, uint64_t peer, uint64_t id, uint16_t type, int status,
                  const struct wire_schema *schema, const void *body)
{
    struct wire_header h = {
        .kind = WIRE_REPLY, .type = type, .status = tc_error_to_wire(status), .id = id, .cluster = s->cluster_tag};

    if (!store_whole(s))
        return;
    s->n.replies++;
    (void)env_send(s->port, peer, wire_encode_frame(&h, schema, body), NULL); /* lost: the requester asks again */
}

void server_reply_body(struct meta_server *s, uint64_t peer, uint64_t id, uint16_t type, int status, struct slice body)
{
    struct wire_header h = {
        .kind = WIRE_REPLY, .type = type, .status = tc_error_to_wire(status), .id = id, .cluster = s->cluster_tag};

    if (!store_whole(s))
        return;
    s->n.replies++;
    (void)env_send(s->port, peer, wire_frame_of_body(&h, body), NULL); /* as above */
}

void server_leader_msg(struct meta_server *s, struct leader_msg *m)
{
    const char *endpoint;

    *m = (struct leader_msg){.term = replica_term(s->replica), .leader = replica_leader(s->replica)};
    endpoint = replica_endpoint(s->replica, m->leader);
    if (endpoint)
        m->endpoint = wire_str_of(endpoint);
}

void server_reply_not_leader(struct meta_server *s, uint64_t peer, uint64_t id, uint16_t type)
{
    struct leader_msg m;

    server_leader_msg(s, &m);
    server_reply(s, peer, id, type, -TC_E_NOT_LEADER, &leader_msg_schema, &m);
}

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

/* ---- held requests ---- */

void server_hold(struct meta_server *s, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct held *h;

    if (s->n_held >= HELD_MAX || s->held_bytes + head->len > HELD_BYTES_MAX)
        return; /* the requester asks again */
    h = tc_calloc(1, sizeof(*h));
    h->peer = peer;
    h->head = buf_ref(head);
    h->payload = payload ? buf_ref(payload) : NULL;
    h->at = env_now(s->env);
    DL_APPEND(s->held, h);
    s->n_held++;
    s->held_bytes += head->len;
    s->n.held++;
}

static void held_release(struct meta_server *s, bool drop)
{
    uint64_t now = env_now(s->env);

    for (unsigned n = s->n_held; n > 0; n--) {
        struct held *h = s->held;

        DL_DELETE(s->held, h);
        s->n_held--;
        s->held_bytes -= h->head->len;
        if (!drop && now - h->at < 3 * NS_PER_S)
            server_dispatch(s, h->peer, h->head, h->payload);
        buf_unref(h->head);
        buf_unref(h->payload);
        free(h);
    }
}

/* ---- dispatch ---- */

static void peer_seen(struct meta_server *s, uint64_t peer)
{
    struct meta_peer *p;

    HASH_FIND(hh, s->peers, &peer, sizeof(peer), p);
    if (!p) {
        if (HASH_COUNT(s->peers) >= PEERS_MAX) {
            p = s->peers; /* the oldest connection */
            HASH_DEL(s->peers, p);
        } else {
            p = tc_calloc(1, sizeof(*p));
        }
        p->peer = peer;
        HASH_ADD(hh, s->peers, peer, sizeof(p->peer), p);
    }
    p->heard_at = env_now(s->env);
}

/* Tell whoever spoke to this member who leads: a client need not wait for a silence to end. */
void server_announce(struct meta_server *s)
{
    struct wire_header h = {.kind = WIRE_NOTICE, .type = MSG_LEADER, .cluster = s->cluster_tag};
    struct meta_peer *p, *tmp;
    struct leader_msg m;
    struct buf *b;

    server_leader_msg(s, &m);
    b = wire_encode_frame(&h, &leader_msg_schema, &m);
    HASH_ITER(hh, s->peers, p, tmp)
    {
        if (env_now(s->env) - p->heard_at > 60 * NS_PER_S ||
            env_send(s->port, p->peer, buf_ref(b), NULL) == -TC_E_UNREACHABLE) {
            HASH_DEL(s->peers, p);
            free(p);
        }
    }
    buf_unref(b);
}

static bool type_is_mutation(uint16_t type)
{
    return type >= MSG_SESSION_OPEN && type <= MSG_COMMIT;
}

static void dispatch_leader(struct meta_server *s, struct request *q)
{
    switch (q->type) {
    case MSG_KEEPALIVE:
        keepalive(s, q);
        break;
    case MSG_LEASE_LIST:
        leases_list(s, q);
        break;
    case MSG_LEASE_RELEASE:
        lease_release_msg(s, q);
        break;
    case MSG_RECALL_ACK:
        recall_ack(s, q);
        break;
    case MSG_STORE_REGISTER:
        store_register(s, q);
        break;
    case MSG_NODE_ADMIN:
        node_admin(s, q);
        break;
    case MSG_STORE_BEAT:
        store_beat(s, q);
        break;
    case MSG_META_CHANGE:
        members_change(s, q);
        break;
    case MSG_DUMP:
        dump_request(s, q);
        break;
    case MSG_LOAD:
        load_request(s, q);
        break;
    default:
        if (type_is_mutation(q->type))
            mutation(s, q);
        else
            read_request(s, q);
    }
}

static bool has_ctx(const struct wire_schema *schema)
{
    return schema->n_fields && schema->fields[0].kind == WIRE_SUB && schema->fields[0].sub == &req_ctx_schema;
}

/* A well-formed request of a known type. */
static void dispatch_request(struct meta_server *s, const struct wire_header *h, struct request *q, struct buf *head,
                             struct buf *payload)
{
    switch (q->type) {
    case MSG_STATUS:
        status_request(s, q);
        return;
    case MSG_WHO_LEADS:
        who_leads(s, q);
        return;
    case MSG_FORMAT:
        format_request(s, q);
        return;
    case MSG_SCRUB:
        check_request(s, q);
        return;
    case MSG_CHECKPOINT:
        checkpoint_request(s, q);
        return;
    case MSG_DUMP:
        if (((const struct dump_req *)q->msg)->id) { /* it goes on here, whoever leads now */
            dump_request(s, q);
            return;
        }
        break;
    default:
        break;
    }
    if (!replica_formatted(s->replica) || !s->fsm || (fsm_loading(s->fsm) && q->type != MSG_LOAD)) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_NO_GENESIS, NULL, NULL);
        return;
    }
    if (h->cluster && s->cluster_tag && h->cluster != s->cluster_tag) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_WRONG_CLUSTER, NULL, NULL);
        return;
    }
    if (!s->failed && anywhere_begin(s, q))
        return;
    if (!replica_leads(s->replica) || s->failed || (q->ctx && q->ctx->anywhere)) {
        server_reply_not_leader(s, q->peer, q->id, q->type);
        return;
    }
    if (!server_ready(s)) {
        server_hold(s, q->peer, head, payload);
        return;
    }
    dispatch_leader(s, q);
}

static void bad_message(struct meta_server *s, uint64_t peer, const struct wire_header *h, int err)
{
    s->n.bad++;
    LOG_WARN("meta", "a message was refused", "type=%s error=\"%s\"", msg_name(h->type), tc_strerror(err));
    if (h->kind == WIRE_REQUEST)
        server_reply(s, peer, h->id, h->type, err, NULL, NULL);
}

void server_dispatch(struct meta_server *s, uint64_t peer, struct buf *head, struct buf *payload)
{
    union {
        max_align_t align;
        uint8_t bytes[MSG_STRUCT_MAX];
    } msg;
    const struct wire_schema *schema;
    struct wire_header h = {0};
    struct slice body;
    struct request q;
    int r;

    s->n.requests++;
    r = wire_check_frame(slice_of(head->data, head->len), &h, &body);
    if (r < 0) {
        bad_message(s, peer, &h, r);
        return;
    }
    if (h.type == MSG_RAFT) {
        replica_recv(s->replica, &h, body, payload);
        return;
    }
    if (h.kind != WIRE_REQUEST)
        return; /* an answer that nobody here waits for */
    peer_seen(s, peer);
    schema = schema_of(h.type, WIRE_REQUEST);
    if (!schema || h.type >= MSG_RAFT || schema->size > sizeof(msg) ||
        (h.type >= MSG_WRITE && h.type < MSG_RAFT && h.type != MSG_SCRUB)) {
        bad_message(s, peer, &h, -TC_E_BAD_MESSAGE);
        return;
    }
    wire_arena_reset(&s->arena);
    r = wire_decode(body, schema, &s->arena, &msg);
    if (r < 0) {
        bad_message(s, peer, &h, r);
        return;
    }
    q = (struct request){.peer = peer, .id = h.id, .type = h.type, .frame = head, .body = body, .msg = &msg};
    if (has_ctx(schema))
        q.ctx = q.msg;
    dispatch_request(s, &h, &q, head, payload);
}

static void on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    server_dispatch(arg, peer, head, payload);
}

/* ---- the log ---- */

static void formatted(struct meta_server *s)
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
        formatted(s);
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

static int store_open(struct meta_server *s, const char *path)
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

static void store_close(struct meta_server *s)
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
    store_close(s);
    r = store_open(s, kv_path);
    if (r < 0) {
        server_fail(s, r, "the store that the leader sent does not open");
        return;
    }
    LOG_INFO("meta", "filled by the leader", "index=%llu", (unsigned long long)index);
    formatted(s);
    members_refresh(s);
}

static void on_failed(void *arg, int err)
{
    server_fail(arg, err, err == -TC_E_DAMAGED ? "its files cannot be used" : "the log cannot be written");
}

static const struct replica_ops replica_callbacks = {
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

static void space_tick(struct meta_server *s)
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
        held_release(s, false);
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
    space_tick(s);
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
        .ops = &replica_callbacks,
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
    r = store_open(s, replica_kv_path(s->replica));
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
    r = env_listen(s->env, endpoint, on_msg, s, &s->port);
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
            store_close(s);
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
            formatted(s);
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
    held_release(s, true);
    env_timer_cancel(s->env, &s->tick);
    env_timer_cancel(s->env, &s->stop_timer);
    s->replica = replica_close(s->replica);
    s->kept = aside_keeper_free(s->kept);
    anywhere_end(s);
    stores_free(s);
    env_port_close(s->port);
    store_close(s);
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
