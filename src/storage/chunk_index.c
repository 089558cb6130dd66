/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of chunks: the bounded cache of rows in memory, and what is asked of many rows at once. A row that does not
 * check makes every block of its chunk UNKNOWN: not a vote, not zeros (PROTOCOL 4.9).
 */
#include "storage/chunk_impl.h"

#include <xxhash.h>

#include "common/le.h"
#include "common/log.h"

#define CHUNK_OVERHEAD (sizeof(struct chunk) + 64)

/* ---- blocks in memory ------------------------------------------------------------------------------ */

static void account(struct chunk_store *cs, const struct chunk *c, int sign)
{
    uint64_t n = CHUNK_OVERHEAD + c->cap * sizeof(struct block) + (c->pend ? c->cap * sizeof(struct pending) : 0);

    cs->cache_bytes += sign > 0 ? n : 0 - n;
}

void chunk_grow(struct chunk_store *cs, struct chunk *c, uint32_t n)
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
    chunk_grow(cs, c, b + 1);
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
    chunk_grow(cs, c, b + 1);
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
    chunk_grow(cs, c, BLOCKS_PER_CHUNK);
    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++)
        c->blocks[b] = (struct block){.kind = RUN_UNKNOWN};
}

/* The kv says of itself that it is damaged: nothing that it has or lacks can be believed. */
int cs_kv_trouble(struct chunk_store *cs, int r)
{
    if (r == -TC_E_DAMAGED)
        cs_fail(cs, r, "the index is damaged");
    cs->disk_error = cs->disk_error || r == -TC_E_IO;
    return r;
}

static int load(struct chunk_store *cs, struct chunk *c)
{
    uint8_t key[CHUNK_KEY_BYTES];
    struct kv_value v = {0};
    int r;

    chunk_key_put(key, 'c', &c->key);
    r = kv_get(cs->kv, slice_of(key, sizeof key), &v);
    if (r < 0)
        return cs_kv_trouble(cs, r);
    if (!chunk_row_decode(cs, c, v.data, v.len)) {
        make_unknown(cs, c);
        cs->corrupt += BLOCKS_PER_CHUNK;
        chunk_mark_dirty(cs, c);
        LOG_ERR("storage", "index entry of a chunk is damaged, its blocks are unknown until repaired", "ino=%llu index=%u",
                (unsigned long long)c->key.ino, c->key.index);
        cs_damaged(cs, &c->key);
    }
    c->exists_kv = true;
    c->counted_kv = !chunk_is_empty(c);
    c->blocks_kv = chunk_data_blocks(c);
    if (!chunk_any_in_file(c))
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
    uint8_t from[CHUNK_KEY_BYTES + 1], to[3];
    struct chunk_key k = {.pg = pg};
    struct kv_iter *it;
    uint32_t max = *n, bad = 0;
    int r = rows_flush(cs, pg);

    *n = 0;
    *ret_eof = true;
    if (r < 0)
        return r;
    chunk_key_put(from, 'c', after ? after : &k);
    from[CHUNK_KEY_BYTES] = 0; /* the key after @after */
    to[0] = pg == 0xffff ? 'c' + 1 : 'c';
    to[1] = (uint8_t)((pg + 1) >> 8);
    to[2] = (uint8_t)(pg + 1);
    it = kv_iter_new(cs->kv, NULL, slice_of(from, after ? sizeof from : CHUNK_KEY_BYTES), slice_of(to, sizeof to));
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        struct slice key = kv_iter_key(it), v = kv_iter_value(it);
        struct chunk c = {0};

        if (key.len != CHUNK_KEY_BYTES)
            continue;
        if (*n == max) {
            *ret_eof = false;
            break;
        }
        chunk_key_get(key.data, &c.key);
        account(cs, &c, 1);
        if (!chunk_row_decode(cs, &c, v.data, v.len)) {
            make_unknown(cs, &c);
            bad++;
        }
        digest_of(&c, &items[(*n)++]);
        account(cs, &c, -1);
        free(c.blocks);
    }
    r = cs_kv_trouble(cs, kv_iter_error(it));
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
    uint8_t first[CHUNK_KEY_BYTES], end[CHUNK_KEY_BYTES];
    struct kv_iter *it;
    int r;

    chunk_key_put(first, 'c', &a);
    chunk_key_put(end, 'c', &b);
    it = kv_iter_new(cs->kv, NULL, slice_of(first, sizeof first), slice_of(end, sizeof end));
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        struct slice key = kv_iter_key(it);

        if (key.len != CHUNK_KEY_BYTES)
            continue;
        chunk_key_get(key.data, &a);
        if (!see(arg, a.index))
            break;
    }
    r = cs_kv_trouble(cs, kv_iter_error(it));
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
