/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model: truncation by horizon, and the size of a file whose writer died (docs/PROTOCOL.md:
 * truncate, unclean files).
 *
 * A file of three units, two to a block; a unit is zero or written. One client at a time holds X:
 * it writes and truncates in its cache, flushes blocks (one message per block under way), commits
 * by fsync, drops clean blocks and reads them again, releases, or dies; then the size is recovered
 * from what the store recorded beside the blocks. Truncation moves no data: it sets the size, takes
 * an epoch and adds (size, epoch) to the horizon. A trim comes at any later time, again and again.
 *
 * Abstracted: the three replicas are one register that keeps the newer version (model quorum); the
 * horizon holds two entries, not 16; reach is not bounded.
 *
 * Checked: a block read again is what its writer left there; after a death the size is one the file
 * had since the last commit, and each unit holds what it held then or what was written to it since.
 */
#include <string.h>

#include "common/base.h"
#include "model/explore.h"

enum { BLOCKS = 2, UNITS = 3, HORIZON_MAX = 2 };
enum {
    EPOCHS_MAX = 4,
    SENDS_MAX = 3,
    STEPS_MAX = 6
}; /* at most so many epochs and sends together */

enum {
    OFF_ENTRY = 1 << 0,
    OFF_COVER = 1 << 1,
    OFF_REWRITE = 1 << 2,
    OFF_NEW_EPOCH = 1 << 3,
    OFF_RECOVER = 1 << 4,
    OFF_ZERO_TAIL = 1 << 5,
    OFF_TRIM = 1 << 6,
    OFF_FENCE = 1 << 7,
};

static const struct model_rule rules[] = {
    {"entry", "no entry only if the new size is below nothing the file had since the last (5.1)"},
    {"cover", "an entry goes when a later one with a size not larger covers it (5.1)"},
    {"rewrite", "or when its range was rewritten under the holder's epoch (5.1)"},
    {"new-epoch", "blocks after a truncate bear its epoch (4.8, 5.1)"},
    {"recover", "a recovered size takes an epoch and a horizon entry (3.6 a)"},
    {"zero-tail",
     "bytes at and past the size are zero in every block sent, and when extended (4.8)"},
    {"trim", "a trim removes only blocks of a lower epoch (5.3)"},
    {"fence", "the recovery fences the writer before it looks (3.6 a)"},
};

struct block {
    uint8_t epoch, seq, content, size; /* content: a bit per unit; size: of the file, as sent */
};

struct state {
    struct block disk[BLOCKS];
    struct block sent[BLOCKS];               /* under way; epoch 0: none */
    uint8_t pair_epoch, pair_seq, pair_size; /* the chunk's recorded size, of its highest version */
    uint8_t size, epoch, hmax; /* the row; hmax: largest size committed since the last entry */
    uint8_t n_horizon;
    struct {
        uint8_t size, epoch;
    } horizon[HORIZON_MAX + 2];
    uint8_t trim_size, trim_epoch;
    uint8_t held, dead, sends;
    /* the holder */
    uint8_t my_epoch, seq, my_size, largest, view, dirty;
    /* what may be: values per unit (bit 0: zero, bit 1: written), sizes (bit per size) */
    uint8_t may[UNITS], sizes;
};

static unsigned read_unit(const struct state *s, unsigned u)
{
    const struct block *b = &s->disk[u / 2];

    for (unsigned k = 0; k < s->n_horizon; k++)
        if (u >= s->horizon[k].size && b->epoch < s->horizon[k].epoch)
            return 0;
    return b->content >> (u % 2) & 1;
}

static unsigned read_all(const struct state *s)
{
    unsigned v = 0;

    for (unsigned u = 0; u < s->size; u++)
        v |= read_unit(s, u) << u;
    return v;
}

static unsigned below(unsigned size)
{
    return (1u << size) - 1;
}

static void horizon_add(struct state *s, unsigned size, unsigned epoch, unsigned off)
{
    while (s->n_horizon && (s->horizon[s->n_horizon - 1].size >= size || (off & OFF_COVER)))
        s->n_horizon--; /* covered by the new one; sizes and epochs both rise along the list */
    s->horizon[s->n_horizon].size = size;
    s->horizon[s->n_horizon].epoch = epoch;
    s->n_horizon++;
    for (unsigned k = s->n_horizon; k < ARRAY_SIZE(s->horizon); k++)
        s->horizon[k].size = s->horizon[k].epoch = 0;
    s->hmax = size;
}

static void holder_forget(struct state *s)
{
    s->my_epoch = s->seq = s->my_size = s->largest = s->view = s->dirty = 0;
}

