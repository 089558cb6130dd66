/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of inodes: attributes by the rule of the newer change, references, eviction.
 *
 * An inode stays while somebody pins it (calls, flights, recalls), has it open, refers to it (lookups) or
 * X is held. Others are cached until the table is full, then the least recently used go, and what lease
 * they have is given back.
 */
#include "client/internal.h"
#include "common/test_rules.h"

struct inode *inode_find(struct tc_client *c, uint64_t ino)
{
    struct inode *i;

    HASH_FIND(hh, c->inodes, &ino, sizeof(ino), i);
    return i;
}

static bool inode_idle(const struct inode *i)
{
    return i->pins == 0 && i->opens == 0 && !i->x && (!i->unheard || i->lookups == 0) && !i->wq.head &&
           !i->io_wq.head && !i->fetch_wq.head && !i->getting &&
           !i->recalls && i->phase == RECALL_IDLE && !i->commit_inflight && !i->commit_queued && i->n_tails == 0;
}

/* A grant that was recalled may still be on its way. Ids of one kind grow over all inodes, so one mark does for all that
 * are forgotten; what else it meets is asked for again. */
static void refused_keep(struct tc_client *c, const struct inode *i)
{
    for (unsigned n = 0; n < 2; n++) {
        if (grant_id_less(&c->refused[n], &i->refused[n]))
            c->refused[n] = i->refused[n];
    }
}

static void inode_free(struct tc_client *c, struct inode *i)
{
    env_timer_cancel(c->env, &i->names_timer);
    locks_free(c, i);
    dir_drop(c, i);
    readahead_drop(c, i);
    clean_drop(c, i);
    ASSERT(i->n_ext == 0 && !i->flights);
    refused_keep(c, i);
    env_timer_cancel(c->env, &i->get_timer);
    env_timer_cancel(c->env, &i->drain_timer);
    free(i->ext);
    free(i->dir);
    free(i->attr.horizons.items);
    HASH_DELETE(hh, c->inodes, i);
    DL_DELETE2(c->lru, i, lru_prev, lru_next);
    c->n_inodes--;
    free(i);
}

static void inodes_evict(struct tc_client *c)
{
    struct inode *i = c->lru, *next;
    unsigned looked = 0;

    for (; i && c->n_inodes > c->inodes_max && looked < 64; i = next, looked++) {
        next = i->lru_next;
        if (!inode_idle(i) || i->lookups > 0 || i->ino == c->root) {
            /* Stays; go on behind the younger ones. */
            DL_DELETE2(c->lru, i, lru_prev, lru_next);
            DL_APPEND2(c->lru, i, lru_prev, lru_next);
            continue;
        }
        lease_release(c, i);
        inode_free(c, i);
    }
}

struct inode *inode_get(struct tc_client *c, uint64_t ino)
{
    struct inode *i = inode_find(c, ino);

    ASSERT(ino != 0);
    if (i) {
        if (c->lru->lru_prev != i) {
            DL_DELETE2(c->lru, i, lru_prev, lru_next);
            DL_APPEND2(c->lru, i, lru_prev, lru_next);
        }
        return i;
    }
    if (c->n_inodes >= c->inodes_max)
        inodes_evict(c);
    i = tc_calloc(1, sizeof(*i));
    i->ino = ino;
    i->c = c;
    memcpy(i->refused, c->refused, sizeof(i->refused));
    HASH_ADD(hh, c->inodes, ino, sizeof(ino), i);
    DL_APPEND2(c->lru, i, lru_prev, lru_next);
    c->n_inodes++;
    return i;
}

void inode_pin(struct inode *i)
{
    i->pins++;
}

void inode_unpin(struct tc_client *c, struct inode *i)
{
    ASSERT(i->pins > 0);
    i->pins--;
    if (i->pins == 0 && i->attr_known && i->attr.nlink == 0)
        inode_check_dead(c, i);
}

void inodes_fini(struct tc_client *c)
{
    struct inode *i, *tmp;

    HASH_ITER(hh, c->inodes, i, tmp)
    {
        flights_drop(i);
        dirty_drop(c, i);
        free(i->x);
        i->x = NULL;
        inode_free(c, i);
    }
}

