#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The client library against real daemons, without a mount (client-driver.c), also while the leader and a storage
node are killed and started again."""
import configparser, os, subprocess, sys, threading, time
from cluster import BUILD, Cluster


def main():
    driver = os.path.join(BUILD, 'tests', 'integration', 'client-driver')
    nemesis = '--nemesis' in sys.argv
    with Cluster() as c:
        c.start()
        conf = configparser.ConfigParser(strict=False)
        conf.read(c.conf)
        ends = [conf['meta.%d' % i]['endpoint'] for i in (1, 2, 3)]
        c.wait_healthy()
        p = subprocess.Popen([driver, os.environ.get('SEED', '1'), *ends])
        if nemesis:
            time.sleep(1)
            for name in (c.leader(), 'storage-2', c.leader()):
                if p.poll() is not None:
                    break
                c.daemons[name].kill()
                time.sleep(1)
                c.daemons[name].start()
                time.sleep(1.5)
        assert p.wait(240) == 0, 'driver ended with %s' % p.returncode


main()
