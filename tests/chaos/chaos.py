#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real cluster, programs that use it, and everything that can go wrong, at random, for as long as asked.

    TERCET_BUILD=build tests/chaos/chaos.py [--time=SECONDS] [--seed=S] [--metas=3] [--stores=3] [--mounts=2]
                                            [--events=kill,flip,...] [--no-net] [--tmpfs=SIZE] [--keep]

Programs: workers with a checked history on all mounts at once (../integration/history.py), cp -a and diff, git, rsync,
sqlite, fio with verify.
Events: nemesis.py, one after another from the seed (the programs' own timing is not repeatable). As root every daemon and
mount has a network of its own, so that links can be cut; with --tmpfs each store has a small disk, which can be full.

It ends with 0 when no program saw an error, no daemon ended by itself, every history was right from every mount, status is
healthy with nothing degraded, and every file reads with any one store stopped. It prints what happened when, and how long things took.
"""
import argparse, contextlib, os, random, shutil, signal, subprocess, sys, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'integration'))
from cluster import Cluster, make_tree, need_fuse, program, wait_until  # noqa: E402
from history import Wrong, crew  # noqa: E402
from nemesis import Nemesis  # noqa: E402
from network import Network  # noqa: E402

BEGIN = time.monotonic()


def say(text):
    print('%7.1f %s' % (time.monotonic() - BEGIN, text), flush=True)


class ChaosCluster(Cluster):
    def __init__(self, args):
        self.net = Network() if os.geteuid() == 0 and not args.no_net else None
        self.tmpfs, self.n_stores, self.keep = args.tmpfs, args.stores, args.keep
        self.n_metas = args.metas
        self.lock = threading.Lock()
        super().__init__(args.metas, args.stores)
        self.crews = []

    def prepare(self):
        for i in range(1, self.n_stores + 1) if self.tmpfs else ():
            path = self.data('storage-%d' % i)
            os.makedirs(path)
            subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=' + self.tmpfs, 'tercet-chaos', path], check=True)

    def endpoint(self, name, port):
        return 'tcp://%s:%d' % (self.net.add(name) if self.net else '127.0.0.1', port)

    def within(self, name):
        return self.net.within(name) if self.net else []

    def lead_status(self):
        """What the leader says of itself; empty while there is none."""
        try:
            all_ = self.status()
            return next(m['status'] for m in all_['members'] if m['id'] == all_['leader'] and 'pgs' in m['status'])
        except (KeyError, ValueError, StopIteration, subprocess.SubprocessError):
            return {}

    def meta_comes(self):
        """One more member runs, which is not of the group yet, under the next number."""
        self.n_metas += 1
        self.new_meta(self.n_metas)
        return 'meta-%d' % self.n_metas

    def meta_leaves(self, name):
        """No longer in the configuration, nor its files."""
        self.daemons.pop(name).kill()
        shutil.rmtree(self.data(name))
        with open(self.conf) as f:
            sections = f.read().split('\n[')
        with open(self.conf, 'w') as f:
            f.write('\n['.join(s for s in sections if not s.startswith('meta.%s]' % name.split('-')[1])))

    def __exit__(self, kind, value, tb):
        if kind:
            with contextlib.suppress(Exception):
                print(self.tercet('status', check=False).stdout)
        if kind and self.keep:
            os.environ['TERCET_KEEP'] = '1'
            print('kept: %s' % self.dir)
        try:
            for m in self.mounts:
                with contextlib.suppress(Exception):
                    m.abort()
            for d in self.daemons.values():
                d.kill()
            for i in range(1, self.n_stores + 1) if self.tmpfs and not (kind and self.keep) else ():
                subprocess.run(['umount', '-l', self.data('storage-%d' % i)])
            return super().__exit__(kind, value, tb)
        finally:
            if self.net:
                self.net.close()

    def wait_whole(self, timeout=180):
        def whole():
            found = [p for p in self.problems() if p.get('severity') != 'info']
            if self.last_problems != found:
                self.last_problems = found
            return not found
        self.last_problems = None
        try:
            wait_until('healthy status', whole, timeout, 0.5)
        except TimeoutError as e:
            raise Wrong('%s: %s' % (e, self.last_problems))

    def until(self, *args, timeout=180):
        """A command that may be refused for the moment, or whose answer may be lost: then the next try says that it is done."""
        begin, again = time.monotonic(), False
        while True:
            p = self.tercet(*args, check=False, timeout=timeout)
            if p.returncode == 0 or again and any(s in p.stdout for s in ('already', 'is one', 'no member', 'no storage node')):
                return
            if time.monotonic() > begin + timeout:
                raise Wrong('tercet %s: %s' % (' '.join(args), p.stdout))
            again = True
            time.sleep(0.5)

    def begin(self, *args):
        return subprocess.Popen([*self.within('tercet'), program('tercet'), '--config=' + self.conf, *args],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def none_ended(self):
        for p in [*self.daemons.values(), *self.mounts]:
            if not p.alive():
                raise Wrong('%s ended by itself with %s' % (p.name, p.proc.returncode))

    def mount_lost(self, m):
        """The mount dies under its programs, and comes again; what was acknowledged is there."""
        m.abort()
        for crew_ in self.crews:
            for i, w in enumerate(crew_):
                if m.path in w.mounts:
                    w.finish(120)
        m.mount(120)
        for crew_ in self.crews:
            for i, w in enumerate(crew_):
                if m.path not in w.mounts:
                    continue
                if isinstance(w.error, Wrong):
                    raise w.error
                try:
                    w.verify()
                except (OSError, Wrong) as e:
                    raise Wrong('%s, after %r: %r' % (w.dirname, w.error, e))
                crew_[i] = w.again()
                crew_[i].start()


class Program(threading.Thread):
    """A shell script again and again in a directory of its own; its first failure is kept."""

    def __init__(self, name, mount, pause, script):
        super().__init__(daemon=True)
        self.label, self.mount, self.pause, self.script = name, mount, pause, script
        self.ending, self.error, self.rounds, self.longest = False, None, 0, 0.0

    def run(self):
        while not self.ending and not self.error:
            begin = time.monotonic()
            # It is bash that goes to the mount: were it the child before its exec (cwd=), a mount that waits would stop this
            # whole process, which holds Python's lock meanwhile and could not mend what the mount waits for.
            p = subprocess.run(['bash', '-ec', 'cd "$1"\n' + self.script, self.label, self.mount], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
            if p.returncode:
                self.error = '%s: exit status %d: %s' % (self.label, p.returncode, p.stdout[-1500:])
            self.rounds += 1
            self.longest = max(self.longest, time.monotonic() - begin)
            time.sleep(self.pause)

    def check(self):
        if self.error:
            raise Wrong(self.error)


def programs(c, mount, pause):
    tree = make_tree(c.dir + '/source', files=120)
    count = c.dir + '/rows'
    yield Program('copy', mount, pause, 'rm -rf copy; cp -a %s copy; diff -r --no-dereference %s copy' % (tree, tree))
    yield Program('git', mount, pause, """
        export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
        rm -rf repo clone; git init -q repo; cd repo; git config user.email a@b; git config user.name n
        for i in 1 2 3; do cp -a %s/dir000 d$i; git add -A; git commit -q -m $i; done
        git fsck --full --strict; cd ..; git clone -q repo clone; cd clone; git fsck --full; git status --porcelain | wc -l | grep -qx 0""" % tree)
    if shutil.which('fio'):
        yield Program('fio', mount, pause, r"""
            rm -f fio.dat; fio --name=verify --filename=fio.dat --size=8M --rw=randwrite --bs=4k --ioengine=psync --fsync=16 --fallocate=none \
            --verify=crc32c --do_verify=1 --verify_fatal=1 --output-format=terse""")
    if shutil.which('rsync'):
        yield Program('rsync', mount, pause, """
            rsync -a --delete %s/ rsync/; test -z "$(rsync -acni --delete %s/ rsync/)"
            rsync -a --delete %s/dir000/ rsync/; test -z "$(rsync -acni --delete %s/dir000/ rsync/)" """ % (tree, tree, tree, tree))
    if shutil.which('sqlite3'):     # the number of rows is kept elsewhere: none that was committed may be missing
        yield Program('sqlite', mount, pause, """
            n=$(cat %s 2>/dev/null || echo 0)
            test $n != 0 || sqlite3 data.db 'create table t (i integer primary key, x blob)'
            for i in 1 2 3; do
                sqlite3 data.db 'begin; insert into t(x) select randomblob(200 + abs(random()) %% 3000) from t limit 20;
                    insert into t(x) values (randomblob(5000)); update t set x = randomblob(100) where i %% 17 = abs(random()) %% 17; commit'
            done
            test "$(sqlite3 data.db 'pragma integrity_check')" = ok
            m=$(sqlite3 data.db 'select count(*) from t'); test $m -gt $n
            if [ $m -gt 5000 ]; then rm data.db; m=0; fi
            echo $m > %s""" % (count, count))


def check(c, running):
    c.none_ended()
    for p in running:
        p.check()
    for crew_ in c.crews:
        for w in crew_:
            if w.error:
                raise Wrong('%s: %r: %s' % (w.dirname, w.error, w.trace))


def storm(c, nemesis, running, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(nemesis.rnd.choice((0.2, 1, 2, 4)))
        check(c, running)
        name, event = nemesis.next()
        for pause in event:
            time.sleep(pause)
        if nemesis.rnd.random() < 0.3:
            begin = time.monotonic()
            c.wait_whole()
            nemesis.took('healthy again', time.monotonic() - begin)


def read_all(path):
    n = 0
    for d, _, names in os.walk(path, onerror=lambda e: (_ for _ in ()).throw(e)):
        for name in names:
            full = os.path.join(d, name)
            if not os.path.islink(full):
                with open(full, 'rb') as f:
                    while f.read(1 << 20):
                        pass
                n += 1
    return n


def fresh_mount(c, number):
    m = c.mount('check%d' % number)
    n = read_all(m.path)
    for crew_ in c.crews:
        for w in crew_:
            mounts, w.mounts = w.mounts, [m.path]
            w.verify()
            w.mounts = mounts
    m.umount()
    c.mounts.remove(m)
    return n


def all_groups(status):
    return status['pgs']['healthy'] == status['pgs']['total'] > 0 and status['placement']['idle']


def repair(c, nemesis):
    """Flipped bits cost their store the block's vote. With another store stopped there would be one left, and nobody to say whether
    it is the newest."""
    if nemesis.flipped and c.tercet('scrub', check=False, timeout=300).returncode:
        for pause in nemesis.empty(nemesis.flipped):
            time.sleep(pause)


def the_end(c, nemesis, running):
    for p in running:
        p.ending = True
    for crew_ in c.crews:
        for w in crew_:
            w.finish(180)
    for p in running:
        p.join(240)
        if p.is_alive():
            raise Wrong('%s hangs' % p.label)
    check(c, running)
    begin = time.monotonic()
    repair(c, nemesis)
    c.wait_whole()
    wait_until('all groups healthy', lambda: all_groups(c.lead_status()), 180)
    say('nothing degraded after %.1f s: %s' % (time.monotonic() - begin, c.lead_status()['pgs']))
    for m in c.mounts:
        for crew_ in c.crews:
            for w in crew_:
                mounts, w.mounts = w.mounts, [m.path]
                w.verify()
                w.mounts = mounts
    for m in list(c.mounts):
        m.umount()
        c.mounts.remove(m)
    for i in range(1, c.n_stores + 1):
        store = c.daemons['storage-%d' % i]
        store.stop()
        n = fresh_mount(c, i)
        store.start()
        c.wait_whole()
        say('ok: %d files read without storage-%d' % (n, i))


def options(doc, mounts, between):
    """What all storms can be told."""
    p = argparse.ArgumentParser(description=doc.split('\n')[0])
    p.add_argument('--time', type=float, default=120)
    p.add_argument('--seed', type=int, default=random.randrange(1 << 32))
    p.add_argument('--metas', type=int, default=3)
    p.add_argument('--stores', type=int, default=3)
    p.add_argument('--mounts', type=int, default=mounts)
    p.add_argument('--events', type=lambda s: s.split(','), help='only these (nemesis.py)')
    p.add_argument('--pause', type=float, default=0.1, help='between ' + between)
    p.add_argument('--keep', action='store_true', help='keep the directory of a run that failed')
    return p


def begin(args):
    print('seed %d' % args.seed, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended by SIGTERM'))


def run(main):
    try:
        sys.exit(main())
    except Wrong as e:
        say('WRONG: %s' % e)
        sys.exit(1)


def main():
    p = options(__doc__, 2, 'operations of a worker, at most')
    p.add_argument('--no-net', action='store_true', help='no network namespaces')
    p.add_argument('--tmpfs', help='size of each store\'s disk, which events may fill')
    args = p.parse_args()
    need_fuse()
    begin(args)
    with ChaosCluster(args) as c:
        c.start()
        mounts = [c.mount('mnt%d' % i).path for i in range(args.mounts)]
        c.wait_whole()
        c.crews = [crew(mounts, args.seed, args.pause, 'all'), crew(mounts[:1], args.seed + 1, args.pause, 'one')]
        running = list(programs(c, mounts[0], 10 * args.pause))
        for t in [w for crew_ in c.crews for w in crew_] + running:
            t.start()
        nemesis = Nemesis(c, args.seed, say, args.events)
        storm(c, nemesis, running, args.time)
        nemesis.summary()
        the_end(c, nemesis, running)
        for t in [w for crew_ in c.crews for w in crew_]:
            say('%s: %d operations, longest %.2f s' % (t.dirname, t.done, t.longest))
        for t in running:
            say('%s: %d rounds, longest %.1f s' % (t.label, t.rounds, t.longest))
    say('all right')
    return 0


if __name__ == '__main__':
    run(main)
