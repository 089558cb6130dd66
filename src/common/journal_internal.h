/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the journal's files share: layout on disk, segments, batches. Not for owners of a journal.
 *
 * A position is segment id x segment_bytes + offset in the segment, so position 0 never exists
 * (ids start at 1) and a position names its file without a table.
 *
 * A segment file:  | header, 4096 bytes | record | record | ... | end marker | old bytes ... |
 * Records are 8-aligned: a 24-byte frame, then the data. The segment that is written has no end marker
 * yet; its records end at the first frame whose checksum does not pass.
 */
#pragma once

#include <pthread.h>

#include "common/journal.h"

#define JOURNAL_MAGIC "TCJRNL1\n"
enum {
    JOURNAL_VERSION = 1,
    JOURNAL_HEADER_BYTES = 4096,
    JOURNAL_FRAME_BYTES = 24,
    JOURNAL_ALIGN = 8,
};
#define JOURNAL_LEN_END UINT32_MAX /* the frame is an end marker: the next record opens the next segment */
/* The frame is a tail mark: nothing follows, and all before it was synced. Written when no append came for a while, so
 * that damage of the last records is told from a torn tail. Not synced; the next record takes its place. */
#define JOURNAL_LEN_MARK (UINT32_MAX - 1)
#define JOURNAL_SEGMENT_MIN (64u << 10)
#define JOURNAL_SEGMENT_MAX (256u << 20) /* open reads one segment into memory */

struct journal_id {
    uint64_t hi, lo;
};

struct segment_header {
    uint32_t version;
    uint64_t segment_bytes;
    struct journal_id journal;
    uint64_t segment;
    uint64_t synced; /* everything below was durable when the header was written */
};

struct frame {
    uint64_t synced; /* everything below was durable when the batch was submitted */
    uint32_t len;    /* of the data, or JOURNAL_LEN_END */
    uint64_t seed;   /* of the data's checksum: binds it to the frame and the place */
    uint64_t sum;
};

/* journal_format.c */
void segment_header_encode(const struct segment_header *h, uint8_t *block);
/* DAMAGED: not a header; VERSION: newer than known. */
TC_MUST_CHECK int segment_header_decode(const uint8_t *block, struct segment_header *ret);
/* @iov: the data, or n = 0 for an end marker with len = JOURNAL_LEN_END. */
void frame_encode(struct journal_id id, uint64_t pos, uint64_t synced, uint32_t len, const struct iovec *iov,
                  uint32_t n, uint8_t raw[JOURNAL_FRAME_BYTES]);
/* Is this the frame of a record at @pos? Checks the frame alone, not the data behind it. */
bool frame_decode(struct journal_id id, uint64_t pos, const uint8_t raw[JOURNAL_FRAME_BYTES], struct frame *ret);
bool frame_data_ok(const struct frame *f, const void *data);

static inline uint64_t journal_align(uint64_t n)
{
    return (n + JOURNAL_ALIGN - 1) & ~(uint64_t)(JOURNAL_ALIGN - 1);
}

/* A file of segment_bytes: live, being created, or spare. refs: the table's, and readers'. */
struct segment {
    uint64_t id;
    struct vfs_file *file;
    uint32_t refs; /* under journal.lock */
    bool spare;    /* its file is called spare-<id> */
    struct segment *next;
};

struct batch_record {
    uint64_t pos;
    uint32_t len;
    uint32_t iov_first; /* the iovec of the frame; the data's follow */
    uint32_t iov_n;     /* the data's */
    uint32_t pad;       /* bytes of padding before the frame, behind the previous record */
    uint8_t raw[JOURNAL_ALIGN + JOURNAL_FRAME_BYTES];
};

/*
 * What one write and one sync make durable. Lies in one segment. Owned by the journal: filled at the tail
 * of the queue, written by the job when it is the head.
 */
struct batch {
    struct env_job job;
    struct journal *j;
    struct segment *seg;       /* referenced while it flies */
    struct segment *close_seg; /* the segment before, if this batch ends it */
    uint64_t start, end;
    uint64_t close_pos; /* where the end marker of the segment before goes; 0: none */
    uint64_t synced;
    uint64_t wipe_from, wipe_to; /* remains of a failed write, to be zeroed first */
    struct iovec *iov;
    uint32_t n_iov, iov_cap;
    struct batch_record *records;
    uint32_t n_records, records_cap;
    struct journal_req *first, **last;
    bool closed; /* out: the end marker is durable */
    int status;
    struct batch *next;
};

enum journal_bg_kind { JOURNAL_BG_CREATE, JOURNAL_BG_RECYCLE };

/* Background work on segment files, one at a time. */
struct journal_bg {
    struct env_job job;
    struct journal *j;
    enum journal_bg_kind kind;
    bool busy;
    struct segment *seg; /* CREATE: the spare taken, or NULL; out: the segment. RECYCLE: the victim */
    uint64_t id;         /* CREATE */
    uint64_t synced;     /* CREATE */
    bool keep;           /* RECYCLE: as a spare */
    int status;
};

struct journal {
    struct env *env;
    struct vfs *vfs;
    char *dir;
    struct journal_id id;
    uint64_t segment_bytes;
    uint32_t spare_max;

    pthread_mutex_t lock; /* segs, refs, durable: shared with journal_read on other threads */
    struct segment **segs; /* live, ascending and contiguous ids */
    uint32_t n_segs, segs_cap;
    uint64_t durable;

    uint64_t end; /* position of the next record, before the choice of its segment */
    struct batch *head, **tail;
    struct batch *free_batches;
    uint64_t queued_bytes;
    uint32_t queued_reqs;
    bool flying;  /* the head batch's job is submitted */
    bool failed;  /* a sync failed: for good */
    bool closing; /* journal_close() was called */
    bool rotate;  /* the next record begins a segment */
    bool is_new;  /* begun by this opening */
    uint32_t entered; /* callbacks running */
    uint64_t wipe_from, wipe_to;

    struct segment *spares;
    uint32_t n_spares;
    struct segment *recycle, **recycle_tail;
    struct journal_bg bg;
    int create_status; /* of the last attempt, until the next */
    struct env_queue write_queue, bg_queue;
    struct env_task start_task;
    struct env_timer mark_timer; /* armed when a batch is durable and none follows */
    struct env_job mark_job;
    bool marking; /* the job is under way */
    struct segment *mark_seg;
    uint64_t mark_pos;
};

/* journal_segment.c: blocking, on any thread. */
void segment_path(const struct journal *j, uint64_t id, bool spare, char **ret_path);
TC_MUST_CHECK int segment_create(struct journal *j, uint64_t id, uint64_t synced, struct segment *spare,
                                 struct segment **ret_seg);
TC_MUST_CHECK int segment_recycle(struct journal *j, struct segment *s, bool keep);
TC_MUST_CHECK int segment_zero(struct vfs_file *f, uint64_t from, uint64_t to);
struct segment *segment_find(struct journal *j, uint64_t id); /* with journal.lock, or on the loop */
void segment_ref(struct journal *j, struct segment *s);
void segment_unref(struct journal *j, struct segment *s);
void journal_add_segment(struct journal *j, struct segment *s);
/* journal_open.c */
struct journal *journal_new(struct env *env, const char *dir, const struct journal_options *opt);
/* journal.c */
void journal_free(struct journal *j);
bool journal_gone(struct journal *j); /* was closed, nothing is under way any more: it is freed */
void journal_background(struct journal *j);
void journal_start(struct env_task *t);
/* journal_mark.c */
void journal_mark_init(struct journal *j);
void journal_mark_later(struct journal *j);
