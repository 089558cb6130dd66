# SPDX-License-Identifier: Apache-2.0
"""A network of its own for every daemon and mount, joined by a bridge, so that links can be cut (root only)."""
import os, subprocess


def ip(*args):
    subprocess.run(['ip', *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Network:
    def __init__(self):
        self.prefix = 'tercet%d' % os.getpid()
        self.bridge = self.prefix + '-br'
        self.hosts = {}
        ip('netns', 'add', self.bridge)
        try:
            ip('-n', self.bridge, 'link', 'add', 'br0', 'type', 'bridge')
            ip('-n', self.bridge, 'link', 'set', 'br0', 'up')
        except subprocess.CalledProcessError:
            self.close()
            raise

    def add(self, name):
        """A namespace for @name; its address."""
        if name in self.hosts:
            return self.hosts[name]
        number = len(self.hosts) + 1
        ns, address = '%s-%d' % (self.prefix, number), '10.201.0.%d' % number
        ip('netns', 'add', ns)
        self.hosts[name] = address
        ip('-n', ns, 'link', 'set', 'lo', 'up')
        ip('link', 'add', 'eth0', 'netns', ns, 'type', 'veth', 'peer', 'name', 'port%d' % number, 'netns', self.bridge)
        ip('-n', self.bridge, 'link', 'set', 'port%d' % number, 'master', 'br0', 'up')
        ip('-n', ns, 'addr', 'add', address + '/24', 'dev', 'eth0')
        ip('-n', ns, 'link', 'set', 'eth0', 'up')
        return address

    def number(self, name):
        return list(self.hosts).index(name) + 1

    def within(self, name):
        self.add(name)
        return ['nsenter', '--net=/run/netns/%s-%d' % (self.prefix, self.number(name))]

    def unplug(self, name):
        ip('-n', self.bridge, 'link', 'set', 'port%d' % self.number(name), 'down')

    def plug(self, name):
        ip('-n', self.bridge, 'link', 'set', 'port%d' % self.number(name), 'up')

    def deafen(self, name, to):
        """What @name sends to @to gets lost; the other direction works."""
        ip('-n', '%s-%d' % (self.prefix, self.number(name)), 'route', 'add', 'blackhole', self.hosts[to] + '/32')

    def undeafen(self, name, to):
        ip('-n', '%s-%d' % (self.prefix, self.number(name)), 'route', 'del', 'blackhole', self.hosts[to] + '/32')

    def close(self):
        for i in range(len(self.hosts), 0, -1):
            subprocess.run(['ip', 'netns', 'del', '%s-%d' % (self.prefix, i)], stderr=subprocess.DEVNULL)
        subprocess.run(['ip', 'netns', 'del', self.bridge], stderr=subprocess.DEVNULL)
