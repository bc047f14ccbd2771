/**
 * The fabric's packet filter, as nftables text made from data (nft(8)).
 *
 *   bridge carrel   between machines: a frame passes only with the hardware and IPv4 address its port was
 *                   given (ARP senders included); everything that is neither IPv4 nor ARP is dropped: IPv6 and
 *                   its router advertisements, VLAN tags, spanning tree. Then only to ports of the same group.
 *   ip carrel       the same for wires that are routed; to the fabric itself: ICMP echo, and in a network with
 *                   DHCP its questions and those for names. From network to network nothing. To the outside:
 *                   what the network's own chains say, except to networks that are closed.
 *
 * The chains below are the same whatever networks there are: a network is a *door* (its bridge, or the wire of a
 * routed machine) in the sets, and two chains of its own. So a process that knows one network disturbs no other.
 * Each text can be applied any number of times, in one transaction: declarations are idempotent, chains are
 * flushed and filled again, and the sets' elements stay, so running machines notice nothing.
 */
import { messageOf } from '#base/errors.ts';
import { launchOk } from '#host/launch.ts';
import { type Cidr, formatAddress, formatCidr } from './addresses.ts';
import type { Network } from './networks.ts';

export interface RulesOptions {
  /** Networks no machine may reach. */
  readonly closed?: readonly Cidr[];
  /** Where the uplink answers DNS; port 53 of gateways without a DNS server of their own is redirected to it. */
  readonly resolver?: number | undefined;
  /** Connections that one machine may have open to the outside; unlimited where the kernel cannot count. */
  readonly flows?: number | undefined;
  /** Can this kernel limit what machines send (nft_limit, nft_objref)? */
  readonly rates?: boolean;
}

/** All machines share one table of tracked connections: without a limit one of them could fill it for everybody. */
const flowLimit = 2000;

/** Sets and maps first: an element may only be added to what is declared. */
const portSets = `
  set senders { type ifname . ether_addr . ipv4_addr; }
  map owners1 { type ifname : mark; }
  map owners2 { type ifname : mark; }
  set receivers1 { type ifname . mark; }
  set receivers2 { type ifname . mark; }
`;

const declarations = `
table bridge carrel {
  ${portSets}
  set askers { typeof iifname . ether saddr . @th,288,48; }
  set answers { typeof oifname . @th,288,48; }
}
table ip carrel {
  ${portSets}
  set closed { type ipv4_addr; flags interval; auto-merge; }
  set flows { type ipv4_addr; size 65535; flags dynamic; }
  set inside { type ifname; }
  set routed { type ifname; }
  set gateways { type ifname . ipv4_addr; }
  set relays { type ifname . ipv4_addr; }
  set names { type ifname . ipv4_addr; }
  set leases { type ifname . ipv4_addr; }
  map exits { type ifname : verdict; }
  map sources { type ifname : verdict; }
}
`;

/** Declares a chain, and makes `rules` the only ones in it. A chain without `hook` is one that others jump to. */
function chain(family: 'bridge' | 'ip', name: string, hook: string, rules: readonly string[]): string {
  const inChain = (lines: readonly string[]): string =>
    `table ${family} carrel {\n  chain ${name} {\n${lines.map((line) => `    ${line}\n`).join('')}  }\n}\n`;
  return `${inChain([hook])}flush chain ${family} carrel ${name}\n${inChain(rules)}`;
}

/** To a port of the sender's group, or not at all. The last rule of the chain decides about the second half. */
const amongMachines: readonly string[] = [
  'meta mark set iifname map @owners1',
  'oifname . meta mark != @receivers1 drop',
  'meta mark set iifname map @owners2',
  'oifname . meta mark @receivers2 accept',
];

/** What a machine sends faster than it may is lost: see limits.ts. */
const limitRates = 'limit name iifname map @rates drop';
const rateMaps = ['bridge', 'ip']
  .map((family) => `table ${family} carrel {\n  map rates { type ifname : limit; }\n}\n`)
  .join('');

/** The rules that are the same for all networks; safe to apply again while machines run. */
export function staticRules({ closed = [], resolver, flows, rates = false }: RulesOptions): string {
  const limited = rates ? [limitRates] : [];
  const relay =
    resolver === undefined
      ? []
      : [`udp dport 53 iifname . ip daddr @relays dnat to ${formatAddress(resolver)}`];
  const counted =
    flows === undefined
      ? []
      : [`iifname @inside ct state new add @flows { ip saddr ct count over ${flows} } drop`];
  const elements =
    closed.length > 0 ? `add element ip carrel closed { ${closed.map(formatCidr).join(', ')} }\n` : '';
  return [
    declarations,
    rates ? rateMaps : '',
    'flush set ip carrel closed\n',
    elements,
    chain('bridge', 'prerouting', 'type filter hook prerouting priority -300; policy drop;', [
      ...limited,
      'ether type ip iifname . ether saddr . ip saddr @senders accept',
      'ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . arp saddr ether . arp saddr ip @senders iifname . ether saddr . arp saddr ip @senders accept',
      // DHCP's question, and the hardware address inside it is the sender's, too (RFC 2131, chaddr)
      'ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 iifname . ether saddr . @th,288,48 @askers accept',
    ]),
    chain('bridge', 'forward', 'type filter hook forward priority -200; policy drop;', [
      'ip saddr 0.0.0.0 drop', // who asks for an address asks the gateway
      ...amongMachines,
    ]),
    // an answer that is a broadcast goes to who asked, and to nobody else
    chain('bridge', 'output', 'type filter hook output priority -200; policy accept;', [
      'ether type ip udp sport 67 udp dport 68 oifname . @th,288,48 != @answers drop',
    ]),
    chain('ip', 'spoofing', 'type filter hook prerouting priority -300; policy accept;', [
      ...limited,
      'iifname . ether saddr . ip saddr @senders accept',
      'iifname @routed drop',
    ]),
    chain('ip', 'prerouting', 'type nat hook prerouting priority -100; policy accept;', relay),
    chain('ip', 'input', 'type filter hook input priority 0; policy drop;', [
      'iifname "lo" accept',
      'ct state established,related accept',
      'iifname . ip daddr @gateways icmp type echo-request accept',
      'udp dport 53 iifname . ip daddr @names accept',
      'udp sport 68 udp dport 67 iifname . ip daddr @leases accept',
    ]),
    chain('ip', 'among', '', [...amongMachines, 'drop']),
    chain('ip', 'forward', 'type filter hook forward priority 0; policy drop;', [
      'ct state established,related accept',
      'oifname @inside goto among',
      'ip daddr @closed drop',
      ...counted,
      'iifname vmap @exits',
    ]),
    chain('ip', 'postrouting', 'type nat hook postrouting priority 100; policy accept;', [
      'iifname vmap @sources',
    ]),
  ].join('');
}

