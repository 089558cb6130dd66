/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/sim_options.h"

#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "sim/nemesis.h"
#include "sim/workload.h"

static const struct cluster_options defaults = {
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
    .work = WORK_USUAL,
    .strike = 8,
    .hurt = 40,
    .change = 40,
    .move = 16,
    .cut = 40,
};

struct name {
    const char *name;
    uint32_t bit;
};

static const struct name fault_names[] = {
    {"kill-meta", FAULT_KILL_META}, {"kill-store", FAULT_KILL_STORE}, {"kill-client", FAULT_KILL_CLIENT},
    {"power", FAULT_POWER},         {"pause", FAULT_PAUSE},           {"partition", FAULT_PARTITION},
    {"net", FAULT_NET},             {"disk", FAULT_DISK},             {"clock", FAULT_CLOCK},
    {"reset", FAULT_RESET},         {"transfer", FAULT_TRANSFER},     {"slow", FAULT_SLOW},
    {"erase", FAULT_ERASE},         {"move", FAULT_MOVE},             {"rot", FAULT_ROT},
    {"damage", FAULT_DAMAGE},       {"members", FAULT_MEMBERS},       {"nodes", FAULT_NODES},
    {"cut", FAULT_CUT},             {"all", FAULT_ALL},               {"none", 0}};
static const struct name work_names[] = {{"shared", WORK_SHARED}, {"turns", WORK_TURNS}, {"names", WORK_NAMES},
                                         {"fight", WORK_FIGHT},   {"locks", WORK_LOCKS}, {"all", WORK_ALL},     {"none", 0}};

/* ---- lists of names ------------------------------------------------------------------------------- */

static bool bits_parse(const char *list, const struct name *t, size_t n, uint32_t *ret)
{
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
            free(copy);
            return false;
        }
        bits |= t[i].bit;
    }
    free(copy);
    *ret = bits;
    return true;
}

static void bits_print(FILE *f, const char *option, uint32_t bits, const struct name *t, size_t n)
{
    const char *sep = "";

    fprintf(f, "%s", option);
    for (size_t i = 0; i + 2 < n; i++) /* without "all" and "none" */
        if (bits & t[i].bit) {
            fprintf(f, "%s%s", sep, t[i].name);
            sep = ",";
        }
    if (!bits)
        fprintf(f, "none");
}

/* ---- swarm ---------------------------------------------------------------------------------------- */

/* What takes copies away, or moves them: each in a part of the seeds, and at a rate of its own. */
static void swarm_changes(struct cluster_options *o, struct sim_rng *rng)
{
    static const unsigned rates[] = {10, 30, 30, 100}, keeps[] = {0, 0, 20, 300};
    static const struct {
        uint32_t fault;
        unsigned one_in;
    } drawn[] = {{FAULT_DAMAGE, 3}, {FAULT_MEMBERS, 3}, {FAULT_NODES, 4}, {FAULT_MOVE, 3}, {FAULT_ROT, 5}, {FAULT_CUT, 3}};

    for (size_t i = 0; i < ARRAY_SIZE(drawn); i++)
        if (sim_below(rng, drawn[i].one_in) == 0)
            o->faults |= drawn[i].fault;
    o->hurt = rates[sim_below(rng, ARRAY_SIZE(rates))];
    o->change = rates[sim_below(rng, ARRAY_SIZE(rates))];
    o->move = rates[sim_below(rng, ARRAY_SIZE(rates))];
    o->keep_entries = keeps[sim_below(rng, ARRAY_SIZE(keeps))];
    o->cut = rates[sim_below(rng, ARRAY_SIZE(rates))];
}

/*
 * Seeds that are all alike find the same things. Here each draws a cluster, classes of faults (often few, so that
 * rare states are not washed away by frequent ones) and how often they strike.
 */
void options_swarm(struct cluster_options *o)
{
    static const unsigned metas[] = {3, 3, 3, 3, 5, 1}, stores[] = {3, 3, 3, 4, 5, 7}, strikes[] = {3, 8, 8, 16, 40};
    static const uint64_t ttls[] = {2400, 3000, 3000, 5000};
    struct sim_rng rng = sim_stream(o->seed, 0x5a4, 0);

    o->n_meta = metas[sim_below(&rng, ARRAY_SIZE(metas))];
    o->n_store = stores[sim_below(&rng, ARRAY_SIZE(stores))];
    o->n_client = 1 + (unsigned)sim_below(&rng, 4);
    o->n_actor = 1 + (unsigned)sim_below(&rng, 4);
    o->ttl_ms = ttls[sim_below(&rng, ARRAY_SIZE(ttls))];
    o->pg_count = 16u << sim_below(&rng, 4);
    o->strike = strikes[sim_below(&rng, ARRAY_SIZE(strikes))];
    o->faults = FAULT_ALL;
    if (sim_below(&rng, 5)) {
        o->faults = 0;
        for (unsigned i = 0; i < FAULTS_DRAWN; i++)
            o->faults |= sim_below(&rng, 3) ? 0 : 1u << i;
    }
    if (sim_below(&rng, 4) == 0)
        o->faults |= FAULT_ERASE;
    o->work = WORK_USUAL;
    if (sim_below(&rng, 3) == 0)
        o->work = 1 + (uint32_t)sim_below(&rng, WORK_USUAL);
    swarm_changes(o, &rng);
    if (sim_below(&rng, 4) == 0 || o->lockers) /* last: the other draws of a seed are what they were */
        o->work = WORK_LOCKS | (sim_below(&rng, 2) ? o->work : 0);
}

