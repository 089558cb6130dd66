/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Applying an entry: decode, exactly once, operate, one batch (fsm.h, fsm_int.h).
 */
#include "meta/fsm_int.h"

#include "common/test_rules.h"

#include <sodium.h>

/* ---- opening --------------------------------------------------------------------------------- */

int fsm_open(struct kv *kv, struct fsm **ret_fsm)
{
    struct fsm *f;
    int r;

    ASSERT(sodium_init() >= 0);
    f = tc_calloc(1, sizeof(*f));
    f->kv = kv;
    f->batch = kv_batch_new(kv);
    r = meta_load(f);
    if (r == 0)
        r = cluster_load(f);
    if (r == 0)
        r = session_load(f);
    if (r == 0)
        r = locks_load(f);
    if (r < 0) {
        fsm_close(f);
        return r == -TC_E_NOENT ? -TC_E_DAMAGED : r;
    }
    fsm_test_rules_off(f, 0);
    *ret_fsm = f;
    return 0;
}

struct fsm *fsm_close(struct fsm *f)
{
    struct session *s, *tmp;

    if (!f)
        return NULL;
    HASH_ITER (hh, f->sessions, s, tmp) {
        HASH_DEL(f->sessions, s);
        free(s);
    }
    inode_cache_drop(f);
    cluster_unload(f);
    wire_arena_fini(&f->arena);
    kv_batch_free(f->batch);
    free(f);
    return NULL;
}

uint64_t fsm_applied(const struct fsm *f)
{
    return f->applied;
}

uint64_t fsm_applied_term(const struct fsm *f)
{
    return f->applied_term;
}

uint64_t fsm_clock(const struct fsm *f)
{
    return f->clock;
}

int fsm_store_error(const struct fsm *f)
{
    return f->store_error;
}

bool fsm_loading(const struct fsm *f)
{
    return f->loading;
}

bool fsm_formatted(const struct fsm *f)
{
    return f->formatted;
}

void fsm_test_cookie_mask(struct fsm *f, uint64_t mask)
{
    f->cookie_mask = mask;
}

void fsm_test_rules_off(struct fsm *f, uint32_t rules)
{
    f->rules_off = rules | (uint32_t)tc_test_value("TERCET_FSM_RULES_OFF", 0);
}

/* ---- results --------------------------------------------------------------------------------- */

void fsm_result_fini(struct fsm_result *r)
{
    buf_unref(r->body);
    free(r->effects);
    *r = (struct fsm_result){0};
}

struct fsm_effect *effect_add(struct fsm *f, enum fsm_effect_kind kind, uint64_t ino,
                              uint64_t session)
{
    struct fsm_result *res = f->res;

    if (res->n_effects == res->cap_effects) {
        res->cap_effects = res->cap_effects ? 2 * res->cap_effects : 8;
        res->effects = tc_realloc(res->effects, res->cap_effects * sizeof(*res->effects));
    }
    res->effects[res->n_effects] =
        (struct fsm_effect){.kind = kind, .ino = ino, .session = session};
    return &res->effects[res->n_effects++];
}

void answer(struct fsm *f, const struct wire_schema *schema, const void *body)
{
    ASSERT(!f->res->body);
    f->res->body = wire_encode(schema, body);
}

/* ---- mutations of clients -------------------------------------------------------------------- */

union mutation {
    struct session_close_req ctx; /* every one begins with its context */
    struct make_req make;
    struct link_req link;
    struct unlink_req unlink;
    struct rename_req rename;
    struct setattr_req setattr;
    struct setxattr_req setxattr;
    struct removexattr_req removexattr;
    struct lease_get_req lease_get;
    struct commit_req commit;
    struct lock_req lock;
    struct lock_end_req lock_end;
};
static_assert(offsetof(union mutation, make.ctx) == 0 && offsetof(union mutation, commit.ctx) == 0,
              "context first");

static const struct wire_schema *mutation_schema(uint32_t type)
{
    switch (type) {
    case MSG_SESSION_CLOSE:
        return &session_close_req_schema;
    case MSG_MAKE:
        return &make_req_schema;
    case MSG_LINK:
        return &link_req_schema;
    case MSG_UNLINK:
        return &unlink_req_schema;
    case MSG_RENAME:
        return &rename_req_schema;
    case MSG_SETATTR:
        return &setattr_req_schema;
    case MSG_SETXATTR:
        return &setxattr_req_schema;
    case MSG_REMOVEXATTR:
        return &removexattr_req_schema;
    case MSG_LEASE_GET_X:
        return &lease_get_req_schema;
    case MSG_COMMIT:
        return &commit_req_schema;
    case MSG_LOCK:
        return &lock_req_schema;
    case MSG_LOCK_END:
        return &lock_end_req_schema;
    default:
        return NULL;
    }
}

