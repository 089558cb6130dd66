/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the nemesis share: nemesis*.c. */
#pragma once

#include "sim/nemesis.h"

enum { NODES = MEMBERS_MAX + STORES_MAX + CLIENTS_MAX };

struct hurt { /* nemesis_hurt.c: one server at a time has files that are damaged */
    struct sim_rng rng;
    struct member *member; /* not mended yet, or NULL */
    struct store *store;   /* so, too */
    unsigned boots, checks; /* of the member: as it was damaged; how often it read its files since */
    uint64_t check_ended;
    uint64_t whole_at;      /* the store, at the earliest */
    bool data;             /* chunk files: of one store for the whole run, for nobody says when all are repaired */
    unsigned emptied[STORES_MAX];
    uint64_t index_at;     /* a store writes its index then: they are young, and would not by themselves */
    unsigned index_of, snapshots;
};

struct group { /* nemesis_members.c: one change at a time */
    struct sim_rng rng;
    enum { GROUP_IDLE, GROUP_ADD, GROUP_PROMOTE, GROUP_REMOVE } step;
    struct member *m;
    bool replace; /* another takes the place of the one that is removed */
    uint64_t say_at;
    uint32_t next_id;
};

struct nodes { /* nemesis_move.c: one store is taken out, and comes again as another */
    struct sim_rng rng;
    struct store *s; /* or NULL */
    bool drained;
    uint64_t say_at;
    uint32_t next_id;
};

struct cut { /* nemesis_cut.c */
    struct sim_rng rng;
    struct client *client; /* that is cut off, or NULL */
    bool stores, from, to; /* from these, too; what it sends, what it is sent */
    uint64_t until;
};

struct nemesis {
    struct cluster *c;
    struct sim_rng rng, move_rng, rot_rng;
    struct hurt hurt;
    struct group group;
    struct nodes nodes;
    struct cut cut;
    uint64_t take_back_until; /* all stores are told to take part */
    uint64_t until;
    uint64_t back_at[NODES];   /* a killed node boots then; 0: it lives */
    uint64_t resume_at[NODES]; /* 0: not paused */
    uint64_t heal_at, calm_at, slow_until;
    unsigned doomed; /* client that is killed at doom_at, if that is not 0 */
    uint64_t doom_at;
    struct sim_node *lag_from, *lag_to; /* or NULL */
    unsigned n_nodes;
};

void nemesis_kill(struct nemesis *n, unsigned i);
unsigned nemesis_node_of(struct nemesis *n, const struct member *m);

/* @cl is cut off or stopped no more by the one that says so; perhaps by another. */
void nemesis_disturbed_no_more(struct nemesis *n, struct client *cl);

void cut_tick(struct nemesis *n);
bool cut_has(const struct nemesis *n, const struct client *cl);
void hurt_tick(struct nemesis *n);
void hurt_on_log(void *n, const char *line);
bool hurt_idle(const struct nemesis *n); /* no member is damaged */
void members_tick(struct nemesis *n);
bool members_idle(const struct nemesis *n);
void move_tick(struct nemesis *n);
void nodes_tick(struct nemesis *n);
