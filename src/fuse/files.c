/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files: data requests in, client calls out. A large WRITE's receive buffer is handed on, not copied.
 */
#include "fuse/fuse_internal.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static struct tc_file *file_of(const struct fuse_file_info *fi)
{
    return (struct tc_file *)(uintptr_t)fi->fh;
}

static uint32_t open_flags(int flags)
{
    uint32_t f = 0;

    switch (flags & O_ACCMODE) {
    case O_RDONLY:
        f = TC_OPEN_READ;
        break;
    case O_WRONLY:
        f = TC_OPEN_WRITE;
        break;
    default:
        f = TC_OPEN_READ | TC_OPEN_WRITE;
        break;
    }
    f |= (flags & O_APPEND) ? TC_OPEN_APPEND : 0;
    f |= (flags & O_TRUNC) ? TC_OPEN_TRUNC : 0;
    f |= (flags & (O_SYNC | O_DSYNC)) ? TC_OPEN_SYNC : 0;
    return f;
}

/* Data passes the kernel's page cache by. */
static bool file_direct(const struct tc_file *f)
{
    return tc_file_flags(f) & TC_OPEN_UNCACHED;
}

static void fill_open(struct fuse_file_info *fi, const struct fop *op, bool keep)
{
    *fi = (struct fuse_file_info){.flags = (int)op->flags, .fh = (uint64_t)(uintptr_t)op->file};
    /* The kernel would fill its cache at its own idea of the end of file (docs/FUSE.md 3.3). */
    fi->direct_io = file_direct(op->file);
    fi->keep_cache = keep;
}

/* ---- open, create ---- */

static void reply_open(void *arg, int status, const struct tc_entry *e)
{
    struct fop *op = arg;
    struct fuse_file_info fi;

    if (status < 0) {
        fuse_reply_err(op->req, tc_error_to_errno(status));
    } else {
        fill_open(&fi, op, e->keep_data);
        if (fuse_reply_open(op->req, &fi) != 0)
            tc_release(op->m->client, op->file);
    }
    fop_end(op);
}

static void start_open(struct fop *op)
{
    uint32_t may = op->m->direct_reads ? TC_OPEN_MAY_DIRECT : 0;

    op->call = tc_open(op->m->client, op->ino, open_flags((int)op->flags) | may, &op->file, reply_open, op);
}

static void killed_then_open(void *arg, int status, const struct tc_entry *e TC_UNUSED)
{
    struct fop *op = arg;

    if (status < 0) {
        fuse_reply_err(op->req, tc_error_to_errno(status));
        fop_end(op);
        return;
    }
    start_open(op);
}

/* FUSE_OPEN_KILL_SUIDGID, which libfuse does not pass on. */
static bool raw_open_kill(const struct tc_mount *m)
{
    struct fuse_open_in in;

    if (!m->request || m->request->len < sizeof(struct fuse_in_header) + sizeof(in))
        return false;
    memcpy(&in, m->request->data + sizeof(struct fuse_in_header), sizeof(in));
    return in.open_flags & FUSE_OPEN_KILL_SUIDGID;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fop *op = fop_new(req, ino);
    struct setattr_req set = {.ino = op->ino, .mask = SET_KILL_PRIV};

    op->flags = (uint32_t)fi->flags;
    if (raw_open_kill(op->m))
        op->call = tc_setattr(op->m->client, &set, killed_then_open, op);
    else
        start_open(op);
}

static void reply_create(void *arg, int status, const struct tc_entry *e)
{
    struct fop *op = arg;
    struct tc_mount *m = op->m;
    struct fuse_entry_param ep;
    struct fuse_file_info fi;

    if (status < 0) {
        fuse_reply_err(op->req, tc_error_to_errno(status));
    } else {
        if (!op->file)
            op->file = tc_file_new(m->client, e->ino, open_flags((int)op->flags));
        mount_entry(m, e, &ep);
        ep.attr_timeout = 0.0; /* the kernel takes them whatever it was told meanwhile */
        fill_open(&fi, op, false);
        if (fuse_reply_create(op->req, &ep, &fi) != 0) {
            tc_release(m->client, op->file);
            tc_forget(m->client, e->ino, 1);
        }
    }
    fop_end(op);
}

/* Somebody else made the name between the kernel's lookup and our create: open what is there. */
struct create_race {
    struct fop *op;
    char *name;
};

static void race_found(void *arg, int status, const struct tc_entry *e)
{
    struct fop *op = arg;

    if (status < 0) {
        fuse_reply_err(op->req, tc_error_to_errno(status));
        fop_end(op);
        return;
    }
    if (!S_ISREG(e->attr.mode)) {
        fuse_reply_err(op->req, S_ISDIR(e->attr.mode) ? EISDIR : ESTALE); /* ESTALE: the VFS walks again */
        tc_forget(op->m->client, e->ino, 1);
        fop_end(op);
        return;
    }
    op->ino = e->ino; /* the reference of the lookup becomes that of the reply */
    op->call = tc_open(op->m->client, e->ino, open_flags((int)op->flags), &op->file, reply_create, op);
}

