/* SPDX-License-Identifier: Apache-2.0 */
#include "meta/kv_dump.h"

#include <pthread.h>
#include <string.h>
#include <xxhash.h>

enum { DUMP_CHUNK = 1 << 20, DUMP_VERSION = 1, DUMP_HEAD = 8, DUMP_TAIL = 24, DUMP_PAIR = 8 };
#define DUMP_MAGIC UINT32_C(0x444b4354) /* "TCKD" */
#define DUMP_END UINT32_C(0xffffffff)

struct dump_writer {
    struct vfs_file *f;
    uint64_t off;
    uint8_t *buf;
    size_t len, cap;
    XXH3_state_t *sum;
};

static void writer_put(struct dump_writer *w, const void *data, size_t len)
{
    if (w->len + len > w->cap) {
        w->cap = MAX(w->cap * 2, w->len + len);
        w->buf = tc_realloc(w->buf, w->cap);
    }
    if (len > 0)
        memcpy(w->buf + w->len, data, len);
    w->len += len;
}

static int writer_flush(struct dump_writer *w)
{
    int err;

    XXH3_64bits_update(w->sum, w->buf, w->len);
    err = vfs_pwrite(w->f, w->buf, w->len, w->off);
    w->off += w->len;
    w->len = 0;
    return err;
}

static void put_u32(struct dump_writer *w, uint32_t v)
{
    writer_put(w, &v, sizeof v);
}

/* One batch of pairs, under the lock; false when there are no more. The iterator lives in the batch
 * only, so that the kv may be closed between two. */
static int dump_batch(struct kv *kv, struct kv_snapshot *snap, struct dump_writer *w, size_t max,
                      struct buf **from, uint64_t *count, bool *more)
{
    struct slice none = {0};
    struct slice start = *from ? slice_of((*from)->data, (*from)->len) : none;
    struct kv_iter *it = kv_iter_new(kv, snap, start, none);
    int err;

    for (; kv_iter_valid(it) && w->len < max; kv_iter_next(it), (*count)++) {
        struct slice k = kv_iter_key(it);
        struct slice v = kv_iter_value(it);

        put_u32(w, (uint32_t)k.len);
        put_u32(w, (uint32_t)v.len);
        writer_put(w, k.data, k.len);
        writer_put(w, v.data, v.len);
    }
    *more = kv_iter_valid(it);
    if (*more) {
        struct slice k = kv_iter_key(it);

        buf_unref(*from);
        *from = buf_copy(k.data, (uint32_t)k.len);
    }
    err = kv_iter_error(it);
    kv_iter_free(it);
    return err;
}

static int dump_all(struct kv *kv, struct kv_snapshot *snap, struct dump_writer *w,
                    atomic_bool *cancel, pthread_mutex_t *lock)
{
    struct buf *from = NULL;
    uint64_t count = 0, sum;
    bool more = true;
    int err = 0;

    put_u32(w, DUMP_MAGIC);
    put_u32(w, DUMP_VERSION);
    while (err == 0 && more) {
        pthread_mutex_lock(lock);
        err = atomic_load(cancel) ? -TC_E_CANCELLED : dump_batch(kv, snap, w, DUMP_CHUNK, &from, &count, &more);
        pthread_mutex_unlock(lock);
        if (err == 0)
            err = writer_flush(w);
    }
    buf_unref(from);
    if (err < 0)
        return err;
    put_u32(w, DUMP_END);
    put_u32(w, 0);
    writer_put(w, &count, sizeof count);
    err = writer_flush(w);
    if (err < 0)
        return err;
    sum = XXH3_64bits_digest(w->sum);
    writer_put(w, &sum, sizeof sum);
    return writer_flush(w);
}

int kv_dump_write(struct kv *kv, struct kv_snapshot *snap, struct vfs_file *f, atomic_bool *cancel,
                  void *lock, uint64_t *ret_size)
{
    struct dump_writer w = {.f = f, .sum = XXH3_createState()};
    int err;

    ASSERT(w.sum);
    XXH3_64bits_reset(w.sum);
    err = dump_all(kv, snap, &w, cancel, lock);
    if (err == 0)
        *ret_size = w.off;
    XXH3_freeState(w.sum);
    free(w.buf);
    return err;
}

int kv_dump_piece(struct kv *kv, struct kv_snapshot *snap, const struct buf *from, size_t max,
                  struct buf **ret_rows, struct buf **ret_next, uint64_t *ret_count)
{
    struct dump_writer w = {0};
    struct buf *at = from ? buf_copy(from->data, from->len) : NULL;
    bool more = false;
    int err = dump_batch(kv, snap, &w, max, &at, ret_count, &more);

    if (err == 0) {
        *ret_rows = buf_copy(w.buf, (uint32_t)w.len);
        *ret_next = more ? buf_ref(at) : NULL;
    }
    buf_unref(at);
    free(w.buf);
    return err;
}

