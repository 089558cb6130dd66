/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small things of common: buffers are counted and compared rightly, POSIX files do what vfs.h
 * promises, log lines stay one line each.
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/log.h"
#include "common/vfs_tree.h"

static int freed;

static void count_free(struct buf *b)
{
    freed++;
    free(b->data);
}

START_TEST(buf_counts_references)
{
    struct buf *b = buf_wrap(strdup("abc"), 3, count_free, NULL);

    freed = 0;
    ck_assert_ptr_eq(buf_ref(b), b);
    ck_assert_ptr_null(buf_unref(b));
    ck_assert_int_eq(freed, 0);
    buf_unref(b);
    ck_assert_int_eq(freed, 1);
    ck_assert_ptr_null(buf_unref(NULL));
}
END_TEST

START_TEST(slices_compare_as_bytes)
{
    ck_assert_int_lt(slice_cmp(slice_of("ab", 2), slice_of("abc", 3)), 0);
    ck_assert_int_gt(slice_cmp(slice_of("\xff", 1), slice_of("a", 1)), 0);
    ck_assert_int_eq(slice_cmp(slice_of(NULL, 0), slice_of("", 0)), 0);
}
END_TEST

static int collect(void *arg, const char *name)
{
    strcat(arg, name);
    strcat(arg, " ");
    return 0;
}

/* Open, write by many pieces, read over the end, punch, lock twice, list in order. */
/* Past the page cache: what was just written is read, and what is in memory is known to be there. */
START_TEST(posix_direct)
{
    struct vfs *v = vfs_posix();
    char dir[] = "/tmp/tc-common-XXXXXX", path[64];
    struct buf *out = buf_new(BUF_ALIGNED_MIN), *in = buf_new(BUF_ALIGNED_MIN);
    struct vfs_file *f, *past;

    for (uint32_t i = 0; i < out->cap; i++)
        out->data[i] = (uint8_t)(i * 7 + i / 256);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/f", dir);
    ck_assert_int_eq(vfs_open(v, path, VFS_RDWR | VFS_CREATE, &f), 0);
    ck_assert_int_eq(vfs_pwrite(f, out->data, out->cap, 0), 0);
    ck_assert(vfs_cached(f, 0, out->cap));
    ck_assert(!vfs_cached(f, 0, out->cap + (1u << 20)));
    ck_assert_int_eq(vfs_open(v, path, VFS_DIRECT, &past), 0);
    ck_assert_uint_eq((uintptr_t)in->data % DISK_ALIGN, 0);
    ck_assert_int_eq(vfs_pread(past, in->data, in->cap, 0), in->cap);
    ck_assert_mem_eq(in->data, out->data, in->cap);
    ck_assert_int_eq(vfs_pread(past, in->data, 2 * DISK_ALIGN, DISK_ALIGN), 2 * DISK_ALIGN);
    ck_assert_mem_eq(in->data, out->data + DISK_ALIGN, 2 * DISK_ALIGN);
    vfs_close(past);
    vfs_close(f);
    ck_assert_int_eq(vfs_unlink(v, path), 0);
    ck_assert_int_eq(vfs_rmdir(v, dir), 0);
    buf_unref(out);
    buf_unref(in);
}
END_TEST

