/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of chunks: rows in the kv, the bounded cache of them in memory.
 *
 * Rows: 'c' key -> flags, pair, version runs, sums, and a checksum of it all; 'd' key block -> packed data
 * without its trailing zeros; 'm' -> position applied, gc cursor, totals. Key: pg u16, inode u64, index u32,
 * generation u32, big-endian. Values little-endian. A row that does not check makes every block of its
 * chunk UNKNOWN: not a vote, not zeros (PROTOCOL 4.9).
 */
#include "storage/chunk_impl.h"

#include <xxhash.h>

#include "common/le.h"
#include "common/log.h"

#define ROW_VERSION 1
#define ROW_HEAD 48
#define ROW_RUN 20
#define KEY_BYTES 19
#define CHUNK_OVERHEAD (sizeof(struct chunk) + 64)
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

static void key_put(uint8_t *p, char table, const struct chunk_key *k)
{
    p[0] = (uint8_t)table;
    be_put(p + 1, k->pg, 2);
    be_put(p + 3, k->ino, 8);
    be_put(p + 11, k->index, 4);
    be_put(p + 15, k->gen, 4);
}

static void key_get(const uint8_t *p, struct chunk_key *k)
{
    *k = (struct chunk_key){be_get(p + 1, 2), be_get(p + 3, 8), (uint32_t)be_get(p + 11, 4),
                            (uint32_t)be_get(p + 15, 4)};
}

/* ---- blocks in memory ------------------------------------------------------------------------------ */

static void account(struct chunk_store *cs, const struct chunk *c, int sign)
{
    uint64_t n = CHUNK_OVERHEAD + c->cap * sizeof(struct block) + (c->pend ? c->cap * sizeof(struct pending) : 0);

    cs->cache_bytes += sign > 0 ? n : 0 - n;
}

static void grow(struct chunk_store *cs, struct chunk *c, uint32_t n)
{
    uint32_t cap = c->cap ? c->cap : 1;

    ASSERT(n <= BLOCKS_PER_CHUNK);
    if (n <= c->n)
        return;
    if (n > c->cap) {
        while (cap < n)
            cap *= 2;
        account(cs, c, -1);
        c->blocks = tc_realloc(c->blocks, cap * sizeof(*c->blocks));
        if (c->pend) {
            c->pend = tc_realloc(c->pend, cap * sizeof(*c->pend));
            memset(c->pend + c->cap, 0, (cap - c->cap) * sizeof(*c->pend));
        }
        c->cap = cap;
        account(cs, c, 1);
    }
    memset(c->blocks + c->n, 0, (n - c->n) * sizeof(*c->blocks));
    c->n = n;
}

struct block *chunk_block_at(struct chunk_store *cs, struct chunk *c, uint32_t b)
{
    grow(cs, c, b + 1);
    return &c->blocks[b];
}

struct block chunk_block_get(const struct chunk *c, uint32_t b)
{
    return b < c->n ? c->blocks[b] : (struct block){0};
}

bool chunk_is_empty(const struct chunk *c)
{
    if (c->pair.vepoch)
        return false;
    for (uint32_t b = 0; b < c->n; b++) {
        if (c->blocks[b].kind != RUN_NONE)
            return false;
    }
    return true;
}

void chunk_pend_drop(struct chunk_store *cs, struct chunk *c, uint32_t b)
{
    if (!c->pend || b >= c->n || !c->pend[b].buf)
        return;
    c->pend[b].buf = buf_unref(c->pend[b].buf);
    c->pend[b].data = NULL;
    ASSERT(c->n_pend > 0 && cs->pending_bytes >= BLOCK_SIZE);
    cs->pending_bytes -= BLOCK_SIZE;
    if (--c->n_pend == 0) {
        account(cs, c, -1);
        free(c->pend);
        c->pend = NULL;
        account(cs, c, 1);
    }
}

