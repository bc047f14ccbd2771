/**
 * The transport: a virtio device as registers in memory, version 2 (4.2).
 *
 * A driver that does what the specification forbids is ignored where that does no harm (a register that cannot be
 * written, a step too early, a queue that does not exist); where the device cannot go on, it asks for its reset and
 * says why (`fault`). Nothing a guest writes throws here.
 *
 * All calls are made on one thread; none waits longer than the requests of one pass over a queue.
 */
import type { GuestRam, IrqLine, MmioDevice, MmioSize } from '../devices/device.ts';
import type { DeviceLink, Queues, VirtioDevice } from './device.ts';
import { type DeviceFault, DriverFault } from './fault.ts';
import { transportFeatures, VERSION_1 } from './features.ts';
import { Interrupts } from './interrupts.ts';
import { QueueSet } from './queues.ts';
import type { QueuePart, Virtqueue } from './queue.ts';
import {
  CONFIG_CHANGE,
  configSpace,
  magic,
  rangeBytes,
  registers,
  USED_BUFFER,
  version,
} from './registers.ts';
import { DEVICE_NEEDS_RESET, DRIVER_OK, FEATURES_OK, isLive, nextStatus } from './status.ts';

/** VendorID means nothing in version 2; Linux shows it. "CRRL" */
const vendorId = 0x4c52_5243;

const word = 0xffff_ffffn;

/** Which half of which address a register is. */
const addressRegisters: ReadonlyMap<number, readonly [part: QueuePart, shift: bigint]> = new Map([
  [registers.QueueDescLow, ['descriptors', 0n]],
  [registers.QueueDescHigh, ['descriptors', 32n]],
  [registers.QueueDriverLow, ['driver', 0n]],
  [registers.QueueDriverHigh, ['driver', 32n]],
  [registers.QueueDeviceLow, ['device', 0n]],
  [registers.QueueDeviceHigh, ['device', 32n]],
]);

/** There is no shared memory: its length reads as -1 (4.2.2.1). */
const sharedMemory: ReadonlySet<number> = new Set([
  registers.SHMLenLow,
  registers.SHMLenHigh,
  registers.SHMBaseLow,
  registers.SHMBaseHigh,
]);

export interface VirtioMmioOptions {
  readonly device: VirtioDevice;
  readonly ram: GuestRam;
  readonly irq: IrqLine;
  /** For messages; the device's own unless given. */
  readonly name?: string;
  /** Asked between two requests: true leaves the rest of the pass to `poll`. For machines that are being stopped. */
  readonly interrupted?: () => boolean;
  /** Called when the device begins to wait for its reset. */
  readonly onFault?: (fault: DeviceFault) => void;
  /** InterruptStatus: one word, shared with whoever else serves it and InterruptACK (thread/door.ts). */
  readonly interrupts?: Int32Array;
}

export class VirtioMmio implements MmioDevice {
  readonly name: string;
  /** Bytes of guest-physical memory for its registers. */
  readonly bytes = rangeBytes;
  readonly #device: VirtioDevice;
  readonly #ram: GuestRam;
  readonly #onFault: ((fault: DeviceFault) => void) | undefined;
  readonly #queues: QueueSet;
  readonly #interrupts: Interrupts;
  readonly #offered: bigint;
  #accepted = 0n;
  #status = 0;
  #generation = 0;
  #fault: DeviceFault | undefined;
  /** What DeviceFeaturesSel, DriverFeaturesSel and QueueSel were set to. */
  #select = { device: 0, driver: 0, queue: 0 };

  constructor({
    device,
    ram,
    irq,
    name = device.name,
    interrupted = () => false,
    onFault,
    interrupts,
  }: VirtioMmioOptions) {
    this.name = name;
    this.#device = device;
    this.#ram = ram;
    this.#onFault = onFault;
    this.#interrupts = new Interrupts(irq, interrupts);
    this.#queues = new QueueSet(device.queueSizes, interrupted);
    this.#offered = device.features | transportFeatures;
    const link: DeviceLink = {
      whileLive: (work) => this.#whileLive(work),
      configChanged: () => this.#configChanged(),
    };
    device.attach(link);
  }

  /** Why the device waits for its reset, if it does. */
  get fault(): DeviceFault | undefined {
    return this.#fault;
  }

  get status(): number {
    return this.#status;
  }

  /** Goes on with what a bounded pass has left. True: there still is something; call again. */
  poll(): boolean {
    const { unfinished } = this.#queues;
    if (unfinished.size === 0) return false;
    const left = [...unfinished];
    unfinished.clear();
    for (const queue of left) this.#notify(queue);
    return unfinished.size > 0;
  }

  read(offset: number, size: MmioSize): bigint {
    this.poll();
    if (offset >= configSpace) return this.#readConfig(offset - configSpace, size);
    // registers are read whole, or not at all (4.2.2.2)
    return size === 4 && offset % 4 === 0 ? BigInt(this.#readRegister(offset)) : 0n;
  }

  write(offset: number, size: MmioSize, value: bigint): void {
    this.poll();
    // nothing in a configuration space here is for the driver to change
    if (offset < configSpace && size === 4 && offset % 4 === 0)
      this.#writeRegister(offset, Number(value & word));
  }

  #readConfig(at: number, size: MmioSize): bigint {
    const { config } = this.#device;
    let value = 0n;
    for (let index = size - 1; index >= 0; index -= 1)
      value = (value << 8n) | BigInt(config[at + index] ?? 0);
    return value;
  }

