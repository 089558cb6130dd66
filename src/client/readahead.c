/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-ahead: whole chunks fetched ahead of a stream, kept by the inode until they are passed, or anything is written.
 *
 * More of it at once is no gain where memory and not the disk is the limit: what is fetched is then out of the
 * processor's cache when it is read.
 */
#include "client/fetch.h"

#define RA_CHUNKS 4 /* kept for an inode */
#define RA_DEPTH 2  /* ahead of the chunk being read */
#define RA_BYTES_MAX (48u << 20) /* of all fetches of the client */

struct readahead {
    struct fetch *slot[RA_CHUNKS];
    unsigned hand;
};

void readahead_drop(struct tc_client *c, struct inode *i)
{
    known_drop(c, i);
    if (!i->ra)
        return;
    for (unsigned s = 0; s < RA_CHUNKS; s++) {
        if (i->ra->slot[s])
            fetch_unref(c, i->ra->slot[s]);
    }
    free(i->ra);
    i->ra = NULL;
}

struct fetch *readahead_find(struct tc_client *c, struct inode *i, uint64_t first, uint64_t last)
{
    if (!i->ra)
        return NULL;
    for (unsigned s = 0; s < RA_CHUNKS; s++) {
        struct fetch *f = i->ra->slot[s];

        if (!f)
            continue;
        if (f->breaks != i->breaks || f->data_gen != i->data_gen || (!f->running && f->status != 0)) {
            i->ra->slot[s] = NULL;
            fetch_unref(c, f);
        } else if (f->first <= first && last < f->first + f->q.count) {
            return f;
        }
    }
    return NULL;
}

/* Have the rest of the chunk from @block fetched and kept. */
static void ra_start(struct tc_client *c, struct inode *i, uint64_t block)
{
    uint64_t size = i->x ? i->x->size : i->attr.size;
    uint64_t end = (block / BLOCKS_PER_CHUNK + 1) * BLOCKS_PER_CHUNK;
    struct fetch **slot;

    end = MIN(end, (size + BLOCK_SIZE - 1) / BLOCK_SIZE);
    if (block >= end || readahead_find(c, i, block, end - 1) || c->ra_bytes > RA_BYTES_MAX)
        return;
    if (!i->ra)
        i->ra = tc_calloc(1, sizeof(*i->ra));
    slot = &i->ra->slot[i->ra->hand++ % RA_CHUNKS];
    if (*slot)
        fetch_unref(c, *slot);
    *slot = fetch_start(c, i, block, (uint32_t)(end - block), false);
}

void readahead_passed(struct tc_client *c, struct inode *i, uint64_t block)
{
    if (!i->ra)
        return;
    for (unsigned s = 0; s < RA_CHUNKS; s++) {
        struct fetch *f = i->ra->slot[s];

        if (f && f->first + f->q.count <= block) {
            i->ra->slot[s] = NULL;
            fetch_unref(c, f);
        }
    }
}

void readahead_plan(struct tc_client *c, struct tc_file *f, struct inode *i, uint64_t off, size_t len)
{
    uint64_t chunk = off / CHUNK_SIZE;

    if (off == f->next_read && (off > 0 || len >= 65536))
        f->seq_reads++;
    else
        f->seq_reads = 0;
    f->next_read = off + len;
    if (f->seq_reads == 0)
        return;
    if (f->seq_reads == 1 && off > 0)
        return;
    /* The rest of this chunk in one message, and when the stream goes on the next ones too. */
    ra_start(c, i, off / BLOCK_SIZE);
    for (unsigned d = 1; f->seq_reads > 1 && d <= RA_DEPTH; d++)
        ra_start(c, i, (chunk + d) * BLOCKS_PER_CHUNK);
}
