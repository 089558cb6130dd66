/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names: trees in which one actor at a time works and every answer is known beforehand, and names that all
 * actors create and remove at once.
 *
 * An operation whose client died may be done, may be done later, or never: it becomes a ghost. The model is a set of
 * worlds, each a state with the ghosts that have not struck in it; before each answer is judged, every world is
 * joined by those in which some ghosts strike now. An answer removes the worlds it cannot come from, and none may
 * be left without one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "sim/workload.h"

enum { DIRS = 3, NAMES = 6, OBJECTS = DIRS * NAMES + 2, WORLDS_MAX = 256, GHOSTS_MAX = 3 };
enum kind { FREE, FILE_, DIR_, LINK_ };
enum verb { MAKE, UNLINK, LINK, RENAME };

struct object {
    enum kind kind;
    uint64_t ino; /* 0: not known yet */
    uint32_t nlink;
};

struct state {
    struct object o[OBJECTS];
    int8_t at[DIRS][NAMES]; /* index of the object, or -1 */
};

struct op {
    enum verb verb;
    int d, i, d2, i2;
    uint32_t flags; /* RENAME's; UNLINK: 1 for a directory; MAKE: the kind */
    uint64_t ino;   /* LINK: of what */
};

struct world {
    struct state s;
    uint32_t ghosts; /* bit per ghost that has not struck */
};

struct names {
    struct cluster *c;
    char name[16];
    uint64_t dirs[DIRS];
    bool busy;
    struct world *worlds;
    unsigned n_worlds;
    struct op ghosts[GHOSTS_MAX];
    uint64_t ghost_until[GHOSTS_MAX]; /* 0: free; after that it can strike no more */
    char what[160];                   /* the last operation */
};

struct names *names_new(struct cluster *c, const char *name)
{
    struct names *n = tc_calloc(1, sizeof *n);

    n->c = c;
    snprintf(n->name, sizeof n->name, "%s", name);
    n->worlds = tc_calloc(WORLDS_MAX, sizeof *n->worlds);
    n->n_worlds = 1;
    memset(n->worlds[0].s.at, -1, sizeof n->worlds[0].s.at);
    return n;
}

void names_free(struct names *n)
{
    if (n)
        free(n->worlds);
    free(n);
}

void names_setup(struct actor *a, struct names *n, uint64_t dir)
{
    char name[8];
    int r = a_make(a, dir, n->name, S_IFDIR | 0755, true);
    uint64_t top = a->ino;

    for (int i = 0; i < DIRS && !r; i++) {
        snprintf(name, sizeof name, "d%d", i);
        r = a_make(a, top, name, S_IFDIR | 0755, true);
        n->dirs[i] = a->ino;
    }
    if (r)
        cluster_fail(a->c, "set-up of %s: %s", n->name, tc_error_name(r));
}

static const char *name_of(int i)
{
    static const char *const names[NAMES] = {"a", "bb", "ccc", "dddd", "eeeee", "ffffff"};

    return names[i];
}

/* ---- what operations do --------------------------------------------------------------------------- */

static struct object *get(struct state *s, int d, int i)
{
    return s->at[d][i] < 0 ? NULL : &s->o[(int)s->at[d][i]];
}

static int object_new(struct state *s, enum kind kind)
{
    for (int i = 0; i < OBJECTS; i++)
        if (s->o[i].kind == FREE) {
            s->o[i] = (struct object){.kind = kind, .nlink = kind == DIR_ ? 2 : 1};
            return i;
        }
    ASSERT(false);
    return -1;
}

/* A name goes away. */
static void drop(struct state *s, int d, int i)
{
    struct object *o = get(s, d, i);

    s->at[d][i] = -1;
    if (o->kind == DIR_ || --o->nlink == 0)
        o->kind = FREE;
}

static int apply_link(struct state *s, const struct op *op)
{
    for (int k = 0; k < OBJECTS; k++) {
        if (s->o[k].kind == FREE || s->o[k].ino != op->ino)
            continue;
        if (s->o[k].kind == DIR_)
            return -TC_E_PERM;
        if (get(s, op->d2, op->i2))
            return -TC_E_EXIST;
        s->at[op->d2][op->i2] = (int8_t)k;
        s->o[k].nlink++;
        return 0;
    }
    return -TC_E_NOENT; /* a ghost's inode that is gone */
}

