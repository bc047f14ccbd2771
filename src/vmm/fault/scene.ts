/** Everything that is to be seen where a vCPU stopped. */
import { exitReason } from '#kvm/abi/exits.ts';
import type { PendingException, Vcpu } from '#kvm/vcpu.ts';
import type { Registers, SpecialRegisters } from '#kvm/registers.ts';
import { AddressSpace, BadAddress } from '../addresses.ts';
import type { Layout } from '../layout.ts';
import type { Mode } from '../modes/mode.ts';
import type { Walk } from '../paging/walk.ts';
import { disassemble, type Disassembled, longestInstruction, memoryOperands } from './disassemble.ts';

export interface Access {
  readonly linear: bigint;
  readonly isWrite: boolean;
  readonly walk: Walk;
}

export interface Scene {
  readonly exit: string;
  readonly exitDoc: string;
  readonly suberror: number;
  /** Guest-physical address of an access that no memory backs; for exit MMIO. */
  readonly mmio: { readonly address: bigint; readonly isWrite: boolean } | undefined;
  readonly entryFailure: bigint;
  readonly mode: Mode;
  readonly registers: Registers;
  readonly special: SpecialRegisters;
  readonly exception: PendingException | undefined;
  /** The walk of RIP. */
  readonly fetch: Walk;
  readonly bytes: Uint8Array;
  readonly instruction: Disassembled | undefined;
  /** What the instruction touches. */
  readonly accesses: readonly Access[];
  /** End of the guest's image. */
  readonly imageEnd: number;
}

/** As many bytes as there are at RIP, up to a whole instruction. */
export function fetchBytes(space: AddressSpace, linear: bigint): Uint8Array {
  for (let length = longestInstruction; length > 0; length -= 1) {
    const bytes = space.read(linear, length);
    if (!(bytes instanceof BadAddress)) return bytes;
  }
  return new Uint8Array();
}

/** Looks around. The vCPU must not be running. */
export function observe(vcpu: Vcpu, mode: Mode, layout: Layout, imageEnd: number): Scene {
  const { page } = vcpu;
  const { exitReason: number } = page;
  const registers = vcpu.registers();
  const special = vcpu.special();
  const space = new AddressSpace(layout, special);
  const rip = special.segment('cs').base + registers.rip;
  const bytes = fetchBytes(space, rip);
  const operands = bytes.length === 0 ? [] : memoryOperands(bytes, mode.bits, registers);
  const { name, doc } = exitReason(number);
  return {
    exit: name,
    exitDoc: doc,
    suberror: page.suberror,
    mmio: name === 'MMIO' ? page.mmio : undefined,
    entryFailure: page.entryFailure,
    mode,
    registers,
    special,
    exception: vcpu.pendingException(),
    fetch: space.walk(rip),
    bytes,
    instruction: bytes.length === 0 ? undefined : disassemble(bytes, mode.bits, registers.rip),
    accesses: operands.map(({ offset, segment, isWrite }) => {
      const linear = special.segment(segment).base + offset;
      return { linear, isWrite, walk: space.walk(linear) };
    }),
    imageEnd,
  };
}
