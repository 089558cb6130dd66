/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The storage node: opening and closing, the port, taking requests in and answering them.
 *
 * A request is owned from its arrival to request_reply(), which is called exactly once for each. Those that name
 * a newer map than is durable here wait for it (PROTOCOL 4.6).
 */
#include "storage/server_int.h"

#include <stdio.h>

#include "common/log.h"
#include "common/test_rules.h"
#include "common/vfs_tree.h"

#define STRANGER_NS (60 * NS_PER_S) /* between two log lines about one peer */
#define GIVING_MIN 2 /* peers have deadlines */
#define WAIT_SWEEP_NS (100 * NS_PER_MS)

/* ---- what peers copy takes turns, behind clients --------------------------------------------------------------- */

static bool may_give(const struct storage_server *s)
{
    return s->giving < GIVING_MIN || s->giving * PACE_ONE < pace_window(&s->pace, env_now(s->env));
}

bool request_turn(struct request *q)
{
    struct storage_server *s = q->s;

    if (q->giving)
        return true;
    if (s->n_held || !may_give(s)) {
        q->held = true;
        s->n_held++;
        s->read_blocks -= q->read_blocks; /* it takes no memory yet */
        q->read_blocks = 0;
        return false;
    }
    q->giving = true;
    s->giving++;
    pace_copied(&s->pace, env_now(s->env));
    return true;
}

static void held_run(struct env_task *t)
{
    struct storage_server *s = container_of(t, struct storage_server, held_task);
    struct request *q, *tmp;

    DL_FOREACH_SAFE(s->requests, q, tmp) {
        if (!s->n_held || !may_give(s))
            break;
        if (!q->held)
            continue;
        q->held = false;
        s->n_held--;
        q->giving = true;
        s->giving++;
        request_dispatch(q);
    }
}

static void turn_over(struct request *q)
{
    struct storage_server *s = q->s;

    s->n_held -= q->held;
    s->giving -= q->giving;
    if (q->giving)
        pace_copied(&s->pace, env_now(s->env));
    q->held = q->giving = false;
    if (s->n_held && !s->closing)
        env_defer(s->env, &s->held_task);
}

/* ---- answering ------------------------------------------------------------------------------------------- */

static void request_free(struct request *q)
{
    struct storage_server *s = q->s;

    env_defer_cancel(s->env, &q->task);
    if (q->type == MSG_WRITE)
        env_defer_cancel(s->env, &q->op.write.task);
    else if (q->type == MSG_READ || q->type == MSG_SCRUB)
        env_defer_cancel(s->env, &q->op.read.task);
    DL_DELETE(s->requests, q);
    s->n_requests--;
    s->read_blocks -= q->read_blocks;
    turn_over(q);
    buf_unref(q->head);
    buf_unref(q->payload);
    wire_arena_fini(&q->arena);
    free(q->items);
    free(q->slots);
    free(q);
}

void request_reply(struct request *q, int status, const struct wire_schema *schema, const void *body, struct buf *payload)
{
    struct wire_header h = {.kind = WIRE_REPLY, .type = q->type, .status = tc_error_to_wire(status), .id = q->id,
                            .cluster = q->s->cluster_tag, .payload_len = payload ? payload->len : 0};

    /* A peer that went away, or is too slow, asks again. */
    (void)env_send(q->s->port, q->peer, wire_encode_frame(&h, schema, body), payload ? buf_ref(payload) : NULL);
    request_free(q);
}

static void refuse(struct storage_server *s, uint64_t peer, const struct wire_header *in, int status)
{
    struct wire_header h = {.kind = WIRE_REPLY, .type = in->type, .status = tc_error_to_wire(status), .id = in->id,
                            .cluster = s->cluster_tag};

    (void)env_send(s->port, peer, wire_encode_frame(&h, NULL, NULL), NULL);
}

/* ---- waiting for a map ----------------------------------------------------------------------------------- */

void request_wait_map(struct request *q, uint64_t epoch)
{
    struct storage_server *s = q->s;
    uint64_t now = env_now(s->env);

    if (!q->deadline)
        q->deadline = now + WAIT_MAP_NS;
    q->need = epoch;
    q->waiting = true;
    leader_want_map(s, epoch);
    if (!env_timer_armed(&s->wait_timer))
        env_timer_set(s->env, &s->wait_timer, now + WAIT_SWEEP_NS);
}

