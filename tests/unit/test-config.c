/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: what is read from a good file, and that each mistake is told with its line and with
 * what to do.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"

#define METAS                                                                                  \
    "[meta.1]\nendpoint=tcp://127.0.0.1:7101\ndata=/d/m1\n"                                    \
    "[meta.3]\nendpoint=tcp://127.0.0.1:7103\ndata=/d/m3\n"                                    \
    "[meta.2]\nendpoint=tcp://127.0.0.1:7102\ndata=/d/m2\n"
#define STORES                                                                                 \
    "[storage.1]\nendpoint=tcp://127.0.0.1:7201\ndata=/d/s1\nzone=a\nreserve=2G\n"             \
    "[storage.2]\nendpoint=tcp://127.0.0.1:7202\ndata=/d/s2\n"                                 \
    "[storage.3]\nendpoint=tcp://[::1]:7203\nlisten=tcp://*:7203\ndata=/d/s3\n"

static char err[512];

START_TEST(good)
{
    struct config *c = NULL;

    ck_assert_int_eq(config_parse("# a comment\n[cluster]\n  name = home\n\tpg_count=64 ; few\n" METAS STORES
                                  "[raft]\nelection_ms=500\n[limits]\nmemory_max=1G\n[log]\nlevel=debug\n",
                                  "f", &c, err, sizeof err),
                     0);
    ck_assert_str_eq(err, "");
    ck_assert_str_eq(c->cluster.name, "home");
    ck_assert_uint_eq(c->cluster.n, 3);
    ck_assert_uint_eq(c->cluster.w, 2);
    ck_assert_uint_eq(c->cluster.pg_count, 64);
    ck_assert_uint_eq(c->n_metas, 3);
    ck_assert_uint_eq(c->metas[2].id, 3);
    ck_assert_str_eq(config_meta(c, 2)->data, "/d/m2");
    ck_assert_ptr_null(config_meta(c, 4));
    ck_assert_uint_eq(config_storage(c, 1)->reserve, UINT64_C(2) << 30);
    ck_assert_str_eq(config_storage(c, 1)->zone, "a");
    ck_assert_ptr_null(config_storage(c, 2)->zone);
    ck_assert_str_eq(config_storage(c, 3)->listen, "tcp://*:7203");
    ck_assert_uint_eq(c->raft.election_ms, 500);
    ck_assert_uint_eq(c->raft.heartbeat_ms, 50);
    ck_assert_uint_eq(c->limits.memory_max, UINT64_C(1) << 30);
    ck_assert_uint_eq(c->log.level, LOG_LEVEL_DEBUG);
    config_free(c);
}
END_TEST

static const struct {
    const char *text, *err;
} bad[] = {
    {"[cluster]\nname=x\nnmae=y\n" METAS STORES, "f:3: unknown key 'nmae' in [cluster]; known are: name, n, w, r, pg_count"},
    {"[clustre]\n" METAS STORES, "f:1: unknown section [clustre]"},
    {"name=x\n", "f:1: 'name' stands before any section"},
    {"[cluster]\nn=three\n", "f:2: n=three: not a number"},
    {"[cluster]\nn=9\n", "f:2: n=9: must be from 1 to 7"},
    {"[cluster]\nn=3\nn=3\n", "f:3: n is given twice"},
    {"[cluster]\n[cluster]\n", "f:2: [cluster] was there before, in line 1"},
    {"[cluster]\nw=4\n" METAS STORES, "f:1: w=4 r=2: neither may be above n=3"},
    {"\n[cluster]\nr=1\n" METAS STORES, "f:2: w + r must be above n"},
    {"[cluster]\nw=1\nr=3\n" METAS STORES, "f:1: 2w must be above n"},
    {"[cluster]\nn=5\nw=3\nr=3\n" METAS STORES, "f:1: 3 storage nodes are too few for n=5"},
    {METAS, "f: 0 storage nodes are too few"},
    {STORES, "f: no metadata member; add a section [meta.1]"},
    {METAS "[meta.2]\n" STORES, "f:10: [meta.2] was there before, in line 7"},
    {METAS "[meta.x]\n" STORES, "f:10: [meta.x]: the id must be a number"},
    {METAS "[storage.9]\ndata=/x\n" STORES, "f:10: [storage.9] has no endpoint; add endpoint=tcp://HOST:PORT"},
    {METAS STORES "[storage.9]\nendpoint=tcp://h:7\n", "f:22: [storage.9] has no data; add data=/DIRECTORY"},
    {"[meta.1]\nendpoint=127.0.0.1:7101\n", "f:2: endpoint=127.0.0.1:7101: must be tcp://HOST:PORT"},
    {"[meta.1]\nendpoint=tcp://h:70000\n", "f:2: endpoint=tcp://h:70000: must be"},
    {"[meta.1]\ndata=relative\n", "f:2: data=relative: must be an absolute path"},
    {METAS STORES "[storage.4]\nendpoint=tcp://127.0.0.1:7101\ndata=/x\n",
     "f:22: endpoint tcp://127.0.0.1:7101 is used in line 1 already"},
    {METAS STORES "[storage.4]\nendpoint=tcp://127.0.0.1:9\ndata=/d/m1\n", "f:22: data=/d/m1 is used"},
    {METAS STORES "[raft]\nheartbeat_ms=200\n", "f:22: election_ms=300 must be at least three times"},
    {METAS STORES "[limits]\nmemory_max=1X\n", "f:23: memory_max=1X: not a number of bytes"},
    {METAS STORES "[log]\nlevel=loud\n", "f:23: level=loud: must be err, warn, info or debug"},
    {METAS STORES "what is this\n", "f:22: neither a section, nor key=value, nor a comment"},
    {"[cluster\nn=3\n", "f:1: a section must look like"},
};

