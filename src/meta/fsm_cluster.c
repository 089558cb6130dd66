/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster: genesis, dead sessions, the map, garbage; loading (stores: fsm_stores.c).
 *
 * Everything that is in the map is also in memory. Each group remembers the map epoch at which it
 * changed last, so a delta from any earlier epoch can be made without keeping deltas.
 */
#include "meta/fsm_int.h"

#define PG_COUNT_MAX 65535u

void map_touch(struct fsm *f)
{
    if (f->map_dirty)
        return;
    f->map_dirty = true;
    f->map_epoch++;
}

static uint64_t lowest_live_session(const struct fsm *f)
{
    for (const struct session *s = f->sessions; s; s = s->hh.next) {
        if (s->state == FSM_SESSION_LIVE)
            return s->id;
    }
    return f->next_session;
}

void map_finish(struct fsm *f)
{
    uint32_t n = 0;

    if (!f->map_dirty)
        return;
    f->map_dirty = false;
    f->dead_below = lowest_live_session(f);
    for (uint32_t i = 0; i < f->n_dead; i++) {
        if (f->dead[i].session < f->dead_below)
            row_del(f, key_u64(TAB_DEAD, f->dead[i].session));
        else
            f->dead[n++] = f->dead[i];
    }
    f->n_dead = n;
    effect_add(f, FSM_MAP_CHANGED, 0, 0)->epoch = f->map_epoch;
}

void dead_add(struct fsm *f, uint64_t session, uint32_t incarnation)
{
    uint32_t at = 0, le = htole32(incarnation);

    while (at < f->n_dead && f->dead[at].session < session)
        at++;
    if (at == f->n_dead || f->dead[at].session != session) {
        f->dead = tc_realloc(f->dead, (f->n_dead + 1) * sizeof(*f->dead));
        memmove(&f->dead[at + 1], &f->dead[at], (f->n_dead - at) * sizeof(*f->dead));
        f->n_dead++;
        f->dead[at] = (struct dead_session){.session = session};
    }
    f->dead[at].incarnation = MAX(f->dead[at].incarnation, incarnation);
    row_put(f, key_u64(TAB_DEAD, session), &le, 4);
}

/* ---- the map --------------------------------------------------------------------------------- */

uint64_t fsm_map_epoch(const struct fsm *f)
{
    return f->map_epoch;
}

const struct genesis *fsm_genesis(const struct fsm *f)
{
    return f->formatted ? &f->genesis : NULL;
}

static void *map_alloc(struct wire_arena *a, size_t size)
{
    void *p = wire_arena_alloc(a, size ? size : 1);

    ASSERT(p); /* bounded by STORES_MAX, PG_COUNT_MAX */
    return p;
}

static void map_stores(const struct fsm *f, struct wire_arena *a, struct cluster_map *ret)
{
    ret->stores.n = f->n_stores;
    ret->stores.items = map_alloc(a, f->n_stores * sizeof(struct store_info));
    for (uint32_t i = 0; i < f->n_stores; i++) {
        const struct fsm_store *st = &f->stores[i];
        char *endpoint = map_alloc(a, sizeof(st->endpoint)), *zone = map_alloc(a, sizeof(st->zone));

        memcpy(endpoint, st->endpoint, sizeof(st->endpoint));
        memcpy(zone, st->zone, sizeof(st->zone));
        ret->stores.items[i] = (struct store_info){.store = st->store,
                                                   .node = st->node,
                                                   .endpoint = wire_str_of(endpoint),
                                                   .zone = wire_str_of(zone),
                                                   .start = st->start,
                                                   .state = st->state,
                                                   .gc_cursor = st->gc_cursor};
    }
    ret->dead.n = f->n_dead;
    ret->dead.items = map_alloc(a, f->n_dead * sizeof(*f->dead));
    if (f->n_dead)
        memcpy(ret->dead.items, f->dead, f->n_dead * sizeof(*f->dead));
    ret->dead_below = f->dead_below;
}

static bool same_sets(const struct map_pg *a, const struct map_pg *b)
{
    return a->n == b->n && a->n_next == b->n_next &&
           !memcmp(a->voters, b->voters, a->n * sizeof(uint64_t)) &&
           !memcmp(a->next, b->next, a->n_next * sizeof(uint64_t));
}

static struct wire_u64s copy_set(struct wire_arena *a, const uint64_t *set, uint32_t n)
{
    struct wire_u64s s = {map_alloc(a, n * sizeof(uint64_t)), n};

    memcpy(s.items, set, n * sizeof(uint64_t));
    return s;
}

static void map_groups(const struct fsm *f, uint64_t have, struct wire_arena *a,
                       struct cluster_map *ret)
{
    uint32_t count = f->genesis.pg_count, n = 0;
    uint64_t *ids = map_alloc(a, count * 8);
    uint8_t *set_of = map_alloc(a, count * 2), *epochs = map_alloc(a, count * 8);
    uint32_t *first = map_alloc(a, count * sizeof(*first)); /* group that shows each set */

