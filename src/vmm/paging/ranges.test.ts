import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { CR0, CR4, EFER } from '../modes/bits.ts';
import type { PagingState } from './formats.ts';
import { mappedRanges } from './ranges.ts';
import { walkPages } from './walk.ts';

const long: PagingState = { cr0: CR0.PG, cr3: 0x1000n, cr4: CR4.PAE, efer: EFER.LMA | EFER.NXE };
const memoryBytes = 0x20_0000;

/** Memory of words: what is not written is 0. */
const memory = (words: Readonly<Record<number, bigint>>) => (at: bigint) => words[Number(at)] ?? 0n;

test('pages that continue each other are one range, others begin a new one', () => {
  const read = memory({
    0x1000: 0x2007n,
    0x2000: 0x3007n,
    0x3000: 0x87n, // 2 MiB at 0
    0x3008: 0x4007n, // a table of pages
    0x4000: 0x9007n,
    0x4008: 0xa007n,
    0x4010: 0xb001n, // continues, with fewer rights
    0x4020: 0xd007n, // a hole before it
  });
  const { ranges, isPart } = mappedRanges(read, long, { memoryBytes });
  assert.equal(isPart, false);
  assert.deepEqual(
    ranges.map(({ linear, physical, bytes, writable }) => [linear, physical, bytes, writable]),
    [
      [0n, 0n, 0x20_0000n, true],
      [0x20_0000n, 0x9000n, 0x2000n, true],
      [0x20_2000n, 0xb000n, 0x1000n, false],
      [0x20_4000n, 0xd000n, 0x1000n, true],
    ],
  );
});

test('the upper half has addresses with their top bits set', () => {
  const read = memory({ [0x1000 + 511 * 8]: 0x2007n, [0x2000 + 510 * 8]: 0x87n });
  const [range] = mappedRanges(read, long, { memoryBytes }).ranges;
  assert.deepEqual([range?.linear, range?.pageBytes], [0xffff_ffff_8000_0000n, 2 ** 30]);
});

test('tables in circles are read in part, and that is said', () => {
  const circle = mappedRanges(() => 0x1007n, long, { memoryBytes, entries: 5000 });
  assert.equal(circle.isPart, true);
  assert.ok(circle.ranges.length <= 256);
});

test('without paging all memory is one range', () => {
  const { ranges } = mappedRanges(() => 0n, { ...long, cr0: 0n }, { memoryBytes });
  assert.deepEqual(
    ranges.map(({ linear, physical, bytes }) => [linear, physical, bytes]),
    [[0n, 0n, BigInt(memoryBytes)]],
  );
});

test('whatever tables say, each range is what the walk finds at its ends', () => {
  const entry = fc.tuple(fc.nat(0x7ff), fc.bigInt(0n, (1n << 64n) - 1n));
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 40 }), fc.constantFrom(0n, CR4.PAE), (entries, cr4) => {
      const words = new Map(
        entries.map(([index, value]) => [BigInt(0x1000 + index * 8), value & ~0xff_0000_0000n]),
      );
      const read = (at: bigint, bytes: 4 | 8): bigint | undefined => {
        if (at >= 0x8000n) return undefined;
        const word = words.get(at & ~7n) ?? 0n;
        return bytes === 8 ? word : (word >> (at % 8n === 0n ? 0n : 32n)) & 0xffff_ffffn;
      };
      const state = { ...long, cr4, efer: cr4 === 0n ? 0n : long.efer };
      for (const range of mappedRanges(read, state, { memoryBytes, entries: 20_000 }).ranges)
        for (const offset of [0n, range.bytes - 1n]) {
          const { result } = walkPages(read, state, range.linear + offset);
          assert.ok(result.mapped);
          assert.deepEqual([result.physical, result.pageBytes], [range.physical + offset, range.pageBytes]);
        }
    }),
    { numRuns: 50 },
  );
});
