/** Everything that is to be seen where a vCPU stopped. */
import { exitReason } from '#kvm/abi/exits.ts';
import type { PendingException, Vcpu } from '#kvm/vcpu.ts';
import type { Registers, SpecialRegisters } from '#kvm/registers.ts';
import { AddressSpace, BadAddress } from '../addresses.ts';
import type { Layout } from '../layout.ts';
import type { Mode } from '../modes/mode.ts';
import type { Walk } from '../paging/walk.ts';
import { type Damage, damagedTables } from './damage.ts';
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
  /** The walk of what the next push writes to. */
  readonly stack: Walk;
  /** Where the instruction is that was looked at: RIP, or just before it. */
  readonly at: bigint;
  readonly bytes: Uint8Array;
  readonly instruction: Disassembled | undefined;
  /** What the instruction touches. */
  readonly accesses: readonly Access[];
  /** End of the guest's image. */
  readonly imageEnd: number;
  /** The first entry of the page tables that was overwritten. */
  readonly damage: Damage | undefined;
}

/** As many bytes as there are at RIP, up to a whole instruction. */
export function fetchBytes(space: AddressSpace, linear: bigint): Uint8Array {
  for (let length = longestInstruction; length > 0; length -= 1) {
    const bytes = space.read(linear, length);
    if (!(bytes instanceof BadAddress)) return bytes;
  }
  return new Uint8Array();
}

/** What the instruction at `rip` touches, and where that leads. */
function accessesOf(
  bytes: Uint8Array,
  {
    mode,
    registers,
    special,
    space,
  }: Pick<Scene, 'mode' | 'registers' | 'special'> & { space: AddressSpace },
): Access[] {
  if (bytes.length === 0) return [];
  return memoryOperands(bytes, mode.bits, registers).map(({ offset, segment, isWrite }) => {
    const linear = BigInt.asUintN(64, special.segment(segment).base + offset);
    return { linear, isWrite, walk: space.walk(linear) };
  });
}

/**
 * The instruction that wrote to where no memory is. RIP is behind it by then: KVM takes a write for done when it
 * hands it on (arch/x86/kvm/x86.c, x86_emulate_instruction). It is the one that ends at RIP and writes there.
 */
function writerBefore(
  scene: Pick<Scene, 'mode' | 'registers' | 'special'> & { space: AddressSpace },
  address: bigint,
): { readonly at: bigint; readonly bytes: Uint8Array } {
  const { mode, registers, special, space } = scene;
  for (let length = 2; length <= longestInstruction; length += 1) {
    const at = registers.rip - BigInt(length);
    const bytes = space.read(special.segment('cs').base + at, length);
    if (at < 0n || bytes instanceof BadAddress) continue;
    const { valid, length: decoded } = disassemble(bytes, mode.bits, at);
    if (!valid || decoded !== length) continue;
    const writes = accessesOf(bytes, { ...scene, registers: { ...registers, rip: at } }).some(
      ({ isWrite, walk: { result } }) => isWrite && result.mapped && result.physical === address,
    );
    if (writes) return { at, bytes };
  }
  // push and stos have moved their pointer: rather none than the wrong one
  return { at: registers.rip, bytes: new Uint8Array() };
}

/** Looks around. The vCPU must not be running. */
export function observe(vcpu: Vcpu, mode: Mode, layout: Layout, imageEnd: number): Scene {
  const { page } = vcpu;
  const registers = vcpu.registers();
  const special = vcpu.special();
  const space = new AddressSpace(layout, special);
  const where = { mode, registers, special, space };
  const { name, doc } = exitReason(page.exitReason);
  const mmio = name === 'MMIO' ? page.mmio : undefined;
  const rip = special.segment('cs').base + registers.rip;
  const { at, bytes } = mmio?.isWrite
    ? writerBefore(where, mmio.address)
    : { at: registers.rip, bytes: fetchBytes(space, rip) };
  return {
    exit: name,
    exitDoc: doc,
    suberror: page.suberror,
    mmio,
    entryFailure: page.entryFailure,
    mode,
    registers,
    special,
    exception: vcpu.pendingException(),
    fetch: space.walk(rip),
    stack: space.walk(BigInt.asUintN(64, special.segment('ss').base + registers.rsp - 8n)),
    at,
    bytes,
    instruction: bytes.length === 0 ? undefined : disassemble(bytes, mode.bits, at),
    accesses: accessesOf(bytes, where),
    imageEnd,
    damage: damagedTables(mode, layout, special.get('cr3')),
  };
}
