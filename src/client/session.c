/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session with the metadata group, its keepalives, the caching right, and the cluster map.
 *
 *   NONE ─► OPENING ─► VALID ◄──► SUSPENDED        SUSPENDED: no keepalive answered for the TTL
 *              ▲         │            │
 *              └─────────┴── expired ─┘  the leader said so: dirty data is dropped, a new session opened
 *
 * Keepalives are not repeated: each sending has an id of its own, so that an answer says which one it answers,
 * and validity runs from the sending of that (PROTOCOL 2.4). An unanswered one is followed after 150 ms by
 * another, to the next member too.
 *
 * A new caching generation (PROTOCOL 3.1) shows in a keepalive's answer. We enter it by dropping all S, outside
 * caches included, and then sending the complete list; until that is answered nothing is cached. Names outside cannot
 * be dropped, they run out. A new leader need not wait for that: while our right runs, the list asserts the S that covers them.
 */
#include "client/internal.h"

#include "common/log.h"
#include "common/test_rules.h"

static void session_tick(struct env_timer *t);
static void map_tick(struct env_timer *t);
static void keepalive_send(struct tc_client *c, bool again);

/* ---- validity ---------------------------------------------------------------------------------------------------- */

bool session_valid(struct tc_client *c)
{
    return c->state == SESSION_VALID && (env_now(c->env) < c->alive_sent + c->ttl_ns || !TC_RULE(EXPIRY));
}

bool session_caching(struct tc_client *c)
{
    return c->state == SESSION_VALID && c->gen_term && !c->listing &&
           (env_now(c->env) < c->caching_sent + CACHING_NS || !TC_RULE(CACHING_RIGHT));
}

bool session_right(const struct tc_client *c)
{
    return c->state == SESSION_VALID && env_now(c->env) < c->caching_sent + CACHING_NS;
}

uint64_t session_time(struct tc_client *c)
{
    uint64_t t = (uint64_t)((int64_t)env_now(c->env) + c->time_offset);

    if (t <= c->last_time)
        t = c->last_time + 1;
    c->last_time = t;
    return t;
}

void session_see_term(struct tc_client *c, uint64_t term)
{
    if (term > c->term_seen)
        c->term_seen = term;
}

void session_followed(struct tc_client *c)
{
    if (c->state == SESSION_VALID) /* a new leader waits for our list before anything that may conflict goes on */
        keepalive_send(c, false);
}

bool session_revalidate(struct tc_call *call)
{
    if (session_valid(call->c))
        return false;
    call_wait(call, &call->c->session_wq);
    return true;
}

/* ---- opening -------------------------------------------------------------------------------------------------------- */

static void ready_answer(struct tc_client *c, int status)
{
    tc_status_fn *ready = c->ready;

    c->ready = NULL;
    env_timer_cancel(c->env, &c->ready_timer);
    if (ready)
        ready(c->ready_arg, status);
}

static void ready_timeout(struct env_timer *t)
{
    ready_answer(container_of(t, struct tc_client, ready_timer), -TC_E_DEADLINE);
}

static void session_open_done(struct rpc *r, int status, const void *res);

static void session_open(struct tc_client *c)
{
    struct session_open_req req = {.nonce = c->nonce, .client = wire_str_of(c->name), .root = wire_str_of(c->root_path),
                                   .previous = c->previous};

    c->state = SESSION_OPENING;
    c->open_sent = env_now(c->env);
    lost_watch(c);
    RPC(c, MSG_SESSION_OPEN, RPC_NO_SESSION, session_open_req, &req, session_open_res, session_open_done, c);
}

