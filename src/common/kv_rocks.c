/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key-value store on RocksDB (kv.h).
 *
 * The write-ahead log is off: the journal in front of the store is the log. One column family, so a
 * memtable flush is a prefix of the batches, never part of one. RocksDB runs two background threads of
 * its own (one flush, one compaction); a kv_write() waits only when all write buffers are full and the
 * disk cannot take them.
 *
 * Memory is bounded: the block cache (which holds index and filter blocks too), and BUFFERS write
 * buffers. The cache has 16 shards: compaction uses it too, and with two the loop was seen to wait up to 121 ms for a
 * shard's mutex whose holder had lost the processor. More would make shards of a small cache too small.
 *
 * Beside RocksDB's own files the directory has FORMAT, one line "tercet kv 1".
 */
#include <stdio.h>
#include <string.h>

#include <rocksdb/c.h>

#include "common/kv_impl.h"
#include "common/log.h"

enum { BUFFERS = 4, CACHE_SHARD_BITS = 4, OPEN_FILES_MAX = 256, ERROR_TEXT_MAX = 200 };
#define CACHE_BYTES (UINT64_C(64) << 20)
#define BUFFER_BYTES (UINT64_C(32) << 20)
#define FORMAT_TEXT "tercet kv "
#define FORMAT_LINE FORMAT_TEXT "1\n"

struct kv_rocks {
    struct kv kv;
    char *path;
    rocksdb_t *db;
    rocksdb_cache_t *cache;
    rocksdb_options_t *options;
    rocksdb_readoptions_t *read;
    rocksdb_writeoptions_t *write;
    rocksdb_flushoptions_t *flush;
};

struct rocks_batch {
    struct kv_batch batch;
    rocksdb_writebatch_t *wb;
};

struct rocks_iter {
    struct kv_iter iter;
    rocksdb_iterator_t *it;
    rocksdb_readoptions_t *read;
    char *from, *to; /* RocksDB borrows the bounds */
};

struct kv_snapshot {
    const rocksdb_snapshot_t *snap;
};

static struct kv_rocks *rocks_of(struct kv *kv)
{
    return container_of(kv, struct kv_rocks, kv);
}

static struct rocks_batch *batch_of(struct kv_batch *b)
{
    return container_of(b, struct rocks_batch, batch);
}

static struct rocks_iter *iter_of(struct kv_iter *it)
{
    return container_of(it, struct rocks_iter, iter);
}

/* RocksDB gives errors as text only; the prefixes are those of its Status. Frees @err. */
static int error_take(const char *what, char *err)
{
    int r = -TC_E_IO;

    if (!err)
        return 0;
    if (strstr(err, "No space left") || strstr(err, "NoSpace"))
        r = -TC_E_NOSPC;
    else if (strstr(err, "/LOCK") || strstr(err, "lock hold by current process"))
        r = -TC_E_LOCKED_DIR;
    else if (strncmp(err, "Corruption", 10) == 0 || strncmp(err, "Invalid argument", 16) == 0)
        r = -TC_E_DAMAGED;
    LOG_WARN("kv", "RocksDB failed", "op=%s error=%s text=\"%.*s\"", what, tc_error_name(r),
             ERROR_TEXT_MAX, err);
    rocksdb_free(err);
    return r;
}

static int rocks_get(struct kv *kv, struct slice key, struct kv_value *ret_value)
{
    struct kv_rocks *k = rocks_of(kv);
    char *err = NULL, *data;
    size_t len;

    data = rocksdb_get(k->db, k->read, key.data, key.len, &len, &err);
    if (err)
        return error_take("get", err);
    if (!data)
        return -TC_E_NOENT;
    *ret_value = (struct kv_value){(const uint8_t *)data, len, data};
    return 0;
}

/* ---- batches --------------------------------------------------------------------------------- */

static struct kv_batch *rocks_batch_new(struct kv *kv TC_UNUSED)
{
    struct rocks_batch *b = tc_calloc(1, sizeof *b);

    b->wb = rocksdb_writebatch_create();
    return &b->batch;
}

static void rocks_batch_free(struct kv_batch *b)
{
    rocksdb_writebatch_destroy(batch_of(b)->wb);
    free(batch_of(b));
}

static void rocks_batch_clear(struct kv_batch *b)
{
    rocksdb_writebatch_clear(batch_of(b)->wb);
}

static void rocks_batch_put(struct kv_batch *b, struct slice key, struct slice value)
{
    rocksdb_writebatch_put(batch_of(b)->wb, key.data, key.len, value.data, value.len);
}

static void rocks_batch_del(struct kv_batch *b, struct slice key)
{
    rocksdb_writebatch_delete(batch_of(b)->wb, key.data, key.len);
}

static void rocks_batch_del_once(struct kv_batch *b, struct slice key)
{
    rocksdb_writebatch_singledelete(batch_of(b)->wb, key.data, key.len);
}

