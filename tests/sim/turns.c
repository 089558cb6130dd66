/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turn-taking files: one actor at a time works on such a file, on whatever client, and the model knows every byte.
 *
 * images[0] is what is settled; each later one is the state after one more operation of the same life, not synced
 * yet. A reader must find the last one, unless the writer's life may have ended: then the size is
 * that of some image, and each block is as in some image (what was not synced goes block by block).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "sim/workload.h"

enum { WINDOW = 128 << 10, IMAGES_MAX = 24 };

struct image {
    uint32_t size; /* behind base */
    uint8_t *bytes; /* WINDOW, zero behind size */
};

struct turns {
    struct cluster *c;
    char name[16];
    uint64_t ino, base;
    bool busy;
    struct image images[IMAGES_MAX];
    uint32_t n_images;
    uint32_t life;  /* that wrote images[1..] */
    bool uncertain; /* an operation of it had no answer */
    uint64_t ghost_until; /* a truncate of a dead client may be done until then: nobody works here */
    bool unread;    /* the next to come must read it all before anything else */
};

struct turns *turns_new(struct cluster *c, const char *name, uint64_t base)
{
    struct turns *t = tc_calloc(1, sizeof *t);

    t->c = c;
    t->base = base;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->images[0].bytes = tc_calloc(1, WINDOW);
    t->n_images = 1;
    return t;
}

void turns_free(struct turns *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n_images; i++)
        free(t->images[i].bytes);
    free(t);
}

void turns_setup(struct actor *a, struct turns *t, uint64_t dir)
{
    int r = a_make(a, dir, t->name, S_IFREG | 0644, true);

    t->ino = a->ino;
    t->life = a->cl->life;
    if (!r && t->base)
        r = a_truncate(a, t->ino, t->base);
    if (r)
        cluster_fail(a->c, "set-up of %s: %s", t->name, tc_error_name(r));
}

uint64_t turns_ino(const struct turns *t)
{
    return t->ino;
}

static struct image *last(struct turns *t)
{
    return &t->images[t->n_images - 1];
}

static struct image *push(struct turns *t)
{
    struct image *i;

    ASSERT(t->n_images < IMAGES_MAX);
    i = &t->images[t->n_images++];
    i->size = i[-1].size;
    i->bytes = tc_malloc(WINDOW);
    memcpy(i->bytes, i[-1].bytes, WINDOW);
    return i;
}

/* Only the last image counts from here on. */
static void settle(struct turns *t)
{
    struct image keep = *last(t);

    for (uint32_t i = 0; i + 1 < t->n_images; i++)
        free(t->images[i].bytes);
    t->images[0] = keep;
    t->n_images = 1;
    t->uncertain = false;
}

static void cut(struct image *i, uint32_t size)
{
    if (size < i->size)
        memset(i->bytes + size, 0, WINDOW - size);
    i->size = size;
}

/* Does what was read agree with a loss of unsynced operations? */
static bool explained(struct turns *t, const uint8_t *data, uint32_t size)
{
    bool ok = false;

    for (uint32_t i = 0; i < t->n_images; i++)
        ok |= t->images[i].size == size;
    for (uint32_t at = 0; ok && at < size; at += BLOCK_SIZE) {
        uint32_t n = MIN(BLOCK_SIZE, size - at);

        ok = false;
        for (uint32_t i = 0; i < t->n_images && !ok; i++)
            ok = memcmp(t->images[i].bytes + at, data + at, n) == 0;
    }
    return ok;
}

static void mismatch(struct turns *t, struct actor *a, uint32_t size, const char *what)
{
    struct image *m = last(t);
    uint32_t at = 0;

    while (at < MIN(size, m->size) && m->bytes[at] == a->data[at])
        at++;
    cluster_fail(a->c,
                 "%s: %s: client %u read size %u, expected %u; first difference at %u (read %02x, expected %02x); "
                 "%u images of life %u (client %u)%s",
                 t->name, what, a->cl->index, size, m->size, at, at < size ? a->data[at] : 0,
                 at < m->size ? m->bytes[at] : 0, t->n_images, t->life, a->c->lives[t->life].client,
                 t->uncertain ? ", uncertain" : "");
}

