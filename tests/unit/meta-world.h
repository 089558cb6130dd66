/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three metadata servers on a simulated network, and clients that are scripts: for tests of what a client can see. One
 * world at a time, from setup() to teardown().
 */
#pragma once

#include <check.h>
#include <sys/stat.h>

#include "common/schema.h"
#include "meta/fsm.h"
#include "meta/server.h"
#include "sim/sim.h"

enum { MEMBERS = 3, CLIENTS = 2, RECALLS_MAX = 16 };

struct member {
    struct sim_node *node;
    struct meta_server *server;
    char endpoint[32];
};

struct client {
    struct sim_node *node;
    struct env *env;
    struct net_port *ports[MEMBERS];
    uint64_t next_id, session, seq;
    uint32_t incarnation;
    uint64_t gen_term, gen_n;
    bool silent; /* sends no keepalives */
    struct env_timer timer;
    /* the answer waited for */
    uint64_t waits_for;
    bool answered;
    int status;
    struct buf *frame;
    struct wire_arena arena;
    struct slice body;
    /* recalls got, newest last; each number once */
    struct recall_item recalls[RECALLS_MAX];
    unsigned n_recalls;
};

extern struct sim *s;
extern struct member members[MEMBERS];
extern struct client clients[CLIENTS];
extern int only; /* requests go to this member alone; -1: to all */

#define A (&clients[0])
#define B (&clients[1])

void member_start(unsigned i);
void member_kill(unsigned i);
int leader(void);
bool has_leader(void *arg);
uint64_t in_ms(uint64_t ms);
/* Send to all members (a redirect is not an answer); the id of the request. Mutations get a seq. */
uint64_t post(struct client *c, uint16_t type, const struct wire_schema *schema, void *req);
void expect(struct client *c, uint64_t id);
/* The answer to what expect() was told of, within @ms. @res may be NULL. */
int await_answer(struct client *c, const struct wire_schema *schema, void *res, uint64_t ms);
int ask_for(struct client *c, uint16_t type, const struct wire_schema *schema, void *req,
            const struct wire_schema *res_schema, void *res, uint64_t ms);
/* Enter the generation that the leader is in, holding @items. */
int list(struct client *c, struct lease_item *items, uint32_t n);
void setup(void);
void teardown(void);
struct entry_res make(struct client *c, const char *name, uint32_t want);
int commit(struct client *c, const struct grant *g, uint64_t size, uint32_t action, uint64_t recall,
           struct commit_result *ret);
int ack(struct client *c, const struct recall_item *r, uint32_t keep);
struct recall_item next_recall(struct client *c);

#define ASK(c, TYPE, req_t, req, res_t, res) ask_for(c, TYPE, &req_t##_schema, &(req), &res_t##_schema, res, 3000)
