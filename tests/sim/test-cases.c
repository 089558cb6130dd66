/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripted cases: small clusters in which one thing happens that seeds bring about rarely. Each is run with all rules
 * on, and where a rule forbids what it looks for, without that rule too: then it must come true.
 */
#include <string.h>
#include <sys/stat.h>

#include "common/schema.h"
#include "meta/fsm.h"
#include "sim/scene.h"

/* ---- a holder that is cut off, 2.3 ------------------------------------------------------------------ */

static void holder(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN))
        return;
    while (!s->replaced)
        actor_sleep(a, 20 * NS_PER_MS);
    s->stale = a_read(a, s->f, 0, LEN) == 0 && a->len > 0 && a->data[0] == 'a';
}

static bool cut_off_holder(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    if (!scene_start(s, 2, off))
        return true;
    actor_new(&s->c->clients[0], holder, s);
    (void)scene_wait(s, &s->written, 500);
    scene_cut(s, 0, true, true, true);
    actor_new(&s->c->clients[1], replacer, s);
    scene_run(s, 20000);
    return !s->replaced || s->stale;
}

START_TEST(expiry)
{
    case_check(cut_off_holder, "EXPIRY", true);
}
END_TEST

/* ---- expired with a request in flight, 2.2 ---------------------------------------------------------- */

static void maker(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN))
        return;
    actor_sleep(a, 20 * NS_PER_MS);
    s->status = a_make(a, tc_client_root(a->cl->tc), "new", S_IFREG | 0644, true); /* no answer comes */
    s->ended = true;
}

static bool expired_in_flight(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    if (!scene_start(s, 2, off))
        return true;
    actor_new(&s->c->clients[0], maker, s);
    (void)scene_wait(s, &s->written, 500);
    scene_cut(s, 0, false, true, true); /* it is heard, but hears nothing */
    scene_run(s, 200);
    scene_cut(s, 0, true, true, true);
    actor_new(&s->c->clients[1], replacer, s); /* wants its file: it expires */
    (void)scene_wait(s, &s->replaced, 20000);
    scene_cut(s, 0, true, true, false);
    scene_run(s, 10000);
    return !s->replaced || !s->ended || s->status != 0;
}

START_TEST(fate)
{
    case_check(expired_in_flight, "FATE", true);
}
END_TEST

/* ---- a request that comes when its answer is long known, 2.1 ---------------------------------------- */

static void maker_and_remover(struct actor *a)
{
    struct scene *s = a->arg;
    uint64_t root;

    if (!actor_ready(a))
        return;
    root = tc_client_root(a->cl->tc);
    s->holds[0] = (struct hold){MSG_MAKE, WIRE_REQUEST, NULL, 3 * NS_PER_S, 1};
    if (a_make(a, root, "n", S_IFREG | 0644, true) || a_unlink(a, root, "n", false) ||
        a_make(a, root, "m", S_IFREG | 0644, true) || a_unlink(a, root, "m", false))
        return;
    s->written = true;
    actor_sleep(a, 4 * NS_PER_S);
    s->status = a_lookup(a, root, "n");
    s->ended = true;
}

/* It was sent once more, and what it made is gone again when the first copy comes: it stays so. */
START_TEST(late_copy)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    actor_new(&s.c->clients[0], maker_and_remover, &s);
    ck_assert(scene_wait(&s, &s.written, 2500));
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, -TC_E_NOENT);
}
END_TEST

/* ---- clocks minutes apart, 9.1 ---------------------------------------------------------------------- */

static bool clocks_apart(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    uint64_t mtime = 0;

    if (!scene_start(s, 1, off))
        return true;
    for (unsigned i = 0; i < 3; i++)
        sim_node_set_wall(s->c->members[i].node, ((int64_t)i - 1) * 600 * (int64_t)NS_PER_S);
    actor_new(&s->c->clients[0], toucher, s);
    for (int n = 0; n < 120; n++) {
        struct member *m = cluster_leader(s->c);
        struct wire_arena arena = {0};
        struct attr attr = {0};

        scene_run(s, 50);
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
    case_check(clocks_apart, "CLOCK,FSM_CLOCK", false);
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

    if (!scene_start(s, 1, off))
        return true;
    s->c->watch_log = count_elections;
    m = cluster_leader(s->c);
    actor_new(&s->c->clients[0], toucher, s);
    scene_run(s, 500);
    for (unsigned i = 0; i < 3; i++)
        if (&s->c->members[i] != m) {
            elections = 0;
            before = meta_server_applied(m->server);
            sim_node_stall(s->c->members[i].node, 6 * NS_PER_S);
            scene_run(s, 5500);
            if (elections || cluster_leader(s->c) != m || meta_server_applied(m->server) < before + 100)
                return true;
            scene_run(s, 3000);
        }
    return false;
}

START_TEST(slow_disk_of_a_follower)
{
    case_check(slow_follower, NULL, false);
}
END_TEST

/* The leader's own disk stands still: it hands over long before the disk is back. */
static bool slow_leader(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct member *m;

    if (!scene_start(s, 1, off))
        return true;
    m = cluster_leader(s->c);
    actor_new(&s->c->clients[0], toucher, s);
    scene_run(s, 500);
    sim_node_stall(m->node, 8 * NS_PER_S);
    scene_run(s, 5000);
    return !cluster_leader(s->c) || cluster_leader(s->c) == m;
}

START_TEST(slow_disk_of_the_leader)
{
    case_check(slow_leader, "STALL", false);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {expiry, fate, late_copy, clocks, slow_disk_of_a_follower, slow_disk_of_the_leader};

    return cases_run("cases", tests, ARRAY_SIZE(tests));
}
