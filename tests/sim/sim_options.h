/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of `sim`, and what a swarm draws from each seed. */
#pragma once

#include <stdio.h>

#include "sim/cluster.h"

struct run_options {
    struct cluster_options base; /* its seed is the first */
    uint64_t runs, minutes;      /* so many seeds; or as many as there is time for */
    bool keep_going, expect_failure, coverage, require_coverage;
    int status; /* exit status if there is nothing to run */
};

/* False: there is nothing to run. */
bool options_parse(int argc, char **argv, struct run_options *ret);
/* Sizes, times, faults and rates of @o's seed. */
void options_swarm(struct cluster_options *o);
void options_print_swarm(const struct cluster_options *o, FILE *f);
void options_print_replay(const char *program, const struct cluster_options *base, uint64_t seed);
