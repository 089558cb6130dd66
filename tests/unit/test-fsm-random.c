/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random entries against the state machine: names against a simple model of a filesystem, and
 * everything else for determinism: the same entries give the same answers and the same state on
 * both kinds of kv, across restarts.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "unit/fsm-world.h"
#include "unit/wire-gen.h"

enum { NAMES = 6, INODES = 4096, DENTS = 2048 };

static struct world w;
static uint64_t seed;

static uint32_t roll(uint32_t n)
{
    return (uint32_t)(gen_random(&seed) % n);
}

static uint64_t seed_of(int i)
{
    const char *s = getenv("TC_SEED");

    return (s ? (uint64_t)strtoull(s, NULL, 0) : 1u) * UINT64_C(1000003) + (uint64_t)i;
}

/* ---- names against a model ------------------------------------------------------------------- */

struct mnode {
    bool exists, dir;
    uint32_t nlink;
    uint64_t parent;
};

struct mdent {
    uint64_t parent, ino; /* ino 0: free */
    uint32_t name;
};

struct model {
    struct mnode nodes[INODES];
    struct mdent dents[DENTS];
    uint64_t next;
};

static struct mdent *m_find(struct model *m, uint64_t parent, uint32_t name)
{
    for (int i = 0; i < DENTS; i++) {
        if (m->dents[i].ino && m->dents[i].parent == parent && m->dents[i].name == name)
            return &m->dents[i];
    }
    return NULL;
}

static void m_add(struct model *m, uint64_t parent, uint32_t name, uint64_t ino)
{
    for (int i = 0; i < DENTS; i++) {
        if (!m->dents[i].ino) {
            m->dents[i] = (struct mdent){parent, ino, name};
            return;
        }
    }
    ck_abort_msg("model full");
}

static uint32_t m_count(const struct model *m, uint64_t parent)
{
    uint32_t n = 0;

    for (int i = 0; i < DENTS; i++)
        n += m->dents[i].ino && m->dents[i].parent == parent;
    return n;
}

static bool m_above(const struct model *m, uint64_t ino, uint64_t dir) /* ino is dir, or above it */
{
    for (; dir != INO_ROOT; dir = m->nodes[dir].parent) {
        if (dir == ino)
            return true;
    }
    return ino == INO_ROOT;
}

static int m_dir(const struct model *m, uint64_t ino)
{
    const struct mnode *n = &m->nodes[ino];

    if (!n->exists)
        return -TC_E_STALE;
    if (!n->dir)
        return -TC_E_NOTDIR;
    return n->nlink ? 0 : -TC_E_NOENT;
}

static int m_make(struct model *m, uint64_t parent, uint32_t name, bool dir)
{
    int r = m_dir(m, parent);

    if (r < 0)
        return r;
    if (m_find(m, parent, name))
        return -TC_E_EXIST;
    m->nodes[m->next] = (struct mnode){true, dir, dir ? 2 : 1, parent};
    m_add(m, parent, name, m->next++);
    m->nodes[parent].nlink += dir;
    return 0;
}

static int m_link(struct model *m, uint64_t ino, uint64_t parent, uint32_t name)
{
    int r = m_dir(m, parent);

    if (r < 0)
        return r;
    if (!m->nodes[ino].exists)
        return -TC_E_STALE;
    if (m->nodes[ino].dir)
        return -TC_E_PERM;
    if (m_find(m, parent, name))
        return -TC_E_EXIST;
    if (!m->nodes[ino].nlink)
        return -TC_E_NOENT;
    m_add(m, parent, name, ino);
    m->nodes[ino].nlink++;
    return 0;
}

static void m_drop(struct model *m, struct mdent *d)
{
    struct mnode *n = &m->nodes[d->ino];

    n->nlink = n->dir ? 0 : n->nlink - 1;
    m->nodes[d->parent].nlink -= n->dir;
    d->ino = 0;
}

static int m_unlink(struct model *m, uint64_t parent, uint32_t name, bool dir)
{
    struct mdent *d;
    int r = m_dir(m, parent);

    if (r < 0)
        return r;
    d = m_find(m, parent, name);
    if (!d)
        return -TC_E_NOENT;
    if (dir != m->nodes[d->ino].dir)
        return dir ? -TC_E_NOTDIR : -TC_E_ISDIR;
    if (dir && m_count(m, d->ino))
        return -TC_E_NOTEMPTY;
    m_drop(m, d);
    return 0;
}

