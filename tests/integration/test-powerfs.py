#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The filesystem under the power loss tests: what is synced stays, what is not goes or not, by chance."""
import contextlib, errno, mmap, os, shutil, sys, tempfile
from cluster import need_fuse
from powerfs import PowerFs

LOSSES = 40


def write(path, data, off=0, sync=True, flags=0):
    fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    try:
        assert os.pwrite(fd, data, off) == len(data)
        if sync:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def files(p, d):
    """Sectors of an unsynced overwrite and append survive one by one; synced ones always."""
    seen = set()
    for seed in range(LOSSES):
        write(d + '/data', b'a' * 8192, flags=os.O_TRUNC)
        sync_dir(d)
        write(d + '/data', b'b' * 8192, off=4096, sync=False)
        assert read(d + '/data') == b'a' * 4096 + b'b' * 8192
        p.lose(seed)
        got = read(d + '/data')
        assert 8192 <= len(got) <= 12288 and got[:4096] == b'a' * 4096, len(got)
        for at in range(4096, len(got), 512):
            sector = set(got[at:at + 512])
            assert len(sector) == 1 and sector <= (set(b'ab') if at < 8192 else set(b'\0b')), (at, sector)
        seen.add((got[4096:8192].count(b'b') // 512, len(got)))
    assert len(seen) > 5 and any(n == 0 for n, _ in seen) and any(0 < n < 8 for n, _ in seen), seen


def truncates(p, d):
    """A truncate that is not synced happened or not; never is there something in its place."""
    seen = set()
    for seed in range(LOSSES):
        write(d + '/cut', b'a' * 8192, flags=os.O_TRUNC)
        sync_dir(d)
        os.truncate(d + '/cut', 1000)
        p.lose(seed)
        got = read(d + '/cut')
        assert got in (b'a' * 8192, b'a' * 1000), (len(got), got.count(b'\0'))
        seen.add(len(got))
    assert len(seen) == 2, seen


def names(p, d):
    """Names hang on the directory's sync, not the file's; a rename happened or did not."""
    created, renamed = set(), set()
    for seed in range(LOSSES):
        write(d + '/old', b'old')
        write(d + '/target', b'target')
        sync_dir(d)
        write(d + '/created', b'new')
        os.rename(d + '/old', d + '/target')
        os.mkdir(d + '/sub')
        write(d + '/sub/inside', b'x')
        sync_dir(d + '/sub')
        p.lose(seed)
        created.add(os.path.exists(d + '/created'))
        renamed.add(read(d + '/target'))
        assert os.path.exists(d + '/old') == (read(d + '/target') == b'target')
        assert not os.path.exists(d + '/sub') or read(d + '/sub/inside') == b'x'
        for name in os.listdir(d):
            path = d + '/' + name
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        sync_dir(d)
    assert created == {True, False} and renamed == {b'old', b'target'}, (created, renamed)


def direct_and_mapped(p, d):
    """O_DIRECT writes are as little durable as others; a mapping's pages are after msync."""
    page = mmap.mmap(-1, 4096)
    page.write(b'd' * 4096)
    lost = 0
    for seed in range(LOSSES):
        fd = os.open(d + '/direct', os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_TRUNC, 0o600)
        os.pwritev(fd, [page], 0)
        os.fdatasync(fd)
        os.pwritev(fd, [page], 4096)
        os.close(fd)
        sync_dir(d)
        fd = os.open(d + '/mapped', os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.truncate(fd, 4096)
        with mmap.mmap(fd, 4096) as m:
            m[:5] = b'hello'
            m.flush()
        os.close(fd)
        sync_dir(d)
        p.lose(seed)
        lost += read(d + '/direct') != b'd' * 8192
        assert read(d + '/direct')[:4096] == b'd' * 4096
        assert read(d + '/mapped')[:5] == b'hello'
    assert lost > 5, lost


def cut(p, d):
    """After a cut nothing changes, for those it was made for."""
    os.mkdir(p.path + '/other')
    write(d + '/file', b'before', flags=os.O_TRUNC)
    sync_dir(d)
    p.cut('disk')
    for fn in (lambda: write(d + '/file', b'after'), lambda: os.unlink(d + '/file'), lambda: sync_dir(d)):
        try:
            fn()
        except OSError as e:
            assert e.errno == errno.EIO, e
        else:
            raise AssertionError('a change after the cut')
    write(p.path + '/other/file', b'unsynced', sync=False)
    p.lose(1, 'disk')
    assert read(d + '/file') == b'before' and read(p.path + '/other/file') == b'unsynced'
    write(d + '/file', b'after!')


def refused(fn):
    try:
        fn()
    except OSError as e:
        assert e.errno == errno.EIO, e
    else:
        raise AssertionError('it did not fail')


def broken(p, d):
    """One file or directory fails, in the ways asked for and there alone."""
    write(d + '/broken', b'b' * 65536, flags=os.O_TRUNC)
    write(d + '/whole', b'w' * 4096)
    p.fail('r', d + '/broken', 32768, 36864)
    with open(d + '/broken', 'rb') as f:
        refused(lambda: os.pread(f.fileno(), 4096, 32768))
        assert os.pread(f.fileno(), 4096, 0) == b'b' * 4096
    write(d + '/broken', b'c' * 4096)
    p.fail('ws', d + '/broken')
    refused(lambda: write(d + '/broken', b'd', sync=False))
    assert read(d + '/broken')[:4097] == b'c' * 4096 + b'b'
    p.fail('s', d + '/broken')
    refused(lambda: write(d + '/broken', b'e'))
    p.fail('-', d + '/broken')
    write(d + '/broken', b'f')
    p.fail('ws', d)
    refused(lambda: os.rename(d + '/broken', d + '/elsewhere'))
    refused(lambda: sync_dir(d))
    write(d + '/whole', b'x')
    p.fail('-', d)
    sync_dir(d)


def main():
    need_fuse()
    top = tempfile.mkdtemp(prefix='tercet-test-')
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, top, True)
        p = PowerFs(top + '/disks')
        stack.callback(p.close)
        d = p.path + '/disk'
        os.mkdir(d)
        for part in (files, truncates, names, direct_and_mapped, cut, broken):
            part(p, d)
            print('ok: %s' % part.__name__)
        print(p.report())
    return 0


if __name__ == '__main__':
    sys.exit(main())
