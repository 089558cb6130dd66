/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to the metadata group: the leader followed, every request repeated until it is answered. The ports to its
 * members are in meta_members.c.
 *
 *   QUEUED ──► IN FLIGHT ──answer──► done()          QUEUED: no valid session, table or window full
 *                │  ▲
 *                └──┘ resend: after 150 ms to the next member too, then with jittered back-off;
 *                     at once when another leader is announced
 *
 * An id is slot and generation, so an answer to a recycled slot is dropped. Each sending encodes anew: the
 * caching generation and the watermark are those of the moment; session and seq stay. What is in flight
 * belongs to this file until done() was called, exactly once, then the rpc is freed.
 *
 * A mutation's seq is given when it is first sent. The watermark is the highest seq below which all are
 * finished; at most MUTATION_WINDOW seqs are above it, the last MUTATION_RESERVED only for urgent ones.
 */
#include "client/internal.h"

#include "common/log.h"
#include "common/test_rules.h"

static void rpc_tick(struct env_timer *t);
static void rpc_pump(struct tc_client *c);
static bool rpc_may_go(const struct rpc *r);

int meta_conn_open(struct tc_client *c, const char *const *members, unsigned n)
{
    if (n == 0 || n > CLIENT_MEMBERS_MAX)
        return -TC_E_INVAL;
    c->rpc_timer.fn = rpc_tick;
    c->next_seq = 1;
    c->n_slots = 64;
    for (unsigned i = 0; i < n; i++) {
        int r = meta_member_at(c, wire_str_of(members[i]));

        if (r < 0)
            return r;
    }
    c->leader = (unsigned)(env_random(c->env) % c->n_members);
    return 0;
}

static void rpc_free(struct rpc *r)
{
    free(r->req);
    free(r);
}

void meta_conn_close(struct tc_client *c)
{
    struct rpc *r, *tmp;

    env_timer_cancel(c->env, &c->rpc_timer);
    for (unsigned i = 0; i < c->n_members; i++) {
        env_port_close(c->members[i].port);
        free(c->members[i].endpoint);
    }
    c->n_members = 0;
    DL_FOREACH_SAFE(c->inflight, r, tmp)
    rpc_free(r);
    DL_FOREACH_SAFE(c->rpc_queue, r, tmp)
    rpc_free(r);
    c->inflight = c->rpc_queue = NULL;
}

/* ---- sending ------------------------------------------------------------------------------------------------ */

static uint64_t backoff(struct tc_client *c, unsigned tries)
{
    uint64_t d = RPC_RESEND_NS << MIN(tries > 2 ? tries - 2 : 0, 3u);

    d = MIN(d, RPC_RESEND_MAX_NS);
    return d - d / 8 + env_random(c->env) % (d / 4);
}

/* Another id in the same slot: what still comes for the sendings so far is not an answer to the next one. */
static void rpc_renew(struct rpc *r)
{
    uint64_t s = r->id & 0xffff;

    r->id = (uint64_t)++r->c->slot_gen[s] << 16 | s;
}

/* A seq for @r; false: the window is full. */
static bool rpc_number(struct rpc *r)
{
    struct tc_client *c = r->c;

    if (!r->mutation || r->no_session || r->seq)
        return true;
    if (!rpc_may_go(r))
        return false;
    r->seq = c->next_seq++;
    r->session = c->session;
    c->seq_done[r->seq % MUTATION_WINDOW] = false;
    return true;
}

/* What a member that does not lead may answer, too. */
static bool rpc_is_plain_read(const struct rpc *r)
{
    switch (r->type) {
    case MSG_LOOKUP:
    case MSG_GETATTR:
    case MSG_READDIR:
    case MSG_READLINK:
    case MSG_GETXATTR:
    case MSG_LISTXATTR:
        return r->has_ctx && !r->no_session;
    default:
        return false;
    }
}

