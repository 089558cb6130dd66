#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The mount helper: servers of which only some are there, a directory as root, read-only, one clear line else."""
import os, shutil, subprocess, sys
from cluster import Cluster, need_fuse, program, wait_until

HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools', 'mount.tercet')


def helper(c, spec, path, options, status=0, word=''):
    """As mount(8) calls it."""
    r = subprocess.run([c.dir + '/bin/mount.tercet', spec, path, '-o', 'rw,log=%s/log/helper,%s' % (c.dir, options)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert r.returncode == status and word in r.stdout, (spec, options, r)
    assert status == 0 or len(r.stdout.splitlines()) == 1, r.stdout


def umount(path):
    subprocess.run(['umount', path], check=True, timeout=60)


def main():
    need_fuse()
    with Cluster() as c:
        os.makedirs(c.dir + '/bin')
        shutil.copy(HELPER, c.dir + '/bin')
        os.symlink(program('tercet-fuse'), c.dir + '/bin/tercet-fuse')
        x = c.dir + '/x'
        os.makedirs(x)
        c.start()
        servers = [l.split('//')[1].strip() for l in open(c.conf) if l.startswith('endpoint=')][:3]
        helper(c, ','.join(servers) + ':/', x, '_netdev,nofail')
        os.makedirs(x + '/dir/sub')
        helper(c, ','.join(servers) + ':/', x, 'ro', 32, 'already')
        helper(c, ','.join(servers) + ':/dir', x, 'ro')  # something else may be mounted over it
        umount(x)
        umount(x)

        # One server is named, not always the leader: the others are learnt, and outlive it.
        for i, s in enumerate(servers):
            helper(c, '127.0.0.1:1,%s:/dir' % s, x, 'wait=30s')
            assert 'sub' in os.listdir(x)
            c.daemons['meta-%d' % (i + 1)].kill()
            open('%s/%d' % (x, i), 'w').close()
            c.daemons['meta-%d' % (i + 1)].start()
            umount(x)
            wait_until('all members', lambda: not c.problems(), 30, 0.2)

        helper(c, ','.join(servers) + ':/dir', x, 'ro')
        assert sorted(os.listdir(x)) == ['0', '1', '2', 'sub']
        try:
            open(x + '/new', 'w')
            raise AssertionError('written to a read-only mount')
        except OSError as e:
            assert e.errno == 30, e
        umount(x)

        # mount -o remount: what the kernel looks at changes, the rest stays as it was, and says so.
        helper(c, ','.join(servers) + ':/dir', x, 'nosuid')
        flags = lambda: next(l.split()[5].split(',') for l in open('/proc/self/mountinfo') if l.split()[4] == x)
        assert 'nosuid' in flags() and 'nodev' not in flags(), flags()
        for mode, options in (('ro', 'ro,nosuid'), ('rw', 'nosuid,wait=30s,_netdev,allow_other')):
            r = subprocess.run([c.dir + '/bin/mount.tercet', ','.join(servers) + ':/dir', x, '-o', 'rw,remount,' + options],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
            assert r.returncode == 0 and ('wait=30s' in r.stdout) == ('wait' in options), r
            assert mode in flags() and 'nosuid' in flags(), flags()
        umount(x)
        helper(c, ','.join(servers) + ':/dir', x, 'remount,ro', 32, 'no Tercet filesystem is mounted')

        all_of = ','.join(servers)
        helper(c, all_of + ':/nosuch', x, 'wait=30s', 32, '/nosuch')
        helper(c, all_of + ':/dir/0', x, 'wait=30s', 32, '/dir/0')
        helper(c, all_of + ':/', c.dir + '/none', 'wait=30s', 32, c.dir + '/none')
        helper(c, '127.0.0.1:1:/', x, 'wait=1s', 32, '127.0.0.1:1')
        helper(c, all_of, x, 'wait=1s', 1, all_of)
        for word in ('busy_poll=many', 'busy_poll=-1', 'busy_poll=', 'reads=some', 'wait=never'):
            helper(c, all_of + ':/', x, word, 1, word)
        helper(c, all_of + ':/', x, 'busy_poll=0,reads=leader,pages=lease')
        umount(x)
        helper(c, all_of + ':/', x, 'frobnicate', 1, 'frobnicate')
        helper(c, all_of + ':/', x, 'wait=1s,log=/no/such/dir/log', 32, '/no/such/dir/log')
    return 0


if __name__ == '__main__':
    sys.exit(main())
