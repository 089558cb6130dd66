#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Power is lost everywhere at once, with real daemons: what was acknowledged is there, and no block is torn.

    test-power.py [--rounds=N] [--seed=S] [--time=SECONDS]

All data directories lie on powerfs, which takes back what was not synced (../powerfs/powerfs.c). In each round workers (history.py)
change a mount and note what was acknowledged; then nothing reaches any disk any more, all processes are killed, what was
not synced is lost by chance, all start again, and all that was acknowledged must be found. Rounds differ in what
happens before: power is lost right after format, or again during recovery, or at some machines first while the others
go on, or a disk was emptied and was being filled, or all were killed first and what they left in the page cache was read.
"""
import argparse, os, random, shutil, sys, threading, time
from cluster import need_fuse, wait_until
from history import Wrong, crew
from powerfs import DiskCluster

BAD = ('without a vote', 'damaged', 'does not match', 'does not reach', 'do not meet', 'two contents', 'cannot be opened',
       'cannot be read', 'is missing', 'no identity', 'no longer holds')
KINDS = ('plain', 'some', 'twice', 'emptied', 'plain', 'killed')
PATIENCE = 60 # seconds until a cluster that does not come back is given up


class PowerCluster(DiskCluster):
    def prepare(self):
        self.emptied = set()
        super().prepare()

    def power_loss(self, rnd, names=()):
        self.disks.cut(*names)
        if not names:
            for m in self.mounts:
                m.abort()
        for n in names or self.daemons:
            self.daemons[n].kill()
        self.disks.lose(rnd.randrange(1 << 32), *names)

    def none_anew(self):
        """A disk that lost power is not one that lost what it held: nobody had to begin anew, nothing was damaged."""
        for name in set(self.daemons) - self.emptied:
            with open(os.path.join(self.dir, 'log', name)) as f:
                bad = [line for line in f if any(w in line for w in BAD) and 'err=IO' not in line]
            if bad:
                raise Wrong('%s: %s' % (name, bad[0].strip()))

    def healthy(self):
        wait_until('healthy status', lambda: not [p for p in self.problems() if p.get('severity') != 'info'], PATIENCE, 0.2)


class Watch:
    """Ends a mount that answers nothing, so that whoever waits for it gets an error."""

    def __init__(self, mount):
        self.timer = threading.Timer(PATIENCE, mount.abort)

    def __enter__(self):
        self.timer.start()

    def __exit__(self, *args):
        self.timer.cancel()


def empty_disk(c, name):
    c.emptied.add(name)
    c.daemons[name].kill()
    for n in os.listdir(c.data(name)):
        path = os.path.join(c.data(name), n)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    c.daemons[name].start()


def some_machines(c, rnd):
    """A minority of the members and one store."""
    return [rnd.choice(['meta-%d' % i for i in range(1, 4)]), rnd.choice(['storage-%d' % i for i in range(1, 4)])]


def work(c, rnd, workers, seconds, kind):
    for w in workers:
        w.start()
    if kind in ('some', 'emptied'):
        time.sleep(seconds / 2)
        names = some_machines(c, rnd)
        c.healthy()
        if kind == 'some':
            c.power_loss(rnd, names)
            for n in names:
                c.daemons[n].start()
        else:
            empty_disk(c, rnd.choice(names))
    time.sleep(seconds * rnd.uniform(0.3, 1.0))
    for w in workers:
        if w.error:
            raise Wrong('%s, before power was lost: %r' % (w.dirname, w.error))


def restart(c, rnd, kind):
    c.start(format=False)
    if kind == 'twice':
        time.sleep(rnd.uniform(0.0, 1.5))
        c.power_loss(rnd)
        c.start(format=False)


def one_round(c, rnd, workers, seconds, kind):
    m = c.mounts[0]
    work(c, rnd, workers, seconds, kind)
    if kind == 'killed':
        c.kill_all()
        for w in workers:
            w.finish()
        c.start(format=False)
        m.mount(PATIENCE)
        with Watch(m):
            for w in workers:
                w.verify()
    c.power_loss(rnd)
    for w in workers:
        w.finish()
    restart(c, rnd, kind)
    m.mount(PATIENCE)
    with Watch(m):
        for w in workers:
            w.verify()
    return [w.again() for w in workers]


def main():
    need_fuse()
    args = argparse.ArgumentParser()
    args.add_argument('--rounds', type=int, default=2)
    args.add_argument('--seed', type=int, default=random.randrange(1 << 32))
    args.add_argument('--time', type=float, default=1.5, help='of work in a round')
    args = args.parse_args()
    print('seed %d' % args.seed, flush=True)
    rnd = random.Random(args.seed)
    begin = time.monotonic()
    with PowerCluster() as c:
        c.start()
        if rnd.random() < 0.5: # a cluster that was formatted is
            c.power_loss(rnd)
            c.start(format=False)
        workers = crew([c.mount().path], rnd.random())
        for i in range(args.rounds):
            kind = KINDS[(i + args.seed) % len(KINDS)]
            workers = one_round(c, rnd, workers, args.time * rnd.choice((0.2, 1, 1)), kind)
            c.healthy()
            c.none_anew()
            r = c.disks.report()
            print('ok: round %d (%s), %d operations, %.1f s; lost so far %d of %d unsynced sectors, %d of %d changes of names' % (
                i, kind, sum(w.done for w in workers), time.monotonic() - begin, r['sectors_lost'], r['sectors'],
                r['names_lost'], r['names']), flush=True)
        c.healthy()
        c.mounts[0].umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
