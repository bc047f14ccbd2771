/** Where the files of a micro-machine lie, and what it may use. */
import { join } from 'node:path';
import type { Limits } from '#contract/schemas/machines.ts';
import { windowBytes } from '#vmm/layout.ts';
import type { MachineSpec } from '../../driver.ts';
import { uidBaseOf } from '../ids.ts';

const MiB = 2 ** 20;

/** Node and the VMM beside the guest's memory, measured: some 100 MiB. */
const ownBytes = 256 * MiB;
/** Node's threads, and one for each vCPU. */
const ownThreads = 48;
/** Of text, from all vCPUs together; a byte is up to six in JSON, and the daemon reads the report whole. */
export const outputBytes = MiB;
const bytesOfOne = 6;
/** What a guest may add to the machine's files in one run. */
export const runBytes = 16 * MiB;
/** Files and directories that a machine may have. */
export const shareFiles = 1000;
/** Each runs the whole guest, in a memory of its own. */
export const mostRunVcpus = 16;
/** A guest has no clock to wait by: what runs for so long is stuck. */
export const runLimitMs = 3_600_000;

export interface MicroPaths {
  /** What the machine's process is told; see vmm/apart/order.ts. */
  readonly order: string;
  /** What it says, line by line: that it has begun, then its report. */
  readonly report: string;
  /** What it runs unless its image is a guest; see run.ts. */
  readonly guest: string;
  /** How it runs that. */
  readonly run: string;
  /** Its files: see share.ts. */
  readonly share: string;
  /** Of the compiler that works for it now. */
  readonly scratch: string;
  /** Where the root file system of its jail is put together. */
  readonly root: string;
}

export function microPaths(directory: string): MicroPaths {
  return {
    order: join(directory, 'order.json'),
    report: join(directory, 'report.json'),
    guest: join(directory, 'guest.elf'),
    run: join(directory, 'run.json'),
    share: join(directory, 'share'),
    scratch: join(directory, 'scratch'),
    root: join(directory, 'root'),
  };
}

/** As many as there are cores, for a guest of which nothing else was said. */
export const vcpusOf = ({ cpus }: Pick<Limits, 'cpus'>): number =>
  Math.min(mostRunVcpus, Math.max(1, Math.ceil(cpus)));

/** Who the process is outside: not the user whose block of ids it is, whom nothing maps to root here. */
export const jailUid = (spec: Pick<MachineSpec, 'uidSlot'>): number => uidBaseOf(spec) + 1;

/** The limits of the control group. `memoryBytes` of a machine is its guests'. */
export function groupLimits(
  { cpus }: Pick<Limits, 'cpus'>,
  vcpus: number,
): {
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly processes: number;
} {
  return {
    cpus,
    memoryBytes: ownBytes + vcpus * windowBytes,
    processes: ownThreads + vcpus,
  };
}

/** Length of the longest file that the process may write: its report, or what a guest writes. */
export const fileBytes = Math.max(runBytes, MiB + outputBytes * bytesOfOne);