static void attr_copy(struct attr *to, const struct attr *from)
{
    struct horizon *h = NULL;

    if (from->horizons.n) {
        h = tc_malloc(from->horizons.n * sizeof(*h));
        memcpy(h, from->horizons.items, from->horizons.n * sizeof(*h));
    }
    free(to->horizons.items);
    *to = *from;
    to->horizons.items = h;
}

void inode_take_attr(struct tc_client *c, struct inode *i, const struct attr *a, bool cacheable, bool own_mutation)
{
    if (a->ino != i->ino)
        return;
    /* Answers to our own mutations do not say so, and may be newer than the one that did. */
    if (i->x && i->phase == RECALL_COMMIT && (a->epoch > i->x->epoch || (a->epoch == i->x->epoch && (a->flags & ATTR_FREE))))
        i->x->over = true;
    if (own_mutation && a->change > i->min_change && TC_RULE(OWN_CHANGE))
        i->min_change = a->change;
    if (i->attr_known && a->change < i->attr.change && TC_RULE(CHANGE))
        return;
    if (a->change < i->min_change)
        cacheable = false;
    attr_copy(&i->attr, a);
    i->attr_known = true;
    if (cacheable)
        i->attr_cached = true;
    if (i->x && a->mtime > i->x->mtime && !i->x->meta_dirty)
        i->x->mtime = a->mtime;
    if (a->nlink == 0)
        inode_check_dead(c, i);
}

void inode_drop_attr(struct inode *i)
{
    i->attr_cached = false;
}

/* Another epoch has begun that is not of this client, or nobody held X: the end of its X is committed, and the answer
 * that says so is under way. What was answered since is newer than what the X had. */
bool x_is_over(const struct inode *i)
{
    return i->x && i->phase == RECALL_COMMIT && TC_RULE(END_OF_X) && i->x->over;
}

void inode_attr(const struct inode *i, struct attr *ret)
{
    *ret = i->attr;
    ret->horizons.items = NULL;
    ret->horizons.n = 0;
    if (i->x && !x_is_over(i)) {
        ret->size = i->hidden ? MIN(i->x->size, i->shown_size) : i->x->size;
        if (i->x->meta_dirty) {
            ret->mtime = i->x->mtime;
            if (i->x->mtime > ret->ctime)
                ret->ctime = i->x->mtime;
        }
        if (i->x->new_blocks > 0)
            ret->blocks += (uint64_t)i->x->new_blocks;
        else
            ret->blocks -= MIN(ret->blocks, (uint64_t)-i->x->new_blocks);
        ret->blocks = MIN(ret->blocks + i->dirty_data, (ret->size + BLOCK_SIZE - 1) / BLOCK_SIZE); /* some are written over */
    }
}

void inode_entry(struct inode *i, struct tc_entry *ret)
{
    *ret = (struct tc_entry){.ino = i->ino};
    inode_attr(i, &ret->attr);
    if (ret->attr.ino == 0)
        ret->attr.ino = i->ino;
}

void inode_check_dead(struct tc_client *c, struct inode *i)
{
    if (!i->attr_known || i->attr.nlink > 0 || i->lookups > 0 || i->opens > 0 || i->pins > 0 || i->phase != RECALL_IDLE || !i->held)
        return;
    if (i->x) {
        if (i->n_flights || i->commit_inflight)
            return; /* the idle release finds it */
        dirty_drop(c, i);
        lease_end_unasked(c, i);
    } else {
        lease_release(c, i);
    }
}

void tc_forget(struct tc_client *c, uint64_t ino, uint64_t n)
{
    struct inode *i = inode_find(c, ino);

    if (!i)
        return;
    i->lookups -= MIN(n, i->lookups);
    if (i->lookups == 0)
        inode_check_dead(c, i);
}

bool tc_referenced(struct tc_client *c, uint64_t ino)
{
    const struct inode *i = inode_find(c, ino);

    return i && i->lookups > 0;
}
