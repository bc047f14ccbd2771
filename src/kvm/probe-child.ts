/**
 * Runs a few instructions in a virtual machine and says as JSON how that went. A process of its own (probe.ts
 * starts it, with a limit): whatever KVM does here, it is gone with this process.
 *
 * Two guests, both `mov al, 'k'; out 0xe9, al; hlt`: one in real mode, one with 32-bit paging. Hardware runs
 * both. A KVM that emulates the supervisor (kvm-pvm) shuts the second one down at its first instruction.
 *
 * A third one, in long mode at user privilege, executes `syscall`, and tells the code segment that it then finds
 * itself in. Hardware enters the kernel's. The same KVM leaves it the user's: no program of a system can run there.
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

const tables = 0x5000;
const kernelCode = 8;
const kernelData = 16;
const userData = 24 | 3;
const userCode = 32 | 3;
const MSR_STAR = 0xc000_0081;
const MSR_LSTAR = 0xc000_0082;
const MSR_SFMASK = 0xc000_0084;
/** mov eax, cs; out 0xe9, al: where syscall leads. */
const systemCall = [0x8c, 0xc8, 0xe6, 0xe9];

/** Long mode at user privilege, behind one page of 2 MiB that everybody may use. */
function enterUser(special: SpecialRegisters, memory: GuestMemory): void {
  for (const [level, next] of [tables + 0x1000, tables + 0x2000, 0].entries())
    memory.view.setBigUint64(tables + level * 0x1000, BigInt(next) | (level === 2 ? 0x87n : 7n), true);
  const flat = { base: 0n, limit: 0xffff_ffff, dpl: 3, g: true };
  for (const name of segmentNames)
    special.setSegment(name, { ...flat, selector: userData, type: 3, db: true, l: false });
  special.setSegment('cs', { ...flat, selector: userCode, type: 11, db: false, l: true });
  special.set('cr3', BigInt(tables));
  special.set('cr4', 0x20n); // PAE
  special.set('efer', 0x501n); // LMA, LME, SCE
  special.set('cr0', 0x8000_0011n); // PG, ET, PE
}

/** The code segment behind `syscall`; undefined where it leads nowhere. */
function tryUser(kvm: Kvm): number | undefined {
  using vm = kvm.createVm();
  const memory = GuestMemory.allocate(2 << 20);
  memory.bytes.set([0x0f, 0x05], entry); // syscall
  memory.bytes.set(systemCall, entry + 0x100);
  vm.addMemory(memory);
  const vcpu = vm.createVcpu();
  const special = vcpu.special();
  enterUser(special, memory);
  vcpu.setSpecial(special);
  vcpu.setMsrs({
    [MSR_STAR]: (BigInt(kernelData) << 48n) | (BigInt(kernelCode) << 32n),
    [MSR_LSTAR]: BigInt(entry + 0x100),
    [MSR_SFMASK]: 0n,
  });
  // IOPL 3: the user may use ports, so that either privilege can tell
  vcpu.setRegisters({ ...vcpu.registers(), rip: BigInt(entry), rsp: 0x8000n, rflags: 0x3002n });
  vcpu.run();
  return vcpu.page.exitReason === exitReasons.IO.number ? vcpu.page.ioValue(0) : undefined;
}

/** A KVM that cannot even be asked so runs no programs either. */
function systemCallsWork(kvm: Kvm): boolean {
  try {
    return tryUser(kvm) === kernelCode;
  } catch {
    return false;
  }
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
    systemCalls: systemCallsWork(kvm),
  }),
);
