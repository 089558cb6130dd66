/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dump comes back, as entries of the log of a new, empty group: pieces with rows, then the end.
 *
 * The storage nodes have gone on since the dump was made: there are blocks of epochs, inodes, sessions, placement
 * group epochs and maps that the dump does not know. Every counter therefore jumps by a LEAP that no cluster makes in
 * its life, so that nothing is given twice. All sessions of the dump are expired, as if their mounts had vanished: what
 * they had in X is unclean and recovers its size from the stores (PROTOCOL 3.6). Files that the dump does not know are
 * gone; their blocks are collected, for the stores ask about inodes they find.
 *
 * Rows of the log itself (`a`), of genesis and members, and garbage (whose ids the stores have passed) are not loaded.
 */
#include "meta/fsm_int.h"

#define LEAP (UINT64_C(1) << 32)
#define LEAP_SMALL (UINT64_C(1) << 20) /* map and group epochs, session ids */

static bool table_is_loaded(uint8_t table)
{
    return table && strchr("diknoprstuvwx", table);
}

/* Rows as in a dump: key length u32, value length u32, key, value. */
static int load_rows(struct fsm *f, struct wire_bin rows)
{
    struct rowget g = rowget_of(slice_of(rows.p, rows.n));

    while (g.p < g.end) {
        uint32_t k = get_u32(&g), v = get_u32(&g);
        struct key key;

        if (g.bad || k == 0 || k > sizeof(key.b) || (size_t)(g.end - g.p) < (size_t)k + v)
            return -TC_E_BAD_MESSAGE;
        memcpy(key.b, g.p, k);
        key.n = k;
        if (table_is_loaded(key.b[0]))
            row_put(f, key, g.p + k, v);
        g.p += (size_t)k + v;
    }
    return 0;
}

static void sessions_expire(struct fsm *f)
{
    struct session *s, *tmp;

    HASH_ITER (hh, f->sessions, s, tmp) {
        if (s->state == FSM_SESSION_LIVE)
            session_end(f, s, FSM_SESSION_EXPIRED);
    }
}

static void counters_leap(struct fsm *f, const struct fsm *old)
{
    f->clock = f->now = MAX(f->clock, old->clock + 1);
    f->next_ino = old->next_ino + LEAP;
    f->next_session = old->next_session + LEAP_SMALL;
    f->gc_first = f->gc_next = old->gc_next + LEAP;
    f->n_inodes = old->n_inodes;
    f->n_blocks = old->n_blocks;
    f->map_epoch = MAX(f->map_epoch, old->map_epoch) + LEAP_SMALL;
    f->epoch_floor = old->epoch_floor + LEAP;
}

static int load_end(struct fsm *f, struct wire_bin meta)
{
    struct fsm old = {0};
    int r = meta_decode(&old, slice_of(meta.p, meta.n));

    if (r < 0 || !old.formatted || old.loading)
        return r < 0 ? r : -TC_E_INVAL;
    counters_leap(f, &old);
    inode_cache_drop(f); /* the root that genesis made */
    r = cluster_load_rows(f);
    if (r == 0)
        r = session_load(f);
    if (r < 0) {
        io_fail(f, r); /* the rows are in the store, and wrong: no member can go on */
        return r;
    }
    map_touch(f);
    sessions_expire(f);
    for (uint32_t i = 0; f->pgs && i < f->genesis.pg_count; i++) {
        f->pgs[i].epoch += LEAP_SMALL;
        pg_save(f, i);
    }
    for (uint32_t i = 0; i < f->n_stores; i++) {
        f->stores[i].gc_cursor = f->gc_next - 1;
        store_save(f, &f->stores[i]);
    }
    f->loading = 0;
    return 0;
}

int op_load(struct fsm *f, const struct load_req *req)
{
    int r;

    if (f->load_id && req->id == f->load_id && req->seq <= f->load_seq)
        return 0; /* asked again */
    if (!f->loading)
        return -TC_E_ALREADY_FORMATTED;
    if ((f->load_id && req->id != f->load_id) || req->seq != f->load_seq + 1)
        return -TC_E_INVAL;
    r = req->step == LOAD_END ? load_end(f, req->rows) : load_rows(f, req->rows);
    if (r == 0) {
        f->load_id = req->id;
        f->load_seq = req->seq;
    }
    return r;
}
