/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Switches that turn single rules of PROTOCOL off, so that the simulation can show that it would notice. Only in
 * builds with -Dtest_rules=true; in all others TC_RULE(x) is the constant true and costs nothing.
 */
#pragma once

#include "common/base.h"

/* clang-format off */
#define TC_TEST_RULES(X)                                                                       \
    X(WRITE_QUORUM,    0, "4.3: a write is done at W acknowledgements (off: at one)")          \
    X(READ_QUORUM,     1, "4.4: a read asks R voters (off: one)")                              \
    X(WRITE_BACK,      2, "4.4: a version not known on W is written back (off: never)")        \
    X(NEWER_WINS,      3, "4.3: a replica keeps the newer version (off: the later to come)")   \
    X(DURABLE_ACK,     4, "4.2: a replica acknowledges what is durable (off: what it received)") \
    X(FENCING,         5, "4.6: dead sessions are refused (off: served)")                      \
    X(HORIZON,         6, "5.1: bytes behind a horizon entry read zero (off: as stored)")      \
    X(RECALL_FLUSH,    7, "3.5: a recall is acknowledged after the flush (off: before)")       \
    X(FSYNC_DATA,      8, "4.5: fsync waits for the blocks (off: returns at once)")            \
    X(EXACTLY_ONCE,    9, "2.1: the reply of a retried mutation is kept (off: applied again)") \
    X(MASK_UNCLEAN,   10, "3.6: a read of an unclean inode writes what it found (off: plain)") \
    X(EXPIRY,         11, "2.3: a client without keepalives suspends itself (off: goes on)") \
    X(SHED,           12, "6.5: a newcomer drops what it has of a former time (off: keeps it)") \
    X(NEXT_QUORUM,    13, "4.3: in a transition W of C2 too acknowledge (off: W of C1 alone)") \
    X(NEWCOMER_READY, 14, "6.3: C2 stands when newcomers are complete (off: at once)")     \
    X(PG_EPOCH,       15, "4.6: requests below the epoch of the group are refused (off: served)") \
    X(JOIN_EPOCH,     16, "6.3: completeness is of this very epoch (off: of an earlier one too)") \
    X(FATE,           17, "2.2: a client that was expired asks what became of its requests (off: repeats them)")
/* clang-format on */

enum tc_test_rule { /* bits of the mask */
#define X(name, bit, text) TC_RULE_##name = (bit),
    TC_TEST_RULES(X)
#undef X
};

#ifdef TC_TEST_RULES_BUILD
extern uint64_t tc_test_rules_off;
#define TC_RULE(name) (!(tc_test_rules_off >> TC_RULE_##name & 1))
#else
#define TC_RULE(name) true
#endif

/* Turn rules off; nothing in a build without them. */
void tc_test_rules_set(uint64_t off);

#ifdef TC_TEST_RULES_BUILD
/*
 * Whether the sync at this place is to be left out: its name, "FILE:FUNCTION:EXPRESSION", is that in the environment
 * variable TERCET_SYNC_OFF. Names of places reached are appended once to the file TERCET_SYNC_LOG.
 */
bool tc_sync_off(const char *file, const char *function, const char *expression);
/* The number in environment variable @name, or @normal: sizes and times that make rare events frequent. */
uint64_t tc_test_value(const char *name, uint64_t normal);
#else
static inline uint64_t tc_test_value(const char *name TC_UNUSED, uint64_t normal)
{
    return normal;
}
#endif
