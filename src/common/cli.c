/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/os_env.h"

#define OPTIONS_MAX 24
#define FILES_WANTED 65536
#define MMAP_THRESHOLD (32 << 20)

enum { OPT_HELP = 256, OPT_VERSION, OPT_CONFIG, OPT_CHECK, OPT_OWN };

static void print_error(const struct cli *c, const char *fmt, va_list ap)
{
    fprintf(stderr, "%s: ", c->program);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

int cli_usage_error(const struct cli *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    print_error(c, fmt, ap);
    va_end(ap);
    return CLI_USAGE;
}

int cli_failed(const struct cli *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    print_error(c, fmt, ap);
    va_end(ap);
    return CLI_FAILED;
}

static void print_option(char letter, const char *name, const char *value, const char *text)
{
    char left[64];

    snprintf(left, sizeof left, "%c%c%s--%s%s%s", letter ? '-' : ' ', letter ? letter : ' ',
             letter ? ", " : "  ", name, value ? "=" : "", value ? value : "");
    printf("  %-26s %s\n", left, text);
}

static void print_help(const struct cli *c)
{
    printf("usage: %s %s\n\n%s\n\n", c->program, c->synopsis, c->summary);
    for (const struct cli_option *o = c->options; o && o->name; o++)
        print_option(o->letter, o->name, o->value, o->text);
    if (c->config) {
        print_option(0, "config", "FILE", "the cluster's configuration (" CONFIG_PATH_DEFAULT ")");
        print_option(0, "check-config", NULL, "check the configuration, say what is wrong, and exit");
    }
    print_option(0, "help", NULL, "this");
    print_option(0, "version", NULL, "version of the program");
    if (c->config) {
        printf("\nSettings of the configuration file (defaults in parentheses):\n");
        config_print_help(stdout);
    }
}

static bool parse_u64(const char *s, uint64_t *ret)
{
    char *end;

    if (*s < '0' || *s > '9')
        return false;
    errno = 0;
    *ret = strtoull(s, &end, 10);
    return errno == 0 && *end == '\0';
}

/* Take the value of own option @o. Returns 0 or a status. */
static int take_own(const struct cli *c, const struct cli_option *o)
{
    if (o->flag)
        *o->flag = true;
    else if (o->string)
        *o->string = optarg;
    else if (!parse_u64(optarg, o->number))
        return cli_usage_error(c, "--%s=%s: not a number", o->name, optarg);
    return 0;
}

static size_t fill_options(const struct cli *c, struct option *longs, char *letters)
{
    size_t n = 0, k = 0;

    letters[k++] = ':';
    for (const struct cli_option *o = c->options; o && o->name; o++) {
        ASSERT(n + 5 < OPTIONS_MAX);
        longs[n] = (struct option){o->name, o->value ? required_argument : no_argument, NULL,
                                   OPT_OWN + (int)n};
        n++;
        if (o->letter) {
            letters[k++] = o->letter;
            if (o->value)
                letters[k++] = ':';
        }
    }
    letters[k] = '\0';
    longs[n++] = (struct option){"help", no_argument, NULL, OPT_HELP};
    longs[n++] = (struct option){"version", no_argument, NULL, OPT_VERSION};
    if (c->config) {
        longs[n++] = (struct option){"config", required_argument, NULL, OPT_CONFIG};
        longs[n++] = (struct option){"check-config", no_argument, NULL, OPT_CHECK};
    }
    longs[n] = (struct option){0};
    return n;
}

/* One option. Returns -1 to go on, else the exit status. */
static int take_option(struct cli *c, int opt, char **argv)
{
    int r = 0;

    switch (opt) {
    case OPT_HELP:
        print_help(c);
        return CLI_OK;
    case OPT_VERSION:
        printf("%s %s\n", c->program, TC_VERSION);
        return CLI_OK;
    case OPT_CONFIG:
        c->config_path = optarg;
        c->config_given = true;
        return -1;
    case OPT_CHECK:
        c->check_config = true;
        return -1;
    case ':':
        return cli_usage_error(c, "%s needs a value; see --help", argv[optind - 1]);
    case '?':
        if (optopt && optopt < 256)
            return cli_usage_error(c, "unknown option -%c; see --help", optopt);
        return cli_usage_error(c, "%s: no such option, or a value where none belongs; see --help",
                               argv[optind - 1]);
    default:
        break;
    }
    if (opt >= OPT_OWN) {
        r = take_own(c, &c->options[opt - OPT_OWN]);
    } else {
        for (const struct cli_option *o = c->options; o && o->name; o++) {
            if (o->letter == opt)
                r = take_own(c, o);
        }
    }
    return r == 0 ? -1 : r;
}

bool cli_parse(struct cli *c, int argc, char **argv, int *ret_status)
{
    struct option longs[OPTIONS_MAX + 1];
    char letters[2 * OPTIONS_MAX + 3];
    int opt;

    fill_options(c, longs, letters);
    c->config_path = CONFIG_PATH_DEFAULT;
    optind = 0;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        int r = take_option(c, opt, argv);

        if (r >= 0) {
            *ret_status = r;
            return false;
        }
    }
    c->n_args = argc - optind;
    c->args = argv + optind;
    c->argv = argv;
    return true;
}

