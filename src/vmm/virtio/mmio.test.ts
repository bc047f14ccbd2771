/** The registers of all virtio devices: features, status, setting up queues. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeFault } from './fault.ts';
import { echo, EVENT_IDX, INDIRECT, working } from './testing-echo.ts';
import { TestDriver } from './testing.ts';

test('4.2.2: magic, version 2, the device’s number, and zeros from registers that can only be written', () => {
  const driver = new TestDriver({ device: echo() });
  assert.equal(driver.read32(0x000), 0x74726976);
  assert.equal(driver.read32(0x004), 2);
  assert.equal(driver.read32(0x008), 42);
  for (const writeOnly of [0x014, 0x020, 0x024, 0x030, 0x038, 0x050, 0x064, 0x080, 0x0a4])
    assert.equal(driver.read32(writeOnly), 0);
  driver.write32(0x000, 7);
  assert.equal(driver.read32(0x000), 0x74726976);
});

test('4.2.2: the length of shared memory that is not there reads as -1', () => {
  const driver = new TestDriver({ device: echo() });
  assert.equal(driver.read32(0x0b0), 0xffff_ffff);
  assert.equal(driver.read32(0x0b4), 0xffff_ffff);
});

test('4.2.2.2: registers are 32 bits wide and aligned; any other access has no effect', () => {
  const driver = new TestDriver({ device: echo() });
  for (const [offset, size] of [
    [0x000, 1],
    [0x000, 2],
    [0x000, 8],
    [0x002, 4],
    [0x003, 1],
  ] as const)
    assert.equal(driver.mmio.read(offset, size), 0n);
  driver.mmio.write(0x070, 1, 1n);
  driver.mmio.write(0x070, 8, 1n);
  driver.mmio.write(0x072, 4, 1n);
  assert.equal(driver.status, 0);
});

test('2.2: features come in halves of 32 bits, VERSION_1 among them, and none beyond', () => {
  const driver = new TestDriver({ device: echo() });
  assert.equal(driver.offered, 0b101n | INDIRECT | EVENT_IDX | (1n << 32n));
  driver.write32(0x014, 2);
  assert.equal(driver.read32(0x010), 0);
  driver.write32(0x014, 0xffff_ffff);
  assert.equal(driver.read32(0x010), 0);
});

for (const [what, features] of [
  ['a feature that was not offered', (1n << 32n) | 0b10n],
  ['none of the new interface (VERSION_1, 6.2)', 0b101n],
  ['a bit above 64', (1n << 32n) | (1n << 70n)],
] as const)
  test(`2.2.2: a driver that accepts ${what} does not get FEATURES_OK`, () => {
    const driver = new TestDriver({ device: echo() });
    driver.status = 3;
    driver.accept(features & ((1n << 64n) - 1n));
    if (features >> 64n) {
      driver.write32(0x024, 2);
      driver.write32(0x020, Number(features >> 64n));
    }
    driver.status = 11;
    assert.equal(driver.status, 3);
  });

test('2.2.2: the same features are accepted again after a reset', () => {
  const driver = new TestDriver({ device: echo() });
  const first = driver.negotiate();
  assert.equal(driver.negotiate(), first);
});

test('3.1.1: features are settled by FEATURES_OK', () => {
  const driver = new TestDriver({ device: echo() });
  driver.negotiate({ only: 1n << 32n });
  driver.accept((1n << 32n) | INDIRECT);
  const queue = driver.makeQueue(0);
  driver.ready();
  queue.addIndirect([{ at: 0, bytes: 1 }]);
  queue.notify();
  assert.equal(driver.mmio.fault?.fault, 'indirect not negotiated');
});

test('2.1.1: bits of the status are never taken back but by a reset', () => {
  const driver = new TestDriver({ device: echo() });
  driver.negotiate();
  driver.status = 1;
  assert.equal(driver.status, 11);
  driver.status = 0;
  assert.equal(driver.status, 0);
});

test('2.1.2: before DRIVER_OK nothing is consumed; what was offered meanwhile is served then', () => {
  const device = echo();
  const driver = new TestDriver({ device });
  driver.negotiate();
  const queue = driver.makeQueue(0);
  const at = driver.allocate(4);
  queue.add([{ at, bytes: 4, write: true }]);
  queue.notify();
  assert.equal(device.served, 0);
  assert.equal(queue.usedIndex, 0);
  assert.equal(driver.line.level, false);
  driver.ready();
  assert.equal(device.served, 1);
  assert.equal(queue.collect().length, 1);
});

test('2.1.1: a driver that gave up (FAILED) is served no more, until it resets', () => {
  const { driver, queue, buffer, device } = working();
  driver.status = driver.status | 128;
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.notify();
  assert.equal(queue.usedIndex, 0);
  driver.status = driver.status | 4;
  queue.notify();
  assert.equal(queue.usedIndex, 0);
  driver.status = 0;
  assert.equal(driver.status, 0);
  assert.ok(device);
});

test('2.4.1, 4.2.2.1: a reset clears status, interrupts and queues; the device starts anew', () => {
  const { driver, queue, buffer } = working({ without: EVENT_IDX });
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.notify();
  assert.equal(driver.read32(0x060), 1);
  assert.equal(driver.line.level, true);
  driver.status = 0;
  assert.equal(driver.read32(0x060), 0);
  assert.equal(driver.line.level, false);
  assert.equal(driver.queueReady(0), 0);
  queue.notify();
  assert.equal(queue.usedIndex, 1);
  driver.negotiate();
  const again = driver.makeQueue(0);
  driver.ready();
  again.add([{ at: buffer, bytes: 1, write: true }]);
  again.kick();
  assert.deepEqual(again.collect(), [{ head: 0, written: 1 }]);
});

test('4.2.2: a queue that does not exist has size 0, and neither set-up nor notification does anything', () => {
  const { driver } = working();
  driver.write32(0x030, 2);
  assert.equal(driver.read32(0x034), 0);
  driver.setUpQueue(2, 8, [0x1000, 0x2000, 0x3000]);
  assert.equal(driver.queueReady(2), 0);
  for (const index of [1, 2, 0xffff_ffff]) driver.write32(0x050, index);
  assert.equal(driver.mmio.fault, undefined);
  driver.write32(0x030, 1);
  assert.equal(driver.read32(0x034), 8);
});

test('3.1.1: queues are not set up before FEATURES_OK', () => {
  const driver = new TestDriver({ device: echo() });
  driver.status = 3;
  driver.setUpQueue(0, 16, [0x1000, 0x2000, 0x3000]);
  assert.equal(driver.queueReady(0), 0);
  assert.equal(driver.mmio.fault, undefined);
});

test('4.2.2.2: size and addresses of a queue in use do not change', () => {
  const { driver, queue, buffer } = working();
  driver.setUpQueue(0, 3, [1, 2, 3]);
  assert.equal(driver.mmio.fault, undefined);
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.kick();
  assert.equal(queue.collect().length, 1);
});

test('4.2.2.2: a queue whose QueueReady is 0 again is left alone', () => {
  const { driver, queue, buffer } = working();
  driver.write32(0x044, 0);
  assert.equal(driver.queueReady(0), 0);
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.notify();
  assert.equal(queue.usedIndex, 0);
});

for (const [fault, size, addresses] of [
  ['queue size', 0, [0x1000, 0x2000, 0x3000]],
  ['queue size', 12, [0x1000, 0x2000, 0x3000]],
  ['queue size', 32, [0x1000, 0x2000, 0x3000]],
  ['queue size', 0x8000_0000, [0x1000, 0x2000, 0x3000]],
  ['ring alignment', 16, [0x1008, 0x2000, 0x3000]],
  ['ring alignment', 16, [0x1000, 0x2001, 0x3000]],
  ['ring alignment', 16, [0x1000, 0x2000, 0x3002]],
  ['ring outside memory', 16, [0x10_0000, 0x2000, 0x3000]],
  ['ring outside memory', 16, [0x1000, 0xf_fffe, 0x3000]],
  ['ring outside memory', 16, [0x1000, 0x2000, 0xffff_ffff_ffff_fffcn]],
  ['ring outside memory', 16, [0xffff_ffff_ffff_fff0n, 0x2000, 0x3000]],
] as const)
  test(`2.7: ${fault}: size ${size}, at ${addresses.map((at) => at.toString(16)).join(', ')}`, () => {
    const faults: string[] = [];
    const driver = new TestDriver({ device: echo(), onFault: ({ fault }) => faults.push(fault) });
    driver.negotiate();
    driver.setUpQueue(0, size, addresses);
    assert.equal(driver.queueReady(0), 0);
    assert.equal(driver.mmio.fault?.fault, fault);
    assert.deepEqual(faults, [fault]);
    assert.equal(driver.status & 64, 64);
    // 2.1.2: only once the driver is ready does it hear of it
    assert.equal(driver.read32(0x060), 0);
    driver.ready();
    assert.equal(driver.status & 4, 0);
    driver.negotiate();
    assert.equal(driver.mmio.fault, undefined);
  });

test('a ring may end with the last byte of memory', () => {
  const driver = new TestDriver({ device: echo() });
  driver.negotiate();
  driver.setUpQueue(0, 16, [2 ** 20 - 256, 0x2000, 0x3000]);
  assert.equal(driver.queueReady(0), 1);
});

test('2.1.2: a device that needs a reset tells a driver that is ready, once, by a configuration change', () => {
  const { driver, queue } = working({ without: EVENT_IDX });
  queue.publish(17);
  queue.notify();
  assert.ok(driver.mmio.fault);
  assert.equal(
    describeFault(driver.mmio.name, driver.mmio.fault),
    'echo needs a reset: available index: queue 0: 17 ahead, size 16; more chains are said to be available than the queue has descriptors (2.7.6)',
  );
  assert.equal(driver.status, 15 | 64);
  assert.equal(driver.acknowledge(), 2);
  assert.equal(driver.line.level, false);
  queue.notify();
  driver.status = 255;
  assert.equal(driver.status, 15 | 64 | 128);
  assert.equal(driver.line.raised, 1);
  assert.equal(queue.usedIndex, 0);
});
