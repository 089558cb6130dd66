#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two mounts of one cluster see each other's completed operations at once: names, sizes, data, appends."""
import mmap, os, re, sys, threading, time
from cluster import Cluster, need_fuse, sh, wait_until


def followed(a, b):
    """What one mount appends and syncs, readers of another see whole and at once, however the two cross."""
    if tuple(int(n) for n in re.findall(r'\d+', os.uname().release)[:2]) < (6, 6):
        print('skipped: readers beside appends through another mount: needs Linux 6.6 (docs/FUSE.md 3.4)')
        return
    floor, wrong, over = [0], [], threading.Event()
    open(a + '/followed', 'w').close()

    def read():
        while not over.is_set() and not wrong:
            least, got = floor[0], b''
            with open(b + '/followed', 'rb', buffering=0) as f:
                while piece := f.read(1 << 18):
                    got += piece
            if len(got) < least or b'\0' in got:
                wrong.append('%d bytes were acknowledged, %d read, zero at %d' % (least, len(got), got.find(b'\0')))
    readers = [threading.Thread(target=read) for _ in range(3)]
    for t in readers:
        t.start()
    with open(a + '/followed', 'ab', buffering=0) as f:
        for i in range(500):
            floor[0] += f.write(b'x' * (40 + i * 97 % 1500))
            os.fsync(f.fileno())
    over.set()
    for t in readers:
        t.join()
    assert not wrong, wrong


def names(a, b, d):
    os.mkdir(a + d)
    for i in range(100):
        x, y = (a, b) if i % 2 else (b, a)
        with open('%s%s/f%d' % (x, d, i), 'w') as f:
            f.write('content %d' % i)
        assert os.stat('%s%s/f%d' % (y, d, i)).st_size == len('content %d' % i)
        assert open('%s%s/f%d' % (y, d, i)).read() == 'content %d' % i
        os.rename('%s%s/f%d' % (y, d, i), '%s%s/g%d' % (y, d, i))
        assert not os.path.exists('%s%s/f%d' % (x, d, i)) and os.path.exists('%s%s/g%d' % (x, d, i))
    assert sorted(os.listdir(a + d)) == sorted(os.listdir(b + d)) and len(os.listdir(a + d)) == 100


def mapped(a, b):
    """What was stored in a shared mapping is seen elsewhere once msync has returned, and last of all after the unmount."""
    for i in range(10):
        with open(a.path + '/mapped', 'wb') as f:
            f.write(bytes(10000))
        there = os.open(b.path + '/mapped', os.O_RDWR)
        fd = os.open(a.path + '/mapped', os.O_RDWR | (os.O_APPEND if i % 2 else 0))
        m = mmap.mmap(fd, 10000)
        for k in range(3):
            os.pwrite(there, b'%d there' % k, 8000)
            assert os.pread(there, 4, 0) == m[0:4]
            m[0:4] = b'%04d' % k
            assert os.pread(fd, 4, 0) == b'%04d' % k, 'not to be read where it was stored'
            m.flush()
            assert os.pread(there, 4, 0) == b'%04d' % k, 'msync returned before it was there'
        os.pwrite(there, b'there', 8000)
        m[5000:5004] = b'late'
        m.close()
        os.close(fd)
        if i == 9:
            a.umount()
            assert os.pread(there, 4, 5000) == b'late', 'lost at the unmount'
        os.close(there)


