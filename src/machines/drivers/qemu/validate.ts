/** What can be refused before anything is made. */
import { availableParallelism, totalmem } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { Image } from '#images/layout.ts';
import type { MachineRequest } from '../../driver.ts';
import { minMemoryBytes } from './spec.ts';

function refuse(message: string, hint?: string): never {
  throw new CarrelError('validation_failed', message, hint === undefined ? {} : { hint });
}

/** Refuses an image that is no disk, a disk smaller than its image, and limits that this host cannot give. */
export function validateVm({ limits }: Pick<MachineRequest, 'limits'>, image: Image): void {
  const { cpus, memoryBytes, diskBytes } = limits;
  if (image.kind !== 'disk' || !image.disk)
    return refuse(
      `image ${image.name} is a ${image.kind}: a virtual machine needs a disk`,
      'choose another image, see: carrel image ls',
    );
  const { virtualBytes } = image.disk;
  if (diskBytes < virtualBytes)
    return refuse(
      `disk size ${formatSize(diskBytes)} is smaller than the template's ${formatSize(virtualBytes)}`,
    );
  if (memoryBytes < minMemoryBytes)
    return refuse(`a virtual machine has at least ${formatSize(minMemoryBytes)} of memory`);
  if (memoryBytes > totalmem())
    return refuse(`${formatSize(memoryBytes)} of memory are more than this host's ${formatSize(totalmem())}`);
  if (cpus > availableParallelism())
    return refuse(`${cpus} processors are more than this host's ${availableParallelism()}`);
}
