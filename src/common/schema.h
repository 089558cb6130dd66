/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every message and every replicated command of Tercet, as tables (wire.h explains the form).
 * Keys and type numbers are wire and disk format: never reused, never renumbered; a removed field
 * leaves its key as a comment. PROTOCOL sections are named where a field exists because of a rule.
 *
 * Times are ns since 1970 in leader time (hybrid logical clock). Sizes are bytes. A version is the pair
 * (vepoch, vseq). A grant id is the pair (gterm, gcount). A chunk is 1 MiB (ino, index, gen), a block 4 KiB.
 */
#pragma once

#include "common/wire.h"

#define CHUNK_SIZE (1u << 20)
#define BLOCK_SIZE 4096u
#define BLOCKS_PER_CHUNK 256u
#define INO_ROOT 1u
#define HORIZON_MAX 17 /* 16, and one that size recovery may add (PROTOCOL 3.6) */

enum msg_type {
    /* client -> meta leader; reads */
    MSG_KEEPALIVE = 1,
    MSG_LEASE_LIST = 2,
    MSG_LOOKUP = 3,
    MSG_GETATTR = 4,
    MSG_READDIR = 5,
    MSG_READLINK = 6,
    MSG_STATFS = 7,
    MSG_GETXATTR = 8,
    MSG_LISTXATTR = 9,
    MSG_MAP_GET = 10, /* also store -> leader, and store <-> requester */
    MSG_FATE = 11,
    MSG_LEASE_GET_READ = 12, /* S or O: leader's memory only */
    MSG_LEASE_RELEASE = 13,  /* S or O */
    MSG_RECALL_ACK = 14,
    MSG_WHO_LEADS = 15, /* any member answers */
    MSG_STATUS = 16,    /* any member answers */
    MSG_FORMAT = 17,
    MSG_INO_CHECK = 18,
    MSG_NODE_ADMIN = 19, /* an operator's word about a storage node: one log entry */
    MSG_LOCK_LOOK = 20, /* what a LOCK would meet now; changes nothing, not even who holds L */
    MSG_META_CHANGE = 26, /* the metadata group's members */
    MSG_CHECKPOINT = 27, /* any member answers */
    MSG_DUMP = 28,       /* a backup of the metadata: the leader begins it, the same member goes on */
    MSG_LOAD = 29,
    /* client -> meta leader; mutations: each is one log entry, exactly once by (session, seq) */
    MSG_SESSION_OPEN = 30,
    MSG_SESSION_CLOSE = 31,
    MSG_MAKE = 32,
    MSG_LINK = 33,
    MSG_UNLINK = 34,
    MSG_RENAME = 35,
    MSG_SETATTR = 36,
    MSG_SETXATTR = 37,
    MSG_REMOVEXATTR = 38,
    MSG_LEASE_GET_X = 39,
    MSG_COMMIT = 40, /* sizes, times, reach, release and downgrade of X, for many inodes */
    MSG_LOCK = 41,     /* one advisory lock: set, removed or looked for (PROTOCOL 9.2) */
    MSG_LOCK_END = 42, /* the session's locks of one inode are those named, and are the leader's to know from here on */
    /* meta leader -> client; notices */
    MSG_RECALL = 50,
    MSG_LEADER = 51,
    /* stores -> meta leader */
    MSG_STORE_REGISTER = 60,
    MSG_STORE_BEAT = 61,
    /* anyone -> store */
    MSG_WRITE = 70,
    MSG_READ = 71,
    MSG_MANIFEST = 72,
    MSG_SIZE_QUERY = 73,
    MSG_RECONCILE = 74,
    MSG_STORE_STATUS = 75,
    MSG_CHUNK_SEEK = 76,
    MSG_SCRUB = 79,
    /* between meta members: 100 to 129, see below */
    MSG_RAFT = 100,
    /* commands that only the leader proposes (log entries beside the mutations): 200 to 249 */
    CMD_GENESIS = 200,
    CMD_SESSION_EXPIRE = 201,
    CMD_REAP = 202,
    CMD_SIZE_RECOVERED = 203,
    CMD_RECONCILED = 204,
    CMD_PG_UPDATE = 205,
    CMD_STORE_STATE = 206, /* body: store_info; a beat showed that start is durable there, or the state hint */
    CMD_GC_TRIM = 207,
    CMD_SESSION_FORGET = 208,
    CMD_STORE_REGISTER = 209,
    CMD_TICK = 210, /* nothing but time */
    CMD_STORE_ADMIN = 211, /* body: node_admin_req */
    CMD_MEMBERS = 220, /* in the entry of a Raft configuration, behind it */
    CMD_LOAD = 230, /* body: load_req */
};

/* ---- building blocks ------------------------------------------------------------------------------ */

/* First member of every client request. Mutations carry seq > 0 and the watermark (PROTOCOL 2.1). */
#define REQ_CTX(F, S, L)                                                                       \
    F(u64, session, 1, true)                                                                   \
    F(u32, incarnation, 2, true)                                                               \
    F(u64, seq, 3, false)                                                                      \
    F(u64, watermark, 4, false)                                                                \
    F(u64, gen_term, 5, false) /* the caching generation the client is in (PROTOCOL 3.1) */    \
    F(u64, gen_n, 6, false)                                                                    \
    F(boolean, anywhere, 7, false) /* a read that any member may answer, without grants (PROTOCOL 1.8) */
WIRE_DECLARE(req_ctx, REQ_CTX)

#define HORIZON(F, S, L)                                                                       \
    F(u64, size, 1, true)                                                                      \
    F(u64, epoch, 2, true)
WIRE_DECLARE(horizon, HORIZON)

enum data_state { DATA_CLEAN = 0, DATA_SETTLED = 1, DATA_UNCLEAN = 2, DATA_UNSIZED = 3 /* 3.6 (a) is due first */ };

#define ATTR(F, S, L)                                                                          \
    F(u64, ino, 1, true)                                                                       \
    F(u32, mode, 2, true) /* with S_IFMT */                                                    \
    F(u32, uid, 3, false)                                                                      \
    F(u32, gid, 4, false)                                                                      \
    F(u32, nlink, 5, false)                                                                    \
    F(u64, size, 6, false)                                                                     \
    F(u64, atime, 7, false)                                                                    \
    F(u64, mtime, 8, false)                                                                    \
    F(u64, ctime, 9, false)                                                                    \
    F(u64, btime, 10, false)                                                                   \
    F(u64, rdev, 11, false)                                                                    \
    F(u64, blocks, 12, false) /* 4 KiB blocks in use, as far as committed */                   \
    F(u64, change, 13, false) /* log index of the last change (PROTOCOL 2.5) */                \
    F(u64, epoch, 14, false)  /* lease epoch */                                                \
    L(horizon, horizons, 15, false)                                                            \
    F(u32, data_state, 16, false)                                                              \
    F(u64, unclean_from, 17, false) /* oldest epoch of the unclean mark */                     \
    F(u64, reach, 18, false)                                                                   \
    F(u32, flags, 19, false)                                                                   \
    F(u64, parent, 20, false) /* directories */                                                \
    F(u32, xattrs, 21, false) /* number of extended attributes: 0 saves asking */
