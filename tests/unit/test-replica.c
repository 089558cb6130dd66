/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replicas on the simulated world: format, replication, crashes, power loss, lost and damaged disks,
 * snapshots, a full disk. The state machine is a list of what was applied, in a kv_mem; what one member
 * applies at an index every other must apply there, too, and what was acknowledged stays.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/aside.h"
#include "common/log.h"
#include "common/schema.h"
#include "meta/replica.h"
#include "meta/replica_disk.h"
#include "sim/sim.h"

enum { MEMBERS = 3, INDEX_MAX = 20000 };

struct member {
    struct sim_node *node;
    struct env *env;
    struct replica *r;
    struct kv *kv;
    struct kv_batch *batch;
    struct net_port *port;
    uint32_t id;
    uint64_t applied, hash;
    uint64_t term; /* as leader_changed told */
    bool leads, failed;
    unsigned installed;
};

static struct member members[MEMBERS];
static struct sim *sim;
static uint64_t truth[INDEX_MAX]; /* hash of the state after an index */
static unsigned acked, lost;
static uint64_t acked_index[INDEX_MAX];
static uint32_t keep_entries;
static bool damage_expected;
static int formatted[MEMBERS];

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ (h >> 29);
}

static void put_u64(struct member *m, const char *key, uint64_t v)
{
    kv_batch_put(m->batch, slice_of(key, strlen(key)), slice_of(&v, sizeof v));
}

static uint64_t get_u64(struct member *m, const char *key)
{
    struct kv_value v = {0};
    uint64_t ret = 0;

    if (kv_get(m->kv, slice_of(key, strlen(key)), &v) == 0) {
        memcpy(&ret, v.data, sizeof ret);
        kv_value_free(&v);
    }
    return ret;
}

static void on_apply(void *arg, uint64_t index, uint64_t term, struct slice data, void *cookie)
{
    struct member *m = arg;
    char key[32];

    ck_assert_uint_eq(index, m->applied + 1);
    m->hash = mix(mix(m->hash, index), term);
    for (size_t i = 0; i < data.len; i++)
        m->hash = mix(m->hash, ((const uint8_t *)data.data)[i]);
    if (truth[index] != 0)
        ck_assert_uint_eq(truth[index], m->hash);
    truth[index] = m->hash;
    m->applied = index;
    snprintf(key, sizeof key, "e%06" PRIu64, index);
    kv_batch_put(m->batch, slice_of(key, strlen(key)), data);
    put_u64(m, "applied", m->applied);
    put_u64(m, "hash", m->hash);
    ck_assert_int_eq(kv_write(m->kv, m->batch), 0);
    if (cookie) {
        acked++;
        acked_index[index] = m->hash;
    }
}

static void on_leader(void *arg, uint64_t term, uint32_t leader, bool self)
{
    struct member *m = arg;

    ck_assert_uint_ge(term, m->term);
    ck_assert(!self || leader == m->id);
    m->term = term;
    m->leads = self;
}

static void on_lost(void *arg, void *cookie, int err)
{
    (void)arg;
    ck_assert_ptr_nonnull(cookie);
    ck_assert_int_eq(err, -TC_E_NOT_LEADER);
    lost++;
}

static struct kv_snapshot *on_take(void *arg, struct kv **ret_kv, uint64_t *ret_index)
{
    struct member *m = arg;

    *ret_kv = m->kv;
    *ret_index = m->applied;
    return kv_snapshot_new(m->kv);
}

static void kv_open_at(struct member *m, const char *path)
{
    ck_assert_int_eq(kv_open_mem(env_vfs(m->env), path, &m->kv), 0);
    m->batch = kv_batch_new(m->kv);
    m->applied = get_u64(m, "applied");
    m->hash = get_u64(m, "hash");
}

static void kv_shut(struct member *m)
{
    if (m->batch)
        kv_batch_free(m->batch);
    kv_close(m->kv);
    m->kv = NULL;
    m->batch = NULL;
}

static void on_installed(void *arg, const char *kv_path, uint64_t index, uint64_t term)
{
    struct member *m = arg;

    (void)term;
    kv_shut(m);
    kv_open_at(m, kv_path);
    ck_assert_uint_eq(m->applied, index);
    ck_assert_uint_eq(m->hash, truth[index]);
    m->installed++;
}

static void on_failed(void *arg, int err)
{
    (void)err;
    ((struct member *)arg)->failed = true;
}

static const struct replica_ops ops = {on_apply, on_leader, on_lost, on_take, on_installed, NULL, NULL, on_failed};

static void on_msg(void *arg, uint64_t peer, struct buf *head, struct buf *payload)
{
    struct member *m = arg;
    struct wire_header h;
    struct slice body;

    (void)peer;
    ck_assert_int_eq(wire_check_frame(slice_of(head->data, head->len), &h, &body), 0);
    ck_assert_uint_eq(h.type, MSG_RAFT);
    replica_recv(m->r, &h, body, payload);
}

