/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a simulation got to: interesting states are counted from what members, stores and clients log and send, so
 * the product has no code for it. The counters are shared by the processes of one `sim`, and printed at its end;
 * one that stays at zero over a long run says that nothing tests what it stands for.
 */
#pragma once

#include "common/buf.h"
#include "sim/sim.h"

struct wire_header;

void coverage_init(void); /* before the first fork */
void coverage_log(const char *line);
/* A message as it is sent; @body is that of the frame. */
void coverage_message(const struct sim_node *from, const struct wire_header *h, struct slice body);
/* A request as it comes to a member. */
void coverage_arrived(const struct wire_header *h, struct slice body);
/* Print all; true if each was reached. */
bool coverage_print(void);
