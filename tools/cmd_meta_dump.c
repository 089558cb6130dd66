/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet meta dump and load, and the command line of all that keeps the metadata.
 *
 * A dump file (docs/DISK_FORMAT.md) is a header of its own, which says whose it is and has the genesis, and then a
 * store as a stream (meta/kv_dump.h): rows, their count, a checksum. It is read piece by piece from a view that the
 * leader took, while everything goes on. Loading checks the whole file first, formats the members with the genesis
 * of the dump, and sends the rows as entries of the new log; it may be run again when it was cut short.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/os_env.h"
#include "tercet.h"

#define DUMP_MAGIC "TCMETA1\n"
#define STREAM_MAGIC UINT32_C(0x444b4354) /* "TCKD" */
#define STREAM_END UINT32_C(0xffffffff)
enum { DUMP_VERSION = 1, STREAM_VERSION = 1, HEAD_BYTES = 64, GENESIS_MAX = 1 << 20, ROW_MAX = 16 << 20,
       PIECE_BYTES = 256 << 10, STREAM_TAIL = 24 };
#define PIECE_TRIES 40
#define PIECE_MS 10000
#define DUMP_LEADER_MS 10000
#define LOAD_LEADER_MS 90000 /* who loads has nothing better to do */

/* ---- asking the leader ---- */

/* Index of the member that leads, once one does; -1: nobody for so long. */
static int leader_find(struct env *env, struct tool_members *m, uint64_t wait_ms)
{
    uint64_t end = env_now(env) + wait_ms * NS_PER_MS;
    int leader = -1;

    while (leader < 0 && env_now(env) < end) {
        struct tool_status s;

        tool_leader_ask(env, m, 2000, &s);
        leader = s.leader;
        tool_status_fini(&s);
        if (leader < 0)
            usleep(250000);
    }
    return leader;
}

static int ask_one(struct env *env, struct tool_members *m, int member, uint16_t type, const void *body,
                   uint64_t timeout_ms, struct rpc_answer *ret)
{
    struct rpc_request req = {.type = type, .body = body, .timeout_ms = timeout_ms};

    rpc_ask(env, (const char *const *)&m->endpoints[member], 1, &req, ret);
    return ret->status;
}

/* ---- dump ---- */

struct out {
    int fd;
    XXH3_state_t *sum; /* of the stream; NULL: of nothing yet */
    uint64_t bytes;
    int err; /* errno */
};

