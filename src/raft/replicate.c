/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leader: append with batches and pipelines, commit, lease, check-quorum, transfer.
 *
 *  PROBE ──an answer that fits──► REPLICATE       PROBE: one message out, looking for the position
 *    │ ▲ ◄────── a gap ─────────────┘   │         REPLICATE: a window of messages out, next runs ahead
 *    ▼ └── installed ── SNAPSHOT ◄──────┘         SNAPSHOT: behind the base; heartbeats only
 *
 * A heartbeat is an append without entries at the position where the follower should be, so a lost
 * message is found by the next heartbeat. Each append bears its time of sending, each answer echoes
 * the newest: lease and check-quorum are counted from these (PROTOCOL 1.3).
 */
#include <string.h>

#include "common/test_rules.h"
#include "raft/core.h"

uint64_t kth_largest(uint64_t *v, uint32_t n, uint32_t k)
{
    if (k == 0 || k > n)
        return 0;
    for (uint32_t i = 1; i < n; i++) {
        uint64_t x = v[i];
        uint32_t j = i;

        for (; j > 0 && v[j - 1] < x; j--)
            v[j] = v[j - 1];
        v[j] = x;
    }
    return v[k - 1];
}

static struct raft_progress *find(const struct raft *r, uint64_t id)
{
    for (uint32_t i = 0; i < r->n_peers; i++)
        if (r->peers[i].id == id)
            return (struct raft_progress *)(uintptr_t)&r->peers[i];
    return NULL;
}

struct raft_progress *progress_find(struct raft *r, uint64_t id)
{
    return find(r, id);
}

bool progress_counts(const struct raft *r, const struct raft_progress *p)
{
    const struct raft_member *m = raft_config_find(raft_config_now(r), p->id);

    if (!m || (m->role != RAFT_VOTER && raft_rule(r, RAFT_RULE_LEARNERS)))
        return false;
    if (p->id == r->cfg.id)
        return true;
    return p->heard_at != 0 &&
           (p->incarnation == m->incarnation || !raft_rule(r, RAFT_RULE_INCARNATION));
}

void progress_probe(struct raft *r, struct raft_progress *p, uint64_t next)
{
    (void)r;
    p->state = RAFT_PEER_PROBE;
    p->next = MAX(next, p->match + 1);
    p->paused = false;
    p->window_n = 0;
    p->window_bytes = 0;
    p->snap_id = 0;
    p->snap_wanted = false;
}

static void progress_init(struct raft *r, struct raft_progress *p, uint64_t id)
{
    memset(p, 0, sizeof *p);
    p->id = id;
    progress_probe(r, p, log_last(r) + 1);
}

/* Peers follow the configuration; those that stay keep their progress. */
void leader_config_changed(struct raft *r)
{
    const struct raft_config *c = raft_config_now(r);
    struct raft_progress *old = tc_malloc(sizeof r->peers);
    uint32_t n_old = r->n_peers;

    memcpy(old, r->peers, sizeof r->peers);
    r->n_peers = c->n;
    for (uint32_t i = 0; i < c->n; i++) {
        uint32_t j = 0;

        while (j < n_old && old[j].id != c->members[i].id)
            j++;
        if (j < n_old)
            r->peers[i] = old[j];
        else
            progress_init(r, &r->peers[i], c->members[i].id);
    }
    free(old);
    r->change_sent_at = r->now;
}

void become_leader(struct raft *r)
{
    struct raft_entry noop = {.type = RAFT_ENTRY_NOOP};

    ASSERT(r->role == RAFT_CANDIDATE);
    r->role = RAFT_LEADER;
    r->leader = r->cfg.id;
    r->flags |= RAFT_ROLE;
    r->transferring = r->lease_gone = r->timeout_sent = false;
    r->n_peers = 0;
    r->quorum_since = r->now;
    r->read_round = 0;
    r->heartbeat_at = r->now + r->cfg.heartbeat; /* the first entry announces it */
    r->uncommitted_bytes = 0;
    for (uint64_t i = r->commit + 1; i <= log_last(r); i++)
        r->uncommitted_bytes += raft_entry_at(r, i)->len;
    leader_config_changed(r);
    noop.index = r->term_start = log_last(r) + 1;
    noop.term = r->term;
    log_append(r, &noop);
    for (uint32_t i = 0; i < r->n_peers; i++)
        r->peers[i].next = noop.index;
}

