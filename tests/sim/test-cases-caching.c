/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripted cases about what clients cache and for how long: answers that come late, rights that ran out, leaders that
 * were deposed. noticed.py runs them without the rules they are about.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/schema.h"
#include "sim/scene.h"

static uint64_t root_of(struct actor *a)
{
    return tc_client_root(a->cl->tc);
}

/* ---- answers that come late, 2.5, 3.2 --------------------------------------------------------------- */

/* A lookup whose answer, that there is no such name, is under way while the same client makes it. */
static void early_lookup(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a))
        return;
    (void)a_lookup(a, root_of(a), "n");
    s->n++;
    actor_sleep(a, 100 * NS_PER_MS);
    s->status = a_lookup(a, root_of(a), "n");
    s->ended = true;
}

static void maker_of_name(struct actor *a)
{
    struct scene *s = a->arg;

    actor_sleep(a, 10 * NS_PER_MS);
    if (a_make(a, root_of(a), "n", S_IFREG | 0644, true) == 0)
        s->written = true;
}

START_TEST(late_name)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    s.holds[0] = (struct hold){MSG_LOOKUP, WIRE_REPLY, s.c->clients[0].node, 60 * NS_PER_MS, 1};
    actor_new(&s.c->clients[0], early_lookup, &s);
    actor_new(&s.c->clients[0], maker_of_name, &s);
    ck_assert(scene_wait(&s, &s.ended, 3000));
    ck_assert(s.written && !s.holds[0].times);
    ck_assert_int_eq(s.status, 0);
}
END_TEST

/* Attributes of a directory under way while the same client makes another directory in it: the link is not forgotten. */
static void early_getattr(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a) || a_getattr(a, root_of(a)))
        return;
    s->n = a->nlink;
    actor_sleep(a, 100 * NS_PER_MS);
    s->status = a_getattr(a, root_of(a));
    s->n = a->nlink;
    s->ended = true;
}

static void maker_of_directory(struct actor *a)
{
    struct scene *s = a->arg;

    actor_sleep(a, 10 * NS_PER_MS);
    if (a_make(a, root_of(a), "d", S_IFDIR | 0755, true) == 0)
        s->written = true;
}

START_TEST(late_attributes)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 1, NULL));
    s.holds[0] = (struct hold){MSG_GETATTR, WIRE_REPLY, s.c->clients[0].node, 60 * NS_PER_MS, 1};
    s.holds[1] = (struct hold){MSG_LEASE_GET_READ, WIRE_REPLY, s.c->clients[0].node, 60 * NS_PER_MS, 1};
    actor_new(&s.c->clients[0], early_getattr, &s);
    actor_new(&s.c->clients[0], maker_of_directory, &s);
    ck_assert(scene_wait(&s, &s.ended, 3000));
    ck_assert(s.written && s.holds[0].times + s.holds[1].times < 2);
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, 3);
}
END_TEST

/* One makes names, another looks for each before and after it is there, and its answers are late: recalls overtake them. */
static void name_writer(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a))
        return;
    for (uint64_t n = 1; n == 1 || !s->ended; n++) {
        char name[16];

        snprintf(name, sizeof name, "n%" PRIu64, n);
        if (a_make(a, root_of(a), name, S_IFREG | 0644, true))
            return;
        s->done = n;
        actor_sleep(a, 25 * NS_PER_MS);
    }
}

static void name_reader(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a))
        return;
    for (; s->n < 60 && !s->stale; s->n++) {
        uint64_t known = s->done;
        char name[16];
        int r;

        snprintf(name, sizeof name, "n%" PRIu64, known + 1);
        s->holds[0].times = 1; /* the answer comes when the name is there */
        (void)a_lookup(a, root_of(a), name);
        s->holds[0].times = 0;
        known++;
        while (s->done < known && !s->c->failed)
            actor_sleep(a, 5 * NS_PER_MS);
        r = a_lookup(a, root_of(a), name);
        s->stale = r == -TC_E_NOENT;
    }
    s->ended = true;
}

START_TEST(late_answers)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    s.holds[0] = (struct hold){MSG_LOOKUP, WIRE_REPLY, s.c->clients[0].node, 60 * NS_PER_MS, 0};
    actor_new(&s.c->clients[1], name_writer, &s);
    actor_new(&s.c->clients[0], name_reader, &s);
    ck_assert(scene_wait(&s, &s.ended, 60000));
    ck_assert(!s.stale);
}
END_TEST

