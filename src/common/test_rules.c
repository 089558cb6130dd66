/* SPDX-License-Identifier: Apache-2.0 */
#include "common/test_rules.h"

#ifdef TC_TEST_RULES_BUILD
uint32_t tc_test_rules_off;

void tc_test_rules_set(uint32_t off)
{
    tc_test_rules_off = off;
}
#else
void tc_test_rules_set(uint32_t off)
{
    (void)off;
}
#endif
