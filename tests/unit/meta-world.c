/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/meta-world.h"

#include <stdio.h>

#include "common/map.h"

struct sim *s;
struct member members[MEMBERS];
struct client clients[CLIENTS];
int only = -1;

/* ---- members ---- */

void member_start(unsigned i)
{
    struct meta_member all[MEMBERS];
    struct meta_server_config cfg = {.id = i + 1, .members = all, .n_members = MEMBERS, .dir = "meta", .kv_mem = true};
    char why[256];

    for (unsigned n = 0; n < MEMBERS; n++)
        all[n] = (struct meta_member){n + 1, members[n].endpoint};
    ck_assert_msg(meta_server_open(sim_node_boot(members[i].node), &cfg, why, sizeof why, &members[i].server) == 0,
                  "%s", why);
}

void member_kill(unsigned i)
{
    sim_node_kill(members[i].node);
    members[i].server = meta_server_close(members[i].server);
}

int leader(void)
{
    for (unsigned i = 0; i < MEMBERS; i++) {
        if (members[i].server && meta_server_leads(members[i].server))
            return (int)i;
    }
    return -1;
}

bool has_leader(void *arg)
{
    (void)arg;
    return leader() >= 0;
}

uint64_t in_ms(uint64_t ms)
{
    return sim_now(s) + ms * NS_PER_MS;
}

/* ---- clients ---- */

static void on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct client *c = arg;
    struct wire_header h;
    struct slice body;

    (void)peer;
    (void)payload;
    ck_assert_int_eq(wire_check_frame(slice_of(head->data, head->len), &h, &body), 0);
    if (h.kind == WIRE_NOTICE && h.type == MSG_RECALL) {
        struct wire_arena a = {0};
        struct recall_msg m;

        ck_assert_int_eq(wire_decode(body, &recall_msg_schema, &a, &m), 0);
        ck_assert_uint_eq(m.session, c->session);
        for (uint32_t i = 0; i < m.items.n; i++) {
            bool known = false;

            for (unsigned n = 0; n < c->n_recalls; n++)
                known = known || c->recalls[n].recall == m.items.items[i].recall;
            if (!known && c->n_recalls < RECALLS_MAX)
                c->recalls[c->n_recalls++] = m.items.items[i];
        }
        wire_arena_fini(&a);
        return;
    }
    if (h.kind == WIRE_REPLY && h.type == MSG_KEEPALIVE && h.status == 0) {
        struct keepalive_res res;
        struct wire_arena a = {0};

        ck_assert_int_eq(wire_decode(body, &keepalive_res_schema, &a, &res), 0);
        if (!res.want_list) {
            c->gen_term = res.gen_term;
            c->gen_n = res.gen_n;
        }
        return;
    }
    if (h.kind != WIRE_REPLY || h.id != c->waits_for || c->answered ||
        tc_error_from_wire(h.status) == -TC_E_NOT_LEADER)
        return;
    c->answered = true;
    c->status = tc_error_from_wire(h.status);
    c->frame = buf_ref(head);
    c->body = body;
}

static void keepalive(struct env_timer *t)
{
    struct client *c = container_of(t, struct client, timer);
    struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_KEEPALIVE, .id = 1};
    struct keepalive_req req = {
        .ctx = {.session = c->session, .incarnation = c->incarnation, .gen_term = c->gen_term, .gen_n = c->gen_n},
        .has_ctx = true,
        .caching = true};

    env_timer_set(c->env, t, env_now(c->env) + 500 * NS_PER_MS);
    if (c->silent || !c->session)
        return;
    for (unsigned i = 0; i < MEMBERS; i++)
        env_send(c->ports[i], 0, wire_encode_frame(&h, &keepalive_req_schema, &req), NULL);
}

static bool is_answered(void *arg)
{
    return ((struct client *)arg)->answered;
}