static void wait_sweep(struct env_timer *t)
{
    struct storage_server *s = container_of(t, struct storage_server, wait_timer);
    uint64_t now = env_now(s->env);
    struct request *q, *tmp;
    bool any = false;

    DL_FOREACH_SAFE(s->requests, q, tmp) {
        if (!q->waiting)
            continue;
        if (now >= q->deadline)
            request_reply(q, -TC_E_STALE_MAP, NULL, NULL, NULL);
        else
            any = true;
    }
    if (any)
        env_timer_set(s->env, t, now + WAIT_SWEEP_NS);
}

bool requests_waiting(const struct storage_server *s)
{
    const struct request *q;

    DL_FOREACH(s->requests, q) {
        if (q->waiting)
            return true;
    }
    return false;
}

void requests_map_changed(struct storage_server *s)
{
    struct request *q, *tmp;

    DL_FOREACH_SAFE(s->requests, q, tmp) {
        if (q->waiting && s->map->epoch >= q->need) {
            q->waiting = false;
            request_dispatch(q);
        }
    }
}

/* ---- taking in --------------------------------------------------------------------------------------------- */

static const struct wire_schema *request_schema(uint16_t type)
{
    switch (type) {
    case MSG_WRITE:
        return &write_req_schema;
    case MSG_READ:
        return &read_req_schema;
    case MSG_MANIFEST:
        return &manifest_req_schema;
    case MSG_SIZE_QUERY:
        return &size_query_req_schema;
    case MSG_CHUNK_SEEK:
        return &chunk_seek_req_schema;
    case MSG_RECONCILE:
        return &reconcile_req_schema;
    case MSG_MAP_GET:
        return &map_get_req_schema;
    case MSG_STORE_STATUS:
        return &status_req_schema;
    case MSG_SCRUB:
        return &scrub_req_schema;
    default:
        return NULL;
    }
}

void request_dispatch(struct request *q)
{
    handle_data(q);
}

/* It is for a store that was at this address, or is to be: this one has no vote of that one's (PROTOCOL 6.1). */
static bool for_another(struct request *q)
{
    struct storage_server *s = q->s;
    struct stranger *who = &s->strangers[q->peer % STRANGERS_MAX];
    const uint64_t *store = request_store(q->type, &q->u);
    uint64_t now;

    if (!store || !*store || *store == s->id.store || !TC_RULE(STORE_NAMED))
        return false;
    now = env_now(s->env);
    if (who->peer != q->peer || !who->told || now - who->told >= STRANGER_NS) {
        *who = (struct stranger){q->peer, now};
        LOG_WARN("storage", "asked for another store, refused", "node=%u store=%016llx asked=%016llx request=%s peer=%llx",
                 s->cfg.node, (unsigned long long)s->id.store, (unsigned long long)*store, msg_name(q->type),
                 (unsigned long long)q->peer);
    }
    return true;
}

static void on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct storage_server *s = arg;
    const struct wire_schema *schema;
    struct wire_header h;
    struct slice body;
    struct request *q;

    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0 || h.kind != WIRE_REQUEST) {
        LOG_WARN("storage", "bad frame, dropped", "len=%u", head->len);
        return;
    }
    schema = request_schema(h.type);
    if (!schema || h.payload_len != (payload ? payload->len : 0)) {
        refuse(s, peer, &h, -TC_E_BAD_MESSAGE);
        return;
    }
    if (h.cluster && s->cluster_tag && h.cluster != s->cluster_tag) {
        refuse(s, peer, &h, -TC_E_WRONG_CLUSTER);
        return;
    }
    if (s->n_requests >= REQUESTS_MAX) {
        refuse(s, peer, &h, -TC_E_BACKPRESSURE);
        return;
    }
    q = tc_calloc(1, sizeof(*q));
    q->s = s;
    q->peer = peer;
    q->id = h.id;
    q->type = h.type;
    q->head = buf_ref(head);
    q->payload = payload ? buf_ref(payload) : NULL;
    DL_APPEND(s->requests, q);
    s->n_requests++;
    if (wire_decode(body, schema, &q->arena, &q->u) < 0) {
        request_reply(q, -TC_E_BAD_MESSAGE, NULL, NULL, NULL);
        return;
    }
    if (for_another(q)) {
        request_reply(q, -TC_E_WRONG_STORE, NULL, NULL, NULL);
        return;
    }
    request_dispatch(q);
}

