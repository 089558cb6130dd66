#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two storage nodes exchange their addresses under a mount with load. While one of them is alone, at the address of the other,
it is taken for itself only: nothing is acknowledged. Then all goes on, and every file reads from the two."""
import os, sys, time
from cluster import Cluster, Writer, need_fuse, wait_until


def logged(c, name, text):
    with open(c.daemons[name].log, errors='replace') as f:
        return text in f.read()


def exchange(c, a, b):
    with open(c.conf) as f:
        conf = f.read()
    of = {n: conf.split('[storage.%d]\nendpoint=' % n, 1)[1].split('\n', 1)[0] for n in (a, b)}
    conf = conf.replace(of[a], '@').replace(of[b], of[a]).replace('@', of[b])
    with open(c.conf, 'w') as f:
        f.write(conf)


def check(path, n):
    for i in range(n):
        with open('%s/w%d' % (path, i)) as f:
            assert f.read() == str(i), i


def main():
    need_fuse()
    with Cluster(metas=1) as c:
        m = c.start().mount()
        w = Writer(m.path, 0.01)
        w.start()
        w.goes_on(50)
        for n in (1, 2, 3):
            c.daemons['storage-%d' % n].kill()
        exchange(c, 1, 3)
        c.daemons['storage-3'].start()
        wait_until('it is asked for the other', lambda: logged(c, 'storage-3', 'asked for another store, refused'), 60)
        time.sleep(0.5)
        n = w.n  # one was under way when all were killed, and may have been acknowledged
        time.sleep(2)
        assert w.n == n and not w.error, 'one store alone acknowledged a write'
        print('ok: one store is one voter')
        c.daemons['storage-1'].start()
        w.goes_on(50)
        c.daemons['storage-2'].start()
        c.wait_healthy(60)
        w.ending.set()
        w.join(60)
        m.umount()
        c.daemons['storage-2'].kill()
        m.mount()
        check(m.path, w.n)
        m.umount()
        print('ok: every file of %d from the two that moved' % w.n)
    return 0


if __name__ == '__main__':
    sys.exit(main())
