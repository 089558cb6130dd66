/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model: one block on three replicas, written and read by clients whose leases end badly
 * (docs/PROTOCOL.md: versions, block quorum, fencing, unclean files).
 *
 * Three replicas keep the newest version they were sent. Two client slots take the exclusive lease
 * (X) in turn, each time with a new epoch; a slot that was expired may still wait for a write until
 * it learns of that, then it is a new session. Under X a client reads (its cache first, else R
 * replicas), writes, and merges: a merge is a write of other bytes of the same block, so it carries
 * the old bytes along under a new version and is no operation of its own. Without X, and while the
 * inode is not unclean, a client reads under S. The leader's decisions are atomic (they are Raft
 * entries); the reconciler runs step by step beside all that.
 *
 * Abstracted: a write message, once sent, may reach any replica at any later time, again, or never
 * (loss, doubling, delay, reordering, a replica that is down). Acknowledgements are facts: the
 * writer may look at them at any time. Reconfiguration, sizes and times are not here.
 *
 * Checked: the block is linearizable. The state carries the set of all (value, which operations
 * took effect) that explain what callers were told; an answer that none explains is a violation.
 * An acknowledged write that is lost shows as a later read that no order explains.
 */
#include <string.h>

#include "common/base.h"
#include "model/explore.h"

enum { REPLICAS = 3, W = 2, R = 2, SLOTS = 2 };
enum { EPOCHS_MAX = 3, WRITES_MAX = 5 };

/* How much happens in one run. Each is searched whole; together they reach every rule. */
static const struct {
    uint8_t epochs, user_writes, merges;
} bounds[] = {{0, 0, 0}, {3, 1, 1}, {2, 2, 0}};

enum {
    OFF_QUORUM = 1 << 0,
    OFF_NEWER = 1 << 1,
    OFF_DURABLE = 1 << 2,
    OFF_BARRIER = 1 << 3,
    OFF_DEAD = 1 << 4,
    OFF_UNCLEAN = 1 << 5,
    OFF_WRITE_BACK = 1 << 6,
    OFF_MASK = 1 << 7,
    OFF_OLDEST = 1 << 8,
    OFF_COUNTER = 1 << 9,
    OFF_RECON_ALL = 1 << 10,
    OFF_RECON_GUARD = 1 << 11,
    OFF_TTL = 1 << 12,
    OFF_RECON_IDLE = 1 << 13,
};

static const struct model_rule rules[] = {
    {"quorum", "a read asks R replicas, W + R > N (4.4)"},
    {"newer", "a replica keeps the newer version, whatever comes later (4.3)"},
    {"durable", "a replica acknowledges only what is on its disk (4.2)"},
    {"barrier", "a request brings the replica to the map of its grant (4.6)"},
    {"dead", "a replica refuses dead sessions (4.6)"},
    {"unclean", "an X that ended badly marks the inode unclean (3.6)"},
    {"write-back", "what a read returns was first written to W (4.4, 3.6 b)"},
    {"mask", "a masked block is written back under the reader's own epoch (3.6 b)"},
    {"oldest", "the mark keeps every epoch that ended badly (3.6)"},
    {"counter", "an epoch whose counter is gone is never written under again (3.7)"},
    {"recon-all", "reconciliation asks every voter (3.6 b)"},
    {"recon-guard", "the mark goes only if no X was granted meanwhile (3.6 b)"},
    {"ttl", "a client whose time is up, by its own clock, serves nothing cached (2.3, 2.4)"},
    {"recon-idle", "the mark goes only if no X was held when reconciliation began (3.6 b)"},
};

enum phase { IDLE, READING, MASKING, BACK, WRITING, S_READING };
enum op { OP_NONE, OP_READ, OP_MERGE, OP_WRITE };

