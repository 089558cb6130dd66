#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One mount, ordinary programs: what is copied in is there after a remount; cp, rsync, tar, git, sqlite3, cc, dd, mv,
ln, find, du, df, vim-style save, hard links, unlink of open files, O_APPEND, truncate, xattrs."""
import ast, os, random, sqlite3, sys
from cluster import Cluster, make_tree, need_fuse, same_tree, sh


def names(mnt):
    os.makedirs(mnt + '/n/d')
    with open(mnt + '/n/a', 'w') as f:
        f.write('one')
    os.link(mnt + '/n/a', mnt + '/n/b')
    assert os.stat(mnt + '/n/a').st_nlink == 2
    os.rename(mnt + '/n/a', mnt + '/n/d/c')
    assert not os.path.exists(mnt + '/n/a') and open(mnt + '/n/d/c').read() == 'one'
    os.symlink('../b', mnt + '/n/d/s')
    assert open(mnt + '/n/d/s').read() == 'one' and os.readlink(mnt + '/n/d/s') == '../b'
    for call, want in ((lambda: os.rmdir(mnt + '/n/d'), 39), (lambda: os.mkdir(mnt + '/n'), 17),
                       (lambda: os.unlink(mnt + '/n/none'), 2), (lambda: os.rmdir(mnt + '/n/b'), 20),
                       (lambda: os.rename(mnt + '/n', mnt + '/n/d/x'), 22), (lambda: open(mnt + '/n/' + 'x' * 256, 'w'), 36),
                       (lambda: os.unlink(mnt + '/n/d'), 21), (lambda: os.rename(mnt + '/n/b', mnt + '/n/d'), 21),
                       (lambda: os.stat(mnt + '/n/' + 'x' * 256), 36), (lambda: os.unlink(mnt + '/n/' + 'x' * 256), 36)):
        try:
            call()
        except OSError as e:
            assert e.errno == want, (e, want)
        else:
            raise AssertionError('no error where %d was due' % want)
    for i in range(1500):
        open(mnt + '/n/d/f%d' % i, 'w').close()
    assert len(os.listdir(mnt + '/n/d')) == 1502
    for i in range(0, 1500, 2):
        os.unlink(mnt + '/n/d/f%d' % i)
    assert len(os.listdir(mnt + '/n/d')) == 752
    sh('rm -rf %s/n' % mnt)


def data(mnt):
    p = mnt + '/data'
    with open(p, 'w+b') as f:
        f.write(b'x' * 10000)
        f.flush()
        os.unlink(p)
        f.seek(0)
        assert f.read() == b'x' * 10000, 'unlinked but open'
    with open(p, 'wb') as f:
        f.write(bytes(range(256)) * 100)
    with open(p, 'r+b') as f:
        f.truncate(5000)
        f.truncate(9000)
        assert os.fstat(f.fileno()).st_size == 9000
    want = (bytes(range(256)) * 100)[:5000] + bytes(4000)
    assert open(p, 'rb').read() == want, 'truncate and grow must read zeros'
    with open(p, 'ab') as f:
        f.write(b'tail')
    assert open(p, 'rb').read() == want + b'tail'
    with open(p, 'r+b') as f:
        f.seek(4094)
        f.write(b'ABCD')
        os.fsync(f.fileno())
    want = want[:4094] + b'ABCD' + want[4098:] + b'tail'
    assert open(p, 'rb').read() == want
    os.setxattr(p, 'user.test', b'value')
    assert os.getxattr(p, 'user.test') == b'value' and os.listxattr(p) == ['user.test']
    os.removexattr(p, 'user.test')
    os.utime(p, ns=(1500000000123456789, 1600000000987654321))
    st = os.stat(p)
    assert st.st_mtime_ns == 1600000000987654321 and st.st_atime_ns == 1500000000123456789
    os.chmod(p, 0o640)
    assert os.stat(p).st_mode & 0o7777 == 0o640
    with open(mnt + '/sparse', 'wb') as f:
        f.truncate(1 << 30)
        f.seek(1 << 29)
        f.write(b'!')
    assert os.stat(mnt + '/sparse').st_blocks * 512 < 1 << 20
    with open(mnt + '/sparse', 'rb') as f:
        f.seek((1 << 29) - 1)
        assert f.read(3) == b'\0!\0'
    # Holes: punched or never written, they take no room; the room of what was punched comes back.
    with open(mnt + '/holes', 'w+b') as f:
        f.write(b'x' * (1 << 20))
        f.flush()
        os.fsync(f.fileno())
        assert os.fstat(f.fileno()).st_blocks == (1 << 20) // 512
        sh('fallocate -p -o 4096 -l 1000000 %s/holes' % mnt)
        blocks = os.fstat(f.fileno()).st_blocks     # zero marks on their way
        os.fsync(f.fileno())
        assert blocks <= (1 << 20) // 512 and os.fstat(f.fileno()).st_blocks == ((1 << 20) - 4096 * 244) // 512
        assert f.seek(5000, os.SEEK_DATA) == 4096 * 245 and f.seek(0, os.SEEK_HOLE) == 4096
    sh('cp --sparse=always %s/sparse %s/sparse2 && cmp %s/sparse %s/sparse2' % ((mnt,) * 4))
    assert os.stat(mnt + '/sparse2').st_blocks * 512 < 1 << 20
    for name, want_errno in (('bogus.name', 95), ('system.bogus', 95), ('system.posix_acl_accessory', 95), ('user.', 22), ('user.' + 'n' * 252, 34)):
        try:
            os.setxattr(p, name, b'v')
            raise AssertionError('extended attribute %s was set' % name)
        except OSError as e:
            assert e.errno == want_errno, e
    # Capabilities go with the first changed byte, even of root, who keeps suid.
    caps = bytes.fromhex('0100000200200000000000000000000000000000')
    for change in (lambda f: os.pwrite(f, b'x', 0), lambda f: os.truncate(f, len(want) - 1), lambda f: os.pwrite(f, want, 0)):
        os.setxattr(p, 'security.capability', caps)
        os.setxattr(p, 'user.other', b'v')
        os.chmod(p, 0o4755)
        fd = os.open(p, os.O_RDWR)
        change(fd)
        os.close(fd)
        assert os.listxattr(p) == ['user.other'] and os.stat(p).st_mode & 0o7777 == 0o4755, (os.listxattr(p), oct(os.stat(p).st_mode))
    os.chmod(p, 0o640)
    os.utime(p, ns=(-5 * 10**17, 3 * 10**19))
    st = os.stat(p)
    assert st.st_atime_ns == 0 and 18 * 10**18 < st.st_mtime_ns < 2**64, st
    return want


def as_user(uid, f):
    """What f() gives a process of that user and no group."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.write(w, repr(f()).encode())
        os._exit(0)
    os.close(w)
    with open(r, 'rb') as f:
        out = f.read()
    assert os.waitpid(pid, 0)[1] == 0
    return ast.literal_eval(out.decode())


