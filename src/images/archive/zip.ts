/**
 * Reads a zip archive that lies in memory or in a file (APPNOTE.TXT 6.3.3). The central directory is the
 * truth; the local headers must agree with it, and no two entries may share a byte. Refused: zip64,
 * encryption, several volumes, other methods than stored and deflate, anything before or after.
 */
import type { FileHandle } from 'node:fs/promises';
import { crc32, createInflateRaw } from 'node:zlib';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { CarrelError, messageOf } from '#base/errors.ts';
import { type Chunks, truncated } from './bytes.ts';
import { type Meter, tooLarge } from './limits.ts';
import { quoteName } from './paths.ts';
import { decodeText } from './tarheader.ts';

/** Bytes that can be read at any place. */
export interface RandomAccess {
  readonly size: number;
  /** Exactly `length` bytes from `offset`. */
  read(offset: number, length: number): Promise<Buffer>;
}

export function bufferAccess(bytes: Uint8Array): RandomAccess {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    size: buffer.length,
    async read(offset, length) {
      if (offset + length > buffer.length) throw truncated('the file');
      return buffer.subarray(offset, offset + length);
    },
  };
}

/** The file's size is taken now; it must not change. */
export async function fileAccess(file: FileHandle): Promise<RandomAccess> {
  const { size } = await file.stat();
  return {
    size,
    async read(offset, length) {
      const buffer = Buffer.alloc(length);
      for (let at = 0; at < length;) {
        const { bytesRead } = await file.read(buffer, at, length - at, offset + at);
        if (bytesRead === 0) throw truncated('the file');
        at += bytesRead;
      }
      return buffer;
    },
  };
}

export interface ZipEntry {
  /** As written: not checked, not safe. */
  readonly path: string;
  readonly kind: 'file' | 'directory' | 'symlink' | 'special';
  readonly mode: number;
  readonly size: number;
  readonly data: Chunks;
}

interface CentralEntry {
  readonly path: string;
  readonly nameBytes: Buffer;
  readonly flags: number;
  readonly method: number;
  readonly crc: number;
  readonly packed: number;
  readonly size: number;
  readonly kind: ZipEntry['kind'];
  readonly mode: number;
  readonly offset: number;
}

const endMark = 0x06054b50;
const centralMark = 0x02014b50;
const localMark = 0x04034b50;
const endBytes = 22;
const maxComment = 0xffff;
const encrypted = 0x2041; // bits 0, 6 and 13
/** A local header with its name and extra field, and the data descriptor after the data, at most. */
const localBytes = 30;
const pieceBytes = 2 ** 16;

const bad = (sentence: string): CarrelError => new CarrelError('invalid_archive', sentence);

interface Directory {
  readonly entries: number;
  readonly offset: number;
  readonly bytes: number;
}

/** The end record, which must be the very last thing in the file. */
async function findDirectory(source: RandomAccess): Promise<Directory> {
  const length = Math.min(source.size, endBytes + maxComment);
  const tail = await source.read(source.size - length, length);
  for (let at = length - endBytes; at >= 0; at -= 1) {
    if (tail.readUInt32LE(at) !== endMark) continue;
    if (at + endBytes + tail.readUInt16LE(at + 20) !== length) continue;
    const [disk, startDisk] = [tail.readUInt16LE(at + 4), tail.readUInt16LE(at + 6)];
    const [here, entries] = [tail.readUInt16LE(at + 8), tail.readUInt16LE(at + 10)];
    const [bytes, offset] = [tail.readUInt32LE(at + 12), tail.readUInt32LE(at + 16)];
    if (entries === 0xffff || bytes === 0xffffffff || offset === 0xffffffff)
      throw bad('The archive uses zip64, which is for archives larger than are taken here');
    if (disk !== 0 || startDisk !== 0 || here !== entries) throw bad('The archive is one volume of several');
    if (offset + bytes !== source.size - length + at)
      throw bad('The archive has something between its directory and its end, or before its beginning');
    return { entries, offset, bytes };
  }
  throw bad('The archive is not a zip file, or it was cut off');
}

/** Unix file types in the upper half of the external attributes (stat(2)). */
const types: ReadonlyMap<number, ZipEntry['kind']> = new Map([
  [0, 'file'],
  [0o100000, 'file'],
  [0o040000, 'directory'],
  [0o120000, 'symlink'],
]);

function parseCentral(head: Buffer, name: Buffer): CentralEntry {
  const path = decodeText(name);
  const madeBy = head.readUInt8(5);
  const external = head.readUInt32LE(38);
  // 3: Unix, 19: macOS; others have no mode.
  const unix = madeBy === 3 || madeBy === 19 ? external >>> 16 : 0;
  const named = types.get(unix & 0o170000) ?? 'special';
  const kind = named === 'file' && path.endsWith('/') ? 'directory' : named;
  const fallback = kind === 'directory' ? 0o755 : 0o644;
  return {
    path,
    nameBytes: name,
    flags: head.readUInt16LE(8),
    method: head.readUInt16LE(10),
    crc: head.readUInt32LE(16),
    packed: head.readUInt32LE(20),
    size: head.readUInt32LE(24),
    kind,
    mode: unix === 0 ? fallback : unix & 0o7777,
    offset: head.readUInt32LE(42),
  };
}

