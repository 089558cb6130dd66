#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Storage nodes come and go under a mount with load: a fifth is started, one is drained and removed, one hangs and
its copies are made on spares. Then every file reads with any one store stopped."""
import hashlib, json, os, signal, sys, threading
from cluster import Cluster, need_fuse, sh, wait_until

SIZE = 300_000


class Load:
    """Writes files one after the other, syncs each, reads some back."""
    def __init__(self, path):
        self.path, self.sums, self.error, self.stop = path, {}, None, threading.Event()
        os.makedirs(path)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.stop.wait(0.02):
                self.write('f%05d' % len(self.sums))
        except Exception as e:  # noqa: shown by end()
            self.error = e

    def write(self, name):
        data = os.urandom(SIZE)
        with open(os.path.join(self.path, name), 'wb') as f:
            f.write(data)
            os.fsync(f.fileno())
        self.sums[name] = hashlib.md5(data).digest()

    def end(self):
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive(), 'the load hangs'
        if self.error:
            raise self.error

    def check(self):
        for name, md5 in self.sums.items():
            with open(os.path.join(self.path, name), 'rb') as f:
                assert hashlib.md5(f.read()).digest() == md5, name


def node(c, n):
    nodes = json.loads(c.tercet('node', 'list', '--json').stdout)['nodes']
    return next((s for s in nodes if s['node'] == n and s['state'] != 'replaced'), None)


def at_rest(c):
    d = json.loads(c.tercet('node', 'list', '--json').stdout)
    pgs = d['pgs']
    return d['placement']['idle'] and pgs['healthy'] == pgs['total']


def refused(c, text, *args):
    r = c.tercet('node', *args, check=False)
    assert r.returncode != 0 and text in r.stdout, r.stdout


def main():
    need_fuse()
    with Cluster(storages=5, cluster_conf='pg_count=256\n') as c:
        late = c.daemons.pop('storage-5')
        m = c.start().mount()
        load = Load(m.path + '/load')
        wait_until('some files', lambda: len(load.sums) > 20)

        c.daemons['storage-5'] = late
        late.start()
        wait_until('node 5 is known', lambda: node(c, 5))
        out = c.tercet('node', 'add', '5', '--json').stdout.splitlines()
        assert json.loads(out[-1])['end'], out
        have = node(c, 5)['pgs']
        assert 140 <= have <= 168, have  # 3/5 of 256, about
        print('ok: a new node has its share')

        refused(c, 'no storage node 9', 'drain', '9')
        refused(c, 'still holds', 'remove', '4')
        c.tercet('node', 'drain', '4', '--no-wait')
        c.tercet('node', 'drain', '4', '--cancel')
        wait_until('cancelled', lambda: at_rest(c) and node(c, 4)['pgs'] > 100, 60)
        c.tercet('node', 'drain', '4')
        assert node(c, 4)['pgs'] == 0
        c.tercet('node', 'remove', '4')
        assert node(c, 4) is None
        c.daemons.pop('storage-4').kill()
        c.tercet('node', 'maintenance', '5', 'on')
        refused(c, 'in maintenance', 'drain', '1')
        c.tercet('node', 'drain', '5', '--cancel')
        assert node(c, 5)['admin'] == 'maintenance'
        c.tercet('node', 'maintenance', '5', 'off')
        print('ok: a drained node was removed')

        c.daemons['storage-2'].signal(signal.SIGSTOP)  # hung, which is worse than dead
        wait_until('full redundancy', lambda: node(c, 2)['pgs'] == 0 and at_rest(c), 60)
        refused(c, 'too few', 'drain', '1')
        c.tercet('node', 'remove', '2')
        c.daemons['storage-2'].kill()
        print('ok: the copies of a hung node are on spares')
        load.end()
        print('%d files were written meanwhile' % len(load.sums))
        m.umount()
        for name in ('storage-1', 'storage-3', 'storage-5'):
            c.daemons[name].kill()
            m.mount()
            load.check()
            m.umount()
            c.daemons[name].start()
            wait_until('%s is back' % name, lambda: at_rest(c), 60)
        print('ok: every file with any one store stopped')
    return 0


if __name__ == '__main__':
    sys.exit(main())
