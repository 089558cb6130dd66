/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripted cases about advisory locks (PROTOCOL 9.2, 9.3). The test says step by step what each hand does: a file of its
 * own, opened on one of the clients.
 */
#include <sys/stat.h>

#include "client/internal.h"
#include "meta/fsm.h"
#include "sim/scene.h"

enum { HANDS = 3 };
enum op { OP_NONE, OP_OPEN, OP_LOCK, OP_READ, OP_RELEASE };

static struct hand {
    struct scene *s;
    struct tc_file *f;
    enum op op; /* under way */
    struct file_lock l;
    uint64_t wait_ns;
    int status;
} hands[HANDS];

static void hand_main(struct actor *a)
{
    struct hand *h = a->arg;

    if (!actor_ready(a))
        return;
    for (;;) {
        if (h->op == OP_OPEN && !h->s->ino) {
            h->status = a_make(a, tc_client_root(a->cl->tc), "f", S_IFREG | 0644, true);
            h->s->ino = a->ino;
        }
        if (h->op == OP_OPEN)
            h->status = a_open(a, h->s->ino, TC_OPEN_READ | TC_OPEN_WRITE, &h->f);
        else if (h->op == OP_LOCK)
            h->status = a_lock(a, h->f, &h->l, h->wait_ns);
        else if (h->op == OP_READ)
            h->status = a_read(a, h->f, 0, 8);
        else if (h->op == OP_RELEASE)
            tc_release(a->cl->tc, h->f);
        h->op = OP_NONE;
        do
            actor_sleep(a, 100 * NS_PER_US);
        while (h->op == OP_NONE);
    }
}

static int end_of(struct hand *h)
{
    for (unsigned n = 0; n < 60000 && h->op != OP_NONE && !h->s->c->failed; n++)
        scene_run(h->s, 1);
    ck_assert(h->op == OP_NONE);
    return h->status;
}

static int act(struct hand *h, enum op op)
{
    h->op = op;
    return end_of(h);
}

static void lock_begin(struct hand *h, enum lock_type type, uint64_t start, uint64_t end, uint64_t wait_ms)
{
    h->l = (struct file_lock){.owner = (uint64_t)(h - hands) + 1, .start = start, .end = end, .type = (uint8_t)type};
    h->wait_ns = wait_ms * NS_PER_MS;
    h->op = OP_LOCK;
}

static int lock(struct hand *h, enum lock_type type, uint64_t start, uint64_t end)
{
    lock_begin(h, type, start, end, 0);
    return end_of(h);
}

/* Hands on @clients clients; those past the last share its first. */
static void begin(struct scene *s, unsigned clients)
{
    *s = (struct scene){0};
    ck_assert(scene_start(s, clients, NULL));
    for (unsigned i = 0; i < HANDS; i++) {
        hands[i] = (struct hand){.s = s, .op = OP_OPEN};
        actor_new(&s->c->clients[i < clients ? i : 0], hand_main, &hands[i]);
        ck_assert_int_eq(end_of(&hands[i]), 0);
    }
}

/* All files are closed: no lock is left anywhere. */
static void end(struct scene *s)
{
    struct lock_req all = {.ino = s->ino, .lock = {.owner = 1, .end = LOCK_END, .type = LOCK_EXCLUSIVE}};
    struct lock_res res;
    uint64_t session;
    struct member *m;

    for (unsigned i = 0; i < HANDS; i++)
        (void)act(&hands[i], OP_RELEASE);
    scene_run(s, 4000);
    m = cluster_leader(s->c);
    ck_assert(m && !s->c->failed);
    ck_assert_int_eq(fsm_lock_look(meta_server_fsm(m->server), &all, &res, &session), 0);
    ck_assert(!res.has_other && !res.held);
    for (unsigned i = 0; i < s->c->opt.n_client; i++) {
        struct inode *ino = inode_find(s->c->clients[i].tc, s->ino);

        ck_assert(!ino || !ino->locks);
    }
}

/* Who alone holds L says what it has before anybody else gets anywhere. */
START_TEST(recalled)
{
    struct scene s;

    begin(&s, 2);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    ck_assert_int_eq(lock(&hands[1], LOCK_SHARED, 5, 20), -TC_E_AGAIN);
    ck_assert_int_eq(lock(&hands[1], LOCK_SHARED, 10, 20), 0);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 20, 20), -TC_E_AGAIN);
    lock_begin(&hands[1], LOCK_EXCLUSIVE, 0, 9, 10000);
    scene_run(&s, 500);
    ck_assert(hands[1].op == OP_LOCK);
    ck_assert_int_eq(lock(&hands[0], LOCK_UNLOCK, 0, 9), 0);
    ck_assert_int_eq(end_of(&hands[1]), 0);
    end(&s);
}
END_TEST