def privileges(mnt):
    """What a user may see and what a user's change of a file takes away. Root's mounts are everybody's."""
    p = mnt + '/priv'
    with open(p, 'wb') as f:
        f.write(b'x' * 20000)
    for acl in ('system.posix_acl_access', 'system.posix_acl_default'):
        os.removexattr(mnt, acl)    # none there: no error, as on local filesystems
    if os.geteuid() != 0:
        return
    os.chmod(os.path.dirname(mnt), 0o711)
    os.setxattr(p, 'user.shown', b'1')
    os.setxattr(p, 'trusted.hidden', b'1')
    fd = os.open(p, os.O_RDWR)
    for mode in ('-p -o 0 -l 4096', '-z -o 5000 -l 100', '-o 20000 -l 4096'):
        os.chmod(p, 0o6777)
        sh('fallocate %s %s' % (mode, p))
        assert os.fstat(fd).st_mode & 0o7777 == 0o6777, 'root keeps suid and sgid'
        assert as_user(65534, lambda: os.system('fallocate %s %s' % (mode, p))) == 0
        assert os.fstat(fd).st_mode & 0o7777 == 0o777, (mode, oct(os.fstat(fd).st_mode))
    os.close(fd)
    assert sorted(os.listxattr(p)) == ['trusted.hidden', 'user.shown'] and as_user(65534, lambda: os.listxattr(p)) == ['user.shown']


