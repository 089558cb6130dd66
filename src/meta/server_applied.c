/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries that were applied: what became of the requests that asked for them, and entries of the leader's own.
 *
 * The answer that the state machine gave is completed with what only the leader's memory knows: grants of leases with
 * generation and counter. An answer given is kept by the state machine; nobody is answered twice.
 */
#include "meta/server_internal.h"

/* ---- applied ---- */

/* What only the leader's memory knows goes into the grant of a fresh answer: generation and counter. */
static void grant_patch(struct meta_server *s, const struct meta_op *op, const struct meta_session *x, struct grant *g)
{
    struct leases *ls = s->lead->leases;

    g->gen_term = s->lead->term;
    g->gen_n = x->lease.gen_n;
    g->recall = lease_changing(ls, g->ino, &op->lease) ? 0 : lease_counter(ls);
}

/* The X that @x goes on holding: so that it knows whether it may keep what the answer says of the leader's part. */
static bool grant_of_x(struct meta_server *s, const struct meta_session *x, uint64_t ino, struct grant *g)
{
    struct fsm_lease f;

    if (!fsm_lease(s->fsm, ino, &f) || f.dead || f.session != x->lease.id)
        return false;
    *g = (struct grant){.ino = ino,
                        .kind = LEASE_X,
                        .gterm = f.gterm,
                        .gcount = f.gcount,
                        .barrier = fsm_map_epoch(s->fsm),
                        .epoch = f.epoch,
                        .reach = f.reach,
                        .was_clean = f.was_clean};
    return true;
}

static struct buf *commit_patched(struct meta_server *s, const struct meta_op *op, const struct meta_session *x,
                                  struct slice body)
{
    struct commit_res m;

    if (wire_decode(body, &commit_res_schema, &s->arena, &m) < 0)
        return NULL;
    for (uint32_t i = 0; i < m.items.n; i++) {
        struct commit_result *c = &m.items.items[i];

        if (!c->has_grant && c->status == 0)
            c->has_grant = grant_of_x(s, x, c->ino, &c->grant);
        if (c->has_grant)
            grant_patch(s, op, x, &c->grant);
    }
    return wire_encode(&commit_res_schema, &m);
}

static struct buf *reply_patched(struct meta_server *s, const struct meta_op *op, struct meta_session *x,
                                 const struct fsm_result *res)
{
    struct slice body = slice_of(res->body->data, res->body->len);
    struct entry_res m;

    if (op->type == MSG_COMMIT)
        return commit_patched(s, op, x, body);
    if (wire_decode(body, &entry_res_schema, &s->arena, &m) < 0)
        return NULL;
    if (m.has_attr && !m.has_grant)
        m.has_grant = grant_of_x(s, x, m.attr.ino, &m.grant);
    if (m.has_grant)
        grant_patch(s, op, x, &m.grant);
    else if (m.has_attr)
        m.has_grant = grant_fill(s, x, m.attr.ino, 0, 0, &op->lease, &m.grant);
    if (m.has_dir && !m.has_dir_grant)
        m.has_dir_grant = grant_fill(s, x, m.dir.ino, 0, 0, &op->lease, &m.dir_grant);
    if (!m.has_grant && !m.has_dir_grant)
        return NULL;
    return wire_encode(&entry_res_schema, &m);
}

static bool type_grants(uint16_t type)
{
    return type >= MSG_MAKE && type <= MSG_COMMIT;
}

static void mutation_answer(struct meta_server *s, struct meta_op *op, const struct fsm_result *res)
{
    struct slice body = res->body ? slice_of(res->body->data, res->body->len) : slice_of(NULL, 0);
    struct meta_session *x = op->type == MSG_SESSION_OPEN ? NULL : lead_session(s, op->session);
    struct buf *patched = NULL;

    if (res->ignored && res->status != -TC_E_SESSION_EXPIRED && res->status != -TC_E_SESSION_UNKNOWN) {
        op->answered = true; /* finished by another copy: nobody waits for it */
        return;
    }
    if (x && res->status == 0 && res->body && !res->duplicate && type_grants(op->type))
        patched = reply_patched(s, op, x, res);
    if (patched)
        body = slice_of(patched->data, patched->len);
    op_reply(op, res->status, body);
    buf_unref(patched);
}

/* Commits that a holder was asked for. */
static void commits_seen(struct meta_server *s, const struct fsm_result *res)
{
    struct meta_session *x = lead_session(s, res->session);
    uint64_t now = env_now(s->env);

    if (!x || !x->lease.recalls)
        return;
    for (uint32_t i = 0; i < res->n_effects; i++) {
        const struct fsm_effect *e = &res->effects[i];

        if (e->kind == FSM_ATTR_CHANGED)
            lease_committed(s->lead->leases, &x->lease, e->ino, e->recall, now);
    }
}

void mutation_applied(struct meta_server *s, struct meta_op *op, struct fsm_result *res, uint16_t type,
                      const struct command *cmd)
{
    (void)cmd;
    if (type == MSG_COMMIT)
        commits_seen(s, res);
    if (!op && res->seq) {
        struct {
            uint64_t session, seq;
        } key = {res->session, res->seq};

        HASH_FIND(hh, s->lead->by_seq, &key, OP_KEY_SIZE, op);
        if (!op || op->proposed || op->answered)
            return;
        mutation_answer(s, op, res);
        if (op->lease.waits == 0)
            op_free(op); /* else when its recalls are over */
        return;
    }
    if (!op)
        return;
    if (op->kind == OP_INTERNAL) {
        if (op->applied)
            op->applied(s, op, res->status);
    } else if (!op->answered) {
        mutation_answer(s, op, res);
    }
    op_free(op);
}

/* ---- the leader's own ---- */

int internal_propose(struct meta_server *s, uint32_t type, const struct wire_schema *schema, const void *body,
                     void (*applied)(struct meta_server *s, struct meta_op *op, int status), void *arg)
{
    struct meta_op *op = op_new(s, OP_INTERNAL, NULL);
    struct buf *b;
    int r;

    if (!op)
        return -TC_E_BACKPRESSURE;
    op->applied = applied;
    op->arg = arg;
    b = wire_encode(schema, body);
    r = server_propose(s, type, slice_of(b->data, b->len), op);
    buf_unref(b);
    if (r < 0) {
        op_free(op);
        return r;
    }
    op->proposed = true;
    return 0;
}

void release_unknown_x(struct meta_server *s, struct meta_session *x, uint64_t ino)
{
    struct commit_item item = {.ino = ino, .action = COMMIT_RELEASE};
    struct commit_req req = {.ctx = {.session = x->lease.id, .incarnation = x->incarnation}, .has_ctx = true,
                             .items = {&item, 1}};
    struct fsm_lease f;

    if (!fsm_lease(s->fsm, ino, &f) || f.dead || f.session != x->lease.id)
        return;
    item.epoch = f.epoch;
    item.gterm = f.gterm;
    item.gcount = f.gcount;
    item.data_state = DATA_UNCLEAN; /* it may have written and given up */
    (void)internal_propose(s, MSG_COMMIT, &commit_req_schema, &req, NULL, NULL); /* the recall is resent */
}
