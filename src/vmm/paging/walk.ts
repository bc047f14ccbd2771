/** The page walk, as the processor does it, with every step written down. */
import { EFER, entryBit } from '../modes/bits.ts';
import { formatOf, type Format, type PagingState, type TableName, targetOf } from './formats.ts';

/** Reads one entry of guest-physical memory; undefined where there is none. */
export type ReadEntry = (at: bigint, bytes: 4 | 8) => bigint | undefined;

export interface WalkStep {
  readonly table: TableName;
  /** Guest-physical address of the table. */
  readonly tableAt: bigint;
  readonly index: number;
  /** Guest-physical address of the entry. */
  readonly entryAt: bigint;
  readonly entry: bigint;
}

export interface Mapping {
  readonly mapped: true;
  /** Guest-physical address. */
  readonly physical: bigint;
  /** Size of the page it lies in; undefined without paging. */
  readonly pageBytes: number | undefined;
  readonly writable: boolean;
  readonly user: boolean;
  readonly executable: boolean;
}

export interface Missing {
  readonly mapped: false;
  /** Where the walk ended: `not mapped: PD[1] is not present`. */
  readonly why: string;
}

export interface Walk {
  readonly linear: bigint;
  readonly format: Format['name'];
  readonly steps: readonly WalkStep[];
  readonly result: Mapping | Missing;
}

const unpaged = { pageBytes: undefined, writable: true, user: true, executable: true } as const;

/** Canonical: the bits above the width repeat the highest bit (SDM volume 1, 3.3.7.1). */
function isCanonical({ addressBits, entryBytes }: Format, linear: bigint): boolean {
  if (linear < 0n || linear >= 1n << 64n) return false;
  if (addressBits === 32n) return linear < 1n << 32n;
  return entryBytes === 8 && BigInt.asUintN(64, BigInt.asIntN(Number(addressBits), linear)) === linear;
}

/**
 * Translates a linear address. Never throws: tables that lie outside of memory, or nowhere, end the walk with a
 * reason, just as a fault would end it.
 */
export function walkPages(read: ReadEntry, state: PagingState, linear: bigint): Walk {
  const format = formatOf(state);
  const steps: WalkStep[] = [];
  const end = (result: Mapping | Missing): Walk => ({ linear, format: format.name, steps, result });
  const missing = (why: string): Walk => end({ mapped: false, why });

  if (!isCanonical(format, linear))
    return missing(`not an address: wider than ${format.addressBits} bits, and not canonical`);
  if (format.name === 'none') return end({ mapped: true, physical: linear, ...unpaged });

  let tableAt = state.cr3 & format.rootMask;
  let writable = true;
  let user = true;
  let executable = true;
  for (const level of format.levels) {
    const index = Number((linear >> level.shift) & ((1n << level.bits) - 1n));
    const entryAt = tableAt + BigInt(index * format.entryBytes);
    const entry = read(entryAt, format.entryBytes);
    if (entry === undefined)
      return missing(
        `not mapped: the ${level.table} at 0x${tableAt.toString(16)} is outside of guest memory`,
      );
    steps.push({ table: level.table, tableAt, index, entryAt, entry });
    if ((entry & entryBit.present) === 0n)
      return missing(`not mapped: ${level.table}[${index}] is not present`);
    // the four entries at the top of PAE have no rights of their own (SDM 4.4.1)
    if (!(format.name === 'PAE' && level.table === 'PDPT')) {
      writable &&= (entry & entryBit.writable) !== 0n;
      user &&= (entry & entryBit.user) !== 0n;
    }
    if ((state.efer & EFER.NXE) !== 0n) executable &&= (entry & entryBit.noExecute) === 0n;
    const isPage = level.shift === 12n || (level.large && (entry & entryBit.large) !== 0n);
    if (isPage) {
      const offset = linear & ((1n << level.shift) - 1n);
      const physical = targetOf(format, entry, level.shift) | offset;
      return end({ mapped: true, physical, pageBytes: 2 ** Number(level.shift), writable, user, executable });
    }
    tableAt = targetOf(format, entry, 12n);
  }
  return missing('not mapped');
}
