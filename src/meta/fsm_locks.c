/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Advisory locks (PROTOCOL 9.2): a row per inode that somebody has locked.
 *
 * Either one session holds L: then its locks are its own to keep, nobody else has any, and the row names only it. Or the
 * row has the locks of all. Whoever sets a lock while no other session has any is given L with it; L ends by LOCK_END,
 * with which its holder says what locks it has (before that nobody else gets anywhere: the leader recalls L first).
 *
 * What a session has goes with it: rows are not touched when it ends, its locks are left out when a row is read. A row that
 * nobody asks for again stays until its inode goes.
 */
#include "common/locks.h"
#include "common/test_rules.h"
#include "meta/fsm_int.h"

#define LOCK_BYTES 38u /* of one in a row */

struct lock_row {
    uint64_t holder; /* of L, 0: nobody */
    struct lock_table table;
    bool was;        /* there is a row */
};

static bool row_decode(struct lock_row *row, struct slice v)
{
    struct rowget g = rowget_of(v);
    uint8_t version = get_u8(&g);

    row->holder = get_u64(&g);
    row->table.n = row->table.cap = get_u32(&g);
    if (g.bad || version != FSM_FORMAT_VERSION || (size_t)(g.end - g.p) != (size_t)row->table.n * LOCK_BYTES) {
        row->table.n = row->table.cap = 0;
        return false;
    }
    row->table.locks = row->table.n ? tc_calloc(row->table.n, sizeof(row->table.locks[0])) : NULL;
    for (uint32_t i = 0; i < row->table.n; i++) {
        struct file_lock *l = &row->table.locks[i];

        l->session = get_u64(&g);
        l->owner = get_u64(&g);
        l->start = get_u64(&g);
        l->end = get_u64(&g);
        l->pid = get_u32(&g);
        l->family = get_u8(&g);
        l->type = get_u8(&g);
    }
    return true;
}

static bool is_live(const struct fsm *f, uint64_t session)
{
    return fsm_session_live(f, session) || !TC_RULE(LOCKS_EXPIRE);
}

static void drop_dead(const struct fsm *f, struct lock_row *row)
{
    if (row->holder && !is_live(f, row->holder))
        row->holder = 0;
    for (uint32_t i = 0; i < row->table.n;) {
        if (is_live(f, row->table.locks[i].session))
            i++;
        else
            locks_drop_session(&row->table, row->table.locks[i].session);
    }
}

/* The locks of @ino as of now; row_free() afterwards. */
static int row_load(struct fsm *f, uint64_t ino, struct lock_row *ret)
{
    struct kv_value v = {0};
    int r;

    *ret = (struct lock_row){0};
    if (f->n_locked == 0)
        return 0;
    r = row_get(f, key_u64(TAB_LOCKS, ino), &v);
    if (r < 0)
        return r == -TC_E_NOENT ? 0 : r;
    if (!row_decode(ret, value_slice(&v))) {
        r = -TC_E_DAMAGED;
        io_fail(f, r);
    }
    kv_value_free(&v);
    ret->was = true;
    drop_dead(f, ret);
    return r;
}

static void row_drop(struct fsm *f, uint64_t ino)
{
    row_del(f, key_u64(TAB_LOCKS, ino));
    f->n_locked--;
}

void locks_reap(struct fsm *f, uint64_t ino)
{
    struct kv_value v = {0};

    if (f->n_locked == 0 || row_get(f, key_u64(TAB_LOCKS, ino), &v) < 0)
        return;
    kv_value_free(&v);
    row_drop(f, ino);
}

int locks_load(struct fsm *f)
{
    struct row_bounds bounds;
    struct kv_iter *it = row_iter(f, &bounds, (struct key){.b = {TAB_LOCKS}, .n = 1}, (struct key){.b = {TAB_LOCKS + 1}, .n = 1});

    for (; kv_iter_valid(it); kv_iter_next(it))
        f->n_locked++;
    row_iter_end(f, it);
    return f->io_error;
}

static void row_save(struct fsm *f, uint64_t ino, const struct lock_row *row)
{
    size_t n = 13 + (size_t)row->table.n * LOCK_BYTES;
    struct rowbuf b;
    uint8_t *p;

    if (!row->holder && !row->table.n) {
        if (row->was)
            row_drop(f, ino);
        return;
    }
    f->n_locked += !row->was;
    p = tc_malloc(n);
    b = (struct rowbuf){p, p + n, false};
    put_u8(&b, FSM_FORMAT_VERSION);
    put_u64(&b, row->holder);
    put_u32(&b, row->table.n);
    for (uint32_t i = 0; i < row->table.n; i++) {
        const struct file_lock *l = &row->table.locks[i];

        put_u64(&b, l->session);
        put_u64(&b, l->owner);
        put_u64(&b, l->start);
        put_u64(&b, l->end);
        put_u32(&b, l->pid);
        put_u8(&b, l->family);
        put_u8(&b, l->type);
    }
    row_put(f, key_u64(TAB_LOCKS, ino), p, n);
    free(p);
}

