/** Waiting for jobs to end: told by notification, made sure by looking. */
import { CarrelError } from '#base/errors.ts';
import type { Store } from '#store/database.ts';
import type { Job } from '#store/jobs.ts';
import type { Db } from '#store/schema.ts';
import { sql } from 'kysely';
import type { z } from 'zod';
import { createBell } from './bell.ts';
import { endedChannel, revivedError, type JobKind } from './types.ts';

export interface WaitOptions {
  readonly limitMs?: number;
  readonly signal?: AbortSignal;
  /** How often to look in case a notification was lost. */
  readonly pollMs?: number;
}

type WaitStore = Pick<Store, 'db' | 'listen'>;

/**
 * Waits until all of these jobs have ended, at most `limitMs`, and gives their rows in the order asked for: look at
 * `ended_at` to see who made it. `not_found` if one does not exist.
 */
export async function waitForJobs(
  store: WaitStore,
  ids: readonly string[],
  { limitMs = 30_000, signal, pollMs = 1000 }: WaitOptions = {},
): Promise<Job[]> {
  const end = performance.now() + limitMs;
  const bell = createBell();
  const wanted = new Set(ids);
  const heard = new Set<string>();
  const unlisten = await store.listen(endedChannel, (id) => {
    if (wanted.has(id)) heard.add(id);
    // The empty one comes after a reconnection: anything may have been missed.
    if (id === '' || heard.size === wanted.size) bell.ring();
  });
  signal?.addEventListener('abort', bell.ring);
  try {
    for (;;) {
      signal?.throwIfAborted();
      const rows = await selectJobs(store.db, ids);
      for (const row of rows) if (row.ended_at !== null) heard.add(row.id);
      const left = end - performance.now();
      if (left <= 0 || rows.every((row) => row.ended_at !== null)) return rows;
      await bell.wait(Math.min(left, pollMs));
    }
  } finally {
    unlisten();
    signal?.removeEventListener('abort', bell.ring);
  }
}

async function selectJobs(db: Db, ids: readonly string[]): Promise<Job[]> {
  const rows =
    ids.length === 0
      ? []
      : await db
          .selectFrom('jobs')
          .selectAll()
          .where(sql<boolean>`id = any(${ids}::text[])`)
          .execute();
  const byId = new Map(rows.map((row) => [row.id, row]));
  return ids.map((id) => {
    const row = byId.get(id);
    if (!row) throw new CarrelError('not_found', `job ${id} does not exist`);
    return row;
  });
}

/** Waits for one job, at most `limitMs`; gives its row, ended or not. */
export async function waitForJob(store: WaitStore, id: string, options: WaitOptions = {}): Promise<Job> {
  const [job] = await waitForJobs(store, [id], options);
  if (!job) throw new CarrelError('not_found', `job ${id} does not exist`);
  return job;
}

/** The result of a job that is done; throws the error of one that failed, `deadline_exceeded` for an unfinished one. */
export function resultOf<Result extends z.ZodType>(
  kind: JobKind<z.ZodType, Result>,
  job: Job,
): z.output<Result> {
  if (job.state === 'done') return kind.result.parse(job.result);
  if (job.state === 'cancelled') throw new CarrelError('cancelled', `job ${job.id} was cancelled`);
  if (job.state === 'failed' && job.error) throw revivedError(job.error);
  throw new CarrelError('deadline_exceeded', `job ${job.id} has not ended yet`);
}
