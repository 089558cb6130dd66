/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file format of kv_mem.c, for its fuzz target.
 */
#pragma once

#include "common/buf.h"
#include "common/kv_tree.h"

/* The map in a whole file. Errors: DAMAGED, VERSION. *ret_root: drop with kv_tree_unref(). */
TC_MUST_CHECK int kv_mem_parse(struct slice file, struct kv_node **ret_root);
