/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one door through which logic sees the outside: clock, randomness, messages and disk.
 *
 * An env belongs to one process, or to one simulated node. Everything runs on its loop: callbacks of
 * timers, tasks, messages and finished jobs are called one at a time, never from inside the call that
 * asked for them. Only env_job.run (and vfs calls in it) may run on another thread.
 *
 * Implementations: os_env (os_env.h: poll loop, ZeroMQ, threads, files) and sim_env (tests/sim: one
 * thread, one seed, simulated network, disks and clocks).
 *
 * The network's contract is weak on purpose: a message may be dropped, doubled, delayed, reordered.
 */
#pragma once

#include "common/base.h"
#include "common/buf.h"
#include "common/error.h"
#include "common/vfs.h"

struct env;
struct net_port;

/* A deadline. Zero-initialise, set fn; owned by the caller, who cancels it before freeing it. */
struct env_timer {
    void (*fn)(struct env_timer *t);
    uint64_t at;     /* ns, env_now() clock; valid while armed */
    size_t heap_pos; /* 1-based place in the env's heap; 0: not armed */
    uint64_t order;  /* the env's own: ties fire in the order they were set */
};

/* Work for the next turn of the loop. Zero-initialise, set fn. Deferring a queued task does nothing. */
struct env_task {
    void (*fn)(struct env_task *t);
    struct env_task *next; /* the env's own */
    bool queued;
};

/* Blocking work. run() on a disk thread (may use vfs, kv; no env call but env_vfs), then done() on the
 * loop, exactly once. Owned by the caller until done() is called; done() may free or resubmit it. */
struct env_job {
    void (*run)(struct env_job *j);
    void (*done)(struct env_job *j);
    struct env_job *next; /* the env's own */
    struct env_queue *queue;
};

/* Jobs of one serial queue run one at a time, in order; those of a parallel one (serial = false) all at
 * once, as threads are free. Zero-initialise with env_queue_init(). Must outlive its jobs. */
struct env_queue {
    bool serial;
    bool apart;   /* set after init: jobs do not wait for a free thread (all may hang); for few jobs, and not serial */
    bool running; /* the env's own, from here on */
    struct env_job *head, **tail;
    void *impl;
};

/* Called for each message. @peer names who sent it on a listening port (use it with env_send; it dies
 * with the connection: a send to a dead peer fails with UNREACHABLE); 0 on a connected port. Borrows
 * @head and @payload (NULL if none) for the call; take references to keep them. */
typedef void net_on_msg_fn(void *arg, uint64_t peer, struct buf *head, struct buf *payload);

struct env_ops {
    uint64_t (*now)(struct env *e);
    uint64_t (*realtime)(struct env *e);
    uint64_t (*random)(struct env *e);
    void (*timer_set)(struct env *e, struct env_timer *t, uint64_t at);
    void (*timer_cancel)(struct env *e, struct env_timer *t);
    void (*defer)(struct env *e, struct env_task *t);
    void (*defer_cancel)(struct env *e, struct env_task *t);
    void (*queue_init)(struct env *e, struct env_queue *q, bool serial);
    void (*job_submit)(struct env *e, struct env_queue *q, struct env_job *j);
    int (*listen)(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg, struct net_port **ret_port);
    int (*connect)(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg, struct net_port **ret_port);
    int (*send)(struct net_port *p, uint64_t peer, struct buf *head, struct buf *payload);
    void (*port_close)(struct net_port *p);
};

struct env {
    const struct env_ops *ops;
    struct vfs *vfs;
};

struct net_port {
    struct env *env;
};

/* Monotonic time in ns, suspend included (CLOCK_BOOTTIME). Constant within one callback is allowed. */
static inline uint64_t env_now(struct env *e)
{
    return e->ops->now(e);
}

/* Wall clock in ns since 1970; may jump. */
static inline uint64_t env_realtime(struct env *e)
{
    return e->ops->realtime(e);
}

static inline uint64_t env_random(struct env *e)
{
    return e->ops->random(e);
}

/* Arm (or move) @t to fire at @at; a time in the past fires in the next turn. */
static inline void env_timer_set(struct env *e, struct env_timer *t, uint64_t at)
{
    e->ops->timer_set(e, t, at);
}

/* Harmless if not armed. */
static inline void env_timer_cancel(struct env *e, struct env_timer *t)
{
    e->ops->timer_cancel(e, t);
}

static inline bool env_timer_armed(const struct env_timer *t)
{
    return t->heap_pos != 0;
}

static inline void env_defer(struct env *e, struct env_task *t)
{
    e->ops->defer(e, t);
}

/* Take @t out of the queue if it is in it: whoever owns a task calls this before freeing it. */
static inline void env_defer_cancel(struct env *e, struct env_task *t)
{
    if (t->queued)
        e->ops->defer_cancel(e, t);
}

static inline void env_queue_init(struct env *e, struct env_queue *q, bool serial)
{
    e->ops->queue_init(e, q, serial);
}

static inline void env_job_submit(struct env *e, struct env_queue *q, struct env_job *j)
{
    e->ops->job_submit(e, q, j);
}

static inline struct vfs *env_vfs(struct env *e)
{
    return e->vfs;
}

/*
 * Open a server's port on @endpoint ("tcp://host:port"). Errors: ADDRINUSE, INVAL, ...
 * The port delivers messages of every peer that connects.
 */
TC_MUST_CHECK static inline int env_listen(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg,
                                           struct net_port **ret_port)
{
    return e->ops->listen(e, endpoint, fn, arg, ret_port);
}

/* Open a client's port to @endpoint: connects, and reconnects with jittered back-off, in the background. */
TC_MUST_CHECK static inline int env_connect(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg,
                                            struct net_port **ret_port)
{
    return e->ops->connect(e, endpoint, fn, arg, ret_port);
}

/*
 * Send one message; never blocks. Takes both references, even on error (@payload may be NULL).
 * 0 means queued, nothing more. Errors: BACKPRESSURE (window full: dropped), UNREACHABLE (no such peer).
 */
static inline int env_send(struct net_port *p, uint64_t peer, struct buf *head, struct buf *payload)
{
    return p->env->ops->send(p, peer, head, payload);
}

/* Accepts NULL. No callback of this port comes after it. */
static inline void env_port_close(struct net_port *p)
{
    if (p)
        p->env->ops->port_close(p);
}
