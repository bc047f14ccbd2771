/**
 * Listening TCP sockets that are opened in the host's network namespace and served in the fabric's.
 *
 * A socket belongs to the namespace it was made in, whoever serves it: the doorman opens, the daemon inherits
 * the descriptors and is told what they are in CARREL_LISTEN_FDS. While the daemon restarts, connections wait
 * in the socket's backlog instead of being refused.
 */
import { isIPv4, isIPv6 } from 'node:net';
import * as z from 'zod';
import { CarrelError } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { errnoName, syscall, trySyscall } from '#host/syscalls.ts';
import { addressBytes, parseAddress } from './addresses.ts';

export interface Endpoint {
  /** IPv4 or IPv6 address, without brackets. */
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}

export const listenVariable = 'CARREL_LISTEN_FDS';

const AF_INET = 2;
const AF_INET6 = 10;
const STREAM_CLOEXEC = 1 | 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;
const BACKLOG = 511;

/** `7070`, `127.0.0.1:7070`, `[::1]:7070`, `0.0.0.0:7070`; a port alone is on the loopback. */
export function parseListen(text: string): Endpoint {
  const match = /^(?:(?:\[([\da-fA-F:.]+)\]|([\d.]+)|localhost):)?(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? '127.0.0.1';
  const port = Number(match?.[3] ?? Number.NaN);
  const valid = match?.[1] === undefined ? isIPv4(host) : isIPv6(host);
  if (!match || !valid || port > 65535)
    throw new CarrelError('validation_failed', `Invalid address to listen on: ${JSON.stringify(text)}`, {
      hint: 'write an address and a port, for example 127.0.0.1:7070, 0.0.0.0:7070 or [::1]:7070',
    });
  return { host, port };
}

export function formatEndpoint({ host, port }: Endpoint): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

export function isLoopback(host: string): boolean {
  return isIPv4(host)
    ? host.startsWith('127.')
    : isIPv6(host) && ipv6Bytes(host).join() === ipv6Bytes('::1').join();
}

/** The bytes of `2001:db8` or of `ffff:192.0.2.1`. */
function groupBytes(part: string): number[] {
  if (part === '') return [];
  return part.split(':').flatMap((group) => {
    if (group.includes('.')) return addressBytes(parseAddress(group));
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 255];
  });
}

/** The 16 bytes of an IPv6 address; the last four may be written as IPv4. */
export function ipv6Bytes(text: string): number[] {
  if (!isIPv6(text))
    throw new CarrelError('validation_failed', `Invalid IPv6 address: ${JSON.stringify(text)}`);
  const [head = '', tail = ''] = text.split('::');
  const before = groupBytes(head);
  const after = groupBytes(tail);
  return [...before, ...Array.from({ length: 16 - before.length - after.length }, () => 0), ...after];
}

/** struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)); ports are big-endian. */
function socketAddress({ host, port }: Endpoint): DataView {
  const six = isIPv6(host);
  const view = new DataView(new ArrayBuffer(six ? 28 : 16));
  view.setUint16(0, six ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port);
  const bytes = six ? ipv6Bytes(host) : addressBytes(parseAddress(host));
  for (const [index, byte] of bytes.entries()) view.setUint8((six ? 8 : 4) + index, byte);
  return view;
}

/** An open listening socket and where it really listens. */
export interface Listener extends Endpoint {
  readonly socket: Fd;
}

/** Opens a listening socket in the network namespace we are in. */
export function openListener(endpoint: Endpoint): Listener {
  const six = isIPv6(endpoint.host);
  const socket = ownFd(syscall('socket', six ? AF_INET6 : AF_INET, STREAM_CLOEXEC, 0));
  try {
    const on = Int32Array.of(1);
    syscall('setsockopt', socket.fd, SOL_SOCKET, SO_REUSEADDR, on, 4);
    if (six) syscall('setsockopt', socket.fd, IPPROTO_IPV6, IPV6_V6ONLY, on, 4);
    const address = socketAddress(endpoint);
    let result = trySyscall('bind', socket.fd, address, address.byteLength);
    if (result === 0) result = trySyscall('listen', socket.fd, BACKLOG);
    if (result < 0) throw cannotListen(endpoint, errnoName(result));
    syscall('getsockname', socket.fd, address, Int32Array.of(address.byteLength));
    return { host: endpoint.host, port: address.getUint16(2), socket };
  } catch (error) {
    socket.close();
    throw error;
  }
}

function cannotListen(endpoint: Endpoint, errno: string): CarrelError {
  const where = formatEndpoint(endpoint);
  const details = { errno, host: endpoint.host, port: endpoint.port };
  if (errno === 'EADDRINUSE')
    return new CarrelError('unavailable', `${where} is in use by another program`, {
      hint: `choose another port, or find the program with: ss -ltnp sport = :${endpoint.port}`,
      details,
    });
  if (errno === 'EADDRNOTAVAIL')
    return new CarrelError('validation_failed', `${where} is no address of this host`, { details });
  if (errno === 'EACCES')
    return new CarrelError('forbidden', `${where} needs root: ports below 1024 are reserved`, { details });
  return new CarrelError('unavailable', `Cannot listen on ${where}: ${errno}`, { details });
}

const inheritedSchema = z.array(
  z.strictObject({
    fd: z.int().min(3),
    /** What to serve there, for example `http` or `ssh`. */
    name: z.string(),
    host: z.string(),
    port: z.int().min(1).max(65535),
  }),
);

export type InheritedListener = z.infer<typeof inheritedSchema>[number];

/** The listening sockets handed to this process: for `server.listen({ fd })`. Empty without a doorman. */
export function inheritedListeners(env: NodeJS.ProcessEnv = process.env): InheritedListener[] {
  const text = env[listenVariable];
  return text === undefined ? [] : inheritedSchema.parse(JSON.parse(text));
}
