/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reference-counted byte buffers: the unit in which messages and file data travel without copies.
 * The count is atomic because the transport's own thread drops the last reference of what it sent.
 * The bytes of a buffer are immutable once it has been shared.
 */
#pragma once

#include <stdatomic.h>
#include <string.h>

#include "common/base.h"

struct buf {
    atomic_uint refs;
    uint32_t len; /* bytes in use */
    uint32_t cap;
    uint8_t *data;
    void (*free_fn)(struct buf *b); /* NULL: data follows the struct and goes with it */
    void *arg;                      /* free_fn's own */
};

/* From this size on, the data of a new buffer begins at a multiple of DISK_ALIGN: a disk can write there. */
#define BUF_ALIGNED_MIN (64u << 10)

/* New buffer of @cap bytes, len 0, one reference. Returns: caller drops with buf_unref(). */
struct buf *buf_new(uint32_t cap);
/* New buffer holding a copy of @data. */
struct buf *buf_copy(const void *data, uint32_t len);
/* New buffer around foreign memory; @free_fn(b) frees data (not b) with the last reference, on
 * whatever thread drops it. */
struct buf *buf_wrap(void *data, uint32_t len, void (*free_fn)(struct buf *b), void *arg);
struct buf *buf_ref(struct buf *b);
/* Accepts NULL. Always returns NULL. */
struct buf *buf_unref(struct buf *b);

/* A borrowed range of bytes. */
struct slice {
    const void *data;
    size_t len;
};

static inline struct slice slice_of(const void *data, size_t len)
{
    return (struct slice){data, len};
}

/* memcmp order, shorter first when one is a prefix of the other. */
int slice_cmp(struct slice a, struct slice b);