void options_print_swarm(const struct cluster_options *o, FILE *f)
{
    fprintf(f, "seed=%" PRIu64 " swarm metas=%u stores=%u clients=%u actors=%u pgs=%u ttl-ms=%" PRIu64
               " strike=%u hurt=%u change=%u move=%u cut=%u keep=%u ",
            o->seed, o->n_meta, o->n_store, o->n_client, o->n_actor, o->pg_count, o->ttl_ms, o->strike, o->hurt, o->change,
            o->move, o->cut, o->keep_entries);
    bits_print(f, "faults=", o->faults, fault_names, ARRAY_SIZE(fault_names));
    bits_print(f, " work=", o->work, work_names, ARRAY_SIZE(work_names));
    fprintf(f, "\n");
}

void options_print_replay(const char *program, const struct cluster_options *o, uint64_t seed)
{
    char rules[1024];

    fprintf(stderr, "replay: %s --seed=%" PRIu64 " --time=%" PRIu64, program, seed, o->duration_ns / NS_PER_S);
    if (o->swarm) {
        fprintf(stderr, o->lockers ? " --swarm --lockers" : " --swarm");
    } else {
        fprintf(stderr, " --metas=%u --stores=%u --clients=%u --actors=%u --ttl-ms=%" PRIu64 " --strike=%u", o->n_meta,
                o->n_store, o->n_client, o->n_actor, o->ttl_ms, o->strike);
        fprintf(stderr, " --hurt=%u --change=%u --move=%u --cut=%u --keep-entries=%u", o->hurt, o->change, o->move,
                o->cut, o->keep_entries);
        bits_print(stderr, " --faults=", o->faults, fault_names, ARRAY_SIZE(fault_names));
        bits_print(stderr, " --work=", o->work, work_names, ARRAY_SIZE(work_names));
    }
    rules_print(o->rules_off, rules, sizeof rules);
    fprintf(stderr, "%s%s --verbose\n", rules[0] ? " --rules-off=" : "", rules);
}

/* ---- the command line ----------------------------------------------------------------------------- */

enum { O_SEED = 256, O_RUNS, O_MINUTES, O_TIME, O_METAS, O_STORES, O_CLIENTS, O_ACTORS, O_FAULTS, O_WORK, O_STRIKE,
       O_RULES, O_LIST, O_SWARM, O_COVERAGE, O_REQUIRE, O_VERBOSE, O_MESSAGES, O_KEEP, O_EXPECT, O_TTL, O_HURT,
       O_CHANGE, O_MOVE, O_CUT, O_KEEP_ENTRIES, O_LOCKERS, O_HELP };

static const struct option options[] = {{"seed", 1, NULL, O_SEED},
                                        {"runs", 1, NULL, O_RUNS},
                                        {"minutes", 1, NULL, O_MINUTES},
                                        {"time", 1, NULL, O_TIME},
                                        {"metas", 1, NULL, O_METAS},
                                        {"stores", 1, NULL, O_STORES},
                                        {"clients", 1, NULL, O_CLIENTS},
                                        {"actors", 1, NULL, O_ACTORS},
                                        {"faults", 1, NULL, O_FAULTS},
                                        {"work", 1, NULL, O_WORK},
                                        {"strike", 1, NULL, O_STRIKE},
                                        {"rules-off", 1, NULL, O_RULES},
                                        {"list-rules", 0, NULL, O_LIST},
                                        {"ttl-ms", 1, NULL, O_TTL},
                                        {"hurt", 1, NULL, O_HURT},
                                        {"change", 1, NULL, O_CHANGE},
                                        {"move", 1, NULL, O_MOVE},
                                        {"cut", 1, NULL, O_CUT},
                                        {"keep-entries", 1, NULL, O_KEEP_ENTRIES},
                                        {"swarm", 0, NULL, O_SWARM},
                                        {"lockers", 0, NULL, O_LOCKERS},
                                        {"coverage", 0, NULL, O_COVERAGE},
                                        {"require-coverage", 0, NULL, O_REQUIRE},
                                        {"verbose", 0, NULL, O_VERBOSE},
                                        {"messages", 0, NULL, O_MESSAGES},
                                        {"keep-going", 0, NULL, O_KEEP},
                                        {"expect-failure", 0, NULL, O_EXPECT},
                                        {"help", 0, NULL, O_HELP},
                                        {0}};

