/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that hangs: what was asked of it does not come back, and no error comes either.
 *
 * Two kinds of work are watched, each of pieces that take a moment: what becomes durable (appends to the journal, syncs), and
 * what reads or writes chunk files. Something is asked for, and nothing of its kind ends for HANG_NS: the disk hangs.
 * It is not the age of single jobs that counts, for a busy disk has a long queue, and one bad sector may take half a
 * minute. Stalls of some seconds are common on disks in order, and do no harm: two others acknowledge.
 *
 * Time counts by ticks, each for no more than twice its length: while the machine was suspended, or the process
 * stopped, no disk was waited for. What hangs may go on: then the disk is as good as it was.
 */
#include "storage/chunk_impl.h"

#include "common/log.h"

#define TICK_NS (500 * NS_PER_MS)
#define HANG_NS (5 * NS_PER_S)

static void watch_fire(struct env_timer *t)
{
    struct chunk_store *cs = container_of(t, struct chunk_store, watch.timer);
    struct watch *w = &cs->watch;
    uint64_t now = env_now(cs->env), passed = MIN(now - w->last, 2 * TICK_NS);
    bool hangs = false, asked = false;

    w->last = now;
    for (int i = 0; i < WATCHED; i++) {
        if (!w->asked[i] || w->ended[i] != w->seen[i])
            w->stuck[i] = 0;
        else
            w->stuck[i] += passed;
        w->seen[i] = w->ended[i];
        hangs = hangs || w->stuck[i] >= HANG_NS;
        asked = asked || w->asked[i];
    }
    if (hangs && !w->hangs)
        LOG_ERR("storage", "the disk hangs: nothing that was asked of it ends", "dir=%s", cs->dir);
    else if (!hangs && w->hangs)
        LOG_WARN("storage", "the disk hung, and goes on", "dir=%s", cs->dir);
    w->hangs = hangs;
    if (asked)
        env_timer_set(cs->env, t, now + TICK_NS);
}

void watch_open(struct chunk_store *cs)
{
    cs->watch.timer.fn = watch_fire;
}

void watch_close(struct chunk_store *cs)
{
    env_timer_cancel(cs->env, &cs->watch.timer);
}

void watch_begin(struct chunk_store *cs, enum watched kind)
{
    struct watch *w = &cs->watch;

    if (kind == WATCH_NONE)
        return;
    w->asked[kind]++;
    if (!env_timer_armed(&w->timer)) {
        w->last = env_now(cs->env);
        env_timer_set(cs->env, &w->timer, w->last + TICK_NS);
    }
}

void watch_end(struct chunk_store *cs, enum watched kind)
{
    if (kind == WATCH_NONE)
        return;
    ASSERT(cs->watch.asked[kind] > 0);
    cs->watch.asked[kind]--;
    cs->watch.ended[kind]++;
}
