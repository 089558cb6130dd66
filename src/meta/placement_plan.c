/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The planner: from where groups are to where they should be, a step at a time (placement.h).
 *
 * It looks at everything anew at each call and remembers nothing: a store that died, came back or was drained
 * meanwhile changes what the next call says. @target is where each group goes if all that is under way and planned
 * here is done; loads are counted there.
 */
#include "meta/placement.h"

#include <string.h>

#define SCALE 1000   /* of shares */
#define SLACK_DIV 64 /* shares may differ by this part before anything moves for it */
#define NOBODY UINT32_MAX

struct seat {
    uint64_t weight;
    uint64_t quota;  /* x SCALE */
    uint32_t groups; /* of targets */
};

struct planner {
    const struct placement_task *t;
    struct placement_plan *plan;
    struct seat *seats;
    uint32_t *target; /* n for each group: seats, NOBODY where there is none that lasts */
    uint8_t *busy;    /* in transition, or moved by this call */
    uint32_t budget;
};

static uint32_t seat_of(const struct planner *p, uint64_t store)
{
    uint32_t lo = 0, hi = p->t->n_stores;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (p->t->stores[mid].store < store)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < p->t->n_stores && p->t->stores[lo].store == store ? lo : NOBODY;
}

static enum placement_role role_of(const struct planner *p, uint32_t seat)
{
    return seat == NOBODY ? PLACEMENT_OUT : p->t->stores[seat].role;
}

static bool has(const uint32_t *set, uint32_t n, uint32_t seat)
{
    for (uint32_t i = 0; i < n; i++) {
        if (set[i] == seat)
            return true;
    }
    return false;
}

static bool same_zone(const struct planner *p, uint32_t a, uint32_t b)
{
    const char *x, *y;

    if (a == NOBODY || b == NOBODY || a == b)
        return false;
    x = p->t->stores[a].zone;
    y = p->t->stores[b].zone;
    return x && y && x[0] && !strcmp(x, y);
}

/* How many of @set, but for place @but, are in the zone of @seat. */
static uint32_t shared(const struct planner *p, const uint32_t *set, uint32_t but, uint32_t seat)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->t->n; i++)
        n += i != but && same_zone(p, set[i], seat);
    return n;
}

/* ---- shares ---------------------------------------------------------------------------------- */

static void weigh(struct planner *p)
{
    const struct placement_task *t = p->t;
    uint64_t sum = 0, known = 0;

    for (uint32_t i = 0; i < t->n_stores; i++) {
        sum += placement_weight(t->stores[i].capacity);
        known += t->stores[i].capacity != 0;
    }
    for (uint32_t i = 0; i < t->n_stores; i++) {
        uint64_t w = t->stores[i].capacity ? placement_weight(t->stores[i].capacity) : known ? sum / known : 1;

        p->seats[i].weight = t->stores[i].role == PLACEMENT_OUT ? 0 : w;
    }
}

/* By weight, but nobody holds a group twice: what is above that goes to the others. */
static void quotas(struct planner *p)
{
    const uint64_t cap = (uint64_t)p->t->pg_count * SCALE;
    uint64_t left = cap * p->t->n, weight;
    bool capped;

    do {
        capped = false;
        weight = 0;
        for (uint32_t i = 0; i < p->t->n_stores; i++) {
            if (p->seats[i].quota != cap)
                weight += p->seats[i].weight;
        }
        for (uint32_t i = 0; i < p->t->n_stores && weight; i++) {
            struct seat *s = &p->seats[i];

            if (s->quota == cap)
                continue;
            s->quota = left * s->weight / weight; /* below 2^29 * 2^32 */
            if (s->quota >= cap && s->weight) {
                s->quota = cap;
                left -= MIN(left, cap);
                capped = true;
                break;
            }
        }
    } while (capped);
}

/* ---- who takes a place ------------------------------------------------------------------------ */

static bool better(const struct planner *p, uint32_t a, uint32_t b)
{
    const struct seat *x = &p->seats[a], *y = &p->seats[b];

    return ((uint64_t)x->groups + 1) * y->weight < ((uint64_t)y->groups + 1) * x->weight;
}

static uint32_t pick(const struct planner *p, const uint32_t *set, uint32_t place)
{
    uint32_t best = NOBODY, best_shared = 0;

    for (uint32_t i = 0; i < p->t->n_stores; i++) {
        uint32_t sh;

        if (p->t->stores[i].role != PLACEMENT_LIVE || has(set, p->t->n, i))
            continue;
        sh = shared(p, set, place, i);
        if (best == NOBODY || sh < best_shared || (sh == best_shared && better(p, i, best))) {
            best = i;
            best_shared = sh;
        }
    }
    return best;
}

