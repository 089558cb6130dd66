/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lockers: actors that contend for the advisory locks of a few files, in both families, in every way there is.
 *
 * In each file is a counter per family. It is read, incremented and synced under its exclusive lock, so no increment that
 * was acknowledged is lost and none is acknowledged twice, and under a shared lock it does not change. Besides, every
 * actor's belief what it has locked is kept: it counts while its session is valid by the client's own clock and
 * its file has not failed, and no two beliefs that count ever conflict (PROTOCOL 9.2). A file whose lock was lost with
 * the session fails until it is closed (9.3).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "client/internal.h"
#include "meta/fsm.h"
#include "sim/workload.h"

enum { LOCK_FILES = 2, COUNTER_AT = 8192, BYTES = 64 };

struct counter {
    uint64_t acked;
    uint64_t n; /* increments acknowledged */
};

struct locker { /* what an actor has */
    struct client *cl;
    uint64_t kills, session, since;
    struct tc_file *f;
    uint32_t file;
    uint64_t owner;
    struct lock_table has;
};

struct lockers {
    struct cluster *c;
    uint64_t ino[LOCK_FILES];
    struct counter counters[LOCK_FILES][2];
    struct locker of[ACTORS_MAX]; /* by actor */
};

struct lockers *lockers_new(struct cluster *c)
{
    struct lockers *t = tc_calloc(1, sizeof *t);

    t->c = c;
    return t;
}

void lockers_free(struct lockers *t)
{
    for (unsigned i = 0; t && i < ACTORS_MAX; i++)
        locks_fini(&t->of[i].has);
    free(t);
}

void lockers_setup(struct actor *a, struct lockers *t, uint64_t dir)
{
    for (unsigned i = 0; i < LOCK_FILES; i++) {
        char name[16];
        int r;

        snprintf(name, sizeof name, "locks%u", i);
        r = a_make(a, dir, name, S_IFREG | 0644, true);
        t->ino[i] = a->ino;
        if (!r)
            r = a_truncate(a, t->ino[i], 2 * COUNTER_AT);
        if (r)
            cluster_fail(a->c, "set-up of %s: %s", name, tc_error_name(r));
    }
}

/* ---- beliefs -------------------------------------------------------------------------------------- */

static bool same_process(const struct locker *k)
{
    return k->cl && k->cl->tc && k->cl->kills == k->kills;
}

static bool counts(const struct locker *k)
{
    return k->has.n && same_process(k) && k->cl->tc->session == k->session && session_valid(k->cl->tc) && !k->f->failed;
}

static void judge_pair(struct lockers *t, const struct locker *a, const struct locker *b)
{
    for (uint32_t i = 0; i < a->has.n; i++) {
        const struct file_lock *mine = &a->has.locks[i], *other = locks_conflict(&b->has, mine);

        if (!other)
            continue;
        cluster_fail(t->c, "locks%u: client %u (owner %" PRIu64 ", family %u type %u %" PRIu64 "..%" PRIu64
                     ") and client %u (owner %" PRIu64 ", type %u %" PRIu64 "..%" PRIu64 ") both hold it",
                     a->file, a->cl->index, mine->owner, mine->family, mine->type, mine->start, mine->end, b->cl->index,
                     other->owner, other->type, other->start, other->end);
        return;
    }
}

static void judge_beliefs(struct lockers *t)
{
    for (unsigned i = 0; i < t->c->n_actors; i++) {
        struct locker *a = &t->of[i];

        if (a->has.n && same_process(a) && a->cl->tc->session != a->session && !a->f->failed)
            cluster_fail(t->c, "locks%u: client %u lost its session and locks, its file goes on", a->file, a->cl->index);
        if (!counts(a))
            continue;
        for (unsigned k = i + 1; k < t->c->n_actors && !t->c->failed; k++)
            if (t->of[k].file == a->file && counts(&t->of[k]))
                judge_pair(t, a, &t->of[k]);
    }
}

static struct locker *locker_open(struct actor *a, struct lockers *t, uint32_t file, struct handle *h)
{
    struct locker *k = &t->of[a->index];
    int r = handle_open(a, h, t->ino[file], TC_OPEN_READ | TC_OPEN_WRITE);

