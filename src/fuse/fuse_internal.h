/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the mount: FUSE requests in, client calls out, on one loop.
 *
 * The FUSE node id is the inode number; only the mounted directory differs (FUSE_ROOT_ID stands for it). A
 * request that waits for the client is a fop: made by a handler, ended by exactly one reply in the client's
 * callback. Nothing here runs on another thread but the kernel notifications of invalidate.c, in env jobs.
 */
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <uthash.h>
#include <utlist.h>

#include "client/client.h"
#include "common/env.h"
#include "common/os_env.h"

#define FUSE_IO_MAX (1u << 20)
/* A request's buffer: the largest WRITE, its headers, and room so that the kernel accepts the read size. */
#define FUSE_BUF_SIZE (FUSE_IO_MAX + 4096u)
/* Below this a WRITE's data is copied into a buffer of its size, so that it does not pin a whole megabyte. */
#define FUSE_KEEP_MIN (128u << 10)
#define FUSE_REQUESTS_PER_TURN 16
#define FUSE_SPARE_BUFS 8

/* The names that a thread looked up last (walk.c). */
struct walk {
    int tid;      /* 0: nothing */
    bool again;   /* it was told ESTALE, and walks once more ... */
    bool told;    /* ... or looks up once more the name for which it was, having dropped what it had */
    bool renames; /* @last was looked up by a rename(), certainly */
    bool gone;    /* it was told ESTALE for an inode without names, and since then only looked up names */
    struct {
        uint64_t parent, hash, ino; /* 0: none, or not found */
    } last, other;                  /* the last name, and the last one that is not this */
};
#define WALKS_MAX 4096

struct tc_mount {
    struct env *env;
    struct tc_client *client;
    struct fuse_session *se;
    uint64_t root; /* inode behind FUSE_ROOT_ID */
    char *mountpoint;
    bool strict_pages; /* pages=strict */
    bool own_locks;    /* locks=mount: the kernel keeps them, for this mount alone */

    /* the request being handled, as the kernel sent it: what libfuse hides of it is read here */
    struct buf *request;
    struct buf *spare[FUSE_SPARE_BUFS];
    unsigned n_spare;
    uint64_t init_unique;
    uint32_t init_offered;
    bool direct_reads; /* direct_io does not forbid shared mappings */
    bool init_done;

    struct walk walks[WALKS_MAX]; /* by thread */
    struct fop *ops; /* in flight */
    struct env_timer interrupt_timer;
    struct fuse_inode_io *io; /* reads, writes and invalidations by inode */
    struct env_queue notify_queue;
    struct env_queue entry_queue; /* one at a time: each may hang on a directory's lock in the kernel */
    struct env_job ready_job; /* read-ahead setting */
    void (*on_unmounted)(struct tc_mount *m);
};

enum fop_kind { FOP_PLAIN, FOP_READ, FOP_WRITE, FOP_GETATTR };

struct fop {
    struct tc_mount *m;
    fuse_req_t req;
    struct tc_call *call;
    enum fop_kind kind;
    bool interrupted;
    bool any_signal; /* ends it, not only one that kills: waiting for a lock */
    uint64_t ino;
    uint64_t off;
    size_t len;
    struct tc_file *file;
    uint64_t name_hash; /* lookups: of the name */
    int tid;
    bool told_gone; /* by its thread's last request but for lookups */
    uint32_t flags;
    size_t size;   /* readdir: room; xattr: size asked */
    bool plus;
    bool direct; /* the file is not in the page cache */
    bool append;
    struct fop *prev, *next;
    struct fop *io_prev, *io_next; /* among the reads and writes, or GETATTRs, of its inode */
    uint64_t seq;                  /* of GETATTRs; a waiting write: of the last it waits for */
    void (*answer)(struct fop *op);
    uint64_t went; /* a WRITE: its true place */
    struct fop *wait_prev, *wait_next;
};

/* mount.c */
struct fop *fop_new(fuse_req_t req, uint64_t nodeid);
void fop_end(struct fop *op); /* after the reply: frees */
static inline struct tc_mount *mount_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}
static inline uint64_t ino_of(const struct tc_mount *m, fuse_ino_t nodeid)
{
    return nodeid == FUSE_ROOT_ID ? m->root : nodeid;
}
static inline fuse_ino_t nodeid_of(const struct tc_mount *m, uint64_t ino)
{
    return ino == m->root ? FUSE_ROOT_ID : ino;
}
int mount_start(struct tc_mount *m, const char *source, const char *options);
void mount_stop(struct tc_mount *m);
void mount_attr(const struct tc_mount *m, const struct attr *a, struct stat *ret_st);
double mount_timeout(const struct tc_mount *m, uint64_t until); /* seconds left of a right to cache */
void mount_entry(const struct tc_mount *m, const struct tc_entry *e, struct fuse_entry_param *ret_ep);

/* interrupt.c */
void fop_on_interrupt(fuse_req_t req, void *arg);
void interrupt_tick(struct env_timer *t);

/* names.c, files.c: the handlers */
void names_set_ops(struct fuse_lowlevel_ops *ops);
void files_set_ops(struct fuse_lowlevel_ops *ops);

/* walk.c */
void walk_begin(struct fop *op);                   /* each request, first */
void walk_name(struct fop *op, const char *name);  /* that of a lookup */
int walk_step(struct fop *op, int status, const struct tc_entry *e); /* its answer: 0, or the errno to be told instead */
void walk_over(struct fop *op);                    /* what the thread found counts no more */
int walk_errno(struct fop *op, int status);        /* of an inode that the thread walked to */

/* invalidate.c */
void invalidate_inode(void *arg, uint64_t ino, uint64_t off, uint64_t len, void (*done)(void *done_arg),
                      void *done_arg);
void invalidate_entry(void *arg, uint64_t parent, const char *name, void (*done)(void *done_arg), void *done_arg);
void io_begin(struct fop *op); /* a READ or WRITE came */
void io_end(struct fop *op);   /* its answer was written */
/*
 * When a WRITE's answer arrives the kernel throws away the size that a GETATTR under way will bring: it would
 * go on with its own idea of the end of file, though another client's appends have moved it. So an answer
 * to a write past the kernel's cache waits for the GETATTRs that came before it (true), then calls @answer.
 */
void attr_begin(struct fop *op);
void attr_end(struct fop *op);
bool attr_wait(struct fop *op, void (*answer)(struct fop *op));
void invalidate_free(struct tc_mount *m);
