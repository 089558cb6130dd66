/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storage nodes on simulated machines, a metadata leader that is no more than a map, and a client that sends
 * single requests and waits. For tests of the storage server.
 */
#pragma once

#include <check.h>

#include "common/map.h"
#include "sim/sim.h"
#include "storage/rpc.h"
#include "storage/server.h"

#define STORES 4
#define PGS 4

struct fake_leader { /* runs on any env */
    struct env *env;
    struct net_port *port;
    uint8_t cluster[16];
    uint64_t epoch;
    struct map_pg pgs[PGS];
    bool table;
    uint64_t stores[STORES + 1]; /* by node; 0: not registered */
    char endpoints[STORES + 1][64];
    uint64_t starts[STORES + 1];
    struct dead_session dead[4];
    uint32_t n_dead;
    struct gc_item gc[8];
    uint32_t n_gc;
    uint64_t gc_done[STORES + 1];
    uint64_t ready[STORES + 1][PGS]; /* epoch reported */
    uint64_t behind[STORES + 1];
    uint64_t dead_ino;
    bool unsure; /* it does not know of any inode */
    bool held; /* all inodes are said to be in X */
    struct ino_trim trims[4]; /* said of the first inode that is asked for */
    uint32_t n_trims;
    uint32_t beats;
    uint64_t flags[STORES + 1]; /* of the last beat */
    uint64_t found; /* damaged blocks, the most that a beat told */
    uint64_t aside, aside_bytes; /* directories put aside, of all stores ... */
    uint64_t aside_of[STORES + 1], aside_bytes_of[STORES + 1]; /* ... as the last beat of each said */
};

int fake_leader_open(struct fake_leader *f, struct env *env, const char *endpoint);
void fake_leader_close(struct fake_leader *f);
/* Every PG gets voters (and next, if any): nodes, 0 ends the list. New PG epochs. */
void fake_leader_place(struct fake_leader *f, const int *voters, const int *next);

struct world {
    struct sim *sim;
    struct sim_node *m, *c, *s[STORES + 1];
    struct fake_leader leader;
    struct env *client_env;
    struct storage_server *server[STORES + 1];
    struct rpc_link *link[STORES + 1];
    uint64_t cluster_tag;
    bool fatal[STORES + 1];
    struct map *map; /* as the leader's, for placing */
    void (*arm)(struct sim_disk *d, void *arg); /* called before each start: a fault for it */
    void *arm_arg;
};

/* @n stores are started and registered; the table is made on the first three. */
struct world *world_new(uint64_t seed, int n);
void world_free(struct world *w);
void world_start(struct world *w, int node);
int world_try_start(struct world *w, int node); /* may fail: what storage_server_open() says */
void world_kill(struct world *w, int node);
/* Run until every living store has the leader's map; fails the test after 10 simulated seconds. */
void world_settle(struct world *w);
void world_run(struct world *w, uint64_t ms);
void world_place(struct world *w, const int *voters, const int *next);

struct answer { /* of one request */
    bool done;
    int status;
    struct wire_arena arena;
    struct buf *body, *payload;
    union {
        struct write_res write;
        struct read_res read;
        struct manifest_res manifest;
        struct size_query_res size;
        struct chunk_seek_res seek;
        struct status_res status;
    } u;
};
void answer_free(struct answer *a);
void world_ask(struct world *w, int node, uint16_t type, const void *body, struct buf *payload, struct answer *ret);

/* For log_set_sink(): lines are printed if TC_VERBOSE is set. */
void world_quiet(void *arg, const char *line);

/* Content is a function of the version. */
void block_fill(uint8_t *to, uint64_t ino, uint32_t block, uint64_t epoch, uint64_t seq);
/* One item; returns the item's status (or the request's). */
int world_write(struct world *w, int node, uint64_t ino, uint32_t index, uint32_t first, uint32_t count, uint64_t epoch,
                uint64_t seq, uint32_t flags);
/* Checks that the blocks are there at this version, whole. */
void world_expect(struct world *w, int node, uint64_t ino, uint32_t index, uint32_t first, uint32_t count, uint64_t epoch,
                  uint64_t seq);