/* The end of X is committed, the answer that says so late: what another wrote since is seen, not what the X had. */
static void unheard_holder(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN))
        return;
    s->holds[0] = (struct hold){MSG_COMMIT, WIRE_REPLY, a->cl->node, UINT64_MAX, 1000000};
    while (!s->replaced)
        actor_sleep(a, 10 * NS_PER_MS);
    s->status = a_getattr(a, s->ino);
    s->n = a->size;
    s->ended = true;
}

static void longer_writer(struct actor *a)
{
    struct scene *s = a->arg;
    struct tc_file *f;

    if (actor_ready(a) && a_open(a, s->ino, TC_OPEN_READ | TC_OPEN_WRITE | TC_OPEN_TRUNC, &f) == 0 &&
        a_write(a, f, "longer", 6, 2 * (uint64_t)LEN, false) == 0)
        s->replaced = true;
}

START_TEST(late_end_of_x)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], unheard_holder, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    actor_new(&s.c->clients[1], longer_writer, &s);
    ck_assert(scene_wait(&s, &s.ended, 8000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, 2 * LEN + 6);
    s.holds[0].times = 0;
    scene_run(&s, 2000);
}
END_TEST

/* The same of times, whose change begins no epoch. */
static void unheard_owner(struct actor *a)
{
    struct scene *s = a->arg;

    unheard_holder(a);
    s->n = a->mtime;
}

static void setter_of_times(struct actor *a)
{
    struct scene *s = a->arg;

    s->replaced = actor_ready(a) && a_utimes(a, s->ino, 12345 * NS_PER_S) == 0;
}

/* Client 0 runs @holder, and @beside if that is one; the times that client 1 sets are those it sees. */
static void sees_times(actor_fn *holder, actor_fn *beside)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], holder, &s);
    if (beside)
        actor_new(&s.c->clients[0], beside, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    actor_new(&s.c->clients[1], setter_of_times, &s);
    ck_assert(scene_wait(&s, &s.ended, 8000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, 12345 * NS_PER_S);
    s.holds[0].times = 0;
    scene_run(&s, 2000);
}

START_TEST(late_end_and_times)
{
    sees_times(unheard_owner, NULL);
}
END_TEST

/* And of an answer that said that X was free, but is older than the one to a change of our own, which says nothing of it. */
static void late_getter(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN))
        return;
    s->holds[0] = (struct hold){MSG_COMMIT, WIRE_REPLY, a->cl->node, UINT64_MAX, 1000000};
    while (!s->replaced)
        actor_sleep(a, 10 * NS_PER_MS);
    s->holds[1] = (struct hold){MSG_GETATTR, WIRE_REPLY, a->cl->node, 100 * NS_PER_MS, 1};
    s->stale = true;
    s->status = a_getattr(a, s->ino);
    s->n = a->mtime;
    s->ended = s->done == 1; /* the link was there before */
}

static void linker(struct actor *a)
{
    struct scene *s = a->arg;

    while (!s->stale)
        actor_sleep(a, 5 * NS_PER_MS);
    actor_sleep(a, 20 * NS_PER_MS);
    s->done = a_link(a, s->ino, root_of(a), "other") == 0;
}

START_TEST(late_end_and_link)
{
    sees_times(late_getter, linker);
}
END_TEST

/* X goes down to S under a new leader; before the answer comes its generation is entered, for which no S is expected, and all of the
 * inode is recalled. The S that the answer brings is recalled already. */
static void downgraded_late(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN))
        return;
    s->holds[0] = (struct hold){MSG_COMMIT, WIRE_REPLY, a->cl->node, 100 * NS_PER_MS, 1};
    s->holds[1] = (struct hold){MSG_KEEPALIVE, WIRE_REPLY, a->cl->node, 30 * NS_PER_MS, 1000};
    while (!s->replaced)
        actor_sleep(a, 5 * NS_PER_MS);
    s->status = a_read(a, s->f, 0, LEN);
    s->n = s->status == 0 && a->len ? a->data[0] : 0;
    s->ended = true;
}

/* What it writes stays with it, under X. */
static void reader_then_holder(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];
    struct tc_file *f;

    memset(data, 'b', sizeof data);
    if (read_file(a, LEN) == 0 && a_open(a, s->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f) == 0 &&
        a_write(a, f, data, LEN, 0, false) == 0)
        s->replaced = true;
}

START_TEST(downgraded_and_recalled)
{
    struct scene s = {.ttl_ms = 10000};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], downgraded_late, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    member_kill(cluster_leader(s.c));
    actor_new(&s.c->clients[1], reader_then_holder, &s);
    ck_assert(scene_wait(&s, &s.ended, 20000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, 'b');
    s.holds[1].times = 0;
    scene_run(&s, 2000);
}
END_TEST

