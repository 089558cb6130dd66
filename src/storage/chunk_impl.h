/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the chunk store share.
 *
 *   write ─► journal (with data) ──────────────► applied: index in memory, data pending ─┐
 *     └────► chunk file ─► sync ─► journal ────► applied: index in memory                │
 *                                                          merge round ◄─────────────────┘
 *                                  pending data into files (synced) or the kv, index into the kv, then the
 *                                  position up to which all of that is complete; a kv flush; journal trim
 *
 * Invariants:
 *  - a chunk in memory is as of the records applied; records are applied in journal order, when durable;
 *  - an index entry in the kv may be newer than the kv's position: applying the records behind it again
 *    changes nothing but to attach data to blocks whose place is the journal;
 *  - a file's block is overwritten only by data that the journal holds, and while it is being
 *    overwritten, readers take the pending copy;
 *  - a chunk that is dirty, referenced or has pending data is never evicted.
 */
#pragma once

#include <uthash.h>
#include <utlist.h>

#include "storage/chunk_store.h"

#define PACKED_BLOCKS 16          /* chunks up to this many blocks stay in the kv */
#define DIRECT_BLOCKS 32          /* writes of at least this many fresh blocks go straight to the file */
#define FILE_NUMBERS_LOST 65536   /* at most so many were given out in a life and not recorded */
#define FILE_DIRS 16              /* directories under data/ */
#define FILES_OPEN_MAX 2048       /* handles kept */
#define BULK_BLOCKS 64            /* reads from this size on may go past the page cache */
#define BULK_SLOTS 4096
#define NOWAIT_BLOCKS 16          /* reads up to this size are tried on the loop first: a thread costs more */
#define SYNC_JOBS_MAX 8           /* file syncs at once */
#define MERGE_JOBS_MAX 4          /* merging chunks at once */
#define RECORD_BYTES_MAX (2u << 20) /* data of one journal record, about */

enum place { PLACE_NONE = 0, PLACE_JOURNAL = 1, PLACE_KV = 2, PLACE_FILE = 3 };
enum route { ROUTE_NONE = 0, ROUTE_JOURNAL, ROUTE_DIRECT };

struct block {
    uint64_t vepoch, vseq, sum;
    uint8_t kind;  /* enum run_kind */
    uint8_t place; /* enum place: where the bytes of DATA are */
};

struct pending { /* data of a block whose place is the journal */
    struct buf *buf;
    const uint8_t *data;
};

struct chunk_file { /* an open handle; the chunk holds one reference, each job one */
    struct vfs_file *f;
    struct chunk *chunk; /* NULL: no longer the chunk's */
    uint32_t refs;
    uint32_t sync_errors;
    bool syncing;
    struct chunk_file *prev, *next; /* LRU while the chunk's */
};

struct chunk {
    struct chunk_key key;
    UT_hash_handle hh;
    struct chunk *prev, *next; /* LRU */
    uint32_t refs;
    uint32_t n;    /* blocks known: those behind are NONE */
    uint32_t cap;
    struct block *blocks;
    struct pending *pend; /* cap of them, or NULL */
    uint32_t n_pend;
    struct chunk_pair pair;
    uint64_t file;      /* number of the chunk's file, never reused; 0: none */
    uint16_t kv_have;   /* packed blocks that have a row in the kv */
    bool exists_kv;     /* has a row in the kv ... */
    bool counted_kv;    /* ... which says that something is there (else: a file, being written) ... */
    uint32_t blocks_kv; /* ... and counts so many data blocks */
    bool file_durable;  /* the file's name is */
    bool dirty;         /* differs from its row, or has pending data */
    bool merge_filed;   /* this round put its pending data in the file */
    bool merge_wait;    /* a round waits for direct writes to end */
    uint32_t direct_n;  /* direct writes under way ... */
    uint64_t direct_bits[4]; /* ... on these blocks */
    struct chunk_file *fh;
};

