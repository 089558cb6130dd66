/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One client at a time is cut off for about as long as its session lives: from all servers, or from the members alone, so
 * that it goes on writing to stores when it is long dead; both ways, or so that it is heard and hears nothing. From a
 * stream of its own; partitions (nemesis.c) come and go beside it.
 */
#include "sim/nemesis_int.h"

static void cut_set(struct nemesis *n, bool on)
{
    struct cluster *c = n->c;
    struct cut *k = &n->cut;

    for (unsigned i = 0; i < n->n_nodes; i++) {
        struct sim_node *s = cluster_node(c, i);
        bool store = i >= c->opt.n_meta && i < c->opt.n_meta + c->opt.n_store;

        if (s == k->client->node || (store && !k->stores))
            continue;
        if (k->from)
            sim_net_cut(c->s, k->client->node, s, on);
        if (k->to)
            sim_net_cut(c->s, s, k->client->node, on);
    }
}

static void cut_begin(struct nemesis *n)
{
    struct cut *k = &n->cut;
    uint64_t ttl = n->c->opt.ttl_ms, way = sim_below(&k->rng, 4);

    k->client = &n->c->clients[sim_below(&k->rng, n->c->opt.n_client)];
    k->stores = sim_below(&k->rng, 2);
    k->from = way != 0;
    k->to = way != 1;
    k->until = sim_now(n->c->s) + (ttl / 2 + sim_below(&k->rng, 2 * ttl)) * NS_PER_MS;
    cluster_log(n->c, "client %u is cut off from %s, %s", k->client->index, k->stores ? "all" : "the members",
                way == 0 ? "hears nothing" : way == 1 ? "is not heard" : "both ways");
}

bool cut_has(const struct nemesis *n, const struct client *cl)
{
    return n->cut.client == cl;
}

void cut_tick(struct nemesis *n)
{
    struct cut *k = &n->cut;

    if (!(n->c->opt.faults & FAULT_CUT) || !n->c->opt.n_client)
        return;
    if (!k->client) {
        if (!n->until || sim_below(&k->rng, n->c->opt.cut))
            return;
        cut_begin(n);
    }
    if (n->until && sim_now(n->c->s) < k->until) {
        cut_set(n, true); /* again and again: partitions heal all ways */
        if (sim_node_alive(k->client->node))
            client_disturb(k->client, true);
        return;
    }
    cut_set(n, false);
    cluster_log(n->c, "client %u is cut off no more", k->client->index);
    nemesis_disturbed_no_more(n, TAKE(k->client));
}
