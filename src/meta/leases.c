/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases in a leader's memory: references, generations, lists. Queues and recalls are in lease_queue.c.
 *
 * Invariant: an inode struct exists while it has a reference, a queue, a recovery wait or a reap.
 */
#include "meta/lease_internal.h"

#include "common/test_rules.h"

#include <utlist.h>

struct leases *leases_new(uint64_t term)
{
    struct leases *l = tc_calloc(1, sizeof(*l));

    l->term = term;
    l->recall_counter = term << 32;
    return l;
}

struct leases *leases_free(struct leases *l)
{
    struct lease_inode *i, *tmp;

    if (!l)
        return NULL;
    HASH_ITER(hh, l->inodes, i, tmp)
    {
        struct lease_ref *r, *rtmp;

        HASH_DEL(l->inodes, i);
        DL_FOREACH_SAFE(i->refs, r, rtmp) free(r);
        if (i->recovery)
            lease_recall_free(i->recovery);
        free(i);
    }
    free(l);
    return NULL;
}

uint32_t leases_refs(const struct leases *l)
{
    return l->n_refs;
}

struct lease_inode *lease_inode_find(struct leases *l, uint64_t ino)
{
    struct lease_inode *i;

    HASH_FIND(hh, l->inodes, &ino, sizeof(ino), i);
    return i;
}

struct lease_inode *lease_inode_get(struct leases *l, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);

    if (i)
        return i;
    i = tc_calloc(1, sizeof(*i));
    i->ino = ino;
    HASH_ADD(hh, l->inodes, ino, sizeof(i->ino), i);
    return i;
}

void lease_inode_put(struct leases *l, struct lease_inode *i)
{
    if (i->refs || i->queue || i->recovery || i->reaping)
        return;
    HASH_DEL(l->inodes, i);
    free(i);
}

/* ---- references ---- */

static struct lease_ref *ref_of(struct lease_inode *i, const struct lease_session *s)
{
    struct lease_ref *r;

    DL_FOREACH(i->refs, r)
    {
        if (r->session == s)
            return r;
    }
    return NULL;
}

static struct lease_ref *ref_new(struct leases *l, struct lease_inode *i, struct lease_session *s)
{
    struct lease_ref *r = tc_calloc(1, sizeof(*r));

    r->inode = i;
    r->session = s;
    DL_APPEND(i->refs, r);
    DL_APPEND2(s->refs, r, sprev, snext);
    s->n_refs++;
    l->n_refs++;
    return r;
}

static void ref_drop(struct leases *l, struct lease_ref *r)
{
    struct lease_inode *i = r->inode;

    DL_DELETE(i->refs, r);
    DL_DELETE2(r->session->refs, r, sprev, snext);
    r->session->n_refs--;
    l->n_refs--;
    free(r);
    lease_inode_put(l, i);
}

/* What remains of @r; 0: nothing. */
static void ref_keep(struct leases *l, struct lease_ref *r, uint32_t kinds)
{
    r->kinds = kinds & (TC_RULE(O_STAYS) ? LEASE_O | LEASE_S : LEASE_S);
    if (!r->kinds)
        ref_drop(l, r);
}

struct lease_ref *lease_find(struct leases *l, const struct lease_session *s, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);

    return i ? ref_of(i, s) : NULL;
}

struct lease_ref *lease_refs_of(struct leases *l, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);

    return i ? i->refs : NULL;
}

bool lease_any_ref(struct leases *l, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);

    return i && (i->refs || i->queue || i->recovery);
}

struct lease_ref *lease_give(struct leases *l, struct lease_session *s, uint64_t ino, uint32_t kinds,
                              uint64_t request_id)
{
    struct lease_inode *i = lease_inode_get(l, ino);
    struct lease_ref *r = ref_of(i, s);

    ASSERT(kinds && !(kinds & ~(uint32_t)(LEASE_O | LEASE_S)));
    ASSERT(!i->reaping || !TC_RULE(REAP_GRANT));
    if (r && request_id && r->request_id == request_id && (r->kinds & kinds) == kinds)
        return r;
    if (!r) {
        if (l->n_refs >= LEASE_REFS_MAX) {
            lease_inode_put(l, i);
            return NULL;
        }
        r = ref_new(l, i, s);
    }
    r->kinds |= kinds;
    r->request_id = request_id;
    r->gterm = l->term;
    r->gcount = GCOUNT_MEMORY | ++l->grant_counter;
    r->gen_n = s->gen_n;
    return r;
}