struct sync_req { /* a file (and its directory's entry) to be made durable */
    struct chunk_file *fh;
    uint32_t errors_before; /* of the file's syncs, when writing began: sync_begin() */
    int dir; /* index, -1: the name is durable */
    void (*done)(struct sync_req *r);
    int status;
    int file_status;
    uint32_t left;
    struct chunk_store *cs;
    struct env_job job;
    struct sync_req *prev, *next; /* file queue */
    struct sync_req *dir_next; /* directory queue */
};

struct dir_sync {
    struct chunk_store *cs;
    struct env_job job;
    bool running;
    int status;
    struct sync_req *waiting, *served;
};

struct unlink_work { /* a file that is no chunk's any more; gone before the kv's position passes */
    struct chunk_key key;
    uint64_t file;
    struct unlink_work *prev, *next;
};

/* chunk_watch.c */
enum watched { WATCH_SYNCS, WATCH_FILES, WATCHED, WATCH_NONE = WATCHED };
struct watch_kind { /* times are those of the watch's clock */
    uint32_t asked;  /* and not ended: not counting the probe */
    bool probing;
    uint64_t ended_at;  /* when one ended last, or the first of those asked for was; the probe counts ... */
    uint64_t own_at;    /* ... and not */
    uint64_t probed_at; /* the probe was asked for */
    struct {
        uint64_t ns, at; /* so long none ended, and then one did, at this env_now() */
    } slow[2]; /* the longest times lately, while the other kind did end */
    uint64_t long_at;   /* it ended last after OTHER_NS or more; 0: never */
    struct env_queue queue;
    struct env_job job;
};
struct watch {
    struct watch_kind kinds[WATCHED];
    uint64_t clock; /* time while this process could see what ends ... */
    uint64_t last;  /* ... as of this env_now() */
    struct env_timer timer;
    bool hangs;
    struct vfs_file *file, *direct; /* `probe`, to write and to read; NULL: there is none */
    void *block;
};

struct merge;
struct sweep;
enum { REMOVED_SLOTS = 32768 }; /* 256 KiB */

struct chunk_store {
    struct env *env;
    struct vfs *vfs;
    struct chunk_store_options opt;
    char *dir, *kv_dir, *journal_dir;
    char *file_dirs[FILE_DIRS];
    struct kv *kv;
    struct kv_batch *batch;
    struct journal *journal;
    struct env_queue disk;  /* parallel: reads, writes, merges */
    struct env_queue syncs; /* parallel */
    struct env_queue maintenance; /* serial: kv flush, space */
    uint32_t busy;
    bool failed;
    int fail_err;
    const char *fail_why;
    struct env_task fail_task;

    struct chunk *chunks; /* hash */
    struct chunk *lru;
    uint64_t cache_bytes;
    uint64_t n_chunks, n_blocks;       /* now */
    uint64_t n_chunks_kv, n_blocks_kv; /* as the kv's rows say */

    uint64_t applied; /* every record below is applied */
    uint64_t gc_cursor;

    struct chunk **dirty;
    uint32_t n_dirty, cap_dirty;
    uint64_t pending_bytes;  /* applied, not merged */
    uint64_t inflight_bytes; /* taken in, not applied */
    struct chunk_write_op *stalled;
    uint64_t stalled_bytes;

    uint64_t file_last; /* highest file number used */
    struct unlink_work *unlinks;
    struct chunk_file *files; /* LRU, oldest first */
    uint32_t n_files;
    struct sync_req *sync_queue;
    uint32_t sync_jobs;
    struct dir_sync dirs[FILE_DIRS];

    struct merge *merge; /* the round, NULL: none */
    struct env_timer merge_timer;
    uint64_t last_write, last_merge; /* times */
    bool checkpoint_wanted;
    uint64_t flushed; /* position of the last flush */

    struct sweep *sweep;
    uint64_t removed[REMOVED_SLOTS]; /* inodes by hash; 0: none */
    uint64_t bulk_read[BULK_SLOTS];  /* hashes of chunks that were read past the page cache; 0: none */
    struct env_timer space_timer;
    struct env_job space_job;
    uint64_t space_total, space_free, space_new_total, space_new_free;
    uint64_t space_taken; /* since space_free was measured */
    uint64_t short_since; /* time since when writes find no space; 0: they do */
    uint64_t reserve;

