import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { encodePlan, maxPlanBytes, op, type Operation } from './plan.ts';

const word = fc.string({ unit: 'binary', maxLength: 40 }).map((text) => text.replaceAll('\0', ''));

test('a plan is its operations and arguments in order, each ended by a NUL', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(word, word, word), { minLength: 1 }), (rows) => {
      const operations: Operation[] = rows;
      const decoded = encodePlan(operations).toString().split('\0');
      assert.equal(decoded.pop(), '');
      assert.deepEqual(
        decoded,
        rows.flat().map((text) => Buffer.from(text).toString()),
      );
    }),
  );
});

test('text with a NUL is refused: it would be another operation', () => {
  for (const operation of [op.arg('a\0seccomp'), op.env('A', 'b\0c'), op.bind('/a\0', '/b', [])])
    assert.throws(
      () => encodePlan([operation]),
      (error) => isCarrelError(error, 'validation_failed'),
    );
});

test('a plan over the limit is refused before it is sent', () => {
  assert.throws(
    () => encodePlan([op.arg('x'.repeat(maxPlanBytes))]),
    (error) => isCarrelError(error, 'too_large'),
  );
});

test('numbers that are not whole, negative or out of range are refused', () => {
  fc.assert(
    fc.property(fc.oneof(fc.double({ max: -0.1 }), fc.constantFrom(NaN, Infinity, 0.5, 2 ** 60)), (value) => {
      assert.throws(
        () => op.limit('wall_ms', value),
        (error) => isCarrelError(error, 'validation_failed'),
      );
    }),
  );
});
