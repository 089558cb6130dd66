/* SPDX-License-Identifier: Apache-2.0 */
#include "common/aside.h"

#include <inttypes.h>
#include <string.h>

#include "common/log.h"

/* ---- PREFIX-N ---- */

static uint64_t number_of(const char *name, const char *prefix)
{
    uint64_t n;

    return vfs_name_numbered(name, prefix, &n) ? n : 0;
}

static bool is_aside(const void *prefix, const char *name)
{
    return number_of(name, prefix) != 0;
}

static int asides_list(struct vfs *vfs, const char *dir, const char *prefix, struct vfs_names *l)
{
    int err = vfs_names(vfs, dir, l);

    vfs_names_keep(l, is_aside, prefix);
    return err;
}

int aside_count(struct vfs *vfs, const char *dir, const char *prefix, uint32_t *ret_n, uint64_t *ret_last)
{
    struct vfs_names l = {0};
    int err = asides_list(vfs, dir, prefix, &l);

    *ret_n = (uint32_t)l.n;
    *ret_last = 0;
    for (size_t i = 0; i < l.n; i++)
        *ret_last = MAX(*ret_last, number_of(l.list[i], prefix));
    vfs_names_free(&l);
    return err;
}

int aside_fill(struct vfs *vfs, const char *dir, const char *to, const struct vfs_names *names)
{
    int err = 0;

    for (size_t i = 0; i < names->n && err == 0; i++) {
        char *a = tc_asprintf("%s/%s", dir, names->list[i]), *b = tc_asprintf("%s/%s", to, names->list[i]);

        err = vfs_rename(vfs, a, b);
        free(a);
        free(b);
    }
    if (err == 0)
        err = vfs_sync_dir(vfs, to);
    return err == 0 ? vfs_sync_dir(vfs, dir) : err;
}

int aside_remove(struct vfs *vfs, const char *dir, const char *prefix, uint64_t last)
{
    struct vfs_names l = {0};
    int err = asides_list(vfs, dir, prefix, &l);

    for (size_t i = 0; i < l.n && err == 0; i++) {
        char *p = tc_asprintf("%s/%s", dir, l.list[i]);

        if (number_of(l.list[i], prefix) <= last)
            err = vfs_tree_remove(vfs, p);
        free(p);
    }
    vfs_names_free(&l);
    return err;
}

/* ---- the keeper ---- */

struct aside_keeper {
    struct env *env;
    char *dir, *prefix;
    struct env_queue queue;
    struct env_job job;
    struct aside now, measured;
    bool wanted, cleaning, orphan;
    int err;
};

static void keeper_run(struct env_job *job)
{
    struct aside_keeper *k = container_of(job, struct aside_keeper, job);
    struct vfs *vfs = env_vfs(k->env);
    struct vfs_names l = {0};

    k->err = k->cleaning ? aside_remove(vfs, k->dir, k->prefix, UINT64_MAX) : 0;
    k->measured = (struct aside){0};
    if (asides_list(vfs, k->dir, k->prefix, &l) == 0)
        k->measured.n = (uint32_t)l.n;
    for (size_t i = 0; i < l.n; i++) {
        char *p = tc_asprintf("%s/%s", k->dir, l.list[i]);

        k->measured.bytes += vfs_tree_bytes(vfs, p);
        free(p);
    }
    vfs_names_free(&l);
}

static void keeper_done(struct env_job *job);

static void keeper_start(struct aside_keeper *k, bool clean)
{
    k->now.busy = true;
    k->cleaning = clean;
    k->wanted = false;
    k->job = (struct env_job){.run = keeper_run, .done = keeper_done};
    env_job_submit(k->env, &k->queue, &k->job);
}

static void keeper_done(struct env_job *job)
{
    struct aside_keeper *k = container_of(job, struct aside_keeper, job);

    k->now = k->measured;
    if (k->orphan) {
        (void)aside_keeper_free(k);
        return;
    }
    if (k->cleaning && k->err < 0)
        LOG_ERR("aside", "what was put aside cannot be removed", "dir=%s err=%s", k->dir, tc_error_name(k->err));
    else if (k->cleaning)
        LOG_INFO("aside", "what was put aside is removed", "dir=%s", k->dir);
    if (k->wanted)
        keeper_start(k, true);
}

struct aside_keeper *aside_keeper_new(struct env *env, const char *dir, const char *prefix)
{
    struct aside_keeper *k = tc_calloc(1, sizeof *k);
    uint64_t last;

    k->env = env;
    k->dir = tc_strdup(dir);
    k->prefix = tc_strdup(prefix);
    env_queue_init(env, &k->queue, false);
    if (aside_count(env_vfs(env), dir, prefix, &k->now.n, &last) == 0 && k->now.n)
        keeper_start(k, false);
    return k;
}

struct aside_keeper *aside_keeper_free(struct aside_keeper *k)
{
    if (!k)
        return NULL;
    if (k->now.busy) {
        k->orphan = true; /* the job frees it */
        return NULL;
    }
    free(k->dir);
    free(k->prefix);
    free(k);
    return NULL;
}

struct aside aside_keeper_now(const struct aside_keeper *k)
{
    return k ? k->now : (struct aside){0};
}

void aside_keeper_clean(struct aside_keeper *k)
{
    if (k->now.busy)
        k->wanted = true;
    else
        keeper_start(k, true);
}
