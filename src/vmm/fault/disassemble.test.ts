import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { zeroRegisters } from '#kvm/registers.ts';
import { disassemble, memoryOperands } from './disassemble.ts';

const registers = {
  ...zeroRegisters,
  rax: 0xffff_ffff_0000_1000n,
  rbx: 0x20n,
  rsp: 0x20_0000n,
  rip: 0x10n,
};

const text = (bits: 16 | 32 | 64, ...bytes: number[]): string =>
  disassemble(Uint8Array.from(bytes), bits, 0x10n).text;

test('instructions are written as the assembler reads them, by the width of the mode', () => {
  assert.equal(text(64, 0xe6, 0xe9), 'out %al,$0xe9');
  assert.equal(text(64, 0xc7, 4, 0x25, 0, 4, 0, 0, 42, 0, 0, 0), 'movl $0x2a,0x400');
  assert.equal(text(16, 0xb8, 0x2a, 0), 'mov $0x2a,%ax');
  assert.equal(text(32, 0xb8, 0x2a, 0, 0, 0), 'mov $0x2a,%eax');
  assert.equal(text(64, 0xeb, 0xfe), 'jmp 0x10');
});

const touched = (bits: 16 | 32 | 64, ...bytes: number[]): unknown =>
  memoryOperands(Uint8Array.from(bytes), bits, registers).map(({ offset, segment, isWrite }) => [
    `0x${offset.toString(16)}`,
    segment,
    isWrite,
  ]);

test('what an instruction touches: its operand, and the stack of push and call', () => {
  assert.deepEqual(touched(64, 0x89, 0x44, 0x98, 8), [['0xffffffff00001088', 'ds', true]]);
  assert.deepEqual(touched(32, 0x8b, 0x44, 0x98, 8), [['0x1088', 'ds', false]]);
  assert.deepEqual(touched(64, 0x50), [['0x1ffff8', 'ss', true]]);
  assert.deepEqual(touched(64, 0xf4), []);
  // in 16 bits an address wraps around: -2(%bx,%si), and SP when it was 0
  assert.deepEqual(touched(16, 0x88, 0x40, 0xde), [['0xfffe', 'ds', true]]);
  assert.deepEqual(touched(16, 0x50), [['0xfffe', 'ss', true]]);
  assert.deepEqual(touched(16, 0xa3, 0, 4), [['0x400', 'ds', true]]);
  // and a 32-bit register in 64-bit code is an address of 32 bits
  assert.deepEqual(touched(64, 0x67, 0x8b, 0x40, 0xf8), [['0xff8', 'ds', false]]);
});

test('any bytes are disassembled, be it as no instruction', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 15 }),
      fc.constantFrom(16, 32, 64),
      (bytes, bits) => {
        const { length, text } = disassemble(bytes, bits, 0n);
        assert.ok(length <= bytes.length && text.length > 0);
        memoryOperands(bytes, bits, registers);
      },
    ),
  );
});
