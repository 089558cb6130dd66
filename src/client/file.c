/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files: open, write, fsync, fallocate, close.
 *
 * A file (struct tc_file) is one open file description of the caller. It pins its inode and carries the error
 * of data that was lost after write() had returned: reported once, by the next fsync or flush.
 */
#include "client/internal.h"

#include "common/test_rules.h"

#include <sys/stat.h>

void inode_opened(struct inode *i)
{
    inode_pin(i);
    i->opens++;
}

void inode_closed(struct tc_client *c, struct inode *i)
{
    ASSERT(i->opens > 0);
    i->opens--;
    if (i->opens == 0 && i->held == LEASE_O && i->phase == RECALL_IDLE)
        lease_release(c, i);
    inode_unpin(c, i);
}

void tc_dir_open(struct tc_client *c, uint64_t ino)
{
    inode_opened(inode_get(c, ino));
}

void tc_dir_close(struct tc_client *c, uint64_t ino)
{
    struct inode *i = inode_find(c, ino);

    ASSERT(i);
    inode_closed(c, i);
}

struct tc_file *file_new(struct tc_client *c TC_UNUSED, struct inode *i, uint32_t flags)
{
    struct tc_file *f = tc_calloc(1, sizeof(*f));

    f->ino = i;
    f->flags = flags;
    f->refs = 1;
    f->error = i->unheard;
    inode_opened(i);
    DL_APPEND(i->files, f);
    return f;
}

/* The error to report, once. */
static int file_error(struct tc_file *f)
{
    int error = f->error;

    if (error)
        f->ino->unheard = 0;
    f->error = 0;
    return error;
}

struct tc_file *file_ref(struct tc_file *f)
{
    f->refs++;
    return f;
}

void file_unref(struct tc_client *c, struct tc_file *f)
{
    struct inode *i = f->ino;

    ASSERT(f->refs > 0);
    if (--f->refs > 0)
        return;
    DL_DELETE(i->files, f);
    free(f->lockers);
    free(f);
    inode_closed(c, i);
}

struct tc_file *tc_file_new(struct tc_client *c, uint64_t ino, uint32_t flags)
{
    return file_new(c, inode_get(c, ino), flags);
}

uint32_t tc_file_flags(const struct tc_file *f)
{
    return f->flags;
}

void tc_release(struct tc_client *c, struct tc_file *f)
{
    locks_release(c, f);
    file_unref(c, f);
}

/* ---- open ------------------------------------------------------------------------------------------------------- */

static void open_finish(struct tc_call *call)
{
    struct inode *i = call->ino;
    struct tc_file *f;

    if (call->answered) { /* nobody would release it */
        call_finish(call, 0);
        return;
    }
    if ((call->flags & TC_OPEN_MAY_DIRECT) && !(call->flags & TC_OPEN_WRITE) && env_now(call->c->env) < i->contended_until)
        call->flags |= TC_OPEN_DIRECT;
    f = file_new(call->c, i, call->flags);
    *call->ret_file = f;
    inode_entry(i, &call->entry);
    call->entry.keep_data = i->kernel_pages;
    call->has_entry = true;
    call_finish(call, 0);
}

static void open_tick(struct tc_call *call)
{
    struct inode *i = call->ino;

    if (lease_need_s(call, i))
        return;
    open_finish(call);
}

static void open_truncated(void *arg, int status, const struct tc_entry *e TC_UNUSED)
{
    struct tc_call *call = arg;

    call->busy = false;
    if (status != 0) {
        call_finish(call, status);
        return;
    }
    open_tick(call);
}

struct tc_call *tc_open(struct tc_client *c, uint64_t ino, uint32_t flags, struct tc_file **ret_file, tc_entry_fn *fn,
                        void *arg)
{
    struct tc_call *call = call_new(c, RESULT_ENTRY, open_tick, arg);
    struct setattr_req set = {.ino = ino, .mask = SET_SIZE};

    call->fn.entry = fn;
    call->flags = flags;
    call->ret_file = ret_file;
    call_pin(call, inode_get(c, ino));
    if (flags & TC_OPEN_TRUNC) {
        call->busy = true;
        (void)tc_setattr(c, &set, open_truncated, call);
        return call;
    }
    return call_start(call);
}

