/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key-value store in memory (kv.h), for simulation and tests.
 *
 * kv_flush() writes the whole map into one file beside the old one and renames it: whatever happens in
 * between, the directory has the old or the new. The tree is persistent (kv_tree.h), so a flush on a
 * disk thread writes the map as of its start while the loop goes on changing it.
 *
 * The file, little-endian: magic "TCKVMEM" and version '1', count u64; per entry key length u32, value
 * length u32, key, value, in ascending key order; XXH3-64 of all before it.
 */
#include <endian.h>
#include <pthread.h>

#include <xxhash.h>

#include "common/kv_impl.h"
#include "common/kv_mem.h"
#include "common/kv_tree.h"
#include "common/le.h"
#include "common/log.h"

enum { FILE_HEADER = 16, ENTRY_HEADER = 8, FILE_SUM = 8, WRITE_PIECE = 256 << 10 };
static const char file_magic[8] = {'T', 'C', 'K', 'V', 'M', 'E', 'M', '1'};

struct kv_mem {
    struct kv kv;
    struct vfs *vfs;
    char *path;
    pthread_mutex_t lock; /* of root, against a flush that begins on another thread */
    struct kv_node *root;
    atomic_ullong disk_bytes;
};

enum op_kind { OP_PUT, OP_DEL, OP_DEL_RANGE };

struct op_head {
    uint32_t kind, key_len, value_len; /* DEL_RANGE: from and to */
};

struct mem_batch {
    struct kv_batch batch;
    uint8_t *ops; /* op_head, key, value; again and again */
    size_t len, cap;
};

struct mem_iter {
    struct kv_iter iter;
    struct kv_node *root;
    struct kv_tree_pos pos;
    struct slice from, to; /* copies; data NULL: no bound */
};

struct kv_snapshot {
    struct kv_node *root;
};

static struct kv_mem *mem_of(struct kv *kv)
{
    return container_of(kv, struct kv_mem, kv);
}

static struct mem_batch *batch_of(struct kv_batch *b)
{
    return container_of(b, struct mem_batch, batch);
}

static struct mem_iter *iter_of(struct kv_iter *it)
{
    return container_of(it, struct mem_iter, iter);
}

static struct kv_node *mem_root(struct kv_mem *m)
{
    struct kv_node *root;

    pthread_mutex_lock(&m->lock);
    root = kv_tree_ref(m->root);
    pthread_mutex_unlock(&m->lock);
    return root;
}

static void mem_close(struct kv *kv)
{
    struct kv_mem *m = mem_of(kv);

    kv_tree_unref(m->root);
    pthread_mutex_destroy(&m->lock);
    free(m->path);
    free(m);
}

static int mem_get(struct kv *kv, struct slice key, struct kv_value *ret_value)
{
    struct slice v;
    uint8_t *copy;

    if (!kv_tree_get(mem_of(kv)->root, key, &v))
        return -TC_E_NOENT;
    copy = tc_malloc(v.len);
    memcpy(copy, v.data, v.len);
    *ret_value = (struct kv_value){copy, v.len, copy};
    return 0;
}

/* ---- batches --------------------------------------------------------------------------------- */

static struct kv_batch *mem_batch_new(struct kv *kv TC_UNUSED)
{
    struct mem_batch *b = tc_calloc(1, sizeof *b);

    return &b->batch;
}

static void mem_batch_free(struct kv_batch *b)
{
    free(batch_of(b)->ops);
    free(batch_of(b));
}

static void mem_batch_clear(struct kv_batch *b)
{
    batch_of(b)->len = 0;
}

static void append(struct mem_batch *b, const void *data, size_t len)
{
    if (b->cap - b->len < len) {
        b->cap = MAX(b->cap * 2, b->len + len + 256);
        b->ops = tc_realloc(b->ops, b->cap);
    }
    if (len)
        memcpy(b->ops + b->len, data, len);
    b->len += len;
}

static void append_op(struct kv_batch *batch, enum op_kind kind, struct slice key, struct slice value)
{
    struct op_head h = {kind, (uint32_t)key.len, (uint32_t)value.len};
    struct mem_batch *b = batch_of(batch);

    ASSERT(key.len <= UINT32_MAX && value.len <= UINT32_MAX);
    append(b, &h, sizeof h);
    append(b, key.data, key.len);
    append(b, value.data, value.len);
}

