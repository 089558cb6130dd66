/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames and encoding of messages (wire.h). Decoding: wire_decode.c; printing: wire_print.c.
 *
 * The header's layout, little-endian:
 *
 *    0 magic "TCW"     3 version '1'    4 kind u8       5 zero u8      6 type u16
 *    8 status u32     12 body_len u32  16 payload_len u32             20 zero u32
 *   24 id u64         32 cluster u64   40 XXH3-64 of the whole frame with this field zero
 *
 * An encoder first adds up an upper bound of the size, so that the body is packed straight into the
 * buffer that is sent: one allocation per message. Stateless.
 */
#include "common/wire.h"
#include "common/le.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include <msgpack/pack.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { OFF_KIND = 4, OFF_TYPE = 6, OFF_STATUS = 8, OFF_BODY_LEN = 12, OFF_PAYLOAD_LEN = 16 };
enum { OFF_ZERO = 20, OFF_ID = 24, OFF_CLUSTER = 32, OFF_SUM = 40 };
static_assert(OFF_SUM + 8 == WIRE_HEADER_SIZE, "the checksum ends the header");

static const char magic[3] = {'T', 'C', 'W'};
#define WIRE_VERSION '1'

/* ---- encoding -------------------------------------------------------------------------------- */

struct sink {
    uint8_t *data;
    size_t len, cap;
};

static int sink_write(void *data, const char *p, size_t n)
{
    struct sink *s = data;

    ASSERT(n <= s->cap - s->len);
    memcpy(s->data + s->len, p, n);
    s->len += n;
    return 0;
}

bool wire_present(const struct wire_field *f, const void *in)
{
    const void *m = wire_member(f, in);

    if (f->required)
        return true;
    switch ((enum wire_kind)f->kind) {
    case WIRE_u64:
    case WIRE_i64:
        return *(const uint64_t *)m != 0;
    case WIRE_u32:
        return *(const uint32_t *)m != 0;
    case WIRE_boolean:
        return *(const bool *)m;
    case WIRE_str:
        return ((const struct wire_str *)m)->n != 0;
    case WIRE_bin:
        return ((const struct wire_bin *)m)->n != 0;
    case WIRE_u64s:
        return ((const struct wire_u64s *)m)->n != 0;
    case WIRE_SUB:
        return wire_has(f, in);
    case WIRE_LIST:
        return ((const struct wire_list *)m)->n != 0;
    }
    return false;
}

static const void *list_item(const struct wire_field *f, const struct wire_list *l, uint32_t i)
{
    return (const uint8_t *)l->items + (size_t)i * f->sub->size;
}

/* At least what encode_struct() will write for @in. */
static size_t bound_struct(const struct wire_schema *s, const void *in)
{
    size_t sum = 5;

    for (uint32_t i = 0; i < s->n_fields; i++) {
        const struct wire_field *f = &s->fields[i];
        const void *m = wire_member(f, in);

        if (!wire_present(f, in))
            continue;
        sum += 3 + 9; /* key; scalar, or the head of a longer value */
        switch ((enum wire_kind)f->kind) {
        case WIRE_u64:
        case WIRE_i64:
        case WIRE_u32:
        case WIRE_boolean:
            break;
        case WIRE_str:
            sum += ((const struct wire_str *)m)->n;
            break;
        case WIRE_bin:
            sum += ((const struct wire_bin *)m)->n;
            break;
        case WIRE_u64s:
            sum += (size_t)((const struct wire_u64s *)m)->n * 9;
            break;
        case WIRE_SUB:
            sum += bound_struct(f->sub, m);
            break;
        case WIRE_LIST:
            for (uint32_t j = 0; j < ((const struct wire_list *)m)->n; j++)
                sum += bound_struct(f->sub, list_item(f, m, j));
            break;
        }
    }
    return sum;
}

static void encode_struct(msgpack_packer *pk, const struct wire_schema *s, const void *in, int depth);

static void encode_member(msgpack_packer *pk, const struct wire_field *f, const void *m, int depth)
{
    const struct wire_str *str = m;
    const struct wire_bin *bin = m;
    const struct wire_u64s *u64s = m;
    const struct wire_list *list = m;

    switch ((enum wire_kind)f->kind) {
    case WIRE_u64:
        msgpack_pack_uint64(pk, *(const uint64_t *)m);
        break;
    case WIRE_i64:
        msgpack_pack_int64(pk, *(const int64_t *)m);
        break;
    case WIRE_u32:
        msgpack_pack_uint32(pk, *(const uint32_t *)m);
        break;
    case WIRE_boolean:
        if (*(const bool *)m)
            msgpack_pack_true(pk);
        else
            msgpack_pack_false(pk);
        break;
    case WIRE_str:
        msgpack_pack_str(pk, str->n);
        if (str->n)
            msgpack_pack_str_body(pk, str->p, str->n);
        break;
    case WIRE_bin:
        msgpack_pack_bin(pk, bin->n);
        if (bin->n)
            msgpack_pack_bin_body(pk, bin->p, bin->n);
        break;
    case WIRE_u64s:
        msgpack_pack_array(pk, u64s->n);
        for (uint32_t i = 0; i < u64s->n; i++)
            msgpack_pack_uint64(pk, u64s->items[i]);
        break;
    case WIRE_SUB:
        encode_struct(pk, f->sub, m, depth + 1);
        break;
    case WIRE_LIST:
        msgpack_pack_array(pk, list->n);
        for (uint32_t i = 0; i < list->n; i++)
            encode_struct(pk, f->sub, list_item(f, list, i), depth + 2);
        break;
    }
}

