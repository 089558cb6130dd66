# SPDX-License-Identifier: Apache-2.0
"""Programs on several mounts that contend for the same few names, and a checker that finds whether one order explains what they saw.

A group is two directories and a few names. Contenders create, link, rename, remove, chmod, stat and list them through their mounts all
at once, and note when each call began and with what it ended. The check (just-in-time linearization, after Lowe) follows every state
that the calls so far allow. A call by path takes effect in one moment between its beginning and its end, or in two where the
VFS walks to an inode first and acts upon it then (link, chmod, stat): its steps below. No call may end with any other error.
"""
import errno, os, random, threading, time
from history import Steps, Wrong

FILES = ('x/f0', 'x/f1', 'x/f2', 'y/f0', 'y/f1')
DIRS = ('x/d0', 'x/d1')
NAMES = FILES + DIRS
SLOT = {n: i for i, n in enumerate(NAMES)}
DONE = 'done'
EMPTY = ((0,) * len(NAMES), frozenset())    # the inode under each name (a directory: number of its mkdir); (inode, mode) of files


def put(state, name, ino):
    slots, modes = list(state[0]), state[1]
    slots[SLOT[name]] = ino
    return tuple(slots), frozenset(m for m in modes if m[0] in slots)


def at(state, name):
    return state[0][SLOT[name]]


def chmod(state, ino, mode):
    return state[0], frozenset([m for m in state[1] if m[0] != ino] + [(ino, mode)])


class Op:
    def __init__(self, number, who, kind, *args):
        self.number, self.who, self.kind, self.args, self.result = number, who, kind, args, None

    def __str__(self):
        return '#%d %s: %s(%s) = %s' % (self.number, self.who, self.kind, ', '.join(map(str, self.args)), self.result)

    # Each yields what one step makes of (state, progress) if the call ended with self.result.

    def steps(self, state, progress):
        return getattr(self, 'step_' + self.kind)(state, progress, self.result, *self.args)

    def step_create(self, s, progress, r, name):
        if at(s, name):
            if r == 'EEXIST':
                yield s, DONE
        elif isinstance(r, int):
            yield chmod(put(s, name, r), r, 0o644), DONE

    def step_mkdir(self, s, progress, r, name):
        if bool(at(s, name)) == (r == 'EEXIST'):
            yield s if r == 'EEXIST' else put(s, name, -self.number), DONE

    def step_unlink(self, s, progress, r, name):
        if bool(at(s, name)) == (r == 'ok'):
            yield put(s, name, 0), DONE

    step_rmdir = step_unlink

    def step_rename(self, s, progress, r, old, new):
        if bool(at(s, old)) == (r == 'ok'):
            nothing = at(s, old) in (0, at(s, new))     # two names of one inode stay both
            yield s if nothing else put(put(s, new, at(s, old)), old, 0), DONE

    def walk(self, s, r, name):
        if at(s, name):
            yield s, at(s, name)
        elif r == 'ENOENT':
            yield s, DONE

    def step_link(self, s, ino, r, old, new):
        if ino is None:
            yield from self.walk(s, r, old)
        elif at(s, new):
            if r == 'EEXIST':
                yield s, DONE
        elif ino not in s[0]:
            if r == 'ENOENT':
                yield s, DONE
        elif r == 'ok':
            yield put(s, new, ino), DONE

    def step_chmod(self, s, ino, r, name, mode):
        if ino is None:
            yield from self.walk(s, r, name)
        elif ino not in s[0]:
            yield s, DONE
        elif r == 'ok':
            yield chmod(s, ino, mode), DONE

    def step_stat(self, s, ino, r, name):
        if ino is None:
            yield from self.walk(s, r, name)
        elif r == 'ENOENT':
            if ino not in s[0]:
                yield s, DONE
        elif name in DIRS:
            yield s, DONE
        elif r[0] == ino and r[1] == s[0].count(ino) and (ino not in s[0] or (ino, r[2]) in s[1]):
            yield s, DONE

    def step_list(self, s, seen, r, d):
        """Each name was there or not at some moment of the call: a directory that changes meanwhile is not read in one moment (readdir(3))."""
        seen = seen or frozenset()
        more = seen | {n for n in NAMES if n.startswith(d) and bool(at(s, n)) == (n[2:] in r)}
        if more != seen:
            yield s, DONE if len(more) == sum(n.startswith(d) for n in NAMES) else more


class Checker:
    """Takes beginnings and ends of calls in the order of time. A configuration: a state, and how far each call under way is."""

    def __init__(self, state=EMPTY):
        self.now = {(state, ())}
        self.most, self.checked = 1, 0

    def begin(self, op):
        self.now = {(s, pending + ((op, None),)) for s, pending in self.now}

    def end(self, op):
        todo, seen, kept = list(self.now), set(self.now), set()
        while todo:
            state, pending = todo.pop()
            if (op, DONE) in pending:
                kept.add((state, tuple(p for p in pending if p[0] is not op)))
                continue
            for i, (other, progress) in enumerate(pending):
                if progress == DONE:
                    continue
                for after, step in other.steps(state, progress):
                    c = after, pending[:i] + ((other, step),) + pending[i + 1:]
                    if c not in seen:
                        seen.add(c)
                        todo.append(c)
        self.most = max(self.most, len(seen))
        self.checked += 1
        self.now, before = kept, self.now
        return None if kept else before


