import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { test } from 'node:test';
import { sleep, unlessAborted, within } from './deadline.ts';

test('work that fails after its signal was aborted is nobody’s unhandled rejection', async (t) => {
  for (const already of [true, false])
    await t.test(already ? 'aborted before' : 'aborted meanwhile', async () => {
      const { promise: work, reject } = Promise.withResolvers<never>();
      const stop = new AbortController();
      if (already) stop.abort(new Error('stopped'));
      const waiting = unlessAborted(stop.signal, work);
      stop.abort(new Error('stopped'));
      await assert.rejects(waiting, { message: 'stopped' });
      reject(new Error('too late'));
      await setImmediate(); // the runner fails the test if it is told of the rejection
    });
});

test('work that is not aborted gives its value, or its error', async () => {
  const { signal } = new AbortController();
  assert.equal(await unlessAborted(signal, Promise.resolve(7)), 7);
  await assert.rejects(unlessAborted(signal, Promise.reject(new Error('broken'))), { message: 'broken' });
});

test('a time that no timer holds is a long one, and not none at all', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const stop = new AbortController();
  const monthMs = 30 * 86_400_000;
  const slept = sleep(monthMs, stop.signal);
  const { promise: work, resolve } = Promise.withResolvers<number>();
  const waited = within(monthMs, 'the work', work);
  t.mock.timers.tick(86_400_000);
  stop.abort(new Error('not over yet'));
  resolve(7);
  await assert.rejects(slept, { message: 'not over yet' });
  assert.equal(await waited, 7);
});
