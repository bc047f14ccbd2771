/** What a kind of virtio device is to its transport, and the transport to it. */
import type { Chain } from './chain.ts';

/** The queues of a device that works. Each call may throw DriverFault: let it pass. */
export interface Queues {
  /** Features that driver and device agreed on. */
  readonly features: bigint;
  /**
   * Takes each chain that is available now, and gives it back with the number of bytes that `handle` says it has
   * written, counted from the chain's first writable byte. `more` is asked before each; what is left when it says no
   * is left until the device drains again.
   */
  drain(queue: number, handle: (chain: Chain) => number, more?: () => boolean): void;
  /** One chain, to be given back or put back; undefined: none, and the driver will tell of the next. */
  take(queue: number): Chain | undefined;
  /** There was no use for the chain that was taken last: it is the next one again. */
  putBack(queue: number): void;
  give(queue: number, chain: Chain, written: number): void;
}

/** The way from a device to its driver. */
export interface DeviceLink {
  /**
   * Runs `work` if the driver is ready, and interrupts it afterwards if it wants to hear of what was given back. For
   * what comes from outside; `notify` is called like that already. False: there is no driver, nothing was done.
   */
  whileLive(work: (queues: Queues) => void): boolean;
  /** The device has changed `config`. */
  configChanged(): void;
}

export interface VirtioDevice {
  /** For messages: `virtio-blk`. */
  readonly name: string;
  /** Section 5: 1 net, 2 block, 3 console. */
  readonly deviceId: number;
  /** Offered beside those of the transport: bits 0 to 23, and 50 and up. */
  readonly features: bigint;
  /** The most descriptors of each queue: powers of two. */
  readonly queueSizes: readonly number[];
  /** Its configuration space as the driver reads it. */
  readonly config: Uint8Array;
  /** Called once, when its transport is made. */
  attach(link: DeviceLink): void;
  /** The driver has made chains available on this queue, or has become ready. */
  notify(queue: number, queues: Queues): void;
  /** The driver starts anew. */
  reset(): void;
}
