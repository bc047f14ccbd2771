/** The queues of one device: passes over them are bounded, whatever the driver adds meanwhile. */
import type { GuestRam } from '../devices/device.ts';
import type { Chain } from './chain.ts';
import type { Queues } from './device.ts';
import { RING_EVENT_IDX, RING_INDIRECT_DESC } from './features.ts';
import { Virtqueue } from './queue.ts';

/**
 * Chains in one pass, as a multiple of the queue's size. With event indices a device has to look again before it may
 * wait, and a guest with two processors could keep it looking for ever.
 */
const rounds = 4;

export class QueueSet implements Queues {
  readonly queues: readonly Virtqueue[];
  /** Queues with chains left over by a pass that was cut short: the driver may not tell of them again. */
  readonly unfinished = new Set<number>();
  readonly #interrupted: () => boolean;
  #features = 0n;

  constructor(sizes: readonly number[], interrupted: () => boolean) {
    this.queues = sizes.map((size, index) => new Virtqueue(index, size));
    this.#interrupted = interrupted;
  }

  get features(): bigint {
    return this.#features;
  }

  /** The queue with this number, if the device has it. */
  at(index: number): Virtqueue | undefined {
    return this.queues[index];
  }

  start(queue: Virtqueue, ram: GuestRam, features: bigint): void {
    this.#features = features;
    queue.start(ram, {
      indirect: (features & RING_INDIRECT_DESC) !== 0n,
      eventIndex: (features & RING_EVENT_IDX) !== 0n,
    });
  }

  reset(): void {
    for (const queue of this.queues) queue.reset();
    this.unfinished.clear();
    this.#features = 0n;
  }

  drain(index: number, handle: (chain: Chain) => number, more: () => boolean = () => true): void {
    const queue = this.at(index);
    if (!queue) return;
    this.unfinished.delete(index);
    let left = rounds * queue.size;
    do {
      for (let waiting = queue.waiting; waiting > 0; waiting -= 1) {
        if (left === 0 || this.#interrupted()) {
          this.unfinished.add(index);
          return;
        }
        if (!more()) return;
        left -= 1;
        const chain = queue.take();
        if (!chain) return;
        queue.give(chain.head, handle(chain));
      }
    } while (!queue.expectNext());
  }

  take(index: number): Chain | undefined {
    const queue = this.at(index);
    if (!queue) return undefined;
    return queue.take() ?? (queue.expectNext() ? undefined : queue.take());
  }

  putBack(index: number): void {
    this.at(index)?.putBack();
  }

  give(index: number, { head }: Chain, written: number): void {
    this.at(index)?.give(head, written);
  }

  /** Does the driver want to hear of anything that was given back? */
  wantInterrupt(): boolean {
    let wanted = false;
    for (const queue of this.queues) if (queue.wantsInterrupt()) wanted = true;
    return wanted;
  }
}
