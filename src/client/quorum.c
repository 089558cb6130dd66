/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The quorum engine: stores and their queues, one message per store and turn, matching of answers.
 * What a write or a read makes of the answers is in quorum_write.c and quorum_read.c.
 *
 * Ownership: operations belong to their callers' structs and leave by done(); requests and stores belong
 * to the engine. Everything runs on the loop.
 */
#include "client/quorum_internal.h"

#include "common/log.h"

static void send_task(struct env_task *t);
static void sweep(struct env_timer *t);

int quorum_open(struct env *env, const struct quorum_owner *owner, uint64_t cluster_tag, struct quorum **ret_q)
{
    struct quorum *q = tc_calloc(1, sizeof(*q));

    q->env = env;
    q->owner = *owner;
    q->cluster_tag = cluster_tag;
    q->next_id = env_random(env) | 1;
    q->send_task.fn = send_task;
    q->sweep_timer.fn = sweep;
    *ret_q = q;
    return 0;
}

static void request_free(struct quorum *q, struct qrequest *req)
{
    for (uint32_t i = 0; i < req->n; i++) {
        if (req->items[i].it)
            req->items[i].it->req = NULL;
    }
    HASH_DEL(q->by_id, req);
    DL_DELETE(req->store->requests, req);
    ASSERT(req->store->n_requests > 0 && req->store->bytes_in_flight >= req->bytes);
    req->store->n_requests--;
    req->store->bytes_in_flight -= req->bytes;
    free(req);
}

static void store_free(struct quorum *q, struct qstore *s)
{
    while (s->requests)
        request_free(q, s->requests);
    ASSERT(!s->write_queue && !s->read_queue);
    env_port_close(s->port);
    HASH_DEL(q->stores, s);
    free(s->endpoint);
    free(s);
}

void quorum_close(struct quorum *q)
{
    struct qop *op, *tmp;
    struct qstore *s, *stmp;

    if (!q)
        return;
    DL_FOREACH_SAFE(q->ops, op, tmp)
    {
        if (op->kind == QOP_WRITE)
            qwrite_free((struct qwrite_op *)op);
        else
            qread_free((struct qread_op *)op);
    }
    qseek_close(q);
    HASH_ITER(hh, q->stores, s, stmp)
    {
        store_free(q, s);
    }
    wire_arena_fini(&q->arena);
    env_defer_cancel(q->env, &q->send_task);
    env_timer_cancel(q->env, &q->sweep_timer);
    free(q);
}

void qop_init(struct quorum *q, struct qop *op, enum qop_kind kind)
{
    op->q = q;
    op->kind = kind;
    op->started = env_now(q->env);
    op->resend_delay = QUORUM_RESEND_MIN;
    DL_APPEND(q->ops, op);
}

void qop_fini(struct qop *op)
{
    for (unsigned i = 0; i < op->n_items; i++)
        qitem_leave(&op->items[i]);
    env_timer_cancel(op->q->env, &op->timer);
    DL_DELETE(op->q->ops, op);
}

/* Room for one more store: an operation that outlives many maps forgets those that have left the group. */
static unsigned item_room(struct qop *op, const struct map_pg *pg)
{
    unsigned i = op->n_items;

    if (i < QUORUM_ITEMS_MAX) {
        op->n_items++;
        return i;
    }
    for (i = 0; i < op->n_items && map_is_voter(pg, op->items[i].store); i++)
        ;
    ASSERT(i < op->n_items); /* a group and its next one fit */
    qitem_leave(&op->items[i]);
    if (op->kind == QOP_READ)
        qread_forget((struct qread_op *)op, i);
    return i;
}

static void add_item(struct qop *op, const struct map_pg *pg, uint64_t store, uint8_t set)
{
    for (unsigned i = 0; i < op->n_items; i++) {
        if (op->items[i].store == store) {
            op->items[i].set |= set;
            return;
        }
    }
    op->items[item_room(op, pg)] = (struct qitem){.op = op, .store = store, .set = set};
}