static void mem_batch_put(struct kv_batch *b, struct slice key, struct slice value)
{
    append_op(b, OP_PUT, key, value);
}

static void mem_batch_del(struct kv_batch *b, struct slice key)
{
    append_op(b, OP_DEL, key, slice_of(NULL, 0));
}

static void mem_batch_del_range(struct kv_batch *b, struct slice from, struct slice to)
{
    append_op(b, OP_DEL_RANGE, from, to);
}

static int mem_write(struct kv *kv, struct kv_batch *batch)
{
    struct kv_mem *m = mem_of(kv);
    struct mem_batch *b = batch_of(batch);

    pthread_mutex_lock(&m->lock);
    for (size_t off = 0; off < b->len;) {
        struct op_head h;
        struct slice key, value;

        memcpy(&h, b->ops + off, sizeof h);
        off += sizeof h;
        key = slice_of(b->ops + off, h.key_len);
        value = slice_of(b->ops + off + h.key_len, h.value_len);
        off += (size_t)h.key_len + h.value_len;
        if (h.kind == OP_PUT)
            m->root = kv_tree_put(m->root, key, value);
        else if (h.kind == OP_DEL)
            m->root = kv_tree_del(m->root, key);
        else
            m->root = kv_tree_del_range(m->root, key, value);
    }
    pthread_mutex_unlock(&m->lock);
    return 0;
}

/* ---- iterators and snapshots ----------------------------------------------------------------- */

static struct slice slice_dup(struct slice s)
{
    uint8_t *p;

    if (!s.data)
        return s;
    p = tc_malloc(s.len);
    memcpy(p, s.data, s.len);
    return slice_of(p, s.len);
}

static struct kv_iter *mem_iter_new(struct kv *kv, struct kv_snapshot *snap, struct slice from,
                                    struct slice to)
{
    struct mem_iter *it = tc_malloc(sizeof *it);

    it->root = snap ? kv_tree_ref(snap->root) : mem_root(mem_of(kv));
    it->from = slice_dup(from);
    it->to = slice_dup(to);
    kv_tree_seek(&it->pos, it->root, it->from);
    return &it->iter;
}

static void mem_iter_free(struct kv_iter *iter)
{
    struct mem_iter *it = iter_of(iter);

    kv_tree_unref(it->root);
    free((void *)(uintptr_t)it->from.data);
    free((void *)(uintptr_t)it->to.data);
    free(it);
}

static bool mem_iter_valid(struct kv_iter *iter)
{
    struct mem_iter *it = iter_of(iter);

    if (it->pos.depth == 0)
        return false;
    return !it->to.data || slice_cmp(kv_tree_key(&it->pos), it->to) < 0;
}

static void mem_iter_next(struct kv_iter *it)
{
    kv_tree_next(&iter_of(it)->pos);
}

static void mem_iter_seek(struct kv_iter *iter, struct slice key)
{
    struct mem_iter *it = iter_of(iter);

    if (it->from.data && slice_cmp(key, it->from) < 0)
        key = it->from;
    kv_tree_seek(&it->pos, it->root, key);
}

static struct slice mem_iter_key(struct kv_iter *it)
{
    return kv_tree_key(&iter_of(it)->pos);
}

static struct slice mem_iter_value(struct kv_iter *it)
{
    return kv_tree_value(&iter_of(it)->pos);
}

static int mem_iter_error(struct kv_iter *it TC_UNUSED)
{
    return 0;
}

static struct kv_snapshot *mem_snapshot_new(struct kv *kv)
{
    struct kv_snapshot *s = tc_malloc(sizeof *s);

    s->root = mem_root(mem_of(kv));
    return s;
}

static void mem_snapshot_free(struct kv *kv TC_UNUSED, struct kv_snapshot *s)
{
    kv_tree_unref(s->root);
    free(s);
}

/* ---- flush ----------------------------------------------------------------------------------- */

/* Writes a file in large pieces and sums it up. */
struct writer {
    struct vfs_file *file;
    uint64_t off;
    size_t len;
    XXH3_state_t *sum;
    uint8_t *piece;
};

