/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filesystem that can lose power. It serves what was written last, as a kernel with its page cache does, and
 * remembers what of it was never synced; on command it takes a random part of that back and serves the rest.
 *
 *     powerfs BACKING MOUNTPOINT      (stays in the foreground)
 *     echo "cut [TOP...]"        > MOUNTPOINT/.power    from now on nothing changes any more: changes and syncs fail (EIO)
 *     echo "lose SEED [TOP...]"  > MOUNTPOINT/.power    power is lost, and comes back
 *     echo "fail [r][w][s] PATH [FROM TO]" > MOUNTPOINT/.power    reads, writes, syncs of PATH fail (EIO): a broken place
 *     echo "fail - PATH"         > MOUNTPOINT/.power    and no more; a rename takes the fault with it
 *     echo "break WHAT TOP[/DIR]" > MOUNTPOINT/.power    a failing disk: reads, changes, all, or nothing any more, fail (EIO)
 *     cat MOUNTPOINT/.power                             what the losses took
 *
 * TOP is a directory in the root: the disk of one machine; none named: all. They are made durably; nothing moves from
 * one to another. Whoever has files open under a TOP must be gone before it loses power.
 *
 * What counts as durable is what POSIX says and no more:
 * - bytes and the size of a file after fsync or fdatasync of it. Others survive or not by sectors of 512 bytes, each
 *   file in a way of its own: nothing, all, a beginning, or one here and there. A size is the old, the new or between.
 *   A sector written twice may come back as it was in between.
 * - a created, renamed, linked or removed name after fsync of the directory, not of the file. A rename is one change: it
 *   happened or not. Of unsynced changes a beginning, some, or none survive.
 *
 * State: a node per file or directory. BACKING/<obj> holds a file's present bytes; `dirty` holds, for pages not synced,
 * the durable bytes of the sectors in its mask (the others are as in the file). A directory has two maps of names,
 * `now` and `durable`; `ops` lists, in order, the changes that lie between them. A node lives while a map, an op, an
 * open file or the kernel names it. After a loss all nodes of a top get new ids, so that nothing the kernel has
 * cached is used again; only names in the root are looked up each time.
 */
#define FUSE_USE_VERSION 312

#include "powerfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <fuse3/fuse_lowlevel.h>

#define CONTROL_ID UINT64_C(2)
#define CONTROL_NAME ".power"
#define FOREVER 3600.0

static struct pfs fs;

static struct node *node_of(fuse_ino_t id)
{
    return pfs_node(&fs, id);
}

static bool fails(const struct node *n, unsigned how, uint64_t off, uint64_t len)
{
    return (n->fails & how) && off < n->fail_to && off + len > n->fail_from;
}

static void attr_of(const struct node *n, struct stat *st)
{
    *st = (struct stat){
        .st_ino = n->obj,
        .st_mode = n->mode,
        .st_nlink = n->nlink,
        .st_size = (off_t)n->size,
        .st_blksize = PAGE,
        .st_blocks = (blkcnt_t)((n->size + 511) / 512),
        .st_uid = getuid(),
        .st_gid = getgid(),
        .st_atim = n->mtime,
        .st_mtim = n->mtime,
        .st_ctim = n->mtime,
    };
}

static void control_attr(struct stat *st)
{
    *st = (struct stat){.st_ino = CONTROL_ID, .st_mode = S_IFREG | 0600, .st_nlink = 1, .st_uid = getuid()};
}

static void entry_of(struct node *n, const struct node *dir, struct fuse_entry_param *e)
{
    *e = (struct fuse_entry_param){.ino = n->id, .generation = 1, .attr_timeout = FOREVER};
    e->entry_timeout = dir->id == FUSE_ROOT_ID ? 0 : FOREVER;
    attr_of(n, &e->attr);
    n->lookups++;
}

static void reply_entry(fuse_req_t req, struct node *n, const struct node *dir)
{
    struct fuse_entry_param e;

    entry_of(n, dir, &e);
    fuse_reply_entry(req, &e);
}

/* ---- names ---------------------------------------------------------------------------------- */

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct node *dir = node_of(parent), *n;

    if (dir && dir->id == FUSE_ROOT_ID && strcmp(name, CONTROL_NAME) == 0) {
        struct fuse_entry_param e = {.ino = CONTROL_ID, .generation = 1};

        control_attr(&e.attr);
        fuse_reply_entry(req, &e);
        return;
    }
    n = dir ? pfs_find(dir, name) : NULL;
    if (n)
        reply_entry(req, n, dir);
    else
        fuse_reply_err(req, dir ? ENOENT : ESTALE);
}

