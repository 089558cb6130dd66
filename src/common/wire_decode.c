/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding of messages (wire.h): a cursor over msgpack that reads straight into the C struct.
 *
 * msgpack's own unpacker builds a tree of objects first; here nothing is allocated but lists, and
 * those from the arena. Every read is checked against the end of the body, and every count against the
 * bytes left, so a body needs no shape check before (log entries, kv values) to be safe; frames get one
 * all the same, because it bounds the depth of what is skipped and refuses early.
 */
#include "common/wire.h"

#include <endian.h>
#include <string.h>

/* ---- arena ----------------------------------------------------------------------------------- */

struct wire_arena_block {
    struct wire_arena_block *next;
    size_t used, cap;
    _Alignas(16) uint8_t data[];
};

enum { ARENA_BLOCK_MIN = 4096, ARENA_BLOCK_MAX = 1 << 20, ARENA_LIMIT = 64 << 20 };

void *wire_arena_alloc(struct wire_arena *a, size_t size)
{
    size_t limit = a->limit ? a->limit : ARENA_LIMIT;
    struct wire_arena_block *b = a->current;
    void *p;

    if (size > limit || a->used > limit - size)
        return NULL;
    size = (size + 15) & ~(size_t)15;
    if (!b || b->cap - b->used < size) {
        size_t cap = b ? MIN(b->cap * 2, (size_t)ARENA_BLOCK_MAX) : ARENA_BLOCK_MIN;

        cap = MAX(cap, size);
        b = tc_malloc(sizeof *b + cap);
        b->next = NULL;
        b->used = 0;
        b->cap = cap;
        if (a->current)
            a->current->next = b;
        else
            a->first = b;
        a->current = b;
    }
    p = b->data + b->used;
    b->used += size;
    a->used += size;
    return p;
}

static void blocks_free(struct wire_arena_block *b)
{
    while (b) {
        struct wire_arena_block *next = b->next;

        free(b);
        b = next;
    }
}

void wire_arena_reset(struct wire_arena *a)
{
    a->used = 0;
    a->current = a->first;
    if (!a->first)
        return;
    blocks_free(a->first->next);
    a->first->next = NULL;
    a->first->used = 0;
}

void wire_arena_fini(struct wire_arena *a)
{
    blocks_free(a->first);
    a->first = a->current = NULL;
    a->used = 0;
}

/* ---- cursor ---------------------------------------------------------------------------------- */

enum token { T_UINT, T_NEGATIVE, T_BOOL, T_OTHER /* nil, float */, T_STR, T_BIN, T_ARRAY, T_MAP };

struct cursor {
    const uint8_t *p, *end;
};

/* The head of a value. @v: value, length (T_STR, T_BIN) or count (T_ARRAY, T_MAP: of pairs). */
struct head {
    enum token token;
    uint64_t v;
};

static size_t left(const struct cursor *c)
{
    return (size_t)(c->end - c->p);
}

/* Reads @n big-endian bytes (1, 2, 4 or 8) into *@ret. */
static bool take(struct cursor *c, unsigned n, uint64_t *ret)
{
    uint64_t v = 0;

    if (left(c) < n)
        return false;
    for (unsigned i = 0; i < n; i++)
        v = v << 8 | c->p[i];
    c->p += n;
    *ret = v;
    return true;
}

/* Widens the two's complement of @n bytes in @v. */
static uint64_t sign_extend(uint64_t v, unsigned n)
{
    unsigned shift = 64 - 8 * n;

    return (uint64_t)((int64_t)(v << shift) >> shift);
}

static bool take_typed(struct cursor *c, enum token token, unsigned n, struct head *ret)
{
    ret->token = token;
    return take(c, n, &ret->v);
}

