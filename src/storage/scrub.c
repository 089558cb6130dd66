/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scrub: everything this store has is read from the disk and checked, slowly, again and again.
 *
 *   IDLE ──► index and journal (a job) ──► placement group after group, page after page of chunks:
 *     ▲        ask the leader whose inodes live ──► read a chunk ──► wait for the rate ──► the next     ──┐
 *     └───────────────────────────────────────────── all groups done ◄────────────────────────────────────┘
 *
 * A chunk that does not match its checksums becomes a patient (scrub_repair.c) in the very read. Chunks of inodes that
 * are gone, and blocks that a truncate left behind, are removed: the leader's answer is a linearizable read, inode
 * numbers are never used again and horizon entries mean what a trim means (PROTOCOL 5.3, 5.4), so neither can be in use.
 * A bad record of the journal is no loss while the process lives: all of it is brought to its place, and the segment goes.
 * A damaged index ends the process (chunk_store_options.fatal).
 *
 * When each group was read last, and the totals, are kept in two copies (durable.h); losing them loses nothing else.
 */
#include <stdio.h>

#include "common/le.h"
#include "common/log.h"
#include "common/test_rules.h"
#include "storage/scrub_int.h"

#define RATE_DEFAULT (32u << 20)
#define INTERVAL_NS (7 * 24 * 3600 * NS_PER_S)
#define ASK_NS NS_PER_S
#define IDLE_NS (500 * NS_PER_MS)
#define SAVE_EVERY_NS (10 * NS_PER_S)
#define CHUNKS_MAX 64 /* of one request */
#define HEAD_BYTES 56
#define SCRUB_VERSION 1

/* ---- what is kept ------------------------------------------------------------------------------------------------- */

static void totals(const struct scrub *c, uint64_t *found, uint64_t *repaired)
{
    struct chunk_store_stats st;

    chunk_store_stats(c->s->cs, &st);
    *found = c->found + st.corrupt;
    *repaired = c->repaired + st.repaired;
}

static void load(struct scrub *c)
{
    struct buf *b = NULL;
    uint32_t n;

    if (durable_load(&c->file, &b) < 0)
        return;
    n = b->len >= HEAD_BYTES ? (b->len - HEAD_BYTES) / 8 : 0;
    if (b->len >= HEAD_BYTES && get64(b->data) == SCRUB_VERSION && get64(b->data + 8) == c->s->id.store &&
        get64(b->data + 48) == n && n <= 65536) {
        c->found = get64(b->data + 16);
        c->repaired = get64(b->data + 24);
        c->begun = get64(b->data + 32);
        c->ended = get64(b->data + 40);
        c->n_pgs = n;
        c->verified = tc_calloc(n + 1, sizeof(*c->verified));
        for (uint32_t i = 0; i < n; i++)
            c->verified[i] = get64(b->data + HEAD_BYTES + 8 * i);
    }
    buf_unref(b);
}

static void save_run(struct env_job *j)
{
    struct scrub *c = container_of(j, struct scrub, save_job);

    if (durable_save(&c->file, slice_of(c->saving->data, c->saving->len)) < 0)
        LOG_WARN("storage", "progress of the scrub cannot be stored", "node=%u", c->s->cfg.node);
}

static void save_done(struct env_job *j)
{
    struct scrub *c = container_of(j, struct scrub, save_job);

    c->s->busy--;
    c->save_busy = false;
    c->saving = buf_unref(c->saving);
}

static void save(struct scrub *c)
{
    uint64_t found, repaired;
    uint8_t *p;

    c->saving = buf_new(HEAD_BYTES + 8 * c->n_pgs);
    c->saving->len = c->saving->cap;
    totals(c, &found, &repaired);
    p = c->saving->data;
    put64(p, SCRUB_VERSION);
    put64(p + 8, c->s->id.store);
    put64(p + 16, found);
    put64(p + 24, repaired);
    put64(p + 32, c->begun);
    put64(p + 40, c->ended);
    put64(p + 48, c->n_pgs);
    for (uint32_t i = 0; i < c->n_pgs; i++)
        put64(p + HEAD_BYTES + 8 * i, c->verified[i]);
    c->save_wanted = false;
    c->saved_at = env_now(c->s->env);
    c->save_busy = true;
    c->s->busy++;
    c->save_job.run = save_run;
    c->save_job.done = save_done;
    env_job_submit(c->s->env, &c->s->jobs, &c->save_job);
}

