/* SPDX-License-Identifier: Apache-2.0 */
/* Which actor does what, and what an error means. */
#include "sim/workload.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct workload {
    struct cluster *c;
    struct shared *shared[SHARED_FILES];
    struct turns *turns[TURN_FILES];
    struct names *names[NAME_TREES];
    struct fight *fight;
    struct lockers *lockers;
    bool set_up;
    unsigned verifying;
};

int handle_open(struct actor *a, struct handle *h, uint64_t ino, uint32_t flags)
{
    int r;

    h->kills = a->cl->kills;
    r = a_open(a, ino, flags, &h->f);
    h->opened = sim_now(a->c->s);
    return r;
}

void handle_close(struct actor *a, struct handle *h)
{
    a_release(a, h->f, h->kills);
}

bool outcome_unknown(struct actor *a, int status, const char *what)
{
    struct cluster *c = a->c;
    char why[64];

    switch (status) {
    case ACTOR_KILLED:
        return true;
    case -TC_E_SESSION_EXPIRED:
    case -TC_E_SESSION_UNKNOWN:
    case -TC_E_FENCED:
    case -TC_E_IO:
    case -TC_E_LEASE_LOST:
        if (!life_may_lose(c, a->cl->life) && !c->lives[a->cl->life].told) {
            cluster_fail(c, "%s on client %u: %s, though it was never cut off", what, a->cl->index, tc_error_name(status));
            return true;
        }
        snprintf(why, sizeof why, "%s: %s", what, tc_error_name(status));
        client_life_lost(a->cl, why);
        c->lives[a->cl->life].told = true; /* what was open then reports it, too: once per file */
        return true;
    default:
        return false;
    }
}

struct workload *workload_new(struct cluster *c)
{
    struct workload *w = tc_calloc(1, sizeof *w);
    char name[16];

    w->c = c;
    for (unsigned i = 0; i < SHARED_FILES; i++) {
        snprintf(name, sizeof name, "shared%u", i);
        w->shared[i] = shared_new(c, name, i == 1 ? CHUNK_SIZE - 16 * CELL : 0, 48);
    }
    for (unsigned i = 0; i < TURN_FILES; i++) {
        snprintf(name, sizeof name, "turns%u", i);
        w->turns[i] = turns_new(c, name, i == 1 ? CHUNK_SIZE - 64 * 1024 : 0);
    }
    for (unsigned i = 0; i < NAME_TREES; i++) {
        snprintf(name, sizeof name, "names%u", i);
        w->names[i] = names_new(c, name);
    }
    w->fight = fight_new(c);
    w->lockers = lockers_new(c);
    return w;
}

void workload_free(struct workload *w)
{
    if (!w)
        return;
    for (unsigned i = 0; i < SHARED_FILES; i++)
        shared_free(w->shared[i]);
    for (unsigned i = 0; i < TURN_FILES; i++)
        turns_free(w->turns[i]);
    for (unsigned i = 0; i < NAME_TREES; i++)
        names_free(w->names[i]);
    fight_free(w->fight);
    lockers_free(w->lockers);
    free(w);
}

static void setup_main(struct actor *a)
{
    struct workload *w = a->arg;
    uint64_t root;

    if (!actor_ready(a))
        return;
    root = tc_client_root(a->cl->tc);
    if (w->c->opt.work & WORK_SHARED)
        for (unsigned i = 0; i < SHARED_FILES && !w->c->failed; i++)
            shared_setup(a, w->shared[i], root);
    if (w->c->opt.work & WORK_TURNS)
        for (unsigned i = 0; i < TURN_FILES && !w->c->failed; i++)
            turns_setup(a, w->turns[i], root);
    if (w->c->opt.work & WORK_NAMES)
        for (unsigned i = 0; i < NAME_TREES && !w->c->failed; i++)
            names_setup(a, w->names[i], root);
    if ((w->c->opt.work & WORK_FIGHT) && !w->c->failed)
        fight_setup(a, w->fight, root);
    if ((w->c->opt.work & WORK_LOCKS) && !w->c->failed)
        lockers_setup(a, w->lockers, root);
    w->set_up = true;
}

bool workload_ended(struct cluster *c)
{
    for (unsigned i = 0; i < c->n_actors; i++)
        if (!c->actors[i]->done)
            return false;
    return true;
}

