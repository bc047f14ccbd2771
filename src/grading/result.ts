/** An outcome as the result that is stored and shown. */
import type { CheckResult, CheckState } from '#contract/schemas/labs.ts';
import type { Check } from './format/lab.ts';
import { partOf } from './format/points.ts';
import type { Outcome, Verdict } from './judge/outcome.ts';
import { oneLine, printable, quote } from './judge/text.ts';

/** The states people see; the ways to fail are all `failed`, and the reason says which. */
const states: Readonly<Record<Verdict, CheckState>> = {
  passed: 'passed',
  failed: 'failed',
  partial: 'partial',
  error: 'error',
  skipped: 'skipped',
  timeout: 'failed',
  memory: 'failed',
  crashed: 'failed',
  raised: 'failed',
};

export const skippedBecause = (title: string): Outcome => ({
  verdict: 'skipped',
  fraction: 0,
  reason: `not run, because ${quote(title, 100)} has not passed`,
});

/** What the student may see of what was printed. */
export function shownOutput(
  { show }: Pick<Check, 'show'>,
  { stdout, stderr }: Pick<Outcome, 'stdout' | 'stderr'>,
): { stdout: string; stderr: string } {
  return {
    stdout: show === 'both' || show === 'stdout' ? printable(stdout) : '',
    stderr: show === 'both' || show === 'stderr' ? printable(stderr) : '',
  };
}

const rounded = (value: number | undefined): number | null =>
  value === undefined ? null : Math.round(value * 10) / 10;

export function resultOf(check: Check, outcome: Outcome): CheckResult {
  const state = states[outcome.verdict];
  return {
    id: check.id,
    title: check.title,
    state,
    points: state === 'passed' || state === 'partial' ? partOf(check.points, outcome.fraction) : 0,
    maxPoints: check.points,
    visibility: check.visibility,
    reason: oneLine(outcome.reason, 1000),
    ...shownOutput(check, outcome),
    wallMs: rounded(outcome.usage?.wallMs),
    cpuMs: rounded(outcome.usage?.cpuMs),
    memoryBytes: outcome.usage?.memoryBytes ?? null,
  };
}