int raft_propose(struct raft *r, const void *data, uint32_t len, uint64_t *ret_index)
{
    struct raft_entry e = {.data = data, .len = len, .type = RAFT_ENTRY_DATA};

    if (r->role != RAFT_LEADER || r->transferring)
        return -TC_E_NOT_LEADER;
    if (r->uncommitted_bytes + len > r->cfg.uncommitted_bytes_max && r->uncommitted_bytes > 0)
        return -TC_E_BACKPRESSURE;
    if (log_full(r) && TC_RULE(LOG_LIMIT_LEADER))
        return -TC_E_BACKPRESSURE;
    e.index = log_last(r) + 1;
    e.term = r->term;
    log_append(r, &e);
    r->uncommitted_bytes += len;
    *ret_index = e.index;
    return 0;
}

/* -- commit and lease ----------------------------------------------------------------------- */

static uint64_t leader_durable(const struct raft *r)
{
    return raft_rule(r, RAFT_RULE_LEADER_PERSISTED) ? r->persisted : log_last(r);
}

void leader_commit(struct raft *r)
{
    uint64_t v[RAFT_MEMBERS_MAX];
    uint64_t commit;
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_peers; i++) {
        const struct raft_progress *p = &r->peers[i];

        if (progress_counts(r, p))
            v[n++] = p->id == r->cfg.id ? leader_durable(r) : p->match;
    }
    commit = kth_largest(v, n, config_quorum(r));
    /* Raft 5.4.2, figure 8: entries of older terms commit only behind one of this term. */
    if (commit < r->term_start && raft_rule(r, RAFT_RULE_COMMIT_OWN_TERM))
        return;
    while (r->commit < commit)
        r->uncommitted_bytes -= raft_entry_at(r, ++r->commit)->len;
    leader_leave(r);
}

uint64_t leader_quorum_echo(const struct raft *r)
{
    uint64_t v[RAFT_MEMBERS_MAX];
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_peers; i++) {
        const struct raft_progress *p = &r->peers[i];

        if (!progress_counts(r, p))
            continue;
        if (p->id == r->cfg.id)
            v[n++] = UINT64_MAX;
        else
            v[n++] = raft_rule(r, RAFT_RULE_LEASE_FROM_SEND) ? p->echo : p->echo_at;
    }
    return kth_largest(v, n, config_quorum(r));
}

uint64_t raft_lease_end(const struct raft *r)
{
    uint64_t start;

    if (r->role != RAFT_LEADER)
        return 0;
    if (r->lease_gone && raft_rule(r, RAFT_RULE_NO_LEASE_AFTER_TRANSFER))
        return 0;
    if (r->applied < r->term_start && raft_rule(r, RAFT_RULE_LEASE_OWN_TERM))
        return 0;
    start = leader_quorum_echo(r);
    if (start == 0 || start == UINT64_MAX)
        return start;
    return start + r->cfg.election_min * (TC_RULE(LEASE_MARGIN) ? 4 : 6) / 5;
}

bool raft_lease_valid(const struct raft *r, uint64_t now)
{
    return now < raft_lease_end(r);
}

/* -- sending -------------------------------------------------------------------------------- */

static void append_fill(struct raft *r, struct raft_progress *p, struct raft_msg *m)
{
    m->append.prev_index = p->next - 1;
    m->append.prev_term = raft_term_at(r, p->next - 1);
    m->append.commit = r->commit;
    m->append.sent_at = r->now;
}

