/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When no leader answers: it may be that none of the members this store knows is in the group any more, for it was cut off, or
 * stood still, while they were replaced. The other stores know (PROTOCOL 2.6), so one of them, each in its turn, is asked
 * every two seconds.
 *
 * Only who the members are is learned so. The map itself is the leader's to give, once it knows this store: one that was
 * rolled back must not serve under a new map.
 */
#include "storage/server_int.h"

#include "common/log.h"

#define LOST_NS (2 * NS_PER_S)

static void on_reply(struct rpc_call *call, const struct rpc_reply *reply)
{
    struct storage_server *s = container_of(call, struct storage_server, lost_call);
    struct wire_arena a = {0};
    struct cluster_map msg;
    struct map *m = map_new();

    if (!s->closing && reply->status == 0 && wire_decode(reply->body, &cluster_map_schema, &a, &msg) == 0 &&
        msg.epoch > s->map->epoch && map_apply(m, &msg) == 0 && !memcmp(m->cluster, s->id.cluster, sizeof(m->cluster))) {
        LOG_INFO("storage", "another store knows a newer map", "node=%u epoch=%llu have=%llu", s->cfg.node,
                 (unsigned long long)m->epoch, (unsigned long long)s->map->epoch);
        leader_learn(s, m);
    }
    map_free(m);
    wire_arena_fini(&a);
}

void lost_heard(struct storage_server *s)
{
    s->lost_at = 0;
}

void lost_silence(struct storage_server *s)
{
    uint64_t now = env_now(s->env);
    struct map_get_req req;

    if (!s->lost_at)
        s->lost_at = now + LOST_NS;
    if (now < s->lost_at || !s->map || rpc_pending(&s->lost_call))
        return;
    s->lost_at = now + LOST_NS;
    req = (struct map_get_req){.have = s->map->epoch};
    for (uint32_t n = 0; n < s->map->n_stores; n++) {
        uint64_t id = s->map->stores[s->lost_store++ % s->map->n_stores].store;
        struct rpc_link *l = id == s->id.store ? NULL : server_peer(s, id);

        if (!l)
            continue;
        s->lost_call.done = on_reply;
        rpc_call(l, &s->lost_call, MSG_MAP_GET, &map_get_req_schema, &req, NULL, LOST_NS);
        return;
    }
}
