/**
 * An ext4 file system, read by our own code: superblock, inodes, extents. Every byte of it may be hostile, so every
 * number is checked before it is used, and what is read for one question is limited.
 * Format: Documentation/filesystems/ext4/ of Linux, little-endian.
 */
import { CarrelError } from '#base/errors.ts';
import type { DiskBytes } from './layers.ts';

const superblockAt = 1024;
const magic = 0xef53;
/** Incompatible features (s_feature_incompat) that change nothing for us: filetype, extents, 64bit, flex_bg, csum_seed, largedir. */
const readable = 0x0002 | 0x0040 | 0x0080 | 0x0200 | 0x2000 | 0x4000;
/** The journal holds what the file system does not have yet. */
const needsRecovery = 0x0004;
const is64bit = 0x0080;
const extentMagic = 0xf30a;
const inExtents = 0x0008_0000;
/** Longer extents are reserved, not written. */
const maxWrittenBlocks = 32_768;
const maxDepth = 5;
/** For one file: 4 MiB in the worst case, one block per extent; more is an attack on our time. */
const maxTreeBlocks = 1024;
/** Of one question: what is read, and what is made room for, which a hole costs too. */
const maxReadBytes = 64 * 2 ** 20;

export const fileKinds = { directory: 0o040000, regular: 0o100000, link: 0o120000 } as const;

export interface Inode {
  /** The bits of `fileKinds`, and others. */
  readonly kind: number;
  /** Permission bits. */
  readonly mode: number;
  readonly size: number;
  readonly flags: number;
  /** i_block: the root of the extents, or a short link's target. */
  readonly block: Buffer;
}

interface Extent {
  /** Block in the file. */
  readonly from: number;
  readonly length: number;
  /** Block on the disk; undefined: zeros. */
  readonly at: number | undefined;
}

const damaged = (why: string): CarrelError =>
  new CarrelError('validation_failed', `the file system cannot be read: ${why}`);

export class Ext4 {
  readonly #disk: DiskBytes;
  readonly #offset: number;
  readonly #blockBytes: number;
  readonly #blocks: number;
  readonly #inodes: number;
  readonly #inodesPerGroup: number;
  readonly #inodeBytes: number;
  readonly #groupsAt: number;
  readonly #groupBytes: number;
  #left = maxReadBytes;

  private constructor(disk: DiskBytes, offset: number, head: Buffer) {
    this.#disk = disk;
    this.#offset = offset;
    this.#blockBytes = 1024 << head.readUInt32LE(0x18);
    const wide = (head.readUInt32LE(0x60) & is64bit) !== 0;
    this.#blocks = head.readUInt32LE(0x04) + (wide ? head.readUInt32LE(0x150) * 2 ** 32 : 0);
    this.#inodes = head.readUInt32LE(0x00);
    this.#inodesPerGroup = head.readUInt32LE(0x28);
    this.#inodeBytes = head.readUInt16LE(0x58);
    this.#groupsAt = (head.readUInt32LE(0x14) + 1) * this.#blockBytes;
    this.#groupBytes = wide ? head.readUInt16LE(0xfe) : 32;
  }

