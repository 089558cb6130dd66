#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Nobody elects without need. A member that does not lead is stopped for seconds and goes on: the leader and its term
stay. Then each member in turn is restarted as for an upgrade (SIGTERM, start): only the leader's costs a term, which it
hands over. A program writes on a mount all the while; the longest that one file took is printed for each restart."""
import signal, sys, time
from cluster import Cluster, Writer, need_fuse, wait_until

MEMBERS = ('meta-1', 'meta-2', 'meta-3')


def term(c):
    s = c.status()
    return next(m['status']['term'] for m in s['members'] if m.get('status', {}).get('role') == 'leader')


def steady(c):
    """Leader and term, when all three follow: what an election costs has been paid."""
    wait_until('three members', lambda: sorted(m['status']['role'] for m in c.status()['members']) ==
               ['follower', 'follower', 'leader'], 60)
    return c.leader(), term(c)


def stopped_followers(c, w):
    """An election in which nobody had a part to play but the machine's own slowness is not held against it: a round in
    which the term changed is tried again; one that passes shows that the stop as such asks for none."""
    for tries in range(4):
        leader, before = steady(c)
        for name in MEMBERS:
            if name != leader:
                c.daemons[name].signal(signal.SIGSTOP)
                try:
                    time.sleep(2)
                finally:
                    c.daemons[name].signal(signal.SIGCONT)
                w.goes_on(5)
        time.sleep(1)
        if steady(c) == (leader, before):
            return
        print('# a term ended; again')
    raise AssertionError('stopping members that do not lead always costs the leader its term')


def main():
    need_fuse()
    with Cluster() as c:
        m = c.start().mount()
        w = Writer(m.path, 0.01)
        w.start()
        w.goes_on(5)
        stopped_followers(c, w)
        print('ok: a member that is stopped and goes on disturbs nobody')

        for name in MEMBERS:
            leader, before = steady(c)
            w.reset()
            assert c.daemons[name].stop() == 0
            w.goes_on(1)
            c.daemons[name].start()
            w.goes_on(1)
            _, after = steady(c)
            print('# %s restarted%s: longest %.0f ms, terms %d' %
                  (name, ' (the leader)' if name == leader else '', 1000 * w.reset(), after - before))
        w.ending.set()
        w.join(60)
        assert not w.error and not w.is_alive(), w.error
        print('ok: each member restarted in turn')
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
