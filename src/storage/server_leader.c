/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store's duties towards the metadata leader: who it is (identity, registration), that it lives (heartbeats),
 * and the map it serves under. What it is to delete comes with the answers to heartbeats (server_gc.c).
 *
 * A map counts only when it is durable here (PROTOCOL 6.2): it is written in a job, and until then requests are
 * answered under the one before. The leader is whoever of the members last said so; silence moves on to the next.
 */
#include "storage/server_int.h"

#include "common/le.h"
#include "common/log.h"
#include "common/test_rules.h"

#define CALL_NS (600 * NS_PER_MS)
#define MAP_CALL_NS (250 * NS_PER_MS)
#define BEAT_MS_DEFAULT 200
#define RETRY_NS (50 * NS_PER_MS)
#define READY_MAX 1024
#define FULL_BYTES (2u << 20)
#define IDENTITY_VERSION 1
#define IDENTITY_BYTES 40

/* ---- identity ------------------------------------------------------------------------------------------- */

static int identity_save(struct storage_server *s, const struct identity *id)
{
    uint8_t b[IDENTITY_BYTES];

    put64(b, IDENTITY_VERSION);
    memcpy(b + 8, id->cluster, 16);
    put64(b + 24, id->store);
    put64(b + 32, id->start);
    return durable_save(&s->id_file, slice_of(b, sizeof b));
}

static int see_name(void *arg, const char *name)
{
    bool *found = arg;

    *found = *found || !strcmp(name, "data") || !strcmp(name, "journal") || !strcmp(name, "kv");
    return 0;
}

static int identity_make(struct storage_server *s)
{
    bool found = false;
    int r = vfs_list(s->vfs, s->dir, see_name, &found);

    if (r < 0)
        return r;
    if (found) {
        LOG_ERR("storage", "data directory has chunks but no identity", "dir=%s", s->dir);
        return -TC_E_DAMAGED;
    }
    do
        s->id.store = env_random(s->env);
    while (!s->id.store);
    s->empty = true;
    r = identity_save(s, &s->id);
    return r < 0 ? r : identity_save(s, &s->id); /* both copies, before the first chunk */
}

int identity_load(struct storage_server *s)
{
    struct buf *b;
    int r = durable_load(&s->id_file, &b);

    if (r == -TC_E_NOENT) {
        r = identity_make(s);
    } else if (r == 0) {
        r = b->len < IDENTITY_BYTES ? -TC_E_DAMAGED : get64(b->data) > IDENTITY_VERSION ? -TC_E_VERSION : 0;
        if (r == 0) {
            memcpy(s->id.cluster, b->data + 8, 16);
            s->id.store = get64(b->data + 24);
            s->id.start = get64(b->data + 32);
            s->empty = s->id.start == 0; /* formatted, never confirmed */
        }
        buf_unref(b);
    }
    if (r == -TC_E_VERSION)
        LOG_ERR("storage", "data directory was written by a newer version of this program", "dir=%s", s->dir);
    else if (r < 0)
        LOG_ERR("storage", "identity of the data directory cannot be read", "dir=%s err=%s", s->dir, tc_error_name(r));
    s->cluster_tag = map_cluster_tag(s->id.cluster);
    return r;
}

/* ---- the map -------------------------------------------------------------------------------------------------- */

static int map_decode(struct slice bytes, struct map **ret_map)
{
    struct wire_arena a = {0};
    struct cluster_map msg;
    struct map *m = map_new();
    int r = wire_decode(bytes, &cluster_map_schema, &a, &msg);

    if (r == 0)
        r = map_apply(m, &msg);
    wire_arena_fini(&a);
    if (r < 0)
        map_free(m);
    else
        *ret_map = m;
    return r;
}

static struct buf *map_encode(const struct map *m)
{
    struct wire_arena a = {0};
    struct cluster_map msg;
    struct buf *b;

    map_to_msg(m, &a, &msg);
    b = wire_encode(&cluster_map_schema, &msg);
    wire_arena_fini(&a);
    return b;
}

