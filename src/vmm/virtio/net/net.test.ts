import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Pieces } from '../pieces.ts';
import { TestDriver } from '../testing.ts';
import { Net } from './net.ts';
import type { FramePort } from './tap.ts';

/** A wire in memory, for what a TAP does not do on demand. test/hypervisor has the one with a TAP. */
class Wire implements FramePort {
  readonly toGuest: (Uint8Array | 'gone')[] = [];
  readonly fromGuest: Buffer[] = [];
  takes = true;
  /** How often somebody asked for a frame. */
  asked = 0;

  receive(): Uint8Array | 'gone' | undefined {
    this.asked += 1;
    return this.toGuest.shift();
  }

  send(frame: Pieces): boolean {
    if (this.takes) this.fromGuest.push(Buffer.concat(frame));
    return this.takes;
  }
}

function makeNet({ buffers = 0, bytes = 1526 } = {}) {
  const wire = new Wire();
  const card = new Net({ port: wire, mac: '02:00:5e:10:00:01' });
  const driver = new TestDriver({ device: card });
  driver.negotiate();
  const receive = driver.makeQueue(0);
  const transmit = driver.makeQueue(1);
  driver.ready();
  const places = new Map<number, number>();
  const give = (): void => {
    const at = driver.allocate(bytes);
    const head = receive.add([{ at, bytes, write: true }]);
    assert.ok(head !== undefined);
    places.set(head, at);
    receive.kick();
  };
  for (let count = 0; count < buffers; count += 1) give();
  /** What came in since the last call: header and frame. */
  const arrived = (): Buffer[] =>
    receive.collect().map(({ head, written }) => driver.contents(places.get(head) ?? -1, written));
  return { wire, card, driver, receive, transmit, give, arrived };
}

const frame = (bytes: number, fill = 7): Buffer => Buffer.alloc(bytes, fill);

test('5.1.4: the hardware address and the link are in the configuration', () => {
  const { driver } = makeNet();
  const bytes = [0, 1, 2, 3, 4, 5].map((at) => driver.mmio.read(0x100 + at, 1));
  assert.deepEqual(bytes, [2n, 0n, 0x5en, 0x10n, 0n, 1n]);
  assert.equal(driver.mmio.read(0x106, 2), 1n);
  assert.equal(driver.read32(0x008), 1);
  assert.throws(() => new Net({ port: new Wire(), mac: '02:00' }), /six bytes/);
});

test('5.1.6.2: a packet goes out without its header, whatever the header asks for', () => {
  const { wire, driver, transmit } = makeNet();
  const at = driver.place(Buffer.concat([frame(12, 0xff), frame(60)]));
  transmit.add([{ at, bytes: 72 }]);
  transmit.kick();
  assert.deepEqual(wire.fromGuest, [frame(60)]);
  assert.equal(transmit.collect()[0]?.written, 0);
  assert.equal(driver.acknowledge(), 1);
});

test('2.7.4.1: a packet may be cut anywhere, within its header too', () => {
  const { wire, driver, transmit } = makeNet();
  const content = Buffer.from(Uint8Array.from({ length: 100 }, (_, index) => index));
  const at = driver.place(Buffer.concat([Buffer.alloc(12), content]));
  transmit.add([
    { at, bytes: 5 },
    { at: at + 5, bytes: 10 },
    { at: at + 15, bytes: 97 },
  ]);
  transmit.kick();
  assert.deepEqual(wire.fromGuest, [content]);
});

test('5.1.6.4.1: a frame comes with num_buffers 1 and nothing else in its header', () => {
  const { wire, card, driver, arrived } = makeNet({ buffers: 1 });
  wire.toGuest.push(frame(60));
  card.receive();
  assert.deepEqual(arrived(), [
    Buffer.concat([Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), frame(60)]),
  ]);
  assert.equal(driver.acknowledge(), 1);
});

test('frames are left on the wire while the driver has no buffers, and come when it gives some', () => {
  const { wire, card, give, arrived } = makeNet();
  assert.equal(card.wantsFrames, false);
  const asked = wire.asked;
  wire.toGuest.push(frame(60, 1), frame(61, 2));
  card.receive();
  assert.equal(wire.asked, asked);
  give();
  assert.deepEqual(
    arrived().map(({ length }) => length),
    [72],
  );
  assert.equal(card.wantsFrames, false);
  give();
  assert.deepEqual(
    arrived().map(({ length }) => length),
    [73],
  );
});

