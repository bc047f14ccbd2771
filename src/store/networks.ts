/** Networks: a name, a range, a gateway. `default` comes with the first migration. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { sql, type Insertable, type Selectable } from 'kysely';
import type { CreatedAt, Defaulted, Fact, Nullable } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { Db, Tx } from './schema.ts';

export type NetworkIsolation = 'owner' | 'open';
export type NetworkLayout = 'bridge' | 'routed';

export interface NetworkTable {
  id: Fact<string>;
  name: Fact<string>;
  /** Its bridge in the fabric; a routed network has none, and the name stands for nothing. */
  bridge: Fact<string>;
  /** `192.168.0.0/16`; of a routed network the range that its subnets lie in. */
  cidr: Fact<string>;
  /** `192.168.0.1`; of a routed network the gateway of its first subnet. */
  gateway: Fact<string>;
  nat: Defaulted<boolean>;
  dhcp: Defaulted<boolean>;
  isolation: Defaulted<NetworkIsolation>;
  layout: Defaulted<NetworkLayout>;
  created_by: Nullable<string>;
  created_at: CreatedAt;
}
export type Network = Selectable<NetworkTable>;

/**
 * Makes the row. Its range may touch no other network's, except that the routed layout lies inside a larger one,
 * which then gives no addresses there; `wrong_state` when machines have such addresses already.
 */
export async function insertNetwork(
  tx: Tx,
  values: Omit<Insertable<NetworkTable>, 'id' | 'bridge'> & { readonly bridge?: string },
): Promise<Network> {
  const id = newId('network');
  // nobody gives an address while it is looked whether the range is free
  await tx.selectFrom('networks').select('id').orderBy('id').forUpdate().execute();
  const within = values.layout === 'routed' ? sql<boolean>`and not ${values.cidr}::cidr << cidr` : sql``;
  const { rows } = await sql<{ name: string; cidr: string }>`
    select name, cidr::text from networks where cidr && ${values.cidr}::cidr ${within} limit 1`.execute(tx);
  const [other] = rows;
  if (other)
    throw new CarrelError('name_taken', `${values.cidr} overlaps network "${other.name}" (${other.cidr})`, {
      hint: 'choose another range, or leave it out',
    });
  const { rows: used } = await sql<{ address: string }>`
    select host(address) as address from addresses where address << ${values.cidr}::cidr limit 1`.execute(tx);
  if (used[0])
    throw new CarrelError(
      'wrong_state',
      `${used[0].address} in ${values.cidr} is a machine's address already`,
      {
        hint: 'delete that machine first',
      },
    );
  try {
    return await tx
      .insertInto('networks')
      .values({ id, bridge: `b${id.slice(2)}`, ...values })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    const constraint = violatedConstraint(error);
    if (constraint === 'networks_routed')
      throw new CarrelError('name_taken', 'there is a network with the routed layout already', {
        hint: 'its subnets are fixed, so there can be one only',
        cause: error,
      });
    if (!constraint?.startsWith('networks_')) throw error;
    throw new CarrelError('name_taken', `network "${values.name}" already exists`, { cause: error });
  }
}

export async function selectOptionalNetwork(db: Db, id: string): Promise<Network | undefined> {
  return db.selectFrom('networks').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function selectNetworkByName(db: Db, name = 'default'): Promise<Network> {
  const network = await db.selectFrom('networks').selectAll().where('name', '=', name).executeTakeFirst();
  if (!network) throw new CarrelError('not_found', `network "${name.slice(0, 80)}" does not exist`);
  return network;
}

export async function selectNetworks(db: Db): Promise<Network[]> {
  return db.selectFrom('networks').selectAll().orderBy('name').execute();
}

/** The network with this id or name, locked against new machines; `wrong_state` while it has some. */
export async function lockEmptyNetwork(tx: Tx, key: string): Promise<Network> {
  const network = await tx
    .selectFrom('networks')
    .selectAll()
    .where((eb) => eb.or([eb('id', '=', key), eb('name', '=', key)]))
    .forUpdate()
    .executeTakeFirst();
  if (!network) throw new CarrelError('not_found', `network "${key.slice(0, 80)}" does not exist`);
  if (network.name === 'default')
    throw new CarrelError(
      'wrong_state',
      'the network "default" stays: machines are put there unless told otherwise',
    );
  const { count } = await tx
    .selectFrom('machines')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('network_id', '=', network.id)
    .where('deleted_at', 'is', null)
    .executeTakeFirstOrThrow();
  if (count > 0)
    throw new CarrelError(
      'wrong_state',
      `network "${network.name}" has ${count} ${count === 1 ? 'machine' : 'machines'}`,
      {
        hint: 'delete them first: carrel machine ls',
      },
    );
  return network;
}

/** Of a network that `lockEmptyNetwork` gave in the same transaction. Machines of the past forget where they were. */
export async function deleteNetwork(tx: Tx, id: string): Promise<void> {
  await tx.updateTable('machines').set({ network_id: null }).where('network_id', '=', id).execute();
  await tx.deleteFrom('networks').where('id', '=', id).execute();
}
