/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames and bodies of every message. The input is a frame; its checksum is made right, else nothing
 * would pass it. What decodes must print, encode, decode to the same, and be within the arena's limit.
 * Then the same bytes as a body of every schema.
 */
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "common/schema.h"
#include "fuzz/fuzz.h"
#include "unit/wire-gen.h"

enum { SUM_OFFSET = 40, ARENA_LIMIT = 1 << 20, SEED_MAX = 1000 };

static FILE *null_file;

static void check_decoded(const struct wire_schema *s, const void *out)
{
    struct buf *b = wire_encode(s, out);
    void *again = tc_malloc(s->size);
    struct wire_arena a = {0};

    ASSERT(wire_shape_check(slice_of(b->data, b->len)) == 0);
    ASSERT(wire_decode(slice_of(b->data, b->len), s, &a, again) == 0);
    ASSERT(wire_equal(s, out, again));
    wire_print(null_file, s, out);
    wire_arena_fini(&a);
    free(again);
    buf_unref(b);
}

static void check_body(struct slice body, const struct wire_schema *s)
{
    struct wire_arena a = {.limit = ARENA_LIMIT};
    void *out = tc_malloc(s->size);

    if (wire_decode(body, s, &a, out) == 0) {
        check_decoded(s, out);
    } else {
        for (uint32_t i = 0; i < s->size; i++)
            ASSERT(((uint8_t *)out)[i] == 0);
    }
    ASSERT(a.used <= ARENA_LIMIT + 16);
    wire_arena_fini(&a);
    free(out);
}

static void check_frame(const uint8_t *data, size_t size)
{
    uint8_t *copy = tc_malloc(size);
    const struct wire_schema *s;
    struct wire_header h;
    struct slice body;
    uint64_t sum;

    memcpy(copy, data, size);
    memset(copy + SUM_OFFSET, 0, 8);
    sum = XXH3_64bits(copy, size);
    memcpy(copy + SUM_OFFSET, &sum, 8);
    if (wire_check_frame(slice_of(copy, size), &h, &body) == 0) {
        s = schema_of(h.type, h.kind);
        if (s)
            check_body(body, s);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct wire_schema *const *all;
    struct wire_header h;
    struct slice body;
    size_t n;
    int r;

    if (!null_file)
        null_file = fopen("/dev/null", "w");
    ASSERT(null_file);
    r = wire_check_frame(slice_of(data, size), &h, &body);
    ASSERT(r == 0 || r == -TC_E_BAD_MESSAGE || r == -TC_E_VERSION);
    if (size < WIRE_HEADER_SIZE)
        return 0;
    check_frame(data, size);
    body = slice_of(data + WIRE_HEADER_SIZE, size - WIRE_HEADER_SIZE);
    all = schema_all(&n);
    for (size_t i = 0; i < n; i++)
        check_body(body, all[i]);
    return 0;
}

/* A frame with random content; small ones, since those find more, faster. */
static size_t gen_frame(struct wire_header *h, const struct wire_schema *s, uint64_t seed, uint8_t *buf)
{
    void *in = tc_malloc(s->size);
    struct wire_arena a = {0};
    size_t len = SEED_MAX + 1;

    while (len > SEED_MAX) {
        struct buf *b;

        wire_arena_reset(&a);
        gen_struct(&seed, s, &a, in);
        b = wire_encode_frame(h, s, in);
        len = b->len;
        if (len <= SEED_MAX)
            memcpy(buf, b->data, len);
        buf_unref(b);
    }
    wire_arena_fini(&a);
    free(in);
    return len;
}

/* One per message and kind. */
size_t fuzz_seed(uint64_t n, uint8_t *buf, size_t cap)
{
    uint64_t seed = n + 1;

    ASSERT(cap >= SEED_MAX);
    for (uint32_t i = 0; i < 3 * 256; i++) {
        struct wire_header h = {.kind = (uint8_t)(i % 3), .type = (uint16_t)(i / 3), .id = seed};
        const struct wire_schema *s = schema_of(h.type, h.kind);

        if (s && n-- == 0)
            return gen_frame(&h, s, seed, buf);
    }
    return 0;
}