    for (uint32_t i = 0; i < count; i++) {
        uint64_t epoch = htole64(f->pgs[i].epoch);
        uint16_t le;
        uint32_t s = 0;

        if (have && f->pg_changed[i] <= have)
            continue;
        while (s < ret->sets.n && !same_sets(&f->pgs[first[s]], &f->pgs[i]))
            s++;
        if (s == ret->sets.n)
            first[ret->sets.n++] = i;
        le = htole16((uint16_t)s);
        memcpy(set_of + 2 * n, &le, 2);
        memcpy(epochs + 8 * n, &epoch, 8);
        ids[n++] = i;
    }
    ret->sets.items = map_alloc(a, ret->sets.n * sizeof(struct pg_set));
    for (uint32_t s = 0; s < ret->sets.n; s++) {
        const struct map_pg *pg = &f->pgs[first[s]];

        ret->sets.items[s] =
            (struct pg_set){copy_set(a, pg->voters, pg->n), copy_set(a, pg->next, pg->n_next)};
    }
    if (have)
        ret->pg_ids = (struct wire_u64s){ids, n};
    ret->pg_set_of = (struct wire_bin){set_of, n * 2};
    ret->pg_epochs = (struct wire_bin){epochs, n * 8};
}

void fsm_map(struct fsm *f, uint64_t have, struct wire_arena *a, struct cluster_map *ret_map)
{
    const struct genesis *g = &f->genesis;
    const struct member_info *members;
    uint32_t n;

    *ret_map = (struct cluster_map){.epoch = f->map_epoch,
                                    .n = g->n,
                                    .w = g->w,
                                    .r = g->r,
                                    .pg_count = g->pg_count,
                                    .cluster = g->cluster};
    if (have == f->map_epoch)
        return;
    if (have > f->map_epoch)
        have = 0;
    ret_map->from = have;
    members = fsm_members(f, &n);
    ret_map->members.items = map_alloc(a, n * sizeof(*members));
    ret_map->members.n = n;
    for (uint32_t i = 0; i < n; i++) {
        char *endpoint = map_alloc(a, members[i].endpoint.n);

        memcpy(endpoint, members[i].endpoint.p, members[i].endpoint.n);
        ret_map->members.items[i] = members[i];
        ret_map->members.items[i].endpoint.p = endpoint;
    }
    map_stores(f, a, ret_map);
    if (f->pgs)
        map_groups(f, have, a, ret_map);
}

/* ---- garbage --------------------------------------------------------------------------------- */

void gc_add(struct fsm *f, uint64_t ino, uint64_t size, uint64_t epoch, uint64_t reach)
{
    uint8_t row[33];
    struct rowbuf b = {row, row + sizeof(row), false};

    put_u8(&b, FSM_FORMAT_VERSION);
    put_u64(&b, ino);
    put_u64(&b, size);
    put_u64(&b, epoch);
    put_u64(&b, reach);
    row_put(f, key_u64(TAB_GC, f->gc_next), row, sizeof(row));
    effect_add(f, FSM_GC_ADDED, ino, 0)->epoch = f->gc_next++;
}

uint32_t fsm_gc(struct fsm *f, uint64_t after, struct gc_item *ret_items, uint32_t max)
{
    struct row_bounds bounds;
    struct kv_iter *it;
    uint32_t n = 0;

    if (after + 1 >= f->gc_next)
        return 0;
    it = row_iter(f, &bounds, key_u64(TAB_GC, MAX(after + 1, f->gc_first)),
                  key_u64(TAB_GC, f->gc_next));
    for (; n < max && kv_iter_valid(it); kv_iter_next(it)) {
        struct rowget g = rowget_of(kv_iter_value(it));
        struct gc_item *item = &ret_items[n++];

        (void)get_u8(&g);
        item->id = key_get_u64(kv_iter_key(it), 1);
        item->ino = get_u64(&g);
        item->size = get_u64(&g);
        item->epoch = get_u64(&g);
        item->reach = get_u64(&g);
        if (g.bad)
            io_fail(f, -TC_E_DAMAGED);
    }
    row_iter_end(f, it);
    return n;
}

void fsm_gc_range(const struct fsm *f, uint64_t *ret_first, uint64_t *ret_last)
{
    *ret_first = f->gc_first;
    *ret_last = f->gc_next - 1;
}

int op_gc_trim(struct fsm *f, const struct cmd_gc_trim *cmd)
{
    for (uint32_t i = 0; i < cmd->cursors.n; i++) {
        struct fsm_store *st = store_find(f, cmd->cursors.items[i].pg);

        if (!st)
            continue;
        st->gc_cursor = MAX(st->gc_cursor, MIN(cmd->cursors.items[i].epoch, f->gc_next - 1));
        store_save(f, st);
    }
    while (f->gc_first <= cmd->upto && f->gc_first < f->gc_next)
        row_del(f, key_u64(TAB_GC, f->gc_first++));
    return 0;
}

/* ---- genesis, loading ------------------------------------------------------------------------ */

