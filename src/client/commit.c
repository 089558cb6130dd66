/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commits (PROTOCOL 3.4, 3.5): what the holder of X has to say of an inode - size, times, blocks in use, reach, the end
 * of X - and what comes of the answer. Whoever has something to say calls lease_commit(); what is to be said is put
 * together when the batch leaves, at the end of the turn, and everything that gathered goes in one request.
 *
 * An inode is pinned from commit_queued until its part is answered, and has at most one commit under way.
 */
#include "client/internal.h"
#include "common/test_rules.h"

void lease_commit(struct tc_client *c, struct inode *i)
{
    ASSERT(i->x);
    if (i->commit_queued || i->commit_inflight)
        return; /* looked at again when it is answered */
    i->commit_queued = true;
    i->commit_next_q = NULL;
    inode_pin(i);
    *c->commit_tail = i;
    c->commit_tail = &i->commit_next_q;
    env_defer(c->env, &c->commit_task);
}

static uint32_t end_state(const struct inode *i)
{
    if (i->x->gave_up)
        return DATA_UNCLEAN;
    if (!TC_RULE(CLEAN) || ((i->x->was_clean || !TC_RULE(CLEAN_BEFORE)) && i->x->all_acked && i->n_tails == 0))
        return DATA_CLEAN;
    return DATA_SETTLED;
}

static void commit_item(struct inode *i, struct commit_item *it)
{
    struct xlease *x = i->x;
    bool quiet = i->dirty_blocks == 0 && i->n_flights == 0;

    *it = (struct commit_item){.ino = i->ino, .epoch = x->epoch, .gterm = i->gterm, .gcount = i->gcount,
                               .vseq = x->seq, .blocks = x->new_blocks, .reach = x->reach_want};
    if ((quiet || !TC_RULE(SIZE_AFTER_BLOCKS)) && (x->meta_dirty || i->ask == ASK_COMMIT)) {
        it->has_size = true;
        it->size = x->size;
        it->mtime = x->mtime;
    } else if (i->ask == ASK_COMMIT) {
        it->has_size = true;
        it->size = i->ask_size;
        it->mtime = i->ask_mtime;
    }
    if (i->ask == ASK_COMMIT)
        it->recall = i->ask_recall;
    if (it->has_size && it->size > MAX(x->reach, it->reach))
        it->reach = MAX(UINT64_C(64) << 20, it->size * 2); /* grown without a block: nothing has asked for reach */
    if (i->phase == RECALL_COMMIT) {
        ASSERT(quiet);
        it->action = i->end_action;
        it->data_state = end_state(i);
        for (struct recall *rc = i->recalls; rc; rc = rc->next) {
            if (rc->kind == RECALL_ALL || rc->kind == RECALL_DOWNGRADE)
                it->recall = MAX(it->recall, rc->counter);
        }
    }
    it->rewritten = x->rewritten;
    x->rewritten = 0;
    x->sent_size = it->has_size ? it->size : x->committed_size;
    x->sent_mtime = it->has_size ? it->mtime : x->committed_mtime;
    x->sent_blocks = it->blocks;
    x->sent_reach = it->reach;
    x->sent_ask = i->ask == ASK_COMMIT;
}

