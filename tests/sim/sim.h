/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated world: nodes with an env each, on one clock, one event heap and one seed.
 *
 * A node is a machine: its disk and name stay, what runs on it comes and goes. sim_node_boot() gives a new
 * env for a new life; sim_node_kill() ends it: from then on nothing of that env is delivered, sent or
 * written, so the harness may close what the life had built (its pointers are never touched again). Messages
 * it sent before are still under way.
 *
 * Events of one instant run in the order in which they were scheduled; the same seed gives the same trace,
 * told by sim_trace(). Nothing depends on addresses, on real time or on the number of simulations run before.
 */
#pragma once

#include "common/env.h"
#include "sim/sim_disk.h"
#include "sim/sim_rng.h"

struct sim;
struct sim_node;

enum { SIM_NODES_MAX = 64 };

struct sim_net_options { /* chances in parts per million and message */
    uint64_t latency_ns; /* mean of one way */
    uint64_t loss_ppm, dup_ppm;
    uint64_t reorder_ppm; /* the message is delayed by up to reorder_ns; others of its link overtake it */
    uint64_t reorder_ns;
};

struct sim *sim_new(uint64_t seed);
void sim_free(struct sim *s); /* kills what lives */
struct sim_rng *sim_rng(struct sim *s); /* the harness's own stream */
uint64_t sim_now(const struct sim *s);   /* true time, ns */
uint64_t sim_trace(const struct sim *s); /* hash of all events so far */
uint64_t sim_events(const struct sim *s);
/* Where the trace lines of this simulation go; NULL: nowhere. */
void sim_set_verbose(struct sim *s, bool on);

/* Run one event; false if there is none. */
bool sim_step(struct sim *s);
/* Run all events up to true time @until. */
void sim_run_until(struct sim *s, uint64_t until);
/* Run until @done says so; false if true time reached @until before. */
bool sim_run(struct sim *s, uint64_t until, bool (*done)(void *arg), void *arg);
/* Call @fn(@arg) at true time @at: the harness's own timer. */
void sim_at(struct sim *s, uint64_t at, void (*fn)(void *arg), void *arg);

/* ---- nodes ---------------------------------------------------------------------------------------- */

/* @host: the host of its endpoints ("tcp://@host:port"). A node that has not been booted is silent. */
struct sim_node *sim_node_new(struct sim *s, const char *host);
/* The host is another from now on: no node may have it, and this one must not live. */
void sim_node_set_host(struct sim_node *n, const char *host);
struct env *sim_node_boot(struct sim_node *n); /* must not live */
/* The process ends; the disk keeps what was written, synced or not. Add sim_disk_power_loss() for more. */
void sim_node_kill(struct sim_node *n);
bool sim_node_alive(const struct sim_node *n);
/* Alive, but its disk froze in the middle of something: to be killed. */
bool sim_node_crashed(const struct sim_node *n);
/* Stopped as by SIGSTOP: what would be delivered waits, in order. Its clock goes on. */
void sim_node_pause(struct sim_node *n, bool on);
bool sim_node_paused(const struct sim_node *n);
struct sim_disk *sim_node_disk(struct sim_node *n);
struct env *sim_node_env(struct sim_node *n); /* of its present life, or NULL */
const char *sim_node_host(const struct sim_node *n);
uint32_t sim_node_index(const struct sim_node *n);
struct sim_node *sim_node_of(struct env *e);
/* Called with every job that finished in a simulated disk stall of @ns from now: its jobs start later. */
void sim_node_stall(struct sim_node *n, uint64_t ns);
/* The rate of its monotonic clock, ppm off true time (may be negative); its time stays continuous. */
void sim_node_set_drift(struct sim_node *n, int64_t ppm);
/* Its wall clock, ns off true time. */
void sim_node_set_wall(struct sim_node *n, int64_t offset_ns);

/* ---- network -------------------------------------------------------------------------------------- */

void sim_net_set(struct sim *s, const struct sim_net_options *o);
/* Called with every message as it is sent; borrows all. */
void sim_net_set_tap(struct sim *s, void (*fn)(void *arg, struct sim_node *from, struct buf *head, struct buf *payload),
                     void *arg);
/* Called with every message as it comes, before it is handed over; borrows all. */
void sim_net_set_arrived(struct sim *s, void (*fn)(void *arg, struct sim_node *to, struct buf *head), void *arg);
/*
 * Scripts: asked of every message that is sent, @fn says how much later than it would it comes (others of its way
 * overtake it then); UINT64_MAX: never. NULL: none.
 */
typedef uint64_t sim_net_late_fn(void *arg, struct sim_node *from, struct sim_node *to, struct buf *head);
void sim_net_set_late(struct sim *s, sim_net_late_fn *fn, void *arg);
/* Cut or heal the way from @a to @b (one way). */
void sim_net_cut(struct sim *s, struct sim_node *a, struct sim_node *b, bool cut);
void sim_net_heal(struct sim *s); /* all ways */
/* Every message from @a to @b comes @ns later than it would, from now on. */
void sim_net_lag(struct sim *s, struct sim_node *a, struct sim_node *b, uint64_t ns);
/* Break every connection of @n: peers die, connected ports get new ones with their next message. */
void sim_net_reset(struct sim_node *n);
struct sim_net_stats {
    uint64_t sent, delivered, lost, cut, doubled, unreachable;
} sim_net_stats(const struct sim *s);
