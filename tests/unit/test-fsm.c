/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata state machine: every operation and its errors, exactly once, leases, epochs,
 * horizons, sessions, the map. Each test runs on the kv in memory.
 */
#include <check.h>
#include <endian.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/kv_impl.h"
#include "common/locks.h"
#include "common/map.h"
#include "meta/placement.h"
#include "unit/fsm-world.h"

static struct world w;

static void setup(void)
{
    w.cookie_mask = 0;
    world_open(&w, false);
    world_format(&w, 2);
}

static void teardown(void)
{
    world_close(&w);
}

/* A new file of w.session with X. */
static uint64_t file_x(const char *name)
{
    ck_assert_int_eq(w_make(&w, INO_ROOT, name, S_IFREG | 0644, LEASE_X), 0);
    return w.entry.attr.ino;
}

static int release(uint64_t ino, uint64_t size, enum data_state state)
{
    return w_commit(&w, (struct commit_item){.ino = ino,
                                             .has_size = true,
                                             .size = size,
                                             .mtime = w.now,
                                             .vseq = 1,
                                             .action = COMMIT_RELEASE,
                                             .data_state = state});
}

/* ---- names ----------------------------------------------------------------------------------- */

START_TEST(test_make)
{
    char longname[300];
    struct attr root;

    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0666, 0), 0);
    ck_assert_uint_eq(w.entry.attr.ino, 2);
    ck_assert_uint_eq(w.entry.attr.mode, S_IFREG | 0644);
    ck_assert_uint_eq(w.entry.attr.nlink, 1);
    ck_assert_uint_eq(w.entry.attr.change, w.index);
    ck_assert_uint_eq(w.entry.dir.size, 1);
    ck_assert_uint_eq(w.entry.attr.data_state, DATA_CLEAN);
    ck_assert(!w.entry.has_grant);
    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0666, 0), -TC_E_EXIST);
    ck_assert_int_eq(w_make(&w, INO_ROOT, "d", S_IFDIR | 0777, 0), 0);
    ck_assert_int_eq(w_make(&w, 3, "l", S_IFLNK, 0), 0);
    ck_assert_int_eq(w_make(&w, 3, "dev", S_IFCHR | 0600, 0), 0);
    ck_assert_int_eq(w_make(&w, 2, "x", S_IFREG, 0), -TC_E_NOTDIR);
    ck_assert_int_eq(w_make(&w, 99, "x", S_IFREG, 0), -TC_E_STALE);
    ck_assert_int_eq(w_make(&w, 3, "", S_IFREG, 0), -TC_E_INVAL);
    ck_assert_int_eq(w_make(&w, 3, "a/b", S_IFREG, 0), -TC_E_INVAL);
    ck_assert_int_eq(w_make(&w, 3, "..", S_IFDIR, 0), -TC_E_INVAL);
    ck_assert_int_eq(w_make(&w, 3, "x", 0644, 0), -TC_E_INVAL);
    memset(longname, 'x', 256);
    longname[256] = 0;
    ck_assert_int_eq(w_make(&w, 3, longname, S_IFREG, 0), -TC_E_NAMETOOLONG);
    longname[255] = 0;
    ck_assert_int_eq(w_make(&w, 3, longname, S_IFREG, 0), 0);
    root = w_attr(&w, INO_ROOT);
    ck_assert_uint_eq(root.nlink, 3);
    ck_assert_uint_eq(root.size, 2);
    ck_assert_uint_eq(w_find(&w, "d/l"), 4);
}
END_TEST

START_TEST(test_make_existing)
{
    struct make_req req = {
        .parent = INO_ROOT, .name = wire_str_of("f"), .mode = S_IFREG | 0644, .want = LEASE_X};
    uint64_t ino = file_x("f");

    req.ctx = world_ctx(&w);
    ck_assert_int_eq(world_apply(&w, MSG_MAKE, &make_req_schema, &req), 0);
    ck_assert(w.entry.existed && !w.entry.has_grant);
    ck_assert_uint_eq(w.entry.attr.ino, ino);
    ck_assert_uint_eq(w.entry.attr.flags & ATTR_HELD, 0);
    w.session = 2;
    req.ctx = world_ctx(&w);
    ck_assert_int_eq(world_apply(&w, MSG_MAKE, &make_req_schema, &req), 0);
    ck_assert(w.entry.attr.flags & ATTR_HELD);
}
END_TEST

START_TEST(test_setgid_directory)
{
    ck_assert_int_eq(w_make(&w, INO_ROOT, "d", S_IFDIR | S_ISGID | 0777, 0), 0);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 2, .mask = SET_GID, .gid = 77}), 0);
    ck_assert_uint_eq(w.entry.attr.mode, S_IFDIR | S_ISGID | 0755);
    ck_assert_int_eq(w_make(&w, 2, "f", S_IFREG | 0644, 0), 0);
    ck_assert_uint_eq(w.entry.attr.gid, 77);
    ck_assert_uint_eq(w.entry.attr.mode & S_ISGID, 0);
    ck_assert_int_eq(w_make(&w, 2, "s", S_IFDIR | 0755, 0), 0);
    ck_assert_uint_eq(w.entry.attr.mode, S_IFDIR | S_ISGID | 0755);
}
END_TEST

START_TEST(test_link_unlink)
{
    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0644, 0), 0);
    ck_assert_int_eq(w_make(&w, INO_ROOT, "d", S_IFDIR | 0755, 0), 0);
    ck_assert_int_eq(w_link(&w, 2, 3, "g"), 0);
    ck_assert_uint_eq(w.entry.attr.nlink, 2);
    ck_assert_int_eq(w_link(&w, 2, 3, "g"), -TC_E_EXIST);
    ck_assert_int_eq(w_link(&w, 3, INO_ROOT, "h"), -TC_E_PERM);
    ck_assert_int_eq(w_link(&w, 99, INO_ROOT, "h"), -TC_E_STALE);
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "d", false), -TC_E_ISDIR);
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "f", true), -TC_E_NOTDIR);
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "d", true), -TC_E_NOTEMPTY);
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "none", false), -TC_E_NOENT);
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "f", false), 0);
    ck_assert_uint_eq(w.entry.replaced.nlink, 1);
    ck_assert_ptr_null(world_effect(&w, FSM_ORPHANED));
    ck_assert_int_eq(w_unlink(&w, 3, "g", false), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_ORPHANED)->ino, 2);
    ck_assert_int_eq(w_link(&w, 2, 3, "again"), -TC_E_NOENT);
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "d", true), 0);
    ck_assert_uint_eq(w.entry.dir.nlink, 2);
    ck_assert_int_eq(w_make(&w, 3, "x", S_IFREG, 0), -TC_E_NOENT);
    ck_assert_uint_eq(w_attr(&w, INO_ROOT).size, 0);
}
END_TEST

START_TEST(test_rename)
{
    ck_assert_int_eq(w_make(&w, INO_ROOT, "a", S_IFDIR | 0755, 0), 0); /* 2 */
    ck_assert_int_eq(w_make(&w, 2, "b", S_IFDIR | 0755, 0), 0);        /* 3 */
    ck_assert_int_eq(w_make(&w, 3, "c", S_IFDIR | 0755, 0), 0);        /* 4 */
    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0644, 0), 0); /* 5 */
    ck_assert_int_eq(w_make(&w, INO_ROOT, "g", S_IFREG | 0644, 0), 0); /* 6 */
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "a", 4, "x", 0), -TC_E_INVAL);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "a", 2, "x", 0), -TC_E_INVAL);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "none", 2, "x", 0), -TC_E_NOENT);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "f", INO_ROOT, "g", 1), -TC_E_EXIST);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "f", INO_ROOT, "a", 0), -TC_E_ISDIR);
    ck_assert_int_eq(w_rename(&w, 3, "c", INO_ROOT, "f", 0), -TC_E_NOTDIR);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "f", INO_ROOT, "none", 2), -TC_E_NOENT);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "f", INO_ROOT, "g", 3), -TC_E_INVAL);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "f", INO_ROOT, "g", 0), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_ORPHANED)->ino, 6);
    ck_assert_uint_eq(w.entry.replaced.nlink, 0);
    ck_assert_uint_eq(w.entry.dir.size, 2);
    ck_assert_uint_eq(w_find(&w, "g"), 5);
    ck_assert_uint_eq(w_find(&w, "f"), 0);
    ck_assert_int_eq(w_rename(&w, 3, "c", INO_ROOT, "c", 0), 0); /* a directory moves */
    ck_assert_uint_eq(w.entry.dir2.nlink, 4);
    ck_assert_uint_eq(w.entry.dir.nlink, 2);
    ck_assert_uint_eq(w_attr(&w, 4).parent, INO_ROOT);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "c", INO_ROOT, "a", 0), -TC_E_NOTEMPTY);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "g", 2, "b", 2),
                     0); /* exchange of a file and a directory */
    ck_assert_uint_eq(w_find(&w, "g"), 3);
    ck_assert_uint_eq(w_find(&w, "a/b"), 5);
    ck_assert_uint_eq(w_attr(&w, 2).nlink, 2);
    ck_assert_uint_eq(w_attr(&w, INO_ROOT).nlink, 5);
    ck_assert_uint_eq(w_attr(&w, 3).parent, INO_ROOT);
    ck_assert_int_eq(w_link(&w, 5, 2, "b2"), 0);
    ck_assert_int_eq(w_rename(&w, 2, "b", 2, "b2", 0), 0); /* the same inode: nothing happens */
    ck_assert_uint_eq(w_find(&w, "a/b"), 5);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "g", INO_ROOT, "c", 0),
                     0); /* an empty directory is replaced */
    ck_assert_uint_eq(w_attr(&w, INO_ROOT).nlink, 4);
    ck_assert_uint_eq(w_attr(&w, 4).nlink, 0);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "c", 4, "x", 0), -TC_E_NOENT);
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "a", INO_ROOT, "a", 0), 0);
}
END_TEST

