import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { createSlotPool } from './slots.ts';

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function makePool(
  size: number,
  queue = 100,
): { pool: ReturnType<typeof createSlotPool<{ ok: boolean }>>; opened: () => number } {
  let count = 0;
  const pool = createSlotPool<{ ok: boolean }>({
    size,
    queue,
    open: () => {
      count += 1;
      return Promise.resolve({ ok: true });
    },
    usable: (slot) => slot.ok,
    close: () => Promise.resolve(),
  });
  return { pool, opened: () => count };
}

test('callers are served in the order they came, never more at once than there are slots', async () => {
  const { pool } = makePool(2);
  const order: number[] = [];
  let now = 0;
  let most = 0;
  await Promise.all(
    Array.from({ length: 20 }, (_, index) =>
      pool.use(async () => {
        order.push(index);
        now += 1;
        most = Math.max(most, now);
        await settle();
        now -= 1;
      }),
    ),
  );
  assert.deepEqual(
    order,
    Array.from({ length: 20 }, (_, index) => index),
  );
  assert.equal(most, 2);
});

test('a broken slot is made anew, and only its own caller sees the failure', async () => {
  const { pool, opened } = makePool(1);
  await assert.rejects(
    pool.use((slot) => {
      slot.ok = false;
      return Promise.reject(new Error('broken'));
    }),
    /broken/,
  );
  assert.equal(await pool.use((slot) => Promise.resolve(slot.ok)), true);
  assert.equal(opened(), 2);
});

test('a full queue refuses, an aborted waiter leaves it, and closing ends all', async () => {
  const { pool } = makePool(1, 1);
  const gate = Promise.withResolvers<void>();
  const first = pool.use(() => gate.promise);
  const leaving = new AbortController();
  const second = pool.use(() => Promise.resolve(), { signal: leaving.signal });
  await settle();
  await assert.rejects(
    pool.use(() => Promise.resolve()),
    (error) => isCarrelError(error, 'no_capacity'),
  );
  leaving.abort(new Error('left'));
  await assert.rejects(second, /left/);
  const third = pool.use(() => Promise.resolve());
  await settle();
  const closing = pool.close();
  await assert.rejects(third, (error) => isCarrelError(error, 'unavailable'));
  gate.resolve();
  await Promise.all([first, closing]);
});