static int apply_rename(struct state *s, const struct op *op)
{
    struct object *o = get(s, op->d, op->i), *p = get(s, op->d2, op->i2);
    int8_t moved = s->at[op->d][op->i];

    if (!o)
        return -TC_E_NOENT;
    if ((op->flags & 1) && p)
        return -TC_E_EXIST;
    if ((op->flags & 2) && !p)
        return -TC_E_NOENT;
    if (p && p != o && !op->flags && p->kind == DIR_ && o->kind != DIR_)
        return -TC_E_ISDIR;
    if (p && p != o && !op->flags && p->kind != DIR_ && o->kind == DIR_)
        return -TC_E_NOTDIR;
    if (o == p)
        return 0; /* two names of one inode: nothing happens */
    if (op->flags & 2) {
        s->at[op->d][op->i] = s->at[op->d2][op->i2];
    } else {
        if (p)
            drop(s, op->d2, op->i2);
        s->at[op->d][op->i] = -1;
    }
    s->at[op->d2][op->i2] = moved;
    return 0;
}

/* Do @op to @s: 0, or the error it gives and nothing done. */
static int apply(struct state *s, const struct op *op)
{
    struct object *o = get(s, op->d, op->i);

    switch (op->verb) {
    case MAKE:
        if (o)
            return -TC_E_EXIST;
        s->at[op->d][op->i] = (int8_t)object_new(s, (enum kind)op->flags);
        return 0;
    case UNLINK:
        if (!o)
            return -TC_E_NOENT;
        if (op->flags && o->kind != DIR_)
            return -TC_E_NOTDIR;
        if (!op->flags && o->kind == DIR_)
            return -TC_E_ISDIR;
        drop(s, op->d, op->i);
        return 0;
    case LINK:
        return apply_link(s, op);
    case RENAME:
        return apply_rename(s, op);
    }
    return -TC_E_INVAL;
}

/* ---- worlds --------------------------------------------------------------------------------------- */

static void world_add(struct names *n, const struct world *w)
{
    for (unsigned i = 0; i < n->n_worlds; i++)
        if (memcmp(&n->worlds[i], w, sizeof *w) == 0)
            return;
    ASSERT(n->n_worlds < WORLDS_MAX);
    n->worlds[n->n_worlds++] = *w;
}

/* Ghosts may strike now, in any order; those whose time is over are gone. */
static void worlds_expand(struct names *n)
{
    uint32_t over = 0;

    for (unsigned g = 0; g < GHOSTS_MAX; g++)
        if (n->ghost_until[g] && n->ghost_until[g] < sim_now(n->c->s))
            over |= 1u << g;
    for (unsigned i = 0; i < n->n_worlds; i++) /* grows as it goes */
        for (unsigned g = 0; g < GHOSTS_MAX; g++) {
            struct world w = n->worlds[i];

            if (!(w.ghosts & (1u << g)))
                continue;
            w.ghosts &= ~(1u << g);
            (void)apply(&w.s, &n->ghosts[g]); /* an error strikes, too: it changes nothing */
            world_add(n, &w);
        }
    for (unsigned i = 0; i < n->n_worlds; i++)
        n->worlds[i].ghosts &= ~over;
    for (unsigned g = 0; g < GHOSTS_MAX; g++)
        if (over & (1u << g))
            n->ghost_until[g] = 0;
}

static bool ghost_free(const struct names *n)
{
    for (unsigned g = 0; g < GHOSTS_MAX; g++)
        if (!n->ghost_until[g])
            return true;
    return false;
}

static void ghost_add(struct names *n, const struct op *op)
{
    unsigned g = 0;

    while (n->ghost_until[g])
        g++;
    n->ghosts[g] = *op;
    n->ghost_until[g] = sim_now(n->c->s) + 60 * NS_PER_S;
    for (unsigned i = 0; i < n->n_worlds; i++)
        n->worlds[i].ghosts |= 1u << g;
}

