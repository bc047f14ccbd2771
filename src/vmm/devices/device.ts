/**
 * What a device is to the machine: registers at addresses or ports, a line that it raises for an interrupt, and
 * the guest's RAM where it reaches into it by itself.
 *
 * A guest may access any register with any size at any moment. A device answers what its specification says and
 * never throws for what a guest does: reads of what is not there give 0 or all ones, writes to it are dropped.
 */

/** Bytes of one access to a register in memory. */
export type MmioSize = 1 | 2 | 4 | 8;

/** Bytes of one access to a port. */
export type PortSize = 1 | 2 | 4;

/** A device whose registers lie in guest-physical memory. */
export interface MmioDevice {
  /** For counters and messages: `virtio-blk 0`. */
  readonly name: string;
  /** `offset` from the device's first address; offset + size is within its range. At most `size` bytes count. */
  read(offset: number, size: MmioSize): bigint;
  /** `value` is not negative, and has no bits beyond `size` bytes. */
  write(offset: number, size: MmioSize, value: bigint): void;
}

/** A device behind `in` and `out`. As `MmioDevice`, with unsigned numbers of up to 32 bits. */
export interface PortDevice {
  readonly name: string;
  read(offset: number, size: PortSize): number;
  write(offset: number, size: PortSize, value: number): void;
}

/**
 * A wire to the interrupt controller. A level-triggered one stays high for as long as the device has something to
 * say, and setting it again to what it is does nothing; an edge-triggered one interrupts when it rises.
 */
export interface IrqLine {
  set(level: boolean): void;
}

/** One edge: for devices that only say "now". */
export function pulse(line: IrqLine): void {
  line.set(true);
  line.set(false);
}

/**
 * RAM as a device sees it that was handed an address by the guest. The address may be anything: what does not lie
 * wholly in RAM is `undefined`, and never an address of the host. `GuestMemory` (src/kvm/memory.ts) is one; a
 * machine with RAM above 4 GiB has several (pieces.ts).
 */
export interface GuestRam {
  /** The bytes themselves, not a copy, of a guest-physical range. The guest may change them at any moment. */
  slice(at: bigint, length: number): Uint8Array | undefined;
}
