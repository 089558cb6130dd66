/* SPDX-License-Identifier: Apache-2.0 */
#include "common/map.h"

#include <string.h>

#include <xxhash.h>

struct map *map_new(void)
{
    return tc_calloc(1, sizeof(struct map));
}

static void free_stores(struct map_store *stores, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        free(stores[i].endpoint);
        free(stores[i].zone);
    }
    free(stores);
}

static void free_members(struct map *m)
{
    for (uint32_t i = 0; i < m->n_members; i++)
        free(m->members[i].endpoint);
    free(m->members);
}

struct map *map_free(struct map *m)
{
    if (!m)
        return NULL;
    free_stores(m->stores, m->n_stores);
    free_members(m);
    free(m->pgs);
    free(m->dead);
    free(m);
    return NULL;
}

static uint64_t get_le(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static void put_le(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static bool set_valid(const struct pg_set *s)
{
    return s->voters.n >= 1 && s->voters.n <= PG_VOTERS_MAX && s->next.n <= PG_VOTERS_MAX;
}

/* Number of PG rows in @msg, or -1 if its parts do not fit together. */
static int64_t rows_of(const struct cluster_map *msg)
{
    uint64_t rows;

    if (msg->n < 1 || msg->n > PG_VOTERS_MAX || msg->w < 1 || msg->w > msg->n || msg->r < 1 || msg->r > msg->n)
        return -1;
    if (msg->pg_count < 1 || msg->pg_count > 65536 || msg->cluster.n != 16)
        return -1;
    if (msg->pg_set_of.n % 2)
        return -1;
    rows = msg->pg_set_of.n / 2;
    if (msg->pg_epochs.n != rows * 8)
        return -1;
    if (msg->from ? msg->pg_ids.n != rows : rows != 0 && rows != msg->pg_count)
        return -1;
    for (uint32_t i = 0; i < msg->sets.n; i++) {
        if (!set_valid(&msg->sets.items[i]))
            return -1;
    }
    for (uint64_t i = 0; i < rows; i++) {
        if (get_le(msg->pg_set_of.p + 2 * i, 2) >= msg->sets.n)
            return -1;
        if (msg->from && msg->pg_ids.items[i] >= msg->pg_count)
            return -1;
    }
    return (int64_t)rows;
}

static void copy_pg(struct map_pg *pg, const struct pg_set *s, uint64_t epoch)
{
    *pg = (struct map_pg){.epoch = epoch, .n = (uint8_t)s->voters.n, .n_next = (uint8_t)s->next.n};
    memcpy(pg->voters, s->voters.items, s->voters.n * sizeof(uint64_t));
    if (s->next.n)
        memcpy(pg->next, s->next.items, s->next.n * sizeof(uint64_t));
}

static char *dup_str(struct wire_str s)
{
    char *p = tc_malloc((size_t)s.n + 1);

    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = 0;
    return p;
}

static void copy_members(struct map *m, const struct cluster_map *msg)
{
    if (!msg->members.n)
        return; /* of an older program */
    free_members(m);
    m->members = tc_calloc(msg->members.n, sizeof(*m->members));
    m->n_members = msg->members.n;
    for (uint32_t i = 0; i < m->n_members; i++)
        m->members[i] = (struct map_member){msg->members.items[i].id, dup_str(msg->members.items[i].endpoint)};
}

int map_apply(struct map *m, const struct cluster_map *msg)
{
    struct map_store *stores;
    int64_t rows;

    if (msg->epoch <= m->epoch)
        return 0;
    if (msg->from > m->epoch)
        return -TC_E_STALE_MAP;
    rows = rows_of(msg);
    if (rows < 0 || (msg->from && msg->pg_count != m->pg_count))
        return -TC_E_BAD_MESSAGE;
    if (rows && !m->pgs) {
        if (rows != msg->pg_count)
            return -TC_E_STALE_MAP; /* a delta on a table that is not here */
        m->pgs = tc_calloc(msg->pg_count, sizeof(*m->pgs));
    } else if (m->pgs && msg->pg_count != m->pg_count) {
        return -TC_E_BAD_MESSAGE;
    }
    for (int64_t i = 0; i < rows; i++) {
        uint64_t pg = msg->from ? msg->pg_ids.items[i] : (uint64_t)i;
        uint64_t set = get_le(msg->pg_set_of.p + 2 * i, 2);

        copy_pg(&m->pgs[pg], &msg->sets.items[set], get_le(msg->pg_epochs.p + 8 * i, 8));
    }
    stores = tc_calloc(msg->stores.n, sizeof(*stores));
    for (uint32_t i = 0; i < msg->stores.n; i++) {
        const struct store_info *s = &msg->stores.items[i];

        stores[i] = (struct map_store){s->store, s->node, s->state, dup_str(s->endpoint), dup_str(s->zone)};
    }
    free_stores(m->stores, m->n_stores);
    m->stores = stores;
    m->n_stores = msg->stores.n;
    copy_members(m, msg);
    free(m->dead);
    m->dead = tc_calloc(msg->dead.n, sizeof(*m->dead));
    if (msg->dead.n)
        memcpy(m->dead, msg->dead.items, msg->dead.n * sizeof(*m->dead));
    m->n_dead = msg->dead.n;
    m->dead_below = msg->dead_below;
    m->n = msg->n;
    m->w = msg->w;
    m->r = msg->r;
    m->pg_count = msg->pg_count;
    memcpy(m->cluster, msg->cluster.p, 16);
    m->epoch = msg->epoch;
    return 0;
}

static bool same_voters(const struct map_pg *a, const struct map_pg *b)
{
    return a->n == b->n && a->n_next == b->n_next && !memcmp(a->voters, b->voters, a->n * sizeof(uint64_t)) &&
           !memcmp(a->next, b->next, a->n_next * sizeof(uint64_t));
}

static void stores_to_msg(const struct map *m, struct wire_arena *a, struct cluster_map *msg)
{
    msg->stores.items = wire_arena_alloc(a, (m->n_stores + 1) * sizeof(struct store_info));
    ASSERT(msg->stores.items);
    for (uint32_t i = 0; i < m->n_stores; i++) {
        const struct map_store *s = &m->stores[i];

        msg->stores.items[i] = (struct store_info){.store = s->store, .node = s->node, .state = s->state,
                                                   .endpoint = wire_str_of(s->endpoint),
                                                   .zone = wire_str_of(s->zone)};
    }
    msg->stores.n = m->n_stores;
    msg->members.items = wire_arena_alloc(a, (m->n_members + 1) * sizeof(struct member_info));
    ASSERT(msg->members.items);
    for (uint32_t i = 0; i < m->n_members; i++)
        msg->members.items[i] = (struct member_info){.id = m->members[i].id,
                                                     .endpoint = wire_str_of(m->members[i].endpoint)};
    msg->members.n = m->n_members;
}

void map_to_msg(const struct map *m, struct wire_arena *a, struct cluster_map *msg)
{
    uint32_t cap = 0;
    uint32_t *first = NULL; /* PG that shows each set */
    uint8_t *set_of, *epochs;

    *msg = (struct cluster_map){.epoch = m->epoch, .n = m->n, .w = m->w, .r = m->r, .pg_count = m->pg_count};
    msg->cluster = (struct wire_bin){m->cluster, 16};
    msg->dead.items = m->dead;
    msg->dead.n = m->n_dead;
    msg->dead_below = m->dead_below;
    stores_to_msg(m, a, msg);
    if (!m->pgs)
        return;
    set_of = wire_arena_alloc(a, m->pg_count * 2);
    epochs = wire_arena_alloc(a, m->pg_count * 8);
    ASSERT(set_of && epochs);
    for (uint32_t i = 0; i < m->pg_count; i++) {
        uint32_t s = 0;

        while (s < msg->sets.n && !same_voters(&m->pgs[first[s]], &m->pgs[i]))
            s++;
        if (s == msg->sets.n) {
            if (s == cap) {
                cap = cap ? cap * 2 : 16;
                first = tc_realloc(first, cap * sizeof(*first));
            }
            first[s] = i;
            msg->sets.n++;
        }
        put_le(set_of + 2 * i, s, 2);
        put_le(epochs + 8 * i, m->pgs[i].epoch, 8);
    }
    msg->sets.items = wire_arena_alloc(a, msg->sets.n * sizeof(struct pg_set));
    ASSERT(msg->sets.items);
    for (uint32_t s = 0; s < msg->sets.n; s++) {
        struct map_pg *pg = &m->pgs[first[s]];

        msg->sets.items[s] = (struct pg_set){.voters = {pg->voters, pg->n}, .next = {pg->next, pg->n_next}};
    }
    free(first);
    msg->pg_set_of = (struct wire_bin){set_of, m->pg_count * 2};
    msg->pg_epochs = (struct wire_bin){epochs, m->pg_count * 8};
}

uint32_t map_pg_of(const struct map *m, uint64_t ino, uint32_t index)
{
    uint8_t key[12];

    put_le(key, ino, 8);
    put_le(key + 8, index, 4);
    return (uint32_t)(XXH3_64bits(key, sizeof(key)) % m->pg_count);
}

const struct map_store *map_store(const struct map *m, uint64_t store)
{
    for (uint32_t i = 0; i < m->n_stores; i++) {
        if (m->stores[i].store == store)
            return &m->stores[i];
    }
    return NULL;
}

bool map_session_dead(const struct map *m, uint64_t session, uint32_t incarnation)
{
    if (session < m->dead_below)
        return true;
    for (uint32_t i = 0; i < m->n_dead; i++) {
        if (m->dead[i].session == session && incarnation <= m->dead[i].incarnation)
            return true;
    }
    return false;
}

const struct map_store *map_store_there(const struct map *m, uint64_t store)
{
    const struct map_store *s = map_store(m, store);

    return s && s->state != STORE_REPLACED && s->endpoint[0] ? s : NULL;
}

bool map_is_voter(const struct map_pg *pg, uint64_t store)
{
    for (unsigned i = 0; i < pg->n; i++) {
        if (pg->voters[i] == store)
            return true;
    }
    for (unsigned i = 0; i < pg->n_next; i++) {
        if (pg->next[i] == store)
            return true;
    }
    return false;
}

uint64_t map_cluster_tag(const uint8_t cluster[16])
{
    return get_le(cluster, 8);
}
