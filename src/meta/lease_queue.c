/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues of operations per inode, and the recalls they wait for (leases.h).
 */
#include "meta/lease_internal.h"

#include "common/test_rules.h"

#include <utlist.h>

/* ---- operations ---- */

static void op_ready(struct leases *l, struct lease_op *op)
{
    if (op->on_ready)
        return;
    op->on_ready = true;
    DL_APPEND(l->ready, op);
}

static void op_unready(struct leases *l, struct lease_op *op)
{
    if (!op->on_ready)
        return;
    op->on_ready = false;
    DL_DELETE(l->ready, op);
}

struct lease_op *lease_ready_next(struct leases *l)
{
    struct lease_op *op = l->ready;

    if (op)
        op_unready(l, op);
    return op;
}

void lease_op_add(struct lease_op *op, uint64_t ino, enum lease_mode mode)
{
    unsigned at = 0;

    ASSERT(op->state == LEASE_OP_IDLE);
    while (at < op->n && op->slots[at].ino < ino)
        at++;
    if (at < op->n && op->slots[at].ino == ino) {
        if (mode == LEASE_MODE_EXCLUSIVE)
            op->slots[at].mode = (uint8_t)mode;
        return;
    }
    ASSERT(op->n < LEASE_OP_INOS);
    for (unsigned i = op->n; i > at; i--)
        op->slots[i] = op->slots[i - 1];
    op->slots[at] = (struct lease_slot){.op = op, .ino = ino, .mode = (uint8_t)mode};
    op->n++;
}

void lease_op_enqueue(struct leases *l, struct lease_op *op)
{
    ASSERT(op->state == LEASE_OP_IDLE && op->waits == 0);
    for (unsigned i = 0; i < op->n; i++) {
        struct lease_slot *q = &op->slots[i];

        q->inode = lease_inode_get(l, q->ino);
        DL_APPEND(q->inode->queue, q);
    }
    op->state = LEASE_OP_QUEUED;
}

void lease_op_bypass(struct leases *l, struct lease_op *op)
{
    ASSERT(op->state == LEASE_OP_IDLE && op->waits == 0);
    for (unsigned i = 0; i < op->n; i++) {
        struct lease_slot *q = &op->slots[i];

        q->inode = lease_inode_get(l, q->ino);
        DL_PREPEND(q->inode->queue, q);
    }
    op->state = LEASE_OP_PROPOSED;
}

/* Is @ahead in the way of @q, both in one queue? */
static bool slot_blocks(const struct lease_slot *ahead, const struct lease_slot *q)
{
    if (ahead->op->state != LEASE_OP_PROPOSED || q->mode == LEASE_MODE_READ)
        return true;
    if (ahead->mode == LEASE_MODE_EXCLUSIVE || q->mode == LEASE_MODE_EXCLUSIVE)
        return ahead->op->session != q->op->session;
    return false;
}

bool lease_op_admissible(const struct lease_op *op)
{
    ASSERT(op->state == LEASE_OP_QUEUED);
    for (unsigned i = 0; i < (TC_RULE(QUEUES_AT_ONCE) ? op->n : MIN(op->n, 1)); i++) {
        const struct lease_slot *ahead;

        DL_FOREACH(op->slots[i].inode->queue, ahead)
        {
            if (ahead == &op->slots[i])
                break;
            if (slot_blocks(ahead, &op->slots[i]))
                return false;
        }
    }
    return true;
}

bool lease_op_clashes(const struct lease_op *op, bool (*clash)(const struct lease_op *ahead, const struct lease_op *op))
{
    ASSERT(op->state == LEASE_OP_QUEUED);
    for (unsigned i = 0; i < op->n; i++) {
        const struct lease_slot *ahead;

        DL_FOREACH(op->slots[i].inode->queue, ahead)
        {
            if (ahead == &op->slots[i])
                break;
            if (ahead->op->state == LEASE_OP_PROPOSED && clash(ahead->op, op))
                return true;
        }
    }
    return false;
}

bool lease_op_blocked(const struct lease_op *op)
{
    ASSERT(op->state == LEASE_OP_RECALLING);
    for (unsigned i = 0; i < op->n; i++) {
        const struct lease_slot *ahead;

        DL_FOREACH(op->slots[i].inode->queue, ahead)
        {
            if (ahead->op->state == LEASE_OP_PROPOSED && slot_blocks(ahead, &op->slots[i]))
                return true;
        }
    }
    return false;
}