void lease_x_granted(struct leases *l, struct lease_session *s, uint64_t ino, uint64_t gterm, uint64_t gcount)
{
    struct lease_inode *i = lease_inode_get(l, ino);
    struct lease_ref *r = ref_of(i, s);
    struct lease_recall *c;

    DL_FOREACH(s->recalls, c)
    {
        if (c->ino != ino || !c->of_x)
            continue;
        c->gterm = gterm; /* granted anew under a recall of the one before */
        c->gcount = gcount;
        c->sent_at = c->disowned_at = 0;
    }
    if (!r)
        r = ref_new(l, i, s);
    r->kinds |= LEASE_O; /* also above LEASE_REFS_MAX: the state machine bounds X */
    r->gterm = gterm;
    r->gcount = gcount;
    r->gen_n = s->gen_n;
    r->request_id = 0;
}

void lease_x_ended(struct leases *l, struct lease_session *s, uint64_t ino, uint64_t gterm, uint64_t gcount,
                   uint32_t keep, uint64_t new_gcount)
{
    struct lease_inode *i;
    struct lease_ref *r;
    struct lease_recall *c, *tmp;

    DL_FOREACH_SAFE(s->recalls, c, tmp)
    {
        if (c->ino == ino && c->of_x) /* whatever its id: a session holds one X of an inode */
            lease_recall_complete(l, c);
    }
    i = lease_inode_find(l, ino);
    r = i ? ref_of(i, s) : NULL;
    if (!keep || (!(keep & LEASE_S) && !TC_RULE(O_STAYS))) {
        if (r && r->gterm == gterm && r->gcount == gcount)
            ref_drop(l, r); /* a newer reference stays */
        return;
    }
    if (!r)
        r = ref_new(l, lease_inode_get(l, ino), s);
    r->kinds = (keep & LEASE_S) | LEASE_O;
    r->gterm = gterm;
    r->gcount = new_gcount;
    r->gen_n = s->gen_n;
    r->request_id = 0;
}

void lease_locks_ended(struct leases *l, struct lease_session *s, uint64_t ino)
{
    struct lease_recall *c, *tmp;

    DL_FOREACH_SAFE(s->recalls, c, tmp)
    {
        if (c->ino == LEASE_LOCKS_OF(ino))
            lease_recall_complete(l, c);
    }
}

void leases_release(struct leases *l, struct lease_session *s, const struct lease_item *item)
{
    struct lease_ref *r = lease_find(l, s, item->ino);

    if (r && r->gterm == item->gterm && r->gcount == item->gcount)
        ref_keep(l, r, (r->kinds & item->keep) | (item->keep & LEASE_O)); /* what was S may go on as O */
}

/* A recall of S was acknowledged as @item says. @all: S ends, else what the session says it still has. */
void lease_ref_recalled(struct leases *l, struct lease_ref *r, const struct lease_item *item, bool all)
{
    bool named = r->gterm == item->gterm && r->gcount == item->gcount;
    uint32_t keep = r->kinds;

    if (all)
        keep &= ~(uint32_t)LEASE_S;
    if (named && all)
        keep = item->keep & LEASE_O;
    else if (named && !(item->keep & LEASE_S))
        keep &= item->keep; /* it did not know this grant and dropped all of the inode */
    ref_keep(l, r, keep);
}

bool lease_changing(struct leases *l, uint64_t ino, const struct lease_op *own)
{
    struct lease_inode *i = lease_inode_find(l, ino);
    struct lease_slot *q;

    if (!i)
        return false;
    DL_FOREACH(i->queue, q)
    {
        if (q->mode != LEASE_MODE_READ && q->op->state != LEASE_OP_QUEUED && q->op != own)
            return true;
    }
    return false;
}

