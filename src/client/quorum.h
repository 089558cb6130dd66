/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Block quorum I/O (PROTOCOL section 4): a set of blocks is written to all voters of their placement
 * groups and is done at W durable acknowledgements; a read takes data from one voter and versions from
 * another, hedges, compares, verifies checksums and brings laggards up to date.
 *
 * The engine knows nothing of leases and sizes: the caller holds the lease that allows the operation, gives
 * versions, and masks horizons. It batches what goes to one store in one loop turn into one message.
 */
#pragma once

#include "common/map.h"
#include "common/env.h"
#include "common/schema.h"

struct quorum;

/* What the engine asks of its owner. */
struct quorum_owner {
    /* The session that requests are made under; false: suspended or none, requests wait. */
    bool (*session)(void *arg, uint64_t *ret_session, uint32_t *ret_incarnation);
    struct map *(*map)(void *arg);           /* the newest map known */
    void (*look_map)(void *arg); /* a store finds the map old or wrong: is there a newer one? quorum_map_changed() follows */
    void *arg;
};

int quorum_open(struct env *env, const struct quorum_owner *owner, uint64_t cluster_tag, struct quorum **ret_q);
void quorum_close(struct quorum *q); /* operations in flight get no callback */
/* The map was replaced: operations in flight are resent where voters changed. */
void quorum_map_changed(struct quorum *q);
/* The session became valid again, or ended (operations fail with FENCED). */
void quorum_session_changed(struct quorum *q, bool fenced);

/*
 * A write of consecutive blocks of one chunk under one version. Caller's memory until done().
 * @data: count x 4 KiB as pieces; borrowed until done (buffers they lie in are kept by the caller).
 */
struct qwrite {
    uint64_t ino;
    uint32_t index, first, count;
    uint64_t vepoch, vseq;
    uint64_t size, mtime;
    bool zero; /* zero mark: no data */
    uint64_t barrier;
    struct buf *data;   /* count x 4 KiB from data_off; referenced by the engine while needed */
    uint32_t data_off;
    const uint64_t *sums; /* XXH3-64 of each block; borrowed until all_done */
    uint64_t deadline;    /* env_now(); UINT64_MAX: none */
    /* At W durable acknowledgements of current voters, or for good with an error: FENCED, NOSPC, DEADLINE. */
    void (*done)(struct qwrite *w, int status);
    /* Afterwards, once: no more message about it is under way or will be sent. all: every one of the N
     * voters acknowledged (what a clean mark needs). Then the struct may be freed. */
    void (*all_done)(struct qwrite *w, bool all);
    uint32_t new_blocks, freed_blocks; /* the most any voter counted */
    void *impl;
};
void quorum_write(struct quorum *q, struct qwrite *w);

/* One chunk's blocks. Caller's memory until done(). */
struct qread {
    uint64_t ino;
    uint32_t index, first, count;
    uint64_t barrier;
    bool versions_only;
    bool write_back; /* inode unclean, or X held elsewhere possible: a version not known on W is written back first (4.4) */
    /* Per block, the newest version (and checksum) as the caller knows it; data is ignored. Borrowed until done. One voter
     * that answers with exactly these is enough; not with write_back. NULL: R votes say which it is. */
    const struct qblock *expect;
    /* The inode is clean (PROTOCOL 7) as long as the caller's lease lives: when no other voter answers, one is enough. */
    bool clean;
    uint64_t deadline;
    void (*done)(struct qread *r, int status);
    /* Result, valid from done() until quorum_read_free(). Per block; data NULL for none and zero marks. */
    struct qblock {
        uint8_t kind; /* enum run_kind: NONE, DATA, ZERO */
        uint64_t vepoch, vseq, sum;
        const uint8_t *data; /* verified against sum */
    } *blocks;
    uint64_t pair_epoch, pair_seq, pair_size, pair_mtime;
    void *impl;
};
void quorum_read(struct quorum *q, struct qread *r);
void quorum_read_free(struct qread *r);

/*
 * The first chunk of [from, to) of an inode that any of those that have a say has anything of (PROTOCOL 4.10). It is a
 * way to pass by what is not there, not to learn what is. Caller's memory until done(). Errors: FENCED; any other: no
 * quorum of every group could be heard at once.
 */
struct qseek {
    uint64_t ino;
    uint32_t from, to;
    uint64_t barrier;
    void (*done)(struct qseek *s, int status);
    uint32_t next; /* @to: none */
};
void quorum_seek(struct quorum *q, struct qseek *s);