void chunk_pend_set(struct chunk_store *cs, struct chunk *c, uint32_t b, struct buf *buf, const uint8_t *data)
{
    chunk_pend_drop(cs, c, b);
    grow(cs, c, b + 1);
    if (!c->pend) {
        account(cs, c, -1);
        c->pend = tc_calloc(c->cap, sizeof(*c->pend));
        account(cs, c, 1);
    }
    c->pend[b].buf = buf_ref(buf);
    c->pend[b].data = data;
    c->n_pend++;
    cs->pending_bytes += BLOCK_SIZE;
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

static uint32_t data_blocks(const struct chunk *c)
{
    uint32_t n = 0;

    for (uint32_t b = 0; b < c->n; b++)
        n += c->blocks[b].kind == RUN_DATA;
    return n;
}

static bool any_in_file(const struct chunk *c)
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
    return c->file_durable || any_in_file(c) ? c->file : 0;
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
static bool row_decode(struct chunk_store *cs, struct chunk *c, const uint8_t *p, size_t n)
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
        grow(cs, c, blocks);
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
    uint8_t key[KEY_BYTES + 1];
    const uint8_t *data = c->pend[b].data;
    size_t n = BLOCK_SIZE;

    while (n >= 8 && !memcmp(data + n - 8, "\0\0\0\0\0\0\0", 8))
        n -= 8;
    while (n && !data[n - 1])
        n--;
    key_put(key, 'd', &c->key);
    key[KEY_BYTES] = (uint8_t)b;
    kv_batch_put(cs->batch, slice_of(key, sizeof key), slice_of(data, n));
    c->kv_have = (uint16_t)(c->kv_have | 1u << b);
}

void chunk_row_put(struct chunk_store *cs, struct chunk *c, bool data)
{
    uint8_t row[ROW_HEAD + BLOCKS_PER_CHUNK * (ROW_RUN + 8) + 8], key[KEY_BYTES + 1];
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
    key_put(key, 'd', &c->key);
    for (uint32_t b = 0; b < PACKED_BLOCKS; b++) {
        if ((c->kv_have & 1u << b) && chunk_block_get(c, b).place != PLACE_KV) {
            key[KEY_BYTES] = (uint8_t)b;
            kv_batch_del(cs->batch, slice_of(key, sizeof key));
            c->kv_have = (uint16_t)(c->kv_have & ~(1u << b));
        }
    }
    key_put(key, 'c', &c->key);
    empty = chunk_is_empty(c) && !file_of_row(c);
    cs->n_chunks_kv -= c->counted_kv;
    cs->n_blocks_kv -= c->blocks_kv;
    if (!empty)
        kv_batch_put(cs->batch, slice_of(key, KEY_BYTES), slice_of(row, row_encode(c, row)));
    else if (c->exists_kv)
        kv_batch_del(cs->batch, slice_of(key, KEY_BYTES));
    c->exists_kv = !empty;
    c->counted_kv = !chunk_is_empty(c);
    c->blocks_kv = data_blocks(c);
    cs->n_chunks_kv += c->counted_kv;
    cs->n_blocks_kv += c->blocks_kv;
}

static int kv_trouble(struct chunk_store *cs, int r);

