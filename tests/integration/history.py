# SPDX-License-Identifier: Apache-2.0
"""Workers on one or several mounts that know what they must find again.

Each worker owns a directory and keeps what was acknowledged, and what the one operation under way would make of it.
An operation goes through any of the mounts, so that what one did is checked through another. A worker that meets an
error ends and keeps it; verify() then accepts the state before or after that operation, and nothing else:

- Files: made, written, fsynced; whole ever after; some are overwritten by rename or removed.
- Appends: records at the end of a file, fsync or O_DSYNC after each: never shorter, never another byte.
- Blocks: 4 KiB blocks with number, version and checksum written in runs of any length, then fsync: each block is whole, and of
  the version synced last or a later one.
- Names: create, rename, link, unlink, mkdir, rmdir in a small tree against a model of it.
"""
import hashlib, os, random, shutil, struct, threading, time, traceback

BLOCK = 4096


class Wrong(AssertionError):
    """The filesystem does not hold what it acknowledged."""


def pattern(seed, off, n):
    """Bytes [off, off + n) of an endless file that @seed names."""
    first, last = off // 32, (off + n + 31) // 32
    text = b''.join(hashlib.sha256(b'%d:%d' % (seed, i)).digest() for i in range(first, last))
    return text[off - first * 32:off - first * 32 + n]


