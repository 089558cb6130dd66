/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real env: timers fire in order, serial queues keep order and parallel ones do not wait, messages
 * with and without payload go both ways, a restarted peer is found again, a dead one is unreachable.
 * One env plays both ends. Each test runs the loop until done or until a guard timer fails it.
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/os_env.h"

static struct env *env;
static struct env_timer guard;
static char trace[256];

static void guard_fire(struct env_timer *t TC_UNUSED)
{
    os_env_stop(env, 1);
}

static void setup(void)
{
    ck_assert_int_eq(os_env_new(&(struct os_env_options){.threads = 4}, &env), 0);
    guard = (struct env_timer){.fn = guard_fire};
    env_timer_set(env, &guard, env_now(env) + 10 * NS_PER_S);
    trace[0] = '\0';
}

static void teardown(void)
{
    env_timer_cancel(env, &guard);
    env = os_env_free(env);
}

static void run(void)
{
    ck_assert_int_eq(os_env_run(env), 0);
}

/* ---- timers and tasks --------------------------------------------------------------------------- */

struct named_timer {
    struct env_timer t;
    char name;
};

static void timer_fire(struct env_timer *t)
{
    struct named_timer *n = container_of(t, struct named_timer, t);
    size_t len = strlen(trace);

    ck_assert(!env_timer_armed(t));
    trace[len] = n->name;
    trace[len + 1] = '\0';
    if (n->name == 'z')
        os_env_stop(env, 0);
}

START_TEST(timers_in_order)
{
    struct named_timer t[26];
    uint64_t now = env_now(env);

    for (int i = 0; i < 26; i++) {
        int at = (i * 7) % 26; /* set in mixed order */

        t[at] = (struct named_timer){{.fn = timer_fire}, (char)('a' + at)};
        env_timer_set(env, &t[at].t, now + (uint64_t)(at / 2) * NS_PER_MS);
    }
    for (int i = 0; i < 26; i += 2) { /* ties fire in the order they were set */
        env_timer_set(env, &t[i].t, now + (uint64_t)(i / 2) * NS_PER_MS);
    }
    env_timer_cancel(env, &t[4].t);
    env_timer_cancel(env, &t[4].t);
    env_timer_set(env, &t[25].t, now + 20 * NS_PER_MS);
    run();
    ck_assert_str_eq(trace, "badcfhgjilknmporqtsvuxwyz");
    ck_assert_uint_ge(env_now(env), now + 20 * NS_PER_MS);
}
END_TEST

static int n_again;

static void always(struct env_timer *t)
{
    n_again++;
    env_timer_set(env, t, 0); /* ever again in the past */
}

/* A timer that re-arms itself in the past must not starve others. */
START_TEST(timer_does_not_starve)
{
    struct named_timer z = {{.fn = timer_fire}, 'z'};
    struct env_timer t = {.fn = always};

    n_again = 0;
    env_timer_set(env, &t, 0);
    env_timer_set(env, &z.t, env_now(env) + 5 * NS_PER_MS);
    run();
    ck_assert_int_gt(n_again, 1);
    env_timer_cancel(env, &t);
}
END_TEST

static int n_tasks;

static void task_run(struct env_task *t)
{
    if (++n_tasks == 100)
        os_env_stop(env, 0);
    else
        env_defer(env, t);
}

static void task_abort(struct env_task *t TC_UNUSED)
{
    abort();
}

START_TEST(tasks_defer_themselves)
{
    struct env_task t = {.fn = task_run}, never = {.fn = task_abort};

    n_tasks = 0;
    env_defer(env, &never);
    env_defer(env, &t);
    env_defer(env, &t);
    ck_assert_int_eq(n_tasks, 0);
    env_defer_cancel(env, &never);
    env_defer_cancel(env, &never);
    run();
    ck_assert_int_eq(n_tasks, 100);
}
END_TEST

/* ---- jobs ------------------------------------------------------------------------------------- */

static atomic_int running, running_max;
static int n_done, order_bad;

struct test_job {
    struct env_job j;
    int number;
};

