/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripted cases: small clusters in which one thing happens that seeds bring about rarely. Each is run with all rules
 * on, and where a rule forbids what it looks for, without that rule too: then it must come true.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/test_rules.h"
#include "meta/fsm.h"
#include "sim/actor.h"

struct scene {
    struct cluster *c;
    uint64_t ino;
    bool written, replaced, stale, ended;
    int status;
};

static struct cluster *start(struct scene *s, unsigned clients, const uint64_t off[RULE_LAYERS])
{
    struct cluster_options opt = {.seed = 7, .n_meta = 3, .n_store = 3, .n_client = clients, .n = 3, .w = 2, .r = 2,
                                  .pg_count = 16, .ttl_ms = 2000};

    memcpy(opt.rules_off, off, sizeof opt.rules_off);
    tc_test_rules_set(off[RULE_DATA]);
    s->c = cluster_new(&opt);
    if (!cluster_start(s->c))
        return NULL;
    cluster_run_until(s->c, sim_now(s->c->s) + 2 * NS_PER_S); /* the stores are up, and the clients have the map */
    return s->c;
}

static void run_ms(struct scene *s, uint64_t ms)
{
    cluster_run_until(s->c, sim_now(s->c->s) + ms * NS_PER_MS);
}

/* Cut (or heal) client @i off from the servers, or them from it alone. */
static void cut_client(struct scene *s, unsigned i, bool from, bool to, bool on)
{
    struct sim_node *n = s->c->clients[i].node;

    for (unsigned k = 0; k < s->c->opt.n_meta + s->c->opt.n_store; k++) {
        if (from)
            sim_net_cut(s->c->s, n, cluster_node(s->c, k), on);
        if (to)
            sim_net_cut(s->c->s, cluster_node(s->c, k), n, on);
    }
}

/* Each runs in a process of its own. True: what the rule forbids came true. */
typedef bool case_fn(struct scene *s, const uint64_t off[RULE_LAYERS]);

static int outcome(case_fn *fn, const char *rule)
{
    uint64_t off[RULE_LAYERS] = {0};
    struct scene s = {0};
    int status;
    pid_t pid;

    if (rule && !rules_parse(rule, off))
        return -1;
    fflush(NULL);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(fn(&s, off) || !s.c || s.c->failed);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status != 0;
}

static void check_case(case_fn *fn, const char *rule, bool data)
{
    ck_assert_int_eq(outcome(fn, NULL), 0);
#ifndef TC_TEST_RULES_BUILD
    if (data)
        return;
#endif
    (void)data;
    if (rule)
        ck_assert_int_eq(outcome(fn, rule), 1);
}

/* ---- a holder that is cut off, 2.3 ------------------------------------------------------------------ */

enum { LEN = 8192 };

static void holder_main(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];
    struct tc_file *f;

    memset(data, 'a', LEN);
    if (!actor_ready(a) || a_make(a, tc_client_root(a->cl->tc), "f", S_IFREG | 0644, true))
        return;
    s->ino = a->ino;
    if (a_open(a, s->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f) || a_write(a, f, data, LEN, 0, false))
        return;
    s->written = true;
    while (!s->replaced)
        actor_sleep(a, 20 * NS_PER_MS);
    s->stale = a_read(a, f, 0, LEN) == 0 && a->len > 0 && a->data[0] == 'a';
}

static void next_main(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];
    struct tc_file *f;

    memset(data, 'b', LEN);
    if (!actor_ready(a) || a_open(a, s->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f))
        return;
    if (a_write(a, f, data, LEN, 0, false) == 0 && a_fsync(a, f) == 0)
        s->replaced = true;
}

static bool cut_off_holder(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    if (!start(s, 2, off))
        return true;
    actor_new(&s->c->clients[0], holder_main, s);
    for (int n = 0; n < 100 && !s->written; n++)
        run_ms(s, 5);
    cut_client(s, 0, true, true, true);
    actor_new(&s->c->clients[1], next_main, s);
    run_ms(s, 20000);
    return !s->replaced || s->stale;
}

START_TEST(expiry)
{
    check_case(cut_off_holder, "EXPIRY", true);
}
END_TEST

/* ---- expired with a request in flight, 2.2 ---------------------------------------------------------- */

static void maker_main(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN] = {1};
    struct tc_file *f;

    if (!actor_ready(a) || a_make(a, tc_client_root(a->cl->tc), "f", S_IFREG | 0644, true))
        return;
    s->ino = a->ino;
    if (a_open(a, s->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f) || a_write(a, f, data, LEN, 0, false))
        return;
    s->written = true;
    actor_sleep(a, 20 * NS_PER_MS);
    s->status = a_make(a, tc_client_root(a->cl->tc), "new", S_IFREG | 0644, true); /* no answer comes */
    s->ended = true;
}