  /**
   * The file system that begins at `offset` of the disk. `wrong_state`: it was not unmounted, so what was written last
   * may be in its journal only; `validation_failed`: it is none, or one that cannot be read here.
   */
  static async open(disk: DiskBytes, offset: number): Promise<Ext4> {
    const head = await disk.read(offset + superblockAt, 1024);
    if (head.readUInt16LE(0x38) !== magic) throw damaged('it is no ext4');
    const features = head.readUInt32LE(0x60);
    if ((features & needsRecovery) !== 0)
      throw new CarrelError('wrong_state', 'the file system was not unmounted');
    if ((features & ~readable) !== 0)
      throw damaged(`it has features that are not read here (0x${(features & ~readable).toString(16)})`);
    if (head.readUInt32LE(0x18) > 6) throw damaged('its blocks are too large');
    const it = new Ext4(disk, offset, head);
    const { [0]: wrong } = [
      ...(it.#inodesPerGroup === 0 || it.#inodesPerGroup > 8 * it.#blockBytes ? ['groups'] : []),
      ...(it.#inodeBytes < 128 || it.#inodeBytes > it.#blockBytes ? ['inodes'] : []),
      ...(it.#groupBytes < 32 || it.#groupBytes > 1024 ? ['descriptors'] : []),
    ];
    if (wrong !== undefined) throw damaged(`its ${wrong} have an impossible size`);
    return it;
  }

  /** Begins a new question: what it may read counts anew. */
  refill(): void {
    this.#left = maxReadBytes;
  }

  #spend(bytes: number): void {
    this.#left -= bytes;
    if (this.#left < 0) throw damaged('too much would have to be read for one file');
  }

  async #read(at: number, length: number): Promise<Buffer> {
    this.#spend(length);
    if (at < 0 || at + length > this.#blocks * this.#blockBytes) throw damaged('it points out of itself');
    return this.#disk.read(this.#offset + at, length);
  }

  async inode(number: number): Promise<Inode> {
    if (number < 1 || number > this.#inodes) throw damaged(`there is no inode ${number}`);
    const group = Math.floor((number - 1) / this.#inodesPerGroup);
    const index = (number - 1) % this.#inodesPerGroup;
    const descriptor = await this.#read(this.#groupsAt + group * this.#groupBytes, this.#groupBytes);
    const table =
      descriptor.readUInt32LE(0x08) + (this.#groupBytes >= 64 ? descriptor.readUInt32LE(0x28) * 2 ** 32 : 0);
    const inode = await this.#read(table * this.#blockBytes + index * this.#inodeBytes, 128);
    const mode = inode.readUInt16LE(0x00);
    return {
      kind: mode & 0o170000,
      mode: mode & 0o7777,
      size: inode.readUInt32LE(0x04) + inode.readUInt32LE(0x6c) * 2 ** 32,
      flags: inode.readUInt32LE(0x20),
      block: inode.subarray(0x28, 0x28 + 60),
    };
  }

  /** All of a file, directory or long link; the caller has looked at its size. */
  async content(inode: Inode): Promise<Buffer> {
    if ((inode.flags & inExtents) === 0) throw damaged('a file lies there without extents');
    this.#spend(inode.size);
    const content = Buffer.alloc(inode.size);
    for (const { from, length, at } of await this.#extents(inode.block)) {
      const start = from * this.#blockBytes;
      const bytes = Math.min(length * this.#blockBytes, inode.size - start);
      if (at === undefined || bytes <= 0) continue;
      content.set(await this.#read(at * this.#blockBytes, bytes), start);
    }
    return content;
  }

  async #extents(root: Buffer): Promise<Extent[]> {
    const found: Extent[] = [];
    const nodes: { node: Buffer; depth: number | undefined }[] = [{ node: root, depth: undefined }];
    for (let seen = 0; ; seen += 1) {
      const next = nodes.pop();
      if (!next) return found;
      if (seen > maxTreeBlocks) throw damaged('a file lies there in too many pieces');
      const { node } = next;
      const entries = node.readUInt16LE(2);
      const depth = node.readUInt16LE(6);
      if (node.readUInt16LE(0) !== extentMagic || 12 + entries * 12 > node.length || depth > maxDepth)
        throw damaged('a list of extents is damaged');
      if (next.depth !== undefined && depth !== next.depth)
        throw damaged('a list of extents has a wrong depth');
      for (let at = 12; at < 12 + entries * 12; at += 12) {
        if (depth === 0) found.push(extentAt(node, at));
        else {
          const block = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 2 ** 32;
          nodes.push({
            node: await this.#read(block * this.#blockBytes, this.#blockBytes),
            depth: depth - 1,
          });
        }
      }
    }
  }
}

function extentAt(node: Buffer, at: number): Extent {
  const length = node.readUInt16LE(at + 4);
  const written = length <= maxWrittenBlocks;
  return {
    from: node.readUInt32LE(at),
    length: written ? length : length - maxWrittenBlocks,
    at: written ? node.readUInt32LE(at + 8) + node.readUInt16LE(at + 6) * 2 ** 32 : undefined,
  };
}

/** Names and inodes of a directory's content. A tree of hashes looks like unused entries (ext4, "Hash Tree Directories"). */
export function* entriesOf(content: Buffer): Generator<{ readonly name: Buffer; readonly inode: number }> {
  for (let at = 0; at + 8 <= content.length;) {
    const inode = content.readUInt32LE(at);
    const length = content.readUInt16LE(at + 4);
    const nameBytes = content.readUInt8(at + 6);
    if (length < 8 || length % 4 !== 0 || 8 + nameBytes > length || at + length > content.length)
      throw damaged('a directory is damaged');
    if (inode !== 0) yield { name: content.subarray(at + 8, at + 8 + nameBytes), inode };
    at += length;
  }
}
