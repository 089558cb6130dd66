#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Single files of a running store or metadata member fail (EIO) or rot while it runs: what programs read is right, what they
write is kept, log and status name the damage, and it is repaired from the others.

    test-broken.py [NAME...]        only these parts (index_*: behind journal_rots; cleaned: behind all)
"""
import glob, json, os, random, sys, time
from cluster import Writer, need_fuse, wait_until
from powerfs import DiskCluster


def flip(path, at, n=64):
    """Bits turn on the disk: not what the page cache has."""
    with open(path, 'r+b') as f:
        f.seek(at)
        old = f.read(n)
        f.seek(at)
        f.write(bytes(b ^ 0x55 for b in old))
        f.flush()
        os.fsync(f.fileno())


def store_doc(c, node):
    doc = c.status()
    for m in doc['members']:
        for s in m.get('status', {}).get('stores', ()):
            if m['id'] == doc['leader'] and s['node'] == node and s['state'] != 'replaced':
                return s
    raise ValueError('nobody leads just now')


def log_has(c, name, words):
    with open(os.path.join(c.dir, 'log', name), errors='replace') as f:
        return words in f.read()


def chunk_files(c, node):
    return sorted(p for p in glob.glob(c.data('storage-%d' % node) + '/data/*/*') if os.path.getsize(p) >= 1 << 20)


class Files:
    """Large files, what they hold, and changes to them that are known to be durable."""

    def __init__(self, path, rnd):
        self.path, self.rnd, self.want = path, rnd, {}
        for i in range(4):
            self.put('large%d' % i, 0, rnd.randbytes(2 << 20))

    def put(self, name, at, data):
        fd = os.open('%s/%s' % (self.path, name), os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(fd, data, at)
            os.fsync(fd)
        finally:
            os.close(fd)
        old = self.want.get(name, b'')
        self.want[name] = old[:at] + data + old[at + len(data):]

    def scribble(self):
        for name in [n for n in self.want if n.startswith('large')]:
            for _ in range(4):
                self.put(name, self.rnd.randrange(500) * 4096, self.rnd.randbytes(8192))

    def check(self):
        for name, want in self.want.items():
            with open('%s/%s' % (self.path, name), 'rb') as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert f.read() == want, name


def healthy_again(c, files, w):
    c.wait_healthy(60)
    files.check()
    w.goes_on()


def restart(c, name):
    c.daemons[name].stop()
    c.daemons[name].start()


def disk_error(c, node):
    wait_until('disk error of storage %d in status' % node, lambda: [p for p in c.problems() if 'disk error' in p['what']
               and 'node %d' % node in p['what']], 60, 0.2)


def scrub_until(c, node, what, cond):
    """One that was under way, and has passed the place, is no help."""
    wait_until(what, lambda: [c.tercet('scrub', 'node', str(node), check=False)] and cond(), 60, 0.3)


# ---- a store ----

def chunk_unreadable(c, files, w):
    """A place in a chunk file: what lies there is unknown, fetched from the others and written anew. Many: the disk is failing."""
    p = chunk_files(c, 2)[0]
    c.disks.fail('r', p, 65536, 131072)
    out = json.loads(c.tercet('scrub', '--json', files.path, check=False).stdout)
    assert out['found'] == 16, out
    files.check()
    c.disks.fail('-', p)                # what was written anew can be read
    wait_until('repaired', lambda: store_doc(c, 2)['scrub']['repaired'] == 16, 30, 0.1)
    out = json.loads(c.tercet('scrub', '--json', files.path).stdout)
    assert out['found'] == 0 and out['left'] == 0, out
    assert 'disk_error' not in store_doc(c, 2)['flags'], store_doc(c, 2)
    c.disks.fail('r', p)
    c.tercet('scrub', '--json', files.path, check=False)
    disk_error(c, 2)
    files.check()
    c.disks.fail('-', p)
    restart(c, 'storage-2')
    healthy_again(c, files, w)


def chunk_unwritable(c, files, w):
    """A chunk file takes no writes: what is in the journal stays there until it does."""
    w.pause = 4                         # merging waits for a quiet moment
    for p in chunk_files(c, 3):
        c.disks.fail('ws', p)
    files.scribble()
    wait_until('merging fails', lambda: log_has(c, 'storage-3', 'merging a chunk failed'), 60)
    w.pause = 0.05
    disk_error(c, 3)
    files.check()
    c.daemons['storage-3'].kill()       # and through a restart
    c.daemons['storage-3'].start()
    for p in chunk_files(c, 3):
        c.disks.fail('-', p)
    healthy_again(c, files, w)


def directories(c, files, w):
    """No new chunk file can be made: the two others take the writes, and the store is filled when it can."""
    dirs = glob.glob(c.data('storage-1') + '/data/*')
    for p in dirs:
        c.disks.fail('w', p)
    files.put('dirs-w', 0, files.rnd.randbytes(2 << 20))
    disk_error(c, 1)
    for p in dirs:
        c.disks.fail('s', p)
    files.put('dirs-s', 0, files.rnd.randbytes(2 << 20))
    files.check()
    for p in dirs:
        c.disks.fail('-', p)
    restart(c, 'storage-1')
    healthy_again(c, files, w)
    for name in ('dirs-w', 'dirs-s'):
        wait_until('all copies', lambda: c.tercet('verify', files.path + '/' + name, check=False).returncode == 0, 60, 0.5)


def journal_fails(c, files, w):
    """The journal takes no record, or no sync: the store ends, says why, and all is there when it comes back."""
    for how, victim in (('w', 'storage-2'), ('s', 'storage-3')):
        for p in glob.glob(c.data(victim) + '/journal/*'):
            c.disks.fail(how, p)
        files.put('journal-' + how, 0, files.rnd.randbytes(20000))
        wait_until('%s ends' % victim, lambda: not c.daemons[victim].alive(), 30)
        assert log_has(c, victim, 'journal write failed'), victim
        files.scribble()
        for p in glob.glob(c.data(victim) + '/journal/*'):
            c.disks.fail('-', p)
        os.unlink(c.data(victim) + '/disk-error')       # the operator's word that the disk is sound
        c.daemons[victim].start()
        healthy_again(c, files, w)


def journal_rots(c, files, w, node=1):
    """Found by a scrub while it runs. The store has all of it in memory and brings it to its place: nothing is lost."""
    victim = 'storage-%d' % node
    files.scribble()
    found = store_doc(c, node)['scrub']['found']
    flip(sorted(glob.glob(c.data(victim) + '/journal/*.seg'))[0], 4096 + 3000)
    scrub_until(c, node, 'found', lambda: log_has(c, victim, 'a record of the journal is damaged on disk'))
    wait_until('in status', lambda: store_doc(c, node)['scrub']['found'] == found + 1, 30, 0.1)
    wait_until('a checkpoint', lambda: tables(c, node), 30, 0.1)
    time.sleep(0.5)                     # the segments go behind it
    c.daemons[victim].kill()            # nothing of them is needed any more
    c.daemons[victim].start()
    healthy_again(c, files, w)
    assert not log_has(c, victim, 'put aside')


def tables(c, node):
    return glob.glob(c.data('storage-%d' % node) + '/kv/*.sst')


def index_unreadable(c, files, w):
    """Not damage: another try may read it. It is named, and what cannot be looked up is no answer."""
    for p in tables(c, 1):
        c.disks.fail('r', p)
    scrub_until(c, 1, 'found', lambda: log_has(c, 'storage-1', 'the index cannot be read'))
    disk_error(c, 1)
    files.check()
    for p in tables(c, 1):
        c.disks.fail('-', p)
    restart(c, 'storage-1')
    healthy_again(c, files, w)


def index_rots(c, files, w):
    """Found by a scrub: the files go aside, the store is filled from the others."""
    for p in tables(c, 1):
        flip(p, os.path.getsize(p) // 3)
    scrub_until(c, 1, 'put aside', lambda: store_doc(c, 1)['scrub']['aside'] == 1)
    healthy_again(c, files, w)


# ---- a member ----

def log_fails(c, files, w):
    """The log of the leader takes no entry, that of a follower no sync: the member ends, the others go on."""
    for how in ('w', 's'):
        victim = c.leader()
        if how == 's':
            victim = next(n for n in ('meta-1', 'meta-2', 'meta-3') if n != victim)
        for p in glob.glob(c.data(victim) + '/log-*/*'):
            c.disks.fail(how, p)
        w.goes_on()
        wait_until('%s ends' % victim, lambda: not c.daemons[victim].alive(), 30)
        assert log_has(c, victim, 'disk of the log failed'), victim
        for p in glob.glob(c.data(victim) + '/log-*/*'):
            c.disks.fail('-', p)
        c.daemons[victim].start()
        healthy_again(c, files, w)


def member_rots(c, files, w):
    """Files of members rot, and are found when they are read again: what memory has is written anew, a store is filled by
    the others. Each has its vote at the next start."""
    leader = c.leader()
    a, b = [n for n in ('meta-1', 'meta-2', 'meta-3') if n != leader]
    wait_until('a store with tables', lambda: [c.tercet('meta', 'checkpoint', check=False)] and glob.glob(c.data(b) + '/kv-*/*.sst'), 30)
    flip(sorted(glob.glob(c.data(leader) + '/log-*/*.seg'))[0], 4096 + 500)
    for name in ('state-a', 'state-b'):
        flip('%s/%s' % (c.data(a), name), 20, 8)
    for p in glob.glob(c.data(b) + '/kv-*/*.sst'):
        flip(p, os.path.getsize(p) // 3)
    r = json.loads(c.tercet('--json', 'scrub', check=False).stdout)
    assert len(r['members']) == 3 and len(r['stores']) == 3, r
    wait_until('a member anew', lambda: 'the store (kv) is damaged' in (c.status_of(b) or {}).get('aside_why', ''), 60, 0.2)
    for name in (leader, a):
        assert c.status_of(name)['check']['found'] == 1, c.status_of(name)['check']
    assert log_has(c, leader, 'a record of the log is damaged') and log_has(c, a, 'written anew')
    c.wait_healthy(60)
    for n in (leader, a):
        c.daemons[n].kill()
        c.daemons[n].start()
        healthy_again(c, files, w)
        assert 'aside' not in c.status_of(n) and not log_has(c, n, 'set aside'), n


def cleaned(c, files, w):
    """What was put aside is named with its size and the command that removes it; another removes nothing."""
    c.wait_healthy(60)
    kept = [k for k in json.loads(c.tercet('--json', 'clean').stdout) if k['aside']]
    assert {k['kind'] for k in kept} == {'node', 'member'} and all(k['bytes'] > 10000 for k in kept), kept
    for k in kept:
        words = 'tercet clean %s %d' % (k['kind'], k['id'])
        assert [p for p in c.problems() if words in p['cure'] and 'iB' in p['what']], c.problems()
        daemon = '%s-%d' % ('storage' if k['kind'] == 'node' else 'meta', k['id'])
        assert [n for n in os.listdir(c.data(daemon)) if n.startswith(('damaged-', 'aside-'))]
        c.tercet('clean', k['kind'], str(k['id']))
        assert not [n for n in os.listdir(c.data(daemon)) if n.startswith(('damaged-', 'aside-'))]
    wait_until('nothing aside in status', lambda: c.status() and not [p for p in c.problems() if 'clean' in p['cure']], 30, 0.2)
    healthy_again(c, files, w)


PARTS = (chunk_unreadable, chunk_unwritable, directories, journal_fails, journal_rots, index_unreadable, index_rots, log_fails,
         member_rots, cleaned)


def main():
    need_fuse()
    rnd = random.Random(5)
    with DiskCluster(3, 3) as c:
        m = c.start().mount()
        c.wait_healthy()
        os.mkdir(m.path + '/busy')
        os.mkdir(m.path + '/files')
        w = Writer(m.path + '/busy', 0.05)
        w.start()
        files = Files(m.path + '/files', rnd)
        time.sleep(2.5)
        for part in PARTS:
            if not sys.argv[1:] or part.__name__ in sys.argv[1:]:
                begun = time.monotonic()
                part(c, files, w)
                print('ok: %s, %.1f s' % (part.__name__, time.monotonic() - begun), flush=True)
        w.end()
        files.check()
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