/* ---- peers -------------------------------------------------------------------------------------------------- */

bool map_is_c1(const struct map_pg *pg, uint64_t store)
{
    for (unsigned i = 0; i < pg->n; i++) {
        if (pg->voters[i] == store)
            return true;
    }
    return false;
}

struct rpc_link *server_peer(struct storage_server *s, uint64_t store)
{
    const struct map_store *ms = s->map ? map_store_there(s->map, store) : NULL;
    struct rpc_link *l;

    if (!ms)
        return NULL;
    for (uint32_t i = 0; i < s->n_peers; i++) {
        if (!strcmp(s->peers[i]->endpoint, ms->endpoint))
            return s->peers[i];
    }
    if (s->n_peers == LINKS_MAX || rpc_link_open(s->env, ms->endpoint, &s->cluster_tag, &l) < 0)
        return NULL;
    s->peers[s->n_peers++] = l;
    return l;
}

/* ---- opening and closing -------------------------------------------------------------------------------------- */

void server_fatal(struct storage_server *s, int err, const char *why)
{
    if (s->fatal_told)
        return;
    s->fatal_told = true;
    LOG_ERR("storage", "cannot go on", "node=%u why=\"%s\" err=%s", s->cfg.node, why, tc_error_name(err));
    if (err == -TC_E_IO) {
        s->failing = true;
        leader_last_word(s);
        failing_mark(s, why);
    }
    if (!s->cfg.fatal)
        abort();
    s->cfg.fatal(s->cfg.fatal_arg, err, why);
}

static void store_fatal(void *arg, int err, const char *why)
{
    if (err == -TC_E_DAMAGED)
        server_damaged(arg, why);
    else
        server_fatal(arg, err, why);
}

static void store_damaged(void *arg, const struct chunk_key *key)
{
    scrub_damaged(arg, key);
}

static int open_dir(struct storage_server *s)
{
    char *lock = tc_asprintf("%s/lock", s->dir);
    int r = vfs_make_dir(s->vfs, s->dir);

    if (r == 0 && (vfs_has_name(s->vfs, s->dir, "state-a") || vfs_has_name(s->vfs, s->dir, "state-b"))) {
        LOG_ERR("storage", "the data directory is that of a metadata member: look what is in the wrong place", "dir=%s", s->dir);
        r = -TC_E_CONFIG; /* taken for an empty one it would be a lost disk */
    }
    if (r == 0)
        r = vfs_lock(s->vfs, lock, &s->lock);
    free(lock);
    if (r == -TC_E_LOCKED_DIR)
        LOG_ERR("storage", "data directory is in use by another process", "dir=%s", s->dir);
    else if (r < 0)
        LOG_ERR("storage", "data directory cannot be used", "dir=%s err=%s", s->dir, tc_error_name(r));
    return r;
}

static void store_hangs(void *arg)
{
    leader_tell(arg);
}

static int open_store(struct storage_server *s)
{
    struct chunk_store_options opt = {
        .dir = s->dir,
        .kv_open = s->cfg.kv_open,
        .kv_arg = s->cfg.kv_arg,
        .journal = s->cfg.journal,
        .used = s->id.start > 0,
        .reserve_bytes = s->cfg.reserve_bytes,
        .cache_bytes = s->cfg.cache_bytes,
        .pending_bytes = s->cfg.pending_bytes,
        .damaged = store_damaged,
        .damaged_arg = s,
        .fatal = store_fatal,
        .fatal_arg = s,
        .hangs = store_hangs,
        .hangs_arg = s,
    };
    int r = chunk_store_open(s->env, &opt, &s->cs);

    if (r < 0)
        LOG_ERR("storage", "chunk store cannot be opened", "dir=%s err=%s text=\"%s\"", s->dir, tc_error_name(r),
                tc_strerror(r));
    return r;
}

static int open_files(struct storage_server *s)
{
    int r = identity_load(s);

    if (r == 0)
        r = map_load(s);
    if (r == 0)
        r = joined_load(s);
    return r == 0 ? open_store(s) : r;
}

