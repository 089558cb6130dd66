/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata state machine: namespace, sessions, X leases, cluster map, orphans and garbage, in a
 * kv.
 *
 * fsm_apply() takes log entries in order and is a pure function of (state, index, entry): time,
 * grant terms and every decision are in the entry. All changes of one entry and the applied index
 * go into one kv batch, so a restart continues behind whatever the kv kept. Everything else here
 * only reads.
 *
 * What the leader holds in memory (S, O, queues, recalls, session timing) is not here; fsm_apply()
 * tells what it must know as a list of effects. Every rule is checked again at apply: a leader's
 * own check before proposing only saves an entry.
 *
 * Ownership: the kv is borrowed until fsm_close(). One thread. Strings and horizon lists in answers
 * live in the wire_arena that the caller gives (or, where said, borrow until the next fsm_apply()).
 *
 * Keys in the kv begin with a byte 'a' to 'z'; a driver that keeps rows of its own in the same kv
 * uses others.
 */
#pragma once

#include "common/kv.h"
#include "common/schema.h"

#define FSM_SESSION_TTL_MS 10000u /* unless SESSION_OPEN's command.expected names another */
#define FSM_SEQ_WINDOW 256u /* kept replies per session: watermark < seq <= watermark + window */
#define FSM_NAME_MAX 255u
#define FSM_SYMLINK_MAX 4095u
#define FSM_NLINK_MAX 65000u
#define FSM_SIZE_MAX ((UINT64_C(1) << 52) - 1) /* chunk indexes are u32 */
#define FSM_XATTR_NAME_MAX 255u
#define FSM_XATTR_VALUE_MAX 65536u
#define FSM_XATTR_TOTAL_MAX (1u << 20)
#define FSM_REACH_MIN (UINT64_C(64) << 20)

struct fsm;

/*
 * Open the state in @kv (empty: not formatted yet, applied index 0).
 * Errors: IO, DAMAGED, VERSION.
 */
TC_MUST_CHECK int fsm_open(struct kv *kv, struct fsm **ret_fsm);
/* Accepts NULL. Always returns NULL. Leaves the kv open. */
struct fsm *fsm_close(struct fsm *f);

uint64_t fsm_applied(const struct fsm *f);      /* log index, 0: none */
uint64_t fsm_applied_term(const struct fsm *f); /* the Raft term of that entry */
uint64_t fsm_clock(const struct fsm *f);        /* highest command.time applied, ns */
bool fsm_loading(const struct fsm *f); /* formatted, and a dump is being loaded: nothing else is served */
/* 0, or why the store could not be read, once: no answer of this state machine counts any more. */
int fsm_store_error(const struct fsm *f);
bool fsm_formatted(const struct fsm *f);        /* GENESIS was applied */

/* ---- applying -------------------------------------------------------------------------------- */

/* What an entry changed that a leader keeps books about. */
enum fsm_effect_kind {
    /* ino, session, gterm, gcount, epoch: replaces what this session held there */
    FSM_X_GRANTED = 1,
    /* ino, session, id that ended. keep: LEASE_S or LEASE_O that it became (same session, id (term
     * of the entry, gcount2)), or 0. recall: the one that the commit named */
    FSM_X_ENDED = 2,
    /* ino, session: the holder goes on under epoch (truncate); the grant id stays */
    FSM_X_EPOCH = 3,
    /* ino, session: size, times, mode, owner or xattrs were committed (an asked commit, too) */
    FSM_ATTR_CHANGED = 4,
    FSM_ORPHANED = 5,       /* ino: nlink is 0; reap it when nobody refers to it */
    FSM_REAPED = 6,         /* ino: gone */
    FSM_SESSION_OPENED = 7, /* session */
    FSM_SESSION_ENDED = 8,  /* session: closed or expired; its X are dead from here on */
    FSM_SESSION_FENCED = 9, /* session: goes on under the next incarnation (in epoch) */
    FSM_MAP_CHANGED = 10,   /* epoch: the new map epoch */
    FSM_GC_ADDED = 11,      /* epoch: id of the newest gc row */
    FSM_UNCLEAN = 12,       /* ino: for the sweeper */
    FSM_MENDED = 13,        /* ino: size recovered or reconciled; whatever waited goes on */
    FSM_PG_TABLE = 14,      /* the first table was made */
    FSM_STORE_CHANGED = 15, /* session: store id */
    FSM_LOCKS_ENDED = 16,   /* ino, session: holds L no longer */
};