START_TEST(test_rename_exchange_loop)
{
    ck_assert_int_eq(w_make(&w, INO_ROOT, "a", S_IFDIR | 0755, 0), 0); /* 2 */
    ck_assert_int_eq(w_make(&w, 2, "b", S_IFDIR | 0755, 0), 0);        /* 3 */
    ck_assert_int_eq(w_make(&w, 3, "c", S_IFDIR | 0755, 0), 0);        /* 4 */
    ck_assert_int_eq(w_rename(&w, INO_ROOT, "a", 3, "c", 2), -TC_E_INVAL);
    ck_assert_int_eq(w_rename(&w, 3, "c", INO_ROOT, "a", 2), -TC_E_INVAL);
    ck_assert_int_eq(w_rename(&w, 3, "c", INO_ROOT, "a", 0), -TC_E_NOTEMPTY);
}
END_TEST

START_TEST(test_lookup)
{
    struct attr attr, dir;
    uint64_t ino = file_x("f");

    ck_assert_int_eq(fsm_lookup(w.f, 1, INO_ROOT, wire_str_of("f"), &w.a, &attr, &dir), 0);
    ck_assert_uint_eq(attr.ino, ino);
    ck_assert_uint_eq(attr.flags, 0);
    ck_assert_uint_eq(dir.change, w.index);
    ck_assert_int_eq(fsm_lookup(w.f, 2, INO_ROOT, wire_str_of("f"), &w.a, &attr, NULL), 0);
    ck_assert_uint_eq(attr.flags, ATTR_HELD);
    dir.ino = 0;
    ck_assert_int_eq(fsm_lookup(w.f, 1, INO_ROOT, wire_str_of("g"), &w.a, &attr, &dir),
                     -TC_E_NOENT);
    ck_assert_uint_eq(dir.ino, INO_ROOT);
    ck_assert_int_eq(fsm_lookup(w.f, 1, ino, wire_str_of("g"), &w.a, &attr, NULL), -TC_E_NOTDIR);
    ck_assert_int_eq(fsm_lookup(w.f, 1, 99, wire_str_of("g"), &w.a, &attr, NULL), -TC_E_STALE);
    ck_assert_int_eq(fsm_lookup(w.f, 1, INO_ROOT, wire_str_of("a/b"), &w.a, &attr, NULL),
                     -TC_E_INVAL);
}
END_TEST

static void list(uint64_t ino, uint32_t max, bool plus, char *out, size_t size)
{
    uint64_t cookie = 0;
    struct readdir_res res;

    out[0] = 0;
    do {
        ck_assert_int_eq(fsm_readdir(w.f, 1, ino, cookie, max, 0, plus, &w.a, &res), 0);
        for (uint32_t i = 0; i < res.entries.n; i++) {
            ck_assert_uint_gt(res.entries.items[i].cookie, cookie);
            cookie = res.entries.items[i].cookie;
            snprintf(out + strlen(out), size - strlen(out), "%.*s ",
                     (int)res.entries.items[i].name.n, res.entries.items[i].name.p);
        }
    } while (!res.eof);
}

static struct kv_ops counting;
static const struct kv_ops *counted;
static uint64_t dir_last, dir_reads;

static int counting_get(struct kv *kv, struct slice key, struct kv_value *ret)
{
    uint64_t ino;

    if (key.len == 9 && ((const char *)key.data)[0] == 'i') {
        memcpy(&ino, (const char *)key.data + 1, 8);
        dir_reads += be64toh(ino) <= dir_last;
    }
    return counted->get(kv, key, ret);
}

/* Names all over a tree bigger than the cache, whose directories are more than half of it: they stay. */
START_TEST(test_lookup_keeps_directories)
{
    enum { DIRS = 10000, LOOKUPS = 60000 };
    uint64_t *dirs = tc_calloc(DIRS, sizeof *dirs), x = 1;

    for (int i = 0; i < DIRS; i++) {
        char name[16];

        snprintf(name, sizeof name, "d%d", i);
        ck_assert_int_eq(w_make(&w, INO_ROOT, name, S_IFDIR | 0755, 0), 0);
        dir_last = dirs[i] = w.entry.attr.ino;
    }
    for (int i = 0; i < DIRS; i++) {
        ck_assert_int_eq(w_make(&w, dirs[i], "a", S_IFREG | 0644, 0), 0);
        ck_assert_int_eq(w_make(&w, dirs[i], "b", S_IFREG | 0644, 0), 0);
    }
    world_reopen(&w);
    counted = w.kv->ops;
    counting = *counted;
    counting.get = counting_get;
    w.kv->ops = &counting;
    for (int i = 0; i < LOOKUPS; i++) {
        struct attr attr, dir;

        if (i == LOOKUPS / 2)
            dir_reads = 0; /* warm */
        x = x * 6364136223846793005u + 1442695040888963407u;
        wire_arena_reset(&w.a);
        ck_assert_int_eq(fsm_lookup(w.f, 1, dirs[(x >> 33) % DIRS], wire_str_of(x >> 63 ? "a" : "b"), &w.a, &attr, &dir), 0);
    }
    w.kv->ops = counted;
    ck_assert_uint_lt(dir_reads, LOOKUPS / 2 / 10);
    free(dirs);
}
END_TEST

START_TEST(test_readdir)
{
    char all[4096], paged[4096], name[16];
    struct readdir_res res;

    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "name%d", i);
        ck_assert_int_eq(w_make(&w, INO_ROOT, name, S_IFREG | 0644, i == 7 ? LEASE_X : 0), 0);
    }
    list(INO_ROOT, 1000, false, all, sizeof(all));
    list(INO_ROOT, 7, true, paged, sizeof(paged));
    ck_assert_str_eq(all, paged);
    ck_assert_int_eq(fsm_readdir(w.f, 2, INO_ROOT, 0, 1000, 0, true, &w.a, &res), 0);
    ck_assert_uint_eq(res.entries.n, 100);
    ck_assert(res.eof);
    ck_assert_uint_eq(res.parent, INO_ROOT);
    for (uint32_t i = 0; i < 100; i++) /* what another holds in X comes without attributes */
        ck_assert_int_eq(
            res.entries.items[i].has_attr,
            strncmp(res.entries.items[i].name.p, "name7", res.entries.items[i].name.n) != 0);
    ck_assert_int_eq(fsm_readdir(w.f, 2, 2, 0, 10, 0, false, &w.a, &res), -TC_E_NOTDIR);
    ck_assert_int_eq(fsm_readdir(w.f, 2, 999, 0, 10, 0, false, &w.a, &res), -TC_E_STALE);
}
END_TEST

/* With one bit of hash nearly all names collide: slots are pushed, removed, found again; pages stay
 * exact. */
START_TEST(test_cookie_collisions)
{
    bool have[40] = {false};
    uint64_t cookies[40] = {0}, seed = 7;
    char name[16];

    fsm_test_cookie_mask(w.f, 1);
    for (int step = 0; step < 600; step++) {
        struct readdir_res res;
        uint32_t i, n = 0;

        seed = seed * 6364136223846793005u + 1442695040888963407u;
        i = (uint32_t)(seed >> 33) % 40;
        snprintf(name, sizeof(name), "n%u", i);
        if (have[i] && (seed >> 60) < 4) {
            char to[16];
            uint32_t j = (uint32_t)(seed >> 45) % 40;

            snprintf(to, sizeof(to), "n%u", j);
            ck_assert_int_eq(w_rename(&w, INO_ROOT, name, INO_ROOT, to, 0), 0);
            if (i != j) {
                have[i] = false;
                cookies[i] = 0;
            }
            if (i != j && !have[j])
                cookies[j] = 0;
            have[j] = true;
        } else {
            ck_assert_int_eq(have[i] ? w_unlink(&w, INO_ROOT, name, false)
                                     : w_make(&w, INO_ROOT, name, S_IFREG, 0),
                             0);
            have[i] = !have[i];
            cookies[i] = 0;
        }
        ck_assert_int_eq(fsm_readdir(w.f, 1, INO_ROOT, 0, 100, 0, false, &w.a, &res), 0);
        for (uint32_t k = 0; k < 40; k++)
            n += have[k];
        ck_assert_uint_eq(res.entries.n, n);
        ck_assert_uint_eq(res.dir.size, n);
        for (uint32_t k = 0; k < n; k++) {
            uint32_t id, mode;
            uint64_t ino;

            snprintf(name, sizeof(name), "%.*s", (int)res.entries.items[k].name.n,
                     res.entries.items[k].name.p);
            id = (uint32_t)atoi(name + 1);
            ck_assert(have[id]);
            ck_assert(cookies[id] == 0 ||
                      cookies[id] == res.entries.items[k].cookie); /* never moves */
            cookies[id] = res.entries.items[k].cookie;
            ck_assert_int_eq(fsm_dentry(w.f, INO_ROOT, res.entries.items[k].name, &ino, &mode), 0);
            ck_assert_uint_eq(ino, res.entries.items[k].ino);
        }
    }
}
END_TEST

START_TEST(test_symlink)
{
    struct make_req req = {
        .parent = INO_ROOT, .name = wire_str_of("l"), .mode = S_IFLNK | 0777, .excl = true};
    struct wire_bin target;
    char big[4097];

    ck_assert_int_eq(w_make(&w, INO_ROOT, "s", S_IFLNK, 0), 0);
    ck_assert_uint_eq(w.entry.attr.size, 8);
    ck_assert_int_eq(fsm_readlink(w.f, 2, &w.a, &target), 0);
    ck_assert_int_eq(memcmp(target.p, "to/there", target.n), 0);
    ck_assert_int_eq(fsm_readlink(w.f, INO_ROOT, &w.a, &target), -TC_E_INVAL);
    memset(big, 'x', sizeof(big));
    req.ctx = world_ctx(&w);
    req.target = (struct wire_str){big, 4096};
    ck_assert_int_eq(world_apply(&w, MSG_MAKE, &make_req_schema, &req), -TC_E_NAMETOOLONG);
    req.ctx = world_ctx(&w);
    req.target.n = 4095;
    ck_assert_int_eq(world_apply(&w, MSG_MAKE, &make_req_schema, &req), 0);
    req.ctx = world_ctx(&w);
    req.target.n = 0;
    ck_assert_int_eq(world_apply(&w, MSG_MAKE, &make_req_schema, &req), -TC_E_INVAL);
}
END_TEST

/* ---- attributes ------------------------------------------------------------------------------ */

