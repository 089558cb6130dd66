/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator's random numbers: splitmix64, one state per stream. */
#pragma once

#include "common/base.h"

struct sim_rng {
    uint64_t s;
};

static inline uint64_t sim_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t sim_next(struct sim_rng *r)
{
    return sim_mix(r->s += UINT64_C(0x9e3779b97f4a7c15));
}

/* Uniform in [0, n), n > 0. */
static inline uint64_t sim_below(struct sim_rng *r, uint64_t n)
{
    return sim_next(r) % n;
}

/* True with probability @ppm / 10^6. */
static inline bool sim_chance(struct sim_rng *r, uint64_t ppm)
{
    return ppm && sim_below(r, 1000000) < ppm;
}

/* Mostly near @mean, with a long tail: a sum of halvings, in integers so that every machine agrees. */
static inline uint64_t sim_latency(struct sim_rng *r, uint64_t mean)
{
    uint64_t v = sim_below(r, mean + 1);

    while (sim_below(r, 4) == 0 && v < 64 * mean)
        v = v * 2 + mean / 2;
    return v;
}

static inline struct sim_rng sim_stream(uint64_t seed, uint64_t a, uint64_t b)
{
    return (struct sim_rng){sim_mix(seed ^ sim_mix(a * 0x9e3779b97f4a7c15u + 1) ^ sim_mix(b + 0x1234567u))};
}
