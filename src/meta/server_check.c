/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member reads its own files again while it runs, now and then and by command (tercet scrub): the log (replica_check.c),
 * then the store. So damage is found while the others are whole.
 *
 * What the log's files hold is in memory and written anew at once. A damaged store ends this life of the member: the next
 * one sets it aside and is filled by the others. The only member of a group goes on, and says so: nobody could fill it.
 */
#include <stdio.h>

#include "common/log.h"
#include "meta/server_internal.h"

#define FIRST_NS (3600 * NS_PER_S) /* times the id: not all at once, and also where nothing runs for a week */

static void check_end(struct meta_server *s)
{
    s->check.running = false;
    s->check.ended = server_time(s);
    LOG_INFO("meta", "files of this member were read again", "found=%u", s->check.found);
}

static void log_checked(void *arg, unsigned bad)
{
    struct meta_server *s = arg;

    for (; bad; bad &= bad - 1)
        s->check.found++;
    s->check.store = true;
    meta_server_checkpoint(s);
    if (!s->flush) { /* it ended, or has no store */
        s->check.store = false;
        check_end(s);
    }
}

void check_begin(struct meta_server *s)
{
    if (s->check.running || s->failed || !s->replica || !replica_check(s->replica, log_checked, s))
        return; /* the next tick tries again if it is due */
    s->check.running = true;
    s->check.due = env_now(s->env) + (s->cfg.check_interval_ns ? s->cfg.check_interval_ns : UINT64_MAX / 2);
}

void check_store_done(struct meta_server *s, int status)
{
    struct replica_status r;

    replica_get_status(s->replica, &r);
    if (status < 0) {
        s->check.found++;
        s->check.store_bad = true;
    }
    if (status < 0 && r.n_peers > 1)
        server_fail(s, -TC_E_DAMAGED, "the store (kv) is damaged: found when it was read again");
    else if (status < 0)
        LOG_ERR("meta", "the store (kv) is damaged, and no other member could fill this one: make a dump now", "dir=%s error=%s",
                s->dir, tc_error_name(status));
    check_end(s);
}

void check_tick(struct meta_server *s)
{
    if (!s->cfg.check_interval_ns)
        return;
    if (!s->check.due)
        s->check.due = s->started + MIN(s->cfg.check_interval_ns, s->cfg.id * FIRST_NS);
    if (env_now(s->env) >= s->check.due)
        check_begin(s);
}

/* MSG_SCRUB, as stores answer it. */
void check_request(struct meta_server *s, const struct request *q)
{
    const struct scrub_req *req = q->msg;
    struct status_res res;
    struct aside aside;
    char *json;

    if (req->action == SCRUB_START)
        check_begin(s);
    if (req->action == SCRUB_CLEAN && s->kept)
        aside_keeper_clean(s->kept);
    aside = aside_keeper_now(s->kept);
    json = tc_asprintf("{\"member\":%u,\"running\":%s,\"ended\":%llu,\"found\":%u,\"damaged\":%u,\"unrepaired\":%u,"
                       "\"aside\":%u,\"aside_bytes\":%llu,\"cleaning\":%s}", s->cfg.id,
                       s->check.running ? "true" : "false", (unsigned long long)s->check.ended, s->check.found,
                       s->check.store_bad, s->check.store_bad, aside.n, (unsigned long long)aside.bytes,
                       aside.busy ? "true" : "false");
    res.json = wire_str_of(json);
    server_reply(s, q->peer, q->id, q->type, 0, &status_res_schema, &res);
    free(json);
}
