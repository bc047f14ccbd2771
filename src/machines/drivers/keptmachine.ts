/** The parts of a driver, and of a running machine, that are the same for all that hang off a keeper and have no disk to copy. */
import { join } from 'node:path';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import type { GroupUsage } from '#isolate/cgroups/group.ts';
import { type Kept, machineGroup } from '#isolate/kept.ts';
import type { DriverName } from '#contract/schemas/machines.ts';
import {
  type Capability,
  type Driver,
  type MachineSpec,
  type RunningMachine,
  unsupported,
} from '../driver.ts';
import { isFrozen, killKept, removeDirectory, tidyKept, tracesOf } from './kept.ts';
import type { DriverHost } from './table.ts';

/** What refuses by name. */
export const refuse = (driver: DriverName, capability: Capability) => async (): Promise<never> => {
  throw unsupported(driver, capability);
};

type KeptDriver = Pick<
  Driver,
  'kill' | 'tidy' | 'remove' | 'snapshot' | 'restore' | 'dropSnapshot' | 'traces' | 'sweep'
>;

export function keptDriver(name: DriverName, host: DriverHost): KeptDriver {
  return {
    kill: (spec) => killKept(spec, host),
    tidy: (spec) => tidyKept(spec, host),
    async remove(spec) {
      await tidyKept(spec, host);
      await removeDirectory(spec, host);
    },
    snapshot: refuse(name, 'snapshot'),
    restore: refuse(name, 'snapshot'),
    dropSnapshot: refuse(name, 'snapshot'),
    traces: async () => tracesOf(host),
    async sweep(id) {
      const directory = join(host.directory, id);
      await killKept({ id, directory }, host);
      await tidyKept({ id }, host);
      await removeDirectory({ directory, image: '' }, host);
    },
  };
}

type KeptMachine = Pick<
  RunningMachine,
  'process' | 'stop' | 'pause' | 'resume' | 'isPaused' | 'isStalled' | 'release'
> & {
  /** Of its control groups. */
  readonly usage: () => GroupUsage;
};

/** `end` stops it in its own way; it is not frozen then. */
export function keptMachine(
  kept: Kept,
  { id }: Pick<MachineSpec, 'id'>,
  { instance }: Pick<DriverHost, 'instance'>,
  end: RunningMachine['stop'],
): KeptMachine {
  const layout = readCgroupLayout();
  const group = machineGroup(instance, id, layout);
  let frozen = isFrozen(layout, group.path);
  const thaw = async (): Promise<void> => {
    await group.freeze(false);
    frozen = false;
  };
  kept.console.onOutput(() => undefined); // what is said there is recorded; nobody waits for it here
  return {
    process: { pid: kept.initPid, startTime: kept.initStartTime },
    async stop(options) {
      if (frozen) await thaw(); // the frozen hear no signal
      await end(options);
    },
    async pause() {
      await group.freeze(true);
      frozen = true;
    },
    resume: thaw,
    isPaused: () => frozen,
    isStalled: () => Promise.resolve(false), // a write that finds no room is told so
    usage: () => group.usage(),
    release: () => kept.close(),
  };
}
