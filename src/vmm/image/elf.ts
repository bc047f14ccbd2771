/**
 * ELF programs: only what a loader needs, which is the entry and the segments of type LOAD. Format: elf(5), and
 * the System V ABI. The file may say anything: every number is checked before it is used.
 */
import { CarrelError } from '#base/errors.ts';
import { windowBytes } from '../layout.ts';
import type { GuestImage, ImagePart } from './image.ts';
import { readSymbols } from './symbols.ts';

const magic = [0x7f, 0x45, 0x4c, 0x46];
const PT_LOAD = 1;
const ET_EXEC = 2;
/** More are a mistake, or a joke. */
const mostSegments = 64;

interface Class {
  readonly bits: 32 | 64;
  /** e_machine: EM_386 or EM_X86_64. */
  readonly machine: number;
  readonly headerBytes: number;
  readonly segmentBytes: number;
  readonly word: (view: DataView, at: number) => number;
  /** Offsets in the file header, and in a program header. */
  readonly at: {
    readonly entry: number;
    readonly segments: number;
    readonly segmentSize: number;
    readonly segmentCount: number;
    readonly offset: number;
    readonly physical: number;
    readonly fileBytes: number;
    readonly memoryBytes: number;
  };
}

const classes: Readonly<Record<number, Class>> = {
  1: {
    bits: 32,
    machine: 3,
    headerBytes: 52,
    segmentBytes: 32,
    word: (view, at) => view.getUint32(at, true),
    at: {
      entry: 24,
      segments: 28,
      segmentSize: 42,
      segmentCount: 44,
      offset: 4,
      physical: 12,
      fileBytes: 16,
      memoryBytes: 20,
    },
  },
  2: {
    bits: 64,
    machine: 62,
    headerBytes: 64,
    segmentBytes: 56,
    word: (view, at) => Number(view.getBigUint64(at, true)),
    at: {
      entry: 24,
      segments: 32,
      segmentSize: 54,
      segmentCount: 56,
      offset: 8,
      physical: 24,
      fileBytes: 32,
      memoryBytes: 40,
    },
  },
};

const wrong = (why: string): CarrelError => new CarrelError('validation_failed', `the ELF file ${why}`);

export function isElf(bytes: Uint8Array): boolean {
  return magic.every((byte, index) => bytes[index] === byte);
}

function loadPart(bytes: Uint8Array, view: DataView, at: number, { word, at: field }: Class): ImagePart {
  const offset = word(view, at + field.offset);
  const physical = word(view, at + field.physical);
  const fileBytes = word(view, at + field.fileBytes);
  const length = word(view, at + field.memoryBytes);
  if (offset + fileBytes > bytes.length) throw wrong('has a segment that goes beyond its end');
  if (fileBytes > length) throw wrong('has a segment with more bytes in the file than in memory');
  if (physical + length > windowBytes)
    throw wrong(
      `wants memory up to 0x${(physical + length).toString(16)}; a guest has 0x${windowBytes.toString(16)}`,
    );
  return { at: physical, bytes: bytes.subarray(offset, offset + fileBytes), length };
}

/** Reads a statically linked program for x86. */
export function readElf(bytes: Uint8Array): GuestImage {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kind = classes[bytes[4] ?? 0];
  if (!isElf(bytes) || !kind || bytes.length < kind.headerBytes) throw wrong('has no whole header');
  if (bytes[5] !== 1 || view.getUint16(18, true) !== kind.machine) throw wrong('is not for x86');
  if (view.getUint16(16, true) !== ET_EXEC)
    throw wrong('is no program at a fixed address (link it statically, without PIE)');
  const { at: field, word } = kind;
  const first = word(view, field.segments);
  const count = view.getUint16(field.segmentCount, true);
  if (view.getUint16(field.segmentSize, true) !== kind.segmentBytes || count > mostSegments)
    throw wrong('has a table of segments that cannot be right');
  if (first + count * kind.segmentBytes > bytes.length) throw wrong('ends before its table of segments does');
  const parts: ImagePart[] = [];
  for (let index = 0; index < count; index += 1) {
    const at = first + index * kind.segmentBytes;
    if (view.getUint32(at, true) === PT_LOAD) parts.push(loadPart(bytes, view, at, kind));
  }
  const end = Math.max(0, ...parts.map((part) => part.at + part.length));
  const entry = word(view, field.entry);
  if (entry >= end) throw wrong(`begins at 0x${entry.toString(16)}, where it has nothing`);
  return { parts, entry, end, symbols: readSymbols(bytes) };
}