class Group:
    def __init__(self, name):
        self.name, self.lock = name, threading.Lock()
        self.events, self.when, self.taken, self.number = [], [], 0, 0
        self.checker = Checker()

    def note(self, op, ended):
        self.events.append((op, ended))
        self.when.append(time.monotonic())

    def begin(self, who, kind, *args):
        with self.lock:
            self.number += 1
            op = Op(self.number, who, kind, *args)
            self.note(op, False)
        return op

    def end(self, op, result):
        with self.lock:
            op.result = result
            self.note(op, True)

    def check(self):
        """As far as is known how every call that had begun has ended."""
        while self.taken < len(self.events):
            op, ended = self.events[self.taken]
            if op.result is None:
                break
            if not ended:
                self.checker.begin(op)
            else:
                before = self.checker.end(op)
                if before is not None:
                    self.explain(op, before)
            self.taken += 1
        if self.taken > 400:        # some are kept for the explanation
            with self.lock:
                del self.events[:self.taken - 200]
                del self.when[:self.taken - 200]
            self.taken = 200

    def last(self, end):
        """What happened up to event @end, for a human."""
        return '\n'.join('%9.3f %s %s' % (when, 'end  ' if ended else 'begin', o)
                         for (o, ended), when in list(zip(self.events, self.when))[max(0, end - 60):end])

    def explain(self, op, before):
        states = ['%s, under way: %s' % ({n: i for n, i in zip(NAMES, s[0]) if i}, ['%s at %s' % (o.number, p) for o, p in pending])
                  for s, pending in list(before)[:8]]
        raise Wrong('no order explains %s of %s:\n%s\nbefore it:\n%s' % (op, self.name, self.last(self.taken + 1), '\n'.join(states)))


KINDS = {'create': 4, 'unlink': 3, 'rename': 4, 'link': 3, 'chmod': 2, 'stat': 5, 'list': 2, 'mkdir': 2, 'rmdir': 2}


class Contender(Steps):
    """One thread on one mount; groups are directories there."""

    def __init__(self, mount, groups, number, seed, pause):
        super().__init__('%s/%d' % (os.path.basename(mount), number), seed, 2 * pause)
        self.mount, self.groups = mount, groups

    def step(self):
        group = self.rnd.choice(self.groups)
        kind = self.rnd.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == 'list':
            args = (self.rnd.choice('xy'),)
        elif kind == 'rename':
            args = self.rnd.sample(self.rnd.choice((FILES, FILES, DIRS)), 2)
        elif kind == 'link':
            args = self.rnd.sample(FILES, 2)
        elif kind == 'chmod':
            args = (self.rnd.choice(FILES), 0o600 | self.rnd.randrange(64))
        else:
            args = (self.rnd.choice(DIRS if kind in ('mkdir', 'rmdir') else FILES if kind != 'stat' else NAMES),)
        self.call(group, kind, *args)

    def call(self, group, kind, *args):
        op = group.begin(self.dirname, kind, *args)
        try:
            result = getattr(self, 'do_' + kind)(os.path.join(self.mount, group.name), *args)
        except OSError as e:
            result = errno.errorcode.get(e.errno, e.errno)
            if result not in ('ENOENT', 'EEXIST'):
                raise Wrong('%9.3f %s in %s: %r\n%s' % (time.monotonic(), op, group.name, e, group.last(len(group.events))))
        group.end(op, 'ok' if result is None else result)

    def do_create(self, top, name):
        fd = os.open(os.path.join(top, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def do_mkdir(self, top, name):
        os.mkdir(os.path.join(top, name))

    def do_unlink(self, top, name):
        os.unlink(os.path.join(top, name))

    def do_rmdir(self, top, name):
        os.rmdir(os.path.join(top, name))

    def do_rename(self, top, old, new):
        os.rename(os.path.join(top, old), os.path.join(top, new))

    def do_link(self, top, old, new):
        os.link(os.path.join(top, old), os.path.join(top, new))

    def do_chmod(self, top, name, mode):
        os.chmod(os.path.join(top, name), mode)

    def do_stat(self, top, name):
        st = os.stat(os.path.join(top, name))
        return st.st_ino, st.st_nlink, st.st_mode & 0o7777

    def do_list(self, top, d):
        return tuple(sorted(os.listdir(os.path.join(top, d))))


class Contest:
    """@per_mount contenders on each of @mounts."""

    def __init__(self, mounts, seed, pause, per_mount=2, groups=6):
        self.mounts = mounts
        self.groups = [Group('contest%d' % i) for i in range(groups)]
        for g in self.groups:
            for d in 'xy':
                os.makedirs(os.path.join(mounts[0], g.name, d))
        rnd = random.Random(seed)
        self.contenders = [Contender(m, self.groups, i, rnd.random(), pause) for m in mounts for i in range(per_mount)]

    def start(self):
        for c in self.contenders:
            c.start()

    def check(self):
        for c in self.contenders:
            if c.error:
                raise Wrong('%s: %s\n%s' % (c.dirname, c.error, c.trace))
        for g in self.groups:
            g.check()

    def look(self, mount):
        """What @mount shows of all names is one more part of the history."""
        eye = Contender(mount, self.groups, 99, 0, 0)
        for g in self.groups:
            for n in NAMES:
                eye.call(g, 'stat', n)
            for d in 'xy':
                eye.call(g, 'list', d)
        self.check()

    def finish(self, timeout):
        for c in self.contenders:
            c.ending.set()
        for c in self.contenders:
            c.finish(timeout)
        self.check()

    def checked(self):
        return sum(g.checker.checked for g in self.groups)

    def most(self):
        return max(g.checker.most for g in self.groups)
