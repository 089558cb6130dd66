/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads: versions from the index, bytes from pending data, the kv, or the chunk's file.
 *
 * Every block's checksum is verified before it is answered. A file read races with merging: a block that does
 * not match is looked up again, and only if the index still says the same is it damaged: UNKNOWN from then on,
 * logged, never zeros (PROTOCOL 4.9), until a repair brings the good copy.
 */
#include "storage/chunk_impl.h"

#include <xxhash.h>

#include "common/log.h"

#define READ_TRIES_MAX 8

struct extent { /* consecutive blocks of one file */
    uint32_t first, count; /* within the item */
    uint8_t *to;
};

struct file_read {
    struct env_job job;
    struct chunk_read_op *op;
    struct chunk_read *item;
    struct chunk *chunk;
    struct chunk_file *fh;
    struct vfs_file *opened;
    struct vfs_file *past; /* opened past the page cache */
    uint64_t file;
    int status;
    bool direct; /* read from the disk past the page cache, unless it is all there */
    bool bad; /* a block did not match */
    uint32_t unreadable; /* so many blocks the disk refused */
    uint32_t n;
    struct extent extents[];
};

static void op_run(struct chunk_read_op *op);

static void op_task(struct env_task *t)
{
    op_run(container_of(t, struct chunk_read_op, task));
}

/* ---- blocks that are not what the index says ------------------------------------------------------------ */

static void mark_damaged(struct chunk_store *cs, struct chunk *c, uint32_t b)
{
    struct block *blk = chunk_block_at(cs, c, b);

    ASSERT(blk->kind == RUN_DATA);
    LOG_ERR("storage", "stored block does not match its checksum, unknown until repaired",
            "ino=%llu index=%u block=%u version=%llu.%llu place=%u file=%llu", (unsigned long long)c->key.ino, c->key.index, b,
            (unsigned long long)blk->vepoch, (unsigned long long)blk->vseq, blk->place, (unsigned long long)c->file);
    blk->kind = RUN_UNKNOWN; /* version and sum stay: an older write must not take its place */
    blk->place = PLACE_NONE;
    cs->n_blocks--;
    cs->corrupt++;
    chunk_mark_dirty(cs, c);
    cs_damaged(cs, &c->key);
}

static void check_extent(struct file_read *fr, const struct extent *x, bool mark)
{
    struct chunk_store *cs = fr->op->cs;

    for (uint32_t i = 0; i < x->count; i++) {
        const struct chunk_block *want = &fr->item->blocks[x->first + i];
        uint32_t b = fr->item->first + x->first + i;
        struct block now;

        if (XXH3_64bits(x->to + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) == want->sum)
            continue;
        fr->bad = true;
        if (!mark)
            return;
        now = chunk_block_get(fr->chunk, b);
        if (now.kind == RUN_DATA && now.place == PLACE_FILE && now.vepoch == want->vepoch && now.vseq == want->vseq &&
            fr->chunk->file == fr->file)
            mark_damaged(cs, fr->chunk, b);
    }
}

/* ---- files ------------------------------------------------------------------------------------------------- */

/* Something in the extent cannot be read: only the blocks that cannot are lost. */
static uint32_t read_singly(struct vfs_file *f, const struct extent *x, uint32_t block)
{
    uint32_t lost = 0;

    for (uint32_t i = 0; i < x->count; i++) {
        uint8_t *to = x->to + (size_t)i * BLOCK_SIZE;

        if (vfs_pread(f, to, BLOCK_SIZE, (uint64_t)(block + i) * BLOCK_SIZE) == BLOCK_SIZE)
            continue;
        memset(to, 0, BLOCK_SIZE); /* then its sum fails */
        lost++;
    }
    return MAX(lost, 1); /* if at a second try all came, it is a warning, too */
}

static int file_open(struct file_read *fr, int flags, struct vfs_file **ret_f)
{
    struct chunk_store *cs = fr->op->cs;
    char path[512];

    chunk_file_path(cs, &fr->item->key, fr->file, path, sizeof path);
    return vfs_open(cs->vfs, path, flags, ret_f);
}

