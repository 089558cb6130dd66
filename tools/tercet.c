/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command `tercet`: looks for the verb, and holds what the verbs share.
 */
#include "tercet.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *text;
} verbs[] = {
    {"format", cmd_format, "make a new, empty filesystem out of servers that were never formatted"},
    {"status", cmd_status, "health of the cluster: what is wrong and what to do about it"},
    {"locate", cmd_locate, "where the copies of a file are, and whether they are alike"},
    {"node", cmd_node, "storage nodes: list, add, drain, remove, maintenance"},
    {"scrub", cmd_scrub, "read data from the disks and check it; what is damaged is repaired"},
    {"clean", cmd_clean, "damaged files that were put aside: shown, removed"},
    {"verify", cmd_verify, "read all copies of a file and compare them"},
    {"explain", cmd_explain, "where a file lies, and what would happen to it if a node died"},
    {"meta", cmd_meta, "the metadata group: list, add, promote, remove, transfer; dump, load, checkpoint, recover"},
    {"umount", cmd_umount, "unmount a directory once everything written is safe"},
};

static void print_help(void)
{
    printf("usage: tercet VERB [OPTION...]\n\n");
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        printf("  %-10s %s\n", verbs[i].name, verbs[i].text);
    printf("\ntercet VERB --help tells more. Every verb takes --json, all but umount --config=FILE.\n");
}

bool tool_members_open(struct cli *cli, const char *servers, struct tool_members *m, int *ret_status)
{
    *m = (struct tool_members){0};
    if (servers) {
        int n = config_parse_servers(servers, &m->endpoints);

        if (n < 0) {
            *ret_status = cli_usage_error(cli, "--servers=%s: must be HOST[:PORT],...", servers);
            return false;
        }
        m->n = (unsigned)n;
        m->ids = tc_calloc(m->n, sizeof *m->ids);
        return true;
    }
    if (!cli_config(cli, &m->config, ret_status))
        return false;
    m->n = m->config->n_metas;
    m->endpoints = tc_calloc(m->n, sizeof(char *));
    m->ids = tc_calloc(m->n, sizeof *m->ids);
    for (unsigned i = 0; i < m->n; i++) {
        m->endpoints[i] = tc_strdup(m->config->metas[i].endpoint);
        m->ids[i] = m->config->metas[i].id;
    }
    return true;
}

void tool_members_fini(struct tool_members *m)
{
    for (unsigned i = 0; i < m->n; i++)
        free(m->endpoints[i]);
    free(m->endpoints);
    free(m->ids);
    m->config = config_free(m->config);
}

/* Parse the document in @a's answer. Sets a->status on failure. Returns: caller drops with json_decref(). */
static json_t *parse_status(struct rpc_answer *a)
{
    struct wire_arena arena = {0};
    struct status_res res;
    json_t *doc = NULL;
    int r;

    if (a->status < 0)
        return NULL;
    r = wire_decode(a->body, &status_res_schema, &arena, &res);
    if (r == 0)
        doc = json_loadb(res.json.p, res.json.n, 0, NULL);
    if (!json_is_object(doc)) {
        a->status = r < 0 ? r : -TC_E_BAD_MESSAGE;
        json_decref(doc);
        doc = NULL;
    }
    wire_arena_fini(&arena);
    return doc;
}

void tool_members_add(struct tool_members *m, uint32_t id, const char *endpoint)
{
    m->endpoints = tc_realloc(m->endpoints, (m->n + 1) * sizeof(char *));
    m->ids = tc_realloc(m->ids, (m->n + 1) * sizeof *m->ids);
    m->endpoints[m->n] = tc_strdup(endpoint);
    m->ids[m->n++] = id;
}

/* It leads, and may answer for the group now. */
static bool leads(struct rpc_answer *a)
{
    json_t *doc = parse_status(a);
    bool yes = json_is_true(json_object_get(doc, "lease")) && strcmp(json_text(doc, "role", ""), "leader") == 0;

    json_decref(doc);
    return yes;
}

/* Ask the members from ret->n on. */
static void status_ask_more(struct env *env, const struct tool_members *m, uint64_t timeout_ms, bool all, struct tool_status *ret)
{
    struct status_req body = {.what = 0};
    struct rpc_request req = {.type = MSG_STATUS, .body = &body, .timeout_ms = timeout_ms, .enough = all ? NULL : leads};
    uint64_t term = ret->leader < 0 ? 0 : json_u64(ret->docs[ret->leader], "term", 0);
    unsigned from = ret->n;

    ret->answers = tc_realloc(ret->answers, m->n * sizeof *ret->answers);
    ret->docs = tc_realloc(ret->docs, m->n * sizeof(json_t *));
    ret->n = m->n;
    rpc_ask(env, (const char *const *)m->endpoints + from, m->n - from, &req, ret->answers + from);
    for (unsigned i = from; i < m->n; i++) {
        ret->docs[i] = parse_status(&ret->answers[i]);
        if (ret->docs[i] && strcmp(json_text(ret->docs[i], "role", ""), "leader") == 0 &&
            json_u64(ret->docs[i], "term", 0) >= term) {
            term = json_u64(ret->docs[i], "term", 0);
            ret->leader = (int)i;
        }
    }
}

static void learn(struct tool_members *m, uint32_t id, const char *endpoint)
{
    if (!id || strncmp(endpoint, "tcp://", 6) != 0 || m->n >= TOOL_MEMBERS_MAX)
        return;
    for (unsigned i = 0; i < m->n; i++) {
        if (m->ids[i] == id || strcmp(m->endpoints[i], endpoint) == 0)
            return;
    }
    tool_members_add(m, id, endpoint);
}

