/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small thing kept durably in two copies, written in turn, so that a crash while one is written leaves the
 * other: the identity of a store's directory, the cluster map it serves from.
 */
#pragma once

#include "common/buf.h"
#include "common/vfs.h"

struct durable {
    struct vfs *vfs;
    char *dir, *name;  /* files DIR/NAME.0 and DIR/NAME.1 */
    uint64_t count;    /* of the newest copy */
    bool made;         /* the names are durable */
};

void durable_init(struct durable *d, struct vfs *vfs, const char *dir, const char *name);
void durable_fini(struct durable *d);
/* The newest copy that checks. NOENT: none was ever finished. DAMAGED: two copies, and none checks.
 * VERSION: written by a newer program. Blocking. Returns: caller drops with buf_unref(). */
TC_MUST_CHECK int durable_load(struct durable *d, struct buf **ret_buf);
/* Blocking; one at a time. 0: durable. */
TC_MUST_CHECK int durable_save(struct durable *d, struct slice bytes);