def rising(paths, mirror, rounds, step, far, seed):
    """Truncates to ever larger sizes, each below what was written: more of them than a file's horizon holds. What is
    written at times lies behind older ones. Every mount and a local file must agree."""
    rng = random.Random(seed)
    size = 0
    fds = [os.open(p, os.O_RDWR | os.O_CREAT) for p in paths + [mirror]]
    try:
        for n in range(rounds):
            w, mine = fds[n % len(paths)], fds[-1]
            data = rng.randbytes(rng.randrange(1, 40000))
            old = rng.randrange(0, size + 1) if n % 3 == 0 else None
            size += rng.randrange(1, step)
            for fd in (w, mine):
                os.pwrite(fd, data, size + 1)
                os.pwrite(fd, b'far', size + far)
                if old is not None:
                    os.pwrite(fd, data[:5000], old)
                if n % 4 == 0:
                    os.fsync(fd)
                os.ftruncate(fd, size)
            if n % 7 == 0 or n == rounds - 1:
                want = os.pread(mine, 1 << 27, 0)
                size = len(want)
                for fd in fds[:-1]:
                    same_bytes(read_whole(fd), want, 'rising truncates, round %d' % n)
    finally:
        for fd in fds:
            os.close(fd)


def read_whole(fd):
    parts, at = [], 0
    while True:
        part = os.pread(fd, 1 << 20, at)
        if not part:
            return b''.join(parts)
        parts.append(part)
        at += len(part)


def same_bytes(got, want, what):
    if got == want:
        return
    at = next((n for n in range(min(len(got), len(want))) if got[n] != want[n]), min(len(got), len(want)))
    raise AssertionError('%s: sizes %d, %d, first difference at %d' % (what, len(got), len(want), at))


def programs(mnt, tree):
    sh('cp -a %s %s/tree' % (tree, mnt))
    same_tree(tree, mnt + '/tree')
    sh('rsync -a %s/ %s/rsync' % (tree, mnt))
    same_tree(tree, mnt + '/rsync')
    sh('tar -C %s -cf %s/t.tar tree && mkdir %s/untar && tar -C %s/untar -xf %s/t.tar' % ((mnt,) * 5))
    same_tree(tree, mnt + '/untar/tree')
    sh('cd %s && git init -q repo && cd repo && cp -r ../tree/dir000 . && cp %s/cluster.py . && git add -A && '
       'git -c user.name=t -c user.email=t@t commit -qm one && git status --porcelain | wc -l && git gc -q && '
       'git clone -q . ../clone && cd ../clone && git fsck --strict 2>&1' % (mnt, os.path.dirname(os.path.abspath(__file__))))
    db = sqlite3.connect(mnt + '/db.sqlite')
    db.execute('create table t(a integer primary key, b text)')
    for i in range(50):
        with db:
            db.execute('insert into t values(?, ?)', (i, 'row %d' % i))
    assert db.execute('select count(*) from t').fetchone() == (50,)
    assert db.execute('pragma integrity_check').fetchone() == ('ok',)
    db.close()
    with open(mnt + '/hello.c', 'w') as f:
        f.write('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    assert sh('cd %s && cc -o hello hello.c && ./hello' % mnt) == 'hello\n'
    sh('dd if=/dev/urandom of=%s/dd bs=1M count=20 conv=fsync status=none && dd if=%s/dd of=/dev/null bs=64k status=none' % (mnt, mnt))
    sh('echo new > %s/.save.tmp && mv %s/.save.tmp %s/hello.c && grep -q new %s/hello.c' % ((mnt,) * 4))
    sh('find %s | wc -l && du -s %s && df %s && ls -lR %s > /dev/null' % ((mnt,) * 4))


def main():
    need_fuse()
    with Cluster() as c:
        tree = make_tree(c.dir + '/source')
        m = c.start().mount()
        names(m.path)
        want = data(m.path)
        privileges(m.path)
        rising([m.path + '/small'], c.dir + '/small', 60, 9000, 100000, 1)
        rising([m.path + '/large'], c.dir + '/large', 60, 700000, 3000000, 2)
        other = c.mount('other')
        rising([m.path + '/shared', other.path + '/shared'], c.dir + '/shared', 60, 30000, 200000, 3)
        other.umount()
        programs(m.path, tree)
        m.umount()
        m.mount()
        same_tree(tree, m.path + '/tree')
        same_tree(tree, m.path + '/untar/tree')
        for name in ('small', 'large', 'shared'):
            same_bytes(open(m.path + '/' + name, 'rb').read(), open(c.dir + '/' + name, 'rb').read(), name)
        assert open(m.path + '/data', 'rb').read() == want
        db = sqlite3.connect(m.path + '/db.sqlite')
        assert db.execute('select count(*) from t').fetchone() == (50,)
        db.close()
        sh('rm -rf %s/*' % m.path)
        assert os.listdir(m.path) == []
        m.umount()
        for d in c.daemons.values():
            assert d.stop() == 0, d.name
    return 0


if __name__ == '__main__':
    sys.exit(main())
