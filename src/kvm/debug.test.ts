import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { debugControl, debugKinds, type DebugRegister, triggered } from './debug.ts';

test('DR7 is as the manual draws it', () => {
  assert.equal(debugControl([]), 0x400n);
  assert.equal(debugControl([{ kind: 'execute', address: 5n, bytes: 1 }]), 0x402n);
  const four: DebugRegister[] = [
    { kind: 'execute', address: 0n, bytes: 1 },
    { kind: 'write', address: 0n, bytes: 2 },
    { kind: 'access', address: 0n, bytes: 4 },
    { kind: 'write', address: 0n, bytes: 8 },
  ];
  assert.equal(debugControl(four), 0x9f50_04aan);
});

test('each register has bits of its own, whatever the others are', () => {
  const register = fc.record({
    kind: fc.constantFrom(...debugKinds),
    address: fc.bigInt(0n, 1n << 48n),
    bytes: fc.constantFrom(1, 2, 4, 8),
  });
  fc.assert(
    fc.property(fc.array(register, { maxLength: 4 }), (registers) => {
      const control = debugControl(registers);
      for (const [index, { kind, bytes }] of registers.entries()) {
        const at = 16n + 4n * BigInt(index);
        assert.equal((control >> at) & 3n, { execute: 0n, write: 1n, access: 3n }[kind]);
        assert.equal((control >> (at + 2n)) & 3n, { 1: 0n, 2: 1n, 4: 3n, 8: 2n }[bytes]);
      }
    }),
  );
});

test('DR6 names the registers, among other bits', () => {
  assert.deepEqual(triggered(0xffff_0ff0n), []);
  assert.deepEqual(triggered(0xffff_4ff5n), [0, 2]);
});
