/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads without the leader lease (PROTOCOL 1.8): at any member when the request allows it (req_ctx.anywhere), at
 * the leader while its lease is unsure. The replica says when the applied state is new enough; then the answer is
 * made from the store alone. It bears no grant, so nothing of it may be cached, and a request that may be given one is
 * never answered here: two answers to it, one with the grant, would be taken for doubles. What only the leader may
 * show, because a mount holds X on it, is left to the leader.
 */
#include "common/test_rules.h"
#include "meta/server_internal.h"

#define READDIR_MAX 2000u
#define READDIR_BYTES_MAX (512u << 10)
#define ANYWHERE_MAX 4096 /* reads that wait for their index */

struct anywhere {
    struct meta_server *s;
    uint64_t peer;
    struct buf *head;
    struct anywhere *prev, *next;
};

static bool is_plain_read(uint16_t type)
{
    return type == MSG_LOOKUP || type == MSG_GETATTR || type == MSG_READDIR || type == MSG_READLINK ||
           type == MSG_GETXATTR || type == MSG_LISTXATTR;
}

static bool wants_grants(const struct request *q)
{
    if (!TC_RULE(ANYWHERE_GRANT))
        return false;
    switch (q->type) {
    case MSG_LOOKUP:
        return ((const struct lookup_req *)q->msg)->want || ((const struct lookup_req *)q->msg)->want_dir;
    case MSG_GETATTR:
        return ((const struct getattr_req *)q->msg)->want != 0;
    case MSG_READDIR:
        return ((const struct readdir_req *)q->msg)->want || ((const struct readdir_req *)q->msg)->want_dir;
    default:
        return false;
    }
}

bool anywhere_begin(struct meta_server *s, const struct request *q)
{
    struct anywhere *a;

    if (!is_plain_read(q->type) || !q->ctx || s->n_anywhere >= ANYWHERE_MAX)
        return false;
    if (!q->ctx->anywhere && (!replica_leads(s->replica) || server_ready(s) || wants_grants(q)))
        return false;
    if (!replica_leader(s->replica))
        return false;
    a = tc_calloc(1, sizeof(*a));
    a->s = s;
    a->peer = q->peer;
    a->head = buf_ref(q->frame);
    DL_APPEND(s->anywhere, a);
    s->n_anywhere++;
    replica_read(s->replica, a);
    return true;
}

static void anywhere_free(struct anywhere *a)
{
    DL_DELETE(a->s->anywhere, a);
    a->s->n_anywhere--;
    buf_unref(a->head);
    free(a);
}

void anywhere_end(struct meta_server *s)
{
    while (s->anywhere)
        anywhere_free(s->anywhere);
}

/* ---- the answers: false where only the leader may give one ---- */

static bool entry_reply(struct meta_server *s, const struct request *q, int status, const struct entry_res *res)
{
    if (status == 0 && (res->attr.flags & ATTR_HELD) && TC_RULE(ANYWHERE_X))
        return false;
    server_reply(s, q->peer, q->id, q->type, status, status == 0 ? &entry_res_schema : NULL, status == 0 ? res : NULL);
    return true;
}

static bool lookup(struct meta_server *s, const struct request *q)
{
    const struct lookup_req *req = q->msg;
    struct entry_res res = {.has_dir = true, .replica_time = fsm_clock(s->fsm)};
    int r = fsm_lookup(s->fsm, q->ctx->session, req->parent, req->name, &s->arena, &res.attr, &res.dir);

    res.has_attr = r == 0;
    res.negative = r == -TC_E_NOENT;
    res.change = res.dir.change;
    return entry_reply(s, q, r == -TC_E_NOENT ? 0 : r, &res);
}

static bool getattr(struct meta_server *s, const struct request *q)
{
    struct entry_res res = {.has_attr = true, .replica_time = fsm_clock(s->fsm)};
    int r = fsm_getattr(s->fsm, q->ctx->session, ((const struct getattr_req *)q->msg)->ino, &s->arena, &res.attr);

    return entry_reply(s, q, r, &res);
}

static bool readdir_run(struct meta_server *s, const struct request *q)
{
    const struct readdir_req *req = q->msg;
    struct readdir_res res = {0};
    int r = fsm_readdir(s->fsm, q->ctx->session, req->ino, req->cookie, MIN(req->max, READDIR_MAX), READDIR_BYTES_MAX,
                        req->plus, &s->arena, &res);

    server_reply(s, q->peer, q->id, q->type, r, r == 0 ? &readdir_res_schema : NULL, r == 0 ? &res : NULL);
    return true;
}

static bool bytes_read(struct meta_server *s, const struct request *q)
{
    const struct getxattr_req *x = q->msg;
    struct bytes_res res = {0};
    int r;

    if (q->type == MSG_READLINK)
        r = fsm_readlink(s->fsm, ((const struct readlink_req *)q->msg)->ino, &s->arena, &res.value);
    else if (q->type == MSG_GETXATTR)
        r = fsm_getxattr(s->fsm, x->ino, x->name, &s->arena, &res.value);
    else
        r = fsm_listxattr(s->fsm, ((const struct listxattr_req *)q->msg)->ino, &s->arena, &res.value);
    server_reply(s, q->peer, q->id, q->type, r, r == 0 ? &bytes_res_schema : NULL, r == 0 ? &res : NULL);
    return true;
}

static bool answer(struct meta_server *s, const struct request *q)
{
    struct fsm_session x;

    /* What became of a session is the leader's to say. */
    if (!fsm_session(s->fsm, q->ctx->session, &x) || x.state != FSM_SESSION_LIVE ||
        x.incarnation != q->ctx->incarnation)
        return false;
    switch (q->type) {
    case MSG_LOOKUP:
        return lookup(s, q);
    case MSG_GETATTR:
        return getattr(s, q);
    case MSG_READDIR:
        return readdir_run(s, q);
    default:
        return bytes_read(s, q);
    }
}

static void to_leader(struct meta_server *s, struct anywhere *a, uint64_t id, uint16_t type, bool anywhere)
{
    if (replica_leads(s->replica) && !anywhere)
        server_hold(s, a->peer, a->head, NULL); /* this one, when it has its lease */
    else /* the requester asks the leader, as usual */
        server_reply_not_leader(s, a->peer, id, type);
}

void anywhere_done(void *arg, void *cookie, int err)
{
    struct meta_server *s = arg;
    struct anywhere *a = cookie;
    union {
        max_align_t align;
        uint8_t bytes[MSG_STRUCT_MAX];
    } msg;
    struct wire_header h;
    struct request q;
    struct slice body;

    wire_arena_reset(&s->arena);
    if (wire_check_frame(slice_of(a->head->data, a->head->len), &h, &body) == 0 &&
        wire_decode(body, schema_of(h.type, WIRE_REQUEST), &s->arena, &msg) == 0) {
        q = (struct request){.peer = a->peer, .id = h.id, .type = h.type, .frame = a->head, .body = body, .msg = &msg,
                             .ctx = (const struct req_ctx *)&msg};
        if (err == 0 && s->fsm && answer(s, &q))
            s->n.reads++;
        else
            to_leader(s, a, h.id, h.type, q.ctx->anywhere);
    }
    anywhere_free(a);
}
