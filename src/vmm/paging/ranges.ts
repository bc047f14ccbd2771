/** What a guest's page tables map, as ranges: the answer to "which part of the address space leads where". */
import { EFER, entryBit } from '../modes/bits.ts';
import { formatOf, type Format, type PagingState, targetOf } from './formats.ts';
import type { ReadEntry } from './walk.ts';

export interface MappedRange {
  /** Linear addresses, and the guest-physical ones that they begin at. */
  readonly linear: bigint;
  readonly physical: bigint;
  readonly bytes: bigint;
  /** Size of each page; undefined without paging. */
  readonly pageBytes: number | undefined;
  readonly writable: boolean;
  readonly user: boolean;
  readonly executable: boolean;
}

export interface MappedRanges {
  /** By linear address; pages that continue each other are one range. */
  readonly ranges: readonly MappedRange[];
  /** The tables say more than was read: they are large, or point at each other in circles. */
  readonly isPart: boolean;
}

/** Entries that are read at most; a page of 2 MiB takes 1,536. */
const usualEntries = 200_000;
const mostRanges = 256;

type Rights = Pick<MappedRange, 'writable' | 'user' | 'executable'>;

/** The address with its top bit repeated, as a processor wants it. */
const canonical = ({ addressBits, entryBytes }: Format, linear: bigint): bigint =>
  entryBytes === 8 && addressBits > 32n
    ? BigInt.asUintN(64, BigInt.asIntN(Number(addressBits), linear))
    : linear;

const continues = (last: MappedRange, next: MappedRange): boolean =>
  last.linear + last.bytes === next.linear &&
  last.physical + last.bytes === next.physical &&
  last.pageBytes === next.pageBytes &&
  last.writable === next.writable &&
  last.user === next.user &&
  last.executable === next.executable;

class Reader {
  readonly #read: ReadEntry;
  readonly #format: Format;
  readonly #state: PagingState;
  readonly ranges: MappedRange[] = [];
  #left: number;
  isPart = false;

  constructor(read: ReadEntry, state: PagingState, entries: number) {
    this.#read = read;
    this.#state = state;
    this.#format = formatOf(state);
    this.#left = entries;
  }

  #add(range: MappedRange): void {
    const last = this.ranges.at(-1);
    if (last && continues(last, range))
      this.ranges[this.ranges.length - 1] = { ...last, bytes: last.bytes + range.bytes };
    else this.ranges.push(range);
  }

  /** Reads a table and all below it. */
  table(depth: number, at: bigint, linear: bigint, rights: Rights): void {
    const level = this.#format.levels[depth];
    if (!level) return;
    const { entryBytes, name } = this.#format;
    for (let index = 0n; index < 1n << level.bits; index += 1n) {
      if (this.#left <= 0 || this.ranges.length >= mostRanges) {
        this.isPart = true;
        return;
      }
      this.#left -= 1;
      const entry = this.#read(at + index * BigInt(entryBytes), entryBytes);
      if (entry === undefined || (entry & entryBit.present) === 0n) continue;
      const here = linear | (index << level.shift);
      const hasRights = !(name === 'PAE' && level.table === 'PDPT');
      const own: Rights = {
        writable: rights.writable && (!hasRights || (entry & entryBit.writable) !== 0n),
        user: rights.user && (!hasRights || (entry & entryBit.user) !== 0n),
        executable:
          rights.executable && ((this.#state.efer & EFER.NXE) === 0n || (entry & entryBit.noExecute) === 0n),
      };
      const isPage = level.shift === 12n || (level.large && (entry & entryBit.large) !== 0n);
      if (!isPage) this.table(depth + 1, targetOf(this.#format, entry, 12n), here, own);
      else
        this.#add({
          linear: canonical(this.#format, here),
          physical: targetOf(this.#format, entry, level.shift),
          bytes: 1n << level.shift,
          pageBytes: 2 ** Number(level.shift),
          ...own,
        });
    }
  }
}

/** Reads all tables from CR3 down, within limits. Without paging all of memory is one range. */
export function mappedRanges(
  read: ReadEntry,
  state: PagingState,
  { memoryBytes, entries = usualEntries }: { memoryBytes: number; entries?: number },
): MappedRanges {
  const rights = { writable: true, user: true, executable: true };
  const format = formatOf(state);
  if (format.name === 'none') {
    const all = { linear: 0n, physical: 0n, bytes: BigInt(memoryBytes), pageBytes: undefined, ...rights };
    return { ranges: [all], isPart: false };
  }
  const reader = new Reader(read, state, entries);
  reader.table(0, state.cr3 & format.rootMask, 0n, rights);
  return { ranges: reader.ranges, isPart: reader.isPart };
}
