/* SPDX-License-Identifier: Apache-2.0 */
/* To be preloaded: while the file named by SLOW_SYNC exists, nothing that is synced becomes durable; the calls wait. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int wait_and(long call, int fd)
{
    const char *gate = getenv("SLOW_SYNC");

    while (gate && access(gate, F_OK) == 0)
        usleep(10000);
    return (int)syscall(call, fd);
}

int fsync(int fd)
{
    return wait_and(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return wait_and(SYS_fdatasync, fd);
}
