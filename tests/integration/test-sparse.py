#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Data and holes of sparse files, on two mounts: what SEEK_DATA and SEEK_HOLE say is what was written and what was not, whoever
asks, also while a store is down and after it came back behind the others; and a hole costs no time for its length."""
import os, random, subprocess, sys

from cluster import Cluster, need_fuse, wait_until

BLOCK, MIB, TIB = 4096, 1 << 20, 1 << 40
SIZES = (3 * MIB + 5, 70 * MIB, 5 * TIB + 123)


def extents(fd, size):
    """[first, end) of data as the mount says, in bytes."""
    out, at = [], 0
    while at < size:
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == 6, e
            break
        at = os.lseek(fd, first, os.SEEK_HOLE)
        out.append((first, at))
    return out


class Model:
    """Which blocks were written since they were last punched or cut off."""

    def __init__(self):
        self.blocks, self.size = set(), 0

    def write(self, off, n):
        self.blocks.update(range(off // BLOCK, (off + n - 1) // BLOCK + 1))
        self.size = max(self.size, off + n)

    def punch(self, off, n):
        """Whole blocks become holes; what is left of a block at the ends was data or not."""
        first, end = -(-off // BLOCK), (off + n if off + n < self.size else self.size + BLOCK - 1) // BLOCK
        self.blocks = {b for b in self.blocks if not first <= b < end}

    def truncate(self, size):
        self.blocks = {b for b in self.blocks if b * BLOCK < size}
        self.size = size

    def extents(self):
        out = []
        for b in sorted(self.blocks):
            if out and out[-1][1] == b * BLOCK:
                out[-1] = (out[-1][0], (b + 1) * BLOCK)
            else:
                out.append((b * BLOCK, (b + 1) * BLOCK))
        return [(a, min(e, self.size)) for a, e in out]


def step(rng, fds, model, far):
    """One change, by either mount."""
    fd, what = rng.choice(fds), rng.random()
    at = rng.randrange(max(1, int(far * rng.random() ** 3)))
    n = rng.choice((1, 100, BLOCK, 3 * BLOCK, MIB + 7))
    if what < 0.6:
        os.pwrite(fd, b'd' * n, at)
        model.write(at, n)
    elif what < 0.8:
        n = min(rng.choice((BLOCK, 3 * MIB, 40 * MIB)), far)
        at -= at % BLOCK
        subprocess.run(['fallocate', '-p', '-o', str(at), '-l', str(n), '/proc/self/fd/%d' % fd], check=True, pass_fds=(fd,))
        if at < model.size:
            model.punch(at, n)
    elif what < 0.9:
        os.ftruncate(fd, at)
        model.truncate(at)
    else:
        os.fsync(fd)


def random_runs(c, a, b, rng, rounds):
    for size in SIZES:
        path = '/random-%d' % size
        fds = [os.open(a + path, os.O_RDWR | os.O_CREAT), os.open(b + path, os.O_RDWR)]
        model = Model()
        os.ftruncate(fds[0], size)
        model.truncate(size)
        history = []
        for k in range(rounds):
            step(rng, fds, model, size)
            for fd in fds[::rng.choice((1, -1))]:
                got, want = extents(fd, model.size), model.extents()
                assert got == want, 'size %d, step %d: got %r, want %r' % (size, k, got, want)
            off = rng.randrange(size)
            if off < model.size:
                in_data = off // BLOCK in model.blocks
                assert (os.lseek(fds[1], off, os.SEEK_HOLE) == off) == (not in_data), off
        for fd in fds:
            os.close(fd)


def tools(a, b):
    """What programs make of a file of terabytes that holds next to nothing."""
    with open(a + '/image', 'wb') as f:
        f.truncate(3 * TIB)
        for at in (0, 100 * MIB, TIB + 12345, 2 * TIB, 3 * TIB - 5):
            f.seek(at)
            f.write(b'image')
    used = os.stat(b + '/image').st_blocks
    assert used * 512 < MIB, used
    assert int(subprocess.check_output(['du', '-B1', b + '/image']).split()[0]) < MIB
    subprocess.run(['cp', '--sparse=auto', b + '/image', b + '/copied'], check=True, timeout=120)
    # (an archive's map of a file; its own directory, its own name)
    subprocess.run('tar -C %s -Scf %s/archive image && mkdir %s/out && tar -C %s/out -Sxf %s/archive' % (b, a, a, a, a), shell=True, check=True,
                   timeout=120)
    for copy in (a + '/copied', b + '/out/image'):
        st = os.stat(copy)
        assert st.st_size == 3 * TIB and st.st_blocks * 512 < MIB, (copy, st)
        with open(copy, 'rb') as f:
            for at in (0, 100 * MIB, TIB + 12345, 2 * TIB, 3 * TIB - 5):
                f.seek(at)
                assert f.read(5) == b'image', (copy, at)


def main():
    need_fuse()
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(1 << 30)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    print('seed %d' % seed)
    rng = random.Random(seed)
    with Cluster() as c:
        c.start()
        a, b = c.mount('a').path, c.mount('b').path
        tools(a, b)
        random_runs(c, a, b, rng, rounds)
        with open(a + '/late', 'wb') as f:
            f.truncate(TIB)
        fd = os.open(b + '/late', os.O_RDONLY)
        assert extents(fd, TIB) == []
        c.daemons['storage-1'].kill()
        with open(a + '/late', 'r+b') as f:
            for at in range(0, TIB, TIB // 16):
                f.seek(at)
                f.write(b'late')
        want = [(at, at + BLOCK) for at in range(0, TIB, TIB // 16)]
        assert extents(fd, TIB) == want
        c.daemons['storage-1'].start() # behind, for a while
        c.daemons['storage-2'].kill()
        assert extents(fd, TIB) == want
        c.daemons['storage-2'].start()
        assert extents(fd, TIB) == want
        os.close(fd)
    print('ok')


if __name__ == '__main__':
    main()
