/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast copies for others are made and given: at full speed when no client is served here, else as fast as the
 * clients do not feel it. What they feel is the time their requests take at this store, writes and reads apart: where it
 * grows well above what it was while nothing was copied, half as many chunks are copied at once; where it does not, one
 * more. Below one at once, pauses: but a quarter of that is always done, or a busy store never had its copies.
 */
#pragma once

#include "common/base.h"

#define PACE_ONE 256u                   /* a chunk at a time */
#define PACE_MAX (32 * PACE_ONE)
#define PACE_MIN (PACE_ONE / 4)

enum pace_kind { PACE_WRITE, PACE_READ, PACE_KINDS };

struct pace {
    uint64_t base[PACE_KINDS]; /* ns, a mean while nothing is copied; 0: not known */
    uint64_t mean[PACE_KINDS]; /* of the last few */
    uint64_t foreground;       /* time of the last request of a client */
    uint64_t copied;           /* time when something was copied last */
    uint64_t changed;          /* time of the last change of the window for a client's sake */
    uint32_t window;           /* chunks at once, in 1/PACE_ONE */
};

void pace_init(struct pace *p);
/* A client's request came. */
void pace_client(struct pace *p, uint64_t now);
/* One was answered after @ns. */
void pace_served(struct pace *p, enum pace_kind kind, uint64_t now, uint64_t ns);
/* A chunk was copied, or a part of one given. */
void pace_copied(struct pace *p, uint64_t now);
/* So many chunks at once, in 1/PACE_ONE. */
uint32_t pace_window(const struct pace *p, uint64_t now);
/* After a chunk that took @ns: so long nothing. */
uint64_t pace_pause(const struct pace *p, uint64_t now, uint64_t ns);
