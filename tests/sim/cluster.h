/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole cluster in one simulation: metadata members, storage nodes and clients, each on a node of its own,
 * made of the very libraries the daemons link. The cluster boots and kills them; actors (actor.h) work on
 * its clients, models check what they see, a nemesis (nemesis.h) breaks things.
 */
#pragma once

#include "client/client.h"
#include "common/env.h"
#include "meta/server.h"
#include "sim/rules.h"
#include "sim/sim.h"
#include "storage/server.h"

enum { METAS_MAX = 5, SPARES_MAX = 2, MEMBERS_MAX = METAS_MAX + SPARES_MAX, STORES_MAX = 7, CLIENTS_MAX = 6, ACTORS_MAX = 64 };

struct cluster_options {
    uint64_t seed;
    unsigned n_meta, n_store, n_client;
    unsigned n_actor;     /* per client */
    unsigned n, w, r, pg_count;
    uint64_t duration_ns; /* of the work under faults */
    uint64_t settle_ns;   /* bound for everything to end and agree afterwards */
    uint64_t ttl_ms;      /* of sessions */
    uint32_t faults;      /* enum fault bits that may be drawn (nemesis.h) */
    uint32_t work;        /* enum work bits (workload.h) */
    uint64_t rules_off[RULE_LAYERS]; /* rules.h */
    bool swarm;           /* sizes, faults and rates are drawn from the seed (swarm.h) */
    bool lockers;         /* and locks are among the work */
    unsigned strike;      /* the nemesis strikes in one of so many of its turns */
    unsigned hurt, change, move, cut; /* so, too: files damaged, members changed, stores moved, clients cut off */
    unsigned keep_entries; /* of a member's log; 0: all that a run makes */
    bool verbose;
    bool messages; /* print them all */
};

struct cluster;

struct member {
    struct cluster *c;
    struct sim_node *node;
    struct meta_server *server;
    uint32_t id;
    char endpoint[64];
    bool down; /* not to be started by the nemesis */
    bool stopping, stopped; /* a planned stop was begun; is done, and the member is to be killed */
    bool in;                /* it is to be a member: of the first ones, or added since */
    bool leaving;           /* it is being removed: it may refuse to start */
    bool fatal;             /* it asked to be closed */
    unsigned boots;
    uint64_t bad;           /* incarnation whose files were damaged so that it must vote no more; or 0 */
};

struct store {
    struct cluster *c;
    struct sim_node *node;
    struct storage_server *server;
    uint32_t id;
    char endpoint[64];
    bool fatal; /* it asked to be closed */
    bool down;  /* not to be started by the nemesis */
};

struct client {
    struct cluster *c;
    struct sim_node *node;
    struct tc_client *tc;
    uint32_t index;
    bool ready;
    int open_status;
    /*
     * A life of the client as its writes see it: ends with a kill, or when an operation fails for good. What was
     * not synced in an ended life may be lost.
     */
    uint32_t life;
    uint64_t disturbed_since; /* true time at which it was cut off or stopped; 0: it is not */
    uint64_t kills;
};

struct life { /* by number */
    uint32_t client;
    uint64_t process; /* the client's kills before: lives of one process share its buffers */
    bool lost;      /* killed, or told an error */
    bool told;      /* began with an error: what was open before may report it once more */
    bool disturbed; /* was stopped or cut off for so long that it may have been expired */
    char why[64];
};

struct actor;

struct cluster {
    struct cluster_options opt;
    struct sim *s;
    struct member members[MEMBERS_MAX]; /* the first opt.n_meta, then spares */
    unsigned n_members;
    struct store stores[STORES_MAX];
    struct client clients[CLIENTS_MAX];
    struct life *lives;
    uint32_t n_lives, lives_cap;
    struct actor *actors[ACTORS_MAX];
    unsigned n_actors;
    struct tool *tool;
    struct sim_node *foreign[METAS_MAX]; /* members of another cluster, ended: their disks; or NULL */
    struct operator *operator; /* operator.c, once it has spoken */
    uint64_t lost_store; /* whose disk was lost: its place is to be taken */
    struct checks *checks; /* checks.h, or NULL */
    void (*watch_log)(const char *line); /* coverage.h, or NULL */
    void (*strike_log)(void *arg, const char *line); /* the nemesis waits for something that is soon over, or NULL */
    void *strike_arg;
    bool stopping;  /* actors end at their next operation */
    bool failed;
    char why[1024];
    uint64_t n_ops, n_errors;
};

struct cluster *cluster_new(const struct cluster_options *opt);
void cluster_free(struct cluster *c);
/* Boot servers, format, boot clients, wait until all are ready. False: failed. */
bool cluster_start(struct cluster *c);

/* A check did not hold: remembers the first, and ends the run. */
void cluster_fail(struct cluster *c, const char *fmt, ...) TC_PRINTF(2, 3);
/* Run to true time @until, or until failed. Nodes whose disk froze are killed as it happens. */
void cluster_run_until(struct cluster *c, uint64_t until);
/* Run until @done, failed, or @until (false). */
bool cluster_run(struct cluster *c, uint64_t until, bool (*done)(struct cluster *c));

void member_boot(struct member *m);
void member_kill(struct member *m);
/* All members are whole, agree who they are, and vote: one of them may be lost for good. */
bool cluster_group_whole(struct cluster *c);
/* Every placement group has all its copies, none moves, all stores are up. */
bool cluster_placed(struct cluster *c);
bool cluster_store_holds(struct cluster *c, uint64_t store); /* a placement group names it */
uint64_t cluster_store_of(struct cluster *c, uint32_t node); /* as the leader has it; 0: none, or not known */
uint32_t cluster_stranger(struct cluster *c); /* a node that the leader has and we do not; 0: none */
void store_boot(struct store *s);
void store_kill(struct store *s);
/* An operator's word about a store (enum store_admin). */
void cluster_say(struct cluster *c, uint32_t store, uint32_t admin);
/* An operator's word about a member (enum meta_change_op). @endpoint: of META_ADD. */
void cluster_say_member(struct cluster *c, uint32_t member, uint32_t op, const char *endpoint);
void operator_free(struct cluster *c);
void client_boot(struct client *cl);
void client_kill(struct client *cl);
/* The present life of @cl ended: its unsynced writes may be lost. */
void client_life_lost(struct client *cl, const char *why);
/* The nemesis cut @cl off or stopped it (on), or gave it back. */
void client_disturb(struct client *cl, bool on);
/* May unsynced writes of @life be gone? */
bool life_may_lose(struct cluster *c, uint32_t life);
/* What one of them wrote the other may see unflushed. */
bool life_same_process(struct cluster *c, uint32_t a, uint32_t b);

struct sim_node *cluster_node(struct cluster *c, unsigned i); /* all servers, clients, spare members; NULL: past the last */
struct member *cluster_leader(struct cluster *c);              /* NULL: none at the moment */
void cluster_log(struct cluster *c, const char *fmt, ...) TC_PRINTF(2, 3);
void cluster_dump_log(void);
