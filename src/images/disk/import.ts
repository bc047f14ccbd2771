/**
 * A disk made elsewhere becomes an image: received whole, its hash verified, its header read by us, then written
 * anew by a confined qemu-img. What others wrote into a qcow2 file never gets near a machine's QEMU.
 */
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { Chunks } from '../archive/bytes.ts';
import type { BuildProgress } from '../build.ts';
import { type Image, type Layout, contentNames } from '../layout.ts';
import { type Described, publish, stageImage } from '../publish.ts';
import { openWorkspace } from '../workspace.ts';
import { type DiskFormat, convertDisk } from './convert.ts';
import { readQcow2 } from './head.ts';
import { type ReceiveLimits, receiveFile } from './receive.ts';

export interface DiskLimits extends ReceiveLimits {
  /** Of the disk as a machine sees it. */
  readonly virtualBytes: number;
}

const GiB = 2 ** 30;

/** The cloud images of distributions have 2 to 10 GiB, of which one is filled. */
export const diskLimits: DiskLimits = { fileBytes: 64 * GiB, storedBytes: 16 * GiB, virtualBytes: 64 * GiB };

export interface DiskImport {
  readonly described: Omit<Described, 'kind' | 'recipeHash' | 'disk'>;
  readonly format: DiskFormat;
  readonly source: Chunks;
  readonly sha256: string | undefined;
  readonly limits?: DiskLimits;
  readonly onProgress?: ((progress: BuildProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How long the disk is for a machine; refuses what we do not take. */
async function inspect(
  path: string,
  format: DiskFormat,
  fileBytes: number,
  limits: DiskLimits,
): Promise<number> {
  if (format === 'qcow2') return (await readQcow2(path, limits)).virtualBytes;
  if (fileBytes === 0 || fileBytes % 512 !== 0)
    throw new CarrelError(
      'validation_failed',
      `A raw disk has whole sectors of 512 bytes; this one has ${fileBytes} bytes`,
    );
  if (fileBytes > limits.virtualBytes)
    throw new CarrelError('too_large', `The disk is larger than ${formatSize(limits.virtualBytes)}`);
  return fileBytes;
}

/** Imports a disk; nothing is left behind when it is refused. It boots by its own boot loader. */
export async function importDisk(layout: Layout, request: DiskImport): Promise<Image> {
  const { format, source, sha256, limits = diskLimits, onProgress, signal, described } = request;
  await using workspace = await openWorkspace(layout.tmp, 'import');
  const directory = join(workspace.directory, 'convert');
  await mkdir(directory, { mode: 0o700 });
  onProgress?.({ step: 1, of: 3, what: 'receive' });
  const input = join(directory, 'input');
  const fileBytes = await receiveFile(input, source, { limits, sha256, signal });
  const virtualBytes = await inspect(input, format, fileBytes, limits);
  onProgress?.({ step: 2, of: 3, what: 'write it anew' });
  await convertDisk({
    directory,
    from: { name: 'input', format },
    to: { name: 'output', format: 'qcow2' },
    fileBytes: limits.storedBytes,
    signal,
  });
  onProgress?.({ step: 3, of: 3, what: 'hash and publish' });
  const staged = await stageImage(workspace.directory);
  await rename(join(directory, 'output'), join(staged, contentNames.disk));
  const made: Described = { ...described, kind: 'disk', recipeHash: null };
  made.disk = { virtualBytes, boot: null, agent: false };
  // Awaited here: the workspace goes when this function is left.
  return await publish(layout, workspace.directory, made, { signal });
}
