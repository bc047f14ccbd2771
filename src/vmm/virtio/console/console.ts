/**
 * virtio-console: a terminal with one port (5.3). What the driver transmits goes to a sink at once; what is typed
 * waits, up to a limit, for the driver's buffers.
 */
import type { Chain } from '../chain.ts';
import type { DeviceLink, Queues, VirtioDevice } from '../device.ts';
import { DriverFault } from '../fault.ts';
import { bytesIn, copyIn } from '../pieces.ts';

/** VIRTIO_CONSOLE_F_SIZE (5.3.3) */
export const SIZE = 1n << 0n;

const RECEIVE = 0;
const TRANSMIT = 1;
const queueSize = 64;

/** One chain: nobody writes more to a terminal at once, and a guest cannot keep us copying. */
const mostBytes = 2 ** 20;

export interface ConsoleOptions {
  /** Gets what the driver writes: bytes of its own, not the guest's. */
  readonly output: (bytes: Uint8Array) => void;
  readonly size?: { readonly columns: number; readonly rows: number };
  /** Asked before each chain: may there be more output now? Once there may again, call `resume`. */
  readonly hasRoom?: () => boolean;
  /** Bytes that may wait for the driver. */
  readonly inputLimit?: number;
}

export class Console implements VirtioDevice {
  readonly name = 'virtio-console';
  readonly deviceId = 3;
  readonly features = SIZE;
  readonly queueSizes = [queueSize, queueSize];
  /** struct virtio_console_config (5.3.4): le16 cols, le16 rows, le32 max_nr_ports, le32 emerg_wr. */
  readonly config = new Uint8Array(12);
  readonly #output: (bytes: Uint8Array) => void;
  readonly #hasRoom: () => boolean;
  readonly #input: Uint8Array;
  /** Bytes of `#input` in use, from its beginning. */
  #waiting = 0;
  #link: DeviceLink | undefined;

  constructor({
    output,
    hasRoom = () => true,
    size = { columns: 80, rows: 24 },
    inputLimit = 2 ** 16,
  }: ConsoleOptions) {
    this.#output = output;
    this.#hasRoom = hasRoom;
    this.#input = new Uint8Array(inputLimit);
    this.#setSize(size.columns, size.rows);
  }

  attach(link: DeviceLink): void {
    this.#link = link;
  }

  /** What was typed stays: a kernel resets the device before it uses it. */
  reset(): void {}

  /** Bytes that the driver has not fetched yet. */
  get waiting(): number {
    return this.#waiting;
  }

  notify(queue: number, queues: Queues): void {
    if (queue === RECEIVE) this.#feed(queues);
    else queues.drain(TRANSMIT, (chain) => this.#transmit(chain), this.#hasRoom);
  }

  /** How many bytes may be typed now. */
  get room(): number {
    return this.#input.length - this.#waiting;
  }

  /** There is room for output again. */
  resume(): void {
    this.#link?.whileLive((queues) => this.notify(TRANSMIT, queues));
  }

  /** Types. Returns how many bytes were taken: fewer than given when too many wait already. */
  type(bytes: Uint8Array): number {
    const taken = bytes.subarray(0, this.room);
    this.#input.set(taken, this.#waiting);
    this.#waiting += taken.length;
    this.#link?.whileLive((queues) => this.#feed(queues));
    return taken.length;
  }

  /** The terminal has another size now; the driver is told (5.3.5). */
  resize(columns: number, rows: number): void {
    this.#setSize(columns, rows);
    this.#link?.configChanged();
  }

  #setSize(columns: number, rows: number): void {
    const view = new DataView(this.config.buffer);
    view.setUint16(0, columns, true);
    view.setUint16(2, rows, true);
  }

  #feed(queues: Queues): void {
    while (this.#waiting > 0) {
      const chain = queues.take(RECEIVE);
      if (!chain) return;
      if (chain.writable.length === 0)
        throw new DriverFault('request shape', 'a receive buffer that cannot be written to (5.3.6.1)');
      const written = copyIn(chain.writable, this.#input.subarray(0, this.#waiting));
      this.#input.copyWithin(0, written, this.#waiting);
      this.#waiting -= written;
      queues.give(RECEIVE, chain, written);
    }
  }

  #transmit(chain: Chain): number {
    const bytes = bytesIn(chain.readable);
    if (bytes > mostBytes)
      throw new DriverFault(
        'request shape',
        `${bytes} bytes to a terminal in one chain, more than ${mostBytes}`,
      );
    for (const piece of chain.readable) this.#output(piece.slice());
    return 0;
  }
}
