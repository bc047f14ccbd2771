/**
 * The ways in which x86 translates linear addresses. Intel SDM volume 3A, chapter 4: which registers choose the
 * way (4.1.1), and how each splits an address (4.3 to 4.5).
 */
import { CR0, CR4, EFER } from '../modes/bits.ts';

/** The registers that say how addresses are translated. */
export interface PagingState {
  readonly cr0: bigint;
  readonly cr3: bigint;
  readonly cr4: bigint;
  readonly efer: bigint;
}

export const tableNames = ['PML5', 'PML4', 'PDPT', 'PD', 'PT'] as const;
export type TableName = (typeof tableNames)[number];

export interface Level {
  readonly table: TableName;
  /** Where its index begins in an address; also log2 of what one entry covers. */
  readonly shift: bigint;
  /** Width of the index. */
  readonly bits: bigint;
  /** An entry may map a page itself. */
  readonly large: boolean;
}

export interface Format {
  readonly name: 'none' | '32-bit' | 'PAE' | '4-level' | '5-level';
  readonly entryBytes: 4 | 8;
  /** Width of a linear address; above 32 bits the rest must repeat the highest one. */
  readonly addressBits: bigint;
  /** From CR3 down. */
  readonly levels: readonly Level[];
  /** The bits of CR3 that say where the first table is. */
  readonly rootMask: bigint;
}

const addressMask = 0x000f_ffff_ffff_f000n;
const table = (table: TableName, shift: bigint, bits: bigint, large = false): Level => ({
  table,
  shift,
  bits,
  large,
});

const none: Format = { name: 'none', entryBytes: 8, addressBits: 32n, levels: [], rootMask: 0n };

const thirtyTwo = (pse: boolean): Format => ({
  name: '32-bit',
  entryBytes: 4,
  addressBits: 32n,
  levels: [table('PD', 22n, 10n, pse), table('PT', 12n, 10n)],
  rootMask: 0xffff_f000n,
});

const pae: Format = {
  name: 'PAE',
  entryBytes: 8,
  addressBits: 32n,
  levels: [table('PDPT', 30n, 2n), table('PD', 21n, 9n, true), table('PT', 12n, 9n)],
  rootMask: 0xffff_ffe0n, // its first table has four entries, and begins at any 32 bytes
};

const fourLevel: Format = {
  name: '4-level',
  entryBytes: 8,
  addressBits: 48n,
  levels: [
    table('PML4', 39n, 9n),
    table('PDPT', 30n, 9n, true),
    table('PD', 21n, 9n, true),
    table('PT', 12n, 9n),
  ],
  rootMask: addressMask,
};

const fiveLevel: Format = {
  ...fourLevel,
  name: '5-level',
  addressBits: 57n,
  levels: [table('PML5', 48n, 9n), ...fourLevel.levels],
};

/** Which way the registers choose. */
export function formatOf({ cr0, cr4, efer }: PagingState): Format {
  if ((cr0 & CR0.PG) === 0n) return none;
  if ((cr4 & CR4.PAE) === 0n) return thirtyTwo((cr4 & CR4.PSE) !== 0n);
  if ((efer & EFER.LMA) === 0n) return pae;
  return (cr4 & CR4.LA57) === 0n ? fourLevel : fiveLevel;
}

/** What an entry of this format points to: a table, or a page of 1 << shift bytes. */
export function targetOf(format: Format, entry: bigint, pageShift: bigint): bigint {
  if (format.entryBytes === 8) return entry & addressMask & ~((1n << pageShift) - 1n);
  if (pageShift === 12n) return entry & 0xffff_f000n;
  // a 4 MiB page: bits 39 to 32 of its address are bits 20 to 13 of the entry (PSE-36, SDM 4.3)
  return (entry & 0xffc0_0000n) | (((entry >> 13n) & 0xffn) << 32n);
}
