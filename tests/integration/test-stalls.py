#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The disk of any one member stands still for seconds (its fsyncs do not return), or the member itself does (SIGSTOP):
programs on a mount see no error. A follower's stall elects nobody, neither while it lasts nor when it is over; a leader
whose disk stalls hands over in order, once; one that was stopped is followed by one election, and none when it goes on.
A store's disk that hangs for longer is taken out."""
import contextlib, json, os, signal, sys, threading, time
from cluster import BUILD, Cluster, Writer, need_fuse, wait_until

SHIM = os.path.join(BUILD, 'tests', 'integration', 'libslow-sync.so')
STALL, TRIES = 2.2, 3


class Names(threading.Thread):
    """A program that makes, renames and removes names all the while."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.n, self.longest, self.error, self.ending = path, 0, 0, None, threading.Event()

    def run(self):
        try:
            while not self.ending.wait(0.01):
                began = time.monotonic()
                d = '%s/d%d' % (self.path, self.n)
                os.mkdir(d)
                os.rename(d, d + '-renamed')
                os.rmdir(d + '-renamed')
                self.n += 1
                self.longest = max(self.longest, time.monotonic() - began)
        except OSError as e:
            self.error = e


def gate(c, name):
    return os.path.join(c.dir, 'slow-' + name)


@contextlib.contextmanager
def slow_disk(c, name, also=''):
    open(gate(c, name) + also, 'w').close()
    try:
        yield
    finally:
        os.unlink(gate(c, name) + also)


@contextlib.contextmanager
def stopped(c, name):
    c.daemons[name].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        c.daemons[name].signal(signal.SIGCONT)


def term(c):
    return max(m['status']['term'] for m in c.status()['members'] if m.get('status'))


def once(c, programs, what, stall, name):
    """Everything goes on while @name stalls; afterwards all is well again. The terms tell how many elections it took."""
    before = term(c)
    for p in programs:
        p.longest = 0
    with stall(c, name):
        counts = [p.n for p in programs]
        time.sleep(STALL)
        for p, n in zip(programs, counts):
            wait_until('%s: programs go on' % what, lambda: p.error or p.n > n + 2, 60)
            assert not p.error, '%s: %s' % (what, p.error)
    c.wait_healthy(60)
    time.sleep(1)  # longer than any election timeout: whoever wants to be elected now is seen
    now = term(c)
    for p in programs:
        assert not p.error, '%s: %s' % (what, p.error)
    print('%-28s %s: %d elections, longest operation %.2f s' % (what, name, now - before, max(p.longest for p in programs)),
          flush=True)
    return now - before


def case(c, programs, what, stall, pick, elections):
    """What the stall itself causes happens each time; what a machine that is too busy for heartbeats causes does not."""
    for _ in range(TRIES):
        n = once(c, programs, what, stall, pick())
        if n in elections:
            return
    raise AssertionError('%s: %d elections' % (what, n))


def follower(c):
    leader = c.leader()
    return [n for n in ('meta-1', 'meta-2', 'meta-3') if n != leader][0]


def flags(c, i):
    return next(n for n in json.loads(c.tercet('node', 'list', '--json').stdout)['nodes'] if n['node'] == i)


def hanging(c, programs, what, also):
    """A disk that does not come back: its groups go to the others, and return to it when it goes on after all. The store
    itself goes on to beat."""
    wait_until('all have groups', lambda: all(flags(c, i)['pgs'] for i in (1, 2, 3, 4)), 60)
    with slow_disk(c, 'storage-1', also):
        began = time.monotonic()
        wait_until('the leader knows', lambda: 'disk_error' in flags(c, 1)['flags'], 60)
        knows = time.monotonic() - began
        wait_until('it beats', lambda: flags(c, 1)['state'] == 'up', 60)
        wait_until('its groups are elsewhere', lambda: flags(c, 1)['pgs'] == 0, 120)
        print('%s of a store: known after %.1f s, empty after %.1f' % (what, knows, time.monotonic() - began), flush=True)
        wait_until('it beats on', lambda: flags(c, 1)['state'] == 'up', 60)
        counts = [p.n for p in programs]
        wait_until('programs go on', lambda: [p for p in programs if p.error] or all(p.n > n + 2 for p, n in zip(programs, counts)), 60)
    wait_until('it has groups again', lambda: not flags(c, 1)['flags'] and flags(c, 1)['pgs'], 120)
    c.wait_healthy(60)
    for p in programs:
        assert not p.error, p.error


def main():
    need_fuse()
    with Cluster(storages=4) as c:
        for name, d in c.daemons.items():
            d.args = ['env', 'LD_PRELOAD=' + SHIM, 'SLOW_SYNC=' + gate(c, name),
                      'ASAN_OPTIONS=verify_asan_link_order=0:' + os.environ.get('ASAN_OPTIONS', '')] + d.args
        m = c.start().mount()
        c.wait_healthy()
        os.mkdir(m.path + '/data')
        os.mkdir(m.path + '/names')
        programs = [Writer(m.path + '/data', 0.02), Names(m.path + '/names')]
        for p in programs:
            p.start()
        programs[0].goes_on()
        case(c, programs, 'slow disk of a follower', slow_disk, lambda: follower(c), (0,))
        case(c, programs, 'follower stopped', stopped, lambda: follower(c), (0,))
        case(c, programs, 'slow disk of a store', slow_disk, lambda: 'storage-1', (0,))
        case(c, programs, 'slow disk of the leader', slow_disk, c.leader, (1,))
        case(c, programs, 'leader stopped', stopped, c.leader, (1, 2))  # two: both others tried at the same moment
        hanging(c, programs, 'hanging disk', '-all')
        hanging(c, programs, 'hanging syncs', '')
        programs[1].ending.set()
        programs[1].join(60)
        programs[0].end()
        print('ok: %d files, %d names' % (programs[0].n, programs[1].n))
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