    uint64_t corrupt, repaired, writes, reads;
    uint64_t unreadable;     /* blocks that the disk did not give */
    uint64_t unreadable_low; /* as many were so when the hour began ... */
    uint64_t hour;           /* ... at this time */
    bool disk_error;
    struct watch watch;
};

/* chunk_store.c */
void cs_fail(struct chunk_store *cs, int err, const char *why);
void cs_apply_pos(struct chunk_store *cs, uint64_t end);
void cs_damaged(struct chunk_store *cs, const struct chunk_key *key);
void cs_unreadable(struct chunk_store *cs, uint32_t blocks); /* chunk_damage.c */
/* 0: taken. BACKPRESSURE: what was removed may still be going. NOSPC. */
TC_MUST_CHECK int cs_no_space(struct chunk_store *cs, uint64_t bytes, bool rewrite);

/* chunk_index.c */
/* An error of the index's store, as what asked for a row returns it. */
int cs_kv_trouble(struct chunk_store *cs, int r);
void chunk_grow(struct chunk_store *cs, struct chunk *c, uint32_t n); /* room for @n blocks */
struct block *chunk_block_at(struct chunk_store *cs, struct chunk *c, uint32_t b); /* grows */
struct block chunk_block_get(const struct chunk *c, uint32_t b);
/* References the chunk (loads it); @create: makes an empty one. NOENT else. */
TC_MUST_CHECK int chunk_get(struct chunk_store *cs, const struct chunk_key *key, bool create, struct chunk **ret_chunk);
void chunk_put(struct chunk_store *cs, struct chunk *c);
void chunk_mark_dirty(struct chunk_store *cs, struct chunk *c);
bool chunk_is_empty(const struct chunk *c);
void chunk_pend_set(struct chunk_store *cs, struct chunk *c, uint32_t b, struct buf *buf, const uint8_t *data);
void chunk_pend_drop(struct chunk_store *cs, struct chunk *c, uint32_t b);

/* chunk_rows.c */

#define CHUNK_KEY_BYTES 19
/* The key of @k in @table ('c', 'd'); @p has CHUNK_KEY_BYTES. And back. */
void chunk_key_put(uint8_t *p, char table, const struct chunk_key *k);
void chunk_key_get(const uint8_t *p, struct chunk_key *k);
/* Fill @c, whose key is set, from its row; false: the row does not check. */
bool chunk_row_decode(struct chunk_store *cs, struct chunk *c, const uint8_t *p, size_t n);
uint32_t chunk_data_blocks(const struct chunk *c);
bool chunk_any_in_file(const struct chunk *c);
/* Put the chunk's row (or its removal) in the batch; packed data that is pending too if @data. */
void chunk_row_put(struct chunk_store *cs, struct chunk *c, bool data);
void cs_meta_put(struct chunk_store *cs, bool with_pos, uint64_t pos);
TC_MUST_CHECK int cs_meta_load(struct chunk_store *cs, uint64_t *ret_pos);
TC_MUST_CHECK int chunk_packed_read(struct chunk_store *cs, const struct chunk_key *key, uint32_t b, uint8_t *to);
void chunk_free_all(struct chunk_store *cs);
void chunk_evict(struct chunk_store *cs);