static int mutate(struct fsm *f, uint32_t type, struct session *s, const union mutation *m)
{
    switch (type) {
    case MSG_SESSION_CLOSE:
        return op_session_close(f, s);
    case MSG_MAKE:
        return op_make(f, &m->make);
    case MSG_LINK:
        return op_link(f, &m->link);
    case MSG_UNLINK:
        return op_unlink(f, &m->unlink);
    case MSG_RENAME:
        return op_rename(f, &m->rename);
    case MSG_SETATTR:
        return op_setattr(f, &m->setattr);
    case MSG_SETXATTR:
        return op_setxattr(f, &m->setxattr);
    case MSG_REMOVEXATTR:
        return op_removexattr(f, &m->removexattr);
    case MSG_LEASE_GET_X:
        return op_lease_get_x(f, &m->lease_get);
    case MSG_COMMIT:
        return op_commit(f, &m->commit);
    case MSG_LOCK:
        return op_lock(f, &m->lock);
    case MSG_LOCK_END:
        return op_lock_end(f, &m->lock_end);
    default:
        return -TC_E_BAD_MESSAGE;
    }
}

/* The check of PROTOCOL 2.1. True: go on; else the result is complete. */
static bool once(struct fsm *f, const struct session *s, const struct req_ctx *ctx)
{
    struct fsm_result *res = f->res;
    uint64_t watermark;

    if (!s) {
        res->status = -TC_E_SESSION_UNKNOWN;
        return false;
    }
    if ((f->rules_off & FSM_RULE_ONCE) || !TC_RULE(EXACTLY_ONCE))
        return s->state == FSM_SESSION_LIVE && ctx->seq > MAX(s->watermark, ctx->watermark);
    if (ctx->seq == 0 && f->res->type == MSG_COMMIT) /* the leader's own, for a holder that disowns its X */
        return s->state == FSM_SESSION_LIVE;
    if (reply_kept(s, ctx->seq)) {
        (void)reply_load(f, s->id, ctx->seq,
                         res); /* a failure sets io_error, and the entry is given up */
        return false;
    }
    watermark = MAX(s->watermark, ctx->watermark);
    if (ctx->seq <= watermark && !(f->rules_off & FSM_RULE_WATERMARK)) {
        res->ignored = true;
        res->status = -TC_E_DUPLICATE;
        return false;
    }
    if (s->state != FSM_SESSION_LIVE) {
        res->status = -TC_E_SESSION_EXPIRED;
        return false;
    }
    if (ctx->seq > watermark && ctx->seq - watermark > FSM_SEQ_WINDOW) {
        res->ignored = true;
        res->status = -TC_E_BACKPRESSURE;
        return false;
    }
    return true;
}

static void apply_mutation(struct fsm *f, const struct command *cmd,
                           const struct wire_schema *schema)
{
    struct slice body = slice_of(cmd->body.p, cmd->body.n);
    union mutation m = {0};
    struct session *s;
    int r = wire_decode(body, schema, &f->arena, &m);

    /* Malformed, but it may still say whose it is: then the refusal is kept like any other. */
    if (r < 0 && wire_decode(body, &session_close_req_schema, &f->arena, &m.ctx) < 0) {
        f->res->status = r;
        return;
    }
    f->res->session = m.ctx.ctx.session;
    f->res->seq = m.ctx.ctx.seq;
    s = session_find(f, m.ctx.ctx.session);
    if (!once(f, s, &m.ctx.ctx))
        return;
    f->res->status = r < 0 ? r : mutate(f, cmd->type, s, &m);
    ASSERT(f->res->status == 0 || (!f->res->body && !f->dirty));
    if (m.ctx.ctx.seq)
        reply_save(f, s, m.ctx.ctx.seq, m.ctx.ctx.watermark);
}

/* ---- commands of the leader ------------------------------------------------------------------ */

union order {
    struct session_open_req session_open;
    struct cmd_sessions sessions;
    struct cmd_reap reap;
    struct cmd_size_recovered size_recovered;
    struct cmd_reconciled reconciled;
    struct cmd_pg_update pg_update;
    struct store_info store_state;
    struct cmd_gc_trim gc_trim;
    struct store_register_req store_register;
    struct node_admin_req admin;
    struct cmd_members members;
    struct load_req load;
};

