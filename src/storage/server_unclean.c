/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a store is asked when a writer was lost (PROTOCOL 3.6): SIZE_QUERY, CHUNK_SEEK, RECONCILE.
 *
 * A file may be sparse and of any size: no request takes a step per chunk that the file could have. If it could have more
 * chunks than there are placement groups, those that there are are sought group by group. A turn has a bounded part of
 * it; then the loop goes on to others.
 */
#include "storage/server_int.h"

#define SIZE_CHUNKS_PER_TURN 256
#define GROUPS_PER_TURN 64
#define RECONCILE_MAX 1024
#define RECONCILE_AT_ONCE 8

/* ---- SIZE_QUERY ----------------------------------------------------------------------------------------------- */

static int size_of_chunk(struct request *q, uint64_t pg, uint32_t index)
{
    const struct size_query_req *req = &q->u.size;
    struct size_query_res *res = &q->size_res;
    struct chunk_key key = {pg, req->ino, index, 0};
    struct chunk_pair p;
    int r = chunk_store_pair(q->s->cs, &key, &p);

    if (r < 0)
        return r == -TC_E_NOENT ? 0 : r;
    if (p.vepoch == req->epoch && (!res->found || p.vseq >= res->vseq))
        *res = (struct size_query_res){true, p.vepoch, p.vseq, p.size, p.mtime};
    return 0;
}

/* Every chunk that there could be: q->at is the next one. */
static int size_by_index(struct request *q, bool *ret_end)
{
    struct storage_server *s = q->s;
    const struct size_query_req *req = &q->u.size;
    int r = 0;

    for (uint32_t n = 0; n < SIZE_CHUNKS_PER_TURN && q->at < req->chunks && r == 0; n++, q->at++) {
        uint32_t pg = map_pg_of(s->map, req->ino, q->at);

        if (map_is_voter(&s->map->pgs[pg], s->id.store))
            r = size_of_chunk(q, pg, q->at);
    }
    *ret_end = q->at == req->chunks;
    return r;
}

/* The chunks that there are: q->at is the group, q->from where to go on in it. */
static int size_by_group(struct request *q, bool *ret_end)
{
    struct storage_server *s = q->s;
    const struct size_query_req *req = &q->u.size;
    uint32_t indexes[SIZE_CHUNKS_PER_TURN], left = SIZE_CHUNKS_PER_TURN, n;
    int r = 0;

    for (uint32_t g = 0; g < GROUPS_PER_TURN && q->at < s->map->pg_count && left && r == 0; g++) {
        n = 0;
        if (map_is_voter(&s->map->pgs[q->at], s->id.store)) {
            n = left;
            r = chunk_store_indexes(s->cs, q->at, req->ino, q->from, req->chunks, indexes, &n);
        }
        for (uint32_t i = 0; i < n && r == 0; i++)
            r = size_of_chunk(q, q->at, indexes[i]);
        if (n == left) {
            q->from = indexes[n - 1] + 1;
        } else {
            q->at++;
            q->from = 0;
        }
        left -= n;
    }
    *ret_end = q->at == s->map->pg_count;
    return r;
}

static void size_step(struct env_task *t)
{
    struct request *q = container_of(t, struct request, task);
    bool end;
    int r = q->u.size.chunks > q->s->map->pg_count ? size_by_group(q, &end) : size_by_index(q, &end);

    if (r < 0)
        request_reply(q, r, NULL, NULL, NULL);
    else if (end)
        request_reply(q, 0, &size_query_res_schema, &q->size_res, NULL);
    else
        env_defer(q->s->env, t);
}

void handle_size_query(struct request *q)
{
    if (request_admit(q, 0, 0, q->u.size.barrier))
        return;
    q->task.fn = size_step;
    size_step(&q->task);
}

/* ---- CHUNK_SEEK ----------------------------------------------------------------------------------------------- */

/*
 * A vote of this store as a voter of each group: all that it has taken is in its index, and what is not there it does not
 * have (PROTOCOL 4.9). It counts for whoever knows the same map (4.10).
 */
static void seek_step(struct env_task *t)
{
    struct request *q = container_of(t, struct request, task);
    struct storage_server *s = q->s;
    const struct chunk_seek_req *req = &q->u.seek;
    struct chunk_seek_res *res = &q->seek_res;
    int r = 0;

    if (res->map_epoch != s->map->epoch) { /* anew: what it says is of one map */
        uint32_t index = chunk_store_in_memory(s->cs, req->ino, req->from, req->to);

        *res = (struct chunk_seek_res){index < req->to, index, s->map->epoch};
        q->at = 0;
    }
    for (uint32_t g = 0; g < GROUPS_PER_TURN && q->at < s->map->pg_count && r == 0; g++, q->at++) {
        uint32_t n = map_is_voter(&s->map->pgs[q->at], s->id.store), index;

        if (n)
            r = chunk_store_stored(s->cs, q->at, req->ino, req->from, res->found ? res->index : req->to, &index, &n);
        if (n && r == 0)
            *res = (struct chunk_seek_res){true, index, s->map->epoch};
    }
    if (r < 0)
        request_reply(q, r, NULL, NULL, NULL);
    else if (q->at == s->map->pg_count)
        request_reply(q, 0, &chunk_seek_res_schema, res, NULL);
    else
        env_defer(s->env, t);
}

void handle_chunk_seek(struct request *q)
{
    if (request_admit(q, 0, 0, q->u.seek.barrier))
        return;
    q->task.fn = seek_step;
    seek_step(&q->task);
}

/* ---- RECONCILE ------------------------------------------------------------------------------------------------ */

static void reconcile_step(struct request *q);

static void reconcile_done(struct heal *h, int status)
{
    struct request *q = h->arg;

    if (status < 0 && q->status == 0)
        q->status = status;
    free(h);
    q->left--;
    reconcile_step(q);
}

static void reconcile_step(struct request *q)
{
    struct storage_server *s = q->s;
    const struct reconcile_req *req = &q->u.reconcile;

    while (q->status == 0 && q->left < RECONCILE_AT_ONCE && q->at < req->indexes.n) {
        uint32_t index = (uint32_t)req->indexes.items[q->at++];
        struct heal *h = tc_calloc(1, sizeof(*h));

        *h = (struct heal){.s = s, .key = {map_pg_of(s->map, req->ino, index), req->ino, index, 0}, .mode = HEAL_ALL,
                           .from_epoch = req->from_epoch, .done = reconcile_done, .arg = q};
        q->left++;
        heal_start(h);
    }
    if (!q->left)
        request_reply(q, q->status, NULL, NULL, NULL);
}

void handle_reconcile(struct request *q)
{
    if (request_admit(q, 0, 0, q->u.reconcile.barrier))
        return;
    if (q->u.reconcile.indexes.n > RECONCILE_MAX) {
        request_reply(q, -TC_E_LIMIT, NULL, NULL, NULL);
        return;
    }
    reconcile_step(q);
}
