/** A file on the disk of a machine that is off: read by our own code, which the machine's users have no part in. */
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { isLocked } from '#host/flock.ts';
import { openRootOf, readFileOnDisk } from '#images/disk/inside/file.ts';
import { openLayers } from '#images/disk/inside/layers.ts';
import { keptPaths } from '#isolate/kept.ts';
import type { FileRead } from '../../../driver.ts';
import { openDisk } from './disk.ts';
import { layerPath } from './files.ts';

/** `not_found` is a word about the file. That there is no disk is none, or it would pass for a file that is not there. */
export function missing(error: unknown): never {
  if (!isCarrelError(error, 'not_found')) throw error;
  throw new CarrelError('machine_lost', error.message, { cause: error });
}

/**
 * The first partition, which must be ext4, as the machine left it. `wrong_state` while it runs, and when it was not
 * shut down in order: what it wrote last may then not be where it belongs.
 */
export async function readStopped(
  { directory, image }: { readonly directory: string; readonly image: string },
  path: string,
  options: { readonly maxBytes: number },
): Promise<FileRead> {
  if (isLocked(keptPaths(directory).lock))
    throw new CarrelError('wrong_state', 'the disk of a machine that runs is not read', {
      hint: 'stop it first',
    });
  const layers = await openDisk(directory).catch(missing);
  await using disk = await openLayers([image, ...layers.map((layer) => layerPath(directory, layer))]);
  return await readFileOnDisk(await openRootOf(disk), path, options);
}
