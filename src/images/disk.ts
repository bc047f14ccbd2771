/**
 * The disk of a machine: an empty layer over an image that all share, and what is done to such chains. All layers
 * are qcow2 by statement; the lowest one is an image, which nobody writes.
 */
import { copyFile, constants, stat } from 'node:fs/promises';
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { launch } from '#host/launch.ts';
import { writeOverlay } from './disk/overlay.ts';
import type { Image } from './layout.ts';

/** What a machine's disk must have at least; null for what is no disk. */
const minimumOf = ({ disk }: Pick<Image, 'disk'>): number | null => disk?.virtualBytes ?? null;

/**
 * Refuses, before any work, a disk that is shorter than the image: its end would be cut off. Lengths are whole
 * sectors of 512 bytes.
 */
export function requireDiskSize(image: Pick<Image, 'name' | 'kind' | 'disk'>, bytes: number): void {
  const minimum = minimumOf(image);
  if (minimum === null)
    throw new CarrelError('driver_unsupported', `image ${image.name} is a ${image.kind}, not a disk`, {
      hint: 'list images with: carrel image ls',
    });
  if (bytes < minimum)
    throw new CarrelError(
      'validation_failed',
      `a disk of ${formatSize(bytes)} is too small for ${image.name}`,
      {
        hint: `it needs at least ${formatSize(minimum)}`,
        details: { minimum, found: bytes },
      },
    );
}

/** Makes `path`, a machine's own disk over the image; it grows when it is written. Takes a millisecond. */
export async function createDisk(image: Image, path: string, bytes: number): Promise<void> {
  requireDiskSize(image, bytes);
  await writeOverlay(path, { backing: image.path, bytes: Math.ceil(bytes / 512) * 512 });
}

/**
 * Copies one layer as it is, sharing its blocks where the file system can (FICLONE); what it lies on stays what it
 * says. No machine may be writing it.
 */
export async function copyLayer(from: string, to: string): Promise<void> {
  await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
}

/** What a layer holds on the host's disk by itself, in bytes. */
export async function layerBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}

const checkReport = z.object({
  corruptions: z.int().nonnegative().default(0),
  leaks: z.int().nonnegative().default(0),
  'check-errors': z.int().nonnegative().default(0),
});

/** As long as a look at the tables of a large disk may take. */
const checkMs = 120_000;

/**
 * Looks at a layer's tables (qemu-img(1), check). `leaked`: it is whole, and holds blocks that nobody uses, as after
 * a power cut. Throws `machine_lost` when it is corrupt. No machine may be writing it.
 */
export async function checkDisk(path: string): Promise<'clean' | 'leaked'> {
  const argv = ['qemu-img', 'check', '--output=json', '-f', 'qcow2', path] as const;
  const { status, stdout, stderr, timedOut } = await launch(argv, { timeoutMs: checkMs });
  // 0: consistent, 2: corrupted, 3: leaks; 1: it could not be checked.
  if (timedOut || (status !== 0 && status !== 2 && status !== 3))
    throw new CarrelError(
      'helper_failed',
      `${path} cannot be checked: ${stderr.toString('utf8').trim().slice(0, 500)}`,
    );
  const report = checkReport.parse(JSON.parse(stdout.toString('utf8')));
  if (report.corruptions > 0 || report['check-errors'] > 0)
    throw new CarrelError('machine_lost', `the machine's disk ${path} is damaged`, {
      hint: 'go back to a snapshot, or reset the machine: its image is untouched',
      details: report,
    });
  return report.leaks > 0 ? 'leaked' : 'clean';
}
