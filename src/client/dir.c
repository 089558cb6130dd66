/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories: entries known under the directory's S, and reading them in pages.
 *
 * A dentry, positive or negative, bears the directory's change it was read at or made by; an older one never
 * replaces a newer. A page of a listing serves only while the directory's S holds. A name that we remove
 * ourselves is taken out of the pages; one that we add has a place that only the leader knows, so the pages go.
 */
#include "client/internal.h"

#include <sys/stat.h>

#define DENTRIES_MAX 262144u
#define PAGES_MAX 16 /* per directory */
#define READDIR_MIN 64u

struct page_entry {
    struct wire_str name;
    uint64_t cookie, ino;
    uint32_t mode;
    bool removed; /* by us, after the page was read */
};

struct dirpage {
    struct dirpage *prev, *next;
    unsigned refs;
    uint64_t start;
    bool current; /* as the directory's S */
    bool eof;
    unsigned n;
    struct page_entry *entries;
    char *names;
    unsigned from, count; /* of the call that it is being delivered to */
};

struct dir *dir_of(struct inode *i)
{
    if (!i->dir)
        i->dir = tc_calloc(1, sizeof(*i->dir));
    return i->dir;
}

/* ---- entries ------------------------------------------------------------------------------------------------ */

static void dentry_free(struct tc_client *c, struct dir *d, struct dentry *e)
{
    HASH_DEL(d->dentries, e);
    c->n_dentries--;
    free(e);
}

static void dentries_drop(struct tc_client *c, struct dir *d)
{
    struct dentry *e, *tmp;

    HASH_ITER(hh, d->dentries, e, tmp)
    {
        dentry_free(c, d, e);
    }
    d->complete = false;
}

bool dir_find(struct tc_client *c, struct inode *d, const char *name, uint64_t *ret_ino)
{
    struct dentry *e = NULL;

    if (!d->dir || !lease_s_ok(c, d))
        return false;
    HASH_FIND(hh, d->dir->dentries, name, strlen(name), e);
    if (!e && !d->dir->complete)
        return false;
    *ret_ino = e ? e->ino : 0;
    return true;
}

static void dentries_trim(struct tc_client *c, const struct inode *keep)
{
    struct inode *i;

    for (i = c->lru; i && c->n_dentries > DENTRIES_MAX; i = i->lru_next) {
        if (i->dir && i != keep)
            dentries_drop(c, i->dir);
    }
}

void dir_put(struct tc_client *c, struct inode *d, const char *name, size_t len, uint64_t ino, uint64_t change)
{
    struct dir *dir;
    struct dentry *e = NULL;

    if (!(d->held & LEASE_S) || d->gen_term != c->gen_term || d->gen_n != c->gen_n || d->phase != RECALL_IDLE)
        return;
    dir = dir_of(d);
    HASH_FIND(hh, dir->dentries, name, len, e);
    if (e) {
        if (e->change <= change) {
            e->ino = ino;
            e->change = change;
        }
        return;
    }
    e = tc_calloc(1, sizeof(*e) + len + 1);
    memcpy(e->name, name, len);
    e->ino = ino;
    e->change = change;
    HASH_ADD_KEYPTR(hh, dir->dentries, e->name, len, e);
    if (++c->n_dentries > DENTRIES_MAX)
        dentries_trim(c, d);
}

void dir_drop_name(struct tc_client *c, struct inode *d, const char *name)
{
    struct dentry *e = NULL;

    if (!d->dir)
        return;
    HASH_FIND(hh, d->dir->dentries, name, strlen(name), e);
    if (e)
        dentry_free(c, d->dir, e);
    d->dir->complete = false;
    d->dir->mutations++;
}

static void page_remove(struct tc_client *c, struct dir *d, struct dirpage *p)
{
    DL_DELETE(d->pages, p);
    dirpage_unref(c, p);
}

void dir_drop_pages(struct tc_client *c, struct inode *d)
{
    while (d->dir && d->dir->pages)
        page_remove(c, d->dir, d->dir->pages);
}