const chainsOf = ({ name }: Pick<Network, 'name'>) => ({ exit: `exit-${name}`, source: `nat-${name}` });

/** A network's own chains: empty without NAT, and then nothing of it gets out. */
export function networkRules(network: Network): string {
  const range = formatCidr(network.range);
  const { exit, source } = chainsOf(network);
  return (
    chain('ip', exit, '', network.nat ? [`ip saddr ${range} accept`] : []) +
    chain('ip', source, '', network.nat ? [`ip saddr ${range} masquerade`] : [])
  );
}

/** Where packets of a network come in: its bridge, or one wire if it is routed. */
export interface Door {
  readonly link: string;
  readonly gateway: number;
  readonly network: Network;
}

/** Everything a door can be in, and whether this one is. */
function doorElements({
  link,
  gateway,
  network,
}: Door): readonly [list: string, element: string, wanted: boolean][] {
  const { nat, dhcp, layout } = network;
  const { exit, source } = chainsOf(network);
  const here = `"${link}" . ${formatAddress(gateway)}`;
  return [
    ['inside', `"${link}"`, true],
    ['routed', `"${link}"`, layout === 'routed'],
    ['gateways', here, true],
    ['relays', here, nat && !dhcp],
    ['names', here, dhcp],
    ['leases', here, dhcp],
    ['leases', `"${link}" . 255.255.255.255`, dhcp],
    ['exits', `"${link}" : jump ${exit}`, true],
    ['sources', `"${link}" : jump ${source}`, true],
  ];
}

/** Adding first makes a deletion succeed whether or not it was there. */
function elementRules(list: string, element: string, wanted: boolean): string {
  const add = `add element ip carrel ${list} { ${element} }\n`;
  return wanted ? add : `${add}delete element ip carrel ${list} { ${element.split(' : ')[0]} }\n`;
}

/** Opens a door, whose network's rules stand already. */
export function openDoor(door: Door): string {
  return doorElements(door)
    .map(([list, element, wanted]) => elementRules(list, element, wanted))
    .join('');
}

export function closeDoor(door: Door): string {
  return doorElements(door)
    .map(([list, element]) => elementRules(list, element, false))
    .join('');
}

/** Takes a network's chains away; its doors are closed. */
export function dropNetworkRules(name: string): string {
  return Object.values(chainsOf({ name }))
    .map((own) => `add chain ip carrel ${own}\ndelete chain ip carrel ${own}\n`)
    .join('');
}

/** Makes networks and doors the only ones, in the same transaction as whatever stands before. */
export function onlyDoors(
  networks: readonly Network[],
  doors: readonly Door[],
  stale: readonly string[],
): string {
  const lists = ['inside', 'routed', 'gateways', 'relays', 'names', 'leases'];
  const flush = [
    ...lists.map((list) => `flush set ip carrel ${list}\n`),
    ...['exits', 'sources'].map((list) => `flush map ip carrel ${list}\n`),
  ];
  return [
    ...flush,
    ...stale.map(dropNetworkRules),
    ...networks.map(networkRules),
    ...doors.map(openDoor),
  ].join('');
}

/** The names of the networks that have chains, known to this process or not. */
export async function networksInRules(): Promise<string[]> {
  const { stdout } = await launchOk(['nft', 'list', 'chains', 'ip']);
  const names = stdout.toString().matchAll(/^\s*chain (?:exit|nat)-(\S+) \{/gm);
  return [...new Set(Array.from(names, ([, name = '']) => name))];
}

/** Applies a text in one transaction to the network namespace we are in. */
export async function applyRules(text: string): Promise<void> {
  await launchOk(['nft', '-f', '-'], { input: text });
}

/**
 * Applies the static rules, and gives the text that was accepted. A kernel without nft_connlimit refuses
 * the limit on connections, one without nft_limit those on rates: then the rules stand without, for everything
 * else they do is worth more.
 */
export async function applyStaticRules(
  options: Omit<RulesOptions, 'flows' | 'rates'>,
): Promise<{ text: string; rates: boolean }> {
  const attempts = [
    { flows: flowLimit, rates: true },
    { flows: undefined, rates: true },
    { flows: flowLimit, rates: false },
  ];
  for (const attempt of attempts) {
    const text = staticRules({ ...options, ...attempt });
    try {
      await applyRules(text);
      return { text, rates: attempt.rates };
    } catch (error) {
      // the kernel's word, not nft's on the text: the next one asks for less
      if (!messageOf(error).includes('Could not process rule')) throw error;
    }
  }
  const text = staticRules(options);
  await applyRules(text);
  return { text, rates: false };
}
