/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tercet-fuse: one mount. Opens a session with the cluster, then mounts; ends when it is unmounted, or when
 * told to (SIGTERM, SIGINT): flush, unmount, leave.
 */
#include "fuse/fuse_internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cli.h"
#include "common/log.h"
#include "fuse/options.h"

/* Flushing and giving back leases at the end; then the process goes in any case. */
#define SHUTDOWN_MS 30000

struct daemon {
    struct tc_mount mount;
    struct mount_options opt;
    struct cli *cli;
    struct config *config;
    char *source; /* as shown by /proc/mounts */
    char **endpoints;
    unsigned n_endpoints;
    char *root;
    int ready_fd; /* to the waiting parent, -1: none */
    bool leaving;
    int exit_code;
};

/* Tell whoever started us in the background. @text "": mounted. */
static void tell_parent(struct daemon *d, const char *text)
{
    if (d->ready_fd < 0)
        return;
    if (write(d->ready_fd, text, strlen(text) + 1) < 0)
        LOG_WARN("fuse", "the starting process is gone");
    (void)close(d->ready_fd);
    d->ready_fd = -1;
}

static void fail(struct daemon *d, const char *what, int status)
{
    char *text = tc_asprintf("%s: %s", what, tc_strerror(status));

    if (d->ready_fd >= 0)
        tell_parent(d, text);
    else
        (void)cli_failed(d->cli, "%s", text);
    free(text);
    d->exit_code = CLI_FAILED;
    os_env_stop(d->mount.env, CLI_FAILED);
}

static void left(void *arg, int status)
{
    struct daemon *d = arg;

    if (status < 0) {
        LOG_ERR("fuse", "data could not be flushed before leaving", "error=%s", tc_error_name(status));
        d->exit_code = CLI_FAILED;
    }
    os_env_stop(d->mount.env, d->exit_code);
}

static void leave(struct daemon *d)
{
    if (d->leaving)
        return;
    d->leaving = true;
    if (d->mount.client)
        tc_client_shutdown(d->mount.client, SHUTDOWN_MS, left, d);
    else
        os_env_stop(d->mount.env, d->exit_code);
}

static void on_unmounted(struct tc_mount *m)
{
    struct daemon *d = container_of(m, struct daemon, mount);

    LOG_INFO("fuse", "unmounted, flushing", "mount=%s", m->mountpoint);
    leave(d);
}

static void on_signal(void *arg, int signo)
{
    LOG_INFO("fuse", "told to leave", "signal=%d", signo);
    leave(arg);
}

static void fail_open(struct daemon *d, int status)
{
    char *what;

    switch (status) {
    case -TC_E_NOENT:
    case -TC_E_NOTDIR:
        what = tc_asprintf("directory '%s' of the cluster", d->root);
        break;
    case -TC_E_DEADLINE:
        what = tc_asprintf("no leader of the metadata group answers (source: %s)", d->source);
        break;
    default:
        what = tc_asprintf("cannot open a session: is this a metadata member? (source: %s)", d->source);
    }
    fail(d, what, status);
    free(what);
}

static void on_ready(void *arg, int status)
{
    struct daemon *d = arg;

    if (status < 0) {
        fail_open(d, status);
        return;
    }
    d->mount.root = tc_client_root(d->mount.client);
    status = mount_start(&d->mount, d->source, d->opt.kernel);
    if (status < 0) {
        fail(d, "cannot mount (is /dev/fuse there, and may you mount here?)", status);
        return;
    }
    LOG_INFO("fuse", "mounted", "mount=%s source=%s", d->mount.mountpoint, d->source);
    tell_parent(d, "");
}

