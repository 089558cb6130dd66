/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Write-behind: X begins and ends, dirty extents become block writes, by age, pressure, fsync and recall.
 *
 *   dirty extent ──launch──► flight ──W acks──► done (may stay as a clean extent) ──all N or given up──► freed
 *
 * A flight gets its version, and with it size and mtime of the file, at launch (PROTOCOL 4.7): what is launched
 * later has a higher seq. Launching waits for a committed reach at or above the size, and for truncates.
 */
#include "client/internal.h"

#include <xxhash.h>

#include "common/log.h"
#include "common/test_rules.h"

static void age_tick(struct env_timer *t);

void dirty_init(struct tc_client *c)
{
    c->age_timer.fn = age_tick;
}

static void flight_free(struct flight *f)
{
    buf_unref(f->w.data);
    free(f);
}

void dirty_fini(struct tc_client *c)
{
    env_timer_cancel(c->env, &c->age_timer);
}

/* Flights that the closed engine will not answer. */
void flights_drop(struct inode *i)
{
    struct flight *f, *tmp;

    DL_FOREACH_SAFE(i->flights, f, tmp)
    {
        DL_DELETE(i->flights, f);
        flight_free(f);
    }
    DL_FOREACH_SAFE(i->tails, f, tmp)
    {
        DL_DELETE(i->tails, f);
        flight_free(f);
    }
    i->n_flights = i->n_tails = 0;
}

/* ---- X ---------------------------------------------------------------------------------------------------------- */

void x_new(struct tc_client *c, struct inode *i, const struct grant *g, const struct attr *a)
{
    struct xlease *x = tc_calloc(1, sizeof(*x));

    ASSERT(!i->x);
    x->epoch = g->epoch;
    x->size = x->size_max = x->committed_size = x->data_end = a->size;
    x->mtime = x->committed_mtime = a->mtime;
    x->reach = g->reach;
    x->was_clean = g->was_clean;
    x->all_acked = true;
    x->flushed_at = env_now(c->env);
    i->x = x;
    i->attr_cached = i->recall_count == i->get_stamp; /* the attributes of this answer follow */
    lease_x_used(c, i);
}

void x_end(struct tc_client *c, struct inode *i)
{
    if (i->on_x_list)
        DL_DELETE2(c->x_list, i, x_prev, x_next);
    i->on_x_list = false;
    i->ask = ASK_NONE;
    /* What callers see next is what was committed. */
    if (i->attr.change && !x_is_over(i)) {
        i->attr.size = i->x->committed_size;
        i->attr.mtime = i->x->committed_mtime;
    }
    free(i->x);
    i->x = NULL;
}

void files_error(struct inode *i, int error, bool fail)
{
    struct tc_file *f;

    if (!i->files)
        i->unheard = error;
    DL_FOREACH(i->files, f)
    {
        if (!f->error) /* also of those that wrote nothing: their fsync speaks for all of the file's data */
            f->error = error;
        f->failed = f->failed || (fail && f->dirtied && TC_RULE(LOSS_FAILS));
        f->dirtied = false;
    }
}

/* ---- landing ------------------------------------------------------------------------------------------------------ */

static void quiet_check(struct tc_client *c, struct inode *i)
{
    struct tc_file *f;

    if (i->dirty_blocks || i->n_flights)
        return;
    if (i->x)
        i->x->flushed_at = env_now(c->env);
    DL_FOREACH(i->files, f)
    f->dirtied = false;
}

/* @f landed: earlier versions of its blocks that are still under way are not what the blocks hold. */
static void flight_outdates(struct inode *i, const struct flight *f)
{
    struct flight *o;

    DL_FOREACH(i->flights, o)
    {
        uint64_t from = MAX(o->first, f->first), to = MIN(o->first + o->w.count, f->first + f->w.count);

        for (uint64_t b = from; o->w.vseq < f->w.vseq && b < to; b++)
            o->stale[(b - o->first) / 8] |= (uint8_t)(1u << (b - o->first) % 8);
    }
}

