/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filesystem as a library: sessions, leases, caches and quorum I/O behind asynchronous POSIX-shaped
 * calls. The mount, the simulator's workloads and the tools stand on it. Everything runs on the env's loop.
 *
 * Every call finishes by exactly one call of its callback, never from inside the call itself. Status is
 * 0 or -TC_E_x. Pointers handed to a callback are borrowed for its duration. Strings and buffers handed
 * to a call are copied or referenced by it before it returns, unless it says otherwise.
 *
 * Waiting: with wait_ms UINT64_MAX a call waits for ever while servers are away; otherwise it
 * fails with TC_E_DEADLINE after wait_ms. tc_client_cancel() ends one call early with TC_E_CANCELLED: an
 * operation already sent goes on or not, as after an interrupt of a local call.
 */
#pragma once

#include "common/env.h"
#include "common/locks.h"
#include "common/schema.h"

struct tc_client;
struct tc_call; /* one call in flight; valid until its callback runs */

struct tc_client_config {
    const char *const *members; /* endpoints of the metadata group, "tcp://host:port" */
    unsigned n_members;
    const char *const *stores; /* endpoints of storage nodes, who are asked where the group is when no member answers and no map
                                * has told of others. Borrowed for the client's life; may be stale, or NULL */
    unsigned n_stores;
    const char *name;   /* shown by status: "host:/mount/point" */
    const char *root;   /* directory of the filesystem to mount, "/" by default */
    uint64_t wait_ms;   /* UINT64_MAX: for ever */
    uint64_t memory_max; /* bytes of caches and dirty data; 0: 256 MiB */
    bool read_anywhere;  /* half of the name and attribute reads go to members that do not lead: less load there, but
                          * nothing of these answers is cached */
    uint64_t dirty_age_ms; /* flush dirty data this old; 0: 1000 */

    /* Called when the kernel may no longer use what it has cached; @done must follow, from the loop. NULL: nothing
     * is cached outside. ino's data in [off, off+len) (len 0: none; UINT64_MAX: to the end) and its attributes. */
    void (*invalidate_inode)(void *arg, uint64_t ino, uint64_t off, uint64_t len, void (*done)(void *done_arg),
                             void *done_arg);
    /* The entry @name of @parent, if the kernel was ever given it. */
    void (*invalidate_entry)(void *arg, uint64_t parent, const char *name, void (*done)(void *done_arg),
                             void *done_arg);
    void *arg;
};

struct tc_cred {
    uint32_t uid, gid, umask;
};

/* How long an answer may be cached outside: until this env_now() time; 0: not at all (PROTOCOL section 8). */
struct tc_entry {
    uint64_t ino;   /* 0: negative */
    struct attr attr;
    uint64_t attr_until;
    uint64_t entry_until;
    bool keep_data; /* open: what the kernel has cached of the data is still good */
};

typedef void tc_status_fn(void *arg, int status);
typedef void tc_entry_fn(void *arg, int status, const struct tc_entry *entry);
typedef void tc_bytes_fn(void *arg, int status, const void *data, size_t len);
/* @iov borrowed; short only at end of file. */
typedef void tc_read_fn(void *arg, int status, const struct iovec *iov, int n_iov, size_t len);
typedef void tc_write_fn(void *arg, int status, size_t len, uint64_t off /* where it went: O_APPEND */);
typedef void tc_statfs_fn(void *arg, int status, const struct statfs_res *res);
typedef void tc_seek_fn(void *arg, int status, uint64_t off);

struct tc_dirent {
    struct wire_str name;
    uint64_t cookie; /* of the position behind this entry */
    uint64_t ino;
    uint32_t mode;
    const struct tc_entry *entry; /* NULL: attributes not known */
};
/* @entries in cookie order. eof: nothing behind the last. */
typedef void tc_readdir_fn(void *arg, int status, const struct tc_dirent *entries, unsigned n, bool eof);

/* Start: connects and opens a session in the background. @ready runs once the session is open (0), or with
 * the error that makes it impossible (WRONG_CLUSTER, NO_GENESIS, NOENT of root, DEADLINE by wait_ms). */
