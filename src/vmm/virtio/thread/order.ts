/** What a thread of devices is told: plain data, descriptors and shared buffers. */
import type { GuestMemoryHandle } from '#kvm/memory.ts';

/** Descriptors stay those of whoever gave the order, and are open until the thread has ended. */
export type DeviceSpec =
  | { readonly kind: 'block'; readonly fd: number; readonly readOnly: boolean; readonly id?: string }
  /** A TAP with IFF_VNET_HDR. */
  | { readonly kind: 'net'; readonly tap: number; readonly mac: string }
  /** Ends of pipes, both not blocking: what the guest prints is written to `output`, what it reads comes from `input`. */
  | { readonly kind: 'console'; readonly output: number; readonly input: number };

export interface PlacedDevice {
  readonly spec: DeviceSpec;
  readonly name: string;
  /** An eventfd for each queue, rung for a notification: by KVM (ioeventfd), or by a door. */
  readonly doorbells: readonly number[];
  /** An eventfd, rung once for each interrupt (irqfd). */
  readonly irq: number;
}

export interface DevicesOrder {
  /** Pieces of RAM, each at its guest-physical address. */
  readonly ram: readonly { readonly at: number; readonly handle: GuestMemoryHandle }[];
  readonly devices: readonly PlacedDevice[];
  /** See `layOut`. */
  readonly words: SharedArrayBuffer;
  readonly vcpus: number;
  /** An eventfd, rung when there is something in a mailbox, or it is over. */
  readonly wake: number;
}

/** What a thread of devices says. */
export interface Remark {
  readonly device: string;
  /** For whoever operates the machine. */
  readonly text: string;
}
