/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stand-in for a metadata member, for tests of the command-line tools alone: it answers STATUS with the
 * text of the file STATUS_DIR/ID.json and FORMAT with 0 (making the file formatted-ID.json the answer).
 *
 *   STATUS_DIR=dir fake-meta --config=FILE --id=N
 *
 * Called by a name with "storage" in it, it stands for a storage node instead.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cli.h"
#include "common/os_env.h"
#include "common/schema.h"

static struct net_port *port;
static uint64_t id;
static bool formatted;

static void on_request(void *arg TC_UNUSED, uint64_t peer, struct buf *head, struct buf *payload TC_UNUSED)
{
    struct wire_header h;
    struct status_res res = {0};
    char path[512], json[65536];
    struct slice body;
    FILE *f;
    size_t n;

    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0 || h.kind != WIRE_REQUEST)
        return;
    h.kind = WIRE_REPLY;
    h.status = 0;
    if (h.type == MSG_FORMAT) {
        formatted = true;
        env_send(port, peer, wire_encode_frame(&h, NULL, NULL), NULL);
        return;
    }
    snprintf(path, sizeof path, "%s/%s%llu.json", getenv("STATUS_DIR"), formatted ? "formatted-" : "",
             (unsigned long long)id);
    f = fopen(path, "re");
    if (!f)
        return; /* a member that hangs */
    n = fread(json, 1, sizeof json, f);
    (void)fclose(f);
    res.json = (struct wire_str){json, (uint32_t)n};
    env_send(port, peer, wire_encode_frame(&h, &status_res_schema, &res), NULL);
}

static void on_signal(void *arg, int signo TC_UNUSED)
{
    os_env_stop(arg, 0);
}

int main(int argc, char **argv)
{
    const struct cli_option options[] = {{.name = "id", .value = "N", .text = "which", .number = &id}, {0}};
    struct cli cli = {.program = "fake-meta", .synopsis = "", .summary = "", .options = options, .config = true};
    struct config *config = NULL;
    const struct config_node *own;
    struct env *env;
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status) || !cli_config(&cli, &config, &status))
        return status;
    own = strstr(argv[0], "storage") ? config_storage(config, (uint32_t)id) : config_meta(config, (uint32_t)id);
    if (!own || !getenv("STATUS_DIR") || cli_daemon_env(&cli, config, &env) < 0)
        return cli_usage_error(&cli, "no such id, or no STATUS_DIR");
    status = env_listen(env, own->endpoint, on_request, NULL, &port);
    if (status < 0)
        return cli_failed(&cli, "%s: %s", own->endpoint, tc_strerror(status));
    os_env_on_signal(env, SIGTERM, on_signal, env);
    status = os_env_run(env);
    config_free(config);
    os_env_free(env);
    return status;
}
