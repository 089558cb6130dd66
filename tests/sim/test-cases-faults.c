/* SPDX-License-Identifier: Apache-2.0 */
/* Scripted cases: files that are gone or of another cluster, and changes of the group (PROTOCOL 1.5, 1.6). */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/fsm.h"
#include "meta/replica.h"
#include "sim/damage.h"
#include "sim/nemesis.h"
#include "sim/scene.h"

/* ---- files of a store are gone, 1.5 ------------------------------------------------------------------ */

static void writer_main(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN] = {1};
    struct tc_file *f;

    if (!actor_ready(a) || a_make(a, tc_client_root(a->cl->tc), "f", S_IFREG | 0644, true) ||
        a_open(a, a->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f) || a_write(a, f, data, LEN, 0, false))
        return;
    s->written = a_fsync(a, f) == 0;
}

/* The journal, before the index was ever written: nothing is left that says that anything was there. */
static bool lost_journal(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct store *st;
    struct vfs *v;
    uint64_t before;

    if (!scene_start(s, 1, off))
        return true;
    st = &s->c->stores[0];
    before = cluster_store_of(s->c, st->id);
    actor_new(&s->c->clients[0], writer_main, s);
    (void)scene_wait(s, &s->written, 1000);
    store_kill(st);
    sim_disk_reopen(sim_node_disk(st->node));
    v = sim_disk_vfs(sim_node_disk(st->node));
    if (vfs_unlink(v, "store/journal/0000000000000001.seg") < 0 || vfs_unlink(v, "store/journal/0000000000000002.seg") < 0)
        return true; /* the one in use, and the one that was to be next */
    store_boot(st);
    scene_run(s, 5000);
    return !s->written || cluster_store_of(s->c, st->id) == before || !cluster_placed(s->c); /* another in its place, and filled */
}

START_TEST(lost_journal_of_a_store)
{
    case_check(lost_journal, NULL, false);
}
END_TEST

/* ---- another store in the place of a lost one, 6.3 ---------------------------------------------------- */

static void synced_main(struct actor *a)
{
    struct scene *s = a->arg;

    s->replaced = make_file(a, LEN) == 0 && a_fsync(a, s->f) == 0;
}

static void whole_reader(struct actor *a)
{
    struct scene *s = a->arg;

    s->status = read_file(a, LEN);
    for (size_t i = 0; s->status == 0 && i < a->len; i++)
        s->n += a->data[i] == 'a';
    s->ended = true;
}

/*
 * Two of three have it, one of them is lost and an empty store listens at its address, the other is away: the empty one is
 * not filled from the one that has missed it, and what it says itself is no vote of the lost one.
 */
static bool lost_and_away(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct store *lost, *missed, *away;
    uint64_t before;

    if (!scene_start(s, 2, off))
        return true;
    lost = &s->c->stores[0];
    missed = &s->c->stores[1];
    away = &s->c->stores[2];
    before = cluster_store_of(s->c, lost->id);
    store_kill(missed);
    sim_net_cut(s->c->s, s->c->clients[0].node, missed->node, true); /* nor is it brought there later */
    actor_new(&s->c->clients[0], synced_main, s);
    if (!scene_wait(s, &s->replaced, 5000))
        return true;
    store_kill(lost);
    store_kill(away);
    sim_disk_erase(sim_node_disk(lost->node));
    store_boot(lost);
    for (int n = 0; n < 100 && cluster_store_of(s->c, lost->id) == before; n++)
        scene_run(s, 100);
    if (cluster_store_of(s->c, lost->id) == before)
        return true;
    store_boot(missed);
    actor_new(&s->c->clients[1], whole_reader, s);
    scene_run(s, 10000);
    if (s->ended)
        return true; /* of whom? */
    store_boot(away);
    return !scene_wait(s, &s->ended, 20000) || s->status || s->n != LEN;
}

START_TEST(replaced_store_is_no_source)
{
    case_check(lost_and_away, NULL, false);
}
END_TEST

/* ---- another store at the address of a lost one, 6.1 -------------------------------------------------- */

/*
 * Two of three have it and are away, and the third, which has missed it, comes back at the address of one of them: it answers
 * for itself, and not for that one, too.
 */
