/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stores and placement groups: registering, the replacement of a lost store, moves (PROTOCOL 6).
 */
#include "meta/fsm_int.h"

#include "common/test_rules.h"

#define STORES_MAX 1024u

/* ---- stores ---------------------------------------------------------------------------------- */

struct fsm_store *store_find(const struct fsm *f, uint64_t store)
{
    for (uint32_t i = 0; i < f->n_stores; i++) {
        if (f->stores[i].store == store)
            return &f->stores[i];
    }
    return NULL;
}

const struct fsm_store *fsm_stores(const struct fsm *f, uint32_t *ret_n)
{
    *ret_n = f->n_stores;
    return f->stores;
}

const struct fsm_store *fsm_store(const struct fsm *f, uint64_t store)
{
    return store_find(f, store);
}

void store_save(struct fsm *f, const struct fsm_store *st)
{
    uint8_t row[512];
    struct rowbuf b = {row, row + sizeof(row), false};
    size_t zone = strlen(st->zone);

    put_u8(&b, FSM_FORMAT_VERSION);
    put_u8(&b, (uint8_t)st->state);
    put_u8(&b, (uint8_t)(st->served | st->admin << 1));
    put_u8(&b, (uint8_t)zone);
    put_u32(&b, st->node);
    put_u64(&b, st->start);
    put_u64(&b, st->run);
    put_u64(&b, st->capacity);
    put_u64(&b, st->gc_cursor);
    put_bytes(&b, st->zone, zone);
    put_bytes(&b, st->endpoint, strlen(st->endpoint));
    row_put(f, key_u64(TAB_STORE, st->store), row, (size_t)(b.p - row));
}

bool store_decode(struct fsm_store *st, struct slice row)
{
    struct rowget g = rowget_of(row);
    uint8_t version = get_u8(&g), bits;
    size_t zone, rest;

    st->state = get_u8(&g);
    bits = get_u8(&g);
    st->served = bits & 1;
    st->admin = bits >> 1;
    zone = get_u8(&g);
    st->node = get_u32(&g);
    st->start = get_u64(&g);
    st->run = get_u64(&g);
    st->capacity = get_u64(&g);
    st->gc_cursor = get_u64(&g);
    rest = (size_t)(g.end - g.p);
    if (g.bad || version != FSM_FORMAT_VERSION || zone >= sizeof(st->zone) || zone > rest ||
        rest - zone >= sizeof(st->endpoint))
        return false;
    memcpy(st->zone, g.p, zone);
    memcpy(st->endpoint, g.p + zone, rest - zone);
    return true;
}

struct fsm_store *store_insert(struct fsm *f, uint64_t store)
{
    uint32_t at = 0;

    f->stores = tc_realloc(f->stores, (f->n_stores + 1) * sizeof(*f->stores));
    while (at < f->n_stores && f->stores[at].store < store)
        at++;
    memmove(&f->stores[at + 1], &f->stores[at], (f->n_stores - at) * sizeof(*f->stores));
    f->n_stores++;
    f->stores[at] = (struct fsm_store){.store = store};
    return &f->stores[at];
}

static bool set_has(const uint64_t *set, uint32_t n, uint64_t store)
{
    for (uint32_t i = 0; i < n; i++) {
        if (set[i] == store)
            return true;
    }
    return false;
}

static bool store_named(const struct fsm *f, uint64_t id)
{
    for (uint32_t pg = 0; f->pgs && pg < f->genesis.pg_count; pg++) {
        if (set_has(f->pgs[pg].voters, f->pgs[pg].n, id) || set_has(f->pgs[pg].next, f->pgs[pg].n_next, id))
            return true;
    }
    return false;
}

/* Replaced stores that no group names any more are forgotten. */
static void stores_prune(struct fsm *f)
{
    for (uint32_t i = f->n_stores; i-- > 0;) {
        uint64_t id = f->stores[i].store;

        if (f->stores[i].state != STORE_REPLACED || store_named(f, id))
            continue;
        row_del(f, key_u64(TAB_STORE, id));
        memmove(&f->stores[i], &f->stores[i + 1], (f->n_stores - i - 1) * sizeof(*f->stores));
        f->n_stores--;
    }
}

/* ---- placement groups ------------------------------------------------------------------------ */

