/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X leases: grants, commits of what a holder changed, and how an inode whose X ended badly is
 * mended (PROTOCOL 3, 5, 7).
 *
 * The X row is part of the inode's. It is *dead* when its session is no longer live (so expiry
 * needs to touch no inode), or when a commit said that its holder gave up (ended). A dead row goes
 * only by SIZE_RECOVERED; until then nobody is granted X, and nobody may change what a holder may.
 *
 * Every end of an X that was not clean or settled changes the epoch before RECONCILED can clear the
 * mark; so an unchanged epoch there means that nothing was added since the comparison began.
 */
#include "meta/fsm_int.h"
#include "common/test_rules.h"

bool lease_dead(const struct fsm *f, const struct inode *in)
{
    return in->has_lease && (in->lease.ended || !fsm_session_live(f, in->lease.session));
}

bool lease_own(const struct fsm *f, const struct inode *in, uint64_t session)
{
    return in->has_lease && in->lease.session == session && !lease_dead(f, in);
}

int lease_check(const struct fsm *f, const struct inode *in, uint64_t session)
{
    return in->has_lease && !lease_own(f, in, session) ? -TC_E_LEASE_CONFLICT : 0;
}

uint64_t inode_reach(const struct inode *in)
{
    return in->has_lease ? MAX(in->bound, in->lease.reach) : in->bound;
}

/*
 * The next epoch. The first one after a dump was loaded is above all that were given since the dump was made; what
 * was written past the size meanwhile is masked.
 */
static void epoch_next(struct fsm *f, struct inode *in)
{
    in->epoch++;
    if (in->epoch >= f->epoch_floor)
        return;
    in->epoch = f->epoch_floor;
    horizon_add(f, in, in->size, in->epoch);
}

void lease_grant(struct fsm *f, struct inode *in, uint64_t session)
{
    struct session *s = session_find(f, session);
    bool again = lease_own(f, in, session);
    struct fsm_effect *e;

    ASSERT(s && s->state == FSM_SESSION_LIVE && S_ISREG(in->mode));
    ASSERT(!in->has_lease || again);
    if (again)
        in->bound =
            inode_reach(in); /* whatever was written under the grant that this one replaces */
    if ((!(f->rules_off & FSM_RULE_EPOCH) && (!again || TC_RULE(EPOCH_AGAIN))) || in->epoch == 0)
        epoch_next(f, in);
    in->lease = (struct inode_lease){
        .session = session,
        .incarnation = s->incarnation,
        .was_clean = !in->unclean_from && (again ? false : in->clean),
        .gterm = f->term,
        .gcount = f->index,
        .epoch = in->epoch,
        .reach = MAX(FSM_REACH_MIN, 2 * in->size),
    };
    in->has_lease = true;
    in->clean = false;
    if (!again) {
        row_put(f, key_u64x2(TAB_XHELD, session, in->ino), "", 0);
        s->n_x++;
    }
    inode_touch(f, in);
    e = effect_add(f, FSM_X_GRANTED, in->ino, session);
    e->gterm = in->lease.gterm;
    e->gcount = in->lease.gcount;
    e->epoch = in->epoch;
}

/* The X row goes; nothing is said about the state of the data. */
void lease_end(struct fsm *f, struct inode *in)
{
    struct session *s = session_find(f, in->lease.session);

    ASSERT(in->has_lease);
    if (!in->lease.ended) {
        row_del_once(f, key_u64x2(TAB_XHELD, in->lease.session, in->ino));
        if (s) {
            ASSERT(s->n_x > 0);
            s->n_x--;
        }
    }
    in->has_lease = false;
    in->lease = (struct inode_lease){0};
    inode_touch(f, in);
}

void lease_to_grant(const struct fsm *f, const struct inode *in, struct grant *ret)
{
    ASSERT(in->has_lease);
    *ret = (struct grant){.ino = in->ino,
                          .kind = LEASE_X,
                          .gterm = in->lease.gterm,
                          .gcount = in->lease.gcount,
                          .barrier = f->map_epoch,
                          .epoch = in->lease.epoch,
                          .reach = in->lease.reach,
                          .was_clean = in->lease.was_clean};
}

void inode_blocks_set(struct fsm *f, struct inode *in, uint64_t blocks)
{
    ASSERT(f->n_blocks >= in->blocks);
    f->n_blocks += blocks - in->blocks;
    in->blocks = blocks;
}

uint32_t horizon_after(const struct inode *in, uint64_t size)
{
    uint32_t n = in->n_horizon;

    while (n > 0 && (in->horizon[n - 1].size >= size) == TC_RULE(HORIZON_COVER))
        n--;
    return n;
}

/* Blocks at or past @size of an epoch below @epoch are masked from here on, and may be deleted. */
void horizon_add(struct fsm *f, struct inode *in, uint64_t size, uint64_t epoch)
{
    in->n_horizon = horizon_after(in, size);
    ASSERT(in->n_horizon < FSM_HORIZON_ROOM);
    in->horizon[in->n_horizon++] = (struct horizon){.size = size, .epoch = epoch};
    in->since = size;
    gc_add(f, in->ino, size, epoch, inode_reach(in));
}

