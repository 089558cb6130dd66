/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated disk. See sim_disk.h for what it promises.
 *
 * A file is a table of 4 KiB pages. page.now is what the process sees, page.safe what the platter holds; they
 * are two allocations only while some sector is dirty. NULL bytes stand for zeros. A directory keeps its
 * entries sorted, and the list of changes since its last sync, each with the inode it is about.
 */
#include "sim/sim_disk.h"

#include <string.h>

#include <xxhash.h>

#include "sim/sim_rng.h"

enum { PAGE = 4096, SECTOR = 512, COST_SYNC_NS = 300000, COST_OP_NS = 5000 };

static const uint8_t zero_page[PAGE];

struct page {
    uint8_t *now;  /* NULL: zeros */
    uint8_t *safe; /* while dirty; NULL: zeros */
    uint8_t dirty; /* a bit per sector */
    bool used;     /* counts against the space */
};

struct inode;

struct entry {
    char *name;
    struct inode *ino;
};

struct change { /* of a directory, not synced yet */
    char *add;  /* this name means @ino from now on, or NULL */
    char *del;  /* this name is gone, or NULL */
    struct inode *ino;
};

struct inode {
    struct sim_disk *d;
    uint32_t refs; /* entries (present, safe, in changes) and handles */
    bool is_dir;
    bool locked;
    uint64_t size, safe_size;
    struct page *pages;
    uint64_t n_pages;
    uint64_t *dirty; /* pages with dirty sectors, in order of dirtying */
    uint64_t n_dirty, dirty_cap;
    struct entry *entries, *safe_entries;
    uint32_t n_entries, n_safe_entries;
    struct change *changes;
    uint32_t n_changes;
};

struct sim_file {
    struct vfs_file base;
    struct inode *ino;
    uint64_t life;
    bool write, lock;
};

struct sim_disk {
    struct vfs vfs;
    struct sim_rng rng;
    struct inode *root;
    uint64_t life;
    uint64_t used, limit;
    uint64_t ops, cost;
    bool frozen, crash_armed;
    uint64_t crash_left;
    struct {
        bool armed;
        uint64_t left;
        int err;
    } fail[SIM_DISK_OPS];
    int broken[SIM_DISK_OPS];
    uint64_t slow[SIM_DISK_OPS], waited;
};

/* ---- faults --------------------------------------------------------------------------------------- */

/* Called first in every operation; *ret_torn: the crash comes in the middle of this one. */
static int disk_enter(struct sim_disk *d, enum sim_disk_op op, bool *ret_torn)
{
    *ret_torn = false;
    if (d->frozen)
        return -TC_E_IO;
    d->waited += d->slow[op];
    d->cost += op == SIM_DISK_SYNC || op == SIM_DISK_SYNC_DIR ? COST_SYNC_NS : COST_OP_NS;
    if (op != SIM_DISK_READ) {
        d->ops++;
        if (d->crash_armed && d->crash_left-- == 0) {
            d->frozen = true;
            *ret_torn = true;
            return -TC_E_IO;
        }
    }
    if (d->fail[op].armed && d->fail[op].left-- == 0) {
        d->fail[op].armed = false;
        return d->fail[op].err;
    }
    return d->broken[op];
}

void sim_disk_break(struct sim_disk *d, enum sim_disk_op op, int err)
{
    d->broken[op] = err;
}

void sim_disk_slow(struct sim_disk *d, enum sim_disk_op op, uint64_t ns)
{
    d->slow[op] = ns;
}

uint64_t sim_disk_waited(struct sim_disk *d)
{
    uint64_t waited = d->waited;

    d->waited = 0;
    return waited;
}

void sim_disk_crash_after(struct sim_disk *d, uint64_t n)
{
    d->crash_armed = true;
    d->crash_left = n;
}

bool sim_disk_frozen(const struct sim_disk *d)
{
    return d->frozen;
}

void sim_disk_freeze(struct sim_disk *d)
{
    d->frozen = true;
}

