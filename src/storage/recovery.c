/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which chunks of which placement groups are due here.
 *
 *   BACKFILL  this store is a newcomer of a transition: every chunk of a quorum of C1, then it reports ready
 *   COMPARE   this store is a voter and may have missed writes: since it started, or since it was cut off
 *   SHED      this store is a newcomer and has remains of a former time as voter (joined.c): what a quorum of C1 does
 *             not have alike goes, then comes BACKFILL
 *   DROP      this store is no voter any more: what it has goes, after a while: it may be wanted again
 *
 * A PG's work: pages of manifests from a quorum of C1 (and from itself), LISTING; the chunks whose digests are not
 * equal everywhere are due, inodes that are gone are not (INO_CHECK), CHECKING; then one by one, HEALING. A few
 * PGs at a time, a few chunks at a time, fewer while clients are being served (pace.h). Groups that this store is to
 * become a voter of come first, and of these such as have a voter that does not answer.
 */
#include "common/log.h"
#include "common/test_rules.h"
#include "storage/server_int.h"

#define PGS_AT_ONCE 64 /* most have few chunks, and a moment of questions before the first is copied */
#define PAGE 1024
#define DUE_MAX 1000000              /* chunks of one PG */
#define RETRY_NS (500 * NS_PER_MS)
#define CALL_NS (5 * NS_PER_S)
#define HURRY_NS (200 * NS_PER_MS)   /* for the last, when a quorum has answered */
#define SWEEP_NS (600 * NS_PER_S)    /* every voter compares again so often: what a lost message left behind */
#define INOS_MAX 512
#define LOOK_NS (250 * NS_PER_MS)
#define DROP_AFTER_NS (30 * NS_PER_S)

enum work_kind { WORK_NONE, WORK_COMPARE, WORK_BACKFILL, WORK_DROP, WORK_SHED };
enum work_state { LISTING, CHECKING, HEALING };

struct due {
    struct chunk_key key;
    UT_hash_handle hh;
    uint64_t digest;
    uint32_t seen; /* sources that have it with this digest */
    bool local;    /* this store has the chunk at all */
    bool differ;
    bool dead;
    uint64_t begun;
    struct heal heal;
    struct chunk_drop_op drop;
    struct pg_work *w;
};

struct source {
    struct pg_work *w;
    struct rpc_call call;
    uint64_t store;
    struct chunk_key after;
    bool resume, done;
    int status;
};

struct pg_work {
    struct recovery *r;
    struct pg_work *prev, *next;
    uint64_t pg, epoch, map_epoch;
    enum work_kind kind;
    enum work_state state;
    struct source sources[PG_VOTERS_MAX];
    uint32_t n_sources, left;
    struct chunk_key local_after;
    bool local_resume, local_done;
    struct due *chunks; /* hash, in order of arrival */
    struct due *next_due, *check_from;
    uint32_t n_due, healing;
    int status;
    struct rpc_call check;
    struct due *checked[INOS_MAX];
    uint32_t n_checked;
    struct env_task task;
};

struct pg_state {
    uint64_t ready; /* epoch at which this newcomer was complete */
    uint64_t retry_at;
    uint8_t want;   /* enum work_kind */
    bool running;
    bool endangered; /* a voter does not answer */
};

struct recovery {
    struct storage_server *s;
    struct pg_state *pgs;
    uint32_t n_pgs, n_running, cursor, ready_cursor;
    uint64_t n_want, n_due; /* PGs to look at, chunks known to be due */
    uint64_t n_drop;        /* of n_want */
    uint64_t n_fill;        /* of n_want: to become a voter */
    uint32_t healing;
    uint64_t paused;        /* until then no chunk is begun */
    uint64_t looked;        /* time when it was looked who is endangered */
    struct pg_work *works;
    struct env_timer timer;
    uint64_t sweep_at;
    uint64_t healed;
};

static void work_step(struct pg_work *w);
static void run_more(struct recovery *r);

/* ---- the work of one PG: its end ------------------------------------------------------------------------------- */