static void rpc_transmit(struct rpc *r, unsigned member)
{
    struct tc_client *c = r->c;
    struct wire_header h = {.kind = WIRE_REQUEST, .type = r->type, .id = r->id, .cluster = c->cluster_tag};
    uint64_t now = env_now(c->env);

    if (r->anywhere && r->tries > 0) {
        /* Each grant that the leader gives replaces the one before, so an answer of its must not be taken for a double
         * of another's: under another id. */
        r->anywhere = false;
        rpc_renew(r);
        member = c->leader;
        h.id = r->id;
    }
    if (!rpc_number(r)) { /* asked again under another seq, and there is none */
        r->next_at = now + RPC_RESEND_NS;
        return;
    }
    if (r->has_ctx) {
        struct req_ctx *ctx = r->req;

        if (!r->no_session) {
            ctx->session = r->mutation ? r->session : c->session;
            ctx->incarnation = c->incarnation;
        }
        ctx->seq = r->seq;
        ctx->watermark = r->mutation && r->session != c->session ? 0 : c->watermark;
        ctx->gen_term = c->gen_term;
        ctx->gen_n = c->gen_n;
        ctx->anywhere = r->anywhere;
        r->gen_term = c->gen_term;
        r->gen_n = c->gen_n;
    }
    r->member = member;
    r->refused = false;
    r->tries++;
    r->sent_at = now;
    r->next_at = now + (r->tries <= 1 ? RPC_RESEND_NS : backoff(c, r->tries));
    c->stats.rpcs++;
    if (r->tries > 1)
        c->stats.rpc_resends++;
    if (c->members[member].port) /* resent if lost */
        (void)env_send(c->members[member].port, 0, wire_encode_frame(&h, r->req_schema, r->req), NULL);
    if (!env_timer_armed(&c->rpc_timer))
        env_timer_set(c->env, &c->rpc_timer, now + 25 * NS_PER_MS);
}

/* A slot for @r, its id; false: the table is full. */
static bool rpc_enter(struct rpc *r)
{
    struct tc_client *c = r->c;

    if (!(r->urgent && TC_RULE(SLOTS)) && !r->no_session && c->n_inflight >= RPC_MAX - RPC_RESERVED)
        return false;
    for (;;) {
        for (unsigned n = 0; n < c->n_slots; n++) {
            unsigned s = (c->free_hint + n) % c->n_slots;

            if (c->slots[s])
                continue;
            c->slots[s] = r;
            c->slot_gen[s]++;
            r->id = (uint64_t)c->slot_gen[s] << 16 | s;
            c->free_hint = s + 1;
            DL_APPEND(c->inflight, r);
            c->n_inflight++;
            return true;
        }
        if (c->n_slots == RPC_MAX)
            return false;
        c->n_slots = MIN(c->n_slots * 2, RPC_MAX);
    }
}

static bool rpc_may_go(const struct rpc *r)
{
    struct tc_client *c = r->c;
    uint64_t window = MUTATION_WINDOW - (r->urgent && TC_RULE(SLOTS) ? 0 : MUTATION_RESERVED);

    if (r->no_session)
        return true;
    if (c->state != SESSION_VALID)
        return false;
    return !r->mutation || r->seq || c->next_seq <= c->watermark + window;
}

static void rpc_go(struct rpc *r)
{
    struct tc_client *c = r->c;

    if (!rpc_may_go(r) || !rpc_enter(r)) {
        r->queued = true;
        if (r->urgent)
            DL_PREPEND(c->rpc_queue, r);
        else
            DL_APPEND(c->rpc_queue, r);
        return;
    }
    r->anywhere = c->read_anywhere && r->tries == 0 && rpc_is_plain_read(r) && meta_members_beside(c) > 0 &&
                  env_random(c->env) % 2;
    if (r->anywhere)
        rpc_transmit(r, meta_member_behind(c, c->leader, 1 + (unsigned)(env_random(c->env) % meta_members_beside(c))));
    else
        rpc_transmit(r, c->leader);
}

static void rpc_pump(struct tc_client *c)
{
    struct rpc *r, *tmp;

    DL_FOREACH_SAFE(c->rpc_queue, r, tmp)
    {
        if (!rpc_may_go(r)) {
            if (c->state != SESSION_VALID || !r->urgent)
                break; /* urgent ones stand in front */
            continue;
        }
        DL_DELETE(c->rpc_queue, r);
        r->queued = false;
        rpc_go(r);
        if (r->queued)
            break; /* the table is full */
    }
}

void rpc_send(struct tc_client *c, uint16_t type, unsigned flags, const struct wire_schema *req_schema, const void *req,
              size_t size, const struct wire_schema *res_schema, rpc_done_fn *done, void *arg)
{
    struct rpc *r = tc_calloc(1, sizeof(*r));

    r->c = c;
    r->type = type;
    r->req_schema = req_schema;
    r->res_schema = res_schema;
    r->req = tc_malloc(size);
    memcpy(r->req, req, size);
    r->mutation = flags & RPC_MUTATION;
    r->urgent = flags & RPC_URGENT;
    r->no_session = flags & RPC_NO_SESSION;
    r->has_ctx = !(flags & RPC_NO_CTX);
    if (r->has_ctx)
        memset(r->req, 0, sizeof(struct req_ctx));
    if (r->has_ctx) /* a SUB's has_name follows it */
        *(bool *)((char *)r->req + sizeof(struct req_ctx)) = true;
    r->done = done;
    r->arg = arg;
    rpc_go(r);
}

