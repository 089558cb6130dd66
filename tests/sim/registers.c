/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared files: concurrent reads and writes, judged cell by cell for linearizability.
 *
 * Every write has a number of its own, so a read names the write it saw, and the test of Gibbons and Korach is
 * exact: with f(v) the first end and s(v) the last begin of the operations on value v, the history is linearizable
 * if the intervals [f, s] of values with f < s do not overlap, and no [s, f] of the others lies inside one.
 *
 * A write that nobody else saw, of a life that ended before it was synced, may be gone; so it is left out,
 * with that life's own reads of it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "sim/workload.h"

enum { CELLS_PER_OP = 16 };

struct wop {
    uint64_t value, inv, resp; /* resp UINT64_MAX: never answered */
    uint32_t c0, c1, life;
    bool synced;
};

struct rop { /* one cell's share of a read */
    uint64_t value, inv, resp;
    uint32_t cell, life;
};

struct shared {
    struct cluster *c;
    char name[16];
    uint64_t ino, base, next_value;
    uint32_t n_cells;
    struct wop *w;
    uint32_t n_w, w_cap;
    struct rop *r;
    uint32_t n_r, r_cap;
};

struct shared *shared_new(struct cluster *c, const char *name, uint64_t base, uint32_t n_cells)
{
    struct shared *s = tc_calloc(1, sizeof *s);

    s->c = c;
    snprintf(s->name, sizeof s->name, "%s", name);
    s->base = base;
    s->n_cells = n_cells;
    s->next_value = 1;
    return s;
}

void shared_free(struct shared *s)
{
    if (!s)
        return;
    free(s->w);
    free(s->r);
    free(s);
}

void shared_setup(struct actor *a, struct shared *s, uint64_t dir)
{
    int r = a_make(a, dir, s->name, S_IFREG | 0644, true);

    s->ino = a->ino;
    if (!r)
        r = a_truncate(a, s->ino, s->base + (uint64_t)s->n_cells * CELL);
    if (r)
        cluster_fail(a->c, "set-up of %s: %s", s->name, tc_error_name(r));
}

uint64_t shared_ino(const struct shared *s)
{
    return s->ino;
}

/* A cell's bytes: the write's number, and where it belongs. */
static void cell_fill(const struct shared *s, uint32_t cell, uint64_t value, uint8_t *out)
{
    uint64_t word[2] = {value, s->ino << 32 | (cell + 1)};

    for (int i = 0; i < CELL; i += 16)
        memcpy(out + i, word, 16);
}

static uint64_t cell_value(struct shared *s, uint32_t cell, const uint8_t *data)
{
    uint8_t want[CELL] = {0};
    uint64_t value;

    memcpy(&value, data, 8);
    if (value)
        cell_fill(s, cell, value, want);
    if (memcmp(want, data, CELL) != 0) {
        uint32_t at = 0;

        while (want[at] == data[at])
            at++;
        cluster_fail(s->c, "%s cell %u: torn or misplaced at byte %u (value %" PRIu64 ")", s->name, cell, at, value);
    }
    return value;
}

static uint32_t write_begin(struct actor *a, struct shared *s, uint32_t c0, uint32_t c1)
{
    if (s->n_w == s->w_cap) {
        s->w_cap = s->w_cap ? 2 * s->w_cap : 256;
        s->w = tc_realloc(s->w, s->w_cap * sizeof *s->w);
    }
    s->w[s->n_w] = (struct wop){.value = s->next_value++, .inv = sim_now(a->c->s), .resp = UINT64_MAX, .c0 = c0,
                                .c1 = c1, .life = a->cl->life};
    return s->n_w++;
}

static void do_write(struct actor *a, struct shared *s, struct handle *h, uint32_t c0, uint32_t c1)
{
    uint8_t *data = tc_malloc((size_t)(c1 - c0) * CELL);
    uint32_t op = write_begin(a, s, c0, c1);
    int r;

    for (uint32_t i = c0; i < c1; i++)
        cell_fill(s, i, s->w[op].value, data + (size_t)(i - c0) * CELL);
    r = a_write(a, h->f, data, (size_t)(c1 - c0) * CELL, s->base + (uint64_t)c0 * CELL, false);
    free(data);
    if (r == 0)
        s->w[op].resp = sim_now(a->c->s);
    else if (!outcome_unknown(a, r, "write"))
        cluster_fail(a->c, "%s: write failed: %s", s->name, tc_error_name(r));
}