int chunk_packed_read(struct chunk_store *cs, const struct chunk_key *k, uint32_t b, uint8_t *to)
{
    uint8_t key[KEY_BYTES + 1];
    struct kv_value v = {0};
    int r;

    key_put(key, 'd', k);
    key[KEY_BYTES] = (uint8_t)b;
    r = kv_get(cs->kv, slice_of(key, sizeof key), &v);
    if (r < 0)
        return kv_trouble(cs, r);
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

        if (kv_iter_key(it).len != KEY_BYTES)
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

/* ---- the cache ------------------------------------------------------------------------------------------------ */

static void chunk_free(struct chunk_store *cs, struct chunk *c)
{
    for (uint32_t b = 0; c->pend && b < c->n; b++)
        chunk_pend_drop(cs, c, b);
    chunk_file_forget(cs, c);
    account(cs, c, -1);
    HASH_DEL(cs->chunks, c);
    DL_DELETE(cs->lru, c);
    free(c->blocks);
    free(c);
}

void chunk_free_all(struct chunk_store *cs)
{
    while (cs->lru)
        chunk_free(cs, cs->lru);
    free(cs->dirty);
}

void chunk_evict(struct chunk_store *cs)
{
    struct chunk *c = cs->lru, *next;
    uint32_t looked = 0;

    while (c && cs->cache_bytes > cs->opt.cache_bytes && looked++ < 64) {
        next = c->next;
        if (!c->refs && !c->dirty && !c->n_pend && !c->direct_n)
            chunk_free(cs, c);
        c = next;
    }
}

static void touch(struct chunk_store *cs, struct chunk *c)
{
    if (!c->next)
        return; /* the newest already */
    DL_DELETE(cs->lru, c);
    DL_APPEND(cs->lru, c);
}

static void make_unknown(struct chunk_store *cs, struct chunk *c)
{
    grow(cs, c, BLOCKS_PER_CHUNK);
    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++)
        c->blocks[b] = (struct block){.kind = RUN_UNKNOWN};
}

/* The kv says of itself that it is damaged: nothing that it has or lacks can be believed. */
static int kv_trouble(struct chunk_store *cs, int r)
{
    if (r == -TC_E_DAMAGED)
        cs_fail(cs, r, "the index is damaged");
    cs->disk_error = cs->disk_error || r == -TC_E_IO;
    return r;
}

static int load(struct chunk_store *cs, struct chunk *c)
{
    uint8_t key[KEY_BYTES];
    struct kv_value v = {0};
    int r;

    key_put(key, 'c', &c->key);
    r = kv_get(cs->kv, slice_of(key, sizeof key), &v);
    if (r < 0)
        return kv_trouble(cs, r);
    if (!row_decode(cs, c, v.data, v.len)) {
        make_unknown(cs, c);
        cs->corrupt += BLOCKS_PER_CHUNK;
        chunk_mark_dirty(cs, c);
        LOG_ERR("storage", "index entry of a chunk is damaged, its blocks are unknown until repaired", "ino=%llu index=%u",
                (unsigned long long)c->key.ino, c->key.index);
        cs_damaged(cs, &c->key);
    }
    c->exists_kv = true;
    c->counted_kv = !chunk_is_empty(c);
    c->blocks_kv = data_blocks(c);
    if (!any_in_file(c))
        c->file = 0; /* of a write that came to nothing: it is swept away */
    c->file_durable = c->file != 0;
    kv_value_free(&v);
    return 0;
}

int chunk_get(struct chunk_store *cs, const struct chunk_key *key, bool create, struct chunk **ret_chunk)
{
    struct chunk *c;
    int r;

    HASH_FIND(hh, cs->chunks, key, sizeof(*key), c);
    if (c) {
        if (!create && !c->refs && !c->exists_kv && chunk_is_empty(c))
            return -TC_E_NOENT;
        touch(cs, c);
        c->refs++;
        *ret_chunk = c;
        return 0;
    }
    c = tc_calloc(1, sizeof(*c));
    c->key = *key;
    account(cs, c, 1);
    HASH_ADD(hh, cs->chunks, key, sizeof(c->key), c);
    DL_APPEND(cs->lru, c);
    r = load(cs, c);
    if (r < 0 && !(r == -TC_E_NOENT && create)) {
        chunk_free(cs, c);
        return r;
    }
    c->refs++;
    if (cs->cache_bytes > cs->opt.cache_bytes)
        chunk_evict(cs);
    *ret_chunk = c;
    return 0;
}

void chunk_put(struct chunk_store *cs, struct chunk *c)
{
    ASSERT(c->refs > 0);
    if (--c->refs == 0 && !c->dirty && !c->exists_kv && chunk_is_empty(c) && !c->direct_n)
        chunk_free(cs, c); /* made for a write that came to nothing, or forgotten and gone */
}

