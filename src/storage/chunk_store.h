/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunk store: versioned, checksummed 4 KiB blocks of chunks on one disk (docs/DISK_FORMAT.md: storage node).
 *
 * The journal is the truth; the kv holds the index (and small chunks' data) as of some position in it; chunk
 * files hold the data of larger chunks. What write, trim and drop have reported done is durable, and only
 * what is durable is ever shown to a reader. All calls on the loop; completions run on the loop, never
 * from inside the call that asked for them.
 *
 * The store knows nothing of placement, sessions and maps: the server checks those first.
 */
#pragma once

#include "common/env.h"
#include "common/journal.h"
#include "common/kv.h"
#include "common/schema.h"

struct chunk_store;
struct chunk;

/* No padding: hashed and compared as bytes. */
struct chunk_key {
    uint64_t pg;
    uint64_t ino;
    uint32_t index;
    uint32_t gen;
};

struct chunk_pair { /* newest (size, mtime) and the version it belongs to; epoch 0: none */
    uint64_t vepoch, vseq;
    uint64_t size, mtime;
};

struct chunk_store_options {
    const char *dir;
    int (*kv_open)(void *arg, struct env *env, const char *path, struct kv **ret_kv); /* NULL: RocksDB */
    void *kv_arg;
    struct journal_options journal;
    bool used; /* it took part before: that its journal is not there is damage */
    uint64_t reserve_bytes, cache_bytes, pending_bytes; /* 0: defaults (server.h) */
    /* Blocks of a chunk were found damaged: unknown until repaired. From inside calls: take note, no more. */
    void (*damaged)(void *arg, const struct chunk_key *key);
    void *damaged_arg;
    /* The store failed for good; deferred, at most once. DAMAGED: the index or the journal is. */
    void (*fatal)(void *arg, int err, const char *why);
    void *fatal_arg;
    /* The disk hangs, or goes on: disk_error of the stats is another. From inside calls: take note, no more. NULL: none. */
    void (*hangs)(void *arg);
    void *hangs_arg;
};

/* Blocking. Errors: DAMAGED, VERSION, IO, NOSPC. */
TC_MUST_CHECK int chunk_store_open(struct env *env, const struct chunk_store_options *opt,
                                   struct chunk_store **ret_store);
/* No job may be running (chunk_store_busy). Accepts NULL. */
void chunk_store_close(struct chunk_store *cs);
/* Number of disk jobs and journal records in flight. */
uint32_t chunk_store_busy(const struct chunk_store *cs);

/* ---- writing ---------------------------------------------------------------------------------- */

/* Blocks [first, first+count) of one chunk under one version. Caller's memory until the op is done. */
struct chunk_write {
    struct chunk_key key;
    uint32_t first, count;
    uint64_t vepoch, vseq;
    uint32_t flags; /* enum write_flags */
    bool proven;    /* the version is the newest of a quorum: it may replace what is unknown here */
    struct chunk_pair pair;
    const uint8_t *sums; /* 8 bytes little-endian each; borrowed */
    const uint8_t *data; /* count x 4 KiB within the op's payload; NULL for zero marks */
    /* result */
    int status; /* 0: durable here at this version or a newer one; FENCED, VERSION_CLASH, NOSPC, ... */
    uint32_t new_blocks, freed_blocks; /* that hold data now and did not, and the other way round */
    uint64_t epoch; /* FENCED: the higher epoch found */
    /* the store's own */
    struct chunk *chunk;
    uint64_t file;
    uint8_t route;
};

struct chunk_write_op {
    struct chunk_write *items;
    uint32_t n;
    struct buf *payload; /* borrowed until done; kept by reference as long as the store needs it */
    void (*done)(struct chunk_write_op *op);
    /* the store's own */
    struct chunk_store *cs;
    struct chunk_write_op *prev, *next;
    struct env_task task;
    uint32_t left;
    uint64_t bytes;
};
void chunk_store_write(struct chunk_store *cs, struct chunk_write_op *op);

/* ---- reading ----------------------------------------------------------------------------------- */

struct chunk_block {
    uint64_t vepoch, vseq, sum;
    uint8_t kind; /* enum run_kind */
};

struct chunk_read {
    struct chunk_key key;
    uint32_t first, count;
    bool data;
    /* result, valid until chunk_read_op_fini() */
    int status;
    struct chunk_block *blocks; /* count of them */
    struct chunk_pair pair;
    /* the store's own */
    uint32_t payload_off, n_data;
};

struct chunk_read_op {
    struct chunk_read *items;
    uint32_t n;
    bool from_disk; /* not what memory has of the files: for a scrub */
    void (*done)(struct chunk_read_op *op);
    /* result: 4 KiB for each DATA block of the items that asked for data, in order; NULL if none */
    struct buf *payload;
    /* the store's own */
    struct chunk_store *cs;
    struct env_task task;
    struct chunk_block *blocks;
    uint32_t left, tries;
};
void chunk_store_read(struct chunk_store *cs, struct chunk_read_op *op);
/* Frees the results, the payload's reference among them. */
void chunk_read_op_fini(struct chunk_read_op *op);

/* ---- removing ----------------------------------------------------------------------------------- */

/* A trim is applied in one go. So many chunks are looked up one by one; in a wider one those are sought that there are,
 * which must be few: some thousand searches, whatever the file's size. */
#define TRIM_CHUNKS_MAX 1024

/* Blocks wholly at or past size, with a version epoch below epoch, of chunks [from, to) (PROTOCOL 5.3). */
struct chunk_trim_op {
    uint64_t ino, size, epoch, from, to;
    uint64_t gc_id; /* 0: none; else the durable gc cursor becomes this */
    uint32_t pg_count;
    void (*done)(struct chunk_trim_op *op, int status);
    void *owner; /* the caller's */
    /* the store's own */
    struct chunk_store *cs;
    struct journal_req req;
    uint8_t record[64];
    struct iovec iov;
};
/* An error at once: done() is not called. */
TC_MUST_CHECK int chunk_store_trim(struct chunk_store *cs, struct chunk_trim_op *op);
/* Are there at most TRIM_CHUNKS_MAX of these chunks? An error of the index: no. */
bool chunk_store_few(struct chunk_store *cs, uint64_t ino, uint64_t from, uint64_t to, uint32_t pg_count);
uint64_t chunk_store_gc_cursor(const struct chunk_store *cs);
/* The inode is gone for good, and its trim follows: what is written to it from now on comes too late, from a writer that
 * gave up or a copy that was under way, and is FENCED. Remembered for the newest some ten thousands, and in this life. */
void chunk_store_removed(struct chunk_store *cs, uint64_t ino);

/* Forget a chunk wholly: its inode is gone, or this store is no voter of it any more. */
struct chunk_drop_op {
    struct chunk_key key;
    void (*done)(struct chunk_drop_op *op, int status);
    void *owner; /* the caller's */
    struct chunk_store *cs;
    struct journal_req req;
    uint8_t record[64];
    struct iovec iov;
};
TC_MUST_CHECK int chunk_store_drop(struct chunk_store *cs, struct chunk_drop_op *op);

/* ---- looking ------------------------------------------------------------------------------------ */

struct chunk_digest {
    struct chunk_key key;
    uint64_t digest; /* over versions, sums and the pair, wherever the bytes lie */
    uint32_t blocks; /* of data */
    bool damaged;    /* something in it is unknown here */
};
/* Up to *n digests of @pg behind @after (NULL: from the start), in key order. */
TC_MUST_CHECK int chunk_store_manifest(struct chunk_store *cs, uint64_t pg, const struct chunk_key *after,
                                       struct chunk_digest *items, uint32_t *n, bool *ret_eof);
/* NOENT: no such chunk. UNKNOWN_BLOCK: its index entry was damaged, and is not whole again. */
TC_MUST_CHECK int chunk_store_pair(struct chunk_store *cs, const struct chunk_key *key, struct chunk_pair *ret_pair);

/* Up to *n indexes, ascending, of the inode's chunks [from, to) that there are in one placement group. */
TC_MUST_CHECK int chunk_store_indexes(struct chunk_store *cs, uint64_t pg, uint64_t ino, uint32_t from, uint32_t to,
                                      uint32_t *indexes, uint32_t *n);
/* The same of those that are in the kv, and the first chunk, of any group, whose row is in memory alone (@to: none): together they miss
 * none, if memory is looked at first, and cost no flush for each group. */
TC_MUST_CHECK int chunk_store_stored(struct chunk_store *cs, uint64_t pg, uint64_t ino, uint32_t from, uint32_t to,
                                     uint32_t *indexes, uint32_t *n);
uint32_t chunk_store_in_memory(const struct chunk_store *cs, uint64_t ino, uint32_t from, uint32_t to);

/* How many blocks of the chunk are unknown here; @ret_bare: of them, those of which not even the version is. */
uint32_t chunk_store_unknown(struct chunk_store *cs, const struct chunk_key *key, uint32_t *ret_bare);
/* No writer's acknowledgement can be under way on this chunk: forget which versions its unknown blocks had, so that
 * what a quorum has may take their place, even if it is older (PROTOCOL 4.9). */
void chunk_store_forget_unknown(struct chunk_store *cs, const struct chunk_key *key);
/* A quorum says that these blocks (of 256) were never written: those unknown without a version become none. */
void chunk_store_absent(struct chunk_store *cs, const struct chunk_key *key, const bool *absent);

/* Read the index as it is on disk: 0 or DAMAGED, or why it cannot be said. Blocking, in a job. */
TC_MUST_CHECK int chunk_store_check_index(struct chunk_store *cs);

/*
 * The totals are counted anew from the rows: an older version, or a row that was damaged, may have left them wrong. begin
 * and end on the loop, run in a job between them; end before chunk_store_close().
 */
struct chunk_recount {
    struct kv_snapshot *snap;
    uint64_t chunks, blocks, found_chunks, found_blocks;
    bool whole;
};
void chunk_store_recount_begin(struct chunk_store *cs, struct chunk_recount *rc);
void chunk_store_recount_run(struct chunk_store *cs, struct chunk_recount *rc);
void chunk_store_recount_end(struct chunk_store *cs, struct chunk_recount *rc);

/* Something on the disk could not be read or written: for chunk_store_stats. */
void chunk_store_disk_error(struct chunk_store *cs);
/* Read the journal from @from, a chunk_store_journal_begin(): the position of a record that is damaged on disk, or 0. In
 * a job. */
uint64_t chunk_store_check_journal(struct chunk_store *cs, uint64_t from);
uint64_t chunk_store_journal_begin(const struct chunk_store *cs);
/* Bring all that the journal holds to its place, and give up the segments it is in now. */
void chunk_store_renew_journal(struct chunk_store *cs);

struct chunk_store_stats {
    uint64_t chunks, blocks;   /* in use */
    uint64_t total, free;      /* bytes of the disk; free is above the reserve */
    uint64_t pending_bytes;    /* data only in the journal */
    uint64_t cache_bytes;      /* of the index */
    uint64_t corrupt;          /* blocks found damaged since the start */
    uint64_t repaired;         /* and given good contents again */
    uint64_t writes, reads;    /* items */
    uint64_t unreadable;       /* blocks that the disk did not give: of those found damaged */
    bool disk_error;
};
void chunk_store_stats(const struct chunk_store *cs, struct chunk_store_stats *ret_stats);

/* Merge and checkpoint now; for tests and an orderly stop. */
void chunk_store_checkpoint(struct chunk_store *cs);
