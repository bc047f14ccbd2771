/**
 * Empty ext4 file systems, made once per size and then written anew for each machine in a few
 * milliseconds: of a file system of 10 GiB only some hundred KiB are not zero, and only those are copied.
 *
 * Choices (mke2fs(8), ext4(5)):
 * - no journal: half the writes of every fsync. After a crash of the *host* (a killed daemon or keeper
 *   unmounts cleanly) `checkUpper` repairs it with e2fsck before the next start, which for a machine's
 *   disk takes well under a second. What a student had not synced may then be lost, as with a journal.
 * - no resize_inode: a machine's disk does not grow in place.
 * - no metadata_csum: then the owner of the two directories below can be set in the copied file itself,
 *   without mounting it.
 * - inode tables are taken as zero (the file is fresh and sparse), so the kernel has nothing to
 *   initialise later in the background, and the file stays sparse.
 * - no blocks reserved for root: inside, everybody may be root.
 */
import { chmod, chown, mkdir, open, readFile, rename, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { syscall, trySyscall } from '#host/syscalls.ts';
import { runCommand } from './command.ts';
import type { Layout } from './layout.ts';
import { openWorkspace } from './workspace.ts';

/** A piece of the file that is not zero. */
interface Run {
  readonly offset: number;
  readonly data: Uint8Array;
}

export interface Template {
  /** Length of the file system. */
  readonly bytes: number;
  readonly runs: readonly Run[];
  /** Where the inodes of `upper` and `work` lie. */
  readonly inodes: readonly number[];
}

const features =
  'none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,uninit_bg,dir_nlink,extra_isize';
const blockBytes = 4096;
const inodeBytes = 256;
/** Marks our two directories in the inode table; replaced in every copy. */
const markerId = 54_321;
/** ext4 with these options needs at least this to be of any use. */
export const minUpperBytes = 4 * 2 ** 20;
/** The template of a file system of this size has some 10 MiB. */
export const maxUpperBytes = 2 ** 40;
/** Part of the name in the cache: another layout, another name. */
const version = 1;

/** struct ext4_inode (fs/ext4/ext4.h): the owner is kept in two halves. */
const owner = { uidLow: 0x02, gidLow: 0x18, uidHigh: 0x78, gidHigh: 0x7a } as const;

const half = (value: number): Uint8Array => Uint8Array.of(value & 0xff, (value >>> 8) & 0xff);

/** Sets the owner in an inode; `at` is its offset in `image`. */
export function ownerPatches(at: number, uid: number, gid: number): { offset: number; data: Uint8Array }[] {
  return [
    { offset: at + owner.uidLow, data: half(uid) },
    { offset: at + owner.gidLow, data: half(gid) },
    { offset: at + owner.uidHigh, data: half(uid >>> 16) },
    { offset: at + owner.gidHigh, data: half(gid >>> 16) },
  ];
}

/** The inodes whose owner is the marker, in the inode table of the first group (ext4 disk layout). */
async function findMarked(image: string): Promise<number[]> {
  const file = await open(image, 'r');
  try {
    // Group descriptors follow the superblock; with blocks of 4 KiB they begin in block 1.
    const descriptor = Buffer.alloc(64);
    await file.read(descriptor, 0, descriptor.length, blockBytes);
    const table = (descriptor.readUInt32LE(0x08) + descriptor.readUInt32LE(0x28) * 2 ** 32) * blockBytes;
    const inodes = Buffer.alloc(16 * inodeBytes);
    await file.read(inodes, 0, inodes.length, table);
    const found: number[] = [];
    for (let at = 0; at < inodes.length; at += inodeBytes)
      if (inodes.readUInt16LE(at + owner.uidLow) === markerId) found.push(table + at);
    return found;
  } finally {
    await file.close();
  }
}

/** lseek(2). */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** The pieces that are not zero; the holes between them are never read. */
async function readRuns(image: string, bytes: number): Promise<Run[]> {
  const file = await open(image, 'r');
  try {
    const runs: Run[] = [];
    for (let at = 0; at < bytes;) {
      const from = trySyscall('lseek', file.fd, at, SEEK_DATA);
      if (from < 0) break; // ENXIO: only a hole is left
      const to = syscall('lseek', file.fd, from, SEEK_HOLE);
      const data = Buffer.alloc(to - from);
      await file.read(data, 0, data.length, from);
      runs.push(...trimZeros(from, data));
      at = to;
    }
    return runs;
  } finally {
    await file.close();
  }
}

/** Leaves out the blocks that are zero after all. */
function* trimZeros(offset: number, data: Buffer): Generator<Run, void, undefined> {
  const zero = Buffer.alloc(blockBytes);
  let from = 0;
  for (let at = 0; at <= data.length; at += blockBytes) {
    const block = data.subarray(at, at + blockBytes);
    if (block.length > 0 && !block.equals(zero.subarray(0, block.length))) continue;
    if (at > from) yield { offset: offset + from, data: data.subarray(from, at) };
    from = at + blockBytes;
  }
  if (from < data.length) yield { offset: offset + from, data: data.subarray(from) };
}

async function makeTemplate(layout: Layout, bytes: number, place: string): Promise<void> {
  await using workspace = await openWorkspace(layout.tmp, 'template');
  const content = join(workspace.directory, 'content');
  const image = join(workspace.directory, 'ext4');
  for (const [name, mode] of [
    ['upper', 0o755],
    ['work', 0o700],
  ] as const) {
    const directory = join(content, name);
    await mkdir(directory, { recursive: true });
    await chown(directory, markerId, markerId);
    await chmod(directory, mode);
  }
  await chmod(content, 0o755);
  await writeFile(image, '');
  await truncate(image, bytes);
  const argv = ['mkfs.ext4', '-q', '-F', '-b', `${blockBytes}`, '-I', `${inodeBytes}`, '-m', '0'];
  argv.push('-O', features, '-E', 'lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard,root_owner=0:0');
  argv.push('-d', content, image);
  await runCommand(argv, { ms: 60_000, lockFd: workspace.lockFd });
  const inodes = await findMarked(image);
  if (inodes.length !== 2)
    throw new CarrelError('helper_failed', `mkfs.ext4 made ${inodes.length} marked directories instead of 2`);
  const runs = await readRuns(image, bytes);
  const head = { bytes, inodes, runs: runs.map((run) => [run.offset, run.data.length]) };
  const made = join(workspace.directory, 'template');
  await writeFile(made, [`${JSON.stringify(head)}\n`, ...runs.map((run) => run.data)]);
  await rename(made, place);
}

const headSchema = z.strictObject({
  bytes: z.int().positive(),
  inodes: z.array(z.int().positive()).length(2),
  runs: z.array(z.tuple([z.int().nonnegative(), z.int().positive()])),
});

async function readTemplate(place: string): Promise<Template | undefined> {
  let content: Buffer;
  try {
    content = await readFile(place);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  let at = content.indexOf(10) + 1;
  const head = headSchema.parse(JSON.parse(content.toString('utf8', 0, at)));
  const runs = head.runs.map(([offset, length]) => {
    const data = content.subarray(at, at + length);
    at += length;
    return { offset, data };
  });
  if (at !== content.length) throw new CarrelError('internal', `${place} is damaged; remove it`);
  return { bytes: head.bytes, inodes: head.inodes, runs };
}

/** The template for a size, made if the cache has none. Two makers at once make the same. */
export async function openTemplate(layout: Layout, bytes: number): Promise<Template> {
  const place = join(layout.templates, `ext4-${version}-${bytes}`);
  const there = await readTemplate(place);
  if (there) return there;
  await makeTemplate(layout, bytes, place);
  const made = await readTemplate(place);
  if (!made) throw new CarrelError('internal', `${place} was removed while it was being made`);
  return made;
}

/** Writes a new sparse file system with `upper` and `work` owned by `uid` and `gid`. */
export async function writeFromTemplate(
  { bytes, runs, inodes }: Template,
  path: string,
  { uid, gid }: { uid: number; gid: number },
): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.truncate(bytes);
    const patches = inodes.flatMap((at) => ownerPatches(at, uid, gid));
    for (const { offset, data } of [...runs, ...patches]) await file.write(data, 0, data.length, offset);
  } finally {
    await file.close();
  }
}