static void work_free(struct pg_work *w)
{
    struct due *d, *tmp;

    for (uint32_t i = 0; i < w->n_sources; i++)
        rpc_cancel(&w->sources[i].call);
    rpc_cancel(&w->check);
    env_defer_cancel(w->r->s->env, &w->task);
    HASH_ITER(hh, w->chunks, d, tmp) {
        HASH_DEL(w->chunks, d);
        heal_cancel(&d->heal);
        free(d);
    }
    DL_DELETE(w->r->works, w);
    w->r->n_running--;
    w->r->n_due -= w->n_due;
    free(w);
}

static bool fills(enum work_kind kind)
{
    return kind == WORK_BACKFILL || kind == WORK_SHED;
}

static void want(struct recovery *r, uint64_t pg, enum work_kind kind)
{
    struct pg_state *p = &r->pgs[pg];

    r->n_want += kind != WORK_NONE;
    r->n_want -= p->want != WORK_NONE;
    r->n_fill += fills(kind);
    r->n_fill -= fills(p->want);
    r->n_drop += kind == WORK_DROP;
    r->n_drop -= p->want == WORK_DROP;
    if (kind == WORK_DROP && p->want != WORK_DROP)
        p->retry_at = env_now(r->s->env) + DROP_AFTER_NS;
    else if (p->want == WORK_DROP && kind != WORK_DROP)
        p->retry_at = 0;
    p->want = (uint8_t)kind;
}

static void work_end(struct pg_work *w, int status)
{
    struct recovery *r = w->r;
    struct storage_server *s = r->s;
    struct pg_state *p = &r->pgs[w->pg];
    bool current = s->map->pgs[w->pg].epoch == w->epoch;

    p->running = false;
    if (status == 0 && current) {
        if (w->kind == WORK_BACKFILL)
            p->ready = w->epoch;
        if (w->kind == WORK_SHED)
            s->shed[w->pg] = w->epoch; /* durable, then BACKFILL (survey) */
        want(r, w->pg, WORK_NONE);
    } else if (current) {
        p->retry_at = env_now(s->env) + RETRY_NS;
        LOG_DEBUG("storage", "recovery of a placement group failed, retrying", "pg=%llu err=%s",
                  (unsigned long long)w->pg, tc_error_name(status));
    } /* else the new map has said what is wanted */
    work_free(w);
    joined_kick(s);
    run_more(r);
}

/* ---- listing ------------------------------------------------------------------------------------------------------ */

static struct due *due_at(struct pg_work *w, const struct chunk_key *key)
{
    struct due *d;

    HASH_FIND(hh, w->chunks, key, sizeof(*key), d);
    if (d)
        return d;
    if (HASH_COUNT(w->chunks) >= DUE_MAX) {
        w->status = -TC_E_LIMIT;
        return NULL;
    }
    d = tc_calloc(1, sizeof(*d));
    d->key = *key;
    d->w = w;
    HASH_ADD(hh, w->chunks, key, sizeof(d->key), d);
    return d;
}

static void see(struct pg_work *w, const struct chunk_key *key, uint64_t digest, bool local)
{
    struct due *d = due_at(w, key);

    if (!d)
        return;
    if (!d->seen && !d->local)
        d->digest = digest;
    d->differ = d->differ || d->digest != digest || !digest; /* 0: damaged there */
    d->seen += !local;
    d->local = d->local || local;
}

static void source_ask(struct source *src, bool enough);

/* A quorum has answered: one that is hung must not hold up the rest. */
static void sources_hurry(struct pg_work *w)
{
    const struct map *m = w->r->s->map;
    uint32_t ok = map_is_c1(&m->pgs[w->pg], w->r->s->id.store);

    for (uint32_t i = 0; i < w->n_sources; i++)
        ok += w->sources[i].done && w->sources[i].status == 0;
    for (uint32_t i = 0; i < w->n_sources && ok >= m->r; i++)
        rpc_hurry(&w->sources[i].call, HURRY_NS);
}