/* ---- the walk: what belongs to nobody ------------------------------------------------------------------------------ */

static void again(struct scrub *c)
{
    env_timer_set(c->s->env, &c->timer, env_now(c->s->env));
}

static void asked(struct rpc_call *call, const struct rpc_reply *reply)
{
    struct walk *w = container_of(call, struct walk, ask);
    struct scrub *c = container_of(w, struct scrub, walk);
    struct wire_arena a = {0};
    struct ino_check_res res;

    if (c->s->closing)
        return;
    w->asked = true;
    memset(w->states, 0, sizeof w->states);
    w->n_trims = 0;
    if (reply->status == 0 && wire_decode(reply->body, &ino_check_res_schema, &a, &res) == 0 && res.states.n == w->n) {
        memcpy(w->states, res.states.p, w->n);
        w->n_trims = MIN(res.trims.n, (uint32_t)ARRAY_SIZE(w->trims));
        for (uint32_t i = 0; i < w->n_trims; i++)
            w->trims[i] = res.trims.items[i];
    }
    wire_arena_fini(&a);
    again(c);
}

static void ask(struct scrub *c)
{
    struct walk *w = &c->walk;
    uint64_t inos[SCRUB_PAGE];
    struct ino_check_req req = {.inos = {inos, w->n}};

    for (uint32_t i = 0; i < w->n; i++)
        inos[i] = w->page[i].key.ino;
    w->ask.done = asked;
    rpc_call(leader_current(c->s), &w->ask, MSG_INO_CHECK, &ino_check_req_schema, &req, NULL, ASK_NS);
}

static void dropped(struct chunk_drop_op *op, int status TC_UNUSED)
{
    free(op); /* a failed one is found again */
}

static void drop(struct scrub *c, const struct chunk_key *key)
{
    struct chunk_drop_op *op = tc_calloc(1, sizeof(*op));

    *op = (struct chunk_drop_op){.key = *key, .done = dropped};
    if (chunk_store_drop(c->s->cs, op) < 0)
        free(op);
    else
        c->walk.dropped++;
    LOG_INFO("storage", "a chunk of an inode that is gone is removed", "ino=%llu index=%u", (unsigned long long)key->ino,
             key->index);
}

static void trimmed(struct chunk_trim_op *op, int status TC_UNUSED)
{
    free(op);
}

/* Blocks of the chunk just read that a truncate left behind, or that came back from a store which had not trimmed yet. */
static void trim_left(struct scrub *c, const struct chunk_read *rd)
{
    struct walk *w = &c->walk;
    uint64_t start = (uint64_t)rd->key.index * CHUNK_SIZE;

    for (uint32_t i = 0; i < w->n_trims; i++) {
        const struct ino_trim *t = &w->trims[i];
        struct chunk_trim_op *op;
        bool any = false;

        if (t->at != w->at)
            continue;
        for (uint32_t b = 0; b < rd->count; b++)
            any = any || (rd->blocks[b].vepoch && rd->blocks[b].vepoch < t->epoch && start + (uint64_t)b * BLOCK_SIZE >= t->size);
        if (!any)
            continue;
        op = tc_calloc(1, sizeof(*op));
        *op = (struct chunk_trim_op){.ino = rd->key.ino, .size = t->size, .epoch = t->epoch, .from = rd->key.index,
                                     .to = rd->key.index + 1, .pg_count = c->s->map->pg_count, .done = trimmed};
        if (chunk_store_trim(c->s->cs, op) < 0)
            free(op);
        else
            w->trimmed++;
    }
}

