/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The snapshot transfer. The leader's driver makes a snapshot and reads its pieces when asked
 * (raft_want); the follower's stores and installs them (RAFT_STORE_PIECE). One piece is in flight;
 * the follower says which byte it wants next. Pieces of different ids never mix (PROTOCOL 1.7).
 */
#include "common/test_rules.h"
#include "raft/core.h"

#define REFUSALS_WAIT_MAX 6 /* a member that goes on refusing is tried every 64 election timeouts */

void snapshot_want(struct raft *r, struct raft_progress *p)
{
    ASSERT(r->n_wants < RAFT_MEMBERS_MAX);
    p->snap_wanted = true;
    r->wants[r->n_wants++] = (struct raft_want){p->id, p->snap_id, p->snap_offset, p->snap_refused};
    r->flags |= RAFT_WANT;
}

void snapshot_begin(struct raft *r, struct raft_progress *p)
{
    progress_probe(r, p, p->next);
    p->state = RAFT_PEER_SNAPSHOT;
    p->snap_offset = 0;
    p->snap_retry_at = r->now; /* the next tick asks */
}

void snapshot_tick(struct raft *r, struct raft_progress *p)
{
    if (p->heard_at + 10 * r->cfg.election_max < r->now) {
        p->snap_refusals = 0; /* as it comes back it may be another */
        if (p->snap_id != 0) /* gone: its snapshot must not hold the log back */
            snapshot_begin(r, p);
        return;
    }
    if (!p->snap_wanted && r->now >= p->snap_retry_at)
        snapshot_want(r, p);
}

static struct raft_progress *snapshot_peer(struct raft *r, const struct raft_event *ev)
{
    struct raft_progress *p = progress_find(r, ev->peer);

    if (r->role != RAFT_LEADER || !p || p->state != RAFT_PEER_SNAPSHOT || !p->snap_wanted)
        return NULL;
    p->snap_wanted = false;
    p->snap_retry_at = r->now + 2 * r->cfg.election_max;
    return p;
}

void snapshot_made(struct raft *r, const struct raft_event *ev)
{
    struct raft_progress *p = snapshot_peer(r, ev);

    if (!p || p->snap_id != 0)
        return;
    if (ev->type == RAFT_EV_SNAP_FAILED || ev->index < r->log.base_index ||
        ev->index > r->applied)
        return; /* asked for again after a while */
    p->snap_refused = 0;
    p->snap_id = ev->snap_id;
    p->snap_index = ev->index;
    p->snap_offset = 0;
    snapshot_want(r, p);
}

void snapshot_piece(struct raft *r, const struct raft_event *ev)
{
    struct raft_progress *p = snapshot_peer(r, ev);
    struct raft_msg *m;

    if (!p)
        return;
    if (ev->type == RAFT_EV_SNAP_FAILED) {
        snapshot_begin(r, p);
        p->snap_retry_at = r->now + r->cfg.election_max;
        return;
    }
    if (p->snap_id != ev->snap_id || p->snap_offset != ev->offset || p->snap_id == 0)
        return;
    r->out_config = *raft_config_at(r, p->snap_index);
    m = raft_send(r, p->id, RAFT_MSG_SNAPSHOT);
    m->snapshot.id = p->snap_id;
    m->snapshot.index = p->snap_index;
    m->snapshot.index_term = raft_term_at(r, p->snap_index);
    m->snapshot.offset = p->snap_offset;
    m->snapshot.sent_at = r->now;
    m->snapshot.config = &r->out_config;
    m->snapshot.data = ev->data;
    m->snapshot.len = ev->len;
    m->snapshot.last = ev->last;
}

void on_snapshot_res(struct raft *r, const struct raft_msg *m)
{
    struct raft_progress *p = progress_find(r, m->from);

    if (r->role != RAFT_LEADER || !p || !progress_heard(r, p, m, m->snapshot_res.sent_at))
        return;
    if (p->state != RAFT_PEER_SNAPSHOT || p->snap_id == 0 || m->snapshot_res.id != p->snap_id)
        return;
    if (m->snapshot_res.done) {
        if (m->snapshot_res.match <= log_last(r))
            p->match = MAX(p->match, m->snapshot_res.match);
        p->snap_refusals = 0;
        progress_probe(r, p, p->snap_index + 1);
        leader_commit(r);
    } else if (m->snapshot_res.failed) {
        p->snap_refused = p->snap_id;
        snapshot_begin(r, p);
        p->snap_retry_at = r->now + (r->cfg.election_max << (TC_RULE(SNAPSHOT_SELDOM) ? MIN(p->snap_refusals, REFUSALS_WAIT_MAX) : 0));
        p->snap_refusals++;
    } else if (m->snapshot_res.offset != p->snap_offset) {
        p->snap_offset = m->snapshot_res.offset;
        if (!p->snap_wanted)
            snapshot_want(r, p);
    }
}

