/* SPDX-License-Identifier: Apache-2.0 */
#include "meta/raft_wire.h"

#include <string.h>
#include <xxhash.h>

#include "common/schema.h"

WIRE_DEFINE(raft_wire, RAFT_WIRE)

static struct buf *entries_pack(const struct raft_entry *e, uint32_t n)
{
    size_t size = 0;
    struct buf *b;

    for (uint32_t i = 0; i < n; i++)
        size += RAFT_WIRE_ENTRY_HEADER + e[i].len;
    b = buf_new((uint32_t)size);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *p = b->data + b->len;

        memcpy(p, &e[i].term, 8);
        memcpy(p + 8, &e[i].type, 4);
        memcpy(p + 12, &e[i].len, 4);
        if (e[i].len > 0)
            memcpy(p + RAFT_WIRE_ENTRY_HEADER, e[i].data, e[i].len);
        b->len += RAFT_WIRE_ENTRY_HEADER + e[i].len;
    }
    return b;
}

static int entries_unpack(const struct buf *b, uint64_t prev, uint32_t n,
                          struct raft_wire_scratch *scratch)
{
    size_t at = 0;
    size_t size = b ? b->len : 0;

    if (n > RAFT_BATCH_MAX || (uint64_t)n * RAFT_WIRE_ENTRY_HEADER > size)
        return n == 0 && size == 0 ? 0 : -TC_E_BAD_MESSAGE;
    if (n > scratch->cap) {
        scratch->cap = n;
        scratch->entries = tc_realloc(scratch->entries, n * sizeof scratch->entries[0]);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct raft_entry *e = &scratch->entries[i];

        if (size - at < RAFT_WIRE_ENTRY_HEADER)
            return -TC_E_BAD_MESSAGE;
        memcpy(&e->term, b->data + at, 8);
        memcpy(&e->type, b->data + at + 8, 4);
        memcpy(&e->len, b->data + at + 12, 4);
        at += RAFT_WIRE_ENTRY_HEADER;
        if (size - at < e->len)
            return -TC_E_BAD_MESSAGE;
        e->index = prev + 1 + i;
        e->data = b->data + at;
        at += e->len;
    }
    return at == size ? 0 : -TC_E_BAD_MESSAGE;
}

static void pack_vote(const struct raft_msg *m, struct raft_wire *w)
{
    w->ask_term = m->vote.term;
    w->last_index = m->vote.last_index;
    w->last_term = m->vote.last_term;
    w->transfer = m->vote.transfer;
}

static void pack_append_res(const struct raft_msg *m, struct raft_wire *w)
{
    w->match = m->append_res.match;
    w->sent_at = m->append_res.sent_at;
    w->prev_index = m->append_res.prev_index;
    w->hint_index = m->append_res.hint_index;
    w->hint_term = m->append_res.hint_term;
    w->reject = m->append_res.reject;
}

static struct buf *pack_append(const struct raft_msg *m, struct raft_wire *w)
{
    w->prev_index = m->append.prev_index;
    w->prev_term = m->append.prev_term;
    w->commit = m->append.commit;
    w->sent_at = m->append.sent_at;
    w->n = m->append.n;
    return m->append.n > 0 ? entries_pack(m->append.entries, m->append.n) : NULL;
}

static struct buf *pack_snapshot(const struct raft_msg *m, struct raft_wire *w, uint8_t *config)
{
    w->snap_id = m->snapshot.id;
    w->snap_index = m->snapshot.index;
    w->snap_term = m->snapshot.index_term;
    w->offset = m->snapshot.offset;
    w->sent_at = m->snapshot.sent_at;
    w->last = m->snapshot.last;
    w->config.p = config;
    w->config.n = raft_config_encode(m->snapshot.config, config);
    return m->snapshot.len > 0 ? buf_copy(m->snapshot.data, m->snapshot.len) : NULL;
}

static void pack_snapshot_res(const struct raft_msg *m, struct raft_wire *w)
{
    w->snap_id = m->snapshot_res.id;
    w->offset = m->snapshot_res.offset;
    w->sent_at = m->snapshot_res.sent_at;
    w->done = m->snapshot_res.done;
    w->failed = m->snapshot_res.failed;
    w->match = m->snapshot_res.match;
}

struct buf *raft_wire_encode(const struct raft_msg *m, uint64_t cluster, const char *endpoint,
                             struct buf **ret_payload)
{
    struct raft_wire w = {.type = m->type, .from = m->from, .to = m->to, .term = m->term,
                          .incarnation = m->incarnation};
    struct wire_header h = {.kind = WIRE_NOTICE, .type = MSG_RAFT, .cluster = cluster};
    uint8_t config[RAFT_CONFIG_BYTES_MAX];
    struct buf *payload = NULL;