static int writer_flush(struct writer *w)
{
    int r = vfs_pwrite(w->file, w->piece, w->len, w->off);

    w->off += w->len;
    w->len = 0;
    return r;
}

static int writer_add(struct writer *w, const void *data, size_t len)
{
    const uint8_t *p = data;

    XXH3_64bits_update(w->sum, data, len);
    while (len > 0) {
        size_t n = MIN(len, WRITE_PIECE - w->len);
        int r;

        memcpy(w->piece + w->len, p, n);
        w->len += n;
        p += n;
        len -= n;
        if (w->len < WRITE_PIECE)
            continue;
        r = writer_flush(w);
        if (r < 0)
            return r;
    }
    return 0;
}

static int write_tree(struct writer *w, const struct kv_node *root)
{
    uint64_t word = htole64(kv_tree_count(root));
    struct kv_tree_pos pos;
    int r;

    r = writer_add(w, file_magic, sizeof file_magic);
    if (r == 0)
        r = writer_add(w, &word, sizeof word);
    kv_tree_seek(&pos, root, slice_of(NULL, 0));
    while (r == 0 && pos.depth > 0) {
        struct slice key = kv_tree_key(&pos), value = kv_tree_value(&pos);
        uint32_t head[2] = {htole32((uint32_t)key.len), htole32((uint32_t)value.len)};

        r = writer_add(w, head, sizeof head);
        if (r == 0)
            r = writer_add(w, key.data, key.len);
        if (r == 0)
            r = writer_add(w, value.data, value.len);
        kv_tree_next(&pos);
    }
    if (r < 0)
        return r;
    word = htole64(XXH3_64bits_digest(w->sum));
    r = writer_add(w, &word, sizeof word);
    return r < 0 ? r : writer_flush(w);
}

static int write_file(struct vfs *vfs, const char *path, const struct kv_node *root,
                      uint64_t *ret_size)
{
    struct writer w = {0};
    int r;

    r = vfs_open(vfs, path, VFS_RDWR | VFS_CREATE | VFS_TRUNC, &w.file);
    if (r < 0)
        return r;
    w.piece = tc_malloc(WRITE_PIECE);
    w.sum = XXH3_createState();
    ASSERT(w.sum);
    XXH3_64bits_reset(w.sum);
    r = write_tree(&w, root);
    if (r == 0)
        r = vfs_sync(w.file);
    vfs_close(w.file);
    XXH3_freeState(w.sum);
    free(w.piece);
    *ret_size = w.off;
    return r;
}

static int mem_flush(struct kv *kv)
{
    struct kv_mem *m = mem_of(kv);
    struct kv_node *root = mem_root(m);
    char *name = tc_asprintf("%s/kv", m->path), *tmp = tc_asprintf("%s/kv.tmp", m->path);
    uint64_t size = 0;
    int r;

    r = write_file(m->vfs, tmp, root, &size);
    if (r == 0)
        r = vfs_rename(m->vfs, tmp, name);
    else if (vfs_unlink(m->vfs, tmp) < 0) /* to give the space back */
        LOG_WARN("kv", "left-over file stays, harmless", "path=%s", tmp);
    if (r == 0)
        r = vfs_sync_dir(m->vfs, m->path);
    if (r == 0)
        atomic_store(&m->disk_bytes, size);
    kv_tree_unref(root);
    free(name);
    free(tmp);
    return r;
}

static void mem_stats(struct kv *kv, struct kv_stats *ret)
{
    ret->disk = atomic_load(&mem_of(kv)->disk_bytes);
    ret->memory = kv_tree_bytes(mem_of(kv)->root);
    ret->unflushed = ret->memory > ret->disk ? ret->memory - ret->disk : 0;
}

static const struct kv_ops mem_ops = {
    .close = mem_close,
    .get = mem_get,
    .batch_new = mem_batch_new,
    .batch_free = mem_batch_free,
    .batch_clear = mem_batch_clear,
    .batch_put = mem_batch_put,
    .batch_del = mem_batch_del,
    .batch_del_range = mem_batch_del_range,
    .write = mem_write,
    .iter_new = mem_iter_new,
    .iter_free = mem_iter_free,
    .iter_valid = mem_iter_valid,
    .iter_next = mem_iter_next,
    .iter_seek = mem_iter_seek,
    .iter_key = mem_iter_key,
    .iter_value = mem_iter_value,
    .iter_error = mem_iter_error,
    .snapshot_new = mem_snapshot_new,
    .snapshot_free = mem_snapshot_free,
    .flush = mem_flush,
    .stats = mem_stats,
};