static void job_run(struct env_job *j TC_UNUSED)
{
    int now = atomic_fetch_add(&running, 1) + 1;

    if (now > atomic_load(&running_max))
        atomic_store(&running_max, now);
    usleep(2000);
    atomic_fetch_sub(&running, 1);
}

static void job_done(struct env_job *j)
{
    struct test_job *t = container_of(j, struct test_job, j);

    order_bad += t->number != n_done;
    if (++n_done == 20)
        os_env_stop(env, 0);
}

static void run_jobs(bool serial)
{
    struct test_job jobs[20];
    struct env_queue q;

    atomic_store(&running_max, 0);
    n_done = order_bad = 0;
    env_queue_init(env, &q, serial);
    for (int i = 0; i < 20; i++) {
        jobs[i] = (struct test_job){{.run = job_run, .done = job_done}, i};
        env_job_submit(env, &q, &jobs[i].j);
    }
    run();
    ck_assert_int_eq(n_done, 20);
}

START_TEST(serial_jobs)
{
    run_jobs(true);
    ck_assert_int_eq(atomic_load(&running_max), 1);
    ck_assert_int_eq(order_bad, 0);
}
END_TEST

START_TEST(parallel_jobs)
{
    run_jobs(false);
    ck_assert_int_gt(atomic_load(&running_max), 1);
}
END_TEST

static atomic_bool let_go;

static void hung_run(struct env_job *j TC_UNUSED)
{
    while (!atomic_load(&let_go))
        usleep(1000);
}

static void hung_done(struct env_job *j TC_UNUSED)
{
    if (++n_done == 6)
        os_env_stop(env, 0);
}

static void apart_done(struct env_job *j TC_UNUSED)
{
    n_done++;
    atomic_store(&let_go, true);
}

/* All threads hang; what is apart is done all the same. */
START_TEST(job_apart)
{
    struct env_job hung[5], apart = {.run = job_run, .done = apart_done};
    struct env_queue q, p;

    n_done = 0;
    atomic_store(&let_go, false);
    env_queue_init(env, &q, false);
    env_queue_init(env, &p, false);
    p.apart = true;
    for (int i = 0; i < 5; i++) {
        hung[i] = (struct env_job){.run = hung_run, .done = hung_done};
        env_job_submit(env, &q, &hung[i]);
    }
    env_job_submit(env, &p, &apart);
    run();
    ck_assert_int_eq(n_done, 6);
}
END_TEST

/* ---- descriptors and signals ---------------------------------------------------------------------- */

static void fd_ready(void *arg, short revents)
{
    int fd = *(int *)arg;

    ck_assert_int_eq(revents, POLLIN);
    os_env_remove_fd(env, fd);
    raise(SIGUSR1);
}

static void on_signal(void *arg TC_UNUSED, int signo)
{
    ck_assert_int_eq(signo, SIGUSR1);
    os_env_stop(env, 0);
}

START_TEST(descriptors_and_signals)
{
    int fd = eventfd(1, EFD_CLOEXEC);

    os_env_on_signal(env, SIGUSR1, on_signal, NULL);
    os_env_add_fd(env, fd, POLLIN, fd_ready, &fd);
    run();
    close(fd);
}
END_TEST

/* ---- messages --------------------------------------------------------------------------------- */

#define PAYLOAD (1u << 20)

static struct net_port *server, *client;
static uint64_t last_peer;
static int n_requests, n_replies, want_replies;

static struct buf *buf_of(const char *s)
{
    return buf_copy(s, (uint32_t)strlen(s));
}

/* Echo: head and payload go back as they are. */
static void server_msg(void *arg TC_UNUSED, uint64_t peer, struct buf *head, struct buf *payload)
{
    n_requests++;
    last_peer = peer;
    ck_assert_int_eq(
        env_send(server, peer, buf_ref(head), payload ? buf_ref(payload) : NULL), 0);
}

static void client_msg(void *arg TC_UNUSED, uint64_t peer, struct buf *head, struct buf *payload)
{
    ck_assert_uint_eq(peer, 0);
    if (head->data[0] == 'p') {
        ck_assert_ptr_nonnull(payload);
        ck_assert_uint_eq(payload->len, PAYLOAD);
        ck_assert_int_eq(payload->data[0], 1);
        ck_assert_int_eq(payload->data[PAYLOAD - 1], 2);
    } else {
        ck_assert_ptr_null(payload);
    }
    if (++n_replies == want_replies)
        os_env_stop(env, 0);
}

