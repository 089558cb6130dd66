/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole store as one stream of bytes, for snapshots: a header, every key and value, and at the end their
 * count and a checksum of all of it. Blocking: for disk threads.
 *
 * Form: magic "TCKD", version u32; per pair key length u32, value length u32, key, value; then
 * u32 0xffffffff, u32 0, count u64, XXH3-64 of everything before it. Little-endian.
 */
#pragma once

#include <stdatomic.h>

#include "common/kv.h"
#include "common/vfs.h"

/* Write the view @snap of @kv to @f from its start; not synced. Stops with CANCELLED when *cancel is set;
 * @kv is touched only while @lock is held (let go between batches), so that who sets *cancel and then
 * takes the lock may close the kv. Errors: IO, NOSPC, CANCELLED. */
TC_MUST_CHECK int kv_dump_write(struct kv *kv, struct kv_snapshot *snap, struct vfs_file *f,
                                atomic_bool *cancel, void *lock, uint64_t *ret_size);

/* One piece of a dump that somebody else puts together: rows of @snap from key @from on (NULL: the first), about @max
 * bytes or one row. *ret_rows: a new reference, perhaps of none; *ret_next: the key to go on from, NULL: these were the last. */
TC_MUST_CHECK int kv_dump_piece(struct kv *kv, struct kv_snapshot *snap, const struct buf *from, size_t max,
                                struct buf **ret_rows, struct buf **ret_next, uint64_t *ret_count);

/* Is the stream of @size bytes in @f whole? Errors: DAMAGED, IO. */
TC_MUST_CHECK int kv_dump_check(struct vfs_file *f, uint64_t size);

/* Check the stream of @size bytes in @f from end to end, then put its pairs into @kv, which is empty.
 * Not flushed. @check: false in tests only, the checksum is not looked at. Errors: DAMAGED, VERSION, IO, NOSPC. */
TC_MUST_CHECK int kv_dump_load(struct vfs_file *f, uint64_t size, bool check, struct kv *kv);
