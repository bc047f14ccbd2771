/** Machines' wires: which links, filter entries and limits go with a machine, made and taken away together. */
import { CarrelError } from '#base/errors.ts';
import { numberOfAddress, tapOfNumber } from '#base/numbered.ts';
import type { Fd } from '#host/fds.ts';
import { syscallErrno } from '#host/syscalls.ts';
import type { Limits } from './limits.ts';
import { inNetns } from './netns.ts';
import { type Link, type Links, openLinks } from './netlink/links.ts';
import { type Network, type Place, placeOf } from './networks.ts';
import type { Port, Ports } from './ports.ts';
import { type Door, applyRules, closeDoor, openDoor } from './rules.ts';
import { openTap } from './tap.ts';

/** One machine's place in the fabric: what the database knows of it. */
export interface Wire {
  readonly machineId: string;
  /** Dotted IPv4 address. */
  readonly address: string;
  readonly mac: string;
  /** Machines of one owner may talk to each other. */
  readonly owner: string;
  /** The name of its network; default `default`. */
  readonly network?: string;
  /** What it may send and receive, in bytes per second each; null: no limit. Undefined: as it is. */
  readonly bytesPerSecond?: number | null;
}

export interface PlugOptions extends Wire {
  /** A process in the machine's network namespace. */
  readonly pid: number;
  /** Also give the machine's end its address, default route and loopback (default), from outside. */
  readonly configure?: boolean;
}

export interface TapOptions extends Wire {
  /** Its name in the fabric; default `t-` and the last twelve characters of the machine's id. */
  readonly tap?: string;
}

/** The wire of a virtual machine. */
export interface PluggedTap {
  /** For `-netdev tap,fd=N`; whoever asked closes it when QEMU has it. The wire ends with its last descriptor. */
  readonly fd: Fd;
  /** Its name in the fabric. */
  readonly link: string;
}

/** The link of a machine in the fabric: `v-` and the last twelve characters of its id (an interface's name has 15). */
export function linkOf(machineId: string): string {
  const link = `v-${machineId.slice(-12)}`;
  if (!/^v-[\w]{1,12}$/.test(link))
    throw new CarrelError('internal', `${JSON.stringify(machineId)} is no machine id`);
  return link;
}

/** The same for a virtual machine, whose wire is a TAP device: `t-`. */
export function tapOf(machineId: string): string {
  return linkOf(machineId).replace('v-', 't-');
}

/** By the names that go with an id, or by the note on a wire with another name. */
export function belongsTo({ name, alias, kind }: Link, machineId: string): boolean {
  if (name === linkOf(machineId) || name === tapOf(machineId)) return true;
  return alias === machineId && kind !== 'bridge';
}

/** A device that was made by itself and has not been given a place yet: see `connectTap`. */
export function isLoose({ name, alias, master }: Link): boolean {
  return name.startsWith('t-') && alias === undefined && (master ?? 0) === 0;
}

/** Frames as long as Ethernet's, for every wire. */
const MTU = 1500;

/** A machine's wire, and all that follows from the data. */
export interface Plugged {
  readonly port: Port;
  readonly network: Network;
  readonly place: Place;
}

/** What a wire is in a network: throws if the address is none of it. */
export function planWire(wire: Wire, network: Network, link: string): Plugged {
  const { name, layout, isolation, dhcp } = network;
  const place = placeOf(network, wire.address);
  const group = isolation === 'open' ? `all of ${name}` : `${name}: ${wire.owner}`;
  const family = layout === 'routed' ? 'ip' : 'bridge';
  const port: Port = { link, mac: wire.mac, address: place.address, group, family, dhcp };
  return { port, network, place };
}

/** The door of a routed machine's wire. */
export function wireDoor({ port: { link }, network, place: { gateway } }: Plugged): Door {
  return { link, gateway, network };
}

export interface Wires {
  /** What this process plugged, or was told of, by the machine's id. */
  readonly known: Map<string, Plugged>;
  plug(options: PlugOptions): Promise<void>;
  plugTap(options: TapOptions): Promise<PluggedTap>;
  /** Connects a device that was made loose: `tapOf` of the machine, in this namespace. Not for the routed layout. */
  connectTap(wire: Wire): Promise<void>;
  unplug(machineId: string): Promise<void>;
  /** The link of a machine as the kernel has it, whoever plugged it. */
  find(machineId: string): Promise<Link | undefined>;
}

