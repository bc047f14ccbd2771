/** A container's facts: where its files lie, and what it is to become. */
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Images } from '#images/store.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { ContainerSpec } from '#isolate/machine.ts';
import type { MachineSpec } from '../../driver.ts';
import { uidBaseOf } from '../ids.ts';

/** The writable layer, as `prepareUpper` makes it: one or the other exists. */
export function upperPaths(directory: string): { readonly image: string; readonly tree: string } {
  return { image: join(directory, 'upper.img'), tree: join(directory, 'upper') };
}

/** What the isolation runtime is asked for. */
export async function containerSpec(
  spec: MachineSpec,
  upper: ContainerSpec['upper'],
  { images, fabric }: { images: Images; fabric: Fabric },
): Promise<ContainerSpec> {
  const image = await images.find(spec.image);
  if (!image)
    throw new CarrelError(
      'not_found',
      `the image that machine ${spec.name} was made of is not there any more`,
      {
        hint: 'import or build the same image again, or make a new machine',
        details: { hash: spec.image },
      },
    );
  const { name, address, prefix, gateway, mac, bytesPerSecond } = spec.network;
  const { cpus, memoryBytes, processes } = spec.limits;
  return {
    id: spec.id,
    hostname: spec.name,
    directory: spec.directory,
    lower: image.path,
    upper,
    uidBase: uidBaseOf(spec),
    init: [],
    limits: { cpus, memoryBytes, processes },
    network: {
      plug: (pid) =>
        fabric.plug({
          machineId: spec.id,
          pid,
          network: name,
          address,
          mac,
          owner: spec.ownerId,
          bytesPerSecond,
          configure: false,
        }),
      address,
      prefix,
      gateway,
      mac,
    },
  };
}
