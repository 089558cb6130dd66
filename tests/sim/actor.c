/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coroutines, and the client's calls on them. A callback only notes the result and has the actor resumed by an
 * event of its own, so that an actor never runs inside the library.
 */
#include "sim/actor.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>

enum { STACK = 256 << 10 };

struct coro {
    ucontext_t self, main;
    uint8_t *stack;
};

static void coro_enter(unsigned hi, unsigned lo)
{
    struct actor *a = (struct actor *)(uintptr_t)((uint64_t)hi << 32 | lo);

    a->fn(a);
    a->done = true;
    swapcontext(&a->coro->self, &a->coro->main);
}

static void actor_resume(void *arg)
{
    struct actor *a = arg;

    if (a->done || !a->waiting)
        return;
    a->waiting = false;
    swapcontext(&a->coro->main, &a->coro->self);
}

static void actor_suspend(struct actor *a)
{
    a->waiting = true;
    swapcontext(&a->coro->self, &a->coro->main);
}

struct actor *actor_new(struct client *cl, actor_fn *fn, void *arg)
{
    struct actor *a = tc_calloc(1, sizeof *a);
    struct cluster *c = cl->c;

    ASSERT(c->n_actors < ACTORS_MAX);
    a->c = c;
    a->cl = cl;
    a->index = c->n_actors;
    a->fn = fn;
    a->arg = arg;
    a->rng = sim_stream(c->opt.seed, 0xac70, a->index);
    a->data = tc_malloc(ACTOR_READ_MAX);
    a->entries = tc_calloc(ACTOR_ENTRIES_MAX, sizeof *a->entries);
    a->coro = tc_calloc(1, sizeof *a->coro);
    a->coro->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(a->coro->stack != MAP_FAILED);
    getcontext(&a->coro->self);
    a->coro->self.uc_stack.ss_sp = a->coro->stack;
    a->coro->self.uc_stack.ss_size = STACK;
    makecontext(&a->coro->self, (void (*)(void))(uintptr_t)coro_enter, 2, (unsigned)((uint64_t)(uintptr_t)a >> 32),
                (unsigned)(uintptr_t)a);
    a->waiting = true;
    a->doing = "start";
    c->actors[c->n_actors++] = a;
    sim_at(c->s, sim_now(c->s) + sim_below(&a->rng, NS_PER_MS), actor_resume, a);
    return a;
}

void actor_free(struct actor *a)
{
    if (!a)
        return;
    munmap(a->coro->stack, STACK);
    free(a->coro);
    free(a->entries);
    free(a->data);
    free(a);
}

void actors_killed(struct client *cl)
{
    for (unsigned i = 0; i < cl->c->n_actors; i++) {
        struct actor *a = cl->c->actors[i];

        if (a->cl != cl || !a->calling)
            continue;
        a->calling = false;
        a->status = ACTOR_KILLED;
        sim_at(cl->c->s, sim_now(cl->c->s), actor_resume, a);
    }
}

void actor_sleep(struct actor *a, uint64_t ns)
{
    sim_at(a->c->s, sim_now(a->c->s) + ns, actor_resume, a);
    actor_suspend(a);
}

bool actor_ready(struct actor *a)
{
    a->doing = "waiting for its client";
    while (!a->c->failed) {
        if (a->cl->ready)
            return true;
        if (a->c->stopping && !a->cl->tc)
            return false;
        actor_sleep(a, 10 * NS_PER_MS);
    }
    return false;
}

/* ---- calls ---------------------------------------------------------------------------------------- */

static int call_begin(struct actor *a, const char *what)
{
    if (!a->cl->ready)
        return ACTOR_KILLED;
    a->calling = true;
    a->doing = what;
    a->since = sim_now(a->c->s);
    a->len = 0;
    return 0;
}

static int call_wait(struct actor *a)
{
    actor_suspend(a);
    a->c->n_ops++;
    if (a->status < 0)
        a->c->n_errors++;
    cluster_log(a->c, "actor %u client %u %s since %.6f: %s ino %llu size %llu off %llu len %zu", a->index, a->cl->index,
                a->doing, (double)a->since / 1e9, a->status == ACTOR_KILLED ? "killed" : tc_error_name(a->status),
                (unsigned long long)a->ino, (unsigned long long)a->size, (unsigned long long)a->off, a->len);
    return a->status;
}

static void call_done(struct actor *a, int status)
{
    if (!a->calling) {
        cluster_fail(a->c, "a callback came twice, or for no call: %s", a->doing);
        return;
    }
    a->calling = false;
    a->status = status;
    sim_at(a->c->s, sim_now(a->c->s) + 1000, actor_resume, a);
}

