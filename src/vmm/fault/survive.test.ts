/** The kit's interrupt table (guests/idt.h): guests that survive their faults. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { withoutKvm } from '#kvm/testing.ts';
import { describeEnd } from '../end.ts';
import { compileGuest, kit } from '../image/compile.ts';
import { createMachine } from '../machine.ts';
import type { ModeName } from '../modes/mode.ts';
import { modes } from '../modes/table.ts';
import { compile, run } from '../testing.ts';

/** A guest that does something bad, twice, and says each time which vector it was. */
const twice = (bad: string): string => `
  #include "idt.h"
  int main(void) {
    idt_install();
    for (volatile int round = 0; round < 2; round++) {
      const struct fault *fault = survive();
      if (!fault) { ${bad} return 1; }
      print_number(fault->vector);
      print_number(fault->error);
      print_number(fault->address);
    }
    return 42;
  }`;

const asm = (text: string): string => `__asm__ volatile(${text});`;

/** Vector, error code, and CR2 where it means something. */
const cases: readonly (readonly [
  name: string,
  bad: string,
  modes: readonly ModeName[],
  vector: number,
  error: number,
  address?: number,
])[] = [
  ['no instruction', asm('"ud2"'), ['long', 'protected'], 6, 0],
  ['a division by zero', asm('"div %%ecx" : : "c"(0), "a"(1), "d"(0)'), ['long', 'protected'], 0, 0],
  [
    'a register that is not there',
    asm('"rdmsr" : : "c"(0x12345) : "eax", "edx"'),
    ['long', 'protected'],
    13,
    0,
  ],
  ['a segment that is not there', asm('"mov %0, %%ds" : : "r"(0x40)'), ['long', 'protected'], 13, 0x40],
  ['an address that is none', '*(volatile int *)(0x8000ull << 32) = 1;', ['long'], 13, 0],
  ['a write to nowhere', '*(volatile int *)0x400000 = 1;', ['long'], 14, 2, 0x400000],
  ['a read from nowhere', '(void)*(volatile int *)0x600004;', ['long'], 14, 0, 0x600004],
  // pushed onto the same stack, the page fault becomes a double fault, which has a stack of its own
  ['a stack that is nowhere', asm('"mov $0x10000000, %esp\\n\\tpush %rax"'), ['long'], 8, 0, 0xfff_fff8],
];

suite('guests with an interrupt table', { skip: withoutKvm }, () => {
  for (const [name, bad, inModes, vector, error, address] of cases)
    for (const mode of inModes)
      test(`survive ${name}, and once more (${mode})`, async (context) => {
        const { output, registers, end } = await run(await compile(context, twice(bad), mode), { mode });
        assert.equal(end.kind, 'halted', describeEnd(end));
        const numbers = output.trim().split('\n').map(Number);
        const once = [vector, error, address ?? numbers[2]];
        assert.deepEqual([numbers, registers.rax], [[...once, ...once], 42n]);
      });

  for (const mode of ['long', 'protected'] as const)
    test(`go back, repair, and at last give up, with the exception as their end (${mode})`, async () => {
      const image = await compileGuest(join(kit, 'examples', 'survive.c'), modes[mode]);
      const { output, end } = await run(image, { mode });
      assert.match(
        output,
        /^survived: #UD invalid opcode, vector 0x6, .*\n42 \/ 0 is 7\nand now without a way back\n#UD invalid opcode, .*\n$/,
      );
      assert.ok(end.kind === 'gave up', end.kind);
      assert.deepEqual([end.vector, end.errorCode], [6, 0n]);
      assert.match(
        describeEnd(end),
        /^the guest's handler gave up: #UD invalid opcode, error code 0x0, RIP 0x/,
      );
    });

  test('map pages when they are asked for, each vCPU its own', async () => {
    const image = await compileGuest(join(kit, 'examples', 'demand.c'), modes.long);
    using machine = createMachine({ mode: 'long', image, vcpus: 2 });
    for (const { output, end, registers } of await machine.run({ limitMs: 120_000 }))
      assert.deepEqual([output, end.kind, registers.rax], ['84\npage faults: 1\n', 'halted', 84n]);
  });

  test('a page fault that nobody repairs ends with its address; a bad last word is refused', async (context) => {
    const lost = 'int main(void) { idt_install(); *(volatile int *)0x400000 = 1; return 0; }';
    const { end, output } = await run(await compile(context, `#include "idt.h"\n${lost}`));
    assert.match(
      describeEnd(end),
      /gave up: #PF page fault, error code 0x2, RIP 0x[0-9a-f]+, address 0x400000$/,
    );
    assert.match(output, /CR2 0x400000: write, not mapped\n$/);
    const bad = await compile(
      context,
      'int main(void) { return CARREL_CALL(PORT_GIVE_UP, 0x80000000, 0, 0); }',
    );
    assert.equal((await run(bad)).registers.rax, 0xffff_fff2n);
  });

  test('real mode has no descriptors, and the header says so', async (context) => {
    await assert.rejects(
      compile(context, '#include "idt.h"\nint main(void) { return 0; }', 'real'),
      /does not compile for real mode/,
    );
  });
});
