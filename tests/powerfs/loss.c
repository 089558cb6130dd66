/* SPDX-License-Identifier: Apache-2.0 */
/* Power is lost: what was not synced survives by chance. See powerfs.c. */
#include "powerfs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

enum way { WAY_NONE, WAY_ALL, WAY_BEGINNING, WAY_SOME, WAY_MIXED };

static bool losing(const struct node *n)
{
    return n->top && n->top->losing;
}

static enum way choose_way(struct pfs *fs, enum way all)
{
    uint64_t r = pfs_random(fs, 10);

    if (all != WAY_MIXED)
        return all;
    return r < 4 ? WAY_NONE : r < 5 ? WAY_ALL : r < 7 ? WAY_BEGINNING : WAY_SOME;
}

/* ---- files ------------------------------------------------------------------------------------ */

static uint64_t surviving_size(struct pfs *fs, const struct node *n, enum way way)
{
    uint64_t r = pfs_random(fs, 3);

    if (n->size == n->durable_size || way == WAY_ALL)
        return n->size;
    if (way == WAY_NONE)
        return n->durable_size;
    if (n->size < n->durable_size) /* a truncate happened or not */
        return r ? n->size : n->durable_size;
    return r == 0 ? n->durable_size : r == 1 ? n->size : n->durable_size + pfs_random(fs, n->size - n->durable_size);
}

static int page_lose(struct pfs *fs, struct node *n, struct page *p, enum way way, uint64_t limit, bool cut_back)
{
    uint64_t odds = 1 + pfs_random(fs, 9);

    for (unsigned s = 0; s < SECTORS; s++) {
        uint8_t bit = (uint8_t)(1U << s);
        uint64_t at = p->index * PAGE + s * SECTOR;
        bool back = way == WAY_NONE || (way == WAY_BEGINNING && at >= limit) ||
                    (way == WAY_SOME && pfs_random(fs, 10) < odds);

        if (!(p->mask & bit))
            continue;
        fs->stat.sectors++;
        if (p->cut & bit)
            back = cut_back;
        if (!back)
            continue;
        fs->stat.sectors_lost++;
        if (pwrite(n->fd, p->before + s * SECTOR, SECTOR, (off_t)at) != SECTOR)
            return -EIO;
    }
    return 0;
}

static int file_lose(struct pfs *fs, struct node *n, enum way way)
{
    uint64_t size = surviving_size(fs, n, way), end = n->size > n->durable_size ? n->size : n->durable_size;
    uint64_t limit = pfs_random(fs, end + 1) / SECTOR * SECTOR;
    bool cut_back = size == n->durable_size && n->size != n->durable_size;
    int r = pfs_open(fs, n);

    fs->stat.sizes_lost += size != n->size;
    for (struct page *p = n->dirty; p && r == 0; p = p->hh.next)
        r = page_lose(fs, n, p, way, limit, cut_back || way == WAY_NONE);
    if (r == 0 && ftruncate(n->fd, (off_t)size) < 0)
        r = -errno;
    pfs_pages_free(n);
    n->size = n->durable_size = size;
    pfs_close(fs, n);
    return r;
}

/* ---- names ------------------------------------------------------------------------------------ */

static void ops_lose(struct pfs *fs, enum way all)
{
    enum way way = choose_way(fs, all);
    struct op *op, *next;
    uint64_t n = 0, limit, i = 0;

    DL_FOREACH(fs->ops, op)
        n += losing(op->part[0].dir);
    limit = pfs_random(fs, n + 1);
    DL_FOREACH_SAFE(fs->ops, op, next)
    {
        bool happened = way == WAY_ALL || (way == WAY_BEGINNING && i < limit) ||
                        (way == WAY_SOME && pfs_random(fs, 2));

        if (!losing(op->part[0].dir))
            continue;
        i++;
        fs->stat.names++;
        fs->stat.names_lost += !happened;
        pfs_op_free(fs, op, happened);
    }
}