/* Keep the worlds for which @fits says so (and notes what it learnt). False: none is left. */
static bool worlds_filter(struct names *n, bool (*fits)(struct world *w, const void *arg), const void *arg)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < n->n_worlds; i++) {
        struct world w = n->worlds[i];

        if (fits(&w, arg))
            n->worlds[kept++] = w;
    }
    if (!kept)
        return false; /* as they were, for the report */
    n->n_worlds = kept;
    return true;
}

static void world_print(struct names *n, const struct world *w, int d)
{
    for (int i = 0; i < NAMES; i++)
        if (w->s.at[d][i] >= 0) {
            const struct object *o = &w->s.o[(int)w->s.at[d][i]];

            cluster_log(n->c, "%s/d%d: expected %s ino %" PRIu64 " kind %d nlink %u", n->name, d, name_of(i), o->ino,
                        o->kind, o->nlink);
        }
}

/* ---- answers -------------------------------------------------------------------------------------- */

static enum kind kind_of(uint32_t mode)
{
    return S_ISDIR(mode) ? DIR_ : S_ISLNK(mode) ? LINK_ : FILE_;
}

struct answer {
    const struct op *op;
    struct actor *a;
    int status;
    int d, i;
};

static bool same_object(struct object *o, const struct actor *a)
{
    if (o->kind != kind_of(a->mode) || (o->ino && o->ino != a->ino) || o->nlink != a->nlink)
        return false;
    o->ino = a->ino;
    return true;
}

static bool fits_op(struct world *w, const void *arg)
{
    const struct answer *x = arg;

    if (apply(&w->s, x->op) != x->status)
        return false;
    if (x->status == 0 && x->op->verb == MAKE)
        return same_object(get(&w->s, x->op->d, x->op->i), x->a);
    if (x->status == 0 && x->op->verb == LINK)
        return same_object(get(&w->s, x->op->d2, x->op->i2), x->a);
    return true;
}

static bool fits_lookup(struct world *w, const void *arg)
{
    const struct answer *x = arg;
    struct object *o = get(&w->s, x->d, x->i);

    return x->status == (o ? 0 : -TC_E_NOENT) && (!o || same_object(o, x->a));
}

static bool fits_list(struct world *w, const void *arg)
{
    const struct answer *x = arg;
    unsigned n = 0;

    for (int i = 0; i < NAMES; i++) {
        struct object *o = get(&w->s, x->d, i);
        bool found = false;

        if (!o)
            continue;
        n++;
        for (unsigned k = 0; k < x->a->n_entries && !found; k++) {
            const struct actor_entry *e = &x->a->entries[k];

            found = strcmp(e->name, name_of(i)) == 0 && kind_of(e->mode) == o->kind && (!o->ino || o->ino == e->ino);
            if (found)
                o->ino = e->ino;
        }
        if (!found)
            return false;
    }
    return n == x->a->n_entries;
}

/* List all directories; a listing is right for a state between its begin and its end, and nobody works here. */
static void names_list(struct actor *a, struct names *n)
{
    for (int d = 0; d < DIRS; d++) {
        struct answer x = {.a = a, .d = d};
        int r;

        worlds_expand(n);
        r = a_list(a, n->dirs[d]);
        if (r) {
            if (!outcome_unknown(a, r, "readdir"))
                cluster_fail(a->c, "%s: readdir failed: %s", n->name, tc_error_name(r));
            return;
        }
        worlds_expand(n);
        if (worlds_filter(n, fits_list, &x))
            continue;
        for (unsigned k = 0; k < a->n_entries; k++)
            cluster_log(a->c, "%s/d%d: found %s ino %" PRIu64 " mode %o", n->name, d, a->entries[k].name,
                        a->entries[k].ino, a->entries[k].mode);
        world_print(n, &n->worlds[0], d);
        cluster_fail(a->c, "%s: d%d lists what no order of operations explains (last: %s; %u worlds)", n->name, d,
                     n->what, n->n_worlds);
        return;
    }
}

