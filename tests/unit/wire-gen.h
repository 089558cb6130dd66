/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random content for any message, made by its descriptors. Deterministic by the seed. All memory
 * comes from the arena and lives as long as it.
 */
#pragma once

#include "common/wire.h"

/* xorshift; *@state must not be 0. */
uint64_t gen_random(uint64_t *state);
/* Fill @out, a struct of @schema, zeroed first. */
void gen_struct(uint64_t *state, const struct wire_schema *schema, struct wire_arena *a, void *out);
