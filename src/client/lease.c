/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: asking for S and X, taking grants, giving back, the list after a failover (PROTOCOL section 3).
 * Recalls are in recall.c, commits in commit.c.
 *
 * One reference per inode is kept: the id of the newest grant, and the kinds held under it. When a new grant
 * has another id, the older id is released. X has a struct xlease as long as it is held.
 */
#include "client/internal.h"

#include "common/log.h"
#include "common/test_rules.h"

static void release_send(struct env_timer *t);
static void sweep_idle(struct env_timer *t);
static void ack_send(struct env_task *t);
static void items_done(struct rpc *r, int status, const void *res);
static void lease_get(struct tc_client *c, struct inode *i, uint32_t kind);

#define SWEEP_NS (250 * NS_PER_MS)
#define RELEASE_DELAY_NS (250 * NS_PER_MS)

void lease_init(struct tc_client *c)
{
    commits_init(c);
    c->release_timer.fn = release_send;
    c->sweep_timer.fn = sweep_idle;
    c->ack_task.fn = ack_send;
}

void lease_fini(struct tc_client *c)
{
    commits_fini(c);
    env_defer_cancel(c->env, &c->ack_task);
    env_timer_cancel(c->env, &c->release_timer);
    env_timer_cancel(c->env, &c->sweep_timer);
    free(c->releases);
    free(c->acks);
}

/* ---- what is held ------------------------------------------------------------------------------------------- */

static bool holds_s_now(struct tc_client *c, const struct inode *i)
{
    return (i->held & LEASE_S) && ((i->gen_term == c->gen_term && i->gen_n == c->gen_n) || !TC_RULE(GENERATION));
}

bool lease_s_ok(struct tc_client *c, struct inode *i)
{
    if (i->phase >= RECALL_BLOCK && !(i->downgrade && i->phase == RECALL_COMMIT))
        return false;
    if (i->x) /* whose end is sent: it may be S already */
        return i->phase == RECALL_COMMIT && TC_RULE(END_OF_X) ? session_caching(c) : session_valid(c);
    return holds_s_now(c, i) && session_caching(c);
}

bool lease_x_ok(struct tc_client *c, struct inode *i)
{
    if (!i->x || !session_valid(c))
        return false;
    return i->phase == RECALL_IDLE || i->phase == RECALL_PURGE;
}

bool lease_need_s(struct tc_call *call, struct inode *i)
{
    struct tc_client *c = call->c;

    if (lease_s_ok(c, i))
        return false;
    if (i->getting || i->phase != RECALL_IDLE || env_timer_armed(&i->get_timer)) {
        call_wait(call, &i->wq);
    } else if (!session_valid(c) || !session_caching(c) || i->x) {
        call_wait(call, &c->session_wq);
    } else {
        call_wait(call, &i->wq);
        lease_get(c, i, LEASE_S);
    }
    return true;
}

bool lease_need_x(struct tc_call *call, struct inode *i)
{
    struct tc_client *c = call->c;

    if (lease_x_ok(c, i))
        return false;
    if (i->getting || i->phase != RECALL_IDLE || i->commit_inflight || env_timer_armed(&i->get_timer)) {
        call_wait(call, &i->wq);
    } else if (!session_valid(c) || i->x) {
        call_wait(call, &c->session_wq);
    } else {
        call_wait(call, &i->wq);
        lease_get(c, i, LEASE_X);
    }
    return true;
}

void reader_enter(struct tc_call *call)
{
    if (!call->entered)
        call->ino->readers++;
    call->entered = true;
}

void writer_enter(struct tc_call *call)
{
    if (!call->entered)
        call->ino->writers++;
    call->entered = true;
}

void call_leave(struct tc_call *call)
{
    struct inode *i = call->ino;

    if (!call->entered)
        return;
    call->entered = false;
    if (call->result == RESULT_READ || call->result == RESULT_SEEK) {
        ASSERT(i->readers > 0);
        i->readers--;
        i->read_gen++;
    } else {
        ASSERT(i->writers > 0);
        i->writers--;
    }
    if (i->phase != RECALL_IDLE)
        recall_progress(call->c, i);
}