void sim_disk_set_limit(struct sim_disk *d, uint64_t bytes)
{
    d->limit = bytes;
}

void sim_disk_fail(struct sim_disk *d, enum sim_disk_op op, uint64_t after, int err)
{
    d->fail[op].armed = true;
    d->fail[op].left = after;
    d->fail[op].err = err;
}

/* ---- pages ---------------------------------------------------------------------------------------- */

static const uint8_t *bytes_or_zeros(const uint8_t *p)
{
    return p ? p : zero_page;
}

static void page_clean(struct page *p)
{
    free(p->safe);
    p->safe = NULL;
    p->dirty = 0;
}

static void page_drop(struct inode *f, struct page *p)
{
    page_clean(p);
    free(p->now);
    if (p->used)
        f->d->used -= PAGE;
    *p = (struct page){0};
}

static void inode_grow(struct inode *f, uint64_t n_pages)
{
    if (n_pages <= f->n_pages)
        return;
    f->pages = tc_realloc(f->pages, n_pages * sizeof *f->pages);
    memset(f->pages + f->n_pages, 0, (n_pages - f->n_pages) * sizeof *f->pages);
    f->n_pages = n_pages;
}

static void inode_mark_dirty(struct inode *f, uint64_t i, uint8_t sectors)
{
    struct page *p = &f->pages[i];

    if (!p->dirty) {
        if (p->now) {
            p->safe = tc_malloc(PAGE);
            memcpy(p->safe, p->now, PAGE);
        }
        if (f->n_dirty == f->dirty_cap) {
            f->dirty_cap = f->dirty_cap ? 2 * f->dirty_cap : 64;
            f->dirty = tc_realloc(f->dirty, f->dirty_cap * sizeof *f->dirty);
        }
        f->dirty[f->n_dirty++] = i;
    }
    p->dirty |= sectors;
}

/* One page's share of a write. */
static int inode_write_page(struct inode *f, uint64_t i, uint32_t off, uint32_t len, const uint8_t *data)
{
    struct page *p;
    uint8_t sectors = 0;

    inode_grow(f, i + 1);
    p = &f->pages[i];
    if (!p->used) {
        if (f->d->limit && f->d->used + PAGE > f->d->limit)
            return -TC_E_NOSPC;
        p->used = true;
        f->d->used += PAGE;
    }
    if (memcmp(bytes_or_zeros(p->now) + off, data, len) == 0)
        return 0; /* the same bytes: nothing that could be lost */
    for (uint32_t s = off / SECTOR; s <= (off + len - 1) / SECTOR; s++)
        sectors |= (uint8_t)(1u << s);
    inode_mark_dirty(f, i, sectors);
    if (!p->now)
        p->now = tc_calloc(1, PAGE);
    memcpy(p->now + off, data, len);
    return 0;
}

static int inode_write(struct inode *f, uint64_t off, const uint8_t *data, size_t len)
{
    while (len) {
        uint32_t at = (uint32_t)(off % PAGE), n = (uint32_t)MIN(len, (size_t)(PAGE - at));
        int r = inode_write_page(f, off / PAGE, at, n, data);

        if (r)
            return r;
        off += n;
        data += n;
        len -= n;
        f->size = MAX(f->size, off);
    }
    return 0;
}

static void inode_sync(struct inode *f)
{
    for (uint64_t i = 0; i < f->n_dirty; i++)
        page_clean(&f->pages[f->dirty[i]]);
    f->n_dirty = 0;
    f->safe_size = f->size;
}

