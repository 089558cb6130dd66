/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codec: what is encoded decodes to the same, for random content of every message; every way a
 * frame or a body can be wrong is refused; the bytes are those of the golden file.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <xxhash.h>

#include "common/schema.h"
#include "unit/wire-gen.h"

/* clang-format off */
#define INNER(F, S, L)                  \
    F(u64, epoch, 1, true)              \
    F(bin, sum, 2, false)
#define OUTER(F, S, L)                  \
    F(u64, parent, 1, true)             \
    F(str, name, 2, true)               \
    F(i64, mtime, 3, false)             \
    F(u32, mode, 4, false)              \
    F(boolean, excl, 5, false)          \
    F(bin, data, 6, false)              \
    F(u64s, list, 7, false)             \
    S(inner, one, 8, false)             \
    L(inner, many, 9, false)            \
    S(inner, must, 200, true)
#define NOTHING(F, S, L)
/* clang-format on */
WIRE_DECLARE(inner, INNER)
WIRE_DECLARE(outer, OUTER)
WIRE_DECLARE(nothing, NOTHING)
WIRE_DEFINE(inner, INNER)
WIRE_DEFINE(outer, OUTER)
WIRE_DEFINE(nothing, NOTHING)

static const struct wire_schema *const schemas[] = {&inner_schema, &outer_schema, &nothing_schema};

static struct slice slice_of_buf(const struct buf *b)
{
    return slice_of(b->data, b->len);
}

static void round_trip(const struct wire_schema *s, uint64_t *seed)
{
    struct wire_arena gen = {0}, a = {0};
    void *in = tc_calloc(1, s->size), *out = tc_calloc(1, s->size);
    struct buf *b, *again;

    gen_struct(seed, s, &gen, in);
    b = wire_encode(s, in);
    ck_assert_int_eq(wire_shape_check(slice_of_buf(b)), 0);
    ck_assert_int_eq(wire_decode(slice_of_buf(b), s, &a, out), 0);
    ck_assert(wire_equal(s, in, out));
    again = wire_encode(s, out);
    ck_assert_int_eq(slice_cmp(slice_of_buf(b), slice_of_buf(again)), 0);
    for (int i = 0; i < 8 && b->len > 0; i++) { /* every truncation is an error */
        uint32_t n = (uint32_t)(gen_random(seed) % b->len);

        if (n > 0) {
            ck_assert_int_eq(wire_decode(slice_of(b->data, n), s, &a, out), -TC_E_BAD_MESSAGE);
            ck_assert_int_eq(wire_shape_check(slice_of(b->data, n)), -TC_E_BAD_MESSAGE);
        }
    }
    buf_unref(b);
    buf_unref(again);
    wire_arena_fini(&gen);
    wire_arena_fini(&a);
    free(in);
    free(out);
}

START_TEST(round_trips)
{
    uint64_t seed = 1 + (uint64_t)_i;
    size_t n;
    const struct wire_schema *const *all = schema_all(&n);

    for (size_t i = 0; i < n; i++)
        round_trip(all[i], &seed);

    for (size_t i = 0; i < ARRAY_SIZE(schemas); i++)
        round_trip(schemas[i], &seed);
}
END_TEST

static size_t from_hex(const char *hex, uint8_t *out)
{
    size_t n = 0;
    unsigned v;

    for (; *hex; hex += 2) {
        while (*hex == ' ')
            hex++;
        ck_assert_int_eq(sscanf(hex, "%2x", &v), 1);
        out[n++] = (uint8_t)v;
    }
    return n;
}

