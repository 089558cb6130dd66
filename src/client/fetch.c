/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fetches: quorum reads of blocks of one chunk, for reads, partial writes, horizons and known versions (fetch.h).
 */
#include "client/fetch.h"

#include "common/log.h"
#include "common/test_rules.h"

size_t block_visible(const struct inode *i, uint64_t epoch, uint64_t start)
{
    uint64_t end = i->x ? i->x->size : i->attr.size;

    for (uint32_t h = 0; h < i->attr.horizons.n; h++) {
        if (epoch < i->attr.horizons.items[h].epoch && TC_RULE(HORIZON))
            end = MIN(end, i->attr.horizons.items[h].size);
    }
    if (end <= start)
        return 0;
    return MIN(end - start, BLOCK_SIZE);
}

void fetch_unref(struct tc_client *c, struct fetch *f)
{
    if (--f->refs > 0)
        return;
    ASSERT(!f->running);
    c->ra_bytes -= (uint64_t)f->q.count * BLOCK_SIZE;
    quorum_read_free(&f->q);
    free(f->expect);
    free(f);
}

/* It ended well, and X and the local data are those under which it began. */
static bool still_ours(const struct fetch *f)
{
    const struct inode *i = f->ino;

    return f->status == 0 && i->x && i->x->epoch == f->epoch && f->data_gen == i->data_gen && f->breaks == i->breaks;
}

static void block_fetched(struct tc_client *c, struct fetch *f)
{
    struct inode *i = f->ino;

    i->fetching = false;
    if (still_ours(f)) {
        const struct qblock *b = &f->q.blocks[0];
        uint8_t bytes[BLOCK_SIZE] = {0};
        size_t n = b->kind == RUN_DATA ? block_visible(i, b->vepoch, f->first * BLOCK_SIZE) : 0;

        if (n)
            memcpy(bytes, b->data, n);
        dirty_add_clean(c, i, f->first, n ? bytes : NULL);
    } else if (f->status != 0) {
        LOG_WARN("client", "block for a partial write cannot be read", "ino=%lu error=%s", (unsigned long)i->ino,
                 tc_error_name(f->status));
        if (f->status != -TC_E_FENCED) {
            waitq_fail(&i->fetch_wq, f->status);
            return;
        }
    }
    waitq_wake(&i->fetch_wq);
}

/* The engine is closed: its reads will not answer. */
void fetches_drop(struct tc_client *c)
{
    while (c->fetches) {
        struct fetch *f = c->fetches;

        DL_DELETE(c->fetches, f);
        f->running = false;
        f->q.impl = NULL;
        fetch_unref(c, f);
    }
}

static void fetch_done(struct qread *q, int status)
{
    struct fetch *f = container_of(q, struct fetch, q);
    struct inode *i = f->ino;
    struct tc_client *c = i->c;

    f->running = false;
    DL_DELETE(c->fetches, f);
    f->status = status;
    if (f->single)
        block_fetched(c, f);
    if (f->horizon) {
        horizon_fetched(c, i, f->first, f->q.count, status, still_ours(f) ? q->blocks : NULL);
        waitq_wake(&i->io_wq);
    }
    if (f->known)
        known_learn(c, i, q->index, q->count, status == 0 ? q->blocks : NULL, f->breaks, f->data_gen);
    waitq_wake(&f->wq);
    fetch_unref(c, f);
    inode_unpin(c, i);
}

/* Blocks [first, first+count) of one chunk; not sent yet. Returns: one reference; another is held while it runs. */
static struct fetch *fetch_new(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only)
{
    struct fetch *f = tc_calloc(1, sizeof(*f));
    bool unclean = i->attr.data_state >= DATA_UNCLEAN || (i->x && i->x->gave_up);

    f->ino = i;
    f->first = first;
    f->refs = 2;
    f->running = true;
    f->breaks = i->breaks;
    f->data_gen = i->data_gen;
    f->epoch = i->x ? i->x->epoch : 0;
    f->q = (struct qread){.ino = i->ino,
                          .index = (uint32_t)(first / BLOCKS_PER_CHUNK),
                          .first = (uint32_t)(first % BLOCKS_PER_CHUNK),
                          .count = count,
                          .barrier = i->barrier,
                          .versions_only = versions_only,
                          .write_back = unclean,
                          .clean = !i->x && i->attr_cached && (i->attr.data_state == DATA_CLEAN || !TC_RULE(CLEAN_READ)) &&
                                   lease_s_ok(c, i),
                          .deadline = UINT64_MAX,
                          .done = fetch_done};
    c->ra_bytes += (uint64_t)count * BLOCK_SIZE;
    c->stats.fetches++;
    inode_pin(i);
    DL_APPEND(c->fetches, f);
    return f;
}

struct fetch *fetch_start(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only)
{
    struct fetch *f = fetch_new(c, i, first, count, versions_only);

    quorum_read(c->quorum, &f->q);
    return f;
}

/* The versions of all of a chunk, to be known. */
static void versions_fetch(struct tc_client *c, struct inode *i, uint64_t block)
{
    uint64_t first = block & ~(uint64_t)(BLOCKS_PER_CHUNK - 1), end = (i->attr.size + BLOCK_SIZE - 1) / BLOCK_SIZE;
    struct fetch *f = fetch_start(c, i, first, (uint32_t)MIN(end - first, BLOCKS_PER_CHUNK), true);

    f->known = true;
    fetch_unref(c, f); /* the running one remains */
}

struct fetch *fetch_data(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count)
{
    struct fetch *f = fetch_new(c, i, first, count, false);
    const struct qblock *known;
    bool ask;

    known = known_find(c, i, first, count, &ask);
    if (known && !f->q.write_back) {
        f->expect = tc_malloc(count * sizeof(*known));
        memcpy(f->expect, known, count * sizeof(*known));
        f->q.expect = f->expect;
    }
    quorum_read(c->quorum, &f->q);
    if (ask)
        versions_fetch(c, i, first);
    return f;
}

void block_fetch(struct tc_call *call, struct inode *i, uint64_t block)
{
    struct fetch *f;

    call_wait(call, &i->fetch_wq);
    if (i->fetching)
        return;
    i->fetching = true;
    f = fetch_start(call->c, i, block, 1, false);
    f->single = true;
    fetch_unref(call->c, f); /* the running one remains */
}

void horizon_fetch(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only)
{
    struct fetch *f = fetch_start(c, i, first, count, versions_only);

    f->horizon = true;
    fetch_unref(c, f); /* the running one remains */
}
