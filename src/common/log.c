/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines are built on the stack and leave in one write(2), so threads never mix theirs.
 *
 * A call site writes at most LOG_SITE_MAX lines a second; what it suppressed is told by its next line.
 * With a sink set (the simulator) nothing is suppressed and no clock is read: the sink stamps.
 */
#include "common/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_SITE_MAX 20 /* enough to see a pattern, too few to fill a disk */
#define LOG_LINE_MAX 2048

static enum log_level level_max = LOG_LEVEL_INFO;
static int log_fd = STDERR_FILENO;
static void (*sink_fn)(void *arg, const char *line);
static void *sink_arg;

static const char *const level_names[] = {"err", "warn", "info", "debug"};

void log_setup(enum log_level max, int fd)
{
    level_max = max;
    log_fd = fd;
}

void log_set_sink(void (*fn)(void *arg, const char *line), void *arg)
{
    sink_fn = fn;
    sink_arg = arg;
}

bool log_enabled(enum log_level level)
{
    return level <= level_max;
}

/* May this site write now? Counts are racy among threads, which costs a line more or less. */
static bool site_admit(struct log_site *site, uint64_t second, uint32_t *ret_dropped)
{
    *ret_dropped = 0;
    if (__atomic_load_n(&site->window, __ATOMIC_RELAXED) != second) {
        __atomic_store_n(&site->window, second, __ATOMIC_RELAXED);
        __atomic_store_n(&site->n, 0, __ATOMIC_RELAXED);
        *ret_dropped = __atomic_exchange_n(&site->dropped, 0, __ATOMIC_RELAXED);
    }
    if (__atomic_add_fetch(&site->n, 1, __ATOMIC_RELAXED) <= LOG_SITE_MAX)
        return true;
    __atomic_add_fetch(&site->dropped, 1, __ATOMIC_RELAXED);
    return false;
}

static size_t put_stamp(char *line, size_t cap, const struct timespec *ts)
{
    struct tm tm;
    size_t n;

    gmtime_r(&ts->tv_sec, &tm);
    n = strftime(line, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, cap - n, ".%03ldZ ", ts->tv_nsec / 1000000);
    return n;
}

static size_t put_pairs(char *line, size_t n, size_t cap, const char *fmt, va_list ap)
{
    int len = vsnprintf(line + n, cap - n, fmt, ap);
    size_t end = len < 0 ? n : MIN(n + (size_t)len, cap - 1);

    for (size_t i = n; i < end; i++) { /* a value must not forge a second line */
        if ((unsigned char)line[i] < ' ')
            line[i] = '?';
    }
    while (end > 0 && line[end - 1] == ' ')
        end--;
    return end;
}

void log_write(struct log_site *site, enum log_level level, const char *mod, const char *msg,
               const char *fmt, ...)
{
    char line[LOG_LINE_MAX];
    struct timespec ts;
    uint32_t dropped = 0;
    size_t n = 0;
    va_list ap;

    if (!sink_fn) {
        clock_gettime(CLOCK_REALTIME, &ts);
        if (level < LOG_LEVEL_DEBUG && !site_admit(site, (uint64_t)ts.tv_sec, &dropped))
            return;
        n = put_stamp(line, sizeof line, &ts);
    }
    n += (size_t)snprintf(line + n, 512, "level=%s mod=%.32s msg=\"%.400s\"", level_names[level],
                          mod, msg);
    if (dropped > 0)
        n += (size_t)snprintf(line + n, 64, " suppressed=%" PRIu32, dropped);
    va_start(ap, fmt);
    n = put_pairs(line, n, sizeof line - 2, fmt, ap);
    va_end(ap);
    if (sink_fn) {
        line[n] = '\0';
        sink_fn(sink_arg, line);
        return;
    }
    line[n++] = '\n';
    (void)!write(log_fd, line, n); /* a full disk or closed stderr must not stop the daemon */
}
