/**
 * The jobs that change machines. A job carries the generation that the machine got when the job was made: as
 * long as that is the machine's generation, the job owns the machine; when it is not, it has been overtaken
 * (by a delete, or by an earlier attempt of its own that came to its end) and touches nothing.
 */
import { z } from 'zod';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import type { Activity } from '#contract/schemas/machines.ts';
import { type DefinedJob, defineJob, isRetriable, type JobContext, storedError } from '#jobs/types.ts';
import { releaseAddresses } from '#store/addresses.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { deleteForwards } from '#store/forwards.ts';
import { type Machine as Row, selectOptionalMachine } from '#store/machines.ts';
import { deleteScripts } from '#store/scripts.ts';
import { deleteSnapshots } from '#store/snapshots.ts';
import type { Cloud } from './cloud.ts';
import type { RunningMachine } from './driver.ts';
import { eventOf } from './events.ts';
import { activityOf, atRest, changeMachine, configJson, configOf, type MachineConfig } from './rows.ts';
import { releaseStarter } from './scripts.ts';
import { settled, undone } from './state.ts';
import { type Outcome, perform, undo, type WorkContext, type WorkOptions } from './work.ts';

const args = z.strictObject({
  machineId: z.string(),
  gen: z.int(),
  graceMs: z.int().min(0).optional(),
  /** Of work at a snapshot. */
  snapshotId: z.string().optional(),
});
const result = z.strictObject({ machineId: z.string(), state: z.string().nullable() });

export type MachineJobKind = {
  readonly kind: string;
  readonly args: typeof args;
  readonly result: typeof result;
  readonly maxAttempts: number;
};

/** Tries of a step that the host refused for a moment; the machine keeps its activity meanwhile. */
const maxAttempts = 3;

const kindNames: Readonly<Record<Activity, string>> = {
  creating: 'machine.create',
  starting: 'machine.start',
  stopping: 'machine.stop',
  restarting: 'machine.restart',
  pausing: 'machine.pause',
  resuming: 'machine.resume',
  deleting: 'machine.remove',
  snapshotting: 'machine.snapshot',
  restoring: 'machine.restore',
};

/** The kind of job that does an activity: enough to enqueue it. */
export function jobKindOf(activity: Activity): MachineJobKind {
  return { kind: kindNames[activity], args, result, maxAttempts };
}

/** At most one unfinished job per machine and generation. */
export function jobKey(machineId: string, gen: number): string {
  return `machine ${machineId} ${gen}`;
}

/** The jobs with their handlers, for a worker. */
export function machineJobs(cloud: Cloud): DefinedJob<typeof args, typeof result>[] {
  return Object.values(kindNames).map((kind) =>
    defineJob({
      kind,
      args,
      result,
      maxAttempts,
      run: (context, order) => runJob(cloud, context, order),
    }),
  );
}

type Order = z.output<typeof args>;

async function runJob(
  cloud: Cloud,
  context: JobContext,
  { machineId, gen, graceMs, snapshotId }: Order,
): Promise<z.input<typeof result>> {
  using lock = await cloud.locks.take(machineId, { signal: context.signal });
  const row = await selectOptionalMachine(cloud.db, machineId);
  if (!row) lock.forget();
  const activity = row && row.gen === gen ? activityOf(row) : null;
  if (!row || activity === null) return overtaken(row, machineId);
  const last = (error: unknown): boolean =>
    !(error instanceof CarrelError) ||
    !isRetriable(error.code) ||
    context.job.failures + 1 >= context.job.max_attempts;
  const state = await carryOut(
    cloud,
    row,
    activity,
    { signal: context.signal, step: (name) => context.step(name) },
    { last, graceMs, snapshotId },
  );
  if (state === null) lock.forget();
  return { machineId, state };
}

/** An earlier attempt got to the end but could not say so; or a delete came in between. */
function overtaken(row: Row | undefined, machineId: string): z.input<typeof result> {
  if (row && row.activity === null && row.failure === null) return { machineId, state: row.state };
  if (row?.failure) throw new CarrelError('internal', row.failure.message);
  throw new CarrelError('cancelled', `machine ${machineId} was deleted meanwhile`);
}

/**
 * Does the activity of a row and writes how it ended; the caller holds the machine's lock. Gives the state
 * reached, null when the machine is gone.
 */
