/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripted cases: disks of stores that hang, or are only slow. Five stores, a program that writes, syncs and reads all the
 * while. What is asked: when does the leader know, when do all groups of that store move to others, is it taken back
 * when the disk goes on, and how long does anybody wait meanwhile.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/map.h"
#include "meta/fsm.h"
#include "sim/scene.h"

enum { FILES = 24, NODE = 1 };
#define NOTICED_MS 2000
#define NO_LIMIT (3600 * NS_PER_S)

static unsigned alarms;
static uint64_t longest; /* a write with its sync, or a read, ns */

static void count_alarms(const char *line)
{
    alarms += strstr(line, "the disk hangs") != NULL;
}

static void took(struct actor *a, uint64_t began)
{
    longest = MAX(longest, sim_now(a->c->s) - began);
}

/* Files on all groups, about: written, synced and read in turn. */
static void program(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN] = {1};
    struct tc_file *f[FILES];
    char name[8];

    if (!actor_ready(a))
        return;
    for (unsigned i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof name, "f%u", i);
        if (a_make(a, tc_client_root(a->cl->tc), name, S_IFREG | 0644, true) || a_open(a, a->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f[i]))
            return;
    }
    for (unsigned i = 0; !s->ended; i = (i + 1) % FILES) {
        uint64_t began = sim_now(a->c->s);

        if ((s->status = a_write(a, f[i], data, LEN, 0, false)) || (s->status = a_fsync(a, f[i])))
            return;
        took(a, began);
        began = sim_now(a->c->s);
        if ((s->status = a_read(a, f[(i + FILES / 2) % FILES], 0, LEN)))
            return;
        took(a, began);
        s->done++;
        actor_sleep(a, 5 * NS_PER_MS);
    }
}

/* Reads what is in no cache of its own: another client's. */
static void reader(struct actor *a)
{
    struct scene *s = a->arg;
    struct tc_file *f;
    char name[8];

    if (!actor_ready(a))
        return;
    for (unsigned i = 0; !s->ended; i = (i + 1) % FILES) {
        uint64_t began = sim_now(a->c->s);

        (void)snprintf(name, sizeof name, "f%u", i);
        if ((s->status = a_lookup(a, tc_client_root(a->cl->tc), name)) || (s->status = a_open(a, a->ino, TC_OPEN_READ, &f)) ||
            (s->status = a_read(a, f, 0, LEN)))
            return;
        a_release(a, f, a->cl->kills);
        took(a, began);
        s->n++;
        actor_sleep(a, 20 * NS_PER_MS);
    }
}

static bool start(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    s->stores = 5;
    if (!scene_start(s, 2, off))
        return false;
    s->c->watch_log = count_alarms;
    actor_new(&s->c->clients[0], program, s);
    scene_run(s, 1000);
    actor_new(&s->c->clients[1], reader, s);
    scene_run(s, 1000);
    alarms = 0;
    longest = 0;
    return s->done > 10 && s->n > 10 && cluster_placed(s->c);
}

static bool says_error(struct scene *s)
{
    struct member *m = cluster_leader(s->c);
    char *json = m ? meta_server_status_json(m->server) : NULL;
    bool is = json && strstr(json, "disk_error");

    free(json);
    return is;
}

/* Groups that have the store, and are not on their way to be without it. */
static unsigned stays_in(struct scene *s)
{
    struct member *m = cluster_leader(s->c);
    struct fsm *fsm = m ? meta_server_fsm(m->server) : NULL;
    uint64_t store = cluster_store_of(s->c, s->c->stores[NODE].id);
    const struct map_pg *pg;
    unsigned n = 0;

    if (!fsm)
        return UINT32_MAX;
    for (uint32_t i = 0; (pg = fsm_pg(fsm, i)); i++) {
        const uint64_t *set = pg->n_next ? pg->next : pg->voters;

        for (unsigned v = 0; v < (pg->n_next ? pg->n_next : pg->n); v++)
            n += set[v] == store;
    }
    return n;
}

/* ms until the leader knows, and until every group of the store moves. */
static bool noticed(struct scene *s, uint64_t *ret_known, uint64_t *ret_moved)
{
    uint64_t began = sim_now(s->c->s);

    *ret_known = *ret_moved = 0;
    while (!*ret_moved && !s->c->failed && sim_now(s->c->s) - began < 20 * NS_PER_S) {
        scene_run(s, 1);
        if (!*ret_known && says_error(s))
            *ret_known = (sim_now(s->c->s) - began) / NS_PER_MS;
        if (*ret_known && stays_in(s) == 0)
            *ret_moved = (sim_now(s->c->s) - began) / NS_PER_MS;
    }
    return *ret_moved > 0;
}

static void disk_slow(struct scene *s, uint64_t sync_ns, uint64_t read_ns)
{
    struct sim_disk *d = sim_node_disk(s->c->stores[NODE].node);

    sim_disk_slow(d, SIM_DISK_SYNC, sync_ns);
    sim_disk_slow(d, SIM_DISK_SYNC_DIR, sync_ns);
    sim_disk_slow(d, SIM_DISK_READ, read_ns);
}