void chunk_mark_dirty(struct chunk_store *cs, struct chunk *c)
{
    if (c->dirty)
        return;
    c->dirty = true;
    if (cs->n_dirty == cs->cap_dirty) {
        cs->cap_dirty = cs->cap_dirty ? cs->cap_dirty * 2 : 256;
        cs->dirty = tc_realloc(cs->dirty, cs->cap_dirty * sizeof(*cs->dirty));
    }
    cs->dirty[cs->n_dirty++] = c;
}

/* ---- manifests -------------------------------------------------------------------------------------------------- */

static void digest_of(const struct chunk *c, struct chunk_digest *d)
{
    uint8_t b[BLOCKS_PER_CHUNK * 25];
    size_t at = 32;
    uint32_t n = c->n;

    *d = (struct chunk_digest){.key = c->key};
    put64(b, c->pair.vepoch);
    put64(b + 8, c->pair.vseq);
    put64(b + 16, c->pair.size);
    put64(b + 24, c->pair.mtime);
    d->digest = XXH3_64bits(b, at);
    at = 0;
    while (n && c->blocks[n - 1].kind == RUN_NONE)
        n--;
    for (uint32_t i = 0; i < n; i++) {
        b[at] = c->blocks[i].kind;
        put64(b + at + 1, c->blocks[i].vepoch);
        put64(b + at + 9, c->blocks[i].vseq);
        put64(b + at + 17, c->blocks[i].kind == RUN_DATA ? c->blocks[i].sum : 0);
        at += 25;
        d->blocks += c->blocks[i].kind == RUN_DATA;
        d->damaged = d->damaged || c->blocks[i].kind == RUN_UNKNOWN;
    }
    d->digest = XXH3_64bits_withSeed(b, at, d->digest);
}

/* The rows of one placement group must be in the kv before they can be walked in order: those of the chunks that are
 * dirty, and of those that a merge round has on its list. */
static int rows_flush(struct chunk_store *cs, uint64_t pg)
{
    bool any = merge_rows_put(cs, pg);

    for (uint32_t i = 0; i < cs->n_dirty; i++) {
        if (cs->dirty[i]->key.pg == pg) {
            chunk_row_put(cs, cs->dirty[i], false);
            any = true;
        }
    }
    if (!any)
        return 0;
    cs_meta_put(cs, false, 0);
    return kv_write(cs->kv, cs->batch);
}

/* A row that does not check: what memory has is put in its place, or the chunk is taken up as damaged. */
static int row_mend(struct chunk_store *cs, const struct chunk_key *key)
{
    struct chunk *c;
    int r = chunk_get(cs, key, false, &c);

    if (r < 0)
        return r == -TC_E_NOENT ? 0 : r;
    chunk_mark_dirty(cs, c);
    chunk_put(cs, c);
    return 0;
}

int chunk_store_manifest(struct chunk_store *cs, uint64_t pg, const struct chunk_key *after,
                         struct chunk_digest *items, uint32_t *n, bool *ret_eof)
{
    uint8_t from[KEY_BYTES + 1], to[3];
    struct chunk_key k = {.pg = pg};
    struct kv_iter *it;
    uint32_t max = *n, bad = 0;
    int r = rows_flush(cs, pg);

    *n = 0;
    *ret_eof = true;
    if (r < 0)
        return r;
    key_put(from, 'c', after ? after : &k);
    from[KEY_BYTES] = 0; /* the key after @after */
    to[0] = pg == 0xffff ? 'c' + 1 : 'c';
    be_put(to + 1, (pg + 1) & 0xffff, 2);
    it = kv_iter_new(cs->kv, NULL, slice_of(from, after ? sizeof from : KEY_BYTES), slice_of(to, sizeof to));
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        struct slice key = kv_iter_key(it), v = kv_iter_value(it);
        struct chunk c = {0};