/* A power loss: each dirty sector is kept with chance @keep_ppm. */
static void inode_lose(struct inode *f, struct sim_rng *rng, uint64_t keep_ppm)
{
    for (uint64_t i = 0; i < f->n_dirty; i++) {
        struct page *p = &f->pages[f->dirty[i]];

        for (uint32_t s = 0; s < PAGE / SECTOR; s++)
            if ((p->dirty & (1u << s)) && !sim_chance(rng, keep_ppm) && p->now)
                memcpy(p->now + s * SECTOR, bytes_or_zeros(p->safe) + s * SECTOR, SECTOR);
        page_clean(p);
    }
    f->n_dirty = 0;
    if (f->size != f->safe_size && !sim_chance(rng, keep_ppm))
        f->size = f->safe_size;
    f->safe_size = f->size;
    for (uint64_t i = (f->size + PAGE - 1) / PAGE; i < f->n_pages; i++)
        page_drop(f, &f->pages[i]);
    if (f->size % PAGE && f->size / PAGE < f->n_pages && f->pages[f->size / PAGE].now)
        memset(f->pages[f->size / PAGE].now + f->size % PAGE, 0, PAGE - f->size % PAGE);
}

/* ---- names ---------------------------------------------------------------------------------------- */

static struct inode *inode_new(struct sim_disk *d, bool is_dir)
{
    struct inode *f = tc_calloc(1, sizeof *f);

    f->d = d;
    f->is_dir = is_dir;
    f->refs = 1;
    return f;
}

static void inode_unref(struct inode *f);

static void changes_clear(struct inode *dir)
{
    for (uint32_t i = 0; i < dir->n_changes; i++) {
        free(dir->changes[i].add);
        free(dir->changes[i].del);
        inode_unref(dir->changes[i].ino);
    }
    dir->n_changes = 0;
}

static void entries_clear(struct entry *e, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        free(e[i].name);
        inode_unref(e[i].ino);
    }
    free(e);
}

static void inode_unref(struct inode *f)
{
    if (!f || --f->refs)
        return;
    for (uint64_t i = 0; i < f->n_pages; i++)
        page_drop(f, &f->pages[i]);
    free(f->pages);
    free(f->dirty);
    entries_clear(f->entries, f->n_entries);
    entries_clear(f->safe_entries, f->n_safe_entries);
    changes_clear(f);
    free(f->changes);
    free(f);
}

/* Index of @name among @n sorted entries, or where it belongs. */
static uint32_t entries_find(const struct entry *e, uint32_t n, const char *name, bool *ret_found)
{
    uint32_t lo = 0, hi = n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        int c = strcmp(e[mid].name, name);

        if (c == 0) {
            *ret_found = true;
            return mid;
        }
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    *ret_found = false;
    return lo;
}

static void entries_set(struct entry **e, uint32_t *n, const char *name, struct inode *ino)
{
    bool found;
    uint32_t i = entries_find(*e, *n, name, &found);

    if (ino)
        ino->refs++;
    if (found) {
        inode_unref((*e)[i].ino);
        if (ino) {
            (*e)[i].ino = ino;
            return;
        }
        free((*e)[i].name);
        memmove(*e + i, *e + i + 1, (*n - i - 1) * sizeof **e);
        --*n;
    } else if (ino) {
        *e = tc_realloc(*e, (*n + 1) * sizeof **e);
        memmove(*e + i + 1, *e + i, (*n - i) * sizeof **e);
        (*e)[i] = (struct entry){tc_strdup(name), ino};
        ++*n;
    }
}

static struct inode *dir_get(const struct inode *dir, const char *name)
{
    bool found;
    uint32_t i = entries_find(dir->entries, dir->n_entries, name, &found);

    return found ? dir->entries[i].ino : NULL;
}

/* One change: @del vanishes, @add means @ino; both in one, as a rename within a directory is. */
static void dir_change(struct inode *dir, const char *del, const char *add, struct inode *ino)
{
    dir->changes = tc_realloc(dir->changes, (dir->n_changes + 1) * sizeof *dir->changes);
    dir->changes[dir->n_changes++] =
        (struct change){add ? tc_strdup(add) : NULL, del ? tc_strdup(del) : NULL, ino};
    ino->refs++;
    if (add)
        entries_set(&dir->entries, &dir->n_entries, add, ino);
    if (del)
        entries_set(&dir->entries, &dir->n_entries, del, NULL);
}

