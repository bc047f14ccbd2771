/** For fuzzing: what a driver can do, right and wrong. */
import * as fc from 'fast-check';
import { rangeBytes } from './registers.ts';
import type { Template } from './testing-subjects.ts';
import type { TestDriver } from './testing.ts';

export const ramBytes = 32_768;
/** Descriptors of a queue that is set up in order. */
export const size = 16;
/** Where the rings of a queue lie that is set up in order. */
const ringsOf = (queue: number): readonly [number, number, number] => [
  0x1000 + queue * 0x1000,
  0x1400 + queue * 0x1000,
  0x1800 + queue * 0x1000,
];

const bytes16 = fc.integer({ min: 0, max: 0xffff });
const anywhere = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: ramBytes }).map(BigInt) },
  { weight: 2, arbitrary: fc.integer({ min: ramBytes - 32, max: ramBytes + 32 }).map(BigInt) },
  { weight: 1, arbitrary: fc.bigInt({ min: (1n << 64n) - 64n, max: (1n << 64n) - 1n }) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
);
const length = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(0, 1, 12, 16, 20, 32, 48, 512, 513, 1024) },
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 2048 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff_ffff }) },
);
const queue = fc.integer({ min: 0, max: 2 });
/** Mostly chains that end, and go on to descriptors that exist. */
const flags = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(0, 1, 2, 3) },
  { weight: 2, arbitrary: fc.constant(4) },
  { weight: 1, arbitrary: bytes16 },
);
const next = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: size }) },
  { weight: 1, arbitrary: bytes16 },
);
const descriptor = fc.record({ at: anywhere, length, flags, next });

/** One thing that a driver does. */
export const operation = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('access' as const),
      offset: fc.integer({ min: 0, max: rangeBytes / 4 - 1 }).map((word) => word * 4),
      value: fc.oneof(fc.integer({ min: 0, max: 16 }), fc.integer({ min: 0, max: 0xffff_ffff })),
      write: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('odd access' as const),
      offset: fc.integer({ min: 0, max: rangeBytes - 8 }),
      size: fc.constantFrom(1, 2, 4, 8),
      value: fc.bigInt({ min: 0n, max: 255n }),
      write: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('set up' as const),
      right: fc.boolean(),
      size: fc.oneof(fc.constant(size), bytes16),
      addresses: fc.tuple(anywhere, anywhere, anywhere),
      queue,
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constantFrom('describe' as const, 'describe and offer' as const),
      queue,
      index: fc.integer({ min: 0, max: size - 1 }),
      descriptor,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('poke' as const),
      at: fc.integer({ min: 0, max: ramBytes - 8 }),
      value: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant('request' as const),
      queue,
      type: fc.constantFrom(0, 1, 4, 8, 11),
      sector: fc.integer({ min: 0, max: 40 }),
      bytes: fc.constantFrom(0, 512, 1024, 20, 7),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constant('offer' as const),
      queue,
      head: fc.integer({ min: 0, max: size }),
      ahead: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: bytes16 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('disturb' as const), bytes: fc.integer({ min: 0, max: 300 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant('status' as const), value: fc.integer({ min: 0, max: 255 }) }),
  },
);

type Operation = typeof operation extends fc.Arbitrary<infer Value> ? Value : never;

/** Descriptors as they should be. */
export function describe({ ram: { view } }: TestDriver, queues: number, template: Template): void {
  for (let queue = 0; queue < queues; queue += 1)
    for (let index = 0; index < size; index += 1) {
      const [at, bytes, flags] = template(queue, index);
      const entry = ringsOf(queue)[0] + 16 * index;
      view.setBigUint64(entry, BigInt(at), true);
      view.setUint32(entry + 8, bytes, true);
      view.setUint16(entry + 12, flags, true);
      view.setUint16(entry + 14, index + 1, true);
    }
}

/** A driver that knows how it is done; descriptors stay as they are. */
export function setUp(driver: TestDriver, queues: number, without: bigint): void {
  driver.negotiate({ without });
  for (let queue = 0; queue < queues; queue += 1) {
    const [, avail] = ringsOf(queue);
    driver.ram.bytes.fill(0, avail, avail + 0x800);
    driver.setUpQueue(queue, size, ringsOf(queue));
  }
  driver.ready();
}

/** Does it. */
export function perform(driver: TestDriver, queues: number, step: Operation): void {
  const { view } = driver.ram;
  switch (step.op) {
    case 'access':
      if (step.write) driver.write32(step.offset, step.value);
      else driver.read32(step.offset);
      return;
    case 'odd access':
      if (step.size !== 1 && step.size !== 2 && step.size !== 4 && step.size !== 8) return;
      if (step.write) driver.mmio.write(step.offset, step.size, step.value);
      else driver.mmio.read(step.offset, step.size);
      return;
    case 'set up':
      if (step.right) setUp(driver, queues, 0n);
      else driver.setUpQueue(step.queue, step.size, step.addresses);
      return;
    case 'describe':
    case 'describe and offer': {
      const at = ringsOf(step.queue)[0] + 16 * step.index;
      view.setBigUint64(at, step.descriptor.at, true);
      view.setUint32(at + 8, step.descriptor.length, true);
      view.setUint16(at + 12, step.descriptor.flags, true);
      view.setUint16(at + 14, step.descriptor.next, true);
      if (step.op === 'describe and offer') offer(driver, step.queue, step.index, 1);
      return;
    }
    case 'poke':
      view.setBigUint64(step.at, step.value, true);
      return;
    case 'request': {
      // a request as it should be, for each device: header, data, status
      const at = ringsOf(step.queue)[0];
      view.setUint32(0x100, step.type, true);
      view.setBigUint64(0x108, BigInt(step.sector), true);
      const write = step.type === 1 ? 0 : 2;
      for (const [index, [where, bytes, flags]] of [
        [0x100, 16, 1],
        [0x4000, step.bytes, 1 | write],
        [0x200, 1, 2],
      ].entries()) {
        view.setBigUint64(at + 16 * index, BigInt(where ?? 0), true);
        view.setUint32(at + 16 * index + 8, bytes ?? 0, true);
        view.setUint16(at + 16 * index + 12, flags ?? 0, true);
        view.setUint16(at + 16 * index + 14, index + 1, true);
      }
      offer(driver, step.queue, 0, 1);
      return;
    }
    case 'offer':
      offer(driver, step.queue, step.head, step.ahead);
      return;
    case 'status':
      driver.status = step.value;
      return;
    case 'disturb':
      return;
    default:
      step satisfies never;
  }
}

/** Puts a chain into the available ring, says so, and rings. */
export function offer(driver: TestDriver, queue: number, head: number, ahead: number): void {
  const { view } = driver.ram;
  const avail = ringsOf(queue)[1];
  const index = view.getUint16(avail + 2, true);
  view.setUint16(avail + 4 + 2 * (index % size), head, true);
  view.setUint16(avail + 2, (index + ahead) & 0xffff, true);
  driver.write32(0x050, queue);
}
