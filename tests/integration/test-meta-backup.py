#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The metadata is kept: a checkpoint by command; a dump made while a mount works, loaded into empty members (and into
nothing else); a majority of the members lost for good, and the survivor made the only member."""
import json, os, shutil, stat, subprocess, sys, threading
from cluster import Cluster, make_tree, need_fuse, program, same_tree, sh, wait_until

METAS = ('meta-1', 'meta-2', 'meta-3')


class Writer(threading.Thread):
    """Makes and renames files all the time, each with its name in it."""
    def __init__(self, path):
        super().__init__()
        self.path, self.ending, self.made, self.failed = path, threading.Event(), 0, None
        os.makedirs(path)

    def run(self):
        try:
            while not self.ending.is_set():
                name = '%s/f%d' % (self.path, self.made)
                with open(name + '.new', 'w') as f:
                    f.write(name)
                    f.flush()
                    os.fsync(f.fileno())
                os.rename(name + '.new', name)
                self.made += 1
        except OSError as e:
            self.failed = e

    def end(self):
        self.ending.set()
        self.join()
        assert not self.failed, self.failed


def refused(c, words, *args):
    r = c.tercet(*args, check=False)
    assert r.returncode != 0 and words in r.stdout, (args, r.returncode, r.stdout)


def restart_empty(c):
    for n in METAS:
        c.daemons[n].kill()
        shutil.rmtree(c.data(n))
        os.makedirs(c.data(n))
    for n in METAS:
        c.daemons[n].start()
    wait_until('empty members', lambda: len([m for m in c.status()['members'] if m['answers']]) == 3)


def to_pipe(c):
    """What is no file is not replaced by one."""
    pipe = c.dir + '/pipe'
    os.mkfifo(pipe)
    with open(c.dir + '/dump-3', 'wb') as f:
        p = subprocess.Popen(['cat', pipe], stdout=f)
        c.tercet('meta', 'dump', pipe)
        assert p.wait(60) == 0 and stat.S_ISFIFO(os.stat(pipe).st_mode) and f.seek(0, 2) > 1000


def dump_and_load(c, m, tree):
    dump = c.dir + '/dump'
    w = Writer(m.path + '/busy')
    w.start()
    wait_until('a busy writer', lambda: w.made > 20)
    for member in json.loads(c.tercet('--json', 'meta', 'checkpoint').stdout):
        assert member['done'] and member['index'] > 0, member
    before = w.made
    c.tercet('meta', 'dump', dump)
    at_least = w.made
    c.tercet('meta', 'dump', dump + '-2')
    to_pipe(c)
    w.end()
    assert at_least > before, 'the writer stood still'
    refused(c, 'is not empty', 'meta', 'load', dump)
    with open(m.path + '/after-the-dump', 'w') as f:
        f.write('lost with the metadata')
    m.umount()

    restart_empty(c)
    with open(dump, 'rb') as f:
        whole = f.read()
    for name, bad in (('flipped', whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:]), ('cut', whole[:-9]),
                      ('none', b'something else')):
        with open(c.dir + '/bad', 'wb') as f:
            f.write(bad)
        refused(c, 'nothing was changed', 'meta', 'load', c.dir + '/bad')
    c.tercet('meta', 'load', dump)
    for n in ('storage-1', 'storage-2', 'storage-3'):
        c.daemons[n].kill()
        c.daemons[n].start()
    c.wait_healthy(60)
    m.mount()
    same_tree(tree, m.path + '/tree')
    assert not os.path.exists(m.path + '/after-the-dump')
    names = [n for n in os.listdir(m.path + '/busy') if not n.endswith('.new')]
    assert set('f%d' % i for i in range(before)) <= set(names), 'files of before the dump are missing'
    for n in names:
        assert open('%s/busy/%s' % (m.path, n)).read().endswith('/busy/' + n), n
    shutil.rmtree(m.path + '/busy') # and it can be changed: old files, new ones, and old ones that grow
    shutil.copytree(tree, m.path + '/new', symlinks=True)
    with open(m.path + '/tree/grown', 'a') as f:
        f.write('x' * 10000)
    same_tree(tree, m.path + '/new')
    os.unlink(m.path + '/tree/grown')
    refused(c, 'is not empty', 'meta', 'load', dump)
    print('ok: dumped while in use, loaded into empty members', flush=True)


def genesis_alone(c, dump):
    """A load is cut short when one member has its genesis, before anybody led. False: somebody did."""
    restart_empty(c)
    log = os.path.join(c.dir, 'log', 'meta-1')
    seen = os.path.getsize(log)
    p = subprocess.Popen([program('tercet'), '--config=' + c.conf, 'meta', 'load', dump], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    wait_until('formatted', lambda: 'msg="formatted"' in open(log).read()[seen:], 30, 0.01)
    for n in METAS:
        c.daemons[n].kill()
    p.kill()
    p.wait()
    for n in METAS[1:]:
        shutil.rmtree(c.data(n))
        os.makedirs(c.data(n))
    for n in METAS:
        c.daemons[n].start()
    wait_until('members', lambda: len([m for m in c.status()['members'] if m['answers']]) == 3)
    return 'genesis' in c.status_of('meta-1')


def interrupted_load(c, m, tree):
    """A format does not go on with what a load began; the load does."""
    dump = c.dir + '/dump-whole'
    c.tercet('meta', 'dump', dump)
    m.umount()
    for _ in range(10):
        if genesis_alone(c, dump):
            break
    else:
        raise AssertionError('somebody always led before the members were killed')
    refused(c, 'meta load', 'format')
    assert 'genesis' in c.status_of('meta-1') and c.status()['leader'] is None
    c.tercet('meta', 'load', dump)
    refused(c, 'formatted already', 'format')
    for n in ('storage-1', 'storage-2', 'storage-3'):
        c.daemons[n].kill()
        c.daemons[n].start()
    c.wait_healthy(60)
    m.mount()
    same_tree(tree, m.path + '/tree')
    print('ok: a load that was cut short at its beginning', flush=True)


def lost_majority(c, m, tree):
    survivor, number = 'meta-2', '2'
    refused(c, 'leads', 'meta', 'recover', '--id=' + number, '--yes-i-lose-data')
    c.tercet('meta', 'checkpoint')
    m.umount()
    for n in METAS:
        c.daemons[n].kill()
        if n != survivor:
            shutil.rmtree(c.data(n))
            os.makedirs(c.data(n))
    c.daemons[survivor].start()
    wait_until('it answers', lambda: c.status()['members'][1]['answers'])
    refused(c, 'in use', 'meta', 'recover', '--id=' + number, '--yes-i-lose-data')
    assert c.status()['leader'] is None
    c.daemons[survivor].kill()
    refused(c, '--yes-i-lose-data', 'meta', 'recover', '--id=' + number)
    out = c.tercet('meta', 'recover', '--id=' + number, '--yes-i-lose-data').stdout
    assert 'ONLY member' in out and 'NEVER' in out, out
    c.daemons[survivor].start()
    assert c.leader() == survivor
    wait_until('stores are up', lambda: not [p for p in c.problems() if 'storage' in p['what']], 60)
    m.mount()
    same_tree(tree, m.path + '/tree')
    same_tree(tree, m.path + '/new')
    with open(m.path + '/alone', 'w') as f:
        f.write('goes on')
    # Back to three, on the live mount.
    for n in ('meta-1', 'meta-3'):
        c.daemons[n].start()
        wait_until('it answers', lambda: c.status()['members'][int(n[-1]) - 1]['answers'])
        c.tercet('meta', 'add', n[-1])
        wait_until('promoted', lambda: c.tercet('meta', 'promote', n[-1], check=False).returncode == 0, 60, 0.3)
    c.daemons[survivor].kill()
    same_tree(tree, m.path + '/new')
    assert open(m.path + '/alone').read() == 'goes on'
    c.daemons[survivor].start()
    m.umount()
    print('ok: one member recovered alone, and grown to three again', flush=True)


def main():
    need_fuse()
    with Cluster() as c:
        tree = make_tree(c.dir + '/source', files=60)
        m = c.start().mount()
        shutil.copytree(tree, m.path + '/tree', symlinks=True)
        dump_and_load(c, m, tree)
        interrupted_load(c, m, tree)
        lost_majority(c, m, tree)
    return 0


if __name__ == '__main__':
    sys.exit(main())
