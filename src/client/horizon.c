/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making room in the horizon (PROTOCOL 5.1): an X holder rewrites the range from one entry's size to the next
 * entry's under its own epoch, durable on W, and says so in a commit; then the entry goes.
 *
 *   choose ──► a chunk's versions ──► zero marks, kept bytes ──W acks──► the next chunk ... ──► COMMIT(rewritten)
 *
 * A block is left as it is when its version is the entry's epoch or later: it is on W, as the file is clean
 * or settled, and outranks whatever the entry masked. One that nobody has is marked too, for a voter
 * that was not asked may still hold what the others have trimmed. So beginning again after a recall costs versions only.
 *
 * Owned by struct xlease: it ends with X. Calls that wait for room drive it, one step in a tick, and any of them may
 * go; writers wait meanwhile. No more than one chunk is under way.
 */
#include "client/internal.h"

static uint32_t entry_find(const struct inode *i, uint64_t epoch)
{
    uint32_t k = 0;

    while (k < i->attr.horizons.n && i->attr.horizons.items[k].epoch != epoch)
        k++;
    return k;
}

/* The entry with the least to rewrite. */
static void entry_choose(struct inode *i)
{
    const struct horizon *h = i->attr.horizons.items;
    struct xlease *x = i->x;
    uint32_t best = 0;

    ASSERT(i->attr.horizons.n >= 2);
    for (uint32_t k = 1; k + 1 < i->attr.horizons.n; k++) {
        if (h[k + 1].size - h[k].size < h[best + 1].size - h[best].size)
            best = k;
    }
    x->rw.entry = h[best].epoch;
    x->rw.epoch = x->epoch;
    x->rw.from = h[best].size;
    x->rw.at = h[best].size / BLOCK_SIZE;
    x->rw.end = (h[best + 1].size + BLOCK_SIZE - 1) / BLOCK_SIZE;
}

static void zero_run(struct tc_client *c, struct inode *i, uint64_t first, uint64_t end)
{
    if (first < end)
        dirty_write(c, i, NULL, 0, (size_t)((end - first) * BLOCK_SIZE), first * BLOCK_SIZE);
}

void horizon_fetched(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, int status,
                     const struct qblock *blocks)
{
    struct xlease *x = i->x;
    uint64_t zero_from = first;

    if (!x || !x->rw.fetching)
        return;
    x->rw.fetching = false;
    if (status != 0 && status != -TC_E_FENCED)
        x->rw.error = status;
    if (!blocks || !x->rw.entry || x->rw.epoch != x->epoch || x->rw.at != first || x->truncating || i->phase != RECALL_IDLE)
        return; /* looked at again, if anybody still wants it */
    for (uint32_t n = 0; n < count; n++) {
        const struct qblock *b = &blocks[n];
        bool keep = b->kind != RUN_NONE && b->vepoch >= x->rw.entry && !block_unsettled(i, b);

        if (!keep && (!b->data || block_visible(i, b->vepoch, (first + n) * BLOCK_SIZE) == 0))
            continue; /* zeros */
        zero_run(c, i, zero_from, first + n);
        zero_from = first + n + 1;
        if (!keep)
            block_rewrite(c, i, b, first + n);
    }
    zero_run(c, i, zero_from, first + count);
    x->rw.at = first + count;
    (void)flush_all(c, i);
}

/* What was under way no longer fits: another truncate came, or the entry is gone. */
static bool stale(const struct inode *i)
{
    return i->x->rw.epoch != i->x->epoch || entry_find(i, i->x->rw.entry) + 1 >= i->attr.horizons.n;
}

bool horizon_busy(const struct inode *i)
{
    return i->phase == RECALL_IDLE && (i->x->rw.entry || i->attr.horizons.n >= HORIZON_MAX);
}

bool horizon_make_room(struct tc_call *call, struct inode *i)
{
    struct tc_client *c = call->c;
    struct xlease *x = i->x;
    bool unclean = i->attr.data_state >= DATA_UNCLEAN || x->gave_up;
    uint64_t end;

    ASSERT(i->phase == RECALL_IDLE);
    if (x->rw.error) {
        int status = x->rw.error;

        x->rw = (struct rewriting){.fetching = x->rw.fetching};
        waitq_wake(&i->io_wq); /* the others begin again */
        call_finish(call, status);
        return true;
    }
    if (!session_valid(c)) {
        call_wait(call, &c->session_wq);
        return true;
    }
    if (x->truncating || i->commit_inflight || i->commit_queued) {
        call_wait(call, &i->io_wq);
        return true;
    }
    if (x->rw.entry && stale(i))
        x->rw.entry = 0;
    if (!x->rw.entry && i->attr.horizons.n < HORIZON_MAX - 1)
        return false; /* there is room now */
    if (!x->rw.entry)
        entry_choose(i);
    lease_x_used(c, i);
    if (map_wait(call, i->barrier))
        return true;
    call_wait(call, &i->io_wq);
    if (i->dirty_blocks || i->n_flights) { /* what is sent before counts only when it is durable */
        (void)flush_all(c, i);
        return true;
    }
    if (x->rw.fetching)
        return true;
    if (x->rw.at >= x->rw.end) {
        x->rewritten = x->rw.entry;
        x->rw.entry = 0;
        lease_commit(c, i);
        return true;
    }
    end = MIN((x->rw.at | (BLOCKS_PER_CHUNK - 1)) + 1, x->rw.end);
    if (x->rw.at * BLOCK_SIZE < x->rw.from) /* the one block that may have bytes to keep */
        end = x->rw.at + 1;
    x->rw.fetching = true;
    horizon_fetch(c, i, x->rw.at, (uint32_t)(end - x->rw.at), !unclean && x->rw.at * BLOCK_SIZE >= x->rw.from);
    return true;
}