bool qop_place(struct qop *op, uint64_t ino, uint32_t index)
{
    struct map *m = op->q->owner.map(op->q->owner.arg);
    const struct map_pg *pg;

    if (!m || !m->pgs) {
        op->blocked = true;
        return false;
    }
    op->pg = map_pg_of(m, ino, index);
    pg = &m->pgs[op->pg];
    op->pg_epoch = pg->epoch;
    for (unsigned i = 0; i < op->n_items; i++)
        op->items[i].set = 0;
    for (unsigned i = 0; i < pg->n; i++)
        add_item(op, pg, pg->voters[i], QSET_C1);
    for (unsigned i = 0; i < pg->n_next; i++)
        add_item(op, pg, pg->next[i], QSET_C2);
    return true;
}

struct qstore *quorum_store(struct quorum *q, uint64_t id)
{
    struct qstore *s;

    HASH_FIND(hh, q->stores, &id, sizeof(id), s);
    return s;
}

bool qstore_suspect(const struct qstore *s, uint64_t now)
{
    if (!s || !(s->other || (s->silent_since && now > s->silent_since + QUORUM_SUSPECT_AFTER)))
        return false;
    return now <= s->last_sent + QUORUM_SILENT_AFTER; /* else it is due to be tried again */
}

void quorum_stale_map(struct quorum *q)
{
    q->owner.look_map(q->owner.arg);
}

/* ---- answers ---- */

static void fail_item(struct qitem *it, int status)
{
    struct qop *op = it->op;

    it->state = QITEM_FAILED;
    it->status = status;
    if (op->kind == QOP_WRITE)
        qwrite_on_fail((struct qwrite_op *)op, it, status);
    else
        qread_on_fail((struct qread_op *)op, it, status);
}

/* Take item @i out of the request; NULL if its operation no longer cares. */
static struct qitem *take_item(struct qrequest *req, uint32_t i)
{
    struct qitem *it = req->items[i].it;

    if (it) {
        req->items[i].it = NULL;
        ASSERT(it->req == req && it->state == QITEM_SENT);
        it->req = NULL;
        it->state = QITEM_IDLE;
    }
    return it;
}

static void fail_request(struct qrequest *req, int status)
{
    if (req->seek)
        qseek_on_fail(TAKE(req->seek), req->store->id);
    for (uint32_t i = 0; i < req->n; i++) {
        struct qitem *it = take_item(req, i);

        if (it)
            fail_item(it, status);
    }
}

static void on_write_res(struct qrequest *req, const struct write_res *res)
{
    if (res->items.n != req->n) {
        fail_request(req, -TC_E_BAD_MESSAGE);
        return;
    }
    for (uint32_t i = 0; i < req->n; i++) {
        struct qitem *it = take_item(req, i);

        if (it)
            qwrite_on_result((struct qwrite_op *)it->op, it, &res->items.items[i]);
    }
}

/* Bytes of payload that belong to one item's answer. */
static uint64_t read_payload(const struct read_result *res)
{
    return (uint64_t)(res->sums.n / 8) * BLOCK_SIZE;
}

static void on_read_res(struct qrequest *req, const struct read_res *res, struct buf *payload)
{
    uint64_t off = 0;

    if (res->items.n != req->n) {
        fail_request(req, -TC_E_BAD_MESSAGE);
        return;
    }
    for (uint32_t i = 0; i < req->n; i++) {
        const struct read_result *rr = &res->items.items[i];
        uint64_t len = req->items[i].want_data && rr->status == 0 ? read_payload(rr) : 0;
        struct qitem *it = take_item(req, i);

        if (it) {
            bool fits = len == 0 || (payload && off + len <= payload->len);

            if (!fits)
                fail_item(it, -TC_E_BAD_MESSAGE);
            else if (qread_on_result((struct qread_op *)it->op, it, rr, payload, off) < 0)
                fail_item(it, -TC_E_BAD_MESSAGE);
        }
        off += len;
    }
}

static void learn_latency(struct qstore *s, uint64_t latency)
{
    uint64_t step = s->hedge_estimate / 16 + 1;

    /* Stochastic quantile: rests where 19 of 20 answers are quicker. */
    if (latency > s->hedge_estimate)
        s->hedge_estimate += step;
    else
        s->hedge_estimate -= MIN(step / 19, s->hedge_estimate);
    s->hedge_estimate = MAX(QUORUM_HEDGE_MIN, MIN(QUORUM_HEDGE_MAX, s->hedge_estimate));
}

