/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet format: one genesis, the same for all members of the configuration. First every member is asked:
 * it must answer, and have none. Only then the genesis is sent. If that was interrupted, some members have a genesis
 * and nothing else, not even a leader's first entry; they tell it, and the others are given the same.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sodium.h>

#include "common/os_env.h"
#include "tercet.h"

#define LEADER_WAIT_MS 10000

/* Does a member serve a filesystem? Others may not have heard yet that a load has ended. */
static bool anyone_serves(const struct tool_status *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (json_is_true(json_object_get(s->docs[i], "formatted")) && !json_is_true(json_object_get(s->docs[i], "loading")))
            return true;
    }
    return false;
}

/* May the members be formatted? Returns 0 or an exit status. @ret_begun: genesis in hex of a format that was
 * interrupted, freed by the caller, or NULL; NULL itself: one such is refused as any other. */
int format_check_members(const struct cli *cli, struct env *env, struct tool_members *m, char **ret_begun)
{
    struct tool_status s;
    int status = 0;

    if (ret_begun)
        *ret_begun = NULL;
    tool_status_ask(env, m, TOOL_TIMEOUT_MS, &s);
    for (unsigned i = 0; i < s.n && status == 0; i++) {
        const json_t *formatted = json_object_get(s.docs[i], "formatted");
        const char *begun = ret_begun ? json_text(s.docs[i], "genesis", NULL) : NULL;

        if (!s.docs[i])
            status = cli_failed(cli, "member meta.%" PRIu32 " (%s) does not answer: %s; nothing was changed. "
                                "Start it, then run this again",
                                m->ids[i], m->endpoints[i], tc_strerror(s.answers[i].status));
        else if (begun && *ret_begun && strcmp(begun, *ret_begun) != 0)
            status = cli_failed(cli, "members were formatted as different clusters (meta.%" PRIu32 " is of %s), and hold "
                                "nothing yet; nothing was changed. Empty the data directories of all and begin anew",
                                m->ids[i], json_text(s.docs[i], "cluster", "?"));
        else if (json_is_true(json_object_get(s.docs[i], "loading")) && !anyone_serves(&s))
            status = cli_failed(cli, "a dump is being loaded into the members; nothing was changed. Run `tercet meta load FILE` "
                                "to its end; or, for a new and empty filesystem, empty the members' data directories first");
        else if (!json_is_false(formatted) && !begun)
            status = cli_failed(cli, "member meta.%" PRIu32 " (%s) is formatted already (cluster %s); "
                                "nothing was changed",
                                m->ids[i], m->endpoints[i], json_text(s.docs[i], "cluster", "?"));
        else if (json_u64(s.docs[i], "id", m->ids[i]) != m->ids[i])
            status = cli_failed(cli, "%s says that it is meta.%" PRIu64 ", not meta.%" PRIu32
                                "; nothing was changed. Check the configuration",
                                m->endpoints[i], json_u64(s.docs[i], "id", 0), m->ids[i]);
        else if (begun && !*ret_begun)
            *ret_begun = tc_strdup(begun);
    }
    tool_status_fini(&s);
    return status;
}

int format_send(const struct cli *cli, struct env *env, struct tool_members *m,
                const struct genesis *g)
{
    struct rpc_request req = {.type = MSG_FORMAT, .body = g, .timeout_ms = 2 * TOOL_TIMEOUT_MS};
    struct rpc_answer answers[CONFIG_METAS_MAX];
    unsigned good = 0;
    int status = 0;

    rpc_ask(env, (const char *const *)m->endpoints, m->n, &req, answers);
    for (unsigned i = 0; i < m->n; i++)
        good += answers[i].status == 0;
    for (unsigned i = 0; i < m->n && status == 0; i++) {
        if (answers[i].status < 0)
            status = cli_failed(cli, "member meta.%" PRIu32 " (%s) was not formatted: %s; %u of %u were. %s",
                                m->ids[i], m->endpoints[i], tc_strerror(answers[i].status), good, m->n,
                                2 * good > m->n ? "It is filled by the others once it is up"
                                                : "Bring it up and run this again: it goes on from there");
    }
    rpc_answers_fini(answers, m->n);
    return status;
}

int format_wait_leader(const struct cli *cli, struct env *env, struct tool_members *m)
{
    uint64_t end = env_now(env) + LEADER_WAIT_MS * NS_PER_MS;
    int leader = -1;

    while (leader < 0 && env_now(env) < end) {
        struct tool_status s;

        tool_status_ask(env, m, 1000, &s);
        leader = s.leader;
        tool_status_fini(&s);
        if (leader < 0)
            usleep(50000);
    }
    if (leader < 0)
        return cli_failed(cli, "formatted, but the members elected no leader within %d s; see tercet status",
                          LEADER_WAIT_MS / 1000);
    return 0;
}