static int64_t read_extent(struct file_read *fr, struct vfs_file *f, const struct extent *x)
{
    uint64_t off = (uint64_t)(fr->item->first + x->first) * BLOCK_SIZE;
    size_t len = (size_t)x->count * BLOCK_SIZE;

    if (fr->direct && !vfs_cached(f, off, len)) {
        if (!fr->past && file_open(fr, VFS_DIRECT, &fr->past) < 0)
            fr->direct = false;
        else if (vfs_pread(fr->past, x->to, len, off) == (int64_t)len)
            return (int64_t)len;
    }
    return vfs_pread(f, x->to, len, off); /* whatever is wrong shows here, too */
}

static void file_run(struct env_job *j)
{
    struct file_read *fr = container_of(j, struct file_read, job);
    struct vfs_file *f = fr->fh ? fr->fh->f : NULL;

    if (!f) {
        fr->status = file_open(fr, VFS_RDWR, &fr->opened);
        f = fr->opened;
    }
    if (fr->status == 0 && fr->op->from_disk)
        vfs_uncache(f);
    for (uint32_t i = 0; i < fr->n && fr->status == 0; i++) {
        struct extent *x = &fr->extents[i];
        size_t len = (size_t)x->count * BLOCK_SIZE;
        int64_t got = read_extent(fr, f, x);

        if (got == -TC_E_IO) {
            fr->unreadable += read_singly(f, x, fr->item->first + x->first);
        } else if (got < 0) {
            fr->status = (int)got;
        } else if ((size_t)got < len) {
            memset(x->to + got, 0, len - (size_t)got); /* then its sum fails */
        }
        if (fr->status == 0)
            check_extent(fr, x, false);
    }
    if (fr->past)
        vfs_close(fr->past);
}

/* The payload has nothing of items that failed. */
static void op_finish(struct chunk_read_op *op)
{
    uint32_t at = 0;

    for (uint32_t i = 0; op->payload && i < op->n; i++) {
        struct chunk_read *rd = &op->items[i];
        uint32_t len = rd->data ? rd->n_data * BLOCK_SIZE : 0;

        if (rd->status < 0)
            continue;
        if (at != rd->payload_off)
            memmove(op->payload->data + at, op->payload->data + rd->payload_off, len);
        at += len;
    }
    if (op->payload)
        op->payload->len = at;
    if (!at)
        op->payload = buf_unref(op->payload);
    op->done(op);
}

static void item_done(struct chunk_read_op *op)
{
    ASSERT(op->left > 0);
    if (--op->left == 0)
        op_finish(op);
}

static void file_done(struct env_job *j)
{
    struct file_read *fr = container_of(j, struct file_read, job);
    struct chunk_read_op *op = fr->op;
    struct chunk_store *cs = op->cs;
    bool again = false;

    cs_job_done(cs, j);
    if (fr->opened)
        fr->fh = chunk_file_adopt(cs, fr->chunk, fr->file, fr->opened);
    if (fr->status == -TC_E_NOENT && fr->chunk->file == fr->file) { /* a lost file: none of it is known */
        for (uint32_t i = 0; i < fr->n; i++)
            memset(fr->extents[i].to, 0, (size_t)fr->extents[i].count * BLOCK_SIZE);
        fr->bad = true;
        fr->status = 0;
    } else if (fr->status == -TC_E_NOENT) {
        fr->status = 0;
        again = true;
    }
    if (fr->unreadable)
        cs_unreadable(cs, fr->unreadable);
    if (fr->status < 0) {
        cs->disk_error = true;
        fr->item->status = fr->status;
        LOG_ERR("storage", "read of a chunk file failed", "err=%s", tc_error_name(fr->status));
    }
    for (uint32_t i = 0; fr->bad && fr->status == 0 && i < fr->n; i++)
        check_extent(fr, &fr->extents[i], true);
    again = again || (fr->bad && fr->status == 0);
    chunk_file_unref(cs, fr->fh);
    chunk_put(cs, fr->chunk);
    free(fr);
    if (again)
        op->tries |= UINT32_C(1) << 31; /* the layout changed: all of it anew, when the others are back */
    if (op->left == 1 && (op->tries & UINT32_C(1) << 31)) {
        op->left = 0;
        env_defer(cs->env, &op->task);
        return;
    }
    item_done(op);
}

