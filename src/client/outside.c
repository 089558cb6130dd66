/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may be cached outside (by the kernel): attributes and names, for a short time and under a lease.
 *
 * A time given out never reaches past the caching right (PROTOCOL section 8), and is never longer than
 * OUTSIDE_NS. That bound is what makes the rest simple: whatever cannot be taken back at once has run out a
 * moment later.
 *
 *  - Attributes are taken back by invalidate_inode, which waits for nothing. Those of a regular file are given only
 *    while S alone is held and nobody here has it open: nothing of ours can change them then, and no read() or
 *    append, which go by the size that the kernel has, depends on an answer that a notification made void
 *    (docs/FUSE.md 4; model outside).
 *  - A name is taken back by invalidate_entry, which may have to wait for the directory's lock in the kernel, held by
 *    a request of our own that may itself wait for this very recall. So its time running out counts as well,
 *    whichever is first; and for a while the directory gives out no more, so that a contended one pays once.
 *  - All of a directory's names run out.
 *  - When a generation ends, attributes are taken back, and names are covered by the S that a new leader is told of
 *    (session.c; model caching: outside-list), or run out.
 *
 * A reply under way when something is taken back: the kernel discards attributes older than the notification,
 * and holds the directory's lock over a lookup, or has the entry unhashed (docs/FUSE.md).
 */
#include "client/internal.h"

#include <sys/stat.h>

#define OUTSIDE_NS (150 * NS_PER_MS)
/* The kernel counts from when the process that asked runs again, which on a busy machine takes a while. */
#define OUTSIDE_MARGIN_NS (150 * NS_PER_MS)
#define TOLD_NS (2 * NS_PER_MS)
#define OUTSIDE_QUIET_NS (5 * NS_PER_S)

static uint64_t give(struct tc_client *c, uint64_t *given)
{
    uint64_t now = env_now(c->env), until = MIN(c->caching_sent + CACHING_NS, now + OUTSIDE_NS);

    if (!c->cfg.invalidate_entry || !c->cfg.invalidate_inode || !session_caching(c) || until <= now)
        return 0;
    *given = MAX(*given, until);
    c->outside_until = MAX(c->outside_until, until);
    return until;
}

static bool running(struct tc_client *c, uint64_t given)
{
    return given && env_now(c->env) < given + OUTSIDE_MARGIN_NS;
}

void outside_give_entry(struct tc_client *c, struct inode *i, struct tc_entry *e)
{
    if (!i->attr_cached || !lease_s_ok(c, i) || i->recalls || i->phase != RECALL_IDLE || i->hidden)
        return;
    if (!S_ISDIR(i->attr.mode) && (i->x || i->opens > 0 || i->getting == LEASE_X))
        return;
    inode_attr(i, &e->attr); /* as they are now, not as they were when the answer was found */
    e->attr_until = give(c, &i->attr_given);
    i->attr_gives += e->attr_until != 0;
}

uint64_t outside_give_name(struct tc_client *c, struct inode *d, const char *name, uint64_t ino)
{
    uint64_t known;

    if (d->recalls || d->phase != RECALL_IDLE || env_now(c->env) < d->names_quiet)
        return 0;
    if (name ? !dir_find(c, d, name, &known) || known != ino : !lease_s_ok(c, d))
        return 0;
    return give(c, &d->names_given);
}

void outside_renamed(struct inode *from, struct inode *to)
{
    from->names_given = to->names_given = MAX(from->names_given, to->names_given);
}

static void moved_ran_out(struct env_timer *t)
{
    waitq_wake(&container_of(t, struct tc_client, moved_timer)->moved_wq);
}

bool outside_wait_moved(struct tc_call *call, const struct inode *from)
{
    struct tc_client *c = call->c;

    if (!running(c, from->names_given))
        return false;
    c->moved_timer.fn = moved_ran_out;
    if (!env_timer_armed(&c->moved_timer)) /* whoever waits longer waits again */
        env_timer_set(c->env, &c->moved_timer, from->names_given + OUTSIDE_MARGIN_NS);
    call_wait(call, &c->moved_wq);
    return true;
}

/*
 * A size given out makes the kernel cut its pages there, if it had another; and it does so only when it gets at the
 * page, which may be locked under a READ that we hold back until we have the lease again. Then it would cut what
 * that READ brings, which is longer by then. So the size of a file that is open here is told under the lease only, and
 * not any more once a recall has begun; and when the recall is through, answers that the kernel has not yet looked
 * at are void by its notification (docs/FUSE.md 3.4).
 */
bool outside_told(const struct tc_client *c, const struct inode *i)
{
    return c->cfg.invalidate_inode && i->opens > 0 && i->attr_known && S_ISREG(i->attr.mode);
}

void outside_tell(struct tc_client *c, struct inode *i, uint64_t size)
{
    if (!outside_told(c, i) || (i->told && i->told_size == size))
        return;
    i->told = true;
    i->told_size = size;
    i->told_at = env_now(c->env);
}

