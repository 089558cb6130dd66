/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/wire-gen.h"

#include <string.h>

uint64_t gen_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* Numbers around every width of the encoding, zero often. */
static uint64_t gen_number(uint64_t *state)
{
    uint64_t r = gen_random(state);
    unsigned bits = (unsigned)(r % 65);

    if (r >> 60 == 0)
        return 0;
    return bits == 64 ? gen_random(state) : gen_random(state) & ((UINT64_C(1) << bits) - 1);
}

static uint8_t *gen_bytes(uint64_t *state, struct wire_arena *a, uint32_t *ret_n)
{
    uint64_t r = gen_random(state);
    uint32_t n = (uint32_t)(r % 16 == 0 ? r / 16 % 70000 : r / 16 % 40);
    uint8_t *p = wire_arena_alloc(a, n + 1);

    ASSERT(p);
    for (uint32_t i = 0; i < n; i++)
        p[i] = (uint8_t)gen_random(state);
    *ret_n = n;
    return p;
}

static void gen_list(uint64_t *state, const struct wire_field *f, struct wire_arena *a, void *m)
{
    uint32_t n = (uint32_t)(gen_random(state) % 4);
    size_t size = f->kind == WIRE_u64s ? sizeof(uint64_t) : f->sub->size;
    uint8_t *items;

    if (f->kind == WIRE_u64s && gen_random(state) % 8 == 0)
        n = 20 + (uint32_t)(gen_random(state) % 70000);
    if (n == 0)
        return;
    items = wire_arena_alloc(a, n * size);
    ASSERT(items);
    for (uint32_t i = 0; i < n; i++) {
        if (f->kind == WIRE_u64s)
            ((uint64_t *)(void *)items)[i] = gen_number(state);
        else
            gen_struct(state, f->sub, a, items + i * size);
    }
    *(struct wire_list *)m = (struct wire_list){items, n};
}

void gen_struct(uint64_t *state, const struct wire_schema *schema, struct wire_arena *a, void *out)
{
    memset(out, 0, schema->size);
    for (uint32_t i = 0; i < schema->n_fields; i++) {
        const struct wire_field *f = &schema->fields[i];
        void *m = (uint8_t *)out + f->offset;
        uint32_t n;

        if (!f->required && gen_random(state) % 3 == 0)
            continue;
        switch ((enum wire_kind)f->kind) {
        case WIRE_u64:
        case WIRE_i64:
            *(uint64_t *)m = gen_number(state);
            if (f->kind == WIRE_i64 && gen_random(state) % 2)
                *(uint64_t *)m = 0 - *(uint64_t *)m;
            break;
        case WIRE_u32:
            *(uint32_t *)m = (uint32_t)gen_number(state);
            break;
        case WIRE_boolean:
            *(bool *)m = gen_random(state) % 2;
            break;
        case WIRE_str:
            *(struct wire_str *)m = (struct wire_str){(char *)gen_bytes(state, a, &n), 0};
            ((struct wire_str *)m)->n = n;
            break;
        case WIRE_bin:
            *(struct wire_bin *)m = (struct wire_bin){gen_bytes(state, a, &n), 0};
            ((struct wire_bin *)m)->n = n;
            break;
        case WIRE_SUB:
            gen_struct(state, f->sub, a, m);
            *((bool *)m + f->sub->size) = true;
            break;
        case WIRE_u64s:
        case WIRE_LIST:
            gen_list(state, f, a, m);
            break;
        }
    }
}
