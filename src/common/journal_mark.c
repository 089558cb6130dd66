/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tail marks. Records say what was synced before them; of the last ones nothing says it, and a bad last record would
 * pass for a torn one. So when no append comes for a while, a frame is put where the next record will begin
 * that says: all before me was synced. It is not synced, costs no space, and the next record overwrites it.
 *
 * The job runs in the queue of the batches, so it never comes after one that was submitted later.
 */
#include "common/journal_internal.h"

#define JOURNAL_MARK_MS 200

static void mark_run(struct env_job *job)
{
    struct journal *j = container_of(job, struct journal, mark_job);
    uint8_t raw[JOURNAL_FRAME_BYTES];
    int ignored;

    frame_encode(j->id, j->mark_pos, j->mark_pos, JOURNAL_LEN_MARK, NULL, 0, raw);
    /* Of a disk that fails the next batch hears. */
    ignored = vfs_pwrite(j->mark_seg->file, raw, sizeof raw, j->mark_pos % j->segment_bytes);
    (void)ignored;
}

static void mark_done(struct env_job *job)
{
    struct journal *j = container_of(job, struct journal, mark_job);

    j->marking = false;
    segment_unref(j, TAKE(j->mark_seg));
    (void)journal_gone(j);
}

static void on_mark(struct env_timer *t)
{
    struct journal *j = container_of(t, struct journal, mark_timer);
    struct segment *s = segment_find(j, j->end / j->segment_bytes);

    if (j->closing || j->failed || j->head || j->flying || j->marking || j->wipe_to || j->durable != j->end || !s)
        return;
    segment_ref(j, s);
    j->mark_seg = s;
    j->mark_pos = j->end;
    j->mark_job = (struct env_job){.run = mark_run, .done = mark_done};
    j->marking = true;
    env_job_submit(j->env, &j->write_queue, &j->mark_job);
}

void journal_mark_init(struct journal *j)
{
    j->mark_timer.fn = on_mark;
}

void journal_mark_later(struct journal *j)
{
    if (!j->head && !j->closing)
        env_timer_set(j->env, &j->mark_timer, env_now(j->env) + JOURNAL_MARK_MS * NS_PER_MS);
}