static void out_write(struct out *o, const void *data, size_t len)
{
    const uint8_t *p = data;

    if (o->sum)
        XXH3_64bits_update(o->sum, data, len);
    o->bytes += len;
    while (len > 0 && !o->err) {
        ssize_t n = write(o->fd, p, len);

        if (n < 0 && errno != EINTR)
            o->err = errno;
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
}

static void out_head(struct out *o, const struct dump_res *r, const struct genesis *g)
{
    uint32_t head[2] = {STREAM_MAGIC, STREAM_VERSION}, version = DUMP_VERSION;
    size_t len = HEAD_BYTES + r->genesis.n;
    uint8_t *b = tc_calloc(1, len + 8);
    uint64_t sum;

    memcpy(b, DUMP_MAGIC, 8);
    memcpy(b + 8, &version, 4);
    memcpy(b + 12, &r->genesis.n, 4);
    memcpy(b + 16, g->cluster.p, 16);
    memcpy(b + 32, &r->index, 8);
    memcpy(b + 40, &r->term, 8);
    memcpy(b + 48, &r->time, 8);
    memcpy(b + HEAD_BYTES, r->genesis.p, r->genesis.n);
    sum = XXH3_64bits(b, len);
    memcpy(b + len, &sum, 8);
    out_write(o, b, len + 8);
    free(b);
    o->sum = XXH3_createState();
    ASSERT(o->sum);
    XXH3_64bits_reset(o->sum);
    out_write(o, head, sizeof head);
}

static void out_tail(struct out *o, uint64_t count)
{
    uint32_t end[2] = {STREAM_END, 0};
    uint64_t sum;

    out_write(o, end, sizeof end);
    out_write(o, &count, sizeof count);
    sum = XXH3_64bits_digest(o->sum);
    XXH3_freeState(o->sum);
    o->sum = NULL;
    out_write(o, &sum, sizeof sum);
}

/* All rows of view @id. Returns 0 or -TC_E_x. */
static int dump_rows(struct env *env, struct tool_members *m, int member, uint64_t id, struct out *o,
                     uint64_t *ret_count)
{
    struct dump_req req = {.id = id};
    struct buf *from = NULL;
    bool more = true;
    int r = 0;

    while (r == 0 && more && !o->err) {
        struct wire_arena a = {0};
        struct rpc_answer answer;
        struct dump_res res;

        r = ask_one(env, m, member, MSG_DUMP, &req, PIECE_MS, &answer);
        if (r == 0)
            r = wire_decode(answer.body, &dump_res_schema, &a, &res);
        if (r == 0) {
            out_write(o, res.rows.p, res.rows.n);
            *ret_count += res.count;
            more = res.next.n > 0;
            buf_unref(from);
            from = buf_copy(res.next.p, res.next.n);
            req.from = (struct wire_bin){from->data, from->len};
        }
        wire_arena_fini(&a);
        rpc_answers_fini(&answer, 1);
    }
    buf_unref(from);
    return r;
}

static int dump_to(const struct cli *cli, struct env *env, struct tool_members *m, struct out *o, const char *name)
{
    struct dump_req begin = {0};
    struct wire_arena a = {0};
    struct rpc_answer answer = {0};
    struct dump_res res;
    struct genesis g;
    uint64_t count = 0;
    int leader = leader_find(env, m, DUMP_LEADER_MS), r;

    if (leader < 0)
        return cli_failed(cli, "no member leads; see tercet status");
    r = ask_one(env, m, leader, MSG_DUMP, &begin, PIECE_MS, &answer);
    if (r == 0)
        r = wire_decode(answer.body, &dump_res_schema, &a, &res);
    if (r == 0)
        r = wire_decode(slice_of(res.genesis.p, res.genesis.n), &genesis_schema, &a, &g);
    if (r == 0) {
        out_head(o, &res, &g);
        r = dump_rows(env, m, leader, res.id, o, &count);
        out_tail(o, count);
    }
    if (r == 0 && !o->err)
        fprintf(stderr, "Dumped %" PRIu64 " rows, %" PRIu64 " bytes, as of entry %" PRIu64 ".\n", count, o->bytes, res.index);
    wire_arena_fini(&a);
    rpc_answers_fini(&answer, 1);
    if (o->err)
        return cli_failed(cli, "%s: %s", name, strerror(o->err));
    return r == 0 ? 0
                  : cli_failed(cli, "the dump was cut short: %s%s", tc_strerror(r),
                               r == -TC_E_BUSY ? " (another dump is being made)" : "; run it again");
}

/* A device or a pipe, which a file of that name must not replace. */
static int dump_into(const struct cli *cli, struct env *env, struct tool_members *m, const char *file)
{
    struct out o = {.fd = open(file, O_WRONLY | O_CLOEXEC)};
    int status;

    if (o.fd < 0)
        return cli_failed(cli, "%s: %s", file, strerror(errno));
    status = dump_to(cli, env, m, &o, file);
    close(o.fd);
    return status;
}

static int dump_run(const struct cli *cli, struct env *env, struct tool_members *m, const char *file)
{
    struct out o = {.fd = STDOUT_FILENO};
    struct stat st;
    char *tmp;
    int status;

    if (!file || strcmp(file, "-") == 0) {
        if (isatty(STDOUT_FILENO))
            return cli_usage_error(cli, "a dump is not for a terminal: name a FILE, or send it somewhere");
        return dump_to(cli, env, m, &o, "standard output");
    }
    if (stat(file, &st) == 0 && !S_ISREG(st.st_mode))
        return dump_into(cli, env, m, file);
    tmp = tc_asprintf("%s.tmp", file);
    o.fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (o.fd < 0) {
        status = cli_failed(cli, "%s: %s", tmp, strerror(errno));
    } else {
        status = dump_to(cli, env, m, &o, tmp);
        if (status == 0 && (fsync(o.fd) < 0 || rename(tmp, file) < 0))
            status = cli_failed(cli, "%s: %s", file, strerror(errno));
        if (status != 0)
            (void)unlink(tmp);
        close(o.fd);
    }
    free(tmp);
    return status;
}

/* ---- load: the file ---- */

struct in {
    FILE *f;
    const char *name;
    struct buf *genesis_body;
    struct wire_arena arena;
    struct genesis genesis;
    uint64_t index, time, id;
    long stream; /* where its first row is */
    struct buf *meta; /* its row of table `a` */
};

static int in_bad(const struct cli *cli, const struct in *in, const char *what)
{
    return cli_failed(cli, "%s: %s; nothing was changed", in->name, what);
}

static int in_head(const struct cli *cli, struct in *in)
{
    uint8_t head[HEAD_BYTES];
    uint32_t version, len, stream[2];
    uint64_t sum;
    uint8_t *all;
    bool good;

    if (fread(head, sizeof head, 1, in->f) != 1 || memcmp(head, DUMP_MAGIC, 8) != 0)
        return in_bad(cli, in, "not a dump of metadata");
    memcpy(&version, head + 8, 4);
    memcpy(&len, head + 12, 4);
    if (version > DUMP_VERSION)
        return in_bad(cli, in, "written by a newer version");
    if (len > GENESIS_MAX)
        return in_bad(cli, in, "damaged");
    in->genesis_body = buf_new(len);
    in->genesis_body->len = len;
    all = tc_malloc(HEAD_BYTES + len);
    memcpy(all, head, HEAD_BYTES);
    good = fread(all + HEAD_BYTES, 1, len, in->f) == len && fread(&sum, 8, 1, in->f) == 1 &&
           fread(stream, 8, 1, in->f) == 1;
    memcpy(in->genesis_body->data, all + HEAD_BYTES, len);
    good = good && sum == XXH3_64bits(all, HEAD_BYTES + len) && stream[0] == STREAM_MAGIC &&
           stream[1] == STREAM_VERSION &&
           wire_decode(slice_of(in->genesis_body->data, len), &genesis_schema, &in->arena, &in->genesis) == 0;
    free(all);
    memcpy(&in->index, head + 32, 8);
    memcpy(&in->time, head + 48, 8);
    in->stream = ftell(in->f);
    return good ? 0 : in_bad(cli, in, "damaged: its head does not check");
}

/* The next row as it stands in the file; 0 at the end, -1 if the file ends early. */
static int in_row(struct in *in, uint8_t **buf, size_t *cap, size_t *ret_len)
{
    uint32_t head[2];
    size_t len;

    if (fread(head, 8, 1, in->f) != 1)
        return -1;
    len = 8;
    if (head[0] != STREAM_END) {
        if (head[0] > ROW_MAX || head[1] > ROW_MAX)
            return -1;
        len += (size_t)head[0] + head[1];
    }
    if (len > *cap) {
        *cap = len * 2;
        *buf = tc_realloc(*buf, *cap);
    }
    memcpy(*buf, head, 8);
    if (len > 8 && fread(*buf + 8, len - 8, 1, in->f) != 1)
        return -1;
    *ret_len = len;
    return head[0] != STREAM_END;
}

/* From end to end, before anything is changed. */
static int in_check(const struct cli *cli, struct in *in)
{
    uint32_t head[2] = {STREAM_MAGIC, STREAM_VERSION}, key_len, value_len;
    XXH3_state_t *state = XXH3_createState();
    uint64_t count = 0, told = 0, sum = 0;
    bool good = false;
    uint8_t *row = tc_malloc(4096);
    size_t cap = 4096, len;
    int more;

    ASSERT(state);
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, head, sizeof head);
    while ((more = in_row(in, &row, &cap, &len)) > 0) {
        XXH3_64bits_update(state, row, len);
        count++;
        memcpy(&key_len, row, 4);
        memcpy(&value_len, row + 4, 4);
        if (key_len == 1 && row[8] == 'a') {
            buf_unref(in->meta);
            in->meta = buf_copy(row + 9, value_len);
        }
    }
    if (more == 0) {
        XXH3_64bits_update(state, row, len);
        good = fread(&told, 8, 1, in->f) == 1;
        XXH3_64bits_update(state, &told, 8);
        good = fread(&sum, 8, 1, in->f) == 1 && good && sum == XXH3_64bits_digest(state) && told == count &&
               fgetc(in->f) == EOF;
    }
    XXH3_freeState(state);
    free(row);
    if (!good || !in->meta)
        return in_bad(cli, in, "damaged: it does not check to its end");
    in->id = sum | 1;
    return fseek(in->f, in->stream, SEEK_SET) == 0 ? 0 : in_bad(cli, in, strerror(errno));
}

