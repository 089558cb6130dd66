/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error codes of Tercet. Inside the program every fallible function returns 0 (or a count) or
 * -TC_E_x. The numbers are wire format: they are never reused and never a host's errno. The errno
 * column is what an application behind the mount sees, and how a system call's errno comes in.
 *
 * The numbers of the last group (below 200) mirror POSIX errors; those from 200 on are Tercet's own.
 */
#pragma once

#include <errno.h>

#include "common/base.h"

/* clang-format off */
/*    name             num  errno         text */
#define TC_ERRORS(X)                                                                           \
    X(PERM,             1, EPERM,        "operation not permitted")                             \
    X(NOENT,            2, ENOENT,       "no such file or directory")                           \
    X(INTR,             3, EINTR,        "interrupted")                                         \
    X(IO,               4, EIO,          "input/output error")                                  \
    X(BADF,             5, EBADF,        "bad file handle")                                     \
    X(AGAIN,            6, EAGAIN,       "try again")                                           \
    X(NOMEM,            7, ENOMEM,       "out of memory")                                       \
    X(ACCES,            8, EACCES,       "permission denied")                                   \
    X(BUSY,             9, EBUSY,        "busy")                                                \
    X(EXIST,           10, EEXIST,       "file exists")                                         \
    X(XDEV,            11, EXDEV,        "cross-device link")                                   \
    X(NOTDIR,          12, ENOTDIR,      "not a directory")                                     \
    X(ISDIR,           13, EISDIR,       "is a directory")                                      \
    X(INVAL,           14, EINVAL,       "invalid argument")                                    \
    X(FBIG,            15, EFBIG,        "file too large")                                      \
    X(NOSPC,           16, ENOSPC,       "no space left")                                       \
    X(ROFS,            17, EROFS,        "read-only file system")                               \
    X(MLINK,           18, EMLINK,       "too many links")                                      \
    X(RANGE,           19, ERANGE,       "result too large for the buffer")                     \
    X(NAMETOOLONG,     20, ENAMETOOLONG, "file name too long")                                  \
    X(NOSYS,           21, ENOSYS,       "not implemented")                                     \
    X(NOTEMPTY,        22, ENOTEMPTY,    "directory not empty")                                 \
    X(LOOP,            23, ELOOP,        "too many symbolic links")                             \
    X(NODATA,          24, ENODATA,      "no such attribute")                                   \
    X(OPNOTSUPP,       25, EOPNOTSUPP,   "operation not supported")                             \
    X(STALE,           26, ESTALE,       "stale file handle")                                   \
    X(DQUOT,           27, EDQUOT,       "quota exceeded")                                      \
    X(TIMEDOUT,        28, ETIMEDOUT,    "timed out")                                           \
    X(ADDRINUSE,       29, EADDRINUSE,   "address already in use")                              \
    X(NXIO,            30, ENXIO,        "no such device or address")                           \
    X(MFILE,           31, EMFILE,       "too many open files")                                 \
    X(NOTCONN,         32, ENOTCONN,     "not connected")                                       \
    X(NOLCK,           33, ENOLCK,       "no more locks")                                       \
    X(UNKNOWN,        199, EIO,          "unclassified system error")                           \
    X(NOT_LEADER,     200, EAGAIN,       "this member does not lead the metadata group")        \
    X(NO_QUORUM,      201, EIO,          "no quorum of the metadata group answers")             \
    X(BAD_MESSAGE,    202, EIO,          "malformed message")                                   \
    X(WRONG_CLUSTER,  203, EIO,          "message or directory of another cluster")             \
    X(VERSION,        204, EIO,          "newer protocol or format version than this program knows") \
    X(NO_GENESIS,     205, EIO,          "this member has not been formatted")                  \
    X(ALREADY_FORMATTED, 206, EEXIST,    "the cluster is formatted already")                    \
    X(STALE_EPOCH,    207, ESTALE,       "request carries an old placement group epoch")        \
    X(STALE_MAP,      208, EAGAIN,       "replica has an older map than the request's barrier") \
    X(NOT_VOTER,      209, ESTALE,       "this store is not a voter of the placement group")    \
    X(FENCED,         210, EIO,          "the session, or its lease, has ended")                \
    X(SESSION_EXPIRED,211, EIO,          "the session has expired")                             \
    X(SESSION_UNKNOWN,212, EIO,          "no such session")                                     \
    X(LEASE_LOST,     213, EIO,          "the lease named by the request has ended")            \
    X(LEASE_CONFLICT, 214, EAGAIN,       "a conflicting lease is held")                         \
    X(CHUNK_CORRUPT,  215, EIO,          "stored checksum does not match")                      \
    X(UNKNOWN_BLOCK,  216, EIO,          "the replica cannot say what it has for this block")   \
    X(VERSION_CLASH,  217, EIO,          "two contents under one version")                      \
    X(QUORUM_LOST,    218, EIO,          "fewer replicas than the quorum acknowledged")         \
    X(BACKPRESSURE,   219, EAGAIN,       "queue full, slow down")                               \
    X(UNREACHABLE,    220, EIO,          "the peer cannot be reached")                          \
    X(DEADLINE,       221, ETIMEDOUT,    "deadline passed")                                     \
    X(CANCELLED,      222, EINTR,        "operation cancelled")                                 \
    X(DAMAGED,        223, EIO,          "stored state is damaged")                             \
    X(CONFIG,         224, EINVAL,       "configuration error")                                 \
    X(LIMIT,          225, EIO,          "a configured limit is reached")                       \
    X(DUPLICATE,      226, EIO,          "request at or below the watermark, ignored")          \
    X(NO_MAP,         227, EAGAIN,       "the placement table does not exist yet")              \
    X(CROSSED,        228, ESTALE,       "mutation crossed a recall, retry")                    \
    X(LOCKED_DIR,     229, EBUSY,        "directory is in use by another process")              \
    X(SHUTDOWN,       230, EIO,          "shutting down")                                       \
    X(WRONG_STORE,    231, EIO,          "another store listens at this address")
/* clang-format on */

enum tc_error {
    TC_OK = 0,
    TC_E_BASE = 4096, /* above every errno, so the two never collide */
#define X(name, num, err, text) TC_E_##name = TC_E_BASE + (num),
    TC_ERRORS(X)
#undef X
};

/* Text for @err (0, -TC_E_x or -errno). Static storage. */
const char *tc_strerror(int err);
/* Symbolic name ("NOT_LEADER") for @err. Static storage. */
const char *tc_error_name(int err);
/* The positive errno an application sees for @err (0 for 0). */
int tc_error_to_errno(int err);
/* -TC_E_x for a positive errno of a system call; TC_E_UNKNOWN for those not in the table. */
int tc_error_from_errno(int errnum);
/* Wire status (0 or num) of @err and back. Unknown numbers become -TC_E_UNKNOWN. */
uint32_t tc_error_to_wire(int err);
int tc_error_from_wire(uint32_t status);