static int open_as(struct member *m, uint32_t id, char *why, size_t size)
{
    static const struct replica_peer peers[MEMBERS] = {
        {1, "tcp://m1:1"}, {2, "tcp://m2:1"}, {3, "tcp://m3:1"}};
    struct replica_config cfg = {.id = id, .peers = peers, .n_peers = MEMBERS, .dir = "meta",
                                 .kv_mem = true, .keep_entries = keep_entries, .ops = &ops,
                                 .arg = m};

    return replica_open(m->env, &cfg, why, size, &m->r);
}

static int boot_as(struct member *m, uint32_t id, char *why, size_t size)
{
    int err = open_as(m, id, why, size);

    if (err < 0)
        return err;
    kv_open_at(m, replica_kv_path(m->r));
    err = replica_start(m->r, m->applied);
    if (err < 0) {
        kv_shut(m);
        m->r = replica_close(m->r);
    }
    return err;
}

static void boot(struct member *m)
{
    struct replica_status s;
    char why[200] = "", ep[32];
    int err;

    m->env = sim_node_boot(m->node);
    m->leads = m->failed = false;
    m->term = 0;
    m->installed = 0;
    err = boot_as(m, m->id, why, sizeof why);
    if (err == -TC_E_DAMAGED) /* set aside: once more */
        err = boot_as(m, m->id, why, sizeof why);
    ck_assert_msg(err == 0, "member %u: %s %s", m->id, tc_error_name(err), why);
    replica_get_status(m->r, &s);
    ck_assert_msg(damage_expected || !s.damage, "%s", s.damage);
    snprintf(ep, sizeof ep, "tcp://m%u:1", m->id);
    ck_assert_int_eq(env_listen(m->env, ep, on_msg, m, &m->port), 0);
}

static void kill_member(struct member *m)
{
    if (!m->r)
        return;
    sim_node_kill(m->node);
    env_port_close(m->port);
    m->r = replica_close(m->r);
    kv_shut(m);
    m->leads = false;
}

static void run_ms(uint64_t ms)
{
    sim_run_until(sim, sim_now(sim) + ms * NS_PER_MS);
}

static struct member *leader(void)
{
    for (int i = 0; i < MEMBERS; i++)
        if (members[i].r && members[i].leads && replica_lease_valid(members[i].r))
            return &members[i];
    return NULL;
}

static struct member *wait_leader(void)
{
    for (int k = 0; k < 500 && !leader(); k++)
        run_ms(20);
    ck_assert_ptr_nonnull(leader());
    return leader();
}

static void on_formatted(void *arg, int err)
{
    *(int *)arg = err;
}

static void world_new(uint64_t seed, bool format)
{
    static const uint32_t ids[MEMBERS] = {1, 2, 3};

    sim = sim_new(seed);
    memset(members, 0, sizeof members);
    memset(truth, 0, sizeof truth);
    memset(acked_index, 0, sizeof acked_index);
    acked = lost = 0;
    for (int i = 0; i < MEMBERS; i++) {
        char host[8];

        members[i].id = (uint32_t)i + 1;
        snprintf(host, sizeof host, "m%d", i + 1);
        members[i].node = sim_node_new(sim, host);
        boot(&members[i]);
    }
    if (!format)
        return;
    run_ms(1000);
    ck_assert_ptr_null(leader());
    for (int i = 0; i < MEMBERS; i++) {
        ck_assert(!replica_formatted(members[i].r));
        formatted[i] = 1;
        replica_format(members[i].r, 77, ids, MEMBERS, slice_of("genesis", 7), on_formatted,
                       &formatted[i]);
    }
    run_ms(200);
    for (int i = 0; i < MEMBERS; i++) {
        ck_assert_int_eq(formatted[i], 0);
        ck_assert(replica_formatted(members[i].r));
        replica_format(members[i].r, 77, ids, MEMBERS, slice_of("again", 5), on_formatted,
                       &formatted[i]);
        ck_assert_int_eq(formatted[i], -TC_E_ALREADY_FORMATTED);
    }
    (void)wait_leader();
}

static void world_end(void)
{
    for (int i = 0; i < MEMBERS; i++)
        kill_member(&members[i]);
    sim_free(sim);
    keep_entries = 0;
    damage_expected = false;
}

static unsigned propose(unsigned n)
{
    unsigned done = 0;

    for (unsigned i = 0; i < n; i++) {
        struct member *m = leader();
        char text[64];

        if (!m)
            break;
        snprintf(text, sizeof text, "entry %" PRIu64, sim_now(sim));
        done += replica_propose(m->r, slice_of(text, strlen(text)), m, NULL) == 0;
    }
    return done;
}

