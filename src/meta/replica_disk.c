/* SPDX-License-Identifier: Apache-2.0 */
#include "meta/replica_disk.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "common/log.h"
#include "common/vfs_tree.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "disk formats are little-endian");

enum { FILE_VERSION = 1, STATE_BYTES = 72, BASE_BYTES_MAX = 64 + RAFT_CONFIG_BYTES_MAX };
#define STATE_MAGIC UINT32_C(0x53524354) /* "TCRS" */
#define BASE_MAGIC UINT32_C(0x42524354)  /* "TCRB" */

static void put_head(uint8_t *p, uint32_t magic)
{
    uint32_t version = FILE_VERSION;

    memcpy(p, &magic, 4);
    memcpy(p + 4, &version, 4);
}

static void put_sum(uint8_t *p, size_t len)
{
    uint64_t sum = XXH3_64bits(p, len);

    memcpy(p + len, &sum, 8);
}

/* DAMAGED, VERSION or 0 for @len bytes, the last eight of which are the checksum. */
static int check(const uint8_t *p, size_t len, uint32_t magic)
{
    uint64_t sum;
    uint32_t head[2];

    if (len < 16)
        return -TC_E_DAMAGED;
    memcpy(&sum, p + len - 8, 8);
    memcpy(head, p, 8);
    if (head[0] != magic || sum != XXH3_64bits(p, len - 8))
        return -TC_E_DAMAGED;
    return head[1] == FILE_VERSION ? 0 : -TC_E_VERSION;
}

static int write_file(struct vfs *vfs, const char *path, const uint8_t *data, size_t len,
                      bool *ret_new)
{
    struct vfs_file *f;
    int err = vfs_open(vfs, path, VFS_RDWR, &f);

    *ret_new = err == -TC_E_NOENT;
    if (*ret_new)
        err = vfs_open(vfs, path, VFS_RDWR | VFS_CREATE, &f);
    if (err < 0)
        return err;
    err = vfs_pwrite(f, data, len, 0);
    if (err == 0)
        err = vfs_sync(f);
    vfs_close(f);
    return err;
}

static int read_file(struct vfs *vfs, const char *path, uint8_t *data, size_t cap)
{
    struct vfs_file *f;
    int64_t n;
    int err = vfs_open(vfs, path, VFS_RDONLY, &f);

    if (err < 0)
        return err;
    n = vfs_pread(f, data, cap, 0);
    vfs_close(f);
    return (int)n;
}

/* -- term and vote ---------------------------------------------------------------------------- */

static int state_read_one(struct vfs *vfs, const char *dir, char which, struct replica_state *ret)
{
    char *path = tc_asprintf("%s/state-%c", dir, which);
    uint8_t b[STATE_BYTES];
    int n = read_file(vfs, path, b, sizeof b);
    int err;

    free(path);
    if (n < 0)
        return n;
    err = check(b, (size_t)n, STATE_MAGIC);
    if (err < 0)
        return err;
    if (n != STATE_BYTES)
        return -TC_E_DAMAGED;
    memcpy(&ret->seq, b + 8, 8);
    memcpy(&ret->id, b + 16, 8);
    memcpy(&ret->cluster, b + 24, 8);
    memcpy(&ret->incarnation, b + 32, 8);
    memcpy(&ret->term, b + 40, 8);
    memcpy(&ret->vote, b + 48, 8);
    return 0;
}

/* One of the two is not what the other is: a crash came between them, or the disk lost it. */
static int state_heal(struct vfs *vfs, const char *dir, const struct replica_state *s, int err_a, int err_b)
{
    if (err_a < 0 || err_b < 0)
        LOG_WARN("raft", "one copy of term and vote is missing or damaged, written anew from the other",
                 "dir=%s file=state-%c error=%s", dir, err_a < 0 ? 'a' : 'b', tc_error_name(err_a < 0 ? err_a : err_b));
    return replica_state_write(vfs, dir, s);
}

int replica_state_read(struct vfs *vfs, const char *dir, struct replica_state *ret)
{
    struct replica_state a, b;
    int err_a = state_read_one(vfs, dir, 'a', &a);
    int err_b = state_read_one(vfs, dir, 'b', &b);

    if (err_a == -TC_E_VERSION || err_b == -TC_E_VERSION)
        return -TC_E_VERSION;
    if (err_a == 0 && err_b == 0)
        *ret = a.seq >= b.seq ? a : b;
    else if (err_a == 0)
        *ret = a;
    else if (err_b == 0)
        *ret = b;
    else if (err_a == -TC_E_NOENT)
        return err_b; /* a is written first: a torn first write is none */
    else
        return err_b == -TC_E_NOENT && err_a == -TC_E_DAMAGED ? -TC_E_NOENT : err_a;
    if (err_a < 0 || err_b < 0 || a.seq != b.seq)
        return state_heal(vfs, dir, ret, err_a, err_b);
    return 0;
}

