/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of the state machine: keys, the inode row and its cache, directory slots, the meta row.
 * The forms are written down in docs/DISK_FORMAT.md.
 */
#include "meta/fsm_int.h"

#include <sodium.h>

/* ---- keys and plain rows --------------------------------------------------------------------- */

static void key_add_u64(struct key *k, uint64_t v)
{
    uint64_t be = htobe64(v);

    memcpy(k->b + k->n, &be, 8);
    k->n += 8;
}

struct key key_u64(uint8_t table, uint64_t a)
{
    struct key k;

    k.b[0] = table;
    k.n = 1;
    key_add_u64(&k, a);
    return k;
}

struct key key_u64x2(uint8_t table, uint64_t a, uint64_t b)
{
    struct key k = key_u64(table, a);

    key_add_u64(&k, b);
    return k;
}

struct key key_xattr(uint64_t ino, struct wire_str name)
{
    struct key k = key_u64(TAB_XATTR, ino);

    ASSERT(name.n <= FSM_XATTR_NAME_MAX);
    if (name.n)
        memcpy(k.b + k.n, name.p, name.n);
    k.n += name.n;
    return k;
}

uint64_t key_get_u64(struct slice key, size_t at)
{
    uint64_t be;

    ASSERT(key.len >= at + 8);
    memcpy(&be, (const uint8_t *)key.data + at, 8);
    return be64toh(be);
}

void row_put(struct fsm *f, struct key k, const void *value, size_t len)
{
    kv_batch_put(f->batch, key_slice(&k), slice_of(value, len));
}

void row_del(struct fsm *f, struct key k)
{
    kv_batch_del(f->batch, key_slice(&k));
}

void row_del_once(struct fsm *f, struct key k)
{
    kv_batch_del_once(f->batch, key_slice(&k));
}

int row_get(struct fsm *f, struct key k, struct kv_value *ret)
{
    int r = kv_get(f->kv, key_slice(&k), ret);

    if (r < 0 && r != -TC_E_NOENT)
        io_fail(f, r);
    return r;
}

struct kv_iter *row_iter(struct fsm *f, struct row_bounds *bounds, struct key from, struct key to)
{
    bounds->from = from;
    bounds->to = to;
    return kv_iter_new(f->kv, NULL, key_slice(&bounds->from), key_slice(&bounds->to));
}

void row_iter_end(struct fsm *f, struct kv_iter *it)
{
    int r = kv_iter_error(it);

    if (r < 0)
        io_fail(f, r);
    kv_iter_free(it);
}

/* ---- the inode row --------------------------------------------------------------------------- */

enum { ROW_CLEAN = 1, ROW_LEASE = 2, ROW_WAS_CLEAN = 4, ROW_ENDED = 8 };
#define INODE_ROW_MAX (4 + 16 + 15 * 8 + 8 + 44 + FSM_HORIZON_ROOM * 16)

static size_t inode_encode(const struct inode *in, uint8_t *row)
{
    struct rowbuf b = {row, row + INODE_ROW_MAX, false};
    const uint64_t words[] = {in->size,         in->atime,      in->mtime,       in->ctime,
                              in->btime,        in->rdev,       in->blocks,      in->change,
                              in->epoch,        in->parent,     in->bound,       in->since,
                              in->utimes_epoch, in->utimes_seq, in->unclean_from};

    put_u8(&b, FSM_FORMAT_VERSION);
    put_u8(&b, (uint8_t)((in->clean ? ROW_CLEAN : 0) | (in->has_lease ? ROW_LEASE : 0) |
                         (in->has_lease && in->lease.was_clean ? ROW_WAS_CLEAN : 0) |
                         (in->has_lease && in->lease.ended ? ROW_ENDED : 0)));
    put_u8(&b, (uint8_t)in->n_horizon);
    put_u8(&b, 0);
    put_u32(&b, in->mode);
    put_u32(&b, in->uid);
    put_u32(&b, in->gid);
    put_u32(&b, in->nlink);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        put_u64(&b, words[i]);
    put_u32(&b, in->xattrs);
    put_u32(&b, in->xattr_bytes);
    if (in->has_lease) {
        put_u64(&b, in->lease.session);
        put_u32(&b, in->lease.incarnation);
        put_u64(&b, in->lease.gterm);
        put_u64(&b, in->lease.gcount);
        put_u64(&b, in->lease.epoch);
        put_u64(&b, in->lease.reach);
    }
    for (uint32_t i = 0; i < in->n_horizon; i++) {
        put_u64(&b, in->horizon[i].size);
        put_u64(&b, in->horizon[i].epoch);
    }
    return (size_t)(b.p - row);
}

