/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a journal: find the segments, replay the records, tell a torn tail from damage, make what was
 * replayed durable.
 *
 * Segment after segment is read into one buffer, so memory is bounded by segment_bytes. The first frame
 * that does not pass is where the journal ends, unless anything shows that it had been synced: a frame
 * further on that says so, a record or a mark in a later segment. Then it is damage.
 *
 * Frames behind the cut that would still pass (the rest of a torn batch) are overwritten, so that no
 * later record can bring them back. The files are synced at the end: after a mere process crash the pages
 * may never have reached the disk, and the caller is about to answer for them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/journal_internal.h"
#include "common/log.h"
#include "common/test_rules.h"

enum { SEGMENT_BYTES_DEFAULT = 16 << 20, SPARE_DEFAULT = 4 };

struct opening {
    struct journal *j;
    uint64_t *live, *spare;
    uint32_t n_live, n_spare;
    bool leftover; /* new.tmp */
    journal_replay_fn *replay;
    void *arg;
    uint8_t *bytes;  /* of the segment at hand */
    uint64_t cut;    /* position where the records end; 0: not found yet */
    uint32_t cut_at; /* index of its segment */
    uint64_t damage;
};

static int open_on_name(void *arg, const char *name)
{
    struct opening *o = arg;
    uint64_t id;
    char extra;

    if (sscanf(name, "%16" SCNx64 ".se%c", &id, &extra) == 2 && extra == 'g') {
        o->live = tc_realloc(o->live, (o->n_live + 1) * sizeof *o->live);
        o->live[o->n_live++] = id; /* ascending: the names are of fixed width */
    } else if (sscanf(name, "spare-%16" SCNx64 "%c", &id, &extra) == 1) {
        o->spare = tc_realloc(o->spare, (o->n_spare + 1) * sizeof *o->spare);
        o->spare[o->n_spare++] = id;
    } else if (strcmp(name, "new.tmp") == 0) {
        o->leftover = true;
    }
    return 0;
}

struct journal *journal_new(struct env *env, const char *dir, const struct journal_options *opt)
{
    struct journal *j = tc_calloc(1, sizeof *j);

    j->env = env;
    j->vfs = env_vfs(env);
    j->dir = tc_strdup(dir);
    j->segment_bytes = opt ? opt->segment_bytes : 0;
    if (!j->segment_bytes)
        j->segment_bytes = tc_test_value("TERCET_SEGMENT_BYTES", SEGMENT_BYTES_DEFAULT);
    j->spare_max = opt && opt->spare_max ? opt->spare_max : SPARE_DEFAULT;
    ASSERT(j->segment_bytes >= JOURNAL_SEGMENT_MIN && j->segment_bytes <= JOURNAL_SEGMENT_MAX);
    ASSERT(j->segment_bytes % JOURNAL_HEADER_BYTES == 0);
    pthread_mutex_init(&j->lock, NULL);
    j->tail = &j->head;
    j->recycle_tail = &j->recycle;
    j->start_task.fn = journal_start;
    journal_mark_init(j);
    env_queue_init(env, &j->write_queue, true);
    env_queue_init(env, &j->bg_queue, true);
    return j;
}

static int open_fresh(struct opening *o)
{
    struct journal *j = o->j;
    struct segment *s;
    int r;

    j->id = (struct journal_id){env_random(j->env), env_random(j->env)};
    j->is_new = true;
    r = segment_create(j, 1, 0, NULL, &s);
    if (r)
        return r;
    journal_add_segment(j, s);
    j->end = j->durable = journal_begin(j);
    return 0;
}

