/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Invariants of PROTOCOL section 10 that are watched from outside while the cluster runs: 10.2 (one content per
 * version, in every message), 10.12 and 10.15 (equal states at equal index, one leader lease at any time), and, once
 * it is quiet, 10.7 (the newest version of every block is on W voters).
 */
#pragma once

#include "sim/cluster.h"

struct checks;
struct checks *checks_new(struct cluster *c);
void checks_free(struct checks *k);
/* Note an inode whose replicas are to be compared at the end, chunks [0, @chunks). */
void checks_add_file(struct checks *k, uint64_t ino, uint32_t chunks);
/* At the end, all alive and idle. False: failed. */
bool checks_replicas(struct checks *k);
