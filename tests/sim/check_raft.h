/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raft's promises, as far as messages show them (PROTOCOL 10.12): one leader in a term; one vote of a member in a
 * term, through restarts; entries with the same index and term are the same, and so is what is before them; what was
 * once committed stands in the log of every later leader.
 */
#pragma once

#include "sim/cluster.h"

struct check_raft;

struct check_raft *check_raft_new(struct cluster *c);
void check_raft_free(struct check_raft *k); /* accepts NULL */
/* A MSG_RAFT frame as it is sent. A promise that is not kept fails the cluster. */
void check_raft(struct check_raft *k, struct slice body, const struct buf *payload);
