/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When nobody of the metadata group answers: it may be that none of the members we know is in it any more, for we were
 * cut off, or stood still, while they were replaced. The stores know (PROTOCOL 2.6), so every two seconds one of them, each in
 * its turn, is asked for its map. In an outage of the group that costs a small message: who has no newer map says so. Who has no
 * map with stores, a mount that begins with an old configuration for one, asks those it was started with.
 *
 * The port is to the store asked last, and lives until the next one is asked or the group answers.
 */
#include "client/internal.h"

#include "common/log.h"

#define LOST_NS (2 * NS_PER_S)

static void on_answer(void *arg, uint64_t peer TC_UNUSED, struct buf *head, struct buf *payload TC_UNUSED)
{
    struct tc_client *c = arg;
    struct wire_header h;
    struct cluster_map m;
    struct slice body;

    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0 || h.kind != WIRE_REPLY ||
        h.type != MSG_MAP_GET || h.status != 0 || h.id != c->lost_id || (c->cluster_tag && h.cluster != c->cluster_tag))
        return;
    wire_arena_reset(&c->arena);
    if (wire_decode(body, &cluster_map_schema, &c->arena, &m) < 0 || m.epoch <= c->map->epoch)
        return;
    LOG_INFO("client", "a store knows a newer map", "epoch=%lu have=%lu", (unsigned long)m.epoch, (unsigned long)c->map->epoch);
    map_take(c, &m);
}

static uint32_t candidates(const struct tc_client *c)
{
    return c->map->n_stores ? c->map->n_stores : c->cfg.n_stores;
}

/* The endpoint of the @i-th: as the map has it, or the configuration, if no map had stores. NULL: it is not there any more. */
static const char *candidate(const struct tc_client *c, uint32_t i)
{
    const struct map_store *s;

    if (!c->map->n_stores)
        return c->cfg.stores[i];
    s = map_store_there(c->map, c->map->stores[i].store);
    return s ? s->endpoint : NULL;
}

static void ask(struct tc_client *c)
{
    struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_MAP_GET, .cluster = c->cluster_tag};
    struct map_get_req req = {.have = c->map->epoch};

    for (uint32_t n = 0, of = candidates(c); n < of; n++) {
        const char *endpoint = candidate(c, c->lost_store++ % of);

        if (!endpoint || env_connect(c->env, endpoint, on_answer, c, &c->lost_port) < 0)
            continue;
        h.id = c->lost_id = env_random(c->env) | 1;
        (void)env_send(c->lost_port, 0, wire_encode_frame(&h, &map_get_req_schema, &req), NULL); /* the next one is asked soon */
        return;
    }
}

static void lost_tick(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, lost_timer);
    uint64_t now = env_now(c->env);

    lost_stop(c);
    if (c->state == SESSION_CLOSED || c->state == SESSION_NONE || (session_valid(c) && now < c->alive_sent + LOST_NS))
        return;
    ask(c);
    env_timer_set(c->env, t, now + LOST_NS);
}

void lost_watch(struct tc_client *c)
{
    if (!candidates(c) || env_timer_armed(&c->lost_timer))
        return;
    c->lost_timer.fn = lost_tick;
    c->lost_store = (uint32_t)env_random(c->env);
    env_timer_set(c->env, &c->lost_timer, env_now(c->env) + LOST_NS);
}

void lost_stop(struct tc_client *c)
{
    env_timer_cancel(c->env, &c->lost_timer);
    env_port_close(c->lost_port);
    c->lost_port = NULL;
    c->lost_id = 0;
}
