#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The metadata group of a mounted cluster grows from one member to three and five; a dead member is replaced; every
member there was at the beginning goes. A program on the mount writes all the while and sees no error. A mount and a store
that stood still while every member they knew was replaced find the new ones."""
import json, os, shutil, signal, subprocess, sys, time
from cluster import Cluster, Mount, Writer, need_fuse, program, wait_until


def meta(c, *args):
    r = c.tercet('--json', 'meta', '--timeout-ms=500', *args, check=False)
    return json.loads(r.stdout) if r.stdout.startswith('{') else {'done': False, 'refused': r.stdout}


def must(c, *args):
    """Until it is done: a change under way, or a member that is still being filled, is waited for."""
    wait_until('meta ' + ' '.join(args), lambda: meta(c, *args)['done'], 60, 0.1)


def leader(c):
    return wait_until('leader', lambda: meta(c, 'list')['leader'])


def refused(c, why, *args):
    r = meta(c, *args)
    assert not r['done'] and why in r['refused'], (args, r)


def voters(c):
    """As the leader has it; asked again while one hands over to another."""
    return wait_until('voters', lambda: sorted(m['id'] for m in meta(c, 'list')['members'] if m['votes']))


def endpoint(c, section):
    with open(c.conf) as f:
        return f.read().split('[%s]\nendpoint=' % section, 1)[1].split('\n', 1)[0]


def leader_dies(c, *args):
    """With the request under way: the command says what became of it, whoever did it."""
    victim = c.leader()
    c.daemons[victim].signal(signal.SIGSTOP)    # it will not answer
    p = subprocess.Popen([program('tercet'), '--config=' + c.conf, 'meta', *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(0.3)
    c.daemons[victim].kill()
    out = p.communicate(timeout=60)[0]
    assert p.returncode == 0, out
    c.daemons[victim].start()


def join(c, i):
    c.new_meta(i)
    must(c, 'add', str(i))
    assert i not in voters(c)
    must(c, 'promote', str(i))
    wait_until('vote of %d' % i, lambda: i in voters(c))


def shrunk():
    """One is left of three, and it is down: the two that were removed, and still run, are no quorum in anybody's eyes."""
    with Cluster(metas=1) as c:
        c.start()
        for i in (2, 3):
            join(c, i)
        for i in (1, 2):
            must(c, 'remove', str(i))
            wait_until('another leader', lambda: leader(c) != i)
        assert voters(c) == [3], voters(c)
        c.new_meta(4)                   # the last in applying: the removal of 1 and 2 is known to it
        must(c, 'add', '4')
        wait_until('filled', lambda: c.status_of('meta-4')['applied'] == c.status_of('meta-3')['applied'])
        c.daemons['meta-3'].kill()
        p = wait_until('no quorum', lambda: [p['what'] for p in c.problems() if 'no quorum' in p['what']])
        assert '0 of 1 ' in p[0], p
        c.daemons['meta-3'].start()
        assert c.leader() == 'meta-3'
    print('ok: status knows who is of the group when nobody leads')


def three_stores(c):
    wait_until('three stores', lambda: [p for p in c.status()['members'] if p.get('status', {}).get('role') == 'leader']
               and all('storage node' not in p['what'] for p in c.problems()))


def stood_still():
    with Cluster(metas=1, storages=3) as c:
        m = c.start().mount()
        file = os.path.join(m.path, 'file')
        three_stores(c)
        subprocess.run(['sh', '-c', 'echo first > "$0" && sync "$0"', file], check=True, timeout=60)  # it knows stores now
        still = [m, c.daemons['storage-1']]
        for d in still:
            d.signal(signal.SIGSTOP)
        for i in (2, 3):
            join(c, i)
        must(c, 'remove', '1')
        wait_until('another leader', lambda: leader(c) != 1)
        c.daemons.pop('meta-1').kill()
        for d in still:
            d.signal(signal.SIGCONT)
        subprocess.run(['sh', '-c', 'echo here > "$0"', file], check=True, timeout=60)
        three_stores(c)
        m.umount()
    print('ok: who stood still finds those who came meanwhile')


def main():
    need_fuse()
    stood_still()
    shrunk()
    with Cluster(metas=1, storages=3) as c:
        first_conf = c.dir + '/first.conf'
        m = c.start().mount()
        shutil.copy(c.conf, first_conf)
        w = Writer(m.path, 0.02)
        w.start()

        for i in (2, 3):
            join(c, i)
        assert voters(c) == [1, 2, 3], voters(c)
        w.goes_on()
        refused(c, 'already', 'add', '2')
        refused(c, 'already', 'promote', '2')
        refused(c, 'no member 9', 'remove', '9')
        for taken in ('meta.2', 'storage.1'):
            refused(c, 'already', 'add', '9', endpoint(c, taken))
        refused(c, 'no endpoint', 'add', '9', 'tcp://nowhere')
        c.new_meta(4, start=False)
        must(c, 'add', '4')
        refused(c, 'does not answer', 'promote', '4')
        c.daemons['meta-4'].start()
        must(c, 'promote', '4')
        join(c, 5)
        assert voters(c) == [1, 2, 3, 4, 5], voters(c)
        w.goes_on()
        leader_dies(c, 'add', '9', 'tcp://127.0.0.1:9')
        leader_dies(c, 'remove', '9')
        w.goes_on()
        print('ok: from one to three to five')

        victim = leader(c)
        c.daemons['meta-%d' % victim].kill()
        w.goes_on()
        must(c, 'remove', str(victim))
        join(c, 6)
        if victim != 1:
            wait_until('leads', lambda: meta(c, 'transfer', '1')['done'] or leader(c) == 1)
            must(c, 'remove', '1')       # a leader that removes itself hands over
            assert leader(c) != 1
        w.goes_on()
        print('ok: a dead member was replaced')

        left = voters(c)
        assert 1 not in left and victim not in left and 6 in left, left
        for i in left:
            if len(left) > 3 and i != 6:
                must(c, 'remove', str(i))
                left = voters(c)
        assert len(left) == 3, left
        for name in list(c.daemons):     # the removed ones need not run any more
            if name.startswith('meta-') and int(name[5:]) not in left:
                c.daemons[name].kill()
                del c.daemons[name]
        w.goes_on()
        # Of this group two must be up; and once one is down, no other may be removed.
        down = next(i for i in left if i != leader(c))
        c.daemons['meta-%d' % down].signal(signal.SIGSTOP)
        other = next(i for i in left if i != down and i != leader(c))
        wait_until('refusal', lambda: 'majority' in meta(c, 'remove', str(other)).get('refused', ''))
        c.daemons['meta-%d' % down].signal(signal.SIGCONT)
        w.goes_on()
        # Daemons that only ever read the first configuration: none of its members exists any more.
        d = c.daemons['storage-2']
        d.stop()
        d.args[1] = '--config=' + first_conf
        d.start()
        three_stores(c)
        late = Mount(c, c.dir + '/late')
        late.args[-2] = '--config=' + first_conf
        c.mounts.append(late)
        late.mount()
        assert sorted(os.listdir(late.path))[:1] == ['w0'], os.listdir(late.path)[:3]
        late.umount()
        w.end()
        print('ok: nobody is left of those who began; %d files written meanwhile, none took longer than %.2f s'
              % (w.n, w.longest))
        m.umount()
    return 0


if __name__ == '__main__':
    sys.exit(main())
