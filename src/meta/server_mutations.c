/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that become log entries, until they are proposed (server_applied.c goes on).
 *
 * A mutation enters the queues of the inodes that it names (leases.h), recalls what conflicts, is proposed, and
 * is answered when its entry is applied. Commits and whatever else a holder of X sends about its own inode go
 * past the queues (PROTOCOL 3.4). Names are resolved when it enters and again when it leaves the queue: if they
 * lead to other inodes by then, it enters anew.
 *
 * Exactly once is the state machine's matter: here a second copy of a request in flight only joins the first,
 * and one that was applied gets the kept reply without an entry.
 */
#include "meta/server_internal.h"

#include <sys/stat.h>

#include "common/test_rules.h"

/* ---- operations ---- */

static_assert(offsetof(struct meta_op, seq) == offsetof(struct meta_op, key_session) + sizeof(uint64_t), "one key");

struct meta_op *op_new(struct meta_server *s, enum op_kind kind, const struct request *q)
{
    bool urgent = (kind == OP_INTERNAL || (q && (q->type == MSG_COMMIT || q->type == MSG_LOCK_END))) && TC_RULE(SLOTS);
    struct meta_op *op;

    if (s->lead->n_ops >= OPS_MAX + (urgent ? OPS_RESERVED : 0))
        return NULL;
    op = tc_calloc(1, sizeof(*op));
    op->s = s;
    op->kind = kind;
    op->started = env_now(s->env);
    if (q) {
        const struct wire_schema *schema = schema_of(q->type, WIRE_REQUEST);

        op->type = q->type;
        op->frame = buf_ref(q->frame);
        op->body = q->body;
        op->msg = tc_malloc(schema->size);
        if (wire_decode(q->body, schema, &op->arena, op->msg) < 0)
            ASSERT(!"it was decoded before");
        op->waiters[op->n_waiters++] = (struct waiter){q->peer, q->id};
        if (q->ctx)
            op->session = op->lease.session = q->ctx->session;
    }
    DL_APPEND(s->lead->ops, op);
    s->lead->n_ops++;
    return op;
}

void op_free(struct meta_op *op)
{
    struct lead *l = op->s->lead;

    if (l->leases)
        lease_op_finish(l->leases, &op->lease);
    if (op->hh.tbl)
        HASH_DELETE(hh, l->by_seq, op);
    DL_DELETE(l->ops, op);
    l->n_ops--;
    buf_unref(op->frame);
    wire_arena_fini(&op->arena);
    free(op->msg);
    free(op);
}

void op_reply(struct meta_op *op, int status, struct slice body)
{
    for (unsigned i = 0; i < op->n_waiters; i++)
        server_reply_body(op->s, op->waiters[i].peer, op->waiters[i].id, op->type, status, body);
    op->answered = true;
}

void op_join(struct meta_op *op, const struct request *q)
{
    op->s->n.joins++;
    for (unsigned i = 0; i < op->n_waiters; i++) {
        if (op->waiters[i].peer == q->peer && op->waiters[i].id == q->id)
            return;
    }
    if (op->n_waiters == OP_WAITERS) {
        memmove(&op->waiters[0], &op->waiters[1], sizeof(op->waiters[0]) * (OP_WAITERS - 1));
        op->n_waiters--;
    }
    op->waiters[op->n_waiters++] = (struct waiter){q->peer, q->id};
}

/* ---- what a request concerns ---- */

static void resolve_add(struct meta_op *op, uint64_t ino)
{
    for (unsigned i = 0; i < op->n_inos; i++) {
        if (op->inos[i] == ino)
            return;
    }
    op->inos[op->n_inos++] = ino;
}

/* The inode behind a name, 0 if there is none. */
static uint64_t name_ino(struct meta_server *s, uint64_t parent, struct wire_str name)
{
    uint64_t ino;
    uint32_t mode;

    return fsm_dentry(s->fsm, parent, name, &ino, &mode) == 0 ? ino : 0;
}