def first_difference(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


class Steps(threading.Thread):
    """Does step() until it is to finish or one fails; pauses between them, of @pause at most."""

    def __init__(self, name, seed, pause):
        super().__init__(daemon=True)
        self.dirname, self.rnd, self.pause = name, random.Random(seed), pause
        self.ending, self.error, self.trace, self.done, self.longest = threading.Event(), None, '', 0, 0.0

    def begin(self):
        pass

    def run(self):
        try:
            self.begin()
            while not self.ending.wait(self.pause * self.rnd.random()):
                begin = time.monotonic()
                self.step()
                self.done += 1
                self.longest = max(self.longest, time.monotonic() - begin)
        except Exception as e:
            self.error, self.trace = e, traceback.format_exc()

    def finish(self, timeout=60):
        self.ending.set()
        self.join(timeout)
        if self.is_alive():
            raise Wrong('%s hangs' % self.dirname)


class Worker(Steps):
    def __init__(self, mounts, name, seed, pause=0.0):
        super().__init__(name, seed, pause)
        self.mounts, self.made = mounts, False

    def path(self, name='', mount=None):
        return os.path.join(mount or self.rnd.choice(self.mounts), self.dirname, name)

    def two(self, fn, old, new):
        mount = self.rnd.choice(self.mounts)
        fn(self.path(old, mount), self.path(new, mount))

    def begin(self):
        if not self.made:
            os.makedirs(self.path(), exist_ok=True)
            self.made = True

    def again(self):
        """A worker that goes on from the state of this one, which has ended and was verified."""
        w = self.__class__.__new__(self.__class__)
        w.__dict__.update({k: v for k, v in self.__dict__.items() if k in self.KEPT})
        Worker.__init__(w, self.mounts, self.dirname, self.rnd.random(), self.pause)
        w.made, w.done, w.longest = self.made, self.done, self.longest
        return w


class Files(Worker):
    KEPT = ('sure', 'doubt', 'number')

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.sure, self.doubt, self.number = {}, {}, 0

    def step(self):
        name = 'f%d' % self.number
        self.number += 1
        body = self.rnd.randbytes(self.rnd.choice((1, 500, 4096, 9000, 70000, 300000, (1 << 20) + 5000)))
        target = name
        if self.sure and self.rnd.random() < 0.3:
            target = self.rnd.choice(list(self.sure))
        whole = self.rnd.random() < 0.8
        if not whole:
            target = name
        self.doubt = {name: {None, body}, target: {self.sure.get(target), body}}
        with open(self.path(name), 'wb', buffering=0) as f:
            for off in range(0, len(body), 100000):
                f.write(body[off:off + 100000])
            if whole:
                os.fsync(f.fileno())
        if not whole: # synced through another descriptor, of another mount perhaps
            fd = os.open(self.path(name), os.O_RDONLY)
            try:
                got = os.pread(fd, len(body) + 1, 0)
                if got != body:
                    raise Wrong('%s/%s: written, closed, opened: differs at %d of %d (%d)' % (
                        self.dirname, name, first_difference(got, body), len(body), len(got)))
            finally:
                os.close(fd)
            fd = os.open(self.path(name, self.mounts[0]), os.O_RDWR)
            try:
                if len(self.mounts) == 1:
                    os.fsync(fd)
            finally:
                os.close(fd)
        if target != name:
            self.two(os.rename, name, target)
        if whole or len(self.mounts) == 1:
            self.sure[target] = body
        else:
            os.unlink(self.path(target))
            self.sure.pop(target, None)
        self.doubt = {}
        if len(self.sure) > 40:
            victim = self.rnd.choice(list(self.sure))
            self.doubt = {victim: {None, self.sure[victim]}}
            os.unlink(self.path(victim))
            del self.sure[victim]
            self.doubt = {}

    def verify(self):
        mount = self.rnd.choice(self.mounts)
        if not self.made:
            return
        there = set(os.listdir(self.path('', mount)))
        for name in sorted(set(self.sure) | set(self.doubt) | there):
            body = None
            if name in there:
                with open(self.path(name, mount), 'rb') as f:
                    body = f.read()
            if name in self.doubt:
                # A file being written may have any part of its bytes; one with a name that had others has all or the others.
                if body is not None and name not in self.sure or body in self.doubt[name]:
                    if body is not None:
                        os.unlink(self.path(name, mount))
                    self.sure.pop(name, None)
                    continue
            if body != self.sure.get(name):
                want = self.sure.get(name)
                raise Wrong('%s/%s: %s, acknowledged were %s, first difference at %s' % (
                    self.dirname, name, body is not None and len(body), want is not None and len(want),
                    first_difference(body or b'', want or b'')))
        self.doubt = {}


class Appends(Worker):
    KEPT = ('files',)

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.files = [{'seed': i, 'sure': 0, 'tried': 0, 'dsync': i % 2} for i in range(3)]

    def step(self):
        f = self.rnd.choice(self.files)
        n = self.rnd.choice((1, 77, 4096, 5000, 20000))
        f['tried'] = f['sure'] + n
        fd = os.open(self.path('a%d' % f['seed']), os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_DSYNC if f['dsync'] else 0))
        try:
            if os.write(fd, pattern(f['seed'], f['sure'], n)) != n:
                raise Wrong('%s: short write' % self.dirname)
            if not f['dsync']:
                os.fsync(fd)
        finally:
            os.close(fd)
        f['sure'] = f['tried']

    def verify(self):
        mount = self.rnd.choice(self.mounts)
        for f in self.files:
            path = self.path('a%d' % f['seed'], mount)
            got = b''
            if os.path.exists(path):
                with open(path, 'rb') as fd:
                    got = fd.read()
            want = pattern(f['seed'], 0, max(f['tried'], 1))
            if len(got) < f['sure'] or len(got) > f['tried'] or got[:f['sure']] != want[:f['sure']]:
                raise Wrong('%s/a%d: %d bytes, %d acknowledged, first difference at %d' % (
                    self.dirname, f['seed'], len(got), f['sure'], first_difference(got, want[:f['sure']])))
            for at in range(f['sure'], len(got)):
                if got[at] != want[at] and got[at]:
                    raise Wrong('%s/a%d: byte %d was never written' % (self.dirname, f['seed'], at))
            if got != want[:len(got)]: # a beginning of what was under way, with holes: from here on as seen
                os.truncate(path, f['sure'])
                with open(path, 'rb+') as fd:
                    os.fsync(fd.fileno())
                got = got[:f['sure']]
            f['sure'] = f['tried'] = len(got)


