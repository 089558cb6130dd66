/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet explain FILE: for each chunk which stores have it, in which version, when each last read it all (a scrub), and
 * what would happen to the file if one of the nodes died now.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "data.h"

#define NODES_MAX 1024

struct explain {
    struct tool_data d;
    struct tool_file f;
    json_t *chunks;
    struct node {
        uint64_t node;
        bool up;
        uint64_t chunks; /* it has a copy of ... */
        uint64_t waits;  /* ... that would have no quorum without it ... */
        uint64_t lost;   /* ... that would have no up-to-date copy at all */
    } nodes[NODES_MAX];
    unsigned n_nodes;
    uint64_t waiting; /* chunks without a quorum now */
};

static struct node *node_of(struct explain *e, uint64_t id, bool up)
{
    for (unsigned i = 0; i < e->n_nodes; i++) {
        if (e->nodes[i].node == id)
            return &e->nodes[i];
    }
    if (e->n_nodes == NODES_MAX)
        return &e->nodes[0];
    e->nodes[e->n_nodes] = (struct node){.node = id, .up = up};
    return &e->nodes[e->n_nodes++];
}

/* What one store has of the chunk. */
static json_t *copy_of(struct explain *e, const struct rpc_answer *a, const json_t *scrub, const struct map_store *store,
                       bool *ret_ok, uint64_t *ret_epoch, uint64_t *ret_seq)
{
    const json_t *s = tool_store_status(&e->d, store->store);
    struct wire_arena arena = {0};
    struct read_res res = {0};
    uint64_t blocks = 0, unknown = 0;
    char when[32];
    json_t *o;
    int r = a->status;

    *ret_epoch = *ret_seq = 0;
    if (r == 0)
        r = wire_decode(a->body, &read_res_schema, &arena, &res);
    if (r == 0)
        r = res.items.n == 1 ? tc_error_from_wire(res.items.items[0].status) : -TC_E_BAD_MESSAGE;
    for (uint32_t i = 0; r == 0 && i < res.items.items[0].runs.n; i++) {
        const struct version_run *run = &res.items.items[0].runs.items[i];

        blocks += run->kind == RUN_DATA ? run->count : 0;
        unknown += run->kind == RUN_UNKNOWN ? run->count : 0;
        if (run->vepoch > *ret_epoch || (run->vepoch == *ret_epoch && run->vseq > *ret_seq)) {
            *ret_epoch = run->vepoch;
            *ret_seq = run->vseq;
        }
    }
    wire_arena_fini(&arena);
    *ret_ok = r == 0 && !unknown;
    o = json_pack("{s:I, s:s, s:s, s:s, s:s, s:I}", "node", (json_int_t)store->node, "endpoint", store->endpoint, "zone",
                  json_text(s, "zone", ""), "state", json_text(s, "state", "?"), "answers", r == 0 ? "ok" : tc_error_name(r),
                  "verified", (json_int_t)json_integer_value(json_array_get(json_object_get(scrub, "verified"), 0)));
    json_object_set_new(o, "verified_text",
                        json_string(format_time((uint64_t)json_integer_value(json_object_get(o, "verified")), when)));
    if (r == 0)
        json_object_set_new(o, "blocks", json_integer((json_int_t)blocks));
    if (r == 0)
        json_object_set_new(o, "damaged", json_integer((json_int_t)unknown));
    if (r == 0)
        json_object_set_new(o, "version", json_pack("[I,I]", (json_int_t)*ret_epoch, (json_int_t)*ret_seq));
    return o;
}

