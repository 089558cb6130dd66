/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network: what env.h allows a transport to do, and no more.
 *
 * A connected port has a connection to whoever listens on its endpoint when a message of it arrives there;
 * the connection's id is the peer the listener sees. It dies with either port, with either node's life, or by
 * sim_net_reset(). A message is looked up at its arrival: a dead end, a cut way or a changed connection
 * swallows it. Messages of one way keep their order unless drawn to be late, for that is what TCP does.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "sim/sim_internal.h"

enum { IN_FLIGHT_MAX = 1 << 16 };

static struct sim_port *port_of(struct net_port *p)
{
    return container_of(p, struct sim_port, base);
}

static struct sim_port *port_find(struct sim *s, uint64_t id)
{
    struct sim_port *p = id && id <= s->next_port ? s->ports[id - 1] : NULL;

    return p && !p->closed && !p->env->dead ? p : NULL;
}

static struct sim_conn *conn_find(struct sim *s, uint64_t id)
{
    return id && id <= s->n_conns && s->conns[id - 1].open ? &s->conns[id - 1] : NULL;
}

static int port_new(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg, bool listening,
                    struct net_port **ret_port)
{
    struct sim_env *se = container_of(e, struct sim_env, env);
    struct sim *s = se->node->sim;
    struct sim_port *p = tc_calloc(1, sizeof *p);

    p->base.env = e;
    p->env = se;
    p->endpoint = tc_strdup(endpoint);
    p->fn = fn;
    p->arg = arg;
    p->listening = listening;
    p->closed = se->dead;
    p->id = ++s->next_port;
    p->next = se->ports;
    se->ports = p;
    if (s->next_port > s->ports_cap) {
        s->ports_cap = s->ports_cap ? 2 * s->ports_cap : 64;
        s->ports = tc_realloc(s->ports, s->ports_cap * sizeof(struct sim_port *));
    }
    s->ports[p->id - 1] = p;
    *ret_port = &p->base;
    return 0;
}

static struct sim_port *listener_find(struct sim *s, const char *endpoint)
{
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        struct sim_env *se = s->nodes[i]->env;

        for (struct sim_port *p = se ? se->ports : NULL; p; p = p->next)
            if (p->listening && !p->closed && strcmp(p->endpoint, endpoint) == 0)
                return p;
    }
    return NULL;
}

int sim_listen(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg, struct net_port **ret_port)
{
    struct sim_env *se = container_of(e, struct sim_env, env);

    if (listener_find(se->node->sim, endpoint))
        return -TC_E_ADDRINUSE;
    return port_new(e, endpoint, fn, arg, true, ret_port);
}

int sim_connect(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg, struct net_port **ret_port)
{
    return port_new(e, endpoint, fn, arg, false, ret_port);
}

static void conn_close(struct sim *s, struct sim_conn *c)
{
    struct sim_port *p = port_find(s, c->client);

    c->open = false;
    if (p && p->conn == c->id)
        p->conn = 0;
}

static void port_end(struct sim *s, struct sim_port *p)
{
    if (p->closed)
        return;
    p->closed = true;
    for (uint32_t i = 0; i < s->n_conns; i++)
        if (s->conns[i].open && (s->conns[i].client == p->id || s->conns[i].server == p->id))
            conn_close(s, &s->conns[i]);
}

void sim_port_close(struct net_port *base)
{
    struct sim_port *p = port_of(base);

    port_end(p->env->node->sim, p); /* memory: with the simulation, for messages name it by id */
}

void sim_net_env_died(struct sim_env *e)
{
    for (struct sim_port *p = e->ports; p; p = p->next)
        port_end(e->node->sim, p);
}

void sim_net_reset(struct sim_node *n)
{
    struct sim *s = n->sim;

    for (uint32_t i = 0; i < s->n_conns; i++) {
        struct sim_conn *c = &s->conns[i];

        if (c->open && (s->ports[c->client - 1]->env->node == n || s->ports[c->server - 1]->env->node == n))
            conn_close(s, c);
    }
}

/* The connection on which a message of @client arrives at @server. */
static struct sim_conn *conn_get(struct sim *s, struct sim_port *client, struct sim_port *server)
{
    struct sim_conn *c = conn_find(s, client->conn);

    if (c && c->server == server->id)
        return c;
    if (c)
        conn_close(s, c);
    if (s->n_conns == s->conns_cap) {
        s->conns_cap = s->conns_cap ? 2 * s->conns_cap : 64;
        s->conns = tc_realloc(s->conns, s->conns_cap * sizeof *s->conns);
    }
    c = &s->conns[s->n_conns++];
    *c = (struct sim_conn){.id = s->n_conns, .client = client->id, .server = server->id, .open = true};
    client->conn = c->id;
    return c;
}

/* ---- messages ------------------------------------------------------------------------------------- */

/* Which node listens on @endpoint, alive or not: by its host. */
static struct sim_node *node_of_endpoint(struct sim *s, const char *endpoint)
{
    const char *host = strstr(endpoint, "://");
    size_t n;

    host = host ? host + 3 : endpoint;
    n = strcspn(host, ":");
    for (uint32_t i = 0; i < s->n_nodes; i++)
        if (strlen(s->nodes[i]->host) == n && strncmp(s->nodes[i]->host, host, n) == 0)
            return s->nodes[i];
    return NULL;
}

