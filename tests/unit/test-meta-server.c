/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata server on a simulated network: three members, and clients that are scripts. What is shown is
 * what a client can see: answers, recalls, redirections, and what a new leader waits for.
 */
#include "unit/meta-world.h"

#include <check.h>
#include <stdio.h>

#include "common/log.h"
#include "common/map.h"

/* A file is made, found, written, read about. */
START_TEST(thin_path)
{
    struct entry_res made = make(A, "f", LEASE_X), found;
    struct lookup_req lookup = {.parent = INO_ROOT, .name = wire_str_of("f"), .want = LEASE_O};
    struct getattr_req getattr = {.ino = made.attr.ino};
    struct lookup_req none = {.parent = INO_ROOT, .name = wire_str_of("g")};

    ck_assert(made.has_grant);
    ck_assert_uint_eq(made.grant.kind, LEASE_X);
    ck_assert_int_eq(commit(A, &made.grant, 4096, COMMIT_RELEASE, 0, NULL), 0);
    ck_assert_int_eq(commit(A, &made.grant, 8192, COMMIT_KEEP, 0, NULL), -TC_E_LEASE_LOST);
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &found), 0);
    ck_assert_uint_eq(found.attr.ino, made.attr.ino);
    ck_assert_uint_eq(found.attr.size, 4096);
    ck_assert(found.has_grant);
    ck_assert_uint_eq(found.grant.kind, LEASE_O);
    ck_assert_int_eq(ASK(B, MSG_GETATTR, getattr_req, getattr, entry_res, &found), 0);
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, none, entry_res, &found), 0);
    ck_assert(found.negative);
}
END_TEST

/* A member that does not lead answers a read that allows it: what was committed before, without a grant; and not
 * what a mount may have changed under X, nor when it has nobody to ask. */
START_TEST(reads_anywhere)
{
    struct entry_res made = make(A, "f", LEASE_X), found;
    struct lookup_req lookup = {.parent = INO_ROOT, .name = wire_str_of("f"), .want = LEASE_S, .want_dir = LEASE_S};
    struct readdir_req readdir = {.ino = INO_ROOT, .max = 10, .plus = true};
    struct readdir_res list;

    only = (leader() + 1) % MEMBERS;
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &found), -TC_E_DEADLINE);
    lookup.ctx.anywhere = true;
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &found), -TC_E_DEADLINE); /* under X */
    readdir.ctx.anywhere = true;
    ck_assert_int_eq(ASK(B, MSG_READDIR, readdir_req, readdir, readdir_res, &list), 0);
    ck_assert_uint_eq(list.entries.n, 1);
    ck_assert(!list.entries.items[0].has_attr);
    only = -1;
    ck_assert_int_eq(commit(A, &made.grant, 4096, COMMIT_RELEASE, 0, NULL), 0);
    only = (leader() + 1) % MEMBERS;
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &found), 0);
    ck_assert_uint_eq(found.attr.size, 4096);
    ck_assert(!found.has_grant && !found.has_dir_grant);
    lookup.name = wire_str_of("g");
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &found), 0);
    ck_assert(found.negative);
    for (int i = 0; i < MEMBERS; i++) { /* alone it knows nobody to ask */
        if (i != only)
            member_kill((unsigned)i);
    }
    ck_assert_int_eq(ASK(B, MSG_LOOKUP, lookup_req, lookup, entry_res, &found), -TC_E_DEADLINE);
    only = -1;
}
END_TEST

/* The same request again, by whatever way and after a change of leaders: the same answer. */
START_TEST(exactly_once)
{
    struct make_req req = {.parent = INO_ROOT, .name = wire_str_of("f"), .mode = S_IFREG | 0644, .excl = true};
    struct entry_res first, again;
    uint64_t seq;

    ck_assert_int_eq(ASK(A, MSG_MAKE, make_req, req, entry_res, &first), 0);
    seq = req.ctx.seq;
    ck_assert_int_eq(ASK(A, MSG_MAKE, make_req, req, entry_res, &again), 0);
    ck_assert_uint_eq(again.attr.ino, first.attr.ino);
    member_kill((unsigned)leader());
    ck_assert(sim_run(s, in_ms(3000), has_leader, NULL));
    req.ctx.seq = seq;
    ck_assert_int_eq(ASK(A, MSG_MAKE, make_req, req, entry_res, &again), 0);
    ck_assert_uint_eq(again.attr.ino, first.attr.ino);
    req.ctx.seq = 0;
    ck_assert_int_eq(ask_for(A, MSG_MAKE, &make_req_schema, &req, &entry_res_schema, &again, 3000), -TC_E_EXIST);
}
END_TEST