  get #queue(): Virtqueue | undefined {
    return this.#queues.at(this.#select.queue);
  }

  #readRegister(offset: number): number {
    switch (offset) {
      case registers.MagicValue:
        return magic;
      case registers.Version:
        return version;
      case registers.DeviceID:
        return this.#device.deviceId;
      case registers.VendorID:
        return vendorId;
      case registers.DeviceFeatures:
        return this.#select.device > 1
          ? 0
          : Number((this.#offered >> BigInt(32 * this.#select.device)) & word);
      case registers.QueueNumMax:
        return this.#queue?.max ?? 0;
      case registers.QueueReady:
        return Number(this.#queue?.ready ?? false);
      case registers.InterruptStatus:
        return this.#interrupts.status;
      case registers.Status:
        return this.#status;
      case registers.ConfigGeneration:
        return this.#generation;
      default:
        return sharedMemory.has(offset) ? 0xffff_ffff : 0;
    }
  }

  #writeRegister(offset: number, value: number): void {
    switch (offset) {
      case registers.DeviceFeaturesSel:
        this.#select.device = value;
        return;
      case registers.DriverFeaturesSel:
        this.#select.driver = value;
        return;
      case registers.DriverFeatures:
        this.#accept(value);
        return;
      case registers.QueueSel:
        this.#select.queue = value;
        return;
      case registers.QueueNotify:
        this.#notify(value);
        return;
      case registers.InterruptACK:
        this.#interrupts.acknowledge(value);
        return;
      case registers.Status:
        this.#writeStatus(value);
        return;
      default:
        this.#writeQueue(offset, value);
    }
  }

  /** Feature bits are the driver's to choose until FEATURES_OK (3.1.1). There are none from 128 on. */
  #accept(value: number): void {
    const { driver } = this.#select;
    if (driver > 3 || (this.#status & FEATURES_OK) !== 0) return;
    const shift = BigInt(32 * driver);
    this.#accepted = (this.#accepted & ~(word << shift)) | (BigInt(value) << shift);
  }

  /** A subset of what is offered, with VERSION_1: there is no older interface here (2.2.2, 6.2). */
  #acceptsFeatures(): boolean {
    return (this.#accepted & ~this.#offered) === 0n && (this.#accepted & VERSION_1) !== 0n;
  }

  #writeStatus(value: number): void {
    if (value === 0) {
      this.#reset();
      return;
    }
    const before = this.#status;
    this.#status = nextStatus(before, value, () => this.#acceptsFeatures());
    // what was made available before DRIVER_OK may be used from now on
    if (!isLive(before) && isLive(this.#status))
      for (const { index } of this.#queues.queues) this.#notify(index);
  }

  #reset(): void {
    this.#status = 0;
    this.#accepted = 0n;
    this.#select = { device: 0, driver: 0, queue: 0 };
    this.#fault = undefined;
    this.#queues.reset();
    this.#device.reset();
    this.#interrupts.acknowledge(USED_BUFFER | CONFIG_CHANGE);
  }

  /** A queue is set up between FEATURES_OK and the end (3.1.1, step 7), and not while it is in use (4.2.2.2). */
  #writeQueue(offset: number, value: number): void {
    const queue = this.#queue;
    if (!queue || (this.#status & FEATURES_OK) === 0 || this.#fault) return;
    if (offset === registers.QueueReady) {
      if (value === 0) queue.stop();
      else if (!queue.ready) this.#guard(() => this.#queues.start(queue, this.#ram, this.#accepted));
      return;
    }
    if (queue.ready) return;
    if (offset === registers.QueueNum) queue.size = value;
    const part = addressRegisters.get(offset);
    if (!part) return;
    const [name, shift] = part;
    queue.address[name] = (queue.address[name] & ~(word << shift)) | (BigInt(value) << shift);
  }

  /** Before DRIVER_OK, for a queue that does not exist or is not ready: ignored. */
  #notify(index: number): void {
    if (this.#queues.at(index)?.ready !== true) return;
    this.#whileLive((queues) => this.#device.notify(index, queues));
  }

  #whileLive(work: (queues: Queues) => void): boolean {
    if (!isLive(this.#status)) return false;
    this.#guard(() => work(this.#queues));
    if (this.#queues.wantInterrupt()) this.#interrupts.raise(USED_BUFFER);
    return true;
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      if (!(error instanceof DriverFault)) throw error;
      this.#needReset({ fault: error.fault, found: error.message });
    }
  }

  #needReset(fault: DeviceFault): void {
    this.#fault = fault;
    this.#status |= DEVICE_NEEDS_RESET;
    this.#queues.unfinished.clear();
    if ((this.#status & DRIVER_OK) !== 0) this.#interrupts.raise(CONFIG_CHANGE);
    this.#onFault?.(fault);
  }

  #configChanged(): void {
    this.#generation = (this.#generation + 1) >>> 0;
    if (isLive(this.#status)) this.#interrupts.raise(CONFIG_CHANGE);
  }
}
