/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim: a cluster in one process from one seed, under faults, checked.
 *
 * Each run is a process of its own, so that an assertion that fails ends that run alone. A failing run prints the
 * command that replays it exactly.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/map.h"
#include "common/test_rules.h"
#include "meta/fsm.h"
#include "sim/checks.h"
#include "sim/coverage.h"
#include "sim/nemesis.h"
#include "sim/sim_options.h"
#include "sim/workload.h"

static struct cluster_options opt;

/* Members agree: the same hash at the same index, and all of them get there (PROTOCOL 10.12, 10.15). */
static bool members_agree(struct cluster *c)
{
    uint64_t index = 0;

    for (unsigned i = 0; i < c->n_members; i++) {
        struct meta_server *s = c->members[i].server;

        if (!c->members[i].in)
            continue;
        if (!s || !meta_server_fsm(s))
            return false;
        if (index == 0)
            index = meta_server_applied(s);
        else if (meta_server_applied(s) != index)
            return false;
    }
    return true;
}

static void check_members(struct cluster *c)
{
    struct member *first = NULL;
    uint64_t hash = 0;

    if (!cluster_run(c, sim_now(c->s) + 60 * NS_PER_S, members_agree)) {
        for (unsigned i = 0; i < c->n_members; i++)
            cluster_log(c, "member %u applied %" PRIu64, c->members[i].id,
                        c->members[i].server ? meta_server_applied(c->members[i].server) : 0);
        cluster_fail(c, "the members never come to the same index");
        return;
    }
    for (unsigned i = 0; i < c->n_members; i++) {
        struct member *m = &c->members[i];

        if (!m->in)
            continue;
        if (!first)
            hash = fsm_state_hash(meta_server_fsm(m->server));
        else if (fsm_state_hash(meta_server_fsm(m->server)) != hash)
            cluster_fail(c, "members %u and %u differ at index %" PRIu64, first->id, m->id, meta_server_applied(m->server));
        first = first ? first : m;
    }
}

/* ---- a server is not there ------------------------------------------------------------------------ */

static unsigned members_in(struct cluster *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->n_members; i++)
        n += c->members[i].in;
    return n;
}

/* The @i-th of them, from 0, around. */
static struct member *member_in(struct cluster *c, unsigned i)
{
    struct member *m = c->members;

    for (i %= members_in(c); !m->in || i-- > 0;)
        m++;
    return m;
}

static void verify_without_store(struct cluster *c, struct workload *w, unsigned i)
{
    cluster_log(c, "verification without store %u", c->stores[i].id);
    c->stores[i].down = true;
    store_kill(&c->stores[i]);
    (void)workload_verify(w); /* what it found is in the cluster */
    if (!c->failed)
        store_boot(&c->stores[i]);
    c->stores[i].down = false;
}

static void verify_without_member(struct cluster *c, struct workload *w, struct member *m)
{
    cluster_log(c, "verification without member %u", m->id);
    m->down = true;
    member_kill(m);
    (void)workload_verify(w);
    if (!c->failed)
        member_boot(m);
    m->down = false;
}

/* After faults that take copies away: all are there again. */
static bool await_redundancy(struct cluster *c)
{
    uint64_t until = sim_now(c->s) + opt.settle_ns;

    if (opt.faults & (FAULT_DAMAGE | FAULT_ROT)) /* the scrub comes around */
        cluster_run_until(c, sim_now(c->s) + 15 * NS_PER_S);
    if ((opt.faults & (FAULT_DAMAGE | FAULT_MEMBERS)) && !cluster_run(c, until, cluster_group_whole))
        cluster_fail(c, "the group is never whole again");
    if (opt.faults & (FAULT_NODES | FAULT_MOVE)) /* the last words about stores */
        cluster_run_until(c, sim_now(c->s) + 12 * NS_PER_S);
    if ((opt.faults & (FAULT_DAMAGE | FAULT_NODES | FAULT_MOVE)) && opt.n_store > opt.w && !cluster_run(c, until, cluster_placed))
        cluster_fail(c, "not all copies are there again");
    return !c->failed;
}

/* So any one server may go. */
static bool check_redundancy(struct cluster *c, struct workload *w)
{
    if (!(opt.faults & (FAULT_DAMAGE | FAULT_MEMBERS | FAULT_NODES)))
        return true;
    if (opt.n_store > opt.w)
        verify_without_store(c, w, (unsigned)sim_below(sim_rng(c->s), opt.n_store));
    if (!c->failed && members_in(c) > 2 && cluster_run(c, sim_now(c->s) + opt.settle_ns, cluster_group_whole))
        verify_without_member(c, w, member_in(c, (unsigned)sim_below(sim_rng(c->s), MEMBERS_MAX)));
    return !c->failed;
}

