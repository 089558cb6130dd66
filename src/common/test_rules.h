/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Switches that turn single rules of PROTOCOL off, so that the simulation can show that it would notice. Only in
 * builds with -Dtest_rules=true; in all others TC_RULE(x) is the constant true and costs nothing.
 */
#pragma once

#include "common/base.h"

/* clang-format off */
#define TC_TEST_RULES(X) \
    X(WRITE_QUORUM, "4.3: a write is done at W acknowledgements (off: at one)") \
    X(READ_QUORUM, "4.4: a read asks R voters (off: one)") \
    X(WRITE_BACK, "4.4: a version not known on W is written back (off: never)") \
    X(NEWER_WINS, "4.3: a replica keeps the newer version (off: the later to come)") \
    X(DURABLE_ACK, "4.2: a replica acknowledges what is durable (off: what it received)") \
    X(FENCING, "4.6: dead sessions are refused (off: served)") \
    X(HORIZON, "5.1: bytes behind a horizon entry read zero (off: as stored)") \
    X(RECALL_FLUSH, "3.5: a recall is acknowledged after the flush (off: before)") \
    X(FSYNC_DATA, "4.5: fsync waits for the blocks (off: returns at once)") \
    X(EXACTLY_ONCE, "2.1: the reply of a retried mutation is kept (off: applied again)") \
    X(MASK_UNCLEAN, "3.6: a read of an unclean inode writes what it found (off: plain)") \
    X(EXPIRY, "2.3: a client without keepalives suspends itself (off: goes on)") \
    X(SHED, "6.5: a newcomer drops what it has of a former time (off: keeps it)") \
    X(NEXT_QUORUM, "4.3: in a transition W of C2 too acknowledge (off: W of C1 alone)") \
    X(NEWCOMER_READY, "6.3: C2 stands when newcomers are complete (off: at once)") \
    X(PG_EPOCH, "4.6: requests below the epoch of the group are refused (off: served)") \
    X(JOIN_EPOCH, "6.3: completeness is of this very epoch (off: of an earlier one too)") \
    X(FATE, "2.2: a client that was expired asks what became of its requests (off: repeats them)") \
    X(DAMAGE, "1.5: a bad record before the synced mark is damage (off: a torn tail)") \
    X(LEADER_TTL, "2.4: the leader waits 1.1 TTL (off: 0.9)") \
    X(TTL_ANEW, "2.4: a new leader gives everybody a whole TTL (off: it counts as silent)") \
    X(CHANGE, "2.5: attributes of an older change never replace newer ones (off: the later to come)") \
    X(OWN_CHANGE, "2.5: nothing older than the own last mutation is cached (off: it is)") \
    X(CACHING_RIGHT, "3.1: S is used while the caching right runs (off: while the session lives)") \
    X(GENERATION, "3.1: a client caches under its own generation alone (off: under any)") \
    X(REAP_GRANT, "3.1: nothing is granted on what is being reaped (off: it is)") \
    X(GRANT_ID, "3.2: a grant that was recalled is ignored when it comes (off: taken)") \
    X(RECALL_COUNTER, "3.2: no answer older than the highest recall acknowledged is cached (off: it is)") \
    X(ACK_NUMBER, "3.2: an acknowledgement counts for its recall alone (off: for any of that inode)") \
    X(BARRIER, "4.6: a store with a map below the barrier fetches it first (off: answers)") \
    X(RECALL_LIMIT, "3.4: a recall without progress expires the holder (off: it waits)") \
    X(COMMIT_GRANT, "3.5: a commit of an X that has ended is refused (off: of the session's next X it is taken)") \
    X(RECOVERED_EPOCH, "3.6: a recovered size counts for the ended epoch alone (off: for any)") \
    X(RECONCILED_EPOCH, "3.6: the mark stays if an epoch was added meanwhile (off: it goes)") \
    X(RECONCILE_ALL, "3.6: reconciliation is with every voter (off: with those that answer)") \
    X(SIZE_PAIR, "4.7: a store keeps the size of the highest version (off: the last to come)") \
    X(ZERO_TAIL, "4.8: what is sent past the size is zero (off: as it lies)") \
    X(UNKNOWN, "4.9: a block that cannot be read is no vote (off: it counts as none)") \
    X(TRIM_EPOCH, "5.3: a trim removes blocks of lower epochs only (off: all behind the size)") \
    X(GC_ALL, "5.4: a gc entry stays until every voter confirmed (off: until one did)") \
    X(START_COUNTER, "6.1: a store that comes with a lower start counter is a newcomer (off: taken as it is)") \
    X(MAP_DURABLE, "6.2: a map is durable before anything is answered under it (off: at once)") \
    X(BACKFILL_QUORUM, "6.3: a newcomer copies from a quorum of C1 (off: from one)") \
    X(CLEAN, "7: clean is claimed when all voters acknowledged (off: whenever W did)") \
    X(OLDEST_EPOCH, "3.6: the mark of an unclean inode is of the oldest epoch (off: the newest)") \
    X(HORIZON_COVER, "5.1: an entry goes when a later one covers it (off: an earlier does)") \
    X(QUEUES_AT_ONCE, "3.4: a request takes the queues of all its inodes at once (off: goes when first in one)") \
    X(HOLDER_PASSES, "3.4: what the holder of X says of its inode passes the queue (off: waits in it)") \
    X(LOOK_PASSES, "3.4: attributes are answered past what waits for a recall (off: behind it)") \
    X(EPOCH_AGAIN, "3.7: X granted once more to its session has a new epoch (off: the same)") \
    X(REPAIR_EPOCH, "6.4: what mends a block is refused below the PG's epoch (off: taken)") \
    X(ZERO_VERSION, "5.2: a zero mark is a version like any other (off: as if nothing was written)") \
    X(MAP_QUIET, "6.7: that a store is up or down raises no map epoch (off: it does)") \
    X(CLEAN_INTACT, "7: one voter's answer is enough only from an intact index (off: any answer)") \
    X(CLEAN_READ, "7: one voter's answer is enough for a clean file alone (off: for any)") \
    X(SEQ_ANEW, "4.1: a changed block has a new version (off: that of the one before)") \
    X(SYNC_VALID, "4.5: fsync succeeds only in a session that is valid afterwards (off: in any)") \
    X(REACH, "4.7: no block bears a size above the committed reach (off: it does)") \
    X(TRUNCATE_ALONE, "4.8: no block is sent while a truncate is under way (off: it is)") \
    X(ASK_NEXT, "2.6: what is not answered goes to the next member, too (off: to the same)") \
    X(COMPARE, "6.6: voters compare what they have (off: never)") \
    X(SLOTS, "3.4: what a recall needs has slots of its own (off: those of all)") \
    X(STORE_NAMED, "6.1: a store refuses what is meant for another (off: answers)") \
    X(END_OF_X, "3.5: X may be over when its end was sent (off: when that is answered)") \
    X(SAVED_BESIDE, "1.1: a leader writes while the followers do (off: before them)") \
    X(LEASE_MARGIN, "1.3: a lease lasts 0.8 of the election timeout (off: 1.2)") \
    X(TIMEOUT_NOW_AT, "1.4: TimeoutNow is for one log position (off: for any)") \
    X(FILLED, "1.5: a new incarnation votes again when it is filled (off: at once)") \
    X(CONFIG_AT_APPEND, "1.6: a configuration counts from its append (off: from its commit)") \
    X(PROMOTE_LAG, "1.6: who is promoted has nearly caught up (off: whoever answers)") \
    X(PROMOTE_KNOWS, "1.6: who is promoted has the configuration that names it (off: perhaps not)") \
    X(CHANGE_QUORUM, "1.6: a change is refused when those that answer are no majority after it (off: made)") \
    X(LEADER_LEAVES, "1.6: a leader that is removed hands over (off: stays)") \
    X(LEFT_OUT_ASKS, "1.6: who is left out asks for votes until that is committed (off: does not)") \
    X(LEFT_OUT_NO_VOTE, "1.6: who is left out does not count its own vote (off: does)") \
    X(LOG_LIMIT_LEADER, "1.7: a leader with too much log refuses proposals (off: takes them)") \
    X(LOG_LIMIT_FOLLOWER, "1.7: a follower with too much log takes no entries (off: takes them)") \
    X(FILL_HALF, "1.7: who is being filled holds back half of the log at most (off: all of it)") \
    X(SNAPSHOT_GOES_ON, "1.7: a piece that the follower has is not sent again (off: all anew)") \
    X(SNAPSHOT_SELDOM, "1.7: a snapshot that is refused is offered ever more seldom (off: as often)") \
    X(SNAPSHOT_READ_AGAIN, "1.7: a snapshot that was refused is read again first (off: offered again)") \
    X(READ_OWN_TERM, "1.8: ReadIndex needs an entry of the leader's own term (off: none)") \
    X(READ_APPLIED, "1.8: ReadIndex is answered when the index is applied (off: at once)") \
    X(ANYWHERE_X, "1.8: attributes that a mount holds X on are the leader's to give (off: anybody's)") \
    X(ANYWHERE_GRANT, "1.8: a request that may be given a grant is never answered without lease (off: it is)") \
    X(IDS_ONCE, "2.1: inode numbers are never used again (off: free ones are)") \
    X(REPLIES_STAY, "2.2: the replies of an ended session stay for an hour (off: a minute)") \
    X(LOSS_FAILS, "2.3: a descriptor that had dirty data stays failed (off: one error)") \
    X(CONFLICT_EXPIRY, "2.4: a silent session is expired when something conflicts (off: after 5 minutes)") \
    X(IDLE_EXPIRY, "2.4: a session silent for 5 minutes is expired (off: never)") \
    X(EXPIRING_SILENCE, "2.4: nothing is answered to a session whose expiry is proposed (off: it is)") \
    X(RIGHT_FROM_SEND, "3.1: the caching right runs from the sending of a keepalive (off: from the answer)") \
    X(NEXT_GENERATION, "3.1: a leader that goes on begins the next generation (off: the same goes on)") \
    X(LATE_GENERATION, "3.1: so does one that no list came to in time (off: it may come late)") \
    X(LIST_ALL, "3.1: a list is complete: what is not in it is not held (off: it is)") \
    X(FIRST_LIST, "3.1: S is asserted on the first list to a new leader alone (off: on any)") \
    X(LIST_REFUSED, "3.1: an S that cannot be taken ends the generation (off: is taken)") \
    X(LIST_RIGHT, "3.1: the right counts from the list on (off: from the next keepalive)") \
    X(UNLISTED_NO_S, "3.1: no S to a session that has not listed (off: granted)") \
    X(ONE_HOLDER, "3.1: X has one holder (off: the last to ask)") \
    X(S_BESIDE_X, "3.1: no S beside the X of another (off: granted)") \
    X(X_DIRECTORY, "3.1: X is never of a directory (off: granted)") \
    X(O_STAYS, "3.1: what ends S or X leaves O while the inode is open (off: nothing)") \
    X(REAP_LISTED, "3.1: a new leader reaps nothing before all have listed (off: at once)") \
    X(RECALL_ANY_ID, "3.2: a recall acts on whatever is held (off: on the id it names)") \
    X(BETWEEN, "3.2: between recall and application nothing is given to cache (off: it is)") \
    X(PROGRESS, "3.4: commits and flights that land are progress of a recall (off: they are not)") \
    X(ORPHAN_ASKED, "3.4: who holds a removed inode is asked whether it needs it (off: never)") \
    X(X_IDLE, "3.5: X idle for a second is given back unasked (off: kept)") \
    X(UNCLEAN_FENCES, "3.6: an unclean end fences the writer (off: it goes on)") \
    X(MARK_STAYS, "3.6: only reconciliation removes the mark (off: a clean end of X, too)") \
    X(RECOVER_MAX, "3.6: the size is the larger of committed and recorded (off: the recorded)") \
    X(RECOVER_HORIZON, "3.6: a recovered size leaves a horizon entry (off: none)") \
    X(CLASH, "4.1: equal versions with different sums are refused (off: taken for equal)") \
    X(NEWER_SEQ_ACK, "4.3: a newer seq of the epoch is an acknowledgement (off: a failure)") \
    X(HIGHER_EPOCH, "4.3: a higher epoch fails the write (off: acknowledges it)") \
    X(LAGGARD, "4.4: a laggard is mended in the background (off: left)") \
    X(KNOWN_EXACT, "4.4: one answer is enough if it bears exactly the known version (off: any)") \
    X(SIZE_AFTER_BLOCKS, "4.7: a size is committed after its blocks are durable (off: before)") \
    X(BLOCK_BEARS, "4.7: a block bears the size as of its version (off: the committed one)") \
    X(COMMIT_REACH, "4.7: no size above the reach is committed (off: it is)") \
    X(EPOCH_AFTER, "4.8: blocks after a truncate bear the new epoch (off: the one before)") \
    X(TRUNCATE_AWAITS, "4.8: a truncate waits for what is in flight (off: does not)") \
    X(ALIVE_WAITS, "4.9: a block whose version is lost waits for the end of X and of the mark (off: does not)") \
    X(HORIZON_MAX16, "5.1: 16 entries at most (off: a truncate adds one more)") \
    X(GONE, "5.4: a chunk whose inode is gone is not copied (off: it is)") \
    X(GONE_UNKNOWN, "5.4: what the leader does not know is kept (off: goes)") \
    X(GONE_REFUSED, "5.4: what comes for a removed inode is refused (off: taken)") \
    X(MOVE_EPOCH, "6.3: a transition names the epoch it starts from (off: any will do)") \
    X(MISSED_EPOCH, "6.5: who missed an epoch forgets a newcomer's acknowledgements (off: counts them)") \
    X(CLEAN_BEFORE, "7: clean is claimed of an X granted on a clean inode (off: of any)") \
    X(LOCKS_RECALL, "9.2: L is recalled before a lock of another session is set (off: set at once)") \
    X(LOCKS_REGISTER, "9.2: the end of L says what is locked (off: nothing)") \
    X(LOCKS_EXPIRE, "9.3: the locks of a dead session are nobody's (off: they stay)") \
    X(LOCKS_WAIT, "9.2: from building the end of L to its answer lock calls wait (off: go on)")
/* clang-format on */

enum tc_test_rule {
#define X(name, text) TC_RULE_##name,
    TC_TEST_RULES(X)
#undef X
    TC_RULE_COUNT,
    TC_RULE_WORDS = (TC_RULE_COUNT + 63) / 64
};

#ifdef TC_TEST_RULES_BUILD
extern uint64_t tc_test_rules_off[TC_RULE_WORDS]; /* bit (rule % 64) of word (rule / 64) */
#define TC_RULE(name) (!(tc_test_rules_off[TC_RULE_##name / 64] >> TC_RULE_##name % 64 & 1))
#else
#define TC_RULE(name) true
#endif

/*
 * Turn rules off, beside those that the environment variable TERCET_RULES_OFF (names, comma separated) turns off in the
 * whole program; nothing in a build without them. TERCET_META_RULES_OFF, TERCET_FSM_RULES_OFF and TERCET_RAFT_RULES_OFF
 * do the same to the rules of these parts, as masks. `sim --list-rules` says names and masks.
 */
void tc_test_rules_set(const uint64_t off[TC_RULE_WORDS]);

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