WIRE_DECLARE(attr, ATTR)

/* attr.flags. HELD: another session holds X (or a dead one's size is not recovered): what the X holder may change
 * (size, times, mode, owner) is older than what it has; not to be shown or cached, ask with GETATTR.
 * FREE: a file of which nobody held X; in answers of reads (replies that are kept say nothing of it). */
enum attr_flags { ATTR_HELD = 1 << 0, ATTR_FREE = 1 << 1 };

enum lease_kind { LEASE_NONE = 0, LEASE_O = 1, LEASE_S = 2, LEASE_X = 4 }; /* bits */

/* The gcount of an X is the log index of its entry. That of S and O, which a leader grants in memory, has this bit: the
 * two kinds never meet. */
#define GCOUNT_MEMORY (UINT64_C(1) << 63)

#define GRANT(F, S, L)                                                                         \
    F(u64, ino, 1, true)                                                                       \
    F(u32, kind, 2, true) /* one of enum lease_kind */                                         \
    F(u64, gterm, 3, true)                                                                     \
    F(u64, gcount, 4, true)                                                                    \
    F(u64, barrier, 5, true) /* newest committed map epoch at the time of the grant */         \
    F(u64, gen_term, 6, false)                                                                 \
    F(u64, gen_n, 7, false)                                                                    \
    F(u64, recall, 8, false) /* recall counter as of the state read (PROTOCOL 3.2) */          \
    F(u64, epoch, 9, false)  /* X: versions are written under this epoch */                    \
    F(u64, reach, 10, false)                                                                   \
    F(boolean, was_clean, 11, false) /* X: granted on a clean inode */
WIRE_DECLARE(grant, GRANT)

#define EMPTY(F, S, L) F(u32, reserved, 1, false)
WIRE_DECLARE(empty_msg, EMPTY)

/* What most answers are: an inode's attributes, perhaps with a grant on it, and the directory's. */
#define ENTRY_RES(F, S, L)                                                                     \
    S(attr, attr, 1, false)                                                                    \
    S(grant, grant, 2, false)                                                                  \
    S(attr, dir, 3, false)      /* directory after the operation */                            \
    S(grant, dir_grant, 4, false)                                                              \
    F(u64, change, 5, false)    /* of the directory: what a negative answer was read at */     \
    F(boolean, negative, 6, false)                                                             \
    F(boolean, existed, 7, false) /* MAKE without excl met the name */                         \
    S(attr, dir2, 8, false)     /* RENAME: the target directory */                             \
    S(attr, replaced, 9, false) /* RENAME, UNLINK: what lost a name (nlink after it) */        \
    F(u64, replica_time, 10, false) /* leader time of the answer */                            \
    F(str, target, 11, false)   /* symlink */
WIRE_DECLARE(entry_res, ENTRY_RES)

/* ---- sessions -------------------------------------------------------------------------------------- */

#define SESSION_OPEN_REQ(F, S, L)                                                              \
    S(req_ctx, ctx, 1, true) /* session 0 */                                                   \
    F(u64, nonce, 2, true)   /* random; a retry bears the same and gets the same session */    \
    F(str, client, 3, false) /* host name and mount point, for status */                       \
    F(str, root, 4, false)   /* directory to mount, "" is / */                                 \
    F(u64, previous, 5, false)
WIRE_DECLARE(session_open_req, SESSION_OPEN_REQ)

#define SESSION_OPEN_RES(F, S, L)                                                              \
    F(u64, session, 1, true)                                                                   \
    F(u32, incarnation, 2, true)                                                               \
    F(u32, ttl_ms, 3, true)                                                                    \
    F(u64, root, 4, true) /* inode of the mounted directory */                                 \
    F(u64, time, 5, false)                                                                     \
    F(u64, map_epoch, 6, false)
WIRE_DECLARE(session_open_res, SESSION_OPEN_RES)

#define CTX_ONLY(F, S, L) S(req_ctx, ctx, 1, true)
WIRE_DECLARE(session_close_req, CTX_ONLY)

#define KEEPALIVE_REQ(F, S, L)                                                                 \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, map_epoch, 2, false)                                                                \
    F(boolean, caching, 3, false) /* asks to prolong the caching right of ctx.gen */          \
    F(u64, progress, 4, false)    /* pieces of recalled files written out so far */
WIRE_DECLARE(keepalive_req, KEEPALIVE_REQ)

#define KEEPALIVE_RES(F, S, L)                                                                 \
    F(u64, gen_term, 1, true) /* current generation of the session */                          \
    F(u64, gen_n, 2, true)                                                                     \
    F(boolean, caching, 3, false)   /* the caching right was prolonged */                      \
    F(boolean, want_list, 4, false) /* send LEASE_LIST for this generation */                  \
    F(u64, time, 5, false)                                                                     \
    F(u64, map_epoch, 6, false)                                                                \
    F(u32, incarnation, 7, false)                                                              \
    F(boolean, tight, 30, false) /* a store is nearly full: close waits for what it wrote */ \
    F(boolean, takes_s, 31, false) /* the list may bear S (PROTOCOL 3.1) */
WIRE_DECLARE(keepalive_res, KEEPALIVE_RES)

#define LEASE_ITEM(F, S, L)                                                                    \
    F(u64, ino, 1, true)                                                                       \
    F(u64, gterm, 2, true)                                                                     \
    F(u64, gcount, 3, true)                                                                    \
    F(u32, kind, 4, true) /* bits of enum lease_kind held under that id */                     \
    F(u64, recall, 5, false) /* RECALL_ACK: the recall's number */                             \
    F(u32, keep, 6, false)   /* what remains: LEASE_O, LEASE_S or 0 */
WIRE_DECLARE(lease_item, LEASE_ITEM)

#define LEASE_LIST_REQ(F, S, L)                                                                \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, gen_term, 2, true)                                                                  \
    F(u64, gen_n, 3, true)                                                                     \
    F(u32, page, 4, false)                                                                     \
    F(boolean, last, 5, false)                                                                 \
    L(lease_item, items, 6, false)
WIRE_DECLARE(lease_list_req, LEASE_LIST_REQ)

#define LEASE_RELEASE_REQ(F, S, L)                                                             \
    S(req_ctx, ctx, 1, true)                                                                   \
    L(lease_item, items, 2, true)
