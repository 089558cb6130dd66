/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The FUSE session on the loop: the descriptor, request buffers, the INIT reply, life and end of a request.
 *
 * We read the descriptor ourselves: so a WRITE's buffer can be kept instead of copied, fields that libfuse
 * 3.14 hides can be read, and the INIT reply can be completed with flags that it never sends.
 */
#include "fuse/fuse_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"

/* ---- requests ---- */

struct fop *fop_new(fuse_req_t req, uint64_t nodeid)
{
    struct tc_mount *m = mount_of(req);
    struct fop *op = tc_calloc(1, sizeof(*op));

    op->m = m;
    op->req = req;
    op->ino = ino_of(m, nodeid);
    DL_APPEND(m->ops, op);
    op->tid = (int)fuse_req_ctx(req)->pid;
    walk_begin(op);
    fuse_req_interrupt_func(req, fop_on_interrupt, op);
    return op;
}

void fop_end(struct fop *op)
{
    if (op->kind == FOP_GETATTR)
        attr_end(op);
    else if (op->kind != FOP_PLAIN)
        io_end(op);
    DL_DELETE(op->m->ops, op);
    free(op);
}

/* ---- attributes ---- */

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

void mount_attr(const struct tc_mount *m TC_UNUSED, const struct attr *a, struct stat *st)
{
    *st = (struct stat){
        .st_ino = a->ino,
        .st_mode = a->mode,
        .st_nlink = a->nlink,
        .st_uid = a->uid,
        .st_gid = a->gid,
        .st_rdev = a->rdev,
        .st_size = (off_t)a->size,
        .st_blksize = 65536,
        .st_blocks = (blkcnt_t)(a->blocks * (BLOCK_SIZE / 512)),
        .st_atim = to_timespec(a->atime),
        .st_mtim = to_timespec(a->mtime),
        .st_ctim = to_timespec(a->ctime),
    };
}

double mount_timeout(const struct tc_mount *m, uint64_t until)
{
    uint64_t now = env_now(m->env);

    return until > now ? (double)(until - now) / (double)NS_PER_S : 0.0;
}

void mount_entry(const struct tc_mount *m, const struct tc_entry *e, struct fuse_entry_param *ep)
{
    *ep = (struct fuse_entry_param){
        .ino = nodeid_of(m, e->ino),
        .generation = 1, /* inode numbers are never used again */
        .attr_timeout = mount_timeout(m, e->attr_until),
        .entry_timeout = mount_timeout(m, e->entry_until),
    };
    mount_attr(m, &e->attr, &ep->attr);
}

/* ---- the descriptor ---- */

static struct buf *buf_take(struct tc_mount *m)
{
    struct buf *b;

    if (m->n_spare > 0)
        return m->spare[--m->n_spare];
    b = buf_new(FUSE_BUF_SIZE);
    return b;
}

static void buf_give(struct tc_mount *m, struct buf *b)
{
    /* Kept by a write: its memory is the client's now. */
    if (atomic_load(&b->refs) == 1 && m->n_spare < FUSE_SPARE_BUFS) {
        b->len = 0;
        m->spare[m->n_spare++] = b;
        return;
    }
    buf_unref(b);
}

static ssize_t io_read(int fd, void *buf, size_t len, void *userdata TC_UNUSED)
{
    return read(fd, buf, len);
}

/* FUSE_DIRECT_IO_ALLOW_MMAP (Linux 6.6), newer than the headers that we build with. */
#define FUSE2_DIRECT_IO_ALLOW_MMAP (1u << 4)

/* Flags that libfuse 3.14 knows but never sends (docs/FUSE.md 1). */
static void patch_init(const struct tc_mount *m, struct fuse_init_out *out)
{
    uint32_t want = FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2;

    out->flags |= m->init_offered & want;
    if (m->direct_reads) {
        out->flags |= FUSE_INIT_EXT;
        out->flags2 |= FUSE2_DIRECT_IO_ALLOW_MMAP;
    }
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
    struct tc_mount *m = userdata;
    const struct fuse_out_header *out = iov[0].iov_base;

    if (out->unique && out->unique == m->init_unique && !m->init_done && count >= 2 && out->error == 0) {
        struct fuse_init_out init = {0};

        memcpy(&init, iov[1].iov_base, MIN(iov[1].iov_len, sizeof(init)));
        patch_init(m, &init);
        memcpy(iov[1].iov_base, &init, MIN(iov[1].iov_len, sizeof(init)));
        m->init_done = true;
    }
    return writev(fd, iov, count);
}

static void look_at_init(struct tc_mount *m, const struct buf *b)
{
    struct fuse_in_header h;
    struct fuse_init_in in = {0};

    if (b->len < sizeof(h))
        return;
    memcpy(&h, b->data, sizeof(h));
    if (h.opcode != FUSE_INIT)
        return;
    memcpy(&in, b->data + sizeof(h), MIN(b->len - sizeof(h), sizeof(in)));
    m->init_unique = h.unique;
    m->init_offered = in.flags;
    m->direct_reads = (in.flags & FUSE_INIT_EXT) && (in.flags2 & FUSE2_DIRECT_IO_ALLOW_MMAP);
}

static void unmounted(struct tc_mount *m)
{
    os_env_remove_fd(m->env, fuse_session_fd(m->se));
    if (m->on_unmounted)
        m->on_unmounted(m);
}

