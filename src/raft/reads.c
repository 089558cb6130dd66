/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReadIndex (Ongaro 6.4): a read that needs no lease. The leader notes its commit index, learns from a quorum's
 * answers to something sent since that it still led then, and whoever asked answers when it has applied that
 * index. A follower asks the leader for the index; the reads of one turn share one question.
 *
 *   leader:    NOTED ──a quorum answered what was sent since──► CONFIRMED ──applied──► READY
 *   follower:  ASKED ──the leader's answer──► CONFIRMED ──applied──► READY
 *   any of them: another leader, another term, or too long ──► FAILED: the owner asks again, or elsewhere
 */
#include "common/test_rules.h"
#include "raft/core.h"

static struct raft_pending_read *read_add(struct raft *r, uint64_t id, uint64_t from)
{
    struct raft_pending_read *p;

    if (r->n_reads == RAFT_READS_MAX)
        return NULL;
    p = &r->reads[r->n_reads++];
    *p = (struct raft_pending_read){.id = id, .from = from, .at = r->now};
    return p;
}

static void read_report(struct raft *r, uint64_t id, bool failed)
{
    ASSERT(r->n_reads_out < ARRAY_SIZE(r->reads_out));
    r->reads_out[r->n_reads_out++] = (struct raft_read){id, failed};
    r->flags |= RAFT_READS;
}

/* One of @r->reads is over: told to the owner, or to the follower that asked. */
static void read_end(struct raft *r, const struct raft_pending_read *p, bool failed)
{
    struct raft_msg *m;

    if (p->from == r->cfg.id) {
        read_report(r, p->id, failed);
        return;
    }
    m = raft_send(r, p->from, RAFT_MSG_READ_RES);
    m->read.id = p->id;
    m->read.index = p->index;
    m->read.failed = failed;
}

/* The others of a quorum that has to answer after @at have done so. */
static bool read_confirmed(struct raft *r, const struct raft_pending_read *p)
{
    if (r->role != RAFT_LEADER)
        return p->index != 0;
    if (r->commit < r->term_start && TC_RULE(READ_OWN_TERM))
        return false; /* what earlier terms committed is not all known yet */
    return !raft_rule(r, RAFT_RULE_READ_QUORUM) || r->now < raft_lease_end(r) || leader_quorum_echo(r) >= p->at;
}

void reads_check(struct raft *r)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < r->n_reads; i++) {
        struct raft_pending_read p = r->reads[i];

        /* Whatever is committed by now is not too old for it. */
        if (r->role == RAFT_LEADER && p.index == 0 && (r->commit >= r->term_start || !TC_RULE(READ_OWN_TERM)))
            p.index = r->commit;
        if (!p.confirmed)
            p.confirmed = read_confirmed(r, &p);
        if (p.confirmed && (p.from != r->cfg.id || r->applied >= p.index || !TC_RULE(READ_APPLIED)))
            read_end(r, &p, false);
        else if (r->now - p.at > 2 * r->cfg.election_max)
            read_end(r, &p, true);
        else
            r->reads[kept++] = p;
    }
    r->n_reads = kept;
}

void reads_fail(struct raft *r)
{
    for (uint32_t i = 0; i < r->n_reads; i++) {
        if (r->reads[i].from == r->cfg.id) /* other askers hear of the next leader by themselves */
            read_report(r, r->reads[i].id, true);
    }
    r->n_reads = 0;
}

/* Ask the quorum now rather than at the next heartbeat; one round at a time. */
bool reads_want_round(const struct raft *r)
{
    if (r->n_reads == 0 || (r->read_round != 0 && leader_quorum_echo(r) < r->read_round &&
                            r->now < r->read_round + r->cfg.heartbeat))
        return false;
    for (uint32_t i = 0; i < r->n_reads; i++)
        if (!r->reads[i].confirmed && r->reads[i].at > r->read_round)
            return true;
    return false;
}

int read_begin(struct raft *r, uint64_t id)
{
    struct raft_msg *m;

    if (r->role != RAFT_LEADER && (r->role != RAFT_FOLLOWER || r->leader == 0))
        return -TC_E_NOT_LEADER;
    if (!read_add(r, id, r->cfg.id))
        return -TC_E_BACKPRESSURE;
    if (r->role == RAFT_LEADER) {
        reads_check(r);
        return 0;
    }
    m = raft_send(r, r->leader, RAFT_MSG_READ);
    m->read.id = id;
    return 0;
}

void on_read(struct raft *r, const struct raft_msg *m)
{
    if (r->role != RAFT_LEADER || !progress_find(r, m->from))
        return;
    if (read_add(r, m->read.id, m->from))
        reads_check(r);
}

void on_read_res(struct raft *r, const struct raft_msg *m)
{
    if (r->role != RAFT_FOLLOWER || r->leader != m->from)
        return;
    for (uint32_t i = 0; i < r->n_reads; i++) {
        struct raft_pending_read *p = &r->reads[i];

        if (p->id != m->read.id || p->from != r->cfg.id)
            continue;
        p->index = m->read.failed ? 0 : m->read.index;
        if (p->index == 0)
            p->at = 0; /* fails at once */
    }
    reads_check(r);
}
