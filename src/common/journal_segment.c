/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segment files: made in full before use, renamed into service, renamed out of it again.
 *
 * A segment is called %016x.seg only when it has its full size in written blocks and a synced header with
 * that very id; so what a crash leaves under such a name is whole. Spares keep their old bytes: those were
 * written for other positions and never pass a checksum.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/journal_internal.h"

static const uint8_t zeros[64 << 10];

void segment_path(const struct journal *j, uint64_t id, bool spare, char **ret_path)
{
    *ret_path = spare ? tc_asprintf("%s/spare-%016" PRIx64, j->dir, id)
                      : tc_asprintf("%s/%016" PRIx64 ".seg", j->dir, id);
}

int segment_zero(struct vfs_file *f, uint64_t from, uint64_t to)
{
    struct iovec iov[16];

    while (from < to) {
        uint64_t at = from;
        int n = 0;
        int r;

        for (; n < (int)ARRAY_SIZE(iov) && from < to; n++) {
            iov[n].iov_base = (void *)(uintptr_t)zeros;
            iov[n].iov_len = (size_t)MIN(to - from, sizeof zeros);
            from += iov[n].iov_len;
        }
        r = vfs_pwritev(f, iov, n, at);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A file of full size in written blocks, under @path. */
static int segment_make_file(struct journal *j, const char *path, struct vfs_file **ret_file)
{
    struct vfs_file *f;
    int r;

    r = vfs_open(j->vfs, path, VFS_RDWR | VFS_CREATE | VFS_TRUNC, &f);
    if (r < 0)
        return r;
    r = segment_zero(f, 0, j->segment_bytes);
    if (r < 0) {
        int unlinked;

        vfs_close(f);
        unlinked = vfs_unlink(j->vfs, path);
        (void)unlinked; /* a leftover is overwritten, or removed at the next start */
        return r;
    }
    *ret_file = f;
    return 0;
}

static int segment_write_header(struct journal *j, struct vfs_file *f, uint64_t id, uint64_t synced)
{
    uint8_t block[JOURNAL_HEADER_BYTES];
    struct segment_header h = {.version = JOURNAL_VERSION,
                               .segment_bytes = j->segment_bytes,
                               .journal = j->id,
                               .segment = id,
                               .synced = synced};
    int r;

    segment_header_encode(&h, block);
    r = vfs_pwrite(f, block, sizeof block, 0);
    if (r < 0)
        return r;
    return vfs_sync(f);
}

/*
 * Make segment @id ready for use, of @spare (taken, even on error) or of a new file.
 */
int segment_create(struct journal *j, uint64_t id, uint64_t synced, struct segment *spare,
                   struct segment **ret_seg)
{
    struct segment *s = spare;
    char *from = NULL, *to = NULL;
    int r = 0;

    segment_path(j, id, false, &to);
    if (s) {
        segment_path(j, s->id, true, &from);
    } else {
        s = tc_calloc(1, sizeof *s);
        from = tc_asprintf("%s/new.tmp", j->dir);
        r = segment_make_file(j, from, &s->file);
    }
    if (!r)
        r = segment_write_header(j, s->file, id, synced);
    if (!r)
        r = vfs_rename(j->vfs, from, to);
    if (!r)
        r = vfs_sync_dir(j->vfs, j->dir);
    free(from);
    free(to);
    if (r) {
        vfs_close(s->file);
        free(s);
        return r;
    }
    s->id = id;
    s->spare = false;
    s->refs = 1;
    *ret_seg = s;
    return 0;
}

/*
 * Take @s out of service. The directory is synced for each, so that segments vanish from the front only:
 * a gap would look like damage.
 */
int segment_recycle(struct journal *j, struct segment *s, bool keep)
{
    char *from, *to;
    int r;

    segment_path(j, s->id, false, &from);
    segment_path(j, s->id, true, &to);
    r = keep ? vfs_rename(j->vfs, from, to) : vfs_unlink(j->vfs, from);
    if (!r)
        r = vfs_sync_dir(j->vfs, j->dir);
    free(from);
    free(to);
    return r;
}

struct segment *segment_find(struct journal *j, uint64_t id)
{
    if (j->n_segs == 0 || id < j->segs[0]->id || id - j->segs[0]->id >= j->n_segs)
        return NULL;
    return j->segs[id - j->segs[0]->id];
}

void segment_ref(struct journal *j, struct segment *s)
{
    pthread_mutex_lock(&j->lock);
    s->refs++;
    pthread_mutex_unlock(&j->lock);
}

void segment_unref(struct journal *j, struct segment *s)
{
    bool last;

    if (!s)
        return;
    pthread_mutex_lock(&j->lock);
    ASSERT(s->refs > 0);
    last = --s->refs == 0;
    pthread_mutex_unlock(&j->lock);
    if (last) {
        vfs_close(s->file);
        free(s);
    }
}

void journal_add_segment(struct journal *j, struct segment *s)
{
    pthread_mutex_lock(&j->lock);
    ASSERT(j->n_segs == 0 || j->segs[j->n_segs - 1]->id + 1 == s->id);
    if (j->n_segs == j->segs_cap) {
        j->segs_cap = j->segs_cap ? 2 * j->segs_cap : 8;
        j->segs = tc_realloc(j->segs, j->segs_cap * sizeof *j->segs);
    }
    j->segs[j->n_segs++] = s;
    pthread_mutex_unlock(&j->lock);
}
