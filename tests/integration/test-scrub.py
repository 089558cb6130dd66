#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bits flipped in files of one store: never shown to a reader, found by reading or by scrub, repaired from the others, and
counted; a store whose index or journal is damaged puts its files aside and is filled again."""
import glob, hashlib, json, os, random, sys, time
from cluster import Cluster, need_fuse, wait_until


def flip(path, rnd, lo=0, n=1):
    with open(path, 'r+b') as f:
        size = os.fstat(f.fileno()).st_size
        for _ in range(n):
            at = rnd.randrange(min(lo, size - 1), size)
            f.seek(at)
            b = f.read(1)[0]
            f.seek(at)
            f.write(bytes([b ^ 1 << rnd.randrange(8)]))


def scrub_counts(c, node):
    doc = c.status()
    for m in doc['members']:
        for s in m.get('status', {}).get('stores', ()):
            if m['id'] == doc['leader'] and s['node'] == node and s['state'] != 'replaced':
                return s['scrub']
    raise ValueError('nobody leads just now')


def chunk_files(c, node, at_least=1 << 20):
    return sorted(p for p in glob.glob(c.data('storage-%d' % node) + '/data/*/*') if os.path.getsize(p) >= at_least)


class Tree:
    def __init__(self, path, rnd):
        self.path, self.sums = path, {}
        os.makedirs(path)
        for i in range(6):
            self.add('large%d' % i, rnd.randbytes(2 << 20))
        for i in range(60):
            self.add('small%d' % i, rnd.randbytes(rnd.randrange(1, 20000)))

    def add(self, name, data):
        with open(self.path + '/' + name, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        self.sums[name] = hashlib.sha256(data).digest()

    def check(self):
        for name, want in self.sums.items():
            with open(self.path + '/' + name, 'rb') as f:
                assert hashlib.sha256(f.read()).digest() == want, name


def repaired(c, node, found):
    def done():
        n = scrub_counts(c, node)
        return n['found'] >= found and n['unrepaired'] == 0 and n['repaired'] >= found
    wait_until('repairs on storage %d' % node, done, 60, 0.2)


def sparse(tree):
    return os.path.join(os.path.dirname(tree.path), 'sparse')


def running(c, tree, rnd):
    """Data flipped under a running store: by scrub of a path, of a node, and on read."""
    files = chunk_files(c, 2)
    assert len(files) >= 6, files
    for p in files[:3]:
        flip(p, rnd)
    r = json.loads(c.tercet('scrub', '--json', tree.path).stdout)
    assert r['found'] == 3 and r['repaired'] == 3 and r['left'] == 0, r
    repaired(c, 2, 3)
    tree.check()
    flip(files[4], rnd)
    r = json.loads(c.tercet('scrub', '--json', 'node', '2').stdout)['stores'][0]
    assert r['found'] >= 4 and r['unrepaired'] == 0 and not r['running'] and r['ended'] > 0, r
    repaired(c, 2, 4)
    r = json.loads(c.tercet('scrub', '--json', tree.path).stdout)
    assert r['found'] == 0 and r['blocks_read'] >= 3 * 6 * 512, r
    elsewhere = c.tercet('scrub', c.dir, check=False)
    assert elsewhere.returncode == 1 and 'not on a Tercet mount' in elsewhere.stdout, elsewhere
    assert c.tercet('clean').stdout == 'no damaged files are kept\n'
    print('ok: data flipped while running')

    ino = os.stat(tree.path + '/large0').st_ino
    mine = [p for p in chunk_files(c, 2) if int(os.path.basename(p).split('-')[1], 16) == ino]
    flip(mine[0], rnd)
    r = c.tercet('verify', '--json', tree.path + '/large0', check=False)
    v = json.loads(r.stdout)
    assert r.returncode == 1 and v['damaged'] == 1 and v['lost'] == 0 and v['problems'][0]['node'] == 2, v
    wait_until('repair', lambda: c.tercet('verify', tree.path + '/large0', check=False).returncode == 0, 30, 0.2)
    v = json.loads(c.tercet('verify', '--json', tree.path + '/large0').stdout)
    assert v['alike'] and v['copies_read'] == 3 * 512, v
    e = json.loads(c.tercet('explain', '--json', tree.path + '/large0').stdout)
    assert len(e['chunks']) == 2 and all(len(x['copies']) == 3 for x in e['chunks']), e
    assert all(y['verified'] > 0 for x in e['chunks'] for y in x['copies'] if y['node'] == 2), e
    assert len(e['if_died']) == 3 and not any(d['waits'] or d['alone'] for d in e['if_died']), e
    with open(sparse(tree), 'wb') as f:
        f.truncate(1 << 40)
        f.seek(1 << 39)
        f.write(b'far')
    e = json.loads(c.tercet('explain', '--json', sparse(tree)).stdout)
    assert [x['index'] for x in e['chunks']] == [1 << 19], e['chunks']
    for verb in ('verify', 'locate', 'scrub'):
        c.tercet(verb, sparse(tree))
    os.unlink(sparse(tree))
    print('ok: verify and explain')


def stopped(c, m, tree, rnd):
    """Data flipped while the store is stopped; readers never see it, and reading finds it."""
    c.daemons['storage-3'].stop()
    for p in chunk_files(c, 3)[:4]:
        flip(p, rnd)
    wait_until('storage 3 down', lambda: [p for p in c.problems() if 'node 3' in p['what'] and 'is down' in p['what']], 30, 0.2)
    e = json.loads(c.tercet('explain', '--json', tree.path + '/large0').stdout)
    assert all(d['waits'] == (2 if d['node'] != 3 else 0) for d in e['if_died']), e['if_died']
    r = c.tercet('scrub', '--json', tree.path, check=False)     # nobody is waited for who is known to be down
    assert r.returncode == 1 and json.loads(r.stdout)['unanswered'] == len(tree.sums), r.stdout
    c.daemons['storage-3'].start()
    c.wait_healthy(60)
    m.umount()
    m.mount()
    tree.check()
    c.tercet('scrub')
    repaired(c, 3, 4)
    print('ok: data flipped while stopped')


def damaged_store(c, m, tree, rnd, what):
    d = c.daemons['storage-1']
    d.stop()
    if what == 'journal':
        seg = sorted(glob.glob(c.data('storage-1') + '/journal/*.seg'))[0]
        with open(seg, 'rb') as f:
            f.seek(4096)
            body = f.read()
        used = len(body.rstrip(b'\0'))
        assert used > 20000, used
        with open(seg, 'r+b') as f:      # amid what is known to be synced
            f.seek(4096 + 3000)
            f.write(bytes(64))
    else:
        files = glob.glob(c.data('storage-1') + '/kv/*.sst') or glob.glob(c.data('storage-1') + '/kv/MANIFEST*')
        for p in files:
            flip(p, rnd, n=20)
    before = wait_until('status', lambda: [scrub_counts(c, 1)['aside']], 30)[0]
    d.start()
    wait_until('files put aside', lambda: scrub_counts(c, 1)['aside'] > before, 60, 0.2)
    tree.check()
    wait_until('filled again', lambda: not [p for p in c.problems() if p['severity'] != 'info'], 90, 0.3)
    assert d.alive()
    assert [p for p in c.problems() if 'aside' in p['what'] and 'node 1' in p['what']], c.problems()
    c.daemons['storage-2'].stop()
    m.umount()
    m.mount()
    tree.check()
    c.daemons['storage-2'].start()
    c.wait_healthy(60)
    print('ok: a damaged %s' % what)


def main():
    need_fuse()
    rnd = random.Random(7)
    with Cluster(1, 3) as c:
        m = c.start().mount()
        c.wait_healthy()
        tree = Tree(m.path + '/tree', rnd)
        time.sleep(2.5)     # small writes go from the journal to their places
        running(c, tree, rnd)
        stopped(c, m, tree, rnd)
        damaged_store(c, m, tree, rnd, 'journal')
        damaged_store(c, m, tree, rnd, 'index')
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