export function openWires({
  links,
  ports,
  limits,
  networkOf,
  masterOf,
}: {
  links: Links;
  ports: Ports;
  limits: Limits;
  /** Throws if there is none of that name. */
  networkOf: (name: string | undefined) => Network;
  /** Index of the network's bridge; 0 if it has none. */
  masterOf: (network: Network) => number;
}): Wires {
  const known = new Map<string, Plugged>();
  const find = async (machineId: string): Promise<Link | undefined> => {
    const link = known.get(machineId)?.port.link;
    const found = link === undefined ? undefined : await links.find(link);
    return found ?? (await links.list()).find((candidate) => belongsTo(candidate, machineId));
  };
  /** Takes a link and all that is said of it away. The link first: so it never speaks without a filter. */
  const cut = async (link: string, wire?: Plugged): Promise<void> => {
    await links.delete(link);
    await ports.silence(link);
    if (wire?.network.layout === 'routed') await applyRules(closeDoor(wireDoor(wire)));
    await limits.forget(link);
  };
  /** `make` makes the link; what else a wire needs comes before and after it. */
  const connect = async (
    wire: Wire,
    link: string,
    network: Network,
    make: (at: Plugged) => Promise<void>,
    { present = false }: { present?: boolean } = {},
  ): Promise<void> => {
    const at = planWire(wire, network, link);
    const old = known.get(wire.machineId);
    if (old && (old.port.link !== link || old.network.name !== network.name)) await cut(old.port.link, old);
    if (!present) await links.delete(link); // of an earlier start: the kernel takes its time to end what held it
    known.set(wire.machineId, at);
    const routed = network.layout === 'routed';
    try {
      await ports.allow(at.port);
      if (routed) await applyRules(openDoor(wireDoor(at)));
      await make(at);
      if (routed)
        await links.addAddress((await links.find(link))?.index ?? 0, at.place.gateway, at.place.prefix);
      if (wire.bytesPerSecond !== undefined) await limits.set(at.port, wire.bytesPerSecond);
    } catch (error) {
      await unplug(wire.machineId);
      throw cannotPlug(error);
    }
  };
  const plug = async (wire: PlugOptions): Promise<void> => {
    const { pid, mac, configure = true } = wire;
    const network = networkOf(wire.network);
    await connect(wire, linkOf(wire.machineId), network, async ({ port: { link }, place }) => {
      const peer = { netns: { pid }, name: 'eth0', mac };
      await links.createVeth({ name: link, master: masterOf(network), mtu: MTU, peer });
      if (configure) await configureMachine(pid, place);
    });
  };
  const plugTap = async (wire: TapOptions): Promise<PluggedTap> => {
    const { machineId } = wire;
    const network = networkOf(wire.network);
    const number = network.layout === 'routed' ? numberOfAddress(wire.address) : undefined;
    const link = wire.tap ?? (number === undefined ? tapOf(machineId) : tapOfNumber(number));
    let fd: Fd | undefined;
    try {
      await connect(wire, link, network, async () => {
        fd = openTap(link);
        await links.configure(link, { mtu: MTU, master: masterOf(network), alias: machineId, up: true });
      });
    } catch (error) {
      fd?.close();
      throw error;
    }
    if (!fd) throw new CarrelError('internal', `${link} was not opened`);
    return { fd, link };
  };
  const connectTap = async (wire: Wire): Promise<void> => {
    const network = networkOf(wire.network);
    if (network.layout === 'routed')
      throw new CarrelError('internal', `a device of network ${network.name} is named after its address`);
    const link = tapOf(wire.machineId);
    const place = { mtu: MTU, master: masterOf(network), alias: wire.machineId, up: true };
    await connect(wire, link, network, () => links.configure(link, place), { present: true });
  };
  const unplug = async (machineId: string): Promise<void> => {
    const wire = known.get(machineId);
    known.delete(machineId);
    if (wire) return await cut(wire.port.link, wire);
    // another process plugged it, or nobody did: a link that is gone may have left its rules
    const found = (await links.list()).filter((link) => belongsTo(link, machineId)).map(({ name }) => name);
    for (const link of new Set([linkOf(machineId), tapOf(machineId), ...found])) await cut(link);
  };

  return { known, plug, plugTap, connectTap, unplug, find };
}

function cannotPlug(error: unknown): unknown {
  if (syscallErrno(error) !== 'EXFULL') return error;
  return new CarrelError('no_capacity', 'The network is full: a bridge has room for 1023 machines', {
    cause: error,
  });
}

/** The machine's end: loopback, address, default route. Done from outside, so the image needs no tools for it. */
async function configureMachine(pid: number, { address, gateway, prefix }: Place): Promise<void> {
  using inside = inNetns(pid, () => openLinks());
  const eth0 = await inside.find('eth0');
  if (!eth0) throw new CarrelError('machine_lost', 'the machine ended while its network was being made');
  await inside.setUp('lo');
  await inside.addAddress(eth0.index, address, prefix);
  await inside.setUp('eth0');
  await inside.addDefaultRoute(gateway);
}
