import assert from 'node:assert/strict';
import { test } from 'node:test';
import { answer, createEventfd, ring } from './eventfd.ts';

test('an eventfd counts how often it was rung, from zero each time it is answered', () => {
  using bell = createEventfd();
  assert.equal(answer(bell.fd), 0);
  ring(bell.fd);
  ring(bell.fd);
  assert.equal(answer(bell.fd), 2);
  assert.equal(answer(bell.fd), 0);
});
