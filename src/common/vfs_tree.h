/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done with whole directories, beyond what a vfs does with one name: lists of names, small trees, a text as a
 * file. For daemons' own directories, of some dozens of names. All of it blocks.
 */
#pragma once

#include "common/vfs.h"

/* @dir/@name holds just @text, durably; its name is so once @dir is synced. */
TC_MUST_CHECK int vfs_write_text(struct vfs *vfs, const char *dir, const char *name, const char *text);

/* The names in a directory; whoever has the list ends with vfs_names_free(), also after an error. */
struct vfs_names {
    char **list;
    size_t n, cap;
};
TC_MUST_CHECK int vfs_names(struct vfs *vfs, const char *dir, struct vfs_names *ret);
void vfs_names_keep(struct vfs_names *l, bool (*keep)(const void *arg, const char *name), const void *arg); /* only those */
void vfs_names_free(struct vfs_names *l);
/* Is there a @name in @dir? An error is a no. */
bool vfs_has_name(struct vfs *vfs, const char *dir, const char *name);
/* Is it PREFIX-N, N in decimal digits? */
bool vfs_name_numbered(const char *name, const char *prefix, uint64_t *ret_n);

/* A file, or a directory and what is in it. Removal ends at the first error; what is not there is removed. */
uint64_t vfs_tree_bytes(struct vfs *vfs, const char *path);
TC_MUST_CHECK int vfs_tree_remove(struct vfs *vfs, const char *path);
