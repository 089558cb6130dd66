#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two of three stores gone: nothing wrong is answered, waiting follows wait=, clean files are read from the one that is left,
and everything goes on when a second is back. Garbage: what was removed while a store was away goes there, too."""
import errno, glob, hashlib, os, random, sys, threading, time
from cluster import Cluster, need_fuse, wait_until

MIB = 1 << 20


def put(path, data):
    with open(path, 'wb') as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return hashlib.sha256(data).digest()


def get(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).digest()


def fails(fn):
    try:
        fn()
    except OSError as e:
        assert e.errno == errno.ETIMEDOUT, e
        return True
    return False


def down(c, *names):
    for n in names:
        c.daemons[n].kill()
    wait_until('stores down', lambda: len([p for p in c.problems() if 'is down' in p['what'] or 'down:' in p['what']]) >= len(names), 30, 0.2)


def survivor(c, rnd):
    m = c.mounts[0]
    clean = put(m.path + '/clean', rnd.randbytes(3 * MIB))
    changed = put(m.path + '/changed', b'old' * MIB)
    m.umount()          # every lease is given back: clean is said of both
    m.mount()
    assert get(m.path + '/changed') != 0
    down(c, 'storage-3')
    with open(m.path + '/changed', 'r+b') as f:     # on two of three: the third is not asked alone from now on
        f.write(b'new')
        f.flush()
        os.fsync(f.fileno())
    want = get(m.path + '/changed')
    assert want != changed
    m.umount()
    brief = c.mount('brief', 'wait=2s')
    m.mount()
    c.daemons['storage-3'].start()
    c.daemons['storage-1'].kill()
    c.daemons['storage-2'].kill()
    wait_until('storage 3 alone', lambda: len([p for p in c.problems() if 'is down' in p['what']]) == 2, 30, 0.2)
    assert get(m.path + '/clean') == clean
    wait_until('a brief read', lambda: get(brief.path + '/clean') == clean, 30)     # on a slow machine it may time out
    print('ok: a clean file is read from one copy')
    begin = time.monotonic()
    assert fails(lambda: get(brief.path + '/changed')), 'one copy of three answered for a file that is not clean'
    took = time.monotonic() - begin
    assert took >= 1.5, took
    assert fails(lambda: put(brief.path + '/more', b'x' * 4 * MIB))
    print('ok: a file that is not is waited for, %.1f s with wait=2s' % took)

    got = []
    reader = threading.Thread(target=lambda: got.append(get(m.path + '/changed')))     # wait=forever
    writer = threading.Thread(target=lambda: got.append(put(m.path + '/waited', b'y' * MIB)))
    for t in (reader, writer):
        t.start()
    time.sleep(2)
    assert not got
    c.daemons['storage-1'].start()
    for t in (reader, writer):
        t.join(60)
    assert len(got) == 2 and want in got, (got, want)
    wait_until('goes on', lambda: get(brief.path + '/changed') == want, 30, 0.2)
    c.daemons['storage-2'].start()
    c.wait_healthy(60)
    assert get(m.path + '/clean') == clean and get(m.path + '/changed') == want
    wait_until('umount', lambda: brief.umount() is None, 30, 0.5)
    print('ok: all goes on with a second one')


def chunks(c, node):
    doc = c.status()
    for x in doc['members']:
        for s in x.get('status', {}).get('stores', ()):
            if x['id'] == doc['leader'] and s['node'] == node:
                return s['chunks']
    return -1       # nobody leads just now


def files(c, node):
    return [os.path.basename(p) for p in glob.glob(c.data('storage-%d' % node) + '/data/*/*')]


def garbage(c, rnd):
    m = c.mounts[0]
    for name in os.listdir(m.path):
        os.unlink(m.path + '/' + name)
    # What the writer that gave up had on its way, or a store was just given by another, is refused after the removal
    # (chunk_store_removed).
    wait_until('nothing there', lambda: all(chunks(c, n) == 0 for n in (1, 2, 3)), 60, 0.2)
    put(m.path + '/kept', rnd.randbytes(2 * MIB))
    for i in range(5):
        put(m.path + '/doomed%d' % i, rnd.randbytes(2 * MIB))
    put(m.path + '/cut', rnd.randbytes(4 * MIB))
    put(m.path + '/held', rnd.randbytes(MIB))
    held = open(m.path + '/held', 'rb')
    wait_until('all there', lambda: all(chunks(c, n) == 2 + 10 + 4 + 1 for n in (1, 2, 3)), 60, 0.2)
    down(c, 'storage-2')
    for i in range(5):
        os.unlink(m.path + '/doomed%d' % i)
    os.truncate(m.path + '/cut', 1000)
    os.unlink(m.path + '/held')         # in use until it is closed
    wait_until('gone where they were up', lambda: all(chunks(c, n) == 2 + 1 + 1 for n in (1, 3)), 60, 0.2)
    c.daemons['storage-2'].start()
    c.wait_healthy(60)
    wait_until('gone where it was away', lambda: chunks(c, 2) == 2 + 1 + 1, 60, 0.2)
    c.tercet('scrub')                   # removes nothing that is in use
    assert all(chunks(c, n) == 4 for n in (1, 2, 3))
    assert len(held.read()) == MIB
    held.close()
    os.unlink(m.path + '/cut')
    wait_until('the rest', lambda: all(chunks(c, n) == 2 for n in (1, 2, 3)), 60, 0.2)
    wait_until('files, too', lambda: all(len(files(c, n)) == 2 for n in (1, 2, 3)), 60, 0.2)
    assert len(open(m.path + '/kept', 'rb').read()) == 2 * MIB
    print('ok: nothing is left of what was removed')


def main():
    need_fuse()
    rnd = random.Random(11)
    with Cluster(1, 3) as c:
        m = c.start().mount()
        c.wait_healthy()
        survivor(c, rnd)
        garbage(c, rnd)
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
