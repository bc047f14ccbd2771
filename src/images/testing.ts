/** Helpers of this floor's tests: directories that go away, and archives made byte by byte. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32, deflateRawSync } from 'node:zlib';
import type { Chunks } from './archive/bytes.ts';
import { blockBytes, formatHeader, formatPax } from './archive/tarheader.ts';

export interface Scratch extends AsyncDisposable {
  readonly directory: string;
}

export async function scratch(name = 'carrel-test'): Promise<Scratch> {
  const directory = await mkdtemp(join(tmpdir(), `${name}-`));
  return { directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) };
}

/** All of a stream in memory. */
export async function gather(chunks: Chunks): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

/** Bytes as a stream of pieces of the given length. */
export async function* inPieces(
  bytes: Uint8Array,
  length: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length);
}

export interface RawMember {
  readonly path: string;
  readonly flag?: string;
  readonly link?: string;
  readonly mode?: number;
  readonly body?: string | Uint8Array;
  /** In the header, if it should lie. */
  readonly size?: number;
  readonly pax?: Readonly<Record<string, string>>;
  /** Written over the header before the checksum is made. */
  readonly patch?: readonly { readonly at: number; readonly bytes: Uint8Array }[];
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((blockBytes - (bytes.length % blockBytes)) % blockBytes)]);
}

function rawHeader({ path, flag = '0', link = '', mode = 0o644, size = 0, patch = [] }: RawMember): Buffer {
  const block = formatHeader({ path, flag, mode, uid: 0, gid: 0, size, mtime: 0, link });
  for (const { at, bytes } of patch) block.set(bytes, at);
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** One member of a tar archive, honest or not; no end mark. */
export function tarMember(member: RawMember): Buffer {
  const body = Buffer.from(member.body ?? '');
  const records = Object.entries(member.pax ?? {}).map(([key, value]) => formatPax(key, value));
  const extension = Buffer.concat(records);
  const before =
    extension.length === 0
      ? []
      : [rawHeader({ path: 'PaxHeaders/x', flag: 'x', size: extension.length }), padded(extension)];
  return Buffer.concat([...before, rawHeader({ ...member, size: member.size ?? body.length }), padded(body)]);
}

/** A tar archive with its end mark. */
export function tarOf(...members: readonly RawMember[]): Buffer {
  return Buffer.concat([...members.map(tarMember), Buffer.alloc(2 * blockBytes)]);
}

export interface RawZipEntry {
  readonly path: string;
  readonly body?: string | Uint8Array;
  readonly stored?: boolean;
  /** Unix mode with the type bits; 0: not made on Unix. */
  readonly unixMode?: number;
  readonly flags?: number;
  readonly method?: number;
  readonly crc?: number;
  readonly size?: number;
  /** In the local header, if it should differ. */
  readonly localPath?: string;
  /** Use the data of the first entry again. */
  readonly overlap?: boolean;
}

/** A zip archive, honest or not. */
export function zipOf(
  entries: readonly RawZipEntry[],
  { comment = '', count = entries.length }: { comment?: string; count?: number } = {},
): Buffer {
  const locals: Buffer[] = [];
  const centrals: Buffer[] = [];
  let offset = 0;
  for (const entry of entries) {
    const body = Buffer.from(entry.body ?? '');
    const packed = entry.stored === true ? body : deflateRawSync(body);
    const name = Buffer.from(entry.path);
    const localName = Buffer.from(entry.localPath ?? entry.path);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(entry.flags ?? 0x800, 2);
    common.writeUInt16LE(entry.method ?? (entry.stored === true ? 0 : 8), 4);
    common.writeUInt32LE(entry.crc ?? crc32(body), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(entry.size ?? body.length, 18);
    common.writeUInt16LE(localName.length, 22);
    const place = entry.overlap === true ? 0 : offset;
    if (entry.overlap !== true) {
      const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), common, localName, packed]);
      locals.push(local);
      offset += local.length;
    }
    const central = Buffer.alloc(46);
    central.write('PK\x01\x02', 0, 'latin1');
    central.writeUInt16LE((entry.unixMode ?? 0) === 0 ? 20 : 0x0314, 4);
    common.copy(central, 6, 0, 22);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(((entry.unixMode ?? 0) * 0x10000) >>> 0, 38);
    central.writeUInt32LE(place, 42);
    centrals.push(Buffer.concat([central, name]));
  }
  const directory = Buffer.concat(centrals);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 0, 'latin1');
  end.writeUInt16LE(count, 8);
  end.writeUInt16LE(count, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  end.writeUInt16LE(Buffer.byteLength(comment), 20);
  return Buffer.concat([...locals, directory, end, Buffer.from(comment)]);
}
