/* SPDX-License-Identifier: Apache-2.0 */
/* What the harness knows of the cluster by looking into its servers: is the group whole, where are the copies. */
#include "common/map.h"
#include "meta/fsm.h"
#include "meta/replica.h"
#include "sim/cluster.h"

static const struct replica_peer_status *peer_of(const struct replica_status *s, uint32_t id)
{
    for (unsigned i = 0; i < s->n_peers; i++)
        if (s->peers[i].id == id)
            return &s->peers[i];
    return NULL;
}

bool cluster_group_whole(struct cluster *c)
{
    struct member *lead = cluster_leader(c);
    struct replica_status s, own;
    unsigned n = 0;

    if (!lead)
        return false;
    meta_server_group(lead->server, &s);
    for (unsigned i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];

        if (!m->in)
            continue;
        n++;
        if (!m->server || m->fatal || sim_node_crashed(m->node) || !peer_of(&s, m->id) || !peer_of(&s, m->id)->voter)
            return false;
        meta_server_group(m->server, &own);
        if (own.damage || !own.voter || own.installing || own.cluster != s.cluster)
            return false;
    }
    return n == s.n_peers && s.commit >= s.config_index;
}

uint64_t cluster_store_of(struct cluster *c, uint32_t node)
{
    struct member *m = cluster_leader(c);
    struct fsm *f = m ? meta_server_fsm(m->server) : NULL;
    const struct fsm_store *stores;
    uint32_t n = 0;

    stores = f ? fsm_stores(f, &n) : NULL;
    for (uint32_t i = 0; i < n; i++)
        if (stores[i].node == node && stores[i].state != STORE_REPLACED)
            return stores[i].store;
    return 0;
}

uint32_t cluster_stranger(struct cluster *c)
{
    struct member *m = cluster_leader(c);
    struct fsm *f = m ? meta_server_fsm(m->server) : NULL;
    const struct fsm_store *stores;
    uint32_t n = 0;

    stores = f ? fsm_stores(f, &n) : NULL;
    for (uint32_t i = 0; i < n; i++) {
        bool ours = stores[i].state == STORE_REPLACED;

        for (unsigned k = 0; k < c->opt.n_store; k++)
            ours = ours || c->stores[k].id == stores[i].node;
        if (!ours)
            return stores[i].node;
    }
    return 0;
}

bool cluster_store_holds(struct cluster *c, uint64_t store)
{
    struct member *m = cluster_leader(c);
    struct fsm *f = m ? meta_server_fsm(m->server) : NULL;
    const struct map_pg *pg;

    for (uint32_t i = 0; f && (pg = fsm_pg(f, i)); i++)
        if (map_is_voter(pg, store))
            return true;
    return !f;
}

/* Does the leader take a store for the one that was at its node before? */
static bool mistaken(struct cluster *c, const struct fsm_store *known)
{
    struct storage_status st;

    for (unsigned i = 0; i < c->opt.n_store; i++) {
        struct store *s = &c->stores[i];

        if (s->id != known->node || !s->server || !sim_node_alive(s->node))
            continue;
        storage_server_status(s->server, &st);
        return st.store != known->store;
    }
    return false;
}

bool cluster_placed(struct cluster *c)
{
    struct member *m = cluster_leader(c);
    const struct fsm_store *stores;
    struct fsm *f = m ? meta_server_fsm(m->server) : NULL;
    uint32_t n, up = 0;

    if (!f || !fsm_has_table(f))
        return false;
    stores = fsm_stores(f, &n);
    for (uint32_t i = 0; i < n; i++) {
        up += stores[i].state == STORE_UP;
        if (stores[i].store == c->lost_store && stores[i].state != STORE_REPLACED)
            return false; /* nobody knows yet */
        if (stores[i].state == STORE_UP && mistaken(c, &stores[i]))
            return false;
    }
    for (uint32_t i = 0; i < c->opt.pg_count; i++) {
        const struct map_pg *pg = fsm_pg(f, i);

        if (pg->n != c->opt.n || pg->n_next)
            return false;
        for (unsigned k = 0; k < pg->n; k++)
            if (!fsm_store(f, pg->voters[k]) || fsm_store(f, pg->voters[k])->state == STORE_REPLACED)
                return false;
    }
    return up == c->opt.n_store;
}
