import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { hexDump } from './hexdump.ts';

test('a dump has the address, the bytes in two halves, letters, and the address behind', () => {
  assert.equal(
    hexDump(Buffer.from('Hello, world!\n\u00002x'), 0x400),
    [
      '00000400  48 65 6c 6c 6f 2c 20 77  6f 72 6c 64 21 0a 00 32  |Hello, world!..2|',
      '00000410  78                                                |x|',
      '00000411',
    ].join('\n'),
  );
});

test('lines like the one before are one star', () => {
  assert.deepEqual(hexDump(new Uint8Array(64), 0).split('\n').slice(1), ['*', '00000040']);
});

const tool = spawnSync('hexdump', ['-V']).error ? 'hexdump(1) is not installed' : false;
test('hexdump -C writes the same', { skip: tool }, () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 100, max: 2 }), (bytes) => {
      const { stdout } = spawnSync('hexdump', ['-C', '-v'], { input: bytes });
      const starless = hexDump(bytes, 0).split('\n');
      if (!starless.includes('*')) assert.equal(`${starless.join('\n')}\n`, stdout.toString('latin1'));
    }),
    { numRuns: 20 },
  );
});
