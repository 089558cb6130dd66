/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests answered from the store, inside the leader lease, and the grants of S and O that ride on them.
 *
 * A read waits only where the committed state must not be shown (PROTOCOL 3.4): for the holder of X to commit, or for
 * size recovery; and a request for S waits in the inode's queue. Then it becomes a meta_op and is run again
 * from its frame when the wait is over.
 */
#include "meta/server_internal.h"

#include "common/test_rules.h"

#define READDIR_MAX 2000u
#define READDIR_BYTES_MAX (512u << 10)
#define ATTR_BLOCK 4096u

/* Reads share lead->by_seq with mutations; their keys have this bit in the session and the wire id as seq. */
#define READ_KEY (UINT64_C(1) << 63)

static void read_done(struct meta_server *s, struct request *q, int status, const struct wire_schema *schema,
                      const void *body)
{
    struct meta_op *op = q->op;

    if (!op) {
        server_reply(s, q->peer, q->id, q->type, status, schema, body);
        return;
    }
    for (unsigned i = 0; i < op->n_waiters; i++)
        server_reply(s, op->waiters[i].peer, op->waiters[i].id, op->type, status, schema, body);
    op->answered = true;
    op_free(op);
    q->op = NULL;
}

/* The operation that @q has become; NULL: too many, it was answered so. */
static struct meta_op *read_op(struct meta_server *s, struct request *q)
{
    struct {
        uint64_t session, seq;
    } key = {q->ctx->session | READ_KEY, q->id};
    struct meta_op *op;

    if (q->op)
        return q->op;
    HASH_FIND(hh, s->lead->by_seq, &key, sizeof(key), op);
    if (op)
        return NULL; /* a copy of one that waits already */
    op = op_new(s, OP_READ, q);
    if (!op) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_BACKPRESSURE, NULL, NULL);
        return NULL;
    }
    op->key_session = key.session;
    op->seq = key.seq;
    HASH_ADD(hh, s->lead->by_seq, key_session, sizeof(key), op);
    q->op = op;
    return op;
}

/* True: the answer has to wait until @ino's attributes may be shown. */
static bool attr_waits(struct meta_server *s, struct request *q, struct attr *attr)
{
    struct meta_op *op;

    if (!(attr->flags & ATTR_HELD))
        return false;
    op = read_op(s, q);
    if (!op)
        return true;
    if (op_wait_x(op, attr->ino, RECALL_ASK)) {
        server_turn(s);
        return true;
    }
    attr->flags &= ~(uint32_t)ATTR_HELD; /* committed since it was asked for */
    return false;
}

bool grant_fill(struct meta_server *s, struct meta_session *x, uint64_t ino, uint32_t want, uint64_t request_id,
                const struct lease_op *own, struct grant *g)
{
    struct leases *ls = s->lead->leases;
    bool changing = TC_RULE(BETWEEN) && lease_changing(ls, ino, own);
    struct lease_ref *r = NULL;
    struct fsm_lease f = {0};
    uint32_t kinds = want & LEASE_O;

    if (lease_reaping(ls, ino))
        return false;
    if (fsm_lease(s->fsm, ino, &f)) {
        if (f.session == x->lease.id && !f.dead)
            return false; /* holds X, which is more */
        if ((want & LEASE_S) && !TC_RULE(S_BESIDE_X))
            kinds |= LEASE_S;
    } else if ((want & LEASE_S) && !changing && (x->lease.asserted || !TC_RULE(UNLISTED_NO_S))) { /* else it could not use it */
        kinds |= LEASE_S;
    }
    if (kinds) {
        r = lease_give(ls, &x->lease, ino, kinds, request_id);
    } else {
        r = lease_find(ls, &x->lease, ino);
        if (r && !(r->kinds & LEASE_S))
            r = NULL;
    }
    if (!r)
        return false;
    *g = (struct grant){
        .ino = ino,
        .kind = kinds & LEASE_S || (!kinds && r->kinds & LEASE_S) ? LEASE_S : LEASE_O,
        .gterm = r->gterm,
        .gcount = r->gcount,
        .barrier = fsm_map_epoch(s->fsm),
        .gen_term = s->lead->term,
        .gen_n = x->lease.gen_n,
        .recall = changing ? 0 : lease_counter(ls),
    };
    return true;
}

static void lookup(struct meta_server *s, struct request *q, struct meta_session *x)
{
    const struct lookup_req *req = q->msg;
    struct entry_res res = {.has_dir = true};
    int r;

    r = fsm_lookup(s->fsm, q->ctx->session, req->parent, req->name, &s->arena, &res.attr, &res.dir);
    if (r < 0 && r != -TC_E_NOENT) {
        read_done(s, q, r, NULL, NULL);
        return;
    }
    if (r == 0 && attr_waits(s, q, &res.attr))
        return;
    res.has_attr = r == 0;
    res.negative = r != 0;
    res.change = res.dir.change;
    res.replica_time = server_time(s);
    if (res.has_attr)
        res.has_grant = grant_fill(s, x, res.attr.ino, req->want, q->id, NULL, &res.grant);
    res.has_dir_grant = grant_fill(s, x, req->parent, req->want_dir, q->id, NULL, &res.dir_grant);
    read_done(s, q, 0, &entry_res_schema, &res);
}

