/* SPDX-License-Identifier: Apache-2.0 */
/* What others may know of a replica: role, lease, term, log, peers. Nothing here changes anything. */
#include "meta/replica_int.h"

#define WRONG_CLUSTER_TOLD (10 * NS_PER_S) /* so long it is a problem in status */

bool replica_leads(const struct replica *r)
{
    return r->leading != 0 && !r->failed;
}

bool replica_lease_valid(const struct replica *r)
{
    return r->started && !r->failed && raft_lease_valid(r->core, env_now(r->env));
}

bool replica_failed(const struct replica *r)
{
    return r->failed;
}

uint64_t replica_term(const struct replica *r)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    return s.term;
}

uint32_t replica_leader(const struct replica *r)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    return (uint32_t)s.leader;
}

uint64_t replica_cluster(const struct replica *r)
{
    return r->state.cluster;
}

uint64_t replica_term_at(const struct replica *r, uint64_t index)
{
    return raft_term_at(r->core, index);
}

uint64_t replica_last(const struct replica *r)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    return s.last;
}

uint64_t replica_log_bytes(const struct replica *r)
{
    return raft_log_bytes(r->core);
}

static void status_peer(const struct replica *r, const struct raft_status *s,
                        const struct raft_peer_status *p, struct replica_peer_status *ret)
{
    static const char *const states[] = {"probe", "replicate", "snapshot"};
    uint64_t now = env_now(r->env);
    uint64_t heard = s->role == RAFT_LEADER ? p->heard_at : 0;

    ret->id = (uint32_t)p->id;
    ret->self = p->self;
    ret->voter = p->member_role == RAFT_VOTER;
    ret->standby = p->member_role == RAFT_STANDBY;
    ret->blank = p->blank;
    ret->state = p->self ? raft_role_name(s->role) : states[p->state];
    ret->match = p->match;
    ret->lag = s->last - MIN(s->last, p->match);
    ret->snapshot_bytes = p->snapshot_offset;
    ret->snapshot_refusals = p->snapshot_refusals;
    for (unsigned i = 0; i < r->n_peers; i++) {
        if (r->peers[i].id != p->id)
            continue;
        ret->endpoint = r->peers[i].endpoint;
        if (s->role != RAFT_LEADER)
            heard = r->peers[i].heard_at;
    }
    ret->heard_ms = heard == 0 ? UINT64_MAX : (now - MIN(now, heard)) / NS_PER_MS;
    if (p->self)
        ret->heard_ms = 0;
}

void replica_get_status(const struct replica *r, struct replica_status *ret)
{
    struct raft_status s;

    raft_get_status(r->core, &s);
    *ret = (struct replica_status){
        .id = r->id,
        .leader = (uint32_t)s.leader,
        .term = s.term,
        .role = raft_role_name(s.role),
        .formatted = s.last > 0,
        .voter = s.voter,
        .lease = replica_lease_valid(r),
        .installing = s.installing,
        .parted = s.parted,
        .refused = r->applied < r->in.index ? r->in.refused : 0,
        .damage = r->damage,
        .first = s.first,
        .last = s.last,
        .persisted = s.persisted,
        .commit = s.commit,
        .applied = r->applied,
        .config_index = s.config_index,
        .cluster = r->state.cluster,
        .incarnation = s.incarnation,
        .log_bytes = raft_log_bytes(r->core),
        .wrong_cluster = env_now(r->env) - r->wrong_cluster_at < WRONG_CLUSTER_TOLD ? r->wrong_cluster : 0,
        .n_peers = s.n_peers,
    };
    for (unsigned i = 0; i < s.n_peers; i++)
        status_peer(r, &s, &s.peers[i], &ret->peers[i]);
}
