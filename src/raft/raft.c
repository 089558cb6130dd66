/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events in, updates out. Terms are compared here, before a message reaches its handler; so is the
 * member's own standstill noticed here.
 */
#include <string.h>

#include "common/test_rules.h"
#include "raft/core.h"

bool raft_rule(const struct raft *r, uint32_t rule)
{
    return (r->cfg.rules_off & rule) == 0;
}

/* splitmix64: all that jitter needs. */
uint64_t raft_random(struct raft *r, uint64_t bound)
{
    uint64_t z = (r->rng += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % bound;
}

struct raft_msg *raft_send(struct raft *r, uint64_t to, uint32_t type)
{
    struct raft_msg *m;

    if (r->n_out == RAFT_OUT_MAX)
        r->n_out--; /* the network may drop */
    m = &r->out[r->n_out++];
    memset(m, 0, sizeof *m);
    m->type = type;
    m->from = r->cfg.id;
    m->to = to;
    m->term = r->term;
    m->incarnation = r->incarnation;
    return m;
}

void raft_state_changed(struct raft *r)
{
    r->state_seq++;
    r->flags |= RAFT_SAVE_STATE;
}

static uint64_t or_default(uint64_t v, uint64_t def)
{
    return v ? v : def;
}

struct raft *raft_new(const struct raft_cfg *cfg)
{
    struct raft *r = tc_calloc(1, sizeof *r);
    struct raft_cfg *c = &r->cfg;

    ASSERT(cfg->id != 0);
    *c = *cfg;
    c->heartbeat = or_default(c->heartbeat, 50 * NS_PER_MS);
    c->election_min = or_default(c->election_min, 300 * NS_PER_MS);
    c->election_max = or_default(c->election_max, 600 * NS_PER_MS);
    c->disk_stall = or_default(c->disk_stall, 1200 * NS_PER_MS);
    c->append_bytes_max = or_default(c->append_bytes_max, 256 << 10);
    c->window_bytes_max = or_default(c->window_bytes_max, 4 << 20);
    c->uncommitted_bytes_max = or_default(c->uncommitted_bytes_max, 64 << 20);
    c->log_bytes_max = or_default(c->log_bytes_max, 256 << 20);
    c->rules_off |= (uint32_t)tc_test_value("TERCET_RAFT_RULES_OFF", 0);
    ASSERT(c->heartbeat < c->election_min && c->election_min <= c->election_max);
    r->rng = c->seed;
    r->now = r->last_step = c->now;
    r->term = c->term;
    r->vote = c->vote;
    if (r->term < c->base_term) { /* see raft_restore_done() */
        r->term = c->base_term;
        r->vote = 0;
    }
    r->incarnation = c->incarnation;
    r->log.base_index = r->saved = r->persisted = c->base_index;
    r->log.base_term = c->base_term;
    r->commit = r->applied = r->apply_asked = c->base_index;
    config_push(r, c->base_index, &c->base_config);
    /* Never 0, and quiet from here: what it heard in its former life it does not know. */
    r->heard = raft_rule(r, RAFT_RULE_QUIET_START)
                   ? c->now
                   : c->now - MIN(c->now, c->election_min);
    election_reset(r);
    return r;
}

struct raft *raft_free(struct raft *r)
{
    if (!r)
        return NULL;
    log_reset(r, log_last(r), 0);
    free(r->log.entries);
    free(r->configs);
    free(r);
    return NULL;
}

/* A journal holds tails that later records replace, and these may not even fit behind the base any
 * more. So what does not fit is passed over, and counts as damage only if nothing replaces it. */
static bool restore_fits(const struct raft *r, const struct raft_entry *e)
{
    return e->index <= log_last(r) + 1 && e->term >= raft_term_at(r, e->index - 1);
}

int raft_restore_entry(struct raft *r, const struct raft_entry *e)
{
    struct raft_config c;

    ASSERT(r->commit == r->log.base_index);
    if (e->index <= r->log.base_index) {
        if (log_last(r) > r->log.base_index)
            log_truncate(r, r->log.base_index + 1);
        r->restore_gap = false;
        return 0;
    }
    /* The one that is there: it was written anew. What stands behind it stands, for a crash may have kept that from
     * being written anew, too. */
    if (!r->restore_gap && e->index <= log_last(r) && raft_term_at(r, e->index) == e->term)
        return 0;
    r->restore_gap = !restore_fits(r, e);
    if (r->restore_gap)
        return 0;
    if (e->index <= log_last(r))
        log_truncate(r, e->index);
    if (e->type == RAFT_ENTRY_CONFIG) {
        int len = raft_config_decode(e->data, e->len, &c);

        if (len < 0)
            return len;
        config_push(r, e->index, &c);
    }
    log_append(r, e);
    r->saved = r->persisted = log_last(r);
    return 0;
}

int raft_restore_done(struct raft *r, uint64_t applied)
{
    if (r->restore_gap || applied > log_last(r) || applied < r->log.base_index)
        return -TC_E_DAMAGED;
    r->commit = r->applied = r->apply_asked = applied;
    /* Entries may be durable before their term is: nothing was said in that term yet. */
    if (log_last_term(r) > r->term) {
        r->term = log_last_term(r);
        r->vote = 0;
        raft_state_changed(r);
    }
    return 0;
}

/* -- time ----------------------------------------------------------------------------------- */

/* Whoever did not run for a while has not listened either: it gives the others time to be heard
 * before it judges them (PROTOCOL 1.2). */
static void step_time(struct raft *r, uint64_t now)
{
    now = MAX(now, r->last_step);
    r->now = now;
    if (now - r->last_step > r->cfg.election_min / 2 && raft_rule(r, RAFT_RULE_STOOD_STILL)) {
        if (r->role == RAFT_LEADER)
            r->quorum_since = now;
        else
            election_reset(r);
    }
    r->last_step = now;
}

static void step_tick(struct raft *r)
{
    if (r->role == RAFT_LEADER) {
        leader_tick(r);
        return;
    }
    if (r->now < r->election_deadline)
        return;
    if (!config_may_lead(r) || r->snap.installing) {
        election_reset(r);
        return;
    }
    election_start(r, false);
}

static uint64_t next_deadline(const struct raft *r)
{
    if (r->role == RAFT_LEADER)
        return r->heartbeat_at;
    /* Ticks in between show that the loop runs. */
    return MIN(r->election_deadline, r->now + r->cfg.election_min / 4);
}

/* -- messages ------------------------------------------------------------------------------- */

/* A message of a lower term is answered with the term, so that who missed an election hears of it,
 * and a member whose term ran ahead can come back (PROTOCOL 1.2). */
static void answer_lower_term(struct raft *r, const struct raft_msg *m)
{
    struct raft_msg *res;

    if (!raft_rule(r, RAFT_RULE_ANSWER_LOWER_TERM))
        return;
    if (m->type == RAFT_MSG_VOTE) {
        res = raft_send(r, m->from, RAFT_MSG_VOTE_RES);
        res->vote_res.term = m->vote.term;
    } else if (m->type == RAFT_MSG_APPEND || m->type == RAFT_MSG_SNAPSHOT) {
        res = raft_send(r, m->from, RAFT_MSG_APPEND_RES);
        res->append_res.reject = true;
    }
}

static void step_recv(struct raft *r, const struct raft_msg *m)
{
    bool from_leader = m->type == RAFT_MSG_APPEND || m->type == RAFT_MSG_SNAPSHOT;

    if (m->to != r->cfg.id || m->from == r->cfg.id || m->from == 0)
        return;
    if (m->type == RAFT_MSG_PREVOTE) {
        on_vote(r, m); /* changes nobody's term */
        return;
    }
    if (m->term < r->term) {
        answer_lower_term(r, m);
        return;
    }
    if (m->term > r->term && m->type != RAFT_MSG_VOTE)
        become_follower(r, m->term, from_leader ? m->from : 0);
    switch (m->type) {
    case RAFT_MSG_VOTE:
        on_vote(r, m);
        break;
    case RAFT_MSG_PREVOTE_RES:
    case RAFT_MSG_VOTE_RES:
        on_vote_res(r, m);
        break;
    case RAFT_MSG_APPEND:
        on_append(r, m);
        break;
    case RAFT_MSG_APPEND_RES:
        on_append_res(r, m);
        break;
    case RAFT_MSG_SNAPSHOT:
        on_snapshot(r, m);
        break;
    case RAFT_MSG_SNAPSHOT_RES:
        on_snapshot_res(r, m);
        break;
    case RAFT_MSG_TIMEOUT_NOW:
        on_timeout_now(r, m);
        break;
    case RAFT_MSG_READ:
        on_read(r, m);
        break;
    case RAFT_MSG_READ_RES:
        on_read_res(r, m);
        break;
    default:
        break; /* of a newer version */
    }
}

static void step_compact(struct raft *r, uint64_t index)
{
    if (r->role == RAFT_LEADER) {
        for (uint32_t i = 0; i < r->n_peers; i++) {
            struct raft_progress *p = &r->peers[i];

            if (p->state != RAFT_PEER_SNAPSHOT || p->snap_id == 0)
                continue;
            if (r->log.bytes > r->cfg.log_bytes_max / 2 && p->snap_index < index && TC_RULE(FILL_HALF))
                snapshot_begin(r, p); /* too slow: the next one saves it what is dropped now */
            else
                index = MIN(index, p->snap_index);
        }
    }
    log_compact(r, index);
}

static int step_event(struct raft *r, const struct raft_event *ev)
{
    switch (ev->type) {
    case RAFT_EV_TICK:
        step_tick(r);
        return 0;
    case RAFT_EV_RECV:
        step_recv(r, ev->recv);
        return 0;
    case RAFT_EV_FLUSH:
        return 0;
    case RAFT_EV_STATE_SAVED:
        r->state_saved = MAX(r->state_saved, MIN(ev->seq, r->state_seq));
        if (r->state_saved == r->state_seq)
            election_saved(r);
        return 0;
    case RAFT_EV_PERSISTED:
        log_persisted(r, ev->seq);
        if (r->role == RAFT_LEADER)
            leader_commit(r);
        else
            follower_ack(r, false);
        return 0;
    case RAFT_EV_APPLIED:
        ASSERT(ev->index <= r->apply_asked);
        r->applied = MAX(r->applied, ev->index);
        return 0;
    case RAFT_EV_READ:
        return read_begin(r, ev->seq);
    case RAFT_EV_TRANSFER:
        return leader_transfer(r, ev->peer);
    case RAFT_EV_CHANGE:
        return leader_change(r, ev);
    case RAFT_EV_COMPACT:
        step_compact(r, ev->index);
        return 0;
    case RAFT_EV_SNAP_MADE:
        snapshot_made(r, ev);
        return 0;
    case RAFT_EV_SNAP_PIECE:
    case RAFT_EV_SNAP_FAILED:
        snapshot_piece(r, ev);
        return 0;
    case RAFT_EV_SNAP_STORED:
        snapshot_stored(r, ev);
        return 0;
    case RAFT_EV_SNAP_INSTALLED:
        snapshot_installed(r, ev);
        return 0;
    case RAFT_EV_SNAP_REFUSED:
        snapshot_refused(r, ev);
        return 0;
    default:
        return -TC_E_INVAL;
    }
}

/* -- the update ----------------------------------------------------------------------------- */

void raft_save_start(struct raft *r)
{
    uint32_t slot;

    if (r->save_n == 0)
        r->save_since = r->now;
    /* When full the newest takes these in too: they count a little later. */
    if (r->save_n == RAFT_SAVES_MAX)
        r->save_n--;
    slot = (r->save_head + r->save_n) % RAFT_SAVES_MAX;
    r->saves[slot] = (struct raft_save){++r->save_seq, log_last(r)};
    r->save_n++;
}

static void update_fill(struct raft *r, struct raft_update *up)
{
    bool state_safe = r->state_saved == r->state_seq ||
                      !raft_rule(r, RAFT_RULE_STATE_BEFORE_SEND);
    uint64_t apply;

    memset(up, 0, sizeof *up);
    up->state_seq = r->state_seq;
    up->term = r->term;
    up->vote = r->vote;
    if (r->saved < log_last(r)) {
        up->save_first = r->saved + 1;
        up->save_last = log_last(r);
        raft_save_start(r);
        up->save_seq = r->save_seq;
        r->saved = log_last(r);
        r->flags |= RAFT_SAVE_ENTRIES;
    }
    if (state_safe && r->n_out > 0) {
        up->msgs = r->out;
        up->n_msgs = r->n_out;
        r->out_taken = true;
        r->flags |= RAFT_SEND;
    }
    apply = MIN(r->commit, r->persisted);
    if (apply > r->apply_asked && !r->snap.installing) {
        r->apply_asked = up->apply_to = apply;
        r->flags |= RAFT_APPLY;
    }
    memcpy(up->wants, r->wants, sizeof up->wants);
    up->n_wants = r->n_wants;
    up->piece = r->piece;
    up->reads = r->reads_out;
    up->n_reads = r->n_reads_out;
    up->deadline = next_deadline(r);
    up->flags = r->flags;
}

static void raft_check(const struct raft *r)
{
    ASSERT(r->applied <= r->apply_asked && r->apply_asked <= r->commit);
    ASSERT(r->log.base_index <= r->applied && r->commit <= log_last(r));
    ASSERT(r->persisted <= r->saved && r->saved <= log_last(r));
    ASSERT(r->n_configs > 0 && r->configs[0].index <= r->commit);
    ASSERT(IMPLIES(r->role == RAFT_LEADER, r->leader == r->cfg.id));
}

int raft_step(struct raft *r, const struct raft_event *ev, struct raft_update *up)
{
    int err;

    if (r->out_taken) {
        r->n_out = 0;
        r->out_taken = false;
    }
    r->flags &= RAFT_CONFIG | RAFT_SAVE_STATE; /* what a restore left for the first update */
    r->n_wants = r->n_reads_out = 0;
    r->piece = NULL;
    step_time(r, ev->now);
    err = step_event(r, ev);
    if (r->n_reads > 0)
        reads_check(r);
    if (r->role == RAFT_LEADER)
        leader_flush(r);
    update_fill(r, up);
    r->flags = 0;
    raft_check(r);
    return err;
}

/* -- what others may know ------------------------------------------------------------------- */

static void status_peer(const struct raft *r, uint32_t i, struct raft_peer_status *s)
{
    const struct raft_member *m = &raft_config_now(r)->members[i];

    *s = (struct raft_peer_status){.id = m->id, .member_role = m->role,
                                   .incarnation = m->incarnation, .self = m->id == r->cfg.id};
    if (s->self) {
        s->match = r->persisted;
        s->next = log_last(r) + 1;
        s->heard_at = r->now;
        s->blank = m->incarnation != r->incarnation;
    } else if (r->role == RAFT_LEADER && i < r->n_peers && r->peers[i].id == m->id) {
        const struct raft_progress *p = &r->peers[i];

        s->state = p->state;
        s->match = p->match;
        s->next = p->next;
        s->heard_at = p->heard_at;
        s->snapshot_offset = p->snap_offset;
        s->snapshot_refusals = p->snap_refusals;
        s->blank = p->heard_at != 0 && p->incarnation != m->incarnation;
    }
}

bool raft_parted(const struct raft *r)
{
    return r->role == RAFT_FOLLOWER && r->leader != 0 && r->parted;
}

void raft_get_status(const struct raft *r, struct raft_status *ret)
{
    struct raft_status s = {
        .id = r->cfg.id,
        .incarnation = r->incarnation,
        .term = r->term,
        .vote = r->vote,
        .leader = r->leader,
        .role = r->role,
        .first = r->log.base_index + 1,
        .last = log_last(r),
        .persisted = r->persisted,
        .commit = r->commit,
        .applied = r->applied,
        .voter = config_self_votes(r),
        .transferring = r->role == RAFT_LEADER && r->transferring,
        .installing = r->snap.installing || r->snap.id != 0,
        .parted = raft_parted(r),
        .config_index = r->configs[r->n_configs - 1].index,
        .n_peers = raft_config_now(r)->n,
    };

    for (uint32_t i = 0; i < s.n_peers; i++)
        status_peer(r, i, &s.peers[i]);
    *ret = s;
}
