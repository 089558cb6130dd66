/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watching: every message as it is sent, every member every 50 ms.
 */
#include "sim/checks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <uthash.h>

#include "common/map.h"
#include "meta/fsm.h"
#include "sim/check_fence.h"
#include "sim/check_raft.h"
#include "sim/coverage.h"

enum { TICK_MS = 50, HASH_EVERY = 10, FILES_MAX = 32 };

struct seen_block { /* what a version of a block is */
    struct {
        uint64_t ino, vepoch, vseq;
        uint32_t index, block;
    } key;
    uint64_t sum; /* 0: zero mark */
    UT_hash_handle hh;
};

struct seen_state {
    uint64_t index, hash;
    uint32_t member;
    UT_hash_handle hh;
};

struct answer { /* of one store about one chunk */
    bool asked, come;
    uint8_t kind[BLOCKS_PER_CHUNK];
    uint64_t vepoch[BLOCKS_PER_CHUNK], vseq[BLOCKS_PER_CHUNK], sum[BLOCKS_PER_CHUNK];
};

struct audit_peer {
    struct checks *k;
    uint64_t store;
    struct net_port *port;
    struct answer a;
};

struct checks {
    struct cluster *c;
    struct seen_block *blocks;
    struct seen_state *states;
    struct check_raft *raft;
    struct check_fence *fence;
    struct wire_arena arena;
    uint32_t ticks;
    struct {
        uint64_t ino;
        uint32_t chunks;
    } files[FILES_MAX];
    unsigned n_files;
    /* audit */
    struct sim_node *node;
    struct env *env;
    struct map *map;
    struct audit_peer peers[STORES_MAX];
    unsigned n_peers;
    uint64_t at_ino, id;
    struct attr attr; /* of at_ino */
    struct wire_arena attr_arena;
    uint32_t at_index;
    bool done;
};

/* ---- messages ------------------------------------------------------------------------------------- */

static void note_block(struct checks *k, const struct write_item *it, uint32_t i, uint64_t sum)
{
    struct seen_block *b, probe;

    memset(&probe, 0, sizeof probe); /* padding is part of the key */
    probe.key.ino = it->ino;
    probe.key.index = it->index;
    probe.key.block = it->first + i;
    probe.key.vepoch = it->vepoch;
    probe.key.vseq = it->vseq;
    HASH_FIND(hh, k->blocks, &probe.key, sizeof probe.key, b);
    if (!b) {
        b = tc_calloc(1, sizeof *b);
        b->key = probe.key;
        b->sum = sum;
        HASH_ADD(hh, k->blocks, key, sizeof b->key, b);
    } else if (b->sum != sum) {
        cluster_fail(k->c,
                     "two contents under one version: ino %" PRIu64 " chunk %u block %u version (%" PRIu64 ", %" PRIu64
                     "): %016" PRIx64 " and %016" PRIx64,
                     it->ino, it->index, it->first + i, it->vepoch, it->vseq, b->sum, sum);
    }
}

static void print_message(struct checks *k, struct sim_node *from, const struct wire_header *h, struct slice body)
{
    static const char *const kinds[] = {"request", "reply", "notice"};
    const struct wire_schema *schema = schema_of(h->type, (enum wire_frame_kind)h->kind);
    char text[4096] = "";
    FILE *f = fmemopen(text, sizeof text - 1, "w");
    union {
        struct cluster_map map;
        struct attr attr;
        uint8_t bytes[4096];
    } msg;

    if (f && schema && body.len && schema->size <= sizeof msg &&
        wire_decode(body, schema, &k->arena, &msg) == 0)
        wire_print(f, schema, &msg);
    if (f)
        fclose(f);
    fprintf(stderr, "%10.6f %s: %s %s %" PRIx64 " %s %s\n", (double)sim_now(k->c->s) / 1e9, sim_node_host(from),
            msg_name(h->type), h->kind < 3 ? kinds[h->kind] : "?", h->id,
            h->kind == WIRE_REPLY ? tc_error_name(tc_error_from_wire(h->status)) : "", text);
}

/* A member in whose place files of another cluster were put speaks in its name. */
static bool of_another_cluster(const struct wire_header *h)
{
    return h->cluster && h->cluster != map_cluster_tag((const uint8_t *)"simulatedcluster");
}

/* Whatever is asked of a store says which one is meant (PROTOCOL 6.1). */
static void check_named(struct checks *k, const struct wire_header *h, struct slice body)
{
    union store_request req;
    uint64_t *store = h->kind == WIRE_REQUEST ? request_store(h->type, &req) : NULL;

    if (store && (wire_decode(body, schema_of(h->type, WIRE_REQUEST), &k->arena, &req) < 0 || !*store))
        cluster_fail(k->c, "a %s that names no store was sent", msg_name(h->type));
}

