# SPDX-License-Identifier: Apache-2.0
"""A real cluster for tests: daemons, disks and mounts of its own in a private directory.

Everything is started by this process and ended by pid; nothing is found by name, so several runs may share a
machine. A test that leaves its `with` block has unmounted, killed and removed what it made (kept on failure
when TERCET_KEEP is set).
"""
import contextlib, fcntl, json, os, random, shutil, signal, socket, subprocess, sys, tempfile, threading, time

BUILD = os.environ.get('TERCET_BUILD') or os.path.join(os.path.dirname(__file__), '..', '..', 'build')
BUILD = os.path.abspath(BUILD)
SKIP = 77


def program(name):
    path = os.path.join(BUILD, 'tools', name)
    if os.path.exists(path):
        return path
    raise FileNotFoundError('%s is not built in %s' % (name, BUILD))


def need_fuse():
    """Skip, saying so, where a mount cannot be made."""
    if not os.path.exists('/dev/fuse') or not os.access('/dev/fuse', os.R_OK | os.W_OK):
        print('SKIP: /dev/fuse is missing or not ours')
        sys.exit(SKIP)


PORTS_FIRST, PORTS_BLOCK, PORTS_BLOCKS = 20000, 20, 600     # below the range the kernel hands out by itself
held_blocks = []


def free_ports(n):
    """Ports that stay ours while this process lives. Not of the kernel's own range: a connection of anybody (our
    daemons' among them) could be given the port of a daemon that is just being restarted. The lock on a block of
    ports keeps other runs of the tests on this machine away."""
    assert n <= PORTS_BLOCK
    locks = os.path.join(tempfile.gettempdir(), 'tercet-test-ports')
    os.makedirs(locks, mode=0o1777, exist_ok=True)
    start = random.SystemRandom().randrange(PORTS_BLOCKS)
    for i in range(PORTS_BLOCKS):
        block = (start + i) % PORTS_BLOCKS
        try:
            f = open(os.path.join(locks, '%d-%d' % (os.geteuid(), block)), 'w')
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        ports = [PORTS_FIRST + block * PORTS_BLOCK + k for k in range(n)]
        try:
            for p in ports:
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(('127.0.0.1', p))
        except OSError:
            f.close()
            continue
        held_blocks.append(f)
        return ports
    raise RuntimeError('no free ports')


def wait_until(what, fn, timeout=30, every=0.05):
    end = time.monotonic() + timeout
    while True:
        try:
            value = fn()
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
            value = None
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError('%s: not within %s s' % (what, timeout))
        time.sleep(every)


class Daemon:
    def __init__(self, name, args, log):
        self.name, self.args, self.log, self.proc = name, args, log, None

    def start(self):
        assert not self.alive(), self.name
        with open(self.log, 'ab') as out:
            self.proc = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def signal(self, sig):
        self.proc.send_signal(sig)

    def kill(self):
        if self.alive():
            self.proc.kill()
        if self.proc:
            self.proc.wait()

    def stop(self, timeout=60):
        """SIGTERM, and the time to leave in order."""
        if self.alive():
            self.proc.terminate()
            try:
                self.proc.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.proc.returncode if self.proc else None


