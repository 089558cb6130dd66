/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client library against real daemons, without a mount: two clients in one process, each call made to
 * wait. Shows that what one client has done the other sees, that leases move, that data survives truncates,
 * holes and partial writes, and how fast things are. Arguments: the members' endpoints. Started by test-client.py.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "client/client.h"
#include "common/os_env.h"

static struct env *env;
static struct tc_client *cl[2];
static struct tc_cred cred = {0, 0, 022};

static struct {
    bool done;
    int status;
    struct tc_entry entry;
    size_t len;
    uint64_t off;
    uint8_t *data; /* of reads */
    unsigned n;
    uint64_t cookie;
    bool eof;
} res;

#define CHECK(x)                                                                                     \
    do {                                                                                             \
        if (!(x)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s failed (status %s)\n", __FILE__, __LINE__, #x, tc_error_name(res.status)); \
            exit(1);                                                                                 \
        }                                                                                            \
    } while (0)

static void finish(int status)
{
    ASSERT(!res.done);
    res.done = true;
    res.status = status;
    os_env_stop(env, 0);
}

static int wait(void)
{
    while (!res.done)
        (void)os_env_run(env);
    res.done = false;
    return res.status;
}

static void on_status(void *arg TC_UNUSED, int status)
{
    finish(status);
}

static void on_entry(void *arg TC_UNUSED, int status, const struct tc_entry *e)
{
    if (status == 0)
        res.entry = *e;
    finish(status);
}

static void on_write(void *arg TC_UNUSED, int status, size_t len, uint64_t off)
{
    res.len = len;
    res.off = off;
    finish(status);
}

static void on_read(void *arg TC_UNUSED, int status, const struct iovec *iov, int n, size_t len)
{
    size_t at = 0;

    for (int k = 0; status == 0 && k < n; k++) {
        memcpy(res.data + at, iov[k].iov_base, iov[k].iov_len);
        at += iov[k].iov_len;
    }
    CHECK(status != 0 || at == len);
    res.len = len;
    finish(status);
}

static void on_seek(void *arg TC_UNUSED, int status, uint64_t off)
{
    res.off = off;
    finish(status);
}

static void on_statfs(void *arg TC_UNUSED, int status, const struct statfs_res *s TC_UNUSED)
{
    finish(status);
}

static void on_bytes(void *arg TC_UNUSED, int status, const void *data, size_t len)
{
    res.len = len;
    if (status == 0 && len)
        memcpy(res.data, data, len);
    finish(status);
}

static void on_readdir(void *arg TC_UNUSED, int status, const struct tc_dirent *e, unsigned n, bool eof)
{
    res.n = n;
    res.eof = eof;
    if (n)
        res.cookie = e[n - 1].cookie;
    for (unsigned k = 0; status == 0 && k < n; k++) {
        if (e[k].entry)
            tc_forget(cl[0], e[k].ino, 1);
    }
    finish(status);
}

static void pause_ms(uint64_t ms)
{
    struct env_timer t = {.fn = NULL};
    uint64_t until = env_now(env) + ms * NS_PER_MS;

    (void)t;
    while (env_now(env) < until) { /* a getattr of the root turns the loop */
        struct timespec ts = {0, 2000000};

        nanosleep(&ts, NULL);
        tc_statfs(cl[0], on_statfs, NULL);
        wait();
    }
}

/* ---- calls that wait ---------------------------------------------------------------------------------------- */

static uint64_t lookup(int c, uint64_t dir, const char *name)
{
    tc_lookup(cl[c], dir, name, on_entry, NULL);
    return wait() == 0 ? res.entry.ino : 0;
}

static uint64_t mk(int c, uint64_t dir, const char *name, uint32_t mode)
{
    tc_make(cl[c], dir, name, mode, 0, NULL, &cred, true, S_ISREG(mode), on_entry, NULL);
    CHECK(wait() == 0);
    return res.entry.ino;
}

static struct tc_file *op(int c, uint64_t ino, uint32_t flags)
{
    struct tc_file *f = NULL;

    tc_open(cl[c], ino, flags, &f, on_entry, NULL);
    CHECK(wait() == 0 && f);
    return f;
}

static void wr(int c, struct tc_file *f, const void *p, size_t len, uint64_t off)
{
    struct buf *b = buf_copy(p, (uint32_t)len);

    tc_write(cl[c], f, b, 0, len, off, false, false, on_write, NULL);
    buf_unref(b);
    CHECK(wait() == 0 && res.len == len);
}

static void rd(int c, struct tc_file *f, void *p, size_t len, uint64_t off, size_t want)
{
    res.data = p;
    tc_read(cl[c], f, off, len, on_read, NULL);
    CHECK(wait() == 0);
    CHECK(res.len == want);
}

static void sync_file(int c, struct tc_file *f)
{
    tc_fsync(cl[c], f, on_status, NULL);
    CHECK(wait() == 0);
}

static uint64_t size_of(int c, uint64_t ino)
{
    tc_getattr(cl[c], ino, on_entry, NULL);
    CHECK(wait() == 0);
    return res.entry.attr.size;
}

static void trunc_to(int c, uint64_t ino, uint64_t size)
{
    struct setattr_req set = {.ino = ino, .mask = SET_SIZE, .size = size};

    tc_setattr(cl[c], &set, on_entry, NULL);
    CHECK(wait() == 0);
    CHECK(res.entry.attr.size == size);
}

static double now_s(void)
{
    return (double)env_now(env) / 1e9;
}

/* ---- scenes ----------------------------------------------------------------------------------------------------- */

static uint8_t big[8 << 20], got[8 << 20];

static void names(uint64_t root)
{
    uint64_t d = mk(0, root, "d", S_IFDIR | 0755), f = mk(0, d, "f", S_IFREG | 0644);

    CHECK(lookup(1, root, "d") == d);
    CHECK(lookup(1, d, "f") == f);
    CHECK(lookup(1, d, "none") == 0 && res.status == -TC_E_NOENT);
    mk(0, d, "none", S_IFREG | 0644);
    CHECK(lookup(1, d, "none") != 0); /* the negative entry was recalled */
    tc_rename(cl[1], d, "f", root, "g", 0, on_status, NULL);
    CHECK(wait() == 0);
    CHECK(lookup(0, d, "f") == 0);
    CHECK(lookup(0, root, "g") == f);
    tc_link(cl[0], f, d, "h", on_entry, NULL);
    CHECK(wait() == 0 && res.entry.attr.nlink == 2);
    tc_getattr(cl[1], f, on_entry, NULL);
    CHECK(wait() == 0 && res.entry.attr.nlink == 2);
    tc_unlink(cl[1], d, "h", false, on_status, NULL);
    CHECK(wait() == 0);
    tc_getattr(cl[0], f, on_entry, NULL);
    CHECK(wait() == 0 && res.entry.attr.nlink == 1);
    tc_make(cl[0], d, "s", S_IFLNK | 0777, 0, "../g", &cred, true, false, on_entry, NULL);
    CHECK(wait() == 0);
    res.data = got;
    tc_readlink(cl[1], res.entry.ino, on_bytes, NULL);
    CHECK(wait() == 0 && res.len == 4 && !memcmp(got, "../g", 4));
    tc_unlink(cl[0], root, "d", true, on_status, NULL);
    CHECK(wait() == -TC_E_NOTEMPTY);
    tc_setxattr(cl[0], f, "user.a", "xyz", 3, 0, on_status, NULL);
    CHECK(wait() == 0);
    tc_getxattr(cl[1], f, "user.a", on_bytes, NULL);
    CHECK(wait() == 0 && res.len == 3);
    tc_readdir(cl[0], d, 0, 100, true, on_readdir, NULL);
    CHECK(wait() == 0 && res.n == 4 && res.eof);
    puts("names: ok");
}

static void data(uint64_t root)
{
    uint64_t ino = mk(0, root, "data", S_IFREG | 0644);
    struct tc_file *a = tc_file_new(cl[0], ino, TC_OPEN_READ | TC_OPEN_WRITE), *b;

    wr(0, a, "hello", 5, 0);
    CHECK(size_of(1, ino) == 5); /* asks the holder */
    b = op(1, ino, TC_OPEN_READ | TC_OPEN_WRITE);
    rd(1, b, got, 100, 0, 5); /* recalls X */
    CHECK(!memcmp(got, "hello", 5));
    wr(1, b, "J", 1, 0); /* moves X, merges */
    rd(0, a, got, 100, 0, 5);
    CHECK(!memcmp(got, "Jello", 5));
    wr(0, a, "world", 5, 4094);
    rd(1, b, got, 8192, 0, 4099);
    CHECK(!memcmp(got, "Jello\0\0", 7) && !memcmp(got + 4094, "world", 5));
    trunc_to(0, ino, 4095);
    trunc_to(1, ino, 9000);
    rd(0, a, got, 16384, 0, 9000);
    CHECK(got[4094] == 'w' && got[4095] == 0 && got[8999] == 0);
    wr(0, a, big, 1 << 20, 100);
    wr(0, a, big, sizeof(big), 1 << 20);
    sync_file(0, a);
    rd(1, b, got, 4 << 20, 0, 4 << 20);
    CHECK(!memcmp(got, "Jello", 5) && !memcmp(got + (1 << 20), big, 3 << 20));
    CHECK(!memcmp(got + 100, big, (1 << 20) - 100));
    tc_fallocate(cl[1], b, TC_FALLOC_PUNCH | TC_FALLOC_KEEP_SIZE, 5000, 2 << 20, on_status, NULL);
    CHECK(wait() == 0);
    rd(0, a, got, 3 << 20, 0, 3 << 20);
    CHECK(!memcmp(got + 100, big, 4900) && got[5000] == 0 && got[5000 + (2 << 20) - 1] == 0 && got[5000 + (2 << 20)] == big[5000 + (1 << 20)]);
    tc_seek(cl[0], a, 0, true, on_seek, NULL);
    CHECK(wait() == 0 && res.off == 8192);
    tc_seek(cl[0], a, 8192, false, on_seek, NULL);
    if (wait() != 0 || res.off != ((5000 + (2 << 20)) & ~4095))
        printf("data sought from 8192: status %d, at %lld\n", res.status, (long long)res.off);
    CHECK(res.status == 0 && res.off == ((5000 + (2 << 20)) & ~4095));
    for (int k = 0; k < 50; k++) { /* leases to and fro */
        struct tc_file *f = k % 2 ? a : b;
        uint8_t v = (uint8_t)k;

        wr(k % 2 ? 0 : 1, f, &v, 1, 77);
        rd(k % 2, k % 2 ? b : a, got, 1, 77, 1);
        CHECK(got[0] == k);
    }
    tc_unlink(cl[0], root, "data", false, on_status, NULL);
    CHECK(wait() == 0);
    rd(1, b, got, 10, 0, 10); /* open, so still there */
    tc_release(cl[0], a);
    tc_release(cl[1], b);
    puts("data: ok");
}

/* Flags of open, sizes without blocks, mappings, suid, calls that are called off. */
static void misc(uint64_t root)
{
    uint64_t ino = mk(0, root, "misc", S_IFREG | 06777);
    struct tc_file *a = tc_file_new(cl[0], ino, TC_OPEN_READ | TC_OPEN_WRITE | TC_OPEN_SYNC), *b, *p;
    struct setattr_req set = {.ino = ino, .mask = SET_MTIME | SET_ATIME, .mtime = 1600000000987654321, .atime = 1500000000000000001};
    struct buf *data = buf_copy(big, 10000);
    struct tc_call *call;

    tc_write(cl[0], a, data, 0, 10000, 0, false, true, on_write, NULL);
    CHECK(wait() == 0 && res.len == 10000);
    tc_getattr(cl[1], ino, on_entry, NULL);
    CHECK(wait() == 0 && (res.entry.attr.mode & 07777) == 0755 && res.entry.attr.size == 10000);
    tc_setattr(cl[0], &set, on_entry, NULL);
    CHECK(wait() == 0 && res.entry.attr.mtime == set.mtime);
    tc_getattr(cl[1], ino, on_entry, NULL);
    CHECK(wait() == 0 && res.entry.attr.mtime == set.mtime && res.entry.attr.atime == set.atime);
    tc_fallocate(cl[0], a, TC_FALLOC, 5000, 20000, on_status, NULL);
    CHECK(wait() == 0);
    sync_file(0, a);
    CHECK(size_of(1, ino) == 25000);
    p = op(1, ino, TC_OPEN_WRITE | TC_OPEN_APPEND);
    tc_write(cl[1], p, data, 0, 100, 3, false, false, on_write, NULL);
    CHECK(wait() == 0 && res.off == 25000);
    tc_write_mapped(cl[0], ino, data, 4096, 4096, 8192, on_write, NULL);
    CHECK(wait() == 0);
    sync_file(0, a); /* a mapping's page gets its lease when it can: msync waits for it */
    b = op(1, ino, TC_OPEN_READ);
    rd(1, b, got, 30000, 0, 25100);
    CHECK(!memcmp(got, big, 8192) && !memcmp(got + 8192, big + 4096, 4096) && got[12288] == 0 && !memcmp(got + 25000, big, 100));
    call = tc_fsync(cl[1], p, on_status, NULL);
    tc_client_cancel(cl[1], call);
    (void)wait();
    call = tc_lookup(cl[1], root, "not there", on_entry, NULL);
    tc_client_cancel(cl[1], call);
    CHECK(wait() == -TC_E_CANCELLED);
    tc_release(cl[1], b);
    b = op(1, ino, TC_OPEN_WRITE | TC_OPEN_TRUNC);
    CHECK(res.entry.attr.size == 0);
    CHECK(size_of(0, ino) == 0);
    tc_seek(cl[0], a, 0, false, on_seek, NULL);
    CHECK(wait() == -TC_E_NXIO);
    buf_unref(data);
    tc_release(cl[0], a);
    tc_release(cl[1], b);
    tc_release(cl[1], p);
    puts("misc: ok");
}

/* Random writes, truncates and reads of both clients against a model. */
static void random_data(uint64_t root, unsigned n)
{
    enum { MAX_SIZE = 3 << 20 };
    static uint8_t model[MAX_SIZE];
    uint64_t ino = mk(0, root, "random", S_IFREG | 0644), size = 0;
    struct tc_file *f[2] = {tc_file_new(cl[0], ino, 3), op(1, ino, 3)};

    for (unsigned k = 0; k < n; k++) {
        int c = (int)(random() % 8 == 0);
        uint64_t off = (uint64_t)random() % (random() % 2 ? 20000 : MAX_SIZE - 200000);
        size_t len = (size_t)random() % (random() % 3 ? 5000 : 200000) + 1;
        size_t want;

        switch (random() % 10) {
        case 0:
            if (off < size)
                memset(model + off, 0, size - off);
            size = off;
            trunc_to(c, ino, off);
            break;
        case 1:
            sync_file(c, f[c]);
            break;
        case 2:
            tc_fallocate(cl[c], f[c], TC_FALLOC_PUNCH | TC_FALLOC_KEEP_SIZE, off, len, on_status, NULL);
            CHECK(wait() == 0);
            if (off < size)
                memset(model + off, 0, MIN(len, size - off));
            break;
        case 3:
        case 4:
        case 5:
            want = off >= size ? 0 : (size_t)MIN(len, size - off);
            rd(c, f[c], got, len, off, want);
            if (memcmp(got, model + off, want)) {
                for (size_t b = 0; b < want; b++) {
                    if (got[b] != model[off + b]) {
                        fprintf(stderr, "step %u client %d: byte %lu is %02x, not %02x (size %lu)\n", k, c,
                                (unsigned long)(off + b), got[b], model[off + b], (unsigned long)size);
                        exit(1);
                    }
                }
            }
            break;
        default:
            for (size_t b = 0; b < len; b++)
                model[off + b] = (uint8_t)random();
            wr(c, f[c], model + off, len, off);
            size = MAX(size, off + len);
        }
        if (random() % 50 == 0)
            CHECK(size_of(c, ino) == size);
        if (random() % 400 == 0)
            pause_ms(1500);
    }
    tc_release(cl[0], f[0]);
    tc_release(cl[1], f[1]);
    puts("random data: ok");
}

static void speed(uint64_t root)
{
    uint64_t d = mk(0, root, "speed", S_IFDIR | 0755), ino;
    struct tc_file *f;
    double t = now_s();
    char name[32];

    for (int k = 0; k < 500; k++) {
        snprintf(name, sizeof name, "f%d", k);
        CHECK(lookup(0, d, name) == 0);
        ino = mk(0, d, name, S_IFREG | 0644);
        f = tc_file_new(cl[0], ino, 3);
        wr(0, f, big, 3000, 0);
        tc_release(cl[0], f);
    }
    printf("create+write: %.0f us each\n", (now_s() - t) / 500 * 1e6);
    t = now_s();
    for (int k = 0; k < 500; k++) {
        snprintf(name, sizeof name, "f%d", k);
        CHECK(lookup(0, d, name) != 0);
    }
    printf("lookup, cached: %.1f us each\n", (now_s() - t) / 500 * 1e6);
    pause_ms(2500); /* X is given back: S remains */
    t = now_s();
    for (int k = 0; k < 500; k++) {
        snprintf(name, sizeof name, "f%d", k);
        CHECK(lookup(0, d, name) != 0 && res.entry.attr.size == 3000);
    }
    printf("lookup, after X: %.1f us each\n", (now_s() - t) / 500 * 1e6);
    ino = mk(0, d, "big", S_IFREG | 0644);
    f = tc_file_new(cl[0], ino, 3);
    t = now_s();
    for (int k = 0; k < 64; k++)
        wr(0, f, big, 1 << 20, (uint64_t)k << 20);
    sync_file(0, f);
    printf("write 64 MiB + fsync: %.0f MB/s\n", 64 * 1.048576 / (now_s() - t));
    t = now_s();
    for (int k = 0; k < 512; k++)
        rd(0, f, got, 128 << 10, (uint64_t)k << 17, 128 << 10);
    printf("read 64 MiB in 128 KiB: %.0f MB/s\n", 64 * 1.048576 / (now_s() - t));
    t = now_s();
    for (int k = 0; k < 200; k++) {
        wr(0, f, big, 4096, (uint64_t)(random() % 16384) * 4096);
        sync_file(0, f);
    }
    printf("4 KiB write + fsync: %.0f us each\n", (now_s() - t) / 200 * 1e6);
    tc_release(cl[0], f);
    t = now_s();
    for (int k = 0; k < 500; k++) {
        snprintf(name, sizeof name, "f%d", k);
        tc_unlink(cl[0], d, name, false, on_status, NULL);
        CHECK(wait() == 0);
    }
    printf("unlink: %.0f us each\n", (now_s() - t) / 500 * 1e6);
}

int main(int argc, char **argv)
{
    struct tc_client_config cfg = {.members = (const char *const *)(argv + 2), .n_members = (unsigned)(argc - 2),
                                   .name = "driver", .wait_ms = 30000};
    uint64_t root;
    char *stats;

    if (argc < 3) {
        fprintf(stderr, "usage: client-driver SEED ENDPOINT...\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    srandom((unsigned)atoi(argv[1]));
    for (size_t k = 0; k < sizeof(big); k++)
        big[k] = (uint8_t)random();
    if (os_env_new(NULL, &env) < 0)
        return 1;
    for (int k = 0; k < 2; k++) {
        CHECK(tc_client_open(env, &cfg, on_status, NULL, &cl[k]) == 0);
        CHECK(wait() == 0);
    }
    root = tc_client_root(cl[0]);
    names(root);
    data(root);
    misc(root);
    random_data(root, 1500);
    speed(root);
    for (int k = 0; k < 2; k++) {
        stats = tc_client_stats(cl[k]);
        puts(stats);
        free(stats);
        tc_client_shutdown(cl[k], 10000, on_status, NULL);
        CHECK(wait() == 0);
        tc_client_free(cl[k]);
    }
    os_env_free(env);
    puts("ok");
    return 0;
}
