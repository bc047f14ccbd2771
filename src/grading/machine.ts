/** A machine made for one submission: the smallest part of a machine that grading needs. */
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';
import type { GradingDriver, LabMachine } from './format/machine.ts';

interface Inside {
  readonly id: string;
  /** Its address in the fabric, if it has one. */
  readonly address: string | null;
  run(request: RunRequest, options: { signal: AbortSignal }): Promise<RunReply>;
  writeFile(path: string, bytes: Uint8Array, options: { mode: number }): Promise<void>;
}

export interface FreshContainer extends Inside {
  readonly driver: 'container';
  /** Its first process, as this host sees it. */
  readonly initPid: number;
}

/**
 * How a virtual machine stands. `off`: by itself, or because it was switched off; `lost`: this host, or somebody on it,
 * has ended it.
 */
export type Power = 'on' | 'off' | 'lost';

export interface FreshVm extends Inside {
  readonly driver: 'qemu';
  /** `template`: it had booted, and had come to rest. */
  readonly startedFrom: 'image' | 'template';
  /** Down in order, then up. False: it runs, and has not answered within `limitMs`. */
  restart(options: { limitMs: number; signal: AbortSignal }): Promise<boolean>;
  /** Down in order; by force what does not go by itself. Nothing happens if it is off. */
  powerOff(): Promise<void>;
  power(): Power;
  /** Processor time that its QEMU has used, in ms; null while it is off. */
  cpuMs(): Promise<number | null>;
  /** What is kept of what it has written to its serial line. */
  console(): Promise<Uint8Array>;
  /** A file of its disk, once it is off: errors as of the driver's readDisk. */
  readDisk(path: string, options: { maxBytes: number }): Promise<Uint8Array>;
}

export type FreshMachine = FreshContainer | FreshVm;

export interface FreshMachineRequest extends Pick<LabMachine, 'limits'> {
  readonly driver: GradingDriver;
  readonly image: string;
  readonly submissionId: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

/** Makes a machine, hands it to `use`, and removes it, whatever `use` does. */
export type WithFreshMachine = <T>(
  request: FreshMachineRequest,
  use: (machine: FreshMachine) => Promise<T>,
) => Promise<T>;