/* The holder is cut off, with L or with its lock registered: nobody else has the lock before its session is over. */
static void cut_off(bool registered)
{
    struct scene s;

    begin(&s, 2);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    if (registered)
        ck_assert_int_eq(lock(&hands[1], LOCK_EXCLUSIVE, 0, 9), -TC_E_AGAIN);
    scene_cut(&s, 0, true, true, true);
    lock_begin(&hands[1], LOCK_EXCLUSIVE, 0, 9, 30000);
    for (unsigned n = 0; n < 30000 && hands[1].op; n++) {
        scene_run(&s, 1);
        ck_assert(hands[1].op || !session_valid(s.c->clients[0].tc));
    }
    ck_assert_int_eq(end_of(&hands[1]), 0);
    scene_cut(&s, 0, true, true, false);
    scene_run(&s, 3000);
    ck_assert_int_eq(act(&hands[0], OP_READ), -TC_E_IO);
    ck_assert_int_eq(lock(&hands[0], LOCK_SHARED, 100, 100), -TC_E_IO);
    ck_assert_int_eq(lock(&hands[1], LOCK_UNLOCK, 0, 9), 0);
    (void)act(&hands[0], OP_RELEASE);
    ck_assert_int_eq(act(&hands[0], OP_OPEN), 0);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    end(&s);
}

START_TEST(holder_of_l_cut_off)
{
    cut_off(false);
}
END_TEST

START_TEST(holder_cut_off)
{
    cut_off(true);
}
END_TEST

/* What L says at its end is what is locked until that is answered. */
START_TEST(calls_wait)
{
    struct scene s;

    begin(&s, 2);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    s.holds[0] = (struct hold){MSG_LOCK_END, WIRE_REPLY, s.c->clients[0].node, 100 * NS_PER_MS, 1};
    ck_assert_int_eq(lock(&hands[1], LOCK_EXCLUSIVE, 20, 29), 0);
    ck_assert_uint_eq(s.holds[0].times, 0);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 20, 29), -TC_E_AGAIN);
    end(&s);
}
END_TEST

static struct member *kill_leader(struct scene *s)
{
    struct member *m = cluster_leader(s->c);

    ck_assert(m);
    m->down = true;
    member_kill(m);
    return m;
}

/* The leader dies when L was recalled, and its end never comes. */
START_TEST(leader_dies_after_recall)
{
    struct scene s;

    begin(&s, 2);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    s.holds[0] = (struct hold){MSG_LOCK_END, WIRE_REQUEST, cluster_leader(s.c)->node, UINT64_MAX, 1};
    lock_begin(&hands[1], LOCK_EXCLUSIVE, 0, 9, 30000);
    for (unsigned n = 0; n < 1000 && s.holds[0].times; n++)
        scene_run(&s, 1);
    ck_assert_uint_eq(s.holds[0].times, 0);
    (void)kill_leader(&s);
    scene_run(&s, 1500);
    ck_assert(hands[1].op == OP_LOCK && session_valid(s.c->clients[0].tc));
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 5, 9), 0); /* has it still */
    ck_assert(hands[1].op == OP_LOCK);
    ck_assert_int_eq(lock(&hands[0], LOCK_UNLOCK, 0, 9), 0);
    ck_assert_int_eq(end_of(&hands[1]), 0);
    end(&s);
}
END_TEST

/* A lock was set, its answer is lost and the leader dies: it is asked for again, and had once. */
START_TEST(answer_is_lost)
{
    struct scene s;

    begin(&s, 2);
    s.holds[0] = (struct hold){MSG_LOCK, WIRE_REPLY, s.c->clients[0].node, UINT64_MAX, 1};
    lock_begin(&hands[0], LOCK_EXCLUSIVE, 0, 9, 0);
    for (unsigned n = 0; n < 1000 && s.holds[0].times; n++)
        scene_run(&s, 1);
    ck_assert_uint_eq(s.holds[0].times, 0);
    (void)kill_leader(&s);
    lock_begin(&hands[1], LOCK_EXCLUSIVE, 0, 9, 30000);
    ck_assert_int_eq(end_of(&hands[0]), 0);
    scene_run(&s, 1000);
    ck_assert(hands[1].op == OP_LOCK);
    ck_assert_int_eq(lock(&hands[0], LOCK_UNLOCK, 0, 9), 0);
    ck_assert_int_eq(end_of(&hands[1]), 0);
    end(&s);
}
END_TEST