static void decode_reply(struct quorum *q, struct qrequest *req, const struct wire_header *h, struct slice body,
                         struct buf *payload)
{
    int r;

    wire_arena_reset(&q->arena);
    if (req->kind == QOP_WRITE) {
        struct write_res res;

        r = wire_decode(body, &write_res_schema, &q->arena, &res);
        if (r == 0 && h->type == MSG_WRITE) {
            on_write_res(req, &res);
            return;
        }
    } else if (req->kind == QOP_SEEK) {
        struct chunk_seek_res res;

        r = wire_decode(body, &chunk_seek_res_schema, &q->arena, &res);
        if (r == 0 && h->type == MSG_CHUNK_SEEK) {
            if (req->seek)
                qseek_on_result(TAKE(req->seek), req->store->id, &res);
            return;
        }
    } else {
        struct read_res res;

        r = wire_decode(body, &read_res_schema, &q->arena, &res);
        if (r == 0 && h->type == MSG_READ) {
            on_read_res(req, &res, payload);
            return;
        }
    }
    fail_request(req, -TC_E_BAD_MESSAGE);
}

static void on_message(void *arg, uint64_t peer TC_UNUSED, struct buf *head, struct buf *payload)
{
    struct qstore *s = arg;
    struct quorum *q = s->q;
    struct qrequest *req;
    struct wire_header h;
    struct slice body;
    int r;

    r = wire_check_frame(slice_of(head->data, head->len), &h, &body);
    if (r < 0 || h.kind != WIRE_REPLY) {
        LOG_WARN("quorum", "bad frame from a store, dropped", "store=%llx error=%s", (unsigned long long)s->id,
                 tc_error_name(r));
        return;
    }
    HASH_FIND(hh, q->by_id, &h.id, sizeof(h.id), req);
    if (!req || req->store != s)
        return; /* answered before, or given up */
    s->other = tc_error_from_wire(h.status) == -TC_E_WRONG_STORE;
    if (!s->other)
        learn_latency(s, env_now(q->env) - req->sent_at);
    s->silent_since = s->n_requests > 1 ? env_now(q->env) : 0;
    if (s->other)
        quorum_stale_map(q);
    /* The (session, incarnation) it was sent under is dead. If the session is, its owner is told by the leader and ends all
     * (quorum_session_changed()); if only the incarnation is, for another inode's sake, it goes again under the next. */
    if (s->other || tc_error_from_wire(h.status) == -TC_E_FENCED)
        fail_request(req, -TC_E_UNREACHABLE);
    else if (h.status != 0)
        fail_request(req, tc_error_from_wire(h.status));
    else
        decode_reply(q, req, &h, body, payload);
    request_free(q, req);
    if (s->write_queue || s->read_queue)
        env_defer(q->env, &q->send_task);
}

/* ---- sending ---- */

void qitem_leave(struct qitem *it)
{
    if (it->state == QITEM_QUEUED) {
        struct qstore *s = quorum_store(it->op->q, it->store);

        ASSERT(s);
        if (it->op->kind == QOP_WRITE)
            DL_DELETE(s->write_queue, it);
        else
            DL_DELETE(s->read_queue, it);
        it->state = QITEM_IDLE;
    } else if (it->state == QITEM_SENT) {
        if (it->req)
            it->req->items[it->req_pos].it = NULL;
        it->req = NULL;
        it->state = QITEM_IDLE;
    }
}

/* A port to where @s is now, in the place of the one it has, if any. */
static bool store_open(struct qstore *s, const char *endpoint)
{
    struct net_port *port;
    int r = env_connect(s->q->env, endpoint, on_message, s, &port);

    if (r < 0) {
        LOG_WARN("quorum", "cannot connect to a store", "store=%llx endpoint=%s error=%s", (unsigned long long)s->id,
                 endpoint, tc_error_name(r));
        return false;
    }
    env_port_close(s->port);
    free(s->endpoint);
    s->port = port;
    s->endpoint = tc_strdup(endpoint);
    s->hedge_estimate = 10 * NS_PER_MS;
    s->silent_since = 0;
    s->other = false;
    return true;
}

