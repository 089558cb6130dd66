/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A term as leader: sessions as this member hears them, keepalives, lists, recalls on their way, expiry.
 *
 * A session's struct exists from lead_begin() (or the entry that opened it) to the entry that ends it. Times
 * of liveness are this member's own and begin anew with each term (PROTOCOL 2.4).
 */
#include "meta/server_internal.h"

#include "common/test_rules.h"

/* A session that does not know an X gives it back when it learns of it; after so long we take it. */
#define DISOWNED_NS (2 * NS_PER_S)

static uint64_t ttl_ns(const struct meta_server *s)
{
    return s->cfg.session_ttl_ms * NS_PER_MS / 10 * (TC_RULE(LEADER_TTL) ? 11 : 9);
}

static uint64_t caching_ns(const struct meta_server *s)
{
    return s->cfg.caching_ms * NS_PER_MS / 10 * 11;
}

/* ---- sessions ---- */

struct meta_session *lead_session(struct meta_server *s, uint64_t id)
{
    struct meta_session *x;

    HASH_FIND(hh, s->lead->sessions, &id, sizeof(id), x);
    return x;
}

static struct meta_session *session_add(struct meta_server *s, uint64_t id, uint32_t incarnation, bool fresh)
{
    struct meta_session *x = tc_calloc(1, sizeof(*x));

    x->lease.id = id;
    x->incarnation = incarnation;
    x->heard_at = env_now(s->env);
    if (!fresh && !TC_RULE(TTL_ANEW))
        x->heard_at -= MIN(x->heard_at, 2 * ttl_ns(s));
    x->old = !fresh;
    lease_session_init(s->lead->leases, &x->lease, fresh);
    HASH_ADD(hh, s->lead->sessions, lease.id, sizeof(x->lease.id), x);
    return x;
}

/* What may conflict with an unknown S need not wait any more. */
static void grace_over(struct meta_server *s)
{
    struct meta_op *op, *tmp;

    if (!s->lead->grace)
        return;
    s->lead->grace = false;
    DL_FOREACH_SAFE(s->lead->ops, op, tmp)
    {
        if (op->kind == OP_MUTATION && op->lease.state == LEASE_OP_QUEUED)
            op_ready(op);
    }
}

static void session_asserted(struct meta_server *s, struct meta_session *x)
{
    if (!x->old)
        return;
    x->old = false;
    s->lead->unasserted--;
    if (!s->lead->unasserted) {
        s->lead->settled = true;
        grace_over(s);
    }
}

static void session_gone(struct meta_server *s, struct meta_session *x)
{
    HASH_DEL(s->lead->sessions, x);
    lease_session_end(s->lead->leases, &x->lease);
    session_asserted(s, x);
    free(x);
}

bool session_silent(const struct meta_server *s, const struct meta_session *x)
{
    return env_now(s->env) - x->heard_at > ttl_ns(s);
}

void session_expire(struct meta_server *s, struct meta_session *x, const char *why)
{
    struct dead_session dead = {x->lease.id, x->incarnation};
    struct cmd_sessions cmd = {{&dead, 1}};

    if (x->expiring)
        return;
    if (internal_propose(s, CMD_SESSION_EXPIRE, &cmd_sessions_schema, &cmd, NULL, NULL) < 0)
        return;
    x->expiring = true;
    s->n.expired++;
    LOG_WARN("meta", "a session expires", "session=%llu why=\"%s\" silent_ms=%llu", (unsigned long long)x->lease.id, why,
             (unsigned long long)((env_now(s->env) - x->heard_at) / NS_PER_MS));
}

struct meta_session *session_of(struct meta_server *s, const struct request *q)
{
    struct meta_session *x = lead_session(s, q->ctx->session);

    if (!x || (x->expiring && TC_RULE(EXPIRING_SILENCE))) {
        struct fsm_session f;
        bool known = fsm_session(s->fsm, q->ctx->session, &f);

        if (x)
            return NULL; /* its expiry is in the log: silence until it is applied */
        server_reply(s, q->peer, q->id, q->type, known ? -TC_E_SESSION_EXPIRED : -TC_E_SESSION_UNKNOWN, NULL, NULL);
        return NULL;
    }
    if (!q->op)
        x->peer = q->peer;
    return x;
}

/* ---- the term ---- */

void lead_begin(struct meta_server *s)
{
    struct lead *l = tc_calloc(1, sizeof(*l));
    struct fsm_session f;

    ASSERT(!s->lead);
    s->lead = l;
    l->term = s->leads_term;
    l->began = env_now(s->env);
    l->leases = leases_new(l->term);
    for (uint64_t after = 0; fsm_session_next(s->fsm, after, &f); after = f.id) {
        if (f.state != FSM_SESSION_LIVE)
            continue;
        session_add(s, f.id, f.incarnation, false);
        l->unasserted++;
    }
    l->grace = l->unasserted > 0 && !(s->cfg.rules_off & META_RULE_GRACE);
    l->settled = l->unasserted == 0;
    server_announce(s);
}

