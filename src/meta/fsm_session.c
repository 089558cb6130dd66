/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions and kept replies (PROTOCOL 2).
 *
 * A session that ends keeps its row and its replies until FORGET, for clients that ask for the fate
 * of what they had in flight. Its X rows are not touched: they are dead because the session is not
 * live.
 *
 * The watermark is in every kept reply's row, so it costs no row of its own: the reply that bore
 * the highest one is never below it, hence still kept.
 */
#include "common/test_rules.h"
#include "meta/fsm_int.h"

struct session *session_find(const struct fsm *f, uint64_t id)
{
    struct session *s;

    HASH_FIND(hh, f->sessions, &id, sizeof(id), s);
    return s;
}

bool fsm_session_live(const struct fsm *f, uint64_t session)
{
    const struct session *s = session_find(f, session);

    return s && s->state == FSM_SESSION_LIVE;
}

static void session_save(struct fsm *f, const struct session *s)
{
    uint8_t row[512];
    struct rowbuf b = {row, row + sizeof(row), false};

    put_u8(&b, FSM_FORMAT_VERSION);
    put_u8(&b, (uint8_t)s->state);
    put_u32(&b, s->incarnation);
    put_u64(&b, s->root);
    put_u64(&b, s->nonce);
    put_u64(&b, s->opened);
    put_u64(&b, s->ended);
    put_u64(&b, s->open_epoch);
    put_u32(&b, s->ttl_ms);
    put_bytes(&b, s->client, strlen(s->client));
    row_put(f, key_u64(TAB_SESSION, s->id), row, (size_t)(b.p - row));
}

static struct session *session_new(struct fsm *f, uint64_t id)
{
    struct session *s = tc_calloc(1, sizeof(*s));

    s->id = id;
    HASH_ADD(hh, f->sessions, id, sizeof(s->id), s);
    return s;
}

static bool session_decode(struct session *s, struct slice row)
{
    struct rowget g = rowget_of(row);
    uint8_t version = get_u8(&g);
    size_t n;

    s->state = get_u8(&g);
    s->incarnation = get_u32(&g);
    s->root = get_u64(&g);
    s->nonce = get_u64(&g);
    s->opened = get_u64(&g);
    s->ended = get_u64(&g);
    s->open_epoch = get_u64(&g);
    s->ttl_ms = get_u32(&g);
    n = (size_t)(g.end - g.p);
    if (g.bad || version != FSM_FORMAT_VERSION || n >= sizeof(s->client))
        return false;
    memcpy(s->client, g.p, n);
    return true;
}

/* ---- replies --------------------------------------------------------------------------------- */

static void kept_set(struct session *s, uint64_t seq, bool on)
{
    uint64_t i = seq % FSM_SEQ_WINDOW, bit = UINT64_C(1) << (i % 64);

    if (on)
        s->kept[i / 64] |= bit;
    else
        s->kept[i / 64] &= ~bit;
}

bool reply_kept(const struct session *s, uint64_t seq)
{
    uint64_t i = seq % FSM_SEQ_WINDOW;

    return seq > s->watermark && seq - s->watermark <= FSM_SEQ_WINDOW &&
           (s->kept[i / 64] >> (i % 64) & 1);
}

/* Keep the outcome in f->res as the reply to @seq, and drop those that @watermark says are
 * finished. */
void reply_save(struct fsm *f, struct session *s, uint64_t seq, uint64_t watermark)
{
    const struct fsm_result *res = f->res;
    size_t n = res->body ? res->body->len : 0;
    uint8_t fixed[1024];
    uint8_t *row = n + 16 <= sizeof(fixed) ? fixed : tc_malloc(n + 16);
    struct rowbuf b = {row, row + n + 16, false};

    if (watermark > s->watermark) {
        uint64_t upto = MIN(watermark, s->watermark + FSM_SEQ_WINDOW);

        for (uint64_t old = s->watermark + 1; old <= upto; old++) {
            if (reply_kept(s, old)) {
                row_del_once(f, key_u64x2(TAB_REPLY, s->id, old));
                kept_set(s, old, false);
            }
        }
        s->watermark = watermark;
    }
    ASSERT(seq > s->watermark && seq - s->watermark <= FSM_SEQ_WINDOW);
    /* row_del_once() relies on it. */
    ASSERT(!reply_kept(s, seq) || (f->rules_off & (FSM_RULE_ONCE | FSM_RULE_WATERMARK)) || !TC_RULE(EXACTLY_ONCE));
    put_u8(&b, FSM_FORMAT_VERSION);
    put_u8(&b, (uint8_t)res->type);
    put_u32(&b, tc_error_to_wire(res->status));
    put_u64(&b, s->watermark);
    if (n)
        put_bytes(&b, res->body->data, n);
    row_put(f, key_u64x2(TAB_REPLY, s->id, seq), row, (size_t)(b.p - row));
    kept_set(s, seq, true);
    if (row != fixed)
        free(row);
}

