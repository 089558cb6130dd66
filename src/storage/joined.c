/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Since when this store is a voter of each placement group without a gap (PROTOCOL 6.5).
 *
 * A store that stopped being a voter and becomes one again may have blocks that its peers have never agreed on: a write
 * that was given up while it was away must not come back by it. So joined[pg] is the epoch at which it began with
 * nothing, or with nothing but what a quorum of C1 had too; 0: it is a newcomer with remains of a former time. Then it
 * takes no writes and is nobody's source, until recovery (WORK_SHED) has dropped what a quorum does not have alike.
 *
 * Durable before the map that it belongs to, and before the first write of the group is taken: after a crash a newcomer
 * knows which of its blocks were acknowledged under the transition, which it must not drop. A voter of C1 was complete
 * once, so it counts as joined.
 */
#include "common/le.h"
#include "common/log.h"
#include "common/test_rules.h"
#include "storage/server_int.h"

#define JOINED_VERSION 1

static struct buf *encode(const uint64_t *joined, uint32_t n)
{
    struct buf *b = buf_new(8 + n * 8);

    put64(b->data, JOINED_VERSION);
    for (uint32_t i = 0; i < n; i++)
        put64(b->data + 8 + 8 * (size_t)i, joined[i]);
    b->len = 8 + n * 8;
    return b;
}

static void decode(const struct buf *b, uint64_t *joined, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        joined[i] = get64(b->data + 8 + 8 * (size_t)i);
}

static void allocate(struct storage_server *s, uint32_t n)
{
    s->n_joined = n;
    s->joined = tc_calloc(n, sizeof(*s->joined));
    s->joined_next = tc_calloc(n, sizeof(*s->joined_next));
    s->shed = tc_calloc(n, sizeof(*s->shed));
}

static bool remains(struct storage_server *s, uint64_t pg)
{
    struct chunk_digest d;
    uint32_t n = 1;
    bool eof;

    return chunk_store_manifest(s->cs, pg, NULL, &d, &n, &eof) < 0 || n > 0;
}

int joined_load(struct storage_server *s)
{
    struct buf *b = NULL;
    int r;

    if (!s->map || !s->map->pgs)
        return 0;
    allocate(s, s->map->pg_count);
    r = durable_load(&s->joined_file, &b);
    if (r == 0 && b->len == 8 + s->n_joined * 8 && get64(b->data) == JOINED_VERSION) {
        decode(b, s->joined, s->n_joined);
    } else { /* of an older program, or lost: the careful answer */
        for (uint32_t i = 0; i < s->n_joined; i++)
            s->joined[i] = map_is_c1(&s->map->pgs[i], s->id.store) ? s->map->pgs[i].epoch : 0;
    }
    buf_unref(b);
    memcpy(s->joined_next, s->joined, s->n_joined * sizeof(*s->joined));
    return r == -TC_E_NOENT || r == -TC_E_DAMAGED ? 0 : r;
}

void joined_fini(struct storage_server *s)
{
    free(s->joined);
    free(s->joined_next);
    free(s->shed);
    s->joined = s->joined_next = s->shed = NULL;
    s->n_joined = 0;
    s->joined_bytes = buf_unref(s->joined_bytes);
    s->joined_map_bytes = buf_unref(s->joined_map_bytes);
}

/* What @pg of the new map makes of it. */
static uint64_t next_of(struct storage_server *s, const struct map *m, uint32_t i)
{
    const struct map_pg *pg = &m->pgs[i], *old = s->map && s->map->pgs ? &s->map->pgs[i] : NULL;
    bool was = old && map_is_voter(old, s->id.store);

    if (!map_is_voter(pg, s->id.store))
        return 0;
    if (map_is_c1(pg, s->id.store))
        return was && s->joined_next[i] ? s->joined_next[i] : pg->epoch;
    /* A newcomer. Of the epoch before, or this one: without a gap. */
    if (was && !map_is_c1(old, s->id.store) && pg->epoch <= old->epoch + 1)
        return s->joined_next[i];
    return was || remains(s, i) ? 0 : pg->epoch;
}

void joined_plan(struct storage_server *s, const struct map *m)
{
    bool changed = false;

    if (!m->pgs)
        return;
    if (!s->joined)
        allocate(s, m->pg_count);
    for (uint32_t i = 0; i < s->n_joined; i++) {
        uint64_t next = next_of(s, m, i);

        changed = changed || next != s->joined_next[i];
        s->joined_next[i] = next;
    }
    if (changed)
        s->joined_map_bytes = encode(s->joined_next, s->n_joined);
}

int joined_map_save(struct storage_server *s)
{
    struct buf *b = s->joined_map_bytes;

    return b ? durable_save(&s->joined_file, slice_of(b->data, b->len)) : 0;
}

void joined_map_saved(struct storage_server *s)
{
    if (s->joined_map_bytes)
        decode(s->joined_map_bytes, s->joined, s->n_joined);
    s->joined_map_bytes = buf_unref(s->joined_map_bytes);
}

bool joined_not(const struct storage_server *s, uint64_t pg)
{
    return TC_RULE(SHED) && pg < s->n_joined && !s->joined[pg] && !map_is_c1(&s->map->pgs[pg], s->id.store) &&
           map_is_voter(&s->map->pgs[pg], s->id.store);
}

/* ---- what was shed ------------------------------------------------------------------------------ */

static void job_run(struct env_job *j)
{
    struct storage_server *s = container_of(j, struct storage_server, joined_job);

    s->joined_status = durable_save(&s->joined_file, slice_of(s->joined_bytes->data, s->joined_bytes->len));
}

static void job_done(struct env_job *j)
{
    struct storage_server *s = container_of(j, struct storage_server, joined_job);

    s->busy--;
    if (s->joined_status < 0) {
        server_fatal(s, s->joined_status, "the list of placement groups cannot be stored");
        return;
    }
    decode(s->joined_bytes, s->joined, s->n_joined);
    s->joined_bytes = buf_unref(s->joined_bytes);
    recovery_map_changed(s); /* what is wanted now */
    joined_kick(s);
}

void joined_kick(struct storage_server *s)
{
    bool any = false;

    if (s->joined_bytes || s->map_new || !s->joined || s->closing)
        return; /* it comes again when that is done */
    for (uint32_t i = 0; i < s->n_joined; i++) {
        if (s->shed[i] && s->shed[i] == s->map->pgs[i].epoch && joined_not(s, i)) {
            s->joined_next[i] = s->shed[i];
            any = true;
        }
        s->shed[i] = 0;
    }
    if (!any)
        return;
    s->joined_bytes = encode(s->joined_next, s->n_joined);
    s->joined_job.run = job_run;
    s->joined_job.done = job_done;
    s->busy++;
    env_job_submit(s->env, &s->jobs, &s->joined_job);
}