static bool inode_decode(struct slice row, uint64_t ino, struct inode *in)
{
    struct rowget g = rowget_of(row);
    uint64_t *words[] = {&in->size,         &in->atime,      &in->mtime,       &in->ctime,
                         &in->btime,        &in->rdev,       &in->blocks,      &in->change,
                         &in->epoch,        &in->parent,     &in->bound,       &in->since,
                         &in->utimes_epoch, &in->utimes_seq, &in->unclean_from};
    uint8_t version = get_u8(&g), bits = get_u8(&g);

    in->ino = ino;
    in->n_horizon = get_u8(&g);
    (void)get_u8(&g);
    in->mode = get_u32(&g);
    in->uid = get_u32(&g);
    in->gid = get_u32(&g);
    in->nlink = get_u32(&g);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        *words[i] = get_u64(&g);
    in->xattrs = get_u32(&g);
    in->xattr_bytes = get_u32(&g);
    in->clean = bits & ROW_CLEAN;
    in->has_lease = bits & ROW_LEASE;
    in->lease = (struct inode_lease){0};
    if (in->has_lease) {
        in->lease.session = get_u64(&g);
        in->lease.incarnation = get_u32(&g);
        in->lease.gterm = get_u64(&g);
        in->lease.gcount = get_u64(&g);
        in->lease.epoch = get_u64(&g);
        in->lease.reach = get_u64(&g);
        in->lease.was_clean = bits & ROW_WAS_CLEAN;
        in->lease.ended = bits & ROW_ENDED;
    }
    if (in->n_horizon > FSM_HORIZON_ROOM)
        return false;
    for (uint32_t i = 0; i < in->n_horizon; i++) {
        in->horizon[i].size = get_u64(&g);
        in->horizon[i].epoch = get_u64(&g);
    }
    in->dirty = in->gone = false;
    in->lives = 0;
    return version == FSM_FORMAT_VERSION && !g.bad && g.p == g.end;
}

static bool inode_load(struct fsm *f, uint64_t ino, struct inode *in)
{
    struct kv_value v = {0};
    bool ok;

    if (row_get(f, key_u64(TAB_INODE, ino), &v) < 0)
        return false;
    ok = inode_decode(value_slice(&v), ino, in);
    kv_value_free(&v);
    if (!ok)
        io_fail(f, -TC_E_DAMAGED);
    return ok;
}

/*
 * What is read once goes at the trimming's first visit: else names that are looked up all over a big tree drive out its
 * directories, which every one of them needs.
 */
static void inode_used(struct inode *in)
{
    in->lives = S_ISDIR(in->mode) ? FSM_CACHE_DIR_LIVES : 1;
}

struct inode *fsm_inode_get(struct fsm *f, uint64_t ino)
{
    struct inode *in;

    HASH_FIND(hh, f->cache, &ino, sizeof(ino), in);
    if (in) {
        inode_used(in);
        return in->gone ? NULL : in;
    }
    in = tc_malloc(sizeof(*in));
    if (!inode_load(f, ino, in)) {
        free(in);
        return NULL;
    }
    if (S_ISDIR(in->mode))
        inode_used(in);
    HASH_ADD(hh, f->cache, ino, sizeof(in->ino), in);
    return in;
}

const struct inode *inode_peek(struct fsm *f, uint64_t ino, struct inode *room)
{
    struct inode *in;

    HASH_FIND(hh, f->cache, &ino, sizeof(ino), in);
    if (in)
        return in->gone ? NULL : in;
    return inode_load(f, ino, room) ? room : NULL;
}

struct inode *inode_new(struct fsm *f, uint64_t ino)
{
    struct inode *in = tc_calloc(1, sizeof(*in));

    in->ino = ino;
    in->lives = 1;
    HASH_ADD(hh, f->cache, ino, sizeof(in->ino), in);
    inode_dirty(f, in);
    return in;
}

