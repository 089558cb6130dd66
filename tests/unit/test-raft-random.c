/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many random runs of the Raft core keep all safety properties and converge; and with one rule
 * turned off, runs fail. TC_RAFT_SEEDS sets how many, TC_RAFT_SEED replays one.
 */
#include <check.h>
#include <inttypes.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raft-net.h"

static uint64_t env_u64(const char *name, uint64_t def)
{
    const char *s = getenv(name);

    return s ? strtoull(s, NULL, 10) : def;
}

START_TEST(random_runs)
{
    uint64_t first = env_u64("TC_RAFT_SEED", 1);
    uint64_t n = getenv("TC_RAFT_SEED") ? 1 : env_u64("TC_RAFT_SEEDS", 2000);
    uint64_t counters[6] = {0};
    char why[200];

    for (uint64_t seed = first; seed < first + n; seed++)
        ck_assert_msg(net_random_run(seed, 0, why, sizeof why, counters), "seed %" PRIu64 ": %s",
                      seed, why);
    fprintf(stderr, "# elections %" PRIu64 " snapshots %" PRIu64 " proposals %" PRIu64
            " commits %" PRIu64 " changes %" PRIu64 " reads %" PRIu64 "\n", counters[0], counters[1], counters[2],
            counters[3], counters[4], counters[5]);
    if (n > 1) {
        ck_assert_uint_gt(counters[0], n);
        ck_assert_uint_gt(counters[1], n / 50);
        ck_assert_uint_gt(counters[4], n / 4);
        ck_assert_uint_gt(counters[5], n);
    }
}
END_TEST

/* Rules whose absence random runs must show; the others have scripts in test-raft.c. */
static const struct {
    uint32_t rule;
    const char *name;
} rules[] = {
    {RAFT_RULE_QUIET_HEARD, "quiet-heard"},
    {RAFT_RULE_LEASE_FROM_SEND, "lease-from-send"},
    {RAFT_RULE_PERSIST_BEFORE_ACK, "persist-before-ack"},
    {RAFT_RULE_STATE_BEFORE_SEND, "state-before-send"},
    {RAFT_RULE_VOTE_UP_TO_DATE, "vote-up-to-date"},
    {RAFT_RULE_NO_LEASE_AFTER_TRANSFER, "no-lease-after-transfer"},
    {RAFT_RULE_READ_QUORUM, "read-quorum"},
};

static int run_until_failure(uint32_t rule, uint64_t seeds)
{
    uint64_t counters[6] = {0};
    char why[200];

    for (uint64_t seed = 1; seed <= seeds; seed++) {
        if (!net_random_run(seed, rule, why, sizeof why, counters)) {
            fprintf(stderr, "# seed %" PRIu64 ": %s\n", seed, why);
            return 1;
        }
    }
    return 0;
}

START_TEST(without_a_rule)
{
    int status;
    pid_t pid = fork(); /* a broken belief may abort it: that counts as found, too */

    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(run_until_failure(rules[_i].rule, env_u64("TC_RAFT_RULE_SEEDS", 3000)));
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(status != 0, "no run failed without the rule %s", rules[_i].name);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("raft-random");
    TCase *tc = tcase_create("random");
    SRunner *sr;

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, random_runs);
    tcase_add_loop_test(tc, without_a_rule, 0, (int)ARRAY_SIZE(rules));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    srunner_free(sr);
    return 0;
}
