/* SPDX-License-Identifier: Apache-2.0 */
/*
 * To be preloaded: while the file named by SLOW_SYNC exists, nothing that is synced becomes durable; the calls wait. While
 * the one with "-all" behind that name does, reads and writes at an offset wait, too: the disk hangs.
 */
#undef _FILE_OFFSET_BITS /* both names of each call are defined here; on 64 bits they are the same */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void wait_for(const char *end)
{
    const char *gate = getenv("SLOW_SYNC");
    char path[4096];

    if (!gate || snprintf(path, sizeof path, "%s%s", gate, end) >= (int)sizeof path)
        return;
    while (access(path, F_OK) == 0)
        usleep(10000);
}

int fsync(int fd)
{
    wait_for("");
    wait_for("-all");
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    wait_for("");
    wait_for("-all");
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pread(int fd, void *data, size_t n, off_t off)
{
    wait_for("-all");
    return syscall(SYS_pread64, fd, data, n, off);
}

ssize_t pread64(int fd, void *data, size_t n, off64_t off)
{
    return pread(fd, data, n, off);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
    wait_for("-all");
    return syscall(SYS_pwritev, fd, iov, n, off, 0L);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t off)
{
    return pwritev(fd, iov, n, off);
}
