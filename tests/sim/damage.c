/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/damage.h"

#include <stdio.h>
#include <string.h>

#include "common/journal_internal.h"

enum { NAMES = 64, PATH = 160 };

struct names {
    const char *prefix, *suffix;
    char name[NAMES][80];
    unsigned n;
};

static int see(void *arg, const char *name)
{
    struct names *l = arg;
    size_t len = strlen(name), tail = strlen(l->suffix);

    if (l->n < NAMES && strncmp(name, l->prefix, strlen(l->prefix)) == 0 && len >= tail &&
        strcmp(name + len - tail, l->suffix) == 0)
        snprintf(l->name[l->n++], sizeof l->name[0], "%s", name);
    return 0;
}

static struct names list(struct sim_disk *d, const char *dir, const char *prefix, const char *suffix)
{
    struct names l = {.prefix = prefix, .suffix = suffix};

    if (vfs_list(sim_disk_vfs(d), dir, see, &l) < 0)
        l.n = 0;
    return l;
}

/* Returns: caller frees; NULL: not there, or empty. */
static uint8_t *slurp(struct sim_disk *d, const char *path, uint64_t *ret_size)
{
    struct vfs_file *f;
    uint8_t *p = NULL;

    *ret_size = 0;
    if (vfs_open(sim_disk_vfs(d), path, VFS_RDONLY, &f) < 0)
        return NULL;
    if (vfs_size(f, ret_size) == 0 && *ret_size > 0) {
        p = tc_calloc(1, *ret_size);
        if (vfs_pread(f, p, *ret_size, 0) < 0) {
            free(p);
            p = NULL;
        }
    }
    vfs_close(f);
    return p;
}

static bool flip_any(struct sim_disk *d, struct sim_rng *rng, const char *path)
{
    uint64_t size;
    uint8_t *p = slurp(d, path, &size);

    free(p);
    return p && sim_disk_flip(d, path, sim_below(rng, size), (uint8_t)(1u << sim_below(rng, 8)));
}

static bool chop_any(struct sim_disk *d, struct sim_rng *rng, const char *path)
{
    uint64_t size;
    uint8_t *p = slurp(d, path, &size);

    free(p);
    return p && sim_disk_chop(d, path, sim_below(rng, size));
}

static bool lose(struct sim_disk *d, const char *dir, const char *name)
{
    char path[PATH];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return vfs_unlink(sim_disk_vfs(d), path) == 0 && vfs_sync_dir(sim_disk_vfs(d), dir) == 0;
}

/* ---- journals ------------------------------------------------------------------------------------- */

struct record {
    unsigned segment;
    uint64_t pos, off, len, synced;
};

struct records {
    struct record *items;
    unsigned n, cap;
    uint64_t synced; /* the highest place that anything says to be synced */
};

static void records_of(struct records *r, const uint8_t *bytes, uint64_t size, unsigned segment)
{
    struct segment_header h;

    if (size < JOURNAL_HEADER_BYTES || segment_header_decode(bytes, &h) < 0 || h.segment_bytes != size)
        return;
    r->synced = MAX(r->synced, h.synced);
    for (uint64_t off = JOURNAL_HEADER_BYTES; off + JOURNAL_FRAME_BYTES <= size;) {
        struct frame f;

        if (!frame_decode(h.journal, h.segment * size + off, bytes + off, &f))
            return;
        r->synced = MAX(r->synced, f.synced);
        if (f.len >= JOURNAL_LEN_MARK || off + JOURNAL_FRAME_BYTES + f.len > size)
            return;
        if (r->n == r->cap) {
            r->cap = r->cap ? 2 * r->cap : 256;
            r->items = tc_realloc(r->items, r->cap * sizeof *r->items);
        }
        r->items[r->n++] =
            (struct record){segment, h.segment * size + off, off, JOURNAL_FRAME_BYTES + f.len, f.synced};
        off += JOURNAL_FRAME_BYTES + journal_align(f.len);
    }
}

/* A bit of a record that was synced, and of which something behind it says so; @live: something that is synced itself. */
static bool flip_record(struct sim_disk *d, struct sim_rng *rng, const char *dir, bool live)
{
    struct names l = list(d, dir, "", ".seg");
    struct records r = {0};
    unsigned n = 0;
    bool done = false;
    char path[PATH];

    for (unsigned i = 0; i < l.n; i++) {
        uint64_t size;
        uint8_t *p;

        snprintf(path, sizeof path, "%s/%s", dir, l.name[i]);
        p = slurp(d, path, &size);
        if (p)
            records_of(&r, p, size, i);
        free(p);
    }
    if (live) {
        uint64_t all = r.synced;

        r.synced = 0;
        for (unsigned i = 0; i < r.n; i++)
            r.synced = r.items[i].pos < all ? MAX(r.synced, r.items[i].synced) : r.synced;
    }
    while (n < r.n && r.items[n].pos < r.synced)
        n++;
    if (n > 0) {
        const struct record *x = &r.items[sim_below(rng, 3) ? sim_below(rng, n) : n - 1];

        snprintf(path, sizeof path, "%s/%s", dir, l.name[x->segment]);
        done = sim_disk_flip(d, path, x->off + sim_below(rng, x->len), (uint8_t)(1u << sim_below(rng, 8)));
    }
    free(r.items);
    return done;
}