static struct qstore *store_connect(struct quorum *q, uint64_t id)
{
    struct map *m = q->owner.map(q->owner.arg);
    const struct map_store *ms = m ? map_store(m, id) : NULL;
    struct qstore *s = quorum_store(q, id);

    if (ms && !map_store_there(m, id))
        return NULL;
    if (s || !ms)
        return s;
    s = tc_calloc(1, sizeof(*s));
    s->id = id;
    s->q = q;
    if (!store_open(s, ms->endpoint)) {
        free(s);
        return NULL;
    }
    HASH_ADD(hh, q->stores, id, sizeof(s->id), s);
    return s;
}

/* Where stores have another address now: nobody answers what is under way to the old one, what waits goes to the new. */
static void stores_move(struct quorum *q)
{
    struct map *m = q->owner.map(q->owner.arg);
    struct qstore *s, *tmp;

    HASH_ITER(hh, q->stores, s, tmp)
    {
        const struct map_store *ms = m ? map_store_there(m, s->id) : NULL;

        if (!ms || strcmp(s->endpoint, ms->endpoint) == 0 || !store_open(s, ms->endpoint))
            continue;
        while (s->requests) {
            struct qrequest *req = s->requests;

            fail_request(req, -TC_E_UNREACHABLE);
            request_free(q, req);
        }
        env_defer(q->env, &q->send_task);
    }
}

void qitem_queue(struct qitem *it)
{
    struct quorum *q = it->op->q;
    struct qstore *s = store_connect(q, it->store);

    ASSERT(it->state == QITEM_IDLE || it->state == QITEM_FAILED);
    if (!s) {
        it->state = QITEM_FAILED;
        it->status = -TC_E_UNREACHABLE;
        return;
    }
    it->state = QITEM_QUEUED;
    if (it->op->kind == QOP_WRITE)
        DL_APPEND(s->write_queue, it);
    else
        DL_APPEND(s->read_queue, it);
    env_defer(q->env, &q->send_task);
}

static struct qrequest *request_new(struct qstore *s, enum qop_kind kind, uint32_t n)
{
    struct quorum *q = s->q;
    struct qrequest *req = tc_calloc(1, sizeof(*req) + n * sizeof(req->items[0]));

    req->id = q->next_id++;
    req->store = s;
    req->kind = kind;
    req->n = n;
    req->sent_at = env_now(q->env);
    HASH_ADD(hh, q->by_id, id, sizeof(req->id), req);
    DL_APPEND(s->requests, req);
    s->n_requests++;
    s->last_sent = req->sent_at;
    if (!s->silent_since)
        s->silent_since = req->sent_at;
    if (!env_timer_armed(&q->sweep_timer))
        env_timer_set(q->env, &q->sweep_timer, req->sent_at + QUORUM_PROBE_EVERY);
    return req;
}

static void request_take(struct qrequest *req, uint32_t i, struct qitem *it)
{
    req->items[i].it = it;
    req->items[i].want_data = it->want_data;
    it->state = QITEM_SENT;
    it->req = req;
    it->req_pos = i;
    it->sent_at = req->sent_at;
}

/* The payload of the last write message, kept for the turn: the three stores mostly get the same. */
struct shared_payload {
    struct buf *payload;
    struct qwrite *writes[QUORUM_MSG_ITEMS_MAX];
    uint32_t n;
};

static void unref_parent(struct buf *b)
{
    buf_unref(b->arg);
}

static struct buf *payload_of(struct shared_payload *sh, struct qwrite **writes, uint32_t n, uint64_t bytes)
{
    struct buf *b;