static void horizon_rewritten(struct inode *in, uint64_t epoch)
{
    for (uint32_t i = 0; i + 1 < in->n_horizon; i++) {
        if (in->horizon[i].epoch == epoch) {
            memmove(&in->horizon[i], &in->horizon[i + 1],
                    (in->n_horizon - i - 1) * sizeof(in->horizon[0]));
            in->n_horizon--;
            return;
        }
    }
}

static void mark_unclean(struct fsm *f, struct inode *in, uint64_t epoch)
{
    if (!in->unclean_from || epoch < in->unclean_from || !TC_RULE(OLDEST_EPOCH))
        in->unclean_from = epoch;
    in->clean = false;
    row_put(f, key_u64(TAB_UNCLEAN, in->ino), "", 0);
    inode_touch(f, in);
    effect_add(f, FSM_UNCLEAN, in->ino, 0);
}

int op_lease_get_x(struct fsm *f, const struct lease_get_req *req)
{
    struct inode *in = fsm_inode_get(f, req->ino);
    struct entry_res res = {.has_attr = true, .has_grant = true, .replica_time = f->now};
    int r;

    if (!in)
        return -TC_E_STALE;
    if (!(req->want & LEASE_X) || (!S_ISREG(in->mode) && TC_RULE(X_DIRECTORY)))
        return S_ISDIR(in->mode) ? -TC_E_ISDIR : -TC_E_INVAL;
    r = lease_check(f, in, req->ctx.session);
    if (r < 0 && TC_RULE(ONE_HOLDER))
        return r;
    lease_grant(f, in, req->ctx.session);
    attr_fill(f, req->ctx.session, in, &f->arena, &res.attr);
    lease_to_grant(f, in, &res.grant);
    answer(f, &entry_res_schema, &res);
    return 0;
}

/* ---- commits --------------------------------------------------------------------------------- */

static bool version_above(uint64_t epoch, uint64_t seq, const struct inode *in)
{
    return epoch != in->utimes_epoch ? epoch > in->utimes_epoch : seq > in->utimes_seq;
}

static void commit_values(struct fsm *f, struct inode *in, const struct commit_item *it)
{
    if (it->reach)
        in->lease.reach = MAX(in->lease.reach, MIN(it->reach, FSM_SIZE_MAX));
    if (it->has_size) {
        uint64_t mtime = MIN(it->mtime, f->now); /* PROTOCOL 9.1 */

        in->size = MAX(in->size, it->size); /* within an epoch sizes only grow */
        in->since = MAX(in->since, in->size);
        in->bound = MAX(in->bound, in->size);
        if (mtime &&
            version_above(it->epoch, it->vseq, in)) /* back only from where utimes had put it */
            in->mtime = in->utimes_epoch ? mtime : MAX(in->mtime, mtime);
        in->ctime = MAX(in->ctime, mtime);
    }
    if (it->atime)
        in->atime = MIN(it->atime, f->now);
    if (it->blocks) {
        int64_t blocks = (int64_t)in->blocks + it->blocks;

        inode_blocks_set(f, in, blocks < 0 ? 0 : (uint64_t)blocks);
    }
    if (it->rewritten)
        horizon_rewritten(in, it->rewritten);
    inode_touch(f, in);
}

/* X of @in ends, or goes down to S, as the holder says. */
static void commit_end(struct fsm *f, struct inode *in, struct session *s,
                       const struct commit_item *it, struct commit_result *res)
{
    struct fsm_effect *e = effect_add(f, FSM_X_ENDED, in->ino, s->id);
    bool unclean = it->data_state >= DATA_UNCLEAN;

    e->gterm = in->lease.gterm;
    e->gcount = in->lease.gcount;
    e->gcount2 = f->index;
    e->recall = it->recall;
    if (it->action == COMMIT_DOWNGRADE)
        e->keep = unclean ? LEASE_O : LEASE_S;
    else if (it->action == COMMIT_RELEASE_KEEP_O)
        e->keep = LEASE_O;
    if (e->keep) {
        res->has_grant = true;
        res->grant = (struct grant){.ino = in->ino,
                                    .kind = e->keep,
                                    .gterm = f->term,
                                    .gcount = f->index,
                                    .barrier = f->map_epoch};
    }
    if (unclean) {
        /* The row stays, dead, until the size is recovered. */
        row_del_once(f, key_u64x2(TAB_XHELD, s->id, in->ino));
        ASSERT(s->n_x > 0);
        s->n_x--;
        in->lease.ended = true;
        mark_unclean(f, in, in->lease.epoch);
        return;
    }
    in->clean = it->data_state == DATA_CLEAN && /* PROTOCOL 7 */
                ((in->lease.was_clean && !in->unclean_from) || !TC_RULE(CLEAN) || !TC_RULE(CLEAN_BEFORE));
    if (!TC_RULE(MARK_STAYS) && in->unclean_from) {
        in->unclean_from = 0;
        row_del(f, key_u64(TAB_UNCLEAN, in->ino));
    }
    lease_end(f, in);
}

