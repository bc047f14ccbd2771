/**
 * What the OS-Cloud routes call a machine: a number that counts from 1 in each account, and a name of any
 * characters. Rows stay when the machine is deleted, so that no number is given twice.
 */
import { sql, type Insertable } from 'kysely';
import type { CreatedAt, Fact } from './columns.ts';
import type { Tx } from './schema.ts';

export interface OsCloudMachineTable {
  owner_id: Fact<string>;
  number: Fact<number>;
  machine_id: Fact<string>;
  /** As it was given: it may hold any characters. */
  display_name: Fact<string>;
  /** The template and the network, as they were asked for. */
  os: Fact<string>;
  network: Fact<string>;
  created_at: CreatedAt;
}

/** Gives the machine the account's next number. The caller holds the lock of the owner's row. */
export async function insertOsCloudMachine(
  tx: Tx,
  values: Omit<Insertable<OsCloudMachineTable>, 'number'>,
): Promise<number> {
  const { number } = await tx
    .insertInto('oscloud_machines')
    .values((eb) => ({
      ...values,
      number: eb
        .selectFrom('oscloud_machines')
        .where('owner_id', '=', values.owner_id)
        .select(sql<number>`coalesce(max(number), 0) + 1`.as('next')),
    }))
    .returning('number')
    .executeTakeFirstOrThrow();
  return number;
}
