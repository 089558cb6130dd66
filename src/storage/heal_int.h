/* SPDX-License-Identifier: Apache-2.0 */
/* One chunk being brought up to date, as heal.c (looks, compares, decides) and heal_move.c (fetches, writes) share it. */
#pragma once

#include "storage/server_int.h"

#define PARTIES_MAX (2 * PG_VOTERS_MAX + 1)
#define HEAL_CALL_NS (5 * NS_PER_S)

enum heal_state { LOOK, FETCH, WRITE };

struct party { /* this store, or a peer */
    struct heal_work *w;
    uint64_t store;
    bool self, source, target, asked;
    int status;
    struct chunk_block blocks[BLOCKS_PER_CHUNK];
    struct chunk_pair pair;
    bool lacks[BLOCKS_PER_CHUNK];
    bool gives[BLOCKS_PER_CHUNK];
    bool lacks_any, gives_any;
    /* self */
    struct chunk_read_op read;
    struct chunk_read *reads;
    struct chunk_write_op write;
    struct chunk_write *writes;
    /* peer */
    struct rpc_call call;
    struct buf *payload;  /* of FETCH */
    struct buf *outgoing; /* of WRITE */
    uint8_t sums[BLOCKS_PER_CHUNK * 8];
};

struct heal_work {
    struct heal *h;
    struct storage_server *s;
    struct heal_work *prev, *next;
    enum heal_state state;
    uint32_t n, left, tries;
    int status;
    struct env_task task;
    uint64_t pg_epoch, barrier;
    uint32_t need;
    bool unsure; /* some blocks had too few votes */
    bool absent[BLOCKS_PER_CHUNK]; /* never written, says a quorum */
    struct chunk_block newest[BLOCKS_PER_CHUNK];
    struct chunk_pair pair;
    const uint8_t *data[BLOCKS_PER_CHUNK];
    struct party parties[PARTIES_MAX];
};

static inline int version_cmp(const struct chunk_block *a, const struct chunk_block *b)
{
    if (a->vepoch != b->vepoch)
        return a->vepoch < b->vepoch ? -1 : 1;
    return a->vseq == b->vseq ? 0 : a->vseq < b->vseq ? -1 : 1;
}

/* heal.c */
void heal_party_done(struct party *p, int status); /* it has answered, or will not; of the last, the task goes on */
bool heal_result_blocks(const struct read_result *r, uint32_t count, struct chunk_block *to); /* false: not of @count */
struct read_item heal_item_of(const struct heal_work *w, uint32_t first, uint32_t count, bool data);

/* heal_move.c */
void heal_fetch(struct heal_work *w);
void heal_spread(struct heal_work *w);
