/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recalls (PROTOCOL 3.2): what the leader asks back, and how a lease ends in order.
 *
 * A recall of a name or of attributes is an invalidation and an acknowledgement; several may run at once.
 * A recall of the lease itself (ALL, DOWNGRADE), and an unasked release of X, go through one machine per
 * inode (enum recall_phase):
 *
 *   IDLE ─► DRAIN ─► PURGE ─► BLOCK ─► PURGE2 ─► COMMIT ─► IDLE, all acknowledged
 *             ▲        │ ▲       (S: no COMMIT; DOWNGRADE: DRAIN ─► COMMIT)
 *             └────────┘ └── pages were read meanwhile, at most RECALL_PASSES times
 *              written meanwhile (mappings)
 *
 * recall_progress() is called whenever something that a phase may wait for has happened: a reader or writer
 * left, a flight landed, an invalidation is done, a commit was answered.
 */
#include "client/internal.h"

#include "common/test_rules.h"

#include <sys/stat.h>

void recall_free(struct tc_client *c, struct recall *rc)
{
    struct inode *i = rc->ino;

    DL_DELETE(i->recalls, rc);
    outside_recall_forget(c, rc);
    free(rc->name);
    free(rc);
    inode_unpin(c, i);
}

static void recall_ack(struct tc_client *c, struct recall *rc)
{
    uint32_t keep = rc->ino->held;

    lease_ack(c, rc, keep);
    recall_free(c, rc);
}

static bool ends_lease(const struct recall *rc)
{
    return rc->kind == RECALL_ALL || rc->kind == RECALL_DOWNGRADE;
}

void recalls_drop(struct tc_client *c, struct inode *i)
{
    struct recall *rc, *tmp;

    i->phase = RECALL_IDLE;
    i->unasked = false;
    DL_FOREACH_SAFE(i->recalls, rc, tmp)
    {
        if (ends_lease(rc) || rc->kind == RECALL_ASK)
            recall_ack(c, rc);
    }
}

/* ---- names and attributes --------------------------------------------------------------------------------------- */

static void simple_done(void *arg)
{
    struct recall *rc = arg;
    struct tc_client *c = rc->ino->c;

    ASSERT(rc->pending > 0);
    if (--rc->pending > 0)
        return;
    recall_ack(c, rc);
}

/* A directory that was removed here is kept for who may be working in it: its references end when nobody does. Of one
 * removed elsewhere the kernel does not know, and may keep it for ever: it is kept while it is open. */
static bool last_name_goes(const struct inode *i, const struct recall *rc)
{
    if (rc->orphan)
        return (i->attr.mode & S_IFMT) != S_IFDIR || i->lookups == 0 || i->removed_elsewhere;
    return (i->attr.mode & S_IFMT) == S_IFREG && i->attr.nlink <= 1;
}

static void recall_simple(struct tc_client *c, struct recall *rc)
{
    struct inode *i = rc->ino;
    bool pages = false;

    inode_drop_attr(i);
    if (rc->kind == RECALL_ENTRY) {
        dir_drop_name(c, i, rc->name);
        dir_drop_pages(c, i);
    } else if (last_name_goes(i, rc) && !i->x && i->opens == 0 && (i->held & LEASE_S)) {
        lease_ended(c, i, 0); /* its last name may be going: no reference of ours keeps it */
        pages = i->kernel_pages; /* it may live on under another name, and be written there */
        i->kernel_pages = false;
    }
    rc->pending = 1;
    if (rc->kind == RECALL_ENTRY)
        outside_recall_name(c, rc, simple_done);
    /* The kernel keeps ACLs with the attributes until told. */
    if (c->cfg.invalidate_inode && ((rc->kind != RECALL_ENTRY && i->lookups > 0) || outside_attr(c, i)))
        rc->pending += (int)outside_drop(c, i, pages, simple_done, rc);
    simple_done(rc);
}

