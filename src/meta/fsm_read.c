/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The read side: what the leader answers from, and the work lists of its background jobs.
 *
 * A read that fails in the kv is reported as IO; it does not make the state machine unusable.
 */
#include "meta/fsm_int.h"

#include "common/test_rules.h"

#include <xxhash.h>

#define READDIR_MAX 4096u

static int io_error_take(struct fsm *f, int r)
{
    int e = f->io_error;

    f->io_error = 0;
    return e < 0 ? e : r;
}

void attr_fill(struct fsm *f, uint64_t session, const struct inode *in, struct wire_arena *a,
               struct attr *ret)
{
    bool dead = lease_dead(f, in);

    *ret = (struct attr){
        .ino = in->ino,
        .mode = in->mode,
        .uid = in->uid,
        .gid = in->gid,
        .nlink = in->nlink,
        .size = in->size,
        .atime = in->atime,
        .mtime = in->mtime,
        .ctime = in->ctime,
        .btime = in->btime,
        .rdev = in->rdev,
        .blocks = in->blocks,
        .change = in->change,
        .epoch = in->epoch,
        .unclean_from = in->unclean_from,
        .reach = inode_reach(in),
        .parent = in->parent,
        .xattrs = in->xattrs,
        .data_state = dead               ? DATA_UNSIZED
                      : in->unclean_from ? DATA_UNCLEAN
                      : in->clean        ? DATA_CLEAN
                                         : DATA_SETTLED,
        .flags = in->has_lease && (dead || in->lease.session != session) ? ATTR_HELD : 0,
    };
    if (in->n_horizon) {
        ret->horizons.items = wire_arena_alloc(a, in->n_horizon * sizeof(struct horizon));
        ASSERT(ret->horizons.items);
        memcpy(ret->horizons.items, in->horizon, in->n_horizon * sizeof(struct horizon));
        ret->horizons.n = in->n_horizon;
    }
}

/* For a read. */
static void attr_show(struct fsm *f, uint64_t session, const struct inode *in, struct wire_arena *a, struct attr *ret)
{
    attr_fill(f, session, in, a, ret);
    if (!in->has_lease && S_ISREG(in->mode))
        ret->flags |= ATTR_FREE;
}

/* ---- namespace ------------------------------------------------------------------------------- */

int fsm_getattr(struct fsm *f, uint64_t session, uint64_t ino, struct wire_arena *a,
                struct attr *ret_attr)
{
    const struct inode *in;

    inode_cache_trim(f);
    in = fsm_inode_get(f, ino);
    if (!in)
        return io_error_take(f, -TC_E_NOENT);
    attr_show(f, session, in, a, ret_attr);
    return 0;
}

static int lookup(struct fsm *f, uint64_t parent, struct wire_str name, struct inode **ret_dir,
                  struct dslot *ret_slot)
{
    int r;

    inode_cache_trim(f);
    r = name_check(name);
    if (r < 0)
        return r;
    *ret_dir = fsm_inode_get(f, parent);
    if (!*ret_dir)
        return -TC_E_STALE;
    if (!S_ISDIR((*ret_dir)->mode))
        return -TC_E_NOTDIR;
    r = dslot_find(f, parent, name, ret_slot);
    if (r < 0)
        return r;
    return ret_slot->found ? 0 : -TC_E_NOENT;
}

int fsm_lookup(struct fsm *f, uint64_t session, uint64_t parent, struct wire_str name,
               struct wire_arena *a, struct attr *ret_attr, struct attr *ret_dir)
{
    struct inode *dir = NULL, *in;
    struct dslot slot = {0};
    int r = lookup(f, parent, name, &dir, &slot);

    if (ret_dir && dir && (r == 0 || r == -TC_E_NOENT))
        attr_fill(f, session, dir, a, ret_dir);
    if (r < 0)
        return io_error_take(f, r);
    in = fsm_inode_get(f, slot.ino);
    if (!in)
        return io_error_take(f, -TC_E_DAMAGED);
    attr_show(f, session, in, a, ret_attr);
    return 0;
}

int fsm_dentry(struct fsm *f, uint64_t parent, struct wire_str name, uint64_t *ret_ino,
               uint32_t *ret_mode)
{
    struct inode *dir = NULL;
    struct dslot slot = {0};
    int r = lookup(f, parent, name, &dir, &slot);

    if (r < 0)
        return io_error_take(f, r);
    *ret_ino = slot.ino;
    *ret_mode = slot.mode;
    return 0;
}

