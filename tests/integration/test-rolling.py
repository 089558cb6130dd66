#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Nobody elects without need. A member that does not lead is stopped for seconds and goes on: the leader and its term
stay. Then each member in turn is restarted as for an upgrade (SIGTERM, start): only the leader's costs a term, which it
hands over. Programs work on a mount all the while; the longest that one operation took is printed for each restart. And two
mounts look after each other: what one has changed the other sees at once, whoever leads meanwhile.

TERCET_ROUNDS: how often each member is restarted (1)."""
import os, signal, sys, threading, time
from cluster import Cluster, need_fuse, wait_until

MEMBERS = ('meta-1', 'meta-2', 'meta-3')


def steady(c):
    """Leader and term, when all three follow: what an election costs has been paid."""
    def all_three():
        members = [m['status'] for m in c.status()['members']]
        if sorted(m['role'] for m in members) == ['follower', 'follower', 'leader']:
            return next(('meta-%d' % m['leader'], m['term']) for m in members if m['role'] == 'leader')
        return None
    return wait_until('three members', all_three, 60)


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


class Program(threading.Thread):
    """Must never see an error. Ends when told."""

    def __init__(self, *args):
        super().__init__(daemon=True)
        self.args, self.n, self.error, self.ending = args, 0, None, threading.Event()
        self.longest = {}

    def run(self):
        try:
            while not self.ending.wait(0.005):
                self.once(*self.args)
                self.n += 1
        except (OSError, AssertionError) as e:
            self.error = e

    def timed(self, what, fn, *args, **kw):
        began = time.monotonic()
        value = fn(*args, **kw)
        self.longest[what] = max(self.longest.get(what, 0), time.monotonic() - began)
        return value

    def reset(self):
        longest, self.longest = self.longest, {}
        return longest

    def goes_on(self, rounds=2):
        n = self.n
        wait_until('%s goes on' % type(self).__name__, lambda: self.error or self.n > n + rounds, 60)
        assert not self.error, self.error

    def end(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive() and not self.error, self.error


class Worker(Program):
    """Creates, writes and fsyncs a file, looks at it and at older ones, and lists their directory."""

    def once(self, path):
        d = '%s/work%d' % (path, self.n // 50)
        if self.n % 50 == 0:
            self.timed('mkdir', os.mkdir, d)
        name = '%s/f%d' % (d, self.n)
        fd = self.timed('create', os.open, name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        self.timed('write', os.write, fd, b'%d' % self.n)
        self.timed('fsync', os.fsync, fd)
        os.close(fd)
        assert self.timed('stat', os.stat, name).st_size == len('%d' % self.n)
        self.timed('stat', os.stat, '%s/work0/f0' % path)
        assert os.path.basename(name) in self.timed('readdir', os.listdir, d)


def there(path):
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


class Pair(Program):
    """What is changed through one mount is so for the other, whose kernel was given the names just before. Each time in
    directories of its own: a contended one gives out no names for a while."""

    def once(self, one, other, tag):
        d = 'pair-%s-%d' % (tag, self.n)
        a, b = '%s/%s' % (one, d), '%s/%s' % (other, d)
        os.makedirs(a + '/sub')
        for name in 'xyz':
            os.close(os.open('%s/%s' % (a, name), os.O_CREAT | os.O_WRONLY, 0o600))
        ino = there(b + '/x')
        assert ino and there(b + '/y') and there(b + '/z') and there(b + '/sub')
        os.unlink(a + '/y')
        assert not there(b + '/y'), 'a name that was removed is seen'
        os.rename(a + '/x', a + '/sub/new')
        assert there(b + '/sub/new') == ino, 'a name that was made is not seen'
        assert not there(b + '/x'), 'a name that was moved is seen'
        os.rename(b + '/sub/new', b + '/z')
        assert there(a + '/z') == ino and not there(a + '/sub/new'), 'a file that was replaced is seen'


def main():
    need_fuse()
    rounds = int(os.environ.get('TERCET_ROUNDS', '1'))
    with Cluster() as c:
        m = c.start().mount()
        m2 = c.mount('mnt2')
        w = Worker(m.path)
        w.start()
        w.goes_on(5)
        stopped_followers(c, w)
        print('ok: a member that is stopped and goes on disturbs nobody')

        pairs = [Pair(m.path, m2.path, 'a'), Pair(m2.path, m.path, 'b')]
        for p in pairs:
            p.start()
        for k in range(rounds * len(MEMBERS)):
            name = MEMBERS[k % len(MEMBERS)]
            leader, before = steady(c)
            w.reset()
            assert c.daemons[name].stop() == 0
            for p in [w, *pairs]:
                p.goes_on(1)
            longest = w.reset()
            c.daemons[name].start()
            for p in [w, *pairs]:
                p.goes_on(1)
            _, after = steady(c)
            for what, took in w.reset().items():
                longest[what] = max(took, longest.get(what, 0))
            print('# %s restarted%s: longest %.0f ms (%s), terms %d' %
                  (name, ' (the leader)' if name == leader else '', 1000 * max(longest.values()),
                   ', '.join('%s %.0f' % (what, 1000 * took) for what, took in longest.items()), after - before), flush=True)
        for p in [*pairs, w]:
            p.end()
        print('ok: each member restarted in turn; %d files written, %d rounds of changes seen at once' %
              (w.n, sum(p.n for p in pairs)))
        m2.umount()
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
