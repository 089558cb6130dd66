/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated world: clock, event heap, nodes, and of each node's env all but the network.
 *
 * Work of a life that died is thrown away when its event comes up; until then only the event's own memory
 * is looked at, never what the dead life's pointers point to.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sim/sim_internal.h"

enum { TURN_NS = 1000, JOB_START_NS = 20000 };

/* ---- events --------------------------------------------------------------------------------------- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void heap_put(struct sim *s, size_t pos, struct sim_event *ev)
{
    s->heap[pos - 1] = ev;
    ev->pos = pos;
}

static void heap_sift(struct sim *s, size_t pos)
{
    struct sim_event *ev = s->heap[pos - 1];

    while (pos > 1 && event_before(ev, s->heap[pos / 2 - 1])) {
        heap_put(s, pos, s->heap[pos / 2 - 1]);
        pos /= 2;
    }
    for (;;) {
        size_t child = 2 * pos;

        if (child > s->n_heap)
            break;
        if (child < s->n_heap && event_before(s->heap[child], s->heap[child - 1]))
            child++;
        if (!event_before(s->heap[child - 1], ev))
            break;
        heap_put(s, pos, s->heap[child - 1]);
        pos = child;
    }
    heap_put(s, pos, ev);
}

static void heap_add(struct sim *s, struct sim_event *ev)
{
    if (s->n_heap == s->heap_cap) {
        s->heap_cap = s->heap_cap ? 2 * s->heap_cap : 256;
        s->heap = tc_realloc(s->heap, s->heap_cap * sizeof(struct sim_event *));
    }
    s->heap[s->n_heap++] = ev;
    heap_sift(s, s->n_heap);
}

static void heap_remove(struct sim *s, struct sim_event *ev)
{
    size_t pos = ev->pos;
    struct sim_event *last = s->heap[--s->n_heap];

    ASSERT(pos > 0);
    ev->pos = 0;
    if (last != ev) {
        heap_put(s, pos, last);
        heap_sift(s, pos);
    }
}

struct sim_event *sim_schedule(struct sim *s, enum sim_kind kind, struct sim_env *env, uint64_t at)
{
    struct sim_event *ev = tc_calloc(1, sizeof *ev);

    ev->at = MAX(at, s->now);
    ev->seq = s->seq++;
    ev->kind = kind;
    ev->env = env;
    heap_add(s, ev);
    return ev;
}

void sim_event_free(struct sim_event *ev)
{
    if (ev->kind == SIM_MSG) {
        buf_unref(ev->u.msg.head);
        buf_unref(ev->u.msg.payload);
        free(ev->u.msg.endpoint);
    }
    free(ev);
}

/* ---- the env of a node ---------------------------------------------------------------------------- */

static struct sim_env *env_of(struct env *e)
{
    return container_of(e, struct sim_env, env);
}

static uint64_t node_local(const struct sim_node *n)
{
    uint64_t d = n->sim->now - n->true_base;

    return n->local_base + d + (uint64_t)((int64_t)d / 1000000 * n->drift_ppm);
}

static uint64_t node_true(const struct sim_node *n, uint64_t local)
{
    uint64_t now = node_local(n), d;

    if (local <= now)
        return n->sim->now;
    d = local - now;
    return n->sim->now + (uint64_t)((__int128)d * 1000000 / (1000000 + n->drift_ppm));
}

static uint64_t sim_env_now(struct env *e)
{
    return node_local(env_of(e)->node);
}

static uint64_t sim_env_realtime(struct env *e)
{
    struct sim_node *n = env_of(e)->node;

    return UINT64_C(1700000000) * NS_PER_S + n->sim->now + (uint64_t)n->wall_offset;
}

static uint64_t sim_env_random(struct env *e)
{
    return sim_next(&env_of(e)->node->rng);
}

static struct sim_event *timer_event(const struct env_timer *t)
{
    return (struct sim_event *)(uintptr_t)t->order; /* a key to our own event, never compared */
}

static void sim_timer_cancel(struct env *e, struct env_timer *t)
{
    struct sim_env *se = env_of(e);
    struct sim_event *ev;

    if (!t->heap_pos || se->dead)
        return;
    ev = timer_event(t);
    ASSERT(ev->kind == SIM_TIMER && ev->u.timer == t);
    t->heap_pos = 0;
    if (ev->pos) {
        heap_remove(se->node->sim, ev);
        sim_event_free(ev);
    } else {
        ev->u.timer = NULL; /* held while the node is paused */
    }
}

