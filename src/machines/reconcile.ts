/**
 * Makes rows and reality agree: after a start of the daemon for everything, and every few seconds for what
 * can have come apart. What lives is adopted, what was half made is finished or undone, what has no row goes.
 *
 * Each machine is looked at on its own and with a time limit, so one that hangs does not stop the others.
 */
import { isId } from '#base/ids.ts';
import { within } from '#base/deadline.ts';
import { isCarrelError, messageOf } from '#base/errors.ts';
import { isAlive } from '#host/processes.ts';
import { type Machine as Row, selectOptionalMachine } from '#store/machines.ts';
import { selectSpares } from '#store/templates.ts';
import type { Cloud } from './cloud.ts';
import { confirmRunning, confirmStopped, failureOf, type ReconcileReport, write } from './confirm.ts';
import { carryOut, jobKey } from './jobs.ts';
import { requestVerb } from './requests.ts';
import { activityOf, atRest, configOf } from './rows.ts';
import { undo } from './work.ts';

const oneMachineMs = 20_000;
const atATime = 8;

/** Everything: at the start of the daemon, before workers run. */
export async function reconcileAll(cloud: Cloud): Promise<ReconcileReport> {
  const report = { adopted: 0, corrected: 0, swept: 0 };
  const drivers = Object.values(cloud.drivers);
  // first the traces, then the rows: what has a trace and no row now will never get one
  const traces = new Set<string>();
  for (const driver of drivers) for (const id of await driver.traces()) traces.add(id);
  // before the machines: one that gets an owner meanwhile is found among those
  for (const { id } of await selectSpares(cloud.db)) traces.delete(id);
  const rows = await cloud.db.selectFrom('machines').selectAll().where('deleted_at', 'is', null).execute();
  await eachOf(cloud, rows, (row) => settleRow(cloud, row.id, report, { thorough: true }));
  for (const { id } of rows) traces.delete(id);
  await eachOf(
    cloud,
    [...traces].filter((id) => isId('machine', id)).map((id) => ({ id })),
    async ({ id }) => {
      using lock = await cloud.locks.take(id, { limitMs: 1000 });
      for (const driver of drivers) await driver.sweep(id);
      lock.forget();
      report.swept += 1;
    },
  );
  return report;
}

/** What can have come apart since: rows at work without a job, runs without processes, expired machines. */
export async function reconcileSome(cloud: Cloud): Promise<ReconcileReport> {
  const report = { adopted: 0, corrected: 0, swept: 0 };
  const held = new Set(cloud.living.ids());
  const rows = await cloud.db
    .selectFrom('machines')
    .select(['id', 'state', 'activity', 'expires_at', 'submission_id'])
    .where('deleted_at', 'is', null)
    .where((eb) =>
      eb.or([
        eb('activity', 'is not', null),
        eb('state', 'in', ['running', 'paused']),
        eb('expires_at', '<', new Date()),
        // made for one piece of work, it is gone when that is done, however it ended
        eb('submission_id', 'is not', null),
      ]),
    )
    .execute();
  const now = Date.now();
  const doubtful = rows.filter(
    ({ id, activity, expires_at, submission_id }) =>
      !cloud.locks.isBusy(id) &&
      !cloud.fresh.has(id) &&
      (activity !== null ||
        submission_id !== null ||
        !held.has(id) ||
        (expires_at?.getTime() ?? Infinity) < now),
  );
  await eachOf(cloud, doubtful, async ({ id, expires_at, activity }) => {
    if (expires_at && expires_at.getTime() < now && activity !== 'deleting')
      await requestVerb(cloud, null, id, 'remove');
    else await settleRow(cloud, id, report, { thorough: false });
  });
  return report;
}

/**
 * The machines that this process made for one piece of work and could not remove, because the database or the
 * isolation server was away just then. Nobody else may touch them while this process lives.
 */
