/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/rpc.h"

#include "common/log.h"

#define SWEEP_NS (20 * NS_PER_MS)

static void end_call(struct rpc_call *c, const struct rpc_reply *reply)
{
    HASH_DEL(c->link->calls, c);
    env_defer_cancel(c->link->env, &c->task);
    c->link = NULL;
    c->done(c, reply);
}

static void end_failed(struct rpc_call *c, int status)
{
    struct rpc_reply reply = {.status = status};

    end_call(c, &reply);
}

static void early_task(struct env_task *t)
{
    struct rpc_call *c = container_of(t, struct rpc_call, task);

    end_failed(c, c->early);
}

/* Calls in a hash are few and of similar deadlines: a sweep is enough. One ends at a time, for it may end others. */
static void sweep(struct env_timer *t)
{
    struct rpc_link *l = container_of(t, struct rpc_link, timer);
    uint64_t now = env_now(l->env);
    struct rpc_call *c, *tmp;

    if (l->calls)
        env_timer_set(l->env, &l->timer, now + SWEEP_NS);
    HASH_ITER(hh, l->calls, c, tmp) {
        if (now >= c->deadline && !c->task.queued) {
            c->early = -TC_E_DEADLINE;
            l->silent = now;
            env_defer(l->env, &c->task);
        }
    }
}

static void on_msg(void *arg, uint64_t peer TC_UNUSED, struct buf *head, struct buf *payload)
{
    struct rpc_link *l = arg;
    struct rpc_reply reply = {.payload = payload};
    struct rpc_call *c;

    if (wire_check_frame(slice_of(head->data, head->len), &reply.header, &reply.body) < 0) {
        LOG_WARN("storage", "bad frame from a server, dropped", "from=%s", l->endpoint);
        return;
    }
    if (reply.header.kind == WIRE_NOTICE && l->notice)
        l->notice(l->arg, &reply.header, reply.body);
    if (reply.header.kind != WIRE_REPLY)
        return;
    reply.status = tc_error_from_wire(reply.header.status);
    l->silent = reply.status == -TC_E_WRONG_STORE ? env_now(l->env) : 0; /* the one that is meant is not there */
    HASH_FIND(hh, l->calls, &reply.header.id, sizeof(uint64_t), c);
    if (!c)
        return; /* late */
    if (reply.status == 0 && reply.header.payload_len != (payload ? payload->len : 0))
        reply.status = -TC_E_BAD_MESSAGE;
    end_call(c, &reply);
}

int rpc_link_open(struct env *env, const char *endpoint, const uint64_t *cluster, struct rpc_link **ret_link)
{
    struct rpc_link *l = tc_calloc(1, sizeof(*l));
    int r;

    l->env = env;
    l->endpoint = tc_strdup(endpoint);
    l->cluster = cluster;
    l->next_id = env_random(env) >> 16; /* not those of an earlier life */
    l->timer.fn = sweep;
    r = env_connect(env, endpoint, on_msg, l, &l->port);
    if (r < 0) {
        free(l->endpoint);
        free(l);
        return r;
    }
    *ret_link = l;
    return 0;
}

void rpc_link_close(struct rpc_link *l)
{
    if (!l)
        return;
    while (l->calls)
        end_failed(l->calls, -TC_E_SHUTDOWN);
    env_timer_cancel(l->env, &l->timer);
    env_port_close(l->port);
    free(l->endpoint);
    free(l);
}

void rpc_call(struct rpc_link *l, struct rpc_call *c, uint16_t type, const struct wire_schema *schema, const void *body,
              struct buf *payload, uint64_t timeout_ns)
{
    struct wire_header h = {.kind = WIRE_REQUEST, .type = type, .cluster = *l->cluster,
                            .payload_len = payload ? payload->len : 0};
    int r;

    ASSERT(!c->link);
    c->id = h.id = ++l->next_id;
    c->link = l;
    c->deadline = env_now(l->env) + timeout_ns;
    c->task = (struct env_task){.fn = early_task};
    HASH_ADD(hh, l->calls, id, sizeof(c->id), c);
    if (!env_timer_armed(&l->timer))
        env_timer_set(l->env, &l->timer, env_now(l->env) + SWEEP_NS);
    r = env_send(l->port, 0, wire_encode_frame(&h, schema, body), payload ? buf_ref(payload) : NULL);
    if (r < 0) {
        c->early = r;
        env_defer(l->env, &c->task);
    }
}

void rpc_hurry(struct rpc_call *c, uint64_t timeout_ns)
{
    if (c->link)
        c->deadline = MIN(c->deadline, env_now(c->link->env) + timeout_ns);
}

bool rpc_silent(const struct rpc_link *l)
{
    return l->silent && env_now(l->env) < l->silent + NS_PER_S;
}

void rpc_cancel(struct rpc_call *c)
{
    if (!c->link)
        return;
    HASH_DEL(c->link->calls, c);
    env_defer_cancel(c->link->env, &c->task);
    c->link = NULL;
}