/* Read all of it and compare; what was found is the truth from now on. False: no answer, or failed. */
static bool read_all(struct actor *a, struct turns *t, struct handle *h)
{
    bool other = !life_same_process(a->c, a->cl->life, t->life), loose;
    uint32_t size, life = a->cl->life;
    int r = a_read(a, h->f, t->base, WINDOW + 1);

    if (r) {
        if (!outcome_unknown(a, r, "read"))
            cluster_fail(a->c, "%s: read failed: %s", t->name, tc_error_name(r));
        return false;
    }
    size = (uint32_t)a->len;
    /* The client itself, too, may find what it had not synced gone: expired, with no file open to be told. */
    loose = (other && t->uncertain) || life_may_lose(a->c, t->life);
    if (size == last(t)->size && memcmp(a->data, last(t)->bytes, size) == 0) {
        if (other)
            settle(t);
    } else if (loose && explained(t, a->data, size)) {
        struct image *i = last(t);

        memset(i->bytes, 0, WINDOW);
        memcpy(i->bytes, a->data, size);
        i->size = size;
        settle(t);
    } else {
        mismatch(t, a, size, loose ? "no loss explains it" : "wrong");
        return false;
    }
    if (other)
        t->life = life;
    t->unread = false;
    return true;
}

/* The session ended while the write waited: what was not synced before may be gone, and this was written behind it. */
static void wrote_after_loss(struct turns *t, uint32_t off, uint32_t len)
{
    uint32_t whole = t->n_images - 1, end = whole;
    struct image keep;

    for (uint32_t i = 0; i < end && t->n_images < IMAGES_MAX - 2; i++) { /* room for two more operations */
        struct image *m = push(t);

        memcpy(m->bytes, t->images[i].bytes, WINDOW);
        memcpy(m->bytes + off, t->images[whole].bytes + off, len);
        m->size = MAX(t->images[i].size, off + len);
    }
    keep = *last(t);
    *last(t) = t->images[whole];
    t->images[whole] = keep;
}

static void write_at(struct actor *a, struct turns *t, struct handle *h, uint32_t off, uint32_t len, bool append)
{
    struct image *i = push(t);
    int r;

    for (uint32_t k = 0; k < len; k++)
        i->bytes[off + k] = (uint8_t)(1 + sim_below(&a->rng, 255));
    i->size = MAX(i->size, off + len);
    r = a_write(a, h->f, i->bytes + off, len, t->base + off, append);
    if (r) {
        t->uncertain = true;
        if (!outcome_unknown(a, r, "write"))
            cluster_fail(a->c, "%s: write failed: %s", t->name, tc_error_name(r));
    } else if (append && a->off != t->base + off) {
        cluster_fail(a->c, "%s: append went to %" PRIu64 ", the end was at %" PRIu64, t->name, a->off, t->base + off);
    } else if (a->len != len) {
        cluster_fail(a->c, "%s: short write", t->name);
    } else if (life_may_lose(a->c, t->life)) {
        wrote_after_loss(t, off, len);
    }
}

static void do_write(struct actor *a, struct turns *t, struct handle *h)
{
    static const uint32_t sizes[] = {1, 100, 4096, 5000, 20000, 65536};
    bool append = sim_below(&a->rng, 5) == 0;
    uint32_t len = 1 + (uint32_t)sim_below(&a->rng, sizes[sim_below(&a->rng, ARRAY_SIZE(sizes))]);
    uint32_t off = (uint32_t)sim_below(&a->rng, WINDOW);

    if (append)
        off = last(t)->size;
    else if (sim_below(&a->rng, 2))
        off &= ~(BLOCK_SIZE - 1);
    if (off >= WINDOW)
        return;
    write_at(a, t, h, off, MIN(len, WINDOW - off), append);
}

static int truncate_to(struct actor *a, struct turns *t, uint32_t size)
{
    int r;

    r = a_truncate(a, t->ino, t->base + size);
    if (r == 0) {
        for (uint32_t i = 0; i < t->n_images; i++)
            cut(&t->images[i], size); /* committed: holds whatever of the data is lost */
    } else {
        cut(push(t), size);
        t->uncertain = true;
        t->ghost_until = sim_now(a->c->s) + 60 * NS_PER_S;
        if (!outcome_unknown(a, r, "truncate"))
            cluster_fail(a->c, "%s: truncate failed: %s", t->name, tc_error_name(r));
    }
    return r;
}

static void do_truncate(struct actor *a, struct turns *t)
{
    uint32_t size = (uint32_t)sim_below(&a->rng, WINDOW);

    if (sim_below(&a->rng, 3) == 0)
        size = (uint32_t)sim_below(&a->rng, last(t)->size + 1);
    (void)truncate_to(a, t, size);
}