void dir_remove_from_pages(struct inode *d, const char *name)
{
    size_t len = strlen(name);
    struct dirpage *p;

    if (!d->dir)
        return;
    DL_FOREACH(d->dir->pages, p)
    {
        for (unsigned k = 0; k < p->n; k++) {
            struct page_entry *e = &p->entries[k];

            if (e->name.n == len && memcmp(e->name.p, name, len) == 0)
                e->removed = true;
        }
    }
}

void dirpage_unref(struct tc_client *c TC_UNUSED, struct dirpage *p)
{
    if (--p->refs > 0)
        return;
    free(p->entries);
    free(p->names);
    free(p);
}

void dir_drop(struct tc_client *c, struct inode *d)
{
    if (!d->dir)
        return;
    dentries_drop(c, d->dir);
    while (d->dir->pages)
        page_remove(c, d->dir, d->dir->pages);
    d->dir->mutations++;
}

/* ---- listings -------------------------------------------------------------------------------------------------- */

/* Where @cookie is in @p; false: not in it. */
static bool page_position(const struct dirpage *p, uint64_t cookie, unsigned *ret_at)
{
    if (cookie == p->start) {
        *ret_at = 0;
        return true;
    }
    for (unsigned k = 0; k < p->n; k++) {
        if (p->entries[k].cookie == cookie && (k + 1 < p->n || p->eof)) {
            *ret_at = k + 1;
            return true;
        }
    }
    return false;
}

static struct dirpage *page_find(struct tc_client *c, struct inode *d, uint64_t cookie, unsigned *ret_at)
{
    struct dirpage *p;

    if (!d->dir || !lease_s_ok(c, d))
        return NULL;
    DL_FOREACH(d->dir->pages, p)
    {
        if (p->current && page_position(p, cookie, ret_at))
            return p;
    }
    return NULL;
}

/* One reference: the caller's. */
static struct dirpage *page_new(struct tc_client *c, struct inode *d, const struct readdir_res *res, uint64_t start)
{
    struct dirpage *p = tc_calloc(1, sizeof(*p));
    unsigned extra = start == 0 ? 2 : 0;
    size_t bytes = 4;
    char *to;

    for (uint32_t k = 0; k < res->entries.n; k++)
        bytes += res->entries.items[k].name.n;
    p->refs = 1;
    p->start = start;
    p->eof = res->eof;
    p->n = res->entries.n + extra;
    p->entries = tc_calloc(p->n, sizeof(*p->entries));
    p->names = to = tc_malloc(bytes);
    if (extra) {
        memcpy(to, "...", 3);
        p->entries[0] = (struct page_entry){{to, 1}, 1, d->ino, S_IFDIR, false};
        p->entries[1] = (struct page_entry){{to, 2}, 2, d->ino == c->root || !res->parent ? d->ino : res->parent, S_IFDIR, false};
        to += 3;
    }
    for (uint32_t k = 0; k < res->entries.n; k++) {
        const struct dirent_item *it = &res->entries.items[k];

        memcpy(to, it->name.p, it->name.n);
        p->entries[extra + k] = (struct page_entry){{to, it->name.n}, it->cookie, it->ino, it->mode, false};
        to += it->name.n;
    }
    return p;
}

static void page_keep(struct tc_client *c, struct inode *d, struct dirpage *p)
{
    struct dirpage *o;
    unsigned held = 0;

    DL_FOREACH(dir_of(d)->pages, o)
    held++;
    if (held >= PAGES_MAX)
        page_remove(c, d->dir, d->dir->pages);
    p->current = true;
    p->refs++;
    DL_APPEND(d->dir->pages, p);
}

static void readdir_tick(struct tc_call *call);

