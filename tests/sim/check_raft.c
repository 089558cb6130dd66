/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/check_raft.h"

#include <inttypes.h>
#include <string.h>

#include <uthash.h>
#include <xxhash.h>

#include "meta/raft_wire.h"

struct fact { /* what was said of a key must be said for ever */
    struct {
        uint64_t kind, a, b, c;
    } key;
    uint64_t value;
    uint64_t term; /* COMMITTED: of the leader that said so first */
    UT_hash_handle hh;
};

enum { LEADER = 1 /* term */, VOTE /* member, incarnation, term */, ENTRY /* index, term: its bytes */,
       BEFORE /* index, term: the term of the entry before */, COMMITTED /* index: its term */ };

struct check_raft {
    struct cluster *c;
    struct fact *facts;
    struct raft_wire_scratch scratch;
};

struct check_raft *check_raft_new(struct cluster *c)
{
    struct check_raft *k = tc_calloc(1, sizeof *k);

    k->c = c;
    return k;
}

void check_raft_free(struct check_raft *k)
{
    struct fact *f, *next;

    if (!k)
        return;
    HASH_ITER (hh, k->facts, f, next) {
        HASH_DEL(k->facts, f);
        free(f);
    }
    free(k->scratch.entries);
    free(k);
}

static struct fact *fact(struct check_raft *k, uint64_t kind, uint64_t a, uint64_t b, uint64_t c, bool make)
{
    struct fact probe, *f;

    memset(&probe, 0, sizeof probe);
    probe.key.kind = kind;
    probe.key.a = a;
    probe.key.b = b;
    probe.key.c = c;
    HASH_FIND(hh, k->facts, &probe.key, sizeof probe.key, f);
    if (!f && make) {
        f = tc_calloc(1, sizeof *f);
        f->key = probe.key;
        HASH_ADD(hh, k->facts, key, sizeof f->key, f);
        f->value = UINT64_MAX;
    }
    return f;
}

/* Remember, or compare. False: something else was said before. */
static bool hold(struct check_raft *k, uint64_t kind, uint64_t a, uint64_t b, uint64_t c, uint64_t value)
{
    struct fact *f = fact(k, kind, a, b, c, true);

    if (f->value == UINT64_MAX)
        f->value = value;
    return f->value == value;
}

/* The leader of @m's term says that its entry @index is of term @term. */
static void check_place(struct check_raft *k, const struct raft_msg *m, uint64_t index, uint64_t term)
{
    struct fact *f;

    if (!index || !term)
        return;
    f = fact(k, COMMITTED, index, 0, 0, index <= m->append.commit);
    if (!f)
        return;
    if (f->value == UINT64_MAX) {
        f->value = term;
        f->term = m->term;
    }
    f->term = index <= m->append.commit ? MIN(f->term, m->term) : f->term;
    if (f->value != term && m->term >= f->term)
        cluster_fail(k->c,
                     "leader %" PRIu64 " of term %" PRIu64 " has an entry of term %" PRIu64 " at index %" PRIu64
                     ", where one of term %" PRIu64 " was committed",
                     m->from, m->term, term, index, f->value);
}

static void check_append(struct check_raft *k, const struct raft_msg *m)
{
    uint64_t before = m->append.prev_term;

    check_place(k, m, m->append.prev_index, m->append.prev_term);
    for (uint32_t i = 0; i < m->append.n; i++) {
        const struct raft_entry *e = &m->append.entries[i];

        check_place(k, m, e->index, e->term);
        if (!hold(k, ENTRY, e->index, e->term, 0, XXH3_64bits(e->data, e->len) >> 1) ||
            (e->index > 1 && !hold(k, BEFORE, e->index, e->term, 0, before)))
            cluster_fail(k->c, "two entries with index %" PRIu64 " and term %" PRIu64, e->index, e->term);
        before = e->term;
    }
}

/* What is left of a damaged member neither votes nor acknowledges in the name of what it was. */
static void check_damaged(struct check_raft *k, const struct raft_msg *m)
{
    bool says = (m->type == RAFT_MSG_VOTE_RES || m->type == RAFT_MSG_PREVOTE_RES) && m->vote_res.granted;

    says = says || (m->type == RAFT_MSG_APPEND_RES && !m->append_res.reject);
    for (unsigned i = 0; says && i < k->c->n_members; i++)
        if (k->c->members[i].id == m->from && k->c->members[i].bad && k->c->members[i].bad == m->incarnation)
            cluster_fail(k->c, "member %" PRIu64 " votes or acknowledges with damaged files", m->from);
}

void check_raft(struct check_raft *k, struct slice body, const struct buf *payload)
{
    struct raft_msg m;

    if (raft_wire_decode(body, payload, &k->scratch, &m) < 0) {
        cluster_fail(k->c, "a malformed message of Raft was sent");
        return;
    }
    if ((m.type == RAFT_MSG_APPEND || m.type == RAFT_MSG_SNAPSHOT || m.type == RAFT_MSG_TIMEOUT_NOW) &&
        !hold(k, LEADER, m.term, 0, 0, m.from))
        cluster_fail(k->c, "two leaders in term %" PRIu64 ": %" PRIu64 " is one", m.term, m.from);
    if (m.type == RAFT_MSG_VOTE_RES && m.vote_res.granted &&
        !hold(k, VOTE, m.from, m.incarnation, m.vote_res.term, m.to))
        cluster_fail(k->c, "member %" PRIu64 " votes twice in term %" PRIu64, m.from, m.vote_res.term);
    check_damaged(k, &m);
    if (m.type == RAFT_MSG_APPEND)
        check_append(k, &m);
}