struct fsm_effect {
    uint32_t kind;
    uint32_t keep;
    uint64_t ino;
    uint64_t session;
    uint64_t gterm, gcount;
    uint64_t epoch;
    uint64_t recall;
    uint64_t gcount2;
};

/*
 * Outcome of one entry. Zero-initialise, fini after each use.
 *
 * ignored: at or below the watermark, or past the window: no answer is owed to anybody (status says
 * why).
 *
 * duplicate: applied before; status and body are the kept ones, bytes unchanged, no effects.
 *
 * body: the encoded answer, NULL for an empty one; a status other than 0 has none.
 * entry_res: MAKE, LINK, UNLINK, RENAME, SETATTR, SETXATTR, REMOVEXATTR, LEASE_GET_X.
 * Their own: COMMIT, LOCK, SESSION_OPEN, STORE_REGISTER. None: all others.
 */
struct fsm_result {
    uint32_t type; /* command.type */
    int status;    /* 0 or -TC_E_x */
    bool ignored;
    bool duplicate;
    uint64_t session, seq;
    struct buf *body;
    struct fsm_effect *effects;
    uint32_t n_effects, cap_effects;
};
void fsm_result_fini(struct fsm_result *r);

/*
 * Apply the entry at @index (== fsm_applied() + 1 or later; indexes in between were Raft's own
 * entries).
 * @entry is an encoded struct command; empty: an entry without content, only the index moves.
 * For a mutation command.type is the msg_type and command.body the request's body as the client
 * sent it. 0, or IO/NOSPC of the kv: then nothing was applied, and the state machine must be closed
 * and opened anew.
 */
TC_MUST_CHECK int fsm_apply(struct fsm *f, uint64_t index, uint64_t term, struct slice entry,
                            struct fsm_result *ret);

/*
 * What is known about a mutation before it is proposed, and for FATE (PROTOCOL 2.2).
 * NEW: propose it. KEPT: *ret (if not NULL) holds status and body. FINISHED: at or below the
 * watermark, ignore it. NO_SESSION, ENDED: refuse (SESSION_UNKNOWN, SESSION_EXPIRED). BEYOND: past
 * the window.
 */
enum fsm_known { FSM_NEW, FSM_KEPT, FSM_FINISHED, FSM_NO_SESSION, FSM_ENDED, FSM_BEYOND };
enum fsm_known fsm_known(struct fsm *f, uint64_t session, uint64_t seq, struct fsm_result *ret);
/* The same for ended sessions too: KEPT, NEW (never applied, and never will be if the session has
 * ended), FINISHED, or NO_SESSION (forgotten). */
enum fsm_known fsm_fate(struct fsm *f, uint64_t session, uint64_t seq, struct fsm_result *ret);

/* ---- namespace: reads. @session: who asks (0: nobody); decides ATTR_HELD in attr.flags ------- */

/* Attributes as committed. ATTR_HELD is set in flags when another session holds X, or a dead one
 * did and the size is not yet recovered (data_state UNSIZED): then they must not be shown
 * (PROTOCOL 3.4). NOENT. */
TC_MUST_CHECK int fsm_getattr(struct fsm *f, uint64_t session, uint64_t ino, struct wire_arena *a,
                              struct attr *ret_attr);
/* NOENT, NOTDIR, NAMETOOLONG, INVAL, STALE (no such directory). @ret_dir may be NULL; it is set on
 * NOENT, too. */
TC_MUST_CHECK int fsm_lookup(struct fsm *f, uint64_t session, uint64_t parent, struct wire_str name,
                             struct wire_arena *a, struct attr *ret_attr, struct attr *ret_dir);