static void truncate_step(const struct state *s, unsigned to, unsigned off, struct explorer *x)
{
    struct state n = *s;
    bool entry = to < s->largest || to < s->hmax;

    if (off & OFF_ENTRY)
        entry = to < s->size;
    if (entry) {
        unsigned covered = 0;

        for (unsigned k = 0; k < s->n_horizon; k++)
            covered += s->horizon[k].size >= to;
        if (s->n_horizon - covered >= HORIZON_MAX)
            return; /* rewrite first */
    }
    n.epoch++;
    if (entry) {
        horizon_add(&n, to, n.epoch, off);
        n.largest = to;
    }
    n.size = to;
    n.hmax = MAX(n.hmax, to);
    n.largest = MAX(n.largest, to);
    if (!(off & OFF_NEW_EPOCH)) {
        n.my_epoch = n.epoch;
        n.seq = 0;
    }
    if (off & OFF_ZERO_TAIL)
        n.view &= below((to + 1) / 2 * 2);
    else
        n.view &= below(to);
    for (unsigned b = 0; b < BLOCKS; b++)
        if (2 * b >= to)
            n.dirty &= ~(1u << b);
    n.my_size = to;
    for (unsigned u = to; u < UNITS; u++)
        n.may[u] = 1;
    n.sizes = 1u << to;
    model_emit(x, &n, "truncate to %u, epoch %u%s", to, n.epoch, entry ? ", horizon entry" : "");
    n.trim_size = to;
    n.trim_epoch = n.epoch;
    model_emit(x, &n, "truncate to %u, epoch %u%s; trim", to, n.epoch,
               entry ? ", horizon entry" : "");
}

static void rewrite_steps(const struct state *s, unsigned off, struct explorer *x)
{
    unsigned from = s->horizon[0].size / 2;
    unsigned to = s->n_horizon > 1 ? (s->horizon[1].size + 1u) / 2 : BLOCKS;
    struct state n = *s;
    bool done = true;

    if (s->n_horizon < HORIZON_MAX)
        return;
    for (unsigned b = from; b < to && 2 * b < s->my_size; b++) {
        done &= s->disk[b].epoch >= s->horizon[0].epoch && s->disk[b].epoch == s->my_epoch;
        n.dirty |= 1u << b;
    }
    if (2 * to > s->my_size && s->my_size < s->horizon[s->n_horizon > 1].size && s->n_horizon > 1)
        done = false; /* what lies past the size has not been rewritten */
    if (n.dirty != s->dirty)
        model_emit(x, &n, "begin to rewrite the range of the first entry");
    n = *s;
    if (done || (off & OFF_REWRITE)) {
        n.n_horizon--;
        memmove(&n.horizon[0], &n.horizon[1], sizeof n.horizon - sizeof n.horizon[0]);
        memset(&n.horizon[ARRAY_SIZE(n.horizon) - 1], 0, sizeof n.horizon[0]);
        model_emit(x, &n, "the first horizon entry goes");
    }
}

static bool under_way(const struct state *s)
{
    return s->sent[0].epoch || s->sent[1].epoch;
}

static void holder_steps(const struct state *s, unsigned off, struct explorer *x)
{
    struct state n;

    for (unsigned u = 0; u < UNITS; u++) {
        n = *s;
        n.view |= 1u << u;
        n.dirty |= 1u << (u / 2);
        n.my_size = MAX(s->my_size, u + 1);
        n.largest = MAX(s->largest, n.my_size);
        n.may[u] |= 2;
        n.sizes |= 1u << n.my_size;
        model_emit(x, &n, "write unit %u", u);
    }
    for (unsigned b = 0; b < BLOCKS; b++) {
        unsigned view = (off & OFF_ZERO_TAIL) ? s->view : s->view & below(s->my_size);

        if ((s->dirty & (1u << b)) && !s->sent[b].epoch && s->sends < SENDS_MAX &&
            s->epoch + s->sends < STEPS_MAX) {
            n = *s;
            n.dirty &= ~(1u << b);
            n.seq++;
            n.sends++;
            n.sent[b] = (struct block){s->my_epoch, n.seq, view >> (2 * b) & 3, s->my_size};
            model_emit(x, &n, "send block %u as (%u,%u)", b, s->my_epoch, n.seq);
        }
        if (!(s->dirty & (1u << b)) && !s->sent[b].epoch)
            for (unsigned u = 2 * b; u < 2 * b + 2 && u < s->my_size; u++)
                if (read_unit(s, u) != (s->view >> u & 1))
                    model_violation(x, "unit %u is read again as %u, not %u", u, read_unit(s, u),
                                    s->view >> u & 1);
    }
    if (!s->dirty && !under_way(s)) {
        n = *s;
        n.size = s->my_size;
        n.hmax = MAX(s->hmax, n.size);
        n.sizes = 1u << n.size;
        for (unsigned u = 0; u < UNITS; u++)
            n.may[u] = 1u << (s->view >> u & 1);
        model_emit(x, &n, "fsync, size %u", n.size);
        n.held = 0;
        holder_forget(&n);
        model_emit(x, &n, "fsync, size %u, and release", n.size);
    }
    if (!under_way(s) && s->epoch < EPOCHS_MAX)
        for (unsigned to = 0; to <= UNITS; to++)
            if (to != s->my_size)
                truncate_step(s, to, off, x);
    rewrite_steps(s, off, x);
    n = *s;
    n.held = 0;
    n.dead = 1;
    holder_forget(&n);
    model_emit(x, &n, "the holder dies");
}