/* How long a file that was recalled is read past caches outside by whoever opens it. */
#define CONTENDED_NS (10 * NS_PER_S)
#define TRUNCATE_WAIT_NS (200 * NS_PER_MS)

/* ---- the machine ---------------------------------------------------------------------------------------------------- */

static void purge_done(void *arg)
{
    struct inode *i = arg;
    struct tc_client *c = i->c;

    ASSERT(i->purge_pending > 0);
    i->purge_pending--;
    if (i->purge_pending == 0)
        recall_progress(c, i);
    inode_unpin(c, i);
}

static void names_ran_out(struct env_timer *t)
{
    purge_done(container_of(t, struct inode, names_timer));
}

/* True if it has to be waited for. Whoever caches outside leaves out what is locked under requests that we hold back;
 * only it knows which those are (an append's place is not, where the page cache is passed by). */
static bool purge_start(struct tc_client *c, struct inode *i)
{
    bool pages = i->kernel_pages || i->told, attr = outside_attr(c, i);

    i->purge_read_gen = i->read_gen;
    i->told = false;
    if (!env_timer_armed(&i->names_timer) && outside_wait_names(c, i, names_ran_out)) {
        i->purge_pending++;
        inode_pin(i);
    }
    if (c->cfg.invalidate_inode && (attr || (i->lookups > 0 && pages))) {
        unsigned n = outside_drop(c, i, pages, purge_done, i);

        i->purge_pending += n;
        for (unsigned k = 0; k < n; k++)
            inode_pin(i);
    }
    return i->purge_pending > 0;
}

static bool has_dirty(const struct inode *i)
{
    return TC_RULE(RECALL_FLUSH) && (i->dirty_blocks > 0 || i->n_flights > 0);
}

static bool held_is_named(const struct inode *i)
{
    const struct recall *rc;

    DL_FOREACH(i->recalls, rc)
    {
        if (rc->gterm == i->gterm && rc->gcount == i->gcount)
            return true;
    }
    return false;
}

static void machine_finish(struct tc_client *c, struct inode *i)
{
    struct recall *rc, *tmp;

    i->phase = RECALL_IDLE;
    i->unasked = false;
    DL_FOREACH_SAFE(i->recalls, rc, tmp)
    {
        /* One for all of it that came while a downgrade was committed has not been done by that; nor is it when a new generation
         * had us expect no S of it, and the answer brought one after all. */
        if (ends_lease(rc) && !(rc->kind == RECALL_ALL && (i->downgrade || (i->held & LEASE_S))))
            recall_ack(c, rc);
    }
    waitq_wake(&i->wq);
    waitq_wake(&i->io_wq);
}

/* What is to be done, taken together: nothing, downgrade or everything. */
static bool machine_wanted(const struct inode *i, bool *ret_downgrade)
{
    const struct recall *rc;
    bool any = false, all = false;

    DL_FOREACH(i->recalls, rc)
    {
        if (!ends_lease(rc))
            continue;
        any = true;
        all = all || rc->kind == RECALL_ALL;
    }
    if (!any && i->unasked)
        all = !(i->attr.nlink > 0 && (i->lookups > 0 || i->opens > 0));
    *ret_downgrade = (any || i->unasked) && !all && i->x && i->attr.data_state < DATA_UNCLEAN && !i->x->gave_up;
    return any || i->unasked;
}

static void machine_commit(struct tc_client *c, struct inode *i)
{
    i->phase = RECALL_COMMIT;
    if (i->downgrade)
        i->end_action = COMMIT_DOWNGRADE;
    else
        i->end_action = i->opens > 0 ? COMMIT_RELEASE_KEEP_O : COMMIT_RELEASE;
    lease_commit(c, i);
}

/* The lease is over already, without its caches having been dropped: nobody gets in until they are. */
void recall_purge_now(struct tc_client *c, struct inode *i)
{
    i->phase = RECALL_BLOCK;
    i->downgrade = false;
    i->purge_read_gen = i->read_gen - 1;
    recall_progress(c, i);
}

