/** What can be refused before anything is made. */
import { availableParallelism, totalmem } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { Image } from '#images/layout.ts';
import { minUpperBytes } from '#images/template.ts';
import type { MachineRequest } from '../../driver.ts';

/** Refuses an image that is no root file system, and limits that this host cannot give or keep. */
export function validateContainer({ limits }: Pick<MachineRequest, 'limits'>, image: Image): void {
  if (image.kind !== 'rootfs')
    throw new CarrelError(
      'validation_failed',
      `image ${image.name} is a ${image.kind}: a container needs a root file system`,
      {
        hint: 'choose another image, see: carrel image ls',
      },
    );
  if (limits.cpus > availableParallelism())
    throw new CarrelError(
      'validation_failed',
      `${limits.cpus} processors are more than this host's ${availableParallelism()}`,
    );
  if (limits.memoryBytes > totalmem())
    throw new CarrelError(
      'validation_failed',
      `${formatSize(limits.memoryBytes)} of memory are more than this host's ${formatSize(totalmem())}`,
    );
  if (limits.diskBytes < minUpperBytes)
    throw new CarrelError('validation_failed', `a disk has at least ${formatSize(minUpperBytes)}`);
}
