import assert from 'node:assert/strict';
import { test } from 'node:test';
import { kindOf } from './probe.ts';

test('KVM is real if it runs paged guests, emulating if only others', () => {
  assert.equal(kindOf({ real: true, paged: true }), 'real');
  assert.equal(kindOf({ real: true, paged: false }), 'emulating');
  assert.equal(kindOf({ real: false, paged: false }), 'broken');
});