/* ---- fsync ------------------------------------------------------------------------------------------------------- */

enum sync_stage { SYNC_START = 100, SYNC_FLIGHTS, SYNC_SESSION };

/* True: the call waits. False: everything as of the first step is durable, or *ret_status says what failed. */
static bool sync_step(struct tc_call *call, int *ret_status)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;

    *ret_status = 0;
    if (!TC_RULE(FSYNC_DATA))
        return false;
    if (call->stage < SYNC_START)
        call->stage = SYNC_START;
    if (call->stage == SYNC_START && i->mapped > 0) {
        call_wait(call, &i->io_wq);
        return true;
    }
    if (call->stage == SYNC_START && i->x) {
        if (i->dirty_blocks && map_wait(call, i->barrier))
            return true;
        if (!flush_all(c, i)) {
            call_wait(call, &i->io_wq);
            return true;
        }
        call->target_epoch = i->x->epoch;
        call->target_seq = i->x->seq;
        call->cookie = i->x->size;
        call->stage = SYNC_FLIGHTS;
    }
    if (call->stage == SYNC_FLIGHTS && i->x && i->x->epoch == call->target_epoch) {
        if (flights_upto(i, call->target_seq)) {
            call_wait(call, &i->io_wq);
            return true;
        }
        /* The size must ride on a block of this epoch, or be committed (PROTOCOL 4.7). */
        if (call->cookie > i->x->size_acked && call->cookie > i->x->committed_size && call->cookie <= i->x->size) {
            lease_ask(c, i, 0);
            if (i->x && i->ask != ASK_NONE) {
                call_wait(call, &i->io_wq);
                return true;
            }
        }
    }
    call->stage = SYNC_SESSION;
    if (TC_RULE(SYNC_VALID) && session_revalidate(call)) /* PROTOCOL 4.5 */
        return true;
    if (call->file && call->file->error) {
        *ret_status = file_error(call->file);
    }
    return false;
}

static void fsync_tick(struct tc_call *call)
{
    int status;

    if (sync_step(call, &status))
        return;
    call_finish(call, status);
}

struct tc_call *tc_fsync(struct tc_client *c, struct tc_file *f, tc_status_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATUS, fsync_tick, arg);

    call->fn.status = fn;
    call->file = file_ref(f);
    call_pin(call, f->ino);
    return call_start(call);
}

static void flush_tick(struct tc_call *call)
{
    int status = 0;

    if (call->file->flags & TC_OPEN_WRITE) { /* who only reads hears of it when asking, by fsync */
        /* Where room is short, what was written behind may have none: nobody would hear of it after the close. */
        if ((call->c->tight || call->stage >= SYNC_START) && sync_step(call, &status))
            return;
        if (status == 0)
            status = file_error(call->file);
    }
    call_finish(call, status);
}

struct tc_call *tc_flush(struct tc_client *c, struct tc_file *f, tc_status_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATUS, flush_tick, arg);

    call->fn.status = fn;
    call->file = file_ref(f);
    call_pin(call, f->ino);
    return call_start(call);
}

/* ---- write --------------------------------------------------------------------------------------------------------- */

enum write_stage { WRITE_START, WRITE_KILLED };

static void kill_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    const struct entry_res *e = res;

    call->busy = false;
    if (status == 0 && e->has_attr) {
        inode_take_attr(call->c, call->ino, &e->attr, false, true);
        call->ino->killed_change = call->ino->attr.change;
    }
    call->stage = WRITE_KILLED;
    if (call->answered) {
        call_finish(call, 0);
        return;
    }
    call->tick(call);
}

/*
 * Before the first changed byte suid and sgid go, if the kernel says so (it does not for root), and capabilities,
 * whoever writes. True: under way.
 */
static bool write_kill_priv(struct tc_call *call)
{
    struct inode *i = call->ino;
    struct setattr_req req = {.ino = i->ino, .mask = SET_KILL_PRIV};
    bool bits = (i->attr.mode & S_ISUID) || ((i->attr.mode & S_ISGID) && (i->attr.mode & S_IXGRP));

    if (!call->kill_priv)
        return !call->mapped && caps_drop(call);
    if (call->stage != WRITE_START || !(bits || i->attr.xattrs) || i->killed_change == i->attr.change)
        return false;
    call->busy = true;
    RPC(call->c, MSG_SETATTR, RPC_MUTATION, setattr_req, &req, entry_res, kill_done, call);
    return true;
}

