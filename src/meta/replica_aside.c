/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damage of a member's directory: what is damaged is kept aside for a human to look at, never used and never
 * removed at once, and the member begins anew, as one that does not vote until the others have filled it.
 *
 *   found while it runs, or by the owner   replica_mark_damaged() writes the file `damaged`; close, open anew
 *   found by opening, or so marked         replica_set_aside(): log-*, kv-* and base go to aside-N, with WHY
 *
 * A crash in between leaves a directory that is judged damaged again. A store that is damaged beside a log
 * that still begins with the first entry is made again from the log: then nothing else is lost.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/aside.h"
#include "common/log.h"
#include "meta/replica_int.h"

enum { ASIDE_KEPT = 3, FOREIGN_MESSAGES = 20 };
#define FOREIGN_NS (5 * NS_PER_S)

static const char *const kinds[] = {"all", "kv", "foreign"}; /* enum replica_damage_kind */

/* ---- the mark ---- */

int replica_mark_damaged(struct vfs *vfs, const char *dir, enum replica_damage_kind kind, const char *what)
{
    char *text = tc_asprintf("%s\n%s\n", kinds[kind], what);
    int err = vfs_write_text(vfs, dir, "damaged", text);

    if (err == 0)
        err = vfs_sync_dir(vfs, dir);
    LOG_ERR("raft", "files of this member are damaged: they will be set aside", "dir=%s why=\"%s\" written=%s", dir, what,
            tc_error_name(err));
    free(text);
    return err;
}

static int64_t read_text(struct vfs *vfs, const char *path, char *text, size_t size)
{
    struct vfs_file *f;
    int64_t n = vfs_open(vfs, path, VFS_RDONLY, &f);

    if (n < 0)
        return n;
    n = vfs_pread(f, text, size - 1, 0);
    vfs_close(f);
    if (n >= 0)
        text[n] = '\0';
    return n;
}

bool replica_marked(struct replica *r, enum replica_damage_kind *ret_kind)
{
    char *path = tc_asprintf("%s/damaged", r->dir);
    char text[REPLICA_WHY_MAX + 32], *line;
    bool marked = read_text(env_vfs(r->env), path, text, sizeof text) >= 0;

    free(path);
    if (!marked)
        return false;
    *ret_kind = REPLICA_DAMAGE_ALL; /* also of a mark that was torn */
    line = strchr(text, '\n');
    if (line)
        *line++ = '\0';
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        if (strcmp(text, kinds[i]) == 0)
            *ret_kind = (enum replica_damage_kind)i;
    if (line && strchr(line, '\n'))
        *strchr(line, '\n') = '\0';
    replica_damaged(r, line && *line ? line : "marked as damaged");
    return true;
}

void replica_damaged(struct replica *r, const char *why)
{
    snprintf(r->damage_text, sizeof r->damage_text, "%s", why);
    r->damage = r->damage_text;
}

/* ---- aside ---- */

static bool begins(const void *prefixes, const char *name)
{
    for (const char *const *p = prefixes; *p; p++)
        if (strncmp(name, *p, strlen(*p)) == 0)
            return true;
    return false;
}

static int write_why(struct vfs *vfs, const char *aside, const char *why)
{
    char *text = tc_asprintf("%s\n", why);
    int err = vfs_write_text(vfs, aside, "WHY", text);

    free(text);
    return err;
}

/* Move what begins with @prefixes to a new aside-N. The last argument of a life: nothing reads it again. */
static int aside_move(struct replica *r, const char *const *prefixes)
{
    struct vfs *vfs = env_vfs(r->env);
    struct vfs_names l = {0};
    uint64_t last = 0;
    uint32_t n = 0;
    char *aside;
    int err = aside_count(vfs, r->dir, "aside", &n, &last);

    if (err == 0)
        err = vfs_names(vfs, r->dir, &l);
    vfs_names_keep(&l, begins, prefixes);
    if (err < 0 || l.n == 0) {
        vfs_names_free(&l);
        return err;
    }
    aside = tc_asprintf("%s/aside-%" PRIu64, r->dir, last + 1);
    err = vfs_make_dir(vfs, aside);
    if (err == 0)
        err = write_why(vfs, aside, r->damage ? r->damage : "not known");
    if (err == 0)
        err = aside_fill(vfs, r->dir, aside, &l);
    if (err == 0)
        LOG_WARN("raft", "damaged files were set aside", "to=%s why=\"%s\"", aside, r->damage ? r->damage : "");
    free(aside);
    if (err == 0 && last >= ASIDE_KEPT && aside_remove(vfs, r->dir, "aside", last + 1 - ASIDE_KEPT) < 0)
        LOG_WARN("raft", "old damaged files cannot be removed", "dir=%s", r->dir);
    vfs_names_free(&l);
    return err;
}