def main():
    need_fuse()
    with Cluster() as c:
        c.start()
        mounts = c.mount('a'), c.mount('b')
        a, b = mounts[0].path, mounts[1].path
        names(a, b, '/d')
        names(a, c.mount('anywhere', 'reads=anywhere').path, '/e')

        # One file, written through both: the last completed write is what the other reads, page caches and all.
        fa, fb = open(a + '/shared', 'w+b', buffering=0), open(b + '/shared', 'r+b', buffering=0)
        for i in range(200):
            w, r = (fa, fb) if i % 2 else (fb, fa)
            os.pwrite(w.fileno(), b'%08d' % i * 700, 4096 * (i % 3))
            assert os.pread(r.fileno(), 8, 4096 * (i % 3)) == b'%08d' % i, 'stale read in round %d' % i
        os.ftruncate(fa.fileno(), 10)
        assert os.fstat(fb.fileno()).st_size == 10 and os.pread(fb.fileno(), 100, 0) == (b'%08d' % 198 * 2)[:10]

        # Appends from both: all there, none torn.
        def append(path, who):
            with open(path, 'ab', buffering=0) as f:
                for i in range(150):
                    f.write(b'%s %06d\n' % (who, i))
        ts = [threading.Thread(target=append, args=(p + '/log', w)) for p, w in ((a, b'A'), (b, b'B'), (a, b'C'), (b, b'D'))]
        for t in ts:
            t.start()
        for t in ts:
            t.join(120)
        lines = open(a + '/log', 'rb').read().splitlines()
        assert sorted(lines) == sorted(b'%s %06d' % (w, i) for w in (b'A', b'B', b'C', b'D') for i in range(150))

        # Attributes that the kernel keeps of files nobody has open: changed through the other mount, seen at once.
        open(a + '/kept', 'w').close()
        size = 0
        for i in range(32):
            x, y = (a, b) if i % 2 else (b, a)
            for _ in range(3):
                os.stat(y + '/kept'), os.stat(x + '/kept')
            if i % 4 == 0:
                with open(x + '/kept', 'a') as f:
                    size += f.write('x' * 100)
            elif i % 4 == 1:
                os.chmod(x + '/kept', 0o600 + i % 7)
            elif i % 4 == 2:
                os.link(x + '/kept', x + '/kept%d' % i)
            else:
                size = size // 2
                os.truncate(x + '/kept', size)
            sx, sy = os.stat(x + '/kept'), os.stat(y + '/kept')
            assert (sy.st_size, sy.st_mode, sy.st_nlink) == (sx.st_size, sx.st_mode, sx.st_nlink), 'stale in round %d' % i
            assert sy.st_size == size, 'stale size in round %d' % i
        followed(a, b)

        # Unlinked through one, still open through the other.
        f = open(b + '/shared', 'rb')
        os.unlink(a + '/shared')
        assert len(f.read()) == 10
        f.close()
        fa.close()
        fb.close()
        # Read through one and closed; renamed and rewritten through the other: no page of before.
        for i in range(3):
            with open(a + '/p', 'wb') as f:
                f.write(b'old' * 5000)
            assert open(b + '/p', 'rb').read() == b'old' * 5000
            os.rename(a + '/p', a + '/q')
            with open(a + '/q', 'r+b') as f:
                f.write(b'new' * 5000)
            assert open(b + '/q', 'rb').read() == b'new' * 5000, 'stale pages'
        # Grown without a block of data, beyond what the lease was granted for.
        with open(a + '/big', 'wb') as f:
            os.posix_fallocate(f.fileno(), 0, 300 << 20)
            assert os.stat(b + '/big').st_size == 300 << 20
            f.write(b'x')
            f.flush()
            os.fsync(f.fileno())
        assert os.stat(b + '/big').st_size == 300 << 20
        # Exclusive create: one winner.
        wins = []

        def create(path):
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                wins.append(path)
            except FileExistsError:
                pass
        for i in range(30):
            ts = [threading.Thread(target=create, args=('%s/excl%d' % (p, i),)) for p in (a, b)]
            for t in ts:
                t.start()
            for t in ts:
                t.join(60)
        assert len(wins) == 30, len(wins)
        # What one mount has looked at or has open, and the other removes, is gone when nobody needs it any more.
        for i in range(10):
            os.makedirs('%s/gone/sub%d' % (a, i))
        for i in range(20):
            open('%s/gone/f%d' % (a, i), 'w').close()
        sh('ls -lR %s/gone; ls -lR %s/gone' % (b, a))
        held = open(b + '/gone/f0', 'w+')
        held.write('still here')
        held.flush()
        here = [os.open('%s/gone/sub%d' % (b, i), os.O_RDONLY) for i in range(10)]
        sh('rm -rf %s/gone' % a)
        time.sleep(14)       # asked for meanwhile
        held.seek(0)
        assert held.read() == 'still here'
        for fd in here:
            assert os.fstat(fd).st_nlink == 0 and os.listdir(fd) == []
            os.close(fd)
        held.close()
        wait_until('removed files are gone', lambda: [m['status']['orphans'] for m in c.status()['members']
                                                      if 'orphans' in m.get('status', {})] == [0], 90)
        sh('cp -a /usr/include/linux %s/inc && diff -r /usr/include/linux %s/inc' % (a, b))
        mapped(*mounts)
    return 0


if __name__ == '__main__':
    sys.exit(main())