static bool chop_segment(struct sim_disk *d, struct sim_rng *rng, const char *dir)
{
    struct names l = list(d, dir, "", ".seg");
    char path[PATH];

    if (!l.n)
        return false;
    snprintf(path, sizeof path, "%s/%s", dir, l.name[sim_below(rng, l.n)]);
    return chop_any(d, rng, path);
}

/* All, or one: which may be one that is not used yet, and then that is no damage. */
static bool lose_segments(struct sim_disk *d, struct sim_rng *rng, const char *dir, bool all)
{
    struct names l = list(d, dir, "", ".seg");
    bool done = false;
    uint64_t one = l.n ? sim_below(rng, l.n) : 0;

    for (unsigned i = 0; i < l.n; i++)
        if (all || i == one)
            done = lose(d, dir, l.name[i]) || done;
    return done;
}

/* ---- members -------------------------------------------------------------------------------------- */

/* The directory that bears the highest number. */
static bool newest(struct sim_disk *d, const char *prefix, char *path)
{
    struct names l = list(d, "meta", prefix, "");
    unsigned long long best = 0;

    for (unsigned i = 0; i < l.n; i++)
        best = MAX(best, strtoull(l.name[i] + strlen(prefix), NULL, 10));
    snprintf(path, PATH, "meta/%s%llu", prefix, best);
    return l.n > 0;
}

struct damage damage_member(struct sim_disk *d, struct sim_rng *rng)
{
    uint64_t kind = sim_below(rng, 11);
    char log[PATH], kv[PATH];
    bool all;

    if (!newest(d, "log-", log) || !newest(d, "kv-", kv))
        return (struct damage){0};
    strcat(kv, "/kv");
    switch (kind) {
    case 0:
    case 1:
    case 2:
        if (flip_record(d, rng, log, false))
            return (struct damage){.what = "a bit of its log flips", .votes_gone = true};
        break;
    case 3:
        if (chop_segment(d, rng, log))
            return (struct damage){.what = "a segment of its log is cut short", .votes_gone = true};
        break;
    case 4:
        all = sim_below(rng, 2);
        if (lose_segments(d, rng, log, all))
            return (struct damage){.what = "segments of its log are gone", .votes_gone = all};
        break;
    case 5:
        if (lose(d, "meta", "state-a") && lose(d, "meta", "state-b"))
            return (struct damage){.what = "its term and vote are gone", .votes_gone = true};
        break;
    case 6:
        if (flip_any(d, rng, "meta/state-a") && flip_any(d, rng, "meta/state-b"))
            return (struct damage){.what = "bits of its term and vote flip", .votes_gone = true};
        break;
    case 7:
        if (sim_below(rng, 2) ? lose(d, "meta", sim_below(rng, 2) ? "state-a" : "state-b")
                              : flip_any(d, rng, sim_below(rng, 2) ? "meta/state-a" : "meta/state-b"))
            return (struct damage){.what = "one copy of its term and vote is damaged"};
        break;
    case 8:
        if (sim_below(rng, 2) ? flip_any(d, rng, "meta/base") : chop_any(d, rng, "meta/base"))
            return (struct damage){.what = "its base is damaged", .votes_gone = true};
        break;
    case 9:
        if (sim_below(rng, 2) ? flip_any(d, rng, kv) : chop_any(d, rng, kv))
            return (struct damage){.what = "its store is damaged"};
        break;
    default:
        *strrchr(kv, '/') = '\0';
        if (lose(d, kv, "kv"))
            return (struct damage){.what = "its store is gone"};
        break;
    }
    return (struct damage){0};
}

struct damage damage_live_member(struct sim_disk *d, struct sim_rng *rng)
{
    char log[PATH], kv[PATH];

    if (!newest(d, "log-", log) || !newest(d, "kv-", kv))
        return (struct damage){0};
    strcat(kv, "/kv");
    switch (sim_below(rng, 5)) {
    case 0:
    case 1:
        if (flip_record(d, rng, log, true))
            return (struct damage){.what = "a bit of its log flips"};
        break;
    case 2:
        if (flip_any(d, rng, "meta/state-a") && (sim_below(rng, 2) || flip_any(d, rng, "meta/state-b")))
            return (struct damage){.what = "bits of its term and vote flip"};
        break;
    case 3:
        if (flip_any(d, rng, "meta/base"))
            return (struct damage){.what = "its base is damaged"};
        break;
    default:
        if (flip_any(d, rng, kv))
            return (struct damage){.what = "its store is damaged"};
        break;
    }
    return (struct damage){0};
}