static void on_status(void *arg, int status)
{
    call_done(arg, status);
}

static void on_entry(void *arg, int status, const struct tc_entry *e)
{
    struct actor *a = arg;

    if (status == 0 && e) {
        a->ino = e->ino;
        a->size = e->attr.size;
        a->mode = e->attr.mode;
        a->nlink = e->attr.nlink;
        a->mtime = e->attr.mtime;
    }
    call_done(a, status);
}

static void on_read(void *arg, int status, const struct iovec *iov, int n, size_t len)
{
    struct actor *a = arg;

    if (status == 0) {
        size_t at = 0;

        for (int i = 0; i < n; i++) {
            ASSERT(at + iov[i].iov_len <= ACTOR_READ_MAX);
            memcpy(a->data + at, iov[i].iov_base, iov[i].iov_len);
            at += iov[i].iov_len;
        }
        ASSERT(at == len);
        a->len = len;
    }
    call_done(a, status);
}

static void on_write(void *arg, int status, size_t len, uint64_t off)
{
    struct actor *a = arg;

    a->len = len;
    a->off = off;
    call_done(a, status);
}

static void on_seek(void *arg, int status, uint64_t off)
{
    struct actor *a = arg;

    a->off = off;
    call_done(a, status);
}

static void on_readdir(void *arg, int status, const struct tc_dirent *e, unsigned n, bool eof)
{
    struct actor *a = arg;

    for (unsigned i = 0; status == 0 && i < n; i++) {
        a->cookie = e[i].cookie;
        if ((e[i].name.n == 1 && e[i].name.p[0] == '.') || (e[i].name.n == 2 && memcmp(e[i].name.p, "..", 2) == 0))
            continue;
        ASSERT(a->n_entries < ACTOR_ENTRIES_MAX && e[i].name.n < ACTOR_NAME_MAX);
        memcpy(a->entries[a->n_entries].name, e[i].name.p, e[i].name.n);
        a->entries[a->n_entries].name[e[i].name.n] = 0;
        a->entries[a->n_entries].ino = e[i].ino;
        a->entries[a->n_entries].mode = e[i].mode;
        a->n_entries++;
    }
    a->eof = eof || n == 0;
    call_done(a, status);
}

#define CALL(a, what, expr)              \
    do {                                 \
        int begun_ = call_begin(a, what); \
        if (begun_)                      \
            return begun_;               \
        (void)(expr);                    \
    } while (0)

int a_lookup(struct actor *a, uint64_t parent, const char *name)
{
    CALL(a, "lookup", tc_lookup(a->cl->tc, parent, name, on_entry, a));
    call_wait(a);
    return a->status == 0 && a->ino == 0 ? -TC_E_NOENT : a->status;
}

int a_getattr(struct actor *a, uint64_t ino)
{
    CALL(a, "getattr", tc_getattr(a->cl->tc, ino, on_entry, a));
    return call_wait(a);
}

int a_truncate(struct actor *a, uint64_t ino, uint64_t size)
{
    cluster_log(a->c, "actor %u client %u truncate begins: ino %llu size %llu", a->index, a->cl->index,
                (unsigned long long)ino, (unsigned long long)size);
    struct setattr_req set = {.ino = ino, .mask = SET_SIZE, .size = size};

    CALL(a, "truncate", tc_setattr(a->cl->tc, &set, on_entry, a));
    return call_wait(a);
}

int a_utimes(struct actor *a, uint64_t ino, uint64_t mtime)
{
    struct setattr_req set = {.ino = ino, .mask = SET_MTIME, .mtime = mtime};

    CALL(a, "utimes", tc_setattr(a->cl->tc, &set, on_entry, a));
    return call_wait(a);
}

static const struct tc_cred cred = {.uid = 0, .gid = 0, .umask = 022};

int a_make(struct actor *a, uint64_t parent, const char *name, uint32_t mode, bool excl)
{
    CALL(a, S_ISDIR(mode) ? "mkdir" : "create",
         tc_make(a->cl->tc, parent, name, mode, 0, NULL, &cred, excl, false, on_entry, a));
    return call_wait(a);
}

int a_symlink(struct actor *a, uint64_t parent, const char *name, const char *target)
{
    CALL(a, "symlink",
         tc_make(a->cl->tc, parent, name, S_IFLNK | 0777, 0, target, &cred, true, false, on_entry, a));
    return call_wait(a);
}

int a_link(struct actor *a, uint64_t ino, uint64_t parent, const char *name)
{
    CALL(a, "link", tc_link(a->cl->tc, ino, parent, name, on_entry, a));
    return call_wait(a);
}

