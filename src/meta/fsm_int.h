/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the metadata state machine; included by src/meta/fsm*.c only.
 *
 * One entry is one transaction. An operation checks everything before it changes anything, so a
 * refused one leaves no trace but its kept reply. Inode rows are changed in the cache and written
 * by inode_flush(); other rows go into the batch at once. The batch is never read: an operation that
 * needs a row it has itself changed keeps track of it (only rename does, for directory slots).
 *
 * A failed read of the kv sets io_error; apply then gives up on the whole entry, whatever the
 * operation returned.
 */
#pragma once

#include <assert.h>
#include <endian.h>
#include <string.h>
#include <sys/stat.h>
#include <uthash.h>

#include "common/map.h"
#include "meta/fsm.h"

#define FSM_FORMAT_VERSION 1
#define FSM_HORIZON_ROOM 32 /* room in memory: HORIZON_MAX, and recoveries in a row */
#define FSM_CACHE_INODES 16384u
#define FSM_CACHE_DIR_LIVES 4 /* every name below leads through it */
#define FSM_CACHE_VISITS 64u
#define FSM_COOKIE_MIN 16u

/* First bytes of the keys. */
enum fsm_table {
    TAB_META = 'a',
    TAB_GENESIS = 'c',
    TAB_DENTRY = 'd',  /* parent, cookie */
    TAB_GC = 'g',      /* id */
    TAB_INODE = 'i',   /* ino */
    TAB_XHELD = 'k',   /* session, ino: X rows by session */
    TAB_LOCKS = 'l',   /* ino: advisory locks */
    TAB_MEMBERS = 'm', /* one row: the metadata group, once it was changed */
    TAB_NONCE = 'n',   /* nonce of a SESSION_OPEN */
    TAB_ORPHAN = 'o',  /* ino */
    TAB_PG = 'p',      /* pg */
    TAB_REPLY = 'r',   /* session, seq */
    TAB_SESSION = 's', /* id */
    TAB_TARGET = 't',  /* ino: symlink */
    TAB_UNCLEAN = 'u', /* ino: the mark is set, or X ended unclean */
    TAB_STORE = 'v',   /* id */
    TAB_DEAD = 'w',    /* session: dead incarnations in the map */
    TAB_XATTR = 'x',   /* ino, name */
    TAB_END = '{',     /* behind the last */
};

struct key {
    uint8_t b[288];
    size_t n;
};

struct inode_lease {
    uint64_t session;
    uint32_t incarnation;
    bool was_clean;
    bool ended; /* unclean: only SIZE_RECOVERED removes it */
    uint64_t gterm, gcount;
    uint64_t epoch;
    uint64_t reach;
};

struct inode {
    uint64_t ino;
    uint32_t mode, uid, gid, nlink;
    uint64_t size; /* directories: number of entries */
    uint64_t atime, mtime, ctime, btime;
    uint64_t rdev;
    uint64_t blocks;
    uint64_t change;
    uint64_t epoch;
    uint64_t parent;
    uint64_t bound; /* no block at or past this offset, but under the X of now (its reach) */
    uint64_t since; /* largest size committed since the last horizon entry (PROTOCOL 5.1) */
    uint64_t utimes_epoch, utimes_seq; /* where an explicit utimes was ordered (PROTOCOL 9.1) */
    uint64_t unclean_from;             /* oldest epoch of the unclean mark, 0: not set */
    uint32_t xattrs, xattr_bytes;
    bool clean; /* durable on all voters; false while X is held */
    bool has_lease;
    struct inode_lease lease;
    uint32_t n_horizon;
    struct horizon horizon[FSM_HORIZON_ROOM]; /* ascending sizes and epochs */

    bool dirty, gone;
    uint8_t lives; /* visits of the cache's trimming that it outlives unless it is used again */
    struct inode *next_dirty;
    UT_hash_handle hh;
};

struct session {
    uint64_t id;
    uint32_t incarnation;
    uint32_t state; /* enum fsm_session_state */
    uint64_t root;
    uint64_t nonce;
    uint64_t opened, ended;
    uint32_t ttl_ms;
    uint64_t open_epoch; /* map epoch in the answer to its opening */
    uint64_t watermark;  /* not in the session's row: each kept reply bears it */
    uint64_t n_x;        /* counted from TAB_XHELD */
    char client[256];
    uint64_t kept[FSM_SEQ_WINDOW / 64]; /* bit seq % window: a reply is kept */
    UT_hash_handle hh;
};

