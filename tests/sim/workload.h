/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the actors do, and the models that say what they may see.
 *
 * shared files (registers.c): several clients read and write the same cells at once. Each cell of 1 KiB holds
 *   the number of the write that filled it; the history of each must be linearizable (PROTOCOL 10.1).
 * turn-taking files (turns.c): one actor at a time, on whatever client, any operation at any byte; every byte and
 *   size must be exactly as after a local sequence of these operations, with what a dead client had not synced
 *   lost block by block at most (10.5, 10.8).
 * names (names.c): one actor at a time per tree, exact results of every operation, exactly once (10.11); and names
 *   that all fight for at once.
 * locks (lockers.c): counters that whoever holds the lock increments; nobody believes to hold what another one does, and
 *   in the end nothing is locked (9.2, 9.3).
 */
#pragma once

#include "sim/actor.h"

enum work { WORK_SHARED = 1, WORK_TURNS = 2, WORK_NAMES = 4, WORK_FIGHT = 8, WORK_USUAL = 15, WORK_LOCKS = 16, WORK_ALL = 31 };

enum { SHARED_FILES = 3, TURN_FILES = 4, NAME_TREES = 3, FIGHT_NAMES = 4, CELL = 1024 };

struct workload;

struct workload *workload_new(struct cluster *c);
void workload_free(struct workload *w);
/* Make directories and files, by an actor of client 0. False: failed. */
bool workload_setup(struct workload *w);
/* The inodes of its files; the number. */
unsigned workload_files(struct workload *w, uint64_t ret_inos[SHARED_FILES + TURN_FILES]);
/* Start the actors; they end when cluster.stopping is set. */
void workload_start(struct workload *w);
bool workload_ended(struct cluster *c);
/* Fail with whoever does not end. */
void workload_say_who_waits(struct cluster *c, const char *phase);
/* After everything settled: read all back, on every client, and judge the histories. */
bool workload_verify(struct workload *w);

/*
 * An operation failed with @status. True: its outcome is unknown, and the client's life has ended with it. False:
 * it is a plain answer. An error that nothing explains fails the run.
 */
bool outcome_unknown(struct actor *a, int status, const char *what);

/* An open file, valid for the client's present process. */
struct handle {
    struct tc_file *f;
    uint64_t kills;
    uint64_t opened; /* true time: a loss after it is told here, one before it is not */
};
int handle_open(struct actor *a, struct handle *h, uint64_t ino, uint32_t flags);
void handle_close(struct actor *a, struct handle *h);

/* registers.c */
struct shared;
struct shared *shared_new(struct cluster *c, const char *name, uint64_t base, uint32_t n_cells);
void shared_free(struct shared *s);
void shared_setup(struct actor *a, struct shared *s, uint64_t dir);
void shared_turn(struct actor *a, struct shared *s);
void shared_verify(struct actor *a, struct shared *s); /* reads all of it */
void shared_judge(struct shared *s);
uint64_t shared_ino(const struct shared *s);

/* turns.c */
struct turns;
struct turns *turns_new(struct cluster *c, const char *name, uint64_t base);
void turns_free(struct turns *t);
void turns_setup(struct actor *a, struct turns *t, uint64_t dir);
void turns_turn(struct actor *a, struct turns *t);
void turns_verify(struct actor *a, struct turns *t);
uint64_t turns_ino(const struct turns *t);

/* names.c */
struct names;
struct names *names_new(struct cluster *c, const char *name);
void names_free(struct names *n);
void names_setup(struct actor *a, struct names *n, uint64_t dir);
void names_turn(struct actor *a, struct names *n);
void names_verify(struct actor *a, struct names *n);

struct fight;
struct fight *fight_new(struct cluster *c);
void fight_free(struct fight *f);
void fight_setup(struct actor *a, struct fight *f, uint64_t dir);
void fight_turn(struct actor *a, struct fight *f);
void fight_verify(struct actor *a, struct fight *f);

/* lockers.c */
struct lockers;
struct lockers *lockers_new(struct cluster *c);
void lockers_free(struct lockers *l);
void lockers_setup(struct actor *a, struct lockers *l, uint64_t dir);
void lockers_turn(struct actor *a, struct lockers *l);
void lockers_verify(struct actor *a, struct lockers *l);
void lockers_judge(struct lockers *l); /* nothing is left of any lock, on no client and no member */
