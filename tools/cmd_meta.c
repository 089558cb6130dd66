/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet meta: who is in the metadata group. `list` asks every member; the others send one request to the
 * leader (META_CHANGE), which answers when the change is committed or says why it is refused.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/os_env.h"
#include "report.h"

#define LEADER_WAIT_MS 10000
#define ANSWER_WAIT_MS 3000

static const struct verb {
    const char *name;
    uint32_t op; /* enum meta_change_op; 0: list */
    int args_min, args_max;
    const char *done;
} verbs[] = {
    {"list", 0, 0, 0, ""},
    {"add", META_ADD, 1, 2, "was added; it is being filled and does not vote until it is promoted"},
    {"promote", META_PROMOTE, 1, 1, "votes now"},
    {"remove", META_REMOVE, 1, 1, "was removed; stop it, and take it out of the configuration"},
    {"transfer", META_TRANSFER, 0, 1, "leads now"},
};

/* ---- finding the leader ---- */

struct leader {
    uint32_t id;
    uint64_t term;
    char *endpoint; /* the caller frees */
};

/* Whoever knows the newest leader. */
static bool ask_leader(struct env *env, const struct tool_members *m, struct leader *ret)
{
    struct empty_msg none = {0};
    struct rpc_request req = {.type = MSG_WHO_LEADS, .body = &none, .timeout_ms = 700};
    struct rpc_answer answers[TOOL_MEMBERS_MAX];

    *ret = (struct leader){0};
    rpc_ask(env, (const char *const *)m->endpoints, MIN(m->n, (unsigned)TOOL_MEMBERS_MAX), &req, answers);
    for (unsigned i = 0; i < m->n; i++) {
        struct wire_arena a = {0};
        struct leader_msg l;

        if (answers[i].status == 0 && wire_decode(answers[i].body, &leader_msg_schema, &a, &l) == 0 && l.leader &&
            l.endpoint.n && l.term >= ret->term) {
            free(ret->endpoint);
            *ret = (struct leader){l.leader, l.term, tc_asprintf("%.*s", (int)l.endpoint.n, l.endpoint.p)};
        }
        wire_arena_fini(&a);
    }
    rpc_answers_fini(answers, m->n);
    return ret->endpoint != NULL;
}

/* Until one is there that is not @before. */
static bool find_leader(struct env *env, const struct tool_members *m, uint32_t before, struct leader *ret)
{
    uint64_t end = env_now(env) + LEADER_WAIT_MS * NS_PER_MS;

    for (;;) {
        if (ask_leader(env, m, ret) && ret->id != before)
            return true;
        free(ret->endpoint);
        ret->endpoint = NULL;
        if (env_now(env) > end)
            return false;
        usleep(20000);
    }
}

/* ---- a change ---- */

static int say(const struct cli *cli, bool json, const struct verb *v, uint32_t member, const char *refused)
{
    if (json) {
        json_t *o = json_pack("{s:s, s:I, s:b}", "verb", v->name, "member", (json_int_t)member, "done", refused == NULL);

        if (refused)
            json_object_set_new(o, "refused", json_string(refused));
        json_dumpf(o, stdout, 0);
        putchar('\n');
        json_decref(o);
        return refused ? 1 : 0;
    }
    if (refused)
        return cli_failed(cli, "refused: %s", refused);
    printf("member %" PRIu32 " %s\n", member, v->done);
    return 0;
}

/* The leader's answer as text. Returns: caller frees. */
static char *answer_text(const struct rpc_answer *a)
{
    struct wire_arena arena = {0};
    struct meta_change_res res;
    char *text = NULL;

    if (a->frame && a->body.len && wire_decode(a->body, &meta_change_res_schema, &arena, &res) == 0 && res.text.n)
        text = tc_asprintf("%.*s", (int)res.text.n, res.text.p);
    wire_arena_fini(&arena);
    return text ? text : tc_strdup(tc_strerror(a->status));
}

/* What the leader would say had its predecessor, of whom nobody knows whether it did, not done it. */
static bool done_before(const struct verb *v, int status)
{
    return v->op == META_REMOVE ? status == -TC_E_NOENT : v->op != META_TRANSFER && status == -TC_E_EXIST;
}

