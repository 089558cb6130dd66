/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model: attributes of one file in the kernel's cache (docs/FUSE.md 4, src/client/outside.c).
 *
 * A mount may let the kernel keep the attributes that it answers, while it holds S. A change
 * elsewhere recalls S; the mount takes the attributes back by a notification from another thread.
 * Threads ask, and what they are answered reaches the kernel's inode at some later moment, when the
 * thread runs again. The kernel drops attributes that were asked for before the inode's last change
 * of version (a notification, a write, other attributes), except those of SETATTR, LINK and CREATE;
 * a notification of an inode that it does not know finds nothing. What was asked for before an
 * inode was forgotten does not last (Linux since 6.13; without it a lookup that sleeps through a
 * write, a close and memory pressure would bring the attributes from before the write).
 *
 * Abstracted: "value" stands for all attributes and counts the changes that were completed towards
 * somebody. Time: what was given may last for ever. That a dropped answer leaves read() with the
 * size the kernel had before is a gap of the kernel that nothing here can close; what is checked is
 * that no attributes that count as valid in the kernel are older than a completed change.
 */
#include <string.h>

#include "common/base.h"
#include "model/explore.h"

enum { REQUESTS = 2, VALUES = 2, LOOKUPS_MAX = 2 };

enum {
    OFF_LEASE = 1 << 0,
    OFF_RECALL = 1 << 1,
    OFF_WAIT = 1 << 2,
    OFF_LEAVING = 1 << 3,
    OFF_CHECKED = 1 << 4,
    OFF_RETRY = 1 << 5,
    OFF_FIRST = 1 << 6,
};

static const struct model_rule rules[] = {
    {"lease", "attributes are given out under S only"},
    {"recall", "none are while S is being recalled"},
    {"wait", "a recall is acknowledged when the notification is done"},
    {"leaving", "whether they may last is decided as the answer leaves"},
    {"checked", "what the kernel takes unchecked may not last"},
    {"retry", "an inode that the kernel does not know, but refers to, is notified of again"},
    {"first", "a second recall waits for what the first one takes back"},
};

enum kind { LOOKUP, GETATTR, SETATTR };
enum phase { IDLE, SENT, FOUND, ANSWERED };

struct request {
    uint8_t phase, kind;
    uint8_t dropped; /* the inode's version has changed since it was sent */
    uint8_t evicted; /* an inode has been forgotten since */
    uint8_t value, lasts;
};

struct state {
    uint8_t value; /* newest completed */
    /* the mount */
    uint8_t s, recalls, given, refs;
    uint8_t notify; /* 1: posted, to be run by a thread; 2: done */
    /* the kernel */
    uint8_t known, lookups, forgets, size, valid;
    struct request r[REQUESTS];
    /* an append of the mount's own; X is taken and left within it */
    uint8_t write, write_value;
};

