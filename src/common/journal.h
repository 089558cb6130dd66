/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An append-only log of records in segment files, with group commit. The truth in front of a kv.
 *
 * Disk format: docs/DISK_FORMAT.md. Segments are written once (zero-filled) before use and recycled; a
 * record's checksum (XXH3) covers journal id, segment id and position, so an old record in a recycled
 * segment never passes. Each batch records up to which position earlier batches are known to be synced
 * (PROTOCOL 1.5): a bad record behind that is a torn tail and is cut; one before it is damage.
 *
 * Positions are u64, grow with every record, and survive restarts. All calls on the owner's loop.
 */
#pragma once

#include "common/env.h"

struct journal;

struct journal_options {
    uint64_t segment_bytes; /* 0: default 16 MiB. A record larger than a quarter of it is refused (LIMIT). */
    uint32_t spare_max;     /* recycled segments kept at most; 0: default 4 */
};

/* One append in flight. Zero-initialise, set done. Owned by the caller until done() is called. */
struct journal_req {
    void (*done)(struct journal_req *r, int status); /* 0: durable. Runs on the loop, in append order. */
    uint64_t pos;                                    /* set by journal_append */
    uint64_t end;                                    /* position behind the record */
    struct journal_req *next;                        /* the journal's own */
};

/* Called for each record in order, at open. Non-zero stops and fails the open with it. */
typedef int journal_replay_fn(void *arg, uint64_t pos, struct slice record);

/*
 * Open or create the journal in directory @dir and replay what it holds. Blocking; at start-up only.
 * Errors: DAMAGED (a bad record before the synced mark; *ret_damage_pos says where, may be NULL), VERSION, IO, NOSPC.
 */
TC_MUST_CHECK int journal_open(struct env *env, const char *dir, const struct journal_options *opt,
                               journal_replay_fn *replay, void *arg, uint64_t *ret_damage_pos,
                               struct journal **ret_journal);
/* Waits for nothing: requests in flight are finished with SHUTDOWN or never. Accepts NULL. */
void journal_close(struct journal *j);

/*
 * Append one record made of @n pieces; several appends of one turn become one write and one sync, and
 * appends that arrive while a sync runs share the next. The pieces are borrowed until done() (data is
 * not copied); small headers may be copied inside. Errors at once: LIMIT, BACKPRESSURE; later by done: IO, NOSPC.
 * After an IO error of a sync the journal is failed for good (what was written is unknown): every later append
 * gets IO, and the owner must restart. NOSPC before writing leaves it usable.
 */
TC_MUST_CHECK int journal_append(struct journal *j, const struct iovec *iov, int n, struct journal_req *r);

/* Read a record again. Blocking: in a job or at start-up. @ret_buf: new reference. */
TC_MUST_CHECK int journal_read(struct journal *j, uint64_t pos, struct buf **ret_buf, uint64_t *ret_next_pos);

/* Read all that is durable from @from, a journal_begin(): the position of a record that does not check, or 0. Blocking. */
uint64_t journal_check(struct journal *j, uint64_t from);
/* The next record begins a segment. */
void journal_rotate(struct journal *j);

/* Everything below @pos is no longer needed: segments wholly below it are recycled, in the background. */
void journal_trim(struct journal *j, uint64_t pos);

uint64_t journal_begin(const struct journal *j);   /* first position still kept */
bool journal_is_new(const struct journal *j);      /* there was none: this opening began it */
bool journal_is_whole(const struct journal *j);    /* it goes back to the first record ever */
uint64_t journal_end(const struct journal *j);     /* position the next record will get */
uint64_t journal_durable(const struct journal *j); /* everything below is synced */
/* Bytes between begin and end: what a restart would replay. */
uint64_t journal_bytes(const struct journal *j);