/* Heads that are not in one byte. */
static bool take_long_head(struct cursor *c, uint8_t b, struct head *ret)
{
    uint64_t v;

    switch (b) {
    case 0xc0: /* nil */
        *ret = (struct head){T_OTHER, 0};
        return true;
    case 0xc2: /* false, true */
    case 0xc3:
        *ret = (struct head){T_BOOL, b & 1};
        return true;
    case 0xc4: /* bin 8, 16, 32 */
    case 0xc5:
    case 0xc6:
        return take_typed(c, T_BIN, 1u << (b - 0xc4), ret);
    case 0xca: /* float 32, 64 */
    case 0xcb:
        return take_typed(c, T_OTHER, 4u << (b - 0xca), ret);
    case 0xcc: /* uint 8, 16, 32, 64 */
    case 0xcd:
    case 0xce:
    case 0xcf:
        return take_typed(c, T_UINT, 1u << (b - 0xcc), ret);
    case 0xd0: /* int 8, 16, 32, 64 */
    case 0xd1:
    case 0xd2:
    case 0xd3:
        if (!take(c, 1u << (b - 0xd0), &v))
            return false;
        v = sign_extend(v, 1u << (b - 0xd0));
        *ret = (struct head){(int64_t)v < 0 ? T_NEGATIVE : T_UINT, v};
        return true;
    case 0xd9: /* str 8, 16, 32 */
    case 0xda:
    case 0xdb:
        return take_typed(c, T_STR, 1u << (b - 0xd9), ret);
    case 0xdc: /* array 16, 32 */
    case 0xdd:
        return take_typed(c, T_ARRAY, 2u << (b - 0xdc), ret);
    case 0xde: /* map 16, 32 */
    case 0xdf:
        return take_typed(c, T_MAP, 2u << (b - 0xde), ret);
    default: /* ext types and the byte that is never used */
        return false;
    }
}

/* Reads the head of the next value; the cursor then is at a string's bytes or a container's first
 * member. False if the body ends too early for it, or for what it counts, or the type is not allowed. */
static bool take_head(struct cursor *c, struct head *ret)
{
    uint8_t b;

    if (c->p == c->end)
        return false;
    b = *c->p++;
    if (b <= 0x7f)
        *ret = (struct head){T_UINT, b};
    else if (b <= 0x8f)
        *ret = (struct head){T_MAP, b & 0x0f};
    else if (b <= 0x9f)
        *ret = (struct head){T_ARRAY, b & 0x0f};
    else if (b <= 0xbf)
        *ret = (struct head){T_STR, b & 0x1f};
    else if (b >= 0xe0)
        *ret = (struct head){T_NEGATIVE, sign_extend(b, 1)};
    else if (!take_long_head(c, b, ret))
        return false;
    if (ret->token == T_STR || ret->token == T_BIN || ret->token == T_ARRAY)
        return ret->v <= left(c);
    return ret->token != T_MAP || ret->v <= left(c) / 2;
}

int wire_shape_check(struct slice body)
{
    struct cursor c = {body.data, (const uint8_t *)body.data + body.len};
    uint64_t pending[WIRE_DEPTH_MAX + 1] = {1}; /* values still to come, per level */
    int depth = 0;

    if (body.len == 0)
        return 0;
    while (depth >= 0) {
        struct head h;

        if (pending[depth] == 0) {
            depth--;
            continue;
        }
        pending[depth]--;
        if (!take_head(&c, &h))
            return -TC_E_BAD_MESSAGE;
        if (h.token == T_STR || h.token == T_BIN)
            c.p += h.v;
        if (h.token != T_ARRAY && h.token != T_MAP)
            continue;
        if (depth == WIRE_DEPTH_MAX)
            return -TC_E_BAD_MESSAGE;
        pending[++depth] = h.token == T_MAP ? 2 * h.v : h.v;
    }
    return c.p == c.end ? 0 : -TC_E_BAD_MESSAGE;
}

/* Goes past one value of any type. Needs no stack: it only counts what is still to come. */
static bool skip_value(struct cursor *c)
{
    uint64_t pending = 1;

    while (pending > 0) {
        struct head h;

        if (pending > left(c) || !take_head(c, &h))
            return false;
        pending--;
        if (h.token == T_STR || h.token == T_BIN)
            c->p += h.v;
        else if (h.token == T_ARRAY)
            pending += h.v;
        else if (h.token == T_MAP)
            pending += 2 * h.v;
    }
    return true;
}

/* ---- structs --------------------------------------------------------------------------------- */

static bool decode_struct(struct cursor *c, const struct wire_schema *s, struct wire_arena *a,
                          void *out, int depth);

static bool decode_u64s(struct cursor *c, uint64_t n, struct wire_arena *a, struct wire_u64s *out)
{
    uint64_t *items = wire_arena_alloc(a, (size_t)n * sizeof *items);

    if (!items)
        return false;
    for (uint64_t i = 0; i < n; i++) {
        struct head h;

        if (!take_head(c, &h) || h.token != T_UINT)
            return false;
        items[i] = h.v;
    }
    *out = (struct wire_u64s){n ? items : NULL, (uint32_t)n};
    return true;
}

