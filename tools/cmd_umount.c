/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet umount DIR: unmounts, and returns when the mount's daemon is gone, that is when all it had is
 * written. Plain umount(8) does the same without the waiting: nothing of ours runs there.
 *
 * The daemon is known by its program and by the mount point among its arguments.
 */
#include <dirent.h>
#include <limits.h>
#include <mntent.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tercet.h"

extern char **environ;

/* Is @dir (canonical) a mount of ours? */
static bool is_mount(const char *dir)
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    struct mntent *e;
    bool found = false;

    while (f && (e = getmntent(f))) {
        if (strcmp(e->mnt_dir, dir) == 0) /* the last one is on top */
            found = strcmp(e->mnt_type, "fuse.tercet") == 0;
    }
    if (f)
        endmntent(f);
    return found;
}

static int run(const char *const *argv)
{
    pid_t pid;
    int status;

    if (posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ) != 0)
        return -1;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Is process @pid (text) the daemon of the mount at @dir? */
static bool is_daemon_of(const char *pid, const char *dir)
{
    char path[64], exe[PATH_MAX], args[8192];
    ssize_t n;
    size_t len;
    const char *base;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%.16s/exe", pid);
    n = readlink(path, exe, sizeof exe - 1);
    if (n < 0)
        return false;
    exe[n] = '\0';
    base = strrchr(exe, '/');
    if (!base || strncmp(base + 1, "tercet-fuse", 11) != 0)
        return false;
    snprintf(path, sizeof path, "/proc/%.16s/cmdline", pid);
    f = fopen(path, "re");
    if (!f)
        return false;
    len = fread(args, 1, sizeof args - 1, f);
    (void)fclose(f);
    args[len] = '\0';
    for (size_t i = 0; i < len; i += strlen(args + i) + 1) {
        if (strcmp(args + i, dir) == 0)
            return true;
    }
    return false;
}

/* A pidfd of the daemon, or -1. */
static int find_daemon(const char *dir)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    int fd = -1;

    while (d && fd < 0 && (e = readdir(d))) {
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && is_daemon_of(e->d_name, dir))
            fd = (int)syscall(SYS_pidfd_open, atoi(e->d_name), 0);
    }
    if (d)
        (void)closedir(d);
    return fd;
}

static int umount_dir(const struct cli *cli, const char *dir, bool lazy, uint64_t timeout_s)
{
    const char *const as_root[] = {"umount", lazy ? "-l" : dir, lazy ? dir : NULL, NULL};
    const char *const as_user[] = {"fusermount3", lazy ? "-uz" : "-u", dir, NULL};
    int daemon, r;

    if (!is_mount(dir))
        return cli_failed(cli, "%s: no Tercet filesystem is mounted here", dir);
    daemon = find_daemon(dir);
    r = run(geteuid() == 0 ? as_root : as_user);
    if (r != 0) {
        if (daemon >= 0)
            (void)close(daemon);
        return cli_failed(cli, "%s was not unmounted; close what is open in it (fuser -m %s shows who)", dir, dir);
    }
    if (daemon >= 0) {
        struct pollfd p = {.fd = daemon, .events = POLLIN};

        r = poll(&p, 1, (int)MIN(timeout_s * 1000, (uint64_t)INT_MAX));
        (void)close(daemon);
        if (r == 0)
            return cli_failed(cli, "%s is unmounted, but its daemon still writes after %llu s; it goes on by itself",
                              dir, (unsigned long long)timeout_s);
    }
    return 0;
}

int cmd_umount(int argc, char **argv)
{
    bool lazy = false, json = false;
    uint64_t timeout_s = 60;
    const struct cli_option options[] = {
        {.name = "lazy", .letter = 'l', .text = "detach now, even if files are open", .flag = &lazy},
        {.name = "timeout", .value = "SECONDS", .text = "wait so long for the last writes (60)",
         .number = &timeout_s},
        OPTION_JSON(&json),
        {0},
    };
    struct cli cli = {
        .program = "tercet umount",
        .synopsis = "[--lazy] [--timeout=SECONDS] DIR",
        .summary = "Unmounts DIR and waits until everything written is safe.",
        .options = options,
    };
    char dir[PATH_MAX];
    int status = 0;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    if (cli.n_args != 1)
        return cli_usage_error(&cli, "exactly one DIR is needed; see --help");
    if (!realpath(cli.args[0], dir)) {
        /* The mount point of a dead daemon cannot be looked at: take it as it is written. */
        if (errno != ENOTCONN)
            return cli_failed(&cli, "%s: %s", cli.args[0], strerror(errno));
        snprintf(dir, sizeof dir, "%s", cli.args[0]);
    }
    status = umount_dir(&cli, dir, lazy, timeout_s);
    if (json)
        printf("{\"unmounted\": %s}\n", status == 0 ? "true" : "false");
    return status;
}
