/**
 * Snapshots of disks: what is asked for, and what is done. The row comes first: `creating` until the driver has
 * made it, `deleting` until the driver has forgotten it. The machine's activity is the lock, so there is at most
 * one that is neither ready nor left over.
 */
import { CarrelError } from '#base/errors.ts';
import type { Actor, RequestInfo } from '#base/actor.ts';
import type { Snapshot } from '#contract/schemas/snapshots.ts';
import { enqueue } from '#jobs/queue.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { type Machine as Row, selectMachineForUpdate } from '#store/machines.ts';
import type { Db, Tx } from '#store/schema.ts';
import {
  insertSnapshot,
  selectSnapshot,
  selectSnapshots,
  type Snapshot as SnapshotRow,
  updateSnapshot,
} from '#store/snapshots.ts';
import { type Cloud, driverFor } from './cloud.ts';
import { requireCapability } from './driver.ts';
import { eventOf } from './events.ts';
import { jobKey, jobKindOf } from './jobs.ts';
import { type Accepted, jobAtWork, type VerbOptions } from './requests.ts';
import { activityOf, changeMachine } from './rows.ts';
import { decideDiskWork, type DiskWork } from './state.ts';

export interface Snapshots {
  snapshots(machineId: string): Promise<Snapshot[]>;
  /** Gives the snapshot's id beside the job. */
  snapshot(
    actor: Actor,
    machineId: string,
    name: string,
    options?: RequestInfo,
  ): Promise<Accepted & { readonly snapshotId: string }>;
  /** `key`: id or name. */
  dropSnapshot(actor: Actor, machineId: string, key: string, options?: RequestInfo): Promise<Accepted>;
  restore(actor: Actor, machineId: string, key: string, options?: VerbOptions): Promise<Accepted>;
}

/** Each holds what has changed since, and the host's disk is everybody's. */
const maxSnapshots = 16;

export function openSnapshots(cloud: Cloud): Snapshots {
  const { db } = cloud;

  const changed = <T extends Accepted>(accepted: T): T => {
    cloud.changed(accepted.machineId);
    return accepted;
  };

  return {
    snapshots: async (machineId) => (await selectSnapshots(db, machineId)).map(viewOf),

    async snapshot(actor, machineId, name, options = {}) {
      const accepted = await transaction(db, async (tx) => {
        const row = await lock(cloud, tx, machineId, 'snapshotting');
        const { length } = await selectSnapshots(tx, machineId);
        if (length >= maxSnapshots)
          throw new CarrelError('quota_exceeded', `a machine may have ${maxSnapshots} snapshots`, {
            hint: 'delete some: carrel snapshot rm',
          });
        const snapshot = await insertSnapshot(tx, machineId, name);
        return {
          ...(await begin(tx, row, 'snapshotting', snapshot, actor, options)),
          snapshotId: snapshot.id,
        };
      });
      return changed(accepted);
    },

    async dropSnapshot(actor, machineId, key, options = {}) {
      const accepted = await transaction(db, async (tx) => {
        const present = await selectMachineForUpdate(tx, machineId);
        const snapshot = await selectSnapshot(tx, machineId, key);
        // asked for again while it is being done
        const atWork = snapshot.state === 'deleting' ? await jobAtWork(tx, present) : undefined;
        if (atWork) return { machineId, job: atWork };
        const row = await lock(cloud, tx, machineId, 'snapshotting');
        await updateSnapshot(tx, snapshot.id, { state: 'deleting' });
        return begin(tx, row, 'snapshotting', snapshot, actor, options);
      });
      return changed(accepted);
    },

    async restore(actor, machineId, key, options = {}) {
      const accepted = await transaction(db, async (tx) => {
        const row = await lock(cloud, tx, machineId, 'restoring', options.allow);
        const snapshot = await requireReady(tx, machineId, key);
        return begin(tx, row, 'restoring', snapshot, actor, options);
      });
      return changed(accepted);
    },
  };
}

/** The machine's row, locked, if the work may begin. */
async function lock(
  cloud: Cloud,
  tx: Tx,
  machineId: string,
  work: DiskWork,
  allow?: VerbOptions['allow'],
): Promise<Row> {
  const row = await selectMachineForUpdate(tx, machineId);
  allow?.(row.gen);
  requireCapability(driverFor(cloud, row), 'snapshot');
  const decision = decideDiskWork({ state: row.state, activity: activityOf(row) }, work);
  if (decision.kind !== 'refused') return row;
  const verb = work === 'restoring' ? 'be restored' : 'change its snapshots';
  throw new CarrelError('wrong_state', `machine ${row.name} cannot ${verb}: ${decision.reason}`, {
    hint: decision.hint,
    details: { state: row.state, activity: row.activity },
  });
}

/** Sets the activity and makes the job. */
async function begin(
  tx: Tx,
  row: Row,
  work: DiskWork,
  snapshot: SnapshotRow,
  actor: Actor,
  { requestId }: RequestInfo,
): Promise<Accepted> {
  const gen = await changeMachine(tx, row, { activity: work });
  if (gen === undefined) throw new CarrelError('internal', `machine ${row.id} changed under its lock`);
  const job = await enqueue(
    tx,
    jobKindOf(work),
    { machineId: row.id, gen, snapshotId: snapshot.id },
    {
      requester: actor.id,
      requestId: requestId ?? null,
      resources: [row.id, snapshot.id],
      dedupeKey: jobKey(row.id, gen),
    },
  );
  await insertEvent(tx, eventOf(row, `machine.${work}`, { gen, snapshot: snapshot.name }, actor.id));
  return { machineId: row.id, job };
}

/** A snapshot that can be used. */
export async function requireReady(db: Db, machineId: string, key: string): Promise<SnapshotRow> {
  const snapshot = await selectSnapshot(db, machineId, key);
  if (snapshot.state === 'ready') return snapshot;
  throw new CarrelError('wrong_state', `snapshot "${snapshot.name}" is ${snapshot.state}`, {
    hint: snapshot.state === 'creating' ? 'wait until it is ready' : 'choose another one',
  });
}

function viewOf(row: SnapshotRow): Snapshot {
  return {
    id: row.id,
    machineId: row.machine_id,
    name: row.name,
    state: row.state,
    bytes: row.bytes,
    createdAt: row.created_at.toISOString(),
  };
}