static int genesis_check(const struct genesis *g)
{
    if (g->cluster.n != 16 || g->siphash_key.n != 16 || g->members.n == 0)
        return -TC_E_INVAL;
    if (g->n < 1 || g->n > PG_VOTERS_MAX || g->w < 1 || g->r < 1 || g->w > g->n || g->r > g->n ||
        g->w + g->r <= g->n || 2 * g->w <= g->n)
        return -TC_E_INVAL;
    return g->pg_count < 1 || g->pg_count > PG_COUNT_MAX ? -TC_E_INVAL : 0;
}

static int genesis_take(struct fsm *f, struct slice body)
{
    struct buf *copy = buf_copy(body.data, (uint32_t)body.len);
    int r = wire_decode(slice_of(copy->data, copy->len), &genesis_schema, &f->genesis_arena,
                        &f->genesis);

    if (r == 0)
        r = genesis_check(&f->genesis);
    if (r < 0) {
        f->genesis = (struct genesis){0};
        buf_unref(copy);
        return r;
    }
    f->genesis_body = copy;
    f->formatted = true;
    return 0;
}

static struct key genesis_key(void)
{
    return (struct key){.b = {TAB_GENESIS}, .n = 1};
}

int op_genesis(struct fsm *f, struct slice body)
{
    struct inode *root;
    int r;

    if (f->formatted)
        return -TC_E_ALREADY_FORMATTED;
    r = genesis_take(f, body);
    if (r < 0)
        return r;
    f->now = f->clock = MAX(f->clock, f->genesis.time);
    row_put(f, genesis_key(), body.data, body.len);
    f->loading = f->genesis.loading;
    root = inode_new(f, INO_ROOT);
    root->mode = S_IFDIR | (f->genesis.root_mode ? f->genesis.root_mode & 07777 : 0755);
    root->uid = f->genesis.root_uid;
    root->gid = f->genesis.root_gid;
    root->nlink = 2;
    root->parent = INO_ROOT;
    root->atime = root->mtime = root->ctime = root->btime = f->now;
    root->change = f->index;
    f->n_inodes = 1;
    map_touch(f);
    return 0;
}

static int load_table(struct fsm *f, uint8_t table,
                      int (*row)(struct fsm *f, uint64_t id, struct slice value))
{
    struct row_bounds bounds;
    struct kv_iter *it = row_iter(f, &bounds, (struct key){.b = {table}, .n = 1},
                                  (struct key){.b = {(uint8_t)(table + 1)}, .n = 1});
    int r = 0;

    for (; r == 0 && kv_iter_valid(it); kv_iter_next(it)) {
        if (kv_iter_key(it).len != 9)
            r = -TC_E_DAMAGED;
        else
            r = row(f, key_get_u64(kv_iter_key(it), 1), kv_iter_value(it));
    }
    row_iter_end(f, it);
    return r < 0 ? r : f->io_error;
}

static int load_store(struct fsm *f, uint64_t id, struct slice value)
{
    return store_decode(store_insert(f, id), value) ? 0 : -TC_E_DAMAGED;
}

static int load_pg(struct fsm *f, uint64_t id, struct slice value)
{
    if (id >= f->genesis.pg_count)
        return -TC_E_DAMAGED;
    if (!f->pgs) {
        f->pgs = tc_calloc(f->genesis.pg_count, sizeof(*f->pgs));
        f->pg_changed = tc_calloc(f->genesis.pg_count, sizeof(*f->pg_changed));
    }
    return pg_decode(&f->pgs[id], &f->pg_changed[id], value) ? 0 : -TC_E_DAMAGED;
}

static int load_dead(struct fsm *f, uint64_t id, struct slice value)
{
    struct rowget g = rowget_of(value);

    f->dead = tc_realloc(f->dead, (f->n_dead + 1) * sizeof(*f->dead));
    f->dead[f->n_dead++] = (struct dead_session){.session = id, .incarnation = get_u32(&g)};
    return g.bad ? -TC_E_DAMAGED : 0;
}

int cluster_load(struct fsm *f)
{
    struct kv_value v = {0};
    int r;

    if (!f->formatted)
        return 0;
    f->formatted = false;
    r = row_get(f, genesis_key(), &v);
    if (r == 0)
        r = genesis_take(f, value_slice(&v));
    kv_value_free(&v);
    return r < 0 ? r : cluster_load_rows(f);
}

int cluster_load_rows(struct fsm *f)
{
    int r = load_table(f, TAB_STORE, load_store);

    if (r == 0)
        r = load_table(f, TAB_PG, load_pg);
    if (r == 0)
        r = load_table(f, TAB_DEAD, load_dead);
    if (r == 0)
        r = members_load(f);
    return r;
}

void cluster_unload(struct fsm *f)
{
    f->genesis_body = buf_unref(f->genesis_body);
    wire_arena_fini(&f->genesis_arena);
    members_unload(f);
    free(f->stores);
    free(f->pgs);
    free(f->pg_changed);
    free(f->dead);
}