/* Attributes under another's X are asked from its holder, who keeps it; data needs X to go down; X takes S away. */
START_TEST(recalls)
{
    struct entry_res made = make(A, "f", LEASE_X), res;
    struct getattr_req getattr = {.ino = made.attr.ino};
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_S};
    struct commit_result down;
    struct recall_item r;
    uint64_t id;

    id = post(B, MSG_GETATTR, &getattr_req_schema, &getattr);
    r = next_recall(A);
    ck_assert_uint_eq(r.kind, RECALL_ASK);
    ck_assert_int_eq(commit(A, &made.grant, 100, COMMIT_KEEP, r.recall, NULL), 0);
    B->waits_for = id; /* it has come meanwhile: ask again */
    ck_assert_int_eq(list(A, (struct lease_item[]){{.ino = made.attr.ino, .gterm = made.grant.gterm,
                                                    .gcount = made.grant.gcount, .kind = LEASE_X}}, 1), 0);
    ck_assert_int_eq(list(B, NULL, 0), 0);

    expect(B, post(B, MSG_LEASE_GET_READ, &lease_get_req_schema, &get));
    r = next_recall(A);
    ck_assert_uint_eq(r.kind, RECALL_DOWNGRADE);
    ck_assert(!B->answered);
    ck_assert_int_eq(commit(A, &made.grant, 200, COMMIT_DOWNGRADE, r.recall, &down), 0);
    ck_assert(down.has_grant);
    ck_assert_uint_eq(down.grant.kind, LEASE_S);
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 1000), 0);
    ck_assert_uint_eq(res.attr.size, 200);
    ck_assert(res.has_grant);
    ck_assert_uint_eq(res.grant.kind, LEASE_S);
    ck_assert_uint_ne(res.grant.recall, 0);

    get = (struct lease_get_req){.ino = made.attr.ino, .want = LEASE_X};
    expect(B, post(B, MSG_LEASE_GET_X, &lease_get_req_schema, &get));
    r = next_recall(A);
    ck_assert_uint_eq(r.kind, RECALL_ALL);
    ck_assert_uint_eq(r.gcount, down.grant.gcount);
    sim_run_until(s, in_ms(300));
    ck_assert(!B->answered);
    ck_assert_int_eq(ASK(A, MSG_GETATTR, getattr_req, getattr, entry_res, &res), 0); /* looking waits for no recall */
    ck_assert(!B->answered);
    ck_assert_int_eq(ack(A, &r, LEASE_O), 0);
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 1000), 0);
    ck_assert_uint_eq(res.grant.kind, LEASE_X);
    ck_assert_uint_gt(res.grant.epoch, made.grant.epoch);
    ck_assert_uint_eq(B->n_recalls, 0); /* nobody asks the requester */
}
END_TEST

/* What the holder says of its inode passes whoever waits for the holder: a recall may need it. */
START_TEST(holder_passes)
{
    struct entry_res made = make(A, "f", LEASE_X), res;
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_S};
    struct setattr_req set = {.ino = made.attr.ino, .mask = SET_MODE, .mode = 0600};
    struct recall_item r;

    expect(B, post(B, MSG_LEASE_GET_READ, &lease_get_req_schema, &get));
    r = next_recall(A);
    ck_assert_uint_eq(r.kind, RECALL_DOWNGRADE);
    ck_assert_int_eq(ASK(A, MSG_SETATTR, setattr_req, set, entry_res, &res), 0);
    ck_assert(!B->answered);
    ck_assert_int_eq(commit(A, &made.grant, 100, COMMIT_DOWNGRADE, r.recall, NULL), 0);
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 1000), 0);
    ck_assert_uint_eq(res.attr.mode & 0777, 0600);
}
END_TEST

