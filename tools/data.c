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

#define MEMBER_SILENT_MS 2000

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

    tool_leader_ask(d->env, &d->members, TOOL_TIMEOUT_MS, &d->status);
    d->looked = env_now(d->env);
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

bool tool_member_silent(const struct tool_data *d, uint32_t id)
{
    const json_t *m = json_by_id(json_object_get(d->status.docs[d->status.leader], "members"), id);

    return !m || json_u64(m, "silent_ms", 0) > MEMBER_SILENT_MS;
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

/* ---- stores ---- */

#define WALK_MAX 64 /* chunks of a file that are walked through without looking for holes */
#define LOOK_NS (2 * NS_PER_S) /* old so much, what the leader says of one that is down is asked for again */

/* Who is up may have changed. Without a leader what was known stays. */
static void look_again(struct tool_data *d)
{
    struct tool_status now;

    tool_leader_ask(d->env, &d->members, TOOL_TIMEOUT_MS, &now);
    d->looked = env_now(d->env);
    if (now.leader >= 0) {
        tool_status_fini(&d->status);
        d->status = now;
    } else {
        tool_status_fini(&now);
    }
}

static bool is_down(const struct tool_data *d, uint64_t store)
{
    return store && !strcmp(json_text(tool_store_status(d, store), "state", ""), "down");
}

void tool_stores_ask(struct tool_data *d, const char *const *endpoints, unsigned n, const struct rpc_request *req,
                     struct rpc_answer *answers)
{
    const char **up = tc_calloc(n + 1, sizeof *up);
    uint64_t *ids = tc_calloc(n + 1, sizeof *ids);
    struct rpc_answer *a = tc_calloc(n + 1, sizeof *a);
    struct rpc_request asked = *req;
    unsigned n_up = 0;
    bool silent = false;

    for (unsigned i = 0; i < n && env_now(d->env) - d->looked > LOOK_NS; i++) {
        if (is_down(d, req->stores[i]))
            look_again(d);
    }
    for (unsigned i = 0; i < n; i++) {
        answers[i] = (struct rpc_answer){.status = is_down(d, req->stores[i]) ? -TC_E_UNREACHABLE : 0};
        if (answers[i].status == 0) {
            ids[n_up] = req->stores[i];
            up[n_up++] = endpoints[i];
        }
    }
    asked.stores = ids;
    rpc_ask(d->env, up, n_up, &asked, a);
    for (unsigned i = n, k = n_up; i-- > 0;) {
        if (answers[i].status == 0)
            answers[i] = a[--k];
        silent = silent || answers[i].status == -TC_E_DEADLINE;
    }
    if (silent)
        look_again(d);
    free(up);
    free(ids);
    free(a);
}

/* The first of the file's chunks at or behind @from that a store has. False: they cannot say. */
static bool chunk_seek(struct tool_data *d, const struct tool_file *f, uint32_t from, uint32_t *ret_index)
{
    unsigned n = d->map->n_stores, silent = 0;
    const char **endpoints = tc_calloc(n + 1, sizeof *endpoints);
    uint64_t *ids = tc_calloc(n + 1, sizeof *ids);
    struct rpc_answer *a = tc_calloc(n + 1, sizeof *a);
    struct chunk_seek_req body = {.barrier = d->map->epoch, .ino = f->ino, .from = from, .to = f->chunks};
    struct rpc_request req = {MSG_CHUNK_SEEK, d->tag, &body, TOOL_TIMEOUT_MS, ids, NULL};

    for (unsigned i = 0; i < n; i++) {
        ids[i] = d->map->stores[i].store;
        endpoints[i] = d->map->stores[i].endpoint;
    }
    tool_stores_ask(d, endpoints, n, &req, a);
    *ret_index = f->chunks;
    for (unsigned i = 0; i < n; i++) {
        struct wire_arena arena = {0};
        struct chunk_seek_res res = {0};

        if (a[i].status < 0 || wire_decode(a[i].body, &chunk_seek_res_schema, &arena, &res) < 0)
            silent++;
        else if (res.found)
            *ret_index = MIN(*ret_index, res.index);
        wire_arena_fini(&arena);
    }
    rpc_answers_fini(a, n);
    free(endpoints);
    free(ids);
    free(a);
    return silent < d->map->w; /* what was acknowledged is with somebody who answered */
}

uint32_t tool_chunk_from(struct tool_data *d, const struct tool_file *f, uint32_t from)
{
    uint32_t index;

    if (f->chunks <= WALK_MAX)
        return from;
    return from < f->chunks && chunk_seek(d, f, from, &index) ? MAX(index, from) : from;
}

void tool_scrub_ask(struct tool_data *d, const char *const *endpoints, const uint64_t *stores, unsigned n,
                    const struct scrub_req *req, uint64_t timeout_ms, json_t **docs, int *statuses)
{
    struct rpc_request r = {MSG_SCRUB, d->tag, req, timeout_ms, stores, NULL};
    struct rpc_answer *a = tc_calloc(n + 1, sizeof *a);

    tool_stores_ask(d, endpoints, n, &r, a);
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