    if (r) {
        if (!outcome_unknown(a, r, "open"))
            cluster_fail(a->c, "locks%u: open failed: %s", file, tc_error_name(r));
        return NULL;
    }
    k->cl = a->cl;
    k->kills = h->kills;
    k->f = h->f;
    k->file = file;
    k->owner = 100 * a->index + 1 + sim_below(&a->rng, 2);
    k->has.n = 0;
    return k;
}

static void locker_close(struct actor *a, struct locker *k, struct handle *h)
{
    k->has.n = 0;
    k->cl = NULL;
    handle_close(a, h);
}

/* ---- operations ----------------------------------------------------------------------------------- */

/* Lock, or unlock. Anything but 0, AGAIN and CANCELLED says that the file is not to be used any more. */
static int lock(struct actor *a, struct lockers *t, struct locker *k, struct file_lock l, uint64_t wait_ns)
{
    int r = 0;

    l.owner = k->owner;
    /* Whatever becomes of it, it may be in force from now on; a flock that is converted is given up before it is waited for. */
    if (l.type != LOCK_EXCLUSIVE || (l.family == LOCK_FLOCK && wait_ns)) {
        struct file_lock less = l;

        less.type = LOCK_UNLOCK;
        if (l.type == LOCK_UNLOCK || locks_owned(&k->has, 0, l.owner, (enum lock_family)l.family))
            r = locks_set(&k->has, &less);
        ASSERT(r == 0);
    }
    r = a_lock(a, k->f, &l, wait_ns);
    if (r == 0 && l.type != LOCK_UNLOCK) {
        if (!k->has.n)
            k->session = a->cl->tc ? a->cl->tc->session : 0;
        k->since = sim_now(a->c->s);
        r = locks_set(&k->has, &l);
        ASSERT(r == 0);
        judge_beliefs(t);
    } else if (r == -TC_E_CANCELLED) {
        l.type = LOCK_UNLOCK; /* had and given back, or not had */
        if (locks_set(&k->has, &l) < 0)
            ASSERT(!"no owner has so many");
    } else if (r && r != -TC_E_AGAIN) {
        k->has.n = 0;
        if (!outcome_unknown(a, r, "lock"))
            cluster_fail(a->c, "locks%u: lock failed: %s", k->file, tc_error_name(r));
    }
    return r;
}

static struct file_lock whole_of(unsigned family, unsigned type)
{
    return (struct file_lock){.end = family == LOCK_FLOCK ? LOCK_END : BYTES - 1, .family = (uint8_t)family, .type = (uint8_t)type};
}

/* Of its family's counter: 0, or it is over with this file. */
static int counter_read(struct actor *a, struct lockers *t, struct locker *k, unsigned family, uint64_t *ret)
{
    uint64_t acked = t->counters[k->file][family].acked;
    int r = a_read(a, k->f, family * COUNTER_AT, sizeof *ret);

    if (r) {
        if (!outcome_unknown(a, r, "read"))
            cluster_fail(a->c, "locks%u: read failed: %s", k->file, tc_error_name(r));
        return r;
    }
    memcpy(ret, a->data, sizeof *ret);
    if (*ret < acked || *ret < t->counters[k->file][family].n)
        cluster_fail(a->c, "locks%u: client %u reads %" PRIu64 " in family %u, %" PRIu64 " was acknowledged", k->file,
                     a->cl->index, *ret, family, acked);
    return a->c->failed ? -1 : 0;
}

static void increment(struct actor *a, struct lockers *t, struct locker *k, unsigned family)
{
    struct counter *n = &t->counters[k->file][family];
    uint64_t v;
    int r;

    if (counter_read(a, t, k, family, &v))
        return;
    if (sim_below(&a->rng, 3) == 0)
        actor_sleep(a, sim_latency(&a->rng, 20 * NS_PER_MS));
    v++;
    if (!same_process(k))
        return;
    r = a_write(a, k->f, &v, sizeof v, family * COUNTER_AT, false);
    if (r == 0 && same_process(k))
        r = a_fsync(a, k->f);
    else if (r == 0)
        return;
    if (r) {
        if (!outcome_unknown(a, r, "write"))
            cluster_fail(a->c, "locks%u: write or sync failed: %s", k->file, tc_error_name(r));
        return;
    }
    if (n->acked >= v)
        cluster_fail(a->c, "locks%u: client %u incremented to %" PRIu64 " in family %u, another to %" PRIu64 " meanwhile",
                     k->file, a->cl->index, v, family, n->acked);
    n->acked = v;
    n->n++;
}