static void reply_create_race(void *arg, int status, const struct tc_entry *e)
{
    struct create_race *r = arg;
    struct fop *op = r->op;

    if (status == -TC_E_EXIST && !(op->flags & O_EXCL))
        op->call = tc_lookup(op->m->client, op->ino, r->name, race_found, op);
    else
        reply_create(op, status, e);
    free(r->name);
    free(r);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    struct tc_cred cred = {.uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask};
    struct create_race *r = tc_calloc(1, sizeof(*r));
    struct fop *op = fop_new(req, parent);

    op->flags = (uint32_t)fi->flags;
    r->op = op;
    r->name = tc_strdup(name);
    op->call = tc_make(op->m->client, op->ino, name, (mode & 07777) | S_IFREG, 0, NULL, &cred, true, true,
                       reply_create_race, r);
}

/* ---- read, write ---- */

static void reply_read(void *arg, int status, const struct iovec *iov, int n_iov, size_t len TC_UNUSED)
{
    struct fop *op = arg;

    if (status < 0)
        fuse_reply_err(op->req, tc_error_to_errno(status));
    else
        fuse_reply_iov(op->req, iov, n_iov);
    fop_end(op);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct fop *op = fop_new(req, ino);

    op->off = (uint64_t)off;
    op->len = size;
    op->file = file_of(fi);
    if (!file_direct(op->file)) { /* pages are locked under it */
        op->kind = FOP_READ;
        io_begin(op);
    }
    op->call = tc_read(op->m->client, op->file, op->off, size, reply_read, op);
}

static void nothing(void *arg TC_UNUSED)
{
}

static void write_answer(struct fop *op)
{
    struct tc_mount *m = op->m;
    uint64_t ino = op->ino, meant = op->off, went = op->went;
    size_t len = op->len;
    bool moved = op->append && !op->direct && went != meant;

    fuse_reply_write(op->req, len);
    fop_end(op);
    if (moved) { /* O_APPEND came by fcntl(): the kernel keeps the bytes where it thought the end was */
        invalidate_inode(m, ino, meant, len, nothing, NULL);
        invalidate_inode(m, ino, went, len, nothing, NULL);
    }
}

static void reply_write(void *arg, int status, size_t len, uint64_t off)
{
    struct fop *op = arg;

    op->call = NULL;
    op->len = len;
    op->went = off;
    if (status < 0) {
        fuse_reply_err(op->req, tc_error_to_errno(status));
        fop_end(op);
    } else if (!op->direct || !attr_wait(op, write_answer)) {
        write_answer(op);
    }
}

/* FUSE_WRITE_KILL_SUIDGID, which libfuse does not pass on. */
static bool raw_write_kill(const struct tc_mount *m)
{
    struct fuse_write_in in;

    if (!m->request || m->request->len < sizeof(struct fuse_in_header) + sizeof(in))
        return false;
    memcpy(&in, m->request->data + sizeof(struct fuse_in_header), sizeof(in));
    return in.write_flags & FUSE_WRITE_KILL_SUIDGID;
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    struct fop *op = fop_new(req, ino);
    struct tc_mount *m = op->m;
    const uint8_t *p = (const uint8_t *)data;
    struct buf *b = m->request;
    size_t data_off;

    op->kind = FOP_WRITE;
    op->off = (uint64_t)off;
    op->len = size;
    op->file = file_of(fi);
    op->append = (fi->flags & O_APPEND) && !fi->writepage;
    op->direct = op->append && (tc_file_flags(op->file) & TC_OPEN_APPEND);
    if (size >= FUSE_KEEP_MIN && b && p >= b->data && p + size <= b->data + b->len) {
        buf_ref(b);
        data_off = (size_t)(p - b->data);
    } else {
        b = buf_copy(data, (uint32_t)size);
        data_off = 0;
    }
    if (op->direct)
        op->kind = FOP_PLAIN; /* no page is locked under it; the client drops what others have cached there */
    else
        io_begin(op);
    if (fi->writepage)
        op->call = tc_write_mapped(m->client, op->ino, b, data_off, size, op->off, reply_write, op);
    else
        op->call = tc_write(m->client, op->file, b, data_off, size, op->off, op->append,
                            raw_write_kill(m), reply_write, op);
    buf_unref(b);
}

/* ---- the rest of an open file's life ---- */

static void reply_status(void *arg, int status)
{
    struct fop *op = arg;

    fuse_reply_err(op->req, tc_error_to_errno(status));
    fop_end(op);
}

static void flush_unlocked(void *arg, int status TC_UNUSED)
{
    struct fop *op = arg;

    op->call = tc_flush(op->m->client, op->file, reply_status, op);
}