START_TEST(test_setattr)
{
    struct attr before;

    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 06755, 0), 0);
    before = w_attr(&w, 2);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 2, .mask = SET_UID, .uid = 5}), 0);
    ck_assert_uint_eq(w.entry.attr.mode, S_IFREG | 0755); /* given away: no suid, no sgid */
    ck_assert_uint_eq(w.entry.attr.uid, 5);
    ck_assert_uint_gt(w.entry.attr.ctime, before.ctime);
    ck_assert_uint_eq(w.entry.attr.mtime, before.mtime);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 2, .mask = SET_MODE, .mode = 06744}),
                     0);
    ck_assert_uint_eq(w.entry.attr.mode, S_IFREG | 06744);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 2, .mask = SET_KILL_PRIV}), 0);
    ck_assert_uint_eq(w.entry.attr.mode,
                      S_IFREG | S_ISGID |
                          0744); /* not executable for the group: a mandatory lock bit */
    ck_assert_int_eq(
        w_setattr(
            &w,
            (struct setattr_req){.ino = 2, .mask = SET_ATIME | SET_MTIME, .atime = 7, .mtime = 8}),
        0);
    ck_assert_uint_eq(w.entry.attr.atime, 7);
    ck_assert_uint_eq(w.entry.attr.mtime, 8);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 2, .mask = SET_MTIME_NOW}), 0);
    ck_assert_uint_eq(w.entry.attr.mtime, fsm_clock(w.f));
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 99, .mask = SET_UID}), -TC_E_STALE);
    ck_assert_int_eq(w_truncate(&w, INO_ROOT, 0, 0), -TC_E_ISDIR);
    ck_assert_int_eq(w_truncate(&w, 2, FSM_SIZE_MAX + 1, 0), -TC_E_FBIG);
    ck_assert_int_eq(w_make(&w, INO_ROOT, "p", S_IFIFO | 0644, 0), 0);
    ck_assert_int_eq(w_truncate(&w, 3, 0, 0), -TC_E_INVAL);
    ck_assert_uint_eq(w_attr(&w, 2).change, w.index - 5);
}
END_TEST

START_TEST(test_clock_never_falls)
{
    uint64_t high;

    w.now += 1000000;
    ck_assert_int_eq(w_make(&w, INO_ROOT, "a", S_IFREG, 0), 0);
    high = w.entry.attr.mtime;
    w.now -= 500000;
    ck_assert_int_eq(w_make(&w, INO_ROOT, "b", S_IFREG, 0), 0);
    ck_assert_uint_eq(w.entry.attr.mtime, high);
}
END_TEST

START_TEST(test_truncate_horizon)
{
    uint64_t ino = file_x("f");
    struct gc_item gc[8];

    ck_assert_int_eq(
        w_commit(&w,
                 (struct commit_item){
                     .ino = ino, .has_size = true, .size = 1 << 20, .vseq = 9, .blocks = 256}),
        0);
    ck_assert_int_eq(w_truncate(&w, ino, 4096, 0), 0);
    ck_assert_uint_eq(w.entry.attr.epoch, 2);
    ck_assert_uint_eq(w.entry.attr.size, 4096);
    ck_assert_uint_eq(w.entry.attr.blocks, 1);
    ck_assert_uint_eq(w.entry.attr.horizons.n, 1);
    ck_assert_uint_eq(w.entry.attr.horizons.items[0].size, 4096);
    ck_assert_uint_eq(w.entry.attr.horizons.items[0].epoch, 2);
    ck_assert_uint_eq(w.entry.grant.epoch, 2);
    ck_assert_uint_eq(world_effect(&w, FSM_X_EPOCH)->epoch, 2);
    ck_assert_uint_eq(fsm_gc(w.f, 0, gc, 8), 1);
    ck_assert_uint_eq(gc[0].size, 4096);
    ck_assert_uint_eq(gc[0].epoch, 2);
    /* Growing needs no entry, unless the holder had been larger than it says now. */
    ck_assert_int_eq(w_truncate(&w, ino, 8192, 0), 0);
    ck_assert_uint_eq(w.entry.attr.horizons.n, 1);
    ck_assert_uint_eq(w.entry.attr.epoch, 3);
    ck_assert_int_eq(w_truncate(&w, ino, 16384, 1 << 20), 0);
    ck_assert_uint_eq(w.entry.attr.horizons.n, 2);
    /* A smaller one covers those at or above it. */
    ck_assert_int_eq(w_truncate(&w, ino, 0, 0), 0);
    ck_assert_uint_eq(w.entry.attr.horizons.n, 1);
    ck_assert_uint_eq(w.entry.attr.horizons.items[0].size, 0);
    for (uint64_t i = 1; i < 16; i++)
        ck_assert_int_eq(w_truncate(&w, ino, i, 1000), 0);
    ck_assert_uint_eq(w.entry.attr.horizons.n, 16);
    ck_assert_int_eq(w_truncate(&w, ino, 16, 1000), -TC_E_LIMIT);
    ck_assert_int_eq(
        w_commit(&w, (struct commit_item){.ino = ino,
                                          .rewritten = w_attr(&w, ino).horizons.items[3].epoch}),
        0);
    ck_assert_int_eq(w_truncate(&w, ino, 16, 1000), 0);
    ck_assert_uint_eq(w.entry.attr.horizons.n, 16);
}
END_TEST

START_TEST(test_truncate_takes_x)
{
    uint64_t ino = file_x("f");

    ck_assert_int_eq(release(ino, 100000, DATA_CLEAN), 0);
    w.session = 2;
    ck_assert_int_eq(w_truncate(&w, ino, 10, 0), 0);
    ck_assert_uint_eq(w.entry.grant.epoch, 2);
    ck_assert_uint_eq(w.entry.attr.horizons.items[0].epoch, 2);
    ck_assert(w.entry.grant.was_clean);
    ck_assert_uint_eq(world_effect(&w, FSM_X_GRANTED)->session, 2);
    w.session = 1;
    ck_assert_int_eq(w_truncate(&w, ino, 5, 0), -TC_E_LEASE_CONFLICT);
    ck_assert_int_eq(
        w_setattr(&w, (struct setattr_req){.ino = ino, .mask = SET_MODE, .mode = 0600}),
        -TC_E_LEASE_CONFLICT);
    ck_assert_int_eq(w_setxattr(&w, ino, "user.a", "1", 1, 0), -TC_E_LEASE_CONFLICT);
    ck_assert_int_eq(w_truncate(&w, ino, UINT64_C(1) << 40, 0), -TC_E_LEASE_CONFLICT);
    w.session = 2;
    ck_assert_int_eq(w_truncate(&w, ino, UINT64_C(1) << 40, 0), 0);
    ck_assert_uint_eq(w.entry.grant.reach, UINT64_C(1) << 40);
}
END_TEST

START_TEST(test_xattrs)
{
    static char big[FSM_XATTR_VALUE_MAX + 1];
    char name[300];
    struct wire_bin v;
    int i;

    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0644, 0), 0);
    ck_assert_int_eq(w_setxattr(&w, 2, "user.a", "one", 3, 2), -TC_E_NODATA);
    ck_assert_int_eq(w_setxattr(&w, 2, "user.a", "one", 3, 1), 0);
    ck_assert_int_eq(w_setxattr(&w, 2, "user.a", "two", 3, 1), -TC_E_EXIST);
    ck_assert_int_eq(w_setxattr(&w, 2, "user.b", "", 0, 0), 0);
    ck_assert_uint_eq(w.entry.attr.xattrs, 2);
    ck_assert_int_eq(fsm_getxattr(w.f, 2, wire_str_of("user.a"), &w.a, &v), 0);
    ck_assert_int_eq(memcmp(v.p, "one", v.n), 0);
    ck_assert_int_eq(fsm_getxattr(w.f, 2, wire_str_of("user.b"), &w.a, &v), 0);
    ck_assert_uint_eq(v.n, 0);
    ck_assert_int_eq(fsm_getxattr(w.f, 2, wire_str_of("user.c"), &w.a, &v), -TC_E_NODATA);
    ck_assert_int_eq(fsm_listxattr(w.f, 2, &w.a, &v), 0);
    ck_assert_uint_eq(v.n, 14);
    ck_assert_int_eq(memcmp(v.p, "user.a\0user.b", 14), 0);
    ck_assert_int_eq(w_removexattr(&w, 2, "user.a"), 0);
    ck_assert_int_eq(w_removexattr(&w, 2, "user.a"), -TC_E_NODATA);
    ck_assert_int_eq(w_setxattr(&w, 2, "user.big", big, sizeof(big), 0), -TC_E_RANGE);
    memset(name, 'n', 256);
    name[256] = 0;
    ck_assert_int_eq(w_setxattr(&w, 2, name, "", 0, 0), -TC_E_RANGE);
    ck_assert_int_eq(w_setxattr(&w, 2, "", "", 0, 0), -TC_E_INVAL);
    for (i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "user.big%d", i);
        if (w_setxattr(&w, 2, name, big, FSM_XATTR_VALUE_MAX, 0) < 0)
            break;
    }
    ck_assert_int_eq(w.res.status, -TC_E_NOSPC);
    ck_assert_int_eq(i, 15);
}
END_TEST