void recall_commit_done(struct tc_client *c, struct inode *i)
{
    machine_finish(c, i);
}

static void drain_timeout(struct env_timer *t)
{
    struct inode *i = container_of(t, struct inode, drain_timer);

    recall_progress(i->c, i);
}

/* What DRAIN waits for is over at @until at the latest. */
static void drain_again(struct tc_client *c, struct inode *i, uint64_t until)
{
    i->drain_timer.fn = drain_timeout;
    env_timer_set(c->env, &i->drain_timer, until);
}

/* A truncate of ours is under way. Either it was applied before the recall began, and its answer comes at once;
 * or it waits behind the recall, and must not be waited for: then it is as if X had ended before it. */
static bool truncate_passed(struct tc_client *c, struct inode *i)
{
    uint64_t until = i->x->truncating_since + TRUNCATE_WAIT_NS;

    if (env_now(c->env) >= until) {
        i->x->truncating = false;
        return true;
    }
    drain_again(c, i, until);
    return false;
}

/* One step; true: try the next. */
static bool machine_step(struct tc_client *c, struct inode *i)
{
    uint64_t until;

    switch (i->phase) {
    case RECALL_IDLE:
        if (!machine_wanted(i, &i->downgrade))
            return false;
        i->phase = RECALL_DRAIN;
        i->purge_pass = 0;
        return true;
    case RECALL_DRAIN:
        if (!machine_wanted(i, &i->downgrade)) {
            machine_finish(c, i);
            return false;
        }
        if (i->x && i->x->truncating && !truncate_passed(c, i))
            return false;
        if (i->writers > 0 || (i->x && (i->commit_inflight || i->commit_queued)))
            return false;
        if (i->x && has_dirty(i)) {
            (void)flush_all(c, i);
            return false;
        }
        if (i->downgrade) {
            machine_commit(c, i);
            return false;
        }
        if (outside_settling(c, i, &until)) {
            drain_again(c, i, until);
            return false;
        }
        i->phase = RECALL_PURGE;
        i->purge_pass++;
        return !purge_start(c, i);
    case RECALL_PURGE:
        if (i->purge_pending > 0)
            return false;
        if (i->x && (has_dirty(i) || i->writers > 0)) {
            i->phase = RECALL_DRAIN;
            return true;
        }
        if (i->purge_read_gen != i->read_gen && i->purge_pass < RECALL_PASSES && i->kernel_pages) {
            i->purge_pass++;
            return !purge_start(c, i);
        }
        i->phase = RECALL_BLOCK;
        return true;
    case RECALL_BLOCK:
        if (i->readers > 0 || i->writers > 0)
            return false;
        i->phase = RECALL_PURGE2;
        if (i->purge_read_gen != i->read_gen)
            return !purge_start(c, i);
        return true;
    case RECALL_PURGE2:
        if (i->purge_pending > 0)
            return false;
        if (i->x && has_dirty(i)) { /* written back from a mapping */
            (void)flush_all(c, i);
            return false;
        }
        i->kernel_pages = false;
        if (i->x) {
            if (i->commit_inflight || i->commit_queued)
                return false;
            machine_commit(c, i);
            return false;
        }
        /* A recall said again after its end: the leader does not learn of this by the ack. */
        if ((i->held & LEASE_S) && !held_is_named(i)) {
            lease_refuse(i, i->gterm, i->gcount);
            lease_queue_release(c, i->ino, i->gterm, i->gcount, i->held, i->opens > 0 ? LEASE_O : 0);
        }
        if (i->held)
            lease_ended(c, i, i->opens > 0 ? LEASE_O : 0);
        machine_finish(c, i);
        return true; /* another may have come meanwhile */
    case RECALL_COMMIT:
        return false;
    }
    return false;
}