int map_load(struct storage_server *s)
{
    struct buf *b;
    int r = durable_load(&s->map_file, &b);

    if (r == -TC_E_NOENT)
        return 0;
    if (r == 0) {
        r = map_decode(slice_of(b->data, b->len), &s->map);
        s->map_bytes = b;
        if (r == 0 && memcmp(s->map->cluster, s->id.cluster, 16))
            r = -TC_E_WRONG_CLUSTER;
    }
    if (r < 0)
        LOG_ERR("storage", "the stored cluster map cannot be used", "dir=%s err=%s", s->dir, tc_error_name(r));
    return r;
}

static void map_fetch(struct storage_server *s);

static void map_job_run(struct env_job *j)
{
    struct storage_server *s = container_of(j, struct storage_server, map_job);

    s->map_save_status = joined_map_save(s);
    if (s->map_save_status == 0 && TC_RULE(MAP_DURABLE))
        s->map_save_status = durable_save(&s->map_file, slice_of(s->map_new_bytes->data, s->map_new_bytes->len));
}

static void map_job_done(struct env_job *j)
{
    struct storage_server *s = container_of(j, struct storage_server, map_job);

    s->busy--;
    if (s->map_save_status < 0) {
        server_fatal(s, s->map_save_status, "the cluster map cannot be stored");
        return;
    }
    s->map_link = 0;
    map_free(s->map);
    buf_unref(s->map_bytes);
    s->map = TAKE(s->map_new);
    s->map_bytes = TAKE(s->map_new_bytes);
    joined_map_saved(s);
    LOG_INFO("storage", "new map", "node=%u epoch=%llu stores=%u table=%d", s->cfg.node,
             (unsigned long long)s->map->epoch, s->map->n_stores, s->map->pgs != NULL);
    leader_learn(s, s->map);
    recovery_map_changed(s);
    joined_kick(s);
    requests_map_changed(s);
    if (s->map_wanted > s->map->epoch)
        map_fetch(s);
}

static void map_take(struct storage_server *s, const struct cluster_map *msg)
{
    int r;

    if (s->map_new || msg->epoch <= (s->map ? s->map->epoch : 0))
        return;
    r = s->map ? map_decode(slice_of(s->map_bytes->data, s->map_bytes->len), &s->map_new) : 0;
    if (r == 0 && !s->map_new)
        s->map_new = map_new();
    if (r == 0)
        r = map_apply(s->map_new, msg);
    if (r == 0 && memcmp(s->map_new->cluster, s->id.cluster, 16))
        r = -TC_E_WRONG_CLUSTER;
    if (r < 0) {
        LOG_WARN("storage", "a map was not usable, asking again", "err=%s", tc_error_name(r));
        s->map_new = map_free(s->map_new);
        return;
    }
    s->map_new_bytes = map_encode(s->map_new);
    joined_plan(s, s->map_new);
    s->map_job.run = map_job_run;
    s->map_job.done = map_job_done;
    s->busy++;
    env_job_submit(s->env, &s->jobs, &s->map_job);
}

static void map_on_reply(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct storage_server *s = container_of(c, struct storage_server, map_call);
    struct wire_arena a = {0};
    struct cluster_map msg;

    if (s->closing)
        return;
    if (reply->status == 0 && wire_decode(reply->body, &cluster_map_schema, &a, &msg) == 0)
        map_take(s, &msg);
    wire_arena_fini(&a);
    if (s->map_new || s->map_wanted <= (s->map ? s->map->epoch : 0))
        return;
    if (!requests_waiting(s)) {
        s->map_wanted = s->map_link = 0; /* the next beat says what there is, and who answered it is asked */
        return;
    }
    s->map_link++; /* the next member, soon */
    env_timer_set(s->env, &s->map_timer, env_now(s->env) + RETRY_NS);
}

static void map_timer_fire(struct env_timer *t)
{
    map_fetch(container_of(t, struct storage_server, map_timer));
}

/* ---- the members ------------------------------------------------------------------------------------------------- */

static void on_notice(void *arg, const struct wire_header *h, struct slice body);

static int link_find(const struct storage_server *s, struct wire_str endpoint)
{
    for (uint32_t i = 0; i < s->n_links; i++) {
        const char *ep = s->links[i].link->endpoint;

        if (strlen(ep) == endpoint.n && !memcmp(ep, endpoint.p, endpoint.n))
            return (int)i;
    }
    return -TC_E_NOENT;
}

