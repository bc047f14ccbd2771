/**
 * What a driver can do wrong so that its device cannot go on: the device asks to be reset (DEVICE_NEEDS_RESET,
 * 2.1.2) and touches its queues no more. Each has a name and a sentence for whoever operates the machine.
 *
 * Sections here and in all of this folder: Virtual I/O Device (VIRTIO) Version 1.2, OASIS, 1 July 2022.
 */

export const driverFaults = {
  'queue size': 'a queue’s size is a power of two, and at most what the device offers (2.7, 4.2.2.2)',
  'ring alignment': 'the table lies at a multiple of 16, the available ring of 2, the used ring of 4 (2.7)',
  'ring outside memory': 'a part of the queue is not in the machine’s memory (2.7)',
  'available index': 'more chains are said to be available than the queue has descriptors (2.7.6)',
  'descriptor index': 'a descriptor is named that the table does not have (2.7.5)',
  'chain too long': 'a chain has more descriptors than its queue, so it may be a loop (2.7.5.2, 2.7.5.3.1)',
  'chain too large': 'a chain has more than 2^32 bytes (2.7.5.2)',
  'buffer outside memory': 'a buffer is not in the machine’s memory (2.7.5)',
  'buffer order': 'a buffer to read from comes behind one to write to (2.7.4.2)',
  'indirect not negotiated': 'an indirect table without VIRTIO_F_INDIRECT_DESC (2.7.5.3.1)',
  'indirect nested': 'an indirect table within an indirect table (2.7.5.3.1)',
  'indirect with next': 'a descriptor is of an indirect table and goes on as well (2.7.5.3.1)',
  'indirect size': 'an indirect table has no whole number of descriptors, or none (2.7.5.3)',
  'request shape': 'a chain has not the parts that a request of this device has',
} as const;

export type DriverFaultName = keyof typeof driverFaults;

/** Thrown where the driver’s mistake is found, and caught by the transport alone. */
export class DriverFault extends Error {
  override readonly name = 'DriverFault';
  readonly fault: DriverFaultName;

  /** `found`: what was there, with its numbers. */
  constructor(fault: DriverFaultName, found: string) {
    super(found);
    this.fault = fault;
  }
}

/** Why a device waits for its reset. */
export interface DeviceFault {
  readonly fault: DriverFaultName;
  readonly found: string;
}

/** `virtio-blk 0 needs a reset: ring alignment: queue 0: ...`, for people. */
export function describeFault(device: string, { fault, found }: DeviceFault): string {
  return `${device} needs a reset: ${fault}: ${found}; ${driverFaults[fault]}`;
}