/* ---- one pass over an operation ---------------------------------------------------------------------------- */

static uint32_t look_up(struct chunk_store *cs, struct chunk_read *rd)
{
    struct chunk *c;
    int r;

    memset(rd->blocks, 0, rd->count * sizeof(*rd->blocks));
    rd->pair = (struct chunk_pair){0};
    rd->n_data = 0;
    rd->status = 0;
    r = chunk_get(cs, &rd->key, false, &c);
    if (r == -TC_E_NOENT)
        return 0; /* an intact index says: never written */
    if (r < 0) {
        rd->status = r;
        return 0;
    }
    rd->pair = c->pair;
    for (uint32_t i = 0; i < rd->count; i++) {
        struct block blk = chunk_block_get(c, rd->first + i);

        rd->blocks[i] = (struct chunk_block){blk.vepoch, blk.vseq, blk.sum, blk.kind};
        if (blk.kind == RUN_UNKNOWN) /* but its version: what is asked for it may be repaired with */
            rd->blocks[i].sum = 0;
        rd->n_data += blk.kind == RUN_DATA;
    }
    chunk_put(cs, c);
    return rd->data ? rd->n_data : 0;
}

/* What is at hand is copied; what is in the file is listed in @fr. Returns whether a block was found damaged. */
static bool gather(struct chunk_store *cs, struct chunk_read *rd, struct chunk *c, uint8_t *to, struct file_read *fr)
{
    bool damaged = false;

    for (uint32_t i = 0; i < rd->count; i++) {
        uint32_t b = rd->first + i;
        struct block blk = chunk_block_get(c, b);
        struct extent *last = fr->n ? &fr->extents[fr->n - 1] : NULL;
        bool ok = true;

        if (blk.kind != RUN_DATA)
            continue;
        if (c->pend && c->pend[b].buf) {
            memcpy(to, c->pend[b].data, BLOCK_SIZE);
        } else if (blk.place == PLACE_KV) {
            int r = chunk_packed_read(cs, &rd->key, b, to);

            if (r < 0 && r != -TC_E_NOENT) { /* the kv failed, not the block */
                rd->status = r;
                return false;
            }
            ok = r == 0 && XXH3_64bits(to, BLOCK_SIZE) == blk.sum;
        } else if (blk.place == PLACE_FILE && c->file) {
            if (last && last->first + last->count == i && last->to + (size_t)last->count * BLOCK_SIZE == to)
                last->count++;
            else
                fr->extents[fr->n++] = (struct extent){i, 1, to};
        } else {
            ok = false;
        }
        if (!ok) {
            mark_damaged(cs, c, b);
            damaged = true;
        }
        to += BLOCK_SIZE;
    }
    return damaged;
}

static uint32_t blocks_in_file(const struct file_read *fr)
{
    uint32_t blocks = 0;

    for (uint32_t i = 0; i < fr->n; i++)
        blocks += fr->extents[i].count;
    return blocks;
}

/* From the page cache, on the loop. False: not all of it is there, or it does not match: let a job see. */
static bool read_nowait(struct chunk_read *rd, struct chunk *c, const struct file_read *fr)
{
    if (!c->fh || blocks_in_file(fr) > NOWAIT_BLOCKS)
        return false;
    for (uint32_t i = 0; i < fr->n; i++) {
        const struct extent *x = &fr->extents[i];
        size_t len = (size_t)x->count * BLOCK_SIZE;

        if (vfs_pread_nowait(c->fh->f, x->to, len, (uint64_t)(rd->first + x->first) * BLOCK_SIZE) != (int64_t)len)
            return false;
        for (uint32_t k = 0; k < x->count; k++) {
            if (XXH3_64bits(x->to + (size_t)k * BLOCK_SIZE, BLOCK_SIZE) != rd->blocks[x->first + k].sum)
                return false;
        }
    }
    return true;
}

/*
 * What is read in bulk and for the first time in a while goes past the page cache: whoever reads it has it in his own,
 * and here it would be copied once more, in the place of something that is read again. The second reader leaves it
 * there for the third.
 */
