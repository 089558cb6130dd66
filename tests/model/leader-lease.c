/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model: the leader lease of Raft, with restarts of voters and transfers of leadership
 * (docs/PROTOCOL.md: Raft).
 *
 * Three voters in ticks of true time. A leader sends rounds (heartbeat with its whole log); a round
 * that a quorum answered gives a lease that counts from the sending. A voter whose election timeout
 * ran out campaigns; TimeoutNow makes one campaign at once, and such a campaign is not held up by
 * voters that hear a leader. A restart loses what is not durable and every timer.
 *
 * Abstracted: pre-vote (it only forbids campaigns), check-quorum (a leader that steps
 * down by itself is a leader that does nothing more), pipelining and snapshots (a round brings the
 * whole log, and its last entry is always of the leader's own term). A round, a vote request and a
 * TimeoutNow may arrive at any later time while their sender stands by them, or never. Clocks run
 * at one rate: that they may differ is why LEASE < ELECTION; without that margin
 * ("margin") the model fails too.
 *
 * Checked: at most one voter has a usable lease; a read under it sees every entry whose commit was
 * acknowledged before; no acknowledged entry is lost; one leader per term.
 */
#include <string.h>

#include "common/base.h"
#include "model/explore.h"

enum { VOTERS = 3, QUORUM = 2, LOG_MAX = 3, ELECTION = 3, LEASE = 2 };

/*
 * How much happens in one run. Each is searched whole. Without clocks every timeout may have run
 * out at any time, and there are no leases: that leaves the log alone, over more terms.
 */
static const struct {
    uint8_t terms, restarts, clocks;
} bounds[] = {{0, 0, 0}, {2, 1, 1}, {3, 1, 0}};

enum {
    OFF_STICKY = 1 << 0,
    OFF_START = 1 << 1,
    OFF_SENDING = 1 << 2,
    OFF_OWN_TERM = 1 << 3,
    OFF_TRANSFER = 1 << 4,
    OFF_VOTE = 1 << 5,
    OFF_ENTRY = 1 << 6,
    OFF_LOG = 1 << 7,
    OFF_MARGIN = 1 << 8,
};

static const struct model_rule rules[] = {
    {"sticky", "no vote within the election timeout of hearing a leader (1.2)"},
    {"start", "nor of the voter's own start (1.2)"},
    {"sending", "the lease counts from the sending of the round (1.3)"},
    {"own-term", "the lease begins after an entry of the leader's own term is applied (1.3)"},
    {"transfer", "no lease after TimeoutNow was sent (1.4)"},
    {"vote", "the vote is durable before it is sent (1.1)"},
    {"entry", "an entry is durable before it is acknowledged (1.1)"},
    {"log", "a vote goes only to a log that is not behind"},
    {"margin", "the lease is shorter than the election timeout (1.3)"},
};

enum role { FOLLOWER, CANDIDATE, LEADER };

struct voter {
    uint8_t term, vote; /* vote: voter + 1 */
    uint8_t role;
    uint8_t heard;        /* ticks since a leader was heard, or since the start */
    uint8_t log[LOG_MAX]; /* terms */
    uint8_t len, commit;
    uint8_t votes;            /* CANDIDATE */
    uint8_t forced;           /* CANDIDATE: told by TimeoutNow */
    uint8_t lease;            /* LEADER: ticks left */
    uint8_t handed;           /* LEADER: has sent TimeoutNow in this term */
    uint8_t now_to, now_term; /* the TimeoutNow under way: voter + 1 */
    struct {
        uint8_t active, age, len, commit, acked;
    } round; /* LEADER: the newest round; earlier ones are lost */
};

struct state {
    struct voter v[VOTERS];
    uint8_t done_len, done[LOG_MAX]; /* what was acknowledged to callers, and its terms */
    uint8_t restarts, bounds;
};

static bool has_lease(const struct voter *v, unsigned off)
{
    return v->role == LEADER && v->lease &&
           ((off & OFF_OWN_TERM) || (v->commit && v->log[v->commit - 1] == v->term));
}

/* Emits @n, and reports what is wrong with it. */
static void check(const struct state *n, unsigned off, struct explorer *x)
{
    unsigned leases = 0;

    for (unsigned i = 0; i < VOTERS; i++) {
        const struct voter *v = &n->v[i];

        if (!has_lease(v, off))
            continue;
        leases++;
        if (v->commit < n->done_len)
            model_violation(x, "voter %u reads under its lease without entry %u", i, n->done_len);
    }
    if (leases > 1)
        model_violation(x, "two leaders hold a lease");
}

static void follower(struct voter *v)
{
    v->role = FOLLOWER;
    v->votes = v->forced = v->lease = v->handed = 0;
    memset(&v->round, 0, sizeof v->round);
}

static void see_term(struct voter *v, unsigned term)
{
    if (term <= v->term)
        return;
    v->term = term;
    v->vote = 0;
    follower(v);
}

static void campaign(struct state *n, unsigned i, bool forced)
{
    struct voter *v = &n->v[i];

    see_term(v, v->term + 1);
    v->role = CANDIDATE;
    v->vote = i + 1;
    v->votes = 1u << i;
    v->forced = forced;
}

static void vote_steps(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    const struct voter *c = &s->v[i];
    struct state n = *s;

    for (unsigned j = 0; j < VOTERS; j++) {
        const struct voter *v = &s->v[j];
        unsigned mine = v->len ? v->log[v->len - 1] : 0, its = c->len ? c->log[c->len - 1] : 0;

        if (j == i || v->term > c->term || (v->term == c->term && v->vote && v->vote != i + 1))
            continue;
        if (!c->forced && !(off & OFF_STICKY) && bounds[s->bounds].clocks &&
            (v->heard < ELECTION || v->role == LEADER))
            continue;
        n = *s;
        see_term(&n.v[j], c->term);
        if ((its > mine || (its == mine && c->len >= v->len)) || (off & OFF_LOG)) {
            n.v[j].vote = i + 1;
            n.v[i].votes |= 1u << j;
        }
        model_emit(x, &n, "voter %u asks %u for its vote in term %u", i, j, c->term);
    }
    if (model_bits(c->votes) >= QUORUM && c->len < LOG_MAX) {
        n = *s;
        for (unsigned j = 0; j < VOTERS; j++)
            if (j != i && s->v[j].role == LEADER && s->v[j].term == c->term)
                model_violation(x, "two leaders in term %u", c->term);
        follower(&n.v[i]);
        n.v[i].role = LEADER;
        n.v[i].log[n.v[i].len++] = c->term;
        model_emit(x, &n, "voter %u leads term %u", i, c->term);
    }
}

/* The round of leader @i reaches voter @j. */
static void round_arrives(const struct state *s, unsigned i, unsigned j, struct explorer *x)
{
    const struct voter *l = &s->v[i];
    struct state n = *s;
    struct voter *v = &n.v[j];
    unsigned same = 0;

    if (v->term > l->term)
        return;
    see_term(v, l->term);
    if (v->role == CANDIDATE)
        follower(v);
    v->heard = 0;
    while (same < v->len && same < l->round.len && v->log[same] == l->log[same])
        same++;
    if (same < l->round.len) {
        memset(v->log, 0, sizeof v->log);
        memcpy(v->log, l->log, l->round.len);
        v->len = l->round.len;
    }
    v->commit = MAX(v->commit, MIN(l->round.commit, v->len));
    n.v[i].round.acked |= 1u << j;
    model_emit(x, &n, "the round of %u reaches %u", i, j);
}

static void round_counts(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    const unsigned lease = (off & OFF_MARGIN) ? ELECTION + 1 : LEASE;
    struct state n = *s;
    struct voter *l = &n.v[i];
    unsigned age = (off & OFF_SENDING) ? 0 : l->round.age;

    if (bounds[s->bounds].clocks && age < lease && (!l->handed || (off & OFF_TRANSFER)))
        l->lease = MAX(l->lease, lease - age);
    if (l->round.len >
        l->commit) { /* its last entry is of the leader's own term: see vote_steps() */
        l->commit = l->round.len;
        for (unsigned k = 0; k < n.done_len && k < l->commit; k++)
            if (n.done[k] != l->log[k])
                model_violation(x, "entry %u, once acknowledged, is another now", k + 1);
        if (l->commit > n.done_len) {
            n.done_len = l->commit;
            memcpy(n.done, l->log, l->commit);
        }
    }
    memset(&l->round, 0, sizeof l->round);
    check(&n, off, x);
    model_emit(x, &n, "leader %u counts the round: lease %u, commit %u", i, l->lease, l->commit);
}

static void leader_steps(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    const struct voter *l = &s->v[i];
    struct state n = *s;

    if (!l->round.active || (l->round.len && l->round.len < l->len) || l->round.age >= LEASE) {
        memset(&n.v[i].round, 0, sizeof n.v[i].round);
        n.v[i].round.active = 1;
        n.v[i].round.len = l->len;
        n.v[i].round.commit = l->commit;
        n.v[i].round.acked = 1u << i;
        model_emit(x, &n, "leader %u sends a round", i);
        if (bounds[s->bounds].clocks && l->commit < l->len && l->term > 1) {
            n.v[i].round.len = 0;
            model_emit(x, &n, "leader %u sends a round without entries", i);
        }
    }
    if (l->round.active) {
        for (unsigned j = 0; j < VOTERS; j++)
            if (j != i && !(l->round.acked & (1u << j)))
                round_arrives(s, i, j, x);
        if (model_bits(l->round.acked) >= QUORUM)
            round_counts(s, i, off, x);
    }
    if (l->len == 1) { /* one entry besides those that begin a term: by the first leader */
        n = *s;
        n.v[i].log[n.v[i].len++] = l->term;
        model_emit(x, &n, "leader %u appends an entry", i);
    }
    for (unsigned j = 0; j < VOTERS && !l->handed && bounds[s->bounds].clocks; j++) {
        if (j == i)
            continue;
        n = *s;
        n.v[i].handed = 1;
        n.v[i].now_to = j + 1;
        n.v[i].now_term = l->term;
        if (!(off & OFF_TRANSFER))
            n.v[i].lease = 0;
        model_emit(x, &n, "leader %u sends TimeoutNow to %u", i, j);
    }
}

static void restart(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    struct state n = *s;
    struct voter *v = &n.v[i];

    n.restarts++;
    follower(v);
    v->commit = 0; /* known again from the next leader */
    v->heard = (off & OFF_START) ? ELECTION : 0;
    if (off & OFF_VOTE)
        v->vote = 0;
    if ((off & OFF_ENTRY) && v->len)
        v->log[--v->len] = 0;
    model_emit(x, &n, "voter %u restarts", i);
}

static void tick(const struct state *s, unsigned off, struct explorer *x)
{
    struct state n = *s;

    if (!bounds[s->bounds].clocks)
        return;
    for (unsigned i = 0; i < VOTERS; i++) {
        struct voter *v = &n.v[i];

        v->heard = MIN(v->heard + 1, ELECTION);
        v->lease -= v->lease ? 1 : 0;
        if (v->round.active)
            v->round.age = MIN(v->round.age + 1, ELECTION + 1);
    }
    check(&n, off, x);
    model_emit(x, &n, "a tick");
}

static void expand(const void *state, unsigned off, struct explorer *x)
{
    const struct state *s = state;

    if (!s->bounds) {
        for (unsigned i = 1; i < ARRAY_SIZE(bounds); i++) {
            struct state n = *s;

            n.bounds = i;
            model_emit(x, &n, "with %u terms, %u restarts%s", bounds[i].terms, bounds[i].restarts,
                       bounds[i].clocks ? "" : ", without clocks");
        }
        return;
    }
    for (unsigned i = 0; i < VOTERS; i++) {
        const struct voter *v = &s->v[i];
        struct state n = *s;

        if (v->role == CANDIDATE)
            vote_steps(s, i, off, x);
        if (v->role == LEADER)
            leader_steps(s, i, off, x);
        if (v->role != LEADER && v->term < bounds[s->bounds].terms &&
            (v->heard == ELECTION || !bounds[s->bounds].clocks)) {
            campaign(&n, i, false);
            model_emit(x, &n, "voter %u campaigns for term %u", i, v->term + 1);
        }
        if (v->now_to) {
            unsigned j = v->now_to - 1;

            n = *s;
            n.v[i].now_to = n.v[i].now_term = 0;
            if (s->v[j].term == v->now_term && s->v[j].role != LEADER &&
                v->now_term < bounds[s->bounds].terms)
                campaign(&n, j, true);
            model_emit(x, &n, "the TimeoutNow of %u reaches %u", i, j);
        }
        if (s->restarts < bounds[s->bounds].restarts)
            restart(s, i, off, x);
    }
    tick(s, off, x);
}

/* ---- Symmetry: which voter is which does not matter --------------------------------------------
 */

static uint8_t permute(uint8_t mask, const uint8_t *p)
{
    return ((mask & 1) << p[0]) | ((mask >> 1 & 1) << p[1]) | ((mask >> 2 & 1) << p[2]);
}

static void canon(void *state)
{
    static const uint8_t perms[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                        {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    struct state *s = state;
    struct state best = *s;

    for (unsigned k = 1; k < 6; k++) {
        const uint8_t *p = perms[k];
        struct state n = *s;

        for (unsigned i = 0; i < VOTERS; i++) {
            struct voter *v = &n.v[p[i]];

            *v = s->v[i];
            v->vote = v->vote ? p[v->vote - 1] + 1 : 0;
            v->now_to = v->now_to ? p[v->now_to - 1] + 1 : 0;
            v->votes = permute(v->votes, p);
            v->round.acked = permute(v->round.acked, p);
        }
        if (memcmp(&n, &best, sizeof n) < 0)
            best = n;
    }
    *s = best;
}

/* Voter 0 leads term 1; its first entry is committed everywhere. */
static void init(void *state)
{
    struct state *s = state;

    for (unsigned i = 0; i < VOTERS; i++)
        s->v[i] = (struct voter){.term = 1, .vote = 1, .log = {1}, .len = 1, .commit = 1};
    s->v[0].role = LEADER;
    s->done_len = 1;
    s->done[0] = 1;
}

int main(int argc, char **argv)
{
    static const struct model m = {.name = "leader-lease",
                                   .state_size = sizeof(struct state),
                                   .rules = rules,
                                   .n_rules = ARRAY_SIZE(rules),
                                   .init = init,
                                   .expand = expand,
                                   .canon = canon};

    return model_main(argc, argv, &m);
}