static void flight_done(struct qwrite *w, int status)
{
    struct flight *f = container_of(w, struct flight, w);
    struct inode *i = f->ino;
    struct tc_client *c = i->c;
    struct xlease *x = i->x && i->x->epoch == w->vepoch ? i->x : NULL;
    uint64_t bytes = w->zero ? 0 : (uint64_t)w->count * BLOCK_SIZE;

    f->done = true;
    f->status = status;
    if (status != 0)
        i->write_error = status;
    else if (i->recalls || i->ask)
        c->recall_landed++;
    c->flight_bytes -= bytes;
    c->dirty_bytes -= bytes;
    if (status == 0 && x) {
        x->size_acked = MAX(x->size_acked, w->size);
        x->data_end = MAX(x->data_end, (f->first + w->count) * BLOCK_SIZE);
        x->new_blocks += (int64_t)w->new_blocks - w->freed_blocks;
        clean_keep(c, i, f);
        flight_outdates(i, f);
    }
    DL_DELETE(i->flights, f);
    i->n_flights--;
    i->data_gen++; /* what was fetched while it was here may be older */
    DL_APPEND(i->tails, f);
    i->n_tails++;
    if (status == -TC_E_FENCED || status == -TC_E_SESSION_EXPIRED) {
        if (x) {
            files_error(i, -TC_E_IO, true);
            lease_lost(c, i, -TC_E_IO);
        }
    } else if (status != 0) {
        LOG_ERR("client", "data could not be written and is dropped", "ino=%lu block=%lu count=%u error=%s",
                (unsigned long)i->ino, (unsigned long)f->first, w->count, tc_error_name(status));
        c->stats.errors++;
        files_error(i, status, false);
        if (x) {
            x->gave_up = true;
            if (x->rw.entry)
                x->rw.error = status;
        }
    } else {
        quiet_check(c, i);
    }
    waitq_wake(&i->io_wq);
    if (c->dirty_bytes < c->dirty_max)
        waitq_wake(&c->room_wq);
    if (i->x && i->flush_wanted)
        (void)flush_pending(c, i);
    recall_progress(c, i);
    if (c->dirty_bytes > c->dirty_max / 2)
        flush_pressure(c);
}

static void flight_all_done(struct qwrite *w, bool all)
{
    struct flight *f = container_of(w, struct flight, w);
    struct inode *i = f->ino;
    struct tc_client *c = i->c;

    ASSERT(f->done && i->n_tails > 0);
    if (i->x && (!all || f->status != 0))
        i->x->all_acked = false; /* of an epoch before a truncate, too: the file is as clean as all its blocks */
    DL_DELETE(i->tails, f);
    i->n_tails--;
    flight_free(f);
    inode_unpin(c, i);
}

/* ---- launching ------------------------------------------------------------------------------------------------------ */

static void flight_launch(struct tc_client *c, struct inode *i, struct extent *e)
{
    struct flight *f = tc_calloc(1, sizeof(*f) + (e->buf ? e->count * sizeof(uint64_t) : 0));
    struct xlease *x = i->x;
    uint64_t bytes = e->buf ? (uint64_t)e->count * BLOCK_SIZE : 0;

    f->ino = i;
    f->first = e->first;
    f->w = (struct qwrite){.ino = i->ino,
                           .index = (uint32_t)(e->first / BLOCKS_PER_CHUNK),
                           .first = (uint32_t)(e->first % BLOCKS_PER_CHUNK),
                           .count = e->count,
                           .vepoch = x->epoch,
                           .vseq = TC_RULE(SEQ_ANEW) || !x->seq ? ++x->seq : x->seq,
                           .size = TC_RULE(BLOCK_BEARS) ? x->size : x->committed_size,
                           .mtime = TC_RULE(BLOCK_BEARS) ? x->mtime : x->committed_mtime,
                           .zero = !e->buf,
                           .barrier = i->barrier,
                           .data_off = e->off,
                           .sums = f->sums,
                           .deadline = UINT64_MAX,
                           .done = flight_done,
                           .all_done = flight_all_done};
    ASSERT(f->w.first + f->w.count <= BLOCKS_PER_CHUNK && (x->size <= x->reach || !TC_RULE(REACH)));
    if (e->buf) {
        f->w.data = TAKE(e->buf);
        f->w.data->len = MAX(f->w.data->len, (uint32_t)(e->off + bytes)); /* own buffers count in blocks */
        for (uint32_t b = 0; b < e->count; b++)
            f->sums[b] = XXH3_64bits(f->w.data->data + e->off + (size_t)b * BLOCK_SIZE, BLOCK_SIZE);
    }
    free(e);
    inode_pin(i);
    DL_APPEND(i->flights, f);
    i->n_flights++;
    c->flight_bytes += bytes;
    c->dirty_bytes += bytes;
    c->stats.flushes++;
    c->stats.flushed_bytes += bytes;
    quorum_write(c->quorum, &f->w);
}

