/**
 * Scripts: lines that are run inside a machine one after the other, each by a shell of its own, each with its
 * time limit. How a line ended, what it printed and how long it took is written down before the next begins.
 *
 * A line is begun at most once: its row says so before it is run. After a kill -9 of the daemon the job goes on
 * behind the line that was running, and says of that line that nobody saw its end.
 */
import { sql } from 'kysely';
import { z } from 'zod';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import type { Actor, RequestInfo } from '#base/actor.ts';
import { programEnd } from '#contract/schemas/machines.ts';
import type { NewScript, Script, ScriptDetail, ScriptLineResult } from '#contract/schemas/scripts.ts';
import type { Starter } from '#contract/schemas/starter.ts';
import { enqueue } from '#jobs/queue.ts';
import { type DefinedJob, defineJob, type JobContext, storedError } from '#jobs/types.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import type { Job } from '#store/jobs.ts';
import { selectMachineForUpdate } from '#store/machines.ts';
import type { Db, Tx } from '#store/schema.ts';
import {
  insertScript,
  type Script as Row,
  type ScriptLine,
  selectScript,
  selectScriptLines,
} from '#store/scripts.ts';
import type { Cloud } from './cloud.ts';
import { answering } from './inside.ts';

export interface Scripts {
  /** The latest first. */
  list(machineId: string): Promise<Script[]>;
  get(machineId: string, scriptId: string): Promise<ScriptDetail>;
  run(
    actor: Actor,
    machineId: string,
    wanted: NewScript,
    options?: RequestInfo,
  ): Promise<{ readonly scriptId: string; readonly job: Job }>;
}

const args = z.strictObject({ scriptId: z.string() });
const result = z.strictObject({ scriptId: z.string(), lines: z.int(), failed: z.int() });
const scriptKind = { kind: 'machine.script', args, result, maxAttempts: 1 } as const;

/** Of one machine: older ones are forgotten. */
const maxScripts = 20;
/** A line that prints more is ended. */
const lineOutputBytes = 4 * 2 ** 20;
/** Kept of each stream of a line, as long as the script as a whole has kept less than the second figure. */
const keptBytes = 16 * 2 ** 10;
const keptOfScript = 2 ** 20;
const keptAfterThat = 1024;

/** Writes down what a new machine shall run when it is ready for the first time. */
export async function insertStarter(
  tx: Tx,
  machineId: string,
  { lines, limitSeconds }: Starter,
  requesterId: string,
): Promise<void> {
  await insertScript(
    tx,
    {
      machine_id: machineId,
      starter: true,
      limit_ms: limitSeconds * 1000,
      state: 'waiting',
      requested_by: requesterId,
    },
    lines,
  );
}

/** Called in the transaction that says that a machine has become ready: its starter script, if it waits, is due. */
export async function releaseStarter(tx: Tx, machineId: string): Promise<void> {
  const script = await tx
    .updateTable('machine_scripts')
    .set({ state: 'running' })
    .where('machine_id', '=', machineId)
    .where('state', '=', 'waiting')
    .returningAll()
    .executeTakeFirst();
  if (script) await enqueueScript(tx, script, null);
}

async function enqueueScript(tx: Tx, { id, machine_id, requested_by }: Row, requestId: string | null) {
  const job = await enqueue(
    tx,
    scriptKind,
    { scriptId: id },
    { requester: requested_by, requestId, resources: [machine_id], dedupeKey: `script ${id}` },
  );
  await tx.updateTable('machine_scripts').set({ job_id: job.id }).where('id', '=', id).execute();
  return job;
}

export function openScripts(cloud: Cloud): Scripts {
  const { db } = cloud;
  return {
    async list(machineId) {
      const rows = await selectViews(db).where('s.machine_id', '=', machineId).execute();
      return rows.map(viewOf);
    },
    async get(machineId, scriptId) {
      const row = await selectViews(db)
        .where('s.machine_id', '=', machineId)
        .where('s.id', '=', scriptId)
        .executeTakeFirst();
      if (!row) throw new CarrelError('not_found', `script ${scriptId} does not exist`);
      return { ...viewOf(row), results: (await selectScriptLines(db, scriptId)).map(resultOf) };
    },
    async run(actor, machineId, wanted, { requestId } = {}) {
      await answering(cloud, machineId, 'run');
      return transaction(db, async (tx) => {
        await selectMachineForUpdate(tx, machineId);
        await refuseSecond(tx, machineId);
        await forgetOld(tx, machineId);
        const { lines, limitMs } = await linesOf(tx, machineId, wanted);
        const script = await insertScript(
          tx,
          {
            machine_id: machineId,
            starter: false,
            limit_ms: limitMs,
            state: 'running',
            requested_by: actor.id,
          },
          lines,
        );
        return { scriptId: script.id, job: await enqueueScript(tx, script, requestId ?? null) };
      });
    },
  };
}

