/** What handing in late costs. Pure: instants in, points out. */
import type { LateRule } from '#contract/schemas/labs.ts';
import { partOf } from './format/points.ts';

const dayMs = 86_400_000;
const minuteMs = 60_000;

export interface Lateness {
  /** After the due instant and its grace. */
  readonly late: boolean;
  /** Days begun since the due instant; 0 if not late. */
  readonly days: number;
  /** The part of the points that is left, from 0 to 1. */
  readonly share: number;
}

/**
 * Grace decides whether a submission is late at all; the days are then counted from the due instant itself.
 * Every day begun costs `percentPerDay`, and at least `floorPercent` is left. Where late work is not
 * accepted, nothing is left (it is refused on arrival; this is for a due instant that was moved later).
 */
export function latenessOf(submittedAt: Date, dueAt: Date | null, rule: LateRule): Lateness {
  const overdue = dueAt === null ? 0 : submittedAt.getTime() - dueAt.getTime();
  if (overdue <= rule.graceMinutes * minuteMs) return { late: false, days: 0, share: 1 };
  const days = Math.ceil(overdue / dayMs);
  if (!rule.accept) return { late: true, days, share: 0 };
  const percent = Math.max(rule.floorPercent, 100 - days * rule.percentPerDay);
  return { late: true, days, share: Math.min(100, percent) / 100 };
}

/** Points after the late rule, rounded down to 0.01. */
export function applyLateRule(rawPoints: number, lateness: Lateness): number {
  return partOf(rawPoints, lateness.share);
}
