/**
 * The fabric from inside: bridge, filter, and one wire per machine. The calling process is in the fabric's
 * network namespace already (the doorman started it there), so what is done here cannot touch the host.
 *
 *   machine ── eth0 ═══ v-<id> ── br0 (192.168.0.1/16) ── masquerade ── uplink0 ── outside
 */
import { existsSync, writeFileSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import type { Fd } from '#host/fds.ts';
import { syscallErrno } from '#host/syscalls.ts';
import {
  type Cidr,
  contains,
  formatAddress,
  formatCidr,
  gatewayOf,
  macOf,
  parseAddress,
  parseCidr,
} from './addresses.ts';
import { netnsOf, inNetns } from './netns.ts';
import { type Links, openLinks } from './netlink/links.ts';
import { NETLINK_NETFILTER } from './netlink/elements.ts';
import { openNetlink } from './netlink/socket.ts';
import { openTap } from './tap.ts';
import { type Port, applyRules, applyStaticRules, onlyPorts, openPorts } from './rules.ts';

/** One machine's place in the fabric: what the database knows of it. */
export interface Wire {
  readonly machineId: string;
  /** Dotted IPv4 address. */
  readonly address: string;
  readonly mac: string;
  /** Machines of one owner may talk to each other. */
  readonly owner: string;
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

/** Never the way out: the host's own metadata service, and networks that are private to the host's site. */
export const closedByDefault: readonly string[] = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '224.0.0.0/3',
];

export interface FabricOptions {
  readonly network?: string;
  readonly bridge?: string;
  /** Networks no machine may reach, besides the host's own addresses. */
  readonly closed?: readonly string[];
  /** The host's own addresses: closed as well. */
  readonly hostAddresses?: readonly string[];
  /** The namespace to be in, as the doorman says (see environment.ts). */
  readonly netns?: string;
  /** Where the uplink answers DNS; undefined: no DNS. */
  readonly resolver?: string | undefined;
}

export interface Fabric extends Disposable {
  readonly network: Cidr;
  /** Dotted IPv4 address of the gateway, on the bridge. */
  readonly gateway: string;
  /** Puts a machine's wire in. Doing it again replaces the wire. */
  plug(options: PlugOptions): Promise<void>;
  /** The same with a TAP device instead of a wire: for a virtual machine. */
  plugTap(options: TapOptions): Promise<PluggedTap>;
  /** Takes it out; nothing happens if there is none. */
  unplug(machineId: string): Promise<void>;
  /**
   * Makes links and filter agree with `wires`: everything that belongs to no machine goes. Returns the links
   * removed and the machines that have no wire. For a start, before machines are made: a machine that is plugged
   * meanwhile and not in `wires` is cut off.
   */
  reconcile(wires: readonly Wire[]): Promise<{ removed: string[]; missing: string[] }>;
  close(): void;
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

function setSysctl(name: string, value: string): void {
  const path = `/proc/sys/net/${name}`;
  if (existsSync(path)) writeFileSync(path, value);
}

/** /proc/sys/net shows the namespace of the one who looks: these are the fabric's own. */
function setSysctls(): void {
  setSysctl('ipv6/conf/all/disable_ipv6', '1');
  setSysctl('ipv6/conf/default/disable_ipv6', '1');
  setSysctl('ipv4/conf/all/accept_redirects', '0');
  setSysctl('ipv4/conf/default/accept_redirects', '0');
  setSysctl('ipv4/conf/all/send_redirects', '0');
  setSysctl('ipv4/conf/default/send_redirects', '0');
  // else frames between two ports of the bridge also pass the IP rules, which know nothing of owners
  setSysctl('bridge/bridge-nf-call-iptables', '0');
  setSysctl('bridge/bridge-nf-call-arptables', '0');
  setSysctl('ipv4/ip_forward', '1');
}

async function ensureBridge(links: Links, name: string, network: Cidr): Promise<number> {
  const gateway = gatewayOf(network);
  await links.setUp('lo');
  await links.createBridge(name, { mac: macOf(gateway) });
  const bridge = await links.find(name);
  if (bridge?.kind !== 'bridge') throw new CarrelError('internal', `${name} in the fabric is no bridge`);
  await links.addAddress(bridge.index, gateway, network.prefix);
  if (!bridge.up) await links.setUp(name);
  return bridge.index;
}

/** A process that may not look at process 1 has no root there either, and can do no harm. */
function isHostNamespace(): boolean {
  try {
    return netnsOf('self') === netnsOf(1);
  } catch {
    return false;
  }
}

/** Opens the fabric: makes what is missing, leaves running machines alone. Call `reconcile` next. */
export async function openFabric(options: FabricOptions = {}): Promise<Fabric> {
  const {
    network: range = '192.168.0.0/16',
    bridge = 'br0',
    closed = closedByDefault,
    hostAddresses = [],
  } = options;
  if (isHostNamespace() || (options.netns !== undefined && options.netns !== netnsOf('self')))
    throw new CarrelError('internal', 'The fabric is opened in its own network namespace only', {
      hint: 'start the daemon with: carrel up',
    });
  const network = parseCidr(range);
  const gateway = gatewayOf(network);
  const ruleOptions = {
    network,
    bridge,
    closed: [
      ...closed.map(parseCidr),
      ...hostAddresses.map((text) => ({ base: parseAddress(text), prefix: 32 })),
    ],
    resolver: options.resolver === undefined ? undefined : parseAddress(options.resolver),
  };
  setSysctls();
  const links = openLinks();
  const filter = openNetlink(NETLINK_NETFILTER);
  const ports = openPorts(filter);
  const portOf = ({ machineId, address, mac, owner }: Wire, link = linkOf(machineId)): Port => {
    const number = parseAddress(address);
    if (!contains(network, number) || number === gateway)
      throw new CarrelError('internal', `${address} is no machine's address in ${formatCidr(network)}`);
    return { link, mac, address: number, owner };
  };
  const close = (): void => {
    links.close();
    filter.close();
  };
  // the filter stands before there is anything to filter
  const rules = await applyStaticRules(ruleOptions);
  const bridgeIndex = await ensureBridge(links, bridge, network);

  const plug = async (wire: PlugOptions): Promise<void> => {
    const { pid, configure = true } = wire;
    const port = portOf(wire);
    await links.delete(port.link); // of an earlier start: the kernel takes its time to end a dead namespace
    await ports.allow(port);
    try {
      await links.createVeth({
        name: port.link,
        master: bridgeIndex,
        peer: { netns: { pid }, name: 'eth0', mac: port.mac },
      });
      if (configure) await configureMachine(pid, port.address, network);
    } catch (error) {
      await unplug(wire.machineId);
      throw cannotPlug(error);
    }
  };
  const plugTap = async (wire: TapOptions): Promise<PluggedTap> => {
    const port = portOf(wire, wire.tap ?? tapOf(wire.machineId));
    await links.delete(port.link); // of an earlier start, whose QEMU is ending
    await ports.allow(port);
    let fd: Fd | undefined;
    try {
      fd = openTap(port.link);
      await links.configure(port.link, { mtu: 1500, master: bridgeIndex, alias: wire.machineId, up: true });
      return { fd, link: port.link };
    } catch (error) {
      fd?.close();
      await unplug(wire.machineId);
      throw cannotPlug(error);
    }
  };
  const unplug = async (machineId: string): Promise<void> => {
    for (const link of [linkOf(machineId), tapOf(machineId)]) {
      await ports.silence(link);
      await links.delete(link);
    }
  };
  const reconcile = async (known: readonly Wire[]): Promise<{ removed: string[]; missing: string[] }> => {
    const present = (await links.list())
      .filter(({ master }) => master === bridgeIndex)
      .map(({ name }) => name);
    const placeOf = ({ machineId }: Wire): string =>
      present.includes(tapOf(machineId)) ? tapOf(machineId) : linkOf(machineId);
    const all = known.map((wire) => portOf(wire, placeOf(wire)));
    const wanted = new Set(all.map(({ link }) => link));
    const removed = present.filter((name) => !wanted.has(name));
    for (const name of removed) await links.delete(name);
    await applyRules(rules + onlyPorts(all));
    ports.remember(all);
    const missing = known.filter((wire) => !present.includes(placeOf(wire)));
    return { removed, missing: missing.map(({ machineId }) => machineId) };
  };

  return {
    network,
    gateway: formatAddress(gateway),
    plug,
    plugTap,
    unplug,
    reconcile,
    close,
    [Symbol.dispose]: close,
  };
}

function cannotPlug(error: unknown): unknown {
  if (syscallErrno(error) !== 'EXFULL') return error;
  return new CarrelError('no_capacity', 'The network is full: a bridge has room for 1023 machines', {
    cause: error,
  });
}

/** The machine's end: loopback, address, default route. Done from outside, so the image needs no tools for it. */
async function configureMachine(pid: number, address: number, network: Cidr): Promise<void> {
  using inside = inNetns(pid, () => openLinks());
  const eth0 = await inside.find('eth0');
  if (!eth0) throw new CarrelError('machine_lost', 'the machine ended while its network was being made');
  await inside.setUp('lo');
  await inside.addAddress(eth0.index, address, network.prefix);
  await inside.setUp('eth0');
  await inside.addDefaultRoute(gatewayOf(network));
}
