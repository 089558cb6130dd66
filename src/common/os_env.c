/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real env: loop, clock, timers, tasks, jobs, descriptors and signals. Its waits are in os_wait.c, messages in os_net.c.
 *
 * Locks: only os_env.lock, held for list operations. The loop sleeps in one epoll_pwait2(); whoever finishes a
 * job writes the eventfd only when the loop sleeps or is about to (sleeping is set before the loop looks
 * for the last time), so a busy loop costs no wake-ups.
 */
#include "common/os_env.h"

#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "common/os_env_impl.h"

#define THREADS_DEFAULT 8
#define THREADS_MAX 64
#define WINDOW_DEFAULT (UINT64_C(64) << 20)
#define RECONNECT_MS_DEFAULT 20
#define RECONNECT_MS_MAX_DEFAULT 400
#define TASK_ROUNDS_MAX 8              /* of deferred tasks in a turn, before looking outside again */

/* ---- clock, randomness ------------------------------------------------------------------------ */

static uint64_t os_now(struct env *env)
{
    struct os_env *e = os_env_of(env);

    if (!e->now_valid) {
        e->now = os_clock(CLOCK_BOOTTIME);
        e->now_valid = true;
    }
    return e->now;
}

static uint64_t os_realtime(struct env *env TC_UNUSED)
{
    return os_clock(CLOCK_REALTIME);
}

static uint64_t os_random(struct env *env)
{
    struct os_env *e = os_env_of(env);
    uint64_t x;

    if (e->random_left < sizeof x) {
        ssize_t n = getrandom(e->random, sizeof e->random, 0);

        ASSERT(n == (ssize_t)sizeof e->random); /* 256 bytes are never cut short (getrandom(2)) */
        e->random_left = sizeof e->random;
    }
    e->random_left -= sizeof x;
    memcpy(&x, e->random + e->random_left, sizeof x);
    return x;
}

/* ---- timers ----------------------------------------------------------------------------------- */

