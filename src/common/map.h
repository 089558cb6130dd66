/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster map in memory: which stores vote for a placement group, where they are, who is dead.
 * Built from cluster_map messages, whole or deltas; owned by whoever holds it, plain memory, no I/O.
 */
#pragma once

#include "common/schema.h"

#define PG_VOTERS_MAX 7

struct map_pg {
    uint64_t epoch;
    uint8_t n;      /* C1 */
    uint8_t n_next; /* C2, 0 unless in transition */
    uint64_t voters[PG_VOTERS_MAX];
    uint64_t next[PG_VOTERS_MAX];
};

struct map_store {
    uint64_t store;
    uint32_t node;
    uint32_t state;
    char *endpoint;
    char *zone;
};

struct map_member { /* of the metadata group */
    uint32_t id;
    char *endpoint;
};

struct map {
    uint64_t epoch;
    uint32_t n, w, r, pg_count;
    uint8_t cluster[16];
    struct map_store *stores;
    uint32_t n_stores;
    struct map_member *members;
    uint32_t n_members;
    struct map_pg *pgs; /* pg_count, or NULL: no table yet */
    struct dead_session *dead;
    uint32_t n_dead;
    uint64_t dead_below;
};

struct map *map_new(void);
struct map *map_free(struct map *m);
/* Apply a whole map or a delta to @m. STALE_MAP: the delta starts above m->epoch (ask for the whole one);
 * an older or equal map changes nothing and is 0. BAD_MESSAGE: inconsistent; @m is unchanged. */
TC_MUST_CHECK int map_apply(struct map *m, const struct cluster_map *msg);
/* The whole map as a message; memory from @a, strings borrow from @m. */
void map_to_msg(const struct map *m, struct wire_arena *a, struct cluster_map *ret_msg);
/* Placement group of a chunk: XXH3(ino, index) mod pg_count. */
uint32_t map_pg_of(const struct map *m, uint64_t ino, uint32_t index);
const struct map_store *map_store(const struct map *m, uint64_t store); /* NULL: unknown */
/* Where to send what is for it; NULL: nowhere. At the address of a replaced store the one listens that took its place, and
 * would refuse it (PROTOCOL 6.1). */
const struct map_store *map_store_there(const struct map *m, uint64_t store);
bool map_session_dead(const struct map *m, uint64_t session, uint32_t incarnation);
bool map_is_voter(const struct map_pg *pg, uint64_t store); /* of C1 or C2 */
/* First 8 bytes of the cluster id: wire_header.cluster. */
uint64_t map_cluster_tag(const uint8_t cluster[16]);
