/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client as a whole: opening, leaving in order, freeing, counters.
 *
 * Leaving: everything dirty is flushed, X is given back, then the session is closed by an entry; each step is
 * looked at again every few milliseconds until the time allowed is up.
 */
#include "client/internal.h"

#include <stdio.h>

#include "common/log.h"

#define SHUTDOWN_POLL_NS (5 * NS_PER_MS)

static void shutdown_tick(struct env_timer *t);

int tc_client_open(struct env *env, const struct tc_client_config *cfg, tc_status_fn *ready, void *arg,
                   struct tc_client **ret_client)
{
    struct tc_client *c = tc_calloc(1, sizeof(*c));
    int r;

    c->env = env;
    c->cfg = *cfg;
    c->name = tc_strdup(cfg->name ? cfg->name : "");
    c->root_path = tc_strdup(cfg->root ? cfg->root : "/");
    c->wait_ns = cfg->wait_ms == UINT64_MAX ? UINT64_MAX : cfg->wait_ms * NS_PER_MS;
    c->memory_max = cfg->memory_max ? cfg->memory_max : (256u << 20);
    c->dirty_max = MAX(c->memory_max / 2, 4u << 20);
    c->read_anywhere = cfg->read_anywhere;
    c->dirty_age = (cfg->dirty_age_ms ? cfg->dirty_age_ms : 1000) * NS_PER_MS;
    c->inodes_max = (unsigned)MIN(MAX(c->memory_max / 4096, 4096), 4 * INODES_MAX_DEFAULT);
    c->ready = ready;
    c->ready_arg = arg;
    c->map = map_new();
    c->shut_timer.fn = shutdown_tick;
    calls_init(c);
    lease_init(c);
    dirty_init(c);
    r = meta_conn_open(c, cfg->members, cfg->n_members);
    if (r < 0) {
        tc_client_free(c);
        return r;
    }
    session_start(c);
    *ret_client = c;
    return 0;
}

void tc_client_free(struct tc_client *c)
{
    if (!c)
        return;
    session_stop(c);
    quorum_close(c->quorum);
    c->quorum = NULL;
    calls_fini(c);
    fetches_drop(c);
    soughts_drop(c);
    meta_conn_close(c);
    inodes_fini(c);
    outside_fini(c);
    lease_fini(c);
    dirty_fini(c);
    env_timer_cancel(c->env, &c->shut_timer);
    map_free(c->map);
    wire_arena_fini(&c->arena);
    free(c->name);
    free(c->root_path);
    free(c);
}

uint64_t tc_client_root(const struct tc_client *c)
{
    return c->root;
}

/* ---- leaving -------------------------------------------------------------------------------------------------- */

static void shutdown_finish(struct tc_client *c, int status)
{
    tc_status_fn *done = c->shut_done;

    c->shut_done = NULL;
    env_timer_cancel(c->env, &c->shut_timer);
    if (status == 0)
        session_stop(c);
    if (done)
        done(c->shut_arg, status);
}

static void close_done(struct rpc *r, int status, const void *res TC_UNUSED)
{
    struct tc_client *c = r->c;

    if (status != 0 && status != -TC_E_FENCED)
        LOG_WARN("client", "session could not be closed", "error=%s", tc_error_name(status));
    if (c->shut_done)
        shutdown_finish(c, 0);
}

static void shutdown_tick(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, shut_timer);
    uint64_t now = env_now(c->env);
    struct session_close_req req = {.has_ctx = true};
    struct inode *i, *tmp;

    if (now >= c->shut_deadline) {
        shutdown_finish(c, -TC_E_DEADLINE);
        return;
    }
    env_timer_set(c->env, t, now + SHUTDOWN_POLL_NS);
    if (c->closing)
        return;
    if (c->state == SESSION_OPENING || c->state == SESSION_NONE) {
        shutdown_finish(c, 0); /* there is nothing to leave */
        return;
    }
    DL_FOREACH_SAFE2(c->x_list, i, tmp, x_next)
    {
        if (i->dirty_blocks)
            (void)flush_all(c, i);
        else if (!i->n_flights && !i->writers && (!i->n_tails || now >= c->shut_started + NS_PER_S))
            lease_end_unasked(c, i);
    }
    if (c->x_list || c->commits_inflight || c->commit_q || c->mapped > 0)
        return;
    c->closing = true;
    RPC(c, MSG_SESSION_CLOSE, RPC_MUTATION | RPC_URGENT, session_close_req, &req, empty_msg, close_done, c);
}

void tc_client_shutdown(struct tc_client *c, uint64_t timeout_ms, tc_status_fn *done, void *arg)
{
    uint64_t now = env_now(c->env);

    c->shutting_down = true;
    c->shut_done = done;
    c->shut_arg = arg;
    c->shut_deadline = timeout_ms >= UINT64_MAX / NS_PER_MS ? UINT64_MAX : now + timeout_ms * NS_PER_MS;
    c->shut_started = now;
    env_timer_set(c->env, &c->shut_timer, now);
}

/* ---- counters --------------------------------------------------------------------------------------------------- */

static const char *state_name(const struct tc_client *c)
{
    static const char *const names[] = {"none", "opening", "valid", "suspended", "closed"};

    return names[c->state];
}

char *tc_client_stats(struct tc_client *c)
{
    const struct client_stats *s = &c->stats;
    unsigned n_x = 0;
    struct inode *i;

    DL_FOREACH2(c->x_list, i, x_next)
    n_x++;
    return tc_asprintf(
        "{\"session\":%lu,\"state\":\"%s\",\"caching\":%s,\"leader\":\"%s\",\"term\":%lu,\"map_epoch\":%lu,"
        "\"inodes\":%u,\"dentries\":%u,\"x_leases\":%u,\"dirty_bytes\":%lu,\"flight_bytes\":%lu,"
        "\"rpcs\":%lu,\"rpc_resends\":%lu,\"recalls\":%lu,\"keepalives\":%lu,\"commits\":%lu,\"flushes\":%lu,"
        "\"flushed_bytes\":%lu,\"reads\":%lu,\"read_bytes\":%lu,\"fetches\":%lu,\"writes\":%lu,\"write_bytes\":%lu,"
        "\"lookups\":%lu,\"lookup_hits\":%lu,\"getattrs\":%lu,\"getattr_hits\":%lu,\"expiries\":%lu,\"generations\":%lu,"
        "\"errors\":%lu}",
        (unsigned long)c->session, state_name(c), session_caching(c) ? "true" : "false",
        c->leader_known ? c->members[c->leader].endpoint : "", (unsigned long)c->leader_term,
        (unsigned long)c->map->epoch, c->n_inodes, c->n_dentries, n_x, (unsigned long)c->dirty_bytes,
        (unsigned long)c->flight_bytes, (unsigned long)s->rpcs, (unsigned long)s->rpc_resends, (unsigned long)s->recalls,
        (unsigned long)s->keepalives, (unsigned long)s->commits, (unsigned long)s->flushes, (unsigned long)s->flushed_bytes,
        (unsigned long)s->reads, (unsigned long)s->read_bytes, (unsigned long)s->fetches, (unsigned long)s->writes,
        (unsigned long)s->write_bytes, (unsigned long)s->lookups, (unsigned long)s->lookup_hits, (unsigned long)s->getattrs,
        (unsigned long)s->getattr_hits, (unsigned long)s->expiries, (unsigned long)s->generations, (unsigned long)s->errors);
}
