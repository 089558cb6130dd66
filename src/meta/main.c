/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet-meta: one member of the metadata group, in the foreground. SIGTERM and SIGINT end it: leadership
 * is handed over first; a second signal ends it at once, which loses nothing either.
 */
#include <signal.h>
#include <unistd.h>

#include "common/cli.h"
#include "common/os_env.h"
#include "common/test_rules.h"
#include "meta/server.h"

#define STOP_MS 2000

struct daemon {
    struct env *env;
    struct meta_server *server;
    int err;
    bool stopping;
};

static void on_stopped(void *arg)
{
    struct daemon *d = arg;

    os_env_stop(d->env, 0);
}

static void on_signal(void *arg, int signo)
{
    struct daemon *d = arg;

    LOG_INFO("main", d->stopping ? "stopping at once" : "stopping", "signal=%d", signo);
    if (d->stopping)
        os_env_stop(d->env, 0);
    else
        meta_server_stop(d->server, STOP_MS, on_stopped, d);
    d->stopping = true;
}

static void on_failed(void *arg, int err, const char *what)
{
    struct daemon *d = arg;

    (void)what; /* logged */
    d->err = err;
    os_env_stop(d->env, 1);
}

static int serve(struct cli *cli, const struct config *config, const struct config_node *own)
{
    struct meta_member members[CONFIG_METAS_MAX];
    struct meta_server_config mc = {.id = own->id, .members = members, .n_members = config->n_metas};
    struct daemon d = {0};
    char why[512] = "";
    int r;

    for (uint32_t i = 0; i < config->n_metas; i++)
        members[i] = (struct meta_member){config->metas[i].id, config->metas[i].endpoint};
    mc.listen = own->listen;
    mc.dir = own->data;
    mc.cluster = config->cluster.name;
    mc.rebuild_after_ms = config->cluster.rebuild_after_ms;
    mc.kv_cache_bytes = config->limits.memory_max / 8; /* the page cache keeps six times as much in the same room */
    mc.heartbeat_ms = config->raft.heartbeat_ms;
    mc.election_min_ms = config->raft.election_ms;
    mc.election_max_ms = 2 * config->raft.election_ms;
    mc.check_interval_ns = config->scrub.interval * NS_PER_S;
    mc.checkpoint_ms = tc_test_value("TERCET_CHECKPOINT_MS", 0);
    mc.session_ttl_ms = tc_test_value("TERCET_SESSION_TTL_MS", 0);
    cli_await_room(mc.dir);
    r = cli_daemon_env(cli, config, &d.env);
    if (r < 0)
        return cli_failed(cli, "cannot start: %s", tc_strerror(r));
    os_env_on_signal(d.env, SIGTERM, on_signal, &d); /* before the store's threads exist: they inherit the mask */
    os_env_on_signal(d.env, SIGINT, on_signal, &d);
    mc.failed = on_failed;
    mc.arg = &d;
    r = meta_server_open(d.env, &mc, why, sizeof why, &d.server);
    if (r < 0)
        return cli_failed(cli, "[meta.%u] cannot start: %s", own->id, why[0] ? why : tc_strerror(r));
    LOG_INFO("main", "tercet-meta runs", "id=%u version=%s endpoint=%s data=%s", own->id, TC_VERSION,
             own->endpoint, own->data);
    r = os_env_run(d.env);
    if (d.err == -TC_E_DAMAGED)
        return cli_again(cli, "what is damaged goes aside");
    return d.err == -TC_E_NOSPC ? cli_again_with_room(cli, mc.dir) : r;
}

int main(int argc, char **argv)
{
    uint64_t id = 0;
    const struct cli_option options[] = {
        {.name = "id", .value = "N", .text = "which one: the N of its section [meta.N]", .number = &id},
        {0},
    };
    struct cli cli = {
        .program = "tercet-meta",
        .synopsis = "--config=FILE --id=N",
        .summary = "A member of the metadata group of a Tercet cluster. Runs in the foreground, logs to stderr.",
        .options = options,
        .config = true,
    };
    const struct config_node *own;
    struct config *config = NULL;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args > 0)
        return cli_usage_error(&cli, "unexpected argument '%s'; see --help", cli.args[0]);
    if (!cli_config(&cli, &config, &status))
        return status;
    own = id <= UINT32_MAX ? config_meta(config, (uint32_t)id) : NULL;
    if (id == 0)
        return cli_usage_error(&cli, "--id=N is missing: the N of a section [meta.N] of %s", cli.config_path);
    if (!own)
        return cli_usage_error(&cli, "%s has no section [meta.%llu]", cli.config_path, (unsigned long long)id);
    status = serve(&cli, config, own);
    _exit(status); /* what was acknowledged is durable; tearing down could only hang */
}