static void dir_sync(struct inode *dir)
{
    entries_clear(dir->safe_entries, dir->n_safe_entries);
    dir->safe_entries = tc_calloc(dir->n_entries, sizeof *dir->safe_entries);
    dir->n_safe_entries = dir->n_entries;
    for (uint32_t i = 0; i < dir->n_entries; i++) {
        dir->safe_entries[i] = (struct entry){tc_strdup(dir->entries[i].name), dir->entries[i].ino};
        dir->entries[i].ino->refs++;
    }
    changes_clear(dir);
}

static void tree_lose(struct inode *f, struct sim_rng *rng, uint64_t keep_ppm)
{
    if (!f->is_dir) {
        inode_lose(f, rng, keep_ppm);
        return;
    }
    if (f->n_changes) {
        /* What stays is the synced state with some of the changes on top, in their order. */
        entries_clear(f->entries, f->n_entries);
        f->entries = f->safe_entries;
        f->n_entries = f->n_safe_entries;
        f->safe_entries = NULL;
        f->n_safe_entries = 0;
        for (uint32_t i = 0; i < f->n_changes; i++) {
            struct change *c = &f->changes[i];

            if (!sim_chance(rng, keep_ppm))
                continue;
            if (c->add)
                entries_set(&f->entries, &f->n_entries, c->add, c->ino);
            if (c->del)
                entries_set(&f->entries, &f->n_entries, c->del, NULL);
        }
        dir_sync(f);
    }
    for (uint32_t i = 0; i < f->n_entries; i++)
        tree_lose(f->entries[i].ino, rng, keep_ppm);
}

/* Walk to @path. @ret_parent, @ret_name (may be NULL): of the last component, which need not exist. */
static int disk_walk(struct sim_disk *d, const char *path, struct inode **ret_parent, char **ret_name,
                     struct inode **ret_ino)
{
    char *copy = tc_strdup(path), *save, *part, *next;
    struct inode *at = d->root, *parent = d->root;
    const char *last = "";
    int r = 0;

    for (part = strtok_r(copy, "/", &save); part; part = next) {
        next = strtok_r(NULL, "/", &save);
        if (strcmp(part, ".") == 0)
            continue;
        if (!at || !at->is_dir) {
            r = at ? -TC_E_NOTDIR : -TC_E_NOENT;
            break;
        }
        parent = at;
        last = part;
        at = dir_get(at, part);
    }
    if (!r) {
        if (ret_parent)
            *ret_parent = parent;
        if (ret_name)
            *ret_name = tc_strdup(last);
        *ret_ino = at;
    }
    free(copy);
    return r;
}

/* ---- vfs ------------------------------------------------------------------------------------------ */

static struct sim_disk *disk_of(struct vfs *v)
{
    return container_of(v, struct sim_disk, vfs);
}

static int file_enter(struct vfs_file *vf, enum sim_disk_op op, struct sim_file **ret_f, bool *ret_torn)
{
    struct sim_file *f = container_of(vf, struct sim_file, base);

    *ret_f = f;
    *ret_torn = false;
    if (f->life != disk_of(vf->vfs)->life)
        return -TC_E_IO;
    return disk_enter(disk_of(vf->vfs), op, ret_torn);
}