static void resolve_name(struct meta_op *op, unsigned i, uint64_t parent, struct wire_str name)
{
    op->named[i] = name_ino(op->s, parent, name);
    resolve_add(op, parent);
    if (op->named[i])
        resolve_add(op, op->named[i]);
}

static void op_resolve(struct meta_op *op)
{
    if (op->resolved_at == fsm_applied(op->s->fsm))
        return; /* nothing has changed since */
    op->resolved_at = fsm_applied(op->s->fsm);
    op->n_inos = 0;
    switch (op->type) {
    case MSG_MAKE:
        resolve_add(op, ((struct make_req *)op->msg)->parent);
        break;
    case MSG_LINK:
        resolve_add(op, ((struct link_req *)op->msg)->ino);
        resolve_add(op, ((struct link_req *)op->msg)->parent);
        break;
    case MSG_UNLINK:
        resolve_name(op, 0, ((struct unlink_req *)op->msg)->parent, ((struct unlink_req *)op->msg)->name);
        break;
    case MSG_RENAME:
        resolve_name(op, 0, ((struct rename_req *)op->msg)->parent, ((struct rename_req *)op->msg)->name);
        resolve_name(op, 1, ((struct rename_req *)op->msg)->new_parent, ((struct rename_req *)op->msg)->new_name);
        break;
    case MSG_SETATTR:
        resolve_add(op, ((struct setattr_req *)op->msg)->ino);
        break;
    case MSG_SETXATTR:
    case MSG_REMOVEXATTR:
        resolve_add(op, ((struct setxattr_req *)op->msg)->ino);
        break;
    case MSG_LEASE_GET_X:
        resolve_add(op, ((struct lease_get_req *)op->msg)->ino);
        break;
    case MSG_LOCK:
        resolve_add(op, LEASE_LOCKS_OF(((struct lock_req *)op->msg)->ino));
        break;
    default: /* concerns no inode that others hold, or bypasses (COMMIT, LOCK_END) */
        break;
    }
}

static enum lease_mode op_mode(const struct meta_op *op)
{
    if (op->type == MSG_LEASE_GET_X || op->type == MSG_LOCK ||
        (op->type == MSG_SETATTR && ((struct setattr_req *)op->msg)->mask & SET_SIZE))
        return LEASE_MODE_EXCLUSIVE;
    return LEASE_MODE_CHANGE;
}

static void op_enter(struct meta_op *op)
{
    op_resolve(op);
    for (unsigned i = 0; i < op->n_inos; i++)
        lease_op_add(&op->lease, op->inos[i], op_mode(op));
    lease_op_enqueue(op->s->lead->leases, &op->lease);
}

struct dir_name {
    uint64_t dir;
    struct wire_str name;
};

/* The names that @op changes: at most two. */
static unsigned op_names(const struct meta_op *op, struct dir_name names[2])
{
    switch (op->kind == OP_MUTATION ? op->type : 0) {
    case MSG_MAKE:
        names[0] = (struct dir_name){((struct make_req *)op->msg)->parent, ((struct make_req *)op->msg)->name};
        return 1;
    case MSG_LINK:
        names[0] = (struct dir_name){((struct link_req *)op->msg)->parent, ((struct link_req *)op->msg)->name};
        return 1;
    case MSG_UNLINK:
        names[0] = (struct dir_name){((struct unlink_req *)op->msg)->parent, ((struct unlink_req *)op->msg)->name};
        return 1;
    case MSG_RENAME: {
        const struct rename_req *m = op->msg;

        names[0] = (struct dir_name){m->parent, m->name};
        names[1] = (struct dir_name){m->new_parent, m->new_name};
        return 2;
    }
    default:
        return 0;
    }
}

