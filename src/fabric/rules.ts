/**
 * The fabric's packet filter, as nftables text made from data (nft(8)).
 *
 *   bridge carrel   between machines: a frame passes only with the hardware and IPv4 address its port was
 *                   given (ARP senders included); everything that is neither IPv4 nor ARP is dropped: IPv6 and
 *                   its router advertisements, VLAN tags, spanning tree. Then only to ports of the same owner.
 *   ip carrel       to the fabric itself: ICMP echo and nothing else (DNS goes to the uplink's resolver).
 *                   To the outside: masqueraded, except to networks that are closed.
 *
 * The static text can be applied any number of times in one transaction each: declarations are idempotent,
 * and `flush table` takes the rules but leaves the sets' elements, so running machines notice nothing.
 */
import { createHash } from 'node:crypto';
import { launchOk } from '#host/launch.ts';
import { syscallErrno } from '#host/syscalls.ts';
import { type Cidr, addressBytes, formatAddress, formatCidr, gatewayOf, parseMac } from './addresses.ts';
import { type ElementChange, changeElements, listKeys, markKey, nameKey } from './netlink/elements.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/** What the filter knows of a machine. */
export interface Port {
  /** Name of its link in the fabric. */
  readonly link: string;
  readonly mac: string;
  readonly address: number;
  /** Machines of one owner may talk. */
  readonly owner: string;
}

export interface RulesOptions {
  readonly network: Cidr;
  readonly bridge: string;
  /** Networks no machine may reach. */
  readonly closed?: readonly Cidr[];
  /** Where the uplink answers DNS; the gateway's port 53 is redirected to it. */
  readonly resolver?: number | undefined;
  /** Connections that one machine may have open to the outside; unlimited where the kernel cannot count. */
  readonly flows?: number | undefined;
}

/** All machines share one table of tracked connections: without a limit one of them could fill it for everybody. */
const flowLimit = 2000;

const portSets = ['senders', 'owners1', 'owners2', 'receivers1', 'receivers2'] as const;

/** Sets and maps first: an element may only be added to what is declared. */
const declarations = `
table bridge carrel {
  set senders { type ifname . ether_addr . ipv4_addr; }
  map owners1 { type ifname : mark; }
  map owners2 { type ifname : mark; }
  set receivers1 { type ifname . mark; }
  set receivers2 { type ifname . mark; }
}
table ip carrel {
  set closed { type ipv4_addr; flags interval; auto-merge; }
  set flows { type ipv4_addr; size 65535; flags dynamic; }
}
`;

/** The rules without any machine; safe to apply again while machines run. */
export function staticRules({ network, bridge, closed = [], resolver, flows }: RulesOptions): string {
  const range = formatCidr(network);
  const gateway = formatAddress(gatewayOf(network));
  const elements =
    closed.length > 0 ? `add element ip carrel closed { ${closed.map(formatCidr).join(', ')} }` : '';
  const dns =
    resolver === undefined
      ? ''
      : `iifname "${bridge}" ip daddr ${gateway} udp dport 53 dnat to ${formatAddress(resolver)}`;
  const counted =
    flows === undefined
      ? ''
      : `iifname "${bridge}" ct state new add @flows { ip saddr ct count over ${flows} } drop`;
  return `${declarations}
flush table bridge carrel
flush table ip carrel
flush set ip carrel closed
${elements}
table bridge carrel {
  chain prerouting {
    type filter hook prerouting priority -300; policy drop;
    ether type ip iifname . ether saddr . ip saddr @senders accept
    ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . arp saddr ether . arp saddr ip @senders iifname . ether saddr . arp saddr ip @senders accept
  }
  chain forward {
    type filter hook forward priority -200; policy drop;
    meta mark set iifname map @owners1
    oifname . meta mark != @receivers1 drop
    meta mark set iifname map @owners2
    oifname . meta mark @receivers2 accept
  }
}
table ip carrel {
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    ${dns}
  }
  chain input {
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
    iifname "${bridge}" ip daddr ${gateway} icmp type echo-request accept
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "${bridge}" oifname "${bridge}" drop
    ip daddr @closed drop
    ${counted}
    iifname "${bridge}" ip saddr ${range} accept
  }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    oifname != { "lo", "${bridge}" } ip saddr ${range} masquerade
  }
}
`;
}

/**
 * An owner as two packet marks, which have 32 bits each: together they are as good as the name. Computed and not
 * counted, so that every process that plugs machines comes to the same.
 */
function marksOf(owner: string): [number, number] {
  const hash = createHash('sha256').update(owner).digest();
  // 0 is the mark of packets that nobody marked
  return [Math.max(1, hash.readUInt32LE(0)), Math.max(1, hash.readUInt32LE(4))];
}

