/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unclean inodes (PROTOCOL 3.6). A recovery is one inode's:
 *
 *   SIZE ──► SIZED (entry) ──► gone        begun by whoever meets the inode, or by the sweeper
 *   (SEEK ──►) RECONCILE ──► RECONCILED (entry) ──► gone   begun by the sweeper alone; fails and is begun anew later
 *
 * SIZE asks the stores until R voters of every group that may hold a block have answered. RECONCILE has
 * voters compare and repair the chunks, window by window. Of a file that could have more chunks than there are groups,
 * where the next window begins is asked first, of every voter: SEEK. It may be sparse, and of any size.
 */
#include "meta/server_internal.h"

#define RESEND_NS (300 * NS_PER_MS)
#define RESEND_DOUBLES 5 /* a large file takes a store a while */
#define RECONCILE_TIMEOUT_NS (10 * NS_PER_S)
#define WINDOW 1024u

enum phase { SIZE, SIZED, SEEK, RECONCILE, RECONCILED };

struct asked {
    uint64_t store;
    uint64_t sent_at;
    unsigned tries;
    bool answered;
};

struct recovery {
    uint64_t ino;
    uint64_t serial; /* wire id of its requests */
    enum phase phase;
    uint64_t epoch;  /* the ended one; RECONCILE: the inode's when it began */
    uint32_t chunks; /* [0, chunks) may hold data */
    uint64_t from;   /* RECONCILE: oldest epoch of the mark */
    struct asked *asked;
    unsigned n_asked;
    bool at_once;
    bool found;
    uint64_t vseq, size, mtime;
    uint64_t next; /* SEEK: the first chunk that was told of; UINT64_MAX: none */
    /* RECONCILE: the window and what is being asked */
    uint64_t base;
    bool done[WINDOW], sent[WINDOW];
    uint64_t store, sent_at;
    struct meta_server *s;
    UT_hash_handle hh; /* lead->recoveries, by ino */
};

static struct recovery *recovery_find(struct meta_server *s, uint64_t ino)
{
    struct recovery *r;

    HASH_FIND(hh, s->lead->recoveries, &ino, sizeof(ino), r);
    return r;
}

static struct recovery *recovery_new(struct meta_server *s, uint64_t ino, enum phase phase)
{
    struct recovery *r = tc_calloc(1, sizeof(*r));

    r->ino = ino;
    r->s = s;
    r->serial = ++s->serial;
    r->phase = phase;
    HASH_ADD(hh, s->lead->recoveries, ino, sizeof(r->ino), r);
    s->lead->n_recoveries++;
    return r;
}

static void recovery_free(struct recovery *r)
{
    struct lead *l = r->s->lead;

    HASH_DEL(l->recoveries, r);
    l->n_recoveries--;
    free(r->asked);
    free(r);
}

void recovery_end(struct meta_server *s)
{
    struct recovery *r, *tmp;

    HASH_ITER(hh, s->lead->recoveries, r, tmp)
    {
        recovery_free(r);
    }
}