export async function carryOut(
  cloud: Cloud,
  row: Row,
  activity: Activity,
  context: WorkContext,
  { last = () => true, ...options }: WorkOptions & { last?: (error: unknown) => boolean } = {},
): Promise<Row['state'] | null> {
  const interrupt = new AbortController();
  if (activity !== 'deleting') cloud.interrupts.set(row.id, interrupt);
  try {
    const signal = AbortSignal.any([context.signal, interrupt.signal]);
    const outcome = await perform(cloud, row, activity, { signal, step: context.step }, options);
    return await finish(cloud, row, activity, outcome);
  } catch (error) {
    // Told to stop, and not because somebody wants it undone: the next worker goes on from here.
    if (context.signal.aborted && !isCarrelError(context.signal.reason, 'cancelled')) throw error;
    if (interrupt.signal.aborted) throw error; // the delete that is waiting undoes it
    if (isCarrelError(error, 'unavailable')) throw error; // the database: nothing can be written now
    if (!last(error)) throw error;
    await fail(cloud, row, activity, error);
    throw error;
  } finally {
    if (cloud.interrupts.get(row.id) === interrupt) cloud.interrupts.delete(row.id);
  }
}

const eventNames: Readonly<Record<Activity, string>> = {
  creating: 'machine.created',
  starting: 'machine.started',
  stopping: 'machine.stopped',
  restarting: 'machine.restarted',
  pausing: 'machine.paused',
  resuming: 'machine.resumed',
  deleting: 'machine.deleted',
  snapshotting: 'machine.snapshotted',
  restoring: 'machine.restored',
};

async function finish(
  cloud: Cloud,
  row: Row,
  activity: Activity,
  { running, settle }: Outcome,
): Promise<Row['state'] | null> {
  const config = configOf(row);
  const state = settled(activity, row.state, config);
  const moved = await transaction(cloud.db, async (tx) => {
    const gone = state === null;
    const values = gone
      ? {
          state: 'stopped' as const,
          activity: null,
          ...atRest,
          uid_slot: null,
          address: null,
          deleted_at: new Date(),
        }
      : {
          state,
          activity: null,
          ...(activity === 'snapshotting' ? {} : { failure: null, ...lifeOf(running) }),
          ...(running && activity !== 'pausing' && activity !== 'resuming' ? { started_at: new Date() } : {}),
          ...(activity === 'creating' || running
            ? { config: configJson(afterCopying(config, running)) }
            : {}),
        };
    const gen = await changeMachine(tx, row, values);
    if (gen === undefined) return undefined;
    if (gone) {
      await releaseAddresses(tx, row.id);
      await deleteForwards(tx, row.id);
      await deleteScripts(tx, row.id);
      await deleteSnapshots(tx, row.id);
    } else if (state === 'running') await releaseStarter(tx, row.id);
    await settle?.(tx);
    await insertEvent(tx, eventOf(row, eventNames[activity], { gen }));
    return gen;
  });
  cloud.changed(row.id);
  if (moved === undefined) throw new CarrelError('cancelled', `machine ${row.name} was deleted meanwhile`);
  return state;
}

/** What is known of the processes. */
function lifeOf(running: RunningMachine | undefined) {
  if (!running) return atRest;
  return { keeper: json({ ...running.process }), runtime: json({ ...running.runtime }), asleep: false };
}

/**
 * A copy has its disk now; once it has run it is a machine like any other. Until then its driver is told, or might
 * begin it from a template.
 */
function afterCopying(config: MachineConfig, running: RunningMachine | undefined): MachineConfig {
  const { source, ...rest } = config;
  return source && !running ? { ...rest, source: { ...source, copied: true } } : rest;
}

async function fail(cloud: Cloud, row: Row, activity: Activity, error: unknown): Promise<void> {
  try {
    await undo(cloud, row, activity);
  } catch (undoError) {
    cloud.log.error('a failed activity could not be undone', {
      machine: row.id,
      activity,
      error: messageOf(undoError),
    });
  }
  await transaction(cloud.db, async (tx) => {
    const failure = { ...storedError(error), at: new Date().toISOString() };
    const state = undone(activity, row.state);
    const kind = activity === 'snapshotting' ? 'machine.snapshot_failed' : 'machine.failed';
    const gen = await changeMachine(tx, row, {
      state,
      activity: null,
      // a machine without a snapshot is as well as before: the job says what went wrong
      ...(activity === 'snapshotting' ? {} : { failure: json(failure) }),
      ...(state === 'failed' ? atRest : {}),
    });
    if (gen !== undefined) await insertEvent(tx, eventOf(row, kind, { gen, activity, ...failure }));
  });
  cloud.changed(row.id);
}