static void map_clear(struct pfs *fs, struct node *dir)
{
    struct name *e, *next;

    HASH_ITER(hh, dir->now, e, next)
        pfs_name_set(fs, dir, false, e->text, NULL);
}

/* The directory's names are the durable ones, and so below it. A name whose directory did not survive goes with it. */
static void dir_restore(struct pfs *fs, struct node *dir)
{
    for (struct name *e = dir->durable; e; e = e->hh.next) {
        pfs_name_set(fs, dir, false, e->text, e->node);
        if (S_ISDIR(e->node->mode))
            dir_restore(fs, e->node);
    }
}

/* Nodes no name leads to any more, and whatever only they name. */
static void orphans_free(struct pfs *fs)
{
    struct node *n, *next;
    bool again = true;

    while (again) {
        again = false;
        HASH_ITER(hh, fs->nodes, n, next)
        {
            if (!losing(n) || n->nlink || !n->durable)
                continue;
            n->refs++;
            while (n->durable)
                pfs_name_set(fs, n, true, n->durable->text, NULL);
            n->refs--;
            again = true;
            break; /* the table may have lost `next` */
        }
    }
}

static void renumber(struct pfs *fs)
{
    size_t count = HASH_COUNT(fs->nodes), k = 0;
    struct node **list = pfs_alloc((count + 1) * sizeof *list), *n, *next;

    HASH_ITER(hh, fs->nodes, n, next)
        if (losing(n))
            list[k++] = n;
    for (size_t i = 0; i < k; i++) {
        n = list[i];
        HASH_DEL(fs->nodes, n);
        n->id = fs->next_id++;
        n->lookups = 0;
        HASH_ADD(hh, fs->nodes, id, sizeof n->id, n);
    }
    for (size_t i = 0; i < k; i++)
        pfs_release(fs, list[i]);
    free(list);
}

/* ---- commands --------------------------------------------------------------------------------- */

static int lose(struct pfs *fs)
{
    static const enum way ways[] = {WAY_NONE, WAY_MIXED, WAY_MIXED, WAY_SOME};
    enum way all = ways[pfs_random(fs, 4)];
    struct node *n, *next;
    int r = 0;

    fs->stat.losses++;
    HASH_ITER(hh, fs->nodes, n, next)
    {
        if (!losing(n))
            continue;
        if (n->opens) { /* whoever had it open is gone; a late close finds nothing */
            (void)close(n->fd);
            n->fd = -1;
            n->opens = 0;
        }
        n->refs++;
    }
    ops_lose(fs, all);
    HASH_ITER(hh, fs->nodes, n, next)
        if (losing(n) && S_ISREG(n->mode) && (n->dirty || n->size != n->durable_size) && r == 0)
            r = file_lose(fs, n, choose_way(fs, all));
    HASH_ITER(hh, fs->nodes, n, next)
        if (losing(n) && S_ISDIR(n->mode))
            map_clear(fs, n);
    for (struct top *t = fs->tops; t; t = t->next)
        if (t->losing)
            dir_restore(fs, t->dir);
    orphans_free(fs);
    HASH_ITER(hh, fs->nodes, n, next)
        if (losing(n))
            n->refs--;
    renumber(fs);
    return r;
}

static bool top_is(struct pfs *fs, const struct top *t, const char *name)
{
    struct name *e;

    HASH_FIND_STR(fs->root->now, name, e);
    return e && e->node == t->dir;
}

/* Mark the named tops, or all of them. */
static int mark(struct pfs *fs, char *names)
{
    char *save = NULL, *name = strtok_r(names, " \n", &save);

    for (struct top *t = fs->tops; t; t = t->next)
        t->losing = !name;
    for (; name; name = strtok_r(NULL, " \n", &save)) {
        struct top *t;

        LL_FOREACH(fs->tops, t)
            if (top_is(fs, t, name))
                break;
        if (!t)
            return -ENOENT;
        t->losing = true;
    }
    return 0;
}

