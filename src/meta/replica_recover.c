/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way out when a majority of the members is lost for good: a member whose files are whole is made the only one.
 * Offline, between replica_open() and replica_close(); the replica is not started.
 *
 * A configuration entry that names this member alone is put behind its log, in a term well above all it has
 * seen. Whatever the lost ones had acknowledged and this one never got is gone; what it has and nobody committed
 * counts from now on. Members that were given up must never come back with their files: they could elect a leader of
 * their own among themselves. The leap of the term makes everybody who hears of both follow this one.
 */
#include <string.h>

#include "common/log.h"
#include "meta/replica_int.h"

#define TERM_LEAP 1000

struct recover {
    struct journal_req req;
    struct buf *record;
    void (*done)(void *arg, int err);
    void *arg;
};

static void on_written(struct journal_req *req, int status)
{
    struct recover *c = container_of(req, struct recover, req);

    c->done(c->arg, status);
    buf_unref(c->record);
    free(c);
}

/* A record of one configuration entry, as replica_log.c reads it. */
static struct buf *record_make(const struct replica *r, uint64_t index, uint64_t term)
{
    struct raft_config alone = {.n = 1, .members = {{r->id, r->state.incarnation, RAFT_VOTER}}};
    uint32_t head[2] = {REPLICA_RECORD_MAGIC, 1}, type = RAFT_ENTRY_CONFIG, len;
    uint8_t config[RAFT_CONFIG_BYTES_MAX];
    struct buf *b;

    len = raft_config_encode(&alone, config);
    b = buf_new(32 + len);
    memcpy(b->data, head, 8);
    memcpy(b->data + 8, &index, 8);
    memcpy(b->data + 16, &term, 8);
    memcpy(b->data + 24, &type, 4);
    memcpy(b->data + 28, &len, 4);
    memcpy(b->data + 32, config, len);
    b->len = 32 + len;
    return b;
}

void replica_recover(struct replica *r, void (*done)(void *arg, int err), void *arg)
{
    struct recover *c = tc_calloc(1, sizeof *c);
    struct raft_status s;
    struct iovec iov;
    uint64_t term;
    int err;

    ASSERT(!r->started);
    raft_get_status(r->core, &s);
    term = MAX(MAX(s.term, r->state.term), raft_term_at(r->core, s.last)) + TERM_LEAP;
    c->record = record_make(r, s.last + 1, term);
    c->done = done;
    c->arg = arg;
    c->req.done = on_written;
    iov = (struct iovec){c->record->data, c->record->len};
    r->state.term = term;
    r->state.vote = 0;
    r->state.seq++;
    err = replica_state_write(env_vfs(r->env), r->dir, &r->state);
    if (err == 0)
        err = journal_append(r->log, &iov, 1, &c->req);
    if (err < 0)
        on_written(&c->req, err);
}