static void in_fini(struct in *in)
{
    if (in->f)
        fclose(in->f);
    wire_arena_fini(&in->arena);
    buf_unref(in->genesis_body);
    buf_unref(in->meta);
}

/* ---- load: the group ---- */

/* A member has the genesis of loading this dump, and nothing else: the format before the load was interrupted. */
static bool genesis_of_this(const struct cli *cli, const struct tool_members *m, const json_t *doc, const struct in *in)
{
    const char *begun = json_text(doc, "genesis", NULL);
    struct wire_arena arena = {0};
    struct genesis g;
    bool same = begun && format_genesis_begun(cli, m, begun, &arena, &g) == 0 && g.loading &&
                memcmp(g.cluster.p, in->genesis.cluster.p, 16) == 0;

    wire_arena_fini(&arena);
    return same;
}

/* *ret_begun: the members are formatted with this very dump, which is not whole yet. */
static int group_check(const struct cli *cli, struct env *env, struct tool_members *m, const struct in *in,
                       bool *ret_begun)
{
    struct tool_status s;
    int status = 0;
    char hex[33];

    for (unsigned i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", in->genesis.cluster.p[i]);
    tool_status_ask(env, m, TOOL_TIMEOUT_MS, &s);
    *ret_begun = false;
    for (unsigned i = 0; i < s.n; i++)
        *ret_begun = *ret_begun || (s.docs[i] && json_is_true(json_object_get(s.docs[i], "loading")) &&
                                    strcmp(json_text(s.docs[i], "cluster", ""), hex) == 0);
    for (unsigned i = 0; i < s.n && status == 0 && !*ret_begun; i++) {
        if (!s.docs[i])
            status = cli_failed(cli, "member meta.%" PRIu32 " (%s) does not answer: %s; nothing was changed. Start it, "
                                "then run this again", m->ids[i], m->endpoints[i], tc_strerror(s.answers[i].status));
        else if (!json_is_false(json_object_get(s.docs[i], "formatted")) && !genesis_of_this(cli, m, s.docs[i], in))
            status = cli_failed(cli, "member meta.%" PRIu32 " (%s) is not empty (cluster %s); nothing was changed. A dump "
                                "is loaded into members that were never formatted: give all of them empty directories",
                                m->ids[i], m->endpoints[i], json_text(s.docs[i], "cluster", "?"));
    }
    tool_status_fini(&s);
    return status;
}

static int group_format(const struct cli *cli, struct env *env, struct tool_members *m, const struct in *in)
{
    struct member_info members[CONFIG_METAS_MAX] = {0};
    struct genesis g = in->genesis;
    int status;

    for (unsigned i = 0; i < m->n; i++) {
        members[i].id = m->ids[i];
        members[i].endpoint = wire_str_of(m->endpoints[i]);
    }
    g.members.items = members;
    g.members.n = m->n;
    g.loading = true;
    status = format_send(cli, env, m, &g);
    return status ? status : format_wait_leader(cli, env, m);
}

/* One piece, until it is committed: leaders may change under it. */
static int piece_send(struct env *env, struct tool_members *m, int *leader, const struct load_req *req)
{
    int r = -TC_E_NO_QUORUM;

    for (unsigned i = 0; i < PIECE_TRIES; i++) {
        struct rpc_answer answer = {0};

        if (*leader < 0)
            *leader = leader_find(env, m, LOAD_LEADER_MS);
        if (*leader < 0)
            return -TC_E_NO_QUORUM;
        r = ask_one(env, m, *leader, MSG_LOAD, req, PIECE_MS, &answer);
        rpc_answers_fini(&answer, 1);
        if (r == 0 || r == -TC_E_INVAL || r == -TC_E_ALREADY_FORMATTED || r == -TC_E_BAD_MESSAGE)
            return r;
        *leader = -1;
        usleep(100000);
    }
    return r;
}

static int rows_send(struct env *env, struct tool_members *m, struct in *in)
{
    struct load_req req = {.step = LOAD_ROWS, .id = in->id};
    struct buf *piece = buf_new(PIECE_BYTES + 1024);
    uint8_t *row = tc_malloc(4096);
    size_t cap = 4096, len = 0;
    int leader = -1, more = 1, r = 0;

    piece->len = 0;
    while (r == 0 && more > 0) {
        more = in_row(in, &row, &cap, &len);
        if (piece->len > 0 && (more <= 0 || piece->len + len > PIECE_BYTES)) {
            req.seq++;
            req.rows = (struct wire_bin){piece->data, piece->len};
            r = piece_send(env, m, &leader, &req);
            piece->len = 0;
        }
        if (more <= 0 || r < 0)
            continue;
        if (len > PIECE_BYTES) {
            r = -TC_E_LIMIT;
            continue;
        }
        memcpy(piece->data + piece->len, row, len);
        piece->len += (uint32_t)len;
    }
    free(row);
    buf_unref(piece);
    if (r < 0)
        return r;
    req.seq++;
    req.step = LOAD_END;
    req.rows = (struct wire_bin){in->meta->data, in->meta->len};
    return piece_send(env, m, &leader, &req);
}

static int load_run(const struct cli *cli, struct env *env, struct tool_members *m, const char *file)
{
    struct in in = {.name = file, .f = fopen(file, "re")};
    const char *name = m->config->cluster.name;
    bool begun = false;
    int status, r;

    if (!in.f)
        return cli_failed(cli, "%s: %s", file, strerror(errno));
    status = in_head(cli, &in);
    if (status == 0)
        status = in_check(cli, &in);
    if (status == 0 && (in.genesis.name.n != strlen(name) || memcmp(in.genesis.name.p, name, in.genesis.name.n) != 0))
        status = cli_failed(cli, "%s: a dump of cluster \"%.*s\", the configuration is of \"%s\"; nothing was changed", file,
                            (int)in.genesis.name.n, in.genesis.name.p, name);
    if (status == 0)
        status = group_check(cli, env, m, &in, &begun);
    if (status == 0 && !begun)
        status = group_format(cli, env, m, &in);
    if (status == 0) {
        r = rows_send(env, m, &in);
        if (r < 0)
            status = cli_failed(cli, "loading stopped: %s; the group serves nobody until it is whole. Run this again with "
                                "the same file", tc_strerror(r));
    }
    if (status == 0)
        printf("Loaded the metadata as of entry %" PRIu64 " of the old log. Restart the storage nodes, then mount anew.\n",
               in.index);
    in_fini(&in);
    return status;
}

/* ---- the verbs ---- */

/* The word behind `meta`, wherever options stand; NULL. */
static const char *meta_verb(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-')
            return argv[i];
        if (strcmp(argv[i], "--config") == 0 || strcmp(argv[i], "--id") == 0)
            i++;
    }
    return NULL;
}