/* Send to all members (a redirect is not an answer); the id of the request. Mutations get a seq. */
uint64_t post(struct client *c, uint16_t type, const struct wire_schema *schema, void *req)
{
    struct wire_header h = {.kind = WIRE_REQUEST, .type = type, .id = ++c->next_id};
    struct req_ctx *ctx = req;

    if (schema->n_fields && schema->fields[0].kind == WIRE_SUB) {
        ctx->session = c->session;
        ctx->incarnation = c->incarnation;
        ctx->gen_term = c->gen_term;
        ctx->gen_n = c->gen_n;
        if (type >= MSG_SESSION_CLOSE && type <= MSG_COMMIT && !ctx->seq)
            ctx->seq = ++c->seq;
        *(bool *)((char *)req + sizeof(struct req_ctx)) = true; /* has_ctx */
    }
    for (unsigned i = 0; i < MEMBERS; i++) {
        if (only < 0 || only == (int)i)
            env_send(c->ports[i], 0, wire_encode_frame(&h, schema, req), NULL);
    }
    return h.id;
}

void expect(struct client *c, uint64_t id)
{
    c->waits_for = id;
    c->answered = false;
    c->frame = buf_unref(c->frame);
    wire_arena_reset(&c->arena);
}

/* The answer to what expect() was told of, within @ms. @res may be NULL. */
int await_answer(struct client *c, const struct wire_schema *schema, void *res, uint64_t ms)
{
    if (!sim_run(s, in_ms(ms), is_answered, c))
        return -TC_E_DEADLINE;
    if (c->status == 0 && res)
        ck_assert_int_eq(wire_decode(c->body, schema, &c->arena, res), 0);
    return c->status;
}

int ask_for(struct client *c, uint16_t type, const struct wire_schema *schema, void *req,
                   const struct wire_schema *res_schema, void *res, uint64_t ms)
{
    expect(c, post(c, type, schema, req));
    return await_answer(c, res_schema, res, ms);
}

static void client_start(unsigned i)
{
    struct client *c = &clients[i];
    struct session_open_req req = {.nonce = 1000 + i, .client = wire_str_of("test")};
    struct session_open_res res;

    *c = (struct client){.next_id = 100};
    c->node = sim_node_new(s, i ? "b" : "a");
    c->env = sim_node_boot(c->node);
    for (unsigned n = 0; n < MEMBERS; n++)
        ck_assert_int_eq(env_connect(c->env, members[n].endpoint, on_msg, c, &c->ports[n]), 0);
    ck_assert_int_eq(ASK(c, MSG_SESSION_OPEN, session_open_req, req, session_open_res, &res), 0);
    c->session = res.session;
    c->incarnation = res.incarnation;
    ck_assert_uint_eq(res.root, INO_ROOT);
    c->timer.fn = keepalive;
    env_timer_set(c->env, &c->timer, 0);
}

/* Enter the generation that the leader is in, holding @items. */
int list(struct client *c, struct lease_item *items, uint32_t n)
{
    struct lease_list_req req = {.last = true, .items = {items, n}};
    int r = -1;

    req.gen_term = fsm_applied_term(meta_server_fsm(members[leader()].server));
    for (req.gen_n = 1; req.gen_n < 10; req.gen_n++) {
        r = ASK(c, MSG_LEASE_LIST, lease_list_req, req, empty_msg, NULL);
        if (r == 0)
            break;
    }
    c->gen_term = req.gen_term;
    c->gen_n = req.gen_n;
    return r;
}

static bool formatted(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < MEMBERS; i++) {
        if (!meta_server_fsm(members[i].server))
            return false;
    }
    return leader() >= 0;
}

static void ignore(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    (void)arg;
    (void)peer;
    (void)head;
    (void)payload;
}

