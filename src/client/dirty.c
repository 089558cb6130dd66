/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local data of an inode under X: extents of blocks, dirty or clean, sorted and never overlapping. How
 * extents become block writes is in flush.c.
 *
 * A block's newest local bytes are in its extent, else in the flight with the highest version. An extent
 * never crosses a chunk. Its buffer is shared with whoever wrote it (large writes), or its own: then it is
 * changed in place and grown while nobody else refers to it. What is in flight has left the extents, so
 * it is never changed (PROTOCOL 4.1).
 *
 * Bytes past the end of the file are zero in every buffer (4.8).
 */
#include "client/internal.h"

#include "common/test_rules.h"

/* ---- the sorted array -------------------------------------------------------------------------------------- */

unsigned ext_index(const struct inode *i, uint64_t block)
{
    unsigned lo = 0, hi = i->n_ext;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (i->ext[mid]->first + i->ext[mid]->count > block)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

struct extent *ext_find(const struct inode *i, uint64_t block)
{
    unsigned n = ext_index(i, block);

    return n < i->n_ext && i->ext[n]->first <= block ? i->ext[n] : NULL;
}

static void account(struct tc_client *c, const struct extent *e, int sign)
{
    uint64_t bytes = e->buf ? (uint64_t)e->count * BLOCK_SIZE : 0;

    if (e->dirty) {
        e->ino->dirty_blocks += sign > 0 ? e->count : -(uint64_t)e->count;
        if (e->buf)
            e->ino->dirty_data += sign > 0 ? e->count : -(uint64_t)e->count;
        c->dirty_bytes += sign > 0 ? bytes : -bytes;
    } else {
        c->clean_bytes += sign > 0 ? bytes : -bytes;
    }
}

static void ext_insert(struct tc_client *c, struct inode *i, struct extent *e)
{
    unsigned at = ext_index(i, e->first);

    ASSERT(at == i->n_ext || i->ext[at]->first >= e->first + e->count);
    if (i->n_ext == i->cap_ext) {
        i->cap_ext = i->cap_ext ? i->cap_ext * 2 : 4;
        i->ext = tc_realloc(i->ext, i->cap_ext * sizeof(struct extent *));
    }
    memmove(i->ext + at + 1, i->ext + at, (i->n_ext - at) * sizeof(struct extent *));
    i->ext[at] = e;
    i->n_ext++;
    e->ino = i;
    account(c, e, 1);
    if (!e->dirty)
        DL_APPEND(c->clean_lru, e);
}

void ext_remove(struct tc_client *c, struct inode *i, unsigned at)
{
    struct extent *e = i->ext[at];

    account(c, e, -1);
    if (!e->dirty)
        DL_DELETE(c->clean_lru, e);
    memmove(i->ext + at, i->ext + at + 1, (i->n_ext - at - 1) * sizeof(struct extent *));
    i->n_ext--;
}

static void ext_free(struct extent *e)
{
    buf_unref(e->buf);
    free(e);
}

/* Take [first, first+count) out of the extents. */
static void ext_cut(struct tc_client *c, struct inode *i, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;
    unsigned at = ext_index(i, first);

    while (at < i->n_ext && i->ext[at]->first < end) {
        struct extent *e = i->ext[at], *right = NULL;
        uint64_t e_end = e->first + e->count;

        if (e->first < first && e_end > end) { /* a hole in the middle */
            right = tc_calloc(1, sizeof(*right));
            *right = *e;
            right->prev = right->next = NULL;
            if (right->buf)
                buf_ref(right->buf);
            right->own = e->own = false;
        } else if (e_end > end) {
            right = TAKE(e);
        }
        ext_remove(c, i, at);
        if (e && e->first < first) {
            e->count = (uint32_t)(first - e->first);
            ext_insert(c, i, e);
            at++;
        } else if (e) {
            ext_free(e);
        }
        if (right) {
            uint64_t skip = end - right->first;

            right->first = end;
            right->count -= (uint32_t)skip;
            right->off += (uint32_t)(skip * BLOCK_SIZE);
            right->own = false; /* growth in place counts from offset 0 */
            ext_insert(c, i, right);
            break;
        }
    }
}

/* A later version of @block landed before this flight's. */
static bool flight_stale(const struct flight *f, uint64_t block)
{
    return f->stale[(block - f->first) / 8] & (1u << (block - f->first) % 8);
}

static const struct flight *flight_of(const struct inode *i, uint64_t block)
{
    const struct flight *f;

    if (!i->flights)
        return NULL;
    for (f = i->flights->prev;; f = f->prev) { /* the newest is last */
        if (block >= f->first && block < f->first + f->w.count && !flight_stale(f, block))
            return f;
        if (f == i->flights)
            return NULL;
    }
}

bool local_block(const struct inode *i, uint64_t block, const uint8_t **ret)
{
    const struct extent *e = ext_find(i, block);
    const struct flight *f;

    if (e) {
        *ret = e->buf ? e->buf->data + e->off + (block - e->first) * BLOCK_SIZE : NULL;
        return true;
    }
    f = flight_of(i, block);
    if (!f)
        return false;
    *ret = f->w.zero ? NULL : f->w.data->data + f->w.data_off + (block - f->first) * BLOCK_SIZE;
    return true;
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

static bool block_ready(const struct inode *i, uint64_t block)
{
    const uint8_t *p;

    return block * BLOCK_SIZE >= i->x->data_end || local_block(i, block, &p);
}

bool dirty_needs(const struct inode *i, uint64_t off, size_t len, uint64_t *ret_block)
{
    uint64_t end = off + len, head = off / BLOCK_SIZE, tail = (end - 1) / BLOCK_SIZE;

    if (len == 0)
        return false;
    /* A tail that reaches the end of the file leaves nothing of the old block but what is before it. */
    if ((off % BLOCK_SIZE || (head == tail && end % BLOCK_SIZE && end < i->x->size)) && !block_ready(i, head)) {
        *ret_block = head;
        return true;
    }
    if (tail != head && end % BLOCK_SIZE && end < i->x->size && !block_ready(i, tail)) {
        *ret_block = tail;
        return true;
    }
    return false;
}

/* The old bytes of @block into @to. */
static void base_copy(const struct inode *i, uint64_t block, uint8_t *to)
{
    const uint8_t *p = NULL;

    if (local_block(i, block, &p) && p)
        memmove(to, p, BLOCK_SIZE);
    else
        memset(to, 0, BLOCK_SIZE);
}

static bool may_change(const struct extent *e)
{
    return e && e->dirty && e->own && e->buf && atomic_load_explicit(&e->buf->refs, memory_order_acquire) == 1;
}

/* Room for @count blocks in an own extent. */
static void ext_reserve(struct extent *e, uint64_t count)
{
    uint64_t need = count * BLOCK_SIZE, cap = e->buf->cap;
    struct buf *b;

    if (need <= cap)
        return;
    while (cap < need)
        cap *= 2;
    b = buf_new((uint32_t)MIN(cap, CHUNK_SIZE));
    memcpy(b->data, e->buf->data, (size_t)e->count * BLOCK_SIZE);
    buf_unref(e->buf);
    e->buf = b;
}

/* A piece inside one chunk, copied. */
static void write_copy(struct tc_client *c, struct inode *i, const uint8_t *data, uint64_t off, size_t len)
{
    uint64_t end = off + len, fb = off / BLOCK_SIZE, lb = (end - 1) / BLOCK_SIZE;
    uint64_t chunk_first = fb & ~(uint64_t)(BLOCKS_PER_CHUNK - 1);
    struct extent *e = ext_find(i, fb);
    uint64_t old_end;

    if (!e && fb > chunk_first)
        e = ext_find(i, fb - 1);
    if (!may_change(e)) {
        e = tc_calloc(1, sizeof(*e));
        e->dirty = e->own = true;
        e->first = fb;
        e->buf = buf_new((uint32_t)((lb - fb + 1) * BLOCK_SIZE));
        /* The old bytes of both ends, before their extents are cut. */
        if (off % BLOCK_SIZE)
            base_copy(i, fb, e->buf->data);
        if (end % BLOCK_SIZE && !(fb == lb && off % BLOCK_SIZE))
            base_copy(i, lb, e->buf->data + (lb - fb) * BLOCK_SIZE);
        ext_cut(c, i, fb, lb - fb + 1);
        e->count = (uint32_t)(lb - fb + 1);
        memcpy(e->buf->data + (off - fb * BLOCK_SIZE), data, len);
        ext_insert(c, i, e);
        return;
    }
    ASSERT(e->off == 0);
    old_end = e->first + e->count;
    if (lb >= old_end) {
        uint64_t n = lb - e->first + 1;
        uint8_t tail[BLOCK_SIZE];
        bool keep_tail = end % BLOCK_SIZE != 0, keep_head = fb == old_end && off % BLOCK_SIZE != 0;
        uint8_t head[BLOCK_SIZE];

        if (keep_tail)
            base_copy(i, lb, tail);
        if (keep_head)
            base_copy(i, fb, head);
        ext_cut(c, i, old_end, lb - old_end + 1);
        account(c, e, -1);
        ext_reserve(e, n);
        e->count = (uint32_t)n;
        account(c, e, 1);
        if (keep_tail)
            memcpy(e->buf->data + (lb - e->first) * BLOCK_SIZE, tail, BLOCK_SIZE);
        if (keep_head)
            memcpy(e->buf->data + (fb - e->first) * BLOCK_SIZE, head, BLOCK_SIZE);
    }
    memcpy(e->buf->data + (off - e->first * BLOCK_SIZE), data, len);
}

/* Whole blocks inside one chunk, by reference; buf NULL: zeros. */
static void write_refer(struct tc_client *c, struct inode *i, struct buf *data, size_t data_off, uint64_t fb, uint32_t count)
{
    struct extent *e = tc_calloc(1, sizeof(*e));

    ext_cut(c, i, fb, count);
    e->dirty = true;
    e->first = fb;
    e->count = count;
    e->buf = data ? buf_ref(data) : NULL;
    e->off = (uint32_t)data_off;
    ext_insert(c, i, e);
}

static void write_piece(struct tc_client *c, struct inode *i, struct buf *data, size_t data_off, uint64_t off, size_t len)
{
    static const uint8_t zeros[BLOCK_SIZE];
    size_t head = (BLOCK_SIZE - off % BLOCK_SIZE) % BLOCK_SIZE, tail;

    if (data && len < COPY_BELOW) {
        write_copy(c, i, data->data + data_off, off, len);
        return;
    }
    head = MIN(head, len);
    if (head) {
        write_copy(c, i, data ? data->data + data_off : zeros, off, head);
        off += head;
        data_off += head;
        len -= head;
    }
    tail = len % BLOCK_SIZE;
    if (len - tail)
        write_refer(c, i, data, data_off, off / BLOCK_SIZE, (uint32_t)((len - tail) / BLOCK_SIZE));
    if (tail)
        write_copy(c, i, data ? data->data + data_off + (len - tail) : zeros, off + len - tail, tail);
}

void dirty_write(struct tc_client *c, struct inode *i, struct buf *data, size_t data_off, size_t len, uint64_t off)
{
    while (len > 0) {
        size_t n = MIN(len, (size_t)(CHUNK_SIZE - off % CHUNK_SIZE));

        write_piece(c, i, data, data_off, off, n);
        off += n;
        data_off += n;
        len -= n;
    }
    i->data_gen++;
    if (!i->on_dirty_list && i->dirty_blocks) {
        i->on_dirty_list = true;
        i->dirty_since = env_now(c->env);
        DL_APPEND2(c->dirty_list, i, dirty_prev, dirty_next);
        if (!env_timer_armed(&c->age_timer))
            env_timer_set(c->env, &c->age_timer, i->dirty_since + c->dirty_age);
    }
}

/* ---- clean blocks ------------------------------------------------------------------------------------------------ */

static void clean_trim(struct tc_client *c)
{
    while (c->clean_bytes > CLEAN_BYTES_MAX && c->clean_lru) {
        struct extent *e = c->clean_lru;
        unsigned at = ext_index(e->ino, e->first);

        ASSERT(e->ino->ext[at] == e);
        e->ino->data_gen++;
        ext_remove(c, e->ino, at);
        ext_free(e);
    }
}

void dirty_add_clean(struct tc_client *c, struct inode *i, uint64_t block, const uint8_t *data)
{
    const uint8_t *p;
    struct extent *e;

    if (local_block(i, block, &p))
        return;
    e = tc_calloc(1, sizeof(*e));
    e->first = block;
    e->count = 1;
    if (data)
        e->buf = buf_copy(data, BLOCK_SIZE);
    ext_insert(c, i, e);
    clean_trim(c);
}

/* What a flight carried, kept for reading and merging if nothing newer is here. */
void clean_keep(struct tc_client *c, struct inode *i, const struct flight *f)
{
    struct extent *e;
    unsigned at = ext_index(i, f->first);

    if (f->w.count > CLEAN_KEEP_BLOCKS || f->w.zero || !i->x)
        return;
    for (uint64_t b = f->first; b < f->first + f->w.count; b++) {
        if (flight_stale(f, b))
            return;
    }
    if (at < i->n_ext && i->ext[at]->first < f->first + f->w.count)
        return;
    for (const struct flight *o = i->flights; o; o = o->next) {
        if (o != f && o->first < f->first + f->w.count && f->first < o->first + o->w.count)
            return;
    }
    e = tc_calloc(1, sizeof(*e));
    e->first = f->first;
    e->count = f->w.count;
    e->buf = buf_ref(f->w.data);
    e->off = f->w.data_off;
    ext_insert(c, i, e);
    clean_trim(c);
}

void clean_drop(struct tc_client *c, struct inode *i)
{
    for (unsigned at = i->n_ext; at-- > 0;) {
        struct extent *e = i->ext[at];

        if (e->dirty)
            continue;
        ext_remove(c, i, at);
        ext_free(e);
    }
    i->data_gen++;
}

void dirty_drop(struct tc_client *c, struct inode *i)
{
    while (i->n_ext > 0) {
        struct extent *e = i->ext[i->n_ext - 1];

        ext_remove(c, i, i->n_ext - 1);
        ext_free(e);
    }
    i->data_gen++;
    if (i->on_dirty_list) {
        i->on_dirty_list = false;
        DL_DELETE2(c->dirty_list, i, dirty_prev, dirty_next);
    }
    i->flush_wanted = false;
    if (c->dirty_bytes < c->dirty_max)
        waitq_wake(&c->room_wq);
}

void dirty_truncate(struct tc_client *c, struct inode *i, uint64_t size)
{
    uint64_t block = size / BLOCK_SIZE;
    struct extent *e = ext_find(i, block);

    if (size % BLOCK_SIZE && e && e->dirty && e->buf) {
        struct extent *last = tc_calloc(1, sizeof(*last));

        last->dirty = last->own = true;
        last->first = block;
        last->count = 1;
        last->buf = buf_new(BLOCK_SIZE);
        base_copy(i, block, last->buf->data);
        if (TC_RULE(ZERO_TAIL))
            memset(last->buf->data + size % BLOCK_SIZE, 0, BLOCK_SIZE - size % BLOCK_SIZE);
        ext_cut(c, i, block, UINT64_MAX / 2);
        ext_insert(c, i, last);
    } else if (size % BLOCK_SIZE && e && e->dirty) {
        ext_cut(c, i, block + 1, UINT64_MAX / 2); /* zeros stay zeros */
    } else {
        ext_cut(c, i, block, UINT64_MAX / 2);
    }
    i->data_gen++;
    i->x->data_end = MIN(i->x->data_end, size);
    if (i->dirty_blocks == 0 && i->on_dirty_list) {
        i->on_dirty_list = false;
        DL_DELETE2(c->dirty_list, i, dirty_prev, dirty_next);
    }
}