/* "HOW PATH [FROM TO]" */
static int fail(struct pfs *fs, const char *text)
{
    char how[8], path[512], *save = NULL;
    uint64_t from = 0, to = UINT64_MAX;
    struct node *n = fs->root;
    int got = sscanf(text, " %7s %511s %" SCNu64 " %" SCNu64, how, path, &from, &to);

    if ((got != 2 && got != 4) || how[strspn(how, "rws-")])
        return -EINVAL;
    for (char *name = strtok_r(path, "/", &save); name && n; name = strtok_r(NULL, "/", &save))
        n = S_ISDIR(n->mode) ? pfs_find(n, name) : NULL;
    if (!n)
        return -ENOENT;
    n->fails = (strchr(how, 'r') ? FAIL_READ : 0) | (strchr(how, 'w') ? FAIL_WRITE : 0) | (strchr(how, 's') ? FAIL_SYNC : 0);
    n->fail_from = from;
    n->fail_to = to;
    return 0;
}

bool pfs_bad(const struct node *n, bool change)
{
    const struct top *t = n->top;

    if (!t)
        return false;
    if (change && t->cut)
        return true;
    return (change ? t->bad_writes : t->bad_reads) && (!t->bad_area[0] || !strcmp(t->bad_area, n->area));
}

/* "break WHAT TOP[/DIRECTORY]": one that is named, for the directory is its own. */
static int set_bad(struct pfs *fs, char *text)
{
    char *save = NULL, *what = strtok_r(text, " \n", &save), *name = strtok_r(NULL, " \n", &save), *area;
    bool all;
    int r;

    if (!what || !name)
        return -EINVAL;
    area = strchr(name, '/');
    if (area)
        *area++ = 0;
    all = strcmp(what, "all") == 0;
    if (!all && strcmp(what, "reads") && strcmp(what, "changes") && strcmp(what, "nothing"))
        return -EINVAL;
    r = mark(fs, name);
    for (struct top *t = fs->tops; t && r == 0; t = t->next) {
        if (!t->losing)
            continue;
        t->bad_reads = all || strcmp(what, "reads") == 0;
        t->bad_writes = all || strcmp(what, "changes") == 0;
        (void)snprintf(t->bad_area, sizeof t->bad_area, "%s", area ? area : "");
    }
    return r;
}

int pfs_command(struct pfs *fs, char *text)
{
    uint64_t seed;
    int used = 0, r;

    if (strncmp(text, "cut", 3) == 0) {
        r = mark(fs, text + 3);
        for (struct top *t = fs->tops; t && r == 0; t = t->next)
            t->cut |= t->losing;
    } else if (strncmp(text, "fail ", 5) == 0) {
        r = fail(fs, text + 5);
    } else if (strncmp(text, "break ", 6) == 0) {
        r = set_bad(fs, text + 6);
    } else if (sscanf(text, "lose %" SCNu64 "%n", &seed, &used) == 1) {
        r = mark(fs, text + used);
        fs->rng = seed;
        if (r == 0)
            r = lose(fs);
        for (struct top *t = fs->tops; t && r == 0; t = t->next)
            t->cut &= !t->losing;
    } else {
        r = -EINVAL;
    }
    for (struct top *t = fs->tops; t; t = t->next)
        t->losing = false;
    return r;
}

int pfs_report(const struct pfs *fs, char *text, size_t len)
{
    return snprintf(text, len,
                    "losses=%" PRIu64 " sectors=%" PRIu64 " sectors_lost=%" PRIu64 " sizes_lost=%" PRIu64 " names=%" PRIu64
                    " names_lost=%" PRIu64 " syncs=%" PRIu64 " dir_syncs=%" PRIu64 "\n",
                    fs->stat.losses, fs->stat.sectors, fs->stat.sectors_lost, fs->stat.sizes_lost, fs->stat.names,
                    fs->stat.names_lost, fs->stat.syncs, fs->stat.dir_syncs);
}
