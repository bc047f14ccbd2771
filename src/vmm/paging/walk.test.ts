import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { CR0, CR4, EFER } from '../modes/bits.ts';
import { formatOf, type Format, type PagingState, targetOf } from './formats.ts';
import { findTables } from './tables.ts';
import { walkPages } from './walk.ts';

const states: Readonly<Record<Format['name'], PagingState>> = {
  none: { cr0: CR0.PE, cr3: 0n, cr4: 0n, efer: 0n },
  '32-bit': { cr0: CR0.PG, cr3: 0x1000n, cr4: CR4.PSE, efer: 0n },
  PAE: { cr0: CR0.PG, cr3: 0x1020n, cr4: CR4.PAE, efer: EFER.NXE },
  '4-level': { cr0: CR0.PG, cr3: 0x1000n, cr4: CR4.PAE, efer: EFER.LMA | EFER.NXE },
  '5-level': { cr0: CR0.PG, cr3: 0x1000n, cr4: CR4.PAE | CR4.LA57, efer: EFER.LMA | EFER.NXE },
};
const paged = ['32-bit', 'PAE', '4-level', '5-level'] as const;

/** Writes tables as an operating system would: from the top down, a new table where there is none. */
class Tables {
  readonly entries = new Map<bigint, bigint>();
  readonly #format: Format;
  readonly #state: PagingState;
  #next = 0x10_0000n;

  constructor(state: PagingState) {
    this.#state = state;
    this.#format = formatOf(state);
  }

  readonly read = (at: bigint): bigint => this.entries.get(at) ?? 0n;

  /** Maps one page; the size is that of an entry at `depth` from the root. */
  map(linear: bigint, physical: bigint, depth: number): void {
    let table = this.#state.cr3 & this.#format.rootMask;
    for (const level of this.#format.levels.slice(0, depth + 1)) {
      const index = (linear >> level.shift) & ((1n << level.bits) - 1n);
      const at = table + index * BigInt(this.#format.entryBytes);
      if (level === this.#format.levels[depth]) {
        const high = this.#format.name === '32-bit' && level.shift === 22n ? (physical >> 32n) << 13n : 0n;
        const low = this.#format.name === '32-bit' ? physical & 0xffff_ffffn : physical;
        this.entries.set(at, low | high | 0x7n | (level.shift > 12n ? 0x80n : 0n));
        return;
      }
      if (this.read(at) === 0n) {
        this.entries.set(at, this.#next | 0x7n);
        this.#next += 0x1000n;
      }
      table = targetOf(this.#format, this.read(at), 12n);
    }
  }
}

/** An address of the format's width, canonical where it is wider than 32 bits. */
const linearOf = (name: Format['name']): fc.Arbitrary<bigint> => {
  const { addressBits } = formatOf(states[name]);
  const low = fc.bigInt({ min: 0n, max: (1n << addressBits) - 1n });
  return addressBits === 32n
    ? low
    : low.map((value) => BigInt.asUintN(64, BigInt.asIntN(Number(addressBits), value)));
};

/** Levels whose entries may map a page: the last one, and those that know large pages. */
const pageDepths = (name: Format['name']): number[] =>
  formatOf(states[name]).levels.flatMap((level, depth) =>
    level.large || level.shift === 12n ? [depth] : [],
  );

const mappings = fc.constantFrom(...paged).chain((name) =>
  fc.record({
    name: fc.constant(name),
    linear: linearOf(name),
    frame: fc.bigInt({ min: 0n, max: (1n << 40n) - 1n }),
    depth: fc.constantFrom(...pageDepths(name)),
  }),
);

test('what an operating system maps is what the walk finds, in every format and page size', () => {
  fc.assert(
    fc.property(mappings, ({ name, linear, frame, depth }) => {
      const state = states[name];
      const shift = formatOf(state).levels[depth]?.shift ?? 12n;
      const mask = (1n << shift) - 1n;
      // an entry of four bytes reaches 4 GiB, or with a large page 1 TiB
      const reach = name === '32-bit' && shift === 12n ? (1n << 32n) - 1n : (1n << 40n) - 1n;
      const physical = frame & reach & ~mask;
      const tables = new Tables(state);
      tables.map(linear, physical, depth);
      const walk = walkPages(tables.read, state, linear);
      assert.deepEqual(walk.result, {
        mapped: true,
        physical: physical | (linear & mask),
        pageBytes: 2 ** Number(shift),
        writable: true,
        user: true,
        executable: true,
      });
      assert.equal(walk.steps.length, depth + 1);
      assert.equal(findTables(tables.read, state).length, depth + 1);
      // the page beside it is not mapped
      const beside = walkPages(tables.read, state, linear ^ (1n << shift));
      assert.equal(beside.result.mapped, false);
    }),
  );
});

test('any memory and any registers give an answer with at most five steps, and no exception', () => {
  const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
  const words = fc.array(word, { minLength: 64, maxLength: 64 });
  fc.assert(
    fc.property(words, word, word, word, word, word, (memory, cr0, cr3, cr4, efer, linear) => {
      const read = (at: bigint, bytes: number): bigint | undefined => {
        const value = at < 1n << 40n ? memory[Number((at >> 3n) % 64n)] : undefined;
        return bytes === 4 && value !== undefined ? value & 0xffff_ffffn : value;
      };
      const { steps, result } = walkPages(read, { cr0, cr3, cr4, efer }, linear);
      assert.ok(steps.length <= 5);
      if (result.mapped) assert.ok(result.physical < 1n << 52n || steps.length === 0);
      else assert.match(result.why, /^not /);
    }),
  );
});

test('without paging an address is itself, up to 4 GiB', () => {
  const none = (linear: bigint): unknown => walkPages(() => 0n, states.none, linear).result;
  assert.deepEqual(none(0xffff_ffffn), {
    mapped: true,
    physical: 0xffff_ffffn,
    pageBytes: undefined,
    writable: true,
    user: true,
    executable: true,
  });
  assert.equal(walkPages(() => 0n, states.none, 1n << 32n).result.mapped, false);
});

test('addresses that are not canonical, and tables outside of memory, end the walk with a reason', () => {
  const state = states['4-level'];
  const middle = walkPages(() => 7n, state, 0x8000_0000_0000n);
  assert.deepEqual([middle.steps, middle.result.mapped], [[], false]);
  const outside = walkPages(() => undefined, state, 0x400n);
  assert.ok(!outside.result.mapped);
  assert.match(outside.result.why, /PML4 at 0x1000 is outside of guest memory/);
});

test('rights are those of all levels together; no-execute counts only where it is switched on', () => {
  const state = states['4-level'];
  const tables = new Tables(state);
  tables.map(0x1234_5000n, 0x9000n, 3);
  const pml4 = tables.read(0x1000n);
  tables.entries.set(0x1000n, (pml4 & ~2n & ~4n) | (1n << 63n));
  const { result } = walkPages(tables.read, state, 0x1234_5678n);
  assert.ok(result.mapped);
  assert.deepEqual([result.writable, result.user, result.executable], [false, false, false]);
  const old = walkPages(tables.read, { ...state, efer: EFER.LMA }, 0x1234_5678n).result;
  assert.ok(old.mapped && old.executable);
});

test('tables that point at themselves are listed once, and not for ever', () => {
  const state = states['4-level'];
  const found = findTables((at) => (at < 0x2000n ? 0x1007n : 0n), state);
  assert.deepEqual(
    found.map(({ table, at }) => [table, at]),
    ['PML4', 'PDPT', 'PD', 'PT'].map((table) => [table, 0x1000n]),
  );
});
