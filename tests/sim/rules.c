/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/rules.h"

#include <stdio.h>
#include <string.h>

#include "meta/fsm.h"
#include "meta/server.h"
#include "raft/raft.h"

static const struct rule {
    const char *name, *text;
    unsigned word; /* enum rule_layer */
    uint64_t bit;
} rules[] = {
#define X(name, text) {#name, text, RULE_DATA + TC_RULE_##name / 64, UINT64_C(1) << TC_RULE_##name % 64},
    TC_TEST_RULES(X)
#undef X
    {"RECALL", "3.1: changes and grants of X wait for recalls", RULE_META, META_RULE_RECALL},
    {"LEASE_READ", "1.3: reads only inside the leader lease", RULE_META, META_RULE_LEASE_READ},
    {"GRACE", "3.3: a new leader waits for re-assertions", RULE_META, META_RULE_GRACE},
    {"ASK_HOLDER", "3.5: attributes under another's X are asked from the holder", RULE_META, META_RULE_ASK_HOLDER},
    {"SIZE_RECOVERY", "3.6: operations wait until the size is recovered", RULE_META, META_RULE_SIZE_RECOVERY},
    {"REAP_REFS", "3.1: an open inode is not reaped", RULE_META, META_RULE_REAP_REFS},
    {"CLOCK", "9.1: times in the log never fall", RULE_META, META_RULE_CLOCK},
    {"FSM_CLOCK", "9.1: nor when a leader proposes an earlier one", RULE_FSM, FSM_RULE_CLOCK},
    {"WATERMARK", "2.1: at or below the watermark a request is ignored", RULE_FSM, FSM_RULE_WATERMARK},
    {"FSM_ONCE", "2.1: a request is applied once", RULE_FSM, FSM_RULE_ONCE},
    {"EPOCH", "3.1: a grant of X increments the epoch", RULE_FSM, FSM_RULE_EPOCH},
    {"DEAD_SESSIONS", "2.4: an ended session is named in the map", RULE_FSM, FSM_RULE_FENCE},
    {"HORIZON_ENTRY", "5.1: a truncate leaves a horizon entry", RULE_FSM, FSM_RULE_HORIZON},
    {"PREVOTE", "1.2: pre-vote", RULE_RAFT, RAFT_RULE_PREVOTE},
    {"QUIET_HEARD", "1.2: no vote soon after hearing a leader", RULE_RAFT, RAFT_RULE_QUIET_HEARD},
    {"QUIET_START", "1.2: no vote soon after the own start", RULE_RAFT, RAFT_RULE_QUIET_START},
    {"ANSWER_LOWER_TERM", "1.2: a lower term is answered", RULE_RAFT, RAFT_RULE_ANSWER_LOWER_TERM},
    {"LEASE_FROM_SEND", "1.3: the lease counts from the sending", RULE_RAFT, RAFT_RULE_LEASE_FROM_SEND},
    {"LEASE_OWN_TERM", "1.3: the lease begins with an own entry", RULE_RAFT, RAFT_RULE_LEASE_OWN_TERM},
    {"COMMIT_OWN_TERM", "1.1: only entries of the own term are counted", RULE_RAFT, RAFT_RULE_COMMIT_OWN_TERM},
    {"PERSIST_BEFORE_ACK", "1.1: entries are durable before they are acknowledged", RULE_RAFT,
     RAFT_RULE_PERSIST_BEFORE_ACK},
    {"STATE_BEFORE_SEND", "1.1: term and vote are durable before a vote is sent", RULE_RAFT,
     RAFT_RULE_STATE_BEFORE_SEND},
    {"LEADER_PERSISTED", "1.1: the leader counts itself when durable", RULE_RAFT, RAFT_RULE_LEADER_PERSISTED},
    {"VOTE_UP_TO_DATE", "1.1: a vote only for a log that is complete", RULE_RAFT, RAFT_RULE_VOTE_UP_TO_DATE},
    {"NO_LEASE_AFTER_TRANSFER", "1.4: no lease after TimeoutNow", RULE_RAFT, RAFT_RULE_NO_LEASE_AFTER_TRANSFER},
    {"READ_INDEX", "1.3: a read without a lease asks a quorum first", RULE_RAFT, RAFT_RULE_READ_QUORUM},
    {"STALL", "1.1: a leader whose disk stalls hands over", RULE_RAFT, RAFT_RULE_STALL},
    {"CHECK_QUORUM", "1.2: a leader that hears no quorum steps down", RULE_RAFT, RAFT_RULE_CHECK_QUORUM},
    {"STOOD_STILL", "1.2: whose loop stood still waits again before it judges others", RULE_RAFT, RAFT_RULE_STOOD_STILL},
    {"TRANSFER_ENDS", "1.4: a transfer that fails ends with the leader stepping down", RULE_RAFT,
     RAFT_RULE_TRANSFER_ENDS},
    {"LEARNERS", "1.3: who learns only counts for nothing", RULE_RAFT, RAFT_RULE_LEARNERS},
    {"ONE_CHANGE", "1.6: members change one at a time, after an own entry", RULE_RAFT, RAFT_RULE_ONE_CHANGE},
    {"SNAPSHOT_ID", "1.7: pieces of two snapshots never mix", RULE_RAFT, RAFT_RULE_SNAPSHOT_ID},
    {"SNAPSHOT_SUM", "1.7: a snapshot has a checksum over all", RULE_RAFT, RAFT_RULE_SNAPSHOT_SUM},
    {"INCARNATION", "1.5: a member that lost its disk does not vote", RULE_RAFT, RAFT_RULE_INCARNATION},
};

static const char *const layers[] = {[RULE_META] = "meta", [RULE_FSM] = "fsm", [RULE_RAFT] = "raft", [RULE_DATA] = "data"};

static const struct rule *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
        if (strcmp(rules[i].name, name) == 0)
            return &rules[i];
    return NULL;
}

bool rules_parse(const char *list, uint64_t off[RULE_LAYERS])
{
    char *copy = tc_strdup(list), *save, *p;
    bool ok = true;

    for (p = strtok_r(copy, ",", &save); p && ok; p = strtok_r(NULL, ",", &save)) {
        const struct rule *r = find(p);

        ok = r != NULL;
        if (!ok)
            fprintf(stderr, "sim: there is no rule %s (--list-rules)\n", p);
#ifndef TC_TEST_RULES_BUILD
        if (ok && r->word >= RULE_DATA) {
            fprintf(stderr, "sim: the rule %s is not to be turned off in this build (-Dtest_rules=true)\n", p);
            ok = false;
        }
#endif
        if (ok)
            off[r->word] |= r->bit;
    }
    free(copy);
    return ok;
}

void rules_print(const uint64_t off[RULE_LAYERS], char *ret, size_t size)
{
    size_t at = 0;

    ret[0] = 0;
    for (size_t i = 0; i < ARRAY_SIZE(rules) && at < size; i++)
        if (off[rules[i].word] & rules[i].bit)
            at += (size_t)snprintf(ret + at, size - at, "%s%s", at ? "," : "", rules[i].name);
}

void rules_list(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        char mask[24] = "-";

        if (rules[i].word < RULE_DATA)
            snprintf(mask, sizeof mask, "%#llx", (unsigned long long)rules[i].bit);
        printf("%-24s %-4s %-8s %s\n", rules[i].name, layers[MIN(rules[i].word, RULE_DATA)], mask, rules[i].text);
    }
}
