/**
 * What a student may see of a grade at an instant. The words and the rule are Gradescope's: a check that may
 * not be seen yet hides the total too, because the difference to the sum of the others would tell its points.
 *
 *     hidden             never shown
 *     after_due_date     shown once the lab is due
 *     after_published    shown once the marks are published
 *     visible            always shown
 *
 * Publishing the marks shows the total whatever is still hidden: from then on it is the student's mark.
 */
import type { CheckResult, Visibility } from '#contract/schemas/labs.ts';

export interface VisibilityAt {
  readonly now: Date;
  readonly dueAt: Date | null;
  readonly publishedAt: Date | null;
}

const reached = (instant: Date | null, now: Date): boolean =>
  instant !== null && instant.getTime() <= now.getTime();

/** May a student see a check of this visibility? */
export function isShown(visibility: Visibility, { now, dueAt, publishedAt }: VisibilityAt): boolean {
  const shown: Readonly<Record<Visibility, boolean>> = {
    visible: true,
    after_due_date: reached(dueAt, now),
    after_published: reached(publishedAt, now),
    hidden: false,
  };
  return shown[visibility];
}

export interface StudentView {
  readonly checks: readonly CheckResult[];
  readonly hiddenChecks: number;
  /** May the total be shown? */
  readonly totalShown: boolean;
}

/** The part of a grade that its student sees. */
export function studentView(checks: readonly CheckResult[], at: VisibilityAt): StudentView {
  const shown = checks.filter((check) => isShown(check.visibility, at));
  const hiddenChecks = checks.length - shown.length;
  return { checks: shown, hiddenChecks, totalShown: hiddenChecks === 0 || reached(at.publishedAt, at.now) };
}
