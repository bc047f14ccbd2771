/** The outside of the queue: put jobs in, call them off, look at them, throw old ones away. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { selectJob, type Job, type JobState } from '#store/jobs.ts';
import type { Db } from '#store/schema.ts';
import { sql } from 'kysely';
import type { z } from 'zod';
import { cancelChannel, defaultMaxAttempts, type JobKind } from './types.ts';

export interface EnqueueOptions {
  /** Higher first; within a priority, first come first served. */
  readonly priority?: number;
  readonly runAfter?: Date;
  /** If an unfinished job has this key, that one is returned and nothing is added. */
  readonly dedupeKey?: string;
  readonly parentId?: string;
  /** User id; null for Carrel itself. */
  readonly requester?: string | null;
  readonly requestId?: string | null;
  /** Paths of what it works on, for example `/v1/machines/m-...`. */
  readonly resources?: readonly string[];
  readonly maxAttempts?: number;
}

/**
 * Adds a job. Give it the transaction that writes what the job is about: then there is never one without the
 * other. Workers hear of it at the commit.
 *
 * @example await enqueue(tx, startMachine, { machineId }, { requester: user.id });
 */
export async function enqueue<Args extends z.ZodType>(
  db: Db,
  kind: JobKind<Args>,
  args: z.input<Args>,
  {
    priority = 0,
    runAfter,
    dedupeKey,
    parentId,
    requester = null,
    requestId = null,
    resources = [],
    maxAttempts = kind.maxAttempts ?? defaultMaxAttempts,
  }: EnqueueOptions = {},
): Promise<Job> {
  const parsed = kind.args.safeParse(args);
  if (!parsed.success)
    throw new CarrelError('validation_failed', `the arguments do not fit a ${kind.kind} job`, {
      details: { issues: parsed.error.issues },
    });
  if (parentId !== undefined) await refuseCancelledParent(db, parentId);
  const values = {
    kind: kind.kind,
    args: json<unknown>(args),
    priority,
    ...(runAfter === undefined ? {} : { run_after: runAfter }),
    dedupe_key: dedupeKey ?? null,
    parent_id: parentId ?? null,
    requester,
    request_id: requestId,
    resources: json(resources),
    max_attempts: maxAttempts,
  };
  // The job found by its key can end before it is read; then ours is the next one. Bounded, for certainty.
  for (let tries = 0; tries < 10; tries += 1) {
    // The index condition is written out: as parameters PostgreSQL could not match it to the index.
    const job = await db
      .insertInto('jobs')
      .values({ id: newId('job'), ...values })
      .onConflict((oc) =>
        oc
          .column('dedupe_key')
          .where(sql<boolean>`state in ('queued', 'running')`)
          .doNothing(),
      )
      .returningAll()
      .executeTakeFirst();
    if (job) return job;
    const same = await db
      .selectFrom('jobs')
      .selectAll()
      .where('dedupe_key', '=', dedupeKey ?? '')
      .where('state', 'in', ['queued', 'running'])
      .executeTakeFirst();
    if (same) return same;
  }
  throw new CarrelError('unavailable', `jobs with the key "${dedupeKey}" come and go too fast`);
}

/** A cancelled parent gets no more children. Its row is locked, so a cancellation sees the child or stops it. */
async function refuseCancelledParent(db: Db, parentId: string): Promise<void> {
  const parent = await db
    .selectFrom('jobs')
    .select(['cancel_requested_at'])
    .where('id', '=', parentId)
    .forShare()
    .executeTakeFirst();
  if (!parent) throw new CarrelError('not_found', `job ${parentId} does not exist`);
  if (parent.cancel_requested_at) throw new CarrelError('cancelled', `job ${parentId} was cancelled`);
}

/**
 * Calls a job off, with all its children. Waiting ones end at once; a running one is told, and ends as cancelled
 * when its handler gives in, or as done if it was faster. On an ended job it changes nothing.
 */
export async function cancelJob(db: Db, id: string): Promise<Job> {
  return transaction(db, async (tx) => {
    await selectJob(tx, id);
    await sql`select from jobs where id = ${id} for update`.execute(tx);
    // Children may be added while we look: once more until there is nothing left to change.
    for (let changed = 1; changed > 0;) {
      const { rows } = await sql<{ id: string; state: JobState }>`
        with recursive tree as (
          select id from jobs where id = ${id}
          union select child.id from jobs child join tree on child.parent_id = tree.id
        ),
        held as materialized (
          select jobs.id from jobs join tree on tree.id = jobs.id
          where state in ('queued', 'running') and cancel_requested_at is null order by jobs.id for update of jobs
        )
        update jobs set cancel_requested_at = now(),
          state = case state when 'queued' then 'cancelled' else state end,
          ended_at = case state when 'queued' then now() end
        from held where jobs.id = held.id returning jobs.id, state`.execute(tx);
      changed = rows.length;
      if (rows.some((row) => row.state === 'running'))
        await sql`select pg_notify(${cancelChannel}, '')`.execute(tx);
    }
    return selectJob(tx, id);
  });
}

export type ChildrenSummary = Readonly<Record<JobState | 'total', number>>;

/** How many children a job has, by state. */
export async function selectChildrenSummary(db: Db, parentId: string): Promise<ChildrenSummary> {
  const rows = await db
    .selectFrom('jobs')
    .select((eb) => ['state', eb.fn.countAll<number>().as('count')])
    .where('parent_id', '=', parentId)
    .groupBy('state')
    .execute();
  const summary = { queued: 0, running: 0, done: 0, failed: 0, cancelled: 0, total: 0 };
  for (const { state, count } of rows) {
    summary[state] = count;
    summary.total += count;
  }
  return summary;
}

export async function selectChildren(db: Db, parentId: string): Promise<Job[]> {
  return db.selectFrom('jobs').selectAll().where('parent_id', '=', parentId).orderBy('seq').execute();
}

const week = 7 * 24 * 3_600_000;

/** Deletes jobs that ended longer ago than `olderThanMs`, with their logs; gives how many. */
export async function purgeJobs(
  db: Db,
  { olderThanMs = week, limit = 1000 }: { olderThanMs?: number; limit?: number } = {},
): Promise<number> {
  const { numAffectedRows } = await sql`
    delete from jobs where id in (
      select id from jobs where ended_at < now() - ${olderThanMs} * interval '1 millisecond'
      order by ended_at limit ${limit} for update skip locked)`.execute(db);
  return Number(numAffectedRows ?? 0);
}