const where = { family: 'bridge', table: 'carrel' } as const;

/** What a port means in each of the sets. */
function elementsOf(verb: 'add' | 'delete', { link, mac, address, owner }: Port): ElementChange[] {
  const port = nameKey(link);
  const [first, second] = marksOf(owner).map(markKey);
  if (!first || !second) return [];
  return [
    { ...where, verb, set: 'senders', key: [port, parseMac(mac), Uint8Array.from(addressBytes(address))] },
    { ...where, verb, set: 'owners1', key: [port], data: first },
    { ...where, verb, set: 'owners2', key: [port], data: second },
    { ...where, verb, set: 'receivers1', key: [port, first] },
    { ...where, verb, set: 'receivers2', key: [port, second] },
  ];
}

/** Deletes whatever the sets say about a link, whoever added it: reads them all, so only if it must be. */
async function deletionOf(socket: NetlinkSocket, link: string): Promise<ElementChange[]> {
  const name = Buffer.from(nameKey(link));
  const changes: ElementChange[] = [];
  for (const set of portSets)
    for (const key of await listKeys(socket, { ...where, set }))
      if (name.equals(key.subarray(0, name.length)))
        changes.push({ ...where, verb: 'delete', set, key: [key] });
  return changes;
}

/** The ports of the filter. */
export interface Ports {
  /** Lets a port speak, and only as what it is now. */
  allow(port: Port): Promise<void>;
  /** Silences it; nothing happens if it is silent. */
  silence(link: string): Promise<void>;
  /** What was applied in one go (see `onlyPorts`). */
  remember(ports: readonly Port[]): void;
}

/**
 * Adds and removes ports over netlink. What this process added it remembers, which makes removing cheap; the
 * truth is in the kernel, and what another process added is looked up there.
 */
export function openPorts(socket: NetlinkSocket): Ports {
  const known = new Map<string, Port>();
  const change = async (link: string, changes: readonly ElementChange[]): Promise<void> => {
    if (changes.length > 0) await changeElements(socket, changes, `filter of ${link}`);
  };
  /** Adding first makes a deletion succeed whether or not it was there. */
  const removal = async (link: string): Promise<ElementChange[]> => {
    const port = known.get(link);
    return port
      ? [...elementsOf('add', port), ...elementsOf('delete', port)]
      : await deletionOf(socket, link);
  };
  return {
    async allow(port) {
      const { link } = port;
      try {
        await change(link, [...(known.has(link) ? await removal(link) : []), ...elementsOf('add', port)]);
      } catch (error) {
        // another process knows the link as somebody else's
        if (syscallErrno(error) !== 'EEXIST') throw error;
        await change(link, [...(await deletionOf(socket, link)), ...elementsOf('add', port)]);
      }
      known.set(link, port);
    },
    async silence(link) {
      try {
        await change(link, await removal(link));
      } catch (error) {
        if (syscallErrno(error) !== 'EEXIST') throw error;
        await change(link, await deletionOf(socket, link));
      }
      known.delete(link);
    },
    remember(ports) {
      known.clear();
      for (const port of ports) known.set(port.link, port);
    },
  };
}

function elementLines({ link, mac, address, owner }: Port): string {
  const [first, second] = marksOf(owner);
  return [
    `add element bridge carrel senders { "${link}" . ${mac} . ${formatAddress(address)} }`,
    `add element bridge carrel owners1 { "${link}" : ${first} }`,
    `add element bridge carrel owners2 { "${link}" : ${second} }`,
    `add element bridge carrel receivers1 { "${link}" . ${first} }`,
    `add element bridge carrel receivers2 { "${link}" . ${second} }`,
    '',
  ].join('\n');
}

/** Makes `ports` the only ones, in the same transaction as whatever stands before. */
export function onlyPorts(ports: readonly Port[]): string {
  const flush = portSets.map(
    (set) => `flush ${set.startsWith('owners') ? 'map' : 'set'} bridge carrel ${set}\n`,
  );
  return flush.join('') + ports.map(elementLines).join('');
}

/** Applies a text in one transaction to the network namespace we are in. */
export async function applyRules(text: string): Promise<void> {
  await launchOk(['nft', '-f', '-'], { input: text });
}

/**
 * Applies the static rules, and gives the text that was accepted. A kernel without nft_connlimit refuses the limit
 * on connections: then they stand without it, for everything else they do is worth more.
 */
export async function applyStaticRules(options: RulesOptions): Promise<string> {
  const limited = staticRules({ ...options, flows: flowLimit });
  try {
    await applyRules(limited);
    return limited;
  } catch {
    const unlimited = staticRules(options);
    await applyRules(unlimited);
    return unlimited;
  }
}