bool cli_config(struct cli *c, struct config **ret_config, int *ret_status)
{
    char err[1024];
    int r = config_load(c->config_path, ret_config, err, sizeof err);

    if (r < 0) {
        *ret_status = cli_failed(c, "%s", err);
        return false;
    }
    if (c->check_config) {
        const struct config *g = *ret_config;

        printf("%s: good: cluster %s, %" PRIu32 " metadata members, %" PRIu32
               " storage nodes, n=%" PRIu64 " w=%" PRIu64 " r=%" PRIu64 "\n",
               c->config_path, g->cluster.name, g->n_metas, g->n_storages, g->cluster.n, g->cluster.w,
               g->cluster.r);
        *ret_config = config_free(*ret_config);
        *ret_status = CLI_OK;
        return false;
    }
    return true;
}

int cli_daemon_env(const struct cli *c, const struct config *config, struct env **ret_env)
{
    struct rlimit files;
    int r;

    (void)c;
    (void)signal(SIGPIPE, SIG_IGN);
    /* Buffers of up to 1 MiB come and go all the time: not by mmap and page faults, each time. */
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    (void)mallopt(M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD);
    (void)mallopt(M_ARENA_MAX, 4);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FILES_WANTED) {
        files.rlim_cur = MIN(files.rlim_max, (rlim_t)FILES_WANTED);
        (void)setrlimit(RLIMIT_NOFILE, &files); /* fewer will do for a small cluster */
    }
    log_setup(config ? (enum log_level)config->log.level : LOG_LEVEL_INFO, 2);
    r = os_env_new(NULL, ret_env);
    return r;
}

#define ROOM_VARIABLE "TERCET_AWAIT_ROOM"
#define ROOM_BYTES (32ull << 20)

static uint64_t room(const char *dir)
{
    struct statvfs st;

    return statvfs(dir, &st) == 0 ? (uint64_t)st.f_bavail * st.f_frsize : UINT64_MAX; /* opening it will say why */
}

int cli_again(const struct cli *c, const char *why)
{
    sigset_t none;

    LOG_WARN("main", "starting again", "why=\"%s\"", why);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)execv("/proc/self/exe", c->argv);
    return cli_failed(c, "cannot start again: %s", strerror(errno));
}

int cli_again_with_room(const struct cli *c, const char *dir)
{
    LOG_ERR("main", "the disk is full: ending, to start again when there is room", "dir=%s needed=%llu", dir, ROOM_BYTES);
    (void)setenv(ROOM_VARIABLE, "1", 1);
    return cli_again(c, "disk full");
}

void cli_await_room(const char *dir)
{
    if (!getenv(ROOM_VARIABLE))
        return;
    (void)unsetenv(ROOM_VARIABLE);
    while (room(dir) < ROOM_BYTES)
        (void)sleep(1);
}
