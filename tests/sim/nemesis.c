/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults. Each is drawn from a stream of its own, so that a seed's faults do not change with the work.
 */
#include "sim/nemesis_int.h"

#include <stdio.h>
#include <string.h>

struct nemesis *nemesis_new(struct cluster *c)
{
    struct nemesis *n = tc_calloc(1, sizeof *n);

    n->c = c;
    n->rng = sim_stream(c->opt.seed, 0xfa01, 0);
    n->move_rng = sim_stream(c->opt.seed, 0xfa02, 0);
    n->rot_rng = sim_stream(c->opt.seed, 0xfa03, 0);
    n->hurt.rng = sim_stream(c->opt.seed, 0xfa04, 0);
    n->group.rng = sim_stream(c->opt.seed, 0xfa05, 0);
    n->group.next_id = 100;
    n->cut.rng = sim_stream(c->opt.seed, 0xfa07, 0);
    n->nodes.rng = sim_stream(c->opt.seed, 0xfa06, 0);
    n->nodes.next_id = 100;
    n->hurt.data = (c->opt.faults & FAULT_ROT) || sim_below(&n->hurt.rng, 2);
    n->n_nodes = c->opt.n_meta + c->opt.n_store + c->opt.n_client + (c->n_members - c->opt.n_meta);
    if (c->opt.faults & FAULT_DAMAGE) {
        c->strike_log = hurt_on_log;
        c->strike_arg = n;
    }
    return n;
}

void nemesis_free(struct nemesis *n)
{
    n->c->strike_log = NULL;
    free(n);
}

static struct client *client_at(struct nemesis *n, unsigned i)
{
    unsigned servers = n->c->opt.n_meta + n->c->opt.n_store;

    return i >= servers && i < servers + n->c->opt.n_client ? &n->c->clients[i - servers] : NULL;
}

static struct member *member_at(struct nemesis *n, unsigned i)
{
    unsigned others = n->c->opt.n_store + n->c->opt.n_client;

    if (i < n->c->opt.n_meta)
        return &n->c->members[i];
    return i >= n->c->opt.n_meta + others ? &n->c->members[i - others] : NULL;
}

static struct store *store_at(struct nemesis *n, unsigned i)
{
    struct cluster *c = n->c;

    return i >= c->opt.n_meta && i < c->opt.n_meta + c->opt.n_store ? &c->stores[i - c->opt.n_meta] : NULL;
}

/* Node number @i of @count servers that begin at @first; the spare members are behind the others. */
static unsigned server_at(struct nemesis *n, unsigned first, unsigned count, uint64_t i)
{
    return (unsigned)(i < count ? first + i : n->n_nodes - 1 - (i - count));
}

static bool held_down(struct nemesis *n, unsigned i)
{
    struct member *m = member_at(n, i);
    struct store *s = store_at(n, i);

    return (m && m->down) || (s && s->down);
}

void nemesis_kill(struct nemesis *n, unsigned i)
{
    n->resume_at[i] = 0;
    if (member_at(n, i))
        member_kill(member_at(n, i));
    else if (store_at(n, i))
        store_kill(store_at(n, i));
    else
        client_kill(client_at(n, i));
}

unsigned nemesis_node_of(struct nemesis *n, const struct member *m)
{
    unsigned i = (unsigned)(m - n->c->members);

    return i < n->c->opt.n_meta ? i : i + n->c->opt.n_store + n->c->opt.n_client;
}

static void node_boot(struct nemesis *n, unsigned i)
{
    n->back_at[i] = 0;
    if (held_down(n, i))
        return;
    if (member_at(n, i))
        member_boot(member_at(n, i));
    else if (store_at(n, i))
        store_boot(store_at(n, i));
    else
        client_boot(client_at(n, i));
}

static uint64_t some(struct nemesis *n, uint64_t min_ms, uint64_t max_ms)
{
    return sim_now(n->c->s) + (min_ms + sim_below(&n->rng, max_ms - min_ms + 1)) * NS_PER_MS;
}

static void fault_kill(struct nemesis *n, unsigned first, unsigned count)
{
    unsigned spares = first ? 0 : n->c->n_members - n->c->opt.n_meta;
    unsigned i = server_at(n, first, count, sim_below(&n->rng, count + spares));
    struct sim_node *node = cluster_node(n->c, i);

    if (!sim_node_alive(node))
        return;
    nemesis_kill(n, i);
    if ((n->c->opt.faults & FAULT_POWER) && sim_below(&n->rng, 2))
        sim_disk_power_loss(sim_node_disk(node), SIM_LOSS_RANDOM);
    n->back_at[i] = some(n, 10, sim_below(&n->rng, 4) ? 1500 : 8000);
}