struct slot {
    uint8_t phase, op;
    uint8_t epoch;   /* of the X it believes it holds, 0: none */
    uint8_t seq;     /* the epoch's counter */
    uint8_t barrier; /* dead epochs it knows of, as of its grant */
    uint8_t mark;    /* oldest unclean epoch, as of its grant */
    uint8_t cache;   /* content + 1, 0: nothing cached */
    uint8_t late;    /* its time is up by its own clock: the leader never expires it before that */
    uint8_t write;   /* WRITING, MASKING: the write awaited */
    uint8_t asked, agree, newest; /* READING: who answered, who has the newest, which it is */
};

struct state {
    struct {
        uint8_t epoch, seq, content, acked;
    } write[WRITES_MAX]; /* write 0 is what every replica starts with */
    uint8_t n_writes, bounds;
    struct {
        uint8_t mem, disk; /* numbers of writes */
        uint8_t known;     /* dead epochs it was told of */
    } replica[REPLICAS];
    uint8_t epoch, holder;           /* the lease row; holder: slot + 1 */
    uint8_t dead, mark;              /* dead epochs; oldest epoch of the unclean mark, 0: clean */
    uint8_t barrier[EPOCHS_MAX + 1]; /* per epoch, as of its grant */
    struct {
        uint8_t phase, newest, epoch, dead, vain; /* phase 0: none, 1: asked, 2: written */
    } recon;
    uint8_t user_writes, merges;
    struct slot slot[SLOTS];
    uint8_t lin[24]; /* set of explanations, see below */
};

/* ---- Linearizability: the set of explanations ---------------------------------------------- */

/* value, "write 1 took effect", "write 2 took effect", what the read of slot 0, 1 saw (+ 1) */
static unsigned lin_index(unsigned value, unsigned w1, unsigned w2, unsigned r0, unsigned r1)
{
    return (((value * 2 + w1) * 2 + w2) * 4 + r0) * 4 + r1;
}

static bool lin_add(struct state *s, unsigned i)
{
    if (s->lin[i / 8] & (1u << (i % 8)))
        return false;
    s->lin[i / 8] |= 1u << (i % 8);
    return true;
}

static bool read_pending(const struct state *s, unsigned slot)
{
    return s->slot[slot].op == OP_READ;
}

/* Lets pending operations take effect in every possible way. */
static void lin_close(struct state *s)
{
    bool more = true;

    while (more) {
        more = false;
        for (unsigned i = 0; i < 192; i++) {
            unsigned r1 = i % 4, r0 = i / 4 % 4, w2 = i / 16 % 2, w1 = i / 32 % 2, v = i / 64;

            if (!(s->lin[i / 8] & (1u << (i % 8))))
                continue;
            if (s->user_writes >= 1 && !w1)
                more |= lin_add(s, lin_index(1, 1, w2, r0, r1));
            if (s->user_writes >= 2 && !w2)
                more |= lin_add(s, lin_index(2, w1, 1, r0, r1));
            if (read_pending(s, 0) && !r0)
                more |= lin_add(s, lin_index(v, w1, w2, v + 1, r1));
            if (read_pending(s, 1) && !r1)
                more |= lin_add(s, lin_index(v, w1, w2, r0, v + 1));
        }
    }
}

/* Keeps the explanations in which write @w took effect. Returns whether any is left. */
static bool lin_write_done(struct state *s, unsigned w)
{
    bool any = false;

    for (unsigned i = 0; i < 192; i++) {
        bool effect = w == 1 ? i / 32 % 2 : i / 16 % 2;

        if (!effect)
            s->lin[i / 8] &= ~(1u << (i % 8));
        any |= (s->lin[i / 8] >> (i % 8)) & 1u;
    }
    return any;
}

/* The read of @slot ends; it returned @seen - 1, or nothing at all if @seen is 0 (a crash). */
static bool lin_read_done(struct state *s, unsigned slot, unsigned seen)
{
    uint8_t old[24];
    bool any = false;

    memcpy(old, s->lin, sizeof old);
    memset(s->lin, 0, sizeof s->lin);
    for (unsigned i = 0; i < 192; i++) {
        unsigned r = slot ? i % 4 : i / 4 % 4;

        if (!(old[i / 8] & (1u << (i % 8))) || r != seen)
            continue;
        (void)lin_add(s, i - r * (slot ? 1 : 4));
        any = true;
    }
    s->slot[slot].op = OP_NONE;
    return any;
}