int tc_client_open(struct env *env, const struct tc_client_config *cfg, tc_status_fn *ready, void *arg,
                   struct tc_client **ret_client);
/* Flush everything, release leases, close the session (bounded by @timeout_ms), then @done. */
void tc_client_shutdown(struct tc_client *c, uint64_t timeout_ms, tc_status_fn *done, void *arg);
/* Free at once: nothing is flushed; calls in flight get no callback. Accepts NULL. */
void tc_client_free(struct tc_client *c);
uint64_t tc_client_root(const struct tc_client *c);
void tc_client_cancel(struct tc_client *c, struct tc_call *call);
/* Counters and state as JSON object text. Returns: caller frees. */
char *tc_client_stats(struct tc_client *c);

/* ---- names. The kernel (or caller) checks permissions. ---- */
struct tc_call *tc_lookup(struct tc_client *c, uint64_t parent, const char *name, tc_entry_fn *fn, void *arg);
/* The caller no longer refers to the inode: n references of those counted by successful lookup, make, link,
 * readdir-plus entries. */
void tc_forget(struct tc_client *c, uint64_t ino, uint64_t n);
/* A directory is opened, and closed again: what was removed stays for whoever has it open. @ino is referred to by the caller. */
void tc_dir_open(struct tc_client *c, uint64_t ino);
void tc_dir_close(struct tc_client *c, uint64_t ino);
/* Does the caller refer to @ino (an answer that counted may still be on its way)? */
bool tc_referenced(struct tc_client *c, uint64_t ino);
struct tc_call *tc_getattr(struct tc_client *c, uint64_t ino, tc_entry_fn *fn, void *arg);
/* @set: ino, mask and values; ctx ignored. @cred for ownership checks is the kernel's matter. */
struct tc_call *tc_setattr(struct tc_client *c, const struct setattr_req *set, tc_entry_fn *fn, void *arg);
/* mode with S_IFMT; target for symlinks; rdev for devices. open: opens it as by tc_open() in the same step. */
struct tc_call *tc_make(struct tc_client *c, uint64_t parent, const char *name, uint32_t mode, uint64_t rdev,
                        const char *target, const struct tc_cred *cred, bool excl, bool open, tc_entry_fn *fn,
                        void *arg);
struct tc_call *tc_link(struct tc_client *c, uint64_t ino, uint64_t parent, const char *name, tc_entry_fn *fn,
                        void *arg);
struct tc_call *tc_unlink(struct tc_client *c, uint64_t parent, const char *name, bool dir, tc_status_fn *fn,
                          void *arg);
struct tc_call *tc_rename(struct tc_client *c, uint64_t parent, const char *name, uint64_t new_parent,
                          const char *new_name, uint32_t flags, tc_status_fn *fn, void *arg);
struct tc_call *tc_readdir(struct tc_client *c, uint64_t ino, uint64_t cookie, unsigned max, bool plus,
                           tc_readdir_fn *fn, void *arg);
struct tc_call *tc_readlink(struct tc_client *c, uint64_t ino, tc_bytes_fn *fn, void *arg);
struct tc_call *tc_statfs(struct tc_client *c, tc_statfs_fn *fn, void *arg);
struct tc_call *tc_getxattr(struct tc_client *c, uint64_t ino, const char *name, tc_bytes_fn *fn, void *arg);
struct tc_call *tc_listxattr(struct tc_client *c, uint64_t ino, tc_bytes_fn *fn, void *arg);
struct tc_call *tc_setxattr(struct tc_client *c, uint64_t ino, const char *name, const void *value, size_t len,
                            uint32_t flags, tc_status_fn *fn, void *arg);
struct tc_call *tc_removexattr(struct tc_client *c, uint64_t ino, const char *name, tc_status_fn *fn, void *arg);

/* ---- open files ---- */
struct tc_file; /* one open file description: carries its pending error */

