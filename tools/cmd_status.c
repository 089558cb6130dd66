/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet status: asks every member, and concludes from what they say (docs/OPERATIONS.md) what is wrong and
 * what to do about it. Works with any number of servers up, none included.
 *
 * A problem is an error (something waits or fails), a warning (one more failure would make it one), or info
 * (passes by itself, endangers nothing). Exit status: 0 healthy (at most info), 1 not.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/os_env.h"
#include "report.h"

#define SILENT_MS_MAX (UINT64_C(1) << 40) /* beyond: never heard of */

static bool has_flag(const json_t *store, const char *flag)
{
    const json_t *f;
    size_t i;

    json_array_foreach(json_object_get(store, "flags"), i, f)
    {
        if (json_is_string(f) && strcmp(json_string_value(f), flag) == 0)
            return true;
    }
    return false;
}

/* They take room that the store needs to be filled again. */
static void check_aside(struct report *r, const json_t *s, uint64_t node, const char *endpoint)
{
    uint64_t bytes = json_u64(json_object_get(s, "scrub"), "aside_bytes", 0);
    bool room = !has_flag(s, "full") && !has_flag(s, "nearly_full");
    char *cure = tc_asprintf("look at its disk; when nothing else is wrong: tercet clean node %" PRIu64, node);
    char text[16];

    report_problem(r, room ? SEVERITY_INFO : SEVERITY_WARNING, cure,
                   "storage node %" PRIu64 " (%s) was damaged, started empty, and keeps %s of its old files aside", node,
                   endpoint, format_bytes(bytes, text));
    free(cure);
}

static void check_store(struct report *r, const json_t *s)
{
    uint64_t node = json_u64(s, "node", 0), behind = json_u64(s, "behind", 0);
    const char *state = json_text(s, "state", "?"), *endpoint = json_text(s, "endpoint", "?");
    uint64_t silent = json_u64(s, "silent_ms", UINT64_MAX);
    char *cure, since[64];

    if (strcmp(state, "down") == 0 || strcmp(state, "suspect") == 0) {
        cure = tc_asprintf("start it: tercet-storage --config=%s --id=%" PRIu64
                           "; if its disk is lost, start it with an empty data directory",
                           report_config(r), node);
        if (silent < SILENT_MS_MAX)
            snprintf(since, sizeof since, "silent for %.1f s", (double)silent / 1000);
        else
            snprintf(since, sizeof since, "not heard of since the leader began to lead");
        report_problem(r, SEVERITY_WARNING, cure, "storage node %" PRIu64 " (%s) is %s: %s", node, endpoint, state, since);
        free(cure);
    }
    /* Of one that is down: what it last said, as it may well be why. */
    if (has_flag(s, "disk_error"))
        report_problem(r, SEVERITY_WARNING, "replace its disk: stop it, give it an empty data directory, start it",
                "storage node %" PRIu64 " (%s) reports disk errors", node, endpoint);
    if (has_flag(s, "full"))
        report_problem(r, SEVERITY_ERROR, "remove files, or give it a larger disk; writes fail with \"no space left\"",
                "the disk of storage node %" PRIu64 " (%s) is full", node, endpoint);
    else if (has_flag(s, "nearly_full"))
        report_problem(r, SEVERITY_WARNING, "remove files, or give it a larger disk",
                "the disk of storage node %" PRIu64 " (%s) is nearly full", node, endpoint);
    if (json_u64(json_object_get(s, "scrub"), "unrepaired", 0))
        report_problem(r, SEVERITY_ERROR, "bring all stores up; if they are, tercet verify FILE says which files are lost",
                "storage node %" PRIu64 " (%s) has %" PRIu64 " damaged chunks that cannot be repaired now", node, endpoint,
                json_u64(json_object_get(s, "scrub"), "unrepaired", 0));
    if (json_u64(json_object_get(s, "scrub"), "aside", 0))
        check_aside(r, s, node, endpoint);
    if (behind > 0)
        report_problem(r, SEVERITY_WARNING, "it catches up by itself: wait",
                "storage node %" PRIu64 " (%s) is behind: %" PRIu64 " chunks to bring up to date", node,
                endpoint, behind);
}

