/** What can be refused before anything is made. */
import { availableParallelism } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { GuestMode, Image } from '#images/layout.ts';
import { openKvmDevice } from '#kvm/kvm.ts';
import { windowBytes } from '#vmm/layout.ts';
import { requireMode } from '#vmm/modes/require.ts';
import type { MachineRequest } from '../../driver.ts';
import { vcpusOf } from './spec.ts';

/** The mode of an image that is a guest. */
export function modeOf({ name, kind, guest }: Pick<Image, 'name' | 'kind' | 'guest'>): GuestMode {
  if (kind === 'guest' && guest) return guest.mode;
  throw new CarrelError(
    'validation_failed',
    `image ${name} is a ${kind}: this machine runs a guest of the hypervisor`,
    {
      hint: 'make one: carrel image import hello guests/examples/hello.c',
    },
  );
}

/** Refuses an image that is no guest, a host that cannot run it, and limits that it cannot use. */
export async function validateMicro({ limits }: Pick<MachineRequest, 'limits'>, image: Image): Promise<void> {
  const mode = modeOf(image);
  if (limits.cpus > availableParallelism())
    throw new CarrelError(
      'validation_failed',
      `${limits.cpus} processors are more than this host's ${availableParallelism()}`,
    );
  const vcpus = vcpusOf(limits);
  if (limits.memoryBytes < vcpus * windowBytes)
    throw new CarrelError(
      'validation_failed',
      `${vcpus} vCPUs have ${formatSize(vcpus * windowBytes)} of memory, more than ${formatSize(limits.memoryBytes)}`,
    );
  openKvmDevice().close(); // says why if it cannot be used
  await requireMode(mode, vcpus);
}
