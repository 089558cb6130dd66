/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What scripted cases share: a small cluster, and ways to have one thing happen in it that seeds bring about rarely.
 *
 * A case is about a rule of PROTOCOL. Most are plain tests: noticed.py runs them once more with the rule turned off, and
 * they must fail then. Those about more than one rule, or about rules that every build can turn off, do it themselves.
 */
#pragma once

#include <check.h>

#include "sim/actor.h"

enum { HOLDS_MAX = 4, LEN = 8192 };

/* The next @times messages of this @type (an answer or a request, or a notice) to @to (NULL: to anybody) come @ns later, others overtake
 * them; UINT64_MAX: never. */
struct hold {
    uint16_t type;
    uint8_t kind; /* enum wire_frame_kind */
    struct sim_node *to;
    uint64_t ns;
    unsigned times;
};

struct scene {
    struct cluster *c;
    uint64_t ttl_ms; /* of sessions; 0: 2000 */
    unsigned metas;  /* 0: 3 */
    unsigned stores; /* 0: 3 */
    uint32_t faults; /* what these need is there (spare members, another cluster); none happens by itself */
    unsigned keep_entries;
    uint64_t ino;
    struct tc_file *f;
    struct hold holds[HOLDS_MAX];
    bool written, replaced, stale, ended;
    int status;
    uint64_t done; /* what a writer has finished */
    uint64_t n;    /* what a reader has done */
};

/* Members, stores. NULL: it does not come up. */
struct cluster *scene_start(struct scene *s, unsigned clients, const uint64_t off[RULE_LAYERS]);
void scene_run(struct scene *s, uint64_t ms);
/* Until *@flag, @ms at most; *@flag. */
bool scene_wait(struct scene *s, const bool *flag, uint64_t ms);
/* Cut (or heal) client @i off from the servers (@from), or them from it (@to). */
void scene_cut(struct scene *s, unsigned i, bool from, bool to, bool on);

/* Each runs in a process of its own. True: what the rule forbids came true. */
typedef bool case_fn(struct scene *s, const uint64_t off[RULE_LAYERS]);
/* Without @rules (comma separated; NULL: with all). 1: it came true, or an assertion said so. */
int case_outcome(case_fn *fn, const char *rules);
/* It does not come true but without @rule, which (@data) may be one of a build with -Dtest_rules=true. */
void case_check(case_fn *fn, const char *rule, bool data);

/* Opens the scene's file, replaces its content by 'b's, syncs: replaced. */
void replacer(struct actor *a);
/* Makes the scene's file and changes its size, again and again: the group has entries to agree on. */
void toucher(struct actor *a);
/* Makes the scene's file with @n bytes of 'a', not synced. 0, or an error. */
int make_file(struct actor *a, size_t n);
/* Opens the scene's file and reads up to @len bytes: an error, or 0 with the data in the actor. */
int read_file(struct actor *a, size_t len);

/* Run the tests of @tests, as main() does. */
int cases_run(const char *name, const TTest *const *tests, unsigned n);
