/**
 * vmlinux: the kernel as an ELF file, unpacked. Its segments name the physical addresses where they belong, and
 * its entry is the 64-bit one of the boot protocol. Format: elf(5). Each number is checked before it is used.
 */
import { hex } from '#base/units.ts';
import { isElf } from '../image/elf.ts';
import { header, BOOT_FLAG, HEADER_MAGIC, LOADED_HIGH } from './header.ts';
import { hole, place } from './layout.ts';
import { type KernelPart, type LinuxKernel, notAKernel } from './kernel.ts';
import type { Stretch } from './ram.ts';

const field = {
  class: 4,
  data: 5,
  type: 16,
  machine: 18,
  entry: 24,
  segments: 32,
  segmentSize: 54,
  segmentCount: 56,
} as const;
const segmentField = {
  type: 0,
  offset: 8,
  virtual: 16,
  physical: 24,
  fileBytes: 32,
  memoryBytes: 40,
} as const;
const headerBytes = 64;
const segmentBytes = 56;
const PT_LOAD = 1;
const ET_EXEC = 2;
const EM_X86_64 = 62;
/** A kernel has five; more than this is a mistake, or a joke. */
const mostSegments = 64;

/** COMMAND_LINE_SIZE in arch/x86/include/asm/setup.h, less the NUL: what a bzImage says in its header. */
const commandLineMax = 2047;
/** What a kernel says in its header on x86-64; nobody asked for it below 2 GiB since 2.6. */
const initrdMax = 0x7fff_ffff;

interface Segment extends KernelPart {
  readonly virtual: bigint;
  readonly length: number;
}

function readSegment(file: Uint8Array, view: DataView, at: number): Segment {
  const word = (offset: number): bigint => view.getBigUint64(at + offset, true);
  const offset = word(segmentField.offset);
  const fileBytes = word(segmentField.fileBytes);
  const length = word(segmentField.memoryBytes);
  const physical = word(segmentField.physical);
  if (offset + fileBytes > BigInt(file.length)) throw notAKernel('has a segment that goes beyond the file');
  if (fileBytes > length) throw notAKernel('has a segment with more bytes in the file than in memory');
  if (physical < BigInt(place.high) || physical + length > BigInt(hole.from))
    throw notAKernel(
      `wants memory from ${hex(physical)} to ${hex(physical + length)}; it may have ${hex(place.high)} to ${hex(hole.from)}`,
    );
  return {
    at: Number(physical),
    bytes: file.subarray(Number(offset), Number(offset + fileBytes)),
    length: Number(length),
    virtual: word(segmentField.virtual),
  };
}

/** An entry may be given as a virtual address: the kernel's own view of itself. */
function physicalEntry(entry: bigint, segments: readonly Segment[]): number {
  const inside = (first: bigint, { bytes }: Segment): boolean =>
    entry >= first && entry < first + BigInt(bytes.length);
  if (segments.some((segment) => inside(BigInt(segment.at), segment))) return Number(entry);
  const home = segments.find((segment) => inside(segment.virtual, segment));
  if (!home) throw notAKernel(`begins at ${hex(entry)}, where it has nothing`);
  return home.at + Number(entry - home.virtual);
}

/** Offsets in the made-up header, which begins where the real one does. */
const at = (offset: number): number => offset - header.begin;

/** What a loader of bzImages would have found in the file's header; boot.rst says what each field is. */
function madeUpHeader(): Uint8Array {
  const bytes = new Uint8Array(header.init_size + 4 - header.begin);
  const view = new DataView(bytes.buffer);
  view.setUint16(at(header.boot_flag), BOOT_FLAG, true);
  view.setUint32(at(header.magic), HEADER_MAGIC, true);
  view.setUint16(at(header.version), 0x020f, true);
  view.setUint8(at(header.loadflags), LOADED_HIGH);
  view.setUint32(at(header.initrd_addr_max), initrdMax, true);
  view.setUint32(at(header.cmdline_size), commandLineMax, true);
  view.setUint32(at(header.kernel_alignment), 0x20_0000, true);
  return bytes;
}

export function readVmlinux(bytes: Uint8Array): LinuxKernel {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!isElf(bytes) || bytes.length < headerBytes) throw notAKernel('has no whole ELF header');
  if (view.getUint8(field.class) !== 2 || view.getUint8(field.data) !== 1)
    throw notAKernel('is no 64-bit little-endian ELF file', 'take a kernel for x86-64');
  if (view.getUint16(field.machine, true) !== EM_X86_64) throw notAKernel('is not for x86-64');
  if (view.getUint16(field.type, true) !== ET_EXEC)
    throw notAKernel('is an ELF file, but no program at a fixed address');
  const first = view.getBigUint64(field.segments, true);
  const count = view.getUint16(field.segmentCount, true);
  if (view.getUint16(field.segmentSize, true) !== segmentBytes || count > mostSegments)
    throw notAKernel('has a table of segments that cannot be right');
  if (first + BigInt(count * segmentBytes) > BigInt(bytes.length))
    throw notAKernel('ends before its table of segments does');
  const segments: Segment[] = [];
  for (let index = 0; index < count; index += 1) {
    const at = Number(first) + index * segmentBytes;
    if (view.getUint32(at + segmentField.type, true) === PT_LOAD) segments.push(readSegment(bytes, view, at));
  }
  if (segments.length === 0) throw notAKernel('has nothing to load');
  const needs: Stretch[] = segments.map(({ at, length }) => ({ at, length }));
  return {
    kind: 'vmlinux',
    version: undefined,
    parts: segments.map(({ at, bytes: part }) => ({ at, bytes: part })),
    entry: physicalEntry(view.getBigUint64(field.entry, true), segments),
    needs,
    header: madeUpHeader(),
    initrdMax,
    commandLineMax,
  };
}
