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
import { launchOk } from '#host/launch.ts';
import { type Cidr, addressBytes, formatAddress, formatCidr, gatewayOf, parseMac } from './addresses.ts';
import { type ElementChange, changeElements, markKey, nameKey } from './netlink/elements.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/** What the filter knows of a machine. */
export interface Port {
  /** Name of its link in the fabric. */
  readonly link: string;
  readonly mac: string;
  readonly address: number;
  /** The owner as a packet mark: machines of the same mark may talk. Never 0. */
  readonly mark: number;
}

export interface RulesOptions {
  readonly network: Cidr;
  readonly bridge: string;
  /** Networks no machine may reach. */
  readonly closed?: readonly Cidr[];
  /** Where the uplink answers DNS; the gateway's port 53 is redirected to it. */
  readonly resolver?: number | undefined;
}

/** Sets and maps first: an element may only be added to what is declared. */
const declarations = `
table bridge carrel {
  set senders { type ifname . ether_addr . ipv4_addr; }
  map owners { type ifname : mark; }
  set receivers { type ifname . mark; }
}
table ip carrel {
  set closed { type ipv4_addr; flags interval; auto-merge; }
}
`;

/** The rules without any machine; safe to apply again while machines run. */
export function staticRules({ network, bridge, closed = [], resolver }: RulesOptions): string {
  const range = formatCidr(network);
  const gateway = formatAddress(gatewayOf(network));
  const elements =
    closed.length > 0 ? `add element ip carrel closed { ${closed.map(formatCidr).join(', ')} }` : '';
  const dns =
    resolver === undefined
      ? ''
      : `iifname "${bridge}" ip daddr ${gateway} udp dport 53 dnat to ${formatAddress(resolver)}`;
  return `${declarations}
flush table bridge carrel
flush table ip carrel
flush set ip carrel closed
${elements}
table bridge carrel {
  chain prerouting {
    type filter hook prerouting priority -300; policy drop;
    meta mark set iifname map @owners
    ether type ip iifname . ether saddr . ip saddr @senders accept
    ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . arp saddr ether . arp saddr ip @senders iifname . ether saddr . arp saddr ip @senders accept
  }
  chain forward {
    type filter hook forward priority -200; policy drop;
    oifname . meta mark @receivers accept
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
    iifname "${bridge}" ip saddr ${range} accept
  }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    oifname != { "lo", "${bridge}" } ip saddr ${range} masquerade
  }
}
`;
}

/** What a port means in each of the sets. */
function elementsOf(verb: 'add' | 'delete', { link, mac, address, mark }: Port): ElementChange[] {
  const port = nameKey(link);
  const where = { verb, family: 'bridge', table: 'carrel' } as const;
  return [
    { ...where, set: 'senders', key: [port, parseMac(mac), Uint8Array.from(addressBytes(address))] },
    { ...where, set: 'owners', key: [port], data: markKey(mark) },
    { ...where, set: 'receivers', key: [port, markKey(mark)] },
  ];
}

/** Lets a port speak; with `before`, what it was until now, in the same transaction. */
export function allowPort(socket: NetlinkSocket, port: Port, before?: Port): void {
  const changes = [...(before ? removal(before) : []), ...elementsOf('add', port)];
  changeElements(socket, changes, `filter of ${port.link}`);
}

/** Silences it. */
export function silencePort(socket: NetlinkSocket, port: Port): void {
  changeElements(socket, removal(port), `filter of ${port.link}`);
}

/** Adding first makes the deletion succeed whether or not it was there. */
function removal(port: Port): ElementChange[] {
  return [...elementsOf('add', port), ...elementsOf('delete', port)];
}

function elementLines({ link, mac, address, mark }: Port): string {
  return [
    `add element bridge carrel senders { "${link}" . ${mac} . ${formatAddress(address)} }`,
    `add element bridge carrel owners { "${link}" : ${mark} }`,
    `add element bridge carrel receivers { "${link}" . ${mark} }`,
    '',
  ].join('\n');
}

/** Makes `ports` the only ones, in the same transaction as whatever stands before. */
export function onlyPorts(ports: readonly Port[]): string {
  const flush = ['set bridge carrel senders', 'map bridge carrel owners', 'set bridge carrel receivers'];
  return flush.map((what) => `flush ${what}\n`).join('') + ports.map(elementLines).join('');
}

/** Applies a text in one transaction to the network namespace we are in. */
export async function applyRules(text: string): Promise<void> {
  await launchOk(['nft', '-f', '-'], { input: text });
}
