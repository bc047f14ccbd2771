/** The real agent program, natively: as in a guest, but for what would change this host. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep, until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { makeIdentity, makeSecrets } from '../identity.ts';
import { connectAgent } from './client.ts';
import { request, shell, skip, startAgent } from './testing.ts';

const text = (base64: string): string => Buffer.from(base64, 'base64').toString();
const alive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

test('a program has its arguments, variables, directory and streams', { skip }, async () => {
  await using bed = await startAgent();
  const script = 'cat; echo "$A|$PWD|$1|$HOME|$USER"; echo no >&2; exit 7';
  const reply = await bed.agent.run(
    request(['/bin/sh', '-c', script, 'sh', "o'ne two"], {
      env: { A: 'x y' },
      cwd: '/tmp',
      stdin: Buffer.from('in\n').toString('base64'),
    }),
  );
  assert.equal(text(reply.stdout), "in\nx y|/tmp|o'ne two|/root|root\n");
  assert.equal(text(reply.stderr), 'no\n');
  assert.deepEqual(reply.end, { kind: 'exited', status: 7 });
});

test('a program that reads gets end-of-file', { skip }, async () => {
  await using bed = await startAgent();
  assert.equal(await shell(bed.agent, 'cat; echo done'), 'done\n');
});

test('what cannot be run is said in a sentence', { skip }, async () => {
  await using bed = await startAgent();
  const refused = async (
    more: Parameters<typeof request>[1],
    argv: string[],
    words: RegExp,
  ): Promise<void> => {
    await assert.rejects(bed.agent.run(request(argv, more)), (error) => {
      assert.ok(isCarrelError(error, 'invalid_request'), String(error));
      assert.match(error.message, words);
      return true;
    });
  };
  await refused({}, ['no-such-program'], /no such program/);
  await refused({}, ['/etc/passwd'], /may not be executed/);
  await refused({ cwd: '/nowhere' }, ['true'], /no such directory/);
  await refused({ user: 'nobody-of-that-name' }, ['true'], /no such user/);
});

test('a signal is told by its name', { skip }, async () => {
  await using bed = await startAgent();
  const { end } = await bed.agent.run(request(['/bin/sh', '-c', 'kill -SEGV $$']));
  assert.deepEqual(end, { kind: 'signaled', signal: 'SIGSEGV' });
});

test('a program over its time is killed with all of its session', { skip }, async () => {
  await using bed = await startAgent();
  const { end, stdout } = await bed.agent.run(
    request(['/bin/sh', '-c', 'sleep 1000 & echo $!; sleep 1000'], { limitMs: 300 }),
  );
  assert.deepEqual(end, { kind: 'killed', reason: 'wall' });
  await until(5000, 'the background process to end', () => (alive(Number(text(stdout))) ? undefined : true));
});

test('one over its output is stopped at that byte', { skip }, async () => {
  await using bed = await startAgent();
  const { end, stdout } = await bed.agent.run(request(['yes'], { outputBytes: 700_001 }));
  assert.deepEqual(end, { kind: 'killed', reason: 'output' });
  assert.equal(Buffer.from(stdout, 'base64').length, 700_001);
});

test('a cancelled program is killed, and its reply says so', { skip }, async () => {
  await using bed = await startAgent();
  const cancel = new AbortController();
  const pending = bed.agent.run(request(['sleep', '1000']), { signal: cancel.signal });
  await sleep(50);
  cancel.abort();
  assert.deepEqual((await pending).end, { kind: 'killed', reason: 'cancelled' });
});

test('a program ends with itself, not with what it left behind', { skip }, async () => {
  await using bed = await startAgent();
  const { end, stdout } = await bed.agent.run(
    request(['/bin/sh', '-c', '(while :; do echo left 2>/dev/null || exit; done) & echo $!; exit 3']),
  );
  assert.deepEqual(end, { kind: 'exited', status: 3 });
  const pid = Number(
    text(stdout)
      .split('\n')
      .find((line) => /^\d+$/.test(line)),
  );
  await until(5000, 'SIGPIPE to end it', () => (alive(pid) ? undefined : true));
});

test('input of many windows arrives whole, output too', { skip }, async () => {
  await using bed = await startAgent();
  const bytes = randomBytes(3_000_000);
  const { stdout } = await bed.agent.run(
    request(['cat'], { stdin: bytes.toString('base64'), outputBytes: 4_000_000 }),
  );
  assert.ok(Buffer.from(stdout, 'base64').equals(bytes));
});

test('programs run side by side', { skip }, async () => {
  await using bed = await startAgent();
  const outputs = await Promise.all(
    Array.from({ length: 40 }, (_, i) => shell(bed.agent, `sleep 0.0${i % 10}; echo ${i}`)),
  );
  assert.deepEqual(
    outputs,
    outputs.map((_, i) => `${i}\n`),
  );
});

test('a program inherits nothing of the agent', { skip }, async () => {
  await using bed = await startAgent();
  assert.deepEqual((await shell(bed.agent, 'exec ls /proc/self/fd')).trim().split(/\s+/).length, 4);
  assert.match(
    await shell(bed.agent, 'grep -E "Sig(Blk|Ign)" /proc/self/status'),
    /SigBlk:\s+0+\nSigIgn:\s+0+\n/,
  );
});

const refused = (
  work: Promise<unknown>,
  code: 'too_large' | 'not_found' | 'invalid_request',
): Promise<void> => assert.rejects(work, (error) => isCarrelError(error, code));

test('files are read and written whole, through links, with their modes', { skip }, async () => {
  await using bed = await startAgent();
  const path = join(bed.directory, 'file');
  symlinkSync('file', join(bed.directory, 'link'));
  const bytes = randomBytes(1_500_000);
  writeFileSync(path, 'old');
  await bed.agent.writeFile(join(bed.directory, 'link'), bytes, { mode: 0o640 });
  assert.ok(readFileSync(path).equals(bytes));
  assert.equal(statSync(path).mode & 0o7777, 0o640);
  const read = await bed.agent.readFile(path, { maxBytes: 2_000_000 });
  assert.ok(Buffer.from(read.bytes).equals(bytes));
  assert.equal(read.mode, 0o640);
  assert.deepEqual(
    readdirSync(bed.directory).filter((name) => name.startsWith('.carrel')),
    [],
  );
  await refused(bed.agent.readFile(path, { maxBytes: 1000 }), 'too_large');
  await refused(bed.agent.readFile('/nowhere', { maxBytes: 1000 }), 'not_found');
  await refused(bed.agent.readFile('/dev/zero', { maxBytes: 1000 }), 'invalid_request');
  await refused(bed.agent.writeFile('/nowhere/file', bytes, { mode: 0o600 }), 'not_found');
  await refused(bed.agent.writeFile(bed.directory, bytes, { mode: 0o600 }), 'invalid_request');
  await bed.agent.writeFile(path, new Uint8Array(0), { mode: 0o600 });
  assert.equal(statSync(path).size, 0);
});

test(
  'a kept program has a terminal that is resized, written to, left and found again',
  { skip },
  async () => {
    await using bed = await startAgent();
    const all = (terminal: Awaited<ReturnType<typeof bed.agent.attachKept>>): string =>
      Buffer.from(terminal.read(0).bytes).toString();
    await bed.agent.startKept('k1', {
      argv: ['/bin/sh', '-c', 'tty; stty size; read line; stty size; echo "got $line"; sleep 1000'],
      env: {},
      cwd: '/',
      user: 'root',
      tty: { rows: 30, columns: 99 },
    });
    await assert.rejects(
      bed.agent.startKept('k1', { argv: ['true'], env: {}, cwd: '/', user: 'root', tty: null }),
      (error) => isCarrelError(error, 'wrong_state'),
    );
    const first = await bed.agent.attachKept('k1');
    await until(5000, 'its size', () => (all(first).includes('30 99') ? true : undefined));
    await first.resize({ rows: 11, columns: 22 });
    await first.write(Buffer.from('hello\r'));
    await until(5000, 'the answer', () => (all(first).includes('got hello') ? true : undefined));
    assert.match(all(first), /\/dev\/pts\/\d+\r\n30 99\r\nhello\r\n11 22\r\ngot hello\r\n/);
    first.close();
    const again = await bed.agent.attachKept('k1');
    assert.match(all(again), /got hello/);
    assert.equal(again.end, undefined);
    await bed.agent.dropKept('k1');
    await until(5000, 'its end', () => again.end);
    await assert.rejects(bed.agent.attachKept('k1'), (error) => isCarrelError(error, 'gone'));
    await bed.agent.dropKept('k1');
  },
);

test('of a kept flood the first and the last MiB are there', { skip }, async () => {
  await using bed = await startAgent();
  await bed.agent.startKept('flood', {
    argv: ['/bin/sh', '-c', 'seq 1 1000000; exit 5'],
    env: {},
    cwd: '/',
    user: 'root',
    tty: null,
  });
  const terminal = await bed.agent.attachKept('flood');
  const end = await until(20_000, 'its end', () => terminal.end);
  assert.deepEqual(end, { kind: 'exited', status: 5 });
  const start = terminal.read(0, 6);
  assert.equal(Buffer.from(start.bytes).toString(), '1\n2\n3\n');
  assert.equal(start.total, 6_888_896);
  const last = terminal.read(start.total - 16);
  assert.equal(Buffer.from(last.bytes).toString(), '999999\n1000000\n'.padStart(16, '\n'));
  const middle = terminal.read(3_000_000, 10);
  assert.equal(middle.from, start.total - 2 ** 20);
  terminal.close();
});

test('a new connection ends what the old one waited for, and leaves what is kept', { skip }, async () => {
  await using bed = await startAgent();
  await bed.agent.startKept('stays', { argv: ['sleep', '1000'], env: {}, cwd: '/', user: 'root', tty: null });
  let pid = 0;
  const lost = bed.agent.run(request(['/bin/sh', '-c', `echo $$ > ${bed.directory}/pid; exec sleep 1000`]));
  lost.catch(() => undefined);
  await until(5000, 'the program', () => {
    try {
      pid = Number(readFileSync(join(bed.directory, 'pid'), 'utf8'));
    } catch {
      return undefined;
    }
    return pid > 0 ? true : undefined;
  });
  bed.agent.close();
  await assert.rejects(lost, (error) => isCarrelError(error, 'machine_lost'));
  const second = await connectAgent(bed.socket, { limitMs: 5000 });
  await until(5000, 'the program to be killed', () => (alive(pid) ? undefined : true));
  const terminal = await second.attachKept('stays');
  assert.equal(terminal.end, undefined);
  await second.dropKept('stays');
  terminal.close();
  second.close();
});

test('an identity is written below the root given, and touches no kernel', { skip }, async () => {
  await using bed = await startAgent();
  for (const name of ['etc', 'root']) mkdirSync(join(bed.root, name));
  writeFileSync(
    join(bed.root, 'etc/shadow'),
    'daemon:*:1::::::\nroot:*:19000:0:99999:7:::\nnobody:*:1::::::\n',
    {
      mode: 0o640,
    },
  );
  const network = {
    name: 'n',
    address: '10.9.8.7',
    prefix: 24,
    gateway: '10.9.8.1',
    mac: '52:54:00:00:00:01',
  };
  const spec = {
    id: 'm-1',
    name: 'web',
    sshKeys: ['ssh-ed25519 AAAA you'],
    network: { ...network, bytesPerSecond: null },
  };
  const before = readFileSync('/proc/sys/kernel/hostname', 'utf8');
  const secrets = { ...makeSecrets(), passwordHash: '$6$abc$def' };
  const identity = makeIdentity(spec, secrets);
  await bed.agent.identify(identity);
  const read = (path: string): string => readFileSync(join(bed.root, path), 'utf8');
  assert.equal(readFileSync('/proc/sys/kernel/hostname', 'utf8'), before);
  assert.equal(read('etc/hostname'), 'web\n');
  assert.equal(read('etc/carrel/identity'), 'm-1\n');
  assert.equal(read('etc/machine-id'), `${secrets.machineId}\n`);
  assert.equal(read('root/.ssh/authorized_keys'), 'ssh-ed25519 AAAA you\n');
  assert.equal(read('etc/ssh/ssh_host_ed25519_key'), identity.hostKey.openssh);
  assert.equal(read('etc/resolv.conf'), 'nameserver 10.9.8.1\n');
  assert.equal(
    read('etc/shadow'),
    'daemon:*:1::::::\nroot:$6$abc$def:19000:0:99999:7:::\nnobody:*:1::::::\n',
  );
  assert.equal(statSync(join(bed.root, 'etc/shadow')).mode & 0o777, 0o640);
  assert.equal(statSync(join(bed.root, 'root')).mode & 0o777, 0o700);
  await bed.agent.setPassword('$6$x$y');
  assert.match(read('etc/shadow'), /\nroot:\$6\$x\$y:19000:/);
});

test(
  'with an identity the SSH server is started anew, unless it looks for its keys by itself',
  { skip },
  async () => {
    await using bed = await startAgent();
    for (const name of ['etc/carrel', 'root', 'run']) mkdirSync(join(bed.root, name), { recursive: true });
    writeFileSync(join(bed.root, 'etc/carrel/ssh'), '#!/bin/sh\necho "$1" >"${0%/etc/carrel/ssh}/begun"\n', {
      mode: 0o755,
    });
    const network = { name: 'n', address: '10.9.8.7', prefix: 24, gateway: '10.9.8.1', bytesPerSecond: null };
    const identity = makeIdentity(
      { id: 'm-1', name: 'web', sshKeys: [], network: { ...network, mac: '52:54:00:00:00:01' } },
      makeSecrets(),
    );
    const begun = join(bed.root, 'begun');
    const late = join(bed.root, 'run/carrel-late-ssh');
    writeFileSync(late, '');
    await bed.agent.identify(identity);
    assert.equal(existsSync(begun), false);
    rmSync(late);
    await bed.agent.identify(identity);
    const said = (): string | undefined => (existsSync(begun) && readFileSync(begun, 'utf8')) || undefined;
    assert.equal(await until(10_000, 'the script to run', said), 'restart\n');
  },
);

test('what would change this host is refused outside a guest', { skip }, async () => {
  await using bed = await startAgent();
  await assert.rejects(bed.agent.growRoot(), (error) => isCarrelError(error, 'forbidden'));
  for (const now of [false, true])
    await assert.rejects(bed.agent.powerOff({ now }), (error) => isCarrelError(error, 'forbidden'));
});

test('usage is told', { skip }, async () => {
  await using bed = await startAgent();
  const usage = await bed.agent.usage();
  assert.ok(usage.memoryAvailableBytes > 0 && usage.memoryBytes >= usage.memoryAvailableBytes);
  assert.ok(usage.diskBytes >= usage.diskUsedBytes && usage.processes > 1);
});
