/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Big namespaces: bench-namespace DIR [INODES [CACHE_MIB]] builds INODES files (1M; 1000 a directory) through the state
 * machine in a store at DIR, with a checkpoint by a second thread every 64 MiB or so, and prints: entries per second and
 * the longest single apply (what a heartbeat would wait for), time to open the store again, memory, and lookups (each a name
 * and its attributes) over 10 thousand and over all, per second and the slowest; the same by message, as a mount asks; and a restart
 * of a member at its worst, with a whole log behind the store. Run it under a memory limit to see it bite:
 *     systemd-run --scope -p MemoryMax=512M bench-namespace /var/tmp/ns 10000000
 * DIR and DIR.member stay behind; with a DIR of as many INODES that is there already only what comes after building is done.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/schema.h"
#include "namespace.h"

#define PER_DIR NAMESPACE_PER_DIR
#define SOME NAMESPACE_FEW
#define LOOKUPS 100000u
#define FLUSH_ENTRIES 200000u
#define HEARTBEAT_NS (50 * NS_PER_MS)

static struct kv *kv;
static struct fsm *fsm;
static uint64_t inodes, entry_index, seq, session;
static struct {
    uint64_t longest, waited; /* one apply by the clock; without the time for which others had the processor */
    uint64_t late;            /* applies that so waited longer than a heartbeat's interval */
} stall;
static struct wire_arena arena;

uint64_t namespace_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void namespace_must(int r, const char *what)
{
    if (r >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, tc_strerror(r));
    exit(1);
}

/* Processor time of this thread, so that a busy machine changes little. */
static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Bytes that this process had fetched from the disk, for they were in no cache. */
static uint64_t disk_read(void)
{
    char line[256];
    uint64_t bytes = 0;
    FILE *f = fopen("/proc/self/io", "r");

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "read_bytes:", 11) == 0)
            bytes = strtoull(line + 11, NULL, 10);
    if (f)
        fclose(f);
    return bytes;
}

/* For how long this thread could have run, had others not had the processor. Changes only when it is switched. */
static uint64_t run_delay(void)
{
    static long switches_before;
    static uint64_t delay;
    struct rusage u;
    char line[128];
    FILE *f;

    (void)getrusage(RUSAGE_THREAD, &u);
    if (u.ru_nvcsw + u.ru_nivcsw == switches_before)
        return delay;
    switches_before = u.ru_nvcsw + u.ru_nivcsw;
    f = fopen("/proc/thread-self/schedstat", "r");
    if (f && fgets(line, sizeof line, f))
        delay = strtoull(strchr(line, ' '), NULL, 10);
    if (f)
        fclose(f);
    return delay;
}

/* Anonymous memory and file pages that are mapped, MiB. */
static double memory_mib(void)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmRSS:", 6) == 0)
            kib = strtod(line + 6, NULL);
    if (f)
        fclose(f);
    return kib / 1024;
}

static uint64_t buffer_bytes; /* 0: as a member has it */

static void store_open(const char *dir, uint64_t cache_mib)
{
    struct kv_options opt = {.cache_bytes = cache_mib << 20, .buffer_bytes = buffer_bytes};

    namespace_must(kv_open_rocks(dir, &opt, &kv), dir);
    namespace_must(fsm_open(kv, &fsm), dir);
}

/* Ends with the answer in *ret, which the caller ends. */
static void apply(uint32_t type, const struct wire_schema *schema, const void *body, struct fsm_result *ret)
{
    struct buf *b = wire_encode(schema, body);
    struct command cmd = {.type = type, .time = 1000000 * ++entry_index, .body = {b->data, b->len}, .term = 1};
    struct buf *e = wire_encode(&command_schema, &cmd);
    uint64_t delay = run_delay(), from = namespace_now(), took;

    *ret = (struct fsm_result){0};
    namespace_must(fsm_apply(fsm, entry_index, 1, slice_of(e->data, e->len), ret), "apply");
    namespace_must(ret->status, "entry");
    took = namespace_now() - from;
    stall.longest = MAX(stall.longest, took);
    delay = run_delay() - delay;
    took -= MIN(took, delay);
    stall.waited = MAX(stall.waited, took);
    stall.late += took > HEARTBEAT_NS;
    buf_unref(e);
    buf_unref(b);
}

