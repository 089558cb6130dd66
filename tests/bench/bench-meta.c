/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata operations of N clients against a running group, without a mount between:
 *
 *   bench-meta --clients=N --depth=D --ops=K [--pid=P] ENDPOINT...
 *
 * N processes are N clients (sessions, sockets, leases of their own), each with D operations under way and a
 * directory of its own, and answers recalls while it waits for the others. All start each phase together: mkdir, create, lookup (of another client's names,
 * none of them asked for before), readdir (the same directory, per entry), rename, unlink. One line of JSON per phase:
 * operations per second of all together, percentiles of the latency in microseconds, and, with the pid of
 * the leader, its CPU time per operation. Everything made is removed.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/client.h"
#include "common/cli.h"
#include "common/os_env.h"

enum phase { MKDIR, CREATE, LOOKUP, READDIR, RENAME, UNLINK, RMDIR, PHASES };

static const char *const phase_names[PHASES] = {"mkdir", "create", "lookup", "readdir", "rename", "unlink", "rmdir"};

#define CLIENTS_MAX 64
#define DEPTH_MAX 256
#define READDIR_ENTRIES 128
#define POLL_NS (500 * NS_PER_US)

/* Shared by all processes. Children write their own part and count themselves in; the parent, when all are there, lets
 * them go to the next step. */
struct shared {
    _Atomic uint64_t arrived, step;
    uint64_t dirs[CLIENTS_MAX];
    uint64_t done[CLIENTS_MAX]; /* operations of the phase */
    uint64_t n[CLIENTS_MAX];    /* samples of the phase */
    uint32_t ns[];              /* latencies, ops of them per client */
};

static struct shared *sh;
static uint64_t n_clients = 1, depth = 1, ops = 1000;

/* ---- one client ---- */

struct slot {
    uint64_t started;
    bool busy;
};

static struct env *env;
static struct tc_client *client;
static const struct tc_cred cred = {0, 0, 022};
static unsigned self;
static enum phase phase;
static uint64_t next_op, under_way, cookie;
static struct slot slots[DEPTH_MAX];

static void fail(const char *what, int status)
{
    fprintf(stderr, "bench-meta: client %u: %s: %s\n", self, what, tc_strerror(status));
    kill(getppid(), SIGTERM);
    _exit(CLI_FAILED);
}

static void start_one(struct slot *s);

static void over(struct slot *s, int status, uint64_t entries)
{
    uint64_t took = env_now(env) - s->started;

    if (status != 0)
        fail(phase_names[phase], status);
    sh->ns[self * ops + sh->n[self]++] = (uint32_t)MIN(took, UINT32_MAX);
    sh->done[self] += entries;
    s->busy = false;
    under_way--;
    if (next_op < ops)
        start_one(s);
    else if (under_way == 0)
        os_env_stop(env, 0);
}

static void on_status(void *arg, int status)
{
    over(arg, status, 1);
}

static void on_entry(void *arg, int status, const struct tc_entry *e)
{
    if (status == 0 && phase == LOOKUP && e->ino == 0)
        status = -TC_E_NOENT;
    if (status == 0 && e->ino)
        tc_forget(client, e->ino, 1);
    over(arg, status, 1);
}

static void on_readdir(void *arg, int status, const struct tc_dirent *e, unsigned n, bool eof)
{
    for (unsigned k = 0; status == 0 && k < n; k++) {
        if (e[k].entry)
            tc_forget(client, e[k].ino, 1);
    }
    cookie = n ? e[n - 1].cookie : cookie;
    if (eof)
        next_op = ops;
    over(arg, status, n);
}

static void start_one(struct slot *s)
{
    uint64_t own = sh->dirs[self], other = sh->dirs[(self + 1) % n_clients];
    char name[32], to[32];

    snprintf(name, sizeof name, "%c%llu", phase == MKDIR || phase == RMDIR ? 'd' : 'f', (unsigned long long)next_op);
    snprintf(to, sizeof to, "g%llu", (unsigned long long)next_op);
    s->started = env_now(env);
    s->busy = true;
    under_way++;
    next_op++;
    switch (phase) {
    case MKDIR:
        (void)tc_make(client, own, name, S_IFDIR | 0755, 0, NULL, &cred, true, false, on_entry, s);
        return;
    case CREATE:
        (void)tc_make(client, own, name, S_IFREG | 0644, 0, NULL, &cred, true, false, on_entry, s);
        return;
    case LOOKUP:
        (void)tc_lookup(client, other, name, on_entry, s);
        return;
    case READDIR:
        (void)tc_readdir(client, other, cookie, READDIR_ENTRIES, true, on_readdir, s);
        return;
    case RENAME:
        (void)tc_rename(client, own, name, own, to, 0, on_status, s);
        return;
    case UNLINK:
        (void)tc_unlink(client, own, to, false, on_status, s);
        return;
    case RMDIR:
        (void)tc_unlink(client, own, name, true, on_status, s);
        return;
    case PHASES:
    default:
        ASSERT(false);
    }
}

static struct {
    int status;
    uint64_t ino;
} one;

static void one_status(void *arg TC_UNUSED, int status)
{
    one.status = status;
    os_env_stop(env, 0);
}

static void one_entry(void *arg TC_UNUSED, int status, const struct tc_entry *e)
{
    one.status = status;
    one.ino = status == 0 ? e->ino : 0;
    os_env_stop(env, 0);
}

