/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet verify FILE: every copy of every block of a file is read and compared: versions, checksums, and the bytes against
 * the checksum. Stores repair by themselves what they find damaged while they are read.
 */
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "data.h"

#define CHUNK_TIMEOUT_MS 20000

struct copy { /* of one chunk, on one store */
    int status;
    uint8_t kind[TOOL_CHUNK_BLOCKS];
    uint64_t epoch[TOOL_CHUNK_BLOCKS], seq[TOOL_CHUNK_BLOCKS], sum[TOOL_CHUNK_BLOCKS];
};

struct verify {
    struct tool_data d;
    struct tool_file f;
    bool json;
    uint64_t blocks;  /* with data or a zero mark, newest copies */
    uint64_t read;    /* copies of blocks with data that were read and checked */
    uint64_t damaged, behind, clash, unanswered, lost;
    json_t *problems;
};

static void problem(struct verify *v, uint32_t chunk, uint32_t block, uint64_t node, const char *what)
{
    if (json_array_size(v->problems) < 1000)
        json_array_append_new(v->problems, json_pack("{s:I, s:I, s:I, s:s}", "chunk", (json_int_t)chunk, "block",
                                                     (json_int_t)block, "node", (json_int_t)node, "what", what));
}

static int copy_decode(const struct rpc_answer *a, struct copy *c)
{
    struct wire_arena arena = {0};
    struct read_res res = {0};
    size_t sums = 0, data = 0;
    uint32_t at = 0;
    int r = wire_decode(a->body, &read_res_schema, &arena, &res);

    if (r == 0)
        r = res.items.n == 1 ? tc_error_from_wire(res.items.items[0].status) : -TC_E_BAD_MESSAGE;
    for (uint32_t i = 0; r == 0 && i < res.items.items[0].runs.n; i++) {
        const struct version_run *run = &res.items.items[0].runs.items[i];
        const struct wire_bin *s = &res.items.items[0].sums;

        for (uint32_t k = 0; k < run->count && r == 0; k++, at++) {
            if (at >= TOOL_CHUNK_BLOCKS || run->kind > RUN_UNKNOWN) {
                r = -TC_E_BAD_MESSAGE;
                break;
            }
            c->kind[at] = (uint8_t)run->kind;
            c->epoch[at] = run->vepoch;
            c->seq[at] = run->vseq;
            if (run->kind != RUN_DATA)
                continue;
            if (sums + 8 > s->n || !a->payload || data + BLOCK_SIZE > a->payload->len) {
                r = -TC_E_BAD_MESSAGE;
                break;
            }
            memcpy(&c->sum[at], s->p + sums, 8);
            c->sum[at] = le64toh(c->sum[at]);
            if (XXH3_64bits(a->payload->data + data, BLOCK_SIZE) != c->sum[at])
                c->kind[at] = RUN_UNKNOWN;
            sums += 8;
            data += BLOCK_SIZE;
        }
    }
    wire_arena_fini(&arena);
    return r;
}

static bool newer(const struct copy *a, const struct copy *b, uint32_t i)
{
    return a->epoch[i] > b->epoch[i] || (a->epoch[i] == b->epoch[i] && a->seq[i] > b->seq[i]);
}

/* The newest intact copy of block @b, NULL if none is. */
static const struct copy *newest(const struct copy *c, unsigned n, uint32_t b)
{
    const struct copy *best = NULL;

    for (unsigned i = 0; i < n; i++) {
        if (c[i].status == 0 && c[i].kind[b] != RUN_UNKNOWN && (!best || newer(&c[i], best, b)))
            best = &c[i];
    }
    return best;
}

static void compare_block(struct verify *v, uint32_t index, uint32_t b, const struct copy *c, const uint64_t *nodes, unsigned n)
{
    const struct copy *best = newest(c, n, b);

    v->blocks += best && best->kind[b] != RUN_NONE;
    for (unsigned i = 0; i < n; i++) {
        if (c[i].status < 0)
            continue;
        if (c[i].kind[b] == RUN_UNKNOWN) {
            v->damaged++;
            v->lost += best && newer(&c[i], best, b); /* what is intact is older than what was here */
            problem(v, index, b, nodes[i], "damaged");
            continue;
        }
        v->read += c[i].kind[b] == RUN_DATA;
        if (newer(best, &c[i], b)) {
            v->behind++;
            problem(v, index, b, nodes[i], "older than another copy");
        } else if (c[i].kind[b] != best->kind[b] || c[i].sum[b] != best->sum[b]) {
            v->clash++;
            problem(v, index, b, nodes[i], "another content under the same version");
        }
    }
    v->lost += !best;
}