static int read_all(struct vfs_file *f, void *data, size_t len, uint64_t off)
{
    int64_t n = vfs_pread(f, data, len, off);

    if (n < 0)
        return (int)n;
    return (size_t)n == len ? 0 : -TC_E_DAMAGED;
}

static int dump_verify(struct vfs_file *f, uint64_t size, uint8_t *buf)
{
    XXH3_state_t *state = XXH3_createState();
    uint64_t off = 0, sum;
    int err = 0;

    ASSERT(state);
    XXH3_64bits_reset(state);
    while (err == 0 && off < size - sizeof sum) {
        size_t n = (size_t)MIN((uint64_t)DUMP_CHUNK, size - sizeof sum - off);

        err = read_all(f, buf, n, off);
        XXH3_64bits_update(state, buf, n);
        off += n;
    }
    if (err == 0)
        err = read_all(f, &sum, sizeof sum, off);
    if (err == 0 && sum != XXH3_64bits_digest(state))
        err = -TC_E_DAMAGED;
    XXH3_freeState(state);
    return err;
}

int kv_dump_check(struct vfs_file *f, uint64_t size)
{
    uint8_t *buf;
    int err;

    if (size < DUMP_HEAD + DUMP_TAIL)
        return -TC_E_DAMAGED;
    buf = tc_malloc(DUMP_CHUNK);
    err = dump_verify(f, size, buf);
    free(buf);
    return err;
}

/* Reads ahead in chunks: *buf holds [at, end) of the stream. */
struct dump_reader {
    struct vfs_file *f;
    uint64_t off, size;
    uint8_t *buf;
    size_t at, end, cap;
};

static int reader_need(struct dump_reader *r, size_t len)
{
    size_t want;
    int err;

    if (r->end - r->at >= len)
        return 0;
    memmove(r->buf, r->buf + r->at, r->end - r->at);
    r->end -= r->at;
    r->at = 0;
    if (len > r->size)
        return -TC_E_DAMAGED;
    if (MAX(len, (size_t)DUMP_CHUNK) > r->cap) {
        r->cap = MAX(len, (size_t)DUMP_CHUNK);
        r->buf = tc_realloc(r->buf, r->cap);
    }
    want = (size_t)MIN((uint64_t)(r->cap - r->end), r->size - r->off);
    err = read_all(r->f, r->buf + r->end, want, r->off);
    if (err < 0)
        return err;
    r->off += want;
    r->end += want;
    return r->end >= len ? 0 : -TC_E_DAMAGED;
}

static int load_pairs(struct dump_reader *r, struct kv *kv, struct kv_batch *b)
{
    uint64_t count = 0, told;
    size_t batched = 0;
    uint32_t head[2];
    int err;

    for (;;) {
        err = reader_need(r, DUMP_PAIR);
        if (err < 0)
            return err;
        memcpy(head, r->buf + r->at, DUMP_PAIR);
        r->at += DUMP_PAIR;
        if (head[0] == DUMP_END)
            break;
        err = reader_need(r, (size_t)head[0] + head[1]);
        if (err < 0)
            return err;
        kv_batch_put(b, slice_of(r->buf + r->at, head[0]),
                     slice_of(r->buf + r->at + head[0], head[1]));
        r->at += (size_t)head[0] + head[1];
        batched += (size_t)head[0] + head[1];
        count++;
        if (batched >= DUMP_CHUNK) {
            err = kv_write(kv, b);
            if (err < 0)
                return err;
            batched = 0;
        }
    }
    err = reader_need(r, sizeof told);
    if (err < 0)
        return err;
    memcpy(&told, r->buf + r->at, sizeof told);
    if (told != count)
        return -TC_E_DAMAGED;
    return kv_write(kv, b);
}

int kv_dump_load(struct vfs_file *f, uint64_t size, bool check, struct kv *kv)
{
    struct dump_reader r = {.f = f, .size = size};
    struct kv_batch *b;
    uint32_t head[2];
    int err;

    if (size < DUMP_HEAD + DUMP_TAIL)
        return -TC_E_DAMAGED;
    r.buf = tc_malloc(DUMP_CHUNK);
    r.cap = DUMP_CHUNK;
    err = check ? dump_verify(f, size, r.buf) : 0;
    if (err == 0)
        err = reader_need(&r, DUMP_HEAD);
    if (err == 0) {
        memcpy(head, r.buf, DUMP_HEAD);
        r.at = DUMP_HEAD;
        if (head[0] != DUMP_MAGIC)
            err = -TC_E_DAMAGED;
        else if (head[1] != DUMP_VERSION)
            err = -TC_E_VERSION;
    }
    if (err == 0) {
        b = kv_batch_new(kv);
        err = load_pairs(&r, kv, b);
        kv_batch_free(b);
    }
    free(r.buf);
    return err;
}
