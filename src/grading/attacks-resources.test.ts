/** Attacks that take: processes, memory, disk, output, time. Each is stopped, named, and followed by an honest solution. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { useAttackBed } from './attack-bed.ts';

const { attack } = useAttackBed();

for (const [name, text, reason] of [
  [
    'a fork bomb',
    'import os\ndef f(n):\n    while True:\n        try: os.fork()\n        except OSError: pass',
    /./,
  ],
  [
    'a shell fork bomb',
    'import subprocess\ndef f(n): subprocess.run(["bash", "-c", ":(){ :|:& };:; wait"])',
    /./,
  ],
  ['one memory hog', 'def f(n): return len(bytearray(10**9)) and 0', /memory|MemoryError/],
  [
    'a memory hog that grows',
    'def f(n):\n    a = []\n    while True: a.append(bytearray(1 << 20))',
    /memory|MemoryError/,
  ],
  [
    'many memory hogs',
    'import os, time\ndef f(n):\n    for _ in range(12):\n        if os.fork() == 0:\n            a = bytearray(20 << 20)\n            time.sleep(2)\n            os._exit(0)\n    time.sleep(2)\n    return 0',
    /memory/,
  ],
  [
    'memory by shared memory',
    'def f(n):\n    with open("/dev/shm/x", "wb") as x:\n        while True: x.write(bytes(1 << 20))',
    /No space|too large|memory|MemoryError/,
  ],
  [
    'a full disk',
    'def f(n):\n    i = 0\n    while True:\n        with open(f"f{i}", "wb") as x: x.write(bytes(1 << 20))\n        i += 1',
    /No space left/,
  ],
  [
    'a full /tmp',
    'def f(n):\n    i = 0\n    while True:\n        with open(f"/tmp/f{i}", "wb") as x: x.write(bytes(1 << 20))\n        i += 1',
    /No space left/,
  ],
  [
    'no more inodes',
    'def f(n):\n    i = 0\n    while True:\n        open(f"f{i}", "w").close()\n        i += 1',
    /No space left/,
  ],
  [
    'a huge file',
    'import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\ndef f(n):\n    with open("x", "wb") as x: x.truncate(1 << 40)',
    /too large/,
  ],
  ['a flood on standard output', 'def f(n):\n    while True: print("x" * 65536)', /printed more than 64 KiB/],
  [
    'a flood on standard error',
    'import sys\ndef f(n):\n    while True: sys.stderr.write("x" * 65536)',
    /printed more than 64 KiB/,
  ],
  [
    'a flood on the result',
    'import os\ndef f(n):\n    while True: os.write(3, b"x" * 65536)',
    /printed more than 64 KiB/,
  ],
  ['a long value', 'def f(n): return "x" * 10**6', /printed more than 64 KiB/],
  ['an endless loop', 'def f(n):\n    while True: pass', /used more than 1 s/],
  [
    'endless loops in threads and processes',
    'import os, threading\ndef f(n):\n    for _ in range(4):\n        if os.fork() == 0:\n            while True: pass\n    while True: pass',
    /used more than 1 s/,
  ],
  ['sleeping', 'import time\ndef f(n): time.sleep(1000)', /not finished after 5 s/],
  [
    'ignoring every signal',
    'import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\ndef f(n):\n    while True: pass',
    /used more than 1 s/,
  ],
  [
    'descriptors without end',
    'import os\ndef f(n):\n    a = []\n    while True: a.append(os.open("/dev/null", 0))',
    /Too many open files/,
  ],
  [
    'a nest of brackets',
    'import os\ndef f(n):\n    os.write(3, b"[" * 60000 + b"\\n")\n    os._exit(0)',
    /cannot be read/,
  ],
  [
    'the clock',
    `import time\ndef f(n):\n    try: time.clock_settime(time.CLOCK_REALTIME, 0); return 0\n    except PermissionError: pass\n    time.time = time.monotonic = lambda: 0\n    while True: pass`,
    /used more than 1 s/,
  ],
] as const)
  test(`contained: ${name}`, async () => {
    const began = Date.now();
    await attack('python', text, reason);
    assert.ok(Math.abs(Date.now() - began) < 600_000, 'the host’s clock was changed');
  });
