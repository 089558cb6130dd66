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
    X(FATE,           17, "2.2: a client that was expired asks what became of its requests (off: repeats them)") \
    X(DAMAGE,         18, "1.5: a bad record before the synced mark is damage (off: a torn tail)") \
    X(LEADER_TTL,     19, "2.4: the leader waits 1.1 TTL (off: 0.9)")                          \
    X(TTL_ANEW,       20, "2.4: a new leader gives everybody a whole TTL (off: it counts as silent)") \
    X(CHANGE,         21, "2.5: attributes of an older change never replace newer ones (off: the later to come)") \
    X(OWN_CHANGE,     22, "2.5: nothing older than the own last mutation is cached (off: it is)") \
    X(CACHING_RIGHT,  23, "3.1: S is used while the caching right runs (off: while the session lives)") \
    X(GENERATION,     24, "3.1: a client caches under its own generation alone (off: under any)") \
    X(REAP_GRANT,     25, "3.1: nothing is granted on what is being reaped (off: it is)")      \
    X(GRANT_ID,       26, "3.2: a grant that was recalled is ignored when it comes (off: taken)") \
    X(RECALL_COUNTER, 27, "3.2: no answer older than the highest recall acknowledged is cached (off: it is)") \
    X(ACK_NUMBER,     28, "3.2: an acknowledgement counts for its recall alone (off: for any of that inode)") \
    X(BARRIER,        29, "4.6: a store with a map below the barrier fetches it first (off: answers)") \
    X(RECALL_LIMIT,   30, "3.4: a recall without progress expires the holder (off: it waits)") \
    X(COMMIT_GRANT,   31, "3.5: a commit of an X that has ended is refused (off: of the session's next X it is taken)") \
    X(RECOVERED_EPOCH, 32, "3.6: a recovered size counts for the ended epoch alone (off: for any)") \
    X(RECONCILED_EPOCH, 33, "3.6: the mark stays if an epoch was added meanwhile (off: it goes)") \
    X(RECONCILE_ALL,  34, "3.6: reconciliation is with every voter (off: with those that answer)") \
    X(SIZE_PAIR,      35, "4.7: a store keeps the size of the highest version (off: the last to come)") \
    X(ZERO_TAIL,      36, "4.8: what is sent past the size is zero (off: as it lies)")         \
    X(UNKNOWN,        37, "4.9: a block that cannot be read is no vote (off: it counts as none)") \
    X(TRIM_EPOCH,     38, "5.3: a trim removes blocks of lower epochs only (off: all behind the size)") \
    X(GC_ALL,         39, "5.4: a gc entry stays until every voter confirmed (off: until one did)") \
    X(START_COUNTER,  40, "6.1: a store that comes with a lower start counter is a newcomer (off: taken as it is)") \
    X(MAP_DURABLE,    41, "6.2: a map is durable before anything is answered under it (off: at once)") \
    X(BACKFILL_QUORUM, 42, "6.3: a newcomer copies from a quorum of C1 (off: from one)")       \
    X(CLEAN,          43, "7: clean is claimed when all voters acknowledged (off: whenever W did)") \
    X(OLDEST_EPOCH,   44, "3.6: the mark of an unclean inode is of the oldest epoch (off: the newest)") \
    X(HORIZON_COVER,  45, "5.1: an entry goes when a later one covers it (off: an earlier does)") \
    X(QUEUES_AT_ONCE, 46, "3.4: a request takes the queues of all its inodes at once (off: goes when first in one)") \
    X(HOLDER_PASSES,  47, "3.4: what the holder of X says of its inode passes the queue (off: waits in it)") \
    X(LOOK_PASSES,    48, "3.4: attributes are answered past what waits for a recall (off: behind it)") \
    X(EPOCH_AGAIN,    49, "3.7: X granted once more to its session has a new epoch (off: the same)") \
    X(REPAIR_EPOCH,   50, "6.4: what mends a block is refused below the PG's epoch (off: taken)") \
    X(ZERO_VERSION,   51, "5.2: a zero mark is a version like any other (off: as if nothing was written)") \
    X(MAP_QUIET,      52, "6.7: that a store is up or down raises no map epoch (off: it does)") \
    X(CLEAN_INTACT,   53, "7: one voter's answer is enough only from an intact index (off: any answer)") \
    X(CLEAN_READ,     54, "7: one voter's answer is enough for a clean file alone (off: for any)") \
    X(SEQ_ANEW,       55, "4.1: a changed block has a new version (off: that of the one before)") \
    X(SYNC_VALID,     56, "4.5: fsync succeeds only in a session that is valid afterwards (off: in any)") \
    X(REACH,          57, "4.7: no block bears a size above the committed reach (off: it does)") \
    X(TRUNCATE_ALONE, 58, "4.8: no block is sent while a truncate is under way (off: it is)") \
    X(ASK_NEXT,       59, "2.6: what is not answered goes to the next member, too (off: to the same)") \
    X(COMPARE,        60, "6.6: voters compare what they have (off: never)")               \
    X(SLOTS,          61, "3.4: what a recall needs has slots of its own (off: those of all)") \
    X(STORE_NAMED,    62, "6.1: a store refuses what is meant for another (off: answers)") \
    X(END_OF_X,       63, "3.5: X may be over when its end was sent (off: when that is answered)")
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

/*
 * Turn rules off, beside those that the environment variable TERCET_RULES_OFF (a mask) turns off in the whole program;
 * nothing in a build without them. TERCET_META_RULES_OFF, TERCET_FSM_RULES_OFF and TERCET_RAFT_RULES_OFF do the same to
 * the rules of these parts. `sim --list-rules` says the masks.
 */
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
