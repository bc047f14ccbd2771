/** Bits of control registers and paging entries. Intel SDM volume 3A, 2.5 (registers) and 4.5 (entries). */

export const CR0 = {
  /** Protection enable. */
  PE: 1n << 0n,
  /** Monitor coprocessor. */
  MP: 1n << 1n,
  /** Extension type: always set. */
  ET: 1n << 4n,
  /** Numeric error: floating-point faults as exceptions. */
  NE: 1n << 5n,
  /** Write protect: read-only pages bind the supervisor too. */
  WP: 1n << 16n,
  /** Alignment mask. */
  AM: 1n << 18n,
  /** Paging. */
  PG: 1n << 31n,
} as const;

export const CR4 = {
  /** Page size extensions: 4 MiB pages in 32-bit paging. */
  PSE: 1n << 4n,
  /** Physical address extension: entries of eight bytes. */
  PAE: 1n << 5n,
  /** Linear addresses of 57 bits. */
  LA57: 1n << 12n,
} as const;

export const EFER = {
  /** Long mode enable. */
  LME: 1n << 8n,
  /** Long mode active. */
  LMA: 1n << 10n,
  /** No-execute pages. */
  NXE: 1n << 11n,
} as const;

export const entryBit = {
  present: 1n << 0n,
  writable: 1n << 1n,
  user: 1n << 2n,
  /** Set by the processor: the entry was used. */
  accessed: 1n << 5n,
  /** Set by the processor: the page was written. */
  dirty: 1n << 6n,
  /** In an entry that could point to a further table: it maps a large page instead. */
  large: 1n << 7n,
  noExecute: 1n << 63n,
} as const;

/** Paging as the four modes here switch it on: everything that a kernel would set as well. */
export const pagedCr0 = CR0.PE | CR0.MP | CR0.ET | CR0.NE | CR0.WP | CR0.AM | CR0.PG;

/** Present, writable, for everybody. */
export const openEntry = entryBit.present | entryBit.writable | entryBit.user;