/* Bodies of struct inner: 1 -> epoch u64 (required), 2 -> sum bin. */
static const struct {
    const char *hex;
    bool ok;
} bodies[] = {
    {"81 01 05", true},
    {"82 02 c4 01 aa 01 05", true},                  /* any order */
    {"82 01 05 03 93 01 a1 61 81 01 c0", true},      /* unknown key with a nested value */
    {"82 01 05 cd 0400 cb 3ff0000000000000", true},  /* unknown key with a float */
    {"81 01 cf 0000000000000005", true},             /* a wider encoding than needed */
    {"81 01 d3 0000000000000005", true},             /* signed, but not negative */
    {"81 01 d0 ff", false},                          /* negative */
    {"81 01 ff", false},                             /* negative fixint */
    {"", false},                                     /* required key missing */
    {"80", false},
    {"81 02 c4 01 aa", false},                       /* required key missing */
    {"82 01 05 01 05", false},                       /* duplicate */
    {"81 01 a1 61", false},                          /* wrong type */
    {"81 01 c0", false},                             /* nil */
    {"81 01 c3", false},                             /* a boolean */
    {"82 01 05 02 a1 61", false},                    /* str for bin */
    {"82 01 05 a1 61 05", false},                    /* a key that is no integer */
    {"82 01 05 ff 05", false},                       /* a negative key */
    {"81 01 05 00", false},                          /* something behind it */
    {"82 01 05", false},                             /* fewer pairs than counted */
    {"91 05", false},                                /* no map */
    {"82 01 05 02 c6 ffffffff 00", false},           /* longer than the body */
    {"82 01 05 03 dd 7fffffff", false},              /* a count beyond the bytes left */
    {"82 01 05 03 df 7fffffff", false},
    {"82 01 05 03 c1", false},                       /* the byte that is never used */
    {"82 01 05 03 d4 0100", false},                  /* ext types */
    {"82 01 05 03 c7 01 01 00", false},
};

START_TEST(bad_bodies)
{
    uint8_t bytes[256], zero[sizeof(struct inner)] = {0};
    size_t n = from_hex(bodies[_i].hex, bytes);
    struct wire_arena a = {0};
    struct inner in;
    int r = wire_decode(slice_of(bytes, n), &inner_schema, &a, &in);

    ck_assert_int_eq(r, bodies[_i].ok ? 0 : -TC_E_BAD_MESSAGE);
    if (bodies[_i].ok)
        ck_assert_uint_eq(in.epoch, 5);
    else
        ck_assert_int_eq(memcmp(&in, zero, sizeof in), 0);
    wire_arena_fini(&a);
}
END_TEST

START_TEST(ranges)
{
    static const struct {
        const char *hex;
        bool ok;
    } cases[] = {
        {"83 01 05 02 a1 61 cc c8 81 01 01", true},
        {"84 01 05 02 a1 61 04 ce ffffffff cc c8 81 01 01", true},
        {"84 01 05 02 a1 61 04 cf 0000000100000000 cc c8 81 01 01", false}, /* u32 */
        {"84 01 05 02 a1 61 03 cf 8000000000000000 cc c8 81 01 01", false}, /* i64 */
        {"84 01 05 02 a1 61 03 d3 8000000000000000 cc c8 81 01 01", true},
        {"84 01 05 02 a1 61 05 01 cc c8 81 01 01", false}, /* number for a boolean */
        {"84 01 05 02 c4 01 61 cc c8 81 01 01", false},    /* bin for str */
        {"84 01 05 02 a1 61 07 91 ff cc c8 81 01 01", false}, /* negative in a u64s */
        {"84 01 05 02 a1 61 09 91 80 cc c8 81 01 01", false}, /* list item lacks a key */
        {"84 01 05 02 a1 61 09 92 81 01 01 05 cc c8 81 01 01", false},
        {"84 01 05 02 a1 61 08 90 cc c8 81 01 01", false}, /* array for a struct */
    };
    uint8_t bytes[256];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        size_t n = from_hex(cases[i].hex, bytes);
        struct wire_arena a = {0};
        struct outer out;
        int r = wire_decode(slice_of(bytes, n), &outer_schema, &a, &out);

        ck_assert_msg(r == (cases[i].ok ? 0 : -TC_E_BAD_MESSAGE), "case %zu: %d", i, r);
        wire_arena_fini(&a);
    }
}
END_TEST