/* The link to @endpoint, made if there is room. */
static int link_at(struct storage_server *s, struct wire_str endpoint)
{
    int i = link_find(s, endpoint), r;
    char *text;

    if (i >= 0)
        return i;
    if (s->n_links == LEADER_LINKS_MAX)
        return -TC_E_LIMIT;
    text = tc_asprintf("%.*s", (int)endpoint.n, endpoint.p);
    s->links[s->n_links] = (struct leader_link){0};
    r = rpc_link_open(s->env, text, &s->cluster_tag, &s->links[s->n_links].link);
    free(text);
    if (r < 0)
        return r;
    s->links[s->n_links].link->notice = on_notice;
    s->links[s->n_links].link->arg = s;
    return (int)s->n_links++;
}

/* Not from inside a link's callback: it may be one that is closed. */
static void link_drop(struct storage_server *s, uint32_t i)
{
    rpc_link_close(s->links[i].link);
    memmove(&s->links[i], &s->links[i + 1], (s->n_links - i - 1) * sizeof(s->links[0]));
    s->n_links--;
    if (s->leader >= i && s->leader > 0)
        s->leader--;
}

/* The map names every member. Those it once named and does not any more are asked no longer. */
void leader_learn(struct storage_server *s, const struct map *m)
{
    for (uint32_t i = 0; i < s->n_links; i++) {
        struct leader_link *l = &s->links[i];
        bool there = false;

        for (uint32_t k = 0; k < m->n_members; k++)
            there = there || !strcmp(m->members[k].endpoint, l->link->endpoint);
        l->gone = m->n_members && l->in_map && !there;
        l->in_map = l->in_map || there;
    }
    for (uint32_t k = 0; k < m->n_members; k++) {
        struct wire_str endpoint = wire_str_of(m->members[k].endpoint);
        int r;

        for (uint32_t i = 0; i < s->n_links && s->n_links == LEADER_LINKS_MAX; i++) {
            if (s->links[i].gone && link_find(s, endpoint) < 0)
                link_drop(s, i);
        }
        r = link_at(s, endpoint);
        if (r >= 0)
            s->links[r].in_map = true;
    }
}

/* The @k-th link behind @from whose member is not gone. */
static uint32_t link_behind(const struct storage_server *s, uint32_t from, uint32_t k)
{
    uint32_t i = from;

    for (uint32_t n = 0; n < k * s->n_links && k > 0; n++) {
        i = (i + 1) % s->n_links;
        if (!s->links[i].gone && --k == 0)
            return i;
    }
    return i;
}

struct rpc_link *leader_current(struct storage_server *s)
{
    return s->links[s->leader].link;
}

static void map_fetch(struct storage_server *s)
{
    struct map_get_req req = {.have = s->map ? s->map->epoch : 0};

    if (rpc_pending(&s->map_call) || s->map_new || !s->registered)
        return;
    s->map_call.done = map_on_reply;
    rpc_call(s->links[link_behind(s, s->leader, s->map_link)].link, &s->map_call, MSG_MAP_GET, &map_get_req_schema, &req,
             NULL, MAP_CALL_NS);
}

void leader_want_map(struct storage_server *s, uint64_t epoch)
{
    s->map_wanted = MAX(s->map_wanted, epoch);
    if (s->map_wanted > (s->map ? s->map->epoch : 0))
        map_fetch(s);
}

/* ---- register and beat ------------------------------------------------------------------------------------------ */

static void leader_next(struct storage_server *s)
{
    s->leader = link_behind(s, s->leader, 1);
}

static void leader_hint(struct storage_server *s, struct slice body)
{
    struct wire_arena a = {0};
    struct leader_msg msg;
    bool found = false;

    if (wire_decode(body, &leader_msg_schema, &a, &msg) == 0 && msg.endpoint.n) {
        int i = link_at(s, msg.endpoint);

        found = i >= 0 && (uint32_t)i != s->leader;
        if (i >= 0)
            s->leader = (uint32_t)i;
    }
    if (!found)
        leader_next(s);
    wire_arena_fini(&a);
}

static void on_notice(void *arg, const struct wire_header *h, struct slice body)
{
    struct storage_server *s = arg;
    struct wire_arena a = {0};
    struct leader_msg msg;

    if (h->type == MSG_LEADER && wire_decode(body, &leader_msg_schema, &a, &msg) == 0 && msg.leader && msg.endpoint.n) {
        int i = link_at(s, msg.endpoint);

        if (i >= 0)
            s->leader = (uint32_t)i;
    }
    wire_arena_fini(&a);
}

