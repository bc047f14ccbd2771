/** Whether a guest has overwritten what its monitor gave it: the page tables that were there at the start. */
import { GuestMemory } from '#kvm/memory.ts';
import { SpecialRegisters } from '#kvm/registers.ts';
import { AddressSpace } from '../addresses.ts';
import type { Layout } from '../layout.ts';
import { entryBit } from '../modes/bits.ts';
import type { Mode } from '../modes/mode.ts';
import { formatOf } from '../paging/formats.ts';

export interface Damage {
  /** Guest-physical address of the entry. */
  readonly at: number;
  readonly was: bigint;
  readonly is: bigint;
}

/** The processor sets these itself. */
const byProcessor = entryBit.accessed | entryBit.dirty;

/**
 * The first entry that was present at the start and is another one now. Undefined if there is none, and if the
 * guest has tables of its own by now: what it adds is not damage.
 */
export function damagedTables(mode: Mode, layout: Layout, cr3: bigint): Damage | undefined {
  // costs nothing: pages that are not written are not there
  const fresh = GuestMemory.allocate(layout.memory.length);
  const special = new SpecialRegisters();
  mode.setUp(special, { ...layout, memory: fresh });
  if (special.get('cr3') !== cr3) return undefined;
  const from = layout.base + layout.tables;
  // 32-bit paging has entries of four bytes: two together would take one that was added for a change of its neighbour
  const before = new AddressSpace({ ...layout, memory: fresh }, special);
  const now = new AddressSpace(layout, special);
  const { entryBytes } = formatOf(before.paging);
  for (let at = from; at < from + mode.tableBytes; at += entryBytes) {
    const was = before.readEntry(BigInt(at), entryBytes) ?? 0n;
    const is = now.readEntry(BigInt(at), entryBytes) ?? 0n;
    if (was !== 0n && (was | byProcessor) !== (is | byProcessor)) return { at, was, is };
  }
  return undefined;
}
