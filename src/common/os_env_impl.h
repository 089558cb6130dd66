/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the real env share: os_env.c (timers, tasks, jobs, turns of the loop), os_wait.c (what it waits for,
 * and how) and os_net.c (ZeroMQ).
 * Nobody else includes this.
 */
#pragma once

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <time.h>

#include "common/os_env.h"

struct os_port;

struct os_fd {
    int fd;
    short events;
    bool dead; /* removed during dispatch; swept before the next poll */
    void (*fn)(void *arg, short revents);
    void *arg;
};

struct os_signal {
    void (*fn)(void *arg, int signo);
    void *arg;
};

#define OS_SIGNAL_MAX 65
#define OS_EVENTS_MAX 32

struct os_env {
    struct env base;
    struct os_env_options opt;

    /* The clock is read once per callback that asks. */
    uint64_t now;
    bool now_valid;
    uint8_t random[256];
    size_t random_left;

    struct env_timer **heap; /* 1-based: heap[0] is unused */
    size_t heap_n, heap_cap;
    uint64_t timer_order;

    struct env_task *task_head, **task_tail;
    size_t n_tasks;

    /* Disk threads. Everything here, and q->head/tail/running, under @lock. */
    pthread_mutex_t lock;
    pthread_cond_t work, apart_over;
    pthread_t *threads;
    uint32_t n_threads, n_idle;
    uint32_t n_apart; /* jobs of queues apart that run, each on a thread made for it */
    struct env_job *todo_head, **todo_tail;
    struct env_job *done_head, **done_tail;
    bool quit;

    /* Wakes the loop. A waker writes only if the loop says that it sleeps. */
    int event_fd;
    atomic_bool sleeping;
    atomic_bool done_any;
    atomic_bool stopping;
    int stop_code;

    int signal_fd;
    struct os_signal signals[OS_SIGNAL_MAX];

    struct os_fd *fds;
    size_t n_fds, cap_fds;

    void *zmq;
    struct os_port **ports;
    size_t n_ports, cap_ports;

    struct pollfd *polls; /* event_fd, signal_fd, ports, fds */
    size_t cap_polls;
    int epoll_fd; /* of these, by their place */
    struct epoll_event events[OS_EVENTS_MAX]; /* the last turn's */
    int n_events;
    bool no_pwait2;
    bool polls_stale;

    /* Busy polling (os_wait.c). */
    uint64_t busy_ns; /* 0: never */
    bool (*awaits)(void *arg);
    void *awaits_arg;
    uint8_t short_waits[2]; /* in a row, without and with an answer awaited */
    uint64_t shy_until; /* others want the processor: not before then */
};

static inline uint64_t os_clock(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static inline struct os_env *os_env_of(struct env *e)
{
    return container_of(e, struct os_env, base);
}

/* ---- os_wait.c ---- */

/* Wait for the outside: fills polls[].revents. Returns the number of ready descriptors. */
int os_wait(struct os_env *e);
/* After descriptors or ports came or went (polls_stale). */
void os_wait_rebuild(struct os_env *e);

/* ---- os_net.c ---- */

int os_net_init(struct os_env *e);
void os_net_fini(struct os_env *e);
int os_net_listen(struct env *env, const char *endpoint, net_on_msg_fn *fn, void *arg,
                  struct net_port **ret_port);
int os_net_connect(struct env *env, const char *endpoint, net_on_msg_fn *fn, void *arg,
                   struct net_port **ret_port);
int os_net_send(struct net_port *p, uint64_t peer, struct buf *head, struct buf *payload);
void os_net_close(struct net_port *p);
/* Free ports closed during the turn. */
void os_net_sweep(struct os_env *e);
int os_port_fd(const struct os_port *p);
/* ZeroMQ's descriptor is an edge: a port that was sent on, or not read to its end, must be read again
 * before the loop may sleep. */
bool os_port_dirty(const struct os_port *p);
/* Deliver up to OS_ENV_MSGS_PER_TURN messages. */
void os_port_read(struct os_port *p);