void workload_say_who_waits(struct cluster *c, const char *phase)
{
    for (unsigned i = 0; i < c->n_actors; i++)
        if (!c->actors[i]->done)
            cluster_fail(c, "%s: actor %u of client %u does not end: %s since %.3f s", phase, i, c->actors[i]->cl->index,
                         c->actors[i]->doing, (double)c->actors[i]->since / 1e9);
}

bool workload_setup(struct workload *w)
{
    actor_new(&w->c->clients[0], setup_main, w);
    if (!cluster_run(w->c, sim_now(w->c->s) + 60 * NS_PER_S, workload_ended))
        workload_say_who_waits(w->c, "set-up");
    return !w->c->failed;
}

unsigned workload_files(struct workload *w, uint64_t ret_inos[SHARED_FILES + TURN_FILES])
{
    unsigned n = 0;

    for (unsigned i = 0; (w->c->opt.work & WORK_SHARED) && i < SHARED_FILES; i++)
        ret_inos[n++] = shared_ino(w->shared[i]);
    for (unsigned i = 0; (w->c->opt.work & WORK_TURNS) && i < TURN_FILES; i++)
        ret_inos[n++] = turns_ino(w->turns[i]);
    return n;
}

static void work_main(struct actor *a)
{
    struct workload *w = a->arg;
    uint32_t work = w->c->opt.work;

    while (!w->c->failed && !w->c->stopping && actor_ready(a)) {
        uint32_t kind = MIN(1u << sim_below(&a->rng, work & WORK_LOCKS ? 6 : 4), WORK_LOCKS);

        if (!(kind & work))
            continue;
        a->doing = "thinking";
        actor_sleep(a, sim_latency(&a->rng, 5 * NS_PER_MS));
        if (w->c->stopping)
            break;
        if (kind == WORK_SHARED)
            shared_turn(a, w->shared[sim_below(&a->rng, SHARED_FILES)]);
        else if (kind == WORK_TURNS)
            turns_turn(a, w->turns[sim_below(&a->rng, TURN_FILES)]);
        else if (kind == WORK_NAMES)
            names_turn(a, w->names[sim_below(&a->rng, NAME_TREES)]);
        else if (kind == WORK_FIGHT)
            fight_turn(a, w->fight);
        else
            lockers_turn(a, w->lockers);
    }
}

void workload_start(struct workload *w)
{
    for (unsigned i = 0; i < w->c->opt.n_client; i++)
        for (unsigned k = 0; k < w->c->opt.n_actor; k++)
            actor_new(&w->c->clients[i], work_main, w);
}

static void verify_main(struct actor *a)
{
    struct workload *w = a->arg;
    uint32_t work = w->c->opt.work;

    if (!actor_ready(a))
        return;
    if (work & WORK_SHARED)
        for (unsigned i = 0; i < SHARED_FILES && !w->c->failed; i++)
            shared_verify(a, w->shared[i]);
    if (work & WORK_TURNS)
        for (unsigned i = 0; i < TURN_FILES && !w->c->failed; i++)
            turns_verify(a, w->turns[i]);
    if (work & WORK_NAMES)
        for (unsigned i = 0; i < NAME_TREES && !w->c->failed; i++)
            names_verify(a, w->names[i]);
    if ((work & WORK_FIGHT) && !w->c->failed)
        fight_verify(a, w->fight);
    if ((work & WORK_LOCKS) && !w->c->failed)
        lockers_verify(a, w->lockers);
}

bool workload_verify(struct workload *w)
{
    for (unsigned i = 0; i < w->c->opt.n_client && !w->c->failed; i++) {
        actor_new(&w->c->clients[i], verify_main, w);
        if (!cluster_run(w->c, sim_now(w->c->s) + w->c->opt.settle_ns, workload_ended))
            workload_say_who_waits(w->c, "verification");
    }
    if (w->c->opt.work & WORK_SHARED)
        for (unsigned i = 0; i < SHARED_FILES && !w->c->failed; i++)
            shared_judge(w->shared[i]);
    if ((w->c->opt.work & WORK_LOCKS) && !w->c->failed)
        lockers_judge(w->lockers);
    return !w->c->failed;
}
