/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The member's port: what comes in and goes to whom, and answers.
 *
 * Requests for the leader that arrive between its election and its first applied entry, or while its lease is
 * unsure, are held and dispatched when it is ready; they are redirected when it stops to lead.
 */
#include "meta/server_internal.h"

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

void server_held_release(struct meta_server *s, bool drop)
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
    return type >= MSG_SESSION_OPEN && type <= MSG_LOCK_END;
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

void server_on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    server_dispatch(arg, peer, head, payload);
}
