#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mistakes give one clear line and a non-zero exit, and harm nothing; status names cause and cure."""
import contextlib, os, re, shutil, signal, subprocess, sys, time
from cluster import BUILD, Cluster, need_fuse, program, wait_until


def refused(args, *words, status=None, timeout=60):
    r = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    lines = [l for l in r.stderr.splitlines() if not l.startswith('level=info') and not l.startswith('level=warn')]
    assert r.returncode not in (0, -6, -11), (args, r.returncode, r.stderr)
    assert status is None or r.returncode == status, (args, r.returncode, r.stderr)
    assert lines, (args, 'says nothing')
    for w in words:
        assert w.lower() in r.stderr.lower(), (args, w, r.stderr)


def has_problem(c, *words):
    def found():
        return [p for p in c.problems() if all(re.search(w.lower(), (p['what'] + ' ' + p.get('cure', '')).lower()) for w in words) and p.get('cure')]
    return wait_until('problem %s in status' % (words,), found, 60, 0.2)


def mistakes(c):
    meta, storage, fuse = program('tercet-meta'), program('tercet-storage'), program('tercet-fuse')
    conf = '--config=' + c.conf
    refused([meta, '--id=1', '--config=/nonexistent/tercet.conf'], '/nonexistent/tercet.conf')
    refused([meta, conf, '--id=9'], '9')
    refused([meta, conf, '--bogus'], 'bogus', status=2)
    bad = c.dir + '/bad.conf'
    for text, word in (('[cluster]\nn=3\nw=1\nr=1\n', 'bad.conf'), ('[cluster]\nfoo=1\n', 'foo'), ('[meta.1]\nendpoint=nowhere\n', 'bad.conf')):
        with open(bad, 'w') as f:
            f.write(text)
        refused([meta, '--config=' + bad, '--id=1'], word)
    refused([meta, conf, '--id=1'], 'use')      # the first one has port and directory
    refused([storage, conf, '--id=1'], 'use')
    refused([fuse, conf, c.dir + '/no/such/dir'], '/no/such/dir')
    refused([fuse, conf, '-o', 'frobnicate', c.dir], 'frobnicate')
    refused([fuse, '-o', 'wait=1s', '127.0.0.1:1:/', c.dir], timeout=60)
    r = c.tercet('format', check=False)
    assert r.returncode != 0 and 'format' in r.stdout.lower(), r.stdout


def other_cluster():
    """A store's directory of one cluster is refused by another."""
    with Cluster(1, 3) as a, Cluster(1, 3) as b:
        a.start()
        b.start()
        a.wait_healthy()
        b.wait_healthy()
        a.daemons['storage-1'].kill()
        b.daemons['storage-1'].kill()
        shutil.rmtree(b.data('storage-1'))
        shutil.copytree(a.data('storage-1'), b.data('storage-1'))
        refused(b.daemons['storage-1'].args, 'cluster')
        for name, other in (('meta-1', 'storage-2'), ('storage-2', 'meta-1')):      # exchanged by mistake: not taken for empty ones
            b.daemons[name].kill()
            shutil.rmtree(b.data(name))
            shutil.copytree(a.data(other), b.data(name))
            refused(b.daemons[name].args, 'wrong place')


def interrupted_format():
    """Only one of three members was formatted when the command was killed: run again, it goes on."""
    with Cluster(3, 3) as c:
        fake = os.path.join(BUILD, 'tests', 'tools', 'fake-meta')
        started = []
        try:
            c.daemons['meta-1'].start()
            for i in (2, 3):
                with open('%s/%d.json' % (c.dir, i), 'w') as f:
                    f.write('{"id": %d, "formatted": false, "role": "blank"}' % i)
                started.append(subprocess.Popen([fake, '--config=' + c.conf, '--id=%d' % i], env=dict(os.environ, STATUS_DIR=c.dir)))
            first = lambda: next((m['status'] for m in c.status()['members'] if m['id'] == 1 and 'status' in m), {})
            wait_until('first member', first)
            started.append(subprocess.Popen([program('tercet'), '--config=' + c.conf, 'format'], stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL))
            cluster = wait_until('first member formatted', lambda: first().get('cluster'), 60)
        finally:
            for p in started:
                p.kill()
                p.wait()
        c.daemons['meta-2'].start()
        c.daemons['meta-3'].start()
        r = wait_until('format again', lambda: [x for x in [c.tercet('format', check=False)] if x.returncode == 0], 60, 0.2)[0]
        assert 'interrupted' in r.stdout and cluster in r.stdout, r.stdout
        wait_until('one cluster', lambda: {m['status'].get('cluster') for m in c.status()['members']} == {cluster})
        r = c.tercet('format', check=False)
        assert r.returncode == 1 and 'formatted already' in r.stdout, r.stdout


