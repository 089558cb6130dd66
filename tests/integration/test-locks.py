#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Advisory locks hold across mounts: fcntl, OFD and flock locks conflict, are waited for, and go with a close, a process, a
signal and a mount's daemon; a counter and an SQLite database that processes on two mounts change under them lose nothing,
also while the leader of the metadata group is killed."""
import ctypes, errno, fcntl, multiprocessing, os, signal, sqlite3, struct, sys, time

from cluster import Cluster, need_fuse, wait_until

OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38
KINDS = ['posix', 'ofd', 'flock']


def lock(fd, kind, how, wait=False, start=0, length=0):
    """True: done. False: somebody else has it."""
    try:
        if kind == 'flock':
            fcntl.flock(fd, {'r': fcntl.LOCK_SH, 'w': fcntl.LOCK_EX, 'u': fcntl.LOCK_UN}[how] | (0 if wait else fcntl.LOCK_NB))
            return True
        cmd = {('posix', False): fcntl.F_SETLK, ('posix', True): fcntl.F_SETLKW, ('ofd', False): OFD_SETLK,
               ('ofd', True): OFD_SETLKW}[kind, wait]
        kind_of = {'r': fcntl.F_RDLCK, 'w': fcntl.F_WRLCK, 'u': fcntl.F_UNLCK}[how]
        fcntl.fcntl(fd, cmd, struct.pack('hhqqi4x', kind_of, os.SEEK_SET, start, length, 0))
        return True
    except OSError as e:
        if e.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False


class Other:
    """Another process, that opens @path and does what it is told."""

    def __init__(self, path):
        self.pipe, far = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.run, args=(path, far), daemon=True)
        self.process.start()

    @staticmethod
    def run(path, pipe):
        fd = os.open(path, os.O_RDWR)
        while True:
            what, args = pipe.recv()
            if what == 'close':
                os.close(fd)
                fd = os.open(path, os.O_RDWR)
                pipe.send(True)
            else:
                pipe.send(lock(fd, *args))

    def tell(self, what, *args):
        self.pipe.send((what, args))

    def hear(self, timeout=30):
        assert self.pipe.poll(timeout), 'no answer in %d s' % timeout
        return self.pipe.recv()

    def ask(self, what, *args):
        self.tell(what, *args)
        return self.hear()

    def kill(self):
        self.process.kill()
        self.process.join()


def table(near, far, kind):
    path = 'table-' + kind
    fd = os.open('%s/%s' % (near, path), os.O_RDWR | os.O_CREAT)
    o = Other('%s/%s' % (far, path))
    assert o.ask('lock', kind, 'w') and not lock(fd, kind, 'w') and not lock(fd, kind, 'r')
    if kind == 'posix':
        found = struct.unpack('hhqqi4x', fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 5, 1, 0)))
        assert found[0] == fcntl.F_WRLCK and found[2] == 0 and found[3] == 0, found
    assert o.ask('lock', kind, 'r') and lock(fd, kind, 'r') and not lock(fd, kind, 'w') and not o.ask('lock', kind, 'w')
    assert lock(fd, kind, 'u') and o.ask('lock', kind, 'w')
    if kind != 'flock':
        assert o.ask('lock', kind, 'u', False, 100, 10) and lock(fd, kind, 'w', False, 100, 10)
        assert not lock(fd, kind, 'w', False, 99, 2) and lock(fd, kind, 'u')
    for end in ('lock', 'close', 'kill'):
        assert end == 'lock' or o.ask('lock', kind, 'w', True)
        waiter = Other('%s/%s' % (near, path))
        waiter.tell('lock', kind, 'w', True)
        assert not waiter.pipe.poll(0.2), 'it did not wait'
        if end == 'kill':
            o.kill()
        else:
            assert o.ask(end, kind, 'u') if end == 'lock' else o.ask(end)
        assert waiter.hear()
        assert not lock(fd, kind, 'w')
        waiter.kill()
    assert lock(fd, kind, 'w', True)
    os.close(fd)
    print('ok: %s locks conflict, wait and go' % kind)


def both_convert(near, far):
    """Two with a shared flock want it alone: what is converted is given up first, so one after the other has it."""
    with open(near + '/both', 'wb'):
        pass
    two = [Other(near + '/both'), Other(far + '/both')]
    for o in two:
        assert o.ask('lock', 'flock', 'r')
    for o in two:
        o.tell('lock', 'flock', 'w', True)
    wait_until('one of them has it', lambda: two[0].pipe.poll() or two[1].pipe.poll(), 30)
    first = 0 if two[0].pipe.poll() else 1
    assert two[first].hear() and not two[1 - first].pipe.poll(0.2)
    assert two[first].ask('lock', 'flock', 'u') and two[1 - first].hear()
    for o in two:
        o.kill()
    print('ok: two convert a flock')


def interrupted(near, far):
    """A signal ends the waiting, and the lock is not had later either."""
    fd = os.open(near + '/alarm', os.O_RDWR | os.O_CREAT)
    o = Other(far + '/alarm')
    assert o.ask('lock', 'posix', 'w')
    libc = ctypes.CDLL(None, use_errno=True)
    want = ctypes.create_string_buffer(struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)  # again, should it come before the call
    try:
        got, code = libc.fcntl(fd, fcntl.F_SETLKW, want), ctypes.get_errno()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert (got, code) == (-1, errno.EINTR), (got, code)
    assert o.ask('lock', 'posix', 'u') and o.ask('lock', 'posix', 'w', True)
    o.kill()
    os.close(fd)
    print('ok: a signal ends the waiting')


def count(path, kind, until, done):
    fd = os.open(path, os.O_RDWR)
    n = 0
    while time.monotonic() < until:
        assert lock(fd, kind, 'w', True)
        value = int.from_bytes(os.pread(fd, 8, 0), 'little')
        os.pwrite(fd, (value + 1).to_bytes(8, 'little'), 0)
        assert lock(fd, kind, 'u')
        n += 1
    done.put(n)


def insert(path, who, until, done):
    db = sqlite3.connect(path, timeout=120)
    n = 0
    while time.monotonic() < until:
        with db:
            db.execute('BEGIN IMMEDIATE')
            top = db.execute('SELECT MAX(n) FROM t').fetchone()[0]
            db.execute('INSERT INTO t VALUES(?, ?)', (top + 1, who))
        n += 1
    db.close()
    done.put(n)


def contended(c, mounts, seconds):
    """Counters and a database, two processes on each mount, while leaders die."""
    for kind in KINDS:
        with open('%s/count-%s' % (mounts[0].path, kind), 'wb') as f:
            f.write(bytes(8))
    db = sqlite3.connect(mounts[0].path + '/db')
    db.execute('CREATE TABLE t(n INTEGER PRIMARY KEY, who TEXT)')
    db.execute('INSERT INTO t VALUES(0, "")')
    db.commit()
    db.close()
    until, done, all_of = time.monotonic() + seconds, {k: multiprocessing.Queue() for k in KINDS + ['db']}, []
    for m in mounts:
        for i in range(2):
            all_of += [multiprocessing.Process(target=count, args=('%s/count-%s' % (m.path, k), k, until, done[k])) for k in KINDS]
            all_of.append(multiprocessing.Process(target=insert, args=(m.path + '/db', '%s-%d' % (m.path, i), until, done['db'])))
    for p in all_of:
        p.start()
    for _ in range(2):
        time.sleep(seconds / 3)
        leader = c.daemons[c.leader()]
        leader.kill()
        leader.start()
    sums = {k: sum(done[k].get(timeout=120) for _ in range(2 * len(mounts))) for k in KINDS + ['db']}
    for p in all_of:
        p.join()
        assert p.exitcode == 0, 'a program failed'
    for kind in KINDS:
        with open('%s/count-%s' % (mounts[1].path, kind), 'rb') as f:
            assert int.from_bytes(f.read(), 'little') == sums[kind], (kind, sums)
    db = sqlite3.connect(mounts[1].path + '/db')
    assert db.execute('PRAGMA integrity_check').fetchone() == ('ok',)
    assert db.execute('SELECT COUNT(*), MAX(n) FROM t').fetchone() == (sums['db'] + 1, sums['db'])
    db.close()
    assert all(n > 0 for n in sums.values()), sums
    print('ok: nothing is lost while leaders die: %s' % sums)


def own(c, near):
    """locks=mount: they hold among the programs of that mount, and nobody else hears of them."""
    m = c.mount('own', 'locks=mount')
    fd = os.open(near + '/own', os.O_RDWR | os.O_CREAT)
    first, second = Other(m.path + '/own'), Other(m.path + '/own')
    for kind in KINDS:
        assert first.ask('lock', kind, 'w') and not second.ask('lock', kind, 'w') and lock(fd, kind, 'w')
        assert first.ask('lock', kind, 'u') and lock(fd, kind, 'u')
    first.kill()
    second.kill()
    os.close(fd)
    m.umount()
    print('ok: locks=mount')


def dead_mount(c, mounts):
    """What a mount's daemon took with it is free when its session has ended, and not before."""
    extra = c.mount('gone')
    fd = os.open(mounts[0].path + '/held', os.O_RDWR | os.O_CREAT)
    o = Other(extra.path + '/held')
    assert o.ask('lock', 'flock', 'w') and not lock(fd, 'flock', 'w')
    begin = time.monotonic()
    extra.kill()  # its session is closed by nobody
    wait_until('the lock', lambda: lock(fd, 'flock', 'w'), 60)
    extra.abort()
    print('ok: the lock of a dead mount is free after %.1f s' % (time.monotonic() - begin))
    o.kill()
    os.close(fd)


def main():
    need_fuse()
    with Cluster() as c:
        c.start()
        mounts = [c.mount('mnt0'), c.mount('mnt1')]
        for kind in KINDS:
            table(mounts[0].path, mounts[1].path, kind)
            table(mounts[0].path, mounts[0].path, kind)
        own(c, mounts[0].path)
        both_convert(mounts[0].path, mounts[1].path)
        both_convert(mounts[0].path, mounts[0].path)
        interrupted(mounts[0].path, mounts[1].path)
        contended(c, mounts, 9)
        dead_mount(c, mounts)
        for m in mounts:
            m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