WIRE_DECLARE(lease_release_req, LEASE_RELEASE_REQ)
WIRE_DECLARE(recall_ack_req, LEASE_RELEASE_REQ)

/* After expiry: the fate of requests that were in flight (PROTOCOL 2.2). */
#define FATE_REQ(F, S, L)                                                                      \
    S(req_ctx, ctx, 1, true) /* the new session */                                             \
    F(u64, old_session, 2, true)                                                               \
    F(u64s, seqs, 3, true)
WIRE_DECLARE(fate_req, FATE_REQ)

#define FATE_ITEM(F, S, L)                                                                     \
    F(u64, seq, 1, true)                                                                       \
    F(boolean, known, 2, false)                                                                \
    F(u32, status, 3, false)                                                                   \
    F(bin, body, 4, false)
WIRE_DECLARE(fate_item, FATE_ITEM)

#define FATE_RES(F, S, L) L(fate_item, items, 1, false)
WIRE_DECLARE(fate_res, FATE_RES)

/* ---- names and attributes: reads --------------------------------------------------------------------- */

/* want: lease_kind bits asked for on the inode answered (S: read and cache; O), and on the directory. */
#define LOOKUP_REQ(F, S, L)                                                                    \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, parent, 2, true)                                                                    \
    F(str, name, 3, true)                                                                      \
    F(u32, want, 4, false)                                                                     \
    F(u32, want_dir, 5, false)
WIRE_DECLARE(lookup_req, LOOKUP_REQ)

#define INO_REQ(F, S, L)                                                                       \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(u32, want, 3, false)
WIRE_DECLARE(getattr_req, INO_REQ)
WIRE_DECLARE(readlink_req, INO_REQ)
WIRE_DECLARE(listxattr_req, INO_REQ)
WIRE_DECLARE(lease_get_req, INO_REQ) /* GET_READ: want S or O; GET_X: want X */

#define READDIR_REQ(F, S, L)                                                                   \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(u64, cookie, 3, false) /* 0: from the start; else behind that entry */                   \
    F(u32, max, 4, true)     /* entries */                                                     \
    F(boolean, plus, 5, false)                                                                 \
    F(u32, want, 6, false)                                                                     \
    F(u32, want_dir, 7, false)
WIRE_DECLARE(readdir_req, READDIR_REQ)

#define DIRENT(F, S, L)                                                                        \
    F(str, name, 1, true)                                                                      \
    F(u64, ino, 2, true)                                                                       \
    F(u32, mode, 3, true) /* S_IFMT bits at least */                                           \
    F(u64, cookie, 4, true)                                                                    \
    S(attr, attr, 5, false) /* absent if another session holds X (PROTOCOL 3.5) */             \
    S(grant, grant, 6, false)
WIRE_DECLARE(dirent_item, DIRENT)

#define READDIR_RES(F, S, L)                                                                   \
    L(dirent_item, entries, 1, false)                                                          \
    F(boolean, eof, 2, false)                                                                  \
    F(u64, change, 3, false)                                                                   \
    S(grant, dir_grant, 4, false)                                                              \
    F(u64, parent, 5, false)                                                                   \
    S(attr, dir, 6, false)
WIRE_DECLARE(readdir_res, READDIR_RES)

#define XATTR_REQ(F, S, L)                                                                     \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(str, name, 3, true)                                                                      \
    F(bin, value, 4, false)                                                                    \
    F(u32, flags, 5, false) /* 1 create, 2 replace */                                          \
    F(boolean, kill_sgid, 6, false)
WIRE_DECLARE(getxattr_req, XATTR_REQ)
WIRE_DECLARE(setxattr_req, XATTR_REQ)
WIRE_DECLARE(removexattr_req, XATTR_REQ)

#define BYTES_RES(F, S, L)                                                                     \
    F(bin, value, 1, false) /* getxattr: value; listxattr: names, NUL-ended; readlink: target */ \
    S(attr, attr, 2, false)
WIRE_DECLARE(bytes_res, BYTES_RES)

WIRE_DECLARE(statfs_req, CTX_ONLY)
#define STATFS_RES(F, S, L)                                                                    \
    F(u64, bytes_total, 1, true) /* usable: after copies */                                    \
    F(u64, bytes_free, 2, true)                                                                \
    F(u64, inodes, 3, true)                                                                    \
    F(u64, bytes_used, 4, false)
WIRE_DECLARE(statfs_res, STATFS_RES)

/* ---- names and attributes: mutations ------------------------------------------------------------------- */

#define MAKE_REQ(F, S, L)                                                                      \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, parent, 2, true)                                                                    \
    F(str, name, 3, true)                                                                      \
    F(u32, mode, 4, true) /* with S_IFMT: regular, directory, symlink, fifo, socket, device */ \
    F(u32, umask, 5, false)                                                                    \
    F(u32, uid, 6, false)                                                                      \
    F(u32, gid, 7, false)                                                                      \
    F(u64, rdev, 8, false)                                                                     \
    F(str, target, 9, false)                                                                   \
    F(boolean, excl, 10, false) /* else an existing file is answered with existed */           \
    F(u32, want, 11, false)     /* regular files: LEASE_X grants it in this very entry */
WIRE_DECLARE(make_req, MAKE_REQ)

#define LINK_REQ(F, S, L)                                                                      \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(u64, parent, 3, true)                                                                    \
    F(str, name, 4, true)
WIRE_DECLARE(link_req, LINK_REQ)

#define UNLINK_REQ(F, S, L)                                                                    \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, parent, 2, true)                                                                    \
    F(str, name, 3, true)                                                                      \
    F(boolean, dir, 4, false) /* rmdir */
WIRE_DECLARE(unlink_req, UNLINK_REQ)

#define RENAME_REQ(F, S, L)                                                                    \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, parent, 2, true)                                                                    \
    F(str, name, 3, true)                                                                      \
    F(u64, new_parent, 4, true)                                                                \
    F(str, new_name, 5, true)                                                                  \
    F(u32, flags, 6, false) /* 1 NOREPLACE, 2 EXCHANGE */
WIRE_DECLARE(rename_req, RENAME_REQ)

enum setattr_mask {
    SET_MODE = 1 << 0,
    SET_UID = 1 << 1,
    SET_GID = 1 << 2,
    SET_SIZE = 1 << 3,
    SET_ATIME = 1 << 4,
    SET_MTIME = 1 << 5,
    SET_ATIME_NOW = 1 << 6,
    SET_MTIME_NOW = 1 << 7,
    SET_KILL_PRIV = 1 << 8, /* clear suid, sgid (if group-executable) and security.capability */
};

