#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A store's, then a member's data directory is deleted while it is down: it comes back empty, is filled again, and
then any other one may be stopped."""
import os, shutil, sys, time
from cluster import Cluster, make_tree, need_fuse, same_tree


def lose(c, name):
    c.daemons[name].kill()
    shutil.rmtree(c.data(name))
    os.makedirs(c.data(name))
    time.sleep(1)
    c.daemons[name].start()


def main():
    need_fuse()
    with Cluster() as c:
        tree = make_tree(c.dir + '/source', files=300)
        m = c.start().mount()
        shutil.copytree(tree, m.path + '/tree', symlinks=True)
        same_tree(tree, m.path + '/tree')

        lose(c, 'storage-2')
        time.sleep(3)
        c.wait_healthy(120)
        m.umount()
        for other in ('storage-1', 'storage-3'):
            c.daemons[other].kill()
            m.mount()
            same_tree(tree, m.path + '/tree')
            m.umount()
            c.daemons[other].start()
            c.wait_healthy(60)
        print('ok: an emptied store was filled again')

        m.mount()
        victim = c.leader()
        lose(c, victim)
        time.sleep(3)
        c.wait_healthy(120)
        other = next(n for n in sorted(c.daemons) if n.startswith('meta-') and n != victim)
        c.daemons[other].kill()
        with open(m.path + '/after', 'w') as f:
            f.write('the filled member votes')
        same_tree(tree, m.path + '/tree')
        c.daemons[other].start()
        c.wait_healthy(60)
        print('ok: an emptied member was filled again')
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