/* Whoever waits in @i's queue may be able to go now. The first that is blocked blocks all behind it. */
static void queue_wake(struct leases *l, struct lease_inode *i)
{
    struct lease_slot *q;

    DL_FOREACH(i->queue, q)
    {
        if (q->op->state == LEASE_OP_RECALLING && q->op->waits == 0)
            op_ready(l, q->op); /* it may have been lease_op_blocked() */
        if (q->op->state == LEASE_OP_QUEUED) {
            op_ready(l, q->op);
            return;
        }
    }
}

void lease_op_begin(struct lease_op *op)
{
    ASSERT(op->state == LEASE_OP_QUEUED);
    op->state = LEASE_OP_RECALLING;
}

void lease_op_proposed(struct leases *l, struct lease_op *op)
{
    ASSERT(op->state == LEASE_OP_RECALLING && op->waits == 0);
    op->state = LEASE_OP_PROPOSED;
    for (unsigned i = 0; i < op->n; i++)
        queue_wake(l, op->slots[i].inode);
}

void lease_op_finish(struct leases *l, struct lease_op *op)
{
    ASSERT(op->waits == 0);
    op_unready(l, op);
    if (op->state != LEASE_OP_IDLE) {
        for (unsigned i = 0; i < op->n; i++) {
            struct lease_inode *inode = op->slots[i].inode;

            DL_DELETE(inode->queue, &op->slots[i]);
            queue_wake(l, inode);
            lease_inode_put(l, inode);
        }
    }
    op->state = LEASE_OP_IDLE;
    op->n = 0;
}

unsigned lease_queue_length(struct leases *l, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);
    struct lease_slot *q;
    unsigned n = 0;

    if (i)
        DL_COUNT(i->queue, q, n);
    return n;
}

/* ---- recalls ---- */

static struct lease_recall *recall_new(struct leases *l, struct lease_session *s, uint64_t ino, uint32_t kind,
                                       uint64_t now)
{
    struct lease_recall *c = tc_calloc(1, sizeof(*c));

    c->ino = ino;
    c->session = s;
    c->kind = kind;
    c->number = ++l->recall_counter;
    c->progress_at = now;
    if (s)
        DL_APPEND(s->recalls, c);
    return c;
}

static void recall_wait(struct lease_recall *c, struct lease_op *op)
{
    struct lease_waiter *w = tc_calloc(1, sizeof(*w));

    w->op = op;
    op->waits++;
    LL_APPEND(c->waiters, w);
}

void lease_recall_free(struct lease_recall *c)
{
    struct lease_waiter *w, *tmp;

    LL_FOREACH_SAFE(c->waiters, w, tmp) free(w);
    free(c->name);
    free(c);
}

void lease_recall_complete(struct leases *l, struct lease_recall *c)
{
    struct lease_waiter *w;

    if (c->session)
        DL_DELETE(c->session->recalls, c);
    LL_FOREACH(c->waiters, w)
    {
        ASSERT(w->op->waits > 0);
        if (--w->op->waits == 0)
            op_ready(l, w->op);
    }
    lease_recall_free(c);
}

void lease_recall_s(struct leases *l, struct lease_op *op, uint64_t ino, uint64_t except, uint32_t kind,
                    struct wire_str name, uint64_t now)
{
    struct lease_inode *i = lease_inode_find(l, ino);
    struct lease_ref *r;

    if (!i)
        return;
    DL_FOREACH(i->refs, r)
    {
        struct lease_recall *c;

        if (!(r->kinds & LEASE_S) || r->session->id == except)
            continue;
        if (now > r->session->caching_until) {
            lease_session_drop_s(l, r->session); /* changes kinds, not the list we walk */
            continue;
        }
        c = recall_new(l, r->session, ino, kind, now);
        c->gterm = r->gterm;
        c->gcount = r->gcount;
        if (kind == RECALL_ENTRY && name.n) {
            c->name = tc_malloc(name.n);
            memcpy(c->name, name.p, name.n);
            c->name_len = name.n;
        }
        recall_wait(c, op);
    }
}