#define SETATTR_REQ(F, S, L)                                                                   \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(u32, mask, 3, true)                                                                      \
    F(u32, mode, 4, false)                                                                     \
    F(u32, uid, 5, false)                                                                      \
    F(u32, gid, 6, false)                                                                      \
    F(u64, size, 7, false)                                                                     \
    F(u64, atime, 8, false)                                                                    \
    F(u64, mtime, 9, false)                                                                    \
    F(u64, size_max, 10, false) /* largest size of the holder since its last horizon entry (5.1) */ \
    F(u64, vseq, 11, false)     /* explicit times of an X holder: ordered after this version (9.1) */
WIRE_DECLARE(setattr_req, SETATTR_REQ)

enum commit_action { COMMIT_KEEP = 0, COMMIT_DOWNGRADE = 1 /* to S */, COMMIT_RELEASE = 2, COMMIT_RELEASE_KEEP_O = 3 };

/* One inode of a flush commit: refused (LEASE_LOST) at apply when that X has ended. */
#define COMMIT_ITEM(F, S, L)                                                                   \
    F(u64, ino, 1, true)                                                                       \
    F(u64, epoch, 2, true)                                                                     \
    F(u64, gterm, 3, true)                                                                     \
    F(u64, gcount, 4, true)                                                                    \
    F(boolean, has_size, 5, false) /* size, mtime (and ctime = mtime's) below are meant */     \
    F(u64, size, 6, false)                                                                     \
    F(u64, mtime, 7, false)                                                                    \
    F(u64, atime, 8, false)        /* 0: as it is */                                           \
    F(i64, blocks, 9, false)       /* blocks newly in use since the last commit */             \
    F(u64, vseq, 10, false)        /* last version given */                                    \
    F(u64, reach, 11, false)       /* 0, or the new bound */                                   \
    F(u32, action, 12, false)                                                                  \
    F(u32, data_state, 13, false)  /* at release or downgrade: CLEAN, SETTLED or UNCLEAN (gave up) */ \
    F(u64, recall, 14, false)      /* the recall this answers, 0: unasked */                  \
    F(u64, rewritten, 15, false)   /* horizon entry (its epoch) rewritten up to the next one's size (5.1): it goes */
WIRE_DECLARE(commit_item, COMMIT_ITEM)

#define COMMIT_REQ(F, S, L)                                                                    \
    S(req_ctx, ctx, 1, true)                                                                   \
    L(commit_item, items, 2, true)
WIRE_DECLARE(commit_req, COMMIT_REQ)

#define COMMIT_RESULT(F, S, L)                                                                 \
    F(u64, ino, 1, true)                                                                       \
    F(u32, status, 2, false)                                                                   \
    S(attr, attr, 3, false)                                                                    \
    S(grant, grant, 4, false) /* downgrade: the S it became */
WIRE_DECLARE(commit_result, COMMIT_RESULT)

#define COMMIT_RES(F, S, L) L(commit_result, items, 1, false)
WIRE_DECLARE(commit_res, COMMIT_RES)

/* ---- advisory locks (locks.h, PROTOCOL 9.2) ----------------------------------------------------------------- */

#define LOCK_ITEM(F, S, L)                                                                     \
    F(u64, owner, 1, true) /* within the session */                                            \
    F(u64, start, 2, false)                                                                    \
    F(u64, end, 3, true) /* last byte */                                                       \
    F(u32, pid, 4, false)                                                                      \
    F(u32, family, 5, false) /* enum lock_family */                                            \
    F(u32, type, 6, false)   /* enum lock_type */
WIRE_DECLARE(lock_item, LOCK_ITEM)

#define LOCK_REQ(F, S, L)                                                                      \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    S(lock_item, lock, 3, true)                                                                \
    F(boolean, test, 4, false) /* only whether it could be had */
WIRE_DECLARE(lock_req, LOCK_REQ)

#define LOCK_RES(F, S, L)                                                                      \
    S(lock_item, other, 1, false)  /* what stands in the way; absent: done */                  \
    F(boolean, local, 2, false)    /* the session holds L from here on: it keeps its locks itself */ \
    F(boolean, held, 3, false)     /* LOCK_LOOK: another session holds L, which knows */
WIRE_DECLARE(lock_res, LOCK_RES)