static void m_move(struct model *m, struct mdent *d, uint64_t ino, uint64_t from)
{
    d->ino = ino;
    if (m->nodes[ino].dir) {
        m->nodes[from].nlink--;
        m->nodes[d->parent].nlink++;
        m->nodes[ino].parent = d->parent;
    }
}

static int m_rename(struct model *m, uint64_t p1, uint32_t n1, uint64_t p2, uint32_t n2,
                    uint32_t flags)
{
    struct mdent *a, *b;
    uint64_t ino;
    int r = m_dir(m, p1);

    r = r < 0 ? r : m_dir(m, p2);
    if (r < 0)
        return r;
    a = m_find(m, p1, n1);
    b = m_find(m, p2, n2);
    if (!a)
        return -TC_E_NOENT;
    if (flags == 2 && !b)
        return -TC_E_NOENT;
    ino = a->ino;
    if (p1 != p2 && m->nodes[ino].dir && m_above(m, ino, p2))
        return -TC_E_INVAL;
    if (flags == 1 && b)
        return -TC_E_EXIST;
    if (b && b->ino == ino)
        return 0;
    if (flags == 2) {
        uint64_t other = b->ino;

        if (p1 != p2 && m->nodes[other].dir && m_above(m, other, p1))
            return -TC_E_INVAL;
        m_move(m, b, ino, p1);
        m_move(m, a, other, p2);
        return 0;
    }
    if (b) {
        bool d1 = m->nodes[ino].dir, d2 = m->nodes[b->ino].dir;

        if (d1 != d2)
            return d1 ? -TC_E_NOTDIR : -TC_E_ISDIR;
        if (d2 && m_count(m, b->ino))
            return -TC_E_NOTEMPTY;
        m_drop(m, b);
    }
    a->ino = 0;
    m_add(m, p2, n2, ino);
    m_move(m, m_find(m, p2, n2), ino, p1);
    return 0;
}

static void m_compare(struct model *m)
{
    struct attr attr;

    wire_arena_reset(&w.a);
    for (uint64_t ino = 1; ino < m->next; ino++) {
        if (!m->nodes[ino].exists) {
            ck_assert_int_eq(fsm_getattr(w.f, 0, ino, &w.a, &attr), -TC_E_NOENT);
            continue;
        }
        ck_assert_int_eq(fsm_getattr(w.f, 0, ino, &w.a, &attr), 0);
        ck_assert_uint_eq(attr.nlink, m->nodes[ino].nlink);
        if (m->nodes[ino].dir) {
            struct readdir_res res;
            uint64_t cookie = 0;
            uint32_t n = 0;

            ck_assert_uint_eq(attr.size, m_count(m, ino));
            ck_assert_uint_eq(attr.parent, m->nodes[ino].parent);
            do {
                ck_assert_int_eq(fsm_readdir(w.f, 0, ino, cookie, 2, 0, false, &w.a, &res), 0);
                for (uint32_t i = 0; i < res.entries.n; i++) {
                    struct mdent *d =
                        m_find(m, ino, (uint32_t)(res.entries.items[i].name.p[0] - 'a'));

                    ck_assert(d && d->ino == res.entries.items[i].ino);
                    cookie = res.entries.items[i].cookie;
                    n++;
                }
            } while (!res.eof);
            ck_assert_uint_eq(n, attr.size);
        }
    }
}

static void name_of(uint32_t i, char *out)
{
    out[0] = (char)('a' + i);
    out[1] = 0;
}

static void step(struct model *m)
{
    uint64_t p1 = 1 + roll((uint32_t)m->next - 1), p2 = 1 + roll((uint32_t)m->next - 1),
             ino = 1 + roll((uint32_t)m->next - 1);
    uint32_t n1 = roll(NAMES), n2 = roll(NAMES), flags = roll(3);
    char s1[2], s2[2];
    bool dir = roll(2);

    if (roll(3))
        p1 = INO_ROOT;
    for (int i = 0; i < 3 && m_dir(m, p2) < 0; i++)
        p2 = 1 + roll((uint32_t)m->next - 1);
    name_of(n1, s1);
    name_of(n2, s2);
    w.session = 1 + roll(2);
    switch (roll(8)) {
    case 0:
    case 1:
        ck_assert_int_eq(w_make(&w, p2, s1, dir ? S_IFDIR : S_IFREG, roll(2) ? LEASE_X : 0),
                         m_make(m, p2, n1, dir));
        break;
    case 2:
        ck_assert_int_eq(w_link(&w, ino, p2, s1), m_link(m, ino, p2, n1));
        break;
    case 3:
    case 4:
        ck_assert_int_eq(w_unlink(&w, p2, s1, dir), m_unlink(m, p2, n1, dir));
        break;
    case 5:
        ck_assert_int_eq(w_reap(&w, ino), 0);
        if (world_effect(&w, FSM_REAPED)) {
            ck_assert(m->nodes[ino].exists && m->nodes[ino].nlink == 0);
            m->nodes[ino].exists = false;
        }
        break;
    default:
        ck_assert_int_eq(w_rename(&w, p1, s1, p2, s2, flags), m_rename(m, p1, n1, p2, n2, flags));
        break;
    }
}