static void row_free(struct lock_row *row)
{
    locks_fini(&row->table);
}

static bool take(const struct lock_item *it, uint64_t session, struct file_lock *ret)
{
    *ret = lock_of_item(it, session);
    return lock_valid(ret);
}

static int lock_check(struct fsm *f, uint64_t ino)
{
    const struct inode *in = fsm_inode_get(f, ino);

    return !in ? -TC_E_STALE : S_ISREG(in->mode) || S_ISDIR(in->mode) ? 0 : -TC_E_INVAL;
}

/* Nobody else has any: the session may keep its locks itself. */
static bool alone(const struct lock_row *row, uint64_t session)
{
    for (uint32_t i = 0; i < row->table.n; i++) {
        if (row->table.locks[i].session != session)
            return false;
    }
    return row->table.n > 0;
}

/* What stands in the way of @l, into @res. Returns whose it is, 0: nothing does. */
static uint64_t look(const struct lock_row *row, const struct file_lock *l, struct lock_res *res)
{
    const struct file_lock *other = locks_conflict(&row->table, l);

    if (!other)
        return 0;
    res->has_other = true;
    res->other = lock_to_item(other);
    return other->session;
}

static int lock_apply(struct fsm *f, const struct lock_req *req, struct lock_row *row)
{
    struct lock_res res = {0};
    struct file_lock l;
    int r;

    if (!take(&req->lock, req->ctx.session, &l))
        return -TC_E_INVAL;
    if (row->holder && row->holder != req->ctx.session && TC_RULE(LOCKS_RECALL))
        return -TC_E_LEASE_CONFLICT;
    (void)look(row, &l, &res);
    if (!res.has_other && !req->test) {
        r = locks_set(&row->table, &l);
        if (r < 0)
            return r;
        if (!row->holder && alone(row, req->ctx.session)) {
            row->holder = req->ctx.session;
            row->table.n = 0;
        }
        res.local = row->holder == req->ctx.session;
        row_save(f, req->ino, row);
    }
    answer(f, &lock_res_schema, &res);
    return 0;
}

int op_lock(struct fsm *f, const struct lock_req *req)
{
    struct lock_row row;
    int r = lock_check(f, req->ino);

    if (r == 0)
        r = row_load(f, req->ino, &row);
    if (r < 0)
        return r;
    r = lock_apply(f, req, &row);
    row_free(&row);
    return r;
}

int op_lock_end(struct fsm *f, const struct lock_end_req *req)
{
    uint64_t session = req->ctx.session;
    struct lock_row row;
    struct file_lock l;
    int r = row_load(f, req->ino, &row);

    if (r < 0)
        return r;
    for (uint32_t i = 0; i < req->locks.n && r == 0; i++) {
        if (!take(&req->locks.items[i], session, &l) || l.type == LOCK_UNLOCK)
            r = -TC_E_INVAL;
    }
    if (r == 0 && req->locks.n > LOCKS_MAX)
        r = -TC_E_LIMIT;
    if (r == 0 && row.holder == session) {
        row.holder = 0;
        row.table.n = 0;
        for (uint32_t i = 0; i < req->locks.n && TC_RULE(LOCKS_REGISTER); i++) {
            (void)take(&req->locks.items[i], session, &l);
            locks_add(&row.table, &l);
        }
        row_save(f, req->ino, &row);
    }
    if (r == 0)
        effect_add(f, FSM_LOCKS_ENDED, req->ino, session);
    row_free(&row);
    return r;
}


int fsm_lock_look(struct fsm *f, const struct lock_req *req, struct lock_res *ret, uint64_t *ret_session)
{
    struct lock_row row;
    struct file_lock l;
    int r = take(&req->lock, req->ctx.session, &l) ? lock_check(f, req->ino) : -TC_E_INVAL;

    *ret = (struct lock_res){0};
    if (r == 0)
        r = row_load(f, req->ino, &row);
    if (r < 0)
        return r;
    ret->held = row.holder && row.holder != req->ctx.session;
    *ret_session = ret->held ? row.holder : look(&row, &l, ret);
    row_free(&row);
    return 0;
}
