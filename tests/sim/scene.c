/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/scene.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/schema.h"
#include "common/test_rules.h"

static uint64_t late(void *arg, struct sim_node *from, struct sim_node *to, struct buf *head)
{
    struct scene *s = arg;
    struct wire_header h;
    struct slice body;

    (void)from;
    if (wire_check_frame(slice_of(head->data, head->len), &h, &body) < 0)
        return 0;
    for (unsigned i = 0; i < HOLDS_MAX; i++) {
        struct hold *hold = &s->holds[i];

        if (!hold->times || hold->type != h.type || hold->kind != h.kind || (hold->to && hold->to != to))
            continue;
        hold->times--;
        return hold->ns;
    }
    return 0;
}

struct cluster *scene_start(struct scene *s, unsigned clients, const uint64_t off[RULE_LAYERS])
{
    struct cluster_options opt = {.seed = 7, .n_meta = s->metas ? s->metas : 3, .n_store = s->stores ? s->stores : 3, .n_client = clients, .n = 3, .w = 2, .r = 2,
                                  .pg_count = 16, .ttl_ms = s->ttl_ms ? s->ttl_ms : 2000,
                                  .faults = s->faults, .keep_entries = s->keep_entries};

    if (off) {
        memcpy(opt.rules_off, off, sizeof opt.rules_off);
        tc_test_rules_set(&off[RULE_DATA]);
    }
    s->c = cluster_new(&opt);
    if (!cluster_start(s->c))
        return NULL;
    scene_run(s, 2000); /* the stores are up, and the clients have the map */
    sim_net_set_late(s->c->s, late, s);
    return s->c;
}

void scene_run(struct scene *s, uint64_t ms)
{
    cluster_run_until(s->c, sim_now(s->c->s) + ms * NS_PER_MS);
}

bool scene_wait(struct scene *s, const bool *flag, uint64_t ms)
{
    for (uint64_t n = 0; n < ms && !*flag && !s->c->failed; n += 5)
        scene_run(s, 5);
    return *flag;
}

void scene_cut(struct scene *s, unsigned i, bool from, bool to, bool on)
{
    struct sim_node *n = s->c->clients[i].node;

    for (unsigned k = 0; k < s->c->opt.n_meta + s->c->opt.n_store; k++) {
        if (from)
            sim_net_cut(s->c->s, n, cluster_node(s->c, k), on);
        if (to)
            sim_net_cut(s->c->s, cluster_node(s->c, k), n, on);
    }
}

/* ---- with and without a rule ------------------------------------------------------------------------ */

int case_outcome(case_fn *fn, const char *rules)
{
    uint64_t off[RULE_LAYERS] = {0};
    struct scene s = {0};
    int status;
    pid_t pid;

    if (rules && !rules_parse(rules, off))
        return -1;
    fflush(NULL);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(fn(&s, off) || !s.c || s.c->failed);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status != 0;
}

void case_check(case_fn *fn, const char *rule, bool data)
{
    ck_assert_int_eq(case_outcome(fn, NULL), 0);
#ifndef TC_TEST_RULES_BUILD
    if (data)
        return;
#endif
    (void)data;
    if (rule)
        ck_assert_int_eq(case_outcome(fn, rule), 1);
}

int cases_run(const char *name, const TTest *const *tests, unsigned n)
{
    Suite *s = suite_create(name);
    TCase *t = tcase_create(name);
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 120);
    for (unsigned i = 0; i < n; i++)
        tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

/* ---- what many of them do --------------------------------------------------------------------------- */

void toucher(struct actor *a)
{
    struct scene *s = a->arg;

    if (!actor_ready(a) || a_make(a, tc_client_root(a->cl->tc), "f", S_IFREG | 0644, true))
        return;
    s->ino = a->ino;
    for (uint64_t n = 1; n < 10000; n++) {
        if (a_truncate(a, s->ino, n))
            return;
        actor_sleep(a, 20 * NS_PER_MS);
    }
}

int make_file(struct actor *a, size_t n)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];
    int r;

    memset(data, 'a', sizeof data);
    if (!actor_ready(a))
        return ACTOR_KILLED;
    r = a_make(a, tc_client_root(a->cl->tc), "f", S_IFREG | 0644, true);
    if (r == 0) {
        s->ino = a->ino;
        r = a_open(a, s->ino, TC_OPEN_READ | TC_OPEN_WRITE, &s->f);
    }
    if (r == 0)
        r = a_write(a, s->f, data, n, 0, false);
    s->written = r == 0;
    return r;
}

int read_file(struct actor *a, size_t len)
{
    struct scene *s = a->arg;
    struct tc_file *f;
    int r;

    if (!actor_ready(a))
        return ACTOR_KILLED;
    r = a_open(a, s->ino, TC_OPEN_READ, &f);
    return r ? r : a_read(a, f, 0, len);
}

void replacer(struct actor *a)
{
    struct scene *s = a->arg;
    uint8_t data[LEN];
    struct tc_file *f;

    memset(data, 'b', LEN);
    if (!actor_ready(a) || a_open(a, s->ino, TC_OPEN_READ | TC_OPEN_WRITE, &f))
        return;
    if (a_write(a, f, data, LEN, 0, false) == 0 && a_fsync(a, f) == 0)
        s->replaced = true;
}