static bool timer_before(const struct env_timer *a, const struct env_timer *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void heap_put(struct os_env *e, size_t pos, struct env_timer *t)
{
    e->heap[pos] = t;
    t->heap_pos = pos;
}

static void heap_up(struct os_env *e, size_t pos)
{
    struct env_timer *t = e->heap[pos];

    while (pos > 1 && timer_before(t, e->heap[pos / 2])) {
        heap_put(e, pos, e->heap[pos / 2]);
        pos /= 2;
    }
    heap_put(e, pos, t);
}

static void heap_down(struct os_env *e, size_t pos)
{
    struct env_timer *t = e->heap[pos];

    for (;;) {
        size_t child = pos * 2;

        if (child > e->heap_n)
            break;
        if (child < e->heap_n && timer_before(e->heap[child + 1], e->heap[child]))
            child++;
        if (!timer_before(e->heap[child], t))
            break;
        heap_put(e, pos, e->heap[child]);
        pos = child;
    }
    heap_put(e, pos, t);
}

static void os_timer_cancel(struct env *env, struct env_timer *t)
{
    struct os_env *e = os_env_of(env);
    size_t pos = t->heap_pos;
    struct env_timer *last;

    if (pos == 0)
        return;
    ASSERT(pos <= e->heap_n && e->heap[pos] == t);
    last = e->heap[e->heap_n--];
    t->heap_pos = 0;
    if (last == t)
        return;
    heap_put(e, pos, last);
    heap_up(e, pos);
    heap_down(e, last->heap_pos);
}

static void os_timer_set(struct env *env, struct env_timer *t, uint64_t at)
{
    struct os_env *e = os_env_of(env);

    ASSERT(t->fn);
    os_timer_cancel(env, t);
    if (e->heap_n + 1 >= e->heap_cap) {
        e->heap_cap = MAX(e->heap_cap * 2, (size_t)64);
        e->heap = tc_realloc(e->heap, e->heap_cap * sizeof(struct env_timer *));
    }
    t->at = MAX(at, os_now(env)); /* so that one set ever again in the past starves no other */
    t->order = ++e->timer_order;
    heap_put(e, ++e->heap_n, t);
    heap_up(e, e->heap_n);
}

/* Fire what is due now; what gets armed meanwhile waits for the next turn. */
static void run_timers(struct os_env *e)
{
    uint64_t last = e->timer_order;
    uint64_t now;

    if (e->heap_n == 0)
        return;
    e->now_valid = false;
    now = os_now(&e->base);
    while (e->heap_n > 0) {
        struct env_timer *t = e->heap[1];

        if (t->at > now || t->order > last)
            break;
        os_timer_cancel(&e->base, t);
        e->now_valid = false;
        t->fn(t);
    }
}

/* ---- tasks ------------------------------------------------------------------------------------ */

static void os_defer(struct env *env, struct env_task *t)
{
    struct os_env *e = os_env_of(env);

    if (t->queued)
        return;
    ASSERT(t->fn);
    t->queued = true;
    t->next = NULL;
    *e->task_tail = t;
    e->task_tail = &t->next;
    e->n_tasks++;
}

static void os_defer_cancel(struct env *env, struct env_task *t)
{
    struct os_env *e = os_env_of(env);
    struct env_task **p = &e->task_head;

    while (*p && *p != t)
        p = &(*p)->next;
    ASSERT(*p == t);
    *p = t->next;
    if (!*p)
        e->task_tail = p;
    e->n_tasks--;
    t->queued = false;
}

static void run_tasks(struct os_env *e)
{
    for (int round = 0; e->task_head && round < TASK_ROUNDS_MAX; round++) {
        for (size_t n = e->n_tasks; n > 0 && e->task_head; n--) { /* not those deferred meanwhile */
            struct env_task *t = e->task_head;

            os_defer_cancel(&e->base, t);
            e->now_valid = false;
            t->fn(t); /* may free t */
        }
    }
}

/* ---- jobs ------------------------------------------------------------------------------------- */

static void wake(struct os_env *e)
{
    if (atomic_exchange(&e->sleeping, false))
        (void)eventfd_write(e->event_fd, 1);
}

static void todo_push(struct os_env *e, struct env_job *j)
{
    j->next = NULL;
    *e->todo_tail = j;
    e->todo_tail = &j->next;
}

static void os_queue_init(struct env *env TC_UNUSED, struct env_queue *q, bool serial)
{
    *q = (struct env_queue){.serial = serial};
    q->tail = &q->head;
}

static bool start_apart(struct os_env *e, struct env_queue *q, struct env_job *j);

static void os_job_submit(struct env *env, struct env_queue *q, struct env_job *j)
{
    struct os_env *e = os_env_of(env);
    bool idle = false;

    ASSERT(j->run && j->done);
    j->queue = q;
    if (q->apart && start_apart(e, q, j))
        return;
    pthread_mutex_lock(&e->lock);
    if (q->serial && q->running) {
        j->next = NULL;
        *q->tail = j;
        q->tail = &j->next;
    } else {
        q->running = q->serial;
        todo_push(e, j);
        idle = e->n_idle > 0;
    }
    pthread_mutex_unlock(&e->lock);
    if (idle) /* not under the lock, which is what the thread wants first */
        pthread_cond_signal(&e->work);
}

/* Under the lock: let the queue's next job follow @j, and hand @j to the loop. */
static void job_finished(struct os_env *e, struct env_job *j)
{
    struct env_queue *q = j->queue;

    if (q->serial) {
        struct env_job *next = q->head;

        if (next) {
            bool others = e->todo_head;

            q->head = next->next;
            if (!q->head)
                q->tail = &q->head;
            todo_push(e, next);
            if (others && e->n_idle > 0) /* else this thread takes it */
                pthread_cond_signal(&e->work);
        } else {
            q->running = false;
        }
    }
    j->next = NULL;
    *e->done_tail = j;
    e->done_tail = &j->next;
    atomic_store(&e->done_any, true);
}

static void *disk_thread(void *arg)
{
    struct os_env *e = arg;

    pthread_mutex_lock(&e->lock);
    for (;;) {
        struct env_job *j = e->todo_head;

        if (!j) {
            if (e->quit)
                break;
            e->n_idle++;
            pthread_cond_wait(&e->work, &e->lock);
            e->n_idle--;
            continue;
        }
        e->todo_head = j->next;
        if (!e->todo_head)
            e->todo_tail = &e->todo_head;
        pthread_mutex_unlock(&e->lock);
        j->run(j);
        pthread_mutex_lock(&e->lock);
        job_finished(e, j);
        pthread_mutex_unlock(&e->lock);
        wake(e);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

static void *apart_thread(void *arg)
{
    struct env_job *j = arg;
    struct os_env *e = j->queue->impl;

    j->run(j);
    pthread_mutex_lock(&e->lock);
    job_finished(e, j);
    wake(e); /* still under the lock: when the last is gone, so may the env be */
    e->n_apart--;
    pthread_cond_broadcast(&e->apart_over);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* False: no thread can be made, it waits for one like others. */
static bool start_apart(struct os_env *e, struct env_queue *q, struct env_job *j)
{
    pthread_t thread;
    sigset_t all, old;
    int r;

    ASSERT(!q->serial);
    q->impl = e;
    pthread_mutex_lock(&e->lock);
    e->n_apart++;
    pthread_mutex_unlock(&e->lock);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&thread, NULL, apart_thread, j);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0) {
        (void)pthread_detach(thread);
        return true;
    }
    pthread_mutex_lock(&e->lock);
    e->n_apart--;
    pthread_mutex_unlock(&e->lock);
    return false;
}

static void run_done_jobs(struct os_env *e)
{
    struct env_job *j;

    if (!atomic_load(&e->done_any))
        return;
    pthread_mutex_lock(&e->lock);
    j = e->done_head;
    e->done_head = NULL;
    e->done_tail = &e->done_head;
    atomic_store(&e->done_any, false);
    pthread_mutex_unlock(&e->lock);
    while (j) {
        struct env_job *next = j->next;

        e->now_valid = false;
        j->done(j); /* may free or resubmit j */
        j = next;
    }
}

/* ---- descriptors and signals ------------------------------------------------------------------ */

void os_env_add_fd(struct env *env, int fd, short events, void (*fn)(void *arg, short revents),
                   void *arg)
{
    struct os_env *e = os_env_of(env);

    for (size_t i = 0; i < e->n_fds; i++)
        ASSERT(e->fds[i].dead || e->fds[i].fd != fd);
    if (e->n_fds == e->cap_fds) {
        e->cap_fds = MAX(e->cap_fds * 2, (size_t)8);
        e->fds = tc_realloc(e->fds, e->cap_fds * sizeof *e->fds);
    }
    e->fds[e->n_fds++] = (struct os_fd){.fd = fd, .events = events, .fn = fn, .arg = arg};
    e->polls_stale = true;
}

void os_env_remove_fd(struct env *env, int fd)
{
    struct os_env *e = os_env_of(env);

    for (size_t i = 0; i < e->n_fds; i++) {
        if (e->fds[i].fd == fd && !e->fds[i].dead) {
            e->fds[i].dead = true;
            e->polls_stale = true;
        }
    }
}

void os_env_on_signal(struct env *env, int signo, void (*fn)(void *arg, int signo), void *arg)
{
    struct os_env *e = os_env_of(env);
    sigset_t set;

    ASSERT(signo > 0 && signo < OS_SIGNAL_MAX);
    e->signals[signo] = (struct os_signal){fn, arg};
    sigemptyset(&set);
    for (int i = 1; i < OS_SIGNAL_MAX; i++) {
        if (e->signals[i].fn)
            sigaddset(&set, i);
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    e->signal_fd = signalfd(e->signal_fd, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    ASSERT(e->signal_fd >= 0);
    e->polls_stale = true;
}

static void run_signals(struct os_env *e)
{
    struct signalfd_siginfo info;

    while (read(e->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        const struct os_signal *s = &e->signals[info.ssi_signo];

        e->now_valid = false;
        if (s->fn)
            s->fn(s->arg, (int)info.ssi_signo);
    }
}

/* ---- the loop --------------------------------------------------------------------------------- */

static void dispatch_ports(struct os_env *e, size_t n_ports, bool polled)
{
    for (size_t i = 0; i < n_ports; i++) {
        if (os_port_dirty(e->ports[i]) || (polled && e->polls[2 + i].revents))
            os_port_read(e->ports[i]);
    }
}

static void dispatch_fds(struct os_env *e, size_t n_ports, size_t n_fds)
{
    for (size_t i = 0; i < n_fds; i++) {
        short revents = e->polls[2 + n_ports + i].revents;

        if (revents && !e->fds[i].dead) {
            e->now_valid = false;
            e->fds[i].fn(e->fds[i].arg, revents);
        }
    }
}

static void turn(struct os_env *e)
{
    int n = os_wait(e);
    size_t n_ports = e->n_ports, n_fds = e->n_fds; /* as polled: callbacks append only */

    dispatch_ports(e, n_ports, n > 0);
    if (n > 0) {
        dispatch_fds(e, n_ports, n_fds);
        if (e->polls[1].revents)
            run_signals(e);
    }
    run_done_jobs(e);
    run_timers(e);
    run_tasks(e);
    if (e->polls_stale)
        os_wait_rebuild(e);
    dispatch_ports(e, e->n_ports, false);
    run_tasks(e);
}

int os_env_run(struct env *env)
{
    struct os_env *e = os_env_of(env);

    while (!atomic_load(&e->stopping))
        turn(e);
    atomic_store(&e->stopping, false);
    return e->stop_code;
}

void os_env_stop(struct env *env, int code)
{
    struct os_env *e = os_env_of(env);

    e->stop_code = code;
    atomic_store(&e->stopping, true);
    wake(e);
}

/* ---- life ------------------------------------------------------------------------------------- */

static const struct env_ops os_ops = {
    .now = os_now,
    .realtime = os_realtime,
    .random = os_random,
    .timer_set = os_timer_set,
    .timer_cancel = os_timer_cancel,
    .defer = os_defer,
    .defer_cancel = os_defer_cancel,
    .queue_init = os_queue_init,
    .job_submit = os_job_submit,
    .listen = os_net_listen,
    .connect = os_net_connect,
    .send = os_net_send,
    .port_close = os_net_close,
};

static int start_threads(struct os_env *e)
{
    sigset_t all, old;
    int r = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    e->threads = tc_calloc(e->opt.threads, sizeof *e->threads);
    while (e->n_threads < e->opt.threads && r == 0) {
        r = pthread_create(&e->threads[e->n_threads], NULL, disk_thread, e);
        e->n_threads += r == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return tc_error_from_errno(r);
}

int os_env_new(const struct os_env_options *opt, struct env **ret_env)
{
    struct os_env *e = tc_calloc(1, sizeof *e);
    int r;

    e->base.ops = &os_ops;
    e->base.vfs = vfs_posix();
    e->opt = opt ? *opt : (struct os_env_options){0};
    e->opt.threads = e->opt.threads ? MIN(e->opt.threads, (uint32_t)THREADS_MAX) : THREADS_DEFAULT;
    e->opt.window_bytes = e->opt.window_bytes ? e->opt.window_bytes : WINDOW_DEFAULT;
    e->opt.reconnect_ms = e->opt.reconnect_ms ? e->opt.reconnect_ms : RECONNECT_MS_DEFAULT;
    e->opt.reconnect_ms_max =
        e->opt.reconnect_ms_max ? e->opt.reconnect_ms_max : RECONNECT_MS_MAX_DEFAULT;
    e->task_tail = &e->task_head;
    e->todo_tail = &e->todo_head;
    e->done_tail = &e->done_head;
    e->signal_fd = e->epoll_fd = -1;
    e->polls_stale = true;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    pthread_cond_init(&e->apart_over, NULL);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    r = e->event_fd < 0 ? tc_error_from_errno(errno) : os_net_init(e);
    if (r == 0)
        r = start_threads(e);
    if (r < 0) {
        os_env_free(&e->base);
        return r;
    }
    *ret_env = &e->base;
    return 0;
}

struct env *os_env_free(struct env *env)
{
    struct os_env *e;

    if (!env)
        return NULL;
    e = os_env_of(env);
    pthread_mutex_lock(&e->lock);
    e->quit = true;
    pthread_cond_broadcast(&e->work);
    while (e->n_apart > 0)
        pthread_cond_wait(&e->apart_over, &e->lock);
    pthread_mutex_unlock(&e->lock);
    for (uint32_t i = 0; i < e->n_threads; i++)
        pthread_join(e->threads[i], NULL);
    os_net_fini(e);
    if (e->event_fd >= 0)
        (void)close(e->event_fd);
    if (e->signal_fd >= 0)
        (void)close(e->signal_fd);
    if (e->epoll_fd >= 0)
        (void)close(e->epoll_fd);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->apart_over);
    pthread_mutex_destroy(&e->lock);
    free(e->threads);
    free(e->heap);
    free(e->fds);
    free(e->polls);
    free(e);
    return NULL;
}