static void checkpoint(struct member *m)
{
    if (kv_flush(m->kv) == 0)
        replica_compact(m->r, m->applied);
}

static bool converged(void)
{
    struct member *l = leader();

    for (int i = 0; i < MEMBERS; i++) {
        struct replica_status s;

        if (!l || !members[i].r)
            return false;
        replica_get_status(members[i].r, &s);
        if (!s.voter || s.applied != replica_last(l->r) || members[i].hash != l->hash)
            return false;
    }
    return true;
}

static void settle(void)
{
    for (int k = 0; k < 400 && !converged(); k++)
        run_ms(50);
    for (int i = 0; i < MEMBERS && !converged(); i++) {
        struct replica_status s;

        replica_get_status(members[i].r, &s);
        fprintf(stderr, "# %u %s t%" PRIu64 " leader %u voter %d %" PRIu64 "..%" PRIu64 " persisted %"
                PRIu64 " commit %" PRIu64 " applied %" PRIu64 " damage %s\n", s.id, s.role, s.term,
                s.leader, s.voter, s.first, s.last, s.persisted, s.commit, s.applied,
                s.damage ? s.damage : "-");
    }
    ck_assert(converged());
    for (uint64_t i = 1; i <= members[0].applied; i++)
        ck_assert(acked_index[i] == 0 || acked_index[i] == truth[i]);
    for (uint64_t i = members[0].applied + 1; i < INDEX_MAX; i++)
        ck_assert_uint_eq(acked_index[i], 0);
}

/* Format, replicate, lose the leader, get it back: all have applied the same, all acknowledged is there. */
START_TEST(failover)
{
    struct member *old;
    uint64_t began;

    world_new(1, true);
    ck_assert_uint_eq(propose(100), 100);
    run_ms(100);
    ck_assert_uint_eq(acked, 100);
    settle();
    old = leader();
    kill_member(old);
    began = sim_now(sim);
    ck_assert_ptr_ne(wait_leader(), old);
    ck_assert_uint_lt(sim_now(sim) - began, 1500 * NS_PER_MS);
    ck_assert_uint_eq(propose(10), 10);
    run_ms(100);
    ck_assert_uint_eq(acked, 110);
    boot(old);
    settle();
    world_end();
}
END_TEST

/* A planned hand-over takes milliseconds. */
START_TEST(transfer)
{
    struct member *old, *next;
    uint64_t began;

    world_new(2, true);
    (void)propose(10);
    old = leader();
    next = &members[old->id % MEMBERS];
    began = sim_now(sim);
    ck_assert_int_eq(replica_transfer(old->r, next->id), 0);
    while (!replica_lease_valid(next->r) && sim_now(sim) < began + NS_PER_S)
        run_ms(1);
    ck_assert_uint_lt(sim_now(sim) - began, 60 * NS_PER_MS);
    ck_assert_int_eq(replica_transfer(old->r, 0), -TC_E_NOT_LEADER);
    (void)propose(10);
    settle();
    world_end();
}
END_TEST

/* Power fails everywhere, and takes what was not synced: what was acknowledged is there again. */
START_TEST(power_loss)
{
    world_new(3, true);
    for (int k = 0; k < 5; k++) {
        (void)propose(50);
        run_ms(sim_now(sim) % 7);
        if (k == 2)
            checkpoint(&members[0]);
        for (int i = 0; i < MEMBERS; i++) {
            kill_member(&members[i]);
            sim_disk_power_loss(sim_node_disk(members[i].node), SIM_LOSS_RANDOM);
        }
        for (int i = 0; i < MEMBERS; i++) {
            struct replica_status s;

            boot(&members[i]);
            replica_get_status(members[i].r, &s);
            ck_assert_msg(!s.damage, "%s", s.damage);
            ck_assert(s.voter);
        }
        (void)wait_leader();
    }
    settle();
    world_end();
}
END_TEST

/* A disk is lost while its member is down; the log's head is gone. It is filled by a snapshot, and counts. */
START_TEST(lost_disk)
{
    struct member *m, *other;
    struct replica_status s;

    keep_entries = 5;
    world_new(4, true);
    (void)propose(200);
    run_ms(200);
    for (int i = 0; i < MEMBERS; i++)
        checkpoint(&members[i]);
    run_ms(200);
    replica_get_status(leader()->r, &s);
    ck_assert_uint_gt(s.first, 150);
    m = &members[leader()->id % MEMBERS];
    kill_member(m);
    sim_disk_erase(sim_node_disk(m->node));
    (void)propose(20);
    run_ms(100);
    boot(m);
    replica_get_status(m->r, &s);
    ck_assert(!s.formatted && !s.voter);
    settle();
    ck_assert_uint_ge(m->installed, 1);
    replica_get_status(leader()->r, &s);
    ck_assert_uint_eq(s.n_peers, 3);
    for (unsigned i = 0; i < 3; i++)
        ck_assert(s.peers[i].voter && !s.peers[i].blank);
    /* With it the other one may go; and after a restart it is what it was. */
    other = &members[m->id % MEMBERS];
    kill_member(m);
    boot(m);
    replica_get_status(m->r, &s);
    ck_assert(s.voter && s.formatted);
    settle();
    kill_member(other);
    (void)wait_leader();
    acked = 0;
    ck_assert_uint_eq(propose(10), 10);
    run_ms(200);
    ck_assert_uint_eq(acked, 10);
    boot(other);
    settle();
    world_end();
}
END_TEST

