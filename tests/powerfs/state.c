/* SPDX-License-Identifier: Apache-2.0 */
/* What powerfs holds: files with their unsynced sectors, directories with their unsynced changes. See powerfs.c. */
#include "powerfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

void *pfs_alloc(size_t n)
{
    void *p = calloc(1, n ? n : 1);

    if (!p)
        abort();
    return p;
}

uint64_t pfs_random(struct pfs *fs, uint64_t n)
{
    uint64_t z = (fs->rng += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % n;
}

/* ---- nodes and names -------------------------------------------------------------------------- */

static void obj_path(const struct node *n, char path[32])
{
    (void)snprintf(path, 32, "%llu", (unsigned long long)n->obj);
}

static struct node *node_new(struct pfs *fs, mode_t mode)
{
    struct node *n = pfs_alloc(sizeof *n);

    n->id = fs->next_id++;
    n->obj = fs->next_obj++;
    n->mode = mode;
    n->fd = -1;
    clock_gettime(CLOCK_REALTIME, &n->mtime);
    HASH_ADD(hh, fs->nodes, id, sizeof n->id, n);
    return n;
}

struct node *pfs_node(struct pfs *fs, uint64_t id)
{
    struct node *n;

    HASH_FIND(hh, fs->nodes, &id, sizeof id, n);
    return n;
}

void pfs_release(struct pfs *fs, struct node *n)
{
    char path[32];

    if (n->refs || n->opens || n->lookups || n == fs->root)
        return;
    if (S_ISREG(n->mode)) {
        obj_path(n, path);
        (void)unlinkat(fs->dir_fd, path, 0);
    }
    pfs_pages_free(n);
    HASH_DEL(fs->nodes, n);
    free(n);
}

static struct name *name_find(struct name *map, const char *name)
{
    struct name *e;

    HASH_FIND_STR(map, name, e);
    return e;
}

struct node *pfs_find(struct node *dir, const char *name)
{
    struct name *e = name_find(dir->now, name);

    return e ? e->node : NULL;
}

void pfs_name_set(struct pfs *fs, struct node *dir, bool durable, const char *name, struct node *n)
{
    struct name **map = durable ? &dir->durable : &dir->now;
    struct name *e = name_find(*map, name);
    struct node *old = NULL;

    if (n) {
        n->refs++;
        n->nlink += durable ? 0 : 1;
    }
    if (e) {
        old = e->node;
        HASH_DEL(*map, e);
        free(e);
    }
    if (n) {
        e = pfs_alloc(sizeof *e + strlen(name) + 1);
        strcpy(e->text, name);
        e->node = n;
        HASH_ADD_STR(*map, text, e);
    }
    if (old) {
        old->refs--;
        old->nlink -= durable ? 0 : 1;
        pfs_release(fs, old);
    }
}

static void part_set(struct part *p, struct node *dir, const char *name, struct node *n)
{
    *p = (struct part){dir, n, strdup(name)};
    dir->refs++;
    if (n)
        n->refs++;
}

/* The op leaves the list; if it @happened its names are durable. */
void pfs_op_free(struct pfs *fs, struct op *op, bool happened)
{
    DL_DELETE(fs->ops, op);
    for (int i = 0; i < 2; i++) {
        struct part *p = &op->part[i];

        if (!p->dir)
            continue;
        if (happened)
            pfs_name_set(fs, p->dir, true, p->name, p->node);
        p->dir->refs--;
        pfs_release(fs, p->dir);
        if (p->node) {
            p->node->refs--;
            pfs_release(fs, p->node);
        }
        free(p->name);
    }
    free(op);
}

void pfs_change(struct pfs *fs, struct node *dir, const char *name, struct node *n, struct node *to, const char *to_name)
{
    struct op *op = pfs_alloc(sizeof *op);

    part_set(&op->part[0], dir, name, n);
    if (to)
        part_set(&op->part[1], to, to_name, pfs_find(dir, name));
    DL_APPEND(fs->ops, op);
    for (int i = 0; i < 2; i++)
        if (op->part[i].dir)
            pfs_name_set(fs, op->part[i].dir, false, op->part[i].name, op->part[i].node);
    clock_gettime(CLOCK_REALTIME, &dir->mtime);
    if (dir == fs->root) /* the machines themselves do not go */
        pfs_op_free(fs, op, true);
}

void pfs_sync_dir(struct pfs *fs, struct node *dir)
{
    struct op *op, *next;

    fs->stat.dir_syncs++;
    DL_FOREACH_SAFE(fs->ops, op, next)
        if (op->part[0].dir == dir || op->part[1].dir == dir)
            pfs_op_free(fs, op, true);
}

struct node *pfs_make(struct pfs *fs, struct node *dir, const char *name, mode_t mode)
{
    struct node *n = node_new(fs, mode);
    char path[32];
    int fd;

    if (S_ISREG(mode)) {
        obj_path(n, path);
        fd = openat(fs->dir_fd, path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0) {
            pfs_release(fs, n);
            return NULL;
        }
        (void)close(fd);
    }
    if (dir == fs->root) {
        n->top = pfs_alloc(sizeof *n->top);
        n->top->dir = n;
        LL_PREPEND(fs->tops, n->top);
    } else {
        n->top = dir->top;
        if (dir->area[0])
            memcpy(n->area, dir->area, sizeof n->area);
        else if (S_ISDIR(mode))
            (void)snprintf(n->area, sizeof n->area, "%s", name);
    }
    pfs_change(fs, dir, name, n, NULL, NULL);
    return n;
}

int pfs_init(struct pfs *fs, const char *backing)
{
    fs->dir_fd = open(backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fs->dir_fd < 0)
        return -errno;
    fs->next_id = 1; /* FUSE_ROOT_ID */
    fs->next_obj = 10;
    fs->root = node_new(fs, S_IFDIR | 0700);
    fs->next_id = 10;
    return 0;
}

/* ---- files ------------------------------------------------------------------------------------ */

int pfs_open(struct pfs *fs, struct node *n)
{
    char path[32];

    if (n->opens == 0) {
        obj_path(n, path);
        n->fd = openat(fs->dir_fd, path, O_RDWR | O_CLOEXEC);
        if (n->fd < 0)
            return -errno;
    }
    n->opens++;
    return 0;
}

void pfs_close(struct pfs *fs, struct node *n)
{
    if (n->opens == 0 || --n->opens > 0)
        return;
    (void)close(n->fd);
    n->fd = -1;
    pfs_release(fs, n);
}

void pfs_pages_free(struct node *n)
{
    struct page *p, *next;

    HASH_ITER(hh, n->dirty, p, next)
    {
        HASH_DEL(n->dirty, p);
        free(p);
    }
}

void pfs_sync(struct pfs *fs, struct node *n)
{
    fs->stat.syncs++;
    pfs_pages_free(n);
    n->durable_size = n->size;
}

static struct page *page_get(struct node *n, uint64_t index)
{
    struct page *p;

    HASH_FIND(hh, n->dirty, &index, sizeof index, p);
    if (p)
        return p;
    p = pfs_alloc(sizeof *p);
    p->index = index;
    HASH_ADD(hh, n->dirty, index, sizeof p->index, p);
    return p;
}

/* Before [off, end) changes: keep what was durable there. A sector changed again may have reached the disk meanwhile. */
static int keep_before(struct pfs *fs, struct node *n, uint64_t off, uint64_t end, bool by_truncate)
{
    for (uint64_t at = off / SECTOR * SECTOR; at < end;) {
        struct page *p = page_get(n, at / PAGE);
        uint64_t page_end = (at / PAGE + 1) * PAGE, to = end < page_end ? end : page_end;
        uint8_t was[PAGE] = {0};
        bool reached = !by_truncate && p->mask && pfs_random(fs, 4) == 0;

        if (at / PAGE * PAGE < n->size && pread(n->fd, was, PAGE, (off_t)(at / PAGE * PAGE)) < 0)
            return -errno;
        for (; at < to; at += SECTOR) {
            unsigned s = (unsigned)(at % PAGE / SECTOR);
            uint8_t bit = (uint8_t)(1U << s);

            if (!(p->mask & bit) || reached)
                memcpy(p->before + s * SECTOR, was + s * SECTOR, SECTOR);
            if (by_truncate && !(p->mask & bit))
                p->cut |= bit;
            if (!by_truncate)
                p->cut &= (uint8_t)~bit;
            p->mask |= bit;
        }
        at = to;
    }
    return 0;
}

int pfs_write(struct pfs *fs, struct node *n, const void *data, size_t len, uint64_t off)
{
    int r = keep_before(fs, n, off, off + len, false);

    if (r < 0)
        return r;
    for (size_t done = 0; done < len;) {
        ssize_t w = pwrite(n->fd, (const char *)data + done, len - done, (off_t)(off + done));

        if (w < 0)
            return -errno;
        done += (size_t)w;
    }
    if (off + len > n->size)
        n->size = off + len;
    clock_gettime(CLOCK_REALTIME, &n->mtime);
    return 0;
}

int pfs_truncate(struct pfs *fs, struct node *n, uint64_t size)
{
    int r = pfs_open(fs, n);

    if (r < 0)
        return r;
    if (size < n->size)
        r = keep_before(fs, n, size, n->size, true);
    if (r == 0 && ftruncate(n->fd, (off_t)size) < 0)
        r = -errno;
    if (r == 0)
        n->size = size;
    pfs_close(fs, n);
    return r;
}

int pfs_punch(struct pfs *fs, struct node *n, uint64_t off, uint64_t len)
{
    uint64_t end = off + len < n->size ? off + len : n->size;
    int r;

    if (off >= end)
        return 0;
    r = keep_before(fs, n, off, end, false);
    if (r == 0 && fallocate(n->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)(end - off)) < 0)
        r = -errno;
    return r;
}