/* ---- the walk: index and journal -------------------------------------------------------------------------------------- */

static void check_run(struct env_job *j)
{
    struct walk *w = container_of(j, struct walk, job);
    struct scrub *c = container_of(w, struct scrub, walk);

    w->journal_bad = chunk_store_check_journal(c->s->cs, w->journal_from);
    w->index_status = chunk_store_check_index(c->s->cs);
    chunk_store_recount_run(c->s->cs, &w->recount);
}

static void check_done(struct env_job *j)
{
    struct walk *w = container_of(j, struct walk, job);
    struct scrub *c = container_of(w, struct scrub, walk);

    c->s->busy--;
    w->checking = false;
    chunk_store_recount_end(c->s->cs, &w->recount);
    if (w->journal_bad) {
        c->found++;
        c->repaired++;
        LOG_ERR("storage", "a record of the journal is damaged on disk: all of it goes to its place now",
                "node=%u pos=%llu", c->s->cfg.node, (unsigned long long)w->journal_bad);
        chunk_store_renew_journal(c->s->cs);
    }
    if (w->index_status == -TC_E_DAMAGED) {
        c->found++;
        server_damaged(c->s, "the index is damaged");
        return;
    }
    if (w->index_status < 0) {
        LOG_ERR("storage", "the index cannot be read, or not all of it", "node=%u err=%s", c->s->cfg.node, tc_error_name(w->index_status));
        chunk_store_disk_error(c->s->cs);
    }
    again(c);
}

static void check(struct scrub *c)
{
    c->walk.checking = true;
    c->walk.journal_from = chunk_store_journal_begin(c->s->cs);
    chunk_store_recount_begin(c->s->cs, &c->walk.recount);
    c->walk.job.run = check_run;
    c->walk.job.done = check_done;
    c->s->busy++;
    env_job_submit(c->s->env, &c->s->jobs, &c->walk.job);
}

/* ---- the walk: chunks -------------------------------------------------------------------------------------------------- */

static uint64_t leader_time(const struct storage_server *s)
{
    return s->time_off ? s->time_off + env_now(s->env) : 0;
}

static void pass_begin(struct scrub *c, bool resumed)
{
    struct walk *w = &c->walk;

    if (!resumed)
        c->begun = MAX(leader_time(c->s), c->begun + 1);
    w->running = true;
    w->pg = 0;
    w->in_pg = w->asked = false;
    w->n = w->at = 0;
    w->chunks = w->bytes = w->dropped = w->trimmed = 0;
    w->rate = c->s->cfg.scrub_rate ? c->s->cfg.scrub_rate : RATE_DEFAULT;
    w->next_at = env_now(c->s->env);
    if (c->n_pgs != c->s->map->pg_count) {
        free(c->verified);
        c->n_pgs = c->s->map->pg_count;
        c->verified = tc_calloc(c->n_pgs + 1, sizeof(*c->verified));
    }
    c->save_wanted = true;
    LOG_INFO("storage", resumed ? "scrub goes on" : "scrub begins", "node=%u rate=%llu", c->s->cfg.node,
             (unsigned long long)w->rate);
    check(c);
}

static void pass_end(struct scrub *c)
{
    struct walk *w = &c->walk;
    uint64_t found, repaired;

    w->running = false;
    c->ended = MAX(leader_time(c->s), c->begun);
    c->save_wanted = true;
    totals(c, &found, &repaired);
    LOG_INFO("storage", "scrub is done",
             "node=%u chunks=%llu bytes=%llu dropped=%llu trimmed=%llu found=%llu repaired=%llu unrepaired=%u",
             c->s->cfg.node, (unsigned long long)w->chunks, (unsigned long long)w->bytes, (unsigned long long)w->dropped,
             (unsigned long long)w->trimmed, (unsigned long long)found, (unsigned long long)repaired, c->n_failed);
}