static void emit(const struct state *n, struct explorer *x, const char *what, unsigned i)
{
    if (n->known && n->valid && n->size < n->value)
        model_violation(x, "%s (%u): the kernel shows value %u, not %u", what, i, n->size, n->value);
    model_emit(x, n, "%s (%u)", what, i);
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static void new_version(struct state *n)
{
    for (unsigned i = 0; i < REQUESTS; i++)
        n->r[i].dropped |= n->r[i].phase != IDLE;
}

static void send(const struct state *s, unsigned i, enum kind kind, struct explorer *x)
{
    static const char *const names[] = {"LOOKUP", "GETATTR", "SETATTR"};
    struct state n = *s;

    n.r[i] = (struct request){.phase = SENT, .kind = kind};
    emit(&n, x, names[kind], i);
}

static void takes(struct state n, unsigned i, struct explorer *x)
{
    struct request r = n.r[i];
    bool fresh = r.kind == LOOKUP && !n.known;

    n.r[i] = (struct request){0};
    if (r.kind == LOOKUP) {
        n.known = 1;
        n.lookups++;
    }
    if (fresh || !r.dropped || r.kind == SETATTR) {
        n.size = r.value;
        n.valid = r.lasts && !r.evicted;
        new_version(&n);
    }
    emit(&n, x, "the kernel takes the answer", i);
}

static bool inode_in_use(const struct state *s)
{
    for (unsigned i = 0; i < REQUESTS; i++) {
        if (s->r[i].phase != IDLE && s->r[i].kind != LOOKUP)
            return true;
    }
    return s->write;
}

static void kernel_steps(const struct state *s, struct explorer *x)
{
    struct state n;

    for (unsigned i = 0; i < REQUESTS; i++) {
        if (s->r[i].phase == IDLE) {
            if (s->lookups + s->forgets < LOOKUPS_MAX)
                send(s, i, LOOKUP, x);
            if (s->known && !s->valid)
                send(s, i, GETATTR, x);
            if (s->known)
                send(s, i, SETATTR, x);
        } else if (s->r[i].phase == ANSWERED) {
            takes(*s, i, x);
        }
    }
    if (s->known && !inode_in_use(s)) {
        n = *s;
        n.known = n.valid = n.size = n.lookups = 0;
        n.forgets += s->lookups;
        for (unsigned i = 0; i < REQUESTS; i++)
            n.r[i].evicted = n.r[i].phase != IDLE;
        emit(&n, x, "the kernel forgets the inode", 0);
    }
    if (s->known && s->valid) {
        n = *s;
        n.valid = 0;
        emit(&n, x, "the time given has run out", 0);
    }
    if (s->known && !s->write && s->value + 1 < VALUES + 1) {
        n = *s;
        n.write = SENT;
        emit(&n, x, "WRITE", 0);
    }
    if (s->write == ANSWERED) {
        n = *s;
        n.write = IDLE;
        n.value = MAX(n.value, s->write_value);
        n.valid = 0;
        n.size = MAX(n.size, s->write_value);
        new_version(&n);
        emit(&n, x, "the write returns", 0);
    }
}

/* ---- the mount ------------------------------------------------------------------------------- */

/* What the stores and the leader know: also a write that has not returned. */
static uint8_t truth(const struct state *s)
{
    return s->write == ANSWERED ? MAX(s->value, s->write_value) : s->value;
}

static void decide(struct state *n, unsigned i, unsigned off)
{
    struct request *r = &n->r[i];

    if ((!n->s && !(off & OFF_LEASE)) || (n->recalls && !(off & OFF_RECALL)))
        return;
    if (r->kind == SETATTR && !(off & OFF_CHECKED))
        return;
    if (!(off & OFF_LEAVING))
        r->value = truth(n);
    r->lasts = n->given = 1;
}

static void answer_steps(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    struct state n = *s;

    if (s->r[i].phase == SENT) {
        n.r[i].phase = FOUND;
        n.r[i].value = truth(s);
        if (off & OFF_LEAVING)
            decide(&n, i, off);
        emit(&n, x, "the answer is found", i);
    } else if (s->r[i].phase == FOUND) {
        n.r[i].phase = ANSWERED;
        if (!(off & OFF_LEAVING))
            decide(&n, i, off);
        n.refs += s->r[i].kind == LOOKUP;
        emit(&n, x, "the answer leaves", i);
    }
}

static void notify_runs(struct state n, unsigned off, struct explorer *x)
{
    if (!n.known && n.refs && !(off & OFF_RETRY))
        return; /* again, later */
    if (n.known) {
        new_version(&n);
        n.valid = 0;
    }
    n.notify = 2;
    emit(&n, x, "the notification is done", 0);
}

/* Each change elsewhere recalls S anew. */
static void recall_steps(const struct state *s, unsigned off, struct explorer *x)
{
    struct state n = *s;

    if (s->recalls < 2 && s->value + s->recalls < VALUES && !s->write) {
        n.recalls++;
        if (!s->recalls && s->s && s->given && s->refs)
            n.notify = 1;
        emit(&n, x, "a change elsewhere recalls S", n.recalls);
    }
    if (s->notify == 1)
        notify_runs(*s, off, x);
    if (s->recalls && (s->notify != 1 || (off & OFF_WAIT) || (s->recalls == 2 && (off & OFF_FIRST)))) {
        n = *s;
        n.s = 0;
        n.value++;
        n.recalls--;
        if (!n.recalls) {
            if (s->notify == 2)
                n.given = 0;
            n.notify = 0;
        }
        emit(&n, x, "S is given back, the change completed", 0);
    }
}

static void mount_steps(const struct state *s, unsigned off, struct explorer *x)
{
    struct state n;

    for (unsigned i = 0; i < REQUESTS; i++)
        answer_steps(s, i, off, x);
    recall_steps(s, off, x);
    if (!s->s && !s->recalls) {
        n = *s;
        n.s = 1;
        emit(&n, x, "S is granted", 0);
    }
    if (s->forgets) {
        n = *s;
        n.refs -= s->forgets;
        n.forgets = 0;
        emit(&n, x, "FORGET arrives", 0);
    }
    if (s->write == SENT && !s->recalls && s->value < VALUES) {
        n = *s;
        n.write = ANSWERED;
        n.write_value = s->value + 1;
        emit(&n, x, "the write is done", 0);
    }
}

static void expand(const void *state, unsigned off, struct explorer *x)
{
    kernel_steps(state, x);
    mount_steps(state, off, x);
}

static void init(void *state TC_UNUSED)
{
}

int main(int argc, char **argv)
{
    static const struct model m = {.name = "outside",
                                   .state_size = sizeof(struct state),
                                   .rules = rules,
                                   .n_rules = ARRAY_SIZE(rules),
                                   .init = init,
                                   .expand = expand};

    return model_main(argc, argv, &m);
}