static void source_on_page(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct source *src = container_of(c, struct source, call);
    struct pg_work *w = src->w;
    struct wire_arena a = {0};
    struct manifest_res res;
    int status = reply->status;

    if (w->r->s->closing)
        return;
    if (status == 0)
        status = wire_decode(reply->body, &manifest_res_schema, &a, &res);
    if (status == 0 && (res.pg_epoch != w->epoch || (!res.eof && !res.items.n)))
        status = -TC_E_STALE_EPOCH;
    for (uint32_t i = 0; status == 0 && i < res.items.n; i++) {
        const struct manifest_item *it = &res.items.items[i];

        src->after = (struct chunk_key){w->pg, it->ino, it->index, it->gen};
        see(w, &src->after, it->digest, false);
    }
    src->status = status;
    src->resume = true;
    src->done = status < 0 || res.eof;
    wire_arena_fini(&a);
    if (!src->done) {
        source_ask(src, false);
        return;
    }
    w->left--;
    sources_hurry(w);
    work_step(w);
}

static void source_ask(struct source *src, bool enough)
{
    struct pg_work *w = src->w;
    struct manifest_req req = {.barrier = w->map_epoch, .pg = w->pg, .pg_epoch = w->epoch, .max = PAGE,
                               .after_ino = src->after.ino, .after_index = src->after.index,
                               .after_gen = src->after.gen, .resume = src->resume, .store = src->store};
    struct rpc_link *l = server_peer(w->r->s, src->store);

    if (!l || (enough && rpc_silent(l))) {
        src->status = -TC_E_UNREACHABLE;
        src->done = true;
        w->left--;
        return;
    }
    src->call.done = source_on_page;
    rpc_call(l, &src->call, MSG_MANIFEST, &manifest_req_schema, &req, NULL, CALL_NS);
}

/* This store's own pages, one a turn. */
static void list_local(struct pg_work *w)
{
    struct storage_server *s = w->r->s;
    struct chunk_digest *d = tc_calloc(PAGE, sizeof(*d));
    uint32_t n = PAGE;
    bool eof;
    int r = chunk_store_manifest(s->cs, w->pg, w->local_resume ? &w->local_after : NULL, d, &n, &eof);

    for (uint32_t i = 0; r == 0 && i < n; i++) {
        w->local_after = d[i].key;
        if (d[i].damaged)
            scrub_damaged(s, &d[i].key);
        see(w, &d[i].key, d[i].damaged ? 0 : d[i].digest, true);
    }
    if (r < 0)
        w->status = r;
    w->local_resume = true;
    w->local_done = r < 0 || eof;
    free(d);
}

static void work_task(struct env_task *t)
{
    struct pg_work *w = container_of(t, struct pg_work, task);

    if (w->state == LISTING && !w->local_done) {
        list_local(w);
        if (!w->local_done) {
            env_defer(w->r->s->env, t);
            return;
        }
        w->left--;
    }
    work_step(w);
}

static int listing_end(struct pg_work *w)
{
    const struct map *m = w->r->s->map;
    const struct map_pg *pg = &m->pgs[w->pg];
    uint32_t ok = map_is_c1(pg, w->r->s->id.store), answered = 0;
    struct due *d, *tmp;

    for (uint32_t i = 0; i < w->n_sources; i++)
        answered += w->sources[i].status == 0;
    ok += answered;
    if (w->status < 0)
        return w->status;
    if (w->kind != WORK_DROP && ok < (TC_RULE(BACKFILL_QUORUM) ? MIN(m->r, (uint32_t)pg->n) : 1))
        return -TC_E_NO_QUORUM;
    HASH_ITER(hh, w->chunks, d, tmp) {
        bool same = d->local && !d->differ && d->seen == answered;

        if (w->kind == WORK_DROP || (!same && (w->kind != WORK_SHED || d->local)))
            continue;
        HASH_DEL(w->chunks, d);
        free(d);
    }
    w->n_due = HASH_COUNT(w->chunks);
    w->r->n_due += w->n_due;
    w->next_due = w->check_from = w->chunks;
    return 0;
}

/* ---- inodes that are gone ------------------------------------------------------------------------------------------- */

