/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is forgotten: orphans (removed files that nobody holds any more) are reaped, sessions that ended long ago and that nobody
 * asks for go.
 */
#include "common/test_rules.h"
#include "meta/server_internal.h"

#define FORGET_AFTER_NS (3600 * NS_PER_S)
#define TIGHT_REAP_MS 200u /* some store is short of space: what was removed goes soon */

/* ---- orphans ---- */

static void reap_applied(struct meta_server *s, struct meta_op *op, int status)
{
    struct cmd_reap *cmd = op->arg;

    (void)status;
    for (uint32_t i = 0; i < cmd->inos.n; i++)
        lease_set_reaping(s->lead->leases, cmd->inos.items[i], false);
    s->lead->reaping = false;
}

/* An orphan waits for whoever may hold it: those who are silent for a TTL need not be waited for, others are asked. */
static void reap_held(struct meta_server *s, uint64_t ino)
{
    struct lease_ref *r, *next;
    struct meta_session *holder = NULL;
    struct fsm_lease f;

    if (fsm_lease(s->fsm, ino, &f) && !f.dead) {
        holder = lead_session(s, f.session);
        if (holder && session_silent(s, holder))
            session_expire(s, holder, "silent, and holds a removed file");
    }
    for (r = lease_refs_of(s->lead->leases, ino); r; r = next) {
        struct meta_session *x = container_of(r->session, struct meta_session, lease);

        next = r->next;
        if (session_silent(s, x))
            session_expire(s, x, "silent, and holds a removed file");
        else if (x != holder)
            lease_ask_orphan(s->lead->leases, r, env_now(s->env));
    }
}

static void reap_unsettled(struct meta_server *s)
{
    struct meta_session *x, *tmp;
    uint64_t any;

    if (fsm_orphans(s->fsm, 0, &any, 1) == 0)
        return;
    HASH_ITER(hh, s->lead->sessions, x, tmp)
    {
        if (x->old && session_silent(s, x))
            session_expire(s, x, "silent, and may hold a removed file");
    }
}

static void reap(struct meta_server *s)
{
    struct lead *l = s->lead;
    uint64_t inos[REAP_BATCH], go[REAP_BATCH];
    struct cmd_reap cmd = {.inos = {go, 0}};
    struct fsm_lease f;
    uint32_t n;

    if (!l->settled)
        reap_unsettled(s);
    if ((!l->settled && TC_RULE(REAP_LISTED)) || l->reaping)
        return;
    n = fsm_orphans(s->fsm, l->reap_after, inos, REAP_BATCH);
    l->reap_after = n ? inos[n - 1] : 0;
    for (uint32_t i = 0; i < n; i++) {
        bool held = lease_any_ref(l->leases, inos[i]) || (fsm_lease(s->fsm, inos[i], &f) && !f.dead);

        if (!held || (s->cfg.rules_off & META_RULE_REAP_REFS))
            go[cmd.inos.n++] = inos[i];
        else
            reap_held(s, inos[i]);
    }
    if (!cmd.inos.n)
        return;
    memcpy(l->reap_inos, go, cmd.inos.n * sizeof(go[0]));
    l->reap_cmd = (struct cmd_reap){.inos = {l->reap_inos, cmd.inos.n}};
    for (uint32_t i = 0; i < cmd.inos.n; i++)
        lease_set_reaping(l->leases, go[i], true);
    l->reaping = true;
    if (internal_propose(s, CMD_REAP, &cmd_reap_schema, &cmd, reap_applied, &l->reap_cmd) < 0) {
        for (uint32_t i = 0; i < cmd.inos.n; i++)
            lease_set_reaping(l->leases, go[i], false);
        l->reaping = false;
    }
}

/* ---- sessions that nobody asks for any more ---- */

static void forget(struct meta_server *s)
{
    struct dead_session dead[64];
    struct cmd_sessions cmd = {{dead, 0}};
    uint64_t now = server_time(s);
    struct fsm_session f;

    for (uint64_t after = 0; cmd.sessions.n < ARRAY_SIZE(dead) && fsm_session_next(s->fsm, after, &f); after = f.id) {
        if (f.state != FSM_SESSION_LIVE && f.ended + (TC_RULE(REPLIES_STAY) ? FORGET_AFTER_NS : 0) < now && f.n_x == 0)
            dead[cmd.sessions.n++] = (struct dead_session){f.id, f.incarnation};
    }
    if (cmd.sessions.n)
        (void)internal_propose(s, CMD_SESSION_FORGET, &cmd_sessions_schema, &cmd, NULL, NULL); /* or the next time */
}

void reap_tick(struct meta_server *s, uint64_t now)
{
    if (now - s->lead->reaped_at >= (stores_tight(s) ? MIN(s->cfg.sweep_ms, TIGHT_REAP_MS) : s->cfg.sweep_ms) * NS_PER_MS) {
        s->lead->reaped_at = now;
        reap(s);
    }
    if (now - s->lead->forgot_at >= 60 * NS_PER_S) {
        s->lead->forgot_at = now;
        forget(s);
    }
}