/* X goes down to S, and the answer that says so never comes: what is cached meanwhile is so under S, while that right runs. */
static void unheard_downgrade(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN) == 0)
        s->holds[0] = (struct hold){MSG_COMMIT, WIRE_REPLY, a->cl->node, UINT64_MAX, 1000000};
}

static void reader_then_longer(struct actor *a)
{
    struct scene *s = a->arg;

    if (read_file(a, LEN))
        return;
    if (s->done)
        sim_node_pause(s->c->clients[0].node, true);
    else
        scene_cut(s, 0, true, true, true);
    longer_writer(a);
}

static void size_seen(void *arg, int status, const struct tc_entry *e)
{
    struct scene *s = arg;

    s->ended = true;
    s->status = status;
    s->n = e ? e->attr.size : 0;
}

/* @still: it stood still, and is asked before it has looked at the time; else it is cut off. */
static void downgrade_unheard(bool still)
{
    struct scene s = {.ttl_ms = 10000, .done = still};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], unheard_downgrade, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    actor_new(&s.c->clients[1], reader_then_longer, &s);
    ck_assert(scene_wait(&s, &s.replaced, 8000)); /* S ran out; the session lives */
    if (still)
        sim_node_pause(s.c->clients[0].node, false);
    tc_getattr(s.c->clients[0].tc, s.ino, size_seen, &s);
    scene_run(&s, 1000);
    ck_assert(!s.ended || s.n != LEN);
    scene_cut(&s, 0, true, true, false);
    s.holds[0].times = 0;
    ck_assert(scene_wait(&s, &s.ended, 20000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.n, 2 * LEN + 6);
}

START_TEST(late_downgrade)
{
    downgrade_unheard(false);
    downgrade_unheard(true);
}
END_TEST

/* ---- grants and rights, 3.1, 3.2 -------------------------------------------------------------------- */

/* Makes the file longer and longer. */
static void grower(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN) || a_fsync(a, s->f))
        return;
    s->replaced = true;
    for (uint64_t n = 1; !s->ended && n < 60; n++) {
        if (a_truncate(a, s->ino, LEN + n))
            return;
        s->done = n;
        actor_sleep(a, 100 * NS_PER_MS);
    }
}

/* Looks how long it is, which must not be less than when it began; a read makes it ask for the lease. */
static void measurer(struct actor *a)
{
    struct scene *s = a->arg;
    struct tc_file *f;

    if (!actor_ready(a) || a_open(a, s->ino, TC_OPEN_READ, &f))
        return;
    for (; s->done < 50 && !s->stale; s->n++) {
        uint64_t known;

        if (a_read(a, f, 0, 1))
            break;
        known = s->done;
        s->stale = a_getattr(a, s->ino) || a->size < LEN + known;
        actor_sleep(a, 5 * NS_PER_MS);
    }
    s->ended = true;
}

/* Grants come late: half of them were recalled before. */
START_TEST(late_grants)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    s.holds[0] = (struct hold){MSG_LEASE_GET_READ, WIRE_REPLY, s.c->clients[0].node, 60 * NS_PER_MS, 1000000};
    actor_new(&s.c->clients[1], grower, &s);
    ck_assert(scene_wait(&s, &s.replaced, 1000));
    actor_new(&s.c->clients[0], measurer, &s);
    ck_assert(scene_wait(&s, &s.ended, 60000));
    ck_assert(!s.stale);
    ck_assert_uint_gt(s.n, 20);
}
END_TEST

/* Who is cut off serves nothing from his cache once his right has run out, though his session lives. */
static void rare_looker(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a) || a_lookup(a, root_of(a), "n1") != -TC_E_NOENT)
        return;
    s->ended = a_lookup(a, root_of(a), "n1") == -TC_E_NOENT;
    while (!s->done)
        actor_sleep(a, 20 * NS_PER_MS);
    s->stale = a_lookup(a, root_of(a), "n1") == -TC_E_NOENT;
}

/* The same, but he looks again only when told to. */
static void name_looker(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a) || a_lookup(a, root_of(a), "n1") != -TC_E_NOENT)
        return;
    s->ended = a_lookup(a, root_of(a), "n1") == -TC_E_NOENT;
    while (!s->replaced)
        actor_sleep(a, 20 * NS_PER_MS);
    s->stale = a_lookup(a, root_of(a), "n1") == -TC_E_NOENT;
}

