import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CarrelError } from '#base/errors.ts';
import { isRetriable } from '#jobs/types.ts';
import { interruption } from './grade.ts';

test('whatever interrupts a grading is tried again, and what it was is kept', () => {
  const gone = new CarrelError('internal', 'Isolation failed at target pid namespace: No such process');
  for (const error of [
    gone,
    new CarrelError('cancelled', 'machine grade-1 was deleted meanwhile'),
    new CarrelError('deadline_exceeded', 'waited 5000 ms for an answer'),
    new CarrelError('wrong_state', 'Machine m-1 runs already'),
    new TypeError('a mistake of ours'),
  ]) {
    const seen = interruption(error);
    assert.ok(isRetriable(seen.code), error.message);
    assert.match(seen.message, new RegExp(`: ${error.message}$`, 'v'));
    assert.equal(seen.cause, error);
  }
});

test('an error that says by itself whether to try again stays what it is', () => {
  for (const code of ['unavailable', 'machine_lost', 'disk_full', 'host_unsupported'] as const) {
    const error = new CarrelError(code, 'so it is');
    assert.equal(interruption(error), error);
  }
});
