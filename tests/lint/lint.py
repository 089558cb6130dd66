#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules of the source that a compiler does not check: layers, determinism, form, spelling. TAP on stdout.

    lint.py SOURCE-ROOT RAFT-LIBRARY
"""
import os, re, shutil, subprocess, sys

root, raft_lib = sys.argv[1:3]
os.chdir(root)

# What a directory of src may include. A lower one never includes a higher one.
LAYERS = {
    'common': {'common'},
    'raft': {'raft', 'common'},
    'meta': {'meta', 'raft', 'common'},
    'storage': {'storage', 'common'},
    'client': {'client', 'common'},
    'fuse': {'fuse', 'client', 'common'},
}
RAFT_COMMON = {'common/base.h', 'common/error.h', 'common/checksum.h', 'common/test_rules.h'}

# All that the Raft core may call outside itself: memory, and the report of a failed assertion.
RAFT_SYMBOLS = re.compile(r'^(tc_(assert_fail|malloc|calloc|realloc|strdup|test_value)|free|mem(cpy|move|set|cmp)|snprintf'
                          r'|__snprintf_chk|__stack_chk_fail|__asan_\w+|__ubsan_\w+|_GLOBAL_OFFSET_TABLE_)$')

# Logic sees time, randomness, threads and files only through env.h (locks are
# needed by its jobs); a main() may do as it likes.
LOGIC = ('raft', 'meta', 'storage', 'client')
IMPURE = re.compile(r'(?<![\w.>])(time|clock_gettime|gettimeofday|rand|random|srand|srandom|drand48|getrandom'
                    r'|randombytes_\w+|sleep|usleep|nanosleep|pthread_create|fopen|open|openat|pread|pwrite|fsync'
                    r'|fdatasync|getpid)\(')
BANNED = re.compile(r'(?<![\w.>])(sprintf|vsprintf|gets|strtok|alloca|system|popen|tmpnam|mktemp|strncat)\(')

LINE_MAX = 140  # the style asks for 100; this is where it hurts
FILE_MAX = 1000

problems = {}


def complain(check, where, what):
    problems.setdefault(check, []).append(f'{where}: {what}')


def sources(*tops):
    for top in tops:
        for base, dirs, files in os.walk(top):
            dirs.sort()
            for name in sorted(files):
                if name.endswith(('.c', '.h')):
                    yield os.path.join(base, name)


def without_comments(text):
    """Comments and strings blanked, lines kept."""
    def blank(m):
        return re.sub(r'[^\n]', ' ', m.group(0)) if m.group(0)[0] == '/' else '""'
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def check_layers(path, text):
    room = path.split('/')[1]
    for n, line in enumerate(text.split('\n'), 1):
        m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not m:
            continue
        target = m.group(1)
        top = target.split('/')[0] if '/' in target else room
        if top not in LAYERS.get(room, {room}):
            complain('layers', f'{path}:{n}', f'src/{room} may not include {target}')
        if room == 'raft' and top == 'common' and target not in RAFT_COMMON:
            complain('layers', f'{path}:{n}', f'the Raft core may not include {target}')


def check_purity(path, code):
    if path.split('/')[1] not in LOGIC or path.endswith('/main.c'):
        return
    for n, line in enumerate(code.split('\n'), 1):
        m = IMPURE.search(line)
        if m:
            complain('determinism', f'{path}:{n}', f'{m.group(1)}() by-passes env.h')


def check_form(path, text, code):
    lines = text.split('\n')
    if 'SPDX-License-Identifier: Apache-2.0' not in lines[0]:
        complain('form', path, 'the first line must be the SPDX licence')
    tests = path.startswith('tests/')
    if len(lines) > FILE_MAX and not tests:
        complain('form', path, f'{len(lines)} lines: a file does one thing')
    if path.endswith('.h') and '#pragma once' not in text:
        complain('form', path, 'no #pragma once')
    for n, line in enumerate(lines, 1):
        if len(line) > LINE_MAX + (40 if tests else 0):
            complain('form', f'{path}:{n}', f'{len(line)} columns')
        if '\t' in line or line != line.rstrip():
            complain('form', f'{path}:{n}', 'a tab, or a blank at the end')
    for n, line in enumerate(code.split('\n'), 1):
        m = BANNED.search(line)
        if m and not path.startswith('tests/'):
            complain('banned calls', f'{path}:{n}', f'{m.group(1)}()')


def check_raft_symbols():
    if not os.path.exists(raft_lib):
        complain('symbols of the Raft library', raft_lib, 'is not there')
        return
    own, used = set(), set()
    for line in subprocess.run(['nm', raft_lib], capture_output=True, text=True).stdout.split('\n'):
        words = line.split()
        if len(words) == 2 and words[0] == 'U':
            used.add(words[1])
        elif len(words) == 3:
            own.add(words[2])
    for name in sorted(used - own):
        if not RAFT_SYMBOLS.match(name):
            complain('symbols of the Raft library', name, 'is not on the list of what the core may call')


def check_spelling():
    if not shutil.which('codespell'):
        return
    tops = [t for t in ('src', 'tests', 'tools', 'docs', 'README.md', 'meson.build') if os.path.exists(t)]
    out = subprocess.run(['codespell', '--ignore-words-list=acces,upto,inflight,inout,fo,fro,ans', *tops],
                         capture_output=True, text=True).stdout
    for line in out.split('\n'):
        if line:
            complain('spelling', *line.split(': ', 1))


def check_syncs():
    """Each call that makes something durable is in the table that says which test would miss it."""
    with open('docs/DURABILITY.md', encoding='utf-8') as f:
        rows = [line.split('|')[1] for line in f if line.startswith('|')]
    sites = subprocess.run([sys.executable, 'tests/powerfs/sync-sites.py', '--list'], capture_output=True, text=True).stdout.split('\n')
    if len(sites) < 10:
        complain('syncs', 'tests/powerfs/sync-sites.py', 'finds none')
    for site in filter(None, sites):
        file, function, _ = site.split(':', 2)
        if not any(re.search(r'\b%s\b' % re.escape(file), row) and f'`{function}`' in row for row in rows):
            complain('syncs', f'{file}, {function}', 'not in the table of docs/DURABILITY.md')
    for path in sources('src'): # those that the switch, and so the table, does not reach
        with open(path, encoding='utf-8') as f:
            code = without_comments(f.read())
        if os.path.basename(path) != 'vfs_posix.c':
            for m in re.finditer(r'(?<![\w.>])(fsync|fdatasync|sync_file_range|syncfs|sync)\(|\bO_D?SYNC\b(?=.*open)', code):
                complain('syncs', f'{path}:{code.count(chr(10), 0, m.start()) + 1}', 'by-passes vfs_sync()')


def main():
    for path in sources('src', 'tests', 'tools'):
        with open(path, encoding='utf-8') as f:
            text = f.read()
        code = without_comments(text)
        if path.startswith('src/'):
            check_layers(path, text)
            check_purity(path, code)
        check_form(path, text, code)
    check_raft_symbols()
    check_spelling()
    check_syncs()
    checks = ['layers', 'determinism', 'form', 'banned calls', 'symbols of the Raft library', 'spelling', 'syncs']
    for n, check in enumerate(checks, 1):
        bad = problems.get(check, [])
        print('not ok' if bad else 'ok', n, '-', check)
        for p in bad[:50]:
            print('#', p)
    print(f'1..{len(checks)}')
    return 1 if problems else 0


sys.exit(main())