/* One append with what fits; false if there is nothing to send or no leave to. */
static bool append_send(struct raft *r, struct raft_progress *p)
{
    uint64_t last = TC_RULE(SAVED_BESIDE) ? log_last(r) : r->persisted;
    struct raft_msg *m;
    uint64_t bytes = 0;
    uint32_t n = 0;

    if (p->state == RAFT_PEER_SNAPSHOT || p->next > last)
        return false;
    if (p->next <= r->log.base_index) {
        snapshot_begin(r, p);
        return false;
    }
    if (p->state == RAFT_PEER_PROBE ? p->paused
                                    : p->window_n == RAFT_WINDOW_MAX ||
                                          p->window_bytes >= r->cfg.window_bytes_max)
        return false;
    if (r->n_out + RAFT_MEMBERS_MAX * 2 > RAFT_OUT_MAX)
        return false;
    for (uint64_t i = p->next; i <= last && n < RAFT_BATCH_MAX; i++, n++) {
        uint32_t len = raft_entry_at(r, i)->len;

        if (n > 0 && bytes + len > r->cfg.append_bytes_max)
            break;
        bytes += len;
    }
    m = raft_send(r, p->id, RAFT_MSG_APPEND);
    append_fill(r, p, m);
    m->append.entries = raft_entry_at(r, p->next);
    m->append.n = n;
    if (p->state == RAFT_PEER_PROBE) {
        p->paused = true;
        return true;
    }
    p->next += n;
    p->window[(p->window_head + p->window_n) % RAFT_WINDOW_MAX].last = p->next - 1;
    p->window[(p->window_head + p->window_n) % RAFT_WINDOW_MAX].bytes = bytes;
    p->window_n++;
    p->window_bytes += bytes;
    return true;
}

static void heartbeat_send(struct raft *r, struct raft_progress *p)
{
    struct raft_msg *m;

    if (p->state == RAFT_PEER_PROBE) {
        p->paused = false;
        if (append_send(r, p))
            return;
    }
    m = raft_send(r, p->id, RAFT_MSG_APPEND);
    m->append.sent_at = r->now;
    if (p->state != RAFT_PEER_SNAPSHOT)
        append_fill(r, p, m);
}

static void transfer_flush(struct raft *r)
{
    struct raft_progress *p = progress_find(r, r->transfer_to);
    struct raft_msg *m;

    if (r->timeout_sent || !p || p->match != log_last(r))
        return;
    r->timeout_sent = true;
    r->lease_gone = true;
    m = raft_send(r, p->id, RAFT_MSG_TIMEOUT_NOW);
    m->timeout_now.last_index = log_last(r);
    m->timeout_now.last_term = log_last_term(r);
    if (!raft_config_find(raft_config_now(r), r->cfg.id))
        become_follower(r, r->term, 0); /* removed: the next leader will not tell it anything */
}

void leader_flush(struct raft *r)
{
    for (uint32_t i = 0; i < r->n_peers; i++) {
        if (r->peers[i].id == r->cfg.id)
            continue;
        while (append_send(r, &r->peers[i]))
            continue;
    }
    if (reads_want_round(r)) {
        r->read_round = r->now;
        for (uint32_t i = 0; i < r->n_peers; i++)
            if (r->peers[i].id != r->cfg.id)
                heartbeat_send(r, &r->peers[i]);
    }
    if (r->transferring)
        transfer_flush(r);
}

/* -- answers -------------------------------------------------------------------------------- */

static void window_free(struct raft_progress *p)
{
    while (p->window_n > 0 && p->window[p->window_head].last <= p->match) {
        p->window_bytes -= p->window[p->window_head].bytes;
        p->window_head = (p->window_head + 1) % RAFT_WINDOW_MAX;
        p->window_n--;
    }
}

bool progress_heard(struct raft *r, struct raft_progress *p, const struct raft_msg *m,
                    uint64_t sent_at)
{
    if (p->heard_at != 0 && p->incarnation != m->incarnation) {
        /* Another disk answers in its name: nothing that the old one said holds. */
        if (sent_at < p->echo)
            return false;
        p->match = 0;
        p->echo = p->echo_at = 0;
        progress_probe(r, p, p->next);
    }
    p->incarnation = m->incarnation;
    p->heard_at = r->now;
    if (sent_at <= r->now && sent_at > p->echo) {
        p->echo = sent_at;
        p->echo_at = r->now;
    }
    return true;
}

