/**
 * A split virtqueue, the device's side (2.7): three parts in guest RAM that the driver chose.
 *
 *   descriptor table   where buffers are; only the driver writes it
 *   available ring     chains that the driver offers: flags, idx, ring[size], used_event
 *   used ring          chains that the device is done with: flags, idx, ring[size] of (id, len), avail_event
 *
 * Both sides look at the same bytes at the same time. Indices are read and written with Atomics: what was written
 * before an index is visible to whoever sees the index, and an index of ours is out before we ask whether the
 * other side sleeps. Whatever else is read from there may change while we look, so it is read once.
 */
import { hex } from '#base/units.ts';
import type { GuestRam } from '../devices/device.ts';
import { type Chain, readChain } from './chain.ts';
import { DriverFault } from './fault.ts';

/** VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.6). */
const NO_INTERRUPT = 1;

/** The queues count to here and begin anew (2.7.6, 2.7.8). */
const indices = 0x1_0000;

export type QueuePart = 'descriptors' | 'driver' | 'device';

interface Rings {
  readonly ram: GuestRam;
  readonly table: Uint8Array;
  readonly avail: Uint16Array;
  readonly used: Uint32Array;
  readonly usedHalves: Uint16Array;
  readonly indirect: boolean;
  readonly eventIndex: boolean;
}

export interface QueueFeatures {
  readonly indirect: boolean;
  readonly eventIndex: boolean;
}

export class Virtqueue {
  readonly index: number;
  /** QueueNumMax: descriptors that the device can do with. */
  readonly max: number;
  /** QueueNum: descriptors that the driver wants. */
  size: number;
  readonly address: Record<QueuePart, bigint> = { descriptors: 0n, driver: 0n, device: 0n };
  #rings: Rings | undefined;
  /** Chains taken, and chains given back, since the queue was made ready: both modulo 2^16. */
  #taken = 0;
  #given = 0;
  /** `#given` when we last thought about an interrupt. */
  #signalled = 0;

  constructor(index: number, max: number) {
    this.index = index;
    this.max = max;
    this.size = max;
  }

  get ready(): boolean {
    return this.#rings !== undefined;
  }

  #part(ram: GuestRam, part: QueuePart, bytes: number, alignment: bigint): Uint8Array {
    const at = this.address[part];
    const where = `queue ${this.index}: ${part} at ${hex(at)}`;
    if (at % alignment !== 0n) throw new DriverFault('ring alignment', where);
    const found = ram.slice(at, bytes);
    if (!found) throw new DriverFault('ring outside memory', `${where}, ${bytes} bytes`);
    return found;
  }

  /** QueueReady = 1: size and addresses are looked at, and hold until `stop`. Throws DriverFault. */
  start(ram: GuestRam, { indirect, eventIndex }: QueueFeatures): void {
    const { size } = this;
    if (size < 1 || size > this.max || (size & (size - 1)) !== 0)
      throw new DriverFault('queue size', `queue ${this.index}: ${size} of at most ${this.max}`);
    const table = this.#part(ram, 'descriptors', 16 * size, 16n);
    const avail = this.#part(ram, 'driver', 6 + 2 * size, 2n);
    const used = this.#part(ram, 'device', 6 + 8 * size, 4n);
    this.#rings = {
      ram,
      table,
      avail: new Uint16Array(avail.buffer, avail.byteOffset, 3 + size),
      used: new Uint32Array(used.buffer, used.byteOffset, 1 + 2 * size),
      usedHalves: new Uint16Array(used.buffer, used.byteOffset, 3 + 4 * size),
      indirect,
      eventIndex,
    };
    this.#taken = this.#given = this.#signalled = 0;
  }

  stop(): void {
    this.#rings = undefined;
  }

  reset(): void {
    this.stop();
    this.size = this.max;
    this.address.descriptors = this.address.driver = this.address.device = 0n;
  }

  /** Chains that the driver offers and nobody took yet; 0 while the queue is not ready. */
  get waiting(): number {
    if (!this.#rings) return 0;
    const waiting = (Atomics.load(this.#rings.avail, 1) - this.#taken + indices) % indices;
    if (waiting > this.size)
      throw new DriverFault('available index', `queue ${this.index}: ${waiting} ahead, size ${this.size}`);
    return waiting;
  }

  /** The next chain, or undefined if none waits. Whoever takes one gives it back, or puts it back. Throws DriverFault. */
  take(): Chain | undefined {
    if (this.waiting === 0 || !this.#rings) return undefined;
    const { ram, table, avail, indirect } = this.#rings;
    const head = avail[2 + (this.#taken % this.size)] ?? 0;
    const chain = readChain(ram, table, { head, size: this.size, indirect, queue: this.index });
    this.#taken = (this.#taken + 1) % indices;
    return chain;
  }

  /** Undoes the last `take`. */
  putBack(): void {
    this.#taken = (this.#taken - 1 + indices) % indices;
  }

  /** The driver has it back; `written` bytes from the chain's first writable byte on are the device's (2.7.8). */
  give(head: number, written: number): void {
    if (!this.#rings) return;
    const { used, usedHalves } = this.#rings;
    const at = 1 + 2 * (this.#given % this.size);
    used[at] = head;
    used[at + 1] = written;
    this.#given = (this.#given + 1) % indices;
    Atomics.store(usedHalves, 1, this.#given);
  }

  /** Does the driver want to hear of what was given since the last time this was asked? (2.7.7) */
  wantsInterrupt(): boolean {
    if (!this.#rings || this.#given === this.#signalled) return false;
    const { avail, eventIndex } = this.#rings;
    const old = this.#signalled;
    this.#signalled = this.#given;
    if (!eventIndex) return (Atomics.load(avail, 0) & NO_INTERRUPT) === 0;
    // vring_need_event: is used_event among the indices from old to before given?
    const event = Atomics.load(avail, 2 + this.size);
    return (this.#given - event - 1 + 2 * indices) % indices < (this.#given - old + indices) % indices;
  }

  /**
   * Asks the driver to tell of the next chain that it offers (2.7.10: with event indices it must be asked, without
   * it always tells). False: more came meanwhile, which it may not have told of.
   */
  expectNext(): boolean {
    if (!this.#rings?.eventIndex) return true;
    Atomics.store(this.#rings.usedHalves, 2 + 4 * this.size, this.#taken);
    return this.waiting === 0;
  }
}
