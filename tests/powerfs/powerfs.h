/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of powerfs and what changes it (state.c), and the loss of power (loss.c). powerfs.c says what the parts mean.
 * Functions return 0 or -errno. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#include <uthash.h>

enum { PAGE = 4096, SECTOR = 512, SECTORS = PAGE / SECTOR };

struct node;

struct name {
    struct node *node;
    UT_hash_handle hh;
    char text[];
};

/* What a page was when it was last durable: only the sectors in the mask. */
struct page {
    uint64_t index;
    uint8_t mask; /* sectors that differ, or may, from what is durable */
    uint8_t cut;  /* of these: changed by truncate only, so that they go with the size */
    UT_hash_handle hh;
    uint8_t before[PAGE];
};

/* A directory in the root: one machine's disk. */
struct top {
    struct node *dir;
    bool cut, losing;
    bool bad_reads, bad_writes; /* fail with EIO ... */
    char bad_area[32];          /* ... in this directory of it; "": everywhere */
    struct top *next;
};

enum fail { FAIL_READ = 1, FAIL_WRITE = 2, FAIL_SYNC = 4 };

struct node {
    uint64_t id, obj;
    mode_t mode;
    nlink_t nlink; /* names in `now` maps */
    uint64_t size, durable_size;
    struct timespec mtime;
    struct top *top; /* NULL: the root */
    unsigned fails;  /* enum fail: what of it fails with EIO, reads and writes from fail_from up to fail_to */
    uint64_t fail_from, fail_to;
    char area[32];   /* the directory of the top in which it was made; "": the top itself */
    int fd;          /* open while `opens` > 0, or for the length of a call */
    unsigned opens, refs;
    uint64_t lookups;
    struct page *dirty;
    struct name *now, *durable;
    UT_hash_handle hh;
};

/* One change of names, not durable yet: sets, or with node NULL removes, one or two names. */
struct op {
    struct part {
        struct node *dir, *node;
        char *name;
    } part[2];
    struct op *prev, *next;
};

struct pfs {
    int dir_fd;
    uint64_t next_id, next_obj, rng;
    struct node *nodes, *root;
    struct top *tops;
    struct op *ops;
    struct {
        uint64_t losses, sectors, sectors_lost, sizes_lost, names, names_lost, syncs, dir_syncs;
    } stat;
};

int pfs_init(struct pfs *fs, const char *backing);
void *pfs_alloc(size_t n); /* zeroed; ends the program when there is no memory */

struct node *pfs_node(struct pfs *fs, uint64_t id);
struct node *pfs_find(struct node *dir, const char *name);
/* A new file or directory; NULL with errno. */
struct node *pfs_make(struct pfs *fs, struct node *dir, const char *name, mode_t mode);
/* @name in @dir becomes @n, or is removed. With @to: it is renamed to @to_name there. */
void pfs_change(struct pfs *fs, struct node *dir, const char *name, struct node *n, struct node *to, const char *to_name);
void pfs_sync_dir(struct pfs *fs, struct node *dir);
/* Free @n if nobody names it any more. */
void pfs_release(struct pfs *fs, struct node *n);

int pfs_open(struct pfs *fs, struct node *n);
void pfs_close(struct pfs *fs, struct node *n);
int pfs_write(struct pfs *fs, struct node *n, const void *data, size_t len, uint64_t off);
int pfs_truncate(struct pfs *fs, struct node *n, uint64_t size);
int pfs_punch(struct pfs *fs, struct node *n, uint64_t off, uint64_t len);
void pfs_sync(struct pfs *fs, struct node *n);

/* Parts of state.c that a loss uses. */
void pfs_name_set(struct pfs *fs, struct node *dir, bool durable, const char *name, struct node *n);
void pfs_op_free(struct pfs *fs, struct op *op, bool happened);
void pfs_pages_free(struct node *n);
uint64_t pfs_random(struct pfs *fs, uint64_t n); /* below n */

/* Do changes (or reads) of this fail? */
bool pfs_bad(const struct node *n, bool change);
int pfs_command(struct pfs *fs, char *text);
int pfs_report(const struct pfs *fs, char *text, size_t len);