/* A name that is about to be made by another is removed: whoever gets X with it is told, though the name was not there
 * when the removal came. */
START_TEST(name_under_way)
{
    struct make_req m = {.parent = INO_ROOT, .name = wire_str_of("f"), .mode = S_IFREG | 0644, .excl = true, .want = LEASE_X};
    struct unlink_req un = {.parent = INO_ROOT, .name = wire_str_of("f")};
    struct entry_res made, res;
    struct recall_item r;

    expect(A, post(A, MSG_MAKE, &make_req_schema, &m));
    expect(B, post(B, MSG_UNLINK, &unlink_req_schema, &un));
    ck_assert_int_eq(await_answer(A, &entry_res_schema, &made, 1000), 0);
    r = next_recall(A);
    ck_assert_uint_eq(r.kind, RECALL_ATTR);
    ck_assert_uint_eq(r.ino, made.attr.ino);
    ck_assert(!B->answered);
    ck_assert_int_eq(ack(A, &r, LEASE_X), 0);
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 1000), 0);
    ck_assert_uint_eq(res.replaced.nlink, 0);
}
END_TEST

/* A silent holder of X is expired after its TTL, and the file goes on under a new epoch. */
START_TEST(silent_holder)
{
    struct entry_res made = make(A, "f", LEASE_X), res;
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_X};
    uint64_t before = sim_now(s);

    A->silent = true;
    ck_assert_int_eq(ask_for(B, MSG_LEASE_GET_X, &lease_get_req_schema, &get, &entry_res_schema, &res, 15000), 0);
    ck_assert_uint_gt(sim_now(s) - before, 9 * NS_PER_S);
    ck_assert_uint_gt(res.grant.epoch, made.grant.epoch + 1);
    ck_assert_uint_eq(res.attr.data_state, DATA_UNCLEAN);
    ck_assert_int_eq(commit(A, &made.grant, 100, COMMIT_KEEP, 0, NULL), -TC_E_SESSION_EXPIRED);
}
END_TEST

/* A new leader holds back what an S that it does not know could conflict with, for a list or 2.2 s. */
START_TEST(grace)
{
    struct make_req req = {.parent = INO_ROOT, .name = wire_str_of("g"), .mode = S_IFDIR | 0755, .excl = true};
    struct entry_res res;
    uint64_t elected;

    member_kill((unsigned)leader());
    ck_assert(sim_run(s, in_ms(3000), has_leader, NULL));
    elected = sim_now(s);
    expect(B, post(B, MSG_MAKE, &make_req_schema, &req));
    sim_run_until(s, in_ms(500));
    ck_assert(!B->answered);
    ck_assert_int_eq(list(A, NULL, 0), 0);
    ck_assert(!B->answered); /* its own list is missing */
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 3000), 0);
    ck_assert_uint_gt(sim_now(s) - elected, 2 * NS_PER_S);
}
END_TEST

/* An S asserted in the list that ends a new leader's waiting is recalled before what waited goes on; the next term's
 * leader knows it in the same way. */
START_TEST(grace_with_s)
{
    struct make_req req = {.parent = INO_ROOT, .name = wire_str_of("g"), .mode = S_IFDIR | 0755, .excl = true};
    struct lease_item s_of_root = {.ino = INO_ROOT, .gterm = 1, .gcount = UINT64_C(1) << 63 | 5, .kind = LEASE_S};
    struct entry_res res;
    struct recall_item r;

    member_kill((unsigned)leader());
    ck_assert(sim_run(s, in_ms(3000), has_leader, NULL));
    ck_assert_int_eq(list(B, NULL, 0), 0);
    expect(B, post(B, MSG_MAKE, &make_req_schema, &req));
    sim_run_until(s, in_ms(500));
    ck_assert(!B->answered);
    ck_assert_int_eq(list(A, &s_of_root, 1), 0);
    r = next_recall(A);
    ck_assert_uint_eq(r.kind, RECALL_ENTRY);
    ck_assert_uint_eq(r.gcount, s_of_root.gcount);
    sim_run_until(s, in_ms(300));
    ck_assert(!B->answered);
    ck_assert_int_eq(ack(A, &r, LEASE_S), 0);
    ck_assert_int_eq(await_answer(B, &entry_res_schema, &res, 1000), 0);
}
END_TEST

