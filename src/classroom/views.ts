/** Rows as the API shows them: what a student may see is decided here, in one place. */
import { z } from 'zod';
import {
  checkResult,
  lateRule,
  type CheckResult,
  type Grade,
  type Lab,
  type LateRule,
  type Submission,
} from '#contract/schemas/labs.ts';
import type { LabDefinition } from '#grading/format/lab.ts';
import { applyLateRule, latenessOf } from '#grading/late.ts';
import { isShown, studentView, type VisibilityAt } from '#grading/visible.ts';
import type { Grade as GradeRow } from '#store/grades.ts';
import type { Lab as LabRow } from '#store/labs.ts';
import type { SubmittedFile } from '#store/submissions.ts';

/** Who looks, and when. Staff see everything. */
export interface Viewer {
  readonly staff: boolean;
  readonly now: Date;
}

const checkResults = z.array(checkResult);

/** The late rule of a lab; its defaults if it has none. */
export function lateRuleOf(lab: LabRow): LateRule {
  return lateRule.parse(lab.late_rule ?? {});
}

function visibilityAt(lab: LabRow, { now }: Viewer): VisibilityAt {
  return { now, dueAt: lab.due_at, publishedAt: lab.published_at };
}

export function showLab(row: LabRow, treeHash: string, definition: LabDefinition, viewer: Viewer): Lab {
  const at = visibilityAt(row, viewer);
  return {
    id: row.id,
    courseId: row.course_id,
    name: row.name,
    title: row.title,
    version: row.version,
    treeHash,
    points: definition.points,
    run: definition.run,
    image: definition.image,
    machine:
      definition.run === 'machine' || definition.machine.driver === 'micro'
        ? { driver: definition.machine.driver, ready: row.ready ?? definition.machine.ready }
        : null,
    summary: definition.summary,
    files: definition.submit.files.map(({ pattern, required, maxSize }) => ({
      pattern,
      required,
      maxBytes: maxSize,
    })),
    checks: definition.checks
      .filter((check) => viewer.staff || isShown(check.visibility, at))
      .map(({ id, title, points, visibility }) => ({ id, title, points, visibility })),
    released: row.released_at !== null,
    dueAt: row.due_at?.toISOString() ?? null,
    publishedAt: row.published_at?.toISOString() ?? null,
    lateRule: lateRuleOf(row),
    createdAt: row.created_at.toISOString(),
  };
}

export function parseChecks(checks: unknown): CheckResult[] {
  return checkResults.parse(checks);
}

/** A grade: all of it for staff, what the visibility rules allow for its student. */
export function showGrade(grade: GradeRow, lab: LabRow, submittedAt: Date, viewer: Viewer): Grade {
  const checks = parseChecks(grade.checks);
  const lateness = latenessOf(submittedAt, lab.due_at, lateRuleOf(lab));
  const view = viewer.staff
    ? { checks, hiddenChecks: 0, totalShown: true }
    : studentView(checks, visibilityAt(lab, viewer));
  const raw = view.totalShown ? grade.points : null;
  return {
    id: grade.id,
    submissionId: grade.submission_id,
    labVersion: grade.lab_version,
    current: grade.current,
    state: grade.state,
    points: raw === null ? null : applyLateRule(raw, lateness),
    rawPoints: raw,
    maxPoints: grade.max_points,
    checks: [...view.checks],
    hiddenChecks: view.hiddenChecks,
    gradedAt: grade.graded_at.toISOString(),
    regradeId: grade.regrade_id,
  };
}

/** A submission with what is known of its grading, as one query gives it (see submissions.ts). */
export interface SubmissionWithGrade {
  readonly id: string;
  readonly lab_id: string;
  readonly user: string;
  readonly attempt: number;
  readonly submitted_at: Date;
  readonly tree_hash: string;
  readonly files: readonly SubmittedFile[];
  readonly bytes: number;
  readonly gradeState: 'graded' | 'error' | null;
  readonly gradePoints: number | null;
  readonly gradeMaxPoints: number | null;
  readonly gradeChecks: unknown;
  readonly jobState: string | null;
}

/** Where grading stands. No grade and no job to make one: grading ended in an error, and is never a zero. */
export function gradingState({
  gradeState,
  jobState,
}: Pick<SubmissionWithGrade, 'gradeState' | 'jobState'>): Submission['grading'] {
  if (gradeState) return gradeState;
  if (jobState === 'queued' || jobState === 'running') return jobState;
  return 'error';
}

export function showSubmission(
  row: SubmissionWithGrade,
  lab: LabRow,
  maxPoints: number,
  viewer: Viewer,
): Submission {
  const lateness = latenessOf(row.submitted_at, lab.due_at, lateRuleOf(lab));
  const shown =
    row.gradePoints !== null &&
    (viewer.staff || studentView(parseChecks(row.gradeChecks), visibilityAt(lab, viewer)).totalShown);
  return {
    id: row.id,
    labId: row.lab_id,
    user: row.user,
    attempt: row.attempt,
    submittedAt: row.submitted_at.toISOString(),
    treeHash: row.tree_hash,
    bytes: row.bytes,
    files: row.files.map(({ path, bytes, hash }) => ({ path, bytes, sha256: hash })),
    late: lateness.late,
    grading: gradingState(row),
    points: shown && row.gradePoints !== null ? applyLateRule(row.gradePoints, lateness) : null,
    maxPoints: row.gradeMaxPoints ?? maxPoints,
  };
}
