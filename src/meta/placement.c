/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placement: groups are dealt one by one, each place to the store that has least for its weight
 * among those in zones not yet used by the group.
 */
#include "meta/placement.h"

#include <string.h>

struct seat {
    uint32_t at;     /* in the caller's array */
    uint64_t weight;
    uint32_t groups; /* dealt so far */
    uint32_t firsts; /* of them, where it is in the first place */
};

static bool same_zone(const struct placement_store *a, const struct placement_store *b)
{
    return a->zone && b->zone && a->zone[0] && !strcmp(a->zone, b->zone);
}

/* a before b: less for its weight; then the lower id. */
static bool better(const struct placement_store *s, const struct seat *a, const struct seat *b)
{
    uint64_t x = ((uint64_t)a->groups + 1) * b->weight, y = ((uint64_t)b->groups + 1) * a->weight;

    return x != y ? x < y : s[a->at].store < s[b->at].store;
}

/* The best seat for the next place of a group that has @n_taken; zones as different as can be. */
static uint32_t pick(const struct placement_store *s, const struct seat *seats, uint32_t n_seats,
                     const uint32_t *taken, uint32_t n_taken)
{
    uint32_t best = UINT32_MAX, best_shared = UINT32_MAX;

    for (uint32_t i = 0; i < n_seats; i++) {
        uint32_t shared = 0;
        bool used = false;

        for (uint32_t t = 0; t < n_taken; t++) {
            used |= taken[t] == i;
            shared += same_zone(&s[seats[taken[t]].at], &s[seats[i].at]);
        }
        if (used)
            continue;
        if (best == UINT32_MAX || shared < best_shared ||
            (shared == best_shared && better(s, &seats[i], &seats[best]))) {
            best = i;
            best_shared = shared;
        }
    }
    return best;
}

/* The member that leads fewest groups takes the first place. */
static void rotate(struct seat *seats, uint32_t *taken, uint32_t n)
{
    uint32_t first = 0, t;

    for (uint32_t i = 1; i < n; i++) {
        if (seats[taken[i]].firsts < seats[taken[first]].firsts)
            first = i;
    }
    t = taken[0];
    taken[0] = taken[first];
    taken[first] = t;
    seats[taken[0]].firsts++;
}

uint64_t placement_weight(uint64_t capacity)
{
    return MAX(MIN(capacity >> 20, UINT32_MAX), 1u);
}

static void weigh(const struct placement_store *s, uint32_t n, struct seat *seats)
{
    uint64_t sum = 0, known = 0, average;

    for (uint32_t i = 0; i < n; i++) {
        sum += placement_weight(s[i].capacity);
        known += s[i].capacity != 0;
    }
    average = known ? sum / known : 1;
    for (uint32_t i = 0; i < n; i++)
        seats[i] = (struct seat){.at = i, .weight = s[i].capacity ? placement_weight(s[i].capacity) : average};
}

int placement_compute(const struct placement_store *stores, uint32_t n_stores, uint32_t n,
                      uint32_t pg_count, uint64_t *ret_voters)
{
    struct seat *seats;
    uint32_t *taken;

    if (n == 0 || n_stores < n)
        return -TC_E_INVAL;
    seats = tc_calloc(n_stores, sizeof(*seats));
    taken = tc_calloc(n, sizeof(*taken));
    weigh(stores, n_stores, seats);
    for (uint32_t pg = 0; pg < pg_count; pg++) {
        for (uint32_t i = 0; i < n; i++)
            taken[i] = pick(stores, seats, n_stores, taken, i);
        for (uint32_t i = 0; i < n; i++)
            seats[taken[i]].groups++;
        rotate(seats, taken, n);
        for (uint32_t i = 0; i < n; i++)
            ret_voters[(size_t)pg * n + i] = stores[seats[taken[i]].at].store;
    }
    free(taken);
    free(seats);
    return 0;
}
