/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What storage nodes on one disk do by themselves: N nodes as processes, one client that writes to all of them
 * at once (as a quorum write does, but waiting for every node) and reads from one.
 *
 *   bench-storage [NODES [DIR [SECONDS]]]
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/log.h"
#include "common/os_env.h"
#include "storage-world.h"

#define WINDOW_MAX 64
#define NODES_MAX 4
#define CHUNKS 256

struct slot {
    struct rpc_call calls[NODES_MAX];
    uint32_t left;
    uint64_t started;
};

static struct bench {
    struct env *env;
    struct fake_leader leader;
    struct rpc_link *links[NODES_MAX];
    uint64_t tag, pids[NODES_MAX];
    int n;
    struct env_timer timer;
    struct slot slots[WINDOW_MAX];
    struct buf *mib, *block;
    uint8_t sums[BLOCKS_PER_CHUNK * 8], sum[8];
    struct map map;
    uint64_t seq, done, errors, started, until, next;
    uint64_t lat[1 << 20];
    int phase;
    uint32_t window, seconds;
    char dir[256];
} b;

static const struct phase {
    const char *name;
    uint32_t window, blocks;
    bool read, once, warm;
} phases[] = {
    {"write 1 MiB, fresh chunks, 8 at once", 8, 256, false, true, false},
    {"write 1 MiB, more fresh chunks, 32 at once", 32, 256, false, true, true},
    {"write 1 MiB, again (live blocks), 8 at once", 8, 256, false, true, false},
    {"write 4 KiB, 1 at once", 1, 1, false, false, false},
    {"write 4 KiB, 16 at once", 16, 1, false, false, false},
    {"read 4 KiB, 1 at once", 1, 1, true, false, false},
    {"read 4 KiB, 16 at once", 16, 1, true, false, false},
    {"read 1 MiB, 4 at once", 4, 256, true, false, false},
};

static void next_phase(void);
static void issue(struct slot *s);

static int cmp(const void *x, const void *y)
{
    uint64_t p = *(const uint64_t *)x, q = *(const uint64_t *)y;

    return p < q ? -1 : p > q;
}

static void report(void)
{
    const struct phase *p = &phases[b.phase];
    double s = (double)(env_now(b.env) - b.started) / 1e9;
    uint64_t n = MIN(b.done, ARRAY_SIZE(b.lat));

    qsort(b.lat, n, sizeof b.lat[0], cmp);
    printf("%-46s %9.1f op/s %9.1f MB/s  p50 %7.0f us  p99 %7.0f us  errors %lu\n", p->name, (double)b.done / s,
           (double)b.done * p->blocks * 4096 / 1e6 / s, n ? (double)b.lat[n / 2] / 1e3 : 0,
           n ? (double)b.lat[n * 99 / 100] / 1e3 : 0, b.errors);
    fflush(stdout);
}

static bool over(void)
{
    if (phases[b.phase].once)
        return b.next >= CHUNKS;
    return env_now(b.env) >= b.until;
}

static void on_done(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct slot *s = NULL;
    uint32_t busy = 0;

    for (uint32_t i = 0; i < WINDOW_MAX && !s; i++) {
        if (c >= b.slots[i].calls && c < b.slots[i].calls + NODES_MAX)
            s = &b.slots[i];
    }
    if (reply->status < 0)
        b.errors++;
    if (--s->left)
        return;
    if (b.done < ARRAY_SIZE(b.lat))
        b.lat[b.done] = env_now(b.env) - s->started;
    b.done++;
    if (!over()) {
        issue(s);
        return;
    }
    for (uint32_t i = 0; i < b.window; i++)
        busy += b.slots[i].left;
    if (!busy) {
        report();
        b.phase++;
        next_phase();
    }
}

static void issue(struct slot *s)
{
    const struct phase *p = &phases[b.phase];
    uint32_t chunk = p->once ? (uint32_t)b.next + (p->warm ? CHUNKS : 0) : (uint32_t)(env_random(b.env) % CHUNKS);
    uint32_t first = p->blocks == 256 ? 0 : (uint32_t)(env_random(b.env) % 256);
    uint32_t pg = map_pg_of(&b.map, 10, chunk);
    struct write_item wi = {.pg = pg, .pg_epoch = b.leader.epoch, .ino = 10, .index = chunk, .first = first,
                            .count = p->blocks, .vepoch = 1, .vseq = ++b.seq,
                            .sums = {p->blocks == 256 ? b.sums : b.sum, p->blocks * 8}};
    struct read_item ri = {.pg = pg, .pg_epoch = b.leader.epoch, .ino = 10, .index = chunk, .first = first,
                           .count = p->blocks, .data = true};
    struct write_req w = {.session = 1, .barrier = b.leader.epoch, .items = {&wi, 1}};
    struct read_req r = {.session = 1, .barrier = b.leader.epoch, .items = {&ri, 1}};

    b.next++;
    s->started = env_now(b.env);
    s->left = p->read ? 1 : (uint32_t)b.n;
    for (int i = 0; i < b.n; i++) {
        s->calls[i].done = on_done;
        if (!p->read)
            rpc_call(b.links[i], &s->calls[i], MSG_WRITE, &write_req_schema, &w, p->blocks == 256 ? b.mib : b.block,
                     20 * NS_PER_S);
        else if (i == 0)
            rpc_call(b.links[i], &s->calls[i], MSG_READ, &read_req_schema, &r, NULL, 20 * NS_PER_S);
    }
}