static void fault_power(struct nemesis *n)
{
    cluster_log(n->c, "power loss everywhere");
    for (unsigned i = 0; i < n->n_nodes; i++) {
        struct sim_node *node = cluster_node(n->c, i);

        if (client_at(n, i) && sim_below(&n->rng, 2))
            continue;
        if (sim_node_alive(node)) {
            nemesis_kill(n, i);
            n->back_at[i] = some(n, 10, 2000);
        }
        sim_disk_power_loss(sim_node_disk(node), SIM_LOSS_RANDOM);
    }
}

static void fault_pause(struct nemesis *n)
{
    unsigned i = (unsigned)sim_below(&n->rng, n->n_nodes);
    struct sim_node *node = cluster_node(n->c, i);

    if (!sim_node_alive(node) || sim_node_paused(node))
        return;
    sim_node_pause(node, true);
    if (client_at(n, i))
        client_disturb(client_at(n, i), true);
    n->resume_at[i] = some(n, 20, sim_below(&n->rng, 4) ? 1000 : 12000);
    cluster_log(n->c, "%s stopped", sim_node_host(node));
}

/* Clients that any cut touches may lose their sessions. */
static void disturb_clients(struct nemesis *n, bool on, const bool *side)
{
    for (unsigned i = 0; i < n->c->opt.n_client; i++) {
        unsigned at = n->c->opt.n_meta + n->c->opt.n_store + i;

        if (!n->resume_at[at] && !cut_has(n, &n->c->clients[i]))
            client_disturb(&n->c->clients[i], on && side);
    }
}

void nemesis_disturbed_no_more(struct nemesis *n, struct client *cl)
{
    unsigned at = n->c->opt.n_meta + n->c->opt.n_store + cl->index;

    if (!n->heal_at && !n->resume_at[at] && !cut_has(n, cl))
        client_disturb(cl, false);
}

static void fault_partition(struct nemesis *n)
{
    bool side[NODES] = {false}, back = sim_below(&n->rng, 3) != 0;
    bool alone = sim_below(&n->rng, 2);
    unsigned who = (unsigned)sim_below(&n->rng, n->n_nodes);

    sim_net_heal(n->c->s);
    for (unsigned i = 0; i < n->n_nodes; i++)
        side[i] = alone ? i == who : sim_below(&n->rng, 2);
    for (unsigned i = 0; i < n->n_nodes; i++)
        for (unsigned k = 0; k < n->n_nodes; k++)
            if (side[i] != side[k] && (side[i] || back))
                sim_net_cut(n->c->s, cluster_node(n->c, i), cluster_node(n->c, k), true);
    disturb_clients(n, true, side);
    n->heal_at = some(n, 50, sim_below(&n->rng, 3) ? 2000 : 10000);
    cluster_log(n->c, "partition: %s, %s", back ? "both ways" : "one way", alone ? sim_node_host(cluster_node(n->c, who)) : "split");
}

static void fault_net(struct nemesis *n)
{
    struct sim_net_options o = {.latency_ns = (20 + sim_below(&n->rng, 2000)) * NS_PER_US,
                                .loss_ppm = sim_below(&n->rng, 3) ? 0 : sim_below(&n->rng, 100000),
                                .dup_ppm = sim_below(&n->rng, 2) ? 0 : sim_below(&n->rng, 100000),
                                .reorder_ppm = sim_below(&n->rng, 2) ? 0 : sim_below(&n->rng, 200000),
                                .reorder_ns = sim_below(&n->rng, 200) * NS_PER_MS};

    if (sim_below(&n->rng, 10) == 0)
        o.reorder_ns = (3 + sim_below(&n->rng, 6)) * NS_PER_S; /* messages from long ago: of sessions that are dead now */
    sim_net_set(n->c->s, &o);
    n->calm_at = some(n, 100, 3000);
    if (!n->lag_from && n->c->opt.n_store && n->c->opt.n_client && sim_below(&n->rng, 4) == 0) {
        /* what a client sent to one store arrives when its session is long dead */
        unsigned servers = n->c->opt.n_meta + n->c->opt.n_store;
        unsigned i = (unsigned)sim_below(&n->rng, n->c->opt.n_client);

        if (n->c->opt.faults & FAULT_KILL_CLIENT) {
            n->doomed = i;
            n->doom_at = some(n, 20, 500);
        }
        n->lag_from = cluster_node(n->c, servers + i);
        n->lag_to = cluster_node(n->c, n->c->opt.n_meta + (unsigned)sim_below(&n->rng, n->c->opt.n_store));
        sim_net_lag(n->c->s, n->lag_from, n->lag_to, (1 + sim_below(&n->rng, 12)) * NS_PER_S);
        cluster_log(n->c, "messages of %s to %s take long", sim_node_host(n->lag_from), sim_node_host(n->lag_to));
    }
}