static void check_on_reply(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct pg_work *w = container_of(c, struct pg_work, check);
    struct wire_arena a = {0};
    struct ino_check_res res;

    if (w->r->s->closing)
        return;
    if (reply->status == 0 && wire_decode(reply->body, &ino_check_res_schema, &a, &res) == 0 &&
        res.states.n == w->n_checked) {
        for (uint32_t i = 0; i < w->n_checked; i++)
            w->checked[i]->dead = (res.states.p[i] == 2 && TC_RULE(GONE)) || (res.states.p[i] == 0 && !TC_RULE(GONE_UNKNOWN));
    } /* else unknown: kept, and copied */
    wire_arena_fini(&a);
    env_defer(w->r->s->env, &w->task);
}

/* false: all are asked for. */
static bool check_more(struct pg_work *w)
{
    struct storage_server *s = w->r->s;
    uint64_t inos[INOS_MAX];
    struct ino_check_req req = {.inos = {inos, 0}};

    w->n_checked = 0;
    while (w->check_from && w->n_checked < INOS_MAX) {
        struct due *d = w->check_from;

        w->check_from = d->hh.next;
        inos[w->n_checked] = d->key.ino;
        w->checked[w->n_checked++] = d;
    }
    if (!w->n_checked)
        return false;
    req.inos.n = w->n_checked;
    w->check.done = check_on_reply;
    rpc_call(leader_current(s), &w->check, MSG_INO_CHECK, &ino_check_req_schema, &req, NULL, NS_PER_S);
    return true;
}

/* ---- healing ------------------------------------------------------------------------------------------------------------ */

static void due_end(struct due *d, int status)
{
    struct pg_work *w = d->w;
    struct recovery *r = w->r;
    uint64_t now = env_now(r->s->env);

    if (status < 0) {
        w->status = status;
    } else {
        w->n_due--;
        r->n_due--;
        r->healed++;
    }
    w->healing--;
    r->healing--;
    pace_copied(&r->s->pace, now);
    r->paused = MAX(r->paused, now + pace_pause(&r->s->pace, now, now - d->begun));
    if (r->paused > now && r->paused < r->timer.at)
        env_timer_set(r->s->env, &r->timer, r->paused);
    work_step(w);
    run_more(r); /* another PG may have waited for this place */
}

static void heal_done(struct heal *h, int status)
{
    due_end(h->arg, status);
}

static void drop_done(struct chunk_drop_op *op, int status)
{
    due_end(op->owner, status);
}

/* May one more chunk be begun? */
static bool heal_turn(struct recovery *r)
{
    uint64_t now = env_now(r->s->env);

    return now >= r->paused && (!r->healing || (r->healing + 1) * PACE_ONE <= pace_window(&r->s->pace, now));
}

static bool heal_more(struct pg_work *w)
{
    struct recovery *r = w->r;
    struct storage_server *s = r->s;

    while (w->next_due && heal_turn(r) && w->status == 0) {
        struct due *d = w->next_due;

        w->next_due = d->hh.next;
        if (d->dead && !d->local) { /* never copied (PROTOCOL 5.4) */
            w->n_due--;
            r->n_due--;
            continue;
        }
        w->healing++;
        r->healing++;
        d->begun = env_now(s->env);
        pace_copied(&s->pace, d->begun);
        if (d->dead || w->kind == WORK_DROP || w->kind == WORK_SHED) {
            int status;

            d->drop = (struct chunk_drop_op){.key = d->key, .done = drop_done, .owner = d};
            status = chunk_store_drop(s->cs, &d->drop);
            if (status < 0) {
                w->healing--;
                r->healing--;
                w->status = status;
            }
            continue;
        }
        d->heal = (struct heal){.s = s, .key = d->key, .mode = HEAL_LOCAL,
                                .unsettled = w->kind == WORK_COMPARE, .done = heal_done, .arg = d};
        heal_start(&d->heal);
    }
    return w->healing > 0 || (w->next_due && w->status == 0);
}

/* ---- the work of one PG ---------------------------------------------------------------------------------------------------- */