/* What an operator wants with a store, and how far it is. */
static void check_admin(struct report *r, const json_t *s)
{
    uint64_t node = json_u64(s, "node", 0), left = json_u64(s, "pgs", 0) + json_u64(s, "coming", 0);
    uint64_t stuck = json_u64(json_object_get(r->leader, "placement"), "stuck", 0);
    const char *admin = json_text(s, "admin", "in");
    char *cure = NULL;

    if (strcmp(admin, "maintenance") == 0) {
        cure = tc_asprintf("when it is over: tercet node maintenance %" PRIu64 " off", node);
        report_problem(r, SEVERITY_INFO, cure, "storage node %" PRIu64 " is in maintenance: it gets nothing new, and while it is away "
                       "its copies are not made elsewhere", node);
    } else if (strcmp(admin, "drain") == 0 && !left) {
        cure = tc_asprintf("tercet node remove %" PRIu64 ", or, to have it back, tercet node add %" PRIu64, node, node);
        report_problem(r, SEVERITY_INFO, cure, "storage node %" PRIu64 " is drained", node);
    } else if (strcmp(admin, "drain") == 0) {
        cure = tc_asprintf("%stercet node drain %" PRIu64 " shows how far it is, with --cancel it ends it",
                           stuck ? "add a node, or bring back one that is down, in maintenance or full; " : "", node);
        report_problem(r, stuck ? SEVERITY_WARNING : SEVERITY_INFO, cure, "storage node %" PRIu64 " is being drained: %" PRIu64
                       " placement groups to go%s", node, left, stuck ? "; some can go nowhere now" : "");
    }
    free(cure);
}

static void check_stores(struct report *r)
{
    json_t *same = same_address(json_object_get(r->leader, "stores"));
    const json_t *stores = json_object_get(r->leader, "stores"), *pgs = json_object_get(r->leader, "pgs"), *s;
    uint64_t n = json_u64(r->leader, "n", 0), unclean = json_u64(r->leader, "unclean", 0);
    size_t i, present = 0;

    json_array_foreach(stores, i, s)
    {
        present += strcmp(json_text(s, "state", ""), "replaced") != 0;
        check_store(r, s);
        if (strcmp(json_text(s, "state", ""), "replaced") != 0)
            check_admin(r, s);
    }
    json_array_foreach(same, i, s)
    {
        report_problem(r, SEVERITY_WARNING, json_text(s, "cure", ""), "%s", json_text(s, "what", ""));
    }
    json_decref(same);
    if (json_u64(pgs, "total", 0) == 0)
        report_problem(r, SEVERITY_ERROR, "start the storage nodes; until then files can be made but not filled",
                "%zu of %" PRIu64 " stores have registered: no place for data yet", present, n);
    if (json_u64(pgs, "unavailable", 0) > 0)
        report_problem(r, SEVERITY_ERROR, "bring storage nodes back: reads and writes of this data wait until then",
                "%" PRIu64 " of %" PRIu64 " placement groups have no quorum", json_u64(pgs, "unavailable", 0),
                json_u64(pgs, "total", 0));
    if (json_u64(pgs, "degraded", 0) > 0)
        report_problem(r, SEVERITY_WARNING, "bring the missing stores back before another one fails",
                "%" PRIu64 " of %" PRIu64 " placement groups lack a copy", json_u64(pgs, "degraded", 0),
                json_u64(pgs, "total", 0));
    if (json_u64(pgs, "moving", 0) > 0)
        report_problem(r, SEVERITY_WARNING, "copies are being made: wait", "%" PRIu64 " placement groups move to other stores",
                json_u64(pgs, "moving", 0));
    if (unclean > 0)
        report_problem(r, SEVERITY_INFO, "their copies are compared as soon as all their stores are up; they can be used meanwhile",
                "%" PRIu64 " files are unclean: a writer went away without a word", unclean);
}

static void check_sessions(struct report *r)
{
    const json_t *s;
    size_t i;

    json_array_foreach(json_object_get(r->leader, "silent_sessions"), i, s)
    {
        report_problem(r, SEVERITY_INFO, "if it is gone for good nothing has to be done: whoever needs its files gets them, and after "
                "5 minutes it is given up",
                "the mount %s has been silent for %" PRIu64 " s; it was writing %" PRIu64 " files", json_text(s, "client", "?"),
                json_u64(s, "silent_ms", 0) / 1000, json_u64(s, "writing", 0));
    }
}

/* ---- for humans --------------------------------------------------------------------------------- */