static struct sim_node *any_server(struct nemesis *n)
{
    unsigned servers = n->c->opt.n_meta + n->c->opt.n_store, spares = n->c->n_members - n->c->opt.n_meta;

    return cluster_node(n->c, server_at(n, 0, servers, sim_below(&n->rng, servers + spares)));
}

static void fault_disk(struct nemesis *n)
{
    struct sim_node *node = any_server(n);

    if (!sim_node_alive(node))
        return;
    if (sim_below(&n->rng, 2)) {
        sim_node_stall(node, (10 + sim_below(&n->rng, 1500)) * NS_PER_MS);
        cluster_log(n->c, "%s: disk stalls", sim_node_host(node));
    } else {
        sim_disk_crash_after(sim_node_disk(node), sim_below(&n->rng, 40));
    }
}

static void fault_clock(struct nemesis *n)
{
    struct sim_node *node = cluster_node(n->c, (unsigned)sim_below(&n->rng, n->n_nodes));

    uint64_t jump_ms = sim_below(&n->rng, 3) ? 20000 : 1200000;

    if (sim_below(&n->rng, 2)) /* any two differ by less than 10 % */
        sim_node_set_drift(node, (int64_t)sim_below(&n->rng, 90000) - 45000);
    else
        sim_node_set_wall(node, ((int64_t)sim_below(&n->rng, jump_ms) - (int64_t)jump_ms / 2) * (int64_t)NS_PER_MS);
}

static void on_stopped(void *arg)
{
    ((struct member *)arg)->stopped = true;
}

/* By hand, or because the member is to be stopped: it ends when it has handed over (nemesis_mend). */
static void fault_transfer(struct nemesis *n)
{
    struct member *m = cluster_leader(n->c);

    if (!m || m->stopping)
        return;
    if (sim_below(&n->rng, 2)) {
        if (meta_server_transfer(m->server))
            cluster_log(n->c, "member %u hands leadership over", m->id);
    } else {
        m->stopping = true;
        meta_server_stop(m->server, 2000, on_stopped, m);
    }
}

/* Everything else goes on without that disk. */
static void fault_slow(struct nemesis *n)
{
    struct sim_node *node = any_server(n);

    if (!sim_node_alive(node) || n->slow_until > sim_now(n->c->s))
        return;
    n->slow_until = some(n, 2000, 8000);
    sim_node_stall(node, n->slow_until - sim_now(n->c->s));
    cluster_log(n->c, "%s: disk stalls for seconds", sim_node_host(node));
}

static void nemesis_calm(struct nemesis *n)
{
    struct sim_net_options o = {.latency_ns = 100 * NS_PER_US};

    sim_net_set(n->c->s, &o);
    n->calm_at = 0;
    if (n->lag_from)
        sim_net_lag(n->c->s, n->lag_from, n->lag_to, 0);
    n->lag_from = NULL;
}

static void nemesis_mend(struct nemesis *n, bool all)
{
    uint64_t now = sim_now(n->c->s);

    for (unsigned i = 0; i < n->n_nodes && !n->c->failed; i++) {
        struct sim_node *node = cluster_node(n->c, i);

        if (n->resume_at[i] && (all || n->resume_at[i] <= now)) {
            n->resume_at[i] = 0;
            sim_node_pause(node, false);
            if (client_at(n, i))
                nemesis_disturbed_no_more(n, client_at(n, i));
            cluster_log(n->c, "%s goes on", sim_node_host(node));
        }
        if (member_at(n, i) && member_at(n, i)->stopped && sim_node_alive(node)) {
            cluster_log(n->c, "member %u stopped as planned", member_at(n, i)->id);
            nemesis_kill(n, i);
        }
        if (!sim_node_alive(node) && !n->back_at[i] && !held_down(n, i)) {
            n->back_at[i] = some(n, 10, 1000); /* crashed by itself: its disk froze, or it gave up */
            if ((n->c->opt.faults & FAULT_POWER) && sim_below(&n->rng, 2))
                sim_disk_power_loss(sim_node_disk(node), SIM_LOSS_RANDOM);
        }
        if (n->back_at[i] && (all || n->back_at[i] <= now))
            node_boot(n, i);
    }
    if (n->heal_at && (all || n->heal_at <= now)) {
        n->heal_at = 0;
        sim_net_heal(n->c->s);
        disturb_clients(n, false, NULL);
        cluster_log(n->c, "partition healed");
    }
    if (n->calm_at && (all || n->calm_at <= now))
        nemesis_calm(n);
    if (n->doom_at && n->doom_at <= now) {
        unsigned i = n->c->opt.n_meta + n->c->opt.n_store + n->doomed;

        n->doom_at = 0;
        if (!all && sim_node_alive(cluster_node(n->c, i))) {
            nemesis_kill(n, i);
            n->back_at[i] = some(n, 2000, 8000);
        }
    }
}

