/**
 * The other side, for tests: a driver as the specification describes one (3.1, 4.2.3, 2.7.13), with rings in memory
 * that it shares with the device. Its numbers are its own, taken from the specification and not from the device.
 */
import assert from 'node:assert/strict';
import type { MmioDevice } from '../devices/device.ts';
import { GuardedRam } from './testing-ram.ts';
import type { VirtioDevice } from './device.ts';
import { VirtioMmio, type VirtioMmioOptions } from './mmio.ts';

/** A line that remembers. */
export class TestLine {
  level = false;
  /** How often it rose. */
  raised = 0;

  set(level: boolean): void {
    if (level && !this.level) this.raised += 1;
    this.level = level;
  }
}

export interface Buffer {
  readonly at: number | bigint;
  readonly bytes: number;
  readonly write?: boolean;
}

export interface Used {
  readonly head: number;
  readonly written: number;
}

/** A split virtqueue, the driver's side. */
export class DriverQueue {
  readonly size: number;
  readonly index: number;
  readonly descriptors: number;
  readonly avail: number;
  readonly used: number;
  readonly #driver: Driver;
  readonly #view: DataView;
  readonly #free: number[];
  readonly #chains = new Map<number, readonly number[]>();
  /** Our own copies of the indices: the device cannot change them. */
  #offered = 0;
  #kicked = 0;
  #seen = 0;

  constructor(driver: Driver, index: number, size: number) {
    this.#driver = driver;
    this.#view = driver.ram.view;
    this.index = index;
    this.size = size;
    this.descriptors = driver.allocate(16 * size, 16);
    this.avail = driver.allocate(6 + 2 * size, 2);
    this.used = driver.allocate(6 + 8 * size, 4);
    this.#free = Array.from({ length: size }, (_, each) => size - 1 - each);
  }

  get availIndex(): number {
    return this.#offered & 0xffff;
  }

  writeDescriptor(
    table: number,
    index: number,
    { at, bytes, write = false }: Buffer,
    flags = 0,
    next = 0,
  ): void {
    const base = table + 16 * index;
    this.#view.setBigUint64(base, BigInt(at), true);
    this.#view.setUint32(base + 8, bytes, true);
    this.#view.setUint16(base + 12, flags | (write ? 2 : 0), true);
    this.#view.setUint16(base + 14, next, true);
  }