static void on_readable(void *arg, short revents TC_UNUSED)
{
    struct tc_mount *m = arg;

    for (int i = 0; i < FUSE_REQUESTS_PER_TURN; i++) {
        struct buf *b = buf_take(m);
        struct fuse_buf fb;
        ssize_t n;

        n = read(fuse_session_fd(m->se), b->data, FUSE_BUF_SIZE);
        if (n <= 0) {
            buf_give(m, b);
            if (n == 0 || errno == ENODEV) {
                unmounted(m);
                return;
            }
            if (errno == ENOENT || errno == EINTR)
                continue; /* the request was taken back meanwhile */
            if (errno != EAGAIN)
                LOG_ERR("fuse", "cannot read from the kernel", "errno=%d", errno);
            return;
        }
        b->len = (uint32_t)n;
        if (!m->init_done)
            look_at_init(m, b);
        m->request = b;
        fb = (struct fuse_buf){.size = (size_t)n, .mem = b->data};
        fuse_session_process_buf(m->se, &fb);
        m->request = NULL;
        buf_give(m, b);
        if (fuse_session_exited(m->se)) {
            unmounted(m);
            return;
        }
    }
}

/* ---- start and end ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    const struct tc_mount *m = userdata;
    unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_DONT_MASK | FUSE_CAP_POSIX_ACL |
                    FUSE_CAP_READDIRPLUS | FUSE_CAP_ASYNC_DIO;

    want |= m->own_locks ? 0 : FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS;
    /* Pages go when a lease is recalled; with pages=strict also whenever the kernel sees another mtime. */
    want |= m->strict_pages ? FUSE_CAP_AUTO_INVAL_DATA : FUSE_CAP_EXPLICIT_INVAL_DATA;

    conn->want = conn->capable & want;
    conn->max_write = FUSE_IO_MAX;
    conn->max_readahead = FUSE_IO_MAX;
    conn->max_background = 128;
    conn->congestion_threshold = 96;
    conn->time_gran = 1;
}

/* "maj:min" of our mount from mountinfo: stat() of the mount point would ask ourselves. */
static bool find_device(const char *mountpoint, char *ret_dev, size_t size)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char line[8192], dev[64], path[4096];
    bool found = false;

    if (!f)
        return false;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%*d %*d %63s %*s %4095s", dev, path) == 2 && strcmp(path, mountpoint) == 0) {
            (void)snprintf(ret_dev, size, "%s", dev); /* the last one mounted counts */
            found = true;
        }
    }
    (void)fclose(f);
    return found;
}

static void ready_run(struct env_job *j)
{
    struct tc_mount *m = container_of(j, struct tc_mount, ready_job);
    char dev[64], path[128];
    int fd;

    /* INIT cannot raise read-ahead above the kernel's 128 KiB; root can, before the first open. */
    if (!find_device(m->mountpoint, dev, sizeof(dev)))
        return;
    (void)snprintf(path, sizeof(path), "/sys/class/bdi/%s/read_ahead_kb", dev);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* not root: read-ahead stays at 128 KiB */
    if (write(fd, "1024", 4) != 4)
        LOG_INFO("fuse", "read-ahead stays at the kernel's default");
    (void)close(fd);
}

static void ready_done(struct env_job *j TC_UNUSED)
{
}

static struct fuse_session *session_new(struct tc_mount *m, const char *source, const char *options)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_lowlevel_ops ops = {.init = op_init};
    struct fuse_session *se = NULL;
    char *fsname = tc_asprintf("fsname=%s", source), *opts = NULL;
    int r = fuse_opt_add_opt(&opts, "default_permissions,subtype=tercet");

    if (r == 0)
        r = fuse_opt_add_opt_escaped(&opts, fsname); /* a list of servers has commas */
    if (r == 0 && geteuid() == 0)
        r = fuse_opt_add_opt(&opts, "allow_other");
    if (r == 0 && options && options[0])
        r = fuse_opt_add_opt(&opts, options);
    free(fsname);
    names_set_ops(&ops);
    files_set_ops(&ops);
    if (r == 0 && fuse_opt_add_arg(&args, "tercet") == 0 && fuse_opt_add_arg(&args, "-o") == 0 &&
        fuse_opt_add_arg(&args, opts) == 0)
        se = fuse_session_new(&args, &ops, sizeof(ops), m);
    fuse_opt_free_args(&args);
    free(opts);
    return se;
}

int mount_start(struct tc_mount *m, const char *source, const char *options)
{
    static const struct fuse_custom_io io = {.writev = io_writev, .read = io_read};
    int fd;

    m->interrupt_timer.fn = interrupt_tick;
    env_queue_init(m->env, &m->notify_queue, false);
    env_queue_init(m->env, &m->entry_queue, true);
    m->se = session_new(m, source, options);
    if (!m->se)
        return -TC_E_INVAL;
    if (fuse_session_mount(m->se, m->mountpoint) != 0)
        return -TC_E_PERM;
    fd = fuse_session_fd(m->se);
    if (fuse_session_custom_io(m->se, &io, fd) != 0)
        return -TC_E_UNKNOWN;
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return tc_error_from_errno(errno);
    os_env_add_fd(m->env, fd, POLLIN, on_readable, m);
    m->ready_job.run = ready_run;
    m->ready_job.done = ready_done;
    env_job_submit(m->env, &m->notify_queue, &m->ready_job);
    return 0;
}

void mount_stop(struct tc_mount *m)
{
    struct fop *op, *tmp;

    if (!m->se)
        return;
    os_env_remove_fd(m->env, fuse_session_fd(m->se));
    env_timer_cancel(m->env, &m->interrupt_timer);
    DL_FOREACH_SAFE(m->ops, op, tmp)
    {
        fuse_reply_err(op->req, EIO);
        fop_end(op);
    }
    fuse_session_unmount(m->se);
    fuse_session_destroy(m->se);
    m->se = NULL;
    invalidate_free(m);
    while (m->n_spare > 0)
        buf_unref(m->spare[--m->n_spare]);
}