static void sim_timer_set(struct env *e, struct env_timer *t, uint64_t at)
{
    struct sim_env *se = env_of(e);
    struct sim_node *n = se->node;
    struct sim_event *ev;

    if (se->dead)
        return;
    sim_timer_cancel(e, t);
    ev = sim_schedule(n->sim, SIM_TIMER, se, MAX(node_true(n, at), n->sim->now + 1));
    ev->u.timer = t;
    t->at = at;
    t->order = (uint64_t)(uintptr_t)ev;
    t->heap_pos = 1;
}

static void sim_defer(struct env *e, struct env_task *t)
{
    struct sim_env *se = env_of(e);

    if (se->dead || t->queued)
        return;
    t->queued = true;
    t->next = NULL;
    *se->tasks_tail = t;
    se->tasks_tail = &t->next;
    if (!se->tasks_scheduled) {
        se->tasks_scheduled = true;
        sim_schedule(se->node->sim, SIM_TASKS, se, se->node->sim->now + TURN_NS);
    }
}

static bool task_unlink(struct env_task **list, struct env_task *t)
{
    while (*list && *list != t)
        list = &(*list)->next;
    if (!*list)
        return false;
    *list = t->next;
    return true;
}

static void sim_defer_cancel(struct env *e, struct env_task *t)
{
    struct sim_env *se = env_of(e);

    if (!se->dead && !task_unlink(&se->running, t) && task_unlink(&se->tasks, t)) {
        se->tasks_tail = &se->tasks;
        while (*se->tasks_tail)
            se->tasks_tail = &(*se->tasks_tail)->next;
    }
    t->queued = false;
}

static void sim_queue_init(struct env *e, struct env_queue *q, bool serial)
{
    (void)e;
    *q = (struct env_queue){.serial = serial};
    q->tail = &q->head;
}

static void job_start(struct sim_env *se, struct env_job *job)
{
    struct sim_node *n = se->node;
    uint64_t at = MAX(n->sim->now, n->stall_until) + sim_latency(&n->rng, JOB_START_NS);

    sim_schedule(n->sim, SIM_JOB_RUN, se, at)->u.job = job;
}

static void sim_job_submit(struct env *e, struct env_queue *q, struct env_job *job)
{
    struct sim_env *se = env_of(e);

    if (se->dead)
        return;
    job->queue = q;
    job->next = NULL;
    if (q->serial && q->running) {
        *q->tail = job;
        q->tail = &job->next;
        return;
    }
    q->running = true;
    job_start(se, job);
}

static const struct env_ops sim_env_ops = {
    .now = sim_env_now,
    .realtime = sim_env_realtime,
    .random = sim_env_random,
    .timer_set = sim_timer_set,
    .timer_cancel = sim_timer_cancel,
    .defer = sim_defer,
    .defer_cancel = sim_defer_cancel,
    .queue_init = sim_queue_init,
    .job_submit = sim_job_submit,
    .listen = sim_listen,
    .connect = sim_connect,
    .send = sim_send,
    .port_close = sim_port_close,
};

/* ---- running -------------------------------------------------------------------------------------- */

static void run_tasks(struct sim_env *se)
{
    struct env_task *t;

    se->running = se->tasks;
    se->tasks = NULL; /* what they defer is for the next turn */
    se->tasks_tail = &se->tasks;
    se->tasks_scheduled = false;
    while ((t = se->running)) {
        se->running = t->next;
        t->queued = false;
        t->fn(t);
        if (se->dead)
            return;
    }
}

static void run_job(struct sim *s, struct sim_event *ev)
{
    struct sim_node *n = ev->env->node;
    struct env_job *job = ev->u.job;
    uint64_t cost;

    (void)sim_disk_cost(n->disk);
    (void)sim_disk_waited(n->disk);
    job->run(job);
    cost = sim_disk_cost(n->disk);
    if (sim_disk_frozen(n->disk))
        return; /* the machine crashed in it: nobody hears of it */
    sim_schedule(s, SIM_JOB_DONE, ev->env, s->now + 1 + sim_latency(&n->rng, cost + 1) + sim_disk_waited(n->disk))->u.job = job;
}

