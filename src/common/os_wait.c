/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the real env's loop waits for the outside: its epoll set, and when to stay awake instead of sleeping.
 *
 * Busy polling (os_env_busy_poll). To sleep and be woken costs as much as the work of a short round trip where an idle
 * processor is slow to come back (deep sleep states, virtual machines). So a loop that asked for it does not sleep
 * when what it waits for is expected soon: it looks at its descriptors again and again. What is expected is learnt from
 * the waits before, like the kernel's haltpoll governor does it (Documentation/virt/guest-halt-polling.rst), apart for
 * waits with an answer outstanding and without one: after SHORT_WAITS_MIN waits in a row that ended within the limit the
 * next one is spent awake, and the first one spent so in vain ends it. A loop in no hurry never does it, and being wrong
 * costs the limit once.
 *
 * Only a processor that nobody wants is spent. Between two looks the loop yields it: what answers may have been woken on
 * this very one (measured without: half the speed of sixteen readers). Who yields may get it back late, a slice of
 * milliseconds, be the other of the lowest priority. So if it was gone for CROWDED_NS, longer than what answers takes, the
 * loop sleeps as others do, for SHY_TIMES as long as that was: no more than that part of its time can be lost.
 */
#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/os_env_impl.h"

#define SLEEP_NS_MAX (500 * NS_PER_MS) /* the kernel does not count suspend: look again this often */
#define SHORT_WAITS_MIN 3
#define CROWDED_NS (200 * NS_PER_US)
#define SHY_TIMES 20
#define PAUSES 32 /* between two looks, about as long as a look */

void os_env_busy_poll(struct env *env, uint32_t us, bool (*awaits)(void *arg), void *arg)
{
    struct os_env *e = os_env_of(env);
    cpu_set_t cpus;

    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) < 2)
        us = 0; /* whoever is to answer needs the one processor */
    e->busy_ns = us * NS_PER_US;
    e->awaits = awaits;
    e->awaits_arg = arg;
}

/* Made anew, so that no descriptor closed or numbered again meanwhile is left in it. */
static void rebuild_epoll(struct os_env *e, size_t n)
{
    if (e->epoll_fd >= 0)
        (void)close(e->epoll_fd);
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    ASSERT(e->epoll_fd >= 0);
    for (size_t i = 0; i < n; i++) {
        struct epoll_event ev = {.events = (uint32_t)e->polls[i].events, .data.u64 = i};

        int r = e->polls[i].fd < 0 ? 0 : epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->polls[i].fd, &ev);

        ASSERT(r == 0);
    }
    e->n_events = 0;
}

void os_wait_rebuild(struct os_env *e)
{
    size_t n = 0, need;

    for (size_t i = 0; i < e->n_fds; i++) {
        if (!e->fds[i].dead)
            e->fds[n++] = e->fds[i];
    }
    e->n_fds = n;
    os_net_sweep(e);
    need = 2 + e->n_ports + e->n_fds;
    if (need > e->cap_polls) {
        e->cap_polls = need * 2;
        e->polls = tc_realloc(e->polls, e->cap_polls * sizeof *e->polls);
    }
    n = 0;
    e->polls[n++] = (struct pollfd){.fd = e->event_fd, .events = POLLIN};
    e->polls[n++] = (struct pollfd){.fd = e->signal_fd, .events = POLLIN};
    for (size_t i = 0; i < e->n_ports; i++)
        e->polls[n++] = (struct pollfd){.fd = os_port_fd(e->ports[i]), .events = POLLIN};
    for (size_t i = 0; i < e->n_fds; i++)
        e->polls[n++] = (struct pollfd){.fd = e->fds[i].fd, .events = e->fds[i].events};
    e->polls_stale = false;
    rebuild_epoll(e, n);
}