/* ---- a disk is lost ------------------------------------------------------------------------------- */

/*
 * A store's or a member's disk is gone; it comes back empty and is filled; then another one stops, and all must
 * still be there.
 */
static void lose_store_disk(struct cluster *c, struct workload *w)
{
    unsigned i = (unsigned)sim_below(sim_rng(c->s), c->opt.n_store);

    if (opt.faults & (FAULT_ROT | FAULT_DAMAGE))
        i = (unsigned)(opt.seed % opt.n_store); /* no other copy is rotten */
    c->lost_store = cluster_store_of(c, c->stores[i].id);
    cluster_log(c, "store %u loses its disk", c->stores[i].id);
    c->stores[i].down = true;
    store_kill(&c->stores[i]);
    sim_disk_erase(sim_node_disk(c->stores[i].node));
    cluster_run_until(c, sim_now(c->s) + sim_below(sim_rng(c->s), 10) * NS_PER_S);
    store_boot(&c->stores[i]);
    c->stores[i].down = false;
    cluster_run_until(c, sim_now(c->s) + NS_PER_S);
    if (cluster_run(c, sim_now(c->s) + opt.settle_ns, cluster_placed))
        verify_without_store(c, w, (i + 1) % opt.n_store);
    else
        cluster_fail(c, "the empty store is not filled");
}

static void lose_member_disk(struct cluster *c, struct workload *w)
{
    unsigned i = (unsigned)sim_below(sim_rng(c->s), members_in(c));
    struct member *m = member_in(c, i);

    cluster_log(c, "member %u loses its disk", m->id);
    m->down = true;
    member_kill(m);
    sim_disk_erase(sim_node_disk(m->node));
    cluster_run_until(c, sim_now(c->s) + sim_below(sim_rng(c->s), 10) * NS_PER_S);
    member_boot(m);
    m->down = false;
    if (!cluster_run(c, sim_now(c->s) + opt.settle_ns, members_agree)) {
        cluster_fail(c, "the empty member does not catch up");
        return;
    }
    cluster_run_until(c, sim_now(c->s) + 5 * NS_PER_S); /* it is promoted meanwhile */
    verify_without_member(c, w, member_in(c, i + 1));
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
        if (!c->failed && await_redundancy(c) && workload_verify(w) && (!opt.n_store || checks_replicas(k)) && check_redundancy(c, w) &&
            (opt.faults & FAULT_ERASE)) {
            if (opt.n_store > opt.w && sim_below(sim_rng(c->s), 2))
                lose_store_disk(c, w);
            else if (members_in(c) > 2)
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
    if (opt.swarm)
        options_print_swarm(&opt, stdout);
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

static void on_abort(int sig)
{
    (void)sig;
    cluster_dump_log();
    fflush(stderr);
    signal(SIGABRT, SIG_DFL);
    abort();
}

/* The seed as it is in @base, in a process of its own. 0: it held, 1: it failed, 2: no process. */
static int run_seed(const struct run_options *o, uint64_t seed, const char *program)
{
    int status;
    pid_t pid;

    opt = o->base;
    opt.seed = seed;
    if (opt.swarm)
        options_swarm(&opt);
    if (opt.verbose && o->runs == 1) {
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
    if (status == 0)
        return 0;
    if (WIFSIGNALED(status))
        printf("seed=%" PRIu64 " FAILED signal=%d\n", seed, WTERMSIG(status));
    if (!o->expect_failure)
        options_print_replay(program, &o->base, seed);
    return 1;
}

int main(int argc, char **argv)
{
    struct run_options o;
    uint64_t failed = 0, n = 0;
    time_t end;
    bool covered = true;

    if (!options_parse(argc, argv, &o))
        return o.status;
    tc_test_rules_set(&o.base.rules_off[RULE_DATA]);
    coverage_init();
    end = time(NULL) + (time_t)(o.minutes * 60);
    for (; o.minutes ? time(NULL) < end : n < o.runs; n++) {
        int r = run_seed(&o, o.base.seed + n, argv[0]);

        if (r == 2)
            return 2;
        failed += (uint64_t)r;
        if (failed && !o.keep_going) {
            n++;
            break;
        }
    }
    if (o.coverage)
        covered = coverage_print() || !o.require_coverage;
    printf("runs=%" PRIu64 " failed=%" PRIu64 " seeds=%" PRIu64 "..%" PRIu64 "\n", n, failed, o.base.seed,
           o.base.seed + n - 1);
    return (failed != 0) != o.expect_failure || !covered;
}
