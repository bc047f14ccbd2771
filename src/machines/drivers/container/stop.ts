/** The end: orderly if there is time, then by force; and what a container leaves behind. */
import { rm } from 'node:fs/promises';
import { until, within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { isLocked, readLockNote } from '#host/flock.ts';
import { signalProcess } from '#host/processes.ts';
import { containerPaths, type Keeper, releaseContainer } from '#isolate/machine.ts';
import type { MachineSpec } from '../../driver.ts';
import type { DriverHost } from '../table.ts';

/** After init has ended the keeper writes its report, unmounts and goes. */
const keeperEndMs = 10_000;
/** A keeper that has not gone this long after its machine was killed does not go by itself. */
const keeperGraceMs = 2000;

/** Ends the container; resolves when its keeper is gone too, so that it may be started again at once. */
export async function stopContainer(
  keeper: Keeper,
  directory: string,
  { graceMs }: { graceMs: number },
): Promise<void> {
  if (graceMs > 0) {
    keeper.powerOff();
    try {
      await within(graceMs, 'the machine to power off', keeper.ended());
    } catch (error) {
      if (!isCarrelError(error, 'deadline_exceeded')) throw error;
      await keeper.kill();
    }
  } else await keeper.kill();
  await keeperEnd(directory);
}

/**
 * For a container whose keeper does not answer: its control groups say which processes are its own. With its
 * first process gone the keeper ends by itself.
 */
export async function killContainer(
  { id, directory }: Pick<MachineSpec, 'id' | 'directory'>,
  { instance }: DriverHost,
): Promise<void> {
  await releaseContainer(instance, id);
  try {
    await keeperEnd(directory, keeperGraceMs);
  } catch (error) {
    if (!isCarrelError(error, 'deadline_exceeded')) throw error;
    // it hangs, or was stopped: its lock tells who it is
    const [pid = '', startTime = ''] = (readLockNote(containerPaths(directory).lock) ?? '').trim().split(' ');
    if (/^\d+$/.test(pid) && /^\d+$/.test(startTime))
      signalProcess({ pid: Number(pid), startTime }, 'SIGKILL');
    await keeperEnd(directory);
  }
}

async function keeperEnd(directory: string, ms = keeperEndMs): Promise<void> {
  const { lock } = containerPaths(directory);
  await until(ms, 'the keeper to end', () => (isLocked(lock) ? undefined : true), { everyMs: 2 });
}

/** The link and the control groups, with whatever is in them. */
export async function tidyContainer(
  { id }: Pick<MachineSpec, 'id'>,
  { fabric, instance }: DriverHost,
): Promise<void> {
  await Promise.all([fabric.unplug(id), releaseContainer(instance, id)]);
}

/** The disk. The machine is stopped and tidied. */
export async function removeDisk(
  spec: Pick<MachineSpec, 'directory' | 'image'>,
  { images }: DriverHost,
): Promise<void> {
  await rm(spec.directory, { recursive: true, force: true });
  await images.release(spec.image, spec.directory);
}