/* All lose power during and after a member's filling: it ends well whenever that happens. */
START_TEST(lost_disk_and_power)
{
    for (uint64_t at = 0; at < 12; at++) {
        struct member *m;

        keep_entries = 5;
        world_new(40 + at, true);
        (void)propose(100);
        run_ms(200);
        for (int i = 0; i < MEMBERS; i++)
            checkpoint(&members[i]);
        run_ms(100);
        m = &members[leader()->id % MEMBERS];
        kill_member(m);
        sim_disk_erase(sim_node_disk(m->node));
        boot(m);
        run_ms(at * 12);
        for (int i = 0; i < MEMBERS; i++) {
            kill_member(&members[i]);
            sim_disk_power_loss(sim_node_disk(members[i].node), SIM_LOSS_RANDOM);
        }
        for (int i = 0; i < MEMBERS; i++)
            boot(&members[i]);
        settle();
        world_end();
    }
}
END_TEST

/* What of a directory can be lost or damaged makes a member without a vote that is mended, not a wrong one. */
static const struct {
    const char *remove, *flip;
    bool damage;
} damages[] = {
    {"meta/state-a", NULL, false}, /* its twin suffices */
    {NULL, "meta/state-b", false},
    {NULL, "meta/base", true},
    {"both states", NULL, true},
    {"log", NULL, true},
    {"kv", NULL, true},
};

static int remove_one(void *arg, const char *name)
{
    char path[128];
    struct vfs *vfs = ((void **)arg)[0];
    const char *dir = ((void **)arg)[1];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return vfs_unlink(vfs, path);
}

static void remove_dir(struct vfs *vfs, const char *dir)
{
    void *arg[2] = {vfs, (void *)(uintptr_t)dir};

    for (int k = 0; k < 100 && vfs_list(vfs, dir, remove_one, arg) != 0; k++)
        continue;
    ck_assert_int_eq(vfs_rmdir(vfs, dir), 0);
}

START_TEST(damage)
{
    struct vfs *vfs;
    struct member *m;
    struct replica_status s;

    keep_entries = 5;
    world_new(5, true);
    (void)propose(100);
    run_ms(200);
    for (int i = 0; i < MEMBERS; i++)
        checkpoint(&members[i]);
    run_ms(100);
    m = &members[leader()->id % MEMBERS];
    kill_member(m);
    damage_expected = damages[_i].damage;
    sim_disk_reopen(sim_node_disk(m->node));
    vfs = sim_disk_vfs(sim_node_disk(m->node));
    if (damages[_i].flip)
        ck_assert(sim_disk_flip(sim_node_disk(m->node), damages[_i].flip, 20, 4));
    else if (strcmp(damages[_i].remove, "both states") == 0)
        ck_assert_int_eq(vfs_unlink(vfs, "meta/state-a") | vfs_unlink(vfs, "meta/state-b"), 0);
    else if (strcmp(damages[_i].remove, "log") == 0)
        remove_dir(vfs, "meta/log-1");
    else if (strcmp(damages[_i].remove, "kv") == 0)
        remove_dir(vfs, "meta/kv-1");
    else
        ck_assert_int_eq(vfs_unlink(vfs, damages[_i].remove), 0);
    boot(m);
    replica_get_status(m->r, &s);
    ck_assert_int_eq(s.damage != NULL, damages[_i].damage);
    ck_assert_int_eq(s.voter, !damages[_i].damage);
    (void)propose(10);
    settle();
    kill_member(m); /* and it stays mended */
    boot(m);
    replica_get_status(m->r, &s);
    ck_assert(!s.damage && s.voter);
    settle();
    world_end();
}
END_TEST

static int see_segment(void *arg, const char *name)
{
    if (!strstr(name, ".seg"))
        return 0;
    snprintf(arg, 64, "meta/log-1/%s", name);
    return 1;
}

