/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leader's lease table: who waits for whom, what a recall ends, what a list keeps. Pure, so each case
 * is a script of calls with the time as a number.
 */
#include "meta/leases.h"

#include <check.h>

enum { TERM = 7 };

static struct leases *l;
static struct lease_session a, b;

static void setup(void)
{
    l = leases_new(TERM);
    a = (struct lease_session){.id = 1};
    b = (struct lease_session){.id = 2};
    lease_session_init(l, &a, true);
    lease_session_init(l, &b, true);
    a.caching_until = b.caching_until = 1000;
}

static void teardown(void)
{
    lease_session_end(l, &a);
    lease_session_end(l, &b);
    leases_free(l);
}

/* @op of @session on one inode. In place: the queues point into it. */
static void op_on(struct lease_op *op, uint64_t session, uint64_t ino, enum lease_mode mode)
{
    *op = (struct lease_op){.session = session};
    lease_op_add(op, ino, mode);
}

static struct lease_item ack_of(const struct lease_recall *c, uint32_t keep)
{
    return (struct lease_item){.ino = c->ino, .gterm = c->gterm, .gcount = c->gcount, .recall = c->number, .keep = keep};
}

#define ENTER(op)                                \
    do {                                         \
        lease_op_enqueue(l, &(op));              \
        ck_assert(lease_op_admissible(&(op)));   \
        lease_op_begin(&(op));                   \
    } while (0)

/* A retry gets the same grant, another request a new one, and a release of the old one does nothing. */
START_TEST(grant_ids)
{
    struct lease_ref *r = lease_give(l, &a, 10, LEASE_O, 100);
    uint64_t first = r->gcount;
    struct lease_item old = {.ino = 10, .gterm = TERM, .gcount = first};

    ck_assert_uint_eq(lease_give(l, &a, 10, LEASE_O, 100)->gcount, first);
    ck_assert_uint_gt(lease_give(l, &a, 10, LEASE_O, 101)->gcount, first);
    leases_release(l, &a, &old);
    ck_assert(lease_any_ref(l, 10));
    old.gcount = r->gcount;
    leases_release(l, &a, &old);
    ck_assert(!lease_any_ref(l, 10));
    ck_assert_uint_eq(leases_refs(l), 0);

    r = lease_give(l, &a, 10, LEASE_S, 102); /* given back while the file is open: O stays */
    old.gcount = r->gcount;
    old.keep = LEASE_O;
    leases_release(l, &a, &old);
    ck_assert_uint_eq(lease_find(l, &a, 10)->kinds, LEASE_O);
    old.keep = 0;
    leases_release(l, &a, &old);
    ck_assert_uint_eq(leases_refs(l), 0);
}
END_TEST

/* A change waits for the acknowledgement of S, marks its inode as changing, and leaves O. */
START_TEST(recall_all)
{
    struct lease_op op;
    struct lease_item ack;

    op_on(&op, b.id, 10, LEASE_MODE_EXCLUSIVE);
    lease_give(l, &a, 10, LEASE_S | LEASE_O, 1);
    ENTER(op);
    ck_assert(lease_changing(l, 10, NULL));
    lease_recall_s(l, &op, 10, b.id, RECALL_ALL, wire_str_of(""), 500);
    ck_assert_uint_eq(op.waits, 1);
    ack = ack_of(a.recalls, LEASE_O);
    ack.recall--;
    ck_assert_ptr_null(leases_ack(l, &a, &ack)); /* another recall's: nothing */
    ck_assert_uint_eq(op.waits, 1);
    ack.recall++;
    leases_ack(l, &a, &ack);
    ck_assert_uint_eq(op.waits, 0);
    ck_assert_ptr_eq(lease_ready_next(l), &op);
    ck_assert_uint_eq(lease_find(l, &a, 10)->kinds, LEASE_O);
    lease_op_proposed(l, &op);
    ck_assert(lease_changing(l, 10, NULL));
    lease_op_finish(l, &op);
    ck_assert(!lease_changing(l, 10, NULL));
}
END_TEST

/* Nobody waits for a session whose caching right has run out; it has to enter a new generation. */
START_TEST(caching_ran_out)
{
    struct lease_op op;

    op_on(&op, b.id, 10, LEASE_MODE_CHANGE);
    lease_give(l, &a, 10, LEASE_S, 1);
    ENTER(op);
    lease_recall_s(l, &op, 10, b.id, RECALL_ENTRY, wire_str_of("x"), 1001);
    ck_assert_uint_eq(op.waits, 0);
    ck_assert_uint_eq(a.gen_n, 2);
    ck_assert(!a.asserted);
    ck_assert_uint_eq(lease_find(l, &a, 10)->kinds, LEASE_O);
    lease_op_finish(l, &op);
}
END_TEST

