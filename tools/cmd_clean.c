/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet clean [node N | member N]: damaged files that daemons put aside. Shown for all; removed where it is said.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "data.h"

#define DAEMONS_MAX 1024
#define POLL_US 250000
#define POLLS_MAX 2400 /* ten minutes */

struct clean {
    struct tool_data d;
    struct {
        const char *kind, *endpoint;
        uint64_t id, store;
    } who[DAEMONS_MAX];
    unsigned n;
    bool json;
};

static void add(struct clean *c, const char *kind, uint64_t id, uint64_t store, const char *endpoint)
{
    if (c->n < DAEMONS_MAX) {
        c->who[c->n].kind = kind;
        c->who[c->n].id = id;
        c->who[c->n].store = store;
        c->who[c->n++].endpoint = endpoint;
    }
}

static void add_all(struct clean *c)
{
    const json_t *s;
    size_t i;

    for (unsigned m = 0; m < c->d.members.n; m++) {
        if (!tool_member_silent(&c->d, c->d.members.ids[m]))
            add(c, "member", c->d.members.ids[m], 0, c->d.members.endpoints[m]);
    }
    json_array_foreach(json_object_get(c->d.status.docs[c->d.status.leader], "stores"), i, s)
    {
        if (strcmp(json_text(s, "state", ""), "up") == 0)
            add(c, "node", json_u64(s, "node", 0), tool_store_id(s), json_text(s, "endpoint", ""));
    }
}

/* NULL: it does not answer. */
static json_t *ask(struct clean *c, unsigned at, uint32_t action)
{
    struct scrub_req req = {.action = action};
    json_t *doc = NULL;
    int status;

    tool_scrub_ask(&c->d, &c->who[at].endpoint, &c->who[at].store, 1, &req, TOOL_TIMEOUT_MS, &doc, &status);
    return doc;
}

static int show(struct clean *c)
{
    json_t *list = json_array();
    bool none = true;
    int status = 0;

    for (unsigned i = 0; i < c->n; i++) {
        json_t *doc = ask(c, i, SCRUB_REPORT);
        uint64_t n = json_u64(doc, "aside", 0), bytes = json_u64(doc, "aside_bytes", 0);
        char text[16];

        status = doc ? status : 1;
        none = none && doc && n == 0;
        if (c->json)
            json_array_append_new(list, json_pack("{s:s, s:I, s:b, s:I, s:I}", "kind", c->who[i].kind, "id",
                                                  (json_int_t)c->who[i].id, "answers", doc != NULL, "aside", (json_int_t)n,
                                                  "bytes", (json_int_t)bytes));
        else if (!doc)
            printf("%-6s %-4" PRIu64 " does not answer\n", c->who[i].kind, c->who[i].id);
        else if (n)
            printf("%-6s %-4" PRIu64 " keeps %s of damaged files, in %" PRIu64 " directories: tercet clean %s %" PRIu64 "\n",
                   c->who[i].kind, c->who[i].id, format_bytes(bytes, text), n, c->who[i].kind, c->who[i].id);
        json_decref(doc);
    }
    if (c->json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (none) {
        printf("no damaged files are kept\n");
    }
    json_decref(list);
    return status;
}

/* It is removed in the background there; watch until nothing is left. */
static int clean(struct clean *c, unsigned at)
{
    json_t *doc = ask(c, at, SCRUB_CLEAN);
    int status = 1;

    for (unsigned i = 0; doc && i < POLLS_MAX && json_is_true(json_object_get(doc, "cleaning")); i++) {
        json_decref(doc);
        usleep(POLL_US);
        doc = ask(c, at, SCRUB_REPORT);
    }
    if (!doc)
        (void)cli_failed(c->d.cli, "%s %" PRIu64 " does not answer", c->who[at].kind, c->who[at].id);
    else if (json_u64(doc, "aside", 0))
        (void)cli_failed(c->d.cli, "%s %" PRIu64 " could not remove all of it: see its log", c->who[at].kind, c->who[at].id);
    else
        status = 0;
    json_decref(doc);
    return status;
}

int cmd_clean(int argc, char **argv)
{
    struct clean c = {0};
    const char *servers = NULL;
    const struct cli_option options[] = {
        OPTION_JSON(&c.json),
        OPTION_SERVERS(&servers),
        {0},
    };
    struct cli cli = {
        .program = "tercet clean",
        .synopsis = "[--config=FILE | --servers=LIST] [--json] [node N | member N]",
        .summary = "Damaged files that storage nodes and metadata members put aside and keep: shown, and removed from the one\n"
                   "that is named. Do that when the cluster is healthy: until then they may be the last copy of something.",
        .options = options,
        .config = true,
    };
    unsigned at = 0;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args != 0 && (cli.n_args != 2 || (strcmp(cli.args[0], "node") && strcmp(cli.args[0], "member"))))
        return cli_usage_error(&cli, "node N, or member N, or nothing; see --help");
    if (tool_data_open(&cli, servers, &c.d, &status)) {
        add_all(&c);
        while (cli.n_args && at < c.n && (strcmp(c.who[at].kind, cli.args[0]) || c.who[at].id != strtoull(cli.args[1], NULL, 10)))
            at++;
        if (!cli.n_args)
            status = show(&c);
        else
            status = at < c.n ? clean(&c, at) : cli_failed(&cli, "%s %s does not run", cli.args[0], cli.args[1]);
    }
    tool_data_close(&c.d);
    return status;
}