static void getattr(struct meta_server *s, struct request *q, struct meta_session *x)
{
    const struct getattr_req *req = q->msg;
    struct entry_res res = {.has_attr = true};
    int r;

    r = fsm_getattr(s->fsm, q->ctx->session, req->ino, &s->arena, &res.attr);
    if (r == 0 && lease_reaping(s->lead->leases, req->ino))
        r = -TC_E_NOENT;
    if (q->type == MSG_GETATTR && !TC_RULE(LOOK_PASSES) && lease_queue_length(s->lead->leases, req->ino) > 0)
        r = -TC_E_LEASE_CONFLICT; /* it is asked again */
    if (r < 0) {
        read_done(s, q, r, NULL, NULL);
        return;
    }
    if (attr_waits(s, q, &res.attr))
        return;
    res.replica_time = server_time(s);
    res.has_grant = grant_fill(s, x, req->ino, req->want, q->id, NULL, &res.grant);
    read_done(s, q, 0, &entry_res_schema, &res);
}

/* S: in the inode's queue, after X of others went down to S. */
static void lease_get_read(struct meta_server *s, struct request *q, struct meta_session *x)
{
    const struct lease_get_req *req = q->msg;
    struct leases *ls = s->lead->leases;
    struct meta_op *op = q->op;

    if (!(req->want & LEASE_S) || (s->cfg.rules_off & META_RULE_RECALL)) {
        getattr(s, q, x);
        return;
    }
    if (!op) {
        struct fsm_lease f;

        if (lease_queue_length(ls, req->ino) == 0 && !fsm_lease(s->fsm, req->ino, &f)) {
            getattr(s, q, x);
            return;
        }
        op = read_op(s, q);
        if (!op)
            return;
        lease_op_add(&op->lease, req->ino, LEASE_MODE_READ);
        lease_op_enqueue(ls, &op->lease);
    }
    if (op->lease.state == LEASE_OP_QUEUED) {
        if (!lease_op_admissible(&op->lease))
            return;
        lease_op_begin(&op->lease);
    }
    if (TC_RULE(S_BESIDE_X) && op_wait_x(op, req->ino, RECALL_DOWNGRADE)) {
        server_turn(s);
        return;
    }
    if (lease_op_blocked(&op->lease))
        return;
    getattr(s, q, x);
}

static void readdir_grants(struct meta_server *s, struct request *q, struct meta_session *x, struct readdir_res *res)
{
    const struct readdir_req *req = q->msg;

    for (uint32_t i = 0; i < res->entries.n; i++) {
        struct dirent_item *d = &res->entries.items[i];

        if (d->has_attr)
            d->has_grant = grant_fill(s, x, d->ino, req->want, q->id, NULL, &d->grant);
    }
}

static void readdir_run(struct meta_server *s, struct request *q, struct meta_session *x)
{
    const struct readdir_req *req = q->msg;
    struct readdir_res res = {0};
    int r;

    r = fsm_readdir(s->fsm, q->ctx->session, req->ino, req->cookie, MIN(req->max, READDIR_MAX), READDIR_BYTES_MAX,
                    req->plus, &s->arena, &res);
    if (r < 0) {
        read_done(s, q, r, NULL, NULL);
        return;
    }
    if (req->plus && req->want)
        readdir_grants(s, q, x, &res);
    res.has_dir_grant = grant_fill(s, x, req->ino, req->want_dir, q->id, NULL, &res.dir_grant);
    read_done(s, q, 0, &readdir_res_schema, &res);
}

static void bytes_read(struct meta_server *s, struct request *q)
{
    struct bytes_res res = {0};
    int r;

    if (q->type == MSG_READLINK)
        r = fsm_readlink(s->fsm, ((const struct readlink_req *)q->msg)->ino, &s->arena, &res.value);
    else if (q->type == MSG_GETXATTR)
        r = fsm_getxattr(s->fsm, ((const struct getxattr_req *)q->msg)->ino, ((const struct getxattr_req *)q->msg)->name,
                         &s->arena, &res.value);
    else
        r = fsm_listxattr(s->fsm, ((const struct listxattr_req *)q->msg)->ino, &s->arena, &res.value);
    read_done(s, q, r, r == 0 ? &bytes_res_schema : NULL, r == 0 ? &res : NULL);
}

static void statfs_run(struct meta_server *s, struct request *q)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    struct statfs_res res = {0};
    uint64_t total, avail, used, blocks;

    store_capacity(s, &total, &avail, &used);
    fsm_usage(s->fsm, &res.inodes, &blocks);
    res.bytes_total = total / g->n;
    res.bytes_free = avail / g->n;
    res.bytes_used = blocks * ATTR_BLOCK;
    read_done(s, q, 0, &statfs_res_schema, &res);
}

static void map_get(struct meta_server *s, struct request *q)
{
    struct cluster_map map;

    fsm_map(s->fsm, ((const struct map_get_req *)q->msg)->have, &s->arena, &map);
    read_done(s, q, 0, &cluster_map_schema, &map);
}

