/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk of a real daemon: plain system calls, interrupted and short ones completed here.
 * Files are private to the daemon's user (0600, directories 0700).
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/vfs.h"

#define PWRITEV_BATCH 64 /* iovecs per system call */
#define CACHED_PAGES_MAX 512

struct posix_file {
    struct vfs_file base;
    int fd;
};

static int fd_of(struct vfs_file *f)
{
    return container_of(f, struct posix_file, base)->fd;
}

static int last_error(void)
{
    return tc_error_from_errno(errno);
}

static struct vfs_file *file_new(struct vfs *v, int fd)
{
    struct posix_file *f = tc_calloc(1, sizeof *f);

    f->base.vfs = v;
    f->fd = fd;
    return &f->base;
}

static int posix_open(struct vfs *v, const char *path, int flags, struct vfs_file **ret_file)
{
    int oflags = O_CLOEXEC | ((flags & VFS_RDWR) ? O_RDWR : O_RDONLY);
    int fd;

    oflags |= (flags & VFS_CREATE) ? O_CREAT : 0;
    oflags |= (flags & VFS_EXCL) ? O_EXCL : 0;
    oflags |= (flags & VFS_TRUNC) ? O_TRUNC : 0;
    oflags |= (flags & VFS_DIRECT) ? O_DIRECT : 0;
    do
        fd = open(path, oflags, 0600);
    while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno == EINVAL && (flags & VFS_DIRECT)) /* not on this filesystem */
        return posix_open(v, path, flags & ~VFS_DIRECT, ret_file);
    if (fd < 0)
        return last_error();
    *ret_file = file_new(v, fd);
    return 0;
}

static void posix_close(struct vfs_file *f)
{
    (void)close(fd_of(f)); /* what had to be durable was synced */
    free(container_of(f, struct posix_file, base));
}

static int64_t posix_pread(struct vfs_file *f, void *data, size_t len, uint64_t off)
{
    size_t n = 0;

    while (n < len) {
        ssize_t r = pread(fd_of(f), (char *)data + n, len - n, (off_t)(off + n));

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return last_error();
        if (r == 0)
            break;
        n += (size_t)r;
    }
    return (int64_t)n;
}

static int64_t posix_pread_nowait(struct vfs_file *f, void *data, size_t len, uint64_t off)
{
    struct iovec iov = {data, len};
    ssize_t r = preadv2(fd_of(f), &iov, 1, (off_t)off, RWF_NOWAIT);

    return r == (ssize_t)len ? r : -TC_E_AGAIN; /* short, not in memory, not supported: the job finds out */
}

/* By mincore(), which every kernel has: a read that may not wait begins to read ahead. */
static bool posix_cached(struct vfs_file *f, uint64_t off, size_t len)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), from = off & ~(page - 1);
    size_t n = (size_t)((off + len - from + page - 1) / page);
    unsigned char *in, seen[CACHED_PAGES_MAX];
    void *at;
    bool all;

    if (n > CACHED_PAGES_MAX)
        return false;
    at = mmap(NULL, n * page, PROT_READ, MAP_SHARED, fd_of(f), (off_t)from);
    if (at == MAP_FAILED)
        return false;
    all = mincore(at, n * page, seen) == 0;
    for (in = seen; all && in < seen + n; in++)
        all = *in & 1;
    (void)munmap(at, n * page);
    return all;
}

/* Write @n iovecs whole (at most PWRITEV_BATCH; the array is consumed). */
static int write_batch(int fd, struct iovec *iov, int n, uint64_t off)
{
    while (n > 0) {
        ssize_t r = pwritev(fd, iov, n, (off_t)off);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return last_error();
        off += (uint64_t)r;
        while (n > 0 && (size_t)r >= iov->iov_len) {
            r -= (ssize_t)iov->iov_len;
            iov++;
            n--;
        }
        if (n > 0) {
            iov->iov_base = (char *)iov->iov_base + r;
            iov->iov_len -= (size_t)r;
        }
    }
    return 0;
}

static void posix_uncache(struct vfs_file *f)
{
    (void)posix_fadvise(fd_of(f), 0, 0, POSIX_FADV_DONTNEED);
}