START_TEST(caching_right)
{
    struct scene s = {.ttl_ms = 10000};

    ck_assert(scene_start(&s, 2, NULL));
    actor_new(&s.c->clients[0], rare_looker, &s);
    ck_assert(scene_wait(&s, &s.ended, 3000));
    scene_cut(&s, 0, true, true, true);
    actor_new(&s.c->clients[1], name_writer, &s); /* one, for the other has ended */
    scene_run(&s, 6000);
    ck_assert_uint_gt(s.done, 0);
    ck_assert(!s.stale);
    scene_cut(&s, 0, true, true, false);
    scene_run(&s, 5000);
    ck_assert(!s.stale);
}
END_TEST

/*
 * What was cached in one generation is not used in the next: the leader has gone on without asking. (That it is dropped when the
 * right runs out is a rule of its own: here it is off, as if the client had stood still and then heard of the new generation first.)
 */
static bool next_generation(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    s->ttl_ms = 10000;
    if (!scene_start(s, 2, off))
        return true;
    actor_new(&s->c->clients[0], name_looker, s);
    if (!scene_wait(s, &s->ended, 3000))
        return true;
    scene_cut(s, 0, true, true, true);
    actor_new(&s->c->clients[1], name_writer, s); /* one, for the other has ended */
    scene_run(s, 4000);
    scene_cut(s, 0, true, true, false);
    scene_run(s, 3000);
    s->replaced = true;
    scene_run(s, 3000);
    return !s->done || s->stale;
}

START_TEST(generation)
{
    ck_assert_int_eq(case_outcome(next_generation, NULL), 0);
#ifdef TC_TEST_RULES_BUILD
    ck_assert_int_eq(case_outcome(next_generation, "CACHING_RIGHT"), 0);
    ck_assert_int_eq(case_outcome(next_generation, "CACHING_RIGHT,GENERATION"), 1);
#endif
}
END_TEST

/* ---- leaders, 1.3, 2.4, 2.6, 3.4 ------------------------------------------------------------------------- */

static void first_writer(struct actor *a)
{
    struct scene *s = a->arg;

    s->status = make_file(a, LEN);
    actor_sleep(a, 3 * NS_PER_S);
    s->status = s->status ? s->status : a_fsync(a, s->f);
    s->ended = true;
}

static unsigned expiries;

static void count_expiries(const char *line)
{
    expiries += strstr(line, "a session expires") != NULL;
}

/* The leader dies; the next one knows nobody's last sign of life, and expires nobody for a whole TTL. */
START_TEST(new_leader)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    s.c->watch_log = count_expiries;
    actor_new(&s.c->clients[0], first_writer, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    member_kill(cluster_leader(s.c));
    sim_node_pause(s.c->clients[0].node, true);
    actor_new(&s.c->clients[1], replacer, &s);
    scene_run(&s, 1700);
    ck_assert(cluster_leader(s.c) && !s.replaced);
    sim_node_pause(s.c->clients[0].node, false);
    ck_assert(scene_wait(&s, &s.replaced, 20000));
    ck_assert(scene_wait(&s, &s.ended, 20000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(expiries, 0);
}
END_TEST

/* The leader dies, and nobody tells the client who leads now: it asks the next. */
static void maker_of_two(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a) || a_make(a, root_of(a), "n1", S_IFREG | 0644, true))
        return;
    s->ended = true;
    actor_sleep(a, 200 * NS_PER_MS);
    s->written = a_make(a, root_of(a), "n2", S_IFREG | 0644, true) == 0;
}

START_TEST(unannounced_leader)
{
    struct scene s = {.ttl_ms = 10000};

    ck_assert(scene_start(&s, 1, NULL));
    s.holds[0] = (struct hold){MSG_LEADER, WIRE_NOTICE, s.c->clients[0].node, UINT64_MAX, 1000000};
    actor_new(&s.c->clients[0], maker_of_two, &s);
    ck_assert(scene_wait(&s, &s.ended, 1000));
    member_kill(cluster_leader(s.c));
    ck_assert(scene_wait(&s, &s.written, 8000));
}
END_TEST

/* A holder that lives but never hears of a recall does not keep others waiting for ever. */
static void busy_holder(struct actor *a)
{
    struct scene *s = a->arg;

    if (make_file(a, LEN))
        return;
    while (!s->ended && a_write(a, s->f, "x", 1, 0, false) == 0)
        actor_sleep(a, 200 * NS_PER_MS);
}