void lead_end(struct meta_server *s)
{
    struct lead *l = s->lead;
    struct meta_session *x, *xtmp;
    struct meta_op *op, *tmp;

    if (!l)
        return;
    recovery_end(s);
    HASH_ITER(hh, l->sessions, x, xtmp)
    {
        HASH_DEL(l->sessions, x);
        lease_session_end(l->leases, &x->lease);
        free(x);
    }
    leases_free(l->leases);
    l->leases = NULL;
    DL_FOREACH_SAFE(l->ops, op, tmp)
    {
        for (unsigned i = 0; i < op->n_waiters && !op->answered; i++)
            server_reply_not_leader(s, op->waiters[i].peer, op->waiters[i].id, op->type);
        op_free(op);
    }
    s->lead = NULL;
    placement_end(l);
    free(l);
}

/* ---- what entries changed ---- */

static void effect(struct meta_server *s, const struct fsm_effect *e, const struct fsm_result *res)
{
    struct leases *ls = s->lead->leases;
    struct meta_session *x = NULL;
    struct fsm_session f;

    if (e->kind <= FSM_X_ENDED || (e->kind >= FSM_SESSION_OPENED && e->kind <= FSM_SESSION_FENCED) ||
        e->kind == FSM_LOCKS_ENDED)
        x = lead_session(s, e->session);
    (void)res;
    switch ((enum fsm_effect_kind)e->kind) {
    case FSM_X_GRANTED:
        if (x)
            lease_x_granted(ls, &x->lease, e->ino, e->gterm, e->gcount);
        break;
    case FSM_X_ENDED:
        if (x)
            lease_x_ended(ls, &x->lease, e->ino, e->gterm, e->gcount, e->keep, e->gcount2);
        break;
    case FSM_SESSION_OPENED:
        if (!x && fsm_session(s->fsm, e->session, &f))
            session_add(s, e->session, f.incarnation, true);
        break;
    case FSM_SESSION_ENDED:
        if (x)
            session_gone(s, x);
        break;
    case FSM_SESSION_FENCED:
        if (x)
            x->incarnation = (uint32_t)e->epoch;
        break;
    case FSM_MENDED:
        lease_recovered(ls, e->ino);
        break;
    case FSM_UNCLEAN:
        s->lead->sweep_at = 0; /* soon */
        break;
    case FSM_ORPHANED:
    case FSM_REAPED:
    case FSM_X_EPOCH:
    case FSM_ATTR_CHANGED:
    case FSM_MAP_CHANGED:
    case FSM_GC_ADDED:
    case FSM_PG_TABLE:
        break;
    case FSM_LOCKS_ENDED:
        if (x)
            lease_locks_ended(ls, &x->lease, e->ino);
        break;
    case FSM_STORE_CHANGED:
        placement_soon(s);
        break;
    }
}

void lead_effects(struct meta_server *s, const struct fsm_result *res)
{
    for (uint32_t i = 0; i < res->n_effects; i++)
        effect(s, &res->effects[i], res);
}

/* ---- keepalives, lists ---- */

void keepalive(struct meta_server *s, const struct request *q)
{
    const struct keepalive_req *req = q->msg;
    struct meta_session *x = session_of(s, q);
    struct keepalive_res res;
    bool current;

    if (!x)
        return;
    x->heard_at = env_now(s->env);
    if (req->progress != x->progress)
        lease_progress(&x->lease, x->heard_at);
    x->progress = req->progress;
    current = q->ctx->gen_term == s->lead->term && q->ctx->gen_n == x->lease.gen_n;
    res = (struct keepalive_res){
        .gen_term = s->lead->term,
        .gen_n = x->lease.gen_n,
        .caching = req->caching && current && x->lease.asserted,
        .want_list = !current || !x->lease.asserted,
        .time = server_time(s),
        .map_epoch = fsm_map_epoch(s->fsm),
        .incarnation = x->incarnation,
        .tight = stores_tight(s),
        .takes_s = true,
    };
    if (res.caching)
        x->lease.caching_until = x->heard_at + caching_ns(s);
    server_reply(s, q->peer, q->id, q->type, 0, &keepalive_res_schema, &res);
}

void leases_list(struct meta_server *s, const struct request *q)
{
    const struct lease_list_req *req = q->msg;
    struct meta_session *x = session_of(s, q);
    bool complete, current;

    if (!x)
        return;
    complete = lease_session_list(s->lead->leases, &x->lease, req);
    current = req->gen_term == s->lead->term && req->gen_n == x->lease.gen_n;
    if (current && x->lease.asserted && TC_RULE(LIST_RIGHT)) /* before anything goes on: the S that it asserts has to be recalled */
        x->lease.caching_until = env_now(s->env) + caching_ns(s);
    if (complete) {
        session_asserted(s, x);
        server_turn(s);
    }
    server_reply(s, q->peer, q->id, q->type, current ? 0 : -TC_E_CROSSED, NULL, NULL);
}