static void work_step(struct pg_work *w)
{
    int r;

    switch (w->state) {
    case LISTING:
        if (w->left)
            return;
        r = listing_end(w);
        if (r < 0) {
            work_end(w, r);
            return;
        }
        w->state = w->kind == WORK_DROP || w->kind == WORK_SHED ? HEALING : CHECKING;
        env_defer(w->r->s->env, &w->task);
        return;
    case CHECKING:
        if (check_more(w))
            return;
        w->state = HEALING;
        /* fall through */
    case HEALING:
        if (w->r->s->map->pgs[w->pg].epoch != w->epoch && w->status == 0)
            w->status = -TC_E_STALE_EPOCH;
        if (!heal_more(w))
            work_end(w, w->status);
        return;
    }
}

/* Are there enough without those that let deadlines pass just now? */
static bool enough_heard(struct storage_server *s, const struct map_pg *p)
{
    uint32_t ok = map_is_c1(p, s->id.store);

    for (unsigned i = 0; i < p->n; i++) {
        struct rpc_link *l = p->voters[i] == s->id.store ? NULL : server_peer(s, p->voters[i]);

        ok += l && !rpc_silent(l);
    }
    return ok >= MIN(s->map->r, (uint32_t)p->n);
}

static void work_start(struct recovery *r, uint64_t pg, enum work_kind kind)
{
    struct storage_server *s = r->s;
    const struct map_pg *p = &s->map->pgs[pg];
    struct pg_work *w = tc_calloc(1, sizeof(*w));
    bool enough = enough_heard(s, p);

    w->r = r;
    w->pg = pg;
    w->epoch = p->epoch;
    w->map_epoch = s->map->epoch;
    w->kind = kind;
    w->state = LISTING;
    w->task.fn = work_task;
    w->left = 1; /* this store's own */
    r->pgs[pg].running = true;
    r->n_running++;
    DL_APPEND(r->works, w);
    for (unsigned i = 0; i < p->n && kind != WORK_DROP; i++) {
        if (p->voters[i] == s->id.store)
            continue;
        w->sources[w->n_sources] = (struct source){.w = w, .store = p->voters[i]};
        w->left++;
        source_ask(&w->sources[w->n_sources++], enough);
    }
    env_defer(s->env, &w->task);
}

/* ---- all of them --------------------------------------------------------------------------------------------------------------- */

static int urgency_of(const struct pg_state *p)
{
    return fills(p->want) ? 1 + p->endangered : 0;
}

/* Of the groups to be filled from others: those with a voter that has not answered, and not been heard since. */
static void look_for_endangered(struct recovery *r)
{
    struct storage_server *s = r->s;

    if (!r->n_fill || env_now(s->env) < r->looked + LOOK_NS)
        return;
    r->looked = env_now(s->env);
    for (uint32_t i = 0; i < r->n_pgs; i++) {
        const struct map_pg *pg = &s->map->pgs[i];

        r->pgs[i].endangered = false;
        for (unsigned v = 0; v < pg->n && fills(r->pgs[i].want); v++) {
            struct rpc_link *l = pg->voters[v] == s->id.store ? NULL : server_peer(s, pg->voters[v]);

            r->pgs[i].endangered = r->pgs[i].endangered || (l && l->silent);
        }
    }
}

static void run_more(struct recovery *r)
{
    struct storage_server *s = r->s;
    uint64_t now = env_now(s->env);
    struct pg_work *w, *tmp;

    if (!s->map || !s->map->pgs || !s->registered)
        return;
    DL_FOREACH_SAFE(r->works, w, tmp) {
        if (w->state == HEALING && w->next_due && heal_turn(r)) {
            env_defer(s->env, &w->task);
        }
    }
    for (int urgency = r->n_fill ? 2 : 0; urgency >= 0; urgency--) {
        for (uint32_t looked = 0; looked < r->n_pgs && r->n_running < PGS_AT_ONCE && r->n_want; looked++) {
            uint64_t pg = r->cursor++ % r->n_pgs;
            struct pg_state *p = &r->pgs[pg];

            if (p->want != WORK_NONE && !p->running && now >= p->retry_at && urgency_of(p) >= urgency)
                work_start(r, pg, p->want);
        }
    }
}