static void readdir_done(struct rpc *r, int status, const void *res)
{
    struct tc_call *call = r->arg;
    struct tc_client *c = call->c;
    struct inode *d = call->ino;
    const struct readdir_res *rd = res;
    bool cacheable = false;
    struct dirpage *p;

    call->busy = false;
    if (status != 0) {
        call_finish(call, status);
        return;
    }
    if (rd->has_dir_grant)
        cacheable = lease_take_grant(c, d, &rd->dir_grant, r, rd->has_dir ? &rd->dir : NULL);
    if (rd->has_dir)
        inode_take_attr(c, d, &rd->dir, cacheable, false);
    /* Nothing of ours may have crossed it. */
    cacheable = cacheable && rd->change >= d->min_change && dir_of(d)->mutations == call->target_seq;
    p = page_new(c, d, rd, call->id);
    if (cacheable)
        page_keep(c, d, p);
    for (uint32_t k = 0; k < rd->entries.n; k++) {
        const struct dirent_item *it = &rd->entries.items[k];
        struct inode *i;
        bool ok = false;

        if (cacheable)
            dir_put(c, d, it->name.p, it->name.n, it->ino, rd->change);
        if (!it->has_attr)
            continue;
        i = inode_get(c, it->ino);
        if (it->has_grant)
            ok = lease_take_grant(c, i, &it->grant, r, &it->attr);
        inode_take_attr(c, i, &it->attr, ok, false);
    }
    if (cacheable && call->id == 0 && rd->eof)
        d->dir->complete = true;
    call->page = p;
    if (!page_position(p, call->cookie, &p->from))
        p->from = p->n; /* nothing behind it any more */
    call->target_epoch = p->from;
    call_finish(call, 0);
}

static void readdir_tick(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct inode *d = call->ino;
    struct readdir_req req = {.ino = d->ino, .max = READDIR_PAGE, .plus = true, .want = LEASE_S, .want_dir = LEASE_S};
    unsigned at;
    struct dirpage *p;

    while ((p = page_find(c, d, call->cookie, &at))) {
        while (at < p->n && p->entries[at].removed)
            at++;
        if (at < p->n || p->eof || p->n == 0)
            break;
        call->cookie = p->entries[p->n - 1].cookie; /* all the rest of it is gone: on to the next */
    }
    if (p) {
        p->refs++;
        call->page = p;
        call->target_epoch = at;
        call_finish(call, 0);
        return;
    }
    call->id = call->cookie <= 2 ? 0 : call->cookie; /* "." and ".." are ours */
    req.cookie = call->id;
    req.plus = call->plus;
    if (call->id && !lease_s_ok(c, d))
        req.max = MAX((unsigned)call->len, READDIR_MIN); /* it will not be kept: what is read now, and little more */
    call->target_seq = dir_of(d)->mutations;
    call->busy = true;
    RPC(c, MSG_READDIR, RPC_READ, readdir_req, &req, readdir_res, readdir_done, call);
}

void dirpage_deliver(struct tc_call *call)
{
    struct tc_client *c = call->c;
    struct dirpage *p = call->page;
    unsigned from = (unsigned)call->target_epoch, n = p->n - from, k, out_n = 0;
    unsigned room = MIN(n, (unsigned)call->len);
    struct tc_dirent *out = tc_calloc(room, sizeof(*out));
    struct tc_entry *entries = call->plus ? tc_calloc(room, sizeof(*entries)) : NULL;

    for (k = 0; k < n && out_n < room; k++) {
        const struct page_entry *e = &p->entries[from + k];
        struct inode *i = call->plus && e->cookie > 2 ? inode_find(c, e->ino) : NULL;

        if (e->removed)
            continue;
        out[out_n] = (struct tc_dirent){.name = e->name, .cookie = e->cookie, .ino = e->ino, .mode = e->mode};
        if (i && i->attr_cached && lease_s_ok(c, i)) {
            inode_entry(i, &entries[out_n]);
            outside_give_entry(c, i, &entries[out_n]);
            if (p->current)
                entries[out_n].entry_until = outside_give_name(c, call->ino, NULL, 0);
            out[out_n].entry = &entries[out_n];
            i->lookups++;
        }
        out_n++;
    }
    call->fn.readdir(call->arg, 0, out, out_n, p->eof && k == n);
    free(out);
    free(entries);
}

struct tc_call *tc_readdir(struct tc_client *c, uint64_t ino, uint64_t cookie, unsigned max, bool plus, tc_readdir_fn *fn,
                           void *arg)
{
    struct tc_call *call = call_new(c, RESULT_READDIR, readdir_tick, arg);

    call->fn.readdir = fn;
    call->cookie = cookie;
    call->len = MAX(max, 1u);
    call->plus = plus;
    call_pin(call, inode_get(c, ino));
    return call_start(call);
}
