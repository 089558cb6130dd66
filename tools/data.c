/* SPDX-License-Identifier: Apache-2.0 */
#include "data.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "common/os_env.h"

#define FUSE_MAGIC 0x65735546

/* The whole map, from the leader. Returns 0 or an exit status. */
static int map_get(struct tool_data *d)
{
    struct map_get_req body = {.have = 0};
    struct rpc_request req = {.type = MSG_MAP_GET, .body = &body, .timeout_ms = TOOL_TIMEOUT_MS};
    struct wire_arena arena = {0};
    struct cluster_map msg;
    struct rpc_answer a;
    const char *endpoint, *hex;
    uint8_t cluster[16] = {0};
    int r;

    tool_status_ask(d->env, &d->members, TOOL_TIMEOUT_MS, &d->status);
    if (d->status.leader < 0)
        return cli_failed(d->cli, "no metadata leader answers; see tercet status");
    endpoint = d->members.endpoints[d->status.leader];
    hex = json_text(d->status.docs[d->status.leader], "cluster", "");
    for (size_t i = 0; i < 16 && strlen(hex) == 32; i++)
        sscanf(hex + 2 * i, "%2hhx", &cluster[i]);
    req.cluster = d->tag = map_cluster_tag(cluster);
    rpc_ask(d->env, &endpoint, 1, &req, &a);
    r = a.status;
    if (r == 0)
        r = wire_decode(a.body, &cluster_map_schema, &arena, &msg);
    if (r == 0)
        r = map_apply(d->map, &msg);
    wire_arena_fini(&arena);
    rpc_answers_fini(&a, 1);
    if (r == 0 && !d->map->pgs)
        r = -TC_E_NO_MAP;
    return r < 0 ? cli_failed(d->cli, "cannot get the cluster map: %s", tc_strerror(r)) : 0;
}

bool tool_data_open(struct cli *cli, const char *servers, struct tool_data *d, int *ret_status)
{
    *d = (struct tool_data){.cli = cli};
    if (!tool_members_open(cli, servers, &d->members, ret_status))
        return false;
    d->map = map_new();
    if (os_env_new(&(struct os_env_options){.threads = 1}, &d->env) < 0) {
        *ret_status = cli_failed(cli, "cannot start");
        return false;
    }
    *ret_status = map_get(d);
    return *ret_status == 0;
}

void tool_data_close(struct tool_data *d)
{
    if (!d->map)
        return;
    if (d->status.docs)
        tool_status_fini(&d->status);
    map_free(d->map);
    os_env_free(d->env);
    tool_members_fini(&d->members);
}

bool tool_on_mount(const char *path)
{
    struct statfs fs;

    return statfs(path, &fs) < 0 || fs.f_type == FUSE_MAGIC;
}

bool tool_file_open(const struct cli *cli, const char *path, struct tool_file *f, int *ret_status)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct statfs fs;
    struct stat st;
    bool ok = false;

    if (fd < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
        *ret_status = cli_failed(cli, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || fs.f_type != FUSE_MAGIC)
        *ret_status = cli_failed(cli, "%s: not a regular file on a Tercet mount", path);
    else if (fsync(fd) < 0)
        *ret_status = cli_failed(cli, "%s: %s", path, strerror(errno));
    else
        ok = true;
    if (fd >= 0)
        close(fd);
    if (ok)
        *f = (struct tool_file){.ino = st.st_ino,
                                .size = (uint64_t)st.st_size,
                                .chunks = (uint32_t)(((uint64_t)st.st_size + TOOL_CHUNK_BYTES - 1) / TOOL_CHUNK_BYTES)};
    return ok;
}

const json_t *tool_store_status(const struct tool_data *d, uint64_t store)
{
    const json_t *s;
    char id[17];
    size_t i;

    snprintf(id, sizeof id, "%016llx", (unsigned long long)store);
    json_array_foreach(json_object_get(d->status.docs[d->status.leader], "stores"), i, s)
    {
        if (!strcmp(json_text(s, "store", ""), id))
            return s;
    }
    return NULL;
}

uint64_t tool_store_id(const json_t *store)
{
    return strtoull(json_text(store, "store", "0"), NULL, 16);
}

void tool_scrub_ask(struct tool_data *d, const char *const *endpoints, const uint64_t *stores, unsigned n,
                    const struct scrub_req *req, uint64_t timeout_ms, json_t **docs, int *statuses)
{
    struct rpc_request r = {MSG_SCRUB, d->tag, req, timeout_ms, stores};
    struct rpc_answer *a = tc_calloc(n + 1, sizeof *a);

    rpc_ask(d->env, endpoints, n, &r, a);
    for (unsigned i = 0; i < n; i++) {
        struct wire_arena arena = {0};
        struct status_res res;

        docs[i] = NULL;
        statuses[i] = a[i].status;
        if (statuses[i] == 0)
            statuses[i] = wire_decode(a[i].body, &status_res_schema, &arena, &res);
        if (statuses[i] == 0)
            docs[i] = json_loadb(res.json.p, res.json.n, 0, NULL);
        if (statuses[i] == 0 && !docs[i])
            statuses[i] = -TC_E_BAD_MESSAGE;
        wire_arena_fini(&arena);
    }
    rpc_answers_fini(a, n);
    free(a);
}

const char *format_time(uint64_t ns, char out[32])
{
    time_t t = (time_t)(ns / 1000000000u);
    struct tm tm;

    if (!ns || !localtime_r(&t, &tm) || !strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(out, 32, "never");
    return out;
}