static void on_forget(fuse_req_t req, fuse_ino_t id, uint64_t count)
{
    struct node *n = node_of(id);

    if (n) {
        n->lookups -= count < n->lookups ? count : n->lookups;
        pfs_release(&fs, n);
    }
    fuse_reply_none(req);
}

static void on_getattr(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct node *n = node_of(id);
    struct stat st;

    (void)fi;
    if (id == CONTROL_ID)
        control_attr(&st);
    else if (n)
        attr_of(n, &st);
    else {
        fuse_reply_err(req, ESTALE);
        return;
    }
    fuse_reply_attr(req, &st, id == CONTROL_ID ? 0 : FOREVER);
}

static void on_setattr(fuse_req_t req, fuse_ino_t id, struct stat *attr, int set, struct fuse_file_info *fi)
{
    struct node *n = node_of(id);
    struct stat st;
    int r = 0;

    if (id == CONTROL_ID) {
        on_getattr(req, id, fi);
        return;
    }
    if (!n || pfs_bad(n, true) || ((set & FUSE_SET_ATTR_SIZE) && fails(n, FAIL_WRITE, 0, UINT64_MAX))) {
        fuse_reply_err(req, n ? EIO : ESTALE);
        return;
    }
    if (set & FUSE_SET_ATTR_SIZE)
        r = pfs_truncate(&fs, n, (uint64_t)attr->st_size);
    if (set & FUSE_SET_ATTR_MODE)
        n->mode = (n->mode & S_IFMT) | (attr->st_mode & 07777);
    if (set & FUSE_SET_ATTR_MTIME)
        n->mtime = attr->st_mtim;
    if (set & (FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_SIZE))
        clock_gettime(CLOCK_REALTIME, &n->mtime);
    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    attr_of(n, &st);
    fuse_reply_attr(req, &st, FOREVER);
}

/* The directory to change, or NULL after an error reply. */
static struct node *dir_to_change(fuse_req_t req, fuse_ino_t parent)
{
    struct node *dir = node_of(parent);

    if (dir && !pfs_bad(dir, true) && !fails(dir, FAIL_WRITE, 0, 1))
        return dir;
    fuse_reply_err(req, dir ? EIO : ESTALE);
    return NULL;
}

static struct node *make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct node *dir = dir_to_change(req, parent), *n;

    if (!dir)
        return NULL;
    if (pfs_find(dir, name)) {
        fuse_reply_err(req, EEXIST);
        return NULL;
    }
    n = pfs_make(&fs, dir, name, mode);
    if (!n)
        fuse_reply_err(req, errno);
    return n;
}

static void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct node *n = make(req, parent, name, S_IFDIR | mode);

    if (n)
        reply_entry(req, n, node_of(parent));
}

static void on_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
    struct node *n;

    (void)dev;
    if (!S_ISREG(mode)) {
        fuse_reply_err(req, EPERM);
        return;
    }
    n = make(req, parent, name, mode);
    if (n)
        reply_entry(req, n, node_of(parent));
}

static void on_link(fuse_req_t req, fuse_ino_t id, fuse_ino_t parent, const char *name)
{
    struct node *dir = dir_to_change(req, parent), *n = node_of(id);

    if (!dir)
        return;
    if (!n || n->top != dir->top || pfs_find(dir, name)) {
        fuse_reply_err(req, !n ? ESTALE : n->top != dir->top ? EXDEV : EEXIST);
        return;
    }
    pfs_change(&fs, dir, name, n, NULL, NULL);
    reply_entry(req, n, dir);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, bool directory)
{
    struct node *dir = dir_to_change(req, parent), *n;

    if (!dir)
        return;
    n = pfs_find(dir, name);
    if (!n)
        fuse_reply_err(req, ENOENT);
    else if (S_ISDIR(n->mode) != directory)
        fuse_reply_err(req, directory ? ENOTDIR : EISDIR);
    else if (directory && n->now)
        fuse_reply_err(req, ENOTEMPTY);
    else {
        pfs_change(&fs, dir, name, NULL, NULL, NULL);
        fuse_reply_err(req, 0);
    }
}

static void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, false);
}

static void on_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, true);
}

