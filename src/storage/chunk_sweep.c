/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that no index entry names: left by a crash between a file and its record. Some time after a start the
 * directories are listed, one after another; a file of an earlier life that is not its chunk's goes the way of
 * all removed files, through the next merge round. File numbers of this life are higher, and are left alone.
 */
#include "storage/chunk_impl.h"

#include <stdio.h>

#include "common/log.h"

#define SWEEP_AFTER_NS (10 * NS_PER_S)
#define NAMES_PER_TURN 128
#define NAMES_MAX 4000000

struct sweep {
    struct chunk_store *cs;
    struct env_job job;
    struct env_task task;
    struct env_timer timer;
    int dir, status;
    uint64_t floor; /* highest number of earlier lives */
    struct unlink_work *names; /* of the directory at hand: array */
    uint32_t n, cap, at;
    uint64_t found;
};

static int on_name(void *arg, const char *name)
{
    struct sweep *sw = arg;
    unsigned pg, index, gen;
    unsigned long long ino, file;
    char extra;

    if (sscanf(name, "%x-%llx-%x-%x.%llx%c", &pg, &ino, &index, &gen, &file, &extra) != 5 || file > sw->floor)
        return 0;
    if (sw->n == NAMES_MAX)
        return 1;
    if (sw->n == sw->cap) {
        sw->cap = sw->cap ? sw->cap * 2 : 1024;
        sw->names = tc_realloc(sw->names, sw->cap * sizeof(*sw->names));
    }
    sw->names[sw->n++] = (struct unlink_work){.key = {pg, ino, index, gen}, .file = file};
    return 0;
}

static void list_run(struct env_job *j)
{
    struct sweep *sw = container_of(j, struct sweep, job);

    sw->n = sw->at = 0;
    sw->status = vfs_list(sw->cs->vfs, sw->cs->file_dirs[sw->dir], on_name, sw);
}

static void list_done(struct env_job *j)
{
    struct sweep *sw = container_of(j, struct sweep, job);

    cs_job_done(sw->cs, j);
    env_defer(sw->cs->env, &sw->task);
}

static void list_next(struct sweep *sw)
{
    sw->job.run = list_run;
    sw->job.done = list_done;
    cs_job(sw->cs, &sw->cs->maintenance, &sw->job);
}

/* false: cannot say now. */
static bool is_orphan(struct chunk_store *cs, const struct unlink_work *name)
{
    struct chunk *c;
    int r = chunk_get(cs, &name->key, false, &c);
    bool orphan;

    if (r < 0)
        return r == -TC_E_NOENT;
    orphan = c->file != name->file;
    for (uint32_t b = 0; b < c->n; b++) { /* an index entry that was damaged may have lost the name */
        if (c->blocks[b].kind == RUN_UNKNOWN && !c->blocks[b].vepoch)
            orphan = false;
    }
    chunk_put(cs, c);
    return orphan;
}

static void sweep_task(struct env_task *t)
{
    struct sweep *sw = container_of(t, struct sweep, task);
    struct chunk_store *cs = sw->cs;

    for (uint32_t i = 0; i < NAMES_PER_TURN && sw->at < sw->n; i++, sw->at++) {
        if (!is_orphan(cs, &sw->names[sw->at]))
            continue;
        struct unlink_work *w = tc_calloc(1, sizeof(*w));

        w->key = sw->names[sw->at].key;
        w->file = sw->names[sw->at].file;
        DL_APPEND(cs->unlinks, w);
        sw->found++;
    }
    if (sw->at < sw->n) {
        env_defer(cs->env, t);
        return;
    }
    if (++sw->dir < FILE_DIRS) {
        list_next(sw);
        return;
    }
    if (sw->found)
        LOG_INFO("storage", "files that a crash left behind are removed", "files=%llu", (unsigned long long)sw->found);
    free(sw->names);
    sw->names = NULL;
    sw->cap = sw->n = 0;
    if (!env_timer_armed(&cs->merge_timer))
        env_timer_set(cs->env, &cs->merge_timer, env_now(cs->env));
}

static void sweep_fire(struct env_timer *t)
{
    list_next(container_of(t, struct sweep, timer));
}

void sweep_open(struct chunk_store *cs)
{
    struct sweep *sw = tc_calloc(1, sizeof(*sw));

    sw->cs = cs;
    sw->floor = cs->file_last;
    sw->task.fn = sweep_task;
    sw->timer.fn = sweep_fire;
    cs->sweep = sw;
    env_timer_set(cs->env, &sw->timer, env_now(cs->env) + SWEEP_AFTER_NS);
}

void sweep_close(struct chunk_store *cs)
{
    struct sweep *sw = cs->sweep;

    if (!sw)
        return;
    env_timer_cancel(cs->env, &sw->timer);
    env_defer_cancel(cs->env, &sw->task);
    free(sw->names);
    free(sw);
    cs->sweep = NULL;
}