static bool expired_in_flight(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    if (!start(s, 2, off))
        return true;
    actor_new(&s->c->clients[0], maker_main, s);
    for (int n = 0; n < 100 && !s->written; n++)
        run_ms(s, 5);
    cut_client(s, 0, false, true, true); /* it is heard, but hears nothing */
    run_ms(s, 200);
    cut_client(s, 0, true, true, true);
    actor_new(&s->c->clients[1], next_main, s); /* wants its file: it expires */
    for (int n = 0; n < 200 && !s->replaced; n++)
        run_ms(s, 100);
    cut_client(s, 0, true, true, false);
    run_ms(s, 10000);
    return !s->replaced || !s->ended || s->status != 0;
}

START_TEST(fate)
{
    check_case(expired_in_flight, "FATE", true);
}
END_TEST

/* ---- clocks minutes apart, 9.1 ---------------------------------------------------------------------- */

static void toucher_main(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a) || a_make(a, tc_client_root(a->cl->tc), "f", S_IFREG | 0644, true))
        return;
    s->ino = a->ino;
    for (uint64_t n = 1; n < 10000; n++) {
        if (a_truncate(a, s->ino, n))
            return;
        actor_sleep(a, 20 * NS_PER_MS);
    }
}

static bool clocks_apart(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    uint64_t mtime = 0;

    if (!start(s, 1, off))
        return true;
    for (unsigned i = 0; i < 3; i++)
        sim_node_set_wall(s->c->members[i].node, ((int64_t)i - 1) * 600 * (int64_t)NS_PER_S);
    actor_new(&s->c->clients[0], toucher_main, s);
    for (int n = 0; n < 120; n++) {
        struct member *m = cluster_leader(s->c);
        struct wire_arena arena = {0};
        struct attr attr = {0};

        run_ms(s, 50);
        if (!m || !s->ino || cluster_leader(s->c) != m)
            continue;
        if (fsm_getattr(meta_server_fsm(m->server), 0, s->ino, &arena, &attr) == 0 && attr.change) {
            if (attr.mtime < mtime)
                return true;
            mtime = attr.mtime;
        }
        wire_arena_fini(&arena);
        if (n % 15 == 14)
            (void)meta_server_transfer(m->server);
    }
    return mtime == 0;
}

START_TEST(clocks)
{
    check_case(clocks_apart, "CLOCK,FSM_CLOCK", false);
}
END_TEST

/* ---- slow disks, 1.1 -------------------------------------------------------------------------------- */

static unsigned elections;

static void count_elections(const char *line)
{
    elections += strstr(line, "msg=\"leads\"") != NULL;
}

/* Another's disk stands still: nobody is elected anew, and work goes on. */
static bool slow_follower(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct member *m;
    uint64_t before;

    if (!start(s, 1, off))
        return true;
    s->c->watch_log = count_elections;
    m = cluster_leader(s->c);
    actor_new(&s->c->clients[0], toucher_main, s);
    run_ms(s, 500);
    for (unsigned i = 0; i < 3; i++)
        if (&s->c->members[i] != m) {
            elections = 0;
            before = meta_server_applied(m->server);
            sim_node_stall(s->c->members[i].node, 6 * NS_PER_S);
            run_ms(s, 5500);
            if (elections || cluster_leader(s->c) != m || meta_server_applied(m->server) < before + 100)
                return true;
            run_ms(s, 3000);
        }
    return false;
}

START_TEST(slow_disk_of_a_follower)
{
    check_case(slow_follower, NULL, false);
}
END_TEST

/* The leader's own disk stands still: it hands over long before the disk is back. */
static bool slow_leader(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct member *m;

    if (!start(s, 1, off))
        return true;
    m = cluster_leader(s->c);
    actor_new(&s->c->clients[0], toucher_main, s);
    run_ms(s, 500);
    sim_node_stall(m->node, 8 * NS_PER_S);
    run_ms(s, 5000);
    return !cluster_leader(s->c) || cluster_leader(s->c) == m;
}

START_TEST(slow_disk_of_the_leader)
{
    check_case(slow_leader, "STALL", false);
}
END_TEST

/* ---- files of a store are gone, 1.5 ------------------------------------------------------------------ */

/* The journal, before the index was ever written: nothing is left that says that anything was there. */
static bool lost_journal(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct store *st;
    uint64_t before;

    if (!start(s, 1, off))
        return true;
    st = &s->c->stores[0];
    before = cluster_store_of(s->c, st->id);
    actor_new(&s->c->clients[0], holder_main, s);
    run_ms(s, 100);
    store_kill(st);
    sim_disk_reopen(sim_node_disk(st->node));
    if (vfs_unlink(sim_disk_vfs(sim_node_disk(st->node)), "store/journal/0000000000000001.seg") < 0)
        return true;
    store_boot(st);
    run_ms(s, 5000);
    return cluster_store_of(s->c, st->id) == before || !cluster_placed(s->c); /* another in its place, and filled */
}

START_TEST(lost_journal_of_a_store)
{
    check_case(lost_journal, NULL, false);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cases");
    TCase *t = tcase_create("cases");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    tcase_add_test(t, expiry);
    tcase_add_test(t, fate);
    tcase_add_test(t, clocks);
    tcase_add_test(t, slow_disk_of_a_follower);
    tcase_add_test(t, slow_disk_of_the_leader);
    tcase_add_test(t, lost_journal_of_a_store);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
