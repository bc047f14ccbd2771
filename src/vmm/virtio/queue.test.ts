import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Chain } from './chain.ts';
import type { DriverFaultName } from './fault.ts';
import { bytesIn, copyOut } from './pieces.ts';
import { type DriverQueue, TestDriver } from './testing.ts';

const size = 8;
const INDIRECT = 1n << 28n;
const NEXT = 1;
const WRITE = 2;
const TABLE = 4;

/** A queue of eight, whose device only looks at the chains that it is handed. */
function observed({ without = 0n } = {}) {
  const chains: Chain[] = [];
  const driver = new TestDriver({
    device: {
      name: 'observer',
      deviceId: 42,
      features: 0n,
      queueSizes: [size],
      config: new Uint8Array(0),
      attach: () => undefined,
      notify: (queue, queues) =>
        queues.drain(queue, (chain) => {
          chains.push(chain);
          return 0;
        }),
      reset: () => undefined,
    },
  });
  driver.negotiate({ without });
  const queue = driver.makeQueue(0, size);
  driver.ready();
  return { driver, queue, chains };
}

type Entry = readonly [at: number | bigint, bytes: number, flags?: number, next?: number];

function write(queue: DriverQueue, table: number, entries: readonly Entry[]): void {
  for (const [index, [at, bytes, flags = 0, next = 0]] of entries.entries())
    queue.writeDescriptor(table, index, { at, bytes }, flags, next);
}

test('2.7.5: a chain is read in its order, whatever the order of its descriptors in the table', () => {
  const { driver, queue, chains } = observed();
  const at = driver.place(Buffer.from('never the same river twice'));
  write(queue, queue.descriptors, [
    [at + 10, 4, NEXT, 2],
    [at, 6, NEXT, 3],
    [at + 15, 5, NEXT | WRITE, 4],
    [at + 6, 4, NEXT, 0],
    [at + 20, 6, WRITE],
  ]);
  queue.offer(1);
  queue.notify();
  const [chain] = chains;
  assert.ok(chain);
  assert.equal(Buffer.from(copyOut(chain.readable, 99)).toString(), 'never the same');
  assert.equal(Buffer.from(copyOut(chain.writable, 99)).toString(), 'river twice'.slice(0, 11));
  assert.equal(chain.head, 1);
});

test('2.7.5: empty descriptors add nothing, and a chain of nothing else is a chain', () => {
  const { driver, queue, chains } = observed();
  const head = queue.add([
    { at: driver.ram.length, bytes: 0 },
    { at: 0, bytes: 0, write: true },
  ]);
  queue.notify();
  assert.deepEqual(chains, [{ head, readable: [], writable: [] }]);
  assert.equal(driver.mmio.fault, undefined);
});

test('2.7.5.3.2: descriptors may go before an indirect table, whose WRITE flag means nothing', () => {
  const { driver, queue, chains } = observed();
  const at = driver.place(Buffer.from('abcdef'));
  const table = driver.allocate(48, 16);
  write(queue, table, [
    [at + 1, 1, NEXT, 2],
    [at + 5, 1, WRITE],
    [at + 2, 2, NEXT, 1],
  ]);
  write(queue, queue.descriptors, [
    [at, 1, NEXT, 5],
    [0, 0],
    [0, 0],
    [0, 0],
    [0, 0],
    [table, 48, TABLE | WRITE],
  ]);
  queue.offer(0);
  queue.notify();
  const [chain] = chains;
  assert.ok(chain);
  assert.equal(Buffer.from(copyOut(chain.readable, 99)).toString(), 'abcd');
  assert.equal(Buffer.from(copyOut(chain.writable, 99)).toString(), 'f');
});

test('a buffer may be all of memory, and end with its last byte', () => {
  const { driver, queue, chains } = observed();
  queue.add([{ at: 0, bytes: driver.ram.length }]);
  queue.notify();
  assert.equal(bytesIn(chains[0]?.readable ?? []), driver.ram.length);
});

test('2.7.5.3.1: a chain may use every descriptor of its queue', () => {
  const { queue, chains } = observed();
  queue.add(Array.from({ length: size }, () => ({ at: 0x1000, bytes: 1 })));
  queue.notify();
  assert.equal(chains[0]?.readable.length, size);
});

const ones = 2n ** 64n - 1n;
const ramBytes = 2 ** 20;
const tableAt = 0x8000;

