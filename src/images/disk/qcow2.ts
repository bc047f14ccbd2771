/**
 * The header of a qcow2 file from outside, read by ourselves before QEMU sees the file: what it may refer to
 * (another file of this host!), how much it claims to hold, and whether its tables lie inside of it. Big-endian;
 * docs/interop/qcow2.txt of QEMU. Pure.
 */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBytes: number;
  /** As a machine sees it. */
  readonly virtualBytes: number;
}

export interface Qcow2Limits {
  readonly virtualBytes: number;
}

/** All that is looked at: the header and its extensions lie in the first cluster, which has at most this length. */
export const qcow2HeadBytes = 2 ** 21;

const magic = 0x514649fb;
/** Of the fixed part, by version. */
const v2Bytes = 72;
const v3Bytes = 104;
/** QEMU's own limits for the tables (block/qcow2.h): more of either is an attack on its memory. */
const maxL1Bytes = 32 * 2 ** 20;
const maxRefcountTableBytes = 8 * 2 ** 20;

/** Incompatible features that we let pass: 0 "not closed properly", 3 "compressed with zstd", 4 "extended L2". */
const passing = 0b1_1001n;
const features = { corrupt: 1n << 1n, externalData: 1n << 2n, extendedL2: 1n << 4n } as const;

/** Header extensions that point to something outside, or to a key. */
const refusedExtensions: ReadonlyMap<number, string> = new Map([
  [0xe2792aca, 'names the format of a file below it'],
  [0x44415441, 'keeps its data in another file'],
  [0x0537be77, 'is encrypted'],
]);

const refuse = (why: string, hint?: string): CarrelError =>
  new CarrelError('validation_failed', `The qcow2 file ${why}`, hint === undefined ? {} : { hint });

const standalone = 'make it stand alone first: qemu-img convert -O qcow2';

/** A table lies inside the file, on a cluster's border. */
function checkTable(what: string, at: bigint, bytes: number, clusterBytes: number, fileBytes: number): void {
  if (at % BigInt(clusterBytes) !== 0n || at === 0n || at + BigInt(bytes) > BigInt(fileBytes))
    throw refuse(`is damaged or cut off: its ${what} does not lie in it`);
}

function checkExtensions(head: Buffer, from: number, to: number): void {
  for (let at = from; at + 8 <= to;) {
    const type = head.readUInt32BE(at);
    const length = head.readUInt32BE(at + 4);
    if (type === 0) return;
    const why = refusedExtensions.get(type);
    if (why !== undefined) throw refuse(why, standalone);
    at += 8 + Math.ceil(length / 8) * 8;
    if (at > to) throw refuse('is damaged: a header extension leads out of its first cluster');
  }
}

/**
 * Reads the header; `head` is the beginning of the file (`qcow2HeadBytes`, or all of it). `validation_failed` says
 * what is not accepted, `too_large` that it claims to hold too much.
 */
export function parseQcow2(head: Buffer, fileBytes: number, limits: Qcow2Limits): Qcow2Header {
  if (head.length < v2Bytes || head.readUInt32BE(0) !== magic)
    throw new CarrelError('validation_failed', 'This is not a qcow2 file', {
      hint: 'its format is stated, never guessed: --format raw, if it is one',
    });
  const version = head.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw refuse(`has the version ${version}; known are 2 and 3`);
  if (version === 3 && head.length < v3Bytes) throw refuse('is cut off');
  if (head.readBigUInt64BE(8) !== 0n || head.readUInt32BE(16) !== 0)
    throw refuse('lies on another file (a backing file)', standalone);
  const clusterBits = head.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21) throw refuse(`has clusters of 2^${clusterBits} bytes`);
  const clusterBytes = 2 ** clusterBits;
  if (head.readUInt32BE(32) !== 0) throw refuse('is encrypted', standalone);

  const incompatible = version === 3 ? head.readBigUInt64BE(72) : 0n;
  if ((incompatible & features.corrupt) !== 0n) throw refuse('is marked as corrupt', 'qemu-img check -r all');
  if ((incompatible & features.externalData) !== 0n)
    throw refuse('keeps its data in another file', standalone);
  if ((incompatible & ~passing) !== 0n)
    throw refuse(`needs features that are not known here (${incompatible})`);
  const headerBytes = version === 3 ? head.readUInt32BE(100) : v2Bytes;
  if (
    headerBytes % 8 !== 0 ||
    headerBytes < (version === 3 ? v3Bytes : v2Bytes) ||
    headerBytes > clusterBytes
  )
    throw refuse('is damaged: its header has an impossible length');
  if (version === 3 && head.readUInt32BE(96) > 6) throw refuse('is damaged: its refcounts are too wide');
  checkExtensions(head, headerBytes, Math.min(clusterBytes, head.length));

  const size = head.readBigUInt64BE(24);
  if (size === 0n || size % 512n !== 0n) throw refuse(`claims to hold ${size} bytes`);
  if (size > BigInt(limits.virtualBytes))
    throw new CarrelError(
      'too_large',
      `The disk in the qcow2 file is larger than ${formatSize(limits.virtualBytes)}`,
      {
        details: { limit: limits.virtualBytes, found: size.toString() },
      },
    );
  const virtualBytes = Number(size);

  const entryBytes = (incompatible & features.extendedL2) === 0n ? 8 : 16;
  const perL1Entry = (clusterBytes / entryBytes) * clusterBytes;
  const l1Entries = head.readUInt32BE(36);
  if (l1Entries * 8 > maxL1Bytes || l1Entries < Math.ceil(virtualBytes / perL1Entry))
    throw refuse(`has a first table of ${l1Entries} entries, which does not go with its size`);
  checkTable('first table', head.readBigUInt64BE(40), l1Entries * 8, clusterBytes, fileBytes);
  const refcountBytes = head.readUInt32BE(56) * clusterBytes;
  if (refcountBytes === 0 || refcountBytes > maxRefcountTableBytes)
    throw refuse(`has a table of ${refcountBytes} bytes for its refcounts`);
  checkTable('table of refcounts', head.readBigUInt64BE(48), refcountBytes, clusterBytes, fileBytes);
  if (head.readUInt32BE(60) !== 0) throw refuse('holds snapshots', standalone);
  return { version, clusterBytes, virtualBytes };
}
