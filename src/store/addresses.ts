/**
 * Which machine has which address. The lowest free one is given, from network + 2 up to broadcast - 1; in the
 * routed layout the lowest free number, and with it a subnet.
 */
import { CarrelError } from '#base/errors.ts';
import { addressOfNumber, isMachineNumber, numbered, numbersInWords } from '#base/numbered.ts';
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
 * `192.168.0.2`; in the routed layout that of `number`, if one is asked for. What lies in the range of a smaller
 * network is that network's. The network's row is locked, so parallel calls wait for each other's transactions:
 * keep those short. `no_capacity` when the network is full, `name_taken` when the number is.
 *
 * `no key`: a machine's row that names the network holds a share of its key, and may be waiting for the one who
 * asks here.
 */
export async function allocateAddress(
  tx: Tx,
  networkId: string,
  machineId: string,
  { number }: { readonly number?: number | undefined } = {},
): Promise<string> {
  const network = await tx
    .selectFrom('networks')
    .select(['name', 'layout'])
    .where('id', '=', networkId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (!network) throw new CarrelError('not_found', `network ${networkId} does not exist`);
  const isRouted = network.layout === 'routed';
  if (number !== undefined && !isRouted)
    throw new CarrelError('validation_failed', `network "${network.name}" does not number its machines`, {
      hint: 'leave the number out, or choose a network with the routed layout',
    });
  if (number !== undefined && !isMachineNumber(number))
    throw new CarrelError('validation_failed', `there is no subnet of number ${number}`, {
      hint: `numbers are ${numbersInWords}`,
    });
  const had = await tx
    .selectFrom('addresses')
    .select('address')
    .where('network_id', '=', networkId)
    .where('machine_id', '=', machineId)
    .executeTakeFirst();
  if (had) return had.address;
  const address = isRouted
    ? await takeNumber(tx, networkId, machineId, number)
    : await takeLowest(tx, networkId, machineId);
  if (address !== undefined) return address;
  if (number !== undefined)
    throw new CarrelError('name_taken', `number ${number} of network "${network.name}" is taken`, {
      hint: 'choose another one, or leave it out',
    });
  throw new CarrelError('no_capacity', `network "${network.name}" has no free address`, {
    hint: 'delete machines that are no longer needed, or make another network',
  });
}

/**
 * The lowest free address is the first one, or the successor of one that is not free: the gateway, a taken one, the
 * last one of a smaller network inside.
 */
async function takeLowest(tx: Tx, networkId: string, machineId: string): Promise<string | undefined> {
  const { rows } = await sql<{ address: string }>`
    with net as (select cidr, gateway from networks where id = ${networkId}),
    inner_nets as (select o.cidr from networks o, net where o.cidr << net.cidr),
    candidates as (
      select host(network(cidr))::inet + 2 as address from net
      union select gateway + 1 from net
      union select address + 1 from addresses where network_id = ${networkId}
      union select host(broadcast(cidr))::inet + 1 from inner_nets
    )
    insert into addresses (network_id, address, machine_id)
    select ${networkId}, c.address, ${machineId} from candidates c, net
    where c.address >= host(network(net.cidr))::inet + 2 and c.address < host(broadcast(net.cidr))::inet
      and c.address <> net.gateway
      and not exists (select from addresses a where a.address = c.address)
      and not exists (select from inner_nets i where c.address << i.cidr)
    order by c.address limit 1
    returning address`.execute(tx);
  return rows[0]?.address;
}

/** That of the number, or the lowest free one. */
async function takeNumber(
  tx: Tx,
  networkId: string,
  machineId: string,
  number: number | undefined,
): Promise<string | undefined> {
  const [from, to] = number === undefined ? [numbered.first, numbered.last] : [number, number];
  const candidates = Array.from({ length: to - from + 1 }, (_, index) => addressOfNumber(from + index));
  const { rows } = await sql<{ address: string }>`
    insert into addresses (network_id, address, machine_id)
    select ${networkId}, c.address, ${machineId} from unnest(${candidates}::inet[]) c (address)
    where not exists (select from addresses a where a.address = c.address)
    order by c.address limit 1
    returning address`.execute(tx);
  return rows[0]?.address;
}

/** Frees the machine's addresses. Only when its interface is gone: the next machine may get the address at once. */
export async function releaseAddresses(db: Db, machineId: string): Promise<void> {
  await db.deleteFrom('addresses').where('machine_id', '=', machineId).execute();
}
