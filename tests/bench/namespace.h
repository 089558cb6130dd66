/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of bench-namespace share.
 */
#pragma once

#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "meta/fsm.h"

#define NAMESPACE_PER_DIR 1000u
#define NAMESPACE_FEW 10000u

uint64_t namespace_now(void); /* ns */
void namespace_must(int r, const char *what);

static inline uint64_t namespace_random(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ (x << 17);
}

/* namespace-mount.c: begin before there are threads; the process that asks, which the caller kills. Then print. */
pid_t namespace_mount_begin(uint64_t n);
void namespace_mount_run(struct fsm *fsm, uint64_t session, const uint64_t *dirs);

/* namespace-restart.c: in a process of its own, which dies when the log is long, or before if the store has more than
 * @unflushed_max not written out (0: whatever it has); then in another. */
#define NAMESPACE_FULL (UINT64_C(128) << 20) /* all of a store's write buffers: with so much not written out it takes no more */
void namespace_restart_log(const char *dir, struct kv *kv, struct fsm *fsm, const uint64_t *dirs, uint64_t n_dirs, uint64_t unflushed_max);
void namespace_restart_run(const char *dir, const struct kv_options *opt);
