/**
 * Which aids of debugging this host's KVM has, found by trying each on a guest of a few instructions. Some cannot be
 * asked for: a KVM that interprets the kernel side of guests takes a watchpoint on data, and never stops for it.
 */
import { exitReasons } from './abi/exits.ts';
import type { DebugRegister } from './debug.ts';
import { type Kvm, openKvm } from './kvm.ts';
import { GuestMemory, pageBytes } from './memory.ts';
import type { Vcpu } from './vcpu.ts';

export interface DebugAids {
  /** Debug registers stop a guest before an instruction. */
  readonly execute: boolean;
  /** Debug registers stop a guest that writes. */
  readonly data: boolean;
  /** KVM notes which pages a guest writes. */
  readonly dirtyLog: boolean;
}

const entry = 0x1000;
const target = 0x3000;
const untouched = 0x8000;
/** mov %al, 0x3000; nop; hlt: in real mode. */
const program = [0xa2, target & 0xff, target >> 8, 0x90, 0xf4];

/** Runs the program as `prepare` leaves it; the first exit, and what was written. */
function tryOut(
  kvm: Kvm,
  prepare: (vcpu: Vcpu) => void,
): { readonly exit: number; readonly dirty: readonly number[] } {
  using vm = kvm.createVm();
  const memory = GuestMemory.allocate(1 << 20);
  memory.bytes.set(program, entry);
  vm.addMemory(memory, 0n, { logDirty: true });
  const vcpu = vm.createVcpu();
  const special = vcpu.special();
  special.setSegment('cs', { ...special.segment('cs'), base: 0n, selector: 0 });
  vcpu.setSpecial(special);
  vcpu.setRegisters({ ...vcpu.registers(), rip: BigInt(entry), rflags: 2n });
  prepare(vcpu);
  while (vcpu.run() !== 'exit');
  return { exit: vcpu.page.exitReason, dirty: vm.takeDirtyPages(memory) };
}

let found: DebugAids | undefined;

/** Tried once for each process (thread); takes about a millisecond. */
export function debugAids(): DebugAids {
  if (found) return found;
  using kvm = openKvm();
  const stopsAt = (register: DebugRegister): boolean =>
    tryOut(kvm, (vcpu) => vcpu.setDebug({ breakpoints: [register] })).exit === exitReasons.DEBUG.number;
  const { dirty } = tryOut(kvm, () => undefined);
  found = {
    execute: stopsAt({ kind: 'execute', address: BigInt(entry + 3), bytes: 1 }),
    data: stopsAt({ kind: 'write', address: BigInt(target), bytes: 1 }),
    dirtyLog: dirty.includes(target / pageBytes) && !dirty.includes(untouched / pageBytes),
  };
  return found;
}
