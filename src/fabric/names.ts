/**
 * Addresses and names inside a network, by dnsmasq(8): DHCP for machines that are known, each the address that is
 * in the data, and DNS that knows their names (`web`, `web.internal`). Names are those of the network: whoever is in
 * it can ask for all of them.
 *
 * One dnsmasq per network, in the fabric, as nobody, with the three capabilities it insists on. It listens on the
 * network's bridge only, keeps no lease file and no pid file (what it hands out is in the data), and is killed by
 * the kernel when the process that started it ends, however that ends: so there is never a second one.
 */
import { readFileSync } from 'node:fs';
import { chmod, chown, mkdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CarrelError, messageOf } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import type { Logger } from '#base/log.ts';
import { writeFileAtomic } from '#host/files.ts';
import { type Argv, type Service, launchService } from '#host/launch.ts';
import { signalProcess } from '#host/processes.ts';
import { addressBytes, formatAddress, parseAddress, parseMac } from './addresses.ts';
import { type Network, placeOf } from './networks.ts';
import { type Supervised, supervise } from './supervisor.ts';

/** A machine as its neighbours know it. */
export interface Host {
  readonly name: string;
  readonly mac: string;
  /** Dotted address, one of its network's. */
  readonly address: string;
}

/** Private use, by decision of ICANN (2024-07-29): no name outside is hidden by it. */
const domain = 'internal';
/** Names that programs ask for to find out how to behave: no machine may answer to them. */
const reserved: ReadonlySet<string> = new Set(['localhost', 'wpad', 'isatap', domain]);
const NOBODY = 65_534;
const capabilities = '-all,+net_bind_service,+net_raw,+net_admin';
/** This many deaths in a row, none of them after ten seconds, and nobody tries any more. */
const giveUpAfter = 10;

/** Can dnsmasq be nobody here? In a fabric without root there is one user id, our own (user_namespaces(7)). */
function canBeNobody(): boolean {
  return readFileSync('/proc/self/uid_map', 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .some(([inside = 0, , count = 0]) => NOBODY >= inside && NOBODY < inside + count);
}

/** The two files, as dnsmasq reads them. The first machine with a name keeps it. */
export function hostFiles(network: Network, hosts: readonly Host[]): { reservations: string; names: string } {
  const taken = new Set<string>();
  const reservations: string[] = [];
  const names: string[] = [];
  for (const { name, mac, address } of hosts) {
    placeOf(network, address);
    parseMac(mac);
    const label = name.toLowerCase();
    reservations.push(`${mac},${address},12h\n`);
    // RFC 1123, section 2.1: what is no host name is nobody's name here
    if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(label) || /^\d+$/.test(label)) continue;
    if (reserved.has(label) || taken.has(label)) continue;
    taken.add(label);
    names.push(`${address} ${label}\n`);
  }
  return { reservations: reservations.join(''), names: names.join('') };
}

interface Files {
  readonly reservations: string;
  readonly names: string;
}