/* A bit flips in the log, before what is known to be synced. */
START_TEST(damaged_log)
{
    struct member *m;
    struct replica_status s;
    struct sim_disk *d;
    char path[64];

    world_new(6, true);
    for (int k = 0; k < 20; k++) {
        (void)propose(10);
        run_ms(50);
    }
    m = &members[leader()->id % MEMBERS];
    kill_member(m);
    damage_expected = true;
    d = sim_node_disk(m->node);
    sim_disk_reopen(d);
    ck_assert_int_eq(vfs_list(sim_disk_vfs(d), "meta/log-1", see_segment, path), 1);
    ck_assert(sim_disk_flip(d, path, 8300, 1));
    boot(m);
    replica_get_status(m->r, &s);
    ck_assert_ptr_nonnull(s.damage);
    ck_assert(!s.voter);
    settle();
    world_end();
}
END_TEST

static void on_checked(void *arg, unsigned bad)
{
    *(unsigned *)arg = bad;
}

/* Damage under a member that runs: found when it reads its files again, and what it has in memory is written anew. It
 * starts again as the voter it was. */
START_TEST(reads_itself)
{
    static const unsigned wants[] = {0, REPLICA_BAD_LOG, REPLICA_BAD_STATE, REPLICA_BAD_STATE, REPLICA_BAD_BASE};
    unsigned bad = 99, again = 99;
    struct replica_status s;
    struct member *m;
    struct sim_disk *d;
    char path[64];

    keep_entries = 5;
    world_new(20, true);
    for (int k = 0; k < 20; k++) {
        (void)propose(10);
        run_ms(50);
    }
    m = _i % 2 ? leader() : &members[leader()->id % MEMBERS];
    checkpoint(m);
    (void)propose(10);
    run_ms(500);
    d = sim_node_disk(m->node);
    ck_assert_int_eq(vfs_list(sim_disk_vfs(d), "meta/log-1", see_segment, path), 1);
    ck_assert(wants[_i] != REPLICA_BAD_LOG || sim_disk_flip(d, path, 8300, 1));
    ck_assert(wants[_i] != REPLICA_BAD_STATE || sim_disk_flip(d, "meta/state-a", 20, 1));
    ck_assert(_i != 3 || sim_disk_flip(d, "meta/state-b", 21, 1));
    ck_assert(wants[_i] != REPLICA_BAD_BASE || sim_disk_flip(d, "meta/base", 20, 1));
    ck_assert(replica_check(m->r, on_checked, &bad));
    ck_assert(!replica_check(m->r, on_checked, &again));
    (void)propose(10);
    run_ms(2000);
    ck_assert_uint_eq(bad, wants[_i]);
    ck_assert(replica_check(m->r, on_checked, &again));
    run_ms(2000);
    ck_assert_uint_eq(again, 0);
    kill_member(m);
    boot(m);
    replica_get_status(m->r, &s);
    ck_assert(!s.damage && s.voter);
    (void)propose(10);
    settle();
    world_end();
}
END_TEST

static int see_name(void *arg, const char *name)
{
    return strcmp(arg, name) == 0;
}

static bool aside_has(struct member *m, const char *name)
{
    char why[100];
    char *dir = replica_aside_newest(env_vfs(m->env), "meta", why, sizeof why);
    bool has = dir && why[0] && vfs_list(env_vfs(m->env), dir, see_name, (void *)(uintptr_t)name) == 1;

    free(dir);
    return has;
}

/* The directory of another member, or of a cluster that others are not of, is refused by name. */
START_TEST(wrong_directory)
{
    static const uint32_t ids[MEMBERS] = {1, 2, 3};
    struct replica_status s;
    char why[200] = "";
    int result = 1;

    world_new(7, true);
    kill_member(&members[1]);
    members[1].env = sim_node_boot(members[1].node);
    ck_assert_int_eq(boot_as(&members[1], 3, why, sizeof why), -TC_E_WRONG_CLUSTER);
    ck_assert_ptr_nonnull(strstr(why, "member 2"));
    sim_node_kill(members[1].node);
    sim_disk_erase(sim_node_disk(members[1].node));
    /* Formatted alone for another cluster. */
    for (int i = 0; i < MEMBERS; i += 2)
        kill_member(&members[i]);
    boot(&members[1]);
    run_ms(500);
    replica_format(members[1].r, 78, ids, MEMBERS, slice_of("other", 5), on_formatted, &result);
    run_ms(100);
    ck_assert_int_eq(result, 0);
    for (int i = 0; i < MEMBERS; i += 2)
        boot(&members[i]);
    run_ms(3000);
    ck_assert_ptr_nonnull(leader());
    replica_get_status(members[1].r, &s);
    ck_assert_uint_gt(s.wrong_cluster, 0);
    ck_assert_uint_le(s.commit, 1);
    /* As long as a majority is of another cluster and nobody of its own speaks: its files go aside, whole. */
    run_ms(4000);
    ck_assert(members[1].failed);
    kill_member(&members[1]);
    damage_expected = true;
    boot(&members[1]);
    ck_assert(aside_has(&members[1], "log-1"));
    replica_get_status(members[1].r, &s);
    ck_assert(!s.voter && s.damage && strstr(s.damage, "another cluster"));
    settle();
    replica_get_status(members[1].r, &s);
    ck_assert(s.voter && !s.damage);
    world_end();
}
END_TEST

