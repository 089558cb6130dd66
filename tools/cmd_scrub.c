/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet scrub [PATH | node N]: everything on all stores, on one, or what lies below a path is read from the disks and
 * checked. The stores repair by themselves what they find; the command waits and shows how far they are. With everything,
 * the members of the metadata group read their own files, too.
 */
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "data.h"

#define AT_ONCE 16       /* chunks of one request */
#define REPAIR_TRIES 60  /* quarters of a second that a repair is waited for */
#define SILENT_MAX 4     /* times that a store which does not answer is asked again */
#define CHUNKS_TIMEOUT_MS 60000

struct scrub {
    struct tool_data d;
    const char *endpoints[1024];
    uint64_t nodes[1024], stores[1024]; /* numbers, and ids of stores */
    unsigned n, n_stores; /* members of the metadata group are behind the stores */
    bool json, wait, stop;
    uint64_t rate;
    /* of a path */
    uint64_t files, chunks, blocks, found, left, failed;
};

static struct scrub *walking; /* nftw() hands nothing on */

static void stores_add(struct scrub *c, uint64_t only)
{
    const json_t *s;
    size_t i;

    json_array_foreach(json_object_get(c->d.status.docs[c->d.status.leader], "stores"), i, s)
    {
        uint64_t node = json_u64(s, "node", 0);
        const char *state = json_text(s, "state", "");

        if ((only && node != only) || !strcmp(state, "replaced") || c->n == ARRAY_SIZE(c->endpoints))
            continue;
        c->nodes[c->n] = node;
        c->stores[c->n] = tool_store_id(s);
        c->endpoints[c->n++] = json_text(s, "endpoint", "");
    }
    c->n_stores = c->n;
}

static void members_add(struct scrub *c)
{
    for (unsigned i = 0; i < c->d.members.n && c->n < ARRAY_SIZE(c->endpoints); i++) {
        if (tool_member_silent(&c->d, c->d.members.ids[i]))
            continue; /* status names it */
        c->nodes[c->n] = c->d.members.ids[i];
        c->endpoints[c->n++] = c->d.members.endpoints[i];
    }
}

/* ---- stores ---- */

static void show_progress(const struct scrub *c, json_t **docs, bool last)
{
    uint64_t permille = 0, found = 0, repaired = 0, unrepaired = 0;

    for (unsigned i = 0; i < c->n_stores; i++) {
        permille += docs[i] && json_is_true(json_object_get(docs[i], "running")) ? json_u64(docs[i], "permille", 0) : 1000;
        found += json_u64(docs[i], "found", 0);
        repaired += json_u64(docs[i], "repaired", 0);
        unrepaired += json_u64(docs[i], "unrepaired", 0);
    }
    if (!isatty(STDOUT_FILENO) || c->json)
        return;
    printf("\r[");
    for (uint64_t i = 0; i < 40; i++)
        putchar(i * 1000 < permille / MAX(c->n_stores, 1u) * 40 ? '#' : '.');
    printf("] damaged blocks: %" PRIu64 " found, %" PRIu64 " repaired, %" PRIu64 " chunks not repairable now  %s", found,
           repaired, unrepaired, last ? "\n" : "");
    fflush(stdout);
}

static bool any_running(const struct scrub *c, json_t **docs)
{
    bool any = false;

    for (unsigned i = 0; i < c->n; i++)
        any = any || json_is_true(json_object_get(docs[i], "running")) ||
              (docs[i] && json_u64(docs[i], "damaged", 0) > json_u64(docs[i], "unrepaired", 0));
    return any;
}

static bool any_silent(const struct scrub *c, const int *statuses)
{
    bool any = false;

    for (unsigned i = 0; i < c->n_stores; i++)
        any = any || statuses[i] < 0;
    return any;
}

static void print_member(const struct scrub *c, unsigned i, const json_t *doc, int status)
{
    char when[32];

    if (!doc)
        printf("member %-5" PRIu64 " does not answer: %s\n", c->nodes[i], tc_strerror(status));
    else
        printf("member %-5" PRIu64 " %s: %" PRIu64 " damaged files found since its start%s; last read %s\n", c->nodes[i],
               json_is_true(json_object_get(doc, "running")) ? "reads its files" : "idle", json_u64(doc, "found", 0),
               json_u64(doc, "unrepaired", 0) ? ", its store is NOT repaired" : "",
               format_time(json_u64(doc, "ended", 0), when));
}

