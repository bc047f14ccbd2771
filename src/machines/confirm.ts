/**
 * One machine's row against what is really there: what runs is held, what has ended is told, what should not
 * run is ended. The caller holds the machine's lock.
 */
import { messageOf } from '#base/errors.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { type Machine as Row, selectOptionalMachine } from '#store/machines.ts';
import { type Cloud, driverFor, specOf } from './cloud.ts';
import type { EndReport, RunningMachine } from './driver.ts';
import { eventOf } from './events.ts';
import { listen } from './idle.ts';
import { atRest, changeMachine } from './rows.ts';
import { endAll } from './work.ts';

/** What one pass changed, for the log and for tests. */
export interface ReconcileReport {
  adopted: number;
  corrected: number;
  swept: number;
}

/** The row says that it runs. */
export async function confirmRunning(cloud: Cloud, row: Row, report: ReconcileReport): Promise<void> {
  let machine: RunningMachine | undefined = cloud.living.get(row.id);
  if (!machine) {
    machine = await adoptOrDoubt(cloud, row);
    if (!machine) {
      report.corrected += 1;
      await writeEnd(cloud, row);
      return;
    }
    cloud.living.hold(row.id, machine);
    report.adopted += 1;
  }
  const frozen = machine.isPaused();
  if (row.asleep && frozen) {
    if (!cloud.sleepers.has(row.id)) await listen(cloud, row.id);
    return;
  }
  const state = frozen ? 'paused' : 'running';
  if (state === row.state && !row.asleep) return;
  // nobody has paused it: who looks for such machines says why it waits (stalled.ts)
  if (frozen && (await machine.isStalled())) return;
  report.corrected += 1;
  await write(cloud, row, { state, asleep: false }, `machine.${state === 'paused' ? 'paused' : 'resumed'}`);
}

/** After this many vain attempts to reach a keeper that lives, its machine is called failed. */
const doubts = 3;

/**
 * Adopts it. A keeper that lives and does not answer is no dead one: nothing is started or ended because of it,
 * but after some time people are told.
 */
async function adoptOrDoubt(cloud: Cloud, row: Row): Promise<RunningMachine | undefined> {
  try {
    const machine = await driverFor(cloud, row).adopt(await specOf(cloud, row));
    cloud.unreachable.delete(row.id);
    return machine;
  } catch (error) {
    const times = (cloud.unreachable.get(row.id) ?? 0) + 1;
    cloud.unreachable.set(row.id, times);
    if (times < doubts) throw error;
    cloud.unreachable.delete(row.id);
    const failure = failureOf(
      'machine_lost',
      `it runs but does not answer: ${messageOf(error)}`,
      'start it again; its disk is kept',
    );
    await write(cloud, row, { state: 'failed', failure }, 'machine.failed');
    throw error;
  }
}

/** The row says that it does not run: then nothing of it may. */
export async function confirmStopped(cloud: Cloud, row: Row, report: ReconcileReport): Promise<void> {
  const driver = driverFor(cloud, row);
  const spec = await specOf(cloud, row);
  const machine = await driver.adopt(spec).catch(() => 'unreachable' as const);
  if (machine !== undefined) {
    report.corrected += 1;
    // it was only out of reach: see `adoptOrDoubt`
    if (machine !== 'unreachable' && row.state === 'failed' && row.failure?.code === 'machine_lost') {
      cloud.living.hold(row.id, machine);
      await write(
        cloud,
        row,
        { state: machine.isPaused() ? 'paused' : 'running', failure: null },
        'machine.found',
      );
      return;
    }
    if (machine !== 'unreachable') machine.release();
    cloud.log.warn('a stopped machine had processes', { machine: row.id });
    await endAll(cloud, driver, spec, 0);
  }
  await driver.tidy(spec);
}

/** Called when the first process of a machine has ended and nobody asked for it. */
export async function noticeEnd(cloud: Cloud, id: string, report: EndReport): Promise<void> {
  using lock = await cloud.locks.take(id);
  const row = await selectOptionalMachine(cloud.db, id);
  if (!row) lock.forget();
  if (!row || row.activity !== null || (row.state !== 'running' && row.state !== 'paused')) return;
  if (cloud.living.get(id)) return; // it was started again meanwhile
  const machine = await driverFor(cloud, row).adopt(await specOf(cloud, row));
  if (machine) {
    cloud.living.hold(id, machine); // only the connection was lost
    return;
  }
  await writeEnd(cloud, row, report);
}

async function writeEnd(cloud: Cloud, row: Row, seen?: EndReport): Promise<void> {
  const driver = driverFor(cloud, row);
  const spec = await specOf(cloud, row);
  // what its keeper wrote down counts also when the connection broke before we were told
  const { end, outOfMemory, fault } = seen?.end ? seen : driver.lastEnd(spec);
  await driver.tidy(spec);
  const orderly = end?.kind === 'exited' && !outOfMemory && fault === undefined;
  if (orderly) {
    await write(cloud, row, { state: 'stopped', ...atRest }, 'machine.ended');
    return;
  }
  const failure =
    fault !== undefined
      ? failureOf('machine_lost', `it did not halt: ${fault}`, 'see: carrel machine inspect')
      : failureOf(
          'machine_lost',
          outOfMemory
            ? 'its first process was ended because the memory was used up'
            : `its first process ended: ${endText(end)}`,
          'start it again; its disk is kept',
        );
  await write(cloud, row, { state: 'failed', ...atRest, failure }, 'machine.ended');
}

function endText(end: EndReport['end']): string {
  if (end?.kind === 'signaled' && end.signal === 'SIGXFSZ')
    return 'the file of its disk became longer than a disk of its size can make it';
  if (end === null) return 'how is not known, for instance because the host was restarted';
  return end.kind === 'signaled' ? `by signal ${end.signal}` : end.kind;
}

export function failureOf(code: 'machine_lost' | 'cancelled' | 'disk_full', message: string, hint: string) {
  return json({ code, message, hint, at: new Date().toISOString() });
}

/** Changes the row and tells of it, unless somebody was faster. */
export async function write(
  cloud: Pick<Cloud, 'db' | 'changed'>,
  row: Row,
  values: Parameters<typeof changeMachine>[2],
  kind: string,
): Promise<void> {
  await transaction(cloud.db, async (tx) => {
    const gen = await changeMachine(tx, row, values);
    if (gen !== undefined) await insertEvent(tx, eventOf(row, kind, { gen }));
  });
  cloud.changed(row.id);
}
