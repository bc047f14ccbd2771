/**
 * Networks as data. Two layouts:
 *
 *   bridge    machine ── v-<id> ┐                        one range, one gateway, machines of one owner
 *             machine ── t-<id> ┴ br0 (gateway) ── out   see each other's frames
 *   routed    machine (.2) ── vmtap141 (.1) ── out       a /24 of its own per machine, no bridge
 */
import { CarrelError } from '#base/errors.ts';
import { numbered } from '#base/numbered.ts';
import {
  type Cidr,
  broadcastOf,
  contains,
  formatCidr,
  gatewayOf,
  networkOf,
  overlaps,
  parseAddress,
  parseCidr,
} from './addresses.ts';

export interface NetworkPlan {
  readonly name: string;
  /** The bridge's name in the fabric; a routed network has none, whatever stands here. */
  readonly bridge: string;
  readonly cidr: string;
  /** Dotted address of the gateway. In a routed network each machine has its own: the first address of its /24. */
  readonly gateway: string;
  /** Do its machines reach the outside, behind the uplink's address? Without, they reach no DNS outside either. */
  readonly nat: boolean;
  /** DHCP, and DNS that knows the machines' names, on the gateway (see names.ts). For layout `bridge`. */
  readonly dhcp: boolean;
  /** `owner`: machines talk to those of their owner only. `open`: to all of this network. */
  readonly isolation: 'owner' | 'open';
  readonly layout: 'bridge' | 'routed';
}

export const defaultNetwork = 'default';

export const defaultPlan: NetworkPlan = {
  name: defaultNetwork,
  bridge: 'br0',
  cidr: '192.168.0.0/16',
  gateway: '192.168.0.1',
  nat: true,
  dhcp: false,
  isolation: 'owner',
  layout: 'bridge',
};

/** A plan that was checked, with its range as numbers. */
export interface Network extends NetworkPlan {
  readonly range: Cidr;
}

function impossible(message: string, hint?: string): CarrelError {
  return new CarrelError('validation_failed', message, hint === undefined ? {} : { hint });
}

/** Throws `validation_failed` with the reason when a plan cannot be. */
export function parsePlan(plan: NetworkPlan): Network {
  const { name, bridge, cidr, layout } = plan;
  const range = parseCidr(cidr);
  const gateway = parseAddress(plan.gateway);
  // names become parts of names of chains (nft(8), identifiers)
  if (!/^[a-z][a-z0-9-]{0,39}$/.test(name))
    throw impossible(
      `Invalid name of a network: ${JSON.stringify(name)}`,
      'small letters, digits and -, at most 40, a letter first',
    );
  if (layout === 'routed') {
    if (range.prefix > numbered.prefix)
      throw impossible(`A routed network needs a /${numbered.prefix} for each machine: ${cidr} has none`);
    if (plan.dhcp) throw impossible(`Network ${name} is routed: it has no DHCP`);
    return { ...plan, range };
  }
  // other names are those of machines' links, of the uplink, and of the loopback
  if (!/^[a-z][a-z0-9_.]{1,14}$/.test(bridge) || ['lo', 'uplink0'].includes(bridge))
    throw impossible(`Invalid name of a bridge: ${JSON.stringify(bridge)}`);
  gatewayOf(range); // is there room?
  if (!contains(range, gateway) || gateway === range.base || gateway === broadcastOf(range))
    throw impossible(`${plan.gateway} cannot be the gateway of ${cidr}`);
  return { ...plan, range };
}

/**
 * Throws if a network cannot be beside others. Ranges are apart; but a routed one may lie inside a bridge's, whose
 * addresses there are then nobody's: the longer prefix wins.
 */
export function checkBeside(network: Network, others: Iterable<Network>): void {
  for (const other of others) {
    if (other.name === network.name) continue;
    const bridged = [network, other].filter(({ layout }) => layout === 'bridge');
    if (bridged.length === 2 && other.bridge === network.bridge)
      throw new CarrelError('name_taken', `Bridge ${network.bridge} is network ${other.name}'s`);
    if (!overlaps(network.range, other.range)) continue;
    const [bridge] = bridged;
    const routed = [network, other].find(({ layout }) => layout === 'routed');
    const inside =
      bridge !== undefined &&
      routed !== undefined &&
      routed.range.prefix > bridge.range.prefix &&
      !contains(routed.range, parseAddress(bridge.gateway));
    if (!inside)
      throw impossible(
        `${formatCidr(network.range)} overlaps network ${other.name} (${formatCidr(other.range)})`,
        'choose another range',
      );
  }
}

/** What a network cannot change while somebody is in it. */
export function shapeOf({ bridge, cidr, gateway, layout }: Network): string {
  return JSON.stringify([layout === 'routed' ? '' : bridge, cidr, gateway, layout]);
}

/** Where a machine with this address stands in a network: its gateway, and how far it sees. */
export interface Place {
  readonly address: number;
  readonly gateway: number;
  readonly prefix: number;
}

/** Throws if the address is no machine's of this network. */
export function placeOf(network: Network, text: string): Place {
  const address = parseAddress(text);
  const routed = network.layout === 'routed';
  const prefix = routed ? numbered.prefix : network.range.prefix;
  const gateway = routed ? networkOf(address, prefix).base + 1 : parseAddress(network.gateway);
  const own = networkOf(address, prefix);
  if (!contains(network.range, address) || [gateway, own.base, broadcastOf(own)].includes(address))
    throw new CarrelError('internal', `${text} is no machine's address in ${formatCidr(network.range)}`);
  return { address, gateway, prefix };
}