static void on_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *new_name,
                      unsigned flags)
{
    struct node *dir = dir_to_change(req, parent), *to_dir = node_of(to), *n, *old;

    if (!dir)
        return;
    n = pfs_find(dir, name);
    old = to_dir ? pfs_find(to_dir, new_name) : NULL;
    if (!to_dir || !n)
        fuse_reply_err(req, to_dir ? ENOENT : ESTALE);
    else if (to_dir->top != dir->top || dir->id == FUSE_ROOT_ID)
        fuse_reply_err(req, EXDEV);
    else if (flags & ~1U) /* RENAME_NOREPLACE alone is known */
        fuse_reply_err(req, EINVAL);
    else if (old && (flags & 1U))
        fuse_reply_err(req, EEXIST);
    else if (old && S_ISDIR(old->mode) && old->now)
        fuse_reply_err(req, ENOTEMPTY);
    else {
        if (old != n)
            pfs_change(&fs, dir, name, NULL, to_dir, new_name);
        fuse_reply_err(req, 0);
    }
}

/* ---- directories ------------------------------------------------------------------------------ */

struct listing {
    size_t n;
    struct item {
        char *name;
        struct stat st;
    } items[];
};

static void on_opendir(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct node *dir = node_of(id);
    struct listing *l;
    size_t i = 0;

    if (!dir || fails(dir, FAIL_READ, 0, 1)) {
        fuse_reply_err(req, dir ? EIO : ESTALE);
        return;
    }
    l = pfs_alloc(sizeof *l + (HASH_COUNT(dir->now) + 2) * sizeof l->items[0]);
    for (; i < 2; i++) {
        l->items[i].name = strdup(i ? ".." : ".");
        attr_of(dir, &l->items[i].st);
    }
    for (struct name *e = dir->now; e; e = e->hh.next, i++) {
        l->items[i].name = strdup(e->text);
        attr_of(e->node, &l->items[i].st);
    }
    l->n = i;
    fi->fh = (uint64_t)(uintptr_t)l;
    fuse_reply_open(req, fi);
}

static void on_readdir(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct listing *l = (struct listing *)(uintptr_t)fi->fh;
    char *buf = pfs_alloc(size);
    size_t used = 0;

    (void)id;
    for (size_t i = (size_t)off; i < l->n; i++) {
        size_t need = fuse_add_direntry(req, buf + used, size - used, l->items[i].name, &l->items[i].st,
                                        (off_t)(i + 1));

        if (need > size - used)
            break;
        used += need;
    }
    fuse_reply_buf(req, buf, used);
    free(buf);
}

static void on_releasedir(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct listing *l = (struct listing *)(uintptr_t)fi->fh;

    (void)id;
    for (size_t i = 0; i < l->n; i++)
        free(l->items[i].name);
    free(l);
    fuse_reply_err(req, 0);
}

static void on_fsyncdir(fuse_req_t req, fuse_ino_t id, int datasync, struct fuse_file_info *fi)
{
    struct node *dir = node_of(id);

    (void)datasync;
    (void)fi;
    if (!dir || pfs_bad(dir, true) || fails(dir, FAIL_SYNC, 0, UINT64_MAX)) {
        fuse_reply_err(req, dir ? EIO : ESTALE);
        return;
    }
    pfs_sync_dir(&fs, dir);
    fuse_reply_err(req, 0);
}

/* ---- files ------------------------------------------------------------------------------------ */

static void on_open(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct node *n = node_of(id);
    int r = 0;

    if (id == CONTROL_ID) {
        fi->direct_io = 1;
        fuse_reply_open(req, fi);
        return;
    }
    if (!n) {
        fuse_reply_err(req, ESTALE);
        return;
    }
    if (fi->flags & O_TRUNC)
        r = pfs_bad(n, true) ? -EIO : pfs_truncate(&fs, n, 0);
    if (r == 0)
        r = pfs_open(&fs, n);
    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    fi->keep_cache = 1;
    fuse_reply_open(req, fi);
}

static void on_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct node *n = make(req, parent, name, S_IFREG | mode);
    struct fuse_entry_param e;
    int r;

    if (!n)
        return;
    r = pfs_open(&fs, n);
    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    entry_of(n, node_of(parent), &e);
    fi->keep_cache = 1;
    fuse_reply_create(req, &e, fi);
}

static void on_release(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct node *n = node_of(id); /* none: power was lost since */

    (void)fi;
    if (n)
        pfs_close(&fs, n);
    fuse_reply_err(req, 0);
}