static const char usage[] =
    "Usage: sim [--seed=N] [--runs=K | --minutes=M] [--time=SECONDS] [--keep-going] [--verbose [--messages]]\n"
    "           [--swarm [--lockers] | [--metas=M] [--stores=S] [--clients=C] [--actors=A] [--faults=LIST] [--work=LIST]\n"
    "           [--strike=N] [--hurt=N] [--change=N] [--move=N] [--cut=N] [--keep-entries=N]\n"
    "           [--ttl-ms=N]] [--coverage [--require-coverage]]\n"
    "           [--rules-off=LIST [--expect-failure]]\n"
    "       sim --list-rules\n"
    "Simulate a cluster under faults, from seed N on, K seeds or as many as fit into M minutes. --time is simulated\n"
    "time. LISTs: comma separated; a wrong name shows the right ones. --strike and those behind it: in one of so many\n"
    "turns there is a fault, are files damaged, the group changed, stores moved, clients cut off. --swarm: each seed draws sizes, faults and\n"
    "rates (with --lockers: locks are among its work). --coverage prints how often interesting states were reached, --require-coverage fails if one never was.\n"
    "With --expect-failure the exit status is 0 if some seed fails: a rule is off, and the checks must notice.\n";

static bool set(struct run_options *o, int option, const char *text)
{
    struct cluster_options *b = &o->base;
    uint64_t v = text ? strtoull(text, NULL, 0) : 0;

    switch (option) {
    case O_SEED: b->seed = v; return true;
    case O_RUNS: o->runs = v; return true;
    case O_MINUTES: o->minutes = v; return true;
    case O_TIME: b->duration_ns = v * NS_PER_S; return true;
    case O_METAS: b->n_meta = (unsigned)v; return true;
    case O_STORES: b->n_store = (unsigned)v; return true;
    case O_CLIENTS: b->n_client = (unsigned)v; return true;
    case O_ACTORS: b->n_actor = (unsigned)v; return true;
    case O_FAULTS: return bits_parse(text, fault_names, ARRAY_SIZE(fault_names), &b->faults);
    case O_WORK: return bits_parse(text, work_names, ARRAY_SIZE(work_names), &b->work);
    case O_STRIKE: b->strike = MAX((unsigned)v, 1); return true;
    case O_RULES: return rules_parse(text, b->rules_off);
    case O_TTL: b->ttl_ms = v; return true;
    case O_HURT: b->hurt = MAX((unsigned)v, 1); return true;
    case O_CHANGE: b->change = MAX((unsigned)v, 1); return true;
    case O_MOVE: b->move = MAX((unsigned)v, 1); return true;
    case O_CUT: b->cut = MAX((unsigned)v, 1); return true;
    case O_KEEP_ENTRIES: b->keep_entries = (unsigned)v; return true;
    case O_SWARM: b->swarm = true; return true;
    case O_LOCKERS: b->lockers = true; return true;
    case O_COVERAGE: o->coverage = true; return true;
    case O_REQUIRE: o->coverage = o->require_coverage = true; return true;
    case O_VERBOSE: b->verbose = true; return true;
    case O_MESSAGES: b->messages = true; return true;
    case O_KEEP: o->keep_going = true; return true;
    case O_EXPECT: o->expect_failure = true; return true;
    default: return false;
    }
}

bool options_parse(int argc, char **argv, struct run_options *ret)
{
    struct cluster_options *b = &ret->base;
    int o;

    *ret = (struct run_options){.base = defaults, .runs = 1};
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == O_HELP || o == O_LIST) {
            if (o == O_HELP)
                fputs(usage, stdout);
            else
                rules_list();
            return false;
        }
        if (!set(ret, o, optarg)) {
            fputs(usage, stderr);
            ret->status = 2;
            return false;
        }
    }
    if (b->n_meta > METAS_MAX || b->n_store > STORES_MAX || b->n_client > CLIENTS_MAX ||
        b->n_client * (b->n_actor + 1) + 1 > ACTORS_MAX || !b->n_meta) {
        fprintf(stderr, "sim: too many, or too few, of something\n");
        ret->status = 2;
        return false;
    }
    return true;
}
