/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where placement groups are: the first table, transitions begun by the planner (placement.h) and ended when their
 * newcomers are complete (PROTOCOL 6.3), and what operators say about stores.
 *
 * The planner runs when something changed, and on a timer; each run proposes at most one PG_UPDATE entry, and none
 * while one is in the log. All that lasts is in entries: what this file remembers (why a group moves, who had it
 * before) only saves work, and a new leader does without.
 */
#include "meta/server_internal.h"

#include "common/test_rules.h"
#include "meta/placement.h"

#define TABLE_WAIT_NS (3 * NS_PER_S) /* for the rest of the configured stores, once n are up */
#define MOVING_MAX 512               /* groups that move for balance or a drain at once */

/* Every newcomer of the transition has all chunks at this very epoch. */
static bool pg_complete(struct meta_server *s, uint32_t i, const struct map_pg *pg)
{
    for (unsigned v = 0; v < pg->n_next; v++) {
        const struct meta_store *h;
        bool old = false;

        for (unsigned o = 0; o < pg->n; o++)
            old = old || pg->voters[o] == pg->next[v];
        if (old)
            continue;
        h = store_find_health(s, pg->next[v]);
        if (!h || i >= h->n_ready || (TC_RULE(JOIN_EPOCH) ? h->ready[i] != pg->epoch : h->ready[i] == 0))
            return !TC_RULE(NEWCOMER_READY);
    }
    return pg->n_next > 0;
}

/* A list of moves under construction: one pg_move per pair of sets. */
struct moves {
    struct pg_move *items;
    uint32_t n, cap;
    uint32_t *caps; /* of each move's lists */
};

static bool set_is(const struct wire_u64s *set, const uint64_t *items, uint32_t n)
{
    return set->n == n && (n == 0 || !memcmp(set->items, items, n * sizeof(*items)));
}

static struct wire_u64s set_copy(const uint64_t *items, uint32_t n)
{
    struct wire_u64s s = {n ? tc_malloc(n * sizeof(*items)) : NULL, n};

    if (n)
        memcpy(s.items, items, n * sizeof(*items));
    return s;
}

/* Group @pg, now of @epoch, to voters @voters[n] in transition to @next[n_next]. */
static void move_add(struct moves *m, const uint64_t *voters, uint32_t n, const uint64_t *next, uint32_t n_next,
                     uint64_t pg, uint64_t epoch)
{
    uint32_t i;
    struct pg_move *mv;

    for (i = m->n; i-- > 0;) {
        if (set_is(&m->items[i].voters, voters, n) && set_is(&m->items[i].next, next, n_next))
            break;
    }
    i = i == UINT32_MAX ? m->n : i;
    if (i == m->n) {
        if (m->n == m->cap) {
            m->cap = m->cap ? 2 * m->cap : 16;
            m->items = tc_realloc(m->items, m->cap * sizeof(*m->items));
            m->caps = tc_realloc(m->caps, m->cap * sizeof(*m->caps));
        }
        m->items[i] = (struct pg_move){.voters = set_copy(voters, n), .next = set_copy(next, n_next)};
        m->caps[i] = 0;
        m->n++;
    }
    mv = &m->items[i];
    if (mv->pgs.n == m->caps[i]) {
        m->caps[i] = m->caps[i] ? 2 * m->caps[i] : 64;
        mv->pgs.items = tc_realloc(mv->pgs.items, m->caps[i] * sizeof(uint64_t));
        mv->expected.items = tc_realloc(mv->expected.items, m->caps[i] * sizeof(uint64_t));
    }
    mv->pgs.items[mv->pgs.n++] = pg;
    mv->expected.items[mv->expected.n++] = epoch;
}

static void moves_fini(struct moves *m)
{
    for (uint32_t i = 0; i < m->n; i++) {
        free(m->items[i].voters.items);
        free(m->items[i].next.items);
        free(m->items[i].pgs.items);
        free(m->items[i].expected.items);
    }
    free(m->items);
    free(m->caps);
}

static void pg_update_applied(struct meta_server *s, struct meta_op *op, int status)
{
    (void)op;
    s->lead->pg_update_inflight = false;
    s->lead->plan_at = 0;
    if (status < 0)
        LOG_ERR("meta", "a change of placement was refused", "error=\"%s\"", tc_strerror(status));
}

static void moves_propose(struct meta_server *s, struct moves *m)
{
    struct cmd_pg_update cmd = {.moves = {m->items, m->n}};

    if (m->n && internal_propose(s, CMD_PG_UPDATE, &cmd_pg_update_schema, &cmd, pg_update_applied, NULL) == 0)
        s->lead->pg_update_inflight = true;
    moves_fini(m);
}

/* ---- the first table ---- */

static void table_applied(struct meta_server *s, struct meta_op *op, int status)
{
    (void)op;
    s->lead->table_inflight = false;
    if (status < 0)
        LOG_ERR("meta", "the placement table was refused", "error=\"%s\"", tc_strerror(status));
}

