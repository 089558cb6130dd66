/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filesystem that is right by construction, behind the client's interface: one table in memory, operations that
 * take effect at one instant. The models must never complain about it; and when it is told to err (test_rules
 * bits, below), they must. So the checks of the simulation are themselves checked.
 *
 * Written data is dirty until fsync or until another client touches the file; a client that dies loses some of its
 * dirty blocks.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/fsm.h"
#include "sim/fake.h"
#include "sim/workload.h"

enum { INODES = 4096, FILE_BLOCKS = 400, ENTRIES = 2048 };

struct fblock {
    uint8_t data[BLOCK_SIZE];
    uint8_t old[BLOCK_SIZE]; /* while dirty: what is durable */
    bool dirty;
};

struct finode {
    uint32_t mode, nlink;
    uint64_t size, durable_size;
    struct fblock *blocks[FILE_BLOCKS];
    struct tc_client *writer; /* of the dirty blocks */
    bool used;
};

struct fentry {
    uint64_t parent, ino;
    char name[ACTOR_NAME_MAX];
};

struct tc_file {
    uint64_t ino;
};

struct tc_client {
    struct env *env;
    struct fcall *calls;
    bool dead;
    uint8_t *stale; /* of an erring cache */
};

struct fcall {
    struct env_timer timer;
    struct tc_client *c;
    struct fcall *next, **link;
    void (*act)(struct fcall *f); /* takes effect */
    bool acted;
    int status;
    uint64_t ino, parent, parent2, off, size;
    uint32_t mode, flags;
    bool excl, append;
    char name[ACTOR_NAME_MAX], name2[ACTOR_NAME_MAX];
    struct buf *data;
    size_t data_off, len;
    uint8_t *read;
    struct tc_entry e;
    tc_entry_fn *entry_fn;
    tc_status_fn *status_fn;
    tc_read_fn *read_fn;
    tc_write_fn *write_fn;
    tc_readdir_fn *readdir_fn;
    void *arg;
};

static struct finode inodes[INODES];
static struct fentry entries[ENTRIES];
static uint64_t next_ino = 2;
static uint32_t fake_wrong;
static struct sim_rng fake_rng;

void fake_reset(uint64_t seed, uint32_t wrong)
{
    for (int i = 0; i < INODES; i++)
        for (int k = 0; k < FILE_BLOCKS; k++)
            free(inodes[i].blocks[k]);
    memset(inodes, 0, sizeof inodes);
    memset(entries, 0, sizeof entries);
    next_ino = 2;
    fake_wrong = wrong;
    fake_rng = sim_stream(seed, 0xfa4e, 0);
    inodes[1] = (struct finode){.mode = S_IFDIR | 0755, .nlink = 2, .used = true};
}

static bool errs(uint32_t how)
{
    return (fake_wrong & how) && sim_below(&fake_rng, 20) == 0;
}

/* ---- the table ------------------------------------------------------------------------------------ */

static struct fentry *find(uint64_t parent, const char *name)
{
    for (int i = 0; i < ENTRIES; i++)
        if (entries[i].ino && entries[i].parent == parent && strcmp(entries[i].name, name) == 0)
            return &entries[i];
    return NULL;
}

static struct fentry *add(uint64_t parent, const char *name, uint64_t ino)
{
    for (int i = 0; i < ENTRIES; i++)
        if (!entries[i].ino) {
            entries[i] = (struct fentry){.parent = parent, .ino = ino};
            snprintf(entries[i].name, ACTOR_NAME_MAX, "%s", name);
            return &entries[i];
        }
    ASSERT(false);
    return NULL;
}

static void settle(struct finode *f)
{
    for (int i = 0; i < FILE_BLOCKS; i++)
        if (f->blocks[i])
            f->blocks[i]->dirty = false;
    f->durable_size = f->size;
    f->writer = NULL;
}

static void touch(struct fcall *c, struct finode *f)
{
    if (f->writer && f->writer != c->c) {
        if (errs(FAKE_LOST_FLUSH))
            f->size = f->durable_size;
        settle(f);
    }
}

static void entry_of(struct fcall *c, uint64_t ino)
{
    struct finode *f = &inodes[ino];

    c->e.ino = ino;
    c->e.attr.ino = ino;
    c->e.attr.mode = f->mode;
    c->e.attr.nlink = f->nlink + errs(FAKE_NLINK);
    c->e.attr.size = f->size;
}

static void drop(struct fentry *e)
{
    struct finode *f = &inodes[e->ino];

    e->ino = 0;
    f->nlink -= S_ISDIR(f->mode) ? 2 : 1;
}

