/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks that are unknown: found damaged, and no vote until a quorum's copy has taken their place (PROTOCOL 4.9).
 *
 * Of a block that did not match its checksum the version is still known, and nothing older takes its place. Where the
 * index entry was damaged even that is gone ("bare"): such a block takes what is proven to be the newest only.
 */
#include "storage/chunk_impl.h"

#include "common/log.h"

#define UNREADABLE_MAX 20 /* blocks in an hour: above, the disk counts as failing */
#define HOUR_NS (3600 * NS_PER_S)

void cs_damaged(struct chunk_store *cs, const struct chunk_key *key)
{
    if (cs->opt.damaged)
        cs->opt.damaged(cs->opt.damaged_arg, key);
}

uint32_t chunk_store_unknown(struct chunk_store *cs, const struct chunk_key *key, uint32_t *ret_bare)
{
    uint32_t n = 0, bare = 0;
    struct chunk *c;

    if (chunk_get(cs, key, false, &c) == 0) {
        for (uint32_t b = 0; b < c->n; b++) {
            n += c->blocks[b].kind == RUN_UNKNOWN;
            bare += c->blocks[b].kind == RUN_UNKNOWN && !c->blocks[b].vepoch;
        }
        chunk_put(cs, c);
    }
    if (ret_bare)
        *ret_bare = bare;
    return n;
}

void chunk_store_forget_unknown(struct chunk_store *cs, const struct chunk_key *key)
{
    struct chunk *c;

    if (chunk_get(cs, key, false, &c) < 0)
        return;
    for (uint32_t b = 0; b < c->n; b++) {
        if (c->blocks[b].kind == RUN_UNKNOWN)
            c->blocks[b] = (struct block){.kind = RUN_UNKNOWN};
    }
    chunk_mark_dirty(cs, c);
    chunk_put(cs, c);
}

void chunk_store_absent(struct chunk_store *cs, const struct chunk_key *key, const bool *absent)
{
    struct chunk *c;
    bool was_empty;

    if (chunk_get(cs, key, false, &c) < 0)
        return;
    was_empty = chunk_is_empty(c); /* as one that is being written for the first time */
    for (uint32_t b = 0; b < c->n; b++) {
        if (!absent[b] || c->blocks[b].kind != RUN_UNKNOWN || c->blocks[b].vepoch)
            continue;
        c->blocks[b] = (struct block){0};
        cs->repaired++;
    }
    chunk_changed(cs, c, was_empty);
    chunk_put(cs, c);
}

/* ---- index and journal --------------------------------------------------------------------------------------------- */

int chunk_store_check_index(struct chunk_store *cs)
{
    int r = kv_check(cs->kv);

    return r == -TC_E_DAMAGED ? kv_check(cs->kv) : r; /* twice: it was being written */
}

/*
 * A disk loses a sector now and then; what was there comes back from the others, and the disk puts a good sector in the
 * place when it is written. Many at a time say that it is about to fail.
 */
void cs_unreadable(struct chunk_store *cs, uint32_t blocks)
{
    uint64_t now = env_now(cs->env);

    if (!cs->hour || now - cs->hour >= HOUR_NS) {
        cs->hour = now;
        cs->unreadable_low = cs->unreadable;
    }
    cs->unreadable += blocks;
    LOG_ERR("storage", "blocks of a chunk file cannot be read", "blocks=%u hour=%llu", blocks,
            (unsigned long long)(cs->unreadable - cs->unreadable_low));
    if (cs->unreadable - cs->unreadable_low > UNREADABLE_MAX)
        cs->disk_error = true;
}

void chunk_store_disk_error(struct chunk_store *cs)
{
    cs->disk_error = true;
}

uint64_t chunk_store_journal_begin(const struct chunk_store *cs)
{
    return journal_begin(cs->journal);
}

uint64_t chunk_store_check_journal(struct chunk_store *cs, uint64_t from)
{
    return journal_check(cs->journal, from);
}

static void renewed(struct chunk_trim_op *op, int status TC_UNUSED)
{
    struct chunk_store *cs = op->cs;

    free(op);
    chunk_store_checkpoint(cs);
}

void chunk_store_renew_journal(struct chunk_store *cs)
{
    struct chunk_trim_op *op = tc_calloc(1, sizeof(*op));

    journal_rotate(cs->journal);
    *op = (struct chunk_trim_op){.pg_count = 1, .done = renewed}; /* removes nothing: the first record of a new segment */
    if (chunk_store_trim(cs, op) < 0)
        free(op);
}