static bool reply_decode(struct slice row, uint32_t *ret_type, int *ret_status,
                         uint64_t *ret_watermark, struct slice *ret_body)
{
    struct rowget g = rowget_of(row);
    uint8_t version = get_u8(&g);

    *ret_type = get_u8(&g);
    *ret_status = tc_error_from_wire(get_u32(&g));
    *ret_watermark = get_u64(&g);
    *ret_body = slice_of(g.p, (size_t)(g.end - g.p));
    return !g.bad && version == FSM_FORMAT_VERSION;
}

int reply_load(struct fsm *f, uint64_t session, uint64_t seq, struct fsm_result *ret)
{
    struct kv_value v = {0};
    uint64_t watermark;
    struct slice body;
    uint32_t type;
    int status;
    int r = row_get(f, key_u64x2(TAB_REPLY, session, seq), &v);

    if (r < 0)
        return r;
    if (!reply_decode(value_slice(&v), &type, &status, &watermark, &body)) {
        kv_value_free(&v);
        io_fail(f, -TC_E_DAMAGED);
        return f->io_error;
    }
    ret->type = type;
    ret->status = status;
    ret->session = session;
    ret->seq = seq;
    ret->duplicate = true;
    buf_unref(ret->body);
    ret->body = body.len ? buf_copy(body.data, (uint32_t)body.len) : NULL;
    kv_value_free(&v);
    return 0;
}

/* ---- loading --------------------------------------------------------------------------------- */

static struct key table_start(uint8_t table)
{
    return (struct key){.b = {table}, .n = 1};
}

static int load_rows(struct fsm *f)
{
    struct row_bounds bounds;
    struct kv_iter *it =
        row_iter(f, &bounds, table_start(TAB_SESSION), table_start(TAB_SESSION + 1));
    int r = 0;

    for (; kv_iter_valid(it) && r == 0; kv_iter_next(it)) {
        if (kv_iter_key(it).len != 9 ||
            !session_decode(session_new(f, key_get_u64(kv_iter_key(it), 1)), kv_iter_value(it)))
            r = -TC_E_DAMAGED;
    }
    row_iter_end(f, it);
    return r;
}

static int load_replies(struct fsm *f)
{
    for (int pass = 0; pass < 2; pass++) { /* the watermarks first: what is kept lies above them */
        struct row_bounds bounds;
        struct kv_iter *it =
            row_iter(f, &bounds, table_start(TAB_REPLY), table_start(TAB_REPLY + 1));
        int r = 0;

        for (; kv_iter_valid(it) && r == 0; kv_iter_next(it)) {
            struct session *s = session_find(f, key_get_u64(kv_iter_key(it), 1));
            uint64_t watermark;
            struct slice body;
            uint32_t type;
            int status;

            if (!s || !reply_decode(kv_iter_value(it), &type, &status, &watermark, &body))
                r = -TC_E_DAMAGED;
            else if (pass == 0)
                s->watermark = MAX(s->watermark, watermark);
            else
                kept_set(s, key_get_u64(kv_iter_key(it), 9), true);
        }
        row_iter_end(f, it);
        if (r < 0)
            return r;
    }
    return 0;
}

int session_load(struct fsm *f)
{
    struct row_bounds bounds;
    struct kv_iter *it;
    int r = load_rows(f);

    if (r == 0)
        r = load_replies(f);
    if (r < 0)
        return r;
    it = row_iter(f, &bounds, table_start(TAB_XHELD), table_start(TAB_XHELD + 1));
    for (; kv_iter_valid(it); kv_iter_next(it)) {
        struct session *s = session_find(f, key_get_u64(kv_iter_key(it), 1));

        if (s)
            s->n_x++;
    }
    row_iter_end(f, it);
    return f->io_error;
}

/* ---- opening and ending ---------------------------------------------------------------------- */

/* Walk @path from the root of the filesystem; symbolic links are not followed. */
static int resolve(struct fsm *f, struct wire_str path, uint64_t *ret_ino)
{
    uint64_t ino = INO_ROOT;
    uint32_t at = 0;

    while (at < path.n) {
        const char *slash = memchr(path.p + at, '/', path.n - at);
        struct wire_str name = {path.p + at, slash ? (uint32_t)(slash - path.p) - at : path.n - at};
        struct dslot slot;
        int r;

        at += name.n + 1;
        if (name.n == 0)
            continue;
        r = name_check(name);
        if (r == 0)
            r = dslot_find(f, ino, name, &slot);
        if (r < 0)
            return r;
        if (!slot.found)
            return -TC_E_NOENT;
        if (!S_ISDIR(slot.mode))
            return -TC_E_NOTDIR;
        ino = slot.ino;
    }
    *ret_ino = ino;
    return 0;
}