  /** Puts a head into the available ring and publishes it (2.7.13.1 to 2.7.13.3). */
  offer(head: number): void {
    this.#view.setUint16(this.avail + 4 + 2 * (this.#offered % this.size), head, true);
    this.#offered += 1;
    this.publish(this.#offered);
  }

  /** Sets avail.idx, to whatever. */
  publish(index: number): void {
    this.#view.setUint16(this.avail + 2, index & 0xffff, true);
  }

  /** Makes a chain of buffers available; its head. Undefined: no descriptors are free. */
  add(buffers: readonly Buffer[]): number | undefined {
    if (this.#free.length < buffers.length) return undefined;
    const taken = this.#free.splice(-buffers.length).toReversed();
    for (const [place, index] of taken.entries()) {
      const next = taken[place + 1];
      const buffer = buffers[place];
      assert.ok(buffer);
      this.writeDescriptor(this.descriptors, index, buffer, next === undefined ? 0 : 1, next);
    }
    const [head] = taken;
    assert.ok(head !== undefined);
    this.#chains.set(head, taken);
    this.offer(head);
    return head;
  }

  /** The same through an indirect table (2.7.5.3). */
  addIndirect(buffers: readonly Buffer[]): number {
    const table = this.#driver.allocate(16 * buffers.length, 16);
    for (const [place, buffer] of buffers.entries()) {
      const last = place === buffers.length - 1;
      this.writeDescriptor(table, place, buffer, last ? 0 : 1, last ? 0 : place + 1);
    }
    const head = this.#free.pop();
    assert.ok(head !== undefined);
    this.writeDescriptor(this.descriptors, head, { at: table, bytes: 16 * buffers.length }, 4);
    this.#chains.set(head, [head]);
    this.offer(head);
    return head;
  }

  /** Tells the device, if it wants to be told (2.7.13.4, 2.7.10). */
  kick(): void {
    const old = this.#kicked;
    this.#kicked = this.#offered;
    if (this.#driver.eventIndex) {
      const event = this.#view.getUint16(this.used + 4 + 8 * this.size, true);
      if (((this.#offered - event - 1) & 0xffff) >= ((this.#offered - old) & 0xffff)) return;
    }
    this.notify();
  }

  notify(): void {
    this.#driver.write32(0x050, this.index);
  }

  get usedIndex(): number {
    return this.#view.getUint16(this.used + 2, true);
  }

  /** What the device gave back since the last call (2.7.14); the descriptors are free again. */
  collect(): Used[] {
    const found: Used[] = [];
    while ((this.#seen & 0xffff) !== this.usedIndex) {
      const at = this.used + 4 + 8 * (this.#seen % this.size);
      const head = this.#view.getUint32(at, true);
      const chain = this.#chains.get(head);
      assert.ok(chain, `the device gives back ${head}, which it was not given`);
      this.#chains.delete(head);
      this.#free.push(...chain);
      found.push({ head, written: this.#view.getUint32(at + 4, true) });
      this.#seen += 1;
    }
    return found;
  }

  /** VIRTQ_AVAIL_F_NO_INTERRUPT */
  set suppressed(on: boolean) {
    this.#view.setUint16(this.avail, Number(on), true);
  }

  /** used_event: interrupt when the device has given back so many chains, and one more. */
  set interruptAfter(index: number) {
    this.#view.setUint16(this.avail + 4 + 2 * this.size, index & 0xffff, true);
  }
}

/** A driver of whatever lies behind these registers. */
export class Driver<Mmio extends MmioDevice = MmioDevice> {
  readonly ram: GuardedRam;
  readonly mmio: Mmio;
  eventIndex = false;
  #next = 0x1000;

  constructor(mmio: Mmio, ram: GuardedRam) {
    this.mmio = mmio;
    this.ram = ram;
  }

  /** Guest-physical memory that nobody else gets. */
  allocate(bytes: number, alignment = 1): number {
    const at = Math.ceil(this.#next / alignment) * alignment;
    this.#next = at + bytes;
    assert.ok(this.#next <= this.ram.length, 'the test has no memory left');
    return at;
  }

  /** Memory with something in it. */
  place(content: Uint8Array): number {
    const at = this.allocate(content.length, 16);
    this.ram.bytes.set(content, at);
    return at;
  }

  /** A copy of guest memory. */
  contents(at: number, bytes: number): globalThis.Buffer {
    return globalThis.Buffer.from(this.ram.bytes.slice(at, at + bytes));
  }

  read32(offset: number): number {
    return Number(this.mmio.read(offset, 4));
  }

  write32(offset: number, value: number): void {
    this.mmio.write(offset, 4, BigInt(value >>> 0));
  }

  get status(): number {
    return this.read32(0x070);
  }

  set status(value: number) {
    this.write32(0x070, value);
  }

  get offered(): bigint {
    this.write32(0x014, 1);
    const high = this.read32(0x010);
    this.write32(0x014, 0);
    return (BigInt(high) << 32n) | BigInt(this.read32(0x010));
  }

  accept(features: bigint): void {
    for (const [select, bits] of [features & 0xffff_ffffn, features >> 32n].entries()) {
      this.write32(0x024, select);
      this.write32(0x020, Number(bits));
    }
  }

  /** Steps 1 to 6 of 3.1.1: reset, and agree on features: all that are offered, less `without`. */
  negotiate({ without = 0n, only }: { without?: bigint; only?: bigint } = {}): bigint {
    this.status = 0;
    this.status = 1;
    this.status = 3;
    const features = only ?? this.offered & ~without;
    this.accept(features);
    this.status = 11;
    assert.equal(this.status, 11, 'the device refuses the features');
    this.eventIndex = (features & (1n << 29n)) !== 0n;
    return features;
  }

  /** Step 7: a queue of so many descriptors, at addresses that are found for it. */
  makeQueue(index: number, size = 16): DriverQueue {
    const queue = new DriverQueue(this, index, size);
    this.setUpQueue(index, size, [queue.descriptors, queue.avail, queue.used]);
    return queue;
  }

  /** 4.2.3.2: select, size, addresses, ready. */
  setUpQueue(index: number, size: number, addresses: readonly (number | bigint)[]): void {
    this.write32(0x030, index);
    this.write32(0x038, size);
    for (const [part, address] of addresses.entries()) {
      const register = [0x080, 0x090, 0x0a0][part];
      assert.ok(register !== undefined);
      this.write32(register, Number(BigInt(address) & 0xffff_ffffn));
      this.write32(register + 4, Number((BigInt(address) >> 32n) & 0xffff_ffffn));
    }
    this.write32(0x044, 1);
  }

  queueReady(index: number): number {
    this.write32(0x030, index);
    return this.read32(0x044);
  }

  /** Step 8. */
  ready(): void {
    this.status = this.status | 4;
  }

  /** What an interrupt handler does: what happened, and that it is known (4.2.3.4). */
  acknowledge(): number {
    const events = this.read32(0x060);
    this.write32(0x064, events);
    return events;
  }
}

export interface DriverOptions extends Partial<Omit<VirtioMmioOptions, 'device' | 'ram'>> {
  readonly device: VirtioDevice;
  readonly ramBytes?: number;
}

/** A driver of a device on the same thread. */
export class TestDriver extends Driver<VirtioMmio> {
  readonly line: TestLine;

  constructor({ device, ramBytes = 2 ** 20, ...options }: DriverOptions) {
    const line = new TestLine();
    const ram = new GuardedRam(ramBytes);
    super(new VirtioMmio({ device, ram, irq: line, ...options }), ram);
    this.line = line;
  }
}
