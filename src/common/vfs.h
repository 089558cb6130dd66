/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk as logic sees it: blocking file operations, called from disk jobs (env.h) and at start-up,
 * never from the loop of a running daemon. Two implementations: POSIX files, and the simulated disk,
 * which keeps unsynced writes, sizes and directory entries apart and drops or tears them in a crash.
 *
 * Durability contract (that of POSIX and no more): bytes and size are durable after vfs_sync() of the
 * file; a created, renamed or removed name is durable after vfs_sync_dir() of its directory.
 *
 * Paths are relative to the root the vfs was made with, or absolute on the POSIX one. All calls return 0
 * or -TC_E_x (NOENT, EXIST, NOSPC, IO, ...). Thread safe; one file may be used by several threads.
 */
#pragma once

#include <sys/uio.h>

#include "common/base.h"
#include "common/error.h"
#include "common/test_rules.h"

enum {
    VFS_RDONLY = 0,
    VFS_RDWR = 1 << 0,
    VFS_CREATE = 1 << 1, /* create if absent */
    VFS_EXCL = 1 << 2,   /* with CREATE: fail with EXIST */
    VFS_TRUNC = 1 << 3,
    /* Past the page cache, where the filesystem can: memory, offset and length of reads are multiples of DISK_ALIGN. */
    VFS_DIRECT = 1 << 4,
};

struct vfs;
struct vfs_file;

struct vfs_ops {
    int (*open)(struct vfs *v, const char *path, int flags, struct vfs_file **ret_file);
    void (*close)(struct vfs_file *f);
    /* Reads up to @len bytes; short only at the end of the file. Returns the count. */
    int64_t (*pread)(struct vfs_file *f, void *data, size_t len, uint64_t off);
    /* The same without waiting for a disk: AGAIN if not all of it is in memory. May be NULL: always AGAIN. */
    int64_t (*pread_nowait)(struct vfs_file *f, void *data, size_t len, uint64_t off);
    /* Is all of it in memory? Never waits for a disk. May be NULL: not to be known, no. */
    bool (*cached)(struct vfs_file *f, uint64_t off, size_t len);
    /* The next reads come from the disk, as far as the system can be told to. May be NULL. */
    void (*uncache)(struct vfs_file *f);
    /* Writes all of it or fails. */
    int (*pwritev)(struct vfs_file *f, const struct iovec *iov, int n, uint64_t off);
    int (*sync)(struct vfs_file *f); /* fdatasync: bytes and size */
    int (*truncate)(struct vfs_file *f, uint64_t size);
    int (*punch)(struct vfs_file *f, uint64_t off, uint64_t len); /* keeps the size */
    int (*size)(struct vfs_file *f, uint64_t *ret_size);
    int (*rename)(struct vfs *v, const char *from, const char *to);
    int (*unlink)(struct vfs *v, const char *path);
    int (*mkdir)(struct vfs *v, const char *path); /* 0 if it exists already as a directory */
    int (*rmdir)(struct vfs *v, const char *path);
    int (*sync_dir)(struct vfs *v, const char *path);
    /* Calls @fn for every name in @path but . and .., in ascending name order; stops at non-zero. */
    int (*list)(struct vfs *v, const char *path, int (*fn)(void *arg, const char *name), void *arg);
    int (*space)(struct vfs *v, const char *path, uint64_t *ret_total, uint64_t *ret_free);
    /* Exclusive advisory lock on the (created) file, held until close. LOCKED_DIR if another process has it. */
    int (*lock)(struct vfs *v, const char *path, struct vfs_file **ret_file);
};

struct vfs {
    const struct vfs_ops *ops;
};

TC_MUST_CHECK static inline int vfs_open(struct vfs *v, const char *path, int flags, struct vfs_file **ret_file)
{
    return v->ops->open(v, path, flags, ret_file);
}

struct vfs_file {
    struct vfs *vfs;
};

/* Accepts NULL. */
static inline void vfs_close(struct vfs_file *f)
{
    if (f)
        f->vfs->ops->close(f);
}