const mistakes: readonly (readonly [
  fault: DriverFaultName,
  what: string,
  ring: readonly Entry[],
  table?: readonly Entry[],
])[] = [
  ['buffer outside memory', 'an address behind memory', [[ramBytes, 1]]],
  ['buffer outside memory', 'an end behind memory', [[ramBytes - 1, 2]]],
  ['buffer outside memory', 'an address near 2^64 whose end is small again', [[ones - 15n, 32]]],
  ['buffer outside memory', 'the last address there is', [[ones, 0xffff_ffff]]],
  ['buffer outside memory', 'an address that is not an exact double', [[2n ** 53n + 1n, 1]]],
  ['buffer outside memory', 'no bytes, far away', [[ones, 0]]],
  [
    'buffer outside memory',
    'a second buffer behind memory',
    [
      [0, 1, NEXT, 1],
      [ramBytes, 1, WRITE],
    ],
  ],
  ['descriptor index', 'a next descriptor that is not there', [[0, 1, NEXT, size]]],
  ['descriptor index', 'the last number as next', [[0, 1, NEXT, 0xffff]]],
  ['chain too long', 'a descriptor that goes on to itself', [[0, 1, NEXT, 0]]],
  ['chain too long', 'an empty descriptor that goes on to itself', [[0, 0, NEXT, 0]]],
  [
    'chain too long',
    'a loop over two',
    [
      [0, 1, NEXT, 1],
      [0, 1, NEXT, 0],
    ],
  ],
  [
    'chain too long',
    'a loop in an indirect table',
    [[tableAt, 32, TABLE]],
    [
      [0, 1, NEXT, 1],
      [0, 1, NEXT, 0],
    ],
  ],
  [
    'chain too long',
    'an indirect table with more descriptors than the queue',
    [[tableAt, 16 * (size + 1), TABLE]],
    Array.from({ length: size + 1 }, (_, index): Entry => [0, 1, index === size ? 0 : NEXT, index + 1]),
  ],
  [
    'buffer order',
    'a buffer to read behind one to write',
    [
      [0, 1, NEXT | WRITE, 1],
      [0, 1],
    ],
  ],
  ['indirect size', 'an indirect table without descriptors', [[tableAt, 0, TABLE]]],
  ['indirect size', 'an indirect table with half a descriptor', [[tableAt, 24, TABLE]]],
  ['buffer outside memory', 'an indirect table behind memory', [[ramBytes - 16, 32, TABLE]]],
  ['buffer outside memory', 'an indirect table near 2^64', [[ones - 15n, 32, TABLE]]],
  [
    'indirect nested',
    'an indirect table in an indirect table',
    [[tableAt, 16, TABLE]],
    [[tableAt, 16, TABLE]],
  ],
  ['indirect with next', 'an indirect table with NEXT', [[tableAt, 16, TABLE | NEXT, 1]]],
  ['descriptor index', 'an index beyond an indirect table', [[tableAt, 16, TABLE]], [[0, 1, NEXT, 1]]],
];

for (const [fault, what, ring, table = []] of mistakes)
  test(`${fault}: ${what}`, () => {
    const { driver, queue, chains } = observed();
    write(queue, queue.descriptors, ring);
    write(queue, tableAt, table);
    queue.offer(0);
    queue.notify();
    assert.equal(driver.mmio.fault?.fault, fault);
    assert.deepEqual(chains, []);
    assert.equal(queue.usedIndex, 0);
    assert.equal(driver.status & 64, 64);
    driver.ram.assertIntact();
  });

test('2.7.5.3.1: an indirect table that was not agreed on is a mistake', () => {
  const { driver, queue } = observed({ without: INDIRECT });
  queue.addIndirect([{ at: 0, bytes: 1 }]);
  queue.notify();
  assert.equal(driver.mmio.fault?.fault, 'indirect not negotiated');
});

test('2.7.6: a head that the table does not have is a mistake', () => {
  const { driver, queue } = observed();
  queue.offer(size);
  queue.notify();
  assert.equal(driver.mmio.fault?.fault, 'descriptor index');
});

test('2.7.6: an index that runs ahead by more than the queue is a mistake; so is one that goes back', () => {
  for (const index of [size + 1, 0x8000, -1]) {
    const { driver, queue } = observed();
    queue.publish(index);
    queue.notify();
    assert.equal(driver.mmio.fault?.fault, 'available index');
  }
});

test('2.7.5.2: more than 2^32 bytes in a chain are a mistake, though each buffer is in memory', () => {
  // memory that claims to be everywhere: four buffers of 2 GiB need no such memory
  const { driver, queue } = observed();
  const slice = driver.ram.slice.bind(driver.ram);
  driver.ram.slice = (at, bytes) => (bytes === 2 ** 31 ? new Uint8Array(0) : slice(at, bytes));
  write(queue, queue.descriptors, [
    [0, 2 ** 31, NEXT, 1],
    [0, 2 ** 31, NEXT, 2],
    [0, 1],
  ]);
  queue.offer(0);
  queue.notify();
  assert.equal(driver.mmio.fault?.fault, 'chain too large');
});

test('chains that were served before a mistake are given back', () => {
  const { driver, queue } = observed();
  queue.add([{ at: 0, bytes: 1 }]);
  queue.add([{ at: ramBytes, bytes: 1 }]);
  queue.notify();
  assert.equal(queue.collect().length, 1);
  assert.equal(driver.mmio.fault?.found, 'queue 0, chain 1: 0x100000, 1 bytes');
});