static void act_lookup(struct fcall *c)
{
    struct fentry *e = find(c->parent, c->name);

    c->status = e ? 0 : -TC_E_NOENT;
    if (e)
        entry_of(c, e->ino);
}

static void act_getattr(struct fcall *c)
{
    entry_of(c, c->ino);
}

static void act_truncate(struct fcall *c)
{
    struct finode *f = &inodes[c->ino];

    touch(c, f);
    for (uint64_t i = c->size / BLOCK_SIZE; i < FILE_BLOCKS; i++) {
        uint64_t at = i == c->size / BLOCK_SIZE ? c->size % BLOCK_SIZE : 0;

        if (f->blocks[i] && !errs(FAKE_TRUNCATE)) {
            memset(f->blocks[i]->data + at, 0, BLOCK_SIZE - at);
            memset(f->blocks[i]->old + at, 0, BLOCK_SIZE - at);
        }
    }
    f->size = f->durable_size = c->size;
    entry_of(c, c->ino);
}

static void act_make(struct fcall *c)
{
    struct fentry *e = find(c->parent, c->name);

    if (e) {
        c->status = -TC_E_EXIST;
        return;
    }
    ASSERT(next_ino < INODES);
    inodes[next_ino] = (struct finode){.mode = c->mode, .nlink = S_ISDIR(c->mode) ? 2 : 1, .used = true};
    add(c->parent, c->name, next_ino);
    entry_of(c, next_ino++);
    if (errs(FAKE_TWICE))
        c->status = -TC_E_EXIST;
}

static void act_link(struct fcall *c)
{
    if (S_ISDIR(inodes[c->ino].mode))
        c->status = -TC_E_PERM;
    else if (find(c->parent, c->name))
        c->status = -TC_E_EXIST;
    if (c->status)
        return;
    add(c->parent, c->name, c->ino);
    inodes[c->ino].nlink++;
    entry_of(c, c->ino);
}

static void act_unlink(struct fcall *c)
{
    struct fentry *e = find(c->parent, c->name);
    bool dir = e && S_ISDIR(inodes[e->ino].mode);

    c->status = !e ? -TC_E_NOENT : c->flags && !dir ? -TC_E_NOTDIR : !c->flags && dir ? -TC_E_ISDIR : 0;
    if (c->status == 0)
        drop(e);
}

static void act_rename(struct fcall *c)
{
    struct fentry *e = find(c->parent, c->name), *p = find(c->parent2, c->name2);
    bool dir = e && S_ISDIR(inodes[e->ino].mode), dir2 = p && S_ISDIR(inodes[p->ino].mode);
    uint64_t ino;

    if (!e || ((c->flags & 2) && !p))
        c->status = -TC_E_NOENT;
    else if ((c->flags & 1) && p)
        c->status = -TC_E_EXIST;
    else if (p && p->ino != e->ino && !c->flags && dir != dir2)
        c->status = dir2 ? -TC_E_ISDIR : -TC_E_NOTDIR;
    if (c->status || (p && p->ino == e->ino) || errs(FAKE_RENAME))
        return;
    if (c->flags & 2) {
        ino = e->ino;
        e->ino = p->ino;
        p->ino = ino;
        return;
    }
    if (p)
        drop(p);
    add(c->parent2, c->name2, e->ino);
    e->ino = 0;
}

static void act_none(struct fcall *c)
{
    (void)c;
}

static void act_read(struct fcall *c)
{
    struct finode *f = &inodes[c->ino];

    touch(c, f);
    if (c->off >= f->size) {
        c->len = 0;
        return;
    }
    c->len = MIN(c->len, f->size - c->off);
    c->read = tc_calloc(1, c->len);
    for (size_t i = 0; i < c->len; i++) {
        struct fblock *b = f->blocks[(c->off + i) / BLOCK_SIZE];

        if (b)
            c->read[i] = (b->dirty && (fake_wrong & FAKE_STALE) ? b->old : b->data)[(c->off + i) % BLOCK_SIZE];
    }
    if (c->len > BLOCK_SIZE && errs(FAKE_TORN))
        memset(c->read + c->len / 2, 7, 3);
}

