/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim: a cluster in one process from one seed, under faults, checked.
 *
 * Each run is a process of its own, so that an assertion that fails ends that run alone. A failing run prints the
 * command that replays it exactly.
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/test_rules.h"
#include "sim/checks.h"
#include "sim/nemesis.h"
#include "sim/workload.h"

#include "common/map.h"
#include "meta/fsm.h"

static struct cluster_options opt = {
    .seed = 1,
    .n_meta = 3,
    .n_store = 3,
    .n_client = 3,
    .n_actor = 3,
    .n = 3,
    .w = 2,
    .r = 2,
    .pg_count = 64,
    .duration_ns = 20 * NS_PER_S,
    .settle_ns = 120 * NS_PER_S,
    .ttl_ms = 3000,
    .faults = FAULT_ALL,
    .work = WORK_ALL,
};

static const struct {
    const char *name;
    uint32_t bit;
} fault_names[] = {{"kill-meta", FAULT_KILL_META}, {"kill-store", FAULT_KILL_STORE}, {"kill-client", FAULT_KILL_CLIENT},
                   {"power", FAULT_POWER},         {"pause", FAULT_PAUSE},           {"partition", FAULT_PARTITION},
                   {"net", FAULT_NET},             {"disk", FAULT_DISK},             {"clock", FAULT_CLOCK},
                   {"reset", FAULT_RESET},         {"erase", FAULT_ERASE},           {"all", FAULT_ALL},
                   {"none", 0}},
  work_names[] = {{"shared", WORK_SHARED}, {"turns", WORK_TURNS}, {"names", WORK_NAMES}, {"fight", WORK_FIGHT},
                  {"all", WORK_ALL},       {"none", 0}};

#define BITS(list, table) parse_bits(list, (const void *)(table), ARRAY_SIZE(table))

static uint32_t parse_bits(const char *list, const void *table, size_t n)
{
    const struct {
        const char *name;
        uint32_t bit;
    } *t = table;
    char *copy = tc_strdup(list), *save, *p;
    uint32_t bits = 0;

    for (p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
        size_t i = 0;

        while (i < n && strcmp(t[i].name, p) != 0)
            i++;
        if (i == n) {
            fprintf(stderr, "sim: \"%s\" is none of", p);
            for (i = 0; i < n; i++)
                fprintf(stderr, " %s", t[i].name);
            fprintf(stderr, "\n");
            exit(2);
        }
        bits |= t[i].bit;
    }
    free(copy);
    return bits;
}

/* Members agree: the same hash at the same index, and all of them get there (PROTOCOL 10.12, 10.15). */
static bool members_agree(struct cluster *c)
{
    uint64_t index = 0;

    for (unsigned i = 0; i < c->opt.n_meta; i++) {
        struct meta_server *s = c->members[i].server;

        if (!s || !meta_server_fsm(s))
            return false;
        if (i == 0)
            index = meta_server_applied(s);
        else if (meta_server_applied(s) != index)
            return false;
    }
    return true;
}

static void check_members(struct cluster *c)
{
    uint64_t hash;

    if (!cluster_run(c, sim_now(c->s) + 60 * NS_PER_S, members_agree)) {
        for (unsigned i = 0; i < c->opt.n_meta; i++)
            cluster_log(c, "member %u applied %" PRIu64, i + 1,
                        c->members[i].server ? meta_server_applied(c->members[i].server) : 0);
        cluster_fail(c, "the members never come to the same index");
        return;
    }
    hash = fsm_state_hash(meta_server_fsm(c->members[0].server));
    for (unsigned i = 1; i < c->opt.n_meta; i++)
        if (fsm_state_hash(meta_server_fsm(c->members[i].server)) != hash)
            cluster_fail(c, "members 1 and %u differ at index %" PRIu64, i + 1,
                         meta_server_applied(c->members[i].server));
}

/* ---- a disk is lost ------------------------------------------------------------------------------- */