/* "m1,m2:/dir", or the members of the configuration. */
static int find_members(struct daemon *d, const char *spec)
{
    const char *dir = spec ? strstr(spec, ":/") : NULL;
    int n;

    if (!spec) {
        d->n_endpoints = d->config->n_metas;
        d->endpoints = tc_calloc(d->n_endpoints, sizeof(char *));
        for (unsigned i = 0; i < d->n_endpoints; i++)
            d->endpoints[i] = tc_strdup(d->config->metas[i].endpoint);
        d->root = tc_strdup("/");
        d->source = tc_strdup("tercet");
        return 0;
    }
    for (const char *next = dir; next; next = strstr(next + 1, ":/"))
        dir = next;
    if (!dir)
        return cli_usage_error(d->cli, "source '%s' is not of the form host1,host2:/directory", spec);
    d->source = tc_strdup(spec);
    d->root = tc_strdup(dir + 1);
    d->source[dir - spec] = 0;
    n = config_parse_servers(d->source, &d->endpoints);
    d->source[dir - spec] = ':';
    if (n <= 0)
        return cli_usage_error(d->cli, "source '%s' names no servers", spec);
    d->n_endpoints = (unsigned)n;
    return 0;
}

static int check_mountpoint(struct daemon *d, const char *path)
{
    struct stat st;

    d->mount.mountpoint = realpath(path, NULL);
    if (!d->mount.mountpoint && errno == ENOTCONN)
        return cli_failed(d->cli, "mount point '%s': the daemon of what is mounted there has died; umount it first", path);
    if (!d->mount.mountpoint)
        return cli_failed(d->cli, "mount point '%s': %s", path, tc_strerror(-errno));
    if (stat(d->mount.mountpoint, &st) != 0)
        return cli_failed(d->cli, "mount point '%s': %s", path, tc_strerror(-errno));
    if (!S_ISDIR(st.st_mode))
        return cli_failed(d->cli, "mount point '%s' is not a directory", path);
    return 0;
}