/* A close: a process's range locks of the inode go with any (fcntl(2)). */
static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct file_lock all = {.owner = fi->lock_owner, .end = LOCK_END, .family = LOCK_RANGES, .type = LOCK_UNLOCK};
    struct fop *op = fop_new(req, ino);

    op->file = file_of(fi);
    if (tc_lock_held(op->file, all.owner, LOCK_RANGES))
        op->call = tc_lock(op->m->client, op->file, &all, false, flush_unlocked, op);
    else
        flush_unlocked(op, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino TC_UNUSED, struct fuse_file_info *fi)
{
    tc_release(mount_of(req)->client, file_of(fi));
    fuse_reply_err(req, 0);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync TC_UNUSED, struct fuse_file_info *fi)
{
    struct fop *op = fop_new(req, ino);

    op->call = tc_fsync(op->m->client, file_of(fi), reply_status, op);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
    uint32_t ours = 0;
    struct fop *op;

    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        fuse_reply_err(req, EOPNOTSUPP);
        return;
    }
    ours |= (mode & FALLOC_FL_KEEP_SIZE) ? TC_FALLOC_KEEP_SIZE : 0;
    ours |= (mode & FALLOC_FL_PUNCH_HOLE) ? TC_FALLOC_PUNCH : 0;
    ours |= (mode & FALLOC_FL_ZERO_RANGE) ? TC_FALLOC_ZERO : 0;
    ours |= fuse_req_ctx(req)->uid != 0 ? TC_FALLOC_KILL_PRIV : 0; /* no flag says it here */
    op = fop_new(req, ino);
    op->call = tc_fallocate(op->m->client, file_of(fi), ours, (uint64_t)off, (uint64_t)len, reply_status, op);
}

static void reply_seek(void *arg, int status, uint64_t off)
{
    struct fop *op = arg;

    if (status < 0)
        fuse_reply_err(op->req, tc_error_to_errno(status));
    else
        fuse_reply_lseek(op->req, (off_t)off);
    fop_end(op);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
    struct fop *op;

    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    op = fop_new(req, ino);
    op->call = tc_seek(op->m->client, file_of(fi), (uint64_t)off, whence == SEEK_HOLE, reply_seek, op);
}

/* ---- locks ---- */

static struct file_lock range_of(const struct fuse_file_info *fi, const struct flock *fl)
{
    struct file_lock l = {.owner = fi->lock_owner, .start = (uint64_t)fl->l_start, .end = LOCK_END, .pid = (uint32_t)fl->l_pid,
                          .family = LOCK_RANGES};

    if (fl->l_len > 0)
        l.end = l.start + (uint64_t)fl->l_len - 1;
    l.type = fl->l_type == F_UNLCK ? LOCK_UNLOCK : fl->l_type == F_RDLCK ? LOCK_SHARED : LOCK_EXCLUSIVE;
    return l;
}

static void reply_getlk(void *arg, int status, const struct file_lock *other)
{
    struct flock fl = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    struct fop *op = arg;

    if (other) {
        fl.l_type = other->type == LOCK_SHARED ? F_RDLCK : F_WRLCK;
        fl.l_start = (off_t)other->start;
        fl.l_len = other->end == LOCK_END ? 0 : (off_t)(other->end - other->start + 1);
        fl.l_pid = (pid_t)other->pid;
    }
    if (status < 0)
        fuse_reply_err(op->req, tc_error_to_errno(status));
    else
        fuse_reply_lock(op->req, &fl);
    fop_end(op);
}

static void op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *fl)
{
    struct file_lock l = range_of(fi, fl);
    struct fop *op = fop_new(req, ino);

    op->call = tc_lock_test(op->m->client, file_of(fi), &l, reply_getlk, op);
}

static void lock_start(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, const struct file_lock *l, bool wait)
{
    struct fop *op = fop_new(req, ino);

    op->any_signal = wait;
    op->call = tc_lock(op->m->client, file_of(fi), l, wait, reply_status, op);
}

static void op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *fl, int sleep)
{
    struct file_lock l = range_of(fi, fl);

    lock_start(req, ino, fi, &l, sleep);
}

static void op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int what)
{
    struct file_lock l = {.owner = fi->lock_owner, .end = LOCK_END, .family = LOCK_FLOCK};

    l.type = (what & LOCK_UN) ? LOCK_UNLOCK : (what & LOCK_SH) ? LOCK_SHARED : LOCK_EXCLUSIVE;
    lock_start(req, ino, fi, &l, !(what & LOCK_NB));
}

void files_set_ops(struct fuse_lowlevel_ops *ops)
{
    ops->open = op_open;
    ops->create = op_create;
    ops->read = op_read;
    ops->write = op_write;
    ops->flush = op_flush;
    ops->release = op_release;
    ops->fsync = op_fsync;
    ops->fallocate = op_fallocate;
    ops->lseek = op_lseek;
    ops->getlk = op_getlk;
    ops->setlk = op_setlk;
    ops->flock = op_flock;
}
