/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raft's messages: bytes that pass the decoder are encoded again to the same message, and a core takes
 * them, whatever they say, without breaking a belief of its own. The input is a body's length (u16), a body and a
 * payload, and again, as long as there is more.
 */
#include <string.h>
#include <xxhash.h>

#include "common/schema.h"
#include "fuzz/fuzz.h"
#include "meta/raft_wire.h"
#include "unit/wire-gen.h"

static struct raft *core_new(void)
{
    struct raft_cfg cfg = {.id = 1, .term = 2, .now = NS_PER_S, .seed = 5};
    struct raft_config c = {.n = 3};
    uint8_t buf[RAFT_CONFIG_BYTES_MAX];
    struct raft_entry e = {.index = 1, .term = 1, .type = RAFT_ENTRY_CONFIG, .data = buf};
    struct raft *r = raft_new(&cfg);
    int err;

    for (uint32_t i = 0; i < 3; i++)
        c.members[i] = (struct raft_member){i + 1, 0, RAFT_VOTER};
    e.len = raft_config_encode(&c, buf);
    err = raft_restore_entry(r, &e);
    for (uint64_t i = 2; i < 6 && err == 0; i++) {
        e = (struct raft_entry){.index = i, .term = 1 + i / 4, .type = RAFT_ENTRY_DATA};
        err = raft_restore_entry(r, &e);
    }
    if (err == 0)
        err = raft_restore_done(r, 2);
    ASSERT(err == 0);
    return r;
}

/* The disk and the state machine are as fast as can be. */
static void obey(struct raft *r, const struct raft_update *first, uint64_t now)
{
    struct raft_update up = *first;

    for (int k = 0; k < 8 && up.flags != 0; k++) {
        struct raft_event ev = {.type = RAFT_EV_FLUSH, .now = now};

        if (up.flags & RAFT_SAVE_STATE) {
            ev.type = RAFT_EV_STATE_SAVED;
            ev.seq = up.state_seq;
        } else if (up.flags & RAFT_SAVE_ENTRIES) {
            ev.type = RAFT_EV_PERSISTED;
            ev.seq = up.save_seq;
        } else if (up.flags & RAFT_STORE_PIECE) {
            ev.type = up.piece->snapshot.last ? RAFT_EV_SNAP_INSTALLED : RAFT_EV_SNAP_STORED;
            ev.snap_id = up.piece->snapshot.id;
            ev.offset = up.piece->snapshot.offset + up.piece->snapshot.len;
        } else if (up.flags & RAFT_APPLY) {
            ev.type = RAFT_EV_APPLIED;
            ev.index = up.apply_to;
        }
        ASSERT(raft_step(r, &ev, &up) == 0);
    }
}

static void step_msg(struct raft *r, const struct raft_msg *m, uint64_t now)
{
    struct raft_event ev = {.type = RAFT_EV_RECV, .now = now, .recv = m};
    struct raft_update up;

    ASSERT(raft_step(r, &ev, &up) == 0);
    obey(r, &up, now);
    ev.type = RAFT_EV_TICK;
    ASSERT(raft_step(r, &ev, &up) == 0);
    obey(r, &up, now);
}

