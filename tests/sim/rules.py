#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""With a rule of PROTOCOL turned off, some seed must fail: else the simulation proves nothing about that rule.

    rules.py SIM [--full] [--table] [RULE...]

SIM is the program `sim` of a build with -Dtest_rules=true. Each rule has seeds that are known to notice it; they are
run first. With --full, or when a change to the code made the known ones pass, seeds from 1 on follow, up to the
rule's budget. --table prints what docs/SIMULATION.md shows. Most rules are noticed by a scripted case or a unit test:
noticed.py.
"""
import re, subprocess, sys, time

A = '--faults=all'
L = '--faults=kill-client,partition,net'
# rule: (arguments, seeds known to notice, budget of seeds)
RULES = {
    'WRITE_QUORUM': ([A], [1], 40),
    'READ_QUORUM': ([A], [1], 40),
    'DURABLE_ACK': ([A], [2], 40),
    'HORIZON': (['--faults=none'], [1], 10),
    'RECALL_FLUSH': (['--faults=none'], [1], 10),
    'FSYNC_DATA': ([A], [2], 40),
    'FENCING': (['--faults=net,kill-client', '--work=shared,turns', '--ttl-ms=1200', '--strike=3'], [6], 40),
    'EXACTLY_ONCE': (['--faults=net,kill-meta', '--work=names,fight', '--strike=4'], [2], 10),
    'RECALL': ([A, '--ttl-ms=2400'], [2], 20),
    'ASK_HOLDER': ([A, '--ttl-ms=2400'], [1], 20),
    'EPOCH': ([A], [1], 10),
    'WATERMARK': ([A], [1], 10),
    'SEQ_ANEW': ([A], [1], 10),
    'HORIZON_ENTRY': ([A], [1], 10),
    'HORIZON_COVER': ([A], [1], 10),
    'TRIM_EPOCH': ([A], [1], 10),
    'ZERO_TAIL': ([A], [1], 10),
    'ACK_NUMBER': ([A], [17], 40),
    'GENERATION': ([A], [1], 20),
    'RECALL_ANY_ID': ([A], [1], 20),
    'VOTE_UP_TO_DATE': ([A], [3], 20),
    'LOCKS_RECALL': ([L, '--work=locks'], [1], 10),
    'LOCKS_REGISTER': ([L, '--work=locks'], [1], 10),
    'LOCKS_EXPIRE': ([L, '--work=locks'], [1], 10),
    'LOCKS_WAIT': ([L, '--work=locks'], [1], 10),
}


def run(sim, rule, args, first, n):
    """Seeds first .. first+n-1 until one fails: (seed or None, runs, line)."""
    out = subprocess.run([sim, '--time=12', f'--rules-off={rule}', f'--seed={first}', f'--runs={n}',
                          '--expect-failure', *args], capture_output=True, text=True, errors='replace').stdout
    runs = re.search(r'^runs=(\d+)', out, re.M)
    bad = re.search(r'^seed=(\d+) FAILED(.*)$', out, re.M)
    if not runs:
        return None, 0, 'the program ended without a result'
    return (int(bad[1]), int(runs[1]), bad[2]) if bad else (None, int(runs[1]), '')


def notice(sim, rule, full):
    args, known, budget = RULES[rule]
    begin, runs = time.monotonic(), 0
    tries = [(s, 1) for s in ([] if full else known)] + [(1, budget)]
    for first, n in tries:
        seed, k, line = run(sim, rule, args, first, n)
        runs += k
        if seed is not None:
            break
    events = re.search(r'events=(\d+)', line)
    why = re.search(r'why=(.*)', line)
    return {'rule': rule, 'seed': seed, 'runs': runs, 'args': ' '.join(args),
            'events': events[1] if events else '-', 'why': why[1] if why else line.strip() or 'nothing',
            'seconds': time.monotonic() - begin}


def main():
    args = [a for a in sys.argv[1:] if not a.startswith('--')]
    sim, names = args[0], args[1:] or list(RULES)
    full, table = '--full' in sys.argv, '--table' in sys.argv
    missed = 0
    if not table:
        print(f'1..{len(names)}')
    for n, rule in enumerate(names, 1):
        r = notice(sim, rule, full)
        missed += r['seed'] is None
        if table:
            print(f"| {rule} | `{r['args']}` | {r['seed']} (of {r['runs']}) | {r['events']} | {r['seconds']:.1f} | "
                  f"{r['why'][:100].replace('|', '/')} |", flush=True)
        else:
            print(f"{'ok' if r['seed'] is not None else 'not ok'} {n} - {rule}: seed {r['seed']} of {r['runs']}, "
                  f"{r['events']} events, {r['seconds']:.1f} s: {r['why'][:160]}".replace('#', ''), flush=True)
    sys.exit(missed > 0 and table)


main()