static void rocks_batch_del_range(struct kv_batch *b, struct slice from, struct slice to)
{
    rocksdb_writebatch_delete_range(batch_of(b)->wb, from.data, from.len, to.data, to.len);
}

static int rocks_write(struct kv *kv, struct kv_batch *b)
{
    struct kv_rocks *k = rocks_of(kv);
    char *err = NULL;

    rocksdb_write(k->db, k->write, batch_of(b)->wb, &err);
    return error_take("write", err);
}

/* ---- iterators and snapshots ----------------------------------------------------------------- */

static char *bound_dup(struct slice s)
{
    char *p = tc_malloc(s.len);

    memcpy(p, s.data, s.len);
    return p;
}

static struct kv_iter *rocks_iter_new(struct kv *kv, struct kv_snapshot *snap, struct slice from,
                                      struct slice to)
{
    struct rocks_iter *it = tc_calloc(1, sizeof *it);

    it->read = rocksdb_readoptions_create();
    if (snap) { /* all of the store is read, once: what the cache has stays */
        rocksdb_readoptions_set_snapshot(it->read, snap->snap);
        rocksdb_readoptions_set_fill_cache(it->read, 0);
    }
    if (from.data) {
        it->from = bound_dup(from);
        rocksdb_readoptions_set_iterate_lower_bound(it->read, it->from, from.len);
    }
    if (to.data) {
        it->to = bound_dup(to);
        rocksdb_readoptions_set_iterate_upper_bound(it->read, it->to, to.len);
    }
    it->it = rocksdb_create_iterator(rocks_of(kv)->db, it->read);
    rocksdb_iter_seek_to_first(it->it);
    return &it->iter;
}

static void rocks_iter_free(struct kv_iter *iter)
{
    struct rocks_iter *it = iter_of(iter);

    rocksdb_iter_destroy(it->it);
    rocksdb_readoptions_destroy(it->read);
    free(it->from);
    free(it->to);
    free(it);
}

static bool rocks_iter_valid(struct kv_iter *it)
{
    return rocksdb_iter_valid(iter_of(it)->it);
}

static void rocks_iter_next(struct kv_iter *it)
{
    rocksdb_iter_next(iter_of(it)->it);
}

static void rocks_iter_seek(struct kv_iter *it, struct slice key)
{
    rocksdb_iter_seek(iter_of(it)->it, key.data, key.len);
}

static struct slice rocks_iter_key(struct kv_iter *it)
{
    size_t n;
    const char *p = rocksdb_iter_key(iter_of(it)->it, &n);

    return slice_of(p, n);
}

static struct slice rocks_iter_value(struct kv_iter *it)
{
    size_t n;
    const char *p = rocksdb_iter_value(iter_of(it)->it, &n);

    return slice_of(p, n);
}

static int rocks_iter_error(struct kv_iter *it)
{
    char *err = NULL;

    rocksdb_iter_get_error(iter_of(it)->it, &err);
    return error_take("scan", err);
}

static struct kv_snapshot *rocks_snapshot_new(struct kv *kv)
{
    struct kv_snapshot *s = tc_malloc(sizeof *s);

    s->snap = rocksdb_create_snapshot(rocks_of(kv)->db);
    return s;
}

static void rocks_snapshot_free(struct kv *kv, struct kv_snapshot *s)
{
    rocksdb_release_snapshot(rocks_of(kv)->db, s->snap);
    free(s);
}

/* ---- flush, statistics ----------------------------------------------------------------------- */

static int rocks_flush(struct kv *kv)
{
    struct kv_rocks *k = rocks_of(kv);
    char *err = NULL;

    rocksdb_flush(k->db, k->flush, &err);
    return error_take("flush", err);
}

/* A second, reading instance without caches sees the files as they are. What it holds open may be deleted meanwhile. */
static int rocks_check(struct kv *kv)
{
    rocksdb_options_t *o = rocksdb_options_create();
    rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    rocksdb_iterator_t *it;
    char *err = NULL;
    rocksdb_t *db;

    rocksdb_block_based_options_set_no_block_cache(t, 1);
    rocksdb_options_set_block_based_table_factory(o, t);
    rocksdb_readoptions_set_fill_cache(ro, 0);
    rocksdb_readoptions_set_verify_checksums(ro, 1);
    db = rocksdb_open_for_read_only(o, rocks_of(kv)->path, 0, &err);
    if (db) {
        it = rocksdb_create_iterator(db, ro);
        for (rocksdb_iter_seek_to_first(it); rocksdb_iter_valid(it); rocksdb_iter_next(it))
            ;
        rocksdb_iter_get_error(it, &err);
        rocksdb_iter_destroy(it);
        rocksdb_close(db);
    }
    rocksdb_readoptions_destroy(ro);
    rocksdb_block_based_options_destroy(t);
    rocksdb_options_destroy(o);
    return error_take("check", err);
}