/* A store that is damaged beside a whole log is made anew from it: the member keeps its vote. A log that no longer goes
 * back to the first entry is not enough. */
START_TEST(damaged_store)
{
    struct replica_status s;
    struct member *m;

    keep_entries = 5;
    world_new(8, true);
    (void)propose(50);
    run_ms(200);
    m = &members[leader()->id % MEMBERS];
    if (_i == 1) {
        checkpoint(m);
        run_ms(100);
    }
    kill_member(m);
    sim_disk_reopen(sim_node_disk(m->node));
    ck_assert_int_eq(replica_mark_damaged(sim_disk_vfs(sim_node_disk(m->node)), "meta", REPLICA_DAMAGE_KV, "a test"), 0);
    damage_expected = _i == 1;
    boot(m);
    replica_get_status(m->r, &s);
    ck_assert_int_eq(s.voter, _i == 0);
    ck_assert_str_eq(s.damage ? s.damage : "none", _i == 1 ? "a test" : "none");
    ck_assert(aside_has(m, "kv-1"));
    ck_assert_int_eq(aside_has(m, "log-1"), _i == 1);
    (void)propose(10);
    settle();
    kill_member(m); /* the mark is gone */
    damage_expected = false;
    boot(m);
    settle();
    world_end();
}
END_TEST

/* What was put aside, and that it is to be, is so through a loss of power at once. */
START_TEST(aside_through_power_loss)
{
    struct replica_status s;
    struct member *m;
    struct sim_disk *d;

    world_new(21, true);
    (void)propose(50);
    run_ms(200);
    m = &members[leader()->id % MEMBERS];
    d = sim_node_disk(m->node);
    kill_member(m);
    sim_disk_reopen(d);
    ck_assert_int_eq(replica_mark_damaged(sim_disk_vfs(d), "meta", REPLICA_DAMAGE_ALL, "a test"), 0);
    for (int life = 0; life < 2; life++) {
        sim_disk_power_loss(d, SIM_LOSS_ALL);
        damage_expected = true;
        boot(m);
        ck_assert(aside_has(m, "log-1") && aside_has(m, "kv-1"));
        replica_get_status(m->r, &s);
        ck_assert(!s.voter);
        kill_member(m);
    }
    boot(m);
    settle();
    world_end();
}
END_TEST

/* ---- setting aside, interrupted everywhere ---- */

static bool anywhere_aside(struct member *m, const char *name)
{
    struct vfs *v = env_vfs(m->env);
    bool has = false;

    for (int n = 1; n <= 3; n++) {
        char dir[32];

        snprintf(dir, sizeof dir, "meta/aside-%d", n);
        has = has || vfs_list(v, dir, see_name, (void *)(uintptr_t)name) == 1;
    }
    return has;
}

/* Starts until operation @after of the disk, which is the last one; what was not synced is gone. False: there were fewer. */
static bool boot_until(struct member *m, uint64_t after)
{
    char why[200] = "";
    bool crashed;

    m->env = sim_node_boot(m->node);
    m->leads = m->failed = false;
    m->term = 0;
    sim_disk_crash_after(sim_node_disk(m->node), after);
    if (open_as(m, m->id, why, sizeof why) == 0)
        ck_assert_int_le(kv_open_mem(env_vfs(m->env), replica_kv_path(m->r), &m->kv), 0);
    crashed = sim_disk_frozen(sim_node_disk(m->node));
    sim_node_kill(m->node);
    m->r = m->r ? replica_close(m->r) : NULL;
    kv_shut(m);
    sim_disk_power_loss(sim_node_disk(m->node), SIM_LOSS_ALL);
    return crashed;
}

static uint64_t asides(struct member *m)
{
    uint64_t last = 0;
    uint32_t n;

    ck_assert_int_eq(aside_count(env_vfs(m->env), "meta", "aside", &n, &last), 0);
    return last;
}

/* Whichever operation of setting aside, or of what follows until it answers, was the last before power went: it starts, and
 * what was there is aside. From when it answers that is not done a second time, though power goes at once. */
