/**
 * Where a virtual machine's files lie, and what it may use.
 *
 * Its directory is root's alone. QEMU, under an id of its own, sees of it only the files in `disk/`, which are its
 * own while the directory is not: so it can put nothing there that a later step as root would follow.
 */
import { join } from 'node:path';
import type { Limits } from '#contract/schemas/machines.ts';
import type { MachineSpec } from '../../driver.ts';
import { uidBaseOf } from '../ids.ts';

const MiB = 2 ** 20;

/** What a kernel and a program need at the least. */
export const minMemoryBytes = 64 * MiB;

/** Accelerators of QEMU. */
export type Accelerator = 'kvm' | 'tcg';

/** Kept translations of guest code (QEMU's default is an eighth of the host's memory per machine). */
export const translationMiB = 64;

/**
 * Memory of QEMU itself beside the guest's, measured: code and heap some 60 MiB, the caches of the disk's tables,
 * and under TCG the translated code. What it reads of files is counted too, but given back when it is needed.
 */
const overheadBytes: Readonly<Record<Accelerator, number>> = {
  kvm: 128 * MiB,
  tcg: (128 + translationMiB) * MiB,
};

/**
 * Length of a layer's file that no honest QEMU comes to: where the guest discards and writes again, gaps remain, which
 * hold nothing of the host's disk.
 */
export const layerFileBytes = (diskBytes: number): number => 4 * diskBytes + 64 * MiB;

/** A disk ends with a whole sector. */
export const wholeSectors = (bytes: number): number => Math.ceil(bytes / sectorBytes) * sectorBytes;
const sectorBytes = 512;

/** Threads: one per processor, and those that wait for the disk (QEMU's pool has up to 64). */
const ownThreads = 96;

export interface VmPaths {
  /** What the disk consists of; see disk/state.ts. */
  readonly disk: string;
  readonly diskState: string;
  /** Secrets and names, made once; see identity.ts. */
  readonly identity: string;
  /** The image's RAM disk with the machine's seed behind it. */
  readonly initrd: string;
  /** The disk that tells cloud-init who the machine is. */
  readonly cloudInit: string;
  readonly qmp: string;
  /** One client at a time speaks QMP. */
  readonly qmpLock: string;
  readonly agent: string;
  /** How it was started; see runtime.ts. */
  readonly runtime: string;
  /** Where the root file system of QEMU's jail is put together. */
  readonly root: string;
}

export function vmPaths(directory: string): VmPaths {
  return {
    disk: join(directory, 'disk'),
    diskState: join(directory, 'disk.json'),
    identity: join(directory, 'identity.json'),
    initrd: join(directory, 'initrd'),
    cloudInit: join(directory, 'cidata.iso'),
    qmp: join(directory, 'qmp.sock'),
    qmpLock: join(directory, 'qmp.lock'),
    agent: join(directory, 'agent.sock'),
    runtime: join(directory, 'runtime.json'),
    root: join(directory, 'root'),
  };
}

/** The host's uid and gid of QEMU: the second of the machine's block. */
export function qemuUid(spec: Pick<MachineSpec, 'uidSlot'>): number {
  return uidBaseOf(spec) + 1;
}

/** Processors that the guest sees: their time together is limited to `cpus`. */
export function vcpusOf({ cpus }: Pick<Limits, 'cpus'>): number {
  return Math.max(1, Math.ceil(cpus));
}

/** The limits of the control group that QEMU runs in. `processes` of a machine are the guest's own business. */
export function groupLimits(
  { cpus, memoryBytes }: Pick<Limits, 'cpus' | 'memoryBytes'>,
  accelerator: Accelerator,
): { readonly cpus: number; readonly memoryBytes: number; readonly processes: number } {
  return {
    cpus,
    memoryBytes: memoryBytes + overheadBytes[accelerator],
    processes: vcpusOf({ cpus }) + ownThreads,
  };
}