START_TEST(test_model)
{
    struct model *m = tc_calloc(1, sizeof(*m));

    seed = seed_of(_i);
    w.cookie_mask = _i % 2 ? 3 : 0;
    world_open(&w, false);
    world_format(&w, 2);
    m->nodes[INO_ROOT] = (struct mnode){true, true, 2, INO_ROOT};
    m->next = 2;
    for (int i = 0; i < 3000 && m->next < INODES; i++) {
        step(m);
        if (i % 250 == 0)
            m_compare(m);
        if (i % 1000 == 500)
            world_reopen(&w);
    }
    m_compare(m);
    world_close(&w);
    free(m);
}
END_TEST

/* ---- determinism ----------------------------------------------------------------------------- */

struct record {
    struct buf *entry;
    int status;
    bool ignored, duplicate;
    uint64_t body; /* hash of the answer */
    uint32_t effects;
};

static uint64_t body_hash(const struct fsm_result *r)
{
    uint64_t h = 1469598103934665603u;

    for (uint32_t i = 0; r->body && i < r->body->len; i++)
        h = (h ^ r->body->data[i]) * 1099511628211u;
    return h;
}

static void random_lease_op(uint64_t ino)
{
    struct fsm_lease l;
    bool have = fsm_lease(w.f, ino, &l);

    switch (roll(6)) {
    case 0:
        w_get_x(&w, ino);
        break;
    case 1:
        w_truncate(&w, ino, roll(1u << 24), roll(3) ? 0 : roll(1u << 24));
        break;
    case 2:
        if (have && l.dead) {
            struct cmd_size_recovered cmd = {.ino = ino,
                                             .epoch = l.epoch,
                                             .found = roll(2),
                                             .size = roll(1u << 24),
                                             .vseq = roll(9)};

            world_apply(&w, CMD_SIZE_RECOVERED, &cmd_size_recovered_schema, &cmd);
        }
        break;
    case 3: {
        struct cmd_reconciled cmd = {.ino = ino, .mark_change = have ? l.epoch : 1 + roll(4)};

        world_apply(&w, CMD_RECONCILED, &cmd_reconciled_schema, &cmd);
        break;
    }
    default:
        if (have && roll(4))
            w.session = l.session;
        if (fsm_session_live(w.f, w.session))
            w_commit(&w, (struct commit_item){.ino = ino,
                                              .has_size = roll(2),
                                              .size = roll(1u << 24),
                                              .mtime = w.now - roll(1000),
                                              .vseq = roll(20),
                                              .blocks = (int64_t)roll(100) - 20,
                                              .action = roll(4),
                                              .data_state = roll(20) ? roll(2) : DATA_UNCLEAN});
        break;
    }
}

static void random_cluster_op(void)
{
    switch (roll(6)) {
    case 0:
        w_expire(&w, 1 + roll((uint32_t)w.index));
        break;
    case 1: {
        struct dead_session d = {.session = 1 + roll((uint32_t)w.index)};
        struct cmd_sessions cmd = {.sessions = {&d, 1}};

        world_apply(&w, CMD_SESSION_FORGET, &cmd_sessions_schema, &cmd);
        break;
    }
    case 2: {
        struct store_register_req req = {.store = 1 + roll(6),
                                         .start = 1 + roll(4),
                                         .node = 1 + roll(3),
                                         .endpoint = wire_str_of("tcp://s:1"),
                                         .empty = roll(2),
                                         .run = roll(3)};

        world_apply(&w, CMD_STORE_REGISTER, &store_register_req_schema, &req);
        break;
    }
    case 3: {
        struct cmd_gc_trim cmd = {.upto = roll((uint32_t)w.index)};

        world_apply(&w, CMD_GC_TRIM, &cmd_gc_trim_schema, &cmd);
        break;
    }
    case 4: {
        struct member_info members[2] = {{.id = 1 + roll(3), .endpoint = wire_str_of("tcp://m:1")},
                                         {.id = 2 + roll(3), .endpoint = wire_str_of("tcp://m:2")}};
        struct cmd_members cmd = {.members = {members, 1 + roll(2)}};

        world_apply(&w, CMD_MEMBERS, &cmd_members_schema, &cmd);
        break;
    }
    default:
        world_session(&w);
        break;
    }
}