/* ---- Replicas -------------------------------------------------------------------------------- */

static bool newer(const struct state *s, unsigned a, unsigned b)
{
    if (s->write[a].epoch != s->write[b].epoch)
        return s->write[a].epoch > s->write[b].epoch;
    return s->write[a].seq > s->write[b].seq;
}

/* A request of @epoch (0: no lease) with @barrier reaches @r. Returns whether it is answered. */
static bool replica_hears(struct state *s, unsigned r, unsigned epoch, unsigned barrier,
                          unsigned off)
{
    if (!(off & OFF_BARRIER))
        s->replica[r].known |= barrier;
    return (off & OFF_DEAD) || !(s->replica[r].known & (1u << epoch)) || !epoch;
}

/* Replica @r takes write @w. Returns whether that counts as an acknowledgement. */
static bool replica_takes(struct state *s, unsigned r, unsigned w, unsigned off)
{
    if ((off & OFF_NEWER) || newer(s, w, s->replica[r].mem)) {
        s->replica[r].mem = w;
        if (!(off & OFF_DURABLE))
            s->replica[r].disk = w;
        return true;
    }
    return s->write[s->replica[r].mem].epoch == s->write[w].epoch;
}

/* Somebody waits for acknowledgements of @w. */
static bool awaited(const struct state *s, unsigned w)
{
    return s->slot[0].write == w || s->slot[1].write == w;
}

static void replicas_step(const struct state *s, unsigned off, struct explorer *x)
{
    struct state n;

    for (unsigned r = 0; r < REPLICAS; r++) {
        for (unsigned w = 1; w < s->n_writes; w++) {
            unsigned epoch = s->write[w].epoch;

            if (!epoch)
                continue; /* forgotten */
            n = *s;
            if (replica_hears(&n, r, epoch, s->barrier[epoch], off) &&
                replica_takes(&n, r, w, off) && awaited(&n, w))
                n.write[w].acked |= 1u << r;
            model_emit(x, &n, "write (%u,%u)=%u reaches replica %u", epoch, s->write[w].seq,
                       s->write[w].content, r);
        }
        if (s->replica[r].mem != s->replica[r].disk) { /* only without the rule "durable" */
            n = *s;
            n.replica[r].disk = n.replica[r].mem;
            model_emit(x, &n, "replica %u syncs", r);
            n = *s;
            n.replica[r].mem = n.replica[r].disk;
            model_emit(x, &n, "replica %u loses power", r);
        }
    }
}

/* ---- Clients --------------------------------------------------------------------------------- */

/* Slot @i sends @content under its next version. Returns false if the model's bound is reached. */
static bool send_write(struct state *s, unsigned i, unsigned content, enum phase phase)
{
    struct slot *c = &s->slot[i];

    if (s->n_writes == WRITES_MAX)
        return false;
    c->seq++;
    s->write[s->n_writes].epoch = c->epoch;
    s->write[s->n_writes].seq = c->seq;
    s->write[s->n_writes].content = content;
    c->write = s->n_writes++;
    c->phase = phase;
    c->asked = c->agree = c->newest = 0;
    return true;
}

/* The block is known: a read returns it, a merge sends it on under a new version. */
static void block_known(struct state n, unsigned i, unsigned content, struct explorer *x)
{
    struct slot *c = &n.slot[i];

    c->phase = IDLE;
    c->write = c->asked = c->agree = c->newest = 0;
    if (c->epoch)
        c->cache = content + 1;
    if (c->op == OP_MERGE) {
        if (send_write(&n, i, content, WRITING))
            model_emit(x, &n, "client %u merges into content %u and sends (%u,%u)", i, content,
                       c->epoch, c->seq);
        return;
    }
    if (!lin_read_done(&n, i, content + 1))
        model_violation(x, "client %u reads %u, which no order of the operations explains", i,
                        content);
    model_emit(x, &n, "client %u reads %u", i, content);
}