static void on_read(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct node *n = node_of(id);
    char *buf;
    ssize_t r;

    (void)fi;
    if (id == CONTROL_ID) {
        char text[512];
        int len = pfs_report(&fs, text, sizeof text);

        fuse_reply_buf(req, off < len ? text + off : NULL, off < len ? (size_t)(len - off) : 0);
        return;
    }
    if (!n || pfs_bad(n, false) || fails(n, FAIL_READ, (uint64_t)off, size)) {
        fuse_reply_err(req, n ? EIO : ESTALE);
        return;
    }
    buf = pfs_alloc(size);
    r = pread(n->fd, buf, size, off);
    if (r < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, buf, (size_t)r);
    free(buf);
}

static void control(fuse_req_t req, const char *data, size_t size)
{
    char text[4096];
    size_t len = size < sizeof text - 1 ? size : sizeof text - 1;
    int r;

    memcpy(text, data, len);
    text[len] = 0;
    r = pfs_command(&fs, text);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_write(req, size);
}

static void on_write(fuse_req_t req, fuse_ino_t id, const char *data, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct node *n = node_of(id);
    int r;

    (void)fi;
    if (id == CONTROL_ID) {
        control(req, data, size);
        return;
    }
    if (!n || pfs_bad(n, true) || fails(n, FAIL_WRITE, (uint64_t)off, size)) {
        fuse_reply_err(req, n ? EIO : ESTALE);
        return;
    }
    r = pfs_write(&fs, n, data, size, (uint64_t)off);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_write(req, size);
}

static void on_fsync(fuse_req_t req, fuse_ino_t id, int datasync, struct fuse_file_info *fi)
{
    struct node *n = node_of(id);

    (void)datasync;
    (void)fi;
    if (!n || pfs_bad(n, true) || fails(n, FAIL_SYNC, 0, UINT64_MAX)) {
        fuse_reply_err(req, n ? EIO : ESTALE);
        return;
    }
    pfs_sync(&fs, n);
    fuse_reply_err(req, 0);
}

static void on_fallocate(fuse_req_t req, fuse_ino_t id, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
    struct node *n = node_of(id);
    uint64_t end = (uint64_t)(off + len);
    int r = 0;

    (void)fi;
    if (!n || pfs_bad(n, true)) {
        fuse_reply_err(req, n ? EIO : ESTALE);
        return;
    }
    if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
        r = pfs_punch(&fs, n, (uint64_t)off, (uint64_t)len);
    else if (mode == 0 && end > n->size)
        r = pfs_truncate(&fs, n, end);
    else if (mode & ~FALLOC_FL_KEEP_SIZE)
        r = -EOPNOTSUPP;
    fuse_reply_err(req, -r);
}

static void on_statfs(fuse_req_t req, fuse_ino_t id)
{
    struct statvfs s;

    (void)id;
    if (fstatvfs(fs.dir_fd, &s) < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_statfs(req, &s);
}

static const struct fuse_lowlevel_ops ops = {
    .lookup = on_lookup,
    .forget = on_forget,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .mkdir = on_mkdir,
    .mknod = on_mknod,
    .link = on_link,
    .unlink = on_unlink,
    .rmdir = on_rmdir,
    .rename = on_rename,
    .opendir = on_opendir,
    .readdir = on_readdir,
    .releasedir = on_releasedir,
    .fsyncdir = on_fsyncdir,
    .open = on_open,
    .create = on_create,
    .release = on_release,
    .read = on_read,
    .write = on_write,
    .fsync = on_fsync,
    .fallocate = on_fallocate,
    .statfs = on_statfs,
};

static int serve(struct fuse_session *se, const char *mountpoint)
{
    int r;

    if (fuse_set_signal_handlers(se) != 0)
        return 1;
    if (fuse_session_mount(se, mountpoint) != 0)
        return 1;
    r = fuse_session_loop(se); /* one thread: no state needs a lock */
    fuse_session_unmount(se);
    fuse_remove_signal_handlers(se);
    return r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    char *fuse_argv[] = {argv[0], "-o", "fsname=powerfs,subtype=powerfs", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, fuse_argv);
    struct rlimit files;
    struct fuse_session *se;
    int r;

    if (argc != 3) {
        fprintf(stderr, "usage: powerfs BACKING MOUNTPOINT\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (pfs_init(&fs, argv[1]) < 0) {
        fprintf(stderr, "powerfs: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    se = fuse_session_new(&args, &ops, sizeof ops, NULL);
    if (!se)
        return 1;
    r = serve(se, argv[2]);
    fuse_session_destroy(se);
    fuse_opt_free_args(&args);
    return r;
}
