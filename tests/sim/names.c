/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names: trees in which one actor at a time works and every answer is known beforehand, and names that all
 * actors create and remove at once.
 *
 * When the outcome of an operation is unknown both states are kept, the one before and the one after; the next to
 * come lists the tree, and it must be one of the two.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "sim/workload.h"

enum { DIRS = 3, NAMES = 6, OBJECTS = DIRS * NAMES + 2 };
enum kind { FREE, FILE_, DIR_, LINK_ };

struct object {
    enum kind kind;
    uint64_t ino; /* 0: not known yet */
    uint32_t nlink;
};

struct state {
    struct object o[OBJECTS];
    int8_t at[DIRS][NAMES]; /* index of the object, or -1 */
};

struct names {
    struct cluster *c;
    char name[16];
    uint64_t dirs[DIRS];
    bool busy, unsure;
    struct state now, before; /* before: only while unsure */
    char what[160];           /* the last operation */
};

struct names *names_new(struct cluster *c, const char *name)
{
    struct names *n = tc_calloc(1, sizeof *n);

    n->c = c;
    snprintf(n->name, sizeof n->name, "%s", name);
    memset(n->now.at, -1, sizeof n->now.at);
    return n;
}

void names_free(struct names *n)
{
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

static enum kind kind_of(uint32_t mode)
{
    return S_ISDIR(mode) ? DIR_ : S_ISLNK(mode) ? LINK_ : FILE_;
}

static bool state_matches(const struct state *s, int d, const struct actor *a)
{
    unsigned n = 0;

    for (int i = 0; i < NAMES; i++) {
        bool found = false;

        if (s->at[d][i] < 0)
            continue;
        n++;
        for (unsigned k = 0; k < a->n_entries; k++) {
            const struct object *o = &s->o[(int)s->at[d][i]];

            if (strcmp(a->entries[k].name, name_of(i)) == 0)
                found = kind_of(a->entries[k].mode) == o->kind && (!o->ino || o->ino == a->entries[k].ino);
        }
        if (!found)
            return false;
    }
    return n == a->n_entries;
}

static void fill_inos(struct state *s, int d, const struct actor *a)
{
    for (int i = 0; i < NAMES; i++)
        for (unsigned k = 0; k < a->n_entries; k++)
            if (s->at[d][i] >= 0 && strcmp(a->entries[k].name, name_of(i)) == 0)
                s->o[(int)s->at[d][i]].ino = a->entries[k].ino;
}

/* List all directories; each must be as now or, while unsure, all as before. */
static void names_list(struct actor *a, struct names *n)
{
    bool now = true, before = n->unsure;
    struct state filled = n->now;

    for (int d = 0; d < DIRS; d++) {
        int r = a_list(a, n->dirs[d]);

        if (r) {
            if (!outcome_unknown(a, r, "readdir"))
                cluster_fail(a->c, "%s: readdir failed: %s", n->name, tc_error_name(r));
            return;
        }
        now = now && state_matches(&n->now, d, a);
        before = before && state_matches(&n->before, d, a);
        if (now)
            fill_inos(&filled, d, a);
        if (!now && !before) {
            for (unsigned k = 0; k < a->n_entries; k++)
                cluster_log(a->c, "%s/d%d: found %s ino %" PRIu64 " mode %o", n->name, d, a->entries[k].name,
                            a->entries[k].ino, a->entries[k].mode);
            for (int i = 0; i < NAMES; i++)
                if (n->now.at[d][i] >= 0)
                    cluster_log(a->c, "%s/d%d: expected %s ino %" PRIu64 " kind %d", n->name, d, name_of(i),
                                n->now.o[(int)n->now.at[d][i]].ino, n->now.o[(int)n->now.at[d][i]].kind);
            cluster_fail(a->c, "%s: d%d lists what no order of operations explains (last: %s%s)", n->name, d, n->what,
                         n->unsure ? ", outcome unknown" : "");
            return;
        }
    }
    n->now = now ? filled : n->before;
    n->unsure = false;
}

/* ---- operations ----------------------------------------------------------------------------------- */

/* Compare @r with what was expected; take @next as the state if it was done. */
static bool judged(struct actor *a, struct names *n, int r, int expected, const struct state *next)
{
    cluster_log(a->c, "%s: %s: %s, expected %s", n->name, n->what, r == ACTOR_KILLED ? "killed" : tc_error_name(r),
                tc_error_name(expected));
    if (outcome_unknown(a, r, n->what)) {
        n->before = n->now;
        n->unsure = true;
        if (expected == 0)
            n->now = *next;
        return false;
    }
    if (r != expected) {
        cluster_fail(a->c, "%s: %s: got %s, expected %s", n->name, n->what, tc_error_name(r), tc_error_name(expected));
        return false;
    }
    if (r == 0)
        n->now = *next;
    return r == 0;
}

static void do_make(struct actor *a, struct names *n, int d, int i, enum kind kind)
{
    struct state next = n->now;
    int expected = get(&n->now, d, i) ? -TC_E_EXIST : 0, r, o;

    snprintf(n->what, sizeof n->what, "make d%d/%s kind %d by client %u", d, name_of(i), kind, a->cl->index);
    if (kind == LINK_)
        r = a_symlink(a, n->dirs[d], name_of(i), "target");
    else
        r = a_make(a, n->dirs[d], name_of(i), (kind == DIR_ ? S_IFDIR | 0755u : S_IFREG | 0644u), true);
    if (expected == 0) {
        o = object_new(&next, kind);
        next.at[d][i] = (int8_t)o;
        if (r == 0)
            next.o[o].ino = a->ino;
    }
    if (judged(a, n, r, expected, &next) && (kind_of(a->mode) != kind || a->nlink != (kind == DIR_ ? 2 : 1)))
        cluster_fail(a->c, "%s: %s: mode %o nlink %u", n->name, n->what, a->mode, a->nlink);
}

static void do_unlink(struct actor *a, struct names *n, int d, int i, bool dir)
{
    struct state next = n->now;
    struct object *o = get(&n->now, d, i);
    int expected = !o ? -TC_E_NOENT : dir && o->kind != DIR_ ? -TC_E_NOTDIR : !dir && o->kind == DIR_ ? -TC_E_ISDIR : 0;

    snprintf(n->what, sizeof n->what, "unlink d%d/%s dir %d by client %u", d, name_of(i), dir, a->cl->index);
    if (expected == 0)
        drop(&next, d, i);
    (void)judged(a, n, a_unlink(a, n->dirs[d], name_of(i), dir), expected, &next);
}

static void do_link(struct actor *a, struct names *n, int d, int i, int d2, int i2)
{
    struct state next = n->now;
    struct object *o = get(&n->now, d, i);
    int expected;

    if (!o || !o->ino)
        return;
    expected = o->kind == DIR_ ? -TC_E_PERM : get(&n->now, d2, i2) ? -TC_E_EXIST : 0;
    if (o->kind == DIR_ && get(&n->now, d2, i2))
        return; /* either error is right */
    snprintf(n->what, sizeof n->what, "link d%d/%s d%d/%s by client %u", d, name_of(i), d2, name_of(i2), a->cl->index);
    if (expected == 0) {
        next.at[d2][i2] = next.at[d][i];
        get(&next, d, i)->nlink++;
    }
    if (judged(a, n, a_link(a, o->ino, n->dirs[d2], name_of(i2)), expected, &next) &&
        a->nlink != get(&n->now, d, i)->nlink)
        cluster_fail(a->c, "%s: %s: nlink %u", n->name, n->what, a->nlink);
}

static void do_rename(struct actor *a, struct names *n, int d, int i, int d2, int i2, uint32_t flags)
{
    struct state next = n->now;
    struct object *o = get(&n->now, d, i), *p = get(&n->now, d2, i2);
    int expected = 0;

    if (!o)
        expected = -TC_E_NOENT;
    else if ((flags & 1) && p)
        expected = -TC_E_EXIST;
    else if ((flags & 2) && !p)
        expected = -TC_E_NOENT;
    else if (p && p != o && !flags && p->kind == DIR_ && o->kind != DIR_)
        expected = -TC_E_ISDIR;
    else if (p && p != o && !flags && p->kind != DIR_ && o->kind == DIR_)
        expected = -TC_E_NOTDIR;
    if (expected == 0 && o != p) { /* two names of one inode: nothing happens */
        int8_t moved = next.at[d][i];

        if (flags & 2) {
            next.at[d][i] = next.at[d2][i2];
            next.at[d2][i2] = moved;
        } else {
            if (p)
                drop(&next, d2, i2);
            next.at[d][i] = -1;
            next.at[d2][i2] = moved;
        }
    }
    snprintf(n->what, sizeof n->what, "rename d%d/%s d%d/%s flags %u by client %u", d, name_of(i), d2, name_of(i2),
             flags, a->cl->index);
    (void)judged(a, n, a_rename(a, n->dirs[d], name_of(i), n->dirs[d2], name_of(i2), flags), expected, &next);
}

static void do_lookup(struct actor *a, struct names *n, int d, int i)
{
    struct object *o = get(&n->now, d, i);
    int r;

    snprintf(n->what, sizeof n->what, "lookup d%d/%s by client %u", d, name_of(i), a->cl->index);
    r = a_lookup(a, n->dirs[d], name_of(i));
    if (outcome_unknown(a, r, n->what))
        return;
    if (r != (o ? 0 : -TC_E_NOENT))
        cluster_fail(a->c, "%s: %s: got %s, expected %s", n->name, n->what, tc_error_name(r),
                     tc_error_name(o ? 0 : -TC_E_NOENT));
    else if (o && (a->ino != o->ino || a->nlink != o->nlink || kind_of(a->mode) != o->kind))
        cluster_fail(a->c, "%s: %s: ino %" PRIu64 " nlink %u mode %o, expected ino %" PRIu64 " nlink %u kind %d",
                     n->name, n->what, a->ino, a->nlink, a->mode, o->ino, o->nlink, o->kind);
}

static void names_op(struct actor *a, struct names *n)
{
    struct sim_rng *g = &a->rng;
    int d = (int)sim_below(g, DIRS), i = (int)sim_below(g, NAMES);
    int d2 = (int)sim_below(g, DIRS), i2 = (int)sim_below(g, NAMES);

    if (n->unsure) {
        names_list(a, n);
        return;
    }
    switch (sim_below(g, 16)) {
    case 0 ... 3:
        do_make(a, n, d, i, FILE_);
        break;
    case 4:
        do_make(a, n, d, i, DIR_);
        break;
    case 5:
        do_make(a, n, d, i, LINK_);
        break;
    case 6 ... 8:
        do_unlink(a, n, d, i, get(&n->now, d, i) ? get(&n->now, d, i)->kind == DIR_ : sim_below(g, 2));
        break;
    case 9:
        do_link(a, n, d, i, d2, i2);
        break;
    case 10 ... 12:
        do_rename(a, n, d, i, d2, i2, (uint32_t)sim_below(g, 3));
        break;
    case 13:
        names_list(a, n);
        break;
    default:
        do_lookup(a, n, d, i);
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
