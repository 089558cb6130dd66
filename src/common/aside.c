/* SPDX-License-Identifier: Apache-2.0 */
#include "common/aside.h"

#include <inttypes.h>
#include <string.h>

#include "common/log.h"

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

/* ---- trees ---- */

struct names {
    char **list;
    size_t n, cap;
};

static int name_see(void *arg, const char *name)
{
    struct names *l = arg;

    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->list = tc_realloc(l->list, l->cap * sizeof *l->list);
    }
    l->list[l->n++] = tc_strdup(name);
    return 0;
}

static void names_free(struct names *l)
{
    while (l->n > 0)
        free(l->list[--l->n]);
    free(l->list);
    *l = (struct names){0};
}

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
    struct names l = {0};
    uint64_t sum = 0;

    if (depth > DEPTH_MAX || vfs_list(vfs, path, name_see, &l) < 0 || l.n == 0)
        sum = file_bytes(vfs, path);
    for (size_t i = 0; i < l.n; i++) {
        char *p = tc_asprintf("%s/%s", path, l.list[i]);

        sum += tree_bytes(vfs, p, depth + 1);
        free(p);
    }
    names_free(&l);
    return sum;
}

static int tree_remove(struct vfs *vfs, const char *path, unsigned depth)
{
    struct names l = {0};
    int err = vfs_unlink(vfs, path);

    if (err == 0 || err == -TC_E_NOENT || depth > DEPTH_MAX)
        return err == -TC_E_NOENT ? 0 : err;
    err = vfs_list(vfs, path, name_see, &l);
    for (size_t i = 0; i < l.n && err == 0; i++) {
        char *p = tc_asprintf("%s/%s", path, l.list[i]);

        err = tree_remove(vfs, p, depth + 1);
        free(p);
    }
    names_free(&l);
    return err == 0 ? vfs_rmdir(vfs, path) : err;
}

/* ---- PREFIX-N ---- */

static uint64_t number_of(const char *name, const char *prefix)
{
    size_t len = strlen(prefix);
    char *end;
    uint64_t v;

    if (strncmp(name, prefix, len) != 0 || name[len] != '-' || name[len + 1] < '0' || name[len + 1] > '9')
        return 0;
    v = strtoull(name + len + 1, &end, 10);
    return *end ? 0 : v;
}

static int asides_list(struct vfs *vfs, const char *dir, const char *prefix, struct names *l)
{
    int err = vfs_list(vfs, dir, name_see, l);
    size_t kept = 0;

    for (size_t i = 0; i < l->n; i++) {
        if (number_of(l->list[i], prefix))
            l->list[kept++] = l->list[i];
        else
            free(l->list[i]);
    }
    l->n = kept;
    return err;
}

int aside_count(struct vfs *vfs, const char *dir, const char *prefix, uint32_t *ret_n, uint64_t *ret_last)
{
    struct names l = {0};
    int err = asides_list(vfs, dir, prefix, &l);

    *ret_n = (uint32_t)l.n;
    *ret_last = 0;
    for (size_t i = 0; i < l.n; i++)
        *ret_last = MAX(*ret_last, number_of(l.list[i], prefix));
    names_free(&l);
    return err;
}

int aside_fill(struct vfs *vfs, const char *dir, const char *to, char *const *names, uint32_t n)
{
    int err = 0;

    for (uint32_t i = 0; i < n && err == 0; i++) {
        char *a = tc_asprintf("%s/%s", dir, names[i]), *b = tc_asprintf("%s/%s", to, names[i]);

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
    struct names l = {0};
    int err = asides_list(vfs, dir, prefix, &l);

    for (size_t i = 0; i < l.n && err == 0; i++) {
        char *p = tc_asprintf("%s/%s", dir, l.list[i]);

        if (number_of(l.list[i], prefix) <= last)
            err = tree_remove(vfs, p, 0);
        free(p);
    }
    names_free(&l);
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
    struct names l = {0};

    k->err = k->cleaning ? aside_remove(vfs, k->dir, k->prefix, UINT64_MAX) : 0;
    k->measured = (struct aside){0};
    if (asides_list(vfs, k->dir, k->prefix, &l) == 0)
        k->measured.n = (uint32_t)l.n;
    for (size_t i = 0; i < l.n; i++) {
        char *p = tc_asprintf("%s/%s", k->dir, l.list[i]);

        k->measured.bytes += tree_bytes(vfs, p, 0);
        free(p);
    }
    names_free(&l);
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