class Blocks(Worker):
    KEPT = ('sure', 'tried', 'blocks')

    def __init__(self, *args, blocks=1024, **kw):
        super().__init__(*args, **kw)
        self.blocks, self.sure, self.tried = blocks, {}, {}

    def block(self, i, version):
        head = struct.pack('<QQQ', 0x746572636574, i, version)
        body = hashlib.sha256(head).digest() * 128
        return head + body[:BLOCK - len(head)]

    def step(self):
        with open(self.path('blocks'), 'rb+' if self.sure else 'wb', buffering=0) as f:
            if not self.sure:
                self.tried = {i: 0 for i in range(self.blocks)}
                f.truncate(self.blocks * BLOCK)
                os.fsync(f.fileno())
                self.sure = dict(self.tried)
            for _ in range(self.rnd.randrange(1, 12)):
                run = self.rnd.choice((1, 1, 1, 2, 5, 20, 256))
                at = self.rnd.randrange(max(1, self.blocks - run))
                run = min(run, self.blocks - at)
                for i in range(at, at + run):
                    self.tried[i] += 1
                os.pwrite(f.fileno(), b''.join(self.block(i, self.tried[i]) for i in range(at, at + run)), at * BLOCK)
            os.fsync(f.fileno())
            self.sure = dict(self.tried)
        if self.rnd.random() < 0.2:
            i = self.rnd.randrange(self.blocks)
            with open(self.path('blocks'), 'rb', buffering=0) as f:
                self.check(i, os.pread(f.fileno(), BLOCK, i * BLOCK))

    def check(self, i, data):
        magic, number, version = struct.unpack('<QQQ', data[:24])
        if not any(data):
            number, version = i, 0
        elif magic != 0x746572636574 or data != self.block(number, version):
            raise Wrong('%s: block %d is torn' % (self.dirname, i))
        if number != i or not self.sure[i] <= version <= self.tried[i]:
            raise Wrong('%s: block %d is block %d of version %d, acknowledged %d, tried %d' % (
                self.dirname, i, number, version, self.sure[i], self.tried[i]))
        return version

    def verify(self):
        if not self.sure:
            return
        with open(self.path('blocks'), 'rb') as f:
            data = f.read()
        if len(data) != self.blocks * BLOCK:
            raise Wrong('%s: %d bytes' % (self.dirname, len(data)))
        for i in range(self.blocks):
            self.sure[i] = self.tried[i] = self.check(i, data[i * BLOCK:(i + 1) * BLOCK])