test('a driver that is not there, or gave up, gets nothing; after a reset its old buffers are not written to', () => {
  const { wire, card, driver, receive } = makeNet({ buffers: 2 });
  assert.equal(card.wantsFrames, true);
  driver.status = 0;
  assert.equal(card.wantsFrames, false);
  wire.toGuest.push(frame(60));
  card.receive();
  assert.equal(receive.usedIndex, 0);
  assert.equal(wire.toGuest.length, 1);
  const before = driver.contents(0, driver.ram.length);
  driver.negotiate();
  driver.ready();
  card.receive();
  assert.ok(driver.contents(0, driver.ram.length).equals(before));
});

test('5.1.6.3: a frame larger than its buffer is dropped and counted, and the buffer is kept for the next', () => {
  const { wire, card, arrived } = makeNet({ buffers: 1, bytes: 100 });
  wire.toGuest.push(frame(89), frame(88, 5));
  card.receive();
  assert.deepEqual(
    arrived().map(({ length }) => length),
    [100],
  );
  assert.equal(card.counters.tooLarge, 1);
  assert.equal(card.counters.received, 1);
});

test('packets that are no frames by their length are dropped and counted, and given back', () => {
  const { wire, card, driver, transmit } = makeNet();
  const at = driver.place(frame(70_000));
  for (const bytes of [12, 12 + 13, 12 + 65_554]) transmit.add([{ at, bytes }]);
  transmit.kick();
  assert.equal(transmit.collect().length, 3);
  assert.deepEqual(wire.fromGuest, []);
  assert.equal(card.counters.unsent, 3);
  assert.equal(driver.mmio.fault, undefined);
});

test('a wire that takes nothing loses the frame, and the driver goes on', () => {
  const { wire, card, driver, transmit } = makeNet();
  wire.takes = false;
  transmit.add([{ at: driver.place(frame(72)), bytes: 72 }]);
  transmit.kick();
  assert.equal(transmit.collect().length, 1);
  assert.equal(card.counters.unsent, 1);
});

test('a packet without a whole header is a mistake', () => {
  const { driver, transmit } = makeNet();
  transmit.add([{ at: 0x1000, bytes: 11 }]);
  transmit.kick();
  assert.equal(driver.mmio.fault?.fault, 'request shape');
});

test('a receive buffer without room for the header is a mistake', () => {
  const { driver, receive } = makeNet();
  receive.add([{ at: 0x1000, bytes: 11, write: true }]);
  receive.kick();
  assert.equal(driver.mmio.fault?.fault, 'request shape');
});

test('a burst is taken in with one interrupt; the rest waits for the next call', () => {
  const wire = new Wire();
  const card = new Net({ port: wire, mac: '02:00:5e:10:00:01' });
  const driver = new TestDriver({ device: card });
  driver.negotiate();
  const receive = driver.makeQueue(0, 128);
  driver.ready();
  const at = driver.allocate(128 * 100);
  for (let count = 0; count < 128; count += 1)
    receive.add([{ at: at + count * 100, bytes: 100, write: true }]);
  receive.kick();
  for (let count = 0; count < 100; count += 1) wire.toGuest.push(frame(60));
  card.receive();
  assert.equal(receive.usedIndex, 64);
  assert.equal(driver.line.raised, 1);
  card.receive();
  assert.equal(receive.usedIndex, 100);
});

test('5.1.4: when the interface is gone the link is down, the driver is told, and nobody waits for frames', () => {
  const { wire, card, driver } = makeNet({ buffers: 1 });
  wire.toGuest.push('gone');
  const generation = driver.read32(0x0fc);
  card.receive();
  assert.equal(driver.mmio.read(0x106, 2), 0n);
  assert.notEqual(driver.read32(0x0fc), generation);
  assert.equal(driver.acknowledge(), 2);
  assert.equal(card.wantsFrames, false);
});
