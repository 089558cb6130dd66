/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet-storage: one storage node, in the foreground. SIGTERM and SIGINT end it at once: what it
 * acknowledged is durable.
 */
#include <signal.h>
#include <unistd.h>

#include "common/cli.h"
#include "common/os_env.h"
#include "storage/server.h"

static void on_signal(void *arg, int signo)
{
    LOG_INFO("main", "stopping", "signal=%d", signo);
    os_env_stop(arg, 0);
}

static void on_fatal(void *arg, int err, const char *why)
{
    LOG_ERR("main", "cannot go on", "error=%s why=\"%s\"", tc_error_name(err), why ? why : "");
    os_env_stop(arg, CLI_FAILED);
}

static int serve(struct cli *cli, const struct config *config, const struct config_node *own)
{
    const char *metas[CONFIG_METAS_MAX];
    struct storage_config sc = {.node = own->id, .metas = metas, .n_metas = config->n_metas};
    struct storage_server *server;
    struct env *env;
    int r;

    for (uint32_t i = 0; i < config->n_metas; i++)
        metas[i] = config->metas[i].endpoint;
    sc.zone = own->zone;
    sc.dir = own->data;
    sc.listen = own->listen ? own->listen : own->endpoint;
    sc.advertise = own->endpoint;
    sc.reserve_bytes = own->reserve;
    sc.cache_bytes = config->limits.memory_max / 8;
    sc.pending_bytes = config->limits.memory_max / 8;
    sc.fatal = on_fatal;
    r = cli_daemon_env(cli, config, &env);
    if (r < 0)
        return cli_failed(cli, "cannot start: %s", tc_strerror(r));
    sc.fatal_arg = env;
    r = storage_server_open(env, &sc, &server);
    if (r < 0)
        return cli_failed(cli, "[storage.%u] cannot start: %s (endpoint %s, data %s)", own->id, tc_strerror(r),
                          sc.listen, own->data);
    os_env_on_signal(env, SIGTERM, on_signal, env);
    os_env_on_signal(env, SIGINT, on_signal, env);
    LOG_INFO("main", "tercet-storage runs", "id=%u version=%s endpoint=%s data=%s", own->id, TC_VERSION,
             own->endpoint, own->data);
    return os_env_run(env);
}

int main(int argc, char **argv)
{
    uint64_t id = 0;
    const struct cli_option options[] = {
        {.name = "id", .value = "N", .text = "which one: the N of its section [storage.N]", .number = &id},
        {0},
    };
    struct cli cli = {
        .program = "tercet-storage",
        .synopsis = "--config=FILE --id=N",
        .summary = "A storage node of a Tercet cluster. Runs in the foreground, logs to stderr.",
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
    own = id <= UINT32_MAX ? config_storage(config, (uint32_t)id) : NULL;
    if (id == 0)
        return cli_usage_error(&cli, "--id=N is missing: the N of a section [storage.N] of %s", cli.config_path);
    if (!own)
        return cli_usage_error(&cli, "%s has no section [storage.%llu]", cli.config_path, (unsigned long long)id);
    status = serve(&cli, config, own);
    _exit(status); /* what was acknowledged is durable; tearing down could only hang */
}
