/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damaged files that were put aside, in directories PREFIX-N of a daemon's directory: how many, how large, and their
 * removal when an operator asks for it. Nothing else ever reads them.
 */
#pragma once

#include "common/env.h"
#include "common/vfs_tree.h"

/* How many PREFIX-N there are; @ret_last: the highest N, 0: none. Blocking. */
TC_MUST_CHECK int aside_count(struct vfs *vfs, const char *dir, const char *prefix, uint32_t *ret_n, uint64_t *ret_last);
/* Move these names of @dir to @to, a directory in it, durably. Blocking. */
TC_MUST_CHECK int aside_fill(struct vfs *vfs, const char *dir, const char *to, const struct vfs_names *names);
/* Remove all up to @last, the oldest first. Blocking. */
TC_MUST_CHECK int aside_remove(struct vfs *vfs, const char *dir, const char *prefix, uint64_t last);

/* What is kept, measured by a job. One per daemon. */
struct aside {
    uint32_t n;
    uint64_t bytes;
    bool busy; /* being measured or removed */
};
struct aside_keeper;
struct aside_keeper *aside_keeper_new(struct env *env, const char *dir, const char *prefix); /* blocking, short */
struct aside_keeper *aside_keeper_free(struct aside_keeper *k);                              /* accepts NULL, returns NULL */
struct aside aside_keeper_now(const struct aside_keeper *k);                                 /* accepts NULL */
void aside_keeper_clean(struct aside_keeper *k); /* remove all of it, in the background */
