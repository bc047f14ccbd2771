/**
 * From an address or port of the guest to the device that lies there. What lies nowhere answers as an empty bus
 * does: reads give all ones, writes are lost; both are counted, because they are the first thing to look at when
 * a guest does not find its device.
 */
import { CarrelError } from '#base/errors.ts';
import { hex } from '#base/units.ts';
import type { MmioDevice, MmioSize, PortDevice, PortSize } from './device.ts';

interface Range<Device> {
  readonly first: number;
  /** The first address behind it. */
  readonly end: number;
  readonly device: Device;
}

/** Ranges that do not overlap, in the order of their addresses. */
class Ranges<Device extends { readonly name: string }> {
  readonly #ranges: Range<Device>[] = [];
  /** A guest that polls a device polls one. */
  #last: Range<Device> | undefined;
  readonly #top: number;

  constructor(top: number) {
    this.#top = top;
  }

  /** `internal` for a range that overlaps another or the end: where devices lie is our decision, not a guest's. */
  add(first: number, length: number, device: Device): void {
    const end = first + length;
    const range = `${device.name} at ${hex(first)} to ${hex(end - 1)}`;
    if (!Number.isSafeInteger(first) || first < 0 || length <= 0 || end > this.#top)
      throw new CarrelError('internal', `${range} is outside of the address space`);
    const other = this.#ranges.find((there) => first < there.end && end > there.first);
    if (other) throw new CarrelError('internal', `${range} overlaps ${other.device.name}`);
    this.#ranges.push({ first, end, device });
    this.#ranges.sort((a, b) => a.first - b.first);
  }

  /** The range in which all of these bytes lie. */
  find(at: number, size: number): Range<Device> | undefined {
    const last = this.#last;
    if (last && at >= last.first && at + size <= last.end) return last;
    const found = this.#ranges.find((range) => at >= range.first && at < range.end);
    if (!found || at + size > found.end) return undefined;
    this.#last = found;
    return found;
  }

  entries(): readonly Range<Device>[] {
    return this.#ranges;
  }
}

/** Accesses that met no device. */
class Unmapped {
  readonly #counts = new Map<number, number>();
  /** Addresses that are told apart; a guest may try them all. */
  static readonly most = 256;
  total = 0;

  count(at: number): void {
    this.total += 1;
    const before = this.#counts.get(at);
    if (before !== undefined || this.#counts.size < Unmapped.most) this.#counts.set(at, (before ?? 0) + 1);
  }

  /** Address -> accesses, most frequent first. */
  addresses(): readonly (readonly [address: number, accesses: number])[] {
    return [...this.#counts].sort(([, a], [, b]) => b - a);
  }
}

/** Guest-physical addresses that no memory slot backs. */
export class MmioBus {
  readonly #ranges = new Ranges<MmioDevice>(Number.MAX_SAFE_INTEGER);
  readonly unmapped = new Unmapped();

  add(address: number, length: number, device: MmioDevice): void {
    this.#ranges.add(address, length, device);
  }

  /** Address, length and name of each device, in the order of their addresses. */
  devices(): readonly { readonly address: number; readonly length: number; readonly name: string }[] {
    return this.#ranges
      .entries()
      .map(({ first, end, device }) => ({ address: first, length: end - first, name: device.name }));
  }

  /** What the guest reads. Sizes that no device knows (KVM splits an access at a page's end) reach none. */
  read(address: number, size: number): bigint {
    const range = isMmioSize(size) ? this.#ranges.find(address, size) : undefined;
    if (range && isMmioSize(size))
      return BigInt.asUintN(size * 8, range.device.read(address - range.first, size));
    this.unmapped.count(address);
    return (1n << BigInt(size * 8)) - 1n;
  }

  write(address: number, size: number, value: bigint): void {
    const range = isMmioSize(size) ? this.#ranges.find(address, size) : undefined;
    if (range && isMmioSize(size))
      range.device.write(address - range.first, size, BigInt.asUintN(size * 8, value));
    else this.unmapped.count(address);
  }
}

/** The 65,536 ports. */
export class PortBus {
  readonly #ranges = new Ranges<PortDevice>(0x1_0000);
  readonly unmapped = new Unmapped();

  add(port: number, length: number, device: PortDevice): void {
    this.#ranges.add(port, length, device);
  }

  devices(): readonly { readonly port: number; readonly length: number; readonly name: string }[] {
    return this.#ranges
      .entries()
      .map(({ first, end, device }) => ({ port: first, length: end - first, name: device.name }));
  }

  read(port: number, size: PortSize): number {
    const range = this.#ranges.find(port, size);
    const ones = 2 ** (size * 8) - 1;
    if (range) return (range.device.read(port - range.first, size) & ones) >>> 0;
    this.unmapped.count(port);
    return ones;
  }

  write(port: number, size: PortSize, value: number): void {
    const range = this.#ranges.find(port, size);
    if (range) range.device.write(port - range.first, size, (value & (2 ** (size * 8) - 1)) >>> 0);
    else this.unmapped.count(port);
  }
}

function isMmioSize(size: number): size is MmioSize {
  return size === 1 || size === 2 || size === 4 || size === 8;
}