static int sim_open(struct vfs *v, const char *path, int flags, struct vfs_file **ret_file)
{
    struct sim_disk *d = disk_of(v);
    bool torn, mutate = flags & (VFS_CREATE | VFS_TRUNC);
    struct inode *parent, *ino;
    struct sim_file *f;
    char *name;
    int r;

    r = disk_enter(d, mutate ? SIM_DISK_META : SIM_DISK_READ, &torn);
    if (r)
        return r;
    r = disk_walk(d, path, &parent, &name, &ino);
    if (r)
        return r;
    if (!ino && (flags & VFS_CREATE)) {
        ino = inode_new(d, false);
        dir_change(parent, NULL, name, ino);
        ino->refs--; /* the entry has it */
    } else if (!ino) {
        r = -TC_E_NOENT;
    } else if ((flags & VFS_CREATE) && (flags & VFS_EXCL)) {
        r = -TC_E_EXIST;
    } else if (ino->is_dir) {
        r = -TC_E_ISDIR;
    }
    free(name);
    if (r)
        return r;
    if ((flags & VFS_TRUNC) && ino->size) {
        for (uint64_t i = 0; i < ino->n_pages; i++)
            if (ino->pages[i].now) {
                inode_mark_dirty(ino, i, 0xff);
                memset(ino->pages[i].now, 0, PAGE);
            }
        ino->size = 0;
    }
    f = tc_calloc(1, sizeof *f);
    f->base.vfs = v;
    f->ino = ino;
    f->life = d->life;
    f->write = flags & (VFS_RDWR | VFS_CREATE | VFS_TRUNC);
    ino->refs++;
    *ret_file = &f->base;
    return 0;
}

static void sim_close(struct vfs_file *vf)
{
    struct sim_file *f = container_of(vf, struct sim_file, base);

    if (f->lock && f->life == disk_of(vf->vfs)->life)
        f->ino->locked = false;
    inode_unref(f->ino);
    free(f);
}

static int64_t sim_pread(struct vfs_file *vf, void *data, size_t len, uint64_t off)
{
    struct sim_file *f;
    uint8_t *out = data;
    size_t done = 0;
    bool torn;
    int r;

    r = file_enter(vf, SIM_DISK_READ, &f, &torn);
    if (r)
        return r;
    if (off >= f->ino->size)
        return 0;
    len = (size_t)MIN((uint64_t)len, f->ino->size - off);
    f->ino->d->cost += len / 4;
    while (done < len) {
        uint64_t i = (off + done) / PAGE, at = (off + done) % PAGE;
        size_t n = MIN(len - done, (size_t)(PAGE - at));

        memcpy(out + done, bytes_or_zeros(i < f->ino->n_pages ? f->ino->pages[i].now : NULL) + at, n);
        done += n;
    }
    return (int64_t)len;
}

static int sim_pwritev(struct vfs_file *vf, const struct iovec *iov, int n, uint64_t off)
{
    struct sim_file *f;
    uint64_t total = 0, part;
    bool torn;
    int r;

    r = file_enter(vf, SIM_DISK_WRITE, &f, &torn);
    if (r && !torn && r != -TC_E_NOSPC) /* out of space: told after the bytes went in, the worst case */
        return r;
    ASSERT(f->write);
    for (int i = 0; i < n; i++)
        total += iov[i].iov_len;
    f->ino->d->cost += total;
    part = torn ? sim_below(&f->ino->d->rng, total + 1) : total;
    for (int i = 0; i < n && part; i++) {
        size_t len = (size_t)MIN(part, (uint64_t)iov[i].iov_len);
        int w = inode_write(f->ino, off, iov[i].iov_base, len);

        if (w)
            return w;
        off += len;
        part -= len;
    }
    return r;
}

static int sim_sync(struct vfs_file *vf)
{
    struct sim_file *f;
    bool torn;
    int r;

    r = file_enter(vf, SIM_DISK_SYNC, &f, &torn);
    if (!r)
        inode_sync(f->ino);
    return r;
}

static int sim_truncate(struct vfs_file *vf, uint64_t size)
{
    struct sim_file *f;
    bool torn;
    int r;

    r = file_enter(vf, SIM_DISK_META, &f, &torn);
    if (r)
        return r;
    ASSERT(f->write);
    for (uint64_t i = size / PAGE; i < f->ino->n_pages; i++) {
        uint64_t at = i == size / PAGE ? size % PAGE : 0;

        if (f->ino->pages[i].now) {
            inode_mark_dirty(f->ino, i, 0xff);
            memset(f->ino->pages[i].now + at, 0, PAGE - at);
        }
        if (at == 0 && f->ino->pages[i].used) {
            f->ino->pages[i].used = false;
            f->ino->d->used -= PAGE;
        }
    }
    f->ino->size = size;
    return 0;
}

