import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { GuestMemory } from '#kvm/memory.ts';
import { SpecialRegisters } from '#kvm/registers.ts';
import { AddressSpace, BadAddress } from './addresses.ts';
import { windowBytes } from './layout.ts';
import { long } from './modes/long.ts';

/** Three windows; the middle one is the guest's, the others are full of canaries. */
function threeWindows(): { memory: GuestMemory; space: AddressSpace } {
  const memory = GuestMemory.allocate(3 * windowBytes);
  memory.bytes.fill(0xc5);
  const layout = { memory, base: windowBytes, tables: 0x2000 };
  memory.bytes.fill(0, windowBytes, 2 * windowBytes);
  const special = new SpecialRegisters();
  long.setUp(special, layout);
  return { memory, space: new AddressSpace(layout, special) };
}

const address = fc.oneof(
  fc.bigInt({ min: 0n, max: BigInt(3 * windowBytes) }),
  fc.bigInt({ min: BigInt(windowBytes - 64), max: BigInt(windowBytes + 64) }),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);

test('whatever a guest points at, nothing outside of its window is read or written', () => {
  const { memory, space } = threeWindows();
  fc.assert(
    fc.property(address, fc.integer({ min: 0, max: 5000 }), (at, length) => {
      // its tables stay as they are: this is about pointers
      const isTables = at < 0x5000n;
      const fits = at + BigInt(length) <= BigInt(windowBytes);
      const read = space.read(at, length);
      assert.equal(read instanceof BadAddress, !fits && length > 0);
      if (!(read instanceof BadAddress)) assert.ok(!read.includes(0xc5));
      if (!isTables && length > 0)
        assert.equal(space.write(at, new Uint8Array(length).fill(1)) instanceof BadAddress, !fits);
    }),
  );
  assert.ok(memory.bytes.subarray(0, windowBytes).every((byte) => byte === 0xc5));
  assert.ok(memory.bytes.subarray(2 * windowBytes).every((byte) => byte === 0xc5));
});

test('a write that does not fit writes nothing', () => {
  const { memory, space } = threeWindows();
  const end = BigInt(windowBytes);
  assert.ok(space.write(end - 5000n, new Uint8Array(6000).fill(1)) instanceof BadAddress);
  assert.ok(memory.bytes.subarray(2 * windowBytes - 5000, 2 * windowBytes).every((byte) => byte === 0));
  assert.equal(space.write(end - 5000n, new Uint8Array(5000).fill(1)), undefined);
});

test('a string ends at its NUL byte; one without ends at the end of memory', () => {
  const { memory, space } = threeWindows();
  memory.bytes.fill(0x61, windowBytes + 0x5ff0, windowBytes + 0x6010);
  const text = space.readString(0x5ff0n);
  assert.ok(!(text instanceof BadAddress));
  assert.equal(text.length, 0x20);
  memory.bytes.fill(0x61, 2 * windowBytes - 100, 2 * windowBytes);
  const endless = space.readString(BigInt(windowBytes - 100));
  assert.ok(endless instanceof BadAddress);
  assert.equal(endless.address, BigInt(windowBytes));
});

test('a guest that maps the memory of its neighbour gets no hypercall to read it', () => {
  const { memory, space } = threeWindows();
  // PD[1] -> the window behind
  memory.view.setBigUint64(windowBytes + 0x4000 + 8, BigInt(2 * windowBytes) | 0x87n, true);
  const { result } = space.walk(BigInt(windowBytes));
  assert.ok(result.mapped);
  const stolen = space.read(BigInt(windowBytes), 1);
  assert.ok(stolen instanceof BadAddress);
  assert.match(stolen.why, /outside of this vCPU's memory/);
});
