/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/check_fence.h"

#include <inttypes.h>

#include "common/map.h"
#include "common/schema.h"

enum { SENT_MAX = 16384, DEAD_MAX = 1024 };

struct check_fence {
    struct cluster *c;
    struct {
        uint64_t id, session;
        uint32_t incarnation;
    } sent[SENT_MAX]; /* by id; an old one is forgotten for a new one */
    struct {
        uint64_t session, epoch; /* of a map that names it */
        uint32_t incarnation;
    } dead[DEAD_MAX];
    uint32_t n_dead;
};

struct check_fence *check_fence_new(struct cluster *c)
{
    struct check_fence *k = tc_calloc(1, sizeof *k);

    k->c = c;
    return k;
}

void check_fence_free(struct check_fence *k)
{
    free(k);
}

void check_fence_write(struct check_fence *k, uint64_t id, const struct write_req *req)
{
    uint64_t at = (id ^ id >> 14) % SENT_MAX;

    k->sent[at].id = id;
    k->sent[at].session = req->session;
    k->sent[at].incarnation = req->incarnation;
}

static void note_dead(struct check_fence *k, uint64_t session, uint32_t incarnation, uint64_t epoch)
{
    for (uint32_t i = 0; i < k->n_dead; i++)
        if (k->dead[i].session == session && k->dead[i].incarnation == incarnation) {
            k->dead[i].epoch = MIN(k->dead[i].epoch, epoch);
            return;
        }
    if (k->n_dead == DEAD_MAX)
        return;
    k->dead[k->n_dead].session = session;
    k->dead[k->n_dead].incarnation = incarnation;
    k->dead[k->n_dead++].epoch = epoch;
}

static void check_ack(struct check_fence *k, uint64_t id, uint64_t map_epoch)
{
    uint64_t at = (id ^ id >> 14) % SENT_MAX;

    if (k->sent[at].id != id || !k->sent[at].session)
        return;
    for (uint32_t i = 0; i < k->n_dead; i++)
        if (k->dead[i].session == k->sent[at].session && k->dead[i].incarnation >= k->sent[at].incarnation &&
            k->dead[i].epoch <= map_epoch)
            cluster_fail(k->c,
                         "a write of session %" PRIu64 " was acknowledged under map %" PRIu64 ", which names it dead",
                         k->sent[at].session, map_epoch);
}

void check_fence_reply(struct check_fence *k, const struct wire_header *h, struct slice body, struct wire_arena *arena)
{
    struct cluster_map map;
    struct write_res res;

    if (h->status)
        return;
    if (h->type == MSG_MAP_GET && wire_decode(body, &cluster_map_schema, arena, &map) == 0)
        for (uint32_t i = 0; i < map.dead.n; i++)
            note_dead(k, map.dead.items[i].session, map.dead.items[i].incarnation, map.epoch);
    if (h->type == MSG_WRITE && wire_decode(body, &write_res_schema, arena, &res) == 0)
        for (uint32_t i = 0; i < res.items.n; i++)
            if (res.items.items[i].status == 0)
                check_ack(k, h->id, res.map_epoch);
}
