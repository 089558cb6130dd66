/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet-storage: one storage node as a daemon, in the foreground.
 */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "common/cli.h"
#include "common/os_env.h"
#include "common/test_rules.h"
#include "storage/server.h"

#define LAST_WORD_US 100000 /* for what was sent last to leave: the leader is told that the disk fails */

struct daemon {
    struct env *env;
    int err;
};

static void on_fatal(void *arg, int err, const char *why)
{
    struct daemon *d = arg;

    (void)why; /* it was logged */
    d->err = err;
    os_env_stop(d->env, CLI_FAILED);
}

static void on_signal(void *arg, int signo)
{
    struct daemon *d = arg;

    LOG_INFO("storage", "stopping", "signal=%d", signo);
    os_env_stop(d->env, CLI_OK);
}

static int run(const struct cli *c, const struct config *config, uint32_t id)
{
    const struct config_node *node = config_storage(config, id);
    struct storage_config cfg = {.node = id};
    struct storage_server *server;
    struct daemon d = {0};
    const char *metas[CONFIG_METAS_MAX];
    int r;

    if (!node)
        return cli_failed(c, "%s has no section [storage.%u]", config->path, id);
    cli_await_room(node->data);
    r = cli_daemon_env(c, config, &d.env);
    if (r < 0)
        return cli_failed(c, "cannot start: %s", tc_strerror(r));
    for (uint32_t i = 0; i < config->n_metas; i++)
        metas[i] = config->metas[i].endpoint;
    cfg.zone = node->zone;
    cfg.dir = node->data;
    cfg.listen = node->listen ? node->listen : node->endpoint;
    cfg.advertise = node->endpoint;
    cfg.metas = metas;
    cfg.n_metas = config->n_metas;
    cfg.reserve_bytes = node->reserve;
    cfg.cache_bytes = config->limits.memory_max / 8;
    cfg.pending_bytes = config->limits.memory_max / 4;
    cfg.journal.segment_bytes = tc_test_value("TERCET_SEGMENT_BYTES", 0);
    cfg.scrub_rate = config->scrub.rate;
    cfg.scrub_interval_ns = config->scrub.interval ? config->scrub.interval * NS_PER_S : UINT64_MAX;
    cfg.fatal = on_fatal;
    cfg.fatal_arg = &d;
    /* Before the store's own threads exist: they would not have the signals blocked. */
    os_env_on_signal(d.env, SIGTERM, on_signal, &d);
    os_env_on_signal(d.env, SIGINT, on_signal, &d);
    r = storage_server_open(d.env, &cfg, &server);
    if (r == -TC_E_ADDRINUSE)
        return cli_failed(c, "cannot listen on %s: %s", cfg.listen, tc_strerror(r));
    if (r < 0)
        return cli_failed(c, "cannot open %s: %s", cfg.dir, tc_strerror(r));
    r = os_env_run(d.env);
    fflush(NULL);
    if (d.err == -TC_E_IO)
        (void)usleep(LAST_WORD_US);
    if (d.err == -TC_E_NOSPC)
        r = cli_again_with_room(c, cfg.dir);
    else if (d.err == -TC_E_DAMAGED)
        r = cli_again(c, "index or journal damaged"); /* as an empty store: see server_aside.c */
    else if (d.err)
        r = cli_failed(c, "ended: %s", tc_strerror(d.err));
    fflush(NULL);
    _exit(r); /* what was acknowledged is durable; disk jobs need not be waited for */
}

int main(int argc, char **argv)
{
    uint64_t id = 0;
    const struct cli_option options[] = {
        {.name = "id", .value = "N", .text = "which [storage.N] of the configuration this is", .number = &id},
        {0},
    };
    struct cli c = {.program = "tercet-storage",
                    .synopsis = "--config=FILE --id=N",
                    .summary = "A storage node of a Tercet cluster: keeps chunks of files, runs in the foreground.",
                    .options = options,
                    .config = true};
    struct config *config;
    int status;

    if (!cli_parse(&c, argc, argv, &status))
        return status;
    if (c.n_args)
        return cli_usage_error(&c, "unexpected argument: %s", c.args[0]);
    if (!c.check_config && !id)
        return cli_usage_error(&c, "--id=N is missing");
    if (!cli_config(&c, &config, &status))
        return status;
    status = id > UINT32_MAX ? cli_usage_error(&c, "--id is too large") : run(&c, config, (uint32_t)id);
    config_free(config);
    return status;
}
