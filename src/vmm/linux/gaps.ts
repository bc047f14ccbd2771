/**
 * Instructions of a kernel that an emulating KVM hands back, because its interpreter does not know them (kvm-pvm:
 * INTERNAL_ERROR with the instruction's bytes). Three kinds are met by every boot of Linux on such a host; they
 * are carried out here. On hardware none of this is ever called.
 */
import type { Vcpu } from '#kvm/vcpu.ts';

const BREAKPOINT = 3;

interface Gap {
  readonly name: string;
  readonly bytes: readonly number[];
  /** Raises this exception behind the instruction. */
  readonly raises?: number;
}

const gaps: readonly Gap[] = [
  // Linux tries its own handler at each start (int3_selftest)
  { name: 'int3', bytes: [0xcc], raises: BREAKPOINT },
  // waits for pending floating-point faults; there is no old coprocessor to wait for
  { name: 'fwait', bytes: [0x9b] },
  // permit access to user pages, for supervisors: the interpreter does not forbid it
  { name: 'clac', bytes: [0x0f, 0x01, 0xca] },
  { name: 'stac', bytes: [0x0f, 0x01, 0xcb] },
];

/** Carries out the instruction at RIP, if it is one of these; its name. */
export function fillGap(vcpu: Vcpu): string | undefined {
  const instruction = vcpu.page.failedInstruction;
  if (!instruction) return undefined;
  const gap = gaps.find(({ bytes }) => bytes.every((byte, index) => instruction[index] === byte));
  if (!gap) return undefined;
  const registers = vcpu.registers();
  vcpu.setRegisters({ ...registers, rip: registers.rip + BigInt(gap.bytes.length) });
  if (gap.raises !== undefined) vcpu.raise(gap.raises);
  return gap.name;
}
