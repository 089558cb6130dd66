/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exhaustive search of a small model: every interleaving of an abstract system, breadth first, so
 * that the first counterexample found is a shortest one.
 *
 * A model is a state of plain bytes (no padding, no pointers: states are compared by memcmp) and a
 * function that emits every state one step away. Its rules are switches: with all rules on the
 * search must end without a violation, and with any single rule off it must find one. The second
 * half is what makes the first worth something: a model that cannot fail proves nothing.
 *
 * Messages are modelled as facts: a message that was sent may be delivered at any later step, any
 * number of times, or never. That is loss, doubling, delay and reordering at once.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct explorer;

struct model_rule {
    const char *name;
    const char *text;
};

struct model {
    const char *name;
    size_t state_size;
    const struct model_rule *rules; /* bit i of "off" turns rule i off */
    unsigned n_rules;
    void (*init)(void *state); /* @state is zeroed */
    void (*expand)(const void *state, unsigned off, struct explorer *x);
    /* Makes equivalent states equal (symmetry). NULL: none. A trace names things after it. */
    void (*canon)(void *state);
};

/* From expand(): @next is one step away. The text says which step; it is formatted for traces only.
 */
void model_emit(struct explorer *x, const void *next, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* From expand(): the step that the text describes breaks what must hold. */
void model_violation(struct explorer *x, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * main() of a model. Without arguments: TAP, one test with all rules on and one per rule switched
 * off. "--off RULE": that search alone, with the trace. "-v": all of them, with traces.
 */
int model_main(int argc, char **argv, const struct model *m);

static inline unsigned model_bits(unsigned mask)
{
    return (unsigned)__builtin_popcount(mask);
}
