/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lookups as a mount sees them: another process asks over ZeroMQ, message by message as the protocol has them, and waits
 * for each answer. What it asks alternates between few files and all, so that both meet the same machine.
 *
 * The asking process is begun before the store is opened, for threads do not survive a fork. The two share one page of
 * orders, and the directories' inodes.
 */
#include "namespace.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/os_env.h"
#include "common/schema.h"

#define ROUNDS 20000u /* of each kind */

struct mount {
    char endpoint[64];
    uint64_t session, n_all;
    double few_mean, few_median, all_mean, all_median; /* ns */
    uint64_t dirs[];
};

static struct mount *mount;
static int go[2];
static struct env *env;
static struct net_port *port;
static struct wire_arena arena;

/* ---- the asking process ---- */

static uint64_t samples[2][ROUNDS], asked, asked_at;

static void ask(void)
{
    static uint64_t x = 88172645463325252u;
    struct lookup_req req = {.ctx = {.session = mount->session, .incarnation = 1}, .has_ctx = true};
    struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_LOOKUP, .id = asked};
    char name[32];
    uint64_t i;

    x = namespace_random(x);
    i = x % (asked % 2 ? mount->n_all : NAMESPACE_FEW);
    snprintf(name, sizeof name, "file-%llu", (unsigned long long)i);
    req.parent = mount->dirs[i / NAMESPACE_PER_DIR];
    req.name = wire_str_of(name);
    asked_at = namespace_now();
    (void)env_send(port, 0, wire_encode_frame(&h, &lookup_req_schema, &req), NULL);
}

static void answered(void *arg TC_UNUSED, uint64_t peer TC_UNUSED, struct buf *head, struct buf *p TC_UNUSED)
{
    struct entry_res res;
    struct wire_header h;
    struct slice body;

    wire_arena_reset(&arena);
    namespace_must(wire_check_frame(slice_of(head->data, head->len), &h, &body), "answer");
    namespace_must(wire_decode(body, &entry_res_schema, &arena, &res), "answer");
    samples[asked % 2][asked / 2] = namespace_now() - asked_at;
    if (++asked == 2 * (uint64_t)ROUNDS)
        os_env_stop(env, 0);
    else
        ask();
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static double mean_of(uint64_t *s, double *ret_median)
{
    double sum = 0;

    qsort(s, ROUNDS, sizeof *s, compare);
    for (unsigned i = 0; i < ROUNDS; i++)
        sum += (double)s[i];
    *ret_median = (double)s[ROUNDS / 2];
    return sum / ROUNDS;
}

static void asker_run(void)
{
    struct wire_header bye = {.kind = WIRE_NOTICE, .type = MSG_LOOKUP};
    char c;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(go[0], &c, 1) != 1)
        exit(1);
    namespace_must(os_env_new(NULL, &env), "env");
    namespace_must(env_connect(env, mount->endpoint, answered, NULL, &port), "connect");
    ask();
    os_env_run(env);
    mount->few_mean = mean_of(samples[0], &mount->few_median);
    mount->all_mean = mean_of(samples[1], &mount->all_median);
    (void)env_send(port, 0, wire_encode_frame(&bye, NULL, NULL), NULL);
    for (;;)
        pause();
}

pid_t namespace_mount_begin(uint64_t n)
{
    size_t size = sizeof *mount + (n / NAMESPACE_PER_DIR + 1) * sizeof mount->dirs[0];
    pid_t pid;

    mount = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    namespace_must(mount == MAP_FAILED || pipe(go) < 0 ? -TC_E_IO : 0, "shared memory");
    mount->n_all = n;
    pid = fork();
    if (pid == 0)
        asker_run();
    return pid;
}

/* ---- the answering process, this one ---- */

struct served {
    struct fsm *fsm;
};

static void request(void *arg, uint64_t peer, struct buf *head, struct buf *p TC_UNUSED)
{
    struct served *s = arg;
    struct entry_res res = {.has_attr = true, .has_dir = true};
    struct lookup_req req;
    struct wire_header h;
    struct slice body;

    wire_arena_reset(&arena);
    namespace_must(wire_check_frame(slice_of(head->data, head->len), &h, &body), "request");
    if (h.kind == WIRE_NOTICE) {
        os_env_stop(env, 0);
        return;
    }
    namespace_must(wire_decode(body, &lookup_req_schema, &arena, &req), "request");
    namespace_must(fsm_lookup(s->fsm, req.ctx.session, req.parent, req.name, &arena, &res.attr, &res.dir), "lookup");
    h.kind = WIRE_REPLY;
    (void)env_send(port, peer, wire_encode_frame(&h, &entry_res_schema, &res), NULL);
}

void namespace_mount_run(struct fsm *fsm, uint64_t session, const uint64_t *dirs)
{
    struct served served = {fsm};

    mount->session = session;
    memcpy(mount->dirs, dirs, (mount->n_all / NAMESPACE_PER_DIR) * sizeof *dirs);
    namespace_must(os_env_new(NULL, &env), "env");
    namespace_must(env_listen(env, "tcp://127.0.0.1:*", request, &served, &port), "listen");
    strncpy(mount->endpoint, os_env_endpoint(port), sizeof mount->endpoint - 1);
    namespace_must(write(go[1], "", 1) == 1 ? 0 : -TC_E_IO, "pipe");
    os_env_run(env);
    printf("mount      a lookup by message, mean (median): %.1f (%.1f) us among 10 thousand, %.1f (%.1f) among all, in turn: "
           "%.2f (%.2f) times as slow\n",
           mount->few_mean / 1e3, mount->few_median / 1e3, mount->all_mean / 1e3, mount->all_median / 1e3,
           mount->all_mean / mount->few_mean, mount->all_median / mount->few_median);
    env_port_close(port);
    env = os_env_free(env);
}
