import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launch, launchOk, launchService } from './launch.ts';
import { identify, isAlive } from './processes.ts';

test('what a helper did is a value', async () => {
  const result = await launch(['sh', '-c', 'cat; echo oops >&2; exit 3'], { input: 'hello' });
  assert.equal(result.stdout.toString(), 'hello');
  assert.equal(result.stderr.toString(), 'oops\n');
  assert.equal(result.status, 3);
  assert.equal(result.signal, null);
  assert.equal(result.timedOut, false);
});

test('arguments arrive as they are', async () => {
  const strange = ['', ' ', '"', "'", '$(id)', '`id`', '*', '-n', 'a\nb', 'ü', ';true'];
  const { stdout } = await launchOk(['printf', '%s\\0', ...strange]);
  assert.deepEqual(stdout.toString().split('\0').slice(0, -1), strange);
});

test('a failure says which helper, how, and its last words', async () => {
  await assert.rejects(launchOk(['sh', '-c', 'echo why >&2; exit 4']), {
    code: 'helper_failed',
    message: 'sh ended with status 4: why',
  });
  await assert.rejects(launchOk(['sh', '-c', 'kill -9 $$']), /ended by SIGKILL/);
  await assert.rejects(launch(['no-such-program']), { code: 'helper_failed', message: /ENOENT/ });
});

test('output beyond the limit is read and thrown away', async () => {
  const result = await launch(['sh', '-c', 'head -c 5000000 /dev/zero'], { maxOutputBytes: 1000 });
  assert.equal(result.stdout.length, 1000);
  assert.equal(result.truncated, true);
  assert.equal(result.status, 0);
});

test('a helper that takes too long is ended with all it started', async () => {
  const result = await launch(['sh', '-c', 'trap "" TERM; sleep 60 & echo $!; wait; wait'], {
    timeoutMs: 200,
    graceMs: 50,
  });
  assert.equal(result.timedOut, true);
  assert.equal(result.signal, 'SIGKILL');
  const pid = Number(result.stdout.toString());
  await until(5000, 'the grandchild to end', () => (identify(pid) === undefined ? true : undefined));
});

test('a grandchild that holds the pipes does not hold us', async () => {
  const result = await launch(['sh', '-c', 'sleep 60 & echo $!']);
  assert.equal(result.status, 0);
  const pid = Number(result.stdout.toString());
  await until(5000, 'the grandchild to end', () => (identify(pid) === undefined ? true : undefined));
});

test('an abort ends the helper', async () => {
  const controller = new AbortController();
  const running = launch(['sleep', '60'], { signal: controller.signal });
  controller.abort(new Error('enough'));
  await assert.rejects(running, /enough/);
  await assert.rejects(launch(['true'], { signal: controller.signal }), /enough/);
});

test('a service is ready when it says so, and ends when told', async () => {
  const service = await launchService(['sh', '-c', 'echo up; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'ignore'],
    ready: async ({ child }) =>
      await new Promise((resolve) => {
        child.stdout?.once('data', resolve);
      }),
  });
  assert.ok(isAlive(service.identity));
  assert.deepEqual(await service.stop(), { status: null, signal: 'SIGTERM' });
  assert.deepEqual(await service.stop(), { status: null, signal: 'SIGTERM' });
  assert.ok(!isAlive(service.identity));
});

test('a service that ends or hesitates before it is ready is an error with its last words', async () => {
  await assert.rejects(
    launchService(['sh', '-c', 'echo no luck >&2; exit 2'], {
      stdio: ['ignore', 'ignore', 'pipe'],
      explain: true,
      ready: async () => await new Promise(() => undefined),
    }),
    /status 2\) before it was ready: no luck/,
  );
  let pid = 0;
  await assert.rejects(
    launchService(['sleep', '60'], {
      readyMs: 50,
      ready: async ({ identity }) => {
        ({ pid } = identity);
        await new Promise(() => undefined);
      },
    }),
    { code: 'deadline_exceeded' },
  );
  assert.equal(identify(pid), undefined);
  await assert.rejects(launchService(['no-such-program']), /ENOENT/);
});
