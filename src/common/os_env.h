/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real env of a daemon: one poll loop on the calling thread, timers on CLOCK_BOOTTIME, disk threads,
 * ZeroMQ for messages, files through vfs_posix().
 *
 * A turn of the loop: wait; then each ready port (at most OS_ENV_MSGS_PER_TURN messages), descriptor and
 * signal; finished jobs; due timers; deferred tasks, in that order. Nothing here is thread safe except
 * os_env_stop().
 *
 * Messages: a listening port is a ZeroMQ ROUTER, a connected one a DEALER; frames are [head] or
 * [head][payload]. Received buffers are ZeroMQ's own memory (no copy; the bytes may lie at any address,
 * so read numbers with memcpy). A sent buffer is held until the transport is done with it.
 *
 * A connected port that has no connection refuses messages (UNREACHABLE) instead of queueing them for
 * later; only in its first OS_ENV_HOLD_MS it holds some for the connection being made. What waits for one
 * peer is bounded by os_env_options.window_bytes (BACKPRESSURE beyond).
 */
#pragma once

#include <poll.h>

#include "common/env.h"

#define OS_ENV_MSGS_PER_TURN 64
#define OS_ENV_HOLD_MS 300

struct os_env_options {
    uint32_t threads;          /* of disk; 0: 8 */
    uint64_t window_bytes;     /* not yet on the wire, per peer; 0: 64 MiB */
    uint32_t reconnect_ms;     /* first back-off, jittered; 0: 20 */
    uint32_t reconnect_ms_max; /* 0: 400 */
    /* CURVE keys come here. */
};

/* @opt may be NULL. Call before any other thread exists: signals get blocked in all that follow.
 * Returns: caller frees with os_env_free(). */
TC_MUST_CHECK int os_env_new(const struct os_env_options *opt, struct env **ret_env);
/* Closes ports, waits for running jobs (their done() is not called). Accepts NULL, returns NULL. */
struct env *os_env_free(struct env *e);

/* Runs turns until os_env_stop(). Returns its code. May be called again. */
int os_env_run(struct env *e);
/* Makes os_env_run() return @code after the current turn. From any thread or callback. */
void os_env_stop(struct env *e, int code);

/*
 * Stay awake for up to @us microseconds (0: never, as it is at first) in a wait that will be short, going by those
 * before it, on a processor that nobody else wants. @awaits tells whether an answer is outstanding: waits with and without
 * are foretold apart. Never done where there is one processor.
 */
void os_env_busy_poll(struct env *e, uint32_t us, bool (*awaits)(void *arg), void *arg);

/* Call @fn when poll reports @events on @fd (level-triggered, once a turn). One entry per fd. */
void os_env_add_fd(struct env *e, int fd, short events, void (*fn)(void *arg, short revents), void *arg);
/* No callback of this fd comes after it. Harmless if unknown. */
void os_env_remove_fd(struct env *e, int fd);

/* Call @fn(arg, signo) on the loop when the process gets @signo, which is blocked from now on. */
void os_env_on_signal(struct env *e, int signo, void (*fn)(void *arg, int signo), void *arg);

/* Where @p really listens ("tcp://127.0.0.1:34567" for port 0), for tests. Borrowed from the port. */
const char *os_env_endpoint(struct net_port *p);