START_TEST(aside_interrupted)
{
    enum replica_damage_kind kind = _i ? REPLICA_DAMAGE_KV : REPLICA_DAMAGE_ALL;
    bool more = true;

    for (uint64_t after = 0; more; after++) {
        struct replica_status s;
        struct member *m = &members[after % MEMBERS];
        uint64_t n;

        world_new(30 + after, true);
        (void)propose(3);
        run_ms(50);
        kill_member(m);
        sim_disk_reopen(sim_node_disk(m->node));
        ck_assert_int_eq(replica_mark_damaged(sim_disk_vfs(sim_node_disk(m->node)), "meta", kind, "a test"), 0);
        more = boot_until(m, after);
        damage_expected = true;
        boot(m);
        replica_get_status(m->r, &s);
        ck_assert_msg(s.voter == (kind == REPLICA_DAMAGE_KV), "after %" PRIu64, after);
        ck_assert_msg(anywhere_aside(m, "kv-1"), "after %" PRIu64 ": the store is not aside", after);
        ck_assert_msg(anywhere_aside(m, "log-1") == (kind == REPLICA_DAMAGE_ALL), "after %" PRIu64 ": the log", after);
        n = asides(m);
        kill_member(m);
        sim_disk_power_loss(sim_node_disk(m->node), SIM_LOSS_ALL);
        boot(m);
        ck_assert_msg(asides(m) == n, "after %" PRIu64 ": set aside once more", after);
        if (!more)
            settle();
        world_end();
    }
}
END_TEST

/* Of the base as of the whole record: the new one, once it was written. */
START_TEST(base_through_power_loss)
{
    struct replica_base base = {.kv_gen = 1, .log_gen = 1, .config = {.n = 1, .members = {{1, 0, RAFT_VOTER}}}}, got;
    struct sim_disk *d = sim_disk_new(22);

    ck_assert_int_eq(vfs_make_dir(sim_disk_vfs(d), "meta"), 0);
    for (uint64_t gen = 1; gen < 5; gen++) {
        base.kv_gen = gen;
        ck_assert_int_eq(replica_base_write(sim_disk_vfs(d), "meta", &base), 0);
        sim_disk_power_loss(d, SIM_LOSS_ALL);
        sim_disk_reopen(d);
        ck_assert_int_eq(replica_base_read(sim_disk_vfs(d), "meta", &got), 0);
        ck_assert_uint_eq(got.kv_gen, gen);
    }
    sim_disk_free(d);
}
END_TEST

/* The leader's disk is full: it goes on when there is room, and nothing is lost. */
START_TEST(full_disk)
{
    struct member *m;
    char *big = calloc(1, 1 << 20);

    world_new(8, true);
    m = leader();
    sim_disk_set_limit(sim_node_disk(m->node), sim_disk_used(sim_node_disk(m->node)) + (1 << 20));
    for (int i = 0; i < 40; i++) {
        if (leader() && replica_propose(leader()->r, slice_of(big, 1 << 20), m, NULL) < 0)
            lost++;
        run_ms(100);
    }
    run_ms(3000);
    (void)wait_leader();
    ck_assert_ptr_ne(leader(), m); /* handed over */
    ck_assert(!m->failed);
    sim_disk_set_limit(sim_node_disk(m->node), 0);
    settle();
    free(big);
    world_end();
}
END_TEST

static int see_name(void *arg, const char *name);

/* A snapshot that finds no room leaves none taken: the log of the leader that made it has what there was. */
START_TEST(full_disk_and_snapshot)
{
    struct member *m, *filled;
    char *big = calloc(1, 200 << 10);
    struct sim_disk *d;

    keep_entries = 5;
    world_new(9, true);
    for (int i = 0; i < 20; i++) {
        ck_assert_int_eq(replica_propose(leader()->r, slice_of(big, 200 << 10), NULL, NULL), 0);
        run_ms(50);
    }
    for (int i = 0; i < MEMBERS; i++)
        checkpoint(&members[i]);
    run_ms(500);
    m = wait_leader();
    d = sim_node_disk(m->node);
    filled = &members[m->id % MEMBERS];
    kill_member(filled);
    sim_disk_erase(sim_node_disk(filled->node));
    sim_disk_set_limit(d, sim_disk_used(d) + (2 << 20));
    boot(filled);
    for (int i = 0; i < 20; i++) {
        run_ms(500);
        ck_assert_uint_eq(filled->installed, 0);
    }
    ck_assert_ptr_eq(leader(), m);
    ck_assert_int_eq(vfs_list(sim_disk_vfs(d), "meta", see_name, (void *)(uintptr_t) "snap-out"), 0);
    sim_disk_set_limit(d, 0);
    settle();
    ck_assert_uint_eq(filled->installed, 1);
    free(big);
    world_end();
}
END_TEST

/* A sync that fails: the member can promise nothing any more and says so. */
START_TEST(failed_disk)
{
    struct member *m;

    world_new(9, true);
    m = leader();
    sim_disk_fail(sim_node_disk(m->node), SIM_DISK_SYNC, 0, -TC_E_IO);
    (void)propose(5);
    run_ms(100);
    ck_assert(m->failed);
    ck_assert(!replica_leads(m->r));
    kill_member(m);
    (void)wait_leader();
    boot(m);
    settle();
    world_end();
}
END_TEST