void inode_dirty(struct fsm *f, struct inode *in)
{
    if (in->dirty)
        return;
    in->dirty = true;
    in->next_dirty = f->dirty;
    f->dirty = in;
}

void inode_remove(struct fsm *f, struct inode *in)
{
    in->gone = true;
    inode_dirty(f, in);
}

void inode_flush(struct fsm *f)
{
    uint8_t row[INODE_ROW_MAX];

    while (f->dirty) {
        struct inode *in = f->dirty;
        struct key k = key_u64(TAB_INODE, in->ino);

        f->dirty = in->next_dirty;
        in->dirty = false;
        if (in->gone) {
            row_del(f, k);
            HASH_DEL(f->cache, in);
            free(in);
        } else {
            row_put(f, k, row, inode_encode(in, row));
        }
    }
}

/*
 * Rows used since the last visit, directories since one of the last few, go to the back of the line. No more visits at once
 * than make room for what one operation brings in, so that nobody waits for a cache full of directories.
 */
void inode_cache_trim(struct fsm *f)
{
    for (unsigned i = 0; i < FSM_CACHE_VISITS && HASH_COUNT(f->cache) > FSM_CACHE_INODES; i++) {
        struct inode *in = f->cache;

        ASSERT(!in->dirty);
        HASH_DEL(f->cache, in);
        if (in->lives > 0) {
            in->lives--;
            HASH_ADD(hh, f->cache, ino, sizeof(in->ino), in);
        } else {
            free(in);
        }
    }
}

void inode_cache_drop(struct fsm *f)
{
    struct inode *in, *tmp;

    HASH_ITER (hh, f->cache, in, tmp) {
        HASH_DEL(f->cache, in);
        free(in);
    }
    f->dirty = NULL;
}

/* ---- the meta row ---------------------------------------------------------------------------- */

static struct key meta_key(void)
{
    return (struct key){.b = {TAB_META}, .n = 1};
}

/* The first META_WORDS are in every row; what came later is behind them and 0 where the row ends before. */
enum { META_WORDS = 11 };
#define META_FIELDS(f)                                                                         \
    {                                                                                          \
        &(f)->applied, &(f)->applied_term, &(f)->clock, &(f)->next_ino, &(f)->next_session,     \
            &(f)->gc_first, &(f)->gc_next, &(f)->n_inodes, &(f)->n_blocks, &(f)->map_epoch,     \
            &(f)->dead_below, &(f)->epoch_floor, &(f)->loading, &(f)->load_id, &(f)->load_seq   \
    }

void meta_save(struct fsm *f)
{
    const uint64_t *const words[] = META_FIELDS(f);
    uint8_t row[2 + sizeof(words)];
    struct rowbuf b = {row, row + sizeof(row), false};
    size_t n = f->epoch_floor || f->loading || f->load_id ? ARRAY_SIZE(words) : META_WORDS;

    put_u8(&b, FSM_FORMAT_VERSION);
    put_u8(&b, f->formatted);
    for (size_t i = 0; i < n; i++)
        put_u64(&b, *words[i]);
    row_put(f, meta_key(), row, (size_t)(b.p - row));
}

int meta_decode(struct fsm *f, struct slice row)
{
    uint64_t *const words[] = META_FIELDS(f);
    struct rowget g = rowget_of(row);
    uint8_t version = get_u8(&g);

    f->formatted = get_u8(&g);
    for (size_t i = 0; i < ARRAY_SIZE(words) && (i < META_WORDS || g.p < g.end); i++)
        *words[i] = get_u64(&g);
    if (version > FSM_FORMAT_VERSION)
        return -TC_E_VERSION;
    return g.bad || version == 0 ? -TC_E_DAMAGED : 0;
}

int meta_load(struct fsm *f)
{
    struct kv_value v = {0};
    int r = row_get(f, meta_key(), &v);

    if (r == -TC_E_NOENT) {
        f->next_ino = INO_ROOT + 1;
        f->next_session = f->gc_first = f->gc_next = 1;
        return 0;
    }
    if (r < 0)
        return r;
    r = meta_decode(f, value_slice(&v));
    kv_value_free(&v);
    return r;
}

/* ---- directory slots ------------------------------------------------------------------------- */