static void open_both(void)
{
    n_requests = n_replies = 0;
    ck_assert_int_eq(env_listen(env, "tcp://127.0.0.1:*", server_msg, NULL, &server), 0);
    ck_assert_int_eq(env_connect(env, os_env_endpoint(server), client_msg, NULL, &client), 0);
}

static void send_and_wait(int n)
{
    want_replies = n_replies + n;
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(env_send(client, 0, buf_of("hello"), NULL), 0);
    run();
}

static struct buf *big_payload(void)
{
    struct buf *b = buf_new(PAYLOAD);

    b->len = PAYLOAD;
    memset(b->data, 0, PAYLOAD);
    b->data[0] = 1;
    b->data[PAYLOAD - 1] = 2;
    return b;
}

/* Right after connecting messages are held for the connection; then they flow, payloads by reference. */
START_TEST(messages_both_ways)
{
    struct buf *payload = big_payload();

    open_both();
    send_and_wait(20);
    want_replies = n_replies + 30;
    for (int i = 0; i < 30; i++)
        ck_assert_int_eq(env_send(client, 0, buf_of("p"), buf_ref(payload)), 0);
    run();
    send_and_wait(1000); /* more than a turn's worth */
    ck_assert_int_eq(n_requests, 1050);
    env_port_close(client);
    env_port_close(server);
    buf_unref(payload);
}
END_TEST

START_TEST(window_pushes_back)
{
    struct buf *payload = big_payload();
    int n = 0, r = 0;

    open_both();
    send_and_wait(1);
    while (r == 0 && n < 1000) { /* the loop does not run: the server reads nothing */
        r = env_send(client, 0, buf_of("p"), buf_ref(payload));
        n += r == 0;
    }
    ck_assert_int_eq(r, -TC_E_BACKPRESSURE);
    ck_assert_int_ge(n, 64);
    want_replies = n_replies + n;
    run();
    send_and_wait(1);
    env_port_close(client);
    env_port_close(server);
    buf_unref(payload);
}
END_TEST

static void retry(struct env_timer *t)
{
    int r = env_send(client, 0, buf_of("hello"), NULL);

    ck_assert(r == 0 || r == -TC_E_UNREACHABLE);
    strcat(trace, r == 0 ? "+" : "-");
    if (strlen(trace) > 200)
        trace[100] = '\0';
    env_timer_set(env, t, env_now(env) + 20 * NS_PER_MS);
}

static void stop_fire(struct env_timer *t TC_UNUSED)
{
    os_env_stop(env, 0);
}

static void run_for(uint64_t ms)
{
    struct env_timer t = {.fn = stop_fire};

    env_timer_set(env, &t, env_now(env) + ms * NS_PER_MS);
    run();
}

/* A server goes: sends fail at once. It comes back: the port finds it by itself. */
START_TEST(peer_restarts)
{
    struct env_timer again = {.fn = retry};
    char endpoint[256];

    open_both();
    send_and_wait(1);
    strcpy(endpoint, os_env_endpoint(server));
    env_port_close(server);
    run_for(400);
    ck_assert_int_eq(env_send(client, 0, buf_of("hello"), NULL), -TC_E_UNREACHABLE);
    ck_assert_int_eq(env_listen(env, endpoint, server_msg, NULL, &server), 0);
    want_replies = n_replies + 1;
    env_timer_set(env, &again, 0);
    run();
    ck_assert_ptr_nonnull(strchr(trace, '+'));
    env_timer_cancel(env, &again);
    env_port_close(client);
    env_port_close(server);
}
END_TEST