static void *copy_bytes(struct wire_arena *a, const void *p, size_t n)
{
    void *to = wire_arena_alloc(a, n ? n : 1);

    if (to && n)
        memcpy(to, p, n);
    return to;
}

/* False when the arena is full. */
static bool readdir_attr(struct fsm *f, uint64_t session, struct wire_arena *a,
                         struct dirent_item *d)
{
    struct inode *room = tc_malloc(sizeof(*room));
    const struct inode *in = inode_peek(f, d->ino, room);

    if (in)
        attr_show(f, session, in, a, &d->attr);
    d->has_attr = in && !(d->attr.flags & ATTR_HELD);
    if (!d->has_attr)
        d->attr = (struct attr){0};
    free(room);
    return true;
}

int fsm_readdir(struct fsm *f, uint64_t session, uint64_t ino, uint64_t cookie, uint32_t max,
                size_t max_bytes, bool plus, struct wire_arena *a, struct readdir_res *ret)
{
    struct row_bounds bounds;
    struct inode *dir;
    struct kv_iter *it;
    size_t bytes = 0;
    int r = 0;

    inode_cache_trim(f);
    dir = fsm_inode_get(f, ino);
    if (!dir)
        return io_error_take(f, -TC_E_STALE);
    if (!S_ISDIR(dir->mode))
        return -TC_E_NOTDIR;
    max = MIN(max, READDIR_MAX);
    *ret = (struct readdir_res){.change = dir->change, .parent = dir->parent, .has_dir = true};
    attr_fill(f, session, dir, a, &ret->dir);
    ret->entries.items = wire_arena_alloc(a, (max + 1) * sizeof(struct dirent_item));
    if (!ret->entries.items)
        return -TC_E_LIMIT;
    it = row_iter(f, &bounds, key_u64x2(TAB_DENTRY, ino, MIN(cookie, INT64_MAX) + 1),
                  key_u64(TAB_DENTRY, ino + 1));
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        struct dirent_item *d = &ret->entries.items[ret->entries.n];
        struct wire_str name;

        *d = (struct dirent_item){.cookie = key_get_u64(kv_iter_key(it), 9)};
        if (!dslot_decode(kv_iter_value(it), &d->ino, &d->mode, &name))
            continue;
        if (ret->entries.n == max || (max_bytes && bytes >= max_bytes))
            break;
        d->name = (struct wire_str){copy_bytes(a, name.p, name.n), name.n};
        if (!d->name.p) {
            r = -TC_E_LIMIT;
            break;
        }
        if (plus)
            readdir_attr(f, session, a, d);
        bytes += name.n + 32 + (d->has_attr ? 120 : 0);
        ret->entries.n++;
    }
    ret->eof = !kv_iter_valid(it);
    row_iter_end(f, it);
    return io_error_take(f, r);
}

static int get_bytes(struct fsm *f, struct key k, int absent, struct wire_arena *a,
                     struct wire_bin *ret)
{
    struct kv_value v = {0};
    int r = row_get(f, k, &v);

    if (r < 0)
        return io_error_take(f, r == -TC_E_NOENT ? absent : r);
    ret->p = copy_bytes(a, v.data, v.len);
    ret->n = (uint32_t)v.len;
    kv_value_free(&v);
    return ret->p ? 0 : -TC_E_LIMIT;
}

int fsm_readlink(struct fsm *f, uint64_t ino, struct wire_arena *a, struct wire_bin *ret_target)
{
    const struct inode *in = fsm_inode_get(f, ino);

    if (!in)
        return io_error_take(f, -TC_E_NOENT);
    if (!S_ISLNK(in->mode))
        return -TC_E_INVAL;
    return get_bytes(f, key_u64(TAB_TARGET, ino), -TC_E_DAMAGED, a, ret_target);
}

int fsm_getxattr(struct fsm *f, uint64_t ino, struct wire_str name, struct wire_arena *a,
                 struct wire_bin *ret_value)
{
    const struct inode *in = fsm_inode_get(f, ino);

    if (!in)
        return io_error_take(f, -TC_E_NOENT);
    if (name.n == 0 || name.n > FSM_XATTR_NAME_MAX)
        return -TC_E_RANGE;
    if (in->xattrs == 0)
        return -TC_E_NODATA;
    return get_bytes(f, key_xattr(ino, name), -TC_E_NODATA, a, ret_value);
}

