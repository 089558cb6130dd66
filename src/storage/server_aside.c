/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory whose index or journal is damaged: everything in it is put aside, and the node starts as a new, empty
 * store in the same place, which is filled like one whose disk was lost (PROTOCOL 6.1). Nothing is deleted: what was
 * put aside lies in damaged-N until an operator removes it (tercet clean); it may be the last copy of something. Of four
 * such directories none is removed for a fifth: the node does not start until somebody has looked.
 *
 *   `damaged` (a mark, holds N) is written ─► names are moved to damaged-N/ ─► the mark goes
 *
 * Whatever interrupts it, the next start finds the mark and goes on. No file is read before that.
 */
#include <stdio.h>
#include <stdlib.h>

#include "common/aside.h"
#include "common/log.h"
#include "storage/server_int.h"

#define ASIDE_MAX 4 /* damaged so often, something is wrong with the machine */
#define MARK "damaged"

static bool goes(const void *arg TC_UNUSED, const char *name)
{
    return strncmp(name, MARK "-", strlen(MARK "-")) && strcmp(name, "lock") && strcmp(name, MARK) && strcmp(name, DISK_ERROR_MARK);
}

/* The number in the mark: 0 if it has none yet, -NOENT without a mark. */
static int mark_read(struct storage_server *s, const char *path, uint64_t *ret_n)
{
    struct vfs_file *f = NULL;
    char text[24] = "";
    int64_t got = 0;
    int r = vfs_open(s->vfs, path, VFS_RDONLY, &f);

    *ret_n = 0;
    if (r < 0)
        return r;
    got = vfs_pread(f, text, sizeof text - 1, 0);
    vfs_close(f);
    if (got < 0)
        return (int)got;
    *ret_n = strtoull(text, NULL, 10);
    return 0;
}

static int mark_write(struct storage_server *s, uint64_t n)
{
    char text[24];
    int r;

    snprintf(text, sizeof text, "%llu\n", (unsigned long long)n);
    r = vfs_write_text(s->vfs, s->dir, MARK, text);
    return r == 0 ? vfs_sync_dir(s->vfs, s->dir) : r;
}

/*
 * Going on where a life before ended. The number that is there is synced, not written anew: it may have been read from
 * the page cache, and a crash in the middle of writing it would take it away. Then the rest would go to another
 * directory, or nowhere: of those there are enough. What was moved is synced where it is before it is where it was.
 */
static int resume(struct storage_server *s, const char *mark, const char *to)
{
    struct vfs_file *f = NULL;
    int r = vfs_open(s->vfs, mark, VFS_RDWR, &f);

    if (r == 0)
        r = vfs_sync(f);
    vfs_close(f);
    if (r == 0)
        r = vfs_sync_dir(s->vfs, to);
    return r == -TC_E_NOENT ? 0 : r; /* the directory was not made yet */
}

int aside_put(struct storage_server *s, bool damaged)
{
    char *mark = tc_asprintf("%s/" MARK, s->dir), *to = NULL;
    struct vfs_names l = {0};
    uint64_t n = 0, last = 0;
    uint32_t n_aside = 0;
    int r = vfs_names(s->vfs, s->dir, &l);

    vfs_names_keep(&l, goes, NULL);
    if (r == 0)
        r = aside_count(s->vfs, s->dir, MARK, &n_aside, &last);
    if (r == 0)
        r = mark_read(s, mark, &n);
    if (r == -TC_E_NOENT && !damaged) {
        r = 0;
        goto out;
    }
    if (r < 0 && r != -TC_E_NOENT)
        goto out;
    if (!n && n_aside >= ASIDE_MAX) {
        LOG_ERR("storage", "damaged files were put aside too often: look at the disk, then remove damaged-N", "dir=%s",
                s->dir);
        r = -TC_E_DAMAGED;
        goto out;
    }
    to = tc_asprintf("%s/" MARK "-%llu", s->dir, (unsigned long long)(n ? n : last + 1));
    r = n ? resume(s, mark, to) : mark_write(s, last + 1);
    if (r == 0)
        r = vfs_make_dir(s->vfs, to);
    if (r == 0)
        r = aside_fill(s->vfs, s->dir, to, &l);
    if (r == 0)
        r = vfs_unlink(s->vfs, mark);
    if (r == 0)
        r = vfs_sync_dir(s->vfs, s->dir);
    if (r < 0) {
        LOG_ERR("storage", "damaged files cannot be put aside", "dir=%s err=%s", s->dir, tc_error_name(r));
    } else {
        LOG_ERR("storage", "index or journal was damaged: all files are put aside, the node starts as an empty store",
                "node=%u files=%s", s->cfg.node, to);
    }
out:
    vfs_names_free(&l);
    free(mark);
    free(to);
    return r;
}

void server_damaged(struct storage_server *s, const char *why)
{
    if (!s->fatal_told && mark_write(s, 0) < 0) /* then the next start sees for itself, or the next scrub */
        LOG_WARN("storage", "the damage cannot be marked", "dir=%s", s->dir);
    server_fatal(s, -TC_E_DAMAGED, why);
}
