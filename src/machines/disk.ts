/**
 * Work at the disk of a machine, whose lock the caller holds. Every step may be done again from its start: a kill
 * -9 in between leaves what the next attempt, or the undoing, finds by its row.
 */
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { type Machine as Row, selectOptionalMachine } from '#store/machines.ts';
import type { Db, Tx } from '#store/schema.ts';
import {
  deleteSnapshot,
  selectOptionalSnapshot,
  selectSnapshots,
  type Snapshot,
  updateSnapshot,
} from '#store/snapshots.ts';
import type { Cloud } from './cloud.ts';
import type { Driver, MachineSpec, RunningMachine } from './driver.ts';
import { activityOf, configOf } from './rows.ts';

/** A machine with what knows how to handle it. */
export interface Machinery {
  readonly cloud: Cloud;
  readonly row: Row;
  readonly driver: Driver;
  readonly spec: MachineSpec;
}

/** What is written in the transaction that ends the work. */
export type Settle = (tx: Tx) => Promise<void>;

/** The machine, if by its row it has processes. It may have ended by itself: that is `machine_lost`. */
export async function present({ cloud, row, driver, spec }: Machinery): Promise<RunningMachine | undefined> {
  if (row.state !== 'running' && row.state !== 'paused') return undefined;
  try {
    return await cloud.living.require(driver, spec);
  } catch (error) {
    if (!isCarrelError(error, 'wrong_state')) throw error;
    throw new CarrelError('machine_lost', `machine ${spec.name} has ended by itself`, { cause: error });
  }
}

/** Makes or forgets the snapshot, whichever its row says. */
export async function changeSnapshot(machinery: Machinery, snapshotId: string | undefined): Promise<Settle> {
  const { cloud, row, driver, spec } = machinery;
  const snapshot = await find(cloud.db, row.id, snapshotId);
  const running = await present(machinery);
  if (snapshot.state === 'deleting') {
    await driver.dropSnapshot(spec, snapshot.name, running);
    return (tx) => deleteSnapshot(tx, snapshot.id);
  }
  const { bytes } = await driver.snapshot(spec, snapshot.name, running);
  return (tx) => updateSnapshot(tx, snapshot.id, { state: 'ready', bytes });
}

/** The machine is stopped. */
export async function restoreSnapshot(
  { cloud, row, driver, spec }: Machinery,
  snapshotId: string | undefined,
): Promise<void> {
  const snapshot = await find(cloud.db, row.id, snapshotId);
  await driver.restore(spec, snapshot.name);
}

async function find(db: Db, machineId: string, snapshotId: string | undefined): Promise<Snapshot> {
  const snapshot = await selectOptionalSnapshot(db, machineId, snapshotId ?? '');
  if (!snapshot) throw new CarrelError('not_found', 'the snapshot does not exist any more');
  return snapshot;
}

/**
 * After work at snapshots that was given up: what was half made is forgotten. One that cannot be forgotten now stays
 * as `deleting`, for its owner to see and to delete again.
 */
export async function undoSnapshots(machinery: Machinery): Promise<void> {
  const { cloud, row, driver, spec } = machinery;
  for (const { id, name, state } of await selectSnapshots(cloud.db, row.id)) {
    if (state === 'ready') continue;
    try {
      await driver.dropSnapshot(spec, name, await present(machinery));
      await deleteSnapshot(cloud.db, id);
    } catch (error) {
      cloud.log.warn('a snapshot could not be forgotten yet', {
        machine: row.id,
        snapshot: name,
        error: messageOf(error),
      });
      await updateSnapshot(cloud.db, id, { state: 'deleting' });
    }
  }
}

/** The disk of a new machine: of its image, or a copy of another machine's, which may go on running meanwhile. */
export async function prepareDisk(
  { cloud, row, driver, spec }: Machinery,
  signal: AbortSignal,
  { starting = false }: { starting?: boolean } = {},
): Promise<void> {
  const { source } = configOf(row);
  if (!source) return driver.prepare(spec, { starting });
  if (source.copied) return undefined;
  // lock order: the copy's, then the original's; an original never waits for its copies
  using _lock = await cloud.locks.take(source.machineId, { signal });
  const original = await selectOptionalMachine(cloud.db, source.machineId);
  if (!original)
    throw new CarrelError('not_found', 'the machine to be copied does not exist any more', {
      hint: 'delete this one',
    });
  const activity = activityOf(original);
  if (activity === 'creating' || activity === 'restoring')
    throw new CarrelError('unavailable', `machine ${original.name} is ${activity} right now`);
  if (source.snapshot !== null) {
    const snapshot = await selectOptionalSnapshot(cloud.db, original.id, source.snapshot);
    if (snapshot?.state !== 'ready')
      throw new CarrelError('not_found', `there is no snapshot "${source.snapshot}" any more to be copied`, {
        hint: 'delete this machine',
      });
  }
  await driver.prepare(spec);
}
