/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stores as operators treat them, under load. FAULT_MOVE: drained, put in maintenance, taken back, away for seconds.
 * FAULT_NODES: one after the other is drained to the end and removed, and its machine comes again, empty, as another node.
 * A word may come while groups still move for the one before, and a store may die meanwhile. From streams of their own.
 */
#include "sim/nemesis_int.h"

static void fault_move(struct nemesis *n)
{
    static const uint32_t words[] = {STORE_IN, STORE_DRAIN, STORE_DRAIN, STORE_MAINTENANCE};
    struct cluster *c = n->c;
    unsigned i = (unsigned)sim_below(&n->move_rng, c->opt.n_store), what = (unsigned)sim_below(&n->move_rng, 6);

    if (what < ARRAY_SIZE(words)) {
        if (&c->stores[i] == n->nodes.s)
            return; /* it is on its way out */
        cluster_log(c, "operator: store %u admin %u", c->stores[i].id, words[what]);
        cluster_say(c, c->stores[i].id, words[what]);
        return;
    }
    for (unsigned k = 0; k < c->opt.n_store; k++) {
        if (!sim_node_alive(c->stores[k].node))
            return; /* one at a time: there is to be a quorum to copy from */
    }
    i += c->opt.n_meta;
    nemesis_kill(n, i);
    n->back_at[i] = sim_now(c->s) + (2500 + sim_below(&n->move_rng, 5000)) * NS_PER_MS;
}

void move_tick(struct nemesis *n)
{
    if (!(n->c->opt.faults & (FAULT_MOVE | FAULT_NODES)) || !n->c->opt.n_store)
        return;
    if (n->until && (n->c->opt.faults & FAULT_MOVE) && sim_below(&n->move_rng, n->c->opt.move) == 0)
        fault_move(n);
    if (!n->until && sim_now(n->c->s) < n->take_back_until && sim_below(&n->move_rng, 2) == 0) {
        /* One word at a time: the leader takes no other before that is through. */
        struct store *s = &n->c->stores[sim_below(&n->move_rng, n->c->opt.n_store)];

        if (s != n->nodes.s)
            cluster_say(n->c, s->id, STORE_IN);
    }
}

/* ---- nodes go, nodes come ------------------------------------------------------------------------- */

static void say(struct nemesis *n, uint32_t admin)
{
    if (sim_now(n->c->s) < n->nodes.say_at)
        return;
    n->nodes.say_at = sim_now(n->c->s) + (100 + sim_below(&n->nodes.rng, 600)) * NS_PER_MS;
    cluster_say(n->c, n->nodes.s->id, admin);
}

static void come_again(struct nemesis *n)
{
    struct store *s = n->nodes.s;
    unsigned i = n->c->opt.n_meta + (unsigned)(s - n->c->stores);

    cluster_log(n->c, "operator: store %u was removed, node %u is added", s->id, n->nodes.next_id);
    if (sim_node_alive(s->node))
        nemesis_kill(n, i);
    sim_disk_erase(sim_node_disk(s->node));
    s->id = n->nodes.next_id++;
    n->hurt.emptied[s - n->c->stores] = 0;
    n->back_at[i] = sim_now(n->c->s) + (10 + sim_below(&n->nodes.rng, 3000)) * NS_PER_MS;
    n->nodes.s = NULL;
}

static void nodes_begin(struct nemesis *n)
{
    struct cluster *c = n->c;

    if (c->opt.n_store <= c->opt.n || n->hurt.store)
        return;
    n->nodes.s = &c->stores[sim_below(&n->nodes.rng, c->opt.n_store)];
    n->nodes.drained = false;
    cluster_log(c, "operator: store %u is to be removed", n->nodes.s->id);
}

void nodes_tick(struct nemesis *n)
{
    uint32_t stranger;
    uint64_t store;

    if (!(n->c->opt.faults & FAULT_NODES) || !cluster_leader(n->c))
        return;
    stranger = cluster_stranger(n->c);
    if (stranger) /* an old registration brought it back, and nobody wants it */
        cluster_say(n->c, stranger, STORE_REMOVE);
    if (!n->nodes.s) {
        if (n->until && sim_below(&n->nodes.rng, n->c->opt.move) == 0)
            nodes_begin(n);
        return;
    }
    store = cluster_store_of(n->c, n->nodes.s->id);
    if (!store) {
        if (n->nodes.drained)
            come_again(n);
        return;
    }
    if (!n->until && !n->nodes.drained) {
        n->nodes.s = NULL; /* it is taken back with the others */
        return;
    }
    n->nodes.drained = n->nodes.drained || !cluster_store_holds(n->c, store);
    say(n, n->nodes.drained ? STORE_REMOVE : STORE_DRAIN);
}