struct fsm {
    struct kv *kv;
    struct kv_batch *batch;
    struct wire_arena arena; /* of the entry being applied */

    /* the row of TAB_META */
    bool formatted;
    uint64_t applied, applied_term;
    uint64_t clock;
    uint64_t next_ino, next_session;
    uint64_t gc_first, gc_next;
    uint64_t n_inodes, n_blocks;
    uint64_t n_locked; /* rows of TAB_LOCKS */
    uint64_t map_epoch;
    uint64_t dead_below;
    uint64_t epoch_floor;               /* no epoch given from now on is below it: a dump was loaded (fsm_load.c) */
    uint64_t loading, load_id, load_seq; /* 1: a dump is being loaded, its pieces up to load_seq are in */

    struct genesis genesis;
    struct buf *genesis_body; /* what genesis borrows from */
    struct wire_arena genesis_arena;
    struct cmd_members members; /* n is 0: as in genesis */
    struct buf *members_body;
    struct wire_arena members_arena;
    struct session *sessions; /* in ascending order of ids */
    struct fsm_store *stores; /* in ascending order of ids */
    uint32_t n_stores;
    struct map_pg *pgs;        /* NULL: no table */
    uint64_t *pg_changed;      /* map epoch at which each changed last */
    struct dead_session *dead; /* in ascending order */
    uint32_t n_dead;

    struct inode *cache;
    struct inode *dirty;
    uint64_t cookie_mask; /* tests make cookies collide; else 0 */
    uint32_t rules_off;   /* enum fsm_rule; tests */

    /* the entry being applied */
    uint64_t index, term;
    uint64_t now;
    uint64_t expected; /* command.expected */
    struct fsm_result *res;
    bool map_dirty;
    int io_error;
    int store_error; /* the first io_error of all: it is not forgotten */
    bool failed;
};

/* The kv could not be read, or holds what no entry has written. */
static inline void io_fail(struct fsm *f, int err)
{
    f->io_error = err;
    if (f->store_error == 0)
        f->store_error = err;
}

/* ---- fsm_row.c: keys, rows, cache ------------------------------------------------------------ */
struct key key_u64(uint8_t table, uint64_t a);
struct key key_u64x2(uint8_t table, uint64_t a, uint64_t b);
struct key key_xattr(uint64_t ino, struct wire_str name);
uint64_t key_get_u64(struct slice key, size_t at); /* big-endian */
static inline struct slice key_slice(const struct key *k)
{
    return slice_of(k->b, k->n);
}
void row_put(struct fsm *f, struct key k, const void *value, size_t len);
void row_del(struct fsm *f, struct key k);
void row_del_once(struct fsm *f, struct key k); /* of tables whose rows are put once and always removed so: kv_batch_del_once() */
/* 0 or NOENT; another error sets io_error and is returned, too. */
int row_get(struct fsm *f, struct key k, struct kv_value *ret);
/* Rows of [from, to) by table; the bounds are copied into *bounds, which must live as long as the
 * iterator. */
struct row_bounds {
    struct key from, to;
};
struct kv_iter *row_iter(struct fsm *f, struct row_bounds *bounds, struct key from, struct key to);
void row_iter_end(struct fsm *f, struct kv_iter *it);

/* The row in the cache; NULL if there is none. Valid until the next entry or read call. */
struct inode *fsm_inode_get(struct fsm *f, uint64_t ino);
/* As fsm_inode_get, but a row not cached is decoded into *room (for long scans). */
const struct inode *inode_peek(struct fsm *f, uint64_t ino, struct inode *room);
struct inode *inode_new(struct fsm *f, uint64_t ino);
void inode_dirty(struct fsm *f, struct inode *in);
void inode_remove(struct fsm *f, struct inode *in);
void inode_flush(struct fsm *f); /* all dirty rows into the batch */
void inode_cache_trim(struct fsm *f);
void inode_cache_drop(struct fsm *f);

void meta_save(struct fsm *f);
int meta_load(struct fsm *f);
int meta_decode(struct fsm *f, struct slice row);

/* ---- directory slots ------------------------------------------------------------------------- */
struct dslot {
    bool found;
    uint64_t ino;
    uint32_t mode;   /* S_IFMT bits */
    uint64_t cookie; /* where it is, or would be put */
};
int name_check(struct wire_str name);
int dslot_find(struct fsm *f, uint64_t parent, struct wire_str name, struct dslot *ret);
void dslot_put(struct fsm *f, uint64_t parent, uint64_t cookie, struct wire_str name, uint64_t ino,
               uint32_t mode);