/* The genesis that a member tells, which must be of the members of this configuration. @g's strings are in @arena. */
int format_genesis_begun(const struct cli *cli, const struct tool_members *m, const char *hex, struct wire_arena *arena,
                         struct genesis *g)
{
    size_t n = strlen(hex) / 2, len = 0;
    uint8_t *bytes = wire_arena_alloc(arena, n ? n : 1);
    bool same;

    if (!bytes || sodium_hex2bin(bytes, n, hex, strlen(hex), NULL, &len, NULL) != 0 ||
        wire_decode(slice_of(bytes, len), &genesis_schema, arena, g) < 0 || g->cluster.n != 16)
        return cli_failed(cli, "a member tells a genesis that is none; nothing was changed. Empty its data directory");
    same = g->members.n == m->n;
    for (unsigned i = 0; same && i < m->n; i++) {
        const struct member_info *o = &g->members.items[i];

        same = o->id == m->ids[i] && o->endpoint.n == strlen(m->endpoints[i]) &&
               memcmp(o->endpoint.p, m->endpoints[i], o->endpoint.n) == 0;
    }
    if (!same)
        return cli_failed(cli, "an earlier format was interrupted, with other members than those of this configuration; "
                          "nothing was changed. Use the configuration of then, or empty the members' data directories");
    return 0;
}

static int format_cluster(const struct cli *cli, struct env *env, struct tool_members *m, bool json)
{
    const struct config_cluster *c = &m->config->cluster;
    struct member_info members[CONFIG_METAS_MAX] = {0};
    struct wire_arena arena = {0};
    uint8_t cluster[16], key[16];
    char hex[33], *begun;
    struct genesis g = {
        .cluster = {cluster, sizeof cluster},
        .name = wire_str_of(c->name),
        .n = (uint32_t)c->n,
        .w = (uint32_t)c->w,
        .r = (uint32_t)c->r,
        .pg_count = (uint32_t)c->pg_count,
        .siphash_key = {key, sizeof key},
        .time = env_realtime(env),
        .stores = m->config->n_storages,
        .root_mode = S_IFDIR | 0755,
        .root_uid = geteuid(),
        .root_gid = getegid(),
    };
    int status = format_check_members(cli, env, m, &begun);

    if (status != 0) {
        free(begun);
        return status;
    }
    randombytes_buf(cluster, sizeof cluster);
    randombytes_buf(key, sizeof key);
    for (unsigned i = 0; i < m->n; i++) {
        members[i].id = m->ids[i];
        members[i].endpoint = wire_str_of(m->endpoints[i]);
    }
    g.members.items = members;
    g.members.n = m->n;
    if (begun)
        status = format_genesis_begun(cli, m, begun, &arena, &g);
    if (status == 0 && g.loading)
        status = cli_failed(cli, "a `tercet meta load` was interrupted; nothing was changed. Run `tercet meta load FILE` again with "
                            "the same file; or, for a new and empty filesystem, empty the members' data directories first");
    if (status == 0)
        status = format_send(cli, env, m, &g);
    if (status == 0)
        status = format_wait_leader(cli, env, m);
    if (status == 0)
        sodium_bin2hex(hex, sizeof hex, g.cluster.p, 16);
    wire_arena_fini(&arena);
    if (status != 0) {
        free(begun);
        return status;
    }
    if (json) {
        json_t *o = json_pack("{s:b, s:s, s:s}", "formatted", 1, "name", c->name, "cluster", hex);

        json_dumpf(o, stdout, 0);
        putchar('\n');
        json_decref(o);
    } else {
        printf("%s cluster %s (%s): %u metadata members, n=%" PRIu64 " w=%" PRIu64
               " r=%" PRIu64 "%s.\n",
               begun ? "Finished the interrupted format of" : "Formatted", c->name, hex, m->n, c->n, c->w, c->r,
               c->n == 1 ? ", no redundancy" : "");
    }
    free(begun);
    return 0;
}

int cmd_format(int argc, char **argv)
{
    bool json = false;
    const struct cli_option options[] = {OPTION_JSON(&json), {0}};
    struct cli cli = {
        .program = "tercet format",
        .synopsis = "[--config=FILE] [--json]",
        .summary = "Makes a new, empty filesystem. All metadata members of the configuration must run, and none\n"
                   "may have been formatted before: then nothing is changed. Run again after it was interrupted, it goes on.",
        .options = options,
        .config = true,
    };
    struct tool_members m;
    struct env *env = NULL;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args > 0)
        return cli_usage_error(&cli, "unexpected argument '%s'; see --help", cli.args[0]);
    if (!tool_members_open(&cli, NULL, &m, &status))
        return status;
    if (m.n % 2 == 0) {
        status = cli_failed(&cli, "%u metadata members; use 1, 3 or 5: an even number survives no more failures than "
                            "one less", m.n);
        tool_members_fini(&m);
        return status;
    }
    if (sodium_init() < 0 || os_env_new(&(struct os_env_options){.threads = 1}, &env) < 0)
        status = cli_failed(&cli, "cannot start");
    else
        status = format_cluster(&cli, env, &m, json);
    os_env_free(env);
    tool_members_fini(&m);
    return status;
}
