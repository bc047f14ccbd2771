import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { type Service, launchService } from '#host/launch.ts';
import { isAlive } from '#host/processes.ts';
import { supervise } from './supervisor.ts';

async function sleeper(): Promise<Service> {
  return await launchService(['sleep', '60']);
}

async function kill(service: Service): Promise<void> {
  await service.stop({ graceMs: 100 });
}

test('a child that ends is started again, until it is told to stop', async () => {
  const supervised = supervise({ name: 'sleeper', start: sleeper, firstMs: 1 });
  await supervised.attempted;
  for (let round = 1; round <= 3; round += 1) {
    const { current } = supervised;
    assert.ok(current);
    process.kill(current.identity.pid, 'SIGKILL');
    await until(5000, 'another one', () => {
      const next = supervised.current;
      return next && next !== current ? next : undefined;
    });
    assert.equal(supervised.restarts, round);
  }
  const last = supervised.current;
  await supervised.stop(kill);
  await supervised.ended;
  assert.ok(last && !isAlive(last.identity));
  assert.equal(supervised.current, undefined);
});

test('a child that dies at work is never given up, one that never worked is', async () => {
  let killings = 0;
  const dies = async (): Promise<Service> => {
    killings += 1;
    return await launchService(['false']);
  };
  const working = supervise({
    name: 'worker',
    start: dies,
    firstMs: 1,
    maxMs: 1,
    giveUpAfter: 3,
    worked: () => true,
  });
  await until(10_000, 'ten deaths', () => (killings >= 10 ? true : undefined));
  await working.stop(kill);
  await working.ended;
  const idle = supervise({ name: 'idler', start: dies, firstMs: 1, maxMs: 1, giveUpAfter: 3 });
  await assert.rejects(idle.ended, /idler ended 3 times in a row/);
});

test('told to stop while the child is being started, it ends the child', async () => {
  const { promise: gate, resolve: open } = Promise.withResolvers<void>();
  let started: Service | undefined;
  const supervised = supervise({
    name: 'slow',
    start: async () => {
      await gate;
      started = await sleeper();
      return started;
    },
  });
  const stopped = supervised.stop(kill);
  open();
  await stopped;
  assert.ok(started && !isAlive(started.identity));
});

test('told to stop during the pause before the next start, it does not wait for it', async () => {
  const supervised = supervise({
    name: 'broken',
    firstMs: 60_000,
    maxMs: 60_000,
    start: async () => await Promise.reject(new Error('no luck')),
  });
  await supervised.attempted;
  await until(5000, 'a reason', () => (supervised.reason === 'no luck' ? true : undefined));
  await supervised.stop(kill);
  await supervised.ended;
});

test('after too many early deaths it gives up and says why', async () => {
  let starts = 0;
  const supervised = supervise({
    name: 'broken',
    firstMs: 1,
    giveUpAfter: 4,
    start: async () => {
      starts += 1;
      return await launchService(['false']);
    },
  });
  await assert.rejects(supervised.ended, {
    code: 'unavailable',
    message: /4 times in a row: broken ended \(status 1\)/,
  });
  assert.equal(starts, 4);
});