START_TEST(posix_files)
{
    struct vfs *v = vfs_posix();
    char dir[] = "/tmp/tc-common-XXXXXX", path[64], path2[64], names[64] = "", got[256];
    struct vfs_file *f, *lock, *lock2;
    struct iovec iov[100];
    uint64_t size, total, space;

    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/b", dir);
    ck_assert_int_eq(vfs_open(v, path, VFS_RDWR, &f), -TC_E_NOENT);
    ck_assert_int_eq(vfs_open(v, path, VFS_RDWR | VFS_CREATE | VFS_EXCL, &f), 0);
    for (int i = 0; i < 100; i++)
        iov[i] = (struct iovec){(void *)(uintptr_t)"xy", 2};
    ck_assert_int_eq(vfs_pwritev(f, iov, 100, 10), 0);
    ck_assert_int_eq(vfs_size(f, &size), 0);
    ck_assert_uint_eq(size, 210);
    ck_assert_int_eq(vfs_pread(f, got, sizeof got, 0), 210);
    ck_assert_mem_eq(got + 208, "xy", 2);
    ck_assert_int_eq(vfs_punch(f, 0, 210), 0);
    ck_assert_int_eq(vfs_pread(f, got, 4, 100), 4);
    ck_assert_mem_eq(got, "\0\0\0\0", 4);
    ck_assert_int_eq(vfs_sync(f), 0);
    vfs_close(f);
    ck_assert_int_eq(vfs_open(v, path, VFS_RDWR | VFS_CREATE | VFS_EXCL, &f), -TC_E_EXIST);

    snprintf(path2, sizeof path2, "%s/a", dir);
    ck_assert_int_eq(vfs_lock(v, path2, &lock), 0);
    ck_assert_int_eq(vfs_lock(v, path2, &lock2), -TC_E_LOCKED_DIR);
    vfs_close(lock);
    ck_assert_int_eq(vfs_list(v, dir, collect, names), 0);
    ck_assert_str_eq(names, "a b ");
    ck_assert_int_eq(vfs_mkdir(v, dir), 0);
    ck_assert_int_eq(vfs_mkdir(v, path), -TC_E_EXIST);
    ck_assert_int_eq(vfs_space(v, dir, &total, &space), 0);
    ck_assert_uint_gt(total, 0);
    ck_assert_int_eq(vfs_unlink(v, path), 0);
    ck_assert_int_eq(vfs_unlink(v, path2), 0);
    ck_assert_int_eq(vfs_sync_dir(v, dir), 0);
    ck_assert_int_eq(vfs_rmdir(v, dir), 0);
}
END_TEST

static char sunk[256];

static void sink(void *arg TC_UNUSED, const char *line)
{
    snprintf(sunk, sizeof sunk, "%s", line);
}

START_TEST(numbered_names)
{
    static const char *const others[] = {"kv", "kv-", "kv1", "kv-1x", "kv-x", "kv-+1", "kv- 1", "kv--1", "log-1", "kv-1-1", ""};
    uint64_t n = 7;

    ck_assert(vfs_name_numbered("kv-0", "kv", &n) && n == 0);
    ck_assert(vfs_name_numbered("kv-12345678901", "kv", &n) && n == 12345678901);
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        ck_assert_msg(!vfs_name_numbered(others[i], "kv", &n), "%s", others[i]);
}
END_TEST

START_TEST(log_lines)
{
    log_set_sink(sink, NULL);
    LOG_INFO("test", "plain");
    ck_assert_str_eq(sunk, "level=info mod=test msg=\"plain\"");
    LOG_WARN("test", "with keys", "path=%s n=%d", "a\nb", 3);
    ck_assert_str_eq(sunk, "level=warn mod=test msg=\"with keys\" path=a?b n=3");
    log_set_sink(NULL, NULL);
}
END_TEST

/* A flood from one site is cut to a few lines a second, and says so. */
START_TEST(log_floods_are_cut)
{
    int fds[2];
    char out[65536];
    ssize_t n;
    int lines = 0;

    ck_assert_int_eq(pipe(fds), 0);
    log_setup(LOG_LEVEL_INFO, fds[1]);
    for (int i = 0; i < 500; i++)
        LOG_INFO("test", "flood");
    log_setup(LOG_LEVEL_INFO, STDERR_FILENO);
    close(fds[1]);
    n = read(fds[0], out, sizeof out);
    for (ssize_t i = 0; i < n; i++)
        lines += out[i] == '\n';
    ck_assert_int_ge(lines, 20);
    ck_assert_int_le(lines, 41); /* a second may have turned */
    close(fds[0]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("common");
    TCase *tc = tcase_create("common");
    SRunner *sr;

    tcase_add_test(tc, buf_counts_references);
    tcase_add_test(tc, slices_compare_as_bytes);
    tcase_add_test(tc, posix_files);
    tcase_add_test(tc, posix_direct);
    tcase_add_test(tc, numbered_names);
    tcase_add_test(tc, log_lines);
    tcase_add_test(tc, log_floods_are_cut);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    srunner_free(sr);
    return 0;
}
