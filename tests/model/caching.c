/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model: grants and recalls of leases on one inode (docs/PROTOCOL.md: leases).
 *
 * A leader grants S (cache, while the caching right of the generation runs) and X (write locally)
 * to clients, and changes the inode itself when no cache is in the way. The leader may fail over
 * once: the new one knows X and the state, not S. "value" counts the changes of the inode that
 * were completed towards a caller: by the leader, or in the cache of the X holder.
 *
 * Abstracted: the old leader stops when the new one begins (model leader-lease), but what it sent
 * is still under way. Each client has one slot per kind of message; a message in it may arrive at
 * any later time, again as long as it was not replaced, or never. An answer to a request that the
 * client no longer waits for is as good as lost. X does not expire here (model quorum has fencing);
 * its flush is part of the acknowledgement. Clocks run at one rate.
 *
 * Some runs have somebody outside (the kernel) to whom a client gives what it caches, for a tick and
 * never past its right (src/client/outside.c). Taking it back may last until that time is over. There
 * a client that enters the generation of a new leader may drop its S or not, send its list again,
 * and meet the next leader with the list still under way; a leader may be unable to take an S that
 * is asserted, and gives every grant a new id.
 *
 * Checked after every step: what a client may serve from its cache under S is the newest value, and
 * so is what is outside; beside an X nobody else may cache, and there is one X.
 */
#include <string.h>

#include "common/base.h"
#include "model/explore.h"

enum { CLIENTS = 2, RIGHT = 2, OUTSIDE = 1, NO_COUNTER = 255 };

/* How much happens in one run; each is searched whole. Client 1 stands by if clients is 1. */
static const struct {
    uint8_t clients, terms, values, grants, x_grants;
    bool clocks; /* false: no tick, every right runs all the time */
    bool outside;
} bounds[] = {{0},
              {1, 2, 1, 2, 0, true, false},
              {1, 1, 2, 2, 0, true, false},
              {2, 1, 2, 3, 2, false, false},
              {2, 2, 1, 3, 1, false, false},
              {1, 2, 1, 2, 0, true, true},
              {1, 3, 1, 1, 0, true, true},
              {1, 2, 2, 1, 0, true, true}};

enum {
    OFF_GENERATION = 1 << 0,
    OFF_IGNORE = 1 << 1,
    OFF_COUNTER = 1 << 2,
    OFF_BETWEEN = 1 << 3,
    OFF_WAIT = 1 << 4,
    OFF_SENDING = 1 << 5,
    OFF_FIRST_LIST = 1 << 6,
    OFF_OLD_ANSWER = 1 << 7,
    OFF_RECALL_S = 1 << 8,
    OFF_RECALL_X = 1 << 9,
    OFF_ACK = 1 << 10,
    OFF_OUTSIDE_RECALL = 1 << 11,
    OFF_OUTSIDE_LIST = 1 << 12,
    OFF_ADOPT = 1 << 13,
    OFF_REFUSE = 1 << 14,
    OFF_DECLINE = 1 << 15,
};

static const struct model_rule rules[] = {
    {"generation", "going on without an acknowledgement ends the caching generation (3.1)"},
    {"ignore", "a grant that was recalled is ignored when it comes after all (3.2)"},
    {"counter", "no answer is cached below the highest recall acknowledged (3.2)"},
    {"between", "between recall and application answers give nothing to cache (3.2)"},
    {"wait", "a new leader waits for unknown S (3.3)"},
    {"sending", "the caching right counts from the sending of the keepalive (3.1)"},
    {"first-list", "S is asserted only on a term's first list, while the right runs (3.1)"},
    {"old-answer", "an answer of another generation or term is not cached (3.1, 3.2)"},
    {"recall-s", "a change waits for those who hold S"},
    {"recall-x", "a grant waits for the holder of X"},
    {"ack", "an acknowledgement counts for the recall it names alone (3.2)"},
    {"outside-recall", "a recall is acknowledged when nothing is outside any more (8)"},
    {"outside-list", "a list leaves out no S under which something is outside (3.1)"},
    {"adopt", "a grant that comes beside the list replaces the id of an S asserted (3.1)"},
    {"refuse", "a leader that does not take an S asserted ends the generation (3.1)"},
    {"decline", "a grant that is given back unused is ignored from then on (3.2)"},
};

enum hold { NONE, S, X };
enum change { IDLE, ATTRIBUTES, ALL, FOR_X, FOR_S }; /* what the leader recalls for */