/* -- the follower's side -------------------------------------------------------------------- */

static struct raft_msg *snapshot_answer(struct raft *r, uint64_t id)
{
    struct raft_msg *m = raft_send(r, r->leader, RAFT_MSG_SNAPSHOT_RES);

    m->snapshot_res.id = id;
    m->snapshot_res.sent_at = r->leader_sent_at;
    m->snapshot_res.offset = r->snap.id == id ? r->snap.offset : 0;
    return m;
}

static void snapshot_done(struct raft *r, uint64_t id, uint64_t index)
{
    struct raft_msg *m;

    r->verified = MAX(r->verified, index);
    m = snapshot_answer(r, id);
    m->snapshot_res.done = true;
    m->snapshot_res.match = MIN(r->persisted, r->verified);
}

void on_snapshot(struct raft *r, const struct raft_msg *m)
{
    uint64_t index = m->snapshot.index;

    if (r->role == RAFT_LEADER || m->snapshot.id == 0 || !m->snapshot.config || index == 0 ||
        m->snapshot.index_term == 0 || m->snapshot.index_term > m->term)
        return;
    follower_heard(r, m, m->snapshot.sent_at);
    if (r->snap.busy)
        return; /* the leader sends it again */
    if (index <= r->commit || raft_term_at(r, index) == m->snapshot.index_term) {
        r->commit = MAX(r->commit, index);
        snapshot_done(r, m->snapshot.id, index);
        return;
    }
    if (r->snap.id != m->snapshot.id && r->snap.offset == m->snapshot.offset && !raft_rule(r, RAFT_RULE_SNAPSHOT_ID))
        r->snap.id = m->snapshot.id;
    if ((r->snap.id != m->snapshot.id || !TC_RULE(SNAPSHOT_GOES_ON)) && m->snapshot.offset == 0) {
        r->snap.id = m->snapshot.id;
        r->snap.index = index;
        r->snap.term = m->snapshot.index_term;
        r->snap.config = *m->snapshot.config;
        r->snap.offset = 0;
    }
    if (r->snap.id != m->snapshot.id || r->snap.offset != m->snapshot.offset) {
        (void)snapshot_answer(r, m->snapshot.id);
        return;
    }
    r->snap.busy = true;
    r->snap.installing = m->snapshot.last;
    r->piece = m;
    r->flags |= RAFT_STORE_PIECE;
}

void snapshot_stored(struct raft *r, const struct raft_event *ev)
{
    if (!r->snap.busy || r->snap.installing || ev->snap_id != r->snap.id)
        return;
    r->snap.busy = false;
    r->snap.offset = ev->offset;
    if (r->role == RAFT_FOLLOWER && r->leader != 0)
        (void)snapshot_answer(r, r->snap.id);
}

void snapshot_installed(struct raft *r, const struct raft_event *ev)
{
    uint64_t index = r->snap.index;

    if (!r->snap.installing || ev->snap_id != r->snap.id)
        return;
    ASSERT(index > r->commit);
    if (raft_term_at(r, index) != r->snap.term) {
        log_reset(r, index, r->snap.term);
        r->n_configs = 0;
        config_push(r, index, &r->snap.config);
        r->flags |= RAFT_LOG_RESET;
    }
    r->commit = r->applied = r->apply_asked = index;
    r->snap.busy = r->snap.installing = false;
    r->snap.id = 0;
    election_reset(r);
    if (r->role == RAFT_FOLLOWER && r->leader != 0)
        snapshot_done(r, ev->snap_id, index);
}

void snapshot_refused(struct raft *r, const struct raft_event *ev)
{
    if (!r->snap.busy || ev->snap_id != r->snap.id)
        return;
    r->snap.busy = r->snap.installing = false;
    if (r->role == RAFT_FOLLOWER && r->leader != 0)
        snapshot_answer(r, r->snap.id)->snapshot_res.failed = true;
    r->snap.id = 0;
}