/* The lease, and being counted as a writer under it. True: the call waits. */
static bool write_enter(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;

    if (call->entered && i->x)
        return false;
    if (call->entered)
        call_leave(call);
    if (!(call->mapped && i->x && i->phase < RECALL_COMMIT && session_valid(c))) {
        if (lease_need_x(call, i))
            return true;
    }
    if (!call->mapped && horizon_busy(i) && horizon_make_room(call, i))
        return true;
    writer_enter(call);
    return false;
}

static bool write_room(struct tc_call *call)
{
    struct tc_client *c = call->c;

    if (call->mapped || c->dirty_bytes == 0 || c->dirty_bytes + call->len <= c->dirty_max)
        return false;
    flush_pressure(c);
    call_wait(call, &c->room_wq);
    return true;
}

static void write_changed(struct tc_client *c, struct inode *i, uint64_t end)
{
    struct xlease *x = i->x;

    if (end > x->size) {
        x->size = end;
        x->size_max = MAX(x->size_max, end);
    }
    x->mtime = session_time(c);
    x->meta_dirty = true;
    lease_x_used(c, i);
}

static void write_finish(struct tc_call *call)
{
    call_leave(call);
    if (call->file && (call->file->flags & TC_OPEN_SYNC)) {
        call->stage = SYNC_START;
        call->tick(call);
        return;
    }
    call_finish(call, 0);
}

static void append_purged(void *arg)
{
    struct tc_call *call = arg;

    ASSERT(call->ino->hidden > 0);
    call->ino->hidden--;
    call->busy = false;
    write_finish(call);
}

/* Others may have the page of the old end cached outside, with zeros behind it. It has to go before anybody is told of
 * the new size, so until then the old one is shown. True: under way. */
static bool append_purge(struct tc_call *call, uint64_t old_size)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;

    if (!call->append || !call->file || !(call->file->flags & TC_OPEN_APPEND) || !i->kernel_pages || !c->cfg.invalidate_inode)
        return false;
    if (i->hidden++ == 0)
        i->shown_size = old_size;
    call->busy = true;
    c->cfg.invalidate_inode(c->cfg.arg, i->ino, call->off, call->len, append_purged, call);
    return true;
}

static void write_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    uint64_t off, end, block;
    int status;

    if (call->stage >= SYNC_START) {
        if (!sync_step(call, &status))
            call_finish(call, status);
        return;
    }
    if (call->file && call->file->failed) {
        call_finish(call, -TC_E_IO);
        return;
    }
    if (write_enter(call))
        return;
    off = call->append ? i->x->size : call->off;
    if (call->mapped) { /* a mapping never extends the file */
        call->len = off >= i->x->size ? 0 : (size_t)MIN(call->len, i->x->size - off);
        if (call->len == 0) {
            call_finish(call, 0);
            return;
        }
    }
    if (off + call->len < off || off + call->len > FILE_SIZE_MAX) {
        call_finish(call, -TC_E_FBIG);
        return;
    }
    if (write_kill_priv(call) || write_room(call))
        return;
    if (dirty_needs(i, off, call->len, &block)) {
        if (!map_wait(call, i->barrier))
            block_fetch(call, i, block);
        return;
    }
    end = off + call->len;
    dirty_write(c, i, call->data, call->data_off, call->len, off);
    write_changed(c, i, end);
    if (call->file)
        call->file->dirtied = true;
    /* What appends is not cached outside: the kernel does not know where it goes. */
    outside_data(call);
    c->stats.writes++;
    c->stats.write_bytes += call->len;
    call->off = off;
    call->data = buf_unref(call->data);
    /* A finished chunk of a stream leaves early. */
    if (off / CHUNK_SIZE != end / CHUNK_SIZE && c->flight_bytes < FLIGHT_BYTES_MAX)
        (void)flush_launch(c, i, off / CHUNK_SIZE * BLOCKS_PER_CHUNK, end / CHUNK_SIZE * BLOCKS_PER_CHUNK - 1);
    if (c->dirty_bytes > c->dirty_max / 2)
        flush_pressure(c);
    if (!append_purge(call, off))
        write_finish(call);
}

