/**
 * From a root directory to the disk of a virtual machine: an ext4 file system written by mke2fs itself, behind
 * a boot record and GRUB, as qcow2; kernel and RAM disk also beside it. Nothing is mounted or attached.
 */
import { truncate, writeFile } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { BuildContext, DebianBase } from '../bases.ts';
import { exitStatusOf, runCommand } from '../command.ts';
import { makeDirectories, resolveInRoot } from '../inroot.ts';
import { bootNames, contentNames } from '../layout.ts';
import type { RecipeDisk } from '../recipe.ts';
import { buildBootArea, grubConfig } from './grub.ts';
import { buildInitramfs } from './initramfs.ts';
import { directKernel, fetchKernel, installKernel } from './kernel.ts';
import { partitionOffset } from './mbr.ts';

/**
 * Choices (mke2fs(8), ext4(5)): a journal, because a machine's power may be cut; resize_inode, so that the root
 * can grow while it is mounted; no checksums of metadata, which an emulated processor would have to compute; and
 * only what GRUB 2.06 can read.
 */
const features =
  'none,has_journal,resize_inode,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,uninit_bg,dir_nlink,extra_isize';
const journalMiB = 16;
/** Of equal names one disk is told from another; nothing is found by it. */
const label = 'carrel';

export interface DiskRequest {
  /** The finished tree; kernel and boot loader's settings are added to it. */
  readonly root: string;
  readonly disk: RecipeDisk;
  readonly base: DebianBase;
  /** Empty; for what is made in between. */
  readonly scratch: string;
  /** Where disk, kernel and RAM disk come to lie. */
  readonly staged: string;
  /** Names the disk and its file system, so that equal trees give equal ones: any hash in hex. */
  readonly identity: string;
}

/** A UUID of version 8 (RFC 9562: "for experimental or vendor-specific use") out of a hash. */
function uuidOf(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  const variant = ((Number.parseInt(hex.slice(16, 17), 16) & 3) | 8).toString(16);
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    `${variant}${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ].join('-');
}

async function makeFileSystem(
  raw: string,
  { root, disk, identity }: DiskRequest,
  context: BuildContext,
): Promise<void> {
  await writeFile(raw, '');
  await truncate(raw, disk.size);
  const extended = [
    `offset=${partitionOffset}`,
    'lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard,root_owner=0:0',
    `hash_seed=${uuidOf(`hash ${identity}`)}`,
  ];
  const argv = ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-I', '256', '-m', '1', '-L', label];
  argv.push('-U', uuidOf(identity), '-O', features, '-J', `size=${journalMiB}`, '-E', extended.join(','));
  argv.push('-d', root, raw, `${(disk.size - partitionOffset) / 1024}k`);
  try {
    await runCommand(argv, { ms: 600_000, lockFd: context.lockFd, signal: context.signal });
  } catch (error) {
    if (exitStatusOf(error) === undefined || exitStatusOf(error) === 127) throw error;
    throw new CarrelError('helper_failed', `the root does not fit into a disk of ${formatSize(disk.size)}`, {
      hint: 'give the recipe a larger disk.size',
      cause: error,
    });
  }
}

async function writeAt(path: string, data: Uint8Array, offset: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.write(data, 0, data.length, offset);
  } finally {
    await file.close();
  }
}

/** Makes disk.qcow2, kernel and initrd in `staged`. */
export async function makeDisk(
  request: DiskRequest,
  context: BuildContext,
  next: (what: string) => void,
): Promise<void> {
  const { root, disk, base, scratch, staged, identity } = request;
  const { signal, lockFd } = context;
  next(`kernel ${disk.kernel}`);
  const kernel = await fetchKernel(disk, base, join(scratch, 'kernel'), context);
  const initramfs = await buildInitramfs(kernel);
  await installKernel(kernel, initramfs, disk, context);
  const grub = await resolveInRoot(root, '/boot/grub');
  await makeDirectories(grub);
  await writeFile(join(grub, 'grub.cfg'), grubConfig(disk.append));
  await writeFile(join(staged, bootNames.kernel), directKernel(kernel));
  await writeFile(join(staged, bootNames.initrd), initramfs);

  next('file system and boot loader');
  const raw = join(scratch, 'disk.raw');
  await makeFileSystem(raw, request, context);
  const signature = Number.parseInt(uuidOf(identity).slice(0, 8), 16);
  await writeAt(raw, await buildBootArea(scratch, { diskBytes: disk.size, signature, signal }), 0);
  const argv = ['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, join(staged, contentNames.disk)];
  await runCommand(argv, { ms: 600_000, lockFd, signal });
}
