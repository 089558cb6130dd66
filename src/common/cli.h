/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the command lines of all programs share: --help, --version, --config=FILE, --check-config, one
 * specific line on stderr and status 2 for a usage error, one clear line and status 1 for any other.
 */
#pragma once

#include "common/config.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* An option beside the common ones: exactly one of @flag, @text, @number is set. */
struct cli_option {
    const char *name; /* long name, without -- */
    char letter;      /* or 0 */
    const char *value; /* what --help calls its value; NULL: a flag */
    const char *text;
    bool *flag;
    const char **string;
    uint64_t *number; /* value >= 0; sizes as 512M */
};

struct cli {
    const char *program;  /* "tercet-meta" */
    const char *synopsis; /* "--config=FILE --id=N" */
    const char *summary;  /* a sentence or two for --help */
    const struct cli_option *options; /* ends with a NULL name; may be NULL */
    bool config;          /* takes --config=FILE and --check-config, prints the settings */

    /* filled by cli_parse() */
    const char *config_path; /* CONFIG_PATH_DEFAULT if not given */
    bool config_given;
    bool check_config;
    int n_args; /* what follows the options; borrowed from argv */
    char **args;
    char **argv; /* all of it, borrowed */
};

/* Parse. True: go on. False: all is said, exit with *ret_status. */
TC_MUST_CHECK bool cli_parse(struct cli *c, int argc, char **argv, int *ret_status);
/* Load the configuration named by cli_parse(); with --check-config report and end there, as does an error. */
TC_MUST_CHECK bool cli_config(struct cli *c, struct config **ret_config, int *ret_status);

/* "PROGRAM: text" on stderr. Return CLI_USAGE and CLI_FAILED. */
int cli_usage_error(const struct cli *c, const char *fmt, ...) TC_PRINTF(2, 3);
int cli_failed(const struct cli *c, const char *fmt, ...) TC_PRINTF(2, 3);

struct env;
/* What every daemon's main does first: many descriptors, no SIGPIPE, the log's level, a new env. */
TC_MUST_CHECK int cli_daemon_env(const struct cli *c, const struct config *config, struct env **ret_env);

/* Start this program again, at once, with its arguments and its pid: nothing of the old one is left (ports, threads,
 * locks). Returns an exit status, and only if that fails. */
int cli_again(const struct cli *c, const char *why);
/*
 * A daemon whose disk is so full that its own records no longer fit ends, and comes back by itself when there
 * is room; until then it is down, which the others are made for. cli_again_with_room() starts this program
 * again, at once, with its arguments and its pid (nothing of the old one is left: ports, threads, locks); it returns only
 * if that fails. The new one's cli_await_room(), called before anything is opened, waits until the file system
 * of @dir has room again; in a program started in any other way it does nothing. Signals end the waiting.
 */
int cli_again_with_room(const struct cli *c, const char *dir);
void cli_await_room(const char *dir);