static void fate(struct meta_server *s, struct request *q)
{
    const struct fate_req *req = q->msg;
    struct fsm_result kept[FSM_SEQ_WINDOW] = {0};
    struct fate_item items[FSM_SEQ_WINDOW] = {0};
    struct fate_res res = {.items = {items, 0}};
    int status = 0;

    if (fsm_session_live(s->fsm, req->old_session) || req->seqs.n > FSM_SEQ_WINDOW)
        status = req->seqs.n > FSM_SEQ_WINDOW ? -TC_E_BAD_MESSAGE : -TC_E_BACKPRESSURE; /* it may yet be applied */
    for (uint32_t i = 0; i < req->seqs.n && status == 0; i++) {
        struct fate_item *it = &items[res.items.n++];

        it->seq = req->seqs.items[i];
        it->known = fsm_fate(s->fsm, req->old_session, it->seq, &kept[i]) == FSM_KEPT;
        it->status = tc_error_to_wire(kept[i].status);
        if (kept[i].body)
            it->body = (struct wire_bin){kept[i].body->data, kept[i].body->len};
    }
    read_done(s, q, status, status == 0 ? &fate_res_schema : NULL, status == 0 ? &res : NULL);
    for (uint32_t i = 0; i < FSM_SEQ_WINDOW; i++)
        fsm_result_fini(&kept[i]);
}

#define INO_TRIMS_MAX 1024 /* of one answer */

static void ino_check(struct meta_server *s, struct request *q)
{
    const struct ino_check_req *req = q->msg;
    struct ino_check_res res = {0};
    uint8_t *states = wire_arena_alloc(&s->arena, req->inos.n ? req->inos.n : 1);
    uint8_t *held = wire_arena_alloc(&s->arena, req->inos.n ? req->inos.n : 1);
    struct ino_trim *trims = wire_arena_alloc(&s->arena, INO_TRIMS_MAX * sizeof(*trims));
    struct horizon horizon[HORIZON_MAX];

    if (!states || !held || !trims || req->inos.n > 65536) {
        read_done(s, q, -TC_E_BAD_MESSAGE, NULL, NULL);
        return;
    }
    for (uint32_t i = 0; i < req->inos.n; i++) {
        bool is_held = true;
        uint32_t n;

        states[i] = fsm_ino_state(s->fsm, req->inos.items[i]);
        n = states[i] == 1 ? fsm_ino_garbage(s->fsm, req->inos.items[i], &is_held, horizon) : 0;
        held[i] = is_held;
        for (uint32_t k = 0; k < n && res.trims.n < INO_TRIMS_MAX; k++) /* what does not fit is left for another time */
            trims[res.trims.n++] = (struct ino_trim){.at = i, .size = horizon[k].size, .epoch = horizon[k].epoch};
    }
    res.states = (struct wire_bin){states, req->inos.n};
    res.held = (struct wire_bin){held, req->inos.n};
    res.trims.items = trims;
    read_done(s, q, 0, &ino_check_res_schema, &res);
}

static void lock_look(struct meta_server *s, struct request *q)
{
    uint64_t session;
    struct lock_res res;
    int r = fsm_lock_look(s->fsm, q->msg, &res, &session);

    if (r == 0 && res.has_other)
        lock_refused(s, session);
    read_done(s, q, r, r == 0 ? &lock_res_schema : NULL, &res);
}

void read_request(struct meta_server *s, struct request *q)
{
    struct meta_session *x = NULL;

    s->n.reads++;
    if (q->ctx) {
        x = session_of(s, q);
        if (!x) {
            if (q->op)
                op_free(q->op);
            return;
        }
    }
    switch (q->type) {
    case MSG_LOOKUP:
        lookup(s, q, x);
        break;
    case MSG_GETATTR:
        getattr(s, q, x);
        break;
    case MSG_LEASE_GET_READ:
        lease_get_read(s, q, x);
        break;
    case MSG_READDIR:
        readdir_run(s, q, x);
        break;
    case MSG_READLINK:
    case MSG_GETXATTR:
    case MSG_LISTXATTR:
        bytes_read(s, q);
        break;
    case MSG_STATFS:
        statfs_run(s, q);
        break;
    case MSG_LOCK_LOOK:
        lock_look(s, q);
        break;
    case MSG_MAP_GET:
        map_get(s, q);
        break;
    case MSG_FATE:
        fate(s, q);
        break;
    case MSG_INO_CHECK:
        ino_check(s, q);
        break;
    default:
        read_done(s, q, -TC_E_BAD_MESSAGE, NULL, NULL);
    }
}

void read_ready(struct meta_op *op)
{
    struct meta_server *s = op->s;
    struct request q = {
        .peer = op->waiters[0].peer,
        .id = op->waiters[0].id,
        .type = op->type,
        .frame = op->frame,
        .body = op->body,
        .msg = op->msg,
        .ctx = op->msg, /* only requests with one ever wait */
        .op = op,
    };

    wire_arena_reset(&s->arena);
    read_request(s, &q);
}
