/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `tercet node` and `tercet meta` do: a word about a store or a member to every member; the one that leads takes it. On a machine of its own
 * that nothing happens to. Answers are not awaited: who wants to be sure says it again.
 */
#include <stdio.h>

#include "sim/cluster.h"

struct operator {
    struct sim_node *node;
    struct env *env;
    struct net_port *ports[MEMBERS_MAX];
    uint64_t id;
};

static void on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    (void)arg;
    (void)peer;
    (void)head;
    (void)payload;
}

static struct operator *operator_new(struct cluster *c)
{
    struct operator *o = tc_calloc(1, sizeof *o);

    o->node = sim_node_new(c->s, "operator");
    o->env = sim_node_boot(o->node);
    for (unsigned i = 0; i < c->n_members; i++)
        ASSERT(env_connect(o->env, c->members[i].endpoint, on_msg, o, &o->ports[i]) == 0);
    return o;
}

void cluster_say(struct cluster *c, uint32_t store, uint32_t admin)
{
    struct node_admin_req req = {.node = store, .admin = admin};

    if (!c->operator)
        c->operator = operator_new(c);
    for (unsigned i = 0; i < c->n_members; i++) {
        struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_NODE_ADMIN, .id = ++c->operator->id};

        (void)env_send(c->operator->ports[i], 0, wire_encode_frame(&h, &node_admin_req_schema, &req), NULL);
    }
}

void cluster_say_member(struct cluster *c, uint32_t member, uint32_t op, const char *endpoint)
{
    struct meta_change_req req = {.op = op, .member = member};

    if (endpoint)
        req.endpoint = wire_str_of(endpoint);
    if (!c->operator)
        c->operator = operator_new(c);
    for (unsigned i = 0; i < c->n_members; i++) {
        struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_META_CHANGE, .id = ++c->operator->id};

        (void)env_send(c->operator->ports[i], 0, wire_encode_frame(&h, &meta_change_req_schema, &req), NULL);
    }
}

void operator_free(struct cluster *c)
{
    if (!c->operator)
        return;
    for (unsigned i = 0; i < c->n_members; i++)
        env_port_close(c->operator->ports[i]);
    sim_node_kill(c->operator->node);
    free(c->operator);
    c->operator = NULL;
}
