/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where placement groups go: pure functions, used by the leader, whose results are log entries.
 */
#pragma once

#include "common/map.h"

enum placement_role {
    PLACEMENT_LIVE, /* holds copies and may get more */
    PLACEMENT_KEEP, /* keeps what it has: in maintenance, silent for a moment, full */
    PLACEMENT_OUT,  /* is to hold nothing: drained, lost, its disk fails */
};

struct placement_store {
    uint64_t store;
    const char *zone;  /* "" or NULL: a zone of its own */
    uint64_t capacity; /* weight; 0 counts as the average */
    /* for placement_plan() */
    enum placement_role role;
    bool alive;   /* it answers: a copy there is one to copy from ... */
    bool failing; /* ... but not for long: what it holds does not wait for its turn */
};

/* What a store of so many bytes counts for beside the others: MiB, so that small disks are told apart, too. From 1 to 2^32. */
uint64_t placement_weight(uint64_t capacity);

/*
 * Voters of @pg_count groups of @n, from at least @n stores: @ret_voters[pg * n + i]. Voters of a
 * group lie in different zones if there are that many, else in as many as there are, and always on
 * different stores. Groups per store follow capacity; the first place rotates. The same input gives
 * the same output. INVAL: fewer than n stores.
 */
TC_MUST_CHECK int placement_compute(const struct placement_store *stores, uint32_t n_stores,
                                    uint32_t n, uint32_t pg_count, uint64_t *ret_voters);

/* Why a group is in transition. What a leader before this one began is UNKNOWN and is left to end. */
enum placement_reason { PLACEMENT_UNKNOWN, PLACEMENT_REPAIR, PLACEMENT_BALANCE };

struct placement_task {
    const struct placement_store *stores; /* ascending ids */
    uint32_t n_stores;
    uint32_t n, quorum; /* copies; copies that must answer for a group to be copied */
    const struct map_pg *pgs;
    uint32_t pg_count;
    const uint8_t *why;     /* per group in transition: enum placement_reason; NULL: all unknown */
    const uint64_t *former; /* per group: a store that may still have its chunks, or 0; NULL: none */
    uint32_t moving_max;    /* groups that nothing endangers move so many at once */
};

struct placement_move {
    uint32_t pg;
    uint8_t reason;
    uint8_t n_next; /* 0: the transition is called off */
    uint64_t next[PG_VOTERS_MAX];
};

struct placement_plan {
    struct placement_move *moves; /* to begin now; at most one for each group */
    uint32_t n_moves;
    uint32_t moving;  /* groups in transition now */
    uint32_t waiting; /* groups whose turn has not come, about */
    uint32_t stuck;   /* groups that should lose a store, but there is no other for it, or no quorum to copy */
    uint64_t *quota;  /* of each store: groups that are its share */
};

/*
 * What to do next so that every group is on stores that last, in different zones, by capacity, with the least movement.
 * The order: what nothing is to be gained from any more is called off; groups with the fewest live copies get spares,
 * the next class only when they have them; drained stores are emptied; zones are mended; then loads are balanced. Stores
 * that hold a group and are not OUT keep it but for balance. The same input gives the same output.
 */
void placement_plan(const struct placement_task *t, struct placement_plan *ret_plan);
void placement_plan_fini(struct placement_plan *p);
