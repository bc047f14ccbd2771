import assert from 'node:assert/strict';
import { test } from 'node:test';
import { untilAtRest, watchRest } from './rest.ts';

const signal = AbortSignal.timeout(60_000);

test('a machine that uses nothing comes to rest, one that is off is at rest, and one that never rests is not waited for', async () => {
  await untilAtRest(watchRest({ cpuMs: async () => 7 }, { idleMs: 200 }), signal);
  assert.equal(await watchRest({ cpuMs: async () => null })(), true);
  let cpuMs = 0;
  const busy = { cpuMs: async () => (cpuMs += 1000) };
  await untilAtRest(watchRest(busy, { patienceMs: 300 }), signal);
  assert.equal(await watchRest(busy)(), false);
});

test('what it does while it is watched begins the waiting anew', async () => {
  let cpuMs = 0;
  let looks = 0;
  const atRest = watchRest(
    {
      async cpuMs() {
        looks += 1;
        if (looks < 20) cpuMs += 1000;
        return cpuMs;
      },
    },
    { idleMs: 100 },
  );
  await untilAtRest(atRest, signal);
  assert.ok(looks >= 20);
});

test('who waits is let go when his work is broken off', async () => {
  const given = AbortSignal.abort(new Error('enough'));
  await assert.rejects(untilAtRest(watchRest({ cpuMs: async () => 0 }), given), { message: 'enough' });
});
