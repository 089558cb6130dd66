/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/durable.h"

#include <stdio.h>
#include <xxhash.h>

#include "common/le.h"

#define DURABLE_MAGIC UINT32_C(0x46444354) /* "TCDF" */
#define DURABLE_VERSION 1
#define HEAD 24 /* magic u32, version u32, count u64, length u64; then the bytes, then XXH3-64 of all before */
#define BYTES_MAX (64u << 20)

void durable_init(struct durable *d, struct vfs *vfs, const char *dir, const char *name)
{
    *d = (struct durable){.vfs = vfs, .dir = tc_strdup(dir), .name = tc_strdup(name)};
}

void durable_fini(struct durable *d)
{
    free(d->dir);
    free(d->name);
    *d = (struct durable){0};
}

static int load_copy(struct durable *d, int i, uint64_t *ret_count, struct buf **ret_buf)
{
    char *path = tc_asprintf("%s/%s.%d", d->dir, d->name, i);
    struct vfs_file *f = NULL;
    struct buf *b = NULL;
    uint64_t size = 0;
    int64_t got = 0;
    int r = vfs_open(d->vfs, path, VFS_RDONLY, &f);

    free(path);
    if (r < 0)
        return r;
    r = vfs_size(f, &size);
    if (r == 0 && (size < HEAD + 8 || size > BYTES_MAX))
        r = -TC_E_DAMAGED;
    if (r == 0) {
        b = buf_new((uint32_t)size);
        got = vfs_pread(f, b->data, size, 0);
        r = got < 0 ? (int)got : (uint64_t)got != size ? -TC_E_DAMAGED : 0;
    }
    vfs_close(f);
    if (r == 0 && ((uint32_t)get64(b->data) != DURABLE_MAGIC || get64(b->data + 16) != size - HEAD - 8 ||
                   get64(b->data + size - 8) != XXH3_64bits(b->data, size - 8)))
        r = -TC_E_DAMAGED;
    if (r == 0 && get64(b->data) >> 32 > DURABLE_VERSION)
        r = -TC_E_VERSION;
    if (r < 0) {
        buf_unref(b);
        return r;
    }
    *ret_count = get64(b->data + 8);
    memmove(b->data, b->data + HEAD, size - HEAD - 8);
    b->len = (uint32_t)size - HEAD - 8;
    *ret_buf = b;
    return 0;
}

int durable_load(struct durable *d, struct buf **ret_buf)
{
    struct buf *b[2] = {NULL, NULL};
    uint64_t count[2] = {0, 0};
    int r[2], best;

    for (int i = 0; i < 2; i++) {
        r[i] = load_copy(d, i, &count[i], &b[i]);
        if (r[i] == -TC_E_VERSION || (r[i] < 0 && r[i] != -TC_E_NOENT && r[i] != -TC_E_DAMAGED)) {
            buf_unref(b[0]);
            return r[i];
        }
    }
    if (r[0] < 0 && r[1] < 0) /* one alone that does not check: the first ever, torn; nobody was answered under it */
        return r[0] == -TC_E_NOENT || r[1] == -TC_E_NOENT ? -TC_E_NOENT : -TC_E_DAMAGED;
    best = r[1] == 0 && (r[0] < 0 || count[1] > count[0]);
    buf_unref(b[!best]);
    d->count = count[best];
    *ret_buf = b[best];
    return 0;
}

int durable_save(struct durable *d, struct slice bytes)
{
    char *path = tc_asprintf("%s/%s.%d", d->dir, d->name, (int)((d->count + 1) % 2));
    size_t size = HEAD + bytes.len + 8;
    uint8_t *p = tc_malloc(size);
    struct vfs_file *f = NULL;
    int r;

    put64(p, DURABLE_MAGIC | (uint64_t)DURABLE_VERSION << 32);
    put64(p + 8, d->count + 1);
    put64(p + 16, bytes.len);
    memcpy(p + HEAD, bytes.data, bytes.len);
    put64(p + size - 8, XXH3_64bits(p, size - 8));
    r = vfs_open(d->vfs, path, VFS_RDWR | VFS_CREATE, &f);
    if (r == 0)
        r = vfs_pwrite(f, p, size, 0);
    if (r == 0)
        r = vfs_truncate(f, size);
    if (r == 0)
        r = vfs_sync(f);
    vfs_close(f);
    if (r == 0 && !d->made)
        r = vfs_sync_dir(d->vfs, d->dir);
    if (r == 0) {
        d->made = d->count > 0; /* both names by now */
        d->count++;
    }
    free(p);
    free(path);
    return r;
}
