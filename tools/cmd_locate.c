/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet locate FILE: for each chunk of a file on a mount its placement group, and what each replica has of
 * it: blocks and newest version. The inode number of a mounted file is Tercet's own, so stat(2) is enough
 * to find the chunks; the map comes from the leader, versions from the stores.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "data.h"

#define CHUNKS_MAX 65536

struct locate {
    struct tool_data d;
    struct tool_file f;
    json_t *chunks;
    unsigned bad; /* chunks whose replicas differ or do not answer */
};

/* What a replica has of a chunk, as JSON. */
static json_t *describe_replica(struct locate *l, uint32_t pg, uint32_t index, const struct map_store *store)
{
    const struct map_pg *p = &l->d.map->pgs[pg];
    struct read_item item = {.pg = pg, .pg_epoch = p->epoch, .ino = l->f.ino, .index = index,
                             .count = TOOL_CHUNK_BLOCKS};
    struct read_req body = {.barrier = l->d.map->epoch, .items = {&item, 1}};
    struct rpc_request req = {MSG_READ, l->d.tag, &body, TOOL_TIMEOUT_MS, &store->store, NULL};
    struct wire_arena arena = {0};
    struct read_res res = {0};
    struct rpc_answer a;
    const char *endpoint = store->endpoint;
    uint64_t blocks = 0, unknown = 0, epoch = 0, seq = 0;
    json_t *o;
    int r;

    tool_stores_ask(&l->d, &endpoint, 1, &req, &a);
    r = a.status;
    if (r == 0)
        r = wire_decode(a.body, &read_res_schema, &arena, &res);
    if (r == 0)
        r = res.items.n == 1 ? tc_error_from_wire(res.items.items[0].status) : -TC_E_BAD_MESSAGE;
    for (uint32_t i = 0; r == 0 && i < res.items.items[0].runs.n; i++) {
        const struct version_run *run = &res.items.items[0].runs.items[i];

        blocks += run->kind == RUN_DATA ? run->count : 0;
        unknown += run->kind == RUN_UNKNOWN ? run->count : 0;
        if (run->vepoch > epoch || (run->vepoch == epoch && run->vseq > seq)) {
            epoch = run->vepoch;
            seq = run->vseq;
        }
    }
    o = json_pack("{s:I, s:s, s:s}", "node", (json_int_t)store->node, "endpoint", store->endpoint, "state",
                  r == 0 ? "ok" : tc_error_name(r));
    if (r == 0)
        json_object_update_new(o, json_pack("{s:I, s:I, s:[I,I]}", "blocks", (json_int_t)blocks, "damaged",
                                            (json_int_t)unknown, "version", (json_int_t)epoch, (json_int_t)seq));
    wire_arena_fini(&arena);
    rpc_answers_fini(&a, 1);
    return o;
}

static void describe_chunk(struct locate *l, uint32_t index)
{
    uint32_t pg = map_pg_of(l->d.map, l->f.ino, index);
    const struct map_pg *p = &l->d.map->pgs[pg];
    json_t *replicas = json_array(), *first = NULL;
    bool alike = true;

    for (unsigned i = 0; i < p->n; i++) {
        const struct map_store *store = map_store(l->d.map, p->voters[i]);
        json_t *o = store ? describe_replica(l, pg, index, store) : json_pack("{s:s}", "state", "unknown store");

        json_array_append_new(replicas, o);
        first = first ? first : o;
        alike = alike && strcmp(json_text(o, "state", ""), "ok") == 0 && json_u64(o, "damaged", 0) == 0 &&
                json_equal(json_object_get(o, "version"), json_object_get(first, "version")) &&
                json_equal(json_object_get(o, "blocks"), json_object_get(first, "blocks"));
    }
    l->bad += !alike;
    json_array_append_new(l->chunks, json_pack("{s:I, s:I, s:I, s:b, s:o}", "index", (json_int_t)index, "pg",
                                               (json_int_t)pg, "pg_epoch", (json_int_t)p->epoch, "alike", alike,
                                               "replicas", replicas));
}

static void print_human(const struct locate *l, const char *path)
{
    const json_t *c, *r;
    size_t i, j;

    printf("%s: inode %" PRIu64 ", %" PRIu64 " bytes, %zu chunks, %u with replicas that differ or do not answer\n",
           path, l->f.ino, l->f.size, json_array_size(l->chunks), l->bad);
    json_array_foreach(l->chunks, i, c)
    {
        printf("  chunk %-6" PRIu64 " pg %-5" PRIu64 " %s\n", json_u64(c, "index", 0), json_u64(c, "pg", 0),
               json_is_true(json_object_get(c, "alike")) ? "alike" : "DIFFERENT");
        json_array_foreach(json_object_get(c, "replicas"), j, r)
        {
            const json_t *v = json_object_get(r, "version");

            printf("    storage %-4" PRIu64 " %-28s %-12s %3" PRIu64 " blocks, version (%lld,%lld)\n",
                   json_u64(r, "node", 0), json_text(r, "endpoint", "?"), json_text(r, "state", "?"),
                   json_u64(r, "blocks", 0), (long long)json_integer_value(json_array_get(v, 0)),
                   (long long)json_integer_value(json_array_get(v, 1)));
        }
    }
}

static int locate_file(struct locate *l, const char *path, bool json)
{
    for (uint32_t i = 0, n = 0; n < CHUNKS_MAX && (i = tool_chunk_from(&l->d, &l->f, i)) < l->f.chunks; i++, n++)
        describe_chunk(l, i);
    if (json) {
        json_t *o = json_pack("{s:s, s:I, s:I, s:O}", "file", path, "inode", (json_int_t)l->f.ino, "size",
                              (json_int_t)l->f.size, "chunks", l->chunks);

        json_dumpf(o, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(o);
    } else {
        print_human(l, path);
    }
    return l->bad > 0 ? 1 : 0;
}

int cmd_locate(int argc, char **argv)
{
    bool json = false;
    const char *servers = NULL;
    const struct cli_option options[] = {
        OPTION_JSON(&json),
        OPTION_SERVERS(&servers),
        {0},
    };
    struct cli cli = {
        .program = "tercet locate",
        .synopsis = "[--config=FILE | --servers=LIST] [--json] FILE",
        .summary = "Shows the chunks of a file on a mount, where their copies are, and whether these are alike.\n"
                   "Exit status 1: some differ or do not answer.",
        .options = options,
        .config = true,
    };
    struct locate l = {0};
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args != 1)
        return cli_usage_error(&cli, "exactly one FILE is needed; see --help");
    l.chunks = json_array();
    if (tool_data_open(&cli, servers, &l.d, &status) && tool_file_open(&cli, cli.args[0], &l.f, &status))
        status = locate_file(&l, cli.args[0], json);
    json_decref(l.chunks);
    tool_data_close(&l.d);
    return status;
}
