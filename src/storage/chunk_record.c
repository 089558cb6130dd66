/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Journal records of the chunk store, and what each does to the index. The live path and the replay after a
 * start go through the same functions, so a restart from disk alone gives the state that was answered for.
 *
 * Applying is idempotent: the newest version of a block wins, an equal one only lends its data to a block whose
 * place is the journal. WRITE: head, items each followed by their sums, then the data of inline items.
 * All numbers little-endian. The journal checks the records' bytes; the shape is checked here.
 */
#include "storage/chunk_impl.h"

#include <endian.h>

#include "common/log.h"
#include "common/test_rules.h"

#define REC_VERSION 1
enum { ITEM_ZERO = 1, ITEM_INLINE = 2 };

static void put(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

void rec_put_head(uint8_t *p, uint8_t type, uint16_t n)
{
    memset(p, 0, REC_HEAD);
    p[0] = type;
    p[1] = REC_VERSION;
    put(p + 2, n, 2);
}

static void put_key(uint8_t *p, const struct chunk_key *k)
{
    put(p, k->pg, 2);
    put(p + 4, k->gen, 4);
    put(p + 8, k->ino, 8);
    put(p + 16, k->index, 4);
}

static struct chunk_key get_key(const uint8_t *p)
{
    return (struct chunk_key){get(p, 2), get(p + 8, 8), (uint32_t)get(p + 16, 4), (uint32_t)get(p + 4, 4)};
}

void rec_put_item(uint8_t *p, const struct rec_item *it)
{
    put_key(p, &it->key);
    p[2] = (uint8_t)((it->zero ? ITEM_ZERO : 0) | (it->inl ? ITEM_INLINE : 0));
    p[3] = 0;
    put(p + 20, it->first, 2);
    put(p + 22, it->count, 2);
    put(p + 24, it->file, 8);
    put(p + 32, it->vepoch, 8);
    put(p + 40, it->vseq, 8);
    put(p + 48, it->pair.vepoch, 8);
    put(p + 56, it->pair.vseq, 8);
    put(p + 64, it->pair.size, 8);
    put(p + 72, it->pair.mtime, 8);
}

static int get_item(const uint8_t **p, const uint8_t *end, struct rec_item *it)
{
    const uint8_t *q = *p;
    size_t sums;

    if (end - q < REC_ITEM)
        return -TC_E_DAMAGED;
    *it = (struct rec_item){.key = get_key(q), .zero = q[2] & ITEM_ZERO, .inl = q[2] & ITEM_INLINE};
    it->first = (uint32_t)get(q + 20, 2);
    it->count = (uint32_t)get(q + 22, 2);
    it->file = get(q + 24, 8);
    it->vepoch = get(q + 32, 8);
    it->vseq = get(q + 40, 8);
    it->pair = (struct chunk_pair){get(q + 48, 8), get(q + 56, 8), get(q + 64, 8), get(q + 72, 8)};
    if (it->first + it->count > BLOCKS_PER_CHUNK)
        return -TC_E_DAMAGED;
    q += REC_ITEM;
    sums = it->zero ? 0 : it->count * 8u;
    if ((size_t)(end - q) < sums)
        return -TC_E_DAMAGED;
    it->sums = q;
    *p = q + sums;
    return 0;
}

static int version_cmp(uint64_t ae, uint64_t as, uint64_t be, uint64_t bs)
{
    if (ae != be)
        return ae < be ? -1 : 1;
    return as == bs ? 0 : as < bs ? -1 : 1;
}

/* A file without a block of data in it only takes space. */
static void drop_unused_file(struct chunk_store *cs, struct chunk *c)
{
    if (!c->file || c->direct_n)
        return;
    for (uint32_t b = 0; b < c->n; b++) {
        if (c->blocks[b].kind == RUN_DATA)
            return;
    }
    chunk_file_retire(cs, c);
}

uint32_t rec_apply(struct chunk_store *cs, struct chunk *c, const struct rec_item *it, struct buf *buf,
                   const uint8_t *data)
{
    bool was_empty = chunk_is_empty(c);
    uint32_t fresh = 0;

    if (it->file) {
        chunk_file_keep(cs, &c->key, it->file);
        if (it->file > c->file) {
            chunk_file_retire(cs, c);
            c->file = it->file;
        }
        c->file_durable = c->file_durable || it->file == c->file;
        cs->file_last = MAX(cs->file_last, it->file);
    }
    for (uint32_t i = 0; i < it->count; i++) {
        uint32_t b = it->first + i;
        struct block *blk = chunk_block_at(cs, c, b);
        uint64_t sum = it->zero ? 0 : get(it->sums + 8 * i, 8);
        int cmp = version_cmp(it->vepoch, it->vseq, blk->vepoch, blk->vseq);

        if (cmp < 0 && TC_RULE(NEWER_WINS))
            continue;
        if (cmp == 0) { /* the same content: it can only lend its data */
            bool lost = blk->kind == RUN_UNKNOWN ||
                        (blk->kind == RUN_DATA && blk->place == PLACE_JOURNAL && !(c->pend && c->pend[b].buf));

            if (it->zero || blk->sum != sum || !lost)
                continue;
        }
        cs->n_blocks -= blk->kind == RUN_DATA;
        cs->n_blocks += !it->zero;
        cs->repaired += blk->kind == RUN_UNKNOWN;
        fresh += it->zero == (blk->kind == RUN_DATA);
        chunk_pend_drop(cs, c, b);
        blk->vepoch = it->vepoch;
        blk->vseq = it->vseq;
        blk->sum = sum;
        blk->kind = it->zero ? RUN_ZERO : RUN_DATA;
        if (it->zero && !TC_RULE(ZERO_VERSION)) {
            blk->vepoch = blk->vseq = 0;
            blk->kind = RUN_NONE;
        }
        blk->place = it->zero ? PLACE_NONE : it->inl ? PLACE_JOURNAL : PLACE_FILE;
        if (it->inl && !it->zero)
            chunk_pend_set(cs, c, b, buf, data + (size_t)i * BLOCK_SIZE);
    }
    if (version_cmp(it->pair.vepoch, it->pair.vseq, c->pair.vepoch, c->pair.vseq) > 0 || !TC_RULE(SIZE_PAIR))
        c->pair = it->pair;
    if (was_empty && !chunk_is_empty(c))
        cs->n_chunks++;
    chunk_mark_dirty(cs, c);
    if (it->zero)
        drop_unused_file(cs, c);
    return fresh;
}

/* ---- removing ---------------------------------------------------------------------------------------- */

void chunk_changed(struct chunk_store *cs, struct chunk *c, bool was_empty)
{
    chunk_mark_dirty(cs, c);
    if (!was_empty && chunk_is_empty(c))
        cs->n_chunks--;
    drop_unused_file(cs, c);
}

static void block_clear(struct chunk_store *cs, struct chunk *c, uint32_t b)
{
    cs->n_blocks -= c->blocks[b].kind == RUN_DATA;
    chunk_pend_drop(cs, c, b);
    c->blocks[b] = (struct block){0};
}

void chunk_trim_one(struct chunk_store *cs, struct chunk *c, uint64_t size, uint64_t epoch)
{
    uint64_t start = (uint64_t)c->key.index * CHUNK_SIZE;
    bool was_empty = chunk_is_empty(c), any = false;

    for (uint32_t b = 0; b < c->n; b++) {
        if (start + (uint64_t)b * BLOCK_SIZE < size || c->blocks[b].kind == RUN_NONE)
            continue;
        if (c->blocks[b].kind == RUN_UNKNOWN && !c->blocks[b].vepoch && epoch != UINT64_MAX)
            continue; /* it may have been newer: only a quorum can say that it is none */
        if (c->blocks[b].vepoch < epoch || !TC_RULE(TRIM_EPOCH))
            block_clear(cs, c, b);
    }
    for (uint32_t b = 0; b < c->n; b++)
        any = any || c->blocks[b].kind != RUN_NONE;
    if (!any && start >= size && c->pair.vepoch < epoch)
        c->pair = (struct chunk_pair){0};
    chunk_changed(cs, c, was_empty);
}

void chunk_drop_one(struct chunk_store *cs, struct chunk *c)
{
    bool was_empty = chunk_is_empty(c);

    for (uint32_t b = 0; b < c->n; b++)
        block_clear(cs, c, b);
    c->pair = (struct chunk_pair){0};
    chunk_changed(cs, c, was_empty);
}

size_t rec_put_trim(uint8_t *p, const struct chunk_trim_op *op)
{
    rec_put_head(p, REC_TRIM, 1);
    put(p + 8, op->ino, 8);
    put(p + 16, op->size, 8);
    put(p + 24, op->epoch, 8);
    put(p + 32, op->from, 8);
    put(p + 40, op->to, 8);
    put(p + 48, op->gc_id, 8);
    put(p + 56, op->pg_count, 4);
    return 60;
}

int trim_parse(const uint8_t *p, size_t n, struct chunk_trim_op *op)
{
    if (n != 60)
        return -TC_E_DAMAGED;
    *op = (struct chunk_trim_op){.ino = get(p + 8, 8), .size = get(p + 16, 8), .epoch = get(p + 24, 8),
                                 .from = get(p + 32, 8), .to = get(p + 40, 8),
                                 .gc_id = get(p + 48, 8), .pg_count = (uint32_t)get(p + 56, 4)};
    return op->pg_count && op->to <= UINT32_MAX ? 0 : -TC_E_DAMAGED;
}

size_t rec_put_drop(uint8_t *p, const struct chunk_key *key)
{
    rec_put_head(p, REC_DROP, 1);
    put_key(p + 8, key);
    put(p + 10, 0, 2);
    return 28;
}

/* ---- replay --------------------------------------------------------------------------------------------- */

static int replay_write(struct chunk_store *cs, const uint8_t *p, size_t len)
{
    const uint8_t *end = p + len, *q = p + REC_HEAD, *data;
    uint32_t n = (uint32_t)get(p + 2, 2);
    uint64_t inline_bytes = 0;
    struct rec_item it;
    struct buf *buf;
    int r = 0;

    for (uint32_t i = 0; i < n; i++) {
        r = get_item(&q, end, &it);
        if (r < 0)
            return r;
        inline_bytes += it.inl ? it.count * (uint64_t)BLOCK_SIZE : 0;
    }
    if ((uint64_t)(end - q) != inline_bytes)
        return -TC_E_DAMAGED;
    buf = inline_bytes ? buf_copy(q, (uint32_t)inline_bytes) : NULL;
    data = buf ? buf->data : NULL;
    q = p + REC_HEAD;
    for (uint32_t i = 0; i < n && r == 0; i++) {
        struct chunk *c;

        r = get_item(&q, end, &it);
        ASSERT(r == 0);
        r = chunk_get(cs, &it.key, true, &c);
        if (r < 0)
            break;
        (void)rec_apply(cs, c, &it, it.inl ? buf : NULL, it.inl ? data : NULL);
        data = it.inl ? data + (size_t)it.count * BLOCK_SIZE : data;
        chunk_put(cs, c);
    }
    buf_unref(buf);
    return r;
}

static int replay_drop(struct chunk_store *cs, const uint8_t *p, size_t len)
{
    struct chunk_key key;
    struct chunk *c;
    int r;

    if (len != 28)
        return -TC_E_DAMAGED;
    key = get_key(p + 8);
    r = chunk_get(cs, &key, false, &c);
    if (r < 0)
        return r == -TC_E_NOENT ? 0 : r;
    chunk_drop_one(cs, c);
    chunk_put(cs, c);
    return 0;
}

int rec_replay(void *arg, uint64_t pos, struct slice rec)
{
    struct chunk_store *cs = arg;
    struct chunk_trim_op trim;
    const uint8_t *p = rec.data;
    int r;

    if (pos < cs->applied)
        return 0;
    if (rec.len < REC_HEAD)
        return -TC_E_DAMAGED;
    if (p[1] > REC_VERSION)
        return -TC_E_VERSION;
    switch (p[0]) {
    case REC_WRITE:
        return replay_write(cs, p, rec.len);
    case REC_TRIM:
        r = trim_parse(p, rec.len, &trim);
        return r < 0 ? r : trim_apply(cs, &trim);
    case REC_DROP:
        return replay_drop(cs, p, rec.len);
    default:
        LOG_ERR("storage", "journal record of unknown type", "pos=%llu type=%u", (unsigned long long)pos, p[0]);
        return -TC_E_VERSION;
    }
}