/* ---- stores --------------------------------------------------------------------------------------- */

static struct damage damage_data(struct sim_disk *d, struct sim_rng *rng)
{
    unsigned first = (unsigned)sim_below(rng, 16);

    for (unsigned k = 0; k < 16; k++) {
        struct names l;
        char dir[PATH], path[2 * PATH];

        snprintf(dir, sizeof dir, "store/data/%02x", (first + k) % 16);
        l = list(d, dir, "", "");
        if (!l.n)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, l.name[sim_below(rng, l.n)]);
        if (sim_below(rng, 2) ? chop_any(d, rng, path) : lose(d, dir, strrchr(path, '/') + 1))
            return (struct damage){.what = "a chunk file is cut short or gone", .data = true};
    }
    return (struct damage){0};
}

struct damage damage_store(struct sim_disk *d, struct sim_rng *rng, bool data)
{
    bool all;

    if (data)
        return damage_data(d, rng);
    switch (sim_below(rng, 9)) {
    case 0:
    case 1:
        if (flip_record(d, rng, "store/journal", false))
            return (struct damage){.what = "a bit of its journal flips", .emptied = true};
        break;
    case 2:
        if (chop_segment(d, rng, "store/journal"))
            return (struct damage){.what = "a segment of its journal is cut short", .emptied = true};
        break;
    case 3:
        all = sim_below(rng, 2);
        if (lose_segments(d, rng, "store/journal", all))
            return (struct damage){.what = "segments of its journal are gone", .emptied = all};
        break;
    case 4:
        if (sim_below(rng, 2) ? flip_any(d, rng, "store/kv/kv") : chop_any(d, rng, "store/kv/kv"))
            return (struct damage){.what = "its index is damaged", .emptied = true};
        break;
    case 5:
        if (lose(d, "store/kv", "kv"))
            return (struct damage){.what = "its index is gone"}; /* no harm, if the journal goes back to the first record */
        break;
    case 6:
        if (flip_any(d, rng, "store/identity.0") && flip_any(d, rng, "store/identity.1"))
            return (struct damage){.what = "bits of its identity flip", .emptied = true};
        break;
    case 7:
        if (lose(d, "store", "identity.0") && lose(d, "store", "identity.1"))
            return (struct damage){.what = "its identity is gone", .emptied = true};
        break;
    default:
        if (sim_below(rng, 2) ? flip_any(d, rng, sim_below(rng, 2) ? "store/map.0" : "store/map.1")
                              : flip_any(d, rng, sim_below(rng, 2) ? "store/joined.0" : "store/joined.1"))
            return (struct damage){.what = "one copy of a record is damaged"};
        break;
    }
    return (struct damage){0};
}

struct damage damage_live_store(struct sim_disk *d, struct sim_rng *rng)
{
    if (sim_below(rng, 2)) {
        if (flip_record(d, rng, "store/journal", true))
            return (struct damage){.what = "a bit of its journal flips"};
    } else if (flip_any(d, rng, "store/kv/kv")) {
        return (struct damage){.what = "its index is damaged"};
    }
    return (struct damage){0};
}

/* ---- another's files ------------------------------------------------------------------------------ */

static bool copy_file(struct vfs *to, struct sim_disk *from, const char *path)
{
    uint64_t size;
    uint8_t *p = slurp(from, path, &size);
    struct vfs_file *f;
    bool ok = vfs_open(to, path, VFS_RDWR | VFS_CREATE | VFS_TRUNC, &f) == 0;

    if (ok) {
        ok = (!size || vfs_pwrite(f, p, size, 0) == 0) && vfs_sync(f) == 0;
        vfs_close(f);
    }
    free(p);
    return ok;
}

bool damage_copy(struct sim_disk *to, struct sim_disk *from, const char *path)
{
    struct vfs *v = sim_disk_vfs(to);
    struct names l = list(from, path, "", "");
    bool ok = vfs_make_dir(v, path) == 0;

    for (unsigned i = 0; i < l.n && ok; i++) {
        struct vfs_file *f;
        char sub[PATH];

        snprintf(sub, sizeof sub, "%s/%s", path, l.name[i]);
        if (vfs_open(sim_disk_vfs(from), sub, VFS_RDONLY, &f) == 0) {
            vfs_close(f);
            ok = copy_file(v, from, sub);
        } else {
            ok = damage_copy(to, from, sub);
        }
    }
    return ok && vfs_sync_dir(v, path) == 0;
}