static uint64_t property(struct kv_rocks *k, const char *name)
{
    uint64_t v = 0;

    return rocksdb_property_int(k->db, name, &v) == 0 ? v : 0;
}

static void rocks_stats(struct kv *kv, struct kv_stats *ret)
{
    struct kv_rocks *k = rocks_of(kv);

    ret->disk = property(k, "rocksdb.total-sst-files-size");
    ret->memory = property(k, "rocksdb.size-all-mem-tables") + rocksdb_cache_get_usage(k->cache);
    ret->unflushed = property(k, "rocksdb.cur-size-all-mem-tables");
}

static void rocks_close(struct kv *kv)
{
    struct kv_rocks *k = rocks_of(kv);

    if (k->db)
        rocksdb_close(k->db);
    if (k->flush)
        rocksdb_flushoptions_destroy(k->flush);
    if (k->write)
        rocksdb_writeoptions_destroy(k->write);
    if (k->read)
        rocksdb_readoptions_destroy(k->read);
    if (k->options)
        rocksdb_options_destroy(k->options);
    if (k->cache)
        rocksdb_cache_destroy(k->cache);
    free(k->path);
    free(k);
}

static const struct kv_ops rocks_ops = {
    .close = rocks_close,
    .get = rocks_get,
    .batch_new = rocks_batch_new,
    .batch_free = rocks_batch_free,
    .batch_clear = rocks_batch_clear,
    .batch_put = rocks_batch_put,
    .batch_del = rocks_batch_del,
    .batch_del_once = rocks_batch_del_once,
    .batch_del_range = rocks_batch_del_range,
    .write = rocks_write,
    .iter_new = rocks_iter_new,
    .iter_free = rocks_iter_free,
    .iter_valid = rocks_iter_valid,
    .iter_next = rocks_iter_next,
    .iter_seek = rocks_iter_seek,
    .iter_key = rocks_iter_key,
    .iter_value = rocks_iter_value,
    .iter_error = rocks_iter_error,
    .snapshot_new = rocks_snapshot_new,
    .snapshot_free = rocks_snapshot_free,
    .flush = rocks_flush,
    .check = rocks_check,
    .stats = rocks_stats,
};

/* ---- open ------------------------------------------------------------------------------------ */

static rocksdb_block_based_table_options_t *table_options(rocksdb_cache_t *cache)
{
    rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();

    rocksdb_block_based_options_set_block_cache(t, cache);
    rocksdb_block_based_options_set_block_size(t, 4096);
    rocksdb_block_based_options_set_format_version(t, 5);
    rocksdb_block_based_options_set_filter_policy(t, rocksdb_filterpolicy_create_bloom_full(10));
    rocksdb_block_based_options_set_whole_key_filtering(t, 1);
    rocksdb_block_based_options_set_index_type(
        t, rocksdb_block_based_table_index_type_two_level_index_search);
    rocksdb_block_based_options_set_partition_filters(t, 1);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(t, 1);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(t, 1);
    rocksdb_block_based_options_set_pin_top_level_index_and_filter(t, 1);
    rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(t, 1);
    return t;
}

static void set_options(rocksdb_options_t *o, uint64_t buffer_bytes)
{
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_compression(o, rocksdb_lz4_compression);
    /* The lowest level is nearly all of it. A third smaller, it stays in the page cache of a small machine. */
    rocksdb_options_set_bottommost_compression(o, rocksdb_zstd_compression);
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
    rocksdb_options_set_target_file_size_base(o, 32 << 20);
    rocksdb_options_set_write_buffer_size(o, (size_t)buffer_bytes);
    rocksdb_options_set_max_write_buffer_number(o, BUFFERS);
    /* The loop writes: better many small files for a while than a writer put to sleep. */
    rocksdb_options_set_level0_slowdown_writes_trigger(o, 60);
    rocksdb_options_set_level0_stop_writes_trigger(o, 120);
    rocksdb_options_set_max_background_jobs(o, 2);
    rocksdb_options_set_bytes_per_sync(o, 1 << 20);
    rocksdb_options_set_max_open_files(o, OPEN_FILES_MAX);
    rocksdb_options_set_max_manifest_file_size(o, 16 << 20);
    rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    /*
     * Nothing goes into LOG but what stands at its head (level 4): once a write of it failed, the next one aborts the
     * process, by an assertion in builds that have them, as distributions do. Errors come with the calls anyway.
     */
    rocksdb_options_set_info_log_level(o, 4);
    rocksdb_options_set_keep_log_file_num(o, 2);
}

