#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Any one process may die, or hang, during a copy: no program sees an error, the copy ends, the trees are equal.
Then all die at once: everything fsynced is there."""
import hashlib, os, signal, subprocess, sys, threading, time
from cluster import Cluster, make_tree, need_fuse, same_tree, sh


class Copier(threading.Thread):
    """Copies the tree again and again until told to stop; keeps the first error."""

    def __init__(self, tree, mnt):
        super().__init__()
        self.tree, self.mnt, self.ending, self.error, self.rounds = tree, mnt, False, None, 0

    def run(self):
        try:
            while not self.ending or self.rounds == 0:
                to = '%s/copy%d' % (self.mnt, self.rounds)
                sh('cp -a %s %s' % (self.tree, to), timeout=180)
                same_tree(self.tree, to)
                if self.rounds:
                    sh('rm -rf %s/copy%d' % (self.mnt, self.rounds - 1), timeout=180)
                self.rounds += 1
        except Exception as e:
            self.error = e


def during_copy(c, tree, mnt, what, fn):
    copier = Copier(tree, mnt)
    copier.start()
    time.sleep(0.5)
    fn()
    copier.ending = True
    copier.join(240)
    assert not copier.is_alive(), '%s: the copy hangs' % what
    assert copier.error is None, '%s: %s' % (what, copier.error)
    sh('rm -rf %s/copy*' % mnt)
    c.wait_healthy(60)
    print('ok: %s (%d copies)' % (what, copier.rounds))


def kill_and_restart(c, name, pause):
    c.daemons[name].kill()
    time.sleep(pause)
    c.daemons[name].start()
    time.sleep(1)


def freeze(c, name, seconds):
    c.daemons[name].signal(signal.SIGSTOP)
    time.sleep(seconds)
    c.daemons[name].signal(signal.SIGCONT)
    time.sleep(1)


def follower(c):
    leader = c.leader()
    return next(n for n in sorted(c.daemons) if n.startswith('meta-') and n != leader)


def power_off(c, m):
    """Writers with fsync; kill everything; every acknowledged file must be whole."""
    done = {}

    def writer(i):
        k = 0
        while True:
            body = os.urandom(3000 + 1500 * (k % 7))
            path = '%s/sync/w%d-%d' % (m.path, i, k)
            try:
                with open(path, 'wb') as f:
                    f.write(body)
                    f.flush()
                    os.fsync(f.fileno())
            except OSError:
                return
            done[os.path.basename(path)] = hashlib.sha256(body).hexdigest()
            k += 1
    os.mkdir(m.path + '/sync')
    threads = [threading.Thread(target=writer, args=(i,), daemon=True) for i in range(4)]
    for t in threads:
        t.start()
    time.sleep(3)
    sure = dict(done)
    c.kill_all()
    for t in threads:
        t.join(30)
    sure = dict(done)
    assert len(sure) > 20, 'only %d files written' % len(sure)
    c.start(format=False)
    m.mount()
    for name, digest in sure.items():
        with open('%s/sync/%s' % (m.path, name), 'rb') as f:
            assert hashlib.sha256(f.read()).hexdigest() == digest, 'fsynced file %s is not as it was' % name
    print('ok: all killed at once, %d fsynced files are whole' % len(sure))


def main():
    need_fuse()
    hang = float(os.environ.get('TERCET_HANG', '4'))
    with Cluster() as c:
        tree = make_tree(c.dir + '/source', files=250)
        m = c.start().mount()
        c.wait_healthy()
        during_copy(c, tree, m.path, 'leader killed', lambda: kill_and_restart(c, c.leader(), 2))
        during_copy(c, tree, m.path, 'follower killed', lambda: kill_and_restart(c, follower(c), 2))
        during_copy(c, tree, m.path, 'storage killed', lambda: kill_and_restart(c, 'storage-2', 3))
        during_copy(c, tree, m.path, 'leader frozen', lambda: freeze(c, c.leader(), hang))
        during_copy(c, tree, m.path, 'follower frozen', lambda: freeze(c, follower(c), hang))
        during_copy(c, tree, m.path, 'storage frozen', lambda: freeze(c, 'storage-1', hang))
        power_off(c, m)
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