static void format(void)
{
    static const uint8_t id[16] = "a test's cluster", key[16] = "keyofthecookies!";
    struct member_info infos[MEMBERS];
    struct genesis g = {.cluster = {id, 16}, .name = wire_str_of("test"), .n = 3, .w = 2, .r = 2, .pg_count = 16,
                        .siphash_key = {key, 16}, .time = 1700000000 * NS_PER_S, .stores = 3, .root_mode = 0755,
                        .members = {infos, MEMBERS}};
    struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_FORMAT, .id = 1};
    struct sim_node *tool = sim_node_new(s, "tool");
    struct env *env = sim_node_boot(tool);
    struct net_port *ports[MEMBERS];

    for (unsigned i = 0; i < MEMBERS; i++)
        infos[i] = (struct member_info){.id = i + 1, .endpoint = wire_str_of(members[i].endpoint)};
    for (unsigned i = 0; i < MEMBERS; i++)
        ck_assert_int_eq(env_connect(env, members[i].endpoint, ignore, NULL, &ports[i]), 0);
    for (int tries = 0; !formatted(NULL); tries++) {
        ck_assert_int_lt(tries, 10);
        for (unsigned i = 0; i < MEMBERS; i++)
            env_send(ports[i], 0, wire_encode_frame(&h, &genesis_schema, &g), NULL);
        (void)sim_run(s, in_ms(1000), formatted, NULL);
    }
}

void setup(void)
{
    struct sim_net_options net = {.latency_ns = 200 * NS_PER_US};

    s = sim_new(42);
    sim_net_set(s, &net);
    for (unsigned i = 0; i < MEMBERS; i++) {
        char host[8];

        snprintf(host, sizeof host, "m%u", i + 1);
        snprintf(members[i].endpoint, sizeof members[i].endpoint, "tcp://m%u:1", i + 1);
        members[i].node = sim_node_new(s, host);
    }
    for (unsigned i = 0; i < MEMBERS; i++)
        member_start(i);
    format();
    for (unsigned i = 0; i < CLIENTS; i++)
        client_start(i);
    sim_run_until(s, in_ms(1000));
}

void teardown(void)
{
    for (unsigned i = 0; i < MEMBERS; i++) {
        if (members[i].server)
            member_kill(i);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        buf_unref(clients[i].frame);
        wire_arena_fini(&clients[i].arena);
    }
    sim_free(s);
}

struct entry_res make(struct client *c, const char *name, uint32_t want)
{
    struct make_req req = {.parent = INO_ROOT, .name = wire_str_of(name), .mode = S_IFREG | 0644, .excl = true,
                           .want = want};
    struct entry_res res;

    ck_assert_int_eq(ASK(c, MSG_MAKE, make_req, req, entry_res, &res), 0);
    ck_assert(res.has_attr);
    return res;
}

int commit(struct client *c, const struct grant *g, uint64_t size, uint32_t action, uint64_t recall,
                  struct commit_result *ret)
{
    struct commit_item item = {.ino = g->ino, .epoch = g->epoch, .gterm = g->gterm, .gcount = g->gcount, .has_size = size > 0,
                               .size = size, .mtime = 5, .action = action, .data_state = DATA_SETTLED, .recall = recall};
    struct commit_req req = {.items = {&item, 1}};
    struct commit_res res;
    int r = ASK(c, MSG_COMMIT, commit_req, req, commit_res, &res);

    if (r)
        return r;
    ck_assert_uint_eq(res.items.n, 1);
    if (ret)
        *ret = res.items.items[0];
    return tc_error_from_wire(res.items.items[0].status);
}

int ack(struct client *c, const struct recall_item *r, uint32_t keep)
{
    struct lease_item item = {.ino = r->ino, .gterm = r->gterm, .gcount = r->gcount, .kind = r->kind, .recall = r->recall,
                              .keep = keep};
    struct recall_ack_req req = {.items = {&item, 1}};

    return ASK(c, MSG_RECALL_ACK, recall_ack_req, req, empty_msg, NULL);
}

static bool has_recall(void *arg)
{
    return ((struct client *)arg)->n_recalls > 0;
}

struct recall_item next_recall(struct client *c)
{
    struct recall_item r;

    ck_assert(sim_run(s, in_ms(1000), has_recall, c));
    r = c->recalls[0];
    c->n_recalls = 0;
    return r;
}