function dnsmasqArgv(network: Network, files: Files, resolver: number | undefined): Argv {
  const { base, prefix } = network.range;
  const mask = formatAddress(2 ** 32 - 2 ** (32 - prefix));
  const plain = canBeNobody();
  return [
    'setpriv',
    // in a user namespace with one id there is nobody else to be
    ...(plain ? [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'] : []),
    '--no-new-privs',
    `--inh-caps=${capabilities}`,
    `--ambient-caps=${capabilities.replace('-all,', '')}`,
    `--bounding-set=${capabilities}`,
    '--pdeathsig=KILL',
    '--',
    'dnsmasq',
    plain ? '--keep-in-foreground' : '--no-daemon', // the latter keeps the user id, too
    '--conf-file=/dev/null',
    '--pid-file=',
    '--leasefile-ro', // and no script: then there is no lease file
    '--log-facility=-',
    '--quiet-dhcp',
    '--no-hosts',
    '--no-resolv',
    '--no-poll',
    `--interface=${network.bridge}`,
    '--except-interface=lo',
    '--bind-interfaces',
    `--addn-hosts=${files.names}`,
    '--expand-hosts',
    `--domain=${domain}`,
    `--local=/${domain}/`,
    '--domain-needed',
    '--bogus-priv',
    `--dhcp-range=${formatAddress(base)},static,${mask},12h`,
    '--dhcp-ignore=tag:!known',
    '--dhcp-ignore-names', // a machine does not choose its name here
    `--dhcp-hostsfile=${files.reservations}`,
    `--dhcp-option=option:router,${network.gateway}`,
    '--dhcp-authoritative',
    '--dhcp-lease-max=65536',
    '--no-ping',
    ...(network.nat && resolver !== undefined ? [`--server=${formatAddress(resolver)}`] : []),
  ];
}

/** Is a UDP socket bound there in our network namespace? proc_net(5), udp: addresses in host order. */
function listens(gateway: number, port: number): boolean {
  const address = Buffer.from(addressBytes(gateway)).readUInt32LE(0).toString(16).padStart(8, '0');
  const local = `${address}:${port.toString(16).padStart(4, '0')}`.toUpperCase();
  return readFileSync('/proc/thread-self/net/udp', 'utf8')
    .split('\n')
    .some((line) => line.trim().split(/\s+/)[1] === local);
}

async function startDnsmasq(network: Network, files: Files, resolver: number | undefined): Promise<Service> {
  const gateway = parseAddress(network.gateway);
  // two could listen there and each hear half; one of a process that was killed is about to end
  await until(2000, `${network.gateway}:53 to be free (it is in use)`, () =>
    listens(gateway, 53) ? undefined : true,
  );
  return await launchService(dnsmasqArgv(network, files, resolver), {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { PATH: process.env['PATH'], LC_ALL: 'C' },
    explain: true,
    readyMs: 5000,
    ready: async () =>
      await until(5000, `names in network ${network.name}`, () => (listens(gateway, 53) ? true : undefined)),
  });
}

/** Writes the two files so that nobody can read them, and nobody else. */
async function writeFiles(home: string, text: Files): Promise<Files> {
  // dnsmasq reads as nobody, and again at each change
  const group = canBeNobody() ? NOBODY : (process.getgid?.() ?? 0);
  const above = dirname(home);
  await mkdir(above, { recursive: true, mode: 0o711 });
  // whoever knows a name gets through, or nobody could not; what there is, is not shown
  for (const path of canBeNobody() ? [above, dirname(above)] : []) {
    const { mode } = await stat(path);
    if ((mode & 0o001) === 0) await chmod(path, (mode & 0o7777) | 0o011);
  }
  await mkdir(home, { recursive: true, mode: 0o710 });
  await chown(home, process.getuid?.() ?? 0, group);
  await chmod(home, 0o710);
  const files = { reservations: join(home, 'reservations'), names: join(home, 'names') };
  for (const key of ['reservations', 'names'] as const) {
    await writeFileAtomic(files[key], text[key], { mode: 0o640 });
    await chown(files[key], process.getuid?.() ?? 0, group);
  }
  return files;
}

interface Server {
  readonly supervised: Supervised;
  readonly network: Network;
  readonly home: string;
  /** What its files say. */
  text: Files;
}

/** Is everything still there that was there? */
function includes(now: Files, before: Files): boolean {
  const lines = new Set([...now.reservations.split('\n'), ...now.names.split('\n')]);
  return [...before.reservations.split('\n'), ...before.names.split('\n')].every((line) => lines.has(line));
}

export interface NameServers {
  /** Makes `hosts` the only ones of a network with DHCP; begins to serve it if nobody does. */
  setHosts(network: Network, hosts: readonly Host[]): Promise<void>;
  /** Ends serving a network. */
  end(name: string): Promise<void>;
  /** Ends all of them; what is left to do is done without waiting. */
  close(): void;
}

/** `directory`: where the files are; made when it is needed. Others may look into none of it. */
export function openNameServers({
  directory,
  resolver,
  log,
}: {
  directory: string | undefined;
  resolver: number | undefined;
  log: Logger;
}): NameServers {
  const servers = new Map<string, Server>();
  const turns = new Map<string, Promise<unknown>>();
  /** One at a time per network. */
  const inTurn = async (name: string, work: () => Promise<void>): Promise<void> => {
    const mine = (turns.get(name) ?? Promise.resolve()).then(work);
    turns.set(
      name,
      mine.catch(() => undefined),
    );
    await mine;
  };
  const endNow = async (name: string): Promise<void> => {
    const server = servers.get(name);
    if (!server) return;
    servers.delete(name);
    await server.supervised.stop(async (service) => await service.stop({ graceMs: 500 }));
    await rm(server.home, { recursive: true, force: true });
  };
  return {
    setHosts: async (network, hosts) =>
      await inTurn(network.name, async () => {
        if (!network.dhcp)
          throw new CarrelError('wrong_state', `Network ${network.name} has no DHCP and no names`);
        if (directory === undefined)
          throw new CarrelError('internal', 'the fabric was opened without a directory for names');
        const known = servers.get(network.name);
        if (known && JSON.stringify(known.network) !== JSON.stringify(network)) await endNow(network.name);
        const home = join(directory, network.name);
        const text = hostFiles(network, hosts);
        // what it handed out it remembers, by name and address, until it ends: new ones only can be added
        const before = servers.get(network.name);
        if (before && !includes(text, before.text)) await endNow(network.name);
        const files = await writeFiles(home, text);
        const current = servers.get(network.name)?.supervised.current;
        if (current) signalProcess(current.identity, 'SIGHUP');
        const serving = servers.get(network.name);
        if (serving) {
          serving.text = text;
          return;
        }
        const supervised = supervise({
          name: `dnsmasq of network ${network.name}`,
          start: async () => {
            const service = await startDnsmasq(network, files, resolver);
            // the files may have changed since it read them
            signalProcess(service.identity, 'SIGHUP');
            return service;
          },
          giveUpAfter,
          log,
        });
        servers.set(network.name, { supervised, network, home, text });
        supervised.ended.catch((error: unknown) => {
          log.error('names are not served any more', { network: network.name, error: messageOf(error) });
          servers.delete(network.name);
        });
        await supervised.attempted;
        if (supervised.current !== undefined) return;
        const { reason } = supervised;
        await endNow(network.name);
        throw new CarrelError('unavailable', `Names in network ${network.name} cannot be served: ${reason}`);
      }),
    end: async (name) => await inTurn(name, async () => await endNow(name)),
    close() {
      for (const name of servers.keys()) endNow(name).catch(() => undefined);
    },
  };
}