async function linesOf(tx: Tx, machineId: string, wanted: NewScript) {
  if ('lines' in wanted) return { lines: wanted.lines, limitMs: wanted.limitSeconds * 1000 };
  const before = await selectScript(tx, wanted.again);
  if (before.machine_id !== machineId)
    throw new CarrelError('not_found', `script ${wanted.again} does not exist`);
  return {
    lines: (await selectScriptLines(tx, before.id)).map(({ line }) => line),
    limitMs: wanted.limitSeconds === undefined ? before.limit_ms : wanted.limitSeconds * 1000,
  };
}

/** Two scripts in one machine at a time would mix their effects. */
async function refuseSecond(tx: Tx, machineId: string): Promise<void> {
  const other = await tx
    .selectFrom('machine_scripts as s')
    .innerJoin('jobs as j', 'j.id', 's.job_id')
    .select('s.id')
    .where('s.machine_id', '=', machineId)
    .where('s.state', '=', 'running')
    .where('j.state', 'in', ['queued', 'running'])
    .executeTakeFirst();
  if (other)
    throw new CarrelError('wrong_state', `script ${other.id} is being run in this machine`, {
      hint: 'wait until it has ended, or cancel its job',
      details: { script: other.id },
    });
}

async function forgetOld(tx: Tx, machineId: string): Promise<void> {
  await tx
    .deleteFrom('machine_scripts')
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('machine_scripts')
        .select('id')
        .where('machine_id', '=', machineId)
        .where('state', '<>', 'waiting')
        .orderBy('created_at', 'desc')
        .orderBy('id')
        .offset(maxScripts - 1),
    )
    .execute();
}

/** The job with its handler, for the worker that has the machines. */
export function scriptJob(cloud: Cloud): DefinedJob<typeof args, typeof result> {
  return defineJob({
    ...scriptKind,
    run: (context, { scriptId }) => runScript(cloud, context, scriptId),
  });
}

async function runScript(
  cloud: Cloud,
  context: JobContext,
  scriptId: string,
): Promise<z.input<typeof result>> {
  const { db } = cloud;
  const script = await selectScript(db, scriptId); // `not_found`: the machine was deleted
  if (script.ended_at !== null) return summaryOf(db, scriptId);
  await db
    .updateTable('machine_scripts')
    .set({ started_at: sql<Date>`coalesce(started_at, now())` })
    .where('id', '=', scriptId)
    .execute();
  await endUnseen(db, scriptId);
  const lines = await selectScriptLines(db, scriptId);
  let kept = lines.reduce((sum, { stdout, stderr }) => sum + stdout.length + stderr.length, 0);
  try {
    for (const line of lines) {
      if (line.started_at !== null) continue;
      context.signal.throwIfAborted();
      context.progress(line.number - 1, lines.length, line.line.slice(0, 60));
      kept += await runLine(cloud, script, line, context.signal, kept);
    }
  } catch (error) {
    // told to stop so that another worker goes on: only a cancellation is an end
    if (context.signal.aborted && !isCarrelError(context.signal.reason, 'cancelled')) throw error;
    await endScript(db, scriptId, context.signal.aborted ? 'cancelled' : 'interrupted', error);
    throw error;
  }
  await endScript(db, scriptId, 'done');
  return summaryOf(db, scriptId);
}

async function summaryOf(db: Db, scriptId: string): Promise<z.input<typeof result>> {
  const lines = await selectScriptLines(db, scriptId);
  const failed = lines.filter(({ ended_at, exit }) => ended_at !== null && exit?.['status'] !== 0);
  return { scriptId, lines: lines.length, failed: failed.length };
}

