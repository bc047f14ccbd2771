/**
 * Watchpoints as the processor tells of them. Not every KVM does (see `debugAids`), so kvm_run is filled here as api.rst
 * describes an exit of kind DEBUG; all else is a real vCPU.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { exitReasons } from '#kvm/abi/exits.ts';
import { kvmRun } from '#kvm/abi/structs.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { createMachine, type Machine } from '../machine.ts';
import { code } from '../testing.ts';
import { type Breakpoint, describeHit } from './breakpoint.ts';
import { HardwareBreakpoints } from './hardware.ts';
import { parseBreakpoint } from './parse.ts';

const at = (text: string, kind: Breakpoint['kind']): Breakpoint => parseBreakpoint(text, kind, []);

/** A vCPU before its first instruction, with these in its debug registers. */
function watch(machine: Machine, breakpoints: readonly Breakpoint[]) {
  const { vcpu, layout } = machine.vcpuAt(0);
  return { control: new HardwareBreakpoints(vcpu, { layout, breakpoints }), page: vcpu.page };
}

function stops({ page }: Pick<ReturnType<typeof watch>, 'page'>, registers: bigint): typeof page {
  page.view.setUint32(kvmRun.exit_reason, exitReasons.DEBUG.number, true);
  page.view.setBigUint64(kvmRun['debug.arch.dr6'], 0xffff_0ff0n | registers, true);
  return page;
}

suite('watchpoints in debug registers', { skip: withoutKvm }, () => {
  test('each that DR6 names is a hit, with its bytes as they were and are', () => {
    using machine = createMachine({ mode: 'long', image: code(0xf4) });
    const armed = watch(machine, [at('0x500', 'write'), at('0x600:8', 'access'), at('0x700:1', 'write')]);
    machine.memory.bytes.set([1, 2, 3, 4], 0x500);
    const end = armed.control.after(stops(armed, 0b011n));
    assert.ok(end?.kind === 'breakpoint');
    assert.deepEqual(
      end.hits.map((hit) => [hit.method, describeHit(hit)]),
      [
        ['debug registers', '0x500 written: 00000000 -> 01020304'],
        ['debug registers', '0x600 accessed: 0000000000000000'],
      ],
    );
    // the next time it is compared with what it was then
    machine.memory.bytes[0x500] = 9;
    const again = armed.control.after(stops(armed, 1n));
    assert.ok(again?.kind === 'breakpoint');
    assert.deepEqual(again.hits.map(describeHit), ['0x500 written: 01020304 -> 09020304']);
    armed.control.release();
  });

  test('other exits, and steps that meet none, are no hits', () => {
    using machine = createMachine({ mode: 'long', image: code(0xf4) });
    const armed = watch(machine, [at('0x500', 'write')]);
    assert.equal(armed.control.after(stops(armed, 0n)), undefined);
    armed.page.view.setUint32(kvmRun.exit_reason, exitReasons.HLT.number, true);
    assert.equal(armed.control.after(armed.page), undefined);
    armed.control.release();
  });
});
