/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc.h"

#include "common/os_env.h"

#define RETRY_MS 50

struct rpc;

struct rpc_peer {
    struct rpc *rpc;
    struct net_port *port;
    struct rpc_answer *answer;
    struct buf *frame; /* of the request */
    uint64_t id;
    bool sent, done;
};

struct rpc {
    struct env *env;
    bool (*enough)(struct rpc_answer *a);
    struct rpc_peer *peers;
    unsigned n, n_done;
    struct env_timer retry, deadline;
};

static void peer_done(struct rpc_peer *p, int status)
{
    if (p->done)
        return;
    p->done = true;
    p->answer->status = status;
    if (++p->rpc->n_done == p->rpc->n)
        os_env_stop(p->rpc->env, 0);
}

static void on_reply(void *arg, uint64_t peer TC_UNUSED, struct buf *head, struct buf *payload)
{
    struct rpc_peer *p = arg;
    struct wire_header h;
    struct slice body;
    int r = wire_check_frame(slice_of(head->data, head->len), &h, &body);

    if (p->done || (r == 0 && (h.kind != WIRE_REPLY || h.id != p->id)))
        return;
    if (r < 0) {
        peer_done(p, r);
        return;
    }
    p->answer->frame = buf_ref(head);
    p->answer->payload = payload ? buf_ref(payload) : NULL;
    p->answer->body = body;
    p->answer->h = h;
    peer_done(p, tc_error_from_wire(h.status));
    if (p->answer->status == 0 && p->rpc->enough && p->rpc->enough(p->answer)) {
        for (unsigned i = 0; i < p->rpc->n; i++)
            peer_done(&p->rpc->peers[i], -TC_E_DEADLINE);
    }
}

static void send_all(struct env_timer *t)
{
    struct rpc *rpc = container_of(t, struct rpc, retry);

    for (unsigned i = 0; i < rpc->n; i++) {
        struct rpc_peer *p = &rpc->peers[i];

        if (!p->sent && !p->done)
            p->sent = env_send(p->port, 0, buf_ref(p->frame), NULL) == 0;
    }
    env_timer_set(rpc->env, t, env_now(rpc->env) + RETRY_MS * NS_PER_MS);
}

/* A request held for a connection that never came counts as sent: UNREACHABLE if it cannot be sent now. */
static void on_deadline(struct env_timer *t)
{
    struct rpc *rpc = container_of(t, struct rpc, deadline);

    for (unsigned i = 0; i < rpc->n; i++) {
        struct rpc_peer *p = &rpc->peers[i];

        if (!p->done)
            peer_done(p, env_send(p->port, 0, buf_ref(p->frame), NULL) < 0 ? -TC_E_UNREACHABLE
                                                                              : -TC_E_DEADLINE);
    }
}

/* The request as the @i-th server gets it: a store is named. */
static struct buf *frame_for(const struct rpc_request *req, unsigned i, uint64_t id)
{
    struct wire_header h = {.kind = WIRE_REQUEST, .type = req->type, .cluster = req->cluster, .id = id};
    const struct wire_schema *schema = schema_of(req->type, WIRE_REQUEST);
    void *body = NULL;
    struct buf *b;

    if (req->stores && request_store(req->type, (void *)req->body)) {
        body = tc_malloc(schema->size);
        memcpy(body, req->body, schema->size);
        *request_store(req->type, body) = req->stores[i];
    }
    b = wire_encode_frame(&h, schema, body ? body : req->body);
    free(body);
    return b;
}

void rpc_ask(struct env *env, const char *const *endpoints, unsigned n, const struct rpc_request *req,
             struct rpc_answer *answers)
{
    struct rpc rpc = {.env = env, .enough = req->enough, .n = n, .retry.fn = send_all, .deadline.fn = on_deadline};
    uint64_t id = env_random(env) | 1; /* the same for all: one request a connection */

    rpc.peers = tc_calloc(n, sizeof *rpc.peers);
    env_timer_set(env, &rpc.deadline, env_now(env) + req->timeout_ms * NS_PER_MS);
    for (unsigned i = 0; i < n; i++) {
        struct rpc_peer *p = &rpc.peers[i];
        int r;

        answers[i] = (struct rpc_answer){0};
        *p = (struct rpc_peer){.rpc = &rpc, .answer = &answers[i], .id = id, .frame = frame_for(req, i, id)};
        r = env_connect(env, endpoints[i], on_reply, p, &p->port);
        if (r < 0)
            peer_done(p, r);
    }
    send_all(&rpc.retry);
    if (rpc.n_done < n)
        (void)os_env_run(env);
    env_timer_cancel(env, &rpc.retry);
    env_timer_cancel(env, &rpc.deadline);
    for (unsigned i = 0; i < n; i++) {
        env_port_close(rpc.peers[i].port);
        buf_unref(rpc.peers[i].frame);
    }
    free(rpc.peers);
}

void rpc_answers_fini(struct rpc_answer *answers, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        answers[i].frame = buf_unref(answers[i].frame);
        answers[i].payload = buf_unref(answers[i].payload);
    }
}
