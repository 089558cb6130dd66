/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the implementations of kv (kv_mem.c, kv_rocks.c) fill in; kv.c forwards to it. Nobody else
 * includes this. Implementations embed these structs as their first member.
 */
#pragma once

#include "common/kv.h"

struct kv_ops {
    void (*close)(struct kv *kv);
    int (*get)(struct kv *kv, struct slice key, struct kv_value *ret_value); /* impl: by malloc */
    struct kv_batch *(*batch_new)(struct kv *kv);
    void (*batch_free)(struct kv_batch *b);
    void (*batch_clear)(struct kv_batch *b);
    void (*batch_put)(struct kv_batch *b, struct slice key, struct slice value);
    void (*batch_del)(struct kv_batch *b, struct slice key);
    void (*batch_del_once)(struct kv_batch *b, struct slice key); /* NULL: batch_del does it */
    void (*batch_del_range)(struct kv_batch *b, struct slice from, struct slice to);
    int (*write)(struct kv *kv, struct kv_batch *b);
    struct kv_iter *(*iter_new)(struct kv *kv, struct kv_snapshot *snap, struct slice from,
                                struct slice to);
    void (*iter_free)(struct kv_iter *it);
    bool (*iter_valid)(struct kv_iter *it);
    void (*iter_next)(struct kv_iter *it);
    void (*iter_seek)(struct kv_iter *it, struct slice key);
    struct slice (*iter_key)(struct kv_iter *it);
    struct slice (*iter_value)(struct kv_iter *it);
    int (*iter_error)(struct kv_iter *it);
    struct kv_snapshot *(*snapshot_new)(struct kv *kv);
    void (*snapshot_free)(struct kv *kv, struct kv_snapshot *s);
    int (*flush)(struct kv *kv);
    int (*check)(struct kv *kv); /* may be NULL */
    void (*stats)(struct kv *kv, struct kv_stats *ret);
};

struct kv {
    const struct kv_ops *ops;
};

struct kv_batch {
    struct kv *kv;
    size_t n;
};

struct kv_iter {
    struct kv *kv;
};