static bool placement_stable(struct cluster *c)
{
    struct member *m = cluster_leader(c);
    const struct fsm_store *stores;
    struct fsm *f = m ? meta_server_fsm(m->server) : NULL;
    uint32_t n, up = 0;

    if (!f || !fsm_has_table(f))
        return false;
    stores = fsm_stores(f, &n);
    for (uint32_t i = 0; i < n; i++)
        up += stores[i].state == STORE_UP;
    for (uint32_t i = 0; i < c->opt.pg_count; i++) {
        const struct map_pg *pg = fsm_pg(f, i);

        if (pg->n != c->opt.n || pg->n_next)
            return false;
        for (unsigned k = 0; k < pg->n; k++)
            if (!fsm_store(f, pg->voters[k]) || fsm_store(f, pg->voters[k])->state == STORE_REPLACED)
                return false;
    }
    return up == c->opt.n_store;
}

/*
 * A store's or a member's disk is gone; it comes back empty and is filled; then another one stops, and all must
 * still be there.
 */
static void lose_store_disk(struct cluster *c, struct workload *w)
{
    unsigned i = (unsigned)sim_below(sim_rng(c->s), c->opt.n_store), other = (i + 1) % c->opt.n_store;

    cluster_log(c, "store %u loses its disk", i + 1);
    c->stores[i].down = true;
    store_kill(&c->stores[i]);
    sim_disk_erase(sim_node_disk(c->stores[i].node));
    cluster_run_until(c, sim_now(c->s) + sim_below(sim_rng(c->s), 10) * NS_PER_S);
    store_boot(&c->stores[i]);
    c->stores[i].down = false;
    cluster_run_until(c, sim_now(c->s) + NS_PER_S);
    if (!cluster_run(c, sim_now(c->s) + opt.settle_ns, placement_stable)) {
        cluster_fail(c, "the empty store is not filled");
        return;
    }
    c->stores[other].down = true;
    store_kill(&c->stores[other]);
    (void)workload_verify(w); /* what it found is in the cluster */
    if (!c->failed)
        store_boot(&c->stores[other]);
    c->stores[other].down = false;
}

static void lose_member_disk(struct cluster *c, struct workload *w)
{
    unsigned i = (unsigned)sim_below(sim_rng(c->s), c->opt.n_meta), other = (i + 1) % c->opt.n_meta;

    cluster_log(c, "member %u loses its disk", i + 1);
    c->members[i].down = true;
    member_kill(&c->members[i]);
    sim_disk_erase(sim_node_disk(c->members[i].node));
    cluster_run_until(c, sim_now(c->s) + sim_below(sim_rng(c->s), 10) * NS_PER_S);
    member_boot(&c->members[i]);
    c->members[i].down = false;
    if (!cluster_run(c, sim_now(c->s) + opt.settle_ns, members_agree)) {
        cluster_fail(c, "the empty member does not catch up");
        return;
    }
    cluster_run_until(c, sim_now(c->s) + 5 * NS_PER_S); /* it is promoted meanwhile */
    c->members[other].down = true;
    member_kill(&c->members[other]);
    (void)workload_verify(w);
    if (!c->failed)
        member_boot(&c->members[other]);
    c->members[other].down = false;
}

