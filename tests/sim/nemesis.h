/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nemesis: draws faults from the seed while the actors work, and takes them all back at the end.
 */
#pragma once

#include "sim/cluster.h"

enum fault {
    FAULT_KILL_META = 1 << 0,
    FAULT_KILL_STORE = 1 << 1,
    FAULT_KILL_CLIENT = 1 << 2,
    FAULT_POWER = 1 << 3,       /* a killed machine loses what was not synced; all of them at once, too */
    FAULT_PAUSE = 1 << 4,
    FAULT_PARTITION = 1 << 5,   /* one way and both */
    FAULT_NET = 1 << 6,         /* loss, duplication, reordering */
    FAULT_DISK = 1 << 7,        /* stalls, crashes in the middle of an operation */
    FAULT_CLOCK = 1 << 8,       /* drift; jumps of the wall clock by seconds and minutes */
    FAULT_RESET = 1 << 9,       /* connections break */
    FAULT_TRANSFER = 1 << 10,   /* leadership handed over, and planned stops */
    FAULT_SLOW = 1 << 11,       /* one server's disk stands still for seconds */
    FAULT_ERASE = 1 << 12,      /* a server comes back with an empty disk, one, at the end */
    FAULT_MOVE = 1 << 13,       /* stores are drained, put in maintenance, taken back, and away for seconds */
    FAULT_ROT = 1 << 14,        /* bits flip in one store's chunk files; all stores scrub, again and again */
    FAULT_DAMAGE = 1 << 15,     /* files of one member and of one store are damaged, cut short, lost, of another cluster */
    FAULT_MEMBERS = 1 << 16,    /* members are added, promoted, removed, replaced when dead, one at a time */
    FAULT_NODES = 1 << 17,      /* stores are drained, removed, and others come: one at a time */
    FAULT_CUT = 1 << 18,        /* one client is cut off for about as long as its session lives */
    FAULTS_DRAWN = 12,
    FAULT_ALL = (1 << FAULTS_DRAWN) - 1,
};

struct nemesis;
struct nemesis *nemesis_new(struct cluster *c);
void nemesis_free(struct nemesis *n);
/* Until true time @until, then heal. */
void nemesis_start(struct nemesis *n, uint64_t until);
/* Heal everything now: all alive, no fault left. */
void nemesis_heal(struct nemesis *n);