static void wait_one(const char *what)
{
    (void)os_env_run(env);
    if (one.status != 0)
        fail(what, one.status);
}

static uint64_t steps;

static void on_poll(struct env_timer *t)
{
    if (atomic_load(&sh->step) > steps)
        os_env_stop(env, 0);
    else
        env_timer_set(env, t, env_now(env) + POLL_NS);
}

/* Wait for all others, alive meanwhile: their recalls must be answered. */
static void meet(void)
{
    struct env_timer t = {.fn = on_poll};

    atomic_fetch_add(&sh->arrived, 1);
    env_timer_set(env, &t, env_now(env));
    (void)os_env_run(env);
    steps++;
}

static void run_client(const char *const *members, unsigned n_members)
{
    const struct tc_client_config cfg = {.members = members, .n_members = n_members, .name = "bench-meta", .wait_ms = 30000};
    char name[64];

    snprintf(name, sizeof name, "bench-meta-%d-%u", (int)getppid(), self);
    if (os_env_new(NULL, &env) < 0 || tc_client_open(env, &cfg, one_status, NULL, &client) < 0)
        fail("start", -TC_E_NOMEM);
    wait_one("session");
    (void)tc_make(client, tc_client_root(client), name, S_IFDIR | 0755, 0, NULL, &cred, true, false, one_entry, NULL);
    wait_one("mkdir");
    sh->dirs[self] = one.ino;
    for (phase = 0; phase < PHASES; phase++) {
        sh->n[self] = sh->done[self] = next_op = under_way = cookie = 0;
        meet();
        for (uint64_t k = 0; k < (phase == READDIR ? 1 : MIN(depth, ops)); k++)
            start_one(&slots[k]);
        (void)os_env_run(env);
        meet();
        meet(); /* the parent has read the samples */
    }
    (void)tc_unlink(client, tc_client_root(client), name, true, one_status, NULL);
    wait_one("rmdir");
    tc_client_shutdown(client, 5000, one_status, NULL);
    wait_one("shutdown");
    _exit(CLI_OK);
}

/* ---- the parent ---- */

static uint64_t wall_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* CPU time of @pid in microseconds, 0 if it cannot be told. */
static double cpu_us(uint64_t pid)
{
    struct timespec ts = {0};
    clockid_t clock;

    if (pid && clock_getcpuclockid((pid_t)pid, &clock) == 0)
        (void)clock_gettime(clock, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void let_go(void)
{
    static uint64_t n;

    n += n_clients;
    while (atomic_load(&sh->arrived) < n)
        (void)usleep(100);
    atomic_fetch_add(&sh->step, 1);
}

static void report(enum phase p, uint64_t took, double cpu)
{
    uint64_t n = 0, done = 0;
    uint32_t *all = tc_malloc(n_clients * ops * sizeof *all);

    for (unsigned c = 0; c < n_clients; c++) {
        memcpy(all + n, sh->ns + c * ops, sh->n[c] * sizeof *all);
        n += sh->n[c];
        done += sh->done[c];
    }
    qsort(all, n, sizeof *all, by_value);
    printf("{\"op\": \"%s\", \"clients\": %llu, \"depth\": %llu, \"n\": %llu, \"per_s\": %.0f, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"max_us\": %.1f, \"leader_cpu_us\": %.1f}\n",
           phase_names[p], (unsigned long long)n_clients, (unsigned long long)depth, (unsigned long long)done,
           (double)done * 1e9 / (double)took, all[n / 2] / 1e3, all[n * 99 / 100] / 1e3, all[n - 1] / 1e3,
           cpu / (double)done);
    fflush(stdout);
    free(all);
}

int main(int argc, char **argv)
{
    uint64_t pid = 0;
    const struct cli_option options[] = {
        {.name = "clients", .value = "N", .text = "processes, each a client", .number = &n_clients},
        {.name = "depth", .value = "D", .text = "operations under way per client", .number = &depth},
        {.name = "ops", .value = "K", .text = "operations of each kind per client", .number = &ops},
        {.name = "pid", .value = "P", .text = "the leader's process: its CPU time is counted", .number = &pid},
        {0},
    };
    struct cli cli = {.program = "bench-meta", .synopsis = "[OPTION...] ENDPOINT...",
                      .summary = "Metadata operations per second and their latency.", .options = options};
    int status;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args < 1 || n_clients < 1 || n_clients > CLIENTS_MAX || depth < 1 || depth > DEPTH_MAX || ops < 1 || ops > 10000000)
        return cli_usage_error(&cli, "endpoints of the group are missing, or a number is out of range");
    sh = mmap(NULL, sizeof *sh + n_clients * ops * sizeof(uint32_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sh == MAP_FAILED)
        return cli_failed(&cli, "no memory");
    for (self = 0; self < n_clients; self++) {
        if (fork() == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            run_client((const char *const *)cli.args, (unsigned)cli.n_args);
        }
    }
    for (phase = 0; phase < PHASES; phase++) {
        uint64_t start;
        double cpu;

        let_go();
        start = wall_ns();
        cpu = cpu_us(pid);
        let_go();
        report(phase, wall_ns() - start, cpu_us(pid) - cpu);
        let_go();
    }
    while (wait(&status) > 0) {
        if (status != 0)
            return CLI_FAILED;
    }
    return CLI_OK;
}