START_TEST(shapes)
{
    uint8_t deep[64];
    static const uint8_t two[] = {0x01, 0x01};

    for (size_t n = 0; n < sizeof deep; n++) { /* n arrays of one, then a number */
        memset(deep, 0x91, n);
        deep[n] = 0x01;
        ck_assert_int_eq(wire_shape_check(slice_of(deep, n + 1)),
                         n <= WIRE_DEPTH_MAX ? 0 : -TC_E_BAD_MESSAGE);
    }
    ck_assert_int_eq(wire_shape_check(slice_of(NULL, 0)), 0);
    ck_assert_int_eq(wire_shape_check(slice_of(two, 2)), -TC_E_BAD_MESSAGE);
}
END_TEST

START_TEST(arena_limit)
{
    struct wire_arena a = {.limit = 4096}, b = {0};
    uint64_t many[1000] = {0};
    struct outer in = {.name = wire_str_of("x"), .list = {many, ARRAY_SIZE(many)}}, out;
    struct buf *buf = wire_encode(&outer_schema, &in);

    ck_assert_int_eq(wire_decode(slice_of_buf(buf), &outer_schema, &a, &out), -TC_E_BAD_MESSAGE);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(wire_decode(slice_of_buf(buf), &outer_schema, &b, &out), 0);
        ck_assert(wire_equal(&outer_schema, &in, &out));
        wire_arena_reset(&b);
    }
    wire_arena_fini(&a);
    wire_arena_fini(&b);
    buf_unref(buf);
}
END_TEST

static struct buf *some_frame(struct wire_header *h, size_t data)
{
    uint8_t *bytes = tc_calloc(1, data);
    struct outer in = {.parent = 7, .name = wire_str_of("name"), .data = {bytes, (uint32_t)data}};
    struct buf *b;

    *h = (struct wire_header){.kind = WIRE_REPLY, .type = 513, .status = 77, .payload_len = 4096,
                              .id = UINT64_C(0x0102030405060708), .cluster = UINT64_C(0xa1b2c3d4)};
    b = wire_encode_frame(h, &outer_schema, &in);
    free(bytes);
    return b;
}

static void reseal(struct buf *b)
{
    uint64_t sum;

    memset(b->data + 40, 0, 8);
    sum = XXH3_64bits(b->data, b->len);
    memcpy(b->data + 40, &sum, 8);
}

/* Small and large frames take different ways through the checksum. */
START_TEST(frames)
{
    static const size_t sizes[] = {0, 10, 900, 960, 961, 1024, 2000, 100000};
    struct wire_header h, got;
    struct slice body;
    struct buf *b = some_frame(&h, sizes[_i]);
    struct wire_arena a = {0};
    struct outer out;

    ck_assert_int_eq(wire_check_frame(slice_of_buf(b), &got, &body), 0);
    ck_assert_int_eq(got.kind, h.kind);
    ck_assert_int_eq(got.type, h.type);
    ck_assert_uint_eq(got.status, h.status);
    ck_assert_uint_eq(got.body_len, body.len);
    ck_assert_uint_eq(got.payload_len, h.payload_len);
    ck_assert_uint_eq(got.id, h.id);
    ck_assert_uint_eq(got.cluster, h.cluster);
    ck_assert_int_eq(wire_decode(body, &outer_schema, &a, &out), 0);
    ck_assert_uint_eq(out.data.n, sizes[_i]);
    for (uint32_t i = 0; i < b->len && i < 200; i++) { /* every flipped bit is seen */
        b->data[i] ^= 1;
        ck_assert_int_lt(wire_check_frame(slice_of_buf(b), &got, &body), 0);
        b->data[i] ^= 1;
    }
    ck_assert_int_lt(wire_check_frame(slice_of(b->data, b->len - 1), &got, &body), 0);
    ck_assert_int_lt(wire_check_frame(slice_of(b->data, 47), &got, &body), 0);
    wire_arena_fini(&a);
    buf_unref(b);
}
END_TEST