/* ---- open ------------------------------------------------------------------------------------ */

static int parse_entries(const uint8_t *p, const uint8_t *end, uint64_t count, struct kv_node **root)
{
    struct slice last = slice_of(NULL, 0);

    for (; count > 0; count--) {
        struct slice key, value;

        if (end - p < ENTRY_HEADER)
            return -TC_E_DAMAGED;
        key = slice_of(p + ENTRY_HEADER, get32(p));
        value = slice_of((const uint8_t *)key.data + key.len, get32(p + 4));
        p += ENTRY_HEADER;
        if (key.len == 0 || key.len + value.len > (size_t)(end - p))
            return -TC_E_DAMAGED;
        if (last.data && slice_cmp(last, key) >= 0)
            return -TC_E_DAMAGED;
        p += key.len + value.len;
        last = key;
        *root = kv_tree_put(*root, key, value);
    }
    return p == end ? 0 : -TC_E_DAMAGED;
}

int kv_mem_parse(struct slice file, struct kv_node **ret_root)
{
    const uint8_t *p = file.data;
    struct kv_node *root = NULL;
    int r;

    if (file.len < FILE_HEADER + FILE_SUM || memcmp(p, file_magic, sizeof file_magic - 1) != 0)
        return -TC_E_DAMAGED;
    if (XXH3_64bits(p, file.len - FILE_SUM) != get64(p + file.len - FILE_SUM))
        return -TC_E_DAMAGED; /* before the version, which a flipped bit may have made: the sum is at the end in all of them */
    if (p[7] != (uint8_t)file_magic[7])
        return -TC_E_VERSION;
    r = parse_entries(p + FILE_HEADER, p + file.len - FILE_SUM, get64(p + 8), &root);
    if (r < 0) {
        kv_tree_unref(root);
        return r;
    }
    *ret_root = root;
    return 0;
}

static int load(struct kv_mem *m)
{
    char *name = tc_asprintf("%s/kv", m->path);
    struct vfs_file *file = NULL;
    uint8_t *data = NULL;
    uint64_t size = 0;
    int64_t n;
    int r;

    r = vfs_open(m->vfs, name, VFS_RDONLY, &file);
    free(name);
    if (r < 0)
        return r == -TC_E_NOENT ? 0 : r; /* new, or never flushed */
    r = vfs_size(file, &size);
    if (r == 0) {
        data = tc_malloc(size);
        n = vfs_pread(file, data, size, 0);
        r = n < 0 ? (int)n : 0;
        if (r == 0)
            r = (uint64_t)n == size ? kv_mem_parse(slice_of(data, size), &m->root) : -TC_E_DAMAGED;
    }
    vfs_close(file);
    free(data);
    atomic_store(&m->disk_bytes, size);
    return r;
}

int kv_open_mem(struct vfs *vfs, const char *path, struct kv **ret_kv)
{
    struct kv_mem *m;
    int r = vfs_make_dir(vfs, path);

    if (r < 0)
        return r;
    m = tc_calloc(1, sizeof *m);
    m->kv.ops = &mem_ops;
    m->vfs = vfs;
    m->path = tc_strdup(path);
    pthread_mutex_init(&m->lock, NULL);
    r = load(m);
    if (r < 0) {
        mem_close(&m->kv);
        return r;
    }
    *ret_kv = &m->kv;
    return 0;
}

int kv_destroy_mem(struct vfs *vfs, const char *path)
{
    static const char *const names[] = {"kv", "kv.tmp"};
    int r = 0;

    for (size_t i = 0; i < ARRAY_SIZE(names) && r == 0; i++) {
        char *name = tc_asprintf("%s/%s", path, names[i]);

        r = vfs_unlink(vfs, name);
        if (r == -TC_E_NOENT)
            r = 0;
        free(name);
    }
    if (r == 0)
        r = vfs_sync_dir(vfs, path);
    return r == -TC_E_NOENT ? 0 : r;
}