const json_t *tool_last_group(const struct tool_status *s)
{
    const json_t *group = NULL;
    uint64_t newest = 0;

    for (unsigned i = 0; i < s->n; i++) {
        const json_t *g = json_object_get(s->docs[i], "group");
        uint64_t applied = json_u64(s->docs[i], "applied", 0);

        if (json_array_size(g) && applied >= newest) {
            newest = applied;
            group = g;
        }
    }
    return group;
}

/* Whom the answers name and the configuration does not: it may be older than the group. */
static void status_learn(struct tool_members *m, const struct tool_status *s)
{
    const json_t *e;
    size_t k;

    for (unsigned i = 0; i < s->n; i++) {
        if (m->ids[i] == 0)
            m->ids[i] = (uint32_t)json_u64(s->docs[i], "id", 0);
    }
    for (unsigned i = 0; i < s->n && s->leader < 0; i++)
        learn(m, (uint32_t)json_u64(s->docs[i], "leader", 0), json_text(s->docs[i], "leader_endpoint", ""));
    json_array_foreach(s->leader < 0 ? tool_last_group(s) : NULL, k, e)
        learn(m, (uint32_t)json_u64(e, "id", 0), json_text(e, "endpoint", ""));
    json_array_foreach(s->leader < 0 ? NULL : json_object_get(s->docs[s->leader], "members"), k, e)
        learn(m, (uint32_t)json_u64(e, "id", 0), json_text(e, "endpoint", ""));
}

static void status_ask(struct env *env, struct tool_members *m, uint64_t timeout_ms, bool all, struct tool_status *ret)
{
    *ret = (struct tool_status){.leader = -1};
    for (int round = 0; round < 3 && ret->n < m->n && (all || ret->leader < 0); round++) {
        status_ask_more(env, m, timeout_ms, all, ret);
        status_learn(m, ret);
    }
    if (all && ret->n < m->n)
        status_ask_more(env, m, timeout_ms, all, ret);
}

void tool_status_ask(struct env *env, struct tool_members *m, uint64_t timeout_ms, struct tool_status *ret)
{
    status_ask(env, m, timeout_ms, true, ret);
}

void tool_leader_ask(struct env *env, struct tool_members *m, uint64_t timeout_ms, struct tool_status *ret)
{
    status_ask(env, m, timeout_ms, false, ret);
}

void tool_status_fini(struct tool_status *s)
{
    for (unsigned i = 0; i < s->n; i++)
        json_decref(s->docs[i]);
    rpc_answers_fini(s->answers, s->n);
    free(s->answers);
    free(s->docs);
}

uint64_t json_u64(const json_t *o, const char *key, uint64_t otherwise)
{
    const json_t *v = json_object_get(o, key);

    return json_is_integer(v) && json_integer_value(v) >= 0 ? (uint64_t)json_integer_value(v) : otherwise;
}

const char *json_text(const json_t *o, const char *key, const char *otherwise)
{
    const json_t *v = json_object_get(o, key);

    return json_is_string(v) ? json_string_value(v) : otherwise;
}

const json_t *json_by_id(const json_t *array, uint64_t id)
{
    const json_t *o;
    size_t i;

    json_array_foreach(array, i, o)
    {
        if (json_u64(o, "id", 0) == id)
            return o;
    }
    return NULL;
}

const char *format_bytes(uint64_t bytes, char out[16])
{
    static const char units[] = "KMGTPE";
    double value = (double)bytes;
    int unit = -1;

    while (value >= 1024 && unit < 5) {
        value /= 1024;
        unit++;
    }
    if (unit < 0)
        snprintf(out, 16, "%" PRIu64 " B", bytes);
    else
        snprintf(out, 16, "%.1f %ciB", value, units[unit]);
    return out;
}

/* Options may stand before the verb: put the verb first. Returns its place, or argc. */
static int verb_first(int argc, char **argv)
{
    static const char *const with_value[] = {"--config", "--servers", "--timeout-ms", "--timeout", "--rate"};
    int i = 1;
    char *verb;

    while (i < argc && argv[i][0] == '-') {
        bool skip = false;

        for (size_t k = 0; k < ARRAY_SIZE(with_value); k++)
            skip = skip || strcmp(argv[i], with_value[k]) == 0;
        i += skip ? 2 : 1;
    }
    if (i >= argc)
        return argc;
    verb = argv[i];
    memmove(&argv[2], &argv[1], (size_t)(i - 1) * sizeof(char *));
    argv[1] = verb;
    return 1;
}

int main(int argc, char **argv)
{
    struct cli self = {.program = "tercet"};

    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)) {
        print_help();
        return CLI_OK;
    }
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
        printf("tercet %s\n", TC_VERSION);
        return CLI_OK;
    }
    if (verb_first(argc, argv) >= argc)
        return cli_usage_error(&self, "which verb? One of format, status, locate, meta, node, scrub, clean, verify, explain, umount; "
                               "see tercet --help");
    log_setup(LOG_LEVEL_ERR, STDERR_FILENO);
    if (strcmp(argv[1], "meta") == 0 && cmd_meta_keeps(argc - 1, argv + 1))
        return cmd_meta_keep(argc - 1, argv + 1);
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    }
    return cli_usage_error(&self, "unknown verb '%s'; see tercet --help", argv[1]);
}