int replica_state_check(struct vfs *vfs, const char *dir, struct replica_state *ret, bool *ret_one_bad)
{
    struct replica_state b;
    int err_a = state_read_one(vfs, dir, 'a', ret), err_b = state_read_one(vfs, dir, 'b', &b);

    if (err_a < 0 && err_b == 0)
        *ret = b;
    *ret_one_bad = err_a < 0 || err_b < 0;
    return err_a < 0 && err_b < 0 ? err_a : 0;
}

int replica_state_write(struct vfs *vfs, const char *dir, const struct replica_state *s)
{
    uint8_t b[STATE_BYTES] = {0};
    int err = 0;

    put_head(b, STATE_MAGIC);
    memcpy(b + 8, &s->seq, 8);
    memcpy(b + 16, &s->id, 8);
    memcpy(b + 24, &s->cluster, 8);
    memcpy(b + 32, &s->incarnation, 8);
    memcpy(b + 40, &s->term, 8);
    memcpy(b + 48, &s->vote, 8);
    put_sum(b, STATE_BYTES - 8);
    for (char which = 'a'; which <= 'b' && err == 0; which++) {
        char *path = tc_asprintf("%s/state-%c", dir, which);
        bool is_new = false;

        err = write_file(vfs, path, b, sizeof b, &is_new);
        if (err == 0 && is_new)
            err = vfs_sync_dir(vfs, dir);
        free(path);
    }
    return err;
}

/* -- the base --------------------------------------------------------------------------------- */

int replica_base_read(struct vfs *vfs, const char *dir, struct replica_base *ret)
{
    char *path = tc_asprintf("%s/base", dir);
    uint8_t b[BASE_BYTES_MAX];
    int n = read_file(vfs, path, b, sizeof b);
    int err;

    free(path);
    memset(ret, 0, sizeof *ret);
    if (n < 0)
        return n;
    err = check(b, (size_t)n, BASE_MAGIC);
    if (err < 0)
        return err;
    if (n < 48)
        return -TC_E_DAMAGED;
    memcpy(&ret->kv_gen, b + 8, 8);
    memcpy(&ret->log_gen, b + 16, 8);
    memcpy(&ret->index, b + 24, 8);
    memcpy(&ret->term, b + 32, 8);
    err = raft_config_decode(b + 40, (size_t)n - 48, &ret->config);
    return err < 0 ? -TC_E_DAMAGED : 0;
}

int replica_base_write(struct vfs *vfs, const char *dir, const struct replica_base *base)
{
    char *path = tc_asprintf("%s/base", dir);
    char *tmp = tc_asprintf("%s/base.tmp", dir);
    uint8_t b[BASE_BYTES_MAX] = {0};
    size_t len = 40;
    struct vfs_file *f;
    int err;

    put_head(b, BASE_MAGIC);
    memcpy(b + 8, &base->kv_gen, 8);
    memcpy(b + 16, &base->log_gen, 8);
    memcpy(b + 24, &base->index, 8);
    memcpy(b + 32, &base->term, 8);
    len += raft_config_encode(&base->config, b + len);
    put_sum(b, len);
    err = vfs_open(vfs, tmp, VFS_RDWR | VFS_CREATE | VFS_TRUNC, &f);
    if (err == 0) {
        err = vfs_pwrite(f, b, len + 8, 0);
        if (err == 0)
            err = vfs_sync(f);
        vfs_close(f);
    }
    if (err == 0)
        err = vfs_rename(vfs, tmp, path);
    if (err == 0)
        err = vfs_sync_dir(vfs, dir);
    free(path);
    free(tmp);
    return err;
}

/* -- directories ------------------------------------------------------------------------------ */

int replica_dir_last(struct vfs *vfs, const char *dir, const char *prefix, uint64_t *ret_last)
{
    struct vfs_names l;
    int err = vfs_names(vfs, dir, &l);
    uint64_t n, last = 0;

    for (size_t i = 0; i < l.n; i++) {
        if (vfs_name_numbered(l.list[i], prefix, &n))
            last = MAX(last, n);
    }
    vfs_names_free(&l);
    if (err < 0)
        return err;
    *ret_last = last;
    return 0;
}

void replica_dir_remove(struct vfs *vfs, const char *path)
{
    if (vfs_tree_remove(vfs, path) < 0)
        return; /* what stays is found and tried again at the next start */
}

void replica_dir_clean(struct vfs *vfs, const char *dir, const char *prefix, uint64_t keep)
{
    struct vfs_names l;
    bool complete = vfs_names(vfs, dir, &l) == 0; /* else the next start tries again */
    uint64_t n;

    for (size_t i = 0; i < l.n && complete; i++) {
        if (vfs_name_numbered(l.list[i], prefix, &n) && n != keep) {
            char *path = tc_asprintf("%s/%s", dir, l.list[i]);

            replica_dir_remove(vfs, path);
            free(path);
        }
    }
    vfs_names_free(&l);
}