static void random_entry(void)
{
    char name[2], to[2];
    uint64_t ino = 2 + roll(30), dir = roll(2) ? INO_ROOT : 2 + roll(30);
    struct fsm_session s;

    w.session = 1 + roll(4);
    for (int i = 0; i < 4 && !fsm_session_live(w.f, w.session); i++)
        w.session = fsm_session_next(w.f, roll((uint32_t)w.index), &s) ? s.id : 1;
    name_of(roll(NAMES), name);
    name_of(roll(NAMES), to);
    switch (roll(12)) {
    case 0:
    case 1:
        w_make(&w, dir, name,
               (const uint32_t[]){S_IFREG | 0644, S_IFDIR | 0755, S_IFLNK, S_IFREG | 0600}[roll(4)],
               roll(2) ? LEASE_X : 0);
        break;
    case 2:
        w_unlink(&w, dir, name, roll(2));
        break;
    case 3:
        w_rename(&w, INO_ROOT, name, dir, to, roll(3));
        break;
    case 4:
        w_link(&w, ino, dir, name);
        break;
    case 5:
        w_setattr(&w, (struct setattr_req){.ino = ino,
                                           .mask = roll(512) & ~(uint32_t)SET_SIZE,
                                           .mode = roll(07777),
                                           .mtime = roll(99)});
        break;
    case 6:
        if (roll(2))
            w_setxattr(&w, ino, name, "value", roll(5), roll(3));
        else
            w_removexattr(&w, ino, name);
        break;
    case 7:
        w_reap(&w, ino);
        break;
    case 8:
        world_again(&w);
        break;
    case 9:
        if (roll(4) == 0)
            random_cluster_op();
        break;
    default:
        random_lease_op(ino);
        break;
    }
}

enum { ENTRIES = 3000 };

static uint64_t run_recording(struct record *rec, uint32_t *ret_n)
{
    uint64_t hash;
    uint32_t n = 0;

    world_open(&w, false);
    world_format(&w, 2); /* not recorded: done by the replays, too */
    while (n < ENTRIES) {
        uint64_t index = w.index;

        random_entry();
        if (w.index == index)
            continue;
        rec[n++] = (struct record){buf_ref(w.entry_bytes), w.res.status,      w.res.ignored,
                                   w.res.duplicate,        body_hash(&w.res), w.res.n_effects};
    }
    *ret_n = n;
    hash = fsm_state_hash(w.f);
    world_close(&w);
    return hash;
}

static void replay(const struct record *rec, uint32_t n, bool rocks, uint64_t hash)
{
    world_open(&w, rocks);
    world_format(&w, 2);
    for (uint32_t i = 0; i < n; i++) {
        int r = world_apply_bytes(&w, slice_of(rec[i].entry->data, rec[i].entry->len));

        ck_assert_int_eq(r, rec[i].status);
        ck_assert_int_eq(w.res.ignored, rec[i].ignored);
        ck_assert_int_eq(w.res.duplicate, rec[i].duplicate);
        ck_assert_uint_eq(w.res.n_effects, rec[i].effects);
        ck_assert_uint_eq(body_hash(&w.res), rec[i].body);
        if (roll(300) == 0)
            world_reopen(&w);
    }
    ck_assert_uint_eq(fsm_state_hash(w.f), hash);
    world_close(&w);
}

START_TEST(test_determinism)
{
    struct record *rec = tc_calloc(ENTRIES, sizeof(*rec));
    uint64_t hash;
    uint32_t n, ok = 0;

    seed = seed_of(100 + _i);
    w.cookie_mask = _i % 2 ? 7 : 0;
    hash = run_recording(rec, &n);
    replay(rec, n, false, hash);
    replay(rec, n, true, hash);
    for (uint32_t i = 0; i < n; i++) {
        ok += rec[i].status == 0;
        buf_unref(rec[i].entry);
    }
    ck_assert_uint_gt(ok, n / 4);
    free(rec);
}
END_TEST

/* ---- any content ----------------------------------------------------------------------------- */