/** Runs one line and writes down what came of it; gives how much of its output was kept. */
async function runLine(
  cloud: Cloud,
  { id, machine_id, limit_ms }: Row,
  { number, line }: ScriptLine,
  signal: AbortSignal,
  kept: number,
): Promise<number> {
  const { db } = cloud;
  using _work = cloud.idleness.atWork(machine_id);
  const machine = await answering(cloud, machine_id, 'run'); // else the line is not begun
  const one = db.updateTable('machine_script_lines').where('script_id', '=', id).where('number', '=', number);
  const begun = await one.set({ started_at: new Date() }).where('started_at', 'is', null).executeTakeFirst();
  if (begun.numUpdatedRows === 0n)
    throw new CarrelError('cancelled', `line ${number} of script ${id} was begun by another worker`);
  const began = performance.now();
  try {
    const reply = await machine.run(
      {
        argv: ['/bin/sh', '-c', line],
        env: {},
        cwd: '/root',
        user: 'root',
        stdin: '', // a program that reads it finds its end, not the following lines
        limitMs: limit_ms,
        outputBytes: lineOutputBytes,
      },
      { signal },
    );
    const bytes = kept < keptOfScript ? keptBytes : keptAfterThat;
    const stdout = beginningOf(reply.stdout, bytes);
    const stderr = beginningOf(reply.stderr, bytes);
    await one
      .set({
        ended_at: new Date(),
        wall_ms: reply.wallMs,
        exit: json<Readonly<Record<string, unknown>>>(reply.end),
        stdout: stdout.text,
        stdout_bytes: stdout.total,
        stderr: stderr.text,
        stderr_bytes: stderr.total,
      })
      .where('ended_at', 'is', null)
      .execute();
    return stdout.text.length + stderr.text.length;
  } catch (error) {
    await one
      .set({
        ended_at: new Date(),
        wall_ms: performance.now() - began,
        error: signal.aborted ? unseen : messageOf(error),
      })
      .where('ended_at', 'is', null)
      .execute();
    throw error;
  }
}

const unseen = 'it was interrupted: whether it has done its work is not known';

async function endUnseen(db: Db, scriptId: string): Promise<void> {
  await db
    .updateTable('machine_script_lines')
    .set({ ended_at: new Date(), error: unseen })
    .where('script_id', '=', scriptId)
    .where('started_at', 'is not', null)
    .where('ended_at', 'is', null)
    .execute();
}

async function endScript(db: Db, id: string, state: Row['state'], error?: unknown): Promise<void> {
  await db
    .updateTable('machine_scripts')
    .set({
      state,
      ended_at: new Date(),
      failure: error === undefined || state === 'cancelled' ? null : json(storedError(error)),
    })
    .where('id', '=', id)
    .where('ended_at', 'is', null)
    .execute();
}

/** The first bytes as text that the database takes. */
function beginningOf(base64: string, bytes: number): { text: string; total: number } {
  const all = Buffer.from(base64, 'base64');
  return { text: all.subarray(0, bytes).toString('utf8').replaceAll('\0', '\uFFFD'), total: all.length };
}

function selectViews(db: Db) {
  const ended = sql<number>`(select count(*) from machine_script_lines l
    where l.script_id = s.id and l.ended_at is not null)`;
  const failed = sql<number>`(select count(*) from machine_script_lines l
    where l.script_id = s.id and l.ended_at is not null and coalesce(l.exit->>'status', '') <> '0')`;
  return db
    .selectFrom('machine_scripts as s')
    .leftJoin('users as u', 'u.id', 's.requested_by')
    .leftJoin('jobs as j', 'j.id', 's.job_id')
    .selectAll('s')
    .select([
      'u.name as requester',
      'j.state as job_state',
      sql<number>`(select count(*) from machine_script_lines l where l.script_id = s.id)`.as('lines'),
      ended.as('ended'),
      failed.as('failed'),
    ])
    .orderBy('s.created_at', 'desc')
    .orderBy('s.id');
}

type ViewRow = Awaited<ReturnType<ReturnType<typeof selectViews>['execute']>>[number];

function viewOf(row: ViewRow): Script {
  const atWork = row.job_state === 'queued' || row.job_state === 'running';
  return {
    id: row.id,
    machineId: row.machine_id,
    starter: row.starter,
    // a job that was given up could not say so here
    state: row.state === 'running' && !atWork ? 'interrupted' : row.state,
    failure: row.failure && {
      code: row.failure.code,
      message: row.failure.message,
      hint: row.failure.hint ?? null,
    },
    lines: row.lines,
    ended: row.ended,
    failed: row.failed,
    limitSeconds: Math.ceil(row.limit_ms / 1000),
    jobId: row.job_id,
    requester: row.requester,
    createdAt: row.created_at.toISOString(),
    startedAt: row.started_at?.toISOString() ?? null,
    endedAt: row.ended_at?.toISOString() ?? null,
  };
}

function resultOf(line: ScriptLine): ScriptLineResult {
  return {
    number: line.number,
    line: line.line,
    startedAt: line.started_at?.toISOString() ?? null,
    wallMs: line.wall_ms,
    end: line.exit && programEnd.parse(line.exit),
    error: line.error,
    stdout: line.stdout,
    stderr: line.stderr,
    stdoutBytes: line.stdout_bytes,
    stderrBytes: line.stderr_bytes,
  };
}