/*
 * That the mark goes is not synced: whoever comes here makes the new log or the new store next, which syncs this directory,
 * before it answers anybody. If the mark comes back by then, what is set aside once more is empty.
 */
static int unmark(struct replica *r)
{
    struct vfs *vfs = env_vfs(r->env);
    char *path = tc_asprintf("%s/damaged", r->dir);
    int err = vfs_unlink(vfs, path);

    free(path);
    return err == -TC_E_NOENT ? 0 : err;
}

static uint64_t next_gen(struct replica *r, const char *prefix, uint64_t now, int *err)
{
    uint64_t last = 0;
    int e = replica_dir_last(env_vfs(r->env), r->dir, prefix, &last);

    if (e < 0)
        *err = e;
    return MAX(last, now) + 1;
}

int replica_set_aside(struct replica *r)
{
    static const char *const what[] = {"log-", "kv-", "base", NULL};
    struct vfs *vfs = env_vfs(r->env);
    int err = 0;

    r->base = (struct replica_base){.kv_gen = next_gen(r, "kv", r->base.kv_gen, &err),
                                    .log_gen = next_gen(r, "log", r->base.log_gen, &err)};
    if (err < 0)
        return err;
    do
        r->state.incarnation = env_random(r->env);
    while (r->state.incarnation == 0);
    r->state.id = r->id;
    r->state.seq++;
    err = replica_state_write(vfs, r->dir, &r->state); /* first of all: it votes no more */
    if (err == 0)
        err = aside_move(r, what);
    if (err == 0)
        err = replica_base_write(vfs, r->dir, &r->base);
    return err < 0 ? err : unmark(r);
}

int replica_set_kv_aside(struct replica *r)
{
    static const char *const what[] = {"kv-", NULL};
    int err = 0;

    ASSERT(r->base.index == 0);
    r->base.kv_gen = next_gen(r, "kv", r->base.kv_gen, &err);
    if (err == 0)
        err = aside_move(r, what);
    if (err == 0)
        err = replica_base_write(env_vfs(r->env), r->dir, &r->base);
    return err < 0 ? err : unmark(r);
}

int replica_set_state_aside(struct replica *r)
{
    static const char *const what[] = {"state-", NULL};

    return aside_move(r, what);
}

char *replica_aside_newest(struct vfs *vfs, const char *dir, char *why, size_t why_size)
{
    uint64_t last = 0;
    uint32_t n = 0;
    char *aside, *path, *end;

    if (aside_count(vfs, dir, "aside", &n, &last) < 0 || n == 0)
        return NULL;
    aside = tc_asprintf("%s/aside-%" PRIu64, dir, last);
    path = tc_asprintf("%s/WHY", aside);
    if (read_text(vfs, path, why, why_size) < 0)
        why[0] = '\0';
    end = strchr(why, '\n');
    if (end)
        *end = '\0';
    free(path);
    return aside;
}

/* ---- files of another cluster ---- */

/*
 * A leader of another cluster speaks to this member. Under check-quorum one that leads for seconds has a
 * majority behind it; if this member has heard nothing of its own cluster meanwhile, its files are in the wrong
 * place. They are whole, and stay so, aside.
 */
void replica_foreign(struct replica *r, uint64_t from, uint64_t tag, bool leads)
{
    uint64_t now = env_now(r->env);

    if (!leads || r->own_heard || r->failed || r->n_peers <= 1)
        return;
    if (r->foreign.tag != tag || r->foreign.from != from) {
        r->foreign.tag = tag;
        r->foreign.from = from;
        r->foreign.since = now;
        r->foreign.n = 0;
    }
    if (++r->foreign.n < FOREIGN_MESSAGES || now - r->foreign.since < FOREIGN_NS)
        return;
    replica_damaged(r, "its files are of another cluster than those of the other members");
    if (replica_mark_damaged(env_vfs(r->env), r->dir, REPLICA_DAMAGE_FOREIGN, r->damage) == 0)
        replica_fail(r, -TC_E_DAMAGED, "files of another cluster");
}
