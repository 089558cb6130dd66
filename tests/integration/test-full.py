#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stores on small file systems of their own: filled through the mount until ENOSPC, nothing breaks, df tells the truth, what
was written can be read, and space comes back after deletion, in time for who writes as much as he removes. One full store among
three stops nobody."""
import errno, hashlib, os, random, subprocess, sys, time
from cluster import Cluster, need_fuse, wait_until

MIB = 1 << 20
SIZE = 200


def free_mib(path):
    st = os.statvfs(path)
    return st.f_bavail * st.f_frsize / MIB


def fill(path, rnd):
    """Files of 4 MiB until there is no room for one. Returns what was acknowledged, and how much df says is free."""
    sums, settled, seen = {}, False, 0
    for i in range(1000):
        name, data = path + '/fill%d' % i, rnd.randbytes(4 * MIB)
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT)
            try:
                at = 0
                while at < len(data):
                    at += os.write(fd, data[at:at + MIB])
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as e:
            assert e.errno == errno.ENOSPC, e
            if os.path.exists(name):
                os.unlink(name)
            if settled:
                return sums, seen
            time.sleep(3)       # the numbers of df are a moment old, and so may be those of the stores
            seen = free_mib(path)
            settled = True
            continue
        settled = False
        sums[name] = hashlib.sha256(data).digest()
    raise AssertionError('never full')


def du(m, rnd):
    """What a file takes, as du says it: written, written over, cut, with a hole."""
    name = m.path + '/du'

    def blocks(want):
        wait_until('%d blocks' % want, lambda: os.stat(name).st_blocks * 512 == want, 15)
    with open(name, 'w+b') as f:
        for _ in range(2):
            f.seek(0)
            f.write(rnd.randbytes(4 * MIB))
            f.flush()
            os.fsync(f.fileno())
            blocks(4 * MIB)
        f.truncate(MIB)
        blocks(MIB)
        f.seek(8 * MIB)
        f.write(b'x' * 4096)
        f.flush()
        os.fsync(f.fileno())
        blocks(MIB + 4096)
    os.unlink(name)


def churn(m, rnd):
    """Twice the size of the disks written, and removed as fast, with little of it there at any time: never full."""
    data = rnd.randbytes(4 * MIB)
    for i in range(2 * SIZE // 4):
        with open('%s/churn%d' % (m.path, i), 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        if i >= 6:
            os.unlink('%s/churn%d' % (m.path, i - 6))
    for i in range(2 * SIZE // 4 - 6, 2 * SIZE // 4):
        os.unlink('%s/churn%d' % (m.path, i))
    wait_until('space comes back', lambda: free_mib(m.path) > SIZE / 2, 60, 0.2)
    print('ok: %d MiB written and removed' % (2 * SIZE))


def check(sums):
    for name, want in sums.items():
        with open(name, 'rb') as f:
            assert hashlib.sha256(f.read()).digest() == want, name


def all_full(c, m, rnd):
    st = os.statvfs(m.path)
    total = st.f_blocks * st.f_frsize / MIB
    assert SIZE * 0.8 <= total <= SIZE * 1.01, total      # N copies: as one of the stores
    before = free_mib(m.path)
    sums, seen = fill(m.path, rnd)
    print('filled %d files of 4 MiB; df had said %d MiB free at first, %d at last' % (len(sums), before, seen))
    assert seen < 12, seen
    assert len(sums) * 4 > before - 40, (len(sums), before)
    refused = 0
    for i in range(1000):   # small ones, more than what came back of the last refused large one: an error at the close at last, or they are there, without any fsync
        name, data = m.path + '/small%d' % i, rnd.randbytes(50000)
        try:
            with open(name, 'wb') as f:
                f.write(data)
            sums[name] = hashlib.sha256(data).digest()
        except OSError as e:
            assert e.errno == errno.ENOSPC, e
            refused += 1
            if refused > 5:
                break
    assert refused
    print('small ones too')
    assert all(d.alive() for d in c.daemons.values())
    check(sums)
    wait_until('status says full', lambda: [p for p in c.problems() if 'full' in p['what']], 30, 0.2)
    for d in c.daemons:                         # the reserve was kept: nobody had to end for want of room
        with open(c.dir + '/log/' + d) as f:
            assert 'the disk is full' not in f.read(), d
    for d in ('storage-1', 'storage-2', 'storage-3'):      # full, and started anew
        c.daemons[d].kill()
        c.daemons[d].start()
    for name in os.listdir(m.path):
        if m.path + '/' + name not in sums:     # the refused ones: their data is nowhere
            os.unlink(m.path + '/' + name)
    m.umount()
    m.mount()
    check(sums)
    print('started anew')
    for name in os.listdir(m.path):
        os.unlink(m.path + '/' + name)
    wait_until('space comes back', lambda: free_mib(m.path) > before - 12, 60, 0.2)
    c.wait_healthy(60)
    print('ok: full, and empty again: %d MiB' % free_mib(m.path))


def one_full(c, m, rnd):
    ballast = c.data('storage-1') + '/ballast'
    st = os.statvfs(c.data('storage-1'))
    with open(ballast, 'wb') as f:
        os.posix_fallocate(f.fileno(), 0, max(0, st.f_bavail * st.f_frsize - 12 * MIB))
    wait_until('status says full', lambda: [p for p in c.problems() if 'full' in p['what'] and 'node 1' in p['what']], 30, 0.2)
    sums = {}
    for i in range(8):
        name, data = m.path + '/one%d' % i, rnd.randbytes(4 * MIB)
        with open(name, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        sums[name] = hashlib.sha256(data).digest()
    check(sums)
    os.unlink(ballast)
    c.wait_healthy(60)
    c.daemons['storage-2'].stop()       # the full one was brought up to date
    check(sums)
    c.daemons['storage-2'].start()
    c.wait_healthy(60)
    print('ok: one full store among three')


def main():
    need_fuse()
    if os.geteuid() != 0:
        print('SKIP: needs root, for small file systems')
        return 77
    rnd = random.Random(3)
    with Cluster(1, 3) as c:
        small = [c.data('storage-%d' % i) for i in (1, 2, 3)]
        try:
            for d in small:
                subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=%dM' % SIZE, 'tmpfs', d], check=True)
            m = c.start().mount()
            c.wait_healthy()
            wait_until('df', lambda: free_mib(m.path) > 10, 30)
            du(m, rnd)
            churn(m, rnd)
            all_full(c, m, rnd)
            one_full(c, m, rnd)
            m.umount()
        finally:
            for m in c.mounts:
                m.abort()
            for d in c.daemons.values():
                d.kill()
            for d in small:
                subprocess.run(['umount', d], stderr=subprocess.DEVNULL)
    return 0


if __name__ == '__main__':
    sys.exit(main())