void session_end(struct fsm *f, struct session *s, enum fsm_session_state state)
{
    s->state = state;
    s->ended = f->now;
    session_save(f, s);
    effect_add(f, FSM_SESSION_ENDED, 0, s->id);
    /* One that closed with nothing in its hands has nothing that could arrive late. */
    if (f->rules_off & FSM_RULE_FENCE)
        return;
    if (state == FSM_SESSION_EXPIRED || s->n_x > 0) {
        dead_add(f, s->id, UINT32_MAX);
        map_touch(f);
    }
}

static void answer_open(struct fsm *f, const struct session *s)
{
    struct session_open_res res = {.session = s->id,
                                   .incarnation = 1,
                                   .ttl_ms = s->ttl_ms,
                                   .root = s->root,
                                   .time = s->opened,
                                   .map_epoch = s->open_epoch};

    f->res->session = s->id;
    answer(f, &session_open_res_schema, &res);
}

int op_session_open(struct fsm *f, const struct session_open_req *req)
{
    struct kv_value v = {0};
    struct session *s, *old;
    uint64_t root, be;
    int r = row_get(f, key_u64(TAB_NONCE, req->nonce), &v);

    if (r == 0) {
        s = v.len == 8 ? session_find(f, key_get_u64(value_slice(&v), 0)) : NULL;
        kv_value_free(&v);
        if (!s || s->state != FSM_SESSION_LIVE)
            return -TC_E_SESSION_EXPIRED;
        f->res->duplicate = true;
        answer_open(f, s);
        return 0;
    }
    if (r != -TC_E_NOENT)
        return r;
    if (req->client.n >= sizeof(s->client) ||
        memchr(req->client.p ? req->client.p : "", 0, req->client.n))
        return -TC_E_INVAL;
    r = resolve(f, req->root, &root);
    if (r < 0)
        return r;
    old = session_find(f, req->previous); /* the client says that it has given that one up */
    if (old && old->state == FSM_SESSION_LIVE)
        session_end(f, old, FSM_SESSION_EXPIRED);
    s = session_new(f, f->next_session++);
    s->incarnation = 1;
    s->state = FSM_SESSION_LIVE;
    s->root = root;
    s->nonce = req->nonce;
    s->opened = f->now;
    s->open_epoch = f->map_epoch;
    s->ttl_ms =
        f->expected && f->expected < UINT32_MAX ? (uint32_t)f->expected : FSM_SESSION_TTL_MS;
    if (req->client.n)
        memcpy(s->client, req->client.p, req->client.n);
    session_save(f, s);
    be = htobe64(s->id);
    row_put(f, key_u64(TAB_NONCE, s->nonce), &be, 8);
    effect_add(f, FSM_SESSION_OPENED, 0, s->id);
    answer_open(f, s);
    return 0;
}

int op_session_close(struct fsm *f, struct session *s)
{
    session_end(f, s, FSM_SESSION_CLOSED);
    return 0;
}

int op_session_expire(struct fsm *f, const struct cmd_sessions *cmd)
{
    for (uint32_t i = 0; i < cmd->sessions.n; i++) {
        struct session *s = session_find(f, cmd->sessions.items[i].session);

        if (s && s->state == FSM_SESSION_LIVE)
            session_end(f, s, FSM_SESSION_EXPIRED);
    }
    return 0;
}

void session_fence(struct fsm *f, struct session *s)
{
    dead_add(f, s->id, s->incarnation);
    map_touch(f);
    s->incarnation++;
    session_save(f, s);
    effect_add(f, FSM_SESSION_FENCED, 0, s->id)->epoch = s->incarnation;
}

int op_session_forget(struct fsm *f, const struct cmd_sessions *cmd)
{
    for (uint32_t i = 0; i < cmd->sessions.n; i++) {
        struct session *s = session_find(f, cmd->sessions.items[i].session);

        if (!s || s->state == FSM_SESSION_LIVE)
            continue;
        for (uint64_t seq = s->watermark + 1; seq <= s->watermark + FSM_SEQ_WINDOW; seq++) {
            if (reply_kept(s, seq))
                row_del_once(f, key_u64x2(TAB_REPLY, s->id, seq));
        }
        row_del(f, key_u64(TAB_NONCE, s->nonce));
        row_del(f, key_u64(TAB_SESSION, s->id));
        HASH_DEL(f->sessions, s);
        free(s);
    }
    return 0;
}
