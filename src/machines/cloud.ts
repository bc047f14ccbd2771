/** What the parts of this folder share: one cloud's machines as this process sees them. */
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Logger } from '#base/log.ts';
import type { DriverName } from '#contract/schemas/machines.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { Machine as Row } from '#store/machines.ts';
import type { Db } from '#store/schema.ts';
import type { Driver, MachineSpec, RunningMachine } from './driver.ts';
import type { Drivers } from './drivers/table.ts';
import type { Idleness } from './idleness.ts';
import type { Living } from './living.ts';
import type { MachineLocks } from './locks.ts';
import { type Networks, standing } from './networks.ts';
import { configOf, driverOf, limitsOf } from './rows.ts';

export interface Cloud {
  readonly db: Db;
  readonly drivers: Drivers;
  readonly living: Living;
  readonly locks: MachineLocks;
  /** Where each machine has its directory. */
  readonly directory: string;
  readonly networks: Networks;
  readonly fabric: Pick<Fabric, 'onFirstPacket'>;
  readonly idleness: Idleness;
  /** Who listens for those that sleep, by machine. */
  readonly sleepers: Map<string, Disposable>;
  readonly log: Logger;
  /** Tells waiters in this process that a machine's row has changed. */
  readonly changed: (id: string) => void;
  /** Work of this process that a delete may interrupt, by machine. */
  readonly interrupts: Map<string, AbortController>;
  /** Machines that this process uses for one piece of work (fresh.ts). */
  readonly fresh: Set<string>;
  /** How often in a row the keeper of a machine could not be reached though it lives. */
  readonly unreachable: Map<string, number>;
}

export function driverFor(cloud: Cloud, row: Pick<Row, 'driver'>): Driver {
  return driverNamed(cloud, driverOf(row));
}

export function driverNamed({ drivers }: Pick<Cloud, 'drivers'>, name: DriverName): Driver {
  const driver = drivers[name];
  if (driver) return driver;
  throw new CarrelError('driver_unsupported', `this cloud has no machines of kind ${name}`);
}

/**
 * Machines of one neighbourhood reach each other: those of one owner. A machine that grades is alone, or its
 * author could lend it a hand from a machine of his own.
 */
export function neighbourhoodOf({
  id,
  owner_id,
  submission_id,
}: Pick<Row, 'id' | 'owner_id' | 'submission_id'>): string {
  return submission_id === null ? owner_id : id;
}

/** The facts a driver needs. */
export async function specOf(cloud: Cloud, row: Row): Promise<MachineSpec> {
  if (row.uid_slot === null || row.network_id === null || row.address === null || row.mac === null)
    throw new CarrelError('internal', `machine ${row.id} has lost its address or its user ids`);
  const network = await cloud.networks.of(row.network_id);
  const { imageHash, sshKeys, source } = configOf(row);
  return {
    id: row.id,
    name: row.name,
    ownerId: neighbourhoodOf(row),
    directory: join(cloud.directory, row.id),
    image: imageHash,
    limits: limitsOf(row),
    uidSlot: row.uid_slot,
    network: {
      name: network.name,
      address: row.address,
      ...standing(network, row.address),
      mac: row.mac,
      bytesPerSecond: row.bytes_per_second,
    },
    sshKeys,
    ...(source && {
      source: {
        id: source.machineId,
        directory: join(cloud.directory, source.machineId),
        snapshot: source.snapshot,
      },
    }),
  };
}

/** The running machine behind a row. */
export async function runningOf(cloud: Cloud, row: Row): Promise<RunningMachine> {
  const known = cloud.living.get(row.id);
  return known ?? cloud.living.require(driverFor(cloud, row), await specOf(cloud, row));
}