static void seq_finished(struct tc_client *c, uint64_t seq)
{
    c->seq_done[seq % MUTATION_WINDOW] = true;
    while (c->watermark + 1 < c->next_seq && c->seq_done[(c->watermark + 1) % MUTATION_WINDOW])
        c->watermark++;
}

static void rpc_leave(struct rpc *r)
{
    struct tc_client *c = r->c;

    ASSERT(c->slots[r->id & 0xffff] == r);
    c->slots[r->id & 0xffff] = NULL;
    DL_DELETE(c->inflight, r);
    c->n_inflight--;
    if (r->mutation && r->seq && r->session == c->session)
        seq_finished(c, r->seq);
}

static void rpc_finish(struct rpc *r, int status, const void *res)
{
    struct tc_client *c = r->c;

    rpc_leave(r);
    r->done(r, status, res);
    rpc_free(r);
    rpc_pump(c);
}

/* ---- following the leader ----------------------------------------------------------------------------------- */

static void follow(struct tc_client *c, unsigned member)
{
    struct rpc *r, *tmp;

    if (c->leader_known && c->leader == member)
        return;
    c->leader = member;
    c->leader_known = true;
    DL_FOREACH_SAFE(c->inflight, r, tmp)
    {
        if (r->member != member && (r->no_session || c->state == SESSION_VALID))
            rpc_transmit(r, member);
    }
    session_followed(c);
}

/* Somebody says who leads. */
static void on_leader_msg(struct tc_client *c, const struct leader_msg *m)
{
    int i;

    if (m->term < c->leader_term)
        return;
    if (m->term > c->leader_term) {
        c->leader_term = m->term;
        c->leader_known = false;
    }
    if (!m->leader || m->endpoint.n == 0)
        return;
    i = meta_member_at(c, m->endpoint);
    if (i >= 0)
        follow(c, (unsigned)i);
}

static void on_not_leader(struct rpc *r, struct slice body)
{
    struct tc_client *c = r->c;
    struct leader_msg m;
    unsigned was = r->tries;

    if (r->member == c->leader && !r->anywhere)
        c->leader_known = false;
    if (body.len > 0 && wire_decode(body, &leader_msg_schema, &c->arena, &m) == 0)
        on_leader_msg(c, &m);
    if (r->tries != was)
        return; /* sent on */
    if (r->anywhere) {
        rpc_transmit(r, c->leader);
        return;
    }
    if (!c->leader_known) {
        if (r->member == c->leader)
            c->leader = meta_member_behind(c, c->leader, 1);
        r->next_at = env_now(c->env) + 20 * NS_PER_MS + env_random(c->env) % (20 * NS_PER_MS);
        r->refused = true;
    }
}

static void rpc_tick(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, rpc_timer);
    uint64_t now = env_now(c->env);
    unsigned beside = meta_members_beside(c);
    struct rpc *r, *tmp;

    DL_FOREACH_SAFE(c->inflight, r, tmp)
    {
        if (now < r->next_at || (!r->no_session && c->state != SESSION_VALID))
            continue;
        /* Silence: the leader may be gone, so the next member is asked too. */
        if (r->refused || r->tries % 2 == 0 || beside == 0 || !TC_RULE(ASK_NEXT))
            rpc_transmit(r, c->leader);
        else
            rpc_transmit(r, meta_member_behind(c, c->leader, 1 + r->tries / 2 % beside));
    }
    if (c->inflight)
        env_timer_set(c->env, t, now + 25 * NS_PER_MS);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

/* "Not now": the same request again later. */
static bool is_transient(int status)
{
    switch (status) {
    case -TC_E_NO_QUORUM:
    case -TC_E_BACKPRESSURE:
    case -TC_E_LEASE_CONFLICT:
    case -TC_E_NO_MAP:
    case -TC_E_STALE_MAP:
        return true;
    default:
        return false;
    }
}