        if (key.len != KEY_BYTES)
            continue;
        if (*n == max) {
            *ret_eof = false;
            break;
        }
        key_get(key.data, &c.key);
        account(cs, &c, 1);
        if (!row_decode(cs, &c, v.data, v.len)) {
            make_unknown(cs, &c);
            bad++;
        }
        digest_of(&c, &items[(*n)++]);
        account(cs, &c, -1);
        free(c.blocks);
    }
    r = kv_trouble(cs, kv_iter_error(it));
    kv_iter_free(it);
    for (uint32_t i = 0; i < *n && bad && r == 0; i++) {
        if (items[i].damaged)
            r = row_mend(cs, &items[i].key);
    }
    return r;
}

/* The rows of an inode's chunks [from, to) in one placement group, until @see has enough. What is only in memory is not among them. */
int chunk_rows_of(struct chunk_store *cs, uint64_t pg, uint64_t ino, uint32_t from, uint32_t to,
                  bool (*see)(void *arg, uint32_t index), void *arg)
{
    struct chunk_key a = {pg, ino, from, 0}, b = {pg, ino, to, 0};
    uint8_t first[KEY_BYTES], end[KEY_BYTES];
    struct kv_iter *it;
    int r;

    key_put(first, 'c', &a);
    key_put(end, 'c', &b);
    it = kv_iter_new(cs->kv, NULL, slice_of(first, sizeof first), slice_of(end, sizeof end));
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        struct slice key = kv_iter_key(it);

        if (key.len != KEY_BYTES)
            continue;
        key_get(key.data, &a);
        if (!see(arg, a.index))
            break;
    }
    r = kv_trouble(cs, kv_iter_error(it));
    kv_iter_free(it);
    return r;
}

struct index_list {
    uint32_t *items;
    uint32_t n, max;
};

static bool index_add(void *arg, uint32_t index)
{
    struct index_list *l = arg;

    l->items[l->n++] = index;
    return l->n < l->max;
}

int chunk_store_stored(struct chunk_store *cs, uint64_t pg, uint64_t ino, uint32_t from, uint32_t to,
                       uint32_t *indexes, uint32_t *n)
{
    struct index_list l = {indexes, 0, *n};
    int r = 0;

    ASSERT(l.max > 0);
    if (from < to)
        r = chunk_rows_of(cs, pg, ino, from, to, index_add, &l);
    *n = l.n;
    return r;
}

int chunk_store_indexes(struct chunk_store *cs, uint64_t pg, uint64_t ino, uint32_t from, uint32_t to,
                        uint32_t *indexes, uint32_t *n)
{
    int r = rows_flush(cs, pg);

    if (r == 0)
        return chunk_store_stored(cs, pg, ino, from, to, indexes, n);
    *n = 0;
    return r;
}

uint32_t chunk_store_in_memory(const struct chunk_store *cs, uint64_t ino, uint32_t from, uint32_t to)
{
    to = merge_first_of(cs, ino, from, to);
    for (uint32_t i = 0; i < cs->n_dirty; i++) {
        const struct chunk_key *k = &cs->dirty[i]->key;

        if (k->ino == ino && k->index >= from)
            to = MIN(to, k->index);
    }
    return to;
}

int chunk_store_pair(struct chunk_store *cs, const struct chunk_key *key, struct chunk_pair *ret_pair)
{
    struct chunk *c;
    int r = chunk_get(cs, key, false, &c);

    if (r < 0)
        return r;
    *ret_pair = c->pair;
    for (uint32_t b = 0; b < c->n; b++) { /* the index entry was lost, and the pair with it: no vote */
        if (c->blocks[b].kind == RUN_UNKNOWN && !c->blocks[b].vepoch)
            r = -TC_E_UNKNOWN_BLOCK;
    }
    chunk_put(cs, c);
    return r;
}
