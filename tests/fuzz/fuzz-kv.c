/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of the in-memory key-value store. The checksum is made right, else nothing would pass it.
 * What parses must be in order, and all there.
 */
#include <string.h>

#include <xxhash.h>

#include "common/error.h"
#include "common/kv_mem.h"
#include "fuzz/fuzz.h"
#include "unit/wire-gen.h"

static void check(const uint8_t *data, size_t size)
{
    struct kv_node *root = NULL;
    struct slice last = {0};
    struct kv_tree_pos pos;
    uint64_t n = 0;

    if (kv_mem_parse(slice_of(data, size), &root) < 0) {
        ASSERT(!root);
        return;
    }
    for (kv_tree_seek(&pos, root, last); pos.depth > 0; kv_tree_next(&pos)) {
        ASSERT(n == 0 || slice_cmp(last, kv_tree_key(&pos)) < 0);
        last = kv_tree_key(&pos);
        n++;
    }
    ASSERT(n == kv_tree_count(root));
    kv_tree_unref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;
    uint64_t sum;

    check(data, size);
    if (size < 8)
        return 0;
    copy = tc_malloc(size);
    memcpy(copy, data, size);
    sum = XXH3_64bits(copy, size - 8);
    memcpy(copy + size - 8, &sum, 8);
    check(copy, size);
    free(copy);
    return 0;
}

/* Files of 0 to 15 entries. */
size_t fuzz_seed(uint64_t n, uint8_t *buf, size_t cap)
{
    uint64_t seed = n + 1, word = n;
    size_t len = 16;

    if (n >= 16 || cap < 1024)
        return 0;
    memcpy(buf, "TCKVMEM1", 8);
    memcpy(buf + 8, &word, 8);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t head[2] = {2, (uint32_t)(gen_random(&seed) % 40)};

        memcpy(buf + len, head, 8);
        buf[len + 8] = (uint8_t)i;
        buf[len + 9] = 7;
        memset(buf + len + 10, 'v', head[1]);
        len += 10 + head[1];
    }
    word = XXH3_64bits(buf, len);
    memcpy(buf + len, &word, 8);
    return len + 8;
}