static void chunk_read_done(struct chunk_read_op *op)
{
    struct walk *w = container_of(op, struct walk, read);
    struct scrub *c = container_of(w, struct scrub, walk);
    uint64_t bytes = 512 + (op->payload ? op->payload->len : 0), now = env_now(c->s->env);

    if (w->item.status == 0)
        trim_left(c, &w->item);
    chunk_read_op_fini(op);
    w->reading = false;
    w->chunks++;
    w->bytes += bytes;
    w->at++;
    w->next_at = MAX(w->next_at, now) + bytes * NS_PER_S / w->rate;
    env_timer_set(c->s->env, &c->timer, MAX(w->next_at, now));
}

static void chunk_check(struct scrub *c, const struct chunk_key *key)
{
    struct walk *w = &c->walk;

    w->item = (struct chunk_read){.key = *key, .count = BLOCKS_PER_CHUNK, .data = true};
    w->read = (struct chunk_read_op){.items = &w->item, .n = 1, .from_disk = true, .done = chunk_read_done};
    w->reading = true;
    chunk_store_read(c->s->cs, &w->read);
}

/* Before its end; not gone on with after a restart. */
static void stop(struct scrub *c)
{
    c->walk.running = false;
    c->ended = MAX(c->ended, c->begun);
    c->save_wanted = true;
}

/* The next page of the group at hand, or the next group. False: an error ended the pass. */
static bool page_next(struct scrub *c)
{
    struct walk *w = &c->walk;
    struct storage_server *s = c->s;
    struct chunk_key after = w->n ? w->page[w->n - 1].key : (struct chunk_key){0};
    bool resume = w->in_pg && w->n;
    int r;

    if (w->in_pg && w->eof) {
        c->verified[w->pg] = MAX(leader_time(s), c->begun);
        w->pg++;
        w->in_pg = resume = false;
    }
    while (!w->in_pg && w->pg < c->n_pgs && (!map_is_voter(&s->map->pgs[w->pg], s->id.store) || c->verified[w->pg] >= c->begun))
        w->pg++;
    w->n = w->at = 0;
    w->asked = false;
    if (w->pg >= c->n_pgs) {
        pass_end(c);
        return true;
    }
    w->in_pg = true;
    w->n = SCRUB_PAGE;
    r = chunk_store_manifest(s->cs, w->pg, resume ? &after : NULL, w->page, &w->n, &w->eof);
    if (r < 0) { /* this group and those behind it were not read, and do not count as that */
        LOG_ERR("storage", "the scrub ends: the index cannot be read", "node=%u err=%s", s->cfg.node, tc_error_name(r));
        w->n = 0;
        stop(c);
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->page[i].damaged)
            scrub_damaged(s, &w->page[i].key);
    }
    return r == 0;
}

/* One step; returns when the next is due, UINT64_MAX if something will call. */
static uint64_t walk_step(struct scrub *c)
{
    struct walk *w = &c->walk;
    uint64_t now = env_now(c->s->env);

    if (w->checking || w->reading || rpc_pending(&w->ask))
        return UINT64_MAX;
    if (now < w->next_at)
        return w->next_at;
    while (w->at < w->n && w->asked && (w->states[w->at] == 2 || (w->states[w->at] == 0 && !TC_RULE(GONE_UNKNOWN))))
        drop(c, &w->page[w->at++].key);
    if (w->at < w->n && !w->asked) {
        ask(c);
        return UINT64_MAX;
    }
    if (w->at < w->n) {
        chunk_check(c, &w->page[w->at].key);
        return UINT64_MAX;
    }
    for (uint32_t looked = 0; looked < 64 && w->running; looked++) { /* empty groups are many */
        if (!page_next(c))
            return now + IDLE_NS;
        if (w->n)
            break;
    }
    return now;
}

static bool pass_due(const struct scrub *c)
{
    uint64_t every = c->s->cfg.scrub_interval_ns ? c->s->cfg.scrub_interval_ns : INTERVAL_NS;

    return every != UINT64_MAX && leader_time(c->s) > c->begun + every;
}