START_TEST(test_acl)
{
    /* owner rwx, user 7 rw-, group r-x, mask rwx, others r-- */
    static const uint8_t acl[] = {2, 0, 0,   0,   1,   0,   7,  0, 255, 255, 255, 255, 2,   0,  6,
                                  0, 7, 0,   0,   0,   4,   0,  5, 0,   255, 255, 255, 255, 16, 0,
                                  7, 0, 255, 255, 255, 255, 32, 0, 4,   0,   255, 255, 255, 255};
    static const uint8_t plain[] = {2, 0, 0,   0,   1,   0,   6,  0, 255, 255, 255, 255, 4,   0,
                                    4, 0, 255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255};
    struct wire_bin v;

    ck_assert_int_eq(w_make(&w, INO_ROOT, "d", S_IFDIR | 0700, 0), 0);
    ck_assert_int_eq(w_setxattr(&w, 2, "system.posix_acl_default", acl, sizeof(acl), 0), 0);
    ck_assert_int_eq(w_setxattr(&w, 2, "system.posix_acl_default", acl, sizeof(acl) - 1, 0),
                     -TC_E_INVAL);
    ck_assert_int_eq(w_make(&w, 2, "f", S_IFREG | 0666, 0), 0); /* umask does not count */
    ck_assert_uint_eq(w.entry.attr.mode, S_IFREG | 0664);
    ck_assert_uint_eq(w.entry.attr.xattrs, 1);
    ck_assert_int_eq(w_make(&w, 2, "s", S_IFDIR | 0777, 0), 0);
    ck_assert_uint_eq(w.entry.attr.mode, S_IFDIR | 0774);
    ck_assert_uint_eq(w.entry.attr.xattrs, 2);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 3, .mask = SET_MODE, .mode = 0640}),
                     0);
    ck_assert_int_eq(fsm_getxattr(w.f, 3, wire_str_of("system.posix_acl_access"), &w.a, &v), 0);
    ck_assert_uint_eq(v.p[30], 4); /* the mask follows the group bits */
    ck_assert_int_eq(w_setxattr(&w, 3, "system.posix_acl_access", plain, sizeof(plain), 0), 0);
    ck_assert_uint_eq(w.entry.attr.mode, S_IFREG | 0640);
    ck_assert_uint_eq(w.entry.attr.xattrs, 0);
    ck_assert_int_eq(w_setxattr(&w, 3, "system.posix_acl_default", acl, sizeof(acl), 0),
                     -TC_E_ACCES);
}
END_TEST

START_TEST(test_capability)
{
    struct wire_bin v;

    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0755, 0), 0);
    ck_assert_int_eq(w_setxattr(&w, 2, "security.capability", "cap", 3, 0), 0);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 2, .mask = SET_MODE, .mode = 0700}),
                     0);
    ck_assert_int_eq(fsm_getxattr(w.f, 2, wire_str_of("security.capability"), &w.a, &v), 0);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 2, .mask = SET_KILL_PRIV}), 0);
    ck_assert_int_eq(fsm_getxattr(w.f, 2, wire_str_of("security.capability"), &w.a, &v),
                     -TC_E_NODATA);
    ck_assert_uint_eq(w.entry.attr.xattrs, 0);
    ck_assert_int_eq(w_make(&w, INO_ROOT, "l", S_IFLNK, 0), 0);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = 3, .mask = SET_MODE}),
                     -TC_E_OPNOTSUPP);
}
END_TEST

/* What the switches of the simulator turn off is what the rules do. */
START_TEST(test_rules_off)
{
    uint64_t ino, epoch;

    fsm_test_rules_off(w.f, FSM_RULE_ONCE | FSM_RULE_EPOCH | FSM_RULE_FENCE | FSM_RULE_HORIZON);
    ino = file_x("f");
    ck_assert_int_eq(world_again(&w), -TC_E_EXIST); /* applied twice */
    ck_assert_int_eq(release(ino, 100, DATA_SETTLED), 0);
    ck_assert_int_eq(w_get_x(&w, ino), 0);
    ck_assert_uint_eq(w.entry.grant.epoch, 1);
    ck_assert_int_eq(w_truncate(&w, ino, 5, 50), 0);
    ck_assert_uint_eq(w.entry.attr.horizons.n, 0);
    epoch = fsm_map_epoch(w.f);
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch);
}
END_TEST

/* ---- exactly once ---------------------------------------------------------------------------- */

/* A copy of a request that comes when its client has finished it must not be applied again. */
static void late_copy(bool off)
{
    struct make_req make = {.parent = INO_ROOT, .name = wire_str_of("f"), .mode = S_IFREG | 0644};
    struct unlink_req unlink = {.parent = INO_ROOT, .name = wire_str_of("f")};

    fsm_test_rules_off(w.f, off ? FSM_RULE_WATERMARK : 0);
    make.ctx = (struct req_ctx){.session = 1, .incarnation = 1, .seq = w.seq + 1, .watermark = w.seq};
    ck_assert_int_eq(world_apply(&w, MSG_MAKE, &make_req_schema, &make), 0);
    unlink.ctx = (struct req_ctx){.session = 1, .incarnation = 1, .seq = w.seq + 2, .watermark = w.seq + 1};
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &unlink), 0);
    w.seq += 2;
    /* the copy of the MAKE: the file stays away */
    ck_assert_int_eq(world_apply(&w, MSG_MAKE, &make_req_schema, &make), -TC_E_DUPLICATE);
}

START_TEST(test_late_copy)
{
    late_copy(false);
}
END_TEST

START_TEST(test_late_copy_without_the_rule) /* an assertion notices */
{
    late_copy(true);
}
END_TEST

START_TEST(test_once)
{
    struct unlink_req req = {.parent = INO_ROOT, .name = wire_str_of("f")};
    struct fsm_result kept = {0};
    struct buf *first;
    uint64_t hash;

    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0644, 0), 0);
    first = buf_ref(w.res.body);
    ck_assert_int_eq(world_again(&w), 0);
    ck_assert(w.res.duplicate && w.res.n_effects == 0);
    ck_assert_uint_eq(w.res.body->len, first->len);
    ck_assert_int_eq(memcmp(w.res.body->data, first->data, first->len), 0);
    ck_assert_int_eq(fsm_known(w.f, 1, w.seq, &kept), FSM_KEPT);
    ck_assert_int_eq(memcmp(kept.body->data, first->data, first->len), 0);
    fsm_result_fini(&kept);
    buf_unref(first);
    /* A failure is kept, too. */
    ck_assert_int_eq(w_make(&w, INO_ROOT, "f", S_IFREG | 0644, 0), -TC_E_EXIST);
    req.ctx = (struct req_ctx){.session = 1, .incarnation = 1, .seq = 50, .watermark = w.seq - 1};
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &req), 0);
    req.ctx.seq = w.seq;
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &req), -TC_E_EXIST);
    ck_assert(w.res.duplicate);
    /* At or below the watermark; past the window; unknown. */
    req.ctx.seq = 60;
    req.ctx.watermark = 50;
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &req), -TC_E_NOENT);
    req.ctx.seq = 50;
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &req), -TC_E_DUPLICATE);
    ck_assert(w.res.ignored);
    req.ctx.seq = 51 + FSM_SEQ_WINDOW;
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &req), -TC_E_BACKPRESSURE);
    ck_assert(w.res.ignored);
    req.ctx.session = 77;
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &req), -TC_E_SESSION_UNKNOWN);
    ck_assert_int_eq(fsm_known(w.f, 1, 50, NULL), FSM_FINISHED);
    ck_assert_int_eq(fsm_known(w.f, 1, 60, NULL), FSM_KEPT);
    ck_assert_int_eq(fsm_known(w.f, 1, 61, NULL), FSM_NEW);
    ck_assert_int_eq(fsm_known(w.f, 1, 1000, NULL), FSM_BEYOND);
    ck_assert_int_eq(fsm_known(w.f, 77, 1, NULL), FSM_NO_SESSION);
    hash = fsm_state_hash(w.f);
    world_reopen(&w);
    ck_assert_uint_eq(fsm_state_hash(w.f), hash);
    ck_assert_int_eq(fsm_known(w.f, 1, 50, NULL), FSM_FINISHED);
    ck_assert_int_eq(fsm_known(w.f, 1, 60, NULL), FSM_KEPT);
    ck_assert_int_eq(fsm_known(w.f, 1, 61, NULL), FSM_NEW);
}
END_TEST

START_TEST(test_malformed)
{
    struct session_close_req ctx = {.ctx = {.session = 1, .incarnation = 1, .seq = 9}};
    struct command cmd = {.type = MSG_MAKE, .time = w.now, .term = 1};
    struct buf *b = wire_encode(&session_close_req_schema, &ctx), *entry;

    cmd.body = (struct wire_bin){b->data, b->len};
    entry = wire_encode(&command_schema, &cmd);
    ck_assert_int_eq(world_apply_bytes(&w, slice_of(entry->data, entry->len)), -TC_E_BAD_MESSAGE);
    ck_assert_int_eq(fsm_known(w.f, 1, 9, NULL), FSM_KEPT);
    ck_assert_int_eq(world_apply_bytes(&w, slice_of("\xc1", 1)), -TC_E_BAD_MESSAGE);
    ck_assert_int_eq(world_apply_bytes(&w, slice_of("", 0)), 0);
    buf_unref(entry);
    cmd = (struct command){.type = 249, .time = w.now};
    entry = wire_encode(&command_schema, &cmd);
    ck_assert_int_eq(world_apply_bytes(&w, slice_of(entry->data, entry->len)), -TC_E_BAD_MESSAGE);
    buf_unref(entry);
    buf_unref(b);
}
END_TEST

/* ---- sessions -------------------------------------------------------------------------------- */

START_TEST(test_session_open)
{
    struct session_open_req req = {
        .nonce = 5, .client = wire_str_of("h"), .root = wire_str_of("/a//b/")};
    struct fsm_session s;
    struct buf *first;

    ck_assert_int_eq(world_apply(&w, MSG_SESSION_OPEN, &session_open_req_schema, &req),
                     -TC_E_NOENT);
    ck_assert_int_eq(w_make(&w, INO_ROOT, "a", S_IFDIR | 0755, 0), 0);
    ck_assert_int_eq(w_make(&w, 2, "b", S_IFDIR | 0755, 0), 0);
    ck_assert_int_eq(w_make(&w, 3, "f", S_IFREG | 0755, 0), 0);
    ck_assert_int_eq(world_apply(&w, MSG_SESSION_OPEN, &session_open_req_schema, &req), 0);
    ck_assert_uint_eq(w.res.session, 3);
    first = buf_ref(w.res.body);
    ck_assert(fsm_session(w.f, 3, &s));
    ck_assert_uint_eq(s.root, 3);
    ck_assert_str_eq(s.client, "h");
    ck_assert_int_eq(w_unlink(&w, 3, "f", false), 0);
    ck_assert_int_eq(world_apply(&w, MSG_SESSION_OPEN, &session_open_req_schema, &req), 0);
    ck_assert(w.res.duplicate);
    ck_assert_int_eq(memcmp(w.res.body->data, first->data, first->len), 0);
    buf_unref(first);
    ck_assert(fsm_session_next(w.f, 1, &s) && s.id == 2);
    ck_assert(fsm_session_next(w.f, 2, &s) && s.id == 3);
    ck_assert(!fsm_session_next(w.f, 3, &s));
    req.nonce = 6;
    req.previous = 3;
    ck_assert_int_eq(world_apply(&w, MSG_SESSION_OPEN, &session_open_req_schema, &req), 0);
    ck_assert(!fsm_session_live(w.f, 3) && fsm_session_live(w.f, 4));
    req.nonce = 5;
    ck_assert_int_eq(world_apply(&w, MSG_SESSION_OPEN, &session_open_req_schema, &req),
                     -TC_E_SESSION_EXPIRED);
}
END_TEST

