/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damage (damage.h): of one member at a time, and of one store at a time, and of the next one only when the group, or the
 * placement, is whole again: what is promised holds while one copy is lost.
 */
#include <stdlib.h>
#include <string.h>

#include "meta/replica.h"
#include "sim/damage.h"
#include "sim/nemesis_int.h"

enum { LATENT_S = 20 }; /* by then a store that runs has scrubbed all it has */
enum { EMPTIED_MAX = 3 }; /* of one store: then it refuses, and says that the disk is to be looked at */

/* The process ends, and perhaps power with it; then its files are to be hurt. */
static void strike_down(struct nemesis *n, unsigned i)
{
    struct sim_node *node = cluster_node(n->c, i);
    bool power = (n->c->opt.faults & FAULT_POWER) && sim_below(&n->hurt.rng, 2);

    nemesis_kill(n, i);
    n->back_at[i] = sim_now(n->c->s) + (10 + sim_below(&n->hurt.rng, 2000)) * NS_PER_MS;
    sim_disk_power_loss(sim_node_disk(node), power ? SIM_LOSS_RANDOM : SIM_LOSS_NONE);
    sim_disk_reopen(sim_node_disk(node));
}

static bool put_foreign(struct nemesis *n, struct member *m)
{
    struct sim_disk *d = sim_node_disk(m->node), *from;

    if (m->id > n->c->opt.n_meta)
        return false; /* that cluster had no such member: it would not start */
    from = sim_node_disk(n->c->foreign[m->id - 1]);
    sim_disk_reopen(from);
    sim_disk_erase(d);
    return damage_copy(d, from, "meta");
}

/* When its last check of its own files ended, by its own time; 0: there was none in this life. */
static uint64_t check_ended(struct member *m)
{
    char *json = meta_server_status_json(m->server), *at = json ? strstr(json, "\"check\":") : NULL;
    uint64_t ended = 0;

    at = at ? strstr(at, "\"ended\":") : NULL;
    if (at)
        ended = strtoull(at + strlen("\"ended\":"), NULL, 10);
    free(json);
    return ended;
}

/* It read its files again since, from the beginning; or it started, and so read them all. */
static bool was_found(struct hurt *h)
{
    uint64_t ended;

    if (h->member->boots != h->boots)
        return true;
    ended = check_ended(h->member);
    h->checks += ended != h->check_ended; /* the first may have begun before */
    h->check_ended = ended;
    return h->checks >= 2;
}

static void hurt_member(struct nemesis *n)
{
    struct cluster *c = n->c;
    struct member *m = &c->members[sim_below(&n->hurt.rng, c->n_members)];
    bool foreign = sim_below(&n->hurt.rng, 8) == 0, live = !foreign && sim_below(&n->hurt.rng, 3) == 0;
    struct damage d = {0};
    struct replica_status s;
    unsigned in = 0;

    for (unsigned i = 0; i < c->n_members; i++)
        in += c->members[i].in;
    if (in < 3 || !m->in || !members_idle(n) || !cluster_group_whole(c))
        return;
    meta_server_group(m->server, &s);
    if (live)
        d = damage_live_member(sim_node_disk(m->node), &n->hurt.rng);
    else
        strike_down(n, nemesis_node_of(n, m));
    if (foreign && put_foreign(n, m))
        d = (struct damage){.what = "its files are those of another cluster", .votes_gone = true};
    else if (!foreign && !live)
        d = damage_member(sim_node_disk(m->node), &n->hurt.rng);
    if (!d.what)
        return;
    cluster_log(c, "damage: member %u%s: %s", m->id, live ? ", while it runs" : "", d.what);
    if (d.votes_gone)
        m->bad = s.incarnation;
    n->hurt.member = m;
    n->hurt.boots = m->boots;
    n->hurt.checks = 0;
    n->hurt.check_ended = live ? check_ended(m) : 0;
}

static void hurt_store(struct nemesis *n)
{
    struct cluster *c = n->c;
    unsigned i = (unsigned)(n->hurt.data ? c->opt.seed % c->opt.n_store : sim_below(&n->hurt.rng, c->opt.n_store));
    struct store *s = &c->stores[i];
    uint64_t id = cluster_store_of(c, s->id);
    struct damage d;
    bool live;

    if (!id || s == n->nodes.s || n->hurt.emptied[i] >= EMPTIED_MAX || !sim_node_alive(s->node) || !cluster_placed(c))
        return;
    live = sim_below(&n->hurt.rng, 3) == 0;
    if (live) {
        d = damage_live_store(sim_node_disk(s->node), &n->hurt.rng);
    } else {
        strike_down(n, c->opt.n_meta + i);
        d = damage_store(sim_node_disk(s->node), &n->hurt.rng, n->hurt.data && sim_below(&n->hurt.rng, 2));
    }
    if (!d.what)
        return;
    cluster_log(c, "damage: store %u%s: %s", s->id, live ? ", while it runs" : "", d.what);
    if (d.emptied)
        c->lost_store = id;
    n->hurt.emptied[i] += !d.data;
    n->hurt.store = s;
    n->hurt.whole_at = sim_now(c->s) + (live ? LATENT_S : 4) * NS_PER_S;
}

/* There is no damaged index where there is none. */
static void write_index(struct nemesis *n)
{
    struct store *s = &n->c->stores[n->hurt.index_of];

    if (sim_now(n->c->s) < n->hurt.index_at)
        return;
    n->hurt.index_at = sim_now(n->c->s) + NS_PER_S;
    n->hurt.index_of = (n->hurt.index_of + 1) % n->c->opt.n_store;
    if (s->server && sim_node_alive(s->node) && !s->fatal)
        storage_server_checkpoint(s->server);
}

/* Every other snapshot rots before it is sent: it is there for a moment only. */
void hurt_on_log(void *arg, const char *line)
{
    struct nemesis *n = arg;
    uint64_t k = n->hurt.snapshots;

    if (!n->until || !strstr(line, "msg=\"snapshot made\"") || n->hurt.snapshots++ % 2)
        return;
    for (unsigned i = 0; i < n->c->n_members; i++)
        (void)sim_disk_flip(sim_node_disk(n->c->members[i].node), "meta/snap-out", 40 + k * 37 % 160, (uint8_t)(1u << k % 8));
}

bool hurt_idle(const struct nemesis *n)
{
    return !n->hurt.member;
}

void hurt_tick(struct nemesis *n)
{
    struct cluster *c = n->c;
    struct hurt *h = &n->hurt;

    if (!(c->opt.faults & FAULT_DAMAGE))
        return;
    write_index(n);
    if (h->member && h->member->server && was_found(h) && cluster_group_whole(c)) {
        cluster_log(c, "damage: member %u is whole again", h->member->id);
        h->member = NULL;
    }
    if (h->store && sim_now(c->s) > h->whole_at && sim_node_alive(h->store->node) && cluster_placed(c)) {
        cluster_log(c, "damage: store %u is whole again", h->store->id);
        h->store = NULL;
    }
    if (!n->until || sim_below(&h->rng, c->opt.hurt))
        return;
    if (sim_below(&h->rng, 2) && !h->member)
        hurt_member(n);
    else if (c->opt.n_store > c->opt.w && !h->store)
        hurt_store(n);
}
