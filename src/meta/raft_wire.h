/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raft's messages on the wire: one table for all types (unused fields are zero and take no room), the
 * entries of an append or the piece of a snapshot as payload. MSG_RAFT, always a notice.
 *
 * Payload of an append: per entry term u64, type u32, length u32 (little-endian), then its bytes. The
 * payload's XXH3 is in the body, whose own checksum is in the frame's header.
 */
#pragma once

#include "common/wire.h"
#include "raft/raft.h"

#define RAFT_WIRE(F, S, L)                                                                     \
    F(u32, type, 1, true)                                                                      \
    F(u64, from, 2, true)                                                                      \
    F(u64, to, 3, true)                                                                        \
    F(u64, term, 4, true)                                                                      \
    F(u64, incarnation, 5, false)                                                              \
    F(u64, ask_term, 6, false) /* votes: the term asked for */                                 \
    F(u64, last_index, 7, false) /* votes, TimeoutNow */                                       \
    F(u64, last_term, 8, false)                                                                \
    F(boolean, transfer, 9, false)                                                             \
    F(boolean, granted, 10, false)                                                             \
    F(u64, prev_index, 11, false)                                                              \
    F(u64, prev_term, 12, false)                                                               \
    F(u64, commit, 13, false)                                                                  \
    F(u64, sent_at, 14, false) /* the leader's own clock: only it reads the echo */            \
    F(u32, n, 15, false)                                                                       \
    F(u64, match, 16, false)                                                                   \
    F(u64, hint_index, 17, false)                                                              \
    F(u64, hint_term, 18, false)                                                               \
    F(boolean, reject, 19, false)                                                              \
    F(u64, snap_id, 20, false)                                                                 \
    F(u64, snap_index, 21, false)                                                              \
    F(u64, snap_term, 22, false)                                                               \
    F(u64, offset, 23, false)                                                                  \
    F(bin, config, 24, false)                                                                  \
    F(boolean, last, 25, false)                                                                \
    F(boolean, done, 26, false)                                                                \
    F(boolean, failed, 27, false)                                                              \
    F(u64, payload_sum, 28, false)                                                             \
    F(str, endpoint, 29, false) /* where the sender is, for a member that may not know it */   \
    F(u64, read_id, 30, false)                                                                 \
    F(u64, read_index, 31, false)
WIRE_DECLARE(raft_wire, RAFT_WIRE)

enum { RAFT_WIRE_ENTRY_HEADER = 16 };

/* Returns: *ret_payload is a new reference or NULL. @endpoint: the sender's, or NULL. */
struct buf *raft_wire_encode(const struct raft_msg *m, uint64_t cluster, const char *endpoint,
                             struct buf **ret_payload);

/* A decoded message borrows from body and payload; its entries from *scratch, which the caller keeps
 * from call to call and frees. */
struct raft_wire_scratch {
    struct raft_entry *entries;
    uint32_t cap;
    struct raft_config config;
    struct wire_str endpoint; /* of the sender; n is 0 if it did not say */
};
/* Errors: BAD_MESSAGE. */
TC_MUST_CHECK int raft_wire_decode(struct slice body, const struct buf *payload,
                                   struct raft_wire_scratch *scratch, struct raft_msg *ret);