/* A leader that dies, or hangs, with the request may have done it: whoever leads then is asked, too. Returns false if nobody led,
 * and nothing was changed. */
static bool ask_change(struct env *env, const struct tool_members *m, const struct verb *v, const struct meta_change_req *body,
                       struct leader *ret_leader, struct rpc_answer *ret)
{
    struct rpc_request req = {.type = MSG_META_CHANGE, .body = body, .timeout_ms = ANSWER_WAIT_MS};
    uint64_t begun = env_now(env);
    bool lost = false; /* one did not answer */

    *ret = (struct rpc_answer){.status = -TC_E_NOT_LEADER};
    while (find_leader(env, m, 0, ret_leader)) {
        rpc_answers_fini(ret, 1);
        rpc_ask(env, (const char *const *)&ret_leader->endpoint, 1, &req, ret);
        free(ret_leader->endpoint);
        ret_leader->endpoint = NULL;
        if (lost && ret->frame && done_before(v, ret->status))
            ret->status = 0;
        if (ret->frame ? ret->status != -TC_E_NOT_LEADER && !(lost && ret->status == -TC_E_BUSY) : v->op == META_TRANSFER)
            return true;
        lost = lost || !ret->frame;
        if (env_now(env) - begun > (lost ? 2U : 1U) * LEADER_WAIT_MS * NS_PER_MS)
            break;
        usleep(50000);
    }
    return lost;
}

static int change(const struct cli *cli, struct env *env, const struct tool_members *m, const struct verb *v,
                  const struct meta_change_req *body, bool json)
{
    struct leader l = {0}, next;
    struct rpc_answer a;
    uint32_t member = body->member;
    int status;

    if (!ask_change(env, m, v, body, &l, &a)) {
        rpc_answers_fini(&a, 1);
        return cli_failed(cli, "the metadata group has no leader: see tercet status; nothing was changed");
    }
    if (a.status < 0 && (!a.frame || a.status == -TC_E_NOT_LEADER)) {
        status = cli_failed(cli, "the leader did not answer: %s; tercet meta list shows what became of it",
                            tc_strerror(a.status));
    } else if (a.status < 0) {
        char *text = answer_text(&a);

        status = say(cli, json, v, member, text);
        free(text);
    } else if (v->op == META_TRANSFER && !find_leader(env, m, l.id, &next)) {
        status = cli_failed(cli, "nobody took over within %d s: see tercet status", LEADER_WAIT_MS / 1000);
    } else {
        if (v->op == META_TRANSFER) {
            member = next.id;
            free(next.endpoint);
        }
        status = say(cli, json, v, member, NULL);
    }
    rpc_answers_fini(&a, 1);
    return status;
}

/* ---- list ---- */

static void list_json(const struct report *r)
{
    json_t *o = json_object(), *members = json_array();

    for (unsigned i = 0; i < r->s.n; i++) {
        const json_t *d = r->s.docs[i], *said = report_leader_says(r, i);
        json_t *m = json_pack("{s:I, s:s, s:b, s:b, s:b}", "id", (json_int_t)report_member_id(r, i), "endpoint",
                              r->m->endpoints[i], "answers", d != NULL, "member", said != NULL || !r->leader, "votes",
                              said && !json_is_true(json_object_get(said, "learner")));
        static const char *const own[] = {"role", "term", "commit", "applied", "installing", "trouble"};
        static const char *const leaders[] = {"match", "lag", "state", "standby", "silent_ms", "snapshot_bytes"};

        for (size_t k = 0; k < ARRAY_SIZE(own); k++) {
            if (json_object_get(d, own[k]))
                json_object_set(m, own[k], json_object_get(d, own[k]));
        }
        for (size_t k = 0; k < ARRAY_SIZE(leaders); k++) {
            if (json_object_get(said, leaders[k]))
                json_object_set(m, leaders[k], json_object_get(said, leaders[k]));
        }
        json_array_append_new(members, m);
    }
    json_object_set_new(o, "leader", r->leader ? json_integer((json_int_t)json_u64(r->leader, "id", 0)) : json_null());
    json_object_set_new(o, "term", json_integer((json_int_t)json_u64(r->leader, "term", 0)));
    json_object_set_new(o, "members", members);
    json_object_set(o, "problems", r->problems);
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

static int list(struct env *env, struct tool_members *m, uint64_t timeout_ms, bool json)
{
    struct report r = {.m = m, .problems = json_array()};

    tool_status_ask(env, m, timeout_ms, &r.s);
    r.leader = r.s.leader < 0 ? NULL : r.s.docs[r.s.leader];
    report_members(&r);
    if (json) {
        list_json(&r);
    } else {
        report_print_members(&r);
        if (json_array_size(r.problems))
            printf("\n");
        report_print_problems(&r);
    }
    json_decref(r.problems);
    tool_status_fini(&r.s);
    return r.unhealthy ? 1 : 0;
}

/* ---- the command line ---- */

static const struct verb *verb_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (strcmp(name, verbs[i].name) == 0)
            return &verbs[i];
    }
    return NULL;
}