static void compare_all(struct recovery *r)
{
    struct storage_server *s = r->s;

    for (uint32_t i = 0; i < r->n_pgs && TC_RULE(COMPARE); i++) {
        if (map_is_c1(&s->map->pgs[i], s->id.store) && s->map->pgs[i].n > 1 && r->pgs[i].want == WORK_NONE)
            want(r, i, WORK_COMPARE);
    }
    r->sweep_at = env_now(s->env) + SWEEP_NS;
}

static void tick(struct env_timer *t)
{
    struct recovery *r = container_of(t, struct recovery, timer);
    struct storage_server *s = r->s;

    if (r->n_pgs && env_now(s->env) >= r->sweep_at)
        compare_all(r);
    look_for_endangered(r);
    run_more(r);
    env_timer_set(s->env, t, env_now(s->env) + 50 * NS_PER_MS);
}

/* What each PG is to this store under the map as it is now. */
static void survey(struct recovery *r)
{
    struct storage_server *s = r->s;

    for (uint32_t i = 0; i < r->n_pgs; i++) {
        const struct map_pg *pg = &s->map->pgs[i];
        struct pg_state *p = &r->pgs[i];

        if (map_is_c1(pg, s->id.store)) {
            if (p->want == WORK_BACKFILL || p->want == WORK_DROP || p->want == WORK_SHED)
                want(r, i, p->want == WORK_DROP ? WORK_COMPARE : WORK_NONE);
        } else if (map_is_voter(pg, s->id.store)) {
            if (joined_not(s, i)) {
                if (s->shed[i] != pg->epoch && s->joined_next[i] == 0)
                    want(r, i, WORK_SHED);
            } else if (p->ready != pg->epoch)
                want(r, i, WORK_BACKFILL);
        } else {
            want(r, i, pg->n_next ? WORK_NONE : WORK_DROP);
        }
    }
}

void recovery_map_changed(struct storage_server *s)
{
    struct recovery *r = s->recovery;

    if (!s->map->pgs)
        return;
    if (!r->n_pgs) {
        r->n_pgs = s->map->pg_count;
        r->pgs = tc_calloc(r->n_pgs, sizeof(*r->pgs));
        r->sweep_at = env_now(s->env) + SWEEP_NS;
    }
    survey(r);
    run_more(r);
}

void recovery_cut_off(struct storage_server *s)
{
    if (s->recovery->n_pgs)
        compare_all(s->recovery);
}

uint64_t recovery_behind(const struct storage_server *s)
{
    return s->recovery->n_want - s->recovery->n_drop + s->recovery->n_due;
}

uint32_t recovery_ready(struct storage_server *s, struct pg_ready *to, uint32_t max)
{
    struct recovery *r = s->recovery;
    uint32_t n = 0;

    for (uint32_t looked = 0; looked < r->n_pgs && n < max; looked++) {
        uint64_t pg = r->ready_cursor++ % r->n_pgs;
        const struct map_pg *p = &s->map->pgs[pg];

        if (r->pgs[pg].ready == p->epoch && p->n_next && !map_is_c1(p, s->id.store))
            to[n++] = (struct pg_ready){pg, p->epoch};
    }
    return n;
}

int recovery_open(struct storage_server *s)
{
    struct recovery *r = tc_calloc(1, sizeof(*r));

    r->s = s;
    r->timer.fn = tick;
    s->recovery = r;
    env_timer_set(s->env, &r->timer, env_now(s->env) + 50 * NS_PER_MS);
    if (s->map) {
        recovery_map_changed(s);
        recovery_cut_off(s); /* it was away: who knows what it missed */
    }
    return 0;
}

void recovery_close(struct storage_server *s)
{
    struct recovery *r = s->recovery;
    struct pg_work *w, *tmp;

    if (!r)
        return;
    env_timer_cancel(s->env, &r->timer);
    DL_FOREACH_SAFE(r->works, w, tmp) {
        work_free(w);
    }
    free(r->pgs);
    free(r);
    s->recovery = NULL;
}
