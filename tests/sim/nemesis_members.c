/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The group changes under load, as `tercet meta` does it: a member is added on an empty machine and promoted, a living one
 * is removed, a dead one (its disk is lost) is removed and another takes its place. One change at a time, said again and
 * again until the leader's configuration shows it; what is said may come late, twice, or to a leader that must refuse it.
 *
 * An id is never used again: a word that was on its way for seconds is about a member that is no more.
 */
#include "meta/replica.h"
#include "sim/nemesis_int.h"

static unsigned n_in(struct cluster *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->n_members; i++)
        n += c->members[i].in;
    return n;
}

static struct member *pick(struct nemesis *n, bool in)
{
    struct member *m = NULL;
    uint64_t seen = 0;

    for (unsigned i = 0; i < n->c->n_members; i++)
        if (n->c->members[i].in == in && sim_below(&n->group.rng, ++seen) == 0)
            m = &n->c->members[i];
    return m;
}

static void say(struct nemesis *n, uint32_t id, uint32_t op, const char *endpoint)
{
    if (sim_now(n->c->s) < n->group.say_at)
        return;
    n->group.say_at = sim_now(n->c->s) + (100 + sim_below(&n->group.rng, 600)) * NS_PER_MS;
    cluster_say_member(n->c, id, op, endpoint);
}

/* The machine is empty, and out of the cluster. */
static void put_out(struct nemesis *n, struct member *m)
{
    if (sim_node_alive(m->node))
        nemesis_kill(n, nemesis_node_of(n, m));
    n->back_at[nemesis_node_of(n, m)] = 0;
    sim_disk_erase(sim_node_disk(m->node));
    m->in = m->leaving = false;
    m->down = true;
}

static void begin_add(struct nemesis *n, struct member *m)
{
    m->id = n->group.next_id++;
    m->bad = 0;
    m->in = true;
    m->down = false;
    n->group.m = m;
    n->group.step = GROUP_ADD;
    n->group.replace = false;
    member_boot(m);
    cluster_log(n->c, "operator: member %u is to be added", m->id);
}

static void begin_remove(struct nemesis *n, struct member *m, bool replace)
{
    n->group.m = m;
    n->group.step = GROUP_REMOVE;
    n->group.replace = replace;
    m->leaving = true;
    if (replace) { /* dead for good */
        uint32_t id = m->id;

        put_out(n, m);
        cluster_log(n->c, "operator: member %u is dead for good, and is to be replaced", id);
    } else {
        m->in = false;
        cluster_log(n->c, "operator: member %u is to be removed", m->id);
    }
}

/* What an old word brought back, nobody wants. */
static void tidy(struct nemesis *n, const struct replica_status *s)
{
    for (unsigned i = 0; i < s->n_peers; i++) {
        bool wanted = false;

        for (unsigned k = 0; k < n->c->n_members; k++)
            wanted = wanted || (n->c->members[k].in && n->c->members[k].id == s->peers[i].id);
        if (!wanted)
            say(n, s->peers[i].id, META_REMOVE, NULL);
    }
}

static void begin(struct nemesis *n)
{
    unsigned in = n_in(n->c);

    switch (sim_below(&n->group.rng, 4)) {
    case 0:
    case 1:
        if (in < n->c->n_members)
            begin_add(n, pick(n, false));
        break;
    case 2:
        if (in > 1)
            begin_remove(n, pick(n, true), false);
        break;
    default:
        if (in >= 3 && cluster_group_whole(n->c)) /* those that are left are a majority that has all */
            begin_remove(n, pick(n, true), true);
        break;
    }
}

static void go_on(struct nemesis *n, const struct replica_status *s)
{
    struct group *g = &n->group;
    const struct replica_peer_status *p = NULL;

    for (unsigned i = 0; i < s->n_peers; i++)
        if (s->peers[i].id == g->m->id)
            p = &s->peers[i];
    switch (g->step) {
    case GROUP_IDLE:
        tidy(n, s);
        break;
    case GROUP_ADD:
        if (p)
            g->step = GROUP_PROMOTE;
        else
            say(n, g->m->id, META_ADD, g->m->endpoint);
        break;
    case GROUP_PROMOTE:
        if (!p) { /* an entry that was never committed */
            g->step = GROUP_ADD;
        } else if (!p->voter) {
            say(n, g->m->id, META_PROMOTE, NULL);
        } else if (s->commit >= s->config_index) {
            g->step = GROUP_IDLE;
            cluster_log(n->c, "operator: a member was added: %u", g->m->id);
        }
        break;
    case GROUP_REMOVE:
        if (p) {
            say(n, g->m->id, META_REMOVE, NULL);
        } else if (s->commit >= s->config_index) {
            g->step = GROUP_IDLE;
            cluster_log(n->c, g->replace ? "operator: a dead member was forgotten: %u" : "operator: a member left: %u", g->m->id);
            put_out(n, g->m);
            if (g->replace)
                begin_add(n, pick(n, false));
        }
        break;
    }
}

bool members_idle(const struct nemesis *n)
{
    return n->group.step == GROUP_IDLE;
}

void members_tick(struct nemesis *n)
{
    struct member *lead = cluster_leader(n->c);
    struct replica_status s;

    if (!(n->c->opt.faults & FAULT_MEMBERS) || !lead)
        return;
    meta_server_group(lead->server, &s);
    if (!n->group.m)
        n->group.m = &n->c->members[0];
    if (n->group.step == GROUP_IDLE && n->until && sim_below(&n->group.rng, n->c->opt.change) == 0 && hurt_idle(n))
        begin(n);
    else
        go_on(n, &s);
}