static uint32_t chunks_of(uint64_t reach)
{
    uint64_t n = (reach + CHUNK_SIZE - 1) / CHUNK_SIZE;

    return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

static uint32_t pg_of(const struct genesis *g, uint64_t ino, uint32_t index)
{
    struct map m = {.pg_count = g->pg_count};

    return map_pg_of(&m, ino, index);
}

/* ---- asking the voters of all groups ---- */

static struct asked *asked_get(struct recovery *r, uint64_t store)
{
    for (unsigned i = 0; i < r->n_asked; i++) {
        if (r->asked[i].store == store)
            return &r->asked[i];
    }
    r->asked = tc_realloc(r->asked, (r->n_asked + 1) * sizeof(*r->asked));
    r->asked[r->n_asked] = (struct asked){.store = store};
    return &r->asked[r->n_asked++];
}

static void ask(struct recovery *r, struct asked *a, uint64_t now)
{
    struct meta_server *s = r->s;
    uint64_t barrier = fsm_map_epoch(s->fsm);
    struct size_query_req size = {.barrier = barrier, .ino = r->ino, .chunks = r->chunks, .epoch = r->epoch, .store = a->store};
    struct chunk_seek_req seek = {.barrier = barrier, .ino = r->ino, .from = (uint32_t)r->base, .to = r->chunks, .store = a->store};
    struct wire_header h = {.kind = WIRE_REQUEST, .type = r->phase == SIZE ? MSG_SIZE_QUERY : MSG_CHUNK_SEEK,
                            .id = r->serial, .cluster = s->cluster_tag};
    struct net_port *p = store_port(s, a->store);

    a->sent_at = now;
    a->tries++;
    if (!p)
        return;
    (void)env_send(p, 0, r->phase == SIZE ? wire_encode_frame(&h, &size_query_req_schema, &size)
                                          : wire_encode_frame(&h, &chunk_seek_req_schema, &seek), NULL); /* sent again */
}

/* From the start, with another question. */
static void ask_anew(struct recovery *r)
{
    r->serial = ++r->s->serial; /* late answers are to the one before */
    r->n_asked = 0;
}

/* Have R voters of every group answered; SEEK: all? Asks those that have not. */
static bool all_answered(struct recovery *r, uint64_t now)
{
    const struct genesis *g = fsm_genesis(r->s->fsm);
    uint8_t *seen = tc_calloc(g->pg_count, 1);
    uint32_t n_seen = 0;
    bool all = true;

    for (uint32_t i = 0; i < r->chunks && n_seen < g->pg_count; i++) {
        uint32_t pg = pg_of(g, r->ino, i), have = 0;
        const struct map_pg *p = fsm_pg(r->s->fsm, pg);

        if (seen[pg])
            continue;
        seen[pg] = 1;
        n_seen++;
        for (unsigned v = 0; p && v < p->n; v++)
            have += asked_get(r, p->voters[v])->answered;
        if (p && have < (r->phase == SIZE ? g->r : p->n)) /* every voter's chunks are compared */
            all = false;
    }
    free(seen);
    for (unsigned i = 0; i < r->n_asked && !all; i++) {
        struct asked *a = &r->asked[i];

        if (!a->answered && (!a->tries || now - a->sent_at >= RESEND_NS << MIN(a->tries - 1, RESEND_DOUBLES)))
            ask(r, a, now);
    }
    return all;
}

/* ---- (a) size ---- */

static void size_applied(struct meta_server *s, struct meta_op *op, int status)
{
    struct recovery *r = recovery_find(s, (uint64_t)(uintptr_t)op->arg);

    if (!r)
        return;
    if (status < 0)
        LOG_WARN("meta", "size recovery was refused", "ino=%llu error=\"%s\"", (unsigned long long)r->ino,
                 tc_strerror(status));
    lease_recovered(s->lead->leases, r->ino); /* whoever waits looks again */
    recovery_free(r);
    server_turn(s);
}

static void size_propose(struct recovery *r)
{
    struct cmd_size_recovered cmd = {
        .ino = r->ino, .epoch = r->epoch, .found = r->found, .size = r->size, .mtime = r->mtime, .vseq = r->vseq};

    if (internal_propose(r->s, CMD_SIZE_RECOVERED, &cmd_size_recovered_schema, &cmd, size_applied,
                         (void *)(uintptr_t)r->ino) == 0)
        r->phase = SIZED;
}

static void size_step(struct recovery *r)
{
    struct meta_server *s = r->s;
    struct fsm_lease f;

    if (r->phase != SIZE)
        return;
    if (!fsm_lease(s->fsm, r->ino, &f) || !f.dead) { /* gone, or mended by an earlier leader's entry */
        lease_recovered(s->lead->leases, r->ino);
        recovery_free(r);
        server_turn(s);
        return;
    }
    if (f.epoch != r->epoch) {
        r->epoch = f.epoch;
        ask_anew(r);
        r->found = false;
        r->vseq = r->size = r->mtime = 0;
    }
    r->chunks = MAX(r->chunks, chunks_of(f.reach));
    if (all_answered(r, env_now(r->s->env)))
        size_propose(r);
}

void recovery_size(struct meta_server *s, uint64_t ino)
{
    struct recovery *r = recovery_find(s, ino);
    struct attr attr;

    if (r && (r->phase == SIZE || r->phase == SIZED))
        return;
    if (r)
        recovery_free(r); /* the comparison would be refused anyway */
    r = recovery_new(s, ino, SIZE);
    if (fsm_getattr(s->fsm, 0, ino, &s->arena, &attr) == 0)
        r->chunks = chunks_of(MAX(attr.reach, attr.size));
    r->at_once = true; /* with the next tick or turn: the caller is amid its own step */
    server_turn(s);
}

static void size_answer(struct recovery *r, uint64_t store, struct slice body)
{
    struct size_query_res res;
    struct asked *a;

    if (r->phase != SIZE || wire_decode(body, &size_query_res_schema, &r->s->arena, &res) < 0)
        return;
    a = asked_get(r, store);
    a->answered = true;
    if (res.found && res.vepoch == r->epoch && (!r->found || res.vseq > r->vseq)) {
        r->found = true;
        r->vseq = res.vseq;
        r->size = res.size;
        r->mtime = res.mtime;
    }
    size_step(r);
}

/* ---- (b) reconcile ---- */

static void reconciled_applied(struct meta_server *s, struct meta_op *op, int status)
{
    struct recovery *r = recovery_find(s, (uint64_t)(uintptr_t)op->arg);

    (void)status; /* refused: the sweeper begins anew */
    if (r && r->phase == RECONCILED)
        recovery_free(r);
}

static void reconcile_finish(struct recovery *r)
{
    struct cmd_reconciled cmd = {.ino = r->ino, .mark_change = r->epoch};

    r->phase = RECONCILED;
    if (internal_propose(r->s, CMD_RECONCILED, &cmd_reconciled_schema, &cmd, reconciled_applied,
                         (void *)(uintptr_t)r->ino) < 0)
        recovery_free(r);
}

static bool pg_voter(const struct map_pg *p, uint64_t store)
{
    for (unsigned v = 0; v < p->n; v++) {
        if (p->voters[v] == store)
            return true;
    }
    return false;
}

/* The first voter that is up; 0: none. */
static uint64_t pg_any_up(struct meta_server *s, const struct map_pg *p)
{
    for (unsigned v = 0; v < p->n; v++) {
        if (store_up(s, p->voters[v]))
            return p->voters[v];
    }
    return 0;
}

/* Send the next request of the window. False: it cannot go on now. */
static bool reconcile_send(struct recovery *r)
{
    struct meta_server *s = r->s;
    const struct genesis *g = fsm_genesis(s->fsm);
    uint64_t indexes[WINDOW];
    struct reconcile_req req = {.barrier = fsm_map_epoch(s->fsm), .ino = r->ino, .from_epoch = r->from,
                                .indexes = {indexes, 0}};
    struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_RECONCILE, .id = r->serial, .cluster = s->cluster_tag};
    struct net_port *port;

    r->store = 0;
    memset(r->sent, 0, sizeof(r->sent));
    for (uint32_t i = 0; i < WINDOW && r->base + i < r->chunks; i++) {
        const struct map_pg *p = fsm_pg(s->fsm, pg_of(g, r->ino, (uint32_t)(r->base + i)));

        if (r->done[i])
            continue;
        if (!p)
            return false;
        if (!r->store)
            r->store = pg_any_up(s, p);
        if (!r->store)
            return false;
        if (pg_voter(p, r->store)) {
            indexes[req.indexes.n++] = r->base + i;
            r->sent[i] = true;
        }
    }
    port = store_port(s, r->store);
    req.store = r->store;
    if (!port || !req.indexes.n)
        return false;
    r->sent_at = env_now(s->env);
    r->serial = ++s->serial;
    h.id = r->serial;
    return env_send(port, 0, wire_encode_frame(&h, &reconcile_req_schema, &req), NULL) == 0;
}

