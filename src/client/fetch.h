/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fetches (fetch.c) and those kept ahead of a stream (readahead.c), for read.c.
 *
 * A fetch is one quorum read of consecutive blocks of one chunk. It is shared by reference count: by the
 * read that waits for it, and by the inode's read-ahead, which keeps it until it is passed or anything
 * is written. A fetch is good as long as the lease under which it began has not ended (inode.breaks); one kept for
 * later is good only while no local data has changed since it began (inode.data_gen).
 */
#pragma once

#include "client/internal.h"

struct fetch {
    struct qread q;
    struct inode *ino; /* pinned until done */
    struct fetch *prev, *next; /* c->fetches while running */
    unsigned refs;
    bool running;
    int status;
    uint64_t first; /* block of the file */
    uint64_t breaks, data_gen, epoch;
    struct waitq wq;
    bool single; /* for a partial write */
    bool horizon;
    bool known; /* versions of a chunk (known.c) */
    struct qblock *expect; /* q.expect */
};

/* Blocks [first, first+count) of one chunk. Returns: one reference, dropped with fetch_unref(); another is held while it
 * runs. f->wq is woken at its end. */
struct fetch *fetch_start(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool versions_only);
/* The same for a read: of one voter alone, where the versions are known (known.c). */
struct fetch *fetch_data(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count);
void fetch_unref(struct tc_client *c, struct fetch *f);

/* Block @block of the file as fetched; NULL: not of this fetch. */
static inline const struct qblock *fetched(const struct fetch *f, uint64_t block)
{
    if (block < f->first || block >= f->first + f->q.count)
        return NULL;
    return &f->q.blocks[block - f->first];
}

/* A read of [off, off+len) is about to be gathered: what shall be fetched ahead of the stream that it may be part of? */
void readahead_plan(struct tc_client *c, struct tc_file *f, struct inode *i, uint64_t off, size_t len);
/* A kept fetch that covers blocks [first, last], or NULL. Returns: no reference. */
struct fetch *readahead_find(struct tc_client *c, struct inode *i, uint64_t first, uint64_t last);
/* The stream has passed all before @block. */
void readahead_passed(struct tc_client *c, struct inode *i, uint64_t block);