/* Per voter: without it, is there a quorum, is there a newest copy? */
static void conclude(struct explain *e, unsigned n, const uint64_t *node, const bool *ok, const uint64_t *epoch,
                     const uint64_t *seq)
{
    unsigned need = MAX(e->d.map->w, e->d.map->r), up = 0;
    uint64_t be = 0, bs = 0;

    for (unsigned i = 0; i < n; i++) {
        up += ok[i];
        if (ok[i] && (epoch[i] > be || (epoch[i] == be && seq[i] > bs))) {
            be = epoch[i];
            bs = seq[i];
        }
    }
    e->waiting += up < need;
    for (unsigned i = 0; i < n; i++) {
        struct node *x = node_of(e, node[i], ok[i]);
        unsigned others = 0;

        for (unsigned k = 0; k < n; k++)
            others += k != i && ok[k] && epoch[k] == be && seq[k] == bs;
        x->chunks++;
        x->waits += up - ok[i] < need;
        x->lost += others == 0;
    }
}

static void explain_chunk(struct explain *e, uint32_t index)
{
    uint32_t pg = map_pg_of(e->d.map, e->f.ino, index);
    const struct map_pg *p = &e->d.map->pgs[pg];
    struct read_item item = {.pg = pg, .pg_epoch = p->epoch, .ino = e->f.ino, .index = index, .count = TOOL_CHUNK_BLOCKS};
    struct read_req body = {.barrier = e->d.map->epoch, .items = {&item, 1}};
    uint64_t ids[PG_VOTERS_MAX];
    struct rpc_request req = {MSG_READ, e->d.tag, &body, TOOL_TIMEOUT_MS, ids, NULL};
    uint64_t which = index, node[PG_VOTERS_MAX], epoch[PG_VOTERS_MAX], seq[PG_VOTERS_MAX];
    struct scrub_req ask = {.action = SCRUB_REPORT, .ino = e->f.ino, .indexes = {&which, 1}};
    const struct map_store *stores[PG_VOTERS_MAX];
    const char *endpoints[PG_VOTERS_MAX];
    struct rpc_answer a[PG_VOTERS_MAX];
    json_t *docs[PG_VOTERS_MAX], *copies = json_array();
    int statuses[PG_VOTERS_MAX];
    bool ok[PG_VOTERS_MAX];
    unsigned n = 0, up;

    for (unsigned down = 0; down < 2; down++) { /* those that are up come first: only they are asked */
        for (unsigned i = 0; i < p->n; i++) {
            stores[n] = map_store(e->d.map, p->voters[i]);
            if (!stores[n] || down != !strcmp(json_text(tool_store_status(&e->d, p->voters[i]), "state", "?"), "down"))
                continue;
            node[n] = stores[n]->node;
            ids[n] = p->voters[i];
            endpoints[n] = stores[n]->endpoint;
            n++;
        }
        if (!down)
            up = n;
    }
    tool_stores_ask(&e->d, endpoints, up, &req, a);
    tool_scrub_ask(&e->d, endpoints, ids, up, &ask, TOOL_TIMEOUT_MS, docs, statuses);
    for (unsigned i = up; i < n; i++) {
        a[i] = (struct rpc_answer){.status = -TC_E_UNREACHABLE};
        docs[i] = NULL;
    }
    for (unsigned i = 0; i < n; i++) {
        json_array_append_new(copies, copy_of(e, &a[i], docs[i], stores[i], &ok[i], &epoch[i], &seq[i]));
        json_decref(docs[i]);
    }
    rpc_answers_fini(a, n);
    conclude(e, n, node, ok, epoch, seq);
    json_array_append_new(e->chunks,
                          json_pack("{s:I, s:I, s:I, s:b, s:o}", "index", (json_int_t)index, "pg", (json_int_t)pg, "pg_epoch",
                                    (json_int_t)p->epoch, "moving", p->n_next > 0, "copies", copies));
}

static const char *fate(const struct explain *e, const struct node *x)
{
    if (x->lost && e->d.map->n == 1)
        return "the file is lost with it: there is one copy";
    if (x->lost)
        return "chunks have no other up-to-date copy now: their last writes wait for it";
    if (x->waits)
        return "reads and writes of some chunks wait until a node is back";
    return "nothing: the others have a quorum, and its copies are made anew elsewhere or when it is back";
}