static void run_job_done(struct sim_env *se, struct env_job *job)
{
    struct env_queue *q = job->queue;
    struct env_job *next;

    if (q->serial) {
        next = q->head;
        q->running = next != NULL;
        if (next) {
            q->head = next->next;
            if (!q->head)
                q->tail = &q->head;
            job_start(se, next);
        }
    } else {
        q->running = false;
    }
    job->done(job);
}

static void run_timer(struct sim_event *ev)
{
    struct env_timer *t = ev->u.timer;
    struct sim_env *se = ev->env;

    if (!t)
        return;
    if (node_local(se->node) < t->at) { /* the clock was slowed down meanwhile */
        struct sim_event *again = sim_schedule(se->node->sim, SIM_TIMER, se, node_true(se->node, t->at) + 1);

        again->u.timer = t;
        t->order = (uint64_t)(uintptr_t)again;
        return;
    }
    t->heap_pos = 0;
    t->fn(t);
}

static void run_event(struct sim *s, struct sim_event *ev)
{
    s->events++;
    s->trace = sim_mix(s->trace ^ s->now ^ ((uint64_t)ev->kind << 56) ^
                       ((uint64_t)(ev->env ? ev->env->node->index + 1 : 0) << 48));
    switch (ev->kind) {
    case SIM_TIMER:
        run_timer(ev);
        break;
    case SIM_TASKS:
        run_tasks(ev->env);
        break;
    case SIM_JOB_RUN:
        run_job(s, ev);
        break;
    case SIM_JOB_DONE:
        run_job_done(ev->env, ev->u.job);
        break;
    case SIM_MSG:
        sim_net_deliver(s, ev);
        break;
    case SIM_CALL:
        ev->u.call.fn(ev->u.call.arg);
        break;
    }
}

bool sim_step(struct sim *s)
{
    struct sim_event *ev;
    struct sim_node *n;

    if (s->n_heap == 0)
        return false;
    ev = s->heap[0];
    heap_remove(s, ev);
    ASSERT(ev->at >= s->now);
    s->now = ev->at;
    n = ev->env ? ev->env->node : NULL;
    if (n && (ev->env->dead || sim_disk_frozen(n->disk))) {
        sim_event_free(ev);
        return true;
    }
    /* Disk work that was begun goes on while the process is stopped. */
    if (n && n->paused && ev->kind != SIM_JOB_RUN) {
        ev->next = NULL;
        *n->held_tail = ev;
        n->held_tail = &ev->next;
        return true;
    }
    run_event(s, ev);
    sim_event_free(ev);
    return true;
}

void sim_run_until(struct sim *s, uint64_t until)
{
    while (s->n_heap && s->heap[0]->at <= until)
        sim_step(s);
    s->now = MAX(s->now, until);
}

bool sim_run(struct sim *s, uint64_t until, bool (*done)(void *arg), void *arg)
{
    while (!done(arg)) {
        if (!s->n_heap || s->heap[0]->at > until)
            return false;
        sim_step(s);
    }
    return true;
}

void sim_at(struct sim *s, uint64_t at, void (*fn)(void *arg), void *arg)
{
    struct sim_event *ev = sim_schedule(s, SIM_CALL, NULL, at);

    ev->u.call.fn = fn;
    ev->u.call.arg = arg;
}

/* ---- nodes ---------------------------------------------------------------------------------------- */

struct sim_node *sim_node_new(struct sim *s, const char *host)
{
    struct sim_node *n = tc_calloc(1, sizeof *n);

    ASSERT(s->n_nodes < SIM_NODES_MAX);
    n->sim = s;
    n->index = s->n_nodes;
    n->host = tc_strdup(host);
    n->disk = sim_disk_new(sim_mix(s->seed) + n->index);
    n->held_tail = &n->held;
    n->true_base = s->now;
    n->local_base = NS_PER_S + s->now;
    s->nodes[s->n_nodes++] = n;
    return n;
}

void sim_node_set_host(struct sim_node *n, const char *host)
{
    ASSERT(!n->env);
    for (uint32_t i = 0; i < n->sim->n_nodes; i++)
        ASSERT(strcmp(n->sim->nodes[i]->host, host) != 0);
    free(n->host);
    n->host = tc_strdup(host);
}

struct env *sim_node_boot(struct sim_node *n)
{
    struct sim_env *se = tc_calloc(1, sizeof *se);

