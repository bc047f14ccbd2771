/** Machines without rows: held by this process alone, switched off and on by it, and gone with it. */
import { join } from 'node:path';
import { unlessAborted } from '#base/deadline.ts';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Logger } from '#base/log.ts';
import { consoleName, type Driver, type MachineSpec, type RunningMachine } from '#machines/driver.ts';
import type { EarlySpec } from '#machines/templates/driver.ts';
import { freshContainer } from './fresh-container.ts';
import { freshVm } from './fresh-vm.ts';
import type { FreshMachine } from './machine.ts';

/**
 * All solutions of a lab get machines of one image and size: from the second one on they are copies of one that has
 * booted. The template lies beside the machines.
 */
export function createParking(
  log: Logger,
): (driver: Driver, spec: MachineSpec, signal: AbortSignal) => Promise<void> {
  const seen = new Map<string, Promise<unknown> | undefined>();
  return async (driver, spec, signal) => {
    const { templates } = driver;
    if (!templates) return;
    const key = await templates.keyOf(spec.image, spec.limits);
    if (!seen.has(key)) {
      seen.set(key, undefined);
      return;
    }
    const { image, limits, uidSlot } = spec;
    const id = newId('machine');
    const early = { id, directory: join(spec.directory, '..', id), image, limits, uidSlot };
    const parking = seen.get(key) ?? parkOnce(driver, early, { signal, log });
    seen.set(key, parking);
    try {
      await parking;
    } catch (error) {
      // broken off with the work of the one who asked for it: the next one does it
      if (seen.get(key) === parking) seen.set(key, undefined);
      throw error;
    }
  };
}

/** Without a template the machines boot, each by itself: a failure costs time and no more, and somebody should know. */
async function parkOnce(
  driver: Driver,
  early: EarlySpec,
  { signal, log }: { readonly signal: AbortSignal; readonly log: Logger },
): Promise<void> {
  try {
    await driver.templates?.park(early, { signal, step: () => undefined });
  } catch (error) {
    signal.throwIfAborted();
    log.warn('no machine could be parked, so all of them boot', {
      image: early.image,
      error: messageOf(error),
    });
  } finally {
    await driver.sweep(early.id);
  }
}

/** A machine that can be switched off and on. */
export interface Held extends AsyncDisposable {
  running(): RunningMachine | undefined;
  stop(options: { graceMs: number }): Promise<void>;
  start(options: { limitMs: number; signal: AbortSignal }): Promise<boolean>;
}

export async function startHeld(driver: Driver, spec: MachineSpec): Promise<Held> {
  let current: RunningMachine | undefined = await driver.start(spec);
  const stop: Held['stop'] = async ({ graceMs }) => {
    const ending = current;
    current = undefined;
    try {
      await ending?.stop({ graceMs });
    } finally {
      ending?.release();
      await driver.tidy(spec);
    }
  };
  return {
    running: () => current,
    stop,
    async start({ limitMs, signal }) {
      signal.throwIfAborted();
      current = await driver.start(spec);
      return answers(current, { limitMs, signal });
    },
    [Symbol.asyncDispose]: () => stop({ graceMs: 0 }),
  };
}

/** Does it answer within the time? */
async function answers(
  machine: RunningMachine,
  { limitMs, signal }: { readonly limitMs: number; readonly signal: AbortSignal },
): Promise<boolean> {
  try {
    await unlessAborted(signal, machine.ready({ limitMs }));
    return true;
  } catch (error) {
    if (!isCarrelError(error, 'deadline_exceeded')) throw error;
    return false;
  }
}

export function freshMachine(driver: Driver, spec: MachineSpec, held: Held): FreshMachine {
  const { id } = spec;
  const { address } = spec.network;
  const machine = held.running();
  if (!machine) throw new CarrelError('machine_lost', 'the machine ended as soon as it was made');
  if (driver.name === 'qemu')
    return freshVm({
      ...held,
      id,
      address,
      console: () => driver.openExec(spec, consoleName),
      lastEnd: () => driver.lastEnd(spec),
      async readDisk(path, options) {
        if (!driver.readDisk) throw new CarrelError('internal', 'this driver reads no disks');
        return driver.readDisk(spec, path, options);
      },
    });
  return freshContainer({
    id,
    address,
    process: machine.process,
    run: (request, options) => machine.run(request, options),
    writeFile: (path, bytes, options) => machine.writeFile(path, bytes, options),
  });
}
