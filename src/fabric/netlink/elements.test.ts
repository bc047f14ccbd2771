import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { concatenate, markKey, nameKey } from './elements.ts';

test('fields of a key keep their bytes, each from a register on', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 20 })), (fields) => {
      const key = concatenate(fields);
      let at = 0;
      for (const field of fields) {
        assert.deepEqual(Uint8Array.from(key.subarray(at, at + field.length)), field);
        at += Math.ceil(field.length / 4) * 4;
      }
      assert.equal(key.length, at);
    }),
  );
});

test('a name is a key of sixteen bytes that ends with a NUL, a mark one of four', () => {
  assert.deepEqual(Buffer.from(nameKey('v-abcdefghijkl')), Buffer.from('v-abcdefghijkl\0\0'));
  assert.equal(nameKey('x'.repeat(40))[15], 0);
  assert.deepEqual([...markKey(0x01020304)], [4, 3, 2, 1]);
});