/* @taken: a cookie of the same directory that this entry has just put (0: none). */
void dslot_del(struct fsm *f, uint64_t parent, uint64_t cookie, uint64_t taken);
/* Decode a slot's value; false for the mark of a removed one. */
bool dslot_decode(struct slice value, uint64_t *ret_ino, uint32_t *ret_mode,
                  struct wire_str *ret_name);
/* An existing directory that is still linked: STALE, NOTDIR, NOENT. */
int dir_get(struct fsm *f, uint64_t ino, struct inode **ret);

/* ---- fsm.c ----------------------------------------------------------------------------------- */
struct fsm_effect *effect_add(struct fsm *f, enum fsm_effect_kind kind, uint64_t ino,
                              uint64_t session);
void answer(struct fsm *f, const struct wire_schema *schema, const void *body);
/* The inode was changed by this entry. */
static inline void inode_touch(struct fsm *f, struct inode *in)
{
    in->change = f->index;
    inode_dirty(f, in);
}

/* ---- fsm_lease.c ----------------------------------------------------------------------------- */
bool lease_dead(const struct fsm *f, const struct inode *in);
/* 0: nobody but perhaps @session holds X; LEASE_CONFLICT otherwise. */
int lease_check(const struct fsm *f, const struct inode *in, uint64_t session);
bool lease_own(const struct fsm *f, const struct inode *in, uint64_t session);
void lease_grant(struct fsm *f, struct inode *in, uint64_t session);
void lease_end(struct fsm *f, struct inode *in);
void lease_to_grant(const struct fsm *f, const struct inode *in, struct grant *ret);
uint64_t inode_reach(const struct inode *in);
void inode_blocks_set(struct fsm *f, struct inode *in, uint64_t blocks);
/* Entries at or above @size are covered by a new one; what remains. */
uint32_t horizon_after(const struct inode *in, uint64_t size);
void horizon_add(struct fsm *f, struct inode *in, uint64_t size, uint64_t epoch);
int op_lease_get_x(struct fsm *f, const struct lease_get_req *req);
int op_commit(struct fsm *f, const struct commit_req *req);
int op_size_recovered(struct fsm *f, const struct cmd_size_recovered *cmd);
int op_reconciled(struct fsm *f, const struct cmd_reconciled *cmd);

/* ---- fsm_locks.c ----------------------------------------------------------------------------- */
int op_lock(struct fsm *f, const struct lock_req *req);
int op_lock_end(struct fsm *f, const struct lock_end_req *req);
void locks_reap(struct fsm *f, uint64_t ino); /* the inode goes */
int locks_load(struct fsm *f);

/* ---- fsm_names.c ----------------------------------------------------------------------------- */
int op_make(struct fsm *f, const struct make_req *req);
int op_link(struct fsm *f, const struct link_req *req);
int op_unlink(struct fsm *f, const struct unlink_req *req);
int op_rename(struct fsm *f, const struct rename_req *req);
int op_reap(struct fsm *f, const struct cmd_reap *cmd);

/* ---- fsm_attr.c ------------------------------------------------------------------------------ */
int op_setattr(struct fsm *f, const struct setattr_req *req);
int op_setxattr(struct fsm *f, const struct setxattr_req *req);
int op_removexattr(struct fsm *f, const struct removexattr_req *req);
void xattr_set(struct fsm *f, struct inode *in, struct wire_str name, struct wire_bin value,
               bool had, size_t old_len);

/* ---- fsm_acl.c: POSIX ACLs in their xattr form ----------------------------------------------- */
#define ACL_MAX 1024u /* entries */
#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
int acl_check(struct wire_bin v);
/* The mode bits that the ACL stands for; *ret_equal: it says no more than they do. */
uint32_t acl_to_mode(struct wire_bin v, bool *ret_equal);
/* In place: what chmod does to an ACL. */
void acl_chmod(uint8_t *v, size_t len, uint32_t mode);
/* In place on a copy of the directory's default ACL: the new inode's access ACL, and *mode as it
 * limits it. True if the ACL says more than the mode and must be kept. */
bool acl_inherit(uint8_t *v, size_t len, uint32_t *mode);