static void judge(struct actor *a, struct names *n, const struct op *op, int r)
{
    struct answer x = {.op = op, .a = a, .status = r};

    cluster_log(a->c, "%s: %s: %s", n->name, n->what, r == ACTOR_KILLED ? "killed" : tc_error_name(r));
    if (outcome_unknown(a, r, n->what)) {
        ghost_add(n, op);
        return;
    }
    worlds_expand(n);
    if (!worlds_filter(n, fits_op, &x)) {
        world_print(n, &n->worlds[0], op->d);
        world_print(n, &n->worlds[0], op->d2);
        cluster_fail(a->c, "%s: %s: got %s (ino %" PRIu64 " mode %o nlink %u), which nothing explains (%u worlds)",
                     n->name, n->what, tc_error_name(r), a->ino, a->mode, a->nlink, n->n_worlds);
    }
}

static void do_make(struct actor *a, struct names *n, struct op *op)
{
    int r;

    snprintf(n->what, sizeof n->what, "make d%d/%s kind %u by client %u", op->d, name_of(op->i), op->flags,
             a->cl->index);
    if (op->flags == LINK_)
        r = a_symlink(a, n->dirs[op->d], name_of(op->i), "target");
    else
        r = a_make(a, n->dirs[op->d], name_of(op->i), (op->flags == DIR_ ? S_IFDIR | 0755u : S_IFREG | 0644u), true);
    judge(a, n, op, r);
}

static void do_unlink(struct actor *a, struct names *n, struct op *op)
{
    snprintf(n->what, sizeof n->what, "unlink d%d/%s dir %u by client %u", op->d, name_of(op->i), op->flags,
             a->cl->index);
    judge(a, n, op, a_unlink(a, n->dirs[op->d], name_of(op->i), op->flags));
}

static void do_link(struct actor *a, struct names *n, struct op *op)
{
    struct object *o = get(&n->worlds[0].s, op->d, op->i);

    /* Whether it is there, what it is, and which of two errors comes first must be beyond doubt. */
    if (n->n_worlds > 1 || n->worlds[0].ghosts || !o || !o->ino ||
        (o->kind == DIR_ && get(&n->worlds[0].s, op->d2, op->i2)))
        return;
    op->ino = o->ino;
    snprintf(n->what, sizeof n->what, "link d%d/%s d%d/%s by client %u", op->d, name_of(op->i), op->d2, name_of(op->i2),
             a->cl->index);
    judge(a, n, op, a_link(a, op->ino, n->dirs[op->d2], name_of(op->i2)));
}

static void do_rename(struct actor *a, struct names *n, struct op *op)
{
    snprintf(n->what, sizeof n->what, "rename d%d/%s d%d/%s flags %u by client %u", op->d, name_of(op->i), op->d2,
             name_of(op->i2), op->flags, a->cl->index);
    judge(a, n, op,
          a_rename(a, n->dirs[op->d], name_of(op->i), n->dirs[op->d2], name_of(op->i2), op->flags));
}

static void do_lookup(struct actor *a, struct names *n, int d, int i)
{
    struct answer x = {.a = a, .d = d, .i = i};

    snprintf(n->what, sizeof n->what, "lookup d%d/%s by client %u", d, name_of(i), a->cl->index);
    worlds_expand(n);
    x.status = a_lookup(a, n->dirs[d], name_of(i));
    if (outcome_unknown(a, x.status, n->what))
        return;
    worlds_expand(n);
    if (!worlds_filter(n, fits_lookup, &x)) {
        world_print(n, &n->worlds[0], d);
        cluster_fail(a->c, "%s: %s: got %s ino %" PRIu64 " nlink %u mode %o, which nothing explains (%u worlds)",
                     n->name, n->what, tc_error_name(x.status), a->ino, a->nlink, a->mode, n->n_worlds);
    }
}