static struct map *map_now(struct map *m)
{
    struct cluster_map msg;

    if (!m)
        m = map_new();
    fsm_map(w.f, m->epoch, &w.a, &msg);
    ck_assert_int_eq(map_apply(m, &msg), 0);
    ck_assert_uint_eq(m->epoch, fsm_map_epoch(w.f));
    return m;
}

START_TEST(test_session_end)
{
    struct session_close_req close = {.ctx = {.session = 2, .incarnation = 1, .seq = 1}};
    struct dead_session d = {.session = 1};
    struct cmd_sessions forget = {.sessions = {&d, 1}};
    struct map *m = map_now(NULL);
    struct fsm_session s;
    uint64_t epoch = fsm_map_epoch(w.f), ino = file_x("f");

    /* Closing with nothing held moves nothing in the map. */
    ck_assert_int_eq(world_apply(&w, MSG_SESSION_CLOSE, &session_close_req_schema, &close), 0);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch);
    ck_assert(!fsm_session_live(w.f, 2));
    ck_assert_int_eq(world_again(&w), 0);
    ck_assert(w.res.duplicate);
    ck_assert_uint_eq(world_session(&w), 3);
    ck_assert(fsm_session(w.f, 1, &s) && s.n_x == 1);
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch + 1);
    ck_assert_uint_eq(world_effect(&w, FSM_MAP_CHANGED)->epoch, epoch + 1);
    ck_assert_uint_eq(world_effect(&w, FSM_SESSION_ENDED)->session, 1);
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch + 1);
    m = map_now(m);
    ck_assert(map_session_dead(m, 1, 1) && map_session_dead(m, 2, 1) && !map_session_dead(m, 3, 1));
    ck_assert_uint_eq(m->dead_below, 3);
    ck_assert_int_eq(w_make(&w, INO_ROOT, "g", S_IFREG, 0), -TC_E_SESSION_EXPIRED);
    ck_assert_int_eq(fsm_fate(w.f, 1, 1, NULL), FSM_KEPT);
    ck_assert_int_eq(fsm_known(w.f, 1, 2, NULL), FSM_ENDED);
    world_reopen(&w);
    ck_assert_int_eq(fsm_fate(w.f, 1, 1, NULL), FSM_KEPT);
    ck_assert_int_eq(world_apply(&w, CMD_SESSION_FORGET, &cmd_sessions_schema, &forget), 0);
    ck_assert_int_eq(fsm_fate(w.f, 1, 1, NULL), FSM_NO_SESSION);
    ck_assert(w_attr(&w, ino).data_state ==
              DATA_UNSIZED); /* still its X, of a session nobody knows */
    map_free(m);
}
END_TEST

/* ---- leases ---------------------------------------------------------------------------------- */

START_TEST(test_get_x)
{
    uint64_t ino = file_x("f");
    uint64_t inos[4];
    struct fsm_lease l;

    ck_assert_uint_eq(w.entry.grant.epoch, 1);
    ck_assert_uint_eq(w.entry.grant.gcount, w.index);
    ck_assert_uint_eq(w.entry.grant.gterm, 1);
    ck_assert_uint_eq(w.entry.grant.reach, FSM_REACH_MIN);
    ck_assert(w.entry.grant.was_clean);
    ck_assert_uint_eq(w.entry.grant.barrier, fsm_map_epoch(w.f));
    ck_assert_uint_eq(fsm_leases_of(w.f, 1, 0, inos, 4), 1);
    w.session = 2;
    ck_assert_int_eq(w_get_x(&w, ino), -TC_E_LEASE_CONFLICT);
    w.session = 1;
    ck_assert_int_eq(release(ino, UINT64_C(50) << 20, DATA_CLEAN), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_X_ENDED)->ino, ino);
    ck_assert_uint_eq(fsm_leases_of(w.f, 1, 0, inos, 4), 0);
    ck_assert(!fsm_lease(w.f, ino, &l));
    ck_assert_int_eq(w_attr(&w, ino).data_state, DATA_CLEAN);
    w.session = 2;
    ck_assert_int_eq(w_get_x(&w, ino), 0);
    ck_assert_uint_eq(w.entry.grant.epoch, 2);
    ck_assert_uint_eq(w.entry.grant.reach, UINT64_C(100) << 20);
    ck_assert(w.entry.grant.was_clean);
    ck_assert_int_eq(w_get_x(&w, ino), 0); /* once more: a new grant, a new epoch */
    ck_assert_uint_eq(w.entry.grant.epoch, 3);
    ck_assert(!w.entry.grant.was_clean);
    ck_assert_int_eq(release(ino, 0, DATA_CLEAN), 0); /* which may not be claimed now */
    ck_assert_int_eq(w_attr(&w, ino).data_state, DATA_SETTLED);
    ck_assert_uint_eq(w_attr(&w, ino).size, UINT64_C(50) << 20);
    ck_assert_int_eq(w_get_x(&w, INO_ROOT), -TC_E_ISDIR);
    ck_assert_int_eq(w_get_x(&w, 999), -TC_E_STALE);
}
END_TEST

START_TEST(test_commit)
{
    uint64_t ino = file_x("f");
    struct fsm_lease l;
    struct attr attr;

    ck_assert(fsm_lease(w.f, ino, &l));
    ck_assert_int_eq(w_commit(&w, (struct commit_item){.ino = ino,
                                                       .has_size = true,
                                                       .size = 5000,
                                                       .mtime = w.now - 10,
                                                       .vseq = 3,
                                                       .blocks = 2}),
                     0);
    attr = w_attr(&w, ino);
    ck_assert_uint_eq(attr.size, 5000);
    ck_assert_uint_eq(attr.mtime, w.now - 1010);
    ck_assert_uint_eq(attr.blocks, 2);
    /* mtime never past the leader's clock; size within the reach */
    ck_assert_int_eq(
        w_commit(&w,
                 (struct commit_item){
                     .ino = ino, .has_size = true, .size = 5000, .mtime = UINT64_MAX, .vseq = 4}),
        0);
    ck_assert_uint_eq(w_attr(&w, ino).mtime, fsm_clock(w.f));
    ck_assert_int_eq(
        w_commit(&w, (struct commit_item){.ino = ino, .has_size = true, .size = FSM_REACH_MIN + 1}),
        -TC_E_INVAL);
    ck_assert_int_eq(w_commit(&w, (struct commit_item){.ino = ino, .reach = 1 << 28}), 0);
    ck_assert_int_eq(
        w_commit(&w, (struct commit_item){.ino = ino, .has_size = true, .size = FSM_REACH_MIN + 1}),
        0);
    /* explicit times are not moved by writes ordered before them */
    ck_assert_int_eq(
        w_setattr(&w, (struct setattr_req){.ino = ino, .mask = SET_MTIME, .mtime = 77, .vseq = 10}),
        0);
    ck_assert_int_eq(
        w_commit(&w,
                 (struct commit_item){
                     .ino = ino, .has_size = true, .size = 1, .mtime = w.now, .vseq = 10}),
        0);
    ck_assert_uint_eq(w_attr(&w, ino).mtime, 77);
    ck_assert_int_eq(
        w_commit(&w,
                 (struct commit_item){
                     .ino = ino, .has_size = true, .size = 1, .mtime = w.now - 5, .vseq = 11}),
        0);
    ck_assert_uint_gt(w_attr(&w, ino).mtime, 77);
    /* not under another grant, epoch, session */
    ck_assert_int_eq(
        w_commit(
            &w, (struct commit_item){.ino = ino, .epoch = 9, .gterm = l.gterm, .gcount = l.gcount}),
        -TC_E_LEASE_LOST);
    ck_assert_int_eq(
        w_commit(
            &w,
            (struct commit_item){.ino = ino, .epoch = 1, .gterm = l.gterm, .gcount = l.gcount + 1}),
        -TC_E_LEASE_LOST);
    w.session = 2;
    ck_assert_int_eq(w_commit(&w, (struct commit_item){.ino = ino}), -TC_E_LEASE_LOST);
    w.session = 1;
    ck_assert_int_eq(w_commit(&w, (struct commit_item){.ino = ino,
                                                       .action = COMMIT_DOWNGRADE,
                                                       .data_state = DATA_SETTLED,
                                                       .recall = 4}),
                     0);
    ck_assert_uint_eq(world_effect(&w, FSM_X_ENDED)->keep, LEASE_S);
    ck_assert_uint_eq(world_effect(&w, FSM_X_ENDED)->gcount, l.gcount);
    ck_assert_uint_eq(world_effect(&w, FSM_X_ENDED)->gcount2, w.index);
    ck_assert_uint_eq(world_effect(&w, FSM_X_ENDED)->recall, 4);
    ck_assert_int_eq(w_attr(&w, ino).data_state, DATA_SETTLED);
    ck_assert_int_eq(
        w_commit(
            &w, (struct commit_item){.ino = ino, .epoch = 1, .gterm = l.gterm, .gcount = l.gcount}),
        -TC_E_LEASE_LOST);
}
END_TEST

/* The leader ends what its holder disowns: without a number, so once is what the grant's id makes it. */
START_TEST(test_disowned)
{
    uint64_t ino = file_x("f");
    struct fsm_lease l;
    struct commit_item it = {
        .ino = ino, .action = COMMIT_RELEASE, .data_state = DATA_SETTLED, .epoch = 1, .gterm = 1};
    struct commit_req req = {.ctx = {.session = 1}, .items = {&it, 1}};
    struct unlink_req other = {
        .ctx = {.session = 1}, .parent = INO_ROOT, .name = wire_str_of("f")};

    ck_assert(fsm_lease(w.f, ino, &l));
    it.gcount = l.gcount;
    ck_assert_int_eq(world_apply(&w, MSG_COMMIT, &commit_req_schema, &req), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_X_ENDED)->ino, ino);
    ck_assert(!fsm_lease(w.f, ino, &l));
    ck_assert_int_eq(world_again(&w), 0);
    ck_assert_ptr_null(world_effect(&w, FSM_X_ENDED));
    ck_assert_int_eq(world_apply(&w, MSG_UNLINK, &unlink_req_schema, &other), -TC_E_DUPLICATE);
    ck_assert(w.res.ignored);
}
END_TEST

