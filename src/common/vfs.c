/* SPDX-License-Identifier: Apache-2.0 */
/* What every vfs can do by its operations. */
#include "common/vfs.h"

#include <stdio.h>
#include <string.h>

int vfs_make_dir(struct vfs *v, const char *path)
{
    char *parent = tc_strdup(path), *slash = strrchr(parent, '/');
    int r = vfs_mkdir(v, path);

    if (slash && slash != parent)
        *slash = '\0';
    else
        snprintf(parent, strlen(path) + 1, "%s", slash ? "/" : ".");
    if (r == 0)
        r = vfs_sync_dir(v, parent);
    free(parent);
    return r;
}