static void print_stores(const struct report *r)
{
    const json_t *s, *pgs = json_object_get(r->leader, "pgs");
    char used[16], capacity[16];
    size_t i;

    printf("\nstorage nodes\n");
    json_array_foreach(json_object_get(r->leader, "stores"), i, s)
    {
        const char *zone = json_text(s, "zone", "");

        const json_t *scrub = json_object_get(s, "scrub");

        printf("  %-4" PRIu64 " %-28s %-10s %s used, %s free, %" PRIu64 " chunks%s%s\n",
               json_u64(s, "node", 0), json_text(s, "endpoint", "?"), json_text(s, "state", "?"),
               format_bytes(json_u64(s, "used", 0), used), format_bytes(json_u64(s, "free", 0), capacity),
               json_u64(s, "chunks", 0), *zone ? ", zone " : "", zone);
        if (json_u64(scrub, "found", 0) || json_u64(scrub, "permille", 0))
            printf("       damaged blocks: %" PRIu64 " found, %" PRIu64 " repaired; %" PRIu64
                   " chunks not repairable now%s\n", json_u64(scrub, "found", 0), json_u64(scrub, "repaired", 0),
                   json_u64(scrub, "unrepaired", 0), json_u64(scrub, "permille", 0) ? "; scrub runs" : "");
    }
    printf("\nplacement groups  %" PRIu64 ": %" PRIu64 " healthy, %" PRIu64 " degraded, %" PRIu64
           " moving, %" PRIu64 " without quorum\n",
           json_u64(pgs, "total", 0), json_u64(pgs, "healthy", 0), json_u64(pgs, "degraded", 0),
           json_u64(pgs, "moving", 0), json_u64(pgs, "unavailable", 0));
    printf("files             %" PRIu64 " inodes, %s; %" PRIu64 " unclean\n", json_u64(r->leader, "inodes", 0),
           format_bytes(json_u64(r->leader, "bytes", 0), used), json_u64(r->leader, "unclean", 0));
    printf("sessions          %" PRIu64 "\n", json_u64(r->leader, "sessions", 0));
}

static void print_human(const struct report *r)
{
    size_t n = json_array_size(r->problems);

    if (r->leader)
        printf("cluster %s (%s)  n=%" PRIu64 " w=%" PRIu64 " r=%" PRIu64 "%s  ", json_text(r->leader, "name", "?"),
               json_text(r->leader, "cluster", "?"), json_u64(r->leader, "n", 0), json_u64(r->leader, "w", 0),
               json_u64(r->leader, "r", 0), json_u64(r->leader, "n", 0) == 1 ? " (no redundancy)" : "");
    printf("%s\n", !r->unhealthy ? "HEALTHY" : n == 1 ? "1 PROBLEM" : "PROBLEMS");
    report_print_problems(r);
    report_print_members(r);
    if (r->leader)
        print_stores(r);
}

static void print_json(const struct report *r)
{
    json_t *o = json_object(), *members = json_array();

    for (unsigned i = 0; i < r->s.n; i++) {
        json_t *m = json_pack("{s:I, s:s, s:b}", "id", (json_int_t)report_member_id(r, i), "endpoint",
                              r->m->endpoints[i], "answers", r->s.docs[i] != NULL);

        if (r->s.docs[i])
            json_object_set(m, "status", r->s.docs[i]);
        else
            json_object_set_new(m, "error", json_string(tc_strerror(r->s.answers[i].status)));
        json_array_append_new(members, m);
    }
    json_object_set_new(o, "healthy", json_boolean(!r->unhealthy));
    json_object_set(o, "problems", r->problems);
    json_object_set_new(o, "leader", r->leader ? json_integer((json_int_t)json_u64(r->leader, "id", 0)) : json_null());
    json_object_set_new(o, "members", members);
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

int cmd_status(int argc, char **argv)
{
    bool json = false;
    const char *servers = NULL;
    uint64_t timeout_ms = 2000;
    const struct cli_option options[] = {
        OPTION_JSON(&json),
        OPTION_SERVERS(&servers),
        {.name = "timeout-ms", .value = "N", .text = "wait so long for members (2000)", .number = &timeout_ms},
        {0},
    };
    struct cli cli = {
        .program = "tercet status",
        .synopsis = "[--config=FILE | --servers=LIST] [--json]",
        .summary = "Health of the cluster: members, stores, data, what is wrong and what to do about it.\n"
                   "Exit status 0: healthy; 1: not, or nobody answers.",
        .options = options,
        .config = true,
    };
    struct report r = {0};
    struct tool_members m;
    struct env *env = NULL;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args > 0)
        return cli_usage_error(&cli, "unexpected argument '%s'; see --help", cli.args[0]);
    if (!tool_members_open(&cli, servers, &m, &status))
        return status;
    if (os_env_new(&(struct os_env_options){.threads = 1}, &env) < 0) {
        tool_members_fini(&m);
        return cli_failed(&cli, "cannot start");
    }
    r.m = &m;
    r.problems = json_array();
    tool_status_ask(env, &m, timeout_ms, &r.s);
    r.leader = r.s.leader < 0 ? NULL : r.s.docs[r.s.leader];
    report_members(&r);
    if (r.leader) {
        check_stores(&r);
        check_sessions(&r);
    }
    if (json)
        print_json(&r);
    else
        print_human(&r);
    status = r.unhealthy ? 1 : 0;
    json_decref(r.problems);
    tool_status_fini(&r.s);
    os_env_free(env);
    tool_members_fini(&m);
    return status;
}
