/* SPDX-License-Identifier: Apache-2.0 */
#include "common/buf.h"

#include <stdlib.h>

static struct buf *buf_init(struct buf *b, void *data, uint32_t len, uint32_t cap)
{
    atomic_init(&b->refs, 1);
    b->len = len;
    b->cap = cap;
    b->data = data;
    b->free_fn = NULL;
    b->arg = NULL;
    return b;
}

struct buf *buf_new(uint32_t cap)
{
    struct buf *b;

    if (cap < BUF_ALIGNED_MIN) {
        b = tc_malloc(sizeof *b + cap);
        return buf_init(b, b + 1, 0, cap);
    }
    b = tc_aligned(DISK_ALIGN, DISK_ALIGN + (size_t)cap);
    return buf_init(b, (uint8_t *)b + DISK_ALIGN, 0, cap);
}

struct buf *buf_copy(const void *data, uint32_t len)
{
    struct buf *b = buf_new(len);

    if (len > 0)
        memcpy(b->data, data, len);
    b->len = len;
    return b;
}

struct buf *buf_wrap(void *data, uint32_t len, void (*free_fn)(struct buf *b), void *arg)
{
    struct buf *b = tc_malloc(sizeof *b);

    ASSERT(free_fn);
    buf_init(b, data, len, len);
    b->free_fn = free_fn;
    b->arg = arg;
    return b;
}

struct buf *buf_ref(struct buf *b)
{
    unsigned before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);

    ASSERT(before > 0 && before < UINT32_MAX / 2);
    return b;
}

struct buf *buf_unref(struct buf *b)
{
    unsigned before;

    if (!b)
        return NULL;
    before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before > 1)
        return NULL;
    if (b->free_fn)
        b->free_fn(b);
    free(b);
    return NULL;
}

int slice_cmp(struct slice a, struct slice b)
{
    size_t n = MIN(a.len, b.len);
    int r = n > 0 ? memcmp(a.data, b.data, n) : 0;

    if (r != 0)
        return r;
    return (a.len > b.len) - (a.len < b.len);
}
