/** All paging structures that CR3 leads to: what the memory map draws. */
import { entryBit } from '../modes/bits.ts';
import { formatOf, type PagingState, type TableName, targetOf } from './formats.ts';
import type { ReadEntry } from './walk.ts';

export interface PagingTable {
  readonly table: TableName;
  readonly at: bigint;
  readonly bytes: number;
  /** Present entries, lowest index first. */
  readonly entries: readonly { readonly index: number; readonly entry: bigint }[];
}

/** Tables from CR3 down, each once, at most `limit`: a guest may point them at each other in circles. */
export function findTables(read: ReadEntry, state: PagingState, limit = 64): PagingTable[] {
  const format = formatOf(state);
  const found: PagingTable[] = [];
  let addresses = new Set(format.levels.length > 0 ? [state.cr3 & format.rootMask] : []);
  for (const level of format.levels) {
    const next = new Set<bigint>();
    for (const at of addresses) {
      if (found.length >= limit) return found;
      const entries: { index: number; entry: bigint }[] = [];
      for (let index = 0; index < 2 ** Number(level.bits); index += 1) {
        const entry = read(at + BigInt(index * format.entryBytes), format.entryBytes);
        if (entry === undefined || (entry & entryBit.present) === 0n) continue;
        entries.push({ index, entry });
        const isPage = level.shift === 12n || (level.large && (entry & entryBit.large) !== 0n);
        if (!isPage) next.add(targetOf(format, entry, 12n));
      }
      found.push({ table: level.table, at, bytes: 2 ** Number(level.bits) * format.entryBytes, entries });
    }
    addresses = next;
  }
  return found;
}