    if (endpoint)
        w.endpoint = wire_str_of(endpoint);
    switch (m->type) {
    case RAFT_MSG_PREVOTE:
    case RAFT_MSG_VOTE:
        pack_vote(m, &w);
        break;
    case RAFT_MSG_PREVOTE_RES:
    case RAFT_MSG_VOTE_RES:
        w.ask_term = m->vote_res.term;
        w.granted = m->vote_res.granted;
        break;
    case RAFT_MSG_APPEND:
        payload = pack_append(m, &w);
        break;
    case RAFT_MSG_APPEND_RES:
        pack_append_res(m, &w);
        break;
    case RAFT_MSG_SNAPSHOT:
        payload = pack_snapshot(m, &w, config);
        break;
    case RAFT_MSG_SNAPSHOT_RES:
        pack_snapshot_res(m, &w);
        break;
    case RAFT_MSG_TIMEOUT_NOW:
        w.last_index = m->timeout_now.last_index;
        w.last_term = m->timeout_now.last_term;
        break;
    case RAFT_MSG_READ:
    case RAFT_MSG_READ_RES:
        w.read_id = m->read.id;
        w.read_index = m->read.index;
        w.failed = m->read.failed;
        break;
    default:
        ASSERT(false);
    }
    if (payload) {
        h.payload_len = payload->len;
        w.payload_sum = XXH3_64bits(payload->data, payload->len);
    }
    *ret_payload = payload;
    return wire_encode_frame(&h, &raft_wire_schema, &w);
}

static int unpack_snapshot(const struct raft_wire *w, const struct buf *payload,
                           struct raft_wire_scratch *scratch, struct raft_msg *m)
{
    if (raft_config_decode(w->config.p, w->config.n, &scratch->config) < 0)
        return -TC_E_BAD_MESSAGE;
    m->snapshot.id = w->snap_id;
    m->snapshot.index = w->snap_index;
    m->snapshot.index_term = w->snap_term;
    m->snapshot.offset = w->offset;
    m->snapshot.sent_at = w->sent_at;
    m->snapshot.config = &scratch->config;
    m->snapshot.data = payload ? payload->data : NULL;
    m->snapshot.len = payload ? payload->len : 0;
    m->snapshot.last = w->last;
    return 0;
}

static int unpack_append(const struct raft_wire *w, const struct buf *payload,
                         struct raft_wire_scratch *scratch, struct raft_msg *m)
{
    int err = entries_unpack(payload, w->prev_index, w->n, scratch);

    m->append.prev_index = w->prev_index;
    m->append.prev_term = w->prev_term;
    m->append.commit = w->commit;
    m->append.sent_at = w->sent_at;
    m->append.entries = scratch->entries;
    m->append.n = w->n;
    return err;
}

static int unpack(const struct raft_wire *w, const struct buf *payload,
                  struct raft_wire_scratch *scratch, struct raft_msg *m)
{
    switch (m->type) {
    case RAFT_MSG_PREVOTE:
    case RAFT_MSG_VOTE:
        m->vote.term = w->ask_term;
        m->vote.last_index = w->last_index;
        m->vote.last_term = w->last_term;
        m->vote.transfer = w->transfer;
        return 0;
    case RAFT_MSG_PREVOTE_RES:
    case RAFT_MSG_VOTE_RES:
        m->vote_res.term = w->ask_term;
        m->vote_res.granted = w->granted;
        return 0;
    case RAFT_MSG_APPEND:
        return unpack_append(w, payload, scratch, m);
    case RAFT_MSG_APPEND_RES:
        m->append_res.match = w->match;
        m->append_res.sent_at = w->sent_at;
        m->append_res.prev_index = w->prev_index;
        m->append_res.hint_index = w->hint_index;
        m->append_res.hint_term = w->hint_term;
        m->append_res.reject = w->reject;
        return 0;
    case RAFT_MSG_SNAPSHOT:
        return unpack_snapshot(w, payload, scratch, m);
    case RAFT_MSG_SNAPSHOT_RES:
        m->snapshot_res.id = w->snap_id;
        m->snapshot_res.offset = w->offset;
        m->snapshot_res.sent_at = w->sent_at;
        m->snapshot_res.done = w->done;
        m->snapshot_res.failed = w->failed;
        m->snapshot_res.match = w->match;
        return 0;
    case RAFT_MSG_TIMEOUT_NOW:
        m->timeout_now.last_index = w->last_index;
        m->timeout_now.last_term = w->last_term;
        return 0;
    case RAFT_MSG_READ:
    case RAFT_MSG_READ_RES:
        m->read.id = w->read_id;
        m->read.index = w->read_index;
        m->read.failed = w->failed;
        return 0;
    default:
        return -TC_E_BAD_MESSAGE;
    }
}

int raft_wire_decode(struct slice body, const struct buf *payload,
                     struct raft_wire_scratch *scratch, struct raft_msg *ret)
{
    struct wire_arena arena = {0};
    struct raft_wire w;
    struct raft_msg m = {0};
    int err = wire_decode(body, &raft_wire_schema, &arena, &w);

    wire_arena_fini(&arena); /* the table has no lists */
    if (err < 0)
        return err;
    if (payload && payload->len > 0 &&
        XXH3_64bits(payload->data, payload->len) != w.payload_sum)
        return -TC_E_BAD_MESSAGE;
    m.type = w.type;
    m.from = w.from;
    m.to = w.to;
    m.term = w.term;
    m.incarnation = w.incarnation;
    scratch->endpoint = w.endpoint;
    err = unpack(&w, payload, scratch, &m);
    if (err == 0)
        *ret = m;
    return err;
}