static void do_read(struct actor *a, struct shared *s, struct handle *h, uint32_t c0, uint32_t c1)
{
    uint64_t inv = sim_now(a->c->s);
    uint32_t life = a->cl->life;
    int r = a_read(a, h->f, s->base + (uint64_t)c0 * CELL, (size_t)(c1 - c0) * CELL);

    if (r) {
        if (!outcome_unknown(a, r, "read"))
            cluster_fail(a->c, "%s: read failed: %s", s->name, tc_error_name(r));
        return;
    }
    if (a->len != (size_t)(c1 - c0) * CELL) {
        cluster_fail(a->c, "%s: short read at cell %u: %zu", s->name, c0, a->len);
        return;
    }
    for (uint32_t i = c0; i < c1 && !a->c->failed; i++) {
        if (s->n_r == s->r_cap) {
            s->r_cap = s->r_cap ? 2 * s->r_cap : 1024;
            s->r = tc_realloc(s->r, s->r_cap * sizeof *s->r);
        }
        s->r[s->n_r++] = (struct rop){.value = cell_value(s, i, a->data + (size_t)(i - c0) * CELL), .inv = inv,
                                      .resp = sim_now(a->c->s), .cell = i, .life = life};
    }
}

static void do_sync(struct actor *a, struct shared *s, struct handle *h)
{
    uint64_t inv = sim_now(a->c->s);
    uint32_t life = a->cl->life;
    int r = a_fsync(a, h->f);

    if (r) {
        if (!outcome_unknown(a, r, "fsync"))
            cluster_fail(a->c, "%s: fsync failed: %s", s->name, tc_error_name(r));
        return;
    }
    for (uint32_t i = 0; i < s->n_w; i++)
        if (s->w[i].life == life && s->w[i].resp <= inv &&
            (s->w[i].inv >= h->opened || !life_may_lose(s->c, life))) /* what was lost before is told to nobody */
            s->w[i].synced = true;
}

void shared_turn(struct actor *a, struct shared *s)
{
    struct handle h;
    int r = handle_open(a, &h, s->ino, TC_OPEN_READ | TC_OPEN_WRITE);

    if (r) {
        if (!outcome_unknown(a, r, "open"))
            cluster_fail(a->c, "%s: open failed: %s", s->name, tc_error_name(r));
        return;
    }
    for (uint64_t n = 1 + sim_below(&a->rng, 6); n && !a->c->failed && h.kills == a->cl->kills && a->cl->ready; n--) {
        uint32_t len = 1 + (uint32_t)sim_below(&a->rng, CELLS_PER_OP);
        uint32_t c0 = (uint32_t)sim_below(&a->rng, s->n_cells - len + 1);

        if (sim_below(&a->rng, 3) == 0) { /* whole blocks */
            c0 &= ~3u;
            len = MIN((len + 3) & ~3u, s->n_cells - c0);
        }
        switch (sim_below(&a->rng, 10)) {
        case 0:
            do_sync(a, s, &h);
            break;
        case 1 ... 4:
            do_write(a, s, &h, c0, c0 + len);
            break;
        default:
            do_read(a, s, &h, c0, c0 + len);
            break;
        }
        if (sim_below(&a->rng, 2))
            actor_sleep(a, sim_latency(&a->rng, 3 * NS_PER_MS));
    }
    handle_close(a, &h);
}

void shared_verify(struct actor *a, struct shared *s)
{
    struct handle h;
    int r = handle_open(a, &h, s->ino, TC_OPEN_READ);

    if (r) {
        cluster_fail(a->c, "%s: open at the end: %s", s->name, tc_error_name(r));
        return;
    }
    for (uint32_t i = 0; i < s->n_cells && !a->c->failed; i += 32)
        do_read(a, s, &h, i, MIN(i + 32, s->n_cells));
    handle_close(a, &h);
}

/* ---- the judgement -------------------------------------------------------------------------------- */

struct zone {
    uint64_t value, first_end, last_begin;
    uint64_t begin; /* of the write */
    bool dropped;
    const struct wop *w;
};

static int by_value(const void *a, const void *b)
{
    const struct zone *x = a, *y = b;

    return x->value < y->value ? -1 : x->value > y->value;
}

