/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short scripted cases for sentences of PROTOCOL 2 to 4 that the longer ones pass by. noticed.py runs them without the rules they
 * are about.
 */
#include <sys/stat.h>

#include "common/schema.h"
#include "meta/fsm.h"
#include "sim/scene.h"

static struct fsm *leaders(struct scene *s)
{
    return meta_server_fsm(cluster_leader(s->c)->server);
}

static uint64_t committed_size(struct scene *s)
{
    struct wire_arena arena = {0};
    struct attr attr = {0};

    ck_assert_int_eq(fsm_getattr(leaders(s), 0, s->ino, &arena, &attr), 0);
    wire_arena_fini(&arena);
    return attr.size;
}

/* Of three stores the client reaches one. */
static void one_store(struct scene *s, bool on)
{
    for (unsigned i = 1; i < 3; i++)
        sim_net_cut(s->c->s, s->c->clients[0].node, s->c->stores[i].node, on);
}

/* ---- X is given back, 3.5 --------------------------------------------------------------------------- */

static void synced_writer(struct actor *a)
{
    struct scene *s = a->arg;

    s->replaced = make_file(a, LEN) == 0 && a_fsync(a, s->f) == 0;
}

START_TEST(idle_x)
{
    struct scene s = {0};
    struct fsm_lease lease;

    ck_assert(scene_start(&s, 1, NULL));
    actor_new(&s.c->clients[0], synced_writer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 3000));
    ck_assert(fsm_lease(leaders(&s), s.ino, &lease));
    scene_run(&s, 5000);
    ck_assert(!fsm_lease(leaders(&s), s.ino, &lease));
}
END_TEST

/* ---- sizes and truncates wait for blocks, 4.7, 4.8 -------------------------------------------------- */

static void far_byte(struct actor *a)
{
    struct scene *s = a->arg;

    s->ended = a_write(a, s->f, "x", 1, UINT64_C(100) << 20, false) == 0 && a_fsync(a, s->f) == 0;
}

/* The reach has to be committed meanwhile: the size does not go with it. */
START_TEST(size_after_blocks)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    actor_new(&s.c->clients[0], synced_writer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 3000));
    one_store(&s, true);
    actor_new(&s.c->clients[0], far_byte, &s);
    scene_run(&s, 1500);
    ck_assert(!s.ended);
    ck_assert_uint_le(committed_size(&s), LEN);
    one_store(&s, false);
    ck_assert(scene_wait(&s, &s.ended, 10000));
}
END_TEST

static void rewriter(struct actor *a)
{
    struct scene *s = a->arg;

    (void)(a_write(a, s->f, "bb", 2, 0, false) == 0 && a_fsync(a, s->f));
}

static void cutter(struct actor *a)
{
    struct scene *s = a->arg;

    s->ended = a_truncate(a, s->ino, 1) == 0;
}

START_TEST(truncate_after_blocks)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    actor_new(&s.c->clients[0], synced_writer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 3000));
    actor_new(&s.c->clients[0], rewriter, &s);
    scene_run(&s, 200); /* the size is committed */
    one_store(&s, true);
    actor_new(&s.c->clients[0], rewriter, &s);
    scene_run(&s, 100);
    actor_new(&s.c->clients[0], cutter, &s);
    scene_run(&s, 1000);
    ck_assert(!s.ended);
    ck_assert_uint_ne(committed_size(&s), 1);
    one_store(&s, false);
    ck_assert(scene_wait(&s, &s.ended, 10000));
}
END_TEST

/* ---- the caching right, 3.1 ------------------------------------------------------------------------- */

static void looker(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a))
        return;
    while (!s->ended && !s->stale) {
        bool made = s->done > 0;

        s->stale = a_lookup(a, tc_client_root(a->cl->tc), "n") == -TC_E_NOENT && made;
        s->n++;
        actor_sleep(a, 10 * NS_PER_MS);
    }
}

static void maker(struct actor *a)
{
    struct scene *s = a->arg;

    if (actor_ready(a) && a_make(a, tc_client_root(a->cl->tc), "n", S_IFREG | 0644, true) == 0)
        s->done = 1;
}

/* Answers to keepalives take a second; then nothing of the client arrives, and no recall at it. The leader counts from when it
 * heard of it last, so the client must not count from when it was answered. */
START_TEST(right_from_the_sending)
{
    struct scene s = {.ttl_ms = 10000};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], looker, &s);
    scene_run(&s, 1500);
    s.holds[0] = (struct hold){MSG_KEEPALIVE, WIRE_REPLY, s.c->clients[0].node, NS_PER_S, 1000000};
    s.holds[1] = (struct hold){MSG_RECALL, WIRE_NOTICE, s.c->clients[0].node, UINT64_MAX, 1000000};
    scene_run(&s, 3000);
    scene_cut(&s, 0, true, false, true);
    actor_new(&s.c->clients[1], maker, &s);
    scene_run(&s, 4000);
    ck_assert_uint_eq(s.done, 1);
    ck_assert_uint_gt(s.n, 100);
    ck_assert(!s.stale);
}
END_TEST

/* ---- what expiry does to descriptors, 2.3 ----------------------------------------------------------- */

static void unsynced_writer(struct actor *a)
{
    (void)make_file(a, LEN);
}

static void late_reader(struct actor *a)
{
    struct scene *s = a->arg;

    (void)a_fsync(a, s->f); /* the error, once */
    s->status = a_read(a, s->f, 0, 1);
    s->ended = true;
}

START_TEST(loss_stays)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], unsynced_writer, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    scene_cut(&s, 0, true, true, true);
    actor_new(&s.c->clients[1], replacer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 20000));
    scene_cut(&s, 0, true, true, false);
    scene_run(&s, 3000);
    actor_new(&s.c->clients[0], late_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, -TC_E_IO);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {idle_x, size_after_blocks, truncate_after_blocks, right_from_the_sending, loss_stays};

    return cases_run("rules", tests, ARRAY_SIZE(tests));
}
