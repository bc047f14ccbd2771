/**
 * virtio-net: a network card (5.1) with one queue to receive (0) and one to transmit (1), and without offloads. A
 * frame goes into one buffer or nowhere: VIRTIO_NET_F_MRG_RXBUF is not offered.
 *
 * Nothing is kept for a driver that gives no buffers: frames stay in the TAP's queue, which has its own end.
 */
import { CarrelError } from '#base/errors.ts';
import type { Chain } from '../chain.ts';
import type { DeviceLink, Queues, VirtioDevice } from '../device.ts';
import { DriverFault } from '../fault.ts';
import { bytesIn, copyIn, cut } from '../pieces.ts';
import { type FramePort, mostFrameBytes, vnetHeaderBytes } from './tap.ts';

// feature bits (5.1.3)
export const MAC = 1n << 5n;
export const STATUS = 1n << 16n;

/** VIRTIO_NET_S_LINK_UP */
const LINK_UP = 1;

const RECEIVE = 0;
const TRANSMIT = 1;
const queueSize = 256;

/** Frames taken in at once, so that the machine's other devices have their turn. */
const burst = 64;

/** An Ethernet header: shorter ones are no frames. */
const leastFrameBytes = 14;

/** What becomes of frames, for whoever operates the machine. */
export interface NetCounters {
  received: number;
  sent: number;
  /** Larger than the buffer that the driver gave. */
  tooLarge: number;
  /** From the driver: no frame by its length, or the wire did not take it. */
  unsent: number;
}

export interface NetOptions {
  readonly port: FramePort;
  /** Six bytes: `02:00:00:00:00:01`. */
  readonly mac: string;
}

export class Net implements VirtioDevice {
  readonly name = 'virtio-net';
  readonly deviceId = 1;
  readonly features = MAC | STATUS;
  readonly queueSizes = [queueSize, queueSize];
  /** struct virtio_net_config (5.1.4): u8 mac[6], le16 status. */
  readonly config = new Uint8Array(8);
  readonly counters: NetCounters = { received: 0, sent: 0, tooLarge: 0, unsent: 0 };
  readonly #port: FramePort;
  #link: DeviceLink | undefined;
  /** The driver has buffers, or nobody has looked since it last said so. */
  #hasBuffers = false;

  constructor({ port, mac }: NetOptions) {
    if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac))
      throw new CarrelError(
        'invalid_request',
        `a hardware address is six bytes such as 02:00:00:00:00:01: ${mac}`,
      );
    this.#port = port;
    this.config.set(Buffer.from(mac.replaceAll(':', ''), 'hex'));
    this.config[6] = LINK_UP;
  }

  attach(link: DeviceLink): void {
    this.#link = link;
  }

  reset(): void {
    this.#hasBuffers = false;
  }

  /** Is a frame of use now? Whoever waits for the TAP to be readable waits only while this says so. */
  get wantsFrames(): boolean {
    return this.#hasBuffers && this.config[6] === LINK_UP;
  }

  notify(queue: number, queues: Queues): void {
    if (queue === TRANSMIT) queues.drain(TRANSMIT, (chain) => this.#transmit(chain));
    else {
      this.#hasBuffers = true;
      this.#receive(queues);
    }
  }

  /**
   * Call when the TAP is readable. At most so many frames as are a burst: a TAP that is polled stays readable, and
   * a driver that is not there leaves them where they are.
   */
  receive(): void {
    if (this.wantsFrames) this.#link?.whileLive((queues) => this.#receive(queues));
  }

  #receive(queues: Queues): void {
    for (let count = 0; count < burst; count += 1) {
      const chain = queues.take(RECEIVE);
      this.#hasBuffers = chain !== undefined;
      if (!chain) return;
      const room = bytesIn(chain.writable) - vnetHeaderBytes;
      if (room < 0)
        throw new DriverFault('request shape', 'a receive buffer without room for the header (5.1.6.3.1)');
      const frame = this.#fitting(room);
      if (!frame) {
        queues.putBack(RECEIVE);
        return;
      }
      queues.give(RECEIVE, chain, this.#deliver(chain, frame));
    }
  }

  /** The next frame that fits, if there is one; the others are lost, and no more of them than are a burst. */
  #fitting(room: number): Uint8Array | undefined {
    for (let count = 0; count < burst && this.config[6] === LINK_UP; count += 1) {
      const frame = this.#port.receive();
      if (frame === undefined) return undefined;
      if (frame === 'gone') this.#linkDown();
      else if (frame.length <= room) return frame;
      else this.counters.tooLarge += 1;
    }
    return undefined;
  }

  /** Header and frame into the buffer; num_buffers is 1, the rest of the header 0 (5.1.6.4.1). */
  #deliver(chain: Chain, frame: Uint8Array): number {
    const header = new Uint8Array(vnetHeaderBytes);
    header[10] = 1;
    copyIn(cut(chain.writable, 0, vnetHeaderBytes), header);
    copyIn(cut(chain.writable, vnetHeaderBytes), frame);
    this.counters.received += 1;
    return vnetHeaderBytes + frame.length;
  }

  /** The driver's header is not looked at: there is no offload that it could ask for (5.1.6.2.1). */
  #transmit(chain: Chain): number {
    const bytes = bytesIn(chain.readable) - vnetHeaderBytes;
    if (bytes < 0) throw new DriverFault('request shape', `a packet without a header (5.1.6.2)`);
    const isFrame = bytes >= leastFrameBytes && bytes <= mostFrameBytes;
    if (isFrame && this.#port.send(cut(chain.readable, vnetHeaderBytes))) this.counters.sent += 1;
    else this.counters.unsent += 1;
    return 0;
  }

  /** The interface was deleted: the driver is told that the cable is out. */
  #linkDown(): void {
    this.config[6] = 0;
    this.#link?.configChanged();
  }
}
