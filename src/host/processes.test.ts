import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { until } from '#base/deadline.ts';
import { endProcess, identify, isAlive, openProcess, parseStat, signalProcess, statOf } from './processes.ts';

test('a stat line is read whatever the process calls itself', () => {
  fc.assert(
    fc.property(
      fc.string({ maxLength: 16 }),
      fc.nat(),
      fc.constantFrom('R', 'S', 'Z'),
      (name, time, state) => {
        const rest = Array.from({ length: 30 }, (_, index) => (index === 18 ? time : index + 1)).join(' ');
        const stat = parseStat(`42 (${name}) ${state} ${rest}\n`);
        assert.equal(stat?.name, name);
        assert.equal(stat?.startTime, String(time));
        assert.equal(stat?.state, state);
        assert.equal(stat?.parent, 1);
      },
    ),
  );
  for (const bad of ['', '42', '42 (sh', '42 sh) S 1', '(sh) S 1 2 3', '42 (sh) S 1 2 3'])
    assert.equal(parseStat(bad), undefined);
});

test('noise is never a process', () => {
  fc.assert(fc.property(fc.string(), (text) => parseStat(text)?.startTime === undefined || /\d/.test(text)));
});

test('a process is itself until it ends, and a pid alone is not enough', async () => {
  const child = spawn('sleep', ['60']);
  const identity = identify(child.pid ?? 0);
  assert.ok(identity);
  assert.ok(isAlive(identity));
  const impostor = { ...identity, startTime: '1' };
  assert.ok(!isAlive(impostor));
  assert.equal(openProcess(impostor), undefined);
  assert.equal(signalProcess(impostor, 'SIGKILL'), false);
  assert.ok(isAlive(identity));
  assert.equal(signalProcess(identity, 'SIGKILL'), true);
  await once(child, 'exit');
  assert.ok(!isAlive(identity));
  assert.equal(signalProcess(identity, 'SIGKILL'), false);
});

test('a zombie is dead', async () => {
  // a shell that does not wait for its child
  const shell = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [line]: unknown[] = await once(shell.stdout, 'data');
  const pid = Number(String(line));
  await until(5000, 'a zombie', () => (statOf(pid)?.state === 'Z' ? true : undefined));
  assert.equal(identify(pid), undefined);
  shell.kill('SIGKILL');
  await once(shell, 'exit');
});

test('a process that ignores SIGTERM is killed after its grace', async () => {
  const child = spawn('sh', ['-c', 'trap "" TERM; echo ready; while :; do sleep 1; done'], {
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
  });
  await once(child.stdout, 'data');
  const identity = identify(child.pid ?? 0);
  assert.ok(identity);
  const exit = once(child, 'exit');
  await endProcess(identity, { graceMs: 50 });
  assert.deepEqual(await exit, [null, 'SIGKILL']);
  await endProcess(identity);
});