/* An unlinked file lives as long as somebody has it open. */
START_TEST(reaping)
{
    struct entry_res made = make(A, "f", 0), res;
    struct lease_get_req get = {.ino = made.attr.ino, .want = LEASE_O};
    struct unlink_req unlink = {.parent = INO_ROOT, .name = wire_str_of("f")};
    struct getattr_req getattr = {.ino = made.attr.ino};
    struct lease_item item;
    struct lease_release_req release = {.items = {&item, 1}};

    ck_assert_int_eq(ASK(A, MSG_LEASE_GET_READ, lease_get_req, get, entry_res, &res), 0);
    ck_assert(res.has_grant);
    item = (struct lease_item){.ino = made.attr.ino, .gterm = res.grant.gterm, .gcount = res.grant.gcount, .kind = LEASE_O};
    ck_assert_int_eq(ASK(B, MSG_UNLINK, unlink_req, unlink, entry_res, &res), 0);
    sim_run_until(s, in_ms(5000));
    ck_assert_int_eq(ASK(A, MSG_GETATTR, getattr_req, getattr, entry_res, &res), 0);
    ck_assert_uint_eq(res.attr.nlink, 0);
    ck_assert_int_eq(ASK(A, MSG_LEASE_RELEASE, lease_release_req, release, empty_msg, NULL), 0);
    sim_run_until(s, in_ms(5000));
    ck_assert_int_lt(ASK(A, MSG_GETATTR, getattr_req, getattr, entry_res, &res), 0);
}
END_TEST

/* From the proposal of a reap to its application nothing is granted on the inode: it would be held, and gone. */
START_TEST(reaping_grants_nothing)
{
    struct entry_res made = make(A, "f", 0), res;
    struct unlink_req unlink = {.parent = INO_ROOT, .name = wire_str_of("f")};
    struct getattr_req getattr = {.ino = made.attr.ino};
    struct wire_arena arena = {0};
    struct attr attr;
    int lead = leader();

    for (unsigned i = 0; i < MEMBERS; i++) { /* an entry takes a while, within the leader's lease */
        if ((int)i != lead)
            sim_net_lag(s, members[lead].node, members[i].node, 100 * NS_PER_MS);
    }
    ck_assert_int_eq(ASK(B, MSG_UNLINK, unlink_req, unlink, entry_res, &res), 0);
    for (int n = 0; n < 500 && ASK(A, MSG_GETATTR, getattr_req, getattr, entry_res, &res) == 0; n++)
        sim_run_until(s, in_ms(5));
    ck_assert_int_eq(leader(), lead);
    ck_assert_int_eq(fsm_getattr(meta_server_fsm(members[lead].server), 0, made.attr.ino, &arena, &attr), 0);
    sim_run_until(s, in_ms(500));
    ck_assert_int_lt(fsm_getattr(meta_server_fsm(members[lead].server), 0, made.attr.ino, &arena, &attr), 0);
    wire_arena_fini(&arena);
}
END_TEST

/* A member that comes back has what it had, and follows. */
START_TEST(restart)
{
    struct entry_res made = make(A, "f", 0), res;
    struct getattr_req getattr = {.ino = made.attr.ino};

    meta_server_checkpoint(members[0].server);
    sim_run_until(s, in_ms(500));
    for (unsigned i = 0; i < MEMBERS; i++)
        member_kill(i);
    for (unsigned i = 0; i < MEMBERS; i++)
        member_start(i);
    ck_assert(sim_run(s, in_ms(3000), has_leader, NULL));
    ck_assert_int_eq(ASK(A, MSG_GETATTR, getattr_req, getattr, entry_res, &res), 0);
    sim_run_until(s, in_ms(1000));
    for (unsigned i = 1; i < MEMBERS; i++) {
        ck_assert_uint_eq(meta_server_applied(members[i].server), meta_server_applied(members[0].server));
        ck_assert_uint_eq(fsm_state_hash(meta_server_fsm(members[i].server)),
                          fsm_state_hash(meta_server_fsm(members[0].server)));
    }
}
END_TEST