static void on_message(void *arg, struct sim_node *from, struct buf *head, struct buf *payload)
{
    struct checks *k = arg;
    struct wire_header h;
    struct write_req req;
    struct slice body;

    if (sim_node_host(from)[0] == 'x')
        return; /* of another cluster */
    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0) {
        cluster_fail(k->c, "a malformed frame was sent");
        return;
    }
    wire_arena_reset(&k->arena);
    coverage_message(from, &h, body);
    if (h.type == MSG_RAFT && !of_another_cluster(&h))
        check_raft(k->raft, body, payload);
    if (k->c->opt.messages)
        print_message(k, from, &h, body);
    check_named(k, &h, body);
    if (h.kind == WIRE_REPLY)
        check_fence_reply(k->fence, &h, body, &k->arena);
    if (h.type != MSG_WRITE || h.kind != WIRE_REQUEST)
        return;
    if (wire_decode(body, &write_req_schema, &k->arena, &req) < 0) {
        cluster_fail(k->c, "a malformed WRITE was sent");
        return;
    }
    check_fence_write(k->fence, h.id, &req);
    for (uint32_t i = 0; i < req.items.n; i++) {
        const struct write_item *it = &req.items.items[i];

        for (uint32_t b = 0; b < it->count; b++) {
            uint64_t sum = 0;

            if (!(it->flags & WRITE_ZERO) && it->sums.n >= 8 * (b + 1))
                memcpy(&sum, it->sums.p + (size_t)8 * b, 8);
            note_block(k, it, b, sum);
        }
    }
}

/* ---- members -------------------------------------------------------------------------------------- */

static void check_state(struct checks *k, struct member *m)
{
    struct seen_state *s;
    uint64_t index = meta_server_applied(m->server), hash;
    struct fsm *f = meta_server_fsm(m->server);

    if (!f || !index || memcmp(fsm_genesis(f)->cluster.p, "simulatedcluster", 16))
        return; /* of another cluster: damage put it there (damage.h) */
    hash = fsm_state_hash(f);
    HASH_FIND(hh, k->states, &index, sizeof index, s);
    if (!s) {
        s = tc_calloc(1, sizeof *s);
        *s = (struct seen_state){.index = index, .hash = hash, .member = m->id};
        HASH_ADD(hh, k->states, index, sizeof s->index, s);
    } else if (s->hash != hash) {
        cluster_fail(k->c, "members %u and %u differ at index %" PRIu64, s->member, m->id, index);
    }
}

static void on_tick(void *arg)
{
    struct checks *k = arg;
    struct cluster *c = k->c;
    unsigned leaders = 0;

    if (c->failed)
        return;
    for (unsigned i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];

        if (!m->server || sim_node_crashed(m->node))
            continue;
        leaders += meta_server_leads(m->server); /* a stopped one's, too: by its clock */
        if (k->ticks % HASH_EVERY == 0)
            check_state(k, m);
    }
    if (leaders > 1)
        cluster_fail(c, "%u members hold the leader lease at once", leaders);
    k->ticks++;
    sim_at(c->s, sim_now(c->s) + TICK_MS * NS_PER_MS, on_tick, k);
}

/* ---- replicas ------------------------------------------------------------------------------------- */

void checks_add_file(struct checks *k, uint64_t ino, uint32_t chunks)
{
    ASSERT(k->n_files < FILES_MAX);
    k->files[k->n_files].ino = ino;
    k->files[k->n_files++].chunks = chunks;
}

static void audit_on_msg(void *arg, uint64_t from, struct buf *head, struct buf *payload)
{
    struct audit_peer *p = arg;
    struct checks *k = p->k;
    struct wire_header h;
    struct read_res res;
    struct slice body;
    uint32_t at = 0, sum_at = 0;

    (void)from;
    (void)payload;
    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0 || h.id != k->id || h.status)
        return;
    wire_arena_reset(&k->arena);
    if (wire_decode(body, &read_res_schema, &k->arena, &res) < 0 || res.items.n != 1 || res.items.items[0].status)
        return;
    for (uint32_t r = 0; r < res.items.items[0].runs.n; r++) {
        const struct version_run *run = &res.items.items[0].runs.items[r];

        for (uint32_t i = 0; i < run->count && at < BLOCKS_PER_CHUNK; i++, at++) {
            p->a.kind[at] = (uint8_t)run->kind;
            p->a.vepoch[at] = run->vepoch;
            p->a.vseq[at] = run->vseq;
            if (run->kind == RUN_DATA && res.items.items[0].sums.n >= 8 * (sum_at + 1))
                memcpy(&p->a.sum[at], res.items.items[0].sums.p + (size_t)8 * sum_at++, 8);
        }
    }
    p->a.come = at == BLOCKS_PER_CHUNK;
}