static struct lock_res lock_answer;

static int w_lock(uint64_t session, uint64_t ino, struct lock_item it, bool test)
{
    struct lock_req req = {.ino = ino, .lock = it, .test = test};
    int r;

    w.session = session;
    w.seq += 100;
    req.ctx = world_ctx(&w);
    r = world_apply(&w, MSG_LOCK, &lock_req_schema, &req);
    lock_answer = (struct lock_res){0};
    if (r == 0)
        ck_assert_int_eq(wire_decode(slice_of(w.res.body->data, w.res.body->len), &lock_res_schema, &w.a, &lock_answer), 0);
    return r;
}

static int w_lock_end(uint64_t session, uint64_t ino, struct lock_item *items, uint32_t n)
{
    struct lock_end_req req = {.ino = ino, .locks = {items, n}};

    w.session = session;
    w.seq += 100;
    req.ctx = world_ctx(&w);
    return world_apply(&w, MSG_LOCK_END, &lock_end_req_schema, &req);
}

static uint64_t holder_of(uint64_t ino)
{
    struct lock_req req = {.ctx = {.session = 999}, .ino = ino, .lock = {.end = LOCK_END, .type = LOCK_SHARED}};
    struct lock_res res;
    uint64_t whose;

    ck_assert_int_eq(fsm_lock_look(w.f, &req, &res, &whose), 0);
    return res.held ? whose : 0;
}

/* Who locks alone holds L; others get on when it has said what it has; what is of the dead is nobody's. */
START_TEST(test_locks)
{
    struct lock_item excl = {.owner = 7, .end = 9, .pid = 70, .type = LOCK_EXCLUSIVE}, none = {.owner = 7, .end = LOCK_END};
    struct lock_item behind = {.owner = 7, .start = 10, .end = 19, .type = LOCK_EXCLUSIVE}, flock = excl;
    struct lock_res look;
    struct lock_req req = {.ctx = {.session = 2}, .lock = excl};
    uint64_t ino = file_x("f"), whose;

    flock.family = LOCK_FLOCK;
    req.ino = ino;
    ck_assert_int_eq(w_lock(1, 999, excl, false), -TC_E_STALE);
    ck_assert_uint_eq(holder_of(ino), 0);
    ck_assert_int_eq(w_lock(1, ino, excl, true), 0); /* a test leaves nothing */
    ck_assert(!lock_answer.local && !lock_answer.has_other);
    ck_assert_uint_eq(holder_of(ino), 0);
    ck_assert_int_eq(w_lock(1, ino, excl, false), 0);
    ck_assert(lock_answer.local && !lock_answer.has_other);
    ck_assert_uint_eq(holder_of(ino), 1);
    ck_assert_int_eq(world_again(&w), 0); /* the same request */
    ck_assert(w.res.duplicate);
    ck_assert_int_eq(w_lock(2, ino, behind, false), -TC_E_LEASE_CONFLICT);
    ck_assert_int_eq(fsm_lock_look(w.f, &req, &look, &whose), 0);
    ck_assert(look.held && !look.has_other);
    world_reopen(&w);
    ck_assert_uint_eq(holder_of(ino), 1);
    ck_assert_int_eq(w_lock_end(2, ino, &excl, 1), 0); /* not his to end */
    ck_assert_uint_eq(holder_of(ino), 1);
    ck_assert_int_eq(w_lock_end(1, ino, &none, 1), -TC_E_INVAL);
    ck_assert_int_eq(w_lock_end(1, ino, &excl, 1), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_LOCKS_ENDED)->session, 1);
    ck_assert_uint_eq(holder_of(ino), 0);
    ck_assert_int_eq(w_lock(2, ino, excl, false), 0);
    ck_assert(lock_answer.has_other && !lock_answer.local);
    ck_assert_uint_eq(lock_answer.other.pid, 70);
    ck_assert_int_eq(fsm_lock_look(w.f, &req, &look, &whose), 0);
    ck_assert(!look.held && look.has_other);
    ck_assert_uint_eq(whose, 1);
    ck_assert_int_eq(w_lock(2, ino, behind, false), 0);
    ck_assert(!lock_answer.has_other && !lock_answer.local); /* two have some */
    ck_assert_int_eq(w_lock(2, ino, flock, false), 0);       /* another family */
    ck_assert(!lock_answer.has_other);
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert_int_eq(w_lock(2, ino, excl, false), 0);
    ck_assert(lock_answer.local); /* alone now */
    ck_assert_int_eq(w_lock_end(2, ino, NULL, 0), 0);
    ck_assert_int_eq(w_lock(2, ino, excl, true), 0);
    ck_assert(!lock_answer.has_other);
}
END_TEST

static int recovered(uint64_t ino, uint64_t epoch, bool found, uint64_t size)
{
    struct cmd_size_recovered cmd = {
        .ino = ino, .epoch = epoch, .found = found, .size = size, .mtime = w.now, .vseq = 8};

    return world_apply(&w, CMD_SIZE_RECOVERED, &cmd_size_recovered_schema, &cmd);
}

static int reconciled(uint64_t ino, uint64_t epoch)
{
    struct cmd_reconciled cmd = {.ino = ino, .mark_change = epoch};

    return world_apply(&w, CMD_RECONCILED, &cmd_reconciled_schema, &cmd);
}

/* What was committed of a size stays, whatever the stores have recorded. */
START_TEST(test_recovered_size)
{
    uint64_t ino = file_x("f");

    ck_assert_int_eq(
        w_commit(&w, (struct commit_item){.ino = ino, .has_size = true, .size = 5000, .vseq = 1}),
        0);
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert_int_eq(recovered(ino, 1, true, 3000), 0);
    ck_assert_uint_eq(w_attr(&w, ino).size, 5000);
}
END_TEST

START_TEST(test_dead_holder)
{
    uint64_t ino = file_x("f"), inos[4];
    struct fsm_unclean_cursor c = {0};
    struct fsm_lease l;
    struct attr attr;

    ck_assert_uint_eq(fsm_unclean(w.f, &c, inos, 4), 0);
    ck_assert_int_eq(
        w_commit(&w, (struct commit_item){.ino = ino, .has_size = true, .size = 5000, .vseq = 1}),
        0);
    ck_assert_int_eq(recovered(ino, 1, false, 0), -TC_E_STALE_EPOCH); /* its holder lives */
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert(fsm_lease(w.f, ino, &l) && l.dead);
    attr = w_attr(&w, ino);
    ck_assert_int_eq(attr.data_state, DATA_UNSIZED);
    ck_assert(attr.flags & ATTR_HELD);
    ck_assert_uint_eq(attr.reach, FSM_REACH_MIN);
    c = (struct fsm_unclean_cursor){0};
    ck_assert_uint_eq(fsm_unclean(w.f, &c, inos, 4), 1);
    ck_assert_uint_eq(inos[0], ino);
    ck_assert_uint_eq(fsm_unclean(w.f, &c, inos, 4), 0);
    w.session = 2;
    ck_assert_int_eq(w_get_x(&w, ino), -TC_E_LEASE_CONFLICT);
    ck_assert_int_eq(w_truncate(&w, ino, 0, 0), -TC_E_LEASE_CONFLICT);
    ck_assert_int_eq(w_link(&w, ino, INO_ROOT, "g"), 0); /* names are the leader's */
    ck_assert_int_eq(reconciled(ino, 1), 0);             /* no mark yet: nothing to clear */
    ck_assert_int_eq(recovered(ino, 2, true, 99000), -TC_E_STALE_EPOCH);
    ck_assert_int_eq(recovered(ino, 1, true, 9000), 0);
    attr = w_attr(&w, ino);
    ck_assert_uint_eq(attr.size, 9000);
    ck_assert_uint_eq(attr.epoch, 2);
    ck_assert_uint_eq(attr.horizons.n, 1);
    ck_assert_uint_eq(attr.horizons.items[0].size, 9000);
    ck_assert_uint_eq(attr.horizons.items[0].epoch, 2);
    ck_assert_int_eq(attr.data_state, DATA_UNCLEAN);
    ck_assert_uint_eq(attr.unclean_from, 1);
    ck_assert_int_eq(recovered(ino, 1, true, 99000), -TC_E_STALE_EPOCH);
    c = (struct fsm_unclean_cursor){0};
    ck_assert_uint_eq(fsm_unclean(w.f, &c, inos, 4), 1);
    /* X on it is not clean, and cannot become so while the mark is set */
    ck_assert_int_eq(w_get_x(&w, ino), 0);
    ck_assert(!w.entry.grant.was_clean);
    ck_assert_int_eq(release(ino, 9000, DATA_CLEAN), 0);
    ck_assert_int_eq(w_attr(&w, ino).data_state, DATA_UNCLEAN);
    ck_assert_int_eq(reconciled(ino, 2), -TC_E_STALE_EPOCH); /* X was granted since */
    ck_assert_int_eq(reconciled(ino, 3), 0);
    ck_assert_int_eq(w_attr(&w, ino).data_state, DATA_SETTLED);
    c = (struct fsm_unclean_cursor){0};
    ck_assert_uint_eq(fsm_unclean(w.f, &c, inos, 4), 0);
}
END_TEST

/* The mark is of the oldest epoch that ended so: what the first writer left may still be on one store. */
START_TEST(test_oldest_epoch)
{
    uint64_t ino = file_x("f");

    ck_assert_int_eq(release(ino, 100, DATA_UNCLEAN), 0);
    ck_assert_int_eq(recovered(ino, 1, false, 0), 0);
    ck_assert_uint_eq(w_attr(&w, ino).unclean_from, 1);
    w.session = 2;
    ck_assert_int_eq(w_get_x(&w, ino), 0);
    ck_assert_int_eq(release(ino, 200, DATA_UNCLEAN), 0);
    ck_assert_int_eq(recovered(ino, 3, false, 0), 0);
    ck_assert_uint_eq(w_attr(&w, ino).unclean_from, 1);
}
END_TEST