/* One run; true if everything held. */
static bool run_one(void)
{
    struct cluster *c = cluster_new(&opt);
    struct workload *w = workload_new(c);
    struct nemesis *n = nemesis_new(c);
    struct checks *k = checks_new(c);
    uint64_t end, inos[SHARED_FILES + TURN_FILES];
    bool ok;

    if (cluster_start(c) && (!opt.n_client || workload_setup(w))) {
        end = sim_now(c->s) + opt.duration_ns;
        workload_start(w);
        nemesis_start(n, end);
        cluster_run_until(c, end);
        c->stopping = true;
        if (!cluster_run(c, end + opt.settle_ns, workload_ended) && !c->failed)
            workload_say_who_waits(c, "after the faults");
        for (unsigned i = 0, files = workload_files(w, inos); i < files; i++)
            checks_add_file(k, inos[i], 2);
        if (!c->failed && workload_verify(w) && (!opt.n_store || checks_replicas(k)) && (opt.faults & FAULT_ERASE)) {
            if (opt.n_store > opt.w && sim_below(sim_rng(c->s), 2))
                lose_store_disk(c, w);
            else if (opt.n_meta > 2)
                lose_member_disk(c, w);
        }
        if (!c->failed)
            check_members(c);
    }
    ok = !c->failed;
    for (unsigned i = 0; !ok && i < opt.n_client; i++) {
        char *json = c->clients[i].tc ? tc_client_stats(c->clients[i].tc) : NULL;

        fprintf(stderr, "client %u %s\n", i, json ? json : "-");
        free(json);
    }
    if (!ok && cluster_leader(c)) {
        char *json = meta_server_status_json(cluster_leader(c)->server);

        fprintf(stderr, "%s\n", json);
        free(json);
    }
    printf("seed=%" PRIu64 " %s ops=%" PRIu64 " errors=%" PRIu64 " events=%" PRIu64 " sim_s=%.1f trace=%016" PRIx64 "%s%s\n",
           opt.seed, ok ? "ok" : "FAILED", c->n_ops, c->n_errors, sim_events(c->s), (double)sim_now(c->s) / 1e9,
           sim_trace(c->s), ok ? "" : " why=", ok ? "" : c->why);
    fflush(stdout);
    if (!ok && !opt.verbose)
        cluster_dump_log();
    if (!ok)
        return false; /* its memory goes with the process */
    nemesis_free(n);
    workload_free(w);
    cluster_free(c);
    checks_free(k);
    return ok;
}

static void print_replay(const char *program)
{
    fprintf(stderr,
            "replay: %s --seed=%" PRIu64 " --metas=%u --stores=%u --clients=%u --actors=%u --time=%" PRIu64
            " --faults-mask=%u --work-mask=%u --rules-off=%u --meta-rules-off=%u --verbose\n",
            program, opt.seed, opt.n_meta, opt.n_store, opt.n_client, opt.n_actor, opt.duration_ns / NS_PER_S,
            opt.faults, opt.work, opt.test_rules, opt.rules_off);
}

static void on_abort(int sig)
{
    (void)sig;
    cluster_dump_log();
    fflush(stderr);
    signal(SIGABRT, SIG_DFL);
    abort();
}

enum { O_SEED = 256, O_RUNS, O_TIME, O_METAS, O_STORES, O_CLIENTS, O_ACTORS, O_FAULTS, O_WORK, O_FMASK, O_WMASK,
       O_RULES, O_META_RULES, O_VERBOSE, O_MESSAGES, O_KEEP, O_EXPECT, O_TTL, O_HELP };

static const struct option options[] = {{"seed", 1, NULL, O_SEED},
                                        {"runs", 1, NULL, O_RUNS},
                                        {"time", 1, NULL, O_TIME},
                                        {"metas", 1, NULL, O_METAS},
                                        {"stores", 1, NULL, O_STORES},
                                        {"clients", 1, NULL, O_CLIENTS},
                                        {"actors", 1, NULL, O_ACTORS},
                                        {"faults", 1, NULL, O_FAULTS},
                                        {"work", 1, NULL, O_WORK},
                                        {"faults-mask", 1, NULL, O_FMASK},
                                        {"work-mask", 1, NULL, O_WMASK},
                                        {"rules-off", 1, NULL, O_RULES},
                                        {"meta-rules-off", 1, NULL, O_META_RULES},
                                        {"ttl-ms", 1, NULL, O_TTL},
                                        {"verbose", 0, NULL, O_VERBOSE},
                                        {"messages", 0, NULL, O_MESSAGES},
                                        {"keep-going", 0, NULL, O_KEEP},
                                        {"expect-failure", 0, NULL, O_EXPECT},
                                        {"help", 0, NULL, O_HELP},
                                        {0}};