int fsm_listxattr(struct fsm *f, uint64_t ino, struct wire_arena *a, struct wire_bin *ret_names)
{
    const struct inode *in = fsm_inode_get(f, ino);
    struct row_bounds bounds;
    struct kv_iter *it;
    uint8_t *out;
    size_t room, n = 0;

    if (!in)
        return io_error_take(f, -TC_E_NOENT);
    *ret_names = (struct wire_bin){0};
    if (in->xattrs == 0)
        return 0;
    room = in->xattr_bytes + in->xattrs;
    out = wire_arena_alloc(a, room);
    if (!out)
        return -TC_E_LIMIT;
    it = row_iter(f, &bounds, key_u64(TAB_XATTR, ino), key_u64(TAB_XATTR, ino + 1));
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        struct slice k = kv_iter_key(it);
        size_t len = k.len - 9;

        ASSERT(n + len + 1 <= room);
        memcpy(out + n, (const uint8_t *)k.data + 9, len);
        out[n + len] = 0;
        n += len + 1;
    }
    row_iter_end(f, it);
    *ret_names = (struct wire_bin){out, (uint32_t)n};
    return io_error_take(f, 0);
}

void fsm_usage(const struct fsm *f, uint64_t *ret_inodes, uint64_t *ret_blocks)
{
    *ret_inodes = f->n_inodes;
    *ret_blocks = f->n_blocks;
}

uint8_t fsm_ino_state(struct fsm *f, uint64_t ino)
{
    struct inode *room;
    const struct inode *in;

    if (ino == 0 || ino >= f->next_ino)
        return 0;
    room = tc_malloc(sizeof(*room));
    in = inode_peek(f, ino, room);
    free(room);
    if (io_error_take(f, 0) < 0)
        return 0;
    return in ? 1 : 2;
}

uint32_t fsm_ino_garbage(struct fsm *f, uint64_t ino, bool *ret_held, struct horizon *ret_horizon)
{
    struct inode *room = tc_malloc(sizeof(*room));
    const struct inode *in = inode_peek(f, ino, room);
    uint32_t n = in ? in->n_horizon : 0;

    *ret_held = !in || in->has_lease || in->unclean_from;
    if (n)
        memcpy(ret_horizon, in->horizon, n * sizeof(*ret_horizon));
    free(room);
    f->io_error = 0;
    return n;
}

/* ---- leases, sessions ------------------------------------------------------------------------ */

bool fsm_lease(struct fsm *f, uint64_t ino, struct fsm_lease *ret_lease)
{
    const struct inode *in;

    inode_cache_trim(f);
    in = fsm_inode_get(f, ino);
    f->io_error = 0;
    if (!in || !in->has_lease)
        return false;
    *ret_lease = (struct fsm_lease){
        .session = in->lease.session,
        .incarnation = in->lease.incarnation,
        .was_clean = in->lease.was_clean,
        .dead = lease_dead(f, in),
        .gterm = in->lease.gterm,
        .gcount = in->lease.gcount,
        .epoch = in->lease.epoch,
        .reach = in->lease.reach,
    };
    return true;
}

uint32_t fsm_leases_of(struct fsm *f, uint64_t session, uint64_t after, uint64_t *ret_inos,
                       uint32_t max)
{
    struct row_bounds bounds;
    struct kv_iter *it = row_iter(f, &bounds, key_u64x2(TAB_XHELD, session, after + 1),
                                  key_u64(TAB_XHELD, session + 1));
    uint32_t n = 0;

    for (; n < max && kv_iter_valid(it); kv_iter_next(it))
        ret_inos[n++] = key_get_u64(kv_iter_key(it), 9);
    row_iter_end(f, it);
    f->io_error = 0;
    return n;
}

static void session_fill(const struct session *s, struct fsm_session *ret)
{
    *ret = (struct fsm_session){.id = s->id,
                                .incarnation = s->incarnation,
                                .state = s->state,
                                .root = s->root,
                                .watermark = s->watermark,
                                .opened = s->opened,
                                .ended = s->ended,
                                .n_x = s->n_x,
                                .client = s->client};
}

bool fsm_session(struct fsm *f, uint64_t session, struct fsm_session *ret_session)
{
    const struct session *s = session_find(f, session);

    if (s)
        session_fill(s, ret_session);
    return s != NULL;
}

bool fsm_session_next(struct fsm *f, uint64_t after, struct fsm_session *ret_session)
{
    const struct session *s = session_find(f, after);

    s = s ? s->hh.next : f->sessions;
    while (s && s->id <= after)
        s = s->hh.next;
    if (s)
        session_fill(s, ret_session);
    return s != NULL;
}

enum fsm_known fsm_fate(struct fsm *f, uint64_t session, uint64_t seq, struct fsm_result *ret)
{
    const struct session *s = session_find(f, session);

