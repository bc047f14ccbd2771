/** A machine made for one submission: the smallest part of a machine that grading needs. */
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';

export interface FreshMachine {
  readonly id: string;
  /** Its first process, as this host sees it. */
  readonly initPid: number;
  /** Its address in the fabric, if it has one. */
  readonly address: string | null;
  run(request: RunRequest, options: { signal: AbortSignal }): Promise<RunReply>;
  writeFile(path: string, bytes: Uint8Array, options: { mode: number }): Promise<void>;
}

export interface FreshMachineRequest {
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
