/**
 * The job that runs a script: line by line, each written down before the next begins.
 *
 * A line is begun at most once: its row says so before it is run. After a kill -9 of the daemon the job goes on
 * behind the line that was running, and says of that line that nobody saw its end.
 */
import { sql } from 'kysely';
import type { z } from 'zod';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { type DefinedJob, defineJob, type JobContext, storedError } from '#jobs/types.ts';
import { json } from '#store/columns.ts';
import type { Db } from '#store/schema.ts';
import { type Script as Row, type ScriptLine, selectScript, selectScriptLines } from '#store/scripts.ts';
import type { Cloud } from './cloud.ts';
import { answering } from './answering.ts';
import { scriptKind } from './scripts.ts';

type Summary = z.input<typeof scriptKind.result>;

/** A line that prints more is ended. */
const lineOutputBytes = 4 * 2 ** 20;
/** Kept of each stream of a line, as long as the script as a whole has kept less than the second figure. */
const keptBytes = 16 * 2 ** 10;
const keptOfScript = 2 ** 20;
const keptAfterThat = 1024;

/** The job with its handler, for the worker that has the machines. */
export function scriptJob(cloud: Cloud): DefinedJob<typeof scriptKind.args, typeof scriptKind.result> {
  return defineJob({
    ...scriptKind,
    run: (context, { scriptId }) => runScript(cloud, context, scriptId),
  });
}

async function runScript(cloud: Cloud, context: JobContext, scriptId: string): Promise<Summary> {
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

async function summaryOf(db: Db, scriptId: string): Promise<Summary> {
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
  const machine = await answering(cloud, machine_id, 'exec'); // else the line is not begun
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
