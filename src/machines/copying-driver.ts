/**
 * For tests: containers whose disks can be copied. What the service does about snapshots and copies is tried out with
 * it many times a second, and killed in between; virtual machines would take minutes for that.
 */
import { copyFileSync, constants, existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import type { Driver, MachineSpec } from './driver.ts';
import { createDrivers, type DriverHost, type Drivers } from './drivers/table.ts';

const disk = (directory: string): string => join(directory, 'upper.img');
const kept = (directory: string, snapshot: string): string => join(directory, 'kept', `${snapshot}.img`);

/** Whole or not at all, with time enough to be killed in the middle. */
async function copy(from: string, to: string): Promise<void> {
  if (!existsSync(from)) throw new CarrelError('internal', `there is no ${from}`);
  copyFileSync(from, `${to}.part`, constants.COPYFILE_FICLONE);
  await sleep(10);
  renameSync(`${to}.part`, to);
}

/** All kinds of machines, and containers that have snapshots and copies. */
export function copyingDrivers(host: DriverHost): Drivers {
  const drivers = createDrivers(host);
  return { ...drivers, container: withCopies(drivers.container) };
}

function withCopies(driver: Driver): Driver {
  return {
    ...driver,
    capabilities: { ...driver.capabilities, snapshot: true, clone: true },
    async prepare(spec, options) {
      await driver.prepare(spec, options);
      if (!spec.source) return;
      const { directory, snapshot } = spec.source;
      await copy(snapshot === null ? disk(directory) : kept(directory, snapshot), disk(spec.directory));
    },
    async snapshot({ directory }: MachineSpec, snapshot) {
      mkdirSync(join(directory, 'kept'), { recursive: true });
      await copy(disk(directory), kept(directory, snapshot));
      return { bytes: statSync(kept(directory, snapshot)).blocks * 512 };
    },
    restore: ({ directory }, snapshot) => copy(kept(directory, snapshot), disk(directory)),
    async dropSnapshot({ directory }, snapshot) {
      rmSync(kept(directory, snapshot), { force: true });
      await sleep(5);
    },
  };
}