static uint64_t make(uint64_t parent, const char *name, uint32_t mode)
{
    struct make_req req = {.ctx = {.session = session, .incarnation = 1, .seq = ++seq, .watermark = seq - 1}, .has_ctx = true,
                           .parent = parent, .name = wire_str_of(name), .mode = mode, .excl = true};
    struct fsm_result res;
    struct entry_res e;
    uint64_t ino;

    apply(MSG_MAKE, &make_req_schema, &req, &res);
    wire_arena_reset(&arena);
    namespace_must(wire_decode(slice_of(res.body->data, res.body->len), &entry_res_schema, &arena, &e), "answer");
    ino = e.attr.ino;
    fsm_result_fini(&res);
    return ino;
}

static void format(void)
{
    uint8_t id[16] = "bench-namespace", key[16] = "siphash key here";
    struct member_info member = {.id = 1, .endpoint = wire_str_of("tcp://here:1")};
    struct genesis g = {.cluster = {id, 16}, .name = wire_str_of("bench"), .n = 1, .w = 1, .r = 1, .pg_count = 1,
                        .members = {&member, 1}, .siphash_key = {key, 16}, .time = 1};
    struct session_open_req open = {.has_ctx = true, .nonce = 1};
    struct fsm_result res;

    apply(CMD_GENESIS, &genesis_schema, &g, &res);
    fsm_result_fini(&res);
    apply(MSG_SESSION_OPEN, &session_open_req_schema, &open, &res);
    session = res.session;
    fsm_result_fini(&res);
}

static atomic_bool flushing;

static void *flush_run(void *arg)
{
    namespace_must(kv_flush(arg), "checkpoint");
    atomic_store(&flushing, false);
    return NULL;
}

static pthread_t flusher;
static bool flusher_ran;

static void checkpoint_begin(void)
{
    if (atomic_load(&flushing))
        return;
    if (flusher_ran)
        pthread_join(flusher, NULL);
    atomic_store(&flushing, true);
    flusher_ran = pthread_create(&flusher, NULL, flush_run, kv) == 0;
}

static uint64_t *build(uint64_t n)
{
    uint64_t *dirs = tc_calloc((size_t)(n / PER_DIR + 1), sizeof *dirs);
    uint64_t began = namespace_now(), cpu = cpu_ns(), tenth = n / 10;
    char name[32];

    for (uint64_t i = 0; i < n; i++) {
        if (i % tenth == tenth - 1)
            printf("%5.1f s    %llu inodes, longest apply so far %.1f ms\n", (double)(namespace_now() - began) / NS_PER_S,
                   (unsigned long long)i + 1, (double)stall.waited / NS_PER_MS);
        if (i % PER_DIR == 0) {
            snprintf(name, sizeof name, "dir%llu", (unsigned long long)(i / PER_DIR));
            dirs[i / PER_DIR] = make(INO_ROOT, name, S_IFDIR | 0755);
        }
        snprintf(name, sizeof name, "file-%llu", (unsigned long long)i);
        (void)make(dirs[i / PER_DIR], name, S_IFREG | 0644);
        if (i % FLUSH_ENTRIES == FLUSH_ENTRIES - 1)
            checkpoint_begin();
    }
    printf("build      %llu inodes, %.0f entries/s, %.1f us of processor each, memory %.0f MiB\n", (unsigned long long)n,
           (double)n / ((double)(namespace_now() - began) / NS_PER_S), (double)(cpu_ns() - cpu) / (double)n / NS_PER_US, memory_mib());
    printf("apply      longest %.1f ms, without others on the processor %.1f ms, %llu so longer than a heartbeat's 50 ms\n",
           (double)stall.longest / NS_PER_MS, (double)stall.waited / NS_PER_MS, (unsigned long long)stall.late);
    return dirs;
}

/* The directories of a store that was built before. */
static uint64_t *find_dirs(uint64_t n)
{
    uint64_t *dirs = tc_calloc((size_t)(n / PER_DIR + 1), sizeof *dirs);
    struct attr attr, dir;
    char name[32];

    session = 1;
    for (uint64_t i = 0; i * PER_DIR < n; i++) {
        snprintf(name, sizeof name, "dir%llu", (unsigned long long)i);
        wire_arena_reset(&arena);
        namespace_must(fsm_lookup(fsm, session, INO_ROOT, wire_str_of(name), &arena, &attr, &dir), name);
        dirs[i] = attr.ino;
    }
    return dirs;
}

