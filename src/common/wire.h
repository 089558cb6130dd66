/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages: a fixed header and a msgpack body in one frame, raw payload in a second.
 *
 * One table per message (schema.h) makes the C struct and the field descriptors that the generic
 * encoder, decoder, printer and comparer walk. The body is a map with small integer keys: unknown keys
 * are skipped, missing optional ones are zero, a wrong type, a duplicate or a missing required key is
 * BAD_MESSAGE. Keys are never reused.
 *
 * A table is a macro of three parameters:
 *
 *   #define LOOKUP_REQ(F, S, L)            F(kind, name, key, required)      scalars and byte strings
 *       F(u64, parent, 1, true)            S(type, name, key, required)      one sub-struct
 *       F(str, name, 2, true)              L(type, name, key, required)      a list of sub-structs
 *   WIRE_DECLARE(lookup_req, LOOKUP_REQ)
 *
 * Kinds: u64 (uint64_t), i64 (int64_t), u32 (uint32_t), boolean (bool), str (struct wire_str), bin (struct wire_bin),
 * u64s (struct wire_u64s: list of u64). A sub-struct T becomes a member `struct T name`, with
 * `bool has_name` beside it; a list becomes `struct { struct T *items; uint32_t n; } name`.
 * Decoded strings and bins borrow from the frame; lists live in the decoder's arena.
 */
#pragma once

#include <stdio.h>

#include "common/buf.h"
#include "common/error.h"

struct wire_str {
    const char *p; /* not terminated */
    uint32_t n;
};

struct wire_bin {
    const uint8_t *p;
    uint32_t n;
};

struct wire_u64s {
    uint64_t *items;
    uint32_t n;
};

typedef uint64_t wire_t_u64;
typedef int64_t wire_t_i64;
typedef uint32_t wire_t_u32;
typedef bool wire_t_boolean;
typedef struct wire_str wire_t_str;
typedef struct wire_bin wire_t_bin;
typedef struct wire_u64s wire_t_u64s;

enum wire_kind { WIRE_u64, WIRE_i64, WIRE_u32, WIRE_boolean, WIRE_str, WIRE_bin, WIRE_u64s, WIRE_SUB, WIRE_LIST };

struct wire_schema;

struct wire_field {
    const char *name;
    uint32_t offset; /* a SUB's has_name directly follows it: wire_has() */
    uint16_t key;
    uint8_t kind; /* enum wire_kind */
    bool required;
    const struct wire_schema *sub; /* SUB and LIST */
};

struct wire_schema {
    const char *name;
    uint32_t size; /* of the C struct */
    uint32_t n_fields;
    const struct wire_field *fields; /* ascending keys */
};

#define WIRE_MEMBER_F(kind, name, key, req) wire_t_##kind name;
#define WIRE_MEMBER_S(type, name, key, req) \
    struct type name;                       \
    bool has_##name;
#define WIRE_MEMBER_L(type, name, key, req) \
    struct {                                \
        struct type *items;                 \
        uint32_t n;                         \
    } name;

/* What every list member looks like to generic code. */
struct wire_list {
    void *items;
    uint32_t n;
};

/* In schema.h: the struct and its schema's declaration. */
#define WIRE_DECLARE(type, TABLE)                              \
    struct type {                                              \
        TABLE(WIRE_MEMBER_F, WIRE_MEMBER_S, WIRE_MEMBER_L)     \
    };                                                         \
    extern const struct wire_schema type##_schema;

/* In schema.c: the descriptors. The tables do not name their struct, so each entry is the macro that
 * opens it with the struct's name, followed by the one that closes it with the field's. */
/* clang-format off */
#define WIRE_OPEN(type) {.offset = __builtin_offsetof(struct type,
#define WIRE_CLOSE_F(k, nm, ky, req) nm), .name = #nm, .key = ky, .kind = WIRE_##k, .required = req},
#define WIRE_CLOSE_S(t, nm, ky, req) \
    nm), .name = #nm, .key = ky, .kind = WIRE_SUB, .required = req, .sub = &t##_schema},
#define WIRE_CLOSE_L(t, nm, ky, req) \
    nm), .name = #nm, .key = ky, .kind = WIRE_LIST, .required = req, .sub = &t##_schema},
