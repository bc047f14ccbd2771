/** The disk, and the start. Both may be repeated: what an earlier attempt left is used or replaced. */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { attachLoop } from '#host/loop.ts';
import { checkUpper, type Cloner } from '#images/clone.ts';
import { type Keeper, startContainer } from '#isolate/machine.ts';
import type { MachineSpec } from '../../driver.ts';
import type { DriverHost } from '../table.ts';
import { uidBaseOf } from '../ids.ts';
import { containerSpec, upperPaths } from './spec.ts';

export interface StartParts extends DriverHost {
  readonly cloner: Cloner;
  /** See warm.ts. */
  readonly warm: () => void;
}

/** Makes the machine's directory and its empty writable layer; an earlier layer is replaced. */
export async function prepareContainer(
  spec: MachineSpec,
  { images, cloner, warm }: StartParts,
): Promise<void> {
  warm();
  await mkdir(spec.directory, { recursive: true, mode: 0o700 });
  await Promise.all([
    images.hold(spec.image, spec.directory),
    cloner.prepareUpper({
      directory: spec.directory,
      bytes: spec.limits.diskBytes,
      uidBase: uidBaseOf(spec),
    }),
  ]);
}

/** Starts the container; `wrong_state` when its keeper lives already. */
export async function startPrepared(spec: MachineSpec, parts: StartParts): Promise<Keeper> {
  parts.warm();
  const { image, tree } = upperPaths(spec.directory);
  if (!existsSync(image) && !existsSync(tree)) await prepareContainer(spec, parts);
  const { server, instance } = parts;
  if (existsSync(image)) {
    await checkUpper(image);
    // held until it is mounted; afterwards the mount keeps it, and lets go of it
    using loop = attachLoop(image);
    const container = await containerSpec(spec, { kind: 'loop', device: loop.path }, parts);
    return await startContainer(server, container, { instance });
  }
  return startContainer(server, await containerSpec(spec, { kind: 'directory', path: tree }, parts), {
    instance,
  });
}
