/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ordered key-value map with atomic batches and a background checkpoint; the state behind a journal.
 *
 * Durability: there is NO write-ahead log. A write is visible at once and durable only after a
 * kv_flush() that began after it. After a crash the store is as of some batch at or after the last
 * completed flush; batches are never split and never reordered. So callers put the position up to which
 * they applied their journal into every batch, and replay the journal behind it.
 *
 * Keys compare as bytes (memcmp order). Implementations: RocksDB (kv_rocks.c), and in memory
 * (kv_mem.c: flush writes the whole map through a vfs; for simulation and tests).
 *
 * Threading: batches, gets and iterators from one thread (the owner's loop); kv_flush() and everything
 * on a kv_snapshot may run on disk threads meanwhile.
 */
#pragma once

#include "common/buf.h"
#include "common/error.h"
#include "common/vfs.h"

struct kv;
struct kv_batch;
struct kv_iter;
struct kv_snapshot;

struct kv_options {
    uint64_t cache_bytes;  /* block cache, 0: default 64 MiB */
    uint64_t buffer_bytes; /* memtable, 0: default 32 MiB */
};

/* A value as found; free with kv_value_free(). Zero-initialise. */
struct kv_value {
    const uint8_t *data;
    size_t len;
    void *impl;
};

/* Open or create the store in directory @path. Errors: IO, DAMAGED, LOCKED_DIR, VERSION, NOSPC. */
TC_MUST_CHECK int kv_open_rocks(const char *path, const struct kv_options *opt, struct kv **ret_kv);
TC_MUST_CHECK int kv_open_mem(struct vfs *vfs, const char *path, struct kv **ret_kv);
/* Accepts NULL. Does not flush. */
void kv_close(struct kv *kv);

/* NOENT if absent. Memory of *ret_value is valid until kv_value_free(). */
TC_MUST_CHECK int kv_get(struct kv *kv, struct slice key, struct kv_value *ret_value);
void kv_value_free(struct kv_value *v);

/* A reusable batch. */
struct kv_batch *kv_batch_new(struct kv *kv);
void kv_batch_free(struct kv_batch *b);
void kv_batch_clear(struct kv_batch *b);
void kv_batch_put(struct kv_batch *b, struct slice key, struct slice value);
void kv_batch_del(struct kv_batch *b, struct slice key);
/*
 * Removes @key, which was put exactly once since it was last absent (so never written over), and is never removed by
 * kv_batch_del(). Then the removal leaves with the value: what comes and goes in great numbers does not pile up marks that
 * iterators have to step over.
 */
void kv_batch_del_once(struct kv_batch *b, struct slice key);
/* Removes all keys in [from, to). */
void kv_batch_del_range(struct kv_batch *b, struct slice from, struct slice to);
size_t kv_batch_count(const struct kv_batch *b);
/* Apply all of @b atomically and clear it. Errors: IO, NOSPC (nothing was applied). */
TC_MUST_CHECK int kv_write(struct kv *kv, struct kv_batch *b);

/* Iterate in key order over [from, to) (to.data NULL: no bound) as of now. @snap may be NULL. */
struct kv_iter *kv_iter_new(struct kv *kv, struct kv_snapshot *snap, struct slice from, struct slice to);
void kv_iter_free(struct kv_iter *it);
bool kv_iter_valid(struct kv_iter *it);
void kv_iter_next(struct kv_iter *it);
void kv_iter_seek(struct kv_iter *it, struct slice key); /* first key >= key within the bounds */
struct slice kv_iter_key(struct kv_iter *it);            /* borrowed until next/seek/free */
struct slice kv_iter_value(struct kv_iter *it);
/* 0, or the error that ended the iteration early. */
TC_MUST_CHECK int kv_iter_error(struct kv_iter *it);

/* A consistent view, for exports from a disk thread. */
struct kv_snapshot *kv_snapshot_new(struct kv *kv);
void kv_snapshot_free(struct kv *kv, struct kv_snapshot *s);

/* Make durable everything written before the call. Blocking: run it in a job. One at a time. */
TC_MUST_CHECK int kv_flush(struct kv *kv);

/* Read all of it as it is on disk. 0, DAMAGED, or the error that kept it from being read. Blocking: run it in a job. */
TC_MUST_CHECK int kv_check(struct kv *kv);

/* Approximate bytes on disk, in memory, and of what was written and is not on disk yet. From the owner's loop; cheap. */
struct kv_stats {
    uint64_t disk, memory, unflushed;
};
void kv_stats(struct kv *kv, struct kv_stats *ret);

/* Remove the store in @path entirely (before an import). Must not be open. */
TC_MUST_CHECK int kv_destroy_rocks(const char *path);
TC_MUST_CHECK int kv_destroy_mem(struct vfs *vfs, const char *path);