static int sim_punch(struct vfs_file *vf, uint64_t off, uint64_t len)
{
    struct sim_file *f;
    uint64_t end, i;
    bool torn;
    int r;

    r = file_enter(vf, SIM_DISK_WRITE, &f, &torn);
    if (r)
        return r;
    ASSERT(f->write);
    end = MIN(off + len, f->ino->size);
    for (; off < end; off += MIN(end - off, PAGE - off % PAGE)) {
        uint64_t n = MIN(end - off, PAGE - off % PAGE);

        i = off / PAGE;
        if (i >= f->ino->n_pages)
            break;
        if (f->ino->pages[i].now) {
            r = inode_write_page(f->ino, i, (uint32_t)(off % PAGE), (uint32_t)n, zero_page);
            ASSERT(r == 0); /* the page is there */
        }
        if (n == PAGE && f->ino->pages[i].used) {
            f->ino->pages[i].used = false;
            f->ino->d->used -= PAGE;
        }
    }
    return 0;
}

static int sim_size(struct vfs_file *vf, uint64_t *ret_size)
{
    struct sim_file *f;
    bool torn;
    int r;

    r = file_enter(vf, SIM_DISK_READ, &f, &torn);
    if (!r)
        *ret_size = f->ino->size;
    return r;
}

static int sim_rename(struct vfs *v, const char *from, const char *to)
{
    struct sim_disk *d = disk_of(v);
    struct inode *from_dir, *to_dir, *ino, *old;
    char *from_name, *to_name;
    bool torn;
    int r;

    r = disk_enter(d, SIM_DISK_META, &torn);
    if (r)
        return r;
    r = disk_walk(d, from, &from_dir, &from_name, &ino);
    if (r)
        return r;
    r = disk_walk(d, to, &to_dir, &to_name, &old);
    if (r) {
        free(from_name);
        return r;
    }
    if (!ino) {
        r = -TC_E_NOENT;
    } else if (from_dir != to_dir) {
        dir_change(to_dir, NULL, to_name, ino); /* two directories: two changes, as journals have it */
        dir_change(from_dir, from_name, NULL, ino);
    } else if (strcmp(from_name, to_name) != 0) {
        dir_change(to_dir, from_name, to_name, ino);
    }
    free(from_name);
    free(to_name);
    return r;
}

static int sim_remove(struct vfs *v, const char *path, bool want_dir)
{
    struct sim_disk *d = disk_of(v);
    struct inode *parent, *ino;
    char *name;
    bool torn;
    int r;

    r = disk_enter(d, SIM_DISK_META, &torn);
    if (r)
        return r;
    r = disk_walk(d, path, &parent, &name, &ino);
    if (r)
        return r;
    if (!ino)
        r = -TC_E_NOENT;
    else if (ino->is_dir != want_dir)
        r = want_dir ? -TC_E_NOTDIR : -TC_E_ISDIR;
    else if (want_dir && ino->n_entries)
        r = -TC_E_NOTEMPTY;
    else
        dir_change(parent, name, NULL, ino);
    free(name);
    return r;
}

static int sim_unlink(struct vfs *v, const char *path)
{
    return sim_remove(v, path, false);
}

static int sim_rmdir(struct vfs *v, const char *path)
{
    return sim_remove(v, path, true);
}

static int sim_mkdir(struct vfs *v, const char *path)
{
    struct sim_disk *d = disk_of(v);
    struct inode *parent, *ino;
    char *name;
    bool torn;
    int r;

    r = disk_enter(d, SIM_DISK_META, &torn);
    if (r)
        return r;
    r = disk_walk(d, path, &parent, &name, &ino);
    if (r)
        return r;
    if (ino && !ino->is_dir) {
        r = -TC_E_EXIST;
    } else if (!ino) {
        ino = inode_new(d, true);
        dir_change(parent, NULL, name, ino);
        ino->refs--;
    }
    free(name);
    return r;
}

