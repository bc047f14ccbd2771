import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { fuzzRuns } from '#base/fuzz.ts';
import { windowBytes } from '../layout.ts';
import { long } from '../modes/long.ts';
import { readElf } from './elf.ts';
import { flatImage, type GuestImage } from './image.ts';
import { placeTables } from './place.ts';

/** One segment with this content at 0, as a linker for x86-64 would write it. */
function program(content: Uint8Array, { at = 0, entry = 0, memoryBytes = content.length } = {}): Uint8Array {
  const file = new Uint8Array(120 + content.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // EXEC
  view.setUint16(18, 62, true); // x86-64
  view.setBigUint64(24, BigInt(entry), true);
  view.setBigUint64(32, 64n, true); // program headers follow
  view.setUint16(54, 56, true);
  view.setUint16(56, 1, true);
  view.setUint32(64, 1, true); // LOAD
  view.setBigUint64(72, 120n, true);
  view.setBigUint64(88, BigInt(at), true);
  view.setBigUint64(96, BigInt(content.length), true);
  view.setBigUint64(104, BigInt(memoryBytes), true);
  file.set(content, 120);
  return file;
}

test('a program is its segments, its entry and its end', () => {
  const image = readElf(program(Uint8Array.of(0x90, 0xf4), { at: 0x100, entry: 0x101, memoryBytes: 10 }));
  assert.deepEqual(image, {
    parts: [{ at: 0x100, bytes: Uint8Array.of(0x90, 0xf4), length: 10 }],
    entry: 0x101,
    end: 0x10a,
    symbols: [],
  });
});

test('what cannot be right is refused with the reason', () => {
  const good = program(Uint8Array.of(0xf4));
  const changed = (at: number, value: number): Uint8Array => {
    const copy = Uint8Array.from(good);
    copy[at] = value;
    return copy;
  };
  const cases: readonly (readonly [Uint8Array, RegExp])[] = [
    [good.subarray(0, 20), /no whole header/],
    [changed(18, 183), /not for x86/],
    [changed(16, 3), /without PIE/],
    [changed(32, 200), /ends before its table/],
    [changed(54, 1), /table of segments that cannot be right/],
    [changed(96, 200), /beyond its end/],
    [program(Uint8Array.of(0xf4), { memoryBytes: windowBytes + 1 }), /wants memory up to/],
    [program(Uint8Array.of(0xf4), { entry: 1 }), /begins at 0x1/],
  ];
  for (const [bytes, reason] of cases)
    assert.throws(
      () => readElf(bytes),
      (error) => isCarrelError(error, 'validation_failed') && reason.test(error.message),
    );
});

const inside = ({ parts, entry, end }: GuestImage): boolean =>
  entry < end &&
  parts.every((part) => part.at + part.length <= windowBytes && part.bytes.length <= part.length);

test('any bytes, and any program with bytes changed, are loaded within the window or refused', () => {
  const start = program(new Uint8Array(64));
  const change = fc.tuple(fc.nat(start.length - 1), fc.nat(255));
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.array(change, { maxLength: 8 }).map((changes) => {
      const copy = Uint8Array.from(start);
      for (const [at, value] of changes) copy[at] = value;
      return copy;
    }),
  );
  fc.assert(
    fc.property(bytes, (file) => {
      try {
        assert.ok(inside(readElf(file)));
      } catch (error) {
        assert.ok(isCarrelError(error, 'validation_failed'), String(error));
      }
    }),
    { numRuns: fuzzRuns(2000) },
  );
});

const place = (bytes: number): number => placeTables(flatImage(new Uint8Array(bytes)), long);

test('tables lie at 0x2000, or behind an image that is larger, and leave room for a stack', () => {
  assert.equal(place(0), 0x2000);
  assert.equal(place(0x2000), 0x2000);
  assert.equal(place(0x2001), 0x3000);
  assert.throws(() => place(windowBytes - 0x1_0000), /needs 1.9 MiB/);
});
