/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The printer and the comparer of messages (wire.h), by the same tables as the codec.
 */
#include "common/wire.h"

#include <inttypes.h>
#include <string.h>

enum { PRINT_BYTES_MAX = 16, PRINT_CHARS_MAX = 256 };

static const void *list_item(const struct wire_field *f, const struct wire_list *l, uint32_t i)
{
    return (const uint8_t *)l->items + (size_t)i * f->sub->size;
}

static void print_str(FILE *f, const struct wire_str *s)
{
    uint32_t n = MIN(s->n, (uint32_t)PRINT_CHARS_MAX);

    fputc('"', f);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)s->p[i];

        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            fprintf(f, "\\x%02x", c);
        else
            fputc(c, f);
    }
    fputs(n < s->n ? "\"..." : "\"", f);
}

static void print_bin(FILE *f, const struct wire_bin *b)
{
    uint32_t n = MIN(b->n, (uint32_t)PRINT_BYTES_MAX);

    fprintf(f, "%" PRIu32 ":", b->n);
    for (uint32_t i = 0; i < n; i++)
        fprintf(f, "%02x", b->p[i]);
    if (n < b->n)
        fputs("...", f);
}

static void print_u64s(FILE *f, const struct wire_u64s *l)
{
    fputc('[', f);
    for (uint32_t i = 0; i < l->n; i++)
        fprintf(f, "%s%" PRIu64, i ? " " : "", l->items[i]);
    fputc(']', f);
}

static void print_member(FILE *out, const struct wire_field *f, const void *m)
{
    const struct wire_list *l = m;

    switch ((enum wire_kind)f->kind) {
    case WIRE_u64:
        fprintf(out, "%" PRIu64, *(const uint64_t *)m);
        break;
    case WIRE_i64:
        fprintf(out, "%" PRId64, *(const int64_t *)m);
        break;
    case WIRE_u32:
        fprintf(out, "%" PRIu32, *(const uint32_t *)m);
        break;
    case WIRE_boolean:
        fputs(*(const bool *)m ? "true" : "false", out);
        break;
    case WIRE_str:
        print_str(out, m);
        break;
    case WIRE_bin:
        print_bin(out, m);
        break;
    case WIRE_u64s:
        print_u64s(out, m);
        break;
    case WIRE_SUB:
        fputc('{', out);
        wire_print(out, f->sub, m);
        fputc('}', out);
        break;
    case WIRE_LIST:
        fputc('[', out);
        for (uint32_t i = 0; i < l->n; i++) {
            fputs(i ? " {" : "{", out);
            wire_print(out, f->sub, list_item(f, l, i));
            fputc('}', out);
        }
        fputc(']', out);
        break;
    }
}

void wire_print(FILE *f, const struct wire_schema *schema, const void *in)
{
    const char *sep = "";

    for (uint32_t i = 0; i < schema->n_fields; i++) {
        const struct wire_field *d = &schema->fields[i];

        if (!wire_present(d, in))
            continue;
        fprintf(f, "%s%s=", sep, d->name);
        print_member(f, d, wire_member(d, in));
        sep = " ";
    }
}

static bool bytes_equal(const void *a, size_t na, const void *b, size_t nb)
{
    return na == nb && (na == 0 || memcmp(a, b, na) == 0);
}

static bool list_equal(const struct wire_field *f, const struct wire_list *a,
                       const struct wire_list *b)
{
    if (a->n != b->n)
        return false;
    for (uint32_t i = 0; i < a->n; i++) {
        if (!wire_equal(f->sub, list_item(f, a, i), list_item(f, b, i)))
            return false;
    }
    return true;
}

/* Both members are present. */
static bool member_equal(const struct wire_field *f, const void *a, const void *b)
{
    switch ((enum wire_kind)f->kind) {
    case WIRE_u64:
    case WIRE_i64:
        return *(const uint64_t *)a == *(const uint64_t *)b;
    case WIRE_u32:
        return *(const uint32_t *)a == *(const uint32_t *)b;
    case WIRE_boolean:
        return *(const bool *)a == *(const bool *)b;
    case WIRE_str:
        return bytes_equal(((const struct wire_str *)a)->p, ((const struct wire_str *)a)->n,
                           ((const struct wire_str *)b)->p, ((const struct wire_str *)b)->n);
    case WIRE_bin:
        return bytes_equal(((const struct wire_bin *)a)->p, ((const struct wire_bin *)a)->n,
                           ((const struct wire_bin *)b)->p, ((const struct wire_bin *)b)->n);
    case WIRE_u64s:
        return bytes_equal(((const struct wire_u64s *)a)->items,
                           ((const struct wire_u64s *)a)->n * sizeof(uint64_t),
                           ((const struct wire_u64s *)b)->items,
                           ((const struct wire_u64s *)b)->n * sizeof(uint64_t));
    case WIRE_SUB:
        return wire_equal(f->sub, a, b);
    case WIRE_LIST:
        return list_equal(f, a, b);
    }
    return false;
}

bool wire_equal(const struct wire_schema *schema, const void *a, const void *b)
{
    for (uint32_t i = 0; i < schema->n_fields; i++) {
        const struct wire_field *f = &schema->fields[i];

        if (wire_present(f, a) != wire_present(f, b))
            return false;
        if (wire_present(f, a) && !member_equal(f, wire_member(f, a), wire_member(f, b)))
            return false;
    }
    return true;
}
