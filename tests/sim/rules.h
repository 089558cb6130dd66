/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of PROTOCOL that can be turned off, of all layers, by name. docs/SIMULATION.md says how each is noticed.
 *
 * Those of the data path are compiled in with -Dtest_rules=true only (common/test_rules.h); those of Raft, the state
 * machine and the member are fields of their configurations.
 */
#pragma once

#include "common/base.h"
#include "common/test_rules.h"

/* Words of a set of rules: one per part, and of RULE_DATA several, as tc_test_rules_set() has them. */
enum rule_layer { RULE_META, RULE_FSM, RULE_RAFT, RULE_DATA, RULE_LAYERS = RULE_DATA + TC_RULE_WORDS };

/* @list: names, comma separated, added to @off. False: one is unknown, or not in this build; it was said on stderr. */
bool rules_parse(const char *list, uint64_t off[RULE_LAYERS]);
/* The names of what is off, comma separated; "" if nothing is. */
void rules_print(const uint64_t off[RULE_LAYERS], char *ret, size_t size);
/* One line per rule: name, layer, bit or - (common/test_rules.h: the environment), section, text. */
void rules_list(void);
