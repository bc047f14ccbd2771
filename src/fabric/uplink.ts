/**
 * The way out: pasta(1) copies connections between the fabric and the host's own sockets. No interface, no
 * rule and no forwarding in the host.
 *
 * pasta opens the host's loopback to the namespace by default, in both directions; every way is closed here:
 * `--no-map-gw` (the gateway's address is not the host), `--tcp-ns=none --udp-ns=none` (namespace to host
 * loopback), `--tcp-ports=none --udp-ports=none` (host to namespace).
 */
import { readFileSync } from 'node:fs';
import { until } from '#base/deadline.ts';
import { type Argv, type Service, launchService } from '#host/launch.ts';
import { formatAddress, parseAddress } from './addresses.ts';
import type { FabricNamespace } from './namespace.ts';

/** The interface pasta makes in the fabric. */
export const uplinkName = 'uplink0';

/** Where pasta answers DNS for the fabric (RFC 2544 range: nobody's address). */
export const resolverAddress = parseAddress('198.18.0.53');

/** pasta's arguments (1-3 of passt 2023-03 and later; stable since). */
export function pastaArgv({ pid }: { pid: number }, { rootless }: { rootless: boolean }): Argv {
  return [
    'pasta',
    '--foreground',
    '--quiet',
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
    rootless ? `--userns=/proc/${pid}/ns/user` : '--runas=0:0',
    `--netns=/proc/${pid}/ns/net`,
  ];
}

/** Is there a default route in the namespace of process `pid`? Reads proc(5), so nobody has to go there. */
function hasUplink(pid: number): boolean {
  return readFileSync(`/proc/${pid}/net/route`, 'utf8')
    .split('\n')
    .some((line) => line.startsWith(`${uplinkName}\t00000000\t`));
}

/** Starts the uplink; throws when there can be none. The fabric works without: nothing in it reaches the outside. */
export async function startUplink(namespace: FabricNamespace): Promise<Service> {
  const { pid } = namespace.holder;
  return await launchService(pastaArgv({ pid }, namespace), {
    readyMs: 5000,
    ready: async () => await until(5000, 'the uplink', () => (hasUplink(pid) ? true : undefined)),
  });
}