static void session_open_done(struct rpc *r, int status, const void *res)
{
    struct tc_client *c = r->c;
    const struct session_open_res *s = res;
    uint64_t now = env_now(c->env);

    if (c->state != SESSION_OPENING)
        return;
    if (status != 0) {
        LOG_WARN("client", "session refused", "error=%s", tc_error_name(status));
        if (c->ready && status != -TC_E_SESSION_EXPIRED && status != -TC_E_SESSION_UNKNOWN) {
            c->state = SESSION_NONE;
            ready_answer(c, status);
            return;
        }
        c->nonce = env_random(c->env) | 1;
        env_timer_set(c->env, &c->session_timer, now + NS_PER_S);
        return;
    }
    c->session = s->session;
    c->incarnation = s->incarnation;
    c->ttl_ns = (uint64_t)s->ttl_ms * NS_PER_MS;
    c->root = s->root;
    c->state = SESSION_VALID;
    c->alive_sent = c->open_sent;
    if (s->time)
        c->time_offset = (int64_t)s->time - (int64_t)now;
    c->gen_term = c->gen_n = c->want_gen_term = c->want_gen_n = c->held_term = 0;
    c->listing = false;
    c->caching_sent = 0;
    LOG_INFO("client", "session open", "session=%lu", (unsigned long)c->session);
    map_need(c, MAX(s->map_epoch, 1));
    keepalive_send(c, false);
    rpc_session_valid(c);
    waitq_wake(&c->session_wq);
    if (c->quorum)
        quorum_session_changed(c->quorum, false);
    ready_answer(c, 0);
}

void session_start(struct tc_client *c)
{
    c->session_timer.fn = session_tick;
    c->ready_timer.fn = ready_timeout;
    c->map_timer.fn = map_tick;
    c->nonce = env_random(c->env) | 1;
    c->incarnation = 1;
    if (c->wait_ns != UINT64_MAX)
        env_timer_set(c->env, &c->ready_timer, env_now(c->env) + c->wait_ns);
    c->time_offset = (int64_t)env_realtime(c->env) - (int64_t)env_now(c->env);
    session_open(c);
}

void session_stop(struct tc_client *c)
{
    c->state = SESSION_CLOSED;
    env_timer_cancel(c->env, &c->session_timer);
    env_timer_cancel(c->env, &c->ready_timer);
    env_timer_cancel(c->env, &c->map_timer);
    lost_stop(c);
}

/* ---- the end of a session ------------------------------------------------------------------------------------------- */

void session_ended(struct tc_client *c)
{
    struct inode *i, *tmp;
    uint64_t old = c->session;

    if (c->state != SESSION_VALID && c->state != SESSION_SUSPENDED)
        return;
    LOG_ERR("client", "session expired, opening another", "session=%lu", (unsigned long)old);
    c->stats.expiries++;
    c->state = SESSION_NONE;
    c->previous = old;
    c->session = 0;
    c->gen_term = c->gen_n = 0;
    c->listing = false;
    memset(c->ka, 0, sizeof(c->ka)); /* late answers would be taken for the next session's */
    c->ka_outstanding = false;
    c->n_releases = 0;
    c->n_acks = 0;
    if (c->quorum)
        quorum_session_changed(c->quorum, true);
    HASH_ITER(hh, c->inodes, i, tmp)
    {
        inode_pin(i);
        if (i->x)
            lease_lost(c, i, -TC_E_IO);
        if (i->held)
            lease_ended(c, i, 0);
        recalls_drop(c, i);
        c->n_acks = 0; /* nobody waits for them any more */
        i->recall_term = i->recall_seen = 0;
        locks_lost(c, i);
        if (i->kernel_pages && c->cfg.invalidate_inode) {
            i->kernel_pages = false;
            c->purges++;
            c->cfg.invalidate_inode(c->cfg.arg, i->ino, 0, UINT64_MAX, lease_purged, c);
        }
        waitq_wake(&i->wq);
        waitq_wake(&i->io_wq);
        inode_unpin(c, i);
    }
    rpc_session_expired(c, old);
    if (c->shutting_down)
        return;
    c->nonce = env_random(c->env) | 1;
    session_open(c);
}

/* ---- keepalives ------------------------------------------------------------------------------------------------------ */

static void keepalive_send(struct tc_client *c, bool again)
{
    struct ka_sent *k = &c->ka[c->ka_head++ % KA_RING];
    uint64_t now = env_now(c->env);

    *k = (struct ka_sent){.id = UINT64_C(1) << 63 | ++c->ka_id, .sent_at = now, .gen_term = c->gen_term, .gen_n = c->gen_n,
                          .caching = c->gen_term && !c->listing};
    if (!again)
        c->ka_last_sent = now;
    c->ka_last_try = now;
    c->ka_outstanding = true;
    meta_send_keepalive(c, k->id, false);
    if (again && c->n_members > 1)
        meta_send_keepalive(c, k->id, true);
    if (again)
        lost_watch(c);
    env_timer_set(c->env, &c->session_timer, now + RPC_RESEND_NS);
}