def statuses(c):
    has = lambda *w: has_problem(c, *w)
    c.wait_healthy()
    c.daemons['storage-3'].kill()
    has('storage', '3')
    c.daemons['storage-3'].start()
    c.wait_healthy()
    name = next(n for n in sorted(c.daemons) if n.startswith('meta-') and n != c.leader())
    c.daemons[name].kill()
    has('meta', name[-1])
    other = next(n for n in sorted(c.daemons) if n.startswith('meta-') and n != name)
    c.daemons[other].kill()
    has('quorum')
    c.daemons[name].start()
    c.daemons[other].start()
    c.wait_healthy()


def unclean(c, other):
    """A writer dies while a store is away: the file is named as unclean until all stores are back."""
    m = c.mount('dying')
    c.daemons['storage-2'].kill()
    fd = os.open(m.path + '/torn', os.O_WRONLY | os.O_CREAT)
    os.write(fd, b'x' * 100000)
    os.fsync(fd)
    m.kill()
    m.abort()
    with contextlib.suppress(OSError):
        os.close(fd)
    assert open(other.path + '/torn').read() == 'x' * 100000   # waits until the dead session has expired
    has_problem(c, 'unclean')
    c.daemons['storage-2'].start()
    wait_until('mended', lambda: not c.problems(), 60, 0.3)


def full_disks():
    """Small file systems of their own, one under a store and one under a member."""
    with Cluster(3, 3) as c:
        small = [c.data('storage-1'), c.data('meta-1')]
        try:
            for d in small:
                subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=240M', 'tmpfs', d], check=True)
            c.start()
            m = c.mount()
            c.wait_healthy()
            for d in small:
                with open(d + '/ballast', 'wb', buffering=0) as f, contextlib.suppress(OSError):
                    while True:     # the daemon beside it takes of the room too
                        f.write(bytes(1 << 20))
            # Filled to the last byte, by others: they may end and wait for room, or stay and say so.
            has_problem(c, 'storage node 1', 'full|down')
            has_problem(c, 'metadata member 1', 'full|is down')
            with open(m.path + '/f', 'wb') as f:    # the others carry on
                for _ in range(20):
                    f.write(b'x' * (3 << 20))
                    f.flush()
                    os.fsync(f.fileno())
            for i in range(50):                     # small ones: through journals and indexes
                with open(m.path + '/small%d' % i, 'wb') as f:
                    f.write(b'y' * 5000)
                    f.flush()
                    os.fsync(f.fileno())
            for d in small:
                os.unlink(d + '/ballast')
            wait_until('room again', lambda: not c.problems(), 60, 0.3)
            m.umount()
        finally:
            for m in c.mounts:
                m.abort()
            for d in c.daemons.values():
                d.kill()
            for d in small:
                subprocess.run(['umount', d], stderr=subprocess.DEVNULL)


def main():
    need_fuse()
    with Cluster() as c:
        c.start()
        m = c.mount()
        with open(m.path + '/f', 'w') as f:
            f.write('precious')
        mistakes(c)
        statuses(c)
        unclean(c, m)
        assert open(m.path + '/f').read() == 'precious'
        m.umount()
    other_cluster()
    interrupted_format()
    if os.geteuid() == 0:
        full_disks()
    return 0


if __name__ == '__main__':
    sys.exit(main())
