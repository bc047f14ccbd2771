/** What a check found, before points: the verdict, why, and what was observed. */
import { CarrelError } from '#base/errors.ts';
import { formatDuration, formatSize } from '#base/units.ts';
import type { SandboxReport } from '#isolate/sandbox.ts';
import type { Limits } from '../format/limits.ts';
import type { Promised } from '../format/schema.ts';

/** The state, or, for a failed check, how it failed. */
export type Verdict = Promised;

export interface Usage {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly memoryBytes: number | null;
}

export interface Outcome {
  readonly verdict: Verdict;
  /** The part of the points that is earned: 1 if passed, 0 unless passed or partial. */
  readonly fraction: number;
  /** One sentence. */
  readonly reason: string;
  readonly stdout?: Uint8Array;
  readonly stderr?: Uint8Array;
  readonly usage?: Usage;
}

export const passed = (reason: string): Outcome => ({ verdict: 'passed', fraction: 1, reason });
export const failed = (reason: string, verdict: Verdict = 'failed'): Outcome => ({
  verdict,
  fraction: 0,
  reason,
});
/** No verdict: the author's fault (or ours), never a pass. */
export const noVerdict = (reason: string): Outcome => ({ verdict: 'error', fraction: 0, reason });

/** An outcome by the fraction that was reached. */
export function scored(fraction: number, reason: string): Outcome {
  if (fraction >= 1) return passed(reason);
  return fraction <= 0 ? failed(reason) : { verdict: 'partial', fraction, reason };
}

export function usageOf({ usage }: SandboxReport): Usage {
  return { wallMs: usage.wallMs, cpuMs: usage.cpuMs, memoryBytes: usage.peakMemoryBytes };
}

/** Adds what was observed to a verdict. */
export function observed(outcome: Outcome, report: SandboxReport): Outcome {
  return { ...outcome, stdout: report.stdout, stderr: report.stderr, usage: usageOf(report) };
}

/**
 * The verdict on a run that a limit ended; undefined if it ended by itself. A kill for memory inside the
 * sandbox counts even if the main program survived it: its result rests on a process that was shot.
 */
export function stoppedByLimit({ end, usage }: SandboxReport, limits: Limits): Outcome | undefined {
  const memory = `used more than ${formatSize(limits.memoryBytes)} of memory`;
  if (end.kind !== 'killed') return usage.oomKills > 0 ? failed(memory, 'memory') : undefined;
  if (end.reason === 'cancelled') throw new CarrelError('cancelled', 'The run was cancelled');
  const reasons: Readonly<Record<typeof end.reason, [string, Verdict]>> = {
    cpu: [`used more than ${formatDuration(limits.cpuMs)} of processor time`, 'timeout'],
    wall: [`was not finished after ${formatDuration(limits.wallMs)}`, 'timeout'],
    memory: [memory, 'memory'],
    output: [`printed more than ${formatSize(limits.outputBytes)}`, 'failed'],
  };
  return failed(...reasons[end.reason]);
}

/** `exited with status 1`, `was ended by SIGSEGV`. */
export function describeEnd({ end }: SandboxReport): string {
  if (end.kind === 'exited') return `exited with status ${end.status}`;
  return end.kind === 'signaled' ? `was ended by ${end.signal}` : `was stopped (${end.reason})`;
}
