/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads without the lease: the core is asked once for all reads of a turn, and the owner is told from the work
 * task, where what it reads is the applied state.
 */
#include "meta/replica_int.h"

void replica_read(struct replica *r, void *cookie)
{
    if (r->n_reads == r->cap_reads) {
        r->cap_reads = r->cap_reads ? r->cap_reads * 2 : 64;
        r->reads = tc_realloc(r->reads, r->cap_reads * sizeof r->reads[0]);
    }
    r->reads[r->n_reads++] = (struct replica_read_wait){.cookie = cookie};
    env_defer(r->env, &r->flush_task);
}

static void reads_over(struct replica *r, uint64_t seq, int err)
{
    for (size_t i = 0; i < r->n_reads; i++) {
        if (r->reads[i].seq != seq || r->reads[i].over)
            continue;
        r->reads[i].over = true;
        r->reads[i].err = err;
    }
    replica_work(r);
}

void replica_reads_ask(struct replica *r)
{
    struct raft_event ev = {.type = RAFT_EV_READ, .seq = r->read_seq + 1};
    bool any = false;
    int err;

    for (size_t i = 0; i < r->n_reads; i++) {
        any = any || r->reads[i].seq == 0;
        if (r->reads[i].seq == 0)
            r->reads[i].seq = ev.seq;
    }
    if (!any)
        return;
    r->read_seq++;
    err = replica_step_err(r, &ev);
    if (err < 0)
        reads_over(r, ev.seq, -TC_E_NOT_LEADER);
}

void replica_reads_told(struct replica *r, const struct raft_update *up)
{
    for (uint32_t i = 0; i < up->n_reads; i++)
        reads_over(r, up->reads[i].seq, up->reads[i].failed ? -TC_E_NOT_LEADER : 0);
}

void replica_reads_work(struct replica *r)
{
    size_t n = 0;

    /* A callback may bring new ones: those stand behind, and are not over. */
    for (size_t i = 0; i < r->n_reads && !r->closing; i++) {
        struct replica_read_wait w = r->reads[i];

        if (w.over)
            r->ops->read_done(r->arg, w.cookie, w.err);
        else
            r->reads[n++] = w;
    }
    if (!r->closing)
        r->n_reads = n;
}
