import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { EventLog } from './log.ts';

test('numbers begin at 1, have no gaps, and the last events are kept', () => {
  const log = new EventLog({ events: 3, bytes: 1000 });
  assert.deepEqual([log.first, log.next, log.at(1)], [1, 1, undefined]);
  for (let index = 0; index < 5; index += 1) log.add((seq) => `event ${seq}`);
  assert.deepEqual([log.first, log.next], [3, 6]);
  assert.deepEqual(
    [2, 3, 5, 6].map((seq) => log.at(seq)?.text),
    [undefined, 'event 3', 'event 5', undefined],
  );
});

test('one event larger than all that may be kept is kept, alone', () => {
  const log = new EventLog({ events: 10, bytes: 10 });
  log.add(() => 'a');
  log.add(() => 'b'.repeat(100));
  assert.deepEqual([log.first, log.next, log.at(2)?.text.length], [2, 3, 100]);
});

test('whatever comes, what is kept stays within the limits and is found under its number', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(40), { maxLength: 3000 }), (lengths) => {
      const log = new EventLog({ events: 20, bytes: 200 });
      for (const length of lengths) {
        log.add((seq) => `${seq}:`.padEnd(length, 'x'));
        let bytes = 0;
        for (let seq = log.first; seq < log.next; seq += 1) {
          const entry = log.at(seq);
          assert.ok(entry?.seq === seq && entry.text.startsWith(`${seq}:`));
          bytes += entry.text.length;
        }
        assert.ok(log.next - log.first <= 20);
        assert.ok(bytes <= 200);
      }
    }),
    { numRuns: 20 },
  );
});