/* chunk_file.c */
void chunk_file_path(const struct chunk_store *cs, const struct chunk_key *key, uint64_t file, char *to, size_t n);
int chunk_file_dir(const struct chunk_key *key);
struct chunk_file *chunk_file_ref(struct chunk *c); /* NULL: not open */
/* A job opened @f: make it the chunk's handle if @file is still its file. Returns a reference. */
struct chunk_file *chunk_file_adopt(struct chunk_store *cs, struct chunk *c, uint64_t file, struct vfs_file *f);
void chunk_file_unref(struct chunk_store *cs, struct chunk_file *fh);
void chunk_file_forget(struct chunk_store *cs, struct chunk *c); /* the chunk lets go of its handle */
void chunk_file_retire(struct chunk_store *cs, struct chunk *c); /* and of its file, which is to be removed */
void chunk_file_keep(struct chunk_store *cs, const struct chunk_key *key, uint64_t file); /* but not this one */
void sync_begin(struct sync_req *r, const struct chunk_file *fh); /* before anything is written; NULL: not open yet */
void sync_submit(struct chunk_store *cs, struct sync_req *r);
void cs_job(struct chunk_store *cs, struct env_queue *q, struct env_job *j);
void cs_job_done(struct chunk_store *cs, struct env_job *j);
/* Every req->done() begins with cs_append_done(). */
TC_MUST_CHECK int cs_append(struct chunk_store *cs, const struct iovec *iov, int n, struct journal_req *req);
void cs_append_done(struct chunk_store *cs);

/* chunk_write.c */
void write_resume(struct chunk_store *cs); /* stalled ops, when memory is free again */

/* chunk_record.c: applying records; used by the live path and by replay alike */
struct rec_item {
    struct chunk_key key;
    uint32_t first, count;
    uint64_t vepoch, vseq;
    struct chunk_pair pair;
    uint64_t file;
    bool zero, inl;
    const uint8_t *sums;
};
enum { REC_WRITE = 1, REC_TRIM = 2, REC_DROP = 3 };
#define REC_HEAD 8
#define REC_ITEM 80
void rec_put_head(uint8_t *p, uint8_t type, uint16_t n);
void rec_put_item(uint8_t *p, const struct rec_item *it);
/* Applies to @c; data is of the item's first block, within @buf (NULL: in the file). Returns new blocks. */
uint32_t rec_apply(struct chunk_store *cs, struct chunk *c, const struct rec_item *it, struct buf *buf,
                   const uint8_t *data);
size_t rec_put_trim(uint8_t *p, const struct chunk_trim_op *op);
size_t rec_put_drop(uint8_t *p, const struct chunk_key *key);
void chunk_trim_one(struct chunk_store *cs, struct chunk *c, uint64_t size, uint64_t epoch);
void chunk_drop_one(struct chunk_store *cs, struct chunk *c);
/* Some of it was taken away; @was_empty: it had nothing before. Counts, and drops a file without data. */
void chunk_changed(struct chunk_store *cs, struct chunk *c, bool was_empty);
int rec_replay(void *arg, uint64_t pos, struct slice rec);

/* chunk_merge.c */
void merge_kick(struct chunk_store *cs);
void merge_unblock(struct chunk_store *cs, struct chunk *c);
/* Put the rows of one placement group that the round has taken and not put yet in the batch. Returns whether there are any. */
bool merge_rows_put(struct chunk_store *cs, uint64_t pg);
uint32_t merge_first_of(const struct chunk_store *cs, uint64_t ino, uint32_t from, uint32_t to); /* of them; @to: none */
void merge_timer_fire(struct env_timer *t);
void merge_free(struct chunk_store *cs);

/* chunk_watch.c */
void watch_open(struct chunk_store *cs);
void watch_files(struct chunk_store *cs); /* blocking: makes what is asked for in doubt */
void watch_close(struct chunk_store *cs);
void watch_begin(struct chunk_store *cs, enum watched kind);
void watch_end(struct chunk_store *cs, enum watched kind);

/* chunk_sweep.c */
void sweep_open(struct chunk_store *cs);
void sweep_close(struct chunk_store *cs);

int chunk_rows_of(struct chunk_store *cs, uint64_t pg, uint64_t ino, uint32_t from, uint32_t to,
                  bool (*see)(void *arg, uint32_t index), void *arg); /* chunk_index.c */

/* chunk_trim.c */
bool was_removed(const struct chunk_store *cs, uint64_t ino);
int trim_apply(struct chunk_store *cs, const struct chunk_trim_op *op);
int trim_parse(const uint8_t *p, size_t n, struct chunk_trim_op *ret_op);