static void print_human(const struct explain *e, const char *path)
{
    const json_t *c, *r;
    char bytes[16];
    size_t i, j;

    printf("%s: inode %" PRIu64 ", %s, %" PRIu32 " chunks of 1 MiB, each on %u stores; names and sizes are with the metadata members\n",
           path, e->f.ino, format_bytes(e->f.size, bytes), e->f.chunks, e->d.map->n);
    json_array_foreach(e->chunks, i, c)
    {
        printf("  chunk %" PRIu64 ": placement group %" PRIu64 "%s\n", json_u64(c, "index", 0), json_u64(c, "pg", 0),
               json_is_true(json_object_get(c, "moving")) ? ", moving" : "");
        json_array_foreach(json_object_get(c, "copies"), j, r)
        {
            const json_t *v = json_object_get(r, "version");

            printf("    storage %-4" PRIu64 " %-26s %-8s %3" PRIu64 " blocks, version (%lld,%lld)%s; last verified %s\n",
                   json_u64(r, "node", 0), json_text(r, "endpoint", "?"),
                   strcmp(json_text(r, "answers", ""), "ok") ? json_text(r, "answers", "") : json_text(r, "state", "?"),
                   json_u64(r, "blocks", 0), (long long)json_integer_value(json_array_get(v, 0)),
                   (long long)json_integer_value(json_array_get(v, 1)), json_u64(r, "damaged", 0) ? ", DAMAGED blocks" : "",
                   json_text(r, "verified_text", "never"));
        }
    }
    if (e->waiting)
        printf("now: %" PRIu64 " chunks have no quorum: what needs them waits\n", e->waiting);
    for (unsigned k = 0; k < e->n_nodes; k++)
        printf("if storage %" PRIu64 " died now (%" PRIu64 " chunks): %s\n", e->nodes[k].node, e->nodes[k].chunks,
               fate(e, &e->nodes[k]));
}

static void print_json(const struct explain *e, const char *path)
{
    json_t *o, *fates = json_array();

    for (unsigned k = 0; k < e->n_nodes; k++)
        json_array_append_new(fates, json_pack("{s:I, s:I, s:I, s:I, s:s}", "node", (json_int_t)e->nodes[k].node, "chunks",
                                               (json_int_t)e->nodes[k].chunks, "waits", (json_int_t)e->nodes[k].waits, "alone",
                                               (json_int_t)e->nodes[k].lost, "text", fate(e, &e->nodes[k])));
    o = json_pack("{s:s, s:I, s:I, s:I, s:O, s:o}", "file", path, "inode", (json_int_t)e->f.ino, "size",
                  (json_int_t)e->f.size, "waiting", (json_int_t)e->waiting, "chunks", e->chunks, "if_died", fates);
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

int cmd_explain(int argc, char **argv)
{
    struct explain *e = tc_calloc(1, sizeof *e);
    bool json = false;
    const char *servers = NULL;
    const struct cli_option options[] = {
        OPTION_JSON(&json),
        OPTION_SERVERS(&servers),
        {0},
    };
    struct cli cli = {
        .program = "tercet explain",
        .synopsis = "[--config=FILE | --servers=LIST] [--json] FILE",
        .summary = "Shows for each chunk of a file where its copies are, in which version, when they were last verified by a\n"
                   "scrub, and what would happen to the file if a node died now. Exit status 1: part of it waits already.",
        .options = options,
        .config = true,
    };
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status) ||
        (cli.n_args != 1 && (status = cli_usage_error(&cli, "exactly one FILE is needed; see --help")))) {
        free(e);
        return status;
    }
    e->chunks = json_array();
    if (tool_data_open(&cli, servers, &e->d, &status) && tool_file_open(&cli, cli.args[0], &e->f, &status)) {
        for (uint32_t i = 0; (i = tool_chunk_from(&e->d, &e->f, i)) < e->f.chunks; i++)
            explain_chunk(e, i);
        if (json)
            print_json(e, cli.args[0]);
        else
            print_human(e, cli.args[0]);
        status = e->waiting ? 1 : 0;
    }
    json_decref(e->chunks);
    tool_data_close(&e->d);
    free(e);
    return status;
}