void lease_x_used(struct tc_client *c, struct inode *i)
{
    i->x->last_use = env_now(c->env);
    if (i->on_x_list)
        DL_DELETE2(c->x_list, i, x_prev, x_next);
    i->on_x_list = true;
    DL_APPEND2(c->x_list, i, x_prev, x_next);
    if (!env_timer_armed(&c->sweep_timer))
        env_timer_set(c->env, &c->sweep_timer, env_now(c->env) + SWEEP_NS);
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static void get_again(struct env_timer *t)
{
    waitq_wake(&container_of(t, struct inode, get_timer)->wq);
}

static void lease_get_done(struct rpc *r, int status, const void *res)
{
    struct inode *i = r->arg;
    struct tc_client *c = r->c;
    const struct entry_res *e = res;
    bool cacheable = false;

    i->getting = 0;
    if (status == 0) {
        if (e->has_grant)
            cacheable = lease_take_grant(c, i, &e->grant, r, e->has_attr ? &e->attr : NULL);
        if (e->has_attr)
            inode_take_attr(c, i, &e->attr, cacheable, false);
        if (!e->has_grant) { /* not now: a recall is under way */
            i->get_timer.fn = get_again;
            env_timer_set(c->env, &i->get_timer, env_now(c->env) + 10 * NS_PER_MS);
        } else {
            waitq_tick(&i->wq); /* before a recall in the same turn takes it away again */
        }
    } else if (status == -TC_E_FENCED) {
        waitq_wake(&i->wq); /* asked in a session that is over */
    } else {
        waitq_fail(&i->wq, status);
    }
    recall_progress(c, i);
    inode_unpin(c, i);
}

static void lease_get(struct tc_client *c, struct inode *i, uint32_t kind)
{
    struct lease_get_req req = {.ino = i->ino, .want = kind};

    i->getting = kind;
    i->get_stamp = i->recall_count;
    inode_pin(i);
    if (kind == LEASE_X)
        RPC(c, MSG_LEASE_GET_X, RPC_MUTATION, lease_get_req, &req, entry_res, lease_get_done, i);
    else
        RPC(c, MSG_LEASE_GET_READ, RPC_READ, lease_get_req, &req, entry_res, lease_get_done, i);
}

void lease_refuse(struct inode *i, uint64_t gterm, uint64_t gcount)
{
    struct grant_id id = {gterm, gcount}, *mark = &i->refused[gcount >> 63];

    if (grant_id_less(mark, &id))
        *mark = id;
}

static bool is_refused(const struct inode *i, uint64_t gterm, uint64_t gcount)
{
    struct grant_id id = {gterm, gcount};

    return TC_RULE(GRANT_ID) && !grant_id_less(&i->refused[gcount >> 63], &id);
}

/* An X that was recalled before we knew of it: given back at once. */
static void x_decline(struct tc_client *c, const struct grant *g)
{
    struct commit_item *it = tc_calloc(1, sizeof(*it));
    struct commit_req req = {.items = {it, 1}};

    *it = (struct commit_item){.ino = g->ino, .epoch = g->epoch, .gterm = g->gterm, .gcount = g->gcount,
                               .action = COMMIT_RELEASE, .data_state = g->was_clean ? DATA_CLEAN : DATA_SETTLED};
    RPC(c, MSG_COMMIT, RPC_MUTATION | RPC_URGENT, commit_req, &req, commit_res, items_done, it);
}

/* An S that comes while a new generation is being entered cannot be used. The leader has it in place of what we had;
 * unless it is given back, it keeps a removed file until the session ends (or the leader asks). What is given back
 * may be named once more, by an answer that grants nothing new; it must not be taken then. */
static void s_decline(struct tc_client *c, struct inode *i, const struct grant *g)
{
    uint32_t keep = i->opens > 0 ? LEASE_O : 0;

    if (i->asserted && (i->held & LEASE_S)) { /* that S goes on, under this id */
        i->gterm = g->gterm;
        i->gcount = g->gcount;
        return;
    }
    lease_refuse(i, g->gterm, g->gcount);
    lease_queue_release(c, i->ino, g->gterm, g->gcount, g->kind, keep);
    if (i->held & LEASE_S)
        lease_ended(c, i, keep);
    i->held = keep;
    i->gterm = g->gterm;
    i->gcount = g->gcount;
}

bool lease_counter_ok(const struct inode *i, const struct grant *g)
{
    if (!TC_RULE(RECALL_COUNTER))
        return g->ino == i->ino;
    /* No counter: a change is under way (PROTOCOL 3.2). */
    if (g->ino != i->ino || !g->recall || g->gen_term < i->recall_term)
        return false; /* of before what a newer leader has recalled */
    return g->gen_term > i->recall_term || g->recall >= i->recall_seen;
}

bool lease_take_grant(struct tc_client *c, struct inode *i, const struct grant *g, const struct rpc *r, const struct attr *a)
{
    bool same = i->held && i->gterm == g->gterm && i->gcount == g->gcount;
    bool current = g->gen_term == c->gen_term && g->gen_n == c->gen_n && c->gen_term && !c->listing;
    bool counter_ok = lease_counter_ok(i, g);

    if (g->ino != i->ino || !g->kind || (r && r->mutation && r->session != c->session))
        return false;
    if (g->kind == LEASE_X) {
        if (i->x && (i->x->epoch >= g->epoch || !a))
            return same && counter_ok;
        if (is_refused(i, g->gterm, g->gcount) || !a) {
            x_decline(c, g);
            return false;
        }
        if (i->held && !same && !(i->held & LEASE_X))
            lease_queue_release(c, i->ino, i->gterm, i->gcount, i->held, 0);
        if (i->x)
            lease_lost(c, i, -TC_E_IO); /* a newer epoch: what we held is over */
        i->held = LEASE_X;
        i->gterm = g->gterm;
        i->gcount = g->gcount;
        i->barrier = g->barrier;
        x_new(c, i, g, a);
        map_need(c, g->barrier);
        return counter_ok;
    }
    if (i->x)
        return false;
    if (is_refused(i, g->gterm, g->gcount) || g->gterm < c->term_seen)
        return false; /* the leader has ended it, or is gone */
    if (!same && i->held && g->gterm == i->gterm && (g->gcount & i->gcount & GCOUNT_MEMORY) && g->gcount < i->gcount)
        return false; /* answers overtook each other: the leader's reference bears the id that we have */
    if (g->kind == LEASE_S && (!current || i->phase != RECALL_IDLE)) {
        if (!same && i->phase == RECALL_IDLE)
            s_decline(c, i, g);
        return false;
    }
    if (same && (i->held & g->kind))
        return g->kind == LEASE_S && counter_ok && holds_s_now(c, i);
    if (i->held && !same)
        lease_queue_release(c, i->ino, i->gterm, i->gcount, i->held, 0);
    if (!(i->held & LEASE_S))
        i->breaks++;
    i->held = g->kind | (i->asserted ? i->held & LEASE_S : 0);
    i->gterm = g->gterm;
    i->gcount = g->gcount;
    i->barrier = g->barrier;
    i->gen_term = g->gen_term;
    i->gen_n = g->gen_n;
    map_need(c, g->barrier);
    return g->kind == LEASE_S && counter_ok;
}

/* ---- giving back ------------------------------------------------------------------------------------------------- */

static void plain_done(struct rpc *r TC_UNUSED, int status TC_UNUSED, const void *res TC_UNUSED)
{
    /* A reference of a session or term that is over is over anyway. */
}

static void items_done(struct rpc *r, int status, const void *res)
{
    plain_done(r, status, res);
    free(r->arg);
}

static void release_send(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, release_timer);

    for (unsigned at = 0; at < c->n_releases;) {
        unsigned n = MIN(c->n_releases - at, LEASE_ITEMS_MAX);
        struct lease_item *items = tc_malloc(n * sizeof(*items));
        struct lease_release_req req = {.items = {items, n}};

        memcpy(items, c->releases + at, n * sizeof(*items));
        RPC(c, MSG_LEASE_RELEASE, RPC_READ, lease_release_req, &req, empty_msg, items_done, items);
        at += n;
    }
    c->n_releases = 0;
}