static void beat_later(struct storage_server *s, bool soon)
{
    uint64_t ns = s->cfg.beat_ms * NS_PER_MS;

    if (soon)
        ns = RETRY_NS + env_random(s->env) % RETRY_NS;
    env_timer_set(s->env, &s->beat_timer, env_now(s->env) + ns);
}

/* Common end of a failed call; true if it was one. */
static bool call_failed(struct storage_server *s, const struct rpc_reply *reply)
{
    if (reply->status == 0) {
        s->misses = 0;
        lost_heard(s);
        return false;
    }
    s->misses++;
    if (reply->status == -TC_E_NOT_LEADER)
        leader_hint(s, reply->body);
    else
        leader_next(s);
    if (s->misses == 50)
        LOG_WARN("storage", "no leader of the metadata group answers, serving on", "node=%u last=%s", s->cfg.node,
                 tc_error_name(reply->status));
    lost_silence(s);
    beat_later(s, true);
    return true;
}

static void id_job_run(struct env_job *j)
{
    struct storage_server *s = container_of(j, struct storage_server, id_job);

    s->id_status = identity_save(s, &s->id_new);
}

static void id_job_done(struct env_job *j)
{
    struct storage_server *s = container_of(j, struct storage_server, id_job);

    s->busy--;
    if (s->id_status < 0) {
        server_fatal(s, s->id_status, "the identity cannot be stored");
        return;
    }
    s->id = s->id_new;
    s->cluster_tag = map_cluster_tag(s->id.cluster);
    s->registered = true;
    if (!s->last_beat)
        s->last_beat = env_now(s->env);
    s->empty = false;
    LOG_INFO("storage", "registered", "node=%u store=%016llx start=%llu", s->cfg.node, (unsigned long long)s->id.store,
             (unsigned long long)s->id.start);
    map_fetch(s);
    beat_later(s, true);
}

static void register_reply(struct storage_server *s, const struct store_register_res *res)
{
    static const uint8_t none[16];

    if (res->cluster.n != 16 || (memcmp(s->id.cluster, none, 16) && memcmp(s->id.cluster, res->cluster.p, 16))) {
        server_fatal(s, -TC_E_WRONG_CLUSTER, "the data directory belongs to another cluster");
        return;
    }
    if (res->removed) {
        register_removed(s);
        return;
    }
    if (res->rolled_back) {
        server_damaged(s, "the data directory is an old copy: a newcomer takes its place");
        return;
    }
    s->id_new = s->id;
    memcpy(s->id_new.cluster, res->cluster.p, 16);
    s->id_new.start = res->start;
    s->map_wanted = MAX(s->map_wanted, res->map_epoch);
    s->id_job.run = id_job_run;
    s->id_job.done = id_job_done;
    s->busy++;
    env_job_submit(s->env, &s->jobs, &s->id_job);
}

static void register_on_reply(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct storage_server *s = container_of(c, struct storage_server, leader_call);
    struct store_register_res res;
    struct wire_arena a = {0};

    if (s->closing)
        return;
    if (register_refused(s, reply->status)) {
        beat_later(s, true);
        return;
    }
    if (call_failed(s, reply))
        return;
    if (wire_decode(reply->body, &store_register_res_schema, &a, &res) == 0)
        register_reply(s, &res);
    else
        beat_later(s, true);
    wire_arena_fini(&a);
}

static void send_register(struct storage_server *s)
{
    static const uint8_t none[16];
    struct chunk_store_stats st;
    struct store_register_req req = {.store = s->id.store, .start = s->id.start + 1, .node = s->cfg.node,
                                     .endpoint = wire_str_of(s->advertise), .zone = wire_str_of(s->zone),
                                     .empty = s->empty, .run = s->run};

    chunk_store_stats(s->cs, &st);
    req.capacity = st.total;
    if (memcmp(s->id.cluster, none, 16))
        req.cluster = (struct wire_bin){s->id.cluster, 16};
    s->leader_call.done = register_on_reply;
    rpc_call(leader_current(s), &s->leader_call, MSG_STORE_REGISTER, &store_register_req_schema, &req, NULL, CALL_NS);
}

