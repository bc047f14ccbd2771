/**
 * Names in an ELF program: its symbol table (elf(5), Elf64_Sym). Names are a comfort: a file whose tables cannot be
 * right has none, and runs all the same.
 */
import { windowBytes } from '../layout.ts';

export interface GuestSymbol {
  readonly name: string;
  /** Linear address. */
  readonly at: number;
  /** Bytes; 0 where the file does not say. */
  readonly size: number;
}

/** More are no guest's. */
const mostSymbols = 10_000;
const mostSections = 256;
const longestName = 256;

const SHT_SYMTAB = 2;
/** Types of symbols with an address: none given (labels in assembly), data, functions. */
const placed: ReadonlySet<number> = new Set([0, 1, 2]);

interface Class {
  readonly word: (view: DataView, at: number) => number;
  readonly header: { readonly sections: number; readonly size: number; readonly count: number };
  readonly section: {
    readonly bytes: number;
    readonly offset: number;
    readonly size: number;
    readonly link: number;
  };
  readonly symbol: {
    readonly bytes: number;
    readonly value: number;
    readonly size: number;
    readonly info: number;
    readonly section: number;
  };
}

const classes: Readonly<Record<number, Class>> = {
  1: {
    word: (view, at) => view.getUint32(at, true),
    header: { sections: 32, size: 46, count: 48 },
    section: { bytes: 40, offset: 16, size: 20, link: 24 },
    symbol: { bytes: 16, value: 4, size: 8, info: 12, section: 14 },
  },
  2: {
    word: (view, at) => Number(view.getBigUint64(at, true)),
    header: { sections: 40, size: 58, count: 60 },
    section: { bytes: 64, offset: 24, size: 32, link: 40 },
    symbol: { bytes: 24, value: 8, size: 16, info: 4, section: 6 },
  },
};

interface Section {
  readonly type: number;
  readonly offset: number;
  readonly size: number;
  readonly link: number;
}

function sectionsOf(bytes: Uint8Array, view: DataView, { word, header, section }: Class): Section[] {
  const first = word(view, header.sections);
  const count = view.getUint16(header.count, true);
  if (view.getUint16(header.size, true) !== section.bytes || count > mostSections) return [];
  if (first + count * section.bytes > bytes.length) return [];
  return Array.from({ length: count }, (_, index) => {
    const at = first + index * section.bytes;
    return {
      type: view.getUint32(at + 4, true),
      offset: word(view, at + section.offset),
      size: word(view, at + section.size),
      link: view.getUint32(at + section.link, true),
    };
  });
}

/** The text at an offset of a string table, up to its NUL byte. */
function nameAt(bytes: Uint8Array, { offset, size }: Section, index: number): string {
  if (index >= size) return '';
  const from = offset + index;
  const end = bytes.subarray(from, Math.min(from + longestName, offset + size)).indexOf(0);
  return end < 0 ? '' : Buffer.from(bytes.buffer, bytes.byteOffset + from, end).toString('latin1');
}

/** Functions, variables and labels of a program whose header was found right, lowest first. */
export function readSymbols(bytes: Uint8Array): GuestSymbol[] {
  const kind = classes[bytes[4] ?? 0];
  if (!kind || bytes.length < kind.header.count + 2) return [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const sections = sectionsOf(bytes, view, kind);
  const table = sections.find(({ type }) => type === SHT_SYMTAB);
  const names = table && sections[table.link];
  const isInside = ({ offset, size }: Section): boolean => offset + size <= bytes.length;
  if (!table || !names || !isInside(table) || !isInside(names)) return [];
  const { symbol, word } = kind;
  const symbols: GuestSymbol[] = [];
  const count = Math.min(mostSymbols, Math.floor(table.size / symbol.bytes));
  for (let index = 0; index < count; index += 1) {
    const at = table.offset + index * symbol.bytes;
    const name = nameAt(bytes, names, view.getUint32(at, true));
    const value = word(view, at + symbol.value);
    const isPlaced =
      placed.has((bytes[at + symbol.info] ?? 0) & 15) && view.getUint16(at + symbol.section, true) !== 0;
    if (name !== '' && isPlaced && value < windowBytes)
      symbols.push({ name, at: value, size: word(view, at + symbol.size) });
  }
  return symbols.toSorted((a, b) => a.at - b.at);
}

/** `main`, `main+0x12`; undefined before the first name, and behind the end of one that has a size. */
export function nameOf(symbols: readonly GuestSymbol[], address: bigint): string | undefined {
  const before = symbols.findLast(({ at }) => BigInt(at) <= address);
  if (!before) return undefined;
  const offset = Number(address - BigInt(before.at));
  if (before.size > 0 && offset >= before.size) return undefined;
  return offset === 0 ? before.name : `${before.name}+0x${offset.toString(16)}`;
}