static int commit_one(struct fsm *f, struct session *s, const struct commit_item *it,
                      struct commit_result *res)
{
    struct inode *in = fsm_inode_get(f, it->ino);
    uint64_t reach;

    if (!in || !lease_own(f, in, s->id) ||
        ((in->lease.epoch != it->epoch || in->lease.gterm != it->gterm || in->lease.gcount != it->gcount) &&
         TC_RULE(COMMIT_GRANT)))
        return -TC_E_LEASE_LOST;
    reach = MAX(in->lease.reach, MIN(it->reach, FSM_SIZE_MAX));
    if (it->has_size && it->size > reach && TC_RULE(COMMIT_REACH))
        return -TC_E_INVAL; /* PROTOCOL 4.7 */
    if (it->action > COMMIT_RELEASE_KEEP_O || it->data_state > DATA_UNSIZED)
        return -TC_E_INVAL;
    commit_values(f, in, it);
    if (it->action != COMMIT_KEEP)
        commit_end(f, in, s, it, res);
    effect_add(f, FSM_ATTR_CHANGED, in->ino, s->id)->recall = it->recall;
    res->has_attr = true;
    attr_fill(f, s->id, in, &f->arena, &res->attr);
    return 0;
}

int op_commit(struct fsm *f, const struct commit_req *req)
{
    struct session *s = session_find(f, req->ctx.session);
    struct commit_res res = {0};
    bool fence = false;

    res.items.n = req->items.n;
    res.items.items =
        wire_arena_alloc(&f->arena, (req->items.n + 1) * sizeof(struct commit_result));
    if (!res.items.items)
        return -TC_E_LIMIT;
    for (uint32_t i = 0; i < req->items.n; i++) {
        const struct commit_item *it = &req->items.items[i];
        struct commit_result *one = &res.items.items[i];
        int r;

        *one = (struct commit_result){.ino = it->ino};
        r = commit_one(f, s, it, one);
        one->status = tc_error_to_wire(r);
        if (r == 0 && it->action != COMMIT_KEEP && it->data_state >= DATA_UNCLEAN)
            fence = TC_RULE(UNCLEAN_FENCES);
    }
    if (fence)
        session_fence(f, s); /* one map epoch for all of them */
    answer(f, &commit_res_schema, &res);
    return 0;
}

/* ---- mending (PROTOCOL 3.6) ------------------------------------------------------------------ */

int op_size_recovered(struct fsm *f, const struct cmd_size_recovered *cmd)
{
    struct inode *in = fsm_inode_get(f, cmd->ino);
    struct inode_lease ended;
    struct fsm_effect *e;

    if (!in)
        return -TC_E_NOENT;
    if (!lease_dead(f, in) || ((in->lease.epoch != cmd->epoch || in->epoch != cmd->epoch) && TC_RULE(RECOVERED_EPOCH)))
        return -TC_E_STALE_EPOCH;
    if (horizon_after(in, MAX(in->size, cmd->size)) >= FSM_HORIZON_ROOM)
        return -TC_E_LIMIT;
    ended = in->lease;
    in->bound = inode_reach(in);
    lease_end(f, in);
    if (cmd->found) {
        uint64_t mtime = MIN(cmd->mtime, f->now);

        in->size = MAX(TC_RULE(RECOVER_MAX) ? in->size : 0, MIN(cmd->size, ended.reach));
        if (mtime && version_above(cmd->epoch, cmd->vseq, in))
            in->mtime = in->utimes_epoch == cmd->epoch ? mtime : MAX(in->mtime, mtime);
        in->ctime = MAX(in->ctime, mtime);
    }
    epoch_next(f, in);
    mark_unclean(f, in, ended.epoch);
    if (TC_RULE(RECOVER_HORIZON))
        horizon_add(f, in, in->size, in->epoch);
    e = effect_add(f, FSM_X_ENDED, in->ino, ended.session);
    e->gterm = ended.gterm;
    e->gcount = ended.gcount;
    effect_add(f, FSM_MENDED, in->ino, 0);
    return 0;
}

int op_reconciled(struct fsm *f, const struct cmd_reconciled *cmd)
{
    struct inode *in = fsm_inode_get(f, cmd->ino);

    if (!in)
        return -TC_E_NOENT;
    if (!in->unclean_from)
        return 0;
    if ((in->epoch != cmd->mark_change || lease_dead(f, in)) && TC_RULE(RECONCILED_EPOCH))
        return -TC_E_STALE_EPOCH;
    in->unclean_from = 0;
    row_del(f, key_u64(TAB_UNCLEAN, in->ino));
    inode_touch(f, in);
    effect_add(f, FSM_MENDED, in->ino, 0);
    return 0;
}