static void next_phase(void)
{
    if (b.phase == (int)ARRAY_SIZE(phases)) {
        os_env_stop(b.env, 0);
        return;
    }
    b.done = b.errors = b.next = 0;
    b.started = env_now(b.env);
    b.until = b.started + b.seconds * NS_PER_S;
    b.window = phases[b.phase].window;
    for (uint32_t i = 0; i < b.window; i++)
        b.slots[i].left = 1;
    for (uint32_t i = 0; i < b.window; i++)
        issue(&b.slots[i]);
}

static void wait_ready(struct env_timer *t)
{
    int voters[NODES_MAX + 1] = {0}, have = 0;

    for (int i = 1; i <= b.n; i++)
        have += b.leader.stores[i] != 0;
    if (have == b.n && !b.leader.table) {
        for (int i = 0; i < b.n; i++)
            voters[i] = i + 1;
        fake_leader_place(&b.leader, voters, NULL);
        env_timer_set(b.env, t, env_now(b.env) + NS_PER_S);
        return;
    }
    if (b.leader.table)
        next_phase();
    else
        env_timer_set(b.env, t, env_now(b.env) + 50 * NS_PER_MS);
}

static void node(int i, unsigned port)
{
    char dir[300], listen[64], meta[64];
    const char *const metas[] = {meta};
    struct storage_config cfg = {.node = (uint32_t)i, .dir = dir, .listen = listen, .metas = metas, .n_metas = 1};
    struct storage_server *s;
    struct env *env;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(dir, sizeof dir, "%s/%d", b.dir, i);
    snprintf(listen, sizeof listen, "tcp://127.0.0.1:%u", port + (unsigned)i);
    snprintf(meta, sizeof meta, "tcp://127.0.0.1:%u", port);
    if (os_env_new(NULL, &env) < 0 || storage_server_open(env, &cfg, &s) < 0)
        exit(1);
    exit(os_env_run(env));
}

int main(int argc, char **argv)
{
    unsigned port = 30000 + (unsigned)getpid() % 20000;
    char ep[64], cmd[300];

    b.n = argc > 1 ? atoi(argv[1]) : 3;
    b.seconds = argc > 3 ? (uint32_t)atoi(argv[3]) : 3;
    snprintf(b.dir, sizeof b.dir, "%s/tc-bench-XXXXXX", argc > 2 ? argv[2] : "/tmp");
    if (b.n < 1 || b.n > NODES_MAX || !mkdtemp(b.dir))
        return 2;
    log_setup(LOG_LEVEL_WARN, 2);
    b.mib = buf_new(CHUNK_SIZE);
    b.mib->len = CHUNK_SIZE;
    b.block = buf_new(BLOCK_SIZE);
    b.block->len = BLOCK_SIZE;
    for (uint32_t i = 0; i < BLOCKS_PER_CHUNK; i++) {
        uint64_t sum;

        block_fill(b.mib->data + i * BLOCK_SIZE, 10, i, 1, 1);
        sum = XXH3_64bits(b.mib->data + i * BLOCK_SIZE, BLOCK_SIZE);
        memcpy(b.sums + 8 * i, &sum, 8);
    }
    memcpy(b.block->data, b.mib->data, BLOCK_SIZE);
    memcpy(b.sum, b.sums, 8);
    for (int i = 1; i <= b.n; i++) {
        pid_t pid = fork();

        if (pid == 0)
            node(i, port);
        b.pids[i - 1] = (uint64_t)pid;
        printf("node %d: pid %d\n", i, pid);
    }
    if (os_env_new(NULL, &b.env) < 0)
        return 1;
    snprintf(ep, sizeof ep, "tcp://127.0.0.1:%u", port);
    if (fake_leader_open(&b.leader, b.env, ep) < 0)
        return 1;
    b.tag = map_cluster_tag(b.leader.cluster);
    b.map.pg_count = PGS;
    for (int i = 0; i < b.n; i++) {
        snprintf(ep, sizeof ep, "tcp://127.0.0.1:%u", port + 1 + (unsigned)i);
        if (rpc_link_open(b.env, ep, &b.tag, &b.links[i]) < 0)
            return 1;
    }
    b.timer.fn = wait_ready;
    env_timer_set(b.env, &b.timer, env_now(b.env) + 50 * NS_PER_MS);
    (void)os_env_run(b.env);
    for (int i = 0; i < b.n; i++) {
        kill((pid_t)b.pids[i], SIGTERM);
        waitpid((pid_t)b.pids[i], NULL, 0);
    }
    snprintf(cmd, sizeof cmd, "rm -rf %s", b.dir);
    return system(cmd) != 0;
}