/* What the C interface has no function for. */
static int set_text_options(rocksdb_options_t **o)
{
    rocksdb_options_t *with = rocksdb_options_create();
    char *err = NULL;

    rocksdb_get_options_from_string(*o, "avoid_flush_during_shutdown=true", with, &err);
    if (err) {
        rocksdb_options_destroy(with);
        return error_take("options", err);
    }
    rocksdb_options_destroy(*o);
    *o = with;
    return 0;
}

static int see_table(void *arg TC_UNUSED, const char *name)
{
    size_t n = strlen(name);

    return n > 4 && strcmp(name + n - 4, ".sst") == 0;
}

static int format_check(struct vfs_file *f)
{
    char text[32] = {0};
    int64_t n = vfs_pread(f, text, sizeof text - 1, 0);

    if (n < 0)
        return (int)n;
    if (strcmp(text, FORMAT_LINE) == 0)
        return 0;
    return strncmp(text, FORMAT_TEXT, strlen(FORMAT_TEXT)) == 0 ? -TC_E_VERSION : -TC_E_DAMAGED;
}

/*
 * Writes FORMAT into a new store, checks it in an old one. Its name is not synced: RocksDB syncs the directory whenever it
 * opens, before it writes a table. So power may take it from a store without tables alone, which holds nothing yet.
 */
static int format_file(struct vfs *vfs, const char *path)
{
    int old = vfs_list(vfs, path, see_table, NULL);
    char *name = tc_asprintf("%s/FORMAT", path);
    struct vfs_file *f = NULL;
    int r = old;

    if (r >= 0)
        r = vfs_open(vfs, name, old ? VFS_RDONLY : VFS_RDWR | VFS_CREATE, &f);
    free(name);
    if (r < 0)
        return old == 1 && r == -TC_E_NOENT ? -TC_E_DAMAGED : r;
    r = format_check(f);
    if (r == -TC_E_DAMAGED && !old) { /* new, or cut off by a crash before it held anything */
        r = vfs_pwrite(f, FORMAT_LINE, strlen(FORMAT_LINE), 0);
        if (r == 0)
            r = vfs_sync(f);
    }
    vfs_close(f);
    return r;
}

static int open_db(struct kv_rocks *k, const char *path, const struct kv_options *opt)
{
    uint64_t cache_bytes = opt && opt->cache_bytes ? opt->cache_bytes : CACHE_BYTES;
    uint64_t buffer_bytes = opt && opt->buffer_bytes ? opt->buffer_bytes : BUFFER_BYTES;
    rocksdb_lru_cache_options_t *lru = rocksdb_lru_cache_options_create();
    rocksdb_block_based_table_options_t *table;
    char *err = NULL;
    bool missing;
    int r;

    rocksdb_lru_cache_options_set_capacity(lru, (size_t)cache_bytes);
    rocksdb_lru_cache_options_set_num_shard_bits(lru, CACHE_SHARD_BITS);
    k->cache = rocksdb_cache_create_lru_opts(lru);
    rocksdb_lru_cache_options_destroy(lru);

    k->options = rocksdb_options_create();
    set_options(k->options, buffer_bytes);
    table = table_options(k->cache);
    rocksdb_options_set_block_based_table_factory(k->options, table);
    rocksdb_block_based_options_destroy(table);
    r = set_text_options(&k->options);
    if (r < 0)
        return r;

    k->read = rocksdb_readoptions_create();
    k->write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(k->write, 1);
    k->flush = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(k->flush, 1);
    k->db = rocksdb_open(k->options, path, &err);
    missing = err && strstr(err, "No such file");
    r = error_take("open", err);
    return r == -TC_E_IO && missing ? -TC_E_DAMAGED : r; /* a file of the store is not there */
}

int kv_open_rocks(const char *path, const struct kv_options *opt, struct kv **ret_kv)
{
    struct vfs *vfs = vfs_posix();
    struct kv_rocks *k;
    int r = vfs_make_dir(vfs, path);

    if (r == 0)
        r = format_file(vfs, path);
    if (r < 0)
        return r;
    k = tc_calloc(1, sizeof *k);
    k->kv.ops = &rocks_ops;
    k->path = tc_strdup(path);
    r = open_db(k, path, opt);
    if (r < 0) {
        rocks_close(&k->kv);
        return r;
    }
    *ret_kv = &k->kv;
    return 0;
}

int kv_destroy_rocks(const char *path)
{
    rocksdb_options_t *o = rocksdb_options_create();
    char *err = NULL, *name = tc_asprintf("%s/FORMAT", path);
    int r;

    rocksdb_destroy_db(o, path, &err);
    rocksdb_options_destroy(o);
    r = error_take("destroy", err);
    if (r == 0)
        r = vfs_unlink(vfs_posix(), name);
    if (r == 0)
        r = vfs_sync_dir(vfs_posix(), path);
    free(name);
    return r == -TC_E_NOENT ? 0 : r;
}