static void msg_schedule(struct sim *s, struct sim_port *from, struct sim_node *to, struct sim_env *to_env,
                         uint64_t to_port, uint64_t via, const char *endpoint, struct buf *head,
                         struct buf *payload, uint64_t late)
{
    struct sim_node *a = from->env->node;
    uint64_t bytes = head->len + (payload ? payload->len : 0);
    uint64_t at = s->now + 1000 + sim_latency(&s->net_rng, s->net.latency_ns) + bytes / 2;
    struct sim_event *ev;

    at += s->lag[a->index][to->index];
    if (late)
        at += late;
    else if (sim_chance(&s->net_rng, s->net.reorder_ppm))
        at += sim_below(&s->net_rng, s->net.reorder_ns + 1);
    else
        at = s->last_arrival[a->index][to->index] = MAX(at, s->last_arrival[a->index][to->index] + 1);
    ev = sim_schedule(s, SIM_MSG, to_env, at);
    ev->u.msg.to_port = to_port;
    ev->u.msg.from_port = from->id;
    ev->u.msg.from_node = a->index;
    ev->u.msg.via = via;
    ev->u.msg.head = buf_ref(head);
    ev->u.msg.payload = payload ? buf_ref(payload) : NULL;
    ev->u.msg.endpoint = endpoint ? tc_strdup(endpoint) : NULL;
}

static int msg_send(struct sim *s, struct sim_port *p, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct sim_conn *c = NULL;
    struct sim_port *to_port = NULL;
    struct sim_node *to;
    uint64_t late;

    if (p->closed)
        return -TC_E_UNREACHABLE;
    if (s->tap)
        s->tap(s->tap_arg, p->env->node, head, payload);
    if (p->listening) {
        c = conn_find(s, peer);
        to_port = c && c->server == p->id ? port_find(s, c->client) : NULL;
        if (!to_port) {
            s->stats.unreachable++;
            return -TC_E_UNREACHABLE;
        }
        to = to_port->env->node;
    } else {
        to = node_of_endpoint(s, p->endpoint);
    }
    s->stats.sent++;
    if (!to || s->cut[p->env->node->index][to->index]) {
        s->stats.cut++;
        return 0;
    }
    late = s->late ? s->late(s->late_arg, p->env->node, to, head) : 0;
    if (late == UINT64_MAX) {
        s->stats.lost++;
        return 0;
    }
    for (int copies = 1 + sim_chance(&s->net_rng, s->net.dup_ppm); copies; copies--) {
        if (copies > 1)
            s->stats.doubled++;
        if (sim_chance(&s->net_rng, s->net.loss_ppm)) {
            s->stats.lost++;
            continue;
        }
        msg_schedule(s, p, to, to_port ? to_port->env : to->env, to_port ? to_port->id : 0, c ? c->id : 0,
                     to_port ? NULL : p->endpoint, head, payload, late);
    }
    return 0;
}

int sim_send(struct net_port *base, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct sim_port *p = port_of(base);
    int r;

    r = msg_send(p->env->node->sim, p, peer, head, payload);
    buf_unref(head);
    buf_unref(payload);
    return r;
}

void sim_net_deliver(struct sim *s, struct sim_event *ev)
{
    struct sim_port *to, *from = s->ports[ev->u.msg.from_port - 1];
    uint64_t peer = 0;

    if (ev->u.msg.endpoint) {
        to = listener_find(s, ev->u.msg.endpoint);
        if (!to) /* a sender that has died since is no reason: what it sent is under way */
            return;
        if (to->env != ev->env)
            return; /* sent to an earlier life */
        if (s->cut[ev->u.msg.from_node][to->env->node->index]) {
            s->stats.cut++;
            return;
        }
        peer = conn_get(s, from, to)->id;
    } else {
        to = port_find(s, ev->u.msg.to_port);
        if (!to || !conn_find(s, ev->u.msg.via))
            return;
        if (s->cut[ev->u.msg.from_node][to->env->node->index]) {
            s->stats.cut++;
            return;
        }
    }
    s->stats.delivered++;
    s->trace = sim_mix(s->trace ^ XXH3_64bits(ev->u.msg.head->data, ev->u.msg.head->len));
    if (s->arrived)
        s->arrived(s->arrived_arg, to->env->node, ev->u.msg.head);
    to->fn(to->arg, peer, ev->u.msg.head, ev->u.msg.payload);
}

void sim_net_lag(struct sim *s, struct sim_node *a, struct sim_node *b, uint64_t ns)
{
    s->lag[a->index][b->index] = ns;
}

void sim_net_set(struct sim *s, const struct sim_net_options *o)
{
    s->net = *o;
}

void sim_net_set_arrived(struct sim *s, void (*fn)(void *arg, struct sim_node *to, struct buf *head), void *arg)
{
    s->arrived = fn;
    s->arrived_arg = arg;
}

void sim_net_set_tap(struct sim *s, void (*fn)(void *arg, struct sim_node *from, struct buf *head, struct buf *payload),
                     void *arg)
{
    s->tap = fn;
    s->tap_arg = arg;
}

void sim_net_set_late(struct sim *s, sim_net_late_fn *fn, void *arg)
{
    s->late = fn;
    s->late_arg = arg;
}

void sim_net_cut(struct sim *s, struct sim_node *a, struct sim_node *b, bool cut)
{
    s->cut[a->index][b->index] = cut;
}

void sim_net_heal(struct sim *s)
{
    memset(s->cut, 0, sizeof s->cut);
}

struct sim_net_stats sim_net_stats(const struct sim *s)
{
    return s->stats;
}

void sim_net_free(struct sim *s)
{
    for (uint64_t i = 0; i < s->next_port; i++) {
        free(s->ports[i]->endpoint);
        free(s->ports[i]);
    }
    free(s->ports);
    free(s->conns);
}
