#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Directories of stores in wrong places: given to another node, copied and started twice, started again after the node was
removed. None of them takes part, each ends and says why, and nothing changes for the store that is in its place."""
import json, os, shutil, sys
from cluster import Cluster, Daemon, free_ports, need_fuse, program, wait_until


def put(path, n):
    os.makedirs(path)
    for i in range(n):
        with open('%s/f%d' % (path, i), 'w') as f:
            f.write('%s %d\n' % (path, i) * 3000)
            f.flush()
            os.fsync(f.fileno())


def check(path, n):
    for i in range(n):
        with open('%s/f%d' % (path, i)) as f:
            assert f.read() == '%s %d\n' % (path, i) * 3000, (path, i)


def node(c, n):
    nodes = json.loads(c.tercet('node', 'list', '--json').stdout)['nodes']
    return next((s for s in nodes if s['node'] == n and s['state'] != 'replaced'), None)


def ends(d, words):
    wait_until('%s ends' % d.name, lambda: not d.alive(), 30)
    with open(d.log, errors='replace') as f:
        log = f.read()
    assert d.proc.returncode == 1 and words in log, log


def elsewhere(c, n, data):
    """Node @n as another machine would start it: with its own address and directory."""
    with open(c.conf) as f:
        conf = f.read()
    at = conf.index('[storage.%d]' % n)
    end = conf.index('\n\n', at)
    other = os.path.join(c.dir, 'other.conf')
    with open(other, 'w') as f:
        f.write(conf[:at] + '[storage.%d]\nendpoint=tcp://127.0.0.1:%d\ndata=%s' % (n, free_ports(1)[0], data) + conf[end:])
    return Daemon('other', [program('tercet-storage'), '--config=' + other, '--id=%d' % n], os.path.join(c.dir, 'log', 'other'))


def main():
    need_fuse()
    with Cluster(metas=1, storages=4, cluster_conf='pg_count=64\n') as c:
        fourth = c.daemons.pop('storage-4')
        m = c.start().mount()
        c.wait_healthy(60)
        put(m.path + '/before', 20)
        copy = os.path.join(c.dir, 'copy')
        c.daemons['storage-1'].stop()
        shutil.copytree(c.data('storage-1'), copy)
        os.rmdir(c.data('storage-4'))
        shutil.copytree(copy, c.data('storage-4'))
        c.daemons['storage-1'].start()
        c.wait_healthy(60)
        put(m.path + '/after', 20)

        c.daemons['storage-4'] = fourth
        fourth.start()
        ends(fourth, 'is that of another storage node')
        print('ok: the directory of one node is nothing for another')

        place = node(c, 1)['endpoint']
        twin = c.daemons['other'] = elsewhere(c, 1, copy)
        twin.start()
        ends(twin, 'this store runs at another address already')
        assert node(c, 1)['endpoint'] == place, node(c, 1)
        c.daemons['storage-2'].kill()
        m.umount()
        m.mount()
        check(m.path + '/before', 20)
        check(m.path + '/after', 20)
        c.daemons['storage-2'].start()
        c.wait_healthy(60)
        print('ok: a copy of a directory does not stand in for it')

        c.daemons['storage-1'].kill()   # the copy lacks what the first one was given since: it comes as a newcomer
        twin.start()
        wait_until('a newcomer', lambda: node(c, 1)['state'] == 'up' and node(c, 1)['endpoint'] != place, 60)
        wait_until('filled', lambda: not [p for p in c.problems() if p['severity'] != 'info'], 60, 0.2)
        c.daemons['storage-3'].kill()
        m.umount()
        m.mount()
        check(m.path + '/before', 20)
        check(m.path + '/after', 20)
        c.daemons['storage-3'].start()
        c.daemons['storage-1'].start()
        ends(c.daemons['storage-1'], 'another took its place')
        c.wait_healthy(60)
        print('ok: an old copy is a newcomer, and then the first one is of no use')

        shutil.rmtree(c.data('storage-4'))
        os.mkdir(c.data('storage-4'))
        fourth.start()
        wait_until('node 4', lambda: node(c, 4))
        c.tercet('node', 'add', '4')
        c.tercet('node', 'drain', '4')
        c.tercet('node', 'remove', '4')
        ends(fourth, 'was removed from the cluster')
        fourth.start()
        ends(fourth, 'was removed from the cluster')
        assert node(c, 4) is None
        assert not [n for n in os.listdir(c.data('storage-4')) if n.startswith('damaged')]
        print('ok: who was removed stays away')
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
