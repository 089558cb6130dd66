/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the other members are, and changes of who they are. Raft's core knows ids; endpoints come from the
 * configuration at the start, then from the owner, who reads them in the entries that change the group
 * (as soon as they are in the log: to commit one may need the very member it brings), and from members that are
 * not known here but say themselves where they are.
 */
#include <string.h>

#include "common/log.h"
#include "meta/replica_int.h"

struct replica_peer_link *replica_link(struct replica *r, uint64_t id)
{
    for (unsigned i = 0; i < r->n_peers; i++)
        if (r->peers[i].id == id)
            return &r->peers[i];
    return NULL;
}

const char *replica_endpoint(const struct replica *r, uint32_t id)
{
    for (unsigned i = 0; i < r->n_peers; i++)
        if (r->peers[i].id == id)
            return r->peers[i].endpoint;
    return NULL;
}

/* Answers come to the owner's own port: nobody speaks on these. */
static void on_peer_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    (void)arg;
    (void)peer;
    (void)head;
    (void)payload;
}

int replica_link_open(struct replica *r, struct replica_peer_link *l)
{
    if (l->id == r->id || l->port)
        return 0;
    return env_connect(r->env, l->endpoint, on_peer_msg, r, &l->port);
}

static void link_close(struct replica_peer_link *l)
{
    env_port_close(l->port);
    free(l->endpoint);
    *l = (struct replica_peer_link){0};
}

/* Room for one more: at the end, or that of a member which the configuration does not name. */
static struct replica_peer_link *link_room(struct replica *r)
{
    const struct raft_config *c = raft_config_now(r->core);

    if (r->n_peers < REPLICA_PEERS_MAX)
        return &r->peers[r->n_peers++];
    for (unsigned i = 0; i < r->n_peers; i++) {
        if (r->peers[i].id == r->id || raft_config_find(c, r->peers[i].id))
            continue;
        link_close(&r->peers[i]);
        return &r->peers[i];
    }
    return NULL;
}

static struct replica_peer_link *link_add(struct replica *r, uint64_t id, const char *endpoint, size_t len)
{
    struct replica_peer_link *l = link_room(r);
    int err;

    if (!l)
        return NULL;
    *l = (struct replica_peer_link){.id = (uint32_t)id, .endpoint = tc_asprintf("%.*s", (int)len, endpoint)};
    err = r->started ? replica_link_open(r, l) : 0;
    if (err < 0)
        LOG_WARN("raft", "member cannot be connected to", "member=%u endpoint=%s error=%s", l->id, l->endpoint,
                 tc_error_name(err));
    return l;
}

struct replica_peer_link *replica_learn(struct replica *r, uint64_t id, struct wire_str endpoint)
{
    if (id == 0 || id > UINT32_MAX || endpoint.n == 0 || endpoint.n > 255)
        return NULL;
    LOG_INFO("raft", "a member unknown here says where it is", "member=%u endpoint=%.*s", (unsigned)id,
             (int)endpoint.n, endpoint.p);
    return link_add(r, id, endpoint.p, endpoint.n);
}

static bool peers_have(const struct replica_peer *peers, unsigned n, uint32_t id)
{
    for (unsigned i = 0; i < n; i++)
        if (peers[i].id == id)
            return true;
    return false;
}

void replica_set_peers(struct replica *r, const struct replica_peer *peers, unsigned n)
{
    uint32_t leader = replica_leader(r);
    unsigned kept = 0;

    for (unsigned i = 0; i < r->n_peers; i++) {
        struct replica_peer_link *l = &r->peers[i];

        if (l->id == r->id || l->id == leader || peers_have(peers, n, l->id))
            r->peers[kept++] = *l;
        else
            link_close(l);
    }
    r->n_peers = kept;
    for (unsigned i = 0; i < n; i++) {
        struct replica_peer_link *l = replica_link(r, peers[i].id);

        if (l && strcmp(l->endpoint, peers[i].endpoint) == 0)
            continue;
        if (!l) {
            (void)link_add(r, peers[i].id, peers[i].endpoint, strlen(peers[i].endpoint));
            continue;
        }
        env_port_close(l->port);
        l->port = NULL;
        free(l->endpoint);
        l->endpoint = tc_strdup(peers[i].endpoint);
        if (r->started && replica_link_open(r, l) < 0)
            LOG_WARN("raft", "member cannot be connected to", "member=%u endpoint=%s", l->id, l->endpoint);
    }
}

/* -- changes ---------------------------------------------------------------------------------- */

/* Entries that change the members, from the applied one on: shown to the owner again when the list changed. */
void replica_members_work(struct replica *r)
{
    struct raft_status s;

    if (!r->members_changed)
        return;
    r->members_changed = false;
    if (!r->ops->members)
        return;
    raft_get_status(r->core, &s);
    for (uint64_t i = MAX(r->applied + 1, s.first); i <= s.config_index && !r->closing; i++) {
        const struct raft_entry *e = raft_entry_at(r->core, i);
        struct slice data;

        if (!e || e->type != RAFT_ENTRY_CONFIG)
            continue;
        data = replica_entry_data(e);
        if (data.len > 0)
            r->ops->members(r->arg, data);
    }
}

int replica_change(struct replica *r, uint32_t id, enum replica_change_how how, struct slice data,
                   uint64_t *ret_index)
{
    static const uint32_t roles[] = {
        [REPLICA_ADD] = RAFT_STANDBY, [REPLICA_PROMOTE] = RAFT_VOTER, [REPLICA_REMOVE] = RAFT_REMOVED};
    struct raft_event ev = {.type = RAFT_EV_CHANGE, .peer = id, .member_role = roles[how], .data = data.data,
                            .len = (uint32_t)data.len};
    struct raft_status s;
    int err;

    if (!r->started || r->failed || r->closing)
        return -TC_E_NOT_LEADER;
    err = replica_step_err(r, &ev);
    if (err < 0)
        return err;
    raft_get_status(r->core, &s);
    *ret_index = s.config_index;
    return 0;
}
