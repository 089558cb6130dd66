/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated disk: a vfs in memory that knows what a power loss may take.
 *
 * Bytes are kept twice where they differ, as the process sees them and as they are on the platter; in a
 * power loss every unsynced 512-byte sector is kept or dropped on its own, an unsynced size likewise, and of
 * the unsynced changes of a directory any subset survives. A crash of the process alone loses nothing.
 *
 * Faults: a space limit, errors on chosen operations, flipped bits, and a crash in the middle of anything:
 * after a number of mutating operations the disk freezes and all that follows fails, without effect.
 *
 * The disk outlives its node's restarts. Handles opened before sim_disk_reopen() are dead (IO), but must
 * still be closed.
 */
#pragma once

#include "common/vfs.h"

struct sim_disk;

enum sim_disk_op { SIM_DISK_WRITE, SIM_DISK_SYNC, SIM_DISK_META, SIM_DISK_SYNC_DIR, SIM_DISK_READ, SIM_DISK_OPS };

enum sim_loss { /* what a power loss does to what was not synced */
    SIM_LOSS_RANDOM, /* each sector, size and name for itself, with a probability drawn once */
    SIM_LOSS_ALL,    /* all of it is gone */
    SIM_LOSS_NONE,   /* all of it is kept */
};

/* @seed: of the disk's own stream of decisions. */
struct sim_disk *sim_disk_new(uint64_t seed);
void sim_disk_free(struct sim_disk *d); /* accepts NULL */
struct vfs *sim_disk_vfs(struct sim_disk *d);

/* Start of a new life: what crashed is over, faults armed by count are disarmed, old handles die. */
void sim_disk_reopen(struct sim_disk *d);
void sim_disk_power_loss(struct sim_disk *d, enum sim_loss how);
/* Everything is gone, as on a new disk. */
void sim_disk_erase(struct sim_disk *d);

/* Freeze when the (n+1)-th mutating operation from now begins; a write may be done in part. */
void sim_disk_crash_after(struct sim_disk *d, uint64_t n);
bool sim_disk_frozen(const struct sim_disk *d);
/* From now on nothing has an effect until reopen. */
void sim_disk_freeze(struct sim_disk *d);

void sim_disk_set_limit(struct sim_disk *d, uint64_t bytes); /* 0: none */
/* The (after+1)-th operation of kind @op from now fails with @err (-TC_E_x), once. */
void sim_disk_fail(struct sim_disk *d, enum sim_disk_op op, uint64_t after, int err);
/* Every operation of kind @op from now fails with @err; 0: no longer. */
void sim_disk_break(struct sim_disk *d, enum sim_disk_op op, int err);
/* Every operation of kind @op from now takes @ns longer. */
void sim_disk_slow(struct sim_disk *d, enum sim_disk_op op, uint64_t ns);
/* Flip bits of one byte, on the platter and in memory. False if there is no such byte. */
bool sim_disk_flip(struct sim_disk *d, const char *path, uint64_t off, uint8_t mask);
/* Overwrite on the platter and in memory, whatever the state. For tests of damage. */
bool sim_disk_poke(struct sim_disk *d, const char *path, uint64_t off, const void *data, size_t len);
bool sim_disk_chop(struct sim_disk *d, const char *path, uint64_t size);

uint64_t sim_disk_ops(const struct sim_disk *d);  /* mutating operations so far */
uint64_t sim_disk_cost(struct sim_disk *d);       /* simulated ns of work since the last call */
uint64_t sim_disk_waited(struct sim_disk *d);     /* and of sim_disk_slow() */
uint64_t sim_disk_used(const struct sim_disk *d); /* bytes */
uint64_t sim_disk_hash(struct sim_disk *d);       /* of everything, as the process sees it */