function judge(entry: CentralEntry, directoryOffset: number): void {
  const { path, flags, method, packed, size, kind, offset } = entry;
  const name = quoteName(path);
  if ((flags & encrypted) !== 0) throw bad(`${name} in the archive is encrypted`);
  if (method !== 0 && method !== 8)
    throw bad(`${name} in the archive is packed by method ${method}; use deflate`);
  if (packed === 0xffffffff || size === 0xffffffff || offset === 0xffffffff)
    throw bad(`${name} in the archive needs zip64`);
  if (method === 0 && packed !== size) throw bad(`${name} in the archive has two different sizes`);
  if (kind === 'directory' && size !== 0) throw bad(`${name} is a directory with content`);
  if (offset + localBytes + packed > directoryOffset) throw bad(`${name} lies outside of the archive`);
}

async function readCentral(source: RandomAccess, meter: Meter): Promise<CentralEntry[]> {
  const { entries, offset, bytes } = await findDirectory(source);
  meter.entry(entries);
  const most = entries * (46 + meter.limits.pathBytes + 512) + 1;
  if (bytes > most)
    throw tooLarge('The archive has too large a directory', { limit: most, what: 'directory' });
  const directory = await source.read(offset, bytes);
  const list: CentralEntry[] = [];
  let at = 0;
  for (let index = 0; index < entries; index += 1) {
    const head = directory.subarray(at, at + 46);
    if (head.length < 46 || head.readUInt32LE(0) !== centralMark)
      throw bad('The directory of the archive is damaged');
    const nameEnd = at + 46 + head.readUInt16LE(28);
    const end = nameEnd + head.readUInt16LE(30) + head.readUInt16LE(32);
    if (end > directory.length || head.readUInt16LE(34) !== 0)
      throw bad('The directory of the archive is damaged');
    const entry = parseCentral(head, directory.subarray(at + 46, nameEnd));
    judge(entry, offset);
    list.push(entry);
    at = end;
  }
  if (at !== directory.length) throw bad('The directory of the archive has more than its entries');
  return list;
}

/** Where the data begins; the local header must tell the same story as the directory. */
async function dataOffset(source: RandomAccess, entry: CentralEntry): Promise<number> {
  const head = await source.read(entry.offset, localBytes);
  const nameLength = head.readUInt16LE(26);
  const agrees =
    head.readUInt32LE(0) === localMark &&
    head.readUInt16LE(8) === entry.method &&
    (head.readUInt16LE(6) & encrypted) === 0 &&
    nameLength === entry.nameBytes.length &&
    (await source.read(entry.offset + localBytes, nameLength)).equals(entry.nameBytes);
  if (!agrees) throw bad(`${quoteName(entry.path)} has another header than the archive's directory says`);
  return entry.offset + localBytes + nameLength + head.readUInt16LE(28);
}

interface Place {
  readonly entry: CentralEntry;
  readonly start: number;
}

/** In the order of the directory. Overlapping entries make a small file unpack to a huge one: refused. */
async function locate(source: RandomAccess, list: readonly CentralEntry[]): Promise<Place[]> {
  const places: Place[] = [];
  for (const entry of list) places.push({ entry, start: await dataOffset(source, entry) });
  let end = 0;
  for (const { entry, start } of places.toSorted((left, right) => left.entry.offset - right.entry.offset)) {
    if (entry.offset < end) throw bad(`${quoteName(entry.path)} overlaps another entry of the archive`);
    end = start + entry.packed;
  }
  return places;
}

async function* raw(
  source: RandomAccess,
  start: number,
  length: number,
): AsyncGenerator<Buffer, void, undefined> {
  for (let at = 0; at < length; at += pieceBytes)
    yield await source.read(start + at, Math.min(pieceBytes, length - at));
}

async function* inflated(
  source: RandomAccess,
  { entry, start }: Place,
): AsyncGenerator<Uint8Array, void, undefined> {
  const inflate = createInflateRaw({ chunkSize: pieceBytes });
  let failure: unknown;
  const feeding = pipeline(
    Readable.from(raw(source, start, entry.packed), { objectMode: false }),
    inflate,
  ).catch((error: unknown) => {
    failure = error;
  });
  try {
    for await (const chunk of inflate) if (chunk instanceof Uint8Array) yield chunk;
    if (inflate.bytesWritten !== entry.packed) throw bad('there is more after the end of the data');
  } catch (error) {
    throw bad(`${quoteName(entry.path)} in the archive is damaged: ${messageOf(failure ?? error)}`);
  } finally {
    inflate.destroy();
    await feeding;
  }
}

/** The file's bytes, which must have exactly the promised length and checksum. */
async function* content(
  source: RandomAccess,
  place: Place,
  meter: Meter,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { path, size, packed, method, crc } = place.entry;
  const name = quoteName(path);
  let length = 0;
  let sum = 0;
  for await (const chunk of method === 0 ? raw(source, place.start, packed) : inflated(source, place)) {
    length += chunk.length;
    if (length > size) throw bad(`${name} in the archive is longer than it says`);
    meter.ratio(packed, length, name);
    sum = crc32(chunk, sum);
    yield chunk;
  }
  if (length !== size) throw bad(`${name} in the archive is shorter than it says`);
  if (sum !== crc) throw bad(`${name} in the archive is damaged: its checksum is wrong`);
}

/** The entries of a zip archive in the order of its directory. */
export async function* readZip(
  source: RandomAccess,
  meter: Meter,
): AsyncGenerator<ZipEntry, void, undefined> {
  if (source.size < endBytes) throw bad('The archive is not a zip file, or it was cut off');
  meter.packed(source.size);
  const list = await readCentral(source, meter);
  // All sizes before any data: an archive that is too large is refused before work is done.
  for (const { path, size, packed, kind } of list) {
    if (kind !== 'file') continue;
    meter.file(path, size);
    meter.ratio(packed, size, quoteName(path));
  }
  for (const place of await locate(source, list)) {
    const { path, kind, mode, size } = place.entry;
    yield { path, kind, mode, size, data: content(source, place, meter) };
  }
}
