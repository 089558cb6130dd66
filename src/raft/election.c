/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elections.
 *
 *  FOLLOWER ──timeout──► PRECANDIDATE ──quorum would──► CANDIDATE ──quorum did──► LEADER
 *     ▲  └────── TimeoutNow, no pre-vote ──────────────────▲  │                     │
 *     └──────── a leader of this term, or a higher term ──────┴─────────────────────┘
 *
 * A pre-vote changes nothing at anybody. A real vote is asked for only when the new term and the
 * own vote are durable: the core holds the requests back until then.
 */
#include "common/test_rules.h"
#include "raft/core.h"

void election_reset(struct raft *r)
{
    uint64_t spread = r->cfg.election_max - r->cfg.election_min;

    r->election_deadline = r->now + r->cfg.election_min + raft_random(r, spread + 1);
}

void become_follower(struct raft *r, uint64_t term, uint64_t leader)
{
    ASSERT(term >= r->term);
    if (r->role != RAFT_FOLLOWER || r->leader != leader || r->term != term)
        r->flags |= RAFT_ROLE;
    if (r->role == RAFT_LEADER)
        r->transferring = false;
    if (term > r->term) {
        r->term = term;
        r->vote = leader; /* who leads has won: no other may have this vote */
        raft_state_changed(r);
    }
    if (r->role != RAFT_FOLLOWER || leader == 0)
        election_reset(r);
    if (r->leader != leader || (r->flags & RAFT_ROLE) != 0) {
        reads_fail(r);
        r->verified = r->acked = r->leader_sent_at = 0;
        r->leader = leader;
    }
    r->role = RAFT_FOLLOWER;
}

/* Within election_min of a leader's sign of life, or of its own start when it may have forgotten
 * one, a member helps nobody else to lead: the leader's lease stands on that (PROTOCOL 1.2). */
bool election_quiet(const struct raft *r)
{
    if (r->role == RAFT_LEADER)
        return raft_rule(r, RAFT_RULE_QUIET_HEARD);
    return r->now < r->heard + r->cfg.election_min;
}

static void election_ask(struct raft *r, uint32_t type, uint64_t term)
{
    const struct raft_config *c = raft_config_now(r);

    for (uint32_t i = 0; i < c->n; i++) {
        struct raft_msg *m;

        if (c->members[i].id == r->cfg.id || c->members[i].role != RAFT_VOTER)
            continue;
        m = raft_send(r, c->members[i].id, type);
        m->vote.term = term;
        m->vote.last_index = log_last(r);
        m->vote.last_term = log_last_term(r);
        m->vote.transfer = r->transfer_vote;
    }
}

static void candidate_start(struct raft *r)
{
    uint64_t half = r->cfg.election_min / 2;

    reads_fail(r);
    r->role = RAFT_CANDIDATE;
    r->flags |= RAFT_ROLE;
    r->leader = 0;
    r->term++;
    r->vote = r->cfg.id;
    r->n_votes = 0;
    r->election_deadline = r->now + half + raft_random(r, half + 1);
    raft_state_changed(r);
    election_ask(r, RAFT_MSG_VOTE, r->term);
}

static void election_count(struct raft *r, uint64_t id)
{
    for (uint32_t i = 0; i < r->n_votes; i++)
        if (r->votes[i] == id)
            return;
    if (r->n_votes < RAFT_MEMBERS_MAX)
        r->votes[r->n_votes++] = id;
    if (r->n_votes < config_quorum(r))
        return;
    if (r->role == RAFT_PRECANDIDATE)
        candidate_start(r);
    else
        become_leader(r);
}

void election_start(struct raft *r, bool transfer)
{
    uint64_t quarter = r->cfg.election_min / 4;

    ASSERT(r->role != RAFT_LEADER);
    r->transfer_vote = transfer;
    r->n_votes = 0;
    if (transfer || !raft_rule(r, RAFT_RULE_PREVOTE)) {
        candidate_start(r);
        return;
    }
    reads_fail(r);
    r->role = RAFT_PRECANDIDATE;
    r->flags |= RAFT_ROLE;
    r->leader = 0;
    /* A voter may have heard the leader a moment later than this one: ask again soon. */
    r->election_deadline = r->now + quarter + raft_random(r, quarter + 1);
    election_ask(r, RAFT_MSG_PREVOTE, r->term + 1);
    if (config_self_votes(r) || !TC_RULE(LEFT_OUT_NO_VOTE))
        election_count(r, r->cfg.id);
}

void election_saved(struct raft *r)
{
    if (r->role == RAFT_CANDIDATE && r->vote == r->cfg.id && (config_self_votes(r) || !TC_RULE(LEFT_OUT_NO_VOTE)))
        election_count(r, r->cfg.id);
}

/* Raft 5.4.1: only who has all that was committed may lead. */
static bool up_to_date(const struct raft *r, uint64_t last_index, uint64_t last_term)
{
    uint64_t own = log_last_term(r);

    if (!raft_rule(r, RAFT_RULE_VOTE_UP_TO_DATE))
        return true;
    return last_term > own || (last_term == own && last_index >= log_last(r));
}

void on_vote(struct raft *r, const struct raft_msg *m)
{
    bool pre = m->type == RAFT_MSG_PREVOTE;
    bool quiet = election_quiet(r) && !m->vote.transfer;
    struct raft_msg *res;
    bool grant;

    if (!pre && !quiet && m->term > r->term)
        become_follower(r, m->term, 0);
    grant = !quiet && config_knows_self(r) && r->role != RAFT_LEADER &&
            up_to_date(r, m->vote.last_index, m->vote.last_term);
    if (pre) {
        grant = grant && m->vote.term > r->term;
    } else {
        grant = grant && m->term == r->term && (r->vote == 0 || r->vote == m->from) &&
                r->leader == 0;
        if (grant && r->vote == 0) {
            r->vote = m->from;
            raft_state_changed(r);
        }
        if (grant && r->role != RAFT_FOLLOWER)
            become_follower(r, r->term, 0);
        else if (grant)
            election_reset(r);
    }
    res = raft_send(r, m->from, pre ? RAFT_MSG_PREVOTE_RES : RAFT_MSG_VOTE_RES);
    res->vote_res.term = m->vote.term;
    res->vote_res.granted = grant;
}

void on_vote_res(struct raft *r, const struct raft_msg *m)
{
    const struct raft_member *from = raft_config_find(raft_config_now(r), m->from);
    bool pre = m->type == RAFT_MSG_PREVOTE_RES;

    if (r->role != (pre ? RAFT_PRECANDIDATE : RAFT_CANDIDATE))
        return;
    if (m->vote_res.term != (pre ? r->term + 1 : r->term) || !m->vote_res.granted)
        return;
    if (!from || from->role != RAFT_VOTER)
        return;
    if (from->incarnation != m->incarnation && raft_rule(r, RAFT_RULE_INCARNATION))
        return;
    election_count(r, m->from);
}

/* Names term and log position, so that one that comes late, after another election or to a member
 * that fell behind, does nothing (PROTOCOL 1.4). */
void on_timeout_now(struct raft *r, const struct raft_msg *m)
{
    if (r->role != RAFT_FOLLOWER || r->leader != m->from || !config_self_votes(r))
        return;
    if ((m->timeout_now.last_index != log_last(r) || m->timeout_now.last_term != log_last_term(r)) &&
        TC_RULE(TIMEOUT_NOW_AT))
        return;
    if (r->persisted != log_last(r) || r->snap.installing)
        return;
    election_start(r, true);
}