static void names_op(struct actor *a, struct names *n)
{
    struct sim_rng *g = &a->rng;
    struct op op = {.d = (int)sim_below(g, DIRS), .i = (int)sim_below(g, NAMES)};
    struct object *o;

    op.d2 = (int)sim_below(g, DIRS);
    op.i2 = (int)sim_below(g, NAMES);
    worlds_expand(n);
    o = get(&n->worlds[0].s, op.d, op.i);
    switch (ghost_free(n) ? sim_below(g, 16) : 15) {
    case 0 ... 5:
        op.verb = MAKE;
        op.flags = sim_below(g, 3) ? FILE_ : sim_below(g, 2) ? DIR_ : LINK_;
        do_make(a, n, &op);
        break;
    case 6 ... 8:
        op.verb = UNLINK;
        op.flags = o ? o->kind == DIR_ : (uint32_t)sim_below(g, 2);
        do_unlink(a, n, &op);
        break;
    case 9:
        op.verb = LINK;
        do_link(a, n, &op);
        break;
    case 10 ... 12:
        op.verb = RENAME;
        op.flags = (uint32_t)sim_below(g, 3);
        do_rename(a, n, &op);
        break;
    case 13:
        names_list(a, n);
        break;
    default:
        do_lookup(a, n, op.d, op.i);
        break;
    }
}

void names_turn(struct actor *a, struct names *n)
{
    if (n->busy)
        return;
    n->busy = true;
    for (uint64_t k = 1 + sim_below(&a->rng, 8); k && !a->c->failed && a->cl->ready; k--)
        names_op(a, n);
    n->busy = false;
}

void names_verify(struct actor *a, struct names *n)
{
    names_list(a, n);
    for (int d = 0; d < DIRS; d++)
        for (int i = 0; i < NAMES && !a->c->failed; i++)
            do_lookup(a, n, d, i);
}

/* ---- names that all fight for --------------------------------------------------------------------- */

/*
 * Whoever creates a name exclusively, or removes it, knows that he alone did: so successes of the two alternate, and
 * at the end their difference is what is there.
 */
struct fight {
    struct cluster *c;
    uint64_t dir;
    struct {
        int64_t made, removed, maybe_made, maybe_removed;
    } n[FIGHT_NAMES];
};

struct fight *fight_new(struct cluster *c)
{
    struct fight *f = tc_calloc(1, sizeof *f);

    f->c = c;
    return f;
}

void fight_free(struct fight *f)
{
    free(f);
}

void fight_setup(struct actor *a, struct fight *f, uint64_t dir)
{
    int r = a_make(a, dir, "fight", S_IFDIR | 0755, true);

    f->dir = a->ino;
    if (r)
        cluster_fail(a->c, "set-up of fight: %s", tc_error_name(r));
}

static void fight_check(struct fight *f, int i, int64_t least, int64_t most)
{
    int64_t low = f->n[i].made - f->n[i].removed - f->n[i].maybe_removed;
    int64_t high = f->n[i].made - f->n[i].removed + f->n[i].maybe_made;

    if (low > most || high < least)
        cluster_fail(f->c,
                     "fight/%s: made %" PRId64 " (+%" PRId64 "), removed %" PRId64 " (+%" PRId64 "), there are "
                     "between %" PRId64 " and %" PRId64,
                     name_of(i), f->n[i].made, f->n[i].maybe_made, f->n[i].removed, f->n[i].maybe_removed, least, most);
}

void fight_turn(struct actor *a, struct fight *f)
{
    int i = (int)sim_below(&a->rng, FIGHT_NAMES);
    bool make = sim_below(&a->rng, 2);
    int64_t *yes = make ? &f->n[i].made : &f->n[i].removed;
    int64_t *maybe = make ? &f->n[i].maybe_made : &f->n[i].maybe_removed;
    int r;

    ++*maybe; /* until it is known, for the checks of others */
    r = make ? a_make(a, f->dir, name_of(i), S_IFREG | 0644, true) : a_unlink(a, f->dir, name_of(i), false);
    if (outcome_unknown(a, r, "fight"))
        return;
    --*maybe;
    if (r == 0)
        ++*yes;
    else if (r != (make ? -TC_E_EXIST : -TC_E_NOENT))
        cluster_fail(a->c, "fight/%s: %s", name_of(i), tc_error_name(r));
    fight_check(f, i, 0, 1);
}

void fight_verify(struct actor *a, struct fight *f)
{
    for (int i = 0; i < FIGHT_NAMES && !a->c->failed; i++) {
        int r = a_lookup(a, f->dir, name_of(i));

        if (r && r != -TC_E_NOENT)
            cluster_fail(a->c, "fight/%s: %s at the end", name_of(i), tc_error_name(r));
        else
            fight_check(f, i, r == 0, r == 0);
    }
}