/* An answer made void costs whoever asked the news that it bore: so that is given a moment to arrive. */
bool outside_settling(struct tc_client *c, const struct inode *i, uint64_t *ret_until)
{
    *ret_until = i->told_at + TOLD_NS;
    return i->told && i->opens > 0 && env_now(c->env) < *ret_until;
}

void outside_data(const struct tc_call *call)
{
    if (!call->file || !(call->file->flags & TC_OPEN_UNCACHED))
        call->ino->kernel_pages = true;
}

bool outside_attr(struct tc_client *c, const struct inode *i)
{
    return running(c, i->attr_given) && (i->lookups > 0 || i->ino == c->root);
}

bool outside_names(struct tc_client *c, const struct inode *d)
{
    return running(c, d->names_given) && (d->lookups > 0 || d->ino == c->root);
}

/* Attributes being taken back. */
struct attr_drop {
    struct inode *ino; /* pinned */
    uint64_t gives;    /* as it began: none since, none are outside when it is done */
    void (*done)(void *arg);
    void *arg;
};

static void attr_dropped(void *arg)
{
    struct attr_drop *d = arg;
    struct inode *i = d->ino;

    if (i->attr_gives == d->gives)
        i->attr_given = 0;
    d->done(d->arg);
    inode_unpin(i->c, i);
    free(d);
}

unsigned outside_drop(struct tc_client *c, struct inode *i, bool pages, void (*done)(void *arg), void *arg)
{
    bool attr = !pages || outside_attr(c, i);

    if (attr) { /* on their own: pieces of a range may be superseded by requests before they have run */
        struct attr_drop *d = tc_malloc(sizeof(*d));

        *d = (struct attr_drop){.ino = i, .gives = i->attr_gives, .done = done, .arg = arg};
        inode_pin(i);
        c->cfg.invalidate_inode(c->cfg.arg, i->ino, 0, 0, attr_dropped, d);
    }
    if (pages)
        c->cfg.invalidate_inode(c->cfg.arg, i->ino, 0, UINT64_MAX, done, arg);
    return (unsigned)attr + (unsigned)pages;
}

/* One name being taken back. Lives until the notification has returned, which may be long after the rest. */
struct outside_wait {
    struct env_timer timer;
    struct recall *rc; /* NULL: no longer of interest */
    void (*done)(void *arg);
};

static void name_gone(struct outside_wait *w)
{
    struct recall *rc = w->rc;

    w->rc = NULL;
    rc->outside = NULL;
    w->done(rc);
}

static void name_ran_out(struct env_timer *t)
{
    name_gone(container_of(t, struct outside_wait, timer));
}

static void name_dropped(void *arg)
{
    struct outside_wait *w = arg;

    if (w->rc) {
        env_timer_cancel(w->rc->ino->c->env, &w->timer);
        name_gone(w);
    }
    free(w);
}

void outside_recall_name(struct tc_client *c, struct recall *rc, void (*done)(void *arg))
{
    struct inode *d = rc->ino;
    struct outside_wait *w;

    if (!running(c, d->names_given))
        return;
    d->names_quiet = env_now(c->env) + OUTSIDE_QUIET_NS;
    w = tc_calloc(1, sizeof(*w));
    w->rc = rc;
    w->done = done;
    w->timer.fn = name_ran_out;
    rc->outside = w;
    rc->pending++;
    env_timer_set(c->env, &w->timer, d->names_given + OUTSIDE_MARGIN_NS);
    c->cfg.invalidate_entry(c->cfg.arg, d->ino, rc->name, name_dropped, w);
}

void outside_recall_forget(struct tc_client *c, struct recall *rc)
{
    if (!rc->outside)
        return;
    env_timer_cancel(c->env, &rc->outside->timer);
    rc->outside->rc = NULL;
    rc->outside = NULL;
}

bool outside_wait_names(struct tc_client *c, struct inode *d, void (*fn)(struct env_timer *t))
{
    if (!running(c, d->names_given))
        return false;
    d->names_quiet = env_now(c->env) + OUTSIDE_QUIET_NS;
    d->names_timer.fn = fn;
    env_timer_set(c->env, &d->names_timer, d->names_given + OUTSIDE_MARGIN_NS);
    return true;
}

static void all_ran_out(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, outside_timer);

    if (c->purges == 0 && c->listing)
        lease_list(c);
}

bool outside_wait_all(struct tc_client *c)
{
    struct inode *i, *tmp;
    uint64_t until = 0;

    if (!running(c, c->outside_until))
        return false;
    HASH_ITER(hh, c->inodes, i, tmp)
    {
        if (outside_names(c, i) && !i->asserted)
            until = MAX(until, i->names_given);
        if (outside_attr(c, i) && !i->x && !i->asserted)
            until = MAX(until, i->attr_given);
    }
    if (!until)
        return false;
    c->outside_timer.fn = all_ran_out;
    env_timer_set(c->env, &c->outside_timer, until + OUTSIDE_MARGIN_NS);
    return true;
}

void outside_fini(struct tc_client *c)
{
    env_timer_cancel(c->env, &c->outside_timer);
    env_timer_cancel(c->env, &c->moved_timer);
}
