import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { createRateLimiter } from './rate.ts';

/** How many of `count` requests at one instant pass. */
function passing(take: () => void, count: number): number {
  let passed = 0;
  for (let index = 0; index < count; index += 1)
    try {
      take();
      passed += 1;
    } catch (error) {
      assert.ok(isCarrelError(error, 'quota_exceeded'));
    }
  return passed;
}

test('a caller may send a burst, then as many as come back with time', () => {
  const limiter = createRateLimiter({ perSecond: 10, burst: 20 });
  assert.equal(
    passing(() => limiter.take('a', 0), 50),
    20,
  );
  assert.equal(
    passing(() => limiter.take('a', 500), 50),
    5,
  );
  assert.equal(
    passing(() => limiter.take('a', 60_000), 50),
    20,
  );
});

test('callers do not pay for each other, and only so many are remembered', () => {
  const limiter = createRateLimiter({ perSecond: 1, burst: 1, callers: 2 });
  assert.equal(
    passing(() => limiter.take('a', 0), 3),
    1,
  );
  assert.equal(
    passing(() => limiter.take('b', 0), 3),
    1,
  );
  assert.equal(
    passing(() => limiter.take('c', 0), 3),
    1,
  );
  assert.equal(
    passing(() => limiter.take('a', 0), 1),
    1,
    'the one seen longest ago was forgotten',
  );
});