/* The same while it is being waited for. */
START_TEST(caching_runs_out)
{
    struct lease_op op;

    op_on(&op, b.id, 10, LEASE_MODE_CHANGE);
    lease_give(l, &a, 10, LEASE_S, 1);
    ENTER(op);
    lease_recall_s(l, &op, 10, b.id, RECALL_ALL, wire_str_of(""), 900);
    lease_expire_caching(l, &a, 1000);
    ck_assert_uint_eq(op.waits, 1);
    lease_expire_caching(l, &a, 1001);
    ck_assert_uint_eq(op.waits, 0);
    lease_op_finish(l, &op);
}
END_TEST

/* X ends by the state machine's word alone; an acknowledgement says only that it is not known. */
START_TEST(recall_x)
{
    struct lease_op op;
    struct lease_item ack;

    op_on(&op, b.id, 10, LEASE_MODE_EXCLUSIVE);
    lease_x_granted(l, &a, 10, TERM, 55);
    ENTER(op);
    lease_recall_x(l, &op, 10, &a, RECALL_ALL, TERM, 55, 0);
    ack = ack_of(a.recalls, 0);
    ck_assert_ptr_eq(leases_ack(l, &a, &ack), a.recalls);
    ck_assert_uint_eq(op.waits, 1);
    lease_x_ended(l, &a, 10, TERM, 55, LEASE_O, 60);
    ck_assert_uint_eq(op.waits, 0);
    ck_assert_uint_eq(lease_find(l, &a, 10)->gcount, 60);
    lease_op_finish(l, &op);
}
END_TEST

/* Readers that come before the question is on its way share it; later ones need a new one. */
START_TEST(asks_are_shared)
{
    struct lease_op p = {.session = b.id}, q = {.session = b.id}, r = {.session = b.id};

    lease_recall_x(l, &p, 10, &a, RECALL_ASK, TERM, 55, 0);
    lease_recall_x(l, &q, 10, &a, RECALL_ASK, TERM, 55, 0);
    ck_assert_ptr_null(a.recalls->next);
    a.recalls->sent_at = 1;
    lease_recall_x(l, &r, 10, &a, RECALL_ASK, TERM, 55, 0);
    ck_assert_ptr_nonnull(a.recalls->next);
    lease_committed(l, &a, 10, a.recalls->number, 5);
    ck_assert_uint_eq(p.waits + q.waits, 0);
    ck_assert_uint_eq(r.waits, 1);
    lease_committed(l, &a, 10, a.recalls->number, 6);
    ck_assert_uint_eq(r.waits, 0);
    lease_op_finish(l, &p);
    lease_op_finish(l, &q);
    lease_op_finish(l, &r);
}
END_TEST

/* Changes of names are proposed side by side; X and S wait for what is proposed, in order. */
START_TEST(queue_order)
{
    struct lease_op p, q, x, s;

    op_on(&p, a.id, 10, LEASE_MODE_CHANGE);
    op_on(&q, b.id, 10, LEASE_MODE_CHANGE);
    op_on(&x, b.id, 10, LEASE_MODE_EXCLUSIVE);
    op_on(&s, a.id, 10, LEASE_MODE_READ);
    ENTER(p);
    lease_op_enqueue(l, &q);
    ck_assert(!lease_op_admissible(&q)); /* p is recalling */
    lease_op_proposed(l, &p);
    ck_assert_ptr_eq(lease_ready_next(l), &q);
    ck_assert(lease_op_admissible(&q));
    lease_op_begin(&q);
    lease_op_proposed(l, &q);
    lease_op_enqueue(l, &x);
    ck_assert(!lease_op_admissible(&x)); /* p is another session's */
    lease_op_enqueue(l, &s);
    lease_op_finish(l, &p);
    ck_assert(lease_op_admissible(&x)); /* q is its own */
    ck_assert(!lease_op_admissible(&s));
    lease_op_begin(&x);
    lease_op_proposed(l, &x);
    ck_assert(!lease_op_admissible(&s));
    lease_op_finish(l, &q);
    lease_op_finish(l, &x);
    ck_assert_ptr_eq(lease_ready_next(l), &s);
    ck_assert(lease_op_admissible(&s));
    lease_op_finish(l, &s);
    ck_assert_ptr_null(lease_ready_next(l));
}
END_TEST

