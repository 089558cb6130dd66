/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet node: storage nodes as operators see them. list shows them; add, drain, remove and maintenance are a word to
 * the metadata leader (one log entry), which does the rest by itself: this command only watches, and may be stopped.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/os_env.h"
#include "report.h"

#define POLL_MS 250
#define BAR_WIDTH 30
#define STUCK_POLLS 12
#define WATCH_TIMEOUT_MS 2000 /* of one look of many: a leader may have died, and a new one is found at the next */
#define SILENT_MS_MAX (UINT64_C(1) << 40) /* beyond: never heard of */

struct node_cmd {
    struct cli *cli;
    struct env *env;
    struct tool_members m;
    bool json, cancel, no_wait;
    uint32_t node;
    uint64_t first; /* groups it held when the watch began */
    bool watching, begun, drawn;
    uint64_t stuck; /* groups that can go nowhere */
    unsigned stuck_for; /* looks */
    int status;     /* of the watch's end */
};

/* ---- what the leader says ---------------------------------------------------------------------- */

/* Its status; false: nobody leads now. The caller ends @s either way. */
static bool ask(struct node_cmd *c, struct tool_status *s)
{
    tool_leader_ask(c->env, &c->m, c->watching ? WATCH_TIMEOUT_MS : TOOL_TIMEOUT_MS, s);
    return s->leader >= 0;
}

static const json_t *find_store(const json_t *leader, uint32_t node)
{
    const json_t *s;
    size_t i;

    json_array_foreach(json_object_get(leader, "stores"), i, s)
    {
        if (json_u64(s, "node", 0) == node && strcmp(json_text(s, "state", ""), "replaced") != 0)
            return s;
    }
    return NULL;
}

/* One word for people: what the operator wants where it says more than what the network shows. */
static const char *state_of(const json_t *s)
{
    const char *state = json_text(s, "state", "?"), *admin = json_text(s, "admin", "in");

    if (strcmp(state, "up") != 0)
        return state;
    if (strcmp(admin, "drain") == 0)
        return json_u64(s, "pgs", 0) + json_u64(s, "coming", 0) ? "draining" : "drained";
    return strcmp(admin, "in") == 0 ? state : admin;
}

/* ---- list ---------------------------------------------------------------------------------------- */

static void list_human(const json_t *leader)
{
    const json_t *s;
    json_t *same;
    size_t i;

    printf("%-5s %-26s %-12s %-10s %10s %10s %6s %7s  %s\n", "NODE", "ENDPOINT", "STATE", "ZONE", "CAPACITY", "USED",
           "PGS", "MOVING", "HEARD");
    json_array_foreach(json_object_get(leader, "stores"), i, s)
    {
        uint64_t silent = json_u64(s, "silent_ms", UINT64_MAX);
        const char *zone = json_text(s, "zone", "");
        char capacity[16], used[16], moving[32], heard[32] = "never";

        snprintf(moving, sizeof moving, "+%" PRIu64 "-%" PRIu64, json_u64(s, "coming", 0), json_u64(s, "leaving", 0));
        if (silent < SILENT_MS_MAX)
            snprintf(heard, sizeof heard, "%.1f s ago", (double)silent / 1000);
        printf("%-5" PRIu64 " %-26s %-12s %-10s %10s %10s %6" PRIu64 " %7s  %s\n", json_u64(s, "node", 0),
               json_text(s, "endpoint", "?"), state_of(s), *zone ? zone : "-",
               format_bytes(json_u64(s, "capacity", 0), capacity), format_bytes(json_u64(s, "used", 0), used),
               json_u64(s, "pgs", 0), moving, heard);
    }
    same = same_address(json_object_get(leader, "stores"));
    json_array_foreach(same, i, s)
    {
        printf("%s\n  -> %s\n", json_text(s, "what", ""), json_text(s, "cure", ""));
    }
    json_decref(same);
}

