/** What device and driver tell each other: interrupts, configuration, notifications, passes over a queue. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Interrupts } from './interrupts.ts';
import { echo, EVENT_IDX, working } from './testing-echo.ts';
import { TestDriver } from './testing.ts';

test('4.2.2.1: an event is in InterruptStatus until it is acknowledged, and the line is up as long', () => {
  const { driver, queue, buffer } = working({ without: EVENT_IDX });
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.notify();
  assert.equal(driver.read32(0x060), 1);
  driver.write32(0x064, 2);
  assert.equal(driver.read32(0x060), 1);
  assert.equal(driver.line.level, true);
  driver.write32(0x064, 1);
  assert.equal(driver.read32(0x060), 0);
  assert.equal(driver.line.level, false);
});

test('a kind of event that comes while another one is being acknowledged makes an edge of its own', () => {
  const edges: boolean[] = [];
  const word = new Int32Array(1);
  const interrupts = new Interrupts({ set: (level) => void edges.push(level) }, word);
  interrupts.raise(1);
  interrupts.raise(1);
  assert.deepEqual(edges, [true]);
  const seen = interrupts.status;
  interrupts.raise(2);
  Atomics.and(word, 0, ~seen); // as a door does it: by the word alone
  assert.deepEqual([edges, interrupts.status], [[true, true], 2]);
  interrupts.raise(1);
  assert.deepEqual([edges, interrupts.status], [[true, true, true], 3]);
});

test('2.5.2: the configuration can be read in any width, ends where it ends, and is not the driver’s to write', () => {
  const driver = new TestDriver({ device: echo() });
  assert.equal(driver.mmio.read(0x100, 1), 1n);
  assert.equal(driver.mmio.read(0x102, 2), 0x0403n);
  assert.equal(driver.mmio.read(0x104, 4), 0x08070605n);
  assert.equal(driver.mmio.read(0x100, 8), 0x0807060504030201n);
  assert.equal(driver.mmio.read(0x108, 8), 9n);
  assert.equal(driver.mmio.read(0x1f8, 8), 0n);
  driver.mmio.write(0x100, 1, 0xffn);
  assert.equal(driver.mmio.read(0x100, 1), 1n);
});

test('4.2.2.1: ConfigGeneration changes with the configuration, and a ready driver is interrupted', () => {
  let change: (() => void) | undefined;
  const device = echo({ attach: (link) => (change = () => link.configChanged()) });
  const driver = new TestDriver({ device });
  const before = driver.read32(0x0fc);
  change?.();
  assert.notEqual(driver.read32(0x0fc), before);
  assert.equal(driver.read32(0x060), 0);
  driver.negotiate();
  driver.ready();
  change?.();
  assert.equal(driver.acknowledge(), 2);
});

test('2.7.7.2: without event indices the driver is interrupted unless it asked not to be', () => {
  const { driver, queue, buffer } = working({ without: EVENT_IDX });
  queue.suppressed = true;
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.kick();
  assert.equal(driver.read32(0x060), 0);
  assert.equal(queue.collect().length, 1);
  queue.suppressed = false;
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.kick();
  assert.equal(driver.acknowledge(), 1);
});

test('2.7.7.2: with event indices it is interrupted when used_event is passed, whatever the flag says', () => {
  const { driver, queue, buffer } = working();
  queue.suppressed = true;
  queue.interruptAfter = 2;
  const interrupts = [0, 1, 2, 3].map(() => {
    queue.add([{ at: buffer, bytes: 1, write: true }]);
    queue.kick();
    return driver.acknowledge();
  });
  assert.deepEqual(interrupts, [0, 0, 1, 0]);
});

test('2.7.10.2: with event indices the device asks to be told of the next chain, over the end of the index', () => {
  const { driver, queue, buffer, device } = working();
  const rounds = 70_000;
  for (let round = 0; round < rounds; round += 1) {
    queue.add([{ at: buffer, bytes: 1, write: true }]);
    queue.kick();
    assert.equal(queue.collect().length, 1, `round ${round}`);
  }
  assert.equal(Reflect.get(device, 'served'), rounds);
  assert.equal(driver.mmio.fault, undefined);
});

test('a pass that is interrupted leaves the rest; polling, or any access, goes on with it', () => {
  let stop = true;
  const device = echo();
  const driver = new TestDriver({ device, interrupted: () => stop });
  driver.negotiate();
  const queue = driver.makeQueue(0);
  driver.ready();
  const at = driver.allocate(1);
  for (let count = 0; count < 5; count += 1) queue.add([{ at, bytes: 1, write: true }]);
  queue.kick();
  assert.equal(device.served, 0);
  assert.equal(driver.mmio.poll(), true);
  stop = false;
  assert.equal(driver.mmio.poll(), false);
  assert.equal(device.served, 5);
  assert.equal(driver.line.level, true);
});

test('a device that is kept busy by another processor ends its pass, and goes on at the next access', () => {
  // each chain that is served makes another one available, as a second vCPU would
  const { driver, queue } = working({
    device: echo({
      notify(index, queues) {
        queues.drain(index, () => {
          queue.collect();
          queue.add([{ at: buffer, bytes: 1, write: true }]);
          return 0;
        });
      },
    }),
  });
  const buffer = driver.allocate(1);
  queue.add([{ at: buffer, bytes: 1, write: true }]);
  queue.kick();
  const passed = queue.usedIndex;
  assert.ok(passed >= 16 && passed <= 64 + 1, String(passed));
  driver.read32(0x070);
  assert.ok(queue.usedIndex > passed);
  driver.status = 0;
  assert.equal(driver.mmio.poll(), false);
});