static int change(enum meta_change_op op, unsigned i)
{
    struct meta_change_req req = {.op = op, .member = i + 1, .endpoint = wire_str_of(members[i].endpoint)};
    int r = -TC_E_DEADLINE;

    for (unsigned n = 0; n < 50 && r < 0; n++) { /* refused while another is under way, or it is not caught up */
        r = ASK(A, MSG_META_CHANGE, meta_change_req, req, meta_change_res, NULL);
        sim_run_until(s, in_ms(100));
    }
    return r;
}

static bool begins_to_be_filled(void *arg)
{
    return meta_server_applied(members[*(unsigned *)arg].server) > 0;
}

/* PROTOCOL 1.6: a member that was filled up to somewhere before its own addition, checkpointed that and died, starts; it
 * takes no part until it has heard of it. */
START_TEST(not_yet_a_member)
{
    unsigned out = (unsigned)(leader() + 1) % MEMBERS;
    char name[16];
    uint32_t n;
    struct make_req req = {.parent = INO_ROOT, .mode = S_IFREG | 0644, .excl = true};
    struct meta_change_req add;

    ck_assert_int_eq(change(META_REMOVE, out), 0);
    member_kill(out);
    sim_disk_erase(sim_node_disk(members[out].node));
    for (unsigned i = 0; i < 4500; i++) { /* more than one message has */
        snprintf(name, sizeof name, "n%u", i);
        req.name = wire_str_of(name);
        req.ctx.watermark = A->seq;
        req.ctx.seq = 0;
        ck_assert_int_eq(ASK(A, MSG_MAKE, make_req, req, entry_res, NULL), 0);
    }
    member_start(out);
    add = (struct meta_change_req){.op = META_ADD, .member = out + 1, .endpoint = wire_str_of(members[out].endpoint)};
    post(A, MSG_META_CHANGE, &meta_change_req_schema, &add);
    ck_assert(sim_run(s, in_ms(3000), begins_to_be_filled, &out));
    for (unsigned i = 0; i < MEMBERS; i++)
        sim_net_cut(s, members[i].node, members[out].node, i != out);
    sim_run_until(s, in_ms(300));
    fsm_members(meta_server_fsm(members[out].server), &n);
    ck_assert_uint_eq(n, MEMBERS - 1);
    meta_server_checkpoint(members[out].server);
    sim_run_until(s, in_ms(500));
    member_kill(out);
    member_start(out);
    sim_net_heal(s);
    ck_assert_int_eq(change(META_PROMOTE, out), 0);
    sim_run_until(s, in_ms(1000));
    ck_assert_uint_eq(fsm_state_hash(meta_server_fsm(members[out].server)),
                      fsm_state_hash(meta_server_fsm(members[leader()].server)));
}
END_TEST

/* ---- stores: scripts of the client's ---- */

static int store_register(struct client *c, uint64_t node)
{
    struct store_register_req req = {.store = 100 + node, .start = 1, .node = (uint32_t)node, .empty = true,
                                     .endpoint = wire_str_of("tcp://nowhere:1"), .capacity = UINT64_C(1) << 40};

    return ASK(c, MSG_STORE_REGISTER, store_register_req, req, store_register_res, NULL);
}

static uint64_t gc_done[5]; /* by node: how far each has deleted */

static struct store_beat_res store_beat(struct client *c, uint64_t node, struct pg_ready *ready, uint32_t n_ready)
{
    struct store_beat_req req = {.store = 100 + node, .start = 1, .capacity = UINT64_C(1) << 40, .free = UINT64_C(1) << 39,
                                 .ready = {ready, n_ready}, .gc_done = gc_done[node]};
    struct store_beat_res res;

    ck_assert_int_eq(ASK(c, MSG_STORE_BEAT, store_beat_req, req, store_beat_res, &res), 0);
    return res;
}

/* For @ms, stores @from to 4 beat. */
static void beat_for(struct client *c, uint64_t from, uint64_t ms)
{
    for (uint64_t until = in_ms(ms); sim_now(s) < until;) {
        for (uint64_t node = from; node <= 4; node++)
            store_beat(c, node, NULL, 0);
        sim_run_until(s, in_ms(200));
    }
}

/* The group as the leader has it. */
static struct map_pg group(uint32_t pg)
{
    return *fsm_pg(meta_server_fsm(members[leader()].server), pg);
}