/* What goes past the queue may take X again: whoever was recalling it waits until that is known. */
START_TEST(bypass_blocks)
{
    struct lease_op p, x;

    op_on(&p, b.id, 10, LEASE_MODE_EXCLUSIVE);
    op_on(&x, a.id, 10, LEASE_MODE_EXCLUSIVE);
    ENTER(p);
    lease_recall_x(l, &p, 10, &a, RECALL_ALL, TERM, 55, 0);
    lease_op_bypass(l, &x);
    lease_x_ended(l, &a, 10, TERM, 55, 0, 0);
    ck_assert_ptr_eq(lease_ready_next(l), &p);
    ck_assert(lease_op_blocked(&p));
    lease_op_finish(l, &x);
    ck_assert_ptr_eq(lease_ready_next(l), &p);
    ck_assert(!lease_op_blocked(&p));
    lease_op_finish(l, &p);
}
END_TEST

/* Two operations on the same two inodes, named in opposite order, never wait for each other. */
START_TEST(queue_no_deadlock)
{
    struct lease_op p = {.session = 1}, q = {.session = 2}, r = {.session = 3};

    lease_op_add(&p, 20, LEASE_MODE_EXCLUSIVE);
    lease_op_add(&p, 10, LEASE_MODE_EXCLUSIVE);
    lease_op_add(&q, 10, LEASE_MODE_EXCLUSIVE);
    lease_op_add(&q, 20, LEASE_MODE_EXCLUSIVE);
    lease_op_enqueue(l, &p);
    lease_op_enqueue(l, &q);
    ck_assert(lease_op_admissible(&p));
    ck_assert(!lease_op_admissible(&q));
    lease_op_add(&r, 5, LEASE_MODE_EXCLUSIVE);
    lease_op_add(&r, 20, LEASE_MODE_EXCLUSIVE);
    lease_op_enqueue(l, &r);
    ck_assert(!lease_op_admissible(&r)); /* first in one queue, third in the other */
    lease_op_finish(l, &p);
    ck_assert(lease_op_admissible(&q));
    lease_op_finish(l, &q);
    ck_assert(lease_op_admissible(&r));
    lease_op_finish(l, &r);
}
END_TEST

/* A list counts once, in order of pages, and only for the generation it names; what is not on it goes. */
START_TEST(lists)
{
    struct lease_item items[] = {{.ino = 10, .gterm = 1, .gcount = 5, .kind = LEASE_S},
                                 {.ino = 11, .gterm = 1, .gcount = 6, .kind = LEASE_X}};
    struct lease_list_req req = {.gen_term = TERM, .gen_n = 1, .items = {items, 1}};
    struct lease_session c = {.id = 3};

    lease_session_init(l, &c, false);
    req.page = 1;
    ck_assert(!lease_session_list(l, &c, &req));
    req.page = 0;
    ck_assert(!lease_session_list(l, &c, &req));
    req.page = 1;
    req.items.items = items + 1;
    req.last = true;
    ck_assert(lease_session_list(l, &c, &req));
    ck_assert(c.asserted);
    ck_assert_uint_eq(lease_find(l, &c, 10)->kinds, LEASE_S);
    ck_assert_uint_eq(lease_find(l, &c, 11)->kinds, LEASE_O);
    ck_assert(!lease_session_list(l, &c, &req));
    lease_session_drop_s(l, &c);
    req = (struct lease_list_req){.gen_term = TERM, .gen_n = 1, .last = true};
    ck_assert(!lease_session_list(l, &c, &req)); /* late */
    req.gen_n = 2;
    lease_give(l, &c, 12, LEASE_O, 9); /* in the new generation: stays */
    ck_assert(lease_session_list(l, &c, &req));
    ck_assert(!lease_any_ref(l, 10));
    ck_assert(lease_any_ref(l, 12));
    lease_session_end(l, &c);
}
END_TEST

/* A session must not believe that it holds an S that was not taken: its generation ends with the list, and in the next
 * one it asserts none. */
START_TEST(list_with_s_refused)
{
    struct lease_item items[] = {{.ino = 10, .gterm = 1, .gcount = 5, .kind = LEASE_S},
                                 {.ino = 11, .gterm = 1, .gcount = 6, .kind = LEASE_S}};
    struct lease_list_req req = {.gen_term = TERM, .gen_n = 1, .last = true, .items = {items, 2}};
    struct lease_session c = {.id = 3};
    struct lease_op op;

    lease_session_init(l, &c, false);
    op_on(&op, 1, 11, LEASE_MODE_CHANGE);
    ENTER(op);
    ck_assert(!lease_session_list(l, &c, &req));
    ck_assert(!c.asserted);
    ck_assert_uint_eq(c.gen_n, 2);
    ck_assert_uint_eq(lease_find(l, &c, 10)->kinds, LEASE_O);
    ck_assert_ptr_null(lease_find(l, &c, 11));
    ck_assert(!lease_session_list(l, &c, &req));
    req.gen_n = 2;
    ck_assert(lease_session_list(l, &c, &req));
    ck_assert_uint_eq(lease_find(l, &c, 11)->kinds, LEASE_O);
    lease_op_finish(l, &op);
    lease_session_end(l, &c);
}
END_TEST

