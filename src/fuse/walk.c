/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each thread's walk over names found last, and what it is told where another mount changes names meanwhile: the
 * kernel looks a path up name by name, and takes for granted that nothing moved in between (docs/FUSE.md 4). One slot per
 * thread, by its id; of two threads in one slot the later one's walk counts, the other is treated as one that begins.
 */
#include "fuse/fuse_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct walk *slot_of(const struct fop *op)
{
    return &op->m->walks[(unsigned)op->tid % WALKS_MAX];
}

/* The thread's own: nothing, if the slot was another's. */
static struct walk *walk_of(const struct fop *op)
{
    struct walk *w = slot_of(op);

    if (w->tid != op->tid)
        *w = (struct walk){.tid = op->tid};
    return w;
}

void walk_begin(struct fop *op)
{
    struct walk *w = slot_of(op);

    op->told_gone = w->tid == op->tid && w->gone;
    w->gone = false;
}

/*
 * An inode that the kernel walked to a moment ago, and that is gone: another mount removed its last name. On ESTALE the
 * VFS walks again, once; if that leads to one that goes as well, the thread is told ENOENT, as link() does where it
 * meets a file without names.
 */
int walk_errno(struct fop *op, int status)
{
    if (status != -TC_E_STALE)
        return tc_error_to_errno(status);
    if (op->told_gone)
        return ENOENT;
    walk_of(op)->gone = true;
    return ESTALE;
}

/*
 * rename() looks up both names, one after the other; if both are one inode, the kernel takes it for two links of one
 * file and does nothing, successfully. When another mount has moved the file in between, that is wrong. So a thread in
 * rename() that finds one inode under two names is told ESTALE, on which the VFS begins the call anew, once, and asks
 * for every name on its way. If it finds one inode again, it is told that the second name is not there: then the kernel
 * asks for the rename to be done, and the metadata group decides (docs/FUSE.md 4). Calls that make a name fail with
 * whatever its lookup says, and need no such care: what the thread does is asked of the kernel.
 */
enum in_rename { NOT_IN_RENAME, IN_RENAME, IN_EXCHANGE, NOT_KNOWN };

static enum in_rename in_rename(int tid)
{
    char path[48], text[160];
    unsigned long call, flags;
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/syscall", tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NOT_KNOWN;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text, "%lu %*x %*x %*x %*x %lx", &call, &flags) != 2)
        return NOT_KNOWN; /* "running" */
#ifdef SYS_rename
    if (call == SYS_rename)
        return IN_RENAME;
#endif
#ifdef SYS_renameat
    if (call == SYS_renameat)
        return IN_RENAME;
#endif
    if (call != SYS_renameat2)
        return NOT_IN_RENAME;
    return flags & RENAME_EXCHANGE ? IN_EXCHANGE : IN_RENAME;
}

enum moved { UNMOVED, WALK_AGAIN, ASK_SERVER };

/* A thread found @e under a name, and had found the same under another one just before, if @same. Notes whether it renames. */
static enum moved has_moved(struct walk *w, const struct tc_entry *e, bool same)
{
    bool one_name = S_ISDIR(e->attr.mode) || e->attr.nlink == 1, renames = w->renames;
    enum in_rename in = same || w->again ? in_rename(w->tid) : NOT_IN_RENAME;

    w->renames = in == IN_RENAME;
    if (!same || in == NOT_IN_RENAME)
        return UNMOVED;
    if (!w->again || w->told)
        return in == NOT_KNOWN && !one_name ? UNMOVED : WALK_AGAIN;
    return renames && in != IN_EXCHANGE ? ASK_SERVER : UNMOVED;
}

/* Its hash; a thread that was told that an inode is gone is in the same walk while it only looks up names. */
void walk_name(struct fop *op, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325;

    for (const char *p = name; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3;
    op->name_hash = hash;
    if (op->told_gone)
        walk_of(op)->gone = true;
}

int walk_step(struct fop *op, int status, const struct tc_entry *e)
{
    struct walk *w = walk_of(op);
    enum moved moved = UNMOVED;

    if (w->last.parent != op->ino || w->last.hash != op->name_hash) { /* else the kernel asks once more, having dropped what it had */
        if (w->told)
            *w = (struct walk){.tid = op->tid, .again = true, .gone = w->gone};
        w->other = w->last;
        w->last.parent = op->ino;
        w->last.hash = op->name_hash;
    }
    w->last.ino = status == 0 ? e->ino : 0;
    if (status == 0)
        moved = has_moved(w, e, w->other.ino == e->ino);
    if (moved == WALK_AGAIN)
        w->again = w->told = true;
    return moved == UNMOVED ? 0 : moved == WALK_AGAIN ? ESTALE : ENOENT;
}

void walk_over(struct fop *op)
{
    slot_of(op)->tid = 0;
}
