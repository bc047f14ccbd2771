import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { TestDriver } from '../testing.ts';
import { Console } from './console.ts';

function makeConsole({ inputLimit = 2 ** 16, without = 0n } = {}) {
  const printed: Uint8Array[] = [];
  const terminal = new Console({ output: (bytes) => printed.push(bytes), inputLimit });
  const driver = new TestDriver({ device: terminal });
  driver.negotiate({ without });
  const receive = driver.makeQueue(0);
  const transmit = driver.makeQueue(1);
  driver.ready();
  return { terminal, driver, receive, transmit, text: () => Buffer.concat(printed).toString('latin1') };
}

test('5.3.6: what the driver transmits is printed, whatever pieces it is in', () => {
  const { driver, transmit, text } = makeConsole();
  const at = driver.place(Buffer.from('Hello, world'));
  transmit.add([
    { at, bytes: 5 },
    { at: at + 5, bytes: 0 },
    { at: at + 5, bytes: 7 },
  ]);
  transmit.kick();
  assert.equal(text(), 'Hello, world');
  assert.equal(transmit.collect()[0]?.written, 0);
});

test('5.3.6: what is printed is a copy: the driver may change its buffer at once', () => {
  const { driver, transmit, text } = makeConsole();
  const at = driver.place(Buffer.from('before'));
  transmit.add([{ at, bytes: 6 }]);
  transmit.kick();
  driver.ram.bytes.set(Buffer.from('after!'), at);
  assert.equal(text(), 'before');
});

test('5.3.6: what is typed comes in the driver’s buffers, and the driver is told', () => {
  const { terminal, driver, receive } = makeConsole();
  const at = driver.allocate(8);
  receive.add([{ at, bytes: 3, write: true }]);
  receive.add([{ at: at + 3, bytes: 5, write: true }]);
  receive.kick();
  assert.equal(driver.read32(0x060), 0);
  assert.equal(terminal.type(Buffer.from('hello')), 5);
  assert.deepEqual(
    receive.collect().map(({ written }) => written),
    [3, 2],
  );
  assert.equal(driver.contents(at, 5).toString(), 'hello');
  assert.equal(driver.acknowledge(), 1);
});

test('what is typed before there is a driver, or a buffer, waits; up to a limit', () => {
  const typed: Uint8Array[] = [];
  const terminal = new Console({ output: (bytes) => typed.push(bytes), inputLimit: 8 });
  assert.equal(terminal.type(Buffer.from('early')), 5);
  assert.equal(terminal.type(Buffer.from('bird')), 3);
  assert.equal(terminal.type(Buffer.from('x')), 0);
  assert.equal(terminal.waiting, 8);
  const driver = new TestDriver({ device: terminal });
  driver.negotiate();
  const receive = driver.makeQueue(0);
  driver.ready();
  assert.equal(terminal.waiting, 8);
  const at = driver.allocate(16);
  receive.add([{ at, bytes: 16, write: true }]);
  receive.kick();
  assert.deepEqual(receive.collect(), [{ head: 0, written: 8 }]);
  assert.equal(driver.contents(at, 8).toString(), 'earlybir');
  assert.equal(terminal.waiting, 0);
});

test('5.3.4, 5.3.6: the size is in the configuration; when it changes the driver is told', () => {
  const { terminal, driver } = makeConsole();
  assert.equal(driver.mmio.read(0x100, 2), 80n);
  assert.equal(driver.mmio.read(0x102, 2), 24n);
  const generation = driver.read32(0x0fc);
  terminal.resize(132, 50);
  assert.equal(driver.mmio.read(0x100, 4), BigInt(132 | (50 << 16)));
  assert.notEqual(driver.read32(0x0fc), generation);
  assert.equal(driver.acknowledge(), 2);
});

test('5.3.6.1: a buffer to read from in the receive queue is a mistake', () => {
  const { terminal, driver, receive } = makeConsole();
  receive.add([{ at: 0x1000, bytes: 8 }]);
  receive.kick();
  terminal.type(Buffer.from('x'));
  assert.equal(driver.mmio.fault?.fault, 'request shape');
  assert.equal(driver.acknowledge(), 2);
});

test('more than a terminal takes at once is a mistake, and nothing of it is printed', () => {
  const { driver, transmit, text } = makeConsole();
  transmit.add([
    { at: 0, bytes: driver.ram.length },
    { at: 0, bytes: 1 },
  ]);
  transmit.kick();
  assert.equal(driver.mmio.fault?.fault, 'request shape');
  assert.equal(text(), '');
});

test('in any order of typing and giving buffers, with and without event indices, no byte is lost or doubled', () => {
  const steps = fc.array(
    fc.oneof(
      fc.record({ type: fc.uint8Array({ maxLength: 40 }) }),
      fc.record({ give: fc.array(fc.integer({ min: 1, max: 16 }), { maxLength: 6 }) }),
    ),
    { maxLength: 60 },
  );
  fc.assert(
    fc.property(steps, fc.boolean(), (steps, eventIndex) => {
      const { terminal, driver, receive } = makeConsole({
        inputLimit: 100,
        without: eventIndex ? 0n : 1n << 29n,
      });
      const sent: number[] = [];
      const got: number[] = [];
      const places = new Map<number, number>();
      const collect = (): void => {
        for (const { head, written } of receive.collect()) {
          const at = places.get(head);
          assert.ok(at !== undefined);
          got.push(...driver.contents(at, written));
        }
      };
      for (const step of steps) {
        if ('type' in step) sent.push(...step.type.subarray(0, terminal.type(step.type)));
        else {
          for (const bytes of step.give) {
            const at = driver.allocate(bytes);
            const head = receive.add([{ at, bytes, write: true }]);
            if (head !== undefined) places.set(head, at);
          }
          receive.kick();
        }
        collect();
        assert.ok(terminal.waiting <= 100);
        assert.equal(got.length + terminal.waiting, sent.length);
      }
      while (terminal.waiting > 0) {
        const at = driver.allocate(16);
        const head = receive.add([{ at, bytes: 16, write: true }]);
        if (head !== undefined) places.set(head, at);
        receive.kick();
        collect();
      }
      assert.deepEqual(got, sent);
      driver.ram.assertIntact();
    }),
    { numRuns: 300 },
  );
});
