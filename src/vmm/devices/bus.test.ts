import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { GuestMemory } from '#kvm/memory.ts';
import { MmioBus, PortBus } from './bus.ts';
import { type GuestRam, type IrqLine, type MmioDevice, type PortDevice, pulse } from './device.ts';

/** A device that is memory, and checks what the bus promises it. */
function memoryDevice(name: string, length: number): MmioDevice & { readonly bytes: Buffer } {
  const bytes = Buffer.alloc(length);
  const inside = (offset: number, size: number): void =>
    assert.ok(Number.isInteger(offset) && offset >= 0 && offset + size <= length);
  return {
    name,
    bytes,
    read(offset, size) {
      inside(offset, size);
      let value = -1n; // bits beyond the size are the bus's to cut
      for (let at = size - 1; at >= 0; at -= 1) value = (value << 8n) | BigInt(bytes[offset + at] ?? 0);
      return value;
    },
    write(offset, size, value) {
      inside(offset, size);
      assert.ok(value >= 0n && value < 1n << BigInt(size * 8));
      for (let at = 0; at < size; at += 1) bytes[offset + at] = Number((value >> BigInt(at * 8)) & 0xffn);
    },
  };
}

/** The eight bytes at `at` without the first `size` of them. */
function keep(model: Buffer, at: number, size: number): bigint {
  const word = model.readBigUInt64LE(at);
  return word ^ BigInt.asUintN(size * 8, word);
}

test('what is written to a device is read from it, and from no other', () => {
  const access = fc.record({
    at: fc.integer({ min: 0x0fc0, max: 0x2040 }),
    size: fc.integer({ min: 1, max: 8 }),
    value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    isWrite: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(access), (accesses) => {
      const bus = new MmioBus();
      const low = memoryDevice('low', 0x800);
      const high = memoryDevice('high', 0x400);
      bus.add(0x1000, 0x800, low);
      bus.add(0x1800, 0x400, high); // they touch
      const model = Buffer.alloc(0x3000);
      let lost = 0;
      for (const { at, size, value, isWrite } of accesses) {
        const end = at + size;
        const inside = (at >= 0x1000 && end <= 0x1800) || (at >= 0x1800 && end <= 0x1c00);
        const known = [1, 2, 4, 8].includes(size) && inside;
        if (!known) lost += 1;
        if (isWrite) {
          bus.write(at, size, value);
          if (known) model.writeBigUInt64LE(BigInt.asUintN(size * 8, value) | keep(model, at, size), at);
        } else {
          let expected = 0n;
          for (let index = size - 1; index >= 0; index -= 1)
            expected = (expected << 8n) | (known ? BigInt(model[at + index] ?? 0) : 0xffn);
          assert.equal(bus.read(at, size), expected);
        }
      }
      assert.equal(bus.unmapped.total, lost);
    }),
  );
});

test('ranges that overlap are refused, by name', () => {
  const bus = new MmioBus();
  bus.add(0x1000, 0x1000, memoryDevice('first', 0x1000));
  for (const [at, length] of [
    [0x1000, 0x1000],
    [0x0fff, 2],
    [0x1fff, 1],
    [0x1800, 1],
    [0, 0x10000],
  ] as const)
    assert.throws(
      () => bus.add(at, length, memoryDevice('second', length)),
      (error) => isCarrelError(error, 'internal') && /second .* overlaps first/.test(error.message),
    );
  bus.add(0x2000, 1, memoryDevice('behind', 1));
  assert.deepEqual(
    bus.devices().map(({ name, address }) => [name, address]),
    [
      ['first', 0x1000],
      ['behind', 0x2000],
    ],
  );
});

test('ports: an empty one reads as ones, and is counted; values are cut to their size', () => {
  const bus = new PortBus();
  const seen: string[] = [];
  const device: PortDevice = {
    name: 'port',
    read: (offset) => 0x1_ffff_ff00 + offset,
    write: (offset, size, value) => seen.push(`${offset} ${size} ${value}`),
  };
  bus.add(0xfff8, 8, device);
  assert.throws(() => bus.add(0xffff, 2, device), /outside/);
  assert.equal(bus.read(0xfffa, 1), 2);
  assert.equal(bus.read(0xfffa, 4), 0xffff_ff02);
  assert.equal(bus.read(0xfffe, 4), 0xffff_ffff, 'half of it is no device');
  assert.equal(bus.read(0x80, 1), 0xff);
  bus.write(0xfff8, 4, 0xffff_ffff);
  bus.write(0xfff9, 2, 0x1_2345);
  bus.write(0x80, 1, 0);
  assert.deepEqual(seen, ['0 4 4294967295', '1 2 9029']);
  assert.deepEqual(bus.unmapped.addresses(), [
    [0x80, 2],
    [0xfffe, 1],
  ]);
  assert.deepEqual(bus.devices(), [{ port: 0xfff8, length: 8, name: 'port' }]);
});

test('a guest that tries every address does not fill our memory', () => {
  const bus = new MmioBus();
  for (let at = 0; at < 10_000; at += 1) bus.read(at * 8, 8);
  assert.equal(bus.unmapped.total, 10_000);
  assert.ok(bus.unmapped.addresses().length <= 256);
});

test('a pulse rises and falls; guest memory is RAM for devices', () => {
  const levels: boolean[] = [];
  const line: IrqLine = { set: (level) => levels.push(level) };
  pulse(line);
  assert.deepEqual(levels, [true, false]);
  const ram: GuestRam = GuestMemory.allocate(4096);
  assert.equal(ram.slice(4095n, 1)?.length, 1);
  assert.equal(ram.slice(4095n, 2), undefined);
});
