import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { sizeOf } from './sizes.ts';

test('units are binary, whatever they are called', () => {
  for (const [text, bytes] of [
    ['2G', 2_147_483_648],
    ['10G', 10_737_418_240],
    ['1.5G', 1_610_612_736],
    ['512M', 536_870_912],
    ['512', 512],
    ['0', 0],
    ['1KB', 1024],
    ['1KiB', 1024],
    ['1 kb', 1024],
    ['3 megabytes', 3 * 2 ** 20],
    ['1 mebibyte', 2 ** 20],
    ['7 bytes', 7],
    ['7b', 7],
    ['1.9', 1],
    ['1t', 2 ** 40],
  ] as const)
    assert.equal(sizeOf(text), bytes, text);
});

test('a number counts bytes', () => {
  assert.equal(sizeOf(1_073_741_824), 1_073_741_824);
  assert.equal(sizeOf(10.7), 10);
});

test('what is no size is none', () => {
  for (const value of [
    'lots',
    'xx',
    '',
    'G',
    '-1G',
    '1e3',
    '1.G',
    '.5G',
    '2Gfoo',
    '1 2',
    '9'.repeat(30),
    '5 bananas',
  ])
    assert.equal(sizeOf(value), undefined, value);
  for (const value of [-1, Number.NaN, Infinity, 1e300, true, null, {}, ['2G']])
    assert.equal(sizeOf(value), undefined);
});

test('any text gives a whole number of bytes or nothing', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.string(), fc.stringMatching(/^\d{1,6}(\.\d{1,3})? ?[kMgTp]?(ib|B)?$/)),
      (text) => {
        const size = sizeOf(text);
        assert.ok(size === undefined || (Number.isSafeInteger(size) && size >= 0));
      },
    ),
  );
});
