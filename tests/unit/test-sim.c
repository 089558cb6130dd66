/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulator itself: the same seed gives the same trace, another seed another; a killed node is silent;
 * a paused one gets everything later, in order; ways are cut one by one; peers die with their connection.
 */
#include <check.h>
#include <stdio.h>

#include "sim/sim.h"

struct echo { /* a node that sends numbers to the others and writes what it hears to its disk */
    struct sim_node *n;
    struct env *env;
    struct net_port *listen;
    struct net_port *out[3];
    struct env_timer timer;
    struct env_job job;
    struct env_queue queue;
    struct vfs_file *file;
    uint64_t got, sent, answered, last_peer;
    uint64_t log[4096];
    bool writing;
};

static struct buf *number(uint64_t v)
{
    return buf_copy(&v, sizeof v);
}

static void on_answer(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct echo *e = arg;

    (void)head;
    (void)payload;
    ck_assert_uint_eq(peer, 0);
    e->answered++;
}

static void job_run(struct env_job *j)
{
    struct echo *e = container_of(j, struct echo, job);

    if (vfs_pwrite(e->file, &e->got, 8, e->got % 512 * 8) == 0 && vfs_sync(e->file) == 0)
        return;
}

static void job_done(struct env_job *j)
{
    container_of(j, struct echo, job)->writing = false;
}

static void on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct echo *e = arg;

    (void)payload;
    ck_assert_uint_ne(peer, 0);
    memcpy(&e->log[e->got % 4096], head->data, 8);
    e->got++;
    e->last_peer = peer;
    env_send(e->listen, peer, number(e->got), NULL);
    if (!e->writing) {
        e->writing = true;
        e->job = (struct env_job){.run = job_run, .done = job_done};
        env_job_submit(e->env, &e->queue, &e->job);
    }
}

static void on_timer(struct env_timer *t)
{
    struct echo *e = container_of(t, struct echo, timer);

    for (int i = 0; i < 3; i++)
        env_send(e->out[i], 0, number(e->sent++), NULL);
    env_timer_set(e->env, t, env_now(e->env) + NS_PER_MS + env_random(e->env) % NS_PER_MS);
}

static void echo_boot(struct echo *e)
{
    static const char *const hosts[] = {"a", "b", "c"};
    char ep[64];

    e->env = sim_node_boot(e->n);
    e->writing = false;
    env_queue_init(e->env, &e->queue, true);
    snprintf(ep, sizeof ep, "tcp://%s:1", sim_node_host(e->n));
    ck_assert_int_eq(env_listen(e->env, ep, on_msg, e, &e->listen), 0);
    for (int i = 0; i < 3; i++) {
        snprintf(ep, sizeof ep, "tcp://%s:1", hosts[i]);
        ck_assert_int_eq(env_connect(e->env, ep, on_answer, e, &e->out[i]), 0);
    }
    ck_assert_int_eq(vfs_open(env_vfs(e->env), "f", VFS_RDWR | VFS_CREATE, &e->file), 0);
    e->timer = (struct env_timer){.fn = on_timer};
    env_timer_set(e->env, &e->timer, env_now(e->env) + NS_PER_MS);
}

static void echo_kill(struct echo *e)
{
    sim_node_kill(e->n);
    vfs_close(e->file);
    env_timer_cancel(e->env, &e->timer);
    for (int i = 0; i < 3; i++)
        env_port_close(e->out[i]);
    env_port_close(e->listen);
}

static struct sim *world(uint64_t seed, struct echo *e)
{
    struct sim *s = sim_new(seed);
    const char *hosts[] = {"a", "b", "c"};

    memset(e, 0, 3 * sizeof *e);
    for (int i = 0; i < 3; i++) {
        e[i].n = sim_node_new(s, hosts[i]);
        echo_boot(&e[i]);
    }
    return s;
}

static void world_end(struct sim *s, struct echo *e)
{
    for (int i = 0; i < 3; i++)
        if (sim_node_alive(e[i].n))
            echo_kill(&e[i]);
    sim_free(s);
}