/* It is well, holds groups, and nothing moves; the program never saw an error. */
static bool taken_back(struct scene *s)
{
    for (int i = 0; i < 300 && (says_error(s) || stays_in(s) == 0 || !cluster_placed(s->c)); i++)
        scene_run(s, 100);
    s->ended = true;
    scene_run(s, 1000);
    return !says_error(s) && stays_in(s) > 0 && cluster_placed(s->c) && s->status == 0;
}

/* Nothing that is asked of the disk ends: known within 2 s, all its groups on their way to others; nobody waits that long. */
static bool whole_disk(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    uint64_t known, moved, done, n, waited;

    if (!start(s, off))
        return true;
    sim_node_stall(s->c->stores[NODE].node, 12 * NS_PER_S);
    if (!noticed(s, &known, &moved))
        return true;
    waited = longest; /* before the map said anything */
    done = s->done, n = s->n;
    scene_run(s, 5000);
    fprintf(stderr, "# hung: known after %llu ms, groups move after %llu ms; longest operation %llu ms until then\n", (unsigned long long)known,
           (unsigned long long)moved, (unsigned long long)(waited / NS_PER_MS));
    if (moved > NOTICED_MS || waited > 300 * NS_PER_MS || s->done < done + 50 || s->n < n + 50 || alarms != 1)
        return true;
    return !taken_back(s);
}

START_TEST(hung_disk)
{
    case_check(whole_disk, NULL, false);
}
END_TEST

/* One that reads, and makes nothing durable any more. */
static bool syncs_hang(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    uint64_t known, moved;

    if (!start(s, off))
        return true;
    disk_slow(s, NO_LIMIT, 0);
    if (!noticed(s, &known, &moved))
        return true;
    fprintf(stderr, "# syncs hang: known after %llu ms, groups move after %llu ms\n", (unsigned long long)known, (unsigned long long)moved);
    s->ended = true;
    return moved > NOTICED_MS || alarms != 1 || s->status;
}

START_TEST(hung_syncs)
{
    case_check(syncs_hang, NULL, false);
}
END_TEST

/* Syncs of up to 1.9 s that end are no alarm, whether they become slow at once or by and by. */
static bool slow_syncs(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    if (!start(s, off))
        return true;
    disk_slow(s, 1900 * NS_PER_MS, 0);
    for (int i = 0; i < 150; i++) {
        scene_run(s, 100);
        if (says_error(s))
            return true;
    }
    for (uint64_t ms = 0; ms < 3000; ms += 25) { /* and 3 s are none for one that was seen to be slow */
        disk_slow(s, MAX(ms, 1900) * NS_PER_MS, 20 * NS_PER_MS);
        scene_run(s, 100);
        if (says_error(s))
            return true;
    }
    disk_slow(s, 0, 0);
    return alarms || !taken_back(s);
}

START_TEST(slow_disk)
{
    case_check(slow_syncs, NULL, false);
}
END_TEST

/* Out of nothing 3 s a sync: an alarm or two, taken back, and what moved is called off; then it is known to be such a disk. */
static bool very_slow_syncs(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    if (!start(s, off))
        return true;
    disk_slow(s, 3 * NS_PER_S, 0);
    scene_run(s, 60000);
    fprintf(stderr, "# syncs of 3 s: %u alarms in a minute\n", alarms);
    if (alarms > 2 || says_error(s))
        return true;
    disk_slow(s, 0, 0);
    return !taken_back(s);
}

START_TEST(very_slow_disk)
{
    case_check(very_slow_syncs, NULL, false);
}
END_TEST

/* A node that is killed, and one that is cut off from everybody. */
static bool gone(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    uint64_t began, moved = 0;

    if (!start(s, off))
        return true;
    for (unsigned i = 0; s->replaced && i < 3; i++) {
        sim_net_cut(s->c->s, s->c->stores[NODE].node, cluster_node(s->c, i), true);
        sim_net_cut(s->c->s, cluster_node(s->c, i), s->c->stores[NODE].node, true);
    }
    if (!s->replaced) {
        s->c->stores[NODE].down = true;
        store_kill(&s->c->stores[NODE]);
    }
    began = sim_now(s->c->s);
    while (!moved && sim_now(s->c->s) - began < 20 * NS_PER_S) {
        scene_run(s, 1);
        if (stays_in(s) == 0)
            moved = (sim_now(s->c->s) - began) / NS_PER_MS;
    }
    fprintf(stderr, "# %s: groups move after %llu ms\n", s->replaced ? "cut off" : "killed", (unsigned long long)moved);
    s->ended = true;
    return !moved || moved > NOTICED_MS || s->status;
}

static bool cut_off(struct scene *s, const uint64_t off[RULE_LAYERS])
{
    s->replaced = true;
    return gone(s, off);
}

START_TEST(killed_node)
{
    case_check(gone, NULL, false);
}
END_TEST

START_TEST(cut_off_node)
{
    case_check(cut_off, NULL, false);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {hung_disk, hung_syncs, slow_disk, very_slow_disk, killed_node, cut_off_node};

    return cases_run("disks", tests, ARRAY_SIZE(tests));
}
