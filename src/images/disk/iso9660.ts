/**
 * A small file system that is only read: ISO 9660, level 1 (ECMA-119), one directory, with Rock Ridge for the real
 * names and modes (SUSP 1.10 and RRIP 1.10, as "RRIP_1991A"; Linux: fs/isofs/rock.c). Equal files give equal bytes: no
 * times.
 */
import { CarrelError } from '#base/errors.ts';

export interface IsoFile {
  /** Any name of a file. */
  readonly name: string;
  readonly mode?: number;
  readonly data: Uint8Array | string;
}

const sectorBytes = 2048;
/** Where things lie, in sectors. The first sixteen are the system's, and empty. */
const at = { volume: 16, end: 17, pathsLittle: 18, pathsBig: 19, root: 20, files: 21 } as const;
/** Length of a path table with the root alone in it (ECMA-119, 9.4). */
const pathTableBytes = 10;
/** A record begins with one byte of length, and has an even one. */
const maxRecordBytes = 254;
/** ECMA-119, 8.4.8: 32 d-characters; in practice small letters as well, and nobody minds. */
const labelForm = /^[A-Za-z0-9_]{1,32}$/;
/** File types as in stat(2). */
const types = { directory: 0o040000, file: 0o100000 } as const;
const directoryFlag = 2;

/** Numbers are written twice: the smallest byte first, then the largest. */
function both32(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(value, 0);
  bytes.writeUInt32BE(value, 4);
  return bytes;
}

function both16(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt16LE(value, 0);
  bytes.writeUInt16BE(value, 2);
  return bytes;
}

/** An entry of the System Use Sharing Protocol: signature, length, version 1. */
function systemUse(signature: string, data: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(signature), Buffer.from([4 + data.length, 1]), data]);
}

/** Here begins what Rock Ridge says: in the first record of the root only. */
const rockRidge = Buffer.concat([
  systemUse('SP', Buffer.from([0xbe, 0xef, 0])),
  // lengths of identifier, description and source; version of the extension
  systemUse('ER', Buffer.concat([Buffer.from([10, 0, 0, 1]), Buffer.from('RRIP_1991A')])),
]);

/** Mode, links, owner and group: root. */
const posix = (mode: number, links: number): Buffer =>
  systemUse('PX', Buffer.concat([mode, links, 0, 0].map(both32)));

const realName = (name: Buffer): Buffer => systemUse('NM', Buffer.concat([Buffer.from([0]), name]));

interface Extent {
  readonly sector: number;
  readonly bytes: number;
}

/** A directory record (ECMA-119, 9.1). */
function record(
  identifier: Buffer,
  { sector, bytes }: Extent,
  { flags = 0, use = Buffer.alloc(0) }: { flags?: number; use?: Buffer } = {},
): Buffer {
  const body = Buffer.concat([
    both32(sector),
    both32(bytes),
    Buffer.from([70, 1, 1, 0, 0, 0, 0]), // 1970-01-01 00:00:00, UTC
    Buffer.from([flags, 0, 0]),
    both16(1),
    Buffer.from([identifier.length]),
    identifier,
    Buffer.alloc((identifier.length + 1) % 2),
    use,
  ]);
  const length = 2 + body.length + (body.length % 2);
  if (length > maxRecordBytes)
    throw new CarrelError('invalid_request', 'a name is too long for this file system');
  const bytesOf = Buffer.alloc(length);
  bytesOf[0] = length;
  body.copy(bytesOf, 2);
  return bytesOf;
}

const rootExtent: Extent = { sector: at.root, bytes: sectorBytes };
const self = Buffer.from([0]);
const parent = Buffer.from([1]);

function checkName(name: string, seen: ReadonlySet<string>): void {
  if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name) || seen.has(name))
    throw new CarrelError('invalid_request', `${JSON.stringify(name.slice(0, 100))} cannot be a file's name`);
}

