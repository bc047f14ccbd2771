/**
 * The way out: pasta(1) copies connections between the fabric and the host's own sockets. No interface, no
 * rule and no forwarding in the host.
 *
 * pasta opens the host's loopback to the namespace by default, in both directions; every way is closed here:
 * `--no-map-gw` (the gateway's address is not the host), `--tcp-ns=none --udp-ns=none` (namespace to host
 * loopback), `--tcp-ports=none --udp-ports=none` (host to namespace).
 */
import { readFileSync } from 'node:fs';
import { CarrelError, messageOf } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { type Argv, type Service, launchService } from '#host/launch.ts';
import { formatAddress, parseAddress } from './addresses.ts';
import type { FabricNamespace } from './namespace.ts';

/** The interface pasta makes in the fabric. */
export const uplinkName = 'uplink0';

/** Where pasta answers DNS for the fabric (RFC 2544 range: nobody's address). */
export const resolverAddress = parseAddress('198.18.0.53');

/**
 * pasta's arguments (passt 2023-03 and later). Its standard input is the network namespace: under the reduced
 * capabilities it gives itself first, it may not open /proc/<pid>/ns/net of a process with more.
 */
export function pastaArgv({ holder, rootless }: Pick<FabricNamespace, 'holder' | 'rootless'>): Argv {
  return [
    'pasta',
    '--foreground',
    '--quiet',
    '--stderr',
    '--config-net',
    '--ipv4-only',
    `--ns-ifname=${uplinkName}`,
    '--no-map-gw',
    '--tcp-ns=none',
    '--udp-ns=none',
    '--tcp-ports=none',
    '--udp-ports=none',
    `--dns-forward=${formatAddress(resolverAddress)}`,
    // started by root it would become nobody, who may not join a namespace that root owns
    rootless ? `--userns=/proc/${holder.pid}/ns/user` : '--runas=0:0',
    '--netns=/proc/self/fd/0',
  ];
}

/** Is there a default route in the namespace of process `pid`? Reads proc(5), so nobody has to go there. */
function hasUplink(pid: number): boolean {
  return readFileSync(`/proc/${pid}/net/route`, 'utf8')
    .split('\n')
    .some((line) => line.startsWith(`${uplinkName}\t00000000\t`));
}

/**
 * Starts the uplink; `netnsFd` is a descriptor of the fabric's network namespace. Throws when there can be no
 * uplink, with pasta's reason. The fabric works without: then nothing in it reaches the outside.
 */
export async function startUplink(namespace: FabricNamespace, netnsFd: number): Promise<Service> {
  const { pid } = namespace.holder;
  try {
    return await launchService(pastaArgv(namespace), {
      stdio: [netnsFd, 'ignore', 'pipe'],
      explain: true,
      readyMs: 5000,
      ready: async () => await until(5000, 'the uplink', () => (hasUplink(pid) ? true : undefined)),
    });
  } catch (cause) {
    const reason = messageOf(cause).replaceAll(/Failed to send \d+ bytes to syslog\n?/g, '');
    throw new CarrelError('host_unsupported', reason.replaceAll('\n', '; '), { cause });
  }
}
