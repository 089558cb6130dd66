/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The search. States live in one growing array in the order they were found, each with the number
 * of its parent; a hash table of numbers finds duplicates. No labels are stored: a trace is made by
 * expanding each parent on the way once more. Deterministic: same model, same numbers.
 */
#include "model/explore.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/base.h"

enum { STATES_MAX = 12u << 20 }; /* a model that needs more is not small: cut it */

struct explorer {
    const struct model *m;
    unsigned off;
    uint8_t *states;
    uint32_t *parents;
    uint32_t n, n_max;
    uint32_t *table; /* number + 1, or 0 */
    uint32_t table_size;
    uint32_t current;
    uint8_t *scratch;
    char bad[160]; /* the violation, or "" */
    /* While a trace is made: the state looked for, and the label of the step that leads to it. */
    const uint8_t *wanted;
    char label[160];
};

static uint8_t *state_at(const struct explorer *x, uint32_t i)
{
    return x->states + (size_t)i * x->m->state_size;
}

static void table_insert(struct explorer *x, uint32_t i)
{
    uint64_t h = XXH3_64bits(state_at(x, i), x->m->state_size);
    uint32_t at = (uint32_t)h & (x->table_size - 1);

    while (x->table[at])
        at = (at + 1) & (x->table_size - 1);
    x->table[at] = i + 1;
}

static void table_grow(struct explorer *x)
{
    free(x->table);
    x->table_size = x->table_size ? x->table_size * 2 : 1u << 16;
    x->table = tc_calloc(x->table_size, sizeof *x->table);
    for (uint32_t i = 0; i < x->n; i++)
        table_insert(x, i);
}

static bool known(const struct explorer *x, const uint8_t *s)
{
    uint64_t h = XXH3_64bits(s, x->m->state_size);
    uint32_t at = (uint32_t)h & (x->table_size - 1);

    for (; x->table[at]; at = (at + 1) & (x->table_size - 1))
        if (!memcmp(state_at(x, x->table[at] - 1), s, x->m->state_size))
            return true;
    return false;
}

static void add(struct explorer *x, const uint8_t *s)
{
    if (x->n == x->n_max) {
        x->n_max = x->n_max ? x->n_max * 2 : 1u << 14;
        x->states = tc_realloc(x->states, (size_t)x->n_max * x->m->state_size);
        x->parents = tc_realloc(x->parents, (size_t)x->n_max * sizeof *x->parents);
    }
    if (x->n * 2 >= x->table_size)
        table_grow(x);
    memcpy(state_at(x, x->n), s, x->m->state_size);
    x->parents[x->n] = x->current;
    x->n++;
    table_insert(x, x->n - 1);
}

void model_emit(struct explorer *x, const void *next, const char *fmt, ...)
{
    memcpy(x->scratch, next, x->m->state_size);
    if (x->m->canon)
        x->m->canon(x->scratch);
    if (x->wanted) {
        if (!x->label[0] && !memcmp(x->scratch, x->wanted, x->m->state_size)) {
            va_list ap;

            va_start(ap, fmt);
            (void)vsnprintf(x->label, sizeof x->label, fmt, ap);
            va_end(ap);
        }
        return;
    }
    if (x->bad[0] || known(x, x->scratch))
        return;
    add(x, x->scratch);
}

void model_violation(struct explorer *x, const char *fmt, ...)
{
    va_list ap;

    if (x->bad[0] || x->wanted)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(x->bad, sizeof x->bad, fmt, ap);
    va_end(ap);
}

static void trace_print(struct explorer *x, uint32_t last)
{
    uint32_t path[512];
    uint32_t n = 0;
    uint8_t *copy = tc_malloc(x->m->state_size);

    for (uint32_t i = last; i && n < ARRAY_SIZE(path); i = x->parents[i])
        path[n++] = i;
    for (uint32_t k = n; k-- > 0;) {
        x->label[0] = '\0';
        x->wanted = state_at(x, path[k]);
        memcpy(copy, state_at(x, x->parents[path[k]]), x->m->state_size);
        x->m->expand(copy, x->off, x);
        printf("#   %2u. %s\n", n - k, x->label);
    }
    x->wanted = NULL;
    printf("#   ==> %s\n", x->bad);
    free(copy);
}

/* Searches with the rules @off. Returns whether a violation was found; prints a summary line. */
static bool search(const struct model *m, unsigned off, bool verbose, bool *ret_too_large)
{
    struct explorer x = {.m = m, .off = off};
    uint8_t *copy = tc_calloc(1, m->state_size);
    uint32_t i;
    bool found;

    x.scratch = tc_calloc(1, m->state_size);
    m->init(copy);
    add(&x, copy);
    for (i = 0; i < x.n && !x.bad[0] && x.n < STATES_MAX; i++) {
        memcpy(copy, state_at(&x, i), m->state_size); /* the array moves when it grows */
        x.current = i;
        m->expand(copy, off, &x);
    }
    found = x.bad[0] != '\0';
    *ret_too_large = x.n >= STATES_MAX;
    printf("# %u states%s%s\n", x.n, found ? "; violation: " : "", x.bad);
    if (found && verbose)
        trace_print(&x, i - 1);
    free(copy);
    free(x.scratch);
    free(x.states);
    free(x.parents);
    free(x.table);
    return found;
}

int model_main(int argc, char **argv, const struct model *m)
{
    bool verbose = argc == 2 && !strcmp(argv[1], "-v");
    bool too_large;
    bool ok;
    unsigned failed = 0;

    if (argc == 3 && !strcmp(argv[1], "--off")) {
        for (unsigned i = 0; i < m->n_rules; i++)
            if (!strcmp(argv[2], m->rules[i].name))
                return search(m, 1u << i, true, &too_large) ? 0 : 1;
    }
    if (argc > 1 && !verbose) {
        fprintf(stderr, "usage: model-%s [-v | --off RULE]; rules:\n", m->name);
        for (unsigned i = 0; i < m->n_rules; i++)
            fprintf(stderr, "  %-14s %s\n", m->rules[i].name, m->rules[i].text);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("1..%u\n", m->n_rules + 1);
    ok = !search(m, 0, true, &too_large) && !too_large;
    printf("%s 1 - %s: all rules on, nothing breaks\n", ok ? "ok" : "not ok", m->name);
    failed += !ok;
    for (unsigned i = 0; i < m->n_rules; i++) {
        ok = search(m, 1u << i, verbose, &too_large);
        printf("%s %u - %s without %s: %s\n", ok ? "ok" : "not ok", i + 2, m->name,
               m->rules[i].name, m->rules[i].text);
        failed += !ok;
    }
    return failed ? 1 : 0;
}
