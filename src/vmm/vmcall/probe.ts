/** What the KVM of this host does with vmcall, by trying it. */
import { hypercallErrors, hypercalls } from '#kvm/abi/hypercalls.ts';
import { flatImage } from '../image/image.ts';
import { createMachine, type MachineOptions, type VcpuResult } from '../machine.ts';

/** `invalid`: #UD. `endless`: it is executed again and again. `handed on`: an exit to the monitor. */
export type VmcallFate = 'answered' | 'handed on' | 'invalid' | 'endless' | 'other';

export interface VmcallTrial {
  readonly fate: VmcallFate;
  /** What the guest got in RAX, if it came back. */
  readonly result: bigint | undefined;
}

export interface VmcallProbe {
  /** A call that no kernel has, by a KVM that nothing was asked of. */
  readonly untouched: VmcallTrial;
  /** The same, prepared as `vmm run` does it. */
  readonly unknown: VmcallTrial;
  /** The call that KVM_CAP_EXIT_HYPERCALL is for: a page of the guest. */
  readonly mapGpaRange: VmcallTrial;
}

/** A vmcall that comes back takes microseconds; a thread that others keep off the processor, much longer. */
const limitMs = 2000;

/** No kernel will ever have it. */
const unknownCall = 0x7fff;

const le32 = (value: number): number[] => [...new Uint8Array(Uint32Array.of(value).buffer)];

/** mov $nr, %eax; mov $0x1000, %ebx; mov $1, %ecx; xor %edx, %edx; vmcall; hlt */
const program = (nr: number): Uint8Array =>
  Uint8Array.of(
    0xb8,
    ...le32(nr),
    0xbb,
    ...le32(0x1000),
    0xb9,
    ...le32(1),
    0x31,
    0xd2,
    0x0f,
    0x01,
    0xc1,
    0xf4,
  );

/** What became of it. */
export function fateOf({
  end,
  exits,
  registers,
}: Pick<VcpuResult, 'end' | 'exits' | 'registers'>): VmcallTrial {
  if (end.kind === 'halted') {
    const fate = exits.byReason['HYPERCALL'] === undefined ? 'answered' : 'handed on';
    return { fate, result: BigInt.asIntN(64, registers.rax) };
  }
  const isInvalid = end.kind === 'fault' && end.fault.instruction?.text === 'vmcall';
  const fate = isInvalid ? 'invalid' : end.kind === 'time limit' ? 'endless' : 'other';
  return { fate, result: undefined };
}

async function attempt(nr: number, vmcall: MachineOptions['vmcall']): Promise<VmcallTrial> {
  using machine = createMachine({ mode: 'long', image: flatImage(program(nr)), vmcall });
  const [result] = await machine.run({ limitMs });
  return result ? fateOf(result) : { fate: 'other', result: undefined };
}

/** Tries it, each in a machine of its own; takes some seconds where it does not come back. */
export async function probeVmcall(): Promise<VmcallProbe> {
  return {
    untouched: await attempt(unknownCall, 'as it is'),
    unknown: await attempt(unknownCall, 'host'),
    mapGpaRange: await attempt(hypercalls.MAP_GPA_RANGE, 'host'),
  };
}

/** For people, without a full stop. */
export function describeTrial({ fate, result }: VmcallTrial): string {
  switch (fate) {
    case 'answered':
      return `KVM answers ${result}${result === -BigInt(hypercallErrors.ENOSYS) ? ' (-KVM_ENOSYS)' : ''}, in the kernel`;
    case 'handed on':
      return `KVM hands it to the monitor (exit HYPERCALL), which answers ${result}`;
    case 'invalid':
      return 'exception #UD: this KVM emulates, and does not take it for an instruction';
    case 'endless':
      return 'it does not come back: this KVM emulates, "corrects" the instruction to the same one, and executes it again';
    case 'other':
      return 'neither an answer nor an exception that we know of';
    default:
      fate satisfies never;
      return '';
  }
}