class Names(Worker):
    """The model: name -> (kind, object); an object of kind 'f' has content."""
    KEPT = ('model', 'content', 'next', 'next_content', 'number')

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.model, self.content, self.next, self.next_content, self.number = {}, {}, None, None, 0

    def some_dir(self):
        return self.rnd.choice([''] + [n + '/' for n, (kind, _) in self.model.items() if kind == 'd' and n.count('/') < 3])

    def some(self, kind):
        return self.rnd.choice([n for n, (k, _) in self.model.items() if k == kind] or [None])

    def step(self):
        self.next, self.next_content = dict(self.model), dict(self.content)
        what = self.rnd.choice(('create', 'create', 'write', 'rename', 'rename', 'link', 'unlink', 'unlink', 'mkdir', 'rmdir', 'move'))
        self.number += 1
        new = self.some_dir() + 'n%d' % self.number
        old = self.some('d' if what in ('rmdir', 'move') else 'f')
        if what == 'create' or what == 'mkdir':
            self.next[new] = ('d' if what == 'mkdir' else 'f', self.number)
            if what == 'mkdir':
                os.mkdir(self.path(new))
            else:
                self.next_content[self.number] = b''
                os.close(os.open(self.path(new), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        elif old is None:
            return
        else:
            self.change(what, old, new)
        self.model, self.content = self.next, self.next_content

    def change(self, what, old, new):
        kind, obj = self.model[old]
        if what == 'write':
            self.next_content[obj] = self.rnd.randbytes(self.rnd.randrange(1, 3000))
            fd = os.open(self.path(old), os.O_WRONLY)
            try:
                os.ftruncate(fd, 0)
                os.write(fd, self.next_content[obj])
                os.fsync(fd)
            finally:
                os.close(fd)
        elif what == 'rename':
            if self.rnd.random() < 0.4:
                new = self.some('f')
            if self.model.get(new) == self.model[old]:
                return
            del self.next[old]
            self.next[new] = (kind, obj)
            self.two(os.rename, old, new)
        elif what == 'link':
            self.next[new] = (kind, obj)
            self.two(os.link, old, new)
        elif what == 'unlink':
            del self.next[old]
            os.unlink(self.path(old))
        elif what == 'rmdir':
            if any(n.startswith(old + '/') for n in self.model):
                try:
                    os.rmdir(self.path(old))
                except OSError as e:
                    if e.strerror != 'Directory not empty':
                        raise
                    return
                raise Wrong('%s: rmdir of %s, which is not empty' % (self.dirname, old))
            del self.next[old]
            os.rmdir(self.path(old))
        elif what == 'move':
            # To another parent only on one mount: of others the kernel may say ESTALE (docs/FUSE.md).
            new = os.path.join('' if len(self.mounts) == 1 else os.path.dirname(old), 'm%d' % self.number)
            self.next = {new + n[len(old):] if n == old or n.startswith(old + '/') else n: v for n, v in self.next.items()}
            self.two(os.rename, old, new)

    def look(self):
        mount = self.rnd.choice(self.mounts)
        top = self.path('', mount).rstrip('/')
        found, content, count = {}, {}, {}
        for d, dirs, files in os.walk(top, onerror=lambda e: (_ for _ in ()).throw(e)):
            for n in dirs + files:
                path = os.path.join(d, n)
                st = os.lstat(path)
                found[path[len(top) + 1:]] = ('d' if n in dirs else 'f', st.st_ino)
                if n in files:
                    count.setdefault(st.st_ino, set()).add(st.st_nlink)
                    with open(path, 'rb') as f:
                        content[st.st_ino] = f.read()
        for ino, links in count.items():
            names = sum(1 for k in found.values() if k == ('f', ino))
            if links != {names}:
                raise Wrong('%s: %d names, link counts %s' % (self.dirname, names, links))
        return found, content

    @staticmethod
    def difference(found, content, model, model_content, loose=None):
        if set(found) != set(model):
            return 'missing %s, too many %s' % (sorted(set(model) - set(found)), sorted(set(found) - set(model)))
        obj_of = {}
        for n, (kind, ino) in found.items():
            want_kind, obj = model[n]
            if kind != want_kind or obj_of.setdefault(ino, obj) != obj:
                return '%s is another' % n
            if kind == 'f' and content[ino] != model_content[obj] and obj != loose:
                return '%s has %d bytes, acknowledged %d' % (n, len(content[ino]), len(model_content[obj]))
        if len(set(obj_of.values())) != len(obj_of):
            return 'two inodes for one'
        return None

    def verify(self):
        if not self.made:
            return
        found, content = self.look()
        why = self.difference(found, content, self.model, self.content)
        if why and self.next is not None:
            loose = next((o for o in self.next_content if self.content.get(o) not in (None, self.next_content[o])), None)
            if not self.difference(found, content, self.next, self.next_content, loose):
                why = None
        if why:
            raise Wrong('%s: %s' % (self.dirname, why))
        # From here on: as found.
        self.model = dict(found)
        self.content = {ino: body for ino, body in content.items()}
        self.number = max([self.number, *(ino for _, ino in found.values())]) + 1
        self.next = None


def crew(mounts, seed, pause=0.0, prefix='w'):
    rnd = random.Random(seed)
    kinds = (Files, Appends, Blocks, Names, Names)
    return [kind(mounts, '%s-%s%d' % (prefix, kind.__name__.lower(), i), rnd.random(), pause) for i, kind in enumerate(kinds)]


def remove(worker):
    shutil.rmtree(worker.path('', worker.mounts[0]))
