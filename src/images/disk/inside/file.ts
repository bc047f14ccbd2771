/** A file on a machine's disk, by its path: links are followed inside of that file system and never out of it. */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { readPartition, sectorBytes } from '../mbr.ts';
import { Ext4, entriesOf, fileKinds, type Inode } from './ext4.ts';
import type { DiskBytes } from './layers.ts';

const rootInode = 2;
/** As path_resolution(7) has it. */
const maxLinks = 40;
const maxLinkBytes = 4096;
/** A link's target that is shorter lies in the inode itself. */
const shortLinkBytes = 60;
const maxDirectoryBytes = 16 * 2 ** 20;

/** The file system of the disk's first partition, the only one of our images. Others are not read. */
export async function openRootOf(disk: DiskBytes): Promise<Ext4> {
  const partition = readPartition(await disk.read(0, sectorBytes));
  if (!partition)
    throw new CarrelError('validation_failed', 'the disk cannot be read: it has no table of partitions');
  return Ext4.open(disk, partition.firstSector * sectorBytes);
}

async function targetOf(system: Ext4, link: Inode): Promise<string> {
  if (link.size === 0 || link.size > maxLinkBytes)
    throw new CarrelError('validation_failed', 'the file system cannot be read: a link is damaged');
  const target = link.size < shortLinkBytes ? link.block.subarray(0, link.size) : await system.content(link);
  return target.toString('utf8');
}

async function childOf(system: Ext4, directory: Inode, name: string): Promise<number | undefined> {
  if (directory.size > maxDirectoryBytes)
    throw new CarrelError('invalid_request', `a directory is larger than ${formatSize(maxDirectoryBytes)}`);
  const wanted = Buffer.from(name);
  for (const { name: each, inode } of entriesOf(await system.content(directory)))
    if (wanted.equals(each)) return inode;
  return undefined;
}

const partsOf = (path: string): string[] => path.split('/').filter((part) => part !== '' && part !== '.');

async function lookUp(system: Ext4, path: string): Promise<Inode> {
  const way: Inode[] = [await system.inode(rootInode)];
  const parts = partsOf(path).toReversed();
  let links = 0;
  for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
    const here = way.at(-1);
    if (here?.kind !== fileKinds.directory)
      throw new CarrelError('invalid_request', `a part of ${path} is not a directory`);
    if (part === '..') {
      if (way.length > 1) way.pop();
      continue;
    }
    const number = await childOf(system, here, part);
    if (number === undefined) throw new CarrelError('not_found', `there is no file ${path} on the disk`);
    const inode = await system.inode(number);
    if (inode.kind !== fileKinds.link) {
      way.push(inode);
      continue;
    }
    links += 1;
    if (links > maxLinks) throw new CarrelError('invalid_request', `${path} goes through too many links`);
    const target = await targetOf(system, inode);
    if (target.startsWith('/')) way.splice(1);
    parts.push(...partsOf(target).toReversed());
  }
  return way.at(-1) ?? system.inode(rootInode);
}

/**
 * Reads a regular file. `not_found`, `too_large`, `invalid_request` (no regular file, or no way to it);
 * `validation_failed` when the file system is damaged.
 */
export async function readFileOnDisk(
  system: Ext4,
  path: string,
  { maxBytes }: { readonly maxBytes: number },
): Promise<{ readonly bytes: Uint8Array; readonly mode: number }> {
  system.refill();
  const inode = await lookUp(system, path);
  if (inode.kind === fileKinds.directory) throw new CarrelError('invalid_request', `${path} is a directory`);
  if (inode.kind !== fileKinds.regular)
    throw new CarrelError('invalid_request', `${path} is not a regular file`);
  if (inode.size > maxBytes)
    throw new CarrelError('too_large', `${path} is larger than ${formatSize(maxBytes)}`);
  return { bytes: inode.size === 0 ? new Uint8Array() : await system.content(inode), mode: inode.mode };
}
