/** The cloud's networks: rows in the database, and what the fabric makes of them. */
import { CarrelError } from '#base/errors.ts';
import { gatewayOfNumber, numbered } from '#base/numbered.ts';
import type { Actor } from '#base/actor.ts';
import type { NewNetwork } from '#contract/schemas/networks.ts';
import { contains, formatAddress, formatCidr, gatewayOf, overlaps, parseCidr } from '#fabric/addresses.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { Host } from '#fabric/names.ts';
import { type NetworkPlan, parsePlan, placeOf } from '#fabric/networks.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import {
  deleteNetwork,
  insertNetwork,
  lockEmptyNetwork,
  type Network,
  selectNetworks,
  selectOptionalNetwork,
} from '#store/networks.ts';
import type { Db } from '#store/schema.ts';

export interface Networks {
  /** By id, and there in the fabric as this process sees it. */
  of(id: string): Promise<Network>;
  create(actor: Actor, wanted: NewNetwork): Promise<Network>;
  /** By id or name; `wrong_state` while it has machines. */
  remove(actor: Actor, key: string): Promise<void>;
  /** Makes in the fabric what the database says: at the start of the daemon, before wires are looked at. */
  reconcile(): Promise<void>;
  /** Tells the networks with DHCP which machines there are: by the one process that reconciles, now and then. */
  announce(): Promise<void>;
}

/** Where a machine with this address stands: how far it sees, and who leads it out. */
export function standing(network: Network, address: string): { prefix: number; gateway: string } {
  const { prefix, gateway } = placeOf(parsePlan(planOf(network)), address);
  return { prefix, gateway: formatAddress(gateway) };
}

function planOf({ name, bridge, cidr, gateway, nat, dhcp, isolation, layout }: Network): NetworkPlan {
  return { name, bridge, cidr, gateway, nat, dhcp, isolation, layout };
}

/** RFC 1918, and RFC 6598's range for those who use the others up. */
const privateRanges = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10'].map(parseCidr);
const shortestPrefix = 16;
const longestPrefix = 29;
/** Ranges for those who name none: 10.200.0.0/24 and those after it. */
const ownRanges = Array.from({ length: 256 }, (_, n) => `10.200.${n}.0/24`);

/** The range of a new network, checked, or the first of our own that touches no other's. */
export function rangeFor(
  { cidr, layout }: Pick<NewNetwork, 'cidr' | 'layout'>,
  others: readonly Pick<Network, 'cidr'>[],
): { cidr: string; gateway: string } {
  if (layout === 'routed') {
    if (cidr !== undefined && cidr !== numbered.cidr)
      throw new CarrelError('validation_failed', 'the subnets of the routed layout are fixed', {
        hint: 'leave the range out',
      });
    return { cidr: numbered.cidr, gateway: gatewayOfNumber(numbered.first) };
  }
  const taken = others.map((other) => parseCidr(other.cidr));
  const text = cidr ?? ownRanges.find((range) => taken.every((other) => !overlaps(parseCidr(range), other)));
  if (text === undefined) throw new CarrelError('no_capacity', 'all ranges for networks are in use');
  const range = parseCidr(text);
  if (range.prefix < shortestPrefix || range.prefix > longestPrefix)
    throw new CarrelError(
      'validation_failed',
      `a network is a /${shortestPrefix} to a /${longestPrefix}, not a /${range.prefix}`,
    );
  if (!privateRanges.some((whole) => contains(whole, range.base)))
    throw new CarrelError(
      'validation_failed',
      `${formatCidr(range)} is not private: its machines would hide hosts`,
      {
        hint: 'choose a range in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16',
      },
    );
  return { cidr: text, gateway: formatAddress(gatewayOf(range)) };
}

export function openNetworks(db: Db, fabric: Fabric): Networks {
  /** Networks never change, and an id is never given again. */
  const known = new Map<string, Promise<Network>>();

  /** What was said last, by network. */
  const announced = new Map<string, string>();

  const load = async (id: string): Promise<Network> => {
    const network = await selectOptionalNetwork(db, id);
    if (!network) throw new CarrelError('not_found', `network ${id} does not exist`);
    await fabric.ensureNetwork(planOf(network));
    return network;
  };
  const of = (id: string): Promise<Network> => {
    const found = known.get(id);
    if (found) return found;
    const loading = load(id);
    known.set(id, loading);
    loading.catch(() => known.delete(id));
    return loading;
  };

  return {
    of,
    async create(actor, wanted) {
      const network = await transaction(db, async (tx) => {
        const range = rangeFor(wanted, await selectNetworks(tx));
        const { name, nat, isolation, layout } = wanted;
        // a subnet with one machine needs nobody to tell it its address
        const dhcp = wanted.dhcp && layout === 'bridge';
        const row = await insertNetwork(tx, {
          name,
          nat,
          dhcp,
          isolation,
          layout,
          ...range,
          created_by: actor.id,
        });
        parsePlan(planOf(row));
        await insertEvent(tx, {
          kind: 'network.created',
          subject: row.id,
          actor: actor.id,
          payload: { name, cidr: row.cidr },
        });
        return row;
      });
      try {
        await of(network.id);
      } catch (error) {
        await transaction(db, async (tx) => deleteNetwork(tx, (await lockEmptyNetwork(tx, network.id)).id));
        throw error;
      }
      return network;
    },
    async remove(actor, key) {
      await transaction(db, async (tx) => {
        const network = await lockEmptyNetwork(tx, key);
        // the fabric first: what has a row and no bridge gets one again, what has no row would stay for ever
        await fabric.removeNetwork(network.name);
        known.delete(network.id);
        announced.delete(network.name);
        await deleteNetwork(tx, network.id);
        await insertEvent(tx, {
          kind: 'network.deleted',
          subject: network.id,
          actor: actor.id,
          payload: { name: network.name },
        });
      });
    },
    async reconcile() {
      for (const { id } of await selectNetworks(db)) await of(id);
    },
    async announce() {
      const rows = await db
        .selectFrom('machines')
        .innerJoin('networks', 'networks.id', 'machines.network_id')
        .select(['networks.name as network', 'machines.name', 'machines.address', 'machines.mac'])
        .where('machines.deleted_at', 'is', null)
        .where('machines.submission_id', 'is', null)
        .where('networks.dhcp', '=', true)
        // a name that two owners gave is that of the first one
        .orderBy('machines.created_at')
        .orderBy('machines.id')
        .execute();
      const hosts = new Map<string, Host[]>();
      for (const { name, dhcp } of await selectNetworks(db)) if (dhcp) hosts.set(name, []);
      for (const { network, name, address, mac } of rows)
        if (address !== null && mac !== null) hosts.get(network)?.push({ name, address, mac });
      for (const [network, all] of hosts) {
        const text = JSON.stringify(all);
        if (announced.get(network) === text) continue;
        await fabric.setHosts(network, all);
        announced.set(network, text);
      }
    },
  };
}
