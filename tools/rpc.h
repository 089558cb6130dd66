/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of the command-line tools: the same one to several servers at once, with one deadline, in a
 * blocking call that runs the env's loop meanwhile.
 */
#pragma once

#include "common/env.h"
#include "common/schema.h"

struct rpc_answer {
    int status;            /* 0, the server's error, or UNREACHABLE or DEADLINE */
    struct buf *frame;     /* the reply's; NULL if none came */
    struct buf *payload;   /* NULL: none */
    struct slice body;     /* in it */
    struct wire_header h;
};

struct rpc_request {
    uint16_t type; /* enum msg_type */
    uint64_t cluster; /* tag; 0: none */
    const void *body; /* struct of the type's request schema */
    uint64_t timeout_ms;
    const uint64_t *stores; /* which store is meant at each endpoint; 0: whoever listens. NULL: of all */
    bool (*enough)(struct rpc_answer *a); /* after this good answer no other is waited for: DEADLINE. NULL: all are */
};

/* Send @req to each of @n @endpoints and wait for all answers or the timeout. Fills @answers[n]; the
 * caller ends with rpc_answers_fini(). UNREACHABLE: no connection until the deadline. */
void rpc_ask(struct env *env, const char *const *endpoints, unsigned n, const struct rpc_request *req,
             struct rpc_answer *answers);
void rpc_answers_fini(struct rpc_answer *answers, unsigned n);
