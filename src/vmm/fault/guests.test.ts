/** Every guest in guests/faults, and what is said of it. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { suite, test } from 'node:test';
import { probeKvm } from '#kvm/probe.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { describeEnd } from '../end.ts';
import { compileGuest, kit } from '../image/compile.ts';
import type { VcpuResult } from '../machine.ts';
import type { ModeName } from '../modes/mode.ts';
import { modes } from '../modes/table.ts';
import { code, compile, run } from '../testing.ts';

const faults = join(kit, 'faults');

async function runFault(name: string, mode: ModeName = 'long'): Promise<VcpuResult> {
  return await run(await compileGuest(join(faults, `${name}.c`), modes[mode]), {
    mode,
    limitMs: name === 'spin' ? 300 : 120_000,
  });
}

/** How each ends in long mode; the exception where there is no doubt. */
const ends: Readonly<Record<string, readonly [end: RegExp, vector?: number]>> = {
  beyond: [/^SHUTDOWN: the instruction writes to 0x200000: not mapped: PD\[1\] is not present$/, 14],
  breakpoint: [/int3 wants a handler, and the guest has no interrupt table/],
  divide: [/^SHUTDOWN: a division by zero/, 0],
  garbage: [/^SHUTDOWN: the bytes at RIP are no instruction$/, 6],
  jump: [/^SHUTDOWN: RIP is 0x12345678, and there is no code: not mapped: PD\[145\] is not present/, 14],
  msr: [
    /^SHUTDOWN: the guest reads model-specific register 0x12345 \(ECX\), and this processor has none$/,
    13,
  ],
  noncanonical: [/^SHUTDOWN: the instruction reads from 0x800000000000: not an address/, 13],
  pointer: [/^bad pointer in print: 0x80000000, not mapped/],
  port: [/^unknown port 0x77 \(119\), direction out, 1 byte$/],
  spin: [/^time limit: 300 ms$/],
  stack: [
    /PD\[0\] is not present.*Its page tables are not those it began with: 0x4000 has 0x0, and had 0x87; the stack has grown down to 0x\w+, over them$/,
    14,
  ],
  tables: [/PD\[0\] is not present.*0x4000 has 0x0, and had 0x87; the guest has written there$/, 14],
  'unknown-in': [/^unknown port 0x78 \(120\), direction in, 4 bytes$/],
};

/** A guest with the kit's table, which it then spoils. */
const spoilt = (text: string): string => `#include "idt.h"\nint main(void) { ${text} return 0; }`;

suite('guests/faults', { skip: withoutKvm }, () => {
  test('every one of them is in the table', async () => {
    const files = (await readdir(faults)).map((file) => basename(file, '.c'));
    assert.deepEqual(files.sort(), Object.keys(ends).sort());
  });

  for (const [name, [sentence, vector]] of Object.entries(ends))
    test(name, async () => {
      const { end } = await runFault(name);
      assert.match(describeEnd(end), sentence);
      if (end.kind !== 'fault') return;
      if (vector !== undefined) assert.equal(end.fault.exception?.vector, vector);
      assert.equal(end.fault.walk !== undefined, vector === 14 || name === 'noncanonical');
    });

  test('without paging a stack runs over the code, and a jump leaves memory', async () => {
    const stack = await runFault('stack', 'protected');
    assert.match(describeEnd(stack.end), /The stack has grown down to 0x\w+, over the guest's code$/);
    const jump = await runFault('jump', 'protected');
    assert.match(describeEnd(jump.end), /RIP is 0x12345678, and there is no memory: it ends at 0x200000/);
  });

  test('a write to where no memory is shows the instruction that wrote, not the next one', async (context) => {
    const { end } = await run(
      await compile(context, 'int main(void) { *(volatile int *)0x500000 = 7; return 1; }', 'protected'),
      { mode: 'protected' },
    );
    assert.ok(end.kind === 'fault');
    assert.equal(end.fault.instruction?.text, 'movl $7,0x500000');
    // push moves its pointer first: no instruction is shown rather than the wrong one
    const push = await run(code(0xbc, 0, 0, 0, 0x10, 0x50, 0xf4), { mode: 'protected' });
    assert.ok(push.end.kind === 'fault');
    assert.match(push.end.fault.cause, /wrote to guest-physical 0xffffffc/);
    assert.equal(push.end.fault.instruction, undefined);
  });

  test('memory that is mapped but not there shows the walk that leads to it', async (context) => {
    const { end } = await run(
      await compile(
        context,
        `int main(void) {
           ((volatile uint64_t *)0x4000)[3] = 0x40000087; /* 0x600000 -> 1 GiB */
           return *(volatile int *)0x600010;
         }`,
      ),
    );
    assert.ok(end.kind === 'fault');
    assert.match(describeEnd(end), /^MMIO: the guest read from guest-physical 0x40000010/);
    assert.equal(end.fault.walk?.linear, 0x600010n);
  });

  test('a table with bad gates, and a good one with a bad stack, are told apart', async (context) => {
    const gates = await run(
      await compile(
        context,
        spoilt(
          'idt_install(); for (int i = 0; i < 32; i++) idt_gates[i].type = 0; __asm__ volatile("" : : : "memory"); __asm__ volatile("ud2");',
        ),
      ),
    );
    assert.match(
      describeEnd(gates.end),
      /^SHUTDOWN: ud2 .* has an interrupt table at 0x\w+, but no handler could be entered: look at its gates$/,
    );
    const stack = await run(
      await compile(
        context,
        spoilt(
          'idt_install(); idt_gates[8].stack = 0; __asm__ volatile("mov $0x10000000, %%esp\\n\\tud2" : : : "memory");',
        ),
      ),
    );
    assert.match(
      describeEnd(stack.end),
      /no handler could be entered: RSP is 0x10000000, not mapped: PD\[127\] is not present$/,
    );
  });

  test('a table that has no handler is told apart from none', async (context) => {
    const { end } = await run(
      await compile(
        context,
        `#include "idt.h"
         int main(void) { idt_install(); __asm__ volatile("int $0x80"); return 0; }`,
      ),
    );
    const { kind } = await probeKvm();
    // hardware delivers a #GP, for the table ends before; an emulating KVM does not know the instruction
    if (kind === 'emulating')
      assert.match(describeEnd(end), /emulates the instruction "int \$0x80" and does not know how/);
    else assert.match(describeEnd(end), /gave up: #GP general protection, error code 0x402/);
  });
});