static bool names_clash(const struct lease_op *ahead, const struct lease_op *op)
{
    struct dir_name a[2], b[2];
    unsigned n_a = op_names(container_of(ahead, struct meta_op, lease), a);
    unsigned n_b = op_names(container_of(op, struct meta_op, lease), b);

    for (unsigned i = 0; i < n_a; i++) {
        for (unsigned k = 0; k < n_b; k++) {
            if (a[i].dir == b[k].dir && a[i].name.n == b[k].name.n && !memcmp(a[i].name.p, b[k].name.p, a[i].name.n))
                return true;
        }
    }
    return false;
}

/* May it leave its queues? Whoever takes a name from an inode tells those who hold that inode, so it has to know what
 * the name will be: nothing that is proposed may be about to change it. */
static bool op_admissible(const struct meta_op *op)
{
    if (!lease_op_admissible(&op->lease))
        return false;
    return (op->type != MSG_UNLINK && op->type != MSG_RENAME) || !lease_op_clashes(&op->lease, names_clash);
}

/* The holder of X speaks about its own inode: nobody else has to be asked, and a recall may wait for it. */
static bool op_bypasses(const struct meta_op *op)
{
    struct fsm_lease f;
    uint64_t ino;

    switch (op->type) {
    case MSG_SETATTR:
        ino = ((struct setattr_req *)op->msg)->ino;
        break;
    case MSG_SETXATTR:
    case MSG_REMOVEXATTR:
        ino = ((struct setxattr_req *)op->msg)->ino;
        break;
    default:
        return op->n_inos == 0;
    }
    return fsm_lease(op->s->fsm, ino, &f) && !f.dead && f.session == op->session && TC_RULE(HOLDER_PASSES);
}

/* ---- conflicts ---- */

bool op_wait_x(struct meta_op *op, uint64_t ino, uint32_t kind)
{
    struct meta_server *s = op->s;
    struct meta_session *x;
    struct fsm_lease f;

    if (!fsm_lease(s->fsm, ino, &f))
        return false;
    if (f.dead) {
        if (s->cfg.rules_off & META_RULE_SIZE_RECOVERY)
            return false;
        lease_wait_recovery(s->lead->leases, &op->lease, ino);
        recovery_size(s, ino);
        return true;
    }
    if (f.session == op->session)
        return false;
    x = lead_session(s, f.session);
    if (!x)
        return false;
    if (kind == RECALL_ASK) {
        if ((op->asked == ino && op->asked_x == f.gcount) || (s->cfg.rules_off & META_RULE_ASK_HOLDER))
            return false;
        op->asked = ino;
        op->asked_x = f.gcount;
    } else if (s->cfg.rules_off & META_RULE_RECALL) {
        return false;
    }
    lease_recall_x(s->lead->leases, &op->lease, ino, &x->lease, kind, f.gterm, f.gcount, op->started);
    return true;
}

/* nlink or ctime of @ino changes: whoever holds S or X of it is told. */
static void tell_attr(struct meta_op *op, uint64_t ino)
{
    struct meta_server *s = op->s;
    uint64_t now = env_now(s->env);
    struct meta_session *x;
    struct fsm_lease f;

    if (!ino)
        return;
    lease_recall_s(s->lead->leases, &op->lease, ino, op->session, RECALL_ATTR, wire_str_of(""), now);
    if (!fsm_lease(s->fsm, ino, &f) || f.dead || f.session == op->session)
        return;
    x = lead_session(s, f.session);
    if (x)
        lease_recall_x(s->lead->leases, &op->lease, ino, &x->lease, RECALL_ATTR, f.gterm, f.gcount, now);
}

static void tell_entry(struct meta_op *op, uint64_t dir, struct wire_str name)
{
    lease_recall_s(op->s->lead->leases, &op->lease, dir, op->session, RECALL_ENTRY, name, env_now(op->s->env));
}