bool fsm_has_table(const struct fsm *f)
{
    return f->pgs != NULL;
}

const struct map_pg *fsm_pg(const struct fsm *f, uint32_t pg)
{
    return f->pgs && pg < f->genesis.pg_count ? &f->pgs[pg] : NULL;
}

void pg_save(struct fsm *f, uint32_t i)
{
    const struct map_pg *pg = &f->pgs[i];
    uint8_t row[3 + 16 + 2 * PG_VOTERS_MAX * 8];
    struct rowbuf b = {row, row + sizeof(row), false};

    map_touch(f);
    f->pg_changed[i] = f->map_epoch;
    put_u8(&b, FSM_FORMAT_VERSION);
    put_u8(&b, pg->n);
    put_u8(&b, pg->n_next);
    put_u64(&b, pg->epoch);
    put_u64(&b, f->pg_changed[i]);
    for (uint8_t v = 0; v < pg->n; v++)
        put_u64(&b, pg->voters[v]);
    for (uint8_t v = 0; v < pg->n_next; v++)
        put_u64(&b, pg->next[v]);
    row_put(f, key_u64(TAB_PG, i), row, (size_t)(b.p - row));
}

bool pg_decode(struct map_pg *pg, uint64_t *changed, struct slice row)
{
    struct rowget g = rowget_of(row);
    uint8_t version = get_u8(&g);

    pg->n = get_u8(&g);
    pg->n_next = get_u8(&g);
    pg->epoch = get_u64(&g);
    *changed = get_u64(&g);
    if (g.bad || version != FSM_FORMAT_VERSION || pg->n > PG_VOTERS_MAX ||
        pg->n_next > PG_VOTERS_MAX)
        return false;
    for (uint8_t v = 0; v < pg->n; v++)
        pg->voters[v] = get_u64(&g);
    for (uint8_t v = 0; v < pg->n_next; v++)
        pg->next[v] = get_u64(&g);
    return !g.bad;
}

/* One transition for all groups of @old: @fresh takes its place. */
static void store_replace(struct fsm *f, struct fsm_store *old, uint64_t fresh)
{
    old->state = STORE_REPLACED;
    store_save(f, old);
    for (uint32_t i = 0; f->pgs && i < f->genesis.pg_count; i++) {
        struct map_pg *pg = &f->pgs[i];
        uint8_t n = pg->n_next ? pg->n_next : pg->n;
        const uint64_t *base = pg->n_next ? pg->next : pg->voters;

        if (!set_has(base, n, old->store))
            continue;
        for (uint8_t v = 0; v < n; v++)
            pg->next[v] = base[v] == old->store ? fresh : base[v];
        pg->n_next = n;
        pg->epoch++;
        pg_save(f, i);
    }
}

/* ---- registering ----------------------------------------------------------------------------- */

static void copy_str(char *to, size_t room, struct wire_str s)
{
    ASSERT(s.n < room);
    memset(to, 0, room);
    if (s.n)
        memcpy(to, s.p, s.n);
}

static int register_check(const struct fsm *f, const struct store_register_req *req)
{
    const struct fsm_store *st = store_find(f, req->store);

    if (req->store == 0 || req->start == 0 || req->endpoint.n == 0 ||
        req->endpoint.n >= sizeof(st->endpoint) || req->zone.n >= sizeof(st->zone) ||
        memchr(req->endpoint.p, 0, req->endpoint.n))
        return -TC_E_INVAL;
    if (req->cluster.n &&
        (req->cluster.n != 16 || memcmp(req->cluster.p, f->genesis.cluster.p, 16)))
        return -TC_E_WRONG_CLUSTER;
    if (st && st->node != req->node)
        return -TC_E_CONFIG;
    return !st && f->n_stores >= STORES_MAX ? -TC_E_LIMIT : 0;
}

/*
 * Is the directory older than what was confirmed? With the same start: it is a retry (the same
 * run), or a store that died before it had made the number durable (never seen to serve); else it
 * was rolled back by one start.
 */
static bool rolled_back(const struct fsm_store *st, const struct store_register_req *req)
{
    if (!st)
        return !req->empty;
    if (!TC_RULE(START_COUNTER))
        return st->state == STORE_REPLACED;
    if (st->state == STORE_REPLACED || req->start < st->start)
        return true;
    return req->start == st->start && st->served && req->run && st->run && req->run != st->run;
}