/* ---- moves ------------------------------------------------------------------------------------- */

static void move_out(struct planner *p, uint32_t pg, enum placement_reason why, const uint32_t *set)
{
    struct placement_move *m = &p->plan->moves[p->plan->n_moves++];

    *m = (struct placement_move){.pg = pg, .reason = (uint8_t)why};
    p->busy[pg] = 1;
    for (uint32_t i = 0; set && i < p->t->n; i++)
        m->next[m->n_next++] = p->t->stores[set[i]].store;
}

static void seats_of(const struct planner *p, const uint64_t *stores, uint32_t *ret)
{
    for (uint32_t i = 0; i < p->t->n; i++)
        ret[i] = seat_of(p, stores[i]);
}

static uint32_t count_role(const struct planner *p, const uint32_t *set, enum placement_role role)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->t->n; i++)
        n += role_of(p, set[i]) == role;
    return n;
}

static uint32_t count_alive(const struct planner *p, const uint32_t *set)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->t->n; i++)
        n += set[i] != NOBODY && p->t->stores[set[i]].alive;
    return n;
}

static bool any_failing(const struct planner *p, const uint32_t *set)
{
    for (uint32_t i = 0; i < p->t->n; i++) {
        if (set[i] != NOBODY && p->t->stores[set[i]].failing)
            return true;
    }
    return false;
}

static bool same(const struct planner *p, const uint32_t *a, const uint32_t *b)
{
    return !memcmp(a, b, p->t->n * sizeof(*a));
}

/* What of a transition's newcomers can be used in the place of voters that do not last. */
static void take_newcomers(const struct planner *p, const uint32_t *c2, uint32_t *to)
{
    for (uint32_t i = 0; i < p->t->n; i++) {
        if (to[i] != NOBODY)
            continue;
        for (uint32_t k = 0; k < p->t->n && to[i] == NOBODY; k++) {
            if (role_of(p, c2[k]) != PLACEMENT_OUT && !has(to, p->t->n, c2[k]))
                to[i] = c2[k];
        }
    }
}

/* What is known of a group before spares are dealt. */
struct view {
    uint32_t c1[PG_VOTERS_MAX], c2[PG_VOTERS_MAX];
    bool moving;
    enum placement_reason why;
    bool call_off; /* the transition is pointless now */
    bool as_is;    /* it may end as it is */
};

static void look(const struct planner *p, uint32_t pg, struct view *v)
{
    const struct map_pg *g = &p->t->pgs[pg];
    uint32_t newcomers_bad = 0;

    *v = (struct view){.moving = g->n_next > 0};
    seats_of(p, g->voters, v->c1);
    if (!v->moving)
        return;
    seats_of(p, g->next, v->c2);
    v->why = p->t->why ? p->t->why[pg] : PLACEMENT_UNKNOWN;
    for (uint32_t i = 0; i < p->t->n; i++)
        newcomers_bad += !has(v->c1, p->t->n, v->c2[i]) && role_of(p, v->c2[i]) != PLACEMENT_LIVE;
    if (count_role(p, v->c1, PLACEMENT_OUT) == 0)
        v->call_off = v->why == PLACEMENT_REPAIR || newcomers_bad > 0 || count_role(p, v->c2, PLACEMENT_OUT) > 0;
    v->as_is = !v->call_off && count_role(p, v->c2, PLACEMENT_OUT) == 0;
}

/* Targets as far as they need no spare: in a pass of its own, so that spares are dealt by true loads. */
static void keep(struct planner *p, uint32_t pg)
{
    uint32_t *to = &p->target[(size_t)pg * p->t->n];
    struct view v;

    look(p, pg, &v);
    if (v.as_is) {
        memcpy(to, v.c2, p->t->n * sizeof(*to));
    } else {
        for (uint32_t i = 0; i < p->t->n; i++)
            to[i] = role_of(p, v.c1[i]) == PLACEMENT_OUT ? NOBODY : v.c1[i];
        if (v.moving)
            take_newcomers(p, v.c2, to);
    }
    p->busy[pg] = v.moving;
    p->plan->moving += v.moving;
    for (uint32_t i = 0; i < p->t->n; i++) {
        if (to[i] != NOBODY)
            p->seats[to[i]].groups++;
    }
}