static int sim_sync_dir(struct vfs *v, const char *path)
{
    struct sim_disk *d = disk_of(v);
    struct inode *ino;
    bool torn;
    int r;

    r = disk_enter(d, SIM_DISK_SYNC_DIR, &torn);
    if (r)
        return r;
    r = disk_walk(d, path, NULL, NULL, &ino);
    if (r)
        return r;
    if (!ino)
        return -TC_E_NOENT;
    if (!ino->is_dir)
        return -TC_E_NOTDIR;
    dir_sync(ino);
    return 0;
}

static int sim_list(struct vfs *v, const char *path, int (*fn)(void *arg, const char *name), void *arg)
{
    struct sim_disk *d = disk_of(v);
    struct inode *ino;
    bool torn;
    char **names;
    uint32_t n;
    int r;

    r = disk_enter(d, SIM_DISK_READ, &torn);
    if (!r)
        r = disk_walk(d, path, NULL, NULL, &ino);
    if (r)
        return r;
    if (!ino)
        return -TC_E_NOENT;
    if (!ino->is_dir)
        return -TC_E_NOTDIR;
    n = ino->n_entries;
    names = tc_calloc(n, sizeof *names); /* a copy: @fn may change the directory */
    for (uint32_t i = 0; i < n; i++)
        names[i] = tc_strdup(ino->entries[i].name);
    for (uint32_t i = 0; i < n && !r; i++)
        r = fn(arg, names[i]);
    for (uint32_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return r;
}

static int sim_space(struct vfs *v, const char *path, uint64_t *ret_total, uint64_t *ret_free)
{
    struct sim_disk *d = disk_of(v);

    (void)path;
    *ret_total = d->limit ? d->limit : UINT64_C(1) << 40;
    *ret_free = *ret_total > d->used ? *ret_total - d->used : 0;
    return d->frozen ? -TC_E_IO : 0;
}

static int sim_lock(struct vfs *v, const char *path, struct vfs_file **ret_file)
{
    struct vfs_file *vf;
    struct sim_file *f;
    int r;

    r = sim_open(v, path, VFS_RDWR | VFS_CREATE, &vf);
    if (r)
        return r;
    f = container_of(vf, struct sim_file, base);
    if (f->ino->locked) {
        sim_close(vf);
        return -TC_E_LOCKED_DIR;
    }
    f->lock = f->ino->locked = true;
    *ret_file = vf;
    return 0;
}

static const struct vfs_ops sim_ops = {
    .open = sim_open,
    .close = sim_close,
    .pread = sim_pread,
    .pwritev = sim_pwritev,
    .sync = sim_sync,
    .truncate = sim_truncate,
    .punch = sim_punch,
    .size = sim_size,
    .rename = sim_rename,
    .unlink = sim_unlink,
    .mkdir = sim_mkdir,
    .rmdir = sim_rmdir,
    .sync_dir = sim_sync_dir,
    .list = sim_list,
    .space = sim_space,
    .lock = sim_lock,
};

/* ---- the disk ------------------------------------------------------------------------------------- */

struct sim_disk *sim_disk_new(uint64_t seed)
{
    struct sim_disk *d = tc_calloc(1, sizeof *d);

    d->vfs.ops = &sim_ops;
    d->rng = sim_stream(seed, 0xd15c, 0);
    d->root = inode_new(d, true);
    d->life = 1;
    return d;
}

void sim_disk_free(struct sim_disk *d)
{
    if (!d)
        return;
    inode_unref(d->root);
    free(d);
}

struct vfs *sim_disk_vfs(struct sim_disk *d)
{
    return &d->vfs;
}

static void tree_unlock(struct inode *f)
{
    f->locked = false;
    for (uint32_t i = 0; i < f->n_entries; i++)
        tree_unlock(f->entries[i].ino);
}

void sim_disk_reopen(struct sim_disk *d)
{
    d->life++;
    d->frozen = d->crash_armed = false;
    memset(d->fail, 0, sizeof d->fail);
    memset(d->broken, 0, sizeof d->broken);
    tree_unlock(d->root);
}

void sim_disk_power_loss(struct sim_disk *d, enum sim_loss how)
{
    static const uint64_t keep[] = {0, 100000, 500000, 900000, 1000000};
    uint64_t ppm = keep[sim_below(&d->rng, ARRAY_SIZE(keep))];

    if (how != SIM_LOSS_RANDOM)
        ppm = how == SIM_LOSS_ALL ? 0 : 1000000;
    tree_lose(d->root, &d->rng, ppm);
}

void sim_disk_erase(struct sim_disk *d)
{
    inode_unref(d->root); /* files still open by the dead keep their inodes until closed */
    d->root = inode_new(d, true);
}

static struct inode *disk_file(struct sim_disk *d, const char *path)
{
    struct inode *ino = NULL;

    if (disk_walk(d, path, NULL, NULL, &ino) < 0 || !ino || ino->is_dir)
        return NULL;
    return ino;
}

bool sim_disk_poke(struct sim_disk *d, const char *path, uint64_t off, const void *data, size_t len)
{
    struct inode *ino = disk_file(d, path);

    if (!ino || off + len > ino->size || inode_write(ino, off, data, len) < 0)
        return false;
    for (uint64_t i = off / PAGE; i <= (off + len - 1) / PAGE; i++)
        if (ino->pages[i].dirty) { /* the other sectors' safe bytes are lost: a test's tool */
            free(ino->pages[i].safe);
            ino->pages[i].safe = tc_malloc(PAGE);
            memcpy(ino->pages[i].safe, ino->pages[i].now, PAGE);
        }
    return true;
}

bool sim_disk_flip(struct sim_disk *d, const char *path, uint64_t off, uint8_t mask)
{
    struct inode *ino = disk_file(d, path);
    struct page *p;

    if (!ino || off >= ino->size)
        return false;
    inode_grow(ino, off / PAGE + 1);
    p = &ino->pages[off / PAGE];
    if (!p->now)
        p->now = tc_calloc(1, PAGE);
    p->now[off % PAGE] ^= mask;
    if (p->safe)
        p->safe[off % PAGE] ^= mask;
    return true;
}

bool sim_disk_chop(struct sim_disk *d, const char *path, uint64_t size)
{
    struct inode *ino = disk_file(d, path);

    if (!ino || size > ino->size)
        return false;
    ino->size = ino->safe_size = size;
    inode_sync(ino);
    for (uint64_t i = (size + PAGE - 1) / PAGE; i < ino->n_pages; i++)
        page_drop(ino, &ino->pages[i]);
    if (size % PAGE && size / PAGE < ino->n_pages && ino->pages[size / PAGE].now)
        memset(ino->pages[size / PAGE].now + size % PAGE, 0, PAGE - size % PAGE);
    return true;
}

uint64_t sim_disk_ops(const struct sim_disk *d)
{
    return d->ops;
}

uint64_t sim_disk_cost(struct sim_disk *d)
{
    uint64_t cost = d->cost;

    d->cost = 0;
    return cost;
}

uint64_t sim_disk_used(const struct sim_disk *d)
{
    return d->used;
}

static uint64_t inode_hash(const struct inode *f, uint64_t h)
{
    h = XXH3_64bits_withSeed(&f->size, sizeof f->size, h);
    for (uint64_t i = 0; i < f->n_pages; i++)
        if (f->pages[i].now)
            h = XXH3_64bits_withSeed(f->pages[i].now, PAGE, h + i);
    for (uint32_t i = 0; i < f->n_entries; i++) {
        h = XXH3_64bits_withSeed(f->entries[i].name, strlen(f->entries[i].name), h);
        h = inode_hash(f->entries[i].ino, h);
    }
    return h;
}

uint64_t sim_disk_hash(struct sim_disk *d)
{
    return inode_hash(d->root, 0);
}
