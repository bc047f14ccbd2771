import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test, type TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';
import { isCarrelError } from '#base/errors.ts';
import { kickedMs, startMs, supervise } from './supervise.ts';

type Said = { readonly kind: 'began' } | { readonly kind: 'ended'; readonly report: number };

const internal = (error: unknown): boolean => isCarrelError(error, 'internal');

/** A thread that says what it is told to say; our clock stands still. */
function start(t: TestContext): {
  thread: Worker;
  kicks: () => number;
  run: (signal: AbortSignal, limitMs?: number) => Promise<unknown>;
} {
  const thread = new Worker(
    `require('worker_threads').parentPort.on('message', (what) => { require('worker_threads').parentPort.postMessage(what) })`,
    {
      eval: true,
    },
  );
  t.after(async () => void (await thread.terminate()));
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let kicks = 0;
  return {
    thread,
    kicks: () => kicks,
    run: async (signal, limitMs = 1000) =>
      await supervise<Said, number>(thread, {
        begin: () => undefined,
        kick: () => (kicks += 1),
        limitMs,
        signal,
        hear: (message) => message,
      }),
  };
}

test('a thread that is stopped before it begins has the time that beginning takes', async (t) => {
  const { thread, kicks, run } = start(t);
  const running = run(AbortSignal.abort());
  t.mock.timers.tick(startMs - 1);
  thread.postMessage({ kind: 'began' } satisfies Said);
  thread.postMessage({ kind: 'ended', report: 7 } satisfies Said);
  assert.deepEqual(await running, { report: 7, why: { kind: 'stopped' } });
  assert.equal(kicks(), 1);
});

test('a thread that does not begin, or does not stop, is given up', async (t) => {
  const { thread, kicks, run } = start(t);
  const never = run(AbortSignal.abort());
  t.mock.timers.tick(startMs);
  await assert.rejects(never, internal);

  const abort = new AbortController();
  const stuck = run(abort.signal);
  const heard = once(thread, 'message');
  thread.postMessage({ kind: 'began' } satisfies Said);
  await heard;
  t.mock.timers.tick(1000);
  assert.equal(kicks(), 2, 'the limit is over');
  t.mock.timers.tick(kickedMs);
  await assert.rejects(stuck, internal);
});

test('a limit of more days than a timer holds does not end a run at once', async (t) => {
  const { thread, kicks, run } = start(t);
  const running = run(new AbortController().signal, 30 * 86_400_000);
  const heard = once(thread, 'message');
  thread.postMessage({ kind: 'began' } satisfies Said);
  await heard;
  t.mock.timers.tick(86_400_000);
  assert.equal(kicks(), 0);
  thread.postMessage({ kind: 'ended', report: 7 } satisfies Said);
  assert.deepEqual(await running, { report: 7, why: { kind: 'stopped' } });
});