static void table_make(struct meta_server *s, const struct placement_store *stores, uint32_t n_stores)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    uint64_t *voters = tc_malloc((size_t)g->pg_count * g->n * sizeof(*voters));
    struct moves m = {0};
    struct cmd_pg_update cmd;

    if (placement_compute(stores, n_stores, g->n, g->pg_count, voters) == 0) {
        for (uint32_t i = 0; i < g->pg_count; i++)
            move_add(&m, voters + (size_t)i * g->n, g->n, NULL, 0, i, 0);
        for (uint32_t i = 0; i < m.n; i++)
            m.items[i].expected.n = 0;
        cmd = (struct cmd_pg_update){.moves = {m.items, m.n}};
        if (internal_propose(s, CMD_PG_UPDATE, &cmd_pg_update_schema, &cmd, table_applied, NULL) == 0)
            s->lead->table_inflight = true;
        moves_fini(&m);
    }
    free(voters);
}

static void table_tick(struct meta_server *s, uint64_t now)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    struct placement_store *ps;
    const struct fsm_store *st;
    uint32_t n, up = 0;

    if (!g || fsm_has_table(s->fsm) || s->lead->table_inflight)
        return;
    st = fsm_stores(s->fsm, &n);
    ps = tc_calloc(n ? n : 1, sizeof(*ps));
    for (uint32_t i = 0; i < n; i++) {
        if (st[i].state != STORE_REPLACED && st[i].admin != STORE_DRAIN && store_up(s, st[i].store))
            ps[up++] = (struct placement_store){
                .store = st[i].store, .zone = st[i].zone, .capacity = store_find_health(s, st[i].store)->capacity};
    }
    if (up < g->n) {
        s->lead->table_wait_since = 0;
    } else {
        if (!s->lead->table_wait_since)
            s->lead->table_wait_since = now;
        if (up >= g->stores || now - s->lead->table_wait_since >= TABLE_WAIT_NS)
            table_make(s, ps, up);
    }
    free(ps);
}

/* ---- the ends of transitions ---- */

/* Who leaves, and may still have the chunks if it is wanted again. */
static void remember_former(struct lead *l, uint32_t i, const struct map_pg *pg)
{
    for (unsigned v = 0; v < pg->n; v++) {
        bool stays = false;

        for (unsigned k = 0; k < pg->n_next; k++)
            stays = stays || pg->next[k] == pg->voters[v];
        if (!stays)
            l->plan_former[i] = pg->voters[v];
    }
}

/* True: some ended, and an entry is on its way. */
static bool transitions_end(struct meta_server *s)
{
    struct moves m = {0};
    const struct map_pg *pg;

    for (uint32_t i = 0; (pg = fsm_pg(s->fsm, i)); i++) {
        if (!pg->n_next || !pg_complete(s, i, pg))
            continue;
        remember_former(s->lead, i, pg);
        move_add(&m, pg->next, pg->n_next, NULL, 0, i, pg->epoch);
    }
    moves_propose(s, &m);
    return s->lead->pg_update_inflight;
}

/* ---- the planner ---- */

static enum placement_role role_of(struct meta_server *s, const struct fsm_store *st, bool *ret_alive)
{
    const struct meta_store *h = store_find_health(s, st->store);
    uint64_t now = env_now(s->env), heard = h ? MAX(h->heard_at, s->lead->began) : s->lead->began;
    uint64_t silent = (now - MIN(heard, now)) / NS_PER_MS;

    *ret_alive = silent < s->cfg.store_down_ms;
    if (st->state == STORE_REPLACED || st->admin == STORE_DRAIN)
        return PLACEMENT_OUT;
    if (st->admin == STORE_MAINTENANCE)
        return PLACEMENT_KEEP;
    if (silent >= s->cfg.store_down_ms + s->cfg.rebuild_after_ms || (h && h->flags & STORE_DISK_ERROR))
        return PLACEMENT_OUT;
    if (silent >= s->cfg.store_suspect_ms || !h || h->heard_at < s->lead->began ||
        (h->flags & (STORE_FULL | STORE_NEARLY_FULL)))
        return PLACEMENT_KEEP;
    return PLACEMENT_LIVE;
}

static void plan_take(struct meta_server *s, const struct placement_plan *p)
{
    struct lead *l = s->lead;
    struct moves m = {0};

    for (uint32_t i = 0; i < p->n_moves; i++) {
        const struct placement_move *mv = &p->moves[i];
        const struct map_pg *pg = fsm_pg(s->fsm, mv->pg);

        l->plan_why[mv->pg] = mv->reason;
        move_add(&m, pg->voters, pg->n, mv->next, mv->n_next, mv->pg, pg->epoch);
    }
    l->plan_waiting = p->waiting;
    l->plan_stuck = p->stuck;
    l->plan_idle = p->n_moves == 0 && p->moving == 0 && p->waiting == 0;
    if (p->n_moves)
        LOG_INFO("meta", "placement groups move", "begun=%u moving=%u waiting=%u stuck=%u", p->n_moves, p->moving,
                 p->waiting, p->stuck);
    moves_propose(s, &m);
}

