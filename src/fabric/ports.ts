/**
 * What the filter knows of single machines: elements of the sets that rules.ts declares, in table `bridge` for
 * ports of a bridge and in table `ip` for wires that are routed.
 */
import { createHash } from 'node:crypto';
import { syscallErrno } from '#host/syscalls.ts';
import { addressBytes, formatAddress, parseMac } from './addresses.ts';
import { type ElementChange, changeElements, listKeys, markKey, nameKey } from './netlink/elements.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/** What the filter knows of a machine. */
export interface Port {
  /** Name of its link in the fabric. */
  readonly link: string;
  readonly mac: string;
  readonly address: number;
  /** Machines of one group may talk: those of an owner in a network, or all of an open one. */
  readonly group: string;
  /** The table that sees its frames first. */
  readonly family: 'bridge' | 'ip';
  /** May it ask for an address, which it does without having one? */
  readonly dhcp: boolean;
}

/** What `openPorts` and `onlyPorts` fill. The maps hold the packet mark of a link's group, in two halves. */
const portSets = ['senders', 'owners1', 'owners2', 'receivers1', 'receivers2'] as const;

const tables = [
  { family: 'bridge', table: 'carrel', sets: [...portSets, 'askers', 'answers'] },
  { family: 'ip', table: 'carrel', sets: portSets },
] as const;

/**
 * A group as two packet marks, which have 32 bits each: together they are as good as the name. Computed and not
 * counted, so that every process that plugs machines comes to the same.
 */
function marksOf(group: string): [number, number] {
  const hash = createHash('sha256').update(group).digest();
  // 0 is the mark of packets that nobody marked
  return [Math.max(1, hash.readUInt32LE(0)), Math.max(1, hash.readUInt32LE(4))];
}

/** What a port means in each of the sets. */
function elementsOf(verb: 'add' | 'delete', port: Port): ElementChange[] {
  const { link, mac, address, group, family, dhcp } = port;
  const name = nameKey(link);
  const hardware = parseMac(mac);
  const where = { family, table: 'carrel', verb } as const;
  const [first, second] = marksOf(group).map(markKey);
  if (!first || !second) return [];
  return [
    { ...where, set: 'senders', key: [name, hardware, Uint8Array.from(addressBytes(address))] },
    { ...where, set: 'owners1', key: [name], data: first },
    { ...where, set: 'owners2', key: [name], data: second },
    { ...where, set: 'receivers1', key: [name, first] },
    { ...where, set: 'receivers2', key: [name, second] },
    ...(dhcp
      ? [
          { ...where, set: 'askers', key: [name, hardware, hardware] },
          { ...where, set: 'answers', key: [name, hardware] },
        ]
      : []),
  ];
}

/** Deletes whatever the sets say about a link, whoever added it: reads them all, so only if it must be. */
async function deletionOf(socket: NetlinkSocket, link: string): Promise<ElementChange[]> {
  const name = Buffer.from(nameKey(link));
  const changes: ElementChange[] = [];
  for (const { family, table, sets } of tables)
    for (const set of sets)
      for (const key of await listKeys(socket, { family, table, set }))
        if (name.equals(key.subarray(0, name.length)))
          changes.push({ family, table, verb: 'delete', set, key: [key] });
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

function elementLines({ link, mac, address, group, family, dhcp }: Port): string {
  const [first, second] = marksOf(group);
  const number = `0x${mac.replaceAll(':', '')}`;
  const add = (set: string, element: string): string =>
    `add element ${family} carrel ${set} { ${element} }\n`;
  return [
    add('senders', `"${link}" . ${mac} . ${formatAddress(address)}`),
    add('owners1', `"${link}" : ${first}`),
    add('owners2', `"${link}" : ${second}`),
    add('receivers1', `"${link}" . ${first}`),
    add('receivers2', `"${link}" . ${second}`),
    dhcp ? add('askers', `"${link}" . ${mac} . ${number}`) + add('answers', `"${link}" . ${number}`) : '',
  ].join('');
}

/** Makes `ports` the only ones, in the same transaction as whatever stands before. */
export function onlyPorts(ports: readonly Port[]): string {
  const flush = tables.flatMap(({ family, table, sets }) =>
    sets.map((set) => `flush ${set.startsWith('owners') ? 'map' : 'set'} ${family} ${table} ${set}\n`),
  );
  return flush.join('') + ports.map(elementLines).join('');
}