/* Open file and header of segment @id; the first one says what the journal is. */
static int open_segment(struct opening *o, uint64_t id, bool first, struct segment_header *ret_h)
{
    struct journal *j = o->j;
    struct segment *s;
    struct segment_header h;
    uint8_t block[JOURNAL_HEADER_BYTES];
    char *path;
    int64_t n;
    int r;

    s = tc_calloc(1, sizeof *s);
    s->id = id;
    s->refs = 1;
    segment_path(j, id, false, &path);
    r = vfs_open(j->vfs, path, VFS_RDWR, &s->file);
    if (r) {
        free(s);
        free(path);
        return r;
    }
    n = vfs_pread(s->file, block, sizeof block, 0);
    if (n < (int64_t)sizeof block)
        r = n < 0 ? (int)n : -TC_E_DAMAGED;
    else
        r = segment_header_decode(block, &h);
    if (!r && first && !(j->id.hi | j->id.lo)) {
        j->id = h.journal;
        j->segment_bytes = h.segment_bytes;
    }
    if (!r && (h.segment != id || h.segment_bytes != j->segment_bytes || h.journal.hi != j->id.hi ||
               h.journal.lo != j->id.lo))
        r = -TC_E_DAMAGED;
    if (r == -TC_E_VERSION)
        LOG_ERR("journal", "segment has a newer format version than this program knows", "file=%s", path);
    else if (r)
        LOG_ERR("journal", "segment header is damaged, or not of this journal", "file=%s", path);
    free(path);
    if (r) {
        vfs_close(s->file);
        free(s);
        return r;
    }
    journal_add_segment(j, s);
    *ret_h = h;
    return 0;
}

static int open_load(struct opening *o, struct segment *s)
{
    int64_t n;

    if (!o->bytes)
        o->bytes = tc_malloc(o->j->segment_bytes);
    n = vfs_pread(s->file, o->bytes, o->j->segment_bytes, 0);
    if (n < 0)
        return (int)n;
    if ((uint64_t)n == o->j->segment_bytes)
        return 0;
    /* It had its size, in synced blocks, before it got its name: nothing that a crash does makes it shorter. */
    o->damage = s->id * o->j->segment_bytes + (uint64_t)n;
    LOG_ERR("journal", "segment is cut short", "dir=%s id=%016" PRIx64 " bytes=%" PRIi64, o->j->dir, s->id, n);
    return -TC_E_DAMAGED;
}

/* Replay one loaded segment from its first record. *ret_off: where it ends; *ret_closed: by an end marker. */
static int open_replay(struct opening *o, uint64_t id, uint64_t *ret_off, bool *ret_closed)
{
    uint64_t S = o->j->segment_bytes, off = JOURNAL_HEADER_BYTES;

    *ret_closed = false;
    while (off + JOURNAL_FRAME_BYTES <= S) {
        uint8_t *p = o->bytes + off;
        struct frame f;
        int r;

        if (!frame_decode(o->j->id, id * S + off, p, &f))
            break;
        if (f.len == JOURNAL_LEN_END) {
            *ret_closed = frame_data_ok(&f, p);
            break;
        }
        if (f.len == JOURNAL_LEN_MARK)
            break;
        if (off + JOURNAL_FRAME_BYTES + f.len > S || !frame_data_ok(&f, p + JOURNAL_FRAME_BYTES))
            break;
        if (o->replay) {
            r = o->replay(o->arg, id * S + off, slice_of(p + JOURNAL_FRAME_BYTES, f.len));
            if (r)
                return r;
        }
        off += JOURNAL_FRAME_BYTES + journal_align(f.len);
    }
    *ret_off = off;
    return 0;
}

/*
 * Look behind the cut, in the loaded segment, for frames that pass. One that says that the cut had been
 * synced is damage; in a later segment any is. With @wipe they are overwritten: only once nothing showed
 * damage, so that a damaged journal stays as it was found.
 */
