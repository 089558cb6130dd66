/* SPDX-License-Identifier: Apache-2.0 */
/* What sim_env.c and sim_net.c share. */
#pragma once

#include "sim/sim.h"

enum sim_kind { SIM_TIMER, SIM_TASKS, SIM_JOB_RUN, SIM_JOB_DONE, SIM_MSG, SIM_CALL };

struct sim_env {
    struct env env;
    struct sim_node *node;
    bool dead;
    struct env_task *running; /* what is left of this turn's tasks */
    struct env_task *tasks, **tasks_tail;
    bool tasks_scheduled;
    struct sim_port *ports; /* of this life, open or closed */
    struct sim_env *next;   /* all lives of the simulation */
};

struct sim_event {
    uint64_t at, seq;
    size_t pos; /* in the heap, 1-based; 0: not there */
    enum sim_kind kind;
    struct sim_env *env; /* NULL: the harness */
    union {
        struct env_timer *timer;
        struct env_job *job;
        struct {
            void (*fn)(void *arg);
            void *arg;
        } call;
        struct {
            uint64_t to_port;   /* its id */
            uint64_t from_port; /* the sender's id */
            uint64_t via;       /* connection, for messages from a listener */
            uint32_t from_node;
            struct buf *head, *payload;
            char *endpoint; /* to a listener: resolved on arrival */
        } msg;
    } u;
    struct sim_event *next; /* held while the node is paused */
};

struct sim_node {
    struct sim *sim;
    uint32_t index;
    char *host;
    struct sim_disk *disk;
    struct sim_env *env; /* the present life, or NULL */
    uint32_t lives;
    struct sim_rng rng;
    bool paused;
    struct sim_event *held, **held_tail;
    uint64_t stall_until;
    uint64_t true_base, local_base; /* of the monotonic clock */
    int64_t drift_ppm, wall_offset;
};

/* A connection of a connected port to a listening one; lives until either end dies or it is reset. */
struct sim_conn {
    uint64_t id; /* what the listener calls its peer */
    uint64_t client, server; /* port ids */
    bool open;
};

struct sim_port {
    struct net_port base;
    uint64_t id;
    struct sim_env *env;
    bool listening, closed;
    char *endpoint;
    net_on_msg_fn *fn;
    void *arg;
    uint64_t conn; /* of a connected port: id, or 0 */
    struct sim_port *next;
};

struct sim {
    uint64_t seed, now, seq, trace, events;
    struct sim_rng rng, net_rng;
    struct sim_event **heap;
    size_t n_heap, heap_cap;
    struct sim_node *nodes[SIM_NODES_MAX];
    uint32_t n_nodes;
    struct sim_env *envs;
    bool verbose;
    /* network */
    struct sim_net_options net;
    void (*tap)(void *arg, struct sim_node *from, struct buf *head, struct buf *payload);
    void *tap_arg;
    void (*arrived)(void *arg, struct sim_node *to, struct buf *head);
    void *arrived_arg;
    sim_net_late_fn *late;
    void *late_arg;
    bool cut[SIM_NODES_MAX][SIM_NODES_MAX];
    uint64_t last_arrival[SIM_NODES_MAX][SIM_NODES_MAX];
    uint64_t lag[SIM_NODES_MAX][SIM_NODES_MAX]; /* of every message of the way */
    uint64_t next_port, next_conn;
    struct sim_conn *conns;
    uint32_t n_conns, conns_cap;
    struct sim_port **ports; /* by id - 1 */
    uint32_t ports_cap;
    struct sim_net_stats stats;
};

struct sim_event *sim_schedule(struct sim *s, enum sim_kind kind, struct sim_env *env, uint64_t at);
void sim_event_free(struct sim_event *ev);
void sim_net_deliver(struct sim *s, struct sim_event *ev);
void sim_net_env_died(struct sim_env *e);
void sim_net_free(struct sim *s);
int sim_listen(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg, struct net_port **ret_port);
int sim_connect(struct env *e, const char *endpoint, net_on_msg_fn *fn, void *arg, struct net_port **ret_port);
int sim_send(struct net_port *p, uint64_t peer, struct buf *head, struct buf *payload);
void sim_port_close(struct net_port *p);
