/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv_tree.h"

#include <xxhash.h>

/* Key and value, shared by the copies of a node. */
struct entry {
    atomic_uint refs;
    uint32_t key_len, value_len;
    uint8_t data[]; /* key, then value */
};

struct kv_node {
    atomic_uint refs;
    uint64_t priority;
    uint64_t bytes, count; /* of the whole subtree */
    struct entry *entry;
    struct kv_node *left, *right;
};

static struct entry *entry_new(struct slice key, struct slice value)
{
    struct entry *e = tc_malloc(sizeof *e + key.len + value.len);

    ASSERT(key.len <= UINT32_MAX && value.len <= UINT32_MAX);
    atomic_init(&e->refs, 1);
    e->key_len = (uint32_t)key.len;
    e->value_len = (uint32_t)value.len;
    memcpy(e->data, key.data, key.len);
    if (value.len)
        memcpy(e->data + key.len, value.data, value.len);
    return e;
}

static void entry_unref(struct entry *e)
{
    if (atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) == 1)
        free(e);
}

static struct slice node_key(const struct kv_node *n)
{
    return slice_of(n->entry->data, n->entry->key_len);
}

static struct slice node_value(const struct kv_node *n)
{
    return slice_of(n->entry->data + n->entry->key_len, n->entry->value_len);
}

struct kv_node *kv_tree_ref(struct kv_node *n)
{
    if (n)
        atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
    return n;
}

void kv_tree_unref(struct kv_node *n)
{
    if (!n || atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) > 1)
        return;
    kv_tree_unref(n->left);
    kv_tree_unref(n->right);
    entry_unref(n->entry);
    free(n);
}

uint64_t kv_tree_bytes(const struct kv_node *n)
{
    return n ? n->bytes : 0;
}

uint64_t kv_tree_count(const struct kv_node *n)
{
    return n ? n->count : 0;
}

/* Sums of a node whose children or entry changed. */
static struct kv_node *fix(struct kv_node *n)
{
    n->bytes = sizeof *n + sizeof *n->entry + n->entry->key_len + n->entry->value_len +
               kv_tree_bytes(n->left) + kv_tree_bytes(n->right);
    n->count = 1 + kv_tree_count(n->left) + kv_tree_count(n->right);
    return n;
}

/* A node that may be changed in place, instead of @n, which the caller gives up. Only right for a node
 * whose ancestors are all unshared: so the way down calls it from the root on. */
static struct kv_node *own(struct kv_node *n)
{
    struct kv_node *copy;

    if (atomic_load_explicit(&n->refs, memory_order_acquire) == 1)
        return n;
    copy = tc_malloc(sizeof *copy);
    *copy = (struct kv_node){.priority = n->priority, .bytes = n->bytes, .count = n->count,
                             .entry = n->entry, .left = kv_tree_ref(n->left),
                             .right = kv_tree_ref(n->right)};
    atomic_init(&copy->refs, 1);
    atomic_fetch_add_explicit(&n->entry->refs, 1, memory_order_relaxed);
    kv_tree_unref(n);
    return copy;
}

/* Keys below @key into *@ret_l, the others into *@ret_r. */
static void split(struct kv_node *n, struct slice key, struct kv_node **ret_l, struct kv_node **ret_r)
{
    if (!n) {
        *ret_l = *ret_r = NULL;
        return;
    }
    n = own(n);
    if (slice_cmp(node_key(n), key) < 0) {
        split(n->right, key, &n->right, ret_r);
        *ret_l = fix(n);
    } else {
        split(n->left, key, ret_l, &n->left);
        *ret_r = fix(n);
    }
}

/* All keys of @l are below those of @r. */
static struct kv_node *merge(struct kv_node *l, struct kv_node *r)
{
    if (!l || !r)
        return l ? l : r;
    if (l->priority >= r->priority) {
        l = own(l);
        l->right = merge(l->right, r);
        return fix(l);
    }
    r = own(r);
    r->left = merge(l, r->left);
    return fix(r);
}

bool kv_tree_get(const struct kv_node *n, struct slice key, struct slice *ret_value)
{
    while (n) {
        int c = slice_cmp(key, node_key(n));

        if (c == 0) {
            *ret_value = node_value(n);
            return true;
        }
        n = c < 0 ? n->left : n->right;
    }
    return false;
}

static struct kv_node *insert(struct kv_node *n, struct kv_node *add)
{
    if (!n)
        return add;
    if (add->priority > n->priority) {
        split(n, node_key(add), &add->left, &add->right);
        return fix(add);
    }
    n = own(n);
    if (slice_cmp(node_key(add), node_key(n)) < 0)
        n->left = insert(n->left, add);
    else
        n->right = insert(n->right, add);
    return fix(n);
}

static struct kv_node *replace(struct kv_node *n, struct slice key, struct entry *e)
{
    int c;

    n = own(n);
    c = slice_cmp(key, node_key(n));
    if (c == 0) {
        entry_unref(n->entry);
        n->entry = e;
    } else if (c < 0) {
        n->left = replace(n->left, key, e);
    } else {
        n->right = replace(n->right, key, e);
    }
    return fix(n);
}

struct kv_node *kv_tree_put(struct kv_node *n, struct slice key, struct slice value)
{
    struct kv_node *add;
    struct slice old;

    if (kv_tree_get(n, key, &old))
        return replace(n, key, entry_new(key, value));
    add = tc_calloc(1, sizeof *add);
    atomic_init(&add->refs, 1);
    add->priority = XXH3_64bits(key.data, key.len);
    add->entry = entry_new(key, value);
    return insert(n, fix(add));
}

static struct kv_node *erase(struct kv_node *n, struct slice key)
{
    int c;

    n = own(n);
    c = slice_cmp(key, node_key(n));
    if (c == 0) {
        struct kv_node *rest = merge(TAKE(n->left), TAKE(n->right));

        kv_tree_unref(n);
        return rest;
    }
    if (c < 0)
        n->left = erase(n->left, key);
    else
        n->right = erase(n->right, key);
    return fix(n);
}

struct kv_node *kv_tree_del(struct kv_node *n, struct slice key)
{
    struct slice old;

    return kv_tree_get(n, key, &old) ? erase(n, key) : n;
}

struct kv_node *kv_tree_del_range(struct kv_node *n, struct slice from, struct slice to)
{
    struct kv_node *below, *middle, *above;

    split(n, from, &below, &middle);
    split(middle, to, &middle, &above);
    kv_tree_unref(middle);
    return merge(below, above);
}

static void push(struct kv_tree_pos *p, const struct kv_node *n)
{
    ASSERT(p->depth < KV_TREE_DEPTH_MAX);
    p->stack[p->depth++] = n;
}

void kv_tree_seek(struct kv_tree_pos *p, const struct kv_node *root, struct slice key)
{
    p->depth = 0;
    while (root) {
        if (!key.data || slice_cmp(node_key(root), key) >= 0) {
            push(p, root);
            root = root->left;
        } else {
            root = root->right;
        }
    }
}

void kv_tree_next(struct kv_tree_pos *p)
{
    const struct kv_node *n;

    ASSERT(p->depth > 0);
    n = p->stack[--p->depth]->right;
    for (; n; n = n->left)
        push(p, n);
}

struct slice kv_tree_key(const struct kv_tree_pos *p)
{
    return node_key(p->stack[p->depth - 1]);
}

struct slice kv_tree_value(const struct kv_tree_pos *p)
{
    return node_value(p->stack[p->depth - 1]);
}
