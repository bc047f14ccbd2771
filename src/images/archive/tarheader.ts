/**
 * One 512-byte header of a tar archive, as data and back: the ustar format (pax(1), "ustar Interchange
 * Format"), GNU's binary numbers (tar(5)), and the records of pax extended headers. Pure functions.
 */
import { CarrelError } from '#base/errors.ts';
import { quoteName } from './paths.ts';

export const blockBytes = 512;

/** Type flags that are an entry of their own. `file` also stands for the old and the contiguous kind. */
const kinds = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character device',
  '4': 'block device',
  '5': 'directory',
  '6': 'fifo',
} as const satisfies Record<string, string>;

export type TarKind = (typeof kinds)[keyof typeof kinds];

/** Type flags of headers that say more about the next entry. */
const extensions = { x: 'pax', g: 'pax-global', L: 'gnu-name', K: 'gnu-link' } as const;
type Extension = (typeof extensions)[keyof typeof extensions];

export interface TarHeader {
  /** As written: not checked, not safe. */
  readonly path: string;
  readonly kind: TarKind | Extension;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Target of a link; empty otherwise. */
  readonly link: string;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function bad(sentence: string): CarrelError {
  return new CarrelError('invalid_archive', sentence);
}

/** A text in UTF-8; names in other encodings are refused rather than guessed. */
export function decodeText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw bad(
      `The archive has a name that is not UTF-8: ${quoteName(Buffer.from(bytes).toString('latin1'))}`,
    );
  }
}

function textField(block: Uint8Array, start: number, length: number): string {
  const field = block.subarray(start, start + length);
  const end = field.indexOf(0);
  return decodeText(end < 0 ? field : field.subarray(0, end));
}

/** Octal digits, ended by a blank or NUL; or, with the first bit set, a big-endian binary number. */
function numberField(block: Uint8Array, start: number, length: number, what: string): number {
  const field = block.subarray(start, start + length);
  const first = field[0] ?? 0;
  if ((first & 0x80) !== 0) {
    if (first === 0xff) throw bad(`The archive has a negative ${what}`);
    let value = first & 0x7f;
    for (const byte of field.subarray(1)) {
      value = value * 256 + byte;
      if (value > Number.MAX_SAFE_INTEGER) throw bad(`The archive has an impossible ${what}`);
    }
    return value;
  }
  const text = Buffer.from(field)
    .toString('latin1')
    .replaceAll(/[\0 ]+$/g, '')
    .trimStart();
  if (text === '') return 0;
  if (!/^[0-7]+$/.test(text)) throw bad(`The archive has an unreadable ${what}: ${quoteName(text)}`);
  return Number.parseInt(text, 8);
}

/** Sum of all bytes with the checksum's own field as blanks. */
function checksum(block: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < blockBytes; at += 1) sum += at >= 148 && at < 156 ? 0x20 : (block[at] ?? 0);
  return sum;
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** The header in a block that is not all zero; `invalid_archive` if it is none, or of an unknown type. */
export function parseHeader(block: Uint8Array): TarHeader {
  const written = /^ *([0-7]+)[\0 ]*$/.exec(Buffer.from(block.subarray(148, 156)).toString('latin1'))?.[1];
  if (written === undefined || Number.parseInt(written, 8) !== checksum(block))
    throw bad('The archive is not a tar file, or is damaged: the checksum of a header is wrong');
  const isUstar = Buffer.from(block.subarray(257, 262)).toString('latin1') === 'ustar';
  // In GNU's variant (version field ` \0`) the place of the prefix holds times and a map of holes.
  const isPosix = isUstar && block[263] === 0x30 && block[264] === 0x30;
  const name = textField(block, 0, 100);
  const prefix = isPosix ? textField(block, 345, 155) : '';
  const path = prefix === '' ? name : `${prefix}/${name}`;
  const flag = String.fromCharCode(block[156] ?? 0);
  const kind = kindOf(flag, path);
  return {
    path,
    // Before ustar a directory was a file whose name ends with a slash.
    kind: kind === 'file' && path.endsWith('/') ? 'directory' : kind,
    mode: numberField(block, 100, 8, 'mode') & 0o7777,
    uid: numberField(block, 108, 8, 'user id'),
    gid: numberField(block, 116, 8, 'group id'),
    size: numberField(block, 124, 12, 'size'),
    mtime: numberField(block, 136, 12, 'time'),
    link: textField(block, 157, 100),
  };
}

const ownKey = <T extends object>(table: T, key: PropertyKey): key is keyof T => Object.hasOwn(table, key);

function kindOf(flag: string, path: string): TarHeader['kind'] {
  if (ownKey(kinds, flag)) return kinds[flag];
  if (ownKey(extensions, flag)) return extensions[flag];
  if (flag === 'S') throw bad(`${quoteName(path)} in the archive is a sparse file; pack it without --sparse`);
  throw bad(`${quoteName(path)} in the archive has an unknown type (${quoteName(flag)})`);
}

/** Records `length key=value\n` (pax(1), "pax Extended Header"). A key may occur once. */
export function parsePax(bytes: Uint8Array): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < bytes.length;) {
    const blank = bytes.indexOf(0x20, at);
    const digits =
      blank < 0 || blank - at > 8 ? '' : Buffer.from(bytes.subarray(at, blank)).toString('latin1');
    const length = /^[1-9]\d*$/.test(digits) ? Number(digits) : 0;
    const end = at + length;
    if (length === 0 || end > bytes.length || end <= blank || bytes[end - 1] !== 0x0a)
      throw bad('The archive has an unreadable extended header');
    const record = bytes.subarray(blank + 1, end - 1);
    const equals = record.indexOf(0x3d);
    if (equals < 1) throw bad('The archive has an extended header without a name');
    const key = decodeText(record.subarray(0, equals));
    if (records.has(key)) throw bad(`The archive has an extended header with ${quoteName(key)} twice`);
    // Attributes of files may be any bytes; only what is used below is read as text.
    const value = record.subarray(equals + 1);
    records.set(key, key.startsWith('SCHILY.xattr.') ? '' : decodeText(value));
    at = end;
  }
  return records;
}

/** A pax record; its length counts its own digits. */
export function formatPax(key: string, value: string): Buffer {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + String(rest).length;
  if (String(length).length + rest > length) length = String(length).length + rest;
  return Buffer.from(`${length} ${key}=${value}\n`);
}

export interface HeaderFields extends Omit<TarHeader, 'kind'> {
  readonly flag: string;
}

/** Does a value fit the header, or does it need a pax record? */
export const fits = {
  text: (value: string, bytes: number): boolean => /^[\x20-\x7e]*$/.test(value) && value.length <= bytes,
  number: (value: number, digits: number): boolean => value < 8 ** digits,
};

/** A ustar header. What does not fit is cut short: the caller sends a pax record before it. */
export function formatHeader({ path, flag, mode, uid, gid, size, mtime, link }: HeaderFields): Buffer {
  const block = Buffer.alloc(blockBytes);
  const octal = (value: number, start: number, digits: number): void => {
    const shown = fits.number(value, digits) ? value : 0;
    block.write(shown.toString(8).padStart(digits, '0'), start, 'latin1');
  };
  block.write(path.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 100), 0, 'latin1');
  octal(mode, 100, 7);
  octal(uid, 108, 7);
  octal(gid, 116, 7);
  octal(size, 124, 11);
  octal(mtime, 136, 11);
  block.write(flag, 156, 'latin1');
  block.write(link.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 100), 157, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  block.write(`${checksum(block).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}
