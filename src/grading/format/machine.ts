/** The machine of a lab: what kind, how large, and what can be seen of it from outside. */
import { z } from 'zod';
import type { Limits as MachineLimits } from '#contract/schemas/machines.ts';
import { size } from './fields.ts';
import { type ObserveSpec, observations } from './kinds.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;

export const labDriver = z.enum(['container', 'qemu', 'micro']);
export type LabDriver = z.infer<typeof labDriver>;
/** What submissions may be graded in; a guest is graded by a check of its own kind. */
export type GradingDriver = Exclude<LabDriver, 'micro'>;

/** Copies of one lab that may wait; each holds memory and a process of the host. */
export const maxReady = 8;
const defaultReady = 1;

export const machineFields = z
  .strictObject({
    driver: labDriver.default('container'),
    cpus: z.number().min(0.1).max(16).optional(),
    memory: size(16 * GiB, '16 GiB', 16 * MiB).optional(),
    disk: size(64 * GiB, '64 GiB', 8 * MiB).optional(),
    /** Copies that wait for students, unless the release says otherwise. */
    ready: z.int().min(0).max(maxReady).optional(),
  })
  .superRefine(({ driver, memory, disk, ready }, context) => {
    if (driver !== 'qemu' && ready !== undefined)
      context.addIssue({
        code: 'custom',
        path: ['ready'],
        message: `is for virtual machines: a ${driver === 'micro' ? 'guest' : 'container'} starts at once`,
      });
    if (driver === 'qemu' && memory !== undefined && memory < 64 * MiB)
      context.addIssue({
        code: 'custom',
        path: ['memory'],
        message: 'is too small: a virtual machine needs 64M',
      });
    if (driver === 'qemu' && disk !== undefined && disk < 2 * GiB)
      context.addIssue({
        code: 'custom',
        path: ['disk'],
        message:
          'is too small: a copy of a parked machine has its disk, of 2G; what is not written takes no room',
      });
  });
export type MachineFields = z.infer<typeof machineFields>;

export interface LabMachine {
  readonly driver: LabDriver;
  /** What differs from the limits of other machines. */
  readonly limits: Partial<Pick<MachineLimits, 'cpus' | 'memoryBytes' | 'diskBytes'>>;
  /** Copies that wait. */
  readonly ready: number;
}

export function resolveMachine(fields: MachineFields | undefined): LabMachine {
  const { driver, cpus, memory, disk, ready } = fields ?? machineFields.parse({});
  return {
    driver,
    limits: {
      ...(cpus !== undefined && { cpus }),
      ...(memory !== undefined && { memoryBytes: memory }),
      ...(disk !== undefined && { diskBytes: disk }),
    },
    ready: ready ?? (driver === 'qemu' ? defaultReady : 0),
  };
}

export type Observation = (typeof observations)[number];
type Refusals = Readonly<Partial<Record<Observation, string>>>;

const insideVm =
  'is known to the kernel in the virtual machine only, and its root, the student, could make it say anything: look from outside, with listen, ping, console or file';

/** What cannot be seen of a kind of machine, and why. */
const refusals: Readonly<Record<GradingDriver, Refusals>> = {
  container: { console: 'is for virtual machines: a container has no serial line' },
  qemu: {
    process: insideVm,
    interface: insideVm,
    mounts: insideVm,
  },
};

/** Looks at the disk of a machine that has been switched off. */
export const needsPowerOff = (driver: GradingDriver, observe: ObserveSpec): boolean =>
  driver === 'qemu' && observe.file !== undefined;

/** Why this cannot be observed of such a machine: the field and what is wrong with it. */
export function refusalOf(
  driver: GradingDriver,
  observe: ObserveSpec,
): { readonly field: Observation; readonly message: string } | undefined {
  const field = observations.find((each) => observe[each] !== undefined);
  const message = field && refusals[driver][field];
  if (field && message !== undefined) return { field, message };
  if (!observe.ping) return undefined;
  const { address, from } = observe.ping;
  if (driver === 'container' && address === undefined)
    return { field: 'ping', message: 'needs an address: a container’s own network is ours to ask' };
  if (driver === 'qemu' && (address !== undefined || from !== undefined))
    return {
      field: 'ping',
      message: 'asks a virtual machine at its own address, from outside: leave address and from out',
    };
  return undefined;
}