static void reconcile_window(struct recovery *r, uint64_t base)
{
    r->phase = RECONCILE;
    r->base = base;
    memset(r->done, 0, sizeof(r->done));
    if (base >= r->chunks)
        reconcile_finish(r);
    else if (!reconcile_send(r))
        recovery_free(r); /* the sweeper comes back to it */
}

static void seek_step(struct recovery *r)
{
    if (all_answered(r, env_now(r->s->env)))
        reconcile_window(r, r->next);
}

/* The window that begins at @base, or at the first chunk behind it. */
static void reconcile_from(struct recovery *r, uint64_t base)
{
    if (base >= r->chunks || r->chunks <= fsm_genesis(r->s->fsm)->pg_count) {
        reconcile_window(r, base);
        return;
    }
    r->phase = SEEK;
    r->base = base;
    r->next = UINT64_MAX;
    r->sent_at = env_now(r->s->env);
    ask_anew(r);
    seek_step(r);
}

static void seek_answer(struct recovery *r, uint64_t store, struct slice body)
{
    struct chunk_seek_res res;

    if (r->phase != SEEK || wire_decode(body, &chunk_seek_res_schema, &r->s->arena, &res) < 0)
        return;
    asked_get(r, store)->answered = true;
    if (res.found)
        r->next = MIN(r->next, MAX(res.index, r->base));
    seek_step(r);
}

