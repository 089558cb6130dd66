/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target as a test: every well-formed input of the target, every file given or found in
 * the directories given, and mutations of those, the same ones each time.
 *
 *   fuzz-NAME [--rounds=N] [--seed=N] [FILE|DIR]...
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz/fuzz.h"
#include "unit/wire-gen.h"

enum { INPUT_MAX = 1 << 20, INPUTS_MAX = 256 };

struct input {
    uint8_t *data;
    size_t len;
};

static struct input inputs[INPUTS_MAX];
static size_t n_inputs;

/* The parser gets a block of the exact size, so that a sanitizer sees the first byte too far. */
static void run(const uint8_t *data, size_t len)
{
    uint8_t *exact = tc_malloc(len);

    if (len)
        memcpy(exact, data, len);
    (void)LLVMFuzzerTestOneInput(exact, len); /* always 0 */
    free(exact);
}

static void add(const uint8_t *data, size_t len)
{
    run(data, len);
    if (n_inputs == INPUTS_MAX)
        return;
    inputs[n_inputs] = (struct input){tc_malloc(len), len};
    if (len)
        memcpy(inputs[n_inputs].data, data, len);
    n_inputs++;
}

static int add_file(const char *path, uint8_t *scratch)
{
    FILE *f = fopen(path, "rb");
    size_t n;

    if (!f) {
        fprintf(stderr, "cannot open %s\n", path);
        return -1;
    }
    n = fread(scratch, 1, INPUT_MAX, f);
    fclose(f);
    add(scratch, n);
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_path(const char *path, uint8_t *scratch)
{
    struct dirent **names = NULL;
    struct stat st;
    int n, r = 0;

    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return add_file(path, scratch);
    n = scandir(path, &names, NULL, by_name);
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.') {
            char *full = tc_asprintf("%s/%s", path, names[i]->d_name);

            r |= add_file(full, scratch);
            free(full);
        }
        free(names[i]);
    }
    free(names);
    return r;
}

/* Changes @p of @len bytes in one of a few ways. Returns the new length. */
static size_t mutate_once(uint64_t *seed, uint8_t *p, size_t len)
{
    static const uint8_t bytes[] = {0, 1, 0x7f, 0x80, 0xff, 0xc1, 0xdd, 0xdf, 0xcf, 0x90, 0x8f};
    size_t at = len ? gen_random(seed) % len : 0;
    size_t n = 1 + gen_random(seed) % 16;

    if (len == 0)
        return 0;
    n = MIN(n, len - at);
    switch (gen_random(seed) % 7) {
    case 0:
        p[at] ^= (uint8_t)(1u << gen_random(seed) % 8);
        return len;
    case 1:
        p[at] = bytes[gen_random(seed) % ARRAY_SIZE(bytes)];
        return len;
    case 2: /* a large number */
        memset(p + at, 0xff, MIN(n, (size_t)8));
        return len;
    case 3: /* cut off */
        return gen_random(seed) % 2 ? at : len;
    case 4: /* without a piece */
        memmove(p + at, p + at + n, len - at - n);
        return len - n;
    case 5: /* with a piece twice */
        n = MIN(n, INPUT_MAX - len);
        memmove(p + at + n, p + at, len - at);
        return len + n;
    default: { /* with a piece of another input */
        const struct input *o = &inputs[gen_random(seed) % n_inputs];
        size_t from = o->len ? gen_random(seed) % o->len : 0;

        memcpy(p + at, o->data + from, MIN(n, o->len - from));
        return len;
    }
    }
}

static void mutate(uint64_t seed, uint64_t rounds, uint8_t *scratch)
{
    for (uint64_t i = 0; i < rounds && n_inputs; i++) {
        const struct input *from = &inputs[gen_random(&seed) % n_inputs];
        size_t len = from->len, times = 1 + gen_random(&seed) % 4;

        if (len)
            memcpy(scratch, from->data, len);
        while (times-- > 0)
            len = mutate_once(&seed, scratch, len);
        run(scratch, len);
    }
}

int main(int argc, char **argv)
{
    uint8_t *scratch = tc_calloc(1, INPUT_MAX);
    uint64_t rounds = 20000, seed = 1;
    int r = 0;
    size_t n;

    run(scratch, 0);
    for (uint64_t i = 0; (n = fuzz_seed(i, scratch, INPUT_MAX)) > 0; i++)
        add(scratch, n);
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--rounds=", 9) == 0)
            rounds = strtoull(argv[i] + 9, NULL, 10);
        else if (strncmp(argv[i], "--seed=", 7) == 0)
            seed = strtoull(argv[i] + 7, NULL, 10) | 1;
        else
            r |= add_path(argv[i], scratch);
    }
    mutate(seed, rounds, scratch);
    for (size_t i = 0; i < n_inputs; i++)
        free(inputs[i].data);
    free(scratch);
    return r ? 1 : 0;
}
