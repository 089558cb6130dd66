/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/pace.h"

#define BUSY_NS (200 * NS_PER_MS)   /* a client was served so shortly ago: more will come */
#define ALONE_NS (100 * NS_PER_MS)  /* nothing was copied for so long: what is measured now is the base */
#define TURN_NS (50 * NS_PER_MS)    /* between changes: for the last one to be felt */
#define SLACK_NS (3 * NS_PER_MS)    /* nobody feels that */
#define BASE_UNKNOWN_NS (5 * NS_PER_MS)
#define PAUSE_MAX_NS (200 * NS_PER_MS)

void pace_init(struct pace *p)
{
    *p = (struct pace){.window = PACE_MAX};
}

void pace_client(struct pace *p, uint64_t now)
{
    p->foreground = MAX(now, 1);
}

static void mean_take(uint64_t *mean, uint64_t ns, unsigned shift)
{
    *mean = *mean ? *mean - (*mean >> shift) + (ns >> shift) : MAX(ns, 1);
}

static bool is_felt(const struct pace *p, enum pace_kind kind)
{
    uint64_t base = p->base[kind] ? p->base[kind] : BASE_UNKNOWN_NS;

    return p->mean[kind] > base + base / 2 + SLACK_NS;
}

void pace_served(struct pace *p, enum pace_kind kind, uint64_t now, uint64_t ns)
{
    mean_take(&p->mean[kind], ns, 3);
    if (!p->copied || now - p->copied > ALONE_NS) {
        mean_take(&p->base[kind], ns, 5);
        return;
    }
    if (now - p->changed < TURN_NS)
        return;
    p->changed = now;
    if (is_felt(p, kind))
        p->window = MAX(p->window / 2, PACE_MIN);
    else
        p->window = MIN(p->window + (p->window < PACE_ONE ? PACE_MIN : PACE_ONE), PACE_MAX);
}

void pace_copied(struct pace *p, uint64_t now)
{
    p->copied = MAX(now, 1);
}

uint32_t pace_window(const struct pace *p, uint64_t now)
{
    return !p->foreground || now - p->foreground > BUSY_NS ? PACE_MAX : p->window;
}

uint64_t pace_pause(const struct pace *p, uint64_t now, uint64_t ns)
{
    uint32_t w = pace_window(p, now);

    return w >= PACE_ONE ? 0 : MIN(ns * (PACE_ONE - w) / w, PAUSE_MAX_NS);
}