    if (bytes == 0)
        return NULL;
    if (sh->payload && sh->n == n && memcmp(sh->writes, writes, n * sizeof(*writes)) == 0)
        return buf_ref(sh->payload);
    if (n == 1) {
        b = buf_wrap(writes[0]->data->data + writes[0]->data_off, (uint32_t)bytes, unref_parent,
                     buf_ref(writes[0]->data));
    } else {
        b = buf_new((uint32_t)bytes);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t len = writes[i]->zero ? 0 : writes[i]->count * BLOCK_SIZE;

            if (len)
                memcpy(b->data + b->len, writes[i]->data->data + writes[i]->data_off, len);
            b->len += len;
        }
    }
    buf_unref(sh->payload);
    sh->payload = buf_ref(b);
    memcpy(sh->writes, writes, n * sizeof(*writes));
    sh->n = n;
    return b;
}

static void send_request(struct qrequest *req, enum msg_type type, const struct wire_schema *schema,
                         const void *body, struct buf *payload)
{
    struct quorum *q = req->store->q;
    struct wire_header h = {.kind = WIRE_REQUEST, .type = (uint16_t)type, .id = req->id, .cluster = q->cluster_tag};
    struct buf *head;
    int r;

    h.payload_len = payload ? payload->len : 0;
    head = wire_encode_frame(&h, schema, body);
    req->bytes = head->len + h.payload_len;
    req->store->bytes_in_flight += req->bytes;
    r = env_send(req->store->port, 0, head, payload);
    if (r < 0) {
        fail_request(req, r);
        request_free(q, req);
    }
}

static void send_writes(struct qstore *s, struct write_req *msg, struct shared_payload *sh)
{
    struct write_item items[QUORUM_MSG_ITEMS_MAX];
    struct qwrite *writes[QUORUM_MSG_ITEMS_MAX];
    struct qitem *batch[QUORUM_MSG_ITEMS_MAX];
    struct qrequest *req;
    uint64_t bytes = 0;
    uint32_t n = 0;

    msg->barrier = 0;
    while (s->write_queue && n < QUORUM_MSG_ITEMS_MAX) {
        struct qitem *it = s->write_queue;
        struct qwrite *w = ((struct qwrite_op *)it->op)->w;
        uint64_t len = w->zero ? 0 : (uint64_t)w->count * BLOCK_SIZE;

        if (n > 0 && bytes + len > QUORUM_MSG_BYTES_MAX)
            break;
        DL_DELETE(s->write_queue, it);
        qwrite_fill((struct qwrite_op *)it->op, &items[n]);
        msg->barrier = MAX(msg->barrier, w->barrier);
        writes[n] = w;
        batch[n++] = it;
        bytes += len;
    }
    msg->store = s->id;
    req = request_new(s, QOP_WRITE, n);
    for (uint32_t i = 0; i < n; i++)
        request_take(req, i, batch[i]);
    msg->items.items = items;
    msg->items.n = n;
    send_request(req, MSG_WRITE, &write_req_schema, msg, payload_of(sh, writes, n, bytes));
}

static void send_reads(struct qstore *s, struct read_req *msg)
{
    struct read_item items[QUORUM_MSG_ITEMS_MAX];
    struct qitem *batch[QUORUM_MSG_ITEMS_MAX];
    struct qrequest *req;
    uint64_t bytes = 0;
    uint32_t n = 0;

    msg->barrier = 0;
    while (s->read_queue && n < QUORUM_MSG_ITEMS_MAX) {
        struct qitem *it = s->read_queue;
        struct qread_op *o = (struct qread_op *)it->op;
        uint64_t len = it->want_data ? (uint64_t)o->r->count * BLOCK_SIZE : 0;

        if (n > 0 && bytes + len > QUORUM_MSG_BYTES_MAX)
            break;
        DL_DELETE(s->read_queue, it);
        qread_fill(o, it, &items[n]);
        msg->barrier = MAX(msg->barrier, o->r->barrier);
        batch[n++] = it;
        bytes += len;
    }
    msg->store = s->id;
    req = request_new(s, QOP_READ, n);
    for (uint32_t i = 0; i < n; i++)
        request_take(req, i, batch[i]);
    msg->items.items = items;
    msg->items.n = n;
    send_request(req, MSG_READ, &read_req_schema, msg, NULL);
}

