/** Where the files of a micro-machine lie, and what it may use. */
import { join } from 'node:path';
import type { Limits } from '#contract/schemas/machines.ts';
import { windowBytes } from '#vmm/layout.ts';
import { mostVcpus } from '#vmm/threads.ts';

const MiB = 2 ** 20;

/** Node and the VMM beside the guest's memory, measured: some 100 MiB. */
const ownBytes = 256 * MiB;
/** Node's threads, and one for each vCPU. */
const ownThreads = 48;
/** Of text, from each vCPU; a byte is up to six in JSON. */
export const outputBytes = MiB;
const bytesOfOne = 6;
/** A guest has no clock to wait by: what runs for so long is stuck. */
export const runLimitMs = 3_600_000;

export interface MicroPaths {
  /** What the machine's process is told; see vmm/apart/order.ts. */
  readonly order: string;
  /** What it says, line by line: that it has begun, then its report. */
  readonly report: string;
  /** Where the root file system of its jail is put together. */
  readonly root: string;
}

export function microPaths(directory: string): MicroPaths {
  return {
    order: join(directory, 'order.json'),
    report: join(directory, 'report.json'),
    root: join(directory, 'root'),
  };
}

/** As many as there are cores: each runs the whole guest, in a memory of its own. */
export const vcpusOf = ({ cpus }: Pick<Limits, 'cpus'>): number =>
  Math.min(mostVcpus, Math.max(1, Math.ceil(cpus)));

/** The limits of the control group. `memoryBytes` of a machine is the guest's. */
export function groupLimits(limits: Pick<Limits, 'cpus'>): {
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly processes: number;
} {
  const vcpus = vcpusOf(limits);
  return {
    cpus: limits.cpus,
    memoryBytes: ownBytes + vcpus * windowBytes,
    processes: ownThreads + vcpus,
  };
}

/** Length of the report. */
export const reportBytes = (vcpus: number): number => MiB + vcpus * outputBytes * bytesOfOne;