static void on_reply(struct meta_member_port *m, const struct wire_header *h, struct slice body)
{
    struct tc_client *c = m->c;
    struct rpc *r = (h->id & 0xffff) < RPC_MAX ? c->slots[h->id & 0xffff] : NULL;
    int status = tc_error_from_wire(h->status);
    void *res = NULL;

    if (!r || r->id != h->id || r->type != h->type)
        return; /* late or doubled */
    m->no_genesis = status == -TC_E_NO_GENESIS;
    if (status == -TC_E_NOT_LEADER || status == -TC_E_SHUTDOWN || status == -TC_E_NO_GENESIS) {
        bool all = true;

        for (unsigned i = 0; i < c->n_members; i++)
            all = all && c->members[i].no_genesis;
        if (!all || r->type != MSG_SESSION_OPEN) {
            r->member = (unsigned)(m - c->members);
            on_not_leader(r, status == -TC_E_NOT_LEADER ? body : slice_of(NULL, 0));
            return;
        }
    }
    if (status == -TC_E_LEASE_CONFLICT && r->mutation && r->seq && r->session == c->session) {
        seq_finished(c, r->seq); /* an entry: this seq has had its answer; the next one is given when it is sent again */
        r->seq = 0;
        rpc_renew(r);
    }
    if (is_transient(status)) {
        r->next_at = env_now(c->env) + 50 * NS_PER_MS + env_random(c->env) % (50 * NS_PER_MS);
        r->refused = true;
        return;
    }
    if ((status == -TC_E_SESSION_EXPIRED || status == -TC_E_SESSION_UNKNOWN) && !r->no_session) {
        if (!r->mutation || r->session == c->session)
            session_ended(c); /* decides what becomes of this request, too */
        return;
    }
    if (status == -TC_E_WRONG_CLUSTER && c->cluster_tag != h->cluster && c->state == SESSION_OPENING && !c->session) {
        c->cluster_tag = h->cluster;
    }
    if (status == 0 && r->res_schema) {
        res = tc_malloc(r->res_schema->size);
        if (wire_decode(body, r->res_schema, &c->arena, res) < 0) {
            LOG_WARN("client", "answer cannot be decoded, asking again", "type=%u", r->type);
            free(res);
            r->next_at = env_now(c->env) + RPC_RESEND_NS;
            return;
        }
    }
    if (status == 0 && !c->leader_known && !r->anywhere) {
        c->leader = (unsigned)(m - c->members);
        c->leader_known = true;
    }
    rpc_finish(r, status, res);
    free(res);
}

static void on_notice(struct tc_client *c, const struct wire_header *h, struct slice body)
{
    union {
        struct leader_msg leader;
        struct recall_msg recall;
    } m;

    if (h->type == MSG_LEADER && wire_decode(body, &leader_msg_schema, &c->arena, &m.leader) == 0)
        on_leader_msg(c, &m.leader);
    else if (h->type == MSG_RECALL && wire_decode(body, &recall_msg_schema, &c->arena, &m.recall) == 0)
        lease_on_recall(c, &m.recall);
}

void rpc_on_msg(void *arg, uint64_t peer TC_UNUSED, struct buf *head, struct buf *payload TC_UNUSED)
{
    struct meta_member_port *m = arg;
    struct tc_client *c = m->c;
    struct wire_header h;
    struct slice body;

    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0) {
        c->stats.errors++;
        return;
    }
    /* Whoever leads says which cluster this is: any other may have the files of another, and not know it yet. */
    if (!c->cluster_tag && h.kind == WIRE_REPLY && h.type == MSG_SESSION_OPEN && h.status == 0)
        c->cluster_tag = h.cluster;
    if (c->cluster_tag && h.cluster && h.cluster != c->cluster_tag && c->session)
        return; /* somebody else's */
    wire_arena_reset(&c->arena);
    if (h.kind == WIRE_NOTICE) {
        on_notice(c, &h, body);
    } else if (h.kind == WIRE_REPLY && h.type == MSG_KEEPALIVE) {
        struct keepalive_res res = {0};
        int status = tc_error_from_wire(h.status);
        struct leader_msg l;

        if (status == -TC_E_NOT_LEADER) {
            if (body.len > 0 && wire_decode(body, &leader_msg_schema, &c->arena, &l) == 0)
                on_leader_msg(c, &l);
            return;
        }
        if (status == 0 && wire_decode(body, &keepalive_res_schema, &c->arena, &res) < 0)
            return;
        if (status == 0 && !c->leader_known)
            follow(c, (unsigned)(m - c->members));
        session_on_keepalive(c, h.id, status, &res);
    } else if (h.kind == WIRE_REPLY) {
        on_reply(m, &h, body);
    }
}

