/**
 * Drivers that do anything: register accesses, rings and descriptors at random, in RAM whose surroundings are taken
 * away, so that a byte read or written outside ends this process. CARREL_FUZZ_RUNS multiplies the number of runs.
 */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import * as fc from 'fast-check';
import { fuzzRuns } from '#base/fuzz.ts';
import { createBlock } from './block/block.ts';
import { fileStore } from './block/store.ts';
import { Console } from './console/console.ts';
import type { VirtioDevice } from './device.ts';
import { type DriverFaultName, describeFault } from './fault.ts';
import { Net } from './net/net.ts';
import { bytesIn } from './pieces.ts';
import { rangeBytes } from './registers.ts';
import { TestDriver } from './testing.ts';

const ramBytes = 32_768;
const size = 16;
/** Where the rings of a queue lie that is set up in order. */
const ringsOf = (queue: number): readonly [number, number, number] => [
  0x1000 + queue * 0x1000,
  0x1400 + queue * 0x1000,
  0x1800 + queue * 0x1000,
];

const directory = mkdtempSync(join(tmpdir(), 'virtio-fuzz-'));
const diskPath = join(directory, 'disk');
const diskBytes = 32 * 512;
writeFileSync(diskPath, new Uint8Array(diskBytes));
const disk = openSync(diskPath, 'r+');
after(() => {
  closeSync(disk);
  rmSync(directory, { recursive: true });
});

/** What a right driver puts into its table: address, bytes, flags; chains go to the next index. */
type Template = (queue: number, index: number) => readonly [at: number, bytes: number, flags: number];

/** Queue 0 to receive, queue 1 to transmit: each buffer a chain. */
const twoWays: Template = (queue, index) => [0x4000 + 512 * index, 512, queue === 0 ? 2 : 0];

/** Threes of header, data and status: a read of as much as fits. */
const requests: Template = (_queue, index) =>
  index % 3 === 0 && index < 15
    ? [0x100, 16, 1]
    : index % 3 === 1
      ? [0x4000 + 512 * index, 512, 3]
      : [0x200, 1, 2];

interface Subject {
  readonly template: Template;
  readonly device: VirtioDevice;
  /** Something happens outside. */
  readonly disturb: (bytes: number) => void;
  /** How much work was done for the driver. */
  readonly served: () => number;
}

const subjects: Readonly<Record<string, () => Subject>> = {
  block() {
    let served = 0;
    const file = fileStore(disk);
    const count = (problem: string | undefined): string | undefined => {
      // the kernel was handed an address outside of RAM
      assert.notEqual(problem, 'EFAULT');
      served += 1;
      return problem;
    };
    const store = {
      ...file,
      read: (at: number, into: readonly Uint8Array[]) => count(file.read(at, into)),
      write: (at: number, from: readonly Uint8Array[]) => count(file.write(at, from)),
    };
    return {
      template: requests,
      device: createBlock({ store, id: 'fuzz' }),
      disturb: () => undefined,
      served: () => served,
    };
  },
  net() {
    const frames: Uint8Array[] = [];
    let sent = 0;
    const card = new Net({
      mac: '02:00:00:00:00:01',
      port: {
        receive: () => frames.shift(),
        send(frame) {
          assert.ok(bytesIn(frame) <= 65_553);
          for (const piece of frame) piece.slice();
          sent += 1;
          return true;
        },
      },
    });
    return {
      template: twoWays,
      device: card,
      disturb(bytes) {
        frames.push(new Uint8Array(14 + bytes));
        card.receive();
        if (frames.length > 8) frames.length = 0;
      },
      served: () => sent + card.counters.received,
    };
  },
  console() {
    let served = 0;
    const terminal = new Console({ output: (bytes) => (served += bytes.length), inputLimit: 256 });
    return {
      template: twoWays,
      device: terminal,
      disturb(bytes) {
        const waiting = terminal.waiting;
        served += waiting + terminal.type(new Uint8Array(bytes)) - terminal.waiting;
        assert.ok(terminal.waiting <= 256);
        if (bytes % 64 === 0) terminal.resize(bytes, bytes);
      },
      served: () => served,
    };
  },
};

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