/** The root directory: one sector, with records in the order of their ISO names. */
function directory(files: readonly IsoFile[], extents: readonly Extent[]): Buffer {
  const use = posix(types.directory | 0o555, 2);
  const records = [
    record(self, rootExtent, { flags: directoryFlag, use: Buffer.concat([rockRidge, use]) }),
    record(parent, rootExtent, { flags: directoryFlag, use }),
  ];
  const seen = new Set<string>();
  for (const [index, { name, mode = 0o444 }] of files.entries()) {
    const extent = extents[index];
    if (!extent) throw new CarrelError('internal', 'each file has a place');
    checkName(name, seen);
    seen.add(name);
    const plain = Buffer.from(`FILE${String(index).padStart(4, '0')}.;1`);
    const more = Buffer.concat([posix(types.file | (mode & 0o7777), 1), realName(Buffer.from(name))]);
    records.push(record(plain, extent, { use: more }));
  }
  const all = Buffer.concat(records);
  if (all.length > sectorBytes)
    throw new CarrelError('invalid_request', 'these are more names than one directory of an ISO image holds');
  return all;
}

/** The primary volume descriptor (ECMA-119, 8.4). */
function volume(label: string, sectors: number): Buffer {
  const bytes = Buffer.alloc(sectorBytes);
  bytes.write('\x01CD001\x01', 0, 'latin1');
  bytes.fill(' ', 8, 72);
  bytes.write(label, 40, 'latin1');
  both32(sectors).copy(bytes, 80);
  both16(1).copy(bytes, 120); // volumes of the set
  both16(1).copy(bytes, 124); // this one's number
  both16(sectorBytes).copy(bytes, 128);
  both32(pathTableBytes).copy(bytes, 132);
  bytes.writeUInt32LE(at.pathsLittle, 140);
  bytes.writeUInt32BE(at.pathsBig, 148);
  record(self, rootExtent, { flags: directoryFlag }).copy(bytes, 156);
  bytes.fill(' ', 190, 813); // set, publisher, preparer, application, and three files with texts: none
  for (const date of [813, 830, 847, 864]) bytes.fill('0', date, date + 16); // not stated
  bytes[881] = 1; // version of the structures
  return bytes;
}

/** The root: an identifier of one byte, its sector, itself as what it lies in. */
function pathTable(order: 'little' | 'big'): Buffer {
  const bytes = Buffer.alloc(pathTableBytes);
  bytes[0] = 1;
  if (order === 'little') {
    bytes.writeUInt32LE(at.root, 2);
    bytes.writeUInt16LE(1, 6);
  } else {
    bytes.writeUInt32BE(at.root, 2);
    bytes.writeUInt16BE(1, 6);
  }
  return bytes;
}

/**
 * The image of a file system with these files; `invalid_request` for a label or names that it cannot have, and for more
 * of them than one sector's directory holds (about twenty).
 *
 * @example
 * isoImage('cidata', [{ name: 'meta-data', mode: 0o400, data: '{"instance-id":"m-1"}' }]);
 */
export function isoImage(label: string, files: readonly IsoFile[]): Buffer {
  if (!labelForm.test(label))
    throw new CarrelError(
      'invalid_request',
      `${JSON.stringify(label.slice(0, 100))} cannot be a volume's label`,
    );
  const contents = files.map(({ data }) => Buffer.from(data));
  let next: number = at.files;
  const extents = contents.map(({ length: bytes }): Extent => {
    const sector = next;
    next += Math.ceil(bytes / sectorBytes);
    return { sector, bytes };
  });
  const image = Buffer.alloc(next * sectorBytes);
  const put = (sector: number, bytes: Buffer): void => void bytes.copy(image, sector * sectorBytes);
  put(at.volume, volume(label, next));
  put(at.end, Buffer.from('\xffCD001\x01', 'latin1'));
  put(at.pathsLittle, pathTable('little'));
  put(at.pathsBig, pathTable('big'));
  put(at.root, directory(files, extents));
  for (const [index, { sector }] of extents.entries()) put(sector, contents[index] ?? Buffer.alloc(0));
  return image;
}
