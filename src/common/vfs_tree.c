/* SPDX-License-Identifier: Apache-2.0 */
#include "common/vfs_tree.h"

#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 6

int vfs_write_text(struct vfs *vfs, const char *dir, const char *name, const char *text)
{
    char *path = tc_asprintf("%s/%s", dir, name);
    struct vfs_file *f;
    int err = vfs_open(vfs, path, VFS_RDWR | VFS_CREATE | VFS_TRUNC, &f);

    if (err == 0) {
        err = vfs_pwrite(f, text, strlen(text), 0);
        if (err == 0)
            err = vfs_sync(f);
        vfs_close(f);
    }
    free(path);
    return err;
}

/* ---- names ---- */

static int name_see(void *arg, const char *name)
{
    struct vfs_names *l = arg;

    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->list = tc_realloc(l->list, l->cap * sizeof *l->list);
    }
    l->list[l->n++] = tc_strdup(name);
    return 0;
}

int vfs_names(struct vfs *vfs, const char *dir, struct vfs_names *ret)
{
    *ret = (struct vfs_names){0};
    return vfs_list(vfs, dir, name_see, ret);
}

bool vfs_has_name(struct vfs *vfs, const char *dir, const char *name)
{
    struct vfs_names l;
    bool found = false;

    if (vfs_names(vfs, dir, &l) == 0) {
        for (size_t i = 0; i < l.n; i++)
            found = found || strcmp(l.list[i], name) == 0;
    }
    vfs_names_free(&l);
    return found;
}

void vfs_names_keep(struct vfs_names *l, bool (*keep)(const void *arg, const char *name), const void *arg)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->n; i++) {
        if (keep(arg, l->list[i]))
            l->list[kept++] = l->list[i];
        else
            free(l->list[i]);
    }
    l->n = kept;
}

void vfs_names_free(struct vfs_names *l)
{
    while (l->n > 0)
        free(l->list[--l->n]);
    free(l->list);
    *l = (struct vfs_names){0};
}

bool vfs_name_numbered(const char *name, const char *prefix, uint64_t *ret_n)
{
    size_t len = strlen(prefix);
    const char *digits = name + len + 1;
    char *end;

    if (strncmp(name, prefix, len) != 0 || name[len] != '-' || digits[0] < '0' || digits[0] > '9')
        return false;
    *ret_n = strtoull(digits, &end, 10);
    return *end == '\0';
}

/* ---- trees ---- */

static uint64_t file_bytes(struct vfs *vfs, const char *path)
{
    struct vfs_file *f;
    uint64_t size = 0;

    if (vfs_open(vfs, path, VFS_RDONLY, &f) < 0)
        return 0;
    if (vfs_size(f, &size) < 0)
        size = 0;
    vfs_close(f);
    return size;
}

static uint64_t tree_bytes(struct vfs *vfs, const char *path, unsigned depth)
{
    struct vfs_names l = {0};
    uint64_t sum = 0;

    if (depth > DEPTH_MAX || vfs_names(vfs, path, &l) < 0 || l.n == 0)
        sum = file_bytes(vfs, path);
    for (size_t i = 0; i < l.n; i++) {
        char *p = tc_asprintf("%s/%s", path, l.list[i]);

        sum += tree_bytes(vfs, p, depth + 1);
        free(p);
    }
    vfs_names_free(&l);
    return sum;
}

uint64_t vfs_tree_bytes(struct vfs *vfs, const char *path)
{
    return tree_bytes(vfs, path, 0);
}

static int tree_remove(struct vfs *vfs, const char *path, unsigned depth)
{
    struct vfs_names l = {0};
    int err = vfs_unlink(vfs, path);

    if (err == 0 || err == -TC_E_NOENT || depth > DEPTH_MAX)
        return err == -TC_E_NOENT ? 0 : err;
    err = vfs_names(vfs, path, &l);
    for (size_t i = 0; i < l.n && err == 0; i++) {
        char *p = tc_asprintf("%s/%s", path, l.list[i]);

        err = tree_remove(vfs, p, depth + 1);
        free(p);
    }
    vfs_names_free(&l);
    return err == 0 ? vfs_rmdir(vfs, path) : err;
}

int vfs_tree_remove(struct vfs *vfs, const char *path)
{
    return tree_remove(vfs, path, 0);
}
