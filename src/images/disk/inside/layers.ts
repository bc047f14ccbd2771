/**
 * The bytes of a disk made of qcow2 layers, read by our own code: no program that could be taken over sees them, and
 * what the headers say of other files is not followed. Which layer lies on which is told by the caller.
 * Format: docs/interop/qcow2.txt of QEMU, big-endian.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';

/** Bytes by offset. A read beyond the end gives zeros. */
export interface DiskBytes {
  /** Length as the machine sees it. */
  readonly bytes: number;
  read(offset: number, length: number): Promise<Buffer>;
}

export interface OpenDisk extends DiskBytes, AsyncDisposable {}

const magic = 0x514649fb;
const headBytes = 104;
/** Incompatible features that change how data is found: all but "not closed properly" and the kind of compression. */
const refusedFeatures = ~0b1001n;
/** The first table of a disk of 4 TiB in clusters of 64 KiB; QEMU's own limit. */
const maxL1Bytes = 32 * 2 ** 20;
/** Offsets in both kinds of table entries. */
const offsetMask = 0x00ff_ffff_ffff_fe00n;
const compressed = 1n << 62n;
const readsAsZeros = 1n;
/** No file system of ours has longer files (ext4: 16 TiB). */
const maxFileBytes = 2 ** 44;
/** Second tables kept in memory, per layer: each says where some thousand clusters lie. */
const keptTables = 64;

const damaged = (why: string): CarrelError =>
  new CarrelError('validation_failed', `the disk cannot be read: ${why}`);

/** All of them, or zeros where the file ends earlier. */
async function readAt(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  if (offset > maxFileBytes) throw damaged('a layer points out of itself');
  for (let at = 0; at < length;) {
    const { bytesRead } = await file.read(buffer, at, length - at, offset + at);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return buffer;
}

class Layer {
  readonly #file: FileHandle;
  readonly #l1: Buffer;
  readonly #tables = new Map<number, Buffer>();
  readonly bytes: number;
  readonly clusterBytes: number;

  private constructor(file: FileHandle, l1: Buffer, bytes: number, clusterBytes: number) {
    this.#file = file;
    this.#l1 = l1;
    this.bytes = bytes;
    this.clusterBytes = clusterBytes;
  }

  static async open(file: FileHandle): Promise<Layer> {
    const head = await readAt(file, 0, headBytes);
    const version = head.readUInt32BE(4);
    if (head.readUInt32BE(0) !== magic || version < 2 || version > 3)
      throw damaged('a layer is no qcow2 file');
    const clusterBits = head.readUInt32BE(20);
    const size = head.readBigUInt64BE(24);
    if (clusterBits < 9 || clusterBits > 21 || size > 2n ** 52n)
      throw damaged('a layer says impossible sizes');
    if (head.readUInt32BE(32) !== 0) throw damaged('a layer is encrypted');
    if (version === 3 && (head.readBigUInt64BE(72) & refusedFeatures) !== 0n)
      throw damaged('a layer keeps its data in a way that is not read here');
    const l1Bytes = head.readUInt32BE(36) * 8;
    const l1At = head.readBigUInt64BE(40);
    if (l1Bytes > maxL1Bytes || l1At > 2n ** 52n) throw damaged('the first table of a layer is too large');
    return new Layer(file, await readAt(file, Number(l1At), l1Bytes), Number(size), 2 ** clusterBits);
  }

  /** The cluster at `index`, as far as this layer has it; undefined: the layer below says. */
  async readWithin(index: number, from: number, length: number): Promise<Buffer | undefined> {
    const perTable = this.clusterBytes / 8;
    const table = await this.#table(Math.floor(index / perTable));
    const entry = table?.readBigUInt64BE((index % perTable) * 8) ?? 0n;
    if ((entry & compressed) !== 0n) throw damaged('a layer is compressed');
    if ((entry & readsAsZeros) !== 0n) return Buffer.alloc(length);
    const at = Number(entry & offsetMask);
    return at === 0 ? undefined : readAt(this.#file, at + from, length);
  }

  async #table(index: number): Promise<Buffer | undefined> {
    if ((index + 1) * 8 > this.#l1.length) return undefined;
    const at = Number(this.#l1.readBigUInt64BE(index * 8) & offsetMask);
    if (at === 0) return undefined;
    const known = this.#tables.get(index);
    if (known) return known;
    const table = await readAt(this.#file, at, this.clusterBytes);
    if (this.#tables.size >= keptTables) this.#tables.clear();
    this.#tables.set(index, table);
    return table;
  }
}

/** A part of one cluster, from the highest layer that has it. */
async function readCluster(layers: readonly Layer[], offset: number, length: number): Promise<Buffer> {
  for (const layer of layers) {
    if (offset >= layer.bytes) return Buffer.alloc(length);
    const index = Math.floor(offset / layer.clusterBytes);
    const found = await layer.readWithin(index, offset - index * layer.clusterBytes, length);
    if (found) return found;
  }
  return Buffer.alloc(length);
}

/**
 * Opens a disk of these files, the lowest first. `validation_failed`: what a machine has left there cannot be read.
 *
 * @example
 * await using disk = await openLayers(['/.../image/disk.qcow2', '/.../disk/1.qcow2']);
 * const bootRecord = await disk.read(0, 512);
 */
export async function openLayers(paths: readonly string[]): Promise<OpenDisk> {
  await using opened = new AsyncDisposableStack();
  const layers: Layer[] = [];
  for (const path of paths.toReversed()) layers.push(await Layer.open(opened.use(await open(path, 'r'))));
  const step = Math.min(...layers.map(({ clusterBytes }) => clusterBytes));
  const files = opened.move();
  return {
    bytes: layers[0]?.bytes ?? 0,
    async read(offset, length) {
      const parts: Buffer[] = [];
      for (let at = offset; at < offset + length;) {
        const part = Math.min(offset + length - at, step - (at % step));
        parts.push(await readCluster(layers, at, part));
        at += part;
      }
      return Buffer.concat(parts);
    },
    [Symbol.asyncDispose]: () => files.disposeAsync(),
  };
}