static void block_arrives(struct state *n, unsigned b, const struct block *m)
{
    struct block *d = &n->disk[b];

    if (m->epoch > d->epoch || (m->epoch == d->epoch && m->seq > d->seq))
        *d = *m;
    d->size = 0; /* only the chunk's pair matters */
    if (m->epoch > n->pair_epoch || (m->epoch == n->pair_epoch && m->seq > n->pair_seq)) {
        n->pair_epoch = m->epoch;
        n->pair_seq = m->seq;
        n->pair_size = m->size;
    }
}

/* The file is read with nobody's cache in between: it must be one that may be. */
static void look(struct state *n, struct explorer *x)
{
    if (!(n->sizes & (1u << n->size)))
        model_violation(x, "the size is %u, which the file never had since its last commit",
                        n->size);
    for (unsigned u = 0; u < UNITS; u++) {
        unsigned v = u < n->size ? read_unit(n, u) : 0;

        if (u < n->size && !(n->may[u] & (1u << v)))
            model_violation(x, "unit %u is %u, which it never was since the last commit", u, v);
        n->may[u] = 1u << v;
    }
    n->sizes = 1u << n->size;
}

/*
 * What was under way may have reached one voter that was not asked: bit b of @stray says that block
 * b did. The size it bears is not seen; the block itself is found later, by a read or by
 * reconciliation.
 */
static void recover(const struct state *s, unsigned stray, unsigned off, struct explorer *x)
{
    struct state n = *s;

    if (!(off & OFF_FENCE))
        memset(n.sent, 0, sizeof n.sent);
    if (s->pair_epoch == s->epoch)
        n.size = MAX(s->size, s->pair_size);
    n.epoch++;
    n.dead = 0;
    n.hmax = MAX(s->hmax, n.size);
    if (!(off & OFF_RECOVER))
        horizon_add(&n, n.size, n.epoch, off);
    for (unsigned b = 0; b < BLOCKS; b++)
        if (stray & (1u << b))
            block_arrives(&n, b, &s->sent[b]);
    n.pair_epoch = n.pair_seq = n.pair_size = 0; /* of an ended epoch: never asked for again */
    look(&n, x);
    model_emit(x, &n, "the size is recovered: %u, epoch %u; strays %u", n.size, n.epoch, stray);
}

static void expand(const void *state, unsigned off, struct explorer *x)
{
    const struct state *s = state;
    struct state n;

    for (unsigned b = 0; b < BLOCKS; b++) {
        const struct block *m = &s->sent[b];

        if (!m->epoch)
            continue;
        n = *s;
        memset(&n.sent[b], 0, sizeof n.sent[b]);
        block_arrives(&n, b, m);
        model_emit(x, &n, "block %u (%u,%u) arrives", b, m->epoch, m->seq);
    }
    if (s->trim_epoch) {
        n = *s;
        for (unsigned b = 0; b < BLOCKS; b++)
            if (2 * b >= s->trim_size && (s->disk[b].epoch < s->trim_epoch || (off & OFF_TRIM)))
                memset(&n.disk[b], 0, sizeof n.disk[b]);
        model_emit(x, &n, "the trim (%u, %u) arrives", s->trim_size, s->trim_epoch);
    }
    if (s->held) {
        holder_steps(s, off, x);
    } else if (s->dead && s->epoch < EPOCHS_MAX) {
        for (unsigned stray = 0; stray < 1u << BLOCKS; stray++) {
            if (((stray & 1) && !s->sent[0].epoch) || ((stray & 2) && !s->sent[1].epoch))
                continue;
            recover(s, stray, off, x);
        }
    } else if (!s->dead && s->epoch < EPOCHS_MAX) {
        n = *s;
        look(&n, x);
        n.held = 1;
        n.epoch++;
        n.my_epoch = n.epoch;
        n.my_size = n.largest = s->size;
        n.view = read_all(s);
        model_emit(x, &n, "X is granted, epoch %u, size %u", n.epoch, n.size);
    }
}

static void init(void *state)
{
    struct state *s = state;

    for (unsigned u = 0; u < UNITS; u++)
        s->may[u] = 1;
    s->sizes = 1;
}

int main(int argc, char **argv)
{
    static const struct model m = {.name = "horizon",
                                   .state_size = sizeof(struct state),
                                   .rules = rules,
                                   .n_rules = ARRAY_SIZE(rules),
                                   .init = init,
                                   .expand = expand};

    return model_main(argc, argv, &m);
}
