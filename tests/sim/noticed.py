#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""With a rule of PROTOCOL turned off, the test that is about it must fail: else the test proves nothing.

    noticed.py BUILD-TESTS-DIRECTORY SOURCE-TESTS-DIRECTORY [--table] [RULE...]

For a build with -Dtest_rules=true. Each program is run once whole, where the tests named must pass, and once per
rule with the rule turned off by the environment (common/test_rules.h), where the test named must fail. --table prints
the rows of docs/SIMULATION.md. Rules that only a long run notices are in rules.py.
"""
import os, re, subprocess, sys, time

# rule, or rules that cover for each other there: (program, test)
CASES = {
    'EXACTLY_ONCE': ('unit/test-meta-server', 'exactly_once'),
    'FENCING': ('unit/test-storage-server', 'admission'),
    'WRITE_QUORUM': ('unit/test-quorum', 'no_quorum_waits'),
    'READ_QUORUM': ('unit/test-quorum', 'laggard_is_mended'),
    'DURABLE_ACK': ('unit/test-storage-server', 'write_restart_read'),
    'WRITE_BACK': ('unit/test-quorum', 'write_back_first'),
    'UNKNOWN': ('unit/test-quorum', 'unknown_is_no_vote'),
    'NEWER_WINS': ('unit/test-chunk-store', 'versions'),
    'SIZE_PAIR': ('unit/test-storage-server', 'sizes'),
    'DAMAGE': ('unit/test-journal', 'damage'),
    'RECONCILE_ALL': ('unit/test-storage-recovery', 'reconciles'),
    'BACKFILL_QUORUM': ('unit/test-storage-recovery', 'newcomer_waits'),
    'RECOVERED_EPOCH': ('unit/test-fsm', 'test_dead_holder'),
    'REAP_GRANT': ('unit/test-meta-server', 'reaping_grants_nothing'),
    'GC_ALL': ('unit/test-meta-server', 'gc_waits_for_all'),
    'LEADER_PERSISTED': ('unit/test-raft-random', 'random_runs'),
    'CHANGE': ('sim/test-cases-caching', 'late_attributes'),
    'OWN_CHANGE': ('sim/test-cases-caching', 'late_name'),
    'GRANT_ID,RECALL_COUNTER': ('sim/test-cases-caching', 'late_answers'),
    'CACHING_RIGHT': ('sim/test-cases-caching', 'caching_right'),
    'TTL_ANEW': ('sim/test-cases-caching', 'new_leader'),
    'RECALL_LIMIT': ('sim/test-cases-caching', 'deaf_holder'),
    'HORIZON': ('sim/test-cases-data', 'behind_the_horizon'),
    'ZERO_TAIL': ('sim/test-cases-data', 'zeros_past_the_size'),
    'RECALL_FLUSH': ('sim/test-cases-data', 'written_is_seen'),
    'FSYNC_DATA': ('sim/test-cases-data', 'synced_survives'),
    'MASK_UNCLEAN,WRITE_BACK': ('sim/test-cases-data', 'unfinished'),
    'LEASE_READ': ('sim/test-cases-caching', 'lease_reads'),
    'CLOCK,FSM_CLOCK': ('sim/test-cases', 'clocks'),
    'EXPIRY': ('sim/test-cases', 'expiry'),
    'FATE': ('sim/test-cases', 'fate'),
    'LEADER_TTL': ('sim/test-cases', 'expiry'),
    'SHED': ('unit/test-storage-recovery', 'rejoins'),
    'NEXT_QUORUM': ('unit/test-quorum', 'map_changes'),
    'NEWCOMER_READY': ('unit/test-meta-server', 'transitions'),
    'JOIN_EPOCH': ('unit/test-meta-server', 'transitions'),
    'PG_EPOCH': ('unit/test-storage-server', 'admission'),
    'BARRIER': ('unit/test-storage-server', 'admission'),
    'MAP_DURABLE': ('unit/test-storage-server', 'write_restart_read'),
    'START_COUNTER': ('unit/test-fsm', 'test_stores'),
    'TRIM_EPOCH': ('unit/test-storage-recovery', 'scrubs'),
    'ACK_NUMBER': ('unit/test-leases', 'recall_all'),
    'COMMIT_GRANT': ('unit/test-fsm', 'test_commit'),
    'RECONCILED_EPOCH': ('unit/test-fsm', 'test_dead_holder'),
    'CLEAN': ('unit/test-fsm', 'test_get_x'),
    'RECALL': ('unit/test-meta-server', 'recalls'),
    'GRACE': ('unit/test-meta-server', 'grace'),
    'ASK_HOLDER': ('unit/test-meta-server', 'recalls'),
    'SIZE_RECOVERY': ('unit/test-meta-server', 'silent_holder'),
    'REAP_REFS': ('unit/test-meta-server', 'reaping'),
    'FSM_CLOCK': ('unit/test-fsm', 'test_clock_never_falls'),
    'WATERMARK': ('unit/test-fsm', 'test_late_copy'),
    'FSM_ONCE': ('unit/test-fsm', 'test_once'),
    'EPOCH': ('unit/test-fsm', 'test_get_x'),
    'DEAD_SESSIONS': ('unit/test-fsm', 'test_session_end'),
    'HORIZON_ENTRY': ('unit/test-fsm', 'test_truncate_horizon'),
    'PREVOTE': ('unit/test-raft', 'prevote_does_not_disrupt'),
    'QUIET_HEARD': ('unit/test-raft', 'lease_and_restarting_voter'),
    'QUIET_START': ('unit/test-raft', 'lease_and_restarting_voter'),
    'ANSWER_LOWER_TERM': ('unit/test-raft', 'higher_term_comes_back'),
    'LEASE_FROM_SEND': ('unit/test-raft', 'golden_reads'),
    'LEASE_OWN_TERM': ('unit/test-raft', 'lease_begins_with_own_entry'),
    'COMMIT_OWN_TERM': ('unit/test-raft', 'figure8'),
    'PERSIST_BEFORE_ACK': ('unit/test-raft', 'golden_failover'),
    'STATE_BEFORE_SEND': ('unit/test-raft', 'golden_failover'),
    'VOTE_UP_TO_DATE': ('unit/test-raft', 'golden_figure7'),
    'NO_LEASE_AFTER_TRANSFER': ('unit/test-raft', 'no_lease_after_timeout_now'),
    'READ_INDEX': ('unit/test-raft', 'golden_reads'),
    'STALL': ('unit/test-raft', 'stalled_disk_hands_over'),
    'CHECK_QUORUM': ('unit/test-raft', 'check_quorum'),
    'STOOD_STILL': ('unit/test-raft', 'golden_reads'),
    'TRANSFER_ENDS': ('unit/test-raft', 'golden_transfer'),
    'OLDEST_EPOCH': ('unit/test-fsm', 'test_oldest_epoch'),
    'HORIZON_COVER': ('unit/test-fsm', 'test_truncate_horizon'),
    'QUEUES_AT_ONCE': ('unit/test-leases', 'queue_no_deadlock'),
    'SLOTS': ('sim/test-cases-caching', 'window_full'),
    'END_OF_X': ('sim/test-cases-caching', 'late_end_of_x'),
    'SNAPSHOT_SUM': ('sim/test-cases-faults', 'snapshot_with_a_flipped_bit'),
    'HOLDER_PASSES': ('unit/test-meta-server', 'holder_passes'),
    'LOOK_PASSES': ('unit/test-meta-server', 'recalls'),
    'EPOCH_AGAIN': ('unit/test-fsm', 'test_get_x'),
    'REPAIR_EPOCH': ('unit/test-storage-server', 'admission'),
    'ZERO_VERSION': ('unit/test-chunk-store', 'versions'),
    'MAP_QUIET': ('unit/test-fsm', 'test_stores'),
    'CLEAN_INTACT': ('unit/test-quorum', 'clean_of_an_intact_one'),
    'CLEAN_READ': ('sim/test-cases-data', 'not_clean'),
    'SEQ_ANEW': ('sim/test-cases-data', 'written_twice'),
    'SYNC_VALID': ('sim/test-cases-data', 'synced_in_a_session'),
    'REACH': ('sim/test-cases-data', 'within_reach'),
    'TRUNCATE_ALONE': ('sim/test-cases-data', 'truncate_under_way'),
    'ASK_NEXT': ('sim/test-cases-caching', 'unannounced_leader'),
    'STORE_NAMED': ('sim/test-cases-faults', 'another_at_the_address'),
    'COMPARE': ('unit/test-storage-recovery', 'voter_returns'),
    'GENERATION': ('sim/test-cases-caching', 'generation'),
    'LEARNERS': ('unit/test-raft', 'blank_member_does_not_count'),
    'ONE_CHANGE': ('unit/test-raft', 'membership_is_checked'),
    'SNAPSHOT_ID': ('unit/test-raft', 'golden_snapshot_resume'),
    'INCARNATION': ('unit/test-raft', 'blank_member_does_not_count'),
    'SAVED_BESIDE': ('unit/test-raft', 'golden_failover'),
    'LEASE_MARGIN': ('unit/test-raft', 'lease_and_restarting_voter'),
    'TIMEOUT_NOW_AT': ('unit/test-raft-rules', 'timeout_now_elsewhere'),
    'FILLED': ('unit/test-raft-rules', 'filled_before_it_votes'),
    'CONFIG_AT_APPEND': ('unit/test-raft-rules', 'counts_from_append'),
    'PROMOTE_LAG': ('unit/test-raft-rules', 'promoted_when_nearly_caught_up'),
    'PROMOTE_KNOWS': ('unit/test-raft', 'promoted_knows_itself'),
    'CHANGE_QUORUM': ('unit/test-raft', 'membership_is_checked'),
    'LEADER_LEAVES': ('unit/test-raft', 'leader_is_removed'),
    'LEFT_OUT_ASKS': ('unit/test-raft-rules', 'left_out_may_lead'),
    'LEFT_OUT_NO_VOTE': ('unit/test-raft-rules', 'left_out_may_lead'),
    'LOG_LIMIT_LEADER': ('unit/test-raft', 'log_is_bounded'),
    'LOG_LIMIT_FOLLOWER': ('unit/test-raft', 'log_is_bounded'),
    'FILL_HALF': ('unit/test-raft-rules', 'being_filled_holds_half'),
    'SNAPSHOT_GOES_ON': ('unit/test-raft', 'golden_snapshot_resume'),
    'READ_OWN_TERM': ('unit/test-raft-rules', 'read_waits_for_own_entry'),
    'READ_APPLIED': ('unit/test-raft-rules', 'read_waits_until_applied'),
    'ANYWHERE_X': ('unit/test-meta-server', 'reads_anywhere'),
    'LIST_ALL': ('unit/test-leases', 'lists'),
    'FIRST_LIST': ('unit/test-leases', 'list_with_s_refused'),
    'LIST_REFUSED': ('unit/test-leases', 'list_with_s_refused'),
    'LIST_RIGHT': ('unit/test-meta-server', 'grace_with_s'),
    'ONE_HOLDER': ('unit/test-fsm', 'test_get_x'),
    'S_BESIDE_X': ('unit/test-meta-server', 'recalls'),
    'X_DIRECTORY': ('unit/test-fsm', 'test_get_x'),
    'O_STAYS': ('unit/test-leases', 'grant_ids'),
    'ORPHAN_ASKED': ('unit/test-leases', 'orphans_are_asked_for'),
    'UNCLEAN_FENCES': ('unit/test-fsm', 'test_gave_up'),
    'MARK_STAYS': ('unit/test-fsm', 'test_dead_holder'),
    'RECOVER_HORIZON': ('unit/test-fsm', 'test_dead_holder'),
    'COMMIT_REACH': ('unit/test-fsm', 'test_commit'),
    'HORIZON_MAX16': ('unit/test-fsm', 'test_truncate_horizon'),
    'MOVE_EPOCH': ('unit/test-fsm', 'test_stores'),
    'CLEAN_BEFORE': ('unit/test-fsm', 'test_get_x'),
    'IDS_ONCE': ('unit/test-fsm', 'test_numbers_once'),
    'CONFLICT_EXPIRY': ('unit/test-meta-server', 'silent_holder'),
    'NEXT_GENERATION': ('unit/test-leases', 'caching_ran_out'),
    'CLASH': ('unit/test-chunk-store', 'versions'),
    'HIGHER_EPOCH': ('unit/test-chunk-store', 'versions'),
    'NEWER_SEQ_ACK': ('unit/test-chunk-store', 'versions'),
    'ANYWHERE_GRANT': ('unit/test-meta-rules', 'grants_need_the_lease'),
    'REPLIES_STAY': ('unit/test-meta-rules', 'replies_stay'),
    'IDLE_EXPIRY': ('unit/test-meta-rules', 'silent_for_long'),
    'EXPIRING_SILENCE': ('unit/test-meta-rules', 'silence_while_expiring'),
    'LATE_GENERATION': ('unit/test-meta-rules', 'late_list'),
    'UNLISTED_NO_S': ('unit/test-meta-rules', 'no_s_before_the_list'),
    'REAP_LISTED': ('unit/test-meta-rules', 'reaps_after_the_lists'),
    'BETWEEN': ('unit/test-meta-rules', 'nothing_to_cache_between'),
    'PROGRESS': ('unit/test-meta-rules', 'commits_are_progress'),
    'KNOWN_EXACT': ('unit/test-quorum', 'expected_of_one'),
    'GONE': ('unit/test-storage-recovery', 'newcomer'),
    'BLOCK_BEARS': ('sim/test-cases-data', 'sparse_and_unclean'),
    'EPOCH_AFTER': ('sim/test-cases-data', 'sparse_and_unclean'),
    'SNAPSHOT_SELDOM': ('sim/test-cases-faults', 'whole_snapshot_refused'),
    'SNAPSHOT_READ_AGAIN': ('sim/test-cases-faults', 'snapshot_with_a_flipped_bit'),
    'LAGGARD': ('unit/test-quorum', 'laggard_is_mended'),
    'MISSED_EPOCH': ('unit/test-quorum', 'missed_epoch'),
    'GONE_UNKNOWN': ('unit/test-storage-recovery', 'unknown_is_kept'),
    'ALIVE_WAITS': ('unit/test-storage-recovery', 'rot_waits_for_the_writer'),
    'GONE_REFUSED': ('unit/test-chunk-store', 'trims'),
    'X_IDLE': ('sim/test-cases-rules', 'idle_x'),
    'SIZE_AFTER_BLOCKS': ('sim/test-cases-rules', 'size_after_blocks'),
    'TRUNCATE_AWAITS': ('sim/test-cases-rules', 'truncate_after_blocks'),
    'RIGHT_FROM_SEND': ('sim/test-cases-rules', 'right_from_the_sending'),
    'LOSS_FAILS': ('sim/test-cases-rules', 'loss_stays'),
    'RECOVER_MAX': ('unit/test-fsm', 'test_recovered_size'),
    'LOCKS_RECALL': ('sim/test-cases-locks', 'recalled'),
    'LOCKS_REGISTER': ('sim/test-cases-locks', 'recalled'),
    'LOCKS_EXPIRE': ('sim/test-cases-locks', 'holder_cut_off'),
    'LOCKS_WAIT': ('sim/test-cases-locks', 'calls_wait'),
}
VARIABLE = {'data': 'TERCET_RULES_OFF', 'meta': 'TERCET_META_RULES_OFF', 'fsm': 'TERCET_FSM_RULES_OFF',
            'raft': 'TERCET_RAFT_RULES_OFF'}
# A world without a rule may never come to rest; random tests need no more rounds than these to be looked at.
ENV = {'CK_TAP_LOG_FILE_NAME': '-', 'CK_VERBOSITY': 'silent', 'CK_DEFAULT_TIMEOUT': '30', 'TC_SEEDS': '2',
       'TC_REPLICA_SEEDS': '2', 'TC_WORLD_SEEDS': '3', 'TC_RAFT_SEEDS': '200', 'TC_RAFT_RULE_SEEDS': '10',
       'ASAN_OPTIONS': 'detect_leaks=0:abort_on_error=1'}


class Programs:
    def __init__(self, build, source):
        self.build, self.env = build, {**os.environ, **ENV, 'TC_GOLDEN_DIR': os.path.join(source, 'golden')}
        self.whole = {}
        lines = subprocess.run([os.path.join(build, 'sim/sim'), '--list-rules'], capture_output=True, text=True,
                               check=True).stdout.splitlines()
        self.rules = {n: (layer, bit, text) for n, layer, bit, text in (x.split(None, 3) for x in lines)}

    def run(self, program, rule=None):
        """{test: passed} of @program."""
        env = dict(self.env)
        for name in rule.split(',') if rule else []:
            layer, bit, _ = self.rules[name]
            variable = VARIABLE[layer]
            if layer == 'data':
                env[variable] = ','.join(filter(None, (env.get(variable), name)))
            else:
                env[variable] = hex(int(env.get(variable, '0'), 16) | int(bit, 16))
        out = subprocess.run([os.path.join(self.build, program)], env=env, capture_output=True, text=True,
                             errors='replace').stdout
        passed = {}
        for verdict, test in re.findall(r'^((?:not )?ok) \d+ - [^:]*:[^:]*:(\w+):', out, re.M):
            passed[test] = passed.get(test, True) and verdict == 'ok'
        return passed

    def judge(self, rule, program, test):
        """None if the rule is noticed, else what is wrong."""
        if program not in self.whole:
            self.whole[program] = self.run(program)
        if not self.whole[program].get(test):
            return f'{program} {test} does not pass with all rules on'
        return f'{program} {test} passes without it' if self.run(program, rule).get(test, True) else None


def main():
    args = [a for a in sys.argv[1:] if not a.startswith('--')]
    programs, names = Programs(args[0], args[1]), args[2:] or list(CASES)
    if '--table' in sys.argv:
        for name in sorted(names, key=lambda n: programs.rules[n.split(',')[0]][2]):
            program, test = CASES[name]
            section, text = programs.rules[name.split(',')[0]][2].split(': ', 1)
            print(f'| {name} | {section} | {text.split(" (off")[0]} | {program} {test} |')
        return
    print(f'1..{len(names)}', flush=True)
    for n, name in enumerate(names, 1):
        begin = time.monotonic()
        wrong = programs.judge(name, *CASES[name])
        print(f"{'not ok' if wrong else 'ok'} {n} - {name}: {wrong or ' '.join(CASES[name])}, "
              f'{time.monotonic() - begin:.1f} s', flush=True)


main()
