/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal's scan at start-up. The input is what stands in the first segment behind its header. It is
 * tried as it is, and with the checksums of all frames made right, so that hostile lengths and sync
 * marks reach the logic. What opens must open again to the same records, also after an append.
 */
#include <string.h>

#include "common/journal_internal.h"
#include "common/log.h"
#include "fuzz/fuzz.h"
#include "sim/sim.h"
#include "unit/wire-gen.h"

enum { SEGMENT = JOURNAL_SEGMENT_MIN, ROOM = SEGMENT - JOURNAL_HEADER_BYTES };
static const char segment_name[] = "j/0000000000000001.seg";
static const struct journal_id id = {7, 9};
static const struct journal_options options = {.segment_bytes = SEGMENT};

struct replayed {
    uint64_t n, last, hash;
};

static struct sim *sim;
static struct sim_node *node;

static void no_log(void *arg TC_UNUSED, const char *line TC_UNUSED)
{
}

static int on_record(void *arg, uint64_t pos, struct slice record)
{
    struct replayed *r = arg;
    const uint8_t *p = record.data;

    ASSERT(r->n == 0 || pos > r->last);
    ASSERT(pos / SEGMENT == 1 || record.len == 1); /* a full segment: our own record is in the next */
    r->n++;
    r->last = pos;
    r->hash = r->hash * 31 + pos + record.len;
    for (size_t i = 0; i < record.len; i++)
        r->hash = r->hash * 31 + p[i];
    return 0;
}

/* The segment on a fresh disk. */
static void lay_down(const uint8_t *records)
{
    struct segment_header h = {.version = JOURNAL_VERSION, .segment_bytes = SEGMENT, .journal = id, .segment = 1};
    struct vfs *vfs = sim_disk_vfs(sim_node_disk(node));
    uint8_t block[JOURNAL_HEADER_BYTES];
    struct vfs_file *f;
    int r;

    sim_disk_reopen(sim_node_disk(node));
    sim_disk_erase(sim_node_disk(node));
    segment_header_encode(&h, block);
    r = vfs_mkdir(vfs, "j");
    ASSERT(r == 0);
    r = vfs_open(vfs, segment_name, VFS_RDWR | VFS_CREATE, &f);
    ASSERT(r == 0);
    r = vfs_pwrite(f, block, sizeof block, 0);
    ASSERT(r == 0);
    r = vfs_pwrite(f, records, ROOM, sizeof block);
    ASSERT(r == 0);
    vfs_close(f);
}

static void on_done(struct journal_req *r TC_UNUSED, int status)
{
    ASSERT(status == 0);
}

static int life(struct replayed *ret, bool append)
{
    struct env *env = sim_node_boot(node);
    struct iovec iov = {(void *)(uintptr_t)"x", 1};
    struct journal_req req = {.done = on_done};
    struct journal *j = NULL;
    uint64_t damage = 0;
    int r;

    *ret = (struct replayed){0};
    r = journal_open(env, "j", &options, on_record, ret, &damage, &j);
    /* 2: an end marker says that there is a next segment, and there is none */
    ASSERT(IMPLIES(r == -TC_E_DAMAGED, damage / SEGMENT == 1 || damage == 2 * SEGMENT));
    ASSERT(r == 0 || r == -TC_E_DAMAGED);
    if (r == 0) {
        ASSERT(journal_end(j) > ret->last && journal_end(j) / SEGMENT == 1);
        if (append) {
            r = journal_append(j, &iov, 1, &req);
            ASSERT(r == 0);
        }
        sim_run_until(sim, sim_now(sim) + NS_PER_S); /* for the append, and background work */
        ASSERT(IMPLIES(append, journal_durable(j) == req.end));
        sim_node_kill(node);
        journal_close(j);
        return 0;
    }
    sim_node_kill(node);
    return r;
}

static void check(const uint8_t *records)
{
    struct replayed first, again;

    lay_down(records);
    if (life(&first, false) < 0) {
        ASSERT(life(&again, false) < 0); /* damage stays */
        return;
    }
    ASSERT(life(&again, true) == 0);
    ASSERT(first.n == again.n && first.hash == again.hash);
    ASSERT(life(&again, false) == 0);
    ASSERT(again.n == first.n + 1);
}

/* Makes the checksums right, from frame to frame. */
static void seal(uint8_t *p)
{
    uint64_t off = 0;

    while (off + JOURNAL_FRAME_BYTES <= ROOM) {
        uint64_t synced;
        uint32_t len, data;
        struct iovec iov;

        memcpy(&synced, p + off, 8);
        memcpy(&len, p + off + 8, 4);
        if (synced == 0 && len == 0)
            return; /* the rest was never written */
        data = off + JOURNAL_FRAME_BYTES + len <= ROOM ? len : 0;
        iov = (struct iovec){p + off + JOURNAL_FRAME_BYTES, data};
        frame_encode(id, SEGMENT + JOURNAL_HEADER_BYTES + off, synced, len, &iov, data ? 1 : 0, p + off);
        off += JOURNAL_FRAME_BYTES + journal_align(data);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t records[ROOM];

    if (!sim) {
        log_set_sink(no_log, NULL);
        sim = sim_new(1);
        node = sim_node_new(sim, "a");
    }
    memset(records, 0, sizeof records);
    if (size)
        memcpy(records, data, MIN(size, sizeof records));
    check(records);
    seal(records);
    check(records);
    return 0;
}

/* Journals of 0 to 15 records; some say of the ones before that they are synced. */
size_t fuzz_seed(uint64_t n, uint8_t *buf, size_t cap)
{
    uint64_t seed = n + 1;
    size_t len = 0;

    if (n >= 16)
        return 0;
    ASSERT(cap >= 4096);
    memset(buf, 0, 4096);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t pos = SEGMENT + JOURNAL_HEADER_BYTES + len, r = gen_random(&seed);
        uint32_t data = (uint32_t)(1 + r % 100);
        struct iovec iov = {buf + len + JOURNAL_FRAME_BYTES, data};

        memset(iov.iov_base, (int)i, data);
        frame_encode(id, pos, r >> 60 & 1 ? pos : SEGMENT, data, &iov, 1, buf + len);
        len += JOURNAL_FRAME_BYTES + journal_align(data);
    }
    return len + JOURNAL_FRAME_BYTES;
}