struct tc_call *tc_write(struct tc_client *c, struct tc_file *f, struct buf *data, size_t data_off, size_t len, uint64_t off,
                         bool append, bool kill_priv, tc_write_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_WRITE, write_tick, arg);

    call->fn.write = fn;
    call->file = file_ref(f);
    call_pin(call, f->ino);
    call->data = buf_ref(data);
    call->data_off = data_off;
    call->len = len;
    call->off = off;
    call->append = append || (f->flags & TC_OPEN_APPEND);
    call->kill_priv = kill_priv;
    if (len == 0) {
        call_finish(call, 0);
        return call;
    }
    return call_start(call);
}

static void mapped_written(void *arg, int status, size_t len TC_UNUSED, uint64_t off TC_UNUSED)
{
    struct inode *i = arg;
    struct tc_file *f;

    if (status != 0) { /* to msync, fsync and close of whoever has it open */
        DL_FOREACH(i->files, f)
        f->error = f->error ? f->error : status;
    }
    i->c->mapped--;
    if (--i->mapped == 0)
        waitq_wake(&i->io_wq);
    inode_unpin(i->c, i);
}

static void mapped_tick(struct tc_call *call)
{
    call_finish(call, 0);
}

struct tc_call *tc_write_mapped(struct tc_client *c, uint64_t ino, struct buf *data, size_t data_off, size_t len, uint64_t off,
                                tc_write_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_WRITE, mapped_tick, arg), *w;
    struct inode *i = inode_get(c, ino);

    call->fn.write = fn;
    call->len = len;
    call->off = off;
    call_pin(call, i);
    if (len > 0) {
        /* The bytes are ours from here on; the lease is taken before they are flushed. */
        w = call_new(c, RESULT_WRITE, write_tick, i);
        w->fn.write = mapped_written;
        w->deadline = UINT64_MAX;
        w->mapped = true;
        c->mapped++;
        i->mapped++;
        inode_pin(i);
        call_pin(w, i);
        w->data = buf_copy(data->data + data_off, (uint32_t)len);
        w->len = len;
        w->off = off;
        (void)call_start(w);
    }
    return call_start(call);
}

/* ---- fallocate -------------------------------------------------------------------------------------------------------- */

static void fallocate_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *i = call->ino;
    bool zero = call->mode & (TC_FALLOC_PUNCH | TC_FALLOC_ZERO);
    bool keep = call->mode & (TC_FALLOC_KEEP_SIZE | TC_FALLOC_PUNCH);
    uint64_t end = call->off + call->cookie, block, n;

    if (call->file->failed) {
        call_finish(call, -TC_E_IO);
        return;
    }
    if (write_enter(call) || write_kill_priv(call))
        return;
    /* One that reaches the end has all of the last block: it becomes a hole, too. */
    n = end < i->x->size ? end : (i->x->size + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1);
    if (zero && call->off < i->x->size) {
        if (dirty_needs(i, call->off, (size_t)(n - call->off), &block)) {
            if (!map_wait(call, i->barrier))
                block_fetch(call, i, block);
            return;
        }
        dirty_write(c, i, NULL, 0, (size_t)(n - call->off), call->off);
        call->file->dirtied = true;
    }
    if (zero || (!keep && end > i->x->size))
        write_changed(c, i, keep ? 0 : end);
    call_finish(call, 0);
}

struct tc_call *tc_fallocate(struct tc_client *c, struct tc_file *f, uint32_t mode, uint64_t off, uint64_t len,
                             tc_status_fn *fn, void *arg)
{
    struct tc_call *call = call_new(c, RESULT_STATUS, fallocate_tick, arg);

    call->fn.status = fn;
    call->file = file_ref(f);
    call_pin(call, f->ino);
    call->mode = mode;
    call->kill_priv = mode & TC_FALLOC_KILL_PRIV;
    call->off = off;
    call->cookie = len;
    if (len == 0 || off + len < off)
        call_finish(call, -TC_E_INVAL);
    else if (off + len > FILE_SIZE_MAX)
        call_finish(call, -TC_E_FBIG);
    else
        return call_start(call);
    return call;
}