static const char usage[] =
    "Usage: sim [--seed=N] [--runs=K] [--time=SECONDS] [--metas=M] [--stores=S] [--clients=C] [--actors=A]\n"
    "           [--faults=LIST] [--work=LIST] [--ttl-ms=N] [--keep-going] [--verbose [--messages]]\n"
    "           [--rules-off=MASK] [--meta-rules-off=MASK] [--expect-failure]\n"
    "Simulate a cluster under faults, from seed N on, K seeds. --time is simulated time.\n"
    "LISTs: comma separated; a wrong name shows the right ones. With --expect-failure the exit status is 0 if\n"
    "some seed fails: a rule is off (common/test_rules.h, enum meta_rule), and the checks must notice.\n";

int main(int argc, char **argv)
{
    uint64_t runs = 1, failed = 0, first = 0;
    bool keep_going = false, expect_failure = false;
    int o;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint64_t v = optarg ? strtoull(optarg, NULL, 0) : 0;

        switch (o) {
        case O_SEED: opt.seed = v; break;
        case O_RUNS: runs = v; break;
        case O_TIME: opt.duration_ns = v * NS_PER_S; break;
        case O_METAS: opt.n_meta = (unsigned)v; break;
        case O_STORES: opt.n_store = (unsigned)v; break;
        case O_CLIENTS: opt.n_client = (unsigned)v; break;
        case O_ACTORS: opt.n_actor = (unsigned)v; break;
        case O_FAULTS: opt.faults = BITS(optarg, fault_names); break;
        case O_WORK: opt.work = BITS(optarg, work_names); break;
        case O_FMASK: opt.faults = (uint32_t)v; break;
        case O_WMASK: opt.work = (uint32_t)v; break;
        case O_RULES: opt.test_rules = (uint32_t)v; break;
        case O_META_RULES: opt.rules_off = (uint32_t)v; break;
        case O_TTL: opt.ttl_ms = v; break;
        case O_VERBOSE: opt.verbose = true; break;
        case O_MESSAGES: opt.messages = true; break;
        case O_KEEP: keep_going = true; break;
        case O_EXPECT: expect_failure = true; break;
        case O_HELP: fputs(usage, stdout); return 0;
        default: fputs(usage, stderr); return 2;
        }
    }
    if (opt.n_meta > METAS_MAX || opt.n_store > STORES_MAX || opt.n_client > CLIENTS_MAX ||
        opt.n_client * (opt.n_actor + 1) + 1 > ACTORS_MAX || !opt.n_meta) {
        fprintf(stderr, "sim: too many, or too few, of something\n");
        return 2;
    }
    tc_test_rules_set(opt.test_rules);
    first = opt.seed;
    for (; opt.seed < first + runs && (!failed || keep_going); opt.seed++) {
        int status;
        pid_t pid;

        if (opt.verbose && runs == 1) {
            signal(SIGABRT, on_abort);
            return run_one() ? 0 : 1;
        }
        fflush(NULL);
        pid = fork();
        if (pid == 0) {
            signal(SIGABRT, on_abort);
            exit(run_one() ? 0 : 1);
        }
        if (pid < 0 || waitpid(pid, &status, 0) < 0) {
            perror("sim: fork");
            return 2;
        }
        if (status != 0) {
            failed++;
            if (WIFSIGNALED(status))
                printf("seed=%" PRIu64 " FAILED signal=%d\n", opt.seed, WTERMSIG(status));
            if (!expect_failure)
                print_replay(argv[0]);
        }
    }
    printf("runs=%" PRIu64 " failed=%" PRIu64 "\n", opt.seed - first, failed);
    return (failed != 0) != expect_failure;
}