/* May blocks of @i be sent now? If not, what is missing is asked for. */
static bool may_launch(struct tc_client *c, struct inode *i)
{
    struct xlease *x = i->x;

    if (!map_ready(c, i->barrier)) {
        map_need(c, i->barrier);
        return false;
    }
    if (x->truncating && TC_RULE(TRUNCATE_ALONE))
        return false;
    if (x->size + (x->size < x->reach ? (16u << 20) : 0) > x->reach && !x->reach_want && i->phase != RECALL_COMMIT) {
        x->reach_want = MAX(UINT64_C(64) << 20, x->size * 2); /* ahead of need */
        lease_commit(c, i);
    }
    return x->size <= x->reach || !TC_RULE(REACH);
}

static void dirty_list_remove(struct tc_client *c, struct inode *i)
{
    if (!i->on_dirty_list)
        return;
    i->on_dirty_list = false;
    DL_DELETE2(c->dirty_list, i, dirty_prev, dirty_next);
}

bool flush_launch(struct tc_client *c, struct inode *i, uint64_t first, uint64_t last)
{
    unsigned at;

    if (!i->x || i->dirty_blocks == 0)
        return true;
    if (!may_launch(c, i)) {
        i->flush_wanted = true;
        return false;
    }
    for (at = ext_index(i, first); at < i->n_ext && i->ext[at]->first <= last;) {
        struct extent *e = i->ext[at];

        if (!e->dirty) {
            at++;
            continue;
        }
        ext_remove(c, i, at);
        flight_launch(c, i, e);
    }
    if (i->dirty_blocks == 0)
        dirty_list_remove(c, i);
    return true;
}

/* All of it: the array is compacted in one pass instead of an extent at a time. */
bool flush_all(struct tc_client *c, struct inode *i)
{
    struct extent **old = i->ext;
    unsigned n = i->n_ext, keep = 0;

    if (!i->x || i->dirty_blocks == 0)
        return true;
    if (!may_launch(c, i)) {
        i->flush_wanted = true;
        return false;
    }
    i->flush_wanted = false;
    for (unsigned k = 0; k < n; k++) {
        struct extent *e = old[k];

        if (!e->dirty) {
            old[keep++] = e;
            continue;
        }
        i->dirty_blocks -= e->count;
        if (e->buf) {
            i->dirty_data -= e->count;
            c->dirty_bytes -= (uint64_t)e->count * BLOCK_SIZE;
        }
        flight_launch(c, i, e);
    }
    i->n_ext = keep;
    ASSERT(i->dirty_blocks == 0);
    dirty_list_remove(c, i);
    return true;
}

bool flush_pending(struct tc_client *c, struct inode *i)
{
    if (!i->flush_wanted)
        return true;
    i->flush_wanted = false;
    return flush_all(c, i);
}

bool flights_upto(const struct inode *i, uint64_t seq)
{
    for (const struct flight *f = i->flights; f; f = f->next) {
        if (i->x && f->w.vepoch == i->x->epoch)
            return f->w.vseq <= seq;
    }
    return false;
}

void flush_pressure(struct tc_client *c)
{
    struct inode *i, *tmp;

    DL_FOREACH_SAFE2(c->dirty_list, i, tmp, dirty_next)
    {
        if (c->flight_bytes >= FLIGHT_BYTES_MAX)
            break;
        (void)flush_all(c, i);
    }
}

static void age_tick(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, age_timer);
    uint64_t now = env_now(c->env), next = now + c->dirty_age;
    struct inode *i, *tmp;

    DL_FOREACH_SAFE2(c->dirty_list, i, tmp, dirty_next)
    {
        /* A little early, so that files written together leave together. */
        if (now + c->dirty_age / 8 < i->dirty_since + c->dirty_age) {
            next = i->dirty_since + c->dirty_age;
            break;
        }
        if (c->flight_bytes >= FLIGHT_BYTES_MAX) {
            next = now + 20 * NS_PER_MS;
            break;
        }
        if (!flush_all(c, i))
            next = MIN(next, now + 50 * NS_PER_MS);
    }
    if (c->dirty_list)
        env_timer_set(c->env, t, next);
}