uint64_t lease_counter(const struct leases *l)
{
    return l->recall_counter;
}

void lease_set_reaping(struct leases *l, uint64_t ino, bool on)
{
    struct lease_inode *i = lease_inode_get(l, ino);

    i->reaping = on;
    lease_inode_put(l, i);
}

bool lease_reaping(struct leases *l, uint64_t ino)
{
    struct lease_inode *i = lease_inode_find(l, ino);

    return i && i->reaping && TC_RULE(REAP_GRANT);
}

/* ---- sessions ---- */

void lease_session_init(struct leases *l, struct lease_session *s, bool fresh)
{
    (void)l;
    s->gen_n = 1;
    s->asserted = fresh;
    s->caching_until = 0;
    s->list_gen = 0;
}

void lease_session_end(struct leases *l, struct lease_session *s)
{
    struct lease_ref *r, *tmp;

    while (s->recalls)
        lease_recall_complete(l, s->recalls);
    DL_FOREACH_SAFE2(s->refs, r, tmp, snext) ref_drop(l, r);
    ASSERT(s->n_refs == 0);
}

void lease_session_drop_s(struct leases *l, struct lease_session *s)
{
    struct lease_ref *r;
    struct lease_recall *c, *tmp;

    DL_FOREACH2(s->refs, r, snext)
    {
        if (r->kinds & LEASE_S)
            r->kinds = LEASE_O;
    }
    s->gen_n += TC_RULE(NEXT_GENERATION);
    s->asserted = false;
    s->caching_until = 0;
    DL_FOREACH_SAFE(s->recalls, c, tmp)
    {
        if (!c->of_x)
            lease_recall_complete(l, c);
    }
}

/* One item of a list. False: it asserts an S that cannot be had. */
static bool list_item(struct leases *l, struct lease_session *s, const struct lease_item *it)
{
    uint32_t kinds = it->kind & (LEASE_O | LEASE_S);
    struct lease_inode *i;
    struct lease_ref *r;

    if (it->kind & LEASE_X)
        kinds |= LEASE_O;
    if (s->gen_n != 1 && (kinds & LEASE_S) && TC_RULE(FIRST_LIST))
        kinds = LEASE_O; /* S only on the first list of a term: later ones keep what they hold as O */
    if (!kinds)
        return true;
    if ((kinds & LEASE_S) && lease_changing(l, it->ino, NULL) && TC_RULE(LIST_REFUSED))
        return false;
    i = lease_inode_get(l, it->ino);
    r = ref_of(i, s);
    if (!r) {
        if (l->n_refs >= LEASE_REFS_MAX || (i->reaping && TC_RULE(REAP_GRANT))) {
            lease_inode_put(l, i);
            return !(kinds & LEASE_S);
        }
        r = ref_new(l, i, s);
        r->gterm = it->gterm;
        r->gcount = it->gcount;
    }
    r->kinds |= kinds;
    r->listed = true;
    r->gen_n = s->gen_n;
    return true;
}

bool lease_session_list(struct leases *l, struct lease_session *s, const struct lease_list_req *req)
{
    struct lease_ref *r, *tmp;

    if (req->gen_term != l->term || req->gen_n != s->gen_n || s->asserted)
        return false;
    if (req->page == 0) {
        s->list_gen = req->gen_n;
        s->list_page = 0;
        DL_FOREACH2(s->refs, r, snext) r->listed = false;
    }
    if (s->list_gen != req->gen_n || req->page != s->list_page)
        return false;
    s->list_page++;
    for (uint32_t n = 0; n < req->items.n; n++) {
        if (!list_item(l, s, &req->items.items[n])) {
            lease_session_drop_s(l, s);
            return false;
        }
    }
    if (!req->last)
        return false;
    DL_FOREACH_SAFE2(s->refs, r, tmp, snext)
    {
        if (!r->listed && r->gen_n < s->gen_n && TC_RULE(LIST_ALL))
            ref_drop(l, r);
    }
    s->asserted = true;
    return true;
}