void meta_send_keepalive(struct tc_client *c, uint64_t id, bool next_member)
{
    struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_KEEPALIVE, .id = id, .cluster = c->cluster_tag};
    struct keepalive_req req = {
        .ctx = {.session = c->session, .incarnation = c->incarnation, .watermark = c->watermark,
                .gen_term = c->gen_term, .gen_n = c->gen_n},
        .has_ctx = true,
        .map_epoch = c->map ? c->map->epoch : 0,
        .caching = c->gen_term != 0 && !c->listing,
        .progress = c->recall_landed,
    };
    unsigned others = MAX(meta_members_beside(c), 1u);
    unsigned to = next_member ? meta_member_behind(c, c->leader, 1 + (unsigned)(env_random(c->env) % others)) : c->leader;

    c->stats.keepalives++;
    if (!TC_RULE(ASK_NEXT))
        to = c->leader;
    if (c->members[to].port) /* next one follows */
        (void)env_send(c->members[to].port, 0, wire_encode_frame(&h, &keepalive_req_schema, &req), NULL);
}

/* ---- sessions come and go --------------------------------------------------------------------------------------- */

void rpc_session_valid(struct tc_client *c)
{
    struct rpc *r, *tmp;

    DL_FOREACH_SAFE(c->inflight, r, tmp)
    {
        if (!r->no_session)
            rpc_transmit(r, c->leader);
    }
    rpc_pump(c);
}

static void fate_done(struct rpc *f, int status, const void *res);

/* Ask what became of @r, which was in flight when its session ended. */
static void fate_ask(struct rpc *r)
{
    struct fate_req req = {.old_session = r->session, .seqs = {&r->seq, 1}};

    RPC(r->c, MSG_FATE, RPC_READ, fate_req, &req, fate_res, fate_done, r);
}

static void fate_done(struct rpc *f, int status, const void *res)
{
    struct rpc *r = f->arg;
    struct tc_client *c = r->c;
    const struct fate_res *fate = res;
    void *out = NULL;
    int kept;

    if (status == 0 && fate->items.n == 1 && fate->items.items[0].known) {
        const struct fate_item *it = &fate->items.items[0];

        kept = tc_error_from_wire(it->status);
        if (kept == 0 && r->res_schema) {
            out = tc_malloc(r->res_schema->size);
            if (wire_decode(slice_of(it->body.p, it->body.n), r->res_schema, &c->arena, out) < 0)
                memset(out, 0, r->res_schema->size);
        }
        r->gen_term = r->gen_n = 0; /* its grants were another session's */
        r->done(r, kept, out);
        free(out);
        rpc_free(r);
        return;
    }
    r->seq = 0;
    r->tries = 0;
    rpc_go(r);
}

void rpc_session_expired(struct tc_client *c, uint64_t old_session)
{
    struct rpc *r, *tmp, *lost = NULL;

    DL_FOREACH_SAFE(c->inflight, r, tmp)
    {
        if (!r->mutation || r->no_session || r->session != old_session)
            continue;
        ASSERT(c->slots[r->id & 0xffff] == r);
        c->slots[r->id & 0xffff] = NULL;
        r->id = 0;
        DL_DELETE(c->inflight, r);
        c->n_inflight--;
        DL_APPEND(lost, r);
    }
    c->next_seq = 1;
    c->watermark = 0;
    memset(c->seq_done, 0, sizeof(c->seq_done));
    DL_FOREACH_SAFE(lost, r, tmp)
    {
        DL_DELETE(lost, r);
        if (r->type == MSG_COMMIT || r->type == MSG_LEASE_GET_X || r->type == MSG_SESSION_CLOSE ||
            r->type == MSG_LOCK || r->type == MSG_LOCK_END) {
            r->done(r, -TC_E_FENCED, NULL); /* meant the old session's leases alone */
            rpc_free(r);
        } else if (TC_RULE(FATE)) {
            fate_ask(r);
        } else {
            r->seq = 0;
            r->tries = 0;
            rpc_go(r);
        }
    }
    DL_FOREACH_SAFE(c->inflight, r, tmp)
    {
        if (r->no_session || r->mutation)
            continue;
        rpc_renew(r); /* late answers bear the old session's grants, or its end */
        if (r->type == MSG_LEASE_RELEASE || r->type == MSG_RECALL_ACK || r->type == MSG_LEASE_LIST)
            rpc_finish(r, -TC_E_FENCED, NULL);
    }
}