    ASSERT(!n->env);
    n->lives++;
    n->rng = sim_stream(n->sim->seed, 0x40de + n->index, n->lives);
    n->stall_until = 0;
    sim_disk_reopen(n->disk);
    se->env.ops = &sim_env_ops;
    se->env.vfs = sim_disk_vfs(n->disk);
    se->node = n;
    se->tasks_tail = &se->tasks;
    se->next = n->sim->envs;
    n->sim->envs = se;
    n->env = se;
    n->paused = false;
    return &se->env;
}

void sim_node_kill(struct sim_node *n)
{
    struct sim_event *ev;

    if (!n->env)
        return;
    n->env->dead = true;
    sim_disk_freeze(n->disk);
    sim_net_env_died(n->env);
    n->env = NULL;
    n->paused = false;
    while ((ev = n->held)) {
        n->held = ev->next;
        sim_event_free(ev);
    }
    n->held_tail = &n->held;
}

bool sim_node_alive(const struct sim_node *n)
{
    return n->env != NULL;
}

bool sim_node_crashed(const struct sim_node *n)
{
    return n->env && sim_disk_frozen(n->disk);
}

void sim_node_pause(struct sim_node *n, bool on)
{
    struct sim_event *ev;

    if (n->paused == on || !n->env)
        return;
    n->paused = on;
    if (on)
        return;
    while ((ev = n->held)) {
        n->held = ev->next;
        ev->at = n->sim->now;
        ev->seq = n->sim->seq++; /* in the order in which they were due */
        if (ev->kind == SIM_TIMER && !ev->u.timer)
            sim_event_free(ev);
        else
            heap_add(n->sim, ev);
    }
    n->held_tail = &n->held;
}

bool sim_node_paused(const struct sim_node *n)
{
    return n->paused;
}

struct sim_disk *sim_node_disk(struct sim_node *n)
{
    return n->disk;
}

struct env *sim_node_env(struct sim_node *n)
{
    return n->env ? &n->env->env : NULL;
}

const char *sim_node_host(const struct sim_node *n)
{
    return n->host;
}

uint32_t sim_node_index(const struct sim_node *n)
{
    return n->index;
}

struct sim_node *sim_node_of(struct env *e)
{
    return env_of(e)->node;
}

void sim_node_stall(struct sim_node *n, uint64_t ns)
{
    n->stall_until = MAX(n->stall_until, n->sim->now + ns);
}

void sim_node_set_drift(struct sim_node *n, int64_t ppm)
{
    ASSERT(ppm > -500000 && ppm < 500000);
    n->local_base = node_local(n);
    n->true_base = n->sim->now;
    n->drift_ppm = ppm;
}

void sim_node_set_wall(struct sim_node *n, int64_t offset_ns)
{
    n->wall_offset = offset_ns;
}

/* ---- the world ------------------------------------------------------------------------------------ */

struct sim *sim_new(uint64_t seed)
{
    struct sim *s = tc_calloc(1, sizeof *s);

    s->seed = seed;
    s->rng = sim_stream(seed, 1, 0);
    s->net_rng = sim_stream(seed, 2, 0);
    s->net.latency_ns = 100 * NS_PER_US;
    return s;
}

void sim_free(struct sim *s)
{
    struct sim_env *se;

    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_nodes; i++)
        sim_node_kill(s->nodes[i]);
    for (size_t i = 0; i < s->n_heap; i++)
        sim_event_free(s->heap[i]);
    free(s->heap);
    sim_net_free(s);
    while ((se = s->envs)) {
        s->envs = se->next;
        free(se);
    }
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        sim_disk_free(s->nodes[i]->disk);
        free(s->nodes[i]->host);
        free(s->nodes[i]);
    }
    free(s);
}

struct sim_rng *sim_rng(struct sim *s)
{
    return &s->rng;
}

uint64_t sim_now(const struct sim *s)
{
    return s->now;
}

uint64_t sim_trace(const struct sim *s)
{
    return s->trace;
}

uint64_t sim_events(const struct sim *s)
{
    return s->events;
}

void sim_set_verbose(struct sim *s, bool on)
{
    s->verbose = on;
}

/*
 * What a killed process had in flight is never given back, by design: its jobs and callbacks do not come any more.
 * So the leak checker would report every simulated crash.
 */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return 1;
}
