/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tercet status and tercet meta list share: the answers of the members, what is wrong, and what to do.
 *
 * A problem is an error (something waits or fails), a warning (one more failure would make it one), or info
 * (passes by itself, endangers nothing).
 */
#pragma once

#include "tercet.h"

struct report {
    const struct tool_members *m;
    struct tool_status s;
    json_t *problems; /* list of {severity, what, cure} */
    bool unhealthy;
    const json_t *leader; /* its document, or NULL */
};

enum severity { SEVERITY_INFO, SEVERITY_WARNING, SEVERITY_ERROR };

TC_PRINTF(4, 5) void report_problem(struct report *r, enum severity severity, const char *cure, const char *fmt, ...);
const char *report_config(const struct report *r);
uint32_t report_member_id(const struct report *r, unsigned i);
/* What the leader says of member @i; NULL: no leader, or it is not of the group. */
const json_t *report_leader_says(const struct report *r, unsigned i);
/* Everything that is wrong with the members. */
void report_members(struct report *r);
/* Storage nodes at one address, of the leader's list: a new list of {endpoint, nodes, what, cure}. */
json_t *same_address(const json_t *stores);
void report_print_problems(const struct report *r);
void report_print_members(const struct report *r);