/* Fork; the parent waits for the child's word. Returns in the child only, or with an exit status. */
static int go_background(struct daemon *d)
{
    int fds[2];
    char text[512];
    size_t used = 0;
    ssize_t n;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) != 0)
        return cli_failed(d->cli, "pipe: %s", tc_strerror(-errno));
    pid = fork();
    if (pid < 0)
        return cli_failed(d->cli, "fork: %s", tc_strerror(-errno));
    if (pid == 0) {
        (void)close(fds[0]);
        d->ready_fd = fds[1];
        (void)setsid();
        return -1;
    }
    (void)close(fds[1]);
    while (used < sizeof(text) - 1 && (n = read(fds[0], text + used, sizeof(text) - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = 0;
    if (used == 0)
        return cli_failed(d->cli, "the mount process ended unexpectedly, see its log");
    return text[0] ? cli_failed(d->cli, "%s", text) : CLI_OK;
}

/* Before the fork: whoever starts us is told what is wrong with it. */
static int open_log(const struct daemon *d, const char *log_path, int *ret_fd)
{
    *ret_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (*ret_fd < 0)
        return cli_failed(d->cli, "log '%s': %s", log_path, tc_strerror(-errno));
    return 0;
}

static void redirect_log(int fd)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (null >= 0)
        (void)dup2(null, 0);
    (void)dup2(fd, 1);
    (void)dup2(fd, 2);
    (void)close(null);
    (void)close(fd);
}

static int write_pid_file(const struct daemon *d, const char *path)
{
    FILE *f = fopen(path, "we");

    if (!f || fprintf(f, "%d\n", (int)getpid()) < 0 || fclose(f) != 0)
        return cli_failed(d->cli, "pid file '%s': %s", path, tc_strerror(-errno));
    return 0;
}

/* Is a program waiting for us? */
static bool requests_in_flight(void *arg)
{
    const struct daemon *d = arg;

    return d->mount.ops;
}

static int run(struct daemon *d)
{
    char host[256] = "?";
    char *name;
    struct tc_client_config cfg = {
        .members = (const char *const *)d->endpoints,
        .n_members = d->n_endpoints,
        .root = d->root,
        .wait_ms = d->opt.wait_ms,
        .memory_max = d->config ? d->config->limits.client_memory_max : 0,
        .read_anywhere = d->opt.read_anywhere,
        .invalidate_inode = invalidate_inode,
        .invalidate_entry = invalidate_entry,
        .arg = &d->mount,
    };
    unsigned n_stores = d->config ? d->config->n_storages : 0;
    const char **stores = tc_calloc(n_stores + 1, sizeof(*stores));
    int r;

    for (unsigned i = 0; i < n_stores; i++)
        stores[i] = d->config->storages[i].endpoint;
    cfg.stores = stores;
    cfg.n_stores = n_stores;
    (void)gethostname(host, sizeof(host) - 1);
    name = tc_asprintf("%s:%s", host, d->mount.mountpoint);
    cfg.name = name;
    d->mount.on_unmounted = on_unmounted;
    os_env_busy_poll(d->mount.env, d->opt.busy_poll_us, requests_in_flight, d);
    os_env_on_signal(d->mount.env, SIGTERM, on_signal, d);
    os_env_on_signal(d->mount.env, SIGINT, on_signal, d);
    os_env_on_signal(d->mount.env, SIGHUP, on_signal, d);
    r = tc_client_open(d->mount.env, &cfg, on_ready, d, &d->mount.client);
    if (r < 0)
        fail(d, "cannot start", r);
    r = os_env_run(d->mount.env);
    mount_stop(&d->mount);
    tc_client_free(d->mount.client);
    d->mount.env = os_env_free(d->mount.env);
    free(stores);
    free(name);
    return r;
}

static void daemon_free(struct daemon *d)
{
    for (unsigned i = 0; i < d->n_endpoints; i++)
        free(d->endpoints[i]);
    free(d->endpoints);
    free(d->source);
    free(d->root);
    free(d->mount.mountpoint);
    mount_options_fini(&d->opt);
    config_free(d->config);
}

int main(int argc, char **argv)
{
    const char *options = "", *log_path = NULL, *pid_path = NULL;
    bool background = false;
    const struct cli_option table[] = {
        {.name = "options", .letter = 'o', .value = "OPT,...", .text = "mount options, see mount.tercet(8)", .string = &options},
        {.name = "background", .text = "return once the mount answers, and stay in the background", .flag = &background},
        {.name = "log", .value = "FILE", .text = "append the log to FILE (background: else none)", .string = &log_path},
        {.name = "pid-file", .value = "FILE", .text = "write the process id to FILE", .string = &pid_path},
        {.name = NULL},
    };
    struct cli cli = {.program = "tercet-fuse",
                      .synopsis = "[--config=FILE | HOST1,HOST2,...:/DIR] MOUNTPOINT [-o OPT,...]",
                      .summary = "Mounts a Tercet filesystem on a directory.",
                      .options = table,
                      .config = true};
    struct daemon d = {.cli = &cli, .ready_fd = -1};
    const char *spec;
    int status, log_fd = -1;

    if (!cli_parse(&cli, argc, argv, &status))
        return status;
    spec = cli.n_args == 2 ? cli.args[0] : NULL;
    if (!cli.check_config && cli.n_args != 1 && cli.n_args != 2)
        return cli_usage_error(&cli, "a mount point is missing");
    if ((!spec || cli.config_given) && !cli_config(&cli, &d.config, &status))
        return status;
    status = mount_options_parse(&cli, options, &d.opt);
    status = status ? status : find_members(&d, spec);
    status = status ? status : check_mountpoint(&d, cli.args[cli.n_args - 1]);
    if (!status && (log_path || background))
        status = open_log(&d, log_path ? log_path : "/dev/null", &log_fd);
    if (!status && background) {
        status = go_background(&d);
        if (status >= 0) {
            daemon_free(&d);
            return status;
        }
        status = 0;
    }
    if (!status && log_fd >= 0)
        redirect_log(log_fd);
    if (!status && pid_path)
        status = write_pid_file(&d, pid_path);
    status = status ? status : cli_daemon_env(&cli, d.config, &d.mount.env);
    d.mount.strict_pages = d.opt.strict_pages;
    d.mount.own_locks = d.opt.own_locks;
    status = status ? status : run(&d);
    daemon_free(&d);
    return status;
}