static void list_json(const json_t *leader)
{
    json_t *o = json_object();

    json_object_set_new(o, "same_address", same_address(json_object_get(leader, "stores")));
    json_object_set(o, "nodes", json_object_get(leader, "stores"));
    json_object_set(o, "placement", json_object_get(leader, "placement"));
    json_object_set(o, "pgs", json_object_get(leader, "pgs"));
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

static int node_list(struct node_cmd *c)
{
    struct tool_status s;
    int status = 0;

    if (!ask(c, &s))
        status = cli_failed(c->cli, "no metadata member leads; see tercet status");
    else if (c->json)
        list_json(s.docs[s.leader]);
    else
        list_human(s.docs[s.leader]);
    tool_status_fini(&s);
    return status;
}

/* ---- a word to the leader -------------------------------------------------------------------------- */

static int refused(struct node_cmd *c, int err)
{
    switch (-err) {
    case TC_E_NOENT:
        return cli_failed(c->cli, "no storage node %u has registered; tercet node list shows them", c->node);
    case TC_E_QUORUM_LOST:
        return cli_failed(c->cli, "refused: without node %u too few would be left for all copies; add a node first (one that is "
                                  "down, drained, in maintenance, failing or nearly full does not count)", c->node);
    case TC_E_BUSY:
        return cli_failed(c->cli, "refused: node %u still holds placement groups; drain it first "
                                  "(one that is dead is emptied by itself if there is a spare)", c->node);
    default:
        return cli_failed(c->cli, "the metadata leader: %s", tc_strerror(err));
    }
}

/* Said to all members; the one that leads does it. Saying it twice does no harm. */
static int say(struct node_cmd *c, uint32_t admin)
{
    struct node_admin_req body = {.node = c->node, .admin = admin};
    struct rpc_request req = {.type = MSG_NODE_ADMIN, .body = &body, .timeout_ms = 1500};
    struct rpc_answer *answers = tc_calloc(c->m.n, sizeof *answers);
    int err = -TC_E_NO_QUORUM;

    for (unsigned try = 0; try < 6 && (err == -TC_E_NO_QUORUM || err == -TC_E_AGAIN); try++) {
        err = -TC_E_NO_QUORUM;
        if (try)
            usleep(POLL_MS * 1000);
        rpc_ask(c->env, (const char *const *)c->m.endpoints, c->m.n, &req, answers);
        for (unsigned i = 0; i < c->m.n; i++) {
            int a = answers[i].status;

            if (a != -TC_E_NOT_LEADER && a != -TC_E_UNREACHABLE && a != -TC_E_DEADLINE && a != -TC_E_NO_GENESIS)
                err = a;
        }
        rpc_answers_fini(answers, c->m.n);
    }
    free(answers);
    return err < 0 ? refused(c, err) : 0;
}

/* ---- watching ---------------------------------------------------------------------------------------- */

static void show(struct node_cmd *c, uint64_t done, uint64_t all, uint64_t moving, bool end)
{
    unsigned full = all ? (unsigned)(done * BAR_WIDTH / all) : BAR_WIDTH;

    if (c->json) {
        printf("{\"node\": %u, \"done\": %" PRIu64 ", \"of\": %" PRIu64 ", \"moving\": %" PRIu64 ", \"stuck\": %" PRIu64
               ", \"end\": %s}\n", c->node, done, all, moving, c->stuck, end ? "true" : "false");
        fflush(stdout);
        return;
    }
    if (!isatty(STDOUT_FILENO) && !end)
        return;
    printf("%s[%.*s%*s] %3u %%  %" PRIu64 " of %" PRIu64 " placement groups, %" PRIu64 " moving   ", c->drawn ? "\r" : "",
           (int)full, "##############################", (int)(BAR_WIDTH - full), "",
           all ? (unsigned)(done * 100 / all) : 100, done, all, moving);
    c->drawn = true;
    if (end)
        putchar('\n');
    fflush(stdout);
}

/* What should move and cannot is said once it has been so for a while. */
static void watch_stuck(struct node_cmd *c, const json_t *leader, const json_t *s)
{
    const json_t *p = json_object_get(leader, "placement");

    c->stuck = json_u64(p, "stuck", 0);
    if (!c->stuck || json_u64(p, "waiting", 0) || json_u64(s, "leaving", 0)) {
        c->stuck_for = 0;
        return;
    }
    if (++c->stuck_for == STUCK_POLLS)
        fprintf(stderr, "%stercet node: %" PRIu64 " placement groups have nowhere to go now: all other nodes are down, in maintenance, "
                "failing or nearly full, or hold them already. It goes on when one of them can; see tercet status\n",
                c->drawn ? "\n" : "", c->stuck);
}

/* How far it is; true: at the end. */
static bool watch_drain(struct node_cmd *c, const json_t *leader)
{
    const json_t *s = find_store(leader, c->node);
    uint64_t left = json_u64(s, "pgs", 0) + json_u64(s, "coming", 0);

    if (strcmp(json_text(s, "admin", "drain"), "drain") != 0) {
        if (c->drawn)
            putchar('\n');
        c->status = cli_failed(c->cli, "the drain of node %u was called off meanwhile", c->node);
        return true;
    }
    watch_stuck(c, leader, s);
    if (!c->begun)
        c->first = left;
    c->begun = true;
    show(c, c->first > left ? c->first - left : 0, c->first, json_u64(s, "leaving", 0), left == 0);
    return left == 0;
}

static bool watch_add(struct node_cmd *c, const json_t *leader)
{
    const json_t *s = find_store(leader, c->node);
    uint64_t have = json_u64(s, "pgs", 0), share = json_u64(s, "share", 0);
    bool idle = json_is_true(json_object_get(json_object_get(leader, "placement"), "idle"));

    show(c, idle ? MAX(have, share) : MIN(have, share), MAX(share, idle ? have : 0), json_u64(s, "coming", 0), idle);
    return idle;
}

static int watch(struct node_cmd *c, bool (*end)(struct node_cmd *, const json_t *))
{
    c->watching = true;
    for (unsigned lost = 0; lost < 20;) {
        struct tool_status s;
        bool ended = false;

        usleep(POLL_MS * 1000);
        if (ask(c, &s)) {
            lost = 0;
            if (!find_store(s.docs[s.leader], c->node)) {
                tool_status_fini(&s);
                return cli_failed(c->cli, "node %u was removed or replaced meanwhile", c->node);
            }
            ended = end(c, s.docs[s.leader]);
        } else {
            lost++;
        }
        tool_status_fini(&s);
        if (ended)
            return c->status;
    }
    return cli_failed(c->cli, "no metadata member leads any more; what was begun goes on when one does");
}

/* What the operator said last of the node: "in", "drain", "maintenance"; "" if that cannot be known. */
static void admin_now(struct node_cmd *c, char out[16])
{
    struct tool_status s;
    const json_t *node = ask(c, &s) ? find_store(s.docs[s.leader], c->node) : NULL;

    snprintf(out, 16, "%s", json_text(node, "admin", ""));
    tool_status_fini(&s);
}

static int node_drain(struct node_cmd *c)
{
    char now[16];
    int status;

    if (c->cancel) {
        admin_now(c, now);
        if (*now && strcmp(now, "drain") != 0) {
            printf("node %u is not being drained\n", c->node);
            return 0;
        }
        return say(c, STORE_IN);
    }
    status = say(c, STORE_DRAIN);
    return status || c->no_wait ? status : watch(c, watch_drain);
}

static int node_maintenance(struct node_cmd *c, bool on)
{
    char now[16];

    admin_now(c, now);
    if (strcmp(now, "drain") == 0)
        return cli_failed(c->cli, "node %u is being drained; tercet node drain %u --cancel ends that", c->node, c->node);
    if (!on && strcmp(now, "in") == 0) {
        printf("node %u is not in maintenance\n", c->node);
        return 0;
    }
    return say(c, on ? STORE_MAINTENANCE : STORE_IN);
}

static int node_add(struct node_cmd *c)
{
    int status = say(c, STORE_IN);

    return status || c->no_wait ? status : watch(c, watch_add);
}

/* ---- the command line ---------------------------------------------------------------------------------- */

static int run(struct node_cmd *c, const char *verb, const char *word)
{
    if (strcmp(verb, "list") == 0)
        return node_list(c);
    if (strcmp(verb, "add") == 0)
        return node_add(c);
    if (strcmp(verb, "drain") == 0)
        return node_drain(c);
    if (strcmp(verb, "remove") == 0)
        return say(c, STORE_REMOVE);
    return node_maintenance(c, strcmp(word, "on") == 0);
}

/* The words after the options make sense. */
static bool words_check(struct node_cmd *c, int *ret_status)
{
    static const char *const verbs[] = {"list", "add", "drain", "remove", "maintenance"};
    struct cli *cli = c->cli;
    bool known = false, list, maintenance;
    char *end;
    unsigned long n;

    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        known = known || (cli->n_args > 0 && strcmp(cli->args[0], verbs[i]) == 0);
    if (!known) {
        *ret_status = cli_usage_error(cli, "one of list, add, drain, remove, maintenance is needed; see --help");
        return false;
    }
    list = strcmp(cli->args[0], "list") == 0;
    maintenance = strcmp(cli->args[0], "maintenance") == 0;
    if (cli->n_args != (list ? 1 : maintenance ? 3 : 2)) {
        *ret_status = cli_usage_error(cli, "tercet node %s%s", cli->args[0],
                                      list ? " takes no node" : maintenance ? " takes NODE on|off" : " takes one NODE");
        return false;
    }
    if (list)
        return true;
    n = strtoul(cli->args[1], &end, 10);
    if (*end || !n || n > UINT32_MAX) {
        *ret_status = cli_usage_error(cli, "'%s' is no node: the N of its section [storage.N]", cli->args[1]);
        return false;
    }
    c->node = (uint32_t)n;
    if (maintenance && strcmp(cli->args[2], "on") != 0 && strcmp(cli->args[2], "off") != 0) {
        *ret_status = cli_usage_error(cli, "maintenance is on or off, not '%s'", cli->args[2]);
        return false;
    }
    if (c->cancel && strcmp(cli->args[0], "drain") != 0) {
        *ret_status = cli_usage_error(cli, "--cancel belongs to drain");
        return false;
    }
    return true;
}

int cmd_node(int argc, char **argv)
{
    struct node_cmd c = {0};
    const char *servers = NULL;
    const struct cli_option options[] = {
        {.name = "json", .text = "answer as JSON; progress as one object a line", .flag = &c.json},
        {.name = "cancel", .text = "drain: the node takes part again", .flag = &c.cancel},
        {.name = "no-wait", .text = "do not watch; it goes on by itself", .flag = &c.no_wait},
        OPTION_SERVERS(&servers),
        {0},
    };
    struct cli cli = {
        .program = "tercet node",
        .synopsis = "list | add NODE | drain NODE [--cancel] | remove NODE | maintenance NODE on|off",
        .summary = "Storage nodes, by the N of their sections [storage.N].\n"
                   "  list         state, zone, space, placement groups, and when each was heard\n"
                   "  add          let a node that was started take part, and watch it being filled\n"
                   "  drain        move everything off it, and watch; files can be used meanwhile\n"
                   "  remove       forget one that is drained, or dead and emptied\n"
                   "  maintenance  on: it may be away, nothing is copied elsewhere for it; off: the end of that\n"
                   "A new node takes part as soon as it is started. Stopping this command stops nothing else.",
        .options = options,
        .config = true,
    };
    int status = 0;

    c.cli = &cli;
    if (!cli_parse(&cli, argc, argv, &status) || !words_check(&c, &status))
        return status;
    if (!tool_members_open(&cli, servers, &c.m, &status))
        return status;
    if (os_env_new(&(struct os_env_options){.threads = 1}, &c.env) < 0)
        status = cli_failed(&cli, "cannot start");
    else
        status = run(&c, cli.args[0], cli.n_args > 2 ? cli.args[2] : "");
    os_env_free(c.env);
    tool_members_fini(&c.m);
    return status;
}
