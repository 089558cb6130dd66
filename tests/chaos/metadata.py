#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The metadata group of a real cluster under names that change through several mounts, while its members are killed, stopped,
cut off and replaced at random, for as long as asked. Root only: every daemon and mount has a network of its own.

    TERCET_BUILD=build tests/chaos/metadata.py [--time=SECONDS] [--seed=S] [--metas=3] [--stores=3] [--mounts=3]
                                               [--events=kill,replace_meta,...] [--keep]

Programs: contenders for the same names on all mounts, whose calls must be explained by one order (contest.py: linearizability of create,
mkdir, unlink, rmdir, rename, link, chmod, stat, readdir); workers with directories of their own that go from mount to mount and know what they
must find again (../integration/history.py). Events: nemesis.py, those that leave files of stores and mounts alone.

It ends with 0 when no program saw an error, no daemon ended by itself, every history was right, also as seen from each
mount and a new one at the end, and status is healthy.
"""
import os, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'integration'))
from chaos import ChaosCluster, begin, check, options, run, say, storm  # noqa: E402
from cluster import SKIP, need_fuse  # noqa: E402
from contest import Contest  # noqa: E402
from history import crew  # noqa: E402
from nemesis import Nemesis  # noqa: E402

# Not the matter here: disks of stores, a mount's death under its programs.
NEVER = ('mount', 'flip', 'rot', 'empty_store', 'fill', 'drain', 'long', 'maintenance')
MORE = {'leader': 3, 'replace_meta': 3, 'grow_meta': 1, 'freeze_leader': 2, 'unplug_leader': 2, 'freeze_mount': 1}


def the_end(c, contest):
    contest.finish(180)
    for w in c.crews[0]:
        w.finish(180)
    check(c, [])
    c.wait_whole()
    c.mount('check')
    for m in list(c.mounts):
        contest.look(m.path)
        for w in c.crews[0]:
            w.mounts = [m.path]
            w.verify()
        say('ok: seen from %s' % os.path.basename(m.path))
        m.umount()
        c.mounts.remove(m)
    c.wait_whole()


def main():
    args = options(__doc__, 3, 'calls of a contender, on average').parse_args()
    args.no_net, args.tmpfs = False, None
    need_fuse()
    if os.geteuid() != 0:
        print('SKIP: network namespaces need root')
        return SKIP
    begin(args)
    with ChaosCluster(args) as c:
        c.start()
        mounts = [c.mount('mnt%d' % i).path for i in range(args.mounts)]
        c.wait_whole()
        c.crews = [crew(mounts, args.seed, 2 * args.pause, 'all')]
        contest = Contest(mounts, args.seed, args.pause)
        contest.start()
        for w in c.crews[0]:
            w.start()
        nemesis = Nemesis(c, args.seed, say, args.events, NEVER, MORE)
        storm(c, nemesis, [contest], args.time)
        nemesis.summary()
        the_end(c, contest)
        say('%d calls of %d contenders have an order; at most %d configurations at once; the longest call %.2f s' % (
            contest.checked(), len(contest.contenders), contest.most(), max(t.longest for t in contest.contenders)))
        for w in c.crews[0]:
            say('%s: %d operations, longest %.2f s' % (w.dirname, w.done, w.longest))
    say('all right')
    return 0


if __name__ == '__main__':
    run(main)