START_TEST(test_gave_up)
{
    uint64_t ino = file_x("f"), other = file_x("g"), epoch = fsm_map_epoch(w.f), inos[4];
    struct fsm_unclean_cursor c = {0};
    struct map *m = map_now(NULL);
    struct fsm_session s;

    ck_assert_int_eq(release(ino, 100, DATA_UNCLEAN), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_SESSION_FENCED)->epoch, 2);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch + 1);
    m = map_now(m);
    ck_assert(map_session_dead(m, 1, 1) && !map_session_dead(m, 1, 2));
    ck_assert(fsm_session(w.f, 1, &s) && s.incarnation == 2 && s.n_x == 1);
    ck_assert_int_eq(w_attr(&w, ino).data_state, DATA_UNSIZED);
    ck_assert_int_eq(w_get_x(&w, ino), -TC_E_LEASE_CONFLICT);
    ck_assert_int_eq(reconciled(ino, 1), -TC_E_STALE_EPOCH);
    ck_assert_int_eq(w_commit(&w, (struct commit_item){.ino = other, .has_size = true, .size = 7}),
                     0); /* goes on */
    world_reopen(&w);
    ck_assert_uint_eq(fsm_unclean(w.f, &c, inos, 4), 1);
    ck_assert_int_eq(recovered(ino, 1, false, 0), 0);
    ck_assert_int_eq(w_get_x(&w, ino), 0);
    ck_assert_uint_eq(w.entry.grant.epoch, 3);
    ck_assert_uint_eq(w.entry.attr.unclean_from, 1);
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert_int_eq(w_expire(&w, 2), 0);
    m = map_now(m);
    ck_assert_uint_eq(m->dead_below, 3);
    ck_assert_uint_eq(m->n_dead, 0);
    map_free(m);
}
END_TEST

/* The number of a file that is gone is nobody else's: late messages name it. */
START_TEST(test_numbers_once)
{
    uint64_t ino = file_x("f");

    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "f", false), 0);
    ck_assert_int_eq(release(ino, 0, DATA_CLEAN), 0);
    ck_assert_int_eq(w_reap(&w, ino), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_REAPED)->ino, ino);
    ck_assert_uint_gt(file_x("g"), ino);
}
END_TEST

START_TEST(test_reap)
{
    uint64_t ino = file_x("f"), used, blocks;
    uint64_t inos[4];
    struct gc_item gc[4];

    ck_assert_int_eq(w_setxattr(&w, ino, "user.a", "1", 1, 0), 0);
    ck_assert_int_eq(
        w_commit(&w, (struct commit_item){.ino = ino, .has_size = true, .size = 5000, .blocks = 2}),
        0);
    fsm_usage(w.f, &used, &blocks);
    ck_assert_uint_eq(used, 2);
    ck_assert_uint_eq(blocks, 2);
    ck_assert_int_eq(w_reap(&w, ino), 0);
    ck_assert_ptr_null(world_effect(&w, FSM_REAPED)); /* it has a name */
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "f", false), 0);
    ck_assert_uint_eq(fsm_orphans(w.f, 0, inos, 4), 1);
    ck_assert_int_eq(w_reap(&w, ino), 0);
    ck_assert_ptr_null(world_effect(&w, FSM_REAPED)); /* X is held */
    ck_assert_int_eq(release(ino, 6000, DATA_CLEAN), 0);
    ck_assert_int_eq(w_reap(&w, ino), 0);
    ck_assert_uint_eq(world_effect(&w, FSM_REAPED)->ino, ino);
    ck_assert_uint_eq(fsm_orphans(w.f, 0, inos, 4), 0);
    ck_assert_uint_eq(fsm_ino_state(w.f, ino), 2);
    ck_assert_uint_eq(fsm_ino_state(w.f, INO_ROOT), 1);
    ck_assert_uint_eq(fsm_ino_state(w.f, 100), 0);
    ck_assert_uint_eq(fsm_gc(w.f, 0, gc, 4), 1);
    ck_assert_uint_eq(gc[0].epoch, UINT64_MAX);
    ck_assert_uint_eq(gc[0].reach, 6000);
    fsm_usage(w.f, &used, &blocks);
    ck_assert_uint_eq(used, 1);
    ck_assert_uint_eq(blocks, 0);
    ck_assert_int_eq(w_setattr(&w, (struct setattr_req){.ino = ino, .mask = SET_UID}), -TC_E_STALE);
    /* of a dead holder: up to all it may have written */
    ino = file_x("g");
    ck_assert_int_eq(w_unlink(&w, INO_ROOT, "g", false), 0);
    ck_assert_int_eq(w_expire(&w, 1), 0);
    ck_assert_int_eq(w_reap(&w, ino), 0);
    ck_assert_uint_eq(fsm_gc(w.f, 1, gc, 4), 1);
    ck_assert_uint_eq(gc[0].reach, FSM_REACH_MIN);
    {
        struct cmd_gc_trim trim = {.upto = 1};
        uint64_t first, last;

        ck_assert_int_eq(world_apply(&w, CMD_GC_TRIM, &cmd_gc_trim_schema, &trim), 0);
        fsm_gc_range(w.f, &first, &last);
        ck_assert_uint_eq(first, 2);
        ck_assert_uint_eq(last, 2);
        ck_assert_uint_eq(fsm_gc(w.f, 0, gc, 4), 1);
    }
}
END_TEST

/* ---- the cluster ----------------------------------------------------------------------------- */

static struct store_register_res do_register(struct store_register_req req, int expect)
{
    struct store_register_res res = {0};

    req.endpoint = wire_str_of("tcp://s:1");
    ck_assert_int_eq(world_apply(&w, CMD_STORE_REGISTER, &store_register_req_schema, &req), expect);
    if (expect == 0)
        ck_assert_int_eq(wire_decode(slice_of(w.res.body->data, w.res.body->len),
                                     &store_register_res_schema, &w.a, &res),
                         0);
    return res;
}

static void make_table(uint64_t *stores)
{
    struct placement_store ps[3] = {
        {.store = stores[0]}, {.store = stores[1]}, {.store = stores[2]}};
    struct cmd_pg_update cmd = {0};
    struct pg_move moves[8];
    uint64_t voters[24], pgs[8];

    ck_assert_int_eq(placement_compute(ps, 3, 3, 8, voters), 0);
    for (uint64_t i = 0; i < 8; i++) {
        pgs[i] = i;
        moves[i] = (struct pg_move){.pgs = {&pgs[i], 1}, .voters = {&voters[3 * i], 3}};
    }
    cmd.moves.items = moves;
    cmd.moves.n = 7;
    ck_assert_int_eq(world_apply(&w, CMD_PG_UPDATE, &cmd_pg_update_schema, &cmd), -TC_E_INVAL);
    ck_assert(!fsm_has_table(w.f));
    cmd.moves.n = 8;
    ck_assert_int_eq(world_apply(&w, CMD_PG_UPDATE, &cmd_pg_update_schema, &cmd), 0);
    ck_assert_ptr_nonnull(world_effect(&w, FSM_PG_TABLE));
}

static void move(uint64_t pg, struct wire_u64s voters, struct wire_u64s next, uint64_t expected)
{
    struct pg_move m = {
        .pgs = {&pg, 1}, .voters = voters, .next = next, .expected = {&expected, expected ? 1 : 0}};
    struct cmd_pg_update cmd = {.moves = {&m, 1}};

    ck_assert_int_eq(world_apply(&w, CMD_PG_UPDATE, &cmd_pg_update_schema, &cmd), 0);
}