void lease_recall_x(struct leases *l, struct lease_op *op, uint64_t ino, struct lease_session *s, uint32_t kind,
                    uint64_t gterm, uint64_t gcount, uint64_t now)
{
    struct lease_recall *c;

    DL_FOREACH(s->recalls, c)
    {
        if (c->ino == ino && c->of_x && c->kind == kind && c->gterm == gterm && c->gcount == gcount &&
            (kind != RECALL_ASK || c->sent_at == 0)) {
            recall_wait(c, op);
            return;
        }
    }
    c = recall_new(l, s, ino, kind, now);
    c->of_x = true;
    c->gterm = gterm;
    c->gcount = gcount;
    recall_wait(c, op);
}

#define ORPHAN_ASK_NS (5 * NS_PER_S) /* first; doubled each time */
#define ORPHAN_ASK_MAX_NS (320 * NS_PER_S)

void lease_ask_orphan(struct leases *l, struct lease_ref *r, uint64_t now)
{
    struct lease_recall *c;

    if (!r->orphan_at) { /* most go by themselves */
        r->orphan_wait = ORPHAN_ASK_NS;
        r->orphan_at = now + r->orphan_wait;
    }
    if (now < r->orphan_at || !TC_RULE(ORPHAN_ASKED))
        return;
    r->orphan_wait = MIN(2 * r->orphan_wait, ORPHAN_ASK_MAX_NS);
    r->orphan_at = now + r->orphan_wait;
    c = recall_new(l, r->session, r->inode->ino, RECALL_ATTR, now);
    c->gterm = r->gterm;
    c->gcount = r->gcount;
    c->orphan = true;
}

bool lease_wait_recovery(struct leases *l, struct lease_op *op, uint64_t ino)
{
    struct lease_inode *i = lease_inode_get(l, ino);
    bool first = !i->recovery;

    if (first)
        i->recovery = recall_new(l, NULL, ino, LEASE_WAIT_RECOVERY, 0);
    recall_wait(i->recovery, op);
    return first;
}

void lease_recovered(struct leases *l, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);

    if (!i || !i->recovery)
        return;
    lease_recall_complete(l, i->recovery);
    i->recovery = NULL;
    lease_inode_put(l, i);
}

bool lease_recovering(struct leases *l, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);

    return i && i->recovery;
}

struct lease_recall *leases_ack(struct leases *l, struct lease_session *s, const struct lease_item *item)
{
    struct lease_recall *c;
    struct lease_ref *r;

    DL_FOREACH(s->recalls, c)
    {
        if (c->ino == item->ino && (c->number == item->recall || !TC_RULE(ACK_NUMBER)))
            break;
    }
    if (!c)
        return NULL; /* repeated, or of another term */
    if (c->of_x) {
        if (c->kind != RECALL_ATTR)
            return c; /* whoever holds X ends it by an entry, or commits */
        lease_recall_complete(l, c);
        return NULL;
    }
    r = lease_find(l, s, item->ino);
    if (r)
        lease_ref_recalled(l, r, item, c->kind == RECALL_ALL);
    lease_recall_complete(l, c);
    return NULL;
}

void lease_committed(struct leases *l, struct lease_session *s, uint64_t ino, uint64_t number, uint64_t now)
{
    struct lease_recall *c, *tmp;

    DL_FOREACH_SAFE(s->recalls, c, tmp)
    {
        if (c->ino != ino || !c->of_x)
            continue;
        if (TC_RULE(PROGRESS))
            c->progress_at = now;
        if (c->kind == RECALL_ASK && c->number <= number)
            lease_recall_complete(l, c);
    }
}

void lease_progress(struct lease_session *s, uint64_t now)
{
    struct lease_recall *c;

    DL_FOREACH(s->recalls, c)
    {
        if (c->of_x && TC_RULE(PROGRESS))
            c->progress_at = now;
    }
}

void lease_expire_caching(struct leases *l, struct lease_session *s, uint64_t now)
{
    struct lease_recall *c;

    if (now <= s->caching_until)
        return;
    DL_FOREACH(s->recalls, c)
    {
        if (!c->of_x) {
            lease_session_drop_s(l, s);
            return;
        }
    }
}