static void act_write(struct fcall *c)
{
    struct finode *f = &inodes[c->ino];

    touch(c, f);
    if (c->append)
        c->off = f->size;
    f->writer = c->c;
    for (size_t i = 0; i < c->len; i++) {
        struct fblock **b = &f->blocks[(c->off + i) / BLOCK_SIZE];

        ASSERT((c->off + i) / BLOCK_SIZE < FILE_BLOCKS);
        if (!*b)
            *b = tc_calloc(1, sizeof **b);
        if (!(*b)->dirty) {
            memcpy((*b)->old, (*b)->data, BLOCK_SIZE);
            (*b)->dirty = true;
        }
        (*b)->data[(c->off + i) % BLOCK_SIZE] = c->data->data[c->data_off + i];
    }
    f->size = MAX(f->size, c->off + c->len);
}

static void act_sync(struct fcall *c)
{
    if (!(fake_wrong & FAKE_SYNC))
        settle(&inodes[c->ino]);
}

/* ---- calls ---------------------------------------------------------------------------------------- */

static void call_finish(struct fcall *c)
{
    struct iovec iov = {c->read, c->len};

    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    if (c->entry_fn)
        c->entry_fn(c->arg, c->status, &c->e);
    else if (c->status_fn)
        c->status_fn(c->arg, c->status);
    else if (c->read_fn)
        c->read_fn(c->arg, c->status, &iov, c->len ? 1 : 0, c->len);
    else if (c->write_fn)
        c->write_fn(c->arg, c->status, c->len, c->off);
    buf_unref(c->data);
    free(c->read);
    free(c);
}

static void call_list(struct fcall *c)
{
    struct tc_dirent out[ACTOR_ENTRIES_MAX];
    unsigned n = 0;

    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    for (int i = 0; i < ENTRIES; i++)
        if (entries[i].ino && entries[i].parent == c->ino)
            out[n++] = (struct tc_dirent){.name = wire_str_of(entries[i].name), .ino = entries[i].ino,
                                          .mode = inodes[entries[i].ino].mode, .cookie = (uint64_t)i + 16};
    c->readdir_fn(c->arg, 0, out, n, true);
    free(c);
}

static void on_timer(struct env_timer *t)
{
    struct fcall *c = container_of(t, struct fcall, timer);

    if (!c->acted) {
        c->acted = true;
        c->act(c);
        env_timer_set(c->c->env, t, env_now(c->c->env) + sim_latency(&fake_rng, 500000));
    } else if (c->readdir_fn) {
        call_list(c);
    } else {
        call_finish(c);
    }
}

static struct fcall *call_new(struct tc_client *c, void (*act)(struct fcall *f), void *arg)
{
    struct fcall *f = tc_calloc(1, sizeof *f);

    f->c = c;
    f->act = act;
    f->arg = arg;
    f->next = c->calls;
    f->link = &c->calls;
    if (f->next)
        f->next->link = &f->next;
    c->calls = f;
    f->timer.fn = on_timer;
    env_timer_set(c->env, &f->timer, env_now(c->env) + sim_latency(&fake_rng, 500000));
    return f;
}

int tc_client_open(struct env *env, const struct tc_client_config *cfg, tc_status_fn *ready, void *arg,
                   struct tc_client **ret_client)
{
    struct tc_client *c = tc_calloc(1, sizeof *c);

    (void)cfg;
    c->env = env;
    call_new(c, act_none, arg)->status_fn = ready;
    *ret_client = c;
    return 0;
}

void tc_client_free(struct tc_client *c)
{
    struct fcall *f;

    if (!c)
        return;
    for (int i = 0; i < INODES; i++) {
        struct finode *n = &inodes[i];

        if (n->writer != c)
            continue;
        for (int k = 0; k < FILE_BLOCKS; k++)
            if (n->blocks[k] && n->blocks[k]->dirty && sim_below(&fake_rng, 2))
                memcpy(n->blocks[k]->data, n->blocks[k]->old, BLOCK_SIZE);
        if (sim_below(&fake_rng, 2)) {
            for (uint64_t k = n->durable_size; k < n->size; k++)
                if (n->blocks[k / BLOCK_SIZE])
                    n->blocks[k / BLOCK_SIZE]->data[k % BLOCK_SIZE] = 0;
            n->size = n->durable_size;
        }
        settle(n);
    }
    while ((f = c->calls)) {
        c->calls = f->next;
        env_timer_cancel(c->env, &f->timer);
        buf_unref(f->data);
        free(f->read);
        free(f);
    }
    free(c);
}

uint64_t tc_client_root(const struct tc_client *c)
{
    (void)c;
    return 1;
}

static struct tc_call *as_call(struct fcall *f)
{
    return (struct tc_call *)(void *)f;
}

