/** Snapshots of machines' disks. The row comes before the snapshot and goes after it. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Selectable } from 'kysely';
import type { CreatedAt, Defaulted, Fact, Nullable } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { Db } from './schema.ts';

export type SnapshotState = 'creating' | 'ready' | 'deleting';

export interface SnapshotTable {
  id: Fact<string>;
  machine_id: Fact<string>;
  name: Fact<string>;
  state: Defaulted<SnapshotState>;
  /** What it holds on the host's disk by itself; known once it is ready. */
  bytes: Nullable<number>;
  created_at: CreatedAt;
}
export type Snapshot = Selectable<SnapshotTable>;

/** Makes the row, `creating`; `name_taken` if the machine has a snapshot of that name. */
export async function insertSnapshot(db: Db, machineId: string, name: string): Promise<Snapshot> {
  try {
    return await db
      .insertInto('machine_snapshots')
      .values({ id: newId('snapshot'), machine_id: machineId, name })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    if (violatedConstraint(error) !== 'machine_snapshots_name') throw error;
    throw new CarrelError('name_taken', `the machine has a snapshot "${name}" already`, {
      hint: 'choose another name, or delete it first: carrel snapshot rm',
      cause: error,
    });
  }
}

/** Of one machine, the oldest first. */
export async function selectSnapshots(db: Db, machineId: string): Promise<Snapshot[]> {
  return db
    .selectFrom('machine_snapshots')
    .selectAll()
    .where('machine_id', '=', machineId)
    .orderBy('created_at')
    .orderBy('id')
    .execute();
}

/** By id or name. */
export async function selectOptionalSnapshot(
  db: Db,
  machineId: string,
  key: string,
): Promise<Snapshot | undefined> {
  return db
    .selectFrom('machine_snapshots')
    .selectAll()
    .where('machine_id', '=', machineId)
    .where((eb) => eb.or([eb('id', '=', key), eb('name', '=', key)]))
    .executeTakeFirst();
}

export async function selectSnapshot(db: Db, machineId: string, key: string): Promise<Snapshot> {
  const snapshot = await selectOptionalSnapshot(db, machineId, key);
  if (!snapshot) throw new CarrelError('not_found', `snapshot "${key.slice(0, 80)}" does not exist`);
  return snapshot;
}

export async function updateSnapshot(
  db: Db,
  id: string,
  values: { readonly state: SnapshotState; readonly bytes?: number },
): Promise<void> {
  await db.updateTable('machine_snapshots').set(values).where('id', '=', id).execute();
}

export async function deleteSnapshot(db: Db, id: string): Promise<void> {
  await db.deleteFrom('machine_snapshots').where('id', '=', id).execute();
}

/** All of a machine, when its disk is gone. */
export async function deleteSnapshots(db: Db, machineId: string): Promise<void> {
  await db.deleteFrom('machine_snapshots').where('machine_id', '=', machineId).execute();
}
