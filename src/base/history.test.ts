import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { createHistory, type History } from './history.ts';

const limits = fc.record({ head: fc.nat(20), tail: fc.nat(20) });
const chunks = fc.array(fc.uint8Array({ maxLength: 50 }), { maxLength: 12 });

/** Everything that can be read from `from` on, piece by piece. */
function readAll(
  history: History,
  from: number,
  limit?: number,
): { kept: Map<number, number>; expired: number[] } {
  const kept = new Map<number, number>();
  const expired: number[] = [];
  for (let at = from; at < history.end;) {
    const piece = history.read(at, limit);
    assert.equal(piece.from, at);
    assert.ok(piece.to > at, 'a piece before the end is not empty');
    if (piece.kind === 'expired') for (let n = at; n < piece.to; n += 1) expired.push(n);
    else for (const [n, byte] of piece.bytes.entries()) kept.set(at + n, byte);
    if (piece.kind === 'bytes') assert.equal(piece.bytes.length, piece.to - piece.from);
    at = piece.to;
  }
  return { kept, expired };
}

test('exactly the first and the last bytes can be read, from any offset, and the gap is named exactly', () => {
  fc.assert(
    fc.property(
      limits,
      chunks,
      fc.nat(600),
      fc.integer({ min: 1, max: 30 }),
      ({ head, tail }, list, start, limit) => {
        const history = createHistory({ head, tail });
        for (const chunk of list) history.append(chunk);
        const all = list.flatMap((chunk) => [...chunk]);
        assert.equal(history.end, all.length);
        const from = Math.min(start, all.length);
        const { kept, expired } = readAll(history, from, limit);
        for (let at = from; at < all.length; at += 1) {
          const isKept = at < head || at >= all.length - tail;
          assert.equal(kept.get(at), isKept ? all[at] : undefined);
          assert.equal(expired.includes(at), !isKept);
        }
      },
    ),
  );
});

test('a reader that goes on from its last offset after every chunk loses nothing while chunks fit the ring', () => {
  const small = fc.array(fc.uint8Array({ maxLength: 16 }), { maxLength: 30 });
  fc.assert(
    fc.property(small, (list) => {
      const history = createHistory({ head: 8, tail: 16 });
      const heard: number[] = [];
      for (const chunk of list) {
        history.append(chunk);
        while (heard.length < history.end) {
          const piece = history.read(heard.length);
          assert.equal(piece.kind, 'bytes');
          if (piece.kind === 'bytes') heard.push(...piece.bytes);
        }
      }
      assert.deepEqual(
        heard,
        list.flatMap((chunk) => [...chunk]),
      );
    }),
  );
});

test('at the end there is nothing yet; past it, or before the beginning, there is no such offset', () => {
  const history = createHistory({ head: 4, tail: 4 });
  history.append(new Uint8Array(100));
  const piece = history.read(100);
  assert.deepEqual([piece.kind, piece.from, piece.to], ['bytes', 100, 100]);
  for (const wrong of [101, -1, 0.5, Number.NaN]) assert.throws(() => history.read(wrong), RangeError);
});

test('what was read does not change when the ring turns', () => {
  const history = createHistory({ head: 2, tail: 4 });
  history.append(Uint8Array.of(1, 2, 3, 4, 5, 6));
  const piece = history.read(2);
  history.append(Uint8Array.of(7, 8, 9, 10));
  assert.deepEqual(piece.kind === 'bytes' ? [...piece.bytes] : [], [3, 4, 5, 6]);
});
