/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damage of one server's files, as disks and operators do it: a bit flipped, a file cut short or gone,
 * files of another cluster.
 *
 * What no program could tell from a crash is not done: a record that no synced mark covers yet is left alone
 * (DISK_FORMAT.md), and one of two copies is never brought back to an older state.
 */
#pragma once

#include "sim/sim.h"

struct damage {
    const char *what; /* for the log; NULL: nothing was there to be damaged */
    bool votes_gone;  /* of a member: what is left must not vote */
    bool emptied;     /* of a store: what is left must not be used, another takes its place */
    bool data;        /* of a store: chunk files alone */
};

struct damage damage_member(struct sim_disk *d, struct sim_rng *rng);
/* While it runs: bits flip, of what it finds by reading its files again. */
struct damage damage_live_member(struct sim_disk *d, struct sim_rng *rng);
struct damage damage_live_store(struct sim_disk *d, struct sim_rng *rng);
/* @data: only of its chunk files; else only of its index, journal and records. */
struct damage damage_store(struct sim_disk *d, struct sim_rng *rng, bool data);
/* @from's directory @path takes the place of @to's. */
bool damage_copy(struct sim_disk *to, struct sim_disk *from, const char *path);