/* The same without attributes: for queues. *ret_mode gets the S_IFMT bits. */
TC_MUST_CHECK int fsm_dentry(struct fsm *f, uint64_t parent, struct wire_str name,
                             uint64_t *ret_ino, uint32_t *ret_mode);
/*
 * Entries behind @cookie, at most @max and about @max_bytes of names and attributes (0: no bound).
 * Cookies are unique in a directory and stay valid whatever is added or removed. plus: with
 * attributes, except of inodes that would be ATTR_HELD. "." and ".." are not among them (cookies 1
 * to 15 are never used). dir, parent, change, eof are set.
 */
TC_MUST_CHECK int fsm_readdir(struct fsm *f, uint64_t session, uint64_t ino, uint64_t cookie,
                              uint32_t max, size_t max_bytes, bool plus, struct wire_arena *a,
                              struct readdir_res *ret);
TC_MUST_CHECK int fsm_readlink(struct fsm *f, uint64_t ino, struct wire_arena *a,
                               struct wire_bin *ret_target);
TC_MUST_CHECK int fsm_getxattr(struct fsm *f, uint64_t ino, struct wire_str name,
                               struct wire_arena *a, struct wire_bin *ret_value);
TC_MUST_CHECK int fsm_listxattr(struct fsm *f, uint64_t ino, struct wire_arena *a,
                                struct wire_bin *ret_names);
/* inodes in use, and 4 KiB blocks as far as committed (bytes of the stores are the leader's, from
 * beats). */
void fsm_usage(const struct fsm *f, uint64_t *ret_inodes, uint64_t *ret_blocks);
/* INO_CHECK: 1 alive (orphans, too), 2 dead (its blocks may go), 0 unknown (not yet allocated, or
 * not readable). */
uint8_t fsm_ino_state(struct fsm *f, uint64_t ino);
/* Of a live inode: whether a writer may be at it (X is held, or it is unclean), and its horizon, at most HORIZON_MAX
 * entries; their number. */
uint32_t fsm_ino_garbage(struct fsm *f, uint64_t ino, bool *ret_held, struct horizon *ret_horizon);

/* ---- leases and sessions --------------------------------------------------------------------- */

struct fsm_lease {
    uint64_t session;
    uint32_t incarnation;
    bool was_clean;
    bool dead; /* its session has ended, or it ended unclean: SIZE_RECOVERED is due (PROTOCOL 3.6
                  (a)) */
    uint64_t gterm, gcount;
    uint64_t epoch;
    uint64_t reach;
};
/* True if the inode has an X row. False: none, or no such inode. */
bool fsm_lease(struct fsm *f, uint64_t ino, struct fsm_lease *ret_lease);
/* The inodes that @session holds in X, above @after, ascending: at most @max into @ret_inos; the
 * number. */
uint32_t fsm_leases_of(struct fsm *f, uint64_t session, uint64_t after, uint64_t *ret_inos,
                       uint32_t max);

/* What the entry LOCK would answer now; *ret_session: whose lock, or L (ret->held), is in the way, 0: nobody's. STALE, INVAL. */
TC_MUST_CHECK int fsm_lock_look(struct fsm *f, const struct lock_req *req, struct lock_res *ret, uint64_t *ret_session);

enum fsm_session_state { FSM_SESSION_LIVE = 1, FSM_SESSION_CLOSED = 2, FSM_SESSION_EXPIRED = 3 };
struct fsm_session {
    uint64_t id;
    uint32_t incarnation;
    uint32_t state;
    uint64_t root;
    uint64_t watermark; /* the highest that an applied request bore */
    uint64_t opened;    /* leader time, ns */
    uint64_t ended;     /* FORGET is due an hour later */
    uint64_t n_x;       /* X rows that name it */
    const char *client; /* borrowed until the next fsm_apply() */
};
bool fsm_session(struct fsm *f, uint64_t session, struct fsm_session *ret_session);
bool fsm_session_live(const struct fsm *f, uint64_t session);
/* The first session with id > @after, ended ones included; false: none. Ascending: a loop over all.
 */
