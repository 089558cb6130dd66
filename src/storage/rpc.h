/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to other servers: a link is one connected port with the calls under way on it. Every call has a
 * deadline and ends exactly once, on the loop, never from inside rpc_call().
 */
#pragma once

#include <uthash.h>

#include "common/env.h"
#include "common/schema.h"

struct rpc_link;

struct rpc_reply {
    int status; /* of the header, or DEADLINE, UNREACHABLE, BACKPRESSURE, BAD_MESSAGE */
    struct wire_header header;
    struct slice body;   /* borrowed for the call of done() */
    struct buf *payload; /* borrowed; take a reference to keep it */
};

struct rpc_call {
    void (*done)(struct rpc_call *c, const struct rpc_reply *reply); /* the call is the caller's again */
    uint64_t id, deadline;
    struct rpc_link *link;
    struct env_task task; /* failed at once */
    int early;
    UT_hash_handle hh;
};

struct rpc_link {
    struct env *env;
    char *endpoint;
    struct net_port *port;
    uint64_t next_id;
    const uint64_t *cluster; /* header tag, as it is when a call is made */
    struct rpc_call *calls;
    struct env_timer timer;
    uint64_t silent; /* a call's deadline passed then, or another store refused it, and nothing came since; 0: not */
    /* Notices (not replies) go here; may be NULL. */
    void (*notice)(void *arg, const struct wire_header *h, struct slice body);
    void *arg;
};

TC_MUST_CHECK int rpc_link_open(struct env *env, const char *endpoint, const uint64_t *cluster, struct rpc_link **ret_link);
/* Ends every call with SHUTDOWN first. Accepts NULL. */
void rpc_link_close(struct rpc_link *l);
/* Shares @payload (may be NULL). @c is the caller's memory until done(). */
void rpc_call(struct rpc_link *l, struct rpc_call *c, uint16_t type, const struct wire_schema *schema, const void *body,
              struct buf *payload, uint64_t timeout_ns);
/* The others have answered: wait so long at most from now. Nothing if it is not under way. */
void rpc_hurry(struct rpc_call *c, uint64_t timeout_ns);
/* It let a deadline pass a moment ago: who can do without it should. It is due to be tried again soon. */
bool rpc_silent(const struct rpc_link *l);
/* No done() comes. */
void rpc_cancel(struct rpc_call *c);
static inline bool rpc_pending(const struct rpc_call *c)
{
    return c->link != NULL;
}