/* Whatever happens, in any order. */
static void random_fault(struct sim_rng *rng)
{
    struct member *m = &members[sim_below(rng, MEMBERS)];
    struct member *other = &members[sim_below(rng, MEMBERS)];
    unsigned up = 0, voters = 0;

    for (int i = 0; i < MEMBERS; i++) {
        struct replica_status s;

        if (!members[i].r)
            continue;
        replica_get_status(members[i].r, &s);
        up++;
        voters += s.voter;
    }
    switch (sim_below(rng, 9)) {
    case 0:
        kill_member(m);
        break;
    case 1:
        kill_member(m);
        sim_disk_power_loss(sim_node_disk(m->node), SIM_LOSS_RANDOM);
        break;
    case 2:
        if (up == MEMBERS && voters == MEMBERS && converged()) {
            kill_member(m);
            sim_disk_erase(sim_node_disk(m->node));
        }
        break;
    case 3:
        sim_net_cut(sim, m->node, other->node, true);
        break;
    case 4:
        sim_net_heal(sim);
        break;
    case 5:
        if (m->r)
            checkpoint(m);
        break;
    case 6:
        sim_node_stall(m->node, sim_below(rng, 1500) * NS_PER_MS);
        break;
    default:
        for (int i = 0; i < MEMBERS; i++)
            if (!members[i].r)
                boot(&members[i]);
        break;
    }
}

START_TEST(random_runs)
{
    const char *n = getenv("TC_REPLICA_SEEDS");
    uint64_t seeds = n ? strtoull(n, NULL, 10) : 8;
    const char *one = getenv("TC_REPLICA_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1000;

    for (uint64_t seed = first; seed < first + (one ? 1 : seeds); seed++) {
        struct sim_net_options calm = {.latency_ns = 100 * NS_PER_US};
        struct sim_net_options rough = {.latency_ns = 500 * NS_PER_US, .loss_ppm = 20000,
                                        .dup_ppm = 10000, .reorder_ppm = 20000,
                                        .reorder_ns = 50 * NS_PER_MS};

        keep_entries = 20;
        if (getenv("TC_VERBOSE"))
            fprintf(stderr, "# seed %" PRIu64 "\n", seed);
        world_new(seed, true);
        sim_net_set(sim, &rough);
        for (int k = 0; k < 60; k++) {
            (void)propose((unsigned)sim_below(sim_rng(sim), 20));
            run_ms(sim_below(sim_rng(sim), 300));
            random_fault(sim_rng(sim));
        }
        sim_net_set(sim, &calm);
        sim_net_heal(sim);
        for (int i = 0; i < MEMBERS; i++)
            if (!members[i].r)
                boot(&members[i]);
        settle();
        world_end();
    }
}
END_TEST

static void no_line(void *arg, const char *line)
{
    (void)arg;
    (void)line;
}

int main(void)
{
    Suite *s = suite_create("replica");
    TCase *tc = tcase_create("sim");
    TCase *loss = tcase_create("loss");
    TCase *random = tcase_create("random");
    SRunner *sr;
    int failed;

    if (!getenv("TC_VERBOSE"))
        log_set_sink(no_line, NULL); /* damage and refusals are what this is about */
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, failover);
    tcase_add_test(tc, transfer);
    tcase_add_test(tc, power_loss);
    tcase_add_test(tc, lost_disk);
    tcase_add_test(tc, lost_disk_and_power);
    tcase_add_loop_test(tc, damage, 0, (int)ARRAY_SIZE(damages));
    tcase_add_test(tc, damaged_log);
    tcase_add_loop_test(tc, reads_itself, 0, 5);
    tcase_add_test(tc, aside_through_power_loss);
    tcase_add_test(tc, base_through_power_loss);
    tcase_add_test(tc, wrong_directory);
    tcase_add_loop_test(tc, damaged_store, 0, 2);
    tcase_add_test(tc, full_disk);
    tcase_add_test(tc, full_disk_and_snapshot);
    tcase_add_test(tc, failed_disk);
    tcase_add_test(random, random_runs);
    tcase_set_timeout(random, 120);
    tcase_set_timeout(loss, 120);
    tcase_add_test(loss, aside_through_power_loss);
    tcase_add_test(loss, base_through_power_loss);
    tcase_add_loop_test(loss, aside_interrupted, 0, 2);
    suite_add_tcase(s, tc);
    suite_add_tcase(s, loss);
    suite_add_tcase(s, random);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed && !getenv("CK_TAP_LOG_FILE_NAME");
}