void lease_queue_release(struct tc_client *c, uint64_t ino, uint64_t gterm, uint64_t gcount, uint32_t kind, uint32_t keep)
{
    if (c->n_releases == c->cap_releases) {
        c->cap_releases = c->cap_releases ? c->cap_releases * 2 : 64;
        c->releases = tc_realloc(c->releases, c->cap_releases * sizeof(*c->releases));
    }
    c->releases[c->n_releases++] = (struct lease_item){.ino = ino, .gterm = gterm, .gcount = gcount, .kind = kind, .keep = keep};
    if (!env_timer_armed(&c->release_timer))
        env_timer_set(c->env, &c->release_timer, env_now(c->env) + RELEASE_DELAY_NS);
}

void lease_ended(struct tc_client *c, struct inode *i, uint32_t keep)
{
    i->breaks++;
    i->held = keep;
    inode_drop_attr(i);
    if (keep & LEASE_S)
        return;
    i->asserted = false;
    dir_drop(c, i);
    clean_drop(c, i);
    readahead_drop(c, i);
}

void lease_release(struct tc_client *c, struct inode *i)
{
    ASSERT(!i->x);
    if (!i->held)
        return;
    lease_refuse(i, i->gterm, i->gcount);
    lease_queue_release(c, i->ino, i->gterm, i->gcount, i->held, 0);
    lease_ended(c, i, 0);
}