bool fsm_session_next(struct fsm *f, uint64_t after, struct fsm_session *ret_session);

/* ---- the cluster ----------------------------------------------------------------------------- */

uint64_t fsm_map_epoch(const struct fsm *f);
bool fsm_has_table(const struct fsm *f);
/* NULL until formatted. Borrowed until fsm_close(). */
const struct genesis *fsm_genesis(const struct fsm *f);
/* The metadata group with its endpoints. Borrowed until the next fsm_apply(). */
const struct member_info *fsm_members(const struct fsm *f, uint32_t *ret_n);
/* The map as a delta from @have (0: whole). have == fsm_map_epoch(): epoch alone. Memory from @a.
 */
void fsm_map(struct fsm *f, uint64_t have, struct wire_arena *a, struct cluster_map *ret_map);

struct fsm_store {
    uint64_t store;
    uint32_t node;
    uint32_t state; /* enum store_state */
    uint32_t admin; /* enum store_admin */
    uint64_t start, run;
    uint64_t capacity;
    uint64_t gc_cursor;
    bool served; /* a STORE_STATE entry said that this start is durable there: propose one at the
                    first beat of a start */
    char endpoint[256];
    char zone[64];
};
/* All known stores, by id. Borrowed until the next fsm_apply(). */
const struct fsm_store *fsm_stores(const struct fsm *f, uint32_t *ret_n);
const struct fsm_store *fsm_store(const struct fsm *f, uint64_t store); /* NULL: unknown */
/* One placement group (map.h). Borrowed until the next fsm_apply(); NULL: no table, or no such
 * group. */
struct map_pg;
const struct map_pg *fsm_pg(const struct fsm *f, uint32_t pg);

/* ---- work lists of the leader ---------------------------------------------------------------- */

/* Orphans with ino > @after, ascending; the number stored in @ret_inos. */
uint32_t fsm_orphans(struct fsm *f, uint64_t after, uint64_t *ret_inos, uint32_t max);

/*
 * Unclean inodes for the sweeper: those that need 3.6 (a) (X of a dead session) or (b) (mark set);
 * getattr's data_state tells which. Zero the cursor to begin; returns 0 at the end. An inode may
 * come twice.
 */
struct fsm_unclean_cursor {
    uint32_t phase;
    uint64_t session, ino;
};
uint32_t fsm_unclean(struct fsm *f, struct fsm_unclean_cursor *c, uint64_t *ret_inos, uint32_t max);

/* gc rows with id > @after, ascending, at most @max; the number. */
uint32_t fsm_gc(struct fsm *f, uint64_t after, struct gc_item *ret_items, uint32_t max);
/* First id still kept, and the last given (first > last: none). */
void fsm_gc_range(const struct fsm *f, uint64_t *ret_first, uint64_t *ret_last);

/* Hash over every row: equal on all members at equal applied index. Reads everything: for tests and
 * simulation. */
uint64_t fsm_state_hash(struct fsm *f);
/* Tests: cut the hash of names to these bits, so that directory slots collide. 0: whole. To be set
 * at every opening. */
void fsm_test_cookie_mask(struct fsm *f, uint64_t mask);
/* Tests: a set bit turns a rule off. To be set at every opening, on all members alike. */
enum fsm_rule {
    FSM_RULE_ONCE = 1 << 0,    /* a request is applied once (PROTOCOL 2.1) */
    FSM_RULE_EPOCH = 1 << 1,   /* a grant of X increments the epoch (3.1) */
    FSM_RULE_FENCE = 1 << 2,   /* an ended session becomes a dead one in the map (2.4) */
    FSM_RULE_HORIZON = 1 << 3, /* a truncate leaves a horizon entry (5.1) */
    FSM_RULE_CLOCK = 1 << 5,   /* times never fall (9.1) */
    FSM_RULE_WATERMARK = 1 << 4, /* at or below the watermark a request is ignored (2.1) */
};
void fsm_test_rules_off(struct fsm *f, uint32_t rules);
