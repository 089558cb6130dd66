/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The door to the key-value stores: checks what every implementation relies on, and forwards.
 */
#include "common/kv_impl.h"

#include <stdio.h>

void kv_close(struct kv *kv)
{
    if (kv)
        kv->ops->close(kv);
}

int kv_get(struct kv *kv, struct slice key, struct kv_value *ret_value)
{
    return kv->ops->get(kv, key, ret_value);
}

void kv_value_free(struct kv_value *v)
{
    free(v->impl);
    *v = (struct kv_value){0};
}

struct kv_batch *kv_batch_new(struct kv *kv)
{
    struct kv_batch *b = kv->ops->batch_new(kv);

    b->kv = kv;
    b->n = 0;
    return b;
}

void kv_batch_free(struct kv_batch *b)
{
    if (b)
        b->kv->ops->batch_free(b);
}

void kv_batch_clear(struct kv_batch *b)
{
    b->n = 0;
    b->kv->ops->batch_clear(b);
}

void kv_batch_put(struct kv_batch *b, struct slice key, struct slice value)
{
    ASSERT(key.len > 0);
    b->n++;
    b->kv->ops->batch_put(b, key, value);
}

void kv_batch_del(struct kv_batch *b, struct slice key)
{
    ASSERT(key.len > 0);
    b->n++;
    b->kv->ops->batch_del(b, key);
}

void kv_batch_del_once(struct kv_batch *b, struct slice key)
{
    ASSERT(key.len > 0);
    b->n++;
    (b->kv->ops->batch_del_once ? b->kv->ops->batch_del_once : b->kv->ops->batch_del)(b, key);
}

void kv_batch_del_range(struct kv_batch *b, struct slice from, struct slice to)
{
    if (slice_cmp(from, to) >= 0)
        return;
    b->n++;
    b->kv->ops->batch_del_range(b, from, to);
}

size_t kv_batch_count(const struct kv_batch *b)
{
    return b->n;
}

int kv_write(struct kv *kv, struct kv_batch *b)
{
    int r;

    ASSERT(b->kv == kv);
    if (b->n == 0)
        return 0;
    r = kv->ops->write(kv, b);
    kv_batch_clear(b);
    return r;
}

struct kv_iter *kv_iter_new(struct kv *kv, struct kv_snapshot *snap, struct slice from,
                            struct slice to)
{
    struct kv_iter *it = kv->ops->iter_new(kv, snap, from, to);

    it->kv = kv;
    return it;
}

void kv_iter_free(struct kv_iter *it)
{
    if (it)
        it->kv->ops->iter_free(it);
}

bool kv_iter_valid(struct kv_iter *it)
{
    return it->kv->ops->iter_valid(it);
}

void kv_iter_next(struct kv_iter *it)
{
    ASSERT(kv_iter_valid(it));
    it->kv->ops->iter_next(it);
}

void kv_iter_seek(struct kv_iter *it, struct slice key)
{
    it->kv->ops->iter_seek(it, key);
}

struct slice kv_iter_key(struct kv_iter *it)
{
    ASSERT(kv_iter_valid(it));
    return it->kv->ops->iter_key(it);
}

struct slice kv_iter_value(struct kv_iter *it)
{
    ASSERT(kv_iter_valid(it));
    return it->kv->ops->iter_value(it);
}

int kv_iter_error(struct kv_iter *it)
{
    return it->kv->ops->iter_error(it);
}

struct kv_snapshot *kv_snapshot_new(struct kv *kv)
{
    return kv->ops->snapshot_new(kv);
}

void kv_snapshot_free(struct kv *kv, struct kv_snapshot *s)
{
    if (s)
        kv->ops->snapshot_free(kv, s);
}

int kv_flush(struct kv *kv)
{
    return kv->ops->flush(kv);
}

int kv_check(struct kv *kv)
{
    return kv->ops->check ? kv->ops->check(kv) : 0;
}

void kv_stats(struct kv *kv, struct kv_stats *ret)
{
    kv->ops->stats(kv, ret);
}
