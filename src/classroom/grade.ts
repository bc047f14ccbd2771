/**
 * The job that grades a submission: files laid out, checks run, one grade row.
 *
 * A fault of the host is thrown and tried again by the queue; what the lab's author got wrong makes a grade in the
 * state `error`. The job's id fences the row, so a job that runs twice makes one grade.
 */
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { gradeSubmission, type GraderDeps } from '#grading/run.ts';
import { defineJob } from '#jobs/types.ts';
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

/** What a check may take is judged by its limits; a wait of ours that ended too early is the host's fault, and repeated. */
function hostWasSlow(error: unknown): unknown {
  if (!isCarrelError(error, 'deadline_exceeded')) return error;
  return new CarrelError('unavailable', `the host was too slow: ${error.message}`, { cause: error });
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
        throw hostWasSlow(error);
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