/* Spares for the places nobody has. False: not for all. */
static bool deal(struct planner *p, uint32_t pg, const struct view *v)
{
    uint32_t *to = &p->target[(size_t)pg * p->t->n];
    bool all = true;

    for (uint32_t i = 0; i < p->t->n; i++) {
        if (to[i] != NOBODY)
            continue;
        to[i] = pick(p, to, i);
        if (to[i] != NOBODY)
            p->seats[to[i]].groups++;
        else
            all = false;
    }
    for (uint32_t i = 0; i < p->t->n && !all; i++) {
        if (to[i] == NOBODY && !has(to, p->t->n, v->c1[i]))
            to[i] = v->c1[i]; /* it stays where it is */
    }
    return all;
}

/* Lowest number of live copies among groups that wait for a spare or get one. */
struct urgency {
    uint32_t lowest;
    uint8_t *alive;  /* per group: 0: does not wait */
    uint8_t *paced;  /* per group: nothing endangers it, it counts for moving_max */
};

static void repair_look(struct planner *p, uint32_t pg, struct urgency *u)
{
    uint32_t *to = &p->target[(size_t)pg * p->t->n], alive;
    struct view v;
    bool all;

    look(p, pg, &v);
    alive = count_alive(p, v.c1);
    if (v.call_off) {
        move_out(p, pg, PLACEMENT_REPAIR, NULL);
        return;
    }
    if (v.as_is) {
        if (v.why != PLACEMENT_BALANCE && count_role(p, v.c1, PLACEMENT_OUT) && alive >= p->t->quorum)
            u->lowest = MIN(u->lowest, alive);
        return;
    }
    all = deal(p, pg, &v);
    p->plan->stuck += !all;
    if (has(to, p->t->n, NOBODY) || same(p, to, v.moving ? v.c2 : v.c1))
        return;
    if (alive < p->t->quorum) {
        p->plan->stuck += all;
        return;
    }
    if (v.moving) { /* another newcomer failed: at once */
        move_out(p, pg, PLACEMENT_REPAIR, to);
        u->lowest = MIN(u->lowest, alive);
        return;
    }
    u->alive[pg] = (uint8_t)alive;
    u->paced[pg] = alive >= p->t->n && !any_failing(p, v.c1);
    u->lowest = MIN(u->lowest, alive);
}

/* False: something is to be repaired first. */
static bool repair(struct planner *p)
{
    const struct placement_task *t = p->t;
    struct urgency u = {.lowest = NOBODY, .alive = tc_calloc(t->pg_count, 1), .paced = tc_calloc(t->pg_count, 1)};
    bool none = true;

    for (uint32_t pg = 0; pg < t->pg_count; pg++)
        keep(p, pg);
    p->budget = t->moving_max > p->plan->moving ? t->moving_max - p->plan->moving : 0;
    for (uint32_t pg = 0; pg < t->pg_count; pg++)
        repair_look(p, pg, &u);
    for (uint32_t pg = 0; pg < t->pg_count; pg++) {
        if (!u.alive[pg])
            continue;
        none = false;
        if (u.alive[pg] > u.lowest || (u.paced[pg] && !p->budget)) {
            p->plan->waiting++;
            continue;
        }
        p->budget -= u.paced[pg];
        move_out(p, pg, PLACEMENT_REPAIR, &p->target[(size_t)pg * t->n]);
    }
    none = none && u.lowest == NOBODY;
    free(u.alive);
    free(u.paced);
    return none;
}

/* ---- zones and balance ------------------------------------------------------------------------- */

static void shift(struct planner *p, uint32_t pg, uint32_t place, uint32_t seat)
{
    uint32_t *to = &p->target[(size_t)pg * p->t->n];

    p->seats[to[place]].groups--;
    p->seats[seat].groups++;
    to[place] = seat;
    move_out(p, pg, PLACEMENT_BALANCE, to);
    p->budget--;
}

