/** Networks: a bridge, its range, its gateway. `default` comes with the first migration. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Insertable, Selectable } from 'kysely';
import type { CreatedAt, Defaulted, Fact } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { Db } from './schema.ts';

export interface NetworkTable {
  id: Fact<string>;
  name: string;
  bridge: Fact<string>;
  /** `192.168.0.0/16` */
  cidr: Fact<string>;
  /** `192.168.0.1` */
  gateway: Fact<string>;
  nat: Defaulted<boolean>;
  created_at: CreatedAt;
}
export type Network = Selectable<NetworkTable>;

export async function insertNetwork(db: Db, values: Omit<Insertable<NetworkTable>, 'id'>): Promise<Network> {
  try {
    return await db
      .insertInto('networks')
      .values({ id: newId('network'), ...values })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    if (!violatedConstraint(error)?.startsWith('networks_')) throw error;
    throw new CarrelError(
      'name_taken',
      `network "${values.name}" or bridge "${values.bridge}" already exists`,
      {
        cause: error,
      },
    );
  }
}

export async function selectNetworkByName(db: Db, name = 'default'): Promise<Network> {
  const network = await db.selectFrom('networks').selectAll().where('name', '=', name).executeTakeFirst();
  if (!network) throw new CarrelError('not_found', `network "${name}" does not exist`);
  return network;
}

export async function selectNetworks(db: Db): Promise<Network[]> {
  return db.selectFrom('networks').selectAll().orderBy('name').execute();
}
