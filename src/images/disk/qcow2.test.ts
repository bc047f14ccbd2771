import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { parseQcow2 } from './qcow2.ts';

const GiB = 2 ** 30;
const limits = { virtualBytes: 16 * GiB };
const fileBytes = 4 * 65_536;

type Patch = (head: Buffer) => void;

/** A whole header of a disk of 1 GiB in clusters of 64 KiB, then what a test does to it. */
function header(...patches: Patch[]): Buffer {
  const head = Buffer.alloc(65_536);
  head.writeUInt32BE(0x514649fb, 0);
  head.writeUInt32BE(3, 4);
  head.writeUInt32BE(16, 20);
  head.writeBigUInt64BE(BigInt(GiB), 24);
  head.writeUInt32BE(2, 36);
  head.writeBigUInt64BE(3n * 65_536n, 40);
  head.writeBigUInt64BE(65_536n, 48);
  head.writeUInt32BE(1, 56);
  head.writeUInt32BE(4, 96);
  head.writeUInt32BE(104, 100);
  for (const patch of patches) patch(head);
  return head;
}

const u32 =
  (at: number, value: number): Patch =>
  (head) =>
    void head.writeUInt32BE(value, at);
const u64 =
  (at: number, value: bigint): Patch =>
  (head) =>
    void head.writeBigUInt64BE(value, at);
const extension =
  (type: number, length = 8): Patch =>
  (head) => {
    head.writeUInt32BE(type, 104);
    head.writeUInt32BE(length, 108);
  };

test('a sound header says how long the disk is', () => {
  assert.deepEqual(parseQcow2(header(), fileBytes, limits), {
    version: 3,
    clusterBytes: 65_536,
    virtualBytes: GiB,
  });
  // Version 2 has no features; what lies there is something else.
  assert.equal(parseQcow2(header(u32(4, 2), u64(72, 0n)), fileBytes, limits).version, 2);
  // The names of features, and "not closed properly", are no reason to refuse.
  parseQcow2(header(extension(0x6803f857, 144), u64(72, 1n)), fileBytes, limits);
});

const refused: readonly [string, RegExp, ...Patch[]][] = [
  ['another magic number', /not a qcow2 file/, u32(0, 0x514649fc)],
  ['version 4', /version 4/, u32(4, 4)],
  ['a backing file', /backing file/, u64(8, 512n), u32(16, 11)],
  ['the length of a backing file alone', /backing file/, u32(16, 11)],
  ['the format of a backing file', /below it/, extension(0xe2792aca)],
  ['a data file by its name', /another file/, extension(0x44415441)],
  ['a data file by its feature', /another file/, u64(72, 4n)],
  ['encryption', /encrypted/, u32(32, 2)],
  ['an encryption header', /encrypted/, extension(0x0537be77)],
  ['a mark of corruption', /corrupt/, u64(72, 2n)],
  ['a feature that nobody knows', /not known here/, u64(72, 1n << 40n)],
  ['clusters of 256 bytes', /clusters/, u32(20, 8)],
  ['clusters of 2^63 bytes', /clusters/, u32(20, 63)],
  ['no size', /claims to hold 0/, u64(24, 0n)],
  ['half a sector', /claims to hold/, u64(24, 100n)],
  ['64 EiB', /larger than 16 GiB/, u64(24, 2n ** 64n - 512n)],
  ['a first table of 4 billion entries', /first table/, u32(36, 0xffffffff)],
  ['a first table that is too short', /first table/, u32(36, 1)],
  ['a first table outside', /first table/, u64(40, 2n ** 62n)],
  ['a first table on the header', /first table/, u64(40, 0n)],
  ['a first table between clusters', /first table/, u64(40, 65_537n)],
  ['no refcounts', /refcounts/, u32(56, 0)],
  ['a huge table of refcounts', /refcounts/, u32(56, 0x10000)],
  ['refcounts outside', /refcounts/, u64(48, 2n ** 40n)],
  ['refcounts of 2^200 bits', /refcounts/, u32(96, 200)],
  ['snapshots', /snapshots/, u32(60, 1)],
  ['a header of 4 GiB', /impossible length/, u32(100, 0xfffffff8)],
  ['an extension of 4 GiB', /extension/, extension(0x12345678, 0xffffffff)],
];

for (const [what, sentence, ...patches] of refused)
  test(`a qcow2 file with ${what} is refused`, () => {
    assert.throws(
      () => parseQcow2(header(...patches), fileBytes, limits),
      (error) => error instanceof CarrelError && error.status < 500 && sentence.test(error.message),
    );
  });

test('a file that is cut off anywhere is refused', () => {
  for (let length = 0; length < 104; length += 1)
    assert.throws(() => parseQcow2(header().subarray(0, length), length, limits), CarrelError);
  assert.throws(
    () => parseQcow2(header(), 3 * 65_536 + 15, limits),
    (error) => isCarrelError(error, 'validation_failed') && /cut off/.test(error.message),
  );
});

test('whatever the bytes are, the answer is a disk within the limits or a sentence', () => {
  const patch = fc.record({ at: fc.integer({ min: 0, max: 200 }), byte: fc.integer({ min: 0, max: 255 }) });
  fc.assert(
    fc.property(
      fc.array(patch, { maxLength: 12 }),
      fc.integer({ min: 0, max: 2 ** 40 }),
      (patches, length) => {
        const head = header();
        for (const { at, byte } of patches) head[at] = byte;
        try {
          const { virtualBytes } = parseQcow2(
            head.subarray(0, Math.min(head.length, length)),
            length,
            limits,
          );
          assert.ok(virtualBytes > 0 && virtualBytes <= limits.virtualBytes);
          assert.ok(head.readUInt32BE(36) * 8 <= 32 * 2 ** 20);
          assert.equal(head.readUInt32BE(16), 0);
        } catch (error) {
          assert.ok(error instanceof CarrelError, String(error));
        }
      },
    ),
    { numRuns: 3000 },
  );
});