static void reading_step(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    const struct slot *c = &s->slot[i];
    const unsigned need = (off & OFF_QUORUM) ? 1 : R;
    struct state n;

    for (unsigned r = 0; r < REPLICAS; r++) {
        if (c->asked & (1u << r))
            continue;
        n = *s;
        if (replica_hears(&n, r, c->epoch, c->barrier, off)) {
            n.slot[i].asked |= 1u << r;
            if (newer(&n, n.replica[r].mem, c->newest)) {
                n.slot[i].newest = n.replica[r].mem;
                n.slot[i].agree = 0;
            }
            if (n.replica[r].mem == n.slot[i].newest)
                n.slot[i].agree |= 1u << r;
        }
        model_emit(x, &n, "replica %u answers client %u", r, i);
    }
    if (model_bits(c->asked) < need)
        return;
    unsigned epoch = s->write[c->newest].epoch, content = s->write[c->newest].content;

    n = *s;
    if (c->epoch && c->mark && epoch >= c->mark && epoch != c->epoch && !(off & OFF_MASK)) {
        if (!send_write(&n, i, content, MASKING))
            return;
        if (off & OFF_WRITE_BACK)
            block_known(n, i, content, x);
        else
            model_emit(x, &n, "client %u: (%u,%u) is masked, writes it as (%u,%u)", i, epoch,
                       s->write[c->newest].seq, c->epoch, n.slot[i].seq);
    } else if (model_bits(c->agree) >= W || (off & OFF_WRITE_BACK)) {
        block_known(n, i, content, x);
    } else {
        n.slot[i].phase = BACK;
        n.slot[i].asked = 0;
        model_emit(x, &n, "client %u begins to write (%u,%u) back", i, epoch,
                   s->write[c->newest].seq);
    }
}

static void back_step(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    const struct slot *c = &s->slot[i];

    for (unsigned r = 0; r < REPLICAS; r++) {
        struct state n = *s;

        if (c->agree & (1u << r))
            continue;
        if (replica_hears(&n, r, c->epoch, c->barrier, off)) {
            (void)replica_takes(&n, r, c->newest, off);
            n.slot[i].agree |= 1u << r;
        }
        model_emit(x, &n, "the write-back of client %u reaches replica %u", i, r);
    }
    if (model_bits(c->agree) >= W)
        block_known(*s, i, s->write[c->newest].content, x);
}

static void acked_step(const struct state *s, unsigned i, struct explorer *x)
{
    const struct slot *c = &s->slot[i];
    unsigned content = s->write[c->write].content;
    struct state n = *s;

    if (model_bits(s->write[c->write].acked) < W)
        return;
    if (c->phase == MASKING) {
        block_known(n, i, content, x);
        return;
    }
    n.slot[i].phase = IDLE;
    n.slot[i].op = OP_NONE;
    n.slot[i].write = 0;
    if (c->op == OP_WRITE && !lin_write_done(&n, content))
        model_violation(x, "the write of %u is acknowledged, but no order explains that", content);
    model_emit(x, &n, "client %u: write (%u,%u) is acknowledged", i, c->epoch, c->seq);
}

