/** Whether a guest has overwritten what its monitor gave it: the page tables that were there at the start. */
import { GuestMemory } from '#kvm/memory.ts';
import { SpecialRegisters } from '#kvm/registers.ts';
import type { Layout } from '../layout.ts';
import { entryBit } from '../modes/bits.ts';
import type { Mode } from '../modes/mode.ts';

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
  for (let at = from; at < from + mode.tableBytes; at += 8) {
    const was = fresh.view.getBigUint64(at, true);
    const is = layout.memory.view.getBigUint64(at, true);
    if (was !== 0n && (was | byProcessor) !== (is | byProcessor)) return { at, was, is };
  }
  return undefined;
}