static void forget_files(struct storage_server *s)
{
    s->map = map_free(s->map);
    s->map_bytes = buf_unref(s->map_bytes);
    s->id = (struct identity){0};
    durable_fini(&s->id_file);
    durable_fini(&s->map_file);
    durable_fini(&s->joined_file);
    joined_fini(s);
    durable_init(&s->id_file, s->vfs, s->dir, "identity");
    durable_init(&s->map_file, s->vfs, s->dir, "map");
    durable_init(&s->joined_file, s->vfs, s->dir, "joined");
}

static int open_all(struct storage_server *s)
{
    int r = open_dir(s);

    if (r == 0)
        r = aside_put(s, false);
    if (r == 0)
        r = failing_load(s);
    if (r == 0)
        r = open_files(s);
    if (r == -TC_E_DAMAGED) {
        forget_files(s);
        r = aside_put(s, true);
        if (r == 0)
            r = open_files(s);
    }
    if (r < 0)
        return r;
    r = env_listen(s->env, s->listen, on_msg, s, &s->port);
    if (r < 0) {
        LOG_ERR("storage", "cannot listen", "endpoint=%s err=%s", s->listen, tc_error_name(r));
        return r;
    }
    s->aside = aside_keeper_new(s->env, s->dir, "damaged");
    scrub_open(s);
    r = recovery_open(s);
    return r < 0 ? r : leader_open(s);
}

int storage_server_open(struct env *env, const struct storage_config *cfg, struct storage_server **ret_server)
{
    struct storage_server *s = tc_calloc(1, sizeof(*s));
    int r;

    s->env = env;
    s->vfs = env_vfs(env);
    s->cfg = *cfg;
    s->dir = tc_strdup(cfg->dir);
    s->listen = tc_strdup(cfg->listen);
    s->advertise = tc_strdup(cfg->advertise ? cfg->advertise : cfg->listen);
    s->zone = tc_strdup(cfg->zone ? cfg->zone : "");
    s->wait_timer.fn = wait_sweep;
    s->held_task.fn = held_run;
    pace_init(&s->pace);
    env_queue_init(env, &s->jobs, true);
    durable_init(&s->id_file, s->vfs, s->dir, "identity");
    durable_init(&s->map_file, s->vfs, s->dir, "map");
    durable_init(&s->joined_file, s->vfs, s->dir, "joined");
    r = open_all(s);
    if (r < 0) {
        storage_server_close(s);
        return r;
    }
    LOG_INFO("storage", "serving", "node=%u store=%016llx start=%llu listen=%s map=%llu", s->cfg.node,
             (unsigned long long)s->id.store, (unsigned long long)s->id.start, s->listen,
             (unsigned long long)(s->map ? s->map->epoch : 0));
    *ret_server = s;
    return 0;
}

void storage_server_close(struct storage_server *s)
{
    struct request *q, *tmp;

    if (!s)
        return;
    s->closing = true;
    scrub_close(s);
    recovery_close(s);
    leader_close(s);
    for (uint32_t i = 0; i < s->n_peers; i++)
        rpc_link_close(s->peers[i]);
    env_port_close(s->port);
    env_timer_cancel(s->env, &s->wait_timer);
    env_defer_cancel(s->env, &s->held_task);
    chunk_store_close(s->cs);
    DL_FOREACH_SAFE(s->requests, q, tmp) {
        request_free(q);
    }
    map_free(s->map);
    map_free(s->map_new);
    buf_unref(s->map_bytes);
    buf_unref(s->map_new_bytes);
    durable_fini(&s->id_file);
    durable_fini(&s->map_file);
    durable_fini(&s->joined_file);
    joined_fini(s);
    s->aside = aside_keeper_free(s->aside);
    vfs_close(s->lock);
    free(s->dir);
    free(s->listen);
    free(s->advertise);
    free(s->zone);
    free(s);
}

uint32_t storage_server_busy(const struct storage_server *s)
{
    return s->busy + chunk_store_busy(s->cs);
}

void storage_server_checkpoint(struct storage_server *s)
{
    chunk_store_checkpoint(s->cs);
}

void storage_server_status(struct storage_server *s, struct storage_status *ret_status)
{
    struct chunk_store_stats st;

    chunk_store_stats(s->cs, &st);
    *ret_status = (struct storage_status){
        .store = s->id.store,
        .start = s->id.start,
        .map_epoch = s->map ? s->map->epoch : 0,
        .registered = s->registered,
        .chunks = st.chunks,
        .used = st.blocks * BLOCK_SIZE,
        .free = st.free,
        .behind = recovery_behind(s),
    };
}