static void register_store(struct fsm *f, const struct store_register_req *req)
{
    struct fsm_store *st = store_find(f, req->store), *old = NULL;
    struct fsm_store before;

    if (!st) {
        st = store_insert(f, req->store);
        st->node = req->node;
        for (uint32_t i = 0; i < f->n_stores; i++) {
            if (f->stores[i].node == req->node && &f->stores[i] != st &&
                f->stores[i].state != STORE_REPLACED)
                old = &f->stores[i];
        }
    }
    before = *st;
    if (req->start != st->start) {
        st->start = req->start;
        st->served = false;
    }
    st->run = req->run;
    st->capacity = req->capacity;
    st->state = STORE_UP;
    copy_str(st->endpoint, sizeof(st->endpoint), req->endpoint);
    copy_str(st->zone, sizeof(st->zone), req->zone);
    if (strcmp(before.endpoint, st->endpoint) || strcmp(before.zone, st->zone))
        map_touch(f);
    store_save(f, st);
    if (old) {
        st->admin = old->admin;
        store_save(f, st);
        map_touch(f);
        store_replace(f, old, req->store);
        stores_prune(f);
    }
    effect_add(f, FSM_STORE_CHANGED, 0, req->store);
}

int op_store_register(struct fsm *f, const struct store_register_req *req)
{
    struct store_register_res res = {.start = req->start, .cluster = f->genesis.cluster};
    const struct fsm_store *st = store_find(f, req->store);
    int r = register_check(f, req);

    if (r < 0)
        return r;
    res.rolled_back = rolled_back(st, req);
    res.removed = res.rolled_back && (!st || st->state == STORE_REPLACED);
    if (!res.rolled_back)
        register_store(f, req);
    res.map_epoch = f->map_epoch;
    answer(f, &store_register_res_schema, &res);
    return 0;
}

/* A hint of the leader's (up, down), or that the store was seen with its start made durable. */
int op_store_state(struct fsm *f, const struct store_info *cmd)
{
    struct fsm_store *st = store_find(f, cmd->store);

    if (!st || st->state == STORE_REPLACED)
        return -TC_E_NOENT;
    if (cmd->start == st->start)
        st->served = true;
    if (cmd->state != STORE_REPLACED)
        st->state = cmd->state;
    if (!TC_RULE(MAP_QUIET))
        map_touch(f);
    store_save(f, st);
    effect_add(f, FSM_STORE_CHANGED, 0, st->store);
    return 0;
}

/* ---- what operators want ---------------------------------------------------------------------- */

/* Stores that may hold copies for good, but for @but. */
static uint32_t stores_lasting(const struct fsm *f, const struct fsm_store *but)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->n_stores; i++)
        n += &f->stores[i] != but && f->stores[i].state != STORE_REPLACED && f->stores[i].admin != STORE_DRAIN;
    return n;
}

int op_store_admin(struct fsm *f, const struct node_admin_req *cmd)
{
    struct fsm_store *st = NULL;

    for (uint32_t i = 0; i < f->n_stores; i++) {
        if (f->stores[i].node == cmd->node && f->stores[i].state != STORE_REPLACED)
            st = &f->stores[i];
    }
    if (!st)
        return -TC_E_NOENT;
    if (cmd->admin > STORE_REMOVE)
        return -TC_E_INVAL;
    if ((cmd->admin == STORE_DRAIN || cmd->admin == STORE_REMOVE) && stores_lasting(f, st) < f->genesis.n)
        return -TC_E_QUORUM_LOST;
    if (cmd->admin == STORE_REMOVE) {
        if (store_named(f, st->store))
            return -TC_E_BUSY;
        st->state = STORE_REPLACED;
        map_touch(f);
        effect_add(f, FSM_STORE_CHANGED, 0, st->store);
        stores_prune(f);
        return 0;
    }
    if (st->admin == cmd->admin)
        return 0;
    st->admin = cmd->admin;
    store_save(f, st);
    effect_add(f, FSM_STORE_CHANGED, 0, st->store);
    return 0;
}

/* ---- moves ----------------------------------------------------------------------------------- */