/*
 * A name's slot is at its hash, or at the next free number behind it: so the slot's number is
 * unique in the directory, does not change while the name lives, and is the readdir cookie. A
 * removed slot whose successor is in use leaves a mark, so that names pushed behind it are still
 * found.
 */

int name_check(struct wire_str name)
{
    if (name.n > FSM_NAME_MAX)
        return -TC_E_NAMETOOLONG;
    if (name.n == 0 || memchr(name.p, '/', name.n) || memchr(name.p, 0, name.n))
        return -TC_E_INVAL;
    if (name.p[0] == '.' && (name.n == 1 || (name.n == 2 && name.p[1] == '.')))
        return -TC_E_INVAL;
    return 0;
}

static uint64_t name_cookie(const struct fsm *f, struct wire_str name)
{
    uint8_t out[crypto_shorthash_BYTES];
    uint64_t h;

    static_assert(crypto_shorthash_KEYBYTES == 16, "the key of genesis");
    crypto_shorthash(out, (const unsigned char *)name.p, name.n, f->genesis.siphash_key.p);
    memcpy(&h, out, 8);
    h = le64toh(h) >> 1;
    if (f->cookie_mask)
        h &= f->cookie_mask;
    return FSM_COOKIE_MIN +
           h % ((UINT64_C(1) << 63) - (1u << 21)); /* room behind for pushed names */
}

bool dslot_decode(struct slice value, uint64_t *ret_ino, uint32_t *ret_mode,
                  struct wire_str *ret_name)
{
    struct rowget g = rowget_of(value);
    uint8_t type = get_u8(&g);

    if (type == 0)
        return false;
    *ret_ino = get_u64(&g);
    *ret_mode = (uint32_t)type << 12;
    *ret_name = (struct wire_str){(const char *)g.p, (uint32_t)(g.end - g.p)};
    return !g.bad;
}

int dslot_find(struct fsm *f, uint64_t parent, struct wire_str name, struct dslot *ret)
{
    uint64_t gap = 0;

    for (uint64_t cookie = name_cookie(f, name);; cookie++) {
        struct kv_value v = {0};
        struct wire_str have;
        int r = row_get(f, key_u64x2(TAB_DENTRY, parent, cookie), &v);

        *ret = (struct dslot){.cookie = gap ? gap : cookie};
        if (r == -TC_E_NOENT)
            return 0;
        if (r < 0)
            return r;
        if (!dslot_decode(value_slice(&v), &ret->ino, &ret->mode, &have)) {
            gap = gap ? gap : cookie;
        } else if (have.n == name.n && !memcmp(have.p, name.p, name.n)) {
            ret->found = true;
            ret->cookie = cookie;
        }
        kv_value_free(&v);
        if (ret->found)
            return 0;
    }
}

void dslot_put(struct fsm *f, uint64_t parent, uint64_t cookie, struct wire_str name, uint64_t ino,
               uint32_t mode)
{
    uint8_t row[1 + 8 + FSM_NAME_MAX];
    struct rowbuf b = {row, row + sizeof(row), false};

    put_u8(&b, (uint8_t)((mode & S_IFMT) >> 12));
    put_u64(&b, ino);
    put_bytes(&b, name.p, name.n);
    row_put(f, key_u64x2(TAB_DENTRY, parent, cookie), row, (size_t)(b.p - row));
}

void dslot_del(struct fsm *f, uint64_t parent, uint64_t cookie, uint64_t taken)
{
    const uint8_t mark = 0;
    struct kv_value v = {0};
    struct key k = key_u64x2(TAB_DENTRY, parent, cookie);
    bool next = taken == cookie + 1;

    if (!next) {
        next = row_get(f, key_u64x2(TAB_DENTRY, parent, cookie + 1), &v) == 0;
        kv_value_free(&v);
    }
    if (next)
        row_put(f, k, &mark, 1);
    else
        row_del(f, k);
}

int dir_get(struct fsm *f, uint64_t ino, struct inode **ret)
{
    struct inode *in = fsm_inode_get(f, ino);

    if (!in)
        return -TC_E_STALE;
    if (!S_ISDIR(in->mode))
        return -TC_E_NOTDIR;
    if (in->nlink == 0)
        return -TC_E_NOENT;
    *ret = in;
    return 0;
}
