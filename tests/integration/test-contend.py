#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Threads on three mounts contend for seven names as fast as they can: no call ends with an error but ENOENT and EEXIST,
and one order explains what all of them saw (../chaos/contest.py). usage: test-contend.py [SECONDS]"""
import os, sys, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'chaos'))
from cluster import Cluster, need_fuse  # noqa: E402
from contest import Contest  # noqa: E402


def main():
    need_fuse()
    with Cluster() as c:
        c.start()
        mounts = [c.mount('mnt%d' % i) for i in range(3)]
        t = Contest([m.path for m in mounts], 5, 0.002, groups=1)
        end = time.monotonic() + (float(sys.argv[1]) if len(sys.argv) > 1 else 6)
        t.start()
        while time.monotonic() < end:
            time.sleep(0.5)
            t.check()
        t.finish(60)
        for m in mounts:
            t.look(m.path)
            m.umount()
        print('ok: %d calls have an order' % t.checked())
    return 0


if __name__ == '__main__':
    sys.exit(main())
