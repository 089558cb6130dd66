/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging: one logfmt line per event on stderr or a file, rate-limited per call site.
 * level=info mod=raft msg="became leader" term=3
 */
#pragma once

#include "common/base.h"

enum log_level { LOG_LEVEL_ERR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Set by the daemon's main; default INFO to stderr. @fd is borrowed. */
void log_setup(enum log_level max, int fd);
/* For the simulator: lines go to @fn instead (NULL: back to the fd). @now stamps them. */
void log_set_sink(void (*fn)(void *arg, const char *line), void *arg);
bool log_enabled(enum log_level level);

struct log_site { /* per call site rate limit */
    uint64_t window;
    uint32_t n, dropped;
};
/* @fmt holds " key=value ..." pairs, each behind a blank; " " if there are none. */
void log_write(struct log_site *site, enum log_level level, const char *mod, const char *msg, const char *fmt, ...)
    TC_PRINTF(5, 6);

#define LOG_AT(level, mod, msg, ...)                               \
    do {                                                           \
        static struct log_site log_site_;                          \
        if (log_enabled(level))                                    \
            log_write(&log_site_, level, mod, msg, __VA_ARGS__);   \
    } while (0)
#define LOG_ERR(mod, msg, ...) LOG_AT(LOG_LEVEL_ERR, mod, msg, " " __VA_ARGS__)
#define LOG_WARN(mod, msg, ...) LOG_AT(LOG_LEVEL_WARN, mod, msg, " " __VA_ARGS__)
#define LOG_INFO(mod, msg, ...) LOG_AT(LOG_LEVEL_INFO, mod, msg, " " __VA_ARGS__)
#define LOG_DEBUG(mod, msg, ...) LOG_AT(LOG_LEVEL_DEBUG, mod, msg, " " __VA_ARGS__)
