/**
 * virtio-net on a real TAP, in a network namespace of the test's own: the driver's side is the test, what is beyond
 * the TAP is Linux.
 */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { until } from '#base/deadline.ts';
import { openTap as openTapDevice } from '#fabric/tap.ts';
import { inNetns } from '#fabric/netns.ts';
import { openLinks } from '#fabric/netlink/links.ts';
import { parseAddress } from '#fabric/addresses.ts';
import type { Fd } from '#host/fds.ts';
import { Net } from '#vmm/virtio/net/net.ts';
import { tapPort } from '#vmm/virtio/net/tap.ts';
import { GuardedRam } from '#vmm/virtio/testing-ram.ts';
import { Driver, type DriverQueue, TestDriver } from '#vmm/virtio/testing.ts';
import { openDoors } from '#vmm/virtio/thread/door.ts';
import { startDevices } from '#vmm/virtio/thread/thread.ts';
import { type Netbed, type Tap, linkNames, makeNetns, netnsLeft, openTap } from '#test/netbed.ts';

const mac = '02:00:5e:10:00:01';
const macBytes = Buffer.from(mac.replaceAll(':', ''), 'hex');
const guestAddress = '192.168.77.2';
const hostAddress = '192.168.77.1';
/** IEEE 802.1: for experiments. */
const experiment = 0x88b5;
const bufferBytes = 1526;

interface Rings {
  readonly driver: Driver;
  readonly receive: DriverQueue;
  readonly transmit: DriverQueue;
  give(count: number): void;
  send(frame: Uint8Array): void;
  /** Frames that came in, without their headers. */
  arrived(): Buffer[];
}

interface Guest extends Rings {
  readonly driver: TestDriver;
  readonly card: Net;
}

/** A driver on the TAP. */
function makeGuest(tap: Fd): Guest {
  const card = new Net({ port: tapPort(tap.fd), mac });
  const driver = new TestDriver({ device: card });
  return { ...makeRings(driver), driver, card };
}