static int print_all(const struct scrub *c, json_t **docs, const int *statuses)
{
    json_t *list = json_array(), *members = json_array();
    char when[32], bytes[16];
    int status = 0;

    for (unsigned i = c->n_stores; i < c->n; i++) {
        if (json_u64(docs[i], "unrepaired", 0))
            status = 1;
        if (c->json)
            json_array_append_new(members, docs[i] ? json_incref(docs[i])
                                                   : json_pack("{s:I, s:s}", "member", (json_int_t)c->nodes[i], "error",
                                                               tc_error_name(statuses[i])));
        else
            print_member(c, i, docs[i], statuses[i]);
    }
    for (unsigned i = 0; i < c->n_stores; i++) {
        if (statuses[i] < 0 || json_u64(docs[i], "unrepaired", 0))
            status = 1;
        if (c->json)
            json_array_append_new(list, docs[i] ? json_incref(docs[i])
                                                : json_pack("{s:I, s:s}", "node", (json_int_t)c->nodes[i], "error",
                                                            tc_error_name(statuses[i])));
        else if (!docs[i])
            printf("storage %-4" PRIu64 " does not answer: %s\n", c->nodes[i], tc_strerror(statuses[i]));
        else
            printf("storage %-4" PRIu64 " %s: %" PRIu64 " chunks, %s read; ever %" PRIu64 " damaged blocks found, %" PRIu64
                   " repaired; now %" PRIu64 " chunks not repairable; last complete scrub %s\n",
                   c->nodes[i], json_is_true(json_object_get(docs[i], "running")) ? "scrubs" : "idle",
                   json_u64(docs[i], "chunks", 0), format_bytes(json_u64(docs[i], "bytes", 0), bytes),
                   json_u64(docs[i], "found", 0), json_u64(docs[i], "repaired", 0), json_u64(docs[i], "unrepaired", 0),
                   format_time(json_u64(docs[i], "ended", 0), when));
    }
    if (c->json) {
        json_t *o = json_pack("{s:O, s:O}", "stores", list, "members", members);

        json_dumpf(o, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(o);
    }
    json_decref(list);
    json_decref(members);
    return status;
}

static void docs_free(const struct scrub *c, json_t **docs)
{
    for (unsigned i = 0; i < c->n; i++)
        json_decref(docs[i]);
}

static int scrub_stores(struct scrub *c)
{
    json_t **docs = tc_calloc(c->n + 1, sizeof(json_t *));
    int *statuses = tc_calloc(c->n + 1, sizeof *statuses), status;
    unsigned silent = 0;
    struct scrub_req req = {.action = c->stop ? SCRUB_STOP : SCRUB_START, .rate = c->rate};

    tool_scrub_ask(&c->d, c->endpoints, c->stores, c->n, &req, TOOL_TIMEOUT_MS, docs, statuses);
    req = (struct scrub_req){.action = SCRUB_REPORT};
    while (c->wait && !c->stop && (any_running(c, docs) || (any_silent(c, statuses) && silent++ < SILENT_MAX))) {
        show_progress(c, docs, false);
        docs_free(c, docs);
        usleep(250000);
        tool_scrub_ask(&c->d, c->endpoints, c->stores, c->n, &req, TOOL_TIMEOUT_MS, docs, statuses);
    }
    show_progress(c, docs, true);
    status = print_all(c, docs, statuses);
    docs_free(c, docs);
    free(docs);
    free(statuses);
    return status;
}

/* ---- what lies below a path ---- */

/* Ask all stores for some chunks; returns how many blocks are unknown anywhere, and fills in what was read. */
static uint64_t scrub_chunks(struct scrub *c, uint64_t ino, uint64_t *indexes, uint32_t n, bool first)
{
    struct scrub_req req = {.action = SCRUB_CHUNKS, .ino = ino, .indexes = {indexes, n}};
    json_t *docs[ARRAY_SIZE(c->endpoints)];
    int statuses[ARRAY_SIZE(c->endpoints)];
    uint64_t unknown = 0;

    tool_scrub_ask(&c->d, c->endpoints, c->stores, c->n, &req, CHUNKS_TIMEOUT_MS, docs, statuses);
    for (unsigned i = 0; i < c->n; i++) {
        unknown += json_u64(docs[i], "unknown", 0);
        if (first) {
            c->blocks += json_u64(docs[i], "read_blocks", 0);
            c->found += json_u64(docs[i], "read_damaged", 0);
            c->failed += statuses[i] < 0;
        }
    }
    docs_free(c, docs);
    return unknown;
}

static int scrub_file(struct scrub *c, const char *path)
{
    uint64_t indexes[AT_ONCE], unknown;
    struct tool_file f;
    int status;

    if (access(path, F_OK) < 0 && errno == ENOENT)
        return 0; /* removed meanwhile */
    if (!tool_file_open(c->d.cli, path, &f, &status))
        return access(path, F_OK) < 0 && errno == ENOENT ? 0 : status;
    c->files++;
    for (uint32_t at = 0; (at = tool_chunk_from(&c->d, &f, at)) < f.chunks; at = MIN(at, UINT32_MAX - AT_ONCE) + AT_ONCE) {
        uint32_t n = MIN(f.chunks - at, (uint32_t)AT_ONCE);

        for (uint32_t i = 0; i < n; i++)
            indexes[i] = at + i;
        unknown = scrub_chunks(c, f.ino, indexes, n, true);
        for (int i = 0; i < REPAIR_TRIES && unknown && c->wait; i++) {
            usleep(250000);
            unknown = scrub_chunks(c, f.ino, indexes, n, false);
        }
        if (unknown && !c->json)
            printf("%s: chunks %" PRIu32 " to %" PRIu32 ": %" PRIu64 " damaged blocks are not repaired\n", path, at,
                   at + n - 1, unknown);
        c->left += unknown;
        c->chunks += n;
    }
    return 0;
}

static int visit(const char *path, const struct stat *st, int flag, struct FTW *ftw TC_UNUSED)
{
    return flag == FTW_F && S_ISREG(st->st_mode) ? scrub_file(walking, path) : 0;
}

static int scrub_path(struct scrub *c, const char *path)
{
    int status;

    if (!tool_on_mount(path))
        return cli_failed(c->d.cli, "%s: not on a Tercet mount", path);
    walking = c;
    status = nftw(path, visit, 16, FTW_PHYS | FTW_MOUNT);
    if (status < 0)
        return cli_failed(c->d.cli, "%s: %s", path, strerror(errno));
    if (status > 0)
        return status;
    if (c->json)
        printf("{\"files\": %" PRIu64 ", \"chunks\": %" PRIu64 ", \"blocks_read\": %" PRIu64 ", \"found\": %" PRIu64
               ", \"repaired\": %" PRIu64 ", \"left\": %" PRIu64 ", \"unanswered\": %" PRIu64 "}\n",
               c->files, c->chunks, c->blocks, c->found, c->found - MIN(c->left, c->found), c->left, c->failed);
    else
        printf("%" PRIu64 " files, %" PRIu64 " chunks, %" PRIu64 " blocks read on %u stores: %" PRIu64
               " damaged, %" PRIu64 " repaired, %" PRIu64 " left%s\n",
               c->files, c->chunks, c->blocks, c->n, c->found, c->found - MIN(c->left, c->found), c->left,
               c->failed ? "; some stores did not answer" : "");
    return c->left || c->failed ? 1 : 0;
}

int cmd_scrub(int argc, char **argv)
{
    struct scrub c = {0};
    bool no_wait = false;
    const char *servers = NULL;
    uint64_t rate = 0;
    const struct cli_option options[] = {
        OPTION_JSON(&c.json),
        {.name = "no-wait", .text = "begin, and do not wait for the end", .flag = &no_wait},
        {.name = "stop", .text = "end the scrub of the stores", .flag = &c.stop},
        {.name = "rate", .value = "N", .text = "MiB a second and store, for this time (as configured)", .number = &rate},
        OPTION_SERVERS(&servers),
        {0},
    };
    struct cli cli = {
        .program = "tercet scrub",
        .synopsis = "[--config=FILE | --servers=LIST] [OPTION...] [PATH | node N]",
        .summary = "Reads data from the disks, all of it (and the files of metadata members), one storage node's, or that of a\n"
                   "file or directory, and checks it.\n"
                   "Stores repair from the other copies what they find damaged. Exit status 1: something is not repaired, or\n"
                   "a store does not answer.",
        .options = options,
        .config = true,
    };
    uint64_t node = 0;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args == 2 && !strcmp(cli.args[0], "node"))
        node = cli.args[1][strspn(cli.args[1], "0123456789")] ? 0 : strtoull(cli.args[1], NULL, 10);
    else if (cli.n_args > 1)
        return cli_usage_error(&cli, "a PATH, or node N, or nothing; see --help");
    if (cli.n_args == 2 && !node)
        return cli_usage_error(&cli, "node %s: not a number", cli.args[1]);
    c.wait = !no_wait;
    c.rate = rate << 20;
    if (tool_data_open(&cli, servers, &c.d, &status)) {
        stores_add(&c, node);
        if (!cli.n_args)
            members_add(&c);
        if (!c.n_stores)
            status = cli_failed(&cli, "there is no such storage node");
        else
            status = cli.n_args == 1 ? scrub_path(&c, cli.args[0]) : scrub_stores(&c);
    }
    tool_data_close(&c.d);
    return status;
}
