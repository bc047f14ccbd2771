/** Jobs as rows. Their life (who may change what, when) is in src/jobs; here are the columns and the reads. */
import { CarrelError, type ErrorCode } from '#base/errors.ts';
import type { ColumnType, Generated, Selectable } from 'kysely';
import type { CreatedAt, Defaulted, DefaultedJson, Fact, Json, Nullable, NullableJson } from './columns.ts';
import type { Db } from './schema.ts';

export type JobState = 'queued' | 'running' | 'done' | 'failed' | 'cancelled';

/** An error as it is kept and shown. */
export interface StoredError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
  readonly details?: Readonly<Record<string, unknown>>;
}
export interface JobStep {
  readonly name: string;
  /** ISO 8601. */
  readonly at: string;
}
export interface JobProgress {
  readonly done: number;
  readonly total: number;
  readonly what: string;
}

export interface JobTable {
  id: Fact<string>;
  /** Order of arrival. */
  seq: ColumnType<number, never, never>;
  kind: Fact<string>;
  state: Defaulted<JobState>;
  args: Json<unknown>;
  result: NullableJson<unknown>;
  /** Why it failed; while it is queued or running again, why the last attempt did. */
  error: NullableJson<StoredError>;
  /** Higher first. */
  priority: Defaulted<number>;
  run_after: Defaulted<Date>;
  /** At most one unfinished job per key. */
  dedupe_key: ColumnType<string | null, string | null | undefined, never>;
  parent_id: ColumnType<string | null, string | null | undefined, never>;
  /** User id, or null for Carrel itself. */
  requester: ColumnType<string | null, string | null | undefined, never>;
  request_id: ColumnType<string | null, string | null | undefined, never>;
  /** What it works on, as paths: `/v1/machines/m-...`. */
  resources: DefaultedJson<readonly string[]>;
  /** Times taken by a worker; with `owner` it is the fencing token, so it only grows. */
  attempt: Generated<number>;
  /** Attempts that ended in an error worth repeating, of at most `max_attempts`. */
  failures: Generated<number>;
  /** Attempts whose worker died. */
  losses: Generated<number>;
  max_attempts: Defaulted<number>;
  owner: Nullable<string>;
  lease_until: Nullable<Date>;
  cancel_requested_at: Nullable<Date>;
  step: Nullable<string>;
  steps: DefaultedJson<readonly JobStep[]>;
  progress: NullableJson<JobProgress>;
  /** Whatever the handler wants to find again on its next attempt. */
  checkpoint: NullableJson<unknown>;
  started_at: Nullable<Date>;
  ended_at: Nullable<Date>;
  created_at: CreatedAt;
}
export type Job = Selectable<JobTable>;

export interface JobLogTable {
  job_id: Fact<string>;
  seq: ColumnType<number, never, never>;
  at: Defaulted<Date>;
  line: Fact<string>;
}
export type JobLog = Selectable<JobLogTable>;

export async function selectOptionalJob(db: Db, id: string): Promise<Job | undefined> {
  return db.selectFrom('jobs').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function selectJob(db: Db, id: string): Promise<Job> {
  const job = await selectOptionalJob(db, id);
  if (!job) throw new CarrelError('not_found', `job ${id} does not exist`);
  return job;
}

/** Log lines after `afterSeq`, oldest first. */
export async function selectJobLogs(
  db: Db,
  jobId: string,
  { afterSeq = 0, limit = 1000 }: { afterSeq?: number; limit?: number } = {},
): Promise<JobLog[]> {
  return db
    .selectFrom('job_logs')
    .selectAll()
    .where('job_id', '=', jobId)
    .where('seq', '>', afterSeq)
    .orderBy('seq')
    .limit(limit)
    .execute();
}