void lease_release_msg(struct meta_server *s, const struct request *q)
{
    const struct lease_release_req *req = q->msg;
    struct meta_session *x = session_of(s, q);

    if (!x)
        return;
    for (uint32_t i = 0; i < req->items.n; i++)
        leases_release(s->lead->leases, &x->lease, &req->items.items[i]);
    server_reply(s, q->peer, q->id, q->type, 0, NULL, NULL);
}

void recall_ack(struct meta_server *s, const struct request *q)
{
    const struct recall_ack_req *req = q->msg;
    struct meta_session *x = session_of(s, q);

    if (!x)
        return;
    for (uint32_t i = 0; i < req->items.n; i++) {
        struct lease_recall *c = leases_ack(s->lead->leases, &x->lease, &req->items.items[i]);

        if (c && !c->disowned_at)
            c->disowned_at = env_now(s->env); /* the answer that granted it may be on its way: session_tick() */
    }
    server_reply(s, q->peer, q->id, q->type, 0, NULL, NULL);
    server_turn(s);
}

/* ---- recalls on their way ---- */

static void recalls_send(struct meta_server *s, struct meta_session *x, uint64_t now)
{
    struct wire_header h = {.kind = WIRE_NOTICE, .type = MSG_RECALL, .cluster = s->cluster_tag};
    struct recall_msg m = {.session = x->lease.id, .term = s->lead->term};
    struct recall_item items[RECALL_BATCH];
    struct lease_recall *c;
    uint64_t resend = s->cfg.recall_resend_ms * NS_PER_MS;

    m.items.items = items;
    DL_FOREACH(x->lease.recalls, c)
    {
        if (c->sent_at && now - c->sent_at < resend)
            continue;
        if (m.items.n == RECALL_BATCH)
            break; /* the rest with the next turn */
        if (c->sent_at)
            s->n.recall_resends++;
        else
            s->n.recalls++;
        c->sent_at = now;
        items[m.items.n++] = (struct recall_item){
            .ino = c->kind == RECALL_LOCKS ? c->ino & ~LEASE_LOCKS_OF(0) : c->ino,
            .gterm = c->gterm,
            .gcount = c->gcount,
            .kind = c->kind,
            .recall = c->number,
            .orphan = c->orphan,
            .name = {c->name, c->name_len},
        };
    }
    if (m.items.n && x->peer)
        (void)env_send(s->port, x->peer, wire_encode_frame(&h, &recall_msg_schema, &m), NULL); /* resent if lost */
}

static void recalls_turn(struct meta_server *s)
{
    uint64_t now = env_now(s->env);
    struct meta_session *x, *tmp;

    HASH_ITER(hh, s->lead->sessions, x, tmp)
    {
        if (x->lease.recalls)
            recalls_send(s, x, now);
    }
}

void lead_turn(struct meta_server *s)
{
    struct lease_op *op;
    unsigned n = 0;

    if (!server_ready(s))
        return; /* the tick comes back to it */
    while ((op = lease_ready_next(s->lead->leases))) {
        op_ready(container_of(op, struct meta_op, lease));
        if (++n >= 1000) { /* let others in */
            server_turn(s);
            break;
        }
    }
    recovery_turn(s);
    recalls_turn(s);
}

/* ---- expiry ---- */

static void session_tick(struct meta_server *s, struct meta_session *x, uint64_t now)
{
    struct lease_recall *c;

    if (x->expiring)
        return;
    lease_expire_caching(s->lead->leases, &x->lease, now);
    if (now - x->heard_at >= s->cfg.session_idle_ms * NS_PER_MS && TC_RULE(IDLE_EXPIRY)) {
        session_expire(s, x, "silent for long");
        return;
    }
    DL_FOREACH(x->lease.recalls, c)
    {
        if (session_silent(s, x) && TC_RULE(CONFLICT_EXPIRY)) {
            session_expire(s, x, "silent, and something waits for it");
            return;
        }
        if (c->disowned_at && now - c->disowned_at > DISOWNED_NS) {
            c->disowned_at = now;
            release_unknown_x(s, x, c->ino);
        }
        if (now - c->progress_at > s->cfg.recall_timeout_ms * NS_PER_MS && TC_RULE(RECALL_LIMIT)) {
            session_expire(s, x, "a recall is not acknowledged");
            return;
        }
    }
}

/* Old sessions that have not asserted: their caching right has run out by now. */
static void grace_tick(struct meta_server *s, uint64_t now)
{
    struct lead *l = s->lead;
    struct meta_session *x, *tmp;

    if (!l->grace || now - l->began <= caching_ns(s))
        return;
    HASH_ITER(hh, l->sessions, x, tmp)
    {
        if (x->old && x->lease.gen_n == 1 && TC_RULE(LATE_GENERATION))
            lease_session_drop_s(l->leases, &x->lease); /* a list that comes late asserts no S */
    }
    grace_over(s);
}

void lead_tick(struct meta_server *s)
{
    uint64_t now = env_now(s->env);
    struct meta_session *x, *tmp;

    if (!server_ready(s))
        return;
    HASH_ITER(hh, s->lead->sessions, x, tmp)
    {
        session_tick(s, x, now);
    }
    grace_tick(s, now);
    stores_tick(s);
    recovery_tick(s);
}