struct pick {
    struct sim_rng *rng;
    char name[128];
    uint64_t seen;
};

static int pick_name(void *arg, const char *name)
{
    struct pick *p = arg;

    if (sim_below(p->rng, ++p->seen) == 0)
        snprintf(p->name, sizeof p->name, "%s", name);
    return 0;
}

/* One byte of one chunk file, of the store that this seed has it in for: the other copies are whole. */
static void rot_tick(struct nemesis *n)
{
    struct cluster *c = n->c;
    struct pick p = {.rng = &n->rot_rng};
    struct sim_node *node;
    unsigned dir;
    char path[200];

    if (!(c->opt.faults & FAULT_ROT) || !n->until || !c->opt.n_store || sim_below(&n->rot_rng, 2))
        return;
    node = c->stores[c->opt.seed % c->opt.n_store].node;
    dir = (unsigned)sim_below(&n->rot_rng, 16);
    for (unsigned k = 0; k < 16 && !p.name[0]; k++) {
        snprintf(path, sizeof path, "store/data/%02x", (dir + k) % 16);
        if (!sim_node_alive(node) || vfs_list(sim_disk_vfs(sim_node_disk(node)), path, pick_name, &p) < 0)
            return;
    }
    if (!p.name[0])
        return;
    snprintf(path + strlen(path), sizeof path - strlen(path), "/%s", p.name);
    for (unsigned k = 0; k < 16; k++) {
        uint64_t off = sim_below(&n->rot_rng, 256) * 4096 + sim_below(&n->rot_rng, 4096);

        if (!sim_disk_flip(sim_node_disk(node), path, off, (uint8_t)(1u << sim_below(&n->rot_rng, 8))))
            continue;
        cluster_log(c, "%s: a bit rots in %s at %llu", sim_node_host(node), path, (unsigned long long)off);
        return;
    }
}

static void nemesis_strike(struct nemesis *n)
{
    struct cluster *c = n->c;
    uint32_t f = 1u << sim_below(&n->rng, FAULTS_DRAWN);

    if (!(f & c->opt.faults))
        return;
    switch (f) {
    case FAULT_KILL_META:
        fault_kill(n, 0, c->opt.n_meta);
        break;
    case FAULT_KILL_STORE:
        if (c->opt.n_store)
            fault_kill(n, c->opt.n_meta, c->opt.n_store);
        break;
    case FAULT_KILL_CLIENT:
        if (c->opt.n_client)
            fault_kill(n, c->opt.n_meta + c->opt.n_store, c->opt.n_client);
        break;
    case FAULT_POWER:
        if (sim_below(&n->rng, 4) == 0)
            fault_power(n);
        break;
    case FAULT_PAUSE:
        fault_pause(n);
        break;
    case FAULT_PARTITION:
        fault_partition(n);
        break;
    case FAULT_NET:
        fault_net(n);
        break;
    case FAULT_DISK:
        fault_disk(n);
        break;
    case FAULT_CLOCK:
        fault_clock(n);
        break;
    case FAULT_TRANSFER:
        fault_transfer(n);
        break;
    case FAULT_SLOW:
        fault_slow(n);
        break;
    case FAULT_RESET:
        sim_net_reset(cluster_node(c, (unsigned)sim_below(&n->rng, n->n_nodes)));
        break;
    }
}

static void nemesis_tick(void *arg)
{
    struct nemesis *n = arg;

    if (n->c->failed)
        return;
    if (n->until && sim_now(n->c->s) >= n->until)
        nemesis_heal(n);
    nemesis_mend(n, false); /* to the end of the run: a server that gives up is started again */
    if (n->until && sim_below(&n->rng, n->c->opt.strike) == 0)
        nemesis_strike(n);
    cut_tick(n);
    move_tick(n);
    rot_tick(n);
    nodes_tick(n);
    hurt_tick(n);
    members_tick(n);
    sim_at(n->c->s, sim_now(n->c->s) + 50 * NS_PER_MS, nemesis_tick, n);
}

void nemesis_start(struct nemesis *n, uint64_t until)
{
    n->until = until;
    sim_at(n->c->s, sim_now(n->c->s), nemesis_tick, n);
}

void nemesis_heal(struct nemesis *n)
{
    n->until = 0;
    n->take_back_until = sim_now(n->c->s) + 10 * NS_PER_S;
    n->calm_at = 1;
    for (unsigned i = 0; i < n->n_nodes; i++)
        sim_node_set_drift(cluster_node(n->c, i), 0);
    for (unsigned i = 0; i < n->n_nodes; i++)
        sim_disk_crash_after(sim_node_disk(cluster_node(n->c, i)), UINT64_MAX);
    nemesis_mend(n, true);
    nemesis_mend(n, true); /* those found dead just now */
    cluster_log(n->c, "no more faults");
}