static const struct {
    uint32_t off;
    uint8_t value;
    int err;
} headers[] = {
    {0, 'X', -TC_E_BAD_MESSAGE}, {3, '2', -TC_E_VERSION}, {4, 3, -TC_E_BAD_MESSAGE},
    {5, 1, -TC_E_BAD_MESSAGE},   {20, 1, -TC_E_BAD_MESSAGE}, {12, 1, -TC_E_BAD_MESSAGE},
    {15, 1, -TC_E_BAD_MESSAGE},  {48, 0xc1, -TC_E_BAD_MESSAGE}, {6, 9, 0},
};

/* Wrong in a frame whose checksum is right. */
START_TEST(bad_headers)
{
    struct wire_header h;
    struct slice body;
    struct buf *b = some_frame(&h, 5);

    b->data[headers[_i].off] = headers[_i].value;
    reseal(b);
    ck_assert_int_eq(wire_check_frame(slice_of_buf(b), &h, &body), headers[_i].err);
    buf_unref(b);
}
END_TEST

START_TEST(empty_body)
{
    struct wire_header h = {.kind = WIRE_REQUEST, .type = 1}, got;
    struct buf *b = wire_encode_frame(&h, NULL, NULL);
    struct wire_arena a = {0};
    struct slice body;
    struct nothing none;
    struct inner in;

    ck_assert_uint_eq(b->len, WIRE_HEADER_SIZE);
    ck_assert_int_eq(wire_check_frame(slice_of_buf(b), &got, &body), 0);
    ck_assert_int_eq(wire_decode(body, &nothing_schema, &a, &none), 0);
    ck_assert_int_eq(wire_decode(body, &inner_schema, &a, &in), -TC_E_BAD_MESSAGE);
    buf_unref(b);
}
END_TEST

START_TEST(compares)
{
    uint8_t x[] = {1, 2}, y[] = {1, 3};
    struct inner ia = {1, {x, 2}}, ib = {1, {y, 2}};
    struct outer a = {.name = wire_str_of("n"), .many = {&ia, 1}}, b = a;

    ck_assert(wire_equal(&outer_schema, &a, &b));
    b.many.items = &ib;
    ck_assert(!wire_equal(&outer_schema, &a, &b));
    b = a;
    b.many.n = 0;
    ck_assert(!wire_equal(&outer_schema, &a, &b));
    b = a;
    b.has_one = true;
    ck_assert(!wire_equal(&outer_schema, &a, &b));
    b = a;
    b.must.epoch = 1;
    ck_assert(!wire_equal(&outer_schema, &a, &b));
    b = a;
    b.name = wire_str_of("m");
    ck_assert(!wire_equal(&outer_schema, &a, &b));
}
END_TEST

static char *print(const struct wire_schema *s, const void *in)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    wire_print(f, s, in);
    fclose(f);
    return text;
}

/* The text and the bytes of a few messages, as they were when the format was fixed. */
START_TEST(golden)
{
    uint8_t bin[20] = {0xde, 0xad};
    uint64_t list[] = {1, 300};
    struct inner many[] = {{5, {NULL, 0}}, {6, {bin, 2}}};
    struct outer cases[] = {
        {.name = wire_str_of("")},
        {.parent = 1, .name = wire_str_of("a\"b\n"), .mtime = -5, .mode = 0644, .excl = true},
        {.parent = UINT64_MAX, .name = wire_str_of("x"), .data = {bin, sizeof bin},
         .list = {list, 2}, .has_one = true, .one = {9, {bin, 1}}, .many = {many, 2}},
    };
    const char *path = getenv("TC_GOLDEN_DIR") ? getenv("TC_GOLDEN_DIR") : "tests/golden";
    char *name = tc_asprintf("%s/wire.txt", path), *text = NULL, want[8192] = {0};
    size_t n = 0;
    FILE *f = open_memstream(&text, &n), *gold;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct buf *b = wire_encode(&outer_schema, &cases[i]);
        char *line = print(&outer_schema, &cases[i]);

        fprintf(f, "%s\n", line);
        for (uint32_t j = 0; j < b->len; j++)
            fprintf(f, "%02x", b->data[j]);
        fprintf(f, "\n");
        free(line);
        buf_unref(b);
    }
    fclose(f);
    if (getenv("TC_GOLDEN_WRITE")) {
        gold = fopen(name, "w");
        ck_assert(gold && fputs(text, gold) >= 0);
    } else {
        gold = fopen(name, "r");
        ck_assert_msg(gold != NULL, "cannot open %s", name);
        ck_assert(fread(want, 1, sizeof want - 1, gold) > 0);
        ck_assert_str_eq(text, want);
    }
    fclose(gold);
    free(text);
    free(name);
}
END_TEST

