/**
 * The fabric from inside: networks, filter, and one wire per machine. The calling process is in the fabric's
 * network namespace already (the doorman started it there), so what is done here cannot touch the host.
 *
 *   container ── eth0 ═══ v-<id> ┐
 *   machine ──── QEMU ═══ t-<id> ┴ br0 (192.168.0.1/16) ── masquerade ── uplink0 ── outside
 */
import { join } from 'node:path';
import { CarrelError, messageOf } from '#base/errors.ts';
import { type Logger, silent } from '#base/log.ts';
import { type Cidr, macOf, parseAddress, parseCidr } from './addresses.ts';
import { openLimits } from './limits.ts';
import { type Host, openNameServers } from './names.ts';
import { netnsOf } from './netns.ts';
import { openLinks } from './netlink/links.ts';
import { NETLINK_NETFILTER } from './netlink/elements.ts';
import { openNetlink } from './netlink/socket.ts';
import {
  type Network,
  type NetworkPlan,
  checkBeside,
  defaultNetwork,
  defaultPlan,
  parsePlan,
  shapeOf,
} from './networks.ts';
import { onlyPorts, openPorts } from './ports.ts';
import {
  type Door,
  applyRules,
  applyStaticRules,
  closeDoor,
  dropNetworkRules,
  networkRules,
  networksInRules,
  onlyDoors,
  openDoor,
} from './rules.ts';
import { isHostNamespace, setSysctls } from './settings.ts';
import { openWakeups } from './wakeups.ts';
import {
  type Plugged,
  type Wire,
  type Wires,
  belongsTo,
  isLoose,
  linkOf,
  openWires,
  planWire,
  tapOf,
  wireDoor,
} from './wires.ts';

export type { NetworkPlan } from './networks.ts';
export { type Wire, linkOf, tapOf } from './wires.ts';

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
  /** The networks to begin with. */
  readonly networks?: readonly NetworkPlan[];
  /** Networks no machine may reach, besides the host's own addresses. */
  readonly closed?: readonly string[];
  /** The host's own addresses: closed as well. */
  readonly hostAddresses?: readonly string[];
  /** The namespace to be in, as the doorman says (see environment.ts). */
  readonly netns?: string;
  /** Where the uplink answers DNS; undefined: no DNS. */
  readonly resolver?: string | undefined;
  /** A directory of ours for the files of name servers, DIR or DIR/run; without it there can be none. */
  readonly runDirectory?: string;
  readonly log?: Logger;
}

