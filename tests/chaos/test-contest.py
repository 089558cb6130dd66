#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The checker of contest.py takes every right history and refuses each wrong one."""
import os, random, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'integration'))
from contest import DIRS, DONE, EMPTY, FILES, Checker, Op  # noqa: E402


def right(*events):
    """Events: ('b', key, kind, args..., result) begins a call, ('e', key) ends it, (kind, args..., result) is both."""
    c, ops, n = Checker(), {}, 0
    for e in events:
        n += 1
        if e[0] == 'e':
            if c.end(ops[e[1]]) is not None:
                return False
            continue
        rest = e[2:] if e[0] == 'b' else e
        op = Op(n, 'test', rest[0], *rest[1:-1])
        op.result = rest[-1]
        c.begin(op)
        if e[0] == 'b':
            ops[e[1]] = op
        elif c.end(op) is not None:
            return False
    return True


def scripted():
    a, b, d = FILES[0], FILES[3], DIRS[0]
    assert right(('create', a, 7), ('create', a, 'EEXIST'), ('link', a, b, 'ok'), ('stat', b, (7, 2, 0o644)), ('chmod', b, 0o600, 'ok'),
                 ('unlink', a, 'ok'), ('stat', b, (7, 1, 0o600)), ('list', 'x', ()), ('list', 'y', ('f0',)), ('stat', a, 'ENOENT'))
    assert right(('create', a, 7), ('rename', b, a, 'ENOENT'), ('stat', a, (7, 1, 0o644)), ('link', a, b, 'ok'), ('rename', a, b, 'ok'),
                 ('list', 'x', ('f0',)), ('list', 'y', ('f0',)), ('unlink', a, 'ok'), ('unlink', a, 'ENOENT'))
    # Done twice, undone, lost, stale.
    assert not right(('create', a, 7), ('create', a, 8))
    assert not right(('create', a, 'EEXIST'))
    assert not right(('create', a, 7), ('unlink', a, 'ENOENT'))
    assert not right(('create', a, 7), ('unlink', a, 'ok'), ('stat', a, (7, 1, 0o644)))
    assert not right(('create', a, 7), ('link', a, b, 'ok'), ('stat', a, (7, 1, 0o644)))
    assert not right(('create', a, 7), ('chmod', a, 0o600, 'ok'), ('stat', a, (7, 1, 0o644)))
    assert not right(('create', a, 7), ('rename', a, b, 'ok'), ('list', 'y', ()))
    assert not right(('create', a, 7), ('create', b, 8), ('rename', a, b, 'ok'), ('stat', b, (8, 1, 0o644)))
    assert not right(('mkdir', d, 'ok'), ('mkdir', d, 'ok'))
    assert not right(('mkdir', d, 'ok'), ('rename', d, DIRS[1], 'ok'), ('rmdir', d, 'ok'))
    # Two at once: either first, but not both; what was seen in between binds what is seen later.
    assert right(('b', 1, 'create', a, 7), ('stat', a, 'ENOENT'), ('stat', a, (7, 1, 0o644)), ('e', 1))
    assert not right(('b', 1, 'create', a, 7), ('stat', a, (7, 1, 0o644)), ('stat', a, 'ENOENT'), ('e', 1))
    assert not right(('create', a, 7), ('b', 1, 'unlink', a, 'ok'), ('b', 2, 'unlink', a, 'ok'), ('e', 1), ('e', 2))
    assert right(('create', a, 7), ('b', 1, 'unlink', a, 'ok'), ('b', 2, 'unlink', a, 'ENOENT'), ('e', 2), ('e', 1))
    assert right(('create', a, 7), ('b', 1, 'list', 'x', ('f0', 'f1')), ('rename', a, FILES[1], 'ok'), ('e', 1))
    assert not right(('create', a, 7), ('rename', a, FILES[1], 'ok'), ('b', 1, 'list', 'x', ('f0', 'f1')), ('e', 1))
    # link walks first: the name may lead elsewhere when it acts, the inode counts.
    assert right(('create', a, 7), ('b', 1, 'link', a, b, 'ok'), ('rename', a, FILES[1], 'ok'), ('create', a, 8), ('e', 1),
                 ('stat', b, (7, 2, 0o644)))


def at_random(seed):
    """Calls that take effect one after another, begun earlier and ended later, are right; with one result exchanged mostly not."""
    rnd = random.Random(seed)
    state, events, running, found, tried = EMPTY, [], [], 0, 0
    for n in range(1, 60):
        if len(running) > 3 or (running and rnd.random() < 0.4):
            events.append((running.pop(rnd.randrange(len(running))), True))
        kind = rnd.choice(('create', 'unlink', 'rename', 'link', 'stat', 'mkdir', 'rmdir'))
        args = rnd.sample(DIRS if 'dir' in kind else FILES, 2 if kind in ('rename', 'link') else 1)
        op = Op(n, 'test', kind, *args)
        results = ['ok', 'ENOENT', 'EEXIST', 100 + n]
        if kind == 'stat':
            ino = state[0][FILES.index(args[0])]
            results = ['ENOENT', (ino, state[0].count(ino), 0o644)]
        for op.result in results:
            s, progress = state, None
            while progress != DONE:
                s, progress = next(iter(op.steps(s, progress)), (None, DONE))
            if s is not None:
                break
        assert s is not None, op
        state = s
        events.append((op, False))
        running.append(op)
    events += [(op, True) for op in running]

    def check():
        c = Checker()
        return all(not (c.begin(op) if not ended else c.end(op)) for op, ended in events)
    assert check(), seed
    for op in rnd.sample([o for o, ended in events if ended], 5):
        if op.kind in ('unlink', 'create', 'rename', 'mkdir', 'rmdir'):
            tried += 1
            kept, other = op.result, {'unlink': 'ENOENT', 'rmdir': 'ENOENT', 'rename': 'ENOENT'}.get(op.kind, 'EEXIST')
            op.result = other if op.result != other else 999 if op.kind == 'create' else 'ok'
            found += not check()
            op.result = kept
    return found, tried


def main():
    scripted()
    sums = [at_random(seed) for seed in range(60)]
    found, tried = (sum(x) for x in zip(*sums))
    assert found > tried // 2, (found, tried)
    print('ok: %d of %d exchanged results found' % (found, tried))
    return 0


if __name__ == '__main__':
    sys.exit(main())