/* ---- fsm_session.c --------------------------------------------------------------------------- */
struct session *session_find(const struct fsm *f, uint64_t id);
int session_load(struct fsm *f);
void session_end(struct fsm *f, struct session *s, enum fsm_session_state state);
int op_session_open(struct fsm *f, const struct session_open_req *req);
int op_session_close(struct fsm *f, struct session *s);
int op_session_expire(struct fsm *f, const struct cmd_sessions *cmd);
int op_session_forget(struct fsm *f, const struct cmd_sessions *cmd);
/* What the session wrote under its incarnation of now is dead; it goes on with the next. */
void session_fence(struct fsm *f, struct session *s);
bool reply_kept(const struct session *s, uint64_t seq);
void reply_save(struct fsm *f, struct session *s, uint64_t seq, uint64_t watermark);
int reply_load(struct fsm *f, uint64_t session, uint64_t seq, struct fsm_result *ret);

/* ---- fsm_stores.c ---- */
struct fsm_store *store_find(const struct fsm *f, uint64_t store);
struct fsm_store *store_insert(struct fsm *f, uint64_t store);
void store_save(struct fsm *f, const struct fsm_store *st);
void pg_save(struct fsm *f, uint32_t i);
bool store_decode(struct fsm_store *st, struct slice row);
bool pg_decode(struct map_pg *pg, uint64_t *changed, struct slice row);
int op_store_register(struct fsm *f, const struct store_register_req *req);
int op_store_admin(struct fsm *f, const struct node_admin_req *cmd);
int op_store_state(struct fsm *f, const struct store_info *cmd);
int op_pg_update(struct fsm *f, const struct cmd_pg_update *cmd);

/* ---- fsm_cluster.c --------------------------------------------------------------------------- */
int cluster_load(struct fsm *f);
int cluster_load_rows(struct fsm *f); /* stores, groups, dead sessions */
void cluster_unload(struct fsm *f);
int op_genesis(struct fsm *f, struct slice body);
int op_gc_trim(struct fsm *f, const struct cmd_gc_trim *cmd);
void gc_add(struct fsm *f, uint64_t ino, uint64_t size, uint64_t epoch, uint64_t reach);
void dead_add(struct fsm *f, uint64_t session, uint32_t incarnation);
void map_touch(struct fsm *f); /* the map changes with this entry: a new epoch, once */
void map_finish(struct fsm *f);

/* ---- fsm_members.c --------------------------------------------------------------------------- */
int op_members(struct fsm *f, const struct cmd_members *cmd);
int members_load(struct fsm *f);
void members_unload(struct fsm *f);

/* ---- fsm_load.c ----------------------------------------------------------------------------- */
int op_load(struct fsm *f, const struct load_req *req);

/* ---- fsm_read.c ------------------------------------------------------------------------------ */
void attr_fill(struct fsm *f, uint64_t session, const struct inode *in, struct wire_arena *a,
               struct attr *ret);

/* ---- row coding ------------------------------------------------------------------------------ */
struct rowbuf {
    uint8_t *p;
    const uint8_t *end;
    bool bad;
};
static inline void put_u8(struct rowbuf *b, uint8_t v)
{
    ASSERT(b->p < b->end);
    *b->p++ = v;
}
static inline void put_u32(struct rowbuf *b, uint32_t v)
{
    uint32_t le = htole32(v);

    ASSERT(b->p + 4 <= b->end);
    memcpy(b->p, &le, 4);
    b->p += 4;
}
static inline void put_u64(struct rowbuf *b, uint64_t v)
{
    uint64_t le = htole64(v);

    ASSERT(b->p + 8 <= b->end);
    memcpy(b->p, &le, 8);
    b->p += 8;
}
static inline void put_bytes(struct rowbuf *b, const void *p, size_t n)
{
    ASSERT(b->p + n <= b->end);
    if (n)
        memcpy(b->p, p, n);
    b->p += n;
}

struct rowget {
    const uint8_t *p;
    const uint8_t *end;
    bool bad;
};
static inline struct rowget rowget_of(struct slice s)
{
    return (struct rowget){s.data, (const uint8_t *)s.data + s.len, false};
}
static inline uint8_t get_u8(struct rowget *g)
{
    if (g->end - g->p < 1) {
        g->bad = true;
        return 0;
    }
    return *g->p++;
}
static inline uint32_t get_u32(struct rowget *g)
{
    uint32_t v;

    if (g->end - g->p < 4) {
        g->bad = true;
        return 0;
    }
    memcpy(&v, g->p, 4);
    g->p += 4;
    return le32toh(v);
}
static inline uint64_t get_u64(struct rowget *g)
{
    uint64_t v;

    if (g->end - g->p < 8) {
        g->bad = true;
        return 0;
    }
    memcpy(&v, g->p, 8);
    g->p += 8;
    return le64toh(v);
}
static inline struct slice value_slice(const struct kv_value *v)
{
    return slice_of(v->data, v->len);
}
