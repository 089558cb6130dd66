/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of the index in the kv: how they are written and read, and the totals that they add up to.
 *
 * 'c' key -> flags, pair, version runs, sums, and a checksum of it all; 'd' key block -> packed data without its trailing
 * zeros; 'm' -> position applied, gc cursor, totals. Key: pg u16, inode u64, index u32, generation u32, big-endian. Values
 * little-endian.
 */
#include "storage/chunk_impl.h"

#include <xxhash.h>

#include "common/le.h"
#include "common/log.h"

#define ROW_VERSION 1
#define ROW_HEAD 48
#define ROW_RUN 20
#define META_VERSION 1

static const char meta_key[] = "m";

static void be_put(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
}

static uint64_t be_get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

void chunk_key_put(uint8_t *p, char table, const struct chunk_key *k)
{
    p[0] = (uint8_t)table;
    be_put(p + 1, k->pg, 2);
    be_put(p + 3, k->ino, 8);
    be_put(p + 11, k->index, 4);
    be_put(p + 15, k->gen, 4);
}

void chunk_key_get(const uint8_t *p, struct chunk_key *k)
{
    *k = (struct chunk_key){be_get(p + 1, 2), be_get(p + 3, 8), (uint32_t)be_get(p + 11, 4),
                            (uint32_t)be_get(p + 15, 4)};
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static bool same_run(const struct block *a, const struct block *b)
{
    return a->kind == b->kind && a->place == b->place && a->vepoch == b->vepoch && a->vseq == b->vseq;
}

static bool has_sum(uint8_t kind)
{
    return kind == RUN_DATA || kind == RUN_UNKNOWN;
}

uint32_t chunk_data_blocks(const struct chunk *c)
{
    uint32_t n = 0;

    for (uint32_t b = 0; b < c->n; b++)
        n += c->blocks[b].kind == RUN_DATA;
    return n;
}

bool chunk_any_in_file(const struct chunk *c)
{
    for (uint32_t b = 0; b < c->n; b++) {
        if (has_sum(c->blocks[b].kind) && c->blocks[b].place == PLACE_FILE)
            return true;
    }
    return false;
}

/* A row names a file only when its name is durable: the next life makes nothing durable but what it writes itself. */
static uint64_t file_of_row(const struct chunk *c)
{
    return c->file_durable || chunk_any_in_file(c) ? c->file : 0;
}

static size_t row_encode(const struct chunk *c, uint8_t *p)
{
    size_t at = ROW_HEAD;
    uint32_t runs = 0;

    p[0] = ROW_VERSION;
    p[1] = 0;
    memset(p + 4, 0, 4);
    put64(p + 8, file_of_row(c));
    put64(p + 16, c->pair.vepoch);
    put64(p + 24, c->pair.vseq);
    put64(p + 32, c->pair.size);
    put64(p + 40, c->pair.mtime);
    for (uint32_t b = 0, end; b < c->n; b = end) {
        for (end = b + 1; end < c->n && same_run(&c->blocks[b], &c->blocks[end]); end++)
            ;
        p[at] = (uint8_t)((end - b) & 0xff);
        p[at + 1] = (uint8_t)((end - b) >> 8);
        p[at + 2] = c->blocks[b].kind;
        p[at + 3] = c->blocks[b].place;
        put64(p + at + 4, c->blocks[b].vepoch);
        put64(p + at + 12, c->blocks[b].vseq);
        at += ROW_RUN;
        runs++;
    }
    p[2] = (uint8_t)(runs & 0xff);
    p[3] = (uint8_t)(runs >> 8);
    for (uint32_t b = 0; b < c->n; b++) {
        if (has_sum(c->blocks[b].kind)) {
            put64(p + at, c->blocks[b].sum);
            at += 8;
        }
    }
    put64(p + at, XXH3_64bits(p, at));
    return at + 8;
}

/* Fill the (empty) chunk from a row; false: the row is damaged, nothing of it is used. */
bool chunk_row_decode(struct chunk_store *cs, struct chunk *c, const uint8_t *p, size_t n)
{
    uint32_t runs, blocks = 0, sums = 0, b = 0;
    size_t at = ROW_HEAD;

    if (n < ROW_HEAD + 8 || p[0] != ROW_VERSION || get64(p + n - 8) != XXH3_64bits(p, n - 8))
        return false;
    runs = (uint32_t)(p[2] | p[3] << 8);
    if (n < ROW_HEAD + 8 + runs * ROW_RUN)
        return false;
    for (uint32_t i = 0; i < runs; i++) {
        const uint8_t *q = p + ROW_HEAD + i * ROW_RUN;
        uint32_t count = (uint32_t)(q[0] | q[1] << 8);

        blocks += count;
        sums += has_sum(q[2]) ? count : 0;
        if (q[2] > RUN_UNKNOWN || q[3] > PLACE_FILE)
            return false;
    }
    if (blocks > BLOCKS_PER_CHUNK || n != ROW_HEAD + runs * ROW_RUN + sums * 8 + 8)
        return false;
    c->file = get64(p + 8);
    c->pair = (struct chunk_pair){get64(p + 16), get64(p + 24), get64(p + 32), get64(p + 40)};
    if (blocks)
        chunk_grow(cs, c, blocks);
    at += runs * ROW_RUN;
    for (uint32_t i = 0; i < runs; i++) {
        const uint8_t *q = p + ROW_HEAD + i * ROW_RUN;
        uint32_t count = (uint32_t)(q[0] | q[1] << 8);

        for (; count; count--, b++) {
            c->blocks[b] = (struct block){get64(q + 4), get64(q + 12), 0, q[2], q[3]};
            if (!has_sum(q[2]))
                continue;
            c->blocks[b].sum = get64(p + at);
            at += 8;
            if (q[3] == PLACE_KV && b < PACKED_BLOCKS)
                c->kv_have = (uint16_t)(c->kv_have | 1u << b);
        }
    }
    return true;
}

/* What a row counts for in the totals. false: it does not check. */
static bool row_count(struct slice row, bool *ret_any, uint32_t *ret_blocks)
{
    const uint8_t *p = row.data;
    uint32_t runs;

    *ret_blocks = 0;
    if (row.len < ROW_HEAD + 8 || p[0] != ROW_VERSION || get64(p + row.len - 8) != XXH3_64bits(p, row.len - 8))
        return false;
    *ret_any = get64(p + 16) != 0;
    runs = (uint32_t)(p[2] | p[3] << 8);
    if (row.len < ROW_HEAD + 8 + runs * ROW_RUN)
        return false;
    for (uint32_t i = 0; i < runs; i++) {
        const uint8_t *q = p + ROW_HEAD + i * ROW_RUN;

        *ret_any = *ret_any || q[2] != RUN_NONE;
        *ret_blocks += q[2] == RUN_DATA ? (uint32_t)(q[0] | q[1] << 8) : 0;
    }
    return true;
}

static void packed_put(struct chunk_store *cs, struct chunk *c, uint32_t b)
{
    uint8_t key[CHUNK_KEY_BYTES + 1];
    const uint8_t *data = c->pend[b].data;
    size_t n = BLOCK_SIZE;

    while (n >= 8 && !memcmp(data + n - 8, "\0\0\0\0\0\0\0", 8))
        n -= 8;
    while (n && !data[n - 1])
        n--;
    chunk_key_put(key, 'd', &c->key);
    key[CHUNK_KEY_BYTES] = (uint8_t)b;
    kv_batch_put(cs->batch, slice_of(key, sizeof key), slice_of(data, n));
    c->kv_have = (uint16_t)(c->kv_have | 1u << b);
}

void chunk_row_put(struct chunk_store *cs, struct chunk *c, bool data)
{
    uint8_t row[ROW_HEAD + BLOCKS_PER_CHUNK * (ROW_RUN + 8) + 8], key[CHUNK_KEY_BYTES + 1];
    bool empty;

    while (c->n && c->blocks[c->n - 1].kind == RUN_NONE && !(c->pend && c->pend[c->n - 1].buf))
        c->n--;
    for (uint32_t b = 0; data && c->pend && b < MIN(c->n, PACKED_BLOCKS); b++) {
        if (!c->pend || !c->pend[b].buf)
            continue;
        packed_put(cs, c, b);
        c->blocks[b].place = PLACE_KV;
        chunk_pend_drop(cs, c, b);
    }
    chunk_key_put(key, 'd', &c->key);
    for (uint32_t b = 0; b < PACKED_BLOCKS; b++) {
        if ((c->kv_have & 1u << b) && chunk_block_get(c, b).place != PLACE_KV) {
            key[CHUNK_KEY_BYTES] = (uint8_t)b;
            kv_batch_del(cs->batch, slice_of(key, sizeof key));
            c->kv_have = (uint16_t)(c->kv_have & ~(1u << b));
        }
    }
    chunk_key_put(key, 'c', &c->key);
    empty = chunk_is_empty(c) && !file_of_row(c);
    cs->n_chunks_kv -= c->counted_kv;
    cs->n_blocks_kv -= c->blocks_kv;
    if (!empty)
        kv_batch_put(cs->batch, slice_of(key, CHUNK_KEY_BYTES), slice_of(row, row_encode(c, row)));
    else if (c->exists_kv)
        kv_batch_del(cs->batch, slice_of(key, CHUNK_KEY_BYTES));
    c->exists_kv = !empty;
    c->counted_kv = !chunk_is_empty(c);
    c->blocks_kv = chunk_data_blocks(c);
    cs->n_chunks_kv += c->counted_kv;
    cs->n_blocks_kv += c->blocks_kv;
}

int chunk_packed_read(struct chunk_store *cs, const struct chunk_key *k, uint32_t b, uint8_t *to)
{
    uint8_t key[CHUNK_KEY_BYTES + 1];
    struct kv_value v = {0};
    int r;

    chunk_key_put(key, 'd', k);
    key[CHUNK_KEY_BYTES] = (uint8_t)b;
    r = kv_get(cs->kv, slice_of(key, sizeof key), &v);
    if (r < 0)
        return cs_kv_trouble(cs, r);
    if (v.len > BLOCK_SIZE) {
        kv_value_free(&v);
        return -TC_E_NOENT; /* not what was put there */
    }
    if (v.len)
        memcpy(to, v.data, v.len);
    memset(to + v.len, 0, BLOCK_SIZE - v.len);
    kv_value_free(&v);
    return 0;
}

/* ---- totals and position ---------------------------------------------------------------------------------- */

void cs_meta_put(struct chunk_store *cs, bool with_pos, uint64_t pos)
{
    uint8_t v[32];

    put64(v, META_VERSION);
    put64(v + 8, cs->n_chunks_kv);
    put64(v + 16, cs->n_blocks_kv);
    put64(v + 24, cs->file_last);
    kv_batch_put(cs->batch, slice_of("mt", 2), slice_of(v, 32));
    if (!with_pos)
        return;
    put64(v + 8, pos);
    put64(v + 16, cs->gc_cursor);
    put64(v + 24, 0);
    kv_batch_put(cs->batch, slice_of(meta_key, 1), slice_of(v, 32));
}

/* 1: found; 0: absent. */
static int meta_read(struct chunk_store *cs, struct slice key, uint64_t *a, uint64_t *b, uint64_t *c)
{
    struct kv_value v = {0};
    int r = kv_get(cs->kv, key, &v);

    if (r == -TC_E_NOENT)
        return 0;
    if (r < 0)
        return r;
    r = v.len == 32 ? 1 : -TC_E_DAMAGED;
    if (r == 1 && get64(v.data) > META_VERSION)
        r = -TC_E_VERSION;
    if (r == 1) {
        *a = get64(v.data + 8);
        *b = get64(v.data + 16);
        *c = get64(v.data + 24);
    }
    kv_value_free(&v);
    return r;
}

int cs_meta_load(struct chunk_store *cs, uint64_t *ret_pos)
{
    uint64_t rest;
    int r;

    *ret_pos = 0;
    r = meta_read(cs, slice_of("mt", 2), &cs->n_chunks_kv, &cs->n_blocks_kv, &cs->file_last);
    if (r < 0)
        return r;
    r = meta_read(cs, slice_of(meta_key, 1), ret_pos, &cs->gc_cursor, &rest);
    if (r < 0)
        return r;
    cs->n_chunks = cs->n_chunks_kv;
    cs->n_blocks = cs->n_blocks_kv;
    return 0;
}

/* A snapshot has the rows that the totals were of at that moment, whatever is written meanwhile. */
void chunk_store_recount_begin(struct chunk_store *cs, struct chunk_recount *rc)
{
    *rc = (struct chunk_recount){.chunks = cs->n_chunks_kv, .blocks = cs->n_blocks_kv, .snap = kv_snapshot_new(cs->kv)};
}

void chunk_store_recount_run(struct chunk_store *cs, struct chunk_recount *rc)
{
    struct kv_iter *it = kv_iter_new(cs->kv, rc->snap, slice_of("c", 1), slice_of("d", 1));

    rc->whole = true;
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        uint32_t blocks;
        bool any;

        if (kv_iter_key(it).len != CHUNK_KEY_BYTES)
            continue;
        if (!row_count(kv_iter_value(it), &any, &blocks)) { /* what it counted for nobody knows */
            rc->whole = false;
            break;
        }
        rc->found_chunks += any;
        rc->found_blocks += blocks;
    }
    rc->whole = kv_iter_error(it) == 0 && rc->whole;
    kv_iter_free(it);
}

void chunk_store_recount_end(struct chunk_store *cs, struct chunk_recount *rc)
{
    int r;

    kv_snapshot_free(cs->kv, rc->snap);
    rc->snap = NULL;
    if (!rc->whole || (rc->found_chunks == rc->chunks && rc->found_blocks == rc->blocks))
        return;
    LOG_WARN("storage", "the totals of the index were wrong, and are corrected",
             "chunks=%llu counted=%llu blocks=%llu counted_blocks=%llu", (unsigned long long)rc->chunks,
             (unsigned long long)rc->found_chunks, (unsigned long long)rc->blocks, (unsigned long long)rc->found_blocks);
    cs->n_chunks += rc->found_chunks - rc->chunks; /* modulo 2^64: it may be less */
    cs->n_chunks_kv += rc->found_chunks - rc->chunks;
    cs->n_blocks += rc->found_blocks - rc->blocks;
    cs->n_blocks_kv += rc->found_blocks - rc->blocks;
    cs_meta_put(cs, false, 0);
    r = kv_write(cs->kv, cs->batch);
    if (r < 0)
        cs_fail(cs, r, "index store failed");
}
