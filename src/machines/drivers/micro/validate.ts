/** What can be refused before anything is made. */
import { availableParallelism } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { GuestMode, Image } from '#images/layout.ts';
import { kvmFor } from '#vmm/apart/device.ts';
import { gcc } from '#vmm/image/compile.ts';
import { windowBytes } from '#vmm/layout.ts';
import type { MachineRequest } from '../../driver.ts';
import { canCompile } from './compile.ts';
import { vcpusOf } from './spec.ts';

/** The mode of an image that is a guest. */
export function modeOf({ name, kind, guest }: Pick<Image, 'name' | 'kind' | 'guest'>): GuestMode {
  if (kind === 'guest' && guest) return guest.mode;
  throw new CarrelError('internal', `image ${name} is a ${kind}, and no guest`);
}

/** Refuses what is neither a guest nor has a compiler for one, a host that cannot run it, and limits that it cannot use. */
export async function validateMicro({ limits }: Pick<MachineRequest, 'limits'>, image: Image): Promise<void> {
  if (image.kind !== 'guest' && !canCompile(image))
    throw new CarrelError('validation_failed', `image ${image.name} has no ${gcc} to compile guests with`, {
      hint: 'choose debian-12; or make an image of one guest: carrel image import hello guests/examples/hello.c',
    });
  if (limits.cpus > availableParallelism())
    throw new CarrelError(
      'validation_failed',
      `${limits.cpus} processors are more than this host's ${availableParallelism()}`,
    );
  const vcpus = image.kind === 'guest' ? vcpusOf(limits) : 1;
  if (limits.memoryBytes < vcpus * windowBytes)
    throw new CarrelError(
      'validation_failed',
      `${vcpus} vCPUs have ${formatSize(vcpus * windowBytes)} of memory, more than ${formatSize(limits.memoryBytes)}`,
    );
  (await kvmFor(image.kind === 'guest' ? modeOf(image) : 'long', vcpus)).close(); // says why if it cannot be
}
