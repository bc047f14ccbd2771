/**
 * Reads a tar archive as it streams by: ustar, pax and GNU long names. Nothing is judged here but the
 * format and the limits; what an entry may be and where it may go is decided by the reader's user
 * (`readArchive` for files from people, `importImage` for root file systems).
 */
import { ByteReader, type Chunks, truncated } from './bytes.ts';
import type { Meter } from './limits.ts';
import { tooLarge } from './limits.ts';
import { quoteName } from './paths.ts';
import {
  type TarHeader,
  type TarKind,
  bad,
  blockBytes,
  decodeText,
  isZero,
  parseHeader,
  parsePax,
} from './tarheader.ts';

export interface TarEntry extends Omit<TarHeader, 'kind'> {
  readonly kind: TarKind;
  /** The file's bytes; to be read, or not, before the next entry is asked for. */
  readonly data: Chunks;
}

/** No honest extended header is longer: names end at 4 KiB; attributes (ACLs, labels) at 64 KiB. */
const maxExtensionBytes = 2 ** 16;
/** Zeros after the end: GNU tar fills up to 10 KiB, tapes had more. */
const maxPaddingBytes = 2 ** 20;

const padding = (size: number): number => (blockBytes - (size % blockBytes)) % blockBytes;

/** What extended headers said about the next entry. */
interface Pending {
  path?: string;
  link?: string;
  size?: number;
  uid?: number;
  gid?: number;
}

function decimal(text: string, what: string): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw bad(`The archive has an unreadable ${what}: ${quoteName(text)}`);
  return value;
}

/** Keys of a pax header that change which bytes belong to which file: refused where they are global. */
const decisive = new Set(['path', 'linkpath', 'size']);

function takePax(records: Map<string, string>, pending: Pending, global: boolean): void {
  for (const [key, value] of records) {
    if (key.startsWith('GNU.sparse.')) throw bad('The archive has a sparse file; pack it without --sparse');
    if (global) {
      if (decisive.has(key)) throw bad(`The archive sets ${quoteName(key)} for all of its entries`);
      continue;
    }
    if (key === 'path') pending.path = value;
    else if (key === 'linkpath') pending.link = value;
    else if (key === 'size') pending.size = decimal(value, 'size');
    else if (key === 'uid') pending.uid = decimal(value, 'user id');
    else if (key === 'gid') pending.gid = decimal(value, 'group id');
  }
}

async function extensionBody(reader: ByteReader, { size }: TarHeader): Promise<Uint8Array> {
  if (size > maxExtensionBytes)
    throw tooLarge(`The archive has an extended header of ${size} bytes`, { limit: maxExtensionBytes });
  const body = await reader.exactly(size, 'an extended header');
  if (!body) throw truncated('an extended header');
  // A copy: the next read may reuse the chunk it points into.
  const kept = Uint8Array.from(body);
  await reader.skip(padding(size), 'an extended header');
  return kept;
}

function gnuName(body: Uint8Array): string {
  const end = body.indexOf(0);
  return decodeText(end < 0 ? body : body.subarray(0, end));
}

/** The rest of the stream may hold only zeros: anything else is a second archive that others might see. */
async function finish(reader: ByteReader): Promise<void> {
  let zeros = 0;
  for (let piece = await reader.some(2 ** 16); piece; piece = await reader.some(2 ** 16)) {
    if (!isZero(piece)) throw bad('The archive goes on after its end');
    zeros += piece.length;
    if (zeros > maxPaddingBytes)
      throw tooLarge('The archive has endless padding', { limit: maxPaddingBytes });
  }
}

/** The header of the next entry with all that was said about it, or undefined at the end of the archive. */
async function nextHeader(
  reader: ByteReader,
  meter: Meter,
): Promise<(TarHeader & { kind: TarKind }) | undefined> {
  const pending: Pending = {};
  let extended = false;
  for (;;) {
    const block = await reader.exactly(blockBytes, 'a header');
    if (!block) throw bad('The archive ends without its end mark: it was cut off');
    if (isZero(block)) {
      if (extended) throw bad('The archive ends after an extended header');
      const second = await reader.exactly(blockBytes, 'its end mark');
      if (second && !isZero(second)) throw bad('The archive has a hole: one block of zeros between entries');
      await finish(reader);
      return undefined;
    }
    const header = parseHeader(block);
    meter.entry();
    const { kind } = header;
    if (kind === 'pax' || kind === 'pax-global') {
      takePax(parsePax(await extensionBody(reader, header)), pending, kind === 'pax-global');
      extended ||= kind === 'pax';
    } else if (kind === 'gnu-name' || kind === 'gnu-link') {
      const name = gnuName(await extensionBody(reader, header));
      if (kind === 'gnu-name') pending.path = name;
      else pending.link = name;
      extended = true;
    } else {
      const path = pending.path ?? header.path;
      const isDirectory = kind === 'directory' || (kind === 'file' && path.endsWith('/'));
      return { ...header, ...pending, path, kind: isDirectory ? 'directory' : kind };
    }
  }
}

/** One entry's bytes; remembers how many the user left unread. */
class Body {
  readonly #reader: ByteReader;
  readonly #path: string;
  left: number;

  constructor(reader: ByteReader, path: string, size: number) {
    this.#reader = reader;
    this.#path = path;
    this.left = size;
  }

  async *chunks(): AsyncGenerator<Uint8Array, void, undefined> {
    while (this.left > 0) {
      const piece = await this.#reader.some(this.left);
      if (!piece) throw truncated(quoteName(this.#path));
      this.left -= piece.length;
      yield piece;
    }
  }
}

/**
 * The entries of a tar archive in their order. Memory: one chunk of the source and one header.
 * Entries other than files have no data: a size in their header is an error.
 */
export async function* readTar(source: Chunks, meter: Meter): AsyncGenerator<TarEntry, void, undefined> {
  const reader = new ByteReader(source);
  try {
    for (let header = await nextHeader(reader, meter); header; header = await nextHeader(reader, meter)) {
      const { path, kind, size } = header;
      if (kind !== 'file' && size !== 0) throw bad(`${quoteName(path)} is a ${kind} with content`);
      if (kind === 'file') meter.file(path, size);
      const body = new Body(reader, path, size);
      yield { ...header, kind, data: body.chunks() };
      await reader.skip(body.left, quoteName(path));
      body.left = 0;
      await reader.skip(padding(size), quoteName(path));
    }
  } finally {
    await reader.close();
  }
}
