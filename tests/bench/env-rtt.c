/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Round trips between two envs in two processes: env-rtt [COUNT [PAYLOAD [raw | WINDOW]]]. Prints
 * percentiles in microseconds. With "raw" the same over bare ZeroMQ sockets with blocking calls: what the
 * transport costs without our loop. With a window so many are under way at once, and the rate is printed.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "common/os_env.h"

static struct env *env;
static struct net_port *port;
static uint64_t *samples, t0;
static int n_samples, n_max, window = 1, n_sent;
static struct buf *payload;

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void echo(void *arg TC_UNUSED, uint64_t peer, struct buf *head, struct buf *p)
{
    env_send(port, peer, buf_ref(head), p ? buf_ref(p) : NULL);
}

static void ping(void)
{
    struct buf *head = buf_new(128);

    head->len = 128;
    memset(head->data, 0, 128);
    t0 = now_ns();
    memcpy(head->data, &t0, sizeof t0);
    n_sent++;
    env_send(port, 0, head, payload ? buf_ref(payload) : NULL);
}

static void pong(void *arg TC_UNUSED, uint64_t peer TC_UNUSED, struct buf *head,
                 struct buf *p TC_UNUSED)
{
    uint64_t sent;

    memcpy(&sent, head->data, sizeof sent);
    samples[n_samples++] = now_ns() - sent;
    if (n_samples == n_max)
        os_env_stop(env, 0);
    else if (n_sent == 1 && window > 1)
        while (n_sent < n_max && n_sent < window)
            ping();
    else if (n_sent < n_max)
        ping();
}

static void serve_raw(int out)
{
    void *ctx = zmq_ctx_new(), *s = zmq_socket(ctx, ZMQ_ROUTER);
    char endpoint[64] = "";
    size_t len = sizeof endpoint;

    if (zmq_bind(s, "tcp://127.0.0.1:*") < 0)
        exit(1);
    zmq_getsockopt(s, ZMQ_LAST_ENDPOINT, endpoint, &len);
    (void)!write(out, endpoint, sizeof endpoint);
    for (;;) {
        zmq_msg_t m;
        int more;

        zmq_msg_init(&m);
        zmq_msg_recv(&m, s, 0);
        more = zmq_msg_more(&m);
        zmq_msg_send(&m, s, more ? ZMQ_SNDMORE : 0);
    }
}

static void run_raw(const char *endpoint)
{
    void *ctx = zmq_ctx_new(), *s = zmq_socket(ctx, ZMQ_DEALER);
    char head[128] = "";

    zmq_connect(s, endpoint);
    while (n_samples < n_max) {
        t0 = now_ns();
        zmq_send(s, head, sizeof head, payload ? ZMQ_SNDMORE : 0);
        if (payload)
            zmq_send(s, payload->data, payload->len, 0);
        zmq_recv(s, head, sizeof head, 0);
        if (payload)
            zmq_recv(s, payload->data, payload->len, 0);
        samples[n_samples++] = now_ns() - t0;
    }
}

static void serve(int out)
{
    char endpoint[64] = "";

    if (os_env_new(NULL, &env) < 0 || env_listen(env, "tcp://127.0.0.1:*", echo, NULL, &port) < 0)
        exit(1);
    strncpy(endpoint, os_env_endpoint(port), sizeof endpoint - 1);
    (void)!write(out, endpoint, sizeof endpoint);
    os_env_run(env);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    uint32_t size = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    bool raw = argc > 3 && strcmp(argv[3], "raw") == 0;
    uint64_t begun;
    char endpoint[64];
    int fds[2];
    pid_t pid;

    if (argc > 3 && !raw)
        window = atoi(argv[3]);
    n_max = argc > 1 ? atoi(argv[1]) : 5000;
    samples = tc_calloc((size_t)n_max, sizeof *samples);
    if (pipe(fds) < 0)
        return 1;
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (raw)
            serve_raw(fds[1]);
        serve(fds[1]);
        return 0;
    }
    if (read(fds[0], endpoint, sizeof endpoint) != (ssize_t)sizeof endpoint)
        return 1;
    if (size > 0) {
        payload = buf_new(size);
        payload->len = size;
        memset(payload->data, 1, size);
    }
    begun = now_ns();
    if (raw) {
        run_raw(endpoint);
    } else {
        if (os_env_new(NULL, &env) < 0 || env_connect(env, endpoint, pong, NULL, &port) < 0)
            return 1;
        ping();
        os_env_run(env);
    }
    printf("%.0f round trips a second\n", (double)n_samples * 1e9 / (double)(now_ns() - begun));
    qsort(samples, (size_t)n_samples, sizeof *samples, compare);
    printf("rtt us: p50 %.1f p90 %.1f p99 %.1f (%d round trips, payload %u%s)\n",
           (double)samples[n_samples / 2] / 1e3, (double)samples[n_samples * 9 / 10] / 1e3,
           (double)samples[n_samples * 99 / 100] / 1e3, n_samples, size, raw ? ", raw" : "");
    kill(pid, SIGKILL);
    return 0;
}