/* A group with two copies in a zone, and a store elsewhere: the fuller of the two gives it away. */
static void zone_mend(struct planner *p, uint32_t pg)
{
    uint32_t *to = &p->target[(size_t)pg * p->t->n], worst = NOBODY, seat;

    for (uint32_t i = 0; i < p->t->n; i++) {
        if (role_of(p, to[i]) == PLACEMENT_OUT)
            return;
        if (!shared(p, to, i, to[i]) || p->t->stores[to[i]].role != PLACEMENT_LIVE)
            continue;
        if (worst == NOBODY || better(p, to[worst], to[i]))
            worst = i;
    }
    if (worst == NOBODY)
        return;
    seat = pick(p, to, worst);
    if (seat == NOBODY || shared(p, to, worst, seat) >= shared(p, to, worst, to[worst]))
        return;
    if (p->budget)
        shift(p, pg, worst, seat);
    else
        p->plan->waiting++;
}

static int64_t excess(const struct planner *p, uint32_t seat)
{
    return (int64_t)p->seats[seat].groups * SCALE - (int64_t)p->seats[seat].quota;
}

/* A group that can go from one seat to another; zones get no worse. One whose chunks are still there is best. */
static bool shift_one(struct planner *p, uint32_t from, uint32_t seat)
{
    uint32_t found = NOBODY, found_place = 0;

    for (uint32_t pg = 0; pg < p->t->pg_count; pg++) {
        uint32_t *to = &p->target[(size_t)pg * p->t->n], place = 0;

        if (p->busy[pg] || has(to, p->t->n, seat))
            continue;
        while (place < p->t->n && to[place] != from)
            place++;
        if (place == p->t->n || shared(p, to, place, seat) > shared(p, to, place, from))
            continue;
        if (p->t->former && p->t->former[pg] == p->t->stores[seat].store) {
            found = pg;
            found_place = place;
            break;
        }
        if (found == NOBODY) {
            found = pg;
            found_place = place;
        }
        if (!p->t->former)
            break;
    }
    if (found == NOBODY)
        return false;
    shift(p, found, found_place, seat);
    return true;
}

/* The pair with most to gain of those that can; false: balanced. */
static bool pair(const struct planner *p, const uint8_t *blocked, uint32_t *ret_from, uint32_t *ret_to)
{
    const uint32_t n = p->t->n_stores;
    int64_t best = 0;

    for (uint32_t a = 0; a < n; a++) {
        if (p->t->stores[a].role != PLACEMENT_LIVE)
            continue;
        for (uint32_t b = 0; b < n; b++) {
            int64_t gap = excess(p, a) - excess(p, b);

            if (b == a || p->t->stores[b].role != PLACEMENT_LIVE || blocked[(size_t)a * n + b] || gap <= best ||
                gap <= SCALE + (int64_t)(p->seats[a].quota / SLACK_DIV))
                continue;
            best = gap;
            *ret_from = a;
            *ret_to = b;
        }
    }
    return best > 0;
}

static void balance(struct planner *p)
{
    const uint32_t n = p->t->n_stores;
    uint8_t *blocked = tc_calloc((size_t)n * n, 1);
    uint32_t from = 0, to = 0;

    while (pair(p, blocked, &from, &to)) {
        if (!p->budget) {
            for (uint32_t i = 0; i < n; i++)
                p->plan->waiting += excess(p, i) < -SCALE ? (uint32_t)(-excess(p, i) / SCALE) : 0;
            break;
        }
        if (!shift_one(p, from, to))
            blocked[(size_t)from * n + to] = 1;
    }
    free(blocked);
}

/* ---- all of it ----------------------------------------------------------------------------------- */

void placement_plan(const struct placement_task *t, struct placement_plan *ret_plan)
{
    struct planner p = {.t = t, .plan = ret_plan};

    *ret_plan = (struct placement_plan){.moves = tc_calloc(t->pg_count, sizeof(*ret_plan->moves)),
                                        .quota = tc_calloc(t->n_stores + 1, sizeof(*ret_plan->quota))};
    p.seats = tc_calloc(t->n_stores + 1, sizeof(*p.seats));
    p.target = tc_calloc((size_t)t->pg_count * t->n, sizeof(*p.target));
    p.busy = tc_calloc(t->pg_count, 1);
    weigh(&p);
    quotas(&p);
    if (repair(&p)) {
        for (uint32_t pg = 0; pg < t->pg_count; pg++) {
            if (!p.busy[pg])
                zone_mend(&p, pg);
        }
        balance(&p);
    }
    for (uint32_t i = 0; i < t->n_stores; i++)
        ret_plan->quota[i] = (p.seats[i].quota + SCALE / 2) / SCALE;
    free(p.seats);
    free(p.target);
    free(p.busy);
}

void placement_plan_fini(struct placement_plan *p)
{
    free(p->moves);
    free(p->quota);
}
