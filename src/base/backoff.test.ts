import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { pauseAfter } from './backoff.ts';

test('the more often it has failed the longer the pause, and never longer than the longest', () => {
  const limits = { firstMs: 1000, longestMs: 60_000 };
  assert.deepEqual(
    [0, 1, 2, 3].map((failures) => pauseAfter(failures, limits)),
    [1000, 1000, 2000, 4000],
  );
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 3000 }), (failures) => {
      const pause = pauseAfter(failures, limits);
      assert.ok(pause >= 1000 && pause <= pauseAfter(failures + 1, limits) && pause <= 60_000);
    }),
  );
});