static uint32_t in_transition(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < 16; i++)
        n += group(i).n_next > 0;
    return n;
}

/* PROTOCOL 6.3: a store that is silent for nearly 2 s has its groups moved to a spare. A group ends its transition when the
 * newcomer is complete at this very epoch, not by what it said of another; the store comes back, and the rest is
 * called off. */
START_TEST(transitions)
{
    struct pg_ready ready;
    struct map_pg pg;
    uint32_t first = 16, n;

    for (uint64_t node = 1; node <= 4; node++)
        ck_assert_int_eq(store_register(A, node), 0);
    beat_for(A, 1, 4000);
    ck_assert(fsm_has_table(meta_server_fsm(members[leader()].server)));
    ck_assert_uint_eq(in_transition(), 0);
    beat_for(A, 2, 1200);
    ck_assert_uint_eq(in_transition(), 0);
    beat_for(A, 2, 1500);
    n = in_transition();
    ck_assert_uint_gt(n, 4);
    for (uint32_t i = 0; i < 16 && first == 16; i++)
        first = group(i).n_next ? i : first;
    pg = group(first);
    for (unsigned v = 0; v < 3; v++)
        ck_assert_uint_ne(pg.next[v], 101);
    for (uint64_t node = 2; node <= 4; node++) { /* complete, but at the epoch before */
        ready = (struct pg_ready){first, pg.epoch - 1};
        store_beat(A, node, &ready, 1);
    }
    sim_run_until(s, in_ms(1200));
    ck_assert_uint_eq(in_transition(), n);
    for (uint64_t node = 2; node <= 4; node++) {
        ready = (struct pg_ready){first, pg.epoch};
        store_beat(A, node, &ready, 1);
    }
    sim_run_until(s, in_ms(200));
    ck_assert_uint_eq(in_transition(), n - 1);
    ck_assert_mem_eq(group(first).voters, pg.next, sizeof pg.next);
    beat_for(A, 1, 400);
    ck_assert_uint_le(in_transition(), 1); /* balance may ask for one */
}
END_TEST

/* PROTOCOL 5.4: what is to be deleted stays in the list until every store has done it. */
START_TEST(gc_waits_for_all)
{
    struct setattr_req truncate = {.ino = make(A, "f", 0).attr.ino, .mask = SET_SIZE, .size = 8192};
    struct entry_res res;
    uint64_t first, last;

    for (uint64_t node = 1; node <= 4; node++)
        ck_assert_int_eq(store_register(A, node), 0);
    beat_for(A, 1, 4000);
    ck_assert_int_eq(ASK(A, MSG_SETATTR, setattr_req, truncate, entry_res, &res), 0);
    truncate.size = 0;
    truncate.ctx.seq = 0;
    ck_assert_int_eq(ASK(A, MSG_SETATTR, setattr_req, truncate, entry_res, &res), 0);
    for (uint64_t node = 1; node <= 4; node++) {
        beat_for(A, 1, 1500);
        fsm_gc_range(meta_server_fsm(members[leader()].server), &first, &last);
        ck_assert_uint_le(first, last);
        gc_done[node] = last;
    }
    beat_for(A, 1, 1500);
    fsm_gc_range(meta_server_fsm(members[leader()].server), &first, &last);
    ck_assert_uint_gt(first, last);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("meta-server");
    TCase *c = tcase_create("meta-server");
    SRunner *r;

    log_setup(LOG_LEVEL_ERR, 2);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, thin_path);
    tcase_add_test(c, reads_anywhere);
    tcase_add_test(c, exactly_once);
    tcase_add_test(c, recalls);
    tcase_add_test(c, holder_passes);
    tcase_add_test(c, name_under_way);
    tcase_add_test(c, silent_holder);
    tcase_add_test(c, grace);
    tcase_add_test(c, grace_with_s);
    tcase_add_test(c, reaping);
    tcase_add_test(c, reaping_grants_nothing);
    tcase_add_test(c, restart);
    tcase_add_test(c, not_yet_a_member);
    tcase_add_test(c, transitions);
    tcase_add_test(c, gc_waits_for_all);
    suite_add_tcase(suite, c);
    r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    srunner_free(r);
    return 0;
}