static const struct wire_schema *order_schema(uint32_t type)
{
    switch (type) {
    case MSG_SESSION_OPEN:
        return &session_open_req_schema;
    case CMD_SESSION_EXPIRE:
    case CMD_SESSION_FORGET:
        return &cmd_sessions_schema;
    case CMD_REAP:
        return &cmd_reap_schema;
    case CMD_SIZE_RECOVERED:
        return &cmd_size_recovered_schema;
    case CMD_RECONCILED:
        return &cmd_reconciled_schema;
    case CMD_PG_UPDATE:
        return &cmd_pg_update_schema;
    case CMD_STORE_STATE:
        return &store_info_schema;
    case CMD_GC_TRIM:
        return &cmd_gc_trim_schema;
    case CMD_MEMBERS:
        return &cmd_members_schema;
    case CMD_STORE_REGISTER:
    case MSG_STORE_REGISTER:
        return &store_register_req_schema;
    case CMD_STORE_ADMIN:
        return &node_admin_req_schema;
    case CMD_LOAD:
        return &load_req_schema;
    default:
        return NULL;
    }
}

static int obey(struct fsm *f, uint32_t type, const union order *o)
{
    switch (type) {
    case MSG_SESSION_OPEN:
        return op_session_open(f, &o->session_open);
    case CMD_SESSION_EXPIRE:
        return op_session_expire(f, &o->sessions);
    case CMD_SESSION_FORGET:
        return op_session_forget(f, &o->sessions);
    case CMD_REAP:
        return op_reap(f, &o->reap);
    case CMD_SIZE_RECOVERED:
        return op_size_recovered(f, &o->size_recovered);
    case CMD_RECONCILED:
        return op_reconciled(f, &o->reconciled);
    case CMD_PG_UPDATE:
        return op_pg_update(f, &o->pg_update);
    case CMD_STORE_STATE:
        return op_store_state(f, &o->store_state);
    case CMD_GC_TRIM:
        return op_gc_trim(f, &o->gc_trim);
    case CMD_MEMBERS:
        return op_members(f, &o->members);
    case CMD_STORE_REGISTER:
    case MSG_STORE_REGISTER:
        return op_store_register(f, &o->store_register);
    case CMD_STORE_ADMIN:
        return op_store_admin(f, &o->admin);
    case CMD_LOAD:
        return op_load(f, &o->load);
    default:
        return -TC_E_BAD_MESSAGE;
    }
}

static void apply_order(struct fsm *f, const struct command *cmd)
{
    const struct wire_schema *schema = order_schema(cmd->type);
    union order o;
    int r;

    if (cmd->type == CMD_TICK)
        return;
    if (!schema) { /* of a newer program: every member skips it alike */
        f->res->status = -TC_E_BAD_MESSAGE;
        return;
    }
    r = wire_decode(slice_of(cmd->body.p, cmd->body.n), schema, &f->arena, &o);
    f->res->status = r < 0 ? r : obey(f, cmd->type, &o);
}

/* ---- one entry ------------------------------------------------------------------------------- */

static void apply_command(struct fsm *f, const struct command *cmd)
{
    const struct wire_schema *schema = mutation_schema(cmd->type);

    f->res->type = cmd->type;
    f->clock = f->rules_off & FSM_RULE_CLOCK ? cmd->time : MAX(f->clock, cmd->time);
    f->now = f->clock;
    f->term = cmd->term ? cmd->term : f->applied_term;
    f->expected = cmd->expected;
    if (cmd->type == CMD_GENESIS)
        f->res->status = op_genesis(f, slice_of(cmd->body.p, cmd->body.n));
    else if (!f->formatted || (f->loading && cmd->type != CMD_LOAD && cmd->type != CMD_TICK))
        f->res->status = -TC_E_NO_GENESIS;
    else if (schema)
        apply_mutation(f, cmd, schema);
    else
        apply_order(f, cmd);
}

int fsm_apply(struct fsm *f, uint64_t index, uint64_t term, struct slice entry,
              struct fsm_result *ret)
{
    struct command cmd;
    int r;

    ASSERT(!f->failed);
    ASSERT(index > f->applied);
    ASSERT(!f->dirty && !f->map_dirty && !ret->body && !ret->n_effects);
    f->io_error = 0;
    inode_cache_trim(f);
    wire_arena_reset(&f->arena);
    f->res = ret;
    f->index = index;
    f->applied_term = term;
    if (entry.len) {
        r = wire_decode(entry, &command_schema, &f->arena, &cmd);
        if (r < 0)
            ret->status = r;
        else
            apply_command(f, &cmd);
    }
    map_finish(f);
    inode_flush(f);
    f->applied = index;
    meta_save(f);
    f->res = NULL;
    r = f->io_error;
    if (r == 0)
        r = kv_write(f->kv, f->batch);
    if (r < 0)
        f->failed = true;
    return r;
}