static bool address_of_another(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct store *lost, *away, *moved;

    if (!scene_start(s, 2, off))
        return true;
    lost = &s->c->stores[0];
    away = &s->c->stores[1];
    moved = &s->c->stores[2];
    store_kill(moved);
    sim_net_cut(s->c->s, s->c->clients[0].node, moved->node, true); /* nor is it brought there later */
    actor_new(&s->c->clients[0], synced_main, s);
    if (!scene_wait(s, &s->replaced, 5000))
        return true;
    store_kill(lost);
    store_kill(away);
    sim_node_set_host(lost->node, "gone");
    sim_node_set_host(moved->node, "s1");
    snprintf(moved->endpoint, sizeof moved->endpoint, "%s", lost->endpoint);
    store_boot(moved);
    scene_run(s, 2000); /* the map says that both are there */
    actor_new(&s->c->clients[1], whole_reader, s);
    scene_run(s, 10000);
    if (s->ended)
        return true; /* of whom? */
    store_boot(away);
    return !scene_wait(s, &s->ended, 20000) || s->status || s->n != LEN;
}

START_TEST(another_at_the_address)
{
    case_check(address_of_another, "STORE_NAMED", true);
}
END_TEST

/* ---- the group changes ------------------------------------------------------------------------------ */

static bool names(struct meta_server *server, uint32_t id)
{
    struct replica_status st;

    meta_server_group(server, &st);
    for (unsigned i = 0; i < st.n_peers; i++)
        if (st.peers[i].id == id)
            return true;
    return false;
}

static bool knows(struct meta_server *server, uint32_t id)
{
    const struct member_info *list;
    uint32_t n;

    list = fsm_members(meta_server_fsm(server), &n);
    for (uint32_t i = 0; i < n; i++)
        if (list[i].id == id)
            return true;
    return false;
}

static bool add_member(struct scene *s, struct member *m)
{
    m->in = true;
    m->down = false;
    member_boot(m);
    for (int n = 0; n < 100 && cluster_leader(s->c) && !names(cluster_leader(s->c)->server, m->id); n++) {
        cluster_say_member(s->c, m->id, META_ADD, m->endpoint);
        scene_run(s, 100);
    }
    return cluster_leader(s->c) && names(cluster_leader(s->c)->server, m->id);
}

static bool promote_member(struct scene *s)
{
    for (int n = 0; n < 100 && !cluster_group_whole(s->c); n++) {
        for (unsigned i = 3; i < s->c->n_members; i++)
            if (s->c->members[i].in)
                cluster_say_member(s->c, s->c->members[i].id, META_PROMOTE, NULL);
        scene_run(s, 100);
    }
    return cluster_group_whole(s->c);
}

/* Filled by a snapshot of before it was added, and killed then: what it has does not say that it is a member. */
static bool added_and_killed(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct member *m, *lead;
    bool before = false;

    s->faults = FAULT_MEMBERS;
    s->keep_entries = 20;
    if (!scene_start(s, 1, off))
        return true;
    m = &s->c->members[3];
    actor_new(&s->c->clients[0], toucher, s);
    scene_run(s, 6000); /* a checkpoint, and the log before it is dropped */
    lead = cluster_leader(s->c);
    for (unsigned i = 0; i < 3; i++)
        if (&s->c->members[i] != lead) /* they answer, but what adds it is not committed for a while */
            sim_node_stall(s->c->members[i].node, 2 * NS_PER_S);
    m->in = true;
    m->down = false;
    member_boot(m);
    cluster_say_member(s->c, m->id, META_ADD, m->endpoint);
    for (int n = 0; n < 20000 && !before; n++) {
        cluster_run_until(s->c, sim_now(s->c->s) + 50 * NS_PER_US);
        before = meta_server_fsm(m->server) && !knows(m->server, m->id);
        if (meta_server_fsm(m->server) && !before)
            return true; /* too late to see anything */
    }
    member_kill(m);
    member_boot(m);
    return !before || s->c->failed || !promote_member(s);
}

START_TEST(member_killed_while_it_is_filled)
{
    case_check(added_and_killed, NULL, false);
}
END_TEST

static unsigned refusals;

static void count_refusals(const char *line)
{
    refusals += strstr(line, "msg=\"snapshot refused, retrying\"") != NULL;
}

/* A bit of the snapshot flips before it is sent: who is filled refuses it, and gets another; @idle: also when nobody
 * writes any more, so that the one there is would still do. */