static bool window_open(const struct qstore *s)
{
    uint64_t now = env_now(s->q->env);

    if (s->other || (s->silent_since && now > s->silent_since + QUORUM_SILENT_AFTER))
        return now > s->last_sent + QUORUM_PROBE_EVERY;
    return s->n_requests < QUORUM_WINDOW_REQUESTS && s->bytes_in_flight < QUORUM_WINDOW_BYTES;
}

int quorum_ask_seek(struct qseek_op *o, uint64_t store, const struct chunk_seek_req *msg)
{
    struct qstore *s = store_connect(o->q, store);
    struct qrequest *req;
    uint64_t session;
    uint32_t incarnation;

    if (!s)
        return -TC_E_UNREACHABLE;
    if (!window_open(s) || !o->q->owner.session(o->q->owner.arg, &session, &incarnation))
        return -TC_E_BACKPRESSURE;
    req = request_new(s, QOP_SEEK, 0);
    req->seek = o;
    send_request(req, MSG_CHUNK_SEEK, &chunk_seek_req_schema, msg, NULL);
    return 0;
}

void quorum_forget_seek(struct qseek_op *o)
{
    struct qrequest *req, *tmp;

    HASH_ITER(hh, o->q->by_id, req, tmp)
    {
        if (req->seek == o)
            req->seek = NULL;
    }
}

static void send_task(struct env_task *t)
{
    struct quorum *q = container_of(t, struct quorum, send_task);
    struct shared_payload sh = {.payload = NULL};
    struct qstore *s, *tmp;
    struct write_req wmsg = {0};
    struct read_req rmsg = {0};

    if (!q->owner.session(q->owner.arg, &wmsg.session, &wmsg.incarnation))
        return; /* quorum_session_changed() comes back here */
    rmsg.session = wmsg.session;
    rmsg.incarnation = wmsg.incarnation;
    /* Reads first: somebody waits for them. Then writes round-robin, a message per store at a time, so that
     * equal batches follow each other and share their payload. */
    HASH_ITER(hh, q->stores, s, tmp)
    {
        while (s->read_queue && window_open(s))
            send_reads(s, &rmsg);
    }
    for (bool more = true; more;) {
        more = false;
        HASH_ITER(hh, q->stores, s, tmp)
        {
            if (s->write_queue && window_open(s)) {
                send_writes(s, &wmsg, &sh);
                more = true;
            }
        }
    }
    buf_unref(sh.payload);
}

/* Forget what nobody will answer, and see whether silent stores may be tried again. */
static void sweep(struct env_timer *t)
{
    struct quorum *q = container_of(t, struct quorum, sweep_timer);
    uint64_t now = env_now(q->env);
    struct qstore *s, *tmp;
    bool busy = false;

    HASH_ITER(hh, q->stores, s, tmp)
    {
        while (s->requests && now > s->requests->sent_at + QUORUM_FORGET_AFTER) {
            struct qrequest *req = s->requests;

            fail_request(req, -TC_E_UNREACHABLE);
            request_free(q, req);
        }
        busy = busy || s->requests || s->write_queue || s->read_queue;
    }
    env_defer(q->env, &q->send_task);
    if (busy)
        env_timer_set(q->env, &q->sweep_timer, now + QUORUM_PROBE_EVERY);
}

/* ---- the owner's events ---- */

void quorum_map_changed(struct quorum *q)
{
    struct qop *op, *tmp;

    stores_move(q);
    DL_FOREACH_SAFE(q->ops, op, tmp)
    {
        op->blocked = false;
        if (op->kind == QOP_WRITE)
            qwrite_on_map((struct qwrite_op *)op);
        else
            qread_on_map((struct qread_op *)op);
    }
    qseek_on_map(q);
}

void quorum_session_changed(struct quorum *q, bool fenced)
{
    struct qop *op, *tmp;

    if (fenced) {
        qseek_on_fenced(q);
        DL_FOREACH_SAFE(q->ops, op, tmp)
        {
            if (op->kind == QOP_WRITE)
                qwrite_on_fenced((struct qwrite_op *)op);
            else
                qread_on_fenced((struct qread_op *)op);
        }
    }
    env_defer(q->env, &q->send_task);
}
