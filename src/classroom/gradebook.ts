/** The gradebook: a line for each student, with the submission that counts. */
import type { GradebookRow } from '#contract/schemas/labs.ts';
import { applyLateRule, latenessOf } from '#grading/late.ts';
import { selectLab } from '#store/labs.ts';
import { folderOf } from './labs.ts';
import { selectWithGrades, type SubmissionServices } from './submissions.ts';
import { gradingState, lateRuleOf, parseChecks } from './views.ts';

/**
 * Every student of the course, by name. The submission with the most points after the late rule counts; of
 * equal ones, and as long as none is graded, the newest.
 */
export async function getGradebook(services: SubmissionServices, labId: string): Promise<GradebookRow[]> {
  const { db } = services;
  const lab = await selectLab(db, labId);
  const { folder } = await folderOf(services, lab);
  const rule = lateRuleOf(lab);
  const students = await db
    .selectFrom('members')
    .innerJoin('users', 'users.id', 'members.user_id')
    .select(['users.id', 'users.name', 'members.section'])
    .where('members.course_id', '=', lab.course_id)
    .where('members.role', '=', 'student')
    .orderBy('users.name')
    .execute();
  const submissions = await selectWithGrades(db)
    .where('submissions.lab_id', '=', labId)
    .orderBy('submissions.attempt')
    .execute();
  const byUser = Map.groupBy(submissions, (row) => row.user_id);
  return students.map(({ id, name, section }): GradebookRow => {
    const attempts = (byUser.get(id) ?? []).map((row) => {
      const lateness = latenessOf(row.submitted_at, lab.due_at, rule);
      return {
        row,
        lateness,
        points: row.gradePoints === null ? null : applyLateRule(row.gradePoints, lateness),
      };
    });
    const counting = attempts.reduce<(typeof attempts)[number] | undefined>(
      (best, next) => (best && (best.points ?? -1) > (next.points ?? -1) ? best : next),
      undefined,
    );
    const checks = counting?.row.gradeState ? parseChecks(counting.row.gradeChecks) : [];
    return {
      user: name,
      section,
      attempts: attempts.length,
      submissionId: counting?.row.id ?? null,
      submittedAt: counting?.row.submitted_at.toISOString() ?? null,
      late: counting?.lateness.late ?? false,
      state: counting ? gradingState(counting.row) : 'none',
      points: counting?.points ?? null,
      maxPoints: counting?.row.gradeMaxPoints ?? folder.lab.points,
      checks: checks.map(({ id: check, state, points }) => ({ id: check, state, points })),
    };
  });
}