/* The registry is sorted, and the tables keep their rules. */
START_TEST(registry)
{
    size_t n;
    const struct wire_schema *const *all = schema_all(&n);

    for (uint32_t type = 0; type < 300; type++) {
        const struct msg_desc *d = msg_find(type);

        if (!d)
            continue;
        ck_assert_uint_eq(d->type, type);
        ck_assert_ptr_eq(schema_of(type, WIRE_REPLY), d->reply);
    }
    ck_assert_ptr_nonnull(schema_of(MSG_KEEPALIVE, WIRE_REQUEST));
    ck_assert_ptr_nonnull(schema_of(CMD_TICK, WIRE_REQUEST));
    ck_assert_ptr_null(schema_of(0, WIRE_REQUEST));
    ck_assert_str_eq(msg_name(MSG_LOOKUP), "LOOKUP");
    for (size_t i = 0; i < n; i++) {
        ck_assert_uint_le(all[i]->n_fields, 64);
        for (uint32_t j = 0; j < all[i]->n_fields; j++) {
            ck_assert_uint_gt(all[i]->fields[j].key, j ? all[i]->fields[j - 1].key : 0);
            ck_assert_uint_lt(all[i]->fields[j].offset, all[i]->size);
        }
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("wire");
    TCase *tc = tcase_create("wire");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, round_trips, 0, 20);
    tcase_add_loop_test(tc, bad_bodies, 0, ARRAY_SIZE(bodies));
    tcase_add_test(tc, ranges);
    tcase_add_test(tc, shapes);
    tcase_add_test(tc, arena_limit);
    tcase_add_loop_test(tc, frames, 0, 8);
    tcase_add_loop_test(tc, bad_headers, 0, ARRAY_SIZE(headers));
    tcase_add_test(tc, empty_body);
    tcase_add_test(tc, compares);
    tcase_add_test(tc, golden);
    tcase_add_test(tc, registry);
    suite_add_tcase(s, tc);
    return s;
}

/* With --bench: what encoding and decoding a small message costs. */
static void bench(void)
{
    struct outer in = {.parent = 123456789, .name = wire_str_of("some-file-name.txt"),
                       .mtime = INT64_C(1700000000000000000), .mode = 0100644, .excl = true,
                       .has_one = true, .one = {7, {NULL, 0}}}, out;
    enum { ROUNDS = 1000000 };
    struct wire_arena a = {0};
    struct timespec t0, t1;
    uint64_t sum = 0;

    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (int i = 0; i < ROUNDS; i++) {
        struct wire_header h = {.type = 5, .id = (uint64_t)i};
        struct slice body;
        struct buf *b;

        in.parent = (uint64_t)i;
        b = wire_encode_frame(&h, &outer_schema, &in);
        if (wire_check_frame(slice_of_buf(b), &h, &body) < 0 ||
            wire_decode(body, &outer_schema, &a, &out) < 0)
            abort();
        sum += out.parent;
        wire_arena_reset(&a);
        buf_unref(b);
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    printf("encode + check + decode: %.0f ns (%llu)\n",
           ((double)(t1.tv_sec - t0.tv_sec) * 1e9 + (double)(t1.tv_nsec - t0.tv_nsec)) / ROUNDS,
           (unsigned long long)sum);
}

int main(int argc, char **argv)
{
    SRunner *r;
    int failed;

    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench();
        return 0;
    }
    r = srunner_create(suite());
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