static bool audit_come(struct cluster *c)
{
    struct checks *k = c->checks;

    for (unsigned i = 0; i < k->n_peers; i++)
        if (k->peers[i].a.asked && !k->peers[i].a.come)
            return false;
    return true;
}

static void audit_ask(struct checks *k, const struct map_pg *pg, uint32_t pg_id)
{
    k->id++;
    for (unsigned i = 0; i < k->n_peers; i++) {
        struct audit_peer *p = &k->peers[i];
        struct wire_header h = {.kind = WIRE_REQUEST, .type = MSG_READ, .id = k->id,
                                .cluster = map_cluster_tag(k->map->cluster)};
        struct read_item it = {.pg = pg_id, .pg_epoch = pg->epoch, .ino = k->at_ino, .index = k->at_index,
                               .first = 0, .count = BLOCKS_PER_CHUNK};
        struct read_req req = {.barrier = k->map->epoch, .items = {&it, 1}, .store = p->store};
        const struct map_store *st = map_store(k->map, p->store);

        memset(&p->a, 0, sizeof p->a);
        p->a.asked = st && st->state != STORE_REPLACED && map_is_voter(pg, p->store); /* else nobody answers */
        if (p->a.asked)
            env_send(p->port, 0, wire_encode_frame(&h, &read_req_schema, &req), NULL);
    }
}

static bool newer(const struct answer *x, const struct answer *y, uint32_t b)
{
    return x->vepoch[b] != y->vepoch[b] ? x->vepoch[b] > y->vepoch[b] : x->vseq[b] > y->vseq[b];
}

/* Does the version count? Not past the end of the file, nor behind a horizon entry of a higher epoch. */
static bool counts(struct checks *k, uint32_t b, uint64_t vepoch)
{
    uint64_t off = (uint64_t)k->at_index * CHUNK_SIZE + (uint64_t)b * BLOCK_SIZE;

    if (off >= k->attr.size)
        return false;
    for (uint32_t i = 0; i < k->attr.horizons.n; i++)
        if (off >= k->attr.horizons.items[i].size && vepoch < k->attr.horizons.items[i].epoch)
            return false;
    return true;
}

/* The newest version of each block must be on W voters. False: not so (yet). */
static bool audit_agree(struct checks *k, uint32_t *ret_block, bool complain)
{
    for (uint32_t b = 0; b < BLOCKS_PER_CHUNK; b++) {
        const struct answer *best = NULL;
        unsigned have = 0;

        for (unsigned i = 0; i < k->n_peers; i++) {
            const struct answer *a = &k->peers[i].a;

            if (a->asked && a->kind[b] != RUN_UNKNOWN && (!best || newer(a, best, b)))
                best = a;
        }
        for (unsigned i = 0; best && i < k->n_peers; i++) {
            const struct answer *a = &k->peers[i].a;

            if (!a->asked || a->kind[b] == RUN_UNKNOWN || newer(best, a, b))
                continue;
            have++;
            if (complain && (a->kind[b] != best->kind[b] || a->sum[b] != best->sum[b]))
                cluster_fail(k->c, "stores differ under one version: ino %" PRIu64 " chunk %u block %u", k->at_ino,
                             k->at_index, b);
        }
        if (have < k->map->w && counts(k, b, best ? best->vepoch[b] : 0)) {
            *ret_block = b;
            return false;
        }
    }
    return true;
}

static bool has_peer(struct checks *k, uint64_t store)
{
    for (unsigned i = 0; i < k->n_peers; i++)
        if (k->peers[i].store == store)
            return true;
    return false;
}

/* The map as it is now: copies move after the faults, too (a store whose disk hung is filled again), and stores answer
 * only who knows where they went. False: nobody has one. */