static void judge_fail(struct shared *s, uint32_t cell, const char *what, const struct zone *x, const struct zone *y)
{
    for (uint32_t i = 0; i < s->n_w; i++)
        if ((s->w[i].value == x->value || (y && s->w[i].value == y->value)) && s->w[i].c0 <= cell && cell < s->w[i].c1)
            cluster_log(s->c, "%s cell %u: write %" PRIu64 " [%.6f, %.6f] life %u (client %u)%s", s->name, cell,
                        s->w[i].value, (double)s->w[i].inv / 1e9, (double)s->w[i].resp / 1e9, s->w[i].life,
                        s->c->lives[s->w[i].life].client, s->w[i].synced ? " synced" : "");
    for (uint32_t i = 0; i < s->n_r; i++)
        if (s->r[i].cell == cell && (s->r[i].value == x->value || (y && s->r[i].value == y->value)))
            cluster_log(s->c, "%s cell %u: read %" PRIu64 " [%.6f, %.6f] life %u (client %u)", s->name, cell,
                        s->r[i].value, (double)s->r[i].inv / 1e9, (double)s->r[i].resp / 1e9, s->r[i].life,
                        s->c->lives[s->r[i].life].client);
    cluster_fail(s->c, "%s cell %u: not linearizable: %s (values %" PRIu64 " and %" PRIu64 ")", s->name, cell, what,
                 x->value, y ? y->value : 0);
}

/* Zones of one cell's values; the number. */
static uint32_t cell_zones(struct shared *s, uint32_t cell, struct zone *z)
{
    uint32_t n = 0;

    z[n++] = (struct zone){.value = 0}; /* the hole it began as */
    for (uint32_t i = 0; i < s->n_w; i++) {
        const struct wop *w = &s->w[i];

        if (w->c0 > cell || cell >= w->c1)
            continue;
        z[n++] = (struct zone){.value = w->value, .first_end = w->resp, .last_begin = w->inv, .begin = w->inv, .w = w,
                               .dropped = !w->synced && (w->resp == UINT64_MAX || life_may_lose(s->c, w->life))};
    }
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < s->n_r; i++) {
            const struct rop *r = &s->r[i];
            struct zone key = {.value = r->value}, *at;

            if (r->cell != cell)
                continue;
            at = bsearch(&key, z, n, sizeof *z, by_value); /* numbers ascend with time */
            if (!at || r->resp < at->begin) {
                judge_fail(s, cell, at ? "read before it was written" : "nobody wrote it there", &key, NULL);
                return 0;
            }
            if (pass == 0 && at->dropped && !life_same_process(s->c, at->w->life, r->life))
                at->dropped = false; /* another saw it: it counts */
            if (pass == 1) {
                at->first_end = MIN(at->first_end, r->resp);
                at->last_begin = MAX(at->last_begin, r->inv);
            }
        }
    return n;
}

/* A write that was lost may have been read by its own process, but not after somebody else had written anew. */
static void judge_lost(struct shared *s, uint32_t cell, const struct zone *lost, const struct zone *z, uint32_t n)
{
    for (uint32_t k = 0; k < n && !s->c->failed; k++)
        if (!z[k].dropped && lost->w->resp < z[k].begin && z[k].first_end < lost->last_begin)
            judge_fail(s, cell, "a lost value was read after it was replaced", lost, &z[k]);
}

static void judge_cell(struct shared *s, uint32_t cell, struct zone *z)
{
    uint32_t n = cell_zones(s, cell, z);

    for (uint32_t i = 0; i < n; i++) {
        if (z[i].dropped)
            judge_lost(s, cell, &z[i], z, n);
        if (z[i].dropped || z[i].first_end >= z[i].last_begin)
            continue;
        for (uint32_t k = 0; k < n && !s->c->failed; k++) {
            bool forward = z[k].first_end < z[k].last_begin;

            if (k == i || z[k].dropped)
                continue;
            if (forward && z[k].first_end < z[i].last_begin && z[i].first_end < z[k].last_begin)
                judge_fail(s, cell, "a value came back, or was seen in two orders", &z[i], &z[k]);
            if (!forward && z[i].first_end < z[k].last_begin && z[k].first_end < z[i].last_begin)
                judge_fail(s, cell, "an older value was read after it was replaced", &z[i], &z[k]);
        }
    }
}

void shared_judge(struct shared *s)
{
    struct zone *z = tc_calloc(s->n_w + 1, sizeof *z);

    for (uint32_t i = 0; i < s->n_cells && !s->c->failed; i++)
        judge_cell(s, i, z);
    free(z);
}