TC_MUST_CHECK static inline int64_t vfs_pread(struct vfs_file *f, void *data, size_t len, uint64_t off)
{
    return f->vfs->ops->pread(f, data, len, off);
}

/* What is at hand in memory may be read on the loop: AGAIN says to use a job instead. */
TC_MUST_CHECK static inline int64_t vfs_pread_nowait(struct vfs_file *f, void *data, size_t len, uint64_t off)
{
    return f->vfs->ops->pread_nowait ? f->vfs->ops->pread_nowait(f, data, len, off) : -TC_E_AGAIN;
}

static inline bool vfs_cached(struct vfs_file *f, uint64_t off, size_t len)
{
    return f->vfs->ops->cached && f->vfs->ops->cached(f, off, len);
}

static inline void vfs_uncache(struct vfs_file *f)
{
    if (f->vfs->ops->uncache)
        f->vfs->ops->uncache(f);
}

TC_MUST_CHECK static inline int vfs_pwritev(struct vfs_file *f, const struct iovec *iov, int n, uint64_t off)
{
    return f->vfs->ops->pwritev(f, iov, n, off);
}

TC_MUST_CHECK static inline int vfs_pwrite(struct vfs_file *f, const void *data, size_t len, uint64_t off)
{
    struct iovec iov = {(void *)(uintptr_t)data, len};

    return f->vfs->ops->pwritev(f, &iov, 1, off);
}

TC_MUST_CHECK static inline int vfs_sync(struct vfs_file *f)
{
    return f->vfs->ops->sync(f);
}

TC_MUST_CHECK static inline int vfs_truncate(struct vfs_file *f, uint64_t size)
{
    return f->vfs->ops->truncate(f, size);
}

TC_MUST_CHECK static inline int vfs_punch(struct vfs_file *f, uint64_t off, uint64_t len)
{
    return f->vfs->ops->punch(f, off, len);
}

TC_MUST_CHECK static inline int vfs_size(struct vfs_file *f, uint64_t *ret_size)
{
    return f->vfs->ops->size(f, ret_size);
}

TC_MUST_CHECK static inline int vfs_rename(struct vfs *v, const char *from, const char *to)
{
    return v->ops->rename(v, from, to);
}

TC_MUST_CHECK static inline int vfs_unlink(struct vfs *v, const char *path)
{
    return v->ops->unlink(v, path);
}

TC_MUST_CHECK static inline int vfs_mkdir(struct vfs *v, const char *path)
{
    return v->ops->mkdir(v, path);
}

TC_MUST_CHECK static inline int vfs_rmdir(struct vfs *v, const char *path)
{
    return v->ops->rmdir(v, path);
}

TC_MUST_CHECK static inline int vfs_sync_dir(struct vfs *v, const char *path)
{
    return v->ops->sync_dir(v, path);
}

TC_MUST_CHECK static inline int vfs_list(struct vfs *v, const char *path,
                                         int (*fn)(void *arg, const char *name), void *arg)
{
    return v->ops->list(v, path, fn, arg);
}

TC_MUST_CHECK static inline int vfs_space(struct vfs *v, const char *path, uint64_t *ret_total, uint64_t *ret_free)
{
    return v->ops->space(v, path, ret_total, ret_free);
}

TC_MUST_CHECK static inline int vfs_lock(struct vfs *v, const char *path, struct vfs_file **ret_file)
{
    return v->ops->lock(v, path, ret_file);
}

/* Make a directory (or find it) durably: its parent is synced, too. The parent must exist. */
TC_MUST_CHECK int vfs_make_dir(struct vfs *v, const char *path);

/* The POSIX implementation: one per process, stateless. Static storage. */
struct vfs *vfs_posix(void);

#ifdef TC_TEST_RULES_BUILD
/* Any one sync may be left out, to show that its absence is noticed (test_rules.h). */
#define vfs_sync(f) (tc_sync_off(__FILE__, __func__, "vfs_sync(" #f ")") ? 0 : vfs_sync(f))
#define vfs_sync_dir(v, path) \
    (tc_sync_off(__FILE__, __func__, "vfs_sync_dir(" #v ", " #path ")") ? 0 : vfs_sync_dir(v, path))
#endif