static bool reads_past_cache(struct chunk_store *cs, const struct chunk_key *key, const struct file_read *fr)
{
    uint64_t hash = XXH3_64bits(key, sizeof(*key)), *slot = &cs->bulk_read[hash % BULK_SLOTS];

    if (blocks_in_file(fr) < BULK_BLOCKS || *slot == hash)
        return false;
    *slot = hash;
    return true;
}

/* false: the layout changed under it (a damaged block was found). */
static bool start_item(struct chunk_read_op *op, struct chunk_read *rd)
{
    struct chunk_store *cs = op->cs;
    struct file_read *fr;
    struct chunk *c;
    bool damaged;

    if (!rd->data || !rd->n_data || rd->status < 0)
        return true;
    if (chunk_get(cs, &rd->key, false, &c) < 0)
        return false;
    fr = tc_calloc(1, sizeof(*fr) + rd->count * sizeof(struct extent));
    damaged = gather(cs, rd, c, op->payload->data + rd->payload_off, fr);
    if (damaged || rd->status < 0 || !fr->n || (!op->from_disk && read_nowait(rd, c, fr))) {
        free(fr);
        chunk_put(cs, c);
        return !damaged;
    }
    fr->op = op;
    fr->item = rd;
    fr->chunk = c;
    fr->file = c->file;
    fr->fh = chunk_file_ref(c);
    fr->direct = !op->from_disk && reads_past_cache(cs, &rd->key, fr);
    fr->job.run = file_run;
    fr->job.done = file_done;
    op->left++;
    cs_job(cs, &cs->disk, &fr->job);
    return true;
}

static void op_run(struct chunk_read_op *op)
{
    struct chunk_store *cs = op->cs;
    uint64_t blocks = 0;
    bool again = false;

    op->tries &= ~(UINT32_C(1) << 31);
    op->payload = buf_unref(op->payload);
    for (uint32_t i = 0; i < op->n; i++) {
        uint32_t n;

        if (op->items[i].status == -TC_E_INVAL)
            continue;
        n = look_up(cs, &op->items[i]);
        op->items[i].payload_off = (uint32_t)(blocks * BLOCK_SIZE);
        blocks += n;
    }
    if (op->tries++ > READ_TRIES_MAX) {
        for (uint32_t i = 0; i < op->n; i++)
            op->items[i].status = -TC_E_AGAIN;
        op_finish(op);
        return;
    }
    if (blocks) {
        op->payload = buf_new((uint32_t)(blocks * BLOCK_SIZE));
        op->payload->len = op->payload->cap;
    }
    op->left = 1;
    for (uint32_t i = 0; i < op->n; i++) {
        if (op->items[i].status == 0 && !start_item(op, &op->items[i]))
            again = true;
    }
    if (again)
        op->tries |= UINT32_C(1) << 31;
    if (again && op->left == 1) {
        op->left = 0;
        env_defer(cs->env, &op->task);
        return;
    }
    item_done(op);
}

void chunk_store_read(struct chunk_store *cs, struct chunk_read_op *op)
{
    uint64_t blocks = 0;

    op->cs = cs;
    op->task = (struct env_task){.fn = op_task};
    op->payload = NULL;
    op->tries = 0;
    op->left = 0;
    for (uint32_t i = 0; i < op->n; i++) {
        struct chunk_read *rd = &op->items[i];

        cs->reads++;
        rd->status = 0;
        if (rd->first >= BLOCKS_PER_CHUNK || rd->count > BLOCKS_PER_CHUNK - rd->first) {
            rd->status = -TC_E_INVAL;
            rd->count = 0;
        }
        rd->n_data = 0;
        rd->pair = (struct chunk_pair){0};
        blocks += rd->count;
    }
    op->blocks = tc_calloc(blocks + 1, sizeof(*op->blocks));
    blocks = 0;
    for (uint32_t i = 0; i < op->n; i++) {
        op->items[i].blocks = op->blocks + blocks;
        blocks += op->items[i].count;
    }
    env_defer(cs->env, &op->task);
}

void chunk_read_op_fini(struct chunk_read_op *op)
{
    op->payload = buf_unref(op->payload);
    free(op->blocks);
    op->blocks = NULL;
}