static bool rotten_snapshot(struct scene *s, const uint64_t off[RULE_LAYERS], bool idle)
{
    struct member *m, *lead;

    s->faults = FAULT_MEMBERS;
    s->keep_entries = 20;
    if (!scene_start(s, 1, off))
        return true;
    s->c->watch_log = count_refusals;
    m = &s->c->members[3];
    actor_new(&s->c->clients[0], toucher, s);
    scene_run(s, 6000); /* a checkpoint, and the log before it is dropped */
    lead = cluster_leader(s->c);
    m->in = true;
    m->down = false;
    member_boot(m);
    cluster_say_member(s->c, m->id, META_ADD, m->endpoint);
    for (int n = 0; n < 400000 && !sim_disk_flip(sim_node_disk(lead->node), "meta/snap-out", 200, 4); n++)
        cluster_run_until(s->c, sim_now(s->c->s) + NS_PER_US);
    if (idle)
        client_kill(&s->c->clients[0]);
    return !promote_member(s) || refusals == 0;
}

static bool rotten_snapshot_busy(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    return rotten_snapshot(s, off, false);
}

static bool rotten_snapshot_idle(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    return rotten_snapshot(s, off, true);
}

START_TEST(snapshot_with_a_flipped_bit)
{
    case_check(rotten_snapshot_busy, NULL, false);
    refusals = 0;
    case_check(rotten_snapshot_idle, NULL, false);
}
END_TEST

/*
 * The same, of a member without which no entry is committed: none makes that snapshot too old to be offered again, and
 * another one is made all the same.
 */
static bool nothing_new(struct scene *s, const uint64_t off[RULE_LAYERS], bool cut_short)
{
    struct member *lead, *behind, *other;
    uint64_t index;

    s->keep_entries = 20;
    refusals = 0;
    if (!scene_start(s, 1, off))
        return true;
    s->c->watch_log = count_refusals;
    lead = cluster_leader(s->c);
    behind = &s->c->members[lead == s->c->members];
    other = &s->c->members[3 - (lead - s->c->members) - (behind - s->c->members)];
    member_kill(behind);
    actor_new(&s->c->clients[0], toucher, s);
    scene_run(s, 6000); /* a checkpoint, and the log before it is dropped */
    if (cluster_leader(s->c) != lead)
        return true;
    member_kill(other);
    member_boot(behind);
    for (int n = 0; n < 400000 && !sim_disk_flip(sim_node_disk(lead->node), "meta/snap-out", 200, cut_short ? 0 : 4); n++)
        cluster_run_until(s->c, sim_now(s->c->s) + NS_PER_US);
    if (cut_short && !sim_disk_chop(sim_node_disk(lead->node), "meta/snap-out", 200))
        return true;
    index = meta_server_applied(lead->server);
    scene_run(s, 10000);
    return (refusals == 0) != cut_short || meta_server_applied(behind->server) < index;
}

static bool rotten_snapshot_and_nothing_new(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    return nothing_new(s, off, false);
}

/* That one cannot be read, so nobody gets to refuse it. */
static bool short_snapshot_and_nothing_new(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    return nothing_new(s, off, true);
}

START_TEST(damaged_snapshot_and_nothing_new)
{
    case_check(rotten_snapshot_and_nothing_new, NULL, false);
    case_check(short_snapshot_and_nothing_new, NULL, false);
}
END_TEST

static unsigned whole_refused;

static void count_both(const char *line)
{
    count_refusals(line);
    whole_refused += strstr(line, "msg=\"a member refuses a snapshot that is whole") != NULL;
}

/* What keeps a member from making the store of a snapshot that it received: directories where its file is to be, deeper than
 * what it would clear away. */
static bool block_store(struct vfs *v, unsigned gen, bool on)
{
    enum { DEEP = 10 };
    bool ok = true;

    for (unsigned k = 0; k <= DEEP && ok; k++) {
        char path[64];
        size_t n = (size_t)snprintf(path, sizeof path, "meta/kv-%u", gen);

        for (unsigned i = 0; i < (on ? k : DEEP - k); i++)
            n += (size_t)snprintf(path + n, sizeof path - n, "/kv");
        ok = (on ? vfs_make_dir(v, path) : vfs_rmdir(v, path)) == 0;
    }
    return ok;
}

