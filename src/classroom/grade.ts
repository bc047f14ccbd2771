/**
 * The job that grades a submission: files laid out, checks run, one grade row.
 *
 * A fault of the host is thrown and tried again by the queue; what the lab's author got wrong makes a grade in the
 * state `error`. The job's id fences the row, so a job that runs twice makes one grade.
 */
import { CarrelError, type ErrorCode, messageOf } from '#base/errors.ts';
import { gradeSubmission, type GraderDeps } from '#grading/run.ts';
import { defineJob, isRetriable } from '#jobs/types.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { insertGrade } from '#store/grades.ts';
import { selectLab } from '#store/labs.ts';
import { selectSubmission } from '#store/submissions.ts';
import { gradeSubmissionKind } from './kinds.ts';
import { folderOf, type LabServices } from './labs.ts';
import type { Workplace } from './workplace.ts';

export interface GradeJobServices extends LabServices {
  readonly workplace: Workplace;
  readonly grader: GraderDeps;
}

/** What this host cannot do it cannot do the next time either. */
const final: ReadonlySet<ErrorCode> = new Set(['host_unsupported', 'driver_unsupported']);

/**
 * How an error of a grading ends the job. What the student or the author did is in the grade by then; whatever is thrown
 * is a fault of ours or the host's, of whatever kind (a wait that ended too early, a process or row that somebody took
 * away), and is tried again: it must not cost anybody a mark.
 */
export function interruption(error: unknown): CarrelError {
  if (error instanceof CarrelError && (isRetriable(error.code) || final.has(error.code))) return error;
  return new CarrelError('unavailable', `the grading was interrupted: ${messageOf(error)}`, { cause: error });
}

/** The handler of `submission.grade`. */
export function defineGradeJob(services: GradeJobServices) {
  const { db, workplace, grader } = services;
  return defineJob({
    ...gradeSubmissionKind,
    async run({ job, signal, step, log, progress }, { submissionId, labVersion, regradeId }) {
      const submission = await selectSubmission(db, submissionId);
      const lab = await selectLab(db, submission.lab_id);
      step('files');
      const { folder } = await folderOf(services, lab, labVersion);
      const grading = workplace.withFiles(submission.files, (directory) => {
        step('checks');
        return gradeSubmission(
          {
            folder,
            submission: directory,
            submissionId,
            signal,
            onProgress: ({ done, total, result: { id, state, points, maxPoints } }) => {
              progress(done, total, 'checks');
              log(`${id}: ${state}, ${points} of ${maxPoints}`);
            },
          },
          { ...grader, scratch: workplace.directory },
        );
      });
      const result = await grading.catch((error: unknown) => {
        throw interruption(error);
      });
      signal.throwIfAborted();
      step('grade');
      const grade = await transaction(db, async (tx) => {
        // The lease is checked in the same transaction: a worker that lost the job must not grade.
        const held = await tx
          .selectFrom('jobs')
          .select('id')
          .where('id', '=', job.id)
          .where('state', '=', 'running')
          .where('attempt', '=', job.attempt)
          .forShare()
          .executeTakeFirst();
        if (!held) throw new CarrelError('unavailable', `job ${job.id} was taken over by another worker`);
        const row = await insertGrade(tx, {
          submissionId,
          labVersion,
          jobId: job.id,
          regradeId,
          state: result.state,
          points: result.rawPoints,
          maxPoints: result.maxPoints,
          checks: result.checks,
        });
        await insertEvent(tx, {
          kind: 'submission.graded',
          subject: submissionId,
          courseId: lab.course_id,
          ownerId: submission.user_id,
          payload: { gradeId: row.id, state: row.state, labVersion },
        });
        return row;
      });
      return { gradeId: grade.id, points: grade.points, maxPoints: grade.max_points };
    },
  });
}
