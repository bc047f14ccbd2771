/** The exit status of a program elsewhere as ours, like a shell does it. */
import { constants } from 'node:os';
import type { ProgramEnd } from '#contract/schemas/machines.ts';

const signals: ReadonlyMap<string, number> = new Map(Object.entries(constants.signals));

/** Its status; 128 + the signal's number; 124 for the time limit (as timeout(1)); 137 for the other limits. */
export function statusOf(end: ProgramEnd): number {
  switch (end.kind) {
    case 'exited':
      return end.status;
    case 'signaled':
      return 128 + (signals.get(end.signal) ?? 0);
    case 'killed':
      return end.reason === 'wall' || end.reason === 'cpu' ? 124 : 137;
    default:
      end satisfies never;
      return 1;
  }
}

/** For people, or undefined where the status says all. */
export function describeEnd(end: ProgramEnd): string | undefined {
  if (end.kind === 'signaled') return `ended by ${end.signal}`;
  if (end.kind === 'killed')
    return end.reason === 'cancelled' ? 'cancelled' : `ended: over its ${end.reason} limit`;
  return undefined;
}