/* How long may the loop sleep? */
static uint64_t sleep_ns(struct os_env *e)
{
    uint64_t now;

    if (e->task_head || atomic_load(&e->done_any) || atomic_load(&e->stopping))
        return 0;
    for (size_t i = 0; i < e->n_ports; i++) {
        if (os_port_dirty(e->ports[i]))
            return 0;
    }
    if (e->heap_n == 0)
        return SLEEP_NS_MAX;
    e->now_valid = false;
    now = env_now(&e->base);
    return e->heap[1]->at <= now ? 0 : MIN(e->heap[1]->at - now, SLEEP_NS_MAX);
}

static int wait_events(struct os_env *e, uint64_t ns)
{
    struct timespec ts = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
    int n = -1;

    if (!e->no_pwait2) {
        n = epoll_pwait2(e->epoll_fd, e->events, OS_EVENTS_MAX, &ts, NULL);
        e->no_pwait2 = n < 0 && (errno == ENOSYS || errno == EPERM); /* Linux before 5.11, sandboxes */
    }
    if (e->no_pwait2)
        n = epoll_wait(e->epoll_fd, e->events, OS_EVENTS_MAX, (int)((ns + NS_PER_MS - 1) / NS_PER_MS));
    ASSERT(n >= 0 || errno == EINTR);
    return n;
}

/* The other thread of this core, if it has one, works meanwhile. */
static void rest(void)
{
    for (int i = 0; i < PAUSES; i++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

/* Look from @now until @until, awake. */
static int look_until(struct os_env *e, uint64_t now, uint64_t until)
{
    int n = 0;

    while (now < until) {
        uint64_t before = now;

        n = wait_events(e, 0);
        if (n != 0)
            break;
        (void)sched_yield();
        rest();
        now = os_clock(CLOCK_MONOTONIC);
        if (now - before >= CROWDED_NS) {
            e->shy_until = now + SHY_TIMES * (now - before);
            break;
        }
    }
    return n;
}

/* Wait for @ns at most, asleep or awake. */
static int wait_busy(struct os_env *e, uint64_t ns)
{
    uint8_t *short_waits = &e->short_waits[e->awaits(e->awaits_arg)];
    uint64_t begun = os_clock(CLOCK_MONOTONIC), passed = 0;
    int n;

    if (*short_waits >= SHORT_WAITS_MIN && begun >= e->shy_until) {
        n = look_until(e, begun, begun + MIN(ns, e->busy_ns));
        passed = os_clock(CLOCK_MONOTONIC) - begun;
        if (n != 0 || passed >= ns)
            return n;
    }
    n = wait_events(e, ns - passed);
    if (n > 0 && os_clock(CLOCK_MONOTONIC) - begun <= e->busy_ns)
        *short_waits = (uint8_t)MIN(*short_waits + 1, SHORT_WAITS_MIN);
    else if (n >= 0)
        *short_waits = 0;
    return n;
}

/* Wait for @ns at most, until a descriptor is ready: fills polls[].revents. Of more than OS_EVENTS_MAX, the others next
 * time. */
static int wait_polls(struct os_env *e, uint64_t ns)
{
    int n;

    for (int i = 0; i < e->n_events; i++)
        e->polls[e->events[i].data.u64].revents = 0;
    n = ns && e->busy_ns ? wait_busy(e, ns) : wait_events(e, ns);
    e->n_events = MAX(n, 0);
    for (int i = 0; i < e->n_events; i++)
        e->polls[e->events[i].data.u64].revents = (short)e->events[i].events;
    return n;
}

int os_wait(struct os_env *e)
{
    uint64_t ns;
    int n;

    if (e->polls_stale)
        os_wait_rebuild(e);
    atomic_store(&e->sleeping, true);
    ns = sleep_ns(e); /* looks at done_any after sleeping is set: no lost wake-up */
    n = wait_polls(e, ns);
    atomic_store(&e->sleeping, false);
    if (n > 0 && e->polls[0].revents) { /* perhaps a late wake-up of the last turn: harmless */
        eventfd_t count;

        (void)eventfd_read(e->event_fd, &count);
    }
    e->now_valid = false;
    return n;
}
