/** The inside of the queue: every statement by which workers take, keep, end and lose jobs. See types.ts. */
import { jsonText } from '#store/columns.ts';
import type { Job, JobProgress, JobStep, StoredError } from '#store/jobs.ts';
import type { Db } from '#store/schema.ts';
import { sql } from 'kysely';
import { lossLimit, queuedChannel } from './types.ts';

/** Which run of a job a write speaks for. */
export interface Lease {
  readonly id: string;
  readonly attempt: number;
}

/**
 * The rows of these leases that still count, locked in the order of their ids: statements about several jobs that
 * lock them in the same order cannot deadlock.
 */
function held(owner: string, leases: readonly Lease[]) {
  return sql`held as materialized (
    select jobs.id, jobs.cancel_requested_at from jobs join unnest(
      ${leases.map((lease) => lease.id)}::text[], ${leases.map((lease) => lease.attempt)}::int[]
    ) as lease(id, attempt) on jobs.id = lease.id and jobs.attempt = lease.attempt
    where jobs.owner = ${owner} and jobs.state = 'running' order by jobs.id for update of jobs
  )`;
}

/** Takes up to `limit` waiting jobs of these kinds, the most urgent first; parallel workers get different ones. */
export async function takeJobs(
  db: Db,
  {
    owner,
    kinds,
    limit,
    leaseMs,
  }: { owner: string; kinds: readonly string[]; limit: number; leaseMs: number },
): Promise<Job[]> {
  const { rows } = await sql<Job>`
    with picked as (
      select id from jobs
      where state = 'queued' and run_after <= now() and kind = any(${kinds}::text[])
      order by priority desc, seq limit ${limit} for update skip locked
    )
    update jobs set state = 'running', owner = ${owner}, attempt = attempt + 1,
      lease_until = now() + ${leaseMs} * interval '1 millisecond', started_at = coalesce(started_at, now())
    from picked where jobs.id = picked.id returning jobs.*`.execute(db);
  return rows.sort((a, b) => b.priority - a.priority || a.seq - b.seq);
}

/** Renews leases; gives those that are still ours and whether they are to be cancelled. The others are lost. */
export async function renewLeases(
  db: Db,
  { owner, leases, leaseMs }: { owner: string; leases: readonly Lease[]; leaseMs: number },
): Promise<{ readonly id: string; readonly cancelled: boolean }[]> {
  const { rows } = await sql<{ id: string; cancelled: boolean }>`
    with ${held(owner, leases)}
    update jobs set lease_until = now() + ${leaseMs} * interval '1 millisecond'
    from held where jobs.id = held.id
    returning jobs.id, jobs.cancel_requested_at is not null as cancelled`.execute(db);
  return rows;
}

const deadWorker: StoredError = {
  code: 'unavailable',
  message: 'the worker died while it was running this job',
  hint: 'the job is repeated; if it fails for good, read the log of the daemon',
};

/**
 * Takes back jobs whose workers have died: they wait again, or end if they were cancelled or have cost too many
 * workers. While the server was down nobody could renew anything, so after its start all get one lease of grace.
 * Gives their number, and whether any job was running: if none was, there is nothing to take back for a while.
 */
export async function reapExpired(
  db: Db,
  { leaseMs }: { leaseMs: number },
): Promise<{ readonly reaped: number; readonly running: boolean }> {
  const { rows } = await sql<{ reaped: number; running: boolean }>`
    with dead as (
      select id from jobs
      where state = 'running' and lease_until < now()
        and pg_postmaster_start_time() + ${leaseMs} * interval '1 millisecond' < now()
      order by id limit 1000 for update skip locked
    ),
    verdict as (
      select jobs.id, case when cancel_requested_at is not null then 'cancelled'
        when losses + 1 >= ${lossLimit} then 'failed' else 'queued' end as state
      from jobs join dead on dead.id = jobs.id
    ),
    reaped as (
      update jobs set state = verdict.state, losses = losses + 1, owner = null, lease_until = null,
        error = ${jsonText(deadWorker)}::jsonb,
        ended_at = case when verdict.state <> 'queued' then now() end
      from verdict where jobs.id = verdict.id returning 1
    )
    select (select count(*) from reaped)::int as reaped,
      exists (select from jobs where state = 'running') as running`.execute(db);
  const [row = { reaped: 0, running: true }] = rows;
  if (row.reaped > 0) await announce(db);
  return row;
}