static void read_twice(struct actor *a, struct lockers *t, struct locker *k, unsigned family)
{
    uint64_t v, w;

    if (counter_read(a, t, k, family, &v))
        return;
    actor_sleep(a, sim_latency(&a->rng, 20 * NS_PER_MS));
    if (!counts(k) || counter_read(a, t, k, family, &w))
        return;
    if (v != w && counts(k))
        cluster_fail(a->c, "locks%u: client %u reads %" PRIu64 ", then %" PRIu64 " in family %u under one shared lock", k->file,
                     a->cl->index, v, w, family);
}

/* Some lock on the counter, some use of it. */
static int guarded(struct actor *a, struct lockers *t, struct locker *k, bool exclusive)
{
    unsigned family = (unsigned)sim_below(&a->rng, 2);
    struct file_lock l = whole_of(family, exclusive ? LOCK_EXCLUSIVE : LOCK_SHARED);
    int r;

    if (family == LOCK_RANGES && sim_below(&a->rng, 2)) /* the counter is guarded by byte 0 */
        l.end = sim_below(&a->rng, BYTES);
    r = lock(a, t, k, l, sim_below(&a->rng, 4) ? 2 * NS_PER_S : 0);
    if (r)
        return r;
    if (exclusive)
        increment(a, t, k, family);
    else
        read_twice(a, t, k, family);
    judge_beliefs(t);
    if (sim_below(&a->rng, 3) && same_process(k) && !a->c->failed) {
        l.type = LOCK_UNLOCK;
        r = lock(a, t, k, l, 0);
    }
    return r;
}

static int any_range(struct actor *a, struct lockers *t, struct locker *k)
{
    struct file_lock l = {.start = sim_below(&a->rng, BYTES), .type = (uint8_t)sim_below(&a->rng, 3)};
    static const uint64_t waits[] = {0, 300 * NS_PER_US, 3 * NS_PER_MS, 50 * NS_PER_MS, NS_PER_S};

    l.end = sim_below(&a->rng, 4) ? l.start + sim_below(&a->rng, BYTES) : LOCK_END;
    return lock(a, t, k, l, l.type == LOCK_UNLOCK ? 0 : waits[sim_below(&a->rng, ARRAY_SIZE(waits))]);
}

/* It says "free" only if nobody believed otherwise all the time. */
static int look(struct actor *a, struct lockers *t, struct locker *k)
{
    struct file_lock l = whole_of((unsigned)sim_below(&a->rng, 2), 1 + (unsigned)sim_below(&a->rng, 2));
    bool locked[ACTORS_MAX] = {false};
    uint64_t since = sim_now(a->c->s);
    int r;

    l.owner = k->owner;
    for (unsigned i = 0; i < a->c->n_actors; i++)
        locked[i] = &t->of[i] != k && t->of[i].file == k->file && counts(&t->of[i]) && locks_conflict(&t->of[i].has, &l);
    r = a_lock_test(a, k->f, &l);
    if (r) {
        if (!outcome_unknown(a, r, "lock test"))
            cluster_fail(a->c, "locks%u: a test failed: %s", k->file, tc_error_name(r));
        return r;
    }
    for (unsigned i = 0; i < a->c->n_actors && !a->found; i++)
        if (locked[i] && t->of[i].since < since && counts(&t->of[i]) && locks_conflict(&t->of[i].has, &l))
            cluster_fail(a->c, "locks%u: client %u finds no lock, but client %u has one", k->file, a->cl->index,
                         t->of[i].cl->index);
    return 0;
}

