/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members of the group: their endpoints, and META_CHANGE.
 *
 * Where a member is: as the state machine has it, once that was changed by command; as the configuration file
 * has it, where genesis is all that the state machine knows (so that a machine's new name needs an edit of the
 * file only).
 *
 * A change is one entry: Raft's configuration and, behind it, CMD_MEMBERS with the whole list for the state
 * machine. One is under way at a time (s->change); it is answered when its entry is applied. When the lead ends
 * before that its fate is not known here: no answer, the tool looks.
 */
#include "meta/server_internal.h"

#include <stdio.h>

#include "common/config.h"

static const struct member_info *info_find(const struct member_info *list, uint32_t n, uint32_t id)
{
    for (uint32_t i = 0; i < n; i++) {
        if (list[i].id == id)
            return &list[i];
    }
    return NULL;
}

static const char *configured(const struct meta_server *s, uint32_t id)
{
    for (unsigned i = 0; i < s->n_members; i++) {
        if (s->members[i].id == id)
            return s->members[i].endpoint;
    }
    return NULL;
}

static bool same(struct wire_str a, struct wire_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

/* Returns: caller frees. */
static char *endpoint_of(const struct meta_server *s, const struct member_info *m)
{
    const struct genesis *g = fsm_genesis(s->fsm);
    const struct member_info *first = g ? info_find(g->members.items, g->members.n, m->id) : NULL;
    const char *conf = configured(s, m->id);

    if (conf && first && same(first->endpoint, m->endpoint))
        return tc_strdup(conf);
    return tc_asprintf("%.*s", (int)m->endpoint.n, m->endpoint.p);
}

static void peers_set(struct meta_server *s, const struct member_info *list, uint32_t n)
{
    struct replica_peer peers[REPLICA_PEERS_MAX] = {0};
    char *endpoints[REPLICA_PEERS_MAX];

    n = MIN(n, (uint32_t)REPLICA_PEERS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        endpoints[i] = endpoint_of(s, &list[i]);
        peers[i] = (struct replica_peer){list[i].id, endpoints[i]};
    }
    replica_set_peers(s->replica, peers, n);
    for (uint32_t i = 0; i < n; i++)
        free(endpoints[i]);
}

void members_refresh(struct meta_server *s)
{
    const struct member_info *list;
    uint32_t n;

    if (!s->fsm || !fsm_formatted(s->fsm))
        return;
    list = fsm_members(s->fsm, &n);
    peers_set(s, list, n);
}

/* An entry in the log, perhaps not committed. */
void members_seen(void *arg, struct slice data)
{
    struct meta_server *s = arg;
    struct wire_arena arena = {0};
    struct cmd_members members;
    struct command cmd;

    if (s->fsm && wire_decode(data, &command_schema, &arena, &cmd) == 0 && cmd.type == CMD_MEMBERS &&
        wire_decode(slice_of(cmd.body.p, cmd.body.n), &cmd_members_schema, &arena, &members) == 0)
        peers_set(s, members.members.items, members.members.n);
    wire_arena_fini(&arena);
}

bool members_outside(const struct meta_server *s)
{
    const struct member_info *list;
    uint32_t n;

    if (!s->fsm || !fsm_formatted(s->fsm))
        return false;
    list = fsm_members(s->fsm, &n);
    return !info_find(list, n, s->cfg.id);
}

/* ---- META_CHANGE ---- */

static void change_reply(struct meta_server *s, uint64_t peer, uint64_t id, int status, uint64_t index, const char *text)
{
    struct meta_change_res res = {.text = wire_str_of(text), .index = index};

    server_reply(s, peer, id, MSG_META_CHANGE, status, &meta_change_res_schema, &res);
}

static void change_refuse(struct meta_server *s, const struct request *q, int err)
{
    const struct meta_change_req *req = q->msg;
    char text[256];

    switch (err) {
    case -TC_E_BUSY:
        snprintf(text, sizeof(text), "another change or a transfer is under way; wait for it");
        break;
    case -TC_E_EXIST:
        snprintf(text, sizeof(text), req->op == META_PROMOTE ? "member %u votes already" : "member %u is one already",
                 req->member);
        break;
    case -TC_E_NOENT:
        snprintf(text, sizeof(text), "there is no member %u", req->member);
        break;
    case -TC_E_LIMIT:
        snprintf(text, sizeof(text), "a group has at most %d members; remove one first", REPLICA_PEERS_MAX);
        break;
    case -TC_E_AGAIN:
        snprintf(text, sizeof(text), "member %u is too far behind to vote; wait until tercet meta list shows it caught up",
                 req->member);
        break;
    case -TC_E_UNREACHABLE:
        if (req->op == META_TRANSFER && req->member)
            snprintf(text, sizeof(text), "member %u cannot take over: it must vote, answer and be up to date; see tercet meta list",
                     req->member);
        else if (req->op == META_TRANSFER)
            snprintf(text, sizeof(text), "nobody who votes and answers can take over");
        else
            snprintf(text, sizeof(text), "member %u does not answer: is tercet-meta --id=%u running, with this endpoint?",
                     req->member, req->member);
        break;
    case -TC_E_NO_QUORUM:
        snprintf(text, sizeof(text), "the voters that answer now would be no majority of the group afterwards; "
                 "bring members up, or remove one that is down, first");
        break;
    case -TC_E_ADDRINUSE:
        snprintf(text, sizeof(text), "at %.*s is another member or a storage node already", (int)MIN(req->endpoint.n, 200U),
                 req->endpoint.p);
        break;
    case -TC_E_INVAL:
        snprintf(text, sizeof(text), req->op == META_REMOVE ? "member %u is the last that votes" : "malformed request",
                 req->member);
        break;
    default:
        snprintf(text, sizeof(text), "%s", tc_strerror(err));
    }
    change_reply(s, q->peer, q->id, err, 0, text);
}

/* The list as it will be, as the body of a command. Returns: caller drops. NULL: @req makes no sense. */
static struct buf *change_entry(struct meta_server *s, const struct meta_change_req *req)
{
    struct member_info list[REPLICA_PEERS_MAX + 1];
    struct cmd_members body = {.members = {list, 0}};
    struct command cmd = {.type = CMD_MEMBERS, .time = server_time(s), .term = s->lead->term};
    const struct member_info *now;
    struct buf *b, *e;
    uint32_t n, k = 0;

    now = fsm_members(s->fsm, &n);
    for (uint32_t i = 0; i < n && k < REPLICA_PEERS_MAX; i++) {
        if (req->op == META_ADD && now[i].id > req->member && (k == 0 || list[k - 1].id < req->member))
            list[k++] = (struct member_info){.id = req->member, .endpoint = req->endpoint, .learner = true};
        if (now[i].id == req->member && req->op == META_REMOVE)
            continue;
        list[k] = now[i];
        if (now[i].id == req->member && req->op == META_PROMOTE)
            list[k].learner = false;
        k++;
    }
    if (req->op == META_ADD && (k == 0 || list[k - 1].id < req->member))
        list[k++] = (struct member_info){.id = req->member, .endpoint = req->endpoint, .learner = true};
    body.members.n = MIN(k, (uint32_t)REPLICA_PEERS_MAX);
    b = wire_encode(&cmd_members_schema, &body);
    cmd.body = (struct wire_bin){b->data, b->len};
    e = wire_encode(&command_schema, &cmd);
    buf_unref(b);
    s->last_time = cmd.time;
    return e;
}

/* A member where another daemon of the cluster is would be that one, asked for what it does not have. */
static int endpoint_check(struct meta_server *s, const struct meta_change_req *req)
{
    uint32_t n_members, n_stores;
    const struct member_info *members = fsm_members(s->fsm, &n_members);
    const struct fsm_store *stores = fsm_stores(s->fsm, &n_stores);
    char endpoint[256];
    bool used = false;

    if (req->endpoint.n >= sizeof(endpoint) || memchr(req->endpoint.p, 0, req->endpoint.n))
        return -TC_E_INVAL;
    snprintf(endpoint, sizeof(endpoint), "%.*s", (int)req->endpoint.n, req->endpoint.p);
    if (!config_endpoint_ok(endpoint))
        return -TC_E_INVAL;
    for (uint32_t i = 0; i < n_members && !used; i++) {
        char *there = endpoint_of(s, &members[i]);

        used = members[i].id != req->member && strcmp(there, endpoint) == 0;
        free(there);
    }
    for (uint32_t i = 0; i < n_stores && !used; i++)
        used = stores[i].state != STORE_REPLACED && strcmp(stores[i].endpoint, endpoint) == 0;
    return used ? -TC_E_ADDRINUSE : 0;
}

static int change_begin(struct meta_server *s, const struct request *q)
{
    static const enum replica_change_how how[] = {
        [META_ADD] = REPLICA_ADD, [META_REMOVE] = REPLICA_REMOVE, [META_PROMOTE] = REPLICA_PROMOTE};
    const struct meta_change_req *req = q->msg;
    struct buf *e;
    int r;

    if (req->member == 0 || req->op < META_ADD || req->op > META_PROMOTE)
        return -TC_E_INVAL;
    r = req->op == META_ADD ? endpoint_check(s, req) : 0;
    if (r < 0)
        return r;
    if (s->change.index > fsm_applied(s->fsm))
        return -TC_E_BUSY;
    e = change_entry(s, req);
    r = replica_change(s->replica, req->member, how[req->op], slice_of(e->data, e->len), &s->change.index);
    buf_unref(e);
    if (r < 0)
        return r;
    s->change.peer = q->peer;
    s->change.id = q->id;
    s->change.term = s->lead->term;
    s->n.proposals++;
    LOG_INFO("meta", "the group changes", "op=%u member=%u index=%llu", req->op, req->member,
             (unsigned long long)s->change.index);
    return 0;
}

void members_change(struct meta_server *s, const struct request *q)
{
    const struct meta_change_req *req = q->msg;
    int r;

    if (req->op != META_TRANSFER) {
        r = change_begin(s, q);
        if (r < 0)
            change_refuse(s, q, r);
        return;
    }
    r = req->member == s->cfg.id ? -TC_E_INVAL : replica_transfer(s->replica, req->member);
    if (r == -TC_E_INVAL)
        change_reply(s, q->peer, q->id, r, 0, "this member leads already");
    else if (r < 0)
        change_refuse(s, q, r);
    else
        change_reply(s, q->peer, q->id, 0, 0, "handing over");
}

void members_applied(struct meta_server *s, uint64_t index, uint64_t term, const struct fsm_result *res)
{
    if (res->type == CMD_MEMBERS && res->status == 0)
        members_refresh(s);
    if (s->change.id && s->change.index <= index) {
        if (s->change.index == index && s->change.term == term)
            change_reply(s, s->change.peer, s->change.id, res->status, index, "");
        s->change.id = 0;
    }
}
