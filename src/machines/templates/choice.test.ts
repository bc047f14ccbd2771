import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isWanted } from '#store/templates.ts';
import { excessOf, speaksFor, type Weighed } from './choice.ts';

const at = (minute: number): Date => new Date(Date.UTC(2030, 0, 1, 0, minute));
const row = (bytes: number, used: number, more: Partial<Weighed> = {}): Weighed => ({
  bytes,
  kept: false,
  pool_target: null,
  last_used_at: at(used),
  created_at: at(0),
  ...more,
});

const size = (some: readonly Weighed[]): number => some.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);
const used = ({ last_used_at: last, created_at: made }: Weighed): number => (last ?? made).getTime();

test('the one that was not used for longest makes room, and one that nobody has used counts from its making', () => {
  const [old, older, fresh] = [row(4, 5), row(4, 3), row(4, 0, { last_used_at: null, created_at: at(9) })];
  assert.deepEqual(excessOf([old, older, fresh], 12), []);
  assert.deepEqual(excessOf([old, older, fresh], 8), [older]);
  assert.deepEqual(excessOf([fresh, older, old], 4), [older, old]);
});

test('what somebody asked for stays, and the others make room for it, also when it is older', () => {
  const [kept, other] = [row(6, 1, { kept: true }), row(3, 8)];
  assert.deepEqual(excessOf([other, kept], 8), [other]);
  assert.deepEqual(excessOf([row(9, 1, { kept: true })], 8), []);
  assert.deepEqual(excessOf([row(9, 1, { pool_target: 0 })], 8), []);
});

test('what stays fits, unless all of it was asked for; nothing goes that is used later than what stays', () => {
  const rows = fc.array(
    fc.record({
      bytes: fc.option(fc.integer({ min: 1, max: 10 })),
      kept: fc.boolean(),
      pool_target: fc.constantFrom(null, null, null, 2),
      last_used_at: fc.option(fc.integer({ min: 0, max: 50 }).map(at)),
      created_at: fc.integer({ min: 0, max: 50 }).map(at),
    }),
  );
  fc.assert(
    fc.property(rows, fc.integer({ min: 0, max: 60 }), (all, maxBytes) => {
      const gone = new Set(excessOf(all, maxBytes));
      const stay = all.filter((each) => !gone.has(each));
      assert.ok(size(stay) <= maxBytes || stay.every((each) => isWanted(each) || each.bytes === null));
      assert.equal([...gone].some(isWanted), false);
      for (const each of stay)
        if (!isWanted(each)) assert.ok([...gone].every((other) => used(other) <= used(each)));
      if (size(all) <= maxBytes) assert.equal(gone.size, 0);
    }),
  );
});

test('a machine speaks for a template once: a removed one does not come back for it', () => {
  assert.equal(speaksFor({ created_at: at(1) }, undefined), true);
  assert.equal(speaksFor({ created_at: at(1) }, at(2)), false);
  assert.equal(speaksFor({ created_at: at(3) }, at(2)), true);
});