static void client_begins(const struct state *s, unsigned i, struct explorer *x)
{
    const struct slot *c = &s->slot[i];
    struct state n = *s;

    n.slot[i].op = OP_READ;
    lin_close(&n);
    if (c->cache) {
        block_known(n, i, c->cache - 1, x);
    } else {
        n.slot[i].phase = READING;
        model_emit(x, &n, "client %u begins to read", i);
    }
    n = *s;
    if (s->user_writes < bounds[s->bounds].user_writes &&
        send_write(&n, i, s->user_writes + 1, WRITING)) {
        n.user_writes++;
        n.slot[i].op = OP_WRITE;
        n.slot[i].cache = n.user_writes + 1;
        lin_close(&n);
        model_emit(x, &n, "client %u writes %u as (%u,%u)", i, n.user_writes, c->epoch,
                   n.slot[i].seq);
    }
    n = *s;
    if (s->merges < bounds[s->bounds].merges) {
        n.merges++;
        n.slot[i].op = OP_MERGE;
        if (c->cache) {
            block_known(n, i, c->cache - 1, x);
        } else {
            n.slot[i].phase = READING;
            model_emit(x, &n, "client %u begins a merge", i);
        }
    }
}

/* Slot @i forgets everything; a write under way may still take effect, a read does not matter. */
static void client_drop(struct state *s, unsigned i)
{
    if (s->slot[i].op == OP_READ)
        (void)lin_read_done(s, i, 0);
    memset(&s->slot[i], 0, sizeof s->slot[i]);
}

static void client_crashes(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    struct state n = *s;
    struct slot *c = &n.slot[i];

    if ((off & OFF_COUNTER) && s->holder == i + 1) {
        client_drop(&n, i);
        *c = (struct slot){
            .epoch = s->slot[i].epoch, .barrier = s->slot[i].barrier, .mark = s->slot[i].mark};
        model_emit(x, &n, "client %u restarts and goes on under epoch %u", i, c->epoch);
        return;
    }
    client_drop(&n, i);
    model_emit(x, &n, "client %u crashes, or learns that it is expired", i);
}

static bool s_held(const struct state *s)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (s->slot[i].phase != IDLE && !s->slot[i].epoch)
            return true; /* reads under S, or writes back what it read */
    return false;
}

static void client_step(const struct state *s, unsigned i, unsigned off, struct explorer *x)
{
    const struct slot *c = &s->slot[i];
    struct state n = *s;

    switch ((enum phase)c->phase) {
    case IDLE:
        if (c->epoch && !c->late) {
            client_begins(s, i, x);
        } else if (!c->epoch && !s->holder && !s->mark && !s_held(s)) {
            n.slot[i].phase = S_READING;
            n.slot[i].op = OP_READ;
            n.slot[i].barrier = s->dead;
            lin_close(&n);
            model_emit(x, &n, "client %u begins to read under S", i);
        }
        break;
    case READING:
    case S_READING:
        reading_step(s, i, off, x);
        break;
    case BACK:
        back_step(s, i, off, x);
        break;
    case MASKING:
    case WRITING:
        acked_step(s, i, x);
        break;
    }
    if (c->epoch || c->phase != IDLE)
        client_crashes(s, i, off, x);
}

/* ---- The leader ------------------------------------------------------------------------------ */

static void leader_step(const struct state *s, unsigned off, struct explorer *x)
{
    struct state n;

    for (unsigned i = 0; i < SLOTS; i++) {
        const struct slot *c = &s->slot[i];

        if (c->phase == IDLE && !c->epoch && !s->holder && !s_held(s) &&
            s->epoch < bounds[s->bounds].epochs) {
            n = *s;
            n.epoch++;
            n.holder = i + 1;
            n.barrier[n.epoch] = s->dead;
            n.slot[i] = (struct slot){.epoch = n.epoch, .barrier = s->dead, .mark = s->mark};
            model_emit(x, &n, "X to client %u, epoch %u", i, n.epoch);
        }
        if (s->holder == i + 1 && c->epoch == s->epoch && c->phase == IDLE) {
            n = *s;
            n.holder = 0;
            memset(&n.slot[i], 0, sizeof n.slot[i]);
            model_emit(x, &n, "client %u releases X", i);
        }
    }
    if (s->holder) {
        n = *s;
        n.holder = 0;
        n.dead |= 1u << s->epoch;
        /* Of what a late client had under way only a write can still end, by acknowledgements. */
        if (s->slot[s->holder - 1].epoch == s->epoch && !(off & OFF_TTL)) {
            if (n.slot[s->holder - 1].phase == WRITING)
                n.slot[s->holder - 1].late = 1;
            else
                client_drop(&n, s->holder - 1);
        }
        if (!(off & OFF_UNCLEAN) && (!s->mark || (off & OFF_OLDEST)))
            n.mark = s->epoch;
        model_emit(x, &n, "the session of client %u is expired", s->holder - 1);
    }
}

