/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members of the metadata group as a client knows them: a port to each, those it was started with and those of
 * maps and hints. A member that left the map is not asked any more, and gives its place to another.
 */
#include "client/internal.h"

#include "common/log.h"

static bool member_is(const struct meta_member_port *m, struct wire_str endpoint)
{
    return strlen(m->endpoint) == endpoint.n && !memcmp(m->endpoint, endpoint.p, endpoint.n);
}

/* A place for one more: behind the last, or that of a member that left the group. CLIENT_MEMBERS_MAX: none. */
static unsigned member_place(struct tc_client *c)
{
    for (unsigned i = 0; i < c->n_members && c->n_members == CLIENT_MEMBERS_MAX; i++) {
        if (!c->members[i].gone || i == c->leader)
            continue;
        env_port_close(c->members[i].port);
        free(c->members[i].endpoint);
        return i;
    }
    return c->n_members;
}

int meta_member_at(struct tc_client *c, struct wire_str endpoint)
{
    struct meta_member_port *m;
    unsigned at;
    int r;

    for (unsigned i = 0; i < c->n_members; i++) {
        if (member_is(&c->members[i], endpoint))
            return (int)i;
    }
    at = member_place(c);
    if (at == CLIENT_MEMBERS_MAX)
        return -TC_E_LIMIT;
    m = &c->members[at];
    *m = (struct meta_member_port){.c = c, .endpoint = tc_asprintf("%.*s", (int)endpoint.n, endpoint.p)};
    r = env_connect(c->env, m->endpoint, rpc_on_msg, m, &m->port);
    if (r < 0 && at == c->n_members) {
        free(m->endpoint);
        return r;
    }
    m->gone = r < 0; /* its port is NULL: nothing is sent there */
    c->n_members = MAX(c->n_members, at + 1);
    return r < 0 ? r : (int)at;
}

unsigned meta_member_behind(const struct tc_client *c, unsigned from, unsigned k)
{
    unsigned i = from;

    for (unsigned n = 0; n < c->n_members; n++) {
        i = (i + 1) % c->n_members;
        if (!c->members[i].gone && k-- <= 1)
            return i;
    }
    return from;
}

unsigned meta_members_beside(const struct tc_client *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->n_members; i++)
        n += !c->members[i].gone && i != c->leader;
    return n;
}

/* The map names every member: we may have been told of some only, and those may go. A name that the map never had
 * is kept: it may be another of the same machine's. */
void meta_conn_learn(struct tc_client *c, const struct cluster_map *map)
{
    for (unsigned i = 0; i < c->n_members && map->members.n; i++) {
        struct meta_member_port *m = &c->members[i];
        bool there = false;

        for (uint32_t k = 0; k < map->members.n; k++)
            there = there || member_is(m, map->members.items[k].endpoint);
        m->gone = m->in_map && !there;
        m->in_map = m->in_map || there;
    }
    for (uint32_t i = 0; i < map->members.n; i++) {
        int r = meta_member_at(c, map->members.items[i].endpoint);

        if (r < 0)
            LOG_WARN("client", "member cannot be connected to", "member=%u error=%s", map->members.items[i].id,
                     tc_error_name(r));
        else
            c->members[r].in_map = true;
    }
}