/* The file's locks were lost: nothing is done through it any more, until it is closed. */
static void judge_failed(struct actor *a, struct locker *k)
{
    struct file_lock l = whole_of(LOCK_RANGES, LOCK_SHARED);
    uint64_t v = 0;
    int r[4];

    l.owner = k->owner + 2;
    r[0] = a_read(a, k->f, 0, 8);
    r[1] = same_process(k) ? a_write(a, k->f, &v, sizeof v, 100, false) : ACTOR_KILLED;
    r[2] = same_process(k) ? a_lock(a, k->f, &l, sim_below(&a->rng, 2) * NS_PER_S) : ACTOR_KILLED;
    r[3] = same_process(k) ? a_lock_test(a, k->f, &l) : ACTOR_KILLED;
    for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
        if (r[i] != -TC_E_IO && r[i] != ACTOR_KILLED)
            cluster_fail(a->c, "locks%u: client %u: operation %u of a file whose locks were lost: %s", k->file, a->cl->index, i,
                         tc_error_name(r[i]));
}

static int step(struct actor *a, struct lockers *t, struct locker *k)
{
    struct file_lock all = whole_of((unsigned)sim_below(&a->rng, 2), LOCK_UNLOCK);

    switch (sim_below(&a->rng, 12)) {
    case 0 ... 4:
        return guarded(a, t, k, true);
    case 5:
    case 6:
        return guarded(a, t, k, false);
    case 7:
        return look(a, t, k);
    case 8:
        all.end = LOCK_END;
        return lock(a, t, k, all, 0);
    default:
        return any_range(a, t, k);
    }
}

void lockers_turn(struct actor *a, struct lockers *t)
{
    struct handle h;
    struct locker *k = locker_open(a, t, (uint32_t)sim_below(&a->rng, LOCK_FILES), &h);

    if (!k)
        return;
    for (uint64_t n = 1 + sim_below(&a->rng, 8); n && !a->c->failed && a->cl->ready && same_process(k) && !k->f->failed; n--) {
        int r = step(a, t, k);

        if (r && r != -TC_E_AGAIN && r != -TC_E_CANCELLED)
            break;
        if (sim_below(&a->rng, 2))
            actor_sleep(a, sim_below(&a->rng, 20) ? sim_latency(&a->rng, 3 * NS_PER_MS) : sim_below(&a->rng, 3 * NS_PER_S));
    }
    if (!a->c->failed && a->cl->ready && same_process(k) && k->f->failed) {
        cluster_log(a->c, "locks%u: client %u has lost its locks", k->file, a->cl->index);
        judge_failed(a, k);
    }
    locker_close(a, k, &h);
}

/* ---- the end -------------------------------------------------------------------------------------- */

void lockers_verify(struct actor *a, struct lockers *t)
{
    for (unsigned i = 0; i < 2 * LOCK_FILES && !a->c->failed; i++) {
        struct file_lock l = {.end = LOCK_END, .family = (uint8_t)(i % 2), .type = LOCK_EXCLUSIVE};
        struct handle h;
        struct locker *k = locker_open(a, t, i / 2, &h);
        uint64_t v;

        if (!k)
            return;
        if (lock(a, t, k, l, 30 * NS_PER_S))
            cluster_fail(a->c, "locks%u: client %u gets no lock of family %u though all have unlocked", i / 2, a->cl->index, i % 2);
        else
            (void)counter_read(a, t, k, i % 2, &v); /* judges by itself */
        locker_close(a, k, &h);
    }
}

static const struct lockers *judged;

static bool nothing_left(struct cluster *c)
{
    struct member *m = cluster_leader(c);
    struct inode *i, *tmp;

    for (unsigned n = 0; n < c->opt.n_client; n++) {
        if (!c->clients[n].tc)
            continue;
        HASH_ITER(hh, c->clients[n].tc->inodes, i, tmp)
        {
            if (i->locks)
                return false;
        }
    }
    for (unsigned n = 0; m && n < LOCK_FILES; n++) {
        struct lock_req all = {.ino = judged->ino[n], .lock = {.owner = 1, .end = LOCK_END, .type = LOCK_EXCLUSIVE}};

        for (all.lock.family = 0; all.lock.family < 2; all.lock.family++) {
            struct lock_res res;
            uint64_t session;

            if (fsm_lock_look(meta_server_fsm(m->server), &all, &res, &session) < 0 || res.has_other || res.held)
                return false;
        }
    }
    return m != NULL;
}

void lockers_judge(struct lockers *t)
{
    judged = t;
    if (!cluster_run(t->c, sim_now(t->c->s) + 20 * NS_PER_S, nothing_left))
        cluster_fail(t->c, "locks are left though all have unlocked");
}