START_TEST(mistakes)
{
    struct config *c = NULL;

    ck_assert_int_eq(config_parse(bad[_i].text, "f", &c, err, sizeof err), -TC_E_CONFIG);
    ck_assert_ptr_null(c);
    ck_assert_msg(strncmp(err, bad[_i].err, strlen(bad[_i].err)) == 0, "got \"%s\", want \"%s...\"", err,
                  bad[_i].err);
    ck_assert_ptr_null(strchr(err, '\n'));
}
END_TEST

START_TEST(long_lines)
{
    char text[600] = "[cluster]\nname=";
    struct config *c = NULL;

    memset(text + strlen(text), 'x', 300);
    ck_assert_int_eq(config_parse(text, "f", &c, err, sizeof err), -TC_E_CONFIG);
    ck_assert_msg(strncmp(err, "f:2: the line is longer", 23) == 0, "%s", err);
}
END_TEST

START_TEST(files)
{
    struct config *c = NULL;

    ck_assert_int_eq(config_load("/nonexistent/x.conf", &c, err, sizeof err), -TC_E_NOENT);
    ck_assert_ptr_nonnull(strstr(err, "/nonexistent/x.conf: No such file"));
    ck_assert_int_lt(config_load("/", &c, err, sizeof err), 0);
}
END_TEST

static const struct {
    const char *list;
    int n;
    const char *last;
} servers[] = {
    {"a", 1, "tcp://a:7101"},
    {"a,b:8,[::1]:9", 3, "tcp://[::1]:9"},
    {"a,[::1]", 2, "tcp://[::1]:7101"},
    {"", -TC_E_CONFIG, NULL},
    {"a,,b", -TC_E_CONFIG, NULL},
    {"a:x", -TC_E_CONFIG, NULL},
    {"a b", -TC_E_CONFIG, NULL},
    {"1,2,3,4,5,6,7,8", -TC_E_CONFIG, NULL},
};

START_TEST(server_lists)
{
    char **e = NULL;
    int n = config_parse_servers(servers[_i].list, &e);

    ck_assert_int_eq(n, servers[_i].n);
    if (n > 0)
        ck_assert_str_eq(e[n - 1], servers[_i].last);
    for (int i = 0; i < n; i++)
        free(e[i]);
    free(e);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("config");
    TCase *tc = tcase_create("config");
    SRunner *sr;

    tcase_add_test(tc, good);
    tcase_add_loop_test(tc, mistakes, 0, (int)ARRAY_SIZE(bad));
    tcase_add_test(tc, long_lines);
    tcase_add_test(tc, files);
    tcase_add_loop_test(tc, server_lists, 0, (int)ARRAY_SIZE(servers));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    srunner_free(sr);
    return 0;
}