struct client {
    uint8_t term, gen; /* the caching generation it is in */
    uint8_t hold, gid;
    uint8_t cached, cache;
    uint8_t right;  /* ticks left, by its own clock */
    uint8_t acked;  /* highest recall counter acknowledged */
    uint8_t ignore; /* no grant up to this one is taken: its recall was here */
    uint8_t wait;   /* enum hold: what it asks for */
    uint8_t out, out_value; /* outside: ticks left */
    uint8_t taking;         /* a recall is here, and waits for what is outside */
    uint8_t release;        /* grant given back unused, 0: none */
    struct {
        uint8_t phase, age, term, gen, list, has_s, gid; /* phase 1: under way, 2: its answer is */
    } keepalive;
    struct {
        uint8_t term, gen, gid, hold, value, counter;
    } answer; /* hold NONE: no answer is under way */
    struct {
        uint8_t gid, counter, keeps;
    } recall; /* gid 0: none */
    struct {
        uint8_t gid, counter;
    } ack;
};

struct state {
    uint8_t bounds, term, value, x, x_gid; /* replicated; x: client + 1 */
    uint8_t change, change_for, pending, counter, gids, x_grants;
    struct {
        uint8_t s, gid, gen, right, known;
    } session[CLIENTS]; /* the leader's memory */
    struct client client[CLIENTS];
};

static void emit(const struct state *n, struct explorer *x, const char *what, unsigned i)
{
    for (unsigned k = 0; k < CLIENTS; k++) {
        const struct client *c = &n->client[k];
        bool caches = c->hold == S && c->right && c->cached;

        if (caches && c->cache != n->value)
            model_violation(x, "%s (%u): client %u serves value %u, not %u", what, i, k, c->cache,
                            n->value);
        if (c->out && c->out_value != n->value)
            model_violation(x, "%s (%u): value %u is outside client %u, not %u", what, i,
                            c->out_value, k, n->value);
        for (unsigned j = 0; j < CLIENTS; j++)
            if (j != k && c->hold == X &&
                (n->client[j].hold == X || (n->client[j].hold == S && n->client[j].right)))
                model_violation(x, "%s (%u): client %u holds X, client %u caches", what, i, k, j);
    }
    model_emit(x, n, "%s (%u)", what, i);
}

/* ---- The leader ------------------------------------------------------------------------------ */

static void send_recall(struct state *n, unsigned i)
{
    n->client[i].recall.gid = n->x == i + 1 ? n->x_gid : n->session[i].gid;
    n->client[i].recall.counter = n->counter;
    n->client[i].recall.keeps = n->change == ATTRIBUTES && n->x != i + 1;
}

static bool conflicts(const struct state *s, unsigned i, unsigned off)
{
    if (s->change_for == i + 1)
        return false; /* its own request */
    if (s->x == i + 1)
        return !(off & OFF_RECALL_X);
    if (s->change == FOR_S)
        return false;
    if (!s->session[i].known && !(off & OFF_WAIT))
        return true; /* also when its right has run out: a list of it may be under way */
    return s->session[i].s && !(off & OFF_RECALL_S);
}

static void change_begins(const struct state *s, enum change change, unsigned who, unsigned off,
                          struct explorer *x)
{
    static const char *const names[] = {"", "change of attributes begins", "change of all begins",
                                        "X is asked for", "S is asked for beside X"};
    struct state n = *s;

    n.change = change;
    n.change_for = who;
    n.counter++;
    for (unsigned i = 0; i < bounds[s->bounds].clients; i++) {
        if (!conflicts(&n, i, off))
            continue;
        n.pending |= 1u << i;
        if (n.session[i].s || n.x == i + 1)
            send_recall(&n, i);
    }
    emit(&n, x, names[change], who);
}

static void answer(struct state *n, unsigned i, enum hold hold, unsigned gid)
{
    n->client[i].answer.term = n->term;
    n->client[i].answer.gen = n->session[i].gen;
    n->client[i].answer.gid = gid;
    n->client[i].answer.hold = hold;
    n->client[i].answer.value = n->value;
    n->client[i].answer.counter = n->counter;
}

/* Nobody is in the way any more. */
static void change_applies(const struct state *s, struct explorer *x)
{
    struct state n = *s;
    unsigned who = s->change_for - 1;

    n.change = n.change_for = 0;
    if (s->change == FOR_X) {
        n.session[who].s = n.session[who].gid = 0;
        n.x = who + 1;
        n.x_gid = ++n.gids;
        n.x_grants++;
        if (n.client[who].wait == X)
            answer(&n, who, X, n.x_gid);
    } else if (s->change != FOR_S) {
        n.value++;
    }
    emit(&n, x, "the change is applied", s->change);
}