static bool decode_list(struct cursor *c, uint64_t n, const struct wire_schema *sub,
                        struct wire_arena *a, struct wire_list *out, int depth)
{
    uint8_t *items;

    if (n == 0)
        return true;
    items = wire_arena_alloc(a, (size_t)n * sub->size);
    if (!items)
        return false;
    memset(items, 0, (size_t)n * sub->size);
    for (uint64_t i = 0; i < n; i++) {
        if (!decode_struct(c, sub, a, items + i * sub->size, depth))
            return false;
    }
    *out = (struct wire_list){items, (uint32_t)n};
    return true;
}

static bool decode_member(struct cursor *c, const struct wire_field *f, struct wire_arena *a,
                          void *out, int depth)
{
    void *m = (uint8_t *)out + f->offset;
    struct head h;

    if (f->kind == WIRE_SUB) {
        *((bool *)m + f->sub->size) = true;
        return decode_struct(c, f->sub, a, m, depth + 1);
    }
    if (!take_head(c, &h))
        return false;
    switch ((enum wire_kind)f->kind) {
    case WIRE_u64:
        *(uint64_t *)m = h.v;
        return h.token == T_UINT;
    case WIRE_i64:
        *(int64_t *)m = (int64_t)h.v;
        return h.token == T_NEGATIVE || (h.token == T_UINT && h.v <= INT64_MAX);
    case WIRE_u32:
        *(uint32_t *)m = (uint32_t)h.v;
        return h.token == T_UINT && h.v <= UINT32_MAX;
    case WIRE_boolean:
        *(bool *)m = h.v != 0;
        return h.token == T_BOOL;
    case WIRE_str:
        *(struct wire_str *)m = (struct wire_str){(const char *)c->p, (uint32_t)h.v};
        if (h.token != T_STR)
            return false;
        c->p += h.v;
        return true;
    case WIRE_bin:
        *(struct wire_bin *)m = (struct wire_bin){c->p, (uint32_t)h.v};
        if (h.token != T_BIN)
            return false;
        c->p += h.v;
        return true;
    case WIRE_u64s:
        return h.token == T_ARRAY && decode_u64s(c, h.v, a, m);
    case WIRE_LIST:
        return h.token == T_ARRAY && decode_list(c, h.v, f->sub, a, m, depth + 2);
    case WIRE_SUB:
        break;
    }
    return false;
}

/* The field of @key, looked for from @hint on: our encoders send keys in the table's order. */
static uint32_t find_field(const struct wire_schema *s, uint64_t key, uint32_t hint)
{
    for (uint32_t i = hint; i < s->n_fields; i++) {
        if (s->fields[i].key == key)
            return i;
    }
    for (uint32_t i = 0; i < hint; i++) {
        if (s->fields[i].key == key)
            return i;
    }
    return UINT32_MAX;
}

static bool decode_struct(struct cursor *c, const struct wire_schema *s, struct wire_arena *a,
                          void *out, int depth)
{
    uint64_t seen = 0;
    uint32_t hint = 0;
    struct head map;

    ASSERT(s->n_fields <= 64);
    if (depth > WIRE_DEPTH_MAX || !take_head(c, &map) || map.token != T_MAP)
        return false;
    for (uint64_t n = map.v; n > 0; n--) {
        struct head key;
        uint32_t i;

        if (!take_head(c, &key) || key.token != T_UINT)
            return false;
        i = find_field(s, key.v, hint);
        if (i == UINT32_MAX) {
            if (!skip_value(c))
                return false;
            continue;
        }
        if (seen >> i & 1)
            return false;
        seen |= UINT64_C(1) << i;
        if (!decode_member(c, &s->fields[i], a, out, depth))
            return false;
        hint = i + 1;
    }
    for (uint32_t i = 0; i < s->n_fields; i++) {
        if (s->fields[i].required && !(seen >> i & 1))
            return false;
    }
    return true;
}

int wire_decode(struct slice body, const struct wire_schema *schema, struct wire_arena *a, void *out)
{
    static const uint8_t empty_map = 0x80;
    struct cursor c = {body.data, (const uint8_t *)body.data + body.len};

    if (body.len == 0)
        c = (struct cursor){&empty_map, &empty_map + 1};
    memset(out, 0, schema->size);
    if (decode_struct(&c, schema, a, out, 1) && c.p == c.end)
        return 0;
    memset(out, 0, schema->size);
    return -TC_E_BAD_MESSAGE;
}
