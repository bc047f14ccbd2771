/**
 * Machines: desired state and what was last seen of it. `gen` grows with every change that a reader can see,
 * so "wait until gen has moved" works. A deleted machine keeps its row (`deleted_at`).
 */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { sql, type Insertable, type Selectable, type Updateable } from 'kysely';
import type { CreatedAt, DefaultedJson, Defaulted, Fact, Nullable, NullableJson } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { StoredError } from './jobs.ts';
import type { Db, Tx } from './schema.ts';

export type MachineState = 'stopped' | 'running' | 'paused' | 'failed';

/** What a machine may use. Left out means the default of the cloud, never unlimited. */
export interface MachineLimits {
  /** Processors, fractions allowed. */
  readonly cpu?: number;
  /** Bytes. */
  readonly memory?: number;
  readonly pids?: number;
  /** Bytes. */
  readonly disk?: number;
}
/** The process that a machine hangs off; `startTime` (clock ticks since boot) tells it from a recycled pid. */
export interface KeeperRecord {
  readonly pid: number;
  readonly startTime: string;
  readonly [more: string]: unknown;
}

/** See Runtime in machines/driver.ts. */
export interface MachineRuntime {
  readonly accelerator: 'kvm' | 'tcg' | null;
  readonly startedFrom: 'image' | 'template';
  readonly note: string | null;
}

export interface MachineTable {
  id: Fact<string>;
  name: string;
  owner_id: Fact<string>;
  course_id: Nullable<string>;
  lab_id: Nullable<string>;
  submission_id: Nullable<string>;
  driver: Fact<string>;
  image_id: Nullable<string>;
  state: Defaulted<MachineState>;
  /** What is being done to it: creating, starting, stopping, deleting, ...; null when nothing is. */
  activity: Nullable<string>;
  failure: NullableJson<StoredError & { readonly at: string }>;
  gen: Defaulted<number>;
  limits: DefaultedJson<MachineLimits>;
  labels: DefaultedJson<Readonly<Record<string, string>>>;
  /** What the driver was asked for beyond the columns; its schema belongs to the driver. */
  config: DefaultedJson<Readonly<Record<string, unknown>>>;
  /** Container ids start at 1000000 + uid_slot * 65536. Freed when the machine's files are gone. */
  uid_slot: Nullable<number>;
  network_id: Nullable<string>;
  address: Nullable<string>;
  mac: Nullable<string>;
  keeper: NullableJson<KeeperRecord>;
  expires_at: Nullable<Date>;
  idle_stop_ms: Nullable<number>;
  /** How it came to run; null while it does not. */
  runtime: NullableJson<MachineRuntime>;
  /** Running, and frozen for being idle until somebody wants something of it. */
  asleep: Defaulted<boolean>;
  idle_freeze_ms: Nullable<number>;
  /** What it may send and receive in a second, each; null: no limit. */
  bytes_per_second: Nullable<number>;
  started_at: Nullable<Date>;
  deleted_at: Nullable<Date>;
  created_at: CreatedAt;
}
export type Machine = Selectable<MachineTable>;

/** Makes the row, before anything is done; `name_taken` if the owner has a machine of that name. */
export async function insertMachine(
  db: Db,
  { id = newId('machine'), ...values }: Omit<Insertable<MachineTable>, 'id'> & { readonly id?: string },
): Promise<Machine> {
  try {
    return await db
      .insertInto('machines')
      .values({ id, ...values })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    if (violatedConstraint(error) !== 'machines_owner_name') throw error;
    throw new CarrelError('name_taken', `machine "${values.name}" already exists in your account`, {
      hint: `choose another name, or delete it with: carrel machine rm ${values.name}`,
      cause: error,
    });
  }
}

/** A machine that is not deleted. */
export async function selectOptionalMachine(db: Db, id: string): Promise<Machine | undefined> {
  return db
    .selectFrom('machines')
    .selectAll()
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .executeTakeFirst();
}

export async function selectMachine(db: Db, id: string): Promise<Machine> {
  const machine = await selectOptionalMachine(db, id);
  if (!machine) throw new CarrelError('not_found', `machine ${id} does not exist`);
  return machine;
}

/** The row, locked until the transaction ends: decide and write under it. */
export async function selectMachineForUpdate(tx: Tx, id: string): Promise<Machine> {
  const machine = await tx
    .selectFrom('machines')
    .selectAll()
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .forUpdate()
    .executeTakeFirst();
  if (!machine) throw new CarrelError('not_found', `machine ${id} does not exist`);
  return machine;
}

/** Changes the row and moves `gen`. */
export async function updateMachine(
  db: Db,
  id: string,
  values: Omit<Updateable<MachineTable>, 'gen'>,
): Promise<Machine> {
  const machine = await db
    .updateTable('machines')
    .set({ ...values, gen: sql<number>`gen + 1` })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst();
  if (!machine) throw new CarrelError('not_found', `machine ${id} does not exist`);
  return machine;
}

/** Highest number of container id ranges: the last one must end below 2^32 - 1. */
export const maxUidSlots = Math.floor((2 ** 32 - 1 - 1_000_000) / 65_536);

/**
 * The lowest range of container ids that nobody has; `no_capacity` when there is none. Parallel calls wait for the
 * end of each other's transactions, in which it is written to a row.
 */
export async function lowestFreeUidSlot(tx: Tx): Promise<number> {
  await sql`select pg_advisory_xact_lock(hashtextextended('uid slots', 0))`.execute(tx);
  const { rows } = await sql<{ slot: number | null }>`
    select min(slot) as slot from (select 0 as slot union all select uid_slot + 1 from uid_slots) candidates
    where slot < ${maxUidSlots} and not exists (select from uid_slots where uid_slot = slot)`.execute(tx);
  const slot = rows[0]?.slot ?? null;
  if (slot === null) throw new CarrelError('no_capacity', 'all ranges of container user ids are in use');
  return slot;
}

/** Gives the machine the lowest free range of container ids, or the one it has already. */
export async function allocateUidSlot(tx: Tx, machineId: string): Promise<number> {
  const had = await tx
    .selectFrom('machines')
    .select('uid_slot')
    .where('id', '=', machineId)
    .executeTakeFirst();
  if (!had) throw new CarrelError('not_found', `machine ${machineId} does not exist`);
  if (had.uid_slot !== null) return had.uid_slot;
  const slot = await lowestFreeUidSlot(tx);
  await tx.updateTable('machines').set({ uid_slot: slot }).where('id', '=', machineId).execute();
  return slot;
}