static int posix_pwritev(struct vfs_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct iovec batch[PWRITEV_BATCH];

    while (n > 0) {
        int k = MIN(n, PWRITEV_BATCH);
        uint64_t bytes = 0;
        int r;

        for (int i = 0; i < k; i++) {
            batch[i] = iov[i];
            bytes += iov[i].iov_len;
        }
        r = write_batch(fd_of(f), batch, k, off);
        if (r < 0)
            return r;
        off += bytes;
        iov += k;
        n -= k;
    }
    return 0;
}

static int posix_sync(struct vfs_file *f)
{
    return fdatasync(fd_of(f)) < 0 ? last_error() : 0;
}

static int posix_truncate(struct vfs_file *f, uint64_t size)
{
    return ftruncate(fd_of(f), (off_t)size) < 0 ? last_error() : 0;
}

static int posix_punch(struct vfs_file *f, uint64_t off, uint64_t len)
{
    if (len == 0)
        return 0;
    if (fallocate(fd_of(f), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0)
        return last_error();
    return 0;
}

static int posix_size(struct vfs_file *f, uint64_t *ret_size)
{
    struct stat st;

    if (fstat(fd_of(f), &st) < 0)
        return last_error();
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

static int posix_rename(struct vfs *v TC_UNUSED, const char *from, const char *to)
{
    return rename(from, to) < 0 ? last_error() : 0;
}

static int posix_unlink(struct vfs *v TC_UNUSED, const char *path)
{
    return unlink(path) < 0 ? last_error() : 0;
}

static int posix_mkdir(struct vfs *v TC_UNUSED, const char *path)
{
    struct stat st;

    if (mkdir(path, 0700) == 0)
        return 0;
    if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return last_error();
}

static int posix_rmdir(struct vfs *v TC_UNUSED, const char *path)
{
    return rmdir(path) < 0 ? last_error() : 0;
}

static int posix_sync_dir(struct vfs *v TC_UNUSED, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = 0;

    if (fd < 0)
        return last_error();
    if (fsync(fd) < 0)
        r = last_error();
    (void)close(fd);
    return r;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Read all names of @path into a new array. Returns: caller frees names and array. */
static int read_names(const char *path, char ***ret_names, size_t *ret_n)
{
    DIR *d = opendir(path);
    char **names = NULL;
    size_t n = 0, cap = 0;
    struct dirent *e;

    if (!d)
        return last_error();
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (n == cap) {
            cap = cap ? cap * 2 : 64;
            names = tc_realloc(names, cap * sizeof *names);
        }
        names[n++] = tc_strdup(e->d_name);
    }
    (void)closedir(d);
    if (n > 1)
        qsort(names, n, sizeof *names, by_name);
    *ret_names = names;
    *ret_n = n;
    return 0;
}

static int posix_list(struct vfs *v TC_UNUSED, const char *path,
                      int (*fn)(void *arg, const char *name), void *arg)
{
    char **names = NULL;
    size_t n = 0;
    int r = read_names(path, &names, &n);

    for (size_t i = 0; i < n; i++) {
        if (r == 0)
            r = fn(arg, names[i]);
        free(names[i]);
    }
    free(names);
    return r;
}

static int posix_space(struct vfs *v TC_UNUSED, const char *path, uint64_t *ret_total,
                       uint64_t *ret_free)
{
    struct statvfs s;

    if (statvfs(path, &s) < 0)
        return last_error();
    *ret_total = (uint64_t)s.f_blocks * s.f_frsize;
    *ret_free = (uint64_t)s.f_bavail * s.f_frsize;
    return 0;
}

static int posix_lock(struct vfs *v, const char *path, struct vfs_file **ret_file)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int r = 0;

    if (fd < 0)
        return last_error();
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        r = errno == EWOULDBLOCK ? -TC_E_LOCKED_DIR : last_error();
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    *ret_file = file_new(v, fd);
    return 0;
}

static const struct vfs_ops posix_ops = {
    .open = posix_open,
    .close = posix_close,
    .pread = posix_pread,
    .pread_nowait = posix_pread_nowait,
    .cached = posix_cached,
    .uncache = posix_uncache,
    .pwritev = posix_pwritev,
    .sync = posix_sync,
    .truncate = posix_truncate,
    .punch = posix_punch,
    .size = posix_size,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .mkdir = posix_mkdir,
    .rmdir = posix_rmdir,
    .sync_dir = posix_sync_dir,
    .list = posix_list,
    .space = posix_space,
    .lock = posix_lock,
};

struct vfs *vfs_posix(void)
{
    static struct vfs v = {&posix_ops};

    return &v;
}