class Mount(Daemon):
    def __init__(self, cluster, path, options=''):
        os.makedirs(path, exist_ok=True)
        args = [program('tercet-fuse'), *(['-o', options] if options else []), '--config=' + cluster.conf, path]
        super().__init__('mount:' + path, cluster.within(os.path.basename(path)) + args, os.path.join(cluster.dir, 'log', 'fuse-%s' % os.path.basename(path)))
        self.path = path

    def is_mounted(self):
        with open('/proc/self/mountinfo') as f:
            return any(line.split()[4] == self.path for line in f)

    def mount(self, timeout=60):
        self.start()

        def up():
            if not self.alive():
                raise RuntimeError('tercet-fuse ended, see %s:\n%s' % (self.log, open(self.log).read()[-2000:]))
            return self.is_mounted()
        wait_until('mount of %s' % self.path, up, timeout)
        return self

    def umount(self, timeout=60):
        if self.is_mounted():
            subprocess.run(['umount', self.path], check=True, timeout=timeout)
        if self.proc:
            self.proc.wait(timeout)
            assert self.proc.returncode == 0, 'tercet-fuse ended with %s' % self.proc.returncode

    def abort(self):
        """Whatever state it is in: gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
        if self.is_mounted():
            subprocess.run(['umount', '-f', '-l', self.path], stderr=subprocess.DEVNULL, timeout=30)
        self.kill()


class Cluster:
    def __init__(self, metas=3, storages=3, extra_conf='', cluster_conf=''):
        self.dir = tempfile.mkdtemp(prefix='tercet-test-')
        self.conf = os.path.join(self.dir, 'tercet.conf')
        os.makedirs(os.path.join(self.dir, 'log'))
        self.prepare()
        ports = free_ports(metas + storages)
        lines = ['[cluster]', 'name=test', cluster_conf]
        self.daemons, self.mounts = {}, []
        for kind, count, base in (('meta', metas, 0), ('storage', storages, metas)):
            for i in range(1, count + 1):
                data = self.data('%s-%d' % (kind, i))
                os.makedirs(data, exist_ok=True)
                lines += ['[%s.%d]' % (kind, i), 'endpoint=' + self.endpoint('%s-%d' % (kind, i), ports[base + i - 1]), 'data=' + data, '']
                name = '%s-%d' % (kind, i)
                self.daemons[name] = Daemon(name, self.within(name) + [program('tercet-' + kind), '--config=' + self.conf, '--id=%d' % i],
                                            os.path.join(self.dir, 'log', name))
        with open(self.conf, 'w') as f:
            f.write('\n'.join(lines) + '\n' + extra_conf)

    def prepare(self):
        """Before the data directories are made: whatever they shall lie on."""

    def endpoint(self, name, port):
        return 'tcp://127.0.0.1:%d' % port

    def within(self, name):
        """What begins the command line of daemon, mount or command @name: where it runs."""
        return []

    def new_meta(self, i, start=True):
        """One more metadata member in the configuration file, with an empty directory: not of the group yet."""
        name = 'meta-%d' % i
        os.makedirs(self.data(name))
        with open(self.conf, 'a') as f:
            f.write('\n[meta.%d]\nendpoint=%s\ndata=%s\n' % (i, self.endpoint(name, free_ports(1)[0]), self.data(name)))
        self.daemons[name] = Daemon(name, self.within(name) + [program('tercet-meta'), '--config=' + self.conf, '--id=%d' % i],
                                    os.path.join(self.dir, 'log', name))
        if start:
            self.daemons[name].start()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        failed = kind is not None
        for m in self.mounts:
            with contextlib.suppress(Exception):
                m.abort()
        for d in self.daemons.values():
            with contextlib.suppress(Exception):
                d.kill()
        if failed:
            self.show_logs()
        if failed and os.environ.get('TERCET_KEEP'):
            print('kept: %s' % self.dir, file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        return False

    def show_logs(self, lines=15):
        logs = os.path.join(self.dir, 'log')
        for name in sorted(os.listdir(logs)):
            with open(os.path.join(logs, name), errors='replace') as f:
                tail = f.readlines()[-lines:]
            print('---- %s ----\n%s' % (name, ''.join(tail)), file=sys.stderr)

    def data(self, name):
        return os.path.join(self.dir, 'data', name)

    def tercet(self, *args, check=True, timeout=60):
        return subprocess.run([*self.within('tercet'), program('tercet'), '--config=' + self.conf, *args], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=check, timeout=timeout)

    def formatted(self):
        """A try that gave up waiting for one slow member may have done it: the next is told so."""
        p = self.tercet('format', check=False)
        self.tried = getattr(self, 'tried', -1) + 1
        return p.returncode == 0 or (self.tried > 0 and 'is formatted already' in p.stdout)

    def start(self, format=True):
        for d in self.daemons.values():
            d.start()
        if format:
            wait_until('format', self.formatted, 60, 0.2)
        return self

    def status(self):
        return json.loads(self.tercet('--json', 'status', check=False).stdout)

    def status_of(self, name):
        """What member @name ("meta-2") says of itself; None: it does not answer."""
        return next((m['status'] for m in self.status()['members'] if name == 'meta-%d' % m['id'] and m['answers']), None)

    def leader(self, timeout=30):
        """Name of the member that leads ("meta-2")."""
        return wait_until('leader', lambda: 'meta-%d' % self.status()['leader'], timeout)

    def problems(self):
        return self.status().get('problems', [])

    def wait_healthy(self, timeout=120):
        wait_until('healthy status', lambda: not [p for p in self.problems() if p.get('severity') != 'info'], timeout, 0.3)

    def mount(self, name='mnt', options=''):
        m = Mount(self, os.path.join(self.dir, name), options)
        self.mounts.append(m)
        return m.mount()

    def kill_all(self):
        for m in self.mounts:
            m.abort()
        for d in self.daemons.values():
            d.kill()


def sh(cmd, timeout=300, **kw):
    """Run a shell command; its output is in the exception when it fails."""
    r = subprocess.run(cmd, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=timeout, **kw)
    if r.returncode:
        raise AssertionError('command failed with %d: %s\n%s' % (r.returncode, cmd, r.stdout[-3000:]))
    return r.stdout


def same_tree(a, b):
    sh('diff -r --no-dereference %s %s' % (a, b))


def make_tree(path, files=600, seed=1):
    """A small source tree: nested directories, many small files, some large, links, odd names, a sparse file."""
    import random
    rnd = random.Random(seed)
    os.makedirs(path)
    dirs = [path]
    for i in range(max(4, files // 30)):
        d = os.path.join(rnd.choice(dirs), 'dir%03d' % i)
        os.makedirs(d, exist_ok=True)
        dirs.append(d)
    for i in range(files):
        size = rnd.choice((0, 1, 100, 4095, 4096, 4097, 20000, 70000))
        if i % 100 == 7:
            size = rnd.choice(((1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20))
        with open(os.path.join(rnd.choice(dirs), 'file%04d' % i), 'wb') as f:
            f.write(rnd.randbytes(size))
    names = [os.path.join(d, n) for d, _, ns in os.walk(path) for n in sorted(ns)]
    os.link(names[0], os.path.join(path, 'hard link'))
    os.symlink('dir000/nowhere', os.path.join(path, 'symbolic link'))
    os.chmod(names[1], 0o751)
    with open(os.path.join(path, 'sparse'), 'wb') as f:
        f.truncate(5 << 20)
        f.seek(3 << 20)
        f.write(b'in the middle')
    with open(os.path.join(path, '\xfc\xf1\xef \u65e5\u672c "quoted" \\ name'), 'w') as f:
        f.write('odd')
    return path


class Writer(threading.Thread):
    """A program that creates a file, writes and fsyncs it, over and over, and must never see an error."""

    def __init__(self, path, pause):
        super().__init__(daemon=True)
        self.path, self.pause, self.n, self.error, self.ending = path, pause, 0, None, threading.Event()
        self.longest = 0

    def run(self):
        try:
            while not self.ending.wait(self.pause):
                began = time.monotonic()
                with open('%s/w%d' % (self.path, self.n), 'w') as f:
                    f.write(str(self.n))
                    f.flush()
                    os.fsync(f.fileno())
                self.n += 1
                self.longest = max(self.longest, time.monotonic() - began)
        except OSError as e:
            self.error = e

    def goes_on(self, files=2):
        n = self.n
        wait_until('the writer goes on', lambda: self.error or self.n > n + files, 60)
        assert not self.error, self.error

    def reset(self):
        longest, self.longest = self.longest, 0
        return longest

    def end(self):
        """Everything that it wrote is there."""
        self.ending.set()
        self.join(60)
        assert not self.is_alive() and not self.error, self.error
        for i in range(self.n):
            with open('%s/w%d' % (self.path, i)) as f:
                assert f.read() == str(i), i