START_TEST(deaf_holder)
{
    struct scene s = {0};

    ck_assert(scene_start(&s, 2, NULL));
    s.holds[0] = (struct hold){MSG_RECALL, WIRE_NOTICE, s.c->clients[0].node, UINT64_MAX, 1000000};
    actor_new(&s.c->clients[0], busy_holder, &s);
    ck_assert(scene_wait(&s, &s.written, 1000));
    actor_new(&s.c->clients[1], replacer, &s);
    scene_run(&s, 20000);
    ck_assert(!s.replaced); /* it has its time */
    ck_assert(scene_wait(&s, &s.replaced, 30000));
    s.ended = true;
    scene_run(&s, 1000);
}
END_TEST

/*
 * Two clients, each with as many requests under way as it may have, all of which wait for the end of the other's X: what ends
 * them has slots of its own.
 */
enum { CROWD = 300 };

static void one_changed(void *arg, int status, const struct tc_entry *e)
{
    struct scene *s = arg;

    (void)e;
    s->status = s->status ? s->status : status;
    if (++s->n == 2 * CROWD)
        s->ended = true;
}

static uint64_t crowd_inos[2];

static void crowd(struct actor *a)
{
    struct setattr_req set = {.mask = SET_MODE};
    struct scene *s = a->arg;
    struct tc_file *f;

    if (!actor_ready(a) || a_make(a, root_of(a), a->cl->index ? "f1" : "f0", S_IFREG | 0644, true))
        return;
    crowd_inos[a->cl->index] = a->ino;
    if (a_open(a, a->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f) || a_write(a, f, "a", 1, 0, false))
        return;
    for (s->done++; s->done < 2;)
        actor_sleep(a, NS_PER_MS);
    set.ino = crowd_inos[1 - a->cl->index];
    for (unsigned n = 0; n < CROWD; n++) {
        set.mode = 0600 + n % 64;
        tc_setattr(a->cl->tc, &set, one_changed, s);
    }
}

START_TEST(window_full)
{
    struct scene s = {.ttl_ms = 10000};

    ck_assert(scene_start(&s, 2, NULL));
    s.holds[0] = (struct hold){MSG_RECALL, WIRE_NOTICE, NULL, 50 * NS_PER_MS, 2}; /* when both windows are full */
    actor_new(&s.c->clients[0], crowd, &s);
    actor_new(&s.c->clients[1], crowd, &s);
    ck_assert(scene_wait(&s, &s.ended, 10000));
    ck_assert_int_eq(s.status, 0);
    ck_assert_uint_eq(s.holds[0].times, 0);
}
END_TEST

/*
 * A leader that the others have replaced still has a client that reaches nobody else. Off lease it answers nothing. (That it steps down
 * soon, and that a new leader waits for whoever may cache, are rules of their own: here they are off.)
 */
static void old_reader(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a))
        return;
    while (!s->ended && !s->stale) {
        uint64_t known = s->done;
        char name[16];

        snprintf(name, sizeof name, "n%" PRIu64, known);
        if (known)
            s->stale = a_lookup(a, root_of(a), name) == -TC_E_NOENT;
        actor_sleep(a, 10 * NS_PER_MS);
    }
}

static bool deposed_leader(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct member *old;

    if (!scene_start(s, 2, off))
        return true;
    old = cluster_leader(s->c);
    for (unsigned i = 0; i < 3; i++) {
        struct member *m = &s->c->members[i];

        if (m == old) {
            sim_net_cut(s->c->s, s->c->clients[1].node, m->node, true);
            continue;
        }
        sim_net_cut(s->c->s, m->node, old->node, true);
        sim_net_cut(s->c->s, old->node, m->node, true);
        sim_net_cut(s->c->s, s->c->clients[0].node, m->node, true);
    }
    actor_new(&s->c->clients[1], name_writer, s);
    actor_new(&s->c->clients[0], old_reader, s);
    scene_run(s, 4000);
    s->ended = true;
    return s->stale || s->done < 5;
}

START_TEST(lease_reads)
{
    ck_assert_int_eq(case_outcome(deposed_leader, "GRACE,CHECK_QUORUM"), 0);
    ck_assert_int_eq(case_outcome(deposed_leader, "GRACE,CHECK_QUORUM,LEASE_READ"), 1);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {late_name, late_attributes, late_answers, late_end_of_x, late_end_and_times, late_end_and_link,
                                  downgraded_and_recalled, late_downgrade, late_grants, caching_right, generation,
                                  new_leader, unannounced_leader, deaf_holder, window_full, lease_reads};

    return cases_run("caching", tests, ARRAY_SIZE(tests));
}