/* clang-format on */
#define WIRE_DEFINE(type, TABLE)                                                              \
    static const struct wire_field type##_fields[] = {                                        \
        TABLE(WIRE_OPEN(type) WIRE_CLOSE_F, WIRE_OPEN(type) WIRE_CLOSE_S,                     \
              WIRE_OPEN(type) WIRE_CLOSE_L)};                                                 \
    const struct wire_schema type##_schema = {                                                \
        .name = #type,                                                                        \
        .size = sizeof(struct type),                                                          \
        .n_fields = sizeof type##_fields / sizeof(struct wire_field),                         \
        .fields = type##_fields,                                                              \
    };

/* ---- frames ---------------------------------------------------------------------------------- */

enum wire_frame_kind { WIRE_REQUEST = 0, WIRE_REPLY = 1, WIRE_NOTICE = 2 };

/* The fixed header, little-endian on the wire, WIRE_HEADER_SIZE bytes. */
struct wire_header {
    uint8_t kind;       /* enum wire_frame_kind */
    uint16_t type;      /* enum msg_type (schema.h) */
    uint32_t status;    /* replies: tc_error_to_wire(); body is present only where a message says so, when not 0 */
    uint32_t body_len;
    uint32_t payload_len; /* of the second frame; 0: none */
    uint64_t id;        /* the requester's own: slot and generation; a reply repeats it */
    uint64_t cluster;   /* first 8 bytes of the cluster id; 0: not known yet (format, status, hello) */
};
#define WIRE_HEADER_SIZE 48 /* magic "TCW1", fields above, XXH3-64 of header and body */
#define WIRE_BODY_MAX (8u << 20)
#define WIRE_DEPTH_MAX 8

/* Encode @body (a struct of @schema; both NULL: empty body) behind @h into a new buffer. h->body_len is set. */
struct buf *wire_encode_frame(struct wire_header *h, const struct wire_schema *schema, const void *body);

/* The same around a body that is encoded already (copied). */
struct buf *wire_frame_of_body(struct wire_header *h, struct slice body);

/*
 * Check magic, version, lengths, checksum and the msgpack shape of a frame (depth, counts against bytes
 * left) before anything reads it. BAD_MESSAGE or VERSION otherwise; touches nothing on error.
 * *ret_body borrows from @frame.
 */
TC_MUST_CHECK int wire_check_frame(struct slice frame, struct wire_header *ret_h, struct slice *ret_body);

/* No value but the allowed types, none deeper than WIRE_DEPTH_MAX, no count beyond the bytes left, and
 * nothing behind the one value (or nothing at all). wire_check_frame() does it. */
TC_MUST_CHECK int wire_shape_check(struct slice body);

/* ---- bodies ----------------------------------------------------------------------------------- */

/* Memory of decoded lists; reusable: wire_arena_reset() keeps the first block. Zero-initialise. */
struct wire_arena {
    struct wire_arena_block *first, *current;
    size_t used;
    size_t limit; /* 0: 64 MiB; decoding beyond it is BAD_MESSAGE */
};
void *wire_arena_alloc(struct wire_arena *a, size_t size); /* NULL beyond the limit */
void wire_arena_reset(struct wire_arena *a);
void wire_arena_fini(struct wire_arena *a);

/* Decode @body into the struct @out of @schema (zeroed first). On error *out is all zero. */
TC_MUST_CHECK int wire_decode(struct slice body, const struct wire_schema *schema, struct wire_arena *a,
                              void *out);
/* Encode into a new buffer (body only): what log entries and kv values are made of. */
struct buf *wire_encode(const struct wire_schema *schema, const void *in);
/* Print one line, "name=value ..." nested in {} and []; bins as length and first bytes. */
void wire_print(FILE *f, const struct wire_schema *schema, const void *in);
/* Same content? (pointers followed) */
bool wire_equal(const struct wire_schema *schema, const void *a, const void *b);

/* For generic code: member of @f in the struct @in. */
static inline const void *wire_member(const struct wire_field *f, const void *in)
{
    return (const uint8_t *)in + f->offset;
}

/* A SUB's has_name. */
static inline bool wire_has(const struct wire_field *f, const void *in)
{
    return *((const bool *)wire_member(f, in) + f->sub->size);
}

/* Whether the encoder writes the member: required, or not zero or empty. */
bool wire_present(const struct wire_field *f, const void *in);

static inline struct wire_str wire_str_of(const char *s)
{
    return (struct wire_str){s, (uint32_t)strlen(s)};
}
