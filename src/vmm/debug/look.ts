/** A vCPU that stands still, seen by a debugger: registers, the instruction to come, memory that is watched. */
import type { Registers, SpecialRegisters } from '#kvm/registers.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import { AddressSpace, BadAddress } from '../addresses.ts';
import { fetchBytes } from '../fault/scene.ts';
import type { Layout } from '../layout.ts';

export interface Instant {
  readonly registers: Registers;
  readonly special: SpecialRegisters;
  readonly space: AddressSpace;
  /** Linear address of the instruction to come. */
  readonly rip: bigint;
  /** Its bytes, and some behind them. */
  readonly bytes: Uint8Array;
}

export function look(vcpu: Vcpu, layout: Layout): Instant {
  const registers = vcpu.registers();
  const special = vcpu.special();
  const space = new AddressSpace(layout, special);
  const rip = special.segment('cs').base + registers.rip;
  return { registers, special, space, rip, bytes: fetchBytes(space, rip) };
}

/** Memory as hexadecimal digits; what is not there is empty. */
export function peek(space: AddressSpace, linear: bigint, bytes: number): string {
  const found = space.read(linear, bytes);
  return found instanceof BadAddress ? '' : Buffer.from(found).toString('hex');
}

const HLT = 0xf4;

/** An emulating KVM steps over hlt without a word: it has to run without steps. */
export const isHalt = ({ bytes }: Instant): boolean => bytes[0] === HLT;