/* The caller has gone when its lock comes: nobody has it. */
START_TEST(cancelled_under_way)
{
    struct scene s;

    begin(&s, 2);
    s.holds[0] = (struct hold){MSG_LOCK, WIRE_REPLY, s.c->clients[1].node, 100 * NS_PER_MS, 1};
    lock_begin(&hands[1], LOCK_EXCLUSIVE, 0, 9, 40);
    ck_assert_int_eq(end_of(&hands[1]), -TC_E_CANCELLED);
    ck_assert_uint_eq(s.holds[0].times, 0);
    scene_run(&s, 300);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    end(&s);
}
END_TEST

/* Two ask at the same moment: one has it. */
START_TEST(two_at_once)
{
    struct scene s;

    begin(&s, 2);
    lock_begin(&hands[0], LOCK_EXCLUSIVE, 0, 9, 0);
    lock_begin(&hands[1], LOCK_EXCLUSIVE, 9, 9, 0);
    (void)end_of(&hands[0]);
    (void)end_of(&hands[1]);
    ck_assert_int_eq(hands[0].status + hands[1].status, -TC_E_AGAIN);
    ck_assert(hands[0].status == 0 || hands[1].status == 0);
    end(&s);
}
END_TEST

/* A recall comes once more, long after L has ended, and then to one who holds L anew. */
START_TEST(stale_recall)
{
    struct scene s;

    begin(&s, 2);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    s.holds[0] = (struct hold){MSG_RECALL, WIRE_NOTICE, s.c->clients[0].node, 5 * NS_PER_S, 1};
    ck_assert_int_eq(lock(&hands[1], LOCK_EXCLUSIVE, 20, 29), 0); /* it was said again */
    ck_assert_uint_eq(s.holds[0].times, 0);
    ck_assert_int_eq(lock(&hands[1], LOCK_UNLOCK, 0, LOCK_END), 0);
    ck_assert_int_eq(lock(&hands[0], LOCK_SHARED, 40, 40), 0); /* alone again */
    scene_run(&s, 7000);
    ck_assert_int_eq(lock(&hands[1], LOCK_EXCLUSIVE, 0, 9), -TC_E_AGAIN);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 40, 50), 0);
    ck_assert_int_eq(lock(&hands[1], LOCK_SHARED, 50, 50), -TC_E_AGAIN);
    end(&s);
}
END_TEST

/* L is given back idle, and asked for again before that is answered. */
START_TEST(idle_and_again)
{
    struct scene s;

    begin(&s, 2);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    ck_assert_int_eq(lock(&hands[0], LOCK_UNLOCK, 0, 9), 0);
    s.holds[0] = (struct hold){MSG_LOCK_END, WIRE_REPLY, s.c->clients[0].node, 100 * NS_PER_MS, 1};
    for (unsigned n = 0; n < 3000 && s.holds[0].times; n++)
        scene_run(&s, 1);
    ck_assert_uint_eq(s.holds[0].times, 0);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    ck_assert_int_eq(lock(&hands[1], LOCK_EXCLUSIVE, 0, 9), -TC_E_AGAIN);
    end(&s);
}
END_TEST

/* A call waits while the locks of its file are lost: it fails with the file, and locks nothing. */
START_TEST(waits_through_a_failed_file)
{
    struct scene s;

    begin(&s, 2);
    ck_assert_int_eq(lock(&hands[0], LOCK_EXCLUSIVE, 0, 9), 0);
    ck_assert_int_eq(lock(&hands[1], LOCK_EXCLUSIVE, 20, 29), 0);
    hands[2].f = (act(&hands[2], OP_RELEASE), hands[0].f); /* another owner, the same file */
    lock_begin(&hands[2], LOCK_EXCLUSIVE, 20, 29, 60000);
    scene_run(&s, 1000);
    ck_assert(hands[2].op == OP_LOCK);
    scene_cut(&s, 0, true, true, true);
    scene_run(&s, 500);
    lock_begin(&hands[1], LOCK_EXCLUSIVE, 0, 9, 30000);
    ck_assert_int_eq(end_of(&hands[1]), 0);
    ck_assert_int_eq(lock(&hands[1], LOCK_UNLOCK, 0, LOCK_END), 0);
    scene_cut(&s, 0, true, true, false);
    ck_assert_int_eq(end_of(&hands[2]), -TC_E_IO);
    scene_run(&s, 500);
    ck_assert_int_eq(lock(&hands[1], LOCK_EXCLUSIVE, 20, 29), 0);
    hands[2].op = OP_OPEN;
    ck_assert_int_eq(end_of(&hands[2]), 0);
    end(&s);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {recalled, calls_wait, leader_dies_after_recall, answer_is_lost, cancelled_under_way, two_at_once,
                                  stale_recall, idle_and_again, waits_through_a_failed_file, holder_of_l_cut_off, holder_cut_off};

    return cases_run("cases-locks", tests, ARRAY_SIZE(tests));
}