static void verify_chunk(struct verify *v, uint32_t index)
{
    uint32_t pg = map_pg_of(v->d.map, v->f.ino, index);
    const struct map_pg *p = &v->d.map->pgs[pg];
    struct read_item item = {.pg = pg, .pg_epoch = p->epoch, .ino = v->f.ino, .index = index, .count = TOOL_CHUNK_BLOCKS,
                             .data = true};
    struct read_req body = {.barrier = v->d.map->epoch, .items = {&item, 1}};
    uint64_t nodes[PG_VOTERS_MAX], stores[PG_VOTERS_MAX];
    struct rpc_request req = {MSG_READ, v->d.tag, &body, CHUNK_TIMEOUT_MS, stores, NULL};
    struct copy *c = tc_calloc(p->n, sizeof *c);
    struct rpc_answer a[PG_VOTERS_MAX];
    const char *endpoints[PG_VOTERS_MAX];
    unsigned n = 0;

    for (unsigned i = 0; i < p->n; i++) {
        const struct map_store *store = map_store(v->d.map, p->voters[i]);

        if (!store)
            continue;
        nodes[n] = store->node;
        stores[n] = store->store;
        endpoints[n++] = store->endpoint;
    }
    tool_stores_ask(&v->d, endpoints, n, &req, a);
    for (unsigned i = 0; i < n; i++) {
        c[i].status = a[i].status == 0 ? copy_decode(&a[i], &c[i]) : a[i].status;
        if (c[i].status == 0)
            continue;
        v->unanswered++;
        problem(v, index, 0, nodes[i], tc_error_name(c[i].status));
    }
    rpc_answers_fini(a, n);
    for (uint32_t b = 0; b < TOOL_CHUNK_BLOCKS; b++)
        compare_block(v, index, b, c, nodes, n);
    free(c);
}

static int finish(struct verify *v, const char *path)
{
    bool same = !v->damaged && !v->behind && !v->clash && !v->lost, ok = same && !v->unanswered;
    const json_t *p;
    size_t i;

    if (v->json) {
        json_t *o = json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "file", path, "alike", ok, "size",
                              (json_int_t)v->f.size, "chunks", (json_int_t)v->f.chunks, "blocks", (json_int_t)v->blocks,
                              "copies_read", (json_int_t)v->read, "damaged", (json_int_t)v->damaged, "behind",
                              (json_int_t)v->behind, "clash", (json_int_t)v->clash, "unanswered", (json_int_t)v->unanswered,
                              "lost", (json_int_t)v->lost, "problems", v->problems);

        json_dumpf(o, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(o);
        return ok ? 0 : 1;
    }
    json_array_foreach(v->problems, i, p)
    {
        if (i < 20)
            printf("  chunk %" PRIu64 " block %" PRIu64 " on storage %" PRIu64 ": %s\n", json_u64(p, "chunk", 0),
                   json_u64(p, "block", 0), json_u64(p, "node", 0), json_text(p, "what", "?"));
    }
    printf("%s: %s: %" PRIu32 " chunks, %" PRIu64 " blocks, %" PRIu64 " copies read; %" PRIu64 " damaged, %" PRIu64
           " older, %" PRIu64 " with clashing contents; %" PRIu64 " copies of chunks not answered for; %" PRIu64
           " blocks without a good copy\n",
           path, ok ? "all copies are alike" : same ? "NOT ALL COPIES ANSWER, those that do are alike" : "DIFFERENT",
           v->f.chunks, v->blocks, v->read, v->damaged, v->behind, v->clash,
           v->unanswered, v->lost);
    return ok ? 0 : 1;
}

int cmd_verify(int argc, char **argv)
{
    struct verify v = {0};
    const char *servers = NULL;
    const struct cli_option options[] = {
        OPTION_JSON(&v.json),
        OPTION_SERVERS(&servers),
        {0},
    };
    struct cli cli = {
        .program = "tercet verify",
        .synopsis = "[--config=FILE | --servers=LIST] [--json] FILE",
        .summary = "Reads all copies of a file and compares versions, checksums and bytes. Copies of a file that is being\n"
                   "written differ for a moment. Exit status 1: some differ, are damaged, or do not answer.",
        .options = options,
        .config = true,
    };
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args != 1)
        return cli_usage_error(&cli, "exactly one FILE is needed; see --help");
    v.problems = json_array();
    if (tool_data_open(&cli, servers, &v.d, &status) && tool_file_open(&cli, cli.args[0], &v.f, &status)) {
        for (uint32_t i = 0; (i = tool_chunk_from(&v.d, &v.f, i)) < v.f.chunks; i++)
            verify_chunk(&v, i);
        status = finish(&v, cli.args[0]);
    }
    json_decref(v.problems);
    tool_data_close(&v.d);
    return status;
}
