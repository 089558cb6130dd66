#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Files of one metadata member are damaged in every way that disks and hands know. Each time: it does not vote (with
one other member away there is no leader), its log and status say what is wrong, the others fill it again, the damaged
files stay aside, and in the end nothing that was acknowledged is missing with another member stopped."""
import glob, os, shutil, sys, time
from cluster import Cluster, make_tree, need_fuse, same_tree, wait_until


def flip(path, at, bit=1):
    with open(path, 'r+b') as f:
        f.seek(at)
        b = f.read(1)
        f.seek(at)
        f.write(bytes([b[0] ^ bit]))


def segments(d):
    return sorted(glob.glob(d + '/log-*/*.seg'))


def last_record(path):
    """An offset inside the last record: the tail mark (24 bytes) is all that follows it."""
    with open(path, 'rb') as f:
        return len(f.read().rstrip(b'\0')) - 24 - 40


def flip_early(d):
    flip(segments(d)[0], 8300)


def flip_last(d):
    seg = segments(d)
    with open(seg[-1], 'rb') as f:
        f.seek(4096)
        used = f.read(24).strip(b'\0')
    name = seg[-1] if used else seg[-2]
    flip(name, last_record(name))


def cut_segment(d):
    os.truncate(segments(d)[0], 9000)


def lose_segments(d):
    for s in segments(d):
        os.unlink(s)


def lose_state(d):
    os.unlink(d + '/state-a')
    os.unlink(d + '/state-b')


def flip_state(d):
    flip(d + '/state-a', 45)
    flip(d + '/state-b', 45)


def flip_store(d):
    tables = glob.glob(d + '/kv-*/*.sst')
    assert tables
    for t in tables:
        for at in range(10, os.path.getsize(t), 2000):
            flip(t, at)


def lose_table(d):
    os.unlink(sorted(glob.glob(d + '/kv-*/*.sst'))[0])


# what, how, its words in log and status, whether to look what it does while another member is away
KINDS = [
    ('a bit of the log', flip_early, 'the log is damaged', True),
    ('a bit of its last record', flip_last, 'the log is damaged', False),
    ('a segment cut short', cut_segment, 'the log is damaged', False),
    ('all segments', lose_segments, 'the log is missing', False),
    ('term and vote lost', lose_state, 'term and vote', True),
    ('term and vote damaged', flip_state, 'term and vote', False),
    ('bits of the store', flip_store, 'the store (kv) is damaged', False),
    ('a table of the store', lose_table, 'the store (kv) is damaged', False),
]


def doc(c, name):
    ident = int(name.split('-')[1])
    return next(m for m in c.status()['members'] if m['id'] == ident).get('status')


def others(c, name):
    return [n for n in ('meta-1', 'meta-2', 'meta-3') if n != name]


def damage_one(c, m, i, victim):
    what, how, words, alone = KINDS[i]
    begun = time.monotonic()
    log = c.daemons[victim].log
    time.sleep(0.5) # its log ends with a tail mark then
    c.daemons[victim].kill()
    seen = os.path.getsize(log)
    how(c.data(victim))
    with open('%s/during-%d' % (m.path, i), 'w') as f: # the others go on
        f.write(what)
        f.flush()
        os.fsync(f.fileno())
    away = others(c, victim)[i % 2] if alone else None
    if away:
        c.daemons[away].kill()
    c.daemons[victim].start()
    if away:
        trouble = wait_until('%s: in status' % what, lambda: (doc(c, victim) or {}).get('trouble'), 20, 0.1)
        assert words in trouble, (what, trouble)
        time.sleep(0.7)
        assert c.status()['leader'] is None, '%s: a damaged member voted' % what
        c.daemons[away].start()
    wait_until('%s: aside' % what, lambda: (doc(c, victim) or {}).get('aside'), 30, 0.1)
    c.wait_healthy(60)
    text = open(log, errors='replace').read()[seen:]
    assert words in text, (what, text)
    assert 'votes again' in text or 'store' in words, text
    assert doc(c, victim)['role'] in ('leader', 'follower'), what
    print('ok: %s (%s), %.1f s' % (what, victim, time.monotonic() - begun), flush=True)


def foreign(c, m, victim):
    with Cluster() as b:
        for n in ('meta-1', 'meta-2', 'meta-3'):
            b.daemons[n].start()
        wait_until('format', lambda: b.tercet('format', check=False).returncode == 0, 30, 0.2)
        b.kill_all()
        c.daemons[victim].kill()
        shutil.rmtree(c.data(victim))
        shutil.copytree(b.data(victim), c.data(victim))
    c.daemons[victim].start()
    wait_until('a foreign member in status', lambda: [p for p in c.problems() if 'another cluster' in p['what']], 20, 0.1)
    wait_until('foreign files aside', lambda: 'another cluster' in (doc(c, victim) or {}).get('aside_why', ''), 30, 0.2)
    c.wait_healthy(60)
    print('ok: files of another cluster', flush=True)


def main():
    need_fuse()
    with Cluster() as c:
        tree = make_tree(c.dir + '/source', files=60)
        m = c.start().mount()
        shutil.copytree(tree, m.path + '/tree', symlinks=True)
        c.tercet('meta', 'checkpoint')
        shutil.copytree(tree, m.path + '/again', symlinks=True)
        victim = 'meta-1'
        for i in range(len(KINDS)):
            victim = 'meta-%d' % (1 + i % 3)
            damage_one(c, m, i, victim)
            c.tercet('meta', 'checkpoint')
        foreign(c, m, victim)
        c.daemons[others(c, victim)[0]].kill()
        for d in ('tree', 'again'):
            same_tree(tree, m.path + '/' + d)
        for i in range(len(KINDS)):
            assert open('%s/during-%d' % (m.path, i)).read() == KINDS[i][0]
        c.daemons[others(c, victim)[0]].start()
        c.wait_healthy(60)
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