static uint64_t run_chaos(uint64_t seed)
{
    static struct echo e[3];
    struct sim *s = world(seed, e);
    struct sim_net_options net = {.latency_ns = 200000, .loss_ppm = 20000, .dup_ppm = 20000,
                                  .reorder_ppm = 50000, .reorder_ns = 5 * NS_PER_MS};
    uint64_t trace;

    sim_net_set(s, &net);
    for (int i = 0; i < 60; i++) {
        struct echo *v = &e[sim_below(sim_rng(s), 3)];

        sim_run_until(s, sim_now(s) + 10 * NS_PER_MS);
        switch (sim_below(sim_rng(s), 5)) {
        case 0:
            if (sim_node_alive(v->n)) {
                echo_kill(v);
                sim_disk_power_loss(sim_node_disk(v->n), SIM_LOSS_RANDOM);
            } else {
                echo_boot(v);
            }
            break;
        case 1:
            sim_node_pause(v->n, !sim_node_paused(v->n));
            break;
        case 2:
            sim_net_cut(s, v->n, e[0].n, true);
            break;
        case 3:
            sim_net_heal(s);
            break;
        case 4:
            sim_node_set_drift(v->n, (int64_t)sim_below(sim_rng(s), 20000) - 10000);
            break;
        }
    }
    trace = sim_trace(s);
    for (int i = 0; i < 3; i++)
        trace = sim_mix(trace ^ sim_disk_hash(sim_node_disk(e[i].n)));
    world_end(s, e);
    return trace;
}

START_TEST(same_seed_same_trace)
{
    uint64_t a = run_chaos((uint64_t)_i), b = run_chaos((uint64_t)_i), c = run_chaos((uint64_t)_i + 1000);

    ck_assert_uint_eq(a, b);
    ck_assert_uint_ne(a, c);
}
END_TEST

START_TEST(kill_is_silence)
{
    static struct echo e[3];
    struct sim *s = world(5, e);
    uint64_t sent, got;

    sim_run_until(s, 100 * NS_PER_MS);
    ck_assert_uint_gt(e[0].got, 100);
    ck_assert_uint_gt(e[0].answered, 100);
    echo_kill(&e[1]);
    sent = e[1].sent;
    got = e[1].got;
    sim_run_until(s, 200 * NS_PER_MS);
    ck_assert_uint_eq(e[1].sent, sent);
    ck_assert_uint_eq(e[1].got, got);
    echo_boot(&e[1]);
    sim_run_until(s, 300 * NS_PER_MS);
    ck_assert_uint_gt(e[1].got, got + 100);
    world_end(s, e);
}
END_TEST

START_TEST(pause_delays)
{
    static struct echo e[3];
    struct sim *s = world(6, e);
    uint64_t got, sent;

    sim_run_until(s, 100 * NS_PER_MS);
    sim_node_pause(e[1].n, true);
    got = e[1].got;
    sent = e[1].sent;
    sim_run_until(s, 500 * NS_PER_MS);
    ck_assert_uint_eq(e[1].got, got);
    ck_assert_uint_eq(e[1].sent, sent);
    sim_node_pause(e[1].n, false);
    sim_run_until(s, 501 * NS_PER_MS);
    ck_assert_uint_gt(e[1].got, got + 300);
    world_end(s, e);
}
END_TEST

START_TEST(cut_is_one_way)
{
    static struct echo e[3];
    struct sim *s = world(7, e);
    uint64_t got0, got1;

    sim_run_until(s, 100 * NS_PER_MS);
    for (int i = 1; i < 3; i++)
        sim_net_cut(s, e[i].n, e[0].n, true);
    sim_run_until(s, 110 * NS_PER_MS);
    got0 = e[0].got;
    got1 = e[1].got;
    sim_run_until(s, 210 * NS_PER_MS);
    ck_assert_uint_lt(e[0].got - got0, 120); /* its own alone */
    ck_assert_uint_gt(e[1].got - got1, 150);
    sim_net_heal(s);
    sim_run_until(s, 310 * NS_PER_MS);
    ck_assert_uint_gt(e[0].got - got0, 200);
    world_end(s, e);
}
END_TEST

START_TEST(peers_die)
{
    static struct echo e[3];
    struct sim *s = world(8, e);
    uint64_t peer;

    sim_run_until(s, 100 * NS_PER_MS);
    peer = e[0].last_peer;
    ck_assert_int_eq(env_send(e[0].listen, peer, number(1), NULL), 0);
    sim_net_reset(e[0].n);
    ck_assert_int_eq(env_send(e[0].listen, peer, number(1), NULL), -TC_E_UNREACHABLE);
    sim_run_until(s, 200 * NS_PER_MS);
    ck_assert_uint_gt(e[0].last_peer, peer);
    world_end(s, e);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sim");
    TCase *tc = tcase_create("sim");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_add_loop_test(tc, same_seed_same_trace, 1, 5);
    tcase_add_test(tc, kill_is_silence);
    tcase_add_test(tc, pause_delays);
    tcase_add_test(tc, cut_is_one_way);
    tcase_add_test(tc, peers_die);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return getenv("CK_TAP_LOG_FILE_NAME") ? 0 : failed != 0;
}