/* Outside caches of an inode whose lease is over; a new generation waits for it. */
static void pages_purge(struct tc_client *c, struct inode *i)
{
    bool pages = i->kernel_pages;

    if (!c->cfg.invalidate_inode || !(pages || outside_attr(c, i)))
        return;
    i->kernel_pages = false;
    c->purges += outside_drop(c, i, pages, lease_purged, c);
}

void lease_lost(struct tc_client *c, struct inode *i, int error)
{
    if (!i->x)
        return;
    if (i->dirty_blocks > 0 || i->n_flights > 0) {
        LOG_ERR("client", "lease lost with unsaved data", "ino=%lu blocks=%lu error=%s", (unsigned long)i->ino,
                (unsigned long)i->dirty_blocks, tc_error_name(error));
        files_error(i, error, true);
    }
    dirty_drop(c, i);
    x_end(c, i);
    lease_ended(c, i, 0);
    pages_purge(c, i); /* what was lost, and what others write from now on */
    recalls_drop(c, i);
    if (i->kernel_pages)
        recall_purge_now(c, i);
    waitq_wake(&i->wq);
    waitq_wake(&i->io_wq);
}

/* ---- X that is not used any more ------------------------------------------------------------------------------------- */

void lease_end_unasked(struct tc_client *c, struct inode *i)
{
    if (!i->x || i->phase != RECALL_IDLE || i->commit_inflight || i->commit_queued)
        return;
    i->unasked = true;
    recall_progress(c, i);
}

static void sweep_idle(struct env_timer *t)
{
    struct tc_client *c = container_of(t, struct tc_client, sweep_timer);
    uint64_t now = env_now(c->env);
    struct inode *i, *tmp;
    unsigned n = 0;

    DL_FOREACH_SAFE2(c->x_list, i, tmp, x_next)
    {
        if (now < i->x->last_use + X_IDLE_NS || ++n > 4096 || !TC_RULE(X_IDLE))
            break;
        if (i->dirty_blocks || i->n_flights || i->writers || i->phase != RECALL_IDLE || i->ask)
            continue;
        if (i->n_tails && now < i->x->flushed_at + CLEAN_WAIT_NS)
            continue;
        if (c->state == SESSION_VALID)
            lease_end_unasked(c, i);
    }
    if (c->x_list)
        env_timer_set(c->env, t, now + SWEEP_NS);
}

/* ---- acknowledgements ---------------------------------------------------------------------------------------------------- */

static void ack_send(struct env_task *t)
{
    struct tc_client *c = container_of(t, struct tc_client, ack_task);
    struct recall_ack_req req;

    if (c->n_acks == 0)
        return;
    req = (struct recall_ack_req){.items = {c->acks, c->n_acks}};
    RPC(c, MSG_RECALL_ACK, RPC_READ | RPC_URGENT, recall_ack_req, &req, empty_msg, items_done, c->acks);
    c->acks = NULL;
    c->n_acks = c->cap_acks = 0;
}

void lease_ack(struct tc_client *c, const struct recall *rc, uint32_t keep)
{
    if (c->n_acks == c->cap_acks) {
        c->cap_acks = c->cap_acks ? c->cap_acks * 2 : 16;
        c->acks = tc_realloc(c->acks, c->cap_acks * sizeof(*c->acks));
    }
    c->acks[c->n_acks++] = (struct lease_item){.ino = rc->ino->ino, .gterm = rc->gterm, .gcount = rc->gcount,
                                               .kind = rc->kind, .recall = rc->counter, .keep = keep};
    env_defer(c->env, &c->ack_task);
}

