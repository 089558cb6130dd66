/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The follower's side of append (Raft 5.3). What it acknowledges is durable here and known to be
 * as in the leader's log: min(persisted, verified). A heartbeat, an append without entries, is
 * answered at once; entries when their save is done.
 */
#include "common/test_rules.h"
#include "raft/core.h"

void follower_heard(struct raft *r, const struct raft_msg *m, uint64_t sent_at)
{
    if (r->role != RAFT_FOLLOWER || r->leader != m->from)
        become_follower(r, r->term, m->from);
    if (raft_rule(r, RAFT_RULE_QUIET_HEARD))
        r->heard = r->now;
    r->leader_sent_at = MAX(r->leader_sent_at, sent_at);
    election_reset(r);
}

void follower_ack(struct raft *r, bool always)
{
    uint64_t durable = raft_rule(r, RAFT_RULE_PERSIST_BEFORE_ACK) ? r->persisted : log_last(r);
    uint64_t match = MIN(durable, r->verified);
    struct raft_msg *m;

    if (r->role != RAFT_FOLLOWER || r->leader == 0)
        return;
    if (!always && match <= r->acked)
        return;
    r->acked = match;
    m = raft_send(r, r->leader, RAFT_MSG_APPEND_RES);
    m->append_res.match = match;
    m->append_res.sent_at = r->leader_sent_at;
}

static void follower_reject(struct raft *r, const struct raft_msg *m)
{
    struct raft_msg *res = raft_send(r, m->from, RAFT_MSG_APPEND_RES);
    uint64_t hint = log_find_conflict(r, m->append.prev_index, m->append.prev_term);

    res->append_res.reject = true;
    res->append_res.match = MIN(r->persisted, r->verified);
    res->append_res.sent_at = r->leader_sent_at;
    res->append_res.prev_index = m->append.prev_index;
    res->append_res.hint_index = hint;
    res->append_res.hint_term = raft_term_at(r, hint);
}

static void follower_take(struct raft *r, const struct raft_entry *e)
{
    struct raft_config c;

    if (raft_term_at(r, e->index) == e->term)
        return;
    if (e->index <= log_last(r))
        log_truncate(r, e->index);
    log_append(r, e);
    if (e->type == RAFT_ENTRY_CONFIG && raft_config_decode(e->data, e->len, &c) >= 0)
        config_push(r, e->index, &c);
}

/* Input, so not asserted: positions in sequence, terms not falling, configurations that decode. */
static bool append_makes_sense(const struct raft_msg *m)
{
    uint64_t term = m->append.prev_term;
    struct raft_config c;

    for (uint32_t i = 0; i < m->append.n; i++) {
        const struct raft_entry *e = &m->append.entries[i];

        if (e->index != m->append.prev_index + 1 + i || e->term < term || e->term > m->term ||
            e->term == 0)
            return false;
        if (e->type == RAFT_ENTRY_CONFIG && raft_config_decode(e->data, e->len, &c) < 0)
            return false;
        term = e->term;
    }
    return true;
}

/* The leader's log has something else where entries are committed here. No correct group has such a leader: it is one of members
 * that were given up, when the group was made anew from one, and came back with their files. To acknowledge anything would count
 * for entries that are not here. */
static bool append_parts(const struct raft *r, const struct raft_msg *m)
{
    uint64_t prev = m->append.prev_index, term = raft_term_at(r, prev);

    if (prev < r->commit && term != 0 && term != m->append.prev_term)
        return true;
    for (uint32_t i = 0; i < m->append.n && prev + 1 + i <= r->commit; i++) {
        term = raft_term_at(r, prev + 1 + i);
        if (term != 0 && term != m->append.entries[i].term)
            return true;
    }
    return false;
}

void on_append(struct raft *r, const struct raft_msg *m)
{
    uint64_t prev = m->append.prev_index;
    uint32_t n = log_full(r) && TC_RULE(LOG_LIMIT_FOLLOWER) ? 0 : m->append.n; /* full: it says what is committed, no more */
    uint64_t end = prev + n;
    uint32_t skip = 0;
    bool added;

    if (r->role == RAFT_LEADER || !append_makes_sense(m))
        return;
    follower_heard(r, m, m->append.sent_at);
    if (r->snap.installing) {
        follower_ack(r, true); /* the log is about to be replaced */
        return;
    }
    r->parted = append_parts(r, m);
    if (r->parted)
        return;
    /* What is committed here is as the leader has it: only what is behind that is looked at. */
    if (prev < r->commit) {
        skip = (uint32_t)MIN(r->commit - prev, n);
        end = MAX(end, r->commit);
    } else if (prev > log_last(r) || raft_term_at(r, prev) != m->append.prev_term) {
        follower_reject(r, m);
        return;
    }
    if (skip > 0 && skip < n && m->append.entries[skip].term < raft_term_at(r, r->commit))
        return; /* no leader has such a log */
    for (uint32_t i = skip; i < n; i++)
        follower_take(r, &m->append.entries[i]);
    added = end > r->persisted;
    r->verified = MAX(r->verified, MIN(end, log_last(r)));
    r->commit = MAX(r->commit, MIN(m->append.commit, r->verified));
    /* New entries are answered when they are durable. */
    follower_ack(r, n == 0 || !added);
}
