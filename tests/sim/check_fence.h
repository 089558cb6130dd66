/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fencing, as messages show it (PROTOCOL 4.6, 10.6): a store whose map names a session among the dead acknowledges
 * none of its writes. What the maps say is learnt from the maps that are sent.
 */
#pragma once

#include "sim/cluster.h"

struct check_fence;
struct wire_header;
struct write_req;

struct check_fence *check_fence_new(struct cluster *c);
void check_fence_free(struct check_fence *k); /* accepts NULL */
void check_fence_write(struct check_fence *k, uint64_t id, const struct write_req *req);
/* Replies to MAP_GET and WRITE; others are none of its business. */
void check_fence_reply(struct check_fence *k, const struct wire_header *h, struct slice body, struct wire_arena *arena);