static struct fcall *named(struct fcall *f, uint64_t parent, const char *name)
{
    f->parent = parent;
    snprintf(f->name, sizeof f->name, "%s", name);
    return f;
}

struct tc_call *tc_lookup(struct tc_client *c, uint64_t parent, const char *name, tc_entry_fn *fn, void *arg)
{
    struct fcall *f = named(call_new(c, act_lookup, arg), parent, name);

    f->entry_fn = fn;
    return as_call(f);
}

struct tc_call *tc_getattr(struct tc_client *c, uint64_t ino, tc_entry_fn *fn, void *arg)
{
    struct fcall *f = call_new(c, act_getattr, arg);

    f->ino = ino;
    f->entry_fn = fn;
    return as_call(f);
}

struct tc_call *tc_setattr(struct tc_client *c, const struct setattr_req *set, tc_entry_fn *fn, void *arg)
{
    struct fcall *f = call_new(c, act_truncate, arg);

    f->ino = set->ino;
    f->size = set->size;
    f->entry_fn = fn;
    return as_call(f);
}

struct tc_call *tc_make(struct tc_client *c, uint64_t parent, const char *name, uint32_t mode, uint64_t rdev,
                        const char *target, const struct tc_cred *cred, bool excl, bool open, tc_entry_fn *fn,
                        void *arg)
{
    struct fcall *f = named(call_new(c, act_make, arg), parent, name);

    (void)rdev;
    (void)target;
    (void)cred;
    (void)open;
    f->mode = mode;
    f->excl = excl;
    f->entry_fn = fn;
    return as_call(f);
}

struct tc_call *tc_link(struct tc_client *c, uint64_t ino, uint64_t parent, const char *name, tc_entry_fn *fn,
                        void *arg)
{
    struct fcall *f = named(call_new(c, act_link, arg), parent, name);

    f->ino = ino;
    f->entry_fn = fn;
    return as_call(f);
}

struct tc_call *tc_unlink(struct tc_client *c, uint64_t parent, const char *name, bool dir, tc_status_fn *fn,
                          void *arg)
{
    struct fcall *f = named(call_new(c, act_unlink, arg), parent, name);

    f->flags = dir;
    f->status_fn = fn;
    return as_call(f);
}

struct tc_call *tc_rename(struct tc_client *c, uint64_t parent, const char *name, uint64_t new_parent,
                          const char *new_name, uint32_t flags, tc_status_fn *fn, void *arg)
{
    struct fcall *f = named(call_new(c, act_rename, arg), parent, name);

    f->parent2 = new_parent;
    snprintf(f->name2, sizeof f->name2, "%s", new_name);
    f->flags = flags;
    f->status_fn = fn;
    return as_call(f);
}

struct tc_call *tc_readdir(struct tc_client *c, uint64_t ino, uint64_t cookie, unsigned max, bool plus,
                           tc_readdir_fn *fn, void *arg)
{
    struct fcall *f = call_new(c, act_none, arg);

    (void)cookie;
    (void)max;
    (void)plus;
    f->ino = ino;
    f->readdir_fn = fn;
    return as_call(f);
}

struct tc_call *tc_open(struct tc_client *c, uint64_t ino, uint32_t flags, struct tc_file **ret_file,
                        tc_entry_fn *fn, void *arg)
{
    struct fcall *f = call_new(c, act_getattr, arg);

    (void)flags;
    f->ino = ino;
    f->entry_fn = fn;
    *ret_file = tc_calloc(1, sizeof **ret_file);
    (*ret_file)->ino = ino;
    return as_call(f);
}

void tc_release(struct tc_client *c, struct tc_file *f)
{
    (void)c;
    free(f);
}

struct tc_call *tc_read(struct tc_client *c, struct tc_file *file, uint64_t off, size_t len, tc_read_fn *fn, void *arg)
{
    struct fcall *f = call_new(c, act_read, arg);

    f->ino = file->ino;
    f->off = off;
    f->len = len;
    f->read_fn = fn;
    return as_call(f);
}

struct tc_call *tc_write(struct tc_client *c, struct tc_file *file, struct buf *data, size_t data_off, size_t len,
                         uint64_t off, bool append, bool kill_priv, tc_write_fn *fn, void *arg)
{
    struct fcall *f = call_new(c, act_write, arg);

    (void)kill_priv;
    f->ino = file->ino;
    f->data = buf_ref(data);
    f->data_off = data_off;
    f->len = len;
    f->off = off;
    f->append = append;
    f->write_fn = fn;
    return as_call(f);
}

