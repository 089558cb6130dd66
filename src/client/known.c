/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Versions known to be the newest (PROTOCOL 4.4).
 *
 * While S is held on an inode that is clean of lost writers, nobody writes: what R votes said is the newest version
 * of a block stays that. So a chunk that is read here and there has its versions asked for once, and then one
 * voter's answer that bears the known version and checksum is all that a read needs. Any other answer counts for nothing
 * here, and the read goes on as every other (quorum_read.c).
 *
 * Knowledge belongs to the inode, and is good as a kept fetch is: while the lease has not ended (inode.breaks) and no
 * local data has changed (inode.data_gen). Chunks whose knowledge was of no use are asked for later next time.
 */
#include "client/internal.h"

#define KNOWN_CHUNKS_MAX 2048 /* of 10 KiB at most */
#define KNOWN_AFTER 2         /* reads of a chunk before its versions are asked for */
#define KNOWN_AFTER_MAX 64

struct known {
    UT_hash_handle hh;
    struct known *prev, *next; /* c->known_lru, least recently used first */
    struct inode *ino;
    uint32_t index;
    uint32_t count;         /* blocks known, from the chunk's first; 0: none */
    unsigned misses, after; /* ask when there were so many */
    unsigned hits;
    bool asking;
    uint64_t breaks, data_gen;
    struct qblock *blocks;
};

static void known_free(struct tc_client *c, struct known *k)
{
    HASH_DEL(k->ino->known, k);
    DL_DELETE(c->known_lru, k);
    c->n_known--;
    free(k->blocks);
    free(k);
}

void known_drop(struct tc_client *c, struct inode *i)
{
    struct known *k, *tmp;

    HASH_ITER(hh, i->known, k, tmp)
    {
        known_free(c, k);
    }
}

/* Nothing is known of it any more; how soon it is asked for again depends on what it was good for. */
static void forget(struct known *k)
{
    if (k->count)
        k->after = k->hits >= k->after ? KNOWN_AFTER : MIN(k->after * 2, KNOWN_AFTER_MAX);
    free(k->blocks);
    k->blocks = NULL;
    k->count = 0;
    k->misses = k->hits = 0;
    k->asking = false;
}

static struct known *known_of(struct tc_client *c, struct inode *i, uint32_t index)
{
    struct known *k;

    HASH_FIND(hh, i->known, &index, sizeof(index), k);
    if (k) {
        DL_DELETE(c->known_lru, k);
        DL_APPEND(c->known_lru, k);
        if (k->breaks != i->breaks || k->data_gen != i->data_gen)
            forget(k);
    } else {
        if (c->n_known >= KNOWN_CHUNKS_MAX)
            known_free(c, c->known_lru);
        k = tc_calloc(1, sizeof(*k));
        k->ino = i;
        k->index = index;
        k->after = KNOWN_AFTER;
        HASH_ADD(hh, i->known, index, sizeof(k->index), k);
        DL_APPEND(c->known_lru, k);
        c->n_known++;
    }
    k->breaks = i->breaks;
    k->data_gen = i->data_gen;
    return k;
}

static bool settled(const struct inode *i)
{
    return !i->x && (i->held & LEASE_S) && i->attr.data_state < DATA_UNCLEAN;
}

const struct qblock *known_find(struct tc_client *c, struct inode *i, uint64_t first, uint32_t count, bool *ret_ask)
{
    uint32_t index = (uint32_t)(first / BLOCKS_PER_CHUNK), at = (uint32_t)(first % BLOCKS_PER_CHUNK);
    struct known *k;

    *ret_ask = false;
    if (!settled(i) || count > KNOWN_READ_MAX || i->attr.size <= (uint64_t)count * BLOCK_SIZE)
        return NULL;
    k = known_of(c, i, index);
    if (at + count <= k->count) {
        k->hits++;
        return k->blocks + at;
    }
    if (!k->asking && !k->count && ++k->misses >= k->after)
        *ret_ask = k->asking = true;
    return NULL;
}

void known_learn(struct tc_client *c, struct inode *i, uint32_t index, uint32_t count, const struct qblock *blocks,
                 uint64_t breaks, uint64_t data_gen)
{
    struct known *k;

    if (breaks != i->breaks || data_gen != i->data_gen || !settled(i))
        return; /* whoever looks next begins to count anew: the lease or the data is another */
    k = known_of(c, i, index);
    forget(k);
    if (!blocks)
        return;
    k->blocks = tc_malloc(count * sizeof(*blocks));
    memcpy(k->blocks, blocks, count * sizeof(*blocks));
    k->count = count;
}
