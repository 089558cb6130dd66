/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What leases.c and lease_queue.c share. For nobody else.
 */
#pragma once

#include "meta/leases.h"

struct lease_inode {
    uint64_t ino;
    struct lease_ref *refs;
    struct lease_slot *queue;
    struct lease_recall *recovery; /* waiters of LEASE_WAIT_RECOVERY */
    bool reaping;
    UT_hash_handle hh;
};

struct leases {
    uint64_t term;
    uint64_t recall_counter, grant_counter;
    uint32_t n_refs;
    struct lease_inode *inodes;
    struct lease_op *ready;
};

struct lease_inode *lease_inode_find(struct leases *l, uint64_t ino);
struct lease_inode *lease_inode_get(struct leases *l, uint64_t ino);
/* Frees it if nothing needs it any more. */
void lease_inode_put(struct leases *l, struct lease_inode *i);
void lease_ref_recalled(struct leases *l, struct lease_ref *r, const struct lease_item *item, bool all);
/* Its waiters are told; out of its session's list; freed. */
void lease_recall_complete(struct leases *l, struct lease_recall *c);
void lease_recall_free(struct lease_recall *c);