static void do_sync(struct actor *a, struct turns *t, struct handle *h)
{
    int r = a_fsync(a, h->f);

    if (r == 0)
        settle(t);
    else if (!outcome_unknown(a, r, "fsync"))
        cluster_fail(a->c, "%s: fsync failed: %s", t->name, tc_error_name(r));
}

static bool same_life(struct actor *a, struct turns *t, const struct handle *h)
{
    return !a->c->failed && a->cl->ready && a->cl->kills == h->kills && a->cl->life == t->life && !t->uncertain;
}

/* Truncates to ever larger sizes, each below what was written: the horizon fills up (PROTOCOL 5.1). */
static void do_rising(struct actor *a, struct turns *t, struct handle *h)
{
    uint32_t size = (uint32_t)sim_below(&a->rng, WINDOW / 8), n = 4 + (uint32_t)sim_below(&a->rng, 24);
    uint32_t step = sim_below(&a->rng, 2) ? 600 : 4 * BLOCK_SIZE;

    while (n-- && same_life(a, t, h)) {
        uint32_t off = size + (uint32_t)sim_below(&a->rng, step);

        if (off + step >= WINDOW)
            return;
        if (t->n_images > IMAGES_MAX - 2)
            do_sync(a, t, h);
        if (!same_life(a, t, h) || t->n_images > IMAGES_MAX - 2)
            return;
        write_at(a, t, h, off, step, false);
        if (!same_life(a, t, h) || truncate_to(a, t, size))
            return;
        size += 1 + (uint32_t)sim_below(&a->rng, step);
    }
}

/* Attributes alone: what another client has written, not synced, counts. */
static void do_stat(struct actor *a, struct turns *t)
{
    int r = a_getattr(a, t->ino);

    if (r) {
        if (!outcome_unknown(a, r, "getattr"))
            cluster_fail(a->c, "%s: getattr failed: %s", t->name, tc_error_name(r));
        return;
    }
    if (t->uncertain || life_may_lose(a->c, t->life))
        return;
    if (a->size != t->base + last(t)->size)
        cluster_fail(a->c, "%s: client %u sees size %" PRIu64 ", expected %" PRIu64 " (writer: client %u)", t->name,
                     a->cl->index, a->size, t->base + last(t)->size, a->c->lives[t->life].client);
}

static void turns_work(struct actor *a, struct turns *t)
{
    struct handle h;
    int r;

    if (sim_below(&a->rng, 4) == 0) {
        do_stat(a, t);
        if (sim_below(&a->rng, 2))
            return;
    }
    r = handle_open(a, &h, t->ino, TC_OPEN_READ | TC_OPEN_WRITE);
    if (r) {
        if (!outcome_unknown(a, r, "open"))
            cluster_fail(a->c, "%s: open failed: %s", t->name, tc_error_name(r));
        return;
    }
    if (a->cl->life == t->life && !t->uncertain && !t->unread && !life_may_lose(a->c, t->life))
        r = 0;
    else
        r = read_all(a, t, &h) ? 0 : -1;
    for (uint64_t n = 1 + sim_below(&a->rng, 6); r == 0 && n && same_life(a, t, &h); n--) {
        if (t->n_images > IMAGES_MAX - 2) {
            do_sync(a, t, &h);
            continue;
        }
        switch (sim_below(&a->rng, 13)) {
        case 0 ... 5:
            do_write(a, t, &h);
            break;
        case 6:
            do_truncate(a, t);
            break;
        case 7:
            do_sync(a, t, &h);
            break;
        case 8:
            do_stat(a, t);
            break;
        case 9:
            do_rising(a, t, &h);
            break;
        default:
            (void)read_all(a, t, &h); /* judges by itself */
            break;
        }
        if (sim_below(&a->rng, 2))
            actor_sleep(a, sim_latency(&a->rng, 3 * NS_PER_MS));
    }
    handle_close(a, &h);
}

void turns_turn(struct actor *a, struct turns *t)
{
    if (t->busy || sim_now(a->c->s) < t->ghost_until)
        return;
    t->busy = true;
    turns_work(a, t);
    t->busy = false;
}

void turns_verify(struct actor *a, struct turns *t)
{
    struct handle h;
    int r;

    if (sim_now(a->c->s) < t->ghost_until)
        actor_sleep(a, t->ghost_until - sim_now(a->c->s));
    r = handle_open(a, &h, t->ino, TC_OPEN_READ);

    if (r) {
        cluster_fail(a->c, "%s: open at the end: %s", t->name, tc_error_name(r));
        return;
    }
    if (read_all(a, t, &h))
        do_stat(a, t);
    handle_close(a, &h);
}
