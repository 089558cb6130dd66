# SPDX-License-Identifier: Apache-2.0
"""Disks that lose power: tests/powerfs mounted in a directory (see the head of powerfs.c)."""
import os, shutil, subprocess
from cluster import BUILD, Cluster, wait_until


class PowerFs:
    def __init__(self, path):
        self.path, self.backing = path, path + '.backing'
        os.makedirs(path, exist_ok=True)
        os.makedirs(self.backing)
        self.proc = subprocess.Popen([os.path.join(BUILD, 'tests', 'powerfs', 'powerfs'), self.backing, path])
        wait_until('powerfs', lambda: os.path.ismount(path), 20)

    def command(self, text):
        fd = os.open(self.path + '/.power', os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def cut(self, *tops):
        """From now on nothing changes any more; programs see EIO until they are ended."""
        self.command(' '.join(['cut', *tops]))

    def break_(self, what, top):
        """The disk @top (or one directory in it, TOP/DIR) fails: what is reads, changes, all, or nothing any more. What the kernel has
        in its cache can still be read."""
        self.command('break %s %s' % (what, top))

    def lose(self, seed, *tops):
        self.command(' '.join(['lose', str(seed), *tops]))

    def fail(self, how, path, *part):
        """Reads ("r"), writes ("w"), syncs ("s") of the file or directory @path fail from now on; "-": no more. @part:
        (from, to), of reads and writes. What the page cache has of it goes, or reads would not come here."""
        if os.path.isfile(path):
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        self.command(' '.join(['fail', how, os.path.relpath(path, self.path), *map(str, part)]))

    def report(self):
        with open(self.path + '/.power') as f:
            return dict((k, int(v)) for k, v in (p.split('=') for p in f.read().split()))

    def close(self):
        if self.proc.poll() is None:
            subprocess.run(['umount', '-l', self.path], stderr=subprocess.DEVNULL)
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        shutil.rmtree(self.backing, ignore_errors=True)


class DiskCluster(Cluster):
    """All data directories lie on one powerfs, each a disk of its own."""

    def prepare(self):
        self.disks = PowerFs(os.path.join(self.dir, 'data'))

    def __exit__(self, kind, value, tb):
        for m in self.mounts:
            m.abort()
        for d in self.daemons.values():
            d.kill()
        if kind is not None:
            self.show_logs()
        self.disks.close()
        return super().__exit__(None, None, None)
