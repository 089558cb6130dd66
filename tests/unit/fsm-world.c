/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/fsm-world.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define START UINT64_C(1700000000000000000)

static void open_kv(struct world *w)
{
    const struct kv_options opt = {.cache_bytes = 1 << 20, .buffer_bytes = 1 << 20};
    char path[300];

    snprintf(path, sizeof(path), "%s/kv", w->dir);
    ck_assert_int_eq(
        w->rocks ? kv_open_rocks(path, &opt, &w->kv) : kv_open_mem(vfs_posix(), path, &w->kv), 0);
    ck_assert_int_eq(fsm_open(w->kv, &w->f), 0);
    fsm_test_cookie_mask(w->f, w->cookie_mask);
}

void world_open(struct world *w, bool rocks)
{
    const char *tmp = getenv("TMPDIR");
    uint64_t mask = w->cookie_mask;

    *w = (struct world){.rocks = rocks, .term = 1, .now = START, .session = 1, .cookie_mask = mask};
    snprintf(w->dir, sizeof(w->dir), "%s/tercet-fsm-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(w->dir));
    open_kv(w);
}

static void close_kv(struct world *w)
{
    fsm_result_fini(&w->res);
    w->f = fsm_close(w->f);
    kv_close(w->kv);
    w->kv = NULL;
}

void world_close(struct world *w)
{
    char path[300];

    close_kv(w);
    snprintf(path, sizeof(path), "%s/kv", w->dir);
    ck_assert_int_eq(w->rocks ? kv_destroy_rocks(path) : kv_destroy_mem(vfs_posix(), path), 0);
    rmdir(path);
    ck_assert_int_eq(rmdir(w->dir), 0);
    wire_arena_fini(&w->a);
    buf_unref(w->entry_bytes);
}

void world_reopen(struct world *w)
{
    uint64_t applied = fsm_applied(w->f), hash = fsm_state_hash(w->f);

    ck_assert_int_eq(kv_flush(w->kv), 0);
    close_kv(w);
    open_kv(w);
    ck_assert_uint_eq(fsm_applied(w->f), applied);
    ck_assert_uint_eq(fsm_state_hash(w->f), hash);
}

static bool answers_entry(uint32_t type)
{
    return type >= MSG_MAKE && type <= MSG_LEASE_GET_X;
}

int world_apply_bytes(struct world *w, struct slice entry)
{
    wire_arena_reset(&w->a);
    fsm_result_fini(&w->res);
    w->entry = (struct entry_res){0};
    w->index++;
    ck_assert_int_eq(fsm_apply(w->f, w->index, w->term, entry, &w->res), 0);
    ck_assert_uint_eq(fsm_applied(w->f), w->index);
    if (w->res.status == 0 && w->res.body && answers_entry(w->res.type))
        ck_assert_int_eq(wire_decode(slice_of(w->res.body->data, w->res.body->len),
                                     &entry_res_schema, &w->a, &w->entry),
                         0);
    return w->res.status;
}

int world_apply(struct world *w, uint32_t type, const struct wire_schema *schema, const void *body)
{
    struct buf *b = wire_encode(schema, body);
    struct command cmd = {.type = type, .time = w->now, .body = {b->data, b->len}, .term = w->term};

    w->now += 1000;
    buf_unref(w->entry_bytes);
    w->entry_bytes = wire_encode(&command_schema, &cmd);
    buf_unref(b);
    return world_again(w);
}

int world_again(struct world *w)
{
    return world_apply_bytes(w, slice_of(w->entry_bytes->data, w->entry_bytes->len));
}

const struct fsm_effect *world_effect(const struct world *w, enum fsm_effect_kind kind)
{
    for (uint32_t i = 0; i < w->res.n_effects; i++) {
        if (w->res.effects[i].kind == (uint32_t)kind)
            return &w->res.effects[i];
    }
    return NULL;
}

void world_format(struct world *w, unsigned sessions)
{
    static const uint8_t sixteen[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    struct member_info member = {.id = 1, .endpoint = wire_str_of("tcp://m1:1")};
    struct genesis g = {.cluster = {sixteen, 16},
                        .n = 3,
                        .w = 2,
                        .r = 2,
                        .pg_count = 8,
                        .siphash_key = {sixteen, 16},
                        .time = START,
                        .stores = 3,
                        .root_mode = 0755};

    g.members.items = &member;
    g.members.n = 1;
    ck_assert_int_eq(world_apply(w, CMD_GENESIS, &genesis_schema, &g), 0);
    for (unsigned i = 0; i < sessions; i++)
        ck_assert_uint_eq(world_session(w), i + 1);
}

uint64_t world_session(struct world *w)
{
    struct session_open_req req = {.nonce = w->index + 1000, .client = wire_str_of("host:/mnt")};

    ck_assert_int_eq(world_apply(w, MSG_SESSION_OPEN, &session_open_req_schema, &req), 0);
    return w->res.session;
}

struct req_ctx world_ctx(struct world *w)
{
    w->seq++;
    return (struct req_ctx){.session = w->session,
                            .incarnation = 1,
                            .seq = w->seq,
                            .watermark = w->watermark ? w->watermark : w->seq - 1};
}

int w_make(struct world *w, uint64_t parent, const char *name, uint32_t mode, uint32_t want)
{
    struct make_req req = {.ctx = world_ctx(w),
                           .parent = parent,
                           .name = wire_str_of(name),
                           .mode = mode,
                           .umask = 022,
                           .uid = 10,
                           .gid = 20,
                           .excl = true,
                           .want = want};

    if (S_ISLNK(mode))
        req.target = wire_str_of("to/there");
    return world_apply(w, MSG_MAKE, &make_req_schema, &req);
}

int w_link(struct world *w, uint64_t ino, uint64_t parent, const char *name)
{
    struct link_req req = {
        .ctx = world_ctx(w), .ino = ino, .parent = parent, .name = wire_str_of(name)};

    return world_apply(w, MSG_LINK, &link_req_schema, &req);
}

int w_unlink(struct world *w, uint64_t parent, const char *name, bool dir)
{
    struct unlink_req req = {
        .ctx = world_ctx(w), .parent = parent, .name = wire_str_of(name), .dir = dir};

    return world_apply(w, MSG_UNLINK, &unlink_req_schema, &req);
}

int w_rename(struct world *w, uint64_t p1, const char *n1, uint64_t p2, const char *n2,
             uint32_t flags)
{
    struct rename_req req = {.ctx = world_ctx(w),
                             .parent = p1,
                             .name = wire_str_of(n1),
                             .new_parent = p2,
                             .new_name = wire_str_of(n2),
                             .flags = flags};

    return world_apply(w, MSG_RENAME, &rename_req_schema, &req);
}

int w_setattr(struct world *w, struct setattr_req req)
{
    req.ctx = world_ctx(w);
    return world_apply(w, MSG_SETATTR, &setattr_req_schema, &req);
}

int w_truncate(struct world *w, uint64_t ino, uint64_t size, uint64_t size_max)
{
    return w_setattr(
        w, (struct setattr_req){.ino = ino, .mask = SET_SIZE, .size = size, .size_max = size_max});
}

int w_setxattr(struct world *w, uint64_t ino, const char *name, const void *value, size_t n,
               uint32_t flags)
{
    struct setxattr_req req = {.ctx = world_ctx(w),
                               .ino = ino,
                               .name = wire_str_of(name),
                               .value = {value, (uint32_t)n},
                               .flags = flags};

    return world_apply(w, MSG_SETXATTR, &setxattr_req_schema, &req);
}

int w_removexattr(struct world *w, uint64_t ino, const char *name)
{
    struct removexattr_req req = {.ctx = world_ctx(w), .ino = ino, .name = wire_str_of(name)};

    return world_apply(w, MSG_REMOVEXATTR, &removexattr_req_schema, &req);
}

int w_get_x(struct world *w, uint64_t ino)
{
    struct lease_get_req req = {.ctx = world_ctx(w), .ino = ino, .want = LEASE_X};

    return world_apply(w, MSG_LEASE_GET_X, &lease_get_req_schema, &req);
}

int w_commit(struct world *w, struct commit_item it)
{
    struct commit_req req = {.ctx = world_ctx(w)};
    struct commit_res res;
    struct fsm_lease l;

    if (it.epoch == 0 && fsm_lease(w->f, it.ino, &l)) {
        it.epoch = l.epoch;
        it.gterm = l.gterm;
        it.gcount = l.gcount;
    }
    req.items.items = &it;
    req.items.n = 1;
    ck_assert_int_eq(world_apply(w, MSG_COMMIT, &commit_req_schema, &req), 0);
    ck_assert_int_eq(
        wire_decode(slice_of(w->res.body->data, w->res.body->len), &commit_res_schema, &w->a, &res),
        0);
    ck_assert_uint_eq(res.items.n, 1);
    return tc_error_from_wire(res.items.items[0].status);
}

int w_expire(struct world *w, uint64_t session)
{
    struct dead_session d = {.session = session, .incarnation = UINT32_MAX};
    struct cmd_sessions cmd = {.sessions = {&d, 1}};

    return world_apply(w, CMD_SESSION_EXPIRE, &cmd_sessions_schema, &cmd);
}

int w_reap(struct world *w, uint64_t ino)
{
    struct cmd_reap cmd = {.inos = {&ino, 1}};

    return world_apply(w, CMD_REAP, &cmd_reap_schema, &cmd);
}

struct attr w_attr(struct world *w, uint64_t ino)
{
    struct attr attr;

    ck_assert_int_eq(fsm_getattr(w->f, w->session, ino, &w->a, &attr), 0);
    return attr;
}

uint64_t w_find(struct world *w, const char *path)
{
    uint64_t ino = INO_ROOT;

    while (*path) {
        size_t n = strcspn(path, "/");
        uint32_t mode;

        if (fsm_dentry(w->f, ino, (struct wire_str){path, (uint32_t)n}, &ino, &mode) < 0)
            return 0;
        path += n + (path[n] == '/');
    }
    return ino;
}