static void beat_on_reply(struct rpc_call *c, const struct rpc_reply *reply)
{
    struct storage_server *s = container_of(c, struct storage_server, leader_call);
    struct store_beat_res res;
    struct wire_arena a = {0};

    if (s->closing || call_failed(s, reply))
        return;
    if (s->last_beat && env_now(s->env) > s->last_beat + CUT_OFF_NS)
        recovery_cut_off(s);
    s->last_beat = env_now(s->env);
    if (wire_decode(reply->body, &store_beat_res_schema, &a, &res) == 0) {
        if (res.unknown)
            s->registered = false;
        s->time_off = res.time > s->last_beat ? res.time - s->last_beat : 0;
        leader_want_map(s, res.map_epoch);
        server_gc_take(s, &res);
        beat_later(s, res.unknown);
    } else {
        beat_later(s, false);
    }
    wire_arena_fini(&a);
}

static void send_beat(struct storage_server *s)
{
    struct pg_ready ready[READY_MAX];
    struct chunk_store_stats st;
    struct store_beat_req req = {.store = s->id.store, .start = s->id.start, .map_epoch = s->map ? s->map->epoch : 0,
                                 .gc_done = chunk_store_gc_cursor(s->cs), .behind = recovery_behind(s)};

    chunk_store_stats(s->cs, &st);
    req.capacity = st.total;
    req.free = st.free;
    req.used = st.blocks * BLOCK_SIZE;
    req.chunks = st.chunks;
    if (st.free < FULL_BYTES) /* free is above the reserve: writes are refused at once, or soon */
        req.flags |= STORE_FULL;
    if (st.free < st.total / 20)
        req.flags |= STORE_NEARLY_FULL;
    if (st.disk_error || s->failing)
        req.flags |= STORE_DISK_ERROR;
    scrub_beat(s, &req);
    req.aside = aside_keeper_now(s->aside).n;
    req.aside_bytes = aside_keeper_now(s->aside).bytes;
    req.ready.items = ready;
    req.ready.n = recovery_ready(s, ready, READY_MAX);
    s->leader_call.done = beat_on_reply;
    rpc_call(leader_current(s), &s->leader_call, MSG_STORE_BEAT, &store_beat_req_schema, &req, NULL, CALL_NS);
}

void leader_last_word(struct storage_server *s)
{
    if (!s->registered || s->closing)
        return;
    rpc_cancel(&s->leader_call);
    send_beat(s);
}

void leader_tell(struct storage_server *s)
{
    if (!s->registered || s->closing)
        return;
    rpc_cancel(&s->leader_call); /* a beat: its answer is not waited for, the next one's says the same */
    env_timer_set(s->env, &s->beat_timer, env_now(s->env));
}

static void beat_fire(struct env_timer *t)
{
    struct storage_server *s = container_of(t, struct storage_server, beat_timer);

    if (s->fatal_told || rpc_pending(&s->leader_call))
        return;
    if (s->registered)
        send_beat(s);
    else
        send_register(s);
}

int leader_open(struct storage_server *s)
{
    s->cfg.beat_ms = s->cfg.beat_ms ? s->cfg.beat_ms : BEAT_MS_DEFAULT;
    s->beat_timer.fn = beat_fire;
    s->map_timer.fn = map_timer_fire;
    if (!s->cfg.n_metas)
        return -TC_E_CONFIG;
    s->run = env_random(s->env) | 1;
    s->links = tc_calloc(LEADER_LINKS_MAX, sizeof(*s->links));
    for (uint32_t i = 0; i < s->cfg.n_metas; i++) {
        int r = link_at(s, wire_str_of(s->cfg.metas[i]));

        if (r < 0)
            return r;
    }
    if (s->map)
        leader_learn(s, s->map);
    env_timer_set(s->env, &s->beat_timer, env_now(s->env));
    return 0;
}

void leader_close(struct storage_server *s)
{
    env_timer_cancel(s->env, &s->beat_timer);
    env_timer_cancel(s->env, &s->map_timer);
    for (uint32_t i = 0; i < s->n_links; i++)
        rpc_link_close(s->links[i].link);
    free(s->links);
    server_gc_end(s);
}