    if (!s)
        return FSM_NO_SESSION;
    if (seq <= s->watermark)
        return FSM_FINISHED;
    if (!reply_kept(s, seq))
        return FSM_NEW;
    if (ret && reply_load(f, session, seq, ret) < 0) {
        f->io_error = 0;
        return FSM_NEW; /* cannot be read: as an entry it will fail in the same way */
    }
    return FSM_KEPT;
}

enum fsm_known fsm_known(struct fsm *f, uint64_t session, uint64_t seq, struct fsm_result *ret)
{
    const struct session *s = session_find(f, session);
    enum fsm_known known = fsm_fate(f, session, seq, ret);

    if (known == FSM_KEPT && !TC_RULE(EXACTLY_ONCE))
        return FSM_NEW;
    if (known == FSM_FINISHED && (f->rules_off & FSM_RULE_WATERMARK))
        return FSM_NEW;
    if (known == FSM_NEW && s->state != FSM_SESSION_LIVE)
        return FSM_ENDED;
    if (known == FSM_NEW && seq - s->watermark > FSM_SEQ_WINDOW)
        return FSM_BEYOND;
    return known;
}

/* ---- work lists ------------------------------------------------------------------------------ */

static uint32_t list_inos(struct fsm *f, uint8_t table, uint64_t after, uint64_t *ret_inos,
                          uint32_t max)
{
    struct row_bounds bounds;
    struct kv_iter *it = row_iter(f, &bounds, key_u64(table, after + 1),
                                  (struct key){.b = {(uint8_t)(table + 1)}, .n = 1});
    uint32_t n = 0;

    for (; n < max && kv_iter_valid(it); kv_iter_next(it))
        ret_inos[n++] = key_get_u64(kv_iter_key(it), 1);
    row_iter_end(f, it);
    f->io_error = 0;
    return n;
}

uint32_t fsm_orphans(struct fsm *f, uint64_t after, uint64_t *ret_inos, uint32_t max)
{
    return list_inos(f, TAB_ORPHAN, after, ret_inos, max);
}

/* X rows of sessions that are not live. */
static uint32_t list_dead_x(struct fsm *f, struct fsm_unclean_cursor *c, uint64_t *ret_inos,
                            uint32_t max)
{
    struct row_bounds bounds;
    struct kv_iter *it = row_iter(f, &bounds, key_u64x2(TAB_XHELD, c->session, c->ino + 1),
                                  (struct key){.b = {TAB_XHELD + 1}, .n = 1});
    uint32_t n = 0;

    while (n < max && kv_iter_valid(it)) {
        uint64_t session = key_get_u64(kv_iter_key(it), 1);

        if (fsm_session_live(f, session)) {
            struct key next = key_u64(TAB_XHELD, session + 1);

            kv_iter_seek(it, key_slice(&next));
            continue;
        }
        c->session = session;
        c->ino = key_get_u64(kv_iter_key(it), 9);
        ret_inos[n++] = c->ino;
        kv_iter_next(it);
    }
    row_iter_end(f, it);
    f->io_error = 0;
    return n;
}

uint32_t fsm_unclean(struct fsm *f, struct fsm_unclean_cursor *c, uint64_t *ret_inos, uint32_t max)
{
    uint32_t n;

    if (max == 0)
        return 0;
    if (c->phase == 0) {
        n = list_dead_x(f, c, ret_inos, max);
        if (n > 0)
            return n;
        *c = (struct fsm_unclean_cursor){.phase = 1};
    }
    n = list_inos(f, TAB_UNCLEAN, c->ino, ret_inos, max);
    if (n > 0)
        c->ino = ret_inos[n - 1];
    return n;
}

static void hash_part(XXH3_state_t *x, struct slice s)
{
    uint64_t len = htole64(s.len);

    XXH3_64bits_update(x, &len, sizeof(len));
    if (s.len)
        XXH3_64bits_update(x, s.data, s.len);
}

uint64_t fsm_state_hash(struct fsm *f)
{
    XXH3_state_t *x = XXH3_createState();
    struct row_bounds bounds;
    struct kv_iter *it = row_iter(f, &bounds, (struct key){.b = {TAB_META}, .n = 1},
                                  (struct key){.b = {TAB_END}, .n = 1});
    uint64_t h;

    ASSERT(x);
    XXH3_64bits_reset(x);
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        hash_part(x, kv_iter_key(it));
        hash_part(x, kv_iter_value(it));
    }
    row_iter_end(f, it);
    f->io_error = 0;
    h = XXH3_64bits_digest(x);
    XXH3_freeState(x);
    return h;
}