static bool set_valid(const struct fsm *f, const struct wire_u64s *set)
{
    if (set->n != f->genesis.n)
        return false;
    for (uint32_t i = 0; i < set->n; i++) {
        if (!store_find(f, set->items[i]) || set_has(set->items, i, set->items[i]))
            return false;
    }
    return true;
}

static bool set_equal(const struct wire_u64s *a, const uint64_t *b, uint32_t n)
{
    return a->n == n && (n == 0 || !memcmp(a->items, b, n * sizeof(*b)));
}

/* The moves of PROTOCOL 6.3: begin or change a transition, call it off, or end it. */
static bool move_allowed(const struct map_pg *pg, const struct pg_move *m)
{
    if (set_equal(&m->voters, pg->voters, pg->n))
        return true;
    return m->next.n == 0 && pg->n_next > 0 && set_equal(&m->voters, pg->next, pg->n_next);
}

static void pg_set_to(struct map_pg *pg, const struct pg_move *m)
{
    pg->n = (uint8_t)m->voters.n;
    pg->n_next = (uint8_t)m->next.n;
    memset(pg->voters, 0, sizeof(pg->voters));
    memset(pg->next, 0, sizeof(pg->next));
    memcpy(pg->voters, m->voters.items, m->voters.n * sizeof(uint64_t));
    if (m->next.n)
        memcpy(pg->next, m->next.items, m->next.n * sizeof(uint64_t));
    pg->epoch++;
}

/* The first table: every group once. */
static int table_make(struct fsm *f, const struct cmd_pg_update *cmd)
{
    uint8_t *seen = tc_calloc(f->genesis.pg_count, 1);
    uint32_t n = 0;

    for (uint32_t i = 0; i < cmd->moves.n; i++) {
        const struct pg_move *m = &cmd->moves.items[i];

        for (uint32_t j = 0; j < m->pgs.n && !m->next.n; j++) {
            if (m->pgs.items[j] < f->genesis.pg_count && !seen[m->pgs.items[j]]) {
                seen[m->pgs.items[j]] = 1;
                n++;
            }
        }
    }
    free(seen);
    if (n != f->genesis.pg_count)
        return -TC_E_INVAL;
    f->pgs = tc_calloc(n, sizeof(*f->pgs));
    f->pg_changed = tc_calloc(n, sizeof(*f->pg_changed));
    effect_add(f, FSM_PG_TABLE, 0, 0);
    return 0;
}

static void move_apply(struct fsm *f, const struct pg_move *m, bool first)
{
    for (uint32_t j = 0; j < m->pgs.n; j++) {
        uint64_t i = m->pgs.items[j];

        if (i >= f->genesis.pg_count)
            continue;
        if (!first &&
            (!move_allowed(&f->pgs[i], m) ||
             (m->expected.n && (j >= m->expected.n || (m->expected.items[j] != f->pgs[i].epoch && TC_RULE(MOVE_EPOCH))))))
            continue;
        if (first && f->pgs[i].n)
            continue;
        pg_set_to(&f->pgs[i], m);
        pg_save(f, (uint32_t)i);
    }
}

int op_pg_update(struct fsm *f, const struct cmd_pg_update *cmd)
{
    bool first = !f->pgs;
    int r;

    for (uint32_t i = 0; i < cmd->moves.n; i++) {
        const struct pg_move *m = &cmd->moves.items[i];

        if (!set_valid(f, &m->voters) || (m->next.n && !set_valid(f, &m->next)))
            return -TC_E_INVAL;
    }
    if (first && cmd->moves.n) {
        r = table_make(f, cmd);
        if (r < 0)
            return r;
    }
    for (uint32_t i = 0; i < cmd->moves.n; i++)
        move_apply(f, &cmd->moves.items[i], first);
    for (uint32_t i = 0; i < cmd->stores.n; i++) {
        struct fsm_store *st = store_find(f, cmd->stores.items[i].store);

        if (!st || st->state == STORE_REPLACED || st->state == cmd->stores.items[i].state)
            continue;
        st->state = cmd->stores.items[i].state;
        if (st->state == STORE_REPLACED)
            map_touch(f);
        store_save(f, st);
    }
    stores_prune(f);
    return 0;
}