static void grant_s(const struct state *s, unsigned i, struct explorer *x)
{
    struct state n = *s;

    if (n.session[i].s) {
        answer(&n, i, S, n.session[i].gid);
        emit(&n, x, "the value is read again under S", i);
        if (!bounds[s->bounds].outside)
            return;
    }
    if (s->gids >= bounds[s->bounds].grants)
        return;
    n.session[i].s = 1;
    n.session[i].gid = ++n.gids;
    answer(&n, i, S, n.session[i].gid);
    emit(&n, x, "S is granted", i);
}

/* It asserts an S that the leader cannot take. */
static void list_refused(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    struct state n = *s;
    struct client *c = &n.client[i];

    if (off & OFF_REFUSE) {
        n.session[i].known = 1;
        n.session[i].right = RIGHT;
        n.pending &= ~(1u << i);
        c->keepalive.phase = 2;
    } else {
        n.session[i].gen++;
        memset(&c->keepalive, 0, sizeof c->keepalive);
    }
    emit(&n, x, "list is not taken", i);
}

static void keepalive_arrives(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    struct state n = *s;
    struct client *c = &n.client[i];
    bool current = c->keepalive.term == s->term && c->keepalive.gen == s->session[i].gen;

    if (off & OFF_GENERATION)
        current = c->keepalive.term == s->term;
    if (!current || (!c->keepalive.list && !s->session[i].known))
        return;
    if (c->keepalive.list && !s->session[i].known) {
        if (bounds[s->bounds].outside && c->keepalive.has_s && !s->session[i].gen)
            list_refused(s, i, off, x);
        n.session[i].known = 1;
        n.session[i].s = c->keepalive.has_s;
        n.session[i].gid = c->keepalive.has_s ? c->keepalive.gid : 0;
        if (n.pending & (1u << i)) {
            if (n.session[i].s)
                send_recall(&n, i);
            else if (n.x != i + 1)
                n.pending &= ~(1u << i);
        }
    }
    n.session[i].right = RIGHT;
    c->keepalive.phase = 2;
    emit(&n, x, c->keepalive.list ? "list arrives" : "keepalive arrives", i);
}

static void leader_steps(const struct state *s, unsigned off, struct explorer *x)
{
    const unsigned clients = bounds[s->bounds].clients;
    struct state n;

    if (!s->change && s->value < bounds[s->bounds].values) {
        change_begins(s, ATTRIBUTES, 0, off, x);
        change_begins(s, ALL, 0, off, x);
    }
    if (s->change && !s->pending)
        change_applies(s, x);
    for (unsigned i = 0; i < clients; i++) {
        const struct client *c = &s->client[i];
        bool free = !s->change || (off & OFF_BETWEEN);

        if (c->wait == S && !c->answer.hold && s->session[i].known && free && s->x != i + 1) {
            if (!s->x || (off & OFF_RECALL_X))
                grant_s(s, i, x);
            else if (!s->change)
                change_begins(s, FOR_S, i + 1, off, x);
        }
        if (c->wait == X && !c->answer.hold && !s->change && s->x != i + 1 &&
            s->x_grants < bounds[s->bounds].x_grants)
            change_begins(s, FOR_X, i + 1, off, x);
        if (c->keepalive.phase == 1)
            keepalive_arrives(s, i, off, x);
        if (c->release) {
            n = *s;
            if (n.session[i].gid == c->release)
                n.session[i].s = n.session[i].gid = 0;
            n.client[i].release = 0;
            emit(&n, x, "release arrives", i);
        }
        if (c->ack.gid) {
            bool named = c->ack.counter == s->counter || (off & OFF_ACK);

            n = *s;
            memset(&n.client[i].ack, 0, sizeof n.client[i].ack);
            if ((s->pending & (1u << i)) && named) {
                if (s->x == i + 1)
                    n.x = n.x_gid = 0;
                else if (s->change != ATTRIBUTES)
                    n.session[i].s = n.session[i].gid = 0;
                n.pending &= ~(1u << i);
            }
            emit(&n, x, "acknowledgement arrives", i);
        }
        if ((s->pending & (1u << i)) && !s->session[i].right && s->x != i + 1) {
            n = *s;
            n.pending &= ~(1u << i);
            n.session[i].s = n.session[i].gid = 0;
            if (!(off & OFF_GENERATION)) {
                n.session[i].gen++;
                n.session[i].known = 0;
            }
            emit(&n, x, "its right has run out: the leader goes on without it", i);
        }
    }
    if (s->term < bounds[s->bounds].terms) {
        n = *s;
        n.term++;
        n.change = n.change_for = n.pending = 0;
        for (unsigned i = 0; i < clients; i++) {
            memset(&n.session[i], 0, sizeof n.session[i]);
            n.session[i].right = RIGHT;
        }
        emit(&n, x, "a new leader", n.term);
    }
}