/* Who may hold an inode without a name is asked, after a while and ever more seldom; what it says remains. */
START_TEST(orphans_are_asked_for)
{
    struct lease_ref *r = lease_give(l, &a, 10, LEASE_S, 1);
    struct lease_item item;

    lease_ask_orphan(l, r, NS_PER_S);
    ck_assert_ptr_null(a.recalls); /* most go by themselves */
    lease_ask_orphan(l, r, 7 * NS_PER_S);
    ck_assert(a.recalls && a.recalls->orphan && a.recalls->kind == RECALL_ATTR);
    lease_ask_orphan(l, r, 8 * NS_PER_S);
    ck_assert_ptr_null(a.recalls->next);
    item = ack_of(a.recalls, LEASE_O);
    (void)lease_give(l, &a, 10, LEASE_S, 2); /* on its way while the question was: not meant by the answer */
    leases_ack(l, &a, &item);
    ck_assert_ptr_null(a.recalls);
    ck_assert_uint_eq(r->kinds, LEASE_S);

    lease_ask_orphan(l, r, 100 * NS_PER_S);
    item = ack_of(a.recalls, 0);
    leases_ack(l, &a, &item);
    ck_assert(!lease_any_ref(l, 10));
}
END_TEST

/* Data written out is progress of whatever is recalled with it. */
START_TEST(flushing_is_progress)
{
    struct lease_op op;

    op_on(&op, b.id, 10, LEASE_MODE_EXCLUSIVE);
    lease_x_granted(l, &a, 10, TERM, 5);
    ENTER(op);
    lease_recall_x(l, &op, 10, &a, RECALL_ALL, TERM, 5, 500);
    lease_progress(&a, 900);
    ck_assert_uint_eq(a.recalls->progress_at, 900);
    lease_x_ended(l, &a, 10, TERM, 5, 0, 0);
    ck_assert_uint_eq(op.waits, 0);
    lease_op_finish(l, &op);
}
END_TEST

/* Whoever waits for a session is freed by its end. */
START_TEST(session_ends)
{
    struct lease_op op;

    op_on(&op, b.id, 10, LEASE_MODE_EXCLUSIVE);
    lease_give(l, &a, 10, LEASE_S, 1);
    ENTER(op);
    lease_recall_s(l, &op, 10, b.id, RECALL_ALL, wire_str_of(""), 500);
    lease_session_end(l, &a);
    ck_assert_uint_eq(op.waits, 0);
    ck_assert_ptr_eq(lease_ready_next(l), &op);
    lease_op_finish(l, &op);
}
END_TEST

START_TEST(recovery_waits)
{
    struct lease_op p = {.session = 1}, q = {.session = 2};

    ck_assert(lease_wait_recovery(l, &p, 10));
    ck_assert(!lease_wait_recovery(l, &q, 10));
    ck_assert(lease_recovering(l, 10));
    lease_recovered(l, 10);
    ck_assert_uint_eq(p.waits + q.waits, 0);
    ck_assert(!lease_recovering(l, 10));
    lease_op_finish(l, &p);
    lease_op_finish(l, &q);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("leases");
    TCase *c = tcase_create("leases");
    SRunner *r;

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, grant_ids);
    tcase_add_test(c, recall_all);
    tcase_add_test(c, caching_ran_out);
    tcase_add_test(c, caching_runs_out);
    tcase_add_test(c, recall_x);
    tcase_add_test(c, asks_are_shared);
    tcase_add_test(c, queue_order);
    tcase_add_test(c, bypass_blocks);
    tcase_add_test(c, queue_no_deadlock);
    tcase_add_test(c, lists);
    tcase_add_test(c, list_with_s_refused);
    tcase_add_test(c, orphans_are_asked_for);
    tcase_add_test(c, flushing_is_progress);
    tcase_add_test(c, session_ends);
    tcase_add_test(c, recovery_waits);
    suite_add_tcase(s, c);
    r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    srunner_free(r);
    return 0;
}
