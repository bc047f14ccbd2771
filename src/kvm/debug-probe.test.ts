import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exitReasons } from './abi/exits.ts';
import { type DebugRegister, triggered } from './debug.ts';
import { debugAids } from './debug-probe.ts';
import { openKvm } from './kvm.ts';
import { GuestMemory } from './memory.ts';
import { withoutKvm } from './testing.ts';

/** mov %al, 0x3000; mov 0x3000, %al; nop; hlt: in real mode, at 0x1000. */
const program = [0xa2, 0x00, 0x30, 0xa0, 0x00, 0x30, 0x90, 0xf4];

/** Where the guest stops first with these in its debug registers, and which of them KVM names. */
function stopWith(...breakpoints: readonly DebugRegister[]): {
  readonly exit: number;
  readonly rip: bigint;
  readonly named: readonly number[];
  readonly written: number;
} {
  using kvm = openKvm();
  using vm = kvm.createVm();
  const memory = GuestMemory.allocate(1 << 16);
  memory.bytes.set(program, 0x1000);
  vm.addMemory(memory);
  const vcpu = vm.createVcpu();
  const special = vcpu.special();
  special.setSegment('cs', { ...special.segment('cs'), base: 0n, selector: 0 });
  vcpu.setSpecial(special);
  vcpu.setRegisters({ ...vcpu.registers(), rax: 0x77n, rip: 0x1000n, rflags: 2n });
  vcpu.setDebug({ breakpoints });
  while (vcpu.run() !== 'exit');
  const exit = vcpu.page.exitReason;
  return {
    exit,
    rip: vcpu.registers().rip,
    named: exit === exitReasons.DEBUG.number ? triggered(vcpu.page.debugStatus) : [],
    written: memory.bytes[0x3000] ?? 0,
  };
}

const elsewhere: DebugRegister = { kind: 'write', address: 0x4000n, bytes: 1 };

test(
  'a breakpoint on an instruction stops before it, and KVM names its register',
  { skip: withoutKvm },
  () => {
    assert.ok(debugAids().execute, 'every KVM known to us has these');
    const stop = stopWith(elsewhere, { kind: 'execute', address: 0x1006n, bytes: 1 });
    assert.deepEqual(stop, { exit: exitReasons.DEBUG.number, rip: 0x1006n, named: [1], written: 0x77 });
  },
);

for (const [kind, rip] of [
  ['write', 0x1003n],
  ['access', 0x1003n],
] as const)
  test(
    `a watchpoint (${kind}) stops behind the instruction, or this KVM passes over it, as the probe says`,
    { skip: withoutKvm },
    (context) => {
      const watch: DebugRegister = { kind, address: 0x3000n, bytes: 1 };
      const stop = stopWith(elsewhere, watch);
      if (debugAids().data)
        assert.deepEqual(stop, { exit: exitReasons.DEBUG.number, rip, named: [1], written: 0x77 });
      else {
        // it takes the registers without complaint, writes, and goes on to hlt: single steps have to find it
        assert.deepEqual(stop, { exit: exitReasons.HLT.number, rip: 0x1008n, named: [], written: 0x77 });
        context.diagnostic(
          'this KVM interprets the kernel side of guests, and does not look at data watchpoints',
        );
      }
    },
  );

test('what is never met changes nothing', { skip: withoutKvm }, () => {
  assert.equal(stopWith(elsewhere).exit, exitReasons.HLT.number);
});