static void check_right(struct tc_client *c)
{
    bool right = session_caching(c);

    if (c->right_was && !right && !c->listing && c->gen_term) {
        /* Outside caches must not outlive the right. S is asked for again when there is one. */
        LOG_INFO("client", "caching right ran out", "session=%lu", (unsigned long)c->session);
        lease_drop_all_s(c, false);
    }
    c->right_was = right;
}

static void session_tick(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, session_timer);
    uint64_t now = env_now(c->env);

    if (c->state == SESSION_OPENING) {
        session_open(c);
        return;
    }
    if (c->state != SESSION_VALID && c->state != SESSION_SUSPENDED)
        return;
    if (c->state == SESSION_VALID && !session_valid(c)) {
        LOG_WARN("client", "suspended: no answer from the metadata group for the session's time", "session=%lu",
                 (unsigned long)c->session);
        c->state = SESSION_SUSPENDED;
        calls_suspended(c);
    }
    check_right(c);
    if (c->ka_outstanding && now >= c->ka_last_try + RPC_RESEND_NS)
        keepalive_send(c, true);
    else if (now >= c->ka_last_sent + KEEPALIVE_NS)
        keepalive_send(c, false);
    else
        env_timer_set(c->env, t, MIN(now + RPC_RESEND_NS, c->ka_last_sent + KEEPALIVE_NS));
}

static void generation_enter(struct tc_client *c, const struct keepalive_res *res)
{
    uint64_t term = res->gen_term, n = res->gen_n;

    LOG_DEBUG("client", "entering caching generation", "term=%lu n=%lu", (unsigned long)term, (unsigned long)n);
    c->stats.generations++;
    c->want_gen_term = term;
    c->want_gen_n = n;
    c->listing = true;
    c->gen_term = c->gen_n = 0;
    c->right_was = false;
    session_see_term(c, term);
    if (TC_RULE(GENERATION))
        lease_drop_all_s(c, res->takes_s && n == 1 && term != c->held_term && session_right(c));
    lease_list(c);
}

void session_listed(struct tc_client *c, int status)
{
    c->listing = false;
    if (status != 0) {
        c->want_gen_term = c->want_gen_n = 0; /* the next keepalive tells again */
        return;
    }
    c->gen_term = c->held_term = c->want_gen_term;
    c->gen_n = c->want_gen_n;
    lease_asserted(c);
    keepalive_send(c, false);
}

void session_on_keepalive(struct tc_client *c, uint64_t id, int status, const struct keepalive_res *res)
{
    struct ka_sent *k = NULL;
    uint64_t now = env_now(c->env);
    bool newer;

    for (unsigned n = 0; n < KA_RING; n++) {
        if (c->ka[n].id == id)
            k = &c->ka[n];
    }
    if (!k || (c->state != SESSION_VALID && c->state != SESSION_SUSPENDED))
        return;
    if (status == -TC_E_SESSION_EXPIRED || status == -TC_E_SESSION_UNKNOWN) {
        session_ended(c);
        return;
    }
    if (status != 0 || res->gen_term < c->term_seen)
        return;
    c->ka_outstanding = false;
    c->alive_sent = MAX(c->alive_sent, k->sent_at);
    if (res->incarnation > c->incarnation)
        c->incarnation = res->incarnation;
    if (res->time)
        c->time_offset = (int64_t)res->time - (int64_t)(k->sent_at + (now - k->sent_at) / 2);
    if (res->map_epoch)
        map_need(c, res->map_epoch);
    c->tight = res->tight;
    if (c->state == SESSION_SUSPENDED) {
        if (!(now < c->alive_sent + c->ttl_ns))
            return;
        LOG_INFO("client", "session valid again", "session=%lu", (unsigned long)c->session);
        c->state = SESSION_VALID;
        rpc_session_valid(c);
        if (c->quorum)
            quorum_session_changed(c->quorum, false);
    }
    newer = res->gen_term > c->want_gen_term || (res->gen_term == c->want_gen_term && res->gen_n > c->want_gen_n);
    if (newer && res->gen_term)
        generation_enter(c, res);
    else if (res->want_list && !c->listing && res->gen_term == c->want_gen_term && res->gen_n == c->want_gen_n)
        generation_enter(c, res);
    else if (res->caching && k->caching && !c->listing && res->gen_term == c->gen_term && res->gen_n == c->gen_n &&
             k->gen_term == c->gen_term && k->gen_n == c->gen_n)
        c->caching_sent = MAX(c->caching_sent, TC_RULE(RIGHT_FROM_SEND) ? k->sent_at : now);
    c->right_was = session_caching(c);
    waitq_wake(&c->session_wq);
}