START_TEST(dead_peer)
{
    struct net_port *other;

    open_both();
    ck_assert_int_eq(env_send(server, 1, buf_of("x"), NULL), -TC_E_UNREACHABLE);
    ck_assert_int_eq(env_send(server, UINT64_C(1) << 32, buf_of("x"), NULL), -TC_E_UNREACHABLE);
    send_and_wait(1);
    env_port_close(client);
    run_for(100);
    ck_assert_int_eq(env_send(server, last_peer, buf_of("x"), NULL), -TC_E_UNREACHABLE);
    ck_assert_int_eq(env_listen(env, os_env_endpoint(server), server_msg, NULL, &other),
                     -TC_E_ADDRINUSE);
    ck_assert_int_eq(env_listen(env, "tcp://192.0.2.1:0", server_msg, NULL, &other), -TC_E_NXIO);
    ck_assert_int_eq(env_listen(env, "nonsense", server_msg, NULL, &other), -TC_E_INVAL);
    ck_assert_int_eq(env_connect(env, "nonsense", server_msg, NULL, &other), -TC_E_INVAL);
    env_port_close(server);
}
END_TEST

/* Nobody listens: held at first, then refused. */
START_TEST(nobody_there)
{
    ck_assert_int_eq(env_connect(env, "tcp://127.0.0.1:1", client_msg, NULL, &client), 0);
    ck_assert_int_eq(env_send(client, 0, buf_of("hello"), NULL), 0);
    run_for(OS_ENV_HOLD_MS + 20);
    ck_assert_int_eq(env_send(client, 0, buf_of("hello"), NULL), -TC_E_UNREACHABLE);
    env_port_close(client);
}
END_TEST

/* ---- busy polling ------------------------------------------------------------------------------- */

static bool awaits(void *arg TC_UNUSED)
{
    return true;
}

/* Longer than most waits here: they are spent awake. */
static void setup_awake(void)
{
    setup();
    os_env_busy_poll(env, 50000, awaits, NULL);
}

static uint64_t processor_ns(void)
{
    struct timespec ts;

    ck_assert_int_eq(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), 0);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void again_later(struct env_timer *t)
{
    if (++n_replies == 20)
        os_env_stop(env, 0);
    else
        env_timer_set(env, t, env_now(env) + 30 * NS_PER_MS);
}

/* Waits longer than the limit are slept through, even if a busy time came before. */
START_TEST(long_waits_are_slept)
{
    struct env_timer t = {.fn = again_later};
    uint64_t begun, awake;

    os_env_busy_poll(env, 2000, awaits, NULL);
    open_both();
    for (int i = 0; i < 100; i++)
        send_and_wait(1);
    env_port_close(client);
    env_port_close(server);
    n_replies = 0;
    begun = processor_ns();
    env_timer_set(env, &t, env_now(env) + 30 * NS_PER_MS);
    run();
    awake = processor_ns() - begun;
    ck_assert_msg(awake < 20 * 30 * NS_PER_MS / 2, "awake for %llu ms of 600", (unsigned long long)(awake / NS_PER_MS));
}
END_TEST

static TCase *all_cases(const char *name, void (*before)(void))
{
    TCase *tc = tcase_create(name);

    tcase_add_checked_fixture(tc, before, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, timers_in_order);
    tcase_add_test(tc, timer_does_not_starve);
    tcase_add_test(tc, tasks_defer_themselves);
    tcase_add_test(tc, serial_jobs);
    tcase_add_test(tc, parallel_jobs);
    tcase_add_test(tc, job_apart);
    tcase_add_test(tc, descriptors_and_signals);
    tcase_add_test(tc, messages_both_ways);
    tcase_add_test(tc, window_pushes_back);
    tcase_add_test(tc, peer_restarts);
    tcase_add_test(tc, dead_peer);
    tcase_add_test(tc, nobody_there);
    return tc;
}

int main(void)
{
    Suite *s = suite_create("os_env");
    TCase *busy = all_cases("os_env_awake", setup_awake);
    SRunner *sr;

    tcase_add_test(busy, long_waits_are_slept);
    suite_add_tcase(s, all_cases("os_env", setup));
    suite_add_tcase(s, busy);
    sr = srunner_create(s);
    srunner_set_fork_status(sr, CK_NOFORK); /* ZeroMQ does not survive the fork */
    srunner_run_all(sr, CK_ENV);
    srunner_free(sr);
    return 0;
}
