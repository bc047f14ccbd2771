/** `isolate PROGRAM [ARGS...]`, cases O30 to O35 of the catalogue. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isolateBinary } from './server.ts';
import { gone, processesWith, skip } from './testing.ts';

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const nobody = { uid: 65_534, gid: 65_534 };

async function isolate(argv: readonly string[], as: { uid?: number; gid?: number } = {}): Promise<Outcome> {
  return await new Promise((resolve) => {
    const child = execFile(isolateBinary, argv, { cwd: '/', timeout: 10_000, ...as }, (_, stdout, stderr) =>
      resolve({ status: child.exitCode, stdout, stderr }),
    );
  });
}

for (const [who, as] of [
  ['root', {}],
  ['an ordinary user', nobody],
] as const) {
  test(`as ${who}: without arguments it tells its usage (O30)`, { skip }, async () => {
    const { status, stdout, stderr } = await isolate([], as);
    assert.equal(status, 1);
    assert.match(stdout + stderr, /^usage: isolate PROGRAM \[ARGS\.\.\.\]$/m);
  });

  test(`as ${who}: ps shows exactly one process, number 1 (O31)`, { skip }, async () => {
    const { status, stdout } = await isolate(['ps', 'aux'], as);
    assert.equal(status, 0);
    const lines = stdout.trim().split('\n');
    assert.equal(lines.length, 2);
    assert.match(lines[1] ?? '', /^\S+\s+1\s.*ps aux$/);
  });

  test(`as ${who}: the host name is isolated, and the host keeps its own (O32)`, { skip }, async () => {
    const before = hostname();
    assert.equal((await isolate(['hostname'], as)).stdout, 'isolated\n');
    assert.equal(hostname(), before);
  });

  test(`as ${who}: the exit status is the program's, and its id is 0 (O33)`, { skip }, async () => {
    assert.equal((await isolate(['sh', '-c', 'exit 7'], as)).status, 7);
    assert.equal((await isolate(['id', '-u'], as)).stdout, '0\n');
  });

  test(`as ${who}: the outer end of the cable answers (O34)`, { skip }, async () => {
    const { stdout } = await isolate(['busybox', 'ping', '-c', '1', '-W', '2', '10.11.12.13'], as);
    assert.match(stdout, /1 packets received/);
  });

  test(
    `as ${who}: ten runs in a row, and ten at once, all succeed and leave nothing (O35)`,
    { skip },
    async () => {
      const links = readFileSync('/proc/net/dev', 'utf8').split('\n').length;
      const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
      for (let round = 0; round < 10; round += 1) assert.equal((await isolate(['true'], as)).status, 0);
      const together = await Promise.all(Array.from({ length: 10 }, () => isolate(['true'], as)));
      assert.deepEqual(
        together.map(({ status }) => status),
        Array.from({ length: 10 }, () => 0),
      );
      assert.equal(readFileSync('/proc/net/dev', 'utf8').split('\n').length, links);
      assert.equal(readFileSync('/proc/self/mountinfo', 'utf8'), mounts);
    },
  );
}

test(
  'a program that does not exist is 127 with a sentence, one that may not run is 126',
  { skip },
  async () => {
    const missing = await isolate(['no-such-program-here']);
    assert.equal(missing.status, 127);
    assert.match(missing.stderr, /no-such-program-here: command not found/);
    assert.equal((await isolate(['/etc/passwd'])).status, 126);
  },
);

test('a death by signal is 128 and the signal', { skip }, async () => {
  assert.equal((await isolate(['sh', '-c', 'sh -c "kill -TERM \\$\\$"; exit $?'])).status, 128 + 15);
});

test('an interrupt ends a program that would ignore it as process 1', { skip }, async () => {
  const child = spawn(isolateBinary, ['sleep', '8191.5'], { stdio: 'ignore' });
  await until(5000, 'the program to start', () => processesWith('sleep\x008191.5').length === 2 || undefined);
  child.kill('SIGTERM');
  const status = await new Promise((resolve) => child.once('close', resolve));
  assert.equal(status, 128 + 15);
  await gone('8191.5');
});

test('when the command is killed nothing survives it', { skip }, async () => {
  const child = spawn(isolateBinary, ['sh', '-c', 'sleep 8192.5 & sleep 8192.5'], { stdio: 'ignore' });
  await until(5000, 'the program to start', () => processesWith('sleep\x008192.5').length >= 2 || undefined);
  child.kill('SIGKILL');
  await new Promise((resolve) => child.once('close', resolve));
  await gone('8192.5');
});
