/* SPDX-License-Identifier: Apache-2.0 */
/* The stand-in that checks the checks (fake.c). */
#pragma once

#include "common/base.h"

enum fake_wrong { /* what it is told to do wrong, now and then */
    FAKE_STALE = 1,      /* reads miss what was not synced */
    FAKE_TORN = 2,       /* some bytes of a read are others */
    FAKE_SYNC = 4,       /* fsync does nothing */
    FAKE_LOST_FLUSH = 8, /* a handover loses the size */
    FAKE_TRUNCATE = 16,  /* truncate leaves old bytes */
    FAKE_TWICE = 32,     /* a creation is done and answered EEXIST */
    FAKE_RENAME = 64,    /* a rename is answered and not done */
    FAKE_NLINK = 128,
    FAKE_ALL = 255,
};

void fake_reset(uint64_t seed, uint32_t wrong);
