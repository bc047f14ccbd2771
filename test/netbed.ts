/** Real network namespaces for tests, without touching the host's: stand-ins for machines and for the outside. */
import { readFileSync, readdirSync } from 'node:fs';
import { until } from '#base/deadline.ts';
import { type Argv, type LaunchResult, type Service, launch, launchService } from '#host/launch.ts';
import { ownFd } from '#host/fds.ts';
import { syscall, trySyscall } from '#host/syscalls.ts';
import { inNetns, netnsCookie, netnsOf } from '#fabric/netns.ts';

const CLONE_NEWNET = 0x40000000;

/** By name, with the cookie: a name is used again after its namespace's end. */
const made = new Map<string, string | undefined>();

export interface Netbed extends AsyncDisposable {
  readonly pid: number;
  /** Runs a program inside. */
  run(...argv: Argv): Promise<LaunchResult>;
  /** Does an ICMP echo come back within a second? */
  pings(address: string): Promise<boolean>;
  /** Does one come back at last? For where it must: on a busy host the first one may be late. */
  reaches(address: string): Promise<boolean>;
}

/** A network namespace with nothing in it but a loopback that is down, held by a sleeping process. */
export async function makeNetns(): Promise<Netbed> {
  const here = netnsOf('self');
  const service: Service = await launchService(['unshare', '--net', '--', 'sleep', '120'], {
    ready: async ({ identity: { pid } }) =>
      await until(5000, 'a network namespace', () => {
        const there = netnsOf(pid);
        return there === undefined || there === here ? undefined : there;
      }),
  });
  const { pid } = service.identity;
  made.set(netnsOf(pid) ?? '', netnsCookie(pid));
  const run = async (...argv: Argv): Promise<LaunchResult> =>
    await launch(['nsenter', `--net=/proc/${pid}/ns/net`, '--', ...argv]);
  const pings = async (address: string): Promise<boolean> =>
    (await run('busybox', 'ping', '-c1', '-W1', address)).status === 0;
  return {
    pid,
    run,
    pings,
    async reaches(address) {
      for (let attempt = 0; attempt < 5; attempt += 1) if (await pings(address)) return true;
      return false;
    },
    [Symbol.asyncDispose]: async () => void (await service.stop({ graceMs: 100 })),
  };
}

/**
 * Moves this test's main thread into a namespace for good: what it starts and opens from now on is there.
 * For a test file of its own process only.
 */
export function enterNetns(pid: number): void {
  using namespace = ownFd(syscall('pidfd_open', pid, 0));
  syscall('setns', namespace.fd, CLONE_NEWNET);
}

const AF_PACKET = 17;
const RAW_NONBLOCK = 3 | 0o4000 | 0o2000000;
const EVERY_PROTOCOL = 0x0300; // htons(ETH_P_ALL)

export interface Tap extends Disposable {
  send(frame: Uint8Array): void;
  /** Frames that came in since the last call; frames going out are left out. */
  received(): Buffer[];
}

/** Whole frames on an interface of the namespace of `pid`: packet(7). */
export function openTap(pid: number, index: number): Tap {
  const socket = inNetns(pid, () => ownFd(syscall('socket', AF_PACKET, RAW_NONBLOCK, EVERY_PROTOCOL)));
  const address = new DataView(new ArrayBuffer(20)); // struct sockaddr_ll
  address.setUint16(0, AF_PACKET, true);
  address.setUint16(2, EVERY_PROTOCOL, true);
  address.setInt32(4, index, true);
  syscall('bind', socket.fd, address, 20);
  return {
    send: (frame) => void syscall('sendto', socket.fd, frame, frame.length, 0, null, 0),
    received() {
      const frames: Buffer[] = [];
      for (;;) {
        const frame = Buffer.allocUnsafeSlow(2048);
        const from = new DataView(new ArrayBuffer(20));
        const length = trySyscall('recvfrom', socket.fd, frame, frame.length, 0, from, Int32Array.of(20));
        if (length < 0) return frames;
        const outgoing = from.getUint8(10) === 4; // PACKET_OUTGOING
        if (!outgoing) frames.push(frame.subarray(0, length));
      }
    },
    [Symbol.dispose]: () => socket.close(),
  };
}

/** Namespaces made by `makeNetns` that somebody is still in, by name. */
export function netnsLeft(): string[] {
  const left: string[] = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    try {
      const name = netnsOf(Number(pid));
      if (name !== undefined && made.has(name) && made.get(name) === netnsCookie(Number(pid)))
        left.push(`${name} ${readFileSync(`/proc/${pid}/cmdline`, 'utf8')}`);
    } catch {
      // it ended while we looked
    }
  return left;
}

/** The interfaces of the namespace we are in. */
export function linkNames(): string[] {
  return (readFileSync('/proc/thread-self/net/dev', 'utf8').match(/^\s*\S+:/gm) ?? [])
    .map((link) => link.trim())
    .sort();
}
