/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/options.h"

#include <string.h>

#define BUSY_POLL_US 300 /* a round trip and a read of a fast disk */
#define BUSY_POLL_US_MAX 10000

/* What mount(8), fstab and systemd write there, and what means nothing to a mounted filesystem. */
static const char *const ignored[] = {"rw",       "_netdev", "nofail",  "auto",  "noauto", "user",    "users",
                                      "nouser",   "nousers", "owner",   "noowner", "group", "nogroup", "async",
                                      "defaults", "relatime", "norelatime", "strictatime", "nostrictatime", "diratime",
                                      "lazytime", "nolazytime", "loud", "silent"};
static const char *const passed_on[] = {"ro",       "nosuid", "suid",    "nodev",     "dev",        "noexec",
                                        "exec",     "noatime", "atime",  "dirsync",   "sync",       "allow_other",
                                        "allow_root", "nodiratime"};

static bool in_list(const char *const *list, size_t n, const char *word)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i], word) == 0)
            return true;
    }
    return false;
}

static int parse_wait(const struct cli *c, const char *value, uint64_t *ret_ms)
{
    char *end;
    unsigned long seconds;

    if (strcmp(value, "forever") == 0) {
        *ret_ms = UINT64_MAX;
        return 0;
    }
    if (strcmp(value, "fail") == 0) {
        *ret_ms = 1000; /* one round of retries, no waiting for repair */
        return 0;
    }
    seconds = strtoul(value, &end, 10);
    if (end == value || (*end && strcmp(end, "s") != 0) || seconds == 0 || seconds > 86400)
        return cli_usage_error(c, "option wait=%s: say forever, fail, or seconds as in wait=30s", value);
    *ret_ms = seconds * 1000;
    return 0;
}

static int parse_busy_poll(const struct cli *c, const char *value, uint32_t *ret_us)
{
    char *end;
    unsigned long us = strtoul(value, &end, 10);

    if (*value < '0' || *value > '9' || *end || us > BUSY_POLL_US_MAX)
        return cli_usage_error(c, "option busy_poll=%s: say microseconds, from 0 (never) to %d", value, BUSY_POLL_US_MAX);
    *ret_us = (uint32_t)us;
    return 0;
}

static int parse_word(const struct cli *c, const char *word, struct mount_options *o)
{
    if (strncmp(word, "wait=", 5) == 0)
        return parse_wait(c, word + 5, &o->wait_ms);
    if (strncmp(word, "busy_poll=", 10) == 0)
        return parse_busy_poll(c, word + 10, &o->busy_poll_us);
    if (strcmp(word, "pages=strict") == 0) {
        o->strict_pages = true;
        return 0;
    }
    if (strcmp(word, "pages=lease") == 0 || strcmp(word, "reads=leader") == 0)
        return 0;
    if (strcmp(word, "reads=anywhere") == 0) {
        o->read_anywhere = true;
        return 0;
    }
    if (strcmp(word, "locks=cluster") == 0)
        return 0;
    if (strcmp(word, "locks=mount") == 0) {
        o->own_locks = true;
        return 0;
    }
    if (strcmp(word, "remount") == 0)
        return cli_usage_error(c, "option remount: say mount -o remount,..., or unmount and mount again");
    if (in_list(ignored, ARRAY_SIZE(ignored), word) || strncmp(word, "x-", 2) == 0 ||
        strncmp(word, "comment=", 8) == 0)
        return 0;
    if (in_list(passed_on, ARRAY_SIZE(passed_on), word)) {
        char *joined = tc_asprintf("%s%s%s", o->kernel, o->kernel[0] ? "," : "", word);

        free(o->kernel);
        o->kernel = joined;
        return 0;
    }
    return cli_usage_error(c, "unknown mount option '%s'", word);
}

int mount_options_parse(const struct cli *c, const char *text, struct mount_options *ret)
{
    char *copy = tc_strdup(text ? text : ""), *save = NULL;
    struct mount_options o = {.kernel = tc_strdup(""), .wait_ms = UINT64_MAX, .busy_poll_us = BUSY_POLL_US};
    int status = 0;

    for (char *w = strtok_r(copy, ",", &save); w && status == 0; w = strtok_r(NULL, ",", &save))
        status = parse_word(c, w, &o);
    free(copy);
    if (status) {
        free(o.kernel);
        return status;
    }
    *ret = o;
    return 0;
}

void mount_options_fini(struct mount_options *o)
{
    free(o->kernel);
}