/* ---- A client -------------------------------------------------------------------------------- */

static void client_drop(struct client *c)
{
    c->hold = c->gid = c->cached = c->cache = 0;
}

static void takes_answer(struct state n, unsigned i, unsigned off, struct explorer *x)
{
    struct client *c = &n.client[i];
    bool mine = c->answer.term == c->term && c->answer.gen == c->gen &&
                !(c->keepalive.list && c->keepalive.phase);
    bool takes = c->answer.hold == X ? c->answer.term == c->term : mine;
    bool beside = bounds[n.bounds].outside && c->keepalive.list && c->keepalive.phase &&
                  c->answer.term == c->keepalive.term && c->answer.gen == c->keepalive.gen;

    if (off & OFF_OLD_ANSWER)
        takes = true;
    if (c->answer.gid <= c->ignore && !(off & OFF_IGNORE))
        takes = beside = false;
    if (c->taking)
        takes = beside = false;
    if (beside && c->hold == S && !(off & OFF_ADOPT)) {
        c->gid = MAX(c->gid, c->answer.gid);
    } else if (beside) {
        client_drop(c);
        c->release = c->answer.gid;
        if (!(off & OFF_DECLINE))
            c->ignore = MAX(c->ignore, c->release);
    }
    if (takes) {
        c->hold = c->answer.hold;
        c->gid = c->answer.gid;
        if (c->answer.counter >= c->acked || (off & OFF_COUNTER)) {
            c->cached = 1;
            c->cache = c->answer.value;
        }
    }
    c->wait = NONE;
    memset(&c->answer, 0, sizeof c->answer);
    emit(&n, x, takes ? "takes the answer" : "uses the answer uncached", i);
}

static void recall_arrives(struct state n, unsigned i, unsigned off, struct explorer *x)
{
    struct client *c = &n.client[i];
    bool keeps = c->gid == c->recall.gid && c->recall.keeps;
    struct state again;

    if (!keeps)
        c->ignore = MAX(c->ignore, c->recall.gid); /* held or not: an answer may be under way */
    c->acked = MAX(c->acked, c->recall.counter);
    c->cached = c->cache = 0;
    if (c->out && !(off & OFF_OUTSIDE_RECALL)) {
        c->taking = 1;
        emit(&n, x, "recall arrives; something is outside", i);
        return;
    }
    c->taking = 0;
    if (!keeps)
        client_drop(c);
    c->ack.gid = c->recall.gid;
    c->ack.counter = c->recall.counter;
    again = n; /* the message may come once more */
    emit(&again, x, "recall arrives, and will again", i);
    memset(&c->recall, 0, sizeof c->recall);
    emit(&n, x, "recall arrives", i);
}

static void keepalive_answered(struct state n, unsigned i, unsigned off, struct explorer *x)
{
    struct client *c = &n.client[i];
    unsigned age = (off & OFF_SENDING) ? 0 : c->keepalive.age;

    if (c->keepalive.list) {
        c->term = c->keepalive.term;
        c->gen = c->keepalive.gen;
    }
    c->right = MAX(c->right, RIGHT - MIN(age, (unsigned)RIGHT));
    memset(&c->keepalive, 0, sizeof c->keepalive);
    emit(&n, x, "keepalive is answered", i);
}

static void client_sends(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    bool old = s->client[i].term != s->term || s->client[i].gen != s->session[i].gen;
    struct state n = *s;
    struct client *c = &n.client[i];

    memset(&c->keepalive, 0, sizeof c->keepalive);
    c->keepalive.phase = 1;
    if (!old) {
        c->keepalive.term = c->term;
        c->keepalive.gen = c->gen;
        emit(&n, x, "sends a keepalive", i);
        return;
    }
    /* It was told of a new term or generation: a list, with its S only if the rule allows it. */
    bool may = c->term != s->term && c->right &&
               (!bounds[s->bounds].outside || s->session[i].gen == 0);

    if (off & OFF_FIRST_LIST)
        may = true;

    c->keepalive.list = 1;
    c->keepalive.term = s->term;
    c->keepalive.gen = s->session[i].gen;
    if (c->hold == S && may) {
        c->keepalive.has_s = 1;
        c->keepalive.gid = c->gid;
        emit(&n, x, "sends a list with its S", i);
        if (!bounds[s->bounds].outside)
            return;
    }
    if (c->hold == S)
        client_drop(c);
    c->keepalive.has_s = c->keepalive.gid = 0;
    if (c->out && !(off & OFF_OUTSIDE_LIST))
        memset(&c->keepalive, 0, sizeof c->keepalive); /* later */
    emit(&n, x, c->keepalive.phase ? "sends a list without S" : "drops its S", i);
}

