/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store that ended because its disk failed must not come and go with its supervisor: the next start may succeed, the
 * next write fail again. So the file `disk-error` is left in its directory, and while it is there the store says that
 * its disk fails: it serves what it has as a source for others, and the leader gives it nothing to hold. Whoever
 * replaces the disk, or finds that it was the cable, removes the file. If not even the file can be made, the next start
 * fails too, for it has its identity to store.
 */
#include "common/log.h"
#include "storage/server_int.h"

#define MARK DISK_ERROR_MARK

int failing_load(struct storage_server *s)
{
    char *path = tc_asprintf("%s/" MARK, s->dir);
    struct vfs_file *f = NULL;
    int r = vfs_open(s->vfs, path, VFS_RDONLY, &f);

    if (r == 0) {
        s->failing = true;
        LOG_ERR("storage", "the disk failed before: nothing more is kept here; when it is sound, remove the file and start again",
                "node=%u file=%s", s->cfg.node, path);
    }
    vfs_close(f);
    free(path);
    return r == -TC_E_NOENT ? 0 : r;
}

void failing_mark(struct storage_server *s, const char *why)
{
    char *path = tc_asprintf("%s/" MARK, s->dir);
    struct vfs_file *f = NULL;
    int r = vfs_open(s->vfs, path, VFS_RDWR | VFS_CREATE, &f);

    if (r == 0)
        r = vfs_pwrite(f, why, strlen(why), 0);
    if (r == 0)
        r = vfs_sync(f);
    if (r == 0)
        r = vfs_sync_dir(s->vfs, s->dir);
    if (r < 0)
        LOG_WARN("storage", "the failure of the disk cannot be marked", "file=%s err=%s", path, tc_error_name(r));
    vfs_close(f);
    free(path);
}
