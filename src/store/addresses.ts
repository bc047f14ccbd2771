/** Which machine has which address. The lowest free one is given, from network + 2 up to broadcast - 1. */
import { CarrelError } from '#base/errors.ts';
import { sql } from 'kysely';
import type { CreatedAt, Fact } from './columns.ts';
import type { Db, Tx } from './schema.ts';

export interface AddressTable {
  network_id: Fact<string>;
  address: Fact<string>;
  machine_id: Fact<string>;
  created_at: CreatedAt;
}

/**
 * Gives the machine the lowest free address of the network (or the one it has already), for example
 * `192.168.0.2`. The network's row is locked, so parallel calls wait for each other's transactions:
 * keep those short. `no_capacity` when the network is full.
 *
 * `no key`: a machine's row that names the network holds a share of its key, and may be waiting for the one who
 * asks here.
 */
export async function allocateAddress(tx: Tx, networkId: string, machineId: string): Promise<string> {
  const network = await tx
    .selectFrom('networks')
    .select('name')
    .where('id', '=', networkId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (!network) throw new CarrelError('not_found', `network ${networkId} does not exist`);
  const had = await tx
    .selectFrom('addresses')
    .select('address')
    .where('network_id', '=', networkId)
    .where('machine_id', '=', machineId)
    .executeTakeFirst();
  if (had) return had.address;
  // The lowest free address is the first one, the gateway's successor, or the successor of a taken one.
  const { rows } = await sql<{ address: string }>`
    with net as (select cidr, gateway from networks where id = ${networkId}),
    candidates as (
      select host(network(cidr))::inet + 2 as address from net
      union select gateway + 1 from net
      union select address + 1 from addresses where network_id = ${networkId}
    )
    insert into addresses (network_id, address, machine_id)
    select ${networkId}, c.address, ${machineId} from candidates c, net
    where c.address >= host(network(net.cidr))::inet + 2 and c.address < host(broadcast(net.cidr))::inet
      and c.address <> net.gateway
      and not exists (select from addresses a where a.network_id = ${networkId} and a.address = c.address)
    order by c.address limit 1
    returning address`.execute(tx);
  const address = rows[0]?.address;
  if (address === undefined)
    throw new CarrelError('no_capacity', `network "${network.name}" has no free address`, {
      hint: 'delete machines that are no longer needed, or make a larger network',
    });
  return address;
}

/** Frees the machine's addresses. Only when its interface is gone: the next machine may get the address at once. */
export async function releaseAddresses(db: Db, machineId: string): Promise<void> {
  await db.deleteFrom('addresses').where('machine_id', '=', machineId).execute();
}