export async function removeOwnLeftOvers(cloud: Cloud): Promise<void> {
  const rows = await cloud.db
    .selectFrom('machines')
    .selectAll()
    .where('deleted_at', 'is', null)
    .where('submission_id', 'is not', null)
    .execute();
  const report = { adopted: 0, corrected: 0, swept: 0 };
  const own = rows.filter((row) => configOf(row).ephemeral?.pid === process.pid && isLeftOver(cloud, row));
  await eachOf(cloud, own, ({ id }) => settleRow(cloud, id, report, { thorough: false }));
}

async function eachOf<T extends { readonly id: string }>(
  cloud: Cloud,
  items: readonly T[],
  work: (item: T) => Promise<void>,
): Promise<void> {
  const waiting = items.values();
  const lane = async (): Promise<void> => {
    for (const item of waiting)
      try {
        await within(oneMachineMs, `machine ${item.id}`, work(item));
      } catch (error) {
        if (isCarrelError(error, 'not_found')) continue; // deleted meanwhile
        cloud.log.warn('a machine could not be reconciled', { machine: item.id, error: messageOf(error) });
      }
  };
  await Promise.all(Array.from({ length: atATime }, lane));
}

async function settleRow(
  cloud: Cloud,
  id: string,
  report: ReconcileReport,
  { thorough }: { thorough: boolean },
): Promise<void> {
  using lock = await cloud.locks.take(id, { limitMs: thorough ? 1000 : 100 });
  const row = await selectOptionalMachine(cloud.db, id);
  if (!row) {
    lock.forget();
    return;
  }
  if (isLeftOver(cloud, row)) {
    report.corrected += 1;
    await carryOut(cloud, row, 'deleting', { signal: new AbortController().signal, step: () => undefined });
    lock.forget();
  } else if (row.activity !== null) {
    if (await finishUnfinished(cloud, row, report)) lock.forget();
  } else if (row.state === 'running' || row.state === 'paused') await confirmRunning(cloud, row, report);
  else if (thorough) await confirmStopped(cloud, row, report);
}

/** A machine made for one piece of work whose worker is gone, or could not remove it. */
function isLeftOver(cloud: Cloud, row: Row): boolean {
  const { ephemeral } = configOf(row);
  if (!ephemeral || cloud.fresh.has(row.id)) return false;
  return ephemeral.pid === process.pid || !isAlive(ephemeral);
}

/** An activity without a job that does it. Gives true when the machine is gone. */
async function finishUnfinished(cloud: Cloud, row: Row, report: ReconcileReport): Promise<boolean> {
  if (configOf(row).ephemeral || (await hasJob(cloud, row))) return false;
  const activity = activityOf(row);
  report.corrected += 1;
  cloud.log.warn('an activity was left unfinished', { machine: row.id, activity });
  const context = { signal: new AbortController().signal, step: () => undefined };
  if (activity === 'deleting') return (await carryOut(cloud, row, 'deleting', context)) === null;
  if (activity === 'stopping') {
    await carryOut(cloud, row, 'stopping', context);
    return false;
  }
  if (activity === 'pausing' || activity === 'resuming') {
    await write(cloud, row, { activity: null }, 'machine.corrected');
    return false;
  }
  if (activity === 'snapshotting') {
    await undo(cloud, row, activity);
    await write(cloud, row, { activity: null }, 'machine.corrected');
    return false;
  }
  await undo(cloud, row, activity ?? 'starting');
  await write(
    cloud,
    row,
    {
      state: 'failed',
      activity: null,
      ...atRest,
      failure: failureOf(
        'cancelled',
        `${activity} was given up before it was done`,
        'start it again, or delete it',
      ),
    },
    'machine.failed',
  );
  return false;
}

async function hasJob(cloud: Cloud, { id, gen }: Row): Promise<boolean> {
  const job = await cloud.db
    .selectFrom('jobs')
    .select('id')
    .where('dedupe_key', '=', jobKey(id, gen))
    .where('state', 'in', ['queued', 'running'])
    .executeTakeFirst();
  return job !== undefined;
}
