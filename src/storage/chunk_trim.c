/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trims and drops. A trim is one record; what it removes may be many chunks, so it is applied in pieces, a few
 * chunks a turn. That is right because it removes only blocks of lower epochs, which nothing written since has;
 * the position up to which the kv is complete does not pass its record before it is finished.
 */
#include "storage/chunk_impl.h"

#include <endian.h>
#include <xxhash.h>

#define TRIM_CHUNKS_PER_TURN 256

struct trim_work {
    uint64_t pos; /* of its record */
    uint64_t next, end;
    struct chunk_trim_op op; /* a copy of its parameters */
    struct trim_work *prev, *nextw;
};

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

static uint64_t trim_end(const struct chunk_trim_op *op)
{
    uint64_t end = op->reach / CHUNK_SIZE + (op->reach % CHUNK_SIZE != 0);

    return MIN(end, UINT64_C(1) << 32);
}

int trim_apply_sync(struct chunk_store *cs, const struct chunk_trim_op *op)
{
    uint64_t end = trim_end(op);

    cs->gc_cursor = MAX(cs->gc_cursor, op->gc_id);
    for (uint64_t i = op->size / CHUNK_SIZE; i < end; i++) {
        int r = trim_chunk(cs, op, i);

        if (r < 0)
            return r;
    }
    return 0;
}

void trim_apply(struct chunk_store *cs, uint64_t pos, const struct chunk_trim_op *op)
{
    struct trim_work *w = tc_calloc(1, sizeof(*w));

    w->pos = pos;
    w->op = *op;
    w->next = op->size / CHUNK_SIZE;
    w->end = trim_end(op);
    DL_APPEND2(cs->trims, w, prev, nextw);
    env_defer(cs->env, &cs->trim_task);
}

uint64_t cs_safe_pos(const struct chunk_store *cs)
{
    return cs->trims ? MIN(cs->trims->pos, cs->applied) : cs->applied;
}

void trim_run(struct env_task *t)
{
    struct chunk_store *cs = container_of(t, struct chunk_store, trim_task);
    struct trim_work *w = cs->trims;
    uint32_t n = 0;

    while ((w = cs->trims) && n < TRIM_CHUNKS_PER_TURN) {
        int r = 0;

        while (w->next < w->end && n < TRIM_CHUNKS_PER_TURN && r == 0) {
            r = trim_chunk(cs, &w->op, w->next++);
            n++;
        }
        if (r < 0) {
            cs_fail(cs, r, "index store failed");
            return;
        }
        if (w->next < w->end)
            break;
        DL_DELETE2(cs->trims, w, prev, nextw);
        free(w);
        n++;
    }
    if (cs->trims)
        env_defer(cs->env, &cs->trim_task);
    merge_kick(cs);
}

void trim_free(struct chunk_store *cs)
{
    struct trim_work *w;

    env_defer_cancel(cs->env, &cs->trim_task);
    while ((w = cs->trims)) {
        DL_DELETE2(cs->trims, w, prev, nextw);
        free(w);
    }
}

/* ---- operations -------------------------------------------------------------------------------------------- */

static void trim_done(struct journal_req *req, int status)
{
    struct chunk_trim_op *op = container_of(req, struct chunk_trim_op, req);
    struct chunk_store *cs = op->cs;

    cs->busy--;
    if (status == 0) {
        cs->gc_cursor = MAX(cs->gc_cursor, op->gc_id);
        trim_apply(cs, req->pos, op);
        cs_apply_pos(cs, req->end);
    } else if (status != -TC_E_NOSPC) {
        cs_fail(cs, status, "journal write failed");
    }
    op->done(op, status);
}

int chunk_store_trim(struct chunk_store *cs, struct chunk_trim_op *op)
{
    int r;

    ASSERT(op->pg_count);
    op->cs = cs;
    op->req = (struct journal_req){.done = trim_done};
    op->iov = (struct iovec){op->record, rec_put_trim(op->record, op)};
    cs->busy++;
    r = journal_append(cs->journal, &op->iov, 1, &op->req);
    if (r < 0)
        cs->busy--;
    return r;
}

static void drop_done(struct journal_req *req, int status)
{
    struct chunk_drop_op *op = container_of(req, struct chunk_drop_op, req);
    struct chunk_store *cs = op->cs;
    struct chunk *c;
    int r;

    cs->busy--;
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
    int r;

    op->cs = cs;
    op->req = (struct journal_req){.done = drop_done};
    op->iov = (struct iovec){op->record, rec_put_drop(op->record, &op->key)};
    cs->busy++;
    r = journal_append(cs->journal, &op->iov, 1, &op->req);
    if (r < 0)
        cs->busy--;
    return r;
}