enum tc_open_flags { TC_OPEN_READ = 1, TC_OPEN_WRITE = 2, TC_OPEN_APPEND = 4, TC_OPEN_TRUNC = 8, TC_OPEN_SYNC = 16,
                     /* To tc_open(): the caller can do without its cache. In tc_file_flags(): it has to, as the file is
                      * fought over; only of files opened for reading alone. */
                     TC_OPEN_MAY_DIRECT = 32, TC_OPEN_DIRECT = 64,
                     TC_OPEN_UNCACHED = TC_OPEN_APPEND | TC_OPEN_DIRECT /* any: data passes outside caches by */ };

/* On success *ret_file is set when the callback runs (tc_open, and tc_make with open). */
struct tc_call *tc_open(struct tc_client *c, uint64_t ino, uint32_t flags, struct tc_file **ret_file,
                        tc_entry_fn *fn, void *arg);
/* The file that tc_make(open) made: call from its callback. */
struct tc_file *tc_file_new(struct tc_client *c, uint64_t ino, uint32_t flags);
uint32_t tc_file_flags(const struct tc_file *f); /* as it was opened */
/* Reports a pending error once; flushes nothing (data stays under the lease), unless the stores
 * are nearly full: then a close without an error is as good as an fsync. For close(2). */
struct tc_call *tc_flush(struct tc_client *c, struct tc_file *f, tc_status_fn *fn, void *arg);
/* Last reference gone. */
void tc_release(struct tc_client *c, struct tc_file *f);
struct tc_call *tc_read(struct tc_client *c, struct tc_file *f, uint64_t off, size_t len, tc_read_fn *fn, void *arg);
/* @data: shared (the call takes a reference, keeps it until flushed): [data_off, data_off+len) of it. With
 * TC_OPEN_APPEND, or @append, it goes to the true end of file. A file opened with TC_OPEN_APPEND is taken not to be
 * cached outside through this descriptor: what others have cached there is dropped before the write is seen to be
 * done. kill_priv: clear suid and sgid as write(2) does. */
struct tc_call *tc_write(struct tc_client *c, struct tc_file *f, struct buf *data, size_t data_off, size_t len,
                         uint64_t off, bool append, bool kill_priv, tc_write_fn *fn, void *arg);
/* A page written back by the kernel for a shared mapping: never waits (docs/FUSE.md 3.2). */
struct tc_call *tc_write_mapped(struct tc_client *c, uint64_t ino, struct buf *data, size_t data_off, size_t len,
                                uint64_t off, tc_write_fn *fn, void *arg);
struct tc_call *tc_fsync(struct tc_client *c, struct tc_file *f, tc_status_fn *fn, void *arg);
enum tc_fallocate_mode { TC_FALLOC = 0, TC_FALLOC_KEEP_SIZE = 1, TC_FALLOC_PUNCH = 2, TC_FALLOC_ZERO = 4, TC_FALLOC_KILL_PRIV = 8 };
struct tc_call *tc_fallocate(struct tc_client *c, struct tc_file *f, uint32_t mode, uint64_t off, uint64_t len,
                             tc_status_fn *fn, void *arg);
/*
 * Advisory locks (locks.h), good against every client's. @l: session ignored; owner is a process, or an open file, of the
 * caller's choice. To set one needs nobody's leave: whether @f may be locked so is for the caller to check. Status AGAIN:
 * another lock is in the way; with @wait it is waited for. IO: the file's locks were lost with the session; it fails until it
 * is closed. NOLCK: too many. Cancelled, a lock is not held.
 */
struct tc_call *tc_lock(struct tc_client *c, struct tc_file *f, const struct file_lock *l, bool wait, tc_status_fn *fn,
                        void *arg);
/* @other: one that is in the way, NULL if none is. */
typedef void tc_lock_fn(void *arg, int status, const struct file_lock *other);
struct tc_call *tc_lock_test(struct tc_client *c, struct tc_file *f, const struct file_lock *l, tc_lock_fn *fn, void *arg);
/* Might the owner have one, or soon get it? A file that is closed is to be unlocked. */
bool tc_lock_held(const struct tc_file *f, uint64_t owner, enum lock_family family);
/* SEEK_DATA (hole = false) or SEEK_HOLE from @off. NXIO past the end. */
struct tc_call *tc_seek(struct tc_client *c, struct tc_file *f, uint64_t off, bool hole, tc_seek_fn *fn, void *arg);