/* ---- the complete list (PROTOCOL 3.1) -------------------------------------------------------------------------------------- */

void lease_purged(void *arg)
{
    struct tc_client *c = arg;

    ASSERT(c->purges > 0);
    if (--c->purges == 0 && c->listing)
        lease_list(c);
}

/* Names outside: their S goes on alone. What we know under it ourselves goes, as if it had ended. */
static void s_keep(struct tc_client *c, struct inode *i)
{
    i->asserted = true;
    i->breaks++;
    i->kept++;
    inode_drop_attr(i);
    dir_drop(c, i);
}

void lease_drop_all_s(struct tc_client *c, bool keep_names)
{
    struct inode *i, *tmp;
    unsigned kept = 0;

    HASH_ITER(hh, c->inodes, i, tmp)
    {
        if (i->phase == RECALL_COMMIT && i->downgrade) {
            i->downgrade = false; /* its S would be of the old generation: reads wait for the end of it */
            i->breaks++;
            pages_purge(c, i);
        }
        i->asserted = false;
        if (!(i->held & LEASE_S)) {
            if (!i->x && outside_attr(c, i))
                c->purges += outside_drop(c, i, false, lease_purged, c);
            continue;
        }
        if (keep_names && kept < ASSERTED_MAX && outside_names(c, i)) {
            s_keep(c, i);
            kept++;
        } else {
            lease_ended(c, i, i->opens > 0 ? LEASE_O : 0);
        }
        pages_purge(c, i);
    }
}

void lease_asserted(struct tc_client *c)
{
    struct inode *i, *tmp;

    HASH_ITER(hh, c->inodes, i, tmp)
    {
        if (i->asserted) {
            i->gen_term = c->gen_term;
            i->gen_n = c->gen_n;
        }
        i->asserted = false;
    }
}

/* The right has run out before the list was sent: names outside may be old from now on. */
static void asserted_drop(struct tc_client *c)
{
    struct inode *i, *tmp;

    HASH_ITER(hh, c->inodes, i, tmp)
    {
        if (i->asserted)
            lease_ended(c, i, i->opens > 0 ? LEASE_O : 0);
    }
}

/* The list as it was when it began, sent page by page; what is granted or released meanwhile is in this generation. */
struct list_op {
    struct lease_list_req req;
    uint32_t n, sent;
    struct lease_item items[];
};

static void list_page_send(struct tc_client *c, struct list_op *p);

static void list_page_done(struct rpc *r, int status, const void *res TC_UNUSED)
{
    struct tc_client *c = r->c;
    struct list_op *p = r->arg;
    bool stale = p->req.gen_term != c->want_gen_term || p->req.gen_n != c->want_gen_n || !c->listing;

    if (stale) {
        free(p);
        return;
    }
    if (status != 0 || p->req.last) {
        free(p);
        session_listed(c, status);
        return;
    }
    p->req.page++;
    list_page_send(c, p);
}

static void list_page_send(struct tc_client *c, struct list_op *p)
{
    p->req.items.items = p->items + p->sent;
    p->req.items.n = MIN(p->n - p->sent, LEASE_ITEMS_MAX);
    p->sent += p->req.items.n;
    p->req.last = p->sent == p->n;
    RPC(c, MSG_LEASE_LIST, RPC_READ | RPC_URGENT, lease_list_req, &p->req, empty_msg, list_page_done, p);
}

void lease_list(struct tc_client *c)
{
    struct inode *i, *tmp;
    struct list_op *p;

    env_timer_cancel(c->env, &c->outside_timer);
    if (!session_right(c))
        asserted_drop(c);
    if (c->purges || outside_wait_all(c))
        return; /* when the last is done */
    p = tc_calloc(1, sizeof(*p) + c->n_inodes * sizeof(p->items[0]));
    p->req.gen_term = c->want_gen_term;
    p->req.gen_n = c->want_gen_n;
    HASH_ITER(hh, c->inodes, i, tmp)
    {
        if (i->held && (i->x || i->opens > 0 || i->asserted))
            p->items[p->n++] = (struct lease_item){.ino = i->ino, .gterm = i->gterm, .gcount = i->gcount, .kind = i->held};
    }
    list_page_send(c, p);
}