#define LOCK_END_REQ(F, S, L)                                                                  \
    S(req_ctx, ctx, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    L(lock_item, locks, 3, false)
WIRE_DECLARE(lock_end_req, LOCK_END_REQ)

/* ---- recalls: leader -> client ---------------------------------------------------------------------------- */

enum recall_kind {
    RECALL_ENTRY = 1,     /* one name of a directory changes; the grant stays */
    RECALL_ATTR = 2,      /* nlink, ctime change; the grant stays */
    RECALL_DOWNGRADE = 3, /* X to S */
    RECALL_ALL = 4,
    RECALL_ASK = 5, /* not a recall: commit size and times of this X, keep it (PROTOCOL 3.5) */
    RECALL_LOCKS = 6, /* the lock lease L, ended by LOCK_END (PROTOCOL 9.2); the grant id means nothing */
};

#define RECALL_ITEM(F, S, L)                                                                   \
    F(u64, ino, 1, true)                                                                       \
    F(u64, gterm, 2, true)                                                                     \
    F(u64, gcount, 3, true)                                                                    \
    F(u32, kind, 4, true)                                                                      \
    F(u64, recall, 5, true) /* counter, grows per (session, inode) */                          \
    F(str, name, 6, false)  /* ENTRY */                                                        \
    F(boolean, orphan, 7, false) /* ATTR: the inode has lost its last name; is it still needed? */
WIRE_DECLARE(recall_item, RECALL_ITEM)

#define RECALL_MSG(F, S, L)                                                                    \
    F(u64, session, 1, true)                                                                   \
    F(u64, term, 2, true)                                                                      \
    L(recall_item, items, 3, true)
WIRE_DECLARE(recall_msg, RECALL_MSG)

#define LEADER_MSG(F, S, L)                                                                    \
    F(u64, term, 1, true)                                                                      \
    F(u32, leader, 2, false) /* member id, 0: unknown */                                       \
    F(str, endpoint, 3, false)
WIRE_DECLARE(leader_msg, LEADER_MSG) /* notice, answer of WHO_LEADS, and body of a NOT_LEADER reply */

/* ---- the cluster map -------------------------------------------------------------------------------------- */

#define MEMBER_INFO(F, S, L)                                                                   \
    F(u32, id, 1, true)                                                                        \
    F(str, endpoint, 2, true)                                                                  \
    F(boolean, learner, 3, false)
WIRE_DECLARE(member_info, MEMBER_INFO)

enum store_state { STORE_UP = 0, STORE_DOWN = 1, STORE_REPLACED = 2 };

#define STORE_INFO(F, S, L)                                                                    \
    F(u64, store, 1, true)                                                                     \
    F(u32, node, 2, true) /* the place in the configuration: storage.N */                      \
    F(str, endpoint, 3, true)                                                                  \
    F(str, zone, 4, false)                                                                     \
    F(u64, start, 5, false) /* start counter confirmed last */                                 \
    F(u32, state, 6, false) /* only REPLACED raises the map epoch; up and down are hints */    \
    F(u64, gc_cursor, 7, false)
WIRE_DECLARE(store_info, STORE_INFO)

/* Voters of PGs are few different sets, so a PG is an index into them. */
#define PG_SET(F, S, L)                                                                        \
    F(u64s, voters, 1, true) /* C1 */                                                          \
    F(u64s, next, 2, false)  /* C2 while in transition */
WIRE_DECLARE(pg_set, PG_SET)

#define DEAD_SESSION(F, S, L)                                                                  \
    F(u64, session, 1, true)                                                                   \
    F(u32, incarnation, 2, true) /* this and all below are dead */
WIRE_DECLARE(dead_session, DEAD_SESSION)

#define CLUSTER_MAP(F, S, L)                                                                   \
    F(u64, epoch, 1, true)                                                                     \
    F(u64, from, 2, false) /* 0: whole; else a delta that brings `from` (or later) to epoch: pg_ids are what changed */ \
    F(u32, n, 3, true)                                                                         \
    F(u32, w, 4, true)                                                                         \
    F(u32, r, 5, true)                                                                         \
    F(u32, pg_count, 6, true)                                                                  \
    L(store_info, stores, 7, false)                                                            \
    L(pg_set, sets, 8, false)                                                                  \
    F(u64s, pg_ids, 9, false)   /* delta only; whole: 0 .. pg_count-1 implied */               \
    F(bin, pg_set_of, 10, false) /* u16 little-endian per PG; empty: no table yet */           \
    F(bin, pg_epochs, 11, false) /* u64 little-endian per PG */                                \
    L(dead_session, dead, 12, false)                                                           \
    F(u64, dead_below, 13, false) /* every session below is dead */                            \
    L(member_info, members, 14, false)                                                         \
    F(bin, cluster, 15, false) /* 16 bytes */
WIRE_DECLARE(cluster_map, CLUSTER_MAP)

#define MAP_GET_REQ(F, S, L)                                                                   \
    F(u64, have, 1, false) /* epoch the asker has, 0: none */
WIRE_DECLARE(map_get_req, MAP_GET_REQ)
/* Reply: cluster_map; epoch == have and nothing else when nothing is newer. */

/* ---- genesis, status ---------------------------------------------------------------------------------------- */

#define GENESIS(F, S, L)                                                                       \
    F(bin, cluster, 1, true) /* 16 random bytes */                                             \
    F(str, name, 2, false)                                                                     \
    F(u32, n, 3, true)                                                                         \
    F(u32, w, 4, true)                                                                         \
    F(u32, r, 5, true)                                                                         \
    F(u32, pg_count, 6, true)                                                                  \
    L(member_info, members, 7, true)                                                           \
    F(bin, siphash_key, 8, true) /* 16 random bytes: directory cookies */                      \
    F(u64, time, 9, true)                                                                      \
    F(u32, stores, 10, false) /* storage nodes configured: the PG table waits for at least n */ \
    F(u32, root_mode, 11, false)                                                               \
    F(u32, root_uid, 12, false)                                                                \
    F(u32, root_gid, 13, false)                                                                \
    F(boolean, loading, 15, false) /* serves nobody until a dump is loaded */
WIRE_DECLARE(genesis, GENESIS) /* MSG_FORMAT's request and CMD_GENESIS's body */

enum meta_change_op { META_ADD = 1, META_REMOVE = 2, META_PROMOTE = 3, META_TRANSFER = 4 };

#define META_CHANGE_REQ(F, S, L)                                                               \
    F(u32, op, 1, true)       /* enum meta_change_op */                                        \
    F(u32, member, 2, false)  /* TRANSFER: 0 for the best */                                   \
    F(str, endpoint, 3, false) /* ADD */
WIRE_DECLARE(meta_change_req, META_CHANGE_REQ)
/* Answered when it is committed; with a status other than 0 and NOT_LEADER, text says why it was refused. */
#define META_CHANGE_RES(F, S, L)                                                               \
    F(str, text, 1, false)                                                                     \
    F(u64, index, 2, false)
WIRE_DECLARE(meta_change_res, META_CHANGE_RES)

/* Answered when all that the member had applied at the request is durable in its store. */
#define CHECKPOINT_RES(F, S, L)                                                                \
    F(u64, index, 1, true)                                                                     \
    F(u64, micros, 2, false) /* how long it took */
WIRE_DECLARE(checkpoint_res, CHECKPOINT_RES)

#define DUMP_REQ(F, S, L)                                                                      \
    F(u64, id, 1, false) /* 0: begin */                                                        \
    F(bin, from, 2, false) /* first key; empty: from the first */
WIRE_DECLARE(dump_req, DUMP_REQ)
#define DUMP_RES(F, S, L)                                                                      \
    F(u64, id, 1, true)                                                                        \
    F(u64, index, 2, true) /* the view is as of this entry */                                  \
    F(u64, term, 3, false)                                                                     \
    F(u64, time, 4, false)                                                                     \
    F(bin, genesis, 5, false) /* answer to the begin, which has no rows */                     \
    F(bin, rows, 6, false)    /* as in the dump: lengths, key, value */                        \
    F(u64, count, 7, false)                                                                    \
    F(bin, next, 8, false)    /* key to go on from; empty: these were the last */
WIRE_DECLARE(dump_res, DUMP_RES)

enum load_step { LOAD_ROWS = 1, LOAD_END = 2 };
#define LOAD_REQ(F, S, L)                                                                      \
    F(u32, step, 1, true)                                                                      \
    F(u64, id, 2, true)  /* of the dump: another one is refused once this has begun */         \
    F(u64, seq, 3, true) /* 1, 2, ...; one that was applied already is acknowledged again */   \
    F(bin, rows, 4, false) /* END: the dump's row of table `a` */
WIRE_DECLARE(load_req, LOAD_REQ)

#define STATUS_REQ(F, S, L) F(u32, what, 1, false) /* 0: health; 1: with every PG */
WIRE_DECLARE(status_req, STATUS_REQ)
#define STATUS_RES(F, S, L) F(str, json, 1, true) /* documented in docs/OPERATIONS.md */
WIRE_DECLARE(status_res, STATUS_RES)

/* ---- stores and the leader ------------------------------------------------------------------------------------ */

#define STORE_REGISTER_REQ(F, S, L)                                                            \
    F(u64, store, 1, true)                                                                     \
    F(u64, start, 2, true) /* this start's counter: one above what the directory held */       \
    F(u32, node, 3, true)                                                                      \
    F(str, endpoint, 4, true)                                                                  \
    F(str, zone, 5, false)                                                                     \
    F(u64, capacity, 6, false)                                                                 \
    F(boolean, empty, 7, false) /* a directory formatted just now */                           \
    F(bin, cluster, 8, false)   /* as the directory has it; empty: new directory */           \
    F(u64, run, 9, false)       /* random per process: a retry of the same start bears the same */
WIRE_DECLARE(store_register_req, STORE_REGISTER_REQ)

#define STORE_REGISTER_RES(F, S, L)                                                            \
    F(u64, start, 1, true) /* confirmed; the store makes it durable, then serves */            \
    F(u64, map_epoch, 2, true)                                                                 \
    F(bin, cluster, 3, true)                                                                   \
    F(boolean, rolled_back, 4, false) /* the directory is older than what was confirmed: it must become a new, empty store */ \
    F(boolean, removed, 5, false)     /* so it must, but not by itself: it was removed, or another took its place */
WIRE_DECLARE(store_register_res, STORE_REGISTER_RES)

/* What an operator wants with a store. IN: it takes part. DRAIN: it is to hold nothing. MAINTENANCE: it keeps what it
 * has while it is away, and gets nothing new. */
enum store_admin { STORE_IN = 0, STORE_DRAIN = 1, STORE_MAINTENANCE = 2, STORE_REMOVE = 3 /* as a command only */ };

/* Repeating it changes nothing. NOENT: no such node (that is not removed yet). QUORUM_LOST: too few others would be
 * left to hold all copies. BUSY: REMOVE, and it still holds placement groups. */
#define NODE_ADMIN_REQ(F, S, L)                                                                \
    F(u32, node, 1, true)                                                                      \
    F(u32, admin, 2, true) /* enum store_admin */
WIRE_DECLARE(node_admin_req, NODE_ADMIN_REQ)

#define PG_READY(F, S, L)                                                                      \
    F(u64, pg, 1, true)                                                                        \
    F(u64, epoch, 2, true)
WIRE_DECLARE(pg_ready, PG_READY)

#define STORE_BEAT_REQ(F, S, L)                                                                \
    F(u64, store, 1, true)                                                                     \
    F(u64, start, 2, true)                                                                     \
    F(u64, map_epoch, 3, true)                                                                 \
    F(u64, capacity, 4, false) /* bytes of the disk */                                         \
    F(u64, free, 5, false)                                                                     \
    F(u64, used, 6, false) /* bytes of chunks */                                               \
    F(u32, flags, 7, false) /* enum store_flags */                                             \
    L(pg_ready, ready, 8, false) /* newcomer: all chunks durable at this epoch */              \
    F(u64, gc_done, 9, false)    /* every gc row up to this id is done here */                 \
    F(u64, chunks, 10, false)                                                                  \
    F(u64, behind, 11, false) /* chunks still to be brought up to date */                      \
    F(u64, found, 30, false)  /* damaged blocks ever found ... */                              \
    F(u64, repaired, 31, false) /* ... and repaired */                                         \
    F(u64, unrepaired, 32, false) /* chunks damaged now that could not be repaired so far */   \
    F(u64, scrubbed, 33, false) /* time of the end of the last complete scrub; 0: none yet */  \
    F(u32, scrub_permille, 34, false) /* of the scrub under way, from 1; 0: none is */         \
    F(u32, aside, 35, false) /* damaged directories that were put aside and are kept ... */    \
    F(u64, aside_bytes, 36, false) /* ... and what they take */
WIRE_DECLARE(store_beat_req, STORE_BEAT_REQ)

enum store_flags { STORE_FULL = 1 << 0, STORE_NEARLY_FULL = 1 << 1, STORE_DISK_ERROR = 1 << 2 };

#define GC_ITEM(F, S, L)                                                                       \
    F(u64, id, 1, true)                                                                        \
    F(u64, ino, 2, true)                                                                       \
    F(u64, size, 3, false)  /* blocks wholly at or past size ... */                            \
    F(u64, epoch, 4, true)  /* ... with a version epoch below this go; removed inode: UINT64_MAX, size 0 */ \
    F(u64, reach, 5, false) /* no chunk of this inode lies at or past this offset */
WIRE_DECLARE(gc_item, GC_ITEM)

#define STORE_BEAT_RES(F, S, L)                                                                \
    F(u64, map_epoch, 1, true)                                                                 \
    L(gc_item, gc, 2, false) /* the next ones after gc_done */                                 \
    F(u64, time, 3, false)                                                                     \
    F(boolean, unknown, 4, false) /* register again */
WIRE_DECLARE(store_beat_res, STORE_BEAT_RES)

#define INO_CHECK_REQ(F, S, L) F(u64s, inos, 1, true)
WIRE_DECLARE(ino_check_req, INO_CHECK_REQ)
#define INO_TRIM(F, S, L)                                                                      \
    F(u32, at, 1, true) /* which of the inodes asked for */                                    \
    F(u64, size, 2, true)                                                                      \
    F(u64, epoch, 3, true)
WIRE_DECLARE(ino_trim, INO_TRIM) /* an entry of its horizon: blocks behind it are garbage, as of a trim (PROTOCOL 5.3) */
#define INO_CHECK_RES(F, S, L)                                                                 \
    F(bin, states, 1, true) /* per inode: 0 unknown (keep), 1 alive, 2 dead */                 \
    F(bin, held, 2, false)  /* per inode: 1 if X is held, or it is unclean */                  \
    L(ino_trim, trims, 3, false)
WIRE_DECLARE(ino_check_res, INO_CHECK_RES)

/* ---- data: anyone -> store -------------------------------------------------------------------------------------- */

/* Whatever is asked of a store names it: `store`, key 20, is the id of the store that is meant, and any other refuses with
 * WRONG_STORE (PROTOCOL 6.1). 0: left out, by programs older than this key. See request_store(). MAP_GET and STORE_STATUS
 * have none: any store's map is as good, and the status says whose it is. */

enum write_flags {
    WRITE_ZERO = 1 << 0,   /* zero mark: no sums, no payload */
    WRITE_REPAIR = 1 << 1, /* write-back, backfill: version may be of any epoch, the sender holds no lease */
};

/* Blocks [first, first+count) of one chunk, all of one version. Payload: count x 4 KiB (not with ZERO). */
#define WRITE_ITEM(F, S, L)                                                                    \
    F(u64, pg, 1, true)                                                                        \
    F(u64, pg_epoch, 2, true)                                                                  \
    F(u64, ino, 3, true)                                                                       \
    F(u32, index, 4, true)                                                                     \
    F(u32, gen, 5, false)                                                                      \
    F(u32, first, 6, true)                                                                     \
    F(u32, count, 7, true)                                                                     \
    F(u64, vepoch, 8, true)                                                                    \
    F(u64, vseq, 9, true)                                                                      \
    F(u64, size, 10, true) /* of the file as of this version (PROTOCOL 4.7) */                 \
    F(u64, mtime, 11, true)                                                                    \
    F(bin, sums, 12, false) /* XXH3-64 of each block, little-endian */                         \
    F(u32, flags, 13, false)                                                                   \
    F(u64, pair_epoch, 14, false) /* REPAIR: version that size and mtime belong to; 0: none */ \
    F(u64, pair_seq, 15, false)
WIRE_DECLARE(write_item, WRITE_ITEM)

#define WRITE_REQ(F, S, L)                                                                     \
    F(u64, session, 1, false)                                                                  \
    F(u32, incarnation, 2, false)                                                              \
    F(u64, barrier, 3, true)                                                                   \
    L(write_item, items, 4, true)                                                              \
    F(u64, store, 20, false)
WIRE_DECLARE(write_req, WRITE_REQ)

#define WRITE_RESULT(F, S, L)                                                                  \
    F(u32, status, 1, true) /* 0: durable here at this version, or a newer seq of the same epoch */ \
    F(u32, new_blocks, 2, false)                                                               \
    F(u64, epoch, 3, false) /* FENCED: the higher epoch found; STALE_EPOCH: the PG's epoch here */ \
    F(u32, freed_blocks, 4, false) /* zero marks: blocks that held data */
WIRE_DECLARE(write_result, WRITE_RESULT)

/* Whole-request failures (STALE_MAP, FENCED session, WRONG_CLUSTER) are the header's status. */
#define WRITE_RES(F, S, L)                                                                     \
    L(write_result, items, 1, false)                                                           \
    F(u64, map_epoch, 2, false)
WIRE_DECLARE(write_res, WRITE_RES)

#define READ_ITEM(F, S, L)                                                                     \
    F(u64, pg, 1, true)                                                                        \
    F(u64, pg_epoch, 2, true)                                                                  \
    F(u64, ino, 3, true)                                                                       \
    F(u32, index, 4, true)                                                                     \
    F(u32, gen, 5, false)                                                                      \
    F(u32, first, 6, true)                                                                     \
    F(u32, count, 7, true)                                                                     \
    F(boolean, data, 8, false) /* else versions and sums only */
WIRE_DECLARE(read_item, READ_ITEM)

#define READ_REQ(F, S, L)                                                                      \
    F(u64, session, 1, false)                                                                  \
    F(u32, incarnation, 2, false)                                                              \
    F(u64, barrier, 3, true)                                                                   \
    L(read_item, items, 4, true)                                                               \
    F(u64, store, 20, false)
WIRE_DECLARE(read_req, READ_REQ)

enum run_kind { RUN_NONE = 0 /* never written */, RUN_DATA = 1, RUN_ZERO = 2 /* zero mark */, RUN_UNKNOWN = 3 /* damaged: not a vote */ };

/* Consecutive blocks of one version and kind. NONE has version (0,0). */
#define VERSION_RUN(F, S, L)                                                                   \
    F(u32, count, 1, true)                                                                     \
    F(u32, kind, 2, true)                                                                      \
    F(u64, vepoch, 3, false)                                                                   \
    F(u64, vseq, 4, false)
WIRE_DECLARE(version_run, VERSION_RUN)

/* runs cover [first, first+count) in order; sums has 8 bytes for each block of DATA runs; the payload has
 * 4 KiB for each block of DATA runs of the items that asked for data, in order. */
#define READ_RESULT(F, S, L)                                                                   \
    F(u32, status, 1, true)                                                                    \
    L(version_run, runs, 2, false)                                                             \
    F(bin, sums, 3, false)                                                                     \
    F(u64, pair_epoch, 4, false) /* newest (size, mtime) of the chunk and its version */       \
    F(u64, pair_seq, 5, false)                                                                 \
    F(u64, size, 6, false)                                                                     \
    F(u64, mtime, 7, false)                                                                    \
    F(u64, pg_epoch, 8, false) /* STALE_EPOCH: the PG's epoch here */
WIRE_DECLARE(read_result, READ_RESULT)

#define READ_RES(F, S, L)                                                                      \
    L(read_result, items, 1, false)                                                            \
    F(u64, map_epoch, 2, false)
WIRE_DECLARE(read_res, READ_RES)

/* Recovery: what a voter has of a PG, in key order. */
#define MANIFEST_REQ(F, S, L)                                                                  \
    F(u64, barrier, 1, true)                                                                   \
    F(u64, pg, 2, true)                                                                        \
    F(u64, pg_epoch, 3, true)                                                                  \
    F(u64, after_ino, 4, false) /* page: behind this chunk; all zero: from the start */        \
    F(u32, after_index, 5, false)                                                              \
    F(u32, after_gen, 6, false)                                                                \
    F(u32, max, 7, true)                                                                       \
    F(boolean, resume, 8, false) /* after_* are meant */                                       \
    F(u64, store, 20, false)
WIRE_DECLARE(manifest_req, MANIFEST_REQ)

#define MANIFEST_ITEM(F, S, L)                                                                 \
    F(u64, ino, 1, true)                                                                       \
    F(u32, index, 2, true)                                                                     \
    F(u32, gen, 3, false)                                                                      \
    F(u64, digest, 4, true) /* XXH3-64 over version runs, sums and the pair */                 \
    F(u32, blocks, 5, false)
WIRE_DECLARE(manifest_item, MANIFEST_ITEM)

#define MANIFEST_RES(F, S, L)                                                                  \
    L(manifest_item, items, 1, false)                                                          \
    F(boolean, eof, 2, false)                                                                  \
    F(u64, pg_epoch, 3, false)
WIRE_DECLARE(manifest_res, MANIFEST_RES)

/* PROTOCOL 3.6 (a): newest recorded (size, mtime) over chunks [0, chunks) of the inode in this store's PGs. */
#define SIZE_QUERY_REQ(F, S, L)                                                                \
    F(u64, barrier, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(u32, chunks, 3, true)                                                                    \
    F(u64, epoch, 4, true) /* the ended epoch */                                               \
    F(u64, store, 20, false)
WIRE_DECLARE(size_query_req, SIZE_QUERY_REQ)

#define SIZE_QUERY_RES(F, S, L)                                                                \
    F(boolean, found, 1, false)                                                                \
    F(u64, vepoch, 2, false)                                                                   \
    F(u64, vseq, 3, false)                                                                     \
    F(u64, size, 4, false)                                                                     \
    F(u64, mtime, 5, false)
WIRE_DECLARE(size_query_res, SIZE_QUERY_RES)

/* The first of the inode's chunks [from, to) that there is in this store's PGs: what a sparse file has of chunks is sought,
 * not walked through (PROTOCOL 3.6, 4.10). */
#define CHUNK_SEEK_REQ(F, S, L)                                                                \
    F(u64, barrier, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(u32, from, 3, true)                                                                      \
    F(u32, to, 4, true)                                                                        \
    F(u64, store, 20, false)
WIRE_DECLARE(chunk_seek_req, CHUNK_SEEK_REQ)

#define CHUNK_SEEK_RES(F, S, L)                                                                \
    F(boolean, found, 1, false)                                                                \
    F(u32, index, 2, false)                                                                    \
    F(u64, map_epoch, 3, false) /* of the map by which all its groups were looked at */
WIRE_DECLARE(chunk_seek_res, CHUNK_SEEK_RES)

/* PROTOCOL 3.6 (b): the store compares all voters' versions of these chunks at or above from_epoch, writes the
 * newest of every differing block to all, durably, and answers 0; QUORUM_LOST when a voter is away. */
#define RECONCILE_REQ(F, S, L)                                                                 \
    F(u64, barrier, 1, true)                                                                   \
    F(u64, ino, 2, true)                                                                       \
    F(u64, from_epoch, 3, true)                                                                \
    F(u64s, indexes, 4, true) /* chunks; at most 1024 a request */                             \
    F(u64, store, 20, false)
WIRE_DECLARE(reconcile_req, RECONCILE_REQ)

/* Looking for damage, and after repairs. Any store answers, with a document (docs/OPERATIONS.md). */
enum scrub_action {
    SCRUB_REPORT = 0,
    SCRUB_START = 1, /* all of the store, from the beginning */
    SCRUB_STOP = 2,
    SCRUB_CHUNKS = 3, /* these, now: answered when they were read; at most 64 */
    SCRUB_CLEAN = 4,  /* remove what was put aside */
};
#define SCRUB_REQ(F, S, L)                                                                     \
    F(u32, action, 1, true)                                                                    \
    F(u64, rate, 2, false) /* START: bytes a second; 0: as configured */                       \
    F(u64, ino, 3, false)                                                                      \
    F(u64s, indexes, 4, false) /* CHUNKS; REPORT: of which to say when they were verified last */ \
    F(u64, store, 20, false)
WIRE_DECLARE(scrub_req, SCRUB_REQ)

/* ---- replicated commands --------------------------------------------------------------------------------------------- */

/*
 * A log entry: a client's mutation as it came (body is the encoded request of msg type `type`), or a command of
 * the leader's. Everything apply needs and cannot compute deterministically is in here.
 */
#define COMMAND(F, S, L)                                                                       \
    F(u32, type, 1, true) /* enum msg_type */                                                  \
    F(u64, time, 2, true) /* hybrid logical clock, ns */                                       \
    F(bin, body, 3, true)                                                                      \
    F(u64, term, 4, false) /* of the proposing leader: grant ids made by this entry are (term, log index) */ \
    F(u64, expected, 5, false)
WIRE_DECLARE(command, COMMAND)

#define CMD_SESSIONS_BODY(F, S, L) L(dead_session, sessions, 1, true)
WIRE_DECLARE(cmd_sessions, CMD_SESSIONS_BODY) /* SESSION_EXPIRE, SESSION_FORGET */

#define CMD_INOS_BODY(F, S, L) F(u64s, inos, 1, true)
WIRE_DECLARE(cmd_reap, CMD_INOS_BODY)

#define CMD_SIZE_RECOVERED_BODY(F, S, L)                                                       \
    F(u64, ino, 1, true)                                                                       \
    F(u64, epoch, 2, true) /* the ended epoch: dropped if the inode's is another by now */     \
    F(boolean, found, 3, false)                                                                \
    F(u64, size, 4, false)                                                                     \
    F(u64, mtime, 5, false)                                                                    \
    F(u64, vseq, 6, false)
WIRE_DECLARE(cmd_size_recovered, CMD_SIZE_RECOVERED_BODY)

#define CMD_RECONCILED_BODY(F, S, L)                                                           \
    F(u64, ino, 1, true)                                                                       \
    F(u64, mark_change, 2, true) /* epoch of the inode when it began: dropped if X was granted or an epoch added since */
WIRE_DECLARE(cmd_reconciled, CMD_RECONCILED_BODY)

#define PG_MOVE(F, S, L)                                                                       \
    F(u64s, pgs, 1, true)                                                                      \
    F(u64s, voters, 2, true)                                                                   \
    F(u64s, next, 3, false)                                                                    \
    F(u64s, expected, 4, false) /* epochs the PGs must have, else that PG is skipped */
WIRE_DECLARE(pg_move, PG_MOVE)

#define CMD_PG_UPDATE_BODY(F, S, L)                                                            \
    L(pg_move, moves, 1, true)                                                                 \
    L(store_info, stores, 2, false) /* states that change with it */
WIRE_DECLARE(cmd_pg_update, CMD_PG_UPDATE_BODY)

#define CMD_GC_TRIM_BODY(F, S, L)                                                              \
    F(u64, upto, 1, true) /* rows up to this id are done everywhere */                         \
    L(pg_ready, cursors, 2, false) /* pg: a store's id, epoch: its gc_cursor */
WIRE_DECLARE(cmd_gc_trim, CMD_GC_TRIM_BODY)

/* All members with their endpoints, as they are from this entry on. */
#define CMD_MEMBERS_BODY(F, S, L) L(member_info, members, 1, true)
WIRE_DECLARE(cmd_members, CMD_MEMBERS_BODY)

/* ---- the registry (schema.c) ------------------------------------------------------------------------------------------ */

struct msg_desc {
    uint16_t type; /* enum msg_type */
    const char *name;
    const struct wire_schema *request, *reply, *notice; /* NULL: no such; of a CMD_, request is its body */
};

/* NULL if unknown. */
const struct msg_desc *msg_find(uint32_t type);
/* "LOOKUP", "UNKNOWN". Static storage. */
const char *msg_name(uint32_t type);
/* The body's schema; NULL: no such message, or it has no body of that kind. */
const struct wire_schema *schema_of(uint32_t type, enum wire_frame_kind kind);
/* Room for any request to a store. */
union store_request {
    struct write_req write;
    struct read_req read;
    struct manifest_req manifest;
    struct size_query_req size;
    struct chunk_seek_req seek;
    struct reconcile_req reconcile;
    struct scrub_req scrub;
    struct map_get_req map;
    struct status_req status;
};
/* Where @body, a request of message @type, names the store it is for; NULL: requests of this type do not. */
uint64_t *request_store(uint32_t type, void *body);
/* Every schema, building blocks included: for tests and inspectors. */
const struct wire_schema *const *schema_all(size_t *ret_n);