/** Bytes from the machine's point of view, since it was plugged. */
export interface Traffic {
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

export interface Fabric extends Disposable, Pick<Wires, 'plug' | 'plugTap' | 'connectTap' | 'unplug'> {
  /** The range of the default network. */
  readonly network: Cidr;
  /** Dotted IPv4 address of the default network's gateway, on its bridge. */
  readonly gateway: string;
  /** What this host's kernel cannot do of what was asked for, as sentences. */
  readonly findings: readonly string[];
  /**
   * Makes a network, or what is missing of it; NAT and isolation of one that is there follow the plan, the latter
   * for machines that are plugged from now on. Throws `validation_failed` or `name_taken` if it cannot be beside
   * the others, `wrong_state` if its range, bridge or layout would change while something is plugged.
   */
  ensureNetwork(plan: NetworkPlan): Promise<void>;
  /** Takes a network away; nothing happens if there is none. `wrong_state` while something is plugged. */
  removeNetwork(name: string): Promise<void>;
  /**
   * Who may ask for an address in a network with DHCP, and which names it knows: these and nobody else. Begins to
   * serve it; one process does this for a network, the one that calls `reconcile`.
   */
  setHosts(network: string, hosts: readonly Host[]): Promise<void>;
  /** null when the machine has no wire. */
  traffic(machineId: string): Promise<Traffic | null>;
  /**
   * Calls back once, when the first frame that is meant for the machine comes, within some 20 ms: unicast to its
   * hardware address, or a question for its IPv4 address. The frame is not lost, it waits for the machine. Frames
   * that came before are not seen: call this first, then put the machine to sleep. `machine_lost` without a wire.
   */
  onFirstPacket(machineId: string, callback: () => void): Promise<Disposable>;
  /**
   * Makes networks, links and filter agree with `wires` and the networks that were ensured: everything that belongs
   * to none of them goes. Returns the links removed and the machines that have no wire. For a start, before machines
   * are made: a machine that is plugged meanwhile and not in `wires` is cut off. A device that was made loose and leads
   * nowhere yet stays, if it is of one of these machines or of `loose`: whoever holds it could not get it back.
   */
  reconcile(
    wires: readonly Wire[],
    options?: { readonly loose?: ReadonlySet<string> },
  ): Promise<{ removed: string[]; missing: string[] }>;
  close(): void;
}

/** Opens the fabric: makes what is missing, leaves running machines alone. Call `reconcile` next. */
export async function openFabric(options: FabricOptions = {}): Promise<Fabric> {
  const {
    networks: plans = [defaultPlan],
    closed = closedByDefault,
    hostAddresses = [],
    log = silent,
  } = options;
  if (isHostNamespace() || (options.netns !== undefined && options.netns !== netnsOf('self')))
    throw new CarrelError('internal', 'The fabric is opened in its own network namespace only', {
      hint: 'start the daemon with: carrel up',
    });
  const resolver = options.resolver === undefined ? undefined : parseAddress(options.resolver);
  const ruleOptions = {
    closed: [
      ...closed.map(parseCidr),
      ...hostAddresses.map((text) => ({ base: parseAddress(text), prefix: 32 })),
    ],
    resolver,
  };
  setSysctls();
  const networks = new Map<string, Network>();
  const bridges = new Map<string, number>();
  using undo = new DisposableStack();
  const links = undo.use(openLinks());
  const filter = undo.use(openNetlink(NETLINK_NETFILTER));
  const wakeups = undo.use(openWakeups());
  const ports = openPorts(filter);
  const names = openNameServers({
    directory: options.runDirectory && join(options.runDirectory, 'names'),
    resolver,
    log: log.with({ part: 'names' }),
  });
  undo.defer(() => names.close());
  await links.setUp('lo');
  // the filter stands before there is anything to filter
  const rules = await applyStaticRules(ruleOptions);
  const limits = openLimits({ links, filter, rates: rules.rates });

  const networkOf = (name = defaultNetwork): Network => {
    const network = networks.get(name);
    if (!network) throw new CarrelError('not_found', `The fabric has no network ${JSON.stringify(name)}`);
    return network;
  };
  const masterOf = ({ bridge, layout }: Network): number =>
    layout === 'routed' ? 0 : (bridges.get(bridge) ?? 0);
  const wires = openWires({ links, ports, limits, networkOf, masterOf });

  const ensureBridge = async ({ name, bridge, gateway, range }: Network): Promise<void> => {
    const address = parseAddress(gateway);
    await links.createBridge(bridge, { mac: macOf(address) });
    const found = await links.find(bridge);
    if (found?.kind !== 'bridge') throw new CarrelError('internal', `${bridge} in the fabric is no bridge`);
    await links.addAddress(found.index, address, range.prefix);
    await links.configure(bridge, { alias: name, up: true });
    bridges.set(bridge, found.index);
  };
  /**
   * The machines' links in a network: of a bridge all, whoever plugged them; of a routed one those of this process.
   * Who removes networks for a cloud counts machines in its database first (`lockEmptyNetwork`).
   */
  const linksIn = async (network: Network): Promise<string[]> => {
    const present = await links.list();
    if (network.layout === 'bridge') {
      const index = present.find(({ name }) => name === network.bridge)?.index;
      return present.filter(({ master }) => master !== undefined && master === index).map(({ name }) => name);
    }
    const doors = [...wires.known.values()].filter((wire) => wire.network.name === network.name);
    return doors.map(({ port }) => port.link).filter((link) => present.some(({ name }) => name === link));
  };
  let lastChange: Promise<unknown> = Promise.resolve();
  /** Networks change one after the other: each is checked against those that are there. */
  const inTurn = async (change: () => Promise<void>): Promise<void> => {
    const mine = lastChange.then(change);
    lastChange = mine.catch(() => undefined);
    await mine;
  };
  const remove = async (name: string): Promise<void> => {
    const network = networks.get(name);
    if (!network) return;
    const inUse = await linksIn(network);
    if (inUse.length > 0)
      throw new CarrelError(
        'wrong_state',
        `Network ${name} is in use by ${inUse.length} machine${inUse.length === 1 ? '' : 's'}`,
        {
          hint: 'stop or delete its machines first',
          details: { network: name, links: inUse.slice(0, 20) },
        },
      );
    await names.end(name);
    if (network.layout === 'bridge') await links.delete(network.bridge);
    const doors = network.layout === 'bridge' ? closeDoor(bridgeDoor(network)) : '';
    await applyRules(doors + dropNetworkRules(name));
    networks.delete(name);
  };
  const ensure = async (plan: NetworkPlan): Promise<void> => {
    const network = parsePlan(plan);
    checkBeside(network, networks.values());
    const old = networks.get(network.name);
    if (old && shapeOf(old) !== shapeOf(network)) await remove(network.name);
    if (old && old.dhcp && !network.dhcp) await names.end(network.name);
    const bridged = network.layout === 'bridge';
    await applyRules(networkRules(network) + (bridged ? openDoor(bridgeDoor(network)) : ''));
    if (bridged) await ensureBridge(network);
    networks.set(network.name, network);
  };

  const reconcile: Fabric['reconcile'] = async (known, { loose = new Set<string>() } = {}) => {
    const removed: string[] = [];
    const present = await links.list();
    const all = new Map<string, Plugged>();
    const missing: string[] = [];
    const nowhere = new Set([...loose, ...known.map(({ machineId }) => machineId)].map(tapOf));
    const kept = new Set(
      present.filter((link) => isLoose(link) && nowhere.has(link.name)).map(({ name }) => name),
    );
    for (const wire of known) {
      const { machineId } = wire;
      const link = present.find((candidate) => belongsTo(candidate, machineId));
      try {
        const at = planWire(wire, networkOf(wire.network), link?.name ?? linkOf(machineId));
        all.set(machineId, at);
        if (link && (link.master ?? 0) === masterOf(at.network)) kept.add(link.name);
        else missing.push(machineId);
      } catch (error) {
        // one that fits nowhere is cut off; the others do not wait for it
        log.warn('a machine has no place in the fabric', { machineId, error: messageOf(error) });
        missing.push(machineId);
      }
    }
    const ours = new Set(
      [...networks.values()].flatMap(({ layout, bridge }) => (layout === 'bridge' ? [bridge] : [])),
    );
    for (const { name, kind, alias } of present)
      if (/^[vt]-/.test(name) || alias !== undefined || kind === 'bridge')
        if (!kept.has(name) && !ours.has(name)) {
          await links.delete(name);
          removed.push(name);
        }
    const machinePorts = [...all.values()].map(({ port }) => port);
    const stale = (await networksInRules()).filter((name) => !networks.has(name));
    const doors = [
      ...[...networks.values()].filter(({ layout }) => layout === 'bridge').map(bridgeDoor),
      ...[...all.values()].filter(({ network }) => network.layout === 'routed').map(wireDoor),
    ];
    await applyRules(
      rules.text +
        onlyDoors([...networks.values()], doors, stale) +
        onlyPorts(machinePorts) +
        (await limits.forgetOthers(machinePorts)),
    );
    ports.remember(machinePorts);
    wires.known.clear();
    for (const [machineId, at] of all) wires.known.set(machineId, at);
    for (const { machineId, bytesPerSecond } of known) {
      const at = all.get(machineId);
      if (at && bytesPerSecond !== undefined && !missing.includes(machineId))
        await limits.set(at.port, bytesPerSecond);
    }
    return { removed, missing };
  };

  for (const plan of plans) await ensure(plan);
  const main = parsePlan(plans.find(({ name }) => name === defaultNetwork) ?? defaultPlan);
  const resources = undo.move();
  const close = (): void => resources.dispose();
  return {
    network: main.range,
    gateway: main.gateway,
    get findings() {
      return [...limits.findings];
    },
    ensureNetwork: async (plan) => await inTurn(async () => await ensure(plan)),
    removeNetwork: async (name) => await inTurn(async () => await remove(name)),
    setHosts: async (name, hosts) => await names.setHosts(networkOf(name), hosts),
    plug: async (wire) => await wires.plug(wire),
    plugTap: async (wire) => await wires.plugTap(wire),
    connectTap: (wire) => wires.connectTap(wire),
    unplug: async (machineId) => await wires.unplug(machineId),
    async traffic(machineId) {
      const link = await wires.find(machineId);
      return link ? { receivedBytes: link.sentBytes, sentBytes: link.receivedBytes } : null;
    },
    async onFirstPacket(machineId, callback) {
      const link = await wires.find(machineId);
      const port = wires.known.get(machineId)?.port;
      if (!link || !port) throw new CarrelError('machine_lost', `Machine ${machineId} has no wire here`);
      return wakeups.watch({ index: link.index, mac: port.mac, address: port.address }, callback);
    },
    reconcile,
    close,
    [Symbol.dispose]: close,
  };
}

/** Where packets of a network with a bridge come in. */
function bridgeDoor(network: Network): Door {
  return { link: network.bridge, gateway: parseAddress(network.gateway), network };
}