/* Asks and writes to the replicas at once; what others do comes between its three steps. */
static void recon_step(const struct state *s, unsigned off, struct explorer *x)
{
    const unsigned leave_out = (off & OFF_RECON_ALL) ? REPLICAS : 0;

    if (!s->mark && !s->recon.phase)
        return;
    for (unsigned out = 0; out <= leave_out; out++) { /* REPLICAS - out is not asked, 0: all are */
        struct state n = *s;

        if (leave_out && !out)
            continue;
        for (unsigned r = 0; r < REPLICAS; r++) {
            if (out && r == REPLICAS - out)
                continue;
            (void)replica_hears(&n, r, 0, s->recon.phase ? s->recon.dead : s->dead, off);
            if (s->recon.phase == 1)
                (void)replica_takes(&n, r, s->recon.newest, off);
            else if (!s->recon.phase && newer(&n, n.replica[r].mem, n.recon.newest))
                n.recon.newest = n.replica[r].mem;
        }
        n.recon.phase++;
        if (!s->recon.phase) {
            n.recon.epoch = s->epoch;
            n.recon.dead = s->dead;
            n.recon.vain = s->holder && !(off & OFF_RECON_IDLE);
            model_emit(x, &n, "reconciliation asks, finds (%u,%u)", n.write[n.recon.newest].epoch,
                       n.write[n.recon.newest].seq);
        } else if (s->recon.phase == 1) {
            model_emit(x, &n, "reconciliation writes that to the replicas");
        } else {
            bool same = s->recon.epoch == s->epoch && s->recon.dead == s->dead;

            if ((same || (off & OFF_RECON_GUARD)) && !s->recon.vain)
                n.mark = 0;
            memset(&n.recon, 0, sizeof n.recon);
            model_emit(x, &n, "reconciliation ends%s", n.mark ? ", in vain" : ", the mark is gone");
        }
        if (s->recon.phase == 2)
            break;
    }
}

static void expand(const void *state, unsigned off, struct explorer *x)
{
    const struct state *s = state;

    if (!s->bounds) {
        for (unsigned i = 1; i < ARRAY_SIZE(bounds); i++) {
            struct state n = *s;

            n.bounds = i;
            model_emit(x, &n, "with %u epochs, %u writes, %u merges", bounds[i].epochs,
                       bounds[i].user_writes, bounds[i].merges);
        }
        return;
    }
    leader_step(s, off, x);
    for (unsigned i = 0; i < SLOTS; i++)
        client_step(s, i, off, x);
    replicas_step(s, off, x);
    recon_step(s, off, x);
}

/* ---- What can no longer matter is forgotten, so that fewer states differ -----------------------
 */

