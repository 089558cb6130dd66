/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The advisory locks of one inode: byte ranges (fcntl, OFD) and whole files (flock), as POSIX and flock(2) define them.
 * The metadata state machine keeps such a table per inode, and so does a client for its own (PROTOCOL 9.2).
 *
 * Invariant: the ranges that one owner holds in one family do not overlap, and those of one type do not touch.
 */
#pragma once

#include "common/schema.h"

#define LOCKS_MAX 4096u       /* per inode */
#define LOCK_END UINT64_MAX   /* to the end of the file, wherever that is */

/* Locks of one family do not see those of the other, as on Linux. */
enum lock_family { LOCK_RANGES = 0, LOCK_FLOCK = 1 };
enum lock_type { LOCK_UNLOCK = 0, LOCK_SHARED = 1, LOCK_EXCLUSIVE = 2 };

struct file_lock {
    uint64_t session; /* 0 in the table of a client */
    uint64_t owner;   /* within the session: a process, or an open file */
    uint64_t start, end; /* first and last byte */
    uint32_t pid;        /* for F_GETLK */
    uint8_t family, type;
};

struct lock_table {
    struct file_lock *locks; /* in no order that means anything */
    uint32_t n, cap;
};

void locks_fini(struct lock_table *t);
/* Are the values ones that a lock can have? */
bool lock_valid(const struct file_lock *l);
/* As messages have it. What does not fit there is no lock_valid() one here. */
struct lock_item lock_to_item(const struct file_lock *l);
struct file_lock lock_of_item(const struct lock_item *it, uint64_t session);
/* A lock of another owner that @want cannot be beside; NULL: none. An unlock conflicts with nothing. */
const struct file_lock *locks_conflict(const struct lock_table *t, const struct file_lock *want);
/* What the owner has in that range becomes @set. No conflict is looked for. LIMIT: the table would be too
 * large, and is as it was; never for an unlock of everything. */
TC_MUST_CHECK int locks_set(struct lock_table *t, const struct file_lock *set);
/* One more, which overlaps none of its owner's: to build a table from what another one had. */
void locks_add(struct lock_table *t, const struct file_lock *l);
/* All of one session go. */
void locks_drop_session(struct lock_table *t, uint64_t session);
/* Has the owner any of this family? */
bool locks_owned(const struct lock_table *t, uint64_t session, uint64_t owner, enum lock_family family);