/* One inode's part of a COMMIT was answered. */
static void commit_result(struct tc_client *c, struct inode *i, const struct commit_item *it, int status,
                          const struct commit_result *res, const struct rpc *r)
{
    struct xlease *x = i->x;
    bool cacheable = false; /* under an X that goes on, what was cached still is */

    i->commit_inflight = false;
    if (x && x->epoch == it->epoch && i->gterm == it->gterm && i->gcount == it->gcount) {
        if (status != 0) {
            lease_lost(c, i, -TC_E_IO);
        } else {
            x->new_blocks -= x->sent_blocks;
            x->committed_size = x->sent_size;
            x->committed_mtime = x->sent_mtime;
            if (x->sent_reach) {
                x->reach = MAX(x->reach, x->sent_reach);
                if (x->reach_want <= x->reach)
                    x->reach_want = 0;
            }
            if (x->sent_ask && i->ask == ASK_COMMIT)
                i->ask = ASK_NONE;
            x->meta_dirty = x->size != x->committed_size || x->mtime != x->committed_mtime;
            if (it->action != COMMIT_KEEP) {
                x_end(c, i);
                lease_ended(c, i, it->action == COMMIT_RELEASE_KEEP_O ? LEASE_O : 0);
                i->phase = RECALL_IDLE;
                if (res && res->has_grant)
                    cacheable = lease_take_grant(c, i, &res->grant, r, NULL);
            }
            if (res && res->has_attr)
                inode_take_attr(c, i, &res->attr, cacheable, true);
            if (it->action == COMMIT_DOWNGRADE && !(i->held & LEASE_S))
                recall_purge_now(c, i); /* the S that was to go on is none: of an old term, or recalled already */
            else if (it->action != COMMIT_KEEP)
                recall_commit_done(c, i);
        }
    } else if (x && i->phase == RECALL_COMMIT) {
        lease_commit(c, i); /* it named the epoch before a truncate of ours: the end is still to come */
    }
    waitq_wake(&i->wq);
    waitq_wake(&i->io_wq);
    recall_progress(c, i);
    if (i->x && i->dirty_blocks)
        (void)flush_pending(c, i);
    inode_unpin(c, i);
}

struct commit_batch {
    unsigned n;
    struct commit_item items[COMMIT_ITEMS_MAX];
    struct inode *inos[COMMIT_ITEMS_MAX];
};

static void commit_done(struct rpc *r, int status, const void *res)
{
    struct tc_client *c = r->c;
    struct commit_batch *b = r->arg;
    const struct commit_res *cr = res;

    c->commits_inflight--;
    for (unsigned k = 0; k < b->n; k++) {
        const struct commit_result *one = NULL;
        int st = status;

        if (status == 0) {
            for (uint32_t j = 0; j < cr->items.n && !one; j++) {
                uint32_t at = (k + j) % cr->items.n; /* the usual place first */

                if (cr->items.items[at].ino == b->items[k].ino)
                    one = &cr->items.items[at];
            }
            st = one ? tc_error_from_wire(one->status) : -TC_E_BAD_MESSAGE;
        }
        commit_result(c, b->inos[k], &b->items[k], st, one, r);
    }
    free(b);
}

static void commit_send(struct env_task *t)
{
    struct tc_client *c = container_of(t, struct tc_client, commit_task);

    while (c->commit_q) {
        struct commit_batch *b = tc_malloc(sizeof(*b));
        struct commit_req req = {.items = {b->items, 0}};

        b->n = 0;
        while (c->commit_q && b->n < COMMIT_ITEMS_MAX) {
            struct inode *i = c->commit_q;

            c->commit_q = i->commit_next_q;
            if (!c->commit_q)
                c->commit_tail = &c->commit_q;
            i->commit_queued = false;
            if (!i->x) {
                inode_unpin(c, i);
                continue;
            }
            i->commit_inflight = true;
            commit_item(i, &b->items[b->n]);
            b->inos[b->n++] = i;
        }
        if (b->n == 0) {
            free(b);
            break;
        }
        req.items.n = b->n;
        c->stats.commits++;
        c->commits_inflight++;
        RPC(c, MSG_COMMIT, RPC_MUTATION | RPC_URGENT, commit_req, &req, commit_res, commit_done, b);
    }
}

void lease_ask(struct tc_client *c, struct inode *i, uint64_t recall)
{
    if (!i->x)
        return;
    i->ask = ASK_WANTED;
    i->ask_recall = recall;
    recall_progress(c, i);
}

void commits_init(struct tc_client *c)
{
    c->commit_task.fn = commit_send;
    c->commit_tail = &c->commit_q;
}

void commits_fini(struct tc_client *c)
{
    env_defer_cancel(c->env, &c->commit_task);
}