static void check_again(const struct raft_msg *m)
{
    struct raft_wire_scratch scratch = {0};
    struct raft_msg again;
    struct buf *payload, *frame = raft_wire_encode(m, 3, NULL, &payload);
    struct wire_header h;
    struct slice body;

    ASSERT(wire_check_frame(slice_of(frame->data, frame->len), &h, &body) == 0);
    ASSERT(h.payload_len == (payload ? payload->len : 0));
    ASSERT(raft_wire_decode(body, payload, &scratch, &again) == 0);
    ASSERT(again.type == m->type && again.term == m->term && again.from == m->from);
    free(scratch.entries);
    buf_unref(frame);
    buf_unref(payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct raft_wire_scratch scratch = {0};
    struct raft *r = core_new();
    uint64_t now = NS_PER_S;

    while (size > 4) {
        uint16_t len[2];
        struct raft_msg m;
        struct buf *payload = NULL;

        memcpy(len, data, 4);
        data += 4;
        size -= 4;
        len[0] = (uint16_t)MIN(len[0], size);
        len[1] = (uint16_t)MIN(len[1], size - len[0]);
        if (len[1] > 0)
            payload = buf_copy(data + len[0], len[1]);
        if (wire_shape_check(slice_of(data, len[0])) == 0 &&
            raft_wire_decode(slice_of(data, len[0]), payload, &scratch, &m) == 0) {
            check_again(&m);
            now += 120 * NS_PER_MS;
            if (m.from >= 1 && m.from <= 3)
                step_msg(r, &m, now);
        }
        buf_unref(payload);
        data += len[0] + len[1];
        size -= (size_t)len[0] + len[1];
    }
    free(scratch.entries);
    raft_free(r);
    return 0;
}

static uint64_t rng;

static uint64_t below(uint64_t n)
{
    uint64_t z = (rng += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return (z ^ (z >> 31)) % n;
}

/* Any message with small numbers, so that they meet. */
static void gen(struct raft_msg *m, struct raft_entry *entries, struct raft_config *c)
{
    *m = (struct raft_msg){.type = 1 + (uint32_t)below(9), .from = 1 + below(3), .to = 1,
                           .term = below(6), .incarnation = below(8) ? 0 : 7};
    switch (m->type) {
    case RAFT_MSG_APPEND:
        m->append.prev_index = below(8);
        m->append.prev_term = below(4);
        m->append.commit = below(10);
        m->append.sent_at = below(4) * NS_PER_S;
        m->append.n = (uint32_t)below(4);
        m->append.entries = entries;
        for (uint32_t i = 0; i < m->append.n; i++)
            entries[i] = (struct raft_entry){.term = below(6), .type = 1 + (uint32_t)below(2),
                                             .index = m->append.prev_index + 1 + i};
        break;
    case RAFT_MSG_APPEND_RES:
        m->append_res.match = below(9);
        m->append_res.sent_at = below(3) * NS_PER_S;
        m->append_res.prev_index = below(9);
        m->append_res.hint_index = below(9);
        m->append_res.hint_term = below(5);
        m->append_res.reject = below(2);
        break;
    case RAFT_MSG_SNAPSHOT:
        *c = (struct raft_config){.n = 2, .members = {{1, 0, RAFT_VOTER}, {2, 0, RAFT_VOTER}}};
        m->snapshot.id = below(3);
        m->snapshot.index = below(12);
        m->snapshot.index_term = below(6);
        m->snapshot.offset = below(2) * 4;
        m->snapshot.config = c;
        m->snapshot.data = (const uint8_t *)"data";
        m->snapshot.len = 4;
        m->snapshot.last = below(2);
        break;
    case RAFT_MSG_SNAPSHOT_RES:
        m->snapshot_res.id = below(3);
        m->snapshot_res.offset = below(9);
        m->snapshot_res.done = below(2);
        m->snapshot_res.match = below(9);
        break;
    case RAFT_MSG_TIMEOUT_NOW:
        m->timeout_now.last_index = below(8);
        m->timeout_now.last_term = below(4);
        break;
    case RAFT_MSG_PREVOTE_RES:
    case RAFT_MSG_VOTE_RES:
        m->vote_res.term = below(6);
        m->vote_res.granted = below(2);
        break;
    default:
        m->vote.term = below(6);
        m->vote.last_index = below(9);
        m->vote.last_term = below(5);
        m->vote.transfer = below(2);
        break;
    }
}

size_t fuzz_seed(uint64_t n, uint8_t *buf, size_t cap)
{
    size_t at = 0;

    if (n >= 500)
        return 0;
    rng = n;
    for (uint64_t k = 0; k < 1 + n % 12; k++) {
        struct raft_entry entries[4];
        struct raft_config c;
        struct raft_msg m;
        struct buf *payload, *frame;
        struct wire_header h;
        struct slice body;
        uint16_t len[2];

        gen(&m, entries, &c);
        frame = raft_wire_encode(&m, 3, NULL, &payload);
        ASSERT(wire_check_frame(slice_of(frame->data, frame->len), &h, &body) == 0);
        len[0] = (uint16_t)body.len;
        len[1] = (uint16_t)(payload ? payload->len : 0);
        if (at + 4 + len[0] + len[1] <= cap) {
            memcpy(buf + at, len, 4);
            memcpy(buf + at + 4, body.data, len[0]);
            if (payload)
                memcpy(buf + at + 4 + len[0], payload->data, len[1]);
            at += 4 + (size_t)len[0] + len[1];
        }
        buf_unref(frame);
        buf_unref(payload);
    }
    return at;
}
