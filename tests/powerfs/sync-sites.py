#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Is every fsync needed, and would its absence be noticed? Leaves out one at a time and lets power fail.

    TERCET_BUILD=build-rules sync-sites.py [--rounds=N] [--seed=S] [--jobs=N] [--only=TEXT] [--list] [--unit]

The build is one with -Dtest_rules=true. Each call of vfs_sync and vfs_sync_dir in the daemons' code is one site, named
FILE:FUNCTION:CALL. First integration/test-power.py runs with all of them, which must pass, and notes which sites it reaches. Then
it runs for each site without it until a round fails, N at most. The table is what docs/DURABILITY.md shows. With --unit the unit
tests that the table names run without the sites they are named for, and must fail.
"""
import argparse, concurrent.futures, os, re, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, '..', '..', 'src')
TEST = os.path.join(HERE, '..', 'integration', 'test-power.py')
ROUNDS = 3 # of one cluster
# What makes rare events frequent: small segments, frequent checkpoints, short sessions.
QUICK = {'TERCET_SEGMENT_BYTES': str(1 << 20), 'TERCET_CHECKPOINT_MS': '700', 'TERCET_SESSION_TTL_MS': '2500',
         'TERCET_KEEP_ENTRIES': '40'}


def sites_in_source():
    for room in ('common', 'meta', 'storage'):
        for name in sorted(os.listdir(os.path.join(SOURCE, room))):
            if not name.endswith('.c') or name in ('vfs_posix.c', 'kv_mem.c'):
                continue # kv_mem.c: of tests and the simulation
            function = ''
            for line in open(os.path.join(SOURCE, room, name)):
                start = re.match(r'[a-z].*?\b(\w+)\(', line)
                if start:
                    function = start.group(1)
                    continue
                if function == 'kv_destroy_rocks': # for tests
                    continue
                call = re.search(r'\b(vfs_sync(?:_dir)?\(.*?\))(?:;| <| =| :|\))', line)
                if call:
                    yield '%s:%s:%s' % (name, function, call.group(1))


def run(args, seed, rounds, off=None, log=None):
    """Rounds that passed, whether one failed, its last line."""
    env = dict(os.environ, **QUICK)
    if off:
        env['TERCET_SYNC_OFF'] = off
    if log:
        env['TERCET_SYNC_LOG'] = log
    p = subprocess.run([sys.executable, TEST, '--seed=%d' % seed, '--rounds=%d' % rounds, '--time=%g' % args.time],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    lines = p.stdout.strip().splitlines()
    if p.returncode and args.logs:
        with open(os.path.join(args.logs, re.sub(r'\W+', '-', off or 'none') + '-%d.log' % seed), 'w') as f:
            f.write(p.stdout)
    return sum(line.startswith('ok: round') for line in lines), p.returncode != 0, lines[-1] if lines else ''


def try_site(args, site, reached):
    """Clusters of few rounds each: much of what is synced once is synced when a disk is new."""
    done, seed = 0, args.seed
    while done < args.rounds:
        passed, failed, why = run(args, seed, min(ROUNDS, args.rounds - done), site)
        done += passed
        seed += 1
        if failed:
            return row(site, reached, 'after %d' % (done + 1), why)
    return row(site, reached, 'no', '%d rounds' % done)


def unit_tests(site):
    """What docs/DURABILITY.md names for this site, or for one of the same function."""
    file, function, _ = site.split(':', 2)
    found = set()
    with open(os.path.join(SOURCE, '..', 'docs', 'DURABILITY.md')) as f:
        for line in f:
            cells = line.split('|')
            if line.startswith('|') and file in cells[1] and '`%s`' % function in cells[1]:
                found |= set(re.findall(r'test-[\w-]+', cells[3]))
    return sorted(found)


def unit(sites):
    """Each site off under the tests named for it: one of them fails. They pass with all syncs."""
    def passes(test, off):
        env = dict(os.environ, TERCET_SYNC_OFF=off)
        if test == 'test-replica':
            env['CK_RUN_CASE'] = 'loss'
        return subprocess.run([os.path.join(os.environ['TERCET_BUILD'], 'tests', 'unit', test)], env=env, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL).returncode == 0

    missed = 0
    for test in sorted({t for s in sites for t in unit_tests(s)}):
        assert passes(test, ''), '%s fails with all syncs' % test
    for site in sites:
        tests = unit_tests(site)
        by = next((t for t in tests if not passes(t, site)), None)
        missed += bool(tests) and not by
        if tests:
            print('| `%s` | %s |' % (site, by or 'not noticed by ' + ', '.join(tests)), flush=True)
    return missed > 0


def row(site, reached, found, why):
    return '| `%s` | %s | %s | %s |' % (site, 'yes' if site in reached else 'no', found, why[:140].replace('|', '/'))


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--rounds', type=int, default=10)
    p.add_argument('--seed', type=int, default=1)
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--time', type=float, default=1.5)
    p.add_argument('--only', default='', help='sites whose names contain this')
    p.add_argument('--logs', help='directory for the output of runs that failed')
    p.add_argument('--list', action='store_true')
    p.add_argument('--unit', action='store_true')
    p.add_argument('--no-baseline', action='store_true')
    args = p.parse_args()
    sites = list(dict.fromkeys(sites_in_source()))
    if args.list:
        print('\n'.join(sites))
        return 0
    if args.unit:
        return unit([s for s in sites if args.only in s])
    reached = set()
    if not args.no_baseline:
        with tempfile.NamedTemporaryFile('r') as log:
            for seed in range(args.seed, args.seed + 2):
                passed, failed, why = run(args, seed, 6, log=log.name)
                if failed:
                    break
            reached = set(log.read().split('\n')) - {''}
        if failed:
            print('with all syncs, round %d fails: %s' % (passed + 1, why))
            return 1
        unknown = reached - set(sites)
        assert not unknown, 'sites not seen in the source: %s' % unknown
    print('| site | reached | noticed | how |\n|---|---|---|---|', flush=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for line in pool.map(lambda s: try_site(args, s, reached), [s for s in sites if args.only in s]):
            print(line, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