static void tick(struct env_timer *t)
{
    struct scrub *c = container_of(t, struct scrub, timer);
    struct storage_server *s = c->s;
    uint64_t now = env_now(s->env), next = now + IDLE_NS;

    if (s->fatal_told)
        return;
    next = MIN(next, patients_run(c));
    if (s->map && s->map->pgs && s->registered && s->time_off) {
        if (!c->begun) {
            c->begun = c->ended = leader_time(s); /* a new store: nothing is old yet */
            c->save_wanted = true;
        }
        if (!c->walk.running && c->begun > c->ended)
            pass_begin(c, true);
        else if (!c->walk.running && pass_due(c))
            pass_begin(c, false);
        if (c->walk.running)
            next = MIN(next, walk_step(c));
    }
    if (c->save_wanted && !c->save_busy && now >= c->saved_at + SAVE_EVERY_NS)
        save(c);
    if (!env_timer_armed(t) || t->at > next)
        env_timer_set(s->env, t, MAX(next, now));
}

/* ---- requests ----------------------------------------------------------------------------------------------------------- */

static void report(struct request *q)
{
    struct storage_server *s = q->s;
    struct scrub *c = s->scrub;
    const struct walk *w = &c->walk;
    const struct scrub_req *req = &q->u.scrub;
    char verified[CHUNKS_MAX * 24] = "";
    struct aside aside = aside_keeper_now(s->aside);
    uint64_t found, repaired;
    struct status_res res;
    size_t at = 0;
    char *json;

    for (uint32_t i = 0; i < req->indexes.n && s->map; i++) {
        uint64_t pg = map_pg_of(s->map, req->ino, (uint32_t)req->indexes.items[i]);

        at += (size_t)snprintf(verified + at, sizeof verified - at, "%s%llu", i ? "," : "",
                               (unsigned long long)(pg < c->n_pgs ? c->verified[pg] : 0));
    }
    totals(c, &found, &repaired);
    json = tc_asprintf("{\"node\":%u,\"store\":\"%016llx\",\"running\":%s,\"permille\":%u,\"rate\":%llu,\"chunks\":%llu,"
                       "\"bytes\":%llu,\"dropped\":%llu,\"trimmed\":%llu,\"begun\":%llu,\"ended\":%llu,\"found\":%llu,"
                       "\"repaired\":%llu,\"damaged\":%u,\"unrepaired\":%u,\"read_chunks\":%u,\"read_blocks\":%llu,"
                       "\"read_damaged\":%u,"
                       "\"unknown\":%u,\"aside\":%u,\"aside_bytes\":%llu,\"cleaning\":%s,\"verified\":[%s]}",
                       s->cfg.node, (unsigned long long)s->id.store, w->running ? "true" : "false", scrub_permille(s),
                       (unsigned long long)w->rate, (unsigned long long)w->chunks, (unsigned long long)w->bytes,
                       (unsigned long long)w->dropped, (unsigned long long)w->trimmed, (unsigned long long)c->begun,
                       (unsigned long long)c->ended, (unsigned long long)found, (unsigned long long)repaired,
                       patients_count(c), c->n_failed, q->at,
                       (unsigned long long)q->scrubbed, q->damaged, q->unknown, aside.n, (unsigned long long)aside.bytes,
                       aside.busy ? "true" : "false", verified);
    res.json = wire_str_of(json);
    request_reply(q, 0, &status_res_schema, &res, NULL);
    free(json);
}

static void chunks_step(struct request *q);

static void chunks_read(struct chunk_read_op *op)
{
    struct request *q = container_of(op, struct request, op.read);

    q->scrubbed += op->payload ? op->payload->len / BLOCK_SIZE : 0;
    for (uint32_t b = 0; op->items[0].status == 0 && b < BLOCKS_PER_CHUNK; b++)
        q->damaged += op->items[0].blocks[b].kind == RUN_UNKNOWN;
    chunk_read_op_fini(op);
    q->at++;
    chunks_step(q);
}