static int open_scan(struct opening *o, struct segment *s, uint64_t off, bool wipe)
{
    uint64_t S = o->j->segment_bytes;
    bool later = s->id * S > o->cut;

    for (; off + JOURNAL_FRAME_BYTES <= S; off += JOURNAL_ALIGN) {
        struct frame f;
        int r;

        if (!frame_decode(o->j->id, s->id * S + off, o->bytes + off, &f))
            continue;
        /* A frame's own sum has 32 bits, and a segment millions of places: among unused bytes one passes now and
         * then. What was truly written in a later segment says that all before that segment was synced. */
        if ((later ? f.synced >= o->cut : f.synced > o->cut) && TC_RULE(DAMAGE)) {
            o->damage = o->cut;
            return -TC_E_DAMAGED;
        }
        r = wipe ? segment_zero(s->file, off, off + JOURNAL_FRAME_BYTES) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int open_wipe(struct opening *o)
{
    struct segment *s = o->j->segs[o->cut_at];
    int r;

    r = open_load(o, s);
    return r ? r : open_scan(o, s, o->cut % o->j->segment_bytes, true);
}

static int open_one(struct opening *o, uint32_t i)
{
    struct journal *j = o->j;
    struct segment_header h;
    struct segment *s;
    uint64_t off = JOURNAL_HEADER_BYTES;
    bool closed = false;
    int r;

    if (i && o->live[i] != o->live[i - 1] + 1) {
        o->damage = (o->live[i - 1] + 1) * j->segment_bytes;
        LOG_ERR("journal", "segment is missing", "dir=%s id=%016" PRIx64, j->dir, o->live[i - 1] + 1);
        return -TC_E_DAMAGED;
    }
    r = open_segment(o, o->live[i], i == 0, &h);
    if (r) {
        o->damage = o->live[i] * j->segment_bytes;
        return r;
    }
    s = j->segs[i];
    r = open_load(o, s);
    if (r)
        return r;
    if (o->cut) { /* the records ended before: this one must be unused */
        if (h.synced > o->cut) {
            o->damage = o->cut;
            return -TC_E_DAMAGED;
        }
        return open_scan(o, s, off, false);
    }
    r = open_replay(o, s->id, &off, &closed);
    if (r || closed)
        return r;
    o->cut = s->id * j->segment_bytes + off;
    o->cut_at = i;
    return open_scan(o, s, off, false);
}

static int open_spares(struct opening *o)
{
    struct journal *j = o->j;

    if (o->leftover) {
        char *path = tc_asprintf("%s/new.tmp", j->dir);
        int r = vfs_unlink(j->vfs, path);

        free(path);
        if (r)
            return r;
    }
    for (uint32_t i = 0; i < o->n_spare; i++) {
        struct segment *s = tc_calloc(1, sizeof *s);
        uint64_t size = 0;
        char *path;
        int r;

        s->id = o->spare[i];
        s->spare = true;
        segment_path(j, s->id, true, &path);
        r = vfs_open(j->vfs, path, VFS_RDWR, &s->file);
        if (!r)
            r = vfs_size(s->file, &size);
        if (!r && size == j->segment_bytes && j->n_spares < j->spare_max) {
            s->next = j->spares;
            j->spares = s;
            j->n_spares++;
        } else {
            vfs_close(s->file);
            free(s);
            r = vfs_unlink(j->vfs, path); /* one too many does no harm: the result is not needed */
        }
        free(path);
    }
    return 0;
}

static int open_all(struct opening *o)
{
    struct journal *j = o->j;
    int r;

    r = vfs_make_dir(j->vfs, j->dir);
    if (!r)
        r = vfs_list(j->vfs, j->dir, open_on_name, o);
    if (!r)
        r = open_spares(o);
    if (r)
        return r;
    if (o->n_live == 0)
        return open_fresh(o);
    for (uint32_t i = 0; i < o->n_live && !r; i++)
        r = open_one(o, i);
    if (r)
        return r;
    if (!o->cut) { /* the last one is closed, and the next, made before that, is gone */
        o->damage = (o->live[o->n_live - 1] + 1) * j->segment_bytes;
        LOG_ERR("journal", "last segment is missing", "dir=%s", j->dir);
        return -TC_E_DAMAGED;
    }
    r = open_wipe(o);
    for (uint32_t i = o->cut_at ? o->cut_at - 1 : 0; i < j->n_segs && !r; i++)
        r = vfs_sync(j->segs[i]->file);
    if (!r)
        r = vfs_sync_dir(j->vfs, j->dir);
    j->end = j->durable = o->cut;
    return r;
}

int journal_open(struct env *env, const char *dir, const struct journal_options *opt, journal_replay_fn *replay,
                 void *arg, uint64_t *ret_damage_pos, struct journal **ret_journal)
{
    struct opening o = {.j = journal_new(env, dir, opt), .replay = replay, .arg = arg};
    int r;

    r = open_all(&o);
    free(o.live);
    free(o.spare);
    free(o.bytes);
    if (r) {
        if (o.damage) {
            LOG_ERR("journal", "damaged record before the synced mark", "dir=%s pos=%" PRIu64, dir, o.damage);
            if (ret_damage_pos)
                *ret_damage_pos = o.damage;
        }
        journal_free(o.j);
        return r;
    }
    *ret_journal = o.j;
    env_defer(env, &o.j->start_task); /* not before the caller had a look: one that closes it again leaves no trace */
    journal_mark_later(o.j);
    return 0;
}