int a_unlink(struct actor *a, uint64_t parent, const char *name, bool dir)
{
    CALL(a, dir ? "rmdir" : "unlink", tc_unlink(a->cl->tc, parent, name, dir, on_status, a));
    return call_wait(a);
}

int a_rename(struct actor *a, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
             uint32_t flags)
{
    CALL(a, "rename", tc_rename(a->cl->tc, parent, name, new_parent, new_name, flags, on_status, a));
    return call_wait(a);
}

int a_list(struct actor *a, uint64_t ino)
{
    a->n_entries = 0;
    a->cookie = 0;
    do {
        CALL(a, "readdir",
             tc_readdir(a->cl->tc, ino, a->cookie, 8 + (unsigned)sim_below(&a->rng, 32), sim_below(&a->rng, 2),
                        on_readdir, a));
        if (call_wait(a))
            return a->status;
    } while (!a->eof);
    return 0;
}

int a_open(struct actor *a, uint64_t ino, uint32_t flags, struct tc_file **ret_file)
{
    CALL(a, "open", tc_open(a->cl->tc, ino, flags, ret_file, on_entry, a));
    return call_wait(a);
}

void a_release(struct actor *a, struct tc_file *f, uint64_t kills)
{
    if (a->cl->tc && a->cl->kills == kills)
        tc_release(a->cl->tc, f);
}

int a_read(struct actor *a, struct tc_file *f, uint64_t off, size_t len)
{
    ASSERT(len <= ACTOR_READ_MAX);
    cluster_log(a->c, "actor %u client %u read begins: off %llu len %zu", a->index, a->cl->index, (unsigned long long)off, len);
    CALL(a, "read", tc_read(a->cl->tc, f, off, len, on_read, a));
    return call_wait(a);
}

int a_write(struct actor *a, struct tc_file *f, const void *data, size_t len, uint64_t off, bool append)
{
    uint32_t lead = (uint32_t)sim_below(&a->rng, 3) * 8; /* the data need not begin its buffer */
    struct buf *b;

    if (!a->cl->ready)
        return ACTOR_KILLED;
    b = buf_new((uint32_t)len + lead);
    memcpy(b->data + lead, data, len);
    b->len = (uint32_t)len + lead;
    cluster_log(a->c, "actor %u client %u write begins: off %llu len %zu append %d", a->index, a->cl->index,
                (unsigned long long)off, len, append);
    call_begin(a, "write");
    (void)tc_write(a->cl->tc, f, b, lead, len, off, append, false, on_write, a);
    buf_unref(b);
    return call_wait(a);
}

int a_seek(struct actor *a, struct tc_file *f, uint64_t off, bool hole)
{
    CALL(a, "seek", tc_seek(a->cl->tc, f, off, hole, on_seek, a));
    return call_wait(a);
}

int a_fsync(struct actor *a, struct tc_file *f)
{
    CALL(a, "fsync", tc_fsync(a->cl->tc, f, on_status, a));
    return call_wait(a);
}

static void cancel_call(void *arg)
{
    struct actor *a = arg;
    struct tc_call *call = a->cancel;

    if (!a->calling || !call || sim_now(a->c->s) < a->cancel_at)
        return;
    a->cancel = NULL;
    tc_client_cancel(a->cl->tc, call);
}

static int lock_call(struct actor *a, struct tc_file *f, const struct file_lock *l, uint64_t wait_ns)
{
    CALL(a, l->type == LOCK_UNLOCK ? "unlock" : "lock", a->cancel = tc_lock(a->cl->tc, f, l, wait_ns > 0, on_status, a));
    if (wait_ns) {
        a->cancel_at = sim_now(a->c->s) + wait_ns;
        sim_at(a->c->s, a->cancel_at, cancel_call, a);
    } else {
        a->cancel = NULL;
    }
    (void)call_wait(a);
    a->cancel = NULL;
    return a->status;
}

int a_lock(struct actor *a, struct tc_file *f, const struct file_lock *l, uint64_t wait_ns)
{
    cluster_log(a->c, "actor %u client %u lock begins: family %u type %u owner %llu from %llu to %llu wait %llu us", a->index,
                a->cl->index, l->family, l->type, (unsigned long long)l->owner, (unsigned long long)l->start,
                (unsigned long long)l->end, (unsigned long long)(wait_ns / 1000));
    return lock_call(a, f, l, wait_ns);
}

static void on_lock(void *arg, int status, const struct file_lock *other)
{
    struct actor *a = arg;

    a->found = status == 0 && other;
    call_done(a, status);
}

int a_lock_test(struct actor *a, struct tc_file *f, const struct file_lock *l)
{
    CALL(a, "lock test", tc_lock_test(a->cl->tc, f, l, on_lock, a));
    return call_wait(a);
}
