/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal's bytes: segment headers and record frames. Pure; docs/DISK_FORMAT.md describes it.
 *
 * Every checksum is seeded with (journal id, segment id, position), so bytes that were written for
 * another place, another journal or an earlier life of the file never pass.
 */
#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* for the size of the state, to have it on the stack */
#include <xxhash.h>

#include "common/journal_internal.h"
#include "common/le.h"

enum { /* offsets in the segment header */
    H_MAGIC = 0,
    H_VERSION = 8,
    H_SEGMENT_BYTES = 16,
    H_JOURNAL = 24,
    H_SEGMENT = 40,
    H_SYNCED = 48,
    H_SUM = 56,
    H_END = 64,
};
enum { /* offsets in a frame */
    F_SYNCED = 0,
    F_LEN = 8,
    F_FRAME_SUM = 12,
    F_DATA_SUM = 16,
};

void segment_header_encode(const struct segment_header *h, uint8_t *block)
{
    memset(block, 0, JOURNAL_HEADER_BYTES);
    memcpy(block + H_MAGIC, JOURNAL_MAGIC, 8);
    put32(block + H_VERSION, h->version);
    put64(block + H_SEGMENT_BYTES, h->segment_bytes);
    put64(block + H_JOURNAL, h->journal.hi);
    put64(block + H_JOURNAL + 8, h->journal.lo);
    put64(block + H_SEGMENT, h->segment);
    put64(block + H_SYNCED, h->synced);
    put64(block + H_SUM, XXH3_64bits(block, H_SUM));
}

int segment_header_decode(const uint8_t *block, struct segment_header *ret)
{
    struct segment_header h = {0};

    if (memcmp(block + H_MAGIC, JOURNAL_MAGIC, 8) != 0)
        return -TC_E_DAMAGED;
    h.version = get32(block + H_VERSION);
    if (h.version > JOURNAL_VERSION)
        return -TC_E_VERSION; /* before the checksum: a newer version may place it elsewhere */
    if (h.version == 0 || get64(block + H_SUM) != XXH3_64bits(block, H_SUM))
        return -TC_E_DAMAGED;
    h.segment_bytes = get64(block + H_SEGMENT_BYTES);
    h.journal.hi = get64(block + H_JOURNAL);
    h.journal.lo = get64(block + H_JOURNAL + 8);
    h.segment = get64(block + H_SEGMENT);
    h.synced = get64(block + H_SYNCED);
    if (h.segment_bytes < JOURNAL_SEGMENT_MIN || h.segment_bytes > JOURNAL_SEGMENT_MAX ||
        h.segment_bytes % JOURNAL_HEADER_BYTES || h.segment == 0)
        return -TC_E_DAMAGED;
    *ret = h;
    return 0;
}

/* The seed of the data's checksum; its low half is the frame's own. */
static uint64_t frame_seed(struct journal_id id, uint64_t pos, const uint8_t raw[JOURNAL_FRAME_BYTES])
{
    uint8_t bytes[24 + F_FRAME_SUM];

    put64(bytes, id.hi);
    put64(bytes + 8, id.lo);
    put64(bytes + 16, pos); /* holds the segment's id: pos / segment_bytes */
    memcpy(bytes + 24, raw, F_FRAME_SUM);
    return XXH3_64bits(bytes, sizeof bytes);
}

void frame_encode(struct journal_id id, uint64_t pos, uint64_t synced, uint32_t len, const struct iovec *iov,
                  uint32_t n, uint8_t raw[JOURNAL_FRAME_BYTES])
{
    uint64_t seed;

    put64(raw + F_SYNCED, synced);
    put32(raw + F_LEN, len);
    seed = frame_seed(id, pos, raw);
    put32(raw + F_FRAME_SUM, (uint32_t)seed);
    if (n == 1) {
        put64(raw + F_DATA_SUM, XXH3_64bits_withSeed(iov[0].iov_base, iov[0].iov_len, seed));
    } else {
        XXH3_state_t st;

        (void)XXH3_64bits_reset_withSeed(&st, seed); /* these fail only for NULL */
        for (uint32_t i = 0; i < n; i++)
            (void)XXH3_64bits_update(&st, iov[i].iov_base, iov[i].iov_len);
        put64(raw + F_DATA_SUM, XXH3_64bits_digest(&st));
    }
}

bool frame_decode(struct journal_id id, uint64_t pos, const uint8_t raw[JOURNAL_FRAME_BYTES], struct frame *ret)
{
    uint64_t seed = frame_seed(id, pos, raw);

    if (get32(raw + F_FRAME_SUM) != (uint32_t)seed)
        return false;
    *ret = (struct frame){.synced = get64(raw + F_SYNCED),
                          .len = get32(raw + F_LEN),
                          .seed = seed,
                          .sum = get64(raw + F_DATA_SUM)};
    return ret->synced <= pos;
}

bool frame_data_ok(const struct frame *f, const void *data)
{
    size_t len = f->len == JOURNAL_LEN_END || f->len == JOURNAL_LEN_MARK ? 0 : f->len;

    return XXH3_64bits_withSeed(data, len, f->seed) == f->sum;
}
