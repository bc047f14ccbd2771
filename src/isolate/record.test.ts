import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { availableRanges, readRecord } from './record.ts';

/** Writes the file as the keeper would have after `total` bytes; byte n has the value n % 251. */
function makeRecord(path: string, total: number, head: number, ring: number): void {
  const file = Buffer.alloc(4096 + head + ring);
  file.write('CARRELR1', 'latin1');
  for (const [index, value] of [total, head, ring].entries())
    file.writeBigUInt64LE(BigInt(value), 8 + 8 * index);
  for (let n = 0; n < total; n += 1) file[4096 + (n < head ? n : head + ((n - head) % ring))] = n % 251;
  writeFileSync(path, file);
}

test('every byte that is kept is found under its own number, and no other', () => {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-record-'));
  const path = join(directory, 'record');
  try {
    fc.assert(
      fc.property(
        fc.nat(400),
        fc.nat(64),
        fc.integer({ min: 1, max: 64 }),
        fc.nat(420),
        fc.integer({ min: 1, max: 200 }),
        (total, head, ring, from, maxBytes) => {
          makeRecord(path, total, head, ring);
          const kept = from < total && (from < head || from >= Math.max(head, total - ring));
          if (!kept && from !== total) {
            assert.throws(
              () => readRecord(path, from),
              (error) => isCarrelError(error, 'gone') && Array.isArray(error.details?.['available']),
            );
            return;
          }
          const part = readRecord(path, from, { maxBytes });
          assert.equal(part.total, total);
          assert.equal(part.bytes.length > 0, kept);
          assert.ok(part.bytes.length <= maxBytes);
          for (const [index, byte] of part.bytes.entries()) assert.equal(byte, (from + index) % 251);
        },
      ),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('the ranges are one piece until the ring has lost something', () => {
  assert.deepEqual(availableRanges({ total: 5, head: 10, ring: 4 }), [[0, 5]]);
  assert.deepEqual(availableRanges({ total: 14, head: 10, ring: 4 }), [[0, 14]]);
  assert.deepEqual(availableRanges({ total: 15, head: 10, ring: 4 }), [
    [0, 10],
    [11, 15],
  ]);
});