struct tc_call *tc_fsync(struct tc_client *c, struct tc_file *file, tc_status_fn *fn, void *arg)
{
    struct fcall *f = call_new(c, act_sync, arg);

    f->ino = file->ino;
    f->status_fn = fn;
    return as_call(f);
}

struct tc_call *tc_seek(struct tc_client *c, struct tc_file *file, uint64_t off, bool hole, tc_seek_fn *fn, void *arg)
{
    (void)c, (void)file, (void)off, (void)hole, (void)fn, (void)arg;
    ASSERT(!"no workload seeks");
    return NULL;
}

/* Locks: none, no model of this kind is judged here. */

bool session_valid(struct tc_client *c TC_UNUSED);

bool session_valid(struct tc_client *c TC_UNUSED)
{
    return true;
}

void tc_client_cancel(struct tc_client *c TC_UNUSED, struct tc_call *call TC_UNUSED)
{
    ASSERT(!"no workload cancels");
}

struct tc_call *tc_lock(struct tc_client *c TC_UNUSED, struct tc_file *f TC_UNUSED, const struct file_lock *l TC_UNUSED,
                        bool wait TC_UNUSED, tc_status_fn *fn TC_UNUSED, void *arg TC_UNUSED)
{
    ASSERT(!"no workload locks");
    return NULL;
}

struct tc_call *tc_lock_test(struct tc_client *c TC_UNUSED, struct tc_file *f TC_UNUSED, const struct file_lock *l TC_UNUSED,
                             tc_lock_fn *fn TC_UNUSED, void *arg TC_UNUSED)
{
    ASSERT(!"no workload locks");
    return NULL;
}

/* ---- servers: none -------------------------------------------------------------------------------- */

struct meta_server {
    struct net_port *port;
};

static void meta_on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct meta_server *s = arg;
    struct wire_header h;
    struct slice body;

    (void)payload;
    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0)
        return;
    h = (struct wire_header){.kind = WIRE_REPLY, .type = h.type, .id = h.id};
    env_send(s->port, peer, wire_encode_frame(&h, NULL, NULL), NULL);
}

int meta_server_open(struct env *env, const struct meta_server_config *cfg, char *why, size_t why_size,
                     struct meta_server **ret_server)
{
    struct meta_server *s = tc_calloc(1, sizeof *s);

    (void)why;
    (void)why_size;
    *ret_server = s;
    return env_listen(env, cfg->members[cfg->id - 1].endpoint, meta_on_msg, s, &s->port);
}

struct meta_server *meta_server_close(struct meta_server *s)
{
    free(s);
    return NULL;
}

bool meta_server_transfer(struct meta_server *s TC_UNUSED)
{
    return false;
}

void meta_server_stop(struct meta_server *s TC_UNUSED, uint64_t timeout_ms TC_UNUSED, void (*done)(void *arg), void *arg)
{
    done(arg);
}

bool meta_server_leads(const struct meta_server *s)
{
    return s != NULL;
}

int storage_server_open(struct env *env, const struct storage_config *cfg, struct storage_server **ret_server)
{
    (void)env;
    (void)cfg;
    *ret_server = tc_calloc(1, 1);
    return 0;
}

void storage_server_checkpoint(struct storage_server *s)
{
    (void)s;
}

void storage_server_close(struct storage_server *s)
{
    free(s);
}

struct fsm *meta_server_fsm(struct meta_server *s TC_UNUSED)
{
    return NULL;
}

int fsm_lock_look(struct fsm *f TC_UNUSED, const struct lock_req *req TC_UNUSED, struct lock_res *ret, uint64_t *ret_session)
{
    *ret = (struct lock_res){0};
    *ret_session = 0;
    return 0;
}

/* ---- instead of look.c ---------------------------------------------------------------------------- */

char *meta_server_status_json(struct meta_server *s TC_UNUSED)
{
    return NULL;
}

void meta_server_group(const struct meta_server *s TC_UNUSED, struct replica_status *ret TC_UNUSED)
{
}

bool cluster_group_whole(struct cluster *c TC_UNUSED)
{
    return true;
}

bool cluster_placed(struct cluster *c TC_UNUSED)
{
    return true;
}

bool cluster_store_holds(struct cluster *c TC_UNUSED, uint64_t store TC_UNUSED)
{
    return true;
}

uint32_t cluster_stranger(struct cluster *c TC_UNUSED)
{
    return 0;
}

uint64_t cluster_store_of(struct cluster *c TC_UNUSED, uint32_t node TC_UNUSED)
{
    return 0;
}