START_TEST(test_stores)
{
    uint64_t ids[3] = {101, 102, 103};
    struct map *m = map_now(NULL), *whole = NULL;
    const struct map_pg *pg;
    uint64_t epoch;
    uint32_t n;

    for (uint32_t i = 0; i < 3; i++)
        ck_assert(!do_register(
                       (struct store_register_req){
                           .store = ids[i], .start = 1, .node = i + 1, .empty = true, .run = 9},
                       0)
                       .rolled_back);
    ck_assert_ptr_eq(fsm_stores(w.f, &n), fsm_store(w.f, 101));
    ck_assert_uint_eq(n, 3);
    m = map_now(m);
    make_table(ids);
    m = map_now(m);
    ck_assert_ptr_nonnull(m->pgs);
    /* a restart raises no epoch; an older start is a rollback; so is the same one from another
     * process once it served */
    epoch = fsm_map_epoch(w.f);
    ck_assert(
        !do_register((struct store_register_req){.store = 102, .start = 2, .node = 2, .run = 10}, 0)
             .rolled_back);
    ck_assert(
        !do_register((struct store_register_req){.store = 102, .start = 2, .node = 2, .run = 11}, 0)
             .rolled_back);
    ck_assert(
        do_register((struct store_register_req){.store = 102, .start = 1, .node = 2, .run = 12}, 0)
            .rolled_back);
    ck_assert_int_eq(
        world_apply(&w, CMD_STORE_STATE, &store_info_schema,
                    &(struct store_info){.store = 102, .start = 2, .endpoint = {"", 0}}),
        0);
    ck_assert(fsm_store(w.f, 102)->served);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch); /* nor does that it is up, or down */
    ck_assert(
        !do_register((struct store_register_req){.store = 102, .start = 2, .node = 2, .run = 11}, 0)
             .rolled_back);
    ck_assert(
        do_register((struct store_register_req){.store = 102, .start = 2, .node = 2, .run = 12}, 0)
            .rolled_back);
    ck_assert(
        do_register((struct store_register_req){.store = 999, .start = 2, .node = 2, .run = 12}, 0)
            .rolled_back);
    ck_assert(do_register((struct store_register_req){.store = 999, .start = 2, .node = 2, .run = 12}, 0).removed);
    ck_assert(!do_register((struct store_register_req){.store = 102, .start = 2, .node = 2, .run = 12}, 0).removed);
    do_register((struct store_register_req){.store = 102, .start = 3, .node = 1}, -TC_E_CONFIG);
    do_register((struct store_register_req){.store = 102,
                                            .start = 3,
                                            .node = 2,
                                            .cluster = {(const uint8_t *)"0123456789abcdef", 16}},
                -TC_E_WRONG_CLUSTER);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch);
    /* an empty store takes the place of a lost one: every group begins its transition */
    ck_assert(
        !do_register((struct store_register_req){.store = 50, .start = 1, .node = 2, .empty = true},
                     0)
             .rolled_back);
    ck_assert_uint_eq(fsm_map_epoch(w.f), epoch + 1);
    ck_assert_uint_eq(fsm_store(w.f, 102)->state, STORE_REPLACED);
    m = map_now(m);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t had = 0, has = 0;

        pg = fsm_pg(w.f, i);
        ck_assert_uint_eq(pg->epoch, 2);
        ck_assert_uint_eq(pg->n_next, 3);
        for (int v = 0; v < 3; v++) {
            had += pg->voters[v] == 102;
            has += pg->next[v] == 50;
        }
        ck_assert(had == 1 && has == 1);
        ck_assert_int_eq(memcmp(pg, &m->pgs[i], sizeof(*pg)), 0);
    }
    ck_assert(do_register((struct store_register_req){.store = 102, .start = 3, .node = 2}, 0)
                  .rolled_back);
    /* moves: only at the expected epoch, only allowed ones */
    {
        struct map_pg p = *fsm_pg(w.f, 0);

        move(0, (struct wire_u64s){p.next, 3}, (struct wire_u64s){NULL, 0}, 1);
        ck_assert_uint_eq(fsm_pg(w.f, 0)->epoch, 2);
        move(0, (struct wire_u64s){p.next, 3}, (struct wire_u64s){p.voters, 3}, 2);
        ck_assert_uint_eq(fsm_pg(w.f, 0)->epoch, 2);
    }
    for (uint32_t i = 0; i < 8; i++) {
        struct map_pg p = *fsm_pg(w.f, i);

        move(i, (struct wire_u64s){p.next, 3}, (struct wire_u64s){NULL, 0}, 2);
        ck_assert_uint_eq(fsm_pg(w.f, i)->epoch, 3);
        ck_assert_uint_eq(fsm_pg(w.f, i)->n_next, 0);
        if (i == 3) {
            world_reopen(&w);
            m = map_now(m);
        }
    }
    ck_assert_ptr_null(fsm_store(w.f, 102)); /* nobody names it any more */
    m = map_now(m);
    whole = map_now(NULL);
    ck_assert_int_eq(memcmp(m->pgs, whole->pgs, 8 * sizeof(*m->pgs)), 0);
    ck_assert_uint_eq(m->n_stores, 3);
    map_free(m);
    map_free(whole);
}
END_TEST

static int admin(uint32_t node, uint32_t what)
{
    struct node_admin_req req = {.node = node, .admin = what};

    return world_apply(&w, CMD_STORE_ADMIN, &node_admin_req_schema, &req);
}

/* What an operator says about a node is kept, is refused where too few would be left or while it holds groups, and a
 * removed one is forgotten. */
START_TEST(test_store_admin)
{
    uint64_t stores[3] = {101, 102, 103};

    for (uint32_t i = 0; i < 3; i++)
        do_register((struct store_register_req){.store = stores[i], .node = i + 1, .start = 1, .empty = true}, 0);
    make_table(stores);
    ck_assert_int_eq(admin(9, STORE_DRAIN), -TC_E_NOENT);
    ck_assert_int_eq(admin(1, STORE_DRAIN), -TC_E_QUORUM_LOST);
    ck_assert_int_eq(admin(1, STORE_REMOVE), -TC_E_QUORUM_LOST);
    ck_assert_int_eq(admin(1, STORE_MAINTENANCE), 0);
    ck_assert_uint_eq(fsm_store(w.f, 101)->admin, STORE_MAINTENANCE);
    ck_assert_int_eq(admin(1, STORE_IN), 0);
    do_register((struct store_register_req){.store = 104, .node = 4, .start = 1, .empty = true}, 0);
    ck_assert_int_eq(admin(1, STORE_DRAIN), 0);
    ck_assert_int_eq(admin(2, STORE_DRAIN), -TC_E_QUORUM_LOST);
    ck_assert_int_eq(admin(1, STORE_REMOVE), -TC_E_BUSY);
    world_reopen(&w);
    ck_assert_uint_eq(fsm_store(w.f, 101)->admin, STORE_DRAIN);
    ck_assert(!fsm_store(w.f, 101)->served);
    ck_assert_int_eq(admin(1, STORE_IN), 0);
    ck_assert_int_eq(admin(4, STORE_REMOVE), 0);
    ck_assert_ptr_null(fsm_store(w.f, 104));
    ck_assert_int_eq(admin(4, STORE_REMOVE), -TC_E_NOENT);
}
END_TEST

START_TEST(test_placement)
{
    struct placement_store s[6] = {{.store = 1, .zone = "a", .capacity = UINT64_C(1) << 40}, {.store = 2, .zone = "a", .capacity = UINT64_C(1) << 40},
                                   {.store = 3, .zone = "b", .capacity = UINT64_C(1) << 40}, {.store = 4, .zone = "b", .capacity = UINT64_C(1) << 40},
                                   {.store = 5, .zone = "c", .capacity = UINT64_C(1) << 40}, {.store = 6, .zone = "c", .capacity = UINT64_C(2) << 40}};
    uint64_t voters[256 * 3];
    uint32_t count[7] = {0}, first[7] = {0};

    ck_assert_int_eq(placement_compute(s, 2, 3, 256, voters), -TC_E_INVAL);
    ck_assert_int_eq(placement_compute(s, 6, 3, 256, voters), 0);
    for (int pg = 0; pg < 256; pg++) {
        uint32_t zones = 0;

        for (int v = 0; v < 3; v++) {
            count[voters[3 * pg + v]]++;
            zones |= 1u << ((voters[3 * pg + v] - 1) / 2);
        }
        first[voters[3 * pg]]++;
        ck_assert_uint_eq(zones, 7);
    }
    for (int i = 1; i <= 4; i++)
        ck_assert(count[i] == 128);
    ck_assert(count[6] >= 168 && count[6] <= 172 && count[5] + count[6] == 256);
    for (int i = 1; i <= 6; i++)
        ck_assert(first[i] >= 30 && first[i] <= 60);
    ck_assert_int_eq(placement_compute(s, 3, 3, 8, voters),
                     0); /* two zones only: still three stores */
    for (int pg = 0; pg < 8; pg++)
        ck_assert_uint_eq(voters[3 * pg] + voters[3 * pg + 1] + voters[3 * pg + 2], 6);
}
END_TEST

START_TEST(test_genesis)
{
    struct world other = {0};
    struct genesis g = {.cluster = {(const uint8_t *)"0123456789abcdef", 16},
                        .n = 3,
                        .w = 1,
                        .r = 2,
                        .pg_count = 8,
                        .siphash_key = {(const uint8_t *)"0123456789abcdef", 16}};
    struct member_info member = {.id = 1, .endpoint = wire_str_of("tcp://m1:1")};

    world_open(&other, false);
    g.members.items = &member;
    g.members.n = 1;
    ck_assert(!fsm_formatted(other.f));
    ck_assert_ptr_null(fsm_genesis(other.f));
    ck_assert_int_eq(w_make(&other, INO_ROOT, "f", S_IFREG, 0), -TC_E_NO_GENESIS);
    ck_assert_int_eq(world_apply(&other, CMD_GENESIS, &genesis_schema, &g),
                     -TC_E_INVAL); /* W + R = N */
    g.w = 2;
    ck_assert_int_eq(world_apply(&other, CMD_GENESIS, &genesis_schema, &g), 0);
    ck_assert_int_eq(world_again(&other), -TC_E_ALREADY_FORMATTED);
    world_reopen(&other);
    ck_assert(fsm_formatted(other.f));
    ck_assert_uint_eq(fsm_genesis(other.f)->pg_count, 8);
    ck_assert_uint_eq(w_attr(&other, INO_ROOT).mode, S_IFDIR | 0755);
    world_close(&other);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fsm");
    TCase *tc = tcase_create("operations");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 20);
    tcase_add_test(tc, test_make);
    tcase_add_test(tc, test_make_existing);
    tcase_add_test(tc, test_setgid_directory);
    tcase_add_test(tc, test_link_unlink);
    tcase_add_test(tc, test_rename);
    tcase_add_test(tc, test_rename_exchange_loop);
    tcase_add_test(tc, test_lookup);
    tcase_add_test(tc, test_readdir);
    tcase_add_test(tc, test_cookie_collisions);
    tcase_add_test(tc, test_symlink);
    tcase_add_test(tc, test_setattr);
    tcase_add_test(tc, test_clock_never_falls);
    tcase_add_test(tc, test_truncate_horizon);
    tcase_add_test(tc, test_truncate_takes_x);
    tcase_add_test(tc, test_xattrs);
    tcase_add_test(tc, test_acl);
    tcase_add_test(tc, test_capability);
    tcase_add_test(tc, test_rules_off);
    tcase_add_test(tc, test_late_copy);
    tcase_add_test_raise_signal(tc, test_late_copy_without_the_rule, SIGABRT);
    tcase_add_test(tc, test_once);
    tcase_add_test(tc, test_malformed);
    tcase_add_test(tc, test_session_open);
    tcase_add_test(tc, test_session_end);
    tcase_add_test(tc, test_get_x);
    tcase_add_test(tc, test_commit);
    tcase_add_test(tc, test_disowned);
    tcase_add_test(tc, test_locks);
    tcase_add_test(tc, test_recovered_size);
    tcase_add_test(tc, test_dead_holder);
    tcase_add_test(tc, test_oldest_epoch);
    tcase_add_test(tc, test_gave_up);
    tcase_add_test(tc, test_numbers_once);
    tcase_add_test(tc, test_reap);
    tcase_add_test(tc, test_stores);
    tcase_add_test(tc, test_store_admin);
    tcase_add_test(tc, test_placement);
    tcase_add_test(tc, test_genesis);
    suite_add_tcase(s, tc);
    tc = tcase_create("big");
    tcase_set_timeout(tc, 60); /* thousands of entries, perhaps under a sanitizer on a busy machine */
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_lookup_keeps_directories);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