static unsigned refusing(struct scene *s, uint32_t id, int *ret_why)
{
    struct member *lead = cluster_leader(s->c), *m = &s->c->members[id - 1];
    struct replica_status st;
    unsigned n = 0;

    meta_server_group(m->server, &st);
    *ret_why = st.refused;
    if (!lead)
        return 0;
    meta_server_group(lead->server, &st);
    for (unsigned i = 0; i < st.n_peers; i++)
        if (st.peers[i].id == id)
            n = st.peers[i].snapshot_refusals;
    return n;
}

/*
 * The snapshot is whole, and the follower cannot take it: no room, or (@kv) no store can be made of it. It is offered again, ever
 * more seldom, both say what is wrong, and when the reason is gone it is filled.
 */
static bool refused_for_a_reason(struct scene *s, const uint64_t off[RULE_LAYERS], bool kv)
{
    struct sim_disk *disk;
    struct member *behind;
    uint64_t done;
    int why;

    s->keep_entries = 20;
    refusals = whole_refused = 0;
    if (!scene_start(s, 1, off))
        return true;
    s->c->watch_log = count_both;
    behind = &s->c->members[cluster_leader(s->c) == s->c->members];
    disk = sim_node_disk(behind->node);
    member_kill(behind);
    actor_new(&s->c->clients[0], toucher, s);
    scene_run(s, 6000); /* a checkpoint, and the log before it is dropped */
    member_boot(behind);
    if (!kv)
        sim_disk_set_limit(disk, sim_disk_used(disk));
    else if (!block_store(sim_disk_vfs(disk), 2, true))
        return true;
    scene_run(s, 60000);
    done = s->c->n_ops;
    if (refusals < 4 || refusals > 12 || whole_refused == 0 || refusing(s, behind->id, &why) < 4 || !why ||
        (!kv && why != -TC_E_NOSPC))
        return true;
    if (!kv)
        sim_disk_set_limit(disk, 0);
    else if (!block_store(sim_disk_vfs(disk), 2, false))
        return true;
    scene_run(s, 60000);
    return s->c->n_ops == done || refusing(s, behind->id, &why) || why ||
           meta_server_applied(behind->server) + 100 < meta_server_applied(cluster_leader(s->c)->server);
}

static bool no_room_for_a_snapshot(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    return refused_for_a_reason(s, off, false);
}

static bool no_store_of_a_snapshot(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    return refused_for_a_reason(s, off, true);
}

START_TEST(whole_snapshot_refused)
{
    case_check(no_room_for_a_snapshot, NULL, false);
    case_check(no_store_of_a_snapshot, NULL, false);
}
END_TEST

/* One member has the files of another cluster: who mounts meanwhile is not misled. */
static bool mount_beside_foreign(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct member *m;
    struct client *cl;

    s->faults = FAULT_DAMAGE;
    if (!scene_start(s, 1, off))
        return true;
    cl = &s->c->clients[0];
    m = &s->c->members[cluster_leader(s->c) == s->c->members];
    member_kill(m);
    sim_disk_reopen(sim_node_disk(s->c->foreign[m->id - 1]));
    sim_disk_erase(sim_node_disk(m->node));
    sim_disk_reopen(sim_node_disk(m->node));
    if (!damage_copy(sim_node_disk(m->node), sim_node_disk(s->c->foreign[m->id - 1]), "meta"))
        return true;
    member_boot(m);
    for (int n = 0; n < 12 && !s->c->failed; n++) { /* each begins with a member of its own choice */
        client_kill(cl);
        client_boot(cl);
        scene_run(s, 300);
        if (!cl->ready)
            return true;
    }
    return s->c->failed;
}

START_TEST(mount_beside_files_of_another_cluster)
{
    case_check(mount_beside_foreign, NULL, false);
}
END_TEST

