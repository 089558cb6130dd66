#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exactly once: threads make, link, rename and remove names as fast as they can while the leader is killed (-9) again
and again. Every call has the one result that its thread's history allows: no EEXIST of one's own retried create, no
ENOENT of one's own retried unlink or rename, no link counted twice. usage: test-meta-once.py [SECONDS [THREADS]]"""
import errno, os, sys, threading, time
from cluster import Cluster, need_fuse, wait_until


class Worker(threading.Thread):
    def __init__(self, path, number, end):
        super().__init__()
        self.path, self.end, self.rounds, self.calls, self.failed = '%s/w%d' % (path, number), end, 0, 0, None
        self.shared = path + '/shared'
        self.number = number
        self.kept = set()

    def want(self, code, fn, *args):
        """The call must give just this: 0 or an errno."""
        self.calls += 1
        try:
            r = fn(*args)
            got = 0
        except OSError as e:
            r, got = None, e.errno
        if got != code:
            raise AssertionError('%s%r: %s, must be %s' % (fn.__name__, args, errno.errorcode.get(got, 'done'),
                                                          errno.errorcode.get(code, 'done')))
        return r

    def create(self, name):
        os.close(self.want(0, os.open, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    def round(self, i):
        p = '%s/r%d' % (self.path, i)
        a, b, c, d = p + 'a', p + 'b', p + 'c', p + 'd'
        self.create(a)
        self.want(errno.EEXIST, os.open, a, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        self.want(0, os.link, a, b)
        self.want(errno.EEXIST, os.link, a, b)
        n = os.stat(a).st_nlink
        assert n == 2, '%s has %d links' % (a, n)
        self.want(0, os.rename, a, c)
        self.want(errno.ENOENT, os.rename, a, c)
        self.want(0, os.mkdir, d)
        self.want(errno.EEXIST, os.mkdir, d)
        self.want(0, os.rename, c, d + '/c')
        self.want(errno.ENOTEMPTY, os.rmdir, d)
        self.want(0, os.unlink, b)
        self.want(errno.ENOENT, os.unlink, b)
        n = os.stat(d + '/c').st_nlink
        assert n == 1, '%s has %d links' % (d, n)
        # One directory for all: its number of entries is changed by every thread.
        s = '%s/%d-%d' % (self.shared, self.number, i)
        self.want(0, os.rename, d + '/c', s)
        self.want(0, os.rmdir, d)
        self.want(errno.ENOENT, os.rmdir, d)
        if i % 3:
            self.want(0, os.unlink, s)
        else:
            self.kept.add(os.path.basename(s))

    def run(self):
        try:
            os.mkdir(self.path)
            while time.monotonic() < self.end:
                self.round(self.rounds)
                self.rounds += 1
        except BaseException as e: # told by the main thread
            self.failed = e


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 15
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    need_fuse()
    with Cluster() as c:
        m = c.start().mount()
        os.mkdir(m.path + '/shared')
        end = time.monotonic() + seconds
        workers = [Worker(m.path, i, end) for i in range(threads)]
        for w in workers:
            w.start()
        kills = 0
        while time.monotonic() < end:
            time.sleep(0.5)
            victim = c.leader()
            c.daemons[victim].kill()
            kills += 1
            time.sleep(0.3)
            c.daemons[victim].start()
            wait_until('it is back', lambda: len([x for x in c.status()['members'] if x['answers']]) == 3, 60)
        for w in workers:
            w.join(120)
            assert not w.is_alive(), 'a call hangs'
            if w.failed:
                raise w.failed
        kept = set().union(*(w.kept for w in workers))
        assert set(os.listdir(m.path + '/shared')) == kept
        for w in workers:
            assert os.listdir(w.path) == [], os.listdir(w.path)
        assert os.stat(m.path).st_nlink == 2 + 1 + threads
        for name in kept:
            assert os.stat(m.path + '/shared/' + name).st_nlink == 1, name
        calls = sum(w.calls for w in workers)
        assert kills and all(w.rounds for w in workers)
        print('ok: %d calls, %d kills of the leader' % (calls, kills))
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