static bool audit_map(struct checks *k)
{
    struct member *m = cluster_leader(k->c);
    struct wire_arena arena = {0};
    struct cluster_map msg;
    int err;

    if (!m)
        return false;
    fsm_map(meta_server_fsm(m->server), 0, &arena, &msg);
    err = map_apply(k->map, &msg);
    wire_arena_fini(&arena);
    if (err < 0 || !k->map->pgs)
        return false;
    for (uint32_t i = 0; i < k->map->n_stores && k->n_peers < STORES_MAX; i++) {
        struct audit_peer *p = &k->peers[k->n_peers];

        if (k->map->stores[i].state == STORE_REPLACED || has_peer(k, k->map->stores[i].store))
            continue;
        p->k = k;
        p->store = k->map->stores[i].store;
        if (env_connect(k->env, k->map->stores[i].endpoint, audit_on_msg, p, &p->port) == 0)
            k->n_peers++;
    }
    return true;
}

static bool audit_chunk(struct checks *k)
{
    struct cluster *c = k->c;
    uint32_t pg_id = map_pg_of(k->map, k->at_ino, k->at_index), block = 0;
    uint64_t until = sim_now(c->s) + 60 * NS_PER_S;

    while (!c->failed && sim_now(c->s) < until) {
        struct member *m = cluster_leader(c);

        wire_arena_reset(&k->attr_arena);
        if (!m || !audit_map(k) ||
            fsm_getattr(meta_server_fsm(m->server), 0, k->at_ino, &k->attr_arena, &k->attr) < 0) {
            cluster_run_until(c, sim_now(c->s) + NS_PER_S);
            continue;
        }
        audit_ask(k, &k->map->pgs[pg_id], pg_id);
        if (cluster_run(c, sim_now(c->s) + NS_PER_S, audit_come) && audit_agree(k, &block, true))
            return true;
        cluster_run_until(c, sim_now(c->s) + 5 * NS_PER_S);
    }
    for (unsigned i = 0; i < k->n_peers; i++)
        cluster_log(c, "audit: store %016" PRIx64 " come %d kind %d version (%" PRIu64 ", %" PRIu64 ")",
                    k->peers[i].store, k->peers[i].a.come, k->peers[i].a.kind[block], k->peers[i].a.vepoch[block],
                    k->peers[i].a.vseq[block]);
    cluster_fail(c, "the newest version is not on W voters, or they do not answer: ino %" PRIu64 " chunk %u block %u",
                 k->at_ino, k->at_index, block);
    return false;
}

bool checks_replicas(struct checks *k)
{
    struct cluster *c = k->c;

    cluster_run_until(c, sim_now(c->s) + 5 * NS_PER_S);
    k->map = map_new();
    k->node = sim_node_new(c->s, "audit");
    k->env = sim_node_boot(k->node);
    if (!audit_map(k)) {
        cluster_fail(c, "no leader, or no map, at the end");
        return false;
    }
    for (unsigned f = 0; f < k->n_files && !c->failed; f++)
        for (uint32_t i = 0; i < k->files[f].chunks && !c->failed; i++) {
            k->at_ino = k->files[f].ino;
            k->at_index = i;
            (void)audit_chunk(k); /* what it found is in the cluster */
        }
    for (unsigned i = 0; i < k->n_peers; i++)
        env_port_close(k->peers[i].port);
    sim_node_kill(k->node);
    return !c->failed;
}

/* --------------------------------------------------------------------------------------------------- */

static void on_arrived(void *arg, struct sim_node *to, struct buf *head)
{
    struct wire_header h;
    struct slice body;

    (void)arg;
    if (sim_node_host(to)[0] == 'm' && wire_check_frame(slice_of(head->data, head->len), &h, &body) == 0)
        coverage_arrived(&h, body);
}

struct checks *checks_new(struct cluster *c)
{
    struct checks *k = tc_calloc(1, sizeof *k);

    k->c = c;
    k->raft = check_raft_new(c);
    k->fence = check_fence_new(c);
    c->checks = k;
    c->watch_log = coverage_log;
    sim_net_set_tap(c->s, on_message, k);
    sim_net_set_arrived(c->s, on_arrived, k);
    sim_at(c->s, sim_now(c->s), on_tick, k);
    return k;
}

void checks_free(struct checks *k)
{
    struct seen_block *b, *b_next;
    struct seen_state *s, *s_next;

    if (!k)
        return;
    HASH_ITER (hh, k->blocks, b, b_next) {
        HASH_DEL(k->blocks, b);
        free(b);
    }
    HASH_ITER (hh, k->states, s, s_next) {
        HASH_DEL(k->states, s);
        free(s);
    }
    check_raft_free(k->raft);
    check_fence_free(k->fence);
    wire_arena_fini(&k->arena);
    wire_arena_fini(&k->attr_arena);
    map_free(k->map);
    free(k);
}
