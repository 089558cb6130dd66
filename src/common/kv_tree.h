/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A persistent treap of byte strings: the map behind kv_mem.c.
 *
 * A tree is a reference to its root. Whoever holds one sees that tree for ever: a change copies the
 * nodes on its path that are shared, and changes in place those that are not. So a snapshot costs one
 * reference. Priorities are a hash of the key, so the same content has the same shape, whatever its
 * history: runs of the simulator repeat.
 *
 * Functions that change a tree take the caller's reference and return a new one. References may be
 * dropped on any thread; only one thread changes.
 */
#pragma once

#include "common/buf.h"

struct kv_node;

enum { KV_TREE_DEPTH_MAX = 192 };

struct kv_node *kv_tree_ref(struct kv_node *n);  /* accepts NULL: the empty tree */
void kv_tree_unref(struct kv_node *n);           /* likewise */
uint64_t kv_tree_bytes(const struct kv_node *n); /* keys, values and overhead */
uint64_t kv_tree_count(const struct kv_node *n);

/* False if absent. *ret_value is borrowed from the tree. */
bool kv_tree_get(const struct kv_node *n, struct slice key, struct slice *ret_value);
struct kv_node *kv_tree_put(struct kv_node *n, struct slice key, struct slice value);
struct kv_node *kv_tree_del(struct kv_node *n, struct slice key);
struct kv_node *kv_tree_del_range(struct kv_node *n, struct slice from, struct slice to);

/* A position in one tree, which must be kept alive. */
struct kv_tree_pos {
    const struct kv_node *stack[KV_TREE_DEPTH_MAX]; /* the node, below it those to come after it */
    int depth;                                      /* 0: at the end */
};

/* First key >= @key (data NULL: the first of all). */
void kv_tree_seek(struct kv_tree_pos *p, const struct kv_node *root, struct slice key);
void kv_tree_next(struct kv_tree_pos *p);
struct slice kv_tree_key(const struct kv_tree_pos *p);
struct slice kv_tree_value(const struct kv_tree_pos *p);