/* Just resolved. Recalls that keep the grant: once per operation, since nothing new is granted while it goes on. */
static void conflicts_once(struct meta_op *op)
{
    struct meta_server *s = op->s;

    if (op->told || (s->cfg.rules_off & META_RULE_RECALL))
        return;
    op->told = true;
    switch (op->type) {
    case MSG_MAKE: {
        const struct make_req *m = op->msg;

        tell_entry(op, m->parent, m->name);
        break;
    }
    case MSG_LINK: {
        const struct link_req *m = op->msg;

        tell_entry(op, m->parent, m->name);
        tell_attr(op, m->ino);
        break;
    }
    case MSG_UNLINK: {
        const struct unlink_req *m = op->msg;

        tell_entry(op, m->parent, m->name);
        tell_attr(op, op->named[0]);
        break;
    }
    case MSG_RENAME: {
        const struct rename_req *m = op->msg;

        tell_entry(op, m->parent, m->name);
        tell_entry(op, m->new_parent, m->new_name);
        tell_attr(op, op->named[0]);
        tell_attr(op, op->named[1]);
        break;
    }
    default:
        break;
    }
}

void lock_refused(struct meta_server *s, uint64_t session)
{
    struct meta_session *x = lead_session(s, session);

    if (x && session_silent(s, x))
        session_expire(s, x, "silent, and somebody wants what it has locked");
}

/* Whoever holds L of the inode has to say what is locked. */
static void wait_locks(struct meta_op *op, const struct lock_req *req)
{
    struct meta_server *s = op->s;
    uint64_t ino = LEASE_LOCKS_OF(req->ino), session;
    struct meta_session *x;
    struct lock_res res;

    if (fsm_lock_look(s->fsm, req, &res, &session) < 0)
        return; /* as will be answered */
    x = lead_session(s, session);
    if (!res.held)
        lock_refused(s, session);
    else if (x && TC_RULE(LOCKS_RECALL))
        lease_recall_x(s->lead->leases, &op->lease, ino, &x->lease, RECALL_LOCKS, 0, 0, env_now(s->env));
}

/* Recalls that take the grant away: until nobody holds what conflicts. */
static void conflicts_all(struct meta_op *op)
{
    struct meta_server *s = op->s;
    uint64_t ino;

    switch (op->type) {
    case MSG_SETATTR:
    case MSG_SETXATTR:
    case MSG_REMOVEXATTR:
    case MSG_LEASE_GET_X:
        ino = op->inos[0];
        if (!(s->cfg.rules_off & META_RULE_RECALL))
            lease_recall_s(s->lead->leases, &op->lease, ino, op->session, RECALL_ALL, wire_str_of(""),
                           env_now(s->env));
        op_wait_x(op, ino, RECALL_ALL);
        break;
    case MSG_LOCK:
        wait_locks(op, op->msg);
        break;
    case MSG_LINK: /* the answer shows its attributes */
        op_wait_x(op, ((struct link_req *)op->msg)->ino, RECALL_ASK);
        break;
    case MSG_MAKE: {
        const struct make_req *m = op->msg;
        uint64_t there = m->excl ? 0 : name_ino(s, m->parent, m->name);

        if (there)
            op_wait_x(op, there, RECALL_ASK);
        break;
    }
    default:
        break;
    }
}

/* ---- the way of an operation ---- */

static void op_propose(struct meta_op *op)
{
    struct meta_server *s = op->s;
    uint32_t type = op->type == MSG_STORE_REGISTER ? CMD_STORE_REGISTER : op->type;
    int r;

    r = server_propose(s, type, op->body, op);
    if (r == 0) {
        op->proposed = true;
        return;
    }
    if (r == -TC_E_NOT_LEADER) {
        for (unsigned i = 0; i < op->n_waiters; i++)
            server_reply_not_leader(s, op->waiters[i].peer, op->waiters[i].id, op->type);
        op->answered = true;
    } else {
        op_reply(op, r, slice_of(NULL, 0)); /* BACKPRESSURE: not now */
    }
    op_free(op);
}

