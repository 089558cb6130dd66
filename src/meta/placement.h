/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where placement groups go: a pure function, used by the leader, whose result is a log entry.
 */
#pragma once

#include "common/error.h"

struct placement_store {
    uint64_t store;
    const char *zone;  /* "" or NULL: a zone of its own */
    uint64_t capacity; /* weight; 0 counts as the average */
};

/*
 * Voters of @pg_count groups of @n, from at least @n stores: @ret_voters[pg * n + i]. Voters of a
 * group lie in different zones if there are that many, else in as many as there are, and always on
 * different stores. Groups per store follow capacity; the first place rotates. The same input gives
 * the same output. INVAL: fewer than n stores.
 */
TC_MUST_CHECK int placement_compute(const struct placement_store *stores, uint32_t n_stores,
                                    uint32_t n, uint32_t pg_count, uint64_t *ret_voters);
