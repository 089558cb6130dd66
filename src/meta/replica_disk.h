/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small files of a replica, blocking (start-up and disk jobs):
 *
 *  state-a, state-b   term and vote (PROTOCOL 1.1, 1.5). Each change writes and syncs both, one after the
 *                     other, so at any time at least one holds the newest that was promised.
 *  base               what of the log is dropped, and the numbers of the directories that count.
 *                     Replaced by rename.
 */
#pragma once

#include "common/vfs.h"
#include "raft/raft.h"

struct replica_state {
    uint64_t seq; /* of writing; the higher of the two files counts */
    uint64_t id;
    uint64_t cluster; /* tag; 0 not known yet */
    uint64_t incarnation;
    uint64_t term, vote;
};

/* Makes the two alike if one is not readable or older. Errors: NOENT (never written), DAMAGED (written, and neither is
 * readable), VERSION, IO. */
TC_MUST_CHECK int replica_state_read(struct vfs *vfs, const char *dir, struct replica_state *ret);
/* Reads only. An error: neither is readable. */
TC_MUST_CHECK int replica_state_check(struct vfs *vfs, const char *dir, struct replica_state *ret, bool *ret_one_bad);
TC_MUST_CHECK int replica_state_write(struct vfs *vfs, const char *dir,
                                      const struct replica_state *s);

struct replica_base {
    uint64_t kv_gen, log_gen; /* kv-N, log-N */
    uint64_t index, term;     /* of the last entry dropped; 0: none */
    struct raft_config config; /* as of index */
};

/* NOENT leaves *ret as of a new directory. Errors: NOENT, DAMAGED, VERSION, IO. */
TC_MUST_CHECK int replica_base_read(struct vfs *vfs, const char *dir, struct replica_base *ret);
TC_MUST_CHECK int replica_base_write(struct vfs *vfs, const char *dir,
                                     const struct replica_base *b);

/* The highest N of the names @prefix-N in @dir; 0 if there are none. */
TC_MUST_CHECK int replica_dir_last(struct vfs *vfs, const char *dir, const char *prefix,
                                   uint64_t *ret_last);
/* Remove the directory @path and the plain files in it, as well as that goes. */
void replica_dir_remove(struct vfs *vfs, const char *path);
/* Remove all directories @prefix-N in @dir but that of @keep. */
void replica_dir_clean(struct vfs *vfs, const char *dir, const char *prefix, uint64_t keep);