static void append_rejected(struct raft *r, struct raft_progress *p, const struct raft_msg *m)
{
    uint64_t next;

    if (m->append_res.prev_index <= p->match || p->state == RAFT_PEER_SNAPSHOT)
        return; /* an old one */
    if (p->state == RAFT_PEER_PROBE && m->append_res.prev_index != p->next - 1)
        return;
    next = log_find_conflict(r, m->append_res.hint_index, m->append_res.hint_term) + 1;
    if (m->append_res.hint_index < r->log.base_index)
        next = MIN(next, r->log.base_index); /* cannot be checked here: a snapshot */
    progress_probe(r, p, MIN(next, m->append_res.prev_index));
}

void on_append_res(struct raft *r, const struct raft_msg *m)
{
    struct raft_progress *p = progress_find(r, m->from);

    if (r->role != RAFT_LEADER || !p || p->id == r->cfg.id)
        return;
    if (m->append_res.match > log_last(r) || !progress_heard(r, p, m, m->append_res.sent_at))
        return;
    if (m->append_res.reject) {
        append_rejected(r, p, m);
        return;
    }
    if (m->append_res.match > p->match) {
        p->match = m->append_res.match;
        p->next = MAX(p->next, p->match + 1);
        window_free(p);
    }
    if (p->state == RAFT_PEER_PROBE && m->append_res.match + 1 >= p->next) {
        p->state = RAFT_PEER_REPLICATE;
        p->next = p->match + 1;
    }
    if (p->state == RAFT_PEER_SNAPSHOT && p->match >= r->log.base_index)
        progress_probe(r, p, p->match + 1); /* it has come up by itself */
    leader_commit(r);
}

/* -- transfer ------------------------------------------------------------------------------- */

int leader_transfer(struct raft *r, uint64_t to)
{
    const struct raft_progress *best = NULL;

    if (r->role != RAFT_LEADER)
        return -TC_E_NOT_LEADER;
    if (r->transferring)
        return -TC_E_BUSY;
    for (uint32_t i = 0; i < r->n_peers; i++) {
        const struct raft_progress *p = &r->peers[i];

        if (p->id == r->cfg.id || !progress_counts(r, p) || (to != 0 && p->id != to))
            continue;
        if (p->echo + r->cfg.election_max < r->now)
            continue;
        if (!best || p->match > best->match)
            best = p;
    }
    if (!best)
        return -TC_E_UNREACHABLE;
    r->transferring = true;
    r->transfer_to = best->id;
    r->transfer_deadline = r->now + r->cfg.election_max;
    r->flags |= RAFT_ROLE;
    return 0;
}

void leader_tick(struct raft *r)
{
    uint64_t echo = leader_quorum_echo(r);

    if (MAX(echo, r->quorum_since) < r->now - MIN(r->now, r->cfg.election_max) && raft_rule(r, RAFT_RULE_CHECK_QUORUM)) {
        become_follower(r, r->term, 0); /* check-quorum: others may have elected long ago */
        return;
    }
    if (r->transferring && r->now >= r->transfer_deadline && raft_rule(r, RAFT_RULE_TRANSFER_ENDS)) {
        become_follower(r, r->term, 0); /* it has no lease any more, so it is no leader */
        return;
    }
    if (r->save_n > 0 && r->now - r->save_since > r->cfg.disk_stall && !r->transferring &&
        r->n_peers > 1 && raft_rule(r, RAFT_RULE_STALL))
        (void)leader_transfer(r, 0); /* nobody to take over: goes on, and tries again */
    leader_mend_members(r);
    if (r->now >= r->heartbeat_at) {
        r->heartbeat_at = r->now + r->cfg.heartbeat;
        for (uint32_t i = 0; i < r->n_peers; i++)
            if (r->peers[i].id != r->cfg.id)
                heartbeat_send(r, &r->peers[i]);
    }
    for (uint32_t i = 0; i < r->n_peers; i++)
        if (r->peers[i].state == RAFT_PEER_SNAPSHOT)
            snapshot_tick(r, &r->peers[i]);
}
