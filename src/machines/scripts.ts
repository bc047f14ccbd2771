/**
 * Scripts: lines that are run inside a machine one after the other, each by a shell of its own, each with its
 * time limit. Here they are asked for and shown; script-job.ts runs them.
 */
import { sql } from 'kysely';
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import type { Actor, RequestInfo } from '#base/actor.ts';
import { programEnd } from '#contract/schemas/machines.ts';
import type { NewScript, Script, ScriptDetail, ScriptLineResult } from '#contract/schemas/scripts.ts';
import type { Starter } from '#contract/schemas/starter.ts';
import { enqueue } from '#jobs/queue.ts';
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
import { answering } from './answering.ts';

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
/** Enough to enqueue it; its handler is in script-job.ts. */
export const scriptKind = { kind: 'machine.script', args, result, maxAttempts: 1 } as const;

/** Of one machine: older ones are forgotten. */
const maxScripts = 20;
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
      await answering(cloud, machineId, 'exec');
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
