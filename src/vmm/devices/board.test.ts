import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import * as fc from 'fast-check';
import { SharedLock } from './lock.ts';
import { debugExit, keyboardController, type PortEnd, resetControl } from './reset.ts';
import { Rtc, rtcWords } from './rtc.ts';

const fromBcd = (value: number): number => (value >> 4) * 10 + (value & 15);

test('the clock tells the host’s time in UTC', () => {
  fc.assert(
    fc.property(
      fc.date({ min: new Date('1970-01-01'), max: new Date('2099-12-31'), noInvalidDate: true }),
      (date) => {
        const rtc = new Rtc({ words: new Int32Array(rtcWords), now: () => date });
        const read = (index: number): number => {
          rtc.write(0, index | 0x80); // with NMIs off
          return rtc.read(1);
        };
        assert.equal(read(11) & 6, 2, '24 hours, BCD');
        assert.equal(read(10) & 0x80, 0, 'no update under way');
        const [second, minute, hour, day, month, year, century] = [0, 2, 4, 7, 8, 9, 0x32].map((index) =>
          fromBcd(read(index)),
        );
        assert.equal(
          Date.UTC((century ?? 0) * 100 + (year ?? 0), (month ?? 0) - 1, day, hour, minute, second),
          Math.floor(date.getTime() / 1000) * 1000,
        );
      },
    ),
  );
});

test('the memory beside the clock keeps what is written, the clock does not', () => {
  const rtc = new Rtc({ words: new Int32Array(rtcWords), now: () => new Date('2024-05-06T07:08:09Z') });
  for (const [index, expected] of [
    [0x0e, 0xab],
    [0x7f, 0xab],
    [0, 0x09],
    [13, 0x80],
  ] as const) {
    rtc.write(0, index);
    rtc.write(1, 0xab);
    assert.equal(rtc.read(1), expected);
  }
  assert.equal(rtc.read(0), 0xff);
});

test('each way to end a machine ends it, and other writes do not', () => {
  const ends: PortEnd[] = [];
  const end = (how: PortEnd): void => void ends.push(how);
  const [keyboard, reset, exit] = [keyboardController(end), resetControl(end), debugExit(end)];
  for (const value of [0xd1, 0xff, 0]) keyboard.write(4, value);
  keyboard.write(0, 0xfe);
  reset.write(0, 2);
  assert.deepEqual(ends, []);
  keyboard.write(4, 0xfe);
  reset.write(0, 6);
  exit.write(0, 42);
  assert.deepEqual(ends, [
    { kind: 'reset', by: 'keyboard controller' },
    { kind: 'reset', by: 'port 0xcf9' },
    { kind: 'exit', status: 42 },
  ]);
});

test('of several threads only one is inside the lock', { timeout: 60_000 }, async () => {
  const words = new Int32Array(new SharedArrayBuffer(16));
  const rounds = 20_000;
  const code = `
    import { workerData } from 'node:worker_threads';
    const { SharedLock } = await import(workerData.lock);
    const lock = new SharedLock(workerData.words);
    for (let round = 0; round < ${rounds}; round += 1) lock.hold(() => { workerData.words[1] += 1; });
  `;
  const lock = new URL('lock.ts', import.meta.url).href;
  const workers = [1, 2, 3].map(
    () =>
      new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
        workerData: { words, lock },
      }),
  );
  const mine = new SharedLock(words);
  for (let round = 0; round < rounds; round += 1)
    mine.hold(() => {
      words[1] = (words[1] ?? 0) + 1;
    });
  await Promise.all(
    workers.map(
      async (worker) =>
        await new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject)),
    ),
  );
  assert.equal(words[1], 4 * rounds);
  assert.throws(() => mine.hold(() => assert.fail('inside')), /inside/);
  assert.equal(words[0], 0, 'given back also after an error');
});
