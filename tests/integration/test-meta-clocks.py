#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The clocks of the members are minutes apart and the lead goes round, by transfer and by kill -9: the times that files
and directories get never go backwards, and the log shows that the clock of the fastest leader was taken over."""
import os, sys, time
from cluster import BUILD, Cluster, need_fuse, wait_until

SHIM = os.path.join(BUILD, 'tests', 'integration', 'libfake-clock.so')
OFF = {'meta-1': 0, 'meta-2': 300, 'meta-3': -300}


class Watch:
    """Makes things one after the other: none is older than the one before."""
    def __init__(self, path):
        self.path, self.n, self.newest, self.written = path, 0, 0, 0

    def saw(self, what, ns):
        """A time that a leader gave."""
        assert ns >= self.newest, '%s: %.3f s back in time' % (what, (self.newest - ns) / 1e9)
        self.newest = ns

    def wrote(self, ns):
        """The time of a write() is the mount's idea of the leader's clock: it goes forward, too, and is near."""
        assert ns >= self.written, '%.3f s back in time' % ((self.written - ns) / 1e9)
        assert abs(ns - self.newest) < 20e9, 'the mount is %.3f s from the leader' % ((ns - self.newest) / 1e9)
        self.written = ns

    def step(self):
        d = '%s/d%d' % (self.path, self.n)
        os.mkdir(d)
        self.saw('mkdir', os.stat(d).st_mtime_ns)
        self.saw('its parent', os.stat(self.path).st_mtime_ns)
        name = d + '/file'
        with open(name, 'w') as f:
            f.write('x')
            f.flush()
            os.fsync(f.fileno())
        self.wrote(os.stat(name).st_mtime_ns)
        os.rename(name, self.path + '/renamed%d' % self.n)
        self.saw('renamed in', os.stat(self.path).st_mtime_ns)
        os.rmdir(d)
        self.saw('removed', os.stat(self.path).st_mtime_ns)
        self.n += 1


def main():
    need_fuse()
    with Cluster() as c:
        for name, seconds in OFF.items():
            d = c.daemons[name]
            d.args = ['env', 'LD_PRELOAD=' + SHIM, 'FAKE_CLOCK=%d' % seconds,
                      'ASAN_OPTIONS=verify_asan_link_order=0:' + os.environ.get('ASAN_OPTIONS', '')] + d.args
        m = c.start().mount()
        w = Watch(m.path + '/watched')
        os.mkdir(w.path)
        led = set()
        for ident in (1, 2, 3, 2, 1):
            wait_until('transfer', lambda: c.leader() == 'meta-%d' % ident or
                       (c.tercet('meta', 'transfer', str(ident), check=False), False)[1], 60, 0.2)
            for _ in range(5):
                w.step()
            led.add(ident)
        assert w.newest > (time.time() + 200) * 1e9, 'the fast clock was never taken over'
        for _ in range(2):
            victim = c.leader()
            c.daemons[victim].kill()
            for _ in range(5):
                w.step()
            c.daemons[victim].start()
            wait_until('it is back', lambda: not [p for p in c.problems() if 'metadata member' in p['what']], 60)
        before = w.newest
        m.umount()
        for n in OFF:
            c.daemons[n].kill()
        for n in ('meta-1', 'meta-3'): # without the fast one, from disk
            c.daemons[n].start()
        c.leader()
        m.mount()
        assert os.stat(w.path).st_mtime_ns <= before
        w.step()
        print('ok: %d steps under %d leaders and their deaths' % (w.n, len(led)))
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
