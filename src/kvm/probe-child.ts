/**
 * Runs a few instructions in a virtual machine and says as JSON how that went. A process of its own (probe.ts
 * starts it, with a limit): whatever KVM does here, it is gone with this process.
 *
 * Two guests, both `mov al, 'k'; out 0xe9, al; hlt`: one in real mode, one with 32-bit paging. Hardware runs
 * both. A KVM that emulates the supervisor (kvm-pvm) shuts the second one down at its first instruction.
 */
import { exitReasons } from './abi/exits.ts';
import { type Kvm, openKvm } from './kvm.ts';
import { GuestMemory } from './memory.ts';
import { segmentNames, type SpecialRegisters } from './registers.ts';

const entry = 0x1000;
const directory = 0x4000;
const program = [0xb0, 0x6b, 0xe6, 0xe9, 0xf4]; // mov al, 'k'; out 0xe9, al; hlt

/** Protected mode with one 4 MiB page that maps itself. */
function enterPaging(special: SpecialRegisters, memory: GuestMemory): void {
  const flat = { base: 0n, limit: 0xffff_ffff, dpl: 0, db: true, l: false, g: true };
  for (const name of segmentNames)
    special.setSegment(name, {
      ...flat,
      selector: name === 'cs' ? 8 : 16,
      type: name === 'cs' ? 11 : 3,
    });
  memory.view.setUint32(directory, 0x83, true); // present, writable, 4 MiB
  special.set('cr3', BigInt(directory));
  special.set('cr4', 0x10n); // PSE
  special.set('cr0', 0x8000_0011n); // PG, ET, PE
}

/** Real mode: what a new vCPU is in; only the code segment must begin at 0. */
function enterReal(special: SpecialRegisters): void {
  special.setSegment('cs', { ...special.segment('cs'), base: 0n, selector: 0 });
}

/** Runs the guest to its end; the exit reasons in order. */
function runGuest(kvm: Kvm, paging: boolean): number[] {
  using vm = kvm.createVm();
  const memory = GuestMemory.allocate(1 << 20);
  memory.bytes.set(program, entry);
  vm.addMemory(memory);
  const vcpu = vm.createVcpu();
  const special = vcpu.special();
  if (paging) enterPaging(special, memory);
  else enterReal(special);
  vcpu.setSpecial(special);
  vcpu.setRegisters({ ...vcpu.registers(), rip: BigInt(entry), rflags: 2n });

  const exits: number[] = [];
  do {
    vcpu.run();
    exits.push(vcpu.page.exitReason);
  } while (exits.length < 4 && exits.at(-1) === exitReasons.IO.number);
  return exits;
}

using kvm = openKvm();
const real = runGuest(kvm, false);
const paged = runGuest(kvm, true);
const expected = [exitReasons.IO.number, exitReasons.HLT.number].join();
process.stdout.write(
  JSON.stringify({
    version: kvm.version,
    real: real.join() === expected,
    paged: paged.join() === expected,
    exits: [...real, ...paged],
  }),
);
