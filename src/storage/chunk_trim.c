/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trims and drops. A record's window has few chunks (TRIM_CHUNKS_MAX), so that it is applied whole, in the order of the
 * journal: a write behind it in the journal is never taken by it, live no more than in a replay. What a wide window has
 * is sought when it is applied, not before: a write ahead of it in the journal is not missed.
 */
#include "common/test_rules.h"
#include "storage/chunk_impl.h"

#include <endian.h>
#include <xxhash.h>

/* As map_pg_of(), which the placement of every chunk follows. */
static uint64_t pg_of(uint64_t ino, uint32_t index, uint32_t pg_count)
{
    uint8_t key[12];
    uint64_t i = htole64(ino);
    uint32_t x = htole32(index);

    memcpy(key, &i, 8);
    memcpy(key + 8, &x, 4);
    return XXH3_64bits(key, sizeof key) % pg_count;
}

static int trim_chunk(struct chunk_store *cs, const struct chunk_trim_op *op, uint64_t index)
{
    struct chunk_key key = {pg_of(op->ino, (uint32_t)index, op->pg_count), op->ino, (uint32_t)index, 0};
    struct chunk *c;
    int r = chunk_get(cs, &key, false, &c);

    if (r < 0)
        return r == -TC_E_NOENT ? 0 : r;
    chunk_trim_one(cs, c, op->size, op->epoch);
    chunk_put(cs, c);
    return 0;
}

/* ---- wide windows ------------------------------------------------------------------------------------------ */

struct found {
    uint32_t *list; /* some twice */
    uint32_t n, cap, max;
};

static bool found_add(void *arg, uint32_t index)
{
    struct found *f = arg;

    if (f->n == f->max)
        return false;
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 64;
        f->list = tc_realloc(f->list, f->cap * sizeof *f->list);
    }
    f->list[f->n++] = index;
    return f->n < f->max;
}

/* The chunks that there are: what is in memory may have no row yet. */
static int find(struct chunk_store *cs, uint64_t ino, uint64_t from, uint64_t to, uint32_t pg_count, struct found *f)
{
    struct chunk *c, *tmp;
    int r = 0;

    HASH_ITER(hh, cs->chunks, c, tmp)
    {
        if (c->key.ino == ino && c->key.index >= from && c->key.index < to && !found_add(f, c->key.index))
            return 0;
    }
    for (uint32_t pg = 0; pg < pg_count && r == 0 && f->n < f->max; pg++)
        r = chunk_rows_of(cs, pg, ino, (uint32_t)from, (uint32_t)to, found_add, f);
    return r;
}

bool chunk_store_few(struct chunk_store *cs, uint64_t ino, uint64_t from, uint64_t to, uint32_t pg_count)
{
    struct found f = {.max = TRIM_CHUNKS_MAX + 1};
    int r = find(cs, ino, from, to, pg_count, &f);

    free(f.list);
    return r == 0 && f.n < f.max;
}

static int trim_wide(struct chunk_store *cs, const struct chunk_trim_op *op)
{
    struct found f = {.max = UINT32_MAX};
    int r = find(cs, op->ino, op->from, op->to, op->pg_count, &f);

    for (uint32_t i = 0; i < f.n && r == 0; i++)
        r = trim_chunk(cs, op, f.list[i]);
    free(f.list);
    return r;
}

int trim_apply(struct chunk_store *cs, const struct chunk_trim_op *op)
{
    cs->gc_cursor = MAX(cs->gc_cursor, op->gc_id);
    if (op->to > op->from && op->to - op->from > TRIM_CHUNKS_MAX)
        return trim_wide(cs, op);
    for (uint64_t i = op->from; i < op->to; i++) {
        int r = trim_chunk(cs, op, i);

        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- operations -------------------------------------------------------------------------------------------- */

static uint32_t removed_slot(uint64_t ino)
{
    return (uint32_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 49); /* neighbours take different ones */
}

void chunk_store_removed(struct chunk_store *cs, uint64_t ino)
{
    cs->removed[removed_slot(ino)] = ino;
}

bool was_removed(const struct chunk_store *cs, uint64_t ino)
{
    return cs->removed[removed_slot(ino)] == ino && TC_RULE(GONE_REFUSED);
}

static void trim_done(struct journal_req *req, int status)
{
    struct chunk_trim_op *op = container_of(req, struct chunk_trim_op, req);
    struct chunk_store *cs = op->cs;

    cs_append_done(cs);
    if (status == 0) {
        int r = trim_apply(cs, op);

        if (r < 0)
            cs_fail(cs, r, "index store failed");
        cs_apply_pos(cs, req->end);
        merge_kick(cs);
    } else if (status != -TC_E_NOSPC) {
        cs_fail(cs, status, "journal write failed");
    }
    op->done(op, status);
}

int chunk_store_trim(struct chunk_store *cs, struct chunk_trim_op *op)
{
    ASSERT(op->pg_count && op->from <= op->to && op->to <= UINT32_MAX);
    op->cs = cs;
    op->req = (struct journal_req){.done = trim_done};
    op->iov = (struct iovec){op->record, rec_put_trim(op->record, op)};
    return cs_append(cs, &op->iov, 1, &op->req);
}

static void drop_done(struct journal_req *req, int status)
{
    struct chunk_drop_op *op = container_of(req, struct chunk_drop_op, req);
    struct chunk_store *cs = op->cs;
    struct chunk *c;
    int r;

    cs_append_done(cs);
    if (status == 0) {
        r = chunk_get(cs, &op->key, false, &c);
        if (r == 0) {
            chunk_drop_one(cs, c);
            chunk_put(cs, c);
        } else if (r != -TC_E_NOENT) {
            cs_fail(cs, r, "index store failed");
        }
        cs_apply_pos(cs, req->end);
        merge_kick(cs);
    } else if (status != -TC_E_NOSPC) {
        cs_fail(cs, status, "journal write failed");
    }
    op->done(op, status);
}

int chunk_store_drop(struct chunk_store *cs, struct chunk_drop_op *op)
{
    op->cs = cs;
    op->req = (struct journal_req){.done = drop_done};
    op->iov = (struct iovec){op->record, rec_put_drop(op->record, &op->key)};
    return cs_append(cs, &op->iov, 1, &op->req);
}