static void plan_make(struct meta_server *s)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    struct lead *l = s->lead;
    struct placement_plan p;
    struct placement_store *ps;
    struct placement_task t = {.n = g->n, .quorum = MAX(g->r, 1), .pgs = fsm_pg(s->fsm, 0), .pg_count = g->pg_count,
                               .why = l->plan_why, .former = l->plan_former, .moving_max = MOVING_MAX};
    const struct fsm_store *st = fsm_stores(s->fsm, &t.n_stores);

    ps = tc_calloc(t.n_stores + 1, sizeof(*ps));
    for (uint32_t i = 0; i < t.n_stores; i++) {
        const struct meta_store *h;

        ps[i] = (struct placement_store){.store = st[i].store, .zone = st[i].zone, .capacity = st[i].capacity};
        ps[i].role = role_of(s, &st[i], &ps[i].alive);
        h = store_find_health(s, st[i].store);
        ps[i].failing = h && h->flags & STORE_DISK_ERROR;
    }
    t.stores = ps;
    placement_plan(&t, &p);
    for (uint32_t i = 0; i < t.n_stores; i++) {
        struct meta_store *h = store_find_health(s, st[i].store);

        if (h)
            h->quota = p.quota[i];
    }
    plan_take(s, &p);
    placement_plan_fini(&p);
    free(ps);
}

void placement_soon(struct meta_server *s)
{
    if (s->lead)
        s->lead->plan_at = 0;
}

void placement_ready(struct meta_server *s)
{
    if (s->lead->plan_why && !s->lead->pg_update_inflight)
        (void)transitions_end(s);
}

void placement_tick(struct meta_server *s)
{
    struct lead *l = s->lead;
    uint64_t now = env_now(s->env);

    table_tick(s, now);
    if (!fsm_has_table(s->fsm) || l->pg_update_inflight || now < l->plan_at)
        return;
    if (!l->plan_why) {
        l->plan_why = tc_calloc(fsm_genesis(s->fsm)->pg_count, sizeof(*l->plan_why));
        l->plan_former = tc_calloc(fsm_genesis(s->fsm)->pg_count, sizeof(*l->plan_former));
    }
    l->plan_at = now + s->cfg.sweep_ms * NS_PER_MS;
    if (transitions_end(s) || now - l->began < s->cfg.store_suspect_ms * NS_PER_MS)
        return;
    plan_make(s);
}

void placement_end(struct lead *l)
{
    free(l->plan_why);
    free(l->plan_former);
}

/* ---- what operators want ---- */

static void admin_applied(struct meta_server *s, struct meta_op *op, int status)
{
    struct lead *l = s->lead;

    (void)op;
    l->admin_inflight = false;
    l->plan_idle = false;
    l->plan_at = 0;
    server_reply(s, l->admin_peer, l->admin_id, MSG_NODE_ADMIN, status, NULL, NULL);
}

/* Would a drain of @node have anywhere to go? Only stores that take new groups count; the entry counts again who lasts. */
static bool drain_fits(struct meta_server *s, uint32_t node)
{
    const struct fsm_store *st;
    uint32_t n, takers = 0;

    st = fsm_stores(s->fsm, &n);
    for (uint32_t i = 0; i < n; i++) {
        const struct meta_store *h = store_find_health(s, st[i].store);

        takers += st[i].state != STORE_REPLACED && st[i].admin == STORE_IN && st[i].node != node &&
                  store_up(s, st[i].store) && !(h->flags & (STORE_FULL | STORE_NEARLY_FULL | STORE_DISK_ERROR));
    }
    return takers >= fsm_genesis(s->fsm)->n;
}

void node_admin(struct meta_server *s, const struct request *q)
{
    const struct node_admin_req *req = q->msg;
    struct lead *l = s->lead;
    int r;

    if (l->admin_inflight) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_AGAIN, NULL, NULL);
        return;
    }
    if (req->admin == STORE_DRAIN && !drain_fits(s, req->node)) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_QUORUM_LOST, NULL, NULL);
        return;
    }
    LOG_INFO("meta", "an operator's word about a store", "node=%u admin=%u", req->node, req->admin);
    r = internal_propose(s, CMD_STORE_ADMIN, &node_admin_req_schema, req, admin_applied, NULL);
    if (r < 0) {
        server_reply(s, q->peer, q->id, q->type, r, NULL, NULL);
        return;
    }
    l->admin_inflight = true;
    l->admin_peer = q->peer;
    l->admin_id = q->id;
}