const operation = fc.oneof(
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
function describe({ ram: { view } }: TestDriver, queues: number, template: Template): void {
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
function setUp(driver: TestDriver, queues: number, without: bigint): void {
  driver.negotiate({ without });
  for (let queue = 0; queue < queues; queue += 1) {
    const [, avail] = ringsOf(queue);
    driver.ram.bytes.fill(0, avail, avail + 0x800);
    driver.setUpQueue(queue, size, ringsOf(queue));
  }
  driver.ready();
}

function perform(driver: TestDriver, queues: number, step: Operation): void {
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

function offer(driver: TestDriver, queue: number, head: number, ahead: number): void {
  const { view } = driver.ram;
  const avail = ringsOf(queue)[1];
  const index = view.getUint16(avail + 2, true);
  view.setUint16(avail + 4 + 2 * (index % size), head, true);
  view.setUint16(avail + 2, (index + ahead) & 0xffff, true);
  driver.write32(0x050, queue);
}

for (const [name, makeSubject] of Object.entries(subjects))
  test(`${name}: whatever a driver does, nothing outside of its RAM is touched, and the device ends in order`, (context) => {
    const faults = new Map<DriverFaultName, number>();
    let served = 0;
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 60, size: 'max' }),
        fc.constantFrom(0n, 1n << 28n, 1n << 29n),
        (steps, without) => {
          const subject = makeSubject();
          const { device } = subject;
          const driver = new TestDriver({
            device,
            ramBytes,
            onFault(fault) {
              faults.set(fault.fault, (faults.get(fault.fault) ?? 0) + 1);
              assert.match(describeFault(name, fault), /needs a reset/);
            },
          });
          using _fence = driver.ram.fence();
          describe(driver, device.queueSizes.length, subject.template);
          setUp(driver, device.queueSizes.length, without);
          for (const step of steps) {
            perform(driver, device.queueSizes.length, step);
            if (step.op === 'disturb') subject.disturb(step.bytes);
            // a driver that meets a device that needs a reset
            if (driver.mmio.fault && step.op !== 'poke') setUp(driver, device.queueSizes.length, without);
            assert.equal(driver.line.level, driver.read32(0x060) !== 0);
            assert.equal((driver.status & 64) !== 0, driver.mmio.fault !== undefined);
          }
          served += subject.served();
          // and in the end it works again
          setUp(driver, device.queueSizes.length, without);
          assert.equal(driver.status, 15);
        },
      ),
      { numRuns: fuzzRuns(800) },
    );
    context.diagnostic(
      `served ${served}; ${[...faults].map(([fault, count]) => `${fault} ${count}`).join(', ')}`,
    );
    assert.equal(statSync(diskPath).size, diskBytes);
    assert.ok(served > 0, 'no run came as far as a request');
    assert.ok(faults.size >= 5, `only these mistakes were met: ${[...faults.keys()].join(', ')}`);
  });

/** A second processor of the guest: rewrites rings and descriptors as fast as it can, until it is told to stop. */
const scribbler = `
const { workerData } = require('node:worker_threads');
const { buffer, offset, length, stop } = workerData;
const bytes = new Uint8Array(buffer, offset, length);
const view = new DataView(buffer, offset, length);
const halt = new Int32Array(stop);
let state = 12345;
const random = (below) => ((state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 8) % below;
while (Atomics.load(halt, 0) === 0) {
  Atomics.add(halt, 1, 1);
  const base = 0x1000 + 0x1000 * random(2);
  const at = base + 16 * random(16);
  const what = random(8);
  if (what === 0) view.setBigUint64(at, BigInt(random(length)), true);
  else if (what === 1) view.setBigUint64(at, 0xffffffffffffff00n + BigInt(random(256)), true);
  else if (what === 2) view.setUint32(at + 8, random(2048), true);
  else if (what === 3) view.setUint16(at + 12, random(8), true);
  else if (what === 4) view.setUint16(at + 14, random(17), true);
  else if (what === 5) view.setUint16(base + 0x404 + 2 * random(16), random(16), true);
  else if (what === 6 && random(100) === 0) view.setUint16(base + 0x402, random(65536), true);
  else view.setBigUint64(at, 0x100n, true);
}
`;

for (const [name, makeSubject] of Object.entries(subjects))
  test(`${name}: a guest that rewrites its rings while they are read gets no further`, async (context) => {
    const subject = makeSubject();
    const queues = subject.device.queueSizes.length;
    let faults = 0;
    const driver = new TestDriver({ device: subject.device, ramBytes, onFault: () => (faults += 1) });
    using _fence = driver.ram.fence();
    describe(driver, queues, subject.template);
    setUp(driver, queues, 0n);
    const stop = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(scribbler, {
      eval: true,
      workerData: { ...driver.ram.handle, stop: stop.buffer },
    });
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    await new Promise((resolve) => worker.once('online', resolve));
    const limit = Date.now() + 60_000;
    for (let round = 0; Atomics.load(stop, 1) < fuzzRuns(300_000) && Date.now() < limit; round += 1) {
      offer(driver, round % 2, round % size, 1);
      if (round % 3 === 0) subject.disturb(round % 200);
      if (driver.mmio.fault) {
        describe(driver, queues, subject.template);
        setUp(driver, queues, 0n);
      }
    }
    Atomics.store(stop, 0, 1);
    await ended;
    context.diagnostic(`served ${subject.served()}, ${faults} mistakes`);
    assert.ok(faults > 0, 'the other processor did nothing');
    assert.ok(subject.served() > 0, 'this processor did nothing');
    setUp(driver, queues, 0n);
    assert.equal(driver.status, 15);
  });