bool cmd_meta_keeps(int argc, char **argv)
{
    static const char *const own[] = {"dump", "load", "checkpoint", "recover"};
    const char *verb = meta_verb(argc, argv);

    for (size_t i = 0; verb && i < ARRAY_SIZE(own); i++)
        if (strcmp(verb, own[i]) == 0)
            return true;
    return false;
}

int cmd_meta_keep(int argc, char **argv)
{
    bool json = false, sure = false;
    uint64_t id = 0;
    const struct cli_option options[] = {
        OPTION_JSON(&json),
        {.name = "id", .value = "N", .text = "recover: the surviving member", .number = &id},
        {.name = "yes-i-lose-data", .text = "recover: do it", .flag = &sure},
        {0},
    };
    struct cli cli = {
        .program = "tercet meta",
        .synopsis = "dump [FILE] | load FILE | checkpoint | recover --id=N --yes-i-lose-data",
        .summary = "Keeps the metadata: a consistent dump while everything runs; loading one into new, empty members; a\n"
                   "checkpoint now; and a one-member group out of the only member that survived.",
        .options = options,
        .config = true,
    };
    struct tool_members m;
    struct env *env = NULL;
    const char *verb;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args < 1 || cli.n_args > 2)
        return cli_usage_error(&cli, "one verb and at most one FILE; see --help");
    verb = cli.args[0];
    if (cli.n_args != 2 && strcmp(verb, "load") == 0)
        return cli_usage_error(&cli, "load which FILE? See --help");
    if (cli.n_args == 2 && strcmp(verb, "load") != 0 && strcmp(verb, "dump") != 0)
        return cli_usage_error(&cli, "unexpected argument '%s'; see --help", cli.args[1]);
    if (!tool_members_open(&cli, NULL, &m, &status))
        return status;
    if (os_env_new(&(struct os_env_options){.threads = 1}, &env) < 0)
        status = cli_failed(&cli, "cannot start");
    else if (strcmp(verb, "dump") == 0)
        status = dump_run(&cli, env, &m, cli.n_args == 2 ? cli.args[1] : NULL);
    else if (strcmp(verb, "load") == 0)
        status = load_run(&cli, env, &m, cli.args[1]);
    else if (strcmp(verb, "checkpoint") == 0)
        status = meta_checkpoint(&cli, env, &m, json);
    else
        status = meta_recover(&cli, env, &m, (uint32_t)MIN(id, (uint64_t)UINT32_MAX), sure);
    os_env_free(env);
    tool_members_fini(&m);
    return status;
}
