/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leader changes the group: one member at a time (Ongaro 4.1), so that the majorities before and
 * after a change always meet. By command members are added (they learn only), promoted and removed,
 * and what would leave the group without a majority of members that answer is refused. By itself the
 * leader only mends: a voter that lost its disk learns again and votes again.
 */
#include <string.h>

#include "common/test_rules.h"
#include "raft/core.h"

enum { PROMOTE_LAG_MAX = 1000 }; /* entries: what a heartbeat or two make up for */

/* One at a time, none before an entry of the own term is committed (Ongaro 4.1 and its erratum). */
static bool change_allowed(const struct raft *r)
{
    return r->role == RAFT_LEADER && !r->transferring &&
           ((r->commit >= r->term_start && r->configs[r->n_configs - 1].index <= r->commit) ||
            !raft_rule(r, RAFT_RULE_ONE_CHANGE));
}

static void config_set(struct raft_config *c, const struct raft_member *m)
{
    uint32_t i = 0;

    while (i < c->n && c->members[i].id < m->id)
        i++;
    if (i < c->n && c->members[i].id == m->id) {
        c->members[i] = *m;
        return;
    }
    ASSERT(c->n < RAFT_MEMBERS_MAX);
    memmove(&c->members[i + 1], &c->members[i], (c->n - i) * sizeof c->members[0]);
    c->members[i] = *m;
    c->n++;
}

static void config_drop(struct raft_config *c, uint64_t id)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n; i++)
        if (c->members[i].id != id)
            c->members[n++] = c->members[i];
    c->n = n;
}

static void change_append(struct raft *r, const struct raft_config *c, const void *data, uint32_t len)
{
    struct raft_entry e = {.type = RAFT_ENTRY_CONFIG};
    uint8_t head[RAFT_CONFIG_BYTES_MAX];
    uint32_t head_len = raft_config_encode(c, head);
    uint8_t *buf = tc_malloc(head_len + len);

    memcpy(buf, head, head_len);
    if (len > 0)
        memcpy(buf + head_len, data, len);
    e.data = buf;
    e.len = head_len + len;
    e.index = log_last(r) + 1;
    e.term = r->term;
    log_append(r, &e);
    free(buf);
    r->uncommitted_bytes += e.len;
    config_push(r, e.index, c);
    leader_config_changed(r);
}

/* It answered a moment ago, from the disk that the configuration names. */
static bool member_answers(struct raft *r, const struct raft_member *m)
{
    const struct raft_progress *p;

    if (m->id == r->cfg.id)
        return true;
    p = progress_find(r, m->id);
    return p && p->heard_at != 0 && p->incarnation == m->incarnation &&
           p->echo + r->cfg.election_max >= r->now;
}

static int add_check(const struct raft_config *c, const struct raft_member *have)
{
    if (have)
        return -TC_E_EXIST;
    return c->n == RAFT_MEMBERS_MAX ? -TC_E_LIMIT : 0;
}

static int promote_check(struct raft *r, const struct raft_member *have)
{
    const struct raft_progress *p;

    if (!have)
        return -TC_E_NOENT;
    if (have->role == RAFT_VOTER)
        return -TC_E_EXIST;
    if (!member_answers(r, have))
        return -TC_E_UNREACHABLE;
    p = progress_find(r, have->id);
    if ((p->state != RAFT_PEER_REPLICATE || p->match + PROMOTE_LAG_MAX < log_last(r)) && TC_RULE(PROMOTE_LAG))
        return -TC_E_AGAIN;
    /* It must know that it is a member, from this very disk: who does not votes for nobody, and if nobody but this leader has
     * the promotion then its vote is needed. */
    return p->match < r->configs[r->n_configs - 1].index && TC_RULE(PROMOTE_KNOWS) ? -TC_E_AGAIN : 0;
}

static int quorum_check(struct raft *r, const struct raft_config *c)
{
    uint32_t live = 0;

    for (uint32_t i = 0; i < c->n; i++)
        live += c->members[i].role == RAFT_VOTER && member_answers(r, &c->members[i]);
    return live < config_voters(c) / 2 + 1 ? -TC_E_NO_QUORUM : 0;
}

int leader_change(struct raft *r, const struct raft_event *ev)
{
    struct raft_config c = *raft_config_now(r);
    const struct raft_member *have = raft_config_find(raft_config_now(r), ev->peer);
    struct raft_member m = {ev->peer, have ? have->incarnation : ev->incarnation, ev->member_role};
    bool votes = have && have->role == RAFT_VOTER;
    int err;

    if (r->role != RAFT_LEADER)
        return -TC_E_NOT_LEADER;
    if (ev->peer == 0)
        return -TC_E_INVAL;
    switch (ev->member_role) {
    case RAFT_LEARNER:
    case RAFT_STANDBY:
        err = add_check(&c, have);
        break;
    case RAFT_VOTER:
        err = promote_check(r, have);
        break;
    case RAFT_REMOVED:
        err = !have ? -TC_E_NOENT : votes && config_voters(&c) == 1 ? -TC_E_INVAL : 0;
        break;
    default:
        err = -TC_E_INVAL;
    }
    if (err < 0)
        return err;
    if (!change_allowed(r))
        return -TC_E_BUSY;
    if (m.role == RAFT_REMOVED)
        config_drop(&c, m.id);
    else
        config_set(&c, &m);
    if ((votes || m.role == RAFT_VOTER) && TC_RULE(CHANGE_QUORUM))
        err = quorum_check(r, &c);
    if (err == 0)
        change_append(r, &c, ev->data, ev->len);
    return err;
}

/* A member that answers from another disk than the configuration names becomes a learner of that
 * incarnation; a voter that became one for that votes again when it has caught up (PROTOCOL 1.5). */
void leader_mend_members(struct raft *r)
{
    if (!change_allowed(r) || !raft_rule(r, RAFT_RULE_INCARNATION))
        return;
    for (uint32_t i = 0; i < r->n_peers; i++) {
        const struct raft_progress *p = &r->peers[i];
        struct raft_config c = *raft_config_now(r);
        struct raft_member m = *raft_config_find(&c, p->id);

        /* An answer to something sent before the last change may be of its former life. */
        if (p->id == r->cfg.id || p->heard_at == 0 || p->echo <= r->change_sent_at)
            continue;
        if (p->incarnation != m.incarnation) {
            m.role = m.role == RAFT_STANDBY ? RAFT_STANDBY : RAFT_LEARNER;
            m.incarnation = p->incarnation;
        } else if (m.role == RAFT_LEARNER && (p->state == RAFT_PEER_REPLICATE || !TC_RULE(FILLED)) &&
                   (p->match >= r->commit || !TC_RULE(FILLED))) {
            m.role = RAFT_VOTER;
        } else {
            continue;
        }
        config_set(&c, &m);
        change_append(r, &c, NULL, 0);
        return;
    }
}

void leader_leave(struct raft *r)
{
    const struct raft_config_at *now = &r->configs[r->n_configs - 1];

    if (r->role != RAFT_LEADER || r->transferring || now->index > r->commit ||
        raft_config_find(&now->config, r->cfg.id) || !TC_RULE(LEADER_LEAVES))
        return;
    if (leader_transfer(r, 0) < 0)
        become_follower(r, r->term, 0);
}
