/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts: killed yes, EINTR no (docs/FUSE.md 2). The kernel sends one INTERRUPT for the first signal of any
 * kind; a call of a local filesystem would ignore all but a fatal one. What tells is SIGKILL among the pending
 * signals of the thread, which the kernel sets for every signal that will end it. So an interrupted request is
 * looked at now and every 50 ms until it is answered. A lock that is waited for is given up for any signal, as locally.
 */
#include "fuse/fuse_internal.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define INTERRUPT_LOOK_EVERY (50 * NS_PER_MS)

/* Runs inside fuse_session_process_buf(), under the request's lock: only note it. */
void fop_on_interrupt(fuse_req_t req TC_UNUSED, void *arg)
{
    struct fop *op = arg;

    op->interrupted = true;
    env_timer_set(op->m->env, &op->m->interrupt_timer, env_now(op->m->env));
}

static bool is_dying(pid_t tid)
{
    unsigned long long pending = 0;
    char path[64], line[256];
    bool found = false;
    FILE *f;

    if (tid == 0)
        return true;
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
    f = fopen(path, "re");
    if (!f)
        return true; /* gone, or hidden from us: treat as fatal */
    while (!found && fgets(line, sizeof(line), f))
        found = sscanf(line, "SigPnd: %llx", &pending) == 1;
    (void)fclose(f);
    return !found || (pending & (1ULL << (SIGKILL - 1)));
}

void interrupt_tick(struct env_timer *t)
{
    struct tc_mount *m = container_of(t, struct tc_mount, interrupt_timer);
    struct fop *op, *tmp;
    bool again = false;

    DL_FOREACH_SAFE(m->ops, op, tmp)
    {
        if (!op->interrupted)
            continue;
        if (op->call && (op->any_signal || is_dying(fuse_req_ctx(op->req)->pid))) {
            op->interrupted = false; /* once */
            tc_client_cancel(m->client, op->call);
        } else {
            again = true;
        }
    }
    if (again)
        env_timer_set(m->env, t, env_now(m->env) + INTERRUPT_LOOK_EVERY);
}