static void chunks_step(struct request *q)
{
    struct storage_server *s = q->s;
    const struct scrub_req *req = &q->u.scrub;

    while (q->at < req->indexes.n) {
        uint32_t index = (uint32_t)req->indexes.items[q->at];
        struct chunk_read *rd = q->items;
        struct chunk_key key = {map_pg_of(s->map, req->ino, index), req->ino, index, 0};

        if (!map_is_voter(&s->map->pgs[key.pg], s->id.store)) {
            q->at++;
            continue;
        }
        *rd = (struct chunk_read){.key = key, .count = BLOCKS_PER_CHUNK, .data = true};
        q->op.read = (struct chunk_read_op){.items = rd, .n = 1, .from_disk = true, .done = chunks_read};
        chunk_store_read(s->cs, &q->op.read);
        return;
    }
    for (uint32_t i = 0; i < req->indexes.n; i++) {
        uint32_t index = (uint32_t)req->indexes.items[i];
        struct chunk_key key = {map_pg_of(s->map, req->ino, index), req->ino, index, 0};

        q->unknown += chunk_store_unknown(s->cs, &key, NULL);
    }
    report(q);
}

void handle_scrub(struct request *q)
{
    struct storage_server *s = q->s;
    const struct scrub_req *req = &q->u.scrub;
    struct scrub *c = s->scrub;

    if (!s->map || !s->map->pgs || !s->registered) {
        request_reply(q, -TC_E_NO_MAP, NULL, NULL, NULL);
        return;
    }
    if (req->indexes.n > CHUNKS_MAX) {
        request_reply(q, -TC_E_LIMIT, NULL, NULL, NULL);
        return;
    }
    switch (req->action) {
    case SCRUB_CHUNKS:
        free(q->items);
        q->items = tc_calloc(1, sizeof(struct chunk_read));
        chunks_step(q);
        return;
    case SCRUB_START:
        if (!c->walk.running)
            pass_begin(c, false);
        if (req->rate)
            c->walk.rate = req->rate;
        again(c);
        break;
    case SCRUB_STOP:
        if (c->walk.running)
            LOG_INFO("storage", "scrub is stopped", "node=%u", s->cfg.node);
        stop(c);
        break;
    case SCRUB_CLEAN:
        aside_keeper_clean(s->aside);
        break;
    default:
        break;
    }
    report(q);
}

/* ---- what beats say, opening, closing ----------------------------------------------------------------------------------- */

uint32_t scrub_permille(const struct storage_server *s)
{
    const struct scrub *c = s->scrub;

    return c->walk.running ? 1 + (uint32_t)(UINT64_C(998) * c->walk.pg / MAX(c->n_pgs, 1u)) : 0;
}

void scrub_beat(struct storage_server *s, struct store_beat_req *req)
{
    const struct scrub *c = s->scrub;

    totals(c, &req->found, &req->repaired);
    req->unrepaired = c->n_failed;
    req->scrubbed = c->ended;
    req->scrub_permille = scrub_permille(s);
}

void scrub_open(struct storage_server *s)
{
    struct scrub *c = tc_calloc(1, sizeof(*c));

    c->s = s;
    c->timer.fn = tick;
    durable_init(&c->file, s->vfs, s->dir, "scrub");
    load(c);
    s->scrub = c;
    env_timer_set(s->env, &c->timer, env_now(s->env) + IDLE_NS);
}

void scrub_close(struct storage_server *s)
{
    struct scrub *c = s->scrub;

    if (!c)
        return;
    env_timer_cancel(s->env, &c->timer);
    rpc_cancel(&c->walk.ask);
    if (c->walk.checking) { /* its job was killed */
        c->walk.recount.whole = false;
        chunk_store_recount_end(s->cs, &c->walk.recount);
    }
    if (c->walk.reading) {
        env_defer_cancel(s->env, &c->walk.read.task);
        chunk_read_op_fini(&c->walk.read);
    }
    patients_free(c);
    durable_fini(&c->file);
    buf_unref(c->saving);
    free(c->verified);
    free(c);
    s->scrub = NULL;
}