static void reconcile_step(struct recovery *r)
{
    uint32_t i;

    for (i = 0; i < WINDOW && r->base + i < r->chunks && r->done[i]; i++)
        ;
    if (i == WINDOW || r->base + i >= r->chunks)
        reconcile_from(r, r->base + i);
    else if (!reconcile_send(r))
        recovery_free(r);
}

static void reconcile_begin(struct meta_server *s, uint64_t ino, const struct attr *attr)
{
    struct recovery *r = recovery_new(s, ino, RECONCILE);

    r->epoch = attr->epoch;
    r->from = attr->unclean_from;
    r->chunks = fsm_has_table(s->fsm) ? chunks_of(MAX(attr->reach, attr->size)) : 0;
    reconcile_from(r, 0);
}

static void reconcile_answer(struct recovery *r, int status)
{
    if (r->phase != RECONCILE)
        return;
    if (status < 0) { /* a voter is away: later */
        recovery_free(r);
        return;
    }
    for (uint32_t i = 0; i < WINDOW; i++)
        r->done[i] = r->done[i] || r->sent[i];
    reconcile_step(r);
}

void recovery_on_reply(struct meta_server *s, uint64_t store, const struct wire_header *h, struct slice body)
{
    int status = tc_error_from_wire(h->status);
    struct recovery *r, *tmp;

    HASH_ITER(hh, s->lead->recoveries, r, tmp)
    {
        if (r->serial != h->id)
            continue;
        if (h->type == MSG_SIZE_QUERY && status == 0)
            size_answer(r, store, body);
        else if (h->type == MSG_CHUNK_SEEK && status == 0)
            seek_answer(r, store, body);
        else if (h->type == MSG_RECONCILE && r->store == store)
            reconcile_answer(r, status);
        return;
    }
}

/* ---- the sweeper ---- */

static void sweep_one(struct meta_server *s, uint64_t ino)
{
    struct attr attr;
    struct fsm_lease f;
    bool x;

    if (recovery_find(s, ino) || fsm_getattr(s->fsm, 0, ino, &s->arena, &attr) < 0)
        return;
    x = fsm_lease(s->fsm, ino, &f);
    if (x && f.dead)
        recovery_size(s, ino);
    else if (!x && attr.data_state == DATA_UNCLEAN)
        reconcile_begin(s, ino, &attr);
}

static void sweep(struct meta_server *s, uint64_t now)
{
    struct lead *l = s->lead;
    uint64_t inos[32];
    uint32_t n;

    if (now < l->sweep_at || l->n_recoveries >= RECOVERIES_MAX)
        return;
    n = fsm_unclean(s->fsm, &l->sweep, inos, ARRAY_SIZE(inos));
    l->unclean_seen += n;
    for (uint32_t i = 0; i < n; i++)
        sweep_one(s, inos[i]);
    if (n == 0) { /* the end: from the start again, in a while */
        l->sweep = (struct fsm_unclean_cursor){0};
        l->unclean_count = l->unclean_seen;
        l->unclean_seen = 0;
        l->sweep_at = now + s->cfg.sweep_ms * NS_PER_MS;
    }
}

void recovery_turn(struct meta_server *s)
{
    struct recovery *r, *tmp;

    HASH_ITER(hh, s->lead->recoveries, r, tmp)
    {
        if (r->at_once) {
            r->at_once = false;
            size_step(r);
        }
    }
}

void recovery_tick(struct meta_server *s)
{
    uint64_t now = env_now(s->env);
    struct recovery *r, *tmp;

    wire_arena_reset(&s->arena);
    HASH_ITER(hh, s->lead->recoveries, r, tmp)
    {
        if (r->phase == SIZE)
            size_step(r);
        else if ((r->phase == SEEK || r->phase == RECONCILE) && now - r->sent_at >= RECONCILE_TIMEOUT_NS)
            recovery_free(r);
        else if (r->phase == SEEK)
            seek_step(r);
    }
    sweep(s, now);
    reap_tick(s, now);
}