/* A client that hears of nobody else sees the leader go, and then the next one of its list. */
static bool leaders_removed(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct member *old, *a, *b;
    uint64_t done;

    s->faults = FAULT_MEMBERS;
    s->metas = 1;
    if (!scene_start(s, 1, off))
        return true;
    old = &s->c->members[0];
    a = &s->c->members[1];
    b = &s->c->members[2];
    actor_new(&s->c->clients[0], toucher, s);
    if (!add_member(s, a) || !add_member(s, b))
        return true;
    for (int n = 0; n < 100 && !cluster_group_whole(s->c); n++) {
        cluster_say_member(s->c, a->id, META_PROMOTE, NULL);
        cluster_say_member(s->c, b->id, META_PROMOTE, NULL);
        scene_run(s, 100);
    }
    for (int n = 0; n < 100 && cluster_leader(s->c) != a; n++) {
        cluster_say_member(s->c, a->id, META_TRANSFER, NULL);
        scene_run(s, 200);
    }
    scene_run(s, 1000);
    sim_net_cut(s->c->s, old->node, s->c->clients[0].node, true);
    sim_net_cut(s->c->s, b->node, s->c->clients[0].node, true);
    for (int n = 0; n < 100 && cluster_leader(s->c) != old; n++) { /* the one of the two that does not go yet */
        if (cluster_leader(s->c) == b)
            cluster_say_member(s->c, old->id, META_TRANSFER, NULL);
        else
            cluster_say_member(s->c, a->id, META_REMOVE, NULL);
        scene_run(s, 200);
    }
    a->in = false;
    a->leaving = b->leaving = true;
    scene_run(s, 500);
    member_kill(a);
    for (int n = 0; n < 100 && names(old->server, b->id); n++) {
        cluster_say_member(s->c, b->id, META_REMOVE, NULL);
        scene_run(s, 100);
    }
    b->in = false;
    member_kill(b);
    sim_net_heal(s->c->s);
    scene_run(s, 1000);
    done = s->c->n_ops;
    scene_run(s, 10000);
    return s->c->n_ops == done;
}

START_TEST(leader_and_the_next_one_removed)
{
    case_check(leaders_removed, NULL, false);
}
END_TEST

/* ---- all members replaced meanwhile, 2.6 ------------------------------------------------------------- */

/* Two more, and the first, of which alone everybody knew, is gone. */
static bool replace_first_member(struct scene *s)
{
    struct member *old = &s->c->members[0];

    if (!add_member(s, &s->c->members[1]) || !add_member(s, &s->c->members[2]))
        return false;
    for (int n = 0; n < 100 && !cluster_group_whole(s->c); n++) {
        cluster_say_member(s->c, s->c->members[1].id, META_PROMOTE, NULL);
        cluster_say_member(s->c, s->c->members[2].id, META_PROMOTE, NULL);
        scene_run(s, 100);
    }
    for (int n = 0; n < 100 && cluster_leader(s->c) && names(cluster_leader(s->c)->server, old->id); n++) {
        cluster_say_member(s->c, old->id, META_REMOVE, NULL);
        scene_run(s, 200);
    }
    scene_run(s, 1000);
    if (!cluster_leader(s->c) || cluster_leader(s->c) == old)
        return false;
    old->in = false;
    member_kill(old);
    return true;
}

/* A client that stood still for so long comes back, and none of whom it knew is there. */
static bool client_alone(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    uint64_t done;

    s->faults = FAULT_MEMBERS;
    s->metas = 1;
    if (!scene_start(s, 1, off))
        return true;
    actor_new(&s->c->clients[0], toucher, s);
    scene_run(s, 500);
    sim_node_pause(s->c->clients[0].node, true);
    if (!replace_first_member(s))
        return true;
    sim_node_pause(s->c->clients[0].node, false);
    scene_run(s, 1000);
    done = s->c->n_ops;
    scene_run(s, 10000);
    return s->c->n_ops == done;
}

/* A store, too. */
static bool store_alone(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    struct storage_status st;

    s->faults = FAULT_MEMBERS;
    s->metas = 1;
    if (!scene_start(s, 0, off))
        return true;
    sim_node_pause(s->c->stores[0].node, true);
    if (!replace_first_member(s))
        return true;
    sim_node_pause(s->c->stores[0].node, false);
    scene_run(s, 15000);
    storage_server_status(s->c->stores[0].server, &st);
    return st.map_epoch != fsm_map_epoch(meta_server_fsm(cluster_leader(s->c)->server));
}

START_TEST(store_stood_still_while_members_were_replaced)
{
    case_check(store_alone, NULL, false);
}
END_TEST

START_TEST(client_stood_still_while_members_were_replaced)
{
    case_check(client_alone, NULL, false);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {lost_journal_of_a_store, replaced_store_is_no_source, another_at_the_address,
                                  member_killed_while_it_is_filled, snapshot_with_a_flipped_bit,
                                  damaged_snapshot_and_nothing_new, whole_snapshot_refused,
                                  mount_beside_files_of_another_cluster, leader_and_the_next_one_removed,
                                  client_stood_still_while_members_were_replaced,
                                  store_stood_still_while_members_were_replaced};

    return cases_run("cases-faults", tests, ARRAY_SIZE(tests));
}