/** How a run ended. */
export type Outcome =
  /** `result` as JSON text: what cannot be written is found out where it was made. */
  | { readonly state: 'done'; readonly result: string }
  | { readonly state: 'failed'; readonly error: StoredError }
  | { readonly state: 'cancelled'; readonly error: StoredError }
  /** Once more after a pause; `counts` says whether this was a failure of the job's attempts. */
  | {
      readonly state: 'queued';
      readonly error: StoredError;
      readonly delayMs: number;
      readonly counts: boolean;
    };

/**
 * Writes how runs ended, many at once so that they share a commit. A run whose lease was lost is not in the
 * answer: its outcome does not count.
 */
export async function endRuns(
  db: Db,
  owner: string,
  ends: readonly { readonly lease: Lease; readonly outcome: Outcome }[],
): Promise<ReadonlySet<string>> {
  const column = <T>(pick: (lease: Lease, outcome: Outcome) => T): T[] =>
    ends.map(({ lease, outcome }) => pick(lease, outcome));
  const leases = ends.map((end) => end.lease);
  const { rows } = await sql<{ id: string }>`
    with ${held(owner, leases)},
    said as (
      select * from unnest(
        ${column((lease) => lease.id)}::text[],
        ${column((_, o) => o.state)}::text[],
        ${column((_, o) => (o.state === 'done' ? o.result : null))}::text[],
        ${column((_, o) => (o.state === 'done' ? null : jsonText(o.error)))}::text[],
        ${column((_, o) => (o.state === 'failed' || (o.state === 'queued' && o.counts) ? 1 : 0))}::int[],
        ${column((_, o) => (o.state === 'queued' ? o.delayMs : 0))}::float8[]
      ) as said(id, state, result, error, failed, delay)
    ),
    fate as (
      -- Cancelled while its handler was giving up for another reason: then it does not wait again.
      select said.*, case when said.state = 'queued' and held.cancel_requested_at is not null
        then 'cancelled' else said.state end as becomes
      from held join said on said.id = held.id
    )
    update jobs set
      state = fate.becomes,
      result = fate.result::jsonb,
      error = fate.error::jsonb,
      failures = failures + fate.failed,
      run_after = case fate.becomes when 'queued' then now() + fate.delay * interval '1 millisecond' else run_after end,
      ended_at = case when fate.becomes <> 'queued' then now() end,
      owner = null, lease_until = null
    from fate where jobs.id = fate.id
    returning jobs.id`.execute(db);
  if (ends.some(({ outcome: o }) => o.state === 'queued' && o.delayMs === 0)) await announce(db);
  return new Set(rows.map((row) => row.id));
}

async function announce(db: Db): Promise<void> {
  await sql`select pg_notify(${queuedChannel}, '')`.execute(db);
}

/** What a run has to say about itself since the last time. */
export interface Notes {
  readonly lease: Lease;
  readonly steps: readonly JobStep[];
  readonly progress: JobProgress | undefined;
  readonly lines: readonly { readonly at: Date; readonly line: string }[];
}

/** Writes steps, progress and log lines of runs, all in one statement; those of lost runs are dropped. */
export async function writeNotes(db: Db, owner: string, notes: readonly Notes[]): Promise<void> {
  const leases = notes.map((note) => note.lease);
  const lines = notes.flatMap((n) => n.lines.map((entry) => ({ ...entry, id: n.lease.id })));
  await sql`
    with ${held(owner, leases)},
    noted as (
      update jobs set steps = jobs.steps || note.steps::jsonb, step = coalesce(note.step, jobs.step),
        progress = coalesce(note.progress::jsonb, jobs.progress)
      from held join unnest(
        ${leases.map((lease) => lease.id)}::text[],
        ${notes.map((n) => jsonText(n.steps))}::text[],
        ${notes.map((n) => (n.progress ? jsonText(n.progress) : null))}::text[],
        ${notes.map((n) => n.steps.at(-1)?.name ?? null)}::text[]
      ) as note(id, steps, progress, step) on note.id = held.id
      where jobs.id = held.id
    )
    insert into job_logs (job_id, at, line)
    select said.id, said.at, said.line from unnest(
      ${lines.map((l) => l.id)}::text[], ${lines.map((l) => l.at.toISOString())}::timestamptz[],
      ${lines.map((l) => l.line)}::text[]
    ) with ordinality as said(id, at, line, n)
    where exists (select from held where held.id = said.id) order by said.n`.execute(db);
}

/** Saves a handler's checkpoint; false if the lease is lost. */
export async function writeCheckpoint(db: Db, owner: string, lease: Lease, data: unknown): Promise<boolean> {
  const { rows } = await sql`
    update jobs set checkpoint = ${jsonText(data)}::jsonb
    where id = ${lease.id} and attempt = ${lease.attempt} and owner = ${owner} and state = 'running'
    returning id`.execute(db);
  return rows.length > 0;
}
