/** IPv4 arithmetic. An address is a number from 0 to 2^32-1 inside, dotted text outside. */
import { CarrelError } from '#base/errors.ts';

export interface Cidr {
  /** First address of the range. */
  readonly base: number;
  /** Number of leading bits that are the network's, 0 to 32. */
  readonly prefix: number;
}

function invalid(what: string, text: string, hint: string): CarrelError {
  return new CarrelError('validation_failed', `Invalid ${what}: ${JSON.stringify(text)}`, { hint });
}

/** `192.168.0.1` -> 3232235521. Four decimal parts without leading zeros; nothing else is an address. */
export function parseAddress(text: string): number {
  const match = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/.exec(text);
  let address = 0;
  for (const part of match?.slice(1) ?? ['999']) {
    if (Number(part) > 255) throw invalid('IPv4 address', text, 'write it like 192.168.0.1');
    address = address * 256 + Number(part);
  }
  return address;
}

/** 3232235521 -> `192.168.0.1`. */
export function formatAddress(address: number): string {
  return addressBytes(address).join('.');
}

/** The four bytes, first one first. */
export function addressBytes(address: number): [number, number, number, number] {
  if (!Number.isInteger(address) || address < 0 || address > 0xffffffff)
    throw new CarrelError('internal', `${address} is no IPv4 address`);
  return [address >>> 24, (address >>> 16) & 255, (address >>> 8) & 255, address & 255];
}

function sizeOf(prefix: number): number {
  return 2 ** (32 - prefix);
}

/** `192.168.0.0/16`. Bits beyond the prefix must be 0: `192.168.0.1/16` is refused, not repaired. */
export function parseCidr(text: string): Cidr {
  const [address = '', prefixText = '', ...rest] = text.split('/');
  const prefix = /^\d{1,2}$/.test(prefixText) ? Number(prefixText) : 99;
  if (rest.length > 0 || prefix > 32) throw invalid('network', text, 'write it like 192.168.0.0/16');
  const base = parseAddress(address);
  if (base % sizeOf(prefix) !== 0)
    throw invalid('network', text, `the network is ${formatCidr(networkOf(base, prefix))}`);
  return { base, prefix };
}

export function formatCidr({ base, prefix }: Cidr): string {
  return `${formatAddress(base)}/${prefix}`;
}

/** The network an address belongs to. */
export function networkOf(address: number, prefix: number): Cidr {
  return { base: address - (address % sizeOf(prefix)), prefix };
}

export function contains({ base, prefix }: Cidr, address: number): boolean {
  return address >= base && address < base + sizeOf(prefix);
}

export function overlaps(first: Cidr, second: Cidr): boolean {
  return contains(first, second.base) || contains(second, first.base);
}

/** The gateway: first address after the network's own. */
export function gatewayOf({ base, prefix }: Cidr): number {
  if (prefix > 30)
    throw new CarrelError('validation_failed', `A /${prefix} network has no room for machines`);
  return base + 1;
}

/** The broadcast address: the last one. */
export function broadcastOf({ base, prefix }: Cidr): number {
  return base + sizeOf(prefix) - 1;
}

/**
 * The lowest address for a machine that is not in `taken`: never the network's own, the gateway's or the
 * broadcast address. undefined when the network is full.
 */
export function lowestFree(network: Cidr, taken: Iterable<number>): number | undefined {
  const used = new Set(taken);
  for (let address = gatewayOf(network) + 1; address < broadcastOf(network); address += 1)
    if (!used.has(address)) return address;
  return undefined;
}

/** The hardware address that goes with an address: `02:ca` (locally administered) and its four bytes. */
export function macOf(address: number): string {
  return [0x02, 0xca, ...addressBytes(address)].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** `02:ca:c0:a8:00:02` -> six bytes. */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text))
    throw invalid('hardware address', text, 'write it like 02:ca:c0:a8:00:02');
  return Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
}

export function formatMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}
