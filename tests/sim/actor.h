/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Actors: programs of the simulated clients, written as straight code. Each is a coroutine; a call to the
 * client library suspends it until the callback came. When its client is killed the call returns ACTOR_KILLED,
 * and what became of the operation is unknown.
 */
#pragma once

#include "sim/cluster.h"

#define ACTOR_KILLED (-1000000)

struct actor;
typedef void actor_fn(struct actor *a);

enum { ACTOR_READ_MAX = 1 << 18, ACTOR_ENTRIES_MAX = 256, ACTOR_NAME_MAX = 32 };

struct actor_entry {
    char name[ACTOR_NAME_MAX];
    uint64_t ino;
    uint32_t mode;
};

struct actor {
    struct cluster *c;
    struct client *cl;
    uint32_t index;
    actor_fn *fn;
    void *arg;
    struct sim_rng rng;
    bool done;
    /* state of the call under way */
    bool waiting, calling;
    int status;
    uint64_t ino, size; /* results */
    uint32_t mode, nlink;
    uint64_t mtime, off;
    size_t len;
    uint8_t *data; /* of a read */
    struct actor_entry *entries;
    unsigned n_entries;
    uint64_t cookie;
    bool eof;
    const char *doing;
    uint64_t since;
    struct tc_call *cancel; /* the call under way, to be cancelled at cancel_at */
    uint64_t cancel_at;
    bool found; /* by a_lock_test() */
    struct coro *coro;
};

/* Starts in the next event. Freed by cluster_free(). */
struct actor *actor_new(struct client *cl, actor_fn *fn, void *arg);
void actor_free(struct actor *a);
void actors_killed(struct client *cl); /* cluster.c: calls under way return ACTOR_KILLED */

void actor_sleep(struct actor *a, uint64_t ns);
/* Wait until the client can be used; false: the run is over. */
bool actor_ready(struct actor *a);

/* The client library's calls. 0 or an error. Results are in the actor. */
int a_lookup(struct actor *a, uint64_t parent, const char *name); /* ino, mode, size, nlink, mtime */
int a_getattr(struct actor *a, uint64_t ino);
int a_truncate(struct actor *a, uint64_t ino, uint64_t size);
int a_utimes(struct actor *a, uint64_t ino, uint64_t mtime);
int a_make(struct actor *a, uint64_t parent, const char *name, uint32_t mode, bool excl); /* ino, ... */
int a_symlink(struct actor *a, uint64_t parent, const char *name, const char *target);
int a_link(struct actor *a, uint64_t ino, uint64_t parent, const char *name);
int a_unlink(struct actor *a, uint64_t parent, const char *name, bool dir);
int a_rename(struct actor *a, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
             uint32_t flags);
int a_list(struct actor *a, uint64_t ino); /* entries, n_entries: the whole directory */
int a_open(struct actor *a, uint64_t ino, uint32_t flags, struct tc_file **ret_file);
void a_release(struct actor *a, struct tc_file *f, uint64_t kills); /* kills: of the client when it was opened */
int a_read(struct actor *a, struct tc_file *f, uint64_t off, size_t len); /* data, len */
int a_write(struct actor *a, struct tc_file *f, const void *data, size_t len, uint64_t off, bool append); /* off */
int a_seek(struct actor *a, struct tc_file *f, uint64_t off, bool hole); /* off */
int a_fsync(struct actor *a, struct tc_file *f);
/* @wait_ns: how long it is waited for before the call is cancelled; 0: not at all. */
int a_lock(struct actor *a, struct tc_file *f, const struct file_lock *l, uint64_t wait_ns);
int a_lock_test(struct actor *a, struct tc_file *f, const struct file_lock *l); /* found */
