/**
 * An empty qcow2 layer over another disk: what `qemu-img create -b` makes, without starting a program (20 ms).
 * Format: docs/interop/qcow2.txt of QEMU, version 3, big-endian. Four clusters, all but some bytes of them holes:
 *
 *     0 header, with the name of the disk below    2 block of refcounts: these four clusters are in use
 *     1 table of refcount blocks                   3 L1 table: nothing is mapped, so everything comes from below
 */
import { open } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';

const clusterBits = 16;
const clusterBytes = 2 ** clusterBits;
/** Bytes that one entry of the L1 table maps: a cluster of 8-byte entries, each for a cluster. */
const perL1Entry = (clusterBytes / 8) * clusterBytes;
const maxBytes = (clusterBytes / 8) * perL1Entry;
const headerBytes = 104;
const backingFormatExtension = 0xe2792aca;
/** The format's own limit. */
const maxNameBytes = 1023;

export interface Overlay {
  /** The disk below, as QEMU finds it: absolute, or relative to the directory of this file. Always qcow2. */
  readonly backing: string;
  /** Length as the machine sees it; not shorter than the disk below, or its end would be cut off. */
  readonly bytes: number;
}

function header({ backing, bytes }: Overlay): Buffer {
  const name = Buffer.from(backing);
  if (name.length === 0 || name.length > maxNameBytes || name.includes(0))
    throw new CarrelError('invalid_request', `a disk cannot lie on ${JSON.stringify(backing)}`);
  const format = Buffer.from('qcow2');
  const nameAt = headerBytes + 8 + 8 + 8; // behind the format of the backing file, and the end of extensions
  const area = Buffer.alloc(nameAt + name.length);
  area.writeUInt32BE(0x514649fb, 0);
  area.writeUInt32BE(3, 4);
  area.writeBigUInt64BE(BigInt(nameAt), 8);
  area.writeUInt32BE(name.length, 16);
  area.writeUInt32BE(clusterBits, 20);
  area.writeBigUInt64BE(BigInt(bytes), 24);
  area.writeUInt32BE(Math.ceil(bytes / perL1Entry), 36);
  area.writeBigUInt64BE(BigInt(3 * clusterBytes), 40);
  area.writeBigUInt64BE(BigInt(clusterBytes), 48);
  area.writeUInt32BE(1, 56);
  area.writeUInt32BE(4, 96); // refcounts of 2^4 bits
  area.writeUInt32BE(headerBytes, 100);
  area.writeUInt32BE(backingFormatExtension, headerBytes);
  area.writeUInt32BE(format.length, headerBytes + 4);
  area.set(format, headerBytes + 8);
  area.set(name, nameAt);
  return area;
}

/** Makes the file, which must not exist, with permissions for its owner only. */
export async function writeOverlay(path: string, overlay: Overlay): Promise<void> {
  const { bytes } = overlay;
  if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % 512 !== 0 || bytes > maxBytes)
    throw new CarrelError('validation_failed', `a disk cannot have ${bytes} bytes`);
  const area = header(overlay);
  const table = Buffer.alloc(8);
  table.writeBigUInt64BE(BigInt(2 * clusterBytes));
  const counts = Buffer.alloc(8);
  for (let cluster = 0; cluster < 4; cluster += 1) counts.writeUInt16BE(1, 2 * cluster);
  const file = await open(path, 'wx', 0o600);
  try {
    await file.truncate(4 * clusterBytes);
    await file.write(area, 0, undefined, 0);
    await file.write(table, 0, undefined, clusterBytes);
    await file.write(counts, 0, undefined, 2 * clusterBytes);
  } finally {
    await file.close();
  }
}