static void ask_progress(struct tc_client *c, struct inode *i)
{
    struct xlease *x = i->x;

    if (i->ask == ASK_WANTED && !x->truncating && flush_all(c, i)) {
        i->ask = ASK_FLUSHING;
        i->ask_seq = x->seq;
        i->ask_size = x->size;
        i->ask_mtime = x->mtime;
    }
    if (i->ask == ASK_FLUSHING && (!i->flights || i->flights->w.vseq > i->ask_seq))
        i->ask = ASK_COMMIT;
    if (i->ask == ASK_COMMIT && i->phase != RECALL_COMMIT)
        lease_commit(c, i);
}

void recall_progress(struct tc_client *c, struct inode *i)
{
    if (i->stepping)
        return;
    i->stepping = true;
    inode_pin(i);
    if (i->x && i->ask && i->phase == RECALL_IDLE)
        ask_progress(c, i);
    while (machine_step(c, i))
        ;
    i->stepping = false;
    inode_unpin(c, i);
}

/* ---- arrivals ---------------------------------------------------------------------------------------------------------- */

void recall_item(struct tc_client *c, uint64_t term, const struct recall_item *it)
{
    struct inode *i;
    struct recall *rc;
    bool held;
    uint32_t kind = it->kind;

    if (kind == RECALL_LOCKS) {
        locks_recalled(c, it->ino);
        return;
    }
    i = inode_get(c, it->ino);
    held = i->held && i->gterm == it->gterm && i->gcount == it->gcount;
    if (kind == RECALL_ASK && i->x) {
        lease_ask(c, i, it->recall);
        return;
    }
    if (kind == RECALL_ASK && (i->held || i->getting || i->phase != RECALL_IDLE))
        return; /* X has ended, or is coming: said again if neither */
    DL_FOREACH(i->recalls, rc)
    {
        if (rc->term == term && rc->counter == it->recall && rc->gterm == it->gterm && rc->gcount == it->gcount && rc->kind == kind)
            return; /* said again */
    }
    c->stats.recalls++;
    i->recall_count++;
    if (kind == RECALL_ALL || kind == RECALL_DOWNGRADE)
        i->contended_until = env_now(c->env) + CONTENDED_NS;
    if (term > i->recall_term) {
        i->recall_term = term;
        i->recall_seen = 0;
    }
    i->recall_seen = MAX(i->recall_seen, it->recall);
    if (!held) {
        lease_refuse(i, it->gterm, it->gcount);
        kind = kind == RECALL_DOWNGRADE && i->x ? kind : RECALL_ALL;
    } else if (kind == RECALL_ALL) {
        lease_refuse(i, it->gterm, it->gcount);
    }
    rc = tc_calloc(1, sizeof(*rc));
    *rc = (struct recall){.ino = i, .gterm = it->gterm, .gcount = it->gcount, .counter = it->recall, .kind = kind, .term = term,
                          .orphan = it->orphan};
    if (it->orphan) {
        i->removed_elsewhere = i->removed_elsewhere || i->attr.nlink > 0; /* also when it is asked for again */
        i->attr.nlink = 0; /* for good */
    }
    inode_pin(i);
    rc->name = tc_malloc((size_t)it->name.n + 1);
    if (it->name.n)
        memcpy(rc->name, it->name.p, it->name.n);
    rc->name[it->name.n] = 0;
    DL_APPEND(i->recalls, rc);
    if (!held && !TC_RULE(RECALL_ANY_ID))
        recall_ack(c, rc);
    else if (ends_lease(rc))
        recall_progress(c, i);
    else
        recall_simple(c, rc);
}

void lease_on_recall(struct tc_client *c, const struct recall_msg *m)
{
    if (m->session != c->session || m->term < c->term_seen)
        return;
    session_see_term(c, m->term);
    for (uint32_t k = 0; k < m->items.n; k++)
        recall_item(c, m->term, &m->items.items[k]);
}
