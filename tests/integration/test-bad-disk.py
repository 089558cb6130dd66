#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Disks that fail (EIO from powerfs) under storage nodes, with a program that writes all the while: the store says so or ends in
order, its groups go to the others, the operator is told, nobody who uses the mount sees an error, and nothing is lost.

    data      chunk files cannot be written: the store goes on, reports it, and is emptied
    reads     nothing can be read: found by a scrub, the same
    journal   the store ends; started again by a supervisor while the disk seems to work it is given nothing to hold
    index     the same for a flush of the index
    all       nothing works: it ends, and cannot start again
"""
import hashlib, json, os, random, sys, time
from cluster import Writer, need_fuse, wait_until
from powerfs import DiskCluster

MIB = 1 << 20


class BadDiskCluster(DiskCluster):
    def node(self, i):
        return next(n for n in json.loads(self.tercet('node', 'list', '--json').stdout)['nodes'] if n['node'] == i)

    def log(self, name):
        with open(os.path.join(self.dir, 'log', name)) as f:
            return f.read()


def put(path, rnd, count, size):
    sums = {}
    for i in range(count):
        name, data = '%s-%d' % (path, i), rnd.randbytes(size)
        with open(name, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        sums[name] = hashlib.sha256(data).digest()
    return sums


def check(sums):
    for name, want in sums.items():
        with open(name, 'rb') as f:
            assert hashlib.sha256(f.read()).digest() == want, name


def emptied(c, i):
    begin = time.monotonic()
    wait_until('the leader knows', lambda: 'disk_error' in c.node(i)['flags'], 30)
    knows = time.monotonic() - begin
    wait_until('its groups are elsewhere', lambda: c.node(i)['pgs'] == 0, 120)
    assert [p for p in c.problems() if 'disk errors' in p['what'] and 'node %d ' % i in p['what']], c.problems()
    return 'known after %.2f s, empty after %.2f' % (knows, time.monotonic() - begin)


def anew(c, i):
    """The operator's part: a new disk in its place."""
    name = 'storage-%d' % i
    c.daemons[name].kill()
    c.disks.break_('nothing', name)
    old = c.data(name)
    for what in os.listdir(old):
        if what != 'lock' and '.old' not in what:       # powerfs moves nothing between disks
            os.rename('%s/%s' % (old, what), '%s/%s.old%d' % (old, what, time.monotonic_ns()))
    c.daemons[name].start()
    wait_until('whole again', lambda: not [p for p in c.problems() if p.get('severity') != 'info'] and c.node(i)['pgs'], 120, 0.2)


def data(c, m, rnd):
    c.disks.break_('changes', 'storage-1/data')
    sums = put(m.path + '/data', rnd, 12, MIB)          # so many that some are certainly kept there
    print('data: ' + emptied(c, 1))
    assert c.daemons['storage-1'].alive()
    return sums


def reads(c, m, rnd):
    c.disks.break_('reads', 'storage-2')
    c.tercet('scrub', 'node', '2', check=False, timeout=120)
    print('reads: ' + emptied(c, 2))
    return {}


def ended(c, i, why, m, rnd):
    name, sums = 'storage-%d' % i, {}

    big = m.path + '/' + why

    def gone():             # written over, it goes through the journal, which is full at some time
        with open(big, 'r+b' if sums else 'wb') as f:
            data = rnd.randbytes(8 * MIB)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        sums[big] = hashlib.sha256(data).digest()
        return not c.daemons[name].alive()
    wait_until('the store ends', gone, 120)
    assert c.daemons[name].proc.returncode == 1, c.daemons[name].proc.returncode
    print('%s: %s' % (why, emptied(c, i)))
    return sums


def main():
    need_fuse()
    rnd = random.Random(5)
    with BadDiskCluster(1, 4) as c:
        m = c.start().mount()
        sums = put(m.path + '/first', rnd, 8, MIB)
        c.wait_healthy()
        os.mkdir(m.path + '/writer')
        w = Writer(m.path + '/writer', 0.02)
        w.start()

        sums.update(data(c, m, rnd))
        anew(c, 1)
        sums.update(reads(c, m, rnd))
        anew(c, 2)

        c.disks.break_('changes', 'storage-3/journal')
        sums.update(ended(c, 3, 'journal', m, rnd))
        c.disks.break_('nothing', 'storage-3')            # it seems to work again, for a while
        assert os.path.exists(c.data('storage-3') + '/disk-error') or 'cannot be marked' in c.log('storage-3')
        c.daemons['storage-3'].start()
        wait_until('it is back', lambda: c.node(3)['state'] == 'up', 60)
        time.sleep(2)
        assert c.node(3)['pgs'] == 0 and c.node(3)['coming'] == 0 and 'disk_error' in c.node(3)['flags'], c.node(3)
        anew(c, 3)

        c.disks.break_('changes', 'storage-4/kv')
        sums.update(ended(c, 4, 'index', m, rnd))
        assert 'Assertion' not in c.log('storage-4')
        anew(c, 4)

        c.disks.break_('all', 'storage-1')
        sums.update(ended(c, 1, 'all', m, rnd))
        c.daemons['storage-1'].start()
        wait_until('it does not start', lambda: not c.daemons['storage-1'].alive(), 30)
        assert c.daemons['storage-1'].proc.returncode == 1
        w.goes_on()
        w.end()
        check(sums)
        m.umount()
        m.mount()
        check(sums)
        m.umount()
        print('ok: %d files of a program that wrote all the while, none waited above %.1f s' % (w.n, w.longest))
    return 0


if __name__ == '__main__':
    sys.exit(main())