/* ---- the map ------------------------------------------------------------------------------------------------------------ */

static bool owner_session(void *arg, uint64_t *ret_session, uint32_t *ret_incarnation)
{
    struct tc_client *c = arg;

    *ret_session = c->session;
    *ret_incarnation = c->incarnation;
    return session_valid(c);
}

static struct map *owner_map(void *arg)
{
    return ((struct tc_client *)arg)->map;
}

/* A store finds the map wrong: one look whether there is a newer one; the keepalives tell of later ones. */
static void owner_look_map(void *arg)
{
    struct tc_client *c = arg;

    if (!c->map_getting && !env_timer_armed(&c->map_timer))
        env_timer_set(c->env, &c->map_timer, MAX(env_now(c->env), c->map_asked + MAP_LOOK_NS));
}

void map_take(struct tc_client *c, const struct cluster_map *m)
{
    uint64_t before = c->map->epoch;
    int e;

    if (m->cluster.n == 16) {
        e = map_apply(c->map, m);
        if (e == -TC_E_STALE_MAP)
            c->map_whole = true;
        else if (e < 0)
            LOG_WARN("client", "map refused", "error=%s", tc_error_name(e));
        else
            c->map_whole = false;
        meta_conn_learn(c, m);
    }
    if (!c->quorum && c->map->epoch) {
        struct quorum_owner owner = {owner_session, owner_map, owner_look_map, c};

        if (!c->cluster_tag)
            c->cluster_tag = map_cluster_tag(c->map->cluster);
        e = quorum_open(c->env, &owner, c->cluster_tag, &c->quorum);
        ASSERT(e == 0);
    }
    if (c->quorum && c->map->epoch != before)
        quorum_map_changed(c->quorum);
    waitq_wake(&c->map_wq);
}

static void map_done(struct rpc *r, int status, const void *res)
{
    struct tc_client *c = r->c;

    c->map_getting = false;
    if (status == 0)
        map_take(c, res);
    if (c->map->epoch < c->map_want || !c->map->pgs)
        env_timer_set(c->env, &c->map_timer, env_now(c->env) + MAP_RETRY_NS);
}

static void map_tick(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, map_timer);
    struct map_get_req req = {.have = c->map_whole ? 0 : c->map->epoch};

    if (c->map_getting || c->state == SESSION_CLOSED)
        return;
    c->map_getting = true;
    c->map_asked = env_now(c->env);
    RPC(c, MSG_MAP_GET, RPC_NO_SESSION | RPC_NO_CTX, map_get_req, &req, cluster_map, map_done, c);
}

void map_need(struct tc_client *c, uint64_t epoch)
{
    if (epoch > c->map_want)
        c->map_want = epoch;
    if (c->map->epoch >= c->map_want && c->map->pgs)
        return;
    if (!c->map_getting && (!env_timer_armed(&c->map_timer) || c->map_timer.at > env_now(c->env) + MAP_RETRY_NS))
        env_timer_set(c->env, &c->map_timer, 0);
}

bool map_ready(struct tc_client *c, uint64_t barrier)
{
    return c->quorum && c->map->pgs && c->map->epoch >= barrier;
}

bool map_wait(struct tc_call *call, uint64_t barrier)
{
    if (map_ready(call->c, barrier))
        return false;
    map_need(call->c, barrier);
    call_wait(call, &call->c->map_wq);
    return true;
}
