/** Jobs as the API shows them. */
import { sql } from 'kysely';
import { CarrelError } from '#base/errors.ts';
import { isId, idPrefixes, type IdKind } from '#base/ids.ts';
import type { Job } from '#contract/schemas/jobs.ts';
import { gradeSubmissionKind, regradeKind } from '#classroom/kinds.ts';
import type { Db } from '#store/schema.ts';
import { resourceIds } from '../auth/resources.ts';
import type { Answer } from '../http/answer.ts';
import { answer } from '../http/answer.ts';

const kinds = Object.keys(idPrefixes).filter((kind): kind is IdKind => kind in idPrefixes);

function isAnyId(text: string): boolean {
  return kinds.some((kind) => isId(kind, text));
}

/** Job rows with what the view needs beside them: the requester's name and how the children stand. */
export function selectJobViews(db: Db) {
  return db
    .selectFrom('jobs')
    .leftJoin('users', 'users.id', 'jobs.requester')
    .select([
      'jobs.id',
      'jobs.seq',
      'jobs.kind',
      'jobs.state',
      'jobs.parent_id',
      'jobs.resources',
      'jobs.request_id',
      'jobs.step',
      'jobs.steps',
      'jobs.progress',
      'jobs.attempt',
      'jobs.result',
      'jobs.error',
      'jobs.created_at',
      'jobs.started_at',
      'jobs.ended_at',
      'users.name as requesterName',
      sql<{ total: number; done: number; failed: number }>`(
        select json_build_object('total', count(*), 'done', count(*) filter (where c.state = 'done'),
          'failed', count(*) filter (where c.state in ('failed', 'cancelled')))
        from jobs c where c.parent_id = jobs.id)`.as('children'),
    ]);
}

type JobViewRow = Awaited<ReturnType<ReturnType<typeof selectJobViews>['execute']>>[number];

export function jobView(row: JobViewRow): Job {
  return {
    id: row.id,
    kind: row.kind,
    state: row.state,
    parentId: row.parent_id,
    requester: row.requesterName,
    requestId: row.request_id,
    resources: resourceIds(row.resources).filter(isAnyId),
    step: row.step,
    steps: row.steps.map(({ name, at }) => ({ name, at })),
    progress: row.progress && { done: row.progress.done, total: row.progress.total, what: row.progress.what },
    attempts: row.attempt,
    result: row.result ?? null,
    error: row.error && { code: row.error.code, message: row.error.message, hint: row.error.hint ?? null },
    children: row.children,
    createdAt: row.created_at.toISOString(),
    startedAt: row.started_at?.toISOString() ?? null,
    finishedAt: row.ended_at?.toISOString() ?? null,
  };
}

/** Their results, logs and errors speak of hidden checks: they are for the staff. */
const confidentialKinds: ReadonlySet<string> = new Set([gradeSubmissionKind.kind, regradeKind.kind]);

export function isConfidential(kind: string): boolean {
  return confidentialKinds.has(kind);
}

/** The job as a student may see it: that it runs, how far it is, and how it ended. */
export function withoutSecrets(job: Job): Job {
  if (!isConfidential(job.kind)) return job;
  const error = job.error && {
    code: job.error.code,
    message: 'the staff of the course can see why',
    hint: null,
  };
  return { ...job, result: null, error };
}

export async function getJobView(db: Db, id: string): Promise<Job> {
  const row = await selectJobViews(db).where('jobs.id', '=', id).executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `job "${id}" does not exist`);
  return jobView(row);
}

/** The body of a 202: the job, and the id of what it works on. */
export async function acceptedAnswer(
  db: Db,
  jobId: string,
  id: string | null,
): Promise<Answer<{ job: Job; id: string | null }>> {
  return answer({ job: await getJobView(db, jobId), id }, { location: `/v1/jobs/${jobId}` });
}