static void encode_struct(msgpack_packer *pk, const struct wire_schema *s, const void *in, int depth)
{
    uint32_t n = 0;

    ASSERT(depth <= WIRE_DEPTH_MAX); /* or the peer would refuse it */
    for (uint32_t i = 0; i < s->n_fields; i++)
        n += wire_present(&s->fields[i], in);
    msgpack_pack_map(pk, n);
    for (uint32_t i = 0; i < s->n_fields; i++) {
        const struct wire_field *f = &s->fields[i];

        if (!wire_present(f, in))
            continue;
        msgpack_pack_uint16(pk, f->key);
        encode_member(pk, f, wire_member(f, in), depth);
    }
}

/* A buffer whose first @room bytes are left to the caller, then the body. */
static struct buf *encode_behind(uint32_t room, const struct wire_schema *schema, const void *in)
{
    size_t bound = room + (schema ? bound_struct(schema, in) : 0);
    struct buf *b;
    struct sink sink;
    msgpack_packer pk;

    ASSERT(bound <= UINT32_MAX);
    b = buf_new((uint32_t)bound);
    sink = (struct sink){b->data, room, bound};
    msgpack_packer_init(&pk, &sink, sink_write);
    if (schema)
        encode_struct(&pk, schema, in, 1);
    b->len = (uint32_t)sink.len;
    return b;
}

struct buf *wire_encode(const struct wire_schema *schema, const void *in)
{
    ASSERT(schema && in);
    return encode_behind(0, schema, in);
}

/* ---- frames ---------------------------------------------------------------------------------- */

static void put16(uint8_t *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, sizeof v);
}

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof v);
    return le16toh(v);
}

/* @b has room for the header, then the body. */
static struct buf *frame_seal(struct wire_header *h, struct buf *b)
{
    uint8_t *p = b->data;

    ASSERT(h->kind <= WIRE_NOTICE);
    h->body_len = b->len - WIRE_HEADER_SIZE;
    ASSERT(h->body_len <= WIRE_BODY_MAX);
    memset(p, 0, WIRE_HEADER_SIZE);
    memcpy(p, magic, sizeof magic);
    p[3] = WIRE_VERSION;
    p[OFF_KIND] = h->kind;
    put16(p + OFF_TYPE, h->type);
    put32(p + OFF_STATUS, h->status);
    put32(p + OFF_BODY_LEN, h->body_len);
    put32(p + OFF_PAYLOAD_LEN, h->payload_len);
    put64(p + OFF_ID, h->id);
    put64(p + OFF_CLUSTER, h->cluster);
    put64(p + OFF_SUM, XXH3_64bits(p, b->len));
    return b;
}

struct buf *wire_encode_frame(struct wire_header *h, const struct wire_schema *schema, const void *body)
{
    return frame_seal(h, encode_behind(WIRE_HEADER_SIZE, body ? schema : NULL, body));
}

struct buf *wire_frame_of_body(struct wire_header *h, struct slice body)
{
    struct buf *b = buf_new(WIRE_HEADER_SIZE + (uint32_t)body.len);

    b->len = WIRE_HEADER_SIZE + (uint32_t)body.len;
    if (body.len)
        memcpy(b->data + WIRE_HEADER_SIZE, body.data, body.len);
    return frame_seal(h, b);
}

/* The checksum of a frame that must not be changed, as if its checksum field were zero. */
static uint64_t frame_sum(const uint8_t *p, size_t len)
{
    uint8_t small[1024];
    XXH3_state_t state;

    if (len <= sizeof small) {
        memcpy(small, p, len);
        memset(small + OFF_SUM, 0, 8);
        return XXH3_64bits(small, len);
    }
    memcpy(small, p, OFF_SUM);
    memset(small + OFF_SUM, 0, 8);
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, small, WIRE_HEADER_SIZE);
    XXH3_64bits_update(&state, p + WIRE_HEADER_SIZE, len - WIRE_HEADER_SIZE);
    return XXH3_64bits_digest(&state);
}

int wire_check_frame(struct slice frame, struct wire_header *ret_h, struct slice *ret_body)
{
    const uint8_t *p = frame.data;
    struct wire_header h;
    struct slice body;
    int r;

    if (frame.len < WIRE_HEADER_SIZE || memcmp(p, magic, sizeof magic) != 0)
        return -TC_E_BAD_MESSAGE;
    if (p[3] != WIRE_VERSION)
        return -TC_E_VERSION;
    h = (struct wire_header){
        .kind = p[OFF_KIND],
        .type = get16(p + OFF_TYPE),
        .status = get32(p + OFF_STATUS),
        .body_len = get32(p + OFF_BODY_LEN),
        .payload_len = get32(p + OFF_PAYLOAD_LEN),
        .id = get64(p + OFF_ID),
        .cluster = get64(p + OFF_CLUSTER),
    };
    if (h.kind > WIRE_NOTICE || p[5] != 0 || get32(p + OFF_ZERO) != 0)
        return -TC_E_BAD_MESSAGE;
    if (h.body_len > WIRE_BODY_MAX || h.body_len != frame.len - WIRE_HEADER_SIZE)
        return -TC_E_BAD_MESSAGE;
    if (frame_sum(p, frame.len) != get64(p + OFF_SUM))
        return -TC_E_BAD_MESSAGE;
    body = slice_of(p + WIRE_HEADER_SIZE, h.body_len);
    r = wire_shape_check(body);
    if (r < 0)
        return r;
    *ret_h = h;
    *ret_body = body;
    return 0;
}