static const struct {
    uint32_t type;
    const struct wire_schema *schema;
} kinds[] = {
    {MSG_SESSION_OPEN, &session_open_req_schema},
    {MSG_MAKE, &make_req_schema},
    {MSG_LINK, &link_req_schema},
    {MSG_UNLINK, &unlink_req_schema},
    {MSG_RENAME, &rename_req_schema},
    {MSG_SETATTR, &setattr_req_schema},
    {MSG_SETXATTR, &setxattr_req_schema},
    {MSG_REMOVEXATTR, &removexattr_req_schema},
    {MSG_LEASE_GET_X, &lease_get_req_schema},
    {MSG_COMMIT, &commit_req_schema},
    {MSG_LOCK, &lock_req_schema},
    {MSG_LOCK_END, &lock_end_req_schema},
    {CMD_SESSION_EXPIRE, &cmd_sessions_schema},
    {CMD_REAP, &cmd_reap_schema},
    {CMD_SIZE_RECOVERED, &cmd_size_recovered_schema},
    {CMD_RECONCILED, &cmd_reconciled_schema},
    {CMD_PG_UPDATE, &cmd_pg_update_schema},
    {CMD_STORE_STATE, &store_info_schema},
    {CMD_GC_TRIM, &cmd_gc_trim_schema},
    {CMD_SESSION_FORGET, &cmd_sessions_schema},
    {CMD_STORE_REGISTER, &store_register_req_schema},
    {CMD_MEMBERS, &cmd_members_schema},
    {MSG_SESSION_CLOSE, &session_close_req_schema},
};

/* Half of the numbers become small, half of the names short, so that they meet something. */
static void make_likely(const struct wire_schema *schema, void *out)
{
    for (uint32_t i = 0; i < schema->n_fields; i++) {
        const struct wire_field *f = &schema->fields[i];
        void *at = (char *)out + f->offset;

        if (f->kind == WIRE_SUB) {
            make_likely(f->sub, at);
        } else if (f->kind == WIRE_LIST) {
            struct {
                char *items;
                uint32_t n;
            } *list = at;

            for (uint32_t k = 0; k < list->n; k++)
                make_likely(f->sub, list->items + (size_t)k * f->sub->size);
        } else if (f->kind == WIRE_u64s) {
            struct wire_u64s *list = at;

            for (uint32_t k = 0; k < list->n; k++)
                list->items[k] = roll(2) ? list->items[k] % 16 : list->items[k];
        } else if (roll(2) == 0) {
            continue;
        } else if (f->kind == WIRE_u64) {
            *(uint64_t *)at %= 16;
        } else if (f->kind == WIRE_u32) {
            *(uint32_t *)at = strcmp(f->name, "mode") ? *(uint32_t *)at % 8
                                                      : (roll(2) ? S_IFDIR : S_IFREG) | 0755;
        } else if (f->kind == WIRE_str) {
            *(struct wire_str *)at = (struct wire_str){&"abcdef"[roll(NAMES)], 1};
        }
    }
}

START_TEST(test_any_content)
{
    struct wire_arena gen = {0};
    uint32_t ok = 0;

    seed = seed_of(200 + _i);
    w.cookie_mask = 0;
    world_open(&w, false);
    world_format(&w, 3);
    for (int i = 0; i < 4000; i++) {
        union {
            struct session_close_req ctx;
            char room[4096];
        } u;
        uint32_t k = roll(ARRAY_SIZE(kinds));

        ck_assert_uint_le(kinds[k].schema->size, sizeof(u));
        if (kinds[k].type == MSG_SESSION_CLOSE && roll(20))
            continue;
        wire_arena_reset(&gen);
        gen_struct(&seed, kinds[k].schema, &gen, &u);
        make_likely(kinds[k].schema, &u);
        w.session = 1 + roll(3);
        if (!strcmp(kinds[k].schema->fields[0].name, "ctx") && roll(10))
            u.ctx.ctx = world_ctx(&w);
        ok += world_apply(&w, kinds[k].type, kinds[k].schema, &u) == 0;
        if (i % 1000 == 999)
            world_reopen(&w);
    }
    ck_assert_uint_gt(ok, 300);
    wire_arena_fini(&gen);
    world_close(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fsm-random");
    TCase *tc = tcase_create("random");
    const char *n = getenv("TC_FSM_RUNS");
    int runs = n ? atoi(n) : 4;
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_model, 0, runs + runs / 2);
    tcase_add_loop_test(tc, test_determinism, 0, runs);
    tcase_add_loop_test(tc, test_any_content, 0, runs);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_set_fork_status(sr, CK_NOFORK);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
