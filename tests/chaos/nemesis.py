# SPDX-License-Identifier: Apache-2.0
"""What happens to the cluster: one event after another, each undone before the next.

An event is a generator: it does its harm, says how long to let it last (yield seconds), and undoes it. Harm never exceeds what
the cluster promises to survive: a minority of the members and one store at a time for any length, all for a
moment. Events that destroy copies (an emptied disk, flipped bits) wait until the cluster is whole, and bits are flipped on
one store only, until it was emptied.
"""
import glob, json, os, random, shutil, signal, statistics, time
from cluster import wait_until
from history import Wrong


class Nemesis:
    def __init__(self, cluster, seed, log, only=None, never=(), more=None):
        self.c, self.rnd, self.log = cluster, random.Random(seed), log
        self.flipped = None # the store with bits flipped
        self.events = {'kill': 4, 'stop': 3, 'freeze': 3, 'both': 2, 'all': 1, 'leader': 2, 'empty_store': 1, 'empty_meta': 1,
                       'flip': 2, 'rot': 1, 'mount': 1, 'transfer': 2, 'swap_meta': 1, 'maintenance': 1}
        if cluster.n_stores > 3:
            self.events.update(drain=2, long=1)
        if cluster.net:
            self.events.update(unplug=3, deafen=2, unplug_mount=1)
        if cluster.tmpfs:
            self.events.update(fill=2)
        self.events.update(more or {})
        self.events = {k: v for k, v in self.events.items() if k not in never}
        if only:
            self.events = {k: v for k, v in self.events.items() if k in only}
        self.counts, self.times = {}, {}

    def next(self):
        name = self.rnd.choices(list(self.events), list(self.events.values()))[0]
        self.count(name)
        return name, getattr(self, name)()

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def took(self, what, seconds):
        self.times.setdefault(what, []).append(seconds)
        self.log('%s after %.1f s' % (what, seconds))

    def summary(self):
        self.log('events: %s' % ' '.join('%s=%d' % kv for kv in sorted(self.counts.items())))
        for what, all_ in sorted(self.times.items()):
            self.log('%s: %d times, median %.1f s, longest %.1f s' % (what, len(all_), statistics.median(all_), max(all_)))

    def metas(self):
        return sorted(n for n in self.c.daemons if n.startswith('meta-'))

    def stores(self):
        return sorted(n for n in self.c.daemons if n.startswith('storage-'))

    def anyone(self):
        return self.rnd.choice(self.metas() + self.stores())

    def seconds(self):
        return self.rnd.choice((0.1, 1, 3, 6, 12))

    def lasting(self, names, seconds, whole=False):
        """The harm to @names lasts. Where one store is away and there are spares: when is it noticed, when has all its copies again?"""
        begin = time.monotonic()
        stores = [n for n in names if n.startswith('storage-')]
        if len(stores) != 1 or self.c.n_stores <= 3 or seconds < 3:
            yield seconds
            return
        seen = False
        while time.monotonic() - begin < seconds:
            yield 0.1
            status = self.c.lead_status()
            if not seen and self.store(stores[0]).get('state') == 'down':
                self.took('a store was noticed to be away', time.monotonic() - begin)
                seen = True
            elif seen and status and status['pgs']['healthy'] == status['pgs']['total'] and status['placement']['idle']:
                self.took('full redundancy without it', time.monotonic() - begin)
                yield max(0, 0 if whole else seconds - (time.monotonic() - begin))
                return
        if whole:
            raise Wrong('no full redundancy within %d s: %s' % (seconds, json.dumps(status)))

    # ---- processes ----

    def kill(self, *names):
        names = names or (self.anyone(),)
        self.log('kill -9 %s' % ' '.join(names))
        for n in names:
            self.c.daemons[n].kill()
        yield from self.lasting(names, self.seconds())
        for n in names:
            self.c.daemons[n].start()

    def both(self):
        return self.kill(self.rnd.choice(self.metas()), self.rnd.choice(self.stores()))

    def leader(self):
        return self.kill(self.c.leader(60))

    def all(self):
        self.log('kill -9 all servers')
        for d in self.c.daemons.values():
            d.kill()
        yield 0.5
        for d in self.c.daemons.values():
            d.start()

    def stop(self):
        name = self.anyone()
        self.log('SIGTERM %s' % name)
        self.c.daemons[name].stop()
        yield from self.lasting([name], self.seconds())
        self.c.daemons[name].start()

    def freeze_leader(self):
        return self.freeze(self.c.leader(60))

    def unplug_leader(self):
        return self.unplug(self.c.leader(60))

    def freeze(self, name=None):
        name = name or self.anyone()
        self.log('SIGSTOP %s' % name)
        self.c.daemons[name].signal(signal.SIGSTOP)
        yield from self.lasting([name], self.seconds())
        self.c.daemons[name].signal(signal.SIGCONT)

    def freeze_mount(self):
        m = self.rnd.choice(self.c.mounts)
        self.log('SIGSTOP mount %s' % os.path.basename(m.path))
        m.signal(signal.SIGSTOP)
        yield self.rnd.choice((0.5, 2, 4)) # longer than 10 s may end its session: an error that is right
        m.signal(signal.SIGCONT)

    def mount(self):
        m = self.rnd.choice(self.c.mounts[1:] or self.c.mounts)
        self.log('kill -9 mount %s' % os.path.basename(m.path))
        self.c.mount_lost(m)
        yield 0.5

    def maintenance(self):
        name = self.rnd.choice(self.stores())
        self.log('maintenance of %s' % name)
        self.c.until('node', 'maintenance', name.split('-')[1], 'on')
        self.c.daemons[name].stop()
        yield self.seconds()
        self.c.daemons[name].start()
        self.c.until('node', 'maintenance', name.split('-')[1], 'off')

    def long(self):
        """Dead for as long as it takes until its copies are on others."""
        self.c.wait_whole()
        name = self.rnd.choice(self.stores())
        self.log('kill -9 %s for long' % name)
        self.c.daemons[name].kill()
        yield from self.lasting([name], 180, whole=True)
        self.c.daemons[name].start()

    # ---- membership ----

    def transfer(self):
        self.log('the lead is handed over')
        self.c.tercet('meta', 'transfer', check=False)
        yield 0.1

    def clear(self, name):
        for n in os.listdir(self.c.data(name)):
            path = os.path.join(self.c.data(name), n)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def swap_meta(self):
        """A member is removed and comes again, empty."""
        self.c.wait_whole()
        name = self.rnd.choice(self.metas())
        number = name.split('-')[1]
        self.log('%s is removed from the group' % name)
        self.c.until('meta', 'remove', number)
        self.c.daemons[name].kill()
        yield self.rnd.choice((0.1, 3))
        self.clear(name)
        self.c.daemons[name].start()
        self.c.until('meta', 'add', number)
        self.log('%s is added' % name)
        self.c.until('meta', 'promote', number)
        self.log('%s votes' % name)

    def leave(self, name):
        self.c.until('meta', 'remove', name.split('-')[1])
        self.log('%s is removed' % name)
        self.c.meta_leaves(name)

    def join(self):
        name = self.c.meta_comes()
        number = name.split('-')[1]
        self.log('%s is added' % name)
        self.c.until('meta', 'add', number)
        self.c.until('meta', 'promote', number)
        self.log('%s votes' % name)

    def replace_meta(self):
        """A member goes for good, dead or alive, and one under another number and address comes."""
        self.c.wait_whole()
        name = self.rnd.choice(self.metas())
        begin = time.monotonic()
        if self.rnd.random() < 0.5:
            self.log('kill -9 %s for good' % name)
            self.c.daemons[name].kill()
            yield self.rnd.choice((0, 1, 3))
            self.leave(name)
            self.join()
        else:
            self.join()
            yield self.rnd.choice((0, 1))
            self.leave(name)
        self.took('a member replaced', time.monotonic() - begin)

    def grow_meta(self):
        """Three members become five; then two of the five go."""
        self.c.wait_whole()
        self.join()
        self.join()
        self.log('kill -9 two of five')
        two = self.rnd.sample(self.metas(), 2)
        for n in two:
            self.c.daemons[n].kill()
        yield self.rnd.choice((1, 4))
        for n in two:
            self.c.daemons[n].start()
        self.c.wait_whole()
        for n in self.rnd.sample(self.metas(), 2):
            self.leave(n)

    def drain(self):
        """A node is drained, and removed and added empty; or told to stay in the middle."""
        self.c.wait_whole()
        name = self.rnd.choice(self.stores())
        number = name.split('-')[1]
        self.log('%s is drained' % name)
        if self.rnd.random() < 0.4:
            drain = self.c.begin('node', 'drain', number)
            yield self.rnd.choice((0.2, 1, 3))
            self.log('... no, it stays')
            self.c.until('node', 'drain', '--cancel', number)
            drain.kill()
            drain.wait()
            self.count('drain-cancelled')
            return
        begin = time.monotonic()
        self.c.until('node', 'drain', number)
        self.took('drained', time.monotonic() - begin)
        self.c.until('node', 'remove', number)
        self.c.daemons[name].kill()
        self.log('%s is removed' % name)
        self.clear(name)
        if name == self.flipped:
            self.flipped = None
        yield 0.5
        self.c.daemons[name].start()
        self.count('node-removed')
        begin = time.monotonic()
        self.c.until('node', 'add', number) # waits until it has its share
        self.took('a node added and filled', time.monotonic() - begin)
        self.count('node-added')

    # ---- network ----

    def unplug(self, name=None):
        name = name or self.anyone()
        self.log('unplug %s' % name)
        self.c.net.unplug(name)
        yield from self.lasting([name], self.seconds())
        self.c.net.plug(name)

    def unplug_mount(self):
        name = os.path.basename(self.rnd.choice(self.c.mounts).path)
        self.log('unplug mount %s' % name)
        self.c.net.unplug(name)
        yield self.rnd.choice((0.5, 2, 4)) # longer than 10 s may end its session: an error that is right
        self.c.net.plug(name)

    def deafen(self):
        a = self.anyone()
        b = self.rnd.choice([n for n in self.metas() + self.stores() if n != a])
        self.log('what %s sends to %s is lost' % (a, b))
        self.c.net.deafen(a, b)
        yield self.seconds()
        self.c.net.undeafen(a, b)

    # ---- disks ----

    def empty(self, name):
        self.c.wait_whole()
        self.log('the disk of %s is empty' % name)
        self.c.daemons[name].kill()
        self.clear(name)
        if name == self.flipped:
            self.flipped = None
        self.c.daemons[name].start()
        yield 1

    def empty_store(self):
        return self.empty(self.flipped or self.rnd.choice(self.stores()))

    def empty_meta(self):
        return self.empty(self.rnd.choice(self.metas()))

    def flip(self):
        """Some bits of chunk files on one store turn."""
        self.c.wait_whole()
        self.flipped = self.flipped or self.rnd.choice(self.stores())
        top = os.path.join(self.c.data(self.flipped), 'data')
        files = sorted(os.path.join(d, n) for d, _, names in os.walk(top) for n in names)
        turned = 0
        for path in self.rnd.sample(files, min(len(files), 5)):
            size = os.path.getsize(path)
            if size == 0:
                continue
            with open(path, 'rb+') as f:
                at = self.rnd.randrange(size)
                f.seek(at)
                byte = f.read(1)[0] ^ (1 << self.rnd.randrange(8))
                f.seek(at)
                f.write(bytes([byte]))
                turned += 1
        self.log('%d bits flipped on %s' % (turned, self.flipped))
        yield 0.5

    def store(self, name):
        """What the leader says of it; empty while there is none."""
        number = int(name.split('-')[1])
        return next((s for s in self.c.lead_status().get('stores', ()) if s['node'] == number and s['state'] != 'replaced'), {})

    def rot(self):
        """Index or journal of one store is damaged while it is down. It puts its files aside and is filled again; somebody removes them."""
        self.c.wait_whole()
        name = self.flipped or self.rnd.choice(self.stores())
        top = self.c.data(name)
        self.c.daemons[name].stop()
        tables = glob.glob(top + '/kv/*.sst') or glob.glob(top + '/kv/MANIFEST*')
        segment = sorted(glob.glob(top + '/journal/*.seg'))[0]
        with open(segment, 'rb') as f:
            used = len(f.read().rstrip(b'\0'))
        what = self.rnd.choice(('journal', 'index')) if used > 30000 else 'index'
        for path in [segment] if what == 'journal' else tables:
            with open(path, 'rb+') as f:
                size = os.path.getsize(path)
                for at in [8192] if what == 'journal' else [self.rnd.randrange(size) for _ in range(20)]:
                    f.seek(at)
                    old = f.read(64 if what == 'journal' else 1)
                    f.seek(at)
                    f.write(bytes(x ^ 0x55 for x in old))
        self.log('the %s of %s is damaged' % (what, name))
        if name == self.flipped:
            self.flipped = None
        wait_until('notice', lambda: self.store(name).get('state', 'up') != 'up', 60, 0.2)
        begin = time.monotonic()
        self.c.daemons[name].start()
        wait_until('files put aside', lambda: self.store(name)['state'] == 'up' and self.store(name)['scrub']['aside'], 60, 0.2)
        self.c.wait_whole()
        self.took('a damaged store filled again', time.monotonic() - begin)
        for d in glob.glob(top + '/damaged-*'):
            shutil.rmtree(d)
        yield 0.5

    def fill(self):
        """The disk of one store is full to the last byte."""
        name = self.rnd.choice(self.stores())
        self.log('the disk of %s is full' % name)
        path = os.path.join(self.c.data(name), 'fill')
        try:
            with open(path, 'wb', buffering=0) as f:
                while f.write(b'f' * (1 << 20)):
                    pass
        except OSError:
            pass
        yield self.rnd.choice((1, 5))
        os.unlink(path)