static void mutation_ready(struct meta_op *op)
{
    struct leases *ls = op->s->lead->leases;

    if (op->proposed)
        return;
    if (op->answered) {
        op_free(op);
        return;
    }
    if (op->lease.state == LEASE_OP_QUEUED) {
        uint64_t was[LEASE_OP_INOS];
        unsigned n = op->n_inos;

        if (op->s->lead->grace || !op_admissible(op))
            return;
        memcpy(was, op->inos, sizeof(was));
        op_resolve(op);
        if (n != op->n_inos || memcmp(was, op->inos, n * sizeof(was[0])) != 0) {
            lease_op_finish(ls, &op->lease);
            op_enter(op);
            if (!op_admissible(op))
                return;
        }
        lease_op_begin(&op->lease);
    }
    ASSERT(op->lease.state == LEASE_OP_RECALLING);
    conflicts_once(op);
    conflicts_all(op);
    if (op->lease.waits) {
        server_turn(op->s);
        return; /* until the recalls are acknowledged */
    }
    if (lease_op_blocked(&op->lease))
        return;
    lease_op_proposed(ls, &op->lease);
    op_propose(op);
}

void op_ready(struct meta_op *op)
{
    if (op->lease.waits)
        return;
    if (op->kind == OP_MUTATION)
        mutation_ready(op);
    else if (op->kind == OP_READ)
        read_ready(op);
}

void mutation_start(struct meta_op *op)
{
    op_resolve(op);
    if (op_bypasses(op)) {
        for (unsigned i = 0; i < op->n_inos; i++)
            lease_op_add(&op->lease, op->inos[i], op_mode(op));
        lease_op_bypass(op->s->lead->leases, &op->lease);
        op_propose(op);
        return;
    }
    op_enter(op);
    mutation_ready(op);
}

/* True: nothing is to be proposed for it. */
static bool mutation_known(struct meta_server *s, const struct request *q)
{
    struct fsm_result res = {0};
    bool done = true;

    switch (fsm_known(s->fsm, q->ctx->session, q->ctx->seq, &res)) {
    case FSM_NEW:
        done = false;
        break;
    case FSM_KEPT:
        s->n.kept++;
        server_reply_body(s, q->peer, q->id, q->type, res.status,
                          res.body ? slice_of(res.body->data, res.body->len) : slice_of(NULL, 0));
        break;
    case FSM_FINISHED:
        break;
    case FSM_NO_SESSION:
        server_reply(s, q->peer, q->id, q->type, -TC_E_SESSION_UNKNOWN, NULL, NULL);
        break;
    case FSM_ENDED:
        server_reply(s, q->peer, q->id, q->type, -TC_E_SESSION_EXPIRED, NULL, NULL);
        break;
    case FSM_BEYOND:
        server_reply(s, q->peer, q->id, q->type, -TC_E_BACKPRESSURE, NULL, NULL);
        break;
    }
    fsm_result_fini(&res);
    return done;
}

void mutation(struct meta_server *s, const struct request *q)
{
    struct {
        uint64_t session, seq;
    } key = {q->ctx->session, q->ctx->seq};
    struct meta_session *x = NULL;
    struct meta_op *op;

    s->n.mutations++;
    if (q->type == MSG_SESSION_OPEN) {
        key.session = 0;
        key.seq = ((const struct session_open_req *)q->msg)->nonce;
    } else {
        if (q->ctx->seq == 0) {
            server_reply(s, q->peer, q->id, q->type, -TC_E_BAD_MESSAGE, NULL, NULL);
            return;
        }
        x = lead_session(s, q->ctx->session);
        if (x)
            x->peer = q->peer;
        if (mutation_known(s, q))
            return;
    }
    HASH_FIND(hh, s->lead->by_seq, &key, OP_KEY_SIZE, op);
    if (op) {
        op_join(op, q);
        return;
    }
    op = op_new(s, OP_MUTATION, q);
    if (!op) {
        server_reply(s, q->peer, q->id, q->type, -TC_E_BACKPRESSURE, NULL, NULL);
        return;
    }
    op->key_session = key.session;
    op->seq = key.seq;
    HASH_ADD(hh, s->lead->by_seq, key_session, OP_KEY_SIZE, op);
    mutation_start(op);
}