static bool write_matters(const struct state *s, unsigned w)
{
    bool takes = false;

    for (unsigned r = 0; r < REPLICAS; r++) {
        if (s->replica[r].mem == w || s->replica[r].disk == w)
            return true;
        takes |= newer(s, w, s->replica[r].mem);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        if (s->slot[i].write == w || s->slot[i].newest == w)
            return true;
    return takes || s->recon.newest == w;
}

static void forget(struct state *s)
{
    uint8_t alive = 1u << s->epoch; /* epochs of which a message or a holder is left */

    while (s->n_writes > 1 && !s->write[s->n_writes - 1].epoch)
        s->n_writes--;
    for (unsigned w = 1; w < s->n_writes; w++) {
        if (s->write[w].epoch && !write_matters(s, w))
            memset(&s->write[w], 0, sizeof s->write[w]);
        else if (!awaited(s, w))
            s->write[w].acked = 0;
        alive |= 1u << s->write[w].epoch;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        alive |= 1u << s->slot[i].epoch;
    s->dead &= alive;
    s->recon.dead &= alive;
    for (unsigned e = 1; e <= EPOCHS_MAX; e++)
        s->barrier[e] &= alive & (1u << e & alive ? 0xff : 0);
    for (unsigned r = 0; r < REPLICAS; r++)
        s->replica[r].known &= alive;
    for (unsigned i = 0; i < SLOTS; i++)
        s->slot[i].barrier &= alive;
}

/* ---- Symmetry: which replica is which does not matter, nor which client ------------------------
 */

static void swap_slots(struct state *s)
{
    struct slot c = s->slot[0];
    uint8_t old[24];

    s->slot[0] = s->slot[1];
    s->slot[1] = c;
    if (s->holder)
        s->holder = 3 - s->holder;
    memcpy(old, s->lin, sizeof old);
    memset(s->lin, 0, sizeof s->lin);
    for (unsigned i = 0; i < 192; i++)
        if (old[i / 8] & (1u << (i % 8)))
            (void)lin_add(s, i / 16 * 16 + i % 4 * 4 + i / 4 % 4);
}

static uint8_t permute(uint8_t mask, const uint8_t *p)
{
    return ((mask & 1) << p[0]) | ((mask >> 1 & 1) << p[1]) | ((mask >> 2 & 1) << p[2]);
}

/* All that is said of replica @r anywhere in the state. */
static uint32_t replica_key(const struct state *s, unsigned r)
{
    uint32_t key = (uint32_t)s->replica[r].mem << 9 | s->replica[r].disk << 5 | s->replica[r].known;

    for (unsigned w = 0; w < s->n_writes; w++)
        key = key << 1 | (s->write[w].acked >> r & 1);
    for (unsigned i = 0; i < SLOTS; i++)
        key = key << 2 | (s->slot[i].asked >> r & 1) << 1 | (s->slot[i].agree >> r & 1);
    return key;
}

static void canon(void *state)
{
    struct state *s = state;
    struct state old;
    uint8_t p[REPLICAS]; /* replica r goes to place p[r]: they are sorted by their keys */
    uint32_t key[REPLICAS];

    forget(s);
    if (memcmp(&s->slot[0], &s->slot[1], sizeof s->slot[0]) < 0)
        swap_slots(s); /* the one that holds more comes first */
    for (unsigned r = 0; r < REPLICAS; r++)
        key[r] = replica_key(s, r);
    for (unsigned r = 0; r < REPLICAS; r++) {
        p[r] = 0;
        for (unsigned k = 0; k < REPLICAS; k++)
            p[r] += key[k] < key[r] || (key[k] == key[r] && k < r);
    }
    old = *s;
    for (unsigned r = 0; r < REPLICAS; r++)
        s->replica[p[r]] = old.replica[r];
    for (unsigned w = 0; w < s->n_writes; w++)
        s->write[w].acked = permute(s->write[w].acked, p);
    for (unsigned i = 0; i < SLOTS; i++) {
        s->slot[i].asked = permute(s->slot[i].asked, p);
        s->slot[i].agree = permute(s->slot[i].agree, p);
    }
}

static void init(void *state)
{
    struct state *s = state;

    s->n_writes = 1;
    (void)lin_add(s, lin_index(0, 0, 0, 0, 0));
}

int main(int argc, char **argv)
{
    static const struct model m = {.name = "quorum",
                                   .state_size = sizeof(struct state),
                                   .rules = rules,
                                   .n_rules = ARRAY_SIZE(rules),
                                   .init = init,
                                   .expand = expand,
                                   .canon = canon};

    return model_main(argc, argv, &m);
}