static bool parse_id(const char *text, uint32_t *ret)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);

    *ret = (uint32_t)v;
    return *text >= '0' && *text <= '9' && *end == 0 && v > 0 && v <= UINT32_MAX;
}

/* What @cli's arguments ask for. Returns 0 or an exit status. */
static int parse_change(const struct cli *cli, const struct verb *v, const struct tool_members *m,
                        struct meta_change_req *ret)
{
    const struct config_node *node;

    *ret = (struct meta_change_req){.op = v->op};
    if (cli->n_args > 1 && !parse_id(cli->args[1], &ret->member))
        return cli_usage_error(cli, "'%s' is no member's id", cli->args[1]);
    if (v->op != META_ADD)
        return 0;
    if (cli->n_args > 2) {
        ret->endpoint = wire_str_of(cli->args[2]);
        if (!config_endpoint_ok(cli->args[2]))
            return cli_usage_error(cli, "'%s' is no endpoint: tcp://HOST:PORT", cli->args[2]);
        return 0;
    }
    node = m->config ? config_meta(m->config, ret->member) : NULL;
    if (!node)
        return cli_usage_error(cli, "where is member %" PRIu32 "? Name its endpoint, tcp://HOST:PORT, or give the "
                               "configuration a section [meta.%" PRIu32 "]", ret->member, ret->member);
    ret->endpoint = wire_str_of(node->endpoint);
    return 0;
}

int cmd_meta(int argc, char **argv)
{
    bool json = false;
    const char *servers = NULL;
    uint64_t timeout_ms = 2000;
    const struct cli_option options[] = {
        OPTION_JSON(&json),
        OPTION_SERVERS(&servers),
        {.name = "timeout-ms", .value = "N", .text = "list: wait so long for members (2000)", .number = &timeout_ms},
        {0},
    };
    struct cli cli = {
        .program = "tercet meta",
        .synopsis = "[--config=FILE | --servers=LIST] [--json] list | add ID [ENDPOINT] | promote ID | remove ID | "
                    "transfer [ID]",
        .summary = "The metadata group: who is in it and how they are; members added, promoted to vote, removed;\n"
                   "the lead handed over. What would endanger the group is refused, with the reason.\n"
                   "Exit status 0: done; 1: refused or failed (list: something is wrong).",
        .options = options,
        .config = true,
    };
    struct meta_change_req req;
    const struct verb *v;
    struct tool_members m;
    struct env *env = NULL;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    v = cli.n_args > 0 ? verb_find(cli.args[0]) : NULL;
    if (!v)
        return cli_usage_error(&cli, "what? One of list, add, promote, remove, transfer; see --help");
    if (cli.n_args - 1 < v->args_min || cli.n_args - 1 > v->args_max)
        return cli_usage_error(&cli, "%s takes %s", v->name,
                               v->op == META_ADD ? "an id and perhaps an endpoint" : v->op ? "an id" : "nothing");
    if (!tool_members_open(&cli, servers, &m, &status))
        return status;
    status = v->op ? parse_change(&cli, v, &m, &req) : 0;
    if (status == 0 && os_env_new(&(struct os_env_options){.threads = 1}, &env) < 0)
        status = cli_failed(&cli, "cannot start");
    if (status == 0)
        status = v->op ? change(&cli, env, &m, v, &req, json) : list(env, &m, timeout_ms, json);
    os_env_free(env);
    tool_members_fini(&m);
    return status;
}