/** Its rings, with as many buffers as it was given. */
function makeRings(driver: Driver): Rings {
  driver.negotiate();
  const receive = driver.makeQueue(0, 64);
  const transmit = driver.makeQueue(1, 64);
  driver.ready();
  const free = Array.from({ length: 64 }, () => driver.allocate(bufferBytes));
  const out = driver.allocate(12 + 2048);
  const places = new Map<number, number>();
  return {
    driver,
    receive,
    transmit,
    give(count) {
      for (const at of free.splice(0, count)) {
        const head = receive.add([{ at, bytes: bufferBytes, write: true }]);
        assert.ok(head !== undefined);
        places.set(head, at);
      }
      receive.kick();
    },
    send(frame) {
      driver.ram.bytes.fill(0xff, out, out + 12); // a header that asks for everything
      driver.ram.bytes.set(frame, out + 12);
      transmit.add([{ at: out, bytes: 12 + frame.length }]);
      transmit.kick();
      // in a thread of its own the device takes a moment
      const limit = Date.now() + 5000;
      while (transmit.collect().length === 0) assert.ok(Date.now() < limit, 'the frame is not taken');
    },
    arrived() {
      return receive.collect().map(({ head, written }) => {
        const at = places.get(head);
        assert.ok(at !== undefined);
        free.push(at);
        assert.deepEqual(driver.contents(at, 12), Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
        return driver.contents(at + 12, written - 12);
      });
    },
  };
}

/** Answers ARP requests and ICMP echo requests, as a very small system would. */
function answer(frame: Buffer): Buffer | undefined {
  const reply = Buffer.from(frame);
  frame.copy(reply, 0, 6, 12);
  macBytes.copy(reply, 6);
  if (frame.readUInt16BE(12) === 0x0806 && frame.readUInt16BE(20) === 1) {
    reply.writeUInt16BE(2, 20);
    macBytes.copy(reply, 22);
    frame.copy(reply, 28, 38, 42);
    frame.copy(reply, 32, 22, 32);
    return reply;
  }
  if (frame.readUInt16BE(12) === 0x0800 && frame[23] === 1 && frame[34] === 8) {
    frame.copy(reply, 26, 30, 34);
    frame.copy(reply, 30, 26, 30);
    reply[34] = 0;
    // RFC 1624: the checksum after 8 became 0
    const sum = frame.readUInt16BE(36) + 0x0800;
    reply.writeUInt16BE((sum & 0xffff) + (sum >> 16), 36);
    return reply;
  }
  return undefined;
}

const numbered = (number: number, bytes: number): Buffer => {
  const frame = Buffer.alloc(bytes, number);
  Buffer.from('ffffffffffff', 'hex').copy(frame);
  macBytes.copy(frame, 6);
  frame.writeUInt16BE(experiment, 12);
  frame.writeUInt32BE(number, 14);
  return frame;
};

const isOurs = (frame: Buffer): boolean => frame.readUInt16BE(12) === experiment;

suite('virtio-net on a TAP', { skip: process.getuid?.() === 0 ? false : 'needs root' }, () => {
  const links = linkNames();
  let bed: Netbed;
  let device: Fd;
  let beyond: Tap;
  before(async () => {
    bed = await makeNetns();
    device = inNetns(bed.pid, () => openTapDevice('tap0'));
    using there = inNetns(bed.pid, () => openLinks());
    const tap = await there.find('tap0');
    assert.ok(tap);
    await there.addAddress(tap.index, parseAddress(hostAddress), 24);
    await there.setUp('tap0');
    beyond = openTap(bed.pid, tap.index);
  });
  after(async () => {
    beyond[Symbol.dispose]();
    device.close();
    await bed[Symbol.asyncDispose]();
    assert.deepEqual(netnsLeft(), []);
    assert.deepEqual(linkNames(), links);
  });

  /** Linux pings the driver, which answers with what it has; `look` for whatever brings frames in. */
  async function pinged(guest: Rings, look: () => void): Promise<void> {
    const ping = bed.run('busybox', 'ping', '-c2', '-W5', guestAddress);
    const over = new AbortController();
    void ping.finally(() => over.abort());
    const loop = async (): Promise<void> => {
      for (let waited = 0; !over.signal.aborted && waited < 20_000; waited += 2) {
        guest.give(8);
        look();
        for (const frame of guest.arrived()) {
          const reply = answer(frame);
          if (reply) guest.send(reply);
        }
        await sleep(2);
      }
    };
    const [{ status, stdout }] = await Promise.all([ping, loop()]);
    assert.equal(status, 0, stdout.toString());
    assert.match(stdout.toString(), /2 packets received/);
    guest.driver.ram.assertIntact();
  }

  test('Linux pings the driver: address resolution and echo, there and back', async () => {
    const guest = makeGuest(device);
    await pinged(guest, () => guest.card.receive());
  });

  test('the same with the card in a thread of its own, which waits for the TAP by itself', async () => {
    const ram = new GuardedRam(2 ** 20);
    await using devices = startDevices({
      ram: [{ at: 0, handle: ram.handle }],
      devices: [{ kind: 'net', tap: device.fd, mac }],
      vcpus: 1,
    });
    const [door] = openDoors(devices.doors, 0);
    assert.ok(door);
    await pinged(makeRings(new Driver(door, ram)), () => undefined);
  });

  test('frames of every size go both ways, unchanged and in order', async () => {
    const guest = makeGuest(device);
    const sizes = [18, 60, 61, 512, 1513, 1514];
    for (const [number, size] of sizes.entries()) {
      guest.send(numbered(number, size));
      beyond.send(numbered(number, size));
    }
    const out: Buffer[] = [];
    const into: Buffer[] = [];
    await until(120_000, 'all frames', () => {
      guest.give(4);
      guest.card.receive();
      into.push(...guest.arrived().filter(isOurs));
      out.push(...beyond.received().filter(isOurs));
      return into.length >= sizes.length && out.length >= sizes.length ? true : undefined;
    });
    const expected = sizes.map((size, number) => numbered(number, size));
    assert.deepEqual(into, expected);
    assert.deepEqual(out, expected);
  });

  test('in any order of buffers and frames none is lost below the TAP’s own queue, none twice', () => {
    const guest = makeGuest(device);
    let number = 1000;
    const step = fc.record({
      in: fc.integer({ min: 0, max: 6 }),
      give: fc.integer({ min: 0, max: 6 }),
      look: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const sent: number[] = [];
        const got: number[] = [];
        const look = (): void => {
          guest.card.receive();
          for (const frame of guest.arrived()) if (isOurs(frame)) got.push(frame.readUInt32BE(14));
        };
        for (const each of steps) {
          for (let count = 0; count < each.in; count += 1) {
            number += 1;
            beyond.send(numbered(number, 60));
            sent.push(number);
          }
          guest.give(each.give);
          if (each.look) look();
        }
        // what is left on the wire comes when there are buffers
        for (let round = 0; round < 20 && got.length < sent.length; round += 1) {
          guest.give(64);
          look();
        }
        assert.deepEqual(got, sent);
        guest.driver.ram.assertIntact();
      }),
      { numRuns: 50 },
    );
  });

  test('an interface that is deleted is a link that is down', async () => {
    const other = inNetns(bed.pid, () => openTapDevice('tap1'));
    const guest = makeGuest(other);
    guest.give(1);
    assert.equal(guest.card.wantsFrames, true);
    assert.equal((await bed.run('ip', 'link', 'delete', 'tap1')).status, 0);
    guest.card.receive();
    assert.equal(guest.driver.mmio.read(0x106, 2), 0n);
    assert.equal(guest.driver.acknowledge(), 2);
    guest.send(numbered(1, 60));
    assert.equal(guest.card.counters.unsent, 1);
    other.close();
  });
});