static double lookups(const uint64_t *dirs, uint64_t over, const char *what)
{
    uint64_t x = 88172645463325252u, longest = 0, began = namespace_now(), cpu = cpu_ns(), read = disk_read();
    char name[32];
    double took;

    for (unsigned k = 0; k < LOOKUPS; k++) {
        struct attr attr, dir;
        uint64_t i, from = namespace_now();

        x = namespace_random(x);
        i = x % over;
        snprintf(name, sizeof name, "file-%llu", (unsigned long long)i);
        wire_arena_reset(&arena);
        namespace_must(fsm_lookup(fsm, session, dirs[i / PER_DIR], wire_str_of(name), &arena, &attr, &dir), "lookup");
        longest = MAX(longest, namespace_now() - from);
    }
    took = (double)(namespace_now() - began) / LOOKUPS / NS_PER_US;
    printf("lookup     %-18s %6.1f us each, %5.1f us of them processor, %.2f KiB from disk, slowest %.1f ms, memory %.0f MiB\n", what,
           took, (double)(cpu_ns() - cpu) / LOOKUPS / NS_PER_US, (double)(disk_read() - read) / LOOKUPS / 1024,
           (double)longest / NS_PER_MS, memory_mib());
    return took;
}

/* Another process of this program, in which the member dies. @how: "log", or "full" if its store is to write nothing out. */
static void restart(char **argv, uint64_t cache_mib, const char *how)
{
    struct kv_options opt = {.cache_bytes = cache_mib << 20};
    char n[24], cache[24];
    int status = -1;
    pid_t pid;

    snprintf(n, sizeof n, "%llu", (unsigned long long)inodes);
    snprintf(cache, sizeof cache, "%llu", (unsigned long long)cache_mib);
    pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", argv[0], argv[1], n, cache, how, (char *)NULL);
        _exit(127);
    }
    namespace_must(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -TC_E_IO, "the member that dies");
    namespace_restart_run(argv[1], &opt);
}

static void measure(const uint64_t *dirs, const char *dir, uint64_t cache_mib, pid_t asker)
{
    uint64_t began = namespace_now();
    struct kv_stats stats;
    double some, all;

    store_open(dir, cache_mib);
    printf("restart    %.0f ms from the store to a member that answers, memory %.0f MiB\n",
           (double)(namespace_now() - began) / NS_PER_MS, memory_mib());
    (void)lookups(dirs, SOME, "10 thousand, cold");
    some = lookups(dirs, SOME, "10 thousand");
    (void)lookups(dirs, inodes, "all, cold");
    all = lookups(dirs, inodes, "all");
    kv_stats(kv, &stats);
    printf("all are %.1f times as slow as 10 thousand; store %llu MiB on disk, %llu MiB in memory\n", all / some,
           (unsigned long long)(stats.disk >> 20), (unsigned long long)(stats.memory >> 20));
    namespace_mount_run(fsm, session, dirs);
    kill(asker, SIGKILL);
    fsm_close(fsm);
    kv_close(kv);
}

int main(int argc, char **argv)
{
    uint64_t cache_mib = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    bool log = argc > 4, full; /* a process that restart() began */
    uint64_t *dirs;
    pid_t asker = 0;

    inodes = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000;
    if (argc < 2 || inodes < SOME) {
        fprintf(stderr, "usage: bench-namespace DIR [INODES (at least %u) [CACHE_MIB]]\n", SOME);
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    full = log && strcmp(argv[4], "full") == 0;
    if (full)
        buffer_bytes = 2 * NAMESPACE_FULL;
    if (!log)
        asker = namespace_mount_begin(inodes);
    store_open(argv[1], cache_mib);
    if (fsm_formatted(fsm)) {
        dirs = find_dirs(inodes);
    } else {
        format();
        dirs = build(inodes);
        if (flusher_ran)
            pthread_join(flusher, NULL);
        namespace_must(kv_flush(kv), "checkpoint");
    }
    if (log)
        namespace_restart_log(argv[1], kv, fsm, dirs, inodes / PER_DIR, full ? NAMESPACE_FULL : 0);
    fsm_close(fsm);
    kv_close(kv);
    measure(dirs, argv[1], cache_mib, asker);
    restart(argv, cache_mib, "log");
    restart(argv, cache_mib, "full");
    free(dirs);
    return 0;
}