/* What is cached goes outside, and comes back. */
static void outside_steps(const struct state *s, unsigned i, struct explorer *x)
{
    const struct client *c = &s->client[i];
    struct state n = *s;

    if (c->hold == S && c->right && c->cached && !c->taking &&
        !(c->keepalive.list && c->keepalive.phase)) {
        n.client[i].out = MIN(c->right, (uint8_t)OUTSIDE);
        n.client[i].out_value = c->cache;
        emit(&n, x, "lets somebody outside keep the value", i);
    }
    if (c->out && c->taking) {
        n = *s;
        n.client[i].out = n.client[i].out_value = 0;
        emit(&n, x, "what is outside is taken back", i);
    }
}

static void client_steps(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    const struct client *c = &s->client[i];
    struct state n;

    if (!c->wait && c->hold != X) {
        n = *s;
        n.client[i].wait = S;
        emit(&n, x, "asks for S, or for the value", i);
        if (s->x_grants < bounds[s->bounds].x_grants) {
            n.client[i].wait = X;
            emit(&n, x, "asks for X", i);
        }
    }
    if (c->wait) {
        n = *s;
        n.client[i].wait = NONE;
        memset(&n.client[i].answer, 0, sizeof n.client[i].answer);
        emit(&n, x, "gives up its request", i);
    }
    if (c->answer.hold)
        takes_answer(*s, i, off, x);
    if (c->recall.gid)
        recall_arrives(*s, i, off, x);
    if (c->keepalive.phase == 2)
        keepalive_answered(*s, i, off, x);
    if (bounds[s->bounds].clocks &&
        (!c->keepalive.phase || c->keepalive.age >= RIGHT ||
         (bounds[s->bounds].outside && c->keepalive.list && c->keepalive.term != s->term)))
        client_sends(s, i, off, x);
    if (bounds[s->bounds].outside)
        outside_steps(s, i, x);
    if ((s->pending & (1u << i)) && !c->recall.gid && !c->ack.gid &&
        (s->session[i].s || s->x == i + 1)) {
        n = *s;
        send_recall(&n, i);
        emit(&n, x, "the recall is sent again", i);
    }
    if (c->hold == X && s->value < bounds[s->bounds].values) {
        n = *s;
        n.value++;
        n.client[i].cache = n.value;
        emit(&n, x, "writes under X", i);
    }
}

static void tick(const struct state *s, struct explorer *x)
{
    struct state n = *s;

    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *c = &n.client[i];

        n.session[i].right -= n.session[i].right ? 1 : 0;
        c->right -= c->right ? 1 : 0;
        c->out -= c->out ? 1 : 0;
        c->out_value = c->out ? c->out_value : 0;
        if (c->keepalive.phase)
            c->keepalive.age = MIN(c->keepalive.age + 1, RIGHT);
    }
    emit(&n, x, "a tick", 0);
}

static void expand(const void *state, unsigned off, struct explorer *x)
{
    const struct state *s = state;

    if (!s->bounds) {
        for (unsigned i = 1; i < ARRAY_SIZE(bounds); i++) {
            struct state n = *s;

            n.bounds = i;
            for (unsigned k = 0; k < bounds[i].clients && !bounds[i].clocks; k++)
                n.session[k].right = n.client[k].right = RIGHT;
            emit(&n, x, "with bounds", i);
        }
        return;
    }
    leader_steps(s, off, x);
    for (unsigned i = 0; i < bounds[s->bounds].clients; i++)
        client_steps(s, i, off, x);
    if (bounds[s->bounds].clocks)
        tick(s, x);
}

static void init(void *state)
{
    struct state *s = state;

    s->term = 1;
    for (unsigned i = 0; i < CLIENTS; i++) {
        s->session[i].known = 1;
        s->client[i].term = 1;
    }
}

int main(int argc, char **argv)
{
    static const struct model m = {.name = "caching",
                                   .state_size = sizeof(struct state),
                                   .rules = rules,
                                   .n_rules = ARRAY_SIZE(rules),
                                   .init = init,
                                   .expand = expand};

    return model_main(argc, argv, &m);
}
